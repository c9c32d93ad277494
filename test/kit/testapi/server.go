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

// Package testapi implements the typed client in memory, for tests of programs that use it. Requests go through the
// registries of the server, over a storage in memory: validation, fencing, binding, eviction and graceful deletion
// follow the rules that are served. It has no admission and no authorization.
package testapi

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	clienttesting "k8s.io/client-go/testing"

	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/apiserver/scheme"
	"github.com/leat-dev/leat/pkg/generated/clientset/versioned"
	"github.com/leat-dev/leat/pkg/generated/clientset/versioned/fake"
	typed "github.com/leat-dev/leat/pkg/generated/clientset/versioned/typed/batch/v1alpha1"
	registry "github.com/leat-dev/leat/pkg/registry/batch"
	"github.com/leat-dev/leat/pkg/registry/batch/task"
	"github.com/leat-dev/leat/pkg/registry/batch/taskset"
	"github.com/leat-dev/leat/pkg/registry/batch/worker"
)

// Server holds objects and serves the clients that Client returns. It is safe for concurrent use.
type Server struct {
	storages map[string]rest.Storage // by resource, or resource/subresource
}

// New returns a server without objects.
func New() *Server {
	stores, err := registry.NewStores(scheme.Scheme, newMemoryStorage())
	if err != nil {
		panic(err) // the storage in memory returns no error
	}
	return &Server{stores.Storage(task.Subresources{}, taskset.Subresources{}, worker.Subresources{})[v1alpha1.SchemeGroupVersion.Version]}
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
	c.AddReactor("*", "*", func(action clienttesting.Action) (bool, runtime.Object, error) {
		obj, err := s.handle(action)
		return true, obj, err
	})
	c.AddWatchReactor("*", func(action clienttesting.Action) (bool, watch.Interface, error) {
		w, err := s.watch(action.(clienttesting.WatchActionImpl))
		return true, w, err
	})
	return c
}

// BatchV1alpha1 returns the client of the API group. It calls the hooks for tasks.
func (c *Client) BatchV1alpha1() typed.BatchV1alpha1Interface {
	return group{c.Clientset.BatchV1alpha1(), c}
}

// Count returns how many requests the client has made with a verb ("create", "update", …) for a resource ("tasks",
// "tasks/status", "tasks/binding", …).
func (c *Client) Count(verb, resource string) int {
	n := 0
	for _, a := range c.Actions() {
		if a.GetVerb() == verb && path(a) == resource {
			n++
		}
	}
	return n
}

// path returns the path of the storage that serves an action.
func path(action clienttesting.Action) string {
	if sub := action.GetSubresource(); sub != "" {
		return action.GetResource().Resource + "/" + sub
	}
	return action.GetResource().Resource
}

// requestContext returns the context that the handlers of the server give to storages.
func requestContext(action clienttesting.Action, name string) context.Context {
	resource := action.GetResource()
	ctx := genericapirequest.WithNamespace(context.Background(), action.GetNamespace())
	return genericapirequest.WithRequestInfo(ctx, &genericapirequest.RequestInfo{
		IsResourceRequest: true, Verb: action.GetVerb(), APIPrefix: "apis", APIGroup: resource.Group, APIVersion: resource.Version,
		Resource: resource.Resource, Subresource: action.GetSubresource(), Namespace: action.GetNamespace(), Name: name,
	})
}

func (s *Server) handle(action clienttesting.Action) (runtime.Object, error) {
	switch a := action.(type) {
	case clienttesting.GetActionImpl:
		return versionedObject(s.storages[path(a)].(rest.Getter).Get(requestContext(a, a.Name), a.Name, &metav1.GetOptions{}))
	case clienttesting.ListActionImpl:
		options, err := listOptions(a.ListOptions)
		if err != nil {
			return nil, err
		}
		return versionedObject(s.storages[path(a)].(rest.Lister).List(requestContext(a, ""), options))
	case clienttesting.CreateActionImpl:
		return s.create(a)
	case clienttesting.UpdateActionImpl:
		obj, m, err := internalObject(a.Object)
		if err != nil {
			return nil, err
		}
		updated, _, err := s.storages[path(a)].(rest.Updater).Update(requestContext(a, m.GetName()), m.GetName(), rest.DefaultUpdatedObjectInfo(obj),
			rest.ValidateAllObjectFunc, rest.ValidateAllObjectUpdateFunc, false, &metav1.UpdateOptions{})
		return versionedObject(updated, err)
	case clienttesting.DeleteActionImpl:
		_, _, err := s.storages[path(a)].(rest.GracefulDeleter).Delete(requestContext(a, a.Name), a.Name, rest.ValidateAllObjectFunc, &a.DeleteOptions)
		return nil, err
	}
	return nil, fmt.Errorf("testapi: %s %s is not implemented", action.GetVerb(), path(action))
}

// create creates an object, or a subresource of one. An object keeps its creationTimestamp if it has one, so that tests
// can create old objects.
func (s *Server) create(a clienttesting.CreateActionImpl) (runtime.Object, error) {
	obj, m, err := internalObject(a.Object)
	if err != nil {
		return nil, err
	}
	if a.Subresource != "" {
		return versionedObject(s.storages[path(a)].(rest.NamedCreater).Create(requestContext(a, a.Name), a.Name, obj, rest.ValidateAllObjectFunc, &metav1.CreateOptions{}))
	}
	m.SetNamespace(a.Namespace)
	ctx := requestContext(a, m.GetName())
	if created := m.GetCreationTimestamp(); !created.IsZero() {
		ctx = context.WithValue(ctx, createdKey{}, created)
	}
	return versionedObject(s.storages[path(a)].(rest.Creater).Create(ctx, obj, rest.ValidateAllObjectFunc, &metav1.CreateOptions{}))
}

func (s *Server) watch(a clienttesting.WatchActionImpl) (watch.Interface, error) {
	if a.ListOptions.ResourceVersion == "" {
		return nil, apierrors.NewBadRequest("testapi: a watch must start at the resourceVersion of a list")
	}
	storage, ok := s.storages[path(a)].(rest.Watcher)
	if !ok {
		return nil, apierrors.NewMethodNotSupported(a.GetResource().GroupResource(), "watch")
	}
	options, err := listOptions(a.ListOptions)
	if err != nil {
		return nil, err
	}
	w, err := storage.Watch(requestContext(a, ""), options)
	if err != nil {
		return nil, err
	}
	return watch.Filter(w, func(event watch.Event) (watch.Event, bool) {
		obj, err := versionedObject(event.Object, nil)
		if err != nil {
			return watch.Event{Type: watch.Error, Object: &apierrors.NewInternalError(err).ErrStatus}, true
		}
		event.Object = obj
		return event, true
	}), nil
}

// listOptions returns the options of a list or watch as the handlers of the server parse them.
func listOptions(o metav1.ListOptions) (*metainternalversion.ListOptions, error) {
	options := &metainternalversion.ListOptions{ResourceVersion: o.ResourceVersion, ResourceVersionMatch: o.ResourceVersionMatch}
	var err error
	if options.FieldSelector, err = fields.ParseSelector(o.FieldSelector); err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	if options.LabelSelector, err = labels.Parse(o.LabelSelector); err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	return options, nil
}

// internalObject returns a copy of a versioned object with defaults, in the internal version.
func internalObject(obj runtime.Object) (runtime.Object, metav1.Object, error) {
	obj = obj.DeepCopyObject()
	scheme.Scheme.Default(obj)
	internal, err := scheme.Scheme.ConvertToVersion(obj, schema.GroupVersion{Group: v1alpha1.GroupName, Version: runtime.APIVersionInternal})
	if err != nil {
		return nil, nil, err
	}
	m, err := meta.Accessor(internal)
	return internal, m, err
}

// versionedObject returns an object of a storage in the version of the client, without kind and apiVersion, as clients
// decode it.
func versionedObject(obj runtime.Object, err error) (runtime.Object, error) {
	if _, ok := obj.(*metav1.Status); ok || err != nil {
		return obj, err
	}
	converted, err := scheme.Scheme.ConvertToVersion(obj, v1alpha1.SchemeGroupVersion)
	if err != nil {
		return nil, err
	}
	converted.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	return converted, nil
}
