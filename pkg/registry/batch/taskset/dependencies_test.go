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
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/utils/ptr"

	"github.com/leat-dev/leat/apis/batch"
)

func dependsOn(dependencies ...batch.TaskSetDependency) func(*batch.TaskSet) {
	return func(set *batch.TaskSet) { set.Spec.DependsOn = dependencies }
}

func cancelled(list string) func(*batch.TaskSet) {
	return func(set *batch.TaskSet) { set.Spec.CancelledIndexes = list }
}

func observed(dependencies ...batch.TaskSetDependencyStatus) func(*batch.TaskSet) {
	return func(set *batch.TaskSet) { set.Status.Dependencies = dependencies }
}

func TestValidateDependencies(t *testing.T) {
	each := batch.TaskSetDependency{Name: "other", Condition: batch.TaskSetDependencyComplete, PerIndex: true}
	for _, test := range []struct {
		name string
		set  *batch.TaskSet
		want []string
	}{
		{"another set", newSet(dependsOn(batch.TaskSetDependency{Name: "other", Condition: batch.TaskSetDependencyFailed})), nil},
		{
			"itself", newSet(func(set *batch.TaskSet) { set.Name = "other" }, dependsOn(batch.TaskSetDependency{Name: "other"})),
			[]string{`spec.dependsOn[0].name: Invalid value: "other": must be another set: a set cannot wait for itself`},
		},
		{"each index", newSet(indexed(1, 3), perIndex, dependsOn(each)), nil},
		{
			"each index of a set without indexes", newSet(dependsOn(each)),
			[]string{`spec.dependsOn[0].perIndex: Forbidden: may be set only when completionMode is Indexed and backoffLimitPerIndex is set`},
		},
		{
			"each index, which cannot fail by itself", newSet(indexed(1, 3), dependsOn(each)),
			[]string{`spec.dependsOn[0].perIndex: Forbidden: may be set only when completionMode is Indexed and backoffLimitPerIndex is set`},
		},
		{
			"each index that fails", newSet(indexed(1, 3), perIndex, dependsOn(batch.TaskSetDependency{
				Name: "other", Condition: batch.TaskSetDependencyFinished, PerIndex: true,
			})),
			[]string{`spec.dependsOn[0].condition: Invalid value: "Finished": must be Complete when perIndex is set`},
		},
		{"cancelled indexes", newSet(indexed(1, 10), perIndex, cancelled("0,3-5,9")), nil},
		{
			"cancelled indexes that cannot fail by themselves", newSet(indexed(1, 10), cancelled("0")),
			[]string{`spec.cancelledIndexes: Forbidden: may be set only when backoffLimitPerIndex is`},
		},
		{
			"cancelled indexes past the end", newSet(indexed(1, 10), perIndex, cancelled("8-10")),
			[]string{`spec.cancelledIndexes: Invalid value: "8-10": "8-10": indexes must be less than 10`},
		},
		{
			"cancelled indexes in another form", newSet(indexed(1, 10), perIndex, cancelled("1,2,3")),
			[]string{`spec.cancelledIndexes: Invalid value: "1,2,3": must be written as "1-3"`},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, texts(Rules{}.Validate(t.Context(), test.set))); diff != "" {
				t.Errorf("want -, got +:\n%s", diff)
			}
		})
	}
}

func TestCancelledIndexesOnlyGrow(t *testing.T) {
	set := func(list string) *batch.TaskSet { return newSet(indexed(1, 10), perIndex, cancelled(list)) }
	for _, test := range []struct {
		old, to string
		want    []string
	}{
		{"", "3", nil},
		{"3", "3", nil},
		{"3,7", "2-7", nil},
		{"3-7", "3,5-8", []string{`spec.cancelledIndexes: Invalid value: "3,5-8": must still contain 4: a cancelled index does not run again; ` +
			`make a new set of what is left, as "leat retry" does`}},
		{"3", "", []string{`spec.cancelledIndexes: Invalid value: "": must still contain 3: a cancelled index does not run again; ` +
			`make a new set of what is left, as "leat retry" does`}},
	} {
		if diff := cmp.Diff(test.want, texts(Rules{}.ValidateChange(t.Context(), set(test.to), set(test.old)))); diff != "" {
			t.Errorf("%q to %q: want -, got +:\n%s", test.old, test.to, diff)
		}
	}
}

func TestCompletionsOfSetThatDependsPerIndexAreFixed(t *testing.T) {
	each := dependsOn(batch.TaskSetDependency{Name: "other", Condition: batch.TaskSetDependencyComplete, PerIndex: true})
	got := texts(Rules{}.ValidateChange(t.Context(), newSet(indexed(4, 4), perIndex, each), newSet(indexed(3, 3), perIndex, each)))
	want := []string{`spec.completions: Invalid value: 4: may not change in a set that depends on another per index`}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("want -, got +:\n%s", diff)
	}
}

func TestDependenciesInStatusAreFinal(t *testing.T) {
	on := dependsOn(batch.TaskSetDependency{Name: "a"}, batch.TaskSetDependency{Name: "b"})
	seen := batch.TaskSetDependencyStatus{Name: "a", UID: "1"}
	met := batch.TaskSetDependencyStatus{Name: "a", UID: "1", Met: true}
	for _, test := range []struct {
		name    string
		old, to *batch.TaskSet
		want    []string
	}{
		{"the first is seen", newSet(on), newSet(on, observed(seen)), nil},
		{"it is met, and another is seen", newSet(on, observed(seen)), newSet(on, observed(met, batch.TaskSetDependencyStatus{Name: "b", UID: "2"})), nil},
		{
			"a name that the set does not depend on", newSet(on), newSet(on, observed(batch.TaskSetDependencyStatus{Name: "c", UID: "1"})),
			[]string{`status.dependencies[0].name: Invalid value: "c": must be a name in spec.dependsOn`},
		},
		{"forgotten", newSet(on, observed(seen)), newSet(on), []string{`status.dependencies[a]: Required value: must not be removed once it is set`}},
		{
			"replaced", newSet(on, observed(seen)), newSet(on, observed(batch.TaskSetDependencyStatus{Name: "a", UID: "2"})),
			[]string{`status.dependencies[a].uid: Invalid value: "2": must stay "1": another set of the same name does not count`},
		},
		{"reverted", newSet(on, observed(met)), newSet(on, observed(seen)), []string{`status.dependencies[a].met: Invalid value: false: must stay true: it is final`}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := append(texts(Rules{}.ValidateStatus(t.Context(), test.to)), texts(Rules{}.ValidateStatusChange(t.Context(), test.to, test.old))...)
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("want -, got +:\n%s", diff)
			}
		})
	}
}

func TestStatusColumnNamesWhatASetWaitsFor(t *testing.T) {
	on := dependsOn(batch.TaskSetDependency{Name: "a"}, batch.TaskSetDependency{Name: "b"})
	for _, test := range []struct {
		name string
		set  *batch.TaskSet
		want string
	}{
		{"new", newSet(on), "Waiting for a, b"},
		{"one is met", newSet(on, observed(batch.TaskSetDependencyStatus{Name: "a", Met: true})), "Waiting for b"},
		{"suspended", newSet(on, with("True", batch.TaskSetSuspended)), "Suspended"},
		{"all are met", newSet(on, observed(batch.TaskSetDependencyStatus{Name: "a", Met: true}, batch.TaskSetDependencyStatus{Name: "b", Met: true})), "Running"},
		{"started, and waits for indexes", newSet(on, status(func(s *batch.TaskSetStatus) { s.StartTime = at(1) })), "Running"},
	} {
		if got := StatusColumn(test.set); got != test.want {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
}

// TestStatusSpaceOfSetThatDependsPerIndex expects space for the gaps that indexes leave which are open in another set.
func TestStatusSpaceOfSetThatDependsPerIndex(t *testing.T) {
	each := dependsOn(batch.TaskSetDependency{Name: "other", Condition: batch.TaskSetDependencyComplete, PerIndex: true})
	alone := maxListBytes(newSet(indexed(1, 1000), perIndex, func(set *batch.TaskSet) { set.Spec.MaxFailedIndexes = ptr.To[int32](0) }))
	follows := maxListBytes(newSet(indexed(1, 1000), perIndex, each, func(set *batch.TaskSet) { set.Spec.MaxFailedIndexes = ptr.To[int32](0) }))
	if all := 500 * len("999,"); alone > all || follows < all {
		t.Errorf("%d bytes are left for the lists of a set, and %d if it depends on another per index, which may need %d", alone, follows, all)
	}
}
