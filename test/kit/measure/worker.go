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

	"github.com/leat-dev/leat/apis/batch/indexes"
	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/generated/clientset/versioned"
	informers "github.com/leat-dev/leat/pkg/generated/informers/externalversions/batch/v1alpha1"
)

// FakeWorker is a worker that runs nothing. Like leat-worker it watches its tasks. It writes the status of each once,
// with all indexes of a task as succeeded.
type FakeWorker struct {
	// Client has the credentials of the worker.
	Client          versioned.Interface
	Namespace, Name string
	// Chunks is whether the worker accepts tasks with several indexes.
	Chunks bool
	// Duration is the time from the assignment of a task to its reported end.
	Duration time.Duration
	// Pace is called before each status write, if it is not nil. After an error the status is not written. Pace must be
	// safe for concurrent use.
	Pace func(context.Context) error
	// Seen is called with the name of each task that the worker sees. It must be safe for concurrent use.
	Seen func(name string)
	// Failed is called with each error of a request. It must be safe for concurrent use.
	Failed func(error)

	incarnation string
	wg          sync.WaitGroup
}

// Protobuf returns a copy of config with the content types of leat-worker.
func Protobuf(config *rest.Config) *rest.Config {
	config = rest.CopyConfig(config)
	config.ContentType = runtime.ContentTypeProtobuf
	config.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	return config
}

// Register creates the Worker, with a capacity of that many tasks, and its lease. Call it before Run.
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
	if w.Chunks {
		worker.Status.WorkerInfo.Features = []batch.WorkerFeature{batch.WorkerFeatureChunks}
	}
	meta.SetStatusCondition(&worker.Status.Conditions, metav1.Condition{Type: batch.WorkerReady, Status: metav1.ConditionTrue, Reason: "WorkerReady"})
	_, err = api.Workers(w.Namespace).UpdateStatus(ctx, worker, metav1.UpdateOptions{})
	return err
}

func (w *FakeWorker) renewed(lease *batch.WorkerLease) *batch.WorkerLease {
	lease.Spec = batch.WorkerLeaseSpec{HolderIdentity: w.incarnation, LeaseDurationSeconds: new(int32(40)), RenewTime: new(metav1.NowMicro())}
	return lease
}

// Run reports each task of the worker as succeeded, until ctx ends.
func (w *FakeWorker) Run(ctx context.Context) error {
	tasks := informers.NewTypedFilteredTaskInformer(w.Client, w.Namespace, 0, nil, func(o *metav1.ListOptions) {
		o.FieldSelector = "spec.workerName=" + w.Name + ",status.phase!=Succeeded,status.phase!=Failed"
	})
	if _, err := tasks.AddTypedEventHandler(informers.TaskHandlerFuncs{
		AddFunc: func(task *batch.Task) { w.wg.Go(func() { w.complete(ctx, task) }) },
	}); err != nil {
		return err
	}
	w.wg.Go(func() { tasks.RunWithContext(ctx) })
	w.wg.Go(func() { w.renewLease(ctx) })
	w.wg.Wait()
	return nil
}

// renewLease renews the lease every 10 s.
func (w *FakeWorker) renewLease(ctx context.Context) {
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

// complete writes the status of a succeeded task. It retries after errors that a retry may fix.
func (w *FakeWorker) complete(ctx context.Context, task *batch.Task) {
	w.Seen(task.Name)
	started := metav1.Now()
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
	finished := metav1.Now()
	task = task.DeepCopy()
	s := &task.Status
	s.Phase, s.Attempts, s.StartTime, s.CompletionTime = batch.TaskSucceeded, s.Attempts+1, &started, &finished
	s.State = batch.TaskState{Terminated: &batch.TaskStateTerminated{Reason: batch.TaskReasonCompleted, StartedAt: started, FinishedAt: finished}}
	ended := 1
	if task.Spec.Indexes != "" {
		ended = indexes.Count(task.IndexRanges())
		if s.IndexLimit != nil {
			ended = min(ended, int(*s.IndexLimit))
		}
		s.CompletedCount, s.Attempts = int32(ended), 1
	}
	// The controller derives the size of chunks from it.
	s.BusyMilliseconds = int64(ended) * max(1, w.Duration.Milliseconds())
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
