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
// +leat:resource:plural=workers,short=wkr
// +leat:column:name=Status,type=string,func=StatusColumn,description=Whether the worker is ready, and whether it takes new tasks.
// +leat:column:name=Tasks,type=string,func=TasksColumn,description=How many tasks the worker runs, of how many it can run at a time.
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

	// spec is what others want of the worker.
	// +optional
	Spec WorkerSpec `json:"spec,omitempty" protobuf:"bytes,2,opt,name=spec"`

	// status is what the worker says of itself.
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

// WorkerSpec is what others want of a worker.
type WorkerSpec struct {
	// unschedulable keeps new tasks away. Tasks that are bound go on.
	// +optional
	// +k8s:optional
	// +leat:selectable
	Unschedulable bool `json:"unschedulable,omitempty" protobuf:"varint,1,opt,name=unschedulable"`

	// taints keep tasks that do not tolerate them away.
	// +optional
	// +listType=atomic
	// +k8s:optional
	// +k8s:listType=atomic
	// +k8s:unique=map
	// +k8s:listMapKey=key
	// +k8s:listMapKey=effect
	// +k8s:maxItems=64
	Taints []Taint `json:"taints,omitempty" protobuf:"bytes,2,rep,name=taints"`

	// denied takes all rights from the credentials of the worker, for example when its key was stolen: its requests are
	// refused and it is bound no tasks. A denied worker is kept, however long it is silent, and cannot be deleted while
	// its namespace exists.
	// +optional
	// +k8s:optional
	Denied bool `json:"denied,omitempty" protobuf:"varint,3,opt,name=denied"`
}

// Taint keeps tasks that do not tolerate it away from a worker.
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

	// effect on tasks that do not tolerate the taint.
	// +required
	// +k8s:required
	Effect TaintEffect `json:"effect" protobuf:"bytes,3,opt,name=effect,casttype=TaintEffect"`

	// timeAdded is when the taint was added; tolerationSeconds count from it.
	// +optional
	// +k8s:optional
	TimeAdded *metav1.Time `json:"timeAdded,omitempty" protobuf:"bytes,4,opt,name=timeAdded"`
}

// WorkerReady is the type of the condition that is True while a worker takes and runs tasks, False while it says that it
// cannot, and Unknown once its lease has run out.
const WorkerReady = "Ready"

// WorkerResourcePressure is the type of the condition that is True while a worker lacks what it needs to start commands:
// file descriptors, processes, memory or disk space. It takes fewer tasks then. The reason names what is short.
const WorkerResourcePressure = "ResourcePressure"

// WorkerStatus is what a worker says of itself.
type WorkerStatus struct {
	// capacity is all that the worker has.
	// +optional
	// +k8s:optional
	Capacity ResourceList `json:"capacity,omitempty" protobuf:"bytes,1,rep,name=capacity,casttype=ResourceList,castkey=ResourceName"`

	// allocatable is what of it tasks may use.
	// +optional
	// +k8s:optional
	Allocatable ResourceList `json:"allocatable,omitempty" protobuf:"bytes,2,rep,name=allocatable,casttype=ResourceList,castkey=ResourceName"`

	// conditions are the state of the worker: Ready.
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

	// incarnation identifies this start of the worker process. A process that starts sets a new one.
	// +optional
	// +k8s:optional
	// +k8s:maxLength=128
	Incarnation string `json:"incarnation,omitempty" protobuf:"bytes,4,opt,name=incarnation"`

	// runningTasks is how many tasks the worker runs, as it last said.
	// +optional
	// +k8s:optional
	// +k8s:minimum=0
	RunningTasks int32 `json:"runningTasks,omitempty" protobuf:"varint,5,opt,name=runningTasks"`

	// workerInfo describes the worker process and its machine.
	// +optional
	WorkerInfo WorkerInfo `json:"workerInfo,omitempty" protobuf:"bytes,6,opt,name=workerInfo"`

	// endpoint is where the worker serves the logs of its tasks. Unset: it serves none.
	// +optional
	// +k8s:optional
	Endpoint *WorkerEndpoint `json:"endpoint,omitempty" protobuf:"bytes,7,opt,name=endpoint"`
}

// WorkerInfo describes a worker process and its machine.
type WorkerInfo struct {
	// version of the worker program.
	// +optional
	// +k8s:optional
	// +k8s:maxLength=256
	Version string `json:"version,omitempty" protobuf:"bytes,1,opt,name=version"`

	// os is the operating system, as Go names it: "linux".
	// +optional
	// +k8s:optional
	// +k8s:maxLength=256
	OS string `json:"os,omitempty" protobuf:"bytes,2,opt,name=os"`

	// arch is the processor architecture, as Go names it: "amd64".
	// +optional
	// +k8s:optional
	// +k8s:maxLength=256
	Arch string `json:"arch,omitempty" protobuf:"bytes,3,opt,name=arch"`

	// hostname of the worker's machine or container.
	// +optional
	// +k8s:optional
	// +k8s:maxLength=256
	Hostname string `json:"hostname,omitempty" protobuf:"bytes,4,opt,name=hostname"`

	// bootID identifies the start of the worker's machine.
	// +optional
	// +k8s:optional
	// +k8s:maxLength=256
	BootID string `json:"bootID,omitempty" protobuf:"bytes,5,opt,name=bootID"`
}

// WorkerEndpoint is where a worker serves logs, by TLS.
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

	// caBundle is the certificates, in PEM and at most 16 KiB, that the certificate of the worker is verified with, for the
	// name leat-worker. A worker makes a certificate of its own at each start.
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

// WorkerLease is renewed by the worker of the same name as a sign of life. It cannot be watched: heartbeats are nobody's
// event.
type WorkerLease struct {
	metav1.TypeMeta `json:",inline"`
	// Standard object's metadata.
	// More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata
	// +optional
	// +k8s:subfield(name)=+k8s:optional
	// +k8s:subfield(name)=+k8s:format=k8s-long-name
	metav1.ObjectMeta `json:"metadata,omitempty" protobuf:"bytes,1,opt,name=metadata"`

	// spec is who holds the lease, and since when.
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

// WorkerLeaseSpec is who holds a lease, and since when.
type WorkerLeaseSpec struct {
	// holderIdentity is the incarnation of the worker.
	// +optional
	// +k8s:optional
	// +k8s:maxLength=128
	HolderIdentity string `json:"holderIdentity,omitempty" protobuf:"bytes,1,opt,name=holderIdentity"`

	// leaseDurationSeconds is how long the worker counts as alive after renewTime, in seconds.
	// +optional
	// +default=40
	// +k8s:optional
	// +k8s:minimum=1
	LeaseDurationSeconds *int32 `json:"leaseDurationSeconds,omitempty" protobuf:"varint,2,opt,name=leaseDurationSeconds"`

	// renewTime is when the worker renewed the lease last.
	// +optional
	// +k8s:optional
	RenewTime *metav1.MicroTime `json:"renewTime,omitempty" protobuf:"bytes,3,opt,name=renewTime"`
}
