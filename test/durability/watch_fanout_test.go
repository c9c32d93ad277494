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
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/faultproxy"
)

// testManyWatchers tests that a thousand watches of the tasks of one worker each, over few connections, receive the
// events of that worker only, and that none of them ends.
func testManyWatchers(t *testing.T, e *kit.Env) {
	const (
		many           = 1000
		maxConnections = many / 10
	)
	namespace := e.Namespace(t)
	proxy, through := faultproxy.Before(t, e.Admin(t))
	watching := tasks(kit.Client(t, through), namespace)
	person := tasks(kit.Client(t, direct(t, e)), namespace)
	controller := tasks(kit.Client(t, e.Direct(t, controllerUser)), namespace)
	start := kit.Must(person.List(t.Context(), metav1.ListOptions{}))(t).ResourceVersion
	each := func(f func(i int) error) {
		t.Helper()
		var group errgroup.Group
		group.SetLimit(16)
		for i := range many {
			group.Go(func() error { return f(i) })
		}
		kit.Check(t, group.Wait())
	}
	workerName, taskName := func(i int) string { return fmt.Sprintf("worker-%d", i) }, func(i int) string { return fmt.Sprintf("task-%d", i) }

	watches := make([]watch.Interface, many)
	each(func(i int) (err error) {
		watches[i], err = watching.Watch(t.Context(), metav1.ListOptions{ResourceVersion: start, FieldSelector: "spec.workerName=" + workerName(i)})
		return err
	})
	var received, ended sync.WaitGroup
	var over atomic.Bool
	got := make([][]string, many)
	for i, w := range watches {
		received.Add(1)
		ended.Go(func() {
			done := sync.OnceFunc(received.Done)
			defer done()
			for event := range w.ResultChan() {
				task, ok := event.Object.(*batch.Task)
				switch {
				case over.Load(): // an error of the end
				case ok:
					got[i] = append(got[i], fmt.Sprintf("%s %s", event.Type, task.Name))
				default:
					got[i] = append(got[i], fmt.Sprintf("%s %v", event.Type, event.Object))
				}
				done()
			}
			if !over.Load() {
				got[i] = append(got[i], "end")
			}
		})
	}

	each(func(i int) error {
		if _, err := person.Create(t.Context(), kit.NewTask(taskName(i)), metav1.CreateOptions{}); err != nil {
			return err
		}
		return tryBindTask(t.Context(), controller, taskName(i), workerName(i), "first")
	})
	all := make(chan struct{})
	go func() {
		received.Wait()
		close(all)
	}()
	select {
	case <-all:
	case <-time.After(kit.Patience):
	}
	over.Store(true)
	for _, w := range watches {
		w.Stop()
	}
	ended.Wait()

	wrong := 0
	for i := range got {
		want := []string{"ADDED " + taskName(i)}
		if slices.Equal(got[i], want) {
			continue
		}
		if wrong++; wrong <= 5 {
			t.Errorf("the watch of %s: got %q, want %q", workerName(i), got[i], want)
		}
	}
	if wrong > 0 {
		t.Errorf("%d of %d watches are wrong", wrong, many)
	}
	if n := proxy.Accepted(); n > maxConnections {
		t.Errorf("%d watches use %d connections, want at most %d", many, n, maxConnections)
	}
}
