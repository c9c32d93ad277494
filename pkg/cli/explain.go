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
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/printers"
	"k8s.io/utils/ptr"

	"github.com/leat-dev/leat/apis/batch/indexes"
	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/cli/progress"
	"github.com/leat-dev/leat/pkg/cli/sanitize"
	"github.com/leat-dev/leat/pkg/cli/taskstate"
	"github.com/leat-dev/leat/pkg/scheduler/framework"
)

const (
	// explainedWorkers is the maximum number of workers that are listed.
	explainedWorkers = 10
	// explainedCauses is the maximum number of causes of failure that are listed.
	explainedCauses = 5
)

const explainLong = `Explain the state of a task or a set.

For a task that waits: the message of the scheduler, the state of its queue and of its pool, its place in the queue, and the reasons why
workers cannot run it. For a task that runs or has ended: its worker, its times and attempts, how it ended, and the end of its output. For
a set: its progress, its failures, the sets that it waits for, and why its tasks wait. --index, or SET/INDEX, selects one index of a
set.

Failures of a set are grouped by cause: the reason, the exit code, and the last line of output, ignoring numbers in it.

For the fields of the API, see kubectl explain tk and kubectl explain tks.`

func (f *factory) newExplainCommand() *cobra.Command {
	var index string
	command := &cobra.Command{
		Use: "explain NAME", GroupID: groupLook,
		Short: "Explain why a task waits or how it ended",
		Long:  explainLong,
		Example: `  leat explain @latest
  leat explain task/hello
  leat explain taskset/squares --index 7`,
		Args: exactlyOne("task or set"), ValidArgsFunction: f.completeNames(kindTask, kindSet),
		RunE: func(command *cobra.Command, args []string) error {
			ctx := command.Context()
			name := args[0]
			if command.Flags().Changed("index") {
				if _, err := strconv.ParseUint(index, 10, 31); err != nil {
					return usageErrorf("--index %q: write one index, like 7", index)
				}
				if strings.HasPrefix(name, "task/") {
					return usageErrorf("--index is for sets, and %s is one task", name)
				}
				name += "/" + index
			}
			s, err := f.connect()
			if err != nil {
				return err
			}
			found, err := s.find(ctx, name)
			if err != nil {
				return err
			}
			out := printers.GetNewTabWriter(f.streams.Out)
			return errors.Join(f.explain(ctx, s, found, out), out.Flush())
		},
	}
	command.Flags().StringVar(&index, "index", "", "Explain only this index of a set")
	return command
}

// explain writes the explanation of a task, a set or an index: titles, and indented lines of two columns with a tab
// between them.
func (f *factory) explain(ctx context.Context, s *session, found object, out io.Writer) error {
	e := &explainer{factory: f, s: s, now: time.Now(), out: out}
	switch {
	case found.index != nil:
		return e.index(ctx, found)
	case found.set != nil:
		return e.set(ctx, found.set)
	}
	return e.task(ctx, found.ref(), found.task)
}

// explainer prints the explanation of a task, a set or an index.
type explainer struct {
	*factory
	s   *session
	now time.Time
	out io.Writer
}

func (e *explainer) title(format string, args ...any) {
	fmt.Fprintln(e.out, sanitize.Line(fmt.Sprintf(format, args...)))
}

// line prints a line in two columns. about is the topic.
func (e *explainer) line(about, format string, args ...any) {
	fmt.Fprintf(e.out, "  %s\t%s\n", about, sanitize.Line(fmt.Sprintf(format, args...)))
}

func (e *explainer) since(t *metav1.Time) string {
	if t == nil {
		return "unknown"
	}
	return age(e.now.Sub(t.Time))
}

// task explains a task. r is its name, or that of one of its indexes that the task has failed at, runs, or waits for.
func (e *explainer) task(ctx context.Context, r ref, task *batch.Task) error {
	switch {
	case task.Status.Phase.Finished():
		e.ended(r, task)
	case task.DeletionTimestamp != nil:
		e.title("%s is being deleted, for %s. Its command has %s to end.", r, e.since(task.DeletionTimestamp),
			age(time.Duration(ptr.Deref(task.DeletionGracePeriodSeconds, 0))*time.Second))
		if task.Spec.WorkerName != "" {
			e.line("Worker", "%s", task.Spec.WorkerName)
		}
	case task.Spec.WorkerName != "":
		e.bound(ctx, r, task)
	default:
		if err := e.pending(ctx, r, task); err != nil {
			return err
		}
	}
	e.membership(r, task)
	if first := task.Annotations[batch.AnnotationRetryOf]; first != "" {
		e.line("Retry of", "task/%s", first)
	}
	return nil
}

// membership prints the set of a task and its indexes. It prints the name of the task unless that is r.
func (e *explainer) membership(r ref, task *batch.Task) {
	owner := batch.ControllingTaskSet(task)
	if !taskstate.IsChunk(task) {
		if owner != nil {
			e.line("Set", "taskset/%s, %s", owner.Name, describeNumbers(numbersIn(task, task.CompletionIndexes())))
		}
		return
	}
	if r.kind != kindTask {
		e.line("Task", "task/%s", task.Name)
	}
	all, held, completed := task.CompletionIndexes(), taskstate.HeldIndexes(task), taskstate.CompletedIndexes(task)
	e.line("Indexes", "%d, one after the other: %s", indexes.Count(all), e.numbers(task, all))
	if len(completed) > 0 {
		e.line("Succeeded", "%d: %s", indexes.Count(completed), e.numbers(task, completed))
	}
	if current, ok := taskstate.CurrentIndex(task); ok {
		later := indexes.Subtract(indexes.Subtract(held, completed), single(current))
		about, stale := "Next", ""
		switch {
		case task.Status.Phase == batch.TaskFailed:
			about = "Failed"
		case task.Status.Phase == batch.TaskRunning:
			about = "Running"
			if len(later) > 0 {
				stale = ", or one after it: the worker reports once a second"
			}
		}
		e.line(about, "index %s%s", e.numbers(task, single(current)), stale)
		if len(later) > 0 {
			e.line("Waiting", "%d: %s", indexes.Count(later), e.numbers(task, later))
		}
	}
	if released := indexes.Subtract(all, held); len(released) > 0 {
		e.line("Released", "%d, which other tasks of the set run: %s", indexes.Count(released), e.numbers(task, released))
	}
	if owner != nil {
		e.line("Set", "taskset/%s", owner.Name)
	}
}

// numbers formats the numbers of some indexes of a task.
func (e *explainer) numbers(task *batch.Task, of []indexes.Range) string {
	return sanitize.Truncate(indexes.Format(numbersIn(task, of)), 100)
}

func (e *explainer) ended(r ref, task *batch.Task) {
	when, begin, end := "", task.Status.StartTime, task.Status.CompletionTime
	if last := task.Status.State.Terminated; last != nil && r.kind != kindTask {
		begin, end = &last.StartedAt, &last.FinishedAt // r is one of several indexes
	}
	if end != nil {
		when = fmt.Sprintf(" %s ago", e.since(end))
		if begin != nil {
			when += ", after " + age(end.Sub(begin.Time))
		}
	}
	if failed, ok := taskstate.FailedIndex(task); ok && taskstate.IsChunk(task) && r.kind == kindTask {
		when += ", at index " + e.numbers(task, single(failed))
	}
	if task.Status.Phase == batch.TaskSucceeded {
		e.title("%s has succeeded%s.", r, when)
	} else {
		e.title("%s has failed%s: %s.", r, when, howEnded(task))
	}
	e.tries(task)
	if end := task.Status.State.Terminated; end != nil && end.Message != "" {
		about := "Last lines"
		if end.Reason == batch.TaskReasonWorkerCrashed {
			about = "Message" // the end of the output is unknown
		}
		e.output(about, end.Message)
	}
	if task.Status.Phase == batch.TaskFailed && batch.ControllingTaskSet(task) == nil {
		e.line("Next", "%s logs %s; %s retry %s", e.program, r, e.program, r)
	}
}

// tries prints the worker of a task, and the numbers of its attempts and disruptions.
func (e *explainer) tries(task *batch.Task) {
	if task.Spec.WorkerName != "" {
		e.line("Worker", "%s", task.Spec.WorkerName)
	}
	switch {
	case taskstate.IsChunk(task) && task.Status.Attempts > 1:
		e.line("Attempts", "%d of the same index, because of disruptions", task.Status.Attempts)
	case !taskstate.IsChunk(task) && task.Status.Attempts > 0:
		e.line("Attempts", "%d, of at most %d", task.Status.Attempts, ptr.Deref(task.Spec.BackoffLimit, 0)+1+task.Status.Disruptions)
	}
	if task.Status.Disruptions > 0 {
		why := ""
		if c := meta.FindStatusCondition(task.Status.Conditions, batch.DisruptionTarget); c != nil {
			why = fmt.Sprintf("; most recently: %s: %s", c.Reason, c.Message)
		}
		e.line("Disruptions", "evicted from its worker %s%s", times(int(task.Status.Disruptions)), why)
	}
	if n := task.Status.WorkerCrashes; n > 0 {
		e.line("Crashes", "its worker was lost or restarted %s while it ran, of at most %d; it now runs alone on a worker",
			times(int(n)), ptr.Deref(task.Spec.CrashLimit, 0))
	}
}

func times(n int) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}

// output prints the last lines of an output.
func (e *explainer) output(about, text string) {
	lines := sanitize.Lines(text)
	lines = lines[max(0, len(lines)-10):]
	for i, line := range lines {
		if i > 0 {
			about = ""
		}
		e.line(about, "| %s", line)
	}
}

func (e *explainer) bound(ctx context.Context, r ref, task *batch.Task) {
	state := task.Status.State
	switch {
	case state.Running != nil:
		e.title("%s runs, for %s.", r, e.since(&state.Running.StartedAt))
	case state.Waiting != nil:
		e.title("%s waits on its worker: %s: %s", r, state.Waiting.Reason, state.Waiting.Message)
	default:
		e.title("%s is bound to its worker, and has not started there yet.", r)
	}
	e.tries(task)
	if task.Status.Progress != "" {
		e.line("Progress", "%s", task.Status.Progress)
	}
	begin := task.Status.StartTime
	if taskstate.IsChunk(task) {
		begin = nil // the limit is that of each index
		if state.Running != nil {
			begin = &state.Running.StartedAt
		}
	}
	if limit := task.Spec.ActiveDeadlineSeconds; limit != nil && begin != nil {
		e.line("Time left", "%s of %s", age(begin.Add(time.Duration(*limit)*time.Second).Sub(e.now)), age(time.Duration(*limit)*time.Second))
	}
	worker, err := e.s.api.Workers(e.s.namespace).Get(ctx, task.Spec.WorkerName, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		e.line("Problem", "worker %s does not exist: the task will be evicted and scheduled again", task.Spec.WorkerName)
	case err == nil && !meta.IsStatusConditionTrue(worker.Status.Conditions, batch.WorkerReady):
		e.line("Problem", "the worker is not ready: unless it recovers, the task will be evicted and scheduled again")
	}
}

func (e *explainer) pending(ctx context.Context, r ref, task *batch.Task) error {
	e.title("%s waits for a worker, for %s.", r, e.since(&task.CreationTimestamp))
	if len(task.Spec.SchedulingGates) > 0 {
		var gates []string
		for _, gate := range task.Spec.SchedulingGates {
			gates = append(gates, gate.Name)
		}
		e.line("Gates", "the task waits until these are removed from spec.schedulingGates: %s", strings.Join(gates, ", "))
		return nil
	}
	if c := meta.FindStatusCondition(task.Status.Conditions, batch.TaskScheduled); c != nil && c.Status == metav1.ConditionFalse {
		e.line("Scheduler", "%s: %s", c.Reason, c.Message)
	}
	if task.Status.Disruptions > 0 || task.Status.Attempts > 0 {
		e.tries(task)
	}
	all, err := e.s.unfinished(ctx)
	if err != nil {
		return err
	}
	if err := e.queue(ctx, task, all); err != nil {
		return err
	}
	if task.Spec.Pool != "" {
		if err := e.pool(ctx, task, all); err != nil {
			return err
		}
	}
	return e.workers(ctx, task, all)
}

// queue prints the state of the queue of a waiting task, and the place of the task in it.
func (e *explainer) queue(ctx context.Context, task *batch.Task, all []batch.Task) error {
	name := task.Spec.QueueName
	used := loads(all, byQueue)[name]
	queue, err := e.s.api.TaskQueues(e.s.namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		queue, err = &batch.TaskQueue{}, nil
	}
	if err != nil {
		return err
	}
	e.line("Queue", "%s: %s", name, queueState(queue, used, task))
	before, total := placeOf(task, all)
	others := map[string]bool{}
	for i := range all {
		if framework.IsEligible(&all[i]) && all[i].Spec.QueueName != name {
			others[all[i].Spec.QueueName] = true
		}
	}
	place := fmt.Sprintf("%d of %d in its queue, by priority, then age", before+1, total)
	if len(others) > 0 {
		place += fmt.Sprintf("; %s with waiting tasks in the namespace, which take turns by weight", pluralQueues(len(others)))
	}
	e.line("Place", "%s", place)
	return nil
}

func pluralQueues(n int) string {
	if n == 1 {
		return "1 other queue"
	}
	return fmt.Sprintf("%d other queues", n)
}

// queueState returns a description of what stops or limits the tasks of a queue.
func queueState(queue *batch.TaskQueue, used load, task *batch.Task) string {
	var parts []string
	switch ptr.Deref(queue.Spec.StopPolicy, batch.StopPolicyNone) {
	case batch.StopPolicyHold:
		parts = append(parts, "held: it starts no tasks until spec.stopPolicy is None")
	case batch.StopPolicyHoldAndDrain:
		parts = append(parts, "drained: it evicts its tasks and starts none until spec.stopPolicy is None")
	}
	if limit := queue.Spec.MaxRunningTasks; limit != nil {
		text := fmt.Sprintf("%d of at most %d tasks run", used.tasks, *limit)
		if used.tasks >= int(*limit) {
			text = fmt.Sprintf("full: %d of at most %d tasks run", used.tasks, *limit)
		}
		parts = append(parts, text)
	} else {
		parts = append(parts, fmt.Sprintf("%s run", plural(used.tasks, "task")))
	}
	for _, name := range sortedKeys(queue.Spec.Resources.Limits) {
		limit, taken, wanted := queue.Spec.Resources.Limits[name], used.requests[name], task.Spec.Resources.Requests[name]
		text := fmt.Sprintf("%s of %s %s in use", taken.String(), limit.String(), name)
		sum := taken.DeepCopy()
		sum.Add(wanted)
		if sum.Cmp(limit) > 0 {
			text = fmt.Sprintf("no room for %s more %s: %s", wanted.String(), name, text)
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, "; ")
}

// workers prints how many workers could run the task now, and the reasons why the others could not.
func (e *explainer) workers(ctx context.Context, task *batch.Task, all []batch.Task) error {
	list, err := e.s.api.Workers(e.s.namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	if task.Spec.Pool != "" {
		// The others cannot run it, and the reason is always the same.
		list.Items = slices.DeleteFunc(list.Items, func(w batch.Worker) bool { return w.Labels[batch.LabelPool] != task.Spec.Pool })
		if len(list.Items) == 0 {
			e.line("Workers", "pool %s has none", task.Spec.Pool)
			return nil
		}
	}
	if len(list.Items) == 0 {
		e.line("Workers", "namespace %s has none: start one with leat-worker, or create the task in a namespace with workers", e.s.namespace)
		return nil
	}
	able := 0
	infos := workerInfos(list.Items, all)
	reasons := make([][]string, len(infos))
	for i := range infos {
		if reasons[i] = unfitReasons(task, &infos[i]); len(reasons[i]) == 0 {
			able++
		}
	}
	e.line("Workers", "%d of %d could take it now", able, len(list.Items))
	shown := 0
	for i := range list.Items {
		if len(reasons[i]) == 0 {
			continue
		}
		if shown++; shown > explainedWorkers {
			e.line("", "… and others")
			break
		}
		e.line("", "%s %s", list.Items[i].Name, strings.Join(reasons[i], "; "))
	}
	return nil
}

// unfinished returns the tasks of the namespace that wait or run.
func (s *session) unfinished(ctx context.Context) ([]batch.Task, error) {
	list, err := s.api.Tasks(s.namespace).List(ctx, metav1.ListOptions{FieldSelector: taskstate.Unfinished})
	if err != nil {
		return nil, err
	}
	return list.Items, nil
}

func (e *explainer) set(ctx context.Context, set *batch.TaskSet) error {
	r := ref{kindSet, set.Name}
	snapshot := taskstate.Progress(set)
	final := taskstate.Finished(set)
	switch {
	case final != nil:
		e.title("%s %s", r, describeEnd(final))
	case set.Spec.Cancelled:
		e.title("%s is cancelled. Its commands are being ended.", r)
	case set.DeletionTimestamp != nil:
		e.title("%s is being deleted, for %s. It remains until its commands have ended.", r, e.since(set.DeletionTimestamp))
	case ptr.Deref(set.Spec.Suspend, false):
		e.title("%s is suspended: it starts nothing until %s resume %s.", r, e.program, r)
	case len(taskstate.WaitsFor(set)) > 0:
		e.title("%s waits for other sets, for %s.", r, e.since(&set.CreationTimestamp))
	case snapshot.Running == 0 && set.Status.StartTime == nil:
		e.title("%s has not been started by its controller: is leat-controller-manager running?", r)
	default:
		e.title("%s runs, for %s.", r, e.since(set.Status.StartTime))
	}
	total := ""
	if snapshot.Total > 0 {
		total = fmt.Sprintf(" of %d", snapshot.Total)
	}
	if final != nil {
		e.line("Indexes", "%d%s succeeded, %d failed, %d not finished", snapshot.Done, total, snapshot.Failed, snapshot.Running+snapshot.Pending)
	} else {
		e.line("Indexes", "%d%s succeeded, %d failed, %d running, %d pending", snapshot.Done, total, snapshot.Failed, snapshot.Running, snapshot.Pending)
	}
	if rate := averageRate(set, e.now); rate > 0 && final == nil {
		e.line("Rate", "%s on average", progress.FormatRate(rate))
	}
	e.line("At a time", "at most %d", ptr.Deref(set.Spec.Parallelism, 1))
	if failed, ok := taskstate.FailedIndexes(set); ok && len(failed) > 0 {
		e.line("Failed", "%s%s", describeIndexes(set, failed), itemsOf(set, failed))
	}
	if set.Status.IndexFailures != "" && final == nil {
		e.line("Will retry", "%s (index:failures)", sanitize.Truncate(set.Status.IndexFailures, 100))
	}
	if c := meta.FindStatusCondition(set.Status.Conditions, batch.TaskSetReplicaFailure); c != nil && c.Status == metav1.ConditionTrue && final == nil {
		e.line("Problem", "tasks cannot be created: %s", c.Message)
	}
	if final == nil {
		if err := e.dependencies(ctx, set); err != nil {
			return err
		}
	}
	if err := e.retries(ctx, set); err != nil {
		return err
	}
	return e.tasksOfSet(ctx, set, final)
}

// retries prints the total progress of a set and its retries, if it has any.
func (e *explainer) retries(ctx context.Context, set *batch.TaskSet) error {
	all, err := e.s.retriesOf(ctx, set)
	if err == nil && all != nil {
		e.line("Retries", "%s", all)
	}
	return err
}

// tasksOfSet prints the causes of failures, and explains the oldest task that waits.
func (e *explainer) tasksOfSet(ctx context.Context, set *batch.TaskSet, final *metav1.Condition) error {
	list, err := e.s.api.Tasks(e.s.namespace).List(ctx, metav1.ListOptions{LabelSelector: batch.LabelControllerUID + "=" + string(set.UID)})
	if err != nil {
		return err
	}
	slices.SortFunc(list.Items, func(a, b batch.Task) int { return a.CreationTimestamp.Compare(b.CreationTimestamp.Time) })
	waiting, unfinished, chunks, longest := 0, 0, 0, 0
	var first *batch.Task
	for i := range list.Items {
		task := &list.Items[i]
		if framework.IsEligible(task) {
			if waiting++; first == nil {
				first = task
			}
		}
		if task.Status.Phase.Finished() {
			continue
		}
		unfinished++
		if taskstate.IsChunk(task) {
			chunks++
			longest = max(longest, indexes.Count(taskstate.HeldIndexes(task)))
		}
	}
	if chunks > 0 && final == nil {
		e.line("Tasks", "%d of %d run several indexes, one after the other: up to %d", chunks, unfinished, longest)
	}
	causes, kept := causesOf(list.Items), 0
	for _, c := range causes {
		kept += c.tasks
	}
	for i, c := range causes {
		if i == explainedCauses {
			e.line("", "… and %s", plural(len(causes)-i, "other cause"))
			break
		}
		fmt.Fprintln(e.out)
		e.line(fmt.Sprintf("%d failed", c.tasks), "%s (%s)", c.how, describeIndexes(set, c.indexes))
		if end := c.example.Status.State.Terminated; end != nil && end.Message != "" {
			about := ""
			if c.tasks > 1 {
				about = "Like index " + formatNumbers(set, []indexes.Range{{First: c.index, Last: c.index}})
			}
			e.output(about, end.Message)
		}
	}
	if failed := int(set.Status.Failed); kept > 0 && failed > kept {
		e.line("", "(causes of the %d failed tasks that are kept, of %d)", kept, failed)
	}
	if final != nil && (len(causes) > 0 || final.Type == batch.TaskSetFailed) {
		e.line("Next", "%s logs taskset/%s; %s retry taskset/%s", e.program, set.Name, e.program, set.Name)
	}
	if first == nil || final != nil {
		return nil
	}
	e.title("")
	e.title("%s for a worker. The oldest one:", pluralWait(waiting))
	return e.pending(ctx, ref{kindTask, first.Name}, first)
}

// index explains an index of a set, from its task if that exists, otherwise from the status of the set.
func (e *explainer) index(ctx context.Context, found object) error {
	set, index := found.set, *found.index
	tasks, err := e.s.tasksOfIndex(ctx, found)
	if err != nil {
		return err
	}
	if len(tasks) > 0 && taskstate.IsChunk(&tasks[0]) {
		return e.indexOfChunk(ctx, found, &tasks[0])
	}
	if len(tasks) > 0 {
		return e.task(ctx, ref{kindTask, tasks[0].Name}, &tasks[0])
	}
	waits, err := e.indexWaits(ctx, set, index)
	if err != nil {
		return err
	}
	r, final := found.ref(), taskstate.Finished(set)
	switch {
	case isIn(set.Status.CompletedIndexes, index):
		e.title("%s has succeeded. Its task was deleted after it was counted.", r)
	case isIn(set.Spec.CancelledIndexes, index):
		e.title("%s was cancelled.", r)
	case isIn(ptr.Deref(set.Status.FailedIndexes, ""), index) && slices.ContainsFunc(set.Spec.DependsOn, func(d batch.TaskSetDependency) bool { return d.PerIndex }):
		e.title("%s has failed. It has not succeeded in a set that this set follows, or its task was deleted.", r)
	case isIn(ptr.Deref(set.Status.FailedIndexes, ""), index):
		e.title("%s has failed. Its task was deleted: only the tasks of the last 100 failures of a set are kept.", r)
	case final != nil:
		e.title("%s has no task, and has not succeeded: the set has ended: %s: %s", r, final.Reason, final.Message)
	case ptr.Deref(set.Spec.Suspend, false):
		e.title("%s has no task: the set is suspended.", r)
	case len(taskstate.WaitsFor(set)) > 0:
		e.title("%s has no task: the set waits for %s.", r, strings.Join(taskstate.WaitsFor(set), ", "))
	case waits != "":
		e.title("%s has no task: it waits until the same index of taskset/%s has succeeded.", r, waits)
	default:
		e.title("%s has no task yet: at most %d run at a time, the lowest indexes first.", r, ptr.Deref(set.Spec.Parallelism, 1))
	}
	if n := failuresOf(set, index); n > 0 && final == nil {
		e.line("Failures", "%d; the index is retried after a delay that doubles with each failure", n)
	}
	if index < len(set.Spec.Items) {
		e.line("Item", "%q", sanitize.Truncate(set.Spec.Items[index], 100))
	}
	e.line("Set", "taskset/%s", set.Name)
	if stateOf(set, index) == indexSucceeded || stateOf(set, index) == indexFailed {
		e.line("Next", "%s logs %s; %s history %s", e.program, r, e.program, r)
	}
	return nil
}

// indexOfChunk explains an index of a set from a task that runs several indexes.
func (e *explainer) indexOfChunk(ctx context.Context, found object, task *batch.Task) error {
	r, index := found.ref(), *found.index
	current, hasCurrent := taskstate.CurrentIndex(task)
	switch {
	case indexes.Contains(taskstate.CompletedIndexes(task), index):
		e.title("%s has succeeded.", r)
	case hasCurrent && index != current && task.Spec.WorkerName != "":
		before := indexes.Count(indexes.Intersect(taskstate.HeldIndexes(task), []indexes.Range{{First: current, Last: index - 1}}))
		e.title("%s waits in a task that runs several indexes, one after the other: %s.", r, pluralBefore(before))
	default:
		return e.task(ctx, r, task)
	}
	if task.Spec.WorkerName != "" {
		e.line("Worker", "%s", task.Spec.WorkerName)
	}
	e.membership(r, task)
	return nil
}

// pluralBefore describes how many indexes are before another. The status is up to a second old.
func pluralBefore(n int) string {
	if n == 1 {
		return "at most 1 is before it"
	}
	return fmt.Sprintf("at most %d are before it", n)
}

// newestFirst orders tasks of an index. Creation times are whole seconds. Tasks of the same second are ordered by the
// number of failures before them.
func newestFirst(a, b batch.Task) int {
	return cmp.Or(b.CreationTimestamp.Compare(a.CreationTimestamp.Time), failuresBefore(&b)-failuresBefore(&a))
}

func failuresBefore(task *batch.Task) int {
	n, _ := strconv.Atoi(task.Annotations[batch.AnnotationIndexFailureCount])
	return n
}

// failuresOf returns the number of failures of an index that will be retried.
func failuresOf(set *batch.TaskSet, index int) int {
	counts, _ := indexes.ParseCounts(set.Status.IndexFailures, maxCompletions)
	for _, c := range counts {
		if c.Index == index {
			return c.Count
		}
	}
	return 0
}

func pluralWait(n int) string {
	if n == 1 {
		return "1 of its tasks waits"
	}
	return fmt.Sprintf("%d of its tasks wait", n)
}

// averageRate returns the number of successes per second since the start of the set.
func averageRate(set *batch.TaskSet, now time.Time) float64 {
	if set.Status.StartTime == nil {
		return 0
	}
	if elapsed := now.Sub(set.Status.StartTime.Time).Seconds(); elapsed > 0 {
		return float64(set.Status.Succeeded) / elapsed
	}
	return 0
}
