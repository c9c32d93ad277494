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
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
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

// recordPosition is where a list of records continues: first come the records on workers, in the order of their names,
// then those in the store, in the order of keys.
type recordPosition struct {
	// Worker is the worker whose records come next, from Next on. If Next is empty, those of the workers after it come.
	Worker string `json:"worker,omitempty"`
	Next   string `json:"next,omitempty"`
	// Key is the end of the key of the segment after which the list continues. Nothing on workers comes then.
	Key string `json:"key,omitempty"`
}

// decodeToken returns the position of a continue token. An empty token is the beginning.
func decodeToken(token string) (recordPosition, error) {
	var position recordPosition
	if token == "" {
		return position, nil
	}
	decoded, err := base64.RawURLEncoding.DecodeString(token)
	encoded, ok := strings.CutPrefix(string(decoded), tokenPrefix)
	if err != nil || !ok || json.Unmarshal([]byte(encoded), &position) != nil || position == (recordPosition{}) {
		return position, apierrors.NewBadRequest(fmt.Sprintf("continue: %.100q: must be metadata.continue of the list before", token))
	}
	return position, nil
}

// token returns the continue token of the position.
func (p recordPosition) token() string {
	encoded, _ := json.Marshal(p) // strings only
	return base64.RawURLEncoding.EncodeToString(append([]byte(tokenPrefix), encoded...))
}

// Records implements task.AttemptSource. Each user may read records once at a time.
func (a *Archive) Records(ctx context.Context, of *task.Attempts, options *batch.TaskRecordOptions) (*batch.TaskRecordList, error) {
	position, err := decodeToken(options.Continue)
	if err != nil {
		return nil, err
	}
	end, err := a.beginScan(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	page := &recordPage{archive: a, of: of, limit: int(ptr.Deref(options.Limit, defaultLimit)), list: &batch.TaskRecordList{Items: []batch.TaskRecord{}}}
	if position.Key == "" {
		if err := page.addUnsent(ctx, position); err != nil || page.list.Continue != "" {
			return page.list, err
		}
	}
	if a.Store == nil {
		page.warn("%s: there are only the records that workers still have", noArchive)
		return page.list, nil
	}
	if !canBeStored(of) {
		return page.list, nil
	}
	err = page.addStored(ctx, position.Key)
	switch {
	case position.Key == "" && apierrors.IsServiceUnavailable(err):
		page.warn("records may be missing: %v", err)
	case err != nil:
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

// addUnsent adds the records that workers have not sent yet, from a position on. If there are more of them, the list
// continues there.
func (p *recordPage) addUnsent(ctx context.Context, from recordPosition) error {
	holders, err := p.archive.holders(ctx, p.of)
	if err != nil {
		return err
	}
	holders = slices.DeleteFunc(holders, func(worker holder) bool {
		return worker.name < from.Worker || worker.name == from.Worker && from.Next == ""
	})
	p.unsent = map[attempt]bool{}
	for last := from.Worker; ; {
		switch {
		case len(holders) == 0 && (len(p.list.Items) < p.limit || p.archive.Store == nil):
			return ctx.Err()
		case len(p.list.Items) >= p.limit:
			p.list.Continue = recordPosition{Worker: last}.token()
			return ctx.Err()
		}
		asked := holders[:min(len(holders), maxAsked)]
		if from.Next != "" && asked[0].name == from.Worker {
			asked = asked[:1] // most have no more than a page
		}
		if err := p.addPages(ctx, asked, from); err != nil || p.list.Continue != "" {
			return err
		}
		last, holders = asked[len(asked)-1].name, holders[len(asked):]
	}
}

// addPages adds a page of each worker. Behind a worker that has more, the list continues: the pages of others are not
// added.
func (p *recordPage) addPages(ctx context.Context, workers []holder, from recordPosition) error {
	type answer struct {
		records []v1alpha1.TaskRecord
		next    string
		err     error
	}
	answers := make([]answer, len(workers))
	forEach(workers, func(i int, worker holder) {
		next := ""
		if worker.name == from.Worker {
			next = from.Next
		}
		answers[i].records, answers[i].next, answers[i].err = p.archive.unsentPage(ctx, p.of, p.of.Indexes, worker, next)
	})
	for i, worker := range workers {
		if err := answers[i].err; err != nil {
			p.warn("the records of %s", failure{worker.name, err})
		}
		for j := range answers[i].records {
			at, err := p.add(&answers[i].records[j], worker.name)
			if err != nil {
				return err
			}
			p.unsent[at] = true
		}
		if next := answers[i].next; next != "" {
			p.list.Continue = recordPosition{Worker: worker.name, Next: next}.token()
			return ctx.Err()
		}
	}
	return ctx.Err()
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
			p.list.Continue = recordPosition{Key: last}.token()
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
