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
	"github.com/leat-dev/leat/pkg/controller/taskset/state"
)

// workers knows the ready workers of each namespace. The zero value is empty and safe for concurrent use.
type workers struct {
	mu         sync.Mutex
	namespaces map[string]*readyWorkers
}

// readyWorkers are the ready workers of a namespace.
type readyWorkers struct {
	byName map[string]readyWorker
	// slots is the number of tasks that they run at a time, together.
	slots int64
	// withoutChunks is the number of workers that do not support chunks.
	withoutChunks int
}

// readyWorker is a worker that is ready.
type readyWorker struct {
	slots          int64
	supportsChunks bool
}

// observe records a worker that was added, updated or deleted.
func (w *workers) observe(worker *batch.Worker, deleted bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	ready := w.namespaces[worker.Namespace]
	if ready == nil {
		ready = &readyWorkers{byName: map[string]readyWorker{}}
		if w.namespaces == nil {
			w.namespaces = map[string]*readyWorkers{}
		}
		w.namespaces[worker.Namespace] = ready
	}
	ready.remove(worker.Name)
	if !deleted && meta.IsStatusConditionTrue(worker.Status.Conditions, batch.WorkerReady) {
		tasks := worker.Status.Allocatable[batch.ResourceTasks]
		ready.add(worker.Name, readyWorker{
			slots:          tasks.Value(),
			supportsChunks: slices.Contains(worker.Status.WorkerInfo.Features, batch.WorkerFeatureChunks),
		})
	}
	if len(ready.byName) == 0 {
		delete(w.namespaces, worker.Namespace)
	}
}

func (r *readyWorkers) add(name string, worker readyWorker) {
	r.byName[name] = worker
	r.slots += worker.slots
	if !worker.supportsChunks {
		r.withoutChunks++
	}
}

func (r *readyWorkers) remove(name string) {
	worker, ok := r.byName[name]
	if !ok {
		return
	}
	delete(r.byName, name)
	r.slots -= worker.slots
	if !worker.supportsChunks {
		r.withoutChunks--
	}
}

// chunkLimits returns the limits of chunks in a namespace. There are no chunks while a ready worker does not support
// them, because that worker would have nothing to do.
func (w *workers) chunkLimits(namespace string, maxIndexes int) state.ChunkLimits {
	w.mu.Lock()
	defer w.mu.Unlock()
	ready := w.namespaces[namespace]
	switch {
	case ready == nil:
		return state.ChunkLimits{MaxIndexes: maxIndexes}
	case ready.withoutChunks > 0:
		return state.ChunkLimits{MaxIndexes: 1}
	}
	return state.ChunkLimits{MaxIndexes: maxIndexes, Slots: int(ready.slots)}
}
