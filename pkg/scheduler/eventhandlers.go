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

package scheduler

import (
	"reflect"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	toolscache "k8s.io/client-go/tools/cache"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/scheduler/framework"
	"github.com/leat-dev/leat/pkg/scheduler/queue"
)

// evictionGrace is how long an evicted task is not rescheduled, so that its former worker can notice the eviction and
// kill the command.
const evictionGrace = 5 * time.Second

// commandEndedReasons are the eviction reasons after which a task is rescheduled at once. Either the worker itself
// returned the task after its command ended, or the worker is lost and fenced.
var commandEndedReasons = []string{"WorkerStopped", "WorkerRestarted", "WorkerLost"}

// setTask adds or updates a task.
func (st *state) setTask(obj *batch.Task) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.changed(obj.Namespace)
	name := toolscache.MetaObjectToName(obj)
	t := st.tasks[name]
	if t != nil && t.Object.UID != obj.UID {
		st.drop(t)
		t = nil
	}
	if obj.Status.Phase.Finished() {
		if t != nil {
			t.observeEnd(time.Now())
			st.drop(t)
		}
		return
	}
	switch {
	case t == nil:
		ns := st.namespace(obj.Namespace)
		t = &task{Task: queue.NewTask(framework.NewTaskInfo(obj), ns.queues.Add(obj.Spec.QueueName))}
		t.Owner = t
		t.Since = obj.CreationTimestamp.Time
		if st.synced {
			t.Since = time.Now()
		}
		if at, reason := evicted(obj); obj.Spec.WorkerName == "" && !slices.Contains(commandEndedReasons, reason) {
			t.evictionGraceEnd = at.Add(evictionGrace)
		}
		st.tasks[name] = t
	case t.state == taskAssumed && obj.Spec.WorkerName == "" && obj.Status.Disruptions == t.Object.Status.Disruptions &&
		obj.Status.Bindings == t.Object.Status.Bindings:
		// The event is older than the binding: a task that was bound and evicted since would count another binding
		// and, on older servers, another disruption.
		t.Object = obj
		return
	case t.worker != nil && t.worker.Name == obj.Spec.WorkerName && t.Queue.Name == obj.Spec.QueueName && t.Alone == framework.RunsAlone(obj):
		t.cancelDelay()
		t.Object, t.state, t.failures = obj, taskBound, 0
		t.observeBound(time.Now())
		return
	case t.worker == nil && !st.isTaskUpdated(t, obj):
		st.refresh(t, obj)
		return
	default:
		switch {
		case obj.Spec.WorkerName != "":
		case obj.Status.Disruptions > t.Object.Status.Disruptions:
			st.observeEviction(t, obj)
		case t.state == taskBound:
			st.metrics.requeue(batch.TaskReasonRebalanced)
			t.Since = time.Now()
		}
		st.remove(t)
		t.backoffEnd = time.Time{}
		t.SetObject(obj)
	}
	st.place(t)
}

// isTaskUpdated reports whether an update of an unbound task changes something that decides where and when it may be
// scheduled. Any other update, for example the scheduler's own report in the status, only replaces the object: the task
// keeps its reservation, the time since it is unschedulable, and its backoff. The priority does not count: it only
// moves the task within its class.
func (st *state) isTaskUpdated(t *task, obj *batch.Task) bool {
	old := t.Object
	if obj.Spec.WorkerName != old.Spec.WorkerName || framework.IsEligible(obj) != framework.IsEligible(old) ||
		obj.Status.Disruptions != old.Status.Disruptions || obj.Status.Bindings != old.Status.Bindings || obj.Spec.QueueName != old.Spec.QueueName {
		return true
	}
	updated := t.TaskInfo
	updated.SetObject(obj)
	return st.filters.Sign(&updated) != st.filters.Sign(&t.TaskInfo)
}

// refresh replaces the object of an unbound task after an update for which isTaskUpdated is false.
func (st *state) refresh(t *task, obj *batch.Task) {
	isReordered := obj.Spec.Priority != t.Object.Spec.Priority
	t.Object = obj
	if t.state != taskPending {
		return
	}
	t.Reported = reportedMessage(obj)
	if isReordered {
		t.namespace().reorder(t)
	}
}

// evicted returns when and why an unbound task was evicted last. It returns zero values if it was not evicted.
func evicted(obj *batch.Task) (at time.Time, reason string) {
	if c := meta.FindStatusCondition(obj.Status.Conditions, batch.DisruptionTarget); c != nil && c.Status == metav1.ConditionTrue {
		return c.LastTransitionTime.Time, c.Reason
	}
	return time.Time{}, ""
}

// observeEviction records that obj was evicted, and until when its command may still run on its former worker.
func (st *state) observeEviction(t *task, obj *batch.Task) {
	_, reason := evicted(obj)
	st.metrics.requeue(reason)
	t.Since = time.Now()
	w := t.worker
	if w == nil || !w.Ready || slices.Contains(commandEndedReasons, reason) {
		return
	}
	if t.state != taskBound || w.Incarnation == t.Object.Status.Incarnation {
		t.evictionGraceEnd = t.Since.Add(evictionGrace)
	}
}

// deleteTask removes a task that was deleted or has finished.
func (st *state) deleteTask(name toolscache.ObjectName) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.changed(name.Namespace)
	if t := st.tasks[name]; t != nil {
		t.observeEnd(time.Now())
		st.drop(t)
	}
}

// setWorker adds or updates a worker.
func (st *state) setWorker(obj *batch.Worker) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.changed(obj.Namespace)
	ns := st.namespace(obj.Namespace)
	w := ns.workers.AddWorker(obj.Name)
	w.Object = obj
	if state := framework.NewWorkerState(obj); !reflect.DeepEqual(w.WorkerState, state) {
		ns.setWorkerState(w, state)
	}
}

// deleteWorker removes a worker. Its tasks stay bound to it until they are evicted.
func (st *state) deleteWorker(name toolscache.ObjectName) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.changed(name.Namespace)
	ns := st.namespaces[name.Namespace]
	if ns == nil {
		return
	}
	if w := ns.workers.Worker(name.Name); w != nil {
		w.Object = nil
		ns.setWorkerState(w, framework.WorkerState{})
	}
}

// setQueue adds or updates a queue.
func (st *state) setQueue(obj *batch.TaskQueue) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.changed(obj.Namespace)
	q := st.namespace(obj.Namespace).queues.Add(obj.Name)
	if old := q.Object(); old == nil || old.UID != obj.UID || !older(obj, old) {
		q.SetObject(obj)
	}
}

// queueStatusWritten stores the response to a status update, unless the informer has delivered a newer version.
func (st *state) queueStatusWritten(obj *batch.TaskQueue) {
	st.mu.Lock()
	defer st.mu.Unlock()
	q := st.getQueue(toolscache.MetaObjectToName(obj))
	if q == nil {
		return
	}
	if old := q.Object(); old != nil && old.UID == obj.UID && older(old, obj) {
		q.SetObject(obj)
	}
}

func (st *state) getQueue(name toolscache.ObjectName) *queue.Queue {
	ns := st.namespaces[name.Namespace]
	if ns == nil {
		return nil
	}
	return ns.queues.Get(name.Name)
}

// older reports whether a is an earlier version of an object than b.
func older(a, b *batch.TaskQueue) bool {
	order, err := resourceversion.CompareResourceVersion(a.ResourceVersion, b.ResourceVersion)
	return err == nil && order < 0
}

// deleteQueue removes the object of a queue. Its tasks stay in the queue, which then has the default spec.
func (st *state) deleteQueue(name toolscache.ObjectName) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.changed(name.Namespace)
	if q := st.getQueue(name); q != nil {
		q.SetObject(nil)
		st.namespaces[name.Namespace].pruneQueue(q)
	}
}
