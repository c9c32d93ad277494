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

package sandbox

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

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/api/resource"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/worker/attempt"
	"github.com/leat-dev/leat/pkg/worker/cgroup"
	"github.com/leat-dev/leat/pkg/worker/process"
	"github.com/leat-dev/leat/pkg/worker/processtest"
	"github.com/leat-dev/leat/pkg/worker/reaper"
)

// testHost is the host of the test process.
var testHost = NewHost()

// newTestSandbox returns the sandbox of a worker with that name. Without control groups it finds processes by their
// marks.
func newTestSandbox(t *testing.T, name string, withGroups bool) *Sandbox {
	t.Helper()
	t.Cleanup(testHost.Acquire())
	s, err := New(t.Context(), testHost, Config{
		Namespace: "default", Name: name, Incarnation: strconv.FormatInt(time.Now().UnixNano(), 36), TaskMaxPIDs: 4096,
	})
	if err != nil {
		t.Fatal(err)
	}
	all := *s
	t.Cleanup(func() {
		if err := all.Close(); err != nil {
			t.Error(err)
		}
	})
	if !withGroups {
		s.cgroups = nil
	}
	return s
}

// both runs a test with processes found by marks, and in control groups if this machine has them.
func both(t *testing.T, test func(t *testing.T, s *Sandbox)) {
	t.Run("by marks", func(t *testing.T) { test(t, newTestSandbox(t, "by-marks", false)) })
	t.Run("by groups", func(t *testing.T) {
		s := newTestSandbox(t, "by-groups", true)
		if s.cgroups == nil {
			if in, err := testHost.delegation(); err == nil && in.LimitsErr == nil {
				t.Errorf("there are no groups in %s, which has controllers", in.Dir)
			}
			t.Log("this machine lets no control groups be used: marks are tested again")
		}
		test(t, s)
	})
}

// lone returns the ID of an attempt at a task without spec.indexes.
func lone(number int32) attempt.ID { return attempt.ID{Index: attempt.NoIndex, Number: number} }

func (s *Sandbox) sh(t *testing.T, script string) *process.Process {
	t.Helper()
	c, progress, _ := s.Prepare(t.Context(), &batch.Task{Spec: batch.TaskSpec{Command: []string{"sh", "-c", strings.ReplaceAll(script, "$", "$$")}}}, lone(1), nil)
	p := mustStart(t, s, c)
	t.Cleanup(func() {
		p.Terminate(0)
		<-p.Done()
		s.Release(progress)
	})
	return p
}

func TestRemainingProcessesOfACommandAreKilled(t *testing.T) {
	both(t, func(t *testing.T, s *Sandbox) {
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
				if pid := processtest.PIDIn(t, file); processtest.Alive(pid) {
					t.Errorf("process %d is alive", pid)
				}
			})
		}
	})
}

func TestProcessesOfOtherCommandsAreNotKilled(t *testing.T) {
	both(t, func(t *testing.T, s *Sandbox) {
		file := filepath.Join(t.TempDir(), "pid")
		c, _, _ := s.Prepare(t.Context(), &batch.Task{Spec: batch.TaskSpec{Command: []string{"sh", "-c",
			"(setsid sh -c 'echo $$$$ >" + file + "; exec sleep 1000' &); exec sleep 1000"}}}, lone(2), nil)
		other := mustStart(t, s, c)
		daemon := processtest.PIDIn(t, file)
		for range 5 {
			awaitExit(t, s.sh(t, "(setsid sleep 1000 &); exit 0"))
		}
		if !processtest.Alive(daemon) || !processtest.Alive(other.PID()) {
			t.Error("what another command runs has ended")
		}
		other.Terminate(0)
		awaitExit(t, other)
		if processtest.Alive(daemon) {
			t.Error("it does not end with its own")
		}
	})
}

// zombies returns how many children of this process are dead and not reaped.
func zombies() int {
	n := 0
	files, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, file := range files {
		stat, _ := os.ReadFile(file)
		_, after, _ := strings.Cut(string(stat), ") ")
		if strings.HasPrefix(after, fmt.Sprintf("Z %d ", os.Getpid())) {
			n++
		}
	}
	return n
}

func TestNoOrphanStaysAZombie(t *testing.T) {
	both(t, func(t *testing.T, s *Sandbox) {
		done := filepath.Join(t.TempDir(), "done")
		p := s.sh(t, `i=0; while [ $i -lt 300 ]; do (setsid sh -c : &); (sh -c : &); i=$((i+1)); done; sleep 0.1; touch `+done+`; exec sleep 1000`)
		processtest.Eventually(t, "the orphans are made", func() bool { _, err := os.Stat(done); return err == nil })
		processtest.Eventually(t, "all are reaped while the command runs", func() bool { return zombies() == 0 })
		p.Terminate(0)
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
				p, err := s.Start(process.Command{Argv: []string{"sh", "-c", fmt.Sprint("exit ", i+1)}})
				if err != nil {
					t.Error(err)
					continue
				}
				<-p.Done()
				if code, _ := p.ExitStatus(); code != int32(i+1) {
					t.Errorf("exit code %d, want %d", code, i+1)
				}
			}
		})
	}
	parts.Wait()
	farm.Terminate(0)
	awaitExit(t, farm)
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
	daemon := processtest.PIDIn(t, dir+"/pid")
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
	p.Terminate(0)
	select {
	case <-p.Done():
	case <-time.After(200 * time.Millisecond):
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	<-p.Done()
	if processtest.Alive(daemon) {
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
	c, _, _ := s.Prepare(context.Background(), &batch.Task{Spec: batch.TaskSpec{Command: []string{"sh", "-c",
		"(setsid sh -c 'echo pid $$$$; exec sleep 1000' &); exec sleep 1000"}}}, lone(1), nil)
	c.Env = append(c.Env, "WORKER_TEST_ORPHANS_OF=")
	p := exec.Command(c.Argv[0], c.Argv[1:]...)
	p.Env, p.Stdout = c.Env, os.Stdout
	p.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if c.Cgroup != nil {
		p.SysProcAttr.UseCgroupFD, p.SysProcAttr.CgroupFD = true, c.Cgroup.FD()
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
		if daemon == 0 || !processtest.Alive(daemon) {
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
			if !processtest.Alive(left) || !processtest.Alive(otherLeft) {
				t.Fatal("the test is void: what was left has ended by itself")
			}
			newTestSandbox(t, "killed", groups != "")
			if processtest.Alive(left) {
				t.Error("what the killed worker has left is alive")
			}
			if !processtest.Alive(kept) || !processtest.Alive(running.Process.Pid) {
				t.Error("what a worker that runs, of the same name, has started was killed")
			}
			if !processtest.Alive(otherLeft) {
				t.Error("what another worker has left was killed")
			}
			newTestSandbox(t, "another", groups != "")
			if in, err := testHost.delegation(); groups != "" && err == nil {
				dirs, _ := filepath.Glob(filepath.Join(in.Dir, "leat-*", "*-*"))
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
	own, _ := reaper.OwnIdentity()
	earlier := own
	earlier.Started--
	prefix, rest, _ := strings.Cut(filepath.Base(s.attemptDirs.parent), own.String())
	stale := filepath.Join(os.TempDir(), prefix+earlier.String()+rest)
	foreign := filepath.Join(os.TempDir(), "leat-0123456789abcdef-"+earlier.String()+rest)
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

// plain returns a directory of plain files, which accept everything that is written to them.
func plain(t *testing.T, dir string, files map[string]string) string {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func content(dir, file string) string {
	text, _ := os.ReadFile(filepath.Join(dir, file))
	return string(text)
}

func TestOOMScore(t *testing.T) {
	for _, tc := range []struct{ own, request, capacity, want int64 }{
		{0, 0, 1000, 1000},
		{0, 250, 1000, 750},
		{0, 1000, 1000, 1},
		{0, 5000, 1000, 1},
		{900, 250, 1000, 901},
		{1000, 0, 1000, 1000},
		{-998, 1000, 1000, 0},
	} {
		if got := oomScoreAdj(tc.own, tc.request, tc.capacity); got != tc.want {
			t.Errorf("oomScoreAdj(%d, %d, %d) = %d, want %d", tc.own, tc.request, tc.capacity, got, tc.want)
		}
	}
}

func TestTasksAreKilledBeforeTheirWorker(t *testing.T) {
	s := newTestSandbox(t, "score", false)
	s.memory = 1000 << 20
	c, _, _ := s.Prepare(t.Context(), &batch.Task{Spec: batch.TaskSpec{
		Command:   []string{"sleep", "1000"},
		Resources: batch.TaskResources{Requests: batch.ResourceList{"memory": resource.MustParse("100Mi")}},
	}}, lone(1), nil)
	p := mustStart(t, s, c)
	processtest.Eventually(t, "the score is set", func() bool {
		return content("/proc/"+strconv.Itoa(p.PID()), "oom_score_adj") == strconv.FormatInt(max(900, s.oomScoreAdj+1), 10)+"\n"
	})
}

func TestOOMKilledIsDetected(t *testing.T) {
	s := newTestSandbox(t, "memory", true)
	for i, tc := range []struct {
		name, events, script string
		want                 bool
	}{
		{"killed", "low 0\noom 1\noom_kill 2\noom_group_kill 1\n", "kill -9 $$", true},
		{"a shell's child was", "oom 1\noom_kill 1\n", "exit 137", true},
		{"killed by somebody", "oom 0\noom_kill 0\noom_group_kill 0\n", "kill -9 $$", false},
		{"a part, and it succeeded", "oom_kill 1\n", "exit 0", false},
		{"a part, and it failed", "oom_kill 1\n", "exit 1", false},
		{"no memory events", "", "kill -9 $$", false},
		{"was over a limit, no death", "max 7\noom 1\noom_kill 0\n", "kill -9 $$", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			events := filepath.Join(plain(t, t.TempDir(), map[string]string{"memory.events": tc.events}), "memory.events")
			c, _, _ := s.Prepare(t.Context(), &batch.Task{}, lone(int32(i)), nil)
			c.Argv = []string{"sh", "-c", tc.script}
			if c.Cgroup == nil {
				t.Logf("this machine has no control groups to use: only the file is read")
				if got := cgroup.HasOOMKill(events); tc.want && !got {
					t.Error("the file is not understood")
				}
				return
			}
			c.Cgroup.EventsFile = events
			p := mustStart(t, s, c)
			awaitExit(t, p)
			if p.OOMKilled() != tc.want {
				t.Errorf("out of memory: %t", p.OOMKilled())
			}
		})
	}
}

// TestRealCgroup uses the control groups of this machine, if this test may.
func TestRealCgroup(t *testing.T) {
	s := newTestSandbox(t, "real", true)
	in, err := testHost.delegation()
	if s.cgroups == nil {
		t.Logf("this machine has no control groups to use (%v): commands are started all the same", err)
		if code, _ := awaitExit(t, s.sh(t, "exit 3")); code != 3 {
			t.Errorf("exit code %d", code)
		}
		return
	}
	t.Logf("groups in %s, controllers %q, limits: %v", in.Dir, in.Controllers, in.LimitsErr)

	dir := t.TempDir()
	p := s.sh(t, `(setsid env -i sh -c 'cat /proc/self/cgroup >`+dir+`/child; echo $$ >`+dir+`/pid; exec sleep 1000' &); cat /proc/self/cgroup >`+dir+`/own; exec sleep 1000`)
	daemon := processtest.PIDIn(t, dir+"/pid")
	group := filepath.Join(s.cgroups.Dir(), "-1")
	for _, file := range []string{"own", "child"} {
		processtest.Eventually(t, "the "+file+" group is written", func() bool { return strings.Contains(content(dir, file), filepath.Base(group)+"\n") })
	}
	// A task, for example a container runtime, creates groups in its own.
	if err := os.MkdirAll(filepath.Join(group, "a", "b"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(group, "a", "b", "cgroup.procs"), []byte(strconv.Itoa(daemon)), 0o644); err != nil {
		t.Fatal(err)
	}
	p.Terminate(0)
	awaitExit(t, p)
	if processtest.Alive(daemon) {
		t.Error("a process of the group is alive")
	}
	if _, err := os.Stat(group); err == nil {
		t.Error("the group is left")
	}

	// Nothing can start in this group.
	plain(t, filepath.Join(dir, "w"), map[string]string{"cgroup.kill": ""})
	groups, err := cgroup.NewGroups(cgroup.Delegation{Dir: dir}, "w", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	none, err := groups.Create("none", nil)
	if err != nil {
		t.Fatal(err)
	}
	outside := mustStart(t, s, process.Command{Argv: []string{"sh", "-c", "exit 4"}, Cgroup: none})
	if code, _ := awaitExit(t, outside); code != 4 {
		t.Errorf("exit code %d of a command that was started without its group", code)
	}

	// This command cannot start.
	c, _, _ := s.Prepare(t.Context(), &batch.Task{Spec: batch.TaskSpec{Command: []string{"/no/such/program"}}}, lone(7), nil)
	if _, err := s.Start(c); err == nil {
		t.Fatal("it was started")
	}
	if err := unix.Access(c.Cgroup.Dir(), unix.F_OK); err == nil {
		t.Error("its group is left")
	}
}

func mustStart(t *testing.T, s *Sandbox, c process.Command) *process.Process {
	t.Helper()
	p, err := s.Start(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Terminate(0) })
	return p
}

func awaitExit(t *testing.T, p *process.Process) (code, signal int32) {
	t.Helper()
	select {
	case <-p.Done():
	case <-time.After(15 * time.Second):
		t.Fatal("the command does not end")
	}
	return p.ExitStatus()
}
