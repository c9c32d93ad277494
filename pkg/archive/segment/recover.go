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
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

const (
	// ReasonUnknown is the reason of an attempt whose record was lost with the process of the worker.
	ReasonUnknown = "Unknown"
	// exitCodeUnknown is the exit code of such an attempt. It must not look like a success.
	exitCodeUnknown = -1
)

// Recover ends a segment that a killed process has left. It keeps the attempts up to the first that is not whole, and
// returns their number. For output without a record, it makes one from the name, with ReasonUnknown. It removes a
// segment without any attempt, and does not change one that was closed.
//
// Recover may be killed itself. What it writes depends only on the entries and the sidecar file, which it removes last.
func Recover(path string) (int, error) {
	_, err := os.Stat(sidecar(path))
	switch {
	case err == nil:
	case os.IsNotExist(err):
		// The sidecar file is removed after the segment is on the disk.
		reader, err := OpenFile(path, Limits{Size: MaxSize, Output: math.MaxInt64, Records: math.MaxInt64})
		if err == nil {
			return len(reader.entries), nil
		}
		if !errors.Is(err, ErrInvalid) {
			return 0, err
		}
	default:
		return 0, err
	}
	body, err := readSegment(path)
	if os.IsNotExist(err) {
		return 0, remove(path)
	}
	if err != nil {
		return 0, err
	}
	entries, inside := scan(body)
	if len(entries) == 0 {
		return 0, remove(path)
	}
	known, err := readRecords(path, inside)
	if err != nil {
		return 0, err
	}
	lines, err := completeRecords(entries, known)
	if err != nil {
		return 0, err
	}
	if err := rewriteTail(path, entries, lines); err != nil {
		return 0, err
	}
	return len(entries), removeSidecar(path)
}

// readSegment reads a file that may be a segment.
func readSegment(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > MaxSize {
		return nil, fmt.Errorf("%w: %s has %d bytes, at most %d are accepted", ErrInvalid, path, info.Size(), MaxSize)
	}
	return os.ReadFile(path)
}

// scan returns the entries of attempts from the start up to the first that is not whole, and the content of
// records.jsonl if that follows and is whole.
func scan(body []byte) (entries []entry, records []byte) {
	names := map[string]struct{}{}
	var offset int64
	for {
		e, ok := parseLocal(body[offset:])
		e.offset = uint32(offset)
		if !ok || e.end() > int64(len(body)) {
			return entries, nil
		}
		data := body[e.end()-int64(e.compressed) : e.end()]
		if e.name == recordsName && e.size <= MaxSize {
			content := newContentReader(&e, data)
			defer content.Close()
			if records, err := io.ReadAll(content); err == nil {
				return entries, records
			}
			return entries, nil
		}
		_, ok = ParseEntryName(e.name)
		_, exists := names[e.name]
		if !ok || exists || !isWhole(&e, data) {
			return entries, nil
		}
		names[e.name] = struct{}{}
		entries = append(entries, e)
		offset = e.end()
	}
}

// isWhole reports whether an entry has all of its content.
func isWhole(e *entry, data []byte) bool {
	content := newContentReader(e, data)
	defer content.Close()
	_, err := io.Copy(io.Discard, content)
	return err == nil
}

// readRecords returns the records in the sidecar file by the names of their entries, or without such a file those
// inside of the segment. It skips lines that are not whole.
func readRecords(path string, inside []byte) (map[string]*batch.TaskRecord, error) {
	content, err := os.ReadFile(sidecar(path))
	switch {
	case os.IsNotExist(err):
		content = inside
	case err != nil:
		return nil, err
	}
	records := map[string]*batch.TaskRecord{}
	for line := range bytes.Lines(content) {
		record := &batch.TaskRecord{}
		if json.Unmarshal(line, record) == nil && checkRecord(record) == nil {
			records[EntryName(record)] = record
		}
	}
	return records, nil
}

// completeRecords returns the content of records.jsonl. It makes the records that are not known.
func completeRecords(entries []entry, known map[string]*batch.TaskRecord) ([]byte, error) {
	// All attempts of a segment are of the same process.
	var worker, incarnation string
	for i := range entries {
		if record, ok := known[entries[i].name]; ok {
			worker, incarnation = record.WorkerName, record.Incarnation
			break
		}
	}
	var lines []byte
	for i := range entries {
		e := &entries[i]
		record, ok := known[e.name]
		if !ok {
			record, _ = ParseEntryName(e.name)
			record.WorkerName, record.Incarnation = worker, incarnation
			// The time of the entry is that of the end. That of the start is not known, and orders the attempts.
			record.StartTime = metav1.NewMicroTime(fromDOSTime(e.modified))
			record.Reason, record.ExitCode, record.OutputBytes = ReasonUnknown, exitCodeUnknown, int64(e.size)
		}
		line, err := json.Marshal(record)
		if err != nil {
			return nil, err
		}
		lines = append(append(lines, line...), '\n')
	}
	return lines, nil
}

// rewriteTail replaces what follows the entries, and syncs the file.
func rewriteTail(path string, entries []entry, records []byte) error {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(finish(file, entries, bytes.NewReader(records)), file.Close())
}
