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

// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object
// +k8s:conversion-gen:explicit-from=net/url.Values
// +k8s:isSubresource="/log"

// TaskLogOptions are the query parameters of the log subresource of a task and of a TaskSet.
type TaskLogOptions struct {
	metav1.TypeMeta `json:",inline"`

	// follow streams the output until the attempt ends or limitBytes are sent. Defaults to false.
	// +optional
	// +k8s:optional
	Follow bool `json:"follow,omitempty" protobuf:"varint,1,opt,name=follow"`

	// previous returns the output of the attempt before the current or last one. Defaults to false.
	// +optional
	// +k8s:optional
	Previous bool `json:"previous,omitempty" protobuf:"varint,2,opt,name=previous"`

	// sinceSeconds is the maximum age in seconds of the lines to return. At most one of sinceSeconds and sinceTime may be
	// set.
	// +optional
	// +k8s:optional
	// +k8s:minimum=1
	// +k8s:zeroOrOneOfMember
	SinceSeconds *int64 `json:"sinceSeconds,omitempty" protobuf:"varint,3,opt,name=sinceSeconds"`

	// sinceTime is an RFC 3339 timestamp from which to return lines. At most one of sinceSeconds and sinceTime may be set.
	// +optional
	// +k8s:optional
	// +k8s:zeroOrOneOfMember
	SinceTime *metav1.Time `json:"sinceTime,omitempty" protobuf:"bytes,4,opt,name=sinceTime"`

	// timestamps adds the RFC 3339 timestamp at which the worker read the line to the beginning of every line. Defaults to
	// false.
	// +optional
	// +k8s:optional
	Timestamps bool `json:"timestamps,omitempty" protobuf:"varint,5,opt,name=timestamps"`

	// tailLines is the number of lines from the end of the output to return. If unset, the output starts with the first
	// line that is stored.
	// +optional
	// +k8s:optional
	// +k8s:minimum=0
	TailLines *int64 `json:"tailLines,omitempty" protobuf:"varint,6,opt,name=tailLines"`

	// limitBytes is the number of bytes after which the response ends, including timestamps. It may end within a line. If
	// unset, there is no limit.
	// +optional
	// +k8s:optional
	// +k8s:minimum=1
	LimitBytes *int64 `json:"limitBytes,omitempty" protobuf:"varint,7,opt,name=limitBytes"`

	// indexes are the indexes whose output to return, of a TaskSet or a task with spec.indexes, in the format of that
	// field. If unset, the output of all indexes is returned. The other options apply to each index.
	// +optional
	// +k8s:optional
	// +k8s:maxLength=2048
	Indexes string `json:"indexes,omitempty" protobuf:"bytes,8,opt,name=indexes"`

	// prefix adds the index and a space to the beginning of every line, of a TaskSet or a task with spec.indexes. Defaults
	// to false.
	// +optional
	// +k8s:optional
	Prefix bool `json:"prefix,omitempty" protobuf:"varint,9,opt,name=prefix"`

	// attempt is the attempt whose output to return. 1 is the first recorded one of the task, or of each index. If unset,
	// it is the current or last one. At most one of attempt and previous may be set.
	// +optional
	// +k8s:optional
	// +k8s:minimum=1
	Attempt *int64 `json:"attempt,omitempty" protobuf:"varint,10,opt,name=attempt"`
}

// taskLogOptionsDocs holds the comments of the fields for the OpenAPI description of the query parameters.
var taskLogOptionsDocs = map[string]string{
	"follow":       "follow streams the output until the attempt ends or limitBytes are sent. Defaults to false.",
	"previous":     "previous returns the output of the attempt before the current or last one. Defaults to false.",
	"sinceSeconds": "sinceSeconds is the maximum age in seconds of the lines to return. At most one of sinceSeconds and sinceTime may be set.",
	"sinceTime":    "sinceTime is an RFC 3339 timestamp from which to return lines. At most one of sinceSeconds and sinceTime may be set.",
	"timestamps":   "timestamps adds the RFC 3339 timestamp at which the worker read the line to the beginning of every line. Defaults to false.",
	"tailLines":    "tailLines is the number of lines from the end of the output to return. If unset, the output starts with the first line that is stored.",
	"limitBytes":   "limitBytes is the number of bytes after which the response ends, including timestamps. It may end within a line. If unset, there is no limit.",
	"indexes": "indexes are the indexes whose output to return, of a TaskSet or a task with spec.indexes, in the format of that field. " +
		"If unset, the output of all indexes is returned. The other options apply to each index.",
	"prefix": "prefix adds the index and a space to the beginning of every line, of a TaskSet or a task with spec.indexes. Defaults to false.",
	"attempt": "attempt is the attempt whose output to return. 1 is the first recorded one of the task, or of each index. " +
		"If unset, it is the current or last one. At most one of attempt and previous may be set.",
}

// SwaggerDoc returns the descriptions of the fields by their JSON names.
func (TaskLogOptions) SwaggerDoc() map[string]string { return taskLogOptionsDocs }
