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
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/util/wait"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// leafGroup is the group that this process moves to when its own is to bound the groups in it: the kernel wants no processes beside
// groups that are bounded.
const leafGroup = "leat-worker"

// delegation is the control group (v2) of this process.
type delegation struct {
	dir string
	// controllers that bound groups in it, of those that are of use.
	controllers []string
	// unbounded says why there are no controllers, nil if there are.
	unbounded error
}

// delegated is the control group that this process was started in. Where groups in it can be bounded, this process has left it for a
// leaf of it.
var delegated = sync.OnceValues(func() (delegation, error) {
	membership, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return delegation{}, err
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return delegation{}, err
	}
	dir, err := groupDir(string(membership), string(mounts))
	if err != nil {
		return delegation{}, err
	}
	return delegate(dir)
})

// groupDir is the directory of the control group of a process, by what /proc tells of it.
func groupDir(membership, mounts string) (string, error) {
	group := ""
	for line := range strings.Lines(membership) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			group = path
		}
	}
	switch {
	case group == "":
		return "", errors.New("this machine has no control groups of version 2")
	case strings.HasPrefix(group, "/.."):
		return "", fmt.Errorf("the control group %s is outside of what this process may see", group)
	}
	for line := range strings.Lines(mounts) {
		fields := strings.Fields(line)
		if i := slices.Index(fields, "-"); i < 6 || len(fields) < i+2 || fields[i+1] != "cgroup2" {
			continue
		}
		// The mount shows the part of the hierarchy below its root.
		if below, err := filepath.Rel(fields[3], group); err == nil && below != ".." && !strings.HasPrefix(below, "../") {
			return filepath.Join(fields[4], below), nil
		}
	}
	return "", fmt.Errorf("the control group %s is not mounted", group)
}

// delegate enables in dir the controllers of use, as far as it has them.
func delegate(dir string) (delegation, error) {
	if err := unix.Access(dir, unix.W_OK); err != nil {
		return delegation{}, fmt.Errorf("the control group %s is not this user's to write to: %w", dir, err)
	}
	d := delegation{dir: dir}
	all, err := words(dir, "cgroup.controllers")
	if err != nil {
		return delegation{}, err
	}
	for _, name := range []string{"cpu", "memory", "pids"} {
		if slices.Contains(all, name) {
			d.controllers = append(d.controllers, name)
		}
	}
	if len(d.controllers) == 0 {
		d.unbounded = fmt.Errorf("the control group %s has none of the controllers cpu, memory and pids", dir)
		return d, nil
	}
	enabled, err := words(dir, "cgroup.subtree_control")
	if err != nil {
		return delegation{}, err
	}
	if slices.ContainsFunc(d.controllers, func(name string) bool { return !slices.Contains(enabled, name) }) {
		if err := vacate(dir); err != nil {
			return delegation{dir: dir, unbounded: err}, nil
		}
		if err := enable(dir, d.controllers); err != nil {
			return delegation{dir: dir, unbounded: err}, nil
		}
	}
	return d, nil
}

// vacate moves this process from the group to a leaf of it, if it is alone there.
func vacate(dir string) error {
	// Only the root of all groups has no type, and may have processes.
	if _, err := os.Stat(filepath.Join(dir, "cgroup.type")); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	pids, err := words(dir, "cgroup.procs")
	if err != nil {
		return err
	}
	self := strconv.Itoa(os.Getpid())
	for _, pid := range pids {
		if pid != self {
			return fmt.Errorf("the control group %s holds other processes too, such as %s: start the worker in one of its own", dir, pid)
		}
	}
	leaf := filepath.Join(dir, leafGroup)
	if err := os.MkdirAll(leaf, 0o755); err != nil {
		return err
	}
	return set(leaf, "cgroup.procs", self)
}

func enable(dir string, controllers []string) error {
	return set(dir, "cgroup.subtree_control", "+"+strings.Join(controllers, " +"))
}

// groups are the control groups of one worker: one for all that its tasks run, and in that one for each attempt.
type groups struct {
	dir         string
	controllers []string
	memory      int64 // that the worker has, in bytes, or zero
	pids        int64 // that a task may have, or less than zero
}

// newGroups makes the group of a worker.
func newGroups(in delegation, name string, memory, pids int64) (*groups, error) {
	g := &groups{dir: filepath.Join(in.dir, name), controllers: in.controllers, memory: memory, pids: pids}
	if err := os.MkdirAll(g.dir, 0o755); err != nil {
		return nil, err
	}
	err := g.prepare()
	if err != nil {
		_ = unix.Rmdir(g.dir)
		return nil, err
	}
	return g, nil
}

func (g *groups) prepare() error {
	if _, err := os.Stat(filepath.Join(g.dir, "cgroup.kill")); err != nil {
		return fmt.Errorf("the kernel cannot kill a control group, as it can from Linux 5.14 on: %w", err)
	}
	if len(g.controllers) == 0 {
		return nil
	}
	if slices.Contains(g.controllers, "memory") && g.memory > 0 {
		if err := set(g.dir, "memory.max", strconv.FormatInt(g.memory, 10)); err != nil {
			return err
		}
	}
	return enable(g.dir, g.controllers)
}

// group is the control group of one attempt.
type group struct {
	dir    string
	handle *os.File
	events string // the file that tells of memory that ran out, empty for none
}

// add makes the group of an attempt, with what bounds its processes:
//   - cpu.weight is 100, the kernel's default, for each CPU that the task requests, and the least there is for a task that
//     requests none;
//   - memory.min is the memory that it requests, which is kept from being reclaimed for others;
//   - memory.oom.group ends all of a task that is chosen when memory runs out, and not one process of it;
//   - pids.max keeps a task that multiplies from taking all process numbers of the machine.
func (g *groups) add(name string, requests batch.ResourceList) (*group, error) {
	added := &group{dir: filepath.Join(g.dir, name)}
	if err := os.Mkdir(added.dir, 0o755); err != nil {
		return nil, err
	}
	var errs []error
	for _, controller := range g.controllers {
		switch controller {
		case "cpu":
			cpu := requests[batch.ResourceCPU]
			errs = append(errs, set(added.dir, "cpu.weight", strconv.FormatInt(min(max(cpu.MilliValue()/10, 1), 10_000), 10)))
		case "memory":
			added.events = filepath.Join(added.dir, "memory.events")
			errs = append(errs, set(added.dir, "memory.oom.group", "1"))
			if memory := requests[batch.ResourceMemory]; memory.Sign() > 0 {
				errs = append(errs, set(added.dir, "memory.min", strconv.FormatInt(memory.Value(), 10)))
			}
		case "pids":
			if g.pids > 0 {
				errs = append(errs, set(added.dir, "pids.max", strconv.FormatInt(g.pids, 10)))
			}
		}
	}
	handle, err := os.Open(added.dir)
	if err = errors.Join(append(errs, err)...); err != nil {
		handle.Close()
		_ = unix.Rmdir(added.dir)
		return nil, err
	}
	added.handle = handle
	return added, nil
}

// end kills all processes that are left in the group and removes it. It tells whether any was killed because memory ran out.
func (g *group) end() (outOfMemory bool, err error) {
	g.handle.Close()
	return killedForMemory(g.events), killGroup(g.dir)
}

// remove removes the group of the worker. Those of its attempts must have ended.
func (g *groups) remove() error { return killGroup(g.dir) }

// killGroup kills all processes in a group and the groups in it, and removes it.
func killGroup(dir string) error {
	if removeGroup(dir) == nil {
		return nil
	}
	last := error(nil)
	err := wait.PollUntilContextTimeout(context.Background(), 2*time.Millisecond, killTimeout, true, func(context.Context) (bool, error) {
		if err := set(dir, "cgroup.kill", "1"); err != nil && !errors.Is(err, os.ErrNotExist) && shortage(err) == "" {
			return false, err
		}
		last = removeGroup(dir)
		return last == nil, nil
	})
	if err != nil {
		return fmt.Errorf("the processes of %s do not end although they were killed: %w", dir, errors.Join(err, last))
	}
	return nil
}

// removeGroup removes a group without processes, and those that a task has made in it.
func removeGroup(dir string) error {
	err := unix.Rmdir(dir)
	if err == nil || errors.Is(err, os.ErrNotExist) {
		return nil
	}
	entries, _ := os.ReadDir(dir)
	for _, entry := range entries {
		if entry.IsDir() {
			if err := removeGroup(filepath.Join(dir, entry.Name())); err != nil {
				return err
			}
		}
	}
	return unix.Rmdir(dir)
}

// killedForMemory says whether a process of a group was killed because memory ran out, by the file that tells.
func killedForMemory(file string) bool {
	events, _ := os.ReadFile(file)
	for line := range bytes.Lines(events) {
		if count, ok := bytes.CutPrefix(bytes.TrimSpace(line), []byte("oom_kill ")); ok {
			return string(count) != "0"
		}
	}
	return false
}

func set(dir, file, value string) error {
	return os.WriteFile(filepath.Join(dir, file), []byte(value), 0o644)
}

func words(dir, file string) ([]string, error) {
	text, err := os.ReadFile(filepath.Join(dir, file))
	return strings.Fields(string(text)), err
}

// oomScore is how soon processes of a task are killed when memory runs out: sooner than the worker, whose own score is given, and
// the sooner the more they use beyond what the task requests, as the kubelet has it for containers.
func oomScore(own, request, capacity int64) int64 {
	return min(max(1000-1000*request/capacity, own+1), 1000)
}
