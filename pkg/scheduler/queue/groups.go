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

import (
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/leat-dev/leat/pkg/scheduler/framework"
)

// Groups returns the enqueued tasks of all queues, grouped by their class and their controller, in the order of the
// first task of each group. It leaves out the tasks that their queue does not start, or not before others have ended.
func (qs *Queues) Groups() []framework.TaskGroup {
	var all []group
	for _, q := range qs.queues {
		all = append(all, q.groups()...)
	}
	slices.SortFunc(all, compareGroups)
	groups := make([]framework.TaskGroup, 0, len(all))
	for _, g := range all {
		task := g.first.TaskInfo
		task.QueueInfo = nil
		groups = append(groups, framework.TaskGroup{Task: task, Count: g.count, Controller: metav1.GetControllerOf(task.Object)})
	}
	return groups
}

// group is a number of tasks with the same class and the same controller.
type group struct {
	first *Task
	count int
}

func compareGroups(a, b group) int {
	if a.first.before(b.first) {
		return -1
	}
	return 1
}

// groups returns the groups of the queue, as many tasks of each as its limits leave room for.
func (q *Queue) groups() []group {
	if !q.open() {
		return nil
	}
	var groups []group
	for _, class := range q.classes {
		groups = append(groups, class.groups()...)
	}
	if q.maxRunning == nil && len(q.limits) == 0 {
		return groups
	}
	slices.SortFunc(groups, compareGroups)
	used := framework.Resources{}
	used.Add(q.used, 1)
	tasks := len(q.bound)
	for i, g := range groups {
		room := g.count
		if q.maxRunning != nil {
			room = min(room, int(*q.maxRunning)-tasks)
		}
		for _, name := range g.first.ResourceNames {
			if limit, limited := q.limits[name]; limited && g.first.Requests[name] > 0 {
				room = min(room, int(max(0, limit-used[name])/g.first.Requests[name]))
			}
		}
		groups[i].count = room
		used.Add(g.first.Requests, int64(room))
		tasks += room
	}
	return slices.DeleteFunc(groups, func(g group) bool { return g.count == 0 })
}

// groups returns the tasks of the class, grouped by their controller.
func (c *Class) groups() []group {
	byController := map[types.UID]int{}
	var groups []group
	for _, t := range c.tasks {
		uid := types.UID("")
		if controller := metav1.GetControllerOfNoCopy(t.Object); controller != nil {
			uid = controller.UID
		}
		i, ok := byController[uid]
		if !ok {
			i = len(groups)
			byController[uid] = i
			groups = append(groups, group{first: t})
		}
		groups[i].count++
		if t.before(groups[i].first) {
			groups[i].first = t
		}
	}
	return groups
}
