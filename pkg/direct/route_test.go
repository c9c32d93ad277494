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

package direct

import (
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"

	"github.com/leat-dev/leat/pkg/standalone/pki"
)

// world is a cluster with a leat-apiserver beside it.
type world struct {
	t       *testing.T
	cluster *httptest.Server
	leat    *httptest.Server
	// registration is what the cluster answers about the APIService, 404 if it is empty.
	registration atomic.Pointer[string]
	asked        atomic.Int32
	// connections are those by which requests came to leat-apiserver.
	connections sync.Map
}

func newWorld(t *testing.T) *world {
	w := &world{t: t}
	w.register("")
	w.cluster = httptest.NewServer(http.HandlerFunc(func(out http.ResponseWriter, request *http.Request) {
		if request.URL.Path != "/apis/apiregistration.k8s.io/v1/apiservices/v1alpha1.batch.leat.dev" {
			fmt.Fprint(out, "the cluster")
			return
		}
		w.asked.Add(1)
		if body := *w.registration.Load(); body != "" {
			fmt.Fprint(out, body)
			return
		}
		http.NotFound(out, request)
	}))
	t.Cleanup(w.cluster.Close)
	return w
}

func (w *world) register(registration string) { w.registration.Store(&registration) }

func (w *world) trust(ca *pki.CA) {
	w.register(fmt.Sprintf(`{"spec": {"service": {"namespace": "leat-system", "name": "leat-apiserver"}, "caBundle": %q}}`,
		base64.StdEncoding.EncodeToString(ca.CertPEM())))
}

// serve starts leat-apiserver with a certificate of ca, in place of the one before.
func (w *world) serve(ca *pki.CA) {
	w.t.Helper()
	cert, key, err := ca.IssueServer("leat-apiserver.leat-system.svc")
	if err != nil {
		w.t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		w.t.Fatal(err)
	}
	next := httptest.NewUnstartedServer(http.HandlerFunc(func(out http.ResponseWriter, request *http.Request) {
		w.connections.Store(request.RemoteAddr, request.Proto)
		fmt.Fprint(out, "leat for ", request.Header.Get("Authorization"))
	}))
	next.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	next.EnableHTTP2 = true
	if w.leat != nil {
		address := w.leat.Listener.Addr().String()
		w.leat.CloseClientConnections()
		w.leat.Close()
		_ = next.Listener.Close()
		if next.Listener, err = net.Listen("tcp", address); err != nil {
			w.t.Fatal(err)
		}
	}
	next.StartTLS()
	w.leat = next
	w.t.Cleanup(next.Close)
}

// client is one of the cluster, routed.
func (w *world) client() func(path string) (string, error) {
	w.t.Helper()
	config := &rest.Config{Host: w.cluster.URL, BearerToken: "secret"}
	if err := Route(config, w.leat.URL); err != nil {
		w.t.Fatal(err)
	}
	client, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		w.t.Fatal(err)
	}
	return func(path string) (string, error) {
		answer, err := client.RESTClient().Get().AbsPath(path).MaxRetries(0).DoRaw(w.t.Context())
		return string(answer), err
	}
}

func newCA(t *testing.T) *pki.CA {
	t.Helper()
	ca, err := pki.NewCA("test")
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

const ours = "/apis/batch.leat.dev/v1alpha1/tasks"

func TestOnlyWhatIsForOurAPIGoesToTheServerItself(t *testing.T) {
	w, ca := newWorld(t), newCA(t)
	w.serve(ca)
	w.trust(ca)
	get := w.client()
	for path, want := range map[string]string{
		ours:                          "leat for Bearer secret",
		"/apis/batch.leat.dev":        "the cluster", // who serves the group's versions is the cluster's to say
		"/apis/batch.leat.dev.x/v1/a": "the cluster",
		"/apis/apps/v1/deployments":   "the cluster",
		"/api/v1/namespaces":          "the cluster",
	} {
		if got, err := get(path); err != nil || got != want {
			t.Errorf("%s is answered by %q, %v; want %q", path, got, err, want)
		}
	}
	if n := w.asked.Load(); n != 1 {
		t.Errorf("the cluster was asked %d times for the APIService, want once", n)
	}
}

func TestRequestsAreSpreadOverAFewConnections(t *testing.T) {
	w, ca := newWorld(t), newCA(t)
	w.serve(ca)
	w.trust(ca)
	get := w.client()
	for range 10 * connections {
		if _, err := get(ours); err != nil {
			t.Fatal(err)
		}
	}
	n := 0
	for _, protocol := range w.connections.Range {
		if n++; protocol != "HTTP/2.0" {
			t.Errorf("a connection speaks %s, want HTTP/2.0", protocol)
		}
	}
	if n != connections {
		t.Errorf("there are %d connections, want %d", n, connections)
	}
}

func TestTrustFollowsTheAPIService(t *testing.T) {
	w, before, after := newWorld(t), newCA(t), newCA(t)
	w.serve(before)
	get := w.client()

	if _, err := get(ours); err == nil || !strings.Contains(err.Error(), "how to reach leat-apiserver") {
		t.Errorf("with no APIService: %v", err)
	}
	w.register(`{"spec": {"service": {"namespace": "leat-system", "name": "leat-apiserver"}}}`)
	if _, err := get(ours); err == nil || !strings.Contains(err.Error(), "wait until it is available") {
		t.Errorf("with an APIService that nobody has completed: %v", err)
	}
	w.trust(after)
	if _, err := get(ours); err == nil || !strings.Contains(err.Error(), "certificate signed by unknown authority") {
		t.Errorf("with a server that is not to be trusted: %v", err)
	}
	w.trust(before)
	if _, err := get(ours); err != nil {
		t.Errorf("with the right authority: %v", err)
	}

	w.trust(after)
	w.serve(after)
	for range 2 { // the first meets the old connection or the old trust
		_, _ = get(ours)
	}
	if _, err := get(ours); err != nil {
		t.Errorf("after another authority has taken over: %v", err)
	}
}

func TestAddressesOfServers(t *testing.T) {
	for address, good := range map[string]bool{
		"https://leat-apiserver.leat-system.svc": true, "https://127.0.0.1:8443": true, "https://leat.example.com/": true,
		"http://leat-apiserver": false, "leat-apiserver:8443": false, "https://": false, "https://a/b": false, ":": false,
	} {
		if err := Route(&rest.Config{Host: "localhost"}, address); (err == nil) != good {
			t.Errorf("%s: %v", address, err)
		}
	}
}
