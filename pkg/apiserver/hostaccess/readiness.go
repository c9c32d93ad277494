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

package hostaccess

import (
	"bytes"
	"errors"
	"net/http"

	"k8s.io/apiserver/pkg/authentication/authenticatorfactory"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/apiserver/pkg/server/healthz"
)

// AuthenticationConfigCheck returns a check that fails until the configuration in the host's ConfigMap
// extension-apiserver-authentication is loaded. Before that, the aggregator and all clients with certificates are
// anonymous, and their requests, among them the garbage collector's, would be refused. An unready replica does not
// receive them.
//
// union provides the client CA bundle followed by the CA bundle of the aggregator, header's. Both are empty until
// loaded.
func AuthenticationConfigCheck(header *authenticatorfactory.RequestHeaderConfig, union dynamiccertificates.CAContentProvider) healthz.HealthChecker {
	return healthz.NamedCheck("authentication-config", func(*http.Request) error {
		aggregator := bytes.TrimSpace(header.CAContentProvider.CurrentCABundleContent())
		switch {
		case len(aggregator) == 0:
			return errors.New("requestheader-client-ca-file is not loaded")
		case len(header.UsernameHeaders.Value()) == 0:
			return errors.New("requestheader-username-headers are not loaded")
		case len(bytes.TrimSpace(union.CurrentCABundleContent())) <= len(aggregator):
			return errors.New("client-ca-file is not loaded")
		}
		return nil
	})
}
