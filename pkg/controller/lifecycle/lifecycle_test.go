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

package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/cache"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/generated/clientset/versioned"
	typed "github.com/leat-dev/leat/pkg/generated/clientset/versioned/typed/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/worker/testapi"
)

const namespace = "default"

// scene is a server and a controller, on a clock that stands still but for pass.
type scene struct {
	*testing.T
	server *testapi.Server
	// api is the controller's client, test the test's own.
	api  *testapi.Client
	test typed.BatchV1alpha1Interface
	// away says that workers do not reach the server.
	away atomic.Bool
	// lists, if set, answers the controller's lists of leases.
	lists atomic.Pointer[clienttesting.ReactionFunc]
}

// play runs a controller for f. What prepare does comes before the controller starts.
func play(t *testing.T, prepare, f func(s *scene)) {
	t.Helper()
	playWith(t, Options{}, prepare, f)
}

// pausing is a client whose lists of leases take until a time.
type pausing struct {
	*testapi.Client
	until time.Time
}

func (c pausing) BatchV1alpha1() typed.BatchV1alpha1Interface {
	return pausingGroup{c.Client.BatchV1alpha1(), c.until}
}

type pausingGroup struct {
	typed.BatchV1alpha1Interface
	until time.Time
}

func (g pausingGroup) WorkerLeases(namespace string) typed.WorkerLeaseInterface {
	return pausingLeases{g.BatchV1alpha1Interface.WorkerLeases(namespace), g.until}
}

type pausingLeases struct {
	typed.WorkerLeaseInterface
	until time.Time
}

func (l pausingLeases) List(ctx context.Context, o metav1.ListOptions) (*batch.WorkerLeaseList, error) {
	list, err := l.WorkerLeaseInterface.List(ctx, o)
	<-time.After(time.Until(l.until))
	return list, err
}

func playWith(t *testing.T, options Options, prepare, f func(s *scene)) {
	t.Helper()
	stage(t, func(s *scene) {
		if prepare != nil {
			prepare(s)
		}
		s.control(s.api, options)
		f(s)
	})
}

// stage runs f, which starts the controller itself.
func stage(t *testing.T, f func(s *scene)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		server := testapi.New()
		s := &scene{T: t, server: server, api: server.Client(), test: server.Client().BatchV1alpha1()}
		s.api.PrependReactor("list", "workerleases", func(a clienttesting.Action) (bool, runtime.Object, error) {
			if answer := s.lists.Load(); answer != nil {
				return (*answer)(a)
			}
			return false, nil, nil
		})
		f(s)
	})
}

// failLists has the controller's lists of leases fail for some time from now.
func (s *scene) failLists(d time.Duration) {
	end := time.Now().Add(d)
	s.lists.Store(new(clienttesting.ReactionFunc(func(clienttesting.Action) (bool, runtime.Object, error) {
		return time.Now().Before(end), nil, errors.New("the server is away")
	})))
}

// control runs a controller until the test ends.
func (s *scene) control(api versioned.Interface, options Options) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	controller := New(api, options)
	go func() { done <- controller.Run(ctx) }()
	s.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			s.Error(err)
		}
	})
	synctest.Wait()
}

// pass lets time pass.
func (s *scene) pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func (s *scene) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// lives registers a worker, and renews its lease every 10 s until stop is called.
func (s *scene) lives(name string) (stop func()) {
	s.Helper()
	return s.livesLike(namespace, name, 0, 10*time.Second)
}

// livesLike is lives in a namespace, with a clock that is ahead and with another interval.
func (s *scene) livesLike(namespace, name string, ahead, interval time.Duration) (stop func()) {
	s.Helper()
	ctx, cancel := context.WithCancel(s.Context())
	now := func() *metav1.MicroTime { return new(metav1.NewMicroTime(time.Now().Add(ahead))) }
	s.register(namespace, name)
	lease, err := s.test.WorkerLeases(namespace).Create(ctx, &batch.WorkerLease{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       batch.WorkerLeaseSpec{HolderIdentity: name + "-1", LeaseDurationSeconds: new(int32(40)), RenewTime: now()},
	}, metav1.CreateOptions{})
	s.must(err)
	go func() {
		ticker := time.NewTicker(interval)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
			case <-ctx.Done():
				return
			}
			if s.away.Load() || ctx.Err() != nil {
				continue
			}
			next := lease.DeepCopy()
			next.Spec.RenewTime = now()
			if next, err := s.test.WorkerLeases(namespace).Update(context.Background(), next, metav1.UpdateOptions{}); err == nil {
				lease = next
			}
		}
	}()
	s.Cleanup(cancel)
	return cancel
}

// register makes a Worker that says it is ready, without a lease.
func (s *scene) register(namespace, name string) {
	s.Helper()
	worker, err := s.test.Workers(namespace).Create(s.Context(), &batch.Worker{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	s.must(err)
	worker.Status.Incarnation = name + "-1"
	s.sayReady(worker)
}

func (s *scene) sayReady(worker *batch.Worker) {
	s.Helper()
	meta.SetStatusCondition(&worker.Status.Conditions, metav1.Condition{Type: batch.WorkerReady, Status: metav1.ConditionTrue, Reason: "WorkerReady"})
	_, err := s.test.Workers(worker.Namespace).UpdateStatus(s.Context(), worker, metav1.UpdateOptions{})
	s.must(err)
}

// bind makes a task that a worker runs, for the first time.
func (s *scene) bind(name, worker string, tolerations ...batch.Toleration) {
	s.Helper()
	s.bindIn(namespace, name, worker, tolerations...)
}

func (s *scene) bindIn(namespace, name, worker string, tolerations ...batch.Toleration) {
	s.Helper()
	tasks := s.test.Tasks(namespace)
	_, err := tasks.Create(s.Context(), &batch.Task{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: batch.TaskSpec{Command: []string{"true"}, Tolerations: tolerations},
	}, metav1.CreateOptions{})
	s.must(err)
	_, err = tasks.Bind(s.Context(), name, &batch.Binding{Target: batch.BindingTarget{Name: worker, Incarnation: worker + "-1"}}, metav1.CreateOptions{})
	s.must(err)
	task := s.taskIn(namespace, name)
	task.Status.Phase, task.Status.Attempts = batch.TaskRunning, 1
	_, err = tasks.UpdateStatus(s.Context(), task, metav1.UpdateOptions{})
	s.must(err)
}

func (s *scene) task(name string) *batch.Task {
	s.Helper()
	return s.taskIn(namespace, name)
}

func (s *scene) taskIn(namespace, name string) *batch.Task {
	s.Helper()
	task, err := s.test.Tasks(namespace).Get(s.Context(), name, metav1.GetOptions{})
	s.must(err)
	return task
}

func (s *scene) gone(name string) bool {
	s.Helper()
	_, err := s.test.Tasks(namespace).Get(s.Context(), name, metav1.GetOptions{})
	return apierrors.IsNotFound(err)
}

func (s *scene) bound(name string) bool { s.Helper(); return s.task(name).Spec.WorkerName != "" }

func (s *scene) worker(name string) *batch.Worker {
	s.Helper()
	worker, err := s.test.Workers(namespace).Get(s.Context(), name, metav1.GetOptions{})
	s.must(err)
	return worker
}

// ready is the status and the reason of the worker's Ready condition.
func ready(w *batch.Worker) string {
	c := meta.FindStatusCondition(w.Status.Conditions, batch.WorkerReady)
	return fmt.Sprintf("%s %s", c.Status, c.Reason)
}

func (s *scene) taint(worker string, taints ...batch.Taint) {
	s.Helper()
	w := s.worker(worker)
	w.Spec.Taints = taints
	_, err := s.test.Workers(namespace).Update(s.Context(), w, metav1.UpdateOptions{})
	s.must(err)
}

// writes are the requests of the controller that change something.
func (s *scene) writes() int {
	n := 0
	for _, a := range s.api.Actions() {
		if !slices.Contains([]string{"get", "list", "watch"}, a.GetVerb()) {
			n++
		}
	}
	return n
}

func TestLostWorker(t *testing.T) {
	play(t, nil, func(s *scene) {
		s.lives("other")
		stop := s.lives("w")
		s.bind("t", "w")
		s.bind("of-the-other", "other")
		s.pass(5 * time.Minute)
		if n := s.writes(); n != 0 {
			t.Fatalf("%d writes although all was well", n)
		}
		stop()
		s.pass(39 * time.Second)
		if w := s.worker("w"); ready(w) != "True WorkerReady" || len(w.Spec.Taints) > 0 || !s.bound("t") {
			t.Fatalf("before its lease has run out the worker is %s with taints %v", ready(w), w.Spec.Taints)
		}
		s.pass(22 * time.Second)
		w := s.worker("w")
		if ready(w) != "Unknown WorkerStatusUnknown" {
			t.Errorf("Ready is %s", ready(w))
		}
		if c := w.Status.Conditions[0]; !strings.Contains(c.Message, "40s") || !strings.Contains(c.Message, "Ready=True") {
			t.Errorf("the message does not say for how long, and what was before: %s", c.Message)
		}
		if taint := unreachableTaint(w); taint == nil || taint.TimeAdded == nil || time.Since(taint.TimeAdded.Time) > 30*time.Second {
			t.Errorf("the taint is %+v", taint)
		}
		task := s.task("t")
		if task.Spec.WorkerName != "" || task.Status.Disruptions != 1 || task.Status.Attempts != 1 {
			t.Errorf("the task is bound to %q with %d disruptions and %d attempts", task.Spec.WorkerName, task.Status.Disruptions, task.Status.Attempts)
		}
		if c := meta.FindStatusCondition(task.Status.Conditions, batch.DisruptionTarget); c == nil || c.Reason != "WorkerLost" ||
			c.Message != "Worker w has not renewed its lease for 40s." {
			t.Errorf("DisruptionTarget is %+v", c)
		}
		if !s.bound("of-the-other") {
			t.Error("the task of the other worker was evicted")
		}
		if n := s.writes(); n != 3 {
			t.Errorf("%d writes, want three: status, taint and eviction", n)
		}
		s.pass(30 * time.Minute)
		if n := s.writes(); n != 3 {
			t.Errorf("%d writes after all was done", n-3)
		}
	})
}

func TestReturningWorkerLosesItsTaint(t *testing.T) {
	play(t, nil, func(s *scene) {
		s.lives("other")
		stop := s.lives("w")
		stop()
		s.pass(2 * time.Minute)
		mine := batch.Taint{Key: "mine", Effect: batch.TaintEffectNoSchedule}
		s.taint("w", append(s.worker("w").Spec.Taints, mine)...)

		lease, err := s.test.WorkerLeases(namespace).Get(s.Context(), "w", metav1.GetOptions{})
		s.must(err)
		lease.Spec.RenewTime = new(metav1.NowMicro())
		_, err = s.test.WorkerLeases(namespace).Update(s.Context(), lease, metav1.UpdateOptions{})
		s.must(err)
		s.pass(11 * time.Second)
		w := s.worker("w")
		if len(w.Spec.Taints) != 1 || w.Spec.Taints[0] != mine {
			t.Errorf("its taints are %v", w.Spec.Taints)
		}
		if ready(w) != "Unknown WorkerStatusUnknown" {
			t.Errorf("Ready is %s although the worker has not said so", ready(w))
		}
	})
}

func TestClocksOfWorkersDoNotMatter(t *testing.T) {
	play(t, nil, func(s *scene) {
		for name, ahead := range map[string]time.Duration{"ahead": time.Hour, "behind": -time.Hour} {
			stop := s.livesLike(namespace, name, ahead, 10*time.Second)
			s.livesLike(namespace, name+"-alive", ahead, 10*time.Second)
			s.bind(name, name)
			s.bind(name+"-alive", name+"-alive")
			s.pass(5 * time.Minute)
			stop()
			s.pass(61 * time.Second)
			if s.bound(name) || !s.bound(name+"-alive") {
				t.Errorf("clock %s: the task of the lost worker is bound: %v, that of the living one: %v", name, s.bound(name), s.bound(name+"-alive"))
			}
		}
	})
}

func TestTolerations(t *testing.T) {
	seconds := func(n int64) batch.Toleration {
		return batch.Toleration{Key: batch.TaintWorkerUnreachable, Operator: batch.TolerationOpExists, Effect: batch.TaintEffectNoExecute, TolerationSeconds: &n}
	}
	forEver := batch.Toleration{Operator: batch.TolerationOpExists}
	play(t, nil, func(s *scene) {
		s.lives("other")
		stop := s.lives("w")
		s.bind("none", "w")
		s.bind("another", "w", batch.Toleration{Key: "another", Operator: batch.TolerationOpExists})
		s.bind("for-ever", "w", forEver)
		s.bind("zero", "w", seconds(0))
		s.bind("negative", "w", seconds(-7))
		s.bind("five-minutes", "w", seconds(300))
		s.bind("smallest", "w", forEver, seconds(600), forEver, seconds(120))
		s.bind("endless", "w", seconds(1<<62))
		stop()
		var last time.Duration
		for _, step := range []struct {
			at      time.Duration
			evicted string
		}{
			{61 * time.Second, "another,negative,none,zero"},
			{150 * time.Second, "another,negative,none,zero"},
			{185 * time.Second, "another,negative,none,smallest,zero"},
			{335 * time.Second, "another,negative,none,smallest,zero"},
			{365 * time.Second, "another,five-minutes,negative,none,smallest,zero"},
			{3 * time.Hour, "another,five-minutes,negative,none,smallest,zero"},
		} {
			s.pass(step.at - last)
			last = step.at
			tasks, err := s.test.Tasks(namespace).List(s.Context(), metav1.ListOptions{})
			s.must(err)
			var evicted []string
			for _, task := range tasks.Items {
				if task.Spec.WorkerName == "" {
					evicted = append(evicted, task.Name)
				}
			}
			slices.Sort(evicted)
			if got := strings.Join(evicted, ","); got != step.evicted {
				t.Errorf("after %s evicted are %s, want %s", step.at, got, step.evicted)
			}
		}
		if c := meta.FindStatusCondition(s.task("five-minutes").Status.Conditions, batch.DisruptionTarget); !strings.Contains(c.Message, "tolerated for 5m0s") {
			t.Errorf("the message is %q", c.Message)
		}
	})
}

func TestTaintsSetByPeople(t *testing.T) {
	toleration := batch.Toleration{Key: "maintenance", Operator: batch.TolerationOpEqual, Value: "now", Effect: batch.TaintEffectNoExecute, TolerationSeconds: new(int64(60))}
	taint := batch.Taint{Key: "maintenance", Value: "now", Effect: batch.TaintEffectNoExecute}
	play(t, nil, func(s *scene) {
		s.lives("w")
		s.bind("at-once", "w")
		s.bind("later", "w", toleration)
		s.taint("w", batch.Taint{Key: "maintenance", Effect: batch.TaintEffectNoSchedule})
		s.pass(time.Second)
		if !s.bound("at-once") {
			t.Error("NoSchedule has evicted a task")
		}
		s.taint("w", taint)
		s.pass(time.Second)
		if c := meta.FindStatusCondition(s.task("at-once").Status.Conditions, batch.DisruptionTarget); c == nil || c.Reason != "TaintEviction" ||
			c.Message != "Worker w has the taint maintenance=now:NoExecute, which the task does not tolerate." {
			t.Errorf("DisruptionTarget is %+v", c)
		}
		s.pass(58 * time.Second)
		if !s.bound("later") {
			t.Error("a toleration of 60 s was over before")
		}
		s.pass(2 * time.Second)
		if s.bound("later") {
			t.Error("a toleration of 60 s has not ended")
		}

		// A task that is bound in spite of the taint has the same time.
		s.bind("bound-late", "w", toleration)
		s.pass(58 * time.Second)
		if !s.bound("bound-late") {
			t.Error("a toleration was over before the task was bound")
		}
		s.pass(2 * time.Second)
		if s.bound("bound-late") {
			t.Error("a toleration has not ended")
		}

		// A taint that is taken away in time has no effect, nor has the time before.
		s.taint("w")
		s.bind("spared", "w", toleration)
		s.pass(2 * time.Minute)
		s.taint("w", taint)
		s.pass(30 * time.Second)
		s.taint("w")
		s.pass(2 * time.Minute)
		if !s.bound("spared") {
			t.Error("a taint that was gone has evicted a task")
		}
	})
}

func TestNobodyIsJudgedByATimeOfBlindness(t *testing.T) {
	for name, start := range map[string]func(s *scene, until time.Time){
		"lists fail": func(s *scene, until time.Time) {
			s.failLists(time.Until(until))
			s.control(s.api, Options{})
		},
		"paused": func(s *scene, until time.Time) { s.control(pausing{s.api, until}, Options{}) },
	} {
		t.Run(name, func(t *testing.T) {
			stage(t, func(s *scene) {
				s.lives("a")
				s.lives("b")
				dead := s.lives("dead")
				s.bind("t", "a")
				s.bind("of-the-dead", "dead")
				start(s, time.Now().Add(10*time.Minute))
				s.away.Store(true)
				s.pass(10*time.Minute - time.Second)
				dead()
				s.away.Store(false)
				s.pass(30 * time.Second)
				if n := s.writes(); n != 0 || !s.bound("t") || !s.bound("of-the-dead") {
					t.Errorf("%d writes in the 30 s after the server came back", n)
				}
				s.pass(40 * time.Second)
				if !s.bound("t") || s.bound("of-the-dead") {
					t.Errorf("bound: the task of a worker that came back: %v, of one that did not: %v", s.bound("t"), s.bound("of-the-dead"))
				}
			})
		})
	}
}

func TestGapBetweenLists(t *testing.T) {
	play(t, nil, func(s *scene) {
		s.lives("other")
		stop := s.lives("w")
		s.bind("t", "w")
		s.pass(time.Minute)
		stop()
		s.pass(35 * time.Second)
		s.failLists(25 * time.Second)
		s.pass(60 * time.Second)
		if !s.bound("t") {
			t.Error("evicted within 40 s after a gap")
		}
		s.pass(30 * time.Second)
		if s.bound("t") {
			t.Error("not evicted 40 s after a gap")
		}
	})
}

func TestEvictionsThatAreDueWaitForTheEndOfBlindness(t *testing.T) {
	play(t, nil, func(s *scene) {
		s.lives("other")
		stop := s.lives("w")
		s.bind("t", "w", batch.Toleration{Operator: batch.TolerationOpExists, Effect: batch.TaintEffectNoExecute, TolerationSeconds: new(int64(120))})
		stop()
		s.pass(100 * time.Second)
		s.failLists(5 * time.Minute)
		s.pass(5 * time.Minute)
		if !s.bound("t") {
			t.Error("evicted although the worker may have returned")
		}
		s.pass(time.Minute)
		if s.bound("t") {
			t.Error("not evicted when the worker is seen to be lost still")
		}
	})
}

func TestStaleListsAreConfirmed(t *testing.T) {
	play(t, nil, func(s *scene) {
		s.lives("w")
		s.lives("other")
		s.bind("t", "w")
		s.pass(time.Minute)
		stale, err := s.test.WorkerLeases("").List(s.Context(), metav1.ListOptions{})
		s.must(err)
		s.lists.Store(new(clienttesting.ReactionFunc(func(clienttesting.Action) (bool, runtime.Object, error) {
			return true, stale.DeepCopy(), nil
		})))
		s.pass(10 * time.Minute)
		if n := s.writes(); n != 0 || !s.bound("t") {
			t.Errorf("%d writes by a list that was stale", n)
		}
	})
}

func TestSilentNamespace(t *testing.T) {
	t.Run("all stay lost", func(t *testing.T) {
		play(t, nil, func(s *scene) {
			stop, stopOther := s.lives("w"), s.lives("v")
			s.livesLike("elsewhere", "alive", 0, 10*time.Second)
			s.bind("t", "w")
			s.pass(time.Minute)
			stop()
			s.pass(11 * time.Second)
			stopOther()
			s.pass(5 * time.Minute)
			if w := s.worker("w"); !s.bound("t") || ready(w) != "Unknown WorkerStatusUnknown" || unreachableTaint(w) == nil {
				t.Errorf("after five minutes: bound %v, Ready %s, taints %v", s.bound("t"), ready(w), w.Spec.Taints)
			}
			s.pass(time.Minute)
			if s.bound("t") {
				t.Error("the task was not evicted although nobody has returned")
			}
		})
	})
	t.Run("one returns", func(t *testing.T) {
		play(t, nil, func(s *scene) {
			s.lives("a")
			s.lives("b")
			stop := s.lives("dead")
			s.bind("t", "b")
			s.bind("of-the-dead", "dead")
			s.pass(time.Minute)
			s.away.Store(true)
			stop()
			s.pass(3 * time.Minute)
			s.away.Store(false)
			s.pass(35 * time.Second)
			if !s.bound("t") || !s.bound("of-the-dead") || unreachableTaint(s.worker("b")) != nil {
				t.Error("the others were given no time to follow")
			}
			s.pass(40 * time.Second)
			if !s.bound("t") || s.bound("of-the-dead") {
				t.Errorf("bound: the task of a worker that came back: %v, of one that did not: %v", s.bound("t"), s.bound("of-the-dead"))
			}
		})
	})
	t.Run("only one is slow", func(t *testing.T) {
		play(t, nil, func(s *scene) {
			s.lives("alive")
			s.livesLike(namespace, "slow", 0, 35*time.Second)
			s.lives("dead")()
			s.bind("t", "dead")
			s.pass(61 * time.Second)
			if s.bound("t") {
				t.Error("the others are judged later for a worker that is slow")
			}
		})
	})
	t.Run("a new one comes", func(t *testing.T) {
		play(t, nil, func(s *scene) {
			stop := s.lives("w")
			s.bind("t", "w")
			stop()
			s.pass(2 * time.Minute)
			s.lives("new")
			s.pass(11 * time.Second)
			if s.bound("t") {
				t.Error("the task was not evicted although there is a worker for it")
			}
		})
	})
}

func TestWorkerThatDoesNotExist(t *testing.T) {
	play(t, func(s *scene) { s.bind("before", "never-was") }, func(s *scene) {
		stop := s.lives("w")
		s.bind("t", "w")
		s.pass(time.Minute)
		stop()
		s.must(s.test.Workers(namespace).Delete(s.Context(), "w", metav1.DeleteOptions{}))
		s.pass(time.Second)
		for _, name := range []string{"before", "t"} {
			if c := meta.FindStatusCondition(s.task(name).Status.Conditions, batch.DisruptionTarget); c == nil || c.Reason != "WorkerLost" {
				t.Errorf("%s: DisruptionTarget is %+v", name, c)
			}
		}
		s.pass(10 * time.Second)
		if _, err := s.test.WorkerLeases(namespace).Get(s.Context(), "w", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("the lease of a Worker that is gone: %v", err)
		}
	})
}

func TestTasksBeingDeleted(t *testing.T) {
	for name, tc := range map[string]struct {
		lose func(s *scene, stop func())
		// kept and gone are when the task is still there, and not any more.
		kept, gone time.Duration
		otherLives bool
	}{
		"the worker is gone": {func(s *scene, _ func()) {
			s.must(s.test.Workers(namespace).Delete(s.Context(), "w", metav1.DeleteOptions{}))
		}, 29 * time.Second, 2 * time.Second, true},
		"the worker is unreachable": {func(_ *scene, stop func()) { stop() }, 39 * time.Second, 22 * time.Second, true},
		"all are unreachable":       {func(s *scene, _ func()) { s.away.Store(true) }, 39 * time.Second, 22 * time.Second, false},
	} {
		t.Run(name, func(t *testing.T) {
			play(t, nil, func(s *scene) {
				s.lives("other")
				stop := s.lives("w")
				s.bind("t", "w")
				s.bind("of-the-other", "other")
				s.pass(time.Minute)
				s.must(s.test.Tasks(namespace).Delete(s.Context(), "t", metav1.DeleteOptions{}))
				tc.lose(s, stop)
				s.pass(tc.kept)
				if s.gone("t") {
					t.Fatal("it is gone before")
				}
				s.pass(tc.gone)
				if !s.gone("t") {
					t.Error("it is not gone")
				}
				s.must(s.test.Tasks(namespace).Delete(s.Context(), "of-the-other", metav1.DeleteOptions{GracePeriodSeconds: new(int64(1))}))
				s.pass(10 * time.Second)
				if tc.otherLives && s.gone("of-the-other") {
					t.Error("the task of a worker that is not lost was ended without it")
				}
			})
		})
	}
}

func TestLostWorkerIsRemoved(t *testing.T) {
	play(t, nil, func(s *scene) {
		s.lives("other")
		stop, stopBusy := s.lives("w"), s.lives("busy")
		s.bind("tolerates", "busy", batch.Toleration{Operator: batch.TolerationOpExists})
		stop()
		stopBusy()
		exists := func(name string) string {
			_, worker := s.test.Workers(namespace).Get(s.Context(), name, metav1.GetOptions{})
			_, lease := s.test.WorkerLeases(namespace).Get(s.Context(), name, metav1.GetOptions{})
			return fmt.Sprintf("worker %v lease %v", worker == nil, lease == nil)
		}
		s.pass(time.Hour)
		if got := exists("w"); got != "worker true lease true" {
			t.Errorf("after an hour: %s", got)
		}
		s.pass(2 * time.Minute)
		if got := exists("w"); got != "worker false lease false" {
			t.Errorf("more than an hour after it was lost: %s", got)
		}
		if got := exists("busy"); got != "worker true lease true" {
			t.Errorf("with a task that tolerates it for ever: %s", got)
		}
		if got := exists("other"); got != "worker true lease true" {
			t.Errorf("the one that lives: %s", got)
		}
	})
}

func TestWorkerThatNeverHadALease(t *testing.T) {
	play(t, nil, func(s *scene) {
		s.lives("other")
		s.register(namespace, "w")
		s.pass(39 * time.Second)
		if unreachableTaint(s.worker("w")) != nil {
			t.Error("it is tainted before a lease would have run out")
		}
		s.pass(22 * time.Second)
		if w := s.worker("w"); unreachableTaint(w) == nil || ready(w) != "Unknown WorkerStatusUnknown" {
			t.Errorf("Ready is %s, taints are %v", ready(w), w.Spec.Taints)
		}
	})
}

func TestWorkerThatOutlivesItsWorkerObjectLosesItsLease(t *testing.T) {
	play(t, nil, func(s *scene) {
		s.lives("w")
		s.pass(time.Minute)
		s.must(s.test.Workers(namespace).Delete(s.Context(), "w", metav1.DeleteOptions{}))
		s.pass(21 * time.Second)
		if _, err := s.test.WorkerLeases(namespace).Get(s.Context(), "w", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("the lease by which it would learn of that: %v", err)
		}
	})
}

func TestEvictionsAreLimited(t *testing.T) {
	const tasks = 200
	evicted := func(s *scene) (n int) {
		for i := range tasks {
			if !s.bound(fmt.Sprintf("t%d", i)) {
				n++
			}
		}
		return n
	}
	start := func(s *scene) (stop func()) {
		s.lives("other")
		stop = s.lives("w")
		for i := range tasks {
			s.bind(fmt.Sprintf("t%d", i), "w")
		}
		return stop
	}
	t.Run("to a rate", func(t *testing.T) {
		playWith(t, Options{EvictionsPerSecond: 2}, nil, func(s *scene) {
			start(s)()
			s.pass(65 * time.Second)
			first := evicted(s)
			s.pass(20 * time.Second)
			if n := evicted(s) - first; first == 0 || n != 40 {
				t.Errorf("%d evictions, and %d in the next 20 s; want 40", first, n)
			}
		})
	})
	t.Run("to workers that are lost still", func(t *testing.T) {
		playWith(t, Options{EvictionsPerSecond: 2}, nil, func(s *scene) {
			start(s)()
			s.pass(65 * time.Second)
			lease, err := s.test.WorkerLeases(namespace).Get(s.Context(), "w", metav1.GetOptions{})
			s.must(err)
			lease.Spec.RenewTime = new(metav1.NowMicro())
			_, err = s.test.WorkerLeases(namespace).Update(s.Context(), lease, metav1.UpdateOptions{})
			s.must(err)
			s.pass(5100 * time.Millisecond) // a list has shown it
			first := evicted(s)
			s.pass(20 * time.Second)
			if n := evicted(s) - first; first == 0 || first == tasks || n != 0 {
				t.Errorf("%d evictions while the worker was lost, %d after it had returned", first, n)
			}
		})
	})
}

func TestTwoControllersAreHarmless(t *testing.T) {
	play(t, nil, func(s *scene) {
		s.control(s.server.Client(), Options{})
		s.lives("other")
		stop := s.lives("w")
		for i := range 50 {
			s.bind(fmt.Sprintf("t%d", i), "w")
		}
		stop()
		s.pass(61 * time.Second)
		for i := range 50 {
			if task := s.task(fmt.Sprintf("t%d", i)); task.Spec.WorkerName != "" || task.Status.Disruptions != 1 {
				t.Fatalf("%s is bound to %q with %d disruptions", task.Name, task.Spec.WorkerName, task.Status.Disruptions)
			}
		}
		if w := s.worker("w"); len(w.Spec.Taints) != 1 {
			t.Errorf("taints: %v", w.Spec.Taints)
		}
	})
}

func TestRestartedControllerWatchesAnew(t *testing.T) {
	play(t, func(s *scene) {
		s.lives("other")
		stop := s.lives("w")
		stop()
		s.bind("t", "w")
		s.bind("tolerates-half-an-hour", "w", batch.Toleration{Operator: batch.TolerationOpExists, Effect: batch.TaintEffectNoExecute, TolerationSeconds: new(int64(1800))})
		s.taint("w", batch.Taint{Key: batch.TaintWorkerUnreachable, Effect: batch.TaintEffectNoExecute, TimeAdded: new(metav1.Now())})
		s.pass(time.Hour)
	}, func(s *scene) {
		s.pass(39 * time.Second)
		if !s.bound("t") || unreachableTaint(s.worker("w")) == nil {
			t.Errorf("it has judged by what it has not seen: bound %v, taints %v", s.bound("t"), s.worker("w").Spec.Taints)
		}
		s.pass(22 * time.Second)
		if s.bound("t") {
			t.Error("the task was not evicted")
		}
		if s.bound("tolerates-half-an-hour") {
			t.Error("a toleration that was over has begun anew")
		}
	})
}

func TestInformerThatIsBehindHarmsNobody(t *testing.T) {
	stage(t, func(s *scene) {
		s.api.PrependReactor("list", "workers", func(clienttesting.Action) (bool, runtime.Object, error) {
			return true, &batch.WorkerList{ListMeta: metav1.ListMeta{ResourceVersion: "1"}}, nil
		})
		s.api.PrependWatchReactor("workers", func(clienttesting.Action) (bool, watch.Interface, error) { return true, watch.NewFake(), nil })
		s.control(s.api, Options{})
		s.lives("w")
		s.bind("t", "w")
		s.pass(time.Minute)
		if n := s.writes(); n != 0 {
			t.Errorf("%d writes about a Worker that the informer does not show yet", n)
		}
	})
}

func TestLeasesAreListedFromTheCache(t *testing.T) {
	play(t, nil, func(s *scene) {
		s.pass(time.Minute)
		lists := 0
		for _, a := range s.api.Actions() {
			if list, ok := a.(clienttesting.ListActionImpl); ok && a.GetResource().Resource == "workerleases" {
				if lists++; list.ListOptions.ResourceVersion != "0" {
					t.Fatalf("a list of leases at resourceVersion %q", list.ListOptions.ResourceVersion)
				}
			}
		}
		if lists < 6 || lists > 7 {
			t.Errorf("%d lists of leases in a minute", lists)
		}
	})
}

func TestChangesOfTasksOfALostWorkerAreSeenToAtOnce(t *testing.T) {
	forEver := batch.Toleration{Operator: batch.TolerationOpExists, Effect: batch.TaintEffectNoExecute}
	play(t, nil, func(s *scene) {
		s.lives("other")
		stop := s.lives("w")
		s.bind("deleted", "w", forEver)
		s.bind("tolerates-no-more", "w", forEver)
		stop()
		s.pass(75500 * time.Millisecond) // between two lists of leases
		task := s.task("tolerates-no-more")
		task.Spec.Tolerations[0].TolerationSeconds = new(int64(1))
		_, err := s.test.Tasks(namespace).Update(s.Context(), task, metav1.UpdateOptions{})
		s.must(err)
		s.must(s.test.Tasks(namespace).Delete(s.Context(), "deleted", metav1.DeleteOptions{GracePeriodSeconds: new(int64(1))}))
		s.pass(2 * time.Second)
		if !s.gone("deleted") || s.bound("tolerates-no-more") {
			t.Errorf("gone: %v, bound: %v", s.gone("deleted"), s.bound("tolerates-no-more"))
		}
	})
}

func TestTaskThatWaitsForAFinalizerIsLeftAlone(t *testing.T) {
	play(t, nil, func(s *scene) {
		_, err := s.test.Tasks(namespace).Create(s.Context(), &batch.Task{
			ObjectMeta: metav1.ObjectMeta{Name: "t", DeletionTimestamp: new(metav1.Now()), DeletionGracePeriodSeconds: new(int64(0))},
			Spec:       batch.TaskSpec{WorkerName: "never-was"},
		}, metav1.CreateOptions{})
		s.must(err)
		s.pass(10 * time.Minute)
		if n := s.writes(); n != 0 {
			t.Errorf("%d writes", n)
		}
	})
}

func TestFinishedTasks(t *testing.T) {
	finish := func(s *scene, name string, ago time.Duration, mutate func(*batch.Task)) {
		task := &batch.Task{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: batch.TaskSpec{Command: []string{"true"}}}
		if mutate != nil {
			mutate(task)
		}
		task, err := s.test.Tasks(namespace).Create(s.Context(), task, metav1.CreateOptions{})
		s.must(err)
		task.Status.Phase, task.Status.CompletionTime = batch.TaskSucceeded, new(metav1.NewTime(time.Now().Add(-ago)))
		_, err = s.test.Tasks(namespace).UpdateStatus(s.Context(), task, metav1.UpdateOptions{})
		s.must(err)
	}
	ttl := func(seconds int32) func(*batch.Task) {
		return func(t *batch.Task) { t.Spec.TTLSecondsAfterFinished = &seconds }
	}
	const never = 2 * time.Hour
	for _, tc := range []struct {
		name   string
		ago    time.Duration
		mutate func(*batch.Task)
		lasts  time.Duration
	}{
		{name: "without-end", lasts: never},
		{name: "at-once", mutate: ttl(0)},
		{name: "a-minute", mutate: ttl(60), lasts: time.Minute},
		{name: "a-minute-of-which-half-is-over", ago: 30 * time.Second, mutate: ttl(60), lasts: 30 * time.Second},
		{name: "long-over", ago: time.Hour, mutate: ttl(60)},
		{name: "finished-in-the-future", ago: -time.Hour, mutate: ttl(60), lasts: time.Minute},
		{name: "of-a-set", mutate: func(t *batch.Task) {
			ttl(60)(t)
			t.OwnerReferences = []metav1.OwnerReference{{APIVersion: "batch.leat.dev/v1alpha1", Kind: "TaskSet", Name: "set", Controller: new(true)}}
		}, lasts: never},
		{name: "of-a-kind-of-that-name", mutate: func(t *batch.Task) {
			ttl(60)(t)
			t.OwnerReferences = []metav1.OwnerReference{{APIVersion: "example.com/v1", Kind: "TaskSet", Name: "set", Controller: new(true)}}
		}, lasts: time.Minute},
		{name: "of-something-else", mutate: func(t *batch.Task) {
			ttl(60)(t)
			t.OwnerReferences = []metav1.OwnerReference{{Kind: "Workflow", Name: "flow", Controller: new(true)}}
		}, lasts: time.Minute},
		{name: "its-deletion-was-left-half-done", mutate: func(t *batch.Task) {
			t.DeletionTimestamp, t.DeletionGracePeriodSeconds = new(metav1.NewTime(time.Now().Add(20*time.Second))), new(int64(30))
		}, lasts: 20 * time.Second},
		{name: "waits-for-a-finalizer", mutate: func(t *batch.Task) {
			ttl(60)(t)
			t.DeletionTimestamp, t.DeletionGracePeriodSeconds = new(metav1.Now()), new(int64(0))
		}, lasts: never},
	} {
		for _, before := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/before the start %v", tc.name, before), func(t *testing.T) {
				prepare := func(s *scene) {
					if before {
						finish(s, tc.name, tc.ago, tc.mutate)
					}
				}
				play(t, prepare, func(s *scene) {
					if !before {
						finish(s, tc.name, tc.ago, tc.mutate)
					}
					if tc.lasts > 0 {
						s.pass(tc.lasts - 1)
						if s.gone(tc.name) {
							t.Fatal("it is gone before")
						}
					}
					s.pass(time.Second)
					if s.gone(tc.name) != (tc.lasts != never) {
						t.Errorf("it is gone: %v", s.gone(tc.name))
					}
				})
			})
		}
	}

	t.Run("the time to live is changed", func(t *testing.T) {
		play(t, nil, func(s *scene) {
			finish(s, "t", 0, ttl(60))
			s.pass(30 * time.Second)
			task := s.task("t")
			ttl(120)(task)
			_, err := s.test.Tasks(namespace).Update(s.Context(), task, metav1.UpdateOptions{})
			s.must(err)
			s.pass(89 * time.Second)
			if s.gone("t") {
				t.Fatal("it was deleted by what was said before")
			}
			s.pass(2 * time.Second)
			if !s.gone("t") {
				t.Error("it was not deleted by what is said now")
			}
		})
	})

	t.Run("the time to live is taken back", func(t *testing.T) {
		play(t, nil, func(s *scene) {
			finish(s, "t", 0, ttl(60))
			s.pass(30 * time.Second)
			task := s.task("t")
			task.Spec.TTLSecondsAfterFinished = nil
			_, err := s.test.Tasks(namespace).Update(s.Context(), task, metav1.UpdateOptions{})
			s.must(err)
			s.pass(time.Hour)
			if n := s.writes(); n != 0 || s.gone("t") {
				t.Errorf("%d writes", n)
			}
		})
	})

	t.Run("the watch is behind", func(t *testing.T) {
		stage(t, func(s *scene) {
			finish(s, "t", time.Hour, ttl(60))
			f := newFinishedTasks(s.api)
			defer f.queue.ShutDown()
			s.must(f.Update(s.task("t")))
			task := s.task("t")
			ttl(7200)(task)
			_, err := s.test.Tasks(namespace).Update(s.Context(), task, metav1.UpdateOptions{})
			s.must(err)
			if _, err := f.see(s.Context(), cache.MetaObjectToName(task)); !apierrors.IsConflict(err) || s.gone("t") {
				t.Errorf("deleted by what was said before: %v, %v", s.gone("t"), err)
			}
			s.must(f.Delete(task))
			if len(f.ends) != 0 {
				t.Error("a task that is gone is remembered")
			}
		})
	})
}

func TestHealthForgetsWhoIsGone(t *testing.T) {
	h := newHealth(20 * time.Second)
	now := time.Now()
	h.observe(now, []batch.WorkerLease{{ObjectMeta: metav1.ObjectMeta{Name: "a"}}}, []*batch.Worker{{ObjectMeta: metav1.ObjectMeta{Name: "b"}}})
	if len(h.observed) != 2 {
		t.Errorf("observed are %d, want one by its lease and one by its Worker", len(h.observed))
	}
	h.observe(now.Add(10*time.Second), nil, nil)
	if len(h.observed) != 0 || len(h.silent) != 0 {
		t.Errorf("%d observations and %d silent namespaces are left", len(h.observed), len(h.silent))
	}
}

func TestHealthGoesByTheDurationOfTheLease(t *testing.T) {
	h := newHealth(20 * time.Second)
	start := time.Now()
	lease := batch.WorkerLease{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Spec: batch.WorkerLeaseSpec{LeaseDurationSeconds: new(int32(20))}}
	name := cache.ObjectName{Name: "a"}
	for _, step := range []struct {
		at       time.Duration
		duration int32
		want     verdict
	}{{0, 20, undecided}, {20 * time.Second, 20, undecided}, {30 * time.Second, 20, overdue}, {40 * time.Second, 60, undecided}, {60 * time.Second, 60, undecided}, {70 * time.Second, 60, overdue}} {
		*lease.Spec.LeaseDurationSeconds = step.duration
		h.observe(start.Add(step.at), []batch.WorkerLease{lease}, nil)
		if got, _ := h.verdict(start.Add(step.at), name); got != step.want {
			t.Errorf("after %s, of a duration of %d s, the verdict is %d, want %d", step.at, step.duration, got, step.want)
		}
	}
}

// eviction is how the controller has evicted a task, nil if it has not.
func (s *scene) eviction(task string) *batch.Eviction {
	for _, a := range s.api.Actions() {
		if create, ok := a.(clienttesting.CreateActionImpl); ok && a.Matches("create", "tasks/eviction") && create.Name == task {
			return create.Object.(*batch.Eviction)
		}
	}
	return nil
}

func (s *scene) changeWorker(name string, change func(*batch.WorkerSpec)) {
	s.Helper()
	w := s.worker(name)
	change(&w.Spec)
	_, err := s.test.Workers(namespace).Update(s.Context(), w, metav1.UpdateOptions{})
	s.must(err)
}

// isNotReady has the worker say why it is not ready.
func (s *scene) isNotReady(name, reason string) {
	s.Helper()
	w := s.worker(name)
	meta.SetStatusCondition(&w.Status.Conditions, metav1.Condition{Type: batch.WorkerReady, Status: metav1.ConditionFalse, Reason: reason})
	_, err := s.test.Workers(namespace).UpdateStatus(s.Context(), w, metav1.UpdateOptions{})
	s.must(err)
}

func TestOnlyALostWorkerCountsAsACrashOfWhatItRan(t *testing.T) {
	falls := func(s *scene, stop func()) { stop() }
	deleted := func(s *scene, stop func()) {
		stop()
		s.must(s.test.Workers(namespace).Delete(s.Context(), "w", metav1.DeleteOptions{}))
	}
	after := func(first func(s *scene), then func(s *scene, stop func())) func(s *scene, stop func()) {
		return func(s *scene, stop func()) {
			first(s)
			s.pass(time.Second)
			then(s, stop)
		}
	}
	cordoned := func(s *scene) { s.changeWorker("w", func(spec *batch.WorkerSpec) { spec.Unschedulable = true }) }
	drains := func(s *scene) { s.isNotReady("w", "Draining") }
	for name, tc := range map[string]struct {
		lose    func(s *scene, stop func())
		reason  string
		crashed bool
	}{
		"the worker falls silent":                      {falls, "WorkerLost", true},
		"the worker falls silent while it is not well": {after(func(s *scene) { s.isNotReady("w", "NoSpace") }, falls), "WorkerLost", true},
		"the worker falls silent while it drains":      {after(drains, falls), "WorkerLost", false},
		"the worker falls silent while it is cordoned": {after(cordoned, falls), "WorkerLost", false},
		"the Worker is deleted":                        {deleted, "WorkerLost", true},
		"the Worker is deleted while it drains":        {after(drains, deleted), "WorkerLost", false},
		"the Worker is deleted after it has stopped":   {after(func(s *scene) { s.isNotReady("w", "Stopped") }, deleted), "WorkerLost", false},
		"the Worker is deleted while it is cordoned":   {after(cordoned, deleted), "WorkerLost", false},
		"the worker is tainted": {func(s *scene, _ func()) {
			s.taint("w", batch.Taint{Key: "k", Effect: batch.TaintEffectNoExecute})
		}, "TaintEviction", false},
		"the worker is denied": {func(s *scene, _ func()) {
			s.changeWorker("w", func(spec *batch.WorkerSpec) { spec.Denied = true })
		}, "WorkerDenied", false},
	} {
		t.Run(name, func(t *testing.T) {
			play(t, nil, func(s *scene) {
				s.lives("other")
				stop := s.lives("w")
				s.bind("runs", "w")
				s.bind("waits", "w")
				waits := s.task("waits")
				waits.Status.Phase = batch.TaskPending
				_, err := s.test.Tasks(namespace).UpdateStatus(s.Context(), waits, metav1.UpdateOptions{})
				s.must(err)
				s.pass(time.Minute)
				tc.lose(s, stop)
				s.pass(62 * time.Second)
				for name, crashed := range map[string]bool{"runs": tc.crashed, "waits": false} {
					if e := s.eviction(name); e == nil || e.Reason != tc.reason || e.WorkerCrashed != crashed {
						t.Errorf("%s: the eviction is %+v, want one for %s, crashed %t", name, e, tc.reason, crashed)
					}
				}
			})
		})
	}
}

func TestALostWorkerThatIsOutOfServiceIsKept(t *testing.T) {
	play(t, nil, func(s *scene) {
		s.lives("other")
		for name, change := range map[string]func(*batch.WorkerSpec){
			"cordoned": func(spec *batch.WorkerSpec) { spec.Unschedulable = true },
			"denied":   func(spec *batch.WorkerSpec) { spec.Denied = true },
		} {
			stop := s.lives(name)
			s.changeWorker(name, change)
			stop()
		}
		s.pass(48 * time.Hour)
		for _, name := range []string{"cordoned", "denied"} {
			if w := s.worker(name); ready(w) != "Unknown WorkerStatusUnknown" {
				t.Errorf("%s is %s", name, ready(w))
			}
			s.changeWorker(name, func(spec *batch.WorkerSpec) { spec.Unschedulable, spec.Denied = false, false })
		}
		s.pass(time.Minute)
		for _, name := range []string{"cordoned", "denied"} {
			if _, err := s.test.Workers(namespace).Get(s.Context(), name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
				t.Errorf("%s: it is kept although it is in service again: %v", name, err)
			}
		}
	})
}

func TestATaskOfADeniedWorkerThatIsBeingDeletedIsEndedWithoutIt(t *testing.T) {
	play(t, nil, func(s *scene) {
		s.lives("w")
		s.bind("t", "w")
		s.pass(time.Minute)
		s.must(s.test.Tasks(namespace).Delete(s.Context(), "t", metav1.DeleteOptions{GracePeriodSeconds: new(int64(10))}))
		s.pass(time.Second)
		s.changeWorker("w", func(spec *batch.WorkerSpec) { spec.Denied = true })
		s.pass(8 * time.Second)
		if s.gone("t") {
			t.Fatal("it is gone before")
		}
		s.pass(2 * time.Second)
		if !s.gone("t") {
			t.Error("it is not gone")
		}
	})
}

func TestWhoLeftIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &scene{T: t, server: testapi.New()}
		s.api, s.test = s.server.Client(), s.server.Client().BatchV1alpha1()
		ctx, cancel := context.WithCancel(t.Context())
		controller, done := New(s.api, Options{}), make(chan error)
		go func() { done <- controller.Run(ctx) }()
		synctest.Wait()
		s.lives("w")
		s.isNotReady("w", "Stopped")
		s.pass(time.Minute)
		s.must(s.test.Workers(namespace).Delete(ctx, "w", metav1.DeleteOptions{}))
		s.pass(time.Minute)
		controller.mu.Lock()
		if n := len(controller.leaving); n > 0 {
			t.Errorf("%d workers that are gone are still known", n)
		}
		controller.mu.Unlock()
		cancel()
		s.must(<-done)
	})
}
