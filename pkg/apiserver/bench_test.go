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

package apiserver_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	genericoptions "k8s.io/apiserver/pkg/server/options"
	"k8s.io/klog/v2"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/admission"
	"github.com/leat-dev/leat/pkg/apiserver"
	"github.com/leat-dev/leat/pkg/apiserver/workerclient"
	"github.com/leat-dev/leat/pkg/standalone/hostless"
	"github.com/leat-dev/leat/pkg/standalone/pki"
	"github.com/leat-dev/leat/test/host"
)

// BenchmarkCreate is a create of a task through the whole chain of handlers, admission, strategy, validation, managed fields and codec to
// an etcd that syncs, watch cache included. What is left out is the connection: TLS, HTTP/2, and who is asking.
func BenchmarkCreate(b *testing.B) {
	handler, scheme := serve(b)
	codecs := serializer.NewCodecFactory(scheme)
	number := 0
	for _, mediaType := range []string{runtime.ContentTypeJSON, runtime.ContentTypeProtobuf} {
		info, ok := runtime.SerializerInfoForMediaType(codecs.SupportedMediaTypes(), mediaType)
		if !ok {
			b.Fatalf("the server does not speak %s", mediaType)
		}
		b.Run(info.MediaTypeSubType, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				number++
				body, err := runtime.Encode(codecs.EncoderForVersion(info.Serializer, batch.SchemeGroupVersion), &batch.Task{
					ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("task-", number), Labels: map[string]string{"app": "render", "team": "pictures"}},
					Spec: batch.TaskSpec{
						Command: []string{"/opt/render/bin/render", "--quality=high"}, Args: []string{"--scene=/data/scenes/forest.scene", "--frame=001234"},
						Env: []batch.EnvVar{{Name: "THREADS", Value: "4"}, {Name: "CACHE", Value: "/var/cache/render"}},
					},
				})
				if err != nil {
					b.Fatal(err)
				}
				request := httptest.NewRequest(http.MethodPost, "/apis/batch.leat.dev/v1alpha1/namespaces/bench/tasks", bytes.NewReader(body))
				request.Header.Set("Content-Type", mediaType)
				request.Header.Set("Accept", mediaType)
				response := httptest.NewRecorder()
				handler.ServeHTTP(response, request)
				if response.Code != http.StatusCreated {
					b.Fatalf("creating answers %d: %s", response.Code, response.Body)
				}
			}
		})
	}
}

// serve runs a server on an empty host, and gives its handlers.
func serve(b *testing.B) (http.Handler, *runtime.Scheme) {
	b.Helper()
	check := func(err error) {
		b.Helper()
		if err != nil {
			b.Fatal(err)
		}
	}
	klog.SetOutput(io.Discard)
	klog.LogToStderr(false)
	etcd := host.EtcdForTest(b)
	dir := b.TempDir()
	ca, err := pki.NewCA("leat")
	check(err)
	cert, key, err := ca.IssueServer("localhost", "127.0.0.1")
	check(err)
	worker, workerKey, err := ca.IssueClient(batch.WorkerClientName)
	check(err)
	file := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		check(pki.WriteFile(path, data))
		return path
	}
	o, err := apiserver.NewOptions()
	check(err)
	r := o.Recommended
	transport := &r.Etcd.StorageConfig.Transport
	transport.ServerList, transport.TrustedCAFile, transport.CertFile, transport.KeyFile = []string{etcd.Endpoint}, etcd.CAFile, etcd.CertFile, etcd.KeyFile
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	r.SecureServing.Listener, r.SecureServing.BindPort = listener, listener.Addr().(*net.TCPAddr).Port
	r.SecureServing.ServerCert.CertKey = genericoptions.CertKey{CertFile: file("server.crt", cert), KeyFile: file("server.key", key)}
	r.Admission = genericoptions.NewAdmissionOptions()
	check(admission.ConfigureStandalone(r.Admission))
	o.Workers = &workerclient.Options{CertFile: file("worker.crt", worker), KeyFile: file("worker.key", workerKey)}
	o.Server.ShutdownDelayDuration, o.Server.ShutdownSendRetryAfter, o.Server.ShutdownWatchTerminationGracePeriod = 0, false, 0
	clientCA, err := dynamiccertificates.NewStaticCAContent("clients", ca.CertPEM())
	check(err)
	o.Standalone = &apiserver.Standalone{
		Host: hostless.NewConfig(func() http.Handler { return nil }),
		Authenticator: authenticator.RequestFunc(func(*http.Request) (*authenticator.Response, bool, error) {
			return &authenticator.Response{User: &user.DefaultInfo{Name: "alice", Groups: []string{user.AllAuthenticated}}}, true, nil
		}),
		ClientCA: clientCA, Authorizer: authorizerfactory.NewAlwaysAllowAuthorizer(),
	}
	check(o.Complete())
	for _, err := range o.Validate() {
		check(err)
	}
	server, err := o.New()
	check(err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- server.Run(ctx) }()
	b.Cleanup(func() {
		cancel()
		check(<-ended)
	})
	handler := server.Handler.FullHandlerChain
	err = wait.PollUntilContextTimeout(b.Context(), 100*time.Millisecond, 2*time.Minute, true, func(context.Context) (bool, error) {
		response := httptest.NewRecorder()
		handler.ServeHTTP(response, httptest.NewRequest(http.MethodGet, "/readyz", nil))
		return response.Code == http.StatusOK, nil
	})
	if err != nil {
		b.Fatalf("the server is not ready: %v", err)
	}
	return handler, apiserver.Scheme
}
