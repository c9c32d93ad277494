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

// Package indexes reads the lists of completion indexes in the status and the policies of a TaskSet: numbers and ranges,
// ascending and without overlap, like "1,3-5,7".
package indexes

import (
	"fmt"
	"strconv"
	"strings"
)

// Range is the indexes from First to Last, both included.
type Range struct {
	First, Last int
}

// Parse reads a list of indexes below limit. The empty list has none.
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

// parseIndex accepts what strconv.Itoa writes and nothing else.
func parseIndex(s string) (int, error) {
	index, err := strconv.Atoi(s)
	if err != nil || strconv.Itoa(index) != s || index < 0 {
		return 0, fmt.Errorf("%q: an index must be a whole number, written in digits", s)
	}
	return index, nil
}

// Count gives how many indexes the ranges hold.
func Count(ranges []Range) int {
	count := 0
	for _, r := range ranges {
		count += r.Last - r.First + 1
	}
	return count
}
