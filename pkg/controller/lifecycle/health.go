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

package lifecycle

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// defaultLeaseDuration is the lease duration of a worker without a lease, or whose lease does not specify one.
const defaultLeaseDuration = 40 * time.Second

// heartbeat holds the fields of a lease that change when its worker renews it. The zero value stands for no lease.
type heartbeat struct {
	uid     types.UID
	holder  string
	renewed int64
}

// heartbeatOf returns the heartbeat of a lease, the zero value for nil.
func heartbeatOf(lease *batch.WorkerLease) heartbeat {
	if lease == nil {
		return heartbeat{}
	}
	h := heartbeat{uid: lease.UID, holder: lease.Spec.HolderIdentity}
	if lease.Spec.RenewTime != nil {
		h.renewed = lease.Spec.RenewTime.UnixMicro()
	}
	return h
}

// durationOf returns the duration of a lease, the default for nil.
func durationOf(lease *batch.WorkerLease) time.Duration {
	if lease == nil || lease.Spec.LeaseDurationSeconds == nil {
		return defaultLeaseDuration
	}
	return batch.Seconds(int64(*lease.Spec.LeaseDurationSeconds))
}

// workerHealth is the health of a worker as its lease shows it.
//
//	health     event                                                    next
//	any        two lists were more than maxGap apart                    unknown
//	any        the lease was renewed                                    healthy
//	any        the lease was deleted                                    unknown
//	unknown    no change for the duration of the lease                  expired
//	healthy    no change for the duration of the lease                  expired
//	expired    a read of the lease confirms it                          lost
//	any        a worker returns to a namespace without healthy workers  unknown, if the lease is late
type workerHealth int

const (
	// unknown: the lease has not been observed for its duration, or is not being observed.
	unknown workerHealth = iota
	// healthy: a renewal of the lease was observed, and the lease has not expired since.
	healthy
	// expired: the lists of leases show no change for the duration of the lease.
	expired
	// lost: the lease has expired, and a read of the lease has confirmed it.
	lost
)

// healthTracker derives the health of workers from their leases. It uses only the clock of this process: what counts is
// for how long it has observed no change of a lease, not the times in the lease. Time in which it could not observe
// leases does not count: after a gap between two lists the observation of all leases starts again. Its methods are safe
// for concurrent use.
type healthTracker struct {
	// maxGap is the maximum time between two lists for the time between them to count.
	maxGap time.Duration

	mu       sync.Mutex
	listedAt time.Time
	observed map[cache.ObjectName]*observation
	// disrupted holds the start of the full disruption of a namespace: the time since which all its workers are late.
	disrupted map[string]time.Time
}

// observation is the observed state of one worker's lease.
type observation struct {
	heartbeat heartbeat
	duration  time.Duration
	// unchangedSince is when the lease last changed, or when its observation started.
	unchangedSince time.Time
	// renewalSeen reports that a renewal has been observed since then.
	renewalSeen bool
	// lostAt is when the worker was confirmed to be lost, zero if it is not lost.
	lostAt time.Time
}

// reset starts the observation again.
func (o *observation) reset(now time.Time) {
	o.unchangedSince, o.renewalSeen, o.lostAt = now, false, time.Time{}
}

// isLate reports whether the lease was not renewed for two thirds of its duration, longer than a live worker takes: a
// worker renews its lease four times in its duration, and the list adds a delay. If all workers of a namespace become
// unreachable at the same time, all are late when the first has expired.
func (o *observation) isLate(now time.Time) bool {
	return now.Sub(o.unchangedSince) > o.duration*2/3
}

func newHealthTracker(maxGap time.Duration) *healthTracker {
	return &healthTracker{maxGap: maxGap, observed: map[cache.ObjectName]*observation{}, disrupted: map[string]time.Time{}}
}

// observe records a list of all leases and all workers. It returns the names to sync: workers that are expired or lost,
// workers that renew their lease but have the unreachable taint, and leases without a worker.
func (h *healthTracker) observe(now time.Time, leases []batch.WorkerLease, workers []*batch.Worker) []cache.ObjectName {
	h.mu.Lock()
	defer h.mu.Unlock()
	gap := !h.listedAt.IsZero() && now.Sub(h.listedAt) > h.maxGap
	h.listedAt = now

	leaseOf := make(map[cache.ObjectName]*batch.WorkerLease, len(leases))
	for i := range leases {
		leaseOf[cache.MetaObjectToName(&leases[i])] = &leases[i]
	}
	registered := make(map[cache.ObjectName]*batch.Worker, len(workers))
	for _, worker := range workers {
		name := cache.MetaObjectToName(worker)
		registered[name] = worker
		if _, ok := leaseOf[name]; !ok {
			leaseOf[name] = nil
		}
	}
	for name := range h.observed {
		if _, ok := leaseOf[name]; !ok {
			delete(h.observed, name)
		}
	}
	renewed := map[string]bool{} // namespaces in which a lease was renewed
	for name, lease := range leaseOf {
		o := h.observed[name]
		if o == nil {
			h.observed[name] = &observation{heartbeat: heartbeatOf(lease), duration: durationOf(lease), unchangedSince: now}
			continue
		}
		if gap {
			o.reset(now)
		}
		if o.update(now, lease) {
			renewed[name.Namespace] = true
		}
	}
	h.updateDisruptions(now, renewed)

	var toSync []cache.ObjectName
	for name, o := range h.observed {
		worker := registered[name]
		switch h.evaluate(now, o) {
		case expired, lost:
			toSync = append(toSync, name)
		case healthy:
			if worker == nil || unreachableTaint(worker) != nil {
				toSync = append(toSync, name)
			}
		case unknown:
			if worker == nil {
				toSync = append(toSync, name)
			}
		}
	}
	return toSync
}

// updateDisruptions records which namespaces have only late workers. When a worker returns to such a namespace, the
// other workers may have been unreachable for the same reason, so the observation of their leases starts again.
func (h *healthTracker) updateDisruptions(now time.Time, renewed map[string]bool) {
	anyOnTime := map[string]bool{}
	for name, o := range h.observed {
		anyOnTime[name.Namespace] = anyOnTime[name.Namespace] || !o.isLate(now)
	}
	for name, o := range h.observed {
		if _, disrupted := h.disrupted[name.Namespace]; disrupted && renewed[name.Namespace] && o.isLate(now) {
			o.reset(now)
		}
	}
	for namespace := range h.disrupted {
		if onTime, ok := anyOnTime[namespace]; onTime || !ok {
			delete(h.disrupted, namespace)
		}
	}
	for namespace, onTime := range anyOnTime {
		if _, disrupted := h.disrupted[namespace]; !onTime && !disrupted {
			h.disrupted[namespace] = now
		}
	}
}

// update records the current lease, nil if there is none, and reports whether it was renewed.
func (o *observation) update(now time.Time, lease *batch.WorkerLease) bool {
	next := heartbeatOf(lease)
	o.duration = durationOf(lease)
	if next == o.heartbeat {
		return false
	}
	o.heartbeat = next
	o.reset(now)
	o.renewalSeen = lease != nil
	return o.renewalSeen
}

// evaluate returns the health that an observation shows.
func (h *healthTracker) evaluate(now time.Time, o *observation) workerHealth {
	switch {
	case now.Sub(h.listedAt) > h.maxGap:
		return unknown
	case !o.lostAt.IsZero():
		return lost
	case now.Sub(o.unchangedSince) > o.duration:
		return expired
	case o.renewalSeen:
		return healthy
	}
	return unknown
}

// get returns the health of a worker, and the observation that it is based on.
func (h *healthTracker) get(now time.Time, name cache.ObjectName) (workerHealth, observation) {
	h.mu.Lock()
	defer h.mu.Unlock()
	o := h.observed[name]
	if o == nil {
		return unknown, observation{}
	}
	return h.evaluate(now, o), *o
}

// confirm records a lease of an expired worker as read from the server, nil if there is none, and reports whether the
// worker is lost.
func (h *healthTracker) confirm(now time.Time, name cache.ObjectName, lease *batch.WorkerLease) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	o := h.observed[name]
	if o == nil || o.update(now, lease) || h.evaluate(now, o) < expired {
		return false
	}
	if o.lostAt.IsZero() {
		o.lostAt = now
	}
	return true
}

// disruptedSince returns the time since which all workers of a namespace are late. It reports false if one is on time.
func (h *healthTracker) disruptedSince(namespace string) (since time.Time, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	since, ok = h.disrupted[namespace]
	return since, ok
}
