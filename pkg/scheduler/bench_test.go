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

package scheduler

import (
	"fmt"
	"testing"
	"time"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// BenchmarkCycle adds many tasks, places them, and deletes them. One operation is one such round.
func BenchmarkCycle(b *testing.B) {
	for _, size := range []struct{ tasks, workers int }{{10_000, 1_000}, {10_000, 10_000}, {100_000, 1_000}, {100_000, 10_000}} {
		for _, kind := range []struct {
			name    string
			classes int
			more    func(i int) []func(*batch.Task)
		}{
			{"plain", 1, func(int) []func(*batch.Task) { return nil }},
			{"hundred-classes", 100, func(i int) []func(*batch.Task) {
				return []func(*batch.Task){inQueue(fmt.Sprint("q", i%10)), requesting("cpu", fmt.Sprintf("%dm", 100+i/10%10))}
			}},
		} {
			for _, strategy := range ScoringStrategies() {
				b.Run(fmt.Sprintf("%dtasks/%dworkers/%s/%s", size.tasks, size.workers, kind.name, strategy), func(b *testing.B) {
					c := newState(strategy, func() {})
					for i := range size.workers {
						c.setWorker(newWorker(fmt.Sprintf("w%05d", i), 8, with("cpu", "2"), with("memory", "8Gi")))
					}
					tasks := make([]*batch.Task, size.tasks)
					for i := range tasks {
						more := append([]func(*batch.Task){created(time.Unix(int64(i/100), 0))}, kind.more(i)...)
						tasks[i] = newTask(fmt.Sprintf("t%06d", i), more...)
					}
					placed := 0
					b.ReportAllocs()
					for b.Loop() {
						for _, task := range tasks {
							c.setTask(task)
						}
						for waiting := len(tasks); waiting > 0; {
							var round []placement
							for p, ok := c.next(time.Unix(1, 0)); ok; p, ok = c.next(time.Unix(1, 0)) {
								round = append(round, p)
							}
							waiting -= len(round)
							placed += len(round)
							for _, p := range round {
								c.deleteTask(nameOf(p.obj))
							}
						}
					}
					b.ReportMetric(float64(placed)/b.Elapsed().Seconds(), "placements/s")
				})
			}
		}
	}
}

// BenchmarkBacklog deletes a bound task, places the next one and adds another, while a hundred thousand are pending.
func BenchmarkBacklog(b *testing.B) {
	for _, classes := range []int{1, 100} {
		b.Run(fmt.Sprintf("%dclasses", classes), func(b *testing.B) {
			c := newState(Spread, func() {})
			for i := range 1000 {
				c.setWorker(newWorker(fmt.Sprint("w", i), 8, with("cpu", "8")))
			}
			next := 0
			add := func() {
				c.setTask(newTask(fmt.Sprint("t", next), created(time.Unix(int64(next), 0)), requesting("cpu", fmt.Sprintf("%dm", 900+next%classes)), inQueue(fmt.Sprint(next%2))))
				next++
			}
			for range 100_000 {
				add()
			}
			var running []placement
			take := func() {
				for p, ok := c.next(time.Now()); ok; p, ok = c.next(time.Now()) {
					running = append(running, p)
				}
			}
			take()
			b.ReportAllocs()
			for b.Loop() {
				c.deleteTask(nameOf(running[0].obj))
				running = running[1:]
				take()
				add()
			}
		})
	}
}

// BenchmarkReport looks for tasks to report after all have been reported.
func BenchmarkReport(b *testing.B) {
	c := newState(Spread, func() {})
	for i := range 10_000 {
		c.setWorker(newWorker(fmt.Sprint("w", i), 1, with("cpu", "1")))
	}
	for i := range 100_000 {
		c.setTask(newTask(fmt.Sprint("t", i), requesting("cpu", "2")))
	}
	now := time.Now()
	c.next(now)
	for due := c.tasksToReport(now.Add(time.Minute), time.Second, 1000); len(due) > 0; due = c.tasksToReport(now.Add(time.Minute), time.Second, 1000) {
		for _, r := range due {
			c.reported(r)
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		c.tasksToReport(now.Add(time.Minute), time.Second, reportBatch)
		c.reserve(now)
	}
}
