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

package logs

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/http/httptest"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/standalone/pki"
	"github.com/leat-dev/leat/test/kit"
)

// fakeWorker registers a worker that nothing runs behind, with its own rights. It takes no tasks by itself.
func (s *scene) fakeWorker(name string, endpoint *batch.WorkerEndpoint) {
	s.Helper()
	workers := kit.Client(s, s.env.Worker(s.T, s.namespace, name)).BatchV1alpha1().Workers(s.namespace)
	worker := kit.Must(workers.Create(s.Context(), &batch.Worker{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: batch.WorkerSpec{Taints: []batch.Taint{{Key: "fake", Effect: batch.TaintEffectNoSchedule}}},
	}, metav1.CreateOptions{}))(s)
	worker.Status.Incarnation, worker.Status.Endpoint = "fake", endpoint
	kit.Must(workers.UpdateStatus(s.Context(), worker, metav1.UpdateOptions{}))(s)
	s.Cleanup(func() {
		kit.Check(s, s.api.Workers(s.namespace).Delete(context.WithoutCancel(s.Context()), name, metav1.DeleteOptions{}))
	})
}

// bindTo creates a task and binds it to the worker, who says that it runs.
func (s *scene) bindTo(name, worker string) {
	s.Helper()
	s.create(name, "true", func(t *batch.Task) { t.Spec.WorkerSelector = map[string]string{"worker": "none"} })
	kit.Must(kit.Client(s, s.env.Controller(s.T)).BatchV1alpha1().Tasks(s.namespace).Bind(s.Context(), name, &batch.Binding{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: s.namespace}, Target: batch.BindingTarget{Name: worker, Incarnation: "fake"},
	}, metav1.CreateOptions{}))(s)
}

// otherEndpoints publishes what a worker might to have the server connect elsewhere.
func otherEndpoints(s *scene) {
	ca := kit.Must(pki.NewCA("fake"))(s)
	certPEM, keyPEM, err := ca.IssueServer(batch.WorkerServerName)
	kit.Check(s, err)
	certificate := kit.Must(tls.X509KeyPair(certPEM, keyPEM))(s)
	redirecting := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, s.env.Direct(s.T, "x").Host+"/version", http.StatusTemporaryRedirect)
	}))
	redirecting.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}}
	redirecting.StartTLS()
	defer redirecting.Close()
	real := kit.Must(s.api.Workers(s.namespace).Get(s.Context(), workerName, metav1.GetOptions{}))(s).Status.Endpoint
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
		s.fakeWorker(name+"-abcde", &test.endpoint)
		s.bindTo(name, name+"-abcde")
		s.refused(name, nil, http.StatusServiceUnavailable, "the log of task "+name+" cannot be read from worker "+name+"-abcde", test.want)
	}
	// One that takes over what a real worker publishes has its server's answer, which is about its own task only.
	s.fakeWorker("copy-abcde", real)
	s.bindTo("copy", "copy-abcde")
	s.refused("copy", nil, http.StatusBadRequest, "worker copy-abcde has not started it")
}
