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
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/utils/ptr"

	"github.com/leat-dev/leat/apis/batch/indexes"
	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/cli/taskstate"
	fakebatch "github.com/leat-dev/leat/pkg/generated/clientset/versioned/typed/batch/v1alpha1/fake"
)

// recordAt returns the record of an attempt at an index that started some seconds after testNow.
func recordAt(index int32, seconds, milliseconds int64, change func(*batch.TaskRecord)) batch.TaskRecord {
	record := batch.TaskRecord{
		Index: &index, TaskName: fmt.Sprintf("s-%d", index), TaskUID: "uid", Attempt: 1, WorkerName: "w", DurationMilliseconds: milliseconds,
		StartTime: metav1.NewMicroTime(testNow.Add(time.Duration(seconds) * time.Second)), Reason: batch.TaskReasonCompleted,
	}
	if change != nil {
		change(&record)
	}
	return record
}

// historyOf returns what "leat history" prints a minute after testNow.
func historyOf(t *testing.T, o *historyOptions, found object, chosen []indexes.Range, records ...batch.TaskRecord) (stdout, stderr string, asked []batch.TaskRecordOptions) {
	t.Helper()
	s, client := fakeSession()
	client.PrependReactor("get", "*", func(action clienttesting.Action) (bool, runtime.Object, error) {
		options := action.(fakebatch.GetRecordsAction).Options
		asked = append(asked, *options.DeepCopy())
		// Two pages, with the same warning.
		half := len(records) / 2
		if options.Continue == "" && half > 0 {
			return true, &batch.TaskRecordList{ListMeta: metav1.ListMeta{Continue: "more"}, Items: slices.Clone(records[:half]), Warnings: []string{"worker w is \x1b[5maway"}}, nil
		}
		return true, &batch.TaskRecordList{Items: slices.Clone(records[half:]), Warnings: []string{"worker w is \x1b[5maway"}}, nil
	})
	streams, _, out, errOut := genericiooptions.NewTestIOStreams()
	o.factory = &factory{program: "leat", streams: streams}
	if err := o.show(t.Context(), s, found, chosen, testNow.Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	return out.String(), errOut.String(), asked
}

func TestHistoryOfASet(t *testing.T) {
	set := chunkedSet()
	set.Spec.IndexNumbers = &batch.IndexNumbers{First: ptr.To[int32](1)}
	records := []batch.TaskRecord{
		recordAt(2, 10, 500, func(r *batch.TaskRecord) {
			r.CPUMilliseconds, r.PeakMemoryBytes, r.OutputBytes = 1_250, 12<<20, 1536
		}),
		recordAt(0, 0, 2_500, func(r *batch.TaskRecord) { r.WorkerName = "w\x1b[31m2\r\n" }),
		// The same attempt ran again on another worker, as the first was lost.
		recordAt(1, 30, 65_000, func(r *batch.TaskRecord) { r.WorkerName, r.ExitCode, r.Reason = "v", 3, batch.TaskReasonError }),
		recordAt(1, 5, 60_000, func(r *batch.TaskRecord) { r.Signal, r.ExitCode, r.Reason = 9, 137, batch.TaskReasonError }),
		recordAt(1, 40, 1, func(r *batch.TaskRecord) { r.Failures = 1 }),
		recordAt(3, 6, 700, func(r *batch.TaskRecord) { r.ExitCode, r.Reason = 137, batch.TaskReasonOOMKilled }),
		recordAt(3, 6, 700, func(r *batch.TaskRecord) { r.ExitCode, r.Reason = 137, batch.TaskReasonOOMKilled }), // sent while the list was read
		recordAt(3, 50, 3, func(r *batch.TaskRecord) { r.Failures = 1 }),
	}
	const header = "INDEX  ATTEMPT  WORKER  EXIT  STARTED  DURATION  CPU  MEMORY  OUTPUT\n"
	rows := map[string]string{
		"1":   "1  1  w2  0  60s  2.5s  0ms  0  0\n",
		"2/1": "2  1  w  SIGKILL  55s  60s  0ms  0  0\n",
		"2/2": "2  2  v  3  30s  65s  0ms  0  0\n",
		"2/3": "2  3  w  0  20s  1ms  0ms  0  0\n",
		"3":   "3  1  w  0  50s  500ms  1.3s  12Mi  1.5Ki\n",
		"4/2": "4  2  w  0  10s  3ms  0ms  0  0\n",
		"4/1": "4  1  w  OOMKilled  54s  700ms  0ms  0  0\n",
	}
	for _, test := range []struct {
		name    string
		options historyOptions
		rows    []string
	}{
		{"all, by index and start", historyOptions{}, []string{"1", "2/1", "2/2", "2/3", "3", "4/1", "4/2"}},
		{"the first ones", historyOptions{limit: 2}, []string{"1", "2/1"}},
		{"the failed ones", historyOptions{failed: true}, []string{"2/1", "2/2", "4/1"}},
		{"by start", historyOptions{sort: sortStart}, []string{"1", "2/1", "4/1", "3", "2/2", "2/3", "4/2"}},
		{"the slowest ones", historyOptions{sort: sortDuration, limit: 3}, []string{"2/2", "2/1", "1"}},
		{"by CPU time", historyOptions{sort: sortCPU, limit: 2}, []string{"3", "1"}},
		{"by memory", historyOptions{sort: sortMemory, limit: 1}, []string{"3"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			out, errOut, asked := historyOf(t, &test.options, object{set: set}, nil, records...)
			want := header
			for _, row := range test.rows {
				want += rows[row]
			}
			if diff := cmp.Diff(want, columns.ReplaceAllString(out, "$1  ")); diff != "" {
				t.Errorf("want -, got +:\n%s", diff)
			}
			if errOut != "warning: worker w is away\n" {
				t.Errorf("got the warnings %q", errOut)
			}
			if len(asked) != 2 || asked[1].Continue != "more" || *asked[0].Limit != recordsPerPage {
				t.Errorf("got the requests %+v", asked)
			}
		})
	}
	out, _, _ := historyOf(t, &historyOptions{output: outputWide}, object{set: set}, nil, records[0])
	if !regexp.MustCompile(`MISSING +TIME +TASK\n.* 0 +20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.000Z +s-2\n$`).MatchString(out) {
		t.Errorf("wide: got %q", out)
	}
	if out, errOut, _ := historyOf(t, &historyOptions{}, object{set: set}, nil); out != "" || errOut != "warning: worker w is away\nNo finished attempt of taskset/s can be read.\n" {
		t.Errorf("no records: %q, %q", out, errOut)
	}
	if out, errOut, _ := historyOf(t, &historyOptions{failed: true}, object{set: set, index: ptr.To(2)}, single(2), records[0]); out != "" || !strings.HasSuffix(errOut, "No failed attempt of taskset/s/3 can be read.\n") {
		t.Errorf("no failed records: %q, %q", out, errOut)
	}
}

func TestHistoryOfATask(t *testing.T) {
	task := &batch.Task{ObjectMeta: metav1.ObjectMeta{Name: "hello"}}
	withoutIndex := func(r *batch.TaskRecord) { r.Index = nil }
	out, _, asked := historyOf(t, &historyOptions{}, object{task: task}, nil, recordAt(0, 9, 1, withoutIndex), recordAt(0, 8, 2, withoutIndex))
	if want := "INDEX  ATTEMPT  WORKER  EXIT  STARTED  DURATION  CPU  MEMORY  OUTPUT\n-  1  w  0  52s  2ms  0ms  0  0\n-  2  w  0  51s  1ms  0ms  0  0\n"; columns.ReplaceAllString(out, "$1  ") != want {
		t.Errorf("got %q", out)
	}
	if asked[0].Indexes != "" {
		t.Errorf("asked for the indexes %q", asked[0].Indexes)
	}
}

func TestHistoryInJSON(t *testing.T) {
	set := chunkedSet()
	records := []batch.TaskRecord{recordAt(2, 10, 500, nil), recordAt(0, 0, 900, func(r *batch.TaskRecord) { r.ExitCode = 1 }), recordAt(1, 5, 700, nil)}
	for _, test := range []struct {
		name    string
		options historyOptions
		want    []batch.TaskRecord
	}{
		{"as stored", historyOptions{}, records},
		{"the first ones", historyOptions{limit: 2}, records[:2]},
		{"the failed ones", historyOptions{failed: true}, records[1:2]},
		{"sorted", historyOptions{sort: sortDuration}, []batch.TaskRecord{records[1], records[2], records[0]}},
		{"none", historyOptions{failed: true, limit: 1, sort: sortIndex}, records[1:2]},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.options.output = outputJSON
			out, _, _ := historyOf(t, &test.options, object{set: set}, nil, records...)
			var list batch.TaskRecordList
			if err := json.Unmarshal([]byte(out), &list); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			if list.Kind != "TaskRecordList" || list.APIVersion != batch.SchemeGroupVersion.String() || len(list.Items) != len(test.want) {
				t.Fatalf("got %s", out)
			}
			for i, item := range list.Items {
				item.StartTime = test.want[i].StartTime // the time zone differs
				if diff := cmp.Diff(test.want[i], item); diff != "" {
					t.Errorf("item %d: want -, got +:\n%s", i, diff)
				}
			}
		})
	}
	out, _, _ := historyOf(t, &historyOptions{output: outputJSON}, object{set: set}, nil)
	if want := `{"apiVersion":"batch.leat.dev/v1alpha1","kind":"TaskRecordList","metadata":{},"items":[` + "\n]}\n"; out != want {
		t.Errorf("no records: got %q, want %q", out, want)
	}
}

// With a limit, a list of any length takes little memory.
func TestHistoryKeepsOnlyWhatItShows(t *testing.T) {
	const limit = 10
	h := history{order: orderOf(sortDuration), limit: limit}
	for i := range 100_000 {
		record := recordAt(int32(i), 0, int64(i*7919%100_003), nil)
		h.add(&record, true)
		if len(h.kept) >= 2*limit+1000 {
			t.Fatalf("%d records are kept", len(h.kept))
		}
	}
	rows := h.rows()
	if len(rows) != limit || !slices.IsSortedFunc(rows, func(a, b historyRow) int { return int(b.DurationMilliseconds - a.DurationMilliseconds) }) || rows[limit-1].DurationMilliseconds < 99_000 {
		t.Errorf("got %d rows, the last %+v", len(rows), rows[len(rows)-1].TaskRecord)
	}
}

func TestHistoryOfAServer(t *testing.T) {
	for _, test := range []struct {
		name, line string
		change     func(*archiveServer)
		out        string // a regular expression
		errOut     string
		code       int
		asked      []string
	}{
		{name: "one index", line: "history s/30", out: `^INDEX .*\n30 +1 +w +3 .*\n30 +2 +w +0 .*\n$`, asked: []string{"tasksets/s/records?indexes=2&limit=5000"}},
		{name: "several", line: "history taskset/s --index 10,30 --failed", out: `^INDEX .*\n30 +1 +w +3 .*\n$`, asked: []string{"tasksets/s/records?indexes=0%2C2&limit=5000"}},
		{name: "pages", line: "history s --slowest 1", change: func(s *archiveServer) { s.pageSize = 5 }, out: `^INDEX .*\n10 +1 .*\n$`,
			asked: []string{"tasksets/s/records?limit=5000", "tasksets/s/records?continue=5&limit=5000"}},
		{name: "a set named like a flag", line: "history -- --failed", errOut: `error: no set and no task is named "--failed" in namespace "default": kubectl get tks,tk lists what there is; -n names another namespace` + "\n", code: exitFailed},
		{name: "an old server", line: "history s", change: func(s *archiveServer) { s.old = true },
			errOut: "error: this server has no records of attempts: its version is older than that of this program\n", code: exitFailed, asked: []string{"tasksets/s/records?limit=5000"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			server := archivedSet()
			if test.change != nil {
				test.change(server)
			}
			noCluster(t)
			web := httptest.NewServer(http.HandlerFunc(server.ServeHTTP))
			defer web.Close()
			out, errOut, code := call(t, "leat", "", append([]string{"--server=" + web.URL}, strings.Fields(test.line)...)...)
			if code != test.code || errOut != test.errOut || !regexp.MustCompile(test.out).MatchString(out) {
				t.Errorf("exit code %d, want %d\n%s\nwant %s\n%q, want %q", code, test.code, out, test.out, errOut, test.errOut)
			}
			if diff := cmp.Diff(test.asked, server.asked()); diff != "" {
				t.Errorf("requests: want -, got +:\n%s", diff)
			}
		})
	}
}

func TestFormatsOfHistory(t *testing.T) {
	for n, want := range map[int64]string{0: "0", 1023: "1023", 1024: "1.0Ki", 1536: "1.5Ki", 12 << 20: "12Mi", 1023 << 10: "1.0Mi", 999 << 10: "999Ki", 5 << 40: "5.0Ti", 5 << 50: "5120Ti"} {
		if got := formatBytes(n); got != want {
			t.Errorf("%d bytes: got %s, want %s", n, got, want)
		}
	}
	for n, want := range map[int64]string{0: "0ms", 999: "999ms", 1000: "1s", 1234: "1.2s", 12_345: "12s", 3_600_000: "60m"} {
		if got := formatMilliseconds(n); got != want {
			t.Errorf("%d ms: got %s, want %s", n, got, want)
		}
	}
	for _, test := range []struct {
		record batch.TaskRecord
		want   string
		failed bool
	}{
		{batch.TaskRecord{}, "0", false},
		{batch.TaskRecord{Reason: batch.TaskReasonCompleted}, "0", false},
		{batch.TaskRecord{Reason: batch.TaskReasonError, ExitCode: 3}, "3", true},
		{batch.TaskRecord{Reason: batch.TaskReasonError, ExitCode: 143, Signal: 15}, "SIGTERM", true},
		{batch.TaskRecord{ExitCode: 168, Signal: 40}, "signal 40", true},
		{batch.TaskRecord{Reason: batch.TaskReasonDeadlineExceeded, ExitCode: 143, Signal: 15}, "DeadlineExceeded", true},
		{batch.TaskRecord{Reason: "Own\x1b]0;title\x07Reason\n"}, "OwnReason", true},
	} {
		if got := taskstate.Exit(test.record.Reason, test.record.ExitCode, test.record.Signal); got != test.want || failedAttempt(&test.record) != test.failed {
			t.Errorf("%+v: got %q, failed %t", test.record, got, failedAttempt(&test.record))
		}
	}
}

func TestCollectedIndexes(t *testing.T) {
	var c indexCollector
	for i := range 200_000 {
		c.add((i * 7) % 200_000)
	}
	c.add(300_000)
	if got := indexes.Format(c.ranges()); got != "0-199999,300000" {
		t.Errorf("got %.100s", got)
	}
}

// An error in the middle of a list must not look like its end.
func TestBrokenHistoryInJSON(t *testing.T) {
	for after, want := range map[string]string{"": "the server is away", "more": "the list is not complete: the server is away"} {
		s, client := fakeSession()
		client.PrependReactor("get", "tasksets/records", func(action clienttesting.Action) (bool, runtime.Object, error) {
			if action.(fakebatch.GetRecordsAction).Options.Continue == after {
				return true, nil, errors.New("the server is away")
			}
			return true, &batch.TaskRecordList{ListMeta: metav1.ListMeta{Continue: "more"}, Items: []batch.TaskRecord{recordAt(0, 0, 1, nil)}}, nil
		})
		streams, _, out, _ := genericiooptions.NewTestIOStreams()
		o := &historyOptions{factory: &factory{program: "leat", streams: streams}, output: outputJSON}
		if err := o.show(t.Context(), s, object{set: chunkedSet()}, nil, testNow.Time); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
		if json.Valid(out.Bytes()) {
			t.Errorf("got a whole list: %q", out)
		}
	}
}
