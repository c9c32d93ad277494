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
	// share of the highest rate is what is held.
	share = 0.7
	// failures of all calls, at most: those that meet the end of a server on their way.
	failures = 0.02
)

// TestSoak finds the highest rate and then holds a part of it. The first quiet point comes after that search: by then everything has
// been used, and what is kept for good is there.
func TestSoak(t *testing.T) {
	t.Parallel()
	search := min(20*time.Second, *duration/4)
	// A quiet point takes about a minute: a short run has few of them, but two at least.
	interval := min(max((*duration-search)/8, 40*time.Second), 5*time.Minute)
	intervals := max(2, int((*duration-search)/interval))
	s := newSoakCluster(t)
	c := newChurn(s)
	begun := time.Now()
	c.during(search, nil)
	peak := float64(c.done.Load()) / time.Since(begun).Seconds()
	c.pace = flowcontrol.NewTokenBucketRateLimiter(float32(share*peak), max(1, int(share*peak)/10))
	points := []quiet{s.quiet(nil, time.Since(begun), int(c.done.Load()))}
	t.Logf("At most %.0f completions and calls a second; %.0f from now on, %d times for %s", peak, share*peak, intervals, interval.Round(time.Second))

	restarts := map[string]int{}
	var working time.Duration
	held := -c.done.Load()
	for i := range intervals {
		victims := plan(s, i, intervals)
		again := time.Now()
		c.during(interval, victims)
		working += time.Since(again)
		for _, p := range victims {
			restarts[p.name]++
		}
		points = append(points, s.quiet(points, time.Since(begun), int(c.done.Load())))
	}
	held += c.done.Load()

	grown, judged := growth(points)
	calls, failed, all := c.summary()
	t.Logf("\n%s\n%s\nDone: %d completions and calls, %.0f a second of %.0f at most. Started again: %v. Judged: %v. Grown: %d",
		samples(points), columns("call\tn\tfailed\tp50 ms\tp99 ms\tmost ms\tlast failure\n"+calls), c.done.Load(), float64(held)/working.Seconds(), peak, restarts, judged, len(grown))
	for _, what := range grown {
		t.Error(what)
	}
	for _, name := range []string{s.servers[0].name, s.manager.name, s.workers[0].name, "etcd"} {
		if judged[name] == 0 {
			t.Errorf("of %s nothing could be said: there were not two quiet points", name)
		}
	}
	if points[0].processes[0].events == 0 {
		t.Error("the server does not tell how many changes it keeps: the names of its metrics have changed")
	}
	if float64(failed) > failures*float64(all) {
		t.Errorf("%d of %d calls failed; at most %.0f %% meet the end of a server", failed, all, 100*failures)
	}
	for _, kind := range kinds {
		if len(c.took[kind]) == 0 {
			t.Errorf("nothing was shown of: %s", kind)
		}
	}
}

// plan says what is started again in an interval: often the second worker and the second server, and the controller manager so early that it
// can be judged afterwards. The first of each goes on from the beginning to the end.
func plan(s *soakCluster, i, intervals int) []*measuredProcess {
	var victims []*measuredProcess
	if i%2 == 0 {
		victims = append(victims, s.workers[1])
	}
	if i%3 == 0 {
		victims = append(victims, s.servers[1])
	}
	if i%3 == 1 && 2*i < intervals {
		victims = append(victims, s.manager)
	}
	return victims
}

// during has everybody at work for a while, and meanwhile starts some processes again, one after the other.
func (c *churn) during(d time.Duration, victims []*measuredProcess) {
	c.Helper()
	ctx, cancel := context.WithTimeout(c.Context(), d)
	defer cancel()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		c.run(ctx)
	}()
	for _, p := range victims {
		if await.Pause(ctx, d/5) {
			c.restart(p)
		}
	}
	<-ended
}

// samples tells of all quiet points.
func samples(points []quiet) string {
	var lines strings.Builder
	lines.WriteString("time\toperations\tprocess\tPID\tfiles\tgoroutines\theap MiB\tRSS MiB\twatches\tevents kept\n")
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
