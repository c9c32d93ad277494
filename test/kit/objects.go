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

package kit

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// NewTask returns a task that runs the command, or true if there is none.
func NewTask(name string, command ...string) *batch.Task {
	if len(command) == 0 {
		command = []string{"true"}
	}
	return &batch.Task{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: batch.TaskSpec{Command: command}}
}

// NewTaskSet returns a set whose template is NewTask. Its other fields are empty, so it has one completion by default.
func NewTaskSet(name string, command ...string) *batch.TaskSet {
	return &batch.TaskSet{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       batch.TaskSetSpec{Template: batch.TaskTemplateSpec{Spec: NewTask("", command...).Spec}},
	}
}

// OwnerReference returns a reference to owner. It does not block the deletion of owner.
func OwnerReference(owner metav1.Object, apiVersion, kind string) metav1.OwnerReference {
	return metav1.OwnerReference{APIVersion: apiVersion, Kind: kind, Name: owner.GetName(), UID: owner.GetUID()}
}
