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

package crash

import (
	"net"
	"net/url"
	"sync"
	"testing"

	"github.com/leat-dev/leat/test/kit"

	"k8s.io/client-go/rest"
)

// partition is a TCP proxy to a server that can cease to let bytes through, in both directions, as a network does that has lost a route.
// Connections stay as they are; what was sent meanwhile arrives when it heals.
type partition struct {
	target   string
	listener net.Listener
	wg       sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]struct{}
	// open is closed while bytes go through.
	open chan struct{}
}

// between starts a proxy to where the config leads, and gives the config that leads through it.
func between(t *testing.T, config *rest.Config) (*partition, *rest.Config) {
	t.Helper()
	target := kit.Must(url.Parse(config.Host))(t)
	p := &partition{
		target: target.Host, listener: kit.Must(net.Listen("tcp", "127.0.0.1:0"))(t), conns: map[net.Conn]struct{}{}, open: make(chan struct{}),
	}
	close(p.open)
	p.wg.Go(p.accept)
	t.Cleanup(func() {
		kit.Check(t, p.listener.Close())
		p.mu.Lock()
		for conn := range p.conns {
			_ = conn.Close()
		}
		p.mu.Unlock()
		p.heal()
		p.wg.Wait()
	})
	through := rest.CopyConfig(config)
	through.Host = "https://" + p.listener.Addr().String()
	return p, through
}

func (p *partition) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return // the test is over
		}
		server, err := net.Dial("tcp", p.target)
		if err != nil {
			_ = client.Close()
			continue
		}
		p.mu.Lock()
		p.conns[client], p.conns[server] = struct{}{}, struct{}{}
		p.mu.Unlock()
		p.wg.Go(func() { p.pass(client, server) })
		p.wg.Go(func() { p.pass(server, client) })
	}
}

// pass hands on what comes from one side until either ends. How is its clients' business.
func (p *partition) pass(from, to net.Conn) {
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		p.mu.Lock()
		open := p.open
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
}

// lose begins the partition, heal ends it.
func (p *partition) lose() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open = make(chan struct{})
}

func (p *partition) heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.open:
	default:
		close(p.open)
	}
}
