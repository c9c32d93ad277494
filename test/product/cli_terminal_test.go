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

package product

import (
	"fmt"
	"os"
	"regexp"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leat-dev/leat/test/kit"
)

// screen is the master of a pseudoterminal, with everything that was written to the terminal.
type screen struct {
	master *os.File
	mu     sync.Mutex
	text   []byte
	from   int           // end of the last match
	grown  chan struct{} // receives when text has grown
}

// terminal starts the program on a terminal that it controls. end waits for the program and returns its exit code.
func (s *cliSuite) terminal(t *testing.T, args ...string) (on *screen, end func() int) {
	t.Helper()
	master := kit.Must(os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0))(t)
	fd := int(master.Fd())
	kit.Check(t, unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0))
	number := kit.Must(unix.IoctlGetInt(fd, unix.TIOCGPTN))(t)
	kit.Check(t, unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 50, Col: 160}))
	slave := kit.Must(os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0))(t)
	command := s.command(t, args...)
	command.Stdin, command.Stdout, command.Stderr = slave, slave, slave
	command.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	kit.Check(t, command.Start())
	kit.Check(t, slave.Close())
	on = &screen{master: master, grown: make(chan struct{}, 1)}
	read := make(chan struct{})
	go func() {
		defer close(read)
		buffer := make([]byte, 4096)
		for {
			n, err := master.Read(buffer)
			on.mu.Lock()
			on.text = append(on.text, buffer[:n]...)
			on.mu.Unlock()
			select {
			case on.grown <- struct{}{}:
			default:
			}
			if err != nil {
				return
			}
		}
	}()
	ended := false
	end = func() int {
		err := command.Wait()
		ended = true
		<-read
		kit.Check(t, master.Close())
		if err != nil && command.ProcessState == nil {
			t.Fatal(err)
		}
		return command.ProcessState.ExitCode()
	}
	t.Cleanup(func() {
		if !ended {
			kit.Check(t, command.Process.Kill())
			end()
		}
	})
	return on, end
}

// expect waits until the pattern appears after the last match.
func (s *screen) expect(t *testing.T, pattern string) {
	t.Helper()
	expression := regexp.MustCompile(pattern)
	timeout := time.NewTimer(commandTimeout)
	defer timeout.Stop()
	for {
		s.mu.Lock()
		found := expression.FindIndex(s.text[s.from:])
		if found != nil {
			s.from += found[1]
		}
		text := string(s.text)
		s.mu.Unlock()
		if found != nil {
			return
		}
		select {
		case <-s.grown:
		case <-timeout.C:
			t.Fatalf("%s does not appear; the screen ends with %q", pattern, text[max(0, len(text)-2000):])
		}
	}
}

// send types keys.
func (s *screen) send(t *testing.T, keys string) {
	t.Helper()
	kit.Must(s.master.WriteString(keys))(t)
}

const question = `is not done\. d: detach and let it go on, c: cancel it, Enter: go on watching\? `

func (s *cliSuite) interruptOnTerminal(t *testing.T) {
	for _, test := range []struct {
		name    string
		act     func(*testing.T, *screen)
		goes    bool
		last    string
		command string
	}{
		{"detach", func(t *testing.T, on *screen) { on.send(t, "d\n") }, true, `Detached: taskset/asked-detach goes on\. Come back with: leat wait taskset/asked-detach`, "600"},
		{"twice", func(t *testing.T, on *screen) { on.send(t, "\x03") }, true, `Detached: taskset/asked-twice goes on`, "600"},
		{"cancel", func(t *testing.T, on *screen) { on.send(t, "c\n") }, false, `taskset\.batch\.leat\.dev/asked-cancel cancelled`, "600"},
		{"go-on", func(t *testing.T, on *screen) {
			on.send(t, "\n")
			on.expect(t, `0/2 done, 0 failed, 2 running`)
			on.send(t, "\x03")
			on.expect(t, question)
			on.send(t, "d\n")
		}, true, `Detached`, "600"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			name := "asked-" + test.name
			on, end := s.terminal(t, "run", "--name="+name, "--array=2", "--wait", "--", "sleep", test.command)
			on.expect(t, `0/2 done, 0 failed, 2 running, 0 pending`)
			on.send(t, "\x03")
			on.expect(t, question)
			test.act(t, on)
			on.expect(t, test.last)
			if code := end(); code != 130 {
				t.Errorf("got exit code %d", code)
			}
			set := kit.Must(s.api.TaskSets(s.namespace).Get(t.Context(), name, metav1.GetOptions{}))(t)
			if set.Spec.Cancelled == test.goes {
				t.Errorf("got spec.cancelled %t, want %t", set.Spec.Cancelled, !test.goes)
			}
			if test.goes {
				s.leat(t, "cancel", "--now", name).expect(t, 0, "cancelled", "^$")
			}
		})
	}
}

func (s *cliSuite) progressOnTerminal(t *testing.T) {
	on, end := s.terminal(t, "run", "--name=bar", "--array=30%10", "--wait", "--", "sleep", "0.7")
	on.expect(t, `░ 0/30 done, 0 failed, \d+ running, \d+ pending`)
	on.expect(t, `█.*/30 done, 0 failed, .*, [0-9.]+/s, \d+s left`)
	on.expect(t, `30/30 done, 0 failed after \d+s`)
	on.expect(t, `taskset/bar is complete: 30 of 30 succeeded in `)
	if code := end(); code != 0 {
		t.Errorf("got exit code %d", code)
	}
	// Without --wait, run names the commands that follow the task.
	on, end = s.terminal(t, "run", "--name=hinted", "--", "true")
	on.expect(t, `task\.batch\.leat\.dev/hinted created`)
	on.expect(t, `leat wait @latest shows its progress, leat logs -f @latest what it prints\.`)
	if code := end(); code != 0 {
		t.Errorf("got exit code %d", code)
	}
	s.waitForTask(t, "hinted", "has succeeded", isSucceeded)
}
