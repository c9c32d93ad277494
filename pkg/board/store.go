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
	"context"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/cli/progress"
	"github.com/leat-dev/leat/pkg/cli/taskstate"
	"github.com/leat-dev/leat/pkg/client/cachefields"
	"github.com/leat-dev/leat/pkg/generated/clientset/versioned"
	informers "github.com/leat-dev/leat/pkg/generated/informers/externalversions/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/generated/informers/externalversions/internalinterfaces"
)

// store holds the objects that are shown, and what is counted of their changes.
type store struct {
	connection *connection
	tasks      informers.TaskIndexInformer // unfinished ones
	queues     informers.TaskQueueIndexInformer
	workers    informers.WorkerIndexInformer
	sets       informers.TaskSetIndexInformer
	synced     []cache.InformerSynced
	// version increases with each change of an object.
	version atomic.Int64

	mu sync.Mutex
	// ended is the number of tasks without a set, and of indexes of sets, that have ended since the start.
	ended int
	// latencies counts the starts of commands by the time from the creation of their task.
	latencies histogram
	starts    map[types.UID]*started
	estimates map[types.UID]*progress.Estimate // of unfinished sets
}

// started has the times of a task that was created while the page is served, and that has not been seen to run.
type started struct {
	created, assigned time.Time
}

// byTaskSet is the index of tasks by the UID of their set.
const byTaskSet = "taskSet"

func newStore(config *rest.Config, namespace string) (*store, error) {
	s := &store{connection: &connection{}, starts: map[types.UID]*started{}, estimates: map[types.UID]*progress.Estimate{}}
	config = rest.CopyConfig(config)
	config.ContentType = runtime.ContentTypeProtobuf
	config.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		s.connection.next = next
		return s.connection
	})
	client, err := versioned.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	return s, s.watch(client, namespace)
}

// watch creates the informers.
func (s *store) watch(client versioned.Interface, namespace string) error {
	s.tasks = informers.NewTypedTaskInformerWithOptions(client, namespace, internalinterfaces.InformerOptions{
		TweakListOptions: func(o *metav1.ListOptions) { o.FieldSelector = taskstate.Unfinished },
		Indexers: cache.Indexers{byTaskSet: func(obj any) ([]string, error) {
			if uid := obj.(*batch.Task).Labels[batch.LabelControllerUID]; uid != "" {
				return []string{uid}, nil
			}
			return nil, nil
		}},
	})
	s.queues = informers.NewTypedTaskQueueInformer(client, namespace, 0, nil)
	s.workers = informers.NewTypedWorkerInformer(client, namespace, 0, nil)
	s.sets = informers.NewTypedTaskSetInformer(client, namespace, 0, nil)
	for _, err := range []error{
		s.tasks.SetTransform(cachefields.BoardTask), s.sets.SetTransform(trimSet),
		s.queues.SetTransform(cachefields.WithoutManagedFields), s.workers.SetTransform(trimWorker),
	} {
		if err != nil {
			return err
		}
	}
	tasks, err := s.tasks.AddTypedEventHandler(informers.TaskDetailedHandlerFuncs{
		AddFunc: s.taskAdded, UpdateFunc: func(_, task *batch.Task) { s.taskUpdated(task) }, DeleteFunc: s.taskEnded,
	})
	if err != nil {
		return err
	}
	sets, err := s.sets.AddTypedEventHandler(informers.TaskSetHandlerFuncs{
		AddFunc: s.setAdded, UpdateFunc: s.setUpdated, DeleteFunc: s.setDeleted,
	})
	if err != nil {
		return err
	}
	changed := cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { s.version.Add(1) }, UpdateFunc: func(_, _ any) { s.version.Add(1) }, DeleteFunc: func(any) { s.version.Add(1) },
	}
	queues, err := s.queues.AddEventHandler(changed)
	if err != nil {
		return err
	}
	workers, err := s.workers.AddEventHandler(changed)
	if err != nil {
		return err
	}
	s.synced = []cache.InformerSynced{tasks.HasSynced, sets.HasSynced, queues.HasSynced, workers.HasSynced}
	return nil
}

// trimSet removes from a set what is not shown and may be large. Items are kept: of a set without other numbers they
// may be the numbers of its indexes.
func trimSet(obj any) (any, error) {
	if set, ok := obj.(*batch.TaskSet); ok {
		set.ManagedFields = nil
		if taskstate.Numbers(set) == nil {
			set.Spec.Items = nil
		}
	}
	return obj, nil
}

// trimWorker removes from a worker what is not shown and may be large.
func trimWorker(obj any) (any, error) {
	if worker, ok := obj.(*batch.Worker); ok {
		worker.ManagedFields, worker.Status.Endpoint, worker.Status.Unarchived = nil, nil, nil
	}
	return obj, nil
}

// run runs the informers until ctx ends.
func (s *store) run(ctx context.Context) {
	var running sync.WaitGroup
	for _, run := range []func(context.Context){s.tasks.RunWithContext, s.queues.RunWithContext, s.workers.RunWithContext, s.sets.RunWithContext} {
		running.Go(func() { run(ctx) })
	}
	running.Wait()
}

// hasSynced reports whether all objects have been read.
func (s *store) hasSynced() bool {
	for _, synced := range s.synced {
		if !synced() {
			return false
		}
	}
	return true
}

func (s *store) taskAdded(task *batch.Task, isInInitialList bool) {
	s.version.Add(1)
	if isInInitialList {
		return
	}
	s.mu.Lock()
	s.starts[task.UID] = &started{created: time.Now()}
	s.mu.Unlock()
	s.taskUpdated(task)
}

func (s *store) taskUpdated(task *batch.Task) {
	s.version.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	start := s.starts[task.UID]
	switch {
	case start == nil:
	case task.Status.State.Running != nil:
		s.latencies.add(time.Since(start.created))
		delete(s.starts, task.UID)
	case task.Spec.WorkerName != "" && start.assigned.IsZero():
		start.assigned = time.Now()
	case task.Spec.WorkerName == "":
		start.assigned = time.Time{}
	}
}

// taskEnded counts a task that has finished or was deleted: neither matches the field selector. Of a task that was
// never seen to run, its assignment to the worker stands for the start.
func (s *store) taskEnded(deleted informers.DeletedTask) {
	s.version.Add(1)
	task := deleted.OptionalObj
	if task == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if start := s.starts[task.UID]; start != nil {
		if !start.assigned.IsZero() {
			s.latencies.add(start.assigned.Sub(start.created))
		}
		delete(s.starts, task.UID)
	}
	if task.Spec.WorkerName != "" && task.Labels[batch.LabelControllerUID] == "" {
		s.ended++
	}
}

func (s *store) setAdded(set *batch.TaskSet) {
	s.version.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.estimate(set)
}

func (s *store) setUpdated(before, after *batch.TaskSet) {
	s.version.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := after.Status.Succeeded + after.Status.Failed - before.Status.Succeeded - before.Status.Failed; n > 0 && before.UID == after.UID {
		s.ended += int(n)
	}
	s.estimate(after)
}

func (s *store) setDeleted(deleted cache.DeletedObject[*batch.TaskSet]) {
	s.version.Add(1)
	if deleted.OptionalObj == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.estimates, deleted.OptionalObj.UID)
}

// estimate records the progress of an unfinished set. The caller holds mu.
func (s *store) estimate(set *batch.TaskSet) {
	if taskstate.Finished(set) != nil {
		delete(s.estimates, set.UID)
		return
	}
	estimate := s.estimates[set.UID]
	if estimate == nil {
		estimate = &progress.Estimate{}
		s.estimates[set.UID] = estimate
	}
	estimate.Add(time.Now(), taskstate.Progress(set))
}

// rateOf returns the recent rate of a set, and the seconds that the rest of it takes, -1 if they are not known.
func (s *store) rateOf(set *batch.TaskSet) (perSecond, left float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	estimate, now := s.estimates[set.UID], time.Now()
	if estimate == nil {
		return 0, -1
	}
	left = -1
	if rest, known := estimate.Left(now, taskstate.Progress(set)); known {
		left = rest.Seconds()
	}
	return estimate.Rate(now), left
}

// tasksOf returns the unfinished tasks of a set.
func (s *store) tasksOf(set *batch.TaskSet) []*batch.Task {
	tasks, err := s.tasks.GetTypedIndexer().ByTypedIndex(byTaskSet, string(set.UID))
	if err != nil {
		panic(err) // the index exists
	}
	return tasks
}
