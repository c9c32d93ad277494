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
	"context"
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/leat-dev/leat/apis/batch/indexes"
	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/controller/taskset/state"
)

// dependencyState is what a set knows of one that it depends on. It goes from the first row to the last at most once,
// and stays in the last two: met is stored, and the failure is stored as the outcome of the set.
//
//	state            the other set                                                          the set
//	unmet            does not exist, or has not ended                                       waits
//	unmet, per index has not ended                                                          may run what has succeeded there
//	differs          is per index and has other indexes                                     waits
//	met              has ended as required, or per index in whatever way                    may start
//	failed           has ended otherwise, or is gone and was observed before                fails
type dependencyState int

const (
	unmet dependencyState = iota
	differs
	met
	failed
)

// dependencies is what all sets together that a set depends on mean for it.
type dependencies struct {
	// hold reports whether nothing may start.
	hold bool
	// failure is why the set has to fail, empty if it does not have to.
	failure string
}

// syncDependencies updates the dependencies in the status and their condition, and limits the indexes that may start.
// It sends a request only to confirm that a set is gone.
func (s *syncContext) syncDependencies(ctx context.Context, status *batch.TaskSetStatus) (dependencies, error) {
	var result dependencies
	if len(s.set.Spec.DependsOn) == 0 {
		return result, nil
	}
	var waiting, different []string
	var followed []followedSet
	for _, dependency := range s.set.Spec.DependsOn {
		seen := status.Dependency(dependency.Name)
		if seen != nil && seen.Met {
			continue
		}
		other, err := s.otherSet(ctx, dependency.Name, seen)
		if err != nil {
			return result, err
		}
		if seen == nil && other != nil {
			status.Dependencies = append(status.Dependencies, batch.TaskSetDependencyStatus{Name: dependency.Name, UID: other.UID})
			seen = &status.Dependencies[len(status.Dependencies)-1]
		}
		current, why := s.evaluate(dependency, other, seen != nil)
		switch current {
		case met:
			seen.Met = true
		case failed:
			result.failure = why
		case differs:
			different = append(different, why)
		case unmet:
			waiting = append(waiting, why)
		}
		if dependency.PerIndex {
			followed = append(followed, followedSet{other, current})
		} else if current != met {
			result.hold = true
		}
	}
	if result.failure == "" {
		if err := s.follow(followed); err != nil {
			return result, err
		}
	}
	// A set that has started stays so: what has succeeded in another set remains succeeded.
	result.hold = result.hold || status.StartTime == nil && !s.state.MayStartAny()
	s.setDependenciesMet(status, result.failure, different, waiting)
	return result, nil
}

// otherSet returns the set that this one depends on, nil if it does not exist. seen is what the status has of it. A set
// that is being deleted does not count unless it was seen before: another one of the name may follow.
func (s *syncContext) otherSet(ctx context.Context, name string, seen *batch.TaskSetDependencyStatus) (*batch.TaskSet, error) {
	key := types.NamespacedName{Namespace: s.set.Namespace, Name: name}
	if seen == nil {
		if other := s.store.Other(key, ""); other != nil && other.DeletionTimestamp == nil {
			return other, nil
		}
		return nil, nil
	}
	if other := s.store.Other(key, seen.UID); other != nil {
		return other, nil
	}
	// The set may exist although it was not observed, because a former leader may have seen more than this one.
	other, err := s.client.BatchV1alpha1().TaskSets(key.Namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || err == nil && other.UID != seen.UID {
		return nil, nil
	}
	return other, err
}

// evaluate returns the state of a dependency. other is the set that it names, nil if that does not exist, and seen
// reports whether it has existed. why explains the state, unless it is met.
func (s *syncContext) evaluate(dependency batch.TaskSetDependency, other *batch.TaskSet, seen bool) (_ dependencyState, why string) {
	name := dependency.Name
	if other == nil {
		if seen {
			return failed, fmt.Sprintf("TaskSet %s was deleted before it was %s", name, dependency.Condition)
		}
		return unmet, name + " (does not exist yet)"
	}
	final := state.FinishedCondition(other)
	if dependency.PerIndex && !haveSameIndexes(s.set, other) {
		why = fmt.Sprintf("TaskSet %s does not have the %d indexes of this one", name, ptr.Deref(s.set.Spec.Completions, 0))
		if final != nil {
			return failed, why
		}
		return differs, why
	}
	switch {
	case final == nil && other.DeletionTimestamp != nil:
		return unmet, name + " (is being deleted)"
	case final == nil:
		return unmet, name
	case dependency.PerIndex, dependency.Condition == batch.TaskSetDependencyFinished, final.Type == string(dependency.Condition):
		return met, ""
	}
	return failed, fmt.Sprintf("TaskSet %s is %s (%s) and had to be %s", name, final.Type, final.Reason, dependency.Condition)
}

// haveSameIndexes reports whether two sets have the same number of indexes.
func haveSameIndexes(set, other *batch.TaskSet) bool {
	return ptr.Deref(other.Spec.CompletionMode, "") == batch.IndexedCompletion && ptr.Equal(set.Spec.Completions, other.Spec.Completions)
}

// followedSet is a set that another one depends on per index, nil if it does not exist.
type followedSet struct {
	set   *batch.TaskSet
	state dependencyState
}

// follow limits the indexes that may start to those that have succeeded in all followed sets, and fails those that
// cannot succeed there any more. It does nothing until one of the sets has changed.
//
// Once a set has ended, each index has succeeded in it or fails here. So the status that has it as met has all that is
// needed of it, and the set may be deleted.
func (s *syncContext) follow(followed []followedSet) error {
	others := make([]*batch.TaskSet, len(followed))
	for i, other := range followed {
		others[i] = other.set
	}
	if s.state.Follows(others) {
		return nil
	}
	startable := make([][]indexes.Range, 0, len(followed))
	for _, other := range followed {
		if other.set == nil || other.state == differs {
			startable = append(startable, nil)
			continue
		}
		end := int(*other.set.Spec.Completions)
		succeeded, err := indexes.Parse(other.set.Status.CompletedIndexes, end)
		if err != nil {
			return err
		}
		lost, err := indexes.Parse(ptr.Deref(other.set.Status.FailedIndexes, ""), end)
		if err != nil {
			return err
		}
		if other.state == met {
			lost = indexes.Subtract([]indexes.Range{{First: 0, Last: end - 1}}, succeeded)
		} else {
			startable = append(startable, succeeded)
		}
		s.state.FailIndexes(lost, s.set.Spec.MaxFailedIndexes)
	}
	s.state.Follow(others, startable)
	return nil
}

// setDependenciesMet updates the condition DependenciesMet.
func (s *syncContext) setDependenciesMet(status *batch.TaskSetStatus, failure string, different, waiting []string) {
	is, reason, message := metav1.ConditionFalse, batch.TaskSetReasonWaiting, "TaskSet waits for "+strings.Join(waiting, ", ")
	switch {
	case failure != "":
		reason, message = batch.TaskSetReasonDependencyFailed, failure
	case len(different) > 0:
		reason, message = batch.TaskSetReasonCompletionsDiffer, strings.Join(different, "; ")
	case len(waiting) == 0:
		is, reason, message = metav1.ConditionTrue, batch.TaskSetReasonDependenciesMet, "All sets that TaskSet depends on have ended as required"
	}
	meta.SetStatusCondition(&status.Conditions, *s.newCondition(batch.TaskSetDependenciesMet, is, reason, message))
}

// equalDependencies reports whether two statuses have the same dependencies.
func equalDependencies(a, b *batch.TaskSetStatus) bool {
	return slices.Equal(a.Dependencies, b.Dependencies)
}
