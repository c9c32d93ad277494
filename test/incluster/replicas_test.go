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

package incluster

import (
	"testing"

	"k8s.io/client-go/rest"

	"github.com/leat-dev/leat/test/kit"
)

// replicated is an installation with two replicas behind one Service, as config/ has it.
type replicated struct {
	*kit.Env
	// replicas has the servers. The first is that of Env.
	replicas []*kit.Env
	service  *balancer
}

// testReplicas adds a replica and a load balancer, and runs the suites that need them. Rotation comes last, because it
// replaces the CAs of the host.
func testReplicas(t *testing.T, e *kit.Env) {
	i := &replicated{Env: e, replicas: []*kit.Env{e, e.Replica(t)}}
	i.service = balance(t, i.replicas...)
	kit.Check(t, e.Host.RegisterLeat(t.Context(), i.service.port, e.Anonymous(t).CAData))

	together(t, "Together",
		subtest{"Identity", func(t *testing.T) { testIdentity(t, i) }},
		subtest{"Revocation", func(t *testing.T) { testRevocation(t, i) }},
		subtest{"Quota", func(t *testing.T) { testQuota(t, i) }},
		subtest{"ReviewsAway", func(t *testing.T) { testReviewsAway(t, i) }},
	)
	t.Run("Reviews", func(t *testing.T) { testProgramReviews(t, i) })
	t.Run("RollingRestart", func(t *testing.T) { testRollingRestart(t, i) })
	t.Run("Rotation", func(t *testing.T) { testRotation(t, i) })
}

// withCertificate returns the config with another certificate.
func withCertificate(config *rest.Config, cert, key []byte) *rest.Config {
	config = rest.CopyConfig(config)
	config.CertData, config.KeyData = cert, key
	return config
}
