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

package incluster

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/await"
)

// balancer is a load balancer that behaves like a Service: it spreads new connections over the ready replicas, and does
// not move open connections.
type balancer struct {
	port     int
	listener net.Listener
	backends []*backend
	wg       sync.WaitGroup

	mu    sync.Mutex
	next  int
	conns map[net.Conn]struct{}
}

// backend is a replica behind the load balancer.
type backend struct {
	address string
	// balancer.mu guards these fields. ready is whether the backend is an endpoint, accepted is its number of connections.
	ready    bool
	accepted int
}

// probePeriod is the time between two readiness probes.
const probePeriod = 500 * time.Millisecond

// balance starts a load balancer for the replicas.
func balance(t *testing.T, replicas ...*kit.Env) *balancer {
	t.Helper()
	b := &balancer{listener: kit.Must(net.Listen("tcp", "127.0.0.1:0"))(t), conns: map[net.Conn]struct{}{}}
	b.port = b.listener.Addr().(*net.TCPAddr).Port
	ctx, stop := context.WithCancel(t.Context())
	for _, replica := range replicas {
		config := replica.Anonymous(t)
		target := &backend{address: kit.Must(url.Parse(config.Host))(t).Host}
		b.backends = append(b.backends, target)
		b.probe(ctx, target, config)
		b.wg.Go(func() {
			ticker := time.NewTicker(probePeriod)
			defer ticker.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-ticker.C:
					b.probe(ctx, target, config)
				}
			}
		})
	}
	b.wg.Go(b.accept)
	t.Cleanup(func() {
		stop()
		kit.Check(t, b.listener.Close())
		b.mu.Lock()
		for conn := range b.conns {
			_ = conn.Close()
		}
		b.mu.Unlock()
		b.wg.Wait()
	})
	return b
}

// probe updates the readiness of a replica. Like the kubelet, it accepts any certificate.
func (b *balancer) probe(ctx context.Context, target *backend, config *rest.Config) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	config = rest.CopyConfig(config)
	config.CAData, config.Insecure = nil, true
	got, err := kit.TryDo(ctx, config, http.MethodGet, "/readyz", "")
	b.mu.Lock()
	defer b.mu.Unlock()
	target.ready = err == nil && got.Code == http.StatusOK
}

func (b *balancer) accept() {
	for {
		client, err := b.listener.Accept()
		if err != nil {
			return // the listener is closed
		}
		server, err := net.Dial("tcp", b.choose())
		if err != nil {
			_ = client.Close()
			continue
		}
		b.mu.Lock()
		b.conns[client], b.conns[server] = struct{}{}, struct{}{}
		b.mu.Unlock()
		b.wg.Go(func() { b.pass(client, server) })
		b.wg.Go(func() { b.pass(server, client) })
	}
}

// choose returns the address of a ready replica, or one where nothing listens.
func (b *balancer) choose() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	for range b.backends {
		target := b.backends[b.next%len(b.backends)]
		b.next++
		if target.ready {
			target.accepted++
			return target.address
		}
	}
	return "127.0.0.1:" + strconv.Itoa(discard)
}

// discard is the port of the discard protocol, which machines no longer serve.
const discard = 9

// pass copies from one connection to the other, and closes both.
func (b *balancer) pass(from, to net.Conn) {
	_, _ = io.Copy(to, from) // either side may close the connection
	b.mu.Lock()
	delete(b.conns, from)
	b.mu.Unlock()
	_, _ = from.Close(), to.Close()
}

// accepted returns the number of connections of each replica.
func (b *balancer) accepted() []int {
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []int
	for _, target := range b.backends {
		all = append(all, target.accepted)
	}
	return all
}

// waitReady waits until the readiness of a replica is as wanted.
func (b *balancer) waitReady(t *testing.T, i int, want bool) {
	t.Helper()
	kit.Eventually(t, fmt.Sprintf("readiness of replica %d is %t", i, want), func(context.Context) error {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.backends[i].ready != want {
			return await.ErrNotYet
		}
		return nil
	})
}
