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

package indexes

import "slices"

// Of returns the ranges of ascending indexes. An index may occur more than once.
func Of(ascending []int) []Range {
	var ranges []Range
	for _, index := range ascending {
		if n := len(ranges); n > 0 && index <= ranges[n-1].Last+1 {
			ranges[n-1].Last = index
		} else {
			ranges = append(ranges, Range{index, index})
		}
	}
	return ranges
}

// Contains reports whether index is in the ranges.
func Contains(ranges []Range, index int) bool {
	_, found := slices.BinarySearchFunc(ranges, index, func(r Range, index int) int {
		switch {
		case r.Last < index:
			return -1
		case r.First > index:
			return 1
		}
		return 0
	})
	return found
}

// Union returns the indexes that are in a, in b, or in both.
func Union(a, b []Range) []Range {
	all := slices.SortedFunc(slices.Values(slices.Concat(a, b)), func(a, b Range) int { return a.First - b.First })
	var union []Range
	for _, r := range all {
		if n := len(union); n > 0 && r.First <= union[n-1].Last+1 {
			union[n-1].Last = max(union[n-1].Last, r.Last)
		} else {
			union = append(union, r)
		}
	}
	return union
}

// Subtract returns the indexes of a that are not in b.
func Subtract(a, b []Range) []Range {
	var left []Range
	for _, r := range a {
		for len(b) > 0 && b[0].Last < r.First {
			b = b[1:]
		}
		next := r.First
		for _, taken := range b {
			if taken.First > r.Last {
				break
			}
			if next < taken.First {
				left = append(left, Range{next, taken.First - 1})
			}
			next = taken.Last + 1
		}
		if next <= r.Last {
			left = append(left, Range{next, r.Last})
		}
	}
	return left
}

// Intersect returns the indexes that are both in a and in b.
func Intersect(a, b []Range) []Range { return Subtract(a, Subtract(a, b)) }

// At returns the index at a position, counted from 0 over all ranges. The position must be less than Count(ranges).
func At(ranges []Range, position int) int {
	for _, r := range ranges {
		if size := r.Last - r.First + 1; position >= size {
			position -= size
			continue
		}
		return r.First + position
	}
	panic("indexes: position out of range")
}

// Slice returns the indexes at the positions from from to to-1, counted from 0 over all ranges. Positions at the end of
// the ranges and after it have no indexes.
func Slice(ranges []Range, from, to int) []Range {
	var slice []Range
	at := 0
	for _, r := range ranges {
		first, last := max(r.First, r.First+from-at), min(r.Last, r.First+to-1-at)
		if first <= last {
			slice = append(slice, Range{first, last})
		}
		at += r.Last - r.First + 1
	}
	return slice
}
