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

const cancelLong = `End tasks and sets that have not ended by themselves, and delete them.

The commands get SIGTERM, and SIGKILL once their grace period is over; --now kills them at once. A set starts no more tasks
from then on, and is there until the last of its commands has ended.

To stop a set and keep it, write suspend. What has ended already is not cancelled: kubectl delete removes it.`

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
				if err := s.cancel(ctx, found, now); err != nil {
					return err
				}
				if wait {
					if err := s.waitGone(ctx, found); err != nil {
						return err
					}
				}
				f.sayCancelled(found)
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
		return fmt.Errorf("%s has ended (%s): there is nothing to cancel; kubectl delete removes it", found.ref(), finishedSet(found.set).Type)
	case found.task != nil && finishedTask(found.task):
		return fmt.Errorf("%s has ended (%s): there is nothing to cancel; kubectl delete removes it", found.ref(), found.task.Status.Phase)
	}
	return nil
}

func (f *factory) sayCancelled(found object) {
	how := ""
	if found.set != nil && found.set.Spec.Completions != nil {
		how = fmt.Sprintf(" (%d of %d had succeeded)", found.set.Status.Succeeded, *found.set.Spec.Completions)
	}
	fmt.Fprintf(f.streams.Out, "%s cancelled%s\n", found.ref().full(), how)
	if found.task != nil && found.task.Labels[batch.LabelTaskSetName] != "" && metav1.GetControllerOf(found.task) != nil {
		fmt.Fprintf(f.streams.ErrOut, "taskset/%s runs its index %s again: cancel the set to end it for good.\n",
			found.task.Labels[batch.LabelTaskSetName], found.task.Labels[batch.LabelCompletionIndex])
	}
}

// cancel deletes the object as it was found: a set in the foreground, so that it is there as long as its commands.
func (s *session) cancel(ctx context.Context, found object, now bool) error {
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
	// After the set, which would create them anew.
	return s.api.Tasks(s.namespace).DeleteCollection(ctx, metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)},
		metav1.ListOptions{LabelSelector: batch.LabelControllerUID + "=" + string(found.set.UID)})
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

The time that activeDeadlineSeconds allows begins anew.`,
		Example: `  leat resume @latest`,
		Args:    atLeastOne("set"), ValidArgsFunction: f.completeNames(kindSet),
	}
	done, already := "resumed", "is not suspended"
	if suspend {
		command.Use, command.Short, command.Example = "suspend SET...", "Stop sets and keep them", "  leat suspend taskset/squares"
		command.Long = `Stop sets and keep them: their tasks that run are ended, as by "leat cancel", and no more are started until "leat resume".

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
				return fmt.Errorf("%s has ended (%s)", r, final.Type)
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
