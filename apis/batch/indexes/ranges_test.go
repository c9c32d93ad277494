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
	"math/rand/v2"
	"slices"
	"testing"
)

// Each operation is compared with the same operation on maps.
func TestOperationsOnRanges(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		inA, inB := map[int]bool{}, map[int]bool{}
		for range random.IntN(20) {
			inA[random.IntN(24)], inB[random.IntN(24)] = true, true
		}
		of := func(is func(int) bool) []Range {
			var all []int
			for i := range 24 {
				if is(i) {
					all = append(all, i)
				}
			}
			return Of(all)
		}
		a, b := of(func(i int) bool { return inA[i] }), of(func(i int) bool { return inB[i] })
		before := Format(a) + ";" + Format(b)
		position, from, to := -1, random.IntN(12), random.IntN(24)
		var positions []int
		slice := of(func(i int) bool {
			if inA[i] {
				position++
				positions = append(positions, i)
			}
			return inA[i] && position >= from && position < to
		})
		at := make([]int, len(positions))
		for i := range at {
			at[i] = At(a, i)
		}
		for name, test := range map[string]struct{ got, want []Range }{
			"Slice":     {Slice(a, from, to), slice},
			"At":        {Of(at), Of(positions)},
			"Union":     {Union(a, b), of(func(i int) bool { return inA[i] || inB[i] })},
			"Subtract":  {Subtract(a, b), of(func(i int) bool { return inA[i] && !inB[i] })},
			"Intersect": {Intersect(a, b), of(func(i int) bool { return inA[i] && inB[i] })},
			"Contains":  {of(func(i int) bool { return Contains(a, i) }), a},
		} {
			if !slices.Equal(test.got, test.want) {
				t.Fatalf("%s of %s: got %q, want %q", name, before, Format(test.got), Format(test.want))
			}
		}
		if after := Format(a) + ";" + Format(b); after != before {
			t.Fatalf("the operands %s have become %s", before, after)
		}
	}
}
