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

package resources

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/leat-dev/leat/apis/batch"
)

func TestValidate(t *testing.T) {
	for _, test := range []struct {
		name, resource, amount string
		want                   []string
	}{
		{"known", "memory", "1Gi", nil},
		{"parts of a processor", "cpu", "1500m", nil},
		{"nothing of it", "cpu", "0", nil},
		{"extended", "example.com/gpu", "2", nil},
		{"huge", "memory", "8Ei", nil},
		{
			"unknown without a domain", "gpu", "1",
			[]string{`limits[gpu]: Unsupported value: "gpu": supported values: "cpu", "memory", "example.com/any-name"`},
		},
		{
			"known elsewhere only", "tasks", "1",
			[]string{`limits[tasks]: Unsupported value: "tasks": supported values: "cpu", "memory", "example.com/any-name"`},
		},
		{
			"no name at all", "", "1",
			[]string{`limits[]: Unsupported value: "": supported values: "cpu", "memory", "example.com/any-name"`},
		},
		{
			"no domain before the slash", "/gpu", "1",
			[]string{`limits[/gpu]: Invalid value: "/gpu": prefix part must be non-empty`},
		},
		{
			"negative", "cpu", "-1m",
			[]string{`limits[cpu]: Invalid value: "-1m": must be greater than or equal to 0`},
		},
		{
			"a part of a byte", "memory", "500m",
			[]string{`limits[memory]: Invalid value: "500m": must be a whole number`},
		},
		{
			"a part of a device", "example.com/gpu", "1500m",
			[]string{`limits[example.com/gpu]: Invalid value: "1500m": must be a whole number`},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			list := batch.ResourceList{batch.ResourceName(test.resource): resource.MustParse(test.amount)}
			var got []string
			for _, err := range Validate(list, field.NewPath("limits"), batch.ResourceCPU, batch.ResourceMemory) {
				got = append(got, err.Error())
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("want -, got +:\n%s", diff)
			}
		})
	}
}

func TestErrorsAreSorted(t *testing.T) {
	list := batch.ResourceList{}
	for _, name := range []batch.ResourceName{"c", "a", "b"} {
		list[name] = resource.MustParse("1")
	}
	var got []string
	for _, err := range Validate(list, field.NewPath("limits"), batch.ResourceCPU) {
		got = append(got, err.Field)
	}
	if diff := cmp.Diff([]string{"limits[a]", "limits[b]", "limits[c]"}, got); diff != "" {
		t.Errorf("want -, got +:\n%s", diff)
	}
}
