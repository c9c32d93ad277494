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
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/host"
)

const (
	groupPath = "/apis/batch.leat.dev/v1alpha1"
	// patience bounds the wait for an answer, on a busy machine.
	patience = 2 * time.Minute
	// marked is in every object that the requesters may not read.
	marked = "marked-correct-horse-battery-staple"
)

// TestAggregated runs all suites on one cluster, with Leat behind its aggregator.
func TestAggregated(t *testing.T) {
	s3, archive := kit.ArchiveInS3(t)
	e := kit.Aggregated(t, archive...)
	// First, because the memory budget is relative to the memory of an unused server.
	t.Run("Limits", func(t *testing.T) { testLimits(t, e) })
	// These start controller managers, which would change the objects of parallel suites.
	t.Run("TLS", func(t *testing.T) { testTLS(t, e) })
	t.Run("Secrets", func(t *testing.T) { testSecrets(t, e) })
	withArchive := func(suite func(*testing.T, *kit.Env, *host.S3)) func(*testing.T, *kit.Env) {
		return func(t *testing.T, e *kit.Env) { suite(t, e, s3) }
	}
	for name, suite := range map[string]func(*testing.T, *kit.Env){
		"Spoofing": testSpoofing, "Paths": testPaths, "Upgrades": testUpgrades, "Websockets": testWebsockets, "Addresses": testAddresses,
		"WorkerFields": testWorkerFields, "Prefixes": testPrefixes, "Denied": testDenied,
		"Uploads": withArchive(testUploads), "ArchiveTenants": withArchive(testArchiveTenants),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			suite(t, e)
		})
	}
}

// port is a path to the API.
type port struct {
	name string
	// as returns the config of a user with a certificate of the host's client CA.
	as func(t testing.TB, user string, groups ...string) *rest.Config
}

// ports returns the two paths to the API. Each must be secure by itself.
func ports(e *kit.Env) []port {
	return []port{{"through the aggregator", e.Person}, {"at the server", e.Direct}}
}

// anonymous returns a config without credentials.
func (p port) anonymous(t testing.TB) *rest.Config {
	t.Helper()
	config := p.as(t, "nobody")
	config.CertData, config.KeyData = nil, nil
	return config
}

// answer is the status and the body of a response. The code is 0 if the connection was closed without a response.
type answer struct {
	code int
	body string
}

func (a answer) String() string { return fmt.Sprintf("%d %.300s", a.code, a.body) }

// dial opens a connection for HTTP/1.1 with the credentials of config, until the test ends.
func dial(t testing.TB, config *rest.Config) *tls.Conn {
	t.Helper()
	settings := kit.Must(rest.TLSConfigFor(config))(t)
	settings.NextProtos = []string{"http/1.1"}
	address := strings.TrimPrefix(config.Host, "https://")
	dialer := &tls.Dialer{NetDialer: &net.Dialer{Timeout: patience}, Config: settings}
	connection := kit.Must(dialer.DialContext(t.Context(), "tcp", address))(t).(*tls.Conn)
	t.Cleanup(func() { connection.Close() }) // most are closed already
	kit.Check(t, connection.SetDeadline(time.Now().Add(patience)))
	return connection
}

// head returns the bytes of a request without a body. Client libraries would normalize the target and the headers.
func head(config *rest.Config, method, target string, headers ...string) string {
	lines := []string{method + " " + target + " HTTP/1.1", "Host: " + strings.TrimPrefix(config.Host, "https://")}
	if config.BearerToken != "" {
		lines = append(lines, "Authorization: Bearer "+config.BearerToken)
	}
	return strings.Join(append(lines, headers...), "\r\n") + "\r\n\r\n"
}

// ask sends a request on a connection of its own, with headers as whole lines, and returns the answer.
func ask(t testing.TB, config *rest.Config, method, target string, headers ...string) answer {
	t.Helper()
	return send(t, config, method, head(config, method, target, append(headers, "Connection: close")...))
}

// post is like ask, for the creation of an object.
func post(t testing.TB, config *rest.Config, target, body string, headers ...string) answer {
	t.Helper()
	return send(t, config, http.MethodPost, creation(config, target, body, headers...))
}

// creation returns the bytes of a request that creates an object.
func creation(config *rest.Config, target, body string, headers ...string) string {
	headers = append([]string{"Content-Type: application/json", fmt.Sprintf("Content-Length: %d", len(body))}, headers...)
	return head(config, http.MethodPost, target, headers...) + body
}

func send(t testing.TB, config *rest.Config, method, request string) answer {
	t.Helper()
	connection := dial(t, config)
	defer connection.Close()
	got, _ := exchange(connection, bufio.NewReader(connection), method, request)
	return got
}

// exchange sends a request and reads its answer. It also reports whether the connection can be reused.
func exchange(connection io.Writer, in *bufio.Reader, method, request string) (got answer, reusable bool) {
	// The server may answer and close the connection before it has read the whole request.
	_, writeErr := io.WriteString(connection, request)
	response, err := http.ReadResponse(in, &http.Request{Method: method})
	if err != nil {
		return answer{0, fmt.Sprint("no answer: ", writeErr, err)}, false
	}
	defer response.Body.Close()
	if response.StatusCode == http.StatusSwitchingProtocols {
		return answer{response.StatusCode, "upgraded to " + response.Header.Get("Upgrade")}, false
	}
	const maxBytes = 1 << 20
	var body bytes.Buffer
	n, err := io.Copy(&body, io.LimitReader(response.Body, maxBytes))
	if err != nil {
		fmt.Fprintf(&body, " … %v", err)
	}
	return answer{response.StatusCode, body.String()}, writeErr == nil && err == nil && n < maxBytes && !response.Close && in.Buffered() == 0
}

// persistent sends the requests of a client over one connection, and opens another when the server closes it.
type persistent struct {
	config     *rest.Config
	connection *tls.Conn
	in         *bufio.Reader
}

// send sends a request. It retries once if the server has closed a reused connection.
func (p *persistent) send(t testing.TB, method, request string) answer {
	t.Helper()
	for {
		opened := p.connection == nil
		if opened {
			p.connection = dial(t, p.config)
			p.in = bufio.NewReader(p.connection)
		}
		kit.Check(t, p.connection.SetDeadline(time.Now().Add(patience)))
		got, reusable := exchange(p.connection, p.in, method, request)
		if !reusable {
			p.connection.Close() // an unread rest would be taken for the next answer
			p.connection = nil
		}
		if got.code != 0 || opened {
			return got
		}
	}
}

// ask sends a request without a body.
func (p *persistent) ask(t testing.TB, method, target string) answer {
	t.Helper()
	return p.send(t, method, head(p.config, method, target))
}

// post sends a request that creates an object.
func (p *persistent) post(t testing.TB, target, body string, headers ...string) answer {
	t.Helper()
	return p.send(t, http.MethodPost, creation(p.config, target, body, headers...))
}

// http2Client returns a client that uses HTTP/2 only, with the credentials of config.
func http2Client(t testing.TB, config *rest.Config) *http.Client {
	t.Helper()
	settings := kit.Must(rest.TLSConfigFor(config))(t)
	settings.NextProtos = []string{"h2"}
	transport := &http.Transport{TLSClientConfig: settings, ForceAttemptHTTP2: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: patience}
}

// postHTTP2 is like post, over HTTP/2.
func postHTTP2(t testing.TB, client *http.Client, config *rest.Config, target, body string, headers ...string) answer {
	t.Helper()
	request := kit.Must(http.NewRequestWithContext(t.Context(), http.MethodPost, config.Host+target, strings.NewReader(body)))(t)
	if config.BearerToken != "" {
		headers = append([]string{"Authorization: Bearer " + config.BearerToken}, headers...)
	}
	for _, header := range append([]string{"Content-Type: application/json"}, headers...) {
		key, value, _ := strings.Cut(header, ":")
		request.Header.Add(key, strings.TrimSpace(value))
	}
	response := kit.Must(client.Do(request))(t)
	defer response.Body.Close()
	if response.ProtoMajor != 2 {
		t.Fatalf("got protocol %s, want HTTP/2", response.Proto)
	}
	return answer{response.StatusCode, string(kit.Must(io.ReadAll(response.Body))(t))}
}

// role creates a cluster role.
func role(t testing.TB, e *kit.Env, name string, rules ...rbacv1.PolicyRule) {
	t.Helper()
	kit.Must(e.HostClient(t).RbacV1().ClusterRoles().Create(t.Context(), &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: rules}, metav1.CreateOptions{}))(t)
}

// newTask returns a task with the marker in its environment.
func newTask(name string) *v1alpha1.Task {
	return &v1alpha1.Task{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       v1alpha1.TaskSpec{Command: []string{"true"}, Env: []v1alpha1.EnvVar{{Name: "MARK", Value: marked}}},
	}
}

func tasksPath(namespace string) string { return groupPath + "/namespaces/" + namespace + "/tasks" }
