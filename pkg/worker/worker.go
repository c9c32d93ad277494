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

// Package worker runs the tasks that are bound to one worker, and reports on them. It is a client of the API like any other.
// It needs Linux.
package worker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/klog/v2"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/generated/clientset/versioned"
	informers "github.com/leat-dev/leat/pkg/generated/informers/externalversions/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/worker/logs"
)

// lastRequests is how long a worker that stops may take to report, beyond the time that its commands have to end.
const lastRequests = 5 * time.Second

// defaultTaskMaxPIDs leaves room for a build on a large machine, and to the machine for all else.
const defaultTaskMaxPIDs = 4096

// Options say what a worker is and how it works. Zero durations stand for the defaults.
type Options struct {
	// Namespace and Name of the Worker. A process that restarts may keep its name; two that run must not share one.
	Namespace, Name string
	// Labels are set on the Worker. Labels that others have set there are kept.
	Labels map[string]string
	// Taints are set on the Worker when it is created. What it has later is for others to say.
	Taints []batch.Taint
	// Capacity is what the worker has, all of which its tasks may use. It must have "tasks", how many run at a time.
	Capacity batch.ResourceList
	// Version of the program, for people.
	Version string

	// DrainTimeout is how long commands get at most between SIGTERM and SIGKILL when the worker stops, less if the task
	// says so; by default 20 s, so that all is done within a Pod's usual 30 s.
	DrainTimeout time.Duration
	// BackoffBase and BackoffCap are the first and the longest delay between two attempts at a task, by default 10 s and 5
	// min. The delay doubles with each attempt, and starts anew after one that has run for more than twice the cap.
	BackoffBase, BackoffCap time.Duration
	// LeaseDuration is how long the worker counts as alive after it has renewed its WorkerLease, in whole seconds, by
	// default 40 s.
	LeaseDuration time.Duration
	// HeartbeatInterval is the time between two renewals of the lease, by default a quarter of its duration.
	HeartbeatInterval time.Duration
	// AnnounceDelay is how long a command has to run for its start to be reported before its end is, by default 100 ms.
	AnnounceDelay time.Duration
	// ProgressInterval is the least time between two reports of the progress of a task, but for its start and its end, by default 5 s.
	ProgressInterval time.Duration

	// TaskMaxPIDs is how many processes and threads a task may have at a time, where control groups can bound that, by default
	// 4096. Less than zero is no bound.
	TaskMaxPIDs int64
	// WithheldEnv are the names of variables in the environment of this process that tasks do not get.
	WithheldEnv []string
	// StateDir is where the worker keeps the files of attempts, and what its next process has to know of those that it
	// does not end. It is made if need be, and workers may share it. By default, and if it cannot be used, it is that
	// for temporary files.
	StateDir string
	// Logs is where the output of commands is kept, nil for nowhere, and Endpoint where it is served, nil for nowhere.
	Logs     *logs.Store
	Endpoint *batch.WorkerEndpoint
	// Registerer is where metrics are registered, nil for nowhere. Workers that share one are counted together.
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
	if o.LeaseDuration < time.Second || o.LeaseDuration%time.Second != 0 {
		return fmt.Errorf("a worker's lease must last for whole seconds, one or more, not %s", o.LeaseDuration)
	}
	return nil
}

// Worker runs the tasks bound to it.
type Worker struct {
	client       versioned.Interface
	options      Options
	incarnation  string
	registration *registration
	metrics      *metrics
	site         site   // set before the first runner starts
	predecessor  string // an earlier incarnation that was leaving, or empty; as site

	// startProcess starts a command, and startBackoff are the delays between tries.
	startProcess func(invocation) (*process, *startError)
	startBackoff wait.Backoff

	running    atomic.Int32  // tasks
	commands   atomic.Int64  // that have been started and have not ended
	draining   chan struct{} // closed when no command is to be started any more
	superseded chan struct{} // closed when another process has taken the name
	supersede  func()        // closes superseded

	wg      sync.WaitGroup // of runners
	mu      sync.Mutex
	runners map[string]*runner // by the name of the task
}

// New returns a worker, which is another incarnation than any before it.
func New(client versioned.Interface, options Options) *Worker {
	options = options.withDefaults()
	incarnation := string(uuid.NewUUID())
	superseded := make(chan struct{})
	return &Worker{
		client:       client,
		options:      options,
		incarnation:  incarnation,
		registration: newRegistration(client, options, incarnation),
		metrics:      newMetrics(options.Registerer),
		startProcess: startProcess,
		startBackoff: startBackoff,
		draining:     make(chan struct{}),
		superseded:   superseded,
		supersede:    sync.OnceFunc(func() { close(superseded) }),
		runners:      map[string]*runner{},
	}
}

// Run kills what is left of the commands of earlier processes of the worker, registers it and runs its tasks until ctx is done.
// Then it takes no more tasks, ends what runs, gives back what has not finished, and returns, at the latest 10 s after the drain
// timeout. It fails with ErrSuperseded when another process takes the worker's name, and at once when the options are not valid. It
// may be called once.
//
// Meanwhile this process is a child subreaper (see prctl(2)), and reaps children that it has not started, but for those in its own
// session: other parts of the program must not start processes in other sessions.
func (w *Worker) Run(ctx context.Context) error {
	if err := w.options.validate(); err != nil {
		return err
	}
	logger := klog.FromContext(ctx).WithValues("worker", klog.KRef(w.options.Namespace, w.options.Name))
	ctx = klog.NewContext(ctx, logger)
	release := children.adopt()
	defer release()
	var err error
	if w.site, err = newSite(ctx, w.options, w.incarnation); err != nil {
		return err
	}
	defer func() {
		if err := w.site.leave(); err != nil {
			logger.Error(err, "Something is left of the tasks that were run")
		}
	}()
	pressure := w.registration.pressure
	defer pressure.stop()
	pressure.spaceLeft = func() error { return errors.Join(w.site.spaceLeft(), w.options.Logs.SpaceLeft()) }
	if err := w.register(ctx); err != nil {
		return err
	}
	// The registration is for another goroutine from here on.
	w.predecessor = w.registration.predecessor

	// Requests and the watch go on while the worker drains.
	requests, stopRequests := context.WithCancel(context.WithoutCancel(ctx))
	defer stopRequests()
	watching, stopWatching := context.WithCancel(requests)
	defer stopWatching()
	tasks, err := w.tasks(requests)
	if err != nil {
		return err
	}
	var watch, heartbeat sync.WaitGroup
	watch.Go(func() { tasks.RunWithContext(watching) })
	beating, stopBeating := context.WithCancel(requests)
	defer stopBeating()
	heartbeat.Go(func() {
		if w.registration.keep(beating, w.draining, w.running.Load) != nil {
			w.supersede()
		}
	})

	select {
	case <-ctx.Done():
	case <-w.superseded:
	}
	logger.Info("Ending all tasks", "running", w.running.Load())
	close(w.draining)
	if err := w.site.stopping(); err != nil {
		logger.Error(err, "Cannot record that the worker stops; if it is killed, its commands count as having crashed it")
	}
	limit := time.AfterFunc(w.options.DrainTimeout+lastRequests, stopRequests)
	defer limit.Stop()
	w.endRunners(requests)
	stopWatching()
	watch.Wait()
	// None is added any more.
	ended := make(chan struct{})
	go func() { w.wg.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-requests.Done():
	}
	stopBeating()
	heartbeat.Wait()
	select {
	case <-w.superseded:
		return ErrSuperseded
	default:
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastRequests)
	defer cancel()
	if err := w.registration.refresh(last, false, stoppedCondition, 0); err != nil {
		logger.Error(err, "The worker's status does not say that it has stopped")
	}
	return nil
}

// register registers until it succeeds, or ctx is done.
func (w *Worker) register(ctx context.Context) error {
	pause := wait.Backoff{Duration: 100 * time.Millisecond, Factor: 2, Jitter: 0.2, Steps: 8, Cap: 10 * time.Second}
	for {
		err := w.registration.register(ctx, readyCondition)
		if err == nil {
			return nil
		}
		if errors.Is(err, ErrSuperseded) {
			return err
		}
		klog.FromContext(ctx).Error(err, "The worker is not registered; it is tried again")
		timer := time.NewTimer(pause.Step())
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return err
		}
	}
}

// tasks is the informer of the tasks bound to the worker that are not finished, its events handed to runners.
func (w *Worker) tasks(ctx context.Context) (informers.TaskIndexInformer, error) {
	selector := fields.AndSelectors(
		fields.OneTermEqualSelector("spec.workerName", w.options.Name),
		fields.OneTermNotEqualSelector("status.phase", string(batch.TaskSucceeded)),
		fields.OneTermNotEqualSelector("status.phase", string(batch.TaskFailed)),
	).String()
	tasks := informers.NewTypedFilteredTaskInformer(w.client, w.options.Namespace, 0, nil, func(o *metav1.ListOptions) {
		o.FieldSelector = selector
	})
	_, err := tasks.AddTypedEventHandler(informers.TaskHandlerFuncs{
		AddFunc:    func(t *batch.Task) { w.show(ctx, t) },
		UpdateFunc: func(_, t *batch.Task) { w.show(ctx, t) },
		DeleteFunc: func(t informers.DeletedTask) { w.lose(t.GetObjectName().Name) },
	})
	return tasks, err
}

// show hands a task to its runner, a new one if this binding of it is new.
func (w *Worker) show(ctx context.Context, task *batch.Task) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var before <-chan struct{}
	if r := w.runners[task.Name]; r != nil {
		if !r.isLost() && r.binding.uid == task.UID && r.binding.disruptions == task.Status.Disruptions {
			r.show(task)
			return
		}
		r.lose()
		before = r.done
	}
	r := newRunner(w, task, before)
	w.runners[task.Name] = r
	w.wg.Go(func() {
		r.start(ctx)
		w.forget(r)
	})
}

// lose tells the runner of a task that it is deleted, taken away, or finished: none of its business any more.
func (w *Worker) lose(name string) {
	w.mu.Lock()
	r := w.runners[name]
	w.mu.Unlock()
	if r != nil {
		r.lose()
		w.forget(r)
	}
}

// forget drops a runner that has ended and whose task the informer shows no more. Until then it is known, lest its task is
// taken for a new one, or is run anew before its command has ended.
func (w *Worker) forget(r *runner) {
	w.mu.Lock()
	defer w.mu.Unlock()
	select {
	case <-r.done:
		if r.isLost() && w.runners[r.binding.name] == r {
			delete(w.runners, r.binding.name)
		}
	default:
	}
}

// endRunners waits for all runners there are, or until ctx is done. Those of a superseded worker have lost their tasks.
func (w *Worker) endRunners(ctx context.Context) {
	w.mu.Lock()
	var all []*runner
	for _, r := range w.runners {
		all = append(all, r)
	}
	w.mu.Unlock()
	for _, r := range all {
		select {
		case <-w.superseded:
			r.lose()
		default:
		}
	}
	for _, r := range all {
		select {
		case <-r.done:
		case <-ctx.Done():
			return
		}
	}
}

// disown gives back, or deletes, a task that was bound to another incarnation, whose commands have ended with it. First it makes sure
// that the other one was not a successor.
func (w *Worker) disown(ctx context.Context, r *runner) error {
	succeeded := false
	_, err := r.binding.persist(ctx, r.lost, r.task, func(ctx context.Context, _ *batch.Task) (*batch.Task, error) {
		worker, err := w.client.BatchV1alpha1().Workers(w.options.Namespace).Get(ctx, w.options.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil, nil
		}
		succeeded = err == nil && worker.Status.Incarnation != w.incarnation
		return nil, err
	})
	switch {
	case err != nil:
		return err
	case succeeded:
		w.supersede()
		return nil
	}
	return r.binding.evict(ctx, r.task, w.crashedWith(r.task), "WorkerRestarted", fmt.Sprintf("Worker %s was restarted.", w.options.Name))
}

// crashedWith reports whether the command of a task that was bound to an earlier incarnation was running when that
// ended, other than because somebody wanted it to end. The files that the incarnation has left tell it exactly. Without
// them it is what the task's status says: starts are reported after the AnnounceDelay, or first if the task was
// disrupted before.
func (w *Worker) crashedWith(task *batch.Task) bool {
	if task.Status.Incarnation == w.predecessor {
		return false
	}
	if tasks, known := w.site.begun[task.Status.Incarnation]; known {
		return tasks[task.UID]
	}
	return task.Status.State.Running != nil
}
