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

// Package scheduler binds tasks to workers, as their queues have it. It is a client of the API like any other: it watches tasks,
// workers and queues, creates bindings, and says in the status of tasks and queues what it sees; everything else it knows can be
// lost at any time.
package scheduler

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
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
	// writers is how many evictions, and how many statuses of queues, are sent at a time.
	writers = 8
	// reasonDrained is the reason of evictions from queues that are drained.
	reasonDrained = "TaskQueueStopped"
)

// Strategy is which of the workers that a task fits is the best.
type Strategy string

const (
	// Spread prefers the worker of which the least is taken.
	Spread Strategy = "spread"
	// Pack prefers the worker of which the most is taken.
	Pack Strategy = "pack"
)

// Strategies are all there are.
func Strategies() []Strategy { return []Strategy{Spread, Pack} }

// Scheduler binds the unbound tasks of all namespaces to workers of their own namespace: in order of priority, of the shares of
// their queues, of age and of name. Two of them at a time do no harm but useless work: the server refuses the second binding of a
// task.
type Scheduler struct {
	client          versioned.Interface
	strategy        Strategy
	bindParallelism int
	reportDelay     time.Duration
	holdBackDelay   time.Duration
	statusInterval  time.Duration
	registerer      prometheus.Registerer

	cluster *cluster
	// Each holds at most one signal: that there may be something to bind, that bindings should pause, and that there may be
	// something to drain.
	wake, trouble, drain chan struct{}
}

// Option changes how a scheduler works.
type Option func(*Scheduler)

// WithStrategy sets which worker is preferred; by default Spread.
func WithStrategy(strategy Strategy) Option {
	return func(s *Scheduler) { s.strategy = strategy }
}

// WithMetrics has the metrics registered while the scheduler runs.
func WithMetrics(registerer prometheus.Registerer) Option {
	return func(s *Scheduler) { s.registerer = registerer }
}

// WithBindParallelism sets how many bindings are in flight at most, 16 by default.
func WithBindParallelism(n int) Option {
	return func(s *Scheduler) { s.bindParallelism = n }
}

// WithReportDelay sets how long a task waits in vain, one second by default, before its status says so. Tasks that get a
// worker earlier cost no write beside their binding.
func WithReportDelay(d time.Duration) Option {
	return func(s *Scheduler) { s.reportDelay = d }
}

// WithHoldBackDelay sets how long a task waits in vain, ten seconds by default, before a worker is held back for it.
func WithHoldBackDelay(d time.Duration) Option {
	return func(s *Scheduler) { s.holdBackDelay = d }
}

// New returns a scheduler. The client should have no rate limit of its own: bindings are limited by how many are in
// flight.
func New(client versioned.Interface, options ...Option) *Scheduler {
	s := &Scheduler{
		client:          client,
		strategy:        Spread,
		bindParallelism: 16,
		reportDelay:     time.Second,
		holdBackDelay:   10 * time.Second,
		statusInterval:  time.Second,
		registerer:      prometheus.NewRegistry(),
		wake:            make(chan struct{}, 1),
		trouble:         make(chan struct{}, 1),
		drain:           make(chan struct{}, 1),
	}
	for _, option := range options {
		option(s)
	}
	s.cluster = newCluster(s.strategy, func() { signal(s.wake) })
	return s
}

// Run schedules until ctx is done, and returns when all that it started has ended. It may be called once.
func (s *Scheduler) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer s.cluster.stop()
	defer cancel()

	if err := s.registerer.Register(s.cluster); err != nil {
		return err
	}
	defer s.registerer.Unregister(s.cluster)
	seen, err := s.watch(ctx, &wg)
	if err != nil {
		return err
	}
	// What is taken on each worker, and which queues are held, must be known before the first decision.
	if !cache.WaitFor(ctx, "", seen...) {
		return nil
	}
	s.cluster.watch()
	signal(s.drain)
	wg.Go(func() { s.report(ctx) })
	wg.Go(func() { s.evict(ctx) })
	wg.Go(func() { s.account(ctx) })
	s.schedule(ctx, &wg)
	return nil
}

// watch starts the informers. What it returns tells when all that they list has been taken in.
func (s *Scheduler) watch(ctx context.Context, wg *sync.WaitGroup) ([]cache.DoneChecker, error) {
	tasks := informers.NewTypedFilteredTaskInformer(s.client, metav1.NamespaceAll, 0, nil, func(o *metav1.ListOptions) {
		o.FieldSelector = unfinished
	})
	workers := informers.NewTypedWorkerInformer(s.client, metav1.NamespaceAll, 0, nil)
	queues := informers.NewTypedTaskQueueInformer(s.client, metav1.NamespaceAll, 0, nil)
	for _, informer := range []cache.SharedInformer{tasks, workers, queues} {
		if err := informer.SetTransform(trim); err != nil {
			return nil, err
		}
	}
	setQueue := func(q *batch.TaskQueue) {
		s.cluster.setQueue(q)
		signal(s.wake)
		signal(s.drain)
	}
	tasksSeen, err := tasks.AddTypedEventHandler(informers.TaskHandlerFuncs{
		AddFunc:    func(t *batch.Task) { s.cluster.setTask(t); signal(s.wake) },
		UpdateFunc: func(_, t *batch.Task) { s.cluster.setTask(t); signal(s.wake) },
		DeleteFunc: func(t informers.DeletedTask) { s.cluster.deleteTask(t.GetObjectName()); signal(s.wake) },
	})
	if err != nil {
		return nil, err
	}
	workersSeen, err := workers.AddTypedEventHandler(informers.WorkerHandlerFuncs{
		AddFunc:    func(w *batch.Worker) { s.cluster.setWorker(w); signal(s.wake) },
		UpdateFunc: func(_, w *batch.Worker) { s.cluster.setWorker(w); signal(s.wake) },
		DeleteFunc: func(w informers.DeletedWorker) { s.cluster.deleteWorker(w.GetObjectName()); signal(s.wake) },
	})
	if err != nil {
		return nil, err
	}
	queuesSeen, err := queues.AddTypedEventHandler(informers.TaskQueueHandlerFuncs{
		AddFunc:    setQueue,
		UpdateFunc: func(_, q *batch.TaskQueue) { setQueue(q) },
		DeleteFunc: func(q informers.DeletedTaskQueue) { s.cluster.deleteQueue(q.GetObjectName()); signal(s.wake) },
	})
	if err != nil {
		return nil, err
	}
	wg.Go(func() { tasks.RunWithContext(ctx) })
	wg.Go(func() { workers.RunWithContext(ctx) })
	wg.Go(func() { queues.RunWithContext(ctx) })
	return []cache.DoneChecker{tasksSeen.HasSyncedChecker(), workersSeen.HasSyncedChecker(), queuesSeen.HasSyncedChecker()}, nil
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
		start := time.Now()
		wg.Go(func() {
			defer func() { <-slots }()
			s.bind(ctx, p, start)
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
		select {
		case <-s.wake:
		case <-ctx.Done():
			return placement{}, false
		}
	}
}

// bind sends a binding of the task as it was when that was decided: since then it may have been bound and evicted by another
// scheduler, and its queue held.
func (s *Scheduler) bind(ctx context.Context, p placement, start time.Time) {
	_, err := s.client.BatchV1alpha1().Tasks(p.obj.Namespace).Bind(ctx, p.obj.Name, &batch.Binding{
		ObjectMeta: metav1.ObjectMeta{Name: p.obj.Name, Namespace: p.obj.Namespace, UID: p.obj.UID, ResourceVersion: p.obj.ResourceVersion},
		Target:     p.target,
	}, metav1.CreateOptions{})
	if ctx.Err() != nil {
		return
	}
	metrics := s.cluster.metrics
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
		logger.V(4).Info("Task has changed before it was bound", "task", klog.KObj(p.obj), "err", err)
	default:
		logger.Error(err, "Cannot bind the task; it is tried again later", "task", klog.KObj(p.obj), "worker", p.target.Name)
		if systemic(err) {
			signal(s.trouble)
		}
	}
	s.cluster.failed(p, stale)
	signal(s.wake)
}

// systemic says whether err is the server's and not the request's, so that other requests would fail as well.
func systemic(err error) bool {
	return apierrors.ReasonForError(err) == metav1.StatusReasonUnknown || apierrors.IsServiceUnavailable(err) ||
		apierrors.IsTooManyRequests(err) || apierrors.IsServerTimeout(err) || apierrors.IsTimeout(err) || apierrors.IsUnauthorized(err)
}

// report sees to those that wait for long: it holds back workers for them, and tells them why they wait.
func (s *Scheduler) report(ctx context.Context) {
	for sleep(ctx, s.reportDelay) {
		now := time.Now()
		s.cluster.holdBack(now.Add(-s.holdBackDelay))
		signal(s.wake)
		for _, r := range s.cluster.unreported(now, s.reportDelay, reportBatch) {
			if err := s.tell(ctx, r); err != nil {
				klog.FromContext(ctx).V(4).Info("Cannot update the status of the task; it is tried again", "task", klog.KObj(r.obj), "err", err)
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

// evict takes the tasks of queues that are drained from their workers: at once when a queue changes, and again as long as some are
// left.
func (s *Scheduler) evict(ctx context.Context) {
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
		for due := s.cluster.drained(writers); len(due) > 0; due = s.cluster.drained(writers) {
			if !each(due, func(task *batch.Task) bool { return s.evictOne(ctx, task) }) {
				break // not at once again
			}
		}
	}
}

func (s *Scheduler) evictOne(ctx context.Context, task *batch.Task) bool {
	_, err := s.client.BatchV1alpha1().Tasks(task.Namespace).Evict(ctx, task.Name, &batch.Eviction{
		ObjectMeta: metav1.ObjectMeta{Name: task.Name, Namespace: task.Namespace},
		Reason:     reasonDrained,
		Message:    fmt.Sprintf("Queue %s is drained (stopPolicy %s).", task.Spec.QueueName, batch.StopPolicyHoldAndDrain),
		// The task as it was judged: since then it may have been given back, and bound again.
		Preconditions: &metav1.Preconditions{UID: &task.UID, ResourceVersion: &task.ResourceVersion},
	}, metav1.CreateOptions{})
	if err == nil {
		s.cluster.metrics.evictions.Inc()
		return true
	}
	klog.FromContext(ctx).V(2).Info("Cannot evict a task of a queue that is drained; it is tried again", "task", klog.KObj(task), "err", err)
	s.cluster.evictionFailed(cache.MetaObjectToName(task))
	return false
}

// account keeps the statuses of queues.
func (s *Scheduler) account(ctx context.Context) {
	for sleep(ctx, s.statusInterval) {
		due := s.cluster.statuses(time.Now(), s.statusInterval)
		for queues := range slices.Chunk(due, writers) {
			each(queues, func(queue *batch.TaskQueue) bool {
				stored, err := s.client.BatchV1alpha1().TaskQueues(queue.Namespace).UpdateStatus(ctx, queue, metav1.UpdateOptions{})
				if err != nil {
					klog.FromContext(ctx).V(4).Info("Cannot update the status of the queue; it is tried again", "queue", klog.KObj(queue), "err", err)
					return false
				}
				s.cluster.wroteQueue(stored)
				return true
			})
		}
	}
}

// each calls f for all items at a time, and says whether all of them succeeded.
func each[T any](items []T, f func(T) bool) bool {
	var wg sync.WaitGroup
	done := make([]bool, len(items))
	for i, item := range items {
		wg.Go(func() { done[i] = f(item) })
	}
	wg.Wait()
	return !slices.Contains(done, false)
}

// trim drops what the scheduler never looks at. The server keeps it: a status update changes nothing but the status.
func trim(obj any) (any, error) {
	switch o := obj.(type) {
	case *batch.Task:
		o.ManagedFields = nil
		o.Spec.Command, o.Spec.Args, o.Spec.Env = nil, nil, nil
	case *batch.Worker:
		o.ManagedFields = nil
	case *batch.TaskQueue:
		o.ManagedFields = nil
	case cache.DeletedFinalStateUnknown:
		return obj, nil
	default:
		return nil, fmt.Errorf("unexpected object %T in an informer of tasks, workers or queues", obj)
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
