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
	"k8s.io/apimachinery/pkg/types"
)

// +genclient
// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object
// +k8s:supportsSubresource="/status"
// +leat:resource:plural=workers,short=wkr
// +leat:subresource:archive=ArchiveREST
// +leat:column:name=Status,type=string,func=StatusColumn,description=Whether the worker is ready, and whether it accepts new tasks.
// +leat:column:name=Tasks,type=string,func=TasksColumn,description=The number of tasks that the worker runs, and the maximum number.
// +leat:column:name=Version,type=string,path=status.workerInfo.version,description=The version of the worker program.
// +leat:column:name=Age,type=date,path=metadata.creationTimestamp,description=The time since the worker was registered.

// Worker is a long-running process that runs the tasks bound to it. It registers itself.
type Worker struct {
	metav1.TypeMeta `json:",inline"`
	// Standard object's metadata.
	// More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata
	// +optional
	// +k8s:subfield(name)=+k8s:optional
	// +k8s:subfield(name)=+k8s:format=k8s-long-name
	metav1.ObjectMeta `json:"metadata,omitempty" protobuf:"bytes,1,opt,name=metadata"`

	// spec is the desired state of the worker, set by administrators and controllers.
	// +optional
	Spec WorkerSpec `json:"spec,omitempty" protobuf:"bytes,2,opt,name=spec"`

	// status is the state that the worker reports.
	// +optional
	Status WorkerStatus `json:"status,omitempty" protobuf:"bytes,3,opt,name=status"`
}

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// WorkerList is a list of workers.
type WorkerList struct {
	metav1.TypeMeta `json:",inline"`
	// Standard list metadata.
	// +optional
	metav1.ListMeta `json:"metadata,omitempty" protobuf:"bytes,1,opt,name=metadata"`

	// items is the list of workers.
	Items []Worker `json:"items" protobuf:"bytes,2,rep,name=items"`
}

// WorkerSpec describes the desired state of a worker.
type WorkerSpec struct {
	// unschedulable prevents new tasks from being bound to the worker. Tasks that are bound to it continue. Defaults to
	// false.
	// +optional
	// +k8s:optional
	// +leat:selectable
	Unschedulable bool `json:"unschedulable,omitempty" protobuf:"varint,1,opt,name=unschedulable"`

	// taints are the taints of the worker. They apply to tasks that do not tolerate them.
	// +optional
	// +listType=atomic
	// +k8s:optional
	// +k8s:listType=atomic
	// +k8s:unique=map
	// +k8s:listMapKey=key
	// +k8s:listMapKey=effect
	// +k8s:maxItems=64
	Taints []Taint `json:"taints,omitempty" protobuf:"bytes,2,rep,name=taints"`

	// denied revokes the credentials of the worker, for example after its key was stolen: its requests are rejected and no
	// tasks are bound to it. A denied worker is not removed when its lease expires, and cannot be deleted while its
	// namespace exists. Defaults to false.
	// +optional
	// +k8s:optional
	Denied bool `json:"denied,omitempty" protobuf:"varint,3,opt,name=denied"`
}

// Taint has an effect on all tasks that do not tolerate it.
type Taint struct {
	// key of the taint.
	// +required
	// +k8s:required
	// +k8s:format=k8s-label-key
	Key string `json:"key" protobuf:"bytes,1,opt,name=key"`

	// value of the taint.
	// +optional
	// +k8s:optional
	// +k8s:format=k8s-label-value
	Value string `json:"value,omitempty" protobuf:"bytes,2,opt,name=value"`

	// effect of the taint on tasks that do not tolerate it: NoSchedule, PreferNoSchedule or NoExecute.
	// +required
	// +k8s:required
	Effect TaintEffect `json:"effect" protobuf:"bytes,3,opt,name=effect,casttype=TaintEffect"`

	// timeAdded is the time at which the taint was added. tolerationSeconds is relative to it.
	// +optional
	// +k8s:optional
	TimeAdded *metav1.Time `json:"timeAdded,omitempty" protobuf:"bytes,4,opt,name=timeAdded"`
}

// WorkerReady is the type of the condition that is True while the worker accepts and runs tasks, False when it reports
// that it cannot, and Unknown once its lease has expired.
const WorkerReady = "Ready"

// WorkerResourcePressure is the type of the condition that is True while the worker is short of what it needs to start
// commands: file descriptors, processes, memory or disk space. It accepts fewer tasks then. The reason names the
// resource.
const WorkerResourcePressure = "ResourcePressure"

// WorkerStatus is the state that a worker reports.
type WorkerStatus struct {
	// capacity is the total amount of resources of the worker.
	// +optional
	// +k8s:optional
	Capacity ResourceList `json:"capacity,omitempty" protobuf:"bytes,1,rep,name=capacity,casttype=ResourceList,castkey=ResourceName"`

	// allocatable is the amount of resources that are available for tasks.
	// +optional
	// +k8s:optional
	Allocatable ResourceList `json:"allocatable,omitempty" protobuf:"bytes,2,rep,name=allocatable,casttype=ResourceList,castkey=ResourceName"`

	// conditions are the latest observations of the state of the worker: Ready and ResourcePressure.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +patchMergeKey=type
	// +patchStrategy=merge
	// +k8s:optional
	// +k8s:listType=map
	// +k8s:listMapKey=type
	// +k8s:maxItems=64
	Conditions []metav1.Condition `json:"conditions,omitempty" patchStrategy:"merge" patchMergeKey:"type" protobuf:"bytes,3,rep,name=conditions"`

	// incarnation identifies the process of the worker. Each process sets a new one when it starts.
	// +optional
	// +k8s:optional
	// +k8s:maxLength=128
	Incarnation string `json:"incarnation,omitempty" protobuf:"bytes,4,opt,name=incarnation"`

	// runningTasks is the number of tasks that the worker last reported as running.
	// +optional
	// +k8s:optional
	// +k8s:minimum=0
	RunningTasks int32 `json:"runningTasks,omitempty" protobuf:"varint,5,opt,name=runningTasks"`

	// workerInfo describes the worker process and its machine.
	// +optional
	WorkerInfo WorkerInfo `json:"workerInfo,omitempty" protobuf:"bytes,6,opt,name=workerInfo"`

	// endpoint is the address at which the worker serves the logs of its tasks. If unset, the worker serves no logs.
	// +optional
	// +k8s:optional
	Endpoint *WorkerEndpoint `json:"endpoint,omitempty" protobuf:"bytes,7,opt,name=endpoint"`

	// prefetchLimit is the number of tasks that may be bound to the worker in addition to those that it can run at a time.
	// They wait on the worker, and start as soon as others end. If 0, no task is bound before it can run.
	// +optional
	// +k8s:optional
	// +k8s:minimum=0
	PrefetchLimit int32 `json:"prefetchLimit,omitempty" protobuf:"varint,8,opt,name=prefetchLimit"`

	// unarchived are the UIDs of TaskSets. The worker holds output and records of their tasks that are not in the archive
	// yet.
	// +optional
	// +listType=set
	// +k8s:optional
	// +k8s:listType=set
	// +k8s:maxItems=64
	// +k8s:eachVal=+k8s:format=k8s-uuid
	Unarchived []types.UID `json:"unarchived,omitempty" protobuf:"bytes,9,rep,name=unarchived,casttype=k8s.io/apimachinery/pkg/types.UID"`
}

// WorkerInfo describes a worker process and its machine.
type WorkerInfo struct {
	// version of the worker program.
	// +optional
	// +k8s:optional
	// +k8s:maxLength=256
	Version string `json:"version,omitempty" protobuf:"bytes,1,opt,name=version"`

	// os is the operating system, as named by Go, such as "linux".
	// +optional
	// +k8s:optional
	// +k8s:maxLength=256
	OS string `json:"os,omitempty" protobuf:"bytes,2,opt,name=os"`

	// arch is the processor architecture, as named by Go, such as "amd64".
	// +optional
	// +k8s:optional
	// +k8s:maxLength=256
	Arch string `json:"arch,omitempty" protobuf:"bytes,3,opt,name=arch"`

	// hostname of the machine or container of the worker.
	// +optional
	// +k8s:optional
	// +k8s:maxLength=256
	Hostname string `json:"hostname,omitempty" protobuf:"bytes,4,opt,name=hostname"`

	// bootID identifies the boot of the machine.
	// +optional
	// +k8s:optional
	// +k8s:maxLength=256
	BootID string `json:"bootID,omitempty" protobuf:"bytes,5,opt,name=bootID"`

	// features are the optional features of the API that the worker supports: chunks, to run tasks with spec.indexes.
	// +optional
	// +listType=set
	// +k8s:optional
	// +k8s:listType=set
	// +k8s:maxItems=64
	// +k8s:eachVal=+k8s:maxLength=64
	Features []WorkerFeature `json:"features,omitempty" protobuf:"bytes,6,rep,name=features,casttype=WorkerFeature"`
}

// WorkerFeature is an optional feature of the API that a worker supports.
type WorkerFeature string

// LabelPool is the label of a worker with the name of its pool. Tasks select it with spec.pool.
const LabelPool = "batch.leat.dev/pool"

// WorkerFeatureChunks is the feature to run tasks with spec.indexes. Such tasks are bound only to workers that have it.
const WorkerFeatureChunks WorkerFeature = "chunks"

// WorkerEndpoint is the address at which a worker serves logs over TLS.
type WorkerEndpoint struct {
	// host is a DNS name or an IP address that the API server can reach.
	// +required
	// +k8s:required
	// +k8s:maxLength=253
	Host string `json:"host" protobuf:"bytes,1,opt,name=host"`

	// port is a TCP port.
	// +required
	// +k8s:required
	// +k8s:minimum=1
	// +k8s:maximum=65535
	Port int32 `json:"port" protobuf:"varint,2,opt,name=port"`

	// caBundle is a PEM-encoded CA bundle of at most 16 KiB that verifies the serving certificate of the worker, which is
	// issued for the name leat-worker. A worker generates a new certificate each time it starts.
	// +required
	// +k8s:required
	CABundle []byte `json:"caBundle" protobuf:"bytes,3,opt,name=caBundle"`
}

// +genclient
// +genclient:noStatus
// +genclient:skipVerbs=watch
// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object
// +leat:resource:plural=workerleases
// +leat:column:name=Holder,type=string,path=spec.holderIdentity,description=The incarnation of the worker that renews the lease.
// +leat:column:name=Renewed,type=date,func=RenewedColumn,description=The time since the lease was renewed.
// +leat:column:name=Age,type=date,path=metadata.creationTimestamp,description=The time since the lease was created.

// WorkerLease is renewed by the worker of the same name as its heartbeat. It cannot be watched, because no component
// reacts to single heartbeats.
type WorkerLease struct {
	metav1.TypeMeta `json:",inline"`
	// Standard object's metadata.
	// More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata
	// +optional
	// +k8s:subfield(name)=+k8s:optional
	// +k8s:subfield(name)=+k8s:format=k8s-long-name
	metav1.ObjectMeta `json:"metadata,omitempty" protobuf:"bytes,1,opt,name=metadata"`

	// spec is the holder of the lease and the time of its renewal.
	// +optional
	Spec WorkerLeaseSpec `json:"spec,omitempty" protobuf:"bytes,2,opt,name=spec"`
}

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// WorkerLeaseList is a list of worker leases.
type WorkerLeaseList struct {
	metav1.TypeMeta `json:",inline"`
	// Standard list metadata.
	// +optional
	metav1.ListMeta `json:"metadata,omitempty" protobuf:"bytes,1,opt,name=metadata"`

	// items is the list of worker leases.
	Items []WorkerLease `json:"items" protobuf:"bytes,2,rep,name=items"`
}

// WorkerLeaseSpec describes the holder of a lease and the time of its renewal.
type WorkerLeaseSpec struct {
	// holderIdentity is the incarnation of the worker that renews the lease.
	// +optional
	// +k8s:optional
	// +k8s:maxLength=128
	HolderIdentity string `json:"holderIdentity,omitempty" protobuf:"bytes,1,opt,name=holderIdentity"`

	// leaseDurationSeconds is the time in seconds after renewTime for which the worker is considered alive. Defaults to
	// 40.
	// +optional
	// +default=40
	// +k8s:optional
	// +k8s:minimum=1
	LeaseDurationSeconds *int32 `json:"leaseDurationSeconds,omitempty" protobuf:"varint,2,opt,name=leaseDurationSeconds"`

	// renewTime is the time at which the worker last renewed the lease.
	// +optional
	// +k8s:optional
	RenewTime *metav1.MicroTime `json:"renewTime,omitempty" protobuf:"bytes,3,opt,name=renewTime"`
}
