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
	"errors"
	"fmt"
	"math"
	"net/http"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/leat-dev/leat/apis/batch"
	"github.com/leat-dev/leat/apis/batch/indexes"
	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/archive/store"
	"github.com/leat-dev/leat/pkg/registry/batch/task"
)

// running returns a task of the set at an index, which runs on the worker.
func running(index, worker string, uid types.UID) *batch.Task {
	yes := true
	return &batch.Task{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "ns", Name: "set-" + index, UID: uid, Labels: map[string]string{v1alpha1.LabelCompletionIndex: index},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: v1alpha1.SchemeGroupVersion.String(), Kind: "TaskSet", UID: setUID, Controller: &yes}},
		},
		Spec:   batch.TaskSpec{WorkerName: worker},
		Status: batch.TaskStatus{Attempts: 1, Phase: batch.TaskRunning, State: batch.TaskState{Running: &batch.TaskStateRunning{}}},
	}
}

func TestOutputOfASet(t *testing.T) {
	three := func(f *fixture, t *testing.T) {
		f.upload(t, 1, at(0, 0, "zero\n"), at(2, 20, "two"))
		f.upload(t, 2, at(1, 10, "first\n"), at(1, 30, "one\nuno\n").failures(1))
	}
	live := func(f *fixture, t *testing.T) {
		f.objects.workers = []*batch.Worker{holding("w")}
		f.objects.tasks = []*batch.Task{running("1", "w", "live")}
		f.workers.logs["live"] = "runs"
		f.upload(t, 1, at(0, 0, "zero\n"), at(1, 0, "before\n"))
	}
	away := func(f *fixture, t *testing.T) {
		f.objects.workers = []*batch.Worker{holding("w2")}
		f.workers.away["w2"] = true
		f.upload(t, 1, at(1, 0, "one\n"))
	}
	storeAway := func(f *fixture, t *testing.T) {
		f.store.err = fmt.Errorf("%w: slow down", store.ErrUnavailable)
		f.objects.workers = []*batch.Worker{holding("w")}
		f.workers.unsent["w"] = []finished{at(1, 0, "one\n")}
	}
	for name, test := range map[string]struct {
		given   func(*fixture, *testing.T)
		of      *task.Attempts
		options batch.TaskLogOptions
		want    string
		code    int32 // of the error, 0 for none; 1 for a NoOutputError
		err     string
	}{
		"all, in the order of indexes": {given: three, of: set(3, "0-2"), want: "zero\none\nuno\ntwo"},
		"of some indexes":              {given: three, of: set(3, "0-2", indexes.Range{First: 1, Last: 2}), want: "one\nuno\ntwo"},
		"with prefix":                  {given: three, of: set(3, "0-2"), options: batch.TaskLogOptions{Prefix: true}, want: "0 zero\n1 one\n1 uno\n2 two"},
		"the first attempt":            {given: three, of: set(3, "0-2"), options: batch.TaskLogOptions{Attempt: new(int64(1))}, want: "zero\nfirst\ntwo"},
		"the second attempt":           {given: three, of: set(3, "0-2"), options: batch.TaskLogOptions{Attempt: new(int64(2))}, want: "one\nuno\n"},
		"an attempt that is not there": {given: three, of: set(3, "0-2"), options: batch.TaskLogOptions{Attempt: new(int64(9))}, code: 1, err: "attempt: 9"},
		"the previous attempt":         {given: three, of: set(3, "0-2"), options: batch.TaskLogOptions{Previous: true}, want: "first\n"},
		"the last line of each":        {given: three, of: set(3, "0-2"), options: batch.TaskLogOptions{TailLines: new(int64(1))}, want: "zero\nuno\ntwo"},
		"at most bytes of each":        {given: three, of: set(3, "0-2"), options: batch.TaskLogOptions{LimitBytes: new(int64(2))}, want: "ze\non\ntw"},
		"with timestamps": {given: three, of: set(3, "0-2", indexes.Range{First: 1, Last: 1}), options: batch.TaskLogOptions{Timestamps: true},
			want: "2026-01-01T12:00:30.000Z one\n2026-01-01T12:00:30.000Z uno\n"},
		"since a time": {given: three, of: set(3, "0-2"), options: batch.TaskLogOptions{SinceTime: new(metav1.NewTime(began.Add(25 * time.Second)))}, want: "one\nuno\n"},
		"on workers": {given: func(f *fixture, t *testing.T) {
			f.objects.workers = []*batch.Worker{holding("w"), holding("w2")}
			f.workers.unsent["w"] = []finished{at(1, 0, "one\n")}
			f.upload(t, 1, at(0, 0, "zero\n"))
		}, of: set(2, "0,1"), want: "zero\none\n"},
		"on a worker and in the store": {given: func(f *fixture, t *testing.T) {
			f.objects.workers = []*batch.Worker{holding("w")}
			f.workers.unsent["w"] = []finished{at(0, 0, "zero\n")}
			f.upload(t, 1, at(0, 0, "zero\n"))
		}, of: set(1, "0"), options: batch.TaskLogOptions{Attempt: new(int64(1))}, want: "zero\n"},
		"run twice, on two workers": {given: func(f *fixture, t *testing.T) {
			f.upload(t, 1, at(0, 0, "lost\n"))
			f.upload(t, 2, at(0, 60, "again\n"))
		}, of: set(1, "0"), want: "again\n"},
		"of a live task":                   {given: live, of: set(2, "0"), want: "zero\nruns"},
		"of a live task, with prefix":      {given: live, of: set(2, "0"), options: batch.TaskLogOptions{Prefix: true}, want: "0 zero\n1 runs"},
		"before that of a live task":       {given: live, of: set(2, "0"), options: batch.TaskLogOptions{Previous: true}, want: "before\n"},
		"of a live task, by its number":    {given: live, of: set(2, "0"), options: batch.TaskLogOptions{Attempt: new(int64(2))}, want: "runs"},
		"before a live one, by its number": {given: live, of: set(2, "0", indexes.Range{First: 1, Last: 1}), options: batch.TaskLogOptions{Attempt: new(int64(1))}, want: "before\n"},
		"of a task that has ended meanwhile": {given: func(f *fixture, t *testing.T) {
			f.objects.workers = []*batch.Worker{holding("w")}
			f.objects.tasks = []*batch.Task{running("0", "w", "live")}
			f.upload(t, 1, at(0, 0, "zero\n").of("live"))
		}, of: set(1, ""), want: "zero\n"},
		"of a task that only looks like one of the set": {given: func(f *fixture, t *testing.T) {
			f.objects.workers = []*batch.Worker{holding("w")}
			f.objects.tasks = []*batch.Task{running("0", "w", "live")}
			f.objects.tasks[0].OwnerReferences = nil
			f.workers.logs["live"] = "forged"
		}, of: set(1, ""), code: 1, err: "no attempt has started"},
		"not kept, alone":       {given: three, of: set(9, "0-8", indexes.Range{First: 5, Last: 7}), code: 1, err: "the output of the indexes 5-7 is not kept: it is neither in the archive"},
		"not kept, among other": {given: three, of: set(4, "0-3"), want: "zero\none\nuno\ntwo\n[leat: the output of index 3 is not kept: it is neither in the archive nor on a worker any more: it may be older than what the archive keeps]\n"},
		"without an archive": {given: func(f *fixture, t *testing.T) {
			f.Store = nil
			f.objects.workers = []*batch.Worker{holding("w")}
			f.workers.unsent["w"] = []finished{at(1, 0, "one\n")}
		}, of: set(2, "0,1"), want: "[leat: the output of index 0 is not kept: no worker has it any more, and there is no archive: leat-apiserver was started without --archive]\none\n"},
		"not started": {given: three, of: set(9, "0-2", indexes.Range{First: 5, Last: 7}), code: 1, err: "no attempt has started"},
		"empty":       {given: func(f *fixture, t *testing.T) { f.upload(t, 1, at(0, 0, "")) }, of: set(1, "0")},
		"on a worker that is away, first": {given: away, of: set(2, "0,1"), code: http.StatusServiceUnavailable,
			err: "the output of the tasks of set set of index 0 cannot be read now: worker w2 cannot be read: connection refused: try again"},
		"on a worker that is away, later": {given: away, of: set(3, "1,2"), want: "one\n[leat: the output of index 2 cannot be read now: worker w2 cannot be read: connection refused]\n"},
		"with the store away": {given: storeAway, of: set(2, "0", indexes.Range{First: 0, Last: 0}), code: http.StatusServiceUnavailable,
			err: "the output of the tasks of set set of index 0 cannot be read now: the archive cannot be used now: the store is not available: slow down: try again"},
		"with the store away, nothing is known": {given: storeAway, of: set(2, "", indexes.Range{First: 0, Last: 0}), code: http.StatusServiceUnavailable,
			err: "the archive cannot be used now: the store is not available: slow down"},
		"with the store away, on a worker": {given: storeAway, of: set(3, "1,2"), want: "one\n[leat: the output of index 2 cannot be read now: " +
			"the archive cannot be used now: the store is not available: slow down]\n" +
			"[leat: output may be missing: the archive cannot be used now: the store is not available: slow down]\n"},
		"with the store away, by number": {given: storeAway, of: set(3, "1"), options: batch.TaskLogOptions{Attempt: new(int64(1))},
			code: http.StatusServiceUnavailable, err: "slow down"},
		"with the store away, of a live task": {given: func(f *fixture, t *testing.T) { live(f, t); storeAway(f, t) },
			of: set(2, "", indexes.Range{First: 1, Last: 1}), want: "runs"},
		"with the store away, of a task that has ended meanwhile": {given: func(f *fixture, t *testing.T) {
			storeAway(f, t)
			f.objects.tasks = []*batch.Task{running("0", "w", "live")}
		}, of: set(2, "", indexes.Range{First: 0, Last: 0}), code: http.StatusServiceUnavailable,
			err: "the output of the tasks of set set of index 0 cannot be read now: the archive cannot be used now"},
		"with a broken segment": {given: func(f *fixture, t *testing.T) {
			three(f, t)
			for key, body := range f.store.objects {
				if strings.HasSuffix(key, "-1-0_2.zip") {
					f.store.objects[key] = body[:len(body)-1]
				}
			}
		}, of: set(3, "0-2", indexes.Range{First: 1, Last: 2}), want: "one\nuno\n[leat: the output of index 2 cannot be read now: segment uid-of-ns/"},
		"of another namespace": {given: three, of: func() *task.Attempts { of := set(3, "0-2"); of.Namespace = "b"; return of }(), code: 1, err: "not kept"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture()
			test.given(f, t)
			got, err := f.read(t, test.of, test.options)
			gotCode, delay := code(err)
			var none *task.NoOutputError
			switch {
			case errors.As(err, &none):
				gotCode = 1
			case err == nil:
				gotCode = 0
			case delay == 0:
				t.Errorf("there is no Retry-After")
			}
			if gotCode != test.code || err != nil && !strings.Contains(err.Error(), test.err) {
				t.Errorf("got %d: %v, want %d: %s", gotCode, err, test.code, test.err)
			}
			if got != test.want && !(strings.HasSuffix(test.want, "/") && strings.HasPrefix(got, test.want)) {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

// TestOutputThatIsSentMeanwhile sends an output between the look-up and the read. The cached list does not have it.
func TestOutputThatIsSentMeanwhile(t *testing.T) {
	f := newFixture()
	f.objects.workers = []*batch.Worker{holding("w")}
	f.workers.unsent["w"] = []finished{at(0, 0, "zero\n")}
	f.workers.sent = func() {
		f.workers.sent = nil
		f.clock.SetTime(f.clock.Now().Add(time.Second))
		f.upload(t, 1, at(0, 0, "zero\n"))
		f.workers.mu.Lock()
		f.workers.unsent["w"] = nil
		f.workers.mu.Unlock()
	}
	if got, err := f.read(t, set(1, "0"), batch.TaskLogOptions{}); got != "zero\n" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestACachedListIsReadAgainIfItLacksAnAttempt(t *testing.T) {
	f := newFixture()
	f.upload(t, 1, at(0, 0, "zero\n"))
	first := []indexes.Range{{First: 0, Last: 0}}
	for range 3 {
		if got, err := f.read(t, set(2, "0", first...), batch.TaskLogOptions{}); got != "zero\n" || err != nil {
			t.Fatalf("got %q, %v", got, err)
		}
	}
	if f.store.lists != 1 {
		t.Errorf("listed %d times", f.store.lists)
	}
	f.clock.SetTime(f.clock.Now().Add(time.Second))
	f.upload(t, 2, at(1, 0, "one\n"))
	if got, err := f.read(t, set(2, "0,1"), batch.TaskLogOptions{}); got != "zero\none\n" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

// TestOutputOfALargeSet reads in windows, and closes early.
func TestOutputOfALargeSet(t *testing.T) {
	f := newFixture()
	var want strings.Builder
	for part := range int32(3) {
		var attempts []finished
		for i := range int32(1000) {
			attempts = append(attempts, at(part*1000+i, int(i), fmt.Sprintf("line of %d\n", part*1000+i)))
			fmt.Fprintf(&want, "line of %d\n", part*1000+i)
		}
		f.upload(t, int64(part), attempts...)
	}
	if got, err := f.read(t, set(3000, "0-2999"), batch.TaskLogOptions{}); got != want.String() || err != nil {
		t.Errorf("got %d bytes, %v, want %d", len(got), err, want.Len())
	}
	body, err := f.OpenOutput(t.Context(), set(math.MaxInt32, "0-2999"), &batch.TaskLogOptions{})
	if err != nil {
		t.Fatal(err)
	}
	body.Close()
}

func TestOutputOfATask(t *testing.T) {
	f := newFixture()
	chunk := running("", "w", "chunk")
	chunk.Labels, chunk.Spec.Indexes, chunk.Status.CompletedCount = nil, "0-4", 2
	f.objects.workers = []*batch.Worker{holding("w")}
	f.workers.logs["chunk"] = "rest\n"
	f.upload(t, 1, at(0, 0, "zero\n").of("chunk"), at(1, 0, "one\n").of("chunk"))
	f.upload(t, 2, at(2, 0, "of another task\n"))
	got, err := f.read(t, task.AttemptsAt(chunk, nil), batch.TaskLogOptions{})
	if got != "zero\none\nrest\n" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	if len(f.workers.opened) != 1 || f.workers.opened[0] != "2-4" {
		t.Errorf("opened the logs of %q, want one of all that is left", f.workers.opened)
	}
}

// TestTheWorkerOfATaskIsAsked checks that the worker that has a task is asked for what it has not sent, even if its
// status does not name the set: it may be a moment old.
func TestTheWorkerOfATaskIsAsked(t *testing.T) {
	f := newFixture()
	ended := running("3", "w", "ended")
	ended.Status.Phase = batch.TaskSucceeded
	worker := holding("w")
	worker.Status.Unarchived = nil
	f.objects.workers = []*batch.Worker{worker}
	f.workers.unsent["w"] = []finished{at(3, 0, "three\n").of("ended")}
	if got, err := f.read(t, task.AttemptsAt(ended, nil), batch.TaskLogOptions{}); got != "three\n" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}
