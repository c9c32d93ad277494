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

// Package queuelimit limits how many tasks wait in a queue: past the maxPendingTasks of its TaskQueue, the creation of a task, and
// the move of one from another queue, is answered 429.
package queuelimit

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/admission"

	"github.com/leat-dev/leat/apis/batch"
)

const (
	// PluginName is the name of the plugin.
	PluginName = "TaskQueueLimit"
	// maxRetryAfter is the longest time, in seconds, that a client is asked to wait; the shortest is one. It differs from
	// answer to answer, so that those who wait do not all come back at once.
	maxRetryAfter = 5
)

// Register registers the plugin. It has no configuration.
func Register(plugins *admission.Plugins) {
	plugins.Register(PluginName, func(io.Reader) (admission.Interface, error) {
		return New(), nil
	})
}

// New returns the plugin, which Initializer gives what it counts by.
//
// It counts what the server's own watch caches have shown, and nothing else: a judgement costs neither a read of etcd nor a
// request to the host. The count is behind by the creates that are on their way, so that a limit may be overshot by those in flight
// on each replica of the server. A dry run is judged like any other create.
func New() admission.ValidationInterface {
	return &plugin{Handler: admission.NewHandler(admission.Create, admission.Update)}
}

type plugin struct {
	*admission.Handler
	counts *Counts
}

// Initializer gives the plugin its counts.
func Initializer(counts *Counts) admission.PluginInitializer { return initializer{counts} }

type initializer struct {
	counts *Counts
}

// Initialize implements admission.PluginInitializer.
func (i initializer) Initialize(to admission.Interface) {
	if p, ok := to.(*plugin); ok {
		p.counts = i.counts
		p.SetReadyFunc(i.counts.HasSynced)
	}
}

func (p *plugin) ValidateInitialization() error {
	if p.counts == nil {
		return fmt.Errorf("%s needs counts of pending tasks", PluginName)
	}
	return nil
}

// Validate returns a TooManyRequests error that names the queue, the count and the limit.
func (p *plugin) Validate(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if a.GetResource().GroupResource() != batch.Resource("tasks") || a.GetSubresource() != "" {
		return nil
	}
	task, ok := a.GetObject().(*batch.Task)
	if !ok {
		return apierrors.NewBadRequest(fmt.Sprintf("expected a Task, not %T", a.GetObject()))
	}
	if old, ok := a.GetOldObject().(*batch.Task); ok && old.Spec.QueueName == task.Spec.QueueName {
		return nil
	}
	if !p.WaitForReady() {
		return apierrors.NewServiceUnavailable("the server does not know yet how many tasks wait in each queue: try again")
	}
	pending, limit, full := p.counts.full(a.GetNamespace(), task.Spec.QueueName)
	if !full {
		return nil
	}
	return apierrors.NewTooManyRequests(fmt.Sprintf("queue %s has %d pending tasks of at most %d (maxPendingTasks): wait until some have started, or raise the limit",
		task.Spec.QueueName, pending, limit), 1+rand.IntN(maxRetryAfter))
}
