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

package chaos

import (
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/leat-dev/leat/test/kit"
)

// link is a TCP proxy with the faults of a network. It resets connections, or blocks one direction or both while
// connections stay open. Blocked data arrives when the link is unblocked.
type link struct {
	address string // 127.0.0.1:<port>

	listener net.Listener
	wg       sync.WaitGroup
	next     atomic.Int64

	mu      sync.Mutex
	targets []string
	conns   map[net.Conn]struct{}
	// there and back are closed channels while data flows to the target and from it.
	there, back chan struct{}
}

// newLink starts a proxy that connects to the targets in turn, until the test ends. It skips targets that do not
// listen.
func newLink(t testing.TB, targets ...string) *link {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	kit.Check(t, err)
	l := &link{address: listener.Addr().String(), listener: listener, targets: targets, conns: map[net.Conn]struct{}{}, there: make(chan struct{}), back: make(chan struct{})}
	close(l.there)
	close(l.back)
	l.wg.Go(l.accept)
	t.Cleanup(func() {
		kit.Check(t, listener.Close())
		l.cut()
		l.unblock()
		l.wg.Wait()
	})
	return l
}

// aim sets the targets of a link.
func (l *link) aim(targets ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.targets = targets
}

func (l *link) accept() {
	for {
		client, err := l.listener.Accept()
		if err != nil {
			return // the listener is closed
		}
		l.wg.Go(func() { l.connect(client) })
	}
}

func (l *link) connect(client net.Conn) {
	l.mu.Lock()
	targets := l.targets
	l.mu.Unlock()
	first := int(l.next.Add(1))
	for i := range targets {
		server, err := net.DialTimeout("tcp", targets[(first+i)%len(targets)], 2*time.Second)
		if err != nil {
			continue
		}
		l.mu.Lock()
		l.conns[client], l.conns[server] = struct{}{}, struct{}{}
		l.mu.Unlock()
		l.wg.Go(func() { l.copy(server, client, func() chan struct{} { return l.back }) })
		l.copy(client, server, func() chan struct{} { return l.there })
		return
	}
	_ = client.Close()
}

// copy copies data from one connection to the other until either is closed, and then closes both.
func (l *link) copy(from, to net.Conn, gate func() chan struct{}) {
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		l.mu.Lock()
		open := gate()
		l.mu.Unlock()
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
	l.mu.Lock()
	delete(l.conns, from)
	delete(l.conns, to)
	l.mu.Unlock()
}

// cut resets all connections. Clients can connect again at once.
func (l *link) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for conn := range l.conns {
		_ = conn.(*net.TCPConn).SetLinger(0)
		_ = conn.Close()
	}
}

// block blocks data to the target, data from it, or both, until unblock.
func (l *link) block(there, back bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if there {
		l.there = make(chan struct{})
	}
	if back {
		l.back = make(chan struct{})
	}
}

// unblock lets data flow in both directions.
func (l *link) unblock() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, gate := range []chan struct{}{l.there, l.back} {
		select {
		case <-gate:
		default:
			close(gate)
		}
	}
}
