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
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit"
)

// taskSetSuite is a namespace with workers.
type taskSetSuite struct{ fixture }

func newTaskSetSuite(t *testing.T, e *kit.Env) *taskSetSuite {
	t.Helper()
	s := &taskSetSuite{newFixture(t, e, e.Namespace(t))}
	s.startAgents(t, map[string]batch.ResourceList{"one-abcde": slots(32), "two-abcde": slots(32)})
	return s
}

func taskSetStandalone(t *testing.T, e *kit.Env) {
	s := newTaskSetSuite(t, e)
	s.inParallel(t, slices.Concat(taskSetCases, []taskSetCase{
		{"failed indexes leave the others alone", (*taskSetSuite).failedIndexes},
		{"a failure is made up for", (*taskSetSuite).retriedFailure},
		{"an exit code fails the set", (*taskSetSuite).failurePolicy},
		{"some successes are enough", (*taskSetSuite).successPolicy},
		{"suspended and resumed", (*taskSetSuite).suspended},
		{"scaled", (*taskSetSuite).scaled},
		{"cancelled", (*taskSetSuite).cancelled},
		{"made smaller and scaled at once", (*taskSetSuite).madeSmaller},
		{"waiting tasks follow", (*taskSetSuite).waitingTasksFollow},
		{"whose tasks cannot be created", (*taskSetSuite).impossible},
		{"past its deadline", (*taskSetSuite).pastDeadline},
	}))
}

// taskSetAggregated runs what a host changes: quota, garbage collection, Events and kubectl.
func taskSetAggregated(t *testing.T, e *kit.Env) {
	s := newTaskSetSuite(t, e)
	t.Run("a quota is waited for and told", s.waitsForQuota) // it is gone when the others begin
	s.inParallel(t, slices.Concat(taskSetCases, []taskSetCase{
		{"one Event for each transition", (*taskSetSuite).hasEvents},
	}))
}

type taskSetCase struct {
	name string
	run  func(*taskSetSuite, *testing.T)
}

// taskSetCases run in both environments.
var taskSetCases = []taskSetCase{
	{"each index once", (*taskSetSuite).eachIndexOnce},
	{"past its time to live", (*taskSetSuite).pastTimeToLive},
	{"deleted, background", func(s *taskSetSuite, t *testing.T) { s.deleted(t, metav1.DeletePropagationBackground) }},
	{"deleted, foreground", func(s *taskSetSuite, t *testing.T) { s.deleted(t, metav1.DeletePropagationForeground) }},
	{"deleted, orphan", func(s *taskSetSuite, t *testing.T) { s.deleted(t, metav1.DeletePropagationOrphan) }},
	{"as kubectl sees it", (*taskSetSuite).kubectl},
}

func (s *taskSetSuite) inParallel(t *testing.T, cases []taskSetCase) {
	for _, test := range cases {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.run(s, t)
		})
	}
}

// script makes the task of each index run a shell script, which finds a directory of the test in $DIR.
func runsScript(text string) func(*batch.TaskSet) {
	return func(set *batch.TaskSet) { set.Spec.Template.Spec.Command = []string{"sh", "-c", text} }
}

// hang is a command that ends when it is told to, or when the test says so.
const hang = `trap 'exit 143' TERM; until [ -e "$DIR/go" ]; do sleep 0.1; done`

func counts(completions, parallelism int32) func(*batch.TaskSet) {
	return func(set *batch.TaskSet) {
		set.Spec.Completions, set.Spec.Parallelism = &completions, &parallelism
		set.Spec.CompletionMode = ptr.To(batch.IndexedCompletion)
	}
}

// create creates a set, and gives its name and the directory of its scripts.
func (s *taskSetSuite) create(t *testing.T, changes ...func(*batch.TaskSet)) (name, dir string) {
	t.Helper()
	name = strings.ToLower(strings.NewReplacer("/", "-", "_", "-", ",", "", "'", "").Replace(t.Name()))
	name = strings.Trim(name[max(0, len(name)-40):], "-")
	dir = t.TempDir()
	set := &batch.TaskSet{ObjectMeta: metav1.ObjectMeta{Name: name}}
	set.Spec.Template.Spec.Env = []batch.EnvVar{{Name: "DIR", Value: dir}}
	for _, change := range changes {
		change(set)
	}
	_, err := s.api.TaskSets(s.namespace).Create(t.Context(), set, metav1.CreateOptions{})
	kit.Check(t, err)
	t.Cleanup(func() {
		err := s.api.TaskSets(s.namespace).Delete(context.WithoutCancel(t.Context()), name, metav1.DeleteOptions{
			PropagationPolicy: ptr.To(metav1.DeletePropagationBackground),
		})
		if err != nil && !apierrors.IsNotFound(err) {
			t.Error(err)
		}
	})
	return name, dir
}

// change changes a set, as often as others change it meanwhile.
func (s *taskSetSuite) change(t *testing.T, name string, f func(*batch.TaskSet)) {
	t.Helper()
	kit.Eventually(t, "the set is changed", func(ctx context.Context) error {
		set, err := s.api.TaskSets(s.namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		f(set)
		_, err = s.api.TaskSets(s.namespace).Update(ctx, set, metav1.UpdateOptions{})
		return err
	})
}

// tasks gives the tasks of a set.
func (s *taskSetSuite) tasks(t *testing.T, name string) []batch.Task {
	t.Helper()
	list, err := s.api.Tasks(s.namespace).List(t.Context(), metav1.ListOptions{LabelSelector: batch.LabelTaskSetName + "=" + name})
	kit.Check(t, err)
	return list.Items
}

func (s *taskSetSuite) waitTasks(t *testing.T, name, what string, is func([]batch.Task) bool) {
	t.Helper()
	kit.Eventually(t, what, func(context.Context) error {
		if tasks := s.tasks(t, name); !is(tasks) {
			return fmt.Errorf("there are %d tasks", len(tasks))
		}
		return nil
	})
}

func none(tasks []batch.Task) bool { return len(tasks) == 0 }

// is waits for a condition.
func is(condition string) func(*batch.TaskSet) bool {
	return func(set *batch.TaskSet) bool { return meta.IsStatusConditionTrue(set.Status.Conditions, condition) }
}

func reason(set *batch.TaskSet, condition string) string {
	if c := meta.FindStatusCondition(set.Status.Conditions, condition); c != nil {
		return c.Reason
	}
	return ""
}

// effects gives how often each index has written to the file "effects" of the directory.
func effects(t *testing.T, dir string) map[int]int {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(dir, "effects"))
	kit.Check(t, err)
	seen := map[int]int{}
	for line := range strings.Lines(string(content)) {
		index, err := strconv.Atoi(strings.TrimSpace(line))
		kit.Check(t, err)
		seen[index]++
	}
	return seen
}

const effect = `echo "$TASK_INDEX" >> "$DIR/effects"`

func (s *taskSetSuite) eachIndexOnce(t *testing.T) {
	name, dir := s.create(t, counts(200, 16), runsScript(effect+`; [ "$JOB_COMPLETION_INDEX" = "$TASK_INDEX" ]`))
	set := s.waitForTaskSet(t, name, "the set is complete", is(batch.TaskSetComplete))
	if set.Status.Succeeded != 200 || set.Status.Failed != 0 || set.Status.CompletedIndexes != "0-199" || set.Status.CompletionTime == nil {
		t.Errorf("status: %+v", set.Status)
	}
	seen := effects(t, dir)
	for index := range 200 {
		if seen[index] != 1 {
			t.Errorf("index %d has run %d times", index, seen[index])
		}
	}
	s.waitTasks(t, name, "the tasks are gone", none)
}

func (s *taskSetSuite) failedIndexes(t *testing.T) {
	name, _ := s.create(t, counts(30, 8), runsScript(`[ $((TASK_INDEX % 10)) != 7 ] || { echo out of luck; exit 3; }`),
		func(set *batch.TaskSet) { set.Spec.BackoffLimitPerIndex = ptr.To[int32](0) })
	set := s.waitForTaskSet(t, name, "the set has failed", is(batch.TaskSetFailed))
	if set.Status.Succeeded != 27 || set.Status.Failed != 3 || ptr.Deref(set.Status.FailedIndexes, "") != "7,17,27" ||
		reason(set, batch.TaskSetFailed) != "FailedIndexes" || reason(set, batch.TaskSetFailureTarget) != "FailedIndexes" {
		t.Errorf("status: %+v", set.Status)
	}
	s.waitTasks(t, name, "the failed tasks are left", func(tasks []batch.Task) bool {
		return len(tasks) == 3 && !slices.ContainsFunc(tasks, func(task batch.Task) bool {
			return task.Status.Phase != batch.TaskFailed || !strings.Contains(task.Status.State.Terminated.Message, "out of luck")
		})
	})
}

func (s *taskSetSuite) retriedFailure(t *testing.T) {
	name, dir := s.create(t, counts(3, 3), runsScript(effect+`; [ $TASK_INDEX != 1 ] || mkdir "$DIR/tried" 2>&- && [ $TASK_INDEX != 1 ] || [ $(grep -c 1 "$DIR/effects") = 2 ]`))
	set := s.waitForTaskSet(t, name, "the set is complete", is(batch.TaskSetComplete))
	if set.Status.Succeeded != 3 || set.Status.Failed != 1 || set.Status.IndexFailures != "" {
		t.Errorf("status: %+v", set.Status)
	}
	if seen := effects(t, dir); seen[1] != 2 {
		t.Errorf("index 1 has run %d times", seen[1])
	}
	s.waitTasks(t, name, "the tasks are gone", none)
}

func (s *taskSetSuite) failurePolicy(t *testing.T) {
	name, _ := s.create(t, counts(6, 3), runsScript(`[ $TASK_INDEX != 2 ] || exit 42; `+hang), func(set *batch.TaskSet) {
		set.Spec.TaskFailurePolicy = &batch.TaskFailurePolicy{Rules: []batch.TaskFailurePolicyRule{{
			Action:      batch.TaskFailurePolicyActionFailTaskSet,
			OnExitCodes: &batch.TaskFailurePolicyOnExitCodesRequirement{Operator: batch.TaskFailurePolicyOnExitCodesOpIn, Values: []int32{42}},
		}}}
	})
	set := s.waitForTaskSet(t, name, "the set has failed", is(batch.TaskSetFailed))
	condition := meta.FindStatusCondition(set.Status.Conditions, batch.TaskSetFailed)
	if set.Status.Failed != 3 || condition.Reason != "TaskFailurePolicy" || !strings.Contains(condition.Message, "failed with exit code 42 matching FailTaskSet rule at index 0") {
		t.Errorf("status: %+v", set.Status)
	}
}

func (s *taskSetSuite) successPolicy(t *testing.T) {
	name, _ := s.create(t, counts(10, 6), runsScript(`[ $TASK_INDEX -lt 3 ] || { `+hang+`; }`), func(set *batch.TaskSet) {
		set.Spec.SuccessPolicy = &batch.SuccessPolicy{Rules: []batch.SuccessPolicyRule{{SucceededCount: ptr.To[int32](3)}}}
	})
	set := s.waitForTaskSet(t, name, "the set is complete", is(batch.TaskSetComplete))
	if set.Status.CompletedIndexes != "0-2" || set.Status.Failed != 0 || reason(set, batch.TaskSetComplete) != "SuccessPolicy" {
		t.Errorf("status: %+v", set.Status)
	}
	s.waitTasks(t, name, "the tasks are gone", none)
}

func (s *taskSetSuite) suspended(t *testing.T) {
	name, dir := s.create(t, counts(4, 2), runsScript(hang))
	ready := func(n int32) func(*batch.TaskSet) bool {
		return func(set *batch.TaskSet) bool { return set.Status.Active == n && ptr.Deref(set.Status.Ready, 0) == n }
	}
	s.waitForTaskSet(t, name, "two tasks run", ready(2))
	s.change(t, name, func(set *batch.TaskSet) { set.Spec.Suspend = ptr.To(true) })
	s.waitTasks(t, name, "its tasks are ended", none)
	set := s.waitForTaskSet(t, name, "the set is suspended", func(set *batch.TaskSet) bool {
		return is(batch.TaskSetSuspended)(set) && set.Status.Active == 0 && ptr.Deref(set.Status.Terminating, 0) == 0
	})
	if set.Status.StartTime != nil || set.Status.Failed != 0 || reason(set, batch.TaskSetSuspended) != "TaskSetSuspended" {
		t.Errorf("status: %+v", set.Status)
	}
	touch(t, filepath.Join(dir, "go"))
	s.change(t, name, func(set *batch.TaskSet) { set.Spec.Suspend = ptr.To(false) })
	set = s.waitForTaskSet(t, name, "the set is complete", is(batch.TaskSetComplete))
	if set.Status.Succeeded != 4 || reason(set, batch.TaskSetSuspended) != "TaskSetResumed" {
		t.Errorf("status: %+v", set.Status)
	}
}

func (s *taskSetSuite) scaled(t *testing.T) {
	name, dir := s.create(t, counts(8, 1), runsScript(hang))
	scale := func(n int32) {
		t.Helper()
		sets := s.api.TaskSets(s.namespace)
		kit.Eventually(t, "the set is scaled", func(ctx context.Context) error {
			scale, err := sets.GetScale(ctx, name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			scale.Spec.Replicas = n
			_, err = sets.UpdateScale(ctx, name, scale, metav1.UpdateOptions{})
			return err
		})
		s.waitForTaskSet(t, name, fmt.Sprintf("%d tasks run", n), func(set *batch.TaskSet) bool {
			return set.Status.Active == n && *set.Status.Ready == n && *set.Status.Terminating == 0
		})
	}
	scale(4)
	scale(0)
	scale(2)
	if got, err := s.api.TaskSets(s.namespace).GetScale(t.Context(), name, metav1.GetOptions{}); err != nil || got.Status.Replicas != 2 {
		t.Errorf("the scale is %+v, %v", got, err)
	}
	touch(t, filepath.Join(dir, "go"))
	if set := s.waitForTaskSet(t, name, "the set is complete", is(batch.TaskSetComplete)); set.Status.Succeeded != 8 || set.Status.Failed != 0 {
		t.Errorf("status: %+v", set.Status)
	}
}

func (s *taskSetSuite) cancelled(t *testing.T) {
	name, _ := s.create(t, counts(6, 3), runsScript(`[ $TASK_INDEX = 0 ] || { `+hang+`; }`))
	s.waitForTaskSet(t, name, "one has succeeded and three run", func(set *batch.TaskSet) bool {
		return set.Status.Succeeded == 1 && ptr.Deref(set.Status.Ready, 0) == 3
	})
	s.change(t, name, func(set *batch.TaskSet) { set.Spec.Cancelled = true })
	set := s.waitForTaskSet(t, name, "the set has failed", is(batch.TaskSetFailed))
	if set.Status.Succeeded != 1 || set.Status.Failed != 0 || set.Status.CompletedIndexes != "0" || is(batch.TaskSetReconciling)(set) ||
		reason(set, batch.TaskSetFailed) != "Cancelled" || reason(set, batch.TaskSetFailureTarget) != "Cancelled" {
		t.Errorf("status: %+v", set.Status)
	}
	s.waitTasks(t, name, "its tasks are ended", none)
	set.Spec.Cancelled = false
	if _, err := s.api.TaskSets(s.namespace).Update(t.Context(), set, metav1.UpdateOptions{}); !apierrors.IsInvalid(err) ||
		!strings.Contains(err.Error(), "spec.cancelled: Invalid value: false: must stay true") {
		t.Errorf("a set that runs again is answered %v", err)
	}
	s.change(t, name, func(set *batch.TaskSet) { set.Spec.TTLSecondsAfterFinished = ptr.To[int32](0) })
	s.waitForTaskSetGone(t, name)
}

func (s *taskSetSuite) madeSmaller(t *testing.T) {
	name, dir := s.create(t, counts(8, 8), runsScript(`[ $TASK_INDEX -gt 1 ] || { `+hang+`; }`))
	s.waitForTaskSet(t, name, "six have succeeded", func(set *batch.TaskSet) bool { return set.Status.Succeeded == 6 })
	s.change(t, name, counts(2, 2))
	s.change(t, name, func(set *batch.TaskSet) { set.Spec.Parallelism = ptr.To[int32](1) })
	s.waitForTaskSet(t, name, "they are forgotten", func(set *batch.TaskSet) bool { return set.Status.Succeeded == 0 })
	touch(t, filepath.Join(dir, "go"))
	if set := s.waitForTaskSet(t, name, "the set is complete", is(batch.TaskSetComplete)); set.Status.CompletedIndexes != "0,1" {
		t.Errorf("status: %+v", set.Status)
	}
}

func (s *taskSetSuite) waitingTasksFollow(t *testing.T) {
	name, _ := s.create(t, counts(9, 3), runsScript("true"), func(set *batch.TaskSet) {
		set.Spec.Template.Spec.WorkerSelector = map[string]string{"no": "such"}
	})
	follow := func(queue string, priority int32) func([]batch.Task) bool {
		return func(tasks []batch.Task) bool {
			return len(tasks) == 3 && !slices.ContainsFunc(tasks, func(task batch.Task) bool {
				return task.Spec.QueueName != queue || task.Spec.Priority != priority
			})
		}
	}
	s.waitTasks(t, name, "three tasks wait", follow("default", 0))
	s.change(t, name, func(set *batch.TaskSet) { set.Spec.QueueName, set.Spec.Template.Spec.Priority = "other", 5 })
	s.waitTasks(t, name, "they are in the other queue", follow("other", 5))
}

func (s *taskSetSuite) impossible(t *testing.T) {
	set := &batch.TaskSet{ObjectMeta: metav1.ObjectMeta{Name: "impossible"}}
	counts(1, 1)(set)
	runsScript("true")(set)
	for i := range 4095 {
		set.Spec.Template.Spec.Env = append(set.Spec.Template.Spec.Env, batch.EnvVar{Name: fmt.Sprintf("V%d", i)})
	}
	if _, err := s.api.TaskSets(s.namespace).Create(t.Context(), set, metav1.CreateOptions{}); !apierrors.IsInvalid(err) ||
		!strings.Contains(err.Error(), "spec.template.spec.env: Invalid value: must have at most 4094 variables, and has 4095") {
		t.Errorf("the set is answered %v", err)
	}
}

func (s *taskSetSuite) pastDeadline(t *testing.T) {
	name, _ := s.create(t, counts(4, 2), runsScript(hang), func(set *batch.TaskSet) { set.Spec.ActiveDeadlineSeconds = ptr.To[int64](2) })
	set := s.waitForTaskSet(t, name, "the set has failed", is(batch.TaskSetFailed))
	if reason(set, batch.TaskSetFailed) != "DeadlineExceeded" || set.Status.Failed != 2 || set.Status.Active != 0 {
		t.Errorf("status: %+v", set.Status)
	}
	s.waitTasks(t, name, "its tasks are gone", none)
}

func (s *taskSetSuite) pastTimeToLive(t *testing.T) {
	name, _ := s.create(t, counts(4, 4), runsScript(`[ $TASK_INDEX != 2 ]`), func(set *batch.TaskSet) {
		set.Spec.BackoffLimitPerIndex, set.Spec.TTLSecondsAfterFinished = ptr.To[int32](0), ptr.To[int32](1)
	})
	s.gone(t, name)
}

func (s *taskSetSuite) deleted(t *testing.T, policy metav1.DeletionPropagation) {
	name, dir := s.create(t, counts(20, 3), runsScript(hang))
	s.waitForTaskSet(t, name, "three tasks run", func(set *batch.TaskSet) bool { return ptr.Deref(set.Status.Ready, 0) == 3 })
	kit.Check(t, s.api.TaskSets(s.namespace).Delete(t.Context(), name, metav1.DeleteOptions{PropagationPolicy: &policy}))
	if policy != metav1.DeletePropagationOrphan {
		s.gone(t, name)
		return
	}
	s.waitForTaskSetGone(t, name)
	touch(t, filepath.Join(dir, "go"))
	s.waitTasks(t, name, "its tasks end by themselves", func(tasks []batch.Task) bool {
		return len(tasks) == 3 && !slices.ContainsFunc(tasks, func(task batch.Task) bool {
			return task.Status.Phase != batch.TaskSucceeded || len(task.OwnerReferences) > 0
		})
	})
}

func (s *taskSetSuite) kubectl(t *testing.T) {
	name, _ := s.create(t, counts(5, 5), runsScript("true"))
	kubeconfig := s.env.Kubeconfig(t, s.env.Admin(t), s.namespace)
	if _, _, err := s.env.Kubectl(t, kubeconfig, "", "wait", "--for=condition=Complete", "--timeout=2m", "tks/"+name); err != nil {
		t.Fatal(err)
	}
	out, _, err := s.env.Kubectl(t, kubeconfig, "", "get", "tks", name, "--no-headers")
	if fields := strings.Fields(out); err != nil || len(fields) != 7 || fields[1] != "Complete" || fields[2] != "5/5" {
		t.Errorf("kubectl get tks printed %q, %v", out, err)
	}
}

// gone waits until the set and its tasks are gone.
func (s *taskSetSuite) gone(t *testing.T, name string) {
	t.Helper()
	s.waitForTaskSetGone(t, name)
	s.waitTasks(t, name, "its tasks are gone", none)
}

func (s *taskSetSuite) waitsForQuota(t *testing.T) {
	admin := hostAdmin(t, s.env)
	quotas := admin.CoreV1().ResourceQuotas(s.namespace)
	_, err := quotas.Create(t.Context(), &corev1.ResourceQuota{
		ObjectMeta: metav1.ObjectMeta{Name: "few"},
		Spec:       corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{"count/tasks.batch.leat.dev": resource.MustParse("3")}},
	}, metav1.CreateOptions{})
	kit.Check(t, err)
	t.Cleanup(func() { kit.Check(t, quotas.Delete(context.WithoutCancel(t.Context()), "few", metav1.DeleteOptions{})) })
	kit.Eventually(t, "the quota is known", func(ctx context.Context) error {
		quota, err := quotas.Get(ctx, "few", metav1.GetOptions{})
		if err == nil && len(quota.Status.Used) == 0 {
			err = fmt.Errorf("it is not")
		}
		return err
	})
	name, dir := s.create(t, counts(6, 6), runsScript(hang))
	set := s.waitForTaskSet(t, name, "the set says what it waits for", is(batch.TaskSetReplicaFailure))
	if message := meta.FindStatusCondition(set.Status.Conditions, batch.TaskSetReplicaFailure).Message; !strings.Contains(message, "exceeded quota: few") {
		t.Errorf("the message is %q", message)
	}
	if tasks := s.tasks(t, name); len(tasks) > 3 {
		t.Errorf("there are %d tasks", len(tasks))
	}
	touch(t, filepath.Join(dir, "go"))
	set = s.waitForTaskSet(t, name, "the set is complete", is(batch.TaskSetComplete))
	if is(batch.TaskSetReplicaFailure)(set) || set.Status.Succeeded != 6 {
		t.Errorf("status: %+v", set.Status)
	}
}

func (s *taskSetSuite) hasEvents(t *testing.T) {
	admin := hostAdmin(t, s.env)
	name, _ := s.create(t, counts(50, 10), runsScript("true"))
	s.waitForTaskSet(t, name, "the set is complete", is(batch.TaskSetComplete))
	kit.Eventually(t, "its Event is there", func(ctx context.Context) error {
		list, err := admin.EventsV1().Events(s.namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		var seen []string
		for _, event := range list.Items {
			if event.Regarding.Kind != "TaskSet" {
				t.Errorf("an Event about a %s: %s", event.Regarding.Kind, event.Note)
			}
			if event.Regarding.Name == name {
				seen = append(seen, event.Reason+": "+event.Note)
			}
		}
		if !slices.Equal(seen, []string{"Completed: TaskSet completed"}) {
			return fmt.Errorf("the Events are %q", seen)
		}
		return nil
	})
}
