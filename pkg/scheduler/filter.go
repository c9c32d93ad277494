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
	"fmt"
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// amounts are resources as integers: cpu in thousandths, all else in units, rounded up.
type amounts map[batch.ResourceName]int64

func amountsOf(list batch.ResourceList) amounts {
	if len(list) == 0 {
		return nil
	}
	a := make(amounts, len(list))
	for name, quantity := range list {
		a[name] = amountOf(name, quantity)
	}
	return a
}

func amountOf(name batch.ResourceName, quantity resource.Quantity) int64 {
	if name == batch.ResourceCPU {
		return quantity.MilliValue()
	}
	return quantity.Value()
}

// quantityOf is the inverse of amountOf.
func quantityOf(name batch.ResourceName, amount int64) resource.Quantity {
	switch name {
	case batch.ResourceCPU:
		return *resource.NewMilliQuantity(amount, resource.DecimalSI)
	case batch.ResourceMemory:
		return *resource.NewQuantity(amount, resource.BinarySI)
	}
	return *resource.NewQuantity(amount, resource.DecimalSI)
}

// add adds other so many times, which may be negative. What comes to nothing is left out.
func (a amounts) add(other amounts, times int64) {
	for name, amount := range other {
		if a[name] += times * amount; a[name] == 0 {
			delete(a, name)
		}
	}
}

// requestsOf is what a task takes from its worker beside its place. The place is always one, whatever the task asks for.
func requestsOf(obj *batch.Task) amounts {
	a := amountsOf(obj.Spec.Resources.Requests)
	delete(a, batch.ResourceTasks)
	return a
}

// offer is what of a Worker decides which tasks it can take.
type offer struct {
	registered    bool
	ready         bool
	unschedulable bool
	denied        bool
	incarnation   string
	labels        map[string]string
	taints        []batch.Taint
	allocatable   amounts
}

func offerOf(obj *batch.Worker) offer {
	return offer{
		registered:    true,
		ready:         meta.IsStatusConditionTrue(obj.Status.Conditions, batch.WorkerReady) && obj.Status.Incarnation != "",
		unschedulable: obj.Spec.Unschedulable,
		denied:        obj.Spec.Denied,
		incarnation:   obj.Status.Incarnation,
		labels:        obj.Labels,
		taints:        obj.Spec.Taints,
		allocatable:   amountsOf(obj.Status.Allocatable),
	}
}

// inService reports whether the worker takes tasks at all.
func (o *offer) inService() bool {
	return o.registered && o.ready && !o.unschedulable && !o.denied
}

// suits says whether an empty worker with this offer could take t.
func (o *offer) fitsEmpty(t *task) bool {
	return o.inService() && o.allocatable[batch.ResourceTasks] > 0 &&
		selects(t.obj.Spec.WorkerSelector, o.labels) &&
		untolerated(t.obj.Spec.Tolerations, o.taints, keepsAway) == nil &&
		!slices.ContainsFunc(t.names, func(name batch.ResourceName) bool { return t.requests[name] > o.allocatable[name] })
}

// fits says whether w can take t now. It is the hot path, cheapest checks first; refusals says why not.
func fits(t *task, w *worker) bool {
	return w.open() && (!t.alone || w.tasks == 0) &&
		selects(t.obj.Spec.WorkerSelector, w.labels) &&
		untolerated(t.obj.Spec.Tolerations, w.taints, keepsAway) == nil &&
		!slices.ContainsFunc(t.names, func(name batch.ResourceName) bool { return w.insufficient(t, name) }) &&
		(w.reservation == nil || w.reservation.admits(t))
}

// refusals are the reasons why w cannot take t, as the part of a sentence that follows the number of workers: those of
// the first kind of obstacle only. Without any, t fits.
func refusals(t *task, w *worker) []string {
	switch taint := untolerated(t.obj.Spec.Tolerations, w.taints, keepsAway); {
	case w.denied:
		return []string{"was denied"}
	case !w.ready:
		return []string{"was not ready"}
	case w.unschedulable:
		return []string{"was unschedulable"}
	case taint != nil:
		return []string{fmt.Sprintf("had untolerated taint {%s: %s}", taint.Key, taint.Value)}
	case !selects(t.obj.Spec.WorkerSelector, w.labels):
		return []string{"did not match the task's worker selector"}
	}
	switch {
	case w.tasksAlone > 0:
		return []string{"ran a task alone whose worker has crashed before"}
	case t.alone && w.tasks > 0:
		return []string{"ran other tasks (the task runs alone since its worker has crashed)"}
	}
	var reasons []string
	if w.tasks >= w.allocatable[batch.ResourceTasks] {
		reasons = append(reasons, "had no room for tasks")
	}
	for _, name := range t.names {
		if w.insufficient(t, name) {
			reasons = append(reasons, "had insufficient "+string(name))
		}
	}
	if len(reasons) == 0 && w.reservation != nil && !w.reservation.admits(t) {
		reasons = append(reasons, "was held back for a task that comes first")
	}
	return reasons
}

// explain is the message of a task that none of the workers of its namespace can take.
func unschedulableMessage(t *task, workers map[string]*worker) string {
	total, counts := 0, map[string]int{}
	for _, w := range workers {
		if !w.registered {
			continue
		}
		total++
		for _, reason := range refusals(t, w) {
			counts[reason]++
		}
	}
	if total == 0 {
		return "0/0 workers are available: the namespace has no workers."
	}
	parts := make([]string, 0, len(counts))
	for reason, n := range counts {
		if rest, ok := strings.CutPrefix(reason, "was "); ok && n > 1 {
			reason = "were " + rest
		}
		parts = append(parts, fmt.Sprintf("%d %s", n, reason))
	}
	slices.Sort(parts)
	return fmt.Sprintf("0/%d workers are available: %s.", total, strings.Join(parts, ", "))
}

func selects(selector, labels map[string]string) bool {
	for key, value := range selector {
		if got, ok := labels[key]; !ok || got != value {
			return false
		}
	}
	return true
}

func keepsAway(effect batch.TaintEffect) bool {
	return effect == batch.TaintEffectNoSchedule || effect == batch.TaintEffectNoExecute
}

func discourages(effect batch.TaintEffect) bool {
	return effect == batch.TaintEffectPreferNoSchedule
}

// untolerated is the first of the taints with such an effect that no toleration matches.
func untolerated(tolerations []batch.Toleration, taints []batch.Taint, effect func(batch.TaintEffect) bool) *batch.Taint {
	for i := range taints {
		taint := &taints[i]
		if effect(taint.Effect) && !slices.ContainsFunc(tolerations, func(t batch.Toleration) bool { return t.ToleratesTaint(taint) }) {
			return taint
		}
	}
	return nil
}

// classKey is the same for tasks of a queue that every worker accepts or refuses alike. names are those of requests, sorted.
func equivalenceClassKey(obj *batch.Task, requests amounts, names []batch.ResourceName) string {
	spec := &obj.Spec
	if len(names) == 0 && len(spec.WorkerSelector) == 0 && len(spec.Tolerations) == 0 && !runsAlone(obj) {
		return ""
	}
	var b strings.Builder
	if runsAlone(obj) {
		b.WriteString(" alone")
	}
	for _, name := range names {
		fmt.Fprintf(&b, " %q=%d", name, requests[name])
	}
	b.WriteString(" on")
	for _, key := range slices.Sorted(maps.Keys(spec.WorkerSelector)) {
		fmt.Fprintf(&b, " %q=%q", key, spec.WorkerSelector[key])
	}
	b.WriteString(" despite")
	for _, t := range spec.Tolerations {
		fmt.Fprintf(&b, " %q %q %q %q", t.Key, t.Operator, t.Value, t.Effect)
	}
	return b.String()
}

// runsAlone reports whether a task must have a worker to itself: it may be the one that takes workers down, and those that ran
// beside it would be counted with it.
func runsAlone(obj *batch.Task) bool { return obj.Status.WorkerCrashes > 0 }

// eligible says whether a task is one to bind: unbound, not being deleted, with no gate left.
func eligible(obj *batch.Task) bool {
	return obj.Spec.WorkerName == "" && obj.DeletionTimestamp == nil && len(obj.Spec.SchedulingGates) == 0 && !finished(obj)
}

func finished(obj *batch.Task) bool {
	return obj.Status.Phase == batch.TaskSucceeded || obj.Status.Phase == batch.TaskFailed
}

// unschedulableMessage is what the task's condition says of why it waits, if it does.
func reportedMessage(obj *batch.Task) string {
	c := meta.FindStatusCondition(obj.Status.Conditions, batch.TaskScheduled)
	if c == nil || c.Status != metav1.ConditionFalse || c.Reason != batch.TaskReasonUnschedulable {
		return ""
	}
	return c.Message
}
