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
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/leat-dev/leat/pkg/scheduler/framework"
)

// uncertainty is how long a binding whose request has failed may still arrive: longer than the server works on a
// request.
const uncertainty = 90 * time.Second

// OnChange sets a function that is called when the tasks, workers or queues of a namespace have changed. It must be set
// before Run. The function must not block, and must not call the scheduler.
func (s *Scheduler) OnChange(changed func(namespace string)) { s.state.changed = changed }

// Snapshot returns the current state of a namespace. It returns false until the scheduler knows all tasks and workers.
func (s *Scheduler) Snapshot(namespace string) (*framework.Snapshot, bool) {
	return s.state.snapshot(namespace)
}

func (st *state) snapshot(namespace string) (*framework.Snapshot, bool) {
	st.mu.Lock()
	defer st.mu.Unlock()
	snapshot := &framework.Snapshot{Bound: map[types.UID]int{}}
	ns := st.namespaces[namespace]
	if !st.synced || ns == nil {
		return snapshot, st.synced
	}
	for _, w := range ns.workers.Workers() {
		if !w.Registered {
			continue
		}
		info := w.WorkerInfo
		info.Used = framework.Resources{}
		info.Used.Add(w.Used, 1)
		snapshot.Workers = append(snapshot.Workers, framework.WorkerSnapshot{
			WorkerInfo: info, IdleSince: w.IdleSince, UncertainUntil: w.UncertainUntil,
		})
	}
	snapshot.Waiting = ns.queues.Groups()
	for _, q := range ns.queues.All() {
		for t := range q.Bound() {
			if controller := metav1.GetControllerOfNoCopy(t.Object); controller != nil {
				snapshot.Bound[controller.UID]++
			}
		}
	}
	return snapshot, true
}

// bindingUncertain records that the server may have got a binding, or may still get it.
func (st *state) bindingUncertain(p placement, now time.Time) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if ns := st.namespaces[p.obj.Namespace]; ns != nil {
		if w := ns.workers.Worker(p.target.Name); w != nil {
			w.UncertainUntil = now.Add(uncertainty)
		}
	}
}
