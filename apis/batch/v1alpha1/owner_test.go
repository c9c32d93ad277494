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
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestControllingTaskSet(t *testing.T) {
	controls := true
	for _, test := range []struct {
		apiVersion, kind string
		controller       *bool
		want             bool
	}{
		{"batch.leat.dev/v1alpha1", "TaskSet", &controls, true},
		{"batch.leat.dev/v1beta1", "TaskSet", &controls, true},
		{"batch.leat.dev/v1alpha1", "TaskSet", nil, false},
		{"batch.leat.dev/v1alpha1", "Task", &controls, false},
		{"example.com/v1alpha1", "TaskSet", &controls, false},
		{"v1alpha1", "TaskSet", &controls, false},
		{"batch.leat.dev/v1/alpha1", "TaskSet", &controls, false},
		{"", "TaskSet", &controls, false},
	} {
		task := &Task{ObjectMeta: metav1.ObjectMeta{OwnerReferences: []metav1.OwnerReference{
			{APIVersion: "v1", Kind: "ConfigMap", Name: "other"},
			{APIVersion: test.apiVersion, Kind: test.kind, Name: "set", Controller: test.controller},
		}}}
		if owner := ControllingTaskSet(task); (owner != nil) != test.want || owner != nil && owner.Name != "set" {
			t.Errorf("%+v: got %+v", test, owner)
		}
	}
	if owner := ControllingTaskSet(&Task{}); owner != nil {
		t.Errorf("a task without owners has %+v", owner)
	}
}
