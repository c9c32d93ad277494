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

package segment

import (
	"archive/zip"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/leat-dev/leat/apis/batch/indexes"
	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

const (
	testUID         = "11111111-2222-3333-4444-555555555555"
	testIncarnation = "66666666-7777-8888-9999-aaaaaaaaaaaa"
)

var (
	testStart  = time.Date(2026, 3, 4, 5, 6, 8, 123456000, time.UTC)
	testLimits = Limits{Size: MaxSize, Output: 1 << 20, Records: MaxSize}
)

// attempt is an attempt to be added.
type attempt struct {
	record batch.TaskRecord
	output []byte
}

// indexed returns the record of the first attempt at an index.
func indexed(index int32) batch.TaskRecord {
	record := batch.TaskRecord{
		Index: &index, TaskName: fmt.Sprintf("set-%d", index), TaskUID: testUID, Attempt: 1,
		WorkerName: "worker", Incarnation: testIncarnation,
		StartTime:            metav1.NewMicroTime(testStart.Add(time.Duration(index) * time.Second).Local()),
		DurationMilliseconds: 1500, Reason: batch.TaskReasonCompleted, CPUMilliseconds: 3, PeakMemoryBytes: 1 << 20,
	}
	return record
}

// lone returns the record of an attempt at a task without a set.
func lone(uid types.UID, number int32) batch.TaskRecord {
	record := indexed(0)
	record.Index, record.TaskUID, record.Attempt = nil, uid, number
	return record
}

// text returns output that deflates well, and noise output that does not.
func text(n int) []byte { return bytes.Repeat([]byte("some text\n"), n/10+1)[:n] }

func noise(n int) []byte {
	source := rand.NewChaCha8([32]byte{1})
	b := make([]byte, n)
	_, _ = source.Read(b)
	return b
}

// someAttempts are attempts with outputs of all kinds.
func someAttempts() []attempt {
	var attempts []attempt
	for i, output := range [][]byte{[]byte("hello\n"), nil, text(3000), noise(150), text(minDeflated), {0}} {
		record := indexed(int32(10 * i))
		record.OutputBytes = int64(len(output))
		attempts = append(attempts, attempt{record, output})
	}
	retried := indexed(0)
	retried.Failures, retried.Attempt, retried.ExitCode, retried.Reason = 1, 2, 3, batch.TaskReasonError
	return append(attempts, attempt{retried, []byte("again")})
}

// create creates a segment with attempts.
func create(t testing.TB, path string, attempts []attempt) *Writer {
	t.Helper()
	w, err := Create(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range attempts {
		if err := w.Add(&a.record, a.output); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

// closed returns the bytes of a closed segment with attempts.
func closed(t testing.TB, attempts []attempt) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s.zip")
	if err := create(t, path, attempts).Close(); err != nil {
		t.Fatal(err)
	}
	return read(t, path)
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	body, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// check checks that a reader has exactly these attempts.
func check(t *testing.T, r *Reader, attempts []attempt) {
	t.Helper()
	records, err := r.Records()
	if err != nil {
		t.Fatal(err)
	}
	if len(records) != len(attempts) || len(r.Entries()) != len(attempts) {
		t.Fatalf("%d records and %d entries of %d attempts", len(records), len(r.Entries()), len(attempts))
	}
	for i, a := range attempts {
		name := EntryName(&a.record)
		if !records[i].StartTime.Equal(&a.record.StartTime) {
			t.Errorf("%s: started at %v, want %v", name, records[i].StartTime, a.record.StartTime)
		}
		records[i].StartTime = a.record.StartTime // in another location
		if !reflect.DeepEqual(records[i], a.record) {
			t.Errorf("%s: record %+v, want %+v", name, records[i], a.record)
		}
		if e := r.Entries()[i]; e.Name != name || e.Size != int64(len(a.output)) {
			t.Errorf("entry %+v, want that of %s with %d bytes", e, name, len(a.output))
		}
		output, found, err := r.Output(name)
		if err != nil || !found || !bytes.Equal(output, a.output) {
			t.Errorf("%s: output %q, found %t, %v; want %q", name, output, found, err, a.output)
		}
	}
	if _, found, err := r.Output("99.0.1.log"); found || err != nil {
		t.Errorf("an attempt that is not in the segment: found %t, %v", found, err)
	}
}

func TestSegmentIsReadBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.zip")
	attempts := someAttempts()
	w := create(t, path, attempts)
	size := w.Size()
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(sidecar(path)); !os.IsNotExist(err) {
		t.Errorf("the sidecar file exists: %v", err)
	}
	body := read(t, path)
	if int64(len(body)) > size || w.Len() != len(attempts) {
		t.Errorf("%d bytes, and the writer has announced %d, and %d attempts", len(body), size, w.Len())
	}
	r, err := OpenFile(path, testLimits)
	if err != nil {
		t.Fatal(err)
	}
	check(t, r, attempts)
	check(t, r.WithReaderAt(bytes.NewReader(body)), attempts)

	summary, err := Verify(body, testLimits)
	want := &Summary{
		Attempts: 7, OutputBytes: 6 + 3000 + 150 + 100 + 1 + 5, WorkerName: "worker", Incarnation: testIncarnation,
		Indexes: []indexes.Range{{First: 0, Last: 0}, {First: 10, Last: 10}, {First: 20, Last: 20}, {First: 30, Last: 30}, {First: 40, Last: 40}, {First: 50, Last: 50}},
		First:   testStart, Last: testStart.Add(50 * time.Second),
	}
	if err == nil {
		summary.First, summary.Last = summary.First.UTC(), summary.Last.UTC()
	}
	if err != nil || !reflect.DeepEqual(summary, want) {
		t.Errorf("summary %+v, %v; want %+v", summary, err, want)
	}
}

func TestOtherProgramsReadSegments(t *testing.T) {
	attempts := someAttempts()
	body := closed(t, attempts)
	archive, err := zip.NewReader(bytes.NewReader(body), int64(len(body)))
	if err != nil {
		t.Fatal(err)
	}
	if len(archive.File) != len(attempts)+1 || archive.File[len(attempts)].Name != "records.jsonl" {
		t.Fatalf("%d files, want one for each attempt and records.jsonl", len(archive.File))
	}
	for i, file := range archive.File {
		content, err := file.Open()
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(content) // checks sizes and checksums
		if err != nil {
			t.Fatalf("%s: %v", file.Name, err)
		}
		if file.Mode() != 0o644 {
			t.Errorf("%s: mode %v", file.Name, file.Mode())
		}
		if i == len(attempts) {
			if lines := bytes.Count(got, []byte("\n")); lines != len(attempts) {
				t.Errorf("%d records of %d attempts", lines, len(attempts))
			}
			continue
		}
		ended := attempts[i].record.StartTime.Add(1500 * time.Millisecond)
		if after := ended.Sub(file.Modified); file.Name != EntryName(&attempts[i].record) || !bytes.Equal(got, attempts[i].output) ||
			after < 0 || after > 2*time.Second {
			t.Errorf("%s, %v, %q; want %s, %v, %q", file.Name, file.Modified, got, EntryName(&attempts[i].record), ended, attempts[i].output)
		}
	}
}

func TestSnapshotReadsWhatWasAddedSoFar(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.zip")
	attempts := someAttempts()
	w := create(t, path, attempts[:3])
	snapshot, err := w.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	check(t, snapshot, attempts[:3])
	for _, a := range attempts[3:] {
		if err := w.Add(&a.record, a.output); err != nil {
			t.Fatal(err)
		}
	}
	check(t, snapshot, attempts[:3])
	later, err := w.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	check(t, later, attempts)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	check(t, later, attempts) // the records are in the segment now
	if _, err := w.Snapshot(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("snapshot of a closed segment: %v", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, _, err := later.Output(EntryName(&attempts[0].record)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("output of a removed segment: %v", err)
	}
}

func TestSegmentsDoNotExceedTheirMaximumSize(t *testing.T) {
	for name, size := range map[string]int{"without output": 0, "small": 8 << 10, "large": 1 << 20} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "s.zip")
			w := create(t, path, nil)
			output := noise(size)
			var err error
			for index := int32(0); err == nil; index++ {
				record := indexed(index)
				record.Reason = strings.Repeat("Reason", 500)
				err = w.Add(&record, output)
			}
			if !errors.Is(err, ErrFull) || w.Len() == 0 {
				t.Fatalf("%v after %d attempts", err, w.Len())
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			if summary, err := Verify(read(t, path), testLimits); err != nil || summary.Attempts != w.Len() {
				t.Fatalf("%+v, %v; want %d attempts", summary, err, w.Len())
			}
		})
	}
	t.Run("an output that fits into no segment", func(t *testing.T) {
		w := create(t, filepath.Join(t.TempDir(), "s.zip"), nil)
		record := indexed(0)
		if err := w.Add(&record, noise(MaxSize)); !errors.Is(err, ErrFull) || w.Len() != 0 {
			t.Fatalf("%v", err)
		}
	})
}

func TestAddRefusesWhatCannotBeReadBack(t *testing.T) {
	negative, last := int32(-1), int32(1<<31-1)
	for name, test := range map[string]struct {
		change func(*batch.TaskRecord)
		err    string
	}{
		"same attempt":       {func(*batch.TaskRecord) {}, "has an entry of that name"},
		"negative index":     {func(r *batch.TaskRecord) { r.Index = &negative }, "at least 0"},
		"index past the end": {func(r *batch.TaskRecord) { r.Index = &last }, "less than 2147483647"},
		"negative attempt":   {func(r *batch.TaskRecord) { r.Attempt = -1 }, "at least 0"},
		"no UID":             {func(r *batch.TaskRecord) { r.Index, r.TaskUID = nil, "" }, "taskUID"},
		"UID with a slash":   {func(r *batch.TaskRecord) { r.Index, r.TaskUID = nil, "../x" }, "lowercase letters"},
		"no start":           {func(r *batch.TaskRecord) { r.StartTime = metav1.MicroTime{} }, "startTime must be set"},
		"long record":        {func(r *batch.TaskRecord) { r.Attempt, r.Reason = 9, strings.Repeat("x", maxLine) }, "at most 65536"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "s.zip")
			attempts := []attempt{{indexed(1), []byte("x")}}
			w := create(t, path, attempts)
			record := indexed(1)
			test.change(&record)
			if err := w.Add(&record, []byte("other")); err == nil || !strings.Contains(err.Error(), test.err) {
				t.Fatalf("error %v, want one that has %q", err, test.err)
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			r, err := OpenFile(path, testLimits)
			if err != nil {
				t.Fatal(err)
			}
			check(t, r, attempts)
		})
	}
}

func TestFailedAddLeavesTheSegmentAsItWas(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.zip")
	attempts := someAttempts()
	w := create(t, path, attempts[:2])
	// A file that is only open for reading refuses writes.
	writable := w.sidecar
	readOnly, err := os.Open(sidecar(path))
	if err != nil {
		t.Fatal(err)
	}
	defer readOnly.Close()
	before := read(t, path)
	w.sidecar = readOnly
	if err := w.Add(&attempts[2].record, attempts[2].output); err == nil {
		t.Fatal("no error")
	}
	if !bytes.Equal(read(t, path), before) {
		t.Error("the segment has the attempt whose record could not be written")
	}
	w.sidecar = writable
	if err := w.Add(&attempts[2].record, attempts[2].output); err == nil {
		t.Error("the writer goes on after the sidecar file could not be truncated")
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	r, err := OpenFile(path, testLimits)
	if err != nil {
		t.Fatal(err)
	}
	check(t, r, attempts[:2])
}

func TestCloseRemovesAnEmptySegment(t *testing.T) {
	dir := t.TempDir()
	w := create(t, filepath.Join(dir, "s.zip"), nil)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("closed twice: %v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

func TestCreateKeepsAnExistingSegment(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.zip")
	if err := create(t, path, someAttempts()).Close(); err != nil {
		t.Fatal(err)
	}
	before := read(t, path)
	if _, err := Create(path); !errors.Is(err, os.ErrExist) {
		t.Errorf("error %v", err)
	}
	if !bytes.Equal(read(t, path), before) {
		t.Error("the segment has changed")
	}
}

// countingReader counts reads, as a store counts requests.
type countingReader struct {
	*bytes.Reader
	reads, bytes int
}

func (r *countingReader) ReadAt(b []byte, offset int64) (int, error) {
	r.reads++
	r.bytes += len(b)
	return r.Reader.ReadAt(b, offset)
}

func TestReaderReadsOnlyWhatItNeeds(t *testing.T) {
	for name, test := range map[string]struct{ attempts, reads int }{
		"short directory": {100, 1},
		"long directory":  {900, 2},
	} {
		t.Run(name, func(t *testing.T) {
			var attempts []attempt
			for i := range test.attempts {
				uid := types.UID(fmt.Sprintf("%s-%d", testUID, i))
				attempts = append(attempts, attempt{lone(uid, 1), noise(1000)})
			}
			body := closed(t, attempts)
			source := &countingReader{Reader: bytes.NewReader(body)}
			r, err := Open(source, int64(len(body)), testLimits)
			if err != nil || source.reads != test.reads || source.bytes > endRead+900*100 {
				t.Fatalf("%d reads of %d bytes to open, %v; want %d", source.reads, source.bytes, err, test.reads)
			}
			source.reads, source.bytes = 0, 0
			if _, _, err := r.Output(testUID + "-7.1.log"); err != nil || source.reads != 1 || source.bytes > 1100 {
				t.Errorf("%d reads of %d bytes for an output, %v", source.reads, source.bytes, err)
			}
			source.reads = 0
			if _, err := r.Records(); err != nil || source.reads != 1 {
				t.Errorf("%d reads for the records, %v", source.reads, err)
			}
			visited := 0
			if err := r.VisitRecords(func(*batch.TaskRecord) bool { visited++; return visited < 3 }); err != nil || visited != 3 {
				t.Errorf("visited %d, %v; want 3", visited, err)
			}
			if per := r.Memory() / int64(len(attempts)); per < 60 || per > 200 {
				t.Errorf("%d bytes of memory an entry", per)
			}
		})
	}
}

func TestReaderReturnsErrorsOfTheSource(t *testing.T) {
	body := closed(t, someAttempts())
	away := errors.New("the store is away")
	r, err := Open(bytes.NewReader(body), int64(len(body)), testLimits)
	if err != nil {
		t.Fatal(err)
	}
	failing := readerAtFunc(func([]byte, int64) (int, error) { return 0, away })
	short := readerAtFunc(func(b []byte, offset int64) (int, error) { return len(b) / 2, io.EOF })
	for want, source := range map[error]io.ReaderAt{away: failing, io.ErrUnexpectedEOF: short} {
		if _, err := Open(source, int64(len(body)), testLimits); !errors.Is(err, want) || errors.Is(err, ErrInvalid) {
			t.Errorf("open: %v, want %v", err, want)
		}
		if _, _, err := r.WithReaderAt(source).Output("0.0.1.log"); !errors.Is(err, want) || errors.Is(err, ErrInvalid) {
			t.Errorf("output: %v, want %v", err, want)
		}
		if _, err := r.WithReaderAt(source).Records(); !errors.Is(err, want) || errors.Is(err, ErrInvalid) {
			t.Errorf("records: %v, want %v", err, want)
		}
	}
}

type readerAtFunc func([]byte, int64) (int, error)

func (f readerAtFunc) ReadAt(b []byte, offset int64) (int, error) { return f(b, offset) }

func TestEntryNames(t *testing.T) {
	seven := int32(7)
	for name, record := range map[string]batch.TaskRecord{
		"7.0.1.log":                 {Index: &seven, Attempt: 1},
		"7.2.3.log":                 {Index: &seven, Failures: 2, Attempt: 3},
		testUID + ".4.log":          {TaskUID: testUID, Attempt: 4},
		"7.4.log":                   {TaskUID: "7", Attempt: 4},
		testUID + ".2147483647.log": {TaskUID: testUID, Attempt: 1<<31 - 1},
	} {
		if got := EntryName(&record); got != name {
			t.Errorf("EntryName(%+v) = %q, want %q", record, got, name)
		}
		if got, ok := ParseEntryName(name); !ok || !reflect.DeepEqual(*got, record) {
			t.Errorf("ParseEntryName(%q) = %+v, %t; want %+v", name, got, ok, record)
		}
	}
	for _, name := range []string{
		"", ".log", "7.log", "7.0.1", "7.0.1.LOG", "07.0.1.log", "7.00.1.log", "7.0.01.log", "+7.0.1.log", "-7.0.1.log", "7.0.-1.log",
		"7..1.log", "7.0.1.2.log", "2147483648.0.1.log", "../7.0.1.log", "/7.0.1.log", "a/b.1.log", `a\b.1.log`, "A.1.log",
		"-a.1.log", "a b.1.log", "ä.1.log", strings.Repeat("a", 64) + ".1.log", "..1.log", "records.jsonl", "a.b.1.log", "7.0.1.log\x00",
	} {
		if record, ok := ParseEntryName(name); ok {
			t.Errorf("ParseEntryName(%q) = %+v, want none", name, record)
		}
	}
}

func BenchmarkAdd(b *testing.B) {
	for name, output := range map[string][]byte{"text1KiB": nil, "noise1KiB": noise(1 << 10), "empty": {}, "text64KiB": text(64 << 10)} {
		b.Run(name, func(b *testing.B) {
			if output == nil {
				var lines bytes.Buffer
				for i := 0; lines.Len() < 1<<10; i++ {
					fmt.Fprintf(&lines, "step %d of the command took %d ms and wrote %d bytes\n", i, i*7919%1000, i*104729%100000)
				}
				output = lines.Bytes()[:1<<10]
			}
			dir := b.TempDir()
			w := create(b, filepath.Join(dir, "0.zip"), nil)
			record := indexed(0)
			// Unlike time, CPU time does not depend on the load of the machine.
			var used, before int64
			used -= cpuTime(b)
			for i := range b.N {
				index := int32(i)
				record.Index = &index
				err := w.Add(&record, output)
				if errors.Is(err, ErrFull) {
					b.StopTimer()
					before = cpuTime(b)
					b.ReportMetric(float64(w.Len()), "attempts/segment")
					err = errors.Join(w.Close(), os.Remove(w.path))
					w = create(b, filepath.Join(dir, fmt.Sprintf("%d.zip", i)), []attempt{{record, output}})
					used -= cpuTime(b) - before
					b.StartTimer()
				}
				if err != nil {
					b.Fatal(err)
				}
			}
			used += cpuTime(b)
			b.ReportMetric(float64(used)/float64(b.N), "cpu-ns/op")
		})
	}
}

// cpuTime returns the CPU time of the process so far, in nanoseconds.
func cpuTime(b *testing.B) int64 {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return usage.Utime.Nano() + usage.Stime.Nano()
}

func BenchmarkVerify(b *testing.B) {
	var attempts []attempt
	for i := range 10000 {
		attempts = append(attempts, attempt{indexed(int32(i)), text(300)})
	}
	body := closed(b, attempts)
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		if _, err := Verify(body, testLimits); err != nil {
			b.Fatal(err)
		}
	}
}
