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

	"golang.org/x/sys/unix"

	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/host"
)

// slowDisk delays fsync and fdatasync of processes. The kernel asks the test before each of these system calls
// (seccomp_unotify(2)), which needs no privileges.
type slowDisk struct {
	// delay is the delay of each sync in nanoseconds. It may change at any time.
	delay atomic.Int64
	// syncs counts the syncs.
	syncs atomic.Int64
}

// programVariable names the program that the test binary executes instead of the tests, and socketVariable the socket
// to which it sends its seccomp listener.
const programVariable, socketVariable = "LEAT_TEST_SLOW_PROGRAM", "LEAT_TEST_SLOW_SOCKET"

func TestMain(m *testing.M) {
	if program := os.Getenv(programVariable); program != "" {
		fmt.Fprintln(os.Stderr, execSlow(program, os.Getenv(socketVariable)))
		os.Exit(1)
	}
	m.Run()
}

// execSlow installs a seccomp filter, sends its listener to the socket, and executes the program. It returns only on
// an error.
func execSlow(program, socket string) error {
	// A filter belongs to a thread. The program continues on the thread that calls exec.
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
	listener, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, uintptr(unsafe.Pointer(&filter)))
	if errno != 0 {
		return fmt.Errorf("seccomp: %w", errno)
	}
	connection, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: socket})
	if err != nil {
		return err
	}
	if _, _, err := connection.WriteMsgUnix([]byte{0}, unix.UnixRights(int(listener)), nil); err != nil {
		return err
	}
	return syscall.Exec(program, append([]string{program}, os.Args[1:]...), os.Environ())
}

// wrap returns the command with a slow disk, until the test ends. It may be started several times.
func (d *slowDisk) wrap(t testing.TB, command host.Command) host.Command {
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
			notifications, err := receiveFile(connection)
			if err != nil {
				t.Errorf("receiving a seccomp listener: %v", err)
				continue
			}
			serving.Go(func() {
				defer unix.Close(notifications)
				if err := d.serve(ctx, notifications); err != nil {
					t.Errorf("serving a seccomp listener: %v", err)
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
	command.Env = append(command.Env, programVariable+"="+command.Path, socketVariable+"="+socket)
	command.Path = kit.Must(os.Executable())(t)
	return command
}

// receiveFile receives a file descriptor.
func receiveFile(connection *net.UnixConn) (int, error) {
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
		return 0, fmt.Errorf("got %d control messages, want 1", len(messages))
	}
	files, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return 0, err
	}
	return files[0], nil
}

// notification is struct seccomp_notif, and response is struct seccomp_notif_resp.
type notification struct {
	id         uint64
	pid, flags uint32
	data       [64]byte
}

type response struct {
	id    uint64
	value int64
	errno int32
	flags uint32
}

// serve responds to each notification of a listener after the delay, until the process or the context ends.
func (d *slowDisk) serve(ctx context.Context, listener int) error {
	var responses sync.WaitGroup
	defer responses.Wait()
	for ctx.Err() == nil {
		poll := []unix.PollFd{{Fd: int32(listener), Events: unix.POLLIN}}
		if _, err := unix.Poll(poll, 100); err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		if poll[0].Revents&unix.POLLHUP != 0 {
			return nil
		}
		if poll[0].Revents&unix.POLLIN == 0 {
			continue
		}
		var n notification
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(listener), unix.SECCOMP_IOCTL_NOTIF_RECV, uintptr(unsafe.Pointer(&n))); errno != 0 {
			if errno == unix.ENOENT || errno == unix.EINTR {
				continue // the process was killed
			}
			return errno
		}
		d.syncs.Add(1)
		responses.Go(func() {
			select {
			case <-time.After(time.Duration(d.delay.Load())):
			case <-ctx.Done():
			}
			r := response{id: n.id, flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}
			// An error means that the process is gone, or that a signal interrupted the call and it is repeated.
			_, _, _ = unix.Syscall(unix.SYS_IOCTL, uintptr(listener), unix.SECCOMP_IOCTL_NOTIF_SEND, uintptr(unsafe.Pointer(&r)))
		})
	}
	return nil
}
