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

package chaos

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/leat-dev/leat/apis/batch/indexes"
	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit/history"
)

// follower returns a set that follows the set index by index. Its commands do nothing: what counts is when its tasks
// are created.
func (s set) follower() *batch.TaskSet {
	follower := newDependent("follows-"+s.name, batch.TaskSetDependency{Name: s.name, PerIndex: true})
	follower.Spec.Completions, follower.Spec.Parallelism = new(int32(completions)), new(int32(parallelism))
	follower.Spec.CompletionMode, follower.Spec.BackoffLimitPerIndex = new(batch.IndexedCompletion), new(int32(0))
	return follower
}

// last returns a set that waits until the follower has ended.
func (s set) last() *batch.TaskSet {
	return newDependent("last-"+s.name, batch.TaskSetDependency{Name: s.follower().Name, Condition: batch.TaskSetDependencyFinished})
}

func newDependent(name string, dependency batch.TaskSetDependency) *batch.TaskSet {
	set := &batch.TaskSet{ObjectMeta: metav1.ObjectMeta{Name: name}}
	set.Spec.DependsOn = []batch.TaskSetDependency{dependency}
	set.Spec.Template.Spec.Command = []string{"true"}
	set.Spec.Template.Spec.CrashLimit = new(int32(1<<31 - 1))
	return set
}

// checkDependencies checks that no task of the sets that depend on a set of the workload was created before it might
// start, and that they have ended as the set has.
func (s set) checkDependencies(changes []history.Change) (wrong []string) {
	follower, last := s.follower().Name, s.last().Name
	// latest are the sets by name, as of the change.
	latest := map[string]*batch.TaskSet{}
	completedText, completed := "", []indexes.Range(nil)
	for _, c := range changes {
		if set := c.SetAfter; set != nil {
			latest[set.Name] = set
			if text := set.Status.CompletedIndexes; set.Name == s.name && text != completedText {
				var err error
				if completed, err = indexes.Parse(text, completions); err != nil {
					wrong = append(wrong, fmt.Sprintf("set %s at revision %d: %v", s.name, c.Revision, err))
				}
				completedText = text
			}
		}
		if c.Before != nil || c.After == nil {
			continue
		}
		switch c.After.Labels[batch.LabelTaskSetName] {
		case follower:
			if early := indexes.Subtract(c.After.CompletionIndexes(), completed); len(early) > 0 {
				wrong = append(wrong, fmt.Sprintf("task %s was created at revision %d, before indexes %s of set %s had succeeded",
					c.After.Name, c.Revision, indexes.Format(early), s.name))
			}
		case last:
			if set := latest[follower]; set == nil || !hasEnded(set) {
				wrong = append(wrong, fmt.Sprintf("task %s was created at revision %d, before set %s had ended", c.After.Name, c.Revision, follower))
			}
		}
	}
	if first, second := latest[s.name], latest[follower]; first != nil && second != nil {
		failed, followed := ptr.Deref(first.Status.FailedIndexes, ""), ptr.Deref(second.Status.FailedIndexes, "")
		if failed != followed || first.Status.CompletedIndexes != second.Status.CompletedIndexes || second.Status.Failed > 0 {
			wrong = append(wrong, fmt.Sprintf("set %s has completed %s, failed %s with %d failed tasks; set %s: %s, failed %s", follower,
				second.Status.CompletedIndexes, followed, second.Status.Failed, s.name, first.Status.CompletedIndexes, failed))
		}
	}
	return wrong
}

// plantInDependencies moves the creation of a task to the begin of the history, for each kind of dependency. It returns
// the kinds without a task.
func plantInDependencies(random *rand.Rand, work []history.Change, detect func(fault string, detected bool)) (missing []string) {
	for _, prefix := range []string{"follows-", "last-"} {
		c, i := anyOf(random, work, func(c history.Change) bool {
			return c.Before == nil && c.After != nil && strings.HasPrefix(c.After.Labels[batch.LabelTaskSetName], prefix)
		})
		if i < 0 {
			missing = append(missing, "no set with the prefix "+prefix+" has a task: the run proves nothing about dependencies")
			continue
		}
		name := strings.TrimPrefix(c.After.Labels[batch.LabelTaskSetName], prefix)
		early := slices.Insert(slices.Delete(slices.Clone(work), i, i+1), 0, c)
		detect("a task that was created early: "+c.After.Name, len(set{name: name}.checkDependencies(early)) > 0)
	}
	return missing
}

func TestCheckDependenciesDetectsFaults(t *testing.T) {
	s := set{name: "set-0"}
	progress := func(name, completed string, failed string, ended bool) history.Change {
		set := &batch.TaskSet{ObjectMeta: metav1.ObjectMeta{Name: name}}
		set.Status.CompletedIndexes, set.Status.FailedIndexes = completed, &failed
		if ended {
			set.Status.Conditions = []metav1.Condition{{Type: batch.TaskSetFailed, Status: metav1.ConditionTrue}}
		}
		return history.Change{SetAfter: set}
	}
	created := func(set, index string) history.Change {
		task := &batch.Task{ObjectMeta: metav1.ObjectMeta{Name: set + "-" + index, Labels: map[string]string{batch.LabelTaskSetName: set}}}
		if strings.ContainsAny(index, ",-") {
			task.Spec.Indexes = index
		} else {
			task.Labels[batch.LabelCompletionIndex] = index
		}
		return history.Change{After: task}
	}
	right := []history.Change{
		progress("set-0", "", "", false), progress("set-0", "3", "", false), created("follows-set-0", "3"),
		progress("set-0", "1,3-5", "2", true), created("follows-set-0", "1,4,5"),
		progress("follows-set-0", "1,3-5", "2", true), created("last-set-0", "0"),
	}
	for _, test := range []struct {
		name, want string
		plant      func([]history.Change) []history.Change
	}{
		{"nothing", "", func(all []history.Change) []history.Change { return all }},
		{"an index that has not succeeded", "before indexes 4 of set set-0 had succeeded", func(all []history.Change) []history.Change {
			return slices.Insert(all, 2, created("follows-set-0", "3,4"))
		}},
		{"an index that has failed", "before indexes 2 of set set-0 had succeeded", func(all []history.Change) []history.Change {
			return append(all, created("follows-set-0", "2"))
		}},
		{"a task before the end", "before set follows-set-0 had ended", func(all []history.Change) []history.Change {
			return slices.Insert(all, 5, created("last-set-0", "0"))
		}},
		{"a lost failure", "failed  with 0 failed tasks; set set-0: 1,3-5, failed 2", func(all []history.Change) []history.Change {
			return append(all, progress("follows-set-0", "1,3-5", "", true))
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			expect(t, s.checkDependencies(test.plant(slices.Clone(right))), test.want)
		})
	}
}
