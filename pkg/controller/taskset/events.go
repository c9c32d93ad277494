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
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// recordEvents records an Event for each condition that has become true.
func (s *syncContext) recordEvents(before, after *batch.TaskSetStatus) {
	if s.recorder == nil {
		return
	}
	for _, condition := range after.Conditions {
		old := meta.FindStatusCondition(before.Conditions, condition.Type)
		if old != nil && old.Status == condition.Status || condition.Status != metav1.ConditionTrue && condition.Type != batch.TaskSetSuspended {
			continue
		}
		switch condition.Type {
		case batch.TaskSetComplete:
			s.recorder.Eventf(s.set, nil, corev1.EventTypeNormal, "Completed", "Complete", "TaskSet completed")
		case batch.TaskSetFailed:
			if condition.Reason == batch.TaskSetReasonCancelled {
				s.recorder.Eventf(s.set, nil, corev1.EventTypeNormal, condition.Reason, "Cancel", "%s", condition.Message)
			} else {
				s.recorder.Eventf(s.set, nil, corev1.EventTypeWarning, condition.Reason, "Fail", "%s", condition.Message)
			}
		case batch.TaskSetSuspended:
			reason, action := "Suspended", "Suspend"
			if condition.Status != metav1.ConditionTrue {
				reason, action = "Resumed", "Resume"
			}
			s.recorder.Eventf(s.set, nil, corev1.EventTypeNormal, reason, action, "%s", condition.Message)
		case batch.TaskSetReplicaFailure:
			s.recorder.Eventf(s.set, nil, corev1.EventTypeWarning, condition.Reason, "Create", "%s", condition.Message)
		}
	}
}
