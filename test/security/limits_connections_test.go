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
	// idle is how many connections are left idle, if so many files may be open.
	idle = 10_000
	// idleMemory is what memory one of them may take, in KiB.
	idleMemory = 100.0
	// resets is how many requests a flood begins and takes back.
	resets = 20_000
	// smallWindow is the buffer of a connection that is not read, in bytes.
	smallWindow = 4 << 10
	// interval is that at which conditions are looked at.
	interval = 100 * time.Millisecond
	// preface is what a client of HTTP/2 begins with: its name for itself, and no settings.
	preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + "\x00\x00\x00\x04\x00\x00\x00\x00\x00"
)

func (s *server) address() string {
	address, err := url.Parse(s.config.Host)
	if err != nil {
		panic(err) // it is our own
	}
	return address.Host
}

// tls is how to connect as the administrator.
func (s *server) tls(t *testing.T, protocol string) *tls.Config {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(s.config.CAData)
	own := kit.Must(tls.X509KeyPair(s.config.CertData, s.config.KeyData))(t)
	return &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{own}, ServerName: "127.0.0.1", NextProtos: []string{protocol}}
}

// dial connects until the test ends. A window, in bytes, is how much comes in without being read; 0 is what the system gives.
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

// http2Frame is one of HTTP/2.
func http2Frame(kind, flags byte, stream uint32, payload []byte) []byte {
	head := []byte{byte(len(payload) >> 16), byte(len(payload) >> 8), byte(len(payload)), kind, flags}
	return append(binary.BigEndian.AppendUint32(head, stream), payload...)
}

// testResets begins requests and takes each back at once, so that none counts as open.
func (s *server) testResets(t *testing.T) {
	const headers, reset, endBoth, cancel = 1, 3, 0x4 | 0x1, 8
	const ping = 6
	path := groupPath + "/namespaces/nobody/tasks"
	// GET and https are in the table that comes with the protocol; the path and the authority are told.
	fields := append([]byte{0x82, 0x87, 0x04, byte(len(path))}, path...)
	fields = append(append(fields, 0x01, byte(len(s.address()))), s.address()...)
	flood := bytes.NewBufferString(preface)
	n := int(resets / s.factor)
	for i := range uint32(n) {
		flood.Write(http2Frame(headers, endBoth, 2*i+1, fields))
		flood.Write(http2Frame(reset, 0, 2*i+1, binary.BigEndian.AppendUint32(nil, cancel)))
	}
	flood.Write(http2Frame(ping, 0, 0, make([]byte, 8)))
	c := s.cost(t, func() {
		connection := s.dial(t, "h2", 0)
		kit.Check(t, connection.SetDeadline(time.Now().Add(patience)))
		// It has taken in all of it once it answers the ping at the end, unless it has ended the connection before.
		end := make(chan string)
		go func() {
			head := make([]byte, 9)
			for {
				if _, err := io.ReadFull(connection, head); err != nil {
					end <- err.Error()
					return
				}
				if head[3] == ping {
					end <- "it has answered the ping"
					return
				}
				io.CopyN(io.Discard, connection, int64(head[0])<<16|int64(head[1])<<8|int64(head[2]))
			}
		}()
		written, err := connection.Write(flood.Bytes())
		t.Logf("%d of %d bytes were taken: %v; %s", written, flood.Len(), err, <-end)
		s.answers(t)
		connection.Close()
	})
	t.Logf("200: %v for %d resets", c, n)
	if limit := memoryBudget * s.factor; c.memory > limit {
		t.Errorf("it took %.0f MiB, want %.0f at most", c.memory, limit)
	}
}

// testIdle leaves connections idle, as many as the system allows: each takes little, and others are answered.
func (s *server) testIdle(t *testing.T) {
	var files syscall.Rlimit
	kit.Check(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files))
	// With the race detector each takes ten times as much, and the machine may not have that.
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
		t.Errorf("each takes %.0f KiB, want %.0f at most", each, limit)
	}
}
