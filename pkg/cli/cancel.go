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
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/leat-dev/leat/apis/batch/indexes"
	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/cli/taskstate"
)

const cancelLong = `Cancel tasks and sets that have not finished.

The commands get SIGTERM, then SIGKILL when their grace period is over. --now kills them at once.

A cancelled set starts no more tasks and fails with reason Cancelled. It is kept: "leat explain" shows what succeeded and failed,
"leat retry" runs the rest, "leat delete" deletes it. A task that belongs to no set is deleted. If you cancel a task of a set, by
its name or as SET/INDEX, the set runs its indexes again. An index that shares a task with others cannot be cancelled alone like that.

--index cancels indexes of a set for good. They fail unless they have succeeded before, and the others still run. Indexes that share a
task with a cancelled one run again in another task.

To pause a set and resume it later, use suspend. Finished tasks and sets cannot be cancelled.`

func (f *factory) newCancelCommand() *cobra.Command {
	var now, wait bool
	var index string
	command := &cobra.Command{
		Use: "cancel NAME...", GroupID: groupChange,
		Short: "Cancel tasks and sets",
		Long:  cancelLong,
		Example: `  leat cancel @latest
  leat cancel --now task/hello taskset/squares
  leat cancel taskset/squares --index 3-7`,
		Args: atLeastOne("task or set"), ValidArgsFunction: f.completeNames(kindTask, kindSet),
		RunE: func(command *cobra.Command, args []string) error {
			ctx := command.Context()
			numbers, err := parseNumbers(index)
			switch {
			case err != nil:
				return err
			case command.Flags().Changed("index") && (len(numbers) == 0 || len(args) > 1 || now):
				return usageErrorf("--index %q: write indexes like 5 or 0-4,7, the name of one set, and not --now", index)
			}
			s, err := f.connect()
			if err != nil {
				return err
			}
			return f.each(args, func(name string) error {
				found, err := s.find(ctx, name)
				if err != nil {
					return err
				}
				if err := f.requireUnfinished(found); err != nil {
					return err
				}
				if len(numbers) > 0 {
					return f.cancelIndexes(ctx, s, found, numbers, wait)
				}
				if found, err = f.taskOfIndex(ctx, s, found); err != nil {
					return err
				}
				if err := s.cancel(ctx, found, now); err != nil {
					return err
				}
				if wait {
					if err := s.waitCancelled(ctx, &found); err != nil {
						return err
					}
				}
				f.reportCancelled(found)
				return nil
			})
		},
	}
	command.Flags().BoolVar(&now, "now", false, "Kill the commands at once")
	command.Flags().BoolVar(&wait, "wait", true, "Wait until the commands have ended")
	command.Flags().StringVar(&index, "index", "", "Of a set: cancel only these indexes for good, like 5 or 0-4,7")
	return command
}

// cancelAttempts is how often indexes are added to those that are cancelled, while others add some, too.
const cancelAttempts = 5

// cancelIndexes cancels indexes of a set for good, given by their numbers.
func (f *factory) cancelIndexes(ctx context.Context, s *session, found object, numbers []indexes.Range, wait bool) error {
	set := found.set
	switch {
	case set == nil || found.index != nil:
		return usageErrorf("--index is for whole sets, and %s is not one", found.ref())
	case set.Spec.BackoffLimitPerIndex == nil:
		return fmt.Errorf("taskset/%s has no spec.backoffLimitPerIndex, so its indexes cannot fail alone: %s cancel taskset/%s cancels all",
			set.Name, f.program, set.Name)
	}
	chosen, err := chosenIndexes(set, numbers)
	if err != nil {
		return err
	}
	for attempt := 1; ; attempt++ {
		before, err := indexes.Parse(set.Spec.CancelledIndexes, maxCompletions)
		if err != nil {
			return err
		}
		list := indexes.Format(indexes.Union(before, chosen))
		patch := fmt.Appendf(nil, `{"metadata":{"uid":%q},"spec":{"cancelledIndexes":%q}}`, set.UID, list)
		_, err = s.api.TaskSets(s.namespace).Patch(ctx, set.Name, types.MergePatchType, patch, metav1.PatchOptions{})
		if err == nil {
			break
		}
		if !apierrors.IsInvalid(err) || attempt == cancelAttempts {
			return err
		}
		// Someone else may have cancelled other indexes meanwhile: the list must still contain them.
		if set, err = s.api.TaskSets(s.namespace).Get(ctx, set.Name, metav1.GetOptions{}); err != nil {
			return err
		}
	}
	if wait {
		if err := s.waitIndexesCancelled(ctx, &set, chosen); err != nil {
			return err
		}
		completed, err := completedOf(set)
		if err != nil {
			return err
		}
		if early := indexes.Intersect(chosen, completed); len(early) > 0 {
			fmt.Fprintf(f.streams.ErrOut, "Before that, %s had succeeded.\n", describeIndexes(set, early))
			chosen = indexes.Subtract(chosen, early)
		}
	}
	if len(chosen) > 0 {
		fmt.Fprintf(f.streams.Out, "%s: %s cancelled\n", ref{kindSet, set.Name}.full(), describeIndexes(set, chosen))
	}
	return nil
}

// waitIndexesCancelled waits until the set has counted its cancelled indexes, and their commands have ended. It updates
// the set.
func (s *session) waitIndexesCancelled(ctx context.Context, set **batch.TaskSet, chosen []indexes.Range) error {
	err := s.watchSet(ctx, *set, func(current *batch.TaskSet) bool {
		*set = current
		completed, _ := completedOf(current)
		failed, _ := taskstate.FailedIndexes(current)
		return taskstate.Finished(current) != nil || len(indexes.Subtract(indexes.Subtract(chosen, completed), failed)) == 0
	})
	if err != nil {
		return wrapDeleted(ref{kindSet, (*set).Name}, err)
	}
	list, err := s.api.Tasks(s.namespace).List(ctx, metav1.ListOptions{
		LabelSelector: batch.LabelControllerUID + "=" + string((*set).UID), FieldSelector: taskstate.Unfinished,
	})
	if err != nil {
		return err
	}
	for i := range list.Items {
		task := &list.Items[i]
		if len(indexes.Intersect(indexes.Subtract(taskstate.HeldIndexes(task), taskstate.CompletedIndexes(task)), chosen)) > 0 {
			if err := s.waitGone(ctx, object{task: task}); err != nil {
				return err
			}
		}
	}
	return nil
}

const deleteLong = `Delete tasks and sets, with the record of what succeeded and failed.

Running commands get SIGTERM, then SIGKILL when their grace period is over. --now kills them at once. A set exists until the last of its
commands has ended. To stop a set and keep its record, use cancel.`

func (f *factory) newDeleteCommand() *cobra.Command {
	var now, wait bool
	command := &cobra.Command{
		Use: "delete NAME...", GroupID: groupChange,
		Short: "Delete tasks and sets",
		Long:  deleteLong,
		Example: `  leat delete @latest
  leat delete task/hello taskset/squares`,
		Args: atLeastOne("task or set"), ValidArgsFunction: f.completeNames(kindTask, kindSet),
		RunE: func(command *cobra.Command, args []string) error {
			ctx := command.Context()
			s, err := f.connect()
			if err != nil {
				return err
			}
			return f.each(args, func(name string) error {
				found, err := s.find(ctx, name)
				if err != nil {
					return err
				}
				if found.index != nil {
					return usageErrorf("%s is one index of a set, which would run it again: delete the set, or cancel the index", found.ref())
				}
				if err := s.delete(ctx, found, now); err != nil {
					return err
				}
				if wait {
					if err := s.waitGone(ctx, found); err != nil {
						return err
					}
				}
				fmt.Fprintf(f.streams.Out, "%s deleted\n", found.ref().full())
				return nil
			})
		},
	}
	command.Flags().BoolVar(&now, "now", false, "Kill the commands at once")
	command.Flags().BoolVar(&wait, "wait", true, "Wait until the commands have ended")
	return command
}

// each calls do for every name and continues after an error. It reports the errors of several names itself and returns
// only the exit code.
func (f *factory) each(names []string, do func(string) error) error {
	var failed error
	for _, name := range names {
		err := do(name)
		if err == nil {
			continue
		}
		if len(names) == 1 {
			return err
		}
		fmt.Fprintln(f.streams.ErrOut, f.describe(err))
		code := exitFailed
		if coded, ok := errors.AsType[*exitError](err); ok {
			code = coded.code
		}
		failed = &exitError{code: code}
	}
	return failed
}

// requireUnfinished returns an error if the object has finished and cannot be cancelled.
func (f *factory) requireUnfinished(found object) error {
	switch {
	case found.set != nil && taskstate.Finished(found.set) != nil:
		return fmt.Errorf("%s has ended (%s): there is nothing to cancel; %s delete %s deletes it",
			ref{kindSet, found.set.Name}, taskstate.StatusOfFinished(taskstate.Finished(found.set)), f.program, ref{kindSet, found.set.Name})
	case found.task != nil && found.task.Status.Phase.Finished():
		return fmt.Errorf("%s has ended (%s): there is nothing to cancel; %s delete %s deletes it", found.ref(), found.task.Status.Phase, f.program, found.ref())
	}
	return nil
}

// taskOfIndex replaces one index of a set by its unfinished task, which may not have others left to run. It returns any
// other object unchanged.
func (f *factory) taskOfIndex(ctx context.Context, s *session, found object) (object, error) {
	if found.index == nil {
		return found, nil
	}
	tasks, err := s.tasksOfIndex(ctx, found)
	if err != nil {
		return object{}, err
	}
	for i := range tasks {
		task := &tasks[i]
		if task.Status.Phase.Finished() {
			continue
		}
		left := indexes.Subtract(taskstate.HeldIndexes(task), taskstate.CompletedIndexes(task))
		switch {
		case !indexes.Contains(left, *found.index):
			return object{}, fmt.Errorf("%s has succeeded: there is nothing to cancel", found.ref())
		case indexes.Count(left) > 1:
			return object{}, fmt.Errorf("%s cannot be cancelled alone: task/%s runs it with others, one after the other. %s cancel task/%s ends that task, "+
				"and the set runs its %s again. %s cancel taskset/%s ends all for good. A set that is created with --chunk 1 has a task for each index",
				found.ref(), task.Name, f.program, task.Name, describeIndexes(found.set, left), f.program, found.set.Name)
		}
		return object{task: task}, nil
	}
	return object{}, fmt.Errorf("%s has no task that runs or waits: there is nothing to cancel", found.ref())
}

// reportCancelled prints the outcome of a cancellation.
func (f *factory) reportCancelled(found object) {
	if set := found.set; set != nil {
		count := ""
		if set.Spec.Completions != nil {
			count = fmt.Sprintf(" (%d of %d had succeeded)", set.Status.Succeeded, *set.Spec.Completions)
		}
		// The set can have finished before the cancellation reached it.
		if final := taskstate.Finished(set); final != nil && final.Reason != batch.TaskSetReasonCancelled {
			fmt.Fprintf(f.streams.Out, "%s has ended before it was cancelled: %s: %s%s\n", found.ref().full(), final.Type, final.Reason, count)
			return
		}
		fmt.Fprintf(f.streams.Out, "%s cancelled%s\n", found.ref().full(), count)
		return
	}
	if found.task.Labels[batch.LabelTaskSetName] == "" || batch.ControllingTaskSet(found.task) == nil {
		fmt.Fprintf(f.streams.Out, "%s cancelled and deleted\n", found.ref().full())
		return
	}
	fmt.Fprintf(f.streams.Out, "%s cancelled\n", found.ref().full())
	left := numbersIn(found.task, indexes.Subtract(taskstate.HeldIndexes(found.task), taskstate.CompletedIndexes(found.task)))
	them, name := "it", found.task.Labels[batch.LabelTaskSetName]
	if indexes.Count(left) > 1 {
		them = "them"
	}
	fmt.Fprintf(f.streams.ErrOut, "taskset/%s runs its %s again: %s cancel taskset/%s --index %s ends %s for good.\n",
		name, describeNumbers(left), f.program, name, indexes.Format(left), them)
}

// cancel sets spec.cancelled of a set, or deletes a task. The UID of the object is a precondition.
func (s *session) cancel(ctx context.Context, found object, now bool) error {
	if found.task != nil {
		return s.delete(ctx, found, now)
	}
	patch := fmt.Appendf(nil, `{"metadata":{"uid":%q},"spec":{"cancelled":true}}`, found.set.UID)
	if _, err := s.api.TaskSets(s.namespace).Patch(ctx, found.set.Name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil || !now {
		return err
	}
	// Keep finished tasks: the controller may not have counted them yet, and users can still read their output.
	return s.killTasks(ctx, found.set, taskstate.Unfinished)
}

// delete deletes a task or a set. The UID of the object is a precondition. A set is deleted in the foreground, so that
// it exists until the last of its commands has ended.
func (s *session) delete(ctx context.Context, found object, now bool) error {
	var options metav1.DeleteOptions
	if found.task != nil {
		options.Preconditions = metav1.NewUIDPreconditions(string(found.task.UID))
		if now {
			options.GracePeriodSeconds = ptr.To[int64](0)
		}
		return s.api.Tasks(s.namespace).Delete(ctx, found.task.Name, options)
	}
	options.PropagationPolicy = ptr.To(metav1.DeletePropagationForeground)
	options.Preconditions = metav1.NewUIDPreconditions(string(found.set.UID))
	if err := s.api.TaskSets(s.namespace).Delete(ctx, found.set.Name, options); err != nil || !now {
		return err
	}
	// The set must be terminating first: otherwise the controller would create the tasks again.
	return s.killTasks(ctx, found.set, "")
}

// killTasks deletes the tasks of a set that match the field selector, without a grace period.
func (s *session) killTasks(ctx context.Context, set *batch.TaskSet, fields string) error {
	return s.api.Tasks(s.namespace).DeleteCollection(ctx, metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)},
		metav1.ListOptions{LabelSelector: batch.LabelControllerUID + "=" + string(set.UID), FieldSelector: fields})
}

// waitCancelled waits until the commands of a cancelled object have ended. It updates found.set to the finished set.
func (s *session) waitCancelled(ctx context.Context, found *object) error {
	if found.set == nil {
		return s.waitGone(ctx, *found)
	}
	return wrapDeleted(found.ref(), s.watchSet(ctx, found.set, func(set *batch.TaskSet) bool {
		found.set = set
		return taskstate.Finished(set) != nil
	}))
}

// waitGone waits until the object is deleted.
func (s *session) waitGone(ctx context.Context, found object) error {
	var err error
	if found.set != nil {
		err = s.watchSet(ctx, found.set, func(*batch.TaskSet) bool { return false })
	} else {
		err = s.watchTask(ctx, found.task, func(*batch.Task) bool { return false })
	}
	if errors.Is(err, errDeleted) {
		return nil
	}
	return err
}

// newSuspendCommand returns the "suspend" or the "resume" command.
func (f *factory) newSuspendCommand(suspend bool) *cobra.Command {
	command := &cobra.Command{
		Use: "resume SET...", GroupID: groupChange,
		Short: "Resume suspended sets",
		Long: `Resume suspended sets. Tasks are started for the indexes that have not succeeded yet.

The time that activeDeadlineSeconds allows starts again.`,
		Example: `  leat resume @latest`,
		Args:    atLeastOne("set"), ValidArgsFunction: f.completeNames(kindSet),
	}
	done, already := "resumed", "is not suspended"
	if suspend {
		command.Use, command.Short, command.Example = "suspend SET...", "Suspend sets until they are resumed", "  leat suspend taskset/squares"
		command.Long = `Suspend sets. Their running tasks are ended, as by "leat cancel", and no more are started until "leat resume".

Succeeded indexes stay succeeded. An index whose task is ended runs again from its start, and that does not count as a failure.`
		done, already = "suspended", "is suspended already"
	}
	command.RunE = func(command *cobra.Command, args []string) error {
		ctx := command.Context()
		s, err := f.connect()
		if err != nil {
			return err
		}
		return f.each(args, func(name string) error {
			set, err := s.findSet(ctx, name)
			if err != nil {
				return err
			}
			r := ref{kindSet, set.Name}
			if final := taskstate.Finished(set); final != nil {
				return fmt.Errorf("%s has ended (%s)", r, taskstate.StatusOfFinished(final))
			}
			if ptr.Deref(set.Spec.Suspend, false) == suspend {
				fmt.Fprintf(f.streams.Out, "%s %s\n", r.full(), already)
				return nil
			}
			patch := fmt.Appendf(nil, `{"metadata":{"uid":%q},"spec":{"suspend":%t}}`, set.UID, suspend)
			if _, err := s.api.TaskSets(s.namespace).Patch(ctx, set.Name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
				return err
			}
			fmt.Fprintf(f.streams.Out, "%s %s\n", r.full(), done)
			return nil
		})
	}
	return command
}
