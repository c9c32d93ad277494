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
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const updateLong = `Change the priority or the queue of pending tasks and sets.

A set can be changed until its first task has started, a task until it has a worker. To move a set that has started, cancel it and run
the rest with "leat retry --queue".`

func (f *factory) newUpdateCommand() *cobra.Command {
	var priority int32
	var queue string
	command := &cobra.Command{
		Use: "update NAME...", GroupID: groupChange,
		Short: "Change the priority or the queue of pending tasks and sets",
		Long:  updateLong,
		Example: `  leat update @latest --priority 10
  leat update taskset/squares task/hello --queue night`,
		Args: atLeastOne("task or set"), ValidArgsFunction: f.completeNames(kindTask, kindSet),
		RunE: func(command *cobra.Command, args []string) error {
			ctx, changed := command.Context(), command.Flags().Changed
			task := map[string]any{}
			if changed("priority") {
				task["priority"] = priority
			}
			if changed("queue") {
				if queue == "" {
					return usageErrorf("--queue is empty: write the name of a queue, as listed by kubectl get tq")
				}
				task["queueName"] = queue
			}
			if len(task) == 0 {
				return usageErrorf("nothing to change: write %s %s --priority N, or --queue QUEUE", command.CommandPath(), args[0])
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
				uid, spec := types.UID(""), task
				switch {
				case found.index != nil:
					return usageErrorf("%s is one index of a set: write taskset/%s", found.ref(), found.set.Name)
				case found.set != nil:
					// The queue is a field of the set and of its task template.
					uid, spec = found.set.UID, map[string]any{"template": map[string]any{"spec": task}}
					if changed("queue") {
						spec["queueName"] = queue
					}
				default:
					uid = found.task.UID
				}
				patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": uid}, "spec": spec})
				if err != nil {
					return err
				}
				if found.set != nil {
					_, err = s.api.TaskSets(s.namespace).Patch(ctx, found.set.Name, types.MergePatchType, patch, metav1.PatchOptions{})
				} else {
					_, err = s.api.Tasks(s.namespace).Patch(ctx, found.task.Name, types.MergePatchType, patch, metav1.PatchOptions{})
				}
				if err == nil {
					fmt.Fprintf(f.streams.Out, "%s updated\n", found.ref().full())
				}
				return err
			})
		},
	}
	command.Flags().Int32Var(&priority, "priority", 0, "Which tasks go first: those of higher priority")
	command.Flags().StringVar(&queue, "queue", "", "Queue that the tasks wait in")
	_ = command.RegisterFlagCompletionFunc("queue", f.completeQueues)
	return command
}
