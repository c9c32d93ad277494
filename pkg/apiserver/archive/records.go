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
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/utils/ptr"

	"github.com/leat-dev/leat/apis/batch"
	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/archive/segment"
	"github.com/leat-dev/leat/pkg/archive/store"
	"github.com/leat-dev/leat/pkg/registry/batch/task"
)

// defaultLimit is the maximum number of records if the client sets none.
const defaultLimit = 500

// tokenPrefix is at the beginning of a continue token before it is encoded.
const tokenPrefix = "v1:"

// Records implements task.AttemptSource. Each user may read records once at a time.
func (a *Archive) Records(ctx context.Context, of *task.Attempts, options *batch.TaskRecordOptions) (*batch.TaskRecordList, error) {
	after, err := decodeToken(options.Continue)
	if err != nil {
		return nil, err
	}
	end, err := a.beginScan(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	page := &recordPage{archive: a, of: of, limit: int(ptr.Deref(options.Limit, defaultLimit)), list: &batch.TaskRecordList{Items: []batch.TaskRecord{}}}
	if after == "" {
		if err := page.addUnsent(ctx); err != nil {
			return nil, err
		}
	}
	if a.Store == nil {
		page.warn("%s: there are only the records that workers still have", noArchive)
		return page.list, nil
	}
	if err := page.addStored(ctx, after); err != nil {
		return nil, err
	}
	return page.list, nil
}

// beginScan returns an error if the user reads records at this time. The function that it returns ends the scan.
func (a *Archive) beginScan(ctx context.Context) (end func(), err error) {
	user, ok := genericapirequest.UserFrom(ctx)
	if !ok {
		return nil, apierrors.NewInternalError(errors.New("the request has no user"))
	}
	name := user.GetName()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.scanning[name] {
		return nil, apierrors.NewTooManyRequests("you are reading records already: read one list at a time", 1)
	}
	a.scanning[name] = true
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.scanning, name)
	}, nil
}

// decodeToken returns the end of the key after which a list continues.
func decodeToken(token string) (after string, err error) {
	if token == "" {
		return "", nil
	}
	decoded, err := base64.RawURLEncoding.DecodeString(token)
	after, ok := strings.CutPrefix(string(decoded), tokenPrefix)
	if err != nil || !ok || after == "" {
		return "", apierrors.NewBadRequest(fmt.Sprintf("continue: %.100q: must be metadata.continue of the list before", token))
	}
	return after, nil
}

func encodeToken(after string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(tokenPrefix + after))
}

// recordPage is a part of a list of records.
type recordPage struct {
	archive *Archive
	of      *task.Attempts
	limit   int
	list    *batch.TaskRecordList
	// unsent are the attempts that were found on workers.
	unsent map[attempt]bool
}

func (p *recordPage) warn(format string, args ...any) {
	p.list.Warnings = append(p.list.Warnings, fmt.Sprintf(format, args...))
}

// add adds a record if it is one of those asked for.
func (p *recordPage) add(record *v1alpha1.TaskRecord, worker string) (attempt, error) {
	at := attemptOf(record)
	at.worker = worker
	if !at.matches(p.of, p.of.Indexes) || p.unsent[at] {
		return at, nil
	}
	// The worker is the one that has sent the record, whatever it says.
	record.WorkerName = worker
	var internal batch.TaskRecord
	if err := v1alpha1.Convert_v1alpha1_TaskRecord_To_batch_TaskRecord(record, &internal, nil); err != nil {
		return at, err
	}
	p.list.Items = append(p.list.Items, internal)
	return at, nil
}

// addUnsent adds the records that workers have not sent yet.
func (p *recordPage) addUnsent(ctx context.Context) error {
	holders, err := p.archive.holders(ctx, p.of)
	if err != nil {
		return err
	}
	p.unsent = map[attempt]bool{}
	var failed error
	failures := p.archive.ask(ctx, p.of, p.of.Indexes, holders, func(worker holder, records []v1alpha1.TaskRecord) {
		for i := range records {
			at, err := p.add(&records[i], worker.name)
			p.unsent[at] = true
			failed = cmp.Or(failed, err)
		}
	})
	for _, failure := range failures {
		p.warn("the records of %s", failure)
	}
	return cmp.Or(failed, ctx.Err())
}

// addStored adds the records of segments after a key, until the page is full.
func (p *recordPage) addStored(ctx context.Context, after string) error {
	a := p.archive
	prefix, err := a.prefixOf(ctx, p.of)
	if err != nil {
		return err
	}
	// What is not on workers any more is in a list that is asked for now.
	notBefore := time.Time{}
	if after == "" {
		notBefore = a.Clock.Now()
	}
	listed, err := a.list(ctx, prefix, notBefore)
	if err != nil {
		return err
	}
	last := ""
	for i := range listed.segments {
		s := &listed.segments[i]
		if strings.TrimPrefix(s.key, prefix) <= after || !s.candidate(p.of, p.of.Indexes) {
			continue
		}
		if len(p.list.Items) >= p.limit && last != "" {
			p.list.Continue = encodeToken(last)
			return nil
		}
		last = strings.TrimPrefix(s.key, prefix)
		if err := p.addSegment(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

// addSegment adds the records of a segment.
func (p *recordPage) addSegment(ctx context.Context, s *stored) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	records, err := p.archive.records(s)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil // removed since it was listed
	case errors.Is(err, store.ErrUnavailable):
		return storeError("read", err)
	case err != nil:
		p.warn("segment %s of the archive: %v", s.key, err)
		return nil
	}
	for i := range records {
		if _, err := p.add(&records[i], s.parts.Worker); err != nil {
			return err
		}
	}
	return nil
}

// records reads the records of a segment.
func (a *Archive) records(s *stored) ([]v1alpha1.TaskRecord, error) {
	reader, err := segment.Open(&object{a, s.key}, s.size, a.limits)
	if err != nil {
		return nil, err
	}
	return reader.Records()
}
