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

package taskrunner

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/resource"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// slotsOf returns the slots of a worker with this capacity.
func slotsOf(capacity string) *Slots { return NewSlots(resources(capacity)) }

// resources parses a list like "tasks=2 cpu=500m".
func resources(list string) batch.ResourceList {
	parsed := batch.ResourceList{}
	for _, entry := range strings.Fields(list) {
		name, quantity, _ := strings.Cut(entry, "=")
		parsed[batch.ResourceName(name)] = resource.MustParse(quantity)
	}
	return parsed
}

func requesting(list string, priority int32) *batch.Task {
	return &batch.Task{Spec: batch.TaskSpec{Priority: priority, Resources: batch.TaskResources{Requests: resources(list)}}}
}

func isGranted(slot *Slot) bool {
	select {
	case <-slot.Granted():
		return true
	default:
		return false
	}
}

func TestTheOrderOfWaitingTasks(t *testing.T) {
	for _, test := range []struct {
		name     string
		capacity string
		tasks    []*batch.Task
		// want are the tasks that run, by number: at first, and after the first task in the list has ended, and so on.
		want []string
	}{
		{
			"first come, first served", "tasks=1",
			[]*batch.Task{requesting("", 0), requesting("", 0), requesting("", 0)}, []string{"0", "1", "2"},
		},
		{
			"the most urgent first", "tasks=1",
			[]*batch.Task{requesting("", 0), requesting("", 1), requesting("", 5), requesting("", 5)}, []string{"0", "2", "3", "1"},
		},
		{
			"a task waits for its resources", "tasks=3 cpu=2",
			[]*batch.Task{requesting("cpu=1500m", 0), requesting("cpu=1", 0)}, []string{"0", "1"},
		},
		{
			"no task overtakes one that waits for the same resource", "tasks=3 cpu=2",
			[]*batch.Task{requesting("cpu=1500m", 0), requesting("cpu=1", 0), requesting("cpu=100m", 0)}, []string{"0", "1 2"},
		},
		{
			"a task that needs nothing of it starts", "tasks=3 cpu=2",
			[]*batch.Task{requesting("cpu=1500m", 0), requesting("cpu=1", 0), requesting("memory=0", 0)}, []string{"0 2", "1 2"},
		},
		{
			"a task that is too large runs alone", "tasks=3 cpu=2",
			[]*batch.Task{requesting("", 0), requesting("cpu=3", 0), requesting("cpu=1", 0)}, []string{"0", "1", "2"},
		},
		{
			"a task takes one slot whatever it requests", "tasks=2",
			[]*batch.Task{requesting("tasks=2", 0), requesting("", 0)}, []string{"0 1"},
		},
		{
			"a resource beyond the range", "tasks=2 memory=9E",
			[]*batch.Task{requesting("memory=9E", 0), requesting("memory=1", 0)}, []string{"0", "1"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			slots := slotsOf(test.capacity)
			var all []*Slot
			for _, task := range test.tasks {
				all = append(all, slots.Enter(task))
			}
			for step, want := range test.want {
				var running []string
				first := -1
				for i, slot := range all {
					if slot != nil && isGranted(slot) {
						running = append(running, fmt.Sprint(i))
						if first < 0 {
							first = i
						}
					}
				}
				if got := strings.Join(running, " "); got != want {
					t.Fatalf("step %d: %q run, want %q", step, got, want)
				}
				all[first].Release()
				all[first] = nil
			}
		})
	}
}

func TestATaskIsWithdrawnOrStartedAndNotBoth(t *testing.T) {
	slots := slotsOf("tasks=1")
	first, second, third := slots.Enter(requesting("", 0)), slots.Enter(requesting("", 0)), slots.Enter(requesting("", 0))
	if first.Withdraw() {
		t.Error("a task that has a slot is withdrawn")
	}
	if !second.Withdraw() {
		t.Error("a task that waits is not withdrawn")
	}
	first.Release()
	if isGranted(second) || !isGranted(third) {
		t.Error("the slot does not go to the task that still waits")
	}
	// A slot is freed once.
	first.Release()
	second.Release()
	if fourth := slots.Enter(requesting("", 0)); isGranted(fourth) {
		t.Error("two tasks run in one slot")
	}
}

// TestSlotsAreNeverExceededAndNeverIdle checks after each of many random events that what runs fits the capacity, or is
// the only task that requests too much, and that the first waiting task does not fit.
func TestSlotsAreNeverExceededAndNeverIdle(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	slots := slotsOf("tasks=3 cpu=4 memory=4")
	var all []*Slot
	for step := range 20000 {
		if at := r.IntN(8); at < len(all) {
			if r.IntN(3) > 0 || !all[at].Withdraw() {
				all[at].Release()
			}
			all = append(all[:at], all[at+1:]...)
		} else {
			all = append(all, slots.Enter(requesting(fmt.Sprintf("cpu=%d memory=%d", r.IntN(6), r.IntN(4)), r.Int32N(3))))
		}
		running, requestCPU, cpu, memory := 0, 0, int64(0), int64(0)
		for _, slot := range all {
			if isGranted(slot) {
				running, cpu, memory = running+1, cpu+slot.requests["cpu"], memory+slot.requests["memory"]
				if slot.requests["cpu"] > 0 {
					requestCPU++
				}
			}
		}
		if running > 3 || requestCPU > 1 && cpu > 4000 || memory > 4000 {
			t.Fatalf("step %d: %d tasks run with %d cpu and %d memory, in thousandths", step, running, cpu, memory)
		}
		if len(slots.waiting)+running != len(all) {
			t.Fatalf("step %d: %d tasks run and %d wait, of %d", step, running, len(slots.waiting), len(all))
		}
		if len(slots.waiting) == 0 {
			continue
		}
		if first := slots.waiting[0]; running < 3 && cpu+first.requests["cpu"] <= 4000 && memory+first.requests["memory"] <= 4000 {
			t.Fatalf("step %d: a task waits although its slot and resources are free", step)
		}
	}
}

func TestTasksHaveDevicesOfTheirOwn(t *testing.T) {
	slots := slotsOf("tasks=9 example.com/gpu=4 example.com/bandwidth=1M example.com/half=1500m")
	enter := func(requests string, want ...int) *Slot {
		t.Helper()
		slot := slots.Enter(requesting(requests, 0))
		if got := slot.Devices()["example.com/gpu"]; !isGranted(slot) || !slices.Equal(got, want) {
			t.Errorf("a task that requests %q has the devices %v, want %v", requests, got, want)
		}
		return slot
	}
	first := enter("example.com/gpu=1", 0)
	second := enter("example.com/gpu=2", 1, 2)
	others := enter("example.com/bandwidth=100k example.com/half=1")
	if len(others.Devices()) > 0 {
		t.Errorf("got the devices %v of resources that are amounts", others.Devices())
	}
	first.Release()
	enter("example.com/gpu=2", 0, 3)
	waiting := slots.Enter(requesting("example.com/gpu=1", 0))
	second.Release()
	second.Release()
	if got := waiting.Devices()["example.com/gpu"]; !isGranted(waiting) || !slices.Equal(got, []int{1}) {
		t.Errorf("the task that waited has the devices %v, want 1", got)
	}

	// A task that was bound before its worker restarted with fewer devices has all of them.
	smaller := slotsOf("tasks=1 example.com/gpu=2").Enter(requesting("example.com/gpu=4", 0))
	if got := smaller.Devices()["example.com/gpu"]; !slices.Equal(got, []int{0, 1}) {
		t.Errorf("got the devices %v, want all", got)
	}
}
