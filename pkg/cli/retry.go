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

package cli

import (
	"context"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"

	"github.com/leat-dev/leat/apis/batch/indexes"
	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

const retryLong = `Run again what has failed.

A task or a set that has ended stays as it is, so this makes a new one, named <name>-retry-<n>. The new set has one task for
each index of the old one that has not succeeded. The commands find their old index in $TASK_INDEX, or their old item in
$TASK_ITEM, and do not notice the difference; in a set with items, $TASK_INDEX counts anew.`

func (f *factory) newRetryCommand() *cobra.Command {
	follow := followOptions{factory: f}
	var failed bool
	command := &cobra.Command{
		Use: "retry --failed NAME", GroupID: groupRun,
		Short: "Run again what has failed",
		Long:  retryLong,
		Example: `  leat retry --failed @latest --wait
  leat retry --failed taskset/squares`,
		Args: exactlyOne("task or set"), ValidArgsFunction: f.completeNames(kindTask, kindSet),
		RunE: func(command *cobra.Command, args []string) error {
			if !failed {
				return usageErrorf("what is to be run again? Write: %s --failed %s", command.CommandPath(), args[0])
			}
			return follow.retry(command.Context(), args[0])
		},
	}
	command.Flags().BoolVar(&failed, "failed", false, "Run again what has not succeeded")
	follow.addFlags(command.Flags())
	command.Flags().BoolVar(&follow.wait, "wait", false, "Show progress until all have ended, and exit with what has come of it")
	return command
}

func (o *followOptions) retry(ctx context.Context, name string) error {
	s, err := o.connect()
	if err != nil {
		return err
	}
	found, err := s.find(ctx, name)
	if err != nil {
		return err
	}
	var again runtime.Object
	if found.set != nil {
		again, err = o.againSet(found.set)
	} else {
		again, err = o.againTask(found.task)
	}
	if err != nil {
		return err
	}
	if again == nil {
		fmt.Fprintf(o.streams.Out, "%s: nothing has failed\n", found.ref().full())
		return nil
	}
	created, err := s.createNumbered(ctx, again, found.ref().name)
	if err != nil {
		return err
	}
	what := ref{kindTask, created.(metav1.Object).GetName()}
	if found.set != nil {
		what.kind = kindSet
	}
	return o.made(ctx, s, created, func(to io.Writer) error {
		count := ""
		if set, ok := created.(*batch.TaskSet); ok {
			count = fmt.Sprintf(" (%s of %d)", plural(int(*set.Spec.Completions), "index"), *found.set.Spec.Completions)
		}
		_, err := fmt.Fprintf(to, "%s created%s\n", what.full(), count)
		return err
	}, true)
}

var retryName = regexp.MustCompile(`-retry-[0-9]+$`)

// createNumbered creates the object under the first name <name>-retry-<n> that is free.
func (s *session) createNumbered(ctx context.Context, object runtime.Object, name string) (runtime.Object, error) {
	base := retryName.ReplaceAllString(name, "")
	for n := 1; ; n++ {
		suffix := "-retry-" + strconv.Itoa(n)
		// Names of sets have at most 63 letters.
		object.(metav1.Object).SetName(base[:min(len(base), 63-len(suffix))] + suffix)
		created, err := s.create(ctx, object, metav1.CreateOptions{})
		if !apierrors.IsAlreadyExists(err) {
			return created, err
		}
	}
}

// copyMeta keeps the labels and annotations that people have set.
func copyMeta(meta metav1.ObjectMeta) metav1.ObjectMeta {
	meta = *meta.DeepCopy()
	return metav1.ObjectMeta{Labels: withoutOurs(meta.Labels), Annotations: withoutOurs(meta.Annotations)}
}

func withoutOurs(m map[string]string) map[string]string {
	for _, name := range []string{
		batch.LabelTaskSetName, batch.LabelControllerUID, batch.LabelCompletionIndex, batch.AnnotationIndexFailureCount,
		"kubectl.kubernetes.io/last-applied-configuration",
	} {
		delete(m, name)
	}
	return m
}

// againTask makes the task anew, nil if it has succeeded.
func (o *followOptions) againTask(task *batch.Task) (runtime.Object, error) {
	switch {
	case task.Status.Phase == batch.TaskSucceeded:
		return nil, nil
	case !finishedTask(task):
		return nil, fmt.Errorf("task/%s has not ended yet (%s): wait for it with %s wait %s, or cancel it", task.Name, task.Status.Phase, o.program, task.Name)
	}
	if owner := metav1.GetControllerOf(task); owner != nil {
		return nil, fmt.Errorf("task/%s is one of taskset/%s, which counts it: %s retry --failed taskset/%s runs all that have failed", task.Name, owner.Name, o.program, owner.Name)
	}
	again := &batch.Task{ObjectMeta: copyMeta(task.ObjectMeta), Spec: *task.Spec.DeepCopy()}
	again.Spec.WorkerName = ""
	return again, nil
}

// againSet makes a set of the indexes that have not succeeded, nil if there are none.
func (o *followOptions) againSet(set *batch.TaskSet) (runtime.Object, error) {
	final := finishedSet(set)
	if final == nil {
		return nil, fmt.Errorf("taskset/%s has not ended yet: wait for it with %s wait taskset/%s, or cancel it", set.Name, o.program, set.Name)
	}
	if ptr.Deref(set.Spec.CompletionMode, batch.NonIndexedCompletion) != batch.IndexedCompletion {
		return nil, fmt.Errorf("taskset/%s has no indexes, so nothing says which of its tasks to run again: make it anew with kubectl", set.Name)
	}
	left, err := leftOf(set, final)
	if err != nil {
		return nil, err
	}
	switch count := indexes.Count(left); {
	case count == 0:
		return nil, nil
	case count > maxItems:
		return nil, fmt.Errorf("taskset/%s: %d indexes have not succeeded, and a set of chosen indexes has at most %d: run the array again in parts", set.Name, count, maxItems)
	}

	again := &batch.TaskSet{ObjectMeta: copyMeta(set.ObjectMeta), Spec: *set.Spec.DeepCopy()}
	spec := &again.Spec
	spec.Selector, spec.Suspend = nil, nil
	spec.Template.ObjectMeta = copyMeta(set.Spec.Template.ObjectMeta)
	// A rule about indexes is one about others now.
	spec.SuccessPolicy = nil
	spec.Items = nil
	for _, r := range left {
		for index := r.First; index <= r.Last; index++ {
			if len(set.Spec.Items) > 0 {
				spec.Items = append(spec.Items, set.Spec.Items[index])
			} else {
				spec.Items = append(spec.Items, strconv.Itoa(index))
			}
		}
	}
	if len(set.Spec.Items) == 0 {
		// The index of a task is what it was. What sets these variables by itself is left alone.
		env := &spec.Template.Spec.Env
		for _, name := range []string{"TASK_INDEX", "JOB_COMPLETION_INDEX"} {
			if !slices.ContainsFunc(*env, func(v batch.EnvVar) bool { return v.Name == name }) {
				*env = slices.Insert(*env, 0, batch.EnvVar{Name: name, Value: itemReference})
			}
		}
	}
	count := int32(len(spec.Items))
	spec.Completions = &count
	spec.Parallelism = ptr.To(min(ptr.Deref(spec.Parallelism, 1), count))
	if spec.MaxFailedIndexes != nil {
		spec.MaxFailedIndexes = ptr.To(min(*spec.MaxFailedIndexes, count))
	}
	return again, nil
}

// leftOf gives what is to be done again: what has failed, and of a set that has failed also what was not done for that.
func leftOf(set *batch.TaskSet, final *metav1.Condition) ([]indexes.Range, error) {
	completions := int(ptr.Deref(set.Spec.Completions, 0))
	if final.Type == batch.TaskSetComplete {
		return indexes.Parse(ptr.Deref(set.Status.FailedIndexes, ""), completions)
	}
	completed, err := indexes.Parse(set.Status.CompletedIndexes, completions)
	if err != nil {
		return nil, err
	}
	var left []indexes.Range
	next := 0
	for _, r := range append(completed, indexes.Range{First: completions, Last: completions}) {
		if next < r.First {
			left = append(left, indexes.Range{First: next, Last: r.First - 1})
		}
		next = r.Last + 1
	}
	return left, nil
}
