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

package measure

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

const (
	cgroupRoot = "/sys/fs/cgroup"
	// quotaPeriod is the default period of container runtimes.
	quotaPeriod = 100 * time.Millisecond
)

// LimitCPU limits the CPU time of a process like the limit of a container does: it creates a cgroup and moves the process to
// it. It needs root. free moves the process back and removes the cgroup.
func LimitCPU(name string, pid int, processors float64) (free func() error, err error) {
	parent, quotaFile := filepath.Join(cgroupRoot, "cpu"), "cpu.cfs_quota_us"
	quota := strconv.FormatInt(int64(processors*float64(quotaPeriod.Microseconds())), 10)
	if _, err := os.Stat(filepath.Join(cgroupRoot, "cgroup.controllers")); err == nil { // version 2
		parent, quotaFile, quota = cgroupRoot, "cpu.max", fmt.Sprintf("%s %d", quota, quotaPeriod.Microseconds())
		if err := write(parent, "cgroup.subtree_control", "+cpu"); err != nil {
			return nil, err
		}
	}
	group := filepath.Join(parent, name)
	if err := os.Mkdir(group, 0o755); err != nil {
		return nil, fmt.Errorf("limiting the CPU of a process needs root and writable cgroups: %w", err)
	}
	err = write(group, quotaFile, quota)
	if err == nil && quotaFile != "cpu.max" {
		err = write(group, "cpu.cfs_period_us", strconv.FormatInt(quotaPeriod.Microseconds(), 10))
	}
	if err == nil {
		err = write(group, "cgroup.procs", strconv.Itoa(pid))
	}
	free = func() error {
		return errors.Join(write(parent, "cgroup.procs", strconv.Itoa(pid)), os.Remove(group))
	}
	if err != nil {
		return nil, errors.Join(err, os.Remove(group))
	}
	return free, nil
}

// write writes to an existing file.
func write(dir, file, text string) error {
	f, err := os.OpenFile(filepath.Join(dir, file), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}
