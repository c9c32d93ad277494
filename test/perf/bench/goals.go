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

package main

import (
	"fmt"
	"math"
	"time"
)

// goal is a goal of docs/reference/performance.md and the result of this run.
type goal struct {
	Goal, Reached, Verdict string
}

const (
	met         = "met"
	notMet      = "not met"
	notMeasured = "not measured in this run"
)

// atMost returns the verdict for a number with an upper limit. NaN means not measured.
func atMost(text string, reached, limit float64, unit string) goal {
	switch {
	case math.IsNaN(reached):
		return goal{text, "", notMeasured}
	case reached <= limit:
		return goal{text, number(reached) + unit, met}
	}
	return goal{text, number(reached) + unit, notMet}
}

// atLeast returns the verdict for a number with a lower limit.
func atLeast(text string, reached, limit float64, unit string) goal {
	g := atMost(text, -reached, -limit, unit)
	if g.Verdict != notMeasured {
		g.Reached = number(reached) + unit
	}
	return g
}

// judge compares a result with the goals.
func judge(r *result) []goal {
	value := func(part, what, subject, encoding, value string) float64 {
		return r.find(part, what, subject, encoding).median(value)
	}
	var goals []goal
	add := func(g goal) { goals = append(goals, g) }
	for _, encoding := range []struct {
		name  string
		limit float64
	}{{jsonEncoding, 1. / 3}, {protoEncoding, 1. / 4}} {
		for _, op := range operations {
			// A CRD has no binding. An update of the status is the most similar write.
			other := op
			if op == opBind {
				other = opUpdateStatus
			}
			add(atMost(fmt.Sprintf("1. CPU of %s, %s, to the CRD's %s: at most 1/%.0f", op, encoding.name, other, 1/encoding.limit),
				value(partOperations, string(op), directLabel, encoding.name, valueCPU)/value(partOperations, string(other), crdLabel, jsonEncoding, valueCPU), encoding.limit, ""))
		}
	}
	for _, mode := range []listMode{pagedMode, unpagedMode, cachedMode} {
		crd := value(partLists, mode.name, crdLabel, jsonEncoding, valueCPU)
		for _, encoding := range []listEncoding{jsonList, protoList} {
			add(atMost(fmt.Sprintf("1. CPU of an object listed, %s, %s, to the CRD's in JSON: at most 1/8", mode.name, encoding.name),
				value(partLists, mode.name, directLabel, encoding.name, valueCPU)/crd, 1./8, ""))
		}
	}
	for _, encoding := range []string{jsonEncoding, protoEncoding} {
		add(atLeast(fmt.Sprintf("2. Creates a second, %s, to etcd's own: at least 25 %% (35 %% hoped for)", encoding),
			100*value(partOperations, string(opCreate), directLabel, encoding, valueRate)/value(partOperations, string(opCreate), etcdLabel, "", valueRate), 25, " %"))
	}
	for _, encoding := range []string{jsonEncoding, protoEncoding} {
		of := func(watchers int, name string) float64 {
			return value(partWatches, watchersName(watchers), directLabel, encoding, name)
		}
		// The goal holds for each round, so the maximum counts.
		most := func(name string) float64 {
			if f := r.find(partWatches, watchersName(manyWatchers), directLabel, encoding); f != nil {
				return f.Values[name].Max
			}
			return math.NaN()
		}
		add(atMost(fmt.Sprintf("3. %d watchers, %s: none is cut off", manyWatchers, encoding), most(valueTerminated), 0, ""))
		add(atMost(fmt.Sprintf("3. %d watchers, %s: no event is missing", manyWatchers, encoding), most(valueMissing), 0, ""))
		add(atLeast(fmt.Sprintf("3. %d watchers, %s: 200 events a second, to 5 %%", manyWatchers, encoding), of(manyWatchers, valueRate), 190, "/s"))
		add(atMost(fmt.Sprintf("3. %d watchers, %s: delivery p99 under 100 ms", manyWatchers, encoding), of(manyWatchers, valueP99), 100, " ms"))
		add(atMost(fmt.Sprintf("3. CPU of an event from 100 to %d watchers, %s: flat to 20 %%", manyWatchers, encoding),
			100*math.Abs(of(manyWatchers, valueCPU)/of(100, valueCPU)-1), 20, " %"))
	}
	for _, encoding := range []string{jsonEncoding, protoEncoding} {
		for _, mode := range []listMode{watchListMode, pagedMode, cachedMode, unpagedMode} {
			// The limit is a number for pages and watches, and depends on the size of the response for whole lists.
			limit, text := 64., "peak growth under 64 MiB"
			if !mode.paged && !mode.watch {
				limit, text = 32+value(partMemory, largeName(mode), directLabel, encoding, valueList), "peak growth under the list itself + 32 MiB"
			}
			// A run with fewer objects than in the goal does not measure it.
			of := func(name string) float64 {
				if value(partMemory, largeName(mode), directLabel, encoding, valueObjects) < largeObjects {
					return math.NaN()
				}
				return value(partMemory, largeName(mode), directLabel, encoding, name)
			}
			add(atMost(fmt.Sprintf("4. 100,000 tasks, %s, %s: %s", mode.name, encoding, text), of(valueGrowth), limit, " MiB"))
			if mode.watch || mode.name == cachedMode.name {
				add(atMost(fmt.Sprintf("4. 100,000 tasks, %s, %s: first byte under 100 ms", mode.name, encoding), of(valueFirst), 100, " ms"))
			}
		}
	}
	for _, what := range []string{whatWritten, whatRestarted} {
		share := value(partMemory, what, directLabel, "", valuePer100k) / value(partMemory, what, crdLabel, "", valuePer100k)
		if value(partMemory, what, directLabel, "", valueObjects) < largeObjects {
			share = math.NaN()
		}
		add(atMost(fmt.Sprintf("5. RSS for 100,000 tasks, %s, to the CRD's: at most half", what), share, 0.5, ""))
	}
	job := value(partLifeCycle, whatSet, withJob, "", valueRate)
	add(atLeast("6. Tasks that run true, to pods of a Job: at least 100 times as many", value(partLifeCycle, whatSet, withTrue, "", valueRate)/job, 100, ""))
	add(atLeast("6. Tasks that run true, a second: at least 300", value(partLifeCycle, whatSet, withTrue, "", valueRate), 300, ""))
	add(atMost("6. Created to started at half that rate: p50 at most 50 ms", value(partLifeCycle, whatLone, withTrue, "", valueP50), 50, " ms"))
	add(atMost("6. Created to started at half that rate: p99 at most 1 s", value(partLifeCycle, whatLone, withTrue, "", valueP99), 1000, " ms"))
	add(atMost("6. etcd writes to a task that is shorter than 100 ms: at most 4", value(partLifeCycle, whatSet, withTrue, "", valueWritesOwn), 4, ""))
	add(goal{"7. A set of 1,000,000: memory and etcd bounded by parallelism", "", notMeasured + ": go run ./test/perf/load"})
	ready := value(partRestart, whatKilled, directLabel, "", valueReady)
	if value(partRestart, whatKilled, directLabel, "", valueObjects) < restartObjects {
		ready = math.NaN()
	}
	add(atMost("8. Ready after a restart with 150,000 tasks: under 5 s", ready, 5, " s"))
	addChunkGoals(r, add)
	addArchiveGoals(r, add)
	return goals
}

const (
	// These are the sizes in the goals.
	manyWatchers    = 10_000
	restartObjects  = 150_000
	largeSetIndexes = 1_000_000
	pendingTasks    = 100_000
	archivedIndexes = 100_000
)

// addChunkGoals adds the goals of the parts chunks and scale.
func addChunkGoals(r *result, add func(goal)) {
	value := func(name, subject, value string) float64 { return r.find(partChunks, name, subject, "").median(value) }
	few := onSlots(whatTrue, fewSlots)
	add(atLeast("9. Commands of true a second, to those of a bare loop of fork and exec: at least 85 %",
		100*value(few, localLabel, valueRate)/value(few, loopLabel, valueRate), 85, " %"))
	add(atLeast("9. Commands of true a second: at least 1000", value(few, localLabel, valueRate), 1000, ""))
	add(atLeast("9. Commands of echo a second: at least 700", value(onSlots(whatEcho, fewSlots), localLabel, valueRate), 700, ""))
	for _, want := range []struct {
		name  string
		share float64
	}{
		{sleepName(quickSleep, fewSlots), 95}, {sleepName(time.Second, fewSlots), 95}, {sleepName(quickSleep, manySlots), 90},
		{sleepName(10*time.Millisecond, fewSlots), 85}, {longSleepName(10*time.Millisecond, fewSlots), 85},
	} {
		add(atLeast(fmt.Sprintf("10. Utilisation, %s, to that of xargs: at least %.0f %%", want.name, want.share),
			100*value(want.name, localLabel, valueUtilisation)/value(want.name, xargsLabel, valueUtilisation), want.share, " %"))
	}
	for _, want := range []struct {
		name   string
		writes float64
	}{
		{few, 0.1}, {longSleepName(10*time.Millisecond, fewSlots), 0.1}, {longSleepName(20*time.Millisecond, fewSlots), 0.1},
		{longSleepName(quickSleep, fewSlots), 0.5},
	} {
		add(atMost(fmt.Sprintf("11. etcd writes an index, %s: at most %.1f", want.name, want.writes), value(want.name, localLabel, valueWritesIndex), want.writes, ""))
	}
	mixed := onSlots(whatMixed, manySlots)
	add(atMost("12. Time of 1 % of 10 s among 10 ms, to that without chunks: at most 102 %",
		100*value(mixed, localLabel, valueSeconds)/value(mixed, chunksOffLabel, valueSeconds), 102, " %"))
	large, start := r.find(partScale, whatLargeSet, directLabel, ""), r.find(partScale, whatStart, directLabel, "")
	took, first := large.median(valueSeconds), start.median(valueFirstBinding)
	// A run with smaller sizes than in the goals does not measure them.
	if large.median(valueIndexes) < largeSetIndexes {
		took = math.NaN()
	}
	if start.median(valuePending) < pendingTasks {
		first = math.NaN()
	}
	add(atMost("13. A set of 1,000,000 indexes, workers that run nothing: at most 180 s", took, 180, " s"))
	add(atMost("13. Start of the manager until it acts, 100,000 pending tasks and 10,000 workers: at most 10 s", first, 10, " s"))
	add(goal{"13. A decision of the scheduler: at most 20 µs", "", notMeasured + ": go test -run '^$' -bench Cycle/100000tasks/10000workers ./pkg/scheduler"})
}

// addArchiveGoals adds the goals of the part archive.
func addArchiveGoals(r *result, add func(goal)) {
	value := func(name, subject, value string) float64 { return r.find(partArchive, name, subject, "").median(value) }
	for _, store := range []string{inDirectory, inS3} {
		add(atMost(fmt.Sprintf("14. CPU of an index that prints 1 KiB, archive in %s, to that without: at most 105 %%", store),
			100*value(whatEchoed, store, valueCPUSum)/value(whatEchoed, withoutArchive, valueCPUSum), 105, " %"))
	}
	for _, store := range []string{inDirectory, inS3} {
		objects := value(whatMany, store, valueObjectsN)
		if value(whatMany, store, valueIndexes) < archivedIndexes {
			objects = math.NaN()
		}
		add(atMost(fmt.Sprintf("14. Objects of 100,000 indexes that print 1 KiB, on %d workers, in %s: at most 30", archiveWorkers, store), objects, 30, ""))
	}
	add(atMost("14. First byte of leat logs SET --index LAST, 200 segments: p50 at most 200 ms", value(whatCommand, inDirectory, valueP50), 200, " ms"))
	add(atMost("14. First byte of leat logs SET --index LAST, 200 segments: p99 at most 200 ms", value(whatCommand, inDirectory, valueP99), 200, " ms"))
	add(atLeast("14. Indexes a second while the store is away, to those with it: at least 95 %",
		100*value(whatAway, inS3, valueRate)/value(whatEchoed, inS3, valueRate), 95, " %"))
	add(atLeast("14. Records that are there after the store was away: 100 %",
		100*value(whatAway, inS3, valueArrived)/value(whatAway, inS3, valueIndexes), 100, " %"))
}
