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
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/standalone/pki"
	"github.com/leat-dev/leat/test/kit"
)

// upgrades has the headers that request another protocol on a connection.
var upgrades = map[string][]string{
	"a websocket":         {"Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="},
	"a page's websocket":  webSocket,
	"a channel websocket": {"Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Protocol: v5.channel.k8s.io"},
	"SPDY":                {"Connection: Upgrade", "Upgrade: SPDY/3.1"},
	"HTTP/2":              {"Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA"},
	"an unknown protocol": {"Connection: upgrade", "Upgrade: leat/1"},
	"no protocol":         {"Connection: Upgrade"},
}

// testUpgrades checks that upgraded and ambiguous requests never get past authorization.
func testUpgrades(t *testing.T, e *kit.Env) {
	var mine, others string
	t.Run("mine", func(t *testing.T) { mine = e.Namespace(t) })
	t.Run("others", func(t *testing.T) { others = e.Namespace(t) })
	admin := kit.Client(t, e.Admin(t)).BatchV1alpha1()
	kit.Must(admin.Tasks(mine).Create(t.Context(), &v1alpha1.Task{ObjectMeta: metav1.ObjectMeta{Name: "own"}, Spec: v1alpha1.TaskSpec{Command: []string{"true"}}}, metav1.CreateOptions{}))(t)
	kit.Must(admin.Tasks(others).Create(t.Context(), newTask("one"), metav1.CreateOptions{}))(t)
	e.BindClusterRole(t, mine, "tunneller", "leat:edit", kit.UserSubject("tunneller"))

	for _, port := range ports(e) {
		t.Run(port.name, func(t *testing.T) {
			known := port.as(t, "tunneller")
			kit.Eventually(t, "the user may read its namespace", func(context.Context) error {
				if got := ask(t, known, "GET", tasksPath(mine)+"/own"); got.code != http.StatusOK {
					return errors.New(got.String())
				}
				return nil
			})
			for what, headers := range upgrades {
				for _, method := range []string{"GET", "POST", "CONNECT"} {
					for _, target := range []string{
						tasksPath(others) + "/one", tasksPath(others) + "/one/log?follow=true", tasksPath(others) + "?watch=true&timeoutSeconds=1", tasksPath(others) + "/one/exec", tasksPath(others) + "/one/status",
						"/metrics", "/proxy", strings.TrimPrefix(e.AtServer().Direct(t, "x").Host, "https://"),
					} {
						for who, config := range map[string]*rest.Config{"the user": known, "anonymous": port.anonymous(t)} {
							if got := ask(t, config, method, target, headers...); got.code != 0 && got.code < 400 {
								t.Errorf("%s %s with upgrade to %s by %s: got %s, want an error", method, target, what, who, got)
							}
						}
					}
					// After a failed upgrade, the next request on the connection must not pass as one of the aggregator.
					for _, target := range []string{tasksPath(mine) + "/own", tasksPath(mine) + "/own/log", tasksPath(mine) + "/none", groupPath + "/namespaces/" + mine + "/unknown"} {
						smuggle(t, known, fmt.Sprintf("%s %s for %s", method, target, what), head(known, method, target, headers...), tasksPath(others)+"/one")
					}
				}
			}
			// Requests whose end a proxy and a server may see at different places.
			for what, request := range map[string]string{
				"two lengths":            head(known, "POST", tasksPath(mine), "Content-Length: 4", "Content-Length: 0"),
				"a length and chunks":    head(known, "POST", tasksPath(mine), "Content-Length: 4", "Transfer-Encoding: chunked") + "0\r\n\r\n",
				"chunks of another name": head(known, "POST", tasksPath(mine), "Transfer-Encoding: xchunked", "Content-Length: 0"),
				"a folded header":        head(known, "GET", tasksPath(mine), "X: a", " Transfer-Encoding: chunked"),
				"a space in a name":      head(known, "GET", tasksPath(mine), "Content-Length : 4"),
				"a body of a GET":        head(known, "GET", tasksPath(mine)+"/own", "Content-Length: 4") + "GET ",
				"a half body":            head(known, "POST", tasksPath(mine), "Content-Length: 4"),
			} {
				smuggle(t, known, what, request, tasksPath(others)+"/one")
			}
		})
	}
}

// smuggle sends a request, and then, on the same connection, a request for a forbidden target with the identity headers
// of an administrator. No answer may have the marker.
func smuggle(t *testing.T, config *rest.Config, what, request, target string) {
	t.Helper()
	connection := dial(t, config)
	defer connection.Close()
	second := head(&rest.Config{Host: config.Host}, "GET", target, "X-Remote-User: alice", "X-Remote-Group: leat:admins", "Connection: close")
	// The server may close before it has read all.
	_, _ = io.WriteString(connection, request+second)
	in := bufio.NewReader(connection)
	for {
		response, err := http.ReadResponse(in, &http.Request{Method: "GET"})
		if err != nil {
			return
		}
		body, _ := io.ReadAll(io.LimitReader(response.Body, 1<<20)) // an incomplete body may have the marker as well
		if response.StatusCode == http.StatusSwitchingProtocols || strings.Contains(string(body), marked) {
			t.Errorf("after %s: got %d %.300s", what, response.StatusCode, body)
			return
		}
	}
}

// testAddresses checks that no spelling of an address makes the server dial its own machine for the log of a worker.
func testAddresses(t *testing.T, e *kit.Env) {
	namespace := e.Namespace(t)
	listener := kit.Must(net.Listen("tcp", "127.0.0.1:0"))(t)
	var dialed atomic.Int32
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			dialed.Add(1)
			connection.Close()
		}
	}()
	t.Cleanup(func() { listener.Close() })
	logPort := int32(listener.Addr().(*net.TCPAddr).Port)
	bundle := kit.Must(pki.NewCA("worker"))(t).CertPEM()
	admin, controller := kit.Client(t, e.Admin(t)).BatchV1alpha1(), kit.Client(t, e.Controller(t)).BatchV1alpha1()
	worker := kit.Client(t, e.Worker(t, namespace, "dialed")).BatchV1alpha1().Workers(namespace)
	own := kit.Must(worker.Create(t.Context(), &v1alpha1.Worker{ObjectMeta: metav1.ObjectMeta{Name: "dialed"}}, metav1.CreateOptions{}))(t)
	own.Status.Incarnation = "dialed-1"
	own = kit.Must(worker.UpdateStatus(t.Context(), own, metav1.UpdateOptions{}))(t)
	kit.Must(admin.Tasks(namespace).Create(t.Context(), newTask("one"), metav1.CreateOptions{}))(t)
	kit.Must(controller.Tasks(namespace).Bind(t.Context(), "one", &v1alpha1.Binding{Target: v1alpha1.BindingTarget{Name: "dialed", Incarnation: "dialed-1"}}, metav1.CreateOptions{}))(t)

	published := 0
	for _, address := range []string{
		"127.0.0.1", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "017700000001", "127.0.0.1.", "127.000.000.001", "0.0.0.0", "0", "localhost", "LOCALHOST", "localhost.",
		"::1", "::", "::ffff:127.0.0.1", "::ffff:7f00:1", "::127.0.0.1", "0:0:0:0:0:ffff:7f00:0001", "::1%lo", "[::1]", "64:ff9b::7f00:1", "2002:7f00:1::",
		"169.254.169.254", "::ffff:169.254.169.254", "2852039166", "0xa9fea9fe", "100.100.100.200",
		"127.0.0.1:1", "user@127.0.0.1", "127.0.0.1/", "127.0.0.1#", "127.0.0.1?", `127.0.0.1\`, "127.0.0.1\r\nX: y", "127.0.0.1 ", "%31%32%37.0.0.1", "①②⑦.0.0.1", "/etc/passwd", "unix:/run/x.sock",
	} {
		changed := own.DeepCopy()
		changed.Status.Endpoint = &v1alpha1.WorkerEndpoint{Host: address, Port: logPort, CABundle: bundle}
		updated, err := worker.UpdateStatus(t.Context(), changed, metav1.UpdateOptions{})
		if err != nil {
			continue // refused by validation
		}
		own = updated
		published++
		for _, port := range ports(e) {
			got := ask(t, port.as(t, "alice", "leat:admins"), "GET", tasksPath(namespace)+"/one/log")
			if got.code != http.StatusServiceUnavailable {
				t.Errorf("log at address %q %s: got %s, want 503", address, port.name, got)
			}
		}
	}
	if published < 10 {
		t.Errorf("got %d published addresses, want at least 10", published)
	}
	if n := dialed.Load(); n > 0 {
		t.Errorf("the server dialed its own machine %d times", n)
	}
}
