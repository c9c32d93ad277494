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
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// sidecar returns the path of the file that has the records until the segment is closed.
func sidecar(path string) string { return path + ".records" }

// Writer writes a segment. It is not safe for concurrent use.
//
// An attempt is written to the segment first, and its record to the sidecar file then. A killed process may thus leave
// output without a record, from which Recover makes one, but never a record without its output.
type Writer struct {
	path    string
	file    *os.File
	sidecar *os.File
	entries []entry
	names   map[string]struct{}
	// offset is the size of the entries, directory that of the directory without its end, and records that of the
	// sidecar file.
	offset, directory, records int64
	// err is set once the files can no longer be written, or are closed.
	err error
}

// Create creates a segment, and its sidecar file. It returns an error if the segment exists.
func Create(path string) (*Writer, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	records, err := os.OpenFile(sidecar(path), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, errors.Join(err, file.Close(), os.Remove(path))
	}
	return &Writer{path: path, file: file, sidecar: records, names: map[string]struct{}{}}, nil
}

// Add appends an attempt. It does not retain its arguments. If it fails, the segment is as before. It returns ErrFull
// if the segment would exceed MaxSize, and ErrDuplicate if it has the attempt: add that to another segment then.
func (w *Writer) Add(record *batch.TaskRecord, output []byte) error {
	if w.err != nil {
		return w.err
	}
	if err := checkRecord(record); err != nil {
		return err
	}
	name := EntryName(record)
	if _, exists := w.names[name]; exists {
		return fmt.Errorf("%w: %s", ErrDuplicate, name)
	}
	line, err := json.Marshal(record)
	if err != nil {
		return err
	}
	if len(line) > maxLine {
		return fmt.Errorf("the record of %s has %d bytes, at most %d are accepted", name, len(line), maxLine)
	}
	line = append(line, '\n')
	if len(output) > maxOutput {
		return fmt.Errorf("%w: the output of %s has %d bytes, at most %d are accepted", ErrFull, name, len(output), maxOutput)
	}

	ended := record.StartTime.Add(time.Duration(record.DurationMilliseconds) * time.Millisecond)
	e := entry{name: name, modified: dosTime(ended), offset: uint32(w.offset)}
	p := packers.Get().(*packer)
	defer packers.Put(p)
	data := p.pack(&e, output)
	length, directory := int64(len(data)), int64(directoryLength+len(name))
	// records.jsonl is an entry too.
	if w.Size()+length+directory+int64(len(line)) > MaxSize || len(w.entries)+2 > maxEntries {
		return fmt.Errorf("%w: %d bytes and %d attempts", ErrFull, w.Size(), len(w.entries))
	}

	if _, err := w.file.WriteAt(data, w.offset); err != nil {
		return w.undo(err)
	}
	if _, err := w.sidecar.WriteAt(line, w.records); err != nil {
		return w.undo(err)
	}
	w.offset += length
	w.directory += directory
	w.records += int64(len(line))
	w.entries = append(w.entries, e)
	w.names[name] = struct{}{}
	return nil
}

// undo removes what was written of an attempt after the error. If that fails too, the Writer can only be closed:
// Recover could find an attempt that the caller keeps elsewhere.
func (w *Writer) undo(err error) error {
	w.err = errors.Join(w.file.Truncate(w.offset), w.sidecar.Truncate(w.records))
	return errors.Join(err, w.err)
}

// Size returns the size that the segment would have if it were closed now, in bytes. As records are not compressed
// before, the size may turn out smaller.
func (w *Writer) Size() int64 {
	return w.offset + localLength + int64(len(recordsName)) + w.records +
		w.directory + directoryLength + int64(len(recordsName)) + endLength
}

// Len returns the number of attempts so far.
func (w *Writer) Len() int { return len(w.entries) }

// Snapshot returns a reader of what was added so far. It may be used while the Writer is, and afterwards as long as the
// file exists.
func (w *Writer) Snapshot() (*Reader, error) {
	if w.err != nil {
		return nil, w.err
	}
	// Later calls of Add append to entries, and do not change those in the slice.
	r, err := newReader(fileAt(w.path), w.entries[:len(w.entries):len(w.entries)])
	if err != nil {
		return nil, err
	}
	r.unfinished = &unfinished{path: w.path, records: w.records}
	return r, nil
}

// Close ends the segment and syncs it. It removes the sidecar file, and both files if there is no attempt. If it fails,
// both files stay, and Recover ends the segment.
func (w *Writer) Close() error {
	if errors.Is(w.err, os.ErrClosed) {
		return w.err
	}
	w.err = os.ErrClosed
	var err error
	if len(w.entries) > 0 {
		err = finish(w.file, w.entries, io.NewSectionReader(w.sidecar, 0, w.records))
	}
	if err := errors.Join(err, w.file.Close(), w.sidecar.Close()); err != nil {
		return err
	}
	if len(w.entries) == 0 {
		return remove(w.path)
	}
	return removeSidecar(w.path)
}

// finish writes what follows the entries of attempts, and syncs the file.
func finish(file *os.File, entries []entry, records io.Reader) error {
	tail, err := appendTail(nil, entries, records)
	if err != nil {
		return err
	}
	last := entries[len(entries)-1]
	if _, err := file.WriteAt(tail, last.end()); err != nil {
		return err
	}
	if err := file.Truncate(last.end() + int64(len(tail))); err != nil {
		return err
	}
	return file.Sync()
}

// appendTail appends records.jsonl, the directory, and its end.
func appendTail(b []byte, entries []entry, records io.Reader) ([]byte, error) {
	last := entries[len(entries)-1]
	content, err := io.ReadAll(records)
	if err != nil {
		return nil, err
	}
	e := entry{name: recordsName, modified: last.modified, offset: uint32(last.end())}
	p := packers.Get().(*packer)
	defer packers.Put(p)
	b = append(b, p.pack(&e, content)...)
	start := len(b)
	for i := range entries {
		b = entries[i].appendDirectory(b)
	}
	b = e.appendDirectory(b)
	return appendEnd(b, len(entries)+1, int64(len(b)-start), e.end()), nil
}

// removeSidecar removes the sidecar file of a segment. Before that, it makes sure that the name of the segment is on
// the disk.
func removeSidecar(path string) error {
	if err := syncDirectory(filepath.Dir(path)); err != nil {
		return err
	}
	if err := os.Remove(sidecar(path)); err != nil && !os.IsNotExist(err) {
		return err
	}
	return nil
}

// remove removes a segment. The sidecar file goes first, as only a segment is looked for after a restart.
func remove(path string) error {
	for _, file := range []string{sidecar(path), path} {
		if err := os.Remove(file); err != nil && !os.IsNotExist(err) {
			return err
		}
	}
	return nil
}

func syncDirectory(path string) error {
	directory, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(directory.Sync(), directory.Close())
}
