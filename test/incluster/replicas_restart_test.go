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

// testRollingRestart: replicas that are replaced one after the other are, to clients behind the aggregator, a server that was never away.
func testRollingRestart(t *testing.T, i *replicated) {
	// Enough for 0.1 % of the writes to be some.
	const perSecond, requests = 100, 6000
	namespace := i.Namespace(t)
	config := i.Admin(t)
	client := tasksOf(t, config, namespace)
	followers := []*follower{followInformer(t, config, namespace), followRaw(t, client)}
	start := time.Now()
	load := newLoad(t, config, namespace, perSecond)
	load.goesOn(t, 2*perSecond)
	for n, replica := range i.replicas {
		stopping := time.Now()
		kit.Check(t, replica.Server.Stop())
		t.Logf("replica %d ended %s after it was asked to; connections so far: %d", n, time.Since(stopping).Round(100*time.Millisecond), i.service.accepted())
		kit.Check(t, replica.Server.Restart(t.Context()))
		i.service.serving(t, n, true)
	}
	load.goesOn(t, max(2*perSecond, requests-load.count()))
	pace := float64(load.count()) / time.Since(start).Seconds()
	t.Logf("%.0f requests a second for %s", pace, time.Since(start).Round(time.Second))
	load.stop()
	load.expect(t)
	// A write that meets the end of its connection on the way fails: how many do is a question of how long the way is. On a machine
	// that does not keep the pace, it is as long as one has to wait for a processor.
	if failed, all := len(load.failed["write"]), load.asked["write"]; pace > 0.9*perSecond && failed*1000 >= all {
		t.Errorf("%d of %d writes failed, want less than 0.1 %%", failed, all)
	}
	for _, follower := range followers {
		follower.expect(t, load.written)
	}
	// Otherwise nothing was shown: each replica has served what the other no longer did.
	for n, connections := range i.service.accepted() {
		if connections == 0 {
			t.Errorf("replica %d was never used", n)
		}
	}
}
