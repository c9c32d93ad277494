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

package queue

import "container/heap"

// heapItem is an item that stores its own index in the heap, so that it can be removed or moved from any position.
type heapItem[T any] interface {
	before(T) bool
	heapIndex() *int32
}

// indexedHeap implements heap.Interface. The item that comes before all others is at index 0.
type indexedHeap[T heapItem[T]] []T

func (q indexedHeap[T]) Len() int           { return len(q) }
func (q indexedHeap[T]) Less(i, j int) bool { return q[i].before(q[j]) }

func (q indexedHeap[T]) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	*q[i].heapIndex(), *q[j].heapIndex() = int32(i), int32(j)
}

// Push implements heap.Interface. Use add instead.
func (q *indexedHeap[T]) Push(x any) {
	it := x.(T)
	*it.heapIndex() = int32(len(*q))
	*q = append(*q, it)
}

// Pop implements heap.Interface. Use remove instead.
func (q *indexedHeap[T]) Pop() any {
	last := len(*q) - 1
	it := (*q)[last]
	var none T
	(*q)[last] = none
	*q = (*q)[:last]
	return it
}

func (q *indexedHeap[T]) add(it T)    { heap.Push(q, it) }
func (q *indexedHeap[T]) remove(it T) { heap.Remove(q, int(*it.heapIndex())) }
func (q *indexedHeap[T]) fix(it T)    { heap.Fix(q, int(*it.heapIndex())) }

// first returns the item that comes before all others, or the zero value if the heap is empty.
func (q indexedHeap[T]) first() (first T) {
	if len(q) > 0 {
		first = q[0]
	}
	return first
}
