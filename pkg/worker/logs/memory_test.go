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
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/leat-dev/leat/pkg/worker/attempt"
)

func TestOutputIsInMemoryForASecond(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*Options)
		output func(t *testing.T, l *Log)
		want   int // files
	}{
		"at first": {output: func(t *testing.T, l *Log) { write(t, l, "a\n") }},
		"up to its limit": {output: func(t *testing.T, l *Log) {
			for range memorySize / 16 {
				write(t, l, "0123456789abcde\n")
			}
		}},
		"beyond its limit": {want: 1, output: func(t *testing.T, l *Log) {
			for range memorySize/16 + 1 {
				write(t, l, "0123456789abcde\n")
			}
		}},
		"up to the size of a file": {
			change: func(o *Options) { o.MaxSize = MinSize },
			output: func(t *testing.T, l *Log) { write(t, l, strings.Repeat("x\n", MinSize/maxSegments/4)) },
		},
		"beyond the size of a file": {
			want:   2,
			change: func(o *Options) { o.MaxSize = MinSize },
			output: func(t *testing.T, l *Log) { write(t, l, strings.Repeat("x\n", MinSize/maxSegments*3/4)) },
		},
		"until a second has passed": {want: 1, output: func(t *testing.T, l *Log) {
			write(t, l, "a\n")
			time.Sleep(memoryTime)
			synctest.Wait()
		}},
		"until a second has passed, with times": {want: 2, output: func(t *testing.T, l *Log) {
			write(t, l, "a\n")
			time.Sleep(memoryTime / 2)
			write(t, l, "b\n")
			time.Sleep(memoryTime / 2)
			synctest.Wait()
		}},
		"after that": {want: 1, output: func(t *testing.T, l *Log) {
			time.Sleep(memoryTime)
			write(t, l, "a\n")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				if test.change == nil {
					test.change = func(*Options) {}
				}
				s := open(t, test.change)
				l := s.Create(lone(uid, 1))
				test.output(t, l)
				if names := files(t, s); len(names) != test.want {
					t.Errorf("There are %v, want %d.", names, test.want)
				}
				if total := s.total.Load(); (total > 0) != (test.want > 0) {
					t.Errorf("The store counts %d bytes.", total)
				}
				before := read(t, l, ReadOptions{Timestamps: true})
				l.Close()
				s.Close()
				for name, l := range map[string]*Log{"ended": l, "opened again": reopen(t, s)} {
					if got := read(t, l, ReadOptions{}); strings.Count(before, "\n") != strings.Count(got, "\n") || got == "" {
						t.Errorf("%s: read %d bytes, and %d before with times.", name, len(got), len(before))
					}
				}
				if now := read(t, l, ReadOptions{Timestamps: true}); now != before {
					t.Error("Times have changed.")
				}
			})
		})
	}
}

// A reader that has read from memory goes on in the files.
func TestAReaderGoesOnWhenMemoryIsMovedToFiles(t *testing.T) {
	for _, options := range []ReadOptions{{Follow: true}, {Follow: true, Timestamps: true}} {
		synctest.Test(t, func(t *testing.T) {
			s := open(t)
			l := s.Create(lone(uid, 1))
			out := make(chan string, 100)
			ended := make(chan error, 1)
			go func() { ended <- l.Read(t.Context(), channelWriter(out), func() {}, options) }()
			write(t, l, "a\nb")
			synctest.Wait()
			time.Sleep(10 * time.Millisecond)
			write(t, l, "c\n")
			synctest.Wait()
			if got := drain(out); !strings.HasSuffix(got, "c\n") || len(files(t, s)) > 0 {
				t.Errorf("Read %q, and there are %v.", got, files(t, s))
			}
			time.Sleep(memoryTime)
			write(t, l, "d\n")
			synctest.Wait()
			if got := drain(out); !strings.HasSuffix(got, "d\n") || len(files(t, s)) != 2 {
				t.Errorf("Read %q, and there are %v.", got, files(t, s))
			}
			l.Close()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
	}
}

// The race detector checks that no buffer is used by two.
func TestBuffersAreNotSharedByOutputs(t *testing.T) {
	s := open(t)
	var all sync.WaitGroup
	for task := range 4 {
		all.Go(func() {
			for i := range 40 {
				l := s.Create(attempt.ID{Task: uid, Index: task*1000 + i, Number: 1})
				want := fmt.Sprintln("output of", task, i)
				fmt.Fprint(l, want)
				done := make(chan string, 1)
				go func() {
					var out strings.Builder
					_ = s.ReadTask(t.Context(), uid, &out, func() {}, TaskReadOptions{})
					done <- out.String()
				}()
				if got := read(t, l, ReadOptions{}); got != want {
					t.Errorf("Read %q, want %q.", got, want)
				}
				if i%2 == 0 {
					l.CloseAndRemove()
				} else {
					l.Close()
				}
				for line := range strings.Lines(<-done) {
					if !strings.HasPrefix(line, "output of ") {
						t.Errorf("A reader has got %q.", line)
					}
				}
			}
		})
	}
	all.Wait()
}

func TestOutputThatIsKeptElsewhereGetsNoFiles(t *testing.T) {
	inMemoryAndInFiles(t, func(t *testing.T, place func(*Store) *Store) {
		s := place(open(t))
		l := s.Create(lone(uid, 1))
		write(t, l, "a\n")
		l.CloseAndRemove()
		l.Close()
		write(t, l, "late\n")
		notKept := (*NotKeptError)(nil)
		if _, err := s.Get(uid, false); !errors.As(err, &notKept) {
			t.Errorf("The output is there still: %v.", err)
		}
		if names := files(t, s); len(names) > 0 || s.total.Load() != 0 || len(s.tasks) > 0 || len(s.ended)+len(s.empty) > 0 {
			t.Errorf("There are %v, and the store counts %d bytes and %d tasks.", names, s.total.Load(), len(s.tasks))
		}
	})
}

func TestFollowersOfOutputThatIsKeptElsewhereGetItsEnd(t *testing.T) {
	inMemoryAndInFiles(t, func(t *testing.T, place func(*Store) *Store) {
		s := place(open(t))
		l := s.Create(lone(uid, 1))
		in, out := io.Pipe()
		go func() {
			out.CloseWithError(s.ReadTask(t.Context(), uid, out, func() {}, TaskReadOptions{ReadOptions: ReadOptions{Follow: true}}))
		}()
		write(t, l, "first\n")
		if _, err := io.ReadFull(in, make([]byte, 3)); err != nil {
			t.Fatal(err)
		}
		write(t, l, "last\n")
		l.CloseAndRemove()
		if rest, err := io.ReadAll(in); err != nil || string(rest) != "st\nlast\n" {
			t.Errorf("Read %q, %v.", rest, err)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if names := files(t, s); len(names) > 0 || len(s.tasks) > 0 || s.total.Load() != 0 {
			t.Errorf("Afterwards there are %v.", names)
		}
	})
}

func TestAFollowerOfIndexesThatAreKeptElsewhereGetsAll(t *testing.T) {
	s := open(t)
	end := s.StartRun(uid)
	in, out := io.Pipe()
	index := func(index int) {
		l := s.Create(attempt.ID{Task: uid, Index: index, Number: 1})
		fmt.Fprintln(l, "output of", index)
		l.CloseAndRemove()
	}
	first := s.Create(attempt.ID{Task: uid, Index: 0, Number: 1})
	write(t, first, "output of 0\n")
	go func() {
		out.CloseWithError(s.ReadTask(t.Context(), uid, out, func() {}, TaskReadOptions{ReadOptions: ReadOptions{Follow: true}}))
	}()
	if _, err := io.ReadFull(in, make([]byte, 3)); err != nil {
		t.Fatal(err)
	}
	first.CloseAndRemove()
	for i := 1; i <= 3; i++ {
		index(i)
	}
	end()
	if rest, err := io.ReadAll(in); err != nil || string(rest) != "put of 0\noutput of 1\noutput of 2\noutput of 3\n" {
		t.Errorf("Read %q, %v.", rest, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.tasks) > 0 || len(s.ended) > 0 {
		t.Errorf("Afterwards %d tasks and %d logs are there.", len(s.tasks), len(s.ended))
	}
}

func TestMemoryThatCannotBeMovedToFilesIsMissing(t *testing.T) {
	dir, fill, empty, ok := smallDisk(t)
	if !ok {
		return
	}
	synctest.Test(t, func(t *testing.T) {
		s := open(t, func(o *Options) { o.Dir = filepath.Join(dir, "logs") })
		fill()
		l := s.Create(lone(uid, 1))
		write(t, l, "lost\n")
		if got := read(t, l, ReadOptions{}); got != "lost\n" || l.Missing() != nil {
			t.Errorf("From memory %q is read, %v.", got, l.Missing())
		}
		time.Sleep(memoryTime)
		synctest.Wait()
		if !errors.Is(l.Missing(), unix.ENOSPC) {
			t.Errorf("Missing returns %v.", l.Missing())
		}
		const missing = "[leat: 5 bytes of output are missing here: no space left on device]\n"
		if got := read(t, l, ReadOptions{}); got != missing {
			t.Errorf("From the full disk %q is read.", got)
		}
		empty()
		write(t, l, "after\n")
		l.Close()
		s.Close()
		for name, l := range map[string]*Log{"in the same process": l, "in the next process": reopen(t, s)} {
			if got := read(t, l, ReadOptions{}); got != beginningLine+missing+"after\n" {
				t.Errorf("%s: read %q.", name, got)
			}
		}
	})
}

func TestTheEndOfAnOutput(t *testing.T) {
	const last = 20_000
	all := lines(1, last)
	inMemoryAndInFiles(t, func(t *testing.T, place func(*Store) *Store) {
		s := place(open(t, func(o *Options) { o.MaxSize = 64 << 10 }))
		for name, test := range map[string]struct {
			output        string
			limit         int64
			want          string
			missing, size int64
		}{
			"nothing":            {"", 1000, "", 0, 0},
			"a short one":        {"a\nb", 1000, "a\nb", 0, 3},
			"one that just fits": {lines(1, 100), int64(len(lines(1, 100))), lines(1, 100), 0, int64(len(lines(1, 100)))},
			"one that is too long": {
				lines(1, 100), int64(len(lines(1, 100))) - 1, beginningLine + lines(8, 100), int64(len(lines(1, 7))), int64(len(lines(1, 100))),
			},
			"a line that is too long": {
				strings.Repeat("x", 1000), 100, beginningLine + strings.Repeat("x", 100-len(beginningLine)), int64(900 + len(beginningLine)), 1000,
			},
			"a limit without room": {lines(1, 100), 10, beginningLine, int64(len(lines(1, 100))), int64(len(lines(1, 100)))},
		} {
			l := s.Create(lone(uid, 1))
			write(t, l, test.output)
			var out bytes.Buffer
			size, missing, err := l.WriteEnd(&out, test.limit)
			if err != nil || out.String() != test.want || size != test.size || missing != test.missing {
				t.Errorf("%s: got %d bytes, %q…, of %d, %d are missing, %v; want %d bytes of %d, %d missing.", name,
					out.Len(), out.String()[:min(out.Len(), 100)], size, missing, err, len(test.want), test.size, test.missing)
			}
			l.Close()
		}
		l := s.Create(lone(uid, 2))
		write(t, l, all)
		var out bytes.Buffer
		size, missing, err := l.WriteEnd(&out, 1<<20)
		kept, cut := strings.CutPrefix(out.String(), beginningLine)
		if err != nil || !cut || !strings.HasSuffix(all, kept) || len(kept) < 32<<10 || size != int64(len(all)) || missing != size-int64(len(kept)) {
			t.Errorf("Of %d bytes %d are kept and %d missing, cut: %t, %v.", size, len(kept), missing, cut, err)
		}
		l.Close()
	})
}

func TestTheEndOfAnOutputWithoutALogIsEmpty(t *testing.T) {
	var l *Log
	var out bytes.Buffer
	if size, missing, err := l.WriteEnd(&out, 1000); size != 0 || missing != 0 || err != nil || out.Len() > 0 {
		t.Errorf("Got %d bytes of %d, %d are missing, %v.", out.Len(), size, missing, err)
	}
	l.CloseAndRemove()
}

func TestTheEndOfAnOutputReportsWhatIsMissing(t *testing.T) {
	s := inFiles(open(t))
	l := s.Create(lone(uid, 1))
	write(t, l, "gone\n")
	if err := os.RemoveAll(s.options.Dir); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	size, missing, err := l.WriteEnd(&out, 1000)
	if err == nil || size != 5 || missing != 5 || out.Len() != 0 {
		t.Errorf("Before the loss is known: %q of %d, %d are missing, %v.", out.String(), size, missing, err)
	}
	write(t, l, "a\n")
	out.Reset()
	size, missing, err = l.WriteEnd(&out, 1000)
	want := beginningLine + "[leat: 5 bytes of output are missing here: the file with them was removed]\na\n"
	if err != nil || out.String() != want || size != 7 || missing != 5 {
		t.Errorf("Got %q of %d, %d are missing, %v.", out.String(), size, missing, err)
	}
	l.recordMissing(3, errEvicted)
	l.printed += 3
	out.Reset()
	size, missing, err = l.WriteEnd(&out, 1000)
	want += "[leat: 3 bytes of output are missing here: they had to make room]\n"
	if err != nil || out.String() != want || size != 10 || missing != 8 {
		t.Errorf("Got %q of %d, %d are missing, %v.", out.String(), size, missing, err)
	}
}

func TestSilentAttemptsHaveNoMemory(t *testing.T) {
	s := open(t)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for index := range 1000 {
		s.Create(attempt.ID{Task: uid, Index: index, Number: 1})
	}
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; used > 1<<20 {
		t.Errorf("1000 running attempts without output have allocated %d bytes.", used)
	}
}
