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

	"github.com/leat-dev/leat/pkg/worker/logs"
	"github.com/leat-dev/leat/pkg/worker/pressure"
)

// outputDelay is how long output is still read after a command has ended. Its remaining processes are killed by then,
// but one that was not found may hold the pipe open.
const outputDelay = 500 * time.Millisecond

// process is a running command, the leader of its own session. Its methods are safe for concurrent use and do not
// block.
type process struct {
	// done is closed when the command has ended, its remaining processes were killed and its output was read.
	done chan struct{}
	// oomKilled is whether the command was killed because memory ran out. It is set once done is closed.
	oomKilled bool

	cmd    *exec.Cmd
	mark   string
	cgroup *cgroup // nil without one
	output tail
	log    *logs.Log

	mu      sync.Mutex
	ended   bool // the process group is gone, and another may get its number
	kill    *time.Timer
	killsAt time.Time
}

// startProcess starts a command. It kills and removes the control group of the command once the command has ended, or
// if it does not start.
func startProcess(c command) (_ *process, failed *startError) {
	defer func() {
		if failed != nil && c.cgroup != nil {
			_, _ = c.cgroup.killAndRemove()
		}
	}()
	if c.tooLong {
		return nil, &startError{126, fmt.Errorf(
			"command, args and env have more than %d bytes once references are expanded: refer to less", maxExpanded)}
	}
	if c.dir != "" {
		if err := checkDir(c.dir); err != nil {
			return nil, newStartError(c, err)
		}
	}
	p := &process{done: make(chan struct{}), mark: c.mark, cgroup: c.cgroup, log: c.log}
	err := p.start(c)
	if err != nil && p.cgroup != nil && !pressure.IsTransient(err) {
		// A container may allow to create groups and yet forbid to start a process in one.
		p.cgroup = nil
		if err = p.start(c); err == nil {
			klog.Background().Info("Started the command outside of its control group")
			_, _ = c.cgroup.killAndRemove()
		}
	}
	if err != nil {
		return nil, newStartError(c, err)
	}
	if c.oomScoreAdj != 0 {
		file := fmt.Sprintf("/proc/%d/oom_score_adj", p.cmd.Process.Pid)
		_ = os.WriteFile(file, []byte(strconv.FormatInt(c.oomScoreAdj, 10)), 0)
	}
	go p.wait()
	return p, nil
}

func (p *process) start(c command) error {
	p.cmd = exec.Command(c.argv[0], c.argv[1:]...)
	p.cmd.Dir, p.cmd.Env = c.dir, c.env
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
		p.cmd.SysProcAttr.UseCgroupFD, p.cmd.SysProcAttr.CgroupFD = true, int(p.cgroup.handle.Fd())
	}
	return children.start(p.cmd)
}

func (p *process) wait() {
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
		p.oomKilled, err = p.cgroup.killAndRemove()
	} else {
		err = children.killRemaining(pid, p.mark)
	}
	if err != nil {
		klog.Background().Error(err, "Failed to kill the remaining processes of a command that has ended")
	}
	// The error has nothing that ProcessState lacks, except that reading the output was given up.
	_ = p.cmd.Wait()
	children.forget(p.cmd)
	// Perhaps only a child was killed, and the command went on without it.
	if code, _ := p.exitStatus(); code != exitCodeKilled {
		p.oomKilled = false
	}
}

// terminate sends SIGTERM to the process group, once, and SIGKILL after the grace period. A later call can shorten the
// period but not extend it. Without a grace period SIGKILL is sent at once.
func (p *process) terminate(gracePeriod time.Duration) {
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
		p.kill = time.AfterFunc(gracePeriod, func() { p.terminate(0) })
		p.killsAt = at
	case at.Before(p.killsAt):
		p.kill.Reset(gracePeriod)
		p.killsAt = at
	}
}

// exitStatus returns the exit code of the command, and the signal that ended it or zero. done must be closed.
func (p *process) exitStatus() (code, signal int32) {
	if p.cmd.ProcessState == nil {
		return -1, 0 // another part of the program has reaped it
	}
	status := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if status.Signaled() {
		return 128 + int32(status.Signal()), int32(status.Signal())
	}
	return int32(status.ExitStatus()), 0
}
