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

package framework

import (
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// Snapshot is a namespace at one moment: its workers with what is on them, and the tasks that wait for workers.
type Snapshot struct {
	// Workers are the registered workers, in no particular order. The callee may change them.
	Workers []WorkerSnapshot
	// Waiting are the tasks that the scheduler would place if there were workers, in the order in which it would. Tasks
	// that their queue or its limits hold back are not among them.
	Waiting []TaskGroup
	// Bound is the number of bound tasks by the UID of their controller.
	Bound map[types.UID]int
}

// WorkerSnapshot is a worker in a Snapshot.
type WorkerSnapshot struct {
	WorkerInfo
	// IdleSince is when the last task of the worker has ended, or when the worker was first seen. It has a meaning only
	// while the worker has no tasks.
	IdleSince time.Time
	// UncertainUntil is until when a binding to the worker may be stored whose request has failed.
	UncertainUntil time.Time
}

// TaskGroup are tasks with the same controller that each worker accepts or rejects alike.
type TaskGroup struct {
	// Task is one of them, without a queue.
	Task TaskInfo
	// Count is their number.
	Count int
	// Controller is the controller of the tasks, usually a TaskSet. It is nil if they have none.
	Controller *metav1.OwnerReference
}

// PoolOrdinal returns the ordinal of a worker of a pool: the workers of the pool NAME are NAME-0, NAME-1, ….
func PoolOrdinal(obj *batch.Worker) (ordinal int, ok bool) {
	pool := obj.Labels[batch.LabelPool]
	digits, ok := strings.CutPrefix(obj.Name, pool+"-")
	if pool == "" || !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(digits, 10, 31)
	if err != nil || strconv.FormatUint(n, 10) != digits {
		return 0, false
	}
	return int(n), true
}
