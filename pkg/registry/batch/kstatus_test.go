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

package batch

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"

	"github.com/leat-dev/leat/apis/batch"
	"github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// TestKstatus checks the status that kstatus, and so "helm --wait" and Flux, computes for objects in each state.
// Objects are written as their components write them, through the strategies of the server.
func TestKstatus(t *testing.T) {
	scheme := newScheme()
	now := metav1.Now()
	condition := func(kind string, status metav1.ConditionStatus) metav1.Condition {
		return metav1.Condition{Type: kind, Status: status, Reason: "Tested", LastTransitionTime: now}
	}
	deleted := func(meta *metav1.ObjectMeta) {
		meta.DeletionTimestamp, meta.DeletionGracePeriodSeconds = &now, ptr.To[int64](30)
	}

	t.Run("Task", func(t *testing.T) {
		stores, _, _ := open(t, scheme)
		terminated := func(reason string, code int32) batch.TaskState {
			return batch.TaskState{Terminated: &batch.TaskStateTerminated{Reason: reason, ExitCode: code, StartedAt: now, FinishedAt: now}}
		}
		for _, test := range []struct {
			name   string
			change func(*batch.Task)
			want   status.Status
		}{
			{"pending", func(*batch.Task) {}, status.InProgressStatus},
			{"gated", func(o *batch.Task) { o.Spec.SchedulingGates = []batch.TaskSchedulingGate{{Name: "a"}} }, status.InProgressStatus},
			{"unschedulable", func(o *batch.Task) {
				o.Status.Conditions = append(o.Status.Conditions, condition(batch.TaskScheduled, metav1.ConditionFalse))
			}, status.InProgressStatus},
			{"bound", func(o *batch.Task) {
				o.Spec.WorkerName = "w"
				o.Status.Conditions = append(o.Status.Conditions, condition(batch.TaskScheduled, metav1.ConditionTrue))
			}, status.InProgressStatus},
			{"running", func(o *batch.Task) { o.Status.Phase = batch.TaskRunning }, status.InProgressStatus},
			{"evicted", func(o *batch.Task) {
				o.Status.Conditions = append(o.Status.Conditions, condition(batch.DisruptionTarget, metav1.ConditionTrue))
			}, status.InProgressStatus},
			{"succeeded", func(o *batch.Task) { o.Status.Phase, o.Status.State = batch.TaskSucceeded, terminated("Completed", 0) }, status.CurrentStatus},
			{"failed", func(o *batch.Task) { o.Status.Phase, o.Status.State = batch.TaskFailed, terminated("Error", 1) }, status.FailedStatus},
			{"could not be started", func(o *batch.Task) { o.Status.Phase, o.Status.State = batch.TaskFailed, terminated("StartError", 127) }, status.FailedStatus},
			{"written by a worker without conditions", func(o *batch.Task) {
				o.Status.Phase, o.Status.State, o.Status.Conditions = batch.TaskFailed, terminated("Error", 1), nil
			}, status.FailedStatus},
			{"being deleted", func(o *batch.Task) { deleted(&o.ObjectMeta) }, status.TerminatingStatus},
			{"failed and being deleted", func(o *batch.Task) {
				o.Status.Phase = batch.TaskFailed
				deleted(&o.ObjectMeta)
			}, status.TerminatingStatus},
		} {
			t.Run(test.name, func(t *testing.T) {
				task := &batch.Task{ObjectMeta: metav1.ObjectMeta{Name: "a", Namespace: "n"}, Spec: batch.TaskSpec{Command: []string{"true"}}}
				stores.Tasks.Store.CreateStrategy.PrepareForCreate(t.Context(), task)
				created := task.Status
				test.change(task)
				stored := task.DeepCopy()
				stored.Status = created
				stores.Tasks.StatusStore.UpdateStrategy.PrepareForUpdate(t.Context(), task, stored)
				judge(t, scheme, "Task", task, test.want)
			})
		}
	})

	t.Run("TaskSet", func(t *testing.T) {
		stores, _, _ := open(t, scheme)
		started := func(o *batch.TaskSet) { o.Status.StartTime = &now }
		ended := func(conditions ...string) func(*batch.TaskSet) {
			return func(o *batch.TaskSet) {
				started(o)
				for _, kind := range conditions {
					o.Status.Conditions = append(o.Status.Conditions, condition(kind, metav1.ConditionTrue))
				}
			}
		}
		// As for a Job: in progress until it is started and while it is suspended, and then current, unless it
		// fails.
		for _, test := range []struct {
			name   string
			change func(*batch.TaskSet)
			want   status.Status
		}{
			{"created", func(*batch.TaskSet) {}, status.InProgressStatus},
			{"created suspended", func(o *batch.TaskSet) {
				o.Status.Conditions = append(o.Status.Conditions, condition(batch.TaskSetSuspended, metav1.ConditionTrue))
			}, status.InProgressStatus},
			{"started", started, status.CurrentStatus},
			{"started, with tasks that cannot be created", ended("ReplicaFailure"), status.CurrentStatus},
			{"suspended after it was started", func(o *batch.TaskSet) {
				o.Status.Conditions = append(o.Status.Conditions, condition(batch.TaskSetSuspended, metav1.ConditionTrue))
				o.Status.StartTime = nil
			}, status.InProgressStatus},
			{"resumed", func(o *batch.TaskSet) {
				started(o)
				o.Status.Conditions = append(o.Status.Conditions, condition(batch.TaskSetSuspended, metav1.ConditionFalse))
			}, status.CurrentStatus},
			{"about to succeed", ended(batch.TaskSetSuccessCriteriaMet), status.CurrentStatus},
			{"complete", ended(batch.TaskSetSuccessCriteriaMet, batch.TaskSetComplete), status.CurrentStatus},
			{"about to fail", ended(batch.TaskSetFailureTarget), status.CurrentStatus},
			{"failed", ended(batch.TaskSetFailureTarget, batch.TaskSetFailed, v1alpha1.TaskSetStalled), status.FailedStatus},
			{"being deleted", func(o *batch.TaskSet) { deleted(&o.ObjectMeta) }, status.TerminatingStatus},
		} {
			t.Run(test.name, func(t *testing.T) {
				set := &batch.TaskSet{ObjectMeta: metav1.ObjectMeta{Name: "a", Namespace: "n", UID: "u"}}
				stores.TaskSets.Store.CreateStrategy.PrepareForCreate(t.Context(), set)
				created := set.Status
				test.change(set)
				stored := set.DeepCopy()
				stored.Status = created
				stores.TaskSets.StatusStore.UpdateStrategy.PrepareForUpdate(t.Context(), set, stored)
				judge(t, scheme, "TaskSet", set, test.want)
			})
		}
	})

	ready := func(status metav1.ConditionStatus) batch.WorkerStatus {
		return batch.WorkerStatus{Conditions: []metav1.Condition{condition("Ready", status)}}
	}
	for _, test := range []struct {
		kind, name string
		object     runtime.Object
		want       status.Status
	}{
		{"Worker", "ready", &batch.Worker{Status: ready(metav1.ConditionTrue)}, status.CurrentStatus},
		{"Worker", "not ready", &batch.Worker{Status: ready(metav1.ConditionFalse)}, status.InProgressStatus},
		{"Worker", "lost", &batch.Worker{Status: ready(metav1.ConditionUnknown)}, status.InProgressStatus},
		{"Worker", "cordoned", &batch.Worker{Spec: batch.WorkerSpec{Unschedulable: true}, Status: ready(metav1.ConditionTrue)}, status.CurrentStatus},
		{"TaskQueue", "created", &batch.TaskQueue{}, status.CurrentStatus},
		{"TaskQueue", "active", &batch.TaskQueue{Status: batch.TaskQueueStatus{Conditions: []metav1.Condition{condition("Active", metav1.ConditionTrue)}}}, status.CurrentStatus},
		{"TaskQueue", "held", &batch.TaskQueue{Status: batch.TaskQueueStatus{Conditions: []metav1.Condition{condition("Active", metav1.ConditionFalse)}}}, status.CurrentStatus},
		{"WorkerLease", "renewed", &batch.WorkerLease{Spec: batch.WorkerLeaseSpec{RenewTime: ptr.To(metav1.NewMicroTime(time.Now()))}}, status.CurrentStatus},
	} {
		t.Run(test.kind+"/"+test.name, func(t *testing.T) { judge(t, scheme, test.kind, test.object, test.want) })
	}
}

// judge fails the test unless kstatus computes the status for the object in each served version.
func judge(t *testing.T, scheme *runtime.Scheme, kind string, object runtime.Object, want status.Status) {
	t.Helper()
	for _, version := range scheme.PrioritizedVersionsForGroup(batch.GroupName) {
		versioned, err := scheme.ConvertToVersion(object, version)
		if err != nil {
			t.Fatal(err)
		}
		content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(versioned)
		if err != nil {
			t.Fatal(err)
		}
		u := &unstructured.Unstructured{Object: content}
		u.SetGroupVersionKind(version.WithKind(kind))
		result, err := status.Compute(u)
		if err != nil {
			t.Fatal(err)
		}
		if result.Status != want {
			t.Errorf("%s: got %s (%s), want %s", version.Version, result.Status, result.Message, want)
		}
		if result.Status == status.FailedStatus && result.Message == "" && kind == "Task" {
			t.Error("the status has no message")
		}
	}
}
