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

// Package task holds the domain rules of tasks.
package task

import (
	"context"
	"fmt"
	"slices"
	"strings"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/warning"

	"github.com/leat-dev/leat/apis/batch"
	"github.com/leat-dev/leat/pkg/registry"
	"github.com/leat-dev/leat/pkg/registry/batch/resources"
)

// Rules are the domain rules of tasks.
type Rules struct{}

// PrepareForCreate implements registry.Preparer. It makes the task Pending and unbound: an exported task may name a
// worker.
func (Rules) PrepareForCreate(ctx context.Context, task *batch.Task) {
	resetWorkerName(ctx, task, "")
	task.Status.Phase = batch.TaskPending
	setConditionsForPhase(&task.Status, nil)
	setConditionForGates(task)
}

// PrepareForUpdate implements registry.UpdatePreparer. It restores the binding, which only subresources change. The
// manifest of a bound task names no worker, and that of an exported task may name another.
func (Rules) PrepareForUpdate(ctx context.Context, task, old *batch.Task) {
	resetWorkerName(ctx, task, old.Spec.WorkerName)
	if !slices.Equal(task.Spec.SchedulingGates, old.Spec.SchedulingGates) {
		setConditionForGates(task)
	}
}

// ResetFields implements registry.FieldResetter.
func (Rules) ResetFields() []string { return []string{"spec.workerName"} }

// resetWorkerName sets spec.workerName to the stored value, and warns if another one was sent.
func resetWorkerName(ctx context.Context, task *batch.Task, stored string) {
	if sent := task.Spec.WorkerName; sent != "" && sent != stored {
		warning.AddWarning(ctx, "", fmt.Sprintf(
			"spec.workerName: %q is ignored: only the binding and eviction subresources change it; remove it from the manifest", sent))
	}
	task.Spec.WorkerName = stored
}

// Validate implements registry.Validator.
func (Rules) Validate(_ context.Context, task *batch.Task) field.ErrorList {
	return ValidateSpec(&task.Spec, field.NewPath("spec"))
}

// ValidateSpec validates the spec of a task or of a task template, as far as declarative validation cannot.
func ValidateSpec(spec *batch.TaskSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(spec.Command) > 0 && spec.Command[0] == "" {
		errs = append(errs, field.Required(path.Child("command").Index(0), "must name the program to run"))
	}
	for i, text := range spec.Command {
		errs = append(errs, validateText(text, path.Child("command").Index(i))...)
	}
	for i, text := range spec.Args {
		errs = append(errs, validateText(text, path.Child("args").Index(i))...)
	}
	errs = append(errs, validateText(spec.WorkingDir, path.Child("workingDir"))...)
	for i, variable := range spec.Env {
		envPath := path.Child("env").Index(i)
		if variable.Name != "" {
			for _, message := range validation.IsRelaxedEnvVarName(variable.Name) {
				errs = append(errs, field.Invalid(envPath.Child("name"), variable.Name, message))
			}
		}
		errs = append(errs, validateText(variable.Value, envPath.Child("value"))...)
	}
	errs = append(errs, registry.Duplicates(len(spec.Env), func(i int) (*field.Path, string) {
		return path.Child("env").Index(i).Child("name"), spec.Env[i].Name
	})...)
	if size := TextSize(spec); size > maxText {
		errs = append(errs, field.Invalid(path, field.OmitValueType{}, fmt.Sprintf(
			"command, args and env must be at most %d bytes together, and are %d: pass more in a file that workers can read", maxText, size)))
	}
	errs = append(errs, validateIndexes(spec, path)...)
	errs = append(errs, resources.Validate(spec.Resources.Requests, path.Child("resources", "requests"),
		batch.ResourceCPU, batch.ResourceMemory)...)
	for i, toleration := range spec.Tolerations {
		tolerationPath := path.Child("tolerations").Index(i)
		if toleration.Key == "" && toleration.Operator != batch.TolerationOpExists {
			errs = append(errs, field.Invalid(tolerationPath.Child("operator"), toleration.Operator,
				"must be Exists when key is empty, which means all keys"))
		}
		if toleration.Operator == batch.TolerationOpExists && toleration.Value != "" {
			errs = append(errs, field.Invalid(tolerationPath.Child("value"), toleration.Value, "must be empty when operator is Exists"))
		}
		if toleration.TolerationSeconds != nil && toleration.Effect != batch.TaintEffectNoExecute {
			errs = append(errs, field.Invalid(tolerationPath.Child("effect"), toleration.Effect, "must be NoExecute when tolerationSeconds is set"))
		}
	}
	return errs
}

// maxText bounds command, args, env and items together, in bytes. As for Secrets, larger objects do not fit into etcd.
// Linux accepts little more.
const maxText = 1 << 20

// TextSize returns the size of command, args, env and items together, in bytes.
func TextSize(spec *batch.TaskSpec) int {
	size := 0
	for _, list := range [][]string{spec.Command, spec.Args, spec.Items} {
		for _, text := range list {
			size += len(text)
		}
	}
	for _, variable := range spec.Env {
		size += len(variable.Name) + len(variable.Value)
	}
	return size
}

// validateText refuses text that cannot be passed to a process.
func validateText(text string, path *field.Path) field.ErrorList {
	if strings.ContainsRune(text, 0) {
		return field.ErrorList{field.Invalid(path, text, "must not contain a NUL character")}
	}
	return nil
}

// ValidateChange implements registry.Validator. The fields of a Pod that may change may change in a task, in the same
// way. Priority and queue may change while the task waits.
func (Rules) ValidateChange(_ context.Context, task, old *batch.Task) field.ErrorList {
	path := field.NewPath("spec")
	if old == nil {
		return nil
	}
	errs := validateQueueing(task, old, path)
	if before := old.Spec.ActiveDeadlineSeconds; before != nil {
		deadlinePath := path.Child("activeDeadlineSeconds")
		switch after := task.Spec.ActiveDeadlineSeconds; {
		case after == nil:
			errs = append(errs, field.Invalid(deadlinePath, nil, fmt.Sprintf("must not be removed; it may be at most %d", *before)))
		case *after > *before:
			errs = append(errs, field.Invalid(deadlinePath, *after, fmt.Sprintf("must be less than or equal to its former value, %d", *before)))
		}
	}
	for _, toleration := range old.Spec.Tolerations {
		if !tolerates(task.Spec.Tolerations, toleration) {
			errs = append(errs, field.Forbidden(path.Child("tolerations"),
				fmt.Sprintf("may be added, not removed: %q of effect %q is missing", toleration.Key, toleration.Effect)))
		}
	}
	return errs
}

// validateQueueing returns an error for each of priority and queueName that changes after the task was bound or has
// finished.
func validateQueueing(task, old *batch.Task, path *field.Path) field.ErrorList {
	var state string
	switch {
	case Finished(old):
		state = "has finished"
	case old.Spec.WorkerName != "":
		state = fmt.Sprintf("is bound to worker %q", old.Spec.WorkerName)
	default:
		return nil
	}
	var errs field.ErrorList
	if task.Spec.QueueName != old.Spec.QueueName {
		errs = append(errs, field.Invalid(path.Child("queueName"), task.Spec.QueueName, fmt.Sprintf(
			"must stay %q: it can change only while the task waits for a worker, and the task %s", old.Spec.QueueName, state)))
	}
	if task.Spec.Priority != old.Spec.Priority {
		errs = append(errs, field.Invalid(path.Child("priority"), task.Spec.Priority, fmt.Sprintf(
			"must stay %d: it can change only while the task waits for a worker, and the task %s", old.Spec.Priority, state)))
	}
	return errs
}

// tolerates reports whether the list contains the toleration, with any tolerationSeconds.
func tolerates(list []batch.Toleration, toleration batch.Toleration) bool {
	toleration.TolerationSeconds = nil
	for _, candidate := range list {
		candidate.TolerationSeconds = nil
		if candidate == toleration {
			return true
		}
	}
	return false
}

// FenceStatus implements registry.StatusFencer. It refuses a write by another incarnation than the one that the task is
// bound to, and a write that is stale: with a smaller completedCount, with fewer attempts at the same index, or with a
// greater indexLimit.
func (Rules) FenceStatus(_ context.Context, task, old *batch.Task) error {
	switch {
	case task.Status.Incarnation != old.Status.Incarnation:
		return apierrors.NewConflict(batch.Resource("tasks"), old.Name, fmt.Errorf(
			"the task is bound to incarnation %q, not %q: read it again", old.Status.Incarnation, task.Status.Incarnation))
	case task.Status.CompletedCount < old.Status.CompletedCount:
		return apierrors.NewConflict(batch.Resource("tasks"), old.Name, fmt.Errorf(
			"the completedCount of the task is %d, past %d: read it again", old.Status.CompletedCount, task.Status.CompletedCount))
	case old.Status.IndexLimit != nil && (task.Status.IndexLimit == nil || *task.Status.IndexLimit > *old.Status.IndexLimit):
		return apierrors.NewConflict(batch.Resource("tasks"), old.Name, fmt.Errorf(
			"the indexLimit of the task is %d, and it never increases: read it again", *old.Status.IndexLimit))
	case task.Status.CompletedCount == old.Status.CompletedCount && task.Status.Attempts < old.Status.Attempts:
		return apierrors.NewConflict(batch.Resource("tasks"), old.Name, fmt.Errorf(
			"the task is at attempt %d, past %d: read it again", old.Status.Attempts, task.Status.Attempts))
	}
	return nil
}

// Finished reports whether the task is in a final phase.
func Finished(task *batch.Task) bool {
	return task.Status.Phase == batch.TaskSucceeded || task.Status.Phase == batch.TaskFailed
}

// ValidateStatus implements registry.StatusValidator. See validateIndexStatus.
func (Rules) ValidateStatus(_ context.Context, task *batch.Task) field.ErrorList {
	return validateIndexStatus(task, field.NewPath("status"))
}

// ValidateStatusChange implements registry.StatusValidator. A final phase must not change, and neither must the counts
// that only evictions increment.
func (Rules) ValidateStatusChange(_ context.Context, task, old *batch.Task) field.ErrorList {
	var errs field.ErrorList
	path := field.NewPath("status")
	if Finished(old) && task.Status.Phase != old.Status.Phase {
		errs = append(errs, field.Invalid(path.Child("phase"), task.Status.Phase,
			fmt.Sprintf("must stay %s: it is final", old.Status.Phase)))
	}
	if task.Status.Disruptions != old.Status.Disruptions {
		errs = append(errs, field.Forbidden(path.Child("disruptions"), "is counted only through the eviction subresource"))
	}
	if task.Status.WorkerCrashes != old.Status.WorkerCrashes {
		errs = append(errs, field.Forbidden(path.Child("workerCrashes"), "is counted only through the eviction subresource"))
	}
	if old.Status.StartTime != nil && !apiequality.Semantic.DeepEqual(task.Status.StartTime, old.Status.StartTime) {
		errs = append(errs, field.Forbidden(path.Child("startTime"), "must not change once it is set"))
	}
	return errs
}

// Warnings implements registry.Warner. It warns on create of values that look like secrets; env cannot change later.
func (Rules) Warnings(_ context.Context, task, old *batch.Task) []string {
	if old != nil {
		return nil
	}
	return SecretWarnings(task.Spec.Env, field.NewPath("spec", "env"))
}

// SecretWarnings returns warnings for variables of a task or of a template that look like secrets: all users that may
// read tasks can read them.
func SecretWarnings(env []batch.EnvVar, path *field.Path) []string {
	var warnings []string
	for i, variable := range env {
		name := strings.ToUpper(variable.Name)
		for _, word := range []string{"PASSWORD", "SECRET", "TOKEN"} {
			if strings.Contains(name, word) && variable.Value != "" {
				warnings = append(warnings, fmt.Sprintf(
					"%s: %s looks like a secret, and all users that may read tasks can read it: keep it in the worker's own environment or files",
					path.Index(i), variable.Name))
				break
			}
		}
	}
	return warnings
}

// DeletionGracePeriod implements registry.GracefulDeleter. As for Pods, the grace period of a bound task is the
// requested one, or terminationGracePeriodSeconds. A task without worker is deleted at once, unless it is bound
// meanwhile. A finished task is deleted at once.
func (Rules) DeletionGracePeriod(task *batch.Task, requested *int64) (seconds int64, ended bool) {
	switch {
	case Finished(task):
		return 0, true
	case task.Spec.WorkerName == "":
		return 0, false
	case requested != nil:
		return *requested, false
	case task.Spec.TerminationGracePeriodSeconds != nil:
		return *task.Spec.TerminationGracePeriodSeconds, false
	}
	return 0, false
}
