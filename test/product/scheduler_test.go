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

func schedulerStandalone(t *testing.T, e *kit.Env) {
	for _, test := range []struct {
		name  string
		run   func(*schedulerSuite, *testing.T)
		slots []int64
	}{
		{"queues are served by weight", (*schedulerSuite).servedByWeight, []int64{8, 8}},
		{"hold", (*schedulerSuite).holds, []int64{4}},
		{"limits", (*schedulerSuite).keepsLimits, []int64{8}},
		{"a large task among small ones", (*schedulerSuite).startsLarge, []int64{4, 4}},
		{"a task that takes its worker down", (*schedulerSuite).failsWhatCrashes, nil},
		{"hold and drain", (*schedulerSuite).drains, []int64{4, 4}},
		{"status", (*schedulerSuite).tellsStatus, []int64{3}},
		{"too many pending tasks", (*schedulerSuite).pushesBack, []int64{4}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.run(newSchedulerSuite(t, e, test.slots...), t)
		})
	}
}

// schedulerAggregated runs what a host may change: the rights for bindings, evictions and status, kubectl, and the answer to too many
// tasks.
func schedulerAggregated(t *testing.T, e *kit.Env) {
	t.Run("hold and drain", func(t *testing.T) { newSchedulerSuite(t, e, 4, 4).drains(t) })
	t.Run("status", func(t *testing.T) { newSchedulerSuite(t, e, 3).tellsStatus(t) })
	t.Run("too many pending tasks", func(t *testing.T) { newSchedulerSuite(t, e, 4).pushesBack(t) })
}

// scene is a namespace with workers, which have as many cpus as places, and a record of what becomes of its tasks.
type schedulerSuite struct {
	fixture
	dir string

	mu     sync.Mutex
	tasks  map[string]*batch.Task
	starts []*batch.Task // at each binding, in the order of the server
	wrong  []string
	// check is asked after each event whether all is well.
	check func() string
}

func newSchedulerSuite(t *testing.T, e *kit.Env, places ...int64) *schedulerSuite {
	t.Helper()
	s := &schedulerSuite{
		fixture: newFixture(t, e, e.Namespace(t)), dir: t.TempDir(), tasks: map[string]*batch.Task{}, check: func() string { return "" },
	}
	s.observe(t)
	capacities := map[string]batch.ResourceList{}
	for i, n := range places {
		amount := *resource.NewQuantity(n, resource.DecimalSI)
		capacities[fmt.Sprintf("w%d-abcde", i)] = batch.ResourceList{batch.ResourceTasks: amount, batch.ResourceCPU: amount}
	}
	s.startAgents(t, capacities)
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		kit.Check(t, s.api.TaskSets(s.namespace).DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}))
		kit.Check(t, s.api.Tasks(s.namespace).DeleteCollection(ctx, metav1.DeleteOptions{GracePeriodSeconds: new(int64)}, metav1.ListOptions{}))
	})
	return s
}

// observe follows the tasks of the namespace by a watch of its own, and notes what must never be: a task given from one worker to
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
				s.note(fmt.Sprintf("the watch ended with %+v", event.Object))
				continue
			}
			s.take(event.Type, task)
		}
	}()
	t.Cleanup(func() {
		close(stopped)
		events.Stop()
		<-done
		for _, wrong := range s.wrong {
			t.Error(wrong)
		}
	})
}

func (s *schedulerSuite) note(wrong string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wrong = append(s.wrong, wrong)
}

func (s *schedulerSuite) take(event watch.EventType, task *batch.Task) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.tasks[task.Name]
	if before != nil && before.UID == task.UID && before.Spec.WorkerName != "" && task.Spec.WorkerName != "" &&
		(before.Spec.WorkerName != task.Spec.WorkerName || before.Status.Incarnation != task.Status.Incarnation) {
		s.wrong = append(s.wrong, fmt.Sprintf("task %s went from worker %s to %s", task.Name, before.Spec.WorkerName, task.Spec.WorkerName))
	}
	if event == watch.Deleted {
		delete(s.tasks, task.Name)
		return
	}
	s.tasks[task.Name] = task
	if task.Spec.WorkerName != "" && (before == nil || before.Spec.WorkerName == "") {
		s.starts = append(s.starts, task)
	}
	if wrong := s.check(); wrong != "" {
		s.wrong = append(s.wrong, wrong)
	}
}

// running gives the tasks of a queue that are bound and not finished. It is called by check, or with mu locked.
func (s *schedulerSuite) running(queue string) (tasks []*batch.Task) {
	for _, task := range s.tasks {
		if task.Spec.QueueName == queue && task.Spec.WorkerName != "" && !task.Status.Phase.Finished() {
			tasks = append(tasks, task)
		}
	}
	return tasks
}

// seen counts the tasks that the watch shows and that are as asked.
func (s *schedulerSuite) seen(is func(*batch.Task) bool) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, task := range s.tasks {
		if is(task) {
			n++
		}
	}
	return n
}

func (s *schedulerSuite) started() []*batch.Task {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.starts)
}

func (s *schedulerSuite) queue(t *testing.T, name string, change func(*batch.TaskQueueSpec)) {
	t.Helper()
	queue := &batch.TaskQueue{ObjectMeta: metav1.ObjectMeta{Name: name}}
	change(&queue.Spec)
	_, err := s.api.TaskQueues(s.namespace).Create(t.Context(), queue, metav1.CreateOptions{})
	kit.Check(t, err)
}

func (s *schedulerSuite) change(t *testing.T, name string, change func(*batch.TaskQueueSpec)) {
	t.Helper()
	kit.Eventually(t, "the queue is changed", func(ctx context.Context) error {
		queue, err := s.api.TaskQueues(s.namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		change(&queue.Spec)
		_, err = s.api.TaskQueues(s.namespace).Update(ctx, queue, metav1.UpdateOptions{})
		return err
	})
}

func withStopPolicy(policy batch.StopPolicy) func(*batch.TaskQueueSpec) {
	return func(spec *batch.TaskQueueSpec) { spec.StopPolicy = &policy }
}

// newTask makes a task that runs a shell script, which finds a directory of the test in $DIR.
func (s *schedulerSuite) newTask(name, queue, script string) *batch.Task {
	return &batch.Task{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: batch.TaskSpec{
			QueueName: queue, Command: []string{"sh", "-c", script}, Env: []batch.EnvVar{{Name: "DIR", Value: s.dir}},
		},
	}
}

// create creates tasks, eight at a time.
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

// lines gives what the scripts have written to a file.
func (s *schedulerSuite) lines(t *testing.T, file string) []string {
	t.Helper()
	content, err := os.ReadFile(s.path(file))
	if !os.IsNotExist(err) {
		kit.Check(t, err)
	}
	return strings.Fields(string(content))
}

func (s *schedulerSuite) eventually(t *testing.T, what string, want int, is func(*batch.Task) bool) {
	t.Helper()
	kit.Eventually(t, what, func(context.Context) error {
		if n := s.seen(is); n != want {
			return fmt.Errorf("it is so of %d tasks, not of %d", n, want)
		}
		return nil
	})
}

func says(message string) func(*batch.Task) bool {
	return func(task *batch.Task) bool {
		c := meta.FindStatusCondition(task.Status.Conditions, batch.TaskScheduled)
		return c != nil && c.Status == metav1.ConditionFalse && c.Reason == batch.TaskReasonUnschedulable && c.Message == message
	}
}

func (s *schedulerSuite) servedByWeight(t *testing.T) {
	for name, weight := range map[string]int32{"one": 1, "three": 3} {
		s.queue(t, name, func(spec *batch.TaskQueueSpec) {
			spec.Weight, spec.StopPolicy = &weight, ptr.To(batch.StopPolicyHold)
		})
	}
	s.create(t, 75, "one", "sleep 0.1") // the older ones
	s.create(t, 225, "three", "sleep 0.1")
	if n := len(s.started()); n > 0 {
		t.Fatalf("%d tasks were started while their queues were held", n)
	}
	for _, name := range []string{"one", "three"} {
		s.change(t, name, withStopPolicy(batch.StopPolicyNone))
	}
	s.eventually(t, "all have run", 300, isSucceeded)
	starts, n := s.started()[16:240], 0 // the first queue was let go a moment earlier
	for _, task := range starts {
		if task.Spec.QueueName == "one" {
			n++
		}
	}
	if share := float64(n) / float64(len(starts)); share < 0.20 || share > 0.30 {
		t.Errorf("the queue of weight 1 beside one of weight 3 had %.2f of the starts", share)
	}
}

func (s *schedulerSuite) holds(t *testing.T) {
	s.queue(t, "q", withStopPolicy(batch.StopPolicyNone))
	s.create(t, 90, "q", "sleep 0.1")
	kit.Eventually(t, "some are started", func(context.Context) error {
		if n := len(s.started()); n < 20 {
			return fmt.Errorf("%d are", n)
		}
		return nil
	})
	s.change(t, "q", withStopPolicy(batch.StopPolicyHold))
	held := time.Now()
	s.eventually(t, "those that run end", 0, func(task *batch.Task) bool { return task.Spec.WorkerName != "" && !task.Status.Phase.Finished() })
	n := len(s.started())
	if n > 60 {
		t.Errorf("%d tasks were started", n)
	}
	s.eventually(t, "the others say why they wait", 90-n, says("Queue q is held (stopPolicy Hold)."))
	if again := len(s.started()); again != n {
		t.Errorf("%d more tasks were started while the queue was held", again-n)
	}
	for _, task := range s.started() {
		at := meta.FindStatusCondition(task.Status.Conditions, batch.TaskScheduled).LastTransitionTime
		if at.Sub(held) > time.Second { // times have whole seconds
			t.Errorf("%s was started at %s, the queue was held at %s", task.Name, at, held)
		}
	}
	s.change(t, "q", withStopPolicy(batch.StopPolicyNone))
	s.eventually(t, "all have run", 90, isSucceeded)
}

func (s *schedulerSuite) drains(t *testing.T) {
	s.queue(t, "q", withStopPolicy(batch.StopPolicyNone))
	// Two that run a task at a time would meet in its directory.
	const script = `mkdir "$DIR/$TASK_NAME" || echo "$TASK_NAME" >> "$DIR/met"
		echo $$$$ > "$DIR/$TASK_NAME.pid"
		echo "$TASK_NAME" >> "$DIR/ran"
		trap 'rmdir "$DIR/$TASK_NAME"; exit 1' TERM
		until [ -e "$DIR/go" ]; do sleep 0.05; done
		rmdir "$DIR/$TASK_NAME"`
	s.create(t, 6, "q", script)
	s.create(t, 2, "other", `until [ -e "$DIR/go" ]; do sleep 0.1; done`)
	kit.Eventually(t, "all run", func(context.Context) error {
		if ran := s.lines(t, "ran"); len(ran) != 6 {
			return fmt.Errorf("%d do", len(ran))
		}
		return nil
	})
	s.change(t, "q", withStopPolicy(batch.StopPolicyHoldAndDrain))
	isBack := func(task *batch.Task) bool {
		d := meta.FindStatusCondition(task.Status.Conditions, batch.DisruptionTarget)
		return task.Spec.QueueName == "q" && task.Spec.WorkerName == "" && task.Status.Phase == batch.TaskPending && task.Status.Disruptions == 1 &&
			d != nil && d.Reason == "TaskQueueStopped"
	}
	s.eventually(t, "all of the queue are back", 6, isBack)
	s.eventually(t, "those of the other queue go on", 2, func(task *batch.Task) bool { return task.Spec.QueueName == "other" && task.Spec.WorkerName != "" })
	kit.Eventually(t, "the commands are gone", func(context.Context) error {
		for i := range 6 {
			pid, err := strconv.Atoi(s.lines(t, fmt.Sprintf("q-%04d.pid", i))[0])
			kit.Check(t, err)
			if syscall.Kill(pid, 0) == nil {
				return fmt.Errorf("process %d is there", pid)
			}
		}
		return nil
	})
	// What was killed could not clear up.
	for i := range 6 {
		if err := os.Remove(s.path(fmt.Sprintf("q-%04d", i))); err != nil && !os.IsNotExist(err) {
			t.Error(err)
		}
	}
	touch(t, s.path("go"))
	s.change(t, "q", withStopPolicy(batch.StopPolicyNone))
	s.eventually(t, "all have run to the end, although they may not be tried again", 8, isSucceeded)
	if ran := s.lines(t, "ran"); len(ran) != 12 {
		t.Errorf("there were %d starts, want two of each task: %q", len(ran), ran)
	}
	if met := s.lines(t, "met"); len(met) > 0 {
		t.Errorf("tasks ran twice at a time: %q", met)
	}
}

func (s *schedulerSuite) keepsLimits(t *testing.T) {
	most := map[string]int{}
	s.mu.Lock()
	s.check = func() string {
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
	hopeless := s.newTask("hopeless", "cpu", "true")
	ask("5")(hopeless)
	_, err := s.api.Tasks(s.namespace).Create(t.Context(), hopeless, metav1.CreateOptions{})
	kit.Check(t, err)
	s.eventually(t, "all have run", 90, isSucceeded)
	s.eventually(t, "the one past the limit says so", 1, says("Queue cpu is limited to 4 cpu, and the task requests 5."))
	s.mu.Lock()
	defer s.mu.Unlock()
	if most["few"] != 3 || most["cpu"] != 4 {
		t.Errorf("the limits were not made use of: at most %v", most)
	}
}

func (s *schedulerSuite) tellsStatus(t *testing.T) {
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
	status("the queue counts", func(status *batch.TaskQueueStatus) bool { return status.Pending == 3 && status.Running == 2 })
	oldest := kit.Must(s.api.Tasks(s.namespace).List(t.Context(), metav1.ListOptions{FieldSelector: "spec.workerName=,spec.queueName=q"}))(t).Items[0].CreationTimestamp
	if cpu := queue.Status.Used[batch.ResourceCPU]; cpu.String() != "1" || queue.Status.OldestPendingTime.Sub(oldest.Time).Abs() > time.Second {
		t.Errorf("the status is %+v", queue.Status)
	}
	s.eventually(t, "the tasks say why they wait", 3, says("Queue q runs 2 of at most 2 tasks."))

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
		t.Errorf("kubectl get tq prints %q", fields)
	}
	s.change(t, "q", withStopPolicy(batch.StopPolicyNone))
	touch(t, s.path("go"))
	status("the queue is empty", func(status *batch.TaskQueueStatus) bool {
		return status.Pending == 0 && status.Running == 0 && status.OldestPendingTime == nil && len(status.Used) == 0
	})
	at := queue.ResourceVersion
	// Other queues cost this one nothing.
	s.create(t, 20, "other", "true")
	s.eventually(t, "the others have run", 25, isSucceeded)
	if queue = kit.Must(s.api.TaskQueues(s.namespace).Get(t.Context(), "q", metav1.GetOptions{}))(t); queue.ResourceVersion != at {
		t.Errorf("the status was written although nothing has changed: %+v", queue.Status)
	}
}

func (s *schedulerSuite) pushesBack(t *testing.T) {
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
				response.Header.Del("Retry-After") // the client is not to try again
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
		kit.Eventually(t, "those before are known", func(ctx context.Context) error {
			queue, err := s.api.TaskQueues(s.namespace).Get(ctx, "q", metav1.GetOptions{})
			if err == nil && int(queue.Status.Pending) != i {
				err = fmt.Errorf("pending is %d", queue.Status.Pending)
			}
			return err
		})
		kit.Check(t, try(fmt.Sprint("t-", i), "q"))
	}
	kit.Eventually(t, "a dry run is refused", func(context.Context) error {
		err := try("more", "q", metav1.DryRunAll)
		if err == nil {
			return fmt.Errorf("it is not")
		}
		if !apierrors.IsTooManyRequests(err) || !strings.Contains(err.Error(), "queue q has 5 pending tasks of at most 5 (maxPendingTasks)") {
			t.Fatalf("got %v", err)
		}
		return nil
	})
	if err := try("more", "q"); !apierrors.IsTooManyRequests(err) {
		t.Errorf("a sixth task: %v", err)
	}
	mu.Lock()
	if seconds, err := strconv.Atoi(retryAfter); err != nil || seconds < 1 || seconds > 5 {
		t.Errorf("Retry-After is %q", retryAfter)
	}
	mu.Unlock()
	kit.Check(t, try("elsewhere", "other"))

	// kubectl waits until there is room.
	kubeconfig := s.env.Kubeconfig(t, s.env.Admin(t), s.namespace)
	created := make(chan error)
	go func() {
		_, _, err := s.env.Kubectl(t, kubeconfig, fmt.Sprintf(`{"apiVersion":"batch.leat.dev/v1alpha1","kind":"Task","metadata":{"name":"by-kubectl","namespace":%q},
			"spec":{"queueName":"q","command":["true"]}}`, s.namespace), "create", "-f", "-")
		created <- err
	}()
	s.change(t, "q", withStopPolicy(batch.StopPolicyNone))
	kit.Check(t, <-created)
	s.eventually(t, "all have run", 7, isSucceeded)

	// A set waits, says so, and completes.
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
		t.Errorf("the condition of the set is %+v", failure)
	}
	waitSet(batch.TaskSetComplete)
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(request *http.Request) (*http.Response, error) { return f(request) }

func (s *schedulerSuite) startsLarge(t *testing.T) {
	set := &batch.TaskSet{ObjectMeta: metav1.ObjectMeta{Name: "small"}}
	set.Spec.Parallelism, set.Spec.Completions = ptr.To[int32](16), ptr.To[int32](100_000)
	set.Spec.QueueName = "q"
	// They do not end before the large one has said why it waits, and then not together.
	set.Spec.Template.Spec = s.newTask("", "q", `while ! [ -e "$DIR/told" ]; do sleep 0.1; done; sleep 0.$((3 + TASK_INDEX % 7))`).Spec
	set.Spec.Template.Spec.Resources.Requests = batch.ResourceList{batch.ResourceCPU: resource.MustParse("1")}
	_, err := s.api.TaskSets(s.namespace).Create(t.Context(), set, metav1.CreateOptions{})
	kit.Check(t, err)
	kit.Eventually(t, "the workers are full", func(context.Context) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if running := len(s.running("q")); running < 8 {
			return fmt.Errorf("%d tasks run", running)
		}
		return nil
	})
	large := s.newTask("large", "q", "true")
	large.Spec.Resources.Requests = batch.ResourceList{batch.ResourceCPU: resource.MustParse("4")}
	_, err = s.api.Tasks(s.namespace).Create(t.Context(), large, metav1.CreateOptions{})
	kit.Check(t, err)
	kit.Eventually(t, "the large one says why it waits", func(context.Context) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		large := s.tasks["large"]
		if large == nil {
			return errors.New("it has not been seen")
		}
		c := meta.FindStatusCondition(large.Status.Conditions, batch.TaskScheduled)
		if c == nil || c.Status != metav1.ConditionFalse || !strings.HasPrefix(c.Message, "0/2 workers are available: 2 had insufficient cpu") {
			return fmt.Errorf("the condition is %+v", c)
		}
		return nil
	})
	touch(t, s.path("told"))
	// Meanwhile it is updated all the time, which must not cost it the room that is kept for it.
	updates := 0
	kit.Eventually(t, "the large one has run", func(ctx context.Context) error {
		if s.seen(func(task *batch.Task) bool { return task.Name == "large" && isSucceeded(task) }) == 1 {
			return nil
		}
		updates++
		patch := fmt.Appendf(nil, `{"metadata":{"annotations":{"update":"%d"}}}`, updates)
		if _, err := s.api.Tasks(s.namespace).Patch(ctx, "large", types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
			return err
		}
		return fmt.Errorf("it has not, after %d updates", updates)
	})
}

// supervise starts a worker that is started again whenever it ends, as systemd or a kubelet does.
func (s *schedulerSuite) supervise(t *testing.T, name string, places int) {
	t.Helper()
	process := s.env.StartWorker(t, s.env.Worker(t, s.namespace, name), s.namespace, name, nil, fmt.Sprintf("--tasks=%d", places), "--state-dir="+t.TempDir())
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() {
		ended <- wait.PollUntilContextCancel(ctx, 50*time.Millisecond, true, func(ctx context.Context) (bool, error) {
			if process.Err() == nil {
				return false, nil
			}
			if err := process.Restart(ctx); err != nil && ctx.Err() == nil {
				t.Log(err) // it may have ended again before it was ready
			}
			return false, nil
		})
	}()
	t.Cleanup(func() {
		stop()
		<-ended
	})
}

// failsWhatCrashes: a task that kills its worker, whichever it is, fails in the end. Tasks that ran beside it when it did so first are
// not counted with it again.
func (s *schedulerSuite) failsWhatCrashes(t *testing.T) {
	for i := range 2 {
		s.supervise(t, fmt.Sprintf("supervised-%d", i), 4)
	}
	s.create(t, 4, "innocent", "until [ -e $DIR/crashed ]; do sleep 0.5; done; sleep 1")
	s.eventually(t, "the innocent run", 4, isRunning)
	crash := s.newTask("crash", "crash", "sleep 1; touch $DIR/crashed; kill -9 $PPID")
	crash.Spec.CrashLimit = ptr.To[int32](3)
	_, err := s.api.Tasks(s.namespace).Create(t.Context(), crash, metav1.CreateOptions{})
	kit.Check(t, err)
	beside := ""
	s.mu.Lock()
	s.check = func() string {
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
	s.eventually(t, "it has failed", 1, func(task *batch.Task) bool { return task.Name == "crash" && task.Status.Phase == batch.TaskFailed })
	s.eventually(t, "the innocent have succeeded", 4, isSucceeded)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, task := range s.tasks {
		switch end := task.Status.State.Terminated; {
		case task.Name == "crash":
			if task.Status.WorkerCrashes != 3 || end.Reason != batch.TaskReasonWorkerCrashed || task.Spec.WorkerName == "" {
				t.Errorf("the task that crashes is %+v", task.Status)
			}
		case task.Status.WorkerCrashes > 1:
			t.Errorf("%s was counted %d times", task.Name, task.Status.WorkerCrashes)
		}
	}
	if beside == "" {
		t.Error("nothing ran beside the task when it crashed first: the test shows nothing")
	}
}

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
			t.Errorf("/metrics does not say %s", want)
		}
	}
}

// The leader is killed, and frozen for longer than its lease: another takes over, and whatever the first still sends when it wakes, no task
// is bound twice and no limit exceeded.
func (s *schedulerSuite) anotherLeader(t *testing.T, first, second *host.Process) {
	s.mu.Lock()
	s.check = func() string {
		if n := len(s.running("q")); n > 3 {
			return fmt.Sprintf("%d tasks run", n)
		}
		return ""
	}
	s.mu.Unlock()
	s.queue(t, "q", func(spec *batch.TaskQueueSpec) { spec.MaxRunningTasks = ptr.To[int32](3) })
	const tasks = 240
	s.create(t, tasks, "q", `echo "$TASK_NAME" >> "$DIR/ran"; sleep 0.2`)
	bound := func(n int) {
		t.Helper()
		kit.Eventually(t, fmt.Sprintf("%d tasks are started", n), func(context.Context) error {
			if got := len(s.started()); got < n {
				return fmt.Errorf("%d are", got)
			}
			return nil
		})
	}
	bound(20)
	kit.Check(t, first.Signal(syscall.SIGSTOP))
	bound(len(s.started()) + 20) // by the other one
	kit.Check(t, first.Signal(syscall.SIGCONT))
	bound(len(s.started()) + 20)
	kit.Check(t, first.Restart(t.Context())) // it has ended when it saw that it was not the leader any more
	kit.Check(t, second.Restart(t.Context()))
	bound(len(s.started()) + 20)
	s.eventually(t, "all have run", tasks, isSucceeded)
	if n := len(s.started()); n != tasks {
		t.Errorf("there were %d bindings of %d tasks", n, tasks)
	}
	if ran := s.lines(t, "ran"); len(ran) != tasks {
		t.Errorf("%d commands have run for %d tasks", len(ran), tasks)
	}
}
