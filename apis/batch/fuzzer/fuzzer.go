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

// Package fuzzer fills objects of the group with random values that survive a round trip through any version. Fields
// with a default are never empty.
package fuzzer

import (
	runtimeserializer "k8s.io/apimachinery/pkg/runtime/serializer"
	"sigs.k8s.io/randfill"

	"github.com/leat-dev/leat/apis/batch"
)

// Funcs returns the fuzzer functions for the group's internal types. Merge them with those of meta/v1.
func Funcs(runtimeserializer.CodecFactory) []any {
	return []any{
		func(spec *batch.TaskSpec, c randfill.Continue) {
			c.FillNoCustom(spec)
			fill(c, &spec.QueueName)
			fillPointer(c, &spec.BackoffLimit)
			fillPointer(c, &spec.TerminationGracePeriodSeconds)
			fillPointer(c, &spec.CrashLimit)
		},
		func(spec *batch.TaskSetSpec, c randfill.Continue) {
			c.FillNoCustom(spec)
			fill(c, &spec.QueueName)
			fillPointer(c, &spec.Parallelism)
			fillPointer(c, &spec.CompletionMode)
			fillPointer(c, &spec.BackoffLimit)
			fillPointer(c, &spec.Suspend)
			if len(spec.Items) > 0 || spec.IndexNumbers != nil && len(spec.IndexNumbers.List) > 0 {
				fillPointer(c, &spec.Completions)
			}
		},
		func(chunking *batch.TaskSetChunking, c randfill.Continue) {
			c.FillNoCustom(chunking)
			fillPointer(c, &chunking.MaxIndexes)
		},
		func(dependency *batch.TaskSetDependency, c randfill.Continue) {
			c.FillNoCustom(dependency)
			fill(c, &dependency.Condition)
		},
		func(pattern *batch.TaskFailurePolicyOnTaskConditionsPattern, c randfill.Continue) {
			c.FillNoCustom(pattern)
			fill(c, &pattern.Status)
		},
		func(spec *batch.TaskQueueSpec, c randfill.Continue) {
			c.FillNoCustom(spec)
			fillPointer(c, &spec.Weight)
			fillPointer(c, &spec.StopPolicy)
		},
		func(spec *batch.WorkerLeaseSpec, c randfill.Continue) {
			c.FillNoCustom(spec)
			fillPointer(c, &spec.LeaseDurationSeconds)
		},
		func(eviction *batch.Eviction, c randfill.Continue) {
			c.FillNoCustom(eviction)
			fill(c, &eviction.Reason)
		},
	}
}

// fill fills a value until it is not empty.
func fill[T comparable](c randfill.Continue, value *T) {
	var empty T
	for *value == empty {
		c.Fill(value)
	}
}

// fillPointer sets a pointer to a random value.
func fillPointer[T any](c randfill.Continue, pointer **T) {
	if *pointer == nil {
		*pointer = new(T)
		c.Fill(*pointer)
	}
}
