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

// newCordonCommand returns the "cordon" or the "uncordon" command.
func (f *factory) newCordonCommand(cordon bool) *cobra.Command {
	command := &cobra.Command{
		Use: "uncordon WORKER...", GroupID: groupWorkers,
		Short:   "Mark workers as schedulable",
		Example: "  leat uncordon local-0-abcde",
		Args:    atLeastOne("worker"), ValidArgsFunction: f.completeNames(kindWorker),
	}
	if cordon {
		command.Use, command.Short, command.Example = "cordon WORKER...", "Mark workers as unschedulable", "  leat cordon local-0-abcde"
		command.Long = "Mark workers as unschedulable: they get no new tasks. Their running tasks continue."
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

// workerName parses NAME or worker/NAME.
func workerName(text string) (string, error) {
	if name, ok := strings.CutPrefix(text, kindWorker+"/"); ok {
		return name, nil
	}
	r, err := parseRef(text)
	if err != nil {
		return "", err
	}
	if r.kind != kindUnspecified && r.kind != kindWorker || strings.HasPrefix(text, "@") {
		return "", usageErrorf("%q is not a worker: kubectl get wkr lists them", text)
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
	if err := s.setUnschedulable(ctx, worker, cordon); err != nil {
		return err
	}
	fmt.Fprintf(f.streams.Out, "%s %s\n", r.full(), word)
	return nil
}

func (s *session) setUnschedulable(ctx context.Context, worker *batch.Worker, unschedulable bool) error {
	patch := fmt.Appendf(nil, `{"metadata":{"uid":%q},"spec":{"unschedulable":%t}}`, worker.UID, unschedulable)
	_, err := s.api.Workers(s.namespace).Patch(ctx, worker.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	return err
}

const denyLong = `Revoke all permissions of workers, whatever their credentials.

Use it if the key or the token of a worker was stolen. The server refuses all requests with the name of the worker. Its tasks are evicted
and run again on other workers. Its Worker object is kept and cannot be deleted. You can also deny a name that is not registered yet.

If the key of the certificate authority was stolen, rotate the authority instead: that key can issue credentials for other names.`

func (f *factory) newWorkerCommand() *cobra.Command {
	command := &cobra.Command{
		Use: "worker", GroupID: groupWorkers,
		Short: "Deny or allow workers",
		Example: `  leat worker deny local-0-abcde
  leat worker allow local-0-abcde`,
	}
	command.AddCommand(f.newDenyCommand(true), f.newDenyCommand(false))
	return command
}

// newDenyCommand returns the "worker deny" or the "worker allow" command.
func (f *factory) newDenyCommand(deny bool) *cobra.Command {
	command := &cobra.Command{
		Use:     "allow WORKER...",
		Short:   "Restore the permissions of denied workers",
		Example: "  leat worker allow local-0-abcde",
		Args:    atLeastOne("worker"), ValidArgsFunction: f.completeNames(kindWorker),
	}
	if deny {
		command.Use, command.Short, command.Long = "deny WORKER...", "Revoke all permissions of workers", denyLong
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

const drainLong = `Mark workers as unschedulable and evict their tasks.

The commands of evicted tasks are killed and run again on other workers, from the start. That does not count as a failure. --grace waits
for tasks to end by themselves first. The worker stays cordoned, also if draining fails.`

const (
	// drainPoll is the interval at which the remaining tasks are listed.
	drainPoll = 500 * time.Millisecond
	// drainConcurrency is the maximum number of concurrent evictions.
	drainConcurrency = 16
)

func (f *factory) newDrainCommand() *cobra.Command {
	var grace, timeout time.Duration
	command := &cobra.Command{
		Use: "drain WORKER...", GroupID: groupWorkers,
		Short: "Drain workers: evict all their tasks",
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
	command.Flags().DurationVar(&grace, "grace", 0, "How long to wait for tasks to end before they are evicted, like 10m")
	command.Flags().DurationVar(&timeout, "timeout", 0, "How long to try, like 15m; 0s means no limit")
	return command
}

// drain evicts the tasks of the worker until it has none.
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

// tasksOf lists the unfinished tasks of the worker.
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

// evict evicts the tasks from their worker. It skips tasks that are terminating or have changed; the next poll sees
// them again.
func (s *session) evict(ctx context.Context, tasks []batch.Task) error {
	var all sync.WaitGroup
	slots := make(chan struct{}, drainConcurrency)
	errs := make([]error, len(tasks))
	for i := range tasks {
		if tasks[i].DeletionTimestamp != nil {
			continue
		}
		all.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
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
	// All errors have the same cause, mostly.
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
