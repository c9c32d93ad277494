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

package state

import (
	"slices"
	"sort"

	"github.com/leat-dev/leat/apis/batch/indexes"
)

// indexSet is a set of indexes, stored as ascending ranges that neither overlap nor touch. Its cost grows with the
// number of gaps and not with the number of indexes: indexes start in ascending order, so a set of a million indexes
// has hardly more gaps than it has running tasks.
type indexSet struct {
	ranges []indexes.Range
	// size is how many indexes the set has.
	size int
}

// newIndexSet returns the set of the indexes in ascending ranges.
func newIndexSet(ranges []indexes.Range) indexSet {
	return indexSet{ranges: union(ranges, nil), size: indexes.Count(ranges)}
}

// remaining returns the indexes below end that are in neither set.
func remaining(end int, a, b *indexSet) indexSet {
	var s indexSet
	next := 0
	for _, r := range append(union(a.ranges, b.ranges), indexes.Range{First: end}) {
		if r.First > next {
			s.ranges = append(s.ranges, indexes.Range{First: next, Last: r.First - 1})
			s.size += r.First - next
		}
		next = r.Last + 1
	}
	return s
}

// union returns the indexes of two ascending lists as ranges that neither overlap nor touch.
func union(a, b []indexes.Range) []indexes.Range {
	var all []indexes.Range
	for len(a) > 0 || len(b) > 0 {
		from := &a
		if len(a) == 0 || len(b) > 0 && b[0].First < a[0].First {
			from = &b
		}
		r := (*from)[0]
		*from = (*from)[1:]
		if last := len(all) - 1; last >= 0 && r.First <= all[last].Last+1 {
			all[last].Last = max(all[last].Last, r.Last)
		} else {
			all = append(all, r)
		}
	}
	return all
}

// String returns the set in the notation of the status, like "0-4,7".
func (s *indexSet) String() string { return indexes.Format(s.ranges) }

// search returns the position of the first range that ends at i or later.
func (s *indexSet) search(i int) int {
	return sort.Search(len(s.ranges), func(p int) bool { return s.ranges[p].Last >= i })
}

// has reports whether i is in the set.
func (s *indexSet) has(i int) bool {
	p := s.search(i)
	return p < len(s.ranges) && s.ranges[p].First <= i
}

// add adds i and reports whether it was missing.
func (s *indexSet) add(i int) bool {
	missing := !s.has(i)
	s.addRange(indexes.Range{First: i, Last: i})
	return missing
}

// addRange adds all indexes of a range.
func (s *indexSet) addRange(r indexes.Range) {
	from := s.search(r.First - 1) // the first range that overlaps or touches r
	to := from
	for ; to < len(s.ranges) && s.ranges[to].First <= r.Last+1; to++ {
		s.size -= sizeOf(s.ranges[to])
		r.First, r.Last = min(r.First, s.ranges[to].First), max(r.Last, s.ranges[to].Last)
	}
	s.size += sizeOf(r)
	s.ranges = slices.Replace(s.ranges, from, to, r)
}

// remove removes i.
func (s *indexSet) remove(i int) { s.removeRange(indexes.Range{First: i, Last: i}) }

// removeRange removes all indexes of a range.
func (s *indexSet) removeRange(r indexes.Range) {
	from := s.search(r.First)
	to, rest := from, make([]indexes.Range, 0, 2)
	for ; to < len(s.ranges) && s.ranges[to].First <= r.Last; to++ {
		before := indexes.Range{First: s.ranges[to].First, Last: r.First - 1}
		after := indexes.Range{First: r.Last + 1, Last: s.ranges[to].Last}
		s.size -= sizeOf(s.ranges[to])
		for _, part := range []indexes.Range{before, after} {
			if part.First <= part.Last {
				rest = append(rest, part)
				s.size += sizeOf(part)
			}
		}
	}
	s.ranges = slices.Replace(s.ranges, from, to, rest...)
}

// within returns the indexes of the set that are in a range.
func (s *indexSet) within(r indexes.Range) []indexes.Range {
	var found []indexes.Range
	for p := s.search(r.First); p < len(s.ranges) && s.ranges[p].First <= r.Last; p++ {
		found = append(found, indexes.Range{First: max(r.First, s.ranges[p].First), Last: min(r.Last, s.ranges[p].Last)})
	}
	return found
}

// pop removes and returns the smallest index. It reports false if the set is empty.
func (s *indexSet) pop() (int, bool) {
	if s.size == 0 {
		return 0, false
	}
	i := s.ranges[0].First
	s.remove(i)
	return i, true
}

// sizeOf returns how many indexes a range has.
func sizeOf(r indexes.Range) int { return r.Last - r.First + 1 }
