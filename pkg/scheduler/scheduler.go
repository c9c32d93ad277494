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

// Package scheduler binds tasks to workers. It is a client of the API like any other: it watches tasks and workers and creates
// bindings; everything else it knows can be lost at any time.
package scheduler

import (
	"context"
	"fmt"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/generated/clientset/versioned"
	informers "github.com/leat-dev/leat/pkg/generated/informers/externalversions/batch/v1alpha1"
)

const (
	// unfinished selects the tasks that a scheduler has to know.
	unfinished = "status.phase!=Succeeded,status.phase!=Failed"
	// pause is how long no binding is sent after a server could not be reached or was overloaded.
	pause = time.Second
	// reportBatch is how many tasks are told per report delay why they wait. It keeps a long queue from costing a
	// write per task: those behind are told as the queue moves.
	reportBatch = 50
)

// Scheduler binds the unbound tasks of all namespaces, in order of priority, age and name, to workers of their own
// namespace. Two of them at a time do no harm but useless work: the server refuses the second binding of a task.
type Scheduler struct {
	client          versioned.Interface
	bindParallelism int
	reportDelay     time.Duration

	cluster *cluster
	// wake and stuck hold at most one signal each: that there may be something to bind, and something to report.
	wake, stuck chan struct{}
	trouble     chan struct{}
}

// Option changes how a scheduler works.
type Option func(*Scheduler)

// WithBindParallelism sets how many bindings are in flight at most, 16 by default.
func WithBindParallelism(n int) Option {
	return func(s *Scheduler) { s.bindParallelism = n }
}

// WithReportDelay sets how long a task waits in vain, one second by default, before its status says so. Tasks that get a
// worker earlier cost no write beside their binding.
func WithReportDelay(d time.Duration) Option {
	return func(s *Scheduler) { s.reportDelay = d }
}

// New returns a scheduler. The client should have no rate limit of its own: bindings are limited by how many are in
// flight.
func New(client versioned.Interface, options ...Option) *Scheduler {
	s := &Scheduler{
		client:          client,
		bindParallelism: 16,
		reportDelay:     time.Second,
		cluster:         newCluster(),
		wake:            make(chan struct{}, 1),
		stuck:           make(chan struct{}, 1),
		trouble:         make(chan struct{}, 1),
	}
	for _, option := range options {
		option(s)
	}
	return s
}

// Run schedules until ctx is done, and returns when all that it started has ended. It may be called once.
func (s *Scheduler) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer s.cluster.stop()
	defer cancel()

	tasks := informers.NewTypedFilteredTaskInformer(s.client, metav1.NamespaceAll, 0, nil, func(o *metav1.ListOptions) {
		o.FieldSelector = unfinished
	})
	workers := informers.NewTypedWorkerInformer(s.client, metav1.NamespaceAll, 0, nil)
	if err := tasks.SetTransform(trim); err != nil {
		return err
	}
	if err := workers.SetTransform(trim); err != nil {
		return err
	}
	tasksSeen, err := tasks.AddTypedEventHandler(informers.TaskHandlerFuncs{
		AddFunc:    func(t *batch.Task) { s.cluster.setTask(t); signal(s.wake) },
		UpdateFunc: func(_, t *batch.Task) { s.cluster.setTask(t); signal(s.wake) },
		DeleteFunc: func(t informers.DeletedTask) { s.cluster.deleteTask(t.GetObjectName()); signal(s.wake) },
	})
	if err != nil {
		return err
	}
	workersSeen, err := workers.AddTypedEventHandler(informers.WorkerHandlerFuncs{
		AddFunc:    func(w *batch.Worker) { s.cluster.setWorker(w); signal(s.wake) },
		UpdateFunc: func(_, w *batch.Worker) { s.cluster.setWorker(w); signal(s.wake) },
		DeleteFunc: func(w informers.DeletedWorker) { s.cluster.deleteWorker(w.GetObjectName()); signal(s.wake) },
	})
	if err != nil {
		return err
	}
	wg.Go(func() { tasks.RunWithContext(ctx) })
	wg.Go(func() { workers.RunWithContext(ctx) })
	// What is taken on each worker must be known before the first decision.
	if !cache.WaitFor(ctx, "", tasksSeen.HasSyncedChecker(), workersSeen.HasSyncedChecker()) {
		return nil
	}
	wg.Go(func() { s.report(ctx) })
	s.schedule(ctx, &wg)
	return nil
}

// schedule decides and sends bindings until ctx is done.
func (s *Scheduler) schedule(ctx context.Context, wg *sync.WaitGroup) {
	slots := make(chan struct{}, s.bindParallelism)
	for {
		// First the slot, then the decision: it is made when it can be sent, on what is known by then.
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		p, ok := s.decide(ctx)
		if !ok {
			return
		}
		wg.Go(func() {
			defer func() { <-slots }()
			s.bind(ctx, p)
		})
	}
}

// decide waits until there is a placement. It fails when ctx is done.
func (s *Scheduler) decide(ctx context.Context) (placement, bool) {
	for {
		select {
		case <-s.trouble:
			if !sleep(ctx, pause) {
				return placement{}, false
			}
		default:
		}
		if p, ok := s.cluster.next(time.Now()); ok {
			return p, true
		}
		if s.cluster.anyBlocked() {
			signal(s.stuck)
		}
		select {
		case <-s.wake:
		case <-ctx.Done():
			return placement{}, false
		}
	}
}

func (s *Scheduler) bind(ctx context.Context, p placement) {
	_, err := s.client.BatchV1alpha1().Tasks(p.obj.Namespace).Bind(ctx, p.obj.Name, &batch.Binding{
		ObjectMeta: metav1.ObjectMeta{Name: p.obj.Name, Namespace: p.obj.Namespace, UID: p.obj.UID},
		Target:     p.target,
	}, metav1.CreateOptions{})
	if err == nil || ctx.Err() != nil {
		return
	}
	switch logger := klog.FromContext(ctx); {
	case apierrors.IsConflict(err), apierrors.IsNotFound(err):
		logger.V(4).Info("Task has changed before it was bound", "task", klog.KObj(p.obj), "err", err)
	default:
		logger.Error(err, "Cannot bind the task; it is tried again later", "task", klog.KObj(p.obj), "worker", p.target.Name)
		if systemic(err) {
			signal(s.trouble)
		}
	}
	s.cluster.failed(p, func() { signal(s.wake) })
	signal(s.wake)
}

// systemic says whether err is the server's and not the request's, so that other requests would fail as well.
func systemic(err error) bool {
	return apierrors.ReasonForError(err) == metav1.StatusReasonUnknown || apierrors.IsServiceUnavailable(err) ||
		apierrors.IsTooManyRequests(err) || apierrors.IsServerTimeout(err) || apierrors.IsTimeout(err) || apierrors.IsUnauthorized(err)
}

// report tells the tasks that no worker can take why that is. It is at rest unless there is something to tell.
func (s *Scheduler) report(ctx context.Context) {
	for {
		select {
		case <-s.stuck:
		case <-ctx.Done():
			return
		}
		for more := true; more; {
			if !sleep(ctx, s.reportDelay) {
				return
			}
			var due []report
			due, more = s.cluster.unreported(time.Now().Add(-s.reportDelay), reportBatch)
			for _, r := range due {
				if err := s.tell(ctx, r); err != nil {
					more = true
					klog.FromContext(ctx).V(4).Info("Cannot update the status of the task; it is tried again", "task", klog.KObj(r.obj), "err", err)
				}
			}
		}
	}
}

func (s *Scheduler) tell(ctx context.Context, r report) error {
	obj := r.obj.DeepCopy()
	meta.SetStatusCondition(&obj.Status.Conditions, metav1.Condition{
		Type:    batch.TaskScheduled,
		Status:  metav1.ConditionFalse,
		Reason:  batch.TaskReasonUnschedulable,
		Message: r.message,
	})
	if _, err := s.client.BatchV1alpha1().Tasks(obj.Namespace).UpdateStatus(ctx, obj, metav1.UpdateOptions{}); err != nil {
		return err
	}
	s.cluster.reported(r)
	return nil
}

// trim drops what the scheduler never looks at. The server keeps it: a status update changes nothing but the status.
func trim(obj any) (any, error) {
	switch o := obj.(type) {
	case *batch.Task:
		o.ManagedFields = nil
		o.Spec.Command, o.Spec.Args, o.Spec.Env = nil, nil, nil
	case *batch.Worker:
		o.ManagedFields = nil
	case cache.DeletedFinalStateUnknown:
		return obj, nil
	default:
		return nil, fmt.Errorf("unexpected object %T in an informer of tasks or workers", obj)
	}
	return obj, nil
}

// signal leaves a signal in ch unless there is one already.
func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// sleep waits for d. It fails when ctx is done before.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
