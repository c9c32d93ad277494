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

package apiserver

import (
	"bytes"
	"errors"
	"net/http"

	"k8s.io/apiserver/pkg/authentication/authenticatorfactory"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/apiserver/pkg/server/healthz"
)

// authenticationLoaded is a check that fails until the authorities that the host publishes, in the ConfigMap
// extension-apiserver-authentication, have come in. Until then the aggregator and all clients with certificates count as
// anonymous: what they ask, perhaps as the garbage collector, would be refused instead of being sent to another replica.
//
// The union is of the authority of clients and that of the aggregator, header's; each is empty until it is loaded.
func authenticationLoaded(header *authenticatorfactory.RequestHeaderConfig, union dynamiccertificates.CAContentProvider) healthz.HealthChecker {
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
