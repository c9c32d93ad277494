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

package logs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/leat-dev/leat/apis/batch/indexes"
	"github.com/leat-dev/leat/pkg/worker/attempt"
)

// writeIndex keeps the output of an attempt at an index.
func writeIndex(s *Store, index int, number int32, output string) {
	l := s.Create(attempt.ID{Task: uid, Index: index, Number: number})
	_, _ = l.Write([]byte(output))
	l.Close()
}

// readTask returns the output of the task.
func readTask(t *testing.T, s *Store, options TaskReadOptions) (string, error) {
	t.Helper()
	var out strings.Builder
	err := s.ReadTask(t.Context(), uid, &out, func() {}, options)
	return out.String(), err
}

func TestTheOutputOfIndexesIsReadOneAfterTheOther(t *testing.T) {
	dir := t.TempDir()
	s := open(t, func(o *Options) { o.Dir = dir })
	writeIndex(s, 9, 1, "first\nlast")
	writeIndex(s, 3, 1, "former\n")
	writeIndex(s, 3, 2, "a\nb\n")
	writeIndex(s, 4, 1, "")
	writeIndex(s, 100, 1, "end")
	one, five := int64(1), int64(5)
	cases := []struct {
		name    string
		options TaskReadOptions
		want    string
	}{
		{"all", TaskReadOptions{}, "a\nb\nfirst\nlast\nend"},
		{"with the index before each line", TaskReadOptions{Prefix: true}, "3 a\n3 b\n9 first\n9 last\n100 end"},
		{"some", TaskReadOptions{Indexes: []indexes.Range{{First: 4, Last: 9}, {First: 50, Last: 60}}}, "first\nlast"},
		{"the last line of each", TaskReadOptions{Prefix: true, ReadOptions: ReadOptions{TailLines: &one}}, "3 b\n9 last\n100 end"},
		{"the first bytes of each", TaskReadOptions{ReadOptions: ReadOptions{LimitBytes: &five}}, "a\nb\nfirst\nend"},
		{"the previous attempts", TaskReadOptions{Previous: true}, "former\n"},
		{"to the end", TaskReadOptions{ReadOptions: ReadOptions{Follow: true}}, "a\nb\nfirst\nlast\nend"},
		{"the previous attempts, to the end", TaskReadOptions{Previous: true, ReadOptions: ReadOptions{Follow: true}}, "former\n"},
	}
	for _, state := range []string{"in the process that wrote it", "in the next process"} {
		for _, tc := range cases {
			if got, err := readTask(t, s, tc.options); err != nil || got != tc.want {
				t.Errorf("%s, %s: got %q, %v, want %q", state, tc.name, got, err, tc.want)
			}
		}
		s.Close()
		s = open(t, func(o *Options) { o.Dir = dir })
	}
}

func TestIndexesWithoutOutputAreNotKept(t *testing.T) {
	s := open(t)
	writeIndex(s, 3, 1, "a\n")
	for name, options := range map[string]TaskReadOptions{
		"not started":         {Indexes: []indexes.Range{{First: 4, Last: 4}}},
		"no previous attempt": {Previous: true},
		"not one of them":     {Previous: true, Indexes: []indexes.Range{{First: 3, Last: 3}}},
	} {
		got, err := readTask(t, s, options)
		if notKept := (*NotKeptError)(nil); got != "" || !errors.As(err, &notKept) {
			t.Errorf("%s: got %q, %v", name, got, err)
		}
	}
}

func TestAReaderFollowsTheIndexesOfARun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t)
		end := s.StartRun(uid)
		out := make(chan string, 10)
		read := func(options TaskReadOptions) <-chan error {
			done := make(chan error, 1)
			options.Follow = true
			go func() { done <- s.ReadTask(t.Context(), uid, channelWriter(out), func() {}, options) }()
			synctest.Wait()
			return done
		}
		all := read(TaskReadOptions{Prefix: true})
		writeIndex(s, 1, 1, "a\n")
		synctest.Wait()
		if got := drain(out); got != "1 a\n" {
			t.Errorf("got %q of the first index", got)
		}
		first := read(TaskReadOptions{Indexes: []indexes.Range{{First: 1, Last: 1}}})
		if err := <-first; err != nil || drain(out) != "a\n" {
			t.Errorf("the reader of one index does not return after that: %v", err)
		}
		l := s.Create(attempt.ID{Task: uid, Index: 2, Number: 1})
		fmt.Fprintln(l, "b")
		synctest.Wait()
		if got := drain(out); got != "2 b\n" {
			t.Errorf("got %q of the second index", got)
		}
		l.Close()
		synctest.Wait()
		select {
		case err := <-all:
			t.Errorf("the reader has returned between two indexes: %v", err)
		default:
		}
		end()
		if err := <-all; err != nil {
			t.Error(err)
		}
	})
}

func TestAReaderThatFollowsARunEndsWithItsRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t)
		defer s.StartRun(uid)()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			done <- s.ReadTask(ctx, uid, &strings.Builder{}, func() {}, TaskReadOptions{ReadOptions: ReadOptions{Follow: true}})
		}()
		synctest.Wait()
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
}

// drain returns what was written to the channel.
func drain(out <-chan string) string {
	var all strings.Builder
	for {
		select {
		case s := <-out:
			all.WriteString(s)
		default:
			return all.String()
		}
	}
}

// channelWriter sends what is written.
type channelWriter chan<- string

func (w channelWriter) Write(p []byte) (int, error) {
	w <- string(p)
	return len(p), nil
}

func TestIndexesWithoutOutputCostNextToNothing(t *testing.T) {
	s := open(t)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	end := s.StartRun(uid)
	for index := range 1000 {
		s.Create(attempt.ID{Task: uid, Index: index, Number: 1}).Close()
	}
	end()
	runtime.GC()
	runtime.ReadMemStats(&after)
	if used := int64(after.HeapAlloc) - int64(before.HeapAlloc); used > 500<<10 {
		t.Errorf("1000 indexes without output take %d bytes", used)
	}
	if files, err := os.ReadDir(s.options.Dir); err != nil || len(files) > 0 {
		t.Errorf("they have %d files, %v", len(files), err)
	}
	if got, err := readTask(t, s, TaskReadOptions{}); got != "" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestTheIndexesThatEndedFirstMakeRoom(t *testing.T) {
	s := open(t, func(o *Options) { o.MaxSize, o.MaxTotalSize = MinSize, 5*overhead })
	for index := range 10 {
		writeIndex(s, index, 1, fmt.Sprintln("line of", index))
	}
	got, err := readTask(t, s, TaskReadOptions{})
	if err != nil || !strings.HasSuffix(got, "line of 8\nline of 9\n") || strings.Contains(got, "line of 0") {
		t.Errorf("got %q, %v", got, err)
	}
	if len(s.ended) >= 10 || len(s.tasks[uid].logs) != len(s.ended) {
		t.Errorf("%d have ended, %d are known", len(s.ended), len(s.tasks[uid].logs))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.ended) > 0 {
		s.removeLocked(s.ended[0])
	}
	if len(s.tasks) > 0 {
		t.Errorf("%d tasks without output are known", len(s.tasks))
	}
}

// finishedAt returns a finished attempt with the output, which ran for a second from a time on.
func finishedAt(index int, number int32, started time.Time, output string) Finished {
	return Finished{
		ID: attempt.ID{Task: uid, Index: index, Number: number}, Started: started, Ended: started.Add(time.Second),
		Output: func(context.Context) ([]byte, bool, error) { return []byte(output), true, nil },
	}
}

func TestFinishedAttemptsAreReadToo(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	sent := finishedAt(4, 1, at, "")
	sent.Output = func(context.Context) ([]byte, bool, error) { return nil, false, nil }
	tail := func(n int64) ReadOptions { return ReadOptions{TailLines: &n} }
	limit := func(n int64) ReadOptions { return ReadOptions{LimitBytes: &n} }
	alone := []Finished{finishedAt(attempt.NoIndex, 1, at, "one\n"), finishedAt(attempt.NoIndex, 2, at, "two\nlines")}
	for name, test := range map[string]struct {
		logs     []attempt.ID
		finished []Finished
		options  TaskReadOptions
		want     string
		failed   string
	}{
		"alone":                           {finished: alone, want: "two\nlines"},
		"alone, the previous one":         {finished: alone, options: TaskReadOptions{Previous: true}, want: "one\n"},
		"the previous one that is not":    {finished: alone[1:], options: TaskReadOptions{Previous: true}, failed: "no output of attempt 1: another worker"},
		"alone, the end":                  {finished: alone, options: TaskReadOptions{ReadOptions: tail(1)}, want: "lines"},
		"alone, more than there is":       {finished: alone, options: TaskReadOptions{ReadOptions: tail(9)}, want: "two\nlines"},
		"alone, nothing of the end":       {finished: alone, options: TaskReadOptions{ReadOptions: tail(0)}},
		"alone, bytes":                    {finished: alone, options: TaskReadOptions{ReadOptions: limit(5)}, want: "two\nl"},
		"alone, with times":               {finished: alone, options: TaskReadOptions{ReadOptions: ReadOptions{Timestamps: true}}, want: "2026-01-02T03:04:05.000Z two\n2026-01-02T03:04:05.000Z lines"},
		"alone, from its end on":          {finished: alone, options: TaskReadOptions{ReadOptions: ReadOptions{Since: at.Add(time.Second)}}, want: "two\nlines"},
		"alone, from after its end on":    {finished: alone, options: TaskReadOptions{ReadOptions: ReadOptions{Since: at.Add(2 * time.Second)}}},
		"before one in the store":         {logs: []attempt.ID{lone(uid, 3)}, finished: alone, want: "stored -1.3\n"},
		"before one, the previous one":    {logs: []attempt.ID{lone(uid, 3)}, finished: alone, options: TaskReadOptions{Previous: true}, want: "two\nlines"},
		"in the store too":                {logs: []attempt.ID{lone(uid, 2)}, finished: alone, want: "stored -1.2\n"},
		"of a task that has an index":     {logs: []attempt.ID{lone(uid, 2)}, finished: []Finished{finishedAt(7, 1, at, "one\n")}, options: TaskReadOptions{Previous: true, Prefix: true}, want: "one\n"},
		"sent meanwhile":                  {finished: []Finished{{Output: sent.Output, ID: lone(uid, 1)}}, failed: ErrRemoved.Error()},
		"between indexes in the store":    {logs: []attempt.ID{{Task: uid, Index: 1, Number: 1}, {Task: uid, Index: 3, Number: 1}}, finished: []Finished{finishedAt(2, 1, at, "two"), finishedAt(4, 1, at, "four\n")}, want: "stored 1.1\ntwo\nstored 3.1\nfour\n"},
		"at selected indexes":             {logs: []attempt.ID{{Task: uid, Index: 1, Number: 1}}, finished: []Finished{finishedAt(2, 1, at, "two\n"), finishedAt(4, 1, at, "four\n")}, options: TaskReadOptions{Indexes: []indexes.Range{{First: 4, Last: 9}}, Prefix: true}, want: "4 four\n"},
		"at the index of a later attempt": {logs: []attempt.ID{{Task: uid, Index: 1, Number: 2}}, finished: []Finished{finishedAt(1, 1, at, "one\n"), finishedAt(2, 1, at, "two\n")}, want: "stored 1.2\ntwo\n"},
		"the previous one at each index":  {logs: []attempt.ID{{Task: uid, Index: 1, Number: 2}}, finished: []Finished{finishedAt(1, 1, at, "one\n"), finishedAt(2, 1, at, "two\n")}, options: TaskReadOptions{Previous: true}, want: "one\n"},
		"at an index, sent meanwhile":     {finished: []Finished{sent, finishedAt(5, 1, at, "five\n")}, want: "five\n"},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t)
			for _, id := range test.logs {
				log := s.Create(id)
				write(t, log, fmt.Sprintf("stored %d.%d\n", id.Index, id.Number))
				log.Close()
			}
			test.options.Finished = func(context.Context) ([]Finished, error) { return test.finished, nil }
			var out bytes.Buffer
			err := s.ReadTask(t.Context(), uid, &out, func() {}, test.options)
			if test.failed != "" {
				if err == nil || !strings.Contains(err.Error(), test.failed) {
					t.Errorf("The error is %v, want %q.", err, test.failed)
				}
				return
			}
			if err != nil || out.String() != test.want {
				t.Errorf("Read %q, %v; want %q.", out.String(), err, test.want)
			}
		})
	}
	var none *Store
	var out bytes.Buffer
	if err := none.ReadTask(t.Context(), uid, &out, func() {}, TaskReadOptions{
		Finished: func(context.Context) ([]Finished, error) { return alone, nil },
	}); err != nil || out.String() != "two\nlines" {
		t.Errorf("Without a store it reads %q, %v.", out.String(), err)
	}
}

// An attempt that finishes while the output of its task is followed leaves the store only after the reader has ended.
func TestFollowersReadIndexesThatFinishMeanwhile(t *testing.T) {
	s := open(t)
	end := s.StartRun(uid)
	reading := make(chan struct{})
	in, out := io.Pipe()
	go func() {
		out.CloseWithError(s.ReadTask(t.Context(), uid, out, func() {}, TaskReadOptions{
			ReadOptions: ReadOptions{Follow: true},
			Finished: func(context.Context) ([]Finished, error) {
				close(reading)
				return []Finished{finishedAt(0, 1, time.Now(), "finished\n")}, nil
			},
		}))
	}()
	<-reading
	for index := 1; index <= 3; index++ {
		log := s.Create(attempt.ID{Task: uid, Index: index, Number: 1})
		write(t, log, fmt.Sprintf("index %d\n", index))
		log.CloseAndRemove()
	}
	end()
	content, err := io.ReadAll(in)
	if want := "finished\nindex 1\nindex 2\nindex 3\n"; err != nil || string(content) != want {
		t.Errorf("Read %q, %v; want %q.", content, err, want)
	}
}
