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
	"slices"

	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/leat-dev/leat/apis/batch"
	"github.com/leat-dev/leat/apis/batch/indexes"
)

// validateDependsOn validates the sets that a set waits for. Whether they exist, or have as many completions as a set
// that depends on them per index, cannot be validated: they may be created later.
func validateDependsOn(set *batch.TaskSet, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	spec := &set.Spec
	for i, dependency := range spec.DependsOn {
		path := path.Index(i)
		if dependency.Name == set.Name && set.Name != "" {
			errs = append(errs, field.Invalid(path.Child("name"), dependency.Name, "must be another set: a set cannot wait for itself"))
		}
		if !dependency.PerIndex {
			continue
		}
		if spec.BackoffLimitPerIndex == nil || ptr.Deref(spec.CompletionMode, batch.NonIndexedCompletion) != batch.IndexedCompletion {
			errs = append(errs, field.Forbidden(path.Child("perIndex"), "may be set only when completionMode is Indexed and backoffLimitPerIndex is set"))
		}
		if dependency.Condition != batch.TaskSetDependencyComplete {
			errs = append(errs, field.Invalid(path.Child("condition"), dependency.Condition, "must be Complete when perIndex is set"))
		}
	}
	return errs
}

// dependsPerIndex returns how many sets a set depends on per index.
func dependsPerIndex(spec *batch.TaskSetSpec) int {
	n := 0
	for _, dependency := range spec.DependsOn {
		if dependency.PerIndex {
			n++
		}
	}
	return n
}

// validateCancelledIndexes validates that the indexes exist, and are written as the controller writes lists.
func validateCancelledIndexes(spec *batch.TaskSetSpec, path *field.Path) field.ErrorList {
	list := spec.CancelledIndexes
	if list == "" {
		return nil
	}
	if spec.BackoffLimitPerIndex == nil {
		return field.ErrorList{field.Forbidden(path, "may be set only when backoffLimitPerIndex is")}
	}
	ranges, err := indexes.Parse(list, int(ptr.Deref(spec.Completions, 0)))
	if err != nil {
		return field.ErrorList{field.Invalid(path, list, err.Error())}
	}
	if canonical := indexes.Format(indexes.Union(ranges, nil)); list != canonical {
		return field.ErrorList{field.Invalid(path, list, fmt.Sprintf("must be written as %q", canonical))}
	}
	return nil
}

// validateCancelledIndexesChange refuses to remove indexes. Both lists must be valid.
func validateCancelledIndexesChange(spec, old *batch.TaskSetSpec, path *field.Path) field.ErrorList {
	const limit = 1<<31 - 1
	before, errBefore := indexes.Parse(old.CancelledIndexes, limit)
	after, errAfter := indexes.Parse(spec.CancelledIndexes, limit)
	if errBefore != nil || errAfter != nil {
		return nil // Validate has refused it.
	}
	if removed := indexes.Subtract(before, after); len(removed) > 0 {
		return field.ErrorList{field.Invalid(path, spec.CancelledIndexes, fmt.Sprintf("must still contain %s: a cancelled index does not run again; "+
			"make a new set of what is left, as \"leat retry\" does", indexes.Format(removed)))}
	}
	return nil
}

// validateDependencies validates that the status has only dependencies of the spec.
func validateDependencies(set *batch.TaskSet, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, dependency := range set.Status.Dependencies {
		if !slices.ContainsFunc(set.Spec.DependsOn, func(d batch.TaskSetDependency) bool { return d.Name == dependency.Name }) {
			errs = append(errs, field.Invalid(path.Index(i).Child("name"), dependency.Name, "must be a name in spec.dependsOn"))
		}
	}
	return errs
}

// validateDependenciesChange refuses to forget a dependency that was observed, and that it was met.
func validateDependenciesChange(set, old *batch.TaskSet, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, before := range old.Status.Dependencies {
		i := slices.IndexFunc(set.Status.Dependencies, func(d batch.TaskSetDependencyStatus) bool { return d.Name == before.Name })
		switch {
		case i < 0:
			errs = append(errs, field.Required(path.Key(before.Name), "must not be removed once it is set"))
		case set.Status.Dependencies[i].UID != before.UID:
			errs = append(errs, field.Invalid(path.Key(before.Name).Child("uid"), set.Status.Dependencies[i].UID,
				fmt.Sprintf("must stay %q: another set of the same name does not count", before.UID)))
		case before.Met && !set.Status.Dependencies[i].Met:
			errs = append(errs, field.Invalid(path.Key(before.Name).Child("met"), false, "must stay true: it is final"))
		}
	}
	return errs
}

// waitsFor returns the names of the sets that a set waits for. A set that has started waits for none.
func waitsFor(set *batch.TaskSet) []string {
	if set.Status.StartTime != nil {
		return nil
	}
	var names []string
	for _, dependency := range set.Spec.DependsOn {
		met := func(d batch.TaskSetDependencyStatus) bool { return d.Name == dependency.Name && d.Met }
		if !slices.ContainsFunc(set.Status.Dependencies, met) {
			names = append(names, dependency.Name)
		}
	}
	return names
}
