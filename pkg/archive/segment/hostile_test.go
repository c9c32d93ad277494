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
	"bytes"
	"compress/flate"
	"encoding/binary"
	"encoding/json"
	"errors"
	"hash/crc32"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// forgery is a zip file that a malicious worker may send.
type forgery struct {
	entries []forged
	// changeEnd changes the end record.
	changeEnd func([]byte) []byte
}

// forged is an entry of a forgery.
type forged struct {
	entry
	data []byte
	// after follows the data.
	after []byte
	// changeLocal and changeDirectory change the headers.
	changeLocal, changeDirectory func([]byte) []byte
}

// newForgery returns a valid segment with attempts at the first indexes of a set.
func newForgery(outputs ...[]byte) *forgery {
	f := &forgery{}
	var lines []byte
	for i, output := range outputs {
		record := indexed(int32(i))
		f.entries = append(f.entries, stored(EntryName(&record), output))
		lines = append(lines, line(record)...)
	}
	f.entries = append(f.entries, stored(recordsName, lines))
	return f
}

func stored(name string, content []byte) forged {
	return forged{data: content, entry: entry{
		name: name, modified: dosTime(testStart), crc: crc32.ChecksumIEEE(content), compressed: uint32(len(content)), size: uint32(len(content)),
	}}
}

// deflated returns an entry that is deflated as well as possible.
func deflated(name string, content []byte) forged {
	e := stored(name, content)
	var data bytes.Buffer
	w, _ := flate.NewWriter(&data, flate.BestCompression)
	_, _ = w.Write(content)
	_ = w.Close()
	e.method, e.data, e.compressed = methodDeflate, data.Bytes(), uint32(data.Len())
	return e
}

func line(record batch.TaskRecord) []byte {
	b, err := json.Marshal(&record)
	if err != nil {
		panic(err)
	}
	return append(b, '\n')
}

func (f *forgery) bytes() []byte {
	var b, directory []byte
	for i := range f.entries {
		e := &f.entries[i]
		e.offset = uint32(len(b))
		b = append(b, change(e.changeLocal, e.appendLocal(nil))...)
		b = append(append(b, e.data...), e.after...)
		directory = append(directory, change(e.changeDirectory, e.appendDirectory(nil))...)
	}
	offset := int64(len(b))
	b = append(b, directory...)
	return append(b, change(f.changeEnd, appendEnd(nil, len(f.entries), int64(len(directory)), offset))...)
}

func change(f func([]byte) []byte, b []byte) []byte {
	if f == nil {
		return b
	}
	return f(b)
}

// set16 and set32 return functions that set a number in a header.
func set16(offset int, value uint16) func([]byte) []byte {
	return func(b []byte) []byte { binary.LittleEndian.PutUint16(b[offset:], value); return b }
}

func set32(offset int, value uint32) func([]byte) []byte {
	return func(b []byte) []byte { binary.LittleEndian.PutUint32(b[offset:], value); return b }
}

// both changes a number in both headers, in which it has different offsets.
func (e *forged) both(local int, value uint16) {
	e.changeLocal, e.changeDirectory = set16(local, value), set16(local+2, value)
}

func TestVerifyRefusesHostileSegments(t *testing.T) {
	hello := []byte("hello, world")
	limits := Limits{Size: 4096, Output: 1000, Records: 3000}
	if _, err := Verify(newForgery(hello, nil).bytes(), limits); err != nil {
		t.Fatalf("a valid segment: %v", err)
	}
	records := func(f *forgery) *forged { return &f.entries[len(f.entries)-1] }
	setRecords := func(f *forgery, lines ...[]byte) {
		*records(f) = stored(recordsName, bytes.Join(lines, nil))
	}
	name := func(name string) func(*forgery) {
		return func(f *forgery) { f.entries[0].name = name }
	}
	const nameError = "the name must be"
	for name, test := range map[string]struct {
		change func(*forgery)
		err    []string // parts of the message
	}{
		"name in a parent folder":    {name("../0.0.1.log"), []string{`"../0.0.1.log"`, nameError}},
		"absolute name":              {name("/0.0.1.log"), []string{nameError}},
		"name with a backslash":      {name(`..\0.0.1.log`), []string{nameError}},
		"folder":                     {name("0.0.1.log/"), []string{nameError}},
		"empty name":                 {name(""), []string{nameError}},
		"control character":          {name("\x1b[2J.1.log"), []string{`"\x1b[2J.1.log"`, nameError}},
		"long name":                  {name(strings.Repeat("a", 500) + ".1.log"), []string{"506 bytes"}},
		"leading zero":               {name("00.0.1.log"), []string{nameError}},
		"duplicated name":            {func(f *forgery) { f.entries[1] = f.entries[0] }, []string{`"0.0.1.log"`, "unique"}},
		"encrypted":                  {func(f *forgery) { f.entries[0].both(6, 1) }, []string{`"0.0.1.log"`, "flags are 0x1", "no encryption"}},
		"data descriptor":            {func(f *forgery) { f.entries[0].both(6, 8) }, []string{"flags are 0x8", "no data descriptor"}},
		"encrypted by local header":  {func(f *forgery) { f.entries[1].changeLocal = set16(6, 1) }, []string{`"1.0.1.log"`, "local header"}},
		"other method":               {func(f *forgery) { f.entries[0].method = 93 }, []string{"method is 93", "0 (Store) or 8 (Deflate)"}},
		"other method, local header": {func(f *forgery) { f.entries[0].changeLocal = set16(8, 8) }, []string{"local header"}},
		"other checksum, locally":    {func(f *forgery) { f.entries[0].changeLocal = set32(14, 1) }, []string{"local header"}},
		"other size, local header":   {func(f *forgery) { f.entries[0].changeLocal = set32(22, 1) }, []string{"local header"}},
		"other name, local header": {func(f *forgery) {
			f.entries[0].changeLocal = func(b []byte) []byte { return bytes.Replace(b, []byte("0.0.1"), []byte("../.1"), 1) }
		}, []string{"local header"}},
		"extra field": {func(f *forgery) {
			f.entries[0].changeDirectory = func(b []byte) []byte { return append(set16(30, 4)(b), 1, 0, 0, 0) }
		}, []string{"extra field is 4"}},
		"extra field, local header": {func(f *forgery) { f.entries[0].changeLocal = set16(28, 4) }, []string{"local header"}},
		"zip64 sizes": {func(f *forgery) {
			f.entries[0].changeDirectory = func(b []byte) []byte { return set32(20, 1<<32-1)(set32(24, 1<<32-1)(b)) }
		}, []string{`"0.0.1.log"`, "4294967295 bytes, at most 1000"}},
		"zip64 records": {func(f *forgery) {
			f.changeEnd = func(b []byte) []byte { return append(make([]byte, 76), b...) }
		}, []string{"where the end record begins"}},
		"zip64 offset": {func(f *forgery) { f.changeEnd = set32(16, 1<<32-1) }, []string{"end record"}},
		"zip64 count": {func(f *forgery) {
			f.changeEnd = func(b []byte) []byte { return set16(8, 1<<16-1)(set16(10, 1<<16-1)(b)) }
		}, []string{"65535 entries, too many"}},
		"version":  {func(f *forgery) { f.entries[0].changeDirectory = set16(6, 45) }, []string{"version needed is 45"}},
		"disk":     {func(f *forgery) { f.entries[0].changeDirectory = set16(34, 1) }, []string{"disk is 1"}},
		"disks":    {func(f *forgery) { f.changeEnd = set16(4, 1) }, []string{"disks 0x1"}},
		"counts":   {func(f *forgery) { f.changeEnd = set16(8, 1) }, []string{"1 and 3 entries"}},
		"fewer":    {func(f *forgery) { f.changeEnd = func(b []byte) []byte { return set16(8, 2)(set16(10, 2)(b)) } }, []string{"last entry must be records.jsonl"}},
		"none":     {func(f *forgery) { f.changeEnd = func(b []byte) []byte { return set32(8, 0)(b) } }, []string{"0 entries"}},
		"comment":  {func(f *forgery) { f.entries[0].changeDirectory = set16(32, 3) }, []string{"comment is 3"}},
		"end past": {func(f *forgery) { f.entries[0].changeDirectory = set16(28, 1<<16-1) }, []string{"exceeds it"}},
		"comment of the file": {func(f *forgery) {
			f.changeEnd = func(b []byte) []byte { return append(set16(20, 1<<10)(b), make([]byte, 1<<10)...) }
		}, []string{"end record of a zip file without a comment"}},
		"comment without text": {func(f *forgery) { f.changeEnd = set16(20, 5) }, []string{"without a comment"}},
		"two end records": {func(f *forgery) {
			f.changeEnd = func(b []byte) []byte { return append(b, b...) }
		}, []string{"where the end record begins"}},
		"end record in a comment": {func(f *forgery) {
			f.changeEnd = func(b []byte) []byte { return append(set16(20, endLength)(bytes.Clone(b)), b...) }
		}, []string{"where the end record begins"}},
		"overlapping entries": {func(f *forgery) {
			f.entries[1].changeDirectory = set32(42, 0)
		}, []string{`"1.0.1.log"`, "it is at 0, but must be at"}},
		"gap":            {func(f *forgery) { f.entries[0].after = []byte("hidden") }, []string{`"1.0.1.log"`, "without gaps"}},
		"gap at the end": {func(f *forgery) { records(f).after = []byte("hidden") }, []string{"where the directory begins"}},
		"gap in the directory": {func(f *forgery) {
			f.entries[0].changeDirectory = func(b []byte) []byte { return append(b, 0) }
		}, []string{"directory is damaged"}},
		"end of the directory": {func(f *forgery) {
			records(f).changeDirectory = func(b []byte) []byte { return append(b, 0) }
		}, []string{"1 bytes after its 3 entries"}},
		"stored, and sizes differ": {func(f *forgery) { f.entries[0].size++ }, []string{"sizes 12 and 13 differ"}},
		"deflated to more":         {func(f *forgery) { f.entries[0] = deflated("0.0.1.log", hello) }, []string{"must become fewer"}},
		"output too large":         {func(f *forgery) { f.entries[0] = deflated("0.0.1.log", text(1001)) }, []string{`"0.0.1.log"`, "1001 bytes, at most 1000"}},
		"segment too large":        {func(f *forgery) { f.entries[0] = stored("0.0.1.log", make([]byte, 5000)) }, []string{"at most 4096"}},
		"no records":               {func(f *forgery) { f.entries = f.entries[:2] }, []string{`"1.0.1.log"`, "last entry must be records.jsonl"}},
		"only records":             {func(f *forgery) { f.entries = f.entries[2:] }, []string{"1 entries, but must have one for each attempt"}},
		"records twice":            {func(f *forgery) { f.entries = append(f.entries, *records(f)) }, []string{`"records.jsonl"`, nameError}},
		"records not last":         {func(f *forgery) { f.entries[1], f.entries[2] = f.entries[2], f.entries[1] }, []string{`"records.jsonl"`}},
		"records too long":         {func(f *forgery) { *records(f) = deflated(recordsName, text(3001)) }, []string{`"records.jsonl"`, "3001 bytes, at most 3000"}},
		"records inflate to more": {func(f *forgery) {
			*records(f) = deflated(recordsName, bytes.Repeat(line(indexed(0)), 50))
			records(f).size = 2000
		}, []string{`"records.jsonl"`, "more than its size, 2000"}},
		"records inflate to less": {func(f *forgery) {
			*records(f) = deflated(recordsName, records(f).data)
			records(f).size++
		}, []string{`"records.jsonl"`, "but its size is"}},
		"records' checksum": {func(f *forgery) { records(f).crc++ }, []string{`"records.jsonl"`, "checksum"}},
		"records not deflated": {func(f *forgery) {
			*records(f) = stored(recordsName, bytes.Repeat([]byte{0xff}, 100))
			records(f).method, records(f).size = methodDeflate, 101
		}, []string{`"records.jsonl"`, "cannot be inflated"}},
		"not JSON":               {func(f *forgery) { setRecords(f, line(indexed(0)), []byte("{\n")) }, []string{"line 2 of records.jsonl"}},
		"empty line":             {func(f *forgery) { setRecords(f, []byte("\n"), line(indexed(0)), line(indexed(1))) }, []string{"line 1 of records.jsonl"}},
		"record missing":         {func(f *forgery) { setRecords(f, line(indexed(0))) }, []string{`"1.0.1.log"`, "only 1"}},
		"record too many":        {func(f *forgery) { setRecords(f, line(indexed(0)), line(indexed(1)), line(indexed(2))) }, []string{"each of the 2 entries, but has more"}},
		"record of another":      {func(f *forgery) { setRecords(f, line(indexed(0)), line(indexed(2))) }, []string{`"1.0.1.log"`, `that of "2.0.1.log"`}},
		"records in other order": {func(f *forgery) { setRecords(f, line(indexed(1)), line(indexed(0))) }, []string{`"0.0.1.log"`, `that of "1.0.1.log"`}},
		"record without start": {func(f *forgery) {
			record := indexed(1)
			record.StartTime = metav1.MicroTime{}
			setRecords(f, line(indexed(0)), line(record))
		}, []string{`"1.0.1.log"`, "startTime must be set"}},
		"record of another worker": {func(f *forgery) {
			record := indexed(1)
			record.WorkerName = "victim"
			setRecords(f, line(indexed(0)), line(record))
		}, []string{`"1.0.1.log"`, `workerName is "victim"`, `"worker"`}},
		"record of another process": {func(f *forgery) {
			record := indexed(1)
			record.Incarnation = "other"
			setRecords(f, line(indexed(0)), line(record))
		}, []string{`"1.0.1.log"`, `incarnation is "other"`}},
		"task without a set": {func(f *forgery) {
			record := lone(testUID, 1)
			f.entries[1].name = EntryName(&record)
			setRecords(f, line(indexed(0)), line(record))
		}, []string{"1 of 2 records have an index"}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newForgery(hello, nil)
			test.change(f)
			_, err := Verify(f.bytes(), limits)
			if !errors.Is(err, ErrInvalid) {
				t.Fatalf("error %v, want one for an invalid segment", err)
			}
			for _, part := range test.err {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("error %q, want one that has %q", err, part)
				}
			}
		})
	}
	for size := range endLength {
		if _, err := Verify(make([]byte, size), limits); !errors.Is(err, ErrInvalid) {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
	longLine := newForgery(hello)
	*records(longLine) = deflated(recordsName, text(maxLine+2))
	if _, err := Verify(longLine.bytes(), testLimits); err == nil || !strings.Contains(err.Error(), "line 1 of records.jsonl must be") {
		t.Errorf("short lines: %v", err)
	}
	*records(longLine) = deflated(recordsName, bytes.Repeat([]byte{'x'}, maxLine+2))
	if _, err := Verify(longLine.bytes(), testLimits); err == nil || !strings.Contains(err.Error(), "line 1 of records.jsonl is too long") {
		t.Errorf("long line: %v", err)
	}
}

func TestOutputIsWhatTheDirectoryDeclares(t *testing.T) {
	const entryName = "0.0.1.log"
	for name, test := range map[string]struct {
		change func(*forged)
		err    string
	}{
		"valid":                {func(*forged) {}, ""},
		"inflates to more":     {func(e *forged) { e.size-- }, "more than its size"},
		"bomb":                 {func(e *forged) { *e = deflated(entryName, make([]byte, 16<<20)); e.size = 1 << 20 }, "more than its size, 1048576"},
		"inflates to less":     {func(e *forged) { e.size++ }, "inflates to 1000 bytes, but its size is 1001"},
		"checksum":             {func(e *forged) { e.crc++ }, "checksum"},
		"checksum of stored":   {func(e *forged) { *e = stored(entryName, text(10)); e.crc++ }, "checksum"},
		"checksum of none":     {func(e *forged) { *e = stored(entryName, nil); e.crc++ }, "checksum"},
		"data after the end":   {func(e *forged) { e.data = append(e.data, 0); e.compressed++ }, "1 bytes follow"},
		"data without the end": {func(e *forged) { e.data = e.data[:len(e.data)-3]; e.compressed -= 3 }, "cannot be inflated"},
		"not deflated":         {func(e *forged) { e.data = bytes.Repeat([]byte{0xff}, len(e.data)) }, "cannot be inflated"},
		"local header":         {func(e *forged) { e.changeLocal = set16(28, 1) }, "local header"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newForgery(nil)
			f.entries[0] = deflated(entryName, text(1000))
			test.change(&f.entries[0])
			body := f.bytes()
			r, err := Open(bytes.NewReader(body), int64(len(body)), testLimits)
			if err != nil {
				t.Fatal(err)
			}
			output, found, err := r.Output(entryName)
			if test.err == "" {
				if err != nil || !found || !bytes.Equal(output, text(1000)) {
					t.Fatalf("%d bytes, found %t, %v", len(output), found, err)
				}
				return
			}
			if !errors.Is(err, ErrInvalid) || !found || output != nil || !strings.Contains(err.Error(), test.err) || !strings.Contains(err.Error(), entryName) {
				t.Errorf("%d bytes, found %t, error %v; want one that has %q", len(output), found, err, test.err)
			}
		})
	}
}

func TestBombsNeedLittleMemory(t *testing.T) {
	f := newForgery(nil)
	f.entries[0] = deflated("0.0.1.log", make([]byte, 16<<20))
	f.entries[0].size = 1 << 20
	f.entries[1] = deflated(recordsName, bytes.Repeat(line(indexed(0)), 10000))
	body := f.bytes()
	path := filepath.Join(t.TempDir(), "s.zip")
	if err := os.WriteFile(path, body, 0o600); err != nil {
		t.Fatal(err)
	}
	allocated := func(run func()) int64 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		run()
		runtime.ReadMemStats(&after)
		return int64(after.TotalAlloc - before.TotalAlloc)
	}
	limits := testLimits
	limits.Records = 64 << 20
	for name, run := range map[string]func(){
		"Output": func() {
			r, err := Open(bytes.NewReader(body), int64(len(body)), limits)
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := r.Output("0.0.1.log"); !errors.Is(err, ErrInvalid) {
				t.Errorf("error %v", err)
			}
		},
		"Verify": func() {
			if _, err := Verify(body, limits); !errors.Is(err, ErrInvalid) {
				t.Errorf("error %v", err)
			}
		},
		"Recover": func() {
			if count, err := Recover(path + ".absent"); count != 0 || err == nil {
				t.Errorf("%d, %v", count, err)
			}
			left{body, []byte{}}.write(t, path)
			if count, err := Recover(path); count != 0 || err != nil {
				t.Errorf("%d, %v", count, err)
			}
		},
	} {
		if bytes := allocated(run); bytes > 4<<20 {
			t.Errorf("%s allocates %d bytes", name, bytes)
		}
	}
}

// seeds are the beginnings of fuzz tests.
func seeds(f *testing.F) {
	f.Add(closed(f, someAttempts()))
	f.Add(closed(f, []attempt{{lone(testUID, 1), text(200)}, {lone(testUID, 2), nil}}))
	forgery := newForgery([]byte("hello"), nil)
	f.Add(forgery.bytes())
	forgery.entries[0] = deflated("0.0.1.log", make([]byte, 1<<20))
	f.Add(forgery.bytes())
	f.Add([]byte{})
}

func FuzzOpen(f *testing.F) {
	seeds(f)
	limits := Limits{Size: 1 << 20, Output: 1 << 16, Records: 1 << 16}
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := Open(bytes.NewReader(body), int64(len(body)), limits)
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Fatal(err)
			}
			return
		}
		for _, e := range r.Entries() {
			output, found, err := r.Output(e.Name)
			if !found || err == nil && int64(len(output)) != e.Size || err != nil && !errors.Is(err, ErrInvalid) {
				t.Fatalf("%s: %d bytes, found %t, %v", e.Name, len(output), found, err)
			}
		}
		if _, err := r.Records(); err != nil && !errors.Is(err, ErrInvalid) {
			t.Fatal(err)
		}
	})
}

func FuzzVerify(f *testing.F) {
	seeds(f)
	limits := Limits{Size: 1 << 20, Output: 1 << 16, Records: 1 << 16}
	f.Fuzz(func(t *testing.T, body []byte) {
		summary, err := Verify(body, limits)
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Fatal(err)
			}
			return
		}
		r, err := Open(bytes.NewReader(body), int64(len(body)), limits)
		if err != nil {
			t.Fatal(err)
		}
		records, err := r.Records()
		if err != nil || len(records) != summary.Attempts || len(r.Entries()) != summary.Attempts {
			t.Fatalf("%d records of %d attempts, %v", len(records), summary.Attempts, err)
		}
		for i := range records {
			if e := r.Entries()[i]; EntryName(&records[i]) != e.Name {
				t.Fatalf("record %d is not of entry %s", i, e.Name)
			}
		}
		key := Key{Namespace: "default", Worker: "worker", Incarnation: testIncarnation, Indexes: summary.Indexes, First: summary.First, Last: summary.Last}
		if len(summary.Indexes) > 0 {
			key.Set = testUID
		} else if summary.First.Unix() < 0 {
			return
		}
		text, err := key.Format()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseKey(text); err != nil {
			t.Fatal(err)
		}
	})
}
