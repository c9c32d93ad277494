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

package segment

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/leat-dev/leat/apis/batch/indexes"
)

func testKey(ranges ...indexes.Range) Key {
	return Key{Namespace: testUID, Set: testUID, Worker: "w-1.example", Incarnation: testIncarnation, Segment: 12, Indexes: ranges}
}

func TestKeysAreReadBack(t *testing.T) {
	const name = testIncarnation + "-12-"
	prefixed, named, lone := testKey(indexes.Range{First: 7, Last: 7}), testKey(indexes.Range{First: 0, Last: 1}), testKey()
	prefixed.Prefix = "a/b"
	named.Namespace = "default"
	lone.Set, lone.First, lone.Last = "", time.Unix(1700000000, 0).UTC(), time.Unix(1700000600, 0).UTC()
	for text, key := range map[string]Key{
		testUID + "/" + testUID + "/w-1.example/" + name + "0-99_200.zip":     testKey(indexes.Range{First: 0, Last: 99}, indexes.Range{First: 200, Last: 200}),
		"a/b/" + testUID + "/" + testUID + "/w-1.example/" + name + "7.zip":   prefixed,
		"default/" + testUID + "/w-1.example/" + name + "0-1.zip":             named,
		testUID + "/tasks/w-1.example/" + name + "t1700000000-1700000600.zip": lone,
	} {
		if got, err := key.Format(); err != nil || got != text {
			t.Errorf("formatted as %q, %v; want %q", got, err, text)
		}
		got, err := ParseKey(text)
		if err != nil || !reflect.DeepEqual(*got, key) {
			t.Errorf("%q is parsed as %+v, %v; want %+v", text, got, err, key)
		}
		directory, err := Directory(key.Prefix, key.Namespace, key.Set)
		if err != nil || !strings.HasPrefix(text, directory) || !strings.HasSuffix(directory, "/") {
			t.Errorf("%q is not in directory %q, %v", text, directory, err)
		}
	}
}

func TestFormatRefusesInvalidParts(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*Key)
		err    string
	}{
		"namespace":        {func(k *Key) { k.Namespace = ".." }, `namespace is ".."`},
		"no namespace":     {func(k *Key) { k.Namespace = "" }, "namespace"},
		"slash":            {func(k *Key) { k.Namespace = "a/b" }, "DNS label"},
		"set":              {func(k *Key) { k.Set = "tasks" }, "UUID"},
		"set with a slash": {func(k *Key) { k.Set = "../" + types.UID(testUID[3:]) }, "UUID"},
		"worker":           {func(k *Key) { k.Worker = ".." }, "DNS subdomain"},
		"worker's slash":   {func(k *Key) { k.Worker = "a/b" }, "DNS subdomain"},
		"incarnation":      {func(k *Key) { k.Incarnation = "1" }, "incarnation"},
		"segment":          {func(k *Key) { k.Segment = -1 }, "at least 0"},
		"no indexes":       {func(k *Key) { k.Indexes = nil }, "must have indexes"},
		"no set":           {func(k *Key) { k.Set = "" }, "no indexes"},
		"no times":         {func(k *Key) { k.Set, k.Indexes = "", nil }, "starts since 1970"},
	} {
		key := testKey(indexes.Range{First: 0, Last: 9})
		test.change(&key)
		if text, err := key.Format(); err == nil || !strings.Contains(err.Error(), test.err) {
			t.Errorf("%s: %q, %v; want an error that has %q", name, text, err, test.err)
		}
	}
}

func TestParseKeyRefusesOtherTexts(t *testing.T) {
	const directory = testUID + "/" + testUID + "/w/"
	for _, text := range []string{
		"", "x.zip", "/" + directory + testIncarnation + "-1-0.zip/", directory + testIncarnation + "-1-0.zip.tmp", directory + testIncarnation + "-1-.zip",
		directory + testIncarnation + "-1.zip", directory + testIncarnation + "-01-0.zip", directory + testIncarnation + "-1-00.zip",
		directory + testIncarnation + "-1-5-3.zip", directory + testIncarnation + "-1-3_2.zip", directory + testIncarnation + "-1-t0-1.zip",
		directory + testIncarnation + "-99999999999999999999-0.zip", directory + "abc-1-0.zip",
		testUID + "/tasks/w/" + testIncarnation + "-1-0-1.zip", testUID + "/tasks/w/" + testIncarnation + "-1-t5-1.zip",
		testUID + "/tasks/w/" + testIncarnation + "-1-t5.zip", testUID + "/tasks/W/" + testIncarnation + "-1-t1-5.zip",
		testUID + "//w/" + testIncarnation + "-1-0.zip", directory + testIncarnation + "-1-" + strings.Repeat("1_", 200) + "3.zip",
	} {
		if key, err := ParseKey(text); err == nil {
			t.Errorf("%q is parsed as %+v", text, key)
		}
	}
}

func TestKeysHaveFewRanges(t *testing.T) {
	// 7 and 9 are nearest, then 1000 and 1010.
	ranges := []indexes.Range{{First: 0, Last: 3}, {First: 7, Last: 7}, {First: 9, Last: 9}, {First: 1000, Last: 1000}, {First: 1010, Last: 1020}}
	for count, want := range map[int]string{
		5: "0-3_7_9_1000_1010-1020", 4: "0-3_7-9_1000_1010-1020", 3: "0-9_1000_1010-1020", 2: "0-9_1000-1020", 1: "0-1020",
	} {
		if got := formatRanges(merge(ranges, count), 1000); got != want {
			t.Errorf("merged to %d: %s, want %s", count, got, want)
		}
	}
	for name, step := range map[string]int{"short numbers": 2, "long numbers": 1 << 20} {
		t.Run(name, func(t *testing.T) {
			var many []indexes.Range
			for i := range 2000 {
				many = append(many, indexes.Range{First: i * step, Last: i * step})
			}
			key := testKey(many...)
			key.Segment = 1<<63 - 1
			text, err := key.Format()
			if err != nil {
				t.Fatal(err)
			}
			if length := len(text) - strings.LastIndex(text, "/") - 1; length > maxFileName || length < maxFileName/2 {
				t.Errorf("the file name has %d bytes", length)
			}
			parsed, err := ParseKey(text)
			if err != nil {
				t.Fatal(err)
			}
			if n := len(parsed.Indexes); n > maxRanges || n < 4 {
				t.Errorf("%d ranges", n)
			}
			for _, r := range many {
				if !parsed.Matches([]indexes.Range{r}) {
					t.Fatalf("index %d is not in %s", r.First, text)
				}
			}
		})
	}
}

func TestKeyMatches(t *testing.T) {
	key := testKey(indexes.Range{First: 10, Last: 19}, indexes.Range{First: 30, Last: 30})
	for list, want := range map[string]bool{
		"": false, "9": false, "10": true, "19": true, "20": false, "20-29": false, "29-30": true, "31": false, "0-100": true, "0,5,30": true, "0-9,20-29,31-99": false,
	} {
		ranges, err := indexes.Parse(list, 1000)
		if err != nil {
			t.Fatal(err)
		}
		if got := key.Matches(ranges); got != want {
			t.Errorf("matches %q: %t, want %t", list, got, want)
		}
	}

	key.Set, key.Indexes, key.First, key.Last = "", nil, time.Unix(100, 0), time.Unix(200, 900)
	for times, want := range map[[2]int64]bool{{0, 99}: false, {0, 100}: true, {150, 160}: true, {200, 300}: true, {201, 300}: false, {0, 1000}: true} {
		if got := key.MatchesTime(time.Unix(times[0], 5), time.Unix(times[1], 5)); got != want {
			t.Errorf("matches %v: %t, want %t", times, got, want)
		}
	}
}

func TestMatchesHasNoFalseNegatives(t *testing.T) {
	key := testKey()
	for i := range 300 {
		key.Indexes = append(key.Indexes, indexes.Range{First: i * i, Last: i*i + i/50})
	}
	text, err := key.Format()
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := ParseKey(text)
	if err != nil {
		t.Fatal(err)
	}
	for index := range 90000 {
		if one := []indexes.Range{{First: index, Last: index}}; key.Matches(one) && !parsed.Matches(one) {
			t.Fatalf("index %d is in the segment, and not in %s", index, text)
		}
	}
}
