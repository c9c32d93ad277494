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
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// Task is a command that runs, to completion, on one worker. The command runs in the filesystem, and with the identity
// and the environment, of the worker process that the task is bound to: whoever may create tasks in a namespace can run
// commands on the workers of that namespace.
type Task struct {
	metav1.TypeMeta
	metav1.ObjectMeta
	Spec   TaskSpec
	Status TaskStatus
}

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// TaskList is a list of tasks.
type TaskList struct {
	metav1.TypeMeta
	metav1.ListMeta
	Items []Task
}

// TaskSpec is what to run and where it may run. Once the task exists only schedulingGates (removed, never added),
// activeDeadlineSeconds (set or shortened), tolerations (added), crashLimit, ttlSecondsAfterFinished and, while the task
// waits for a worker, priority and queueName can be changed.
type TaskSpec struct {
	QueueName                     string
	WorkerName                    string
	Priority                      int32
	Command                       []string
	Args                          []string
	Env                           []EnvVar
	WorkingDir                    string
	Resources                     TaskResources
	WorkerSelector                map[string]string
	Tolerations                   []Toleration
	ActiveDeadlineSeconds         *int64
	BackoffLimit                  *int32
	TerminationGracePeriodSeconds *int64
	TTLSecondsAfterFinished       *int32
	SchedulingGates               []TaskSchedulingGate
	CrashLimit                    *int32
}

// EnvVar is a variable in the environment of the command.
type EnvVar struct {
	Name  string
	Value string
}

// ResourceName names something that workers have and tasks use: "cpu", "memory", "tasks" (places for tasks on a worker;
// each task takes one), or an extended name with a domain, like "example.com/gpu".
type ResourceName string

const (
	ResourceCPU    ResourceName = "cpu"
	ResourceMemory ResourceName = "memory"
	ResourceTasks  ResourceName = "tasks"
)

// ResourceList is an amount of each named resource.
type ResourceList map[ResourceName]resource.Quantity

// TaskResources is what a task asks of a worker.
type TaskResources struct {
	Requests ResourceList
}

// TaintEffect is what a taint does to tasks that do not tolerate it.
type TaintEffect string

const (
	TaintEffectNoSchedule       TaintEffect = "NoSchedule"
	TaintEffectPreferNoSchedule TaintEffect = "PreferNoSchedule"
	TaintEffectNoExecute        TaintEffect = "NoExecute"
)

// TaintWorkerUnreachable is the key of the taint put on a worker whose lease has run out.
const TaintWorkerUnreachable = "batch.leat.dev/unreachable"

// TolerationOperator is how a toleration's value relates to a taint's.
type TolerationOperator string

const (
	TolerationOpExists TolerationOperator = "Exists"
	TolerationOpEqual  TolerationOperator = "Equal"
)

// Toleration lets a task be bound to, or stay on, workers with any taint that matches the triple <key,value,effect>.
type Toleration struct {
	Key               string
	Operator          TolerationOperator
	Value             string
	Effect            TaintEffect
	TolerationSeconds *int64
}

// TaskSchedulingGate holds a task back from being bound.
type TaskSchedulingGate struct {
	Name string
}

// TaskPhase is a summary of where a task is in its life.
type TaskPhase string

const (
	TaskPending   TaskPhase = "Pending"
	TaskRunning   TaskPhase = "Running"
	TaskSucceeded TaskPhase = "Succeeded"
	TaskFailed    TaskPhase = "Failed"
)

const (
	TaskScheduled              = "TaskScheduled"
	TaskReasonBound            = "Bound"
	TaskReasonUnschedulable    = "Unschedulable"
	TaskReasonSchedulingGated  = "SchedulingGated"
	DisruptionTarget           = "DisruptionTarget"
	TaskReconciling            = "Reconciling"
	TaskComplete               = "Complete"
	TaskFailure                = "Failed"
	TaskStalled                = "Stalled"
	TaskReasonCompleted        = "Completed"
	TaskReasonError            = "Error"
	TaskReasonStartError       = "StartError"
	TaskReasonDeadlineExceeded = "DeadlineExceeded"
	TaskReasonWorkerCrashed    = "WorkerCrashed"
)

// TaskStatus is what is known of the run of a task.
type TaskStatus struct {
	Phase          TaskPhase
	Conditions     []metav1.Condition
	State          TaskState
	Incarnation    string
	Attempts       int32
	Disruptions    int32
	StartTime      *metav1.Time
	CompletionTime *metav1.Time
	Progress       string
	WorkerCrashes  int32
	FailedAttempts int32
}

// TaskState is where the command of a task is now. At most one member is set.
type TaskState struct {
	Waiting    *TaskStateWaiting
	Running    *TaskStateRunning
	Terminated *TaskStateTerminated
}

// TaskStateWaiting says why a command is not running.
type TaskStateWaiting struct {
	Reason  string
	Message string
}

// TaskStateRunning says since when a command runs.
type TaskStateRunning struct {
	StartedAt metav1.Time
}

// TaskStateTerminated says how a command ended.
type TaskStateTerminated struct {
	ExitCode   int32
	Signal     int32
	Reason     string
	Message    string
	StartedAt  metav1.Time
	FinishedAt metav1.Time
}

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// Binding binds a task to a worker. It is created at the binding subresource of the task: at once spec.workerName and
// status.incarnation are set. A task that is bound, finished, being deleted or gated is a conflict.
type Binding struct {
	metav1.TypeMeta
	metav1.ObjectMeta
	Target BindingTarget
}

// BindingTarget names one start of one worker.
type BindingTarget struct {
	Name        string
	UID         types.UID
	Incarnation string
}

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// Eviction takes a task from its worker. It is created at the eviction subresource of the task: at once spec.workerName
// and status.incarnation are cleared, the task is Pending again and its disruptions are counted. A task that is finished
// or not bound is a conflict.
type Eviction struct {
	metav1.TypeMeta
	metav1.ObjectMeta
	Reason        string
	Message       string
	Preconditions *metav1.Preconditions
	WorkerCrashed bool
}

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// TaskLogOptions say which part of the output of a task is read at the log subresource.
type TaskLogOptions struct {
	metav1.TypeMeta
	Follow       bool
	Previous     bool
	SinceSeconds *int64
	SinceTime    *metav1.Time
	Timestamps   bool
	TailLines    *int64
	LimitBytes   *int64
}

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// TaskSet runs one command many times, as an indexed Job does: a set of a million completions is one object, and tasks
// exist for at most parallelism indexes, and a short queue of ready ones, at a time.
type TaskSet struct {
	metav1.TypeMeta
	metav1.ObjectMeta
	Spec   TaskSetSpec
	Status TaskSetStatus
}

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// TaskSetList is a list of task sets.
type TaskSetList struct {
	metav1.TypeMeta
	metav1.ListMeta
	Items []TaskSet
}

// CompletionMode is how the tasks of a set are told apart.
type CompletionMode string

const (
	NonIndexedCompletion CompletionMode = "NonIndexed"
	IndexedCompletion    CompletionMode = "Indexed"
)

// TaskSetSpec is what a task set should do.
type TaskSetSpec struct {
	Parallelism             *int32
	Completions             *int32
	CompletionMode          *CompletionMode
	BackoffLimit            *int32
	BackoffLimitPerIndex    *int32
	MaxFailedIndexes        *int32
	TaskFailurePolicy       *TaskFailurePolicy
	SuccessPolicy           *SuccessPolicy
	ActiveDeadlineSeconds   *int64
	TTLSecondsAfterFinished *int32
	Suspend                 *bool
	QueueName               string
	Selector                *metav1.LabelSelector
	Template                TaskTemplateSpec
	Items                   []string
	Cancelled               bool
	IndexNumbers            *IndexNumbers
}

// IndexNumbers are the numbers of the indexes of a set: a list, or a first number and a step.
type IndexNumbers struct {
	First *int32
	Step  *int32
	List  []int32
}

// TaskTemplateSpec is the task that a set creates.
type TaskTemplateSpec struct {
	metav1.ObjectMeta
	Spec TaskSpec
}

// TaskFailurePolicyAction is what happens when a rule matches a failed task.
type TaskFailurePolicyAction string

const (
	TaskFailurePolicyActionFailTaskSet TaskFailurePolicyAction = "FailTaskSet"
	TaskFailurePolicyActionFailIndex   TaskFailurePolicyAction = "FailIndex"
	TaskFailurePolicyActionIgnore      TaskFailurePolicyAction = "Ignore"
	TaskFailurePolicyActionCount       TaskFailurePolicyAction = "Count"
)

// TaskFailurePolicyOnExitCodesOperator is how an exit code relates to the values of a rule.
type TaskFailurePolicyOnExitCodesOperator string

const (
	TaskFailurePolicyOnExitCodesOpIn    TaskFailurePolicyOnExitCodesOperator = "In"
	TaskFailurePolicyOnExitCodesOpNotIn TaskFailurePolicyOnExitCodesOperator = "NotIn"
)

// TaskFailurePolicy says what failed tasks mean.
type TaskFailurePolicy struct {
	Rules []TaskFailurePolicyRule
}

// TaskFailurePolicyRule matches a failed task by its exit code or by its conditions. One of onExitCodes and
// onTaskConditions must be set.
type TaskFailurePolicyRule struct {
	Action           TaskFailurePolicyAction
	OnExitCodes      *TaskFailurePolicyOnExitCodesRequirement
	OnTaskConditions []TaskFailurePolicyOnTaskConditionsPattern
}

// TaskFailurePolicyOnExitCodesRequirement matches a failed task by exit code.
type TaskFailurePolicyOnExitCodesRequirement struct {
	Operator TaskFailurePolicyOnExitCodesOperator
	Values   []int32
}

// TaskFailurePolicyOnTaskConditionsPattern matches a failed task by one of its conditions.
type TaskFailurePolicyOnTaskConditionsPattern struct {
	Type   string
	Status metav1.ConditionStatus
}

// SuccessPolicy says when a set succeeds before all its indexes have.
type SuccessPolicy struct {
	Rules []SuccessPolicyRule
}

// SuccessPolicyRule is met when enough of the named indexes have succeeded. At least one member must be set.
type SuccessPolicyRule struct {
	SucceededIndexes *string
	SucceededCount   *int32
}

const (
	LabelTaskSetName   = "batch.leat.dev/taskset-name"
	LabelControllerUID = "batch.leat.dev/controller-uid"
)

const (
	TaskSetComplete           = "Complete"
	TaskSetFailed             = "Failed"
	TaskSetSuspended          = "Suspended"
	TaskSetFailureTarget      = "FailureTarget"
	TaskSetSuccessCriteriaMet = "SuccessCriteriaMet"
	TaskSetReconciling        = "Reconciling"
	TaskSetReasonNotStarted   = "NotStarted"
)

const TaskSetReasonCancelled = "Cancelled"

// TaskSetStatus is how far a set has come.
type TaskSetStatus struct {
	Active           int32
	Ready            *int32
	Succeeded        int32
	Failed           int32
	Terminating      *int32
	CompletedIndexes string
	FailedIndexes    *string
	StartTime        *metav1.Time
	CompletionTime   *metav1.Time
	Conditions       []metav1.Condition
	IndexFailures    string
}

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// Worker is a long-running process that runs the tasks bound to it. It registers itself.
type Worker struct {
	metav1.TypeMeta
	metav1.ObjectMeta
	Spec   WorkerSpec
	Status WorkerStatus
}

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// WorkerList is a list of workers.
type WorkerList struct {
	metav1.TypeMeta
	metav1.ListMeta
	Items []Worker
}

// WorkerSpec is what others want of a worker.
type WorkerSpec struct {
	Unschedulable bool
	Taints        []Taint
	Denied        bool
}

// Taint keeps tasks that do not tolerate it away from a worker.
type Taint struct {
	Key       string
	Value     string
	Effect    TaintEffect
	TimeAdded *metav1.Time
}

// WorkerReady is the type of the condition that is True while a worker takes and runs tasks, False while it says that it
// cannot, and Unknown once its lease has run out.
const WorkerReady = "Ready"

// WorkerStatus is what a worker says of itself.
type WorkerStatus struct {
	Capacity     ResourceList
	Allocatable  ResourceList
	Conditions   []metav1.Condition
	Incarnation  string
	RunningTasks int32
	WorkerInfo   WorkerInfo
	Endpoint     *WorkerEndpoint
}

// WorkerInfo describes a worker process and its machine.
type WorkerInfo struct {
	Version  string
	OS       string
	Arch     string
	Hostname string
	BootID   string
}

// WorkerEndpoint is where a worker serves logs, by TLS.
type WorkerEndpoint struct {
	Host     string
	Port     int32
	CABundle []byte
}

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// WorkerLease is renewed by the worker of the same name as a sign of life. It cannot be watched: heartbeats are nobody's
// event.
type WorkerLease struct {
	metav1.TypeMeta
	metav1.ObjectMeta
	Spec WorkerLeaseSpec
}

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// WorkerLeaseList is a list of worker leases.
type WorkerLeaseList struct {
	metav1.TypeMeta
	metav1.ListMeta
	Items []WorkerLease
}

// WorkerLeaseSpec is who holds a lease, and since when.
type WorkerLeaseSpec struct {
	HolderIdentity       string
	LeaseDurationSeconds *int32
	RenewTime            *metav1.MicroTime
}

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// TaskQueue says how the tasks that name it share the workers of their namespace. A queue that tasks name but that has no
// object behaves as one with default values.
type TaskQueue struct {
	metav1.TypeMeta
	metav1.ObjectMeta
	Spec   TaskQueueSpec
	Status TaskQueueStatus
}

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// TaskQueueList is a list of task queues.
type TaskQueueList struct {
	metav1.TypeMeta
	metav1.ListMeta
	Items []TaskQueue
}

// StopPolicy is whether a queue starts tasks.
type StopPolicy string

const (
	StopPolicyNone         StopPolicy = "None"
	StopPolicyHold         StopPolicy = "Hold"
	StopPolicyHoldAndDrain StopPolicy = "HoldAndDrain"
)

// TaskQueueSpec is a queue's share and limits.
type TaskQueueSpec struct {
	Weight          *int32
	MaxRunningTasks *int32
	Resources       TaskQueueResources
	MaxPendingTasks *int32
	StopPolicy      *StopPolicy
}

// TaskQueueResources limit what the running tasks of a queue may request.
type TaskQueueResources struct {
	Limits ResourceList
}

// TaskQueueStatus is what waits and runs in a queue.
type TaskQueueStatus struct {
	Pending           int32
	Running           int32
	Used              ResourceList
	OldestPendingTime *metav1.Time
	Conditions        []metav1.Condition
}
