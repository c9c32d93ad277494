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

package taskset

import (
	"fmt"
	"math"
	"strconv"

	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/leat-dev/leat/apis/batch"
	"github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// The spec and the status of a set are stored as one object. The lists of indexes in the status grow while the set
// runs, so validation leaves space for them.
const (
	// maxObject is the maximum size of a request to etcd by default, in bytes.
	maxObject = 3 << 19
	// reserved is the space for conditions, counts, times, dependencies and the overhead of the request.
	reserved = 32 << 10
)

// validateStatusSpace refuses a set whose status may grow until the object does not fit into etcd.
func validateStatusSpace(set *batch.TaskSet, path *field.Path) field.ErrorList {
	size, err := storedBytes(set)
	if err != nil {
		return field.ErrorList{field.InternalError(path, err)}
	}
	lists := maxListBytes(set)
	if size+lists <= maxObject-reserved {
		return nil
	}
	spec := &set.Spec
	failed := "not used"
	if spec.BackoffLimitPerIndex != nil {
		failed = "no limit"
		if spec.MaxFailedIndexes != nil {
			failed = strconv.Itoa(int(*spec.MaxFailedIndexes))
		}
	}
	return field.ErrorList{field.Invalid(path, field.OmitValueType{}, fmt.Sprintf("takes %d bytes, and the lists of indexes in the status "+
		"of such a set up to %d (parallelism: %d, maxFailedIndexes: %s): both must be at most %d bytes together, to be stored as one object; "+
		"lower parallelism or maxFailedIndexes, make the template or the items smaller, or create several sets",
		size, lists, ptr.Deref(spec.Parallelism, 1), failed, maxObject-reserved))}
}

// storedBytes returns the size of a set in etcd without its status and its managed fields, which are dropped from an
// object that does not fit.
func storedBytes(set *batch.TaskSet) (int, error) {
	versioned := &v1alpha1.TaskSet{}
	err := v1alpha1.Convert_batch_TaskSet_To_v1alpha1_TaskSet(set, versioned, nil)
	versioned.ManagedFields, versioned.Status = nil, v1alpha1.TaskSetStatus{}
	return versioned.Size(), err
}

// maxListBytes returns the maximum size of the lists of indexes in the status, in bytes. It is at least their current
// size, which another spec may have led to.
//
// Indexes are started in ascending order. Of those below the last started one, at most parallelism are neither
// completed nor failed: they are running or wait to be retried. Completed indexes are stored as ranges, which these
// indexes and the failed ones interrupt. The indexes of a chunk that has ended may wait for the next task. The
// controller keeps at most two ranges of open indexes for each task.
func maxListBytes(set *batch.TaskSet) int {
	spec, status := &set.Spec, &set.Status
	indexes := int(ptr.Deref(spec.Completions, math.MaxInt32))
	open := min(indexes, int(ptr.Deref(spec.Parallelism, 1)))
	limit := int(ptr.Deref(spec.BackoffLimit, v1alpha1.DefaultBackoffLimit))
	failures := min(limit, math.MaxInt32-open) + open // of all tasks: the last ones may fail simultaneously
	failed, ofIndex := 0, limit+1
	if spec.BackoffLimitPerIndex != nil {
		ofIndex = min(limit, int(*spec.BackoffLimitPerIndex))
		failed = min(indexes, failures)
		if spec.MaxFailedIndexes != nil {
			failed = min(failed, int(*spec.MaxFailedIndexes)+open)
		}
	}
	counted := 0 // indexes with a count of failures
	if ofIndex > 0 {
		counted = min(open, failures)
	}
	gaps := open
	if chunked(spec) {
		gaps = min(indexes, 2*open+1)
	}
	// Of sets that a set depends on per index, those indexes that are open there cannot start here, and are gaps, too.
	for range dependsPerIndex(spec) {
		gaps = min(indexes, gaps+2*otherParallelism(indexes)+1)
	}
	completed := 2 * (gaps + failed + 1) // first and last index of each range
	listed := min(indexes-counted, completed+failed)
	number := digits(max(0, indexes-1)) + len(",")
	total := listed * number
	if counted > 0 {
		// The sum of the counts is at most the failures of all tasks, so not all counts have the maximum of
		// digits.
		total += counted * (number + len(":") + min(digits(ofIndex), digits(failures/counted)+1))
	}
	return max(total, len(status.CompletedIndexes)+len(ptr.Deref(status.FailedIndexes, ""))+len(status.IndexFailures))
}

// otherParallelism returns the maximum of parallelism of another set with as many indexes.
func otherParallelism(completions int) int {
	if completions > largeCompletions {
		return maxLargeParallelism
	}
	return maxParallelism
}

// chunked reports whether a task of the set may have several indexes.
func chunked(spec *batch.TaskSetSpec) bool {
	return spec.Completions != nil && ptr.Deref(spec.Template.Spec.BackoffLimit, 0) == 0 &&
		(spec.Chunking == nil || ptr.Deref(spec.Chunking.MaxIndexes, v1alpha1.MaxTaskIndexes) > 1)
}

func digits(n int) int { return len(strconv.Itoa(n)) }
