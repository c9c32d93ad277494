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
// +leat:column:name=Status,type=string,func=StatusColumn,description=The phase of the task, or the reason that says more than the phase does.
// +leat:column:name=Worker,type=string,path=spec.workerName,description=The worker that the task is bound to.
// +leat:column:name=Exit,type=string,func=ExitColumn,description=The exit code of the command, or the signal that ended it.
// +leat:column:name=Attempts,type=integer,path=status.attempts,description=How often the command has been started.
// +leat:column:name=Age,type=date,path=metadata.creationTimestamp,description=The time since the task was created.
// +leat:column:name=Queue,type=string,priority=1,path=spec.queueName,description=The queue that the task waits in.
// +leat:column:name=Priority,type=integer,priority=1,path=spec.priority,description=The priority of the task within its namespace.
// +leat:column:name=Wait,type=string,priority=1,func=WaitColumn,description=The time from creation to the first start of the command.
// +leat:column:name=Duration,type=string,priority=1,func=DurationColumn,description=The time from the first start of the command to its end.
// +leat:column:name=Reason,type=string,priority=1,func=ReasonColumn,description=Why the task is in the state it is in.

// Task is a command that runs, to completion, on one worker. The command runs in the filesystem, and with the identity
// and the environment, of the worker process that the task is bound to: whoever may create tasks in a namespace can run
// commands on the workers of that namespace.
type Task struct {
	metav1.TypeMeta `json:",inline"`
	// Standard object's metadata.
	// More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata
	// +optional
	// +k8s:subfield(name)=+k8s:optional
	// +k8s:subfield(name)=+k8s:format=k8s-long-name
	metav1.ObjectMeta `json:"metadata,omitempty" protobuf:"bytes,1,opt,name=metadata"`

	// spec is what to run and where it may run.
	Spec TaskSpec `json:"spec" protobuf:"bytes,2,opt,name=spec"`

	// status is what is known of the run. It is written by the worker that the task is bound to and by the
	// scheduler, through the status subresource.
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

// TaskSpec is what to run and where it may run. Once the task exists only schedulingGates (removed, never added),
// activeDeadlineSeconds (set or shortened), tolerations (added), crashLimit, ttlSecondsAfterFinished and, while the task
// waits for a worker, priority and queueName can be changed.
type TaskSpec struct {
	// queueName is the TaskQueue, in the task's namespace, that the task waits in. A queue without an object behaves
	// as one with default values. It can be changed while the task is not bound to a worker.
	// +optional
	// +default="default"
	// +k8s:optional
	// +k8s:format=k8s-long-name
	// +k8s:maxLength=253
	// +leat:selectable
	QueueName string `json:"queueName,omitempty" protobuf:"bytes,1,opt,name=queueName"`

	// workerName is the worker that the task is bound to, empty while it waits. It is set only through the binding
	// subresource and cleared only through the eviction subresource.
	// +optional
	// +k8s:optional
	// +leat:selectable:trigger
	WorkerName string `json:"workerName,omitempty" protobuf:"bytes,2,opt,name=workerName"`

	// priority orders the tasks that wait: a higher value goes first. It can be changed while the task is not bound to
	// a worker.
	// +optional
	// +k8s:optional
	// +k8s:minimum=-1000000000
	// +k8s:maximum=1000000000
	Priority int32 `json:"priority,omitempty" protobuf:"varint,3,opt,name=priority"`

	// command is the program to run, looked up on the worker's PATH unless it holds a slash, and its first
	// arguments. No shell is involved. References $(NAME) are expanded from the task's environment; $$ yields a
	// single $, and a reference to an unknown name stays as it is.
	// +required
	// +listType=atomic
	// +k8s:required
	// +k8s:listType=atomic
	// +k8s:maxItems=4096
	// +k8s:immutable
	Command []string `json:"command" protobuf:"bytes,4,rep,name=command"`

	// args are further arguments, appended to command and expanded as command is.
	// +optional
	// +listType=atomic
	// +k8s:optional
	// +k8s:listType=atomic
	// +k8s:maxItems=65536
	// +k8s:immutable
	Args []string `json:"args,omitempty" protobuf:"bytes,5,rep,name=args"`

	// env are variables set for the command, on top of the worker's own environment. Values are stored and shown as
	// they are: keep secrets in the worker's environment or files.
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

	// workingDir is the directory the command starts in, the worker's own by default.
	// +optional
	// +k8s:optional
	// +k8s:maxLength=4096
	// +k8s:immutable
	WorkingDir string `json:"workingDir,omitempty" protobuf:"bytes,7,opt,name=workingDir"`

	// resources is what the task asks of a worker.
	// +optional
	// +k8s:immutable
	Resources TaskResources `json:"resources,omitempty" protobuf:"bytes,8,opt,name=resources"`

	// workerSelector are labels that a worker must have for the task to be bound to it.
	// +optional
	// +k8s:optional
	// +k8s:maxProperties=64
	// +k8s:eachKey=+k8s:format=k8s-label-key
	// +k8s:eachVal=+k8s:format=k8s-label-value
	// +k8s:immutable
	WorkerSelector map[string]string `json:"workerSelector,omitempty" protobuf:"bytes,9,rep,name=workerSelector"`

	// tolerations let the task run on workers with matching taints. Tolerations can be added, not removed.
	// +optional
	// +listType=atomic
	// +k8s:optional
	// +k8s:listType=atomic
	// +k8s:maxItems=64
	Tolerations []Toleration `json:"tolerations,omitempty" protobuf:"bytes,10,rep,name=tolerations"`

	// activeDeadlineSeconds is how long the task may run, in seconds from its startTime, over all attempts. Past it
	// the command is ended and the task fails with reason DeadlineExceeded. It can be set or shortened later.
	// +optional
	// +k8s:optional
	// +k8s:minimum=1
	// +k8s:maximum=2147483647
	ActiveDeadlineSeconds *int64 `json:"activeDeadlineSeconds,omitempty" protobuf:"varint,11,opt,name=activeDeadlineSeconds"`

	// backoffLimit is how often a command that failed is started again, on the same worker and with a growing delay,
	// before the task fails. Starts that a lost worker cost are not counted.
	// +optional
	// +default=0
	// +k8s:optional
	// +k8s:minimum=0
	// +k8s:immutable
	BackoffLimit *int32 `json:"backoffLimit,omitempty" protobuf:"varint,12,opt,name=backoffLimit"`

	// terminationGracePeriodSeconds is the time between SIGTERM and SIGKILL, in seconds, when the command is ended
	// before it has finished. Zero kills at once.
	// +optional
	// +default=30
	// +k8s:optional
	// +k8s:minimum=0
	// +k8s:maximum=2147483647
	// +k8s:immutable
	TerminationGracePeriodSeconds *int64 `json:"terminationGracePeriodSeconds,omitempty" protobuf:"varint,13,opt,name=terminationGracePeriodSeconds"`

	// ttlSecondsAfterFinished is when a finished task is deleted, in seconds after it has finished. Unset: never.
	// +optional
	// +k8s:optional
	// +k8s:minimum=0
	TTLSecondsAfterFinished *int32 `json:"ttlSecondsAfterFinished,omitempty" protobuf:"varint,14,opt,name=ttlSecondsAfterFinished"`

	// schedulingGates hold the task back from being bound while any is left. They can be set only when the task is
	// created, and only be removed after.
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

	// crashLimit is how many times the worker may be lost or restart while the command runs before the task fails with
	// reason WorkerCrashed. Drains, taints, scaling in and evictions by people are not counted. Set it to 2147483647
	// to lift the limit.
	// +optional
	// +default=5
	// +k8s:optional
	// +k8s:minimum=1
	CrashLimit *int32 `json:"crashLimit,omitempty" protobuf:"varint,16,opt,name=crashLimit"`
}

// EnvVar is a variable in the environment of the command.
type EnvVar struct {
	// name of the variable: any printable ASCII characters except '='.
	// +required
	// +k8s:required
	// +k8s:maxLength=4096
	Name string `json:"name" protobuf:"bytes,1,opt,name=name"`

	// value of the variable. References $(NAME) are expanded from the variables before it in the list.
	// +optional
	// +k8s:optional
	Value string `json:"value,omitempty" protobuf:"bytes,2,opt,name=value"`
}

// ResourceName names something that workers have and tasks use: "cpu", "memory", "tasks" (places for tasks on a worker;
// each task takes one), or an extended name with a domain, like "example.com/gpu".
type ResourceName string

const (
	// ResourceCPU is processor time, in cores (500m = half a core).
	ResourceCPU ResourceName = "cpu"
	// ResourceMemory is memory, in bytes.
	ResourceMemory ResourceName = "memory"
	// ResourceTasks is how many tasks a worker runs at a time.
	ResourceTasks ResourceName = "tasks"
)

// ResourceList is an amount of each named resource.
type ResourceList map[ResourceName]resource.Quantity

// TaskResources is what a task asks of a worker.
type TaskResources struct {
	// requests is how much of each resource must be free on a worker for the task to be bound to it.
	// +optional
	// +k8s:optional
	Requests ResourceList `json:"requests,omitempty" protobuf:"bytes,1,rep,name=requests,casttype=ResourceList,castkey=ResourceName"`
}

// TaintEffect is what a taint does to tasks that do not tolerate it.
// +enum
// +k8s:enum
type TaintEffect string

const (
	// TaintEffectNoSchedule keeps new tasks away.
	TaintEffectNoSchedule TaintEffect = "NoSchedule"
	// TaintEffectPreferNoSchedule keeps new tasks away while another worker has room.
	TaintEffectPreferNoSchedule TaintEffect = "PreferNoSchedule"
	// TaintEffectNoExecute keeps new tasks away and evicts those that are bound.
	TaintEffectNoExecute TaintEffect = "NoExecute"
)

// TaintWorkerUnreachable is the key of the taint put on a worker whose lease has run out.
const TaintWorkerUnreachable = "batch.leat.dev/unreachable"

// TolerationOperator is how a toleration's value relates to a taint's.
// +enum
// +k8s:enum
type TolerationOperator string

const (
	// TolerationOpExists matches any value.
	TolerationOpExists TolerationOperator = "Exists"
	// TolerationOpEqual matches the same value.
	TolerationOpEqual TolerationOperator = "Equal"
)

// Toleration lets a task be bound to, or stay on, workers with any taint that matches the triple <key,value,effect>.
type Toleration struct {
	// key is the taint key that the toleration applies to. Empty means all taint keys; operator must then be Exists.
	// +optional
	// +k8s:optional
	// +k8s:format=k8s-label-key
	Key string `json:"key,omitempty" protobuf:"bytes,1,opt,name=key"`

	// operator is how value relates to the taint's value: Exists or Equal (the default).
	// +optional
	// +k8s:optional
	Operator TolerationOperator `json:"operator,omitempty" protobuf:"bytes,2,opt,name=operator,casttype=TolerationOperator"`

	// value is the taint value that the toleration matches. It must be empty with operator Exists.
	// +optional
	// +k8s:optional
	// +k8s:format=k8s-label-value
	Value string `json:"value,omitempty" protobuf:"bytes,3,opt,name=value"`

	// effect is the taint effect to match. Empty matches all effects.
	// +optional
	// +k8s:optional
	Effect TaintEffect `json:"effect,omitempty" protobuf:"bytes,4,opt,name=effect,casttype=TaintEffect"`

	// tolerationSeconds is how long a NoExecute taint is tolerated, in seconds. Unset: for ever; zero and negative
	// values: not at all. effect must be NoExecute.
	// +optional
	// +k8s:optional
	TolerationSeconds *int64 `json:"tolerationSeconds,omitempty" protobuf:"varint,5,opt,name=tolerationSeconds"`
}

// TaskSchedulingGate holds a task back from being bound.
type TaskSchedulingGate struct {
	// name of the gate. It must be unique within the task.
	// +required
	// +k8s:required
	// +k8s:format=k8s-label-key
	Name string `json:"name" protobuf:"bytes,1,opt,name=name"`
}

// TaskPhase is a summary of where a task is in its life.
// +enum
// +k8s:enum
type TaskPhase string

const (
	// TaskPending means the command is not running: the task waits for a worker, for its worker to start it, or to be
	// started again.
	TaskPending TaskPhase = "Pending"
	// TaskRunning means the command has been started on the worker, or waits there to be started again.
	TaskRunning TaskPhase = "Running"
	// TaskSucceeded means the command ended with exit code 0. It is final.
	TaskSucceeded TaskPhase = "Succeeded"
	// TaskFailed means the command ended otherwise, as often as backoffLimit allows, or was ended. It is final.
	TaskFailed TaskPhase = "Failed"
)

const (
	// TaskScheduled is the type of the condition that is True once the task is bound to a worker.
	TaskScheduled = "TaskScheduled"
	// TaskReasonBound is the reason of TaskScheduled=True.
	TaskReasonBound = "Bound"
	// TaskReasonUnschedulable is the reason of TaskScheduled=False when no worker can take the task now.
	TaskReasonUnschedulable = "Unschedulable"
	// TaskReasonSchedulingGated is the reason of TaskScheduled=False while spec.schedulingGates are left.
	TaskReasonSchedulingGated = "SchedulingGated"
	// DisruptionTarget is the type of the condition that is True when a task was ended for a reason that is not its own,
	// such as a lost worker.
	DisruptionTarget = "DisruptionTarget"
	// TaskReconciling is the type of the condition that is True until the task ends. The server sets it, as it does
	// TaskComplete, TaskFailure and TaskStalled, whenever the phase changes.
	TaskReconciling = "Reconciling"
	// TaskComplete is the type of the condition that is True once the task has succeeded. It is final.
	TaskComplete = "Complete"
	// TaskFailure is the type of the condition that is True once the task has failed. It is final.
	TaskFailure = "Failed"
	// TaskStalled is the type of the condition that is True with TaskFailure, by the convention of kstatus.
	TaskStalled = "Stalled"

	// TaskReasonCompleted is the reason of a terminated state with exit code 0.
	TaskReasonCompleted = "Completed"
	// TaskReasonError is the reason of a terminated state with another exit code, or a signal.
	TaskReasonError = "Error"
	// TaskReasonStartError is the reason of a terminated state when the command could not be started.
	TaskReasonStartError = "StartError"
	// TaskReasonOOMKilled is the reason of a terminated state when the command was killed because memory ran out.
	TaskReasonOOMKilled = "OOMKilled"
	// TaskReasonDeadlineExceeded is the reason of a terminated state past activeDeadlineSeconds.
	TaskReasonDeadlineExceeded = "DeadlineExceeded"
	// TaskReasonWorkerCrashed is the reason of a terminated state when the worker was lost or restarted crashLimit
	// times while the command ran.
	TaskReasonWorkerCrashed = "WorkerCrashed"
)

// TaskStatus is what is known of the run of a task.
type TaskStatus struct {
	// phase is a summary of where the task is in its life.
	// +optional
	// +k8s:required
	// +leat:selectable
	Phase TaskPhase `json:"phase,omitempty" protobuf:"bytes,1,opt,name=phase,casttype=TaskPhase"`

	// conditions say more of the state: TaskScheduled, DisruptionTarget, and by the phase Reconciling, Complete, Failed and
	// Stalled.
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

	// state is where the command is now: waiting, running, or terminated. At most one of its members is set.
	// +optional
	State TaskState `json:"state,omitempty" protobuf:"bytes,3,opt,name=state"`

	// incarnation identifies the start of the worker process that the task was bound to. A write of another
	// incarnation is refused as a conflict. Only the binding and eviction subresources change it.
	// +optional
	// +k8s:optional
	// +k8s:maxLength=128
	Incarnation string `json:"incarnation,omitempty" protobuf:"bytes,4,opt,name=incarnation"`

	// attempts is how often the command has been started. It never goes back.
	// +optional
	// +k8s:optional
	// +k8s:minimum=0
	Attempts int32 `json:"attempts,omitempty" protobuf:"varint,5,opt,name=attempts"`

	// disruptions is how often the task was taken from a worker before it had finished.
	// +optional
	// +k8s:optional
	// +k8s:minimum=0
	Disruptions int32 `json:"disruptions,omitempty" protobuf:"varint,6,opt,name=disruptions"`

	// startTime is when the command was first started.
	// +optional
	// +k8s:optional
	StartTime *metav1.Time `json:"startTime,omitempty" protobuf:"bytes,7,opt,name=startTime"`

	// completionTime is when the task reached its final phase.
	// +optional
	// +k8s:optional
	CompletionTime *metav1.Time `json:"completionTime,omitempty" protobuf:"bytes,8,opt,name=completionTime"`

	// progress is what the command says of its progress, as "N/M".
	// +optional
	// +k8s:optional
	// +k8s:maxLength=64
	Progress string `json:"progress,omitempty" protobuf:"bytes,9,opt,name=progress"`

	// workerCrashes is how many times the worker was lost or restarted while the command ran. Only the eviction
	// subresource counts it.
	// +optional
	// +k8s:optional
	// +k8s:minimum=0
	WorkerCrashes int32 `json:"workerCrashes,omitempty" protobuf:"varint,10,opt,name=workerCrashes"`

	// failedAttempts is how many starts of the command have failed. backoffLimit bounds it. A start that a disruption
	// ended is not counted, and an eviction keeps the count.
	// +optional
	// +k8s:optional
	// +k8s:minimum=0
	FailedAttempts int32 `json:"failedAttempts,omitempty" protobuf:"varint,11,opt,name=failedAttempts"`
}

// TaskState is where the command of a task is now. At most one member is set.
type TaskState struct {
	// waiting says why the command is not running yet, or not running again yet.
	// +optional
	// +k8s:optional
	// +k8s:zeroOrOneOfMember
	Waiting *TaskStateWaiting `json:"waiting,omitempty" protobuf:"bytes,1,opt,name=waiting"`

	// running says since when the command runs.
	// +optional
	// +k8s:optional
	// +k8s:zeroOrOneOfMember
	Running *TaskStateRunning `json:"running,omitempty" protobuf:"bytes,2,opt,name=running"`

	// terminated says how the command ended.
	// +optional
	// +k8s:optional
	// +k8s:zeroOrOneOfMember
	Terminated *TaskStateTerminated `json:"terminated,omitempty" protobuf:"bytes,3,opt,name=terminated"`
}

// TaskStateWaiting says why a command is not running.
type TaskStateWaiting struct {
	// reason is one word in CamelCase.
	// +optional
	// +k8s:optional
	// +k8s:maxLength=1024
	Reason string `json:"reason,omitempty" protobuf:"bytes,1,opt,name=reason"`

	// message is for people.
	// +optional
	// +k8s:optional
	// +k8s:maxLength=32768
	Message string `json:"message,omitempty" protobuf:"bytes,2,opt,name=message"`
}

// TaskStateRunning says since when a command runs.
type TaskStateRunning struct {
	// startedAt is when this attempt was started.
	// +optional
	StartedAt metav1.Time `json:"startedAt,omitempty" protobuf:"bytes,1,opt,name=startedAt"`
}

// TaskStateTerminated says how a command ended.
type TaskStateTerminated struct {
	// exitCode is the exit status of the command; 128 plus the signal's number when a signal ended it.
	// +k8s:optional
	ExitCode int32 `json:"exitCode" protobuf:"varint,1,opt,name=exitCode"`

	// signal is the number of the signal that ended the command, if one did.
	// +optional
	// +k8s:optional
	// +k8s:minimum=0
	Signal int32 `json:"signal,omitempty" protobuf:"varint,2,opt,name=signal"`

	// reason is one word in CamelCase: Completed, Error, StartError, OOMKilled, DeadlineExceeded, WorkerCrashed.
	// +optional
	// +k8s:optional
	// +k8s:maxLength=1024
	Reason string `json:"reason,omitempty" protobuf:"bytes,3,opt,name=reason"`

	// message holds the last lines of the command's output when it failed, at most 4 KiB of them, or why it could not
	// be started.
	// +optional
	// +k8s:optional
	// +k8s:maxLength=32768
	Message string `json:"message,omitempty" protobuf:"bytes,4,opt,name=message"`

	// startedAt is when this attempt was started.
	// +optional
	StartedAt metav1.Time `json:"startedAt,omitempty" protobuf:"bytes,5,opt,name=startedAt"`

	// finishedAt is when this attempt ended.
	// +optional
	FinishedAt metav1.Time `json:"finishedAt,omitempty" protobuf:"bytes,6,opt,name=finishedAt"`
}

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object
// +k8s:isSubresource="/binding"

// Binding binds a task to a worker. It is created at the binding subresource of the task: at once spec.workerName and
// status.incarnation are set. A task that is bound, finished, being deleted or gated is a conflict.
type Binding struct {
	metav1.TypeMeta `json:",inline"`
	// Standard object's metadata. The name is the task's; uid and resourceVersion, if set, must be those of the task.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty" protobuf:"bytes,1,opt,name=metadata"`

	// target is the worker to bind to.
	Target BindingTarget `json:"target" protobuf:"bytes,2,opt,name=target"`
}

// BindingTarget names one start of one worker.
type BindingTarget struct {
	// name of the worker.
	// +required
	// +k8s:required
	// +k8s:format=k8s-long-name
	Name string `json:"name" protobuf:"bytes,1,opt,name=name"`

	// uid of the worker, as it was when the decision was made.
	// +optional
	// +k8s:optional
	UID types.UID `json:"uid,omitempty" protobuf:"bytes,2,opt,name=uid,casttype=k8s.io/apimachinery/pkg/types.UID"`

	// incarnation is the worker's status.incarnation, as it was when the decision was made.
	// +required
	// +k8s:required
	// +k8s:maxLength=128
	Incarnation string `json:"incarnation" protobuf:"bytes,3,opt,name=incarnation"`
}

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object
// +k8s:isSubresource="/eviction"

// Eviction takes a task from its worker. It is created at the eviction subresource of the task: at once spec.workerName
// and status.incarnation are cleared, the task is Pending again and its disruptions are counted. An eviction with
// workerCrashed that reaches the task's crashLimit makes it fail instead. A task that is finished, being deleted or not
// bound is a conflict.
type Eviction struct {
	metav1.TypeMeta `json:",inline"`
	// Standard object's metadata. The name is the task's.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty" protobuf:"bytes,1,opt,name=metadata"`

	// reason is one word in CamelCase, kept as the reason of the task's DisruptionTarget condition.
	// +optional
	// +default="Evicted"
	// +k8s:optional
	// +k8s:maxLength=1024
	Reason string `json:"reason,omitempty" protobuf:"bytes,2,opt,name=reason"`

	// message is for people, kept as the message of the task's DisruptionTarget condition.
	// +optional
	// +k8s:optional
	// +k8s:maxLength=32768
	Message string `json:"message,omitempty" protobuf:"bytes,3,opt,name=message"`

	// preconditions, if set, must hold for the task to be evicted.
	// +optional
	// +k8s:optional
	Preconditions *metav1.Preconditions `json:"preconditions,omitempty" protobuf:"bytes,4,opt,name=preconditions"`

	// workerCrashed reports that the worker was lost or restarted while the command of the task ran. It is counted in
	// status.workerCrashes; the eviction that reaches spec.crashLimit makes the task fail instead.
	// +optional
	// +k8s:optional
	WorkerCrashed bool `json:"workerCrashed,omitempty" protobuf:"varint,5,opt,name=workerCrashed"`
}
