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

// Package indexes parses and formats the lists of completion indexes in the status and the policies of a TaskSet:
// numbers and ranges, ascending and without overlap, like "1,3-5,7", and numbers with counts, like "3:1,17:2".
package indexes

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Range is the indexes from First to Last, both included.
type Range struct {
	First, Last int
}

// Parse parses a list of indexes below limit. The empty text is the empty list.
func Parse(list string, limit int) ([]Range, error) {
	if list == "" {
		return nil, nil
	}
	parts := strings.Split(list, ",")
	ranges := make([]Range, 0, len(parts))
	next := 0
	for _, part := range parts {
		first, last, isRange := strings.Cut(part, "-")
		if !isRange {
			last = first
		}
		r := Range{}
		var err error
		if r.First, err = parseIndex(first); err != nil {
			return nil, err
		}
		if r.Last, err = parseIndex(last); err != nil {
			return nil, err
		}
		switch {
		case isRange && r.Last <= r.First:
			return nil, fmt.Errorf("%q: a range must end past its start", part)
		case r.First < next:
			return nil, fmt.Errorf("%q: indexes must ascend and not overlap", part)
		case r.Last >= limit:
			return nil, fmt.Errorf("%q: indexes must be less than %d", part, limit)
		}
		next = r.Last + 1
		ranges = append(ranges, r)
	}
	return ranges, nil
}

// parseIndex parses an index. It accepts only the output of strconv.Itoa: no sign and no leading zeros.
func parseIndex(s string) (int, error) {
	index, err := strconv.Atoi(s)
	if err != nil || strconv.Itoa(index) != s || index < 0 {
		return 0, fmt.Errorf("%q: an index must be a whole number, written in digits", s)
	}
	return index, nil
}

// Count returns the number of indexes in the ranges.
func Count(ranges []Range) int {
	count := 0
	for _, r := range ranges {
		count += r.Last - r.First + 1
	}
	return count
}

// Below returns the part of the ranges that is below limit. The result may share memory with ranges.
func Below(ranges []Range, limit int) []Range {
	for i, r := range ranges {
		switch {
		case r.First >= limit:
			return ranges[:i]
		case r.Last >= limit:
			return append(slices.Clone(ranges[:i]), Range{r.First, limit - 1})
		}
	}
	return ranges
}

// Format returns the text of ranges, which Parse accepts. As in a Job, three or more consecutive indexes become a
// range.
func Format(ranges []Range) string {
	list := make([]byte, 0, 8*len(ranges))
	for i, r := range ranges {
		if i > 0 {
			list = append(list, ',')
		}
		list = strconv.AppendInt(list, int64(r.First), 10)
		if r.Last == r.First {
			continue
		}
		separator := byte('-')
		if r.Last == r.First+1 {
			separator = ','
		}
		list = append(list, separator)
		list = strconv.AppendInt(list, int64(r.Last), 10)
	}
	return string(list)
}

// Counted is an index with a count of events.
type Counted struct {
	Index, Count int
}

// ParseCounts parses a list of indexes below limit with counts of at least 1.
func ParseCounts(list string, limit int) ([]Counted, error) {
	if list == "" {
		return nil, nil
	}
	parts := strings.Split(list, ",")
	counts := make([]Counted, 0, len(parts))
	next := 0
	for _, part := range parts {
		index, count, ok := strings.Cut(part, ":")
		if !ok {
			return nil, fmt.Errorf("%q: an index must be followed by a colon and a count, like 3:1", part)
		}
		var c Counted
		var err error
		if c.Index, err = parseIndex(index); err != nil {
			return nil, err
		}
		if c.Count, err = parseIndex(count); err != nil || c.Count == 0 {
			return nil, fmt.Errorf("%q: a count must be a whole number of at least 1, written in digits", part)
		}
		switch {
		case c.Index < next:
			return nil, fmt.Errorf("%q: indexes must ascend", part)
		case c.Index >= limit:
			return nil, fmt.Errorf("%q: indexes must be less than %d", part, limit)
		}
		next = c.Index + 1
		counts = append(counts, c)
	}
	return counts, nil
}

// FormatCounts returns the text of counts, which ParseCounts accepts. The counts must be sorted by index.
func FormatCounts(counts []Counted) string {
	list := make([]byte, 0, 8*len(counts))
	for i, c := range counts {
		if i > 0 {
			list = append(list, ',')
		}
		list = strconv.AppendInt(list, int64(c.Index), 10)
		list = append(list, ':')
		list = strconv.AppendInt(list, int64(c.Count), 10)
	}
	return string(list)
}
