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

package taskset

import (
	"hash/fnv"
	"maps"
	"slices"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// The variables with the index of a task, under the name that Jobs use and our own.
const (
	jobIndexVariable = "JOB_COMPLETION_INDEX"
	indexVariable    = "TASK_INDEX"
)

// itemVariable is the variable with the item of a task, in a set that has items.
const itemVariable = "TASK_ITEM"

// escape keeps an item as it is where values are expanded.
var escape = strings.NewReplacer("$", "$$")

// suffixLetters spell no words, as those of generated names.
const (
	suffixLetters = "bcdfghjklmnpqrstvwxz2456789"
	suffixLength  = 5
)

// taskName names the task of an index after so many failures, as a Job names its pods: <set>-<index>-<five letters>. The letters
// follow from the uid of the set and the failures. So a task is created once however often that is tried, and does not take the name
// of one of a former set.
func taskName(set string, uid types.UID, s start) string {
	hash := fnv.New32a()
	hash.Write([]byte(uid))
	n := uint64(hash.Sum32()) + uint64(s.failures)
	name := make([]byte, 0, len(set)+20)
	name = append(name, set...)
	name = append(name, '-')
	name = strconv.AppendInt(name, int64(s.index), 10)
	name = append(name, '-')
	for range suffixLength {
		name = append(name, suffixLetters[n%uint64(len(suffixLetters))])
		n /= uint64(len(suffixLetters))
	}
	return string(name)
}

// newTask gives the task of an index. It shares what it does not change with the template.
func newTask(set *batch.TaskSet, s start) *batch.Task {
	template := &set.Spec.Template
	index := strconv.Itoa(s.index)
	task := &batch.Task{
		ObjectMeta: metav1.ObjectMeta{
			Name:            taskName(set.Name, set.UID, s),
			Namespace:       set.Namespace,
			Labels:          maps.Clone(template.Labels),
			Annotations:     template.Annotations,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(set, kind)},
		},
		Spec: template.Spec,
	}
	if task.Labels == nil {
		task.Labels = map[string]string{}
	}
	task.Labels[batch.LabelTaskSetName] = set.Name
	task.Labels[batch.LabelControllerUID] = string(set.UID)
	task.Labels[batch.LabelCompletionIndex] = index
	if s.failures > 0 {
		task.Annotations = maps.Clone(template.Annotations)
		if task.Annotations == nil {
			task.Annotations = map[string]string{}
		}
		task.Annotations[batch.AnnotationIndexFailureCount] = strconv.Itoa(s.failures)
	}
	task.Spec.QueueName = set.Spec.QueueName
	// A task is counted before it is deleted, and nobody else may delete it.
	task.Spec.TTLSecondsAfterFinished = nil
	// First, so that the others can refer to them.
	env := make([]batch.EnvVar, 0, len(template.Spec.Env)+3)
	add := func(name, value string) {
		if !slices.ContainsFunc(template.Spec.Env, func(v batch.EnvVar) bool { return v.Name == name }) {
			env = append(env, batch.EnvVar{Name: name, Value: value})
		}
	}
	if s.index < len(set.Spec.Items) {
		add(itemVariable, escape.Replace(set.Spec.Items[s.index]))
	}
	add(jobIndexVariable, index)
	add(indexVariable, index)
	task.Spec.Env = append(env, template.Spec.Env...)
	return task
}
