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

package v1test

import (
	"k8s.io/apimachinery/pkg/conversion"

	"github.com/leat-dev/leat/apis/batch"
)

// Convert_v1test_TaskSpec_To_batch_TaskSpec moves spec.assignment.workerName to spec.workerName.
func Convert_v1test_TaskSpec_To_batch_TaskSpec(in *TaskSpec, out *batch.TaskSpec, s conversion.Scope) error {
	out.WorkerName = in.Assignment.WorkerName
	return autoConvert_v1test_TaskSpec_To_batch_TaskSpec(in, out, s)
}

// Convert_batch_TaskSpec_To_v1test_TaskSpec moves spec.workerName to spec.assignment.workerName.
func Convert_batch_TaskSpec_To_v1test_TaskSpec(in *batch.TaskSpec, out *TaskSpec, s conversion.Scope) error {
	out.Assignment.WorkerName = in.WorkerName
	return autoConvert_batch_TaskSpec_To_v1test_TaskSpec(in, out, s)
}

// Convert_v1test_TaskSetSpec_To_batch_TaskSetSpec renames spec.maxActive to spec.parallelism.
func Convert_v1test_TaskSetSpec_To_batch_TaskSetSpec(in *TaskSetSpec, out *batch.TaskSetSpec, s conversion.Scope) error {
	out.Parallelism = in.MaxActive
	return autoConvert_v1test_TaskSetSpec_To_batch_TaskSetSpec(in, out, s)
}

// Convert_batch_TaskSetSpec_To_v1test_TaskSetSpec renames spec.parallelism to spec.maxActive.
func Convert_batch_TaskSetSpec_To_v1test_TaskSetSpec(in *batch.TaskSetSpec, out *TaskSetSpec, s conversion.Scope) error {
	out.MaxActive = in.Parallelism
	return autoConvert_batch_TaskSetSpec_To_v1test_TaskSetSpec(in, out, s)
}
