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
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/user"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"

	"github.com/leat-dev/leat/apis/batch"
	"github.com/leat-dev/leat/apis/batch/indexes"
	"github.com/leat-dev/leat/pkg/archive/store"
	"github.com/leat-dev/leat/pkg/registry/batch/task"
)

func asPerson(ctx context.Context, name string) context.Context {
	return genericapirequest.WithUser(ctx, &user.DefaultInfo{Name: name})
}

func indexesOf(list *batch.TaskRecordList) string {
	var all []string
	for _, record := range list.Items {
		all = append(all, fmt.Sprint(*record.Index))
	}
	return strings.Join(all, " ")
}

// TestMadeUpSetsHaveNothing reads attempts at tasks whose owner reference has a UID that no set can have.
func TestMadeUpSetsHaveNothing(t *testing.T) {
	f := newFixture()
	f.upload(t, 1, at(0, 0, "a"))
	for _, uid := range []types.UID{"tasks", "..", "../uid-of-ns/" + setUID, "x"} {
		of := &task.Attempts{Namespace: "ns", SetUID: uid, Task: &batch.Task{ObjectMeta: metav1.ObjectMeta{Name: "heir", Namespace: "ns"}}}
		if list, err := f.Records(asPerson(t.Context(), "ann"), of, &batch.TaskRecordOptions{}); err != nil || len(list.Items) > 0 {
			t.Errorf("records of set %s: got %v, %v, want none", uid, list, err)
		}
		attempts, _, err := f.findStored(t.Context(), of, nil, func([]attempt) bool { return false })
		if err != nil || len(attempts) > 0 {
			t.Errorf("attempts of set %s: got %v, %v, want none", uid, attempts, err)
		}
	}
	if f.store.lists > 0 {
		t.Errorf("the store was listed %d times", f.store.lists)
	}
}

func TestRecordsArePaged(t *testing.T) {
	f := newFixture()
	f.objects.workers = []*batch.Worker{holding("w"), holding("w2")}
	f.workers.unsent["w"] = []finished{at(9, 0, ""), at(4, 0, "")}
	f.workers.away["w2"] = true
	f.upload(t, 1, at(0, 0, "a"), at(1, 0, "b"))
	f.upload(t, 2, at(2, 0, "c"), at(3, 0, "d"))
	f.upload(t, 3, at(4, 0, ""), at(5, 0, "")) // 4 is on the worker too
	ctx := asPerson(t.Context(), "ann")
	options := &batch.TaskRecordOptions{Limit: new(int64(3))}
	var pages []string
	for {
		list, err := f.Records(ctx, set(10, "0-9"), options)
		if err != nil {
			t.Fatal(err)
		}
		pages = append(pages, indexesOf(list))
		if first := options.Continue == ""; first != (len(list.Warnings) == 1) || first && !strings.Contains(list.Warnings[0], "worker w2 cannot be read") {
			t.Errorf("page %d: warnings %q", len(pages), list.Warnings)
		}
		if options.Continue = list.Continue; options.Continue == "" {
			break
		}
	}
	if got, want := strings.Join(pages, " | "), "9 4 0 1 | 2 3 4 5"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// TestAllRecordsOfWorkersAreListed has workers with more records than they send at once.
func TestAllRecordsOfWorkersAreListed(t *testing.T) {
	for _, test := range []struct {
		page  int
		limit int64
		want  string // the sizes of the pages
	}{
		{page: 0, limit: 10, want: "49 12 2"}, // of 16 workers, of the others, stored
		{page: 3, limit: 10, want: "3 9 9 9 9 9 9 6"},
		{page: 0, limit: 10_000, want: "63"},
	} {
		f := newFixture()
		var want []string
		index := int32(0)
		for n := range 20 {
			name := fmt.Sprintf("w%02d", n)
			f.objects.workers = append(f.objects.workers, holding(name))
			for range 4 - n%3 {
				f.workers.unsent[name] = append(f.workers.unsent[name], at(index, 0, ""))
				want = append(want, fmt.Sprint(index))
				index++
			}
		}
		slices.Reverse(f.objects.workers)
		f.upload(t, 1, at(index, 0, ""), at(index+1, 0, ""))
		want = append(want, fmt.Sprint(index), fmt.Sprint(index+1))
		f.workers.page = test.page
		options := &batch.TaskRecordOptions{Limit: &test.limit}
		var got, sizes []string
		for {
			list, err := f.Records(asPerson(t.Context(), "ann"), set(100, "0-99"), options)
			if err != nil || len(list.Warnings) > 0 {
				t.Fatal(err, list.Warnings)
			}
			got = append(got, strings.Fields(indexesOf(list))...)
			sizes = append(sizes, fmt.Sprint(len(list.Items)))
			if options.Continue = list.Continue; options.Continue == "" {
				break
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("in pages of %d and %d: got %q, want %q", test.page, test.limit, got, want)
		}
		if got := strings.Join(sizes, " "); got != test.want {
			t.Errorf("in pages of %d and %d: got pages of %s, want %s", test.page, test.limit, got, test.want)
		}
	}
}

func TestRecordsOfIndexesAndTasks(t *testing.T) {
	f := newFixture()
	f.upload(t, 1, at(0, 0, ""), at(1, 0, ""))
	f.upload(t, 2, at(2, 0, "").of("44444444-4444-4444-8444-444444444444"))
	ctx := asPerson(t.Context(), "ann")
	list, err := f.Records(ctx, set(10, "0-9", indexes.Range{First: 1, Last: 2}), &batch.TaskRecordOptions{})
	if err != nil || indexesOf(list) != "1 2" {
		t.Errorf("of indexes: got %v, %v", list, err)
	}
	of := set(10, "0-9")
	of.Set, of.Task = nil, running("2", "w", "44444444-4444-4444-8444-444444444444")
	list, err = f.Records(ctx, of, &batch.TaskRecordOptions{})
	if err != nil || indexesOf(list) != "2" {
		t.Errorf("of a task: got %v, %v", list, err)
	}
	other := set(10, "0-9")
	other.Namespace = "b"
	list, err = f.Records(ctx, other, &batch.TaskRecordOptions{})
	if err != nil || indexesOf(list) != "" {
		t.Errorf("of another namespace: got %v, %v", list, err)
	}
}

func TestRecordsThatCannotBeRead(t *testing.T) {
	f := newFixture()
	ctx := asPerson(t.Context(), "ann")
	for _, token := range []string{"x", "djE6", "!"} {
		if got, _ := code(second(f.Records(ctx, set(1, ""), &batch.TaskRecordOptions{Continue: token}))); got != http.StatusBadRequest {
			t.Errorf("continue=%s: got %d", token, got)
		}
	}
	f.objects.workers = []*batch.Worker{holding("w")}
	f.workers.unsent["w"] = []finished{at(9, 0, "")}
	f.store.err = store.ErrUnavailable
	list, err := f.Records(ctx, set(10, ""), &batch.TaskRecordOptions{})
	if want := "records may be missing: the archive cannot be used now: the store is not available"; err != nil || indexesOf(list) != "9" ||
		len(list.Warnings) != 1 || list.Warnings[0] != want || list.Continue != "" {
		t.Errorf("the store is away: got %v, %v, want index 9 and the warning %q", list, err, want)
	}
	options := &batch.TaskRecordOptions{Continue: recordPosition{Key: "w/"}.token()}
	if got, delay := code(second(f.Records(ctx, set(10, ""), options))); got != http.StatusServiceUnavailable || delay == 0 {
		t.Errorf("the store is away after the first page: got %d with a delay of %d", got, delay)
	}
	f.Store = nil
	list, err = f.Records(ctx, set(1, ""), &batch.TaskRecordOptions{})
	if err != nil || len(list.Warnings) != 1 || !strings.Contains(list.Warnings[0], "--archive") {
		t.Errorf("without an archive: got %v, %v", list, err)
	}
}

func second[T any](_ T, err error) error { return err }

func TestAUserReadsRecordsOnceAtATime(t *testing.T) {
	f := newFixture()
	end, err := f.beginScan(asPerson(t.Context(), "ann"))
	if err != nil {
		t.Fatal(err)
	}
	if got, delay := code(second(f.Records(asPerson(t.Context(), "ann"), set(1, ""), &batch.TaskRecordOptions{}))); got != http.StatusTooManyRequests || delay == 0 {
		t.Errorf("the same user: got %d with a delay of %d", got, delay)
	}
	if _, err := f.Records(asPerson(t.Context(), "bob"), set(1, ""), &batch.TaskRecordOptions{}); err != nil {
		t.Errorf("another user: %v", err)
	}
	end()
	if _, err := f.Records(asPerson(t.Context(), "ann"), set(1, ""), &batch.TaskRecordOptions{}); err != nil {
		t.Errorf("later: %v", err)
	}
}

func TestDirectoriesMakeRoom(t *testing.T) {
	d := newDirectories(3 * attemptBytes)
	d.add("a", &directory{})
	d.add("b", &directory{})
	d.get("a")
	d.add("c", &directory{attempts: make([]attempt, 1)})
	if d.get("a") == nil || d.get("b") != nil || d.get("c") == nil {
		t.Errorf("the least recently used was not removed: %v", d.byKey)
	}
}
