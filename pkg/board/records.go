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
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"k8s.io/utils/ptr"

	"github.com/leat-dev/leat/apis/batch/indexes"
	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/cli/sanitize"
	"github.com/leat-dev/leat/pkg/cli/taskstate"
	"github.com/leat-dev/leat/pkg/generated/clientset/versioned"
)

const (
	// sampleSize is the largest number of records that are read, and the largest number of indexes that they are of.
	sampleSize = 10_000
	// stretches is the number of parts of a large set that are read. They are spread evenly.
	stretches = 50
	// slowestShown is how many of the slowest attempts are shown.
	slowestShown = 10
)

// sample summarizes records of a set.
type sample struct {
	Loading bool   `json:"loading,omitempty"`
	Error   string `json:"error,omitempty"`
	Count   int    `json:"count"`
	// Indexes is how many indexes were looked at, and Of how many there are.
	Indexes int `json:"indexes"`
	Of      int `json:"of"`
	// Durations counts attempts in the buckets of a histogram.
	Durations []int    `json:"durations"`
	Median    int64    `json:"median"` // in milliseconds
	Longest   int64    `json:"longest"`
	Warnings  []string `json:"warnings,omitempty"`

	slowest []row
}

type slowRow struct {
	Number  int    `json:"number"` // of the index, -1 if there is none
	Index   int    `json:"index"`
	Exit    string `json:"exit"`
	Worker  string `json:"worker"`
	Took    int64  `json:"took"` // in milliseconds
	CPU     int64  `json:"cpu"`
	Memory  int64  `json:"memory"`
	Started int64  `json:"started"`
}

// sampledIndexes returns the indexes below n whose records are read: all, or stretches that are spread evenly.
func sampledIndexes(n int) []indexes.Range {
	if n <= sampleSize {
		return nil
	}
	var ranges []indexes.Range
	for i := range stretches {
		first := i * (n / stretches)
		ranges = append(ranges, indexes.Range{First: first, Last: first + sampleSize/stretches - 1})
	}
	return ranges
}

// readSample reads the records of finished attempts, at most sampleSize.
func readSample(ctx context.Context, client versioned.Interface, set *batch.TaskSet) (*sample, error) {
	s := &sample{Of: int(ptr.Deref(set.Spec.Completions, 0))}
	ranges := sampledIndexes(s.Of)
	s.Indexes = s.Of
	if ranges != nil {
		s.Indexes = indexes.Count(ranges)
	}
	var durations histogram
	var records []batch.TaskRecord
	options := &batch.TaskRecordOptions{Indexes: indexes.Format(ranges), Limit: new(int64(sampleSize / 2))}
	for len(records) < sampleSize {
		page, err := client.BatchV1alpha1().TaskSets(set.Namespace).Records(ctx, set.Name, options)
		if err != nil {
			return nil, err
		}
		records = append(records, page.Items...)
		for _, warning := range page.Warnings {
			if line := sanitize.Line(warning); !slices.Contains(s.Warnings, line) {
				s.Warnings = append(s.Warnings, line)
			}
		}
		if options.Continue = page.Continue; options.Continue == "" {
			break
		}
	}
	records = records[:min(len(records), sampleSize)]
	for i := range records {
		durations.add(time.Duration(records[i].DurationMilliseconds) * time.Millisecond)
	}
	slices.SortFunc(records, func(a, b batch.TaskRecord) int {
		return cmp.Or(cmp.Compare(b.DurationMilliseconds, a.DurationMilliseconds), cmp.Compare(ptr.Deref(a.Index, 0), ptr.Deref(b.Index, 0)))
	})
	s.Count, s.Durations = len(records), durations[:]
	if len(records) > 0 {
		s.Median, s.Longest = records[len(records)/2].DurationMilliseconds, records[0].DurationMilliseconds
	}
	numbers := taskstate.Numbers(set)
	for i := range records[:min(len(records), slowestShown)] {
		r := &records[i]
		shown := slowRow{
			Number: -1, Index: -1, Exit: taskstate.Exit(r.Reason, r.ExitCode, r.Signal), Worker: sanitize.Line(r.WorkerName), Took: r.DurationMilliseconds,
			CPU: r.CPUMilliseconds, Memory: r.PeakMemoryBytes, Started: r.StartTime.UnixMilli(),
		}
		if r.Index != nil {
			shown.Index, shown.Number = int(*r.Index), numbers.Number(int(*r.Index))
		}
		s.slowest = append(s.slowest, row{fmt.Sprintf("%s/%d/%d", r.TaskUID, shown.Index, r.StartTime.UnixMicro()), shown})
	}
	return s, nil
}
