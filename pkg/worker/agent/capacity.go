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
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"

	"github.com/prometheus/procfs"
	"k8s.io/apimachinery/pkg/api/resource"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// MachineCapacity returns the CPU and memory that this process may use: the limits of its control group, or otherwise
// what the machine has. It leaves out memory if that is unknown.
func MachineCapacity() batch.ResourceList {
	list := batch.ResourceList{batch.ResourceCPU: *resource.NewQuantity(int64(runtime.GOMAXPROCS(0)), resource.DecimalSI)}
	if bytes := memory("/"); bytes > 0 {
		list[batch.ResourceMemory] = *resource.NewQuantity(bytes, resource.BinarySI)
	}
	return list
}

// Capacity returns the capacity of a worker that runs the given number of tasks at a time: MachineCapacity,
// overridden and extended by overrides. An error names the invalid entry of overrides as NAME=QUANTITY, and what
// would be accepted.
func Capacity(tasks int, overrides map[string]string) (batch.ResourceList, error) {
	list := MachineCapacity()
	for name, text := range overrides {
		switch {
		case name == string(batch.ResourceTasks):
			return nil, fmt.Errorf("%s=%s: must not be %s, which has a flag of its own", name, text, name)
		case name != string(batch.ResourceCPU) && name != string(batch.ResourceMemory) && !strings.Contains(name, "/"):
			return nil, fmt.Errorf("%s=%s: the name must be cpu, memory, or one with a domain, like example.com/gpu", name, text)
		}
		quantity, err := resource.ParseQuantity(text)
		if err != nil || quantity.Sign() < 0 {
			return nil, fmt.Errorf("%s=%s: the quantity must be a number like 4, 500m or 16Gi, 0 or more", name, text)
		}
		list[batch.ResourceName(name)] = quantity
	}
	list[batch.ResourceTasks] = *resource.NewQuantity(int64(tasks), resource.DecimalSI)
	return list, nil
}

// memory returns how many bytes of memory this process may use: the limit of its control group, or otherwise what the
// machine has. It returns zero if that is unknown. root is the root of the file system.
func memory(root string) int64 {
	if limit, err := os.ReadFile(root + "/sys/fs/cgroup/memory.max"); err == nil {
		if bytes, err := strconv.ParseInt(strings.TrimSpace(string(limit)), 10, 64); err == nil {
			return bytes
		}
	}
	proc, err := procfs.NewFS(root + "/proc")
	if err != nil {
		return 0
	}
	if info, err := proc.Meminfo(); err == nil && info.MemTotalBytes != nil {
		return int64(*info.MemTotalBytes)
	}
	return 0
}
