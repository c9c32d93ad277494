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
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

const entrySuffix = ".log"

// maxUID is the maximum length of the UID of a task in the name of an entry. A UUID has 36 characters.
const maxUID = 63

// EntryName returns the name of the entry for an attempt: <index>.<failures>.<attempt>.log for a task of a set, and
// <task UID>.<attempt>.log for one without. It identifies the attempt, but not its runs on two workers.
func EntryName(record *batch.TaskRecord) string {
	name := make([]byte, 0, 64)
	if record.Index != nil {
		name = strconv.AppendInt(name, int64(*record.Index), 10)
		name = append(name, '.')
		name = strconv.AppendInt(name, int64(record.Failures), 10)
	} else {
		name = append(name, record.TaskUID...)
	}
	name = append(name, '.')
	name = strconv.AppendInt(name, int64(record.Attempt), 10)
	return string(append(name, entrySuffix...))
}

// ParseEntryName returns a record with the fields that the name of its entry has. ok is false for a name that EntryName
// does not return for a valid record.
func ParseEntryName(name string) (record *batch.TaskRecord, ok bool) {
	base, ok := strings.CutSuffix(name, entrySuffix)
	if !ok {
		return nil, false
	}
	first, rest, _ := strings.Cut(base, ".")
	failures, attempt, isIndex := strings.Cut(rest, ".")
	record = &batch.TaskRecord{}
	if isIndex {
		index, ok1 := parseNumber(first)
		failed, ok2 := parseNumber(failures)
		if !ok1 || !ok2 {
			return nil, false
		}
		record.Index, record.Failures = &index, failed
	} else {
		if !isUID(first) {
			return nil, false
		}
		record.TaskUID, attempt = types.UID(first), rest
	}
	record.Attempt, ok = parseNumber(attempt)
	return record, ok
}

// parseNumber parses a number of at least 0, written as strconv.Itoa does.
func parseNumber(s string) (int32, bool) {
	if s == "" || len(s) > 1 && s[0] == '0' {
		return 0, false
	}
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return 0, false
		}
	}
	n, err := strconv.ParseInt(s, 10, 32)
	return int32(n), err == nil
}

// isUID reports whether a UID can be part of a name: lowercase letters, digits and dashes.
func isUID(uid string) bool {
	if uid == "" || len(uid) > maxUID || uid[0] == '-' {
		return false
	}
	for _, c := range []byte(uid) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}
