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

package security

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"io"
	"net"
	"net/url"
	"syscall"
	"testing"
	"time"

	"github.com/leat-dev/leat/test/kit"
)

const (
	// idle is the number of idle connections, if the limit of open files allows them.
	idle = 10_000
	// idleMemory is the memory budget of an idle connection, in KiB.
	idleMemory = 100.0
	// resets is the number of requests that a flood starts and resets.
	resets = 20_000
	// smallWindow is the receive buffer of a connection that is not read, in bytes.
	smallWindow = 4 << 10
	// interval is the poll interval of conditions.
	interval = 100 * time.Millisecond
	// preface is the connection preface of an HTTP/2 client with empty settings.
	preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + "\x00\x00\x00\x04\x00\x00\x00\x00\x00"
)

func (s *server) address() string {
	address, err := url.Parse(s.config.Host)
	if err != nil {
		panic(err) // kit made the URL
	}
	return address.Host
}

// tls returns a TLS config with the credentials of the administrator.
func (s *server) tls(t *testing.T, protocol string) *tls.Config {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(s.config.CAData)
	own := kit.Must(tls.X509KeyPair(s.config.CertData, s.config.KeyData))(t)
	return &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{own}, ServerName: "127.0.0.1", NextProtos: []string{protocol}}
}

// dial opens a connection until the test ends. The window is its receive buffer in bytes, or 0 for the default.
func (s *server) dial(t *testing.T, protocol string, window int) *tls.Conn {
	t.Helper()
	plain := kit.Must(net.Dial("tcp", s.address()))(t)
	t.Cleanup(func() { plain.Close() })
	if window > 0 {
		kit.Check(t, plain.(*net.TCPConn).SetReadBuffer(window))
	}
	connection := tls.Client(plain, s.tls(t, protocol))
	kit.Check(t, connection.HandshakeContext(t.Context()))
	return connection
}

func (s *server) testConnections(t *testing.T) {
	t.Run("a flood of resets", s.testResets)
	t.Run("idle connections", s.testIdle)
}

// http2Frame returns the bytes of an HTTP/2 frame.
func http2Frame(kind, flags byte, stream uint32, payload []byte) []byte {
	head := []byte{byte(len(payload) >> 16), byte(len(payload) >> 8), byte(len(payload)), kind, flags}
	return append(binary.BigEndian.AppendUint32(head, stream), payload...)
}

// testResets starts requests and resets each at once, so that none counts as a concurrent stream.
func (s *server) testResets(t *testing.T) {
	const headers, reset, endBoth, cancel = 1, 3, 0x4 | 0x1, 8
	const ping = 6
	path := groupPath + "/namespaces/nobody/tasks"
	// HPACK: GET and https are in the static table, the path and the authority are literals.
	fields := append([]byte{0x82, 0x87, 0x04, byte(len(path))}, path...)
	fields = append(append(fields, 0x01, byte(len(s.address()))), s.address()...)
	flood := bytes.NewBufferString(preface)
	n := int(resets / s.factor)
	for i := range uint32(n) {
		flood.Write(http2Frame(headers, endBoth, 2*i+1, fields))
		flood.Write(http2Frame(reset, 0, 2*i+1, binary.BigEndian.AppendUint32(nil, cancel)))
	}
	flood.Write(http2Frame(ping, 0, 0, make([]byte, 8)))
	c := s.measured(t, func() {
		connection := s.dial(t, "h2", 0)
		kit.Check(t, connection.SetDeadline(time.Now().Add(patience)))
		// The server answers the ping at the end when it has read the flood, unless it closes the connection before.
		end := make(chan string)
		go func() {
			head := make([]byte, 9)
			for {
				if _, err := io.ReadFull(connection, head); err != nil {
					end <- err.Error()
					return
				}
				if head[3] == ping {
					end <- "answered the ping"
					return
				}
				io.CopyN(io.Discard, connection, int64(head[0])<<16|int64(head[1])<<8|int64(head[2]))
			}
		}()
		written, err := connection.Write(flood.Bytes())
		t.Logf("wrote %d of %d bytes: %v; %s", written, flood.Len(), err, <-end)
		s.answers(t)
		connection.Close()
	})
	t.Logf("200: %v for %d resets", c, n)
	if limit := memoryBudget * s.factor; c.memory > limit {
		t.Errorf("took %.0f MiB, want at most %.0f", c.memory, limit)
	}
}

// testIdle opens many idle connections. Each must stay within its budget, and others must be served.
func (s *server) testIdle(t *testing.T) {
	var files syscall.Rlimit
	kit.Check(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files))
	// With the race detector, the machine may not have the memory for all.
	n := min(int(idle/s.factor), int(files.Cur)/2)
	config := s.tls(t, "h2")
	config.Certificates = nil
	config.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	before := s.memory(t, "VmRSS")
	c := s.cost(t, func() {
		for range n {
			connection := kit.Must(tls.Dial("tcp", s.address(), config))(t)
			t.Cleanup(func() { connection.Close() })
			_, err := io.WriteString(connection, preface)
			kit.Check(t, err)
		}
		s.answers(t)
	})
	each := (s.memory(t, "VmRSS") - before) * 1024 / float64(n)
	t.Logf("200: %v for %d connections, %.0f KiB each", c, n, each)
	if limit := idleMemory * s.factor; each > limit {
		t.Errorf("a connection takes %.0f KiB, want at most %.0f", each, limit)
	}
}
