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

package apiservice

import (
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	aggregatorfake "k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset/fake"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/leat-dev/leat/pkg/standalone/pki"
)

// world is a cluster with the objects of the manifests, and a server that is not ready.
type world struct {
	*Controller
	cluster  kubernetes.Interface
	ca       *pki.CA
	clock    *clocktesting.FakePassiveClock
	notReady error
	asked    int
}

func newWorld(t *testing.T) *world {
	t.Helper()
	ca, err := pki.NewCA("serving")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{ca: ca, clock: clocktesting.NewFakePassiveClock(time.Now()), notReady: errors.New("etcd is unavailable"), cluster: fake.NewClientset(
		&rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: Owner, UID: "owner-1"}},
		&corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: DefaultService.Namespace, Name: Secret},
			Data:       map[string][]byte{caKey: ca.CertPEM()},
		},
	)}
	w.Controller = &Controller{
		registration: aggregatorfake.NewClientset(), cluster: w.cluster, service: DefaultService, clock: w.clock,
		ready: func(_ context.Context, caBundle []byte) error {
			if w.asked++; string(caBundle) != string(w.ca.CertPEM()) {
				t.Errorf("the server is checked with the certificate authorities %s", caBundle)
			}
			return w.notReady
		},
	}
	return w
}

func (w *world) get(t *testing.T) *apiregistrationv1.APIService {
	t.Helper()
	existing, err := w.registration.ApiregistrationV1().APIServices().Get(t.Context(), Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	return existing
}

func (w *world) mustSync(t *testing.T) {
	t.Helper()
	if err := w.sync(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// available sets the condition Available of the APIService.
func (w *world) available(t *testing.T, status apiregistrationv1.ConditionStatus, message string) {
	t.Helper()
	existing := w.get(t)
	existing.Status.Conditions = []apiregistrationv1.APIServiceCondition{{Type: apiregistrationv1.Available, Status: status, Message: message}}
	if _, err := w.registration.ApiregistrationV1().APIServices().UpdateStatus(t.Context(), existing, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// register registers the server and ends the trial.
func (w *world) register(t *testing.T) {
	t.Helper()
	w.notReady = nil
	if err := w.sync(t.Context()); err == nil || w.get(t) == nil {
		t.Fatalf("the trial starts with error %v, APIService %v", err, w.get(t))
	}
	w.available(t, apiregistrationv1.ConditionTrue, "")
	w.mustSync(t)
	if got := w.get(t); len(got.Annotations) > 0 {
		t.Fatalf("after the trial the annotations are %v", got.Annotations)
	}
}

// trust sets the data of the Secret with the certificate authority.
func (w *world) trust(t *testing.T, data map[string][]byte) {
	t.Helper()
	secrets := w.cluster.CoreV1().Secrets(DefaultService.Namespace)
	secret, err := secrets.Get(t.Context(), Secret, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	secret.Data = data
	if _, err := secrets.Update(t.Context(), secret, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func TestNothingIsRegisteredUntilTheServerIsReady(t *testing.T) {
	w := newWorld(t)
	if err := w.sync(t.Context()); err == nil || !strings.Contains(err.Error(), "etcd is unavailable") || w.get(t) != nil {
		t.Fatalf("with a server that is not ready: error %v, APIService %v", err, w.get(t))
	}
	w.register(t)
	got := w.get(t)
	if got == nil || got.Spec.Service.Name != "leat-apiserver" || got.Spec.Service.Namespace != "leat-system" || *got.Spec.Service.Port != 443 ||
		got.Spec.Group != "batch.leat.dev" || got.Spec.Version != "v1alpha1" || got.Spec.GroupPriorityMinimum >= 1000 ||
		string(got.Spec.CABundle) != string(w.ca.CertPEM()) || got.Spec.InsecureSkipTLSVerify {
		t.Fatalf("registered is %+v", got)
	}
	if len(got.OwnerReferences) != 1 || got.OwnerReferences[0].UID != "owner-1" || got.OwnerReferences[0].Kind != "ClusterRole" {
		t.Errorf("the owners are %v", got.OwnerReferences)
	}
}

func TestRegistrationOfAnUnreachableServerIsWithdrawn(t *testing.T) {
	w := newWorld(t)
	w.notReady = nil
	for range 2 {
		if err := w.sync(t.Context()); err == nil || w.get(t) == nil {
			t.Fatalf("the trial starts with error %v, APIService %v", err, w.get(t))
		}
		w.available(t, apiregistrationv1.ConditionFalse, "dial tcp: i/o timeout")
		for _, d := range []time.Duration{0, trialTimeout - time.Second} {
			w.clock.SetTime(w.clock.Now().Add(d))
			if err := w.sync(t.Context()); err == nil || w.get(t) == nil {
				t.Fatalf("%s after its start: error %v, APIService %v", d, err, w.get(t))
			}
		}
		w.clock.SetTime(w.clock.Now().Add(time.Second))
		for _, d := range []time.Duration{0, trialInterval - time.Second} {
			w.clock.SetTime(w.clock.Now().Add(d))
			if err := w.sync(t.Context()); err == nil || !strings.Contains(err.Error(), "dial tcp: i/o timeout") || w.get(t) != nil {
				t.Fatalf("%s after the end of the trial: error %v, APIService %v", d, err, w.get(t))
			}
		}
		w.clock.SetTime(w.clock.Now().Add(time.Second))
	}
	w.register(t)
	w.available(t, apiregistrationv1.ConditionFalse, "dial tcp: i/o timeout")
	w.clock.SetTime(w.clock.Now().Add(24 * time.Hour))
	w.mustSync(t)
	if w.get(t) == nil {
		t.Error("a registration that was available once is not kept")
	}
}

func TestRegistrationIsKeptWhenTheServerFails(t *testing.T) {
	w := newWorld(t)
	w.register(t)
	w.notReady, w.asked = errors.New("connection refused"), 0
	w.mustSync(t)
	if w.get(t) == nil || w.asked != 0 {
		t.Errorf("without a server: APIService %v, asked %d times", w.get(t), w.asked)
	}
	// The registration is kept when the Secret is empty, too.
	w.trust(t, nil)
	if err := w.sync(t.Context()); err == nil || w.get(t) == nil {
		t.Errorf("without an authority: error %v, APIService %v", err, w.get(t))
	}
}

func TestRegistrationIsUpdatedWithAuthorityAndOwner(t *testing.T) {
	w := newWorld(t)
	w.register(t)
	w.notReady = errors.New("its certificate is not trusted")
	next, err := pki.NewCA("next")
	if err != nil {
		t.Fatal(err)
	}
	w.ca = next
	w.trust(t, map[string][]byte{caKey: next.CertPEM()})
	w.mustSync(t)
	if got := w.get(t); string(got.Spec.CABundle) != string(next.CertPEM()) {
		t.Errorf("the cluster trusts %s", got.Spec.CABundle)
	}

	roles := w.cluster.RbacV1().ClusterRoles()
	if err := roles.Delete(t.Context(), Owner, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := roles.Create(t.Context(), &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: Owner, UID: "owner-2"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.mustSync(t)
	if got := w.get(t); len(got.OwnerReferences) != 1 || got.OwnerReferences[0].UID != types.UID("owner-2") {
		t.Errorf("the owners are %v", got.OwnerReferences)
	}
}

func TestNothingIsRegisteredWithoutTheOwner(t *testing.T) {
	w := newWorld(t)
	w.notReady = nil
	if err := w.cluster.RbacV1().ClusterRoles().Delete(t.Context(), Owner, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := w.sync(t.Context()); err == nil || w.get(t) != nil || w.asked != 0 {
		t.Errorf("while Leat is being uninstalled: error %v, APIService %v", err, w.get(t))
	}
}

func TestFieldsOfOtherOwnersAreKept(t *testing.T) {
	w := newWorld(t)
	w.register(t)
	services := w.registration.ApiregistrationV1().APIServices()
	changed := w.get(t)
	changed.Annotations = map[string]string{"argocd.argoproj.io/tracking-id": "x"}
	changed.Spec.GroupPriorityMinimum, changed.Spec.CABundle = 2000, []byte("another")
	if _, err := services.Update(t.Context(), changed, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.mustSync(t)
	got := w.get(t)
	if got.Annotations["argocd.argoproj.io/tracking-id"] != "x" {
		t.Errorf("the annotations are %v", got.Annotations)
	}
	if got.Spec.GroupPriorityMinimum != groupPriority || string(got.Spec.CABundle) != string(w.ca.CertPEM()) {
		t.Errorf("the spec is %+v", got.Spec)
	}
}

func TestReadinessRequiresTheRightCertificate(t *testing.T) {
	ca, err := pki.NewCA("serving")
	if err != nil {
		t.Fatal(err)
	}
	other, err := pki.NewCA("other")
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		trusted *pki.CA
		host    string
		code    int
		want    string
	}{
		"ready":                {ca, DefaultService.host(), http.StatusOK, ""},
		"not ready":            {ca, DefaultService.host(), http.StatusInternalServerError, "500 Internal Server Error: [-]etcd failed"},
		"of another authority": {other, DefaultService.host(), http.StatusOK, "certificate signed by unknown authority"},
		"of another name":      {ca, "another.leat-system.svc", http.StatusOK, "certificate is valid for another.leat-system.svc"},
	} {
		t.Run(name, func(t *testing.T) {
			cert, key, err := ca.IssueServer(test.host)
			if err != nil {
				t.Fatal(err)
			}
			pair, err := tls.X509KeyPair(cert, key)
			if err != nil {
				t.Fatal(err)
			}
			server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/readyz" {
					t.Errorf("asked for %s", r.URL.Path)
				}
				w.WriteHeader(test.code)
				if _, err := w.Write([]byte("[-]etcd failed")); err != nil {
					t.Error(err)
				}
			}))
			server.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
			server.StartTLS()
			defer server.Close()
			c, err := New(&rest.Config{Host: "https://127.0.0.1:1"}, DefaultService, server.URL)
			if err != nil {
				t.Fatal(err)
			}
			err = c.ready(t.Context(), test.trusted.CertPEM())
			if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("the error is %v, want one that contains %q", err, test.want)
			}
		})
	}
}

func TestParseService(t *testing.T) {
	for value, want := range map[string]Service{
		"leat-system/leat-apiserver:443": DefaultService,
		"a/b:8443":                       {Namespace: "a", Name: "b", Port: 8443},
		"":                               {}, "b": {}, "a/b": {}, "a/b:": {}, "a/b:0": {}, "a/b:65536": {}, "a/b:x": {}, "/b:1": {}, "a/:1": {}, "a/B:1": {},
		"a/b/c:1": {}, "a/b:1:2": {},
	} {
		got, err := ParseService(value)
		if got != want || (err == nil) != (want != Service{}) || err == nil && got.String() != value {
			t.Errorf("ParseService(%q) = %v, %v; want %v", value, got, err, want)
		}
	}
}
