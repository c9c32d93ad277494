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

package state

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/leat-dev/leat/apis/batch/indexes"
	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// FuzzTaskSet applies arbitrary events to the state of a set. After each event the invariants must hold, and the counts
// must be those of a model that keeps no state but what is counted.
func FuzzTaskSet(f *testing.F) {
	for seed := range uint64(200) {
		random := rand.New(rand.NewPCG(seed, 5))
		data := make([]byte, 60+random.IntN(600))
		for i := range data {
			data[i] = byte(random.IntN(256))
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		w := newSimulation(t, data)
		for len(w.data) > 0 {
			event := w.step()
			w.check(event)
		}
	})
}

// simulation applies events to a state and to the model.
type simulation struct {
	*testing.T
	data  []byte
	now   time.Time
	set   *batch.TaskSet
	state *TaskSet
	model model
	// tasks are the tasks that exist on the server, by UID.
	tasks   map[types.UID]*batch.Task
	version int
}

// model counts tasks by the rules of the documentation.
type model struct {
	counts
	// stored are the counts in the stored status.
	stored counts
	// finished are the tasks that were observed to have finished and are not counted yet.
	finished map[types.UID]*modelTask
	// seen are the tasks that were counted, or that finished since the state was loaded.
	seen map[types.UID]bool
	// deletionRequested are the tasks whose deletion the controller has requested.
	deletionRequested map[types.UID]bool
}

type counts struct {
	completed, failedIndexes map[int]bool
	failures                 map[int]int
	failed                   int
}

type modelTask struct {
	index, failureCount int
	task                *batch.Task
	at                  time.Time
}

func (c counts) clone() counts {
	return counts{maps.Clone(c.completed), maps.Clone(c.failedIndexes), maps.Clone(c.failures), c.failed}
}

const ignoredExitCode = 7

func newSimulation(t *testing.T, data []byte) *simulation {
	s := &simulation{
		T: t, data: data, now: time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC), set: &batch.TaskSet{}, tasks: map[types.UID]*batch.Task{},
		state: newTaskSet("set", ExponentialBackoff{10 * time.Second, 10 * time.Minute}),
	}
	s.set.Spec.Completions = ptr.To(int32(1 + s.next(12)))
	if s.next(2) == 0 {
		s.set.Spec.BackoffLimitPerIndex = ptr.To(int32(s.next(3)))
	}
	s.set.Spec.TaskFailurePolicy = &batch.TaskFailurePolicy{Rules: []batch.TaskFailurePolicyRule{{
		Action:      batch.TaskFailurePolicyActionIgnore,
		OnExitCodes: &batch.TaskFailurePolicyOnExitCodesRequirement{Operator: batch.TaskFailurePolicyOnExitCodesOpIn, Values: []int32{ignoredExitCode}},
	}}}
	s.model.counts = counts{map[int]bool{}, map[int]bool{}, map[int]int{}, 0}
	s.model.stored, s.model.deletionRequested = s.model.counts.clone(), map[types.UID]bool{}
	if s.next(2) == 0 {
		s.set.Status.MedianMilliseconds = 10
	}
	s.load()
	return s
}

// next returns a number below n.
func (s *simulation) next(n int) int {
	if len(s.data) == 0 {
		return 0
	}
	b := s.data[0]
	s.data = s.data[1:]
	return int(b) % n
}

// step applies one event and returns what it was.
func (s *simulation) step() string {
	switch s.next(17) {
	case 0, 1:
		for _, task := range s.state.Reserve(1+s.next(4), ChunkLimits{MaxIndexes: 1 + s.next(6)}) {
			switch s.next(16) {
			case 0:
				s.state.NotRequested(task)
				continue
			case 1:
				s.state.CreationFailed(task)
				continue
			}
			created := s.newTask(task.Indexes[0].First, task.FailureCount)
			if indexes.Count(task.Indexes) > 1 {
				created = s.newChunk(task.Indexes)
			}
			s.state.ObserveCreated(created, s.now)
			s.observed(created)
		}
		return "create"
	case 2:
		if s.next(3) == 0 {
			first := s.next(10)
			s.put(s.newChunk([]indexes.Range{{First: first, Last: first + s.next(3)}, {First: first + 4, Last: first + 4 + s.next(3)}}))
		} else {
			s.put(s.newTask(s.next(14)-1, s.next(3)))
		}
		return "a user creates a task"
	case 3, 4:
		if task := s.unfinished(); task != nil {
			task.Spec.WorkerName, task.Status.Phase = "worker", batch.TaskRunning
			s.progress(task)
			s.put(task)
		}
		return "start"
	case 5, 6, 7:
		if task := s.unfinished(); task != nil {
			s.finish(task)
		}
		return "finish"
	case 13:
		if task := s.unfinished(); task != nil && task.Spec.WorkerName != "" {
			// An eviction.
			task.Spec.WorkerName, task.Status.Phase = "", batch.TaskPending
			task.Status.WorkerCrashes += int32(s.next(2))
			if task.Spec.Indexes != "" {
				task.Status.IndexLimit = ptr.To(task.Status.CompletedCount + 1)
			}
			s.put(task)
		}
		return "evict"
	case 8:
		if task := s.any(); task != nil && s.next(2) == 0 {
			task.DeletionTimestamp = &metav1.Time{Time: s.now}
			s.put(task)
		} else if task != nil {
			delete(s.tasks, task.UID)
			s.state.Observe(task.UID, nil)
		}
		return "delete"
	case 9:
		s.state.CountFinished(s.now)
		s.countModel()
		return "count"
	case 10:
		s.store()
		return "store"
	case 11:
		toDelete, _ := s.state.TasksToDelete(1 + s.next(4))
		toStop, _ := s.state.TasksToStop(s.now)
		for _, t := range append(slices.Clone(toDelete), toStop...) {
			if t.NeedsDeletion() && s.next(4) > 0 {
				s.state.DeletionRequested(t, s.now)
				s.model.deletionRequested[t.UID] = true
			}
		}
		return "request deletions"
	case 12:
		s.now = s.now.Add(time.Duration(s.next(256)) * time.Second)
		s.state.EndBackoffs(s.now)
		return "time passes"
	case 15:
		s.follow()
		return "follow"
	case 16:
		if s.set.Spec.BackoffLimitPerIndex != nil {
			s.cancelIndexes()
		}
		return "cancel an index"
	}
	if s.next(2) == 0 {
		s.set.Spec.Completions = ptr.To(int32(1 + s.next(12)))
	}
	s.load()
	return "load"
}

// follow limits the indexes that may start by another set, or lifts the limit.
func (s *simulation) follow() {
	if s.next(3) == 0 {
		s.state.Follow(nil, nil)
		return
	}
	first := s.next(8)
	s.state.Follow([]*batch.TaskSet{{}}, [][]indexes.Range{{{First: first, Last: first + s.next(4)}, {First: first + 5, Last: first + 5 + s.next(4)}}})
}

// cancelIndexes adds an index to spec.cancelledIndexes. Those that are past the end are not done by that.
func (s *simulation) cancelIndexes() {
	before, err := indexes.Parse(s.set.Spec.CancelledIndexes, maxIndex)
	if err != nil {
		s.Fatal(err)
	}
	index := s.next(12)
	cancelled := indexes.Union(before, []indexes.Range{{First: index, Last: index}})
	s.set.Spec.CancelledIndexes = indexes.Format(cancelled)
	if err := s.state.CancelIndexes(&s.set.Spec); err != nil {
		s.Fatal(err)
	}
	for i := range s.end() {
		if indexes.Contains(cancelled, i) && !s.model.completed[i] {
			s.model.failedIndexes[i] = true
			delete(s.model.failures, i)
		}
	}
}

// load loads the state and the model from the stored status.
func (s *simulation) load() {
	if err := s.state.Load(s.set); err != nil {
		s.Fatal(err)
	}
	s.model.counts = s.model.stored.clone()
	beyond := func(index int, _ bool) bool { return index >= s.end() }
	maps.DeleteFunc(s.model.completed, beyond)
	maps.DeleteFunc(s.model.failedIndexes, beyond)
	maps.DeleteFunc(s.model.failures, func(index, _ int) bool { return index >= s.end() })
	s.model.finished, s.model.seen = map[types.UID]*modelTask{}, map[types.UID]bool{}
	for _, task := range s.tasks {
		s.completed(task)
	}
	for _, task := range s.tasks {
		s.observed(task)
	}
}

// store stores the status.
func (s *simulation) store() {
	s.state.FillCounters(&s.set.Status)
	s.state.FillIndexes(&s.set.Status)
	s.state.StatusStored()
	s.model.stored = s.model.counts.clone()
}

func (s *simulation) end() int { return int(*s.set.Spec.Completions) }

func (s *simulation) newTask(index, failureCount int) *batch.Task {
	s.version++
	task := &batch.Task{}
	task.UID = types.UID(fmt.Sprintf("task-%04d", s.version))
	task.Name, task.CreationTimestamp = string(task.UID), metav1.Time{Time: s.now}
	task.Status.Phase = batch.TaskPending
	if index >= 0 {
		task.Labels = map[string]string{batch.LabelCompletionIndex: strconv.Itoa(index)}
	}
	task.Annotations = map[string]string{batch.AnnotationIndexFailureCount: strconv.Itoa(failureCount)}
	s.tasks[task.UID] = task
	return task
}

// newChunk returns a task with several indexes.
func (s *simulation) newChunk(ranges []indexes.Range) *batch.Task {
	task := s.newTask(-1, 0)
	task.Spec.Indexes = indexes.Format(ranges)
	return task
}

// progress completes indexes of a chunk, but not the last one, and may release indexes.
func (s *simulation) progress(task *batch.Task) {
	if task.Spec.Indexes == "" {
		return
	}
	status := &task.Status
	count := ptr.Deref(status.IndexLimit, int32(indexes.Count(task.IndexRanges())))
	status.CompletedCount += int32(s.next(int(count - status.CompletedCount)))
	if s.next(3) == 0 {
		status.IndexLimit = ptr.To(status.CompletedCount + 1 + int32(s.next(int(count-status.CompletedCount))))
	}
}

func (s *simulation) finish(task *batch.Task) {
	code := int32([]int{0, 0, 0, 1, 1, ignoredExitCode}[s.next(6)])
	s.progress(task)
	if task.Spec.Indexes != "" && code == 0 {
		task.Status.CompletedCount++
	}
	task.Status.Phase = batch.TaskSucceeded
	if code != 0 {
		task.Status.Phase = batch.TaskFailed
	}
	task.Status.CompletionTime = &metav1.Time{Time: s.now.Add(-time.Duration(s.next(4)) * time.Second)}
	task.Status.State.Terminated = &batch.TaskStateTerminated{ExitCode: code}
	s.put(task)
}

// put stores a task and lets the state observe it, sometimes followed by the older event that it replaces.
func (s *simulation) put(task *batch.Task) {
	old := s.tasks[task.UID]
	s.tasks[task.UID] = task
	s.state.Observe(task.UID, task)
	s.observed(task)
	if old != nil && !old.Status.Phase.Finished() && task.Status.Phase.Finished() && s.next(4) == 0 {
		s.state.Observe(old.UID, old)
	}
}

// sorted returns copies of the tasks that exist, by UID.
func (s *simulation) sorted(keep func(*batch.Task) bool) []*batch.Task {
	var tasks []*batch.Task
	for _, uid := range slices.Sorted(maps.Keys(s.tasks)) {
		if keep(s.tasks[uid]) {
			tasks = append(tasks, s.tasks[uid].DeepCopy())
		}
	}
	return tasks
}

func (s *simulation) any() *batch.Task {
	return s.choose(s.sorted(func(*batch.Task) bool { return true }))
}

func (s *simulation) unfinished() *batch.Task {
	return s.choose(s.sorted(func(task *batch.Task) bool { return !task.Status.Phase.Finished() }))
}

func (s *simulation) choose(tasks []*batch.Task) *batch.Task {
	if len(tasks) == 0 {
		return nil
	}
	return tasks[s.next(len(tasks))]
}

// observed lets the model observe a task.
func (s *simulation) observed(task *batch.Task) {
	m := &s.model
	s.completed(task)
	index, failureCount := s.index(task), FailureCount(task)
	if !s.done(index) && failureCount > m.failures[index] {
		m.failed += failureCount - m.failures[index]
		m.failures[index] = failureCount
	}
	switch known := m.finished[task.UID]; {
	case known != nil:
		known.task = task
	case task.Status.Phase.Finished() && !m.seen[task.UID]:
		m.seen[task.UID] = true
		m.finished[task.UID] = &modelTask{index, failureCount, task, task.Status.CompletionTime.Time}
	}
}

// completed lets the model count the indexes of a chunk that have succeeded.
func (s *simulation) completed(task *batch.Task) {
	for position := range int(task.Status.CompletedCount) {
		if index := indexes.At(task.IndexRanges(), position); !s.done(index) {
			s.model.completed[index] = true
			delete(s.model.failures, index)
		}
	}
}

// index returns the index that a task runs, or that has failed, -1 without one.
func (s *simulation) index(task *batch.Task) int {
	ranges := task.CompletionIndexes()
	if completed := int(task.Status.CompletedCount); completed < indexes.Count(ranges) {
		return indexes.At(ranges, completed)
	}
	return -1
}

func (s *simulation) done(index int) bool {
	return index < 0 || index >= s.end() || s.model.completed[index] || s.model.failedIndexes[index]
}

// countModel counts the tasks that have finished in the model.
func (s *simulation) countModel() {
	m := &s.model
	finished := slices.Collect(maps.Values(m.finished))
	clear(m.finished)
	for _, t := range finished {
		if t.at.After(s.now) {
			t.at = s.now
		}
	}
	slices.SortFunc(finished, func(a, b *modelTask) int {
		return cmp.Or(a.at.Compare(b.at), cmp.Compare(a.index, b.index), cmp.Compare(a.failureCount, b.failureCount),
			cmp.Compare(a.task.UID, b.task.UID))
	})
	for _, t := range finished {
		deleted := t.task.DeletionTimestamp != nil || m.deletionRequested[t.task.UID]
		switch succeeded := t.task.Status.Phase == batch.TaskSucceeded; {
		case s.done(t.index):
		case succeeded && t.task.Spec.Indexes != "":
			// The indexes that have succeeded were counted as they were observed. The next one is released.
		case succeeded:
			m.completed[t.index] = true
			delete(m.failures, t.index)
		case t.failureCount < m.failures[t.index], deleted, t.task.Status.State.Terminated.ExitCode == ignoredExitCode:
		default:
			m.failed++
			m.failures[t.index] = t.failureCount + 1
			if limit := s.set.Spec.BackoffLimitPerIndex; limit != nil && t.failureCount >= int(*limit) {
				m.failedIndexes[t.index] = true
				delete(m.failures, t.index)
			}
		}
	}
}

// check compares the state with the model and checks its invariants.
func (s *simulation) check(event string) {
	s.Helper()
	st := s.state
	if err := st.CheckInvariants(); err != nil {
		s.Fatalf("after %q: %v", event, err)
	}
	completed, failedIndexes, failures := map[int]bool{}, map[int]bool{}, maps.Clone(st.failures)
	for i := range s.end() {
		if st.completed.has(i) {
			completed[i] = true
		}
		if st.failedIndexes.has(i) {
			failedIndexes[i] = true
		}
	}
	m := &s.model
	if !maps.Equal(completed, m.completed) || !maps.Equal(failedIndexes, m.failedIndexes) || !maps.Equal(failures, m.failures) || int(st.failed) != m.failed {
		s.Fatalf("after %q: completed %v, failed indexes %v, failures %v, failed %d; want %v, %v, %v, %d", event,
			completed, failedIndexes, failures, st.failed, m.completed, m.failedIndexes, m.failures, m.failed)
	}
}
