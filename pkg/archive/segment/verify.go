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
	"fmt"
	"slices"

	"github.com/leat-dev/leat/apis/batch/indexes"
	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// Verify checks a segment: the directory, the local headers, and that there is one record for each entry and one entry
// for each record. It does not inflate outputs, which would cost the server more CPU time than the rest of an upload:
// Reader checks them. Its errors wrap ErrInvalid, and name the entry and what would be accepted.
func Verify(body []byte, limits Limits) (*Summary, error) {
	reader, err := Open(bytes.NewReader(body), int64(len(body)), limits)
	if err != nil {
		return nil, err
	}
	summary := &Summary{Attempts: len(reader.entries)}
	for i := range reader.entries {
		e := &reader.entries[i]
		if _, err := e.content(body[e.offset:e.end()]); err != nil {
			return nil, fmt.Errorf("%w: entry %q: %w", ErrInvalid, e.name, err)
		}
		summary.OutputBytes += int64(e.size)
	}
	if err := summary.addRecords(reader); err != nil {
		return nil, err
	}
	return summary, nil
}

// addRecords checks the records, and adds them to the summary.
func (s *Summary) addRecords(reader *Reader) error {
	var numbers []int
	var invalid error
	count := 0
	err := reader.VisitRecords(func(record *batch.TaskRecord) bool {
		if count == len(reader.entries) {
			invalid = fmt.Errorf("%s must have one record for each of the %d entries, but has more", recordsName, count)
			return false
		}
		if err := s.addRecord(record, reader.entries[count].name); err != nil {
			invalid = fmt.Errorf("entry %q: %w", reader.entries[count].name, err)
			return false
		}
		if record.Index != nil {
			numbers = append(numbers, int(*record.Index))
		}
		count++
		return true
	})
	switch {
	case err != nil:
		return err
	case invalid != nil:
	case count < len(reader.entries):
		invalid = fmt.Errorf("entry %q: %s must have a record for each of the %d entries, but has only %d",
			reader.entries[count].name, recordsName, len(reader.entries), count)
	case len(numbers) > 0 && len(numbers) < count:
		invalid = fmt.Errorf("%d of %d records have an index, but all must, or none", len(numbers), count)
	}
	if invalid != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, invalid)
	}
	s.Indexes = toRanges(numbers)
	return nil
}

// addRecord checks the record of an entry, and adds it to the summary.
func (s *Summary) addRecord(record *batch.TaskRecord, entry string) error {
	if name := EntryName(record); name != entry {
		return fmt.Errorf("its record is that of %q: records must have the order of the entries", name)
	}
	if err := checkRecord(record); err != nil {
		return err
	}
	for _, field := range []struct {
		name  string
		all   *string
		value string
	}{{"workerName", &s.WorkerName, record.WorkerName}, {"incarnation", &s.Incarnation, record.Incarnation}} {
		if *field.all == "" {
			*field.all = field.value
		}
		if field.value != "" && field.value != *field.all {
			return fmt.Errorf("%s is %q, but must be that of the records before, %q", field.name, field.value, *field.all)
		}
	}
	start := record.StartTime.Time
	if s.First.IsZero() || start.Before(s.First) {
		s.First = start
	}
	if start.After(s.Last) {
		s.Last = start
	}
	return nil
}

// toRanges returns the ranges of indexes. It sorts them in place.
func toRanges(numbers []int) []indexes.Range {
	slices.Sort(numbers)
	var ranges []indexes.Range
	for _, number := range numbers {
		if last := len(ranges) - 1; last >= 0 && number <= ranges[last].Last+1 {
			ranges[last].Last = number
		} else {
			ranges = append(ranges, indexes.Range{First: number, Last: number})
		}
	}
	return ranges
}
