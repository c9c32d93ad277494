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

// Package agent registers a Worker object and runs the tasks that are bound to it. It is an ordinary client of the API.
// It needs Linux.
package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/klog/v2"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/generated/clientset/versioned"
	informers "github.com/leat-dev/leat/pkg/generated/informers/externalversions/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/worker/echo"
	"github.com/leat-dev/leat/pkg/worker/logs"
	"github.com/leat-dev/leat/pkg/worker/process"
	"github.com/leat-dev/leat/pkg/worker/sandbox"
	"github.com/leat-dev/leat/pkg/worker/spool"
	"github.com/leat-dev/leat/pkg/worker/taskrunner"
)

// reportTimeout is how long a stopping worker may take to report, in addition to the drain timeout.
const reportTimeout = 5 * time.Second

// releaseDelay is how long a worker has no task of a set before the archive learns of it: another task may follow.
const releaseDelay = 2 * time.Second

// DefaultPrefetch is the Prefetch of programs that run workers: it fills the time between the end of a command and the
// binding of the next task.
const DefaultPrefetch = 1

// defaultTaskMaxPIDs is enough for a build on a large machine, and leaves the machine process numbers for everything
// else.
const defaultTaskMaxPIDs = 4096

// Options configure a worker. A zero duration means the default.
type Options struct {
	// Namespace and Name identify the Worker object. A process may reuse the name of one that has ended; two processes
	// that run must not share a name.
	Namespace, Name string
	// Labels are set on the Worker. Labels that others have set are kept.
	Labels map[string]string
	// Taints are set on the Worker when it is created. Later changes by others are kept.
	Taints []batch.Taint
	// Capacity is what the tasks of the worker may use. It must contain "tasks", how many tasks run at a time.
	Capacity batch.ResourceList
	// Version is the version of the program, for people.
	Version string

	// DrainTimeout is the longest time between SIGTERM and SIGKILL for a command when the worker stops. The grace
	// period of the task applies if it is shorter. The default is 20 s, so that a worker stops within a Pod's usual
	// 30 s.
	DrainTimeout time.Duration
	// BackoffBase and BackoffCap are the first and the longest delay between two attempts at a task, by default 10 s
	// and 5 min. The delay doubles with each attempt, and is reset by an attempt that runs for more than twice the
	// cap.
	BackoffBase, BackoffCap time.Duration
	// LeaseDuration is how long the worker counts as alive after it has renewed its WorkerLease. It must be whole
	// seconds; the default is 40 s.
	LeaseDuration time.Duration
	// HeartbeatInterval is the time between two renewals of the lease, by default a quarter of LeaseDuration.
	HeartbeatInterval time.Duration
	// AnnounceDelay is how long a command runs before its start is reported, by default 100 ms. The start of a command
	// that ends earlier is reported together with its end. For a task with spec.indexes, the delay begins
	// batch.ChunkDuration after the start.
	AnnounceDelay time.Duration
	// ProgressInterval is the shortest time between two reports of a task's progress, by default 5 s. The start and the
	// end of a task are reported at once.
	ProgressInterval time.Duration

	// Prefetch is how many tasks, for each that the worker can run at a time, may wait on the worker for a slot.
	Prefetch int

	// TaskMaxPIDs is how many processes and threads a task may have at a time, by default 4096; less than zero is
	// unlimited. It needs control groups.
	TaskMaxPIDs int64
	// WithheldEnv are names of environment variables of this process that tasks do not inherit.
	WithheldEnv []string
	// StateDir is the directory for files of attempts, and for what the next process of this worker must know about
	// attempts that this one does not end. It is created if necessary, and workers may share it. The default, and the
	// fallback if it cannot be used, is the directory for temporary files.
	StateDir string
	// Logs keeps the output of commands, and Endpoint is where that is served. Either may be nil.
	Logs     *logs.Store
	Endpoint *batch.WorkerEndpoint
	// Archive keeps finished attempts until they are in the archive. It may be nil. Run starts and stops it; the caller
	// closes it.
	Archive *spool.Spool
	// Echo prints each line that commands print as JSON, if it is not nil. A writer that blocks misses lines.
	Echo io.Writer
	// Registerer registers the metrics; it may be nil. Workers that share one are counted together.
	Registerer prometheus.Registerer
}

func (o Options) withDefaults() Options {
	for _, d := range []struct {
		option *time.Duration
		value  time.Duration
	}{
		{&o.DrainTimeout, 20 * time.Second},
		{&o.BackoffBase, 10 * time.Second},
		{&o.BackoffCap, 5 * time.Minute},
		{&o.LeaseDuration, 40 * time.Second},
		{&o.AnnounceDelay, 100 * time.Millisecond},
		{&o.ProgressInterval, 5 * time.Second},
	} {
		if *d.option == 0 {
			*d.option = d.value
		}
	}
	if o.HeartbeatInterval == 0 {
		o.HeartbeatInterval = o.LeaseDuration / 4
	}
	if o.TaskMaxPIDs == 0 {
		o.TaskMaxPIDs = defaultTaskMaxPIDs
	}
	return o
}

func (o Options) validate() error {
	if o.Namespace == "" || o.Name == "" {
		return errors.New("a worker needs a namespace and a name")
	}
	if tasks := o.Capacity[batch.ResourceTasks]; tasks.Sign() <= 0 {
		return fmt.Errorf("a worker's capacity must have %q, one or more", batch.ResourceTasks)
	}
	if o.Prefetch < 0 {
		return fmt.Errorf("a worker cannot prefetch %d tasks for each slot: it must be 0 or more", o.Prefetch)
	}
	if o.LeaseDuration < time.Second || o.LeaseDuration%time.Second != 0 {
		return fmt.Errorf("a worker's lease must last for whole seconds, one or more, not %s", o.LeaseDuration)
	}
	return nil
}

// Worker runs the tasks that are bound to it.
type Worker struct {
	client       versioned.Interface
	options      Options
	incarnation  string
	registration *registration
	host         *sandbox.Host
	sandbox      *sandbox.Sandbox   // set before the first runner starts
	predecessor  string             // an earlier incarnation that was leaving, or empty; set before the first runner starts
	config       *taskrunner.Config // of the runners

	draining   chan struct{} // closed when no more commands may start
	superseded chan struct{} // closed when another process has taken the name
	supersede  func()        // closes superseded

	wg      sync.WaitGroup // of runners
	mu      sync.Mutex
	runners map[string]*taskrunner.Runner // by the name of the task
	sets    map[types.UID]*runningSet     // that have runners which have not ended, or had some until releaseDelay ago
}

// runningSet is a set with tasks on the worker.
type runningSet struct {
	runners int         // that have not ended
	release *time.Timer // releases the set; nil while it has runners
}

// New returns a worker with a new incarnation. Workers that run in one process share the host.
func New(client versioned.Interface, host *sandbox.Host, options Options) *Worker {
	options = options.withDefaults()
	incarnation := string(uuid.NewUUID())
	superseded := make(chan struct{})
	draining := make(chan struct{})
	w := &Worker{
		client:       client,
		host:         host,
		options:      options,
		incarnation:  incarnation,
		registration: newRegistration(client, options, incarnation),
		draining:     draining,
		superseded:   superseded,
		supersede:    sync.OnceFunc(func() { close(superseded) }),
		runners:      map[string]*taskrunner.Runner{},
		sets:         map[types.UID]*runningSet{},
	}
	w.config = &taskrunner.Config{
		Tasks:            client.BatchV1alpha1().Tasks(options.Namespace),
		WorkerName:       options.Name,
		Incarnation:      incarnation,
		DrainTimeout:     options.DrainTimeout,
		BackoffBase:      options.BackoffBase,
		BackoffCap:       options.BackoffCap,
		AnnounceDelay:    options.AnnounceDelay,
		ProgressInterval: options.ProgressInterval,
		StartBackoff:     taskrunner.StartBackoff,
		Start:            func(c process.Command) (*process.Process, *process.StartError) { return w.sandbox.Start(c) },
		Logs:             options.Logs,
		Pressure:         w.registration.pressure,
		Metrics:          taskrunner.NewMetrics(options.Registerer),
		Slots:            taskrunner.NewSlots(options.Capacity),
		Draining:         draining,
		IsSuperseded:     w.isSuperseded,
		Crashed:          w.crashed,
	}
	if options.Archive != nil {
		w.config.Archive = options.Archive
	}
	return w
}

// Run kills commands that earlier processes of the worker left running, registers the worker and runs its tasks until
// ctx is done. Then it accepts no more tasks, terminates the commands, evicts the unfinished tasks and returns, at
// the latest 10 s after the drain timeout. It returns ErrSuperseded when another process takes the worker's name, and
// an error at once if the options are invalid. It may be called once.
//
// While it runs, this process is a child subreaper (see prctl(2)), and reaps children that it has not started, except
// those in its own session: other parts of the program must not start processes in other sessions.
func (w *Worker) Run(ctx context.Context) error {
	if err := w.options.validate(); err != nil {
		return err
	}
	logger := klog.FromContext(ctx).WithValues("worker", klog.KRef(w.options.Namespace, w.options.Name))
	ctx = klog.NewContext(ctx, logger)
	release := w.host.Acquire()
	defer release()
	memory, gpus := w.options.Capacity[batch.ResourceMemory], w.options.Capacity[batch.ResourceGPU]
	var err error
	if w.sandbox, err = sandbox.New(ctx, w.host, sandbox.Config{
		Namespace:   w.options.Namespace,
		Name:        w.options.Name,
		Incarnation: w.incarnation,
		StateDir:    w.options.StateDir,
		WithheldEnv: w.options.WithheldEnv,
		GPUs:        gpus.Value(),
		Memory:      max(0, memory.Value()),
		TaskMaxPIDs: w.options.TaskMaxPIDs,
	}); err != nil {
		return err
	}
	w.config.Sandbox = w.sandbox
	if w.options.Echo != nil {
		w.config.Echo = echo.New(w.options.Echo)
		defer w.config.Echo.Close()
	}
	defer func() {
		if err := w.sandbox.Close(); err != nil {
			logger.Error(err, "Failed to remove the control groups and files of tasks")
		}
	}()
	tracker := w.registration.pressure
	defer tracker.Stop()
	tracker.CheckSpace = func() error { return errors.Join(w.sandbox.CheckSpace(), w.options.Logs.SpaceLeft()) }
	if err := w.register(ctx); err != nil {
		return err
	}
	// From here on the registration belongs to the heartbeat goroutine.
	w.predecessor = w.registration.predecessor

	// Requests and the watch go on while the worker drains.
	requests, stopRequests := context.WithCancel(context.WithoutCancel(ctx))
	defer stopRequests()
	watching, stopWatching := context.WithCancel(requests)
	defer stopWatching()
	tasks, err := w.newTaskInformer(requests)
	if err != nil {
		return err
	}
	w.options.Archive.Start(requests, w.incarnation)
	var watch, heartbeat sync.WaitGroup
	watch.Go(func() { tasks.RunWithContext(watching) })
	beating, stopBeating := context.WithCancel(requests)
	defer stopBeating()
	heartbeat.Go(func() {
		if w.registration.run(beating, w.draining, w.config.Running.Load) != nil {
			w.supersede()
		}
	})

	select {
	case <-ctx.Done():
	case <-w.superseded:
	}
	logger.Info("Draining the worker", "runningTasks", w.config.Running.Load())
	close(w.draining)
	if err := w.sandbox.MarkStopping(); err != nil {
		logger.Error(err, "Failed to record that the worker stops; if it is killed, its commands count as having crashed it")
	}
	timeout := time.AfterFunc(w.options.DrainTimeout+reportTimeout, stopRequests)
	defer timeout.Stop()
	w.waitForRunners(requests)
	stopWatching()
	watch.Wait()
	// No runner is added any more.
	ended := make(chan struct{})
	go func() { w.wg.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-requests.Done():
	}
	w.options.Archive.Stop(requests)
	stopBeating()
	heartbeat.Wait()
	select {
	case <-w.superseded:
		return ErrSuperseded
	default:
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), reportTimeout)
	defer cancel()
	if err := w.registration.sync(last, false, stoppedCondition, 0); err != nil {
		logger.Error(err, "Failed to report that the worker has stopped")
	}
	return nil
}

// register registers the worker. It retries until it succeeds or ctx is done.
func (w *Worker) register(ctx context.Context) error {
	backoff := wait.Backoff{Duration: 100 * time.Millisecond, Factor: 2, Jitter: 0.2, Steps: 8, Cap: 10 * time.Second}
	for {
		err := w.registration.register(ctx, readyCondition)
		if err == nil {
			return nil
		}
		if errors.Is(err, ErrSuperseded) {
			return err
		}
		klog.FromContext(ctx).Error(err, "Failed to register the worker; retrying")
		timer := time.NewTimer(backoff.Step())
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return err
		}
	}
}

// newTaskInformer returns an informer for the unfinished tasks that are bound to the worker. Its events go to runners.
func (w *Worker) newTaskInformer(ctx context.Context) (informers.TaskIndexInformer, error) {
	selector := fields.AndSelectors(
		fields.OneTermEqualSelector("spec.workerName", w.options.Name),
		fields.OneTermNotEqualSelector("status.phase", string(batch.TaskSucceeded)),
		fields.OneTermNotEqualSelector("status.phase", string(batch.TaskFailed)),
	).String()
	tasks := informers.NewTypedFilteredTaskInformer(w.client, w.options.Namespace, 0, nil, func(o *metav1.ListOptions) {
		o.FieldSelector = selector
	})
	_, err := tasks.AddTypedEventHandler(informers.TaskHandlerFuncs{
		AddFunc:    func(t *batch.Task) { w.updateTask(ctx, t) },
		UpdateFunc: func(_, t *batch.Task) { w.updateTask(ctx, t) },
		DeleteFunc: func(t informers.DeletedTask) { w.removeTask(t.GetObjectName().Name) },
	})
	return tasks, err
}

// updateTask passes a task to its runner. It starts a runner for a new assignment.
func (w *Worker) updateTask(ctx context.Context, task *batch.Task) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var previous <-chan struct{}
	if r := w.runners[task.Name]; r != nil {
		if r.Handles(task) {
			r.Update(task)
			return
		}
		r.MarkLost()
		previous = r.Done()
	}
	r := taskrunner.New(w.config, task, previous)
	w.runners[task.Name] = r
	set := taskrunner.SetOf(task)
	w.enterSetLocked(set)
	w.wg.Go(func() {
		r.Run(ctx)
		w.leaveSet(set)
		w.forget(r)
	})
}

// enterSetLocked counts a runner of a set. w.mu must be held.
func (w *Worker) enterSetLocked(set types.UID) {
	if w.config.Archive == nil || set == "" {
		return
	}
	s := w.sets[set]
	if s == nil {
		s = &runningSet{}
		w.sets[set] = s
		w.config.Archive.Expect(set)
	}
	if s.release != nil {
		s.release.Stop()
		s.release = nil
	}
	s.runners++
}

// leaveSet counts a runner of a set that has ended. The archive learns that a set has none any more after releaseDelay.
func (w *Worker) leaveSet(set types.UID) {
	if w.config.Archive == nil || set == "" {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.sets[set]
	if s.runners--; s.runners == 0 {
		s.release = time.AfterFunc(releaseDelay, func() { w.releaseSet(set, s) })
	}
}

// releaseSet tells the archive that the worker has no more tasks of a set, unless there is one again.
func (w *Worker) releaseSet(set types.UID, s *runningSet) {
	w.mu.Lock()
	idle := w.sets[set] == s && s.runners == 0
	if idle {
		delete(w.sets, set)
	}
	w.mu.Unlock()
	if idle {
		w.config.Archive.Release(set)
	}
}

// removeTask tells the runner of a task that the task is finished, deleted or evicted.
func (w *Worker) removeTask(name string) {
	w.mu.Lock()
	r := w.runners[name]
	w.mu.Unlock()
	if r != nil {
		r.MarkLost()
		w.forget(r)
	}
}

// forget removes a runner that has ended and whose task has left the informer. Until both are true the runner is
// kept: a late event must not look like a new task, and a task must not run again before its earlier command has
// ended.
func (w *Worker) forget(r *taskrunner.Runner) {
	w.mu.Lock()
	defer w.mu.Unlock()
	select {
	case <-r.Done():
		if r.IsLost() && w.runners[r.Name()] == r {
			delete(w.runners, r.Name())
		}
	default:
	}
}

// waitForRunners waits until all runners have ended or ctx is done. The tasks of a superseded worker are lost.
func (w *Worker) waitForRunners(ctx context.Context) {
	w.mu.Lock()
	var all []*taskrunner.Runner
	for _, r := range w.runners {
		all = append(all, r)
	}
	w.mu.Unlock()
	for _, r := range all {
		select {
		case <-w.superseded:
			r.MarkLost()
		default:
		}
	}
	for _, r := range all {
		select {
		case <-r.Done():
		case <-ctx.Done():
			return
		}
	}
}

// isSuperseded reports whether another process has registered under the worker's name, and stops the worker if so.
func (w *Worker) isSuperseded(ctx context.Context) (bool, error) {
	worker, err := w.client.BatchV1alpha1().Workers(w.options.Namespace).Get(ctx, w.options.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err == nil && worker.Status.Incarnation != w.incarnation {
		w.supersede()
		return true, nil
	}
	return false, err
}

// crashed reports whether the earlier incarnation that the task is bound to crashed while it ran the task's command.
// An incarnation that somebody wanted to end has not crashed. The files that the incarnation has left are exact.
// Without them the task's status decides: it has the start of a command after AnnounceDelay, or at once if the task
// was disrupted before.
func (w *Worker) crashed(task *batch.Task) bool {
	if task.Status.Incarnation == w.predecessor {
		return false
	}
	if crashed, known := w.sandbox.Crashed(task.Status.Incarnation, task.UID); known {
		return crashed
	}
	return task.Status.State.Running != nil
}
