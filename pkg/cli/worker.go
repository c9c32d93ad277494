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
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/utils/ptr"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/cli/progress"
)

// newCordonCommand makes "cordon", or "uncordon".
func (f *factory) newCordonCommand(cordon bool) *cobra.Command {
	command := &cobra.Command{
		Use: "uncordon WORKER...", GroupID: groupWorkers,
		Short:   "Let workers take tasks again",
		Example: "  leat uncordon local-0-abcde",
		Args:    atLeastOne("worker"), ValidArgsFunction: f.completeNames(kindWorker),
	}
	if cordon {
		command.Use, command.Short, command.Example = "cordon WORKER...", "Keep new tasks from workers", "  leat cordon local-0-abcde"
		command.Long = "Keep new tasks from workers. Those that run go on."
	}
	command.RunE = func(command *cobra.Command, args []string) error {
		s, err := f.connect()
		if err != nil {
			return err
		}
		return f.each(args, func(name string) error { return f.cordon(command.Context(), s, name, cordon) })
	}
	return command
}

// workerName returns the name of a worker that was written as NAME or worker/NAME.
func workerName(text string) (string, error) {
	if name, ok := strings.CutPrefix(text, kindWorker+"/"); ok {
		return name, nil
	}
	r, err := parseRef(text)
	if err != nil {
		return "", err
	}
	if r.kind != kindUnsaid && r.kind != kindWorker || strings.HasPrefix(text, "@") {
		return "", usageErrorf("%q is no worker: kubectl get wkr lists them", text)
	}
	return r.name, nil
}

func (s *session) findWorker(ctx context.Context, text string) (*batch.Worker, error) {
	name, err := workerName(text)
	if err != nil {
		return nil, err
	}
	return s.api.Workers(s.namespace).Get(ctx, name, metav1.GetOptions{})
}

func (f *factory) cordon(ctx context.Context, s *session, name string, cordon bool) error {
	worker, err := s.findWorker(ctx, name)
	if err != nil {
		return err
	}
	word := "uncordoned"
	if cordon {
		word = "cordoned"
	}
	r := ref{kindWorker, worker.Name}
	if worker.Spec.Unschedulable == cordon {
		fmt.Fprintf(f.streams.Out, "%s already %s\n", r.full(), word)
		return nil
	}
	patch := fmt.Appendf(nil, `{"metadata":{"uid":%q},"spec":{"unschedulable":%t}}`, worker.UID, cordon)
	if _, err := s.api.Workers(s.namespace).Patch(ctx, worker.Name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		return err
	}
	fmt.Fprintf(f.streams.Out, "%s %s\n", r.full(), word)
	return nil
}

const denyLong = `Take all rights from workers, whatever their credentials.

For a worker whose key or token was stolen. Its requests are refused, whoever sends them; its tasks are taken from it and run again on
other workers; and its Worker stays, however long it is silent, and cannot be deleted. A name that is not registered yet can be denied,
too. Whoever has the key of the authority can make credentials of other names: rotate the authority then.`

func (f *factory) newWorkerCommand() *cobra.Command {
	command := &cobra.Command{
		Use: "worker", GroupID: groupWorkers,
		Short: "Deny workers their rights, or allow them again",
		Example: `  leat worker deny local-0-abcde
  leat worker allow local-0-abcde`,
	}
	command.AddCommand(f.newDenyCommand(true), f.newDenyCommand(false))
	return command
}

// newDenyCommand makes "worker deny", or "worker allow".
func (f *factory) newDenyCommand(deny bool) *cobra.Command {
	command := &cobra.Command{
		Use:     "allow WORKER...",
		Short:   "Let denied workers have their rights again",
		Example: "  leat worker allow local-0-abcde",
		Args:    atLeastOne("worker"), ValidArgsFunction: f.completeNames(kindWorker),
	}
	if deny {
		command.Use, command.Short, command.Long = "deny WORKER...", "Take all rights from workers, whatever their credentials", denyLong
		command.Example = "  leat worker deny local-0-abcde"
	}
	command.RunE = func(command *cobra.Command, args []string) error {
		s, err := f.connect()
		if err != nil {
			return err
		}
		return f.each(args, func(name string) error { return f.deny(command.Context(), s, name, deny) })
	}
	return command
}

func (f *factory) deny(ctx context.Context, s *session, text string, deny bool) error {
	name, err := workerName(text)
	if err != nil {
		return err
	}
	word := "allowed"
	if deny {
		word = "denied"
	}
	r := ref{kindWorker, name}
	worker, err := s.api.Workers(s.namespace).Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err) && deny:
		_, err = s.api.Workers(s.namespace).Create(ctx, &batch.Worker{
			ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: batch.WorkerSpec{Denied: true},
		}, metav1.CreateOptions{})
	case err != nil:
		return err
	case worker.Spec.Denied == deny:
		fmt.Fprintf(f.streams.Out, "%s already %s\n", r.full(), word)
		return nil
	default:
		patch := fmt.Appendf(nil, `{"metadata":{"uid":%q},"spec":{"denied":%t}}`, worker.UID, deny)
		_, err = s.api.Workers(s.namespace).Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{})
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(f.streams.Out, "%s %s\n", r.full(), word)
	return nil
}

const drainLong = `Keep new tasks from a worker, and take those from it that it has.

Its tasks are evicted: their commands are killed there, and run again on other workers, from the start. That does not count as a
failure. With --grace they may end by themselves for that long first. The worker stays cordoned, also if draining fails.`

const (
	// drainPoll is how often it is looked at what a worker still has.
	drainPoll = 500 * time.Millisecond
	// drainConcurrency is how many evictions are sent at a time.
	drainConcurrency = 16
)

func (f *factory) newDrainCommand() *cobra.Command {
	var grace, timeout time.Duration
	command := &cobra.Command{
		Use: "drain WORKER...", GroupID: groupWorkers,
		Short: "Take all tasks from workers",
		Long:  drainLong,
		Example: `  leat drain local-0-abcde
  leat drain local-0-abcde --grace 10m    # let what runs end for ten minutes`,
		Args: atLeastOne("worker"), ValidArgsFunction: f.completeNames(kindWorker),
		RunE: func(command *cobra.Command, args []string) error {
			for name, value := range map[string]time.Duration{"grace": grace, "timeout": timeout} {
				if value < 0 {
					return usageErrorf("--%s %s: write 0s or more", name, value)
				}
			}
			s, err := f.connect()
			if err != nil {
				return err
			}
			return f.each(args, func(name string) error {
				ctx := command.Context()
				if timeout > 0 {
					var stop context.CancelFunc
					ctx, stop = context.WithTimeout(ctx, timeout)
					defer stop()
				}
				if err := f.cordon(ctx, s, name, true); err != nil {
					return err
				}
				return f.drain(ctx, s, name, grace, timeout)
			})
		},
	}
	command.Flags().DurationVar(&grace, "grace", 0, "How long tasks may end by themselves before they are evicted, like 10m")
	command.Flags().DurationVar(&timeout, "timeout", 0, "How long to try, like 15m; 0s for ever")
	return command
}

// drain evicts what the worker has until it has nothing.
func (f *factory) drain(ctx context.Context, s *session, name string, grace, timeout time.Duration) error {
	worker, err := s.findWorker(ctx, name)
	if err != nil {
		return err
	}
	renderer := progress.New(f.streams.ErrOut)
	defer renderer.Stop()
	evictAt := time.Now().Add(grace)
	total, left := -1, 0
	err = wait.PollUntilContextCancel(ctx, drainPoll, true, func(ctx context.Context) (bool, error) {
		tasks, err := s.tasksOf(ctx, worker.Name)
		if err != nil {
			return false, err
		}
		left = len(tasks)
		total = max(total, left)
		if total > 0 {
			renderer.Update(progress.Snapshot{Done: total - left, Running: left, Total: total})
		}
		if left == 0 || time.Now().Before(evictAt) {
			return left == 0, nil
		}
		return false, s.evict(ctx, tasks)
	})
	renderer.Stop()
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("worker/%s still has %s after %s: it stays cordoned; run this again, or %s uncordon %s",
			worker.Name, plural(left, "task"), timeout, f.program, worker.Name)
	case err != nil:
		return err
	}
	fmt.Fprintf(f.streams.Out, "%s drained\n", ref{kindWorker, worker.Name}.full())
	return nil
}

// tasksOf lists what the worker has and has not finished.
func (s *session) tasksOf(ctx context.Context, worker string) ([]batch.Task, error) {
	selector := fields.AndSelectors(
		fields.OneTermEqualSelector("spec.workerName", worker),
		fields.OneTermNotEqualSelector("status.phase", string(batch.TaskSucceeded)),
		fields.OneTermNotEqualSelector("status.phase", string(batch.TaskFailed)),
	)
	list, err := s.api.Tasks(s.namespace).List(ctx, metav1.ListOptions{FieldSelector: selector.String()})
	if err != nil {
		return nil, err
	}
	return list.Items, nil
}

// evict takes the tasks from their worker. What has changed meanwhile, or is ending, is left for the next look.
func (s *session) evict(ctx context.Context, tasks []batch.Task) error {
	var all sync.WaitGroup
	places := make(chan struct{}, drainConcurrency)
	errs := make([]error, len(tasks))
	for i := range tasks {
		if tasks[i].DeletionTimestamp != nil {
			continue
		}
		all.Go(func() {
			places <- struct{}{}
			defer func() { <-places }()
			_, err := s.api.Tasks(s.namespace).Evict(ctx, tasks[i].Name, &batch.Eviction{
				ObjectMeta: metav1.ObjectMeta{Name: tasks[i].Name, Namespace: tasks[i].Namespace},
				Reason:     "WorkerDrained", Message: "The worker is drained.",
				Preconditions: &metav1.Preconditions{UID: ptr.To(tasks[i].UID), ResourceVersion: ptr.To(tasks[i].ResourceVersion)},
			}, metav1.CreateOptions{})
			if !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
				errs[i] = err
			}
		})
	}
	all.Wait()
	// One says it for all.
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
