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
	// startTimeout bounds one start, on a machine that is busy with other tests.
	startTimeout = 2 * time.Minute
	// stopTimeout is how long Stop lets a process end by itself, unless its
	// command says otherwise.
	stopTimeout  = 20 * time.Second
	pollInterval = 100 * time.Millisecond
	logTailBytes = 4096
)

// Command is a program for StartProcess to run.
type Command struct {
	// Name is the process's in errors, and its log file's: <Dir>/<Name>.log.
	Name string
	// Path of the program, and its arguments.
	Path string
	Args []string
	// Env is added to the environment of this process, as "NAME=value".
	Env []string
	// Dir is where the log goes, and the program's working directory. It is made
	// if need be.
	Dir string
	// Ready says nil once the program serves; until then it is asked ten times a
	// second. Nil counts as ready at once.
	Ready func(context.Context) error
	// Grace is how long Stop lets it end by itself; 20 s if zero.
	Grace time.Duration
}

// Process is a program that was started and can be stopped, killed and started
// again with the same arguments. It writes stdout and stderr to LogFile,
// appending over restarts; it is in a process group of its own; and it is killed
// when the process that started it ends in whatever way (on Linux). All methods
// are safe for concurrent use; Restart against Restart is the caller's to avoid.
type Process struct {
	command Command

	mu      sync.Mutex
	current *run
}

// run is one life of a Process.
type run struct {
	process *os.Process
	done    chan struct{} // closed at its end
	err     error         // how it ended; read after done
	asked   bool          // its end was asked for; guarded by Process.mu
}

// StartProcess runs a program and waits until it is ready. If it is not within
// two minutes, when ctx ends, or when the program exits, it is killed, and the
// error holds the end of its log. ctx bounds the start only.
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

// LogFile is the path of the process's log.
func (p *Process) LogFile() string {
	return filepath.Join(p.command.Dir, p.command.Name+".log")
}

// PID is the process ID of the current life, or of the last one.
func (p *Process) PID() int {
	return p.life().process.Pid
}

// Signal sends sig. SIGSTOP freezes the process and SIGCONT wakes it; after
// SIGTERM, SIGINT or SIGKILL its end counts as asked for.
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

// Kill ends the process with SIGKILL and returns when it is gone. A process that
// is gone already is none the worse for it.
func (p *Process) Kill() error {
	return p.end(syscall.SIGKILL)
}

// Stop ends the process with SIGTERM, and with SIGKILL if it has not ended
// within its grace, which is an error. It returns when the process is gone. One
// that was asked to end before is waited for: at a second signal many programs
// drop everything.
func (p *Process) Stop() error {
	p.mu.Lock()
	asked := p.current.asked
	p.mu.Unlock()
	if asked {
		return p.end(syscall.SIGCONT)
	}
	return p.end(syscall.SIGTERM, syscall.SIGCONT) // a frozen process sees SIGTERM only once it is awake
}

func (p *Process) end(signals ...syscall.Signal) error {
	for _, sig := range signals {
		if err := p.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return err
		}
	}
	life := p.life()
	grace := cmp.Or(p.command.Grace, stopTimeout)
	select {
	case <-life.done:
		return nil
	case <-time.After(grace):
	}
	err := p.Signal(syscall.SIGKILL)
	<-life.done
	return errors.Join(p.failure(fmt.Errorf("did not end within %s of %s", grace, signals[0])), err)
}

// Restart kills the process if it runs, starts it again and waits until it is
// ready, as StartProcess does.
func (p *Process) Restart(ctx context.Context) error {
	if err := p.Kill(); err != nil {
		return err
	}
	return p.start(ctx)
}

// Err is nil while the process runs and after an end that was asked for, and
// otherwise tells how it ended and the end of its log.
func (p *Process) Err() error {
	life := p.life()
	select {
	case <-life.done:
	default:
		return nil
	}
	p.mu.Lock()
	asked := life.asked
	p.mu.Unlock()
	if asked {
		return nil
	}
	return p.failure(exited(life))
}

// WaitReady waits until the process is ready: after SIGCONT, or after something
// it depends on was away. It is bounded as StartProcess is, but kills nothing.
func (p *Process) WaitReady(ctx context.Context) error {
	if p.command.Ready == nil {
		return nil
	}
	life := p.life()
	var last error
	err := wait.PollUntilContextTimeout(ctx, pollInterval, startTimeout, true, func(ctx context.Context) (bool, error) {
		select {
		case <-life.done:
			return false, exited(life)
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

func (p *Process) life() *run {
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

	life := &run{done: make(chan struct{})}
	started := make(chan error)
	go func() {
		// The kernel takes the end of the forking thread, not of the whole
		// program, for the parent's death: keep the thread as long as the child.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer log.Close()
		if err := cmd.Start(); err != nil {
			started <- err
			return
		}
		life.process = cmd.Process
		started <- nil
		life.err = cmd.Wait()
		close(life.done)
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("starting %s: %w", p.command.Name, err)
	}
	p.mu.Lock()
	p.current = life
	p.mu.Unlock()

	if err := p.WaitReady(ctx); err != nil {
		return errors.Join(err, p.Kill())
	}
	return nil
}

func exited(life *run) error {
	if life.err == nil {
		return errors.New("exited with status 0 though it should have kept running")
	}
	return fmt.Errorf("exited: %w", life.err)
}

// failure is err with the process's name and the end of its log.
func (p *Process) failure(err error) error {
	return fmt.Errorf("%s: %w; its log %s ends:\n%s", p.command.Name, err, p.LogFile(), p.logTail())
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

// answersOK makes a Command.Ready of an HTTPS address that answers 200 when its
// server is ready. Each look is a new connection: the last one may lead to a
// process that was killed.
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
			body, _ := io.ReadAll(io.LimitReader(response.Body, 1024)) // the status is the news
			return fmt.Errorf("%s answers %s: %s", url, response.Status, body)
		}
		return nil
	}
}
