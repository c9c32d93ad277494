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

package security

import (
	"net/http"
	"testing"

	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/measure"
)

// hostMemory is the budget of the host's peak memory for an attack that it forwards, in MiB.
const hostMemory = 200.0

// testThroughHost sends an attack of each kind through the host. The answer must name the limit as the answer of the
// server itself does, and the host must keep serving its own API.
func (s *server) testThroughHost(t *testing.T) {
	namespace, all := s.namespace(t), attacks()
	host := s.env.HostClient(t)
	for _, name := range []string{
		"a body of more than 3 MiB", "a body of unknown length", "JSON 100,000 deep", "a million arguments", "protobuf of a million owners", "a compressed body",
		"a YAML bomb", "a JSON patch of 100,000 operations", "a JSON patch that doubles", "a task of 1.6 MiB",
		"a label selector of 50,000 values", "a token of another resource", "10,000 types to answer in", "an object larger than etcd's",
	} {
		pid := s.env.Host.APIServer.PID()
		kit.Check(t, measure.ResetPeak(pid))
		before := kit.Must(measure.Memory(pid, "VmRSS"))(t)
		s.testRequest(t, namespace, name, all[name])
		grown := kit.Must(measure.Memory(pid, "VmHWM"))(t) - before
		t.Logf("the host took %.0f MiB", grown)
		if grown > hostMemory {
			t.Errorf("after %q: the host took %.0f MiB, want at most %.0f", name, grown, hostMemory)
		}
		for _, path := range []string{"/readyz", "/api/v1/namespaces", "/apis/apps/v1/deployments"} {
			code := 0
			if err := host.RESTClient().Get().AbsPath(path).Do(t.Context()).StatusCode(&code).Error(); err != nil || code != http.StatusOK {
				t.Errorf("after %q: host path %s: got %d, %v, want 200", name, path, code, err)
			}
		}
	}
}
