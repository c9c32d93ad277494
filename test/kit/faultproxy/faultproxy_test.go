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

package faultproxy

import (
	"io"
	"net"
	"os"
	"testing"
	"time"

	"context"

	"github.com/leat-dev/leat/test/kit/await"
)

// echo starts a server that sends back what it receives, and returns its address.
func echo(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return // the test is over
			}
			go func() {
				_, _ = io.Copy(conn, conn)
				_ = conn.Close()
			}()
		}
	}()
	return listener.Addr().String()
}

func dial(t *testing.T, p *Proxy) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", p.Address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// roundTrip sends a byte and waits until it comes back.
func roundTrip(conn net.Conn) error {
	if _, err := conn.Write([]byte{1}); err != nil {
		return err
	}
	_, err := io.ReadFull(conn, make([]byte, 1))
	return err
}

func TestPassesBytesBothWays(t *testing.T) {
	p := New(t, "127.0.0.1:9", echo(t)) // the first does not listen
	for range 2 {
		if err := roundTrip(dial(t, p)); err != nil {
			t.Fatal(err)
		}
	}
	if got := p.Accepted(); got != 2 {
		t.Errorf("got %d accepted connections, want 2", got)
	}
}

func TestCloseAndResetEndOpenConnectionsOnly(t *testing.T) {
	for name, end := range map[string]func(*Proxy) bool{"Close": (*Proxy).Close, "Reset": (*Proxy).Reset} {
		t.Run(name, func(t *testing.T) {
			p := New(t, echo(t))
			if end(p) {
				t.Error("got true without a connection, want false")
			}
			conn := dial(t, p)
			if err := roundTrip(conn); err != nil {
				t.Fatal(err)
			}
			if !end(p) {
				t.Error("got false with an open connection, want true")
			}
			if err := roundTrip(conn); err == nil {
				t.Error("the connection is still open")
			}
			if err := roundTrip(dial(t, p)); err != nil {
				t.Errorf("a new connection: %v", err)
			}
		})
	}
}

func TestRefuseClosesNewConnectionsUntilAccept(t *testing.T) {
	p := New(t, echo(t))
	p.Refuse()
	if err := roundTrip(dial(t, p)); err == nil {
		t.Error("a connection was served")
	}
	p.Accept()
	if err := roundTrip(dial(t, p)); err != nil {
		t.Error(err)
	}
}

func TestStallHoldsBytesBackUntilResume(t *testing.T) {
	for name, direction := range map[string]struct{ toTarget, fromTarget bool }{
		"to the target": {true, false}, "from the target": {false, true}, "both": {true, true},
	} {
		t.Run(name, func(t *testing.T) {
			p := New(t, echo(t))
			conn := dial(t, p)
			if err := roundTrip(conn); err != nil {
				t.Fatal(err)
			}
			p.Stall(direction.toTarget, direction.fromTarget)
			p.Stall(direction.toTarget, direction.fromTarget) // as often as you like
			if _, err := conn.Write([]byte{1}); err != nil {
				t.Fatal(err)
			}
			if err := conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
				t.Fatal(err)
			}
			if _, err := conn.Read(make([]byte, 1)); !os.IsTimeout(err) {
				t.Fatalf("got %v while stalled, want a timeout", err)
			}
			p.Resume()
			if err := conn.SetReadDeadline(time.Time{}); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
				t.Errorf("after Resume: %v", err)
			}
		})
	}
}

func TestStallAfterHoldsBackWhatExceedsTheNumber(t *testing.T) {
	p := New(t, echo(t))
	conn := dial(t, p)
	stalled := p.StallAfter(2)
	for range 2 {
		if err := roundTrip(conn); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-stalled:
		t.Fatal("it is stalled after 2 bytes")
	default:
	}
	if _, err := conn.Write([]byte{1}); err != nil {
		t.Fatal(err)
	}
	<-stalled
	if err := conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); !os.IsTimeout(err) {
		t.Fatalf("got %v while stalled, want a timeout", err)
	}
	p.Resume()
	if err := conn.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
		t.Errorf("after Resume: %v", err)
	}
	if err := roundTrip(conn); err != nil {
		t.Errorf("after Resume: %v", err)
	}
}

func TestSetTargetsMovesNewConnections(t *testing.T) {
	p := New(t)
	if err := roundTrip(dial(t, p)); err == nil {
		t.Error("a connection without a target was served")
	}
	p.SetTargets(echo(t))
	err := await.Until(t.Context(), time.Minute, func(context.Context) error { return roundTrip(dial(t, p)) })
	if err != nil {
		t.Error(err)
	}
}
