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

package board

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestPatchHasOnlyWhatHasChanged(t *testing.T) {
	rows := func(all ...string) (list []row) {
		for _, text := range all {
			key, data, _ := strings.Cut(text, "=")
			list = append(list, row{key, data})
		}
		return list
	}
	var sent sentFrame
	for _, step := range []struct {
		name  string
		value int
		rows  []row
		want  string
	}{
		{"first", 1, rows("a=1", "b=2"), `{"values":{"v":1},"tables":{"t":{"rows":{"a":"1","b":"2"},"keys":["a","b"]}}}`},
		{"the same", 1, rows("a=1", "b=2"), ``},
		{"value", 2, rows("a=1", "b=2"), `{"values":{"v":2}}`},
		{"row", 2, rows("a=1", "b=3"), `{"tables":{"t":{"rows":{"b":"3"},"keys":null}}}`},
		{"order", 2, rows("b=3", "a=1"), `{"tables":{"t":{"keys":["b","a"]}}}`},
		{"added", 2, rows("b=3", "a=1", "c=4"), `{"tables":{"t":{"rows":{"c":"4"},"keys":["b","a","c"]}}}`},
		{"removed", 2, rows("c=4"), `{"tables":{"t":{"keys":["c"]}}}`},
		{"empty", 2, nil, `{"tables":{"t":{"keys":[]}}}`},
	} {
		patch, err := sent.patch(frame{Values: map[string]any{"v": step.value}, Tables: map[string][]row{"t": step.rows}})
		if err != nil || string(patch) != step.want {
			t.Errorf("%s: got %s, %v; want %s", step.name, patch, err, step.want)
		}
	}
}

func TestEmptyTableIsSentOnce(t *testing.T) {
	var sent sentFrame
	empty := frame{Tables: map[string][]row{"t": nil}}
	first, _ := sent.patch(empty)
	second, _ := sent.patch(empty)
	if string(first) != `{"tables":{"t":{"keys":[]}}}` || second != nil {
		t.Errorf("got %s, then %s", first, second)
	}
}

func TestHostileTextsStayTexts(t *testing.T) {
	var sent sentFrame
	patch, err := sent.patch(frame{Values: map[string]any{"v": "</script>\n\ndata: x"}})
	var decoded struct{ Values map[string]string }
	if err != nil || strings.Contains(string(patch), "\n") || json.Unmarshal(patch, &decoded) != nil || decoded.Values["v"] != "</script>\n\ndata: x" {
		t.Errorf("got %s, %v", patch, err)
	}
}

func TestHistogramCountsInItsBucket(t *testing.T) {
	for d, want := range map[time.Duration]int{
		-time.Second: 0, 0: 0, time.Millisecond: 0, 1100 * time.Microsecond: 1, 2 * time.Millisecond: 4, time.Second: 31, 1000 * time.Hour: histogramBuckets - 1,
	} {
		var h histogram
		h.add(d)
		if got := slices.Index(h[:], 1); got != want {
			t.Errorf("%s: bucket %d, want %d", d, got, want)
		}
	}
}
