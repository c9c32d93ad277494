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

// Package faultproxy puts a TCP proxy between clients and servers of a test. The proxy can break connections, refuse
// new ones, and hold back what is sent, as a network does.
package faultproxy

import (
	"net"
	"net/url"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/rest"
)

// Proxy is a TCP proxy. All methods are safe for concurrent use.
type Proxy struct {
	// Address is where the proxy listens, 127.0.0.1:<port>.
	Address string

	listener net.Listener
	wg       sync.WaitGroup

	mu      sync.Mutex
	targets []string
	next    int
	conns   map[net.Conn]struct{}
	// accepted counts the connections that reached a target.
	accepted int
	refusing bool
	// toTarget and fromTarget are closed while bytes pass in that direction.
	toTarget, fromTarget chan struct{}
	// left is how many bytes may be sent to the targets until stalled is closed. Nil means any number.
	left    int
	stalled chan struct{}
}

// New starts a proxy that lasts until the test ends. New connections go round-robin to the targets, addresses as
// net.Dial takes them. A target that does not listen is skipped.
func New(t testing.TB, targets ...string) *Proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	open := make(chan struct{})
	close(open)
	p := &Proxy{
		Address: listener.Addr().String(), listener: listener, targets: targets, conns: map[net.Conn]struct{}{},
		toTarget: open, fromTarget: open,
	}
	p.wg.Go(p.accept)
	t.Cleanup(func() {
		if err := listener.Close(); err != nil {
			t.Error(err)
		}
		p.Refuse()
		p.Resume()
		p.wg.Wait()
	})
	return p
}

// Before starts a proxy to the server of config, and returns it with the configuration of a client that goes through
// it.
func Before(t testing.TB, config *rest.Config) (*Proxy, *rest.Config) {
	t.Helper()
	target, err := url.Parse(config.Host)
	if err != nil {
		t.Fatal(err)
	}
	p := New(t, target.Host)
	return p, p.Through(config)
}

// Through returns a copy of config whose host is the proxy.
func (p *Proxy) Through(config *rest.Config) *rest.Config {
	config = rest.CopyConfig(config)
	config.Host = "https://" + p.Address
	return config
}

// SetTargets replaces the targets. Open connections stay.
func (p *Proxy) SetTargets(targets ...string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.targets = targets
}

// Close closes all open connections, as an end of either side does, and reports whether there were any. New ones are
// accepted at once.
func (p *Proxy) Close() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for conn := range p.conns {
		_ = conn.Close() // the other side may have closed it
	}
	return len(p.conns) > 0
}

// Reset is Close with a TCP reset.
func (p *Proxy) Reset() bool {
	p.mu.Lock()
	for conn := range p.conns {
		_ = conn.(*net.TCPConn).SetLinger(0)
	}
	p.mu.Unlock()
	return p.Close()
}

// Refuse closes all open connections and every new one, until Accept.
func (p *Proxy) Refuse() {
	p.mu.Lock()
	p.refusing = true
	p.mu.Unlock()
	p.Close()
}

// Accept ends Refuse.
func (p *Proxy) Accept() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refusing = false
}

// Stall holds back what is sent to the targets, from them, or both, until Resume. Connections stay open, and what was
// sent meanwhile arrives after Resume.
func (p *Proxy) Stall(toTarget, fromTarget bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if toTarget && passes(p.toTarget) {
		p.toTarget = make(chan struct{})
	}
	if fromTarget && passes(p.fromTarget) {
		p.fromTarget = make(chan struct{})
	}
}

// StallAfter stalls what is sent to the targets once so many more bytes have been sent to them, and closes the channel
// that it returns. What exceeds the number is held back, in pieces of up to 32 KiB.
func (p *Proxy) StallAfter(bytes int) (stalled <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.left, p.stalled = bytes, make(chan struct{})
	return p.stalled
}

// countLocked counts bytes before they are sent to a target. p.mu must be held.
func (p *Proxy) countLocked(bytes int) {
	if p.left -= bytes; p.stalled == nil || p.left >= 0 {
		return
	}
	close(p.stalled)
	p.stalled = nil
	if passes(p.toTarget) {
		p.toTarget = make(chan struct{})
	}
}

// Resume ends Stall and StallAfter.
func (p *Proxy) Resume() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stalled = nil
	for _, gate := range []chan struct{}{p.toTarget, p.fromTarget} {
		if !passes(gate) {
			close(gate)
		}
	}
}

// passes reports whether a gate is open.
func passes(gate chan struct{}) bool {
	select {
	case <-gate:
		return true
	default:
		return false
	}
}

// Accepted returns the number of connections that have reached a target.
func (p *Proxy) Accepted() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.accepted
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

// serve connects a client with a target until either closes its connection.
func (p *Proxy) serve(client net.Conn) {
	server := p.dial()
	if server == nil {
		_ = client.Close()
		return
	}
	p.mu.Lock()
	if p.refusing {
		p.mu.Unlock()
		_, _ = client.Close(), server.Close()
		return
	}
	p.accepted++
	p.conns[client], p.conns[server] = struct{}{}, struct{}{}
	p.mu.Unlock()

	p.wg.Go(func() { p.copy(client, server, false) })
	p.copy(server, client, true)
}

// dial connects to the next target that listens. It returns nil if none does.
func (p *Proxy) dial() net.Conn {
	p.mu.Lock()
	targets, first := p.targets, p.next
	p.next++
	p.mu.Unlock()
	for i := range targets {
		if server, err := net.DialTimeout("tcp", targets[(first+i)%len(targets)], 2*time.Second); err == nil {
			return server
		}
	}
	return nil
}

// copy passes bytes on while the gate is open, until either connection ends. It then closes both: how a connection
// ended is for its clients to find out.
func (p *Proxy) copy(to, from net.Conn, toTarget bool) {
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		p.mu.Lock()
		open := p.fromTarget
		if toTarget {
			p.countLocked(n)
			open = p.toTarget
		}
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
