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
	"github.com/leat-dev/leat/test/kit/testapi"
)

const namespace = "default"

// fixture is a server and a controller. Its clock stands still except in advance.
type fixture struct {
	*testing.T
	server *testapi.Server
	// api is the client of the controller, and test is the client of the test.
	api  *testapi.Client
	test typed.BatchV1alpha1Interface
	// partitioned reports that workers do not reach the server.
	partitioned atomic.Bool
	// listReaction, if set, answers the controller's lists of leases.
	listReaction atomic.Pointer[clienttesting.ReactionFunc]
}

// run calls f with a running controller. It calls prepare before it starts the controller.
func run(t *testing.T, prepare, f func(s *fixture)) {
	t.Helper()
	runWith(t, Options{}, prepare, f)
}

// slowListClient is a client whose lists of leases do not return before a time.
type slowListClient struct {
	*testapi.Client
	until time.Time
}

func (c slowListClient) BatchV1alpha1() typed.BatchV1alpha1Interface {
	return slowListGroup{c.Client.BatchV1alpha1(), c.until}
}

type slowListGroup struct {
	typed.BatchV1alpha1Interface
	until time.Time
}

func (g slowListGroup) WorkerLeases(namespace string) typed.WorkerLeaseInterface {
	return slowListLeases{g.BatchV1alpha1Interface.WorkerLeases(namespace), g.until}
}

type slowListLeases struct {
	typed.WorkerLeaseInterface
	until time.Time
}

func (l slowListLeases) List(ctx context.Context, o metav1.ListOptions) (*batch.WorkerLeaseList, error) {
	list, err := l.WorkerLeaseInterface.List(ctx, o)
	<-time.After(time.Until(l.until))
	return list, err
}

func runWith(t *testing.T, options Options, prepare, f func(s *fixture)) {
	t.Helper()
	newFixture(t, func(s *fixture) {
		if prepare != nil {
			prepare(s)
		}
		s.startController(s.api, options)
		f(s)
	})
}

// newFixture calls f, which has to start the controller itself.
func newFixture(t *testing.T, f func(s *fixture)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		server := testapi.New()
		s := &fixture{T: t, server: server, api: server.Client(), test: server.Client().BatchV1alpha1()}
		s.api.PrependReactor("list", "workerleases", func(a clienttesting.Action) (bool, runtime.Object, error) {
			if answer := s.listReaction.Load(); answer != nil {
				return (*answer)(a)
			}
			return false, nil, nil
		})
		f(s)
	})
}

// failLists makes the controller's lists of leases fail for the time d.
func (s *fixture) failLists(d time.Duration) {
	end := time.Now().Add(d)
	s.listReaction.Store(new(clienttesting.ReactionFunc(func(clienttesting.Action) (bool, runtime.Object, error) {
		return time.Now().Before(end), nil, errors.New("the server is unavailable")
	})))
}

// startController runs a controller until the test ends.
func (s *fixture) startController(api versioned.Interface, options Options) {
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

// advance advances the clock.
func (s *fixture) advance(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func (s *fixture) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// startWorker registers a worker and renews its lease every 10 s until stop is called.
func (s *fixture) startWorker(name string) (stop func()) {
	s.Helper()
	return s.startWorkerWith(namespace, name, 0, 10*time.Second)
}

// startWorkerWith is startWorker with a namespace, an offset of the worker's clock, and a renewal interval.
func (s *fixture) startWorkerWith(namespace, name string, ahead, interval time.Duration) (stop func()) {
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
			if s.partitioned.Load() || ctx.Err() != nil {
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

// register creates a Worker that is ready, without a lease.
func (s *fixture) register(namespace, name string) {
	s.Helper()
	worker, err := s.test.Workers(namespace).Create(s.Context(), &batch.Worker{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	s.must(err)
	worker.Status.Incarnation = name + "-1"
	s.setReady(worker)
}

func (s *fixture) setReady(worker *batch.Worker) {
	s.Helper()
	meta.SetStatusCondition(&worker.Status.Conditions, metav1.Condition{Type: batch.WorkerReady, Status: metav1.ConditionTrue, Reason: "WorkerReady"})
	_, err := s.test.Workers(worker.Namespace).UpdateStatus(s.Context(), worker, metav1.UpdateOptions{})
	s.must(err)
}

// bind creates a task whose first attempt runs on a worker.
func (s *fixture) bind(name, worker string, tolerations ...batch.Toleration) {
	s.Helper()
	s.bindIn(namespace, name, worker, tolerations...)
}

func (s *fixture) bindIn(namespace, name, worker string, tolerations ...batch.Toleration) {
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

func (s *fixture) task(name string) *batch.Task {
	s.Helper()
	return s.taskIn(namespace, name)
}

func (s *fixture) taskIn(namespace, name string) *batch.Task {
	s.Helper()
	task, err := s.test.Tasks(namespace).Get(s.Context(), name, metav1.GetOptions{})
	s.must(err)
	return task
}

func (s *fixture) deleted(name string) bool {
	s.Helper()
	_, err := s.test.Tasks(namespace).Get(s.Context(), name, metav1.GetOptions{})
	return apierrors.IsNotFound(err)
}

func (s *fixture) isBound(name string) bool { s.Helper(); return s.task(name).Spec.WorkerName != "" }

func (s *fixture) worker(name string) *batch.Worker {
	s.Helper()
	worker, err := s.test.Workers(namespace).Get(s.Context(), name, metav1.GetOptions{})
	s.must(err)
	return worker
}

// ready returns the status and the reason of the worker's Ready condition.
func ready(w *batch.Worker) string {
	c := meta.FindStatusCondition(w.Status.Conditions, batch.WorkerReady)
	return fmt.Sprintf("%s %s", c.Status, c.Reason)
}

func (s *fixture) taint(worker string, taints ...batch.Taint) {
	s.Helper()
	w := s.worker(worker)
	w.Spec.Taints = taints
	_, err := s.test.Workers(namespace).Update(s.Context(), w, metav1.UpdateOptions{})
	s.must(err)
}

// writes returns how many write requests the controller has sent.
func (s *fixture) writes() int {
	n := 0
	for _, a := range s.api.Actions() {
		if !slices.Contains([]string{"get", "list", "watch"}, a.GetVerb()) {
			n++
		}
	}
	return n
}

func TestLostWorker(t *testing.T) {
	run(t, nil, func(s *fixture) {
		s.startWorker("other")
		stop := s.startWorker("w")
		s.bind("t", "w")
		s.bind("of-the-other", "other")
		s.advance(5 * time.Minute)
		if n := s.writes(); n != 0 {
			t.Fatalf("%d writes although all workers are healthy", n)
		}
		stop()
		s.advance(39 * time.Second)
		if w := s.worker("w"); ready(w) != "True WorkerReady" || len(w.Spec.Taints) > 0 || !s.isBound("t") {
			t.Fatalf("before its lease has expired the worker is %s with taints %v", ready(w), w.Spec.Taints)
		}
		s.advance(22 * time.Second)
		w := s.worker("w")
		if ready(w) != "Unknown WorkerStatusUnknown" {
			t.Errorf("Ready is %s", ready(w))
		}
		if c := w.Status.Conditions[0]; !strings.Contains(c.Message, "40s") || !strings.Contains(c.Message, "Ready=True") {
			t.Errorf("the message does not contain the duration and the previous condition: %s", c.Message)
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
		if !s.isBound("of-the-other") {
			t.Error("the task of the other worker was evicted")
		}
		if n := s.writes(); n != 3 {
			t.Errorf("%d writes, want three: status, taint and eviction", n)
		}
		s.advance(30 * time.Minute)
		if n := s.writes(); n != 3 {
			t.Errorf("%d writes after the eviction", n-3)
		}
	})
}

func TestTaintOfReturningWorkerIsRemoved(t *testing.T) {
	run(t, nil, func(s *fixture) {
		s.startWorker("other")
		stop := s.startWorker("w")
		stop()
		s.advance(2 * time.Minute)
		mine := batch.Taint{Key: "mine", Effect: batch.TaintEffectNoSchedule}
		s.taint("w", append(s.worker("w").Spec.Taints, mine)...)

		lease, err := s.test.WorkerLeases(namespace).Get(s.Context(), "w", metav1.GetOptions{})
		s.must(err)
		lease.Spec.RenewTime = new(metav1.NowMicro())
		_, err = s.test.WorkerLeases(namespace).Update(s.Context(), lease, metav1.UpdateOptions{})
		s.must(err)
		s.advance(11 * time.Second)
		w := s.worker("w")
		if len(w.Spec.Taints) != 1 || w.Spec.Taints[0] != mine {
			t.Errorf("its taints are %v", w.Spec.Taints)
		}
		if ready(w) != "Unknown WorkerStatusUnknown" {
			t.Errorf("Ready is %s although the worker has not set it", ready(w))
		}
	})
}

func TestClocksOfWorkersAreIgnored(t *testing.T) {
	run(t, nil, func(s *fixture) {
		for name, ahead := range map[string]time.Duration{"ahead": time.Hour, "behind": -time.Hour} {
			stop := s.startWorkerWith(namespace, name, ahead, 10*time.Second)
			s.startWorkerWith(namespace, name+"-alive", ahead, 10*time.Second)
			s.bind(name, name)
			s.bind(name+"-alive", name+"-alive")
			s.advance(5 * time.Minute)
			stop()
			s.advance(61 * time.Second)
			if s.isBound(name) || !s.isBound(name+"-alive") {
				t.Errorf("clock %s: the task of the lost worker is bound: %v, that of the living one: %v", name, s.isBound(name), s.isBound(name+"-alive"))
			}
		}
	})
}

func TestTolerations(t *testing.T) {
	seconds := func(n int64) batch.Toleration {
		return batch.Toleration{Key: batch.TaintWorkerUnreachable, Operator: batch.TolerationOpExists, Effect: batch.TaintEffectNoExecute, TolerationSeconds: &n}
	}
	tolerateForever := batch.Toleration{Operator: batch.TolerationOpExists}
	run(t, nil, func(s *fixture) {
		s.startWorker("other")
		stop := s.startWorker("w")
		s.bind("none", "w")
		s.bind("another", "w", batch.Toleration{Key: "another", Operator: batch.TolerationOpExists})
		s.bind("forever", "w", tolerateForever)
		s.bind("zero", "w", seconds(0))
		s.bind("negative", "w", seconds(-7))
		s.bind("five-minutes", "w", seconds(300))
		s.bind("smallest", "w", tolerateForever, seconds(600), tolerateForever, seconds(120))
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
			s.advance(step.at - last)
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

func TestTaintsSetByUsers(t *testing.T) {
	toleration := batch.Toleration{Key: "maintenance", Operator: batch.TolerationOpEqual, Value: "now", Effect: batch.TaintEffectNoExecute, TolerationSeconds: new(int64(60))}
	taint := batch.Taint{Key: "maintenance", Value: "now", Effect: batch.TaintEffectNoExecute}
	run(t, nil, func(s *fixture) {
		s.startWorker("w")
		s.bind("at-once", "w")
		s.bind("later", "w", toleration)
		s.taint("w", batch.Taint{Key: "maintenance", Effect: batch.TaintEffectNoSchedule})
		s.advance(time.Second)
		if !s.isBound("at-once") {
			t.Error("NoSchedule has evicted a task")
		}
		s.taint("w", taint)
		s.advance(time.Second)
		if c := meta.FindStatusCondition(s.task("at-once").Status.Conditions, batch.DisruptionTarget); c == nil || c.Reason != "TaintEviction" ||
			c.Message != "Worker w has the taint maintenance=now:NoExecute, which the task does not tolerate." {
			t.Errorf("DisruptionTarget is %+v", c)
		}
		s.advance(58 * time.Second)
		if !s.isBound("later") {
			t.Error("a toleration of 60 s has ended early")
		}
		s.advance(2 * time.Second)
		if s.isBound("later") {
			t.Error("a toleration of 60 s has not ended")
		}

		// A task that is bound despite the taint is tolerated as long.
		s.bind("bound-late", "w", toleration)
		s.advance(58 * time.Second)
		if !s.isBound("bound-late") {
			t.Error("a toleration has ended before the task was bound")
		}
		s.advance(2 * time.Second)
		if s.isBound("bound-late") {
			t.Error("a toleration has not ended")
		}

		// A taint that is removed in time has no effect, and the time does not count when it is added again.
		s.taint("w")
		s.bind("spared", "w", toleration)
		s.advance(2 * time.Minute)
		s.taint("w", taint)
		s.advance(30 * time.Second)
		s.taint("w")
		s.advance(2 * time.Minute)
		if !s.isBound("spared") {
			t.Error("a removed taint has evicted a task")
		}
	})
}

func TestTimeWithoutListsDoesNotCount(t *testing.T) {
	for name, start := range map[string]func(s *fixture, until time.Time){
		"lists fail": func(s *fixture, until time.Time) {
			s.failLists(time.Until(until))
			s.startController(s.api, Options{})
		},
		"paused": func(s *fixture, until time.Time) { s.startController(slowListClient{s.api, until}, Options{}) },
	} {
		t.Run(name, func(t *testing.T) {
			newFixture(t, func(s *fixture) {
				s.startWorker("a")
				s.startWorker("b")
				dead := s.startWorker("dead")
				s.bind("t", "a")
				s.bind("of-the-dead", "dead")
				start(s, time.Now().Add(10*time.Minute))
				s.partitioned.Store(true)
				s.advance(10*time.Minute - time.Second)
				dead()
				s.partitioned.Store(false)
				s.advance(30 * time.Second)
				if n := s.writes(); n != 0 || !s.isBound("t") || !s.isBound("of-the-dead") {
					t.Errorf("%d writes in the 30 s after the server returned", n)
				}
				s.advance(40 * time.Second)
				if !s.isBound("t") || s.isBound("of-the-dead") {
					t.Errorf("bound: the task of a worker that came back: %v, of one that did not: %v", s.isBound("t"), s.isBound("of-the-dead"))
				}
			})
		})
	}
}

func TestGapBetweenLists(t *testing.T) {
	run(t, nil, func(s *fixture) {
		s.startWorker("other")
		stop := s.startWorker("w")
		s.bind("t", "w")
		s.advance(time.Minute)
		stop()
		s.advance(35 * time.Second)
		s.failLists(25 * time.Second)
		s.advance(60 * time.Second)
		if !s.isBound("t") {
			t.Error("evicted within 40 s after a gap")
		}
		s.advance(30 * time.Second)
		if s.isBound("t") {
			t.Error("not evicted 40 s after a gap")
		}
	})
}

func TestDueEvictionsWaitForLists(t *testing.T) {
	run(t, nil, func(s *fixture) {
		s.startWorker("other")
		stop := s.startWorker("w")
		s.bind("t", "w", batch.Toleration{Operator: batch.TolerationOpExists, Effect: batch.TaintEffectNoExecute, TolerationSeconds: new(int64(120))})
		stop()
		s.advance(100 * time.Second)
		s.failLists(5 * time.Minute)
		s.advance(5 * time.Minute)
		if !s.isBound("t") {
			t.Error("evicted although the worker may have returned")
		}
		s.advance(time.Minute)
		if s.isBound("t") {
			t.Error("not evicted although the worker is still lost")
		}
	})
}

func TestStaleListsAreConfirmed(t *testing.T) {
	run(t, nil, func(s *fixture) {
		s.startWorker("w")
		s.startWorker("other")
		s.bind("t", "w")
		s.advance(time.Minute)
		stale, err := s.test.WorkerLeases("").List(s.Context(), metav1.ListOptions{})
		s.must(err)
		s.listReaction.Store(new(clienttesting.ReactionFunc(func(clienttesting.Action) (bool, runtime.Object, error) {
			return true, stale.DeepCopy(), nil
		})))
		s.advance(10 * time.Minute)
		if n := s.writes(); n != 0 || !s.isBound("t") {
			t.Errorf("%d writes because of a stale list", n)
		}
	})
}

func TestFullDisruption(t *testing.T) {
	t.Run("all stay lost", func(t *testing.T) {
		run(t, nil, func(s *fixture) {
			stop, stopOther := s.startWorker("w"), s.startWorker("v")
			s.startWorkerWith("elsewhere", "alive", 0, 10*time.Second)
			s.bind("t", "w")
			s.advance(time.Minute)
			stop()
			s.advance(11 * time.Second)
			stopOther()
			s.advance(5 * time.Minute)
			if w := s.worker("w"); !s.isBound("t") || ready(w) != "Unknown WorkerStatusUnknown" || unreachableTaint(w) == nil {
				t.Errorf("after five minutes: bound %v, Ready %s, taints %v", s.isBound("t"), ready(w), w.Spec.Taints)
			}
			s.advance(time.Minute)
			if s.isBound("t") {
				t.Error("the task was not evicted although no worker has returned")
			}
		})
	})
	t.Run("one returns", func(t *testing.T) {
		run(t, nil, func(s *fixture) {
			s.startWorker("a")
			s.startWorker("b")
			stop := s.startWorker("dead")
			s.bind("t", "b")
			s.bind("of-the-dead", "dead")
			s.advance(time.Minute)
			s.partitioned.Store(true)
			stop()
			s.advance(3 * time.Minute)
			s.partitioned.Store(false)
			s.advance(35 * time.Second)
			if !s.isBound("t") || !s.isBound("of-the-dead") || unreachableTaint(s.worker("b")) != nil {
				t.Error("the other workers got no time to return")
			}
			s.advance(40 * time.Second)
			if !s.isBound("t") || s.isBound("of-the-dead") {
				t.Errorf("bound: the task of a worker that came back: %v, of one that did not: %v", s.isBound("t"), s.isBound("of-the-dead"))
			}
		})
	})
	t.Run("only one is slow", func(t *testing.T) {
		run(t, nil, func(s *fixture) {
			s.startWorker("alive")
			s.startWorkerWith(namespace, "slow", 0, 35*time.Second)
			s.startWorker("dead")()
			s.bind("t", "dead")
			s.advance(61 * time.Second)
			if s.isBound("t") {
				t.Error("a slow worker delays the eviction from others")
			}
		})
	})
	t.Run("a new one registers", func(t *testing.T) {
		run(t, nil, func(s *fixture) {
			stop := s.startWorker("w")
			s.bind("t", "w")
			stop()
			s.advance(2 * time.Minute)
			s.startWorker("new")
			s.advance(11 * time.Second)
			if s.isBound("t") {
				t.Error("the task was not evicted although there is a worker for it")
			}
		})
	})
}

func TestWorkerThatDoesNotExist(t *testing.T) {
	run(t, func(s *fixture) { s.bind("before", "never-was") }, func(s *fixture) {
		stop := s.startWorker("w")
		s.bind("t", "w")
		s.advance(time.Minute)
		stop()
		s.must(s.test.Workers(namespace).Delete(s.Context(), "w", metav1.DeleteOptions{}))
		s.advance(time.Second)
		for _, name := range []string{"before", "t"} {
			if c := meta.FindStatusCondition(s.task(name).Status.Conditions, batch.DisruptionTarget); c == nil || c.Reason != "WorkerLost" {
				t.Errorf("%s: DisruptionTarget is %+v", name, c)
			}
		}
		s.advance(10 * time.Second)
		if _, err := s.test.WorkerLeases(namespace).Get(s.Context(), "w", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("the lease of a deleted Worker: %v", err)
		}
	})
}

func TestTasksBeingDeleted(t *testing.T) {
	for name, tc := range map[string]struct {
		lose func(s *fixture, stop func())
		// After kept the task exists, and after gone it does not.
		kept, gone time.Duration
		otherLives bool
	}{
		"the worker is gone": {func(s *fixture, _ func()) {
			s.must(s.test.Workers(namespace).Delete(s.Context(), "w", metav1.DeleteOptions{}))
		}, 29 * time.Second, 2 * time.Second, true},
		"the worker is unreachable": {func(_ *fixture, stop func()) { stop() }, 39 * time.Second, 22 * time.Second, true},
		"all are unreachable":       {func(s *fixture, _ func()) { s.partitioned.Store(true) }, 39 * time.Second, 22 * time.Second, false},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, nil, func(s *fixture) {
				s.startWorker("other")
				stop := s.startWorker("w")
				s.bind("t", "w")
				s.bind("of-the-other", "other")
				s.advance(time.Minute)
				s.must(s.test.Tasks(namespace).Delete(s.Context(), "t", metav1.DeleteOptions{}))
				tc.lose(s, stop)
				s.advance(tc.kept)
				if s.deleted("t") {
					t.Fatal("it is deleted early")
				}
				s.advance(tc.gone)
				if !s.deleted("t") {
					t.Error("it still exists")
				}
				s.must(s.test.Tasks(namespace).Delete(s.Context(), "of-the-other", metav1.DeleteOptions{GracePeriodSeconds: new(int64(1))}))
				s.advance(10 * time.Second)
				if tc.otherLives && s.deleted("of-the-other") {
					t.Error("the task of a healthy worker was removed without it")
				}
			})
		})
	}
}

func TestLostWorkerIsRemoved(t *testing.T) {
	run(t, nil, func(s *fixture) {
		s.startWorker("other")
		stop, stopBusy := s.startWorker("w"), s.startWorker("busy")
		s.bind("tolerates", "busy", batch.Toleration{Operator: batch.TolerationOpExists})
		stop()
		stopBusy()
		exists := func(name string) string {
			_, worker := s.test.Workers(namespace).Get(s.Context(), name, metav1.GetOptions{})
			_, lease := s.test.WorkerLeases(namespace).Get(s.Context(), name, metav1.GetOptions{})
			return fmt.Sprintf("worker %v lease %v", worker == nil, lease == nil)
		}
		s.advance(time.Hour)
		if got := exists("w"); got != "worker true lease true" {
			t.Errorf("after an hour: %s", got)
		}
		s.advance(2 * time.Minute)
		if got := exists("w"); got != "worker false lease false" {
			t.Errorf("more than an hour after the worker was lost: %s", got)
		}
		if got := exists("busy"); got != "worker true lease true" {
			t.Errorf("with a task that tolerates the taint: %s", got)
		}
		if got := exists("other"); got != "worker true lease true" {
			t.Errorf("the healthy worker: %s", got)
		}
	})
}

func TestWorkerThatNeverHadALease(t *testing.T) {
	run(t, nil, func(s *fixture) {
		s.startWorker("other")
		s.register(namespace, "w")
		s.advance(39 * time.Second)
		if unreachableTaint(s.worker("w")) != nil {
			t.Error("it is tainted before a lease would have expired")
		}
		s.advance(22 * time.Second)
		if w := s.worker("w"); unreachableTaint(w) == nil || ready(w) != "Unknown WorkerStatusUnknown" {
			t.Errorf("Ready is %s, taints are %v", ready(w), w.Spec.Taints)
		}
	})
}

func TestLeaseWithoutWorkerIsDeleted(t *testing.T) {
	run(t, nil, func(s *fixture) {
		s.startWorker("w")
		s.advance(time.Minute)
		s.must(s.test.Workers(namespace).Delete(s.Context(), "w", metav1.DeleteOptions{}))
		s.advance(21 * time.Second)
		if _, err := s.test.WorkerLeases(namespace).Get(s.Context(), "w", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("the lease of a running worker without a Worker: %v", err)
		}
	})
}

func TestEvictionsAreLimited(t *testing.T) {
	const tasks = 200
	evicted := func(s *fixture) (n int) {
		for i := range tasks {
			if !s.isBound(fmt.Sprintf("t%d", i)) {
				n++
			}
		}
		return n
	}
	start := func(s *fixture) (stop func()) {
		s.startWorker("other")
		stop = s.startWorker("w")
		for i := range tasks {
			s.bind(fmt.Sprintf("t%d", i), "w")
		}
		return stop
	}
	t.Run("to a rate", func(t *testing.T) {
		runWith(t, Options{EvictionsPerSecond: 2}, nil, func(s *fixture) {
			start(s)()
			s.advance(65 * time.Second)
			first := evicted(s)
			s.advance(20 * time.Second)
			if n := evicted(s) - first; first == 0 || n != 40 {
				t.Errorf("%d evictions, and %d in the next 20 s; want 40", first, n)
			}
		})
	})
	t.Run("to workers that are still lost", func(t *testing.T) {
		runWith(t, Options{EvictionsPerSecond: 2}, nil, func(s *fixture) {
			start(s)()
			s.advance(65 * time.Second)
			lease, err := s.test.WorkerLeases(namespace).Get(s.Context(), "w", metav1.GetOptions{})
			s.must(err)
			lease.Spec.RenewTime = new(metav1.NowMicro())
			_, err = s.test.WorkerLeases(namespace).Update(s.Context(), lease, metav1.UpdateOptions{})
			s.must(err)
			s.advance(5100 * time.Millisecond) // The controller has listed the lease.
			first := evicted(s)
			s.advance(20 * time.Second)
			if n := evicted(s) - first; first == 0 || first == tasks || n != 0 {
				t.Errorf("%d evictions while the worker was lost, %d after it returned", first, n)
			}
		})
	})
}

func TestTwoControllersDoNotConflict(t *testing.T) {
	run(t, nil, func(s *fixture) {
		s.startController(s.server.Client(), Options{})
		s.startWorker("other")
		stop := s.startWorker("w")
		for i := range 50 {
			s.bind(fmt.Sprintf("t%d", i), "w")
		}
		stop()
		s.advance(61 * time.Second)
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

func TestRestartedControllerObservesLeasesAgain(t *testing.T) {
	run(t, func(s *fixture) {
		s.startWorker("other")
		stop := s.startWorker("w")
		stop()
		s.bind("t", "w")
		s.bind("tolerates-half-an-hour", "w", batch.Toleration{Operator: batch.TolerationOpExists, Effect: batch.TaintEffectNoExecute, TolerationSeconds: new(int64(1800))})
		s.taint("w", batch.Taint{Key: batch.TaintWorkerUnreachable, Effect: batch.TaintEffectNoExecute, TimeAdded: new(metav1.Now())})
		s.advance(time.Hour)
	}, func(s *fixture) {
		s.advance(39 * time.Second)
		if !s.isBound("t") || unreachableTaint(s.worker("w")) == nil {
			t.Errorf("it has acted on leases that it has not observed: bound %v, taints %v", s.isBound("t"), s.worker("w").Spec.Taints)
		}
		s.advance(22 * time.Second)
		if s.isBound("t") {
			t.Error("the task was not evicted")
		}
		if s.isBound("tolerates-half-an-hour") {
			t.Error("a toleration that had ended was granted again")
		}
	})
}

func TestStaleInformerIsHarmless(t *testing.T) {
	newFixture(t, func(s *fixture) {
		s.api.PrependReactor("list", "workers", func(clienttesting.Action) (bool, runtime.Object, error) {
			return true, &batch.WorkerList{ListMeta: metav1.ListMeta{ResourceVersion: "1"}}, nil
		})
		s.api.PrependWatchReactor("workers", func(clienttesting.Action) (bool, watch.Interface, error) { return true, watch.NewFake(), nil })
		s.startController(s.api, Options{})
		s.startWorker("w")
		s.bind("t", "w")
		s.advance(time.Minute)
		if n := s.writes(); n != 0 {
			t.Errorf("%d writes for a Worker that is not in the informer yet", n)
		}
	})
}

func TestLeasesAreListedFromTheCache(t *testing.T) {
	run(t, nil, func(s *fixture) {
		s.advance(time.Minute)
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

func TestChangedTasksOfALostWorkerAreSyncedAtOnce(t *testing.T) {
	tolerateForever := batch.Toleration{Operator: batch.TolerationOpExists, Effect: batch.TaintEffectNoExecute}
	run(t, nil, func(s *fixture) {
		s.startWorker("other")
		stop := s.startWorker("w")
		s.bind("deleted", "w", tolerateForever)
		s.bind("tolerates-no-more", "w", tolerateForever)
		stop()
		s.advance(75500 * time.Millisecond) // between two lists of leases
		task := s.task("tolerates-no-more")
		task.Spec.Tolerations[0].TolerationSeconds = new(int64(1))
		_, err := s.test.Tasks(namespace).Update(s.Context(), task, metav1.UpdateOptions{})
		s.must(err)
		s.must(s.test.Tasks(namespace).Delete(s.Context(), "deleted", metav1.DeleteOptions{GracePeriodSeconds: new(int64(1))}))
		s.advance(2 * time.Second)
		if !s.deleted("deleted") || s.isBound("tolerates-no-more") {
			t.Errorf("gone: %v, bound: %v", s.deleted("deleted"), s.isBound("tolerates-no-more"))
		}
	})
}

func TestTaskThatWaitsForAFinalizerIsIgnored(t *testing.T) {
	prepare := func(s *fixture) {
		_, err := s.test.Tasks(namespace).Create(s.Context(), &batch.Task{
			ObjectMeta: metav1.ObjectMeta{Name: "t", Finalizers: []string{"example.com/wait"}}, Spec: batch.TaskSpec{Command: []string{"true"}},
		}, metav1.CreateOptions{})
		s.must(err)
		binding := &batch.Binding{Target: batch.BindingTarget{Name: "never-was", Incarnation: "never-was-1"}}
		_, err = s.test.Tasks(namespace).Bind(s.Context(), "t", binding, metav1.CreateOptions{})
		s.must(err)
		s.must(s.test.Tasks(namespace).Delete(s.Context(), "t", metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))}))
	}
	run(t, prepare, func(s *fixture) {
		s.advance(10 * time.Minute)
		if n := s.writes(); n != 0 {
			t.Errorf("%d writes", n)
		}
	})
}

func TestFinishedTasks(t *testing.T) {
	finish := func(s *fixture, name string, ago time.Duration, mutate func(*batch.Task)) {
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
		{name: "no-time-to-live", lasts: never},
		{name: "at-once", mutate: ttl(0)},
		{name: "a-minute", mutate: ttl(60), lasts: time.Minute},
		{name: "half-a-minute-left", ago: 30 * time.Second, mutate: ttl(60), lasts: 30 * time.Second},
		{name: "expired", ago: time.Hour, mutate: ttl(60)},
		{name: "finished-in-the-future", ago: -time.Hour, mutate: ttl(60), lasts: time.Minute},
		{name: "of-a-set", mutate: func(t *batch.Task) {
			ttl(60)(t)
			t.OwnerReferences = []metav1.OwnerReference{{APIVersion: "batch.leat.dev/v1alpha1", Kind: "TaskSet", Name: "set", UID: "uid", Controller: new(true)}}
		}, lasts: never},
		{name: "of-a-kind-of-that-name", mutate: func(t *batch.Task) {
			ttl(60)(t)
			t.OwnerReferences = []metav1.OwnerReference{{APIVersion: "example.com/v1", Kind: "TaskSet", Name: "set", UID: "uid", Controller: new(true)}}
		}, lasts: time.Minute},
		{name: "of-something-else", mutate: func(t *batch.Task) {
			ttl(60)(t)
			t.OwnerReferences = []metav1.OwnerReference{{APIVersion: "example.com/v1", Kind: "Workflow", Name: "flow", UID: "uid", Controller: new(true)}}
		}, lasts: time.Minute},
		{name: "incomplete-deletion", mutate: func(t *batch.Task) {
			t.DeletionTimestamp, t.DeletionGracePeriodSeconds = new(metav1.NewTime(time.Now().Add(20*time.Second))), new(int64(30))
		}, lasts: 20 * time.Second},
		{name: "waits-for-a-finalizer", mutate: func(t *batch.Task) {
			ttl(60)(t)
			t.Finalizers = []string{"example.com/wait"}
			t.DeletionTimestamp, t.DeletionGracePeriodSeconds = new(metav1.Now()), new(int64(0))
		}, lasts: never},
	} {
		for _, before := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/before the start %v", tc.name, before), func(t *testing.T) {
				prepare := func(s *fixture) {
					if before {
						finish(s, tc.name, tc.ago, tc.mutate)
					}
				}
				run(t, prepare, func(s *fixture) {
					if !before {
						finish(s, tc.name, tc.ago, tc.mutate)
					}
					if tc.lasts > 0 {
						s.advance(tc.lasts - 1)
						if s.deleted(tc.name) {
							t.Fatal("it is deleted early")
						}
					}
					s.advance(time.Second)
					if s.deleted(tc.name) != (tc.lasts != never) {
						t.Errorf("deleted: %v", s.deleted(tc.name))
					}
				})
			})
		}
	}

	t.Run("the time to live is changed", func(t *testing.T) {
		run(t, nil, func(s *fixture) {
			finish(s, "t", 0, ttl(60))
			s.advance(30 * time.Second)
			task := s.task("t")
			ttl(120)(task)
			_, err := s.test.Tasks(namespace).Update(s.Context(), task, metav1.UpdateOptions{})
			s.must(err)
			s.advance(89 * time.Second)
			if s.deleted("t") {
				t.Fatal("it was deleted at the end of the old time to live")
			}
			s.advance(2 * time.Second)
			if !s.deleted("t") {
				t.Error("it was not deleted at the end of the new time to live")
			}
		})
	})

	t.Run("the time to live is removed", func(t *testing.T) {
		run(t, nil, func(s *fixture) {
			finish(s, "t", 0, ttl(60))
			s.advance(30 * time.Second)
			task := s.task("t")
			task.Spec.TTLSecondsAfterFinished = nil
			_, err := s.test.Tasks(namespace).Update(s.Context(), task, metav1.UpdateOptions{})
			s.must(err)
			s.advance(time.Hour)
			if n := s.writes(); n != 0 || s.deleted("t") {
				t.Errorf("%d writes", n)
			}
		})
	})

	t.Run("the watch is stale", func(t *testing.T) {
		newFixture(t, func(s *fixture) {
			finish(s, "t", time.Hour, ttl(60))
			f := newFinishedTasks(s.api)
			defer f.queue.ShutDown()
			s.must(f.Update(s.task("t")))
			task := s.task("t")
			ttl(7200)(task)
			_, err := s.test.Tasks(namespace).Update(s.Context(), task, metav1.UpdateOptions{})
			s.must(err)
			if _, err := f.sync(s.Context(), cache.MetaObjectToName(task)); !apierrors.IsConflict(err) || s.deleted("t") {
				t.Errorf("deleted at the end of the old time to live: %v, %v", s.deleted("t"), err)
			}
			s.must(f.Delete(task))
			if len(f.deletions) != 0 {
				t.Error("a deleted task is still scheduled for deletion")
			}
		})
	})
}

func TestHealthTrackerForgetsDeletedWorkers(t *testing.T) {
	h := newHealthTracker(20 * time.Second)
	now := time.Now()
	h.observe(now, []batch.WorkerLease{{ObjectMeta: metav1.ObjectMeta{Name: "a"}}}, []*batch.Worker{{ObjectMeta: metav1.ObjectMeta{Name: "b"}}})
	if len(h.observed) != 2 {
		t.Errorf("observed are %d, want one by its lease and one by its Worker", len(h.observed))
	}
	h.observe(now.Add(10*time.Second), nil, nil)
	if len(h.observed) != 0 || len(h.disrupted) != 0 {
		t.Errorf("%d observations and %d disrupted namespaces are left", len(h.observed), len(h.disrupted))
	}
}

func TestHealthDependsOnTheDurationOfTheLease(t *testing.T) {
	h := newHealthTracker(20 * time.Second)
	start := time.Now()
	lease := batch.WorkerLease{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Spec: batch.WorkerLeaseSpec{LeaseDurationSeconds: new(int32(20))}}
	name := cache.ObjectName{Name: "a"}
	for _, step := range []struct {
		at       time.Duration
		duration int32
		want     workerHealth
	}{{0, 20, unknown}, {20 * time.Second, 20, unknown}, {30 * time.Second, 20, expired}, {40 * time.Second, 60, unknown}, {60 * time.Second, 60, unknown}, {70 * time.Second, 60, expired}} {
		*lease.Spec.LeaseDurationSeconds = step.duration
		h.observe(start.Add(step.at), []batch.WorkerLease{lease}, nil)
		if got, _ := h.get(start.Add(step.at), name); got != step.want {
			t.Errorf("after %s with a duration of %d s, the health is %d, want %d", step.at, step.duration, got, step.want)
		}
	}
}

// eviction returns the Eviction with which the controller has evicted a task, nil without one.
func (s *fixture) eviction(task string) *batch.Eviction {
	for _, a := range s.api.Actions() {
		if create, ok := a.(clienttesting.CreateActionImpl); ok && a.Matches("create", "tasks/eviction") && create.Name == task {
			return create.Object.(*batch.Eviction)
		}
	}
	return nil
}

func (s *fixture) changeWorker(name string, change func(*batch.WorkerSpec)) {
	s.Helper()
	w := s.worker(name)
	change(&w.Spec)
	_, err := s.test.Workers(namespace).Update(s.Context(), w, metav1.UpdateOptions{})
	s.must(err)
}

// setNotReady sets Ready=False with a reason on the worker.
func (s *fixture) setNotReady(name, reason string) {
	s.Helper()
	w := s.worker(name)
	meta.SetStatusCondition(&w.Status.Conditions, metav1.Condition{Type: batch.WorkerReady, Status: metav1.ConditionFalse, Reason: reason})
	_, err := s.test.Workers(namespace).UpdateStatus(s.Context(), w, metav1.UpdateOptions{})
	s.must(err)
}

func TestOnlyEvictionsFromLostWorkersCountAsCrashes(t *testing.T) {
	fail := func(s *fixture, stop func()) { stop() }
	deleted := func(s *fixture, stop func()) {
		stop()
		s.must(s.test.Workers(namespace).Delete(s.Context(), "w", metav1.DeleteOptions{}))
	}
	after := func(first func(s *fixture), then func(s *fixture, stop func())) func(s *fixture, stop func()) {
		return func(s *fixture, stop func()) {
			first(s)
			s.advance(time.Second)
			then(s, stop)
		}
	}
	cordoned := func(s *fixture) { s.changeWorker("w", func(spec *batch.WorkerSpec) { spec.Unschedulable = true }) }
	draining := func(s *fixture) { s.setNotReady("w", "Draining") }
	for name, tc := range map[string]struct {
		lose    func(s *fixture, stop func())
		reason  string
		crashed bool
	}{
		"the worker fails":                           {fail, "WorkerLost", true},
		"the worker fails while it is not ready":     {after(func(s *fixture) { s.setNotReady("w", "NoSpace") }, fail), "WorkerLost", true},
		"the worker fails while it is draining":      {after(draining, fail), "WorkerLost", false},
		"the worker fails while it is cordoned":      {after(cordoned, fail), "WorkerLost", false},
		"the Worker is deleted":                      {deleted, "WorkerLost", true},
		"the Worker is deleted while it is draining": {after(draining, deleted), "WorkerLost", false},
		"the Worker is deleted after it has stopped": {after(func(s *fixture) { s.setNotReady("w", "Stopped") }, deleted), "WorkerLost", false},
		"the Worker is deleted while it is cordoned": {after(cordoned, deleted), "WorkerLost", false},
		"the worker is tainted": {func(s *fixture, _ func()) {
			s.taint("w", batch.Taint{Key: "k", Effect: batch.TaintEffectNoExecute})
		}, "TaintEviction", false},
		"the worker is denied": {func(s *fixture, _ func()) {
			s.changeWorker("w", func(spec *batch.WorkerSpec) { spec.Denied = true })
		}, "WorkerDenied", false},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, nil, func(s *fixture) {
				s.startWorker("other")
				stop := s.startWorker("w")
				s.bind("runs", "w")
				s.bind("waits", "w")
				waits := s.task("waits")
				waits.Status.Phase = batch.TaskPending
				_, err := s.test.Tasks(namespace).UpdateStatus(s.Context(), waits, metav1.UpdateOptions{})
				s.must(err)
				s.advance(time.Minute)
				tc.lose(s, stop)
				s.advance(62 * time.Second)
				for name, crashed := range map[string]bool{"runs": tc.crashed, "waits": false} {
					if e := s.eviction(name); e == nil || e.Reason != tc.reason || e.WorkerCrashed != crashed {
						t.Errorf("%s: the eviction is %+v, want one for %s, crashed %t", name, e, tc.reason, crashed)
					}
				}
			})
		})
	}
}

func TestLostWorkersThatAreOutOfServiceAreKept(t *testing.T) {
	run(t, nil, func(s *fixture) {
		s.startWorker("other")
		for name, change := range map[string]func(*batch.WorkerSpec){
			"cordoned": func(spec *batch.WorkerSpec) { spec.Unschedulable = true },
			"denied":   func(spec *batch.WorkerSpec) { spec.Denied = true },
		} {
			stop := s.startWorker(name)
			s.changeWorker(name, change)
			stop()
		}
		s.advance(48 * time.Hour)
		for _, name := range []string{"cordoned", "denied"} {
			if w := s.worker(name); ready(w) != "Unknown WorkerStatusUnknown" {
				t.Errorf("%s is %s", name, ready(w))
			}
			s.changeWorker(name, func(spec *batch.WorkerSpec) { spec.Unschedulable, spec.Denied = false, false })
		}
		s.advance(time.Minute)
		for _, name := range []string{"cordoned", "denied"} {
			if _, err := s.test.Workers(namespace).Get(s.Context(), name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
				t.Errorf("%s: the worker is kept although it is back in service: %v", name, err)
			}
		}
	})
}

func TestDeletedTaskOfADeniedWorkerIsRemoved(t *testing.T) {
	run(t, nil, func(s *fixture) {
		s.startWorker("w")
		s.bind("t", "w")
		s.advance(time.Minute)
		s.must(s.test.Tasks(namespace).Delete(s.Context(), "t", metav1.DeleteOptions{GracePeriodSeconds: new(int64(10))}))
		s.advance(time.Second)
		s.changeWorker("w", func(spec *batch.WorkerSpec) { spec.Denied = true })
		s.advance(8 * time.Second)
		if s.deleted("t") {
			t.Fatal("it is deleted early")
		}
		s.advance(2 * time.Second)
		if !s.deleted("t") {
			t.Error("it still exists")
		}
	})
}

func TestDeletedWorkersAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fixture{T: t, server: testapi.New()}
		s.api, s.test = s.server.Client(), s.server.Client().BatchV1alpha1()
		ctx, cancel := context.WithCancel(t.Context())
		controller, done := New(s.api, Options{}), make(chan error)
		go func() { done <- controller.Run(ctx) }()
		synctest.Wait()
		s.startWorker("w")
		s.setNotReady("w", "Stopped")
		s.advance(time.Minute)
		s.must(s.test.Workers(namespace).Delete(ctx, "w", metav1.DeleteOptions{}))
		s.advance(time.Minute)
		controller.mu.Lock()
		if n := len(controller.outOfService); n > 0 {
			t.Errorf("%d deleted workers are still tracked", n)
		}
		controller.mu.Unlock()
		cancel()
		s.must(<-done)
	})
}
