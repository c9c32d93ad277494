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

package registry

import (
	"context"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/leat-dev/leat/apis/batch"
	"github.com/leat-dev/leat/apis/batch/install"
	"github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// queues describes a representative kind with a spec, a status and conditions.
var queues = Resource[batch.TaskQueue, batch.TaskQueueList]{
	GroupResource: batch.Resource("taskqueues"),
	Namespaced:    true,
	Meta:          func(o *batch.TaskQueue) *metav1.ObjectMeta { return &o.ObjectMeta },
	Spec: Part[batch.TaskQueue]{
		Get:  func(o *batch.TaskQueue) any { return &o.Spec },
		Copy: func(to, from *batch.TaskQueue) { to.Spec = from.Spec },
	},
	Status: &Part[batch.TaskQueue]{
		Get:  func(o *batch.TaskQueue) any { return &o.Status },
		Copy: func(to, from *batch.TaskQueue) { to.Status = from.Status },
	},
	Conditions: func(o *batch.TaskQueue) []metav1.Condition { return o.Status.Conditions },
}

// rules refuse weights and numbers of pending tasks above 9.
type rules struct{}

func (rules) PrepareForCreate(_ context.Context, queue *batch.TaskQueue) {
	queue.Status.Pending = queue.Status.Running + int32(queue.Generation)
}

func (rules) Validate(_ context.Context, queue *batch.TaskQueue) field.ErrorList {
	return above9(*queue.Spec.Weight, "spec.weight")
}

func (rules) ValidateChange(_ context.Context, queue, old *batch.TaskQueue) field.ErrorList {
	if old != nil && *queue.Spec.Weight < *old.Spec.Weight {
		return field.ErrorList{field.Forbidden(field.NewPath("spec.weight"), "must not shrink")}
	}
	return nil
}

func (rules) ValidateStatus(_ context.Context, queue *batch.TaskQueue) field.ErrorList {
	return above9(queue.Status.Running, "status.running")
}

func (rules) ValidateStatusChange(_ context.Context, queue, old *batch.TaskQueue) field.ErrorList {
	if queue.Status.Running < old.Status.Running {
		return field.ErrorList{field.Forbidden(field.NewPath("status.running"), "must not shrink")}
	}
	return nil
}

func (rules) Warnings(context.Context, *batch.TaskQueue, *batch.TaskQueue) []string {
	return []string{"beware"}
}

func (rules) DeletionGracePeriod(queue *batch.TaskQueue, requested *int64) (int64, bool) {
	return 2 * ptr.Deref(requested, 20), queue.Name == "ended"
}

func (rules) ResetFields() []string { return []string{"spec.weight"} }

func above9(value int32, path string) field.ErrorList {
	if value > 9 {
		return field.ErrorList{field.Invalid(field.NewPath(path), value, "must be less than or equal to 9")}
	}
	return nil
}

func newStrategies(scheme *runtime.Scheme) (strategy[batch.TaskQueue, batch.TaskQueueList], statusStrategy[batch.TaskQueue, batch.TaskQueueList]) {
	main := newStrategy(scheme, queues, rules{})
	return main, statusStrategy[batch.TaskQueue, batch.TaskQueueList]{main}
}

func newQueue(weight, running int32) *batch.TaskQueue {
	return &batch.TaskQueue{
		ObjectMeta: metav1.ObjectMeta{Name: "q", Generation: 5, Labels: map[string]string{"a": "b"}},
		Spec:       batch.TaskQueueSpec{Weight: &weight},
		Status:     batch.TaskQueueStatus{Running: running},
	}
}

func TestPrepareForCreate(t *testing.T) {
	main, _ := newStrategies(runtime.NewScheme())
	queue := newQueue(1, 7)
	main.PrepareForCreate(t.Context(), queue)
	want := newQueue(1, 0)
	want.Generation = 1
	want.Status.Pending = 1 // set by the rules, which run after the reset
	if diff := cmp.Diff(want, queue); diff != "" {
		t.Errorf("want -, got +:\n%s", diff)
	}
}

func TestPrepareForUpdate(t *testing.T) {
	main, _ := newStrategies(runtime.NewScheme())
	for _, test := range []struct {
		name       string
		weight     int32
		generation int64
	}{{"same spec", 1, 5}, {"other spec", 2, 6}} {
		t.Run(test.name, func(t *testing.T) {
			stored, queue := newQueue(1, 7), newQueue(test.weight, 3)
			queue.Labels = map[string]string{"c": "d"}
			queue.Generation = 99
			main.PrepareForUpdate(t.Context(), queue, stored)
			want := newQueue(test.weight, 7)
			want.Labels, want.Generation = map[string]string{"c": "d"}, test.generation
			if diff := cmp.Diff(want, queue); diff != "" {
				t.Errorf("want -, got +:\n%s", diff)
			}
		})
	}
}

func TestPrepareForStatusUpdate(t *testing.T) {
	_, status := newStrategies(runtime.NewScheme())
	stored, queue := newQueue(1, 7), newQueue(2, 8)
	queue.Labels, queue.Annotations, queue.Finalizers = map[string]string{"c": "d"}, map[string]string{"e": "f"}, []string{"g"}
	queue.OwnerReferences = []metav1.OwnerReference{{Name: "h"}}
	status.PrepareForUpdate(t.Context(), queue, stored)
	if diff := cmp.Diff(newQueue(1, 8), queue); diff != "" {
		t.Errorf("want -, got +:\n%s", diff)
	}
}

func TestRatchetingValidation(t *testing.T) {
	main, status := newStrategies(runtime.NewScheme())
	for _, test := range []struct {
		name     string
		validate func(context.Context, runtime.Object, runtime.Object) field.ErrorList
		old, to  *batch.TaskQueue
		want     string
	}{
		{"right", main.ValidateUpdate, newQueue(1, 0), newQueue(9, 0), ""},
		{"wrong", main.ValidateUpdate, newQueue(1, 0), newQueue(10, 0), "spec.weight: Invalid value: 10: must be less than or equal to 9"},
		{"wrong already", main.ValidateUpdate, newQueue(10, 0), newQueue(10, 0), ""},
		{"wrong in another way", main.ValidateUpdate, newQueue(10, 0), newQueue(11, 0), "spec.weight: Invalid value: 11: must be less than or equal to 9"},
		{"a change is not excused", main.ValidateUpdate, newQueue(11, 0), newQueue(9, 0), "spec.weight: Forbidden: must not shrink"},
		{"right status", status.ValidateUpdate, newQueue(10, 1), newQueue(10, 9), ""},
		{"wrong status", status.ValidateUpdate, newQueue(1, 1), newQueue(1, 10), "status.running: Invalid value: 10: must be less than or equal to 9"},
		{"status wrong already", status.ValidateUpdate, newQueue(1, 10), newQueue(1, 10), ""},
		{"a change of status is not excused", status.ValidateUpdate, newQueue(1, 11), newQueue(1, 9), "status.running: Forbidden: must not shrink"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := ""
			if err := test.validate(t.Context(), test.to, test.old).ToAggregate(); err != nil {
				got = err.Error()
			}
			if got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
	if errs := main.Validate(t.Context(), newQueue(10, 0)); len(errs) != 1 {
		t.Errorf("on create: got %v", errs)
	}
}

func TestConditionsAreValidated(t *testing.T) {
	_, status := newStrategies(runtime.NewScheme())
	with := func(reason string) *batch.TaskQueue {
		queue := newQueue(1, 1)
		queue.Status.Conditions = []metav1.Condition{{Type: "Active", Status: metav1.ConditionTrue, Reason: reason, LastTransitionTime: metav1.Unix(1, 0)}}
		return queue
	}
	for _, test := range []struct {
		name    string
		old, to *batch.TaskQueue
		want    []string
	}{
		{"a reason", newQueue(1, 1), with("Fine"), nil},
		{"no reason", newQueue(1, 1), with(""), []string{"status.conditions[0].reason"}},
		{"none before", with(""), with(""), nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			var got []string
			for _, err := range status.ValidateUpdate(t.Context(), test.to, test.old) {
				got = append(got, err.Field)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("want -, got +:\n%s", diff)
			}
		})
	}
}

func TestResetFieldsOfAllVersions(t *testing.T) {
	scheme := runtime.NewScheme()
	install.Install(scheme)
	later := schema.GroupVersion{Group: batch.GroupName, Version: "v1beta1"}
	scheme.AddKnownTypes(later, &v1alpha1.TaskQueue{})
	if err := scheme.SetVersionPriority(later, v1alpha1.SchemeGroupVersion); err != nil {
		t.Fatal(err)
	}
	main, status := newStrategies(scheme)
	set := func(paths ...fieldpath.Path) *fieldpath.Set { return fieldpath.NewSet(paths...) }
	path := fieldpath.MakePathOrDie
	for name, test := range map[string]struct {
		strategy rest.ResetFieldsStrategy
		want     *fieldpath.Set
	}{
		"main":   {main, set(path("status"), path("spec", "weight"))},
		"status": {status, set(path("metadata"), path("spec"))},
	} {
		t.Run(name, func(t *testing.T) {
			got := test.strategy.GetResetFields()
			if len(got) != 2 {
				t.Errorf("got %v, want both versions", got)
			}
			for _, version := range []schema.GroupVersion{v1alpha1.SchemeGroupVersion, later} {
				if fields := got[fieldpath.APIVersion(version.String())]; fields == nil || !fields.Equals(test.want) {
					t.Errorf("%s: got %v, want %v", version, fields, test.want)
				}
			}
		})
	}

	without := queues
	without.Status = nil
	if got := newStrategy(scheme, without, nil).GetResetFields(); got != nil {
		t.Errorf("a kind without status: got %v", got)
	}
}

func TestUnconditionalUpdates(t *testing.T) {
	main, status := newStrategies(runtime.NewScheme())
	if !main.AllowUnconditionalUpdate(t.Context()) {
		t.Error("a PUT without resourceVersion must overwrite")
	}
	if status.AllowUnconditionalUpdate(t.Context()) {
		t.Error("a PUT of a status without resourceVersion must not overwrite")
	}
	if main.AllowCreateOnUpdate(t.Context()) || status.AllowCreateOnUpdate(t.Context()) {
		t.Error("a PUT must not create")
	}
}

func TestWarnings(t *testing.T) {
	main, status := newStrategies(runtime.NewScheme())
	queue := newQueue(1, 1)
	if len(main.WarningsOnCreate(t.Context(), queue)) != 1 || len(main.WarningsOnUpdate(t.Context(), queue, queue)) != 1 {
		t.Error("the main resource must warn")
	}
	if warnings := status.WarningsOnUpdate(t.Context(), queue, queue); len(warnings) > 0 {
		t.Errorf("the status subresource warns: %q", warnings)
	}
}

func TestGracePeriod(t *testing.T) {
	main, _ := newStrategies(runtime.NewScheme())
	graceful := gracefulStrategy[batch.TaskQueue, batch.TaskQueueList]{main, rules{}}
	for name, test := range map[string]struct {
		requested *int64
		want      int64
	}{"nothing asked for": {nil, 40}, "none": {ptr.To[int64](0), 0}, "some": {ptr.To[int64](3), 6}} {
		t.Run(name, func(t *testing.T) {
			options := &metav1.DeleteOptions{GracePeriodSeconds: test.requested}
			if !graceful.CheckGracefulDelete(t.Context(), newQueue(1, 1), options) {
				t.Fatal("deletion must be graceful: a grace period of zero deletes at once")
			}
			if got := ptr.Deref(options.GracePeriodSeconds, -1); got != test.want {
				t.Errorf("got %d, want %d", got, test.want)
			}
			ended := newQueue(1, 1)
			ended.Name = "ended"
			if graceful.CheckGracefulDelete(t.Context(), ended, options) {
				t.Error("an ended object must be deleted without grace")
			}
		})
	}
}

func TestGracePeriodOfTheStoredObject(t *testing.T) {
	main, _ := newStrategies(runtime.NewScheme())
	graceful := gracefulStrategy[batch.TaskQueue, batch.TaskQueueList]{main, grace{}}
	for _, c := range []struct {
		name      string
		requested *int64
		want      int64
	}{
		{"not asked for", nil, 30},
		{"asked for", ptr.To[int64](600), 600},
		{"none asked for", ptr.To[int64](0), 0},
		{"negative", ptr.To[int64](-5), 1},
		{"more than a time can be moved by", ptr.To[int64](math.MaxInt64), math.MaxInt32},
	} {
		t.Run(c.name, func(t *testing.T) {
			options := &metav1.DeleteOptions{GracePeriodSeconds: c.requested}
			ctx := withRequestedGracePeriod(t.Context(), options)
			graceful.CheckGracefulDelete(ctx, newQueue(1, 0), options) // as in a watch cache that lags
			graceful.CheckGracefulDelete(ctx, newQueue(1, 1), options)
			if *options.GracePeriodSeconds != c.want {
				t.Errorf("got %d s, want %d", *options.GracePeriodSeconds, c.want)
			}
		})
	}
}

// grace returns 30 s for queues with running tasks, or the requested grace period.
type grace struct{}

func (grace) DeletionGracePeriod(queue *batch.TaskQueue, requested *int64) (int64, bool) {
	if queue.Status.Running == 0 {
		return 0, false
	}
	return ptr.Deref(requested, 30), false
}

func TestUpdatePreparerChangesGeneration(t *testing.T) {
	main := newStrategy(runtime.NewScheme(), queues, heavy{})
	stored, queue := newQueue(1, 5), newQueue(1, 9)
	main.PrepareForUpdate(t.Context(), queue, stored)
	if *queue.Spec.Weight != 1000 || queue.Status.Running != stored.Status.Running || queue.Generation != stored.Generation+1 {
		t.Errorf("got %+v of %+v", queue, stored)
	}
}

// heavy sets the weight of queues on update.
type heavy struct{}

func (heavy) PrepareForUpdate(_ context.Context, queue, _ *batch.TaskQueue) {
	queue.Spec.Weight = ptr.To[int32](1000)
}

func TestKindsWithoutRules(t *testing.T) {
	main := newStrategy(runtime.NewScheme(), queues, struct{}{})
	status := statusStrategy[batch.TaskQueue, batch.TaskQueueList]{main}
	queue := newQueue(99, 99)
	main.PrepareForCreate(t.Context(), queue)
	errs := append(main.Validate(t.Context(), queue), main.ValidateUpdate(t.Context(), queue, queue)...)
	errs = append(errs, status.ValidateUpdate(t.Context(), queue, queue)...)
	warnings := append(main.WarningsOnCreate(t.Context(), queue), main.WarningsOnUpdate(t.Context(), queue, queue)...)
	if len(errs) > 0 || len(warnings) > 0 {
		t.Errorf("got %v, %q", errs, warnings)
	}
}
