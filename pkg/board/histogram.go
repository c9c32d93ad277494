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

package board

import (
	"math"
	"time"
)

const (
	// histogramBuckets and histogramFactor make buckets from a millisecond to some hours: the first holds all up to a
	// millisecond, and each of the others reaches histogramFactor times as far as the one before.
	histogramBuckets = 70
	histogramFactor  = 1.25
)

// histogram counts durations in buckets.
type histogram [histogramBuckets]int

func (h *histogram) add(d time.Duration) {
	bucket := 0
	if ms := float64(d) / float64(time.Millisecond); ms > 1 {
		bucket = min(int(math.Ceil(math.Log(ms)/math.Log(histogramFactor))), histogramBuckets-1)
	}
	h[bucket]++
}
