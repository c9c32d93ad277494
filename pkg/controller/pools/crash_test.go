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
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// TestKilledAtAnyRequestNoTaskEnds lets tasks come and go while the controller is killed repeatedly, before a request
// or between its effect and its response, and while the scheduler and the controller see everything late. The world
// fails the test when a pod is removed that has tasks, and when the replicas are outside of the limits. At the end,
// the pool must be at its minimum, with nothing left.
func TestKilledAtAnyRequestNoTaskEnds(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 1))
			least := random.IntN(3)
			w := newWorld(t, least, 1+least+random.IntN(5), random.IntN(8))
			kills, left := 0, 60
			w.inject = func(string) (before, after error) {
				// The scheduler works on while a request is under way.
				if random.IntN(3) == 0 {
					w.deliver()
				}
				if n := min(left, random.IntN(3)); random.IntN(3) == 0 {
					left -= n
					w.waiting += n
				}
				w.schedule()
				if random.IntN(2) == 0 {
					w.bindAll()
				}
				if random.IntN(12) > 0 || kills > 60 {
					return nil, nil
				}
				kills++
				if random.IntN(2) == 0 {
					return errKilled, nil
				}
				return nil, errKilled
			}
			for step := 0; left > 0 || w.waiting+len(w.bound)+len(w.assumed) > 0; step++ {
				if step > 100_000 {
					t.Fatalf("%d tasks wait, %d are bound, %d replicas, cordoned are %v", w.waiting, len(w.bound), w.replicas, w.cordoned())
				}
				switch random.IntN(9) {
				case 0:
					w.deliver()
				case 1:
					w.deliverStatefulSet()
				case 2:
					w.reconcilePods()
				case 3:
					w.now = w.now.Add(time.Duration(random.IntN(40)) * time.Second)
				case 4:
					if n := min(left, random.IntN(4)); random.IntN(30) == 0 {
						left -= n
						w.waiting += n
					}
				case 5:
					w.schedule()
				case 6:
					for _, id := range slices.Sorted(maps.Keys(w.assumed)) {
						if random.IntN(2) == 0 {
							w.bind(id)
						}
					}
				case 7:
					for _, id := range slices.Sorted(maps.Keys(w.bound)) {
						if random.IntN(3) == 0 {
							w.finish(id)
						}
					}
				case 8:
					for _, ordinal := range slices.Sorted(maps.Keys(w.pods)) {
						if random.IntN(2) == 0 {
							w.advancePod(ordinal)
						}
					}
				}
				if _, err := w.sync(); errors.Is(err, errKilled) {
					w.waiting += len(w.assumed) // the scheduler is in the same process
					w.restart()
				} else if err != nil && !apierrors.IsConflict(err) && !apierrors.IsAlreadyExists(err) {
					t.Fatal(err)
				}
				if t.Failed() {
					return
				}
			}
			w.inject = nil
			w.settle()
			w.now = w.now.Add(2 * time.Minute)
			w.settle()
			w.now = w.now.Add(2 * time.Minute)
			w.settle()
			w.expect(least)
			if len(w.workers) != least || len(w.cordoned()) > 0 {
				t.Errorf("%d Workers are left, cordoned are %v", len(w.workers), w.cordoned())
			}
		})
	}
}
