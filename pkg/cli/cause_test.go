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
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/leat-dev/leat/apis/batch/indexes"
	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/cli/taskstate"
)

func TestFailuresAreGroupedByCause(t *testing.T) {
	var tasks []batch.Task
	add := func(index int, phase batch.TaskPhase, attempts int32, end batch.TaskStateTerminated) {
		task := batch.Task{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{batch.LabelCompletionIndex: strconv.Itoa(index)}}}
		task.Status.Phase, task.Status.Attempts, task.Status.State.Terminated = phase, attempts, &end
		tasks = append(tasks, task)
	}
	for index := 40; index >= 30; index-- {
		add(index, batch.TaskFailed, int32(index%3), batch.TaskStateTerminated{ExitCode: 1, Message: fmt.Sprintf("starting\ncannot open in-%d.txt\n", index)})
	}
	add(3, batch.TaskFailed, 1, batch.TaskStateTerminated{ExitCode: 1, Message: "no space left\n"})
	add(2, batch.TaskFailed, 1, batch.TaskStateTerminated{ExitCode: 2, Message: "no space left\n"})
	add(7, batch.TaskFailed, 1, batch.TaskStateTerminated{ExitCode: 143, Signal: 15, Reason: batch.TaskReasonDeadlineExceeded})
	add(7, batch.TaskFailed, 1, batch.TaskStateTerminated{ExitCode: 143, Signal: 15, Reason: batch.TaskReasonDeadlineExceeded})
	add(1, batch.TaskSucceeded, 1, batch.TaskStateTerminated{})
	add(9, batch.TaskRunning, 1, batch.TaskStateTerminated{})
	var got []string
	for _, c := range causesOf(tasks) {
		got = append(got, fmt.Sprintf("%d × %s: index %s, like %d", c.tasks, c.how, indexes.Format(c.indexes), c.index))
	}
	want := []string{
		"11 × exit code 1: index 30-40, like 30",
		"2 × its time of 0s was over (ended by signal 15 (exit code 143)): index 7, like 7",
		"1 × exit code 2: index 2, like 2",
		"1 × exit code 1: index 3, like 3",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("want -, got +:\n%s", diff)
	}
}

func TestRetriesString(t *testing.T) {
	first := endedSet(batch.TaskSetFailed, "0,2-5,9", "1,6-8")
	first.Status.Succeeded = 6
	retry := func(name, completed string, numbers ...int32) batch.TaskSet {
		set := endedSet(batch.TaskSetFailed, completed, "")
		set.Name, set.Spec.IndexNumbers, set.Spec.Completions = name, &batch.IndexNumbers{List: numbers}, ptr.To(int32(len(numbers)))
		ranges, _ := indexes.Parse(completed, 10)
		set.Status.Succeeded = int32(indexes.Count(ranges))
		return *set
	}
	once, twice := retry("s-retry-1", "0,3", 1, 6, 7, 8), retry("s-retry-2", "0,1", 6, 8)
	for _, test := range []struct {
		retries retries
		want    string
	}{
		{retries{"s", first, []batch.TaskSet{once}}, "8 of 10 have succeeded in all (s 6, s-retry-1 2); not yet: indexes 6,7"},
		// An index that succeeded in two sets counts once.
		{retries{"s", first, []batch.TaskSet{once, twice}}, "9 of 10 have succeeded in all (s 6, s-retry-1 2, s-retry-2 2); not yet: index 7"},
		{retries{"s", nil, []batch.TaskSet{once, twice}}, "3 of taskset/s, which is deleted, have succeeded in all (s-retry-1 2, s-retry-2 2)"},
	} {
		if got := test.retries.String(); got != test.want {
			t.Errorf("got  %s\nwant %s", got, test.want)
		}
	}
}

func TestDescribeEnd(t *testing.T) {
	for _, test := range []struct{ kind, reason, status, sentence string }{
		{batch.TaskSetComplete, batch.TaskSetReasonCompletionsReached, "Complete", "is complete: CompletionsReached: said so"},
		{batch.TaskSetFailed, batch.TaskSetReasonFailedIndexes, "Failed", "has failed: FailedIndexes: said so"},
		{batch.TaskSetFailed, batch.TaskSetReasonCancelled, "Cancelled", "was cancelled"},
	} {
		final := &metav1.Condition{Type: test.kind, Status: metav1.ConditionTrue, Reason: test.reason, Message: "said so"}
		if status, sentence := taskstate.StatusOfFinished(final), describeEnd(final); status != test.status || sentence != test.sentence {
			t.Errorf("%s, %s: got %q and %q, want %q and %q", test.kind, test.reason, status, sentence, test.status, test.sentence)
		}
	}
}

func TestDescribeIndexes(t *testing.T) {
	numbered := &batch.TaskSet{Spec: batch.TaskSetSpec{IndexNumbers: &batch.IndexNumbers{List: []int32{3, 17, 18}}}}
	for _, test := range []struct {
		set  *batch.TaskSet
		of   []indexes.Range
		want string
	}{
		{&batch.TaskSet{}, []indexes.Range{{First: 5, Last: 5}}, "index 5"},
		{&batch.TaskSet{}, []indexes.Range{{First: 0, Last: 4}}, "indexes 0-4"},
		{&batch.TaskSet{}, []indexes.Range{{First: 0, Last: 4}, {First: 7, Last: 7}}, "indexes 0-4,7"},
		{numbered, []indexes.Range{{First: 0, Last: 0}}, "index 3"},
		{numbered, []indexes.Range{{First: 0, Last: 2}}, "indexes 3,17,18"},
	} {
		if got := describeIndexes(test.set, test.of); got != test.want {
			t.Errorf("%v is described as %q, want %q", test.of, got, test.want)
		}
	}
}
