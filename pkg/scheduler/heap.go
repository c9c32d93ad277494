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

package scheduler

import "container/heap"

// item is something that a heap orders and that knows its own place, so that it can be taken out or moved from anywhere.
type item[T any] interface {
	before(T) bool
	place() *int
}

// heaped is a heap for container/heap: the item that comes before all others is at index 0.
type heaped[T item[T]] []T

func (q heaped[T]) Len() int           { return len(q) }
func (q heaped[T]) Less(i, j int) bool { return q[i].before(q[j]) }

func (q heaped[T]) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	*q[i].place(), *q[j].place() = i, j
}

// Push is for container/heap.
func (q *heaped[T]) Push(x any) {
	it := x.(T)
	*it.place() = len(*q)
	*q = append(*q, it)
}

// Pop is for container/heap.
func (q *heaped[T]) Pop() any {
	last := len(*q) - 1
	it := (*q)[last]
	var none T
	(*q)[last] = none
	*q = (*q)[:last]
	return it
}

func (q *heaped[T]) add(it T)    { heap.Push(q, it) }
func (q *heaped[T]) remove(it T) { heap.Remove(q, *it.place()) }
func (q *heaped[T]) fix(it T)    { heap.Fix(q, *it.place()) }

// first is the item that comes before all others, the zero value if there is none.
func (q heaped[T]) first() (first T) {
	if len(q) > 0 {
		first = q[0]
	}
	return first
}
