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

// Package framework holds what the parts of the scheduler share: tasks, workers and resources as scheduling sees them,
// and the interface of its filters. It also runs the filters. The filters themselves are in the packages below plugins.
package framework

// FilterPlugin is a rule about which tasks a worker can run. Plugins have no state.
type FilterPlugin interface {
	// Name returns the name of the plugin.
	Name() string
	// Filter reports whether the rule lets the worker run the task. It is on the hot path and must not allocate.
	Filter(task *TaskInfo, worker *WorkerInfo) bool
	// Reasons returns why Filter returns false. It returns nothing if Filter returns true.
	Reasons(task *TaskInfo, worker *WorkerInfo) []Reason
	// Sign appends everything that Filter reads of the task, and nothing if it reads only default values. The
	// plugin's part must begin with its name, so that the parts of different plugins differ. Tasks for which all
	// plugins append the same are accepted or rejected by each worker alike.
	Sign(signature []byte, task *TaskInfo) []byte
}

// Reason is a reason why a worker cannot run a task.
type Reason struct {
	// Summary completes a sentence after the number of workers, for example "were not ready". It is in the past
	// tense and names nothing that differs between workers without need: the scheduler counts the workers with the
	// same summary.
	Summary string
	// Details complete a sentence after the name of the worker, for example "is not ready (WorkerLost)".
	Details []string
}

// Filters is a list of filters. Their order is that in which reasons matter to a reader: the scheduler reports those of
// the first filter that rejects a worker.
type Filters []FilterPlugin

// Filter reports whether the worker passes all filters for the task.
func (f Filters) Filter(task *TaskInfo, worker *WorkerInfo) bool {
	for _, plugin := range f {
		if !plugin.Filter(task, worker) {
			return false
		}
	}
	return true
}

// FirstReasons returns the reasons of the first filter that rejects the worker for the task. It returns nothing if none
// does.
func (f Filters) FirstReasons(task *TaskInfo, worker *WorkerInfo) []Reason {
	for _, plugin := range f {
		if reasons := plugin.Reasons(task, worker); len(reasons) > 0 {
			return reasons
		}
	}
	return nil
}

// Reasons returns the reasons of all filters that reject the worker for the task.
func (f Filters) Reasons(task *TaskInfo, worker *WorkerInfo) (reasons []Reason) {
	for _, plugin := range f {
		reasons = append(reasons, plugin.Reasons(task, worker)...)
	}
	return reasons
}

// Sign returns the signature of a task. Each worker accepts or rejects tasks with the same signature alike. The
// signature of a task without requests, selector and the like is empty.
func (f Filters) Sign(task *TaskInfo) string {
	var signature []byte
	for _, plugin := range f {
		signature = plugin.Sign(signature, task)
	}
	return string(signature)
}
