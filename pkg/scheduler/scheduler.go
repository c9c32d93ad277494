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

// Package scheduler binds pending tasks to workers.
//
// The scheduler is an ordinary API client. It watches tasks, workers and queues, creates bindings, and writes the
// status of tasks and queues. All other state is in memory and is rebuilt from the API after a restart.
package scheduler

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/client/cachefields"
	"github.com/leat-dev/leat/pkg/generated/clientset/versioned"
	informers "github.com/leat-dev/leat/pkg/generated/informers/externalversions/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/scheduler/queue"
)

const (
	// unfinished is the field selector of the tasks that the scheduler watches.
	unfinished = "status.phase!=Succeeded,status.phase!=Failed"
	// serverBackoff is how long the scheduler sends no bindings after the server was unreachable or overloaded.
	serverBackoff = time.Second
	// reportBatch is how many tasks get an unschedulable condition per report delay. It bounds the writes that a
	// long queue causes: tasks further back are reported as the queue moves.
	reportBatch = 50
	// writers is how many evictions, and how many queue status updates, are in flight at a time.
	writers = 8
	// reasonDrained is the eviction reason for tasks of a drained queue.
	reasonDrained = "TaskQueueStopped"
)

// ScoringStrategy is how the workers that a task fits are scored.
type ScoringStrategy string

const (
	// Spread prefers the worker with the lowest utilization.
	Spread ScoringStrategy = "spread"
	// Pack prefers the worker with the highest utilization.
	Pack ScoringStrategy = "pack"
)

// ScoringStrategies returns all scoring strategies.
func ScoringStrategies() []ScoringStrategy { return []ScoringStrategy{Spread, Pack} }

// Scheduler binds the pending tasks of each namespace to workers of that namespace. It orders tasks by priority, then
// by the weighted share of their queue, then by age, then by name, shorter ones first.
//
// Two schedulers may run at the same time: the server rejects the second binding of a task.
type Scheduler struct {
	client           versioned.Interface
	strategy         ScoringStrategy
	bindParallelism  int
	reportDelay      time.Duration
	reservationDelay time.Duration
	statusInterval   time.Duration
	registerer       prometheus.Registerer

	state *state
	// These channels hold at most one signal each: a task may be schedulable, the server is failing, a queue may
	// need draining.
	wake, serverFailing, drain chan struct{}
}

// Option configures a Scheduler.
type Option func(*Scheduler)

// WithScoringStrategy sets how workers are scored. The default is Spread.
func WithScoringStrategy(strategy ScoringStrategy) Option {
	return func(s *Scheduler) { s.strategy = strategy }
}

// WithMetrics sets the registry that holds the metrics while the scheduler runs.
func WithMetrics(registerer prometheus.Registerer) Option {
	return func(s *Scheduler) { s.registerer = registerer }
}

// WithBindParallelism sets how many bindings may be in flight. The default is 16.
func WithBindParallelism(n int) Option {
	return func(s *Scheduler) { s.bindParallelism = n }
}

// WithReportDelay sets how long a task is unschedulable before the scheduler reports it in the status of the task. The
// default is one second. A task that is bound earlier costs no write besides its binding.
func WithReportDelay(d time.Duration) Option {
	return func(s *Scheduler) { s.reportDelay = d }
}

// WithReservationDelay sets how long a task is unschedulable before the scheduler reserves room for it. The default is
// ten seconds.
func WithReservationDelay(d time.Duration) Option {
	return func(s *Scheduler) { s.reservationDelay = d }
}

// New returns a scheduler. The client should not be rate limited: the number of bindings in flight limits the requests.
func New(client versioned.Interface, options ...Option) *Scheduler {
	s := &Scheduler{
		client:           client,
		strategy:         Spread,
		bindParallelism:  16,
		reportDelay:      time.Second,
		reservationDelay: 10 * time.Second,
		statusInterval:   time.Second,
		registerer:       prometheus.NewRegistry(),
		wake:             make(chan struct{}, 1),
		serverFailing:    make(chan struct{}, 1),
		drain:            make(chan struct{}, 1),
	}
	for _, option := range options {
		option(s)
	}
	s.state = newState(s.strategy, func() { signal(s.wake) })
	return s
}

// Run schedules until ctx is done. It returns after all its goroutines have ended. It may be called only once.
func (s *Scheduler) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer s.state.stop()
	defer cancel()

	if err := s.registerer.Register(s.state); err != nil {
		return err
	}
	defer s.registerer.Unregister(s.state)
	synced, err := s.watch(ctx, &wg)
	if err != nil {
		return err
	}
	// Bound tasks and queue limits must be known before the first task is placed.
	if !toolscache.WaitFor(ctx, "", synced...) {
		return nil
	}
	s.state.markSynced()
	signal(s.drain)
	wg.Go(func() { s.report(ctx) })
	wg.Go(func() { s.returnTasks(ctx) })
	wg.Go(func() { s.drainQueues(ctx) })
	wg.Go(func() { s.updateQueueStatuses(ctx) })
	s.schedule(ctx, &wg)
	return nil
}

// watch starts the informers. The returned checkers are done when the cache holds everything that the informers listed.
func (s *Scheduler) watch(ctx context.Context, wg *sync.WaitGroup) ([]toolscache.DoneChecker, error) {
	tasks := informers.NewTypedFilteredTaskInformer(s.client, metav1.NamespaceAll, 0, nil, func(o *metav1.ListOptions) {
		o.FieldSelector = unfinished
	})
	workers := informers.NewTypedWorkerInformer(s.client, metav1.NamespaceAll, 0, nil)
	queues := informers.NewTypedTaskQueueInformer(s.client, metav1.NamespaceAll, 0, nil)
	if err := errors.Join(tasks.SetTransform(cachefields.UnfinishedTask), workers.SetTransform(cachefields.WithoutManagedFields),
		queues.SetTransform(cachefields.WithoutManagedFields)); err != nil {
		return nil, err
	}
	setQueue := func(q *batch.TaskQueue) {
		s.state.setQueue(q)
		signal(s.wake)
		signal(s.drain)
	}
	tasksSeen, err := tasks.AddTypedEventHandler(informers.TaskHandlerFuncs{
		AddFunc:    func(t *batch.Task) { s.state.setTask(t); signal(s.wake) },
		UpdateFunc: func(_, t *batch.Task) { s.state.setTask(t); signal(s.wake) },
		DeleteFunc: func(t informers.DeletedTask) { s.state.deleteTask(t.GetObjectName()); signal(s.wake) },
	})
	if err != nil {
		return nil, err
	}
	workersSeen, err := workers.AddTypedEventHandler(informers.WorkerHandlerFuncs{
		AddFunc:    func(w *batch.Worker) { s.state.setWorker(w); signal(s.wake) },
		UpdateFunc: func(_, w *batch.Worker) { s.state.setWorker(w); signal(s.wake) },
		DeleteFunc: func(w informers.DeletedWorker) { s.state.deleteWorker(w.GetObjectName()); signal(s.wake) },
	})
	if err != nil {
		return nil, err
	}
	queuesSeen, err := queues.AddTypedEventHandler(informers.TaskQueueHandlerFuncs{
		AddFunc:    setQueue,
		UpdateFunc: func(_, q *batch.TaskQueue) { setQueue(q) },
		DeleteFunc: func(q informers.DeletedTaskQueue) { s.state.deleteQueue(q.GetObjectName()); signal(s.wake) },
	})
	if err != nil {
		return nil, err
	}
	wg.Go(func() { tasks.RunWithContext(ctx) })
	wg.Go(func() { workers.RunWithContext(ctx) })
	wg.Go(func() { queues.RunWithContext(ctx) })
	return []toolscache.DoneChecker{tasksSeen.HasSyncedChecker(), workersSeen.HasSyncedChecker(), queuesSeen.HasSyncedChecker()}, nil
}

// schedule places tasks and sends their bindings until ctx is done.
func (s *Scheduler) schedule(ctx context.Context, wg *sync.WaitGroup) {
	slots := make(chan struct{}, s.bindParallelism)
	for {
		// Take the slot before placing a task, so that the placement uses the state at the time of the request.
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		p, ok := s.decide(ctx)
		if !ok {
			return
		}
		start := time.Now()
		wg.Go(func() {
			defer func() { <-slots }()
			s.bind(ctx, p, start)
		})
	}
}

// decide waits for the next placement. It returns false when ctx is done.
func (s *Scheduler) decide(ctx context.Context) (placement, bool) {
	for {
		select {
		case <-s.serverFailing:
			if !sleep(ctx, serverBackoff) {
				return placement{}, false
			}
		default:
		}
		if p, ok := s.state.next(time.Now()); ok {
			return p, true
		}
		select {
		case <-s.wake:
		case <-ctx.Done():
			return placement{}, false
		}
	}
}

// bind sends the binding of a placed task. The binding carries the resource version that the decision is based on,
// because another scheduler may have bound and evicted the task since, or its queue may have been held.
func (s *Scheduler) bind(ctx context.Context, p placement, start time.Time) {
	_, err := s.client.BatchV1alpha1().Tasks(p.obj.Namespace).Bind(ctx, p.obj.Name, &batch.Binding{
		ObjectMeta: metav1.ObjectMeta{Name: p.obj.Name, Namespace: p.obj.Namespace, UID: p.obj.UID, ResourceVersion: p.obj.ResourceVersion},
		Target:     p.target,
		Prefetched: p.prefetched,
	}, metav1.CreateOptions{})
	if ctx.Err() != nil {
		return
	}
	metrics := s.state.metrics
	metrics.binding.Observe(time.Since(start).Seconds())
	if err == nil {
		metrics.attempt(scheduled, start)
		metrics.waiting.Observe(max(0, time.Since(p.since).Seconds()))
		return
	}
	metrics.attempt(failed, start)
	stale := apierrors.IsConflict(err) || apierrors.IsNotFound(err)
	switch logger := klog.FromContext(ctx); {
	case stale:
		logger.V(4).Info("Task changed before it was bound", "task", klog.KObj(p.obj), "err", err)
	default:
		logger.Error(err, "Failed to bind task; will retry", "task", klog.KObj(p.obj), "worker", p.target.Name)
		if isServerFailure(err) {
			s.state.bindingUncertain(p, time.Now())
			signal(s.serverFailing)
		}
	}
	s.state.bindingFailed(p, stale)
	signal(s.wake)
}

// isServerFailure reports whether err is a failure of the server rather than of the request, so that other requests are
// likely to fail too.
func isServerFailure(err error) bool {
	return apierrors.ReasonForError(err) == metav1.StatusReasonUnknown || apierrors.IsServiceUnavailable(err) ||
		apierrors.IsTooManyRequests(err) || apierrors.IsServerTimeout(err) || apierrors.IsTimeout(err) || apierrors.IsUnauthorized(err)
}

// report reserves room for tasks that have been unschedulable for long, and writes to tasks why they are unschedulable.
func (s *Scheduler) report(ctx context.Context) {
	for sleep(ctx, s.reportDelay) {
		now := time.Now()
		s.state.reserve(now.Add(-s.reservationDelay))
		signal(s.wake)
		for _, r := range s.state.tasksToReport(now, s.reportDelay, reportBatch) {
			if err := s.reportUnschedulable(ctx, r); err != nil {
				klog.FromContext(ctx).V(4).Info("Failed to update task status; will retry", "task", klog.KObj(r.Object), "err", err)
			}
		}
	}
}

func (s *Scheduler) reportUnschedulable(ctx context.Context, r queue.Report) error {
	obj := r.Object.DeepCopy()
	meta.SetStatusCondition(&obj.Status.Conditions, metav1.Condition{
		Type:    batch.TaskScheduled,
		Status:  metav1.ConditionFalse,
		Reason:  batch.TaskReasonUnschedulable,
		Message: r.Message,
	})
	if _, err := s.client.BatchV1alpha1().Tasks(obj.Namespace).UpdateStatus(ctx, obj, metav1.UpdateOptions{}); err != nil {
		return err
	}
	s.state.reported(r)
	return nil
}

// drainQueues evicts the tasks of drained queues: at once when a queue changes, and periodically while tasks are left.
func (s *Scheduler) drainQueues(ctx context.Context) {
	for {
		timer := time.NewTimer(s.statusInterval)
		select {
		case <-s.drain:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
		timer.Stop()
		for due := s.state.tasksToEvict(writers); len(due) > 0; due = s.state.tasksToEvict(writers) {
			if !parallelize(due, func(task *batch.Task) bool { return s.evict(ctx, task) }) {
				break // retry with the next tick
			}
		}
	}
}

func (s *Scheduler) evict(ctx context.Context, task *batch.Task) bool {
	_, err := s.client.BatchV1alpha1().Tasks(task.Namespace).Evict(ctx, task.Name, &batch.Eviction{
		ObjectMeta: metav1.ObjectMeta{Name: task.Name, Namespace: task.Namespace},
		Reason:     reasonDrained,
		Message:    fmt.Sprintf("Queue %s is drained (stopPolicy %s).", task.Spec.QueueName, batch.StopPolicyHoldAndDrain),
		// The task may have been evicted and bound again since it was selected.
		Preconditions: &metav1.Preconditions{UID: &task.UID, ResourceVersion: &task.ResourceVersion},
	}, metav1.CreateOptions{})
	if err == nil {
		s.state.metrics.evictions.Inc()
		return true
	}
	klog.FromContext(ctx).V(2).Info("Failed to evict task of a drained queue; will retry", "task", klog.KObj(task), "err", err)
	s.state.evictionFailed(toolscache.MetaObjectToName(task))
	return false
}

// updateQueueStatuses keeps the status of each queue up to date.
func (s *Scheduler) updateQueueStatuses(ctx context.Context) {
	for sleep(ctx, s.statusInterval) {
		due := s.state.queueStatusesToWrite(time.Now(), s.statusInterval)
		for queues := range slices.Chunk(due, writers) {
			parallelize(queues, func(q *batch.TaskQueue) bool {
				stored, err := s.client.BatchV1alpha1().TaskQueues(q.Namespace).UpdateStatus(ctx, q, metav1.UpdateOptions{})
				if err != nil {
					klog.FromContext(ctx).V(4).Info("Failed to update queue status; will retry", "queue", klog.KObj(q), "err", err)
					return false
				}
				s.state.queueStatusWritten(stored)
				return true
			})
		}
	}
}

// parallelize calls f for all items concurrently and reports whether all calls succeeded.
func parallelize[T any](items []T, f func(T) bool) bool {
	var wg sync.WaitGroup
	done := make([]bool, len(items))
	for i, item := range items {
		wg.Go(func() { done[i] = f(item) })
	}
	wg.Wait()
	return !slices.Contains(done, false)
}

// signal sends to ch without blocking. It does nothing if ch already holds a signal.
func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// sleep waits for d. It returns false if ctx is done first.
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
