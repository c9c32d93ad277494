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

package plugins

import (
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/scheduler/framework"
)

// tasks differ from the first in one thing each that a filter reads.
var tasks = map[string]func(*batch.Task){
	"plain": func(*batch.Task) {},
	"cpu": func(t *batch.Task) {
		t.Spec.Resources.Requests = batch.ResourceList{"cpu": resource.MustParse("1")}
	},
	"more cpu": func(t *batch.Task) {
		t.Spec.Resources.Requests = batch.ResourceList{"cpu": resource.MustParse("9")}
	},
	"gpu": func(t *batch.Task) {
		t.Spec.Resources.Requests = batch.ResourceList{"example.com/gpu": resource.MustParse("1")}
	},
	"selector":    func(t *batch.Task) { t.Spec.WorkerSelector = map[string]string{"zone": "a"} },
	"other value": func(t *batch.Task) { t.Spec.WorkerSelector = map[string]string{"zone": "b"} },
	"other label": func(t *batch.Task) { t.Spec.WorkerSelector = map[string]string{"disk": "a"} },
	"tolerates key": func(t *batch.Task) {
		t.Spec.Tolerations = []batch.Toleration{{Key: "k", Operator: batch.TolerationOpExists}}
	},
	"tolerates value": func(t *batch.Task) { t.Spec.Tolerations = []batch.Toleration{{Key: "k", Value: "v"}} },
	"tolerates effect": func(t *batch.Task) {
		t.Spec.Tolerations = []batch.Toleration{{Key: "k", Value: "v", Effect: batch.TaintEffectNoExecute}}
	},
	"tolerates other key": func(t *batch.Task) { t.Spec.Tolerations = []batch.Toleration{{Key: "l", Value: "v"}} },
	"several indexes":     func(t *batch.Task) { t.Spec.Indexes = "0-3" },
	"pool":                func(t *batch.Task) { t.Spec.Pool = "p" },
	"other pool":          func(t *batch.Task) { t.Spec.Pool = "q" },
	"alone":               func(t *batch.Task) { t.Status.WorkerCrashes = 1 },
}

// workers differ in what the filters read of a worker.
var workers = map[string]func(*framework.WorkerInfo){
	"plain":     func(*framework.WorkerInfo) {},
	"denied":    func(w *framework.WorkerInfo) { w.Denied = true },
	"not ready": func(w *framework.WorkerInfo) { w.Ready = false },
	"cordoned":  func(w *framework.WorkerInfo) { w.Unschedulable = true },
	"labelled":  func(w *framework.WorkerInfo) { w.Labels = map[string]string{"zone": "a"} },
	"in a pool": func(w *framework.WorkerInfo) { w.Labels = map[string]string{batch.LabelPool: "p"} },
	"NoSchedule": func(w *framework.WorkerInfo) {
		w.Taints = []batch.Taint{{Key: "k", Value: "v", Effect: batch.TaintEffectNoSchedule}}
	},
	"NoExecute": func(w *framework.WorkerInfo) {
		w.Taints = []batch.Taint{{Key: "k", Value: "v", Effect: batch.TaintEffectNoExecute}}
	},
	"preference": func(w *framework.WorkerInfo) {
		w.Taints = []batch.Taint{{Key: "k", Effect: batch.TaintEffectPreferNoSchedule}}
	},
	"full":         func(w *framework.WorkerInfo) { w.Tasks = 4 },
	"used":         func(w *framework.WorkerInfo) { w.Tasks, w.Used = 1, framework.Resources{"cpu": 1500} },
	"runs one":     func(w *framework.WorkerInfo) { w.Tasks = 1 },
	"runs alone":   func(w *framework.WorkerInfo) { w.Tasks, w.TasksAlone = 1, 1 },
	"large":        func(w *framework.WorkerInfo) { w.Allocatable["cpu"] = 16000 },
	"runs chunks":  func(w *framework.WorkerInfo) { w.Features = []batch.WorkerFeature{batch.WorkerFeatureChunks} },
	"with a gpu":   func(w *framework.WorkerInfo) { w.Allocatable["example.com/gpu"] = 1 },
	"unregistered": func(w *framework.WorkerInfo) { w.WorkerState, w.Object = framework.WorkerState{}, nil },
}

func newTask(mutate func(*batch.Task)) *framework.TaskInfo {
	obj := &batch.Task{ObjectMeta: metav1.ObjectMeta{Name: "t"}}
	mutate(obj)
	info := framework.NewTaskInfo(obj)
	return &info
}

func newWorker(mutate func(*framework.WorkerInfo)) *framework.WorkerInfo {
	info := framework.NewWorkerInfo(&batch.Worker{
		ObjectMeta: metav1.ObjectMeta{Name: "w"},
		Status: batch.WorkerStatus{
			Incarnation: "i",
			Allocatable: batch.ResourceList{"tasks": resource.MustParse("4"), "cpu": resource.MustParse("2")},
			Conditions:  []metav1.Condition{{Type: batch.WorkerReady, Status: metav1.ConditionTrue, Reason: "Ready"}},
		},
	})
	mutate(&info)
	return &info
}

func TestAFilterHasReasonsIfAndOnlyIfItRejects(t *testing.T) {
	rejects := map[string]bool{}
	for taskName, mutateTask := range tasks {
		for workerName, mutateWorker := range workers {
			task, worker := newTask(mutateTask), newWorker(mutateWorker)
			for _, plugin := range NewFilters() {
				passes, reasons := plugin.Filter(task, worker), plugin.Reasons(task, worker)
				if passes != (len(reasons) == 0) {
					t.Errorf("%s, task %q, worker %q: Filter returns %v, the reasons are %+v", plugin.Name(), taskName, workerName, passes, reasons)
				}
				for _, reason := range reasons {
					if reason.Summary == "" || len(reason.Details) == 0 {
						t.Errorf("%s, task %q, worker %q: reason %+v has no summary or no details", plugin.Name(), taskName, workerName, reason)
					}
				}
				rejects[plugin.Name()] = rejects[plugin.Name()] || !passes
			}
		}
	}
	for _, plugin := range NewFilters() {
		if !rejects[plugin.Name()] {
			t.Errorf("%s rejects no worker: the test needs a case for it", plugin.Name())
		}
	}
}

func TestTasksWithTheSameSignatureAreFilteredAlike(t *testing.T) {
	filters := NewFilters()
	for name, mutate := range tasks {
		for otherName, mutateOther := range tasks {
			task, other := newTask(mutate), newTask(mutateOther)
			if same := filters.Sign(task) == filters.Sign(other); same != (name == otherName) {
				t.Errorf("tasks %q and %q have the signatures %q and %q", name, otherName, filters.Sign(task), filters.Sign(other))
			}
		}
	}
	if signature := filters.Sign(newTask(tasks["plain"])); signature != "" {
		t.Errorf("a task without requests has the signature %q", signature)
	}
	// What no filter reads is not part of the signature.
	labelled := newTask(func(t *batch.Task) { t.Labels, t.Spec.Priority = map[string]string{"a": "b"}, 7 })
	if signature := filters.Sign(labelled); signature != "" {
		t.Errorf("labels and priority are in the signature %q", signature)
	}
}

func TestAWorkerThatAcceptsNoTasksPassesForNoTask(t *testing.T) {
	filters := NewFilters()
	for workerName, mutateWorker := range workers {
		worker := newWorker(mutateWorker)
		accepts := worker.AcceptsTasks()
		passes := slices.ContainsFunc([]string{"plain", "alone", "tolerates key", "cpu"}, func(name string) bool {
			return filters.Filter(newTask(tasks[name]), worker)
		})
		if accepts != passes {
			t.Errorf("worker %q: AcceptsTasks returns %v, and that it passes for some task is %v", workerName, accepts, passes)
		}
	}
}

// TestEveryFieldThatAFilterReadsIsSigned sets one field of a task at a time. A filter that reads the field decides
// differently then, so the signature must differ, too.
func TestEveryFieldThatAFilterReadsIsSigned(t *testing.T) {
	filters, checked := NewFilters(), 0
	for baseName, mutate := range tasks {
		eachField(reflect.TypeFor[batch.Task](), func(path []int, name string) {
			base := newTask(mutate)
			changed := newTask(func(t *batch.Task) {
				mutate(t)
				setField(reflect.ValueOf(t).Elem(), path)
			})
			checked++
			if filters.Sign(base) != filters.Sign(changed) {
				return
			}
			for workerName, mutateWorker := range workers {
				worker := newWorker(mutateWorker)
				for _, plugin := range filters {
					if plugin.Filter(base, worker) != plugin.Filter(changed, worker) {
						t.Errorf("%s reads %s and does not sign it: task %q, worker %q", plugin.Name(), name, baseName, workerName)
					}
				}
			}
		})
	}
	if checked < 300 {
		t.Errorf("checked only %d fields", checked)
	}
}

// eachField calls visit for each field below a struct, with its index in each struct.
func eachField(of reflect.Type, visit func(path []int, name string)) {
	var walk func(of reflect.Type, path []int, name string)
	walk = func(of reflect.Type, path []int, name string) {
		for i := range of.NumField() {
			field := of.Field(i)
			at, called := append(slices.Clone(path), i), name+"."+field.Name
			if field.Type.Kind() == reflect.Struct && field.Type != reflect.TypeFor[metav1.Time]() {
				walk(field.Type, at, called)
			} else {
				visit(at, called)
			}
		}
	}
	walk(of, nil, of.Name())
}

// setField sets the field at a path to a value that is not zero.
func setField(v reflect.Value, path []int) {
	v = v.FieldByIndex(path)
	switch v.Kind() {
	case reflect.String:
		v.SetString("a")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int32, reflect.Int64:
		v.SetInt(v.Int() + 1)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
	case reflect.Map:
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		key.SetString("a")
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(key, value)
	case reflect.Struct: // a time
		v.Set(reflect.ValueOf(metav1.Unix(1, 0)))
	}
}

func TestEveryFilterIsInTheList(t *testing.T) {
	listed := map[string]bool{}
	for _, plugin := range NewFilters() {
		listed[strings.ToLower(plugin.Name())] = true
	}
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if entry.IsDir() && !listed[entry.Name()] {
			t.Errorf("NewFilters does not return the filter of the folder %s", entry.Name())
		}
	}
}

func TestNamesOfFiltersAreUnique(t *testing.T) {
	seen := map[string]bool{}
	for _, plugin := range NewFilters() {
		if seen[plugin.Name()] {
			t.Errorf("two filters are named %s", plugin.Name())
		}
		seen[plugin.Name()] = true
	}
}
