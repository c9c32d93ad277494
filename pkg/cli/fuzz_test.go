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

package cli

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/validation"
)

// FuzzParseArray checks that parsed arrays are within the limits of the server and match their text.
func FuzzParseArray(f *testing.F) {
	for _, text := range []string{"1000", "0-999", "1000%50", "0-999%50", "1,2", "0-9:2", "1-9", "9-0", "0", "2147483647", "2147483648", "0-2147483646%10000",
		"100001%10001", "100000%100000", "5%0", "1,5,7-9%2", "0-100:10", "1-9:3,2", "%", "-", "0-", "5%", "99999999999999999999", "٣", "+5", "0x5"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		a, err := parseArray(text)
		if err != nil {
			if a != (array{}) {
				t.Errorf("%q gives %+v with an error", text, a)
			}
			if !strings.Contains(err.Error(), fmt.Sprintf("%q", text)) {
				t.Errorf("%q: the error does not say what it is about: %v", text, err)
			}
			return
		}
		if a.count < 1 || a.parallelism < 0 || a.parallelism > maxParallelism || a.count > largeCompletions && a.parallelism > maxLargeParallelism {
			t.Fatalf("%q gives %+v", text, a)
		}
		if a.parallelism == 0 && strings.Contains(text, "%") {
			t.Errorf("%q gives %+v", text, a)
		}
		suffix := ""
		if a.parallelism > 0 {
			suffix = fmt.Sprintf("%%%d", a.parallelism)
		}
		if a.numbers != nil && len(a.numbers.List) > 0 && len(a.numbers.List) != int(a.count) {
			t.Errorf("%q gives %+v", text, a)
		}
		first, last := a.numbers.Number(0), a.numbers.Number(int(a.count)-1)
		if first < 0 || last < first || last >= maxNumber {
			t.Errorf("%q gives the numbers %d to %d", text, first, last)
		}
		written := fmt.Sprintf("%d-%d", first, last)
		switch {
		case a.numbers != nil && len(a.numbers.List) > 0:
			written = strings.Trim(strings.ReplaceAll(fmt.Sprint(a.numbers.List), " ", ","), "[]")
		case a.numbers != nil && a.numbers.Step != nil:
			written += fmt.Sprintf(":%d", *a.numbers.Step)
		}
		if read, err := parseArray(written + suffix); err != nil || !reflect.DeepEqual(read, a) {
			t.Errorf("%q, of %q, gives %+v, %v; it was %+v", written+suffix, text, read, err, a)
		}
	})
}

// FuzzParseRef checks that formatted names of objects parse to the same name.
func FuzzParseRef(f *testing.F) {
	for _, text := range []string{"a", "task/a", "tasks/a", "TKS/a", "taskset.batch.leat.dev/a", "worker/a", "pod/a", "task/", "/a", "a/b/c", "task/a/b", ""} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, err := parseRef(text)
		if err != nil {
			return
		}
		if r.name == "" || strings.Contains(r.name, "/") || !strings.HasSuffix(text, r.name) {
			t.Errorf("%q names %q", text, r.name)
		}
		if read, err := parseRef(r.String()); err != nil || read != r {
			t.Errorf("%q, of %q, is read as %+v, %v; it was %+v", r, text, read, err, r)
		}
	})
}

// FuzzNamePrefix checks that the server accepts the prefix as the name of an object and as the value of a label.
func FuzzNamePrefix(f *testing.F) {
	for _, program := range []string{"echo", "/usr/bin/python3.12", `C:\a b\c.exe`, "-", "é", strings.Repeat("a-", 40), "\xff"} {
		f.Add(program)
	}
	f.Fuzz(func(t *testing.T, program string) {
		for _, name := range []string{namePrefix(program), namePrefix(program) + "-abcde"} {
			if messages := validation.IsDNS1123Label(name); len(messages) > 0 {
				t.Errorf("%q makes %q: %s", program, name, messages)
			}
		}
	})
}
