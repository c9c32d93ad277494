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

package archive

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/user"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	testingclock "k8s.io/utils/clock/testing"

	"github.com/leat-dev/leat/apis/batch"
	"github.com/leat-dev/leat/apis/batch/indexes"
	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/archive/segment"
	"github.com/leat-dev/leat/pkg/archive/store"
	"github.com/leat-dev/leat/pkg/registry/batch/task"
)

const (
	setUID      = types.UID("11111111-1111-4111-8111-111111111111")
	incarnation = "22222222-2222-4222-8222-222222222222"
)

var began = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// memoryStore is a store in memory.
type memoryStore struct {
	mu      sync.Mutex
	objects map[string][]byte
	lists   int
	err     error // of all methods
}

func (m *memoryStore) Put(_ context.Context, key string, body []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		return m.err
	}
	if _, ok := m.objects[key]; ok {
		return store.ErrExists
	}
	m.objects[key] = body
	return nil
}

func (m *memoryStore) List(_ context.Context, prefix string) ([]store.Object, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lists++
	var list []store.Object
	for key, body := range m.objects {
		if strings.HasPrefix(key, prefix) {
			list = append(list, store.Object{Key: key, Size: int64(len(body))})
		}
	}
	slices.SortFunc(list, func(a, b store.Object) int { return strings.Compare(a.Key, b.Key) })
	return list, m.err
}

func (m *memoryStore) ReadAt(_ context.Context, key string, offset, length int64) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	body, ok := m.objects[key]
	switch {
	case m.err != nil:
		return nil, m.err
	case !ok:
		return nil, store.ErrNotFound
	}
	return body[min(offset, int64(len(body))):min(offset+length, int64(len(body)))], nil
}

func (m *memoryStore) keys() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var keys []string
	for key := range m.objects {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// finished is an attempt with its output.
type finished struct {
	record v1alpha1.TaskRecord
	output string
}

// at returns an attempt at an index, which started so many seconds after began.
func at(index int32, second int, output string) finished {
	return finished{v1alpha1.TaskRecord{
		Index: &index, TaskName: "set-task", TaskUID: "33333333-3333-4333-8333-333333333333", Attempt: 1, WorkerName: "w",
		StartTime: metav1.NewMicroTime(began.Add(time.Duration(second) * time.Second)), DurationMilliseconds: 1000, OutputBytes: int64(len(output)),
	}, output}
}

func (f finished) failures(n int32) finished { f.record.Failures = n; return f }

func (f finished) of(uid types.UID) finished { f.record.TaskUID = uid; return f }

// fakeWorkers are workers that hold attempts they have not sent, and logs of live tasks.
type fakeWorkers struct {
	mu     sync.Mutex
	unsent map[string][]finished // by the host of the endpoint
	logs   map[types.UID]string
	away   map[string]bool
	asked  []string // the hosts, with the position if it is not the beginning
	page   int      // the maximum number of records in a response, if not 0
	// endless is true if all responses are empty, and name another page.
	endless bool
	opened  []string // the indexes of the opened logs
	// sent is called when an output is asked for.
	sent func()
}

func (f *fakeWorkers) OpenLog(_ context.Context, t *batch.Task, endpoint *batch.WorkerEndpoint, options *batch.TaskLogOptions) (io.ReadCloser, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.opened = append(f.opened, options.Indexes)
	log, ok := f.logs[t.UID]
	switch {
	case f.away[endpoint.Host]:
		return nil, errors.New("connection refused")
	case !ok:
		return nil, &task.LogNotKeptError{Message: "no log"}
	}
	return io.NopCloser(strings.NewReader(log)), nil
}

func (f *fakeWorkers) Records(_ context.Context, endpoint *batch.WorkerEndpoint, _ string, _ types.UID, list string, uid types.UID, from string) (
	*v1alpha1.TaskRecordList, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, strings.TrimSpace(endpoint.Host+" "+from))
	if f.away[endpoint.Host] {
		return nil, errors.New("connection refused")
	}
	ranges, err := indexes.Parse(list, math.MaxInt32)
	if err != nil {
		return nil, err
	}
	begin, _ := strconv.Atoi(from)
	found := &v1alpha1.TaskRecordList{}
	if f.endless {
		found.Continue = "more"
	}
	for i, held := range f.unsent[endpoint.Host] {
		if i < begin || ranges != nil && !indexes.Contains(ranges, int(*held.record.Index)) || uid != "" && uid != held.record.TaskUID {
			continue
		}
		if f.page > 0 && len(found.Items) == f.page {
			found.Continue = strconv.Itoa(i)
			break
		}
		found.Items = append(found.Items, held.record)
	}
	return found, nil
}

func (f *fakeWorkers) Output(_ context.Context, endpoint *batch.WorkerEndpoint, _ string, _ types.UID, entry string, _ int64) ([]byte, error) {
	if f.sent != nil {
		f.sent()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, held := range f.unsent[endpoint.Host] {
		if segment.EntryName(&held.record) == entry {
			return []byte(held.output), nil
		}
	}
	return nil, &task.LogNotKeptError{Message: "sent"}
}

// fakeObjects are the objects of a namespace.
type fakeObjects struct {
	mu      sync.Mutex
	workers []*batch.Worker
	tasks   []*batch.Task
}

func (f *fakeObjects) Workers(context.Context, string) ([]*batch.Worker, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.workers), nil
}

func (f *fakeObjects) Tasks(context.Context, string, types.UID) ([]*batch.Task, error) {
	return f.tasks, nil
}

// holding returns a worker that holds attempts of the set.
func holding(name string) *batch.Worker {
	return &batch.Worker{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: batch.WorkerStatus{
		Unarchived: []types.UID{setUID}, Endpoint: &batch.WorkerEndpoint{Host: name},
	}}
}

type fixture struct {
	*Archive
	store   *memoryStore
	workers *fakeWorkers
	objects *fakeObjects
	clock   *testingclock.FakePassiveClock
}

func newFixture() *fixture {
	f := &fixture{
		store:   &memoryStore{objects: map[string][]byte{}},
		workers: &fakeWorkers{unsent: map[string][]finished{}, logs: map[types.UID]string{}, away: map[string]bool{}},
		objects: &fakeObjects{},
		clock:   testingclock.NewFakePassiveClock(began.Add(time.Hour)),
	}
	f.Archive = New(Options{
		Store: f.store, Workers: f.workers, Objects: f.objects, Clock: f.clock,
		NamespaceID:         func(_ context.Context, name string) (string, error) { return "uid-of-" + name, nil },
		MaxRatePerNamespace: DefaultMaxRatePerNamespace, MaxBytesPerAttempt: DefaultMaxBytesPerAttempt,
	})
	return f
}

// segmentOf returns a segment with the attempts.
func segmentOf(t *testing.T, attempts ...finished) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "segment.zip")
	w, err := segment.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range attempts {
		if err := w.Add(&a.record, []byte(a.output)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	body, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// asWorker returns a context with the credentials of a worker.
func asWorker(ctx context.Context, namespace, name string) context.Context {
	return genericapirequest.WithUser(ctx, &user.DefaultInfo{Name: v1alpha1.WorkerUser(namespace, name), Groups: []string{v1alpha1.WorkersGroup}})
}

func optionsFor(body []byte, number int64) *batch.WorkerArchiveOptions {
	digest := sha256.Sum256(body)
	return &batch.WorkerArchiveOptions{TaskSetUID: setUID, Incarnation: incarnation, Segment: number, Digest: hex.EncodeToString(digest[:])}
}

// upload stores a segment of worker w in namespace ns.
func (f *fixture) upload(t *testing.T, number int64, attempts ...finished) {
	t.Helper()
	body := segmentOf(t, attempts...)
	if err := f.Upload(asWorker(t.Context(), "ns", "w"), "ns", "w", optionsFor(body, number), bytes.NewReader(body), int64(len(body))); err != nil {
		t.Fatal(err)
	}
}

// set returns the attempts at a set of so many indexes, those of completed being complete.
func set(completions int32, completed string, ranges ...indexes.Range) *task.Attempts {
	return &task.Attempts{Namespace: "ns", SetUID: setUID, Indexes: ranges, Set: &batch.TaskSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "set", UID: setUID},
		Spec:       batch.TaskSetSpec{Completions: &completions},
		Status:     batch.TaskSetStatus{CompletedIndexes: completed},
	}}
}

// read reads output.
func (f *fixture) read(t *testing.T, of *task.Attempts, options batch.TaskLogOptions) (string, error) {
	t.Helper()
	body, err := f.OpenOutput(t.Context(), of, &options)
	if err != nil {
		return "", err
	}
	defer body.Close()
	content, err := io.ReadAll(body)
	if err != nil {
		t.Errorf("the output breaks off: %v", err)
	}
	return string(content), nil
}
