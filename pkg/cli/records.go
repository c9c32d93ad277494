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
	"context"
	"fmt"
	"iter"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/leat-dev/leat/apis/batch/indexes"
	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/cli/sanitize"
)

// recordsPerPage is the maximum number of records that are read at a time.
const recordsPerPage = 5000

// maxIndexesText is the maximum length of the parameter indexes of a request for logs or records.
const maxIndexesText = 2048

// formatPieces returns the texts of ranges, each short enough for a request. Without ranges it returns one empty text,
// which means all indexes.
func formatPieces(ranges []indexes.Range) []string {
	pieces := []string{""}
	for _, r := range ranges {
		text, last := indexes.Format([]indexes.Range{r}), len(pieces)-1
		switch {
		case pieces[last] == "":
			pieces[last] = text
		case len(pieces[last])+1+len(text) <= maxIndexesText:
			pieces[last] += "," + text
		default:
			pieces = append(pieces, text)
		}
	}
	return pieces
}

// notServed reports whether an error of the subresource log or records means that the server does not have the
// subresource, as versions before it, or that the user may not use it.
func notServed(err error) bool {
	// A proxy may answer without details. The client adds the name of the object then.
	missing := apierrors.IsNotFound(err) && (!objectNotFound(err) || apierrors.IsUnexpectedServerError(err))
	return missing || apierrors.IsForbidden(err)
}

// recordReader reads the records of the finished attempts at a task or at the tasks of a set.
type recordReader struct {
	*factory
	s        *session
	of       object
	warnings sets.Set[string] // of the server; printed once each, unless quiet
	quiet    bool
}

func newRecordReader(f *factory, s *session, of object) *recordReader {
	return &recordReader{factory: f, s: s, of: of, warnings: sets.New[string]()}
}

// incomplete reports whether the server has warned that records may be missing.
func (r *recordReader) incomplete() bool { return r.warnings.Len() > 0 }

// read returns the records of the chosen indexes, of all if there are none, in the order in which they are stored. The
// sequence ends with an error if there is one. It holds a page of records in memory.
func (r *recordReader) read(ctx context.Context, chosen []indexes.Range) iter.Seq2[*batch.TaskRecord, error] {
	return func(yield func(*batch.TaskRecord, error) bool) {
		for _, piece := range formatPieces(chosen) {
			options := &batch.TaskRecordOptions{Indexes: piece, Limit: new(int64(recordsPerPage))}
			for {
				page, err := r.s.recordsPage(ctx, r.of, options)
				if err != nil {
					yield(nil, err)
					return
				}
				r.warn(page.Warnings)
				for i := range page.Items {
					if !yield(&page.Items[i], nil) {
						return
					}
				}
				if options.Continue = page.Continue; options.Continue == "" {
					break
				}
			}
		}
	}
}

func (r *recordReader) warn(warnings []string) {
	for _, warning := range warnings {
		if !r.warnings.Has(warning) {
			r.warnings.Insert(warning)
			if r.quiet {
				continue
			}
			fmt.Fprintf(r.streams.ErrOut, "warning: %s\n", sanitize.Line(warning))
		}
	}
}

// indexes returns those of the chosen indexes that have a record.
func (r *recordReader) indexes(ctx context.Context, chosen []indexes.Range) ([]indexes.Range, error) {
	var recorded indexCollector
	for record, err := range r.read(ctx, chosen) {
		if err != nil {
			return nil, err
		}
		if record.Index != nil {
			recorded.add(int(*record.Index))
		}
	}
	return recorded.ranges(), nil
}

func (s *session) recordsPage(ctx context.Context, of object, options *batch.TaskRecordOptions) (*batch.TaskRecordList, error) {
	if of.set != nil {
		return s.api.TaskSets(s.namespace).Records(ctx, of.set.Name, options)
	}
	return s.api.Tasks(s.namespace).Records(ctx, of.task.Name, options)
}

// servesRecords reports whether the server has records of the attempts at a task or a set, and the user may read them.
func (s *session) servesRecords(ctx context.Context, of object, chosen []indexes.Range) (bool, error) {
	_, err := s.recordsPage(ctx, of, &batch.TaskRecordOptions{Indexes: formatPieces(chosen)[0], Limit: new(int64(1))})
	if notServed(err) {
		return false, nil
	}
	return err == nil, err
}

// failedAttempt reports whether the command of an attempt has not succeeded.
func failedAttempt(record *batch.TaskRecord) bool {
	return record.ExitCode != 0 || record.Signal != 0 || record.Reason != "" && record.Reason != batch.TaskReasonCompleted
}

// indexCollector collects indexes in any order. Many in a row take little memory.
type indexCollector struct {
	all    []indexes.Range
	latest []int // not in all yet
}

func (c *indexCollector) add(index int) {
	if n := len(c.latest); n > 0 && c.latest[n-1] == index {
		return
	}
	c.latest = append(c.latest, index)
	if len(c.latest) >= 1<<16 {
		c.merge()
	}
}

func (c *indexCollector) merge() {
	slices.Sort(c.latest)
	c.all = indexes.Union(c.all, indexes.Of(slices.Compact(c.latest)))
	c.latest = c.latest[:0]
}

// ranges returns the collected indexes.
func (c *indexCollector) ranges() []indexes.Range {
	c.merge()
	return c.all
}
