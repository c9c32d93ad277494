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

package skew

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	typed "github.com/leat-dev/leat/pkg/generated/clientset/versioned/typed/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/history"
	"github.com/leat-dev/leat/test/kit/host"
	"github.com/leat-dev/leat/test/kit/setcheck"
)

const namespace = "default"

// script is the command of each index. It takes some milliseconds, so that the controller combines indexes if it can.
const script = setcheck.MarkFunction + `
mark start
sleep "$DURATION"
mark end
`

// installation is "leat up" of some version, without workers of its own.
type installation struct {
	*testing.T
	*kit.Env
	api     typed.BatchV1alpha1Interface
	history *history.Recorder
	dir     string
}

// newInstallation starts "leat up" from a directory with programs; the default if it is empty.
func newInstallation(t *testing.T, programs string) *installation {
	t.Helper()
	kit.UsePrograms(t, programs)
	e := kit.Standalone(t, "--workers=0", "--namespace="+namespace)
	return &installation{T: t, Env: e, api: kit.Client(t, e.Admin(t)).BatchV1alpha1(), dir: t.TempDir(),
		history: kit.Must(history.Record(t.Context(), e.EtcdClient(t), namespace))(t)}
}

// startWorker starts a worker from a directory with programs, and waits until it is ready.
func (i *installation) startWorker(name, programs string) *host.Process {
	i.Helper()
	kit.UsePrograms(i.T, programs)
	p := i.StartWorker(i.T, i.Worker(i.T, namespace, name), namespace, name, nil, "--tasks=4", "--lease-duration=4s")
	i.awaitReady(name, true)
	return p
}

// awaitReady waits until a worker is ready, or until it is not.
func (i *installation) awaitReady(name string, want bool) *batch.Worker {
	i.Helper()
	var worker *batch.Worker
	kit.Eventually(i.T, fmt.Sprintf("worker %s has ready %t", name, want), func(ctx context.Context) (err error) {
		worker, err = i.api.Workers(namespace).Get(ctx, name, metav1.GetOptions{})
		if err == nil && meta.IsStatusConditionTrue(worker.Status.Conditions, batch.WorkerReady) != want {
			err = fmt.Errorf("its conditions are %+v", worker.Status.Conditions)
		}
		return err
	})
	return worker
}

// createSet creates a set of commands that take as many seconds.
func (i *installation) createSet(name string, completions int32, seconds string) {
	i.Helper()
	set := kit.NewTaskSet(name, "bash", "-c", script)
	set.Spec.Completions, set.Spec.Parallelism, set.Spec.CompletionMode = &completions, &completions, new(batch.IndexedCompletion)
	set.Spec.Template.Spec.Env = []batch.EnvVar{{Name: "MARKS", Value: filepath.Join(i.dir, name)}, {Name: "DURATION", Value: seconds}}
	_, err := i.api.TaskSets(namespace).Create(i.Context(), set, metav1.CreateOptions{})
	kit.Check(i.T, err)
}

// awaitSet waits until n indexes of a set have succeeded.
func (i *installation) awaitSet(name string, n int32) {
	i.Helper()
	kit.Eventually(i.T, fmt.Sprintf("%d indexes of set %s have succeeded", n, name), func(ctx context.Context) error {
		set, err := i.api.TaskSets(namespace).Get(ctx, name, metav1.GetOptions{})
		if err == nil && set.Status.Succeeded < n {
			err = fmt.Errorf("the status is %+v", set.Status)
		}
		return err
	})
}

func isComplete(set *batch.TaskSet) bool {
	return meta.IsStatusConditionTrue(set.Status.Conditions, batch.TaskSetComplete)
}

// check waits until the set is complete, and checks its history and what its commands have marked. It returns the
// changes of its tasks.
func (i *installation) check(name string, completions int) (*setcheck.Result, []history.Change) {
	i.Helper()
	i.awaitSet(name, int32(completions))
	var changes []history.Change
	kit.Eventually(i.T, "the history shows that the set is complete", func(context.Context) error {
		changes = i.history.Changes(namespace)
		if !slices.ContainsFunc(changes, func(c history.Change) bool {
			return c.SetAfter != nil && c.SetAfter.Name == name && isComplete(c.SetAfter)
		}) {
			return fmt.Errorf("none of %d changes does: %w", len(changes), i.history.Err())
		}
		return nil
	})
	marks := kit.Must(setcheck.ParseMarks(string(kit.Must(os.ReadFile(filepath.Join(i.dir, name)))(i.T))))(i.T)
	result := setcheck.Check(changes, marks, setcheck.Want{Set: name, Completions: completions})
	for _, message := range result.Wrong {
		i.Error(message)
	}
	i.Log(name, ": ", result)
	return result, slices.DeleteFunc(changes, func(c history.Change) bool {
		return c.Task() == nil || c.Task().Labels[batch.LabelTaskSetName] != name
	})
}

// checkReports checks that the reports of a worker change the status only, and returns how many tasks it had.
func (i *installation) checkReports(worker string, changes []history.Change) (tasks int) {
	i.Helper()
	for _, c := range changes {
		if c.Before == nil || c.After == nil || c.After.Spec.WorkerName != worker {
			continue
		}
		if c.After.Spec.Indexes != "" {
			i.Errorf("revision %d: task %s with indexes %s is bound to worker %s", c.Revision, c.After.Name, c.After.Spec.Indexes, worker)
		}
		if c.Before.Spec.WorkerName == "" {
			tasks++
			continue
		}
		before, after := c.Before.DeepCopy(), c.After.DeepCopy()
		before.Status, after.Status = batch.TaskStatus{}, batch.TaskStatus{}
		before.ManagedFields, after.ManagedFields, before.ResourceVersion, after.ResourceVersion = nil, nil, "", ""
		if !equality.Semantic.DeepEqual(before, after) {
			i.Errorf("revision %d: a report of worker %s changed task %s from %+v to %+v", c.Revision, worker, c.After.Name, before, after)
		}
	}
	return tasks
}

// An old worker would run a task with several indexes as one command without an index. So the controller creates none
// while one is ready, and the scheduler never binds one to it.
func TestOldWorker(t *testing.T) {
	old := oldPrograms(t)
	i := newInstallation(t, "")
	// The new worker has the name that the old one gets later: the old one must not inherit its features.
	first := i.startWorker("old", "")
	before := i.awaitReady("old", true).Status
	if len(before.WorkerInfo.Features) == 0 {
		t.Error("the new worker has no features: this run proves nothing")
	}
	kit.Check(t, first.Kill())
	worker := i.startWorker("old", old)
	kit.Eventually(t, "the old worker has registered", func(ctx context.Context) error {
		now, err := i.api.Workers(namespace).Get(ctx, "old", metav1.GetOptions{})
		switch {
		case err != nil:
			return err
		case now.Status.Incarnation == before.Incarnation:
			return errors.New("it has not")
		case len(now.Status.WorkerInfo.Features) > 0:
			t.Errorf("the old worker has the features %v, want none", now.Status.WorkerInfo.Features)
		}
		return nil
	})
	i.startWorker("new", "")

	t.Run("FromTheStart", func(t *testing.T) {
		i := i.in(t)
		i.createSet("from-the-start", 150, "0.01")
		result, changes := i.check("from-the-start", 150)
		if result.Chunks > 0 {
			t.Errorf("%d tasks have several indexes while an old worker is ready", result.Chunks)
		}
		if tasks := i.checkReports("old", changes); tasks == 0 {
			t.Error("the old worker had no tasks: this run proves nothing")
		}
	})

	// The controller creates tasks of several indexes as soon as the old worker is gone. When it is back, it leaves those
	// to the new worker, and gets tasks of one index again.
	t.Run("AwayAndBack", func(t *testing.T) {
		i := i.in(t)
		kit.Check(t, worker.Kill())
		i.awaitReady("old", false)
		i.createSet("away-and-back", 500, "0.06")
		i.awaitChunk("away-and-back")
		kit.Check(t, worker.Restart(t.Context()))
		i.awaitReady("old", true)
		// The first set may have no index left that is in no task: the second one always has.
		i.createSet("after-return", 150, "0.01")
		_, changes := i.check("away-and-back", 500)
		i.checkReports("old", changes)
		_, changes = i.check("after-return", 150)
		if tasks := i.checkReports("old", changes); tasks == 0 {
			t.Error("the old worker had no tasks after its return")
		}
	})
}

// awaitChunk waits until a task of the set has several indexes.
func (i *installation) awaitChunk(set string) {
	i.Helper()
	kit.Eventually(i.T, "a task has several indexes", func(context.Context) error {
		if !slices.ContainsFunc(i.history.Changes(namespace), func(c history.Change) bool {
			return c.After != nil && c.After.Labels[batch.LabelTaskSetName] == set && c.After.Spec.Indexes != ""
		}) {
			return errors.New("none has")
		}
		return nil
	})
}

// in returns the installation for a subtest.
func (i *installation) in(t *testing.T) *installation {
	in := *i
	in.T = t
	return &in
}

// An old server drops the fields that it does not know, and an old controller manager creates tasks of one index.
func TestOldServer(t *testing.T) {
	i := newInstallation(t, oldPrograms(t))
	i.startWorker("new", "")
	i.createSet("set", 150, "0.01")
	if result, _ := i.check("set", 150); result.Chunks > 0 {
		t.Errorf("%d tasks have several indexes", result.Chunks)
	}
}
