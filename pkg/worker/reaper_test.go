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
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// newTestSandbox returns the sandbox of a worker with that name. Without control groups it finds processes by their
// marks.
func newTestSandbox(t *testing.T, name string, withGroups bool) *sandbox {
	t.Helper()
	t.Cleanup(children.acquire())
	options := testOptions().withDefaults()
	options.Name = name
	s, err := newSandbox(t.Context(), options, strconv.FormatInt(time.Now().UnixNano(), 36))
	if err != nil {
		t.Fatal(err)
	}
	all := s
	t.Cleanup(func() {
		if err := all.close(); err != nil {
			t.Error(err)
		}
	})
	if !withGroups {
		s.cgroups = nil
	}
	return &s
}

// both runs a test with processes found by marks, and in control groups if this machine has them.
func both(t *testing.T, test func(t *testing.T, s *sandbox)) {
	t.Run("by marks", func(t *testing.T) { test(t, newTestSandbox(t, "by-marks", false)) })
	t.Run("by groups", func(t *testing.T) {
		s := newTestSandbox(t, "by-groups", true)
		if s.cgroups == nil {
			if in, err := delegatedCgroup(); err == nil && in.limitsErr == nil {
				t.Errorf("there are no groups in %s, which has controllers", in.dir)
			}
			t.Log("this machine lets no control groups be used: marks are tested again")
		}
		test(t, s)
	})
}

func (s *sandbox) sh(t *testing.T, script string) *process {
	t.Helper()
	c, progress, _ := s.prepare(t.Context(), &batch.Task{Spec: batch.TaskSpec{Command: []string{"sh", "-c", strings.ReplaceAll(script, "$", "$$")}}}, 1)
	p := mustStart(t, c)
	t.Cleanup(func() {
		p.terminate(0)
		<-p.done
		s.release(progress)
	})
	return p
}

func TestRemainingProcessesOfACommandAreKilled(t *testing.T) {
	both(t, func(t *testing.T, s *sandbox) {
		for _, tc := range []struct {
			name, script string
			groupOnly    bool
		}{
			{"in the background", `sh -c 'echo $$ >PID; exec sleep 1000' &`, false},
			{"in a group of its own", `set -m; sh -c 'echo $$ >PID; exec sleep 1000' &`, false},
			{"in a session of its own", `setsid sh -c 'echo $$ >PID; exec sleep 1000' >/dev/null 2>&1 </dev/null &`, false},
			{"a daemon", `(setsid sh -c '(sh -c "echo \$\$ >PID; exec sleep 1000" >/dev/null 2>&1 </dev/null &)' &)`, false},
			{"without an environment", `env -i sh -c 'echo $$ >PID; exec sleep 1000' &`, false},
			{"that ignores signals", `setsid sh -c 'trap "" TERM HUP INT; echo $$ >PID; while :; do sleep 1; done' &`, false},
			{"that starts another when it ends", `setsid sh -c 'sh -c "echo \$\$ >PID; exec sleep 1000"; sleep 1000' &`, false},
			{"without an environment in a session of its own", `setsid env -i sh -c 'echo $$ >PID; exec sleep 1000' >/dev/null 2>&1 &`, true},
		} {
			if tc.groupOnly && s.cgroups == nil {
				continue
			}
			t.Run(tc.name, func(t *testing.T) {
				file := filepath.Join(t.TempDir(), "pid")
				p := s.sh(t, strings.ReplaceAll(tc.script, "PID", file)+"\nwhile [ ! -s "+file+" ]; do sleep 0.01; done; exit 3")
				if code, _ := awaitExit(t, p); code != 3 {
					t.Errorf("exit code %d, want 3", code)
				}
				if pid := pidIn(t, file); alive(pid) {
					t.Errorf("process %d is alive", pid)
				}
			})
		}
	})
}

func TestProcessesOfOtherCommandsAreNotKilled(t *testing.T) {
	both(t, func(t *testing.T, s *sandbox) {
		file := filepath.Join(t.TempDir(), "pid")
		c, _, _ := s.prepare(t.Context(), &batch.Task{Spec: batch.TaskSpec{Command: []string{"sh", "-c",
			"(setsid sh -c 'echo $$$$ >" + file + "; exec sleep 1000' &); exec sleep 1000"}}}, 2)
		other := mustStart(t, c)
		daemon := pidIn(t, file)
		for range 5 {
			awaitExit(t, s.sh(t, "(setsid sleep 1000 &); exit 0"))
		}
		if !alive(daemon) || !alive(other.cmd.Process.Pid) {
			t.Error("what another command runs has ended")
		}
		other.terminate(0)
		awaitExit(t, other)
		if alive(daemon) {
			t.Error("it does not end with its own")
		}
	})
}

// zombies returns how many children of this process are dead and not reaped.
func zombies() int {
	n := 0
	all, _ := allProcesses()
	for _, pid := range all {
		if s, err := readStat(pid); err == nil && s.parent == os.Getpid() && s.dead() {
			n++
		}
	}
	return n
}

func TestNoOrphanStaysAZombie(t *testing.T) {
	both(t, func(t *testing.T, s *sandbox) {
		done := filepath.Join(t.TempDir(), "done")
		p := s.sh(t, `i=0; while [ $i -lt 300 ]; do (setsid sh -c : &); (sh -c : &); i=$((i+1)); done; sleep 0.1; touch `+done+`; exec sleep 1000`)
		eventually(t, "the orphans are made", func() bool { _, err := os.Stat(done); return err == nil })
		eventually(t, "all are reaped while the command runs", func() bool { return zombies() == 0 })
		p.terminate(0)
		awaitExit(t, p)
	})
}

func TestExitStatusesOfOtherChildrenAreKept(t *testing.T) {
	s := newTestSandbox(t, "farm", false)
	farm := s.sh(t, `while :; do (setsid sh -c : &); done`)
	var parts sync.WaitGroup
	for range 4 {
		parts.Go(func() {
			for i := range 40 {
				// Other parts of the program start commands without the reaper.
				var exit *exec.ExitError
				if err := exec.Command("sh", "-c", fmt.Sprint("exit ", i+1)).Run(); !errors.As(err, &exit) || exit.ExitCode() != i+1 {
					t.Errorf("a command of others that exits with %d: %v", i+1, err)
				}
				p, err := startProcess(command{argv: []string{"sh", "-c", fmt.Sprint("exit ", i+1)}})
				if err != nil {
					t.Error(err)
					continue
				}
				<-p.done
				if code, _ := p.exitStatus(); code != int32(i+1) {
					t.Errorf("exit code %d, want %d", code, i+1)
				}
			}
		})
	}
	parts.Wait()
	farm.terminate(0)
	awaitExit(t, farm)
}

func TestOnlyOrphansAreReaped(t *testing.T) {
	// Where the kernel does not list children, all processes are listed, with the children of all threads.
	r := &reaper{commands: map[int]bool{}, listChildren: func(int) ([]int, error) { return allProcesses() }}
	stop := make(chan struct{})
	var passes sync.WaitGroup
	passes.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				r.scan(nil)
			}
		}
	})
	defer passes.Wait()
	defer close(stop)
	for i := range 30 {
		command := exec.Command("sh", "-c", fmt.Sprint("exit ", i+1))
		command.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := r.start(command); err != nil {
			t.Fatal(err)
		}
		others := exec.Command("sh", "-c", fmt.Sprint("exit ", i+1))
		if err := others.Start(); err != nil {
			t.Fatal(err)
		}
		for _, c := range []*exec.Cmd{command, others} {
			eventually(t, "it has ended", func() bool { return !alive(c.Process.Pid) })
			if err := c.Wait(); c.ProcessState == nil || c.ProcessState.ExitCode() != i+1 {
				t.Errorf("the exit status of a command was taken: %v", err)
			}
		}
		r.forget(command)
	}
}

func TestReaperRunsWhileItHasUsers(t *testing.T) {
	adopts := func() bool {
		var is int32
		if err := unix.Prctl(unix.PR_GET_CHILD_SUBREAPER, uintptr(unsafe.Pointer(&is)), 0, 0, 0); err != nil {
			t.Fatal(err)
		}
		return is != 0
	}
	first, second := children.acquire(), children.acquire()
	first()
	first()
	if !adopts() {
		t.Error("it does not adopt while one asks for it")
	}
	second()
	if adopts() {
		t.Error("it adopts when nobody asks for it any more")
	}
}

func TestParseStat(t *testing.T) {
	for name, tc := range map[string]struct {
		text string
		want processStat
		ok   bool
	}{
		"plain":       {"12 (sh) S 3 12 9 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 4711 1 2 3\n", processStat{'S', 3, 9, 4711, 1}, true},
		"a tall name": {"12 (a) Z (b) Z 3 12 9 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 4711 1 2 3\n", processStat{'Z', 3, 9, 4711, 1}, true},
		"cut":         {"12 (sh) S 3 12 9", processStat{}, false},
		"empty":       {"", processStat{}, false},
		"no numbers":  {"12 (sh) S a b c d e f g h i j k l m n o p q r s t", processStat{}, false},
	} {
		got, err := parseStat([]byte(tc.text))
		if (err == nil) != tc.ok || tc.ok && got != tc.want {
			t.Errorf("%s: got %+v, %v", name, got, err)
		}
	}
}

func TestHasExited(t *testing.T) {
	own, err := ownIdentity()
	if err != nil {
		t.Fatal(err)
	}
	gone := exec.Command("true")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		by   string
		want bool
	}{
		"this process":                 {own.String(), false},
		"one that has ended":           {identity{own.pidNamespace, gone.Process.Pid, 1}.String(), true},
		"one whose number was reused":  {identity{own.pidNamespace, own.pid, own.started - 1}.String(), true},
		"one that cannot be seen":      {identity{"4711", gone.Process.Pid, 1}.String(), false},
		"one of an unknown namespace":  {identity{"", gone.Process.Pid, 1}.String(), false},
		"no owner":                     {"x", false},
		"an owner that makes no sense": {own.pidNamespace + "-x-y", false},
	} {
		if got := hasExited(tc.by); got != tc.want {
			t.Errorf("%s: ended is %t", name, got)
		}
		if got := isOrphan(markVariable+"="+tc.by+"/ns/w/inc/uid-1", "ns/w"); got != tc.want {
			t.Errorf("%s: orphaned is %t", name, got)
		}
		for _, other := range []string{markVariable + "=" + tc.by + "/ns/w2/inc/uid-1", markVariable + "=" + tc.by + "/ns/w", "OTHER=" + tc.by + "/ns/w/inc/uid-1"} {
			if isOrphan(other, "ns/w") {
				t.Errorf("%s: %s is taken for the worker's", name, other)
			}
		}
	}
}

// TestHelperOutOfDescriptors is not a test: it is the worker process of
// TestRemainingProcessesAreKilledWithoutDescriptors.
func TestHelperOutOfDescriptors(t *testing.T) {
	if os.Getenv("WORKER_TEST_OUT_OF_DESCRIPTORS") == "" {
		return
	}
	s := newTestSandbox(t, "out", false)
	dir := t.TempDir()
	// The daemon holds the output pipe open, so that its end does not free a descriptor.
	p := s.sh(t, "(setsid sh -c 'echo $$ >"+dir+"/pid; exec sleep 1000' &); exec sleep 1000")
	daemon := pidIn(t, dir+"/pid")
	t.Cleanup(func() { _ = unix.Kill(daemon, unix.SIGKILL) })
	var limit unix.Rlimit
	if err := errors.Join(unix.Getrlimit(unix.RLIMIT_NOFILE, &limit), unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 64, Max: limit.Max})); err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
			break
		}
	}
	p.terminate(0)
	select {
	case <-p.done:
	case <-time.After(200 * time.Millisecond):
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	<-p.done
	if alive(daemon) {
		t.Error("what the command has left behind is alive")
	}
}

func TestRemainingProcessesAreKilledWithoutDescriptors(t *testing.T) {
	helper := exec.Command(os.Args[0], "-test.run=^TestHelperOutOfDescriptors$")
	helper.Env = append(os.Environ(), "WORKER_TEST_OUT_OF_DESCRIPTORS=1")
	if out, err := helper.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// TestHelperThatLeavesOrphans is not a test: it is the worker process that TestProcessesOfAKilledWorkerAreKilled kills.
func TestHelperThatLeavesOrphans(t *testing.T) {
	name := os.Getenv("WORKER_TEST_ORPHANS_OF")
	if name == "" {
		return
	}
	s := newTestSandbox(t, name, os.Getenv("WORKER_TEST_GROUPS") != "")
	c, _, _ := s.prepare(context.Background(), &batch.Task{Spec: batch.TaskSpec{Command: []string{"sh", "-c",
		"(setsid sh -c 'echo pid $$$$; exec sleep 1000' &); exec sleep 1000"}}}, 1)
	c.env = append(c.env, "WORKER_TEST_ORPHANS_OF=")
	p := exec.Command(c.argv[0], c.argv[1:]...)
	p.Env, p.Stdout = c.env, os.Stdout
	p.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if c.cgroup != nil {
		p.SysProcAttr.UseCgroupFD, p.SysProcAttr.CgroupFD = true, int(c.cgroup.handle.Fd())
	}
	if err := p.Run(); err != nil {
		t.Fatal(err)
	}
}

func TestProcessesOfAKilledWorkerAreKilled(t *testing.T) {
	leave := func(t *testing.T, name string, groups string) (helper *exec.Cmd, daemon int) {
		t.Helper()
		helper = exec.Command(os.Args[0], "-test.run=^TestHelperThatLeavesOrphans$", "-test.v")
		helper.Env = append(os.Environ(), "WORKER_TEST_ORPHANS_OF="+name, "WORKER_TEST_GROUPS="+groups, "TMPDIR="+t.TempDir())
		out, err := helper.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := helper.Start(); err != nil {
			t.Fatal(err)
		}
		for lines := bufio.NewScanner(out); daemon == 0 && lines.Scan(); {
			if text, ok := strings.CutPrefix(lines.Text(), "pid "); ok {
				daemon, _ = strconv.Atoi(text)
			}
		}
		if daemon == 0 || !alive(daemon) {
			t.Fatalf("the helper runs no daemon (%d)", daemon)
		}
		t.Cleanup(func() {
			_ = helper.Process.Kill()
			_ = unix.Kill(daemon, unix.SIGKILL)
			_ = helper.Wait()
		})
		return helper, daemon
	}
	for mode, groups := range map[string]string{"by marks": "", "by groups": "1"} {
		t.Run(mode, func(t *testing.T) {
			killed, left := leave(t, "killed", groups)
			running, kept := leave(t, "killed", groups)
			other, otherLeft := leave(t, "another", groups)
			for _, helper := range []*exec.Cmd{killed, other} {
				if err := helper.Process.Kill(); err != nil {
					t.Fatal(err)
				}
				_ = helper.Wait()
			}
			if !alive(left) || !alive(otherLeft) {
				t.Fatal("the test is void: what was left has ended by itself")
			}
			newTestSandbox(t, "killed", groups != "")
			if alive(left) {
				t.Error("what the killed worker has left is alive")
			}
			if !alive(kept) || !alive(running.Process.Pid) {
				t.Error("what a worker that runs, of the same name, has started was killed")
			}
			if !alive(otherLeft) {
				t.Error("what another worker has left was killed")
			}
			newTestSandbox(t, "another", groups != "")
			if in, err := delegatedCgroup(); groups != "" && err == nil {
				dirs, _ := filepath.Glob(filepath.Join(in.dir, "leat-*", "*-*"))
				for _, dir := range dirs {
					if pids, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs")); bytes.Contains(pids, []byte(strconv.Itoa(left))) {
						t.Errorf("the group %s is left", dir)
					}
				}
			}
		})
	}
}

func TestFilesOfAKilledWorkerAreRemoved(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	s := newTestSandbox(t, "files", false)
	own, _ := ownIdentity()
	prefix, rest, _ := strings.Cut(filepath.Base(s.attemptDirs.parent), own.String())
	stale := filepath.Join(os.TempDir(), prefix+identity{own.pidNamespace, own.pid, own.started - 1}.String()+rest)
	foreign := filepath.Join(os.TempDir(), "leat-0123456789abcdef-"+identity{own.pidNamespace, own.pid, own.started - 1}.String()+rest)
	used := filepath.Join(os.TempDir(), "leat-0123456789abcdef-"+own.String()+rest)
	unknown := filepath.Join(os.TempDir(), "leat-worker-a-b-c.d")
	for _, dir := range []string{stale, foreign, used, unknown} {
		if err := os.MkdirAll(filepath.Join(dir, "1"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	newTestSandbox(t, "files", false)
	for _, dir := range []string{stale, foreign} {
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("those of a killed one are left: %s", dir)
		}
	}
	for _, dir := range []string{s.attemptDirs.parent, used, unknown} {
		if _, err := os.Stat(dir); err != nil {
			t.Errorf("those of another were removed: %v", err)
		}
	}
}
