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
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/leat-dev/leat/apis/batch"
	"github.com/leat-dev/leat/apis/batch/indexes"
)

// holdTenths makes two workers hold the output of every tenth of so many indexes, in turns. It returns all output.
func (f *fixture) holdTenths(count int32) string {
	f.objects.workers = []*batch.Worker{holding("w"), holding("w2")}
	var all strings.Builder
	for index := int32(0); index < count; index += 10 {
		worker := f.objects.workers[index/10%2].Name
		line := fmt.Sprintln("line of", index)
		all.WriteString(line)
		// A worker finishes indexes in any order.
		held := f.workers.unsent[worker]
		f.workers.unsent[worker] = slices.Insert(held, len(held)*int(index/20%3)/2, at(index, int(index), line))
	}
	return all.String()
}

func TestAWorkerIsAskedOnceForTheOutputOfAllIndexes(t *testing.T) {
	const count = 3 * window
	for name, test := range map[string]struct {
		maxUnsent int
		page      int
		given     func(*fixture)
		asked     []string
	}{
		"that fits into memory": {asked: []string{"w", "w2"}},
		"in pages":              {page: 100, asked: []string{"w", "w 100", "w2", "w2 100"}},
		// The first answers leave 1.5 windows or less. The next window and the rest do not fit, but the last one does.
		"that does not fit into memory":      {maxUnsent: 200, asked: []string{"w", "w", "w2", "w2"}},
		"not even a window fits into memory": {maxUnsent: 10, asked: []string{"w", "w", "w", "w2", "w2", "w2"}},
		"while a worker is away":             {given: func(f *fixture) { f.workers.away["w3"] = true }, asked: []string{"w", "w2", "w3"}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture()
			want := f.holdTenths(count)
			if f.workers.page = test.page; test.maxUnsent > 0 {
				f.maxUnsent = test.maxUnsent
			}
			if test.given != nil {
				f.objects.workers = append(f.objects.workers, holding("w3"))
				test.given(f)
			}
			got, err := f.read(t, set(count, ""), batch.TaskLogOptions{})
			if got != want || err != nil {
				t.Errorf("got %d bytes, %v, want %d", len(got), err, len(want))
			}
			if slices.Sort(f.workers.asked); !slices.Equal(f.workers.asked, test.asked) {
				t.Errorf("asked the workers %q, want %q", f.workers.asked, test.asked)
			}
		})
	}
}

// TestAWorkerThatComesLaterIsAsked begins to read before one worker has announced what it holds, and while another one
// starts again.
func TestAWorkerThatComesLaterIsAsked(t *testing.T) {
	const count = 3 * window
	f := newFixture()
	want := f.holdTenths(count)
	first, second := f.objects.workers[0], f.objects.workers[1]
	f.workers.unsent["w again"] = f.workers.unsent["w"]
	f.objects.workers = []*batch.Worker{first}
	var reads atomic.Int32
	f.workers.sent = func() {
		if reads.Add(1) == window/40 {
			f.objects.mu.Lock()
			defer f.objects.mu.Unlock()
			restarted := holding("w")
			restarted.Status.Endpoint.Host = "w again"
			f.objects.workers = []*batch.Worker{restarted, second}
		}
	}
	of := set(count, "")
	got, err := f.read(t, of, batch.TaskLogOptions{})
	after := want[strings.Index(want, fmt.Sprintln("line of", window)):]
	if err != nil || !strings.HasSuffix(got, after) {
		t.Errorf("got %d bytes, %v, want all output from index %d on", len(got), err, window)
	}
	if want := []string{"w", "w again", "w2"}; !slices.Equal(slices.Sorted(slices.Values(f.workers.asked)), want) {
		t.Errorf("asked the workers %q, want %q", f.workers.asked, want)
	}
}

// TestIndexesOfASetWithoutCompletions finds them in several blocks.
func TestIndexesOfASetWithoutCompletions(t *testing.T) {
	f := newFixture()
	f.maxUnsent = 10
	want := f.holdTenths(1000)
	of := set(0, "")
	of.Set.Spec.Completions = nil
	if got, err := f.read(t, of, batch.TaskLogOptions{}); got != want || err != nil {
		t.Errorf("got %d bytes, %v, want %d", len(got), err, len(want))
	}
	f.objects.workers = append(f.objects.workers, holding("w3"))
	f.workers.away["w3"] = true
	want += "[leat: there may be output of other indexes, which cannot be read now: worker w3 cannot be read: connection refused]\n"
	if got, err := f.read(t, of, batch.TaskLogOptions{}); got != want || err != nil {
		t.Errorf("while a worker is away: got %d bytes, %v, want %d", len(got), err, len(want))
	}
	f.objects.workers = f.objects.workers[2:]
	if _, err := f.read(t, of, batch.TaskLogOptions{}); err == nil || !strings.Contains(err.Error(), "worker w3 cannot be read") {
		t.Errorf("while the only worker is away: got %v", err)
	}
}

// TestTheWorkerOfATaskThatHasEndedIsAskedAgain has a task whose attempt ends after its worker was asked.
func TestTheWorkerOfATaskThatHasEndedIsAskedAgain(t *testing.T) {
	f := newFixture()
	f.holdTenths(100)
	f.objects.tasks = []*batch.Task{running("100", "w", "live")}
	f.workers.sent = func() {
		f.workers.mu.Lock()
		defer f.workers.mu.Unlock()
		if len(f.workers.unsent["w"]) == 5 {
			f.workers.unsent["w"] = append(f.workers.unsent["w"], at(100, 0, "has ended\n").of("live"))
		}
	}
	got, err := f.read(t, set(101, ""), batch.TaskLogOptions{})
	if !strings.HasSuffix(got, "line of 90\nhas ended\n") || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	if want := []string{"w", "w", "w2"}; !slices.Equal(slices.Sorted(slices.Values(f.workers.asked)), want) {
		t.Errorf("asked the workers %q, want %q", f.workers.asked, want)
	}
}

func TestAnEndlessAnswerIsAnError(t *testing.T) {
	f := newFixture()
	f.objects.workers = []*batch.Worker{holding("w")}
	f.workers.endless = true
	if _, err := f.read(t, set(1, "0"), batch.TaskLogOptions{}); err == nil || !strings.Contains(err.Error(), "it responds that there are more records, and with none") {
		t.Errorf("got %v", err)
	}
}

func TestShrinkKeepsWhatIsNeeded(t *testing.T) {
	for _, test := range []struct{ needed, last, attempts int }{{3, 4, 5}, {7, 7, 8}, {maxIndex, maxIndex, 10}} {
		u := newFixture().unsent(set(10, ""))
		u.last = maxIndex
		for index := range int32(10) {
			record := at(9-index, 0, "").record
			u.attempts = append(u.attempts, attemptOf(&record))
		}
		u.shrink(test.needed)
		if u.last != test.last || len(u.attempts) != test.attempts || len(u.within([]indexes.Range{{First: 0, Last: 2}})) != 3 {
			t.Errorf("up to %d are needed: got %d attempts up to %d, want %d up to %d", test.needed, len(u.attempts), u.last, test.attempts, test.last)
		}
	}
}
