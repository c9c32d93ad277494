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

package cgroup

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/api/resource"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

func TestCgroupDir(t *testing.T) {
	const (
		unified   = "25 30 0:22 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
		hybrid    = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
		container = "700 690 0:22 /system.slice/docker-1.scope /sys/fs/cgroup ro master:4 - cgroup2 cgroup rw\n"
	)
	for name, tc := range map[string]struct {
		membership, mounts, want, wantFailed string
	}{
		"systemd":                      {"0::/system.slice/leat.service\n", unified, "/sys/fs/cgroup/system.slice/leat.service", ""},
		"two versions":                 {"9:name=systemd:/x\n8:pids:/y\n0::/z\n", hybrid, "/sys/fs/cgroup/unified/z", ""},
		"a container":                  {"0::/\n", unified, "/sys/fs/cgroup", ""},
		"a part of the hierarchy":      {"0::/system.slice/docker-1.scope/a\n", container, "/sys/fs/cgroup/a", ""},
		"outside of what is mounted":   {"0::/system.slice/docker-2.scope\n", container, "", "is not mounted"},
		"outside of its own namespace": {"0::/../other\n", unified, "", "outside of what"},
		"not mounted":                  {"0::/x\n", "", "", "is not mounted"},
		"version 1 only":               {"8:pids:/y\n", hybrid, "", "no control groups of version 2"},
	} {
		t.Run(name, func(t *testing.T) {
			proc := plain(t, t.TempDir(), nil)
			plain(t, filepath.Join(proc, "1"), map[string]string{"cgroup": tc.membership, "mountinfo": tc.mounts})
			fs, err := procfs.NewFS(proc)
			if err != nil {
				t.Fatal(err)
			}
			process, err := fs.Proc(1)
			if err != nil {
				t.Fatal(err)
			}
			got, err := cgroupDir(process)
			if got != tc.want || (err == nil) != (tc.wantFailed == "") || err != nil && !strings.Contains(err.Error(), tc.wantFailed) {
				t.Errorf("got %q, %v; want %q or to fail with %q", got, err, tc.want, tc.wantFailed)
			}
		})
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

func TestDelegate(t *testing.T) {
	self := strconv.Itoa(os.Getpid())
	for name, tc := range map[string]struct {
		files       map[string]string
		controllers []string
		limitsErr   string
		moved       bool
		enabled     string
	}{
		"alone": {
			map[string]string{"cgroup.controllers": "cpuset cpu io memory pids\n", "cgroup.subtree_control": "\n", "cgroup.type": "domain\n", "cgroup.procs": self + "\n"},
			[]string{"cpu", "memory", "pids"}, "", true, "+cpu +memory +pids",
		},
		"not alone": {
			map[string]string{"cgroup.controllers": "cpu memory pids\n", "cgroup.subtree_control": "", "cgroup.type": "domain\n", "cgroup.procs": "1\n" + self + "\n"},
			nil, "holds other processes too, such as 1", false, "",
		},
		"enabled already": {
			map[string]string{"cgroup.controllers": "memory pids\n", "cgroup.subtree_control": "pids memory\n", "cgroup.type": "domain\n", "cgroup.procs": ""},
			[]string{"memory", "pids"}, "", false, "pids memory\n",
		},
		"the root of all": {
			map[string]string{"cgroup.controllers": "cpu\n", "cgroup.subtree_control": "", "cgroup.procs": "1\n2\n"},
			[]string{"cpu"}, "", false, "+cpu",
		},
		"no controllers": {
			map[string]string{"cgroup.controllers": "hugetlb\n", "cgroup.subtree_control": "", "cgroup.procs": "1\n"},
			nil, "none of the controllers", false, "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := plain(t, t.TempDir(), tc.files)
			got, err := delegate(dir)
			if err != nil || got.Dir != dir || !slices.Equal(got.Controllers, tc.controllers) {
				t.Errorf("got %+v, %v, want controllers %q", got, err, tc.controllers)
			}
			if (got.LimitsErr == nil) != (tc.limitsErr == "") || got.LimitsErr != nil && !strings.Contains(got.LimitsErr.Error(), tc.limitsErr) {
				t.Errorf("limits are unavailable because of %v, want %q", got.LimitsErr, tc.limitsErr)
			}
			if moved := content(filepath.Join(dir, leafCgroup), "cgroup.procs") == self; moved != tc.moved {
				t.Errorf("moved to the leaf: %t", moved)
			}
			if enabled := content(dir, "cgroup.subtree_control"); enabled != tc.enabled {
				t.Errorf("enabled %q, want %q", enabled, tc.enabled)
			}
		})
	}
	if _, err := delegate("/proc"); err == nil {
		t.Error("a directory without groups was taken for one")
	}
}

func TestLimitsOfATask(t *testing.T) {
	dir := t.TempDir()
	plain(t, filepath.Join(dir, "w"), map[string]string{"cgroup.kill": ""})
	g, err := NewGroups(Delegation{Dir: dir, Controllers: []string{"cpu", "memory", "pids"}}, "w", 8<<30, 100)
	if err != nil {
		t.Fatal(err)
	}
	if got := content(g.dir, "memory.max"); got != "8589934592" {
		t.Errorf("memory.max of all tasks is %q", got)
	}
	if got := content(g.dir, "cgroup.subtree_control"); got != "+cpu +memory +pids" {
		t.Errorf("enabled for tasks is %q", got)
	}
	for name, tc := range map[string]struct {
		requests batch.ResourceList
		want     map[string]string
	}{
		"nothing": {nil, map[string]string{"cpu.weight": "1", "memory.min": "", "memory.oom.group": "1", "pids.max": "100"}},
		"a CPU and memory": {
			batch.ResourceList{"cpu": resource.MustParse("1"), "memory": resource.MustParse("1Gi")},
			map[string]string{"cpu.weight": "100", "memory.min": "1073741824", "memory.oom.group": "1", "pids.max": "100"},
		},
		"a little": {batch.ResourceList{"cpu": resource.MustParse("5m")}, map[string]string{"cpu.weight": "1"}},
		"a half":   {batch.ResourceList{"cpu": resource.MustParse("500m")}, map[string]string{"cpu.weight": "50"}},
		"a lot":    {batch.ResourceList{"cpu": resource.MustParse("1000")}, map[string]string{"cpu.weight": "10000"}},
	} {
		t.Run(name, func(t *testing.T) {
			created, err := g.Create(name, tc.requests)
			if err != nil {
				t.Fatal(err)
			}
			for file, want := range tc.want {
				if got := content(created.dir, file); got != want {
					t.Errorf("%s is %q, want %q", file, got, want)
				}
			}
			_ = unix.Close(created.handle)
		})
	}
	g.maxPIDs, g.controllers = -1, []string{"pids"}
	created, err := g.Create("not bounded", nil)
	if err != nil {
		t.Fatal(err)
	}
	if entries, _ := os.ReadDir(created.dir); len(entries) > 0 {
		t.Errorf("written: %v", entries)
	}
	_ = unix.Close(created.handle)
	if _, err := NewGroups(Delegation{Dir: dir}, "without cgroup.kill", 0, 1); err == nil || !strings.Contains(err.Error(), "5.14") {
		t.Errorf("an old kernel: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "without cgroup.kill")); err == nil {
		t.Error("the group that is of no use is left")
	}
}

func TestPeakMemory(t *testing.T) {
	for name, tc := range map[string]struct {
		files      map[string]string
		eventsFile string
		want       int64
	}{
		"recorded":                      {map[string]string{"memory.peak": "4295012352\n"}, "memory.events", 4295012352},
		"not recorded by the kernel":    {nil, "memory.events", 0},
		"without the memory controller": {map[string]string{"memory.peak": "4096\n"}, "", 0},
		"empty":                         {map[string]string{"memory.peak": ""}, "memory.events", 0},
	} {
		handle, err := unix.Open(plain(t, t.TempDir(), tc.files), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		if got := (&Group{handle: handle, EventsFile: tc.eventsFile}).PeakMemory(); got != tc.want {
			t.Errorf("%s: got %d, want %d", name, got, tc.want)
		}
		_ = unix.Close(handle)
	}
}
