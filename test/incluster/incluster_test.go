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
	"flag"
	"os"
	"testing"

	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/host"
)

// maxParallel is how many parallel tests run at a time. They wait most of the time, so the number of processors is no
// good limit.
const maxParallel = "16"

func TestMain(m *testing.M) {
	if err := flag.Set("test.parallel", maxParallel); err != nil {
		panic(err)
	}
	flag.Parse() // -parallel wins
	os.Exit(m.Run())
}

// subtest is a test of a parallel group.
type subtest struct {
	name string
	run  func(*testing.T)
}

// together runs a group of tests in parallel and waits for them. They must not disturb each other.
func together(t *testing.T, group string, tests ...subtest) {
	t.Helper()
	t.Run(group, func(t *testing.T) {
		for _, test := range tests {
			t.Run(test.name, func(t *testing.T) {
				t.Parallel()
				test.run(t)
			})
		}
	})
}

// TestAggregated runs all suites on one host. The controller manager runs only where a test says so: without it, tasks
// stay as the test writes them. Suites that restart the server or the host come after the others, and the suite that
// replaces the host's certificates comes last.
func TestAggregated(t *testing.T) {
	t.Parallel()
	cp := host.ForTest(t, "--controllers=horizontal-pod-autoscaler-controller,statefulset-controller", "--horizontal-pod-autoscaler-sync-period=1s")
	_, archive := kit.ArchiveInS3(t)
	e := kit.AggregatedOn(t, cp, archive...)
	backend := startWebhook(t)
	deleteManifests := applyManifests(t, e, backend)
	// The garbage collector and the quota controller look for new APIs only every 30 s, and at their start.
	kit.Check(t, cp.ControllerManager.Restart(t.Context()))
	encrypted := startEncrypted(t, e)

	suite(t, e, backend)
	// While a policy matches deletions, admission denies those of the sweeper, because their namespace does not exist.
	deleteManifests()
	t.Run("Roles", func(t *testing.T) { testHostRoles(t, e) })
	t.Run("PublishedOpenAPI", func(t *testing.T) { testPublishedOpenAPI(t, e) })
	together(t, "Host",
		subtest{"Discovery", func(t *testing.T) { testHostDiscovery(t, e) }},
		subtest{"WorkerPod", func(t *testing.T) { testWorkerPod(t, e) }},
		subtest{"GarbageCollection", func(t *testing.T) { testGarbageCollection(t, e) }},
		subtest{"NamespaceController", func(t *testing.T) { testNamespaceController(t, e) }},
		subtest{"NamespaceRace", func(t *testing.T) { testNamespaceRace(t, e) }},
		subtest{"Pools", func(t *testing.T) { testPools(t, e) }},
		subtest{"Shutdown", func(t *testing.T) { testShutdown(t, e) }},
	)
	t.Run("Reviews", func(t *testing.T) { testReviews(t, e) })
	t.Run("Controllers", func(t *testing.T) { testControllers(t, e) })
	t.Run("Archive", func(t *testing.T) { testArchive(t, e) })
	t.Run("Encryption", encrypted.test)
	t.Run("Fairness", func(t *testing.T) { testFairness(t, e) })
	t.Run("ServerRestart", func(t *testing.T) { testServerRestart(t, e) })
	t.Run("HostRestart", func(t *testing.T) { testHostRestart(t, e) })
	t.Run("ForeignPolicy", func(t *testing.T) { testForeignPolicy(t, e) })
	t.Run("Grants", func(t *testing.T) { testGrants(t, e) })
	t.Run("Replicas", func(t *testing.T) { testReplicas(t, e) })
}

// TestStandalone runs the suites that need no host.
func TestStandalone(t *testing.T) {
	t.Parallel()
	backend := startWebhook(t)
	e := kit.Standalone(t, "--admission-control-config-file="+admissionConfig(t, backend))
	suite(t, e, backend)
	t.Run("ServerRestart", func(t *testing.T) { testServerRestart(t, e) })
}

// suite runs what holds with and without a host.
func suite(t *testing.T, e *kit.Env, backend *webhook) {
	t.Run("Informers", func(t *testing.T) { testInformers(t, e) })
	t.Run("ServerDiscovery", func(t *testing.T) { testServerDiscovery(t, e) })
	t.Run("Health", func(t *testing.T) { testHealth(t, e) })
	t.Run("Strangers", func(t *testing.T) { testStrangers(t, e) })
	t.Run("Worker", func(t *testing.T) { testWorker(t, e) })
	t.Run("Webhooks", func(t *testing.T) { testWebhooks(t, e, backend) })
	t.Run("Policies", func(t *testing.T) { testPolicies(t, e) })
}
