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

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/generated/clientset/versioned"
)

// finishedTasksSelector selects the tasks that nothing runs of any more.
const finishedTasksSelector = "status.phase!=Pending,status.phase!=Running"

// finishedTasks deletes finished tasks at the end of their time to live, and those whose deletion somebody began and did not see to
// its end. It is the store of its own reflector and keeps, of all the finished tasks there may be, only what has an end.
type finishedTasks struct {
	client versioned.Interface
	queue  queue

	mu   sync.Mutex
	ends map[cache.ObjectName]end
	// newest is the newest resourceVersion that was listed or watched, empty before the first list. What is newer has not been
	// counted as finished.
	newest string
}

// end is when a task is to be deleted, and what it was when that was found.
type end struct {
	at              time.Time
	uid             types.UID
	resourceVersion string
	// reason is the label of the metric that counts the deletion.
	reason string
}

func newFinishedTasks(client versioned.Interface) *finishedTasks {
	return &finishedTasks{client: client, queue: newQueue("leat_lifecycle_finished_tasks"), ends: map[cache.ObjectName]end{}}
}

// run works until ctx is done, and returns when all that it started has ended.
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
	for range parallelism {
		wg.Go(func() { f.queue.work(ctx, f.see) })
	}
	reflector.RunWithContext(ctx)
	f.queue.ShutDown()
	wg.Wait()
}

func (f *finishedTasks) see(ctx context.Context, name cache.ObjectName) (time.Duration, error) {
	f.mu.Lock()
	e, ok := f.ends[name]
	f.mu.Unlock()
	if !ok {
		return 0, nil
	}
	if left := time.Until(e.at); left > 0 {
		return left, nil
	}
	_, err := bounded(ctx, func(ctx context.Context) (any, error) {
		return nil, f.client.BatchV1alpha1().Tasks(name.Namespace).Delete(ctx, name.Name, metav1.DeleteOptions{
			GracePeriodSeconds: new(int64),
			// The task as it was judged: its time to live may have been changed.
			Preconditions: &metav1.Preconditions{UID: &e.uid, ResourceVersion: &e.resourceVersion},
		})
	})
	if err == nil {
		taskDeletions.WithLabelValues(e.reason).Inc()
	}
	return 0, ignoreNotFound(err)
}

// endOf is when a finished task is to be deleted. It is not ok if never. A task of a TaskSet has no time to live of its own: it is
// deleted by the set, which has to count it before.
func endOf(task *batch.Task, now time.Time) (at time.Time, ok bool) {
	if task.DeletionTimestamp != nil {
		if s := task.DeletionGracePeriodSeconds; s == nil || *s == 0 {
			return time.Time{}, false // it waits for somebody's finalizer
		}
		return task.DeletionTimestamp.Time, true
	}
	if task.Spec.TTLSecondsAfterFinished == nil || batch.ControllingTaskSet(task) != nil {
		return time.Time{}, false
	}
	// The worker's clock may be ahead of this one.
	finished := now
	if t := task.Status.CompletionTime; t != nil && t.Time.Before(now) {
		finished = t.Time
	}
	return finished.Add(batch.Seconds(int64(*task.Spec.TTLSecondsAfterFinished))), true
}

// Add implements cache.ReflectorStore. A task that begins to be watched has just finished.
func (f *finishedTasks) Add(obj any) error { return f.take(obj, true) }

// Update implements cache.ReflectorStore.
func (f *finishedTasks) Update(obj any) error { return f.take(obj, false) }

func (f *finishedTasks) take(obj any, finishes bool) error {
	task, ok := obj.(*batch.Task)
	if !ok {
		return fmt.Errorf("unexpected object %T among finished tasks", obj)
	}
	if finishes {
		meterFinished(task)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.newest = task.ResourceVersion
	f.set(task)
	return nil
}

func (f *finishedTasks) set(task *batch.Task) {
	name := cache.MetaObjectToName(task)
	at, ok := endOf(task, time.Now())
	if !ok {
		delete(f.ends, name)
		return
	}
	reason := deletionTimeToLive
	if task.DeletionTimestamp != nil {
		reason = deletionInterrupted
	}
	f.ends[name] = end{at: at, uid: task.UID, resourceVersion: task.ResourceVersion, reason: reason}
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
	delete(f.ends, cache.MetaObjectToName(task))
	return nil
}

// Replace implements cache.ReflectorStore. Tasks of the first list have finished before, while another led or nobody; of a later one
// those that are newer than the last event have finished while the watch was interrupted.
func (f *finishedTasks) Replace(list []any, resourceVersion string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ends = map[cache.ObjectName]end{}
	for _, obj := range list {
		task, ok := obj.(*batch.Task)
		if !ok {
			return fmt.Errorf("unexpected object %T among finished tasks", obj)
		}
		if f.newest != "" && newer(task.ResourceVersion, f.newest) {
			meterFinished(task)
		}
		f.set(task)
	}
	f.newest = resourceVersion
	return nil
}

func newer(a, b string) bool {
	order, err := resourceversion.CompareResourceVersion(a, b)
	return err == nil && order > 0
}

// Resync implements cache.ReflectorStore. There is nothing to do anew.
func (f *finishedTasks) Resync() error { return nil }

// Transformer implements cache.TransformingStore: what the reflector holds before it is handed over.
func (f *finishedTasks) Transformer() cache.TransformFunc {
	return func(obj any) (any, error) {
		if task, ok := obj.(*batch.Task); ok {
			task.ManagedFields = nil
			task.Spec = batch.TaskSpec{TTLSecondsAfterFinished: task.Spec.TTLSecondsAfterFinished}
			s := &task.Status
			terminated := s.State.Terminated
			if terminated != nil {
				terminated = &batch.TaskStateTerminated{Reason: terminated.Reason}
			}
			task.Status = batch.TaskStatus{
				Phase: s.Phase, Attempts: s.Attempts, Disruptions: s.Disruptions, StartTime: s.StartTime, CompletionTime: s.CompletionTime,
				State: batch.TaskState{Terminated: terminated},
			}
		}
		return obj, nil
	}
}
