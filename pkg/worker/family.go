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

package worker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/klog/v2"
)

const (
	// killTimeout is how long killed processes are waited for. One that the kernel keeps longer, in a system call that
	// cannot be interrupted, does nothing any more but to return from that.
	killTimeout = 10 * time.Second
	// reapInterval is the shortest time between two looks for processes to reap that nobody waits for.
	reapInterval = 100 * time.Millisecond
)

// children is what this process knows of its children.
var children = &family{commands: map[int]bool{}, list: childrenOf}

// family looks after the children of this process that it has not started: as a child subreaper, or as the first process of a
// container, it becomes the parent of what the commands have left behind. Of those that nobody waits for it leaves none a zombie, and
// it finds and kills those of an attempt that has ended.
//
// Commands are started in sessions of their own, so a child in another session than this process is a command or was left behind
// by one. All other children are those that other parts of this program have started, and wait for: they are left alone.
type family struct {
	mu sync.RWMutex // held to read from before a command is started until it is known
	// commands are the processes that were started by start and not yet forgotten.
	commands map[int]bool
	known    sync.Mutex // guards commands

	passing sync.Mutex // held for one pass
	// list returns at least the adopted children of this process.
	list func(self int) ([]int, error)

	users sync.Mutex // guards the fields below
	count int
	leave func()
}

// start starts a command, which nobody but its caller reaps until forget is called.
func (f *family) start(cmd *exec.Cmd) error {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if err := cmd.Start(); err != nil {
		return err
	}
	f.known.Lock()
	f.commands[cmd.Process.Pid] = true
	f.known.Unlock()
	return nil
}

// forget is to be called for each command that was started, once it was reaped.
func (f *family) forget(cmd *exec.Cmd) {
	f.known.Lock()
	delete(f.commands, cmd.Process.Pid)
	f.known.Unlock()
}

// isCommand says whether the process is known as a command.
func (f *family) isCommand(pid int) bool {
	f.known.Lock()
	defer f.known.Unlock()
	return f.commands[pid]
}

// adopt makes this process the parent of what its commands leave behind, and has the dead among them reaped, until release is
// called as often as adopt.
func (f *family) adopt() (release func()) {
	f.users.Lock()
	defer f.users.Unlock()
	if f.count++; f.count == 1 {
		f.leave = f.become()
	}
	return sync.OnceFunc(func() {
		f.users.Lock()
		defer f.users.Unlock()
		if f.count--; f.count == 0 {
			f.leave()
		}
	})
}

func (f *family) become() (leave func()) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		klog.Background().Error(err, "Processes that leave the commands of tasks behind cannot be adopted")
	}
	died, stop := make(chan os.Signal, 1), make(chan struct{})
	signal.Notify(died, unix.SIGCHLD)
	var reaper sync.WaitGroup
	reaper.Go(func() {
		for pause := time.NewTicker(reapInterval); ; {
			select {
			case <-died:
				f.pass(nil)
			case <-stop:
				pause.Stop()
				return
			}
			select {
			case <-pause.C:
			case <-stop:
			}
		}
	})
	return func() {
		signal.Stop(died)
		close(stop)
		reaper.Wait()
		f.pass(nil)
		_ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
	}
}

// sweep kills what a command has left behind: its session, and all whose environment has the mark, unless that is empty. What has left
// the session and has changed its environment as well is not found. The command must have ended, and must not have been reaped yet: so long its
// number is that of no other session.
func (f *family) sweep(session int, mark string) error {
	belongs := func(pid int, s processStat) (bool, error) {
		if s.session == session || mark == "" {
			return s.session == session, nil
		}
		return hasEnv(pid, mark)
	}
	// Those that are killed leave others behind. The list of children can lack one while another part of this program reaps its own,
	// so that a second look has to find none as well.
	err := wait.PollUntilContextTimeout(context.Background(), 2*time.Millisecond, killTimeout, true, func(context.Context) (bool, error) {
		for range 2 {
			if f.pass(belongs) {
				return false, nil
			}
		}
		return true, nil
	})
	if err != nil {
		return fmt.Errorf("not all that the command has left behind is killed: %w", err)
	}
	return nil
}

// pass looks once at the children that were left behind: it reaps those that are dead, and kills those that match. It
// reports whether there were any such, or any that are about to be dead. A process that lacks the descriptors to look
// has not seen that there are none.
func (f *family) pass(match func(pid int, s processStat) (bool, error)) (found bool) {
	// One that is listed is not reaped meanwhile: whoever misses it would miss the children that it has left when it ended.
	f.passing.Lock()
	defer f.passing.Unlock()
	self := os.Getpid()
	session, _ := unix.Getsid(0)
	adopted := func(pid int) (s processStat, ok bool) {
		s, err := statOf(pid)
		found = found || shortage(err) != ""
		return s, err == nil && s.parent == self && s.session != session
	}
	var candidates []int
	children, err := f.list(self)
	found = shortage(err) != ""
	for _, pid := range children {
		if f.isCommand(pid) {
			continue // it is none, and not even looked at: many may run beside the one whose end it is
		}
		if s, ok := adopted(pid); ok && (s.dead() || match != nil) {
			candidates = append(candidates, pid)
		}
	}
	if len(candidates) == 0 {
		return found
	}
	// Nothing is being started now: what is not known as a command is none. A child keeps its number until it is reaped, which
	// for those that are none happens only here.
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, pid := range candidates {
		s, ok := adopted(pid)
		switch {
		case !ok || f.isCommand(pid):
		case s.dead():
			_, err := unix.Wait4(pid, nil, unix.WNOHANG, nil)
			found = found || err == nil
		case s.ending():
			found = true
		case match != nil:
			matches, err := match(pid, s)
			if matches {
				_ = unix.Kill(pid, unix.SIGKILL)
			}
			found = found || matches || shortage(err) != ""
		}
	}
	return found
}

// childrenOf lists at least the adopted children of this process.
func childrenOf(self int) ([]int, error) {
	// The kernel lists children by the thread that has them, and hands orphans to the first one. It need not have the file.
	list, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", self, self))
	if err != nil {
		return processes()
	}
	var pids []int
	for field := range bytes.FieldsSeq(list) {
		if pid, err := strconv.Atoi(string(field)); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// processes lists all processes of the machine, or of the container.
func processes() ([]int, error) {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	var pids []int
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids, err
}

// processStat is a part of what /proc tells of a process.
type processStat struct {
	state           byte
	parent, session int
	started         uint64 // in clock ticks since the machine was started
	size            uint64 // of its memory, in bytes
}

// dead says whether nothing of the process runs any more.
func (s processStat) dead() bool { return s.state == 'Z' || s.state == 'X' }

// ending says whether the process is about to be dead. Its environment has gone already, its children have not been handed over yet.
func (s processStat) ending() bool { return !s.dead() && s.size == 0 }

func statOf(pid int) (processStat, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return processStat{}, err
	}
	return parseStat(text)
}

// parseStat reads the line of proc_pid_stat(5). The name of the program in it can hold anything, parentheses and spaces too.
func parseStat(text []byte) (processStat, error) {
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	if len(fields) < 21 || len(fields[0]) != 1 {
		return processStat{}, fmt.Errorf("not the state of a process: %.100q", text)
	}
	s := processStat{state: fields[0][0]}
	var errs [4]error
	s.parent, errs[0] = strconv.Atoi(string(fields[1]))
	s.session, errs[1] = strconv.Atoi(string(fields[3]))
	s.started, errs[2] = strconv.ParseUint(string(fields[19]), 10, 64)
	s.size, errs[3] = strconv.ParseUint(string(fields[20]), 10, 64)
	return s, errors.Join(errs[:]...)
}

// hasEnv reports whether the environment that the process was started with has the entry.
func hasEnv(pid int, entry string) (bool, error) {
	env, err := environment(pid)
	for e := range bytes.SplitSeq(env, []byte{0}) {
		if string(e) == entry {
			return true, nil
		}
	}
	return false, err
}

// environment is that which the process was started with, each entry followed by a zero byte.
func environment(pid int) ([]byte, error) {
	// Of a process that replaces its program in the meantime nothing is read.
	for range 3 {
		if env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid)); err != nil || len(env) > 0 {
			return env, err
		}
	}
	return nil, nil
}

// markVariable is in the environment of all commands. It says whose they are.
const markVariable = "LEAT_PROCESS"

// owner identifies a worker process on a machine: by its PID namespace, its number and its start, so that one that has ended is told
// from another that has got its number.
type owner struct {
	namespace string
	pid       int
	started   uint64
}

// self is the owner that this process is.
func self() (owner, error) {
	s, err := statOf(os.Getpid())
	return owner{pidNamespace(), os.Getpid(), s.started}, err
}

func pidNamespace() string {
	link, _ := os.Readlink("/proc/self/ns/pid")
	return strings.Trim(link, "pid:[]")
}

func (o owner) String() string { return fmt.Sprintf("%s-%d-%d", o.namespace, o.pid, o.started) }

// parseOwner is the inverse of owner.String.
func parseOwner(text string) (o owner, ok bool) {
	parts := strings.Split(text, "-")
	if len(parts) != 3 || parts[0] == "" {
		return owner{}, false
	}
	pid, err1 := strconv.Atoi(parts[1])
	started, err2 := strconv.ParseUint(parts[2], 10, 64)
	return owner{parts[0], pid, started}, err1 == nil && err2 == nil
}

// visible reports whether the owner, if it lives, can be seen from here: processes of other PID namespaces cannot.
func (o owner) visible() bool { return o.namespace == pidNamespace() }

// ended reports whether text is an owner that has certainly ended.
func ended(text string) bool {
	o, ok := parseOwner(text)
	if !ok || !o.visible() {
		return false
	}
	s, err := statOf(o.pid)
	return errors.Is(err, os.ErrNotExist) || err == nil && (s.started != o.started || s.dead())
}

// orphaned says whether an entry of an environment marks a process as one of a worker of that identity whose process has ended.
func orphaned(entry, identity string) bool {
	mark, ok := strings.CutPrefix(entry, markVariable+"=")
	if !ok {
		return false
	}
	// <owner>/<namespace>/<name>/<task>/<attempt>
	by, rest, _ := strings.Cut(mark, "/")
	return strings.HasPrefix(rest, identity+"/") && ended(by)
}

// killOrphans kills what is left of the commands of earlier processes of a worker, by the marks in their environments, and waits
// until it is gone.
func killOrphans(ctx context.Context, identity string) error {
	var left []int
	err := wait.PollUntilContextTimeout(ctx, 5*time.Millisecond, killTimeout, true, func(context.Context) (bool, error) {
		all, err := processes()
		if err != nil {
			return false, err
		}
		left = slices.DeleteFunc(all, func(pid int) bool {
			// By this handle it is killed and not another one that has got its number since.
			handle, err := unix.PidfdOpen(pid, 0)
			if err != nil {
				return true
			}
			defer unix.Close(handle)
			env, _ := environment(pid)
			for entry := range bytes.SplitSeq(env, []byte{0}) {
				if orphaned(string(entry), identity) {
					_ = unix.PidfdSendSignal(handle, unix.SIGKILL, nil, 0)
					return false
				}
			}
			return true
		})
		return len(left) == 0, nil
	})
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("processes %v, of tasks of an earlier process of this worker, do not end although they were killed", left)
	}
	return err
}

// forOrphans calls own for each directory in parent that a process of the worker with that prefix has left when it ended, and others for
// those of processes of other workers.
func forOrphans(parent, prefix string, own, others func(dir string) error) error {
	dirs, err := filepath.Glob(filepath.Join(parent, "leat-*-*-*-*.*"))
	errs := []error{err}
	for _, dir := range dirs {
		name := filepath.Base(dir)
		by, _, _ := strings.Cut(name[min(len(prefix)+1, len(name)):], ".")
		switch {
		case !ended(by):
		case strings.HasPrefix(name, prefix+"-"):
			errs = append(errs, own(dir))
		default:
			errs = append(errs, others(dir))
		}
	}
	return errors.Join(errs...)
}
