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

// Package inprocess runs leat-apiserver in the process of a test, so that a test can call its handlers without a
// connection, and measure them.
package inprocess

import (
	"context"
	"flag"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	genericoptions "k8s.io/apiserver/pkg/server/options"
	"k8s.io/klog/v2"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/apiserver/admission"
	serveroptions "github.com/leat-dev/leat/pkg/apiserver/options"
	"github.com/leat-dev/leat/pkg/apiserver/scheme"
	"github.com/leat-dev/leat/pkg/apiserver/workerlogs"
	"github.com/leat-dev/leat/pkg/standalone/fakehost"
	"github.com/leat-dev/leat/pkg/standalone/pki"
	"github.com/leat-dev/leat/test/kit/host"
)

// Serve runs a server with the flags, without a host, until the test ends. It returns the full handler chain and the
// scheme. A request is authenticated as the user in its context, or as alice, and allowed, unless the user is a worker:
// then the worker authorizer decides.
func Serve(tb testing.TB, flags ...string) (http.Handler, *runtime.Scheme) {
	tb.Helper()
	check := func(err error) {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
	}
	logging := flag.NewFlagSet("klog", flag.ContinueOnError)
	klog.InitFlags(logging)
	check(logging.Set("stderrthreshold", "FATAL"))
	klog.SetOutput(io.Discard)
	klog.LogToStderr(false)
	etcd := host.EtcdForTest(tb)
	dir := tb.TempDir()
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
	o, err := serveroptions.NewOptions()
	check(err)
	all := pflag.NewFlagSet("", pflag.ContinueOnError)
	for _, set := range o.Flags().FlagSets {
		all.AddFlagSet(set)
	}
	check(all.Parse(flags))
	r := o.Recommended
	transport := &r.Etcd.StorageConfig.Transport
	transport.ServerList, transport.TrustedCAFile, transport.CertFile, transport.KeyFile = []string{etcd.Endpoint}, etcd.CAFile, etcd.CertFile, etcd.KeyFile
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	r.SecureServing.Listener, r.SecureServing.BindPort = listener, listener.Addr().(*net.TCPAddr).Port
	r.SecureServing.ServerCert.CertKey = genericoptions.CertKey{CertFile: file("server.crt", cert), KeyFile: file("server.key", key)}
	r.Admission = genericoptions.NewAdmissionOptions()
	check(admission.ConfigureStandalone(r.Admission))
	o.Workers = &workerlogs.Options{CertFile: file("worker.crt", worker), KeyFile: file("worker.key", workerKey)}
	o.Server.ShutdownDelayDuration, o.Server.ShutdownSendRetryAfter, o.Server.ShutdownWatchTerminationGracePeriod = 0, false, 0
	clientCA, err := dynamiccertificates.NewStaticCAContent("clients", ca.CertPEM())
	check(err)
	o.Standalone = &serveroptions.Standalone{
		Host: fakehost.NewConfig(func() http.Handler { return nil }),
		Authenticator: authenticator.RequestFunc(func(req *http.Request) (*authenticator.Response, bool, error) {
			if u, ok := request.UserFrom(req.Context()); ok {
				return &authenticator.Response{User: u}, true, nil
			}
			return &authenticator.Response{User: &user.DefaultInfo{Name: "alice", Groups: []string{user.AllAuthenticated}}}, true, nil
		}),
		ClientCA: clientCA, Authorizer: authorizerfactory.NewAlwaysAllowAuthorizer(),
	}
	check(o.Complete())
	for _, err := range o.Validate() {
		check(err)
	}
	config, err := o.Config()
	check(err)
	server, err := config.Complete().New()
	check(err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- server.Run(ctx) }()
	tb.Cleanup(func() {
		cancel()
		check(<-ended)
	})
	handler := server.Handler.FullHandlerChain
	err = wait.PollUntilContextTimeout(tb.Context(), 100*time.Millisecond, 2*time.Minute, true, func(context.Context) (bool, error) {
		response := httptest.NewRecorder()
		handler.ServeHTTP(response, httptest.NewRequest(http.MethodGet, "/readyz", nil))
		return response.Code == http.StatusOK, nil
	})
	if err != nil {
		tb.Fatalf("the server is not ready: %v", err)
	}
	return handler, scheme.Scheme
}
