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
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

const cancelLong = `End tasks and sets that have not ended.

The commands get SIGTERM, and SIGKILL once their grace period is over; --now kills them at once. A set starts no more tasks, fails
with reason Cancelled, and stays: "leat explain" shows what has succeeded and failed, "leat retry" runs the rest, "leat delete"
deletes it. A task alone is deleted. A task of a set, named as SET/INDEX too, is ended, and the set runs its index again.

To stop a set and go on later, use suspend. What has ended cannot be cancelled.`

func (f *factory) newCancelCommand() *cobra.Command {
	var now, wait bool
	command := &cobra.Command{
		Use: "cancel NAME...", GroupID: groupChange,
		Short: "End tasks and sets before their time",
		Long:  cancelLong,
		Example: `  leat cancel @latest
  leat cancel --now task/hello taskset/squares`,
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
				if err := f.refuseEnded(found); err != nil {
					return err
				}
				if found, err = s.taskOfIndex(ctx, found); err != nil {
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
	return command
}

const deleteLong = `Delete tasks and sets, with the record of what has succeeded and failed.

Commands that run get SIGTERM, and SIGKILL once their grace period is over; --now kills them at once. A set is there until the last of
its commands has ended. To end a set and keep it, use cancel.`

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

// each does something for every name, and goes on after an error.
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

func (f *factory) refuseEnded(found object) error {
	switch {
	case found.set != nil && finishedSet(found.set) != nil:
		return fmt.Errorf("%s has ended (%s): there is nothing to cancel; %s delete %s deletes it",
			ref{kindSet, found.set.Name}, statusOfEnd(finishedSet(found.set)), f.program, ref{kindSet, found.set.Name})
	case found.task != nil && finishedTask(found.task):
		return fmt.Errorf("%s has ended (%s): there is nothing to cancel; %s delete %s deletes it", found.ref(), found.task.Status.Phase, f.program, found.ref())
	}
	return nil
}

// taskOfIndex returns the task of an index in place of its set, and any other object as it is.
func (s *session) taskOfIndex(ctx context.Context, found object) (object, error) {
	if found.index == nil {
		return found, nil
	}
	tasks, err := s.tasksOfIndex(ctx, found)
	if err != nil {
		return object{}, err
	}
	for i := range tasks {
		if !finishedTask(&tasks[i]) {
			return object{task: &tasks[i]}, nil
		}
	}
	return object{}, fmt.Errorf("%s has no task that runs or waits: there is nothing to cancel", found.ref())
}

// reportCancelled prints what has become of what was cancelled.
func (f *factory) reportCancelled(found object) {
	if set := found.set; set != nil {
		count := ""
		if set.Spec.Completions != nil {
			count = fmt.Sprintf(" (%d of %d had succeeded)", set.Status.Succeeded, *set.Spec.Completions)
		}
		// It can have ended by itself meanwhile.
		if final := finishedSet(set); final != nil && final.Reason != batch.TaskSetReasonCancelled {
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
	fmt.Fprintf(f.streams.ErrOut, "taskset/%s runs its index %s again: cancel the set to end it for good.\n",
		found.task.Labels[batch.LabelTaskSetName], numberOf(found.task))
}

// cancel ends the object as it was found: a set by its spec, a task by deletion, and one index of a set by deletion of its task.
func (s *session) cancel(ctx context.Context, found object, now bool) error {
	found, err := s.taskOfIndex(ctx, found)
	if err != nil {
		return err
	}
	if found.task != nil {
		return s.delete(ctx, found, now)
	}
	patch := fmt.Appendf(nil, `{"metadata":{"uid":%q},"spec":{"cancelled":true}}`, found.set.UID)
	if _, err := s.api.TaskSets(s.namespace).Patch(ctx, found.set.Name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil || !now {
		return err
	}
	// Those that have ended stay: they may not be counted yet, and their output is there to be read.
	return s.killTasks(ctx, found.set, unfinished)
}

// delete deletes the object as it was found: a set in the foreground, so that it is there as long as its commands.
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
	// After the set, which would create them again.
	return s.killTasks(ctx, found.set, "")
}

// killTasks deletes tasks of a set, and kills their commands at once.
func (s *session) killTasks(ctx context.Context, set *batch.TaskSet, fields string) error {
	return s.api.Tasks(s.namespace).DeleteCollection(ctx, metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)},
		metav1.ListOptions{LabelSelector: batch.LabelControllerUID + "=" + string(set.UID), FieldSelector: fields})
}

// waitCancelled waits until the commands of what was cancelled have ended, and reads how a set has ended.
func (s *session) waitCancelled(ctx context.Context, found *object) error {
	if found.set == nil {
		return s.waitGone(ctx, *found)
	}
	return wrapDeleted(found.ref(), s.watchSet(ctx, found.set, func(set *batch.TaskSet) bool {
		found.set = set
		return finishedSet(set) != nil
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

// newSuspendCommand makes "suspend", or "resume".
func (f *factory) newSuspendCommand(suspend bool) *cobra.Command {
	command := &cobra.Command{
		Use: "resume SET...", GroupID: groupChange,
		Short: "Let suspended sets go on",
		Long: `Let suspended sets go on: tasks are started for the indexes that have not succeeded yet.

The time that activeDeadlineSeconds allows starts again.`,
		Example: `  leat resume @latest`,
		Args:    atLeastOne("set"), ValidArgsFunction: f.completeNames(kindSet),
	}
	done, already := "resumed", "is not suspended"
	if suspend {
		command.Use, command.Short, command.Example = "suspend SET...", "Stop sets until they are resumed", "  leat suspend taskset/squares"
		command.Long = `Stop sets for a time: their tasks that run are ended, as by "leat cancel", and no more are started until "leat resume".

What has succeeded stays so. An index whose task is ended is run again from its start, and that does not count as a failure.`
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
			if final := finishedSet(set); final != nil {
				return fmt.Errorf("%s has ended (%s)", r, statusOfEnd(final))
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
