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
	"slices"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// poolDeletePoll is the interval at which the pods of a deleted pool are listed.
const poolDeletePoll = 500 * time.Millisecond

const poolDeleteLong = `Delete pools: their StatefulSets, all other objects of theirs, and their Worker objects.

The workers get no more tasks. Commands that run get SIGTERM, and have an hour to end; what has not ended by itself runs again elsewhere.
The credentials of the pods are deleted last, so that workers can report how the commands have ended. If that takes longer than
--timeout, run the command again.

Tasks are not deleted. Those that name the pool wait for one of that name.`

func (f *factory) newPoolDeleteCommand() *cobra.Command {
	var timeout time.Duration
	command := &cobra.Command{
		Use:   "delete NAME...",
		Short: "Delete pools and their workers",
		Long:  poolDeleteLong,
		Example: `  leat pool delete render
  leat pool delete render --timeout 1h`,
		Args: atLeastOne("pool"), ValidArgsFunction: f.completePools,
		RunE: func(command *cobra.Command, args []string) error {
			ctx := command.Context()
			if timeout < 0 {
				return usageErrorf("--timeout %s: write 0s or more", timeout)
			}
			s, err := f.connect()
			if err != nil {
				return err
			}
			c, err := s.cluster()
			if err != nil {
				return err
			}
			if err := f.requireRights(ctx, c, s.namespace, "delete a pool", rightsToDelete()); err != nil {
				return err
			}
			return f.each(args, func(name string) error { return f.deletePool(ctx, s, c, name, timeout) })
		},
	}
	command.Flags().DurationVar(&timeout, "timeout", 10*time.Minute, "How long to wait until the commands that run have ended; 0s means no limit")
	return command
}

// deletePool deletes the StatefulSet, waits until its pods are gone, and then deletes all else of the pool.
func (f *factory) deletePool(ctx context.Context, s *session, c *cluster, name string, timeout time.Duration) error {
	if err := validPoolName(name); err != nil {
		return err
	}
	selector := metav1.ListOptions{LabelSelector: batch.LabelPool + "=" + name}
	workers, err := s.api.Workers(s.namespace).List(ctx, selector)
	if err != nil {
		return err
	}
	objects, err := c.objectsOf(ctx, s.namespace, selector)
	if err != nil {
		return err
	}
	if len(objects) == 0 && len(workers.Items) == 0 {
		return fmt.Errorf("there is no pool %s in namespace %s: %s pool list lists them", name, s.namespace, f.program)
	}
	// A worker that is cordoned gets no tasks, and its loss does not count as a crash of those that it has.
	for i := range workers.Items {
		if worker := &workers.Items[i]; !worker.Spec.Unschedulable {
			if err := s.setUnschedulable(ctx, worker, true); err != nil && !apierrors.IsNotFound(err) {
				return err
			}
		}
	}
	if err := c.deleteAll(ctx, s.namespace, slices.DeleteFunc(slices.Clone(objects), func(o namedObject) bool { return o.resource != statefulSets })); err != nil {
		return err
	}
	if err := f.waitForPods(ctx, s, c, name, selector, timeout); err != nil {
		return err
	}
	if err := c.deleteAll(ctx, s.namespace, slices.DeleteFunc(objects, func(o namedObject) bool { return o.resource == statefulSets })); err != nil {
		return err
	}
	// List again: pods may have registered meanwhile.
	if workers, err = s.api.Workers(s.namespace).List(ctx, selector); err != nil {
		return err
	}
	for i := range workers.Items {
		if err := s.api.Workers(s.namespace).Delete(ctx, workers.Items[i].Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	fmt.Fprintf(f.streams.Out, "pool/%s deleted\n", name)
	return f.warnOfTasks(ctx, s, name)
}

// warnOfTasks prints how many tasks wait for a pool that is deleted.
func (f *factory) warnOfTasks(ctx context.Context, s *session, name string) error {
	tasks, err := s.unfinished(ctx)
	if err != nil {
		return err
	}
	waiting := 0
	for i := range tasks {
		if tasks[i].Spec.Pool == name {
			waiting++
		}
	}
	if waiting > 0 {
		fmt.Fprintf(f.streams.ErrOut, "warning: %s of pool %s left: without a pool of that name nothing runs them\n", plural(waiting, "unfinished task"), name)
	}
	return nil
}

// waitForPods waits until the pods of a pool are gone.
func (f *factory) waitForPods(ctx context.Context, s *session, c *cluster, name string, selector metav1.ListOptions, timeout time.Duration) error {
	left, reported, limit := 0, false, "without a limit"
	waiting := ctx
	if timeout > 0 {
		var stop context.CancelFunc
		waiting, stop = context.WithTimeout(ctx, timeout)
		defer stop()
		limit = "for at most " + age(timeout)
	}
	err := wait.PollUntilContextCancel(waiting, poolDeletePoll, true, func(ctx context.Context) (bool, error) {
		pods, err := c.CoreV1().Pods(s.namespace).List(ctx, selector)
		if err != nil {
			return false, err
		}
		if left = len(pods.Items); left > 0 && !reported {
			reported = true
			fmt.Fprintf(f.streams.ErrOut, "Waiting %s until the commands of %s have ended.\n", limit, plural(left, "worker"))
		}
		return left == 0, nil
	})
	if waiting.Err() != nil && ctx.Err() == nil {
		return fmt.Errorf("pool %s: its workers end, and %s left after %s: run this again to delete the rest", name, plural(left, "pod"), timeout)
	}
	return err
}

// namedObject names an object of a pool.
type namedObject struct {
	resource schema.GroupVersionResource
	name     string
}

// objectsOf returns the objects of a pool that exist.
func (c *cluster) objectsOf(ctx context.Context, namespace string, selector metav1.ListOptions) ([]namedObject, error) {
	var all []namedObject
	for _, resource := range poolResources {
		list, err := c.dynamic.Resource(resource).Namespace(namespace).List(ctx, selector)
		if err != nil {
			return nil, err
		}
		for i := range list.Items {
			all = append(all, namedObject{resource, list.Items[i].GetName()})
		}
	}
	return all, nil
}

func (c *cluster) deleteAll(ctx context.Context, namespace string, objects []namedObject) error {
	var errs []error
	for _, object := range objects {
		err := c.dynamic.Resource(object.resource).Namespace(namespace).Delete(ctx, object.name, metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
