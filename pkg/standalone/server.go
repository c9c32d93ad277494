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

package standalone

import (
	"embed"
	"errors"
	"io/fs"
	"net"
	"net/http"
	"path/filepath"
	"sync/atomic"

	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/authentication/authenticatorfactory"
	authorizationpath "k8s.io/apiserver/pkg/authorization/path"
	"k8s.io/apiserver/pkg/authorization/union"
	genericoptions "k8s.io/apiserver/pkg/server/options"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/client-go/rest"

	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/config"
	leatserver "github.com/leat-dev/leat/pkg/apiserver"
	"github.com/leat-dev/leat/pkg/apiserver/admission"
	authorizationworker "github.com/leat-dev/leat/pkg/apiserver/authorization/worker"
	serveroptions "github.com/leat-dev/leat/pkg/apiserver/options"
	"github.com/leat-dev/leat/pkg/apiserver/workerlogs"
	"github.com/leat-dev/leat/pkg/standalone/fakehost"
	"github.com/leat-dev/leat/pkg/standalone/pki"
	"github.com/leat-dev/leat/pkg/standalone/rbac"
)

// loopback is where workers serve logs.
const loopback = "127.0.0.1"

// The identities of the parts. Those of the controllers are what config/ binds its roles to.
const (
	adminUser      = "admin"
	adminGroup     = "leat:admins"
	controllerUser = "system:serviceaccount:leat-system:leat-controller-manager"
	workersGroup   = authorizationworker.Group
)

func workerUser(namespace, name string) string {
	return authorizationworker.NamePrefix + namespace + ":" + name
}

//go:embed roles.yaml
var roles embed.FS

// healthPaths are open to all.
var healthPaths = []string{"/healthz", "/livez", "/readyz"}

// loadAuthority reads the certificate authority from the directory, or makes one there.
func loadAuthority(dir string) (*pki.CA, error) {
	cert, key := filepath.Join(dir, "ca.crt"), filepath.Join(dir, "ca.key")
	authority, err := pki.LoadCA(cert, key)
	if !errors.Is(err, fs.ErrNotExist) {
		return authority, err
	}
	if authority, err = pki.NewCA("leat"); err != nil {
		return nil, err
	}
	return authority, errors.Join(pki.WriteFile(key, authority.KeyPEM()), pki.WriteFile(cert, authority.CertPEM()))
}

// newServer makes the API server on a host that is empty.
func newServer(options Options, authority *pki.CA, transport storagebackend.TransportConfig, listener net.Listener) (*leatserver.Server, error) {
	dir := filepath.Join(options.DataDir, "pki")
	cert, key, err := authority.IssueServer("localhost", "127.0.0.1")
	if err != nil {
		return nil, err
	}
	certFile, keyFile := filepath.Join(dir, "server.crt"), filepath.Join(dir, "server.key")
	if err := errors.Join(pki.WriteFile(keyFile, key), pki.WriteFile(certFile, cert)); err != nil {
		return nil, err
	}

	o, err := serveroptions.NewOptions()
	if err != nil {
		return nil, err
	}
	r := o.Recommended
	r.Etcd.StorageConfig.Transport = transport
	r.SecureServing.Listener = listener
	r.SecureServing.BindPort = listener.Addr().(*net.TCPAddr).Port
	r.SecureServing.ServerCert.CertKey = genericoptions.CertKey{CertFile: certFile, KeyFile: keyFile}
	r.Admission = genericoptions.NewAdmissionOptions()
	if err := admission.ConfigureStandalone(r.Admission); err != nil {
		return nil, err
	}
	r.Admission.ConfigFile = options.AdmissionConfig
	if o.Workers, err = newWorkerClient(dir, authority); err != nil {
		return nil, err
	}
	// Nobody stands in front who would have to be told before the server stops. Once requests are done, connections with open watches
	// are given two seconds; without the answer to try again later it would be a minute.
	o.Server.ShutdownDelayDuration = 0
	o.Server.ShutdownSendRetryAfter = true
	o.Server.ShutdownWatchTerminationGracePeriod = 0

	// The host's OpenAPI documents are the server's own, once there is one.
	var openAPI atomic.Pointer[http.Handler]
	host := fakehost.NewConfig(func() http.Handler {
		if handler := openAPI.Load(); handler != nil {
			return *handler
		}
		return nil
	})
	if o.Standalone, err = newHost(host, filepath.Join(dir, "ca.crt")); err != nil {
		return nil, err
	}
	if err := o.Complete(); err != nil {
		return nil, err
	}
	if errs := o.Validate(); len(errs) > 0 {
		return nil, utilerrors.NewAggregate(errs)
	}
	config, err := o.Config()
	if err != nil {
		return nil, err
	}
	server, err := config.Complete().New()
	if err != nil {
		return nil, err
	}
	handler := server.UnprotectedHandler()
	openAPI.Store(&handler)
	return server, nil
}

// newWorkerClient says how logs are read from workers, who are on this machine.
func newWorkerClient(dir string, authority *pki.CA) (*workerlogs.Options, error) {
	cert, key, err := authority.IssueClient(v1alpha1.WorkerClientName)
	if err != nil {
		return nil, err
	}
	certFile, keyFile := filepath.Join(dir, "worker-client.crt"), filepath.Join(dir, "worker-client.key")
	return &workerlogs.Options{CertFile: certFile, KeyFile: keyFile, AddressRanges: []string{loopback + "/32"}},
		errors.Join(pki.WriteFile(keyFile, key), pki.WriteFile(certFile, cert))
}

// newHost gives what a host cluster would: client certificates of our own authority, and the roles of config/.
func newHost(host *rest.Config, caFile string) (*serveroptions.Standalone, error) {
	clientCA := genericoptions.ClientCertAuthenticationOptions{ClientCA: caFile}
	ca, err := clientCA.GetClientCAContentProvider()
	if err != nil {
		return nil, err
	}
	anonymous := &apiserver.AnonymousAuthConfig{Enabled: true}
	for _, path := range healthPaths {
		anonymous.Conditions = append(anonymous.Conditions, apiserver.AnonymousAuthCondition{Path: path})
	}
	authenticator, _, err := authenticatorfactory.DelegatingAuthenticatorConfig{
		Anonymous:                          anonymous,
		ClientCertificateCAContentProvider: ca,
	}.New()
	if err != nil {
		return nil, err
	}

	health, err := authorizationpath.NewAuthorizer(healthPaths)
	if err != nil {
		return nil, err
	}
	shipped, err := rbac.Load(config.RBAC(), "*.yaml")
	if err != nil {
		return nil, err
	}
	own, err := rbac.Load(roles, "*.yaml")
	if err != nil {
		return nil, err
	}
	authorizer, err := union.New(
		union.NamedAuthorizer{AuthorizerName: "leat.dev/health", Authorizer: health},
		union.NamedAuthorizer{AuthorizerName: "leat.dev/shipped-roles", Authorizer: shipped},
		union.NamedAuthorizer{AuthorizerName: "leat.dev/standalone-roles", Authorizer: own},
	)
	if err != nil {
		return nil, err
	}
	return &serveroptions.Standalone{Host: host, Authenticator: authenticator, ClientCA: ca, Authorizer: authorizer}, nil
}
