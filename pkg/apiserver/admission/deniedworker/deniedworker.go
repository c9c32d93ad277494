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

// Package deniedworker protects Workers with spec.denied from deletion. A worker that registers again gets a new
// Worker, which is not denied, so deleting a denied Worker would allow the worker again by accident.
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
	// lookupTimeout bounds the read of a namespace from the host.
	lookupTimeout = 3 * time.Second
)

// Register registers the plugin. It has no configuration.
func Register(plugins *admission.Plugins) {
	plugins.Register(PluginName, func(io.Reader) (admission.Interface, error) {
		return New(), nil
	})
}

// New returns the plugin. It refuses to delete Workers with spec.denied, one by one or as a collection, unless their
// namespace is gone or terminating. Initializer sets the host to read namespaces from. Without a host, in standalone
// mode, namespaces are never deleted.
func New() admission.ValidationInterface {
	return &plugin{Handler: admission.NewHandler(admission.Delete)}
}

type plugin struct {
	*admission.Handler
	host corev1client.NamespacesGetter
}

// Initializer returns an initializer that sets the host to read namespaces from. The plugin reads one for every
// deletion of a denied Worker, which is rare.
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

// Validate implements admission.ValidationInterface. It returns a Forbidden error that explains how to allow the
// worker.
func (p *plugin) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	worker, ok := a.GetOldObject().(*batch.Worker)
	if !ok || a.GetSubresource() != "" || !worker.Spec.Denied {
		return nil
	}
	terminating, err := p.isTerminating(ctx, worker.Namespace)
	switch {
	case err != nil:
		status := apierrors.NewServiceUnavailable(fmt.Sprintf(
			"worker %s is denied and may be deleted only with its namespace %s, and the host did not answer whether that is being deleted: %v: try again",
			worker.Name, worker.Namespace, err))
		status.ErrStatus.Details = &metav1.StatusDetails{Kind: "namespaces", Name: worker.Namespace, RetryAfterSeconds: 1}
		return status
	case terminating:
		return nil
	}
	return admission.NewForbidden(a, errors.New(
		"spec.denied is true, and without this Worker its credentials would be valid again: to allow the worker, set spec.denied to false first"))
}

// isTerminating reports whether the namespace is gone or being deleted.
func (p *plugin) isTerminating(ctx context.Context, name string) (bool, error) {
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
