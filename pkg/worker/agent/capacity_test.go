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

package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

func TestCapacity(t *testing.T) {
	list, err := Capacity(3, map[string]string{"cpu": "500m", "example.com/gpu": "2"})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"tasks": "3", "cpu": "500m", "example.com/gpu": "2"} {
		if quantity := list[batch.ResourceName(name)]; quantity.String() != want {
			t.Errorf("%s is %s, want %s", name, quantity.String(), want)
		}
	}
	if quantity := list[batch.ResourceMemory]; quantity.Value() <= 0 {
		t.Errorf("the machine has %s of memory", quantity.String())
	}
	if quantity := MachineCapacity()[batch.ResourceCPU]; quantity.Value() < 1 {
		t.Errorf("the machine has %s of cpu", quantity.String())
	}
	for _, tc := range []struct{ name, quantity, want string }{
		{"tasks", "3", "tasks=3: must not be tasks"},
		{"gpu", "1", "gpu=1: the name must be"},
		{"cpu", "many", "cpu=many: the quantity must be"},
		{"memory", "-1", "memory=-1: the quantity must be"},
	} {
		if _, err := Capacity(1, map[string]string{tc.name: tc.quantity}); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s=%s: %v, want it to say %q", tc.name, tc.quantity, err, tc.want)
		}
	}
}

func TestMemory(t *testing.T) {
	const meminfo = "MemTotal:       16384 kB\nMemFree:         1024 kB\n"
	for name, tc := range map[string]struct {
		files map[string]string
		want  int64
	}{
		"limited":     {map[string]string{"sys/fs/cgroup/memory.max": "4096\n", "proc/meminfo": meminfo}, 4096},
		"not limited": {map[string]string{"sys/fs/cgroup/memory.max": "max\n", "proc/meminfo": meminfo}, 16384 * 1024},
		"no group":    {map[string]string{"proc/meminfo": meminfo}, 16384 * 1024},
		"not known":   {nil, 0},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			for file, content := range tc.files {
				path := filepath.Join(root, file)
				if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if got := memory(root); got != tc.want {
				t.Errorf("memory is %d, want %d", got, tc.want)
			}
		})
	}
}
