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

package testapi

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	typed "github.com/leat-dev/leat/pkg/generated/clientset/versioned/typed/batch/v1alpha1"
)

type group struct {
	typed.BatchV1alpha1Interface
	client *Client
}

func (g group) Tasks(namespace string) typed.TaskInterface {
	return tasks{g.BatchV1alpha1Interface.Tasks(namespace), g.client, namespace}
}

// tasks calls the hooks outside of the fake clientset, which handles one request at a time: a hook that blocks must not
// block other requests.
type tasks struct {
	typed.TaskInterface
	client    *Client
	namespace string
}

func (t tasks) before(ctx context.Context, verb, name string) error {
	if t.client.Hook != nil {
		if err := t.client.Hook(verb, t.namespace, name); err != nil {
			return err
		}
	}
	return ctx.Err()
}

func (t tasks) Bind(ctx context.Context, name string, binding *batch.Binding, opts metav1.CreateOptions) (*metav1.Status, error) {
	if err := t.before(ctx, "bind", name); err != nil {
		return nil, err
	}
	return t.TaskInterface.Bind(ctx, name, binding, opts)
}

func (t tasks) Evict(ctx context.Context, name string, eviction *batch.Eviction, opts metav1.CreateOptions) (*metav1.Status, error) {
	if err := t.before(ctx, "evict", name); err != nil {
		return nil, err
	}
	return t.TaskInterface.Evict(ctx, name, eviction, opts)
}

func (t tasks) UpdateStatus(ctx context.Context, task *batch.Task, opts metav1.UpdateOptions) (*batch.Task, error) {
	if err := t.before(ctx, "updateStatus", task.Name); err != nil {
		return nil, err
	}
	stored, err := t.TaskInterface.UpdateStatus(ctx, task, opts)
	if err == nil && t.client.After != nil {
		err = t.client.After(t.namespace, task.Name)
	}
	return stored, err
}

func (t tasks) Delete(ctx context.Context, name string, opts metav1.DeleteOptions) error {
	if err := t.before(ctx, "delete", name); err != nil {
		return err
	}
	return t.TaskInterface.Delete(ctx, name, opts)
}
