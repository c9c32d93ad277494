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

// Package testapi implements the typed client in memory, for tests of programs that use it. It has the server's rules
// for tasks, workers, worker leases and queues: optimistic concurrency, fencing by incarnation, binding, eviction,
// the crash limit, graceful deletion, and watches by field selector from the resource version of a list.
package testapi

import (
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/watch"
	clienttesting "k8s.io/client-go/testing"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/generated/clientset/versioned"
	"github.com/leat-dev/leat/pkg/generated/clientset/versioned/fake"
	"github.com/leat-dev/leat/pkg/generated/clientset/versioned/scheme"
	typed "github.com/leat-dev/leat/pkg/generated/clientset/versioned/typed/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/generated/kinds"
)

// Server holds objects and serves the clients that Client returns. It is safe for concurrent use.
type Server struct {
	mu      sync.Mutex
	version int64
	objects map[string]map[types.NamespacedName]runtime.Object
	history []change
	changed chan struct{} // closed, and replaced, when history grows
}

// change is one change of an object. before is nil for a creation, after is nil for a deletion.
type change struct {
	resource      string
	version       int64
	before, after runtime.Object
}

// New returns a server without objects.
func New() *Server {
	return &Server{objects: map[string]map[types.NamespacedName]runtime.Object{}, changed: make(chan struct{})}
}

// Client is a clientset that records its requests. A test can delay them and make them fail.
type Client struct {
	*fake.Clientset
	// Hook, unless nil, is called before each write to a task, and may block. If it returns an error, that is the
	// response. verb is bind, evict, updateStatus or delete. Hook must be set before the client is used.
	Hook func(verb, namespace, name string) error
	// After, unless nil, is called after each successful status update of a task. If it returns an error, that is the
	// response, as if the connection had broken.
	After func(namespace, name string) error
}

var _ versioned.Interface = &Client{}

// Client returns a new client of the server, with its own record of requests.
func (s *Server) Client() *Client {
	c := &Client{Clientset: &fake.Clientset{}}
	c.AddReactor("*", "*", s.react)
	c.AddWatchReactor("*", s.watch)
	return c
}

// Count returns how many requests the client has made with a verb ("create", "update", …) for a resource ("tasks",
// "tasks/status", "tasks/binding", …).
func (c *Client) Count(verb, resource string) int {
	n := 0
	for _, a := range c.Actions() {
		name := a.GetResource().Resource
		if a.GetSubresource() != "" {
			name += "/" + a.GetSubresource()
		}
		if a.GetVerb() == verb && name == resource {
			n++
		}
	}
	return n
}

func (s *Server) react(action clienttesting.Action) (bool, runtime.Object, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	obj, err := s.handle(action)
	return true, obj, err
}

func (s *Server) handle(action clienttesting.Action) (runtime.Object, error) {
	resource, namespace := action.GetResource(), action.GetNamespace()
	switch a := action.(type) {
	case clienttesting.GetActionImpl:
		return s.get(resource, namespace, a.Name)
	case clienttesting.ListActionImpl:
		return s.list(resource.Resource, namespace, a.ListOptions)
	case clienttesting.CreateActionImpl:
		switch a.Subresource {
		case "binding":
			return &metav1.Status{Status: metav1.StatusSuccess}, s.bind(resource, namespace, a.Name, a.Object.(*batch.Binding))
		case "eviction":
			return &metav1.Status{Status: metav1.StatusSuccess}, s.evict(resource, namespace, a.Name, a.Object.(*batch.Eviction))
		}
		return s.create(resource, namespace, a.Object)
	case clienttesting.UpdateActionImpl:
		return s.update(resource, namespace, a.Subresource, a.Object)
	case clienttesting.DeleteActionImpl:
		return nil, s.delete(resource, namespace, a.Name, a.DeleteOptions)
	}
	return nil, fmt.Errorf("testapi: %s %s is not implemented", action.GetVerb(), resource.Resource)
}

func (s *Server) get(resource schema.GroupVersionResource, namespace, name string) (runtime.Object, error) {
	obj := s.objects[resource.Resource][types.NamespacedName{Namespace: namespace, Name: name}]
	if obj == nil {
		return nil, apierrors.NewNotFound(resource.GroupResource(), name)
	}
	return obj.DeepCopyObject(), nil
}

func (s *Server) list(resource, namespace string, opts metav1.ListOptions) (runtime.Object, error) {
	selector, err := fields.ParseSelector(opts.FieldSelector)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	var items []runtime.Object
	for _, obj := range s.objects[resource] {
		if matches(obj, namespace, selector) {
			items = append(items, obj.DeepCopyObject())
		}
	}
	at := slices.IndexFunc(kinds.All, func(kind kinds.Kind) bool { return kind.Resource == resource })
	if at < 0 {
		return nil, apierrors.NewBadRequest("unknown resource " + resource)
	}
	list, err := scheme.Scheme.New(batch.SchemeGroupVersion.WithKind(kinds.All[at].Name + "List"))
	if err != nil {
		return nil, err
	}
	list.(metav1.ListInterface).SetResourceVersion(strconv.FormatInt(s.version, 10))
	return list, meta.SetList(list, items)
}

func (s *Server) create(resource schema.GroupVersionResource, namespace string, obj runtime.Object) (runtime.Object, error) {
	m := obj.(metav1.Object)
	if s.objects[resource.Resource][types.NamespacedName{Namespace: namespace, Name: m.GetName()}] != nil {
		return nil, apierrors.NewAlreadyExists(resource.GroupResource(), m.GetName())
	}
	m.SetNamespace(namespace)
	m.SetUID(uuid.NewUUID())
	if m.GetCreationTimestamp().Time.IsZero() {
		m.SetCreationTimestamp(metav1.Now())
	}
	switch o := obj.(type) {
	case *batch.Task:
		o.Status = batch.TaskStatus{Phase: batch.TaskPending}
	case *batch.Worker:
		o.Status = batch.WorkerStatus{}
	case *batch.TaskQueue:
		o.Status = batch.TaskQueueStatus{}
	}
	return s.store(resource.Resource, nil, obj), nil
}

func (s *Server) update(resource schema.GroupVersionResource, namespace, subresource string, obj runtime.Object) (runtime.Object, error) {
	m := obj.(metav1.Object)
	old, err := s.get(resource, namespace, m.GetName())
	if err != nil {
		return nil, err
	}
	switch m.GetResourceVersion() {
	case old.(metav1.Object).GetResourceVersion():
	case "":
		return nil, apierrors.NewBadRequest("metadata.resourceVersion must be set for an update")
	default:
		return nil, conflict(resource, m.GetName(), "the object has been modified")
	}
	switch o := obj.(type) {
	case *batch.Task:
		stored := old.DeepCopyObject().(*batch.Task)
		if subresource == "status" {
			if o.Status.Incarnation != stored.Status.Incarnation {
				return nil, conflict(resource, o.Name, "the task is bound to another incarnation")
			}
			if o.Status.Attempts < stored.Status.Attempts {
				return nil, conflict(resource, o.Name, "attempts cannot go back")
			}
			stored.Status = o.Status
		} else {
			stored.Spec, stored.Labels, stored.Annotations = o.Spec, o.Labels, o.Annotations
		}
		obj = stored
	case *batch.Worker:
		stored := old.DeepCopyObject().(*batch.Worker)
		if subresource == "status" {
			stored.Status = o.Status
		} else {
			stored.Spec, stored.Labels = o.Spec, o.Labels
		}
		obj = stored
	case *batch.TaskQueue:
		stored := old.DeepCopyObject().(*batch.TaskQueue)
		if subresource == "status" {
			stored.Status = o.Status
		} else {
			stored.Spec, stored.Labels = o.Spec, o.Labels
		}
		obj = stored
	}
	return s.store(resource.Resource, old, obj), nil
}

func (s *Server) delete(resource schema.GroupVersionResource, namespace, name string, opts metav1.DeleteOptions) error {
	old, err := s.get(resource, namespace, name)
	if err != nil {
		return err
	}
	if err := checkPreconditions(resource, old.(metav1.Object), opts.Preconditions); err != nil {
		return err
	}
	if task, ok := old.(*batch.Task); ok && task.Spec.WorkerName != "" && !task.Status.Phase.Finished() {
		grace := int64(30)
		switch {
		case opts.GracePeriodSeconds != nil:
			grace = *opts.GracePeriodSeconds
		case task.Spec.TerminationGracePeriodSeconds != nil:
			grace = *task.Spec.TerminationGracePeriodSeconds
		}
		if grace > 0 {
			end := metav1.NewTime(time.Now().Add(time.Duration(grace) * time.Second))
			task = task.DeepCopy()
			task.DeletionTimestamp, task.DeletionGracePeriodSeconds = &end, &grace
			s.store(resource.Resource, old, task)
			return nil
		}
	}
	s.store(resource.Resource, old, nil)
	return nil
}

func (s *Server) bind(resource schema.GroupVersionResource, namespace, name string, binding *batch.Binding) error {
	old, err := s.get(resource, namespace, name)
	if err != nil {
		return err
	}
	task := old.DeepCopyObject().(*batch.Task)
	switch {
	case binding.UID != "" && binding.UID != task.UID:
		return conflict(resource, name, "another task has that name")
	case binding.ResourceVersion != "" && binding.ResourceVersion != task.ResourceVersion:
		return conflict(resource, name, "the task has changed")
	case task.Spec.WorkerName != "" || task.Status.Phase.Finished() || task.DeletionTimestamp != nil || len(task.Spec.SchedulingGates) > 0:
		return conflict(resource, name, "the task cannot be bound")
	}
	task.Spec.WorkerName, task.Status.Incarnation = binding.Target.Name, binding.Target.Incarnation
	meta.SetStatusCondition(&task.Status.Conditions, metav1.Condition{
		Type: batch.TaskScheduled, Status: metav1.ConditionTrue, Reason: "Scheduled",
	})
	s.store(resource.Resource, old, task)
	return nil
}

func (s *Server) evict(resource schema.GroupVersionResource, namespace, name string, eviction *batch.Eviction) error {
	old, err := s.get(resource, namespace, name)
	if err != nil {
		return err
	}
	task := old.DeepCopyObject().(*batch.Task)
	if err := checkPreconditions(resource, task, eviction.Preconditions); err != nil {
		return err
	}
	if task.Spec.WorkerName == "" || task.Status.Phase.Finished() {
		return conflict(resource, name, "the task cannot be evicted")
	}
	if eviction.WorkerCrashed {
		task.Status.WorkerCrashes++
		if limit := task.Spec.CrashLimit; limit != nil && task.Status.WorkerCrashes >= *limit {
			now := metav1.Now()
			task.Status.Phase, task.Status.CompletionTime = batch.TaskFailed, &now
			task.Status.State = batch.TaskState{Terminated: &batch.TaskStateTerminated{
				Reason: batch.TaskReasonWorkerCrashed, Message: eviction.Message, StartedAt: now, FinishedAt: now,
			}}
			s.store(resource.Resource, old, task)
			return nil
		}
	}
	task.Spec.WorkerName, task.Status.Incarnation = "", ""
	task.Status.Phase = batch.TaskPending
	task.Status.State = batch.TaskState{Waiting: &batch.TaskStateWaiting{Reason: eviction.Reason}}
	task.Status.Disruptions++
	meta.SetStatusCondition(&task.Status.Conditions, metav1.Condition{
		Type: batch.DisruptionTarget, Status: metav1.ConditionTrue, Reason: eviction.Reason, Message: eviction.Message,
	})
	meta.RemoveStatusCondition(&task.Status.Conditions, batch.TaskScheduled)
	s.store(resource.Resource, old, task)
	return nil
}

// store replaces before by after and wakes the watches. It returns a copy of after.
func (s *Server) store(resource string, before, after runtime.Object) runtime.Object {
	s.version++
	m := metav1.Object(nil)
	if after != nil {
		m = after.(metav1.Object)
	} else {
		before = before.DeepCopyObject()
		m = before.(metav1.Object)
	}
	m.SetResourceVersion(strconv.FormatInt(s.version, 10))
	if s.objects[resource] == nil {
		s.objects[resource] = map[types.NamespacedName]runtime.Object{}
	}
	name := types.NamespacedName{Namespace: m.GetNamespace(), Name: m.GetName()}
	if after != nil {
		after = after.DeepCopyObject()
		s.objects[resource][name] = after
	} else {
		delete(s.objects[resource], name)
	}
	s.history = append(s.history, change{resource: resource, version: s.version, before: before, after: after})
	close(s.changed)
	s.changed = make(chan struct{})
	if after == nil {
		return nil
	}
	return after.DeepCopyObject()
}

func checkPreconditions(resource schema.GroupVersionResource, obj metav1.Object, want *metav1.Preconditions) error {
	if want == nil {
		return nil
	}
	if want.UID != nil && *want.UID != obj.GetUID() || want.ResourceVersion != nil && *want.ResourceVersion != obj.GetResourceVersion() {
		return conflict(resource, obj.GetName(), "a precondition does not hold")
	}
	return nil
}

func conflict(resource schema.GroupVersionResource, name, message string) error {
	return apierrors.NewConflict(resource.GroupResource(), name, fmt.Errorf("%s", message))
}

func matches(obj runtime.Object, namespace string, selector fields.Selector) bool {
	if obj == nil {
		return false
	}
	m := obj.(metav1.Object)
	if namespace != "" && namespace != m.GetNamespace() {
		return false
	}
	set := fields.Set{"metadata.name": m.GetName(), "metadata.namespace": m.GetNamespace()}
	if task, ok := obj.(*batch.Task); ok {
		set["spec.workerName"], set["spec.queueName"], set["status.phase"] = task.Spec.WorkerName, task.Spec.QueueName, string(task.Status.Phase)
	}
	return selector.Matches(set)
}

// watch sends the changes after the requested version. An object that starts to match the selector is added, and one
// that stops to match is deleted.
func (s *Server) watch(action clienttesting.Action) (bool, watch.Interface, error) {
	opts := action.(clienttesting.WatchActionImpl).ListOptions
	selector, err := fields.ParseSelector(opts.FieldSelector)
	if err != nil {
		return true, nil, apierrors.NewBadRequest(err.Error())
	}
	from, err := strconv.ParseInt(opts.ResourceVersion, 10, 64)
	if err != nil {
		return true, nil, apierrors.NewBadRequest("testapi: a watch must start at the resourceVersion of a list")
	}
	out := make(chan watch.Event)
	proxy := watch.NewProxyWatcher(out)
	go func() {
		defer close(out)
		next := 0
		for {
			s.mu.Lock()
			changes, changed := slices.Clone(s.history[next:]), s.changed
			next = len(s.history)
			s.mu.Unlock()
			for _, c := range changes {
				if c.version <= from || c.resource != action.GetResource().Resource {
					continue
				}
				was, is := matches(c.before, action.GetNamespace(), selector), matches(c.after, action.GetNamespace(), selector)
				event := watch.Event{}
				switch {
				case is && was:
					event = watch.Event{Type: watch.Modified, Object: c.after.DeepCopyObject()}
				case is:
					event = watch.Event{Type: watch.Added, Object: c.after.DeepCopyObject()}
				case was && c.after == nil:
					event = watch.Event{Type: watch.Deleted, Object: c.before.DeepCopyObject()}
				case was:
					gone := c.before.DeepCopyObject()
					gone.(metav1.Object).SetResourceVersion(strconv.FormatInt(c.version, 10))
					event = watch.Event{Type: watch.Deleted, Object: gone}
				default:
					continue
				}
				select {
				case out <- event:
				case <-proxy.StopChan():
					return
				}
			}
			select {
			case <-changed:
			case <-proxy.StopChan():
				return
			}
		}
	}()
	return true, proxy, nil
}

// BatchV1alpha1 returns the client of the API group. It calls the hooks for tasks.
func (c *Client) BatchV1alpha1() typed.BatchV1alpha1Interface {
	return group{c.Clientset.BatchV1alpha1(), c}
}
