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

// Package worker authorizes workers, as the Node authorizer authorizes kubelets: each may use its own Worker, its own
// WorkerLease and the tasks bound to it, and nothing else. It decides locally: workers cost the host cluster no
// reviews.
package worker

import (
	"context"
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/leat-dev/leat/apis/batch"
	"github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// SelectorField is the field with which a worker must select its own tasks in lists and watches.
const SelectorField = "spec.workerName"

// IsWorker reports whether a user is in the group of workers. Refuse such a user wherever workers are restricted if it
// has no Identity.
func IsWorker(u user.Info) bool {
	return u != nil && slices.Contains(u.GetGroups(), v1alpha1.WorkersGroup)
}

// Identity returns the namespace and the name of the user's Worker. ok is false for a user that is not in WorkersGroup,
// or whose name is not WorkerUserPrefix followed by a valid namespace and a valid object name.
func Identity(u user.Info) (namespace, name string, ok bool) {
	if !IsWorker(u) {
		return "", "", false
	}
	rest, found := strings.CutPrefix(u.GetName(), v1alpha1.WorkerUserPrefix)
	if !found {
		return "", "", false
	}
	// Neither part can contain a colon, so the name is unambiguous.
	namespace, name, _ = strings.Cut(rest, ":")
	if len(apivalidation.ValidateNamespaceName(namespace, false)) > 0 || len(apivalidation.NameIsDNSSubdomain(name, false)) > 0 {
		return "", "", false
	}
	return namespace, name, true
}

// TaskGetter returns a task, or a NotFound error. The authorizer does not change the task. Must be safe for concurrent
// use.
type TaskGetter func(ctx context.Context, namespace, name string) (*batch.Task, error)

// WorkerGetter returns a Worker, or a NotFound error. The authorizer does not change the Worker. Must be safe for
// concurrent use. The authorizer calls the first getter for every request of a worker, so it should be as cheap as a
// map lookup.
type WorkerGetter func(ctx context.Context, namespace, name string) (*batch.Worker, error)

// New returns an authorizer for workers. It allows a worker what it needs, denies everything if its Worker has
// spec.denied, and has no opinion on other requests and on other users.
//
// The authorizer calls getters in order. The first should read the watch cache, the last the store.
//
// To find out whether a task is bound to the worker, it calls getters until one returns the task bound. A worker that
// learned of its task from another replica is thus not refused by a replica whose watch cache lags. If no getter does,
// the error of a getter that failed is returned.
//
// To find out whether a worker is denied, it calls getters until one returns the Worker. A worker that has not
// registered has no Worker and is not denied. If a getter fails and none returns the Worker, the worker is refused with
// the error.
//
// The path of a create holds no name. The WorkerRestriction admission plugin checks the name.
func New(workers []WorkerGetter, tasks []TaskGetter) authorizer.Authorizer {
	a := &workerAuthorizer{workers, tasks}
	return authorizer.AuthorizerFunc(a.authorize)
}

type workerAuthorizer struct {
	workers []WorkerGetter
	tasks   []TaskGetter
}

func (a *workerAuthorizer) authorize(ctx context.Context, attrs authorizer.Attributes) (authorizer.Decision, string, error) {
	if !IsWorker(attrs.GetUser()) {
		return authorizer.DecisionNoOpinion, "", nil
	}
	namespace, name, ok := Identity(attrs.GetUser())
	if !ok {
		return noOpinion("a user of group %s must be named %s<namespace>:<name>, not %q", v1alpha1.WorkersGroup, v1alpha1.WorkerUserPrefix, attrs.GetUser().GetName())
	}
	switch denied, err := a.denied(ctx, namespace, name); {
	case err != nil:
		err = fmt.Errorf("cannot find out whether worker %s/%s is denied: %w", namespace, name, err)
		return authorizer.DecisionNoOpinion, err.Error(), err
	case denied:
		// Deny, so that no other authorizer can allow it.
		return authorizer.DecisionDeny, fmt.Sprintf("worker %s/%s is denied: its Worker has spec.denied", namespace, name), nil
	}
	if !attrs.IsResourceRequest() || attrs.GetAPIGroup() != batch.GroupName {
		return noOpinion("a worker may only use resources of %s", batch.GroupName)
	}
	if attrs.GetNamespace() != namespace {
		return noOpinion("worker %s may only use resources of its own namespace %q", name, namespace)
	}

	resource := attrs.GetResource()
	if subresource := attrs.GetSubresource(); subresource != "" {
		resource += "/" + subresource
	}
	switch verb := attrs.GetVerb(); resource {
	case "workers", "workerleases":
		switch {
		case verb == "create" && attrs.GetName() == "":
			return allow()
		case verb == "get" || verb == "update":
			return allowOwn(attrs, name)
		}
		return noOpinion("a worker may only create, get and update its own %s", resource)

	case "workers/status":
		switch verb {
		case "get", "update":
			return allowOwn(attrs, name)
		}
		return noOpinion("a worker may only get and update its own workers/status")

	case "workers/archive":
		if verb == "create" {
			return allowOwn(attrs, name)
		}
		return noOpinion("a worker may only create its own workers/archive")

	case "tasks":
		switch verb {
		case "list", "watch":
			return allowSelected(attrs, name)
		case "get":
			return a.allowBound(ctx, attrs, name, "bound to the worker", isBound)
		case "delete":
			return a.allowBound(ctx, attrs, name, "bound to the worker and being deleted", isBoundAndBeingDeleted)
		}
		return noOpinion("a worker may only get, list, watch and delete tasks")

	case "tasks/status":
		if verb == "update" {
			return a.allowBound(ctx, attrs, name, "bound to the worker", isBound)
		}
		return noOpinion("a worker may only update tasks/status")

	case "tasks/eviction":
		if verb == "create" {
			return a.allowBound(ctx, attrs, name, "bound to the worker", isBound)
		}
		return noOpinion("a worker may only create tasks/eviction")
	}
	return noOpinion("a worker may not use %s: only workers, workers/status, workers/archive, workerleases, tasks, tasks/status and tasks/eviction", resource)
}

// denied reports whether the Worker of that name has spec.denied.
func (a *workerAuthorizer) denied(ctx context.Context, namespace, name string) (bool, error) {
	var failed error
	for _, get := range a.workers {
		worker, err := get(ctx, namespace, name)
		switch {
		case err == nil:
			return worker.Spec.Denied, nil
		case !apierrors.IsNotFound(err):
			failed = err
		}
	}
	return false, failed
}

func allow() (authorizer.Decision, string, error) {
	return authorizer.DecisionAllow, "", nil
}

func noOpinion(format string, args ...any) (authorizer.Decision, string, error) {
	return authorizer.DecisionNoOpinion, fmt.Sprintf(format, args...), nil
}

func allowOwn(attrs authorizer.Attributes, name string) (authorizer.Decision, string, error) {
	if attrs.GetName() != name {
		return noOpinion("worker %s may only %s the %s of its own name, not %q", name, attrs.GetVerb(), attrs.GetResource(), attrs.GetName())
	}
	return allow()
}

// allowSelected allows requests that select only the worker's own tasks. Requirements are ANDed, so one on the worker
// is enough, even if others could not be parsed.
func allowSelected(attrs authorizer.Attributes, name string) (authorizer.Decision, string, error) {
	requirements, err := attrs.GetFieldSelector()
	if slices.ContainsFunc(requirements, func(r fields.Requirement) bool {
		return r.Field == SelectorField && (r.Operator == selection.Equals || r.Operator == selection.DoubleEquals) && r.Value == name
	}) {
		return allow()
	}
	if err != nil {
		return noOpinion("worker %s may only %s tasks with the field selector %s=%s, and this one cannot be parsed: %v",
			name, attrs.GetVerb(), SelectorField, name, err)
	}
	return noOpinion("worker %s may only %s tasks with the field selector %s=%s", name, attrs.GetVerb(), SelectorField, name)
}

func isBound(task *batch.Task, worker string) bool {
	return task.Spec.WorkerName == worker
}

func isBoundAndBeingDeleted(task *batch.Task, worker string) bool {
	return isBound(task, worker) && task.DeletionTimestamp != nil
}

// allowBound allows requests for a task that satisfies the condition, which description words for reasons. The reason
// does not reveal whether the task exists.
func (a *workerAuthorizer) allowBound(ctx context.Context, attrs authorizer.Attributes, worker, description string,
	condition func(task *batch.Task, worker string) bool) (authorizer.Decision, string, error) {
	if attrs.GetName() == "" {
		return noOpinion("worker %s may only %s tasks by name", worker, attrs.GetVerb())
	}
	var failed error
	for _, get := range a.tasks {
		task, err := get(ctx, attrs.GetNamespace(), attrs.GetName())
		switch {
		case err == nil && condition(task, worker):
			return allow()
		case err != nil && !apierrors.IsNotFound(err):
			failed = err
		}
	}
	if failed != nil {
		err := fmt.Errorf("cannot find out whether task %s/%s is %s: %w", attrs.GetNamespace(), attrs.GetName(), description, failed)
		return authorizer.DecisionNoOpinion, err.Error(), err
	}
	return noOpinion("worker %s may only do this to a task that is %s", worker, description)
}
