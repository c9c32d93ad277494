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
// +genclient:method=GetScale,verb=get,subresource=scale,result=k8s.io/api/autoscaling/v1.Scale
// +genclient:method=UpdateScale,verb=update,subresource=scale,input=k8s.io/api/autoscaling/v1.Scale,result=k8s.io/api/autoscaling/v1.Scale
// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object
// +k8s:supportsSubresource="/status"
// +k8s:supportsSubresource="/scale"
// +leat:resource:plural=tasksets,short=tks,categories=all,owns=Task
// +leat:subresource:log=LogREST
// +leat:subresource:records=RecordsREST
// +leat:scale:spec=spec.parallelism,status=status.active,selector=spec.selector
// +leat:column:name=Status,type=string,func=StatusColumn,description=Whether the set is complete, failed, suspended, running or waits for others.
// +leat:column:name=Completions,type=string,func=CompletionsColumn,description=The number of indexes that have succeeded, and the total number.
// +leat:column:name=Active,type=integer,path=status.active,description=The number of tasks of the set that are unfinished.
// +leat:column:name=Failed,type=integer,path=status.failed,description=The number of tasks of the set that have failed.
// +leat:column:name=Duration,type=string,func=DurationColumn,description=The time from the start of the set to its completion.
// +leat:column:name=Age,type=date,path=metadata.creationTimestamp,description=The time since the set was created.

// TaskSet runs one command many times, as an indexed Job does. A set of a million completions is one object. Tasks
// exist only for the indexes that are running, at most parallelism, for those that have finished and are not counted
// yet, and for the latest 100 failures.
type TaskSet struct {
	metav1.TypeMeta `json:",inline"`
	// Standard object's metadata.
	// More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata
	// +optional
	// +k8s:subfield(name)=+k8s:optional
	// +k8s:subfield(name)=+k8s:format=k8s-short-name
	metav1.ObjectMeta `json:"metadata,omitempty" protobuf:"bytes,1,opt,name=metadata"`

	// spec is the specification of the desired behavior of the set.
	Spec TaskSetSpec `json:"spec" protobuf:"bytes,2,opt,name=spec"`

	// status is the most recently observed status of the set.
	// +optional
	Status TaskSetStatus `json:"status,omitempty" protobuf:"bytes,3,opt,name=status"`
}

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object

// TaskSetList is a list of task sets.
type TaskSetList struct {
	metav1.TypeMeta `json:",inline"`
	// Standard list metadata.
	// +optional
	metav1.ListMeta `json:"metadata,omitempty" protobuf:"bytes,1,opt,name=metadata"`

	// items is the list of task sets.
	Items []TaskSet `json:"items" protobuf:"bytes,2,rep,name=items"`
}

// CompletionMode specifies how task completions of a set are tracked.
// +enum
// +k8s:enum
type CompletionMode string

const (
	// NonIndexedCompletion means that the set is complete when completions tasks have succeeded. All completions are
	// alike.
	NonIndexedCompletion CompletionMode = "NonIndexed"
	// IndexedCompletion means that each task has an index from 0 to completions-1, and that the set is complete when one
	// task of each index has succeeded.
	IndexedCompletion CompletionMode = "Indexed"
)

// TaskSetSpec describes how a set runs its tasks. After creation, completionMode, backoffLimitPerIndex,
// taskFailurePolicy, successPolicy, selector, items, indexNumbers, dependsOn and, except for its spec.priority,
// template are immutable.
type TaskSetSpec struct {
	// parallelism is the maximum number of tasks that the set runs at any given time. Defaults to 1.
	// +optional
	// +default=1
	// +k8s:optional
	// +k8s:minimum=0
	Parallelism *int32 `json:"parallelism,omitempty" protobuf:"varint,1,opt,name=parallelism"`

	// completions is the number of tasks that must succeed. If it is unset and parallelism is set, the success of any task
	// completes the set. Defaults to 1 if parallelism is unset too. It can be changed only in Indexed mode, together with
	// parallelism and to the same value.
	// +optional
	// +k8s:optional
	// +k8s:minimum=0
	Completions *int32 `json:"completions,omitempty" protobuf:"varint,2,opt,name=completions"`

	// completionMode specifies how task completions are tracked: NonIndexed or Indexed. Defaults to NonIndexed.
	// +optional
	// +default="NonIndexed"
	// +k8s:optional
	// +k8s:immutable
	CompletionMode *CompletionMode `json:"completionMode,omitempty" protobuf:"bytes,3,opt,name=completionMode,casttype=CompletionMode"`

	// backoffLimit is the number of failed tasks after which one more failure makes the set fail. Defaults to 6, or to
	// 2147483647 if backoffLimitPerIndex is set.
	// +optional
	// +k8s:optional
	// +k8s:minimum=0
	BackoffLimit *int32 `json:"backoffLimit,omitempty" protobuf:"varint,4,opt,name=backoffLimit"`

	// backoffLimitPerIndex is the number of failed tasks of one index after which one more failure makes this index fail.
	// Other indexes continue. It can be set only in Indexed mode.
	// +optional
	// +k8s:optional
	// +k8s:minimum=0
	// +k8s:immutable
	BackoffLimitPerIndex *int32 `json:"backoffLimitPerIndex,omitempty" protobuf:"varint,5,opt,name=backoffLimitPerIndex"`

	// maxFailedIndexes is the number of failed indexes after which one more makes the set fail. It can be set only if
	// backoffLimitPerIndex is set.
	// +optional
	// +k8s:optional
	// +k8s:minimum=0
	MaxFailedIndexes *int32 `json:"maxFailedIndexes,omitempty" protobuf:"varint,6,opt,name=maxFailedIndexes"`

	// taskFailurePolicy specifies how failed tasks are handled, by exit code or condition. A failure that no rule matches
	// counts towards backoffLimit.
	// +optional
	// +k8s:optional
	// +k8s:immutable
	TaskFailurePolicy *TaskFailurePolicy `json:"taskFailurePolicy,omitempty" protobuf:"bytes,7,opt,name=taskFailurePolicy"`

	// successPolicy specifies when the set succeeds before all indexes have succeeded. It can be set only in Indexed mode.
	// +optional
	// +k8s:optional
	// +k8s:immutable
	SuccessPolicy *SuccessPolicy `json:"successPolicy,omitempty" protobuf:"bytes,8,opt,name=successPolicy"`

	// activeDeadlineSeconds is the time in seconds, relative to status.startTime, that the set may be continuously active.
	// After that time, the set fails with reason DeadlineExceeded. Suspending the set resets the time. If unset, there is
	// no deadline.
	// +optional
	// +k8s:optional
	// +k8s:minimum=1
	// +k8s:maximum=2147483647
	ActiveDeadlineSeconds *int64 `json:"activeDeadlineSeconds,omitempty" protobuf:"varint,9,opt,name=activeDeadlineSeconds"`

	// ttlSecondsAfterFinished limits the lifetime of a set that has finished. The set and its tasks are deleted that many
	// seconds after it has finished. Zero deletes them at once. If unset, they are not deleted automatically.
	// +optional
	// +k8s:optional
	// +k8s:minimum=0
	TTLSecondsAfterFinished *int32 `json:"ttlSecondsAfterFinished,omitempty" protobuf:"varint,10,opt,name=ttlSecondsAfterFinished"`

	// suspend specifies whether the set is suspended. While it is true, the running tasks of the set are deleted and no
	// new ones are created. Defaults to false.
	// +optional
	// +default=false
	// +k8s:optional
	Suspend *bool `json:"suspend,omitempty" protobuf:"varint,11,opt,name=suspend"`

	// queueName is the queue of all tasks of the set. The template must not specify another. It can be changed while no
	// task of the set is running, has succeeded or has failed. Waiting tasks move to the new queue. Defaults to "default".
	// +optional
	// +default="default"
	// +k8s:optional
	// +k8s:format=k8s-long-name
	// +k8s:maxLength=253
	// +leat:selectable
	QueueName string `json:"queueName,omitempty" protobuf:"bytes,12,opt,name=queueName"`

	// selector is a label query that matches the tasks of the set. The server generates it. Leave it unset.
	// +optional
	// +k8s:optional
	// +k8s:immutable
	Selector *metav1.LabelSelector `json:"selector,omitempty" protobuf:"bytes,13,opt,name=selector"`

	// template describes the tasks that are created. spec.priority can be changed while queueName can be. Everything else
	// is immutable.
	// +required
	Template TaskTemplateSpec `json:"template" protobuf:"bytes,14,opt,name=template"`

	// items are the inputs of the tasks, one per index, such as the lines of a file. The task of index i has item i in its
	// variable TASK_ITEM, which its command can refer to as $(TASK_ITEM). completions defaults to the number of items, and
	// must equal it. At most 100000 items of 65536 bytes each are allowed. All items, with one byte added for each, and
	// command, args and env of the template must not exceed 1 MiB together. It can be set only in Indexed mode.
	// +optional
	// +listType=atomic
	// +k8s:optional
	// +k8s:listType=atomic
	// +k8s:maxItems=100000
	// +k8s:eachVal=+k8s:maxBytes=65536
	// +k8s:immutable
	Items []string `json:"items,omitempty" protobuf:"bytes,15,rep,name=items"`

	// cancelled ends the running tasks of the set and makes it fail with reason Cancelled. The set remains, with the
	// successes and failures until then. Once true, it cannot be set to false.
	// +optional
	// +k8s:optional
	Cancelled bool `json:"cancelled,omitempty" protobuf:"varint,16,opt,name=cancelled"`

	// indexNumbers specifies the number that each index has in the variable TASK_INDEX of its task. Defaults to the index.
	// JOB_COMPLETION_INDEX is always the index. It can be set only in Indexed mode.
	// +optional
	// +k8s:optional
	// +k8s:immutable
	IndexNumbers *IndexNumbers `json:"indexNumbers,omitempty" protobuf:"bytes,17,opt,name=indexNumbers"`

	// chunking specifies how indexes whose commands are short are combined in one task. It has an effect only if
	// completions is set.
	// +optional
	// +k8s:optional
	Chunking *TaskSetChunking `json:"chunking,omitempty" protobuf:"bytes,18,opt,name=chunking"`

	// dependsOn are the sets of the same namespace that this set waits for. It starts once all of them have ended as
	// their entries require. Until then it has no tasks and no startTime, and its deadline does not run. If one of them
	// ends otherwise, or is deleted before it has ended, the set fails with reason DependencyFailed. A set that does not
	// exist yet is waited for. status.dependencies shows which are met. At most 20 are allowed.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +patchMergeKey=name
	// +patchStrategy=merge
	// +k8s:optional
	// +k8s:listType=map
	// +k8s:listMapKey=name
	// +k8s:maxItems=20
	// +k8s:immutable
	DependsOn []TaskSetDependency `json:"dependsOn,omitempty" patchStrategy:"merge" patchMergeKey:"name" protobuf:"bytes,19,rep,name=dependsOn"`

	// cancelledIndexes are indexes that no longer run, as numbers and ranges in ascending order, such as "1,3-5,7". They
	// are not started, their running tasks are ended, and they fail for good unless they have succeeded before. They
	// count towards maxFailedIndexes. Indexes can be added, but not removed. It can be set only if backoffLimitPerIndex
	// is set.
	// +optional
	// +k8s:optional
	// +k8s:maxLength=65536
	CancelledIndexes string `json:"cancelledIndexes,omitempty" protobuf:"bytes,20,opt,name=cancelledIndexes"`
}

// TaskSetDependencyCondition is how a set must end.
// +enum
// +k8s:enum
type TaskSetDependencyCondition string

const (
	// TaskSetDependencyComplete means that the other set must succeed.
	TaskSetDependencyComplete TaskSetDependencyCondition = "Complete"
	// TaskSetDependencyFailed means that the other set must fail.
	TaskSetDependencyFailed TaskSetDependencyCondition = "Failed"
	// TaskSetDependencyFinished means that the other set must end, whether it succeeds or fails.
	TaskSetDependencyFinished TaskSetDependencyCondition = "Finished"
)

// TaskSetDependency describes a set that another one waits for.
type TaskSetDependency struct {
	// name is the name of the other set. It must be in the same namespace, and may be created later.
	// +required
	// +k8s:required
	// +k8s:format=k8s-short-name
	Name string `json:"name" protobuf:"bytes,1,opt,name=name"`

	// condition is how the other set must end: Complete, Failed or Finished, which is either. Defaults to Complete.
	// +optional
	// +default="Complete"
	// +k8s:optional
	Condition TaskSetDependencyCondition `json:"condition,omitempty" protobuf:"bytes,2,opt,name=condition,casttype=TaskSetDependencyCondition"`

	// perIndex specifies that each index waits only for the same index of the other set. An index starts once it has
	// succeeded there, and fails if it has failed there for good, or if the other set has ended without it. Both sets must
	// have the same completions. It can be set only with condition Complete, in Indexed mode, and if backoffLimitPerIndex
	// is set.
	// +optional
	// +k8s:optional
	PerIndex bool `json:"perIndex,omitempty" protobuf:"varint,3,opt,name=perIndex"`
}

// TaskSetChunking specifies how indexes are combined in one task. The controller learns how long the commands of the
// set run. If that is at most half a second, it creates tasks with as many indexes as run for about a second, one after
// the other. Each index still has its own process, environment, log and exit code, and is counted by itself.
type TaskSetChunking struct {
	// maxIndexes is the maximum number of indexes in one task, at most 1000. 1 creates a task for each index. Defaults to
	// 1000.
	// +optional
	// +default=1000
	// +k8s:optional
	// +k8s:minimum=1
	// +k8s:maximum=1000
	MaxIndexes *int32 `json:"maxIndexes,omitempty" protobuf:"varint,1,opt,name=maxIndexes"`
}

// IndexNumbers specifies the numbers of the indexes of a set, either as a list or as a first number and a step.
type IndexNumbers struct {
	// first is the number of index 0. Defaults to 0.
	// +optional
	// +k8s:optional
	// +k8s:minimum=0
	First *int32 `json:"first,omitempty" protobuf:"varint,1,opt,name=first"`

	// step is the difference between the numbers of an index and the next. Defaults to 1.
	// +optional
	// +k8s:optional
	// +k8s:minimum=1
	Step *int32 `json:"step,omitempty" protobuf:"varint,2,opt,name=step"`

	// list contains the numbers of all indexes in ascending order. It replaces first and step. completions defaults to the
	// length of the list, and must equal it. At most 10000 numbers are allowed.
	// +optional
	// +listType=atomic
	// +k8s:optional
	// +k8s:listType=atomic
	// +k8s:maxItems=10000
	// +k8s:eachVal=+k8s:minimum=0
	List []int32 `json:"list,omitempty" protobuf:"varint,3,rep,name=list"`
}

// TaskTemplateSpec describes the tasks that a set creates.
type TaskTemplateSpec struct {
	// metadata contains the labels and annotations of the tasks.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty" protobuf:"bytes,1,opt,name=metadata"`

	// spec is the specification of the tasks.
	Spec TaskSpec `json:"spec" protobuf:"bytes,2,opt,name=spec"`
}

// TaskFailurePolicyAction specifies what happens when a rule matches a failed task.
// +enum
// +k8s:enum
type TaskFailurePolicyAction string

const (
	// TaskFailurePolicyActionFailTaskSet makes the set fail, and ends its running tasks.
	TaskFailurePolicyActionFailTaskSet TaskFailurePolicyAction = "FailTaskSet"
	// TaskFailurePolicyActionFailIndex makes the index of the task fail without further retries. It can be used only if
	// backoffLimitPerIndex is set.
	TaskFailurePolicyActionFailIndex TaskFailurePolicyAction = "FailIndex"
	// TaskFailurePolicyActionIgnore does not count the failure, and creates a replacement task.
	TaskFailurePolicyActionIgnore TaskFailurePolicyAction = "Ignore"
	// TaskFailurePolicyActionCount counts the failure towards the limits, as without a rule.
	TaskFailurePolicyActionCount TaskFailurePolicyAction = "Count"
)

// TaskFailurePolicyOnExitCodesOperator is the relationship between an exit code and the values of a rule.
// +enum
// +k8s:enum
type TaskFailurePolicyOnExitCodesOperator string

const (
	// TaskFailurePolicyOnExitCodesOpIn matches exit codes that are in values.
	TaskFailurePolicyOnExitCodesOpIn TaskFailurePolicyOnExitCodesOperator = "In"
	// TaskFailurePolicyOnExitCodesOpNotIn matches exit codes that are not in values. Exit code 0 never matches.
	TaskFailurePolicyOnExitCodesOpNotIn TaskFailurePolicyOnExitCodesOperator = "NotIn"
)

// TaskFailurePolicy describes how failed tasks are handled.
type TaskFailurePolicy struct {
	// rules are evaluated in order. The first rule that matches a failed task determines the action.
	// +required
	// +listType=atomic
	// +k8s:required
	// +k8s:listType=atomic
	// +k8s:maxItems=20
	Rules []TaskFailurePolicyRule `json:"rules" protobuf:"bytes,1,rep,name=rules"`
}

// TaskFailurePolicyRule describes which failed tasks it matches and what happens to them. Exactly one of onExitCodes
// and onTaskConditions must be set.
type TaskFailurePolicyRule struct {
	// action is what happens when the rule matches: FailTaskSet, FailIndex, Ignore or Count.
	// +required
	// +k8s:required
	Action TaskFailurePolicyAction `json:"action" protobuf:"bytes,1,opt,name=action"`

	// onExitCodes matches tasks by exit code.
	// +optional
	// +k8s:optional
	// +k8s:unionMember
	OnExitCodes *TaskFailurePolicyOnExitCodesRequirement `json:"onExitCodes,omitempty" protobuf:"bytes,2,opt,name=onExitCodes"`

	// onTaskConditions matches tasks by condition. The rule matches if any of the patterns does.
	// +optional
	// +listType=atomic
	// +k8s:optional
	// +k8s:listType=atomic
	// +k8s:maxItems=20
	// +k8s:unionMember
	OnTaskConditions []TaskFailurePolicyOnTaskConditionsPattern `json:"onTaskConditions,omitempty" protobuf:"bytes,3,rep,name=onTaskConditions"`
}

// TaskFailurePolicyOnExitCodesRequirement matches failed tasks by exit code.
type TaskFailurePolicyOnExitCodesRequirement struct {
	// operator is the relationship between the exit code and values: In or NotIn.
	// +required
	// +k8s:required
	Operator TaskFailurePolicyOnExitCodesOperator `json:"operator" protobuf:"bytes,1,opt,name=operator"`

	// values is the list of exit codes, in ascending order and without duplicates. 0 is not allowed with operator In.
	// +required
	// +listType=set
	// +k8s:required
	// +k8s:listType=set
	// +k8s:maxItems=255
	Values []int32 `json:"values" protobuf:"varint,2,rep,name=values"`
}

// TaskFailurePolicyOnTaskConditionsPattern matches failed tasks by a condition.
type TaskFailurePolicyOnTaskConditionsPattern struct {
	// type of the condition.
	// +required
	// +k8s:required
	// +k8s:format=k8s-label-key
	Type string `json:"type" protobuf:"bytes,1,opt,name=type"`

	// status of the condition. Defaults to True.
	// +optional
	// +default="True"
	// +k8s:optional
	Status metav1.ConditionStatus `json:"status,omitempty" protobuf:"bytes,2,opt,name=status,casttype=k8s.io/apimachinery/pkg/apis/meta/v1.ConditionStatus"`
}

// SuccessPolicy describes when a set succeeds before all its indexes have succeeded.
type SuccessPolicy struct {
	// rules are evaluated in order. The set succeeds when one of them is met.
	// +required
	// +listType=atomic
	// +k8s:required
	// +k8s:listType=atomic
	// +k8s:maxItems=20
	Rules []SuccessPolicyRule `json:"rules" protobuf:"bytes,1,rep,name=rules"`
}

// SuccessPolicyRule describes the indexes that must succeed for the set to succeed. At least one of its fields must be
// set.
type SuccessPolicyRule struct {
	// succeededIndexes are the indexes that must succeed: all of them, or succeededCount of them if that is set. The
	// format is numbers and ranges in ascending order, such as "1,3-5,7".
	// +optional
	// +k8s:optional
	// +k8s:maxLength=65536
	SucceededIndexes *string `json:"succeededIndexes,omitempty" protobuf:"bytes,1,opt,name=succeededIndexes"`

	// succeededCount is the number of indexes that must succeed, of succeededIndexes if that is set, otherwise of all.
	// +optional
	// +k8s:optional
	// +k8s:minimum=1
	SucceededCount *int32 `json:"succeededCount,omitempty" protobuf:"varint,2,opt,name=succeededCount"`
}

const (
	// LabelTaskSetName is the label of a task with the name of its set.
	LabelTaskSetName = "batch.leat.dev/taskset-name"
	// LabelControllerUID is the label of a task with the UID of its set. The selector of the set matches it.
	LabelControllerUID = "batch.leat.dev/controller-uid"
	// LabelCompletionIndex is the label of a task with its index in the set. A task with several indexes does not have it.
	LabelCompletionIndex = "batch.leat.dev/completion-index"
	// LabelFirstCompletionIndex is the label of a task with several indexes, with the first of them.
	LabelFirstCompletionIndex = "batch.leat.dev/first-completion-index"
	// AnnotationIndexFailureCount is the annotation of a task with the number of tasks of the same index that had failed
	// when it was created, without those that the failure policy ignores.
	AnnotationIndexFailureCount = "batch.leat.dev/index-failure-count"
	// LabelRetryOf is the label of a task or set that retries another, with the UID of the other. A retry of a retry has
	// the UID of the original.
	LabelRetryOf = "batch.leat.dev/retry-of-uid"
	// AnnotationRetryOf is the annotation of a task or set that retries another, with the name of the other. A retry of a
	// retry has the name of the original.
	AnnotationRetryOf = "batch.leat.dev/retry-of"
	// AnnotationCreatedBy is the annotation of a task or set with the name of the user that created it, or the set of the
	// task. The server sets it.
	AnnotationCreatedBy = "batch.leat.dev/created-by"
	// LabelCreator is the label of a task or set with the CreatorLabel of AnnotationCreatedBy. The server sets it.
	LabelCreator = "batch.leat.dev/creator"
)

const (
	// TaskSetComplete is the type of the condition that is True once the set has succeeded. It is final.
	TaskSetComplete = "Complete"
	// TaskSetFailed is the type of the condition that is True once the set has failed. It is final.
	TaskSetFailed = "Failed"
	// TaskSetStalled is the type of the condition that is True with Failed, as the convention of kstatus requires. Tools
	// that wait for objects of any kind, such as "helm --wait", use it to detect that a set has failed.
	TaskSetStalled = "Stalled"
	// TaskSetReconciling is the type of the condition that is True until the set is started, and while it is suspended.
	// The server derives it from startTime.
	TaskSetReconciling = "Reconciling"
	// TaskSetSuspended is the type of the condition that is True while the set is suspended.
	TaskSetSuspended = "Suspended"
	// TaskSetFailureTarget is the type of the condition that is True once the set is going to fail, before its tasks have
	// ended.
	TaskSetFailureTarget = "FailureTarget"
	// TaskSetSuccessCriteriaMet is the type of the condition that is True once the set is going to succeed, before its
	// tasks have ended.
	TaskSetSuccessCriteriaMet = "SuccessCriteriaMet"
	// TaskSetReplicaFailure is the type of the condition that is True while tasks of the set cannot be created, for
	// example because of a quota or a full queue. The message is the error of the server.
	TaskSetReplicaFailure = "ReplicaFailure"
	// TaskSetDependenciesMet is the type of the condition that is True once all sets of spec.dependsOn have ended as
	// required. While it is False, the message names those that the set waits for. Sets without dependsOn do not have it.
	TaskSetDependenciesMet = "DependenciesMet"
)

// The reasons of the conditions of a set. FailureTarget and Failed have the same reasons, and so do SuccessCriteriaMet
// and Complete.
const (
	// TaskSetReasonTaskFailurePolicy means that a failed task matched a rule of taskFailurePolicy with action FailTaskSet.
	TaskSetReasonTaskFailurePolicy = "TaskFailurePolicy"
	// TaskSetReasonBackoffLimitExceeded means that more tasks failed than backoffLimit allows.
	TaskSetReasonBackoffLimitExceeded = "BackoffLimitExceeded"
	// TaskSetReasonDeadlineExceeded means that the set was active longer than activeDeadlineSeconds.
	TaskSetReasonDeadlineExceeded = "DeadlineExceeded"
	// TaskSetReasonMaxFailedIndexesExceeded means that more indexes failed than maxFailedIndexes allows.
	TaskSetReasonMaxFailedIndexesExceeded = "MaxFailedIndexesExceeded"
	// TaskSetReasonCancelled means that spec.cancelled was set.
	TaskSetReasonCancelled = "Cancelled"
	// TaskSetReasonFailedIndexes means that all indexes have ended and that some have failed.
	TaskSetReasonFailedIndexes = "FailedIndexes"
	// TaskSetReasonSuccessPolicy means that a rule of successPolicy is met.
	TaskSetReasonSuccessPolicy = "SuccessPolicy"
	// TaskSetReasonCompletionsReached means that the number of succeeded tasks has reached completions.
	TaskSetReasonCompletionsReached = "CompletionsReached"
	// TaskSetReasonSuspended is the reason of Suspended=True.
	TaskSetReasonSuspended = "TaskSetSuspended"
	// TaskSetReasonResumed is the reason of Suspended=False.
	TaskSetReasonResumed = "TaskSetResumed"
	// TaskSetReasonFailedCreate is the reason of ReplicaFailure=True.
	TaskSetReasonFailedCreate = "FailedCreate"
	// TaskSetReasonDependencyFailed means that a set of dependsOn has ended otherwise than required, or was deleted before
	// it had ended. DependenciesMet=False then has the same reason.
	TaskSetReasonDependencyFailed = "DependencyFailed"
	// TaskSetReasonWaiting is the reason of DependenciesMet=False while the set waits.
	TaskSetReasonWaiting = "Waiting"
	// TaskSetReasonCompletionsDiffer is the reason of DependenciesMet=False if a set of dependsOn with perIndex does not
	// have the same indexes as this set.
	TaskSetReasonCompletionsDiffer = "CompletionsDiffer"
	// TaskSetReasonDependenciesMet is the reason of DependenciesMet=True.
	TaskSetReasonDependenciesMet = "DependenciesMet"
	// TaskSetReasonNotStarted is the reason of Reconciling=True.
	TaskSetReasonNotStarted = "NotStarted"
)

// TaskSetStatus is the most recently observed status of a set.
type TaskSetStatus struct {
	// active is the number of tasks of the set that are unfinished and not being deleted.
	// +optional
	// +k8s:optional
	// +k8s:minimum=0
	Active int32 `json:"active,omitempty" protobuf:"varint,1,opt,name=active"`

	// ready is the number of active tasks that are running.
	// +optional
	// +k8s:optional
	// +k8s:minimum=0
	Ready *int32 `json:"ready,omitempty" protobuf:"varint,2,opt,name=ready"`

	// succeeded is the number of indexes that have succeeded.
	// +optional
	// +k8s:optional
	// +k8s:minimum=0
	Succeeded int32 `json:"succeeded,omitempty" protobuf:"varint,3,opt,name=succeeded"`

	// failed is the number of tasks that have failed.
	// +optional
	// +k8s:optional
	// +k8s:minimum=0
	Failed int32 `json:"failed,omitempty" protobuf:"varint,4,opt,name=failed"`

	// terminating is the number of tasks of the set that are being deleted and unfinished.
	// +optional
	// +k8s:optional
	// +k8s:minimum=0
	Terminating *int32 `json:"terminating,omitempty" protobuf:"varint,5,opt,name=terminating"`

	// completedIndexes are the indexes that have succeeded, as numbers and ranges in ascending order, such as "1,3-5,7".
	// +optional
	// +k8s:optional
	CompletedIndexes string `json:"completedIndexes,omitempty" protobuf:"bytes,6,opt,name=completedIndexes"`

	// failedIndexes are the indexes that have failed, in the format of completedIndexes. It is set only if
	// backoffLimitPerIndex is set.
	// +optional
	// +k8s:optional
	FailedIndexes *string `json:"failedIndexes,omitempty" protobuf:"bytes,7,opt,name=failedIndexes"`

	// startTime is the time at which the set was started or last resumed.
	// +optional
	// +k8s:optional
	StartTime *metav1.Time `json:"startTime,omitempty" protobuf:"bytes,8,opt,name=startTime"`

	// completionTime is the time at which the set succeeded. It is not set if the set fails.
	// +optional
	// +k8s:optional
	CompletionTime *metav1.Time `json:"completionTime,omitempty" protobuf:"bytes,9,opt,name=completionTime"`

	// conditions are the latest observations of the state of the set: Complete, Failed, Stalled, Suspended, FailureTarget,
	// SuccessCriteriaMet, ReplicaFailure, DependenciesMet and Reconciling.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +patchMergeKey=type
	// +patchStrategy=merge
	// +k8s:optional
	// +k8s:listType=map
	// +k8s:listMapKey=type
	// +k8s:maxItems=64
	Conditions []metav1.Condition `json:"conditions,omitempty" patchStrategy:"merge" patchMergeKey:"type" protobuf:"bytes,10,rep,name=conditions"`
	// indexFailures are the indexes that have failed and will be retried, each with the number of its tasks that are
	// counted in failed. The format is pairs in ascending order, such as "3:1,17:2". The controller uses it to count each
	// failed task exactly once, even if it is interrupted. Indexes that have succeeded or finally failed are not listed.
	// +optional
	// +k8s:optional
	IndexFailures string `json:"indexFailures,omitempty" protobuf:"bytes,11,opt,name=indexFailures"`

	// medianMilliseconds is the median of the time in milliseconds that the commands of the set ran, of those that have
	// ended last. It is set once at least 8 have ended.
	// +optional
	// +k8s:optional
	// +k8s:minimum=0
	MedianMilliseconds int64 `json:"medianMilliseconds,omitempty" protobuf:"varint,12,opt,name=medianMilliseconds"`

	// dependencies are those of the sets of spec.dependsOn that have been observed.
	// +optional
	// +listType=map
	// +listMapKey=name
	// +patchMergeKey=name
	// +patchStrategy=merge
	// +k8s:optional
	// +k8s:listType=map
	// +k8s:listMapKey=name
	// +k8s:maxItems=20
	Dependencies []TaskSetDependencyStatus `json:"dependencies,omitempty" patchStrategy:"merge" patchMergeKey:"name" protobuf:"bytes,13,rep,name=dependencies"`
}

// TaskSetDependencyStatus is what was observed of a set that another one waits for.
type TaskSetDependencyStatus struct {
	// name is the name of the other set.
	// +required
	// +k8s:required
	// +k8s:format=k8s-short-name
	Name string `json:"name" protobuf:"bytes,1,opt,name=name"`

	// uid is the UID of the set that had this name when it was first observed. It does not change: a later set of the same
	// name does not count.
	// +required
	// +k8s:required
	UID types.UID `json:"uid" protobuf:"bytes,2,opt,name=uid,casttype=k8s.io/apimachinery/pkg/types.UID"`

	// met is true once the other set has ended as required. It is final, even if the other set is deleted later.
	// +optional
	// +k8s:optional
	Met bool `json:"met,omitempty" protobuf:"varint,3,opt,name=met"`
}
