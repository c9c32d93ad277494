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

package fake

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/testing"

	"github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// ArchiveAction records a call of Archive. Its verb is create, its subresource archive.
type ArchiveAction struct {
	testing.ActionImpl
	// Name is the name of the worker.
	Name    string
	Options *v1alpha1.WorkerArchiveOptions
	Segment []byte
}

// DeepCopy implements testing.Action.
func (a ArchiveAction) DeepCopy() testing.Action {
	return ArchiveAction{a.ActionImpl.DeepCopy().(testing.ActionImpl), a.Name, a.Options.DeepCopy(), append([]byte(nil), a.Segment...)}
}

// Archive records an ArchiveAction, and returns the error of a reactor. Without a reactor it succeeds.
func (c *fakeWorkers) Archive(_ context.Context, name string, opts *v1alpha1.WorkerArchiveOptions, segment []byte) (*metav1.Status, error) {
	_, err := c.Fake.Invokes(ArchiveAction{
		ActionImpl: testing.ActionImpl{Namespace: c.Namespace(), Verb: "create", Resource: c.Resource(), Subresource: "archive"},
		Name:       name, Options: opts, Segment: segment,
	}, &v1alpha1.Worker{})
	return &metav1.Status{Status: metav1.StatusSuccess}, err
}
