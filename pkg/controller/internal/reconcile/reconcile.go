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
// Package reconcile is what the controllers share: each syncs one object at a time, by a function that returns when to
// sync the object again, and retries with backoff after an error.
package reconcile

import (
	"context"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"
)

// MinRetryDelay and MaxRetryDelay bound the delay after a failed sync.
const MinRetryDelay, MaxRetryDelay = 50 * time.Millisecond, 30 * time.Second

// Func syncs the object with that key. It returns the time after which to sync the object again even if nothing
// changes, zero for never.
type Func[K comparable] func(ctx context.Context, key K) (requeueAfter time.Duration, err error)

// NewRateLimiter returns the backoff after failed syncs.
func NewRateLimiter[K comparable]() workqueue.TypedRateLimiter[K] {
	return workqueue.NewTypedItemExponentialFailureRateLimiter[K](MinRetryDelay, MaxRetryDelay)
}

// Queue is a work queue of the keys to sync.
type Queue[K comparable] struct {
	workqueue.TypedRateLimitingInterface[K]
}

// NewQueue returns a Queue. The name is a label of its metrics.
func NewQueue[K comparable](name string) Queue[K] {
	return Queue[K]{workqueue.NewTypedRateLimitingQueueWithConfig(NewRateLimiter[K](), workqueue.TypedRateLimitingQueueConfig[K]{Name: name})}
}

// Work calls sync for each key in the queue until the queue is shut down. It may be called concurrently.
func (q Queue[K]) Work(ctx context.Context, sync Func[K]) {
	for {
		key, shutdown := q.Get()
		if shutdown {
			return
		}
		switch requeueAfter, err := sync(ctx, key); {
		case err != nil:
			if !apierrors.IsConflict(err) && ctx.Err() == nil {
				klog.FromContext(ctx).Error(err, "Failed to sync, will retry", "object", key)
			}
			q.AddRateLimited(key)
		default:
			q.Forget(key)
			if requeueAfter > 0 {
				q.AddAfter(key, requeueAfter)
			}
		}
		q.Done(key)
	}
}

// Periodically calls sync after the initial delay, and then each time after the delay that sync has returned, until ctx
// is done. It is for controllers that sync a single object.
func Periodically(ctx context.Context, initialDelay time.Duration, sync func(context.Context) (requeueAfter time.Duration)) {
	for delay := initialDelay; Sleep(ctx, delay); {
		delay = sync(ctx)
	}
}

// Sleep waits for d and reports whether it has passed before ctx was done.
func Sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}
