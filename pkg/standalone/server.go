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
	"net/url"
	"path/filepath"
	"sync/atomic"

	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/authentication/authenticatorfactory"
	authorizationpath "k8s.io/apiserver/pkg/authorization/path"
	"k8s.io/apiserver/pkg/authorization/union"
	"k8s.io/apiserver/pkg/endpoints/openapi"
	genericoptions "k8s.io/apiserver/pkg/server/options"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/client-go/rest"

	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/config"
	leatserver "github.com/leat-dev/leat/pkg/apiserver"
	"github.com/leat-dev/leat/pkg/apiserver/admission"
	serveroptions "github.com/leat-dev/leat/pkg/apiserver/options"
	"github.com/leat-dev/leat/pkg/apiserver/scheme"
	"github.com/leat-dev/leat/pkg/apiserver/workerlogs"
	"github.com/leat-dev/leat/pkg/standalone/fakehost"
	"github.com/leat-dev/leat/pkg/standalone/pki"
	"github.com/leat-dev/leat/pkg/standalone/rbac"
	"github.com/leat-dev/leat/pkg/standalone/reviews"
)

// loopback is the address on which workers serve logs.
const loopback = "127.0.0.1"

// adminUser and adminGroup are the identity of the person who started the server.
const (
	adminUser  = "admin"
	adminGroup = "leat:admins"
)

//go:embed roles.yaml
var roles embed.FS

// healthPaths are the paths that anonymous clients may read.
var healthPaths = []string{"/healthz", "/livez", "/readyz"}

// loadAuthority reads the certificate authority from the directory, or creates it.
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

// newServer returns the API server on an empty host.
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
	o.Archive.Store.URL = (&url.URL{Scheme: "file", Path: archiveDir(options)}).String()
	// There is no load balancer that must notice the shutdown first. With ShutdownSendRetryAfter the server waits two
	// seconds for connections with open watches, otherwise a minute.
	o.Server.ShutdownDelayDuration = 0
	o.Server.ShutdownSendRetryAfter = true
	o.Server.ShutdownWatchTerminationGracePeriod = 0

	// The host serves the OpenAPI documents of this server as soon as it exists.
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
	namer := openapi.NewDefinitionNamer(scheme.Scheme, reviews.Scheme)
	config.GenericConfig.OpenAPIConfig.GetDefinitionName = namer.GetDefinitionName
	config.GenericConfig.OpenAPIV3Config.GetDefinitionName = namer.GetDefinitionName
	server, err := config.Complete().New()
	if err != nil {
		return nil, err
	}
	if err := reviews.Install(server.GenericAPIServer); err != nil {
		return nil, err
	}
	handler := server.UnprotectedHandler()
	openAPI.Store(&handler)
	return server, nil
}

// newWorkerClient returns the options for reading logs from the workers on this machine.
func newWorkerClient(dir string, authority *pki.CA) (*workerlogs.Options, error) {
	cert, key, err := authority.IssueClient(v1alpha1.WorkerClientName)
	if err != nil {
		return nil, err
	}
	certFile, keyFile := filepath.Join(dir, "worker-client.crt"), filepath.Join(dir, "worker-client.key")
	return &workerlogs.Options{CertFile: certFile, KeyFile: keyFile, AddressRanges: []string{loopback + "/32"}},
		errors.Join(pki.WriteFile(keyFile, key), pki.WriteFile(certFile, cert))
}

// newHost returns the replacement for the services of a host cluster: authentication by client certificates of the
// authority, and authorization by the roles of config/ and roles.yaml.
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
