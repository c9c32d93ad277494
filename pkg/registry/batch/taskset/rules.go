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

// Package taskset holds the domain rules of task sets.
package taskset

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/leat-dev/leat/apis/batch"
	"github.com/leat-dev/leat/apis/batch/indexes"
	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/registry"
	"github.com/leat-dev/leat/pkg/registry/batch/task"
)

// The bounds of batch/v1 Job, which keep the lists of indexes in the status under 200 kB.
const (
	// maxParallelism bounds parallelism in Indexed mode.
	maxParallelism = 100_000
	// largeCompletions is the maximum of completions of a set that is not large.
	largeCompletions = 100_000
	// maxLargeParallelism bounds parallelism and maxFailedIndexes of a large set.
	maxLargeParallelism = 10_000
)

// maxText bounds the items, and command, args and env of the template, together, in bytes. A set is one object, and
// etcd accepts 1.5 MiB.
const maxText = 1 << 20

// Rules are the domain rules of task sets.
type Rules struct{}

// PrepareForCreate implements registry.Preparer. It generates the selector and the labels of the template that it
// selects. It replaces those of an exported set.
func (Rules) PrepareForCreate(_ context.Context, set *batch.TaskSet) {
	setTemplateLabel(set, batch.LabelTaskSetName, set.Name)
	setTemplateLabel(set, batch.LabelControllerUID, string(set.UID))
	setReconciling(&set.Status, nil)
	if set.Spec.Selector == nil || isGenerated(set.Spec.Selector) {
		set.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{batch.LabelControllerUID: string(set.UID)}}
	}
}

// PrepareForUpdate implements registry.UpdatePreparer. It restores the generated selector and labels: the manifest of
// the set has none, or those of another set that it was exported from.
func (Rules) PrepareForUpdate(_ context.Context, set, old *batch.TaskSet) {
	for _, label := range []string{batch.LabelTaskSetName, batch.LabelControllerUID} {
		if value, ok := old.Spec.Template.Labels[label]; ok {
			setTemplateLabel(set, label, value)
		}
	}
	if set.Spec.Selector == nil || isGenerated(set.Spec.Selector) {
		set.Spec.Selector = old.Spec.Selector
	}
	// The queue of the template is a copy of the queue of the set.
	if set.Spec.QueueName != old.Spec.QueueName && set.Spec.Template.Spec.QueueName == old.Spec.Template.Spec.QueueName {
		set.Spec.Template.Spec.QueueName = set.Spec.QueueName
	}
}

func setTemplateLabel(set *batch.TaskSet, label, value string) {
	if set.Spec.Template.Labels == nil {
		set.Spec.Template.Labels = map[string]string{}
	}
	set.Spec.Template.Labels[label] = value
}

// isGenerated reports whether PrepareForCreate has generated the selector, for this set or another.
func isGenerated(selector *metav1.LabelSelector) bool {
	_, byUID := selector.MatchLabels[batch.LabelControllerUID]
	return byUID && len(selector.MatchLabels) == 1 && len(selector.MatchExpressions) == 0
}

// Validate implements registry.Validator.
func (Rules) Validate(_ context.Context, set *batch.TaskSet) field.ErrorList {
	spec, path := &set.Spec, field.NewPath("spec")
	indexed := ptr.Deref(spec.CompletionMode, batch.NonIndexedCompletion) == batch.IndexedCompletion

	var errs field.ErrorList
	if indexed {
		errs = append(errs, validateIndexed(spec, path)...)
	} else {
		const only = "may be set only when completionMode is Indexed"
		if spec.BackoffLimitPerIndex != nil {
			errs = append(errs, field.Forbidden(path.Child("backoffLimitPerIndex"), only))
		}
		if spec.SuccessPolicy != nil {
			errs = append(errs, field.Forbidden(path.Child("successPolicy"), only))
		}
		if len(spec.Items) > 0 {
			errs = append(errs, field.Forbidden(path.Child("items"), only))
		}
		if spec.IndexNumbers != nil {
			errs = append(errs, field.Forbidden(path.Child("indexNumbers"), only))
		}
	}
	if spec.BackoffLimitPerIndex == nil && spec.MaxFailedIndexes != nil {
		errs = append(errs, field.Forbidden(path.Child("maxFailedIndexes"), "may be set only when backoffLimitPerIndex is"))
	}
	errs = append(errs, validateDependsOn(set, path.Child("dependsOn"))...)
	errs = append(errs, validateCancelledIndexes(spec, path.Child("cancelledIndexes"))...)
	errs = append(errs, validateFailurePolicy(spec, path.Child("taskFailurePolicy", "rules"))...)
	errs = append(errs, validateTemplate(spec, path.Child("template"))...)
	if len(errs) == 0 {
		errs = validateTasks(set, path.Child("template"))
	}
	return errs
}

func validateIndexed(spec *batch.TaskSetSpec, path *field.Path) field.ErrorList {
	if spec.Completions == nil {
		return field.ErrorList{field.Required(path.Child("completions"), "must be set when completionMode is Indexed")}
	}
	var errs field.ErrorList
	completions, parallelism := *spec.Completions, ptr.Deref(spec.Parallelism, 1)
	atMost := func(name string, value, limit int32, condition string) {
		if value > limit {
			errs = append(errs, field.Invalid(path.Child(name), value, fmt.Sprintf("must be less than or equal to %d%s", limit, condition)))
		}
	}
	atMost("parallelism", parallelism, maxParallelism, "")
	if spec.MaxFailedIndexes != nil {
		atMost("maxFailedIndexes", *spec.MaxFailedIndexes, min(completions, maxParallelism), "")
	}
	if completions > largeCompletions {
		condition := fmt.Sprintf(" when completions are more than %d", largeCompletions)
		atMost("parallelism", parallelism, maxLargeParallelism, condition)
		if spec.MaxFailedIndexes != nil {
			atMost("maxFailedIndexes", *spec.MaxFailedIndexes, maxLargeParallelism, condition)
		} else if spec.BackoffLimitPerIndex != nil {
			errs = append(errs, field.Required(path.Child("maxFailedIndexes"), "must be set with backoffLimitPerIndex"+condition))
		}
	}
	if len(spec.Items) > 0 {
		errs = append(errs, validateItems(spec, path)...)
	}
	if spec.IndexNumbers != nil {
		errs = append(errs, validateIndexNumbers(spec, path)...)
	}
	if spec.SuccessPolicy != nil {
		for i, rule := range spec.SuccessPolicy.Rules {
			errs = append(errs, validateSuccessRule(rule, int(completions), path.Child("successPolicy", "rules").Index(i))...)
		}
	}
	return errs
}

func validateItems(spec *batch.TaskSetSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if int(*spec.Completions) != len(spec.Items) {
		errs = append(errs, field.Invalid(path.Child("completions"), *spec.Completions,
			fmt.Sprintf("must be unset or %d, the number of items", len(spec.Items))))
	}
	path = path.Child("items")
	size := task.TextSize(&spec.Template.Spec)
	for i, item := range spec.Items {
		size += len(item) + 1 // the overhead of an item in etcd is about a byte
		if strings.ContainsRune(item, 0) {
			errs = append(errs, field.Invalid(path.Index(i), item, "must not contain a NUL character"))
		}
	}
	if size > maxText {
		errs = append(errs, field.Invalid(path, field.OmitValueType{}, fmt.Sprintf("each as a line, with command, args and env of the template, "+
			"must be at most %d bytes together, and are %d: create several sets, or pass names of files that workers can read", maxText, size)))
	}
	return errs
}

func validateSuccessRule(rule batch.SuccessPolicyRule, completions int, path *field.Path) field.ErrorList {
	available := completions
	if rule.SucceededIndexes != nil {
		ranges, err := indexes.Parse(*rule.SucceededIndexes, completions)
		if err != nil {
			return field.ErrorList{field.Invalid(path.Child("succeededIndexes"), *rule.SucceededIndexes, err.Error())}
		}
		available = indexes.Count(ranges)
	}
	switch {
	case rule.SucceededIndexes == nil && rule.SucceededCount == nil:
		return field.ErrorList{field.Required(path, "succeededIndexes or succeededCount must be set")}
	case rule.SucceededCount != nil && int(*rule.SucceededCount) > available:
		return field.ErrorList{field.Invalid(path.Child("succeededCount"), *rule.SucceededCount,
			fmt.Sprintf("must be less than or equal to %d, the number of indexes it counts", available))}
	}
	return nil
}

var conditionStatuses = []metav1.ConditionStatus{metav1.ConditionTrue, metav1.ConditionFalse, metav1.ConditionUnknown}

func validateFailurePolicy(spec *batch.TaskSetSpec, path *field.Path) field.ErrorList {
	if spec.TaskFailurePolicy == nil {
		return nil
	}
	var errs field.ErrorList
	for i, rule := range spec.TaskFailurePolicy.Rules {
		if rule.Action == batch.TaskFailurePolicyActionFailIndex && spec.BackoffLimitPerIndex == nil {
			errs = append(errs, field.Invalid(path.Index(i).Child("action"), rule.Action, "may be used only when backoffLimitPerIndex is set"))
		}
		for j, pattern := range rule.OnTaskConditions {
			if !slices.Contains(conditionStatuses, pattern.Status) {
				errs = append(errs, field.NotSupported(path.Index(i).Child("onTaskConditions").Index(j).Child("status"), pattern.Status, conditionStatuses))
			}
		}
		if rule.OnExitCodes == nil {
			continue
		}
		values := path.Index(i).Child("onExitCodes", "values")
		if !slices.IsSorted(rule.OnExitCodes.Values) {
			errs = append(errs, field.Invalid(values, rule.OnExitCodes.Values, "must ascend"))
		}
		zero := slices.Index(rule.OnExitCodes.Values, 0)
		if rule.OnExitCodes.Operator == batch.TaskFailurePolicyOnExitCodesOpIn && zero >= 0 {
			errs = append(errs, field.Invalid(values.Index(zero), 0, "must not be 0, which is success, with operator In"))
		}
	}
	return errs
}

func validateTemplate(spec *batch.TaskSetSpec, path *field.Path) field.ErrorList {
	template := &spec.Template
	errs := metav1validation.ValidateLabels(template.Labels, path.Child("metadata", "labels"))
	errs = append(errs, apivalidation.ValidateAnnotations(template.Annotations, path.Child("metadata", "annotations"))...)
	if template.Spec.QueueName != spec.QueueName {
		errs = append(errs, field.Invalid(path.Child("spec", "queueName"), template.Spec.QueueName,
			fmt.Sprintf("must be unset or the queue of the set, %q", spec.QueueName)))
	}
	if template.Spec.WorkerName != "" {
		errs = append(errs, field.Forbidden(path.Child("spec", "workerName"), "must be unset: each task is bound after it is created"))
	}
	const generated = "must be unset: the controller sets it in the tasks of the set"
	if template.Spec.Indexes != "" {
		errs = append(errs, field.Forbidden(path.Child("spec", "indexes"), generated))
	}
	if len(template.Spec.Items) > 0 {
		errs = append(errs, field.Forbidden(path.Child("spec", "items"), generated+"; use items of the set"))
	}
	if template.Spec.IndexNumbers != nil {
		errs = append(errs, field.Forbidden(path.Child("spec", "indexNumbers"), generated+"; use indexNumbers of the set"))
	}
	return append(errs, task.ValidateSpec(&template.Spec, path.Child("spec"))...)
}

// ValidateChange implements registry.Validator. The selector must be generated, and the set must leave space for its
// status. Completions may change like those of an elastic Indexed Job, together with parallelism and to the same value.
// Priority and queue may change until a task has started. Cancelled may be set, but not unset, and cancelledIndexes may
// only grow.
func (Rules) ValidateChange(_ context.Context, set, old *batch.TaskSet) field.ErrorList {
	path := field.NewPath("spec")
	if old == nil {
		return append(validateSelector(set.Spec.Selector, path.Child("selector")), validateStatusSpace(set, path)...)
	}
	errs := validateTemplateChange(&set.Spec.Template, &old.Spec.Template, path.Child("template"))
	switch {
	case ptr.Equal(set.Spec.Completions, old.Spec.Completions):
	case set.Spec.IndexNumbers != nil:
		errs = append(errs, field.Invalid(path.Child("completions"), set.Spec.Completions, "may not change in a set with indexNumbers"))
	case dependsPerIndex(&set.Spec) > 0:
		errs = append(errs, field.Invalid(path.Child("completions"), set.Spec.Completions, "may not change in a set that depends on another per index"))
	case set.Spec.Completions == nil || !elastic(&set.Spec):
		errs = append(errs, field.Invalid(path.Child("completions"), set.Spec.Completions,
			"may change only when completionMode is Indexed, together with parallelism and to the same value"))
	}
	if started(&set.Status) {
		const why = "may change only while no task of the set runs, has succeeded or has failed; it must stay %v: make a new set"
		if before := old.Spec.QueueName; set.Spec.QueueName != before {
			errs = append(errs, field.Invalid(path.Child("queueName"), set.Spec.QueueName, fmt.Sprintf(why, strconv.Quote(before))))
		}
		if before, after := old.Spec.Template.Spec.Priority, set.Spec.Template.Spec.Priority; before != after {
			errs = append(errs, field.Invalid(path.Child("template", "spec", "priority"), after, fmt.Sprintf(why, before)))
		}
	}
	if old.Spec.Cancelled && !set.Spec.Cancelled {
		errs = append(errs, field.Invalid(path.Child("cancelled"), false,
			"must stay true: a cancelled set does not run again; make a new set of what is left, as \"leat retry\" does"))
	}
	errs = append(errs, validateCancelledIndexesChange(&set.Spec, &old.Spec, path.Child("cancelledIndexes"))...)
	// A set that was stored with too little space may change as long as its lists do not become longer.
	if tooLarge := validateStatusSpace(set, path); len(tooLarge) > 0 &&
		(maxListBytes(set) > maxListBytes(old) || len(validateStatusSpace(old, path)) == 0) {
		errs = append(errs, tooLarge...)
	}
	return errs
}

// started reports whether a task of the set is running, has succeeded or has failed.
func started(status *batch.TaskSetStatus) bool {
	return ptr.Deref(status.Ready, 0) > 0 || status.Succeeded > 0 || status.Failed > 0
}

// validateTemplateChange refuses changes of the template. ValidateChange handles priority and queue.
func validateTemplateChange(template, old *batch.TaskTemplateSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if !apiequality.Semantic.DeepEqual(template.ObjectMeta, old.ObjectMeta) {
		errs = append(errs, registry.Immutable(path.Child("metadata")))
	}
	after, before, names := reflect.ValueOf(template.Spec), reflect.ValueOf(old.Spec), reflect.TypeFor[v1alpha1.TaskSpec]()
	for i := range after.NumField() {
		name, _, _ := strings.Cut(names.Field(i).Tag.Get("json"), ",")
		if name == "priority" || name == "queueName" || apiequality.Semantic.DeepEqual(after.Field(i).Interface(), before.Field(i).Interface()) {
			continue
		}
		errs = append(errs, registry.Immutable(path.Child("spec", name)))
	}
	return errs
}

func validateSelector(selector *metav1.LabelSelector, path *field.Path) field.ErrorList {
	if selector == nil || isGenerated(selector) {
		return nil
	}
	return field.ErrorList{field.Invalid(path, metav1.FormatLabelSelector(selector), "must be unset: it is generated")}
}

// elastic reports whether completions equal parallelism in Indexed mode, in which case both may change together.
func elastic(spec *batch.TaskSetSpec) bool {
	return ptr.Deref(spec.CompletionMode, batch.NonIndexedCompletion) == batch.IndexedCompletion &&
		ptr.Equal(spec.Completions, spec.Parallelism)
}

// Warnings implements registry.Warner. It warns on create of values in the template that look like secrets; env cannot
// change later.
func (Rules) Warnings(_ context.Context, set, old *batch.TaskSet) []string {
	if old != nil {
		return nil
	}
	return task.SecretWarnings(set.Spec.Template.Spec.Env, field.NewPath("spec", "template", "spec", "env"))
}
