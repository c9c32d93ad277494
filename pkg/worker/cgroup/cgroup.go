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

// Package cgroup runs the tasks of a worker in control groups (version 2) that limit their resources.
package cgroup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/util/wait"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/worker/pressure"
	"github.com/leat-dev/leat/pkg/worker/reaper"
)

// leafCgroup is the group that this process moves to before it enables controllers in its own: a group with enabled
// controllers cannot contain processes.
const leafCgroup = "leat-worker"

// Delegation is the control group (v2) in which this process may create groups.
type Delegation struct {
	Dir string
	// Controllers are the enabled ones of those that are used here.
	Controllers []string
	// LimitsErr is why there are no controllers, nil if there are.
	LimitsErr error
}

// Delegate returns the control group that this process was started in. If controllers can be enabled there, it
// has moved this process to a leaf.
func Delegate() (Delegation, error) {
	self, err := procfs.Self()
	if err != nil {
		return Delegation{}, err
	}
	dir, err := cgroupDir(self)
	if err != nil {
		return Delegation{}, err
	}
	return delegate(dir)
}

// cgroupDir returns the directory of a process's control group.
func cgroupDir(process procfs.Proc) (string, error) {
	memberships, err := process.Cgroups()
	if err != nil {
		return "", err
	}
	mounts, err := process.MountInfo()
	if err != nil {
		return "", err
	}
	group := ""
	for _, membership := range memberships {
		if membership.HierarchyID == 0 {
			group = membership.Path
		}
	}
	switch {
	case group == "":
		return "", errors.New("this machine has no control groups of version 2")
	case strings.HasPrefix(group, "/.."):
		return "", fmt.Errorf("the control group %s is outside of what this process may see", group)
	}
	for _, mount := range mounts {
		if mount.FSType != "cgroup2" {
			continue
		}
		// The mount point is the group Root of the hierarchy.
		below, err := filepath.Rel(mount.Root, group)
		if err == nil && below != ".." && !strings.HasPrefix(below, "../") {
			return filepath.Join(mount.MountPoint, below), nil
		}
	}
	return "", fmt.Errorf("the control group %s is not mounted", group)
}

// delegate enables the available ones of the controllers cpu, memory and pids in dir.
func delegate(dir string) (Delegation, error) {
	if err := unix.Access(dir, unix.W_OK); err != nil {
		return Delegation{}, fmt.Errorf("the control group %s is not this user's to write to: %w", dir, err)
	}
	d := Delegation{Dir: dir}
	available, err := readWords(dir, "cgroup.controllers")
	if err != nil {
		return Delegation{}, err
	}
	for _, name := range []string{"cpu", "memory", "pids"} {
		if slices.Contains(available, name) {
			d.Controllers = append(d.Controllers, name)
		}
	}
	if len(d.Controllers) == 0 {
		d.LimitsErr = fmt.Errorf("the control group %s has none of the controllers cpu, memory and pids", dir)
		return d, nil
	}
	enabled, err := readWords(dir, "cgroup.subtree_control")
	if err != nil {
		return Delegation{}, err
	}
	if slices.ContainsFunc(d.Controllers, func(name string) bool { return !slices.Contains(enabled, name) }) {
		if err := moveToLeaf(dir); err != nil {
			return Delegation{Dir: dir, LimitsErr: err}, nil
		}
		if err := enableControllers(dir, d.Controllers); err != nil {
			return Delegation{Dir: dir, LimitsErr: err}, nil
		}
	}
	return d, nil
}

// moveToLeaf moves this process from the group to a leaf of it. It returns an error if other processes are in the
// group.
func moveToLeaf(dir string) error {
	// Only the root of the hierarchy has no type, and it may contain processes.
	if _, err := os.Stat(filepath.Join(dir, "cgroup.type")); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	pids, err := readWords(dir, "cgroup.procs")
	if err != nil {
		return err
	}
	self := strconv.Itoa(os.Getpid())
	for _, pid := range pids {
		if pid != self {
			return fmt.Errorf("the control group %s holds other processes too, such as %s: start the worker in its own group", dir, pid)
		}
	}
	leaf := filepath.Join(dir, leafCgroup)
	if err := os.MkdirAll(leaf, 0o755); err != nil {
		return err
	}
	return writeFile(leaf, "cgroup.procs", self)
}

func enableControllers(dir string, controllers []string) error {
	return writeFile(dir, "cgroup.subtree_control", "+"+strings.Join(controllers, " +"))
}

// Groups is the control group of one worker, which contains one group for each attempt.
type Groups struct {
	dir         string
	controllers []string
	memory      int64 // of the worker in bytes, or zero
	maxPIDs     int64 // of a task; less than zero is unlimited
}

// NewGroups creates the group of a worker.
func NewGroups(parent Delegation, name string, memory, maxPIDs int64) (*Groups, error) {
	g := &Groups{dir: filepath.Join(parent.Dir, name), controllers: parent.Controllers, memory: memory, maxPIDs: maxPIDs}
	if err := os.MkdirAll(g.dir, 0o755); err != nil {
		return nil, err
	}
	err := g.configure()
	if err != nil {
		_ = unix.Rmdir(g.dir)
		return nil, err
	}
	return g, nil
}

func (g *Groups) configure() error {
	if _, err := os.Stat(filepath.Join(g.dir, "cgroup.kill")); err != nil {
		return fmt.Errorf("the kernel cannot kill a control group, as it can from Linux 5.14 on: %w", err)
	}
	if len(g.controllers) == 0 {
		return nil
	}
	if slices.Contains(g.controllers, "memory") && g.memory > 0 {
		if err := writeFile(g.dir, "memory.max", strconv.FormatInt(g.memory, 10)); err != nil {
			return err
		}
	}
	return enableControllers(g.dir, g.controllers)
}

// Group is the control group of one attempt.
type Group struct {
	dir    string
	handle int // a descriptor of the directory
	// EventsFile is the path of memory.events, empty without the memory controller.
	EventsFile string
}

// Create creates the group of an attempt with these limits:
//   - cpu.weight is 100, the kernel's default, for each requested CPU, and 1 for a task that requests none.
//   - memory.min is the memory that the task requests. The kernel does not reclaim it for others.
//   - memory.oom.group makes the kernel kill the whole task, not one of its processes, when memory runs out.
//   - pids.max keeps a fork bomb from using all process numbers of the machine.
func (g *Groups) Create(name string, requests batch.ResourceList) (*Group, error) {
	created := &Group{dir: filepath.Join(g.dir, name)}
	if err := os.Mkdir(created.dir, 0o755); err != nil {
		return nil, err
	}
	var errs []error
	for _, controller := range g.controllers {
		switch controller {
		case "cpu":
			cpu := requests[batch.ResourceCPU]
			weight := min(max(cpu.MilliValue()/10, 1), 10_000)
			errs = append(errs, writeFile(created.dir, "cpu.weight", strconv.FormatInt(weight, 10)))
		case "memory":
			created.EventsFile = filepath.Join(created.dir, "memory.events")
			errs = append(errs, writeFile(created.dir, "memory.oom.group", "1"))
			if memory := requests[batch.ResourceMemory]; memory.Sign() > 0 {
				errs = append(errs, writeFile(created.dir, "memory.min", strconv.FormatInt(memory.Value(), 10)))
			}
		case "pids":
			if g.maxPIDs > 0 {
				errs = append(errs, writeFile(created.dir, "pids.max", strconv.FormatInt(g.maxPIDs, 10)))
			}
		}
	}
	handle, err := unix.Open(created.dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err = errors.Join(append(errs, os.NewSyscallError("open", err))...); err != nil {
		if handle >= 0 {
			_ = unix.Close(handle)
		}
		_ = unix.Rmdir(created.dir)
		return nil, err
	}
	created.handle = handle
	return created, nil
}

// KillAndRemove kills all processes in the group and removes it. oomKilled is whether the kernel killed one of them
// before because memory ran out.
func (g *Group) KillAndRemove() (oomKilled bool, err error) {
	_ = unix.Close(g.handle)
	return HasOOMKill(g.EventsFile), Kill(g.dir)
}

// PeakMemory returns the largest memory that the group has used, in bytes, or zero if the kernel does not record it: it
// does from Linux 5.19 on, with the memory controller. It is valid until KillAndRemove.
func (g *Group) PeakMemory() int64 {
	if g.EventsFile == "" {
		return 0
	}
	fd, err := unix.Openat(g.handle, "memory.peak", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0
	}
	defer unix.Close(fd)
	var text [24]byte
	n, _ := unix.Read(fd, text[:])
	peak, _ := strconv.ParseInt(string(bytes.TrimSpace(text[:max(0, n)])), 10, 64)
	return peak
}

// Dir returns the directory of the group.
func (g *Groups) Dir() string { return g.dir }

// Dir returns the directory of the group.
func (g *Group) Dir() string { return g.dir }

// FD returns a descriptor of the group, with which a process can start in it. It is valid until KillAndRemove.
func (g *Group) FD() int { return g.handle }

// Remove removes the group of the worker. All attempts must have ended.
func (g *Groups) Remove() error { return Kill(g.dir) }

// Kill kills all processes in a group and in the groups below it, and removes them.
func Kill(dir string) error {
	if RemoveEmpty(dir) == nil {
		return nil
	}
	last := error(nil)
	err := wait.PollUntilContextTimeout(context.Background(), 2*time.Millisecond, reaper.KillTimeout, true, func(context.Context) (bool, error) {
		err := writeFile(dir, "cgroup.kill", "1")
		if err != nil && !errors.Is(err, os.ErrNotExist) && pressure.Reason(err) == "" {
			return false, err
		}
		last = RemoveEmpty(dir)
		return last == nil, nil
	})
	if err != nil {
		return fmt.Errorf("the processes of %s do not end although they were killed: %w", dir, errors.Join(err, last))
	}
	return nil
}

// RemoveEmpty removes a group without processes, and groups that a task has created in it.
func RemoveEmpty(dir string) error {
	err := unix.Rmdir(dir)
	if err == nil || errors.Is(err, os.ErrNotExist) {
		return nil
	}
	entries, _ := os.ReadDir(dir)
	for _, entry := range entries {
		if entry.IsDir() {
			if err := RemoveEmpty(filepath.Join(dir, entry.Name())); err != nil {
				return err
			}
		}
	}
	return unix.Rmdir(dir)
}

// HasOOMKill reports whether a memory.events file counts a process that was killed because memory ran out.
func HasOOMKill(file string) bool {
	events, _ := os.ReadFile(file)
	for line := range bytes.Lines(events) {
		if count, ok := bytes.CutPrefix(bytes.TrimSpace(line), []byte("oom_kill ")); ok {
			return string(count) != "0"
		}
	}
	return false
}

func writeFile(dir, file, value string) error { return WriteFile(dir+"/"+file, value) }

// WriteFile writes a value to a file of the kernel in one call, as such files require. It needs fewer system calls than
// os.WriteFile, which tries whether it can wait for the file.
func WriteFile(path, value string) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, []byte(value)); err != nil {
		return &fs.PathError{Op: "write", Path: path, Err: err}
	}
	return nil
}

func readWords(dir, file string) ([]string, error) {
	text, err := os.ReadFile(filepath.Join(dir, file))
	return strings.Fields(string(text)), err
}
