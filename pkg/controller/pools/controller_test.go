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
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/pool"
)

func TestAPoolFollowsTheWork(t *testing.T) {
	w := newWorld(t, 0, 5, 0)
	w.settle()
	w.expect(0)
	w.waiting = 5
	w.settle()
	w.expect(3)
	if len(w.bound) != 5 {
		t.Fatalf("%d tasks are bound, want 5", len(w.bound))
	}
	for id := range w.bound {
		w.finish(id)
	}
	w.settle()
	w.expect(3)
	w.now = w.now.Add(time.Minute)
	w.settle()
	w.expect(0)
	if len(w.workers) > 0 {
		t.Errorf("Workers of removed pods are left: %v", w.workers)
	}
	w.waiting = 1
	w.settle()
	w.expect(1)
	if len(w.bound) != 1 {
		t.Error("the task did not start after the pool was at zero")
	}
}

func TestABusyWorkerKeepsTheLowerOnes(t *testing.T) {
	w := newWorld(t, 0, 5, 0)
	w.waiting = 6
	w.settle()
	for id, worker := range w.bound {
		if worker != "blender-1" {
			w.finish(id)
		}
	}
	w.now = w.now.Add(time.Minute)
	w.settle()
	w.expect(2)
}

// TestATaskInFlightKeepsItsWorker checks the moments between the look at a worker and the write of the replicas.
func TestATaskInFlightKeepsItsWorker(t *testing.T) {
	prepare := func(t *testing.T) *world {
		w := newWorld(t, 0, 5, 0)
		w.waiting = 1
		w.settle()
		for id := range w.bound {
			w.finish(id)
		}
		w.now = w.now.Add(time.Minute)
		return w
	}
	trySync := func(w *world) {
		t.Helper()
		w.deliverStatefulSet()
		if _, err := w.sync(); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("the scheduler has not seen the cordon", func(t *testing.T) {
		w := prepare(t)
		trySync(w)
		w.waiting = 1
		w.schedule() // on what it saw before
		trySync(w)
		w.deliver()
		trySync(w)
		w.expect(1)
		w.settle()
		w.expect(1)
		if len(w.bound) != 1 {
			t.Error("the task is not bound")
		}
	})
	t.Run("a binding that the server has and the scheduler does not know", func(t *testing.T) {
		w := prepare(t)
		trySync(w)
		w.deliver()
		w.inject = func(verb string) (before, after error) {
			if verb == "list tasks" {
				w.bound[1000] = "blender-0" // by another scheduler
			}
			return nil, nil
		}
		trySync(w)
		w.expect(1)
	})
	t.Run("the scheduler has not seen that a cordon was undone", func(t *testing.T) {
		w := prepare(t)
		trySync(w)
		w.deliver()
		w.waiting = 1 // undoes the cordon
		trySync(w)
		w.waiting = 0 // the controller sees the worker as it was cordoned
		trySync(w)
		w.expect(1)
		if after, err := w.sync(); after != staleRetry || err != nil {
			t.Errorf("got %s, %v, want a sync again after %s", after, err, staleRetry)
		}
	})
	t.Run("the removal is not certain", func(t *testing.T) {
		w := prepare(t)
		trySync(w)
		w.deliver()
		w.inject = func(verb string) (before, after error) {
			if verb == "apply scale" {
				return errors.New("timeout"), nil
			}
			return nil, nil
		}
		w.deliverStatefulSet()
		if _, err := w.sync(); err == nil {
			t.Fatal("the sync did not fail")
		}
		w.inject = nil
		w.waiting = 1
		trySync(w)
		if len(w.cordoned()) != 1 {
			t.Error("the cordon was undone while the write of the replicas may still arrive")
		}
		w.now = w.now.Add(uncertainty)
		w.settle()
		w.expect(1)
		if len(w.bound) != 1 || len(w.cordoned()) > 0 {
			t.Errorf("after the uncertainty: %d tasks are bound, cordoned are %v", len(w.bound), w.cordoned())
		}
	})
}

func TestAPodThatRegistersWhileItIsRemovedGetsNoTask(t *testing.T) {
	w := newWorld(t, 0, 5, 1)
	w.deliverStatefulSet()
	w.reconcilePods()
	w.deliverStatefulSet()
	if _, err := w.sync(); err != nil {
		t.Fatal(err)
	}
	w.now = w.now.Add(time.Minute)
	for range 3 { // creates the Worker, and removes the pod
		w.deliver()
		w.deliverStatefulSet()
		if _, err := w.sync(); err != nil {
			t.Fatal(err)
		}
	}
	w.expect(0)
	w.waiting = 1
	w.advancePod(0)
	w.deliver()
	w.schedule()
	w.bindAll()
	if len(w.bound) > 0 {
		t.Error("the pod that is removed got a task")
	}
	w.settle()
	w.expect(1)
	if len(w.bound) != 1 {
		t.Error("the task did not start on the next pod")
	}
}

// TestAnOrdinalIsUsedAgainOnlyAfterItsWorkerHasGone checks that a worker that is being removed is not mistaken for the
// next one.
func TestAnOrdinalIsUsedAgainOnlyAfterItsWorkerHasGone(t *testing.T) {
	w := newWorld(t, 0, 5, 0)
	w.waiting = 1
	w.settle()
	for id := range w.bound {
		w.finish(id)
	}
	w.now = w.now.Add(time.Minute)
	for range 3 {
		w.deliverStatefulSet()
		w.deliver()
		if _, err := w.sync(); err != nil {
			t.Fatal(err)
		}
	}
	w.expect(0)
	w.waiting = 1
	w.deliverStatefulSet()
	if _, err := w.sync(); err != nil {
		t.Fatal(err)
	}
	w.expect(0) // the pod still runs, and does not know
	w.settle()
	w.expect(1)
}

func TestAStatefulSetThatTheInformerLagsBehind(t *testing.T) {
	w := newWorld(t, 0, 5, 0)
	w.waiting = 1
	w.change()
	if after, err := w.sync(); after != staleRetry || err != nil || len(w.written) > 0 {
		t.Errorf("got %s, %v and %v written, want a sync again after %s", after, err, w.written, staleRetry)
	}
	w.settle()
	w.expect(1)
}

func TestAPersonsCordonStays(t *testing.T) {
	w := newWorld(t, 0, 5, 0)
	w.waiting = 4
	w.settle()
	worker := w.workers["blender-0"].DeepCopy()
	worker.Spec.Unschedulable = true
	worker.ResourceVersion = w.newVersion()
	w.workers[worker.Name] = worker
	for id := range w.bound {
		w.finish(id)
	}
	w.settle()
	w.now = w.now.Add(time.Hour)
	w.settle()
	w.expect(1)
	if !w.workers["blender-0"].Spec.Unschedulable {
		t.Error("the cordon of a person was undone")
	}
}

func TestSomebodyElseScales(t *testing.T) {
	w := newWorld(t, 0, 5, 0)
	w.waiting = 1
	w.settle()
	w.noted()
	w.own("kubectl", metav1.ManagedFieldsOperationUpdate)
	w.setReplicas(4)
	w.written = nil
	w.waiting = 100
	w.settle()
	w.expect(4)
	if len(w.written) > 0 {
		t.Errorf("the controller wrote %v replicas", w.written)
	}
	if note := w.noted(); !strings.Contains(note, `"kubectl" scales the StatefulSet`) || !strings.Contains(note, pool.AnnotationResumeAt) {
		t.Errorf("got the events %q", note)
	}
	w.settle()
	if note := w.noted(); note != "" {
		t.Errorf("the event is repeated: %q", note)
	}
	w.object.Annotations[pool.AnnotationResumeAt] = strconv.FormatInt(w.object.Generation, 10)
	w.change()
	w.settle()
	w.expect(5)
}

func TestWhatIsNoPoolIsNotTouched(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*metav1.PartialObjectMetadata)
		want   string
	}{
		"another name":             {func(o *metav1.PartialObjectMetadata) { o.Labels[batch.LabelPool] = "other" }, "must be the name of the StatefulSet"},
		"no annotations":           {func(o *metav1.PartialObjectMetadata) { o.Annotations = nil }, "pool-max"},
		"a million workers":        {func(o *metav1.PartialObjectMetadata) { o.Annotations[pool.AnnotationMax] = "1000000" }, "from 1 to 5000"},
		"a worker that is no JSON": {func(o *metav1.PartialObjectMetadata) { o.Annotations[pool.AnnotationWorker] = "8" }, "must be what a worker offers"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 0, 5, 2)
			test.change(w.object)
			w.waiting = 10
			w.deliverStatefulSet()
			for range 3 {
				if _, err := w.sync(); err != nil {
					t.Fatal(err)
				}
			}
			if len(w.requests) > 0 {
				t.Errorf("sent the requests %v", w.requests)
			}
			if note := w.noted(); strings.Count(note, reasonInvalid) != 1 || !strings.Contains(note, test.want) {
				t.Errorf("got the events %q, want one with %q", note, test.want)
			}
		})
	}
}

func TestWithoutARoleBindingTheEventNamesIt(t *testing.T) {
	w := newWorld(t, 0, 5, 0)
	forbidden := true
	w.inject = func(verb string) (before, after error) {
		if forbidden && strings.HasSuffix(verb, "scale") {
			before = apierrors.NewForbidden(schema.GroupResource{Group: "apps", Resource: "statefulsets"}, testPool, errors.New("no"))
		}
		return before, nil
	}
	w.waiting = 1
	var delays []time.Duration
	for range 9 {
		after, err := w.sync()
		if err != nil {
			t.Fatal(err)
		}
		delays = append(delays, after/time.Second)
		w.now = w.now.Add(after)
	}
	if want := []time.Duration{1, 2, 4, 8, 16, 32, 60, 60, 60}; !slices.Equal(delays, want) {
		t.Errorf("tried again after %v s, want %v", delays, want)
	}
	if note := w.noted(); strings.Count(note, "\n") != 1 || !strings.Contains(note, "RoleBinding leat-pool-blender-scaler, of ClusterRole leat:pool-scaler") {
		t.Errorf("got the events %q", note)
	}
	forbidden = false
	w.settle()
	w.expect(1)
}

func TestWorkersThatDoNotRegister(t *testing.T) {
	w := newWorld(t, 0, 20, 0)
	w.waiting = 1
	step := func() {
		t.Helper()
		w.deliverStatefulSet()
		w.deliver()
		if _, err := w.sync(); err != nil {
			t.Fatal(err)
		}
		w.reconcilePods()
	}
	var grown []time.Duration
	for range 2 * 3600 {
		before := len(w.written)
		step()
		if len(w.written) > before {
			grown = append(grown, w.now.Sub(start).Round(time.Minute))
		}
		w.now = w.now.Add(time.Second)
	}
	if want := []time.Duration{0, 2 * time.Minute, 4 * time.Minute, 8 * time.Minute, 16 * time.Minute, 32 * time.Minute, 62 * time.Minute, 92 * time.Minute}; !slices.Equal(grown, want) {
		t.Errorf("added workers after %v, want %v", grown, want)
	}
	if note := w.noted(); !strings.Contains(note, "1 of 1 workers have not registered for 2m: see kubectl describe statefulset blender") {
		t.Errorf("got the events %q", note)
	}
	w.settle() // now they register
	if len(w.bound) != 1 {
		t.Error("the task is not bound")
	}
	w.now = w.now.Add(time.Minute)
	w.settle()
	w.expect(1)
}

func TestASetGetsOnlyTheWorkersThatItNeeds(t *testing.T) {
	w := newWorld(t, 0, 20, 0)
	w.set = &batch.TaskSet{ObjectMeta: metav1.ObjectMeta{Name: "set", UID: "set"}, Spec: batch.TaskSetSpec{Completions: new(int32(100))}}
	w.set.Status.MedianMilliseconds = 3000
	w.waiting = 100
	w.settle()
	w.expect(3) // 300 s of work in a minute are 5 slots
}
