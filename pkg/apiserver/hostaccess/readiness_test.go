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
	"strings"
	"testing"

	"k8s.io/apiserver/pkg/authentication/authenticatorfactory"
	"k8s.io/apiserver/pkg/authentication/request/headerrequest"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"

	"github.com/leat-dev/leat/pkg/standalone/pki"
)

// bundle is a provider whose content is set later.
type bundle struct {
	dynamiccertificates.CAContentProvider
	content []byte
}

func (b *bundle) CurrentCABundleContent() []byte { return b.content }

func TestAuthenticationConfigCheck(t *testing.T) {
	ca, err := pki.NewCA("ca")
	if err != nil {
		t.Fatal(err)
	}
	clients, aggregator := &bundle{}, &bundle{}
	var headers []string
	check := AuthenticationConfigCheck(&authenticatorfactory.RequestHeaderConfig{
		CAContentProvider: aggregator,
		UsernameHeaders:   headerrequest.StringSliceProviderFunc(func() []string { return headers }),
	}, dynamiccertificates.NewUnionCAContentProvider(clients, aggregator))
	for _, step := range []struct {
		missing string
		load    func()
	}{
		{"requestheader-client-ca-file", func() { aggregator.content = ca.CertPEM() }},
		{"requestheader-username-headers", func() { headers = []string{"X-Remote-User"} }},
		{"client-ca-file", func() { clients.content = ca.CertPEM() }},
	} {
		if err := check.Check(nil); err == nil || !strings.HasPrefix(err.Error(), step.missing) {
			t.Errorf("without %s: got %v", step.missing, err)
		}
		step.load()
	}
	if err := check.Check(nil); err != nil {
		t.Errorf("with everything loaded: got %v", err)
	}
}
