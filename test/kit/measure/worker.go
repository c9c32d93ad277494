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
	"context"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/generated/clientset/versioned"
	informers "github.com/leat-dev/leat/pkg/generated/informers/externalversions/batch/v1alpha1"
)

// FakeWorker is a worker that runs nothing: as leat-worker does it watches its tasks, and writes the status of each once.
type FakeWorker struct {
	// Client has the identity of that worker.
	Client          versioned.Interface
	Namespace, Name string
	// Duration is how long a task is said to run.
	Duration time.Duration
	// Pace, if it is not nil, is waited for before each answer, by many goroutines. An error gives the answer up.
	Pace func(context.Context) error
	// Seen is told of each task that is answered, by many goroutines.
	Seen func(name string)
	// Failed is told why a task could not be answered, by many goroutines.
	Failed func(error)

	incarnation string
	wg          sync.WaitGroup
}

// Protobuf gives the config as leat-worker has it.
func Protobuf(config *rest.Config) *rest.Config {
	config = rest.CopyConfig(config)
	config.ContentType = runtime.ContentTypeProtobuf
	config.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	return config
}

// Register makes the Worker, with room for so many tasks, and its lease. It comes before Run.
func (w *FakeWorker) Register(ctx context.Context, tasks int) error {
	api := w.Client.BatchV1alpha1()
	worker, err := api.Workers(w.Namespace).Create(ctx, &batch.Worker{ObjectMeta: metav1.ObjectMeta{Name: w.Name}}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	w.incarnation = w.Name + "-1"
	if _, err := api.WorkerLeases(w.Namespace).Create(ctx, w.renewed(&batch.WorkerLease{ObjectMeta: metav1.ObjectMeta{Name: w.Name}}), metav1.CreateOptions{}); err != nil {
		return err
	}
	capacity := batch.ResourceList{batch.ResourceTasks: *resource.NewQuantity(int64(tasks), resource.DecimalSI)}
	worker.Status.Incarnation, worker.Status.Capacity, worker.Status.Allocatable = w.incarnation, capacity, capacity
	meta.SetStatusCondition(&worker.Status.Conditions, metav1.Condition{Type: batch.WorkerReady, Status: metav1.ConditionTrue, Reason: "WorkerReady"})
	_, err = api.Workers(w.Namespace).UpdateStatus(ctx, worker, metav1.UpdateOptions{})
	return err
}

func (w *FakeWorker) renewed(lease *batch.WorkerLease) *batch.WorkerLease {
	lease.Spec = batch.WorkerLeaseSpec{HolderIdentity: w.incarnation, LeaseDurationSeconds: new(int32(40)), RenewTime: new(metav1.NowMicro())}
	return lease
}

// Run answers tasks until ctx ends.
func (w *FakeWorker) Run(ctx context.Context) error {
	tasks := informers.NewTypedFilteredTaskInformer(w.Client, w.Namespace, 0, nil, func(o *metav1.ListOptions) {
		o.FieldSelector = "spec.workerName=" + w.Name + ",status.phase!=Succeeded,status.phase!=Failed"
	})
	if _, err := tasks.AddTypedEventHandler(informers.TaskHandlerFuncs{
		AddFunc: func(task *batch.Task) { w.wg.Go(func() { w.answer(ctx, task) }) },
	}); err != nil {
		return err
	}
	w.wg.Go(func() { tasks.RunWithContext(ctx) })
	w.wg.Go(func() { w.keep(ctx) })
	w.wg.Wait()
	return nil
}

// keep renews the lease.
func (w *FakeWorker) keep(ctx context.Context) {
	leases := w.Client.BatchV1alpha1().WorkerLeases(w.Namespace)
	ticker := time.NewTicker(10 * time.Second)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		lease, err := leases.Get(ctx, w.Name, metav1.GetOptions{})
		if err == nil {
			_, err = leases.Update(ctx, w.renewed(lease), metav1.UpdateOptions{})
		}
		w.report(ctx, err)
	}
}

func (w *FakeWorker) answer(ctx context.Context, task *batch.Task) {
	w.Seen(task.Name)
	begun := metav1.Now()
	if w.Duration > 0 {
		timer := time.NewTimer(w.Duration)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
	}
	if w.Pace != nil && w.Pace(ctx) != nil {
		return
	}
	ended := metav1.Now()
	task = task.DeepCopy()
	s := &task.Status
	s.Phase, s.Attempts, s.StartTime, s.CompletionTime = batch.TaskSucceeded, s.Attempts+1, &begun, &ended
	s.State = batch.TaskState{Terminated: &batch.TaskStateTerminated{Reason: batch.TaskReasonCompleted, StartedAt: begun, FinishedAt: ended}}
	for {
		_, err := w.Client.BatchV1alpha1().Tasks(w.Namespace).UpdateStatus(ctx, task, metav1.UpdateOptions{})
		w.report(ctx, err)
		if err == nil || ctx.Err() != nil || apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
			return
		}
		timer := time.NewTimer(time.Second)
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

func (w *FakeWorker) report(ctx context.Context, err error) {
	if err != nil && ctx.Err() == nil {
		w.Failed(err)
	}
}
