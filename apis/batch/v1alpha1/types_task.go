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
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// +genclient
// +genclient:method=Bind,verb=create,subresource=binding,input=Binding,result=k8s.io/apimachinery/pkg/apis/meta/v1.Status
// +genclient:method=Evict,verb=create,subresource=eviction,input=Eviction,result=k8s.io/apimachinery/pkg/apis/meta/v1.Status
// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object
// +k8s:supportsSubresource="/status"
// +leat:resource:plural=tasks,short=tk
// +leat:subresource:binding=BindingREST
// +leat:subresource:eviction=EvictionREST
// +leat:subresource:log=LogREST
// +leat:subresource:records=RecordsREST
// +leat:column:name=Status,type=string,func=StatusColumn,description=The phase of the task, or a more specific reason.
// +leat:column:name=Worker,type=string,path=spec.workerName,description=The worker that the task is bound to.
// +leat:column:name=Exit,type=string,func=ExitColumn,description=The exit code of the command, or the signal that ended it.
// +leat:column:name=Attempts,type=integer,path=status.attempts,description=The number of times that the command has been started.
// +leat:column:name=Indexes,type=string,func=IndexesColumn,description=The number of indexes of the task that have succeeded and the number of all.
// +leat:column:name=Age,type=date,path=metadata.creationTimestamp,description=The time since the task was created.
// +leat:column:name=Queue,type=string,priority=1,path=spec.queueName,description=The queue that the task waits in.
// +leat:column:name=Priority,type=integer,priority=1,path=spec.priority,description=The priority of the task within its namespace.
// +leat:column:name=Wait,type=string,priority=1,func=WaitColumn,description=The time from creation to the first start of the command.
// +leat:column:name=Duration,type=string,priority=1,func=DurationColumn,description=The time from the first start of the command to its end.
// +leat:column:name=Reason,type=string,priority=1,func=ReasonColumn,description=The reason for the current state of the task.

// Task is a command that runs, to completion, on one worker. It runs with the filesystem, the user and the environment
// of the worker process. Anyone who may create tasks in a namespace can therefore run commands on the workers of that
// namespace.
type Task struct {
	metav1.TypeMeta `json:",inline"`
	// Standard object's metadata.
	// More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata
	// +optional
	// +k8s:subfield(name)=+k8s:optional
	// +k8s:subfield(name)=+k8s:format=k8s-long-name
	metav1.ObjectMeta `json:"metadata,omitempty" protobuf:"bytes,1,opt,name=metadata"`

	// spec is the specification of the desired behavior of the task.
	Spec TaskSpec `json:"spec" protobuf:"bytes,2,opt,name=spec"`

	// status is the most recently observed status of the task. The scheduler writes it until the task is bound, then the
	// worker does.
	// +optional
	Status TaskStatus `json:"status,omitempty" protobuf:"bytes,3,opt,name=status"`
}

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// TaskList is a list of tasks.
type TaskList struct {
	metav1.TypeMeta `json:",inline"`
	// Standard list metadata.
	// +optional
	metav1.ListMeta `json:"metadata,omitempty" protobuf:"bytes,1,opt,name=metadata"`

	// items is the list of tasks.
	Items []Task `json:"items" protobuf:"bytes,2,rep,name=items"`
}

// TaskSpec describes the command and the worker that it needs. After creation, these fields can be changed:
// schedulingGates (remove only), activeDeadlineSeconds (set or shorten), tolerations (add only), crashLimit,
// ttlSecondsAfterFinished, and, until the task is bound to a worker, priority and queueName.
type TaskSpec struct {
	// queueName is the name of the TaskQueue, in the namespace of the task, that the task waits in. A queue without a
	// TaskQueue object has the default values. It can be changed until the task is bound to a worker. Defaults to
	// "default".
	// +optional
	// +default="default"
	// +k8s:optional
	// +k8s:format=k8s-long-name
	// +k8s:maxLength=253
	// +leat:selectable
	QueueName string `json:"queueName,omitempty" protobuf:"bytes,1,opt,name=queueName"`

	// workerName is the name of the worker that the task is bound to. It is empty while the task waits. Only the binding
	// subresource sets it, and only the eviction subresource clears it.
	// +optional
	// +k8s:optional
	// +leat:selectable:trigger
	WorkerName string `json:"workerName,omitempty" protobuf:"bytes,2,opt,name=workerName"`

	// priority is the importance of the task among the waiting tasks of its namespace. Tasks with higher values are
	// scheduled first. It can be changed until the task is bound to a worker. Defaults to 0.
	// +optional
	// +k8s:optional
	// +k8s:minimum=-1000000000
	// +k8s:maximum=1000000000
	Priority int32 `json:"priority,omitempty" protobuf:"varint,3,opt,name=priority"`

	// command is the program to run, looked up on the worker's PATH unless it contains a slash, and its first arguments.
	// It is not run in a shell. References $(NAME) are expanded from the environment of the task. $$ becomes a single $. A
	// reference to an unknown variable is left unchanged.
	// +required
	// +listType=atomic
	// +k8s:required
	// +k8s:listType=atomic
	// +k8s:maxItems=4096
	// +k8s:immutable
	Command []string `json:"command" protobuf:"bytes,4,rep,name=command"`

	// args are arguments that are appended to command. References are expanded as in command.
	// +optional
	// +listType=atomic
	// +k8s:optional
	// +k8s:listType=atomic
	// +k8s:maxItems=65536
	// +k8s:immutable
	Args []string `json:"args,omitempty" protobuf:"bytes,5,rep,name=args"`

	// env is a list of environment variables to set in the command, in addition to those of the worker. Values are stored
	// and shown as plain text. Keep secrets in the environment or the files of the worker instead.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +patchMergeKey=name
	// +patchStrategy=merge
	// +k8s:optional
	// +k8s:listType=map
	// +k8s:listMapKey=name
	// +k8s:customUnique
	// +k8s:maxItems=4096
	// +k8s:immutable
	Env []EnvVar `json:"env,omitempty" patchStrategy:"merge" patchMergeKey:"name" protobuf:"bytes,6,rep,name=env"`

	// workingDir is the directory in which the command starts. Defaults to the directory of the worker.
	// +optional
	// +k8s:optional
	// +k8s:maxLength=4096
	// +k8s:immutable
	WorkingDir string `json:"workingDir,omitempty" protobuf:"bytes,7,opt,name=workingDir"`

	// resources are the compute resources that the task needs.
	// +optional
	// +k8s:immutable
	Resources TaskResources `json:"resources,omitempty" protobuf:"bytes,8,opt,name=resources"`

	// workerSelector is a selector which must match the labels of a worker for the task to be bound to that worker.
	// +optional
	// +k8s:optional
	// +k8s:maxProperties=64
	// +k8s:eachKey=+k8s:format=k8s-label-key
	// +k8s:eachVal=+k8s:format=k8s-label-value
	// +k8s:immutable
	WorkerSelector map[string]string `json:"workerSelector,omitempty" protobuf:"bytes,9,rep,name=workerSelector"`

	// tolerations allow the task to be bound to workers with matching taints. Tolerations can be added later, but not
	// removed.
	// +optional
	// +listType=atomic
	// +k8s:optional
	// +k8s:listType=atomic
	// +k8s:maxItems=64
	Tolerations []Toleration `json:"tolerations,omitempty" protobuf:"bytes,10,rep,name=tolerations"`

	// activeDeadlineSeconds is the time in seconds, relative to status.startTime, that all attempts of the task may take
	// together. After that time, the command is terminated and the task fails with reason DeadlineExceeded. It can be set
	// or shortened later. If unset, there is no deadline.
	// +optional
	// +k8s:optional
	// +k8s:minimum=1
	// +k8s:maximum=2147483647
	ActiveDeadlineSeconds *int64 `json:"activeDeadlineSeconds,omitempty" protobuf:"varint,11,opt,name=activeDeadlineSeconds"`

	// backoffLimit is the number of times that a failed command is started again, on the same worker and after an
	// exponentially growing delay, before the task is marked as failed. Attempts that were interrupted because a worker
	// was lost do not count. Defaults to 0.
	// +optional
	// +default=0
	// +k8s:optional
	// +k8s:minimum=0
	// +k8s:immutable
	BackoffLimit *int32 `json:"backoffLimit,omitempty" protobuf:"varint,12,opt,name=backoffLimit"`

	// terminationGracePeriodSeconds is the time in seconds between SIGTERM and SIGKILL when the command is terminated
	// before it has finished. Zero sends SIGKILL at once. Defaults to 30.
	// +optional
	// +default=30
	// +k8s:optional
	// +k8s:minimum=0
	// +k8s:maximum=2147483647
	// +k8s:immutable
	TerminationGracePeriodSeconds *int64 `json:"terminationGracePeriodSeconds,omitempty" protobuf:"varint,13,opt,name=terminationGracePeriodSeconds"`

	// ttlSecondsAfterFinished limits the lifetime of a task that has finished. The task is deleted that many seconds after
	// its completionTime. Zero deletes it at once. If unset, it is not deleted automatically.
	// +optional
	// +k8s:optional
	// +k8s:minimum=0
	TTLSecondsAfterFinished *int32 `json:"ttlSecondsAfterFinished,omitempty" protobuf:"varint,14,opt,name=ttlSecondsAfterFinished"`

	// schedulingGates are gates that prevent the scheduler from binding the task until all of them are removed. They can
	// be set only when the task is created. Later, they can only be removed.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +patchMergeKey=name
	// +patchStrategy=merge
	// +k8s:optional
	// +k8s:listType=map
	// +k8s:listMapKey=name
	// +k8s:maxItems=64
	// +k8s:update=NoAddItem
	SchedulingGates []TaskSchedulingGate `json:"schedulingGates,omitempty" patchStrategy:"merge" patchMergeKey:"name" protobuf:"bytes,15,rep,name=schedulingGates"`

	// crashLimit is the number of times that the worker may be lost or restarted while the command runs before the task
	// fails with reason WorkerCrashed. Drains, taints, scale-downs and evictions by users do not count. Set it to
	// 2147483647 to disable the limit. Defaults to 5.
	// +optional
	// +default=5
	// +k8s:optional
	// +k8s:minimum=1
	CrashLimit *int32 `json:"crashLimit,omitempty" protobuf:"varint,16,opt,name=crashLimit"`

	// indexes are the completion indexes that the task runs, as numbers and ranges in ascending order, such as
	// "4-67,70". The worker runs the command once for each index, one after the other, and stops after the first that
	// fails. At most 1000 indexes in 64 ranges are allowed, and backoffLimit must be 0. If unset, the command runs once.
	// The TaskSet controller sets it.
	// +optional
	// +k8s:optional
	// +k8s:maxLength=2048
	// +k8s:immutable
	Indexes string `json:"indexes,omitempty" protobuf:"bytes,17,opt,name=indexes"`

	// items are the items of indexes, in the same order, if the set has items. Each index has its item in the variable
	// TASK_ITEM.
	// +optional
	// +listType=atomic
	// +k8s:optional
	// +k8s:listType=atomic
	// +k8s:maxItems=1000
	// +k8s:immutable
	Items []string `json:"items,omitempty" protobuf:"bytes,18,rep,name=items"`

	// indexNumbers specifies the number that each of indexes has in the variable TASK_INDEX. The list, if there is one,
	// has the numbers of indexes, in the same order. Defaults to the index.
	// +optional
	// +k8s:optional
	// +k8s:immutable
	IndexNumbers *IndexNumbers `json:"indexNumbers,omitempty" protobuf:"bytes,19,opt,name=indexNumbers"`

	// pool is the name of the pool whose workers run the task: those with the label batch.leat.dev/pool of that value. If
	// unset, any worker may run it.
	// +optional
	// +k8s:optional
	// +k8s:format=k8s-short-name
	// +k8s:immutable
	// +leat:selectable
	Pool string `json:"pool,omitempty" protobuf:"bytes,20,opt,name=pool"`
}

// EnvVar is an environment variable of the command.
type EnvVar struct {
	// name of the variable. It may consist of any printable ASCII characters except '='.
	// +required
	// +k8s:required
	// +k8s:maxLength=4096
	Name string `json:"name" protobuf:"bytes,1,opt,name=name"`

	// value of the variable. References $(NAME) are expanded from the variables before it in the list. Defaults to "".
	// +optional
	// +k8s:optional
	Value string `json:"value,omitempty" protobuf:"bytes,2,opt,name=value"`
}

// ResourceName is the name of a resource that workers offer and tasks request: "cpu", "memory", "tasks" (the number of
// tasks on a worker; each task takes one), or an extended resource name with a domain, such as "example.com/gpu".
type ResourceName string

const (
	// ResourceCPU is CPU, in cores (500m = .5 cores).
	ResourceCPU ResourceName = "cpu"
	// ResourceMemory is memory, in bytes.
	ResourceMemory ResourceName = "memory"
	// ResourceTasks is the number of tasks that a worker runs at the same time.
	ResourceTasks ResourceName = "tasks"
	// ResourceGPU is the number of GPUs, by the name that NVIDIA's device plugin uses for nodes.
	ResourceGPU ResourceName = "nvidia.com/gpu"
)

// ResourceList is a set of (resource name, quantity) pairs.
type ResourceList map[ResourceName]resource.Quantity

// TaskResources describes the compute resources that a task needs.
type TaskResources struct {
	// requests are the amounts of resources that a worker must have free for the task to be bound to it.
	// +optional
	// +k8s:optional
	Requests ResourceList `json:"requests,omitempty" protobuf:"bytes,1,rep,name=requests,casttype=ResourceList,castkey=ResourceName"`
}

// TaintEffect is the effect of a taint on tasks that do not tolerate it.
// +enum
// +k8s:enum
type TaintEffect string

const (
	// TaintEffectNoSchedule does not allow new tasks on the worker.
	TaintEffectNoSchedule TaintEffect = "NoSchedule"
	// TaintEffectPreferNoSchedule allows new tasks on the worker only if no other worker has room for them.
	TaintEffectPreferNoSchedule TaintEffect = "PreferNoSchedule"
	// TaintEffectNoExecute does not allow new tasks on the worker, and evicts the tasks that are bound to it.
	TaintEffectNoExecute TaintEffect = "NoExecute"
)

// TaintWorkerUnreachable is the key of the taint that is added to a worker when its lease has expired.
const TaintWorkerUnreachable = "batch.leat.dev/unreachable"

// TolerationOperator is the relationship between the value of a toleration and the value of a taint.
// +enum
// +k8s:enum
type TolerationOperator string

const (
	// TolerationOpExists matches all values.
	TolerationOpExists TolerationOperator = "Exists"
	// TolerationOpEqual matches the equal value.
	TolerationOpEqual TolerationOperator = "Equal"
)

// Toleration allows a task to be bound to, and to stay on, workers with any taint that matches the triple
// <key,value,effect>.
type Toleration struct {
	// key is the taint key that the toleration applies to. Empty matches all taint keys. If the key is empty, operator
	// must be Exists.
	// +optional
	// +k8s:optional
	// +k8s:format=k8s-label-key
	Key string `json:"key,omitempty" protobuf:"bytes,1,opt,name=key"`

	// operator is the relationship between value and the value of the taint: Exists or Equal. Defaults to Equal.
	// +optional
	// +k8s:optional
	Operator TolerationOperator `json:"operator,omitempty" protobuf:"bytes,2,opt,name=operator,casttype=TolerationOperator"`

	// value is the taint value that the toleration matches. If operator is Exists, value must be empty.
	// +optional
	// +k8s:optional
	// +k8s:format=k8s-label-value
	Value string `json:"value,omitempty" protobuf:"bytes,3,opt,name=value"`

	// effect is the taint effect that the toleration matches: NoSchedule, PreferNoSchedule or NoExecute. Empty matches all
	// effects.
	// +optional
	// +k8s:optional
	Effect TaintEffect `json:"effect,omitempty" protobuf:"bytes,4,opt,name=effect,casttype=TaintEffect"`

	// tolerationSeconds is the time in seconds that a NoExecute taint is tolerated before the task is evicted. If unset,
	// the taint is tolerated forever. Zero and negative values evict the task at once. effect must be NoExecute.
	// +optional
	// +k8s:optional
	TolerationSeconds *int64 `json:"tolerationSeconds,omitempty" protobuf:"varint,5,opt,name=tolerationSeconds"`
}

// TaskSchedulingGate prevents the scheduler from binding a task.
type TaskSchedulingGate struct {
	// name of the scheduling gate. It must be unique within the task.
	// +required
	// +k8s:required
	// +k8s:format=k8s-label-key
	Name string `json:"name" protobuf:"bytes,1,opt,name=name"`
}

// TaskPhase is a summary of where a task is in its lifecycle.
// +enum
// +k8s:enum
type TaskPhase string

const (
	// TaskPending means that the command is not running: the task waits for a worker, for its worker to start it, or for
	// its next attempt.
	TaskPending TaskPhase = "Pending"
	// TaskRunning means that the command has been started on the worker, or waits there for its next attempt.
	TaskRunning TaskPhase = "Running"
	// TaskSucceeded means that the command has exited with code 0. It is final.
	TaskSucceeded TaskPhase = "Succeeded"
	// TaskFailed means that the command has failed more often than backoffLimit allows, or was terminated. It is final.
	TaskFailed TaskPhase = "Failed"
)

const (
	// TaskScheduled is the type of the condition that is True once the task is bound to a worker.
	TaskScheduled = "TaskScheduled"
	// TaskReasonBound is the reason of TaskScheduled=True.
	TaskReasonBound = "Bound"
	// TaskReasonUnschedulable is the reason of TaskScheduled=False when no worker can run the task at the moment.
	TaskReasonUnschedulable = "Unschedulable"
	// TaskReasonSchedulingGated is the reason of TaskScheduled=False while the task has spec.schedulingGates.
	TaskReasonSchedulingGated = "SchedulingGated"
	// TaskReturnRequested is the type of the condition that is True when the scheduler asks the worker of a prefetched
	// task to return it. The worker returns it unless the command has started.
	TaskReturnRequested = "ReturnRequested"
	// DisruptionTarget is the type of the condition that is True when a task was interrupted by a disruption, such as a
	// lost worker.
	DisruptionTarget = "DisruptionTarget"
	// TaskReconciling is the type of the condition that is True until the task has finished. The server sets it,
	// TaskComplete, TaskFailure and TaskStalled whenever the phase changes.
	TaskReconciling = "Reconciling"
	// TaskComplete is the type of the condition that is True once the task has succeeded. It is final.
	TaskComplete = "Complete"
	// TaskFailure is the type of the condition that is True once the task has failed. It is final.
	TaskFailure = "Failed"
	// TaskStalled is the type of the condition that is True with TaskFailure, as the convention of kstatus requires.
	TaskStalled = "Stalled"

	// TaskReasonPrefetched is the reason of a waiting state while the task waits on its worker for a free slot.
	TaskReasonPrefetched = "Prefetched"
	// TaskReasonRebalanced is the reason of a waiting state, and of an eviction, after the worker has returned a
	// prefetched task.
	TaskReasonRebalanced = "Rebalanced"

	// TaskReasonCompleted is the reason of a terminated state with exit code 0.
	TaskReasonCompleted = "Completed"
	// TaskReasonError is the reason of a terminated state with a signal or an exit code other than 0.
	TaskReasonError = "Error"
	// TaskReasonStartError is the reason of a terminated state when the command could not be started.
	TaskReasonStartError = "StartError"
	// TaskReasonOOMKilled is the reason of a terminated state when the command was killed because it ran out of memory.
	TaskReasonOOMKilled = "OOMKilled"
	// TaskReasonDeadlineExceeded is the reason of a terminated state when activeDeadlineSeconds has passed.
	TaskReasonDeadlineExceeded = "DeadlineExceeded"
	// TaskReasonWorkerCrashed is the reason of a terminated state when the worker was lost or restarted crashLimit times
	// while the command ran.
	TaskReasonWorkerCrashed = "WorkerCrashed"
)

// TaskStatus is the most recently observed status of a task.
type TaskStatus struct {
	// phase is a summary of where the task is in its lifecycle: Pending, Running, Succeeded or Failed.
	// +optional
	// +k8s:required
	// +leat:selectable
	Phase TaskPhase `json:"phase,omitempty" protobuf:"bytes,1,opt,name=phase,casttype=TaskPhase"`

	// conditions are the latest observations of the state of the task: TaskScheduled, ReturnRequested, DisruptionTarget,
	// and, derived from the phase, Reconciling, Complete, Failed and Stalled.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +patchMergeKey=type
	// +patchStrategy=merge
	// +k8s:optional
	// +k8s:listType=map
	// +k8s:listMapKey=type
	// +k8s:maxItems=64
	Conditions []metav1.Condition `json:"conditions,omitempty" patchStrategy:"merge" patchMergeKey:"type" protobuf:"bytes,2,rep,name=conditions"`

	// state is the current state of the command: waiting, running, or terminated. At most one of its members is set.
	// +optional
	State TaskState `json:"state,omitempty" protobuf:"bytes,3,opt,name=state"`

	// incarnation identifies the worker process that the task was bound to. A status update with another incarnation is
	// rejected with a conflict. Only the binding and eviction subresources change it.
	// +optional
	// +k8s:optional
	// +k8s:maxLength=128
	Incarnation string `json:"incarnation,omitempty" protobuf:"bytes,4,opt,name=incarnation"`

	// attempts is the number of times that the command has been started, for the current index in a task with
	// spec.indexes. It never decreases for an index.
	// +optional
	// +k8s:optional
	// +k8s:minimum=0
	Attempts int32 `json:"attempts,omitempty" protobuf:"varint,5,opt,name=attempts"`

	// disruptions is the number of times that the task was removed from a worker before it had finished. Prefetched tasks
	// that the worker returned before it started them do not count.
	// +optional
	// +k8s:optional
	// +k8s:minimum=0
	Disruptions int32 `json:"disruptions,omitempty" protobuf:"varint,6,opt,name=disruptions"`

	// startTime is the time at which the command was first started.
	// +optional
	// +k8s:optional
	StartTime *metav1.Time `json:"startTime,omitempty" protobuf:"bytes,7,opt,name=startTime"`

	// completionTime is the time at which the task reached its final phase.
	// +optional
	// +k8s:optional
	CompletionTime *metav1.Time `json:"completionTime,omitempty" protobuf:"bytes,8,opt,name=completionTime"`

	// progress is the progress that the command reports, in the form "N/M".
	// +optional
	// +k8s:optional
	// +k8s:maxLength=64
	Progress string `json:"progress,omitempty" protobuf:"bytes,9,opt,name=progress"`

	// workerCrashes is the number of times that the worker was lost or restarted while the command ran. Only the eviction
	// subresource increments it.
	// +optional
	// +k8s:optional
	// +k8s:minimum=0
	WorkerCrashes int32 `json:"workerCrashes,omitempty" protobuf:"varint,10,opt,name=workerCrashes"`

	// failedAttempts is the number of attempts that failed. spec.backoffLimit limits it. Attempts that a disruption
	// interrupted do not count. An eviction does not reset it.
	// +optional
	// +k8s:optional
	// +k8s:minimum=0
	FailedAttempts int32 `json:"failedAttempts,omitempty" protobuf:"varint,11,opt,name=failedAttempts"`

	// completedCount is the number of indexes that have succeeded, in a task with spec.indexes: the first so many of them.
	// The index after those is the one that runs or, in phase Failed, has failed. It never decreases.
	// +optional
	// +k8s:optional
	// +k8s:minimum=0
	CompletedCount int32 `json:"completedCount,omitempty" protobuf:"varint,12,opt,name=completedCount"`

	// indexLimit is the number of indexes that the task may run, in a task with spec.indexes: the first so many of them.
	// The others are released, and run in other tasks. Once set, it never increases. If unset, the task may run all.
	// +optional
	// +k8s:optional
	// +k8s:minimum=1
	IndexLimit *int32 `json:"indexLimit,omitempty" protobuf:"varint,13,opt,name=indexLimit"`

	// busyMilliseconds is the time in milliseconds that the ended commands of the task ran, together: that of the last
	// attempt, or those of all indexes that have ended.
	// +optional
	// +k8s:optional
	// +k8s:minimum=0
	BusyMilliseconds int64 `json:"busyMilliseconds,omitempty" protobuf:"varint,14,opt,name=busyMilliseconds"`

	// bindings is the number of times that the task was bound to a worker. Only the binding subresource increments it. A
	// status update with another number is rejected with a conflict: it is of an earlier binding.
	// +optional
	// +k8s:optional
	// +k8s:minimum=0
	Bindings int32 `json:"bindings,omitempty" protobuf:"varint,15,opt,name=bindings"`
}

// TaskState is the current state of a command. At most one of its members is set.
type TaskState struct {
	// waiting is set while the command waits for its first or its next attempt.
	// +optional
	// +k8s:optional
	// +k8s:zeroOrOneOfMember
	Waiting *TaskStateWaiting `json:"waiting,omitempty" protobuf:"bytes,1,opt,name=waiting"`

	// running is set while the command runs.
	// +optional
	// +k8s:optional
	// +k8s:zeroOrOneOfMember
	Running *TaskStateRunning `json:"running,omitempty" protobuf:"bytes,2,opt,name=running"`

	// terminated is set once the command has ended.
	// +optional
	// +k8s:optional
	// +k8s:zeroOrOneOfMember
	Terminated *TaskStateTerminated `json:"terminated,omitempty" protobuf:"bytes,3,opt,name=terminated"`
}

// TaskStateWaiting is the state of a command that is waiting to be started.
type TaskStateWaiting struct {
	// reason is the reason why the command is not running, one word in CamelCase.
	// +optional
	// +k8s:optional
	// +k8s:maxLength=1024
	Reason string `json:"reason,omitempty" protobuf:"bytes,1,opt,name=reason"`

	// message is a human-readable message about why the command is not running.
	// +optional
	// +k8s:optional
	// +k8s:maxLength=32768
	Message string `json:"message,omitempty" protobuf:"bytes,2,opt,name=message"`
}

// TaskStateRunning is the state of a running command.
type TaskStateRunning struct {
	// startedAt is the time at which this attempt was started.
	// +optional
	StartedAt metav1.Time `json:"startedAt,omitempty" protobuf:"bytes,1,opt,name=startedAt"`
}

// TaskStateTerminated is the state of a command that has ended.
type TaskStateTerminated struct {
	// exitCode is the exit status of the command; 128 plus the signal's number when a signal ended it.
	// +k8s:optional
	ExitCode int32 `json:"exitCode" protobuf:"varint,1,opt,name=exitCode"`

	// signal is the number of the signal that ended the command, or 0.
	// +optional
	// +k8s:optional
	// +k8s:minimum=0
	Signal int32 `json:"signal,omitempty" protobuf:"varint,2,opt,name=signal"`

	// reason is the reason why the command ended, one word in CamelCase: Completed, Error, StartError, OOMKilled,
	// DeadlineExceeded or WorkerCrashed.
	// +optional
	// +k8s:optional
	// +k8s:maxLength=1024
	Reason string `json:"reason,omitempty" protobuf:"bytes,3,opt,name=reason"`

	// message is the end of the output of a command that failed, at most 4 KiB, or the error with which it could not be
	// started.
	// +optional
	// +k8s:optional
	// +k8s:maxLength=32768
	Message string `json:"message,omitempty" protobuf:"bytes,4,opt,name=message"`

	// startedAt is the time at which this attempt was started.
	// +optional
	StartedAt metav1.Time `json:"startedAt,omitempty" protobuf:"bytes,5,opt,name=startedAt"`

	// finishedAt is the time at which this attempt ended.
	// +optional
	FinishedAt metav1.Time `json:"finishedAt,omitempty" protobuf:"bytes,6,opt,name=finishedAt"`
}

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object
// +k8s:isSubresource="/binding"

// Binding binds a task to a worker. Create it at the binding subresource of the task: the server then sets
// spec.workerName and status.incarnation. If the task is bound, finished, being deleted or gated, the server responds
// with a conflict.
type Binding struct {
	metav1.TypeMeta `json:",inline"`
	// Standard object's metadata. The name is that of the task. uid and resourceVersion, if set, must match the task.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty" protobuf:"bytes,1,opt,name=metadata"`

	// target is the worker to bind the task to.
	Target BindingTarget `json:"target" protobuf:"bytes,2,opt,name=target"`

	// prefetched states that the worker may have no slot for the task yet. The task then waits on the worker, with reason
	// Prefetched, and starts when a slot and its resources are free. Bind tasks so only to workers with
	// status.prefetchLimit. Defaults to false.
	// +optional
	// +k8s:optional
	Prefetched bool `json:"prefetched,omitempty" protobuf:"varint,3,opt,name=prefetched"`
}

// BindingTarget identifies one process of a worker.
type BindingTarget struct {
	// name of the worker.
	// +required
	// +k8s:required
	// +k8s:format=k8s-long-name
	Name string `json:"name" protobuf:"bytes,1,opt,name=name"`

	// uid is the UID of the worker at the time of the scheduling decision.
	// +optional
	// +k8s:optional
	UID types.UID `json:"uid,omitempty" protobuf:"bytes,2,opt,name=uid,casttype=k8s.io/apimachinery/pkg/types.UID"`

	// incarnation is the status.incarnation of the worker at the time of the scheduling decision.
	// +required
	// +k8s:required
	// +k8s:maxLength=128
	Incarnation string `json:"incarnation" protobuf:"bytes,3,opt,name=incarnation"`
}

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object
// +k8s:isSubresource="/eviction"

// Eviction removes a task from its worker. Create it at the eviction subresource of the task: the server then clears
// spec.workerName and status.incarnation, sets the phase to Pending and increments status.disruptions. An eviction with
// workerCrashed that reaches spec.crashLimit makes the task fail instead. If the task is finished, being deleted or not
// bound, the server responds with a conflict.
type Eviction struct {
	metav1.TypeMeta `json:",inline"`
	// Standard object's metadata. The name is that of the task.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty" protobuf:"bytes,1,opt,name=metadata"`

	// reason is one word in CamelCase. It becomes the reason of the DisruptionTarget condition of the task. Defaults to
	// "Evicted".
	// +optional
	// +default="Evicted"
	// +k8s:optional
	// +k8s:maxLength=1024
	Reason string `json:"reason,omitempty" protobuf:"bytes,2,opt,name=reason"`

	// message is a human-readable message. It becomes the message of the DisruptionTarget condition of the task.
	// +optional
	// +k8s:optional
	// +k8s:maxLength=32768
	Message string `json:"message,omitempty" protobuf:"bytes,3,opt,name=message"`

	// preconditions must be fulfilled for the task to be evicted.
	// +optional
	// +k8s:optional
	Preconditions *metav1.Preconditions `json:"preconditions,omitempty" protobuf:"bytes,4,opt,name=preconditions"`

	// workerCrashed reports that the worker was lost or restarted while the command ran. It increments
	// status.workerCrashes. The eviction that reaches spec.crashLimit makes the task fail instead.
	// +optional
	// +k8s:optional
	WorkerCrashed bool `json:"workerCrashed,omitempty" protobuf:"varint,5,opt,name=workerCrashed"`

	// notStarted reports that the command was not started since the task was bound. The eviction then is no disruption: it
	// does not increment status.disruptions, and it releases no indexes. Only the worker of the task can know. Defaults to
	// false.
	// +optional
	// +k8s:optional
	NotStarted bool `json:"notStarted,omitempty" protobuf:"varint,6,opt,name=notStarted"`
}
