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
	"cmp"
	"container/list"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/leat-dev/leat/apis/batch/indexes"
	"github.com/leat-dev/leat/pkg/archive/segment"
	"github.com/leat-dev/leat/pkg/archive/store"
	"github.com/leat-dev/leat/pkg/registry/batch/task"
)

const (
	// maxReads is the maximum number of reads from the store at a time, and maxOpening that of segments that one request
	// opens.
	maxReads, maxOpening = 32, 8
	// listingTTL is how long the list of the segments of a set is cached.
	listingTTL = 3 * time.Second
	// maxListings bounds the cached lists.
	maxListings = 128
	// maxDirectoryBytes is about how many bytes of directories are cached.
	maxDirectoryBytes = 64 << 20
	// attemptBytes is about how many bytes a cached attempt takes, with its entry in the directory.
	attemptBytes = 400
	// clockTolerance is how far the clock of a worker may differ from that of the server.
	clockTolerance = time.Hour
)

// stored is a segment in the store.
type stored struct {
	key   string
	size  int64
	parts *segment.Key
}

// listing is the list of the segments under a prefix, in the order of their keys.
type listing struct {
	segments []stored
	// begun is when the list was asked for: what was stored before is on it.
	begun time.Time
}

// list returns the segments under a prefix that were stored before notBefore.
func (a *Archive) list(ctx context.Context, prefix string, notBefore time.Time) (*listing, error) {
	if cached, ok := a.listings.Get(prefix); ok {
		if found := cached.(*listing); a.Clock.Since(found.begun) < listingTTL && !found.begun.Before(notBefore) {
			return found, nil
		}
	}
	// A list that another request has begun before notBefore would not do, so the time is part of the key.
	call := a.listing.DoChan(prefix+" "+notBefore.String(), func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
		defer cancel()
		found := &listing{begun: a.Clock.Now()}
		storeReads.Inc()
		objects, err := a.Store.List(ctx, prefix)
		if err != nil {
			return nil, storeError("list", err)
		}
		for _, object := range objects {
			// Others may keep what they like beside the segments.
			if parts, err := segment.ParseKey(object.Key); err == nil {
				found.segments = append(found.segments, stored{object.Key, object.Size, parts})
			}
		}
		a.listings.Add(prefix, found)
		return found, nil
	})
	select {
	case result := <-call:
		if result.Err != nil {
			return nil, result.Err
		}
		return result.Val.(*listing), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// canBeStored reports whether there can be segments with the attempts. The UID of the set is that in the owner
// reference of a task, which users write: there are none if it is not a UUID.
func canBeStored(of *task.Attempts) bool { return of.SetUID == "" || segment.IsUID(string(of.SetUID)) }

// prefixOf returns the prefix of the keys of the segments that may have the attempts.
func (a *Archive) prefixOf(ctx context.Context, of *task.Attempts) (string, error) {
	id, err := a.NamespaceID(ctx, of.Namespace)
	if err != nil {
		return "", unavailable("the namespace %s cannot be identified now: %v: try again", of.Namespace, err)
	}
	prefix, err := segment.Directory("", id, of.SetUID)
	if err != nil {
		return "", err
	}
	// A task without set that was bound once has run on one worker.
	if t := of.Task; of.SetUID == "" && t != nil && t.Spec.WorkerName != "" && t.Status.Bindings == 1 {
		prefix += t.Spec.WorkerName + "/"
	}
	return prefix, nil
}

// candidate reports whether the segment may have some of the attempts. ranges nil means all indexes.
func (s *stored) candidate(of *task.Attempts, ranges []indexes.Range) bool {
	if of.SetUID != "" {
		return ranges == nil || s.parts.Matches(ranges)
	}
	t := of.Task
	if t == nil {
		return false
	}
	until := s.parts.Last
	if end := t.Status.State.Terminated; end != nil {
		until = end.FinishedAt.Add(clockTolerance)
	}
	return s.parts.MatchesTime(t.CreationTimestamp.Add(-clockTolerance), until)
}

// directory is what is kept in memory of a segment.
type directory struct {
	reader *segment.Reader
	// attempts are sorted by index.
	attempts []attempt
}

// open returns the directory of a segment.
func (a *Archive) open(ctx context.Context, s *stored) (*directory, error) {
	if found := a.directories.get(s.key); found != nil {
		return found, nil
	}
	call := a.opening.DoChan(s.key, func() (any, error) {
		reader, err := segment.Open(&object{a, s.key}, s.size, a.limits)
		if err != nil {
			return nil, err
		}
		records, err := reader.Records()
		if err != nil {
			return nil, err
		}
		found := &directory{reader: reader}
		uids := map[string]string{}
		for i := range records {
			at := attemptOf(&records[i])
			if shared, ok := uids[at.taskUID]; ok {
				at.taskUID = shared // the string of the record is not kept
			} else {
				at.taskUID = strings.Clone(at.taskUID)
				uids[at.taskUID] = at.taskUID
			}
			found.attempts = append(found.attempts, at)
		}
		slices.SortStableFunc(found.attempts, func(a, b attempt) int { return cmp.Compare(a.index, b.index) })
		a.directories.add(s.key, found)
		return found, nil
	})
	select {
	case result := <-call:
		if result.Err != nil {
			return nil, result.Err
		}
		return result.Val.(*directory), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// unreadable is a segment that is not one.
type unreadable struct {
	key string
	err error
}

// storedAttempts returns the attempts in the store. Segments that were removed meanwhile have none. ranges nil means
// all indexes.
func (a *Archive) storedAttempts(ctx context.Context, of *task.Attempts, ranges []indexes.Range, found *listing) ([]attempt, []unreadable, error) {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(maxOpening)
	var mu sync.Mutex
	var attempts []attempt
	var broken []unreadable
	for i := range found.segments {
		s := &found.segments[i]
		if !s.candidate(of, ranges) {
			continue
		}
		group.Go(func() error {
			opened, err := a.open(ctx, s)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case errors.Is(err, store.ErrNotFound):
				return nil
			case errors.Is(err, store.ErrUnavailable):
				return storeError("read", err)
			case err != nil && ctx.Err() != nil:
				return ctx.Err()
			case err != nil:
				broken = append(broken, unreadable{s.key, err})
				return nil
			}
			for _, at := range within(opened.attempts, ranges) {
				if at.matches(of, ranges) {
					at.segment, at.worker = s, s.parts.Worker
					attempts = append(attempts, at)
				}
			}
			return nil
		})
	}
	return attempts, broken, group.Wait()
}

// within returns the attempts from the first index of ranges to the last; nil means all. The attempts must be sorted by
// index.
func within(attempts []attempt, ranges []indexes.Range) []attempt {
	if len(ranges) == 0 {
		return attempts
	}
	byIndex := func(at attempt, index int) int { return cmp.Compare(int(at.index), index) }
	from, _ := slices.BinarySearchFunc(attempts, ranges[0].First, byIndex)
	to, _ := slices.BinarySearchFunc(attempts, ranges[len(ranges)-1].Last+1, byIndex)
	return attempts[from:to]
}

// directories caches the directories of segments. The least recently used make room for others.
type directories struct {
	mu         sync.Mutex
	size, used int
	byKey      map[string]*list.Element // of *cached
	recent     *list.List               // the most recently used first
}

// cached is a directory with its key.
type cached struct {
	key string
	*directory
}

func (c *cached) bytes() int { return attemptBytes * (1 + len(c.attempts)) }

func newDirectories(size int) *directories {
	return &directories{size: size, byKey: map[string]*list.Element{}, recent: list.New()}
}

// get returns the directory of the segment, nil if it is not cached.
func (d *directories) get(key string) *directory {
	d.mu.Lock()
	defer d.mu.Unlock()
	element := d.byKey[key]
	if element == nil {
		return nil
	}
	d.recent.MoveToFront(element)
	return element.Value.(*cached).directory
}

// add caches the directory of a segment.
func (d *directories) add(key string, found *directory) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.byKey[key] != nil {
		return
	}
	added := &cached{key, found}
	d.byKey[key] = d.recent.PushFront(added)
	for d.used += added.bytes(); d.used > d.size; {
		oldest := d.recent.Remove(d.recent.Back()).(*cached)
		delete(d.byKey, oldest.key)
		d.used -= oldest.bytes()
	}
}
