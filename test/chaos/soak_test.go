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

package chaos

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"k8s.io/client-go/util/flowcontrol"

	"github.com/leat-dev/leat/test/kit/await"
)

const (
	// share is the share of the peak rate that TestSoak applies.
	share = 0.7
	// failures is the share of calls that may fail, because a server stops meanwhile.
	failures = 0.02
)

// TestSoak measures the peak rate, and then applies a share of it. The first idle point follows the measurement of the
// peak rate, when all caches and pools are filled.
func TestSoak(t *testing.T) {
	t.Parallel()
	search := min(20*time.Second, *duration/4)
	// An idle point takes up to half a minute: a short run has few of them, but at least three.
	intervals := max(2, int((*duration-search)/min(max((*duration-search)/8, 50*time.Second), 5*time.Minute)))
	interval := (*duration - search) / time.Duration(intervals)
	s := newSoakCluster(t)
	c := newChurn(s)
	start := time.Now()
	c.loadFor(search, nil)
	peak := float64(c.done.Load()) / time.Since(start).Seconds()
	c.pace = flowcontrol.NewTokenBucketRateLimiter(float32(share*peak), max(1, int(share*peak)/10))
	points := []idlePoint{s.idle(nil, time.Since(start), int(c.done.Load()))}
	t.Logf("peak rate %.0f operations/s; applying %.0f operations/s for %d intervals of %s", peak, share*peak, intervals, interval.Round(time.Second))

	restarts := map[string]int{}
	var loaded, idled time.Duration
	held := -c.done.Load()
	for i := range intervals {
		restarted := toRestart(s, i, intervals)
		loadStart := time.Now()
		c.loadFor(interval, restarted)
		loaded += time.Since(loadStart)
		for _, p := range restarted {
			restarts[p.name]++
		}
		idleStart := time.Now()
		points = append(points, s.idle(points, time.Since(start), int(c.done.Load())))
		idled += time.Since(idleStart)
	}
	held += c.done.Load()

	grown, judged := growth(points)
	calls, failed, all := c.summary()
	t.Logf("\n%s\n%s\n%d operations, %.0f/s of a peak of %.0f/s; restarts: %v; judged: %v; grown: %d; %s under load and %s idle",
		samples(points), columns("call\tn\tfailed\tp50 ms\tp99 ms\tmost ms\tlast failure\n"+calls), c.done.Load(), float64(held)/loaded.Seconds(), peak, restarts, judged, len(grown),
		loaded.Round(time.Second), idled.Round(time.Second))
	for _, what := range grown {
		t.Error(what)
	}
	for _, name := range []string{s.servers[0].name, s.manager.name, s.workers[0].name, "etcd"} {
		if judged[name] == 0 {
			t.Errorf("%s has fewer than two idle points", name)
		}
	}
	if points[0].processes[0].events == 0 {
		t.Error("no events in the watch caches of the server: were its metrics renamed?")
	}
	if float64(failed) > failures*float64(all) {
		t.Errorf("%d of %d calls failed, want at most %.0f %%", failed, all, 100*failures)
	}
	for _, kind := range kinds {
		if len(c.took[kind]) == 0 {
			t.Errorf("no successful call: %s", kind)
		}
	}
}

// toRestart returns the processes to restart in an interval: often the second worker and the second server, and the
// controller manager early enough to be judged afterwards. The first server and the first worker never restart.
func toRestart(s *soakCluster, i, intervals int) []*measuredProcess {
	var processes []*measuredProcess
	if i%2 == 0 {
		processes = append(processes, s.workers[1])
	}
	if i%3 == 0 {
		processes = append(processes, s.servers[1])
	}
	if i%3 == 1 && 2*i < intervals {
		processes = append(processes, s.manager)
	}
	return processes
}

// loadFor applies load for d, and meanwhile restarts processes, one after the other.
func (c *churn) loadFor(d time.Duration, restarted []*measuredProcess) {
	c.Helper()
	ctx, cancel := context.WithTimeout(c.Context(), d)
	defer cancel()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		c.run(ctx)
	}()
	for _, p := range restarted {
		if await.Pause(ctx, d/5) {
			c.restart(p)
		}
	}
	<-ended
}

// samples returns a table of all idle points.
func samples(points []idlePoint) string {
	var lines strings.Builder
	lines.WriteString("time\toperations\tprocess\tPID\tfiles\tgoroutines\theap MiB\tRSS MiB\twatches\tevents\n")
	mib := func(n int64) float64 { return float64(n) / (1 << 20) }
	for _, p := range points {
		for _, f := range p.processes {
			fmt.Fprintf(&lines, "%s\t%d\t%s\t%d\t%d\t%d\t%.1f\t%.0f\t%d\t%d\n", p.at.Round(time.Second), p.operations, f.process, f.pid, f.files, f.goroutines,
				mib(f.heap), mib(f.resident), f.watches, f.events)
		}
		fmt.Fprintf(&lines, "%s\t%d\tetcd, %d keys, %.2f MiB in use\t\t\t\t\t\t\t\n", p.at.Round(time.Second), p.operations, p.keys, mib(p.inUse))
	}
	return columns(lines.String())
}

func columns(text string) string {
	var out strings.Builder
	table := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	fmt.Fprint(table, text)
	_ = table.Flush() // to memory
	return out.String()
}
