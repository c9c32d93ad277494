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
	"time"

	"github.com/leat-dev/leat/test/kit"
)

// testRollingRestart checks that clients behind the aggregator do not notice that the replicas are replaced one by one.
func testRollingRestart(t *testing.T, i *replicated) {
	// So many that 0.1 % of the writes are more than one.
	const perSecond, requests = 100, 6000
	namespace := i.Namespace(t)
	config := i.Admin(t)
	client := tasksOf(t, config, namespace)
	followers := []*follower{followInformer(t, config, namespace), followRaw(t, client)}
	start := time.Now()
	load := newLoad(t, config, namespace, perSecond)
	load.awaitRequests(t, 2*perSecond)
	for n, replica := range i.replicas {
		stopping := time.Now()
		kit.Check(t, replica.Server.Stop())
		t.Logf("replica %d exited %s after the signal; connections so far: %d", n, time.Since(stopping).Round(100*time.Millisecond), i.service.accepted())
		kit.Check(t, replica.Server.Restart(t.Context()))
		i.service.waitReady(t, n, true)
	}
	load.awaitRequests(t, max(2*perSecond, requests-load.count()))
	pace := float64(load.count()) / time.Since(start).Seconds()
	t.Logf("%.0f requests a second for %s", pace, time.Since(start).Round(time.Second))
	load.stop()
	load.check(t)
	// A write fails if its connection is closed while it is on the way. On a machine that is too slow for the rate,
	// requests are on the way for as long as they wait for a processor.
	if failed, all := len(load.failed["write"]), load.requests["write"]; pace > 0.9*perSecond && failed*1000 >= all {
		t.Errorf("failed writes: got %d of %d, want less than 0.1 %%", failed, all)
	}
	for _, follower := range followers {
		follower.check(t, load.written)
	}
	// Each replica must have served requests while the other was down.
	for n, connections := range i.service.accepted() {
		if connections == 0 {
			t.Errorf("replica %d: got no connections", n)
		}
	}
}
