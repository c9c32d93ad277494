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

package consistency

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// The comparison that the other tests rest on sees what is wrong.
func TestCompareSeesWhatAWatcherWasToldWrong(t *testing.T) {
	task := func(name, color string) *v1alpha1.Task {
		return &v1alpha1.Task{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"color": color}}}
	}
	red := func(task *v1alpha1.Task) bool { return task.Labels["color"] == "red" }
	changes := []change{
		{revision: 1, after: task("a", "red")},
		{revision: 2, after: task("b", "green")},
		{revision: 3, before: task("b", "green"), after: task("b", "red")},
		{revision: 4, before: task("a", "red"), after: task("a", "red")},
		{revision: 5, before: task("b", "red"), after: task("b", "green")},
		{revision: 6, before: task("a", "red")},
		{revision: 7, after: task("c", "red")},
	}
	right := []observed{
		{kind: watch.Added, revision: 1, task: task("a", "red")},
		{kind: watch.Added, revision: 3, task: task("b", "red")},
		{kind: watch.Bookmark, revision: 3},
		{kind: watch.Modified, revision: 4, task: task("a", "red")},
		{kind: watch.Deleted, revision: 5, task: task("b", "red")},
		{kind: watch.Deleted, revision: 6, task: task("a", "red")},
		{kind: watch.Added, revision: 7, task: task("c", "red")},
	}
	with := func(i int, o observed) func([]observed) []observed {
		return func(got []observed) []observed {
			got[i] = o
			return got
		}
	}
	list := func(revision int64, tasks ...*v1alpha1.Task) observed {
		o := observed{kind: listed, revision: revision}
		for _, task := range tasks {
			o.list = append(o.list, *task)
		}
		return o
	}
	for _, test := range []struct {
		name  string
		told  func([]observed) []observed
		wrong string // what the comparison says, empty if nothing
	}{
		{name: "all that happened", told: func(got []observed) []observed { return got }},
		{name: "a list in place of the events before it", told: func(got []observed) []observed {
			return append([]observed{list(4, task("a", "red"), task("b", "red"))}, got[4:]...)
		}},
		{name: "an event lost", wrong: "ADDED 3 b came", told: func(got []observed) []observed { return slices.Delete(got, 0, 1) }},
		{name: "the last event lost", wrong: "1 of 6 events never came", told: func(got []observed) []observed { return got[:6] }},
		{name: "an event twice", wrong: "ADDED 7 c came, and nothing more", told: func(got []observed) []observed { return append(got, got[6]) }},
		{name: "an event twice in between", wrong: "MODIFIED 4 a came instead", told: func(got []observed) []observed { return slices.Insert(got, 4, got[3]) }},
		{name: "events out of order", wrong: "came instead of", told: func(got []observed) []observed {
			got[3], got[4] = got[4], got[3]
			return got
		}},
		{name: "a wrong kind", wrong: "MODIFIED 3 b came instead of ADDED 3 b",
			told: with(1, observed{kind: watch.Modified, revision: 3, task: task("b", "red")})},
		{name: "wrong content", wrong: "was told as", told: with(3, observed{kind: watch.Modified, revision: 4, task: task("a", "blue")})},
		{name: "a bookmark too early", wrong: "MODIFIED 4 a had not", told: with(2, observed{kind: watch.Bookmark, revision: 4})},
		{name: "a bookmark going back", wrong: "came after revision 3", told: with(2, observed{kind: watch.Bookmark, revision: 2})},
		{name: "a list that lacks a task", wrong: "has 1 tasks, want 2", told: func(got []observed) []observed {
			return append([]observed{list(4, task("a", "red"))}, got[4:]...)
		}},
		{name: "a list with a task that is gone", wrong: "there is none", told: func(got []observed) []observed {
			return append(got[:6], list(7, task("a", "red"), task("c", "red")))
		}},
		{name: "an event that a list has had", wrong: "came after revision 7", told: func(got []observed) []observed {
			return append(got[:5], list(7, task("c", "red")), got[5])
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := fmt.Sprint(compare(changes, red, test.told(slices.Clone(right))))
			if test.wrong == "" && got != "<nil>" || !strings.Contains(got, test.wrong) {
				t.Errorf("The comparison says %s, want %q.", got, test.wrong)
			}
		})
	}
}
