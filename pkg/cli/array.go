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
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"k8s.io/utils/ptr"

	"github.com/leat-dev/leat/apis/batch/indexes"
	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/cli/taskstate"
)

// Limits that the server enforces on sets with indexes.
const (
	maxCompletions      = taskstate.MaxCompletions
	largeCompletions    = 100_000
	maxParallelism      = 100_000
	maxLargeParallelism = 10_000
)

// array is a parsed --array: the number of indexes, their numbers, nil if they equal the indexes, and how many run at a
// time, 0 if the text does not say it.
type array struct {
	count       int32
	numbers     *batch.IndexNumbers
	parallelism int32
}

const arrayForms = "write how many, like 1000, or which, like 0-999, 0-1000:10 or 1,5,7-9; 1000%50 runs at most 50 of them at a time"

// parseArray parses how many indexes there are (1000), or which numbers they have: a range (1-100), one with a step
// (0-1000:10), or a list of numbers and ranges (1,5,7-9). After % comes how many run at a time. Errors name what would
// be accepted.
func parseArray(text string) (array, error) {
	which, limit, limited := strings.Cut(text, "%")
	a, err := parseArrayNumbers(which)
	if err != nil {
		return array{}, fmt.Errorf("%q: %w", text, err)
	}
	if !limited {
		return a, nil
	}
	parallelism, err := parseNumber(limit)
	switch {
	case err != nil:
		return array{}, fmt.Errorf("%q: after %% comes how many run at a time, like %s%%50", text, which)
	case parallelism == 0:
		return array{}, fmt.Errorf("%q: none at a time would never end: write %%1 or more", text)
	}
	if a.parallelism, err = checkParallelism(parallelism, a.count); err != nil {
		return array{}, fmt.Errorf("%q: %w", text, err)
	}
	return a, nil
}

// parseArrayNumbers parses the part of an --array before %.
func parseArrayNumbers(text string) (array, error) {
	pieces := strings.Split(text, ",")
	if len(pieces) == 1 && !strings.ContainsAny(text, "-:") {
		count, err := parseNumber(text)
		switch {
		case err != nil:
			return array{}, errors.New(arrayForms)
		case count == 0:
			return array{}, errors.New("there must be 1 task at least: " + arrayForms)
		case count > taskstate.MaxCompletions:
			return array{}, fmt.Errorf("there are at most %d indexes", taskstate.MaxCompletions)
		}
		return array{count: int32(count)}, nil
	}
	var all []indexes.Range
	var listed []int
	for _, piece := range pieces {
		r, step, err := parseArrayRange(piece)
		if err != nil {
			return array{}, err
		}
		count := (r.Last-r.First)/step + 1
		switch {
		case len(pieces) == 1:
			return newArray(r.First, step, count), nil
		case step == 1:
			all = append(all, r)
		case count > maxListedNumbers:
			return array{}, errTooManyListed
		default:
			for number := r.First; number <= r.Last; number += step {
				listed = append(listed, number)
			}
		}
	}
	slices.Sort(listed)
	all = indexes.Union(indexes.Union(all, nil), indexes.Of(slices.Compact(listed)))
	count := indexes.Count(all)
	switch {
	case len(all) == 1:
		return newArray(all[0].First, 1, count), nil
	case count > maxListedNumbers:
		return array{}, errTooManyListed
	}
	list := make([]int32, count)
	for i := range list {
		list[i] = int32(indexes.At(all, i))
	}
	return array{count: int32(count), numbers: &batch.IndexNumbers{List: list}}, nil
}

var errTooManyListed = fmt.Errorf("a list has at most %d numbers: write one range with a step, like 0-1000000:10, or give --each-line a file with a number on each line", maxListedNumbers)

// newArray returns the array of count numbers from first on.
func newArray(first, step, count int) array {
	a := array{count: int32(count)}
	if first == 0 && (step == 1 || count == 1) {
		return a
	}
	a.numbers = &batch.IndexNumbers{}
	if first > 0 {
		a.numbers.First = ptr.To(int32(first))
	}
	if step > 1 && count > 1 {
		a.numbers.Step = ptr.To(int32(step))
	}
	return a
}

// parseArrayRange parses 5, 7-9 or 0-100:10.
func parseArrayRange(text string) (r indexes.Range, step int, err error) {
	ends, stepText, hasStep := strings.Cut(text, ":")
	first, last, isRange := strings.Cut(ends, "-")
	if !isRange {
		last = first
	}
	from, fromErr := parseNumber(first)
	to, toErr := parseNumber(last)
	by := int64(1)
	var stepErr error
	if hasStep {
		by, stepErr = parseNumber(stepText)
	}
	switch {
	case fromErr != nil || toErr != nil || hasStep && !isRange:
		return r, 0, errors.New(arrayForms)
	case stepErr != nil || by == 0 || by >= maxNumber:
		return r, 0, fmt.Errorf("after : comes a step of 1 or more, like %s:10", ends)
	case to < from:
		return r, 0, fmt.Errorf("%s: the last number is before the first", ends)
	case to >= taskstate.MaxCompletions:
		return r, 0, fmt.Errorf("%s: the last number can be %d", ends, taskstate.MaxCompletions-1)
	}
	return indexes.Range{First: int(from), Last: int(to)}, int(by), nil
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
