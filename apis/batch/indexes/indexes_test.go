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

package indexes

import (
	"reflect"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for name, test := range map[string]struct {
		list  string
		want  []Range
		count int
		err   string
	}{
		"empty":           {list: ""},
		"one":             {list: "3", want: []Range{{3, 3}}, count: 1},
		"mixed":           {list: "1,3-5,7", want: []Range{{1, 1}, {3, 5}, {7, 7}}, count: 5},
		"all":             {list: "0-9", want: []Range{{0, 9}}, count: 10},
		"out of order":    {list: "3,1", err: "must ascend"},
		"overlapping":     {list: "1-3,3", err: "must ascend"},
		"backwards":       {list: "5-3", err: "past its start"},
		"range of one":    {list: "3-3", err: "past its start"},
		"not a number":    {list: "1,x", err: "whole number"},
		"leading zero":    {list: "01", err: "whole number"},
		"negative":        {list: "-1", err: "whole number"},
		"blank":           {list: "1, 2", err: "whole number"},
		"trailing comma":  {list: "1,", err: "whole number"},
		"past the limit":  {list: "10", err: "less than 10"},
		"too many digits": {list: strings.Repeat("9", 30), err: "whole number"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Parse(test.list, 10)
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Fatalf("error %v, want one that says %q", err, test.err)
				}
				return
			}
			if err != nil || !reflect.DeepEqual(got, test.want) || Count(got) != test.count {
				t.Fatalf("got %v (%d), %v; want %v (%d)", got, Count(got), err, test.want, test.count)
			}
		})
	}
}

func TestFormatIsReadBack(t *testing.T) {
	for list, ranges := range map[string][]Range{
		"":          nil,
		"3":         {{3, 3}},
		"1,3-5,7":   {{1, 1}, {3, 5}, {7, 7}},
		"0,1,5-7":   {{0, 1}, {5, 7}},
		"0-9":       {{0, 9}},
		"2,3,8,9":   {{2, 3}, {8, 9}},
		"0,2,4,6-8": {{0, 0}, {2, 2}, {4, 4}, {6, 8}},
	} {
		if got := Format(ranges); got != list {
			t.Errorf("Format(%v) = %q, want %q", ranges, got, list)
		}
		if got, err := Parse(list, 10); err != nil || Count(got) != Count(ranges) {
			t.Errorf("Parse(%q) = %v, %v", list, got, err)
		}
	}
}

func TestBelow(t *testing.T) {
	ranges := []Range{{0, 3}, {5, 5}, {7, 9}}
	for limit, want := range map[int]string{0: "", 2: "0,1", 4: "0-3", 5: "0-3", 6: "0-3,5", 8: "0-3,5,7", 10: "0-3,5,7-9", 99: "0-3,5,7-9"} {
		if got := Format(Below(ranges, limit)); got != want {
			t.Errorf("Below(%v, %d) = %q, want %q", ranges, limit, got, want)
		}
	}
	if got := Format(ranges); got != "0-3,5,7-9" {
		t.Errorf("Below has changed its argument to %q", got)
	}
}

func TestCounts(t *testing.T) {
	for name, test := range map[string]struct {
		list string
		want []Counted
		err  string
	}{
		"empty":          {list: ""},
		"some":           {list: "3:1,7:22", want: []Counted{{3, 1}, {7, 22}}},
		"without counts": {list: "3", err: "followed by a colon"},
		"of none":        {list: "3:0", err: "at least 1"},
		"not a count":    {list: "3:x", err: "at least 1"},
		"not an index":   {list: "x:1", err: "whole number"},
		"out of order":   {list: "3:1,2:1", err: "must ascend"},
		"twice":          {list: "3:1,3:1", err: "must ascend"},
		"past the limit": {list: "10:1", err: "less than 10"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ParseCounts(test.list, 10)
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Fatalf("error %v, want one that says %q", err, test.err)
				}
				return
			}
			if err != nil || !reflect.DeepEqual(got, test.want) {
				t.Fatalf("got %v, %v; want %v", got, err, test.want)
			}
			if written := FormatCounts(got); written != test.list {
				t.Errorf("written as %q", written)
			}
		})
	}
}
