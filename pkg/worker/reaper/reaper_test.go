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

package reaper

import (
	"fmt"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/leat-dev/leat/pkg/worker/processtest"
)

func TestOnlyOrphansAreReaped(t *testing.T) {
	// Where the kernel does not list children, all processes are listed, with the children of all threads.
	r := &Reaper{commands: map[int]bool{}, listChildren: func(int) ([]int, error) { return allProcesses() }}
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
		pid, err := r.Start(func() (int, error) {
			if err := command.Start(); err != nil {
				return 0, err
			}
			return command.Process.Pid, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		others := exec.Command("sh", "-c", fmt.Sprint("exit ", i+1))
		if err := others.Start(); err != nil {
			t.Fatal(err)
		}
		for _, c := range []*exec.Cmd{command, others} {
			processtest.Eventually(t, "it has ended", func() bool { return !processtest.Alive(c.Process.Pid) })
			if err := c.Wait(); c.ProcessState == nil || c.ProcessState.ExitCode() != i+1 {
				t.Errorf("the exit status of a command was taken: %v", err)
			}
		}
		r.Forget(pid)
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
	r := New()
	first, second := r.Acquire(), r.Acquire()
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

func TestHasExited(t *testing.T) {
	own, err := OwnIdentity()
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
		"one that has ended":           {Identity{own.PIDNamespace, gone.Process.Pid, 1}.String(), true},
		"one whose number was reused":  {Identity{own.PIDNamespace, own.PID, own.Started - 1}.String(), true},
		"one that cannot be seen":      {Identity{"4711", gone.Process.Pid, 1}.String(), false},
		"one of an unknown namespace":  {Identity{"", gone.Process.Pid, 1}.String(), false},
		"no owner":                     {"x", false},
		"an owner that makes no sense": {own.PIDNamespace + "-x-y", false},
	} {
		if got := HasExited(tc.by); got != tc.want {
			t.Errorf("%s: ended is %t", name, got)
		}
		if got := isOrphan(MarkVariable+"="+tc.by+"/ns/w/inc/uid-1", "ns/w"); got != tc.want {
			t.Errorf("%s: orphaned is %t", name, got)
		}
		for _, other := range []string{MarkVariable + "=" + tc.by + "/ns/w2/inc/uid-1", MarkVariable + "=" + tc.by + "/ns/w", "OTHER=" + tc.by + "/ns/w/inc/uid-1"} {
			if isOrphan(other, "ns/w") {
				t.Errorf("%s: %s is taken for the worker's", name, other)
			}
		}
	}
}
