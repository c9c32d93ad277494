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

package workerlogs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leat-dev/leat/apis/batch"
	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/registry/batch/task"
	"github.com/leat-dev/leat/pkg/standalone/pki"
)

// fixture is a client and the CA of its certificate.
type fixture struct {
	ca      *pki.CA
	options Options
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	ca, err := pki.NewCA("clients")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	f := &fixture{ca: ca, options: Options{
		CertFile: filepath.Join(dir, "tls.crt"), KeyFile: filepath.Join(dir, "tls.key"), AddressRanges: []string{"127.0.0.0/8"},
	}}
	f.issue(t, v1alpha1.WorkerClientName)
	return f
}

func (f *fixture) issue(t *testing.T, name string) {
	t.Helper()
	cert, key, err := f.ca.IssueClient(name)
	if err = errors.Join(err, pki.WriteFile(f.options.CertFile, cert), pki.WriteFile(f.options.KeyFile, key)); err != nil {
		t.Fatal(err)
	}
}

// worker starts a server with a certificate for the name, and returns its endpoint.
func (f *fixture) worker(t *testing.T, name string, handler http.HandlerFunc) *batch.WorkerEndpoint {
	t.Helper()
	ca, err := pki.NewCA("worker")
	if err != nil {
		t.Fatal(err)
	}
	certPEM, keyPEM, err := ca.IssueServer(name)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	clients := x509.NewCertPool()
	clients.AppendCertsFromPEM(f.ca.CertPEM())
	server := httptest.NewUnstartedServer(handler)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clients}
	server.Config.ErrorLog = nil
	server.StartTLS()
	t.Cleanup(server.Close)
	address := server.Listener.Addr().(*net.TCPAddr)
	return &batch.WorkerEndpoint{Host: address.IP.String(), Port: int32(address.Port), CABundle: ca.CertPEM()}
}

func (f *fixture) open(ctx context.Context, t *testing.T, endpoint *batch.WorkerEndpoint, options *batch.TaskLogOptions) (string, error) {
	t.Helper()
	client, err := f.options.New()
	if err != nil {
		t.Fatal(err)
	}
	client.responseTimeout = 300 * time.Millisecond
	if options == nil {
		options = &batch.TaskLogOptions{}
	}
	x := &batch.Task{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "x.y", UID: "some-uid"}}
	stream, err := client.OpenLog(ctx, x, endpoint, options)
	if err != nil {
		return "", err
	}
	defer stream.Close()
	content, err := io.ReadAll(stream)
	return string(content), err
}

func TestOpenLog(t *testing.T) {
	f := newFixture(t)
	endpoint := f.worker(t, v1alpha1.WorkerServerName, func(out http.ResponseWriter, r *http.Request) {
		fmt.Fprint(out, r.Method, " ", r.URL, " by ", r.TLS.PeerCertificates[0].Subject.CommonName)
	})
	tail := int64(5)
	since := metav1.NewTime(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	got, err := f.open(t.Context(), t, endpoint, &batch.TaskLogOptions{Follow: true, TailLines: &tail, SinceTime: &since})
	want := "GET /logs/ns/x.y/some-uid?follow=true&sinceTime=2026-01-02T03%3A04%3A05Z&tailLines=5 by leat-apiserver"
	if err != nil || got != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
}

func TestUnsentAttempts(t *testing.T) {
	f := newFixture(t)
	mux := http.NewServeMux()
	mux.HandleFunc(v1alpha1.WorkerRecordsPattern, func(out http.ResponseWriter, r *http.Request) {
		if set := r.PathValue("set"); set != "some-uid" && set != v1alpha1.WorkerTasksWithoutSet {
			http.Error(out, "none of the set", http.StatusNotFound)
			return
		}
		fmt.Fprintf(out, `{"metadata": {"continue": "more"}, "items": [{"taskName": %q, "attempt": 2}]}`, r.URL)
	})
	mux.HandleFunc(v1alpha1.WorkerOutputPattern, func(out http.ResponseWriter, r *http.Request) { fmt.Fprint(out, r.URL) })
	endpoint := f.worker(t, v1alpha1.WorkerServerName, mux.ServeHTTP)
	client, err := f.options.New()
	if err != nil {
		t.Fatal(err)
	}
	list, err := client.Records(t.Context(), endpoint, "ns", "some-uid", "1-3", "", "")
	if want := "/records/ns/some-uid?indexes=1-3"; err != nil || len(list.Items) != 1 || list.Items[0].TaskName != want || list.Continue != "more" {
		t.Errorf("records of a set: got %v, %v, want %s", list, err, want)
	}
	list, err = client.Records(t.Context(), endpoint, "ns", "", "", "task-uid", "more")
	if want := "/records/ns/tasks?continue=more&taskUID=task-uid"; err != nil || len(list.Items) != 1 || list.Items[0].TaskName != want {
		t.Errorf("records of a task: got %v, %v, want %s", list, err, want)
	}
	if list, err = client.Records(t.Context(), endpoint, "ns", "other", "", "", ""); err != nil || list != nil {
		t.Errorf("records of a set that the worker does not have: got %v, %v", list, err)
	}
	output, err := client.Output(t.Context(), endpoint, "ns", "some-uid", "7.0.1.log", 100)
	if want := "/records/ns/some-uid/7.0.1.log"; err != nil || string(output) != want {
		t.Errorf("output: got %q, %v, want %s", output, err, want)
	}
	if output, err = client.Output(t.Context(), endpoint, "ns", "some-uid", "7.0.1.log", 10); err == nil {
		t.Errorf("output that is too large: got %q", output)
	}
}

func TestOpenLogErrors(t *testing.T) {
	f := newFixture(t)
	requests := 0
	endpoint := f.worker(t, v1alpha1.WorkerServerName, func(http.ResponseWriter, *http.Request) { requests++ })
	other := f.worker(t, v1alpha1.WorkerServerName, func(http.ResponseWriter, *http.Request) { t.Error("another worker got a request") })
	answering := func(handler http.HandlerFunc) *batch.WorkerEndpoint {
		return f.worker(t, v1alpha1.WorkerServerName, handler)
	}
	at := func(endpoint *batch.WorkerEndpoint, change func(*batch.WorkerEndpoint)) *batch.WorkerEndpoint {
		changed := endpoint.DeepCopy()
		change(changed)
		return changed
	}
	for name, test := range map[string]struct {
		endpoint *batch.WorkerEndpoint
		ranges   []string
		want     string
	}{
		"the address of another worker": {endpoint: at(endpoint, func(e *batch.WorkerEndpoint) { e.Port = other.Port }), want: "certificate"},
		"the certificate of another name": {
			endpoint: f.worker(t, "example.com", func(http.ResponseWriter, *http.Request) { t.Error("a worker with another name got a request") }),
			want:     "not leat-worker",
		},
		"no certificate":                 {endpoint: at(endpoint, func(e *batch.WorkerEndpoint) { e.CABundle = nil }), want: "caBundle"},
		"this machine":                   {endpoint: endpoint, ranges: []string{"10.0.0.0/8"}, want: "address 127.0.0.1 is in 127.0.0.0/8, which no --worker-address-ranges allows"},
		"a name of this machine":         {endpoint: at(endpoint, func(e *batch.WorkerEndpoint) { e.Host = "localhost" }), ranges: []string{"10.0.0.0/8"}, want: "which no --worker-address-ranges allows"},
		"this machine as IPv6 writes it": {endpoint: at(endpoint, func(e *batch.WorkerEndpoint) { e.Host = "::ffff:127.0.0.1" }), ranges: []string{"10.0.0.0/8"}, want: "which no --worker-address-ranges allows"},
		"this machine as zero":           {endpoint: at(endpoint, func(e *batch.WorkerEndpoint) { e.Host = "0.0.0.0" }), want: "no worker can be at address 0.0.0.0"},
		"the metadata of the cloud":      {endpoint: at(endpoint, func(e *batch.WorkerEndpoint) { e.Host, e.Port = "169.254.169.254", 80 }), want: "no worker can be at address 169.254.169.254"},
		"a redirect": {
			endpoint: answering(func(out http.ResponseWriter, r *http.Request) {
				http.Redirect(out, r, fmt.Sprintf("https://127.0.0.1:%d/", other.Port), http.StatusFound)
			}),
			want: "the worker responded with status 302",
		},
		"a long error": {
			endpoint: answering(func(out http.ResponseWriter, _ *http.Request) {
				http.Error(out, "\xff broken "+strings.Repeat("x", 1<<20), http.StatusInternalServerError)
			}),
			want: "the worker responded with status 500: \uFFFD broken xxx",
		},
		"no answer": {
			endpoint: answering(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }),
			want:     "timeout awaiting response headers",
		},
		"long headers": {
			endpoint: answering(func(out http.ResponseWriter, _ *http.Request) { out.Header().Set("X", strings.Repeat("x", 1<<20)) }),
			want:     "header",
		},
		"nobody": {endpoint: at(endpoint, func(e *batch.WorkerEndpoint) { e.Port = 1 }), want: "refused"},
	} {
		t.Run(name, func(t *testing.T) {
			f := *f
			if test.ranges != nil {
				f.options.AddressRanges = test.ranges
			}
			if got, err := f.open(t.Context(), t, test.endpoint, nil); err == nil || !strings.Contains(err.Error(), test.want) || len(err.Error()) > 2*maxMessageSize {
				t.Errorf("got %q, %v; want an error with %q", got, err, test.want)
			}
		})
	}
	if requests > 0 {
		t.Errorf("the worker got %d requests", requests)
	}
}

func TestLogNotKeptError(t *testing.T) {
	f := newFixture(t)
	endpoint := f.worker(t, v1alpha1.WorkerServerName, func(out http.ResponseWriter, _ *http.Request) {
		http.Error(out, "had to make room", http.StatusNotFound)
	})
	var notKept *task.LogNotKeptError
	if _, err := f.open(t.Context(), t, endpoint, nil); !errors.As(err, &notKept) || notKept.Message != "had to make room" {
		t.Errorf("got error %v", err)
	}
}

func TestContextEndsTheStream(t *testing.T) {
	f := newFixture(t)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	endpoint := f.worker(t, v1alpha1.WorkerServerName, func(out http.ResponseWriter, r *http.Request) {
		out.(http.Flusher).Flush()
		cancel()
		<-r.Context().Done()
		close(ended)
	})
	// The worker may notice the end early enough to complete its response.
	if _, err := f.open(ctx, t, endpoint, nil); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("the read ended with %v", err)
	}
	<-ended
}

func TestCertificateRotation(t *testing.T) {
	f := newFixture(t)
	client, err := f.options.New()
	if err != nil {
		t.Fatal(err)
	}
	var serials []string
	endpoint := f.worker(t, v1alpha1.WorkerServerName, func(_ http.ResponseWriter, r *http.Request) {
		serials = append(serials, r.TLS.PeerCertificates[0].SerialNumber.String())
	})
	for range 2 {
		stream, err := client.OpenLog(t.Context(), &batch.Task{}, endpoint, &batch.TaskLogOptions{})
		if err != nil {
			t.Fatal(err)
		}
		stream.Close()
		f.issue(t, v1alpha1.WorkerClientName)
	}
	if serials[0] == serials[1] {
		t.Error("the client still uses the first certificate")
	}
}

func TestOptions(t *testing.T) {
	f := newFixture(t)
	if client, err := (&Options{}).New(); err != nil {
		t.Error(err)
	} else if _, err := client.OpenLog(t.Context(), &batch.Task{}, &batch.WorkerEndpoint{}, &batch.TaskLogOptions{}); err == nil ||
		!strings.Contains(err.Error(), "--worker-client-certificate") {
		t.Errorf("without certificate: %v", err)
	}
	for want, options := range map[string]Options{
		"give both or none": {CertFile: "a"},
		"--worker-client-certificate and --worker-client-key": {KeyFile: "a"},
		`--worker-address-ranges: "here"`:                     {AddressRanges: []string{"here"}},
	} {
		if errs := options.Validate(); len(errs) != 1 || !strings.Contains(errs[0].Error(), want) {
			t.Errorf("%+v: %v, want %q", options, errs, want)
		}
	}
	if errs := f.options.Validate(); len(errs) > 0 {
		t.Error(errs)
	}
	if _, err := (&Options{CertFile: "/no/such/file", KeyFile: "/no/such/file"}).New(); err == nil || !strings.Contains(err.Error(), "/no/such/file") {
		t.Errorf("without the files: %v", err)
	}
	f.issue(t, "somebody")
	if _, err := f.options.New(); err == nil || !strings.Contains(err.Error(), `the common name is "somebody" and must be leat-apiserver`) {
		t.Errorf("with another common name: %v", err)
	}
}
