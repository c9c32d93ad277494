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

package pools

import (
	"maps"
	"time"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/pool"
	"github.com/leat-dev/leat/pkg/scheduler/framework"
)

// stuckAfter is how long a worker of a pool takes to register when it counts as one that does not come.
const stuckAfter = 2 * time.Minute

// view is a pool as one sync sees it.
type view struct {
	min, max int
	idle     time.Duration
	// replicas is the number of workers that the StatefulSet is to have.
	replicas int
	// offer is what a further worker would offer.
	offer framework.WorkerState
	// workers are the registered workers by ordinal, also those of ordinals from replicas on.
	workers map[int]*framework.WorkerSnapshot
	// missing is the time since which an ordinal below replicas has no ready worker.
	missing map[int]time.Time
}

// decision is how many workers a pool should have.
type decision struct {
	// wanted is how many workers the tasks need, within the limits of the pool.
	wanted int
	// target is the number of replicas to write as soon as that is safe. It is the current number if nothing changes.
	target int
	// keep is the number of workers in service: those of higher ordinals are cordoned.
	keep int
	// ready is the number of ready workers, and stuck that of wanted workers that should have registered long ago.
	ready, stuck int
	// next is when the decision may differ without an event. It is zero if there is no such time.
	next time.Time
}

// candidate is a worker that may get tasks, or one that would.
type candidate struct {
	framework.WorkerInfo
	plan    *plan // nil outside of pools
	ordinal int
}

// plan is a pool while its decision is made.
type plan struct {
	*view
	added int // workers besides those of the view
	used  int // 1 plus the highest ordinal with tasks
	// unplaced is set if the tasks need more workers than the pool may have.
	unplaced bool
}

// decide returns how many workers each pool should have. The waiting tasks are placed in their order, with the filters
// of the scheduler: on the room of ready workers, on workers that have not registered yet, and on further workers of
// the first pool that fits and is not at its maximum. others are the workers outside of these pools. decide changes
// the counts of others and of the workers in the views.
func decide(now time.Time, filters framework.Filters, views []*view, others []*framework.WorkerSnapshot, waiting []framework.TaskGroup) []decision {
	plans := make([]*plan, len(views))
	var ready, coming []*candidate
	for _, w := range others {
		ready = append(ready, &candidate{WorkerInfo: w.WorkerInfo})
	}
	for i, v := range views {
		p := &plan{view: v}
		plans[i] = p
		for ordinal := range min(v.replicas, v.max) {
			switch w := v.workers[ordinal]; {
			case w != nil && w.Ready && isCordonedByPool(w):
				info := w.WorkerInfo
				info.Unschedulable = false
				ready = append(ready, &candidate{WorkerInfo: info, plan: p, ordinal: ordinal})
			case w != nil && w.Ready:
				ready = append(ready, &candidate{WorkerInfo: w.WorkerInfo, plan: p, ordinal: ordinal})
			case !v.isStuck(ordinal, now):
				coming = append(coming, p.newCandidate(ordinal))
			}
		}
		for ordinal := range v.replicas {
			if w := v.workers[ordinal]; w != nil && w.Tasks > 0 {
				p.used = ordinal + 1
			}
		}
	}
	for i := range waiting {
		group := &waiting[i]
		left := place(filters, group, group.Count, ready)
		left = place(filters, group, left, coming)
		for _, p := range plans {
			for left > 0 && p.fitsNew(filters, group) {
				if p.replicas+p.added >= p.max {
					p.unplaced = true
					break
				}
				further := p.newCandidate(p.replicas + p.added)
				p.added++
				left = place(filters, group, left, []*candidate{further})
				coming = append(coming, further)
			}
		}
	}
	decisions := make([]decision, len(plans))
	for i, p := range plans {
		decisions[i] = p.decide(now)
	}
	return decisions
}

// place places so many tasks of a group on candidates and returns how many are left.
func place(filters framework.Filters, group *framework.TaskGroup, tasks int, candidates []*candidate) (left int) {
	for _, c := range candidates {
		for tasks > 0 && filters.Filter(&group.Task, &c.WorkerInfo) {
			c.AddTask(&group.Task)
			tasks--
			if c.plan != nil {
				c.plan.used = max(c.plan.used, c.ordinal+1)
			}
		}
	}
	return tasks
}

// newCandidate returns a worker of that ordinal without tasks, as the pool offers it.
func (p *plan) newCandidate(ordinal int) *candidate {
	return &candidate{WorkerInfo: framework.WorkerInfo{WorkerState: p.offer, Used: framework.Resources{}}, plan: p, ordinal: ordinal}
}

// fitsNew reports whether a worker of the pool without tasks could run a task.
func (p *plan) fitsNew(filters framework.Filters, group *framework.TaskGroup) bool {
	return filters.Filter(&group.Task, &p.newCandidate(0).WorkerInfo)
}

func (p *plan) decide(now time.Time) decision {
	d := decision{wanted: max(p.min, min(p.used, p.max))}
	if p.unplaced {
		d.wanted = p.max
	}
	for ordinal := range p.replicas {
		switch w := p.workers[ordinal]; {
		case w != nil && w.Ready:
			d.ready++
		case ordinal >= d.wanted:
		case p.isStuck(ordinal, now):
			d.stuck++
		default:
			d.soonest(p.missing[ordinal].Add(stuckAfter))
		}
	}
	d.target = max(p.replicas, d.wanted)
	for d.target > d.wanted {
		idleAt, idle := p.idleAt(d.target - 1)
		if !idle {
			break
		}
		if idleAt.After(now) {
			d.soonest(idleAt)
			break
		}
		d.target--
	}
	d.keep = min(d.target, p.max)
	return d
}

func (d *decision) soonest(at time.Time) {
	if d.next.IsZero() || at.Before(d.next) {
		d.next = at
	}
}

// isStuck reports whether an ordinal has had no ready worker for long.
func (v *view) isStuck(ordinal int, now time.Time) bool {
	since, missing := v.missing[ordinal]
	return missing && now.Sub(since) >= stuckAfter
}

// idleAt returns when the worker of an ordinal will have been idle for as long as the pool keeps idle workers. It
// returns false if the worker is not idle, and if a person has cordoned or denied it: its successor would register
// without that setting. Workers beyond the maximum are not kept.
func (v *view) idleAt(ordinal int) (at time.Time, idle bool) {
	keep := v.idle
	if ordinal >= v.max {
		keep = 0
	}
	switch w := v.workers[ordinal]; {
	case w != nil && (w.Tasks > 0 || w.Denied || w.Unschedulable && !isCordonedByPool(w)):
		return time.Time{}, false
	case w == nil || w.Object.Status.Incarnation == "":
		return v.missing[ordinal].Add(keep), true
	default:
		return w.IdleSince.Add(keep), true
	}
}

// isCordonedByPool reports whether the controller of pools has cordoned the worker to remove it.
func isCordonedByPool(w *framework.WorkerSnapshot) bool {
	return w.Unschedulable && w.Object.Annotations[pool.AnnotationCordoned] != ""
}

// newOffer returns what a further worker of a pool would offer: what the annotation says, and at most what its workers
// have been seen to offer. seen is nil if none of them has been seen. A task that the seen workers cannot run would
// start workers that do not help.
func newOffer(name string, described *pool.Worker, seen *framework.WorkerState) framework.WorkerState {
	offer := framework.WorkerState{
		Registered: true, Ready: true, Incarnation: "none",
		Labels: maps.Clone(described.Labels), Taints: described.Taints,
		Features:    []batch.WorkerFeature{batch.WorkerFeatureChunks},
		Allocatable: framework.NewResources(described.Allocatable),
	}
	if offer.Labels == nil {
		offer.Labels = map[string]string{}
	}
	offer.Labels[batch.LabelPool] = name
	if seen == nil {
		return offer
	}
	maps.DeleteFunc(offer.Labels, func(key, value string) bool { return seen.Labels[key] != value })
	offer.Features = seen.Features
	for resource, amount := range offer.Allocatable {
		offer.Allocatable[resource] = min(amount, seen.Allocatable[resource])
	}
	return offer
}
