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
	"maps"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

const (
	// minDurations and maxDurations are how many tasks of a controller must have ended for its median to be known,
	// and how many of the last ones count.
	minDurations = 4
	maxDurations = 8
	// durationsTTL is how long the durations of a controller are kept after one of its tasks has ended.
	durationsTTL = 10 * time.Minute
)

// durations are how long the last tasks of each controller, usually a TaskSet, have run. The scheduler measures them
// from when it sees a task run until it sees it end. It sees no start of a task that ends before the worker reports
// the start; such a task counts as zero.
type durations map[types.UID]*controllerDurations

type controllerDurations struct {
	last  [maxDurations]time.Duration // a ring
	count int                         // of all tasks that have ended
	used  time.Time
}

// add records how long a task has run. It ignores tasks without a controller.
func (d durations) add(task *batch.Task, ran time.Duration, now time.Time) {
	controller := metav1.GetControllerOfNoCopy(task)
	if controller == nil {
		return
	}
	c := d[controller.UID]
	if c == nil {
		maps.DeleteFunc(d, func(_ types.UID, old *controllerDurations) bool { return now.Sub(old.used) > durationsTTL })
		c = &controllerDurations{}
		d[controller.UID] = c
	}
	c.last[c.count%maxDurations] = ran
	c.count++
	c.used = now
}

// median returns how long the last tasks of the task's controller have run, and whether that is known.
func (d durations) median(task *batch.Task) (time.Duration, bool) {
	controller := metav1.GetControllerOfNoCopy(task)
	if controller == nil {
		return 0, false
	}
	c := d[controller.UID]
	if c == nil || c.count < minDurations {
		return 0, false
	}
	sorted := c.last
	known := sorted[:min(c.count, maxDurations)]
	slices.Sort(known)
	return known[len(known)/2], true
}
