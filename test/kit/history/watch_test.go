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

package history

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

func TestCheckWatch(t *testing.T) {
	task := func(name, color string) *batch.Task {
		return &batch.Task{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"color": color}}}
	}
	red := func(task *batch.Task) bool { return task.Labels["color"] == "red" }
	changes := []Change{
		{Revision: 1, After: task("a", "red")},
		{Revision: 2, After: task("b", "green")},
		{Revision: 3, Before: task("b", "green"), After: task("b", "red")},
		{Revision: 4, Before: task("a", "red"), After: task("a", "red")},
		{Revision: 5, Before: task("b", "red"), After: task("b", "green")},
		{Revision: 6, Before: task("a", "red")},
		{Revision: 7, After: task("c", "red")},
	}
	correct := []Observation{
		{Type: watch.Added, Revision: 1, Task: task("a", "red")},
		{Type: watch.Added, Revision: 3, Task: task("b", "red")},
		{Type: watch.Bookmark, Revision: 3},
		{Type: watch.Modified, Revision: 4, Task: task("a", "red")},
		{Type: watch.Deleted, Revision: 5, Task: task("b", "red")},
		{Type: watch.Deleted, Revision: 6, Task: task("a", "red")},
		{Type: watch.Added, Revision: 7, Task: task("c", "red")},
	}
	replace := func(i int, o Observation) func([]Observation) []Observation {
		return func(got []Observation) []Observation {
			got[i] = o
			return got
		}
	}
	list := func(revision int64, tasks ...*batch.Task) Observation {
		o := Observation{Type: Listed, Revision: revision}
		for _, task := range tasks {
			o.List = append(o.List, *task)
		}
		return o
	}
	for _, test := range []struct {
		name   string
		change func([]Observation) []Observation
		want   string // part of the error, or empty for no error
	}{
		{name: "all events", change: func(got []Observation) []Observation { return got }},
		{name: "a list instead of the events before it", change: func(got []Observation) []Observation {
			return append([]Observation{list(4, task("a", "red"), task("b", "red"))}, got[4:]...)
		}},
		{name: "the first event lost", want: "got ADDED 3 b, want ADDED 1 a", change: func(got []Observation) []Observation { return slices.Delete(got, 0, 1) }},
		{name: "an event before a bookmark lost", want: "BOOKMARK 3 came before ADDED 3 b", change: func(got []Observation) []Observation { return slices.Delete(got, 1, 2) }},
		{name: "the last event lost", want: "1 of 6 events never came", change: func(got []Observation) []Observation { return got[:6] }},
		{name: "the last event twice", want: "ADDED 7 c came after the last event", change: func(got []Observation) []Observation { return append(got, got[6]) }},
		{name: "an event twice", want: "got MODIFIED 4 a, want DELETED 5 b", change: func(got []Observation) []Observation { return slices.Insert(got, 4, got[3]) }},
		{name: "events out of order", want: "got DELETED 5 b, want MODIFIED 4 a", change: func(got []Observation) []Observation {
			got[3], got[4] = got[4], got[3]
			return got
		}},
		{name: "a wrong type", want: "got MODIFIED 3 b, want ADDED 3 b", change: replace(1, Observation{Type: watch.Modified, Revision: 3, Task: task("b", "red")})},
		{name: "wrong content", want: "MODIFIED 4 a: got ", change: replace(3, Observation{Type: watch.Modified, Revision: 4, Task: task("a", "blue")})},
		{name: "a task that the selector does not match", want: "got ADDED 2 b, want ADDED 3 b", change: func(got []Observation) []Observation {
			return slices.Insert(got, 1, Observation{Type: watch.Added, Revision: 2, Task: task("b", "green")})
		}},
		{name: "no event when a task ceases to match", want: "want DELETED 5 b", change: func(got []Observation) []Observation { return slices.Delete(got, 4, 5) }},
		{name: "a bookmark before its events", want: "BOOKMARK 4 came before MODIFIED 4 a", change: replace(2, Observation{Type: watch.Bookmark, Revision: 4})},
		{name: "a bookmark that goes back", want: "came after revision 3", change: replace(2, Observation{Type: watch.Bookmark, Revision: 2})},
		{name: "a list without a task", want: "has 1 tasks, want 2", change: func(got []Observation) []Observation {
			return append([]Observation{list(4, task("a", "red"))}, got[4:]...)
		}},
		{name: "a list with a deleted task", want: "which does not exist", change: func(got []Observation) []Observation {
			return append(got[:6], list(7, task("a", "red"), task("c", "red")))
		}},
		{name: "an event before a list that includes it", want: "came after revision 7", change: func(got []Observation) []Observation {
			return append(got[:5], list(7, task("c", "red")), got[5])
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := fmt.Sprint(CheckWatch(changes, red, test.change(slices.Clone(correct))))
			if test.want == "" && got != "<nil>" || !strings.Contains(got, test.want) {
				t.Errorf("got %s, want %q", got, test.want)
			}
		})
	}
}
