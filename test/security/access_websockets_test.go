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

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/leat-dev/leat/test/kit"
)

// webSocket is how a browser asks for one: a server takes none that does not say which page it is of.
var webSocket = []string{
	"Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Origin: https://leat.example.com",
}

// testWebsockets: what may be watched may be watched over a websocket, and nothing else may, whatever is said beside.
func testWebsockets(t *testing.T, e *kit.Env) {
	var mine, others string
	t.Run("mine", func(t *testing.T) { mine = e.Namespace(t) })
	t.Run("others", func(t *testing.T) { others = e.Namespace(t) })
	admin := kit.Client(t, e.Admin(t)).BatchV1alpha1()
	own := newTask("own")
	own.Spec.Env = nil
	kit.Must(admin.Tasks(mine).Create(t.Context(), own, metav1.CreateOptions{}))(t)
	kit.Must(admin.Tasks(others).Create(t.Context(), newTask("one"), metav1.CreateOptions{}))(t)
	grant(t, e, mine, "watcher", "leat:edit", user("watcher"), rbacv1.Subject{Kind: "ServiceAccount", Namespace: mine, Name: "default"})
	const watch = "?watch=true&timeoutSeconds=1"
	var token string
	kit.Eventually(t, "there is an account", func(ctx context.Context) (err error) {
		token, err = tokenOf(ctx, hostAdmin(t, e), mine, "default", "", nil)
		return err
	})

	for _, port := range ports(e) {
		t.Run(port.name, func(t *testing.T) {
			known, nobody := port.as(t, "watcher"), port.anonymous(t)
			kit.Eventually(t, "he may read his own", func(context.Context) error {
				if got := ask(t, known, "GET", tasksPath(mine)+"/own"); got.code != http.StatusOK {
					return errors.New(got.String())
				}
				return nil
			})
			// A page cannot set headers, and has its token among the protocols.
			for what, c := range map[string]struct {
				config  *rest.Config
				headers []string
			}{
				"by his certificate":      {known, nil},
				"by the account's token":  {nobody, protocolOf(token)},
				"claiming to be somebody": {known, []string{"X-Remote-User: alice", "X-Remote-Group: leat:admins"}},
			} {
				got := overWebSocket(t, c.config, tasksPath(mine)+watch, c.headers...)
				if got.code != http.StatusSwitchingProtocols || !strings.Contains(got.body, `"type":"ADDED"`) || !strings.Contains(got.body, `"name":"own"`) || strings.Contains(got.body, marked) {
					t.Errorf("his own watch %s is answered %s", what, got)
				}
			}
			for _, target := range []string{
				tasksPath(others) + watch, groupPath + "/tasks" + watch, groupPath + "/watch/tasks?timeoutSeconds=1",
				tasksPath(others) + "/one", tasksPath(others) + "/one/log", tasksPath(others) + "/one/log?follow=true",
			} {
				for what, headers := range map[string][]string{
					"nothing":                    nil,
					"headers of the aggregator":  {"X-Remote-User: alice", "X-Remote-Group: leat:admins"},
					"whom he acts for":           {"Impersonate-User: alice", "Impersonate-Group: leat:admins"},
					"the token of an account":    protocolOf(token),
					"a token of nobody":          protocolOf("marked"),
					"a token that nobody signed": protocolOf("eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbGljZSJ9."),
				} {
					for who, config := range map[string]*rest.Config{"he": known, "nobody": nobody} {
						got := overWebSocket(t, config, target, headers...)
						if got.code != http.StatusForbidden && got.code != http.StatusUnauthorized || strings.Contains(got.body, marked) {
							t.Errorf("%s, with %s, asking for %s, is answered %s", who, what, target, got)
						}
					}
				}
			}
		})
	}
	// The aggregator speaks for others over a websocket, too.
	aggregator := port{"", e.Direct}.anonymous(t)
	kit.Check(t, certificate(e.Host.FrontProxyCA.IssueClient("front-proxy-client"))(aggregator))
	for name, want := range map[string]int{"watcher": http.StatusSwitchingProtocols, "somebody": http.StatusForbidden} {
		if got := overWebSocket(t, aggregator, tasksPath(mine)+watch, "X-Remote-User: "+name); got.code != want {
			t.Errorf("the aggregator, for %s, is answered %s", name, got)
		}
	}
}

// testWebsocketLogs: a log is read over a websocket by whom it may be read by otherwise.
func testWebsocketLogs(t *testing.T, e *kit.Env, namespace, task, want string) {
	target := tasksPath(namespace) + "/" + task + "/log"
	if got := overWebSocket(t, e.Admin(t), target); got.code != http.StatusSwitchingProtocols || !strings.Contains(got.body, want) {
		t.Errorf("an administrator is answered %s", got)
	}
	forged := []string{"X-Remote-User: alice", "X-Remote-Group: leat:admins"}
	for who, config := range map[string]*rest.Config{"somebody": e.Direct(t, "somebody"), "nobody": port{"", e.Direct}.anonymous(t)} {
		for _, headers := range [][]string{nil, forged, {"Impersonate-User: alice", "Impersonate-Group: leat:admins"}, protocolOf("marked")} {
			got := overWebSocket(t, config, target, headers...)
			if got.code != http.StatusForbidden && got.code != http.StatusUnauthorized || strings.Contains(got.body, want) {
				t.Errorf("%s, with %q, is answered %s", who, headers, got)
			}
		}
	}
}

// protocolOf is how a page shows a token.
func protocolOf(token string) []string {
	return []string{"Sec-WebSocket-Protocol: base64url.bearer.authorization.k8s.io." + base64.RawURLEncoding.EncodeToString([]byte(token)) + ", binary.k8s.io"}
}

// overWebSocket asks for a websocket, and gives all that comes over it until the server ends it, or the answer if there is none.
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

// webSocketFrame reads what a server sends at a time, and whether it is its last word.
func webSocketFrame(in io.Reader) (text []byte, end bool, err error) {
	const last, code16, code64 = 8, 126, 127
	var start [2]byte
	if _, err = io.ReadFull(in, start[:]); err != nil {
		return nil, false, err
	}
	length := uint64(start[1]) // nothing from a server is masked
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
