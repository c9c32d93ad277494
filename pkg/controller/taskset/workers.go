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

package taskset

import (
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/api/meta"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// workers knows which ready workers do not support chunks, by namespace and name. A set gets no chunks while there is
// one in its namespace, because that worker would have nothing to do. The zero value is empty and safe for concurrent
// use.
type workers struct {
	mu            sync.Mutex
	withoutChunks map[string]map[string]struct{}
}

// observe records a worker that was added, updated or deleted.
func (w *workers) observe(worker *batch.Worker, deleted bool) {
	lacks := !deleted && meta.IsStatusConditionTrue(worker.Status.Conditions, batch.WorkerReady) &&
		!slices.Contains(worker.Status.WorkerInfo.Features, batch.WorkerFeatureChunks)
	w.mu.Lock()
	defer w.mu.Unlock()
	names := w.withoutChunks[worker.Namespace]
	switch {
	case !lacks:
		if delete(names, worker.Name); len(names) == 0 {
			delete(w.withoutChunks, worker.Namespace)
		}
	case names == nil:
		if w.withoutChunks == nil {
			w.withoutChunks = map[string]map[string]struct{}{}
		}
		w.withoutChunks[worker.Namespace] = map[string]struct{}{worker.Name: {}}
	default:
		names[worker.Name] = struct{}{}
	}
}

// supportChunks reports whether all ready workers of a namespace support chunks.
func (w *workers) supportChunks(namespace string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.withoutChunks[namespace]) == 0
}
