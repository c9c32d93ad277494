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

// Package reaper finds, kills and reaps the processes that the commands of tasks leave behind. Its processes are those
// that descend from this one, and those that earlier processes of a worker have marked.
package reaper

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/klog/v2"

	"github.com/leat-dev/leat/pkg/worker/pressure"
)

const (
	// KillTimeout is how long to wait for killed processes. A process that stays longer is in an uninterruptible system
	// call, and does nothing else once it returns.
	KillTimeout = 10 * time.Second
	// reapInterval is the shortest time between two scans for zombies.
	reapInterval = 100 * time.Millisecond
)

// Reaper looks after orphans. As a child subreaper, or as the first process of a container, this process becomes the
// parent of processes that its commands leave behind. The reaper reaps those that are dead, and kills those of a
// command that has ended.
//
// Commands start in sessions of their own. So a child in another session than this process is a command or an orphan.
// All other children were started by other parts of this program, which wait for them: the reaper leaves those alone.
type Reaper struct {
	startMu sync.RWMutex // held for reading while a command starts and is not yet in commands
	// commands holds the processes that Start has started and Forget has not removed.
	commands   map[int]bool
	commandsMu sync.Mutex // guards commands

	scanMu sync.Mutex // held during a scan
	// listChildren returns at least the adopted children of this process.
	listChildren func(self int) ([]int, error)

	usersMu sync.Mutex // guards the fields below
	users   int
	stop    func()
}

// New returns a reaper that does not run yet.
func New() *Reaper {
	return &Reaper{commands: map[int]bool{}, listChildren: adoptedChildren}
}

// Start calls start, which starts a command and returns its process ID. The caller must wait for the command and then
// call Forget; the reaper does not reap it.
func (r *Reaper) Start(start func() (pid int, err error)) (pid int, err error) {
	r.startMu.RLock()
	defer r.startMu.RUnlock()
	if pid, err = start(); err != nil {
		return 0, err
	}
	r.commandsMu.Lock()
	r.commands[pid] = true
	r.commandsMu.Unlock()
	return pid, nil
}

// Forget removes a command after it was reaped.
func (r *Reaper) Forget(pid int) {
	r.commandsMu.Lock()
	delete(r.commands, pid)
	r.commandsMu.Unlock()
}

// isCommand reports whether the process is a command.
func (r *Reaper) isCommand(pid int) bool {
	r.commandsMu.Lock()
	defer r.commandsMu.Unlock()
	return r.commands[pid]
}

// Acquire makes this process adopt and reap orphans until each user has called its release.
func (r *Reaper) Acquire() (release func()) {
	r.usersMu.Lock()
	defer r.usersMu.Unlock()
	if r.users++; r.users == 1 {
		r.stop = r.run()
	}
	return sync.OnceFunc(func() {
		r.usersMu.Lock()
		defer r.usersMu.Unlock()
		if r.users--; r.users == 0 {
			r.stop()
		}
	})
}

// run makes this process a child subreaper and starts to reap orphans.
func (r *Reaper) run() (stop func()) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		klog.Background().Error(err, "Failed to become a child subreaper; processes that commands leave behind are not adopted")
	}
	childDied, stopped := make(chan os.Signal, 1), make(chan struct{})
	signal.Notify(childDied, unix.SIGCHLD)
	var loop sync.WaitGroup
	loop.Go(func() {
		for limit := time.NewTicker(reapInterval); ; {
			select {
			case <-childDied:
				r.scan(nil)
			case <-stopped:
				limit.Stop()
				return
			}
			select {
			case <-limit.C:
			case <-stopped:
			}
		}
	})
	return func() {
		signal.Stop(childDied)
		close(stopped)
		loop.Wait()
		r.scan(nil)
		_ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
	}
}

// KillRemaining kills the processes that a command has left behind: those in its session and, unless mark is empty,
// those with the mark in their environment. It does not find a process that has left the session and has cleared its
// environment. The command must have ended and must not be reaped yet: until then no other session can get its
// number.
func (r *Reaper) KillRemaining(session int, mark string) error {
	belongs := func(pid int, s procfs.ProcStat) (bool, error) {
		if s.Session == session || mark == "" {
			return s.Session == session, nil
		}
		return hasEnv(pid, mark)
	}
	// Processes that are killed leave orphans behind in turn. A list of children may lack one while another part of the
	// program reaps its own. So two scans in a row must find nothing.
	err := wait.PollUntilContextTimeout(context.Background(), 2*time.Millisecond, KillTimeout, true, func(context.Context) (bool, error) {
		for range 2 {
			if r.scan(belongs) {
				return false, nil
			}
		}
		return true, nil
	})
	if err != nil {
		return fmt.Errorf("processes of the command are left after they were killed: %w", err)
	}
	return nil
}

// scan looks once at the orphans of this process. It reaps those that are dead and kills those that match. It returns
// true if there were any such, if any is about to die, or if this process lacks the descriptors to look.
func (r *Reaper) scan(match func(pid int, s procfs.ProcStat) (bool, error)) (found bool) {
	// Another scan must not reap a listed orphan meanwhile: this scan would miss the children that it has left.
	r.scanMu.Lock()
	defer r.scanMu.Unlock()
	self := os.Getpid()
	session, _ := unix.Getsid(0)
	adopted := func(pid int) (s procfs.ProcStat, ok bool) {
		s, err := readStat(pid)
		found = found || pressure.Reason(err) != ""
		return s, err == nil && s.PPID == self && s.Session != session
	}
	var candidates []int
	children, err := r.listChildren(self)
	found = pressure.Reason(err) != ""
	for _, pid := range children {
		if r.isCommand(pid) {
			continue // not even read: many commands may run beside the one that has ended
		}
		if s, ok := adopted(pid); ok && (isDead(s) || match != nil) {
			candidates = append(candidates, pid)
		}
	}
	if len(candidates) == 0 {
		return found
	}
	// With this lock no command is starting: a process that is not in commands is none. An orphan keeps its number
	// until it is reaped, which only this function does.
	r.startMu.Lock()
	defer r.startMu.Unlock()
	for _, pid := range candidates {
		s, ok := adopted(pid)
		switch {
		case !ok || r.isCommand(pid):
		case isDead(s):
			_, err := unix.Wait4(pid, nil, unix.WNOHANG, nil)
			found = found || err == nil
		case isExiting(s):
			found = true
		case match != nil:
			matches, err := match(pid, s)
			if matches {
				_ = unix.Kill(pid, unix.SIGKILL)
			}
			found = found || matches || pressure.Reason(err) != ""
		}
	}
	return found
}

// adoptedChildren lists at least the adopted children of this process.
func adoptedChildren(self int) ([]int, error) {
	// The kernel lists children by the thread that has them, and hands orphans to the first thread. The file is
	// optional.
	list, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", self, self))
	if err != nil {
		return allProcesses()
	}
	var pids []int
	for field := range bytes.FieldsSeq(list) {
		if pid, err := strconv.Atoi(string(field)); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}
