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

// Package process runs the command of one attempt at a task, and kills what is left of it when it has ended.
package process

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/leat-dev/leat/pkg/worker/cgroup"
	"github.com/leat-dev/leat/pkg/worker/logs"
	"github.com/leat-dev/leat/pkg/worker/pressure"
	"github.com/leat-dev/leat/pkg/worker/reaper"
)

// outputDelay is how long output is still read after a command has ended. Its remaining processes are killed by then,
// but one that was not found may hold the pipe open.
const outputDelay = 500 * time.Millisecond

// exitCodeKilled is the exit code of a command that SIGKILL ended, and of a shell whose last command SIGKILL ended.
const exitCodeKilled = 128 + 9

// Command is the command of one attempt, ready to be started.
type Command struct {
	Argv []string
	Dir  string // empty is that of this process
	Env  []string

	Err         error         // why the command cannot be started, or nil
	Mark        string        // an entry of Env that is unique to the attempt
	Cgroup      *cgroup.Group // to start in, or nil
	OOMScoreAdj int64         // zero does not change it
	Log         *logs.Log     // for the output; nil discards it
}

// Process is a running command, the leader of its own session. Its methods are safe for concurrent use and do not
// block.
type Process struct {
	// done is closed when the command has ended, its remaining processes were killed and its output was read.
	done      chan struct{}
	oomKilled bool // set once done is closed

	reaper *reaper.Reaper
	cmd    *exec.Cmd
	mark   string
	cgroup *cgroup.Group // nil without one
	output Tail
	log    *logs.Log

	mu      sync.Mutex
	ended   bool // the process group is gone, and another may get its number
	kill    *time.Timer
	killsAt time.Time
}

// Start starts a command. It kills and removes the control group of the command once the command has ended, or
// if it does not start.
func Start(r *reaper.Reaper, c Command) (_ *Process, failed *StartError) {
	defer func() {
		if failed != nil && c.Cgroup != nil {
			_, _ = c.Cgroup.KillAndRemove()
		}
	}()
	if c.Err != nil {
		return nil, &StartError{126, c.Err}
	}
	if c.Dir != "" {
		if err := checkDir(c.Dir); err != nil {
			return nil, newStartError(c, err)
		}
	}
	p := &Process{reaper: r, done: make(chan struct{}), mark: c.Mark, cgroup: c.Cgroup, log: c.Log}
	err := p.start(c)
	if err != nil && p.cgroup != nil && !pressure.IsTransient(err) {
		// A container may allow to create groups and yet forbid to start a process in one.
		p.cgroup = nil
		if err = p.start(c); err == nil {
			klog.Background().Info("Started the command outside of its control group")
			_, _ = c.Cgroup.KillAndRemove()
		}
	}
	if err != nil {
		return nil, newStartError(c, err)
	}
	if c.OOMScoreAdj != 0 {
		file := fmt.Sprintf("/proc/%d/oom_score_adj", p.cmd.Process.Pid)
		_ = os.WriteFile(file, []byte(strconv.FormatInt(c.OOMScoreAdj, 10)), 0)
	}
	go p.wait()
	return p, nil
}

func (p *Process) start(c Command) error {
	p.cmd = exec.Command(c.Argv[0], c.Argv[1:]...)
	p.cmd.Dir, p.cmd.Env = c.Dir, c.Env
	output := io.MultiWriter(&p.output, p.log)
	p.cmd.Stdout, p.cmd.Stderr = output, output
	p.cmd.WaitDelay = outputDelay
	p.cmd.SysProcAttr = &syscall.SysProcAttr{
		// The process group has the same number as the session.
		Setsid: true,
		// The kernel sends it when the thread that started the command ends. Threads of Go end with the process, except
		// those that a goroutine has locked and not unlocked; no linked package does that.
		Pdeathsig: syscall.SIGKILL,
	}
	if p.cgroup != nil {
		p.cmd.SysProcAttr.UseCgroupFD, p.cmd.SysProcAttr.CgroupFD = true, p.cgroup.FD()
	}
	return p.reaper.Start(p.cmd)
}

func (p *Process) wait() {
	defer close(p.done)
	pid := p.cmd.Process.Pid
	// Kill the group before the command is reaped: until then no other group can get its number.
	for unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
	}
	p.mu.Lock()
	p.ended = true
	if p.kill != nil {
		p.kill.Stop()
	}
	_ = unix.Kill(-pid, unix.SIGKILL)
	p.mu.Unlock()
	var err error
	if p.cgroup != nil {
		p.oomKilled, err = p.cgroup.KillAndRemove()
	} else {
		err = p.reaper.KillRemaining(pid, p.mark)
	}
	if err != nil {
		klog.Background().Error(err, "Failed to kill the remaining processes of a command that has ended")
	}
	// The error has nothing that ProcessState lacks, except that reading the output was given up.
	_ = p.cmd.Wait()
	p.reaper.Forget(p.cmd)
	// Perhaps only a child was killed, and the command went on without it.
	if code, _ := p.ExitStatus(); code != exitCodeKilled {
		p.oomKilled = false
	}
}

// Done returns a channel that is closed when the command has ended, its remaining processes were killed and its output
// was read.
func (p *Process) Done() <-chan struct{} { return p.done }

// PID returns the process ID of the command.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Output returns the end of the output. The process must be done.
func (p *Process) Output() string { return p.output.String() }

// MissingOutput returns why the last output was not logged, or nil if it was.
func (p *Process) MissingOutput() error { return p.log.Missing() }

// OOMKilled reports whether the command was killed because memory ran out. The process must be done.
func (p *Process) OOMKilled() bool { return p.oomKilled }

// Terminate sends SIGTERM to the process group, once, and SIGKILL after the grace period. A later call can shorten the
// period but not extend it. Without a grace period SIGKILL is sent at once.
func (p *Process) Terminate(gracePeriod time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return
	}
	if gracePeriod <= 0 {
		_ = unix.Kill(-p.cmd.Process.Pid, unix.SIGKILL)
		return
	}
	at := time.Now().Add(gracePeriod)
	switch {
	case p.kill == nil:
		_ = unix.Kill(-p.cmd.Process.Pid, unix.SIGTERM)
		p.kill = time.AfterFunc(gracePeriod, func() { p.Terminate(0) })
		p.killsAt = at
	case at.Before(p.killsAt):
		p.kill.Reset(gracePeriod)
		p.killsAt = at
	}
}

// ExitStatus returns the exit code of the command, and the signal that ended it or zero. The process must be done.
func (p *Process) ExitStatus() (code, signal int32) {
	if p.cmd.ProcessState == nil {
		return -1, 0 // another part of the program has reaped it
	}
	status := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if status.Signaled() {
		return 128 + int32(status.Signal()), int32(status.Signal())
	}
	return int32(status.ExitStatus()), 0
}
