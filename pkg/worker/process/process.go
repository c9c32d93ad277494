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
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
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

// exitInterval is how often a command is looked at where no descriptor shows that it has ended.
const exitInterval = 10 * time.Millisecond

// exitCodeKilled is the exit code of a command that SIGKILL ended, and of a shell whose last command SIGKILL ended.
const exitCodeKilled = 128 + 9

// Command is the command of one attempt, ready to be started.
type Command struct {
	Argv []string
	Dir  string   // empty is that of this process
	Env  []string // with one entry for each name

	Err         error         // why the command cannot be started, or nil
	Mark        string        // an entry of Env that is unique to the attempt
	Cgroup      *cgroup.Group // to start in, or nil
	OOMScoreAdj int64         // zero does not change it
	Log         *logs.Log     // for the output; nil discards it
	Echo        io.Writer     // gets the output too, and must not block; nil for none
}

// Process is a running command, the leader of its own session. Its methods are safe for concurrent use and do not
// block.
type Process struct {
	// done is closed when the command has ended, its remaining processes were killed and its output was read.
	done      chan struct{}
	oomKilled bool // set once done is closed

	reaper *reaper.Reaper
	pid    int
	mark   string
	cgroup *cgroup.Group // nil without one
	output Tail
	size   int64 // of the whole output; valid once done is closed
	log    *logs.Log
	echo   io.Writer       // nil without one
	status unix.WaitStatus // valid once done is closed, if reaped is true
	reaped bool            // false if another part of the program has reaped the command
	usage  Usage           // valid once done is closed

	// Only wait uses these.
	pidfd int // becomes readable when the command ends; -1 on kernels without
	pipe  int // has the output; -1 once it was read

	mu      sync.Mutex
	ended   bool // the process group is gone, and another may get its number
	kill    *time.Timer
	killsAt time.Time
}

// Usage is what a command has used.
type Usage struct {
	// CPU is the CPU time, user and system, of the command and of its children that it has waited for.
	CPU time.Duration
	// PeakMemory is the largest memory of the control group of the command, in bytes, or else of its largest process. It
	// is zero if it is not known.
	PeakMemory int64
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
	p := &Process{reaper: r, done: make(chan struct{}), mark: c.Mark, cgroup: c.Cgroup, log: c.Log, echo: c.Echo}
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
		_ = cgroup.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", p.pid), strconv.FormatInt(c.OOMScoreAdj, 10))
	}
	go p.wait()
	return p, nil
}

// start starts the command as os/exec does, with its output in a pipe. It needs fewer system calls and goroutines,
// which counts when commands are short.
func (p *Process) start(c Command) error {
	path, err := lookPath(c.Argv[0])
	if err != nil {
		return err
	}
	null, err := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: os.DevNull, Err: err}
	}
	defer unix.Close(null)
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return os.NewSyscallError("pipe2", err)
	}
	defer unix.Close(pipe[1])
	p.pipe, p.pidfd = pipe[0], -1
	attributes := &syscall.ProcAttr{
		Dir: c.Dir, Env: c.Env, Files: []uintptr{uintptr(null), uintptr(pipe[1]), uintptr(pipe[1])},
		Sys: &syscall.SysProcAttr{
			// The process group has the same number as the session.
			Setsid: true,
			// The kernel sends it when the thread that started the command ends. Threads of Go end with the process,
			// except those that a goroutine has locked and not unlocked; no linked package does that.
			Pdeathsig: syscall.SIGKILL,
			PidFD:     &p.pidfd,
		},
	}
	if p.cgroup != nil {
		attributes.Sys.UseCgroupFD, attributes.Sys.CgroupFD = true, p.cgroup.FD()
	}
	p.pid, err = p.reaper.Start(func() (int, error) { return syscall.ForkExec(path, c.Argv, attributes) })
	if err != nil {
		_ = unix.Close(p.pipe)
		return &fs.PathError{Op: "fork/exec", Path: path, Err: err}
	}
	return nil
}

// lookPath returns the path of a program, which is looked up on the PATH unless it contains a slash.
func lookPath(program string) (string, error) {
	switch {
	case program == "":
		return "", errors.New("no command")
	case strings.Contains(program, "/"):
		return program, nil
	}
	// exec.LookPath would find the same, with more work for each directory that does not have the program.
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		if !filepath.IsAbs(dir) {
			break
		}
		path := dir + "/" + program
		if unix.Faccessat(unix.AT_FDCWD, path, unix.X_OK, unix.AT_EACCESS) != nil {
			continue
		}
		if _, err := exec.LookPath(path); err == nil { // it is no directory
			return path, nil
		}
	}
	return exec.LookPath(program)
}

func (p *Process) wait() {
	defer close(p.done)
	p.awaitExit()
	// Kill the group before the command is reaped: until then no other group can get its number.
	p.mu.Lock()
	p.ended = true
	if p.kill != nil {
		p.kill.Stop()
	}
	_ = unix.Kill(-p.pid, unix.SIGKILL)
	p.mu.Unlock()
	var err error
	if p.cgroup != nil {
		p.usage.PeakMemory = p.cgroup.PeakMemory()
		p.oomKilled, err = p.cgroup.KillAndRemove()
	} else {
		err = p.reaper.KillRemaining(p.pid, p.mark)
	}
	if err != nil {
		klog.Background().Error(err, "Failed to kill the remaining processes of a command that has ended")
	}
	p.reap()
	p.readRest()
	// Perhaps only a child was killed, and the command went on without it.
	if code, _ := p.ExitStatus(); code != exitCodeKilled {
		p.oomKilled = false
	}
}

// awaitExit reads the output until the command has ended. It does not reap the command.
func (p *Process) awaitExit() {
	fds := []unix.PollFd{{Fd: int32(p.pidfd), Events: unix.POLLIN}, {Fd: int32(p.pipe), Events: unix.POLLIN}}
	timeout := -1
	if p.pidfd < 0 {
		timeout = int(exitInterval / time.Millisecond)
	} else {
		defer unix.Close(p.pidfd)
	}
	for {
		_, err := unix.Poll(fds, timeout)
		switch {
		case err == nil && fds[1].Revents != 0:
			p.readOutput()
			fds[1].Fd = int32(p.pipe)
		case err != nil && err != unix.EINTR:
			time.Sleep(exitInterval) // the kernel lacks memory
		}
		if (fds[0].Revents != 0 || timeout > 0 || err != nil) && p.hasExited() {
			return
		}
	}
}

// hasExited reports whether the command has ended, or another part of the program has reaped it.
func (p *Process) hasExited() bool {
	var info unix.Siginfo
	for {
		err := unix.Waitid(unix.P_PID, p.pid, &info, unix.WEXITED|unix.WNOWAIT|unix.WNOHANG, nil)
		if err != unix.EINTR {
			return err != nil || info.Signo != 0
		}
	}
}

// reap reaps the command, which has ended.
func (p *Process) reap() {
	var usage unix.Rusage
	pid, err := unix.Wait4(p.pid, &p.status, 0, &usage)
	for err == unix.EINTR {
		pid, err = unix.Wait4(p.pid, &p.status, 0, &usage)
	}
	p.reaper.Forget(p.pid)
	if p.reaped = pid == p.pid; !p.reaped {
		return
	}
	p.usage.CPU = time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
	if p.usage.PeakMemory == 0 {
		p.usage.PeakMemory = peakMemory(&usage)
	}
}

// peakMemory returns the memory of the largest process of a command in bytes, or zero if that is not known. The kernel
// counts what this process had when it started the command, so only what is larger is that of the command.
func peakMemory(command *unix.Rusage) int64 {
	var own unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &own) != nil || command.Maxrss <= own.Maxrss {
		return 0
	}
	return int64(command.Maxrss) << 10
}

// readRest reads what is left of the output, for at most outputDelay.
func (p *Process) readRest() {
	for ends := time.Now().Add(outputDelay); p.pipe >= 0; {
		left := time.Until(ends)
		if left <= 0 {
			p.closeOutput()
			return
		}
		fds := []unix.PollFd{{Fd: int32(p.pipe), Events: unix.POLLIN}}
		if n, err := unix.Poll(fds, int((left+time.Millisecond-1)/time.Millisecond)); err == nil && n > 0 {
			p.readOutput()
		}
	}
}

// outputBlocks holds blocks to read output with. A command that prints nothing needs none for long.
var outputBlocks = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// readOutput reads output that is there. At the end of the output it closes the pipe.
func (p *Process) readOutput() {
	block := outputBlocks.Get().(*[32 << 10]byte)
	defer outputBlocks.Put(block)
	switch n, err := unix.Read(p.pipe, block[:]); {
	case n > 0:
		p.size += int64(n)
		_, _ = p.output.Write(block[:n])
		_, _ = p.log.Write(block[:n])
		if p.echo != nil {
			_, _ = p.echo.Write(block[:n])
		}
	case err != unix.EINTR && err != unix.EAGAIN:
		p.closeOutput()
	}
}

func (p *Process) closeOutput() {
	_ = unix.Close(p.pipe)
	p.pipe = -1
}

// Done returns a channel that is closed when the command has ended, its remaining processes were killed and its output
// was read.
func (p *Process) Done() <-chan struct{} { return p.done }

// PID returns the process ID of the command.
func (p *Process) PID() int { return p.pid }

// Output returns the end of the output. The process must be done.
func (p *Process) Output() string { return p.output.String() }

// OutputBytes returns the size of the whole output. The process must be done.
func (p *Process) OutputBytes() int64 { return p.size }

// MissingOutput returns why the last output was not logged, or nil if it was.
func (p *Process) MissingOutput() error { return p.log.Missing() }

// Usage returns what the command has used. The process must be done.
func (p *Process) Usage() Usage { return p.usage }

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
		_ = unix.Kill(-p.pid, unix.SIGKILL)
		return
	}
	at := time.Now().Add(gracePeriod)
	switch {
	case p.kill == nil:
		_ = unix.Kill(-p.pid, unix.SIGTERM)
		p.kill = time.AfterFunc(gracePeriod, func() { p.Terminate(0) })
		p.killsAt = at
	case at.Before(p.killsAt):
		p.kill.Reset(gracePeriod)
		p.killsAt = at
	}
}

// ExitStatus returns the exit code of the command, and the signal that ended it or zero. The exit code is -1 if another
// part of the program has reaped the command. The process must be done.
func (p *Process) ExitStatus() (code, signal int32) {
	switch {
	case !p.reaped:
		return -1, 0
	case p.status.Signaled():
		return 128 + int32(p.status.Signal()), int32(p.status.Signal())
	}
	return int32(p.status.ExitStatus()), 0
}
