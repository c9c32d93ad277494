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

// taskSetSuite runs task sets in a namespace with two workers.
type taskSetSuite struct{ fixture }

func newTaskSetSuite(t *testing.T, e *kit.Env) *taskSetSuite {
	t.Helper()
	s := &taskSetSuite{newFixture(t, e, e.Namespace(t))}
	s.startWorkers(t, map[string][]string{"one-abcde": {"--tasks=32"}, "two-abcde": {"--tasks=32"}})
	return s
}

// taskSetStandalone runs all cases.
func taskSetStandalone(t *testing.T, e *kit.Env) {
	s := newTaskSetSuite(t, e)
	s.inParallel(t, slices.Concat(taskSetCases, []taskSetCase{
		{"failed indexes do not stop the others", (*taskSetSuite).failedIndexes},
		{"a failed index is retried", (*taskSetSuite).retriedFailure},
		{"an exit code fails the set", (*taskSetSuite).failurePolicy},
		{"enough indexes complete the set", (*taskSetSuite).successPolicy},
		{"suspend and resume", (*taskSetSuite).suspended},
		{"scale", (*taskSetSuite).scaled},
		{"cancel", (*taskSetSuite).cancelled},
		{"fewer completions and less parallelism at once", (*taskSetSuite).shrunk},
		{"pending tasks follow queue and priority", (*taskSetSuite).pendingTasksFollow},
		{"a set whose tasks would be invalid", (*taskSetSuite).invalidTasks},
		{"active deadline", (*taskSetSuite).activeDeadline},
		{"a diamond of sets", (*taskSetSuite).diamond},
		{"sets whose dependency fails", (*taskSetSuite).dependencyFails},
		{"a dependency that comes and goes", (*taskSetSuite).dependencyComesAndGoes},
		{"each index follows that of another set", (*taskSetSuite).followsEachIndex},
		{"cancelled indexes", (*taskSetSuite).cancelledIndexes},
	}))
}

// taskSetAggregated runs the cases that a host cluster can change: quota, garbage collection, Events and kubectl.
func taskSetAggregated(t *testing.T, e *kit.Env) {
	s := newTaskSetSuite(t, e)
	t.Run("a set waits for quota", s.waitsForQuota) // the quota is deleted before the other cases begin
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
	{"time to live", (*taskSetSuite).timeToLive},
	{"deleted, background", func(s *taskSetSuite, t *testing.T) { s.deleted(t, metav1.DeletePropagationBackground) }},
	{"deleted, foreground", func(s *taskSetSuite, t *testing.T) { s.deleted(t, metav1.DeletePropagationForeground) }},
	{"deleted, orphan", func(s *taskSetSuite, t *testing.T) { s.deleted(t, metav1.DeletePropagationOrphan) }},
	{"kubectl", (*taskSetSuite).kubectl},
	{"the pipeline of the docs", (*taskSetSuite).pipelineOfTheDocs},
}

// inParallel runs cases side by side. The workers have slots for all of them.
func (s *taskSetSuite) inParallel(t *testing.T, cases []taskSetCase) {
	for _, test := range cases {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.run(s, t)
		})
	}
}

// runsScript makes all tasks of a set run a shell script. $DIR is the directory of the set.
func runsScript(text string) func(*batch.TaskSet) {
	return func(set *batch.TaskSet) { set.Spec.Template.Spec.Command = []string{"sh", "-c", text} }
}

// runUntilGo is a script that ends at SIGTERM, or when the file "go" exists.
const runUntilGo = `trap 'exit 143' TERM; until [ -e "$DIR/go" ]; do sleep 0.1; done`

// indexed makes a set indexed, with this many completions at this parallelism.
func indexed(completions, parallelism int32) func(*batch.TaskSet) {
	return func(set *batch.TaskSet) {
		set.Spec.Completions, set.Spec.Parallelism = &completions, &parallelism
		set.Spec.CompletionMode = ptr.To(batch.IndexedCompletion)
	}
}

// create creates a set until the test ends. It returns its name and the directory of its scripts.
func (s *taskSetSuite) create(t *testing.T, changes ...func(*batch.TaskSet)) (name, dir string) {
	t.Helper()
	name = strings.ToLower(strings.NewReplacer("/", "-", "_", "-", ",", "", "'", "").Replace(t.Name()))
	name = strings.Trim(name[max(0, len(name)-40):], "-")
	return name, s.createNamed(t, name, changes...)
}

// createNamed creates a set of that name until the test ends. It returns the directory of its scripts.
func (s *taskSetSuite) createNamed(t *testing.T, name string, changes ...func(*batch.TaskSet)) (dir string) {
	t.Helper()
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
	return dir
}

// change updates a set. It retries after a conflict.
func (s *taskSetSuite) change(t *testing.T, name string, f func(*batch.TaskSet)) {
	t.Helper()
	kit.Eventually(t, "the set is updated", func(ctx context.Context) error {
		set, err := s.api.TaskSets(s.namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		f(set)
		_, err = s.api.TaskSets(s.namespace).Update(ctx, set, metav1.UpdateOptions{})
		return err
	})
}

// tasks returns the tasks of a set.
func (s *taskSetSuite) tasks(t *testing.T, name string) []batch.Task {
	t.Helper()
	list, err := s.api.Tasks(s.namespace).List(t.Context(), metav1.ListOptions{LabelSelector: batch.LabelTaskSetName + "=" + name})
	kit.Check(t, err)
	return list.Items
}

func (s *taskSetSuite) waitForTasks(t *testing.T, name, what string, condition func([]batch.Task) bool) {
	t.Helper()
	kit.Eventually(t, what, func(context.Context) error {
		if tasks := s.tasks(t, name); !condition(tasks) {
			return fmt.Errorf("got %d tasks", len(tasks))
		}
		return nil
	})
}

func noTasks(tasks []batch.Task) bool { return len(tasks) == 0 }

// isTrue returns a condition that holds when a status condition is True.
func isTrue(condition string) func(*batch.TaskSet) bool {
	return func(set *batch.TaskSet) bool { return meta.IsStatusConditionTrue(set.Status.Conditions, condition) }
}

func reason(set *batch.TaskSet, condition string) string {
	if c := meta.FindStatusCondition(set.Status.Conditions, condition); c != nil {
		return c.Reason
	}
	return ""
}

// runsPerIndex returns how often each index has run recordRun.
func runsPerIndex(t *testing.T, dir string) map[int]int {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(dir, "runs"))
	kit.Check(t, err)
	runs := map[int]int{}
	for line := range strings.Lines(string(content)) {
		index, err := strconv.Atoi(strings.TrimSpace(line))
		kit.Check(t, err)
		runs[index]++
	}
	return runs
}

// recordRun is a script that records that its index has run.
const recordRun = `echo "$TASK_INDEX" >> "$DIR/runs"`

func (s *taskSetSuite) eachIndexOnce(t *testing.T) {
	name, dir := s.create(t, indexed(200, 16), runsScript(recordRun+`; [ "$JOB_COMPLETION_INDEX" = "$TASK_INDEX" ]`))
	set := s.waitForTaskSet(t, name, "the set is complete", isTrue(batch.TaskSetComplete))
	if set.Status.Succeeded != 200 || set.Status.Failed != 0 || set.Status.CompletedIndexes != "0-199" || set.Status.CompletionTime == nil {
		t.Errorf("got status %+v", set.Status)
	}
	runs := runsPerIndex(t, dir)
	for index := range 200 {
		if runs[index] != 1 {
			t.Errorf("index %d has run %d times, want once", index, runs[index])
		}
	}
	s.waitForTasks(t, name, "the tasks are gone", noTasks)
}

func (s *taskSetSuite) failedIndexes(t *testing.T) {
	name, _ := s.create(t, indexed(30, 8), runsScript(`[ $((TASK_INDEX % 10)) != 7 ] || { echo out of luck; exit 3; }`),
		func(set *batch.TaskSet) { set.Spec.BackoffLimitPerIndex = ptr.To[int32](0) })
	set := s.waitForTaskSet(t, name, "the set has failed", isTrue(batch.TaskSetFailed))
	if set.Status.Succeeded != 27 || set.Status.Failed != 3 || ptr.Deref(set.Status.FailedIndexes, "") != "7,17,27" ||
		reason(set, batch.TaskSetFailed) != "FailedIndexes" || reason(set, batch.TaskSetFailureTarget) != "FailedIndexes" {
		t.Errorf("got status %+v", set.Status)
	}
	s.waitForTasks(t, name, "only the failed tasks are kept", func(tasks []batch.Task) bool {
		return len(tasks) == 3 && !slices.ContainsFunc(tasks, func(task batch.Task) bool {
			return task.Status.Phase != batch.TaskFailed || !strings.Contains(task.Status.State.Terminated.Message, "out of luck")
		})
	})
}

func (s *taskSetSuite) retriedFailure(t *testing.T) {
	name, dir := s.create(t, indexed(3, 3), runsScript(recordRun+`; [ $TASK_INDEX != 1 ] || mkdir "$DIR/tried" 2>&- && [ $TASK_INDEX != 1 ] || [ $(grep -c 1 "$DIR/runs") = 2 ]`))
	set := s.waitForTaskSet(t, name, "the set is complete", isTrue(batch.TaskSetComplete))
	if set.Status.Succeeded != 3 || set.Status.Failed != 1 || set.Status.IndexFailures != "" {
		t.Errorf("got status %+v", set.Status)
	}
	if runs := runsPerIndex(t, dir); runs[1] != 2 {
		t.Errorf("index 1 has run %d times, want twice", runs[1])
	}
	s.waitForTasks(t, name, "the tasks are gone", noTasks)
}

func (s *taskSetSuite) failurePolicy(t *testing.T) {
	name, _ := s.create(t, indexed(6, 3), runsScript(`[ $TASK_INDEX != 2 ] || exit 42; `+runUntilGo), func(set *batch.TaskSet) {
		set.Spec.TaskFailurePolicy = &batch.TaskFailurePolicy{Rules: []batch.TaskFailurePolicyRule{{
			Action:      batch.TaskFailurePolicyActionFailTaskSet,
			OnExitCodes: &batch.TaskFailurePolicyOnExitCodesRequirement{Operator: batch.TaskFailurePolicyOnExitCodesOpIn, Values: []int32{42}},
		}}}
	})
	set := s.waitForTaskSet(t, name, "the set has failed", isTrue(batch.TaskSetFailed))
	condition := meta.FindStatusCondition(set.Status.Conditions, batch.TaskSetFailed)
	if set.Status.Failed != 3 || condition.Reason != "TaskFailurePolicy" || !strings.Contains(condition.Message, "failed with exit code 42 matching FailTaskSet rule at index 0") {
		t.Errorf("got status %+v", set.Status)
	}
}

func (s *taskSetSuite) successPolicy(t *testing.T) {
	name, _ := s.create(t, indexed(10, 6), runsScript(`[ $TASK_INDEX -lt 3 ] || { `+runUntilGo+`; }`), func(set *batch.TaskSet) {
		set.Spec.SuccessPolicy = &batch.SuccessPolicy{Rules: []batch.SuccessPolicyRule{{SucceededCount: ptr.To[int32](3)}}}
	})
	set := s.waitForTaskSet(t, name, "the set is complete", isTrue(batch.TaskSetComplete))
	if set.Status.CompletedIndexes != "0-2" || set.Status.Failed != 0 || reason(set, batch.TaskSetComplete) != "SuccessPolicy" {
		t.Errorf("got status %+v", set.Status)
	}
	s.waitForTasks(t, name, "the tasks are gone", noTasks)
}

func (s *taskSetSuite) suspended(t *testing.T) {
	name, dir := s.create(t, indexed(4, 2), runsScript(runUntilGo))
	ready := func(n int32) func(*batch.TaskSet) bool {
		return func(set *batch.TaskSet) bool { return set.Status.Active == n && ptr.Deref(set.Status.Ready, 0) == n }
	}
	s.waitForTaskSet(t, name, "two tasks run", ready(2))
	s.change(t, name, func(set *batch.TaskSet) { set.Spec.Suspend = ptr.To(true) })
	s.waitForTasks(t, name, "the tasks are gone", noTasks)
	set := s.waitForTaskSet(t, name, "the set is suspended", func(set *batch.TaskSet) bool {
		return isTrue(batch.TaskSetSuspended)(set) && set.Status.Active == 0 && ptr.Deref(set.Status.Terminating, 0) == 0
	})
	if set.Status.StartTime != nil || set.Status.Failed != 0 || reason(set, batch.TaskSetSuspended) != "TaskSetSuspended" {
		t.Errorf("got status %+v", set.Status)
	}
	touch(t, filepath.Join(dir, "go"))
	s.change(t, name, func(set *batch.TaskSet) { set.Spec.Suspend = ptr.To(false) })
	set = s.waitForTaskSet(t, name, "the set is complete", isTrue(batch.TaskSetComplete))
	if set.Status.Succeeded != 4 || reason(set, batch.TaskSetSuspended) != "TaskSetResumed" {
		t.Errorf("got status %+v", set.Status)
	}
}

func (s *taskSetSuite) scaled(t *testing.T) {
	name, dir := s.create(t, indexed(8, 1), runsScript(runUntilGo))
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
		t.Errorf("got the scale %+v, %v, want 2 replicas", got, err)
	}
	touch(t, filepath.Join(dir, "go"))
	if set := s.waitForTaskSet(t, name, "the set is complete", isTrue(batch.TaskSetComplete)); set.Status.Succeeded != 8 || set.Status.Failed != 0 {
		t.Errorf("got status %+v", set.Status)
	}
}

func (s *taskSetSuite) cancelled(t *testing.T) {
	name, _ := s.create(t, indexed(6, 3), runsScript(`[ $TASK_INDEX = 0 ] || { `+runUntilGo+`; }`))
	s.waitForTaskSet(t, name, "one task has succeeded and three run", func(set *batch.TaskSet) bool {
		return set.Status.Succeeded == 1 && ptr.Deref(set.Status.Ready, 0) == 3
	})
	s.change(t, name, func(set *batch.TaskSet) { set.Spec.Cancelled = true })
	set := s.waitForTaskSet(t, name, "the set has failed", isTrue(batch.TaskSetFailed))
	if set.Status.Succeeded != 1 || set.Status.Failed != 0 || set.Status.CompletedIndexes != "0" || isTrue(batch.TaskSetReconciling)(set) ||
		reason(set, batch.TaskSetFailed) != "Cancelled" || reason(set, batch.TaskSetFailureTarget) != "Cancelled" {
		t.Errorf("got status %+v", set.Status)
	}
	s.waitForTasks(t, name, "the tasks are gone", noTasks)
	set.Spec.Cancelled = false
	if _, err := s.api.TaskSets(s.namespace).Update(t.Context(), set, metav1.UpdateOptions{}); !apierrors.IsInvalid(err) ||
		!strings.Contains(err.Error(), "spec.cancelled: Invalid value: false: must stay true") {
		t.Errorf("spec.cancelled from true to false: got %v", err)
	}
	s.change(t, name, func(set *batch.TaskSet) { set.Spec.TTLSecondsAfterFinished = ptr.To[int32](0) })
	s.waitForTaskSetGone(t, name)
}

func (s *taskSetSuite) shrunk(t *testing.T) {
	name, dir := s.create(t, indexed(8, 8), runsScript(`[ $TASK_INDEX -gt 1 ] || { `+runUntilGo+`; }`))
	s.waitForTaskSet(t, name, "six tasks have succeeded", func(set *batch.TaskSet) bool { return set.Status.Succeeded == 6 })
	s.change(t, name, indexed(2, 2))
	s.change(t, name, func(set *batch.TaskSet) { set.Spec.Parallelism = ptr.To[int32](1) })
	s.waitForTaskSet(t, name, "indexes past the new completions do not count", func(set *batch.TaskSet) bool { return set.Status.Succeeded == 0 })
	touch(t, filepath.Join(dir, "go"))
	if set := s.waitForTaskSet(t, name, "the set is complete", isTrue(batch.TaskSetComplete)); set.Status.CompletedIndexes != "0,1" {
		t.Errorf("got status %+v", set.Status)
	}
}

func (s *taskSetSuite) pendingTasksFollow(t *testing.T) {
	name, _ := s.create(t, indexed(9, 3), runsScript("true"), func(set *batch.TaskSet) {
		set.Spec.Template.Spec.WorkerSelector = map[string]string{"no": "such"}
	})
	follow := func(queue string, priority int32) func([]batch.Task) bool {
		return func(tasks []batch.Task) bool {
			return len(tasks) == 3 && !slices.ContainsFunc(tasks, func(task batch.Task) bool {
				return task.Spec.QueueName != queue || task.Spec.Priority != priority
			})
		}
	}
	s.waitForTasks(t, name, "three tasks are pending", follow("default", 0))
	s.change(t, name, func(set *batch.TaskSet) { set.Spec.QueueName, set.Spec.Template.Spec.Priority = "other", 5 })
	s.waitForTasks(t, name, "the tasks have the new queue and priority", follow("other", 5))
}

func (s *taskSetSuite) invalidTasks(t *testing.T) {
	set := &batch.TaskSet{ObjectMeta: metav1.ObjectMeta{Name: "invalid-tasks"}}
	indexed(1, 1)(set)
	runsScript("true")(set)
	for i := range 4095 {
		set.Spec.Template.Spec.Env = append(set.Spec.Template.Spec.Env, batch.EnvVar{Name: fmt.Sprintf("V%d", i)})
	}
	if _, err := s.api.TaskSets(s.namespace).Create(t.Context(), set, metav1.CreateOptions{}); !apierrors.IsInvalid(err) ||
		!strings.Contains(err.Error(), "spec.template.spec.env: Invalid value: must have at most 4094 variables, and has 4095") {
		t.Errorf("got %v", err)
	}
}

func (s *taskSetSuite) activeDeadline(t *testing.T) {
	name, _ := s.create(t, indexed(4, 2), runsScript(runUntilGo), func(set *batch.TaskSet) { set.Spec.ActiveDeadlineSeconds = ptr.To[int64](2) })
	set := s.waitForTaskSet(t, name, "the set has failed", isTrue(batch.TaskSetFailed))
	if reason(set, batch.TaskSetFailed) != "DeadlineExceeded" || set.Status.Failed != 2 || set.Status.Active != 0 {
		t.Errorf("got status %+v", set.Status)
	}
	s.waitForTasks(t, name, "the tasks are gone", noTasks)
}

func (s *taskSetSuite) timeToLive(t *testing.T) {
	name, _ := s.create(t, indexed(4, 4), runsScript(`[ $TASK_INDEX != 2 ]`), func(set *batch.TaskSet) {
		set.Spec.BackoffLimitPerIndex, set.Spec.TTLSecondsAfterFinished = ptr.To[int32](0), ptr.To[int32](1)
	})
	s.waitForGone(t, name)
}

func (s *taskSetSuite) deleted(t *testing.T, policy metav1.DeletionPropagation) {
	name, dir := s.create(t, indexed(20, 3), runsScript(runUntilGo))
	s.waitForTaskSet(t, name, "three tasks run", func(set *batch.TaskSet) bool { return ptr.Deref(set.Status.Ready, 0) == 3 })
	kit.Check(t, s.api.TaskSets(s.namespace).Delete(t.Context(), name, metav1.DeleteOptions{PropagationPolicy: &policy}))
	if policy != metav1.DeletePropagationOrphan {
		s.waitForGone(t, name)
		return
	}
	s.waitForTaskSetGone(t, name)
	touch(t, filepath.Join(dir, "go"))
	s.waitForTasks(t, name, "the orphaned tasks succeed", func(tasks []batch.Task) bool {
		return len(tasks) == 3 && !slices.ContainsFunc(tasks, func(task batch.Task) bool {
			return task.Status.Phase != batch.TaskSucceeded || len(task.OwnerReferences) > 0
		})
	})
}

func (s *taskSetSuite) kubectl(t *testing.T) {
	name, _ := s.create(t, indexed(5, 5), runsScript("true"))
	kubeconfig := s.env.Kubeconfig(t, s.env.Admin(t), s.namespace)
	if _, _, err := s.env.Kubectl(t, kubeconfig, "", "wait", "--for=condition=Complete", "--timeout=2m", "tks/"+name); err != nil {
		t.Fatal(err)
	}
	out, _, err := s.env.Kubectl(t, kubeconfig, "", "get", "tks", name, "--no-headers")
	if fields := strings.Fields(out); err != nil || len(fields) != 7 || fields[1] != "Complete" || fields[2] != "5/5" {
		t.Errorf("kubectl get tks printed %q, %v", out, err)
	}
}

// waitForGone waits until a set and its tasks are gone.
func (s *taskSetSuite) waitForGone(t *testing.T, name string) {
	t.Helper()
	s.waitForTaskSetGone(t, name)
	s.waitForTasks(t, name, "the tasks are gone", noTasks)
}

func (s *taskSetSuite) waitsForQuota(t *testing.T) {
	admin := s.env.HostClient(t)
	quotas := admin.CoreV1().ResourceQuotas(s.namespace)
	_, err := quotas.Create(t.Context(), &corev1.ResourceQuota{
		ObjectMeta: metav1.ObjectMeta{Name: "few"},
		Spec:       corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{"count/tasks.batch.leat.dev": resource.MustParse("3")}},
	}, metav1.CreateOptions{})
	kit.Check(t, err)
	t.Cleanup(func() { kit.Check(t, quotas.Delete(context.WithoutCancel(t.Context()), "few", metav1.DeleteOptions{})) })
	kit.Eventually(t, "the quota has a status", func(ctx context.Context) error {
		quota, err := quotas.Get(ctx, "few", metav1.GetOptions{})
		if err == nil && len(quota.Status.Used) == 0 {
			err = errors.New("it has none")
		}
		return err
	})
	name, dir := s.create(t, indexed(6, 6), runsScript(runUntilGo))
	set := s.waitForTaskSet(t, name, "the set has the condition ReplicaFailure", isTrue(batch.TaskSetReplicaFailure))
	if message := meta.FindStatusCondition(set.Status.Conditions, batch.TaskSetReplicaFailure).Message; !strings.Contains(message, "exceeded quota: few") {
		t.Errorf("got the message %q", message)
	}
	if tasks := s.tasks(t, name); len(tasks) > 3 {
		t.Errorf("got %d tasks, want at most 3", len(tasks))
	}
	touch(t, filepath.Join(dir, "go"))
	set = s.waitForTaskSet(t, name, "the set is complete", isTrue(batch.TaskSetComplete))
	if isTrue(batch.TaskSetReplicaFailure)(set) || set.Status.Succeeded != 6 {
		t.Errorf("got status %+v", set.Status)
	}
}

func (s *taskSetSuite) hasEvents(t *testing.T) {
	admin := s.env.HostClient(t)
	name, _ := s.create(t, indexed(50, 10), runsScript("true"))
	s.waitForTaskSet(t, name, "the set is complete", isTrue(batch.TaskSetComplete))
	kit.Eventually(t, "the set has its Event", func(ctx context.Context) error {
		list, err := admin.EventsV1().Events(s.namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		var seen []string
		for _, event := range list.Items {
			if event.Regarding.Kind != "TaskSet" {
				t.Errorf("got an Event about a %s: %s", event.Regarding.Kind, event.Note)
			}
			if event.Regarding.Name == name {
				seen = append(seen, event.Reason+": "+event.Note)
			}
		}
		if !slices.Equal(seen, []string{"Completed: TaskSet completed"}) {
			return fmt.Errorf("got the Events %q", seen)
		}
		return nil
	})
}
