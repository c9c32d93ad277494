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

package convert

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// helmHook is the annotation of Jobs for which Helm waits.
const helmHook = "helm.sh/hook"

// taskSet returns the set with the command of the Job.
func (c *jobConverter) taskSet() *batch.TaskSet {
	spec, meta := c.spec, c.meta
	set := &batch.TaskSet{
		TypeMeta: metav1.TypeMeta{APIVersion: batch.SchemeGroupVersion.String(), Kind: "TaskSet"},
		ObjectMeta: metav1.ObjectMeta{
			Name: strings.ReplaceAll(meta.Name, ".", "-"), Namespace: c.options.Namespace,
			Labels: without(meta.Labels, generatedLabels), Annotations: without(meta.Annotations, generatedAnnotations),
		},
		Spec: batch.TaskSetSpec{
			Parallelism: spec.Parallelism, Completions: spec.Completions,
			BackoffLimit: spec.BackoffLimit, BackoffLimitPerIndex: spec.BackoffLimitPerIndex, MaxFailedIndexes: spec.MaxFailedIndexes,
			TaskFailurePolicy: c.failurePolicy(), SuccessPolicy: successPolicy(spec.SuccessPolicy),
			ActiveDeadlineSeconds: spec.ActiveDeadlineSeconds, TTLSecondsAfterFinished: spec.TTLSecondsAfterFinished, Suspend: spec.Suspend,
			Template: batch.TaskTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: without(spec.Template.Labels, generatedLabels)},
				Spec:       c.taskSpec(),
			},
		},
	}
	if set.Name == "" {
		set.GenerateName = strings.ReplaceAll(meta.GenerateName, ".", "-")
	}
	if spec.CompletionMode != nil {
		set.Spec.CompletionMode = new(batch.CompletionMode(*spec.CompletionMode))
	}
	if _, ok := meta.Annotations[helmHook]; ok {
		c.notes = append(c.notes, Note{field.NewPath("metadata", "annotations").Key(helmHook).String(),
			"Helm waits for the end of a Job, and not of a set: let a Job run \"leat run --wait\""})
	}
	return set
}

// taskSpec returns the spec of the tasks: the command, and what ends it.
func (c *jobConverter) taskSpec() batch.TaskSpec {
	pod, path := &c.spec.Template.Spec, c.path.Child("template", "spec")
	task := batch.TaskSpec{Pool: c.options.Pool, ActiveDeadlineSeconds: pod.ActiveDeadlineSeconds}
	if pod.TerminationGracePeriodSeconds != nil {
		task.TerminationGracePeriodSeconds = new(min(max(*pod.TerminationGracePeriodSeconds, 0), math.MaxInt32))
	}
	if pod.RestartPolicy != corev1.RestartPolicyNever && pod.RestartPolicy != corev1.RestartPolicyOnFailure {
		c.errs = append(c.errs, field.NotSupported(path.Child("restartPolicy"), pod.RestartPolicy,
			[]corev1.RestartPolicy{corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever}))
	}
	if len(pod.Containers) != 1 {
		return task
	}
	container, path := &pod.Containers[0], path.Child("containers").Index(0)
	task.Command, task.Args = container.Command, container.Args
	switch entrypoint := c.options.Entrypoint; {
	case len(task.Command) > 0 && len(entrypoint) > 0:
		c.errs = append(c.errs, field.Invalid(path.Child("command"), task.Command[0], "it replaces the entrypoint of the image: leave out the entrypoint after --"))
	case len(entrypoint) > 0:
		for _, argument := range entrypoint {
			task.Command = append(task.Command, escape(argument)) // the kubelet expands no references in it
		}
	case len(task.Command) == 0:
		text := "a worker runs in the place of the entrypoint of the image: write the entrypoint of %s here, or after --, as its documentation or \"docker image inspect\" shows it"
		if len(task.Args) == 0 {
			text += ", with its arguments"
		}
		c.errs = append(c.errs, field.Required(path.Child("command"), fmt.Sprintf(text, cmp.Or(container.Image, "the image"))))
	}
	task.Env = c.environment(container, path)
	// A worker assigns devices to the tasks that request them.
	for name, quantity := range container.Resources.Limits {
		if isExtended(name) {
			if task.Resources.Requests == nil {
				task.Resources.Requests = batch.ResourceList{}
			}
			task.Resources.Requests[batch.ResourceName(name)] = quantity
		}
	}
	return task
}

// failurePolicy converts the podFailurePolicy of the Job.
func (c *jobConverter) failurePolicy() *batch.TaskFailurePolicy {
	policy := c.spec.PodFailurePolicy
	if policy == nil {
		return nil
	}
	actions := map[batchv1.PodFailurePolicyAction]batch.TaskFailurePolicyAction{
		batchv1.PodFailurePolicyActionFailJob:   batch.TaskFailurePolicyActionFailTaskSet,
		batchv1.PodFailurePolicyActionFailIndex: batch.TaskFailurePolicyActionFailIndex,
		batchv1.PodFailurePolicyActionIgnore:    batch.TaskFailurePolicyActionIgnore,
		batchv1.PodFailurePolicyActionCount:     batch.TaskFailurePolicyActionCount,
	}
	converted := &batch.TaskFailurePolicy{}
	for i, rule := range policy.Rules {
		path := c.path.Child("podFailurePolicy", "rules").Index(i)
		action, ok := actions[rule.Action]
		if !ok {
			c.errs = append(c.errs, field.NotSupported(path.Child("action"), rule.Action, slices.Sorted(maps.Keys(actions))))
		}
		to := batch.TaskFailurePolicyRule{Action: action}
		if codes := rule.OnExitCodes; codes != nil {
			c.checkContainerName(codes.ContainerName, path.Child("onExitCodes", "containerName"))
			to.OnExitCodes = &batch.TaskFailurePolicyOnExitCodesRequirement{
				Operator: batch.TaskFailurePolicyOnExitCodesOperator(codes.Operator), Values: codes.Values,
			}
		}
		for j, pattern := range rule.OnPodConditions {
			path := path.Child("onPodConditions").Index(j)
			status := cmp.Or(pattern.Status, corev1.ConditionTrue)
			switch {
			case pattern.Type != corev1.DisruptionTarget:
				c.errs = append(c.errs, field.NotSupported(path.Child("type"), pattern.Type, []corev1.PodConditionType{corev1.DisruptionTarget}))
			case status != corev1.ConditionTrue:
				c.errs = append(c.errs, field.NotSupported(path.Child("status"), status, []corev1.ConditionStatus{corev1.ConditionTrue}))
			case rule.Action != batchv1.PodFailurePolicyActionIgnore:
				c.errs = append(c.errs, field.Invalid(path.Child("type"), pattern.Type,
					fmt.Sprintf("with action %s: a task that loses its worker starts again and does not fail: remove the rule", rule.Action)))
			}
			to.OnTaskConditions = append(to.OnTaskConditions, batch.TaskFailurePolicyOnTaskConditionsPattern{
				Type: string(pattern.Type), Status: metav1.ConditionStatus(status),
			})
		}
		converted.Rules = append(converted.Rules, to)
	}
	return converted
}

// checkContainerName adds an error if a rule is not for the container with the command.
func (c *jobConverter) checkContainerName(name *string, path *field.Path) {
	containers := c.spec.Template.Spec.Containers
	if name != nil && len(containers) == 1 && *name != containers[0].Name {
		c.errs = append(c.errs, field.Invalid(path, *name, noPolicyByContainer+": remove the rule"))
	}
}

// successPolicy converts the successPolicy of a Job.
func successPolicy(policy *batchv1.SuccessPolicy) *batch.SuccessPolicy {
	if policy == nil {
		return nil
	}
	converted := &batch.SuccessPolicy{}
	for _, rule := range policy.Rules {
		converted.Rules = append(converted.Rules, batch.SuccessPolicyRule{SucceededIndexes: rule.SucceededIndexes, SucceededCount: rule.SucceededCount})
	}
	return converted
}
