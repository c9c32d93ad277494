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

// Package livenamespace prevents creating objects in terminating namespaces. NamespaceLifecycle reads namespaces from
// an informer, which lags while its watch is stalled, and an object that is created after the host's namespace
// controller has listed the namespace's content is never deleted. This plugin reads the namespace from the host, at
// most once a second per namespace in which objects are created.
package livenamespace

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sync/singleflight"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/cache"
	"k8s.io/apiserver/pkg/admission"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/utils/clock"
)

const (
	// PluginName is the name of the plugin.
	PluginName = "LiveNamespace"
	// ttl is the time that an active namespace is cached for, from the start of the read.
	ttl = time.Second
	// lookupTimeout bounds the read of a namespace from the host. ttl + lookupTimeout must be less than the five
	// seconds that the host's namespace controller waits before it lists the content of a terminating namespace.
	lookupTimeout = 3 * time.Second
	// maxNamespaces bounds the cache. Namespaces that do not fit are read more often.
	maxNamespaces = 10_000
)

// Register registers the plugin. It has no configuration.
func Register(plugins *admission.Plugins) {
	plugins.Register(PluginName, func(io.Reader) (admission.Interface, error) {
		return New(clock.RealClock{}), nil
	})
}

// New returns the plugin. Initializer sets the host to read namespaces from.
//
// As NamespaceLifecycle does, it refuses to create objects, but not subresources, in namespaces that are gone or
// terminating. While the host does not answer, it refuses creates with 503 and a Retry-After header. Other writes do
// not depend on the host.
func New(c clock.PassiveClock) admission.ValidationInterface {
	return &plugin{Handler: admission.NewHandler(admission.Create), active: cache.NewLRUExpireCacheWithClock(maxNamespaces, c), clock: c}
}

type plugin struct {
	*admission.Handler
	host  corev1client.NamespaceInterface
	clock clock.PassiveClock
	// active holds the names of active namespaces. Other namespaces are not cached, since they may be created
	// again.
	active  *cache.LRUExpireCache
	lookups singleflight.Group
}

// Initializer returns an initializer that sets the host to read namespaces from. The client should have no rate limit:
// the plugin caches and shares its reads, and creates that wait for a rate limiter would miss their deadlines.
func Initializer(host corev1client.NamespacesGetter) admission.PluginInitializer {
	return initializer{host.Namespaces()}
}

type initializer struct {
	host corev1client.NamespaceInterface
}

// Initialize implements admission.PluginInitializer.
func (i initializer) Initialize(to admission.Interface) {
	if p, ok := to.(*plugin); ok {
		p.host = i.host
	}
}

// ValidateInitialization implements admission.InitializationValidator.
func (p *plugin) ValidateInitialization() error {
	if p.host == nil {
		return fmt.Errorf("%s requires a host to read namespaces from", PluginName)
	}
	return nil
}

// Validate implements admission.ValidationInterface. For a namespace that is gone or terminating it returns the error
// that NamespaceLifecycle does.
func (p *plugin) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	name := a.GetNamespace()
	if name == "" || a.GetSubresource() != "" {
		return nil
	}
	if _, ok := p.active.Get(name); ok {
		return nil
	}
	select {
	case lookup := <-p.lookups.DoChan(name, func() (any, error) { return p.lookUp(context.WithoutCancel(ctx), name) }):
		switch {
		case apierrors.IsNotFound(lookup.Err):
			return lookup.Err
		case lookup.Err != nil:
			return hostUnavailable(name, lookup.Err)
		case lookup.Val.(bool):
			return namespaceTerminating(a)
		}
		return nil
	case <-ctx.Done():
		return hostUnavailable(name, ctx.Err())
	}
}

// lookUp reads the namespace from the host and reports whether it is terminating.
func (p *plugin) lookUp(ctx context.Context, name string) (terminating bool, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, lookupTimeout, errors.New("it did not answer within "+lookupTimeout.String()))
	defer cancel()
	start := p.clock.Now()
	namespace, err := p.host.Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return false, err
	}
	if namespace.DeletionTimestamp != nil || namespace.Status.Phase == corev1.NamespaceTerminating {
		return true, nil
	}
	if remaining := ttl - p.clock.Since(start); remaining > 0 {
		p.active.Add(name, nil, remaining)
	}
	return false, nil
}

// hostUnavailable returns the error for a namespace that could not be read from the host.
func hostUnavailable(name string, err error) error {
	status := apierrors.NewServiceUnavailable(fmt.Sprintf(
		"the host did not answer whether namespace %s is being deleted: %v: try again", name, err))
	status.ErrStatus.Details = &metav1.StatusDetails{Kind: "namespaces", Name: name, RetryAfterSeconds: 1}
	return status
}

// namespaceTerminating returns the error that NamespaceLifecycle returns, which clients recognize.
func namespaceTerminating(a admission.Attributes) error {
	name := a.GetNamespace()
	err := admission.NewForbidden(a, fmt.Errorf("unable to create new content in namespace %s because it is being terminated", name))
	if status, ok := err.(*apierrors.StatusError); ok {
		status.ErrStatus.Details.Causes = append(status.ErrStatus.Details.Causes, metav1.StatusCause{
			Type: corev1.NamespaceTerminatingCause, Message: fmt.Sprintf("namespace %s is being terminated", name), Field: "metadata.namespace",
		})
	}
	return err
}
