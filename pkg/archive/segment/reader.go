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
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"unsafe"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// endRead is how much of the end of a segment is read first, in bytes. The directory of most segments is shorter.
const endRead = 64 << 10

// Reader reads a segment. It is safe for concurrent use if the io.ReaderAt is.
type Reader struct {
	r io.ReaderAt
	// entries are those of attempts, and byName has their positions.
	entries []entry
	byName  map[string]int32
	// records is the entry of the records, unless the segment is unfinished.
	records    entry
	unfinished *unfinished
}

// unfinished describes a segment that has no records yet: they are the first bytes of the sidecar file.
type unfinished struct {
	path    string
	records int64
}

// Entry is an entry of a segment: the output of an attempt.
type Entry struct {
	// Name is the name, see EntryName.
	Name string
	// Size is the size of the output, in bytes.
	Size int64
}

// Open reads the directory of a segment. It calls ReadAt once if the directory is short, and twice otherwise. If an
// error wraps ErrInvalid, reading again does not help.
func Open(r io.ReaderAt, size int64, limits Limits) (*Reader, error) {
	if size > limits.Size {
		return nil, fmt.Errorf("%w: it has %d bytes, at most %d are accepted", ErrInvalid, size, limits.Size)
	}
	if size < endLength {
		return nil, fmt.Errorf("%w: it has %d bytes, and a zip file has at least %d", ErrInvalid, size, endLength)
	}
	end := make([]byte, min(size, endRead))
	if err := readFull(r, end, size-int64(len(end))); err != nil {
		return nil, err
	}
	count, directorySize, offset, err := parseEnd(end[len(end)-endLength:], size)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	directory := end[:len(end)-endLength]
	if missing := directorySize - int64(len(directory)); missing > 0 {
		directory = append(make([]byte, missing, directorySize), directory...)
		if err := readFull(r, directory[:missing], offset); err != nil {
			return nil, err
		}
	}
	entries, err := parseEntries(directory[int64(len(directory))-directorySize:], count, offset, limits)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	reader, err := newReader(r, entries[:count-1:count-1])
	if err != nil {
		return nil, err
	}
	reader.records = entries[count-1]
	return reader, nil
}

// OpenFile reads the directory of a segment in a file. The Reader opens the file each time it reads, so it needs no
// Close, and can read as long as the file exists.
func OpenFile(path string, limits Limits) (*Reader, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	return Open(fileAt(path), info.Size(), limits)
}

// fileAt is the path of a file, which each ReadAt opens.
type fileAt string

// ReadAt implements io.ReaderAt.
func (path fileAt) ReadAt(b []byte, offset int64) (int, error) {
	file, err := os.Open(string(path))
	if err != nil {
		return 0, err
	}
	defer file.Close()
	return file.ReadAt(b, offset)
}

// readFull reads all of b.
func readFull(r io.ReaderAt, b []byte, offset int64) error {
	n, err := r.ReadAt(b, offset)
	switch {
	case n == len(b): // err may be io.EOF
		return nil
	case err == nil || errors.Is(err, io.EOF):
		return fmt.Errorf("cannot read %d bytes at %d: %w", len(b), offset, io.ErrUnexpectedEOF)
	}
	return err
}

// parseEntries parses a directory whose entries end at an offset. It checks all but local headers and contents.
func parseEntries(directory []byte, count int, end int64, limits Limits) ([]entry, error) {
	switch {
	case count > len(directory)/directoryLength:
		return nil, fmt.Errorf("the end record counts %d entries, too many for a directory of %d bytes", count, len(directory))
	case count < 2:
		return nil, fmt.Errorf("it has %d entries, but must have one for each attempt, and %s", count, recordsName)
	}
	entries := make([]entry, 0, count)
	var offset int64
	for i := range count {
		e, rest, err := parseDirectory(directory)
		if err != nil && e.name == "" {
			return nil, err
		}
		if err == nil {
			err = checkEntry(&e, offset, i == count-1, limits)
		}
		if err != nil {
			return nil, fmt.Errorf("entry %q: %w", e.name, err)
		}
		offset, directory = e.end(), rest
		entries = append(entries, e)
	}
	switch {
	case len(directory) > 0:
		return nil, fmt.Errorf("the directory has %d bytes after its %d entries, but must have none", len(directory), count)
	case offset != end:
		return nil, fmt.Errorf("the entries end at %d, but must end at %d, where the directory begins", offset, end)
	}
	return entries, nil
}

// checkEntry checks an entry that should be at an offset.
func checkEntry(e *entry, offset int64, last bool, limits Limits) error {
	limit := limits.Output
	if last {
		limit = limits.Records
	}
	_, ok := ParseEntryName(e.name)
	switch {
	case last && e.name != recordsName:
		return fmt.Errorf("the last entry must be %s", recordsName)
	case !last && !ok:
		return fmt.Errorf("the name must be <index>.<failures>.<attempt>%s or <task UID>.<attempt>%s, without leading "+
			"zeros, or that of the last entry, %s", entrySuffix, entrySuffix, recordsName)
	case int64(e.offset) != offset:
		return fmt.Errorf("it is at %d, but must be at %d: entries follow each other without gaps, in the order of the directory",
			e.offset, offset)
	case int64(e.size) > limit:
		return fmt.Errorf("it has %d bytes, at most %d are accepted", e.size, limit)
	}
	return nil
}

// newReader returns a reader of entries, whose names must be unique.
func newReader(r io.ReaderAt, entries []entry) (*Reader, error) {
	reader := &Reader{r: r, entries: entries, byName: make(map[string]int32, len(entries))}
	for i := range entries {
		if _, exists := reader.byName[entries[i].name]; exists {
			return nil, fmt.Errorf("%w: entry %q: the name must be unique", ErrInvalid, entries[i].name)
		}
		reader.byName[entries[i].name] = int32(i)
	}
	return reader, nil
}

// WithReaderAt returns a reader of the same segment through another io.ReaderAt. It does not read the directory again.
func (r *Reader) WithReaderAt(at io.ReaderAt) *Reader {
	other := *r
	other.r = at
	return &other
}

// Memory returns roughly how much memory the directory needs, in bytes.
func (r *Reader) Memory() int64 {
	// An entry of the map has the name, the position, and its part of what the map keeps free.
	const perEntry = int64(unsafe.Sizeof(entry{})) + 48
	memory := int64(unsafe.Sizeof(Reader{}))
	for i := range r.entries {
		memory += perEntry + int64(len(r.entries[i].name))
	}
	return memory
}

// Entries returns the entries of all attempts, in the order of their records.
func (r *Reader) Entries() []Entry {
	entries := make([]Entry, 0, len(r.entries))
	for i := range r.entries {
		entries = append(entries, Entry{Name: r.entries[i].name, Size: int64(r.entries[i].size)})
	}
	return entries
}

// Output returns the output of the attempt with that entry name. found is false if the segment does not have it. It
// calls ReadAt once.
func (r *Reader) Output(name string) (output []byte, found bool, err error) {
	position, found := r.byName[name]
	if !found {
		return nil, false, nil
	}
	content, err := r.open(&r.entries[position])
	if err != nil {
		return nil, true, err
	}
	defer content.Close()
	output = make([]byte, content.entry.size)
	if _, err := io.ReadFull(content, output); err != nil {
		return nil, true, err
	}
	// Reading to the end checks the length and the checksum.
	if _, err := io.Copy(io.Discard, content); err != nil {
		return nil, true, err
	}
	return output, true, nil
}

// Records returns the records of all attempts.
func (r *Reader) Records() ([]batch.TaskRecord, error) {
	records := make([]batch.TaskRecord, 0, len(r.entries))
	err := r.VisitRecords(func(record *batch.TaskRecord) bool {
		records = append(records, *record)
		return true
	})
	return records, err
}

// VisitRecords calls visit for each record, in the order of the entries, until it returns false. It does not keep
// records in memory, and calls ReadAt once.
func (r *Reader) VisitRecords(visit func(*batch.TaskRecord) bool) error {
	records, err := r.openRecords()
	if err != nil {
		return err
	}
	defer records.Close()
	return visitRecords(records, visit)
}

func (r *Reader) openRecords() (io.ReadCloser, error) {
	if r.unfinished == nil {
		return r.open(&r.records)
	}
	file, err := os.Open(sidecar(r.unfinished.path))
	switch {
	case err == nil:
		return struct {
			io.Reader
			io.Closer
		}{io.LimitReader(file, r.unfinished.records), file}, nil
	case !os.IsNotExist(err):
		return nil, err
	}
	// The segment was closed in the meantime.
	closed, err := OpenFile(r.unfinished.path, Limits{Size: math.MaxInt64, Output: math.MaxInt64, Records: math.MaxInt64})
	if err != nil {
		return nil, err
	}
	return closed.openRecords()
}

// open reads an entry and returns a reader of its content.
func (r *Reader) open(e *entry) (*contentReader, error) {
	data := make([]byte, e.length())
	if err := readFull(r.r, data, int64(e.offset)); err != nil {
		return nil, err
	}
	content, err := e.content(data)
	if err != nil {
		return nil, fmt.Errorf("%w: entry %q: %w", ErrInvalid, e.name, err)
	}
	return newContentReader(e, content), nil
}

// content returns what follows the local header, which must be that of the entry.
func (e *entry) content(data []byte) ([]byte, error) {
	header := e.appendLocal(make([]byte, 0, localLength+maxName))
	if string(data[:len(header)]) != string(header) {
		return nil, fmt.Errorf("its local header must have the flags, method, time, checksum, sizes and name of the directory, and no extra field")
	}
	return data[len(header):], nil
}
