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

package task

import (
	"context"
	"fmt"
	"strings"
	"syscall"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/operation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	storeerr "k8s.io/apiserver/pkg/storage/errors"
	"k8s.io/apiserver/pkg/util/dryrun"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/leat-dev/leat/apis/batch"
	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/registry"
)

// BindingREST serves the binding subresource. A single guarded update sets the worker and its incarnation, so that of
// two schedulers that bind a task, one gets a conflict.
type BindingREST struct {
	unmanaged
	store *genericregistry.Store
}

// New implements rest.Storage.
func (r *BindingREST) New() runtime.Object { return &batch.Binding{} }

// Destroy implements rest.Storage. The main resource destroys the store.
func (r *BindingREST) Destroy() {}

// PreserveRequestObjectMetaSystemFieldsOnSubresourceCreate implements rest.SubresourceObjectMetaPreserver. The uid and
// the resourceVersion of a binding are preconditions.
func (r *BindingREST) PreserveRequestObjectMetaSystemFieldsOnSubresourceCreate() bool { return true }

// Create implements rest.NamedCreater. It returns a Status, as for Pods.
func (r *BindingREST) Create(ctx context.Context, name string, obj runtime.Object, validate rest.ValidateObjectFunc,
	options *metav1.CreateOptions) (runtime.Object, error) {
	binding, ok := obj.(*batch.Binding)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("expected a Binding, not %T", obj))
	}
	if err := prepare(ctx, r.store, name, "Binding", &binding.ObjectMeta, binding, validate); err != nil {
		return nil, err
	}
	return guardedUpdate(ctx, r.store, name, binding.UID, binding.ResourceVersion, dryrun.IsDryRun(options.DryRun), func(task *batch.Task) error {
		switch {
		case task.DeletionTimestamp != nil:
			return fmt.Errorf("the task is being deleted")
		case Finished(task):
			return fmt.Errorf("the task has finished: it is %s", task.Status.Phase)
		case task.Spec.WorkerName != "":
			return fmt.Errorf("the task is bound to worker %q", task.Spec.WorkerName)
		case len(task.Spec.SchedulingGates) > 0:
			return fmt.Errorf("the task has scheduling gates: %q is one", task.Spec.SchedulingGates[0].Name)
		}
		task.Spec.WorkerName = binding.Target.Name
		task.Status.Incarnation = binding.Target.Incarnation
		task.Status.Bindings++
		task.Status.State = batch.TaskState{}
		if binding.Prefetched {
			task.Status.State.Waiting = &batch.TaskStateWaiting{
				Reason: batch.TaskReasonPrefetched, Message: fmt.Sprintf("waits on worker %s for other tasks to end", binding.Target.Name),
			}
		}
		meta.RemoveStatusCondition(&task.Status.Conditions, batch.DisruptionTarget)
		meta.SetStatusCondition(&task.Status.Conditions, metav1.Condition{
			Type: batch.TaskScheduled, Status: metav1.ConditionTrue, Reason: batch.TaskReasonBound,
			Message: fmt.Sprintf("bound to worker %s", binding.Target.Name),
		})
		return nil
	})
}

// unmanaged is a part of storages whose objects are not stored. It implements rest.ResetFieldsFilterStrategy, so that
// upstream does not record managed fields in them, which it would also encode and decode.
type unmanaged struct{}

// GetResetFieldsFilter implements rest.ResetFieldsFilterStrategy.
func (unmanaged) GetResetFieldsFilter() map[fieldpath.APIVersion]fieldpath.Filter {
	return map[fieldpath.APIVersion]fieldpath.Filter{fieldpath.APIVersion(v1alpha1.SchemeGroupVersion.String()): allFields{}}
}

// allFields is a filter that removes all fields.
type allFields struct{}

// Filter implements fieldpath.Filter.
func (allFields) Filter(*fieldpath.Set) *fieldpath.Set { return fieldpath.NewSet() }

// EvictionREST serves the eviction subresource. A single guarded update unbinds the task from its worker, whose later
// writes of the status are refused.
type EvictionREST struct {
	unmanaged
	store *genericregistry.Store
}

// New implements rest.Storage.
func (r *EvictionREST) New() runtime.Object { return &batch.Eviction{} }

// Destroy implements rest.Storage. The main resource destroys the store.
func (r *EvictionREST) Destroy() {}

// Create implements rest.NamedCreater. It returns a Status, as for Pods.
func (r *EvictionREST) Create(ctx context.Context, name string, obj runtime.Object, validate rest.ValidateObjectFunc,
	options *metav1.CreateOptions) (runtime.Object, error) {
	eviction, ok := obj.(*batch.Eviction)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("expected an Eviction, not %T", obj))
	}
	if err := prepare(ctx, r.store, name, "Eviction", &eviction.ObjectMeta, eviction, validate); err != nil {
		return nil, err
	}
	if messages := validation.IsCIdentifier(eviction.Reason); len(messages) > 0 {
		return nil, apierrors.NewInvalid(schema.GroupKind{Group: batch.GroupName, Kind: "Eviction"}, name, field.ErrorList{
			field.Invalid(field.NewPath("reason"), eviction.Reason, "must be one word in CamelCase, like WorkerLost"),
		})
	}
	var uid types.UID
	var resourceVersion string
	if preconditions := eviction.Preconditions; preconditions != nil {
		if preconditions.UID != nil {
			uid = *preconditions.UID
		}
		if preconditions.ResourceVersion != nil {
			resourceVersion = *preconditions.ResourceVersion
		}
	}
	return guardedUpdate(ctx, r.store, name, uid, resourceVersion, dryrun.IsDryRun(options.DryRun), func(task *batch.Task) error {
		if err := evict(task, eviction, metav1.Now()); err != nil {
			return err
		}
		setConditionsForPhase(&task.Status, task.Status.Conditions)
		return nil
	})
}

// evict unbinds a task from its worker, or fails it if its workers have crashed spec.crashLimit times. The eviction of
// a task that was not started is no disruption.
func evict(task *batch.Task, eviction *batch.Eviction, now metav1.Time) error {
	switch {
	case Finished(task):
		return fmt.Errorf("the task has finished: it is %s", task.Status.Phase)
	case task.DeletionTimestamp != nil:
		return fmt.Errorf("the task is being deleted: to delete it at once, delete it with a grace period of 0")
	case task.Spec.WorkerName == "":
		return fmt.Errorf("the task is not bound to a worker")
	case eviction.NotStarted && task.Status.Phase != batch.TaskPending:
		return fmt.Errorf("the command has been started since the task was bound: the phase is %s", task.Status.Phase)
	}
	if eviction.NotStarted {
		unbind(task, eviction)
		return nil
	}
	if eviction.WorkerCrashed {
		task.Status.WorkerCrashes++
		if limit := ptr.Deref(task.Spec.CrashLimit, defaultCrashLimit); task.Status.WorkerCrashes >= limit {
			failAfterCrashes(task, eviction.Message, now)
			return nil
		}
	}
	if task.Spec.Indexes != "" {
		// Other tasks run the indexes that have not started. This one runs its current index again.
		task.Status.IndexLimit = ptr.To(min(task.Status.CompletedCount+1, indexCount(task)))
	}
	unbind(task, eviction)
	task.Status.Disruptions++
	meta.SetStatusCondition(&task.Status.Conditions, metav1.Condition{
		Type: batch.DisruptionTarget, Status: metav1.ConditionTrue, Reason: eviction.Reason, Message: eviction.Message,
	})
	return nil
}

// unbind removes a task from its worker.
func unbind(task *batch.Task, eviction *batch.Eviction) {
	task.Spec.WorkerName = ""
	task.Status.Incarnation = ""
	task.Status.Phase = batch.TaskPending
	task.Status.State = batch.TaskState{Waiting: &batch.TaskStateWaiting{Reason: eviction.Reason, Message: eviction.Message}}
	meta.RemoveStatusCondition(&task.Status.Conditions, batch.TaskScheduled)
	meta.RemoveStatusCondition(&task.Status.Conditions, batch.TaskReturnRequested)
}

const (
	// defaultCrashLimit is the default of spec.crashLimit.
	defaultCrashLimit = 5
	// lostExitCode is the exit code of a command whose end was not observed, as the kubelet reports it for
	// containers: that of SIGKILL.
	lostExitCode = 128 + int32(syscall.SIGKILL)
	// maxCause bounds the part of the last eviction's message that the message of a failed task repeats, in bytes.
	maxCause = 4096
)

// failAfterCrashes fails a task with reason WorkerCrashed. The task stays bound to the worker, which has the log of the
// last attempt. The phase is final, so a worker that comes back cannot change it.
func failAfterCrashes(task *batch.Task, cause string, now metav1.Time) {
	if len(cause) > maxCause {
		cause = strings.ToValidUTF8(cause[:maxCause], "")
	}
	terminated := &batch.TaskStateTerminated{
		ExitCode: lostExitCode, Reason: batch.TaskReasonWorkerCrashed, FinishedAt: now,
		Message: fmt.Sprintf("The worker was lost or restarted %d times while the command ran, and spec.crashLimit allows no more. "+
			"The last time it was worker %s: %s If the command is not the cause, run it again with a higher crashLimit.",
			task.Status.WorkerCrashes, task.Spec.WorkerName, cause),
	}
	if running := task.Status.State.Running; running != nil {
		terminated.StartedAt = running.StartedAt
	}
	task.Status.Phase = batch.TaskFailed
	task.Status.State = batch.TaskState{Terminated: terminated}
	task.Status.CompletionTime = &now
}

// prepare sets the name of an object that is created at a subresource of a task, and validates it.
func prepare(ctx context.Context, store *genericregistry.Store, name, kind string, metadata *metav1.ObjectMeta, obj runtime.Object,
	validate rest.ValidateObjectFunc) error {
	if metadata.Name != "" && metadata.Name != name {
		return apierrors.NewBadRequest(fmt.Sprintf("metadata.name is %q: it must be the name of the task, %q, or empty", metadata.Name, name))
	}
	metadata.Name = name
	declarative := store.CreateStrategy.(rest.DeclarativeValidationStrategy)
	if errs := declarative.ValidateDeclaratively(ctx, obj, nil, nil, operation.Create, rest.DeclarativeValidationConfig{}); len(errs) > 0 {
		return apierrors.NewInvalid(schema.GroupKind{Group: batch.GroupName, Kind: kind}, name, registry.BoundErrors(errs))
	}
	if validate == nil {
		return nil
	}
	return validate(ctx, obj.DeepCopyObject())
}

// guardedUpdate applies f to the stored task in a single transaction. An error of f is returned as a conflict. Empty
// uid and resourceVersion are no preconditions.
func guardedUpdate(ctx context.Context, store *genericregistry.Store, name string, uid types.UID, resourceVersion string, dryRun bool,
	f func(*batch.Task) error) (runtime.Object, error) {
	key, err := store.KeyFunc(ctx, name)
	if err != nil {
		return nil, err
	}
	preconditions := &storage.Preconditions{}
	if uid != "" {
		preconditions.UID = &uid
	}
	if resourceVersion != "" {
		preconditions.ResourceVersion = &resourceVersion
	}
	resource := batch.Resource("tasks")
	err = store.Storage.GuaranteedUpdate(ctx, key, &batch.Task{}, false, preconditions, storage.SimpleUpdate(
		func(obj runtime.Object) (runtime.Object, error) {
			task := obj.(*batch.Task)
			if err := f(task); err != nil {
				return nil, apierrors.NewConflict(resource, name, err)
			}
			return task, nil
		}), dryRun, nil)
	if err != nil {
		return nil, storeerr.InterpretUpdateError(storeerr.InterpretGetError(err, resource, name), resource, name)
	}
	return &metav1.Status{Status: metav1.StatusSuccess}, nil
}
