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

package product

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	typed "github.com/leat-dev/leat/pkg/generated/clientset/versioned/typed/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit"
)

// fixture is a namespace of an environment, with the client of an administrator.
type fixture struct {
	env       *kit.Env
	namespace string
	api       typed.BatchV1alpha1Interface
}

func newFixture(t *testing.T, e *kit.Env, namespace string) fixture {
	t.Helper()
	return fixture{env: e, namespace: namespace, api: kit.Client(t, e.Admin(t)).BatchV1alpha1()}
}

// waitForTask waits until condition holds for a task, and returns the task.
func (f *fixture) waitForTask(t *testing.T, name, what string, condition func(*batch.Task) bool) *batch.Task {
	t.Helper()
	var task *batch.Task
	kit.Eventually(t, "task "+name+" "+what, func(ctx context.Context) (err error) {
		if task, err = f.api.Tasks(f.namespace).Get(ctx, name, metav1.GetOptions{}); err == nil && !condition(task) {
			err = fmt.Errorf("worker %q, status %+v, terminated %+v", task.Spec.WorkerName, task.Status, task.Status.State.Terminated)
		}
		return err
	})
	return task
}

func (f *fixture) waitForTaskGone(t *testing.T, name string) {
	t.Helper()
	kit.Eventually(t, "task "+name+" is gone", func(ctx context.Context) error {
		_, err := f.api.Tasks(f.namespace).Get(ctx, name, metav1.GetOptions{})
		return kit.Gone(err)
	})
}

// waitForTaskSet waits until condition holds for a task set, and returns the set.
func (f *fixture) waitForTaskSet(t *testing.T, name, what string, condition func(*batch.TaskSet) bool) *batch.TaskSet {
	t.Helper()
	var set *batch.TaskSet
	kit.Eventually(t, "task set "+name+": "+what, func(ctx context.Context) (err error) {
		if set, err = f.api.TaskSets(f.namespace).Get(ctx, name, metav1.GetOptions{}); err == nil && !condition(set) {
			err = fmt.Errorf("status %+v", set.Status)
		}
		return err
	})
	return set
}

func (f *fixture) waitForTaskSetGone(t *testing.T, name string) {
	t.Helper()
	kit.Eventually(t, "task set "+name+" is gone", func(ctx context.Context) error {
		_, err := f.api.TaskSets(f.namespace).Get(ctx, name, metav1.GetOptions{})
		return kit.Gone(err)
	})
}

// waitForWorker waits until condition holds for a worker, and returns the worker.
func (f *fixture) waitForWorker(t *testing.T, name, what string, condition func(*batch.Worker) bool) *batch.Worker {
	t.Helper()
	var worker *batch.Worker
	kit.Eventually(t, "worker "+name+" "+what, func(ctx context.Context) (err error) {
		if worker, err = f.api.Workers(f.namespace).Get(ctx, name, metav1.GetOptions{}); err == nil && !condition(worker) {
			err = fmt.Errorf("taints %+v, status %+v", worker.Spec.Taints, worker.Status)
		}
		return err
	})
	return worker
}

// startWorkers starts a worker for each name, with these flags, until the test ends. The workers serve no logs.
//
// They are processes of their own. Inside the test process, their reaper would reap the commands of other tests that
// have a session of their own.
func (f *fixture) startWorkers(t *testing.T, workers map[string][]string) {
	t.Helper()
	for name, flags := range workers {
		process := f.env.StartWorker(t, f.env.Worker(t, f.namespace, name), f.namespace, name, nil,
			append([]string{"--state-dir=" + t.TempDir(), "--drain-timeout=1s"}, flags...)...)
		t.Cleanup(func() { kit.Check(t, errors.Join(process.Err(), process.Stop())) })
	}
}

// touch creates an empty file.
func touch(t *testing.T, file string) {
	t.Helper()
	kit.Check(t, os.WriteFile(file, nil, 0o600))
}

func isRunning(task *batch.Task) bool   { return task.Status.Phase == batch.TaskRunning }
func isSucceeded(task *batch.Task) bool { return task.Status.Phase == batch.TaskSucceeded }
func isFailed(task *batch.Task) bool    { return task.Status.Phase == batch.TaskFailed }
