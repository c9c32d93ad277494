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
	// apiPrefix is the path prefix of our API.
	apiPrefix = "/apis/" + batch.GroupName + "/"
	// connections is the number of connections that a client spreads its requests over. HTTP/2 would send all
	// requests over one connection, and a Service assigns a connection to one replica: the other replicas would be
	// idle.
	connections = 4
	// dialTimeout and keepAlive are client-go's defaults.
	dialTimeout, keepAlive = 30 * time.Second, 30 * time.Second
)

// Route makes clients of config send requests for our API to leat-apiserver at the address, which is a URL like
// https://leat-apiserver.leat-system.svc, with the credentials of config. All other requests still go to the cluster.
//
// The CA bundle to verify the server with is read from the APIService, and read again when the server presents a
// certificate that it does not verify. The user of config must be allowed to get the APIService.
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
		return roundTripperFunc(func(request *http.Request) (*http.Response, error) {
			if !strings.HasPrefix(request.URL.Path, apiPrefix) {
				return next.RoundTrip(request)
			}
			return r.roundTrip(request)
		})
	})
	return nil
}

type roundTripperFunc func(*http.Request) (*http.Response, error)

// RoundTrip implements http.RoundTripper.
func (f roundTripperFunc) RoundTrip(request *http.Request) (*http.Response, error) { return f(request) }

// router sends requests to the server.
type router struct {
	server  *url.URL
	cluster rest.Interface
	client  rest.TLSClientConfig // for the client certificate

	mu   sync.Mutex
	pool *transportPool // nil until the CA bundle is read
}

// transportPool holds equal transports with one connection each, and uses them in turn.
type transportPool struct {
	transports [connections]http.RoundTripper
	requests   atomic.Uint32
}

func (p *transportPool) next() http.RoundTripper { return p.transports[p.requests.Add(1)%connections] }

func (r *router) roundTrip(request *http.Request) (*http.Response, error) {
	pool, err := r.transports(request.Context())
	if err != nil {
		if request.Body != nil {
			_ = request.Body.Close()
		}
		return nil, err
	}
	request = request.Clone(request.Context())
	request.URL.Scheme, request.URL.Host, request.Host = r.server.Scheme, r.server.Host, r.server.Host
	response, err := pool.next().RoundTrip(request)
	if verification := (*tls.CertificateVerificationError)(nil); errors.As(err, &verification) {
		r.discard(pool)
	}
	return response, err
}

// registrationTimeout bounds the read of the APIService, which requests wait for.
const registrationTimeout = 10 * time.Second

// transports returns the transports that verify the server with the CA bundle of the APIService.
func (r *router) transports(ctx context.Context) (*transportPool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pool != nil {
		return r.pool, nil
	}
	ctx, cancel := context.WithTimeout(ctx, registrationTimeout)
	defer cancel()
	registered, err := Registered(ctx, r.cluster)
	if err != nil {
		return nil, fmt.Errorf("cannot find out how to reach leat-apiserver: %w", err)
	}
	tlsConfig := r.client
	tlsConfig.CAFile, tlsConfig.CAData, tlsConfig.ServerName = "", registered.CABundle, registered.ServerName
	pool := &transportPool{}
	for i := range pool.transports {
		// client-go caches transports by configuration. A dialer of its own makes each configuration unique.
		dialer := &net.Dialer{Timeout: dialTimeout, KeepAlive: keepAlive}
		pool.transports[i], err = rest.TransportFor(&rest.Config{Host: r.server.Host, TLSClientConfig: tlsConfig, Dial: dialer.DialContext})
		if err != nil {
			return nil, err
		}
	}
	r.pool = pool
	return pool, nil
}

// discard drops the pool, so that the next request reads the CA bundle again. It does nothing if another request has
// replaced the pool.
func (r *router) discard(pool *transportPool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pool == pool {
		r.pool = nil
		for _, transport := range pool.transports {
			utilnet.CloseIdleConnectionsFor(transport)
		}
	}
}
