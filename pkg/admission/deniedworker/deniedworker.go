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

// Package deniedworker keeps the Workers that deny a worker its rights. A worker that registers makes a new Worker, which denies it
// nothing: so to delete a denied Worker would be to allow the worker again, by accident.
package deniedworker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"

	"github.com/leat-dev/leat/apis/batch"
)

const (
	// PluginName is the name of the plugin.
	PluginName = "DeniedWorker"
	// lookupTimeout is how long the host may take.
	lookupTimeout = 3 * time.Second
)

// Register registers the plugin. It has no configuration.
func Register(plugins *admission.Plugins) {
	plugins.Register(PluginName, func(io.Reader) (admission.Interface, error) {
		return New(), nil
	})
}

// New returns the plugin. It refuses to delete Workers that have spec.denied, one by one or as a collection, unless their namespace
// is gone or being deleted. Initializer gives it the host that knows; without one no namespace is ever deleted.
func New() admission.ValidationInterface {
	return &plugin{Handler: admission.NewHandler(admission.Delete)}
}

type plugin struct {
	*admission.Handler
	host corev1client.NamespacesGetter
}

// Initializer gives the plugin the host to ask for namespaces. It asks for each deletion of a denied Worker, which are few.
func Initializer(host corev1client.NamespacesGetter) admission.PluginInitializer {
	return initializer{host}
}

type initializer struct {
	host corev1client.NamespacesGetter
}

// Initialize implements admission.PluginInitializer.
func (i initializer) Initialize(to admission.Interface) {
	if p, ok := to.(*plugin); ok {
		p.host = i.host
	}
}

// Validate returns a Forbidden error that says what to do first.
func (p *plugin) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	worker, ok := a.GetOldObject().(*batch.Worker)
	if !ok || a.GetSubresource() != "" || !worker.Spec.Denied {
		return nil
	}
	ended, err := p.namespaceEnds(ctx, worker.Namespace)
	switch {
	case err != nil:
		status := apierrors.NewServiceUnavailable(fmt.Sprintf(
			"worker %s is denied and kept unless its namespace %s is being deleted, of which the host does not say: %v: try again", worker.Name, worker.Namespace, err))
		status.ErrStatus.Details = &metav1.StatusDetails{Kind: "namespaces", Name: worker.Namespace, RetryAfterSeconds: 1}
		return status
	case ended:
		return nil
	}
	return admission.NewForbidden(a, errors.New(
		"spec.denied is true, and without this Worker its credentials would count again: set spec.denied to false first, if they should"))
}

// namespaceEnds reports whether the namespace is gone or being deleted.
func (p *plugin) namespaceEnds(ctx context.Context, name string) (bool, error) {
	if p.host == nil {
		return false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	namespace, err := p.host.Namespaces().Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return true, nil
	case err != nil:
		return false, err
	}
	return namespace.DeletionTimestamp != nil || namespace.Status.Phase == corev1.NamespaceTerminating, nil
}
