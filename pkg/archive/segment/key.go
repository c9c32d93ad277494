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
	"cmp"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/types"

	"github.com/leat-dev/leat/apis/batch/indexes"
	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

const (
	// maxRanges is the maximum number of ranges in a key.
	maxRanges = 64
	// maxFileName is the maximum length of the last part of a key. File systems accept 255 bytes, and S3 accepts keys of
	// 1024 bytes, a name of a worker of 253 among them.
	maxFileName = 200
)

// Key is the key under which a segment is stored:
//
//	<prefix>/<namespace>/<set>/<worker>/<incarnation>-<segment>-<ranges>.zip
//
// The set is "tasks" for tasks without one. Ranges of indexes are as in 0-99_200. Those of tasks without a set are the
// seconds of the first and the last start since 1970, as in t1700000000-1700000600.
type Key struct {
	// Prefix precedes the other parts. It may have several parts, or none.
	Prefix string
	// Namespace is the UID of the namespace, or the name without a host.
	Namespace string
	// Set is the UID of the TaskSet, empty for tasks without one.
	Set types.UID
	// Worker is the name of the worker, Incarnation is that of its process, and Segment is the number of the segment
	// among those of the incarnation.
	Worker      string
	Incarnation string
	Segment     int64
	// Indexes are those of the attempts. A key may have more than its segment: it has few ranges.
	Indexes []indexes.Range
	// First and Last are the times of the first and the last start, in seconds. They are zero with Set.
	First, Last time.Time
}

// Directory returns the beginning of the keys of all segments of a set, or of tasks without a set if it is empty. It
// ends with a slash.
func Directory(prefix, namespace string, set types.UID) (string, error) {
	if set == "" {
		set = batch.WorkerTasksWithoutSet
	} else if !IsUID(string(set)) {
		return "", fmt.Errorf("the UID of the set is %q, but must be a UUID in lowercase", set)
	}
	if len(apivalidation.NameIsDNSLabel(namespace, false)) > 0 {
		return "", fmt.Errorf("the namespace is %q, but must be a UID or a DNS label", namespace)
	}
	if prefix != "" {
		prefix += "/"
	}
	return prefix + namespace + "/" + string(set) + "/", nil
}

var (
	uuid     = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)
	fileName = regexp.MustCompile(`^([-0-9a-f]{36})-([0-9]+)-([-_t0-9]+)\.zip$`)
)

// IsUID reports whether a text can be the UID of a set, or an incarnation, in a key: a UUID in lowercase.
func IsUID(text string) bool { return uuid.MatchString(text) }

// Format returns the text of a key. Equal keys have equal texts. It returns an error if a part is not valid: no part
// can contain a slash, or be "..".
func (k *Key) Format() (string, error) {
	directory, err := Directory(k.Prefix, k.Namespace, k.Set)
	switch {
	case err != nil:
		return "", err
	case len(apivalidation.NameIsDNSSubdomain(k.Worker, false)) > 0:
		return "", fmt.Errorf("the name of the worker is %q, but must be a DNS subdomain", k.Worker)
	case !IsUID(k.Incarnation):
		return "", fmt.Errorf("the incarnation is %q, but must be a UUID in lowercase", k.Incarnation)
	case k.Segment < 0:
		return "", fmt.Errorf("the number of the segment is %d, but must be at least 0", k.Segment)
	}
	name := fmt.Sprintf("%s-%d-", k.Incarnation, k.Segment)
	const suffix = ".zip"
	var ranges string
	switch {
	case k.Set == "" && len(k.Indexes) == 0 && k.First.Unix() >= 0 && !k.Last.Before(k.First):
		ranges = fmt.Sprintf("t%d-%d", k.First.Unix(), k.Last.Unix())
	case k.Set == "":
		return "", fmt.Errorf("a segment of tasks without a set must have starts since 1970, and no indexes; it has starts from %v to %v, and indexes %q",
			k.First, k.Last, indexes.Format(k.Indexes))
	case len(k.Indexes) == 0:
		return "", fmt.Errorf("a segment of set %s must have indexes", k.Set)
	default:
		ranges = formatRanges(k.Indexes, maxFileName-len(name)-len(suffix))
	}
	return directory + k.Worker + "/" + name + ranges + suffix, nil
}

// ParseKey parses the text of a key. It returns an error for a text that Format does not return.
func ParseKey(text string) (*Key, error) {
	parts := strings.Split(text, "/")
	if len(parts) < 4 {
		return nil, fmt.Errorf("key %q must have the parts <namespace>/<set>/<worker>/<incarnation>-<segment>-<ranges>.zip", text)
	}
	last := len(parts) - 1
	key := &Key{
		Prefix:    strings.Join(parts[:last-3], "/"),
		Namespace: parts[last-3], Set: types.UID(parts[last-2]), Worker: parts[last-1],
	}
	if key.Set == batch.WorkerTasksWithoutSet {
		key.Set = ""
	}
	match := fileName.FindStringSubmatch(parts[last])
	if match == nil {
		return nil, fmt.Errorf("key %q must end with <incarnation>-<segment>-<ranges>.zip", text)
	}
	key.Incarnation = match[1]
	var err error
	if key.Segment, err = strconv.ParseInt(match[2], 10, 64); err != nil {
		return nil, fmt.Errorf("key %q: the number of the segment must be less than 2^63", text)
	}
	if key.Set == "" {
		err = key.parseTimes(match[3])
	} else {
		key.Indexes, err = parseRanges(match[3])
	}
	if err != nil {
		return nil, fmt.Errorf("key %q: %w", text, err)
	}
	// This also checks the names, and refuses leading zeros.
	if again, err := key.Format(); err != nil {
		return nil, fmt.Errorf("key %q: %w", text, err)
	} else if again != text {
		return nil, fmt.Errorf("key %q must be written as %q", text, again)
	}
	return key, nil
}

// Matches reports whether the segment may have an attempt at one of the indexes.
func (k *Key) Matches(ranges []indexes.Range) bool {
	own := k.Indexes
	for len(own) > 0 && len(ranges) > 0 {
		switch {
		case own[0].Last < ranges[0].First:
			own = own[1:]
		case ranges[0].Last < own[0].First:
			ranges = ranges[1:]
		default:
			return true
		}
	}
	return false
}

// MatchesTime reports whether the segment may have an attempt that was started between two times, both included. A
// segment of a set has no times.
func (k *Key) MatchesTime(from, to time.Time) bool {
	return k.Set == "" && k.First.Unix() <= to.Unix() && from.Unix() <= k.Last.Unix()
}

// formatRanges returns the text of ranges, with at most maxRanges and of at most that length. It merges the nearest
// ranges.
func formatRanges(ranges []indexes.Range, maxLength int) string {
	ranges = merge(ranges, maxRanges)
	for {
		var text []byte
		for i, r := range ranges {
			if i > 0 {
				text = append(text, '_')
			}
			text = strconv.AppendInt(text, int64(r.First), 10)
			if r.Last > r.First {
				text = strconv.AppendInt(append(text, '-'), int64(r.Last), 10)
			}
		}
		if len(text) <= maxLength || len(ranges) == 1 {
			return string(text)
		}
		ranges = merge(ranges, len(ranges)-1)
	}
}

// merge returns at most that many ranges, by merging those with the smallest gaps between them.
func merge(ranges []indexes.Range, count int) []indexes.Range {
	if len(ranges) <= count {
		return ranges
	}
	// The ranges that stay apart from those before: the largest gaps, of equal ones the first.
	after := make([]int, 0, len(ranges)-1)
	for i := 1; i < len(ranges); i++ {
		after = append(after, i)
	}
	slices.SortStableFunc(after, func(a, b int) int {
		return cmp.Compare(ranges[b].First-ranges[b-1].Last, ranges[a].First-ranges[a-1].Last)
	})
	after = after[:count-1]
	slices.Sort(after)

	merged := make([]indexes.Range, 0, count)
	first := 0
	for _, next := range append(after, len(ranges)) {
		merged = append(merged, indexes.Range{First: ranges[first].First, Last: ranges[next-1].Last})
		first = next
	}
	return merged
}

// parseRanges parses ranges of indexes.
func parseRanges(text string) ([]indexes.Range, error) {
	return indexes.Parse(strings.ReplaceAll(text, "_", ","), math.MaxInt32)
}

// parseTimes parses the times of the first and the last start.
func (k *Key) parseTimes(text string) error {
	text, ok := strings.CutPrefix(text, "t")
	first, last, isRange := strings.Cut(text, "-")
	from, err1 := strconv.ParseInt(first, 10, 64)
	to, err2 := strconv.ParseInt(last, 10, 64)
	if !ok || !isRange || err1 != nil || err2 != nil {
		return fmt.Errorf("the times must be t<first>-<last>, in seconds since 1970")
	}
	k.First, k.Last = time.Unix(from, 0).UTC(), time.Unix(to, 0).UTC()
	return nil
}
