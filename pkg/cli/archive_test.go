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
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/rest"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/utils/ptr"

	"github.com/leat-dev/leat/apis/batch/indexes"
	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/generated/clientset/versioned"
	"github.com/leat-dev/leat/pkg/generated/clientset/versioned/fake"
)

// archiveServer serves the set "s", its tasks, and the output and records of its finished attempts.
type archiveServer struct {
	set      *batch.TaskSet
	tasks    []*batch.Task
	attempts []archivedAttempt
	running  map[int]string // the output so far, by index
	warnings []string       // of lists of records
	pageSize int            // 0 for one page
	old      bool           // the subresources do not exist
	breakAt  int            // the index in whose output the connection breaks; 0 for none

	mu       sync.Mutex
	requests []string // for output and records
}

// archivedAttempt is an attempt whose output was "gone" if nothing is kept of it.
type archivedAttempt struct {
	index  int
	start  time.Duration // since testNow
	output string
	exit   int32
	size   int64 // in the record; 0 for that of output
	lost   bool  // the server knows nothing of it
}

func (a archivedAttempt) record() batch.TaskRecord {
	return batch.TaskRecord{
		Index: ptr.To(int32(a.index)), TaskName: fmt.Sprintf("s-%d-x", a.index), TaskUID: "uid", Attempt: 1, WorkerName: "w", ExitCode: a.exit,
		StartTime: metav1.NewMicroTime(testNow.Add(a.start)), DurationMilliseconds: 1500, CPUMilliseconds: 20, PeakMemoryBytes: 3 << 20, OutputBytes: cmp.Or(a.size, int64(len(a.output))),
	}
}

// of returns the known attempts at an index, by start.
func (s *archiveServer) of(index int) []archivedAttempt {
	var found []archivedAttempt
	for _, a := range s.attempts {
		if a.index == index && !a.lost {
			found = append(found, a)
		}
	}
	slices.SortFunc(found, func(a, b archivedAttempt) int { return int(a.start - b.start) })
	return found
}

func (s *archiveServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	const base = "/apis/batch.leat.dev/v1alpha1/namespaces/default/"
	reply := func(code int, object any) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(object)
	}
	fail := func(err *apierrors.StatusError) {
		err.ErrStatus.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}
		reply(int(err.ErrStatus.Code), err.ErrStatus)
	}
	name := strings.TrimPrefix(r.URL.Path, base)
	if strings.HasSuffix(name, "/log") || strings.HasSuffix(name, "/records") {
		s.mu.Lock()
		s.requests = append(s.requests, name+"?"+r.URL.Query().Encode())
		s.mu.Unlock()
		if s.old && !strings.HasPrefix(name, "tasks/s-") {
			fail(apierrors.NewGenericServerResponse(http.StatusNotFound, "", schema.GroupResource{}, "", "", 0, false))
			return
		}
	}
	switch {
	case name == "tasksets/s":
		set := s.set.DeepCopy()
		set.TypeMeta = typeMeta("TaskSet")
		reply(http.StatusOK, set)
	case name == "tasks":
		list := batch.TaskList{TypeMeta: typeMeta("TaskList")}
		for _, task := range s.tasks {
			list.Items = append(list.Items, *task)
		}
		reply(http.StatusOK, list)
	case name == "tasksets/s/log":
		s.serveLog(w, r, fail)
	case name == "tasksets/s/records":
		reply(http.StatusOK, s.recordList(r))
	case strings.HasPrefix(name, "tasks/s-") && strings.HasSuffix(name, "/log"): // of a worker
		var index int
		_, _ = fmt.Sscanf(name, "tasks/s-%d-", &index)
		fmt.Fprint(w, s.running[index])
	case strings.HasPrefix(name, "tasksets/"):
		fail(apierrors.NewNotFound(batch.Resource("tasksets"), strings.TrimPrefix(name, "tasksets/")))
	default:
		fail(apierrors.NewNotFound(batch.Resource("tasks"), strings.TrimPrefix(name, "tasks/")))
	}
}

// serveLog does what leat-apiserver does: it names indexes whose output is not kept in lines of its own.
func (s *archiveServer) serveLog(w http.ResponseWriter, r *http.Request, fail func(*apierrors.StatusError)) {
	query := r.URL.Query()
	chosen, _ := indexes.Parse(query.Get("indexes"), maxCompletions)
	completed, _ := completedOf(s.set)
	var out bytes.Buffer
	for index := range completionsOf(s.set) {
		if len(chosen) > 0 && !indexes.Contains(chosen, index) {
			continue
		}
		var outputs []string
		for _, a := range s.of(index) {
			outputs = append(outputs, a.output)
		}
		if running, ok := s.running[index]; ok {
			outputs = append(outputs, running)
		}
		position := len(outputs) - 1
		if n, err := strconv.Atoi(query.Get("attempt")); err == nil {
			position = n - 1
		} else if query.Get("previous") == "true" {
			position--
		}
		switch {
		case position >= 0 && position < len(outputs):
			if out.Len() > 0 && !bytes.HasSuffix(out.Bytes(), []byte("\n")) {
				out.WriteByte('\n')
			}
			for line := range strings.Lines(outputs[position]) {
				fmt.Fprintf(&out, "%d %s", index, line)
			}
			if s.breakAt == index && index > 0 {
				_, _ = w.Write(out.Bytes())
				_ = http.NewResponseController(w).Flush()
				panic(http.ErrAbortHandler)
			}
		case len(outputs) == 0 && indexes.Contains(completed, index) && out.Len() > 0:
			fmt.Fprintf(&out, "[leat: the output of index %d is not kept]\n", index)
		}
	}
	if out.Len() == 0 && len(s.of(0)) == 0 && query.Get("attempt") != "" {
		fail(apierrors.NewBadRequest("attempt: there is no such attempt"))
		return
	}
	_, _ = w.Write(out.Bytes())
}

func (s *archiveServer) recordList(r *http.Request) batch.TaskRecordList {
	query := r.URL.Query()
	chosen, _ := indexes.Parse(query.Get("indexes"), maxCompletions)
	list := batch.TaskRecordList{TypeMeta: typeMeta("TaskRecordList"), Items: []batch.TaskRecord{}}
	from, _ := strconv.Atoi(query.Get("continue"))
	for i := from; i < len(s.attempts); i++ {
		a := s.attempts[i]
		if a.lost || len(chosen) > 0 && !indexes.Contains(chosen, a.index) {
			continue
		}
		if s.pageSize > 0 && len(list.Items) == s.pageSize {
			list.Continue = strconv.Itoa(i)
			break
		}
		list.Items = append(list.Items, a.record())
	}
	list.Warnings = s.warnings
	return list
}

// call runs a command line with the server.
func (s *archiveServer) call(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	noCluster(t)
	server := httptest.NewUnstartedServer(s)
	server.Config.ErrorLog = nil
	server.Start()
	defer server.Close()
	return call(t, "leat", "", append(args, "--server="+server.URL)...)
}

// session returns a session with the server at the URL.
func (s *archiveServer) session(t *testing.T, url string) *session {
	t.Helper()
	client, err := versioned.NewForConfig(&rest.Config{Host: url, ContentConfig: rest.ContentConfig{ContentType: "application/json"}})
	if err != nil {
		t.Fatal(err)
	}
	return &session{client: client, api: client.BatchV1alpha1(), namespace: "default"}
}

// asked returns the requests for output and records.
func (s *archiveServer) asked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests
}

// archivedSet returns a server with a set of ten indexes with the numbers 10, 20, …, 100. The first six have succeeded,
// the next two have failed, one runs and one waits.
func archivedSet() *archiveServer {
	set := &batch.TaskSet{
		ObjectMeta: metav1.ObjectMeta{Name: "s", Namespace: "default", UID: "set"},
		Spec: batch.TaskSetSpec{
			CompletionMode: ptr.To(batch.IndexedCompletion), Completions: ptr.To[int32](10), Parallelism: ptr.To[int32](10), BackoffLimitPerIndex: ptr.To[int32](1),
			IndexNumbers: &batch.IndexNumbers{First: ptr.To[int32](10), Step: ptr.To[int32](10)},
		},
		Status: batch.TaskSetStatus{CompletedIndexes: "0-5", FailedIndexes: ptr.To("6,7")},
	}
	running := batch.NewTask(set, 8, 0)
	running.UID, running.Status = "running", batch.TaskStatus{Phase: batch.TaskRunning, Attempts: 1}
	waiting := batch.NewTask(set, 9, 0)
	waiting.UID, waiting.Status = "waiting", batch.TaskStatus{Phase: batch.TaskPending}
	return &archiveServer{
		set: set, tasks: []*batch.Task{running, waiting}, running: map[int]string{8: "so far\n"},
		attempts: []archivedAttempt{
			{index: 4, start: 4 * time.Second, output: "four\n"},
			{index: 0, output: "zero\n0 more\n"},
			{index: 1, start: time.Second, output: "no end"},
			{index: 2, start: 2 * time.Second, output: "bad \x1b[31mred\r[s/99] fake\n", exit: 3},
			{index: 2, start: 9 * time.Second, output: "good\n"},
			{index: 3, start: 3 * time.Second}, // prints nothing
			{index: 5, lost: true},
			{index: 6, start: time.Second, output: "first\n", exit: 1},
			{index: 6, start: 2 * time.Second, output: "second\n", exit: 1},
			{index: 7, lost: true},
		},
	}
}

func TestLogsOfASetThatIsArchived(t *testing.T) {
	const zero, one, two, four, six = "[s/10] zero\n[s/10] 0 more\n", "[s/20] no end\n", "[s/30] good\n", "[s/50] four\n", "[s/70] second\n"
	for _, test := range []struct {
		name, line  string
		change      func(*archiveServer)
		out, errOut string
		code        int
	}{
		{name: "all", line: "logs s", out: zero + one + two + four + six + "[s/90] so far\n",
			errOut: "[leat: the output of index 5 is not kept]\n1 index has succeeded and is gone, with what it printed: 60.\n1 index has failed and is gone, with what it printed: 80.\n1 index has not run: 100.\n"},
		{name: "one", line: "logs s/50", out: four},
		{name: "one by --index", line: "logs taskset/s --index 50", out: four},
		{name: "one that runs", line: "logs s/90", out: "[s/90] so far\n"},
		{name: "one that waits", line: "logs s/100", errOut: "1 index has not run: 100.\n"},
		{name: "one that was silent", line: "logs s --index 40,50", out: four, errOut: "No output to show: index 40.\n"},
		{name: "one that is gone", line: "logs s/60", errOut: "1 index has succeeded and is gone, with what it printed: 60.\n"},
		{name: "one that may be on a worker that is away", line: "logs s/60", change: func(s *archiveServer) { s.warnings = []string{"worker\x1b[1m w cannot be read"} },
			errOut: "warning: worker w cannot be read\n1 index has output that is not kept, or cannot be read now: 60.\n"},
		{name: "the first attempts", line: "logs s --index 30,70 --attempt 1", out: "[s/30] bad \x1b[31mred\r[s/99] fake\n[s/70] first\n"},
		{name: "an attempt that does not exist", line: "logs s/70 --attempt 3", change: func(s *archiveServer) { s.attempts = s.attempts[7:] },
			errOut: "Error from server (BadRequest): attempt: there is no such attempt\n", code: exitFailed},
		{name: "the previous attempts", line: "logs s --index 30,70 -p", out: "[s/30] bad \x1b[31mred\r[s/99] fake\n[s/70] first\n"},
		{name: "the failed ones", line: "logs s --failed", out: six, errOut: "1 index has failed and is gone, with what it printed: 80.\n"},
		{name: "those whose last attempt failed", line: "logs s --failed", change: func(s *archiveServer) {
			s.set.Spec.BackoffLimitPerIndex, s.set.Status.FailedIndexes = nil, nil
			s.attempts = append(s.attempts, archivedAttempt{index: 8, start: 9 * time.Second}, archivedAttempt{index: 8, start: time.Second, exit: 1})
		}, out: six},
		{name: "none has failed", line: "logs s --failed", change: func(s *archiveServer) { s.set.Status.FailedIndexes, s.attempts = nil, nil },
			errOut: "No index of taskset/s has failed.\n"},
		{name: "one that waits to be retried", line: "logs s/100", change: func(s *archiveServer) {
			s.set.Status.IndexFailures = "9:1"
			s.attempts = append(s.attempts, archivedAttempt{index: 9, exit: 1})
		}, errOut: "No output to show: index 100.\n"},
		{name: "a broken connection", line: "logs s", change: func(s *archiveServer) { s.breakAt = 2 }, out: zero + one + two,
			errOut: "error: the output of taskset/s breaks off: unexpected EOF\n", code: exitFailed},
		{name: "a server without archive", line: "logs s", change: func(s *archiveServer) { s.old = true }, out: "[s/90] so far\n",
			errOut: "6 indexes have succeeded and are gone, with what they printed: 10,20,30,40,50,60.\n2 indexes have failed and are gone, with what they printed: 70,80.\n1 index has not run: 100.\n"},
		{name: "an attempt of a server without archive", line: "logs s --attempt 1", change: func(s *archiveServer) { s.old = true }, errOut: "error: " + errNoAttempts.Error() + "\n", code: exitFailed},
		{name: "the failed ones of a server without archive", line: "logs s --failed", change: func(s *archiveServer) {
			s.old, s.running[6] = true, "last words\n"
			failed := batch.NewTask(s.set, 6, 0)
			failed.Status = batch.TaskStatus{Phase: batch.TaskFailed, Attempts: 1}
			s.tasks = append(s.tasks, failed)
		}, out: "[s/70] last words\n", errOut: "1 index has failed and is gone, with what it printed: 80.\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			server := archivedSet()
			if test.change != nil {
				test.change(server)
			}
			out, errOut, code := server.call(t, strings.Fields(test.line)...)
			if out != test.out || errOut != test.errOut || code != test.code {
				t.Errorf("exit code %d, want %d\noutput: want -, got +:\n%s\nerrors: want -, got +:\n%s", code, test.code, gocmp.Diff(test.out, out), gocmp.Diff(test.errOut, errOut))
			}
		})
	}
}

// Numbers that cannot be written as one parameter are read in several requests.
func TestManyIndexesAreReadInPieces(t *testing.T) {
	server := archivedSet()
	server.set.Spec.Completions, server.set.Spec.IndexNumbers = ptr.To[int32](4000), nil
	server.set.Status.CompletedIndexes = "0-3999"
	server.attempts, server.running = nil, nil
	var odd []indexes.Range
	want := ""
	for i := 1; i < 4000; i += 2 {
		odd = append(odd, single(i)...)
		server.attempts = append(server.attempts, archivedAttempt{index: i, output: "x\n"})
		want += fmt.Sprintf("[s/%d] x\n", i)
	}
	out, errOut, code := server.call(t, "logs", "s", "--index", indexes.Format(odd))
	if out != want || errOut != "" || code != 0 {
		t.Errorf("exit code %d, %q, %d bytes of output, want %d", code, errOut, len(out), len(want))
	}
	requests := server.asked()
	if len(requests) < 2 {
		t.Errorf("there were %d requests, want several", len(requests))
	}
	for _, text := range formatPieces(odd) {
		if len(text) > maxIndexesText {
			t.Errorf("a piece has %d bytes", len(text))
		}
	}
}

// Only some of what a server says among the output is shown.
func TestRemarksOfTheServerAreBounded(t *testing.T) {
	server := archivedSet()
	server.set.Spec.Completions, server.set.Spec.IndexNumbers = ptr.To[int32](2000), nil
	server.set.Status = batch.TaskSetStatus{CompletedIndexes: "0-1999"}
	server.tasks, server.running = nil, nil
	server.attempts = server.attempts[1:2]
	out, errOut, code := server.call(t, "logs", "s")
	lines := strings.Split(errOut, "\n")
	if out != "[s/0] zero\n[s/0] 0 more\n" || code != 0 || len(lines) != shownRemarks+3 || lines[shownRemarks] != "… and 1994 more remarks of the server" ||
		lines[shownRemarks+1] != "1999 indexes have succeeded and are gone, with what they printed: 1-1999." {
		t.Errorf("exit code %d, %q, %q", code, out, errOut)
	}
}

func TestALongLineStaysOne(t *testing.T) {
	server := archivedSet()
	long := strings.Repeat("x", 200<<10) + "\n"
	server.attempts[0].output = long
	if out, errOut, _ := server.call(t, "logs", "s/50"); out != "[s/50] "+long || errOut != "" {
		t.Errorf("got %d bytes, %q", len(out), errOut)
	}
}

func TestLinesOnATerminalAreSanitized(t *testing.T) {
	var out bytes.Buffer
	l := &lineWriter{out: &out, sanitized: true}
	if err := l.copyLines(strings.NewReader("10%\r\x1b[2J[s/2] 20%\x07\nnext\n"), constantLabel("[s/1] ")); err != nil {
		t.Fatal(err)
	}
	if want := "[s/1] [s/2] 20%\n[s/1] next\n"; out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
}

// filesIn returns the content of the files in a directory, by name.
func filesIn(t *testing.T, directory string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(directory)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for _, entry := range entries {
		content, err := os.ReadFile(filepath.Join(directory, entry.Name()))
		if err != nil {
			t.Fatal(err)
		}
		info, err := entry.Info()
		if err != nil {
			t.Fatal(err)
		}
		if mode := info.Mode(); mode.Type() == 0 && mode.Perm() != 0o600 {
			t.Errorf("%s has the mode %s", entry.Name(), mode)
		}
		files[entry.Name()] = string(content)
	}
	return files
}

func TestOutputIsWrittenToFiles(t *testing.T) {
	gone := "1 index has succeeded and is gone, with what it printed: 60.\n1 index has failed and is gone, with what it printed: 80.\n1 index has not run: 100.\n"
	for _, test := range []struct {
		name, line  string
		change      func(*archiveServer)
		files       map[string]string
		out, errOut string
		code        int
	}{
		{name: "all", line: "logs s", errOut: "[leat: the output of index 5 is not kept]\n" + gone, out: "7 files written to DIR\n", files: map[string]string{
			"10.log": "zero\n0 more\n", "20.log": "no end", "30.log": "good\n", "40.log": "", "50.log": "four\n", "70.log": "second\n", "90.log": "so far\n"}},
		{name: "some, of the first attempt", line: "logs s --index 20,30 --attempt 1", out: "2 files written to DIR\n", files: map[string]string{
			"20.log": "no end", "30.log": "bad \x1b[31mred\r[s/99] fake\n"}},
		{name: "an attempt that only some indexes have", line: "logs s --index 20,30,40 --attempt 2", out: "1 file written to DIR\n", errOut: "No output to show: indexes 20,40.\n",
			files: map[string]string{"30.log": "good\n"}},
		{name: "the failed ones", line: "logs s --failed", out: "1 file written to DIR\n", errOut: "1 index has failed and is gone, with what it printed: 80.\n",
			files: map[string]string{"70.log": "second\n"}},
		{name: "bytes that are no text", line: "logs s --index 10,20", change: func(s *archiveServer) { s.attempts[1].output = "\x00\xff\r\n\n\n5 \n" }, out: "2 files written to DIR\n",
			files: map[string]string{"10.log": "\x00\xff\r\n\n\n5 \n", "20.log": "no end"}},
		{name: "lines longer than any buffer", line: "logs s --index 10,20", change: func(s *archiveServer) { s.attempts[1].output = strings.Repeat("7 €", 1<<20) }, out: "2 files written to DIR\n",
			files: map[string]string{"10.log": strings.Repeat("7 €", 1<<20), "20.log": "no end"}},
		{name: "the last lines", line: "logs s --index 10,20 --tail 1", out: "2 files written to DIR\n", files: map[string]string{"10.log": "zero\n0 more\n", "20.log": "no end\n"},
			change: func(s *archiveServer) {
				s.attempts[2].output, s.attempts[2].size = "no end\n", int64(len("no end"))
			}},
		{name: "a broken connection", line: "logs s", change: func(s *archiveServer) { s.breakAt = 2 }, out: "2 files written to DIR\n", errOut: "error: the output of taskset/s breaks off: unexpected EOF\n", code: exitFailed,
			files: map[string]string{"10.log": "zero\n0 more\n", "20.log": "no end", "30.log.part": "good\n"}},
		{name: "a server without archive", line: "logs s --index 80,90,100", change: func(s *archiveServer) { s.old = true }, out: "1 file written to DIR\n",
			errOut: "1 index has failed and is gone, with what it printed: 80.\n1 index has not run: 100.\n", files: map[string]string{"90.log": "so far\n"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			server := archivedSet()
			if test.change != nil {
				test.change(server)
			}
			directory := filepath.Join(t.TempDir(), "new", "out")
			out, errOut, code := server.call(t, append(strings.Fields(test.line), "--output-dir", directory)...)
			out = strings.ReplaceAll(out, directory, "DIR")
			if out != test.out || errOut != test.errOut || code != test.code {
				t.Errorf("exit code %d, want %d\noutput: want -, got +:\n%s\nerrors: want -, got +:\n%s", code, test.code, gocmp.Diff(test.out, out), gocmp.Diff(test.errOut, errOut))
			}
			if diff := gocmp.Diff(test.files, filesIn(t, directory)); diff != "" {
				t.Errorf("files: want -, got +:\n%.2000s", diff)
			}
			if info, err := os.Stat(directory); err != nil || info.Mode().Perm() != 0o700 {
				t.Errorf("the directory: %v, %v", info, err)
			}
		})
	}
}

func TestFilesAreNotOverwritten(t *testing.T) {
	for _, name := range []string{"50.log", "50.log.part"} {
		for _, test := range []struct {
			name   string
			create func(path, other string) error
		}{
			{"a file", func(path, _ string) error { return os.WriteFile(path, []byte("mine"), 0o600) }},
			{"a link", func(path, other string) error { return os.Symlink(other, path) }},
			{"a link to nothing", func(path, _ string) error { return os.Symlink("/no/such/file", path) }},
		} {
			t.Run(name+" is "+test.name, func(t *testing.T) {
				server := archivedSet()
				directory, other := t.TempDir(), filepath.Join(t.TempDir(), "other")
				path := filepath.Join(directory, name)
				if err := os.WriteFile(other, []byte("other"), 0o600); err != nil {
					t.Fatal(err)
				}
				if err := test.create(path, other); err != nil {
					t.Fatal(err)
				}
				line := []string{"logs", "s", "--index", "10,20,30,40,50", "--output-dir", directory}
				out, errOut, code := server.call(t, line...)
				if want := "error: " + path + " exists, and nothing was written: --overwrite replaces it; another --output-dir keeps it\n"; code != exitFailed || errOut != want || out != "" {
					t.Errorf("exit code %d, %q, %q", code, out, errOut)
				}
				if entries, err := os.ReadDir(directory); err != nil || len(entries) != 1 {
					t.Errorf("something was written: %v, %v", entries, err)
				}
				if out, errOut, code := server.call(t, append(line, "--overwrite")...); code != 0 || out != "5 files written to "+directory+"\n" {
					t.Errorf("--overwrite: exit code %d, %q, %q", code, out, errOut)
				}
				if files := filesIn(t, directory); files["50.log"] != "four\n" || len(files) != 5 {
					t.Errorf("--overwrite: got %q", files)
				}
				if info, err := os.Lstat(filepath.Join(directory, "50.log")); err != nil || !info.Mode().IsRegular() {
					t.Errorf("--overwrite: %v, %v", info, err)
				}
				if content, err := os.ReadFile(other); err != nil || string(content) != "other" {
					t.Errorf("the link was followed: %q, %v", content, err)
				}
			})
		}
	}
}

// Nothing is lost if a file cannot be written: its part stays, and the command ends.
func TestAFileThatCannotBeWritten(t *testing.T) {
	server, directory := archivedSet(), t.TempDir()
	if err := os.MkdirAll(filepath.Join(directory, "20.log", "not empty"), 0o700); err != nil {
		t.Fatal(err)
	}
	out, errOut, code := server.call(t, "logs", "s", "--index", "10,20,30", "--output-dir", directory, "--overwrite")
	if code != exitFailed || out != "1 file written to "+directory+"\n" || !strings.HasPrefix(errOut, "error: ") || !strings.Contains(errOut, "20.log") {
		t.Errorf("exit code %d, %q, %q", code, out, errOut)
	}
	if content, err := os.ReadFile(filepath.Join(directory, "20.log.part")); err != nil || string(content) != "no end" {
		t.Errorf("the part: %q, %v", content, err)
	}
	if _, err := os.Stat(filepath.Join(directory, "30.log")); !os.IsNotExist(err) {
		t.Errorf("a later file was written: %v", err)
	}
}

func TestOutputOfATaskIsWrittenToFiles(t *testing.T) {
	set := chunkedSet()
	chunk := chunkOf(set, "4-9", batch.TaskRunning, 2, 0)
	lone := &batch.Task{ObjectMeta: metav1.ObjectMeta{Name: "hello", Namespace: "default", UID: "lone"}, Status: batch.TaskStatus{Phase: batch.TaskSucceeded, Attempts: 1}}
	for _, test := range []struct {
		name   string
		task   *batch.Task
		chosen []indexes.Range
		files  map[string]string
	}{
		{"one command", lone, nil, map[string]string{"hello.log": "a\nb\nc\n"}},
		{"several indexes", chunk, nil, map[string]string{"4.log": "a\n", "5.log": "b\n", "6.log": "c\n"}},
		{"some of several indexes", chunk, single(5), map[string]string{"5.log": "b\n"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			streams, _, out, _ := genericiooptions.NewTestIOStreams()
			l := &taskLogs{factory: &factory{program: "leat", streams: streams}, s: newLogSource("4 a", "5 b", "6 c").session(test.task), chosen: test.chosen}
			directory := t.TempDir()
			if err := l.save(t.Context(), test.task, directory, false); err != nil {
				t.Fatal(err)
			}
			if diff := gocmp.Diff(test.files, filesIn(t, directory)); diff != "" {
				t.Errorf("want -, got +:\n%s", diff)
			}
			if want := plural(len(test.files), "file") + " written to " + directory + "\n"; out.String() != want {
				t.Errorf("got %q, want %q", out, want)
			}
			if err := l.save(t.Context(), test.task, directory, false); err == nil || !strings.Contains(err.Error(), "exists, and nothing was written") {
				t.Errorf("again: %v", err)
			}
		})
	}
}

// A server that does not know the parameter would show another attempt.
func TestAttemptOfATaskNeedsAServerWithRecords(t *testing.T) {
	task := &batch.Task{ObjectMeta: metav1.ObjectMeta{Name: "hello", Namespace: "default"}, Status: batch.TaskStatus{Phase: batch.TaskSucceeded, Attempts: 2}}
	for _, old := range []bool{false, true} {
		source := newLogSource("0 a")
		s := source.session(task)
		if !old {
			s.client.(*fake.Clientset).PrependReactor("get", "tasks/records", func(clienttesting.Action) (bool, runtime.Object, error) {
				return true, &batch.TaskRecordList{}, nil
			})
		}
		streams, _, out, _ := genericiooptions.NewTestIOStreams()
		o := &logsOptions{factory: &factory{program: "leat", streams: streams}}
		err := o.runTask(t.Context(), s, object{task: task}, batch.TaskLogOptions{Attempt: ptr.To[int64](1)}, nil)
		switch {
		case old && (err != errNoAttempts || out.Len() > 0):
			t.Errorf("an old server: %v, %q", err, out)
		case !old && (err != nil || out.String() != "a\n" || *source.requests[0].Attempt != 1):
			t.Errorf("a new server: %v, %q", err, out)
		}
	}
}

func TestFollowingNamesEarlierOutput(t *testing.T) {
	server := archivedSet()
	server.tasks, server.set.Status.FailedIndexes = nil, nil
	web := httptest.NewServer(server)
	defer web.Close()
	streams, _, out, errOut := genericiooptions.NewTestIOStreams()
	ended := make(chan struct{})
	close(ended)
	l := &setLogs{factory: &factory{program: "leat", streams: streams}, s: server.session(t, web.URL), set: server.set, lines: &lineWriter{out: streams.Out}, limit: 5, ended: ended}
	if err := l.follow(t.Context()); err != nil {
		t.Fatal(err)
	}
	if want := "6 indexes have succeeded before: leat logs taskset/s shows what is kept of their output: 10,20,30,40,50,60.\n"; errOut.String() != want || out.Len() > 0 {
		t.Errorf("got %q and %q, want %q", out, errOut, want)
	}
}

func TestFollowingReadsMissedOutputFromTheArchive(t *testing.T) {
	const missing = "[leat: the output of index 5 is not kept]\n2 indexes have ended and been deleted before what was printed could be read: 60,80. --max-log-requests, 5 now, is how many tasks are read at a time.\n"
	for _, test := range []struct {
		name        string
		shown       []indexes.Range
		chunk       string // its indexes; 0 and 1 have printed something while they were followed
		change      func(*archiveServer)
		out, errOut string
	}{
		{name: "of tasks that were not read", shown: []indexes.Range{{First: 0, Last: 2}}, out: "[s/50] four\n[s/70] second\n", errOut: missing},
		{name: "of a task whose worker had sent it", chunk: "0-7", out: "[s/30] good\n[s/50] four\n[s/70] second\n", errOut: missing},
		{
			name: "without an archive, workers have shown all", chunk: "0-7",
			change: func(s *archiveServer) { s.warnings, s.attempts = []string{"there is no archive"}, nil },
		},
		{name: "an old server", chunk: "0-7", change: func(s *archiveServer) { s.old = true }},
	} {
		t.Run(test.name, func(t *testing.T) {
			server := archivedSet()
			if test.change != nil {
				test.change(server)
			}
			web := httptest.NewServer(server)
			defer web.Close()
			streams, _, out, errOut := genericiooptions.NewTestIOStreams()
			l := &setLogs{
				factory: &factory{program: "leat", streams: streams}, s: server.session(t, web.URL), set: server.set,
				lines: &lineWriter{out: streams.Out}, limit: 5, options: batch.TaskLogOptions{Follow: true},
				shown: test.shown, chunks: map[types.UID]*shownChunk{},
			}
			var before []indexes.Range
			if test.chunk == "" {
				l.missedTasks, before = 3, single(3)
			} else {
				chunk := chunkOf(server.set, test.chunk, batch.TaskSucceeded, 8, 0)
				l.markChunk(chunk)
				l.markShown(chunk, []indexes.Range{{First: 0, Last: 1}}, true)
			}
			if err := l.reportMissed(t.Context(), before); err != nil {
				t.Fatal(err)
			}
			if out.String() != test.out || errOut.String() != test.errOut {
				t.Errorf("got  %q and %q\nwant %q and %q", out, errOut, test.out, test.errOut)
			}
		})
	}
}
