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
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/types"

	"github.com/leat-dev/leat/pkg/archive/lineio"
	"github.com/leat-dev/leat/pkg/worker/attempt"
)

const uid = types.UID("7a3c1b52-0000-4000-8000-000000000001")

// lone returns the ID of an attempt at a task without spec.indexes.
func lone(task types.UID, number int32) attempt.ID {
	return attempt.ID{Task: task, Index: attempt.NoIndex, Number: number}
}

func open(t *testing.T, change ...func(*Options)) *Store {
	t.Helper()
	options := Options{Dir: t.TempDir(), MaxSize: DefaultMaxSize, MaxTotalSize: DefaultMaxTotalSize, Retention: DefaultRetention}
	for _, c := range change {
		c(&options)
	}
	s, err := Open(options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// inFiles returns a store that has nothing in memory.
func inFiles(s *Store) *Store {
	s.memorySize = 0
	return s
}

// inMemoryAndInFiles runs a test with output that is in memory first, and with output that is in files only.
func inMemoryAndInFiles(t *testing.T, test func(t *testing.T, place func(*Store) *Store)) {
	t.Run("in memory", func(t *testing.T) { test(t, func(s *Store) *Store { return s }) })
	t.Run("in files", func(t *testing.T) { test(t, inFiles) })
}

func write(t *testing.T, l *Log, text string) {
	t.Helper()
	if n, err := l.Write([]byte(text)); n != len(text) || err != nil {
		t.Fatalf("Wrote %d of %d bytes, %v.", n, len(text), err)
	}
}

func read(t *testing.T, l *Log, options ReadOptions) string {
	t.Helper()
	var out bytes.Buffer
	if err := l.Read(t.Context(), &out, func() {}, options); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func files(t *testing.T, s *Store) []string {
	t.Helper()
	var names []string
	entries, err := os.ReadDir(s.options.Dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func lines(from, to int) string {
	var b strings.Builder
	for i := from; i <= to; i++ {
		fmt.Fprintf(&b, "line %d\n", i)
	}
	return b.String()
}

// A read returns the same while the output is written, after its end and after a restart.
func TestReadOptions(t *testing.T) {
	for _, step := range []time.Duration{time.Second, 100 * time.Millisecond} {
		inMemoryAndInFiles(t, func(t *testing.T, place func(*Store) *Store) { testReadOptions(t, place, step) })
	}
}

// testReadOptions tests reads of output that is written in steps. With steps of a second, memory is moved to files.
func testReadOptions(t *testing.T, place func(*Store) *Store, step time.Duration) {
	number := func(n int64) *int64 { return &n }
	synctest.Test(t, func(t *testing.T) {
		s := place(open(t))
		l := s.Create(lone(uid, 1))
		started := time.Now()
		at := func(steps int) string {
			return started.Add(time.Duration(steps)*step).UTC().Format(lineio.TimeFormat) + " "
		}
		write(t, l, "one\ntwo\nthr")
		time.Sleep(step)
		write(t, l, "ee\nfour\n")
		time.Sleep(step)
		write(t, l, "\nfive")
		now := time.Now()
		for _, test := range []struct {
			name    string
			options ReadOptions
			want    string
		}{
			{"all", ReadOptions{}, "one\ntwo\nthree\nfour\n\nfive"},
			{"timestamps", ReadOptions{Timestamps: true}, at(0) + "one\n" + at(0) + "two\n" + at(0) + "three\n" + at(1) + "four\n" + at(2) + "\n" + at(2) + "five"},
			{"no lines", ReadOptions{TailLines: number(0)}, ""},
			{"the last line, which has no end", ReadOptions{TailLines: number(1)}, "five"},
			{"an empty line counts", ReadOptions{TailLines: number(2)}, "\nfive"},
			{"some lines", ReadOptions{TailLines: number(4)}, "three\nfour\n\nfive"},
			{"more lines than there are", ReadOptions{TailLines: number(40)}, "one\ntwo\nthree\nfour\n\nfive"},
			{"as many lines as there are", ReadOptions{TailLines: number(6)}, "one\ntwo\nthree\nfour\n\nfive"},
			{"some lines with timestamps", ReadOptions{TailLines: number(3), Timestamps: true}, at(1) + "four\n" + at(2) + "\n" + at(2) + "five"},
			{"since before it began", ReadOptions{Since: started.Add(-time.Hour)}, "one\ntwo\nthree\nfour\n\nfive"},
			{"since the beginning", ReadOptions{Since: started}, "one\ntwo\nthree\nfour\n\nfive"},
			{"since the middle of a line", ReadOptions{Since: started.Add(step)}, "four\n\nfive"},
			{"since the last lines", ReadOptions{Since: started.Add(step + step/2)}, "\nfive"},
			{"since the future", ReadOptions{Since: now.Add(time.Second)}, ""},
			{"since and a shorter tail", ReadOptions{Since: started.Add(step), TailLines: number(1)}, "five"},
			{"since and a longer tail", ReadOptions{Since: started.Add(2 * step), TailLines: number(4)}, "\nfive"},
			{"no more than so many bytes", ReadOptions{LimitBytes: number(5)}, "one\nt"},
			{"no fewer bytes than there are", ReadOptions{LimitBytes: number(24)}, "one\ntwo\nthree\nfour\n\nfive"},
			{"bytes of timestamps count", ReadOptions{LimitBytes: number(26), Timestamps: true, TailLines: number(1)}, at(2) + "f"},
		} {
			if got := read(t, l, test.options); got != test.want {
				t.Errorf("%s: read %q, want %q.", test.name, got, test.want)
			}
		}
		l.Close()
		again, err := Open(s.options)
		if err != nil {
			t.Fatal(err)
		}
		defer again.Close()
		for name, s := range map[string]*Store{"ended": s, "opened again": again} {
			l, err := s.Get(uid, false)
			if err != nil {
				t.Fatal(err)
			}
			want := at(1) + "four\n" + at(2) + "\n" + at(2) + "five"
			if got := read(t, l, ReadOptions{Timestamps: true, TailLines: number(3), Follow: true}); got != want {
				t.Errorf("%s: read %q, want %q.", name, got, want)
			}
		}
	})
}

// The end of a long output is kept in whole lines, and tails and times work across its files.
func TestTheEndOfALongOutputIsKept(t *testing.T) {
	inMemoryAndInFiles(t, testTheEndOfALongOutputIsKept)
}

func testTheEndOfALongOutputIsKept(t *testing.T, place func(*Store) *Store) {
	const maxSize, last = 64 << 10, 20_000
	s := place(open(t, func(o *Options) { o.MaxSize = maxSize }))
	l := s.Create(lone(uid, 1))
	all := lines(1, last)
	for text := all; text != ""; {
		n := min(len(text), 1000)
		write(t, l, text[:n])
		text = text[n:]
	}
	got, cut := strings.CutPrefix(read(t, l, ReadOptions{}), beginningLine)
	if !cut {
		t.Errorf("It begins with %q, without the notice that the beginning is not kept.", got[:60])
	}
	if !strings.HasSuffix(all, got) || len(got) < maxSize/2 || len(got) > maxSize || !strings.HasPrefix(got, "line ") {
		t.Errorf("Kept %d bytes from %q, want the last lines of %d bytes.", len(got), got[:min(20, len(got))], maxSize)
	}
	for _, n := range []int64{1, 1000, 3000} {
		if got := read(t, l, ReadOptions{TailLines: &n}); got != lines(last-int(n)+1, last) {
			t.Errorf("The last %d lines are %d bytes from %q.", n, len(got), got[:20])
		}
	}
	stamped := strings.Split(strings.TrimSuffix(read(t, l, ReadOptions{Timestamps: true}), "\n"), "\n")
	if !strings.HasSuffix(stamped[0], "Z "+strings.TrimSuffix(beginningLine, "\n")) {
		t.Errorf("With timestamps it begins with %q.", stamped[0])
	}
	stamped = stamped[1:]
	format := regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z line \d+$`)
	for i, line := range stamped {
		if !format.MatchString(line) || i > 0 && line[:len(lineio.TimeFormat)] < stamped[i-1][:len(lineio.TimeFormat)] {
			t.Fatalf("Line %d is %q, after %q.", i, line, stamped[max(0, i-1)])
		}
	}
	if kept := s.total.Load(); kept > maxSize+maxSegments*overhead {
		t.Errorf("The store counts %d bytes.", kept)
	}
	if names := files(t, s); len(names) > 2*maxSegments {
		t.Errorf("The files are %v.", names)
	}
}

// Commands that buffer their output write it in pieces that end in the middle of lines.
func TestAFileStartsWithALineWhereverPiecesEnd(t *testing.T) {
	for _, size := range []int{1, 63, 1000, 5000} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			s := inFiles(open(t, func(o *Options) { o.MaxSize = MinSize }))
			l := s.Create(lone(uid, 1))
			for piece := range slices.Chunk([]byte(lines(100_000, 100_000+6*MinSize/len("line 100000\n"))), size) {
				write(t, l, string(piece))
				for _, p := range l.segments[max(0, len(l.segments)-1):] {
					if content, err := os.ReadFile(s.path(l.name(p.n, logExt))); err != nil || len(content) > 5 && !strings.HasPrefix(string(content), "line ") {
						t.Fatalf("File %d begins with %.20q, %v.", p.n, content, err)
					}
					if p.bytes() > MinSize/maxSegments {
						t.Fatalf("File %d has %d bytes.", p.n, p.bytes())
					}
				}
			}
			if last := l.last.n; last < maxSegments {
				t.Errorf("Only %d files were written.", last+1)
			}
		})
	}
}

func TestLinesLongerThanAFileAreKeptAsTheyAre(t *testing.T) {
	inMemoryAndInFiles(t, testLinesLongerThanAFileAreKeptAsTheyAre)
}

func testLinesLongerThanAFileAreKeptAsTheyAre(t *testing.T, place func(*Store) *Store) {
	s := place(open(t, func(o *Options) { o.MaxSize = MinSize }))
	l := s.Create(lone(uid, 1))
	write(t, l, "short\n")
	write(t, l, strings.Repeat("x", 3*MinSize/maxSegments)+"\nend\n")
	if got, want := read(t, l, ReadOptions{}), strings.Repeat("x", MinSize/maxSegments); !strings.Contains(got, want) || !strings.HasSuffix(got, "x\nend\n") {
		t.Errorf("Kept %d bytes, ending in %q.", len(got), got[max(0, len(got)-10):])
	}
}

func TestNoFilesForNoOutput(t *testing.T) {
	s := open(t)
	l := s.Create(lone(uid, 1))
	write(t, l, "")
	l.Close()
	if names := files(t, s); len(names) != 0 {
		t.Errorf("There are %v.", names)
	}
	found, err := s.Get(uid, false)
	if err != nil {
		t.Fatal(err)
	}
	if got := read(t, found, ReadOptions{Follow: true}); got != "" {
		t.Errorf("Read %q.", got)
	}
	for i := range maxEmpty {
		s.Create(lone(types.UID(fmt.Sprint(i)), 1)).Close()
	}
	if _, err := s.Get(uid, false); err == nil || len(s.tasks) != maxEmpty || len(s.empty) != maxEmpty {
		t.Errorf("%d attempts without output are remembered, and %d.", len(s.tasks), len(s.empty))
	}
}

func TestOneFileForOutputOfOneTime(t *testing.T) {
	inMemoryAndInFiles(t, testOneFileForOutputOfOneTime)
}

func testOneFileForOutputOfOneTime(t *testing.T, place func(*Store) *Store) {
	synctest.Test(t, func(t *testing.T) {
		s := place(open(t))
		l := s.Create(lone(uid, 1))
		write(t, l, "a\n")
		write(t, l, "b\n")
		l.Close()
		if names := files(t, s); len(names) != 1 {
			t.Errorf("There are %v.", names)
		}
	})
}

func TestAttempts(t *testing.T) { inMemoryAndInFiles(t, testAttempts) }

func testAttempts(t *testing.T, place func(*Store) *Store) {
	s := place(open(t))
	for _, attempt := range []int32{1, 3, 4} {
		l := s.Create(lone(uid, attempt))
		write(t, l, fmt.Sprint("attempt ", attempt))
		l.Close()
	}
	again, err := Open(s.options)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	for name, s := range map[string]*Store{"as written": s, "opened again": again} {
		for previous, want := range map[bool]string{false: "attempt 4", true: "attempt 3"} {
			l, err := s.Get(uid, previous)
			if err != nil {
				t.Fatal(err)
			}
			if got := read(t, l, ReadOptions{}); got != want {
				t.Errorf("%s, previous %t: read %q.", name, previous, got)
			}
		}
	}
	l := s.Create(lone(uid, 4))
	write(t, l, "attempt 4 again")
	if got := read(t, l, ReadOptions{}); got != "attempt 4 again" {
		t.Errorf("The attempt that started again reads %q.", got)
	}
	s.Create(lone(uid, 6))
	for task, want := range map[types.UID]string{uid: "attempt 5: another worker ran it", "none": "keeps no output of the task"} {
		var notKept *NotKeptError
		if _, err := s.Get(task, true); !errors.As(err, &notKept) || !strings.Contains(err.Error(), want) {
			t.Errorf("The attempt before the last of %s: %v, want it to say %q.", task, err, want)
		}
	}
	s.Create(lone("first", 1))
	if _, err := s.Get("first", true); err == nil || !strings.Contains(err.Error(), "no attempt before attempt 1") {
		t.Errorf("The attempt before the first: %v.", err)
	}
}

func TestAFollowerSeesWhatIsWrittenUntilTheEnd(t *testing.T) {
	inMemoryAndInFiles(t, testAFollowerSeesWhatIsWrittenUntilTheEnd)
}

func testAFollowerSeesWhatIsWrittenUntilTheEnd(t *testing.T, place func(*Store) *Store) {
	for _, options := range []ReadOptions{{Follow: true}, {Follow: true, Timestamps: true}} {
		s := place(open(t))
		l := s.Create(lone(uid, 1))
		in, out := io.Pipe()
		flushed := make(chan struct{}, 100)
		ended := make(chan error, 1)
		go func() {
			err := l.Read(t.Context(), out, func() { flushed <- struct{}{} }, options)
			out.Close()
			ended <- err
		}()
		<-flushed // a follower flushes before it waits, even if there is nothing
		buffer := make([]byte, 100)
		for _, text := range []string{"a\n", "b", "c\n"} {
			write(t, l, text)
			var got string
			for !strings.HasSuffix(got, text) {
				n, err := in.Read(buffer)
				if err != nil {
					t.Fatalf("Read %q after %q was written, then %v.", got, text, err)
				}
				got += string(buffer[:n])
			}
			<-flushed
		}
		l.Close()
		if n, err := in.Read(buffer); n != 0 || err != io.EOF {
			t.Errorf("At the end %q and %v were read.", buffer[:n], err)
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

func TestAFollowerThatGoesAwayIsLetGo(t *testing.T) {
	inMemoryAndInFiles(t, testAFollowerThatGoesAwayIsLetGo)
}

func testAFollowerThatGoesAwayIsLetGo(t *testing.T, place func(*Store) *Store) {
	s := place(open(t))
	l := s.Create(lone(uid, 1))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- l.Read(ctx, io.Discard, cancel, ReadOptions{Follow: true}) }()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("Reading ended with %v.", err)
	}
	failed := errors.New("gone")
	in, out := io.Pipe()
	in.CloseWithError(failed)
	write(t, l, "a\n")
	if err := l.Read(t.Context(), out, func() {}, ReadOptions{Follow: true}); !errors.Is(err, failed) {
		t.Errorf("Reading ended with %v.", err)
	}
}

// A follower that is slower than the command continues with the first line that is kept.
func TestASlowFollowerMissesWhatIsDropped(t *testing.T) {
	inMemoryAndInFiles(t, testASlowFollowerMissesWhatIsDropped)
}

func testASlowFollowerMissesWhatIsDropped(t *testing.T, place func(*Store) *Store) {
	const last = 20_000
	for _, timestamps := range []bool{false, true} {
		s := place(open(t, func(o *Options) { o.MaxSize = 64 << 10 }))
		l := s.Create(lone(uid, 1))
		write(t, l, lines(1, 2)+"half a")
		in, out := io.Pipe()
		go func() {
			out.CloseWithError(l.Read(t.Context(), out, func() {}, ReadOptions{Follow: true, Timestamps: timestamps}))
		}()
		if _, err := io.ReadFull(in, make([]byte, 3)); err != nil {
			t.Fatal(err)
		}
		write(t, l, " line\n")
		for i := 3; i <= last; i++ {
			write(t, l, lines(i, i))
		}
		l.Close()
		rest, err := io.ReadAll(in)
		if err != nil {
			t.Fatal(err)
		}
		const missing = `\[leat: \d+ bytes of output are missing here: they had to make room\]\n`
		begins := map[bool]string{false: "half a\n" + missing + "line ", true: `half a\n\S+Z ` + missing + `\S+Z line `}[timestamps]
		if !regexp.MustCompile(begins).Match(rest) {
			t.Errorf("Timestamps %t: a line was mixed with another, or has no time.", timestamps)
		}
		var numbers []int
		for _, match := range regexp.MustCompile(`(?m)line (\d+)$`).FindAllStringSubmatch(string(rest), -1) {
			if n, _ := strconv.Atoi(match[1]); n > 2 {
				numbers = append(numbers, n)
			}
		}
		if n := len(numbers); n < 100 || n > last/2 || numbers[n-1] != last || numbers[0] != last-n+1 {
			t.Errorf("Timestamps %t: %d lines were read after the first two, from %v.", timestamps, n, numbers[:min(n, 3)])
		}
	}
}

// Followers that keep up miss nothing while files are rotated. The others read whole lines in increasing order.
func TestConcurrentReadersAndWriters(t *testing.T) {
	inMemoryAndInFiles(t, testConcurrentReadersAndWriters)
}

func testConcurrentReadersAndWriters(t *testing.T, place func(*Store) *Store) {
	const last = 30_000
	s := place(open(t, func(o *Options) { o.MaxSize = 256 << 10 }))
	var writers, readers sync.WaitGroup
	for task := range 3 {
		l := s.Create(lone(types.UID(fmt.Sprint("task-", task)), 1))
		for _, timestamps := range []bool{false, true} {
			readers.Go(func() {
				in, out := io.Pipe()
				go func() {
					out.CloseWithError(l.Read(t.Context(), out, func() {}, ReadOptions{Follow: true, Timestamps: timestamps}))
				}()
				content, err := io.ReadAll(in)
				if err != nil {
					t.Errorf("Reading along: %v.", err)
				}
				previous := 0
				all := slices.Collect(strings.Lines(string(content)))
				for i, line := range all {
					if strings.Contains(line, "[leat: ") || i+1 < len(all) && strings.Contains(all[i+1], "[leat: ") {
						continue // a notice, or the line before, whose end may be missing
					}
					var n int
					if _, err := fmt.Sscanf(line[strings.Index(line, "line"):], "line %d\n", &n); err != nil || n <= previous {
						t.Errorf("After line %d came %q: %v.", previous, line, err)
						return
					}
					previous = n
				}
				if previous != last {
					t.Errorf("The last line read is %d.", previous)
				}
			})
		}
		writers.Go(func() {
			for i := 1; i <= last; i++ {
				_, _ = fmt.Fprintf(l, "line %d\n", i)
				if i%1000 == 0 {
					n := int64(10)
					if got := read(t, l, ReadOptions{TailLines: &n}); got != lines(i-9, i) {
						t.Errorf("The last 10 lines are %q.", got)
					}
				}
			}
			l.Close()
		})
	}
	writers.Wait()
	readers.Wait()
}

func TestTheOldestAreRemovedFirst(t *testing.T) {
	const size = 20 << 10
	s := inFiles(open(t, func(o *Options) { o.MaxSize, o.MaxTotalSize = 64<<10, 4*(size+2*overhead) }))
	text := strings.Repeat("0123456789abcde\n", size/16)
	put := func(name string, end bool) *Log {
		l := s.Create(lone(types.UID(name), 1))
		write(t, l, text)
		if end {
			l.Close()
		}
		return l
	}
	running := put("running", false)
	var slow *Log
	for i := range 6 {
		l := put(fmt.Sprint("ended-", i), true)
		if i == 2 {
			slow = l
		}
	}
	for name, kept := range map[types.UID]bool{"running": true, "ended-0": false, "ended-1": false, "ended-2": false, "ended-3": true, "ended-5": true} {
		if _, err := s.Get(name, false); (err == nil) != kept {
			t.Errorf("%s: %v, want it kept: %t.", name, err, kept)
		}
	}
	if err := slow.Read(t.Context(), io.Discard, func() {}, ReadOptions{}); !errors.Is(err, ErrRemoved) {
		t.Errorf("Reading what is gone: %v.", err)
	}
	if total := s.total.Load(); total > s.options.MaxTotalSize || len(files(t, s)) < 8 {
		t.Errorf("%d bytes are kept, of %d, in %v.", total, s.options.MaxTotalSize, files(t, s))
	}
	// Only running attempts are left to cut.
	for i := range 10 {
		put(fmt.Sprint("running-", i), false)
	}
	write(t, running, text)
	if got := strings.TrimPrefix(read(t, running, ReadOptions{}), beginningLine); len(got) > 16<<10 || len(got) == 0 || !strings.HasSuffix(text, got) {
		t.Errorf("%d bytes are kept of what runs.", len(got))
	}
	again, err := Open(s.options)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if total := again.total.Load(); total > s.options.MaxTotalSize || len(again.ended) == 0 {
		t.Errorf("Opened again, %d bytes are kept of %d attempts.", total, len(again.ended))
	}
}

func TestRetention(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, func(o *Options) { o.Retention = time.Hour })
		for i := range 3 {
			l := s.Create(lone(types.UID(fmt.Sprint("task-", i)), 1))
			write(t, l, "a\n")
			l.Close()
			time.Sleep(20 * time.Minute)
		}
		for left := 2; left >= 0; left-- {
			time.Sleep(time.Minute)
			synctest.Wait()
			s.mu.Lock()
			tasks := len(s.tasks)
			s.mu.Unlock()
			if n := len(files(t, s)); n != left || tasks != left {
				t.Errorf("%d files and %d tasks are left, want %d.", n, tasks, left)
			}
			time.Sleep(19 * time.Minute)
		}
		if total := s.total.Load(); total != 0 {
			t.Errorf("The store counts %d bytes.", total)
		}
		s.Close()
	})
}

func TestOpenLoadsTheDirectory(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{
		"a.1.0.log": "one\n", "a.1.7.log": "two\n", "a.1.3.idx": "orphan", "b.2.0.log": "", "b.2.0.idx": "0123456789abcdef",
		"c.log": "?", "d.x.0.log": "?", "README": "?",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := open(t, func(o *Options) { o.Dir = dir })
	l, err := s.Get("a", false)
	if err != nil {
		t.Fatal(err)
	}
	if got := read(t, l, ReadOptions{}); got != "one\ntwo\n" {
		t.Errorf("Read %q.", got)
	}
	if names := fmt.Sprint(files(t, s)); names != "[README a.1.0.log a.1.7.log c.log d.x.0.log]" {
		t.Errorf("There are %s.", names)
	}
	if len(s.tasks) != 1 {
		t.Errorf("%d tasks are known.", len(s.tasks))
	}
}

// smallDisk mounts a file system of 1 MiB and returns its directory. fill uses all of its space and empty frees that.
// ok is false where no file system can be mounted.
func smallDisk(t *testing.T) (dir string, fill, empty func(), ok bool) {
	t.Helper()
	dir = t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Log("This machine lets no file system be mounted, so no disk is full:", err)
		return "", nil, nil, false
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	ballast := filepath.Join(dir, "ballast")
	fill = func() {
		file, err := os.Create(ballast)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		for err == nil {
			_, err = file.Write(make([]byte, 4096))
		}
		if !errors.Is(err, unix.ENOSPC) {
			t.Fatal(err)
		}
	}
	empty = func() {
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
	}
	return dir, fill, empty, true
}

func reopen(t *testing.T, s *Store) *Log {
	t.Helper()
	again, err := Open(s.options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(again.Close)
	l, err := again.Get(uid, false)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

var missingOutput = regexp.MustCompile(`\[leat: (\d+) bytes of output are missing here: ([^\]]+)\]\n`)

func TestAFullDiskIsReportedInThePlaceOfTheOutput(t *testing.T) {
	dir, fill, empty, ok := smallDisk(t)
	if !ok {
		return
	}
	s := inFiles(open(t, func(o *Options) { o.Dir = filepath.Join(dir, "logs") }))
	l := s.Create(lone(uid, 1))
	write(t, l, "before\nhalf ")
	fill()
	lost := strings.Repeat("0123456789abcde\n", 2048)
	write(t, l, lost)
	if !errors.Is(l.Missing(), unix.ENOSPC) {
		t.Errorf("Missing returns %v.", l.Missing())
	}
	// A reader at this time gets the notice too.
	if got := read(t, l, ReadOptions{}); !strings.HasSuffix(got, "no space left on device]\n") {
		t.Errorf("While the disk is full, the end of what is read is %q.", got[max(0, len(got)-100):])
	}
	empty()
	write(t, l, "after\n")
	l.Close()
	if l.Missing() != nil {
		t.Errorf("Once there is space again, there is still %v.", l.Missing())
	}
	for name, l := range map[string]*Log{"in the same process": l, "in the next process": reopen(t, s)} {
		got := read(t, l, ReadOptions{})
		m := missingOutput.FindStringSubmatchIndex(got)
		if m == nil {
			t.Fatalf("%s: no notice of missing output in %q.", name, got)
		}
		n, _ := strconv.Atoi(got[m[2]:m[3]])
		before, after := got[:m[0]], got[m[1]:]
		if kept := strings.TrimSuffix(before, "\n"); !strings.HasPrefix("before\nhalf "+lost, kept) || len(kept)+n < len("before\nhalf "+lost) ||
			len(before)+n > len("before\nhalf "+lost)+1 || after != "after\n" || got[m[4]:m[5]] != "no space left on device" {
			t.Errorf("%s: %d bytes, then %q, then %q.", name, len(before), got[m[0]:m[1]], after)
		}
	}
}

func TestADiskThatStaysFullIsReportedAtTheEnd(t *testing.T) {
	dir, fill, empty, ok := smallDisk(t)
	if !ok {
		return
	}
	s := inFiles(open(t, func(o *Options) { o.Dir = filepath.Join(dir, "logs") }))
	l := s.Create(lone(uid, 1))
	text := strings.Repeat("0123456789abcde\n", 512)
	write(t, l, text)
	fill()
	write(t, l, strings.Repeat("0123456789abcde\n", 512))
	in, out := io.Pipe()
	go func() { out.CloseWithError(l.Read(t.Context(), out, func() {}, ReadOptions{Follow: true})) }()
	if _, err := io.ReadFull(in, make([]byte, len(text))); err != nil {
		t.Fatal(err)
	}
	l.Close()
	if rest, err := io.ReadAll(in); err != nil || !missingOutput.Match(rest) {
		t.Errorf("A follower reads %q, %v.", rest, err)
	}
	empty()
	for name, l := range map[string]*Log{"in the same process": l, "in the next process": reopen(t, s)} {
		got := read(t, l, ReadOptions{})
		m := missingOutput.FindStringSubmatchIndex(got)
		if m == nil || m[1] != len(got) {
			t.Fatalf("%s: the end is %q.", name, got[max(0, len(got)-100):])
		}
		n, _ := strconv.Atoi(got[m[2]:m[3]])
		kept := strings.TrimSuffix(got[:m[0]], "\n")
		if n+len(kept) < 2*len(text) || n+len(kept) > 2*len(text)+1 || !strings.HasPrefix(text+text, kept) {
			t.Errorf("%s: %d bytes are kept and %d reported as missing, of %d.", name, len(kept), n, 2*len(text))
		}
	}
}

func TestOutputThatCannotBeKeptIsNotReadAsEmpty(t *testing.T) {
	inMemoryAndInFiles(t, testOutputThatCannotBeKeptIsNotReadAsEmpty)
}

func testOutputThatCannotBeKeptIsNotReadAsEmpty(t *testing.T, place func(*Store) *Store) {
	dir, fill, _, ok := smallDisk(t)
	if !ok {
		return
	}
	s := place(open(t, func(o *Options) { o.Dir = filepath.Join(dir, "logs") }))
	fill()
	l := s.Create(lone(uid, 1))
	write(t, l, "lost\n")
	l.Close()
	for _, options := range []ReadOptions{{}, {Follow: true}, {Timestamps: true}} {
		if got := read(t, l, options); !strings.HasSuffix(got, "[leat: 5 bytes of output are missing here: no space left on device]\n") {
			t.Errorf("With %+v it reads %q.", options, got)
		}
	}
}

func TestARemovedDirectoryIsCreatedAgain(t *testing.T) {
	for _, before := range []string{"", "gone\n", "gone in the middle of a li"} {
		s := inFiles(open(t))
		l := s.Create(lone(uid, 1))
		write(t, l, before)
		if err := os.RemoveAll(s.options.Dir); err != nil {
			t.Fatal(err)
		}
		write(t, l, "a\n")
		write(t, l, "b\n")
		l.Close()
		want := "a\nb\n"
		if before != "" {
			want = fmt.Sprintf("%s[leat: %d bytes of output are missing here: the file with them was removed]\na\nb\n", beginningLine, len(before))
		}
		for name, l := range map[string]*Log{"in the same process": l, "in the next process": reopen(t, s)} {
			if got := read(t, l, ReadOptions{Follow: true}); got != want {
				t.Errorf("%s, after %q: read %q, want %q.", name, before, got, want)
			}
		}
		if total := s.total.Load(); total < overhead || total > 2*overhead+entrySize*10 {
			t.Errorf("The store counts %d bytes.", total)
		}
	}
	// The command prints nothing more.
	s := inFiles(open(t))
	l := s.Create(lone(uid, 1))
	write(t, l, "gone\n")
	if err := os.RemoveAll(s.options.Dir); err != nil {
		t.Fatal(err)
	}
	l.Close()
	if got := read(t, l, ReadOptions{}); !strings.HasSuffix(got, "[leat: 5 bytes of output are missing here: the file with them was removed]\n") {
		t.Errorf("Read %q.", got)
	}
}

// A process that was killed between its two writes has written a time without output.
func TestATimeWithoutOutputIsIgnored(t *testing.T) {
	dir := t.TempDir()
	index := appendEntry(appendEntry(nil, 0, 1000), int64(len("one\n")), 2000)
	for name, content := range map[string]string{string(uid) + ".1.0.log": "one\n", string(uid) + ".1.0.idx": string(index)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := open(t, func(o *Options) { o.Dir = dir })
	l, err := s.Get(uid, false)
	if err != nil {
		t.Fatal(err)
	}
	if got := read(t, l, ReadOptions{Since: time.UnixMilli(1500)}); got != "" {
		t.Errorf("Since later than all lines there is %q.", got)
	}
}

func TestFilesThatOthersRemoveEndReads(t *testing.T) {
	s := inFiles(open(t))
	l := s.Create(lone(uid, 1))
	write(t, l, "a\n")
	for _, name := range files(t, s) {
		if err := os.Remove(s.path(name)); err != nil {
			t.Fatal(err)
		}
	}
	one := int64(1)
	for _, options := range []ReadOptions{{}, {TailLines: &one}, {Since: time.Now().Add(-time.Hour)}, {Follow: true}} {
		err := l.Read(t.Context(), io.Discard, func() {}, options)
		if !errors.Is(err, ErrRemoved) {
			t.Errorf("Reading %+v ended with %v.", options, err)
		}
	}
}

func TestInvalidSizes(t *testing.T) {
	for _, sizes := range [][2]int64{{MinSize - 1, 1 << 30}, {MinSize, MinSize - 1}, {0, 0}} {
		if _, err := Open(Options{Dir: t.TempDir(), MaxSize: sizes[0], MaxTotalSize: sizes[1]}); err == nil {
			t.Errorf("Opened with %v.", sizes)
		}
	}
	if _, err := Open(Options{Dir: "/dev/null/logs", MaxSize: MinSize, MaxTotalSize: MinSize}); err == nil {
		t.Error("Opened where nothing can be.")
	}
}

func TestANilStoreKeepsNothing(t *testing.T) {
	var s *Store
	l := s.Create(lone(uid, 1))
	write(t, l, "a\n")
	l.Close()
	s.Close()
	if _, err := s.Get(uid, false); err == nil {
		t.Error("Something was kept.")
	}
}

func BenchmarkWrite(b *testing.B) {
	for _, size := range []int{100, 32 << 10} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			s, err := Open(Options{Dir: b.TempDir(), MaxSize: DefaultMaxSize, MaxTotalSize: DefaultMaxTotalSize, Retention: DefaultRetention})
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			l := s.Create(lone(uid, 1))
			block := []byte(strings.Repeat("0123456789abcdefghijklmnopqrstu\n", size/32+1)[:size])
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				_, _ = l.Write(block)
			}
		})
	}
}

func BenchmarkAttempt(b *testing.B) {
	for name, output := range map[string]string{"silent": "", "a line": "hello\n"} {
		b.Run(name, func(b *testing.B) {
			s, err := Open(Options{Dir: b.TempDir(), MaxSize: DefaultMaxSize, MaxTotalSize: DefaultMaxSize, Retention: DefaultRetention})
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				l := s.Create(lone(types.UID(fmt.Sprint("7a3c1b52-0000-4000-8000-", i)), 1))
				_, _ = l.Write([]byte(output))
				l.Close()
			}
		})
	}
}
