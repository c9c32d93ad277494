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

package cli

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/cli-runtime/pkg/printers"
	"k8s.io/utils/ptr"

	"github.com/leat-dev/leat/apis/batch/indexes"
	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/cli/progress"
	"github.com/leat-dev/leat/pkg/cli/taskstate"
	"github.com/leat-dev/leat/pkg/generated/clientset/versioned/fake"
)

// testNow is the time at which the tests of chunks look at the objects.
var testNow = metav1.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func ago(d time.Duration) metav1.Time { return metav1.Time{Time: testNow.Add(-d)} }

// chunkedSet returns a set of 100 indexes that has started.
func chunkedSet() *batch.TaskSet {
	return &batch.TaskSet{
		ObjectMeta: metav1.ObjectMeta{Name: "s", Namespace: "default", UID: "set"},
		Spec: batch.TaskSetSpec{
			CompletionMode: ptr.To(batch.IndexedCompletion), Completions: ptr.To[int32](100), Parallelism: ptr.To[int32](10), BackoffLimitPerIndex: ptr.To[int32](0),
			QueueName: "default",
		},
		Status: batch.TaskSetStatus{StartTime: ptr.To(ago(time.Minute))},
	}
}

// chunkOf returns a task of the set with several indexes. The first completed ones have succeeded. A limit of
// 0 means none.
func chunkOf(set *batch.TaskSet, ranges string, phase batch.TaskPhase, completed, limit int32) *batch.Task {
	parsed, err := indexes.Parse(ranges, maxCompletions)
	if err != nil {
		panic(err)
	}
	task := batch.NewChunk(set, parsed)
	task.Status.Phase, task.Status.CompletedCount = phase, completed
	if limit > 0 {
		task.Status.IndexLimit = &limit
	}
	if phase != batch.TaskPending {
		task.Spec.WorkerName = "w"
	}
	if phase == batch.TaskRunning || phase == batch.TaskFailed {
		task.Status.Attempts = 1
	}
	task.CreationTimestamp = ago(2 * time.Minute)
	if phase == batch.TaskFailed {
		task.Status.StartTime, task.Status.CompletionTime = ptr.To(ago(time.Minute)), ptr.To(ago(time.Second))
		task.Status.State.Terminated = &batch.TaskStateTerminated{
			ExitCode: 3, Reason: batch.TaskReasonError, Message: "the end\n", StartedAt: ago(3 * time.Second), FinishedAt: ago(time.Second),
		}
	}
	task.UID = "task"
	return task
}

// fakeSession returns a session with a server that has the objects.
func fakeSession(objects ...runtime.Object) (*session, *fake.Clientset) {
	client := fake.NewClientset(objects...)
	return &session{client: client, api: client.BatchV1alpha1(), namespace: "default"}, client
}

func TestIndexesOfATask(t *testing.T) {
	set := chunkedSet()
	lone := batch.NewTask(set, 7, 0)
	failed := batch.NewTask(set, 7, 0)
	failed.Status = batch.TaskStatus{Phase: batch.TaskFailed, Attempts: 1}
	succeeded := batch.NewTask(set, 7, 0)
	succeeded.Status = batch.TaskStatus{Phase: batch.TaskSucceeded, Attempts: 2}
	evicted := chunkOf(set, "4-9,20", batch.TaskPending, 2, 3)
	evicted.Status.Attempts, evicted.Status.Disruptions = 1, 1
	again := chunkOf(set, "4-9,20", batch.TaskRunning, 2, 3)
	again.Status.Attempts, again.Status.Disruptions = 2, 1
	for _, test := range []struct {
		name                                          string
		task                                          *batch.Task
		held, completed, started, current, failedText string
		run                                           int32
	}{
		{"one index", lone, "7", "", "", "7", "", 0},
		{"one index, failed", failed, "7", "", "7", "7", "7", 1},
		{"one index, succeeded", succeeded, "7", "7", "7", "", "", 2},
		{"no set", &batch.Task{}, "", "", "", "", "", 0},
		{"waits", chunkOf(set, "4-9,20", batch.TaskPending, 0, 0), "4-9,20", "", "", "4", "", 0},
		{"runs its first index", chunkOf(set, "4-9,20", batch.TaskRunning, 0, 0), "4-9,20", "", "4", "4", "", 1},
		{"runs its last index", chunkOf(set, "4-9,20", batch.TaskRunning, 6, 0), "4-9,20", "4-9", "4-9,20", "20", "", 1},
		{"has released some", chunkOf(set, "4-9,20", batch.TaskRunning, 2, 4), "4-7", "4,5", "4-6", "6", "", 1},
		{"is evicted", evicted, "4-6", "4,5", "4-6", "6", "", 0},
		{"runs again", again, "4-6", "4,5", "4-6", "6", "", 2},
		{"has failed", chunkOf(set, "4-9,20", batch.TaskFailed, 2, 0), "4-6", "4,5", "4-6", "6", "6", 1},
		{"has failed at its first index", chunkOf(set, "4-9,20", batch.TaskFailed, 0, 0), "4", "", "4", "4", "4", 1},
		{"has succeeded with some", chunkOf(set, "4-9,20", batch.TaskSucceeded, 2, 0), "4,5", "4,5", "4,5", "", "", 1},
		{"has succeeded with all", chunkOf(set, "4-9,20", batch.TaskSucceeded, 7, 0), "4-9,20", "4-9,20", "4-9,20", "", "", 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			text := func(index int, ok bool) string {
				if !ok {
					return ""
				}
				return indexes.Format(single(index))
			}
			got := []string{
				indexes.Format(taskstate.HeldIndexes(test.task)), indexes.Format(taskstate.CompletedIndexes(test.task)), indexes.Format(startedIndexes(test.task)),
				text(taskstate.CurrentIndex(test.task)), text(taskstate.FailedIndex(test.task)),
			}
			if diff := cmp.Diff([]string{test.held, test.completed, test.started, test.current, test.failedText}, got); diff != "" {
				t.Errorf("held, completed, started, current, failed: want -, got +:\n%s", diff)
			}
			if got := runOf(test.task); got != test.run {
				t.Errorf("got run %d, want %d", got, test.run)
			}
		})
	}
}

func TestNumbersOfATaskWithSeveralIndexes(t *testing.T) {
	numberAsItem := chunkedSet()
	numberAsItem.Spec.Items = make([]string, 100)
	for i := range numberAsItem.Spec.Items {
		numberAsItem.Spec.Items[i] = indexes.Format(single(1000 + 2*i))
	}
	numberAsItem.Spec.Template.Spec.Env = []batch.EnvVar{{Name: taskstate.NumberVariable, Value: taskstate.ItemReference}}
	steps := chunkedSet()
	steps.Spec.IndexNumbers = &batch.IndexNumbers{First: ptr.To[int32](1), Step: ptr.To[int32](10)}
	listed := chunkedSet()
	listed.Spec.IndexNumbers = &batch.IndexNumbers{}
	for i := range int32(100) {
		listed.Spec.IndexNumbers.List = append(listed.Spec.IndexNumbers.List, 3*i)
	}
	for name, test := range map[string]struct {
		set  *batch.TaskSet
		want string
	}{
		"none": {chunkedSet(), "5,6,20"}, "items": {numberAsItem, "1010,1012,1040"}, "steps": {steps, "51,61,201"}, "a list": {listed, "15,18,60"},
	} {
		of := []indexes.Range{{First: 5, Last: 6}, {First: 20, Last: 20}}
		if got := indexes.Format(numbersIn(chunkOf(test.set, "4-9,20-22", batch.TaskRunning, 1, 0), of)); got != test.want {
			t.Errorf("%s: got %s, want %s", name, got, test.want)
		}
		if got, want := indexes.Format(numbersIn(batch.NewTask(test.set, 20, 0), single(20))), test.want[strings.LastIndexByte(test.want, ',')+1:]; got != want {
			t.Errorf("%s: a task of one index: got %s, want %s", name, got, want)
		}
	}
}

// columns matches the space between columns.
var columns = regexp.MustCompile(`(\S) {2,}`)

// explained returns what "leat explain" prints of an index of the set, or of a task if index is negative.
func explained(t *testing.T, set *batch.TaskSet, index int, task *batch.Task) string {
	t.Helper()
	streams, _, out, _ := genericiooptions.NewTestIOStreams()
	s, _ := fakeSession(task)
	table := printers.GetNewTabWriter(out)
	e := &explainer{factory: &factory{program: "leat", streams: streams}, s: s, now: testNow.Time, out: table}
	var err error
	if index < 0 {
		err = e.task(t.Context(), ref{kindTask, task.Name}, task)
	} else {
		err = e.index(t.Context(), object{set: set, index: &index})
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := table.Flush(); err != nil {
		t.Fatal(err)
	}
	return columns.ReplaceAllString(strings.ReplaceAll(out.String(), task.Name, "TASK"), "$1  ")
}

func TestExplainSeveralIndexesInOneTask(t *testing.T) {
	set := chunkedSet()
	running := chunkOf(set, "4-9,20-29", batch.TaskRunning, 2, 12)
	running.Status.State.Running = &batch.TaskStateRunning{StartedAt: ago(3 * time.Second)}
	const runningIndexes = `
  Indexes  16, one after the other: 4-9,20-29
  Succeeded  2: 4,5
  Running  index 6, or one after it: the worker reports once a second
  Waiting  9: 7-9,20-25
  Released  4, which other tasks of the set run: 26-29
  Set  taskset/s
`
	failed := chunkOf(set, "4-9", batch.TaskFailed, 2, 0)
	for _, test := range []struct {
		name  string
		index int
		task  *batch.Task
		want  string
	}{
		{"a running task", -1, running, "task/TASK runs, for 3s.\n  Worker  w\n  Problem  worker w does not exist: the task will be evicted and scheduled again" + runningIndexes},
		{"an index that has succeeded", 5, running, "taskset/s/5 has succeeded.\n  Worker  w\n  Task  task/TASK" + runningIndexes},
		{"the index that runs", 6, running, "taskset/s/6 runs, for 3s.\n  Worker  w\n  Problem  worker w does not exist: the task will be evicted and scheduled again\n  Task  task/TASK" + runningIndexes},
		{"an index that waits", 20, running, "taskset/s/20 waits in a task that runs several indexes, one after the other: at most 4 are before it.\n  Worker  w\n  Task  task/TASK" + runningIndexes},
		{"an index that was released", 27, running, "taskset/s/27 has no task yet: at most 10 run at a time, the lowest indexes first.\n  Set  taskset/s\n"},
		{"a failed task", -1, failed, `task/TASK has failed 1s ago, after 59s, at index 6: exit code 3.
  Worker  w
  Last lines  | the end
  Indexes  6, one after the other: 4-9
  Succeeded  2: 4,5
  Failed  index 6
  Released  3, which other tasks of the set run: 7-9
  Set  taskset/s
`},
		{"the index that has failed", 6, failed, `taskset/s/6 has failed 1s ago, after 2s: exit code 3.
  Worker  w
  Last lines  | the end
  Task  task/TASK
  Indexes  6, one after the other: 4-9
  Succeeded  2: 4,5
  Failed  index 6
  Released  3, which other tasks of the set run: 7-9
  Set  taskset/s
`},
		{"an index of a task that waits", 8, chunkOf(set, "4-9", batch.TaskPending, 0, 0), `taskset/s/8 waits for a worker, for 2m.
  Queue  default: 0 tasks run
  Place  1 of 1 in its queue, by priority, then age
  Workers  namespace default has none: start one with leat-worker, or create the task in a namespace with workers
  Task  task/TASK
  Indexes  6, one after the other: 4-9
  Next  index 4
  Waiting  5: 5-9
  Set  taskset/s
`},
	} {
		t.Run(test.name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, explained(t, set, test.index, test.task)); diff != "" {
				t.Errorf("want -, got +:\n%s", diff)
			}
		})
	}
}

// The output of an index whose task is deleted may be in the archive.
func TestExplainAnIndexWithoutTask(t *testing.T) {
	set := chunkedSet()
	set.Status.CompletedIndexes, set.Status.FailedIndexes = "7", ptr.To("8")
	const next = "  Set  taskset/s\n  Next  leat logs taskset/s/%d; leat history taskset/s/%d\n"
	for index, want := range map[int]string{
		7: "taskset/s/7 has succeeded. Its task was deleted after it was counted.\n" + fmt.Sprintf(next, 7, 7),
		8: "taskset/s/8 has failed. Its task was deleted: only the tasks of the last 100 failures of a set are kept.\n" + fmt.Sprintf(next, 8, 8),
		9: "taskset/s/9 has no task yet: at most 10 run at a time, the lowest indexes first.\n  Set  taskset/s\n",
	} {
		if diff := cmp.Diff(want, explained(t, set, index, chunkOf(set, "4-6", batch.TaskPending, 0, 0))); diff != "" {
			t.Errorf("index %d: want -, got +:\n%s", index, diff)
		}
	}
}

func TestWaitEndsWithWhereTheOutputIs(t *testing.T) {
	for _, test := range []struct {
		name, condition string
		failed          int32
		logs            bool
		ttl             *int32
		want            string
	}{
		{name: "complete", condition: batch.TaskSetComplete, want: "Output: leat logs taskset/s\n"},
		{name: "complete after retries", condition: batch.TaskSetComplete, failed: 2, want: "Output: leat logs taskset/s\n"},
		{name: "failed", condition: batch.TaskSetFailed, failed: 2, want: "Output: leat logs taskset/s. Of what failed: leat logs taskset/s --failed\n"},
		{name: "failed without failures", condition: batch.TaskSetFailed, want: "Output: leat logs taskset/s\n"},
		{name: "shown already", condition: batch.TaskSetFailed, failed: 2, logs: true},
		{name: "deleted at once", condition: batch.TaskSetComplete, ttl: ptr.To[int32](0)},
	} {
		set := chunkedSet()
		set.Status.Failed, set.Spec.TTLSecondsAfterFinished = test.failed, test.ttl
		set.Status.Conditions = []metav1.Condition{{Type: test.condition, Status: metav1.ConditionTrue, LastTransitionTime: *set.Status.StartTime}}
		s, _ := fakeSession(set)
		streams, _, _, errOut := genericiooptions.NewTestIOStreams()
		m := &member{
			follower: &follower{followOptions: &followOptions{factory: &factory{program: "leat", streams: streams}, logs: test.logs}, s: s, renderer: progress.New(errOut)},
			ref:      ref{kindSet, "s"},
		}
		m.reportOutput(set)
		if errOut.String() != test.want {
			t.Errorf("%s: got %q, want %q", test.name, errOut, test.want)
		}
	}
}

// A person reads which index has failed, and how: not the task that it was a part of.
func TestFailedIndexIsNamed(t *testing.T) {
	set := chunkedSet()
	set.Spec.IndexNumbers = &batch.IndexNumbers{First: ptr.To[int32](1)}
	set.Status.Conditions = []metav1.Condition{{Type: batch.TaskSetFailed, Status: metav1.ConditionTrue, Reason: batch.TaskSetReasonFailedIndexes, Message: "said so", LastTransitionTime: *set.Status.StartTime}}
	set.Status.Succeeded, set.Status.FailedIndexes = 99, ptr.To("6")
	failed := chunkOf(set, "4-9", batch.TaskFailed, 2, 0)
	s, _ := fakeSession(failed, set)
	for _, test := range []struct {
		name     string
		conclude func(m *member) error
		code     int
		want     string
	}{
		{"of a set", func(m *member) error { m.ref = ref{kindSet, "s"}; return m.concludeSet(t.Context(), set) }, exitFailed,
			"taskset/s has failed: 99 of 100 succeeded in 0s: FailedIndexes: said so\nFailed: index 7\nIndex 7: exit code 3\n  | the end\nWhy: leat explain taskset/s. Again: leat retry s\n"},
		{"of an index", func(m *member) error {
			m.object = object{set: set, index: ptr.To(6)}
			m.ref = m.object.ref()
			return m.concludeIndex(t.Context(), m.object, indexFailed)
		}, 3, "taskset/s/7 has failed in 2s: exit code 3\n  | the end\n"},
		{"of a task", func(m *member) error { m.ref = ref{kindTask, "x"}; return m.concludeTask(failed, false) }, 3,
			"task/x has failed in 59s at index 7: exit code 3\n  | the end\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			streams, _, _, errOut := genericiooptions.NewTestIOStreams()
			m := &member{follower: &follower{followOptions: &followOptions{factory: &factory{program: "leat", streams: streams}}, s: s, renderer: progress.New(errOut)}}
			err := test.conclude(m)
			if coded, ok := err.(*exitError); !ok || coded.code != test.code {
				t.Errorf("got %v, want exit code %d", err, test.code)
			}
			if diff := cmp.Diff(test.want, errOut.String()); diff != "" {
				t.Errorf("want -, got +:\n%s", diff)
			}
		})
	}
	if causes := causesOf([]batch.Task{*failed}); len(causes) != 1 || causes[0].index != 6 {
		t.Errorf("got the causes %+v, want one of index 6", causes)
	}
}

func TestProgressOfATaskWithSeveralIndexes(t *testing.T) {
	set := chunkedSet()
	for _, test := range []struct {
		task *batch.Task
		want progress.Snapshot
	}{
		{chunkOf(set, "4-9", batch.TaskPending, 0, 0), progress.Snapshot{Total: 6, Pending: 6}},
		{chunkOf(set, "4-9", batch.TaskRunning, 2, 0), progress.Snapshot{Total: 6, Done: 2, Running: 1, Pending: 3}},
		{chunkOf(set, "4-9", batch.TaskRunning, 2, 3), progress.Snapshot{Total: 3, Done: 2, Running: 1}},
		{chunkOf(set, "4-9", batch.TaskFailed, 2, 0), progress.Snapshot{Total: 3, Done: 2, Failed: 1}},
		{chunkOf(set, "4-9", batch.TaskSucceeded, 2, 0), progress.Snapshot{Total: 2, Done: 2}},
	} {
		test.task.Status.StartTime, test.task.Status.CompletionTime = nil, nil
		test.task.Status.Progress = "1/2" // of one index
		if got := snapshotOfTask(test.task); got != test.want {
			t.Errorf("%s, %d completed: got %+v, want %+v", test.task.Status.Phase, test.task.Status.CompletedCount, got, test.want)
		}
	}
}

func TestCancellingAnIndexOfATaskWithSeveral(t *testing.T) {
	set := chunkedSet()
	running := chunkOf(set, "4-9", batch.TaskRunning, 2, 0)
	for _, test := range []struct {
		name  string
		index int
		task  *batch.Task
		want  string // the error; empty if the task is cancelled
	}{
		{"the only one that is left", 6, chunkOf(set, "4-9", batch.TaskRunning, 2, 3), ""},
		{"the one that runs, before others", 6, running, "taskset/s/6 cannot be cancelled alone: task/TASK runs it with others, one after the other. " +
			"leat cancel task/TASK ends that task, and the set runs its indexes 6-9 again. leat cancel taskset/s ends all for good. " +
			"A set that is created with --chunk 1 has a task for each index"},
		{"one that has succeeded", 4, running, "taskset/s/4 has succeeded: there is nothing to cancel"},
		{"one that was released", 8, chunkOf(set, "4-9", batch.TaskRunning, 2, 3), "taskset/s/8 has no task that runs or waits: there is nothing to cancel"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, _ := fakeSession(test.task)
			found, err := (&factory{program: "leat"}).taskOfIndex(t.Context(), s, object{set: set, index: &test.index})
			switch {
			case test.want == "" && (err != nil || found.task == nil || found.task.Name != test.task.Name):
				t.Errorf("got %+v, %v", found, err)
			case test.want != "" && (err == nil || strings.ReplaceAll(err.Error(), test.task.Name, "TASK") != test.want):
				t.Errorf("got  %v\nwant %s", err, test.want)
			}
		})
	}
}

func TestCancelledTaskNamesTheIndexesThatRunAgain(t *testing.T) {
	set := chunkedSet()
	for _, test := range []struct {
		task *batch.Task
		want string
	}{
		{batch.NewTask(set, 4, 0), "taskset/s runs its index 4 again: leat cancel taskset/s --index 4 ends it for good.\n"},
		{
			chunkOf(set, "4-9", batch.TaskRunning, 2, 0),
			"taskset/s runs its indexes 6-9 again: leat cancel taskset/s --index 6-9 ends them for good.\n",
		},
		{chunkOf(set, "4-9", batch.TaskRunning, 2, 3), "taskset/s runs its index 6 again: leat cancel taskset/s --index 6 ends it for good.\n"},
	} {
		streams, _, _, errOut := genericiooptions.NewTestIOStreams()
		(&factory{program: "leat", streams: streams}).reportCancelled(object{task: test.task})
		if errOut.String() != test.want {
			t.Errorf("got %q, want %q", errOut, test.want)
		}
	}
}

// A retry of a task without a set begins with the index that failed.
func TestRetryOfATaskWithSeveralIndexes(t *testing.T) {
	set := chunkedSet()
	set.Spec.IndexNumbers = &batch.IndexNumbers{}
	for i := range int32(100) {
		set.Spec.IndexNumbers.List = append(set.Spec.IndexNumbers.List, 2*i)
		set.Spec.Items = append(set.Spec.Items, indexes.Format(single(int(i))))
	}
	task := chunkOf(set, "4-6,20", batch.TaskFailed, 2, 0)
	task.OwnerReferences = nil
	for _, test := range []struct {
		flags, indexes string
		items          []string
		numbers        []int32
	}{
		{"--failed", "6,20", []string{"6", "20"}, []int32{12, 40}},
		{"--all", "4-6,20", []string{"4", "5", "6", "20"}, []int32{8, 10, 12, 40}},
	} {
		o, _ := retryFlags(t, test.flags)
		got, err := o.retryTask(task)
		if err != nil {
			t.Fatal(err)
		}
		retry := got.(*batch.Task)
		if diff := cmp.Diff([]any{test.indexes, test.items, test.numbers}, []any{retry.Spec.Indexes, retry.Spec.Items, retry.Spec.IndexNumbers.List}); diff != "" {
			t.Errorf("%s: want -, got +:\n%s", test.flags, diff)
		}
		if _, ok := retry.Labels[batch.LabelFirstCompletionIndex]; ok {
			t.Errorf("%s: the retry has the label of a task of a set", test.flags)
		}
	}
}

// A set counts the indexes that its tasks have run, however many each has.
func TestTopCountsEndedIndexes(t *testing.T) {
	set := func(succeeded, failed int32) *batch.TaskSet {
		set := chunkedSet()
		set.Status.Succeeded, set.Status.Failed = succeeded, failed
		return set
	}
	counts := &endCounter{total: map[string]int{}}
	counts.rates(testNow.Time)
	counts.addProgress(set(0, 0), set(60, 1))
	counts.addProgress(set(60, 1), set(60, 1))
	counts.addProgress(set(60, 1), set(99, 1))
	created := set(0, 0)
	created.UID = "another"
	counts.addProgress(created, set(99, 1))
	counts.add("default", 1)
	if got := counts.rates(testNow.Add(10 * time.Second))["default"]; got != 10.1 {
		t.Errorf("got %v/s, want 10.1/s", got)
	}
}
