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
	"errors"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/controller/taskset/state"
)

// cleanUpFinished deletes the tasks that a finished set no longer needs and, once its time to live is over, the set.
func (s *syncContext) cleanUpFinished(ctx context.Context) error {
	s.state.Finish()
	_, stopErr := s.deleteTasks(ctx, s.state.ActiveTasks())
	err := errors.Join(stopErr, s.deleteCounted(ctx))
	if s.set.Spec.TTLSecondsAfterFinished == nil {
		return err
	}
	return errors.Join(err, s.processTTL(ctx))
}

// processTTL deletes a set whose time to live is over, after its tasks. It reads the set first, because the time to
// live may have been extended. A set remains until those that depend on it have stored how it has ended.
func (s *syncContext) processTTL(ctx context.Context) error {
	expiry := func(set *batch.TaskSet) (time.Time, bool) {
		final, ttl := state.FinishedCondition(set), set.Spec.TTLSecondsAfterFinished
		if final == nil || ttl == nil {
			return time.Time{}, false
		}
		return final.LastTransitionTime.Add(batch.Seconds(int64(*ttl))), true
	}
	if at, _ := expiry(s.set); at.After(s.now) {
		s.requeueAt(at)
		return nil
	}
	if s.store.IsWaitedFor(s.set) {
		s.requeueAt(s.now.Add(statusWriteInterval))
		return nil
	}
	sets := s.client.BatchV1alpha1().TaskSets(s.set.Namespace)
	set, err := sets.Get(ctx, s.set.Name, metav1.GetOptions{})
	if err != nil {
		return client.IgnoreNotFound(err)
	}
	if at, ok := expiry(set); set.UID != s.set.UID || set.DeletionTimestamp != nil || !ok || at.After(s.now) {
		return nil // An event will show the change.
	}
	return client.IgnoreNotFound(sets.Delete(ctx, set.Name, metav1.DeleteOptions{
		Preconditions:     &metav1.Preconditions{UID: &set.UID, ResourceVersion: &set.ResourceVersion},
		PropagationPolicy: ptr.To(metav1.DeletePropagationForeground),
	}))
}
