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
	"slices"
	"testing"
)

// FuzzParse checks that parsed lists ascend, are below the limit, and parse to the same value when formatted again.
func FuzzParse(f *testing.F) {
	for _, list := range []string{"", "3", "1,3-5,7", "0,1,5-7", "0-9", "3,1", "1-3,3", "5-3", "01", "-1", "1, 2", "1,", "99999999999999999999", "2147483646-2147483647"} {
		f.Add(list, 10)
		f.Add(list, 1<<31-1)
	}
	f.Fuzz(func(t *testing.T, list string, limit int) {
		ranges, err := Parse(list, limit)
		if err != nil {
			if ranges != nil {
				t.Errorf("Parse(%q, %d) gives %v with an error", list, limit, ranges)
			}
			return
		}
		next := 0
		for _, r := range ranges {
			if r.First < next || r.Last < r.First || r.Last >= limit {
				t.Fatalf("Parse(%q, %d) = %v", list, limit, ranges)
			}
			next = r.Last + 1
		}
		if count := Count(ranges); count < len(ranges) || limit > 0 && count > limit {
			t.Errorf("Count(%v) = %d of %d", ranges, count, limit)
		}
		written := Format(ranges)
		// A range of two is written as two.
		if len(written) > len(list) {
			t.Errorf("Format(Parse(%q)) = %q, which is longer", list, written)
		}
		read, err := Parse(written, limit)
		if err != nil || Count(read) != Count(ranges) || Format(read) != written {
			t.Errorf("Parse(%q), which Format has written, gives %v, %v; it was %v", written, read, err, ranges)
		}
	})
}

// FuzzParseCounts checks the same for lists with counts, which have a single form.
func FuzzParseCounts(f *testing.F) {
	for _, list := range []string{"", "3:1,7:22", "3", "3:0", "3:x", "x:1", "3:1,2:1", "3:1,3:1", "3:01", "3:1:1", "10:1", "9223372036854775807:1", "0:9223372036854775807"} {
		f.Add(list, 10)
		f.Add(list, 1<<31-1)
	}
	f.Fuzz(func(t *testing.T, list string, limit int) {
		counts, err := ParseCounts(list, limit)
		if err != nil {
			return
		}
		next := 0
		for _, c := range counts {
			if c.Index < next || c.Index >= limit || c.Count < 1 {
				t.Fatalf("ParseCounts(%q, %d) = %v", list, limit, counts)
			}
			next = c.Index + 1
		}
		if written := FormatCounts(counts); written != list {
			t.Errorf("FormatCounts(ParseCounts(%q)) = %q", list, written)
		}
		if again, err := ParseCounts(list, limit); err != nil || !slices.Equal(again, counts) {
			t.Errorf("ParseCounts(%q) gives %v, %v; it was %v", list, again, err, counts)
		}
	})
}
