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

// Package attempt identifies the attempts of a worker at its tasks.
package attempt

import (
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/types"
)

// NoIndex is the index of attempts at a task without spec.indexes.
const NoIndex = -1

// ID identifies an attempt at a task, or at one index of a task with spec.indexes.
type ID struct {
	Task types.UID
	// Index is the index that the attempt is at, or NoIndex.
	Index int
	// Number counts the attempts at the task, or at the index, from 1 up.
	Number int32
}

// String returns <task uid>-<number>, or <task uid>_<index>-<number> for an attempt at an index. It is unique, and can
// be the name of a file.
func (id ID) String() string { return id.Target() + "-" + strconv.Itoa(int(id.Number)) }

// Target returns what the attempt is at: <task uid>, or <task uid>_<index>.
func (id ID) Target() string {
	if id.Index == NoIndex {
		return string(id.Task)
	}
	return string(id.Task) + "_" + strconv.Itoa(id.Index)
}

// Parse is the inverse of ID.String. UIDs have no underscore, but may end in a hyphen and digits.
func Parse(text string) (ID, bool) {
	i := strings.LastIndexByte(text, '-')
	if i < 0 {
		return ID{}, false
	}
	number, err := strconv.ParseInt(text[i+1:], 10, 32)
	task, index, ok := ParseTarget(text[:i])
	return ID{task, index, int32(number)}, ok && err == nil
}

// ParseTarget is the inverse of ID.Target.
func ParseTarget(text string) (task types.UID, index int, ok bool) {
	uid, digits, indexed := strings.Cut(text, "_")
	if !indexed {
		return types.UID(uid), NoIndex, uid != ""
	}
	index, err := strconv.Atoi(digits)
	return types.UID(uid), index, uid != "" && err == nil && index >= 0 && strconv.Itoa(index) == digits
}
