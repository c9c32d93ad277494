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

// Package faultproxy is a TCP proxy that fails as networks do.
package faultproxy

import (
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"github.com/leat-dev/leat/test/kit"
)

// Proxy forwards TCP connections. It can reset them, refuse new ones, and hold back what is sent in one direction or in
// both, as a network that has lost a route does. It is safe for concurrent use.
type Proxy struct {
	// Address is where the proxy listens, 127.0.0.1:<port>.
	Address string

	listener net.Listener
	wg       sync.WaitGroup
	next     atomic.Int64

	mu       sync.Mutex
	targets  []string
	conns    map[net.Conn]struct{}
	accepted int
	closed   bool
	// request and response are closed while bytes pass to the target and from it.
	request, response chan struct{}
}

// New starts a proxy until the test ends. It connects to the targets in turn, and skips those that refuse.
func New(t testing.TB, targets ...string) *Proxy {
	t.Helper()
	listener := kit.Must(net.Listen("tcp", "127.0.0.1:0"))(t)
	p := &Proxy{
		Address: listener.Addr().String(), listener: listener, targets: targets, conns: map[net.Conn]struct{}{},
		request: make(chan struct{}), response: make(chan struct{}),
	}
	close(p.request)
	close(p.response)
	p.wg.Go(p.accept)
	t.Cleanup(func() {
		kit.Check(t, listener.Close())
		p.Close()
		p.Heal()
		p.wg.Wait()
	})
	return p
}

// Between starts a proxy to the server of config, and returns it with a config that leads through it.
func Between(t testing.TB, config *rest.Config) (*Proxy, *rest.Config) {
	t.Helper()
	p := New(t, kit.Must(url.Parse(config.Host))(t).Host)
	through := rest.CopyConfig(config)
	through.Host = "https://" + p.Address
	return p, through
}

// SetTargets replaces the targets for new connections.
func (p *Proxy) SetTargets(targets ...string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.targets = targets
}

// Accepted returns how many connections the proxy has forwarded so far.
func (p *Proxy) Accepted() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.accepted
}

// Cut resets all connections and reports whether there were any. Clients may reconnect at once.
func (p *Proxy) Cut() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for conn := range p.conns {
		_ = conn.(*net.TCPConn).SetLinger(0)
		_ = conn.Close()
	}
	return len(p.conns) > 0
}

// Close resets all connections and closes new ones until Open.
func (p *Proxy) Close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.Cut()
}

// Open ends Close.
func (p *Proxy) Open() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = false
}

// Lose holds back what is sent to the target, from it, or both. Connections stay open. Heal delivers what was held
// back.
func (p *Proxy) Lose(request, response bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if request {
		p.request = reopened(p.request)
	}
	if response {
		p.response = reopened(p.response)
	}
}

// reopened returns a gate that is not closed.
func reopened(gate chan struct{}) chan struct{} {
	select {
	case <-gate:
		return make(chan struct{})
	default:
		return gate
	}
}

// Heal ends Lose.
func (p *Proxy) Heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, gate := range []chan struct{}{p.request, p.response} {
		select {
		case <-gate:
		default:
			close(gate)
		}
	}
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return // the test is over
		}
		p.wg.Go(func() { p.serve(client) })
	}
}

// serve connects to a target and forwards both directions.
func (p *Proxy) serve(client net.Conn) {
	p.mu.Lock()
	targets := p.targets
	p.mu.Unlock()
	first := int(p.next.Add(1))
	for i := range targets {
		server, err := net.DialTimeout("tcp", targets[(first+i)%len(targets)], 2*time.Second)
		if err != nil {
			continue
		}
		p.mu.Lock()
		if p.closed {
			p.mu.Unlock()
			_ = server.Close()
			break
		}
		p.accepted++
		p.conns[client], p.conns[server] = struct{}{}, struct{}{}
		p.mu.Unlock()
		p.wg.Go(func() { p.forward(server, client, func() chan struct{} { return p.response }) })
		p.forward(client, server, func() chan struct{} { return p.request })
		return
	}
	_ = client.Close()
}

// forward copies one direction until either side ends, and closes both. How a connection ends is up to its clients.
func (p *Proxy) forward(from, to net.Conn, gate func() chan struct{}) {
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		p.mu.Lock()
		open := gate()
		p.mu.Unlock()
		<-open
		if n > 0 {
			if _, err := to.Write(buffer[:n]); err != nil {
				break
			}
		}
		if err != nil {
			break
		}
	}
	_, _ = from.Close(), to.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, from)
	delete(p.conns, to)
}
