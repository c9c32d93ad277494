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

package lifecycle

import (
	"context"
	"fmt"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/client/cachefields"
	"github.com/leat-dev/leat/pkg/client/request"
	"github.com/leat-dev/leat/pkg/controller/internal/reconcile"
	"github.com/leat-dev/leat/pkg/generated/clientset/versioned"
)

// finishedTasksSelector selects finished tasks.
const finishedTasksSelector = "status.phase!=Pending,status.phase!=Running"

// finishedTasks deletes finished tasks when their time to live is over, and completes graceful deletions of finished
// tasks. It is the store of its own reflector, so that of all finished tasks it keeps only those it will delete.
type finishedTasks struct {
	client versioned.Interface
	queue  reconcile.Queue[cache.ObjectName]

	mu        sync.Mutex
	deletions map[cache.ObjectName]deletion
	// newest is the newest resourceVersion that was listed or watched, empty before the first list. Tasks that are
	// newer are not yet recorded in the metrics.
	newest string
}

// deletion is a deletion that is due at a time, and the version of the task for which that was decided.
type deletion struct {
	at              time.Time
	uid             types.UID
	resourceVersion string
	// reason is the value of the label reason in leat_lifecycle_task_deletions_total.
	reason string
}

func newFinishedTasks(client versioned.Interface) *finishedTasks {
	return &finishedTasks{client: client, queue: reconcile.NewQueue[cache.ObjectName]("leat_lifecycle_finished_tasks"), deletions: map[cache.ObjectName]deletion{}}
}

// run deletes tasks until ctx is done, and returns when all of its goroutines have.
func (f *finishedTasks) run(ctx context.Context) {
	tasks := f.client.BatchV1alpha1().Tasks(metav1.NamespaceAll)
	reflector := cache.NewReflectorWithOptions(cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.FieldSelector = finishedTasksSelector
			return tasks.List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.FieldSelector = finishedTasksSelector
			return tasks.Watch(ctx, o)
		},
	}, f.client), &batch.Task{}, f, cache.ReflectorOptions{Name: "finished tasks"})
	var wg sync.WaitGroup
	for range concurrentSyncs {
		wg.Go(func() { f.queue.Work(ctx, f.sync) })
	}
	reflector.RunWithContext(ctx)
	f.queue.ShutDown()
	wg.Wait()
}

// sync deletes a task if its deletion is due.
func (f *finishedTasks) sync(ctx context.Context, name cache.ObjectName) (time.Duration, error) {
	f.mu.Lock()
	d, ok := f.deletions[name]
	f.mu.Unlock()
	if !ok {
		return 0, nil
	}
	if left := time.Until(d.at); left > 0 {
		return left, nil
	}
	_, err := request.Do(ctx, func(ctx context.Context) (any, error) {
		return nil, f.client.BatchV1alpha1().Tasks(name.Namespace).Delete(ctx, name.Name, metav1.DeleteOptions{
			GracePeriodSeconds: new(int64),
			// The time to live may have changed since it was evaluated.
			Preconditions: &metav1.Preconditions{UID: &d.uid, ResourceVersion: &d.resourceVersion},
		})
	})
	if err == nil {
		taskDeletions.WithLabelValues(d.reason).Inc()
	}
	return 0, client.IgnoreNotFound(err)
}

// deletionTime returns when to delete a finished task. It reports false if the task is not to be deleted. The time to
// live of a task of a TaskSet is ignored: the TaskSet controller deletes the task after counting it.
func deletionTime(task *batch.Task, now time.Time) (at time.Time, ok bool) {
	if task.DeletionTimestamp != nil {
		if s := task.DeletionGracePeriodSeconds; s == nil || *s == 0 {
			return time.Time{}, false // The task waits for a finalizer.
		}
		return task.DeletionTimestamp.Time, true
	}
	if task.Spec.TTLSecondsAfterFinished == nil || batch.ControllingTaskSet(task) != nil {
		return time.Time{}, false
	}
	// The worker's clock may be ahead of ours.
	finished := now
	if t := task.Status.CompletionTime; t != nil && t.Time.Before(now) {
		finished = t.Time
	}
	return finished.Add(batch.Seconds(int64(*task.Spec.TTLSecondsAfterFinished))), true
}

// Add implements cache.ReflectorStore. A task that starts to match the selector has just finished.
func (f *finishedTasks) Add(obj any) error { return f.observe(obj, true) }

// Update implements cache.ReflectorStore.
func (f *finishedTasks) Update(obj any) error { return f.observe(obj, false) }

// observe records a finished task. justFinished reports whether it has finished since the last event.
func (f *finishedTasks) observe(obj any, justFinished bool) error {
	task, ok := obj.(*batch.Task)
	if !ok {
		return fmt.Errorf("unexpected object %T among finished tasks", obj)
	}
	if justFinished {
		recordFinished(task)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.newest = task.ResourceVersion
	f.schedule(task)
	return nil
}

// schedule records when to delete a task. The caller must hold f.mu.
func (f *finishedTasks) schedule(task *batch.Task) {
	name := cache.MetaObjectToName(task)
	at, ok := deletionTime(task, time.Now())
	if !ok {
		delete(f.deletions, name)
		return
	}
	reason := deletionTimeToLive
	if task.DeletionTimestamp != nil {
		reason = deletionInterrupted
	}
	f.deletions[name] = deletion{at: at, uid: task.UID, resourceVersion: task.ResourceVersion, reason: reason}
	f.queue.Add(name)
}

// Delete implements cache.ReflectorStore.
func (f *finishedTasks) Delete(obj any) error {
	task, ok := obj.(*batch.Task)
	if !ok {
		return fmt.Errorf("unexpected object %T among finished tasks", obj)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.newest = task.ResourceVersion
	delete(f.deletions, cache.MetaObjectToName(task))
	return nil
}

// Replace implements cache.ReflectorStore. The tasks of the first list finished before this process became the leader.
// In a later list, tasks that are newer than the last event finished while the watch was interrupted.
func (f *finishedTasks) Replace(list []any, resourceVersion string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.deletions = map[cache.ObjectName]deletion{}
	for _, obj := range list {
		task, ok := obj.(*batch.Task)
		if !ok {
			return fmt.Errorf("unexpected object %T among finished tasks", obj)
		}
		if f.newest != "" && newer(task.ResourceVersion, f.newest) {
			recordFinished(task)
		}
		f.schedule(task)
	}
	f.newest = resourceVersion
	return nil
}

// newer reports whether resourceVersion a is newer than b.
func newer(a, b string) bool {
	order, err := resourceversion.CompareResourceVersion(a, b)
	return err == nil && order > 0
}

// Resync implements cache.ReflectorStore. It does nothing.
func (f *finishedTasks) Resync() error { return nil }

// Transformer implements cache.TransformingStore.
func (f *finishedTasks) Transformer() cache.TransformFunc { return cachefields.FinishedTask }
