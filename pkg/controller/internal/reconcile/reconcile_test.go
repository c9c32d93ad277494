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

package reconcile

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func TestQueueRequeues(t *testing.T) {
	results := []struct {
		requeueAfter time.Duration
		err          error
	}{
		{err: errors.New("failed")},
		{err: apierrors.NewConflict(schema.GroupResource{}, "a", nil)},
		{requeueAfter: time.Minute},
		{err: errors.New("failed")},
		{},
	}
	// The backoff doubles until a sync succeeds.
	want := []time.Duration{0, 50 * time.Millisecond, 150 * time.Millisecond, 60_150 * time.Millisecond, 60_200 * time.Millisecond}
	synctest.Test(t, func(t *testing.T) {
		queue, start := NewQueue[string](""), time.Now()
		var got []time.Duration
		done := make(chan struct{})
		go func() {
			defer close(done)
			queue.Work(t.Context(), func(_ context.Context, key string) (time.Duration, error) {
				if key != "a" {
					t.Errorf("the key is %q", key)
				}
				result := results[len(got)]
				got = append(got, time.Since(start))
				return result.requeueAfter, result.err
			})
		}()
		queue.Add("a")
		<-time.After(time.Hour)
		queue.ShutDown()
		<-done
		if !slices.Equal(got, want) {
			t.Errorf("synced after %v, want %v", got, want)
		}
	})
}

func TestPeriodically(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		start := time.Now()
		var got []time.Duration
		Periodically(ctx, time.Second, func(context.Context) time.Duration {
			if got = append(got, time.Since(start)); len(got) == 3 {
				cancel()
			}
			return time.Minute
		})
		if want := []time.Duration{time.Second, 61 * time.Second, 121 * time.Second}; !slices.Equal(got, want) {
			t.Errorf("synced after %v, want %v", got, want)
		}
	})
}
