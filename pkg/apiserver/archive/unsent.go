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

package archive

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/types"

	"github.com/leat-dev/leat/apis/batch"
	"github.com/leat-dev/leat/apis/batch/indexes"
	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/registry/batch/task"
)

const (
	// maxAsked is how many workers are asked at a time for what they have not sent, by one request.
	maxAsked = 16
	// workerTimeout bounds such a question.
	workerTimeout = 20 * time.Second
	// maxPages is how many pages of records are read of a worker: more than a spool holds.
	maxPages = 10_000
	// maxUnsent is about how many attempts on workers a request keeps in memory, of about 150 bytes each.
	maxUnsent = 100_000
)

// errServesNoLogs is the error for a worker without an endpoint.
var errServesNoLogs = errors.New("it serves no logs: start it with --client-ca-file")

// holder is a worker that may hold attempts that it has not sent.
type holder struct {
	name     string
	endpoint *batch.WorkerEndpoint
}

// failure is why attempts on a worker cannot be read now.
type failure struct {
	worker string
	err    error
}

func (f failure) String() string { return fmt.Sprintf("worker %s cannot be read: %v", f.worker, f.err) }

// holders returns the workers that may hold some of the attempts, by name: those that say so, and the one that has the
// task.
func (a *Archive) holders(ctx context.Context, of *task.Attempts) ([]holder, error) {
	workers, err := a.Objects.Workers(ctx, of.Namespace)
	if err != nil {
		return nil, err
	}
	var found []holder
	for _, worker := range workers {
		if of.SetUID != "" && slices.Contains(worker.Status.Unarchived, of.SetUID) ||
			of.Task != nil && of.Task.Spec.WorkerName == worker.Name {
			found = append(found, holder{worker.Name, worker.Status.Endpoint})
		}
	}
	slices.SortFunc(found, func(a, b holder) int { return cmp.Compare(a.name, b.name) })
	return found, nil
}

// unsentPage returns records that the worker has not sent, and where the next page begins: nowhere if next is empty.
func (a *Archive) unsentPage(ctx context.Context, of *task.Attempts, ranges []indexes.Range, worker holder, from string) (
	records []v1alpha1.TaskRecord, next string, err error) {
	if worker.endpoint == nil {
		return nil, "", errServesNoLogs
	}
	var taskUID types.UID
	if of.Task != nil {
		taskUID = of.Task.UID
	}
	ctx, cancel := context.WithTimeout(ctx, workerTimeout)
	defer cancel()
	list, err := a.Options.Workers.Records(ctx, worker.endpoint, of.Namespace, of.SetUID, indexes.Format(ranges), taskUID, from)
	switch {
	case err != nil || list == nil:
		return nil, "", err
	case len(list.Items) == 0 && list.Continue != "":
		return nil, "", errors.New("it responds that there are more records, and with none")
	}
	return list.Items, list.Continue, nil
}

// ask asks the workers for their records, and calls keep for each page of them, one at a time. It returns the workers
// that have not answered.
func (a *Archive) ask(ctx context.Context, of *task.Attempts, ranges []indexes.Range, holders []holder,
	keep func(holder, []v1alpha1.TaskRecord)) []failure {
	var mu sync.Mutex
	var failures []failure
	forEach(holders, func(_ int, worker holder) {
		next := ""
		for page := 0; ; page++ {
			records, after, err := a.unsentPage(ctx, of, ranges, worker, next)
			if page == maxPages {
				err = fmt.Errorf("it has more than %d pages of records", maxPages)
			}
			mu.Lock()
			if err != nil {
				failures = append(failures, failure{worker.name, err})
			} else {
				keep(worker, records)
			}
			mu.Unlock()
			if next = after; err != nil || next == "" {
				return
			}
		}
	})
	slices.SortFunc(failures, func(a, b failure) int { return cmp.Compare(a.worker, b.worker) })
	return failures
}

// forEach calls f for each of the workers, maxAsked at a time.
func forEach(workers []holder, f func(i int, worker holder)) {
	group := &errgroup.Group{}
	group.SetLimit(maxAsked)
	for i, worker := range workers {
		group.Go(func() error {
			f(i, worker)
			return nil
		})
	}
	_ = group.Wait() // the functions return no error
}

// unsentAttempts are the attempts that workers have not sent, as one request looks them up. It asks a worker once for
// all indexes of the request. If the answers do not fit into memory, it keeps those of the lowest indexes, the block,
// and asks again for the next block.
type unsentAttempts struct {
	archive *Archive
	of      *task.Attempts
	// size is how many attempts a block has, or more if they are at the indexes that are looked up at once.
	size int

	// first and last are the first and the last index of the block. It is empty until the first look-up.
	first, last int
	// asked are the endpoints of the workers that were asked for the block, by their names.
	asked map[string]*batch.WorkerEndpoint
	// attempts are those at indexes of the block, sorted.
	attempts []attempt
	failures []failure
}

// unsent returns the attempts on workers, before the first look-up.
func (a *Archive) unsent(of *task.Attempts) *unsentAttempts {
	return &unsentAttempts{archive: a, of: of, size: a.maxUnsent, first: math.MaxInt, last: math.MinInt}
}

// lookUp makes the indexes of ranges part of the block. rest are these and the indexes of later look-ups. Nil means
// all. Workers that were asked are not asked again, unless they have been started again since.
func (u *unsentAttempts) lookUp(ctx context.Context, ranges, rest []indexes.Range) error {
	first, last, all := noIndex, maxIndex, maxIndex
	if len(ranges) > 0 {
		first, last, all = ranges[0].First, ranges[len(ranges)-1].Last, rest[len(rest)-1].Last
	}
	if first < u.first || last > u.last {
		u.first, u.last, u.asked, u.attempts, u.failures = first, all, map[string]*batch.WorkerEndpoint{}, nil, nil
	}
	holders, err := u.archive.holders(ctx, u.of)
	if err != nil {
		return err
	}
	holders = slices.DeleteFunc(holders, func(worker holder) bool {
		before, ok := u.asked[worker.name]
		return ok && sameEndpoint(before, worker.endpoint)
	})
	for _, worker := range holders {
		// A worker that was started again has another endpoint.
		u.attempts = slices.DeleteFunc(u.attempts, func(at attempt) bool { return at.worker == worker.name })
		u.asked[worker.name] = worker.endpoint
	}
	return u.ask(ctx, rest, last, holders)
}

// askAgain asks a worker for the attempts at the indexes of ranges that have ended since it was asked.
func (u *unsentAttempts) askAgain(ctx context.Context, ranges []indexes.Range, worker holder) error {
	return u.ask(ctx, ranges, u.last, []holder{worker})
}

// ask adds the answers of the workers to the block. All its indexes up to needed stay.
func (u *unsentAttempts) ask(ctx context.Context, ranges []indexes.Range, needed int, holders []holder) error {
	if len(holders) == 0 {
		return ctx.Err()
	}
	u.failures = slices.DeleteFunc(u.failures, func(f failure) bool {
		return slices.ContainsFunc(holders, func(worker holder) bool { return worker.name == f.worker })
	})
	room := u.size
	failures := u.archive.ask(ctx, u.of, ranges, holders, func(worker holder, records []v1alpha1.TaskRecord) {
		for i := range records {
			if at := attemptOf(&records[i]); at.matches(u.of, ranges) && int(at.index) <= u.last {
				at.worker, at.endpoint = worker.name, worker.endpoint
				u.attempts = append(u.attempts, at)
			}
		}
		if len(u.attempts) > room {
			u.shrink(needed)
			room = max(u.size, 2*len(u.attempts))
		}
	})
	u.failures = append(u.failures, failures...)
	u.attempts = sortUnique(u.attempts)
	return ctx.Err()
}

// shrink removes about half of the indexes from the block, but none up to needed.
func (u *unsentAttempts) shrink(needed int) {
	u.attempts = sortUnique(u.attempts)
	u.last = max(needed, int(u.attempts[len(u.attempts)/2].index)-1)
	u.attempts = u.within([]indexes.Range{{First: noIndex, Last: u.last}})
}

// within returns the attempts of the block from the first index of ranges to the last. Nil means all.
func (u *unsentAttempts) within(ranges []indexes.Range) []attempt {
	return slices.Clone(within(u.attempts, ranges))
}

// sameEndpoint reports whether two endpoints are those of the same process of a worker.
func sameEndpoint(a, b *batch.WorkerEndpoint) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Host == b.Host && a.Port == b.Port && bytes.Equal(a.CABundle, b.CABundle)
}
