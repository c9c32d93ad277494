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
	"slices"
	"strings"
	"testing"
	"time"
)

// steady returns the idle points of a run without leaks, with noise, and with 6,000 operations between two of them.
func steady() []idlePoint {
	var points []idlePoint
	for i := range 10 {
		wobble := []int64{0, 1, -1, 2, 0, -2, 1, 0, 2, -1}[i]
		p := idlePoint{at: time.Duration(i) * time.Minute, operations: 6000 * (i + 1), keys: 7, inUse: 1<<20 + 100_000*wobble}
		for _, f := range []measurement{
			{process: "leat-apiserver", pid: 10, files: 40, goroutines: 900, heap: 80 << 20, resident: 300 << 20, watches: 50, events: 50_000},
			{process: "leat-controller-manager", pid: 20, files: 14, goroutines: 150, heap: 20 << 20, resident: 90 << 20},
			{process: "leat-worker", pid: 30 + i/5, files: 12, goroutines: 40, heap: 4 << 20, resident: 40 << 20},
		} {
			f.files += int(wobble)
			f.goroutines += 10 * int(wobble)
			f.heap += wobble << 20
			f.resident += 10 * wobble << 20
			p.processes = append(p.processes, f)
		}
		points = append(points, p)
	}
	return points
}

func TestGrowthDetectsLeaks(t *testing.T) {
	server := func(p *idlePoint) *measurement { return &p.processes[0] }
	for name, test := range map[string]struct {
		// leak changes a measurement. done is the number of operations since the first idle point.
		leak func(p *idlePoint, done int)
		want string
	}{
		"nothing":                                {func(*idlePoint, int) {}, ""},
		"no leak in cached answers":              {func(p *idlePoint, done int) { server(p).heap += min(15<<20, 1000*int64(done)) }, ""},
		"a file every 4,000 operations":          {func(p *idlePoint, done int) { server(p).files += done / 4000 }, "leat-apiserver, process 10: 40 open files"},
		"a goroutine every 1,000 operations":     {func(p *idlePoint, done int) { server(p).goroutines += done / 1000 }, "900 goroutines"},
		"600 bytes every operation":              {func(p *idlePoint, done int) { server(p).heap += 600 * int64(done) }, "bytes of heap"},
		"an object every 4 operations":           {func(p *idlePoint, done int) { server(p).heap += 2500 * int64(done/4) }, "bytes of heap"},
		"memory outside of the Go heap":          {func(p *idlePoint, done int) { server(p).resident += 8000 * int64(done) }, "bytes resident"},
		"a leak of the controllers":              {func(p *idlePoint, done int) { p.processes[1].heap += 300 * int64(done) }, "leat-controller-manager, process 20"},
		"a leak of a restarted worker":           {func(p *idlePoint, done int) { p.processes[2].files += done / 1000 }, "leat-worker, process 31"},
		"a key that is not deleted":              {func(p *idlePoint, done int) { p.keys += min(1, done) }, "etcd: 7 keys"},
		"revisions that are not compacted":       {func(p *idlePoint, done int) { p.inUse += 500 * int64(done) }, "etcd: 1048576 bytes in use"},
		"no leak in the watch cache":             {func(p *idlePoint, done int) { server(p).events += done; server(p).heap += 6000 * int64(done) }, ""},
		"a leak beside the watch cache":          {func(p *idlePoint, done int) { server(p).events += done / 10; server(p).heap += 6000 * int64(done) }, "bytes of heap"},
		"no leak in watches that moved here":     {func(p *idlePoint, done int) { server(p).watches += done / 600; server(p).goroutines += done / 120 }, ""},
		"no leak in memory of the race detector": {func(p *idlePoint, done int) { server(p).race = true; server(p).resident += 8000 * int64(done) }, ""},
		"no leak in a restarted process": {func(p *idlePoint, done int) {
			if done > 20_000 {
				server(p).pid, server(p).goroutines = 11, 2000
			}
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			points := steady()
			for i := range points {
				test.leak(&points[i], points[i].operations-points[0].operations)
			}
			grown, judged := growth(points)
			if judged["leat-apiserver"] == 0 || judged["leat-controller-manager"] == 0 || judged["leat-worker"] == 0 || judged["etcd"] == 0 {
				t.Errorf("only %v were judged", judged)
			}
			if test.want == "" && len(grown) > 0 || test.want != "" && !slices.ContainsFunc(grown, func(g string) bool { return strings.Contains(g, test.want) }) {
				t.Errorf("got %q, want %q", grown, test.want)
			}
		})
	}
	if _, judged := growth(steady()[:1]); len(judged) > 0 {
		t.Errorf("%v were judged by a single idle point", judged)
	}
}
