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
	"strings"
	"testing"
)

func TestArray(t *testing.T) {
	for _, test := range []struct {
		text string
		want array
		err  string
	}{
		{"1000", array{count: 1000}, ""},
		{"0-999", array{count: 1000}, ""},
		{"0-999%50", array{1000, 50}, ""},
		{"1000%50", array{1000, 50}, ""},
		{"0-0", array{count: 1}, ""},
		{"1%100000", array{1, 100_000}, ""},
		{"2147483647", array{count: 2147483647}, ""},
		{"0-2147483646", array{count: 2147483647}, ""},

		{"1-1000", array{}, "indexes start at 0: write 0-999, and use $TASK_INDEX + 1"},
		{"5-9%2", array{}, "indexes start at 0: write 0-4, and use $TASK_INDEX + 5"},
		{"9-5", array{}, "the last index is before the first"},
		{"0", array{}, "there must be 1 task at least"},
		{"", array{}, "write how many, like 1000, or the indexes, like 0-999"},
		{"ten", array{}, "write how many, like 1000, or the indexes, like 0-999"},
		{"-5", array{}, "write how many, like 1000"},
		{"0-", array{}, "write how many, like 1000"},
		{"+5", array{}, "write how many, like 1000"},
		{"1,3,5", array{}, "give --each-line a file with one on each line"},
		{"0-10:2", array{}, "use $TASK_INDEX times the step"},
		{"10%", array{}, "after % comes how many run at a time, like 10%50"},
		{"10%five", array{}, "after % comes how many run at a time"},
		{"10%0", array{}, "none at a time would never end: write %1 or more"},
		{"10%100001", array{}, "at most 100000 tasks can run at a time: write %100000 or less"},
		{"100001%10001", array{}, "at most 10000 tasks of more than 100000 can run at a time: write %10000 or less"},
		{"2147483648", array{}, "at most 2147483647 indexes"},
		{"0-2147483647", array{}, "the last one can be 2147483646"},
		{"99999999999999999999", array{}, "write how many"},
	} {
		t.Run(test.text, func(t *testing.T) {
			got, err := parseArray(test.text)
			if test.err == "" && err != nil || test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)) {
				t.Fatalf("the error is %v, expected %q", err, test.err)
			}
			if got != test.want {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
		})
	}
}

// An accepted array is within the limits of the server, and parses to the same value when written in full.
func FuzzArray(f *testing.F) {
	for _, seed := range []string{"1000", "0-999%50", "1-5", "10%", "", "%", "-", "0-0%1", "00-07"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		a, err := parseArray(text)
		if err != nil {
			if a != (array{}) || err.Error() == "" {
				t.Fatalf("%q: %+v with the error %q", text, a, err)
			}
			return
		}
		if a.count < 1 || a.parallelism < 0 || a.parallelism > maxParallelism {
			t.Fatalf("%q is read as %+v", text, a)
		}
		full := fmt.Sprintf("0-%d", a.count-1)
		if a.parallelism > 0 {
			full += fmt.Sprintf("%%%d", a.parallelism)
		}
		if reread, err := parseArray(full); err != nil || reread != a {
			t.Fatalf("%q is read as %+v, and %q as %+v, %v", text, a, full, reread, err)
		}
	})
}
