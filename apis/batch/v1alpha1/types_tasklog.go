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

// TaskLogOptions say which part of the output of a task is read at the log subresource. They are parameters of the query.
type TaskLogOptions struct {
	metav1.TypeMeta `json:",inline"`

	// follow goes on until the attempt ends or limitBytes are sent: what the command prints is sent as it comes.
	// +optional
	// +k8s:optional
	Follow bool `json:"follow,omitempty" protobuf:"varint,1,opt,name=follow"`

	// previous reads the attempt before the one that runs or ran last.
	// +optional
	// +k8s:optional
	Previous bool `json:"previous,omitempty" protobuf:"varint,2,opt,name=previous"`

	// sinceSeconds leaves out the lines that are older than so many seconds. Only one of sinceSeconds and sinceTime may be given.
	// +optional
	// +k8s:optional
	// +k8s:minimum=1
	// +k8s:zeroOrOneOfMember
	SinceSeconds *int64 `json:"sinceSeconds,omitempty" protobuf:"varint,3,opt,name=sinceSeconds"`

	// sinceTime leaves out the lines that are older, as RFC 3339 writes times. Only one of sinceSeconds and sinceTime may be given.
	// +optional
	// +k8s:optional
	// +k8s:zeroOrOneOfMember
	SinceTime *metav1.Time `json:"sinceTime,omitempty" protobuf:"bytes,4,opt,name=sinceTime"`

	// timestamps begins every line with the time at which it was read from the command, as RFC 3339 writes it, and a space.
	// +optional
	// +k8s:optional
	Timestamps bool `json:"timestamps,omitempty" protobuf:"varint,5,opt,name=timestamps"`

	// tailLines begins so many lines before the end. Unset: with the first line that is kept.
	// +optional
	// +k8s:optional
	// +k8s:minimum=0
	TailLines *int64 `json:"tailLines,omitempty" protobuf:"varint,6,opt,name=tailLines"`

	// limitBytes ends the answer after so many bytes, timestamps included, perhaps within a line.
	// +optional
	// +k8s:optional
	// +k8s:minimum=1
	LimitBytes *int64 `json:"limitBytes,omitempty" protobuf:"varint,7,opt,name=limitBytes"`
}

// taskLogOptionsDocs are the comments of the fields, for the API's description of the query.
var taskLogOptionsDocs = map[string]string{
	"follow":       "follow goes on until the attempt ends or limitBytes are sent: what the command prints is sent as it comes.",
	"previous":     "previous reads the attempt before the one that runs or ran last.",
	"sinceSeconds": "sinceSeconds leaves out the lines that are older than so many seconds. Only one of sinceSeconds and sinceTime may be given.",
	"sinceTime":    "sinceTime leaves out the lines that are older, as RFC 3339 writes times. Only one of sinceSeconds and sinceTime may be given.",
	"timestamps":   "timestamps begins every line with the time at which it was read from the command, as RFC 3339 writes it, and a space.",
	"tailLines":    "tailLines begins so many lines before the end. Unset: with the first line that is kept.",
	"limitBytes":   "limitBytes ends the answer after so many bytes, timestamps included, perhaps within a line.",
}

// SwaggerDoc says what the fields are.
func (TaskLogOptions) SwaggerDoc() map[string]string { return taskLogOptionsDocs }
