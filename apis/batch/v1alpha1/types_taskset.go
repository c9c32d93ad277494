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
// +genclient:method=GetScale,verb=get,subresource=scale,result=k8s.io/api/autoscaling/v1.Scale
// +genclient:method=UpdateScale,verb=update,subresource=scale,input=k8s.io/api/autoscaling/v1.Scale,result=k8s.io/api/autoscaling/v1.Scale
// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object
// +k8s:supportsSubresource="/status"
// +k8s:supportsSubresource="/scale"
// +leat:resource:plural=tasksets,short=tks,categories=all,owns=Task
// +leat:scale:spec=spec.parallelism,status=status.active,selector=spec.selector
// +leat:column:name=Status,type=string,func=StatusColumn,description=Whether the set is complete, failed, suspended or running.
// +leat:column:name=Completions,type=string,func=CompletionsColumn,description=How many indexes have succeeded, of how many.
// +leat:column:name=Active,type=integer,path=status.active,description=How many tasks of the set exist and have not finished.
// +leat:column:name=Failed,type=integer,path=status.failed,description=How many tasks of the set have failed.
// +leat:column:name=Duration,type=string,func=DurationColumn,description=The time from the start of the set to its completion.
// +leat:column:name=Age,type=date,path=metadata.creationTimestamp,description=The time since the set was created.

// TaskSet runs one command many times, as an indexed Job does: a set of a million completions is one object, and tasks
// exist for at most parallelism indexes, and a short queue of ready ones, at a time.
type TaskSet struct {
	metav1.TypeMeta `json:",inline"`
	// Standard object's metadata.
	// More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata
	// +optional
	// +k8s:subfield(name)=+k8s:optional
	// +k8s:subfield(name)=+k8s:format=k8s-short-name
	metav1.ObjectMeta `json:"metadata,omitempty" protobuf:"bytes,1,opt,name=metadata"`

	// spec is what the set should do.
	Spec TaskSetSpec `json:"spec" protobuf:"bytes,2,opt,name=spec"`

	// status is how far the set has come.
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

// CompletionMode is how the tasks of a set are told apart.
// +enum
// +k8s:enum
type CompletionMode string

const (
	// NonIndexedCompletion means the set is complete once as many tasks have succeeded as completions says.
	NonIndexedCompletion CompletionMode = "NonIndexed"
	// IndexedCompletion means each task has an index from 0 to completions-1 and the set is complete once there has been
	// one successful task for each.
	IndexedCompletion CompletionMode = "Indexed"
)

// TaskSetSpec is what a task set should do.
type TaskSetSpec struct {
	// parallelism is how many tasks of the set run at a time, at most.
	// +optional
	// +default=1
	// +k8s:optional
	// +k8s:minimum=0
	Parallelism *int32 `json:"parallelism,omitempty" protobuf:"varint,1,opt,name=parallelism"`

	// completions is how many tasks must succeed. Unset, with parallelism set, any task that succeeds signals that the
	// set is done. It defaults to 1 when parallelism is unset too. It can be changed only together with parallelism, to the
	// same value, in Indexed mode.
	// +optional
	// +k8s:optional
	// +k8s:minimum=0
	Completions *int32 `json:"completions,omitempty" protobuf:"varint,2,opt,name=completions"`

	// completionMode is how tasks are told apart: NonIndexed (the default) or Indexed.
	// +optional
	// +default="NonIndexed"
	// +k8s:optional
	// +k8s:immutable
	CompletionMode *CompletionMode `json:"completionMode,omitempty" protobuf:"bytes,3,opt,name=completionMode,casttype=CompletionMode"`

	// backoffLimit is how many failed tasks make the set fail. It defaults to 6, or to 2147483647 when
	// backoffLimitPerIndex is set.
	// +optional
	// +k8s:optional
	// +k8s:minimum=0
	BackoffLimit *int32 `json:"backoffLimit,omitempty" protobuf:"varint,4,opt,name=backoffLimit"`

	// backoffLimitPerIndex is how many failed tasks of one index make that index fail, while others go on. Only in
	// Indexed mode.
	// +optional
	// +k8s:optional
	// +k8s:minimum=0
	// +k8s:immutable
	BackoffLimitPerIndex *int32 `json:"backoffLimitPerIndex,omitempty" protobuf:"varint,5,opt,name=backoffLimitPerIndex"`

	// maxFailedIndexes is how many failed indexes make the set fail. Only with backoffLimitPerIndex.
	// +optional
	// +k8s:optional
	// +k8s:minimum=0
	MaxFailedIndexes *int32 `json:"maxFailedIndexes,omitempty" protobuf:"varint,6,opt,name=maxFailedIndexes"`

	// taskFailurePolicy says what a failed task means, by its exit code or its conditions. Without a rule that matches it
	// counts towards backoffLimit.
	// +optional
	// +k8s:optional
	// +k8s:immutable
	TaskFailurePolicy *TaskFailurePolicy `json:"taskFailurePolicy,omitempty" protobuf:"bytes,7,opt,name=taskFailurePolicy"`

	// successPolicy says when the set succeeds before all indexes have. Only in Indexed mode.
	// +optional
	// +k8s:optional
	// +k8s:immutable
	SuccessPolicy *SuccessPolicy `json:"successPolicy,omitempty" protobuf:"bytes,8,opt,name=successPolicy"`

	// activeDeadlineSeconds is how long the set may be active, in seconds from its startTime. Past it the set fails with
	// reason DeadlineExceeded.
	// +optional
	// +k8s:optional
	// +k8s:minimum=1
	// +k8s:maximum=2147483647
	ActiveDeadlineSeconds *int64 `json:"activeDeadlineSeconds,omitempty" protobuf:"varint,9,opt,name=activeDeadlineSeconds"`

	// ttlSecondsAfterFinished is when a finished set is deleted, with its tasks, in seconds after it has finished. Unset:
	// never.
	// +optional
	// +k8s:optional
	// +k8s:minimum=0
	TTLSecondsAfterFinished *int32 `json:"ttlSecondsAfterFinished,omitempty" protobuf:"varint,10,opt,name=ttlSecondsAfterFinished"`

	// suspend, when true, ends the tasks of the set that run and starts no more until it is false again.
	// +optional
	// +default=false
	// +k8s:optional
	Suspend *bool `json:"suspend,omitempty" protobuf:"varint,11,opt,name=suspend"`

	// queueName is the queue of all tasks of the set. The template must not name another. It can be changed while no task
	// of the set runs, has succeeded or has failed; the tasks that wait follow.
	// +optional
	// +default="default"
	// +k8s:optional
	// +k8s:format=k8s-long-name
	// +k8s:maxLength=253
	// +leat:selectable
	QueueName string `json:"queueName,omitempty" protobuf:"bytes,12,opt,name=queueName"`

	// selector matches the tasks of the set. It is generated; leave it unset.
	// +optional
	// +k8s:optional
	// +k8s:immutable
	Selector *metav1.LabelSelector `json:"selector,omitempty" protobuf:"bytes,13,opt,name=selector"`

	// template is the task that is created for each index. Its spec.priority can be changed as queueName can, all else
	// cannot.
	// +required
	Template TaskTemplateSpec `json:"template" protobuf:"bytes,14,opt,name=template"`

	// items are what the tasks of a set work on, one for each index, such as the lines of a file. The task of index i
	// finds item i in its variable TASK_ITEM, and as $(TASK_ITEM) in its command. completions default to how many items
	// there are, and must be as many. At most 100000 items, of 65536 bytes each, and 1 MiB together when each
	// is a line. Only in Indexed mode.
	// +optional
	// +listType=atomic
	// +k8s:optional
	// +k8s:listType=atomic
	// +k8s:maxItems=100000
	// +k8s:eachVal=+k8s:maxBytes=65536
	// +k8s:immutable
	Items []string `json:"items,omitempty" protobuf:"bytes,15,rep,name=items"`

	// cancelled, once true, ends the tasks of the set and makes it fail with reason Cancelled. The set stays, with what
	// has succeeded and failed until then. It cannot be set to false again.
	// +optional
	// +k8s:optional
	Cancelled bool `json:"cancelled,omitempty" protobuf:"varint,16,opt,name=cancelled"`

	// indexNumbers say which number the task of each index finds in its variable TASK_INDEX. Unset, it is the index.
	// JOB_COMPLETION_INDEX is the index in any case. Only in Indexed mode.
	// +optional
	// +k8s:optional
	// +k8s:immutable
	IndexNumbers *IndexNumbers `json:"indexNumbers,omitempty" protobuf:"bytes,17,opt,name=indexNumbers"`
}

// IndexNumbers are the numbers of the indexes of a set: a list, or a first number and a step.
type IndexNumbers struct {
	// first is the number of index 0. It defaults to 0.
	// +optional
	// +k8s:optional
	// +k8s:minimum=0
	First *int32 `json:"first,omitempty" protobuf:"varint,1,opt,name=first"`

	// step is how much the number grows from each index to the next. It defaults to 1.
	// +optional
	// +k8s:optional
	// +k8s:minimum=1
	Step *int32 `json:"step,omitempty" protobuf:"varint,2,opt,name=step"`

	// list are the numbers of all indexes, ascending: one for each, in place of first and step. At most 10000.
	// completions default to how many there are, and must be as many.
	// +optional
	// +listType=atomic
	// +k8s:optional
	// +k8s:listType=atomic
	// +k8s:maxItems=10000
	// +k8s:eachVal=+k8s:minimum=0
	List []int32 `json:"list,omitempty" protobuf:"varint,3,rep,name=list"`
}

// TaskTemplateSpec is the task that a set creates.
type TaskTemplateSpec struct {
	// Labels and annotations of the tasks.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty" protobuf:"bytes,1,opt,name=metadata"`

	// spec of the tasks.
	Spec TaskSpec `json:"spec" protobuf:"bytes,2,opt,name=spec"`
}

// TaskFailurePolicyAction is what happens when a rule matches a failed task.
// +enum
// +k8s:enum
type TaskFailurePolicyAction string

const (
	// TaskFailurePolicyActionFailTaskSet fails the whole set and ends its tasks.
	TaskFailurePolicyActionFailTaskSet TaskFailurePolicyAction = "FailTaskSet"
	// TaskFailurePolicyActionFailIndex fails the task's index, with no further try. Only with backoffLimitPerIndex.
	TaskFailurePolicyActionFailIndex TaskFailurePolicyAction = "FailIndex"
	// TaskFailurePolicyActionIgnore does not count the failure; the index is tried again.
	TaskFailurePolicyActionIgnore TaskFailurePolicyAction = "Ignore"
	// TaskFailurePolicyActionCount counts the failure, as without a rule.
	TaskFailurePolicyActionCount TaskFailurePolicyAction = "Count"
)

// TaskFailurePolicyOnExitCodesOperator is how an exit code relates to the values of a rule.
// +enum
// +k8s:enum
type TaskFailurePolicyOnExitCodesOperator string

const (
	// TaskFailurePolicyOnExitCodesOpIn matches exit codes in values.
	TaskFailurePolicyOnExitCodesOpIn TaskFailurePolicyOnExitCodesOperator = "In"
	// TaskFailurePolicyOnExitCodesOpNotIn matches exit codes not in values. Code 0 never matches.
	TaskFailurePolicyOnExitCodesOpNotIn TaskFailurePolicyOnExitCodesOperator = "NotIn"
)

// TaskFailurePolicy says what failed tasks mean.
type TaskFailurePolicy struct {
	// rules are tried in order; the first that matches decides.
	// +required
	// +listType=atomic
	// +k8s:required
	// +k8s:listType=atomic
	// +k8s:maxItems=20
	Rules []TaskFailurePolicyRule `json:"rules" protobuf:"bytes,1,rep,name=rules"`
}

// TaskFailurePolicyRule matches a failed task by its exit code or by its conditions. One of onExitCodes and
// onTaskConditions must be set.
type TaskFailurePolicyRule struct {
	// action is what happens when the rule matches.
	// +required
	// +k8s:required
	Action TaskFailurePolicyAction `json:"action" protobuf:"bytes,1,opt,name=action"`

	// onExitCodes matches by exit code.
	// +optional
	// +k8s:optional
	// +k8s:unionMember
	OnExitCodes *TaskFailurePolicyOnExitCodesRequirement `json:"onExitCodes,omitempty" protobuf:"bytes,2,opt,name=onExitCodes"`

	// onTaskConditions matches by conditions; one that matches is enough.
	// +optional
	// +listType=atomic
	// +k8s:optional
	// +k8s:listType=atomic
	// +k8s:maxItems=20
	// +k8s:unionMember
	OnTaskConditions []TaskFailurePolicyOnTaskConditionsPattern `json:"onTaskConditions,omitempty" protobuf:"bytes,3,rep,name=onTaskConditions"`
}

// TaskFailurePolicyOnExitCodesRequirement matches a failed task by exit code.
type TaskFailurePolicyOnExitCodesRequirement struct {
	// operator is In or NotIn.
	// +required
	// +k8s:required
	Operator TaskFailurePolicyOnExitCodesOperator `json:"operator" protobuf:"bytes,1,opt,name=operator"`

	// values are exit codes, ascending and without duplicates. 0 is not allowed with In.
	// +required
	// +listType=set
	// +k8s:required
	// +k8s:listType=set
	// +k8s:maxItems=255
	Values []int32 `json:"values" protobuf:"varint,2,rep,name=values"`
}

// TaskFailurePolicyOnTaskConditionsPattern matches a failed task by one of its conditions.
type TaskFailurePolicyOnTaskConditionsPattern struct {
	// type of the condition.
	// +required
	// +k8s:required
	// +k8s:format=k8s-label-key
	Type string `json:"type" protobuf:"bytes,1,opt,name=type"`

	// status of the condition, True by default.
	// +optional
	// +default="True"
	// +k8s:optional
	Status metav1.ConditionStatus `json:"status,omitempty" protobuf:"bytes,2,opt,name=status,casttype=k8s.io/apimachinery/pkg/apis/meta/v1.ConditionStatus"`
}

// SuccessPolicy says when a set succeeds before all its indexes have.
type SuccessPolicy struct {
	// rules are tried in order; the first that is met makes the set succeed.
	// +required
	// +listType=atomic
	// +k8s:required
	// +k8s:listType=atomic
	// +k8s:maxItems=20
	Rules []SuccessPolicyRule `json:"rules" protobuf:"bytes,1,rep,name=rules"`
}

// SuccessPolicyRule is met when enough of the named indexes have succeeded. At least one member must be set.
type SuccessPolicyRule struct {
	// succeededIndexes are the indexes that must have succeeded, all of them unless succeededCount says how many:
	// numbers and ranges, ascending, like "1,3-5,7".
	// +optional
	// +k8s:optional
	// +k8s:maxLength=65536
	SucceededIndexes *string `json:"succeededIndexes,omitempty" protobuf:"bytes,1,opt,name=succeededIndexes"`

	// succeededCount is how many indexes, of succeededIndexes or of all, must have succeeded.
	// +optional
	// +k8s:optional
	// +k8s:minimum=1
	SucceededCount *int32 `json:"succeededCount,omitempty" protobuf:"varint,2,opt,name=succeededCount"`
}

const (
	// LabelTaskSetName is the label of a task with the name of its set.
	LabelTaskSetName = "batch.leat.dev/taskset-name"
	// LabelControllerUID is the label of a task with the uid of its set, by which the set selects its tasks.
	LabelControllerUID = "batch.leat.dev/controller-uid"
	// LabelCompletionIndex is the label of a task with the index of its set that it runs.
	LabelCompletionIndex = "batch.leat.dev/completion-index"
	// AnnotationIndexFailureCount is the annotation of a task with how many tasks of the same index had failed before it
	// was created, not counting those that the failure policy ignores.
	AnnotationIndexFailureCount = "batch.leat.dev/index-failure-count"
	// LabelRetryOf is the label of a task or a set that runs another one again, with the uid of that one. A retry of a
	// retry has the uid of the first of all.
	LabelRetryOf = "batch.leat.dev/retry-of-uid"
	// AnnotationRetryOf is the annotation of a task or a set that runs another one again, with the name of that one. A
	// retry of a retry has the name of the first of all.
	AnnotationRetryOf = "batch.leat.dev/retry-of"
)

const (
	// TaskSetComplete is the type of the condition that is True once the set has succeeded. It is final.
	TaskSetComplete = "Complete"
	// TaskSetFailed is the type of the condition that is True once the set has failed. It is final.
	TaskSetFailed = "Failed"
	// TaskSetStalled is the type of the condition that is True with Failed, by the convention of kstatus: what waits for objects of any
	// kind, as "helm --wait" does, learns from it that a set has failed.
	TaskSetStalled = "Stalled"
	// TaskSetReconciling is the type of the condition that is True until the set is started, and while it is suspended. The
	// server sets it, by startTime.
	TaskSetReconciling = "Reconciling"
	// TaskSetSuspended is the type of the condition that is True while the set is suspended.
	TaskSetSuspended = "Suspended"
	// TaskSetFailureTarget is the type of the condition that is True once the set is bound to fail and its tasks end.
	TaskSetFailureTarget = "FailureTarget"
	// TaskSetSuccessCriteriaMet is the type of the condition that is True once the set is bound to succeed and its tasks
	// end.
	TaskSetSuccessCriteriaMet = "SuccessCriteriaMet"
	// TaskSetReplicaFailure is the type of the condition that is True while tasks of the set cannot be created, by a quota
	// or a full queue say, as of a ReplicaSet. The message is the server's.
	TaskSetReplicaFailure = "ReplicaFailure"
)

// The reasons of conditions of a set. Those of FailureTarget and Failed, and of SuccessCriteriaMet and Complete, are the same.
const (
	// TaskSetReasonTaskFailurePolicy means a task failed and a rule of taskFailurePolicy with action FailTaskSet matched.
	TaskSetReasonTaskFailurePolicy = "TaskFailurePolicy"
	// TaskSetReasonBackoffLimitExceeded means more tasks failed than backoffLimit allows.
	TaskSetReasonBackoffLimitExceeded = "BackoffLimitExceeded"
	// TaskSetReasonDeadlineExceeded means the set was active longer than activeDeadlineSeconds.
	TaskSetReasonDeadlineExceeded = "DeadlineExceeded"
	// TaskSetReasonMaxFailedIndexesExceeded means more indexes failed than maxFailedIndexes allows.
	TaskSetReasonMaxFailedIndexesExceeded = "MaxFailedIndexesExceeded"
	// TaskSetReasonCancelled means spec.cancelled was set.
	TaskSetReasonCancelled = "Cancelled"
	// TaskSetReasonFailedIndexes means all indexes have ended and some have failed.
	TaskSetReasonFailedIndexes = "FailedIndexes"
	// TaskSetReasonSuccessPolicy means a rule of successPolicy is met.
	TaskSetReasonSuccessPolicy = "SuccessPolicy"
	// TaskSetReasonCompletionsReached means as many tasks have succeeded as completions says.
	TaskSetReasonCompletionsReached = "CompletionsReached"
	// TaskSetReasonSuspended is the reason of Suspended=True.
	TaskSetReasonSuspended = "TaskSetSuspended"
	// TaskSetReasonResumed is the reason of Suspended=False.
	TaskSetReasonResumed = "TaskSetResumed"
	// TaskSetReasonFailedCreate is the reason of ReplicaFailure=True.
	TaskSetReasonFailedCreate = "FailedCreate"
	// TaskSetReasonNotStarted is the reason of Reconciling=True.
	TaskSetReasonNotStarted = "NotStarted"
)

// TaskSetStatus is how far a set has come.
type TaskSetStatus struct {
	// active is how many tasks of the set exist, have not finished and are not being deleted.
	// +optional
	// +k8s:optional
	// +k8s:minimum=0
	Active int32 `json:"active,omitempty" protobuf:"varint,1,opt,name=active"`

	// ready is how many of the active tasks run.
	// +optional
	// +k8s:optional
	// +k8s:minimum=0
	Ready *int32 `json:"ready,omitempty" protobuf:"varint,2,opt,name=ready"`

	// succeeded is how many indexes have succeeded.
	// +optional
	// +k8s:optional
	// +k8s:minimum=0
	Succeeded int32 `json:"succeeded,omitempty" protobuf:"varint,3,opt,name=succeeded"`

	// failed is how many tasks have failed.
	// +optional
	// +k8s:optional
	// +k8s:minimum=0
	Failed int32 `json:"failed,omitempty" protobuf:"varint,4,opt,name=failed"`

	// terminating is how many tasks of the set are being deleted and have not finished.
	// +optional
	// +k8s:optional
	// +k8s:minimum=0
	Terminating *int32 `json:"terminating,omitempty" protobuf:"varint,5,opt,name=terminating"`

	// completedIndexes are the indexes that have succeeded: numbers and ranges, ascending, like "1,3-5,7".
	// +optional
	// +k8s:optional
	CompletedIndexes string `json:"completedIndexes,omitempty" protobuf:"bytes,6,opt,name=completedIndexes"`

	// failedIndexes are the indexes that have failed, written as completedIndexes. Set only with backoffLimitPerIndex.
	// +optional
	// +k8s:optional
	FailedIndexes *string `json:"failedIndexes,omitempty" protobuf:"bytes,7,opt,name=failedIndexes"`

	// startTime is when the set was started, or resumed last.
	// +optional
	// +k8s:optional
	StartTime *metav1.Time `json:"startTime,omitempty" protobuf:"bytes,8,opt,name=startTime"`

	// completionTime is when the set became complete. It is not set when the set fails.
	// +optional
	// +k8s:optional
	CompletionTime *metav1.Time `json:"completionTime,omitempty" protobuf:"bytes,9,opt,name=completionTime"`

	// conditions are the state of the set: Complete, Failed, Stalled, Suspended, FailureTarget, SuccessCriteriaMet,
	// ReplicaFailure, Reconciling.
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
	// indexFailures are the indexes that have failed and are to be tried again, each with how many of its tasks have been
	// counted in failed: pairs, ascending by index, like "3:1,17:2". By them a failed task is counted once, whenever the
	// controller is interrupted. An index that has succeeded, or failed for good, is not among them.
	// +optional
	// +k8s:optional
	IndexFailures string `json:"indexFailures,omitempty" protobuf:"bytes,11,opt,name=indexFailures"`
}
