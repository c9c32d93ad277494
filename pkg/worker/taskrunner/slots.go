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
	"math"
	"slices"
	"strings"
	"sync"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// Slots are the slots and resources of a worker. They let at most as many tasks run at a time as the worker has slots,
// and only while their requests fit its capacity. The tasks that wait are those that the scheduler has prefetched.
//
// Waiting tasks start by priority, then in the order of arrival. A task starts before an earlier one only if it takes
// nothing that the earlier one lacks. While no task runs, the first one starts whatever it requests: its worker may
// have restarted with a smaller capacity.
//
// A running task has devices of its own of each extended resource that it requests.
type Slots struct {
	mu sync.Mutex
	// free is what running tasks leave of the capacity. It may be negative.
	free map[batch.ResourceName]int64
	// freeDevices are the numbers of the devices that no running task has, in ascending order.
	freeDevices map[batch.ResourceName][]int
	running     int
	waiting     []*Slot // in the order in which they start
}

// Slot is the slot that one task has or waits for.
type Slot struct {
	slots    *Slots
	priority int32
	requests map[batch.ResourceName]int64
	granted  chan struct{} // closed when the task may start
	devices  map[batch.ResourceName][]int
	state    slotState
}

// slotState is the state of a Slot.
//
//	waiting  its turn comes    → granted
//	waiting  Withdraw, Release → ended
//	granted  Release           → ended
type slotState int

const (
	slotWaiting slotState = iota
	slotGranted
	slotEnded
)

// maxDevices is the largest capacity of an extended resource that counts devices. Larger ones are amounts of something
// else, like bandwidth.
const maxDevices = 1024

// NewSlots returns the slots of a worker with a capacity, which includes the number of tasks.
func NewSlots(capacity batch.ResourceList) *Slots {
	s := &Slots{free: amounts(capacity), freeDevices: map[batch.ResourceName][]int{}}
	for name, amount := range s.free {
		if n := amount / 1000; strings.Contains(string(name), "/") && amount%1000 == 0 && n <= maxDevices {
			for i := range int(n) {
				s.freeDevices[name] = append(s.freeDevices[name], i)
			}
		}
	}
	return s
}

// amounts returns quantities in thousandths. Quantities beyond the range become the greatest amount.
func amounts(list batch.ResourceList) map[batch.ResourceName]int64 {
	sums := make(map[batch.ResourceName]int64, len(list)+1)
	for name, quantity := range list {
		if sums[name] = quantity.MilliValue(); quantity.Value() > math.MaxInt64/1000 {
			sums[name] = math.MaxInt64
		}
	}
	return sums
}

// Enter makes a task wait for a slot and returns it. It may be granted already.
func (s *Slots) Enter(task *batch.Task) *Slot {
	slot := &Slot{slots: s, priority: task.Spec.Priority, requests: amounts(task.Spec.Resources.Requests), granted: make(chan struct{})}
	slot.requests[batch.ResourceTasks] = 1000 // whatever it requests
	s.mu.Lock()
	defer s.mu.Unlock()
	at, _ := slices.BinarySearchFunc(s.waiting, slot, func(other, slot *Slot) int {
		if other.priority >= slot.priority {
			return -1
		}
		return 1
	})
	s.waiting = slices.Insert(s.waiting, at, slot)
	s.grant()
	return slot
}

// Granted returns a channel that is closed when the task may start.
func (s *Slot) Granted() <-chan struct{} { return s.granted }

// Devices returns the numbers of the devices that the task has while it has the slot, which must be granted, by the
// extended resource that it requests. A worker that offers N of a resource has the devices 0 to N-1.
func (s *Slot) Devices() map[batch.ResourceName][]int { return s.devices }

// Withdraw ends the wait for the slot. It returns false if the slot is granted: the task has started or is about to.
func (s *Slot) Withdraw() bool {
	s.slots.mu.Lock()
	defer s.slots.mu.Unlock()
	if s.state == slotGranted {
		return false
	}
	s.slots.end(s)
	return true
}

// Release frees the slot, or ends the wait for it. Later calls do nothing.
func (s *Slot) Release() {
	s.slots.mu.Lock()
	defer s.slots.mu.Unlock()
	s.slots.end(s)
}

func (s *Slots) end(slot *Slot) {
	switch slot.state {
	case slotWaiting:
		s.waiting = slices.DeleteFunc(s.waiting, func(other *Slot) bool { return other == slot })
	case slotGranted:
		s.running--
		for name, amount := range slot.requests {
			s.free[name] += amount
		}
		for name, devices := range slot.devices {
			s.freeDevices[name] = append(s.freeDevices[name], devices...)
			slices.Sort(s.freeDevices[name])
		}
	case slotEnded:
		return
	}
	slot.state = slotEnded
	s.grant()
}

// grant lets the waiting tasks start whose turn it is.
func (s *Slots) grant() {
	lacking := map[batch.ResourceName]bool{} // what an earlier task waits for
	s.waiting = slices.DeleteFunc(s.waiting, func(slot *Slot) bool {
		fits := true
		for name, amount := range slot.requests {
			if amount > 0 && (lacking[name] || amount > s.free[name]) {
				fits = false
			}
		}
		if !fits && s.running > 0 {
			for name, amount := range slot.requests {
				if amount > s.free[name] {
					lacking[name] = true
				}
			}
			return false
		}
		s.running++
		for name, amount := range slot.requests {
			s.free[name] -= amount
		}
		slot.devices = s.takeDevices(slot.requests)
		slot.state = slotGranted
		close(slot.granted)
		return true
	})
}

// takeDevices removes the devices of a task from the free ones and returns them. They are fewer than the task requests
// only if the worker does not have so many.
func (s *Slots) takeDevices(requests map[batch.ResourceName]int64) map[batch.ResourceName][]int {
	devices := map[batch.ResourceName][]int{}
	for name, free := range s.freeDevices {
		if n := min(int(requests[name]/1000), len(free)); n > 0 {
			devices[name], s.freeDevices[name] = slices.Clone(free[:n]), free[n:]
		}
	}
	return devices
}
