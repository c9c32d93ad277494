/*
Copyright The Leat Authors.

Licensed under the Apache License, Version 2.0 (the "License");
you may not use this file except in compliance with the License.
You may obtain a copy of the License at

    http://www.apache.org/licenses/LICENSE-2.0

Unless required by applicable law or agreed to in writing, software
distributed under the License is distributed on an "AS IS" BASIS,
WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
See the License for the specific language governing permissions and
limitations under the License.
*/

package durability

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/leat-dev/leat/test/kit"

	"golang.org/x/sys/unix"

	"github.com/leat-dev/leat/test/kit/host"
)

// disk makes each fsync and fdatasync of the processes that it is given take longer, as on a disk that is slow: nothing else they do.
// The kernel asks us before it begins one (seccomp_unotify(2)), which needs no rights.
type disk struct {
	// delay is how much longer, in nanoseconds, from now on.
	delay atomic.Int64
	// syncs is how many there were.
	syncs atomic.Int64
}

// slowProgram names, to this program, the one that it is to become, and slowSocket where it hands over who is asked.
const slowProgram, slowSocket = "LEAT_TEST_SLOW_PROGRAM", "LEAT_TEST_SLOW_SOCKET"

func TestMain(m *testing.M) {
	if program := os.Getenv(slowProgram); program != "" {
		fmt.Fprintln(os.Stderr, become(program, os.Getenv(slowSocket)))
		os.Exit(1)
	}
	m.Run()
}

// become gives this process to the disk behind the socket, and to a program. It returns only if it can not.
func become(program, socket string) error {
	// What is filtered is a thread, and the one that calls exec is what the program begins with.
	runtime.LockOSThread()
	const number = 0 // the offset in struct seccomp_data
	instructions := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: number},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_FSYNC, Jt: 1},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_FDATASYNC, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_USER_NOTIF},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	filter := unix.SockFprog{Len: uint16(len(instructions)), Filter: &instructions[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	asked, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, uintptr(unsafe.Pointer(&filter)))
	if errno != 0 {
		return fmt.Errorf("seccomp: %w", errno)
	}
	connection, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: socket})
	if err != nil {
		return err
	}
	if _, _, err := connection.WriteMsgUnix([]byte{0}, unix.UnixRights(int(asked)), nil); err != nil {
		return err
	}
	return syscall.Exec(program, append([]string{program}, os.Args[1:]...), os.Environ())
}

// slow makes a command one whose disk is slow, each time it is started, until the test ends.
func (d *disk) slow(t testing.TB, command host.Command) host.Command {
	t.Helper()
	dir := kit.Must(os.MkdirTemp("", "leat-disk-"))(t) // the path of a socket must be short
	socket := filepath.Join(dir, "socket")
	listener := kit.Must(net.ListenUnix("unix", &net.UnixAddr{Name: socket}))(t)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			connection, err := listener.AcceptUnix()
			if err != nil {
				return // the listener is closed
			}
			asked, err := receive(connection)
			if err != nil {
				t.Errorf("the process did not hand over who is asked: %v", err)
				continue
			}
			serving.Go(func() {
				defer unix.Close(asked)
				if err := d.serve(ctx, asked); err != nil {
					t.Errorf("slowing down a disk: %v", err)
				}
			})
		}
	})
	t.Cleanup(func() {
		cancel()
		kit.Check(t, listener.Close())
		serving.Wait()
		kit.Check(t, os.RemoveAll(dir))
	})
	command.Env = append(command.Env, slowProgram+"="+command.Path, slowSocket+"="+socket)
	command.Path = kit.Must(os.Executable())(t)
	return command
}

// receive takes a file descriptor.
func receive(connection *net.UnixConn) (int, error) {
	defer connection.Close()
	message := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := connection.ReadMsgUnix(make([]byte, 1), message)
	if err != nil {
		return 0, err
	}
	messages, err := unix.ParseSocketControlMessage(message[:n])
	if err != nil {
		return 0, err
	}
	if len(messages) != 1 {
		return 0, fmt.Errorf("%d messages", len(messages))
	}
	files, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return 0, err
	}
	return files[0], nil
}

// question and answer are struct seccomp_notif and seccomp_notif_resp.
type question struct {
	id         uint64
	pid, flags uint32
	data       [64]byte
}

type answer struct {
	id    uint64
	value int64
	errno int32
	flags uint32
}

// serve answers questions, each when its time has come, until the process or the context ends.
func (d *disk) serve(ctx context.Context, asked int) error {
	var answering sync.WaitGroup
	defer answering.Wait()
	for ctx.Err() == nil {
		poll := []unix.PollFd{{Fd: int32(asked), Events: unix.POLLIN}}
		if _, err := unix.Poll(poll, 100); err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		if poll[0].Revents&unix.POLLHUP != 0 {
			return nil
		}
		if poll[0].Revents&unix.POLLIN == 0 {
			continue
		}
		var q question
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(asked), unix.SECCOMP_IOCTL_NOTIF_RECV, uintptr(unsafe.Pointer(&q))); errno != 0 {
			if errno == unix.ENOENT || errno == unix.EINTR {
				continue // who asked was killed
			}
			return errno
		}
		d.syncs.Add(1)
		answering.Go(func() {
			select {
			case <-time.After(time.Duration(d.delay.Load())):
			case <-ctx.Done():
			}
			a := answer{id: q.id, flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}
			// Who asked may be gone by now, or have been interrupted, and ask again.
			_, _, _ = unix.Syscall(unix.SYS_IOCTL, uintptr(asked), unix.SECCOMP_IOCTL_NOTIF_SEND, uintptr(unsafe.Pointer(&a)))
		})
	}
	return nil
}
