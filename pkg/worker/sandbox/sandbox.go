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

// Package sandbox prepares the attempts of a worker at its tasks: their commands, control groups, marks and files.
package sandbox

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/worker/attempt"
	"github.com/leat-dev/leat/pkg/worker/cgroup"
	"github.com/leat-dev/leat/pkg/worker/pressure"
	"github.com/leat-dev/leat/pkg/worker/process"
	"github.com/leat-dev/leat/pkg/worker/reaper"
)

// Sandbox isolates the attempts of one worker process: it identifies their processes, limits their resources and holds
// their files.
type Sandbox struct {
	host        *Host
	mark        string         // in the environment of all attempts, followed by the attempt; empty marks none
	cgroups     *cgroup.Groups // nil where control groups cannot be used
	attemptDirs *attemptDirs   // nil where no directory can be created
	// interrupted holds the tasks that earlier processes of the worker were running when they crashed, by
	// incarnation. An incarnation that stopped in order, or still runs, has none. An incarnation that left no files
	// has no entry.
	interrupted  map[string]map[types.UID]bool
	inheritedEnv []variable
	// gpus are the entries of the worker's own CUDA_VISIBLE_DEVICES, if it is set.
	gpus []string
	// memory is the memory of the worker in bytes, or zero. oomScoreAdj is that of this process, see
	// proc_pid_oom_score_adj(5).
	memory, oomScoreAdj int64
}

// Config configures a Sandbox.
type Config struct {
	// Namespace and Name identify the worker, Incarnation identifies its process.
	Namespace, Name, Incarnation string
	// StateDir is the directory for files, empty for that of temporary files.
	StateDir string
	// WithheldEnv are names of environment variables of this process that tasks do not inherit.
	WithheldEnv []string
	// GPUs is how many devices of nvidia.com/gpu the worker offers.
	GPUs int64
	// Memory is the memory of the worker in bytes, or zero.
	Memory int64
	// TaskMaxPIDs is how many processes and threads a task may have; less than zero is unlimited.
	TaskMaxPIDs int64
}

// New kills and removes what earlier processes of the worker have left, and returns a new sandbox. It does without what
// the machine does not allow.
func New(ctx context.Context, host *Host, config Config) (*Sandbox, error) {
	logger := klog.FromContext(ctx)
	s := &Sandbox{host: host, inheritedEnv: inheritedEnv(append(slices.Clone(config.WithheldEnv), reaper.MarkVariable)), memory: config.Memory}
	if config.GPUs > 0 {
		s.hideGPUs()
	}
	if text, err := os.ReadFile("/proc/self/oom_score_adj"); err == nil {
		s.oomScoreAdj, _ = strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	}

	owner, err := reaper.OwnIdentity()
	if err != nil {
		return nil, fmt.Errorf("reading /proc, which a worker needs: %w", err)
	}
	worker := config.Namespace + "/" + config.Name
	prefix := Prefix(config.Namespace, config.Name)
	name := fmt.Sprintf("%s-%s.%s", prefix, owner, config.Incarnation)

	parent, err := host.delegation()
	if err == nil {
		// Processes that run in the group of another worker are killed by its next process: remove only empty groups.
		removeEmpty := func(dir string) error { _ = cgroup.RemoveEmpty(dir); return nil }
		if err := reaper.ForEachOrphan(parent.Dir, prefix, cgroup.Kill, removeEmpty); err != nil {
			logger.Error(err, "Failed to remove control groups of an earlier process of this worker")
		}
		s.cgroups, err = cgroup.NewGroups(parent, name, s.memory, config.TaskMaxPIDs)
	}
	switch {
	case err != nil:
		logger.Info("Running tasks without control groups: their memory and number of processes are not limited", "reason", err)
	case parent.LimitsErr != nil:
		logger.Info("Running tasks in control groups without limits", "cgroup", s.cgroups.Dir(), "reason", parent.LimitsErr)
	default:
		logger.Info("Running tasks in control groups", "cgroup", s.cgroups.Dir(), "controllers", parent.Controllers)
	}
	// Some processes may have started without a group.
	if err := reaper.KillOrphans(ctx, worker); err != nil {
		logger.Error(err, "Failed to kill tasks of an earlier process of this worker")
	}
	s.mark = fmt.Sprintf("%s=%s/%s/%s", reaper.MarkVariable, owner, worker, config.Incarnation)

	s.interrupted = map[string]map[types.UID]bool{}
	var errs []error
	for _, parent := range config.attemptDirParents() {
		if err := removeStaleDirs(parent, prefix, s.interrupted); err != nil {
			logger.Error(err, "Failed to remove files of an earlier process of this worker", "directory", parent)
		}
	}
	for _, parent := range config.attemptDirParents() {
		if s.attemptDirs, err = newAttemptDirs(filepath.Join(parent, name)); err == nil {
			return s, nil
		}
		errs = append(errs, err)
	}
	logger.Error(errors.Join(errs...), "Cannot create a directory for the files of tasks; task progress will not be reported")
	return s, nil
}

// Prefix returns the prefix of the names of a worker's control groups and directories. It has the same length for all
// workers.
func Prefix(namespace, name string) string {
	return fmt.Sprintf("leat-%x", sha256.Sum256([]byte(namespace+"/"+name)))[:len("leat-")+16]
}

// attemptDirParents returns the directories that may hold the files of attempts, the preferred one first.
func (c Config) attemptDirParents() []string {
	if c.StateDir == "" {
		return []string{os.TempDir()}
	}
	return []string{c.StateDir, os.TempDir()}
}

// Crashed reports whether the incarnation crashed while it ran the task. known is false if the incarnation left no
// files to tell.
func (s *Sandbox) Crashed(incarnation string, task types.UID) (crashed, known bool) {
	tasks, known := s.interrupted[incarnation]
	return tasks[task], known
}

// Start starts a command that Prepare has returned.
func (s *Sandbox) Start(c process.Command) (*process.Process, *process.StartError) {
	return process.Start(s.host.reaper, c)
}

// Close removes the control group and the directory of the sandbox. All attempts must have ended.
func (s *Sandbox) Close() error {
	var errs []error
	if s.cgroups != nil {
		errs = append(errs, s.cgroups.Remove())
	}
	if s.attemptDirs != nil {
		errs = append(errs, s.attemptDirs.remove())
	}
	return errors.Join(errs...)
}

// Prepare creates the control group and the progress file of an attempt and returns its command. devices are the
// numbers of the devices that the attempt has of each extended resource. Start removes the group, release removes the
// file. Any error has a pressure.Reason; after other failures the attempt does without.
func (s *Sandbox) Prepare(ctx context.Context, task *batch.Task, id attempt.ID, devices map[batch.ResourceName][]int) (process.Command, ProgressFile, error) {
	logger := klog.FromContext(ctx)
	name := id.String()
	progress := ProgressFile("")
	if s.attemptDirs != nil {
		dir, err := s.attemptDirs.acquire(name)
		switch {
		case pressure.Reason(err) != "":
			return process.Command{}, "", fmt.Errorf("creating a directory for the attempt: %w", err)
		case err != nil:
			logger.Error(err, "Cannot create the progress file; task progress will not be reported", "task", klog.KObj(task))
		default:
			progress = ProgressFile(filepath.Join(dir, "progress"))
		}
	}
	c := newCommand(task, id.Number, progress, s.deviceVariables(devices), s.inheritedEnv)
	if s.mark != "" {
		c.Mark = s.mark + "/" + name
		c.Env = append(c.Env, c.Mark)
	}
	if s.memory > 0 {
		request := task.Spec.Resources.Requests[batch.ResourceMemory]
		c.OOMScoreAdj = oomScoreAdj(s.oomScoreAdj, request.Value(), s.memory)
	}
	if s.cgroups != nil {
		var err error
		c.Cgroup, err = s.cgroups.Create(name, task.Spec.Resources.Requests)
		switch {
		case pressure.Reason(err) != "":
			s.Release(progress)
			return process.Command{}, "", fmt.Errorf("creating a control group for the attempt: %w", err)
		case err != nil:
			logger.Error(err, "Cannot create a control group; the task runs without one", "task", klog.KObj(task))
		}
	}
	return c, progress, nil
}

// EnsureDir creates the directory of the file again if somebody has removed it.
func (s *Sandbox) EnsureDir(progress ProgressFile) {
	if progress != "" {
		_ = s.attemptDirs.ensure(filepath.Dir(string(progress)))
	}
}

// Release removes the file, and everything that the command has put beside it.
func (s *Sandbox) Release(progress ProgressFile) {
	if progress != "" {
		s.attemptDirs.release(filepath.Dir(string(progress)))
	}
}

// MarkStopping records that the worker stops in order: no command has crashed it if it is killed from now on.
func (s *Sandbox) MarkStopping() error {
	if s.attemptDirs == nil {
		return nil
	}
	return s.attemptDirs.markStopping()
}

// CheckSpace returns an error while the disk of the attempts' files is full.
func (s *Sandbox) CheckSpace() error {
	if s.attemptDirs == nil {
		return nil
	}
	return s.attemptDirs.checkSpace()
}

// oomScoreAdj returns the oom_score_adj of the processes of a task. As the kubelet does for containers, it makes the
// kernel kill them sooner the more memory they use beyond the request, and always before the worker, whose score is
// own.
func oomScoreAdj(own, request, capacity int64) int64 {
	return min(max(1000-1000*request/capacity, own+1), 1000)
}
