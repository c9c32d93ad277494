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
	"fmt"
	"slices"
	"time"
)

// What counts as no growth, from the first quiet point of a process to the last. All that churn brings with it is gone at a quiet point, so
// what is left over grows with what was done, if anything does.
const (
	// files and goroutines may differ by which connections happen to be open: those of the host move from one replica to another.
	filesSlack      = 10
	goroutinesSlack = 40
	// goroutinesPerWatch is what a watch that came to this process from another brings with it, at most.
	goroutinesPerWatch = 10
	// heapSlack is how much the heap differs from one quiet point to the next though nothing is kept: pools, maps that have grown.
	heapSlack = 6 << 20
	// heapAnswers is what a server comes to remember of who may do what, 8,192 answers of the host with their questions, and of the like.
	heapAnswers = 16 << 20
	// heapPerOperation is less than the least that an operation could leave behind at each time: an entry of a map.
	heapPerOperation = 64
	// heapPerEvent is what a server keeps of a change for watches that were cut off, for a while and up to a number of changes: the object as
	// it was and as it is, 4 KiB here.
	heapPerEvent = 8 << 10
	// residentFactor is how much more than the heap the operating system may have given.
	residentFactor = 4
	residentShare  = 0.5
	// etcdSlack is what etcd's file has in use for itself, by chance.
	etcdSlack = 4 << 20
	// etcdPerOperation is less than any key takes.
	etcdPerOperation = 32
)

// figures are those of one life of a process at a quiet point.
type figures struct {
	process string
	pid     int
	// race tells whether the program was built with the race detector, which takes memory for itself.
	race              bool
	files, goroutines int
	// heap is what the last collection of garbage found alive, and resident what the process has of the machine, in
	// bytes. The live heap has no garbage that is not swept yet.
	heap, resident int64
	// watches are requests that stay open, and events the changes that are kept for watches to come, of a server.
	watches, events int
}

// quiet is how everything is when nothing is done and nothing is stored that was not at the beginning.
type quiet struct {
	at         time.Duration
	operations int
	processes  []figures
	// keys are those that Leat has in etcd, inUse what they and etcd take of its file, in bytes, after compaction.
	keys  int
	inUse int64
}

// growth tells what has grown. A process that was started again begins anew; of one with a single quiet point nothing can be said. judged
// counts the lives that something could be said of, by process.
func growth(points []quiet) (grown []string, judged map[string]int) {
	judged = map[string]int{}
	exceeds := func(what, unit string, first, last, limit int64) {
		if last > limit {
			grown = append(grown, fmt.Sprintf("%s: %d %s at the first quiet point and %d at the last, where at most %d is no growth", what, first, unit, last, limit))
		}
	}
	type life struct {
		name string
		pid  int
	}
	var lives []life
	samples, operations := map[life][]figures{}, map[life][]int{}
	for _, point := range points {
		for _, f := range point.processes {
			l := life{f.process, f.pid}
			if !slices.Contains(lives, l) {
				lives = append(lives, l)
			}
			samples[l], operations[l] = append(samples[l], f), append(operations[l], point.operations)
		}
	}
	for _, l := range lives {
		n := len(samples[l])
		if n < 2 {
			continue
		}
		judged[l.name]++
		first, last := samples[l][0], samples[l][n-1]
		what := fmt.Sprintf("%s, process %d", l.name, l.pid)
		exceeds(what, "open files", int64(first.files), int64(last.files), int64(first.files+filesSlack))
		exceeds(what, "goroutines", int64(first.goroutines), int64(last.goroutines),
			int64(first.goroutines+goroutinesSlack+goroutinesPerWatch*max(0, last.watches-first.watches)))
		allowed := heapSlack + heapPerOperation*int64(operations[l][n-1]-operations[l][0]) + heapPerEvent*int64(max(0, last.events-first.events))
		remembered := int64(0)
		if last.events > 0 {
			remembered = heapAnswers
		}
		exceeds(what, "bytes of heap", first.heap, last.heap, first.heap+allowed+remembered)
		if !first.race {
			exceeds(what, "bytes resident", first.resident, last.resident, int64((1+residentShare)*float64(first.resident))+residentFactor*allowed)
		}
	}
	if n := len(points); n >= 2 {
		first, last := points[0], points[n-1]
		judged["etcd"]++
		exceeds("etcd", "keys", int64(first.keys), int64(last.keys), int64(first.keys))
		exceeds("etcd", "bytes in use", first.inUse, last.inUse, first.inUse+etcdSlack+etcdPerOperation*int64(last.operations-first.operations))
	}
	return grown, judged
}
