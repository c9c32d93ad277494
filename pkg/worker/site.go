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
	"sync"

	"k8s.io/klog/v2"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// site is where a worker runs its attempts: what tells them apart, bounds them and ends them. The zero site only runs them.
type site struct {
	mark     string  // in the environment of all attempts, followed by the attempt; empty marks none
	groups   *groups // nil where control groups cannot be used
	dirs     *dirs   // nil where there is no place for files of attempts
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
	prefix := fmt.Sprintf("leat-%x", sha256.Sum256([]byte(identity)))[:len("leat-")+16] // of one length for all workers
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

	files := func(dir string) error { _ = os.RemoveAll(dir); return nil }
	if err := forOrphans(os.TempDir(), prefix, os.RemoveAll, files); err != nil {
		logger.Error(err, "Files of an earlier process of this worker are left")
	}
	dir := filepath.Join(os.TempDir(), name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		logger.Info("Tasks cannot say how far they are: there is no place for their files; give another with $TMPDIR", "reason", err)
		return s, nil
	}
	s.dirs = &dirs{parent: dir}
	return s, nil
}

// leave removes the site, all attempts at which have ended.
func (s *site) leave() error {
	var errs []error
	if s.groups != nil {
		errs = append(errs, s.groups.remove())
	}
	if s.dirs != nil {
		errs = append(errs, os.RemoveAll(s.dirs.parent))
	}
	return errors.Join(errs...)
}

// prepare makes what an attempt needs, of which startProcess ends the group. The file is where the command says how far it is.
func (s *site) prepare(ctx context.Context, task *batch.Task, attempt int32) (invocation, progressFile) {
	name := fmt.Sprintf("%s-%d", task.UID, attempt)
	progress := progressFile("")
	if s.dirs != nil {
		if dir, err := s.dirs.take(); err != nil {
			klog.FromContext(ctx).Error(err, "The task cannot say how far it is", "task", klog.KObj(task))
		} else {
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
		if inv.group, err = s.groups.add(name, task.Spec.Resources.Requests); err != nil {
			klog.FromContext(ctx).Error(err, "The task runs without a control group", "task", klog.KObj(task))
		}
	}
	return inv, progress
}

// clear removes the file, and all that the command has put beside it.
func (s *site) clear(progress progressFile) {
	if progress != "" {
		s.dirs.giveBack(filepath.Dir(string(progress)))
	}
}

// dirs are empty directories, each for one attempt at a time. They are used again: on most file systems that is much cheaper than
// another one for each attempt. Safe for concurrent use.
type dirs struct {
	parent string

	mu   sync.Mutex
	free []string
	made int
}

func (d *dirs) take() (string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if n := len(d.free); n > 0 {
		dir := d.free[n-1]
		d.free = d.free[:n-1]
		return dir, nil
	}
	d.made++
	dir := filepath.Join(d.parent, strconv.Itoa(d.made))
	return dir, os.Mkdir(dir, 0o700)
}

func (d *dirs) giveBack(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) > 0 {
		// Whatever was done to it is gone with it. What cannot be removed is not used again.
		if os.RemoveAll(dir) != nil || os.Mkdir(dir, 0o700) != nil {
			return
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.free = append(d.free, dir)
}
