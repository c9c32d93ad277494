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

package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// +genclient
// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object
// +k8s:supportsSubresource="/status"
// +leat:resource:plural=taskqueues,short=tq,categories=all
// +leat:column:name=Pending,type=integer,path=status.pending,description=How many tasks of the queue wait for a worker.
// +leat:column:name=Running,type=integer,path=status.running,description=How many tasks of the queue are bound to a worker and have not finished.
// +leat:column:name=Limit,type=string,func=LimitColumn,description=How many tasks of the queue may run at a time.
// +leat:column:name=Stop,type=string,func=StopColumn,description=Whether the queue is held or drained.
// +leat:column:name=Age,type=date,path=metadata.creationTimestamp,description=The time since the queue was created.

// TaskQueue says how the tasks that name it share the workers of their namespace. A queue that tasks name but that has no
// object behaves as one with default values.
type TaskQueue struct {
	metav1.TypeMeta `json:",inline"`
	// Standard object's metadata.
	// More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata
	// +optional
	// +k8s:subfield(name)=+k8s:optional
	// +k8s:subfield(name)=+k8s:format=k8s-long-name
	metav1.ObjectMeta `json:"metadata,omitempty" protobuf:"bytes,1,opt,name=metadata"`

	// spec is the queue's share and limits.
	// +optional
	Spec TaskQueueSpec `json:"spec,omitempty" protobuf:"bytes,2,opt,name=spec"`

	// status is what waits and runs.
	// +optional
	Status TaskQueueStatus `json:"status,omitempty" protobuf:"bytes,3,opt,name=status"`
}

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// TaskQueueList is a list of task queues.
type TaskQueueList struct {
	metav1.TypeMeta `json:",inline"`
	// Standard list metadata.
	// +optional
	metav1.ListMeta `json:"metadata,omitempty" protobuf:"bytes,1,opt,name=metadata"`

	// items is the list of task queues.
	Items []TaskQueue `json:"items" protobuf:"bytes,2,rep,name=items"`
}

// StopPolicy is whether a queue starts tasks.
// +enum
// +k8s:enum
type StopPolicy string

const (
	// StopPolicyNone lets tasks start.
	StopPolicyNone StopPolicy = "None"
	// StopPolicyHold starts no more tasks; those that run go on.
	StopPolicyHold StopPolicy = "Hold"
	// StopPolicyHoldAndDrain starts no more tasks and ends those that run.
	StopPolicyHoldAndDrain StopPolicy = "HoldAndDrain"
)

// TaskQueueSpec is a queue's share and limits.
type TaskQueueSpec struct {
	// weight is the queue's part, relative to the other queues of the namespace, when there is more to run than room.
	// +optional
	// +default=1
	// +k8s:optional
	// +k8s:minimum=1
	// +k8s:maximum=1000000
	Weight *int32 `json:"weight,omitempty" protobuf:"varint,1,opt,name=weight"`

	// maxRunningTasks is how many tasks of the queue may be bound and unfinished at a time. Unset: no limit.
	// +optional
	// +k8s:optional
	// +k8s:minimum=0
	MaxRunningTasks *int32 `json:"maxRunningTasks,omitempty" protobuf:"varint,2,opt,name=maxRunningTasks"`

	// resources limit what the running tasks of the queue may request together.
	// +optional
	Resources TaskQueueResources `json:"resources,omitempty" protobuf:"bytes,3,opt,name=resources"`

	// maxPendingTasks is how many tasks of the queue may wait; past it, creating a task is answered 429 with a time to
	// wait. It may be overshot by the creates in flight on each server. Unset: no limit.
	// +optional
	// +k8s:optional
	// +k8s:minimum=0
	MaxPendingTasks *int32 `json:"maxPendingTasks,omitempty" protobuf:"varint,4,opt,name=maxPendingTasks"`

	// stopPolicy is whether the queue starts tasks: None (the default), Hold, HoldAndDrain.
	// +optional
	// +default="None"
	// +k8s:optional
	StopPolicy *StopPolicy `json:"stopPolicy,omitempty" protobuf:"bytes,5,opt,name=stopPolicy,casttype=StopPolicy"`
}

// TaskQueueResources limit what the running tasks of a queue may request.
type TaskQueueResources struct {
	// limits is how much of each resource the running tasks may request together. A resource without a limit is free.
	// +optional
	// +k8s:optional
	Limits ResourceList `json:"limits,omitempty" protobuf:"bytes,1,rep,name=limits,casttype=ResourceList,castkey=ResourceName"`
}

// TaskQueueStatus is what waits and runs in a queue.
type TaskQueueStatus struct {
	// pending is how many tasks wait for a worker.
	// +optional
	// +k8s:optional
	// +k8s:minimum=0
	Pending int32 `json:"pending,omitempty" protobuf:"varint,1,opt,name=pending"`

	// running is how many tasks are bound to a worker and have not finished.
	// +optional
	// +k8s:optional
	// +k8s:minimum=0
	Running int32 `json:"running,omitempty" protobuf:"varint,2,opt,name=running"`

	// used is what the running tasks request together.
	// +optional
	// +k8s:optional
	Used ResourceList `json:"used,omitempty" protobuf:"bytes,3,rep,name=used,casttype=ResourceList,castkey=ResourceName"`

	// oldestPendingTime is when the oldest task that waits was created.
	// +optional
	// +k8s:optional
	OldestPendingTime *metav1.Time `json:"oldestPendingTime,omitempty" protobuf:"bytes,4,opt,name=oldestPendingTime"`

	// conditions are the state of the queue: Active.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +patchMergeKey=type
	// +patchStrategy=merge
	// +k8s:optional
	// +k8s:listType=map
	// +k8s:listMapKey=type
	// +k8s:maxItems=64
	Conditions []metav1.Condition `json:"conditions,omitempty" patchStrategy:"merge" patchMergeKey:"type" protobuf:"bytes,5,rep,name=conditions"`
}
