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
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/cli/taskstate"
)

// pendingSample is the number of pending tasks of a set that are read to find a reason why none starts.
const pendingSample = 50

// replicaFailure returns the reason why the controller cannot create tasks of the set, or "".
func replicaFailure(set *batch.TaskSet) string {
	c := meta.FindStatusCondition(set.Status.Conditions, batch.TaskSetReplicaFailure)
	if c == nil || c.Status != metav1.ConditionTrue {
		return ""
	}
	return "its tasks cannot be created: " + c.Message
}

// setWaitingReason returns the reason why no task of the set runs, or "" if it is unknown.
func (s *session) setWaitingReason(ctx context.Context, program string, set *batch.TaskSet) (string, error) {
	if ptr.Deref(set.Spec.Suspend, false) {
		return fmt.Sprintf("it is suspended: %s resume %s starts it", program, ref{kindSet, set.Name}), nil
	}
	if why := replicaFailure(set); why != "" {
		return why, nil
	}
	if names := taskstate.WaitsFor(set); len(names) > 0 {
		return "it starts after " + strings.Join(names, ", "), nil
	}
	if set.Status.StartTime == nil {
		return "no controller has started it yet: does leat-controller-manager run?", nil
	}
	list, err := s.api.Tasks(s.namespace).List(ctx, metav1.ListOptions{
		LabelSelector: batch.LabelControllerUID + "=" + string(set.UID), FieldSelector: "status.phase=" + string(batch.TaskPending), Limit: pendingSample,
	})
	if err != nil || len(list.Items) == 0 {
		return "", err
	}
	chosen := &list.Items[0]
	for i := range list.Items {
		if meta.IsStatusConditionFalse(list.Items[i].Status.Conditions, batch.TaskScheduled) {
			chosen = &list.Items[i]
			break
		}
	}
	return s.taskWaitingReason(ctx, chosen)
}

// taskWaitingReason returns the reason why the command of the task does not run.
func (s *session) taskWaitingReason(ctx context.Context, task *batch.Task) (string, error) {
	switch {
	case task.DeletionTimestamp != nil:
		return "it is being deleted", nil
	case len(task.Spec.SchedulingGates) > 0:
		var gates []string
		for _, gate := range task.Spec.SchedulingGates {
			gates = append(gates, gate.Name)
		}
		return "it is held until these are removed from its spec.schedulingGates: " + strings.Join(gates, ", "), nil
	case task.Spec.WorkerName != "":
		if waiting := task.Status.State.Waiting; waiting != nil {
			return fmt.Sprintf("on worker %s: %s: %s", task.Spec.WorkerName, waiting.Reason, waiting.Message), nil
		}
		return fmt.Sprintf("worker %s has it and has not started it yet", task.Spec.WorkerName), nil
	}
	queue, err := s.api.TaskQueues(s.namespace).Get(ctx, task.Spec.QueueName, metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return "", err
	}
	if err == nil {
		if policy := ptr.Deref(queue.Spec.StopPolicy, batch.StopPolicyNone); policy != batch.StopPolicyNone {
			return fmt.Sprintf("queue %s starts no tasks: its spec.stopPolicy is %s", queue.Name, policy), nil
		}
		if limit := queue.Spec.MaxRunningTasks; limit != nil && queue.Status.Running >= *limit {
			return fmt.Sprintf("queue %s is full: %d of at most %d tasks run", queue.Name, queue.Status.Running, *limit), nil
		}
	}
	if c := meta.FindStatusCondition(task.Status.Conditions, batch.TaskScheduled); c != nil && c.Status == metav1.ConditionFalse {
		return fmt.Sprintf("%s: %s", c.Reason, c.Message), nil
	}
	return "the scheduler has not said why", nil
}
