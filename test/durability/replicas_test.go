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

package durability

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	typed "github.com/leat-dev/leat/pkg/generated/clientset/versioned/typed/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/history"
)

// testReplicas tests that two replicas over one etcd behave as one server.
func testReplicas(t *testing.T, e *kit.Env) {
	random := seeded(t)
	namespace := e.Namespace(t)
	stored := recordHistory(t, e, namespace)
	other := e.Replica(t)
	people := [2]typed.TaskInterface{tasks(kit.Client(t, direct(t, e)), namespace), tasks(kit.Client(t, direct(t, other)), namespace)}
	controller := [2]typed.TaskInterface{
		tasks(kit.Client(t, e.Direct(t, controllerUser)), namespace),
		tasks(kit.Client(t, other.Direct(t, controllerUser)), namespace),
	}

	watchers := [2]*retryWatcher{startRetryWatcher(t, people[0], metav1.ListOptions{}, stored.Start), startRetryWatcher(t, people[1], metav1.ListOptions{}, stored.Start)}
	// Consecutive changes of a task go through different replicas.
	var wg sync.WaitGroup
	errs := make([]error, 2)
	for i := range errs {
		random := rand.New(rand.NewPCG(random.Uint64(), 0))
		wg.Go(func() { errs[i] = churn(t.Context(), people[i], controller[1-i], random, "shared", 50) })
	}
	wg.Wait()
	kit.Check(t, errors.Join(errs...))
	last := createTask(t, people[0], newHeldTask("last"))
	changes := stored.until(t, last.ResourceVersion)
	for i, f := range watchers {
		t.Run(fmt.Sprintf("Watch-%d", i), func(t *testing.T) { f.expect(t, changes, history.All) })
	}

	t.Run("ListAfterWrite", func(t *testing.T) {
		for i := range 30 {
			written := createTask(t, people[i%2], newHeldTask(fmt.Sprintf("written-%d", i)))
			kit.Check(t, listShows(t.Context(), people[1-i%2], written))
		}
	})
	t.Run("Update", func(t *testing.T) {
		read := createTask(t, people[0], newHeldTask("update"))
		for range 5 {
			winner, err := raceToUpdate(t.Context(), read, people[:]...)
			kit.Check(t, err)
			want := mark(winner, read)
			for i := range people {
				if read = getTask(t, people[i], read.Name); read.Labels["winner"] != want {
					t.Fatalf("replica %d: the label is %q, want %q", i, read.Labels["winner"], want)
				}
			}
		}
	})
	t.Run("Bind", func(t *testing.T) {
		for round := range 10 {
			name := fmt.Sprintf("bind-%d", round)
			createTask(t, people[round%2], kit.NewTask(name))
			kit.Check(t, raceToBind(t, name, controller[:]...))
		}
	})
}
