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

// A set is one object: its status is stored beside its spec, and etcd takes both or none. The lists of indexes in the status grow as the set
// runs, so what is accepted leaves room for them.
const (
	// maxObject is what etcd takes in one request unless it is told otherwise, in bytes.
	maxObject = 3 << 19
	// reserved is for conditions, counts, times and what goes around the object in a request.
	reserved = 32 << 10
)

// validateRoom refuses a set whose status may come not to fit.
func validateRoom(set *batch.TaskSet, path *field.Path) field.ErrorList {
	size, err := storedBytes(set)
	if err != nil {
		return field.ErrorList{field.InternalError(path, err)}
	}
	lists := listBytes(set)
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
		"lower parallelism or maxFailedIndexes, make the template or the items smaller, or make several sets",
		size, lists, ptr.Deref(spec.Parallelism, 1), failed, maxObject-reserved))}
}

// storedBytes returns what a set takes in etcd without its status. The managers of its fields are left out of an object that would not fit.
func storedBytes(set *batch.TaskSet) (int, error) {
	versioned := &v1alpha1.TaskSet{}
	err := v1alpha1.Convert_batch_TaskSet_To_v1alpha1_TaskSet(set, versioned, nil)
	versioned.ManagedFields, versioned.Status = nil, v1alpha1.TaskSetStatus{}
	return versioned.Size(), err
}

// listBytes returns how many bytes the lists of indexes in the status can come to, or have come to while the set had another spec.
//
// Indexes are started in ascending order, so of those below the last one that was started at most parallelism are neither completed nor
// failed: they run, or have failed and wait to be tried again. Completed indexes are written as ranges, which these and the failed ones
// interrupt.
func listBytes(set *batch.TaskSet) int {
	spec, status := &set.Spec, &set.Status
	indexes := int(ptr.Deref(spec.Completions, math.MaxInt32))
	open := min(indexes, int(ptr.Deref(spec.Parallelism, 1)))
	limit := int(ptr.Deref(spec.BackoffLimit, v1alpha1.DefaultBackoffLimit))
	failures := min(limit, math.MaxInt32-open) + open // of all tasks: the last ones may fail at once
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
	completed := 2 * (open + failed + 1) // first and last of each range
	listed := min(indexes-counted, completed+failed)
	number := digits(max(0, indexes-1)) + len(",")
	total := listed * number
	if counted > 0 {
		// All counts together are the failures of all tasks, so not all can be long.
		total += counted * (number + len(":") + min(digits(ofIndex), digits(failures/counted)+1))
	}
	return max(total, len(status.CompletedIndexes)+len(ptr.Deref(status.FailedIndexes, ""))+len(status.IndexFailures))
}

func digits(n int) int { return len(strconv.Itoa(n)) }
