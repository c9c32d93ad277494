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

package host

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
)

const (
	// startTimeout limits one start. The machine may be busy with other tests.
	startTimeout = 2 * time.Minute
	// stopTimeout is the default of Command.Grace.
	stopTimeout  = 20 * time.Second
	pollInterval = 100 * time.Millisecond
	logTailBytes = 4096
)

// Command is a program for StartProcess to run.
type Command struct {
	// Name identifies the process in errors. Its log is <Dir>/<Name>.log.
	Name string
	// Path of the program, and its arguments.
	Path string
	Args []string
	// Env has variables, as "NAME=value", in addition to those of this process.
	Env []string
	// Dir is the directory of the log and the working directory of the program. It is created if it does not exist.
	Dir string
	// Ready returns nil once the program serves. It is called ten times a second. If Ready is nil, the program is ready at
	// once.
	Ready func(context.Context) error
	// Grace is how long Stop waits before it sends SIGKILL, 20 s by default.
	Grace time.Duration
}

// Process is a started program that can be stopped, killed and restarted with the same arguments. Its stdout and stderr
// are appended to LogFile. It has its own process group. On Linux it is killed when the process that started it ends for
// any reason. All methods are safe for concurrent use, except two calls of Restart.
type Process struct {
	command Command

	mu      sync.Mutex
	current *run
}

// run is the time from one start of a Process to its end.
type run struct {
	process *os.Process
	done    chan struct{} // closed at its end
	err     error         // of Wait; read it after done
	asked   bool          // the test asked it to end; guarded by Process.mu
}

// StartProcess starts a program and waits until it is ready. StartProcess kills it, and returns an error with the end of
// its log, if it is not ready after two minutes, if it exits, or if ctx ends. ctx limits the start only.
func StartProcess(ctx context.Context, command Command) (*Process, error) {
	if err := os.MkdirAll(command.Dir, 0o700); err != nil {
		return nil, err
	}
	p := &Process{command: command}
	if err := p.start(ctx); err != nil {
		return nil, err
	}
	return p, nil
}

// LogFile returns the path of the log.
func (p *Process) LogFile() string {
	return filepath.Join(p.command.Dir, p.command.Name+".log")
}

// PID returns the process ID of the current run, or of the last one.
func (p *Process) PID() int {
	return p.run().process.Pid
}

// Signal sends sig. SIGSTOP freezes the process and SIGCONT wakes it. After SIGTERM, SIGINT or SIGKILL the end of the
// process is expected: Err returns nil.
func (p *Process) Signal(sig syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.current.process.Signal(sig); err != nil {
		return fmt.Errorf("sending %s to %s: %w", sig, p.command.Name, err)
	}
	switch sig {
	case syscall.SIGTERM, syscall.SIGINT, syscall.SIGKILL:
		p.current.asked = true
	}
	return nil
}

// Kill sends SIGKILL and returns when the process has ended. It does nothing if the process has ended already.
func (p *Process) Kill() error {
	return p.end(syscall.SIGKILL)
}

// Stop sends SIGTERM and returns when the process has ended. If it has not ended within its grace, Stop sends SIGKILL and
// returns an error. Stop sends no second SIGTERM to a process that got a signal before: many programs exit at once on a
// second signal.
func (p *Process) Stop() error {
	p.mu.Lock()
	asked := p.current.asked
	p.mu.Unlock()
	if asked {
		return p.end(syscall.SIGCONT)
	}
	return p.end(syscall.SIGTERM, syscall.SIGCONT) // a frozen process handles SIGTERM only after SIGCONT
}

func (p *Process) end(signals ...syscall.Signal) error {
	for _, sig := range signals {
		if err := p.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return err
		}
	}
	current := p.run()
	grace := cmp.Or(p.command.Grace, stopTimeout)
	select {
	case <-current.done:
		return nil
	case <-time.After(grace):
	}
	err := p.Signal(syscall.SIGKILL)
	<-current.done
	return errors.Join(p.failure(fmt.Errorf("did not end within %s of %s", grace, signals[0])), err)
}

// Restart kills the process if it runs, starts it again and waits until it is ready, like StartProcess.
func (p *Process) Restart(ctx context.Context) error {
	if err := p.Kill(); err != nil {
		return err
	}
	return p.start(ctx)
}

// Err returns nil while the process runs and after an expected end. Otherwise it returns an error with the exit status and
// the end of the log.
func (p *Process) Err() error {
	current := p.run()
	select {
	case <-current.done:
	default:
		return nil
	}
	p.mu.Lock()
	asked := current.asked
	p.mu.Unlock()
	if asked {
		return nil
	}
	return p.failure(exited(current))
}

// WaitReady waits until the process is ready, for example after SIGCONT or an outage of another program. It fails like
// StartProcess, but kills nothing.
func (p *Process) WaitReady(ctx context.Context) error {
	if p.command.Ready == nil {
		return nil
	}
	current := p.run()
	var last error
	err := wait.PollUntilContextTimeout(ctx, pollInterval, startTimeout, true, func(ctx context.Context) (bool, error) {
		select {
		case <-current.done:
			return false, exited(current)
		default:
		}
		last = p.command.Ready(ctx)
		return last == nil, nil
	})
	switch {
	case err == nil:
		return nil
	case wait.Interrupted(err):
		return p.failure(fmt.Errorf("not ready: %w (%w)", last, err))
	default:
		return p.failure(err)
	}
}

func (p *Process) run() *run {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.current
}

func (p *Process) start(ctx context.Context) error {
	log, err := os.OpenFile(p.LogFile(), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	cmd := exec.Command(p.command.Path, p.command.Args...)
	cmd.Env = append(os.Environ(), p.command.Env...)
	cmd.Dir = p.command.Dir
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = ownGroup()

	next := &run{done: make(chan struct{})}
	started := make(chan error)
	go func() {
		// Pdeathsig fires when the thread that forked ends, not when the program does. Keep the thread as long as the child.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer log.Close()
		if err := cmd.Start(); err != nil {
			started <- err
			return
		}
		next.process = cmd.Process
		started <- nil
		next.err = cmd.Wait()
		close(next.done)
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("starting %s: %w", p.command.Name, err)
	}
	p.mu.Lock()
	p.current = next
	p.mu.Unlock()

	if err := p.WaitReady(ctx); err != nil {
		return errors.Join(err, p.Kill())
	}
	return nil
}

func exited(r *run) error {
	if r.err == nil {
		return errors.New("exited unexpectedly with status 0")
	}
	return fmt.Errorf("exited: %w", r.err)
}

// failure returns err with the name of the process and the end of its log.
func (p *Process) failure(err error) error {
	return fmt.Errorf("%s: %w; the log %s ends with:\n%s", p.command.Name, err, p.LogFile(), p.logTail())
}

func (p *Process) logTail() string {
	log, err := os.ReadFile(p.LogFile())
	if err != nil {
		return err.Error()
	}
	if len(log) > logTailBytes {
		log = log[len(log)-logTailBytes:]
		if _, rest, cut := bytes.Cut(log, []byte("\n")); cut {
			log = rest
		}
	}
	return strings.TrimSpace(string(log))
}

// answersOK returns a Command.Ready that succeeds when a GET of url returns 200. Each request has its own connection,
// because an open one may lead to a process that was killed.
func answersOK(url string, config *tls.Config) func(context.Context) error {
	client := &http.Client{
		Timeout:   5 * time.Second,
		Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true},
	}
	return func(ctx context.Context) error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		response, err := client.Do(request)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusOK {
			body, _ := io.ReadAll(io.LimitReader(response.Body, 1024)) // the status matters more
			return fmt.Errorf("GET %s: %s: %s", url, response.Status, body)
		}
		return nil
	}
}
