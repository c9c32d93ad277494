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

package state

import (
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// Other returns the set of a name that another set depends on: the one with that UID, or the one that exists if the UID
// is empty. It returns nil if there is none. A set that was deleted after it had finished is returned as it was last.
func (s *Store) Other(name types.NamespacedName, uid types.UID) *batch.TaskSet {
	s.mu.Lock()
	defer s.mu.Unlock()
	sets := s.names[name]
	switch {
	case sets == nil:
		return nil
	case sets.observed != nil && (uid == "" || sets.observed.UID == uid):
		return sets.observed
	case sets.deleted != nil && sets.deleted.UID == uid:
		return sets.deleted
	}
	return nil
}

// IsWaitedFor reports whether an unfinished set depends on this one and its status does not show yet that this one has
// ended.
func (s *Store) IsWaitedFor(set *batch.TaskSet) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name := range s.dependents[types.NamespacedName{Namespace: set.Namespace, Name: set.Name}] {
		dependent := s.names[name].observed
		if dependent.DeletionTimestamp != nil {
			continue
		}
		seen := dependent.Status.Dependency(set.Name)
		if seen == nil || seen.UID == set.UID && !seen.Met {
			return true
		}
	}
	return false
}

// dependencies returns the names of the sets that a set depends on, with whether it does per index. A finished set
// depends on none.
func dependencies(set *batch.TaskSet) map[types.NamespacedName]bool {
	if set == nil || len(set.Spec.DependsOn) == 0 || FinishedCondition(set) != nil {
		return nil
	}
	names := make(map[types.NamespacedName]bool, len(set.Spec.DependsOn))
	for _, dependency := range set.Spec.DependsOn {
		names[types.NamespacedName{Namespace: set.Namespace, Name: dependency.Name}] = dependency.PerIndex
	}
	return names
}

// updateDependents replaces what the set of a name depends on. The caller must hold s.mu.
func (s *Store) updateDependents(name types.NamespacedName, before, after *batch.TaskSet) {
	former, current := dependencies(before), dependencies(after)
	for other, perIndex := range current {
		if s.dependents[other] == nil {
			s.dependents[other] = map[types.NamespacedName]bool{}
		}
		s.dependents[other][name] = perIndex
	}
	for other := range former {
		if _, still := current[other]; still {
			continue
		}
		if delete(s.dependents[other], name); len(s.dependents[other]) > 0 {
			continue
		}
		delete(s.dependents, other)
		if sets := s.names[other]; sets != nil {
			sets.deleted = nil
			s.forget(other, sets)
		}
	}
}

// affectedDependents returns the sets that depend on what has changed in the set of a name. The caller must hold s.mu.
func (s *Store) affectedDependents(name types.NamespacedName, before, after *batch.TaskSet) []types.NamespacedName {
	outcome := before == nil || after == nil || before.UID != after.UID || (before.DeletionTimestamp == nil) != (after.DeletionTimestamp == nil) ||
		(FinishedCondition(before) == nil) != (FinishedCondition(after) == nil)
	progress := outcome || !ptr.Equal(before.Spec.Completions, after.Spec.Completions) ||
		before.Status.CompletedIndexes != after.Status.CompletedIndexes || !ptr.Equal(before.Status.FailedIndexes, after.Status.FailedIndexes)
	if !progress {
		return nil
	}
	var affected []types.NamespacedName
	for dependent, perIndex := range s.dependents[name] {
		if outcome || perIndex {
			affected = append(affected, dependent)
		}
	}
	return affected
}
