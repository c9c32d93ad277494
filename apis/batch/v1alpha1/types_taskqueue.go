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
// +leat:column:name=Pending,type=integer,path=status.pending,description=The number of tasks of the queue that wait for a worker.
// +leat:column:name=Running,type=integer,path=status.running,description=The number of tasks of the queue that are bound to a worker and unfinished.
// +leat:column:name=Limit,type=string,func=LimitColumn,description=The maximum number of tasks of the queue that run at any given time.
// +leat:column:name=Stop,type=string,func=StopColumn,description=Whether the queue is held or drained.
// +leat:column:name=Age,type=date,path=metadata.creationTimestamp,description=The time since the queue was created.

// TaskQueue configures how the tasks that name it share the workers of their namespace. A queue that tasks name and
// that has no TaskQueue object has the default values.
type TaskQueue struct {
	metav1.TypeMeta `json:",inline"`
	// Standard object's metadata.
	// More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata
	// +optional
	// +k8s:subfield(name)=+k8s:optional
	// +k8s:subfield(name)=+k8s:format=k8s-long-name
	metav1.ObjectMeta `json:"metadata,omitempty" protobuf:"bytes,1,opt,name=metadata"`

	// spec is the specification of the share and the limits of the queue.
	// +optional
	Spec TaskQueueSpec `json:"spec,omitempty" protobuf:"bytes,2,opt,name=spec"`

	// status is the most recently observed status of the queue.
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

// StopPolicy determines whether the tasks of a queue are started.
// +enum
// +k8s:enum
type StopPolicy string

const (
	// StopPolicyNone starts tasks.
	StopPolicyNone StopPolicy = "None"
	// StopPolicyHold starts no new tasks. Tasks that are running continue.
	StopPolicyHold StopPolicy = "Hold"
	// StopPolicyHoldAndDrain starts no new tasks, and evicts the tasks that are running.
	StopPolicyHoldAndDrain StopPolicy = "HoldAndDrain"
)

// TaskQueueSpec describes the share and the limits of a queue.
type TaskQueueSpec struct {
	// weight is the share of the queue, relative to the other queues of the namespace, while there are more tasks than the
	// workers can run. Defaults to 1.
	// +optional
	// +default=1
	// +k8s:optional
	// +k8s:minimum=1
	// +k8s:maximum=1000000
	Weight *int32 `json:"weight,omitempty" protobuf:"varint,1,opt,name=weight"`

	// maxRunningTasks is the maximum number of tasks of the queue that are bound to a worker and unfinished at any given
	// time. If unset, there is no limit.
	// +optional
	// +k8s:optional
	// +k8s:minimum=0
	MaxRunningTasks *int32 `json:"maxRunningTasks,omitempty" protobuf:"varint,2,opt,name=maxRunningTasks"`

	// resources are the limits of the resources that the running tasks of the queue request.
	// +optional
	Resources TaskQueueResources `json:"resources,omitempty" protobuf:"bytes,3,opt,name=resources"`

	// maxPendingTasks is the maximum number of tasks of the queue that wait. If the queue is full, the server responds to
	// the creation of a task with status 429 and Retry-After. Concurrent requests to several servers may exceed it
	// slightly. If unset, there is no limit.
	// +optional
	// +k8s:optional
	// +k8s:minimum=0
	MaxPendingTasks *int32 `json:"maxPendingTasks,omitempty" protobuf:"varint,4,opt,name=maxPendingTasks"`

	// stopPolicy determines whether the tasks of the queue are started: None, Hold or HoldAndDrain. Defaults to None.
	// +optional
	// +default="None"
	// +k8s:optional
	StopPolicy *StopPolicy `json:"stopPolicy,omitempty" protobuf:"bytes,5,opt,name=stopPolicy,casttype=StopPolicy"`
}

// TaskQueueResources describes the limits of the resources that the running tasks of a queue request.
type TaskQueueResources struct {
	// limits are the maximum amounts of resources that the running tasks of the queue may request together. A resource
	// that is not listed has no limit.
	// +optional
	// +k8s:optional
	Limits ResourceList `json:"limits,omitempty" protobuf:"bytes,1,rep,name=limits,casttype=ResourceList,castkey=ResourceName"`
}

// TaskQueueStatus is the most recently observed status of a queue.
type TaskQueueStatus struct {
	// pending is the number of tasks that wait for a worker.
	// +optional
	// +k8s:optional
	// +k8s:minimum=0
	Pending int32 `json:"pending,omitempty" protobuf:"varint,1,opt,name=pending"`

	// running is the number of tasks that are bound to a worker and unfinished.
	// +optional
	// +k8s:optional
	// +k8s:minimum=0
	Running int32 `json:"running,omitempty" protobuf:"varint,2,opt,name=running"`

	// used is the sum of the resources that the running tasks request.
	// +optional
	// +k8s:optional
	Used ResourceList `json:"used,omitempty" protobuf:"bytes,3,rep,name=used,casttype=ResourceList,castkey=ResourceName"`

	// oldestPendingTime is the creation time of the oldest task that waits.
	// +optional
	// +k8s:optional
	OldestPendingTime *metav1.Time `json:"oldestPendingTime,omitempty" protobuf:"bytes,4,opt,name=oldestPendingTime"`

	// conditions are the latest observations of the state of the queue: Active.
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
