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
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/utils/ptr"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/cli/sanitize"
	"github.com/leat-dev/leat/pkg/cli/taskstate"
	"github.com/leat-dev/leat/pkg/pool"
	"github.com/leat-dev/leat/pkg/scheduler/framework"
)

// maxProblem is the maximum length of the reason why workers do not come, in characters.
const maxProblem = 200

// poolState is the state of a pool.
type poolState struct {
	set *appsv1.StatefulSet
	// settings is nil if they are invalid, and invalid is why.
	settings *pool.Settings
	invalid  error
	// scaledBy is the manager that scales the pool in the place of the controller, "" for none.
	scaledBy string
	// ready is the number of workers that can run tasks, and coming the number of those that will.
	ready, coming int
	// running is the number of tasks on the workers, and pending the number of those that wait for this pool by name.
	running, pending int
	// stale is whether the pool has old copies of the data of the ConfigMap leat-info.
	stale bool
	// problem is why workers do not come, "" if nothing is known.
	problem string
}

// describe returns the state in words. The first of several states is shown, as it explains the most.
func (p *poolState) describe(program string) string {
	var text string
	switch {
	case p.invalid != nil:
		text = "Invalid: " + strings.ReplaceAll(p.invalid.Error(), "\n", "; ")
	case p.set.DeletionTimestamp != nil:
		text = "Terminating"
	case p.scaledBy != "":
		text = "Paused by " + p.scaledBy
	case p.coming > 0 && p.problem != "":
		text = fmt.Sprintf("Scaling out: %s", p.problem)
	case p.coming > 0:
		text = "Scaling out"
	case p.running > 0:
		text = "Running"
	case p.pending > 0:
		text = "Waiting"
	default:
		text = "Idle"
	}
	if p.stale && p.invalid == nil {
		text += fmt.Sprintf("; Stale: %s pool update %s", program, p.set.Name)
	}
	return sanitize.Line(text)
}

// pools returns the state of the pools of a namespace, or of all, in the order of their names. info is nil if it is
// not known.
func (s *session) pools(ctx context.Context, c *cluster, namespace string, info map[string]string) ([]poolState, error) {
	sets, err := c.AppsV1().StatefulSets(namespace).List(ctx, metav1.ListOptions{LabelSelector: batch.LabelPool})
	if err != nil {
		return nil, err
	}
	workers, err := s.api.Workers(namespace).List(ctx, metav1.ListOptions{LabelSelector: batch.LabelPool})
	if err != nil {
		return nil, err
	}
	tasks, err := s.api.Tasks(namespace).List(ctx, metav1.ListOptions{FieldSelector: taskstate.Unfinished})
	if err != nil {
		return nil, err
	}
	var all []poolState
	for i := range sets.Items {
		state := newPoolState(&sets.Items[i], workers.Items, tasks.Items)
		state.stale = info != nil && isStale(state.set, info)
		if state.coming > 0 {
			state.problem = problemOf(ctx, c, state.set)
		}
		all = append(all, state)
	}
	slices.SortFunc(all, func(a, b poolState) int {
		return cmp.Or(strings.Compare(a.set.Namespace, b.set.Namespace), strings.Compare(a.set.Name, b.set.Name))
	})
	return all, nil
}

// newPoolState returns the state of a pool, without stale and problem. workers and tasks may be those of all pools and
// namespaces.
func newPoolState(set *appsv1.StatefulSet, workers []batch.Worker, tasks []batch.Task) poolState {
	p := poolState{set: set}
	p.settings, p.invalid = pool.Parse(set)
	if manager, foreign := pool.ScaledBy(set); foreign {
		p.scaledBy = manager
	}
	names := map[string]bool{}
	for i := range workers {
		worker := &workers[i]
		if worker.Namespace != set.Namespace || worker.Labels[batch.LabelPool] != set.Name {
			continue
		}
		names[worker.Name] = true
		if meta.IsStatusConditionTrue(worker.Status.Conditions, batch.WorkerReady) {
			p.ready++
		}
	}
	p.coming = max(0, int(ptr.Deref(set.Spec.Replicas, 1))-p.ready)
	for i := range tasks {
		task := &tasks[i]
		switch {
		case task.Namespace != set.Namespace || task.Status.Phase.Finished():
		case names[task.Spec.WorkerName]:
			p.running++
		case task.Spec.Pool == set.Name && framework.IsEligible(task):
			p.pending++
		}
	}
	return p
}

// problemOf returns why pods of the StatefulSet are missing or not ready, "" if nothing is known. Errors count as that:
// the user may lack the right to read pods or events.
func problemOf(ctx context.Context, c *cluster, set *appsv1.StatefulSet) string {
	pods, err := c.CoreV1().Pods(set.Namespace).List(ctx, metav1.ListOptions{LabelSelector: batch.LabelPool + "=" + set.Name})
	if err != nil {
		return ""
	}
	slices.SortFunc(pods.Items, func(a, b corev1.Pod) int { return a.CreationTimestamp.Compare(b.CreationTimestamp.Time) })
	for i := range pods.Items {
		if problem := problemOfPod(&pods.Items[i]); problem != "" {
			return sanitize.Truncate(pods.Items[i].Name+": "+problem, maxProblem)
		}
	}
	if len(pods.Items) >= int(ptr.Deref(set.Spec.Replicas, 1)) {
		return ""
	}
	// The cluster reports only by Events that it cannot create a pod.
	selector := fields.Set{"involvedObject.uid": string(set.UID), "reason": "FailedCreate"}
	events, err := c.CoreV1().Events(set.Namespace).List(ctx, metav1.ListOptions{FieldSelector: selector.String()})
	if err != nil || len(events.Items) == 0 {
		return ""
	}
	last := slices.MaxFunc(events.Items, func(a, b corev1.Event) int { return timeOf(&a).Compare(timeOf(&b).Time) })
	return sanitize.Truncate(last.Message, maxProblem)
}

// timeOf returns the last time of an Event. Recorders of the newer API set no lastTimestamp.
func timeOf(event *corev1.Event) *metav1.Time {
	switch {
	case event.Series != nil:
		return &metav1.Time{Time: event.Series.LastObservedTime.Time}
	case event.LastTimestamp.IsZero():
		return &metav1.Time{Time: event.EventTime.Time}
	}
	return &event.LastTimestamp
}

// problemOfPod returns why a pod does not become ready, "" if it is ready or nothing is known.
func problemOfPod(pod *corev1.Pod) string {
	for _, condition := range pod.Status.Conditions {
		switch {
		case condition.Type == corev1.PodReady && condition.Status == corev1.ConditionTrue:
			return ""
		case condition.Type == corev1.PodScheduled && condition.Status == corev1.ConditionFalse:
			return condition.Reason + ": " + condition.Message
		}
	}
	for _, container := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		waiting := container.State.Waiting
		// The others are normal while a pod starts.
		if waiting != nil && waiting.Reason != "ContainerCreating" && waiting.Reason != "PodInitializing" && waiting.Reason != "" {
			return strings.TrimSuffix(waiting.Reason+": "+waiting.Message, ": ")
		}
		if ended := container.LastTerminationState.Terminated; ended != nil && ended.ExitCode != 0 {
			return fmt.Sprintf("container %s ended with exit code %d: %s", container.Name, ended.ExitCode, ended.Reason)
		}
	}
	return ""
}

// pool prints the state of the pool of a waiting task. It prints nothing if the pool cannot be read.
func (e *explainer) pool(ctx context.Context, task *batch.Task, tasks []batch.Task) error {
	if e.workersAreLocal() {
		return nil // its workers are no pods
	}
	name := task.Spec.Pool
	workers, err := e.s.api.Workers(e.s.namespace).List(ctx, metav1.ListOptions{LabelSelector: batch.LabelPool + "=" + name})
	if err != nil {
		return err
	}
	c, err := e.s.cluster()
	if err != nil {
		return err
	}
	set, err := c.AppsV1().StatefulSets(e.s.namespace).Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err) || err == nil && set.Labels[batch.LabelPool] != name:
		if len(workers.Items) == 0 {
			e.line("Pool", "%s: there is no such pool in namespace %s: %s pool create %s --image IMAGE creates it; %s pool list lists the others",
				name, e.s.namespace, e.program, name, e.program)
		}
		return nil // workers can name a pool without being pods
	case apierrors.IsForbidden(err):
		e.line("Pool", "%s: you may not read it", name)
		return nil
	case err != nil:
		return err
	}
	state := newPoolState(set, workers.Items, tasks)
	if state.coming > 0 {
		state.problem = problemOf(ctx, c, set)
	}
	e.line("Pool", "%s: %s", name, state.explain(task, e.program))
	return nil
}

// explain returns why a task that waits for the pool is not started.
func (p *poolState) explain(task *batch.Task, program string) string {
	replicas := int(ptr.Deref(p.set.Spec.Replicas, 1))
	switch {
	case p.invalid != nil:
		return "invalid, so it is not scaled: " + strings.ReplaceAll(p.invalid.Error(), "\n", "; ")
	case p.set.DeletionTimestamp != nil:
		return "it is being deleted"
	}
	for _, name := range sortedKeys(task.Spec.Resources.Requests) {
		wanted, offered := task.Spec.Resources.Requests[name], p.settings.Worker.Allocatable[name]
		if wanted.Cmp(offered) > 0 {
			return fmt.Sprintf("none of its workers could run it: it requests %s %s, and each worker offers %s", wanted.String(), name, offered.String())
		}
	}
	workers := fmt.Sprintf("%d of %s ready", p.ready, plural(replicas, "worker"))
	switch {
	case p.coming > 0 && p.problem != "":
		return fmt.Sprintf("coming up: %s: %s", workers, p.problem)
	case p.scaledBy != "":
		text := fmt.Sprintf("paused: %s, and %s scales it in the place of leat-controller-manager", workers, p.scaledBy)
		if command := pool.ResumeCommand(p.set); command != "" {
			text += "; to end that: " + command
		}
		return text
	case p.coming > 0:
		return "coming up: " + workers
	case replicas >= int(p.settings.Max):
		return fmt.Sprintf("at its maximum: %s of at most %d; %s pool update %s --max N raises it", workers, p.settings.Max, program, p.set.Name)
	case replicas == 0:
		return "it has no workers yet: leat-controller-manager adds some when it has seen the task"
	}
	return fmt.Sprintf("%s, of at most %d", workers, p.settings.Max)
}
