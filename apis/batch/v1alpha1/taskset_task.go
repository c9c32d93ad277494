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

package v1alpha1

import (
	"crypto/sha256"
	"encoding/hex"
	"hash/fnv"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/leat-dev/leat/apis/batch/indexes"
)

// Variables with the index of a task: that of Jobs and Leat's own.
const (
	jobIndexVariable = "JOB_COMPLETION_INDEX"
	indexVariable    = "TASK_INDEX"
)

// itemVariable is the variable with the item of a task, if the set has items.
const itemVariable = "TASK_ITEM"

// escapeItem escapes an item, so that references in it are not expanded.
var escapeItem = strings.NewReplacer("$", "$$")

// suffixLetters are the letters of generated names in Kubernetes, which cannot form words.
const (
	suffixLetters = "bcdfghjklmnpqrstvwxz2456789"
	suffixLength  = 5
)

// taskName returns the name of the task of an index after a number of failures: <set>-<index>-<five letters>, as for
// the pods of a Job. The letters are a hash of the set's UID and the number of failures. So repeated attempts create
// the task only once, and its name differs from those of a former set.
func taskName(set string, uid types.UID, index, failures int) string {
	hash := fnv.New32a()
	hash.Write([]byte(uid))
	n := uint64(hash.Sum32()) + uint64(failures)
	name := make([]byte, 0, len(set)+20)
	name = append(name, set...)
	name = append(name, '-')
	name = strconv.AppendInt(name, int64(index), 10)
	name = append(name, '-')
	for range suffixLength {
		name = append(name, suffixLetters[n%uint64(len(suffixLetters))])
		n /= uint64(len(suffixLetters))
	}
	return string(name)
}

// NewTask returns the task of an index of a set, after a number of failed tasks. The task may share memory with the
// template. The TaskSet controller creates it. The server validates it before it accepts a set.
func NewTask(set *TaskSet, index, failures int) *Task {
	task := newTask(set, index, failures)
	task.Labels[LabelCompletionIndex] = strconv.Itoa(index)
	var item *string
	if index < len(set.Spec.Items) {
		item = &set.Spec.Items[index]
	}
	task.Spec.Env = indexEnv(index, set.Spec.IndexNumbers.Number(index), item, set.Spec.Template.Spec.Env)
	return task
}

// NewChunk returns a task of a set that runs the indexes in the ranges. None of them may have failed. The task may
// share memory with the template. The TaskSet controller creates it.
func NewChunk(set *TaskSet, ranges []indexes.Range) *Task {
	first := ranges[0].First
	task := newTask(set, first, 0)
	task.Labels[LabelFirstCompletionIndex] = strconv.Itoa(first)
	task.Spec.Indexes = indexes.Format(ranges)
	task.Spec.IndexNumbers = set.Spec.IndexNumbers
	listed := set.Spec.IndexNumbers != nil && len(set.Spec.IndexNumbers.List) > 0
	if listed {
		task.Spec.IndexNumbers = &IndexNumbers{}
	}
	for _, r := range ranges {
		if len(set.Spec.Items) > 0 {
			task.Spec.Items = append(task.Spec.Items, set.Spec.Items[r.First:r.Last+1]...)
		}
		if listed {
			task.Spec.IndexNumbers.List = append(task.Spec.IndexNumbers.List, set.Spec.IndexNumbers.List[r.First:r.Last+1]...)
		}
	}
	return task
}

const (
	// ChunkDuration is how long the commands of a task with several indexes run together. The controller makes such tasks
	// for about that time, and the worker starts no further index after it.
	ChunkDuration = time.Second
	// MaxTaskIndexes is the maximum number of indexes in spec.indexes of a task, and the default of
	// spec.chunking.maxIndexes of a set. A million indexes in tasks of this size are a thousand tasks.
	MaxTaskIndexes = 1000
	// MaxTaskIndexRanges is the maximum number of ranges in spec.indexes of a task.
	MaxTaskIndexRanges = 64
)

// MaxIndexes returns the maximum number of indexes in a task of the set. It is 1 if a task cannot have several: without
// completions, and if the worker has to retry failed commands.
func (s *TaskSet) MaxIndexes() int {
	switch {
	case s.Spec.Completions == nil || ptr.Deref(s.Spec.Template.Spec.BackoffLimit, 0) != 0:
		return 1
	case s.Spec.Chunking == nil:
		return MaxTaskIndexes
	}
	return int(ptr.Deref(s.Spec.Chunking.MaxIndexes, MaxTaskIndexes))
}

// newTask returns a task of a set without what depends on its indexes, except for the name, which has the first index.
func newTask(set *TaskSet, first, failures int) *Task {
	template := &set.Spec.Template
	task := &Task{
		ObjectMeta: metav1.ObjectMeta{
			Name:            taskName(set.Name, set.UID, first, failures),
			Namespace:       set.Namespace,
			Labels:          maps.Clone(template.Labels),
			Annotations:     template.Annotations,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(set, SchemeGroupVersion.WithKind("TaskSet"))},
		},
		Spec: template.Spec,
	}
	if task.Labels == nil {
		task.Labels = map[string]string{}
	}
	delete(task.Labels, LabelCompletionIndex)
	delete(task.Labels, LabelFirstCompletionIndex)
	task.Labels[LabelTaskSetName] = set.Name
	task.Labels[LabelControllerUID] = string(set.UID)
	if _, own := template.Annotations[AnnotationIndexFailureCount]; own || failures > 0 {
		task.Annotations = maps.Clone(template.Annotations)
		if task.Annotations == nil {
			task.Annotations = map[string]string{}
		}
		delete(task.Annotations, AnnotationIndexFailureCount)
	}
	if failures > 0 {
		task.Annotations[AnnotationIndexFailureCount] = strconv.Itoa(failures)
	}
	task.inheritCreator(set)
	task.Spec.QueueName = set.Spec.QueueName
	// The controller must count the task before it is deleted, so the TTL must not delete it.
	task.Spec.TTLSecondsAfterFinished = nil
	return task
}

// inheritCreator sets the creator of a task to that of its set. The template may name another, which does not count.
// The annotations may be those of the template, so they are copied.
func (t *Task) inheritCreator(set *TaskSet) {
	delete(t.Labels, LabelCreator)
	if label, ok := set.Labels[LabelCreator]; ok {
		t.Labels[LabelCreator] = label
	}
	creator, ok := set.Annotations[AnnotationCreatedBy]
	if _, own := t.Annotations[AnnotationCreatedBy]; !ok && !own {
		return
	}
	t.Annotations = maps.Clone(t.Annotations)
	delete(t.Annotations, AnnotationCreatedBy)
	if ok {
		if t.Annotations == nil {
			t.Annotations = map[string]string{}
		}
		t.Annotations[AnnotationCreatedBy] = creator
	}
}

// CreatorLabel returns the value of LabelCreator for the name of a user: the first 16 hexadecimal digits of its
// SHA-256. Names of users may be longer than values of labels, and may have other characters.
func CreatorLabel(user string) string {
	sum := sha256.Sum256([]byte(user))
	return hex.EncodeToString(sum[:8])
}

// indexEnv returns the variables of an index, followed by those of the template, which override them. They are first,
// so that other variables can refer to them. item is nil if the set has no items.
func indexEnv(index, number int, item *string, template []EnvVar) []EnvVar {
	env := make([]EnvVar, 0, len(template)+3)
	add := func(name, value string) {
		if !slices.ContainsFunc(template, func(v EnvVar) bool { return v.Name == name }) {
			env = append(env, EnvVar{Name: name, Value: value})
		}
	}
	if item != nil {
		add(itemVariable, escapeItem.Replace(*item))
	}
	add(jobIndexVariable, strconv.Itoa(index))
	add(indexVariable, strconv.Itoa(number))
	return append(env, template...)
}

// IndexRanges returns the indexes of a task with spec.indexes, nil for any other. The server accepts only tasks whose
// indexes can be parsed.
func (t *Task) IndexRanges() []indexes.Range {
	ranges, err := indexes.Parse(t.Spec.Indexes, math.MaxInt32)
	if err != nil {
		return nil
	}
	return ranges
}

// CompletionIndexes returns the indexes of a set that a task was created for: several, or one, or nil without any.
func (t *Task) CompletionIndexes() []indexes.Range {
	if t.Spec.Indexes != "" {
		return t.IndexRanges()
	}
	index, err := strconv.ParseInt(t.Labels[LabelCompletionIndex], 10, 32)
	if err != nil || index < 0 {
		return nil
	}
	return []indexes.Range{{First: int(index), Last: int(index)}}
}

// AtIndex returns the task as it would be if it were that of one of its indexes only: with the name and the environment
// of NewTask. position is the position of the index in ranges, which are those of IndexRanges. The result
// shares memory with the task.
func (t *Task) AtIndex(ranges []indexes.Range, position int) *Task {
	index := indexes.At(ranges, position)
	number := 0
	if numbers := t.Spec.IndexNumbers; numbers != nil && len(numbers.List) > 0 {
		number = numbers.Number(position)
	} else {
		number = numbers.Number(index)
	}
	var item *string
	if position < len(t.Spec.Items) {
		item = &t.Spec.Items[position]
	}
	alone := *t
	alone.Name = nameAtIndex(t.Name, ranges[0].First, index)
	alone.Spec.Env = indexEnv(index, number, item, t.Spec.Env)
	alone.Spec.Indexes, alone.Spec.Items, alone.Spec.IndexNumbers = "", nil, nil
	return &alone
}

// nameAtIndex returns the name of the task of an index alone, from the name of a task whose first index is first. Only
// the index differs. The name of a task that was not created for a set gets the index as suffix.
func nameAtIndex(name string, first, index int) string {
	if end := len(name) - suffixLength - 1; end > 0 && name[end] == '-' {
		if set, ok := strings.CutSuffix(name[:end], "-"+strconv.Itoa(first)); ok {
			return set + "-" + strconv.Itoa(index) + name[end:]
		}
	}
	return name + "-" + strconv.Itoa(index)
}
