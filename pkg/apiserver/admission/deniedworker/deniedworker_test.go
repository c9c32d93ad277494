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

package deniedworker

import (
	"errors"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/leat-dev/leat/apis/batch"
	"github.com/leat-dev/leat/apis/batch/v1alpha1"
)

func worker(denied bool) *batch.Worker {
	return &batch.Worker{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "w"}, Spec: batch.WorkerSpec{Denied: denied}}
}

func TestDelete(t *testing.T) {
	active := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns"}}
	terminating := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns"}, Status: corev1.NamespaceStatus{Phase: corev1.NamespaceTerminating}}
	broken := fake.NewClientset()
	broken.PrependReactor("get", "namespaces", func(clienttesting.Action) (bool, runtime.Object, error) { return true, nil, errors.New("away") })
	for _, test := range []struct {
		name   string
		host   *fake.Clientset
		object runtime.Object
		code   int32
	}{
		{"a worker", fake.NewClientset(active), worker(false), 0},
		{"another kind", fake.NewClientset(active), &batch.WorkerLease{}, 0},
		{"a denied worker", fake.NewClientset(active), worker(true), 403},
		{"a denied worker of a terminating namespace", fake.NewClientset(terminating), worker(true), 0},
		{"a denied worker of a namespace that is gone", fake.NewClientset(), worker(true), 0},
		{"a denied worker while the host is down", broken, worker(true), 503},
		{"a worker while the host is down", broken, worker(false), 0},
		{"a denied worker without a host", nil, worker(true), 403},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := New()
			if test.host != nil {
				Initializer(test.host.CoreV1()).Initialize(p)
			}
			err := p.Validate(t.Context(), admission.NewAttributesRecord(nil, test.object, v1alpha1.SchemeGroupVersion.WithKind("Worker"), "ns", "w",
				v1alpha1.SchemeGroupVersion.WithResource("workers"), "", admission.Delete, nil, false, nil), nil)
			if test.code == 0 {
				if err != nil {
					t.Error(err)
				}
				return
			}
			status, ok := errors.AsType[*apierrors.StatusError](err)
			if !ok || status.ErrStatus.Code != test.code {
				t.Fatalf("got %v, want %d", err, test.code)
			}
			if test.code == 403 && !strings.Contains(err.Error(), "set spec.denied to false first") {
				t.Errorf("the error does not explain what to do: %v", err)
			}
		})
	}
	if New().Handles(admission.Create) || New().Handles(admission.Update) {
		t.Error("the plugin handles more than deletions")
	}
}
