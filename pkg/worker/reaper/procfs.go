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
	"errors"
	"fmt"
	"os"
	"strconv"
)

// allProcesses lists all processes of the machine, or of the container.
func allProcesses() ([]int, error) {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	var pids []int
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids, err
}

// processStat is the part of proc_pid_stat(5) that is used here.
type processStat struct {
	state           byte
	parent, session int
	started         uint64 // in clock ticks since boot
	size            uint64 // of its memory, in bytes
}

// dead reports whether the process has ended and waits to be reaped.
func (s processStat) dead() bool { return s.state == 'Z' || s.state == 'X' }

// exiting reports whether the process is about to be dead. It has no environment any more, and still has its children.
func (s processStat) exiting() bool { return !s.dead() && s.size == 0 }

// readStat reads the state of a process.
func readStat(pid int) (processStat, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return processStat{}, err
	}
	return parseStat(text)
}

// parseStat parses the line of proc_pid_stat(5). The program name in it may contain anything, including parentheses and
// spaces.
func parseStat(text []byte) (processStat, error) {
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	if len(fields) < 21 || len(fields[0]) != 1 {
		return processStat{}, fmt.Errorf("invalid process state: %.100q", text)
	}
	s := processStat{state: fields[0][0]}
	var errs [4]error
	s.parent, errs[0] = strconv.Atoi(string(fields[1]))
	s.session, errs[1] = strconv.Atoi(string(fields[3]))
	s.started, errs[2] = strconv.ParseUint(string(fields[19]), 10, 64)
	s.size, errs[3] = strconv.ParseUint(string(fields[20]), 10, 64)
	return s, errors.Join(errs[:]...)
}

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

// readEnviron returns the environment that the process was started with. A zero byte follows each entry.
func readEnviron(pid int) ([]byte, error) {
	// While a process replaces its program, the environment is empty.
	for range 3 {
		if env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid)); err != nil || len(env) > 0 {
			return env, err
		}
	}
	return nil, nil
}
