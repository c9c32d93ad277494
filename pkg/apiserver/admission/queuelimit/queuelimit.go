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

// Package queuelimit limits the pending tasks of a queue to spec.maxPendingTasks of its TaskQueue. It refuses to create
// a task in a full queue, or to move one there from another queue, with 429 Too Many Requests.
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
	// maxRetryAfter is the maximum of the Retry-After header, in seconds. The header is random from 1, so that
	// refused clients do not retry all at once.
	maxRetryAfter = 5
)

// Register registers the plugin. It has no configuration.
func Register(plugins *admission.Plugins) {
	plugins.Register(PluginName, func(io.Reader) (admission.Interface, error) {
		return New(), nil
	})
}

// New returns the plugin. Initializer sets the counts that it decides by.
//
// The counts come from the server's own watch caches, so a decision reads neither etcd nor the host. They do not
// include creates in flight, so concurrent creates on several replicas may exceed a limit by a few tasks. Dry runs are
// limited as well.
func New() admission.ValidationInterface {
	return &plugin{Handler: admission.NewHandler(admission.Create, admission.Update)}
}

type plugin struct {
	*admission.Handler
	counts *Counts
}

// Initializer returns an initializer that sets the plugin's counts.
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

// ValidateInitialization implements admission.InitializationValidator.
func (p *plugin) ValidateInitialization() error {
	if p.counts == nil {
		return fmt.Errorf("%s requires counts of pending tasks", PluginName)
	}
	return nil
}

// Validate implements admission.ValidationInterface. It returns a TooManyRequests error for a full queue.
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
		return apierrors.NewServiceUnavailable("the server has not counted the pending tasks of each queue yet: try again")
	}
	pending, limit, full := p.counts.full(a.GetNamespace(), task.Spec.QueueName)
	if !full {
		return nil
	}
	return apierrors.NewTooManyRequests(fmt.Sprintf(
		"queue %s has %d pending tasks of at most %d (maxPendingTasks): wait until some have started, or raise the limit",
		task.Spec.QueueName, pending, limit), 1+rand.IntN(maxRetryAfter))
}
