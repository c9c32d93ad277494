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
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

func TestArray(t *testing.T) {
	numbers := func(first, step int32) *batch.IndexNumbers {
		n := &batch.IndexNumbers{}
		if first > 0 {
			n.First = &first
		}
		if step > 1 {
			n.Step = &step
		}
		return n
	}
	list := func(list ...int32) *batch.IndexNumbers { return &batch.IndexNumbers{List: list} }
	for _, test := range []struct {
		text string
		want array
		err  string
	}{
		{"1000", array{count: 1000}, ""},
		{"0-999", array{count: 1000}, ""},
		{"0-999%50", array{count: 1000, parallelism: 50}, ""},
		{"1000%50", array{count: 1000, parallelism: 50}, ""},
		{"0-0", array{count: 1}, ""},
		{"1%100000", array{count: 1, parallelism: 100_000}, ""},
		{"2147483647", array{count: 2147483647}, ""},
		{"0-2147483646", array{count: 2147483647}, ""},

		{"1-1000", array{1000, numbers(1, 1), 0}, ""},
		{"5-9%2", array{5, numbers(5, 1), 2}, ""},
		{"7-7", array{1, numbers(7, 1), 0}, ""},
		{"0-100:10", array{11, numbers(0, 10), 0}, ""},
		{"0-105:10%3", array{11, numbers(0, 10), 3}, ""},
		{"3-4:10", array{1, numbers(3, 1), 0}, ""},
		{"0-4:10", array{count: 1}, ""},
		{"0-2147483646:2", array{1 << 30, numbers(0, 2), 0}, ""},
		{"1,3,5", array{3, list(1, 3, 5), 0}, ""},
		{"9,1,7-8,8%2", array{4, list(1, 7, 8, 9), 2}, ""},
		{"1-2,10-30:10", array{5, list(1, 2, 10, 20, 30), 0}, ""},
		{"0-9,10-19", array{count: 20}, ""},
		{"5-9,0-1000000", array{count: 1_000_001}, ""},
		{"1-9999,20000", array{count: 10_000}, ""}, // the list is checked below

		{"9-5", array{}, "9-5: the last number is before the first"},
		{"1,9-5", array{}, "9-5: the last number is before the first"},
		{"0", array{}, "there must be 1 task at least"},
		{"", array{}, "write how many, like 1000, or which, like 0-999, 0-1000:10 or 1,5,7-9"},
		{"ten", array{}, "write how many, like 1000, or which"},
		{"-5", array{}, "write how many, like 1000"},
		{"0-", array{}, "write how many, like 1000"},
		{"+5", array{}, "write how many, like 1000"},
		{"1,,2", array{}, "write how many, like 1000"},
		{"1,", array{}, "write how many, like 1000"},
		{"5:2", array{}, "write how many, like 1000"},
		{"1-5:0", array{}, "after : comes a step of 1 or more, like 1-5:10"},
		{"1-5:x", array{}, "after : comes a step of 1 or more"},
		{"1-5:4294967297", array{}, "after : comes a step of 1 or more"},
		{"1-10000,20000", array{}, "a list has at most 10000 numbers: write one range with a step, like 0-1000000:10, or give --each-line a file"},
		{"1,4-100000:2", array{}, "a list has at most 10000 numbers"},
		{"10%", array{}, "after % comes how many run at a time, like 10%50"},
		{"10%five", array{}, "after % comes how many run at a time"},
		{"10%0", array{}, "none at a time would never end: write %1 or more"},
		{"10%100001", array{}, "at most 100000 tasks can run at a time: write %100000 or less"},
		{"100001%10001", array{}, "at most 10000 tasks of more than 100000 can run at a time: write %10000 or less"},
		{"2147483648", array{}, "at most 2147483647 indexes"},
		{"0-2147483647", array{}, "the last number can be 2147483646"},
		{"99999999999999999999", array{}, "write how many"},
	} {
		t.Run(test.text, func(t *testing.T) {
			got, err := parseArray(test.text)
			if test.err == "" && err != nil || test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)) {
				t.Fatalf("the error is %v, expected %q", err, test.err)
			}
			if n := got.numbers; n != nil && len(n.List) == maxListedNumbers {
				if n.List[0] != 1 || n.List[9998] != 9999 || n.List[9999] != 20_000 {
					t.Errorf("the list is wrong: %v", n.List)
				}
				got.numbers = nil
			}
			if diff := cmp.Diff(test.want, got, cmp.AllowUnexported(array{})); diff != "" {
				t.Errorf("want -, got +:\n%s", diff)
			}
		})
	}
}
