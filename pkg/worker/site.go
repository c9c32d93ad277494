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
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// site is where a worker runs its attempts: what tells them apart, bounds them and ends them. The zero site only runs them.
type site struct {
	mark   string  // in the environment of all attempts, followed by the attempt; empty marks none
	groups *groups // nil where control groups cannot be used
	dirs   *dirs   // nil where there is no place for files of attempts
	// begun are the attempts that earlier processes of the worker had begun and not ended, by their incarnations. An
	// incarnation that stopped in order, or that goes on, has none. One that has left no trace is not in it.
	begun    map[string]map[types.UID]bool
	withheld []string
	// memory is what the worker has, in bytes, or zero, and score how soon it is killed itself when memory runs out.
	memory, score int64
}

// newSite ends what is left of earlier processes of the worker, and makes a site. What the machine does not allow is done without.
func newSite(ctx context.Context, options Options, incarnation string) (site, error) {
	logger := klog.FromContext(ctx)
	s := site{withheld: options.WithheldEnv}
	if memory := options.Capacity[batch.ResourceMemory]; memory.Sign() > 0 {
		s.memory = memory.Value()
	}
	if text, err := os.ReadFile("/proc/self/oom_score_adj"); err == nil {
		s.score, _ = strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	}

	by, err := self()
	if err != nil {
		return site{}, fmt.Errorf("reading /proc, which a worker needs: %w", err)
	}
	identity := options.Namespace + "/" + options.Name
	prefix := workerPrefix(options)
	name := fmt.Sprintf("%s-%s.%s", prefix, by, incarnation)

	in, err := delegated()
	if err == nil {
		// What others have left there may still run: it is theirs to kill.
		empty := func(dir string) error { _ = removeGroup(dir); return nil }
		if err := forOrphans(in.dir, prefix, killGroup, empty); err != nil {
			logger.Error(err, "Control groups of an earlier process of this worker are left")
		}
		s.groups, err = newGroups(in, name, s.memory, options.TaskMaxPIDs)
	}
	switch {
	case err != nil:
		logger.Info("Tasks run without control groups: nothing bounds their memory and the number of their processes", "reason", err)
	case in.unbounded != nil:
		logger.Info("Tasks run in control groups that do not bound them", "group", s.groups.dir, "reason", in.unbounded)
	default:
		logger.Info("Tasks run in control groups", "group", s.groups.dir, "controllers", in.controllers)
	}
	// Also those that were started without a group.
	if err := killOrphans(ctx, identity); err != nil {
		logger.Error(err, "Tasks of an earlier process of this worker go on")
	}
	s.mark = fmt.Sprintf("%s=%s/%s/%s", markVariable, by, identity, incarnation)

	s.begun = map[string]map[types.UID]bool{}
	var errs []error
	for _, parent := range options.attemptDirs() {
		if err := removeDirs(parent, prefix, s.begun); err != nil {
			logger.Error(err, "Failed to remove files of an earlier process of this worker", "directory", parent)
		}
	}
	for _, parent := range options.attemptDirs() {
		if s.dirs, err = newDirs(filepath.Join(parent, name)); err == nil {
			return s, nil
		}
		errs = append(errs, err)
	}
	logger.Error(errors.Join(errs...), "Cannot create a directory for the files of tasks; task progress will not be reported")
	return s, nil
}

// workerPrefix returns how the names of groups and directories of the worker begin. It has one length for all workers.
func workerPrefix(options Options) string {
	return fmt.Sprintf("leat-%x", sha256.Sum256([]byte(options.Namespace+"/"+options.Name)))[:len("leat-")+16]
}

// attemptDirs returns where the files of attempts can be, the best place first.
func (o Options) attemptDirs() []string {
	if o.StateDir == "" {
		return []string{os.TempDir()}
	}
	return []string{o.StateDir, os.TempDir()}
}

// leave removes the site, all attempts at which have ended.
func (s *site) leave() error {
	var errs []error
	if s.groups != nil {
		errs = append(errs, s.groups.remove())
	}
	if s.dirs != nil {
		errs = append(errs, s.dirs.remove())
	}
	return errors.Join(errs...)
}

// prepare makes what an attempt needs. startProcess ends the group of the invocation, and clear removes the file in
// which the command reports its progress. The error is one of those that shortage knows; what fails otherwise is done
// without.
func (s *site) prepare(ctx context.Context, task *batch.Task, attempt int32) (invocation, progressFile, error) {
	logger := klog.FromContext(ctx)
	name := fmt.Sprintf("%s-%d", task.UID, attempt)
	progress := progressFile("")
	if s.dirs != nil {
		dir, err := s.dirs.take(name)
		switch {
		case shortage(err) != "":
			return invocation{}, "", fmt.Errorf("creating a directory for the attempt: %w", err)
		case err != nil:
			logger.Error(err, "Cannot create the progress file; task progress will not be reported", "task", klog.KObj(task))
		default:
			progress = progressFile(filepath.Join(dir, "progress"))
		}
	}
	inv := invocationOf(task, attempt, progress, s.withheld)
	if s.mark != "" {
		inv.mark = s.mark + "/" + name
		inv.env = append(inv.env, inv.mark)
	}
	if s.memory > 0 {
		request := task.Spec.Resources.Requests[batch.ResourceMemory]
		inv.oomScore = oomScore(s.score, request.Value(), s.memory)
	}
	if s.groups != nil {
		var err error
		inv.group, err = s.groups.add(name, task.Spec.Resources.Requests)
		switch {
		case shortage(err) != "":
			s.clear(progress)
			return invocation{}, "", fmt.Errorf("creating a control group for the attempt: %w", err)
		case err != nil:
			logger.Error(err, "Cannot create a control group; the task runs without one", "task", klog.KObj(task))
		}
	}
	return inv, progress, nil
}

// keep makes the directory of the file again if somebody has removed it.
func (s *site) keep(progress progressFile) {
	if progress != "" {
		_ = s.dirs.restore(filepath.Dir(string(progress)))
	}
}

// stopping records that the worker stops in order: from now on its end is not the fault of any command.
func (s *site) stopping() error {
	if s.dirs == nil {
		return nil
	}
	return s.dirs.stopping()
}

// spaceLeft returns an error while the disk of the files of attempts is full.
func (s *site) spaceLeft() error {
	if s.dirs == nil {
		return nil
	}
	return s.dirs.spaceLeft()
}

// clear removes the file, and all that the command has put beside it.
func (s *site) clear(progress progressFile) {
	if progress != "" {
		s.dirs.giveBack(filepath.Dir(string(progress)))
	}
}
