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

package logserver

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/standalone/pki"
	"github.com/leat-dev/leat/pkg/worker/attempt"
	"github.com/leat-dev/leat/pkg/worker/logs"
)

// testServer is a server, its store, and the certificate authority of the API server.
type testServer struct {
	*Server
	store  *logs.Store
	ca     *pki.CA
	caFile string
}

func start(t *testing.T, change ...func(*Options)) *testServer {
	t.Helper()
	ca, err := pki.NewCA("clients")
	if err != nil {
		t.Fatal(err)
	}
	w := &testServer{ca: ca, caFile: filepath.Join(t.TempDir(), "ca.crt")}
	if err := pki.WriteFile(w.caFile, ca.CertPEM()); err != nil {
		t.Fatal(err)
	}
	w.store, err = logs.Open(logs.Options{Dir: t.TempDir(), MaxSize: logs.MinSize, MaxTotalSize: logs.DefaultMaxTotalSize, Retention: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.store.Close)
	options := Options{Host: "127.0.0.1", ClientCAFile: w.caFile, Namespace: "ns", Logs: w.store}
	for _, c := range change {
		c(&options)
	}
	w.Server, err = Start(options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	return w
}

// client returns a client with a certificate of the authority for the name, or without one if the name is empty.
func (w *testServer) client(t *testing.T, ca *pki.CA, name string) *http.Client {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(w.Endpoint().CABundle)
	config := &tls.Config{RootCAs: pool, ServerName: batch.WorkerServerName}
	if name != "" {
		certPEM, keyPEM, err := ca.IssueClient(name)
		if err != nil {
			t.Fatal(err)
		}
		certificate, err := tls.X509KeyPair(certPEM, keyPEM)
		if err != nil {
			t.Fatal(err)
		}
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &certificate, nil }
	}
	return &http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}
}

func (w *testServer) get(ctx context.Context, client *http.Client, path string) (*http.Response, error) {
	endpoint := w.Endpoint()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("https://%s:%d%s", endpoint.Host, endpoint.Port, path), nil)
	if err != nil {
		return nil, err
	}
	return client.Do(request)
}

func (w *testServer) read(t *testing.T, client *http.Client, path string) (int, string) {
	t.Helper()
	response, err := w.get(t.Context(), client, path)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		t.Error(err)
	}
	return response.StatusCode, string(content)
}

func TestOnlyTheAPIServerIsServed(t *testing.T) {
	w := start(t)
	log := w.store.Create(attempt.ID{Task: "uid", Index: attempt.NoIndex, Number: 1})
	fmt.Fprintln(log, "secret")
	log.Close()
	other, err := pki.NewCA("others")
	if err != nil {
		t.Fatal(err)
	}
	for name, client := range map[string]*http.Client{
		"without a certificate":                            w.client(t, nil, ""),
		"with a certificate of somebody else":              w.client(t, w.ca, "leat:worker:ns:w"),
		"with a certificate of an unknown authority":       w.client(t, other, batch.WorkerClientName),
		"with a certificate of somebody like the server's": w.client(t, w.ca, batch.WorkerClientName+".example.com"),
	} {
		t.Run(name, func(t *testing.T) {
			response, err := w.get(t.Context(), client, "/logs/ns/x/uid")
			if err == nil {
				content, _ := io.ReadAll(response.Body)
				response.Body.Close()
				t.Errorf("It was answered %s: %s", response.Status, content)
			} else if !strings.Contains(err.Error(), "tls:") {
				t.Errorf("It failed otherwise: %v", err)
			}
		})
	}
	if code, content := w.read(t, w.client(t, w.ca, batch.WorkerClientName), "/logs/ns/x/uid"); code != http.StatusOK || content != "secret\n" {
		t.Errorf("The API server is answered %d: %q", code, content)
	}
	plain, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/logs/ns/x/uid", w.Endpoint().Port))
	if err == nil {
		plain.Body.Close()
		if plain.StatusCode != http.StatusBadRequest {
			t.Errorf("Without TLS it was answered %s.", plain.Status)
		}
	}
	// Replace the authority while the server runs.
	if err := os.WriteFile(w.caFile, other.CertPEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _ := w.read(t, w.client(t, other, batch.WorkerClientName), "/logs/ns/x/uid"); code != http.StatusOK {
		t.Errorf("By the new authority it was answered %d.", code)
	}
	if response, err := w.get(t.Context(), w.client(t, w.ca, batch.WorkerClientName), "/logs/ns/x/uid"); err == nil {
		response.Body.Close()
		t.Error("By the old authority it was answered.")
	}
}

func TestResponses(t *testing.T) {
	w := start(t)
	log := w.store.Create(attempt.ID{Task: "uid", Index: attempt.NoIndex, Number: 1})
	fmt.Fprint(log, "one\ntwo\nthree\n")
	log.Close()
	client := w.client(t, w.ca, batch.WorkerClientName)
	for _, test := range []struct {
		path string
		code int
		want string
	}{
		{"/logs/ns/x/uid", 200, "one\ntwo\nthree\n"},
		{"/logs/ns/x/uid?tailLines=1&follow=true", 200, "three\n"},
		{"/logs/ns/x/uid?limitBytes=5", 200, "one\nt"},
		{"/logs/ns/x/uid?sinceSeconds=3600&tailLines=2", 200, "two\nthree\n"},
		{"/logs/ns/x/uid?sinceSeconds=9223372036854775807", 200, "one\ntwo\nthree\n"},
		{"/logs/ns/x/uid?sinceTime=2100-01-01T00:00:00Z", 200, ""},
		{"/logs/ns/x/uid?timestamps=true&limitBytes=4&tailLines=1", 200, fmt.Sprint(time.Now().UTC().Year())},
		{"/logs/ns/x/uid?previous=true", 404, "there is no attempt before attempt 1\n"},
		{"/logs/ns/x/other", 404, "the worker keeps no output of the task: it has not started the command, or what was kept had to make room or was kept for long enough\n"},
		{"/logs/other/x/uid", 404, "the worker runs the tasks of namespace ns, not those of other\n"},
		{"/logs/ns/x/..%2F..%2Fetc%2Fpasswd", 404, "the worker keeps no output of the task: it has not started the command, or what was kept had to make room or was kept for long enough\n"},
		{"/logs/ns/x/uid?tailLines=x", 400, "tailLines=\"x\": must be a whole number\n"},
		{"/logs/ns/x/uid?tailLines=-1", 400, "tailLines: Invalid value: -1: must be greater than or equal to 0\n"},
		{"/", 404, "404 page not found\n"},
	} {
		if code, content := w.read(t, client, test.path); code != test.code || content != test.want {
			t.Errorf("%s is answered %d: %q, want %d: %q.", test.path, code, content, test.code, test.want)
		}
	}
}

func TestResponsesForATaskWithIndexes(t *testing.T) {
	w := start(t)
	for index := 4; index <= 6; index++ {
		log := w.store.Create(attempt.ID{Task: "uid", Index: index, Number: 1})
		fmt.Fprintf(log, "one of %d\ntwo of %d\n", index, index)
		log.Close()
	}
	client := w.client(t, w.ca, batch.WorkerClientName)
	for _, test := range []struct {
		path string
		code int
		want string
	}{
		{"/logs/ns/x/uid", 200, "one of 4\ntwo of 4\none of 5\ntwo of 5\none of 6\ntwo of 6\n"},
		{"/logs/ns/x/uid?indexes=4,6&tailLines=1&follow=true", 200, "two of 4\ntwo of 6\n"},
		{"/logs/ns/x/uid?indexes=5&prefix=true", 200, "5 one of 5\n5 two of 5\n"},
		{"/logs/ns/x/uid?indexes=9-8", 400, "indexes: "},
		{"/logs/ns/x/uid?indexes=9", 404, "the worker keeps no output of the indexes 9: "},
		{"/logs/ns/x/uid?previous=true", 404, "the worker keeps no output of a previous attempt at an index of the task\n"},
	} {
		code, content := w.read(t, client, test.path)
		if matches := content == test.want || code != 200 && strings.HasPrefix(content, test.want); code != test.code || !matches {
			t.Errorf("%s is answered %d: %q, want %d: %q.", test.path, code, content, test.code, test.want)
		}
	}
}

func TestOutputIsSentAtOnce(t *testing.T) {
	w := start(t)
	log := w.store.Create(attempt.ID{Task: "uid", Index: attempt.NoIndex, Number: 1})
	response, err := w.get(t.Context(), w.client(t, w.ca, batch.WorkerClientName), "/logs/ns/x/uid?follow=true")
	if err != nil {
		t.Fatal(err) // the response starts before there is output
	}
	defer response.Body.Close()
	lines := bufio.NewReader(response.Body)
	for i := range 3 {
		fmt.Fprintln(log, i)
		if line, err := lines.ReadString('\n'); err != nil || line != fmt.Sprintln(i) {
			t.Errorf("After %d came %q, %v.", i, line, err)
		}
	}
	log.Close()
	if rest, err := io.ReadAll(lines); err != nil || len(rest) > 0 {
		t.Errorf("At the end came %q, %v.", rest, err)
	}
}

func TestClosedConnectionsLeaveNoGoroutines(t *testing.T) {
	w := start(t)
	log := w.store.Create(attempt.ID{Task: "uid", Index: attempt.NoIndex, Number: 1})
	defer log.Close()
	client := w.client(t, w.ca, batch.WorkerClientName)
	before := runtime.NumGoroutine()
	for range 20 {
		ctx, cancel := context.WithCancel(t.Context())
		response, err := w.get(ctx, client, "/logs/ns/x/uid?follow=true")
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		response.Body.Close()
	}
	var now int
	if err := wait.PollUntilContextTimeout(t.Context(), 10*time.Millisecond, 10*time.Second, true, func(context.Context) (bool, error) {
		now = runtime.NumGoroutine()
		return now <= before+2, nil
	}); err != nil {
		t.Errorf("There were %d goroutines and now there are %d.", before, now)
	}
}

func TestAnAbortedResponseIsNotComplete(t *testing.T) {
	w := start(t)
	log := w.store.Create(attempt.ID{Task: "uid", Index: attempt.NoIndex, Number: 1})
	fmt.Fprintln(log, "one")
	response, err := w.get(t.Context(), w.client(t, w.ca, batch.WorkerClientName), "/logs/ns/x/uid?follow=true")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	w.store.Create(attempt.ID{Task: "uid", Index: attempt.NoIndex, Number: 1}) // replaces the log
	if content, err := io.ReadAll(response.Body); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("%q was read, and then %v.", content, err)
	}
}

func TestClosingEndsFollowers(t *testing.T) {
	w := start(t)
	log := w.store.Create(attempt.ID{Task: "uid", Index: attempt.NoIndex, Number: 1})
	defer log.Close()
	response, err := w.get(t.Context(), w.client(t, w.ca, batch.WorkerClientName), "/logs/ns/x/uid?follow=true")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	started := time.Now()
	w.Close()
	if took := time.Since(started); took > 5*closeTimeout {
		t.Errorf("Closing took %v.", took)
	}
	if content, err := io.ReadAll(response.Body); err == nil {
		t.Errorf("%q was read, as if it were all.", content)
	}
}

func TestEndpoint(t *testing.T) {
	w := start(t)
	endpoint := w.Endpoint()
	if endpoint.Host != "127.0.0.1" || endpoint.Port == 0 || !strings.HasPrefix(string(endpoint.CABundle), "-----BEGIN CERTIFICATE-----") {
		t.Errorf("Published is %s, port %d, %q.", endpoint.Host, endpoint.Port, endpoint.CABundle)
	}
	named, err := Start(Options{Host: "worker.example.com", ClientCAFile: w.caFile, Namespace: "ns", Logs: w.store})
	if err != nil {
		t.Fatal(err)
	}
	defer named.Close()
	connection, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", named.Endpoint().Port))
	if err != nil {
		t.Errorf("By name it is not served at every address: %v.", err)
	} else {
		connection.Close()
	}
	for want, options := range map[string]Options{
		"no such file":           {Host: "127.0.0.1", ClientCAFile: "/no/such/file"},
		"no certificate in PEM":  {Host: "127.0.0.1", ClientCAFile: os.Args[0]},
		"address already in use": {Host: "127.0.0.1", ClientCAFile: w.caFile, Port: int(endpoint.Port)},
	} {
		if server, err := Start(options); err == nil || !strings.Contains(err.Error(), want) {
			server.Close()
			t.Errorf("Starting: %v, want it to say %q.", err, want)
		}
	}
	var none *Server
	none.Close()
	if none.Endpoint() != nil {
		t.Error("No server is somewhere.")
	}
}
