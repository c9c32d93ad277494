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
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// visitRecords calls visit for each record, until it returns false.
func visitRecords(r io.Reader, visit func(*batch.TaskRecord) bool) error {
	lines := bufio.NewScanner(r)
	// The buffer has room for the line feed.
	lines.Buffer(make([]byte, 0, 4<<10), maxLine+1)
	number := 1
	for ; lines.Scan(); number++ {
		record := &batch.TaskRecord{}
		if err := json.Unmarshal(lines.Bytes(), record); err != nil {
			return fmt.Errorf("%w: line %d of %s must be a record in JSON: %w", ErrInvalid, number, recordsName, err)
		}
		if !visit(record) {
			return nil
		}
	}
	if err := lines.Err(); errors.Is(err, bufio.ErrTooLong) {
		return fmt.Errorf("%w: line %d of %s is too long, at most %d bytes are accepted", ErrInvalid, number, recordsName, maxLine)
	} else if err != nil {
		return err
	}
	return nil
}

// checkRecord returns an error for a record that cannot be in a segment.
func checkRecord(record *batch.TaskRecord) error {
	name := EntryName(record)
	switch _, ok := ParseEntryName(name); {
	case !ok && record.Index == nil && !isUID(string(record.TaskUID)):
		return fmt.Errorf("taskUID %q must have 1 to %d lowercase letters, digits and dashes, or the record must have an index",
			record.TaskUID, maxUID)
	case !ok:
		return fmt.Errorf("index, failures and attempt in %q must be at least 0", name)
	case record.Index != nil && *record.Index == math.MaxInt32:
		// A set has at most that many indexes, counted from 0.
		return fmt.Errorf("index must be less than %d", math.MaxInt32)
	case record.StartTime.IsZero():
		return fmt.Errorf("startTime must be set")
	}
	return nil
}
