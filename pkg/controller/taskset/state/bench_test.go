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

package state

import (
	"testing"

	"k8s.io/utils/ptr"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// BenchmarkLoad loads the state of a set in which every other index has failed, which is the worst case.
func BenchmarkLoad(b *testing.B) {
	set := &batch.TaskSet{Spec: batch.TaskSetSpec{Completions: ptr.To[int32](100_000), BackoffLimitPerIndex: ptr.To[int32](0)}}
	var completed, failed indexSet
	for i := range 100_000 {
		if i%2 == 0 {
			completed.add(i)
		} else {
			failed.add(i)
		}
	}
	set.Status.CompletedIndexes, set.Status.FailedIndexes = completed.String(), ptr.To(failed.String())
	b.ReportAllocs()
	for b.Loop() {
		if err := newTaskSet("uid", ExponentialBackoff{}).Load(set); err != nil {
			b.Fatal(err)
		}
	}
}
