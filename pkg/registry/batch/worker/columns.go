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

package worker

import (
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leat-dev/leat/apis/batch"
)

// StatusColumn returns the state of the worker in the words that kubectl uses for Nodes, and Denied.
func StatusColumn(worker *batch.Worker) any {
	words := []string{"Unknown"}
	if ready := meta.FindStatusCondition(worker.Status.Conditions, batch.WorkerReady); ready != nil {
		words[0] = map[metav1.ConditionStatus]string{
			metav1.ConditionTrue: "Ready", metav1.ConditionFalse: "NotReady", metav1.ConditionUnknown: "Unknown",
		}[ready.Status]
	}
	if worker.Spec.Denied {
		words = append(words, "Denied")
	}
	if worker.Spec.Unschedulable {
		words = append(words, "SchedulingDisabled")
	}
	return strings.Join(words, ",")
}

// TasksColumn returns the number of running tasks and the number that the worker can run.
func TasksColumn(worker *batch.Worker) any {
	tasks, ok := worker.Status.Allocatable[batch.ResourceTasks]
	if !ok {
		return ""
	}
	return fmt.Sprintf("%d/%s", worker.Status.RunningTasks, tasks.String())
}
