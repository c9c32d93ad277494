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

package v1alpha1

import (
	"math"
	"testing"
	"time"
)

func TestSeconds(t *testing.T) {
	const most = math.MaxInt32 * time.Second
	for n, want := range map[int64]time.Duration{
		0: 0, 1: time.Second, -1: -time.Second,
		math.MaxInt32: most, math.MaxInt32 + 1: most, 9_223_372_036: most, 9_223_372_037: most, math.MaxInt64: most,
		-math.MaxInt32: -most, math.MinInt64: -most,
	} {
		if got := Seconds(n); got != want {
			t.Errorf("Seconds(%d) = %s, want %s", n, got, want)
		}
	}
}
