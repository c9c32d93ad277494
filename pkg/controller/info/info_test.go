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

package info

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/leat-dev/leat/pkg/controller/apiservice"
	"github.com/leat-dev/leat/pkg/standalone/pki"
)

func newAuthority(t *testing.T) []byte {
	t.Helper()
	ca, err := pki.NewCA("ca")
	if err != nil {
		t.Fatal(err)
	}
	return ca.CertPEM()
}

func secretOf(name string, ca []byte) *corev1.Secret {
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "leat-system", Name: name},
		Data:       map[string][]byte{"ca.crt": ca, "ca.key": []byte("secret"), "tls.key": []byte("secret")},
	}
}

func podWith(container, image string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "leat-system", Name: "manager-1"},
		Spec: corev1.PodSpec{Containers: []corev1.Container{
			{Name: "sidecar", Image: "proxy"}, {Name: container, Image: image},
		}},
	}
}

func published(t *testing.T, cluster kubernetes.Interface) map[string]string {
	t.Helper()
	configMap, err := cluster.CoreV1().ConfigMaps("leat-system").Get(t.Context(), "leat-info", metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	return configMap.Data
}

func TestPublishesWhatPoolsNeedAndNoSecrets(t *testing.T) {
	server, client := newAuthority(t), newAuthority(t)
	cluster := fake.NewClientset(secretOf("leat-apiserver-tls", server), secretOf("leat-worker-client-tls", client),
		podWith("leat-controller-manager", "registry.example.com/leat:v1"))
	c := New(cluster, apiservice.DefaultService, "leat-system", "manager-1")
	sync := func() {
		t.Helper()
		if err := c.sync(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	sync()
	want := map[string]string{
		"server": "https://leat-apiserver.leat-system.svc", "ca.crt": string(server), "client-ca.crt": string(client),
		"image": "registry.example.com/leat:v1",
	}
	if d := cmp.Diff(want, published(t, cluster)); d != "" {
		t.Errorf("data (-want +got):\n%s", d)
	}

	// A sync without a change writes nothing.
	cluster.ClearActions()
	sync()
	for _, action := range cluster.Actions() {
		if action.GetVerb() != "get" {
			t.Errorf("a sync without a change did %s %s", action.GetVerb(), action.GetResource().Resource)
		}
	}

	// An authority that is renewed and what somebody else has written are corrected.
	renewed := newAuthority(t)
	if _, err := cluster.CoreV1().Secrets("leat-system").Update(t.Context(), secretOf("leat-apiserver-tls", renewed), metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	sync()
	want["ca.crt"] = string(renewed)
	if d := cmp.Diff(want, published(t, cluster)); d != "" {
		t.Errorf("data after a renewed authority (-want +got):\n%s", d)
	}
}

func TestPublishesNothingThatIsIncomplete(t *testing.T) {
	ca := newAuthority(t)
	for name, test := range map[string]struct {
		server, client []byte
		container, pod string
		want           []string
	}{
		"no certificates yet": {nil, nil, "leat-controller-manager", "manager-1", []string{
			"the key ca.crt of Secret leat-system/leat-apiserver-tls holds no certificate", "the key ca.crt of Secret leat-system/leat-worker-client-tls holds no certificate",
		}},
		"not in a pod":        {ca, ca, "leat-controller-manager", "", []string{"POD_NAME and POD_NAMESPACE are not set"}},
		"another pod":         {ca, ca, "leat-controller-manager", "manager-2", []string{"getting Pod leat-system/manager-2"}},
		"a renamed container": {ca, ca, "manager", "manager-1", []string{"pod leat-system/manager-1 has no container leat-controller-manager"}},
	} {
		t.Run(name, func(t *testing.T) {
			cluster := fake.NewClientset(secretOf("leat-apiserver-tls", test.server), secretOf("leat-worker-client-tls", test.client), podWith(test.container, "leat"))
			err := New(cluster, apiservice.DefaultService, "leat-system", test.pod).sync(t.Context())
			for _, want := range test.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("got error %v, want one with %q", err, want)
				}
			}
			if got := published(t, cluster); got != nil {
				t.Errorf("published %v, want nothing", got)
			}
		})
	}
}
