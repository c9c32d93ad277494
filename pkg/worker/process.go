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
)

// outputDelay is how long output is still read after a command has ended. What it has left behind is killed by then, but a process
// that was not found may hold the pipe open for ever.
const outputDelay = 500 * time.Millisecond

// process is a command that was started as the leader of a session of its own. Its methods are safe for concurrent use and do not
// block.
type process struct {
	// done is closed when the command has ended, what it has left behind was killed and its output was read.
	done chan struct{}
	// outOfMemory tells, once done is closed, that the command was killed because memory ran out.
	outOfMemory bool

	cmd    *exec.Cmd
	mark   string
	group  *group // nil without one
	output tail
	log    *logs.Log

	mu     sync.Mutex
	ended  bool // the group is gone, and its number may be another's
	kill   *time.Timer
	killAt time.Time
}

// startProcess starts a command. It ends the group of the invocation once the command has ended, and if it does not start.
func startProcess(inv invocation) (_ *process, failed *startError) {
	defer func() {
		if failed != nil && inv.group != nil {
			_, _ = inv.group.end()
		}
	}()
	if inv.tooLong {
		return nil, &startError{126, fmt.Errorf("command, args and env have more than %d bytes once references are expanded: refer to less", maxExpanded)}
	}
	if inv.dir != "" {
		if err := checkDir(inv.dir); err != nil {
			return nil, newStartError(inv, err)
		}
	}
	p := &process{done: make(chan struct{}), mark: inv.mark, group: inv.group, log: inv.log}
	err := p.start(inv)
	if err != nil && p.group != nil && !passes(err) {
		// A container can forbid what it takes to start a process in a group, and let groups be made all the same.
		p.group = nil
		if err = p.start(inv); err == nil {
			klog.Background().Info("The command was started outside of its control group")
			_, _ = inv.group.end()
		}
	}
	if err != nil {
		return nil, newStartError(inv, err)
	}
	if inv.oomScore != 0 {
		_ = os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", p.cmd.Process.Pid), []byte(strconv.FormatInt(inv.oomScore, 10)), 0)
	}
	go p.wait()
	return p, nil
}

func (p *process) start(inv invocation) error {
	p.cmd = exec.Command(inv.argv[0], inv.argv[1:]...)
	p.cmd.Dir, p.cmd.Env = inv.dir, inv.env
	output := io.MultiWriter(&p.output, p.log)
	p.cmd.Stdout, p.cmd.Stderr = output, output
	p.cmd.WaitDelay = outputDelay
	p.cmd.SysProcAttr = &syscall.SysProcAttr{
		// With a group of the same number.
		Setsid: true,
		// The kernel sends it when the thread ends that started the command. Threads of Go end with the process, but
		// for those that a goroutine has locked and not unlocked: nothing that is linked in here does that.
		Pdeathsig: syscall.SIGKILL,
	}
	if p.group != nil {
		p.cmd.SysProcAttr.UseCgroupFD, p.cmd.SysProcAttr.CgroupFD = true, int(p.group.handle.Fd())
	}
	return children.start(p.cmd)
}

func (p *process) wait() {
	defer close(p.done)
	pid := p.cmd.Process.Pid
	// The group is killed while the command that has ended is not reaped: until then the number is the group's.
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
	if p.group != nil {
		p.outOfMemory, err = p.group.end()
	} else {
		err = children.sweep(pid, p.mark)
	}
	if err != nil {
		klog.Background().Error(err, "Processes of a command that has ended go on")
	}
	// The error says again what ProcessState says, or that output was given up.
	_ = p.cmd.Wait()
	children.forget(p.cmd)
	// Killed may have been just a part of it, which it has done without.
	if code, _ := p.exit(); code != exitKilled {
		p.outOfMemory = false
	}
}

// terminate sends SIGTERM to the group, once, and SIGKILL after the grace period. Called again it can shorten the period,
// not prolong it. Without a period SIGKILL is sent at once.
func (p *process) terminate(grace time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return
	}
	if grace <= 0 {
		_ = unix.Kill(-p.cmd.Process.Pid, unix.SIGKILL)
		return
	}
	at := time.Now().Add(grace)
	switch {
	case p.kill == nil:
		_ = unix.Kill(-p.cmd.Process.Pid, unix.SIGTERM)
		p.kill = time.AfterFunc(grace, func() { p.terminate(0) })
		p.killAt = at
	case at.Before(p.killAt):
		p.kill.Reset(grace)
		p.killAt = at
	}
}

// exit is the exit code of the command, and the signal that ended it or zero. It must be called only once the command was waited for.
func (p *process) exit() (code, signal int32) {
	if p.cmd.ProcessState == nil {
		return -1, 0 // reaped by somebody else
	}
	status := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if status.Signaled() {
		return 128 + int32(status.Signal()), int32(status.Signal())
	}
	return int32(status.ExitStatus()), 0
}
