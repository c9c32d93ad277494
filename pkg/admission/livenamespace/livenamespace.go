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

// Package livenamespace keeps objects from being born into namespaces that are being deleted. The informer by which
// NamespaceLifecycle knows namespaces may be behind, for as long as its watch stands still, and what is created after the host has
// looked for what a namespace holds stays for ever. So the host itself is asked, no more than once a second for each
// namespace that something is created in.
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
	// validity is how long it counts that a namespace is not being deleted, from when the host was asked.
	validity = time.Second
	// lookupTimeout is how long the host may take. With validity it stays below the five seconds that the host's namespace controller
	// waits, once a namespace is being deleted, before it looks for what the namespace holds.
	lookupTimeout = 3 * time.Second
	// remembered is how many namespaces are remembered. Past it they are asked about more often.
	remembered = 10_000
)

// Register registers the plugin. It has no configuration.
func Register(plugins *admission.Plugins) {
	plugins.Register(PluginName, func(io.Reader) (admission.Interface, error) {
		return New(clock.RealClock{}), nil
	})
}

// New returns the plugin, which Initializer gives the host to ask.
//
// It refuses creates of objects, not of subresources, in namespaces that are gone or are being deleted, as NamespaceLifecycle
// does. When the host does not say, creates are answered 503 with a Retry-After: what is there already goes on without it.
func New(c clock.PassiveClock) admission.ValidationInterface {
	return &plugin{Handler: admission.NewHandler(admission.Create), active: cache.NewLRUExpireCacheWithClock(remembered, c), clock: c}
}

type plugin struct {
	*admission.Handler
	host  corev1client.NamespaceInterface
	clock clock.PassiveClock
	// active are the namespaces that are known not to be deleted, by their names. Others are not remembered: a name may be taken
	// again at any time.
	active  *cache.LRUExpireCache
	lookups singleflight.Group
}

// Initializer gives the plugin the host to ask. Its requests are shared and remembered, which bounds them: a client that makes them
// wait for their turn would cost creates their deadline.
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

func (p *plugin) ValidateInitialization() error {
	if p.host == nil {
		return fmt.Errorf("%s needs a host to ask for namespaces", PluginName)
	}
	return nil
}

// Validate returns the error of NamespaceLifecycle for a namespace that is gone or being deleted, or one that asks to come again.
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
			return unknown(name, lookup.Err)
		case lookup.Val.(bool):
			return terminating(a)
		}
		return nil
	case <-ctx.Done():
		return unknown(name, ctx.Err())
	}
}

// lookUp asks the host whether the namespace is being deleted.
func (p *plugin) lookUp(ctx context.Context, name string) (deleted bool, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, lookupTimeout, errors.New("it did not answer within "+lookupTimeout.String()))
	defer cancel()
	asked := p.clock.Now()
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
	if left := validity - p.clock.Since(asked); left > 0 {
		p.active.Add(name, nil, left)
	}
	return false, nil
}

// unknown is the answer when the host did not give one.
func unknown(name string, err error) error {
	status := apierrors.NewServiceUnavailable(fmt.Sprintf("namespace %s: the host, which must be asked whether it is being deleted, does not say: %v: try again", name, err))
	status.ErrStatus.Details = &metav1.StatusDetails{Kind: "namespaces", Name: name, RetryAfterSeconds: 1}
	return status
}

// terminating is what NamespaceLifecycle answers, which clients know.
func terminating(a admission.Attributes) error {
	name := a.GetNamespace()
	err := admission.NewForbidden(a, fmt.Errorf("unable to create new content in namespace %s because it is being terminated", name))
	if status, ok := err.(*apierrors.StatusError); ok {
		status.ErrStatus.Details.Causes = append(status.ErrStatus.Details.Causes, metav1.StatusCause{
			Type: corev1.NamespaceTerminatingCause, Message: fmt.Sprintf("namespace %s is being terminated", name), Field: "metadata.namespace",
		})
	}
	return err
}
