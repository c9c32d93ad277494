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
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/utils/ptr"

	"github.com/leat-dev/leat/apis/batch/indexes"
	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/generated/clientset/versioned/fake"
	fakebatch "github.com/leat-dev/leat/pkg/generated/clientset/versioned/typed/batch/v1alpha1/fake"
)

// logSource is a server that has the output of one task.
type logSource struct {
	output []string // of each index that has started, in order: the index, a space and a line
	err    error

	mu       sync.Mutex
	requests []batch.TaskLogOptions
	arrived  chan struct{} // gets a value for each request
}

func newLogSource(output ...string) *logSource {
	return &logSource{output: output, arrived: make(chan struct{}, 100)}
}

// session returns a session with a server without archive that has the objects and the output.
func (l *logSource) session(objects ...runtime.Object) *session {
	s, client := fakeSession(objects...)
	withoutArchive(client)
	client.PrependReactor("get", "tasks/log", func(action clienttesting.Action) (bool, runtime.Object, error) {
		options := action.(fakebatch.GetLogsAction).Options
		l.mu.Lock()
		l.requests = append(l.requests, *options)
		l.mu.Unlock()
		l.arrived <- struct{}{}
		if l.err != nil {
			return true, nil, l.err
		}
		wanted, err := indexes.Parse(options.Indexes, maxCompletions)
		if err != nil {
			return true, nil, err
		}
		var raw bytes.Buffer
		for _, line := range l.output {
			index, text, _ := strings.Cut(line, " ")
			if n, _ := strconv.Atoi(index); len(wanted) > 0 && !indexes.Contains(wanted, n) {
				continue
			}
			if !options.Prefix {
				line = text
			}
			fmt.Fprintln(&raw, line)
		}
		return true, &runtime.Unknown{Raw: raw.Bytes()}, nil
	})
	return s
}

// withoutArchive lets the server answer as one that does not have the subresources of the archive.
func withoutArchive(client *fake.Clientset) {
	notServed := func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewGenericServerResponse(http.StatusNotFound, "", schema.GroupResource{}, "", "", 0, false)
	}
	client.PrependReactor("get", "tasksets/log", notServed)
	client.PrependReactor("get", "tasksets/records", notServed)
	client.PrependReactor("get", "tasks/records", notServed)
}

// asked returns the indexes of the requests.
func (l *logSource) asked(t *testing.T) []string {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	var asked []string
	for _, options := range l.requests {
		if !options.Prefix {
			t.Errorf("a request for %q has no prefix", options.Indexes)
		}
		asked = append(asked, options.Indexes)
	}
	return asked
}

func TestLogsOfASetWithSeveralIndexesInOneTask(t *testing.T) {
	set := chunkedSet()
	set.Spec.IndexNumbers = &batch.IndexNumbers{First: ptr.To[int32](1)}
	set.Status.CompletedIndexes = "0-3"
	running := chunkOf(set, "4-9,20-29", batch.TaskRunning, 2, 0)
	failed := chunkOf(set, "4-9", batch.TaskFailed, 2, 0)
	many := chunkOf(set, "1000-1999", batch.TaskRunning, 998, 0)
	var odd []indexes.Range
	for i := 1001; i < 2000; i += 2 {
		odd = append(odd, single(i)...)
	}
	gone := apierrors.NewGone("worker w is not there any more; its last lines, from the status:\nthe end")
	for _, test := range []struct {
		name        string
		task        *batch.Task
		chosen      []indexes.Range
		source      *logSource
		asked       []string
		out, errOut string
		failed      bool
	}{
		{name: "all", task: running, source: newLogSource("4 a b", "4 c", "5 ", "6 7 d"), asked: []string{""},
			out: "[s/5] a b\n[s/5] c\n[s/6] \n[s/7] 7 d\n", errOut: "4 indexes have succeeded and are gone, with what they printed: 1-4.\n93 indexes have not run: 8-100.\n"},
		{name: "one that has succeeded", task: running, chosen: single(5), source: newLogSource("4 a", "5 b"), asked: []string{"5"}, out: "[s/6] b\n"},
		{name: "one without output", task: running, chosen: single(5), source: newLogSource("4 a"), asked: []string{"5"}, errOut: "No output to show: index 6.\n"},
		{name: "several", task: running, chosen: []indexes.Range{{First: 0, Last: 4}, {First: 6, Last: 6}}, source: newLogSource("4 a", "5 b", "6 c"), asked: []string{"4,6"},
			out: "[s/5] a\n[s/7] c\n", errOut: "4 indexes have succeeded and are gone, with what they printed: 1-4.\n"},
		{name: "one that has started since the last status", task: running, chosen: single(8), source: newLogSource("8 a"), asked: []string{"8"}, out: "[s/9] a\n"},
		{name: "one that waits", task: running, chosen: single(8), source: &logSource{err: gone, arrived: make(chan struct{}, 1)}, asked: []string{"8"}, errOut: "1 index has not run: 9.\n"},
		{name: "the one that has failed, of a lost worker", task: failed, chosen: single(6), source: &logSource{err: gone, arrived: make(chan struct{}, 1)}, asked: []string{"6"},
			out: "[s/7] the end\n", errOut: "The output of task/" + failed.Name + " cannot be read: …"},
		{name: "one that was released", task: failed, chosen: single(7), source: newLogSource(), errOut: "1 index has not run: 8.\n"},
		{name: "more than fit into a request", task: many, chosen: odd, source: newLogSource("1996 a", "1997 b", "1998 c"), asked: []string{""}, out: "[s/1998] b\n",
			errOut: "No output to show: indexes 1002,1004,1006…"},
	} {
		t.Run(test.name, func(t *testing.T) {
			streams, _, out, errOut := genericiooptions.NewTestIOStreams()
			l := &setLogs{factory: &factory{program: "leat", streams: streams}, s: test.source.session(test.task), set: set, lines: &lineWriter{out: streams.Out}, chosen: test.chosen}
			if err := l.show(t.Context()); (err != nil) != test.failed {
				t.Errorf("got %v", err)
			}
			if diff := cmp.Diff(test.asked, test.source.asked(t)); diff != "" {
				t.Errorf("asked: want -, got +:\n%s", diff)
			}
			wantErr, isPart := strings.CutSuffix(test.errOut, "…")
			if out.String() != test.out || errOut.String() != wantErr && !(isPart && strings.HasPrefix(errOut.String(), wantErr)) {
				t.Errorf("got %q and %q, want %q and %q", out, errOut, test.out, test.errOut)
			}
		})
	}
}

// One request reads a whole run of a task with several indexes. The run after an eviction begins with the index that
// did not end.
func TestFollowingSeveralIndexesInOneTask(t *testing.T) {
	for _, test := range []struct {
		name        string
		chosen      []indexes.Range
		completed   string // of the set at the end
		asked       []string
		out, errOut string
	}{
		{"all", nil, "0-6", []string{"", "6"}, "[s/4] a\n[s/5] b\n[s/6] c\n[s/6] c\n", ""},
		{"one that ends before the eviction", single(4), "0-6", []string{"4"}, "[s/4] a\n", ""},
		{"one that runs again", single(6), "0-6", []string{"6", "6"}, "[s/6] c\n[s/6] c\n", ""},
		{"one that was released and missed", single(8), "0-6,8", []string{"8"}, "",
			"1 index has ended and been deleted before what was printed could be read: 8. --max-log-requests, 5 now, is how many tasks are read at a time.\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			set := chunkedSet()
			set.Status.CompletedIndexes = "0-4"
			task := chunkOf(set, "4-9", batch.TaskRunning, 1, 0)
			source := newLogSource("4 a", "5 b", "6 c")
			s := source.session(task, set)
			streams, _, out, errOut := genericiooptions.NewTestIOStreams()
			ended := make(chan struct{})
			l := &setLogs{
				factory: &factory{program: "leat", streams: streams}, s: s, set: set, lines: &lineWriter{out: streams.Out}, chosen: test.chosen, limit: 5, ended: ended,
				options: batch.TaskLogOptions{Follow: true},
			}
			followed := make(chan error, 1)
			go func() { followed <- l.follow(t.Context()) }()
			<-source.arrived

			again := chunkOf(set, "4-9", batch.TaskRunning, 2, 3)
			again.Status.Disruptions, again.Status.Attempts = 1, 2
			if _, err := s.api.Tasks("default").Update(t.Context(), again, metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
			final := set.DeepCopy()
			final.Status.CompletedIndexes = test.completed
			if _, err := s.api.TaskSets("default").Update(t.Context(), final, metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
			close(ended)
			if err := <-followed; err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.asked, source.asked(t)); diff != "" {
				t.Errorf("asked: want -, got +:\n%s", diff)
			}
			before := "4 indexes have succeeded before and are gone, with what they printed: 0-3.\n"
			if test.chosen != nil {
				before = ""
			}
			// Here, the first run may still be printed while the second begins.
			lines := strings.Join(slices.Sorted(strings.Lines(out.String())), "")
			if lines != test.out || errOut.String() != before+test.errOut {
				t.Errorf("got %q and %q, want %q and %q", lines, errOut, test.out, before+test.errOut)
			}
		})
	}
}

func TestLogsOfATaskWithSeveralIndexes(t *testing.T) {
	set := chunkedSet()
	set.Spec.IndexNumbers = &batch.IndexNumbers{First: ptr.To[int32](1), Step: ptr.To[int32](10)}
	task := chunkOf(set, "4-9", batch.TaskSucceeded, 3, 0)
	source := newLogSource("4 a", "5 b", "6 c")
	for _, test := range []struct {
		name, index, out string
		code             int
		want             string
	}{
		{name: "all", out: "[s/41] a\n[s/51] b\n[s/61] c\n"},
		{name: "one", index: "51", out: "[s/51] b\n"},
		{name: "one of another task", index: "31,41", code: exitUsage, want: "task/x has no index 31: its indexes are 41,51,61"},
	} {
		for _, follow := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, follow %t", test.name, follow), func(t *testing.T) {
				streams, _, out, _ := genericiooptions.NewTestIOStreams()
				f := &factory{program: "leat", streams: streams}
				numbers, err := parseNumbers(test.index)
				if err != nil {
					t.Fatal(err)
				}
				logs := taskLogs{factory: f, s: source.session(task), out: streams.Out}
				if logs.chosen, err = chosenInTask(task, numbers); err == nil {
					if follow {
						err = logs.follow(t.Context(), task)
					} else {
						err = logs.show(t.Context(), task)
					}
				}
				if test.code != 0 {
					if coded, ok := err.(*exitError); !ok || coded.code != test.code || strings.ReplaceAll(err.Error(), task.Name, "x") != test.want {
						t.Errorf("got %v, want %s", err, test.want)
					}
				} else if err != nil {
					t.Error(err)
				}
				if out.String() != test.out {
					t.Errorf("got %q, want %q", out, test.out)
				}
			})
		}
	}
}
