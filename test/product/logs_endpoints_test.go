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

package product

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/standalone/pki"
	"github.com/leat-dev/leat/test/kit"
)

// fakeWorker registers a worker without a process, with the rights of a worker. A taint keeps tasks away from it.
func (s *logsSuite) fakeWorker(t *testing.T, name string, endpoint *batch.WorkerEndpoint) {
	t.Helper()
	workers := kit.Client(t, s.env.Worker(t, s.namespace, name)).BatchV1alpha1().Workers(s.namespace)
	worker := kit.Must(workers.Create(t.Context(), &batch.Worker{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: batch.WorkerSpec{Taints: []batch.Taint{{Key: "fake", Effect: batch.TaintEffectNoSchedule}}},
	}, metav1.CreateOptions{}))(t)
	worker.Status.Incarnation, worker.Status.Endpoint = "fake", endpoint
	kit.Must(workers.UpdateStatus(t.Context(), worker, metav1.UpdateOptions{}))(t)
	t.Cleanup(func() {
		kit.Check(t, s.api.Workers(s.namespace).Delete(context.WithoutCancel(t.Context()), name, metav1.DeleteOptions{}))
	})
}

// bindTo creates a task and binds it to a fake worker.
func (s *logsSuite) bindTo(t *testing.T, name, worker string) {
	t.Helper()
	s.create(t, name, "true", func(task *batch.Task) { task.Spec.WorkerSelector = map[string]string{"worker": "none"} })
	kit.Must(kit.Client(t, s.env.Controller(t)).BatchV1alpha1().Tasks(s.namespace).Bind(t.Context(), name, &batch.Binding{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: s.namespace}, Target: batch.BindingTarget{Name: worker, Incarnation: "fake"},
	}, metav1.CreateOptions{}))(t)
}

// falseEndpoints publishes endpoints with which a worker might make the server connect elsewhere.
func (s *logsSuite) falseEndpoints(t *testing.T) {
	ca := kit.Must(pki.NewCA("fake"))(t)
	certPEM, keyPEM, err := ca.IssueServer(batch.WorkerServerName)
	kit.Check(t, err)
	certificate := kit.Must(tls.X509KeyPair(certPEM, keyPEM))(t)
	redirecting := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, s.env.Direct(t, "x").Host+"/version", http.StatusTemporaryRedirect)
	}))
	redirecting.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}}
	redirecting.StartTLS()
	defer redirecting.Close()
	real := kit.Must(s.api.Workers(s.namespace).Get(t.Context(), logsWorker, metav1.GetOptions{}))(t).Status.Endpoint
	for name, test := range map[string]struct {
		endpoint batch.WorkerEndpoint
		want     string
	}{
		"another-worker": {batch.WorkerEndpoint{Host: real.Host, Port: real.Port, CABundle: ca.CertPEM()}, "certificate signed by unknown authority"},
		"metadata":       {batch.WorkerEndpoint{Host: "169.254.169.254", Port: 80, CABundle: ca.CertPEM()}, "no worker can be at address 169.254.169.254"},
		"mapped":         {batch.WorkerEndpoint{Host: "::ffff:169.254.169.254", Port: 80, CABundle: ca.CertPEM()}, "no worker can be at address 169.254.169.254"},
		"elsewhere":      {batch.WorkerEndpoint{Host: "10.255.255.1", Port: 80, CABundle: ca.CertPEM()}, "is in none of the --worker-address-ranges"},
		"redirect": {
			batch.WorkerEndpoint{Host: "127.0.0.1", Port: int32(redirecting.Listener.Addr().(*net.TCPAddr).Port), CABundle: ca.CertPEM()}, "the worker responded with status 307",
		},
	} {
		s.fakeWorker(t, name+"-abcde", &test.endpoint)
		s.bindTo(t, name, name+"-abcde")
		s.refused(t, name, nil, http.StatusServiceUnavailable, "the log of task "+name+" cannot be read from worker "+name+"-abcde", test.want)
	}
	// With the endpoint of a real worker, the server gets an answer of that worker, about its own tasks only.
	s.fakeWorker(t, "copy-abcde", real)
	s.bindTo(t, "copy", "copy-abcde")
	s.refused(t, "copy", nil, http.StatusBadRequest, "worker copy-abcde has not started it")
}
