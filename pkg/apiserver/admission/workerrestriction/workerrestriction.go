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

// Package workerrestriction limits what workers may write, as the NodeRestriction plugin limits kubelets. It checks the
// content of objects. The worker authorizer sees only their names, and other authorizers may allow a worker more.
package workerrestriction

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"

	"github.com/leat-dev/leat/apis/batch"
	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/apiserver/authorization/worker"
)

const (
	// PluginName is the name of the plugin.
	PluginName = "WorkerRestriction"
	// LabelPrefix is the prefix of labels that a worker may neither set, change nor remove on its own objects.
	// Tasks that select workers by such a label can rely on an administrator having set it.
	LabelPrefix = "worker-restriction.batch.leat.dev/"
)

// Register registers the plugin. It has no configuration.
func Register(plugins *admission.Plugins) {
	plugins.Register(PluginName, func(io.Reader) (admission.Interface, error) {
		return New(), nil
	})
}

// New returns the plugin. It requires no initialization and ignores users that are not in the group of workers. It
// validates the object that is stored, including the changes that mutating plugins made.
func New() admission.ValidationInterface {
	return &plugin{Handler: admission.NewHandler(admission.Create, admission.Update, admission.Delete, admission.Connect)}
}

type plugin struct {
	*admission.Handler
}

// Validate implements admission.ValidationInterface. It returns a Forbidden error that names the field and what is
// allowed.
func (*plugin) Validate(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if !worker.IsWorker(a.GetUserInfo()) {
		return nil
	}
	if err := validate(a); err != nil {
		return admission.NewForbidden(a, err)
	}
	return nil
}

func validate(a admission.Attributes) error {
	namespace, name, ok := worker.Identity(a.GetUserInfo())
	if !ok {
		return fmt.Errorf("a user of group %s must be named %s<namespace>:<name>, not %q", v1alpha1.WorkersGroup, v1alpha1.WorkerUserPrefix, a.GetUserInfo().GetName())
	}
	if a.GetNamespace() != namespace {
		return fmt.Errorf("worker %s may only write to its own namespace %q", name, namespace)
	}
	if a.GetResource().Group != batch.GroupName {
		return fmt.Errorf("worker %s may only write resources of %s", name, batch.GroupName)
	}

	resource := a.GetResource().Resource
	if subresource := a.GetSubresource(); subresource != "" {
		resource += "/" + subresource
	}
	switch operation := a.GetOperation(); {
	case operation == admission.Create && (resource == "workers" || resource == "workerleases"):
		return validateCreate(a.GetObject(), name)
	case operation == admission.Update && (resource == "workers" || resource == "workers/status" || resource == "workerleases"):
		return validateUpdate(a.GetObject(), a.GetOldObject(), name)
	case operation == admission.Update && resource == "tasks/status":
		return validateTaskStatus(a.GetObject(), a.GetOldObject(), name)
	case operation == admission.Create && resource == "tasks/eviction":
		return validateEviction(a.GetObject())
	case operation == admission.Delete && resource == "tasks":
		return validateTaskDelete(a.GetOldObject(), name)
	case operation == admission.Connect && resource == "workers/archive":
		if a.GetName() != name {
			return fmt.Errorf("worker %s may only send its own segments to the archive, not those of worker %s", name, a.GetName())
		}
		return nil
	default:
		return fmt.Errorf("a worker may not %s %s: only create and update its own workers and workerleases, "+
			"update workers/status and tasks/status, create tasks/eviction, delete tasks and connect to its own workers/archive",
			strings.ToLower(string(operation)), resource)
	}
}

// validateCreate checks the name in the object, which is the one that is stored; the path of a create holds none.
func validateCreate(obj runtime.Object, worker string) error {
	created, err := meta.Accessor(obj)
	if err != nil {
		return err
	}
	if created.GetName() != worker {
		return fmt.Errorf("metadata.name must be the worker's own name %q", worker)
	}
	if len(created.GetFinalizers()) > 0 {
		return fmt.Errorf("metadata.finalizers must be empty: a worker could not remove them")
	}
	if created, ok := obj.(*batch.Worker); ok && created.Spec.Denied {
		return fmt.Errorf("spec.denied must be false: a worker may not set it")
	}
	return validateRestrictedLabels(created.GetLabels(), nil)
}

func validateUpdate(obj, old runtime.Object, worker string) error {
	updated, err := meta.Accessor(obj)
	if err != nil {
		return err
	}
	stored, err := meta.Accessor(old)
	if err != nil {
		return err
	}
	if stored.GetName() != worker {
		return fmt.Errorf("metadata.name must be the worker's own name %q", worker)
	}
	if err := validateSameOwners(updated, stored); err != nil {
		return err
	}
	if err := validateRestrictedLabels(updated.GetLabels(), stored.GetLabels()); err != nil {
		return err
	}
	updatedWorker, ok := obj.(*batch.Worker)
	if !ok {
		return nil // the worker owns all fields of its lease
	}
	storedWorker, ok := old.(*batch.Worker)
	switch {
	case !ok:
		return fmt.Errorf("the stored object must be a Worker, not %T", old)
	case !apiequality.Semantic.DeepEqual(updatedWorker.Spec.Taints, storedWorker.Spec.Taints):
		return fmt.Errorf("spec.taints must not change: a worker may set its taints only when it creates its Worker")
	case updatedWorker.Spec.Unschedulable != storedWorker.Spec.Unschedulable:
		return fmt.Errorf("spec.unschedulable must not change: a worker may set it only when it creates its Worker")
	case updatedWorker.Spec.Denied != storedWorker.Spec.Denied:
		return fmt.Errorf("spec.denied must not change: a worker may not set it")
	}
	return nil
}

// validateTaskStatus also checks the fields that the status strategy resets, since mutating admission runs after it.
func validateTaskStatus(obj, old runtime.Object, worker string) error {
	stored, err := boundTask(old, worker)
	if err != nil {
		return err
	}
	updated, ok := obj.(*batch.Task)
	if !ok {
		return fmt.Errorf("the object must be a Task, not %T", obj)
	}
	if err := validateSameOwners(updated, stored); err != nil {
		return err
	}
	switch {
	case !maps.Equal(updated.Labels, stored.Labels):
		return fmt.Errorf("metadata.labels must not change: a worker may only change the status of a task")
	case !maps.Equal(updated.Annotations, stored.Annotations):
		return fmt.Errorf("metadata.annotations must not change: a worker may only change the status of a task")
	case !apiequality.Semantic.DeepEqual(updated.Spec, stored.Spec):
		return fmt.Errorf("spec must not change: a worker may only change the status of a task")
	}
	return nil
}

// validateEviction requires a precondition on the resourceVersion at which the task was bound to the worker: the task
// may have been bound to another worker since it was authorized.
func validateEviction(obj runtime.Object) error {
	eviction, ok := obj.(*batch.Eviction)
	if !ok {
		return fmt.Errorf("the object must be an Eviction, not %T", obj)
	}
	if eviction.Preconditions == nil || eviction.Preconditions.ResourceVersion == nil {
		return fmt.Errorf("preconditions.resourceVersion must be set: a worker may only evict a task as it has seen it")
	}
	return nil
}

func validateTaskDelete(old runtime.Object, worker string) error {
	task, err := boundTask(old, worker)
	if err != nil {
		return err
	}
	if task.DeletionTimestamp == nil {
		return fmt.Errorf("metadata.deletionTimestamp must be set: a worker may only finish the deletion of a task, not begin it")
	}
	return nil
}

func boundTask(obj runtime.Object, worker string) (*batch.Task, error) {
	task, ok := obj.(*batch.Task)
	if !ok {
		return nil, fmt.Errorf("the stored object must be a Task, not %T", obj)
	}
	if task.Spec.WorkerName != worker {
		return nil, fmt.Errorf("spec.workerName must be the worker's own name %q: the task is not bound to it", worker)
	}
	return task, nil
}

// validateSameOwners refuses changes of owners and finalizers, with which a worker could make the garbage collector
// delete, or keep, what it may not delete itself.
func validateSameOwners(updated, stored metav1.Object) error {
	if !apiequality.Semantic.DeepEqual(updated.GetOwnerReferences(), stored.GetOwnerReferences()) {
		return fmt.Errorf("metadata.ownerReferences must not change: a worker may set them only when it creates an object")
	}
	if !slices.Equal(updated.GetFinalizers(), stored.GetFinalizers()) {
		return fmt.Errorf("metadata.finalizers must not change: a worker may neither add nor remove any")
	}
	return nil
}

func validateRestrictedLabels(updated, stored map[string]string) error {
	var changed []string
	for key := range changedRestrictedLabels(updated, stored) {
		changed = append(changed, fmt.Sprintf("%q", key))
	}
	if len(changed) == 0 {
		return nil
	}
	slices.Sort(changed)
	return fmt.Errorf("metadata.labels %s must not be set, changed or removed by a worker: it may only choose labels without the prefix %q",
		strings.Join(changed, ", "), LabelPrefix)
}

// changedRestrictedLabels returns the keys of restricted labels whose values differ.
func changedRestrictedLabels(updated, stored map[string]string) map[string]struct{} {
	changed := map[string]struct{}{}
	for _, pair := range []struct{ a, b map[string]string }{{updated, stored}, {stored, updated}} {
		for key, value := range pair.a {
			if other, ok := pair.b[key]; strings.HasPrefix(key, LabelPrefix) && (!ok || other != value) {
				changed[key] = struct{}{}
			}
		}
	}
	return changed
}
