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

package consistency

import (
	"io"
	"net"
	"net/url"
	"sync"
	"testing"

	"github.com/leat-dev/leat/test/kit"

	"k8s.io/client-go/rest"
)

// proxy is a TCP proxy to a server whose connections can be cut.
type proxy struct {
	listener net.Listener
	target   string
	wg       sync.WaitGroup

	mu       sync.Mutex
	conns    map[net.Conn]struct{}
	accepted int
	closed   bool // lets no connection through
}

// newProxy starts a proxy to where the config leads, and gives the config that leads through it.
func newProxy(t *testing.T, config *rest.Config) (*proxy, *rest.Config) {
	t.Helper()
	target := kit.Must(url.Parse(config.Host))(t)
	listener := kit.Must(net.Listen("tcp", "127.0.0.1:0"))(t)
	p := &proxy{listener: listener, target: target.Host, conns: map[net.Conn]struct{}{}}
	p.wg.Go(p.run)
	t.Cleanup(func() {
		kit.Check(t, listener.Close())
		p.close()
		p.wg.Wait()
	})
	through := rest.CopyConfig(config)
	through.Host = "https://" + listener.Addr().String()
	return p, through
}

func (p *proxy) run() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return // the test is over
		}
		p.wg.Go(func() { p.serve(client) })
	}
}

func (p *proxy) serve(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", p.target)
	if err != nil {
		return
	}
	defer server.Close()
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return
	}
	p.accepted++
	p.conns[client], p.conns[server] = struct{}{}, struct{}{}
	p.mu.Unlock()

	// Whichever direction ends first ends both. How a connection ended is its clients' business.
	p.wg.Go(func() {
		_, _ = io.Copy(server, client)
		_ = server.Close()
	})
	_, _ = io.Copy(client, server)
	_ = client.Close()

	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, client)
	delete(p.conns, server)
}

// cut ends all connections, and says whether there were any.
func (p *proxy) cut() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for conn := range p.conns {
		_ = conn.Close()
	}
	return len(p.conns) > 0
}

// close ends all connections and lets no new one through until open.
func (p *proxy) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.cut()
}

func (p *proxy) open() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = false
}

// connections says how many connections were let through.
func (p *proxy) connections() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.accepted
}
