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
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/leat-dev/leat/test/kit"
)

// webSocket has the headers of a browser. Servers refuse a websocket without Origin.
var webSocket = []string{
	"Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Origin: https://leat.example.com",
}

// testWebsockets checks that a websocket allows the same watches as other requests, and no more with any headers.
func testWebsockets(t *testing.T, e *kit.Env) {
	var mine, others string
	t.Run("mine", func(t *testing.T) { mine = e.Namespace(t) })
	t.Run("others", func(t *testing.T) { others = e.Namespace(t) })
	admin := kit.Client(t, e.Admin(t)).BatchV1alpha1()
	own := newTask("own")
	own.Spec.Env = nil
	kit.Must(admin.Tasks(mine).Create(t.Context(), own, metav1.CreateOptions{}))(t)
	kit.Must(admin.Tasks(others).Create(t.Context(), newTask("one"), metav1.CreateOptions{}))(t)
	e.BindClusterRole(t, mine, "watcher", "leat:edit", kit.UserSubject("watcher"), rbacv1.Subject{Kind: "ServiceAccount", Namespace: mine, Name: "default"})
	const watch = "?watch=true&timeoutSeconds=1"
	var token string
	kit.Eventually(t, "the service account exists", func(ctx context.Context) (err error) {
		token, err = e.Host.ServiceAccountToken(ctx, mine, "default", authenticationv1.TokenRequestSpec{})
		return err
	})

	for _, port := range ports(e) {
		t.Run(port.name, func(t *testing.T) {
			known, anonymous := port.as(t, "watcher"), port.anonymous(t)
			kit.Eventually(t, "the user may read its namespace", func(context.Context) error {
				if got := ask(t, known, "GET", tasksPath(mine)+"/own"); got.code != http.StatusOK {
					return errors.New(got.String())
				}
				return nil
			})
			// A page cannot set the header Authorization. It sends its token as a protocol.
			for what, c := range map[string]struct {
				config  *rest.Config
				headers []string
			}{
				"with a certificate":       {known, nil},
				"with the account's token": {anonymous, protocolOf(token)},
				"with identity headers":    {known, []string{"X-Remote-User: alice", "X-Remote-Group: leat:admins"}},
			} {
				got := overWebSocket(t, c.config, tasksPath(mine)+watch, c.headers...)
				if got.code != http.StatusSwitchingProtocols || !strings.Contains(got.body, `"type":"ADDED"`) || !strings.Contains(got.body, `"name":"own"`) || strings.Contains(got.body, marked) {
					t.Errorf("allowed watch %s: got %s", what, got)
				}
			}
			for _, target := range []string{
				tasksPath(others) + watch, groupPath + "/tasks" + watch, groupPath + "/watch/tasks?timeoutSeconds=1",
				tasksPath(others) + "/one", tasksPath(others) + "/one/log", tasksPath(others) + "/one/log?follow=true",
			} {
				for what, headers := range map[string][]string{
					"nothing":                 nil,
					"identity headers":        {"X-Remote-User: alice", "X-Remote-Group: leat:admins"},
					"impersonation headers":   {"Impersonate-User: alice", "Impersonate-Group: leat:admins"},
					"the token of an account": protocolOf(token),
					"a malformed token":       protocolOf("marked"),
					"an unsigned token":       protocolOf("eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbGljZSJ9."),
				} {
					for who, config := range map[string]*rest.Config{"the user": known, "anonymous": anonymous} {
						got := overWebSocket(t, config, target, headers...)
						if got.code != http.StatusForbidden && got.code != http.StatusUnauthorized || strings.Contains(got.body, marked) {
							t.Errorf("%s with %s for %s: got %s, want 401 or 403", who, what, target, got)
						}
					}
				}
			}
		})
	}
	// The aggregator may set the identity over a websocket as well.
	aggregator := port{"", e.Direct}.anonymous(t)
	kit.Check(t, certificate(e.Host.FrontProxyCA.IssueClient("front-proxy-client"))(aggregator))
	for name, want := range map[string]int{"watcher": http.StatusSwitchingProtocols, "somebody": http.StatusForbidden} {
		if got := overWebSocket(t, aggregator, tasksPath(mine)+watch, "X-Remote-User: "+name); got.code != want {
			t.Errorf("the aggregator for %s: got %s, want %d", name, got, want)
		}
	}
}

// testWebsocketLogs checks that reading a log over a websocket needs the same rights as otherwise.
func testWebsocketLogs(t *testing.T, e *kit.Env, namespace, task, want string) {
	target := tasksPath(namespace) + "/" + task + "/log"
	if got := overWebSocket(t, e.Admin(t), target); got.code != http.StatusSwitchingProtocols || !strings.Contains(got.body, want) {
		t.Errorf("administrator: got %s, want the log", got)
	}
	forged := []string{"X-Remote-User: alice", "X-Remote-Group: leat:admins"}
	for who, config := range map[string]*rest.Config{"a user": e.Direct(t, "somebody"), "anonymous": port{"", e.Direct}.anonymous(t)} {
		for _, headers := range [][]string{nil, forged, {"Impersonate-User: alice", "Impersonate-Group: leat:admins"}, protocolOf("marked")} {
			got := overWebSocket(t, config, target, headers...)
			if got.code != http.StatusForbidden && got.code != http.StatusUnauthorized || strings.Contains(got.body, want) {
				t.Errorf("%s with %q: got %s, want 401 or 403", who, headers, got)
			}
		}
	}
}

// protocolOf returns the header with which a page sends a token.
func protocolOf(token string) []string {
	return []string{"Sec-WebSocket-Protocol: base64url.bearer.authorization.k8s.io." + base64.RawURLEncoding.EncodeToString([]byte(token)) + ", binary.k8s.io"}
}

// overWebSocket opens a websocket, and returns all data until the server closes it, or the answer if the server refuses
// the websocket.
func overWebSocket(t testing.TB, config *rest.Config, target string, headers ...string) answer {
	t.Helper()
	connection := dial(t, config)
	defer connection.Close()
	kit.Must(io.WriteString(connection, head(config, http.MethodGet, target, slices.Concat(webSocket, headers)...)))(t)
	in := bufio.NewReader(connection)
	response := kit.Must(http.ReadResponse(in, &http.Request{Method: http.MethodGet}))(t)
	defer response.Body.Close()
	if response.StatusCode != http.StatusSwitchingProtocols {
		body := kit.Must(io.ReadAll(io.LimitReader(response.Body, 1<<20)))(t)
		return answer{response.StatusCode, string(body)}
	}
	var all strings.Builder
	for {
		text, end, err := webSocketFrame(in)
		if err != nil {
			return answer{response.StatusCode, fmt.Sprintf("%s … %v", all.String(), err)}
		}
		if all.Write(text); end {
			return answer{response.StatusCode, all.String()}
		}
	}
}

// webSocketFrame reads a frame, and reports whether it closes the websocket.
func webSocketFrame(in io.Reader) (text []byte, end bool, err error) {
	const last, code16, code64 = 8, 126, 127
	var start [2]byte
	if _, err = io.ReadFull(in, start[:]); err != nil {
		return nil, false, err
	}
	length := uint64(start[1]) // frames of a server are not masked
	switch length {
	case code16:
		var more uint16
		err = binary.Read(in, binary.BigEndian, &more)
		length = uint64(more)
	case code64:
		err = binary.Read(in, binary.BigEndian, &length)
	}
	if err != nil {
		return nil, false, err
	}
	text = make([]byte, min(length, 1<<20))
	_, err = io.ReadFull(in, text)
	return text, start[0]&0xf == last, err
}
