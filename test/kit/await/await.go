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

// Package await waits for conditions and for time to pass.
package await

import (
	"context"
	"errors"
	"time"
)

// ErrNotYet is the error of a condition that does not hold yet and has no details.
var ErrNotYet = errors.New("not yet")

// interval is the time between two calls of a condition.
const interval = 100 * time.Millisecond

// Until calls condition until it returns nil. It returns the last error of condition when the timeout has passed or ctx
// ends.
func Until(ctx context.Context, timeout time.Duration, condition func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	last := ErrNotYet
	for {
		if err := condition(ctx); err == nil {
			return nil
		} else if ctx.Err() == nil {
			last = err
		}
		if !Pause(ctx, interval) {
			return last
		}
	}
}

// Pause waits until d has passed or ctx ends. It reports whether d has passed.
func Pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
