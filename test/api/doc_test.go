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

// Package api tests what the API promises to every client, for every kind.
//
// The suites are Conformance (one set of rules for all kinds and subresources), Kubectl (every verb, and bad input),
// the client libraries (typed, dynamic, metadata and controller-runtime) and Metrics. All share one environment with a
// host and one in standalone mode.
package api

import (
	"testing"

	"github.com/leat-dev/leat/test/kit"
)

func TestStandalone(t *testing.T) {
	e := kit.Standalone(t)
	testRestarts(t, e)
	testInParallel(t, e)
}

func TestAggregated(t *testing.T) {
	e := kit.Aggregated(t)
	t.Run("Metrics", func(t *testing.T) { testMetrics(t, e) }) // alone: it runs a controller manager
	testRestarts(t, e)
	testInParallel(t, e)
	parallel(t, "AtServer", func(t *testing.T) { testAtServer(t, e.AtServer()) })
}

// testRestarts runs the suites that restart the server.
func testRestarts(t *testing.T, e *kit.Env) {
	t.Run("WatchListInformers", func(t *testing.T) { testInformers(t, e, true) })
	t.Run("ListAndWatchInformers", func(t *testing.T) { testInformers(t, e, false) })
	t.Run("ControllerRuntime", func(t *testing.T) { testControllerRuntime(t, e) })
}

// testInParallel starts the other suites. They run in parallel after the calling test has returned.
func testInParallel(t *testing.T, e *kit.Env) {
	parallel(t, "Conformance", func(t *testing.T) { testConformance(t, e) })
	parallel(t, "Kubectl", func(t *testing.T) { testKubectl(t, e) })
	parallel(t, "TypedClient", func(t *testing.T) { testTypedClient(t, e) })
	parallel(t, "TypedApply", func(t *testing.T) { testTypedApply(t, e) })
	parallel(t, "AllKindsInformers", func(t *testing.T) { testAllKindsInformers(t, e) })
}

// testAtServer connects to a server with a host directly. It tests the requests that the aggregator serves itself or
// may change: discovery, OpenAPI and malformed requests.
func testAtServer(t *testing.T, e *kit.Env) {
	t.Run("APIResources", func(t *testing.T) { testAPIResources(t, e.Admin(t)) })
	t.Run("KubectlDiscovery", func(t *testing.T) { testKubectlDiscovery(t, e) })
	t.Run("KubectlExplain", func(t *testing.T) { testKubectlExplain(t, e) })
	t.Run("KubectlBadRequests", func(t *testing.T) { testKubectlBadRequests(t, e) })
}

// parallel starts a subtest that runs in parallel with others after the calling test has returned.
func parallel(t *testing.T, name string, f func(*testing.T)) {
	t.Run(name, func(t *testing.T) {
		t.Parallel()
		f(t)
	})
}
