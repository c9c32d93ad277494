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

package registry

import (
	"testing"

	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/leat-dev/leat/apis/batch"
)

func TestPathsOfAVersion(t *testing.T) {
	version := Version[batch.Task]{Paths: map[string]string{"spec.queueName": "spec.placement.queue", "spec.env": "spec.variables"}}
	for first, want := range map[string]string{
		"spec.queueName": "spec.placement.queue", "spec.queueNames": "spec.queueNames", "spec.env[0].name": "spec.variables[0].name",
		"spec.env.name": "spec.variables.name", "status.phase": "status.phase", "spec": "spec",
	} {
		if got := version.path(first); got != want {
			t.Errorf("%s: got %s, want %s", first, got, want)
		}
		if got := (Version[batch.Task]{}).path(first); got != first {
			t.Errorf("%s: got %s in the first version", first, got)
		}
	}
	if got := version.fieldPath("spec.queueName").String(); got != ".spec.placement.queue" {
		t.Errorf("got %s, want .spec.placement.queue", got)
	}
	errs := field.ErrorList{field.Required(field.NewPath("spec", "env").Index(2), ""), field.Required(field.NewPath("spec"), "")}
	version.rename(errs)
	if errs[0].Field != "spec.variables[2]" || errs[1].Field != "spec" {
		t.Errorf("got the fields %s and %s, want spec.variables[2] and spec", errs[0].Field, errs[1].Field)
	}
}
