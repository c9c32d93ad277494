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

package measure

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Service is a TCP proxy that replaces a Kubernetes Service. New connections go round-robin to the servers that are ready.
// Open connections stay.
type Service struct {
	// Address is 127.0.0.1:<Port>.
	Address string
	Port    int

	listener net.Listener
	targets  []*target
	next     atomic.Int64
	stop     context.CancelFunc
	wg       sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]struct{}
}

// target is a server.
type target struct {
	address string
	ready   atomic.Bool
}

// probePeriod is the time between two probes. It is about the delay of endpoints in a cluster.
const probePeriod = 500 * time.Millisecond

// NewService starts a Service for servers, as <IP address>:<port>, that serve /readyz with TLS. The caller must close it.
func NewService(addresses ...string) (*Service, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	s := &Service{
		Address: listener.Addr().String(), Port: listener.Addr().(*net.TCPAddr).Port, listener: listener, stop: stop, conns: map[net.Conn]struct{}{},
	}
	for _, address := range addresses {
		t := &target{address: address}
		s.targets = append(s.targets, t)
		t.probe(ctx)
		s.wg.Go(func() {
			ticker := time.NewTicker(probePeriod)
			defer ticker.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-ticker.C:
					t.probe(ctx)
				}
			}
		})
	}
	s.wg.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return // closed
			}
			s.wg.Go(func() { s.connect(client) })
		}
	})
	return s, nil
}

// Close closes all connections and waits until they have ended.
func (s *Service) Close() error {
	s.stop()
	err := s.listener.Close()
	s.mu.Lock()
	for conn := range s.conns {
		_ = conn.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
	return err
}

// probe requests /readyz like a kubelet, which does not verify the certificate.
func (t *target) probe(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+t.address+"/readyz", nil)
	if err != nil {
		return // not an address
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}
	response, err := transport.RoundTrip(request)
	t.ready.Store(err == nil && response.StatusCode == http.StatusOK)
	if err == nil {
		_ = response.Body.Close()
	}
}

func (s *Service) connect(client net.Conn) {
	first := int(s.next.Add(1))
	for i := range s.targets {
		t := s.targets[(first+i)%len(s.targets)]
		if !t.ready.Load() {
			continue
		}
		server, err := net.DialTimeout("tcp", t.address, 2*time.Second)
		if err != nil {
			continue
		}
		s.mu.Lock()
		s.conns[client], s.conns[server] = struct{}{}, struct{}{}
		s.mu.Unlock()
		s.wg.Go(func() { s.pass(client, server) })
		s.pass(server, client)
		return
	}
	_ = client.Close()
}

func (s *Service) pass(to, from net.Conn) {
	_, _ = io.Copy(to, from) // how it ended is for the clients to find out
	_, _ = to.Close(), from.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, to)
	delete(s.conns, from)
}
