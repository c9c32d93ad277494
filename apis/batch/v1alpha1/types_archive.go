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

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object
// +k8s:conversion-gen:explicit-from=net/url.Values
// +k8s:isSubresource="/archive"

// WorkerArchiveOptions are the query parameters of the archive subresource of a worker. The body of the request is a
// segment: a zip file with the output and the records of finished attempts. An empty body is not stored: the server
// accepts it if there is an archive.
type WorkerArchiveOptions struct {
	metav1.TypeMeta `json:",inline"`

	// taskSetUID is the UID of the TaskSet whose attempts are in the segment. If unset, they are attempts at tasks without
	// a set.
	// +optional
	// +k8s:optional
	// +k8s:format=k8s-uuid
	TaskSetUID string `json:"taskSetUID,omitempty" protobuf:"bytes,1,opt,name=taskSetUID"`

	// incarnation is that of the worker process that has written the segment.
	// +optional
	// +k8s:optional
	// +k8s:maxLength=128
	Incarnation string `json:"incarnation,omitempty" protobuf:"bytes,2,opt,name=incarnation"`

	// segment is the number of the segment among those of the incarnation.
	// +optional
	// +k8s:optional
	// +k8s:minimum=0
	Segment int64 `json:"segment,omitempty" protobuf:"varint,3,opt,name=segment"`

	// digest is the SHA-256 digest of the body, in hexadecimal digits.
	// +optional
	// +k8s:optional
	// +k8s:maxLength=64
	Digest string `json:"digest,omitempty" protobuf:"bytes,4,opt,name=digest"`
}

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object
// +k8s:conversion-gen:explicit-from=net/url.Values
// +k8s:isSubresource="/records"

// TaskRecordOptions are the query parameters of the records subresource of a task and of a TaskSet.
type TaskRecordOptions struct {
	metav1.TypeMeta `json:",inline"`

	// indexes are the indexes whose records to return, of a TaskSet or a task with spec.indexes, in the format of that
	// field. If unset, the records of all indexes are returned.
	// +optional
	// +k8s:optional
	// +k8s:maxLength=2048
	Indexes string `json:"indexes,omitempty" protobuf:"bytes,1,opt,name=indexes"`

	// limit is the maximum number of records to return, roughly. If there are more, the list has metadata.continue.
	// Defaults to 500.
	// +optional
	// +k8s:optional
	// +k8s:minimum=1
	// +k8s:maximum=10000
	Limit *int64 `json:"limit,omitempty" protobuf:"varint,2,opt,name=limit"`

	// continue is metadata.continue of the list before.
	// +optional
	// +k8s:optional
	// +k8s:maxLength=4096
	Continue string `json:"continue,omitempty" protobuf:"bytes,3,opt,name=continue"`
}

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object
// +k8s:isSubresource="/records"

// TaskRecordList is a list of the records of finished attempts, in the order in which they are stored.
type TaskRecordList struct {
	metav1.TypeMeta `json:",inline"`
	// Standard list metadata.
	// +optional
	metav1.ListMeta `json:"metadata,omitempty" protobuf:"bytes,1,opt,name=metadata"`

	// items is the list of records.
	// +listType=atomic
	Items []TaskRecord `json:"items" protobuf:"bytes,2,rep,name=items"`

	// warnings name what may be missing from the list, and why, like workers that cannot be reached.
	// +optional
	// +listType=atomic
	Warnings []string `json:"warnings,omitempty" protobuf:"bytes,3,rep,name=warnings"`
}

// TaskRecord is the record of a finished attempt: one start of a command and its end.
type TaskRecord struct {
	// index is the index of the set, unset for a task without set.
	// +optional
	Index *int32 `json:"index,omitempty" protobuf:"varint,1,opt,name=index"`

	// taskName is the name of the task.
	TaskName string `json:"taskName" protobuf:"bytes,2,opt,name=taskName"`

	// taskUID is the UID of the task.
	TaskUID types.UID `json:"taskUID" protobuf:"bytes,3,opt,name=taskUID,casttype=k8s.io/apimachinery/pkg/types.UID"`

	// attempt is the number of the attempt at the task, or at the index of a task with spec.indexes, from 1 up.
	Attempt int32 `json:"attempt" protobuf:"varint,4,opt,name=attempt"`

	// failures is the number of tasks of the index that had failed before this one was created.
	// +optional
	Failures int32 `json:"failures,omitempty" protobuf:"varint,5,opt,name=failures"`

	// workerName is the name of the worker that ran the attempt.
	WorkerName string `json:"workerName" protobuf:"bytes,6,opt,name=workerName"`

	// incarnation is that of the process of the worker.
	// +optional
	Incarnation string `json:"incarnation,omitempty" protobuf:"bytes,7,opt,name=incarnation"`

	// startTime is the time at which the command was started, by the clock of the worker.
	StartTime metav1.MicroTime `json:"startTime" protobuf:"bytes,8,opt,name=startTime"`

	// durationMilliseconds is the time from the start of the command to its end, rounded up.
	DurationMilliseconds int64 `json:"durationMilliseconds" protobuf:"varint,9,opt,name=durationMilliseconds"`

	// exitCode is the exit code of the command.
	ExitCode int32 `json:"exitCode" protobuf:"varint,10,opt,name=exitCode"`

	// signal is the number of the signal that ended the command, unset if none did.
	// +optional
	Signal int32 `json:"signal,omitempty" protobuf:"varint,11,opt,name=signal"`

	// reason is why the attempt ended, as in status.state.terminated.reason of a task.
	// +optional
	Reason string `json:"reason,omitempty" protobuf:"bytes,12,opt,name=reason"`

	// cpuMilliseconds is the CPU time of the command, user and system, and of its children that it has waited for.
	// +optional
	CPUMilliseconds int64 `json:"cpuMilliseconds,omitempty" protobuf:"varint,13,opt,name=cpuMilliseconds"`

	// peakMemoryBytes is the largest memory that the command has used: of its control group where the kernel records that,
	// and else of its largest process.
	// +optional
	PeakMemoryBytes int64 `json:"peakMemoryBytes,omitempty" protobuf:"varint,14,opt,name=peakMemoryBytes"`

	// outputBytes is the size of what the command has printed.
	// +optional
	OutputBytes int64 `json:"outputBytes,omitempty" protobuf:"varint,15,opt,name=outputBytes"`

	// missingBytes is how much of the output is not kept.
	// +optional
	MissingBytes int64 `json:"missingBytes,omitempty" protobuf:"varint,16,opt,name=missingBytes"`
}

// workerArchiveOptionsDocs and taskRecordOptionsDocs hold the comments of the fields for the OpenAPI descriptions of
// the query parameters.
var (
	workerArchiveOptionsDocs = map[string]string{
		"taskSetUID":  "taskSetUID is the UID of the TaskSet whose attempts are in the segment. If unset, they are attempts at tasks without a set.",
		"incarnation": "incarnation is that of the worker process that has written the segment.",
		"segment":     "segment is the number of the segment among those of the incarnation.",
		"digest":      "digest is the SHA-256 digest of the body, in hexadecimal digits.",
	}
	taskRecordOptionsDocs = map[string]string{
		"indexes": "indexes are the indexes whose records to return, of a TaskSet or a task with spec.indexes, in the format of that field. " +
			"If unset, the records of all indexes are returned.",
		"limit":    "limit is the maximum number of records to return, roughly. If there are more, the list has metadata.continue. Defaults to 500.",
		"continue": "continue is metadata.continue of the list before.",
	}
)

// SwaggerDoc returns the descriptions of the fields by their JSON names.
func (WorkerArchiveOptions) SwaggerDoc() map[string]string { return workerArchiveOptionsDocs }

// SwaggerDoc returns the descriptions of the fields by their JSON names.
func (TaskRecordOptions) SwaggerDoc() map[string]string { return taskRecordOptionsDocs }
