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
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/host"
)

// schedulerStandalone runs all cases side by side, each with a namespace and workers of its own.
func schedulerStandalone(t *testing.T, e *kit.Env) {
	for _, test := range []struct {
		name  string
		run   func(*schedulerSuite, *testing.T)
		slots []int64
	}{
		{"queues share by weight", (*schedulerSuite).sharesByWeight, []int64{8, 8}},
		{"hold", (*schedulerSuite).holdsQueue, []int64{4}},
		{"limits", (*schedulerSuite).enforcesLimits, []int64{8}},
		{"a large task starts among small ones", (*schedulerSuite).startsLargeTask, []int64{4, 4}},
		{"a task that crashes its workers", (*schedulerSuite).failsCrashingTask, nil},
		{"hold and drain", (*schedulerSuite).drainsQueue, []int64{4, 4}},
		{"status", (*schedulerSuite).reportsStatus, []int64{3}},
		{"too many pending tasks", (*schedulerSuite).refusesTooManyTasks, []int64{4}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.run(newSchedulerSuite(t, e, test.slots...), t)
		})
	}
}

// schedulerAggregated runs the cases that a host cluster can change: the rights to bind, to evict and to write the
// status of queues, kubectl, and the 429 for too many tasks.
func schedulerAggregated(t *testing.T, e *kit.Env) {
	t.Run("hold and drain", func(t *testing.T) { newSchedulerSuite(t, e, 4, 4).drainsQueue(t) })
	t.Run("status", func(t *testing.T) { newSchedulerSuite(t, e, 3).reportsStatus(t) })
	t.Run("too many pending tasks", func(t *testing.T) { newSchedulerSuite(t, e, 4).refusesTooManyTasks(t) })
}

// schedulerSuite is a namespace with workers, and a watch on its tasks that checks invariants.
type schedulerSuite struct {
	fixture
	dir string

	mu         sync.Mutex
	tasks      map[string]*batch.Task
	bindings   []*batch.Task // the tasks at their bindings, in the order of the server
	violations []string
	// invariant is called after each event with mu locked. It returns a violation, or "".
	invariant func() string
}

// newSchedulerSuite starts a worker for each number of slots. The worker has as many CPUs.
func newSchedulerSuite(t *testing.T, e *kit.Env, slots ...int64) *schedulerSuite {
	t.Helper()
	s := &schedulerSuite{
		fixture: newFixture(t, e, e.Namespace(t)), dir: t.TempDir(), tasks: map[string]*batch.Task{}, invariant: func() string { return "" },
	}
	s.observe(t)
	workers := map[string][]string{}
	for i, n := range slots {
		workers[fmt.Sprintf("w%d-abcde", i)] = []string{fmt.Sprintf("--tasks=%d", n), fmt.Sprintf("--capacity=cpu=%d", n)}
	}
	s.startWorkers(t, workers)
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		kit.Check(t, s.api.TaskSets(s.namespace).DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}))
		kit.Check(t, s.api.Tasks(s.namespace).DeleteCollection(ctx, metav1.DeleteOptions{GracePeriodSeconds: new(int64)}, metav1.ListOptions{}))
	})
	return s
}

// observe watches the tasks of the namespace until the test ends. It fails the test if a task moves from one worker to
// another without an eviction.
func (s *schedulerSuite) observe(t *testing.T) {
	t.Helper()
	events := kit.Must(s.api.Tasks(s.namespace).Watch(context.WithoutCancel(t.Context()), metav1.ListOptions{ResourceVersion: "0"}))(t)
	done, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for event := range events.ResultChan() {
			task, ok := event.Object.(*batch.Task)
			select {
			case <-stopped:
				return
			default:
			}
			if !ok {
				s.violated(fmt.Sprintf("the watch ended with %+v", event.Object))
				continue
			}
			s.update(event.Type, task)
		}
	}()
	t.Cleanup(func() {
		close(stopped)
		events.Stop()
		<-done
		for _, violation := range s.violations {
			t.Error(violation)
		}
	})
}

func (s *schedulerSuite) violated(violation string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.violations = append(s.violations, violation)
}

// update records an event of the watch, and checks the invariants.
func (s *schedulerSuite) update(event watch.EventType, task *batch.Task) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.tasks[task.Name]
	if before != nil && before.UID == task.UID && before.Spec.WorkerName != "" && task.Spec.WorkerName != "" &&
		(before.Spec.WorkerName != task.Spec.WorkerName || before.Status.Incarnation != task.Status.Incarnation) {
		s.violations = append(s.violations, fmt.Sprintf("task %s moved from worker %s to %s without an eviction", task.Name, before.Spec.WorkerName, task.Spec.WorkerName))
	}
	if event == watch.Deleted {
		delete(s.tasks, task.Name)
		return
	}
	s.tasks[task.Name] = task
	if task.Spec.WorkerName != "" && (before == nil || before.Spec.WorkerName == "") {
		s.bindings = append(s.bindings, task)
	}
	if violation := s.invariant(); violation != "" {
		s.violations = append(s.violations, violation)
	}
}

// running returns the tasks of a queue that are bound and not finished. Call it with mu locked.
func (s *schedulerSuite) running(queue string) (tasks []*batch.Task) {
	for _, task := range s.tasks {
		if task.Spec.QueueName == queue && task.Spec.WorkerName != "" && !task.Status.Phase.Finished() {
			tasks = append(tasks, task)
		}
	}
	return tasks
}

// count returns how many of the observed tasks meet a condition.
func (s *schedulerSuite) count(condition func(*batch.Task) bool) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, task := range s.tasks {
		if condition(task) {
			n++
		}
	}
	return n
}

// bound returns the tasks at their bindings, one for each, in the order of the server.
func (s *schedulerSuite) bound() []*batch.Task {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.bindings)
}

func (s *schedulerSuite) queue(t *testing.T, name string, change func(*batch.TaskQueueSpec)) {
	t.Helper()
	queue := &batch.TaskQueue{ObjectMeta: metav1.ObjectMeta{Name: name}}
	change(&queue.Spec)
	_, err := s.api.TaskQueues(s.namespace).Create(t.Context(), queue, metav1.CreateOptions{})
	kit.Check(t, err)
}

// change updates the spec of a queue. It retries after a conflict.
func (s *schedulerSuite) change(t *testing.T, name string, change func(*batch.TaskQueueSpec)) {
	t.Helper()
	kit.Eventually(t, "the queue is updated", func(ctx context.Context) error {
		queue, err := s.api.TaskQueues(s.namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		change(&queue.Spec)
		_, err = s.api.TaskQueues(s.namespace).Update(ctx, queue, metav1.UpdateOptions{})
		return err
	})
}

// withStopPolicy returns a change of the stop policy of a queue.
func withStopPolicy(policy batch.StopPolicy) func(*batch.TaskQueueSpec) {
	return func(spec *batch.TaskQueueSpec) { spec.StopPolicy = &policy }
}

// newTask returns a task that runs a shell script. $DIR is the directory of the test.
func (s *schedulerSuite) newTask(name, queue, script string) *batch.Task {
	return &batch.Task{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: batch.TaskSpec{
			QueueName: queue, Command: []string{"sh", "-c", script}, Env: []batch.EnvVar{{Name: "DIR", Value: s.dir}},
		},
	}
}

// create creates n tasks, eight at a time.
func (s *schedulerSuite) create(t *testing.T, n int, queue, script string, changes ...func(*batch.Task)) {
	t.Helper()
	var wg sync.WaitGroup
	errs := make([]error, n)
	for worker := range 8 {
		wg.Go(func() {
			for i := worker; i < n; i += 8 {
				task := s.newTask(fmt.Sprintf("%s-%04d", queue, i), queue, script)
				for _, change := range changes {
					change(task)
				}
				_, errs[i] = s.api.Tasks(s.namespace).Create(t.Context(), task, metav1.CreateOptions{})
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		kit.Check(t, err)
	}
}

func (s *schedulerSuite) path(file string) string { return filepath.Join(s.dir, file) }

// lines returns the words that scripts have written to a file of the directory.
func (s *schedulerSuite) lines(t *testing.T, file string) []string {
	t.Helper()
	content, err := os.ReadFile(s.path(file))
	if !os.IsNotExist(err) {
		kit.Check(t, err)
	}
	return strings.Fields(string(content))
}

// waitForTasks waits until a condition holds for a number of tasks.
func (s *schedulerSuite) waitForTasks(t *testing.T, what string, want int, condition func(*batch.Task) bool) {
	t.Helper()
	kit.Eventually(t, what, func(context.Context) error {
		if n := s.count(condition); n != want {
			return fmt.Errorf("got %d tasks, want %d", n, want)
		}
		return nil
	})
}

// unschedulable returns a condition that holds for a task which waits with this message.
func unschedulable(message string) func(*batch.Task) bool {
	return func(task *batch.Task) bool {
		c := meta.FindStatusCondition(task.Status.Conditions, batch.TaskScheduled)
		return c != nil && c.Status == metav1.ConditionFalse && c.Reason == batch.TaskReasonUnschedulable && c.Message == message
	}
}

func (s *schedulerSuite) sharesByWeight(t *testing.T) {
	for name, weight := range map[string]int32{"one": 1, "three": 3} {
		s.queue(t, name, func(spec *batch.TaskQueueSpec) {
			spec.Weight, spec.StopPolicy = &weight, ptr.To(batch.StopPolicyHold)
		})
	}
	s.create(t, 75, "one", "sleep 0.1") // older than those of the other queue
	s.create(t, 225, "three", "sleep 0.1")
	if n := len(s.bound()); n > 0 {
		t.Fatalf("got %d bindings while the queues were held, want none", n)
	}
	for _, name := range []string{"one", "three"} {
		s.change(t, name, withStopPolicy(batch.StopPolicyNone))
	}
	s.waitForTasks(t, "all have succeeded", 300, isSucceeded)
	bindings, n := s.bound()[16:240], 0 // queue one was released a moment earlier
	for _, task := range bindings {
		if task.Spec.QueueName == "one" {
			n++
		}
	}
	if share := float64(n) / float64(len(bindings)); share < 0.20 || share > 0.30 {
		t.Errorf("the queue of weight 1 beside one of weight 3 has a share of %.2f, want 0.25", share)
	}
}

func (s *schedulerSuite) holdsQueue(t *testing.T) {
	s.queue(t, "q", withStopPolicy(batch.StopPolicyNone))
	s.create(t, 90, "q", "sleep 0.1")
	kit.Eventually(t, "20 tasks are bound", func(context.Context) error {
		if n := len(s.bound()); n < 20 {
			return fmt.Errorf("got %d", n)
		}
		return nil
	})
	s.change(t, "q", withStopPolicy(batch.StopPolicyHold))
	held := time.Now()
	isHeld := unschedulable("Queue q is held (stopPolicy Hold).")
	s.waitForTasks(t, "each task has run or has the reason", 90, func(task *batch.Task) bool { return task.Status.Phase.Finished() || isHeld(task) })
	n := len(s.bound())
	if n > 60 {
		t.Errorf("got %d bindings, want those of before the hold only", n)
	}
	for _, task := range s.bound() {
		at := meta.FindStatusCondition(task.Status.Conditions, batch.TaskScheduled).LastTransitionTime
		if at.Sub(held) > 3*time.Second { // the scheduler may see it late, and timestamps have whole seconds
			t.Errorf("%s was bound at %s, after the queue was held at %s", task.Name, at, held)
		}
	}
	s.change(t, "q", withStopPolicy(batch.StopPolicyNone))
	s.waitForTasks(t, "all have succeeded", 90, isSucceeded)
}

func (s *schedulerSuite) drainsQueue(t *testing.T) {
	s.queue(t, "q", withStopPolicy(batch.StopPolicyNone))
	// If a task ran twice at a time, mkdir would fail.
	const script = `mkdir "$DIR/$TASK_NAME" || echo "$TASK_NAME" >> "$DIR/twice"
		echo $$$$ > "$DIR/$TASK_NAME.pid"
		echo "$TASK_NAME" >> "$DIR/ran"
		trap 'rmdir "$DIR/$TASK_NAME"; exit 1' TERM
		until [ -e "$DIR/go" ]; do sleep 0.05; done
		rmdir "$DIR/$TASK_NAME"`
	s.create(t, 6, "q", script)
	s.create(t, 2, "other", `until [ -e "$DIR/go" ]; do sleep 0.1; done`)
	kit.Eventually(t, "six commands run", func(context.Context) error {
		if ran := s.lines(t, "ran"); len(ran) != 6 {
			return fmt.Errorf("got %d", len(ran))
		}
		return nil
	})
	s.change(t, "q", withStopPolicy(batch.StopPolicyHoldAndDrain))
	isEvicted := func(task *batch.Task) bool {
		d := meta.FindStatusCondition(task.Status.Conditions, batch.DisruptionTarget)
		return task.Spec.QueueName == "q" && task.Spec.WorkerName == "" && task.Status.Phase == batch.TaskPending && task.Status.Disruptions == 1 &&
			d != nil && d.Reason == "TaskQueueStopped"
	}
	s.waitForTasks(t, "all tasks of the queue are evicted", 6, isEvicted)
	s.waitForTasks(t, "the tasks of the other queue stay bound", 2, func(task *batch.Task) bool { return task.Spec.QueueName == "other" && task.Spec.WorkerName != "" })
	kit.Eventually(t, "the commands have ended", func(context.Context) error {
		for i := range 6 {
			pid, err := strconv.Atoi(s.lines(t, fmt.Sprintf("q-%04d.pid", i))[0])
			kit.Check(t, err)
			if syscall.Kill(pid, 0) == nil {
				return fmt.Errorf("process %d exists", pid)
			}
		}
		return nil
	})
	// A command that was killed could not remove its directory.
	for i := range 6 {
		if err := os.Remove(s.path(fmt.Sprintf("q-%04d", i))); err != nil && !os.IsNotExist(err) {
			t.Error(err)
		}
	}
	touch(t, s.path("go"))
	s.change(t, "q", withStopPolicy(batch.StopPolicyNone))
	s.waitForTasks(t, "all have succeeded, though a failure would not be retried", 8, isSucceeded)
	if ran := s.lines(t, "ran"); len(ran) != 12 {
		t.Errorf("got %d starts, want two of each task: %q", len(ran), ran)
	}
	if twice := s.lines(t, "twice"); len(twice) > 0 {
		t.Errorf("these tasks ran twice at a time: %q", twice)
	}
}

func (s *schedulerSuite) enforcesLimits(t *testing.T) {
	most := map[string]int{}
	s.mu.Lock()
	s.invariant = func() string {
		few, cpu := len(s.running("few")), int64(0)
		for _, task := range s.running("cpu") {
			amount := task.Spec.Resources.Requests[batch.ResourceCPU]
			cpu += amount.Value()
		}
		most["few"], most["cpu"] = max(most["few"], few), max(most["cpu"], int(cpu))
		if few > 3 || cpu > 4 {
			return fmt.Sprintf("queue few runs %d tasks, queue cpu uses %d", few, cpu)
		}
		return ""
	}
	s.mu.Unlock()
	s.queue(t, "few", func(spec *batch.TaskQueueSpec) { spec.MaxRunningTasks = ptr.To[int32](3) })
	s.queue(t, "cpu", func(spec *batch.TaskQueueSpec) {
		spec.Resources.Limits = batch.ResourceList{batch.ResourceCPU: resource.MustParse("4")}
	})
	ask := func(amount string) func(*batch.Task) {
		return func(task *batch.Task) {
			task.Spec.Resources.Requests = batch.ResourceList{batch.ResourceCPU: resource.MustParse(amount)}
		}
	}
	s.create(t, 60, "few", "sleep 0.1")
	for _, amount := range []string{"1", "2", "3"} {
		s.create(t, 10, "cpu", "sleep 0.1", ask(amount), func(task *batch.Task) { task.Name += "-" + amount })
	}
	unsatisfiable := s.newTask("unsatisfiable", "cpu", "true")
	ask("5")(unsatisfiable)
	_, err := s.api.Tasks(s.namespace).Create(t.Context(), unsatisfiable, metav1.CreateOptions{})
	kit.Check(t, err)
	s.waitForTasks(t, "all have succeeded", 90, isSucceeded)
	s.waitForTasks(t, "the task over the limit has the reason", 1, unschedulable("Queue cpu is limited to 4 cpu, and the task requests 5."))
	s.mu.Lock()
	defer s.mu.Unlock()
	if most["few"] != 3 || most["cpu"] != 4 {
		t.Errorf("got at most %v, want the limits reached", most)
	}
}

func (s *schedulerSuite) reportsStatus(t *testing.T) {
	s.queue(t, "q", func(spec *batch.TaskQueueSpec) { spec.MaxRunningTasks = ptr.To[int32](2) })
	s.create(t, 5, "q", `until [ -e "$DIR/go" ]; do sleep 0.1; done`, func(task *batch.Task) {
		task.Spec.Resources.Requests = batch.ResourceList{batch.ResourceCPU: resource.MustParse("500m")}
	})
	var queue *batch.TaskQueue
	status := func(what string, is func(*batch.TaskQueueStatus) bool) {
		t.Helper()
		kit.Eventually(t, what, func(ctx context.Context) error {
			var err error
			if queue, err = s.api.TaskQueues(s.namespace).Get(ctx, "q", metav1.GetOptions{}); err == nil && !is(&queue.Status) {
				err = fmt.Errorf("the status is %+v", queue.Status)
			}
			return err
		})
	}
	status("the status has the counts", func(status *batch.TaskQueueStatus) bool { return status.Pending == 3 && status.Running == 2 })
	oldest := kit.Must(s.api.Tasks(s.namespace).List(t.Context(), metav1.ListOptions{FieldSelector: "spec.workerName=,spec.queueName=q"}))(t).Items[0].CreationTimestamp
	if cpu := queue.Status.Used[batch.ResourceCPU]; cpu.String() != "1" || queue.Status.OldestPendingTime.Sub(oldest.Time).Abs() > time.Second {
		t.Errorf("the status is %+v", queue.Status)
	}
	s.waitForTasks(t, "the tasks have the reason", 3, unschedulable("Queue q runs 2 of at most 2 tasks."))

	kubeconfig := s.env.Kubeconfig(t, s.env.Admin(t), s.namespace)
	kubectl := func(args ...string) string {
		t.Helper()
		out, _, err := s.env.Kubectl(t, kubeconfig, "", args...)
		kit.Check(t, err)
		return out
	}
	kubectl("wait", "--for=condition=Active", "--timeout=30s", "tq/q")
	s.change(t, "q", withStopPolicy(batch.StopPolicyHold))
	kubectl("wait", "--for=condition=Active=false", "--timeout=30s", "tq/q")
	if fields := strings.Fields(kubectl("get", "tq", "q", "--no-headers")); len(fields) != 6 || !slices.Equal(fields[:5], []string{"q", "3", "2", "2", "Hold"}) {
		t.Errorf("kubectl get tq printed %q", fields)
	}
	s.change(t, "q", withStopPolicy(batch.StopPolicyNone))
	touch(t, s.path("go"))
	status("the queue is empty", func(status *batch.TaskQueueStatus) bool {
		return status.Pending == 0 && status.Running == 0 && status.OldestPendingTime == nil && len(status.Used) == 0
	})
	// Tasks of other queues cause no write of this status.
	version := queue.ResourceVersion
	s.create(t, 20, "other", "true")
	s.waitForTasks(t, "the others have succeeded", 25, isSucceeded)
	if queue = kit.Must(s.api.TaskQueues(s.namespace).Get(t.Context(), "q", metav1.GetOptions{}))(t); queue.ResourceVersion != version {
		t.Errorf("the status was written although it has not changed: %+v", queue.Status)
	}
}

func (s *schedulerSuite) refusesTooManyTasks(t *testing.T) {
	s.queue(t, "q", func(spec *batch.TaskQueueSpec) {
		spec.MaxPendingTasks, spec.StopPolicy = ptr.To[int32](5), ptr.To(batch.StopPolicyHold)
	})
	var mu sync.Mutex
	var retryAfter string
	config := rest.CopyConfig(s.env.Admin(t))
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(request *http.Request) (*http.Response, error) {
			response, err := next.RoundTrip(request)
			if err == nil && response.StatusCode == http.StatusTooManyRequests {
				mu.Lock()
				retryAfter = response.Header.Get("Retry-After")
				mu.Unlock()
				response.Header.Del("Retry-After") // so that the client does not retry
			}
			return response, err
		})
	})
	tasks := kit.Client(t, config).BatchV1alpha1().Tasks(s.namespace)
	try := func(name, queue string, dryRun ...string) error {
		_, err := tasks.Create(t.Context(), s.newTask(name, queue, "true"), metav1.CreateOptions{DryRun: dryRun})
		return err
	}
	for i := range 10 {
		kit.Check(t, try(fmt.Sprint("dry-", i), "q", metav1.DryRunAll))
	}
	for i := range 5 {
		kit.Eventually(t, "the status counts the earlier tasks", func(ctx context.Context) error {
			queue, err := s.api.TaskQueues(s.namespace).Get(ctx, "q", metav1.GetOptions{})
			if err == nil && int(queue.Status.Pending) != i {
				err = fmt.Errorf("got pending %d, want %d", queue.Status.Pending, i)
			}
			return err
		})
		kit.Check(t, try(fmt.Sprint("t-", i), "q"))
	}
	kit.Eventually(t, "a dry run is refused", func(context.Context) error {
		err := try("more", "q", metav1.DryRunAll)
		if err == nil {
			return errors.New("it is accepted")
		}
		if !apierrors.IsTooManyRequests(err) || !strings.Contains(err.Error(), "queue q has 5 pending tasks of at most 5 (maxPendingTasks)") {
			t.Fatalf("a task over the limit: got %v", err)
		}
		return nil
	})
	if err := try("more", "q"); !apierrors.IsTooManyRequests(err) {
		t.Errorf("a sixth task: got %v, want status 429", err)
	}
	mu.Lock()
	if seconds, err := strconv.Atoi(retryAfter); err != nil || seconds < 1 || seconds > 5 {
		t.Errorf("got Retry-After %q, want 1 to 5 seconds", retryAfter)
	}
	mu.Unlock()
	kit.Check(t, try("elsewhere", "other"))

	// kubectl retries until the task is accepted.
	kubeconfig := s.env.Kubeconfig(t, s.env.Admin(t), s.namespace)
	created := make(chan error)
	go func() {
		_, _, err := s.env.Kubectl(t, kubeconfig, fmt.Sprintf(`{"apiVersion":"batch.leat.dev/v1alpha1","kind":"Task","metadata":{"name":"by-kubectl","namespace":%q},
			"spec":{"queueName":"q","command":["true"]}}`, s.namespace), "create", "-f", "-")
		created <- err
	}()
	s.change(t, "q", withStopPolicy(batch.StopPolicyNone))
	kit.Check(t, <-created)
	s.waitForTasks(t, "all have succeeded", 7, isSucceeded)

	// A set retries, with a condition, and completes.
	s.change(t, "q", func(spec *batch.TaskQueueSpec) { spec.MaxRunningTasks = ptr.To[int32](2) })
	set := &batch.TaskSet{ObjectMeta: metav1.ObjectMeta{Name: "set"}}
	set.Spec.Parallelism, set.Spec.Completions = ptr.To[int32](20), ptr.To[int32](40)
	set.Spec.QueueName = "q"
	set.Spec.Template.Spec = s.newTask("", "q", "sleep 0.1").Spec
	_, err := s.api.TaskSets(s.namespace).Create(t.Context(), set, metav1.CreateOptions{})
	kit.Check(t, err)
	waitSet := func(condition string) *metav1.Condition {
		t.Helper()
		var found *metav1.Condition
		kit.Eventually(t, condition, func(ctx context.Context) error {
			set, err := s.api.TaskSets(s.namespace).Get(ctx, "set", metav1.GetOptions{})
			if err != nil {
				return err
			}
			if found = meta.FindStatusCondition(set.Status.Conditions, condition); found == nil {
				return fmt.Errorf("the status is %+v", set.Status)
			}
			return nil
		})
		return found
	}
	if failure := waitSet(batch.TaskSetReplicaFailure); !strings.Contains(failure.Message, "queue q has ") || failure.Reason != "FailedCreate" {
		t.Errorf("got the condition %+v", failure)
	}
	waitSet(batch.TaskSetComplete)
}

// roundTripper is a function as an http.RoundTripper.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(request *http.Request) (*http.Response, error) { return f(request) }

func (s *schedulerSuite) startsLargeTask(t *testing.T) {
	set := &batch.TaskSet{ObjectMeta: metav1.ObjectMeta{Name: "small"}}
	set.Spec.Parallelism, set.Spec.Completions = ptr.To[int32](16), ptr.To[int32](100_000)
	set.Spec.QueueName = "q"
	// The small tasks run until the large one has its reason, and then end one after another.
	set.Spec.Template.Spec = s.newTask("", "q", `while ! [ -e "$DIR/reported" ]; do sleep 0.1; done; sleep 0.$((3 + TASK_INDEX % 7))`).Spec
	set.Spec.Template.Spec.Resources.Requests = batch.ResourceList{batch.ResourceCPU: resource.MustParse("1")}
	_, err := s.api.TaskSets(s.namespace).Create(t.Context(), set, metav1.CreateOptions{})
	kit.Check(t, err)
	kit.Eventually(t, "the small tasks fill the workers", func(context.Context) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if running := len(s.running("q")); running < 8 {
			return fmt.Errorf("got %d running tasks, want 8", running)
		}
		return nil
	})
	large := s.newTask("large", "q", "true")
	large.Spec.Resources.Requests = batch.ResourceList{batch.ResourceCPU: resource.MustParse("4")}
	_, err = s.api.Tasks(s.namespace).Create(t.Context(), large, metav1.CreateOptions{})
	kit.Check(t, err)
	kit.Eventually(t, "the large task has the reason", func(context.Context) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		large := s.tasks["large"]
		if large == nil {
			return errors.New("it has not been observed")
		}
		c := meta.FindStatusCondition(large.Status.Conditions, batch.TaskScheduled)
		if c == nil || c.Status != metav1.ConditionFalse || !strings.HasPrefix(c.Message, "0/2 workers are available: 2 had insufficient cpu") {
			return fmt.Errorf("the condition is %+v", c)
		}
		return nil
	})
	touch(t, s.path("reported"))
	// Updates of the large task must not release the reservation for it.
	updates := 0
	kit.Eventually(t, "the large task has succeeded", func(ctx context.Context) error {
		if s.count(func(task *batch.Task) bool { return task.Name == "large" && isSucceeded(task) }) == 1 {
			return nil
		}
		updates++
		patch := fmt.Appendf(nil, `{"metadata":{"annotations":{"update":"%d"}}}`, updates)
		if _, err := s.api.Tasks(s.namespace).Patch(ctx, "large", types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
			return err
		}
		return fmt.Errorf("it waits after %d updates", updates)
	})
}

// supervise starts a worker, and restarts it whenever it ends, as systemd or a kubelet does.
func (s *schedulerSuite) supervise(t *testing.T, name string, slots int) {
	t.Helper()
	process := s.env.StartWorker(t, s.env.Worker(t, s.namespace, name), s.namespace, name, nil, fmt.Sprintf("--tasks=%d", slots), "--state-dir="+t.TempDir())
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() {
		ended <- wait.PollUntilContextCancel(ctx, 50*time.Millisecond, true, func(ctx context.Context) (bool, error) {
			if process.Err() == nil {
				return false, nil
			}
			if err := process.Restart(ctx); err != nil && ctx.Err() == nil {
				t.Log(err) // it may end again before it is ready
			}
			return false, nil
		})
	}()
	t.Cleanup(func() {
		stop()
		<-ended
	})
}

// failsCrashingTask runs a task that kills each of its workers, until it fails. A task that ran beside it at the first
// crash must not run beside it again, and so counts at most one crash.
func (s *schedulerSuite) failsCrashingTask(t *testing.T) {
	for i := range 2 {
		s.supervise(t, fmt.Sprintf("supervised-%d", i), 4)
	}
	s.create(t, 4, "innocent", "until [ -e $DIR/crashed ]; do sleep 0.5; done; sleep 1")
	s.waitForTasks(t, "the innocent tasks run", 4, isRunning)
	crash := s.newTask("crash", "crash", "sleep 1; touch $DIR/crashed; kill -9 $PPID")
	crash.Spec.CrashLimit = ptr.To[int32](3)
	_, err := s.api.Tasks(s.namespace).Create(t.Context(), crash, metav1.CreateOptions{})
	kit.Check(t, err)
	beside := ""
	s.mu.Lock()
	s.invariant = func() string {
		for _, task := range s.tasks {
			for _, other := range s.tasks {
				if task != other && task.Status.WorkerCrashes > 0 && task.Spec.WorkerName != "" && task.Spec.WorkerName == other.Spec.WorkerName &&
					!task.Status.Phase.Finished() && !other.Status.Phase.Finished() {
					return fmt.Sprintf("%s runs beside %s, whose worker has crashed", other.Name, task.Name)
				}
			}
			if task.Name != "crash" && task.Status.WorkerCrashes == 1 {
				beside = task.Name
			}
		}
		return ""
	}
	s.mu.Unlock()
	s.waitForTasks(t, "the crashing task has failed", 1, func(task *batch.Task) bool { return task.Name == "crash" && task.Status.Phase == batch.TaskFailed })
	s.waitForTasks(t, "the innocent tasks have succeeded", 4, isSucceeded)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, task := range s.tasks {
		switch end := task.Status.State.Terminated; {
		case task.Name == "crash":
			if task.Status.WorkerCrashes != 3 || end.Reason != batch.TaskReasonWorkerCrashed || task.Spec.WorkerName == "" {
				t.Errorf("the crashing task: got status %+v", task.Status)
			}
		case task.Status.WorkerCrashes > 1:
			t.Errorf("%s counts %d crashes, want at most 1", task.Name, task.Status.WorkerCrashes)
		}
	}
	if beside == "" {
		t.Error("the test proves nothing: no task ran beside the crashing task at its first crash")
	}
}

// schedulerMetrics checks the metrics of the manager that led during schedulerAggregated.
func schedulerMetrics(t *testing.T, port string) {
	response := kit.Must(http.Get("http://127.0.0.1:" + port + "/metrics"))(t)
	defer response.Body.Close()
	body := string(kit.Must(io.ReadAll(response.Body))(t))
	for _, want := range []string{
		`leat_pending_tasks{namespace=`, `leat_running_tasks{namespace=`, `leat_oldest_pending_task_age_seconds{`,
		`leat_worker_slots{namespace=`, `leat_scheduling_attempt_duration_seconds_count{result="scheduled"} `, `leat_task_binding_duration_seconds_count `,
		`leat_task_scheduling_wait_seconds_count `, `leat_task_requeues_total{reason="TaskQueueStopped"} 6`, `leat_queue_evictions_total 6`,
	} {
		if !strings.Contains(body, "\n"+want) {
			t.Errorf("/metrics has no %s", want)
		}
	}
}

// frozenLeader freezes the leader until the other manager has taken over, wakes it, and then restarts both. No task
// may be bound twice, and no limit exceeded, whatever the first manager still sends when it wakes.
func (s *schedulerSuite) frozenLeader(t *testing.T, first, second *host.Process) {
	s.mu.Lock()
	s.invariant = func() string {
		if n := len(s.running("q")); n > 3 {
			return fmt.Sprintf("%d tasks run, and at most 3 may", n)
		}
		return ""
	}
	s.mu.Unlock()
	s.queue(t, "q", func(spec *batch.TaskQueueSpec) { spec.MaxRunningTasks = ptr.To[int32](3) })
	const tasks = 240
	s.create(t, tasks, "q", `echo "$TASK_NAME" >> "$DIR/ran"; sleep 0.2`)
	waitForBindings := func(n int) {
		t.Helper()
		kit.Eventually(t, fmt.Sprintf("%d tasks are bound", n), func(context.Context) error {
			if got := len(s.bound()); got < n {
				return fmt.Errorf("got %d", got)
			}
			return nil
		})
	}
	waitForBindings(20)
	kit.Check(t, first.Signal(syscall.SIGSTOP))
	waitForBindings(len(s.bound()) + 20) // by the other manager
	kit.Check(t, first.Signal(syscall.SIGCONT))
	waitForBindings(len(s.bound()) + 20)
	kit.Check(t, first.Restart(t.Context())) // it has exited because it lost the lease
	kit.Check(t, second.Restart(t.Context()))
	waitForBindings(len(s.bound()) + 20)
	s.waitForTasks(t, "all have succeeded", tasks, isSucceeded)
	if n := len(s.bound()); n != tasks {
		t.Errorf("got %d bindings of %d tasks", n, tasks)
	}
	if ran := s.lines(t, "ran"); len(ran) != tasks {
		t.Errorf("got %d commands for %d tasks", len(ran), tasks)
	}
}
