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
	"math"
	"testing"

	"k8s.io/utils/ptr"

	"github.com/leat-dev/leat/apis/batch/indexes"
)

func TestIndexNumbers(t *testing.T) {
	const completions = 6
	for name, test := range map[string]struct {
		numbers *IndexNumbers
		want    string
	}{
		"unset":          {nil, "0-5"},
		"first":          {&IndexNumbers{First: ptr.To[int32](1)}, "1-6"},
		"step":           {&IndexNumbers{Step: ptr.To[int32](10)}, "0,10,20,30,40,50"},
		"first and step": {&IndexNumbers{First: ptr.To[int32](7), Step: ptr.To[int32](3)}, "7,10,13,16,19,22"},
		"a list":         {&IndexNumbers{List: []int32{1, 3, 4, 5, 90, math.MaxInt32}}, "1,3-5,90,2147483647"},
	} {
		t.Run(name, func(t *testing.T) {
			all := []indexes.Range{{First: 0, Last: completions - 1}}
			if got := indexes.Format(test.numbers.Numbers(all)); got != test.want {
				t.Errorf("Numbers = %q, want %q", got, test.want)
			}
			for first := range completions {
				for last := first; last < completions; last++ {
					some := []indexes.Range{{First: first, Last: last}}
					numbers := test.numbers.Numbers(some)
					if got := indexes.Format(test.numbers.Indexes(numbers, completions)); got != indexes.Format(some) {
						t.Errorf("Indexes of the numbers %s of %s = %q", indexes.Format(numbers), indexes.Format(some), got)
					}
				}
			}
			wide := []indexes.Range{{First: 0, Last: math.MaxInt32}}
			if got := indexes.Format(test.numbers.Indexes(wide, completions)); got != "0-5" {
				t.Errorf("Indexes of all numbers = %q", got)
			}
			if got := test.numbers.Indexes([]indexes.Range{{First: 91, Last: 92}}, completions); got != nil {
				t.Errorf("Indexes of numbers that there are not = %v", got)
			}
		})
	}
}
