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

// Limits of what a process may have gained from its first idle point to its last. At an idle point all objects of the
// load are deleted, so what a leak leaves behind grows with the number of operations.
const (
	// Connections of the host move from one replica to the other, with their files and goroutines.
	filesSlack      = 10
	goroutinesSlack = 40
	// goroutinesPerWatch bounds the goroutines of a watch that moved to this process.
	goroutinesPerWatch = 10
	// heapSlack is the noise of the heap: pools, and maps that have grown.
	heapSlack = 6 << 20
	// heapAnswers bounds the caches of a server for answers of the host, such as 8,192 SubjectAccessReviews.
	heapAnswers = 16 << 20
	// heapPerOperation is less than the smallest leak of an operation, an entry of a map.
	heapPerOperation = 64
	// heapPerEvent bounds the memory of an event in the watch cache: the old and the new object, 4 KiB here. The watch
	// cache keeps a bounded number of events for some time.
	heapPerEvent = 8 << 10
	// residentFactor is the ratio of resident memory to heap.
	residentFactor = 4
	residentShare  = 0.5
	// etcdSlack is the noise of the space in use in etcd's file.
	etcdSlack = 4 << 20
	// etcdPerOperation is less than the size of any key.
	etcdPerOperation = 32
)

// measurement is a measurement of a process at an idle point.
type measurement struct {
	process string
	pid     int
	// race reports whether the program was built with the race detector, which uses memory for itself.
	race              bool
	files, goroutines int
	// heap is the live heap after the last garbage collection, and resident the resident memory, in bytes.
	heap, resident int64
	// watches counts the open long-running requests of a server, and events the events in its watch caches.
	watches, events int
}

// idlePoint is a measurement of all processes while there is no load and all objects of the load are deleted.
type idlePoint struct {
	at         time.Duration
	operations int
	processes  []measurement
	// keys is the number of keys in etcd, and inUse the space in use in its file after compaction, in bytes.
	keys  int
	inUse int64
}

// growth compares the first idle point of each process with its last, and returns what has grown. A restarted process
// counts as another process. judged counts the processes with two idle points or more, by name.
func growth(points []idlePoint) (grown []string, judged map[string]int) {
	judged = map[string]int{}
	exceeds := func(what, unit string, first, last, limit int64) {
		if last > limit {
			grown = append(grown, fmt.Sprintf("%s: %d %s at the first idle point and %d at the last, want at most %d", what, first, unit, last, limit))
		}
	}
	type life struct {
		name string
		pid  int
	}
	var lives []life
	samples, operations := map[life][]measurement{}, map[life][]int{}
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
