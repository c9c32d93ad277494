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
	"bytes"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/utils/ptr"

	"github.com/leat-dev/leat/apis/batch/indexes"
	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/cli/taskstate"
)

func endedSet(condition string, completed, failed string) *batch.TaskSet {
	return &batch.TaskSet{
		ObjectMeta: metav1.ObjectMeta{Name: "s"},
		Spec: batch.TaskSetSpec{
			Completions: ptr.To[int32](10), Parallelism: ptr.To[int32](5), CompletionMode: ptr.To(batch.IndexedCompletion),
			BackoffLimitPerIndex: ptr.To[int32](0), MaxFailedIndexes: ptr.To[int32](9),
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{batch.LabelControllerUID: "u"}},
			Template: batch.TaskTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"mine": "1", batch.LabelControllerUID: "u", batch.LabelTaskSetName: "s"}},
				Spec:       batch.TaskSpec{Command: []string{"true"}, Env: []batch.EnvVar{{Name: "A", Value: "$(TASK_INDEX)"}}},
			},
		},
		Status: batch.TaskSetStatus{
			CompletedIndexes: completed, FailedIndexes: &failed, Conditions: []metav1.Condition{{Type: condition, Status: metav1.ConditionTrue}},
		},
	}
}

// retryFlags returns the options for the arguments, and what they print on standard error.
func retryFlags(t *testing.T, args ...string) (*retryOptions, *bytes.Buffer) {
	t.Helper()
	streams, _, _, errOut := genericiooptions.NewTestIOStreams()
	f := &factory{program: "leat", streams: streams}
	o := &retryOptions{follow: followOptions{factory: f}}
	flags := f.retryFlags(o)
	if err := flags.Parse(args); err != nil {
		t.Fatal(err)
	}
	if err := o.complete(flags); err != nil {
		t.Fatal(err)
	}
	return o, errOut
}

func retrySet(t *testing.T, set *batch.TaskSet, args ...string) *batch.TaskSet {
	t.Helper()
	o, _ := retryFlags(t, args...)
	got, err := o.retrySet(set)
	if err != nil || got == nil {
		t.Fatalf("got %v, %v", got, err)
	}
	return got.(*batch.TaskSet)
}

// variables returns the variables that identify the index of a task, as the controller and the worker set them.
func variables(set *batch.TaskSet, index int) map[string]string {
	found := map[string]string{positionVariable: strconv.Itoa(index), taskstate.NumberVariable: strconv.Itoa(set.Spec.IndexNumbers.Number(index))}
	if index < len(set.Spec.Items) {
		found["TASK_ITEM"] = set.Spec.Items[index]
	}
	for _, v := range set.Spec.Template.Spec.Env {
		delete(found, v.Name)
	}
	for _, v := range set.Spec.Template.Spec.Env {
		value := v.Value
		for name, known := range found {
			value = strings.ReplaceAll(value, "$("+name+")", known)
		}
		found[v.Name] = value
	}
	return found
}

func TestRetryOfASet(t *testing.T) {
	t.Run("what is created", func(t *testing.T) {
		set := endedSet(batch.TaskSetFailed, "0,2-5,9", "1,6-8")
		set.UID, set.Labels = "uid", map[string]string{"team": "blue"}
		set.Spec.Suspend, set.Spec.Cancelled = ptr.To(true), true
		got := retrySet(t, set)
		want := &batch.TaskSet{
			ObjectMeta: metav1.ObjectMeta{
				Labels:      map[string]string{"team": "blue", batch.LabelRetryOf: "uid"},
				Annotations: map[string]string{batch.AnnotationRetryOf: "s"},
			},
			Spec: batch.TaskSetSpec{
				IndexNumbers: &batch.IndexNumbers{List: []int32{1, 6, 7, 8}}, Completions: ptr.To[int32](4), Parallelism: ptr.To[int32](4),
				CompletionMode: ptr.To(batch.IndexedCompletion), BackoffLimitPerIndex: ptr.To[int32](0), MaxFailedIndexes: ptr.To[int32](4),
				Template: batch.TaskTemplateSpec{
					ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"mine": "1"}},
					Spec: batch.TaskSpec{Command: []string{"true"}, Env: []batch.EnvVar{
						{Name: "JOB_COMPLETION_INDEX", Value: "$(TASK_INDEX)"}, {Name: "A", Value: "$(TASK_INDEX)"},
					}},
				},
			},
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("want -, got +:\n%s", diff)
		}
	})

	// For every kind of set, the command of an index sees the same variables when it is retried.
	for name, change := range map[string]func(*batch.TaskSet){
		"an array": func(*batch.TaskSet) {},
		"items":    func(set *batch.TaskSet) { set.Spec.Items = strings.Split("a b c d e f g h i j", " ") },
		"numbers": func(set *batch.TaskSet) {
			set.Spec.IndexNumbers = &batch.IndexNumbers{First: ptr.To[int32](1), Step: ptr.To[int32](5)}
		},
		"items and numbers": func(set *batch.TaskSet) {
			set.Spec.Items = strings.Split("a b c d e f g h i j", " ")
			set.Spec.IndexNumbers = &batch.IndexNumbers{List: []int32{2, 3, 5, 7, 11, 13, 17, 19, 23, 29}}
		},
		"a number of its own": func(set *batch.TaskSet) {
			set.Spec.Template.Spec.Env = []batch.EnvVar{{Name: taskstate.NumberVariable, Value: "n$(JOB_COMPLETION_INDEX)"}}
		},
		"a position of its own": func(set *batch.TaskSet) {
			set.Spec.Template.Spec.Env = []batch.EnvVar{{Name: positionVariable, Value: "p$(TASK_INDEX)"}}
		},
		"numbers as items": func(set *batch.TaskSet) {
			set.Spec.Items = strings.Split("1 2 3 5 7 11 13 17 19 23", " ")
			set.Spec.Template.Spec.Env = []batch.EnvVar{{Name: taskstate.NumberVariable, Value: taskstate.ItemReference}, {Name: positionVariable, Value: taskstate.ItemReference}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			set := endedSet(batch.TaskSetFailed, "0,2-5,9", "1,6-8")
			change(set)
			first := retrySet(t, set)
			failedAgain := first.DeepCopy()
			failedAgain.Status = endedSet(batch.TaskSetFailed, "0,3", "1-2").Status
			second := retrySet(t, failedAgain)
			for _, test := range []struct {
				set  *batch.TaskSet
				were []int
			}{{first, []int{1, 6, 7, 8}}, {second, []int{6, 7}}} {
				if n := int(*test.set.Spec.Completions); n != len(test.were) {
					t.Fatalf("%d completions, want %d", n, len(test.were))
				}
				for index, was := range test.were {
					got, want := variables(test.set, index), variables(set, was)
					if set.Spec.IndexNumbers != nil {
						// A retry cannot store a position that differs from the number.
						delete(got, positionVariable)
						delete(want, positionVariable)
					}
					if len(set.Spec.Items) == 0 || set.Spec.IndexNumbers == nil && taskstate.Numbers(set) != nil {
						delete(got, "TASK_ITEM")
						delete(want, "TASK_ITEM")
					}
					if diff := cmp.Diff(want, got); diff != "" {
						t.Errorf("index %d: want -, got +:\n%s", was, diff)
					}
				}
			}
		})
	}
	t.Run("all", func(t *testing.T) {
		set := endedSet(batch.TaskSetComplete, "0-9", "")
		set.Spec.Items = strings.Split("a b c d e f g h i j", " ")
		got := retrySet(t, set, "--all")
		if diff := cmp.Diff(set.Spec.Items, got.Spec.Items); diff != "" || got.Spec.IndexNumbers != nil || len(got.Spec.Template.Spec.Env) != 1 {
			t.Errorf("got %+v", got.Spec)
		}
	})
	t.Run("indexes that have not failed are named", func(t *testing.T) {
		o, errOut := retryFlags(t, "--index", "0-2")
		if got, err := o.retrySet(endedSet(batch.TaskSetFailed, "0,2-5,9", "1,6-8")); err != nil || got == nil {
			t.Fatalf("got %v, %v", got, err)
		}
		if want := "Left out indexes 0,2, which have not failed: --all runs them again nevertheless.\n"; errOut.String() != want {
			t.Errorf("got %q, want %q", errOut, want)
		}
	})
	t.Run("what was not begun is any number of indexes in a row", func(t *testing.T) {
		set := endedSet(batch.TaskSetFailed, "0-4", "")
		set.Spec.Completions = ptr.To[int32](1_000_000)
		got := retrySet(t, set)
		if diff := cmp.Diff(&batch.IndexNumbers{First: ptr.To[int32](5)}, got.Spec.IndexNumbers); diff != "" || *got.Spec.Completions != 999_995 {
			t.Errorf("got %+v", got.Spec)
		}
	})
	t.Run("more than a list holds", func(t *testing.T) {
		set := endedSet(batch.TaskSetFailed, "1", "")
		set.Spec.Completions = ptr.To[int32](20_000)
		got := retrySet(t, set)
		if v := variables(got, 1); got.Spec.IndexNumbers != nil || len(got.Spec.Items) != 19_999 || v[taskstate.NumberVariable] != "2" || v[positionVariable] != "2" {
			t.Errorf("got %d items, %v", len(got.Spec.Items), v)
		}
	})
	t.Run("nothing has failed", func(t *testing.T) {
		o, _ := retryFlags(t)
		if got, err := o.retrySet(endedSet(batch.TaskSetComplete, "0-3", "")); got != nil || err != nil {
			t.Errorf("got %v, %v", got, err)
		}
	})
	t.Run("some indexes", func(t *testing.T) {
		o, errOut := retryFlags(t, "--index", "0-1,7")
		got, err := o.retrySet(endedSet(batch.TaskSetFailed, "0,2-5,9", "1,6-8"))
		if err != nil || !cmp.Equal(got.(*batch.TaskSet).Spec.IndexNumbers.List, []int32{1, 7}) || errOut.String() != "Left out index 0, which has not failed: --all runs it again nevertheless.\n" {
			t.Errorf("got %+v, %v, %q", got, err, errOut)
		}
		if got := retrySet(t, endedSet(batch.TaskSetFailed, "0,2-5,9", "1,6-8"), "--index", "0-1,7", "--all"); !cmp.Equal(got.Spec.IndexNumbers.List, []int32{0, 1, 7}) {
			t.Errorf("got %+v", got.Spec.IndexNumbers)
		}
	})
	t.Run("without indexes", func(t *testing.T) {
		set := endedSet(batch.TaskSetFailed, "0-6", "")
		set.Spec.CompletionMode, set.Spec.BackoffLimitPerIndex, set.Spec.MaxFailedIndexes, set.Status.Succeeded = nil, nil, nil, 7
		if got := retrySet(t, set, "--backoff-limit", "9"); *got.Spec.Completions != 3 || *got.Spec.BackoffLimit != 9 {
			t.Errorf("got %+v", got.Spec)
		}
		if got := retrySet(t, set, "--all"); *got.Spec.Completions != 10 {
			t.Errorf("got %+v", got.Spec)
		}
	})

	large := endedSet(batch.TaskSetFailed, "1", "")
	large.Spec.Completions = ptr.To[int32](200_000)
	items := endedSet(batch.TaskSetFailed, "1", "")
	items.Spec.Completions, items.Spec.Items = ptr.To[int32](20_000), slices.Repeat([]string{"a"}, 20_000)
	for name, test := range map[string]struct {
		set   *batch.TaskSet
		index string
		want  string
	}{
		"runs":           {endedSet(batch.TaskSetSuspended, "", ""), "", "has not ended yet: wait for it with leat wait taskset/s, or cancel it"},
		"too many":       {large, "", "199999 indexes are left to run again, and a set of chosen indexes has at most 100000: run them in parts: leat retry taskset/s --index 0-100000, then the same with --index 100001-199999"},
		"too many items": {items, "", "19999 indexes are left to run again, and a set of chosen indexes has at most 10000: run them in parts: leat retry taskset/s --index 0-10000, then the same with --index 10001-19999"},
		"no such index":  {endedSet(batch.TaskSetFailed, "", ""), "9-12", "taskset/s has no indexes 10-12: its indexes go from 0 to 9"},
	} {
		var args []string
		if test.index != "" {
			args = []string{"--index", test.index}
		}
		o, _ := retryFlags(t, args...)
		if got, err := o.retrySet(test.set); got != nil || err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, %v", name, got, err)
		}
	}
	// The part that the error names can be retried.
	if got := retrySet(t, items, "--index", "0-10000"); len(got.Spec.IndexNumbers.List) != 10_000 {
		t.Errorf("got %d numbers", len(got.Spec.IndexNumbers.List))
	}
}

func TestRetryOverrides(t *testing.T) {
	args := []string{"--memory=8Gi", "--timeout=90s", "--backoff-limit=4", "--priority=0", "--queue=night"}
	spec := batch.TaskSpec{
		QueueName: "default", Priority: 7, BackoffLimit: ptr.To[int32](1), WorkerName: "w",
		Resources: batch.TaskResources{Requests: batch.ResourceList{batch.ResourceCPU: resource.MustParse("2"), batch.ResourceMemory: resource.MustParse("4Gi")}},
	}
	want := batch.TaskSpec{
		QueueName: "night", BackoffLimit: ptr.To[int32](4), ActiveDeadlineSeconds: ptr.To[int64](90),
		Resources: batch.TaskResources{Requests: batch.ResourceList{batch.ResourceCPU: resource.MustParse("2"), batch.ResourceMemory: resource.MustParse("8Gi")}},
	}
	o, _ := retryFlags(t, args...)
	task := &batch.Task{ObjectMeta: metav1.ObjectMeta{Name: "t", UID: "u"}, Spec: spec, Status: batch.TaskStatus{Phase: batch.TaskFailed}}
	retry, err := o.retryTask(task)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, retry.(*batch.Task).Spec); diff != "" {
		t.Errorf("task: want -, got +:\n%s", diff)
	}
	set := endedSet(batch.TaskSetFailed, "0-8", "9")
	set.Spec.Template.Spec = spec
	got := retrySet(t, set, args...)
	want.BackoffLimit, want.WorkerName = spec.BackoffLimit, "w"
	want.Env = []batch.EnvVar{{Name: positionVariable, Value: "$(TASK_INDEX)"}}
	if diff := cmp.Diff(want, got.Spec.Template.Spec); diff != "" || got.Spec.QueueName != "night" || *got.Spec.BackoffLimitPerIndex != 4 {
		t.Errorf("set: want -, got +:\n%s%+v", diff, got.Spec)
	}
	if memory := set.Spec.Template.Spec.Resources.Requests[batch.ResourceMemory]; set.Spec.Template.Spec.Priority != 7 || memory.String() != "4Gi" {
		t.Errorf("the old set has changed: %+v", set.Spec)
	}
	// A succeeded task is retried only with --all.
	task.Status.Phase = batch.TaskSucceeded
	for args, want := range map[string]bool{"--failed": false, "--all": true} {
		o, _ := retryFlags(t, args)
		if got, err := o.retryTask(task); err != nil || (got != nil) != want {
			t.Errorf("%s: got %v, %v", args, got, err)
		}
	}
}

func TestNamesOfRetriesAreValid(t *testing.T) {
	for name, want := range map[string]string{
		"squares":                                  "squares-retry-12",
		strings.Repeat("a", 53) + "-bcdefghi":      strings.Repeat("a", 53) + "-retry-12",
		"x." + strings.Repeat("a", 51) + ".bcdefg": "x." + strings.Repeat("a", 51) + "-retry-12",
	} {
		got := retryName(name, 12)
		if errs := validation.IsDNS1123Subdomain(got); got != want || len(errs) > 0 || len(got) > 63 {
			t.Errorf("retryName(%q) = %q, want %q: %v", name, got, want, errs)
		}
	}
}

func TestPartition(t *testing.T) {
	for _, test := range []struct {
		numbers       []indexes.Range
		limit         int
		first, others string
	}{
		{[]indexes.Range{{First: 0, Last: 2}}, 2, "0,1", "2"},
		{[]indexes.Range{{First: 3, Last: 4}, {First: 8, Last: 10}, {First: 20, Last: 20}}, 3, "3-8", "9-20"},
		{[]indexes.Range{{First: 0, Last: 99}}, 10, "0-9", "10-19, 20-29, 30-39, 40-49, 50-59, 60-69, 70-79, 80-89, 90-99"},
		{[]indexes.Range{{First: 0, Last: 100}}, 10, "0-9", "10-19, 20-29, 30-39, 40-49, 50-59, 60-69, 70-79, 80-89, 90-99, …"},
	} {
		if first, others := partition(test.numbers, test.limit); first != test.first || others != test.others {
			t.Errorf("%v by %d: got %q and %q, want %q and %q", test.numbers, test.limit, first, others, test.first, test.others)
		}
	}
}
