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

// fixture is a cluster and a leat-apiserver.
type fixture struct {
	t       *testing.T
	cluster *httptest.Server
	leat    *httptest.Server
	// apiService is the JSON of the APIService, empty if there is none.
	apiService atomic.Pointer[string]
	// reads counts the reads of the APIService.
	reads atomic.Int32
	// connections holds the protocols of the connections to leat-apiserver by remote address.
	connections sync.Map
}

func newFixture(t *testing.T) *fixture {
	f := &fixture{t: t}
	f.register("")
	f.cluster = httptest.NewServer(http.HandlerFunc(func(out http.ResponseWriter, request *http.Request) {
		if request.URL.Path != "/apis/apiregistration.k8s.io/v1/apiservices/v1alpha1.batch.leat.dev" {
			fmt.Fprint(out, "the cluster")
			return
		}
		f.reads.Add(1)
		if body := *f.apiService.Load(); body != "" {
			fmt.Fprint(out, body)
			return
		}
		http.NotFound(out, request)
	}))
	t.Cleanup(f.cluster.Close)
	return f
}

func (f *fixture) register(apiService string) { f.apiService.Store(&apiService) }

// trust registers leat-apiserver with the CA bundle of ca.
func (f *fixture) trust(ca *pki.CA) {
	f.register(fmt.Sprintf(`{"spec": {"service": {"namespace": "leat-system", "name": "leat-apiserver"}, "caBundle": %q}}`,
		base64.StdEncoding.EncodeToString(ca.CertPEM())))
}

// serve starts leat-apiserver with a certificate of ca, or replaces the one that runs.
func (f *fixture) serve(ca *pki.CA) {
	f.t.Helper()
	cert, key, err := ca.IssueServer("leat-apiserver.leat-system.svc")
	if err != nil {
		f.t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		f.t.Fatal(err)
	}
	next := httptest.NewUnstartedServer(http.HandlerFunc(func(out http.ResponseWriter, request *http.Request) {
		f.connections.Store(request.RemoteAddr, request.Proto)
		fmt.Fprint(out, "leat for ", request.Header.Get("Authorization"))
	}))
	next.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	next.EnableHTTP2 = true
	if f.leat != nil {
		address := f.leat.Listener.Addr().String()
		f.leat.CloseClientConnections()
		f.leat.Close()
		_ = next.Listener.Close()
		if next.Listener, err = net.Listen("tcp", address); err != nil {
			f.t.Fatal(err)
		}
	}
	next.StartTLS()
	f.leat = next
	f.t.Cleanup(next.Close)
}

// client returns a function that gets a path by a routed client of the cluster.
func (f *fixture) client() func(path string) (string, error) {
	f.t.Helper()
	config := &rest.Config{Host: f.cluster.URL, BearerToken: "secret"}
	if err := Route(config, f.leat.URL); err != nil {
		f.t.Fatal(err)
	}
	client, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		f.t.Fatal(err)
	}
	return func(path string) (string, error) {
		answer, err := client.RESTClient().Get().AbsPath(path).MaxRetries(0).DoRaw(f.t.Context())
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

func TestRouteOnlyOurAPI(t *testing.T) {
	f, ca := newFixture(t), newCA(t)
	f.serve(ca)
	f.trust(ca)
	get := f.client()
	for path, want := range map[string]string{
		ours:                          "leat for Bearer secret",
		"/apis/batch.leat.dev":        "the cluster", // discovery of the group is the aggregator's
		"/apis/batch.leat.dev.x/v1/a": "the cluster",
		"/apis/apps/v1/deployments":   "the cluster",
		"/api/v1/namespaces":          "the cluster",
	} {
		if got, err := get(path); err != nil || got != want {
			t.Errorf("%s: got %q, %v; want %q", path, got, err, want)
		}
	}
	if n := f.reads.Load(); n != 1 {
		t.Errorf("the APIService was read %d times, want once", n)
	}
}

func TestRequestsAreSpreadOverConnections(t *testing.T) {
	f, ca := newFixture(t), newCA(t)
	f.serve(ca)
	f.trust(ca)
	get := f.client()
	for range 10 * connections {
		if _, err := get(ours); err != nil {
			t.Fatal(err)
		}
	}
	n := 0
	for _, protocol := range f.connections.Range {
		if n++; protocol != "HTTP/2.0" {
			t.Errorf("a connection uses %s, want HTTP/2.0", protocol)
		}
	}
	if n != connections {
		t.Errorf("got %d connections, want %d", n, connections)
	}
}

func TestCABundleIsReadAgain(t *testing.T) {
	f, before, after := newFixture(t), newCA(t), newCA(t)
	f.serve(before)
	get := f.client()

	if _, err := get(ours); err == nil || !strings.Contains(err.Error(), "cannot find out how to reach leat-apiserver") {
		t.Errorf("without APIService: %v", err)
	}
	f.register(`{"spec": {"service": {"namespace": "leat-system", "name": "leat-apiserver"}}}`)
	if _, err := get(ours); err == nil || !strings.Contains(err.Error(), "wait until it is available") {
		t.Errorf("with an incomplete APIService: %v", err)
	}
	f.trust(after)
	if _, err := get(ours); err == nil || !strings.Contains(err.Error(), "certificate signed by unknown authority") {
		t.Errorf("with another CA: %v", err)
	}
	f.trust(before)
	if _, err := get(ours); err != nil {
		t.Errorf("with the right CA: %v", err)
	}

	f.trust(after)
	f.serve(after)
	for range 2 { // the first meets the old connection or the old CA bundle
		_, _ = get(ours)
	}
	if _, err := get(ours); err != nil {
		t.Errorf("after the CA was replaced: %v", err)
	}
}

func TestRouteAddress(t *testing.T) {
	for address, good := range map[string]bool{
		"https://leat-apiserver.leat-system.svc": true, "https://127.0.0.1:8443": true, "https://leat.example.com/": true,
		"http://leat-apiserver": false, "leat-apiserver:8443": false, "https://": false, "https://a/b": false, ":": false,
	} {
		if err := Route(&rest.Config{Host: "localhost"}, address); (err == nil) != good {
			t.Errorf("%s: %v", address, err)
		}
	}
}
