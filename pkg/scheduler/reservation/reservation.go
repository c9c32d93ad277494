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

// Package reservation keeps room on workers for tasks that have been unschedulable for long, so that smaller tasks that
// keep coming do not starve them.
package reservation

import (
	"iter"
	"maps"
	"slices"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/scheduler/framework"
)

// Reservation keeps a worker for a task. Tasks that are scheduled after that task must leave it the room that it needs.
// The task is placed when enough of the tasks that were on the worker before have ended.
//
// A reservation belongs to the task and not to its equivalence class: it lasts while the task is pending, whatever
// happens to the other tasks of the class.
type Reservation struct {
	Task   *framework.TaskInfo
	Worker *framework.WorkerInfo
	// sharingTasks and sharingUsed are what tasks take that are scheduled after Task and were placed on Worker
	// since.
	sharingTasks int64
	sharingUsed  framework.Resources
}

// Sharing returns what those tasks take that are scheduled after the task and were placed on the worker since it is
// reserved.
func (r *Reservation) Sharing() (tasks int64, used framework.Resources) {
	return r.sharingTasks, r.sharingUsed
}

// admits reports whether a task may be placed on the worker: it is scheduled before the task of the reservation, or the
// worker has room for both.
func (r *Reservation) admits(t *framework.TaskInfo) bool {
	switch {
	case t == r.Task || t.Before(r.Task):
		return true
	case t.Alone || r.Task.Alone:
		return false
	}
	allocatable := r.Worker.Allocatable
	if allocatable[batch.ResourceTasks]-r.sharingTasks < 2 {
		return false
	}
	return !slices.ContainsFunc(r.Task.ResourceNames, func(name batch.ResourceName) bool {
		return allocatable[name]-r.sharingUsed[name]-t.Requests[name] < r.Task.Requests[name]
	})
}

// Reservations are the reservations of a namespace: at most one for each task and one for each worker. It is not safe
// for concurrent use.
type Reservations struct {
	byTask   map[*framework.TaskInfo]*Reservation
	byWorker map[*framework.WorkerInfo]*Reservation
	// sharing are the placed tasks that count in a reservation of their worker. A reservation may be released while
	// they run.
	sharing map[*framework.TaskInfo]*Reservation
}

// New returns an empty set of reservations.
func New() *Reservations {
	return &Reservations{
		byTask:   map[*framework.TaskInfo]*Reservation{},
		byWorker: map[*framework.WorkerInfo]*Reservation{},
		sharing:  map[*framework.TaskInfo]*Reservation{},
	}
}

// Len returns the number of reservations.
func (rs *Reservations) Len() int { return len(rs.byTask) }

// All returns all reservations in no particular order. The loop may release the reservation that it has got.
func (rs *Reservations) All() iter.Seq[*Reservation] { return maps.Values(rs.byTask) }

// OfTask returns the reservation of a task, or nil.
func (rs *Reservations) OfTask(t *framework.TaskInfo) *Reservation { return rs.byTask[t] }

// OfWorker returns the reservation of a worker, or nil.
func (rs *Reservations) OfWorker(w *framework.WorkerInfo) *Reservation { return rs.byWorker[w] }

// Reserve reserves a worker for a task. Neither may have a reservation.
func (rs *Reservations) Reserve(t *framework.TaskInfo, w *framework.WorkerInfo) {
	r := &Reservation{Task: t, Worker: w, sharingUsed: framework.Resources{}}
	rs.byTask[t], rs.byWorker[w] = r, r
}

// Release removes a reservation.
func (rs *Reservations) Release(r *Reservation) {
	delete(rs.byTask, r.Task)
	delete(rs.byWorker, r.Worker)
}

// Admits reports whether the reservation of the worker, if there is one, lets the task have the worker.
func (rs *Reservations) Admits(t *framework.TaskInfo, w *framework.WorkerInfo) bool {
	if len(rs.byWorker) == 0 {
		return true // the common case, on the hot path
	}
	r := rs.byWorker[w]
	return r == nil || r.admits(t)
}

// AddTask counts a task that is placed on a worker in the reservation of the worker.
func (rs *Reservations) AddTask(t *framework.TaskInfo, w *framework.WorkerInfo) {
	r := rs.byWorker[w]
	if r == nil || t == r.Task || t.Before(r.Task) {
		return
	}
	rs.sharing[t] = r
	r.sharingTasks++
	r.sharingUsed.Add(t.Requests, 1)
}

// OfSharing returns the reservation that a placed task counts in, or nil.
func (rs *Reservations) OfSharing(t *framework.TaskInfo) *Reservation { return rs.sharing[t] }

// RemoveTask undoes AddTask. It does nothing if the task does not count in a reservation.
func (rs *Reservations) RemoveTask(t *framework.TaskInfo) {
	r := rs.sharing[t]
	if r == nil {
		return
	}
	delete(rs.sharing, t)
	r.sharingTasks--
	r.sharingUsed.Add(t.Requests, -1)
}
