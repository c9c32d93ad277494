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
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

const (
	// completionTimeout limits how long the shell waits for completions.
	completionTimeout = 3 * time.Second
	// completionLimit limits the number of names that are completed for each kind.
	completionLimit = 500
)

type completion = func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective)

// completeNames completes names of objects, as KIND/NAME if the command accepts several kinds.
func (f *factory) completeNames(kinds ...string) completion {
	return func(command *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 && !strings.HasSuffix(command.Use, "...") {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		s, err := f.connect()
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		ctx, stop := context.WithTimeout(context.Background(), completionTimeout)
		defer stop()
		var names []cobra.Completion
		if slices.Contains(kinds, kindSet) {
			names = append(names, latestName)
		}
		for _, kind := range kinds {
			for _, name := range s.names(ctx, kind) {
				if len(kinds) > 1 {
					name = kind + "/" + name
				}
				names = append(names, name)
			}
		}
		names = slices.DeleteFunc(names, func(name cobra.Completion) bool {
			return !strings.HasPrefix(name, typed) || slices.Contains(args, name)
		})
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// names lists the names of objects of a kind. It returns none on an error, because completion has no way to show it. It
// omits tasks of sets: there are too many, and commands accept the set.
func (s *session) names(ctx context.Context, kind string) []string {
	options := metav1.ListOptions{Limit: completionLimit}
	var names []string
	switch kind {
	case kindSet:
		if list, err := s.api.TaskSets(s.namespace).List(ctx, options); err == nil {
			for i := range list.Items {
				names = append(names, list.Items[i].Name)
			}
		}
	case kindTask:
		options.LabelSelector = "!batch.leat.dev/taskset-name"
		if list, err := s.api.Tasks(s.namespace).List(ctx, options); err == nil {
			for i := range list.Items {
				names = append(names, list.Items[i].Name)
			}
		}
	case kindWorker:
		if list, err := s.api.Workers(s.namespace).List(ctx, options); err == nil {
			for i := range list.Items {
				names = append(names, list.Items[i].Name)
			}
		}
	}
	return names
}

// completeQueues completes names of queues.
func (f *factory) completeQueues(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
	s, err := f.connect()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	ctx, stop := context.WithTimeout(context.Background(), completionTimeout)
	defer stop()
	var names []cobra.Completion
	if list, err := s.api.TaskQueues(s.namespace).List(ctx, metav1.ListOptions{Limit: completionLimit}); err == nil {
		for i := range list.Items {
			names = append(names, list.Items[i].Name)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// completePools completes names of pools.
func (f *factory) completePools(command *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	s, err := f.connect()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	c, err := s.cluster()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	ctx, stop := context.WithTimeout(context.Background(), completionTimeout)
	defer stop()
	var names []cobra.Completion
	if list, err := c.AppsV1().StatefulSets(s.namespace).List(ctx, metav1.ListOptions{LabelSelector: batch.LabelPool, Limit: completionLimit}); err == nil {
		for i := range list.Items {
			if name := list.Items[i].Name; command.Name() == "run" || !slices.Contains(args, name) {
				names = append(names, name)
			}
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
