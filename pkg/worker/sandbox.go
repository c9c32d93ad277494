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
	"github.com/leat-dev/leat/pkg/worker/pressure"
)

// sandbox isolates the attempts of one worker process: it identifies their processes, limits their resources and holds
// their files. The zero sandbox isolates nothing.
type sandbox struct {
	mark        string       // in the environment of all attempts, followed by the attempt; empty marks none
	cgroups     *cgroups     // nil where control groups cannot be used
	attemptDirs *attemptDirs // nil where no directory can be created
	// interrupted holds the tasks that earlier processes of the worker were running when they crashed, by
	// incarnation. An incarnation that stopped in order, or still runs, has none. An incarnation that left no files
	// has no entry.
	interrupted map[string]map[types.UID]bool
	withheldEnv []string
	// memory is the memory of the worker in bytes, or zero. oomScoreAdj is that of this process, see
	// proc_pid_oom_score_adj(5).
	memory, oomScoreAdj int64
}

// newSandbox kills and removes what earlier processes of the worker have left, and returns a new sandbox. It does
// without what the machine does not allow.
func newSandbox(ctx context.Context, options Options, incarnation string) (sandbox, error) {
	logger := klog.FromContext(ctx)
	s := sandbox{withheldEnv: options.WithheldEnv}
	if memory := options.Capacity[batch.ResourceMemory]; memory.Sign() > 0 {
		s.memory = memory.Value()
	}
	if text, err := os.ReadFile("/proc/self/oom_score_adj"); err == nil {
		s.oomScoreAdj, _ = strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	}

	owner, err := ownIdentity()
	if err != nil {
		return sandbox{}, fmt.Errorf("reading /proc, which a worker needs: %w", err)
	}
	worker := options.Namespace + "/" + options.Name
	prefix := workerPrefix(options)
	name := fmt.Sprintf("%s-%s.%s", prefix, owner, incarnation)

	parent, err := delegatedCgroup()
	if err == nil {
		// Processes that run in the group of another worker are killed by its next process: remove only empty groups.
		removeEmpty := func(dir string) error { _ = removeCgroup(dir); return nil }
		if err := forEachOrphan(parent.dir, prefix, killCgroup, removeEmpty); err != nil {
			logger.Error(err, "Failed to remove control groups of an earlier process of this worker")
		}
		s.cgroups, err = newCgroups(parent, name, s.memory, options.TaskMaxPIDs)
	}
	switch {
	case err != nil:
		logger.Info("Running tasks without control groups: their memory and number of processes are not limited", "reason", err)
	case parent.limitsErr != nil:
		logger.Info("Running tasks in control groups without limits", "cgroup", s.cgroups.dir, "reason", parent.limitsErr)
	default:
		logger.Info("Running tasks in control groups", "cgroup", s.cgroups.dir, "controllers", parent.controllers)
	}
	// Some processes may have started without a group.
	if err := killOrphans(ctx, worker); err != nil {
		logger.Error(err, "Failed to kill tasks of an earlier process of this worker")
	}
	s.mark = fmt.Sprintf("%s=%s/%s/%s", markVariable, owner, worker, incarnation)

	s.interrupted = map[string]map[types.UID]bool{}
	var errs []error
	for _, parent := range options.attemptDirParents() {
		if err := removeStaleDirs(parent, prefix, s.interrupted); err != nil {
			logger.Error(err, "Failed to remove files of an earlier process of this worker", "directory", parent)
		}
	}
	for _, parent := range options.attemptDirParents() {
		if s.attemptDirs, err = newAttemptDirs(filepath.Join(parent, name)); err == nil {
			return s, nil
		}
		errs = append(errs, err)
	}
	logger.Error(errors.Join(errs...), "Cannot create a directory for the files of tasks; task progress will not be reported")
	return s, nil
}

// workerPrefix returns the prefix of the names of the worker's control groups and directories. It has the same length
// for all workers.
func workerPrefix(options Options) string {
	return fmt.Sprintf("leat-%x", sha256.Sum256([]byte(options.Namespace+"/"+options.Name)))[:len("leat-")+16]
}

// attemptDirParents returns the directories that may hold the files of attempts, the preferred one first.
func (o Options) attemptDirParents() []string {
	if o.StateDir == "" {
		return []string{os.TempDir()}
	}
	return []string{o.StateDir, os.TempDir()}
}

// close removes the control group and the directory of the sandbox. All attempts must have ended.
func (s *sandbox) close() error {
	var errs []error
	if s.cgroups != nil {
		errs = append(errs, s.cgroups.remove())
	}
	if s.attemptDirs != nil {
		errs = append(errs, s.attemptDirs.remove())
	}
	return errors.Join(errs...)
}

// prepare creates the control group and the progress file of an attempt and returns its command. startProcess removes
// the group, release removes the file. Any error has a pressure.Reason; after other failures the attempt does without.
func (s *sandbox) prepare(ctx context.Context, task *batch.Task, attempt int32) (command, progressFile, error) {
	logger := klog.FromContext(ctx)
	name := fmt.Sprintf("%s-%d", task.UID, attempt)
	progress := progressFile("")
	if s.attemptDirs != nil {
		dir, err := s.attemptDirs.acquire(name)
		switch {
		case pressure.Reason(err) != "":
			return command{}, "", fmt.Errorf("creating a directory for the attempt: %w", err)
		case err != nil:
			logger.Error(err, "Cannot create the progress file; task progress will not be reported", "task", klog.KObj(task))
		default:
			progress = progressFile(filepath.Join(dir, "progress"))
		}
	}
	c := newCommand(task, attempt, progress, s.withheldEnv)
	if s.mark != "" {
		c.mark = s.mark + "/" + name
		c.env = append(c.env, c.mark)
	}
	if s.memory > 0 {
		request := task.Spec.Resources.Requests[batch.ResourceMemory]
		c.oomScoreAdj = oomScoreAdj(s.oomScoreAdj, request.Value(), s.memory)
	}
	if s.cgroups != nil {
		var err error
		c.cgroup, err = s.cgroups.create(name, task.Spec.Resources.Requests)
		switch {
		case pressure.Reason(err) != "":
			s.release(progress)
			return command{}, "", fmt.Errorf("creating a control group for the attempt: %w", err)
		case err != nil:
			logger.Error(err, "Cannot create a control group; the task runs without one", "task", klog.KObj(task))
		}
	}
	return c, progress, nil
}

// ensureDir creates the directory of the file again if somebody has removed it.
func (s *sandbox) ensureDir(progress progressFile) {
	if progress != "" {
		_ = s.attemptDirs.ensure(filepath.Dir(string(progress)))
	}
}

// release removes the file, and everything that the command has put beside it.
func (s *sandbox) release(progress progressFile) {
	if progress != "" {
		s.attemptDirs.release(filepath.Dir(string(progress)))
	}
}

// markStopping records that the worker stops in order: no command has crashed it if it is killed from now on.
func (s *sandbox) markStopping() error {
	if s.attemptDirs == nil {
		return nil
	}
	return s.attemptDirs.markStopping()
}

// checkSpace returns an error while the disk of the attempts' files is full.
func (s *sandbox) checkSpace() error {
	if s.attemptDirs == nil {
		return nil
	}
	return s.attemptDirs.checkSpace()
}
