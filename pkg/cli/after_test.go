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
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/utils/ptr"

	"github.com/leat-dev/leat/apis/batch/indexes"
	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/cli/taskstate"
)

// dependentSet returns a set of that name, whose UID is its name, that waits for others.
func dependentSet(name string, dependsOn ...string) *batch.TaskSet {
	set := &batch.TaskSet{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: types.UID(name)}}
	set.Spec.Completions = ptr.To[int32](10)
	for _, other := range dependsOn {
		set.Spec.DependsOn = append(set.Spec.DependsOn, batch.TaskSetDependency{Name: other, Condition: batch.TaskSetDependencyComplete})
	}
	return set
}

// seen sets what the status of a set has of others.
func seen(set *batch.TaskSet, dependencies ...batch.TaskSetDependencyStatus) *batch.TaskSet {
	set.Status.Dependencies = dependencies
	return set
}

// ended makes a set end with a condition.
func ended(set *batch.TaskSet, condition string) *batch.TaskSet {
	set.Status.Conditions = []metav1.Condition{{Type: condition, Status: metav1.ConditionTrue, Reason: "Because"}}
	return set
}

// retried makes a set a retry of another.
func retried(set *batch.TaskSet, name string) *batch.TaskSet {
	set.Labels, set.Annotations = map[string]string{batch.LabelRetryOf: name}, map[string]string{batch.AnnotationRetryOf: name}
	return set
}

func TestRunAfterOthers(t *testing.T) {
	noCluster(t)
	for _, test := range []struct {
		args string
		want []batch.TaskSetDependency
	}{
		{"--after a,taskset/b --after c", []batch.TaskSetDependency{
			{Name: "a", Condition: batch.TaskSetDependencyComplete}, {Name: "b", Condition: batch.TaskSetDependencyComplete},
			{Name: "c", Condition: batch.TaskSetDependencyComplete},
		}},
		{"--after-any a --after-failed b", []batch.TaskSetDependency{
			{Name: "a", Condition: batch.TaskSetDependencyFinished}, {Name: "b", Condition: batch.TaskSetDependencyFailed},
		}},
		{"--array 5 --after-each a", []batch.TaskSetDependency{{Name: "a", Condition: batch.TaskSetDependencyComplete, PerIndex: true}}},
	} {
		args := append(append([]string{"run"}, strings.Fields(test.args)...), "--dry-run=client", "-o", "json", "--", "true")
		stdout, stderr, code := call(t, "leat", "", args...)
		var set batch.TaskSet
		if err := json.Unmarshal([]byte(stdout), &set); code != 0 || err != nil || set.Kind != "TaskSet" {
			t.Fatalf("%s: exit code %d, %v: %s%s", test.args, code, err, stdout, stderr)
		}
		if diff := cmp.Diff(test.want, set.Spec.DependsOn); diff != "" {
			t.Errorf("%s: want -, got +:\n%s", test.args, diff)
		}
	}
}

func TestStateNamesWhatASetWaitsFor(t *testing.T) {
	waiting := dependentSet("s", "a", "b")
	started := dependentSet("s", "a")
	started.Status.StartTime = &metav1.Time{}
	suspended := dependentSet("s", "a")
	suspended.Spec.Suspend = ptr.To(true)
	for _, test := range []struct {
		set  *batch.TaskSet
		want string
	}{
		{waiting, "Waiting for a, b"},
		{seen(dependentSet("s", "a", "b"), batch.TaskSetDependencyStatus{Name: "a", Met: true}), "Waiting for b"},
		{started, "Running"},
		{suspended, "Suspended"},
	} {
		if got := taskstate.StatusOfUnfinished(test.set); got != test.want {
			t.Errorf("got %q, want %q", got, test.want)
		}
	}
}

func TestCyclesAreFound(t *testing.T) {
	for _, test := range []struct {
		name string
		sets []*batch.TaskSet // the first one waits
		want string
	}{
		{"a chain", []*batch.TaskSet{dependentSet("a", "b"), dependentSet("b", "c"), dependentSet("c")}, ""},
		{"a diamond", []*batch.TaskSet{dependentSet("a", "b", "c"), dependentSet("b", "d"), dependentSet("c", "d"), dependentSet("d")}, ""},
		{"two", []*batch.TaskSet{dependentSet("a", "b"), dependentSet("b", "a")}, "a b a"},
		{"one behind it", []*batch.TaskSet{dependentSet("a", "missing", "b"), dependentSet("b", "c"), dependentSet("c", "b")}, "b c b"},
		{
			"one that a finished set has left",
			[]*batch.TaskSet{dependentSet("a", "c", "b"), ended(dependentSet("b", "a"), batch.TaskSetFailed), ended(dependentSet("c"), batch.TaskSetComplete)}, "",
		},
		{
			"behind a finished set",
			[]*batch.TaskSet{dependentSet("a", "c", "b"), dependentSet("b", "a"), ended(dependentSet("c"), batch.TaskSetComplete)}, "a b a",
		},
	} {
		s, client := fakeSession()
		for _, set := range test.sets {
			if err := client.Tracker().Add(set); err != nil {
				t.Fatal(err)
			}
		}
		cycle, err := s.cycleOf(t.Context(), test.sets[0])
		if got := strings.Join(cycle, " "); err != nil || got != test.want {
			t.Errorf("%s: got %q, %v; want %q", test.name, got, err, test.want)
		}
	}
}

func TestRetryWaitsForRetries(t *testing.T) {
	met := batch.TaskSetDependencyStatus{Name: "a", UID: "a", Met: true}
	unmet := batch.TaskSetDependencyStatus{Name: "a", UID: "a"}
	perIndex := func(set *batch.TaskSet) *batch.TaskSet {
		set.Spec.DependsOn[0].PerIndex = true
		return set
	}
	smaller := retried(dependentSet("a-retry-1"), "a")
	smaller.Spec.Completions = ptr.To[int32](3)
	for _, test := range []struct {
		name   string
		set    *batch.TaskSet
		others []*batch.TaskSet
		want   string // the names, or the error
	}{
		{"what it waited for has succeeded", seen(dependentSet("s", "a"), met), []*batch.TaskSet{ended(dependentSet("a"), batch.TaskSetComplete)}, ""},
		{"what it waited for has succeeded, and is gone", seen(dependentSet("s", "a"), met), nil, ""},
		{
			"what it waited for has failed", seen(dependentSet("s", "a"), unmet), []*batch.TaskSet{ended(dependentSet("a"), batch.TaskSetFailed)},
			"taskset/s waits for taskset/a, which has ended (Failed): leat retry taskset/a first, then leat retry taskset/s waits for that retry",
		},
		{
			"that is retried", seen(dependentSet("s", "a"), unmet),
			[]*batch.TaskSet{ended(dependentSet("a"), batch.TaskSetFailed), retried(dependentSet("a-retry-1"), "a")}, "a-retry-1",
		},
		{"that is gone", seen(dependentSet("s", "a"), unmet), nil, "a"},
		{"that runs", seen(dependentSet("s", "a"), unmet), []*batch.TaskSet{dependentSet("a")}, "a"},
		{
			"some indexes have failed, and are retried", perIndex(seen(dependentSet("s", "a"), met)),
			[]*batch.TaskSet{ended(dependentSet("a"), batch.TaskSetFailed), smaller}, "a-retry-1",
		},
		{"each index of one that runs", perIndex(seen(dependentSet("s", "a"), unmet)), []*batch.TaskSet{dependentSet("a")}, "a per index"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, client := fakeSession()
			for _, set := range test.others {
				if err := client.Tracker().Add(set); err != nil {
					t.Fatal(err)
				}
			}
			retry := &batch.TaskSet{Spec: *test.set.Spec.DeepCopy()}
			err := s.replaceDependencies(t.Context(), "leat", test.set, retry)
			var got []string
			for _, dependency := range retry.Spec.DependsOn {
				if got = append(got, dependency.Name); dependency.PerIndex {
					got = append(got, "per index")
				}
			}
			text := strings.Join(got, " ")
			if err != nil {
				text = err.Error()
			}
			if text != test.want {
				t.Errorf("got %q, want %q", text, test.want)
			}
		})
	}
}

// TestCancelledIndexesAreAddedToThoseOfOthers has another person cancel an index at the same time.
func TestCancelledIndexesAreAddedToThoseOfOthers(t *testing.T) {
	set := dependentSet("s")
	set.Spec.BackoffLimitPerIndex = ptr.To[int32](0)
	s, client := fakeSession(set)
	attempts := 0
	client.PrependReactor("patch", "tasksets", func(clienttesting.Action) (bool, runtime.Object, error) {
		if attempts++; attempts > 1 {
			return false, nil, nil
		}
		other := set.DeepCopy()
		other.Spec.CancelledIndexes = "7"
		if err := client.Tracker().Update(batch.SchemeGroupVersion.WithResource("tasksets"), other, "default"); err != nil {
			return true, nil, err
		}
		return true, nil, apierrors.NewInvalid(batch.SchemeGroupVersion.WithKind("TaskSet").GroupKind(), "s", nil)
	})
	streams, _, out, _ := genericiooptions.NewTestIOStreams()
	f := &factory{program: "leat", streams: streams}
	if err := f.cancelIndexes(t.Context(), s, object{set: set}, []indexes.Range{{First: 2, Last: 4}}, false); err != nil {
		t.Fatal(err)
	}
	got, err := s.api.TaskSets("default").Get(t.Context(), "s", metav1.GetOptions{})
	if err != nil || got.Spec.CancelledIndexes != "2-4,7" || !strings.Contains(out.String(), "indexes 2-4 cancelled") {
		t.Errorf("cancelled are %q, %v: %s", got.Spec.CancelledIndexes, err, out)
	}
}
