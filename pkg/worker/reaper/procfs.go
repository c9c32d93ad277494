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
	"bytes"
	"fmt"
	"os"

	"github.com/prometheus/procfs"
)

// allProcesses lists all processes of the machine, or of the container.
func allProcesses() ([]int, error) {
	all, err := procfs.AllProcs()
	pids := make([]int, 0, len(all))
	for _, process := range all {
		pids = append(pids, process.PID)
	}
	return pids, err
}

// readStat reads the state of a process.
func readStat(pid int) (procfs.ProcStat, error) {
	process, err := procfs.NewProc(pid)
	if err != nil {
		return procfs.ProcStat{}, err
	}
	return process.Stat()
}

// isDead reports whether the process has ended and waits to be reaped.
func isDead(s procfs.ProcStat) bool { return s.State == "Z" || s.State == "X" }

// isExiting reports whether the process is about to be dead. It has no environment any more, but still has its
// children.
func isExiting(s procfs.ProcStat) bool { return !isDead(s) && s.VSize == 0 }

// hasEnv reports whether the process was started with the entry in its environment.
func hasEnv(pid int, entry string) (bool, error) {
	env, err := readEnviron(pid)
	for e := range bytes.SplitSeq(env, []byte{0}) {
		if string(e) == entry {
			return true, nil
		}
	}
	return false, err
}

// readEnviron returns the environment that the process was started with. A zero byte follows each entry. procfs would
// read only its first MiB, which need not have the mark.
func readEnviron(pid int) ([]byte, error) {
	// While a process replaces its program, the environment is empty.
	for range 3 {
		if env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid)); err != nil || len(env) > 0 {
			return env, err
		}
	}
	return nil, nil
}
