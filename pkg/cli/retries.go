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
	"context"
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leat-dev/leat/apis/batch/indexes"
	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/cli/taskstate"
)

// shownRetries is the number of sets that a summary names.
const shownRetries = 5

// retries is a set and all its retries.
type retries struct {
	name      string
	first     *batch.TaskSet // nil if it is deleted
	retrySets []batch.TaskSet
}

// retriesOf returns the set, or the original set if it is a retry, with all retries. It returns nil if there are none.
func (s *session) retriesOf(ctx context.Context, set *batch.TaskSet) (*retries, error) {
	name, uid := retryOf(set.ObjectMeta)
	list, err := s.api.TaskSets(s.namespace).List(ctx, metav1.ListOptions{LabelSelector: batch.LabelRetryOf + "=" + string(uid)})
	if err != nil || len(list.Items) == 0 {
		return nil, err
	}
	slices.SortFunc(list.Items, func(a, b batch.TaskSet) int { return a.CreationTimestamp.Compare(b.CreationTimestamp.Time) })
	all := &retries{name: name, retrySets: list.Items}
	if set.UID == uid {
		all.first = set
		return all, nil
	}
	first, err := s.api.TaskSets(s.namespace).Get(ctx, name, metav1.GetOptions{})
	switch {
	case err == nil && first.UID == uid:
		all.first = first
	case err != nil && !objectNotFound(err):
		return nil, err
	}
	return all, nil
}

// String describes how much of the first set has succeeded over all retries.
func (r *retries) String() string {
	sets := make([]*batch.TaskSet, 0, len(r.retrySets)+1)
	if r.first != nil {
		sets = append(sets, r.first)
	}
	for i := range r.retrySets {
		sets = append(sets, &r.retrySets[i])
	}
	count, parts := 0, make([]string, 0, len(sets))
	var done []indexes.Range
	for _, set := range sets {
		count += int(set.Status.Succeeded)
		parts = append(parts, fmt.Sprintf("%s %d", set.Name, set.Status.Succeeded))
		if completed, err := completedOf(set); err == nil {
			done = indexes.Union(done, taskstate.Numbers(set).Numbers(completed))
		}
	}
	if more := len(parts) - shownRetries; more > 0 {
		parts = append(parts[:shownRetries], fmt.Sprintf("… and %d more", more))
	}
	indexed := hasIndexes(sets[0])
	if indexed {
		count = indexes.Count(done)
	}
	of := fmt.Sprintf(" of taskset/%s, which is deleted,", r.name)
	if r.first != nil && r.first.Spec.Completions != nil {
		of = fmt.Sprintf(" of %d", *r.first.Spec.Completions)
	}
	text := fmt.Sprintf("%d%s have succeeded in all (%s)", count, of, strings.Join(parts, ", "))
	if indexed && r.first != nil {
		all := taskstate.Numbers(r.first).Numbers([]indexes.Range{{First: 0, Last: completionsOf(r.first) - 1}})
		if remaining := indexes.Subtract(all, done); len(remaining) > 0 {
			text += "; not yet: " + describeNumbers(remaining)
		}
	}
	return text
}
