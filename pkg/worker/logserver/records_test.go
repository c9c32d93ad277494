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

package logserver

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/leat-dev/leat/apis/batch/indexes"
	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/worker/attempt"
	"github.com/leat-dev/leat/pkg/worker/spool"
)

const setUID = "00000000-0000-4000-8000-000000000001"

// silentArchive stores all segments.
type silentArchive struct{}

func (silentArchive) Archive(context.Context, string, *batch.WorkerArchiveOptions, []byte) (*metav1.Status, error) {
	return nil, nil
}

// withArchive returns a server with a spool.
func withArchive(t *testing.T, change ...func(*Options)) (*testServer, *spool.Spool) {
	t.Helper()
	archive, err := spool.Open(spool.Options{
		Dir: t.TempDir(), MaxBytesPerAttempt: spool.DefaultMaxBytesPerAttempt, MaxSize: spool.DefaultMaxSize, Retention: time.Hour,
		Worker: "w", Archiver: silentArchive{},
	})
	if err != nil {
		t.Fatal(err)
	}
	archive.Start(t.Context(), "inc")
	t.Cleanup(func() {
		archive.Stop(context.Background())
		archive.Close()
	})
	return start(t, append(change, func(o *Options) { o.Archive = archive })...), archive
}

func add(t *testing.T, archive *spool.Spool, set types.UID, record batch.TaskRecord, output string) {
	t.Helper()
	record.WorkerName, record.StartTime = "w", metav1.NowMicro()
	if !archive.Add(set, &record, []byte(output)) {
		t.Fatalf("%+v is not kept.", record)
	}
}

func TestRecordsAndOutputOfASet(t *testing.T) {
	w, archive := withArchive(t)
	for index := range int32(3) {
		add(t, archive, setUID, batch.TaskRecord{Index: &index, TaskUID: "chunk", TaskName: fmt.Sprint("t-", index), Attempt: 1}, fmt.Sprintln("output of", index))
	}
	add(t, archive, "", batch.TaskRecord{TaskUID: "a", TaskName: "a", Attempt: 1}, "alone\n")
	add(t, archive, "", batch.TaskRecord{TaskUID: "b", TaskName: "b", Attempt: 1}, "")
	client := w.client(t, w.ca, batch.WorkerClientName)
	for path, want := range map[string]string{
		batch.WorkerRecordsPath("ns", setUID):                                    "t-0 t-1 t-2",
		batch.WorkerRecordsPath("ns", setUID) + "?indexes=1-2,9":                 "t-1 t-2",
		batch.WorkerRecordsPath("ns", setUID) + "?taskUID=other":                 "",
		batch.WorkerRecordsPath("ns", ""):                                        "a b",
		batch.WorkerRecordsPath("ns", "") + "?taskUID=b":                         "b",
		batch.WorkerRecordsPath("ns", "") + "?indexes=0":                         "",
		batch.WorkerRecordsPath("ns", "00000000-0000-4000-8000-000000000") + "2": "",
	} {
		code, content := w.read(t, client, path)
		var list batch.TaskRecordList
		if err := json.Unmarshal([]byte(content), &list); code != http.StatusOK || err != nil || list.Kind != "TaskRecordList" || list.Items == nil {
			t.Errorf("%s is answered %d: %s, %v", path, code, content, err)
		}
		var names []string
		for _, record := range list.Items {
			names = append(names, record.TaskName)
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("%s returns the records of %q, want %q.", path, got, want)
		}
	}
	for _, test := range []struct {
		path string
		code int
		want string
	}{
		{batch.WorkerOutputPath("ns", setUID, "1.0.1.log"), 200, "output of 1\n"},
		{batch.WorkerOutputPath("ns", "", "a.1.log"), 200, "alone\n"},
		{batch.WorkerOutputPath("ns", "", "b.1.log"), 200, ""},
		{batch.WorkerOutputPath("ns", setUID, "a.1.log"), 404, "the worker has no output a.1.log of the set any more: it may be in the archive now\n"},
		{batch.WorkerOutputPath("ns", setUID, "../lock"), 404, "the worker has no output ../lock of the set any more: it may be in the archive now\n"},
		{batch.WorkerOutputPath("other", setUID, "1.0.1.log"), 404, "the worker runs the tasks of namespace ns, not those of other\n"},
		{batch.WorkerRecordsPath("other", setUID), 404, "the worker runs the tasks of namespace ns, not those of other\n"},
		{batch.WorkerRecordsPath("ns", setUID) + "?indexes=2-1", 400, "indexes: "},
		{batch.WorkerRecordsPath("ns", setUID) + "?continue=x", 400, `continue: "x": must be `},
	} {
		if code, content := w.read(t, client, test.path); code != test.code || content != test.want && (code == 200 || !strings.HasPrefix(content, test.want)) {
			t.Errorf("%s is answered %d: %q, want %d: %q.", test.path, code, content, test.code, test.want)
		}
	}
}

func TestRecordsAreServedInPages(t *testing.T) {
	w, archive := withArchive(t, func(o *Options) { o.maxRecords = 10 })
	for index := range int32(23) {
		add(t, archive, setUID, batch.TaskRecord{Index: &index, TaskUID: "chunk", Attempt: 1}, "")
	}
	client := w.client(t, w.ca, batch.WorkerClientName)
	var found, pages []int
	for next := ""; ; {
		code, content := w.read(t, client, batch.WorkerRecordsPath("ns", setUID)+"?continue="+next)
		var list batch.TaskRecordList
		if err := json.Unmarshal([]byte(content), &list); code != http.StatusOK || err != nil {
			t.Fatalf("The page from %q is answered %d: %.100s, %v", next, code, content, err)
		}
		pages = append(pages, len(list.Items))
		for _, record := range list.Items {
			found = append(found, int(*record.Index))
		}
		if next = list.Continue; next == "" {
			break
		}
	}
	if !slices.Equal(pages, []int{10, 10, 3}) || !slices.Equal(indexes.Of(found), []indexes.Range{{First: 0, Last: 22}}) {
		t.Errorf("The pages have %d records, of the indexes %s.", pages, indexes.Format(indexes.Of(found)))
	}
}

func TestTheLogOfATaskIsReadFromTheSpool(t *testing.T) {
	w, archive := withArchive(t)
	add(t, archive, "", batch.TaskRecord{TaskUID: "uid", Attempt: 1}, "first\n")
	add(t, archive, "", batch.TaskRecord{TaskUID: "uid", Attempt: 2}, "second\nattempt\n")
	log := w.store.Create(attempt.ID{Task: "chunk", Index: 5, Number: 1})
	fmt.Fprintln(log, "in the log")
	log.Close()
	for _, index := range []int32{6, 4} {
		add(t, archive, setUID, batch.TaskRecord{Index: &index, TaskUID: "chunk", Attempt: 1}, "in the spool\n")
	}
	client := w.client(t, w.ca, batch.WorkerClientName)
	for _, test := range []struct {
		path string
		code int
		want string
	}{
		{"/logs/ns/x/uid", 200, "second\nattempt\n"},
		{"/logs/ns/x/uid?follow=true&tailLines=1", 200, "attempt\n"},
		{"/logs/ns/x/uid?previous=true", 200, "first\n"},
		{"/logs/ns/x/uid?sinceTime=2100-01-01T00:00:00Z", 200, ""},
		{"/logs/ns/x/uid?timestamps=true&limitBytes=4", 200, fmt.Sprint(time.Now().UTC().Year())},
		{"/logs/ns/x/chunk?prefix=true", 200, "4 in the spool\n5 in the log\n6 in the spool\n"},
		{"/logs/ns/x/chunk?indexes=6", 200, "in the spool\n"},
		{"/logs/ns/x/chunk?indexes=7", 404, "the worker keeps no output of the indexes 7: it has not started them, or what was kept had to make room or was kept for long enough\n"},
		{"/logs/ns/x/other", 404, "the worker keeps no output of the task: it has not started the command, or what was kept had to make room or was kept for long enough\n"},
	} {
		if code, content := w.read(t, client, test.path); code != test.code || content != test.want {
			t.Errorf("%s is answered %d: %q, want %d: %q.", test.path, code, content, test.code, test.want)
		}
	}
}

func TestWithoutASpoolNothingIsUnsent(t *testing.T) {
	w := start(t)
	client := w.client(t, w.ca, batch.WorkerClientName)
	if code, content := w.read(t, client, batch.WorkerRecordsPath("ns", setUID)); code != http.StatusOK || !strings.Contains(content, `"items":[]`) {
		t.Errorf("Records are answered %d: %s", code, content)
	}
	if code, content := w.read(t, client, batch.WorkerOutputPath("ns", setUID, "1.0.1.log")); code != http.StatusNotFound {
		t.Errorf("Output is answered %d: %s", code, content)
	}
}
