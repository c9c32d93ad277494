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

package pools

import (
	"context"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"

	"github.com/leat-dev/leat/apis/batch/indexes"
	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/scheduler/framework"
)

// limitSets reduces the waiting tasks of each set whose median is known to those that let it finish in about target.
// All others stay as they are.
func (c *Controller) limitSets(ctx context.Context, namespace string, snapshot *framework.Snapshot) error {
	room := map[types.UID]int{}
	waiting := snapshot.Waiting[:0]
	for _, group := range snapshot.Waiting {
		if controller := group.Controller; controller != nil && controller.Kind == "TaskSet" {
			left, known := room[controller.UID]
			if !known {
				set, err := c.options.TaskSet(ctx, cache.ObjectName{Namespace: namespace, Name: controller.Name})
				if err != nil && !apierrors.IsNotFound(err) {
					return err
				}
				left = group.Count
				if err == nil && set.UID == controller.UID {
					left = maxWaiting(set, snapshot.Bound[controller.UID], c.options.Target)
				}
			}
			group.Count = min(group.Count, left)
			room[controller.UID] = left - group.Count
		}
		if group.Count > 0 {
			waiting = append(waiting, group)
		}
	}
	snapshot.Waiting = waiting
	return nil
}

// unlimited is more tasks than any set has.
const unlimited = 1 << 31

// maxWaiting returns how many further tasks of a set should run at a time, besides those that are bound, so that its
// remaining indexes take about target.
func maxWaiting(set *batch.TaskSet, bound int, target time.Duration) int {
	if set.Status.MedianMilliseconds == 0 || set.Spec.Completions == nil {
		return unlimited
	}
	failed := 0
	if ranges, err := indexes.Parse(ptr.Deref(set.Status.FailedIndexes, ""), int(*set.Spec.Completions)); err == nil {
		failed = indexes.Count(ranges)
	}
	remaining := int64(max(0, int(*set.Spec.Completions)-int(set.Status.Succeeded)-failed))
	slots := (remaining*set.Status.MedianMilliseconds + target.Milliseconds() - 1) / target.Milliseconds()
	// The counts in the status may be older than the tasks, so at least one task counts if none is bound.
	return int(max(1, slots)) - min(bound, int(max(1, slots)))
}
