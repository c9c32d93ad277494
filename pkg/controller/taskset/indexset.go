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

package taskset

import (
	"slices"
	"sort"

	"github.com/leat-dev/leat/apis/batch/indexes"
)

// indexSet is a set of indexes, held as ranges that neither overlap nor touch: what it costs grows with the gaps and not
// with the indexes. Indexes are started in ascending order, so a set of a million has few more gaps than tasks that run.
type indexSet struct {
	ranges []indexes.Range
	n      int
}

// newIndexSet gives the set of ascending ranges.
func newIndexSet(ranges []indexes.Range) indexSet {
	return indexSet{ranges: union(ranges, nil), n: indexes.Count(ranges)}
}

// remaining gives the set of the indexes below limit that are in neither set.
func remaining(limit int, a, b *indexSet) indexSet {
	var s indexSet
	next := 0
	for _, r := range append(union(a.ranges, b.ranges), indexes.Range{First: limit}) {
		if r.First > next {
			s.ranges = append(s.ranges, indexes.Range{First: next, Last: r.First - 1})
			s.n += r.First - next
		}
		next = r.Last + 1
	}
	return s
}

// union gives the ranges of two ascending lists, in new ones that do not touch.
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

// String writes the set as the status has it.
func (s *indexSet) String() string { return indexes.Format(s.ranges) }

// at gives the position of the first range that ends at i or past it.
func (s *indexSet) at(i int) int {
	return sort.Search(len(s.ranges), func(p int) bool { return s.ranges[p].Last >= i })
}

func (s *indexSet) has(i int) bool {
	p := s.at(i)
	return p < len(s.ranges) && s.ranges[p].First <= i
}

// add tells whether i is new.
func (s *indexSet) add(i int) bool {
	p := s.at(i)
	if p < len(s.ranges) && s.ranges[p].First <= i {
		return false
	}
	s.n++
	joinsLeft := p > 0 && s.ranges[p-1].Last == i-1
	joinsRight := p < len(s.ranges) && s.ranges[p].First == i+1
	switch {
	case joinsLeft && joinsRight:
		s.ranges[p-1].Last = s.ranges[p].Last
		s.ranges = slices.Delete(s.ranges, p, p+1)
	case joinsLeft:
		s.ranges[p-1].Last = i
	case joinsRight:
		s.ranges[p].First = i
	default:
		s.ranges = slices.Insert(s.ranges, p, indexes.Range{First: i, Last: i})
	}
	return true
}

// remove tells whether i was there.
func (s *indexSet) remove(i int) bool {
	p := s.at(i)
	if p == len(s.ranges) || s.ranges[p].First > i {
		return false
	}
	s.n--
	switch r := s.ranges[p]; {
	case r.First == r.Last:
		s.ranges = slices.Delete(s.ranges, p, p+1)
	case r.First == i:
		s.ranges[p].First++
	case r.Last == i:
		s.ranges[p].Last--
	default:
		s.ranges[p].First = i + 1
		s.ranges = slices.Insert(s.ranges, p, indexes.Range{First: r.First, Last: i - 1})
	}
	return true
}

// pop takes the least index.
func (s *indexSet) pop() (int, bool) {
	if s.n == 0 {
		return 0, false
	}
	i := s.ranges[0].First
	s.remove(i)
	return i, true
}
