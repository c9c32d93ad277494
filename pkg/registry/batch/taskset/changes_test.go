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

package taskset

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/utils/ptr"

	"github.com/leat-dev/leat/apis/batch"
	"github.com/leat-dev/leat/apis/batch/indexes"
	"github.com/leat-dev/leat/apis/batch/v1alpha1"
)

func TestTemplateChanges(t *testing.T) {
	template := func(change func(*batch.TaskTemplateSpec)) func(*batch.TaskSet) {
		return func(set *batch.TaskSet) { change(&set.Spec.Template) }
	}
	order := func(queue string, priority int32) func(*batch.TaskSet) {
		return func(set *batch.TaskSet) {
			set.Spec.QueueName, set.Spec.Template.Spec.QueueName, set.Spec.Template.Spec.Priority = queue, queue, priority
		}
	}
	cancelled := func(set *batch.TaskSet) { set.Spec.Cancelled = true }
	const tooLate = "may change only while no task of the set runs, has succeeded or has failed; it must stay "
	late := []string{
		`spec.queueName: Invalid value: "other": ` + tooLate + `"default": make a new set`,
		`spec.template.spec.priority: Invalid value: 5: ` + tooLate + `0: make a new set`,
	}
	for _, test := range []struct {
		name    string
		old, to *batch.TaskSet
		want    []string
	}{
		{"nothing", newSet(), newSet(), nil},
		{"queue and priority of a set that waits", newSet(), newSet(order("other", 5)), nil},
		{
			"of one that has tasks which wait", newSet(status(func(s *batch.TaskSetStatus) { s.Active, s.Ready = 3, ptr.To[int32](0) })),
			newSet(order("other", 5), status(func(s *batch.TaskSetStatus) { s.Active, s.Ready = 3, ptr.To[int32](0) })), nil,
		},
		{"of one with a task that runs", newSet(), newSet(order("other", 5), status(func(s *batch.TaskSetStatus) { s.Ready = ptr.To[int32](1) })), late},
		{"of one with a success", newSet(), newSet(order("other", 5), status(func(s *batch.TaskSetStatus) { s.Succeeded = 1 })), late},
		{"of one with a failure", newSet(), newSet(order("other", 5), status(func(s *batch.TaskSetStatus) { s.Failed = 1 })), late},
		{
			"the command and the labels", newSet(),
			newSet(template(func(template *batch.TaskTemplateSpec) {
				template.Spec.Command, template.Labels = []string{"false"}, map[string]string{"a": "b"}
			})),
			[]string{`spec.template.metadata: Invalid value: field is immutable`, `spec.template.spec.command: Invalid value: field is immutable`},
		},
		{
			"what else a task may change", newSet(),
			newSet(template(func(template *batch.TaskTemplateSpec) {
				template.Spec.TTLSecondsAfterFinished, template.Spec.CrashLimit = ptr.To[int32](1), ptr.To[int32](9)
			})),
			[]string{`spec.template.spec.ttlSecondsAfterFinished: Invalid value: field is immutable`, `spec.template.spec.crashLimit: Invalid value: field is immutable`},
		},
		{"cancelled", newSet(), newSet(cancelled), nil},
		{"cancelled still", newSet(cancelled), newSet(cancelled), nil},
		{
			"cancelled no longer", newSet(cancelled), newSet(),
			[]string{`spec.cancelled: Invalid value: false: must stay true: a cancelled set does not run again; make a new set of what is left, as "leat retry" does`},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, texts(Rules{}.ValidateChange(t.Context(), test.to, test.old))); diff != "" {
				t.Errorf("want -, got +:\n%s", diff)
			}
		})
	}
}

func TestTemplateQueueFollowsTheSet(t *testing.T) {
	for _, test := range []struct{ set, template, want string }{
		{"other", "default", "other"}, {"other", "other", "other"}, {"other", "third", "third"}, {"default", "third", "third"},
	} {
		set := newSet()
		set.Spec.QueueName, set.Spec.Template.Spec.QueueName = test.set, test.template
		Rules{}.PrepareForUpdate(t.Context(), set, newSet())
		if got := set.Spec.Template.Spec.QueueName; got != test.want {
			t.Errorf("%+v: got %q", test, got)
		}
	}
}

// TestTasksOfTheTemplateAreValid uses templates at the limits of tasks, and just above.
func TestTasksOfTheTemplateAreValid(t *testing.T) {
	variables := func(n int, names ...string) func(*batch.TaskSet) {
		return func(set *batch.TaskSet) {
			for i := range n - len(names) {
				set.Spec.Template.Spec.Env = append(set.Spec.Template.Spec.Env, batch.EnvVar{Name: fmt.Sprintf("V%d", i)})
			}
			for _, name := range names {
				set.Spec.Template.Spec.Env = append(set.Spec.Template.Spec.Env, batch.EnvVar{Name: name})
			}
		}
	}
	args := func(bytes int) func(*batch.TaskSet) {
		return func(set *batch.TaskSet) { set.Spec.Template.Spec.Args = []string{strings.Repeat("a", bytes)} }
	}
	notes := func(bytes int) func(*batch.TaskSet) {
		return func(set *batch.TaskSet) {
			set.Spec.Template.Annotations = map[string]string{"note": strings.Repeat("a", bytes-len("note"))}
		}
	}
	backoff := func(limit int32) func(*batch.TaskSet) {
		return func(set *batch.TaskSet) { set.Spec.BackoffLimit = &limit }
	}
	const (
		command = len("true")
		added   = len("JOB_COMPLETION_INDEX") + len("TASK_INDEX")
		text    = 1<<20 - command - added
		item    = len("TASK_ITEM")
		count   = len(v1alpha1.AnnotationIndexFailureCount)
		kept    = 256 << 10
	)
	tooMuch := func(index, bytes int) []string {
		return []string{fmt.Sprintf("spec.template: Invalid value: the task of index %d, with what the set adds to the template, could not be created: "+
			"spec: Invalid value: command, args and env must be at most 1048576 bytes together, and are %d: pass more in a file that workers can read",
			index, bytes)}
	}
	for _, test := range []struct {
		name string
		set  *batch.TaskSet
		want []string
	}{
		{"all variables", newSet(variables(4094)), nil},
		{
			"one more", newSet(variables(4095)), []string{"spec.template.spec.env: Invalid value: must have at most 4094 variables, and has 4095: " +
				"each task gets JOB_COMPLETION_INDEX, TASK_INDEX in addition, and may have 4096"},
		},
		{"all variables, one of them the set's", newSet(variables(4095, "TASK_INDEX")), nil},
		{
			"one more with items", newSet(indexed(1, 1), items("a"), variables(4094)),
			[]string{"spec.template.spec.env: Invalid value: must have at most 4093 variables, and has 4094: " +
				"each task gets TASK_ITEM, JOB_COMPLETION_INDEX, TASK_INDEX in addition, and may have 4096"},
		},
		{"all text", newSet(args(text - 2)), nil},
		{"a byte more", newSet(args(text - 1)), tooMuch(0, 1<<20+1)},
		{"all text with long indexes", newSet(indexed(1, 1000), args(text-6)), nil},
		{"a byte more with long indexes", newSet(indexed(1, 1000), args(text-5)), tooMuch(999, 1<<20+1)},
		{"all text with items", newSet(indexed(1, 2), items("abc", "a$$"), args(text-2-item-5)), nil},
		{"a byte more with items", newSet(indexed(1, 2), items("abc", "a$$"), args(text-2-item-4)), tooMuch(1, 1<<20+1)},
		{
			"long items with short indexes", newSet(indexed(1, 12), items("abc", "", "", "", "", "", "", "", "", "", "", "ab"), args(text-4-item-1)),
			tooMuch(11, 1<<20+1),
		},
		{"all annotations", newSet(notes(kept), backoff(0)), nil},
		{"all annotations with a count of failures", newSet(notes(kept-count-2), backoff(99)), nil},
		{
			"a byte more", newSet(notes(kept-count-2), backoff(100)),
			[]string{"spec.template: Invalid value: the task of index 0, with what the set adds to the template, could not be created: " +
				"metadata.annotations: Too long: may not be more than 262144 bytes"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, texts(Rules{}.Validate(t.Context(), test.set))); diff != "" {
				t.Errorf("want -, got +:\n%s", diff)
			}
		})
	}
}

// TestStatusSpace expects errors for sets whose status could grow until they do not fit into etcd.
func TestStatusSpace(t *testing.T) {
	filled := func(bytes int) func(*batch.TaskSet) {
		return func(set *batch.TaskSet) { set.Spec.Template.Spec.Args = []string{strings.Repeat("a", bytes)} }
	}
	listed := func(n, bytes int) func(*batch.TaskSet) {
		return items(slices.Repeat([]string{strings.Repeat("a", bytes)}, n)...)
	}
	for _, test := range []struct {
		name   string
		set    *batch.TaskSet
		refuse bool
	}{
		{"a small one", newSet(), false},
		{"the largest text", newSet(filled(1 << 20)), false},
		{"the largest number of items, one at a time", newSet(indexed(1, 100_000), listed(100_000, 9)), false},
		{"the largest number of items, many at a time", newSet(indexed(10_000, 100_000), listed(100_000, 9)), false},
		{"the largest number of items, all at a time", newSet(indexed(100_000, 100_000), listed(100_000, 9)), true},
		{"the largest number of items, any of which may fail", newSet(indexed(1, 100_000), listed(100_000, 9), perIndex, unlimited), true},
		{"the largest number of items, some of which may fail", newSet(indexed(1, 100_000), listed(100_000, 9), perIndex, unlimited, maxFailed(1000)), false},
		{"the largest set", newSet(indexed(10_000, 1<<31-1), perIndex, unlimited, maxFailed(10_000)), false},
		{"the largest set with the largest text", newSet(indexed(10_000, 1<<31-1), perIndex, unlimited, maxFailed(10_000), filled(1<<20)), true},
		{"chunks that leave gaps", newSet(indexed(20_000, 100_000), filled(1<<20)), true},
		{"as many tasks without chunks", newSet(indexed(20_000, 100_000), filled(1<<20), func(set *batch.TaskSet) {
			set.Spec.Chunking = &batch.TaskSetChunking{MaxIndexes: ptr.To[int32](1)}
		}), false},
		{"without indexes, all at a time", newSet(func(set *batch.TaskSet) {
			set.Spec.Parallelism, set.Spec.Completions = ptr.To[int32](1e6), ptr.To[int32](1e6)
		}), true},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := texts(Rules{}.ValidateChange(t.Context(), test.set, nil))
			if (len(got) > 0) != test.refuse || test.refuse && !strings.Contains(got[0], "both must be at most 1540096 bytes together") {
				t.Errorf("got %q", got)
			}
		})
	}
	t.Run("nor is one made so", func(t *testing.T) {
		set := newSet(indexed(1, 100_000), listed(100_000, 9))
		if got := texts(Rules{}.ValidateChange(t.Context(), newSet(indexed(100_000, 100_000), listed(100_000, 9)), set)); len(got) != 1 {
			t.Errorf("got %q", got)
		}
	})
	t.Run("but one that is so already may change for the better", func(t *testing.T) {
		set := newSet(indexed(100_000, 100_000), listed(100_000, 9))
		if got := texts(Rules{}.ValidateChange(t.Context(), newSet(indexed(90_000, 100_000), listed(100_000, 9)), set)); len(got) != 0 {
			t.Errorf("got %q", got)
		}
	})
	t.Run("or elsewhere", func(t *testing.T) {
		set := newSet(indexed(100_000, 100_000), listed(100_000, 9))
		labelled := newSet(indexed(100_000, 100_000), listed(100_000, 9), func(set *batch.TaskSet) { set.Labels = map[string]string{"a": "b"} })
		if got := texts(Rules{}.ValidateChange(t.Context(), labelled, set)); len(got) != 0 {
			t.Errorf("got %q", got)
		}
	})
}

func unlimited(set *batch.TaskSet) { set.Spec.BackoffLimit = ptr.To[int32](1<<31 - 1) }

// TestMaxListBytes compares maxListBytes with the lists of random states that a set can reach.
func TestMaxListBytes(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	longest := 0.0
	for range 3000 {
		completions := 1 + random.IntN(1200)
		set := newSet(indexed(1+random.Int32N(int32(completions)+9), int32(completions)))
		set.Spec.BackoffLimit = ptr.To(random.Int32N(3000))
		failedAtMost := 0
		most := int(*set.Spec.BackoffLimit) + 1
		if random.IntN(2) == 0 {
			set.Spec.BackoffLimitPerIndex = ptr.To(random.Int32N(12))
			failedAtMost, most = completions, int(*set.Spec.BackoffLimitPerIndex)
			if random.IntN(2) == 0 {
				maxFailed(random.Int32N(int32(completions)))(set)
				failedAtMost = int(*set.Spec.MaxFailedIndexes) + int(*set.Spec.Parallelism)
			}
		}
		// Indexes are open, failed or completed. The open ones have the maximum of failures.
		failures := int(*set.Spec.BackoffLimit) + min(completions, int(*set.Spec.Parallelism))
		order := random.Perm(completions)
		if random.IntN(2) == 0 {
			slices.SortFunc(order, func(a, b int) int { return a%2 - b%2 }) // every other index, which takes most space
		}
		var completed, failed []int
		var counts []indexes.Counted
		for i, index := range order {
			switch {
			case i < int(*set.Spec.Parallelism):
				if n := min(most, failures, 1+random.IntN(max(1, most))); n > 0 {
					counts = append(counts, indexes.Counted{Index: index, Count: n})
					failures -= n
				}
			case len(failed) < failedAtMost && failures > 0 && random.IntN(3) > 0:
				failed = append(failed, index)
				failures--
			default:
				completed = append(completed, index)
			}
		}
		slices.SortFunc(counts, func(a, b indexes.Counted) int { return a.Index - b.Index })
		written := len(ranges(completed)) + len(ranges(failed)) + len(indexes.FormatCounts(counts))
		if room := maxListBytes(set); written > room {
			t.Fatalf("got %d bytes for lists of %d: %+v", room, written, set.Spec)
		} else {
			longest = max(longest, float64(written)/float64(room))
		}
	}
	if longest < 0.8 {
		t.Errorf("no list has more than %.0f %% of the maximum", 100*longest)
	}
}

// ranges returns indexes in the format of the status.
func ranges(list []int) string {
	slices.Sort(list)
	var ranges []indexes.Range
	for _, i := range list {
		if last := len(ranges) - 1; last >= 0 && ranges[last].Last == i-1 {
			ranges[last].Last = i
		} else {
			ranges = append(ranges, indexes.Range{First: i, Last: i})
		}
	}
	return indexes.Format(ranges)
}
