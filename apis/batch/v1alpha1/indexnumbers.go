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

package v1alpha1

import (
	"slices"

	"k8s.io/utils/ptr"

	"github.com/leat-dev/leat/apis/batch/indexes"
)

// Number returns the number of an index. Without numbers it is the index.
func (n *IndexNumbers) Number(index int) int {
	switch {
	case n == nil:
		return index
	case index < len(n.List):
		return int(n.List[index])
	}
	return int(ptr.Deref(n.First, 0)) + index*int(ptr.Deref(n.Step, 1))
}

// Numbers returns the numbers of indexes. The indexes must be below completions.
func (n *IndexNumbers) Numbers(of []indexes.Range) []indexes.Range {
	if n == nil {
		return of
	}
	var numbers []indexes.Range
	for _, r := range of {
		first, last := n.Number(r.First), n.Number(r.Last)
		if last-first == r.Last-r.First {
			numbers = append(numbers, indexes.Range{First: first, Last: last})
			continue
		}
		for index := r.First; index <= r.Last; index++ {
			number := n.Number(index)
			numbers = append(numbers, indexes.Range{First: number, Last: number})
		}
	}
	return indexes.Union(numbers, nil)
}

// Indexes returns the indexes below completions whose numbers are in the ranges.
func (n *IndexNumbers) Indexes(numbers []indexes.Range, completions int) []indexes.Range {
	all := []indexes.Range{{First: 0, Last: completions - 1}}
	if completions < 1 {
		return nil
	}
	if n == nil {
		return indexes.Intersect(numbers, all)
	}
	var found []indexes.Range
	for _, r := range numbers {
		// The first index and the last one whose numbers are in the range.
		first, last := n.indexAt(r.First), n.indexAt(r.Last+1)-1
		if first <= last {
			found = append(found, indexes.Range{First: first, Last: last})
		}
	}
	return indexes.Intersect(indexes.Union(found, nil), all)
}

// indexAt returns the smallest index whose number is at least the given one.
func (n *IndexNumbers) indexAt(number int) int {
	if len(n.List) > 0 {
		index, _ := slices.BinarySearchFunc(n.List, number, func(have int32, number int) int { return int(have) - number })
		return index
	}
	step := int(ptr.Deref(n.Step, 1))
	return max(0, (number-int(ptr.Deref(n.First, 0))+step-1)/step)
}
