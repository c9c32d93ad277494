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
	"hash/fnv"
	"maps"
	"slices"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
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
	template := &set.Spec.Template
	number := strconv.Itoa(index)
	task := &Task{
		ObjectMeta: metav1.ObjectMeta{
			Name:            taskName(set.Name, set.UID, index, failures),
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
	task.Labels[LabelTaskSetName] = set.Name
	task.Labels[LabelControllerUID] = string(set.UID)
	task.Labels[LabelCompletionIndex] = number
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
	task.Spec.QueueName = set.Spec.QueueName
	// The controller must count the task before it is deleted, so the TTL must not delete it.
	task.Spec.TTLSecondsAfterFinished = nil
	// Put them first, so that other variables can refer to them.
	env := make([]EnvVar, 0, len(template.Spec.Env)+3)
	add := func(name, value string) {
		if !slices.ContainsFunc(template.Spec.Env, func(v EnvVar) bool { return v.Name == name }) {
			env = append(env, EnvVar{Name: name, Value: value})
		}
	}
	if index < len(set.Spec.Items) {
		add(itemVariable, escapeItem.Replace(set.Spec.Items[index]))
	}
	add(jobIndexVariable, number)
	add(indexVariable, strconv.Itoa(set.Spec.IndexNumbers.Number(index)))
	task.Spec.Env = append(env, template.Spec.Env...)
	return task
}
