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
	"context"
	"fmt"
	"strconv"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/controller/taskset/state"
	"github.com/leat-dev/leat/pkg/generated/clientset/versioned"
	typed "github.com/leat-dev/leat/pkg/generated/clientset/versioned/typed/batch/v1alpha1"
)

// instant is a client whose requests succeed immediately. It records the created tasks, the UIDs of deleted tasks and
// the set.
type instant struct {
	versioned.Interface
	typed.BatchV1alpha1Interface
	set     *batch.TaskSet
	version int
	created []*batch.Task
	deleted []string
}

func (i *instant) BatchV1alpha1() typed.BatchV1alpha1Interface { return i }
func (i *instant) Tasks(string) typed.TaskInterface            { return instantTasks{api: i} }
func (i *instant) TaskSets(string) typed.TaskSetInterface      { return instantSets{api: i} }

type instantTasks struct {
	typed.TaskInterface
	api *instant
}

func (t instantTasks) Create(_ context.Context, task *batch.Task, _ metav1.CreateOptions) (*batch.Task, error) {
	t.api.version++
	task.UID = types.UID(strconv.Itoa(t.api.version))
	t.api.created = append(t.api.created, task)
	return task, nil
}

func (t instantTasks) Delete(_ context.Context, name string, options metav1.DeleteOptions) error {
	t.api.deleted = append(t.api.deleted, string(*options.Preconditions.UID))
	return nil
}

type instantSets struct {
	typed.TaskSetInterface
	api *instant
}

func (s instantSets) Get(context.Context, string, metav1.GetOptions) (*batch.TaskSet, error) {
	return s.api.set, nil
}

func (s instantSets) UpdateStatus(_ context.Context, set *batch.TaskSet, _ metav1.UpdateOptions) (*batch.TaskSet, error) {
	s.api.version++
	set.ResourceVersion = strconv.Itoa(s.api.version)
	s.api.set = set
	return set, nil
}

// BenchmarkReconcile finishes one task and syncs its set in each iteration. The clock advances by three milliseconds
// each time, so about one in 333 syncs writes the status. The cost must not grow with the completions, and hardly with
// the parallelism.
func BenchmarkReconcile(b *testing.B) {
	for _, size := range []struct{ completions, parallelism int32 }{{1_000, 100}, {100_000, 100}, {100_000, 10_000}} {
		b.Run(fmt.Sprintf("completions=%d/parallelism=%d", size.completions, size.parallelism), func(b *testing.B) {
			api := &instant{}
			w := &world{now: time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)}
			c := New(Options{Client: api})
			c.clock, c.slots = w, make(chan struct{}, 1)
			restart := func() {
				api.version++
				api.set = &batch.TaskSet{
					ObjectMeta: metav1.ObjectMeta{Namespace: testNamespace, Name: testSet, UID: types.UID(strconv.Itoa(api.version)), ResourceVersion: strconv.Itoa(api.version)},
					Spec: batch.TaskSetSpec{
						Completions: ptr.To(size.completions), Parallelism: ptr.To(size.parallelism), CompletionMode: ptr.To(batch.IndexedCompletion),
						Chunking: &batch.TaskSetChunking{MaxIndexes: ptr.To[int32](1)},
					},
				}
				api.set.Spec.Template.Spec.Command = []string{"true"}
				c.store = state.NewStore(state.ExponentialBackoff{}, func(time.Duration) {})
				c.ObserveSet(api.set, false)
				api.created = nil
			}
			sync := func() {
				if _, err := c.Reconcile(b.Context(), testKey); err != nil {
					b.Fatal(err)
				}
				for _, uid := range api.deleted {
					task := &batch.Task{ObjectMeta: metav1.ObjectMeta{Namespace: testNamespace, UID: types.UID(uid)}}
					task.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(api.set, kind)}
					c.ObserveTask(task, nil)
				}
				api.deleted = api.deleted[:0]
			}
			restart()
			for len(api.created) < int(size.parallelism) {
				sync()
			}
			b.ReportAllocs()
			b.ResetTimer()
			for b.Loop() {
				if len(api.created) == 0 {
					b.StopTimer()
					restart()
					for len(api.created) < int(size.parallelism) {
						sync()
					}
					b.StartTimer()
				}
				task := *api.created[0]
				api.created = api.created[1:]
				task.Status.Phase = batch.TaskSucceeded
				task.Status.CompletionTime = &metav1.Time{Time: w.now}
				w.now = w.now.Add(3 * time.Millisecond)
				c.ObserveTask(nil, &task)
				sync()
			}
		})
	}
}
