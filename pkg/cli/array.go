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

package cli

import (
	"fmt"
	"strconv"
	"strings"
)

// Limits that the server enforces on sets with indexes.
const (
	maxCompletions      = 1<<31 - 1
	largeCompletions    = 100_000
	maxParallelism      = 100_000
	maxLargeParallelism = 10_000
)

// array is a parsed --array. A parallelism of 0 means that the text does not set it.
type array struct {
	count, parallelism int32
}

const arrayForms = "write how many, like 1000, or the indexes, like 0-999; 1000%50 runs at most 50 of them at a time"

// parseArray parses 1000, 0-999, 1000%50 and 0-999%50. Errors name what would be accepted.
func parseArray(text string) (array, error) {
	indexes, limit, limited := strings.Cut(text, "%")
	var a array
	first, last, isRange := strings.Cut(indexes, "-")
	switch {
	case strings.Contains(indexes, ","):
		return a, fmt.Errorf("%q is a list: an array has all indexes from 0 on; to choose some, give --each-line a file with one on each line", text)
	case strings.Contains(indexes, ":"):
		return a, fmt.Errorf("%q has a step: an array has all indexes from 0 on; write how many there are, and use $TASK_INDEX times the step in the command", text)
	case isRange:
		from, fromErr := parseNumber(first)
		to, toErr := parseNumber(last)
		switch {
		case fromErr != nil || toErr != nil:
			return a, fmt.Errorf("%q: %s", text, arrayForms)
		case to < from:
			return a, fmt.Errorf("%q: the last index is before the first: %s", text, arrayForms)
		case from > 0:
			return a, fmt.Errorf("%q: indexes start at 0: write 0-%d, and use $TASK_INDEX + %d", text, to-from, from)
		case to >= maxCompletions:
			return a, fmt.Errorf("%q: there are at most %d indexes: the last one can be %d", text, maxCompletions, maxCompletions-1)
		}
		a.count = int32(to + 1)
	default:
		count, err := parseNumber(indexes)
		switch {
		case err != nil:
			return a, fmt.Errorf("%q: %s", text, arrayForms)
		case count == 0:
			return a, fmt.Errorf("%q: there must be 1 task at least: %s", text, arrayForms)
		case count > maxCompletions:
			return a, fmt.Errorf("%q: there are at most %d indexes", text, maxCompletions)
		}
		a.count = int32(count)
	}
	if !limited {
		return a, nil
	}
	parallelism, err := parseNumber(limit)
	switch {
	case err != nil:
		return array{}, fmt.Errorf("%q: after %% comes how many run at a time, like %s%%50", text, indexes)
	case parallelism == 0:
		return array{}, fmt.Errorf("%q: none at a time would never end: write %%1 or more", text)
	}
	if a.parallelism, err = checkParallelism(parallelism, a.count); err != nil {
		return array{}, fmt.Errorf("%q: %w", text, err)
	}
	return a, nil
}

// checkParallelism returns an error if the server would refuse the parallelism for a set of count indexes.
func checkParallelism(parallelism int64, count int32) (int32, error) {
	limit, why := int64(maxParallelism), ""
	if count > largeCompletions {
		limit, why = maxLargeParallelism, fmt.Sprintf(" of more than %d", largeCompletions)
	}
	if parallelism > limit {
		return 0, fmt.Errorf("at most %d tasks%s can run at a time: write %%%d or less", limit, why, limit)
	}
	return int32(parallelism), nil
}

// parseNumber parses a string of decimal digits. Signs and spaces are errors.
func parseNumber(digits string) (int64, error) {
	if digits == "" || strings.Trim(digits, "0123456789") != "" {
		return 0, fmt.Errorf("%q is not a number", digits)
	}
	return strconv.ParseInt(digits, 10, 64)
}
