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

// Package segment reads and writes segments: zip files with the output and the records of finished attempts.
//
// A segment has an entry for each attempt, named by EntryName, with the kept output, which may be empty. The last
// entry, records.jsonl, has one TaskRecord in JSON a line, in the order of the entries.
//
// Any program that reads zip files can read a segment, but not every zip file is a segment. The entries and the
// directory follow each other without gaps, methods are Store and Deflate, a deflated entry is smaller than its
// content, and local headers have the sizes. There are no data descriptors, extra fields, comments, encrypted entries,
// folders and zip64 records. So the position and the length of all data follow from the directory alone, and a segment
// whose writer was killed can be read from its start.
package segment

import (
	"errors"
	"time"

	"github.com/leat-dev/leat/apis/batch/indexes"
)

// MaxSize is the maximum size of a segment that a Writer writes, in bytes.
const MaxSize = 8 << 20

// recordsName is the name of the last entry.
const recordsName = "records.jsonl"

// maxOutput is the maximum size of an output, in bytes. It keeps all numbers in headers within 32 bits.
const maxOutput = 1 << 30

// maxLine is the maximum length of the JSON of a record, in bytes.
const maxLine = 64 << 10

var (
	// ErrFull is returned by Add for an attempt that does not fit into the segment. If the segment is empty, the attempt
	// does not fit into any.
	ErrFull = errors.New("the segment is full")
	// ErrDuplicate is returned by Add if the segment has an entry of that name.
	ErrDuplicate = errors.New("the segment has an entry of that name")
	// ErrInvalid is wrapped by the errors for data that is not a segment, or exceeds the Limits.
	ErrInvalid = errors.New("invalid segment")
)

// Limits bound what is read of a segment.
type Limits struct {
	// Size is the maximum size of a segment, Output that of the output of an attempt, and Records that of all records,
	// in bytes.
	Size, Output, Records int64
}

// Summary describes a segment.
type Summary struct {
	// Attempts is the number of attempts, and OutputBytes the size of their output.
	Attempts    int
	OutputBytes int64
	// Indexes are the indexes of the attempts. They are empty in a segment of tasks without a set.
	Indexes []indexes.Range
	// First and Last are the times of the first and the last start.
	First, Last time.Time
	// WorkerName and Incarnation are those of all records. Records whose origin is unknown do not count.
	WorkerName, Incarnation string
}
