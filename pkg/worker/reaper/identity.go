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
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/util/wait"
)

// MarkVariable is in the environment of all commands. Its value names the worker process and the attempt:
// <identity of the process>/<namespace>/<name>/<incarnation>/<attempt.ID>.
const MarkVariable = "LEAT_PROCESS"

// Identity identifies a worker process on a machine. The start time distinguishes a process from a later one with the
// same number.
type Identity struct {
	PIDNamespace string
	PID          int
	Started      uint64
}

// OwnIdentity returns the identity of this process.
func OwnIdentity() (Identity, error) {
	s, err := readStat(os.Getpid())
	return Identity{pidNamespace(), os.Getpid(), s.Starttime}, err
}

func pidNamespace() string {
	link, _ := os.Readlink("/proc/self/ns/pid")
	return strings.Trim(link, "pid:[]")
}

// String returns the identity in the form that ParseIdentity reads.
func (i Identity) String() string { return fmt.Sprintf("%s-%d-%d", i.PIDNamespace, i.PID, i.Started) }

// ParseIdentity is the inverse of Identity.String.
func ParseIdentity(text string) (i Identity, ok bool) {
	parts := strings.Split(text, "-")
	if len(parts) != 3 || parts[0] == "" {
		return Identity{}, false
	}
	pid, err1 := strconv.Atoi(parts[1])
	started, err2 := strconv.ParseUint(parts[2], 10, 64)
	return Identity{parts[0], pid, started}, err1 == nil && err2 == nil
}

// Visible reports whether this process can see the other one if that is alive. Processes of other PID namespaces are
// not visible.
func (i Identity) Visible() bool { return i.PIDNamespace == pidNamespace() }

// HasExited reports whether text is the identity of a process that has certainly ended.
func HasExited(text string) bool {
	i, ok := ParseIdentity(text)
	if !ok || !i.Visible() {
		return false
	}
	s, err := readStat(i.PID)
	return errors.Is(err, os.ErrNotExist) || err == nil && (s.Starttime != i.Started || isDead(s))
}

// isOrphan reports whether an entry of an environment marks a process of the worker, given as <namespace>/<name>, whose
// worker process has ended.
func isOrphan(entry, worker string) bool {
	mark, ok := strings.CutPrefix(entry, MarkVariable+"=")
	if !ok {
		return false
	}
	owner, rest, _ := strings.Cut(mark, "/")
	return strings.HasPrefix(rest, worker+"/") && HasExited(owner)
}

// KillOrphans kills the processes that earlier processes of the worker have left behind, by the marks in their
// environments. It returns when they are gone.
func KillOrphans(ctx context.Context, worker string) error {
	var left []int
	err := wait.PollUntilContextTimeout(ctx, 5*time.Millisecond, KillTimeout, true, func(context.Context) (bool, error) {
		all, err := allProcesses()
		if err != nil {
			return false, err
		}
		left = slices.DeleteFunc(all, func(pid int) bool {
			// Killed by this handle, the signal cannot reach a later process with the same number.
			handle, err := unix.PidfdOpen(pid, 0)
			if err != nil {
				return true
			}
			defer unix.Close(handle)
			env, _ := readEnviron(pid)
			for entry := range bytes.SplitSeq(env, []byte{0}) {
				if isOrphan(string(entry), worker) {
					_ = unix.PidfdSendSignal(handle, unix.SIGKILL, nil, 0)
					return false
				}
			}
			return true
		})
		return len(left) == 0, nil
	})
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("processes %v, of tasks of an earlier process of this worker, do not end although they were killed", left)
	}
	return err
}

// ForEachOrphan calls a function for each directory in parent whose worker process has ended: own for those of the
// worker with the prefix, others for those of other workers.
func ForEachOrphan(parent, prefix string, own, others func(dir string) error) error {
	dirs, err := filepath.Glob(filepath.Join(parent, "leat-*-*-*-*.*"))
	errs := []error{err}
	for _, dir := range dirs {
		name := filepath.Base(dir)
		owner, _, _ := strings.Cut(name[min(len(prefix)+1, len(name)):], ".")
		switch {
		case !HasExited(owner):
		case strings.HasPrefix(name, prefix+"-"):
			errs = append(errs, own(dir))
		default:
			errs = append(errs, others(dir))
		}
	}
	return errors.Join(errs...)
}
