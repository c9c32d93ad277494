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
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

const (
	// prefix is that of the paths of our API.
	prefix = "/apis/" + batch.GroupName + "/"
	// connections is over how many the requests of a client are spread. A Service gives each connection to one replica, and HTTP/2 needs but
	// one for all requests: that replica would do all that controllers ask for, and the others nothing.
	connections = 4
	// dialTimeout and keepAlive are those of client-go.
	dialTimeout, keepAlive = 30 * time.Second, 30 * time.Second
)

// Route has clients of a cluster send what is for our API to leat-apiserver at an address like https://leat-apiserver.leat-system.svc, with the
// credentials that config has for the cluster. Whom to trust there is read from the cluster, and anew when the server shows a certificate
// that is not trusted any more; so config must be allowed to get the APIService.
func Route(config *rest.Config, address string) error {
	server, err := url.Parse(address)
	if err != nil || server.Scheme != "https" || server.Host == "" || strings.Trim(server.Path, "/") != "" {
		return fmt.Errorf("%q: must be like https://leat-apiserver.leat-system.svc, with a port if it is not 443", address)
	}
	cluster, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		return err
	}
	r := &router{server: server, cluster: cluster.RESTClient(), client: config.TLSClientConfig}
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(request *http.Request) (*http.Response, error) {
			if !strings.HasPrefix(request.URL.Path, prefix) {
				return next.RoundTrip(request)
			}
			return r.roundTrip(request)
		})
	})
	return nil
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(request *http.Request) (*http.Response, error) { return f(request) }

// router sends requests to the server.
type router struct {
	server  *url.URL
	cluster rest.Interface
	client  rest.TLSClientConfig // of which the certificate is shown to the server too

	mu   sync.Mutex
	pool *pool // nil if whom to trust is not known
}

// pool is transports that all do the same, with a connection each: requests take turns.
type pool struct {
	transports [connections]http.RoundTripper
	requests   atomic.Uint32
}

func (p *pool) next() http.RoundTripper { return p.transports[p.requests.Add(1)%connections] }

func (r *router) roundTrip(request *http.Request) (*http.Response, error) {
	pool, err := r.trusted(request.Context())
	if err != nil {
		if request.Body != nil {
			_ = request.Body.Close()
		}
		return nil, err
	}
	request = request.Clone(request.Context())
	request.URL.Scheme, request.URL.Host, request.Host = r.server.Scheme, r.server.Host, r.server.Host
	response, err := pool.next().RoundTrip(request)
	if untrusted := (*tls.CertificateVerificationError)(nil); errors.As(err, &untrusted) {
		r.forget(pool)
	}
	return response, err
}

// registrationTimeout bounds how long requests wait for the cluster to say whom to trust.
const registrationTimeout = 10 * time.Second

// trusted gives the transports that trust whom the cluster says.
func (r *router) trusted(ctx context.Context) (*pool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pool != nil {
		return r.pool, nil
	}
	ctx, cancel := context.WithTimeout(ctx, registrationTimeout)
	defer cancel()
	registered, err := Registered(ctx, r.cluster)
	if err != nil {
		return nil, fmt.Errorf("how to reach leat-apiserver: %w", err)
	}
	trust := r.client
	trust.CAFile, trust.CAData, trust.ServerName = "", registered.CABundle, registered.ServerName
	made := &pool{}
	for i := range made.transports {
		// client-go makes one transport for all configurations that are the same, and dialers never are.
		dialer := &net.Dialer{Timeout: dialTimeout, KeepAlive: keepAlive}
		made.transports[i], err = rest.TransportFor(&rest.Config{Host: r.server.Host, TLSClientConfig: trust, Dial: dialer.DialContext})
		if err != nil {
			return nil, err
		}
	}
	r.pool = made
	return made, nil
}

// forget has the cluster asked again, unless that was done meanwhile.
func (r *router) forget(untrusted *pool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pool == untrusted {
		r.pool = nil
		for _, transport := range untrusted.transports {
			utilnet.CloseIdleConnectionsFor(transport)
		}
	}
}
