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
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/leat-dev/leat/apis/batch/indexes"
	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/cli/taskstate"
)

const retryLong = `Run failed work again.

The finished task or set does not change. A new one named <name>-retry-<n> is created. The new set has one task for each index of the
old set that failed or never ran. --index selects some of these indexes, and --all adds the succeeded ones. Each command finds its old
index in $TASK_INDEX and $JOB_COMPLETION_INDEX, and its old item in $TASK_ITEM.

A retry waits for the sets that the old set still waited for, or for their latest retries: retry a failed set first, and then those
that wait for it.

You can retry a cancelled set. A retry of a set without indexes runs as many tasks as have not succeeded.

"leat explain" of any of these sets and "leat wait" of a retry show how much has succeeded over all retries.`

// retryOptions are the flags of "retry".
type retryOptions struct {
	follow                 followOptions
	failed, all            bool
	index                  string
	queue, cpu, memory     string
	priority, backoffLimit int32
	timeout                time.Duration
	changed                func(flag string) bool
	deadline               *int32 // seconds, of timeout
	requests               batch.ResourceList
	chosen                 []indexes.Range // the numbers of index
}

func (f *factory) newRetryCommand() *cobra.Command {
	o := &retryOptions{follow: followOptions{factory: f}}
	command := &cobra.Command{
		Use: "retry NAME", GroupID: groupRun,
		Short: "Run failed tasks again",
		Long:  retryLong,
		Example: `  leat retry @latest --wait
  leat retry taskset/squares --memory 8Gi --timeout 2h
  leat retry taskset/squares --index 3,5-7
  leat retry taskset/squares --all --queue night`,
		Args: exactlyOne("task or set"), ValidArgsFunction: f.completeNames(kindTask, kindSet),
		RunE: func(command *cobra.Command, args []string) error {
			return o.run(command.Context(), command.Flags(), args[0])
		},
	}
	command.Flags().AddFlagSet(f.retryFlags(o))
	_ = command.RegisterFlagCompletionFunc("queue", f.completeQueues)
	return command
}

func (f *factory) retryFlags(o *retryOptions) *pflag.FlagSet {
	flags := pflag.NewFlagSet("retry", pflag.ContinueOnError)
	flags.BoolVar(&o.failed, "failed", false, "Run again the indexes that failed or never ran (the default)")
	flags.BoolVar(&o.all, "all", false, "Run again all indexes, including succeeded ones")
	flags.StringVar(&o.index, "index", "", "Of a set: only these indexes, like 5 or 0-4,7")
	flags.StringVar(&o.cpu, "cpu", "", "New CPU request of each task, like 2 or 500m")
	flags.StringVar(&o.memory, "memory", "", "New memory request of each task, like 1Gi")
	flags.DurationVar(&o.timeout, "timeout", 0, "How long each task may run, like 90s or 2h")
	flags.Int32Var(&o.backoffLimit, "backoff-limit", 0, "How often a command that fails is run again")
	flags.Int32Var(&o.priority, "priority", 0, "Which tasks go first: those of higher priority")
	flags.StringVar(&o.queue, "queue", "", "Queue that the tasks wait in")
	o.follow.addFlags(flags)
	flags.BoolVar(&o.follow.wait, "wait", false, "Show progress until all tasks have ended, and exit with their outcome")
	return flags
}

// complete validates the flags and parses their values.
func (o *retryOptions) complete(flags *pflag.FlagSet) error {
	o.changed = flags.Changed
	switch {
	case o.failed && o.all:
		return usageErrorf("--failed and --all: write one of them")
	case o.changed("index") && o.index == "":
		return usageErrorf("--index is empty: write indexes like 5 or 0-4,7")
	case o.backoffLimit < 0:
		return usageErrorf("--backoff-limit %d: write 0 or more", o.backoffLimit)
	case o.changed("queue") && o.queue == "":
		return usageErrorf("--queue is empty: write the name of a queue, as listed by kubectl get tq")
	}
	o.requests = batch.ResourceList{}
	for name, amount := range map[batch.ResourceName]string{batch.ResourceCPU: o.cpu, batch.ResourceMemory: o.memory} {
		if !o.changed(string(name)) {
			continue
		}
		quantity, err := resource.ParseQuantity(amount)
		if err != nil || quantity.Sign() < 0 {
			return usageErrorf("--%s %q: write an amount, like --cpu 500m or --memory 1Gi", name, amount)
		}
		o.requests[name] = quantity
	}
	var err error
	if o.deadline, err = seconds(flags, "timeout", o.timeout, 1); err != nil {
		return err
	}
	o.chosen, err = parseNumbers(o.index)
	return err
}

func (o *retryOptions) run(ctx context.Context, flags *pflag.FlagSet, name string) error {
	if err := o.complete(flags); err != nil {
		return err
	}
	s, err := o.follow.connect()
	if err != nil {
		return err
	}
	found, err := s.find(ctx, name)
	if err != nil {
		return err
	}
	switch {
	case found.index != nil && o.index != "":
		return usageErrorf("%s is one index: write --index %s with taskset/%s", name, o.index, found.set.Name)
	case found.index != nil:
		number := taskstate.Numbers(found.set).Number(*found.index)
		o.chosen = []indexes.Range{{First: number, Last: number}}
	case found.task != nil && o.index != "":
		return usageErrorf("--index is for sets, and %s is one task", found.ref())
	}
	var retry runtime.Object
	if found.set != nil {
		retry, err = o.retrySet(found.set)
	} else {
		retry, err = o.retryTask(found.task)
	}
	if err != nil {
		return err
	}
	if retry == nil {
		fmt.Fprintf(o.follow.streams.Out, "%s: nothing has failed\n", found.ref().full())
		return nil
	}
	if set, ok := retry.(*batch.TaskSet); ok {
		if err := s.replaceDependencies(ctx, o.follow.program, found.set, set); err != nil {
			return err
		}
	}
	created, err := s.createNumbered(ctx, retry, retry.(metav1.Object).GetAnnotations()[batch.AnnotationRetryOf])
	if err != nil {
		return err
	}
	if set, ok := created.(*batch.TaskSet); ok {
		o.follow.warnOfMissing(ctx, s, set)
	}
	what := ref{kindTask, created.(metav1.Object).GetName()}
	if found.set != nil {
		what.kind = kindSet
	}
	return o.follow.reportCreated(ctx, s, created, func(to io.Writer) error {
		count := ""
		if set, ok := created.(*batch.TaskSet); ok && found.set.Spec.Completions != nil {
			unit := "task"
			if hasIndexes(set) {
				unit = "index"
			}
			count = fmt.Sprintf(" (%s of %d)", plural(int(*set.Spec.Completions), unit), *found.set.Spec.Completions)
		}
		_, err := fmt.Fprintf(to, "%s created%s\n", what.full(), count)
		return err
	}, true)
}

// replaceDependencies replaces what a retry waits for. What the retried set does not wait for any more is left out. The
// latest retry of a set replaces that set.
func (s *session) replaceDependencies(ctx context.Context, program string, set, retry *batch.TaskSet) error {
	var dependsOn []batch.TaskSetDependency
	for _, dependency := range set.Spec.DependsOn {
		seen := set.Status.Dependency(dependency.Name)
		other, err := s.api.TaskSets(s.namespace).Get(ctx, dependency.Name, metav1.GetOptions{})
		if err != nil && !objectNotFound(err) {
			return err
		}
		exists := err == nil
		if seen != nil {
			// A retry of a retry has the UID of the first set.
			first := seen.UID
			if exists && other.UID == seen.UID {
				_, first = retryOf(other.ObjectMeta)
			}
			latest, err := s.latestRetry(ctx, first)
			if err != nil {
				return err
			}
			switch {
			case latest != nil && latest.UID != seen.UID && (!seen.Met || dependency.PerIndex):
				dependency.Name, other, exists = latest.Name, latest, true
			case seen.Met:
				continue
			case exists && other.UID == seen.UID && taskstate.Finished(other) != nil:
				return fmt.Errorf("taskset/%s waits for taskset/%s, which has ended (%s): %s retry taskset/%s first, then %s retry taskset/%s waits for that retry",
					set.Name, other.Name, taskstate.StatusOfFinished(taskstate.Finished(other)), program, other.Name, program, set.Name)
			}
		}
		if exists && !ptr.Equal(other.Spec.Completions, retry.Spec.Completions) {
			dependency.PerIndex = false
		}
		dependsOn = append(dependsOn, dependency)
	}
	retry.Spec.DependsOn = dependsOn
	return nil
}

// latestRetry returns the latest retry of the set with that UID, nil if there is none.
func (s *session) latestRetry(ctx context.Context, uid types.UID) (*batch.TaskSet, error) {
	list, err := s.api.TaskSets(s.namespace).List(ctx, metav1.ListOptions{LabelSelector: batch.LabelRetryOf + "=" + string(uid)})
	if err != nil || len(list.Items) == 0 {
		return nil, err
	}
	latest := slices.MaxFunc(list.Items, func(a, b batch.TaskSet) int { return a.CreationTimestamp.Compare(b.CreationTimestamp.Time) })
	return &latest, nil
}

// createNumbered creates the object with the first name <name>-retry-<n> that is free.
func (s *session) createNumbered(ctx context.Context, object runtime.Object, name string) (runtime.Object, error) {
	for n := 1; ; n++ {
		object.(metav1.Object).SetName(retryName(name, n))
		created, err := s.create(ctx, object, metav1.CreateOptions{})
		if !apierrors.IsAlreadyExists(err) {
			return created, err
		}
	}
}

// retryName returns the name of the n-th retry. It truncates name: names of sets have at most 63 characters, and none
// has a dot before a hyphen.
func retryName(name string, n int) string {
	suffix := "-retry-" + strconv.Itoa(n)
	return strings.TrimRight(name[:min(len(name), 63-len(suffix))], "-.") + suffix
}

// copyMeta returns metadata for a retry: the labels and annotations of the user, and those that refer to the retried
// object.
func copyMeta(meta metav1.ObjectMeta) metav1.ObjectMeta {
	inherited := copyTemplateMeta(meta)
	if inherited.Labels == nil {
		inherited.Labels = map[string]string{}
	}
	if inherited.Annotations == nil {
		inherited.Annotations = map[string]string{}
	}
	name, uid := retryOf(meta)
	inherited.Annotations[batch.AnnotationRetryOf], inherited.Labels[batch.LabelRetryOf] = name, string(uid)
	return inherited
}

// retryOf returns the original of a retry, or the object itself if it is not a retry.
func retryOf(meta metav1.ObjectMeta) (name string, uid types.UID) {
	name, uid = meta.Annotations[batch.AnnotationRetryOf], types.UID(meta.Labels[batch.LabelRetryOf])
	if name == "" || uid == "" {
		return meta.Name, meta.UID
	}
	return name, uid
}

// copyTemplateMeta returns the labels and annotations of the user, without those of controllers and kubectl.
func copyTemplateMeta(meta metav1.ObjectMeta) metav1.ObjectMeta {
	meta = *meta.DeepCopy()
	return metav1.ObjectMeta{Labels: withoutReserved(meta.Labels), Annotations: withoutReserved(meta.Annotations)}
}

func withoutReserved(m map[string]string) map[string]string {
	for _, name := range []string{
		batch.LabelTaskSetName, batch.LabelControllerUID, batch.LabelCompletionIndex, batch.LabelFirstCompletionIndex,
		batch.AnnotationIndexFailureCount,
		"kubectl.kubernetes.io/last-applied-configuration",
	} {
		delete(m, name)
	}
	return m
}

// override applies the flags to the spec of a task.
func (o *retryOptions) override(spec *batch.TaskSpec) {
	if o.changed("priority") {
		spec.Priority = o.priority
	}
	if o.queue != "" {
		spec.QueueName = o.queue
	}
	if o.deadline != nil {
		spec.ActiveDeadlineSeconds = ptr.To(int64(*o.deadline))
	}
	if spec.Resources.Requests == nil && len(o.requests) > 0 {
		spec.Resources.Requests = batch.ResourceList{}
	}
	maps.Copy(spec.Resources.Requests, o.requests)
}

// retryTask returns the task to create, nil if there is nothing to retry.
func (o *retryOptions) retryTask(task *batch.Task) (runtime.Object, error) {
	program := o.follow.program
	switch {
	case !task.Status.Phase.Finished():
		return nil, fmt.Errorf("task/%s has not ended yet (%s): wait for it with %s wait %s, or cancel it", task.Name, task.Status.Phase, program, task.Name)
	case task.Status.Phase == batch.TaskSucceeded && !o.all:
		return nil, nil
	}
	if owner := batch.ControllingTaskSet(task); owner != nil {
		return nil, fmt.Errorf("task/%s is one of taskset/%s, which counts it: %s retry taskset/%s runs all that have failed, and --index chooses some",
			task.Name, owner.Name, program, owner.Name)
	}
	retry := &batch.Task{ObjectMeta: copyMeta(task.ObjectMeta), Spec: *task.Spec.DeepCopy()}
	retry.Spec.WorkerName = ""
	if !o.all {
		dropCompleted(&retry.Spec, int(task.Status.CompletedCount))
	}
	o.override(&retry.Spec)
	if o.changed("backoff-limit") {
		retry.Spec.BackoffLimit = &o.backoffLimit
	}
	return retry, nil
}

// dropCompleted removes the first indexes of a task that has several.
func dropCompleted(spec *batch.TaskSpec, completed int) {
	if completed == 0 {
		return
	}
	all, err := indexes.Parse(spec.Indexes, maxCompletions)
	if err != nil {
		return // the server refuses such a task
	}
	spec.Indexes = indexes.Format(indexes.Slice(all, completed, indexes.Count(all)))
	spec.Items = spec.Items[min(completed, len(spec.Items)):]
	if numbers := spec.IndexNumbers; numbers != nil {
		numbers.List = numbers.List[min(completed, len(numbers.List)):]
	}
}

// retrySet returns the set to create, nil if there is nothing to retry.
func (o *retryOptions) retrySet(set *batch.TaskSet) (runtime.Object, error) {
	final := taskstate.Finished(set)
	if final == nil {
		return nil, fmt.Errorf("taskset/%s has not ended yet: wait for it with %s wait taskset/%s, or cancel it", set.Name, o.follow.program, set.Name)
	}
	retry := &batch.TaskSet{ObjectMeta: copyMeta(set.ObjectMeta), Spec: *set.Spec.DeepCopy()}
	spec := &retry.Spec
	spec.Selector, spec.Suspend, spec.Cancelled, spec.CancelledIndexes = nil, nil, false, ""
	spec.Template.ObjectMeta = copyTemplateMeta(set.Spec.Template.ObjectMeta)
	o.override(&spec.Template.Spec)
	spec.QueueName = spec.Template.Spec.QueueName
	if o.changed("backoff-limit") {
		if spec.BackoffLimitPerIndex != nil {
			spec.BackoffLimitPerIndex = &o.backoffLimit
		} else {
			spec.BackoffLimit = &o.backoffLimit
		}
	}
	if !hasIndexes(set) {
		return o.retryByCount(retry, set, final)
	}

	remaining, err := o.remaining(set, final)
	if err != nil {
		return nil, err
	}
	count := indexes.Count(remaining)
	switch count {
	case 0:
		return nil, nil
	case completionsOf(set):
		return retry, nil
	}
	// The indexes of a success policy would refer to other work in the new set.
	spec.SuccessPolicy = nil
	if err := o.selectIndexes(retry, set, remaining); err != nil {
		return nil, err
	}
	resize(spec, int32(count))
	return retry, nil
}

// retryByCount reduces the copy of a set without indexes to the number of tasks that have not succeeded. It returns nil
// if there is nothing to retry.
func (o *retryOptions) retryByCount(retry, set *batch.TaskSet, final *metav1.Condition) (runtime.Object, error) {
	switch {
	case len(o.chosen) > 0:
		return nil, usageErrorf("--index: the tasks of taskset/%s have no indexes", set.Name)
	case o.all:
		return retry, nil
	case final.Type == batch.TaskSetComplete:
		return nil, nil
	}
	if set.Spec.Completions != nil {
		resize(&retry.Spec, *set.Spec.Completions-set.Status.Succeeded)
	}
	return retry, nil
}

// resize reduces the completions of a set, and the fields that they limit.
func resize(spec *batch.TaskSetSpec, completions int32) {
	spec.Completions = &completions
	spec.Parallelism = ptr.To(min(ptr.Deref(spec.Parallelism, 1), completions))
	if spec.MaxFailedIndexes != nil {
		spec.MaxFailedIndexes = ptr.To(min(*spec.MaxFailedIndexes, completions))
	}
}

// left returns the indexes of the set to run again.
func (o *retryOptions) remaining(set *batch.TaskSet, final *metav1.Condition) ([]indexes.Range, error) {
	remaining, err := unsuccessfulIndexes(set, final)
	if o.all {
		remaining = []indexes.Range{{First: 0, Last: completionsOf(set) - 1}}
	}
	if err != nil || len(o.chosen) == 0 {
		return remaining, err
	}
	chosen, err := chosenIndexes(set, o.chosen)
	if err != nil {
		return nil, err
	}
	if other := indexes.Subtract(chosen, remaining); len(other) > 0 {
		have, them := "have", "them"
		if indexes.Count(other) == 1 {
			have, them = "has", "it"
		}
		fmt.Fprintf(o.follow.streams.ErrOut, "Left out %s, which %s not failed: --all runs %s again nevertheless.\n", describeIndexes(set, other), have, them)
	}
	return indexes.Intersect(chosen, remaining), nil
}

// selectIndexes reduces the copy of a set to the chosen indexes. Each keeps its number and its item.
func (o *retryOptions) selectIndexes(retry, set *batch.TaskSet, chosen []indexes.Range) error {
	spec, known, count := &retry.Spec, taskstate.Numbers(set), indexes.Count(chosen)
	env := &spec.Template.Spec.Env
	if known != nil && spec.IndexNumbers == nil {
		// The set is a retry whose items are its numbers, because they did not fit into a list.
		spec.Items = nil
		*env = slices.DeleteFunc(*env, func(v batch.EnvVar) bool {
			return v.Value == taskstate.ItemReference && (v.Name == taskstate.NumberVariable || v.Name == positionVariable)
		})
	}
	numbers := known.Numbers(chosen)
	items := spec.Items
	ownNumber := slices.ContainsFunc(*env, func(v batch.EnvVar) bool { return v.Name == taskstate.NumberVariable })
	spec.Items, spec.IndexNumbers = nil, listNumbers(numbers)

	limit := maxItems
	if len(items) > 0 {
		limit = maxListedNumbers
	}
	if spec.IndexNumbers == nil && count > limit {
		first, others := partition(numbers, limit)
		return fmt.Errorf("taskset/%s: %d indexes are left to run again, and a set of chosen indexes has at most %d: run them in parts: "+
			"%s retry taskset/%s --index %s, then the same with --index %s", set.Name, count, limit, o.follow.program, set.Name, first, others)
	}
	switch {
	case len(items) > 0:
		for _, r := range chosen {
			spec.Items = append(spec.Items, items[r.First:r.Last+1]...)
		}
	case spec.IndexNumbers == nil || ownNumber:
		for _, r := range numbers {
			for number := r.First; number <= r.Last; number++ {
				spec.Items = append(spec.Items, strconv.Itoa(number))
			}
		}
	}
	switch {
	case spec.IndexNumbers == nil:
		setVariable(env, taskstate.NumberVariable, taskstate.ItemReference)
		setVariable(env, positionVariable, taskstate.ItemReference)
	case !ownNumber:
		setVariable(env, positionVariable, "$("+taskstate.NumberVariable+")")
	case len(items) == 0:
		setVariable(env, positionVariable, taskstate.ItemReference)
	}
	return nil
}

// numberAt returns the number at a position in the ranges.
func numberAt(numbers []indexes.Range, position int) int {
	for _, r := range numbers {
		if count := r.Last - r.First + 1; position >= count {
			position -= count
			continue
		}
		return r.First + position
	}
	return maxNumber - 1
}

// shownParts is the number of parts that an error names besides the first.
const shownParts = 9

// partition splits more than limit numbers into ranges with at most limit numbers each. It returns the first range and
// the others as text.
func partition(numbers []indexes.Range, limit int) (first, others string) {
	var parts []string
	count := indexes.Count(numbers)
	for start := 0; start < count && len(parts) <= shownParts; start += limit {
		part := indexes.Range{First: numberAt(numbers, start), Last: numberAt(numbers, min(start+limit, count)-1)}
		parts = append(parts, indexes.Format([]indexes.Range{part}))
	}
	if len(parts)*limit < count {
		parts = append(parts, "…")
	}
	return parts[0], strings.Join(parts[1:], ", ")
}

// setVariable inserts a variable before the others, unless there is one of that name.
func setVariable(env *[]batch.EnvVar, name, value string) {
	if !slices.ContainsFunc(*env, func(v batch.EnvVar) bool { return v.Name == name }) {
		*env = slices.Insert(*env, 0, batch.EnvVar{Name: name, Value: value})
	}
}

// listNumbers returns spec.indexNumbers for the numbers: a first number if they are contiguous, otherwise a list. It
// returns nil if there are too many for a list.
func listNumbers(numbers []indexes.Range) *batch.IndexNumbers {
	if len(numbers) == 1 {
		return &batch.IndexNumbers{First: ptr.To(int32(numbers[0].First))}
	}
	if indexes.Count(numbers) > maxListedNumbers {
		return nil
	}
	list := &batch.IndexNumbers{}
	for _, r := range numbers {
		for number := r.First; number <= r.Last; number++ {
			list.List = append(list.List, int32(number))
		}
	}
	return list
}

// unsuccessfulIndexes returns the failed indexes of a complete set, and all indexes without success of a failed set.
func unsuccessfulIndexes(set *batch.TaskSet, final *metav1.Condition) ([]indexes.Range, error) {
	if final.Type == batch.TaskSetComplete {
		return indexes.Parse(ptr.Deref(set.Status.FailedIndexes, ""), maxCompletions)
	}
	completed, err := completedOf(set)
	return indexes.Subtract([]indexes.Range{{First: 0, Last: completionsOf(set) - 1}}, completed), err
}
