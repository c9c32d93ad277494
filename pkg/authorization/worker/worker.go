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

// Package worker authorizes workers, as the Node authorizer does kubelets: each to its own Worker, its own WorkerLease and
// the tasks bound to it, and nothing more. It is local, so that no host review is spent on a task.
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
)

const (
	// Group is the group that every worker is in: the organization of its client certificate.
	Group = "leat:workers"
	// NamePrefix begins the user name of every worker; "<namespace>:<name>" follows.
	NamePrefix = "leat:worker:"
	// SelectorField is the field that a worker's lists and watches of tasks must select its own name by.
	SelectorField = "spec.workerName"
)

// IsWorker tells whether a user claims to be a worker. One that does, and that has no Identity, must be refused whatever
// is kept to a worker's own.
func IsWorker(u user.Info) bool {
	return u != nil && slices.Contains(u.GetGroups(), Group)
}

// Identity returns the namespace and the name of the Worker that a user is. It is not ok for a user that is not in Group,
// or whose name is not NamePrefix with a valid namespace and a valid object name.
func Identity(u user.Info) (namespace, name string, ok bool) {
	if !IsWorker(u) {
		return "", "", false
	}
	rest, found := strings.CutPrefix(u.GetName(), NamePrefix)
	if !found {
		return "", "", false
	}
	// Neither part can hold a colon, so that there is one way only to read the name.
	namespace, name, _ = strings.Cut(rest, ":")
	if len(apivalidation.ValidateNamespaceName(namespace, false)) > 0 || len(apivalidation.NameIsDNSSubdomain(name, false)) > 0 {
		return "", "", false
	}
	return namespace, name, true
}

// TaskGetter returns the task of that namespace and name, which is not changed. If there is none, the error is a NotFound
// error. It is called by many requests at a time.
type TaskGetter func(ctx context.Context, namespace, name string) (*batch.Task, error)

// WorkerGetter returns the Worker of that namespace and name, as TaskGetter does tasks. It is called for each request of a worker, so
// the first of several must be no dearer than to look into a map.
type WorkerGetter func(ctx context.Context, namespace, name string) (*batch.Worker, error)

// New returns an authorizer that allows workers what they need, refuses all to those whose Worker has spec.denied, and has no
// opinion on anything else, nor on anyone else.
//
// Getters are asked in turn, the cheapest first. A watch cache may thus come first, and the store itself after it.
//
// Whether a task is bound to a worker is asked until one getter shows that it is: a worker that was told of its task by another
// replica is not refused by one that lags. A getter that fails never allows; its error is returned if no other getter allows.
//
// Whether a worker is denied is asked until one getter shows its Worker. A worker without a Worker, which has yet to register, is
// not denied. If it is not known whether there is one, the worker is refused, and the error returned.
//
// Creates carry no name in their path: the WorkerRestriction admission plugin must check it.
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
		return noOpinion("a user of group %s must be named %s<namespace>:<name>, not %q", Group, NamePrefix, attrs.GetUser().GetName())
	}
	switch denied, err := a.denied(ctx, namespace, name); {
	case err != nil:
		err = fmt.Errorf("whether worker %s/%s is denied is not known: %w", namespace, name, err)
		return authorizer.DecisionNoOpinion, err.Error(), err
	case denied:
		// Not even what others would allow it.
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
	return noOpinion("a worker may not use %s: only workers, workers/status, workerleases, tasks, tasks/status and tasks/eviction", resource)
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

// allowSelected allows what is narrowed to the worker's own tasks. Requirements narrow each other, so one is enough, and
// those that could not be parsed do not matter beside it.
func allowSelected(attrs authorizer.Attributes, name string) (authorizer.Decision, string, error) {
	requirements, err := attrs.GetFieldSelector()
	if slices.ContainsFunc(requirements, func(r fields.Requirement) bool {
		return r.Field == SelectorField && (r.Operator == selection.Equals || r.Operator == selection.DoubleEquals) && r.Value == name
	}) {
		return allow()
	}
	if err != nil {
		return noOpinion("worker %s may only %s tasks with the field selector %s=%s, and this one cannot be parsed: %v", name, attrs.GetVerb(), SelectorField, name, err)
	}
	return noOpinion("worker %s may only %s tasks with the field selector %s=%s", name, attrs.GetVerb(), SelectorField, name)
}

func isBound(task *batch.Task, worker string) bool {
	return task.Spec.WorkerName == worker
}

func isBoundAndBeingDeleted(task *batch.Task, worker string) bool {
	return isBound(task, worker) && task.DeletionTimestamp != nil
}

// allowBound allows what is done to a task that is as it must be. Whether there is such a task is not told.
func (a *workerAuthorizer) allowBound(ctx context.Context, attrs authorizer.Attributes, worker, must string, is func(task *batch.Task, worker string) bool) (authorizer.Decision, string, error) {
	if attrs.GetName() == "" {
		return noOpinion("worker %s may only %s tasks by name", worker, attrs.GetVerb())
	}
	var failed error
	for _, get := range a.tasks {
		task, err := get(ctx, attrs.GetNamespace(), attrs.GetName())
		switch {
		case err == nil && is(task, worker):
			return allow()
		case err != nil && !apierrors.IsNotFound(err):
			failed = err
		}
	}
	if failed != nil {
		err := fmt.Errorf("whether task %s/%s is %s is not known: %w", attrs.GetNamespace(), attrs.GetName(), must, failed)
		return authorizer.DecisionNoOpinion, err.Error(), err
	}
	return noOpinion("worker %s may only do this to a task that is %s", worker, must)
}
