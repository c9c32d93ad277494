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

package process

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/leat-dev/leat/pkg/worker/processtest"
	"github.com/leat-dev/leat/pkg/worker/reaper"
)

// testReaper is the reaper of the test process.
var testReaper = reaper.New()

func sh(script string) Command {
	return Command{Argv: []string{"sh", "-c", script}, Env: os.Environ()}
}

func mustStart(t *testing.T, c Command) *Process {
	t.Helper()
	p, err := Start(testReaper, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Terminate(0) })
	return p
}

func awaitExit(t *testing.T, p *Process) (code, signal int32) {
	t.Helper()
	select {
	case <-p.Done():
	case <-time.After(15 * time.Second):
		t.Fatal("the command does not end")
	}
	return p.ExitStatus()
}

func TestHowACommandEnds(t *testing.T) {
	for _, tc := range []struct {
		name, script string
		code, signal int32
	}{
		{"success", "exit 0", 0, 0},
		{"failure", "exit 3", 3, 0},
		{"killed", "kill -9 $$", 137, 9},
		{"terminated", "kill -TERM $$", 143, 15},
		{"exits with the code of a signal", "exit 137", 137, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if code, signal := awaitExit(t, mustStart(t, sh(tc.script))); code != tc.code || signal != tc.signal {
				t.Errorf("got exit code %d, signal %d, want %d, %d", code, signal, tc.code, tc.signal)
			}
		})
	}
}

func TestACommandThatCannotBeStarted(t *testing.T) {
	dir := t.TempDir()
	plain := filepath.Join(dir, "plain")
	if err := os.WriteFile(plain, []byte("text"), 0o644); err != nil {
		t.Fatal(err)
	}
	scripts := map[string]string{"script": "#! /no/such/interpreter -x\n", "windows": "#!/bin/sh\r\necho\r\n", "elsewhere": "text", "empty": ""}
	for name, content := range scripts {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	sh, err := os.ReadFile("/bin/sh")
	if err != nil {
		t.Fatal(err)
	}
	// Replace the path of the dynamic linker by one that does not exist.
	linked := filepath.Join(dir, "linked")
	if err := os.WriteFile(linked, bytes.Replace(sh, []byte("/ld-linux"), []byte("/no-linux"), 1), 0o755); err != nil {
		t.Fatal(err)
	}
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", "/no/such/path:"+os.Getenv("PATH"))
	for _, tc := range []struct {
		name    string
		c       Command
		code    int32
		message string
	}{
		{"not on the path", Command{Argv: []string{"no-such-program"}}, 127,
			fmt.Sprintf("cannot start %q in directory %q: no such program on the PATH of the worker, %q", "no-such-program", here, os.Getenv("PATH"))},
		{"in a directory of its own", Command{Argv: []string{"./none"}, Dir: dir}, 127, fmt.Sprintf("cannot start %q in directory %q: ", "./none", dir)},
		{"no such interpreter", Command{Argv: []string{"./script"}, Dir: dir}, 127, `: it needs the interpreter "/no/such/interpreter", which does not exist`},
		{"lines of Windows", Command{Argv: []string{dir + "/windows"}}, 127, `: it needs the interpreter "/bin/sh\r", since its lines end as on Windows`},
		{"no such dynamic linker", Command{Argv: []string{linked}}, 127, `: it needs the dynamic linker "/`},
		{"no program of this machine", Command{Argv: []string{dir + "/elsewhere"}}, 126, ": exec format error: it is neither a program for linux/"},
		{"an empty program", Command{Argv: []string{dir + "/empty"}}, 126, "exec format error"},
		{"no such file", Command{Argv: []string{dir + "/none"}}, 127, "no such file"},
		{"empty", Command{Argv: []string{""}}, 126, "no command"},
		{"not executable", Command{Argv: []string{plain}}, 126, "permission denied"},
		{"a directory", Command{Argv: []string{dir}}, 126, ""},
		{"no such working directory", Command{Argv: []string{"true"}, Dir: dir + "/none"}, 126, "workingDir"},
		{"working directory is a file", Command{Argv: []string{"true"}, Dir: plain}, 126, "not a directory"},
		{"a zero byte in an argument", Command{Argv: []string{"true", "a\x00b"}}, 126, "invalid argument"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := Start(testReaper, tc.c)
			if err == nil {
				t.Fatal("it was started")
			}
			if err.ExitCode != tc.code || !strings.Contains(err.Error(), tc.message) {
				t.Errorf("got code %d and %q, want %d and something with %q", err.ExitCode, err, tc.code, tc.message)
			}
		})
	}
}

func TestTerminateLeavesTheGroupTimeToEnd(t *testing.T) {
	dir := t.TempDir()
	p := mustStart(t, sh("trap 'echo bye >"+dir+"/trap; exit 7' TERM; echo $$ >"+dir+"/pid; while :; do sleep 0.02; done"))
	processtest.PIDIn(t, dir+"/pid")
	p.Terminate(time.Minute)
	if code, _ := awaitExit(t, p); code != 7 {
		t.Errorf("got exit code %d, want that of the trap", code)
	}
	if _, err := os.Stat(dir + "/trap"); err != nil {
		t.Error("the trap did not run")
	}
}

func TestTerminateKillsAfterTheShortestGracePeriod(t *testing.T) {
	dir := t.TempDir()
	stubborn := sh("trap '' TERM; echo $$ >" + dir + "/pid; while :; do sleep 0.02; done")
	p := mustStart(t, stubborn)
	processtest.PIDIn(t, dir+"/pid")
	started := time.Now()
	p.Terminate(time.Hour)
	p.Terminate(300 * time.Millisecond)
	p.Terminate(time.Hour) // does not extend the grace period
	if code, signal := awaitExit(t, p); code != 137 || signal != 9 {
		t.Errorf("got exit code %d, signal %d, want 137, 9", code, signal)
	}
	if d := time.Since(started); d < 300*time.Millisecond {
		t.Errorf("killed after %s, with 300 ms to go", d)
	}
	p.Terminate(0) // has no effect
}

func TestNothingOfTheGroupOutlivesTheCommand(t *testing.T) {
	dir := t.TempDir()
	p := mustStart(t, sh("sleep 1000 & echo $! >"+dir+"/pid; exit 0"))
	child := processtest.PIDIn(t, dir+"/pid")
	started := time.Now()
	if code, _ := awaitExit(t, p); code != 0 {
		t.Errorf("got exit code %d", code)
	}
	if d := time.Since(started); d > outputDelay {
		t.Errorf("took %s: the pipe was waited for", d)
	}
	processtest.Eventually(t, "the background process ends", func() bool { return !processtest.Alive(child) })
}

func TestAProcessThatIsNotFoundDoesNotHoldUpTheEnd(t *testing.T) {
	dir := t.TempDir()
	// The process has left the session and has no mark.
	p := mustStart(t, sh("setsid sh -c 'echo $$ >"+dir+"/pid; exec sleep 1000' & while [ ! -s "+dir+"/pid ]; do sleep 0.01; done; echo out"))
	stray := processtest.PIDIn(t, dir+"/pid")
	t.Cleanup(func() { _ = unix.Kill(stray, unix.SIGKILL) })
	awaitExit(t, p)
	if got := p.Output(); got != "out\n" {
		t.Errorf("got output %q", got)
	}
	if !processtest.Alive(stray) {
		t.Error("the test is void: the stray process has ended")
	}
}

func TestOutputIsBoundedAndText(t *testing.T) {
	p := mustStart(t, sh("head -c 10000000 /dev/zero | tr '\\0' x; printf '\\377\\376 end' >&2"))
	awaitExit(t, p)
	if got, want := p.Output(), strings.Repeat("x", TailSize-7)+"\uFFFD end"; got != want {
		t.Errorf("got %d bytes ending in %q, want %d bytes", len(got), got[max(0, len(got)-20):], len(want))
	}
}

func TestUsageOfACommand(t *testing.T) {
	const memory = 256 << 20 // more than this process has
	p := mustStart(t, sh(fmt.Sprintf("i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; dd if=/dev/zero of=/dev/null bs=%d count=1", memory)))
	awaitExit(t, p)
	usage := p.Usage()
	if usage.CPU < 10*time.Millisecond || usage.CPU > time.Minute {
		t.Errorf("got %s of CPU time", usage.CPU)
	}
	if usage.PeakMemory < memory || usage.PeakMemory > 2*memory {
		t.Errorf("got a peak of %d bytes of memory", usage.PeakMemory)
	}
}

// The kernel counts the memory of the process that starts a command, until the command is executed, as the command's.
func TestTheMemoryOfTheWorkerIsNotThatOfItsCommands(t *testing.T) {
	p := mustStart(t, sh("exit 0"))
	awaitExit(t, p)
	if peak := p.Usage().PeakMemory; peak != 0 {
		t.Errorf("got a peak of %d bytes", peak)
	}
}

// TestHelperThatIsKilled is not a test: it is the process that TestACommandDiesWithItsWorker kills.
func TestHelperThatIsKilled(t *testing.T) {
	if os.Getenv("WORKER_TEST_HELPER") == "" {
		return
	}
	p := mustStart(t, Command{Argv: []string{"sleep", "1000"}, Env: os.Environ()})
	_, _ = os.Stdout.WriteString("pid " + strconv.Itoa(p.PID()) + "\n")
	<-p.Done()
}

func TestACommandDiesWithItsWorker(t *testing.T) {
	helper := exec.Command(os.Args[0], "-test.run=^TestHelperThatIsKilled$", "-test.v")
	helper.Env = append(os.Environ(), "WORKER_TEST_HELPER=1")
	out, err := helper.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := helper.Start(); err != nil {
		t.Fatal(err)
	}
	pid := 0
	for lines := bufio.NewScanner(out); pid == 0 && lines.Scan(); {
		if text, ok := strings.CutPrefix(lines.Text(), "pid "); ok {
			pid, _ = strconv.Atoi(text)
		}
	}
	if pid == 0 || !processtest.Alive(pid) {
		t.Fatalf("the helper runs no command (pid %d)", pid)
	}
	if err := helper.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = helper.Wait()
	processtest.Eventually(t, "the command of the killed process ends", func() bool { return !processtest.Alive(pid) })
}
