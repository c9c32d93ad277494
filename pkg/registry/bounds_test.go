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
	"fmt"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

func TestBoundErrors(t *testing.T) {
	path := field.NewPath("spec")
	few := field.ErrorList{field.Invalid(path.Child("a"), "b", "c")}
	if got := BoundErrors(few); got.ToAggregate().Error() != few.ToAggregate().Error() {
		t.Errorf("few errors: got %v", got)
	}
	var many field.ErrorList
	long := strings.Repeat("é", 1<<20)
	for i := range 10_000 {
		many = append(many, field.Invalid(path.Child("env").Index(i), long, long))
	}
	many[0].BadValue = []string{strings.Repeat("a", 1<<20)}
	many[1].BadValue = []string{"a"}
	got := BoundErrors(many)
	if len(got) != 17 || got[16].Error() != "spec: Too many: 9984 more errors are not shown: correct these first" {
		t.Errorf("got %d errors, the last is %v", len(got), got[len(got)-1])
	}
	if text := got.ToAggregate().Error(); len(text) > 17*2*maxErrorText {
		t.Errorf("got %d bytes", len(text))
	}
	if text := got[1].Error(); !strings.HasPrefix(text, `spec.env[1]: Invalid value: ["a"]: éé`) || !strings.HasSuffix(text, "é… (2097152 bytes)") {
		t.Errorf("short value with long detail: got %s", text)
	}
}

func TestDuplicates(t *testing.T) {
	names := []string{"a", "b", "a", "c", "a"}
	errs := Duplicates(len(names), func(i int) (*field.Path, string) { return field.NewPath("env").Index(i).Child("name"), names[i] })
	if got := fmt.Sprint(errs.ToAggregate()); got != `[env[2].name: Duplicate value: "a", env[4].name: Duplicate value: "a"]` {
		t.Errorf("got %s", got)
	}
}
