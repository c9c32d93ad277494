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

// Task is a command that runs, to completion, on one worker. It runs with the filesystem, the user and the environment
// of the worker process. Anyone who may create tasks in a namespace can therefore run commands on the workers of that
// namespace.
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

// TaskSpec describes the command and the worker that it needs. After creation, these fields can be changed:
// schedulingGates (remove only), activeDeadlineSeconds (set or shorten), tolerations (add only), crashLimit,
// ttlSecondsAfterFinished, and, until the task is bound to a worker, priority and queueName.
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
	Indexes                       string
	Items                         []string
	IndexNumbers                  *IndexNumbers
	Pool                          string
}

// EnvVar is an environment variable of the command.
type EnvVar struct {
	Name  string
	Value string
}

// ResourceName is the name of a resource that workers offer and tasks request: "cpu", "memory", "tasks" (the number of
// tasks on a worker; each task takes one), or an extended resource name with a domain, such as "example.com/gpu".
type ResourceName string

// The resources of every worker: ResourceCPU in cores, ResourceMemory in bytes, and ResourceTasks, the number of tasks
// that it runs at the same time.
const (
	ResourceCPU    ResourceName = "cpu"
	ResourceMemory ResourceName = "memory"
	ResourceTasks  ResourceName = "tasks"
)

// ResourceList is a set of (resource name, quantity) pairs.
type ResourceList map[ResourceName]resource.Quantity

// TaskResources describes the compute resources that a task needs.
type TaskResources struct {
	Requests ResourceList
}

// TaintEffect is the effect of a taint on tasks that do not tolerate it.
type TaintEffect string

// The valid values of TaintEffect.
const (
	TaintEffectNoSchedule       TaintEffect = "NoSchedule"
	TaintEffectPreferNoSchedule TaintEffect = "PreferNoSchedule"
	TaintEffectNoExecute        TaintEffect = "NoExecute"
)

// TaintWorkerUnreachable is the key of the taint that is added to a worker when its lease has expired.
const TaintWorkerUnreachable = "batch.leat.dev/unreachable"

// TolerationOperator is the relationship between the value of a toleration and the value of a taint.
type TolerationOperator string

// The valid values of TolerationOperator.
const (
	TolerationOpExists TolerationOperator = "Exists"
	TolerationOpEqual  TolerationOperator = "Equal"
)

// Toleration allows a task to be bound to, and to stay on, workers with any taint that matches the triple
// <key,value,effect>.
type Toleration struct {
	Key               string
	Operator          TolerationOperator
	Value             string
	Effect            TaintEffect
	TolerationSeconds *int64
}

// TaskSchedulingGate prevents the scheduler from binding a task.
type TaskSchedulingGate struct {
	Name string
}

// TaskPhase is a summary of where a task is in its lifecycle.
type TaskPhase string

// The valid values of TaskPhase.
const (
	TaskPending   TaskPhase = "Pending"
	TaskRunning   TaskPhase = "Running"
	TaskSucceeded TaskPhase = "Succeeded"
	TaskFailed    TaskPhase = "Failed"
)

// The types and reasons of the conditions of a task, and the reasons of its terminated state.
const (
	TaskScheduled              = "TaskScheduled"
	TaskReasonBound            = "Bound"
	TaskReasonUnschedulable    = "Unschedulable"
	TaskReasonSchedulingGated  = "SchedulingGated"
	TaskReturnRequested        = "ReturnRequested"
	DisruptionTarget           = "DisruptionTarget"
	TaskReconciling            = "Reconciling"
	TaskComplete               = "Complete"
	TaskFailure                = "Failed"
	TaskStalled                = "Stalled"
	TaskReasonPrefetched       = "Prefetched"
	TaskReasonRebalanced       = "Rebalanced"
	TaskReasonCompleted        = "Completed"
	TaskReasonError            = "Error"
	TaskReasonStartError       = "StartError"
	TaskReasonDeadlineExceeded = "DeadlineExceeded"
	TaskReasonWorkerCrashed    = "WorkerCrashed"
)

// TaskStatus is the most recently observed status of a task.
type TaskStatus struct {
	Phase            TaskPhase
	Conditions       []metav1.Condition
	State            TaskState
	Incarnation      string
	Attempts         int32
	Disruptions      int32
	StartTime        *metav1.Time
	CompletionTime   *metav1.Time
	Progress         string
	WorkerCrashes    int32
	FailedAttempts   int32
	CompletedCount   int32
	IndexLimit       *int32
	BusyMilliseconds int64
	Bindings         int32
}

// TaskState is the current state of a command. At most one of its members is set.
type TaskState struct {
	Waiting    *TaskStateWaiting
	Running    *TaskStateRunning
	Terminated *TaskStateTerminated
}

// TaskStateWaiting is the state of a command that is waiting to be started.
type TaskStateWaiting struct {
	Reason  string
	Message string
}

// TaskStateRunning is the state of a running command.
type TaskStateRunning struct {
	StartedAt metav1.Time
}

// TaskStateTerminated is the state of a command that has ended.
type TaskStateTerminated struct {
	ExitCode   int32
	Signal     int32
	Reason     string
	Message    string
	StartedAt  metav1.Time
	FinishedAt metav1.Time
}

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// Binding binds a task to a worker. Create it at the binding subresource of the task: the server then sets
// spec.workerName and status.incarnation. If the task is bound, finished, being deleted or gated, the server responds
// with a conflict.
type Binding struct {
	metav1.TypeMeta
	metav1.ObjectMeta
	Target     BindingTarget
	Prefetched bool
}

// BindingTarget identifies one process of a worker.
type BindingTarget struct {
	Name        string
	UID         types.UID
	Incarnation string
}

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// Eviction removes a task from its worker. Create it at the eviction subresource of the task: the server then clears
// spec.workerName and status.incarnation, sets the phase to Pending and increments status.disruptions. An eviction with
// workerCrashed that reaches spec.crashLimit makes the task fail instead. If the task is finished, being deleted or not
// bound, the server responds with a conflict.
type Eviction struct {
	metav1.TypeMeta
	metav1.ObjectMeta
	Reason        string
	Message       string
	Preconditions *metav1.Preconditions
	WorkerCrashed bool
	NotStarted    bool
}

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// TaskLogOptions are the query parameters of the log subresource of a task and of a TaskSet.
type TaskLogOptions struct {
	metav1.TypeMeta
	Follow       bool
	Previous     bool
	SinceSeconds *int64
	SinceTime    *metav1.Time
	Timestamps   bool
	TailLines    *int64
	LimitBytes   *int64
	Indexes      string
	Prefix       bool
	Attempt      *int64
}

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// WorkerArchiveOptions are the query parameters of the archive subresource of a worker. The body of the request is a
// segment: a zip file with the output and the records of finished attempts. An empty body is not stored: the server
// accepts it if there is an archive.
type WorkerArchiveOptions struct {
	metav1.TypeMeta
	TaskSetUID  types.UID
	Incarnation string
	Segment     int64
	Digest      string
}

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// TaskRecordOptions are the query parameters of the records subresource of a task and of a TaskSet.
type TaskRecordOptions struct {
	metav1.TypeMeta
	Indexes  string
	Limit    *int64
	Continue string
}

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// TaskRecordList is a list of the records of finished attempts, in the order in which they are stored.
type TaskRecordList struct {
	metav1.TypeMeta
	metav1.ListMeta
	Items    []TaskRecord
	Warnings []string
}

// TaskRecord is the record of a finished attempt: one start of a command and its end.
type TaskRecord struct {
	Index                *int32
	TaskName             string
	TaskUID              types.UID
	Attempt              int32
	Failures             int32
	WorkerName           string
	Incarnation          string
	StartTime            metav1.MicroTime
	DurationMilliseconds int64
	ExitCode             int32
	Signal               int32
	Reason               string
	CPUMilliseconds      int64
	PeakMemoryBytes      int64
	OutputBytes          int64
	MissingBytes         int64
}

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// TaskSet runs one command many times, as an indexed Job does. A set of a million completions is one object. Tasks
// exist only for the indexes that are running, at most parallelism, for those that have finished and are not counted
// yet, and for the latest 100 failures.
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

// CompletionMode specifies how task completions of a set are tracked.
type CompletionMode string

// The valid values of CompletionMode.
const (
	NonIndexedCompletion CompletionMode = "NonIndexed"
	IndexedCompletion    CompletionMode = "Indexed"
)

// TaskSetSpec describes how a set runs its tasks. After creation, completionMode, backoffLimitPerIndex,
// taskFailurePolicy, successPolicy, selector, items, indexNumbers and, except for its spec.priority, template are
// immutable.
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
	Chunking                *TaskSetChunking
	DependsOn               []TaskSetDependency
	CancelledIndexes        string
}

// TaskSetDependencyCondition is how a set must end.
type TaskSetDependencyCondition string

// The valid values of TaskSetDependencyCondition.
const (
	TaskSetDependencyComplete TaskSetDependencyCondition = "Complete"
	TaskSetDependencyFailed   TaskSetDependencyCondition = "Failed"
	TaskSetDependencyFinished TaskSetDependencyCondition = "Finished"
)

// TaskSetDependency describes a set that another one waits for.
type TaskSetDependency struct {
	Name      string
	Condition TaskSetDependencyCondition
	PerIndex  bool
}

// TaskSetChunking specifies how indexes whose commands are short are combined in one task.
type TaskSetChunking struct {
	MaxIndexes *int32
}

// IndexNumbers specifies the numbers of the indexes of a set, either as a list or as a first number and a step.
type IndexNumbers struct {
	First *int32
	Step  *int32
	List  []int32
}

// TaskTemplateSpec describes the tasks that a set creates.
type TaskTemplateSpec struct {
	metav1.ObjectMeta
	Spec TaskSpec
}

// TaskFailurePolicyAction specifies what happens when a rule matches a failed task.
type TaskFailurePolicyAction string

// The valid values of TaskFailurePolicyAction.
const (
	TaskFailurePolicyActionFailTaskSet TaskFailurePolicyAction = "FailTaskSet"
	TaskFailurePolicyActionFailIndex   TaskFailurePolicyAction = "FailIndex"
	TaskFailurePolicyActionIgnore      TaskFailurePolicyAction = "Ignore"
	TaskFailurePolicyActionCount       TaskFailurePolicyAction = "Count"
)

// TaskFailurePolicyOnExitCodesOperator is the relationship between an exit code and the values of a rule.
type TaskFailurePolicyOnExitCodesOperator string

// The valid values of TaskFailurePolicyOnExitCodesOperator.
const (
	TaskFailurePolicyOnExitCodesOpIn    TaskFailurePolicyOnExitCodesOperator = "In"
	TaskFailurePolicyOnExitCodesOpNotIn TaskFailurePolicyOnExitCodesOperator = "NotIn"
)

// TaskFailurePolicy describes how failed tasks are handled.
type TaskFailurePolicy struct {
	Rules []TaskFailurePolicyRule
}

// TaskFailurePolicyRule describes which failed tasks it matches and what happens to them. Exactly one of onExitCodes
// and onTaskConditions must be set.
type TaskFailurePolicyRule struct {
	Action           TaskFailurePolicyAction
	OnExitCodes      *TaskFailurePolicyOnExitCodesRequirement
	OnTaskConditions []TaskFailurePolicyOnTaskConditionsPattern
}

// TaskFailurePolicyOnExitCodesRequirement matches failed tasks by exit code.
type TaskFailurePolicyOnExitCodesRequirement struct {
	Operator TaskFailurePolicyOnExitCodesOperator
	Values   []int32
}

// TaskFailurePolicyOnTaskConditionsPattern matches failed tasks by a condition.
type TaskFailurePolicyOnTaskConditionsPattern struct {
	Type   string
	Status metav1.ConditionStatus
}

// SuccessPolicy describes when a set succeeds before all its indexes have succeeded.
type SuccessPolicy struct {
	Rules []SuccessPolicyRule
}

// SuccessPolicyRule describes the indexes that must succeed for the set to succeed. At least one of its fields must be
// set.
type SuccessPolicyRule struct {
	SucceededIndexes *string
	SucceededCount   *int32
}

// The labels that a task has from its set: the name and the UID of the set.
const (
	LabelTaskSetName   = "batch.leat.dev/taskset-name"
	LabelControllerUID = "batch.leat.dev/controller-uid"
)

// The types and reasons of the conditions of a set.
const (
	TaskSetComplete           = "Complete"
	TaskSetFailed             = "Failed"
	TaskSetSuspended          = "Suspended"
	TaskSetFailureTarget      = "FailureTarget"
	TaskSetSuccessCriteriaMet = "SuccessCriteriaMet"
	TaskSetReconciling        = "Reconciling"
	TaskSetReasonNotStarted   = "NotStarted"
)

// TaskSetReasonCancelled is the reason of the conditions of a set with spec.cancelled.
const TaskSetReasonCancelled = "Cancelled"

// TaskSetStatus is the most recently observed status of a set.
type TaskSetStatus struct {
	Active             int32
	Ready              *int32
	Succeeded          int32
	Failed             int32
	Terminating        *int32
	CompletedIndexes   string
	FailedIndexes      *string
	StartTime          *metav1.Time
	CompletionTime     *metav1.Time
	Conditions         []metav1.Condition
	IndexFailures      string
	MedianMilliseconds int64
	Dependencies       []TaskSetDependencyStatus
}

// TaskSetDependencyStatus is what was observed of a set that another one waits for.
type TaskSetDependencyStatus struct {
	Name string
	UID  types.UID
	Met  bool
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

// WorkerSpec describes the desired state of a worker.
type WorkerSpec struct {
	Unschedulable bool
	Taints        []Taint
	Denied        bool
}

// Taint has an effect on all tasks that do not tolerate it.
type Taint struct {
	Key       string
	Value     string
	Effect    TaintEffect
	TimeAdded *metav1.Time
}

// WorkerReady is the type of the condition that is True while the worker accepts and runs tasks, False when it reports
// that it cannot, and Unknown once its lease has expired.
const WorkerReady = "Ready"

// WorkerStatus is the state that a worker reports.
type WorkerStatus struct {
	Capacity      ResourceList
	Allocatable   ResourceList
	Conditions    []metav1.Condition
	Incarnation   string
	RunningTasks  int32
	WorkerInfo    WorkerInfo
	Endpoint      *WorkerEndpoint
	PrefetchLimit int32
	// Unarchived are the UIDs of TaskSets. The worker holds output and records of their tasks that are not in the archive
	// yet.
	Unarchived []types.UID
}

// WorkerInfo describes a worker process and its machine.
type WorkerInfo struct {
	Version  string
	OS       string
	Arch     string
	Hostname string
	BootID   string
	Features []WorkerFeature
}

// WorkerFeature is an optional feature of the API that a worker supports.
type WorkerFeature string

// WorkerEndpoint is the address at which a worker serves logs over TLS.
type WorkerEndpoint struct {
	Host     string
	Port     int32
	CABundle []byte
}

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// WorkerLease is renewed by the worker of the same name as its heartbeat. It cannot be watched, because no component
// reacts to single heartbeats.
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

// WorkerLeaseSpec describes the holder of a lease and the time of its renewal.
type WorkerLeaseSpec struct {
	HolderIdentity       string
	LeaseDurationSeconds *int32
	RenewTime            *metav1.MicroTime
}

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// TaskQueue configures how the tasks that name it share the workers of their namespace. A queue that tasks name and
// that has no TaskQueue object has the default values.
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

// StopPolicy determines whether the tasks of a queue are started.
type StopPolicy string

// The valid values of StopPolicy.
const (
	StopPolicyNone         StopPolicy = "None"
	StopPolicyHold         StopPolicy = "Hold"
	StopPolicyHoldAndDrain StopPolicy = "HoldAndDrain"
)

// TaskQueueSpec describes the share and the limits of a queue.
type TaskQueueSpec struct {
	Weight          *int32
	MaxRunningTasks *int32
	Resources       TaskQueueResources
	MaxPendingTasks *int32
	StopPolicy      *StopPolicy
}

// TaskQueueResources describes the limits of the resources that the running tasks of a queue request.
type TaskQueueResources struct {
	Limits ResourceList
}

// TaskQueueStatus is the most recently observed status of a queue.
type TaskQueueStatus struct {
	Pending           int32
	Running           int32
	Used              ResourceList
	OldestPendingTime *metav1.Time
	Conditions        []metav1.Condition
}
