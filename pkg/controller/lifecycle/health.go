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

// defaultLeaseDuration is that of a worker that has no lease yet, or none that says.
const defaultLeaseDuration = 40 * time.Second

// sign is a sign of life: what of a lease changes when its worker renews it. The zero value is no lease.
type sign struct {
	uid     types.UID
	holder  string
	renewed int64
}

func signOf(lease *batch.WorkerLease) sign {
	if lease == nil {
		return sign{}
	}
	s := sign{uid: lease.UID, holder: lease.Spec.HolderIdentity}
	if lease.Spec.RenewTime != nil {
		s.renewed = lease.Spec.RenewTime.UnixMicro()
	}
	return s
}

func durationOf(lease *batch.WorkerLease) time.Duration {
	if lease == nil || lease.Spec.LeaseDurationSeconds == nil {
		return defaultLeaseDuration
	}
	return batch.Seconds(int64(*lease.Spec.LeaseDurationSeconds))
}

// verdict is what the lease of a worker tells of it.
type verdict int

const (
	// undecided: the lease was not watched for long enough, or is not watched just now.
	undecided verdict = iota
	// alive: the lease was seen to be renewed, and its duration is not over.
	alive
	// overdue: the lease did not change for its duration, as far as lists of leases show.
	overdue
	// lost: overdue, and a read of the lease itself has confirmed it.
	lost
)

// health judges workers by their leases, on the clock of this process alone: by how long it has seen no change of a lease,
// whatever the times in it say. It judges nobody by a time in which it could not see: after a gap between two lists all leases
// are watched anew. Its methods are safe for concurrent use.
type health struct {
	// gap is the longest time between two lists that counts as having watched.
	gap time.Duration

	mu       sync.Mutex
	listed   time.Time
	observed map[cache.ObjectName]*observation
	// silent says since when a namespace has had workers of which none gives a sign of life.
	silent map[string]time.Time
}

// observation is what was seen of one worker's lease.
type observation struct {
	sign     sign
	duration time.Duration
	// since is when the lease changed last, or when it began to be watched.
	since time.Time
	// renewed says that a change was seen.
	renewed bool
	// lostAt is when the worker was found to be lost, zero if it is not.
	lostAt time.Time
}

// watchAnew forgets how long there was no change.
func (o *observation) watchAnew(now time.Time) {
	o.since, o.renewed, o.lostAt = now, false, time.Time{}
}

// quiet says that the lease has not been renewed for longer than a live worker ever takes, two of the four renewals that its
// duration has room for and the time until they are listed, although its duration need not be over. When all workers of a
// namespace fall silent at a time, all are quiet when the first is overdue.
func (o *observation) quiet(now time.Time) bool {
	return now.Sub(o.since) > o.duration*2/3
}

func newHealth(gap time.Duration) *health {
	return &health{gap: gap, observed: map[cache.ObjectName]*observation{}, silent: map[string]time.Time{}}
}

// observe takes in a list of all leases and the names of all workers. It gives whoever there is something to do about: workers that
// are overdue or lost, those that renew their lease although they are tainted as unreachable, and leases without a worker.
func (h *health) observe(now time.Time, leases []batch.WorkerLease, workers []*batch.Worker) []cache.ObjectName {
	h.mu.Lock()
	defer h.mu.Unlock()
	blind := !h.listed.IsZero() && now.Sub(h.listed) > h.gap
	h.listed = now

	seen := make(map[cache.ObjectName]*batch.WorkerLease, len(leases))
	for i := range leases {
		seen[cache.MetaObjectToName(&leases[i])] = &leases[i]
	}
	registered := make(map[cache.ObjectName]*batch.Worker, len(workers))
	for _, worker := range workers {
		name := cache.MetaObjectToName(worker)
		registered[name] = worker
		if _, ok := seen[name]; !ok {
			seen[name] = nil
		}
	}
	for name := range h.observed {
		if _, ok := seen[name]; !ok {
			delete(h.observed, name)
		}
	}
	renewed := map[string]bool{} // namespaces in which a lease was
	for name, lease := range seen {
		o := h.observed[name]
		if o == nil {
			h.observed[name] = &observation{sign: signOf(lease), duration: durationOf(lease), since: now}
			continue
		}
		if blind {
			o.watchAnew(now)
		}
		if o.take(now, lease) {
			renewed[name.Namespace] = true
		}
	}
	h.judgeSilence(now, renewed)

	var concerned []cache.ObjectName
	for name, o := range h.observed {
		worker := registered[name]
		switch h.judge(now, o) {
		case overdue, lost:
			concerned = append(concerned, name)
		case alive:
			if worker == nil || unreachableTaint(worker) != nil {
				concerned = append(concerned, name)
			}
		case undecided:
			if worker == nil {
				concerned = append(concerned, name)
			}
		}
	}
	return concerned
}

// judgeSilence notes which namespaces have no live worker. When one returns to such a namespace, whatever kept it away may have
// kept away the others too: they get the whole duration of their leases to follow.
func (h *health) judgeSilence(now time.Time, renewed map[string]bool) {
	heard := map[string]bool{}
	for name, o := range h.observed {
		heard[name.Namespace] = heard[name.Namespace] || !o.quiet(now)
	}
	for name, o := range h.observed {
		if _, silent := h.silent[name.Namespace]; silent && renewed[name.Namespace] && o.quiet(now) {
			o.watchAnew(now)
		}
	}
	for namespace := range h.silent {
		if anyone, ok := heard[namespace]; anyone || !ok {
			delete(h.silent, namespace)
		}
	}
	for namespace, anyone := range heard {
		if _, silent := h.silent[namespace]; !anyone && !silent {
			h.silent[namespace] = now
		}
	}
}

// take takes in what a lease is now, and says whether it was renewed.
func (o *observation) take(now time.Time, lease *batch.WorkerLease) bool {
	next := signOf(lease)
	o.duration = durationOf(lease)
	if next == o.sign {
		return false
	}
	o.sign = next
	o.watchAnew(now)
	o.renewed = lease != nil
	return o.renewed
}

func (h *health) judge(now time.Time, o *observation) verdict {
	switch {
	case now.Sub(h.listed) > h.gap:
		return undecided
	case !o.lostAt.IsZero():
		return lost
	case now.Sub(o.since) > o.duration:
		return overdue
	case o.renewed:
		return alive
	}
	return undecided
}

// verdict judges one worker, of which it gives what was seen.
func (h *health) verdict(now time.Time, name cache.ObjectName) (verdict, observation) {
	h.mu.Lock()
	defer h.mu.Unlock()
	o := h.observed[name]
	if o == nil {
		return undecided, observation{}
	}
	return h.judge(now, o), *o
}

// confirm takes in what a read of the lease itself has shown, nil if there is none, of a worker that is overdue, and says whether
// the worker is lost.
func (h *health) confirm(now time.Time, name cache.ObjectName, lease *batch.WorkerLease) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	o := h.observed[name]
	if o == nil || o.take(now, lease) || h.judge(now, o) < overdue {
		return false
	}
	if o.lostAt.IsZero() {
		o.lostAt = now
	}
	return true
}

// silentSince is when the last worker of a namespace fell silent. It is not ok while one of them gives signs of life.
func (h *health) silentSince(namespace string) (since time.Time, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	since, ok = h.silent[namespace]
	return since, ok
}
