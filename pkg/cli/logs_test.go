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
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"

	"github.com/leat-dev/leat/apis/batch/indexes"
	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/generated/clientset/versioned"
)

func TestLinesOfTasksDoNotMix(t *testing.T) {
	var out bytes.Buffer
	l := &lineWriter{out: &out}
	const tasks, lines, length = 8, 20, 200_000
	var copying sync.WaitGroup
	for task := range tasks {
		copying.Go(func() {
			reader, writer := io.Pipe()
			go func() {
				for range lines {
					_, _ = io.WriteString(writer, strings.Repeat(string(rune('a'+task)), length)+"\n")
				}
				_ = writer.Close()
			}()
			if err := l.copyLines(reader, constantLabel(fmt.Sprintf("[s/%d] ", task))); err != nil {
				t.Error(err)
			}
		})
	}
	copying.Wait()
	count := 0
	for line := range strings.Lines(out.String()) {
		count++
		var task int
		var text string
		if n, err := fmt.Sscanf(line, "[s/%d] %s\n", &task, &text); n != 2 || err != nil || text != strings.Repeat(string(rune('a'+task)), length) {
			t.Fatalf("line %d of %d bytes begins with %.40q", count, len(line), line)
		}
	}
	if count != tasks*lines {
		t.Errorf("%d lines, want %d", count, tasks*lines)
	}
}

func TestLongLinesAreSplitBetweenCharacters(t *testing.T) {
	// Characters of three bytes do not align with any buffer.
	long := strings.Repeat("€", maxHeldLine)
	var out bytes.Buffer
	l := &lineWriter{out: &out}
	if err := l.copyLines(strings.NewReader("short\n"+long+"\n\nlast"), constantLabel("[s/1] ")); err != nil {
		t.Fatal(err)
	}
	got := slices.Collect(strings.Lines(out.String()))
	if len(got) != 6 || got[0] != "[s/1] short\n" || got[4] != "[s/1] \n" || got[5] != "[s/1] last\n" {
		t.Fatalf("got %d lines, from %.40q", len(got), got)
	}
	joined := ""
	for i, line := range got[1:4] {
		lead := "[s/1] "
		if i > 0 {
			lead += "… "
		}
		text, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), lead)
		if !ok {
			t.Errorf("part %d begins with %.20q", i, line)
		}
		joined += text
	}
	if joined != long {
		t.Errorf("%d bytes are joined to %d", len(long), len(joined))
	}
}

func TestWholeCharacters(t *testing.T) {
	const text = "a€𝄞é"
	for n := range len(text) + 1 {
		want := text[:n]
		for !slices.Contains([]string{"", "a", "a€", "a€𝄞", text}, want) {
			want = want[:len(want)-1]
		}
		for name, reader := range map[string]io.Reader{"at once": strings.NewReader(text[:n]), "byte by byte": iotest.OneByteReader(strings.NewReader(text[:n]))} {
			var out bytes.Buffer
			if _, err := io.Copy(&wholeCharacters{out: &out}, reader); err != nil || out.String() != want {
				t.Errorf("%d bytes, %s: got %q, %v, want %q", n, name, out.String(), err, want)
			}
		}
	}
	// Bytes that are not UTF-8 stay unchanged.
	var out bytes.Buffer
	if _, err := (&wholeCharacters{out: &out}).Write([]byte("\xff\x80\x80\x80\x80")); err != nil || out.Len() != 5 {
		t.Errorf("got %q, %v", out.String(), err)
	}
}

func TestLogsOfIndexesWithoutOutput(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/tasksets/s/log") {
			http.NotFound(w, r) // a server without archive, behind a proxy
			return
		}
		if name, ok := strings.CutSuffix(path.Clean(r.URL.Path), "/log"); ok {
			if path.Base(name) == "s-1" {
				fmt.Fprintln(w, "hello")
			}
			return
		}
		list := batch.TaskList{TypeMeta: metav1.TypeMeta{APIVersion: batch.SchemeGroupVersion.String(), Kind: "TaskList"}}
		for index := range 4 {
			list.Items = append(list.Items, batch.Task{
				ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("s-%d", index), Labels: map[string]string{batch.LabelCompletionIndex: strconv.Itoa(index)}},
				Status:     batch.TaskStatus{Attempts: 1},
			})
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(list)
	}))
	defer server.Close()
	client, err := versioned.NewForConfig(&rest.Config{Host: server.URL, ContentConfig: rest.ContentConfig{ContentType: "application/json"}})
	if err != nil {
		t.Fatal(err)
	}
	s := &session{client: client, api: client.BatchV1alpha1(), namespace: "default"}
	set := &batch.TaskSet{ObjectMeta: metav1.ObjectMeta{Name: "s"}, Spec: batch.TaskSetSpec{Completions: ptr.To[int32](4)}}
	for _, test := range []struct {
		name        string
		chosen      []indexes.Range
		out, errOut string
	}{
		{"one without output", []indexes.Range{{First: 3, Last: 3}}, "", "No output to show: index 3.\n"},
		{"one with output", []indexes.Range{{First: 1, Last: 1}}, "[s/1] hello\n", ""},
		{"several", []indexes.Range{{First: 0, Last: 2}}, "[s/1] hello\n", "No output to show: indexes 0,2.\n"},
		{"all", nil, "[s/1] hello\n", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			streams, _, out, errOut := genericiooptions.NewTestIOStreams()
			l := &setLogs{factory: &factory{program: "leat", streams: streams}, s: s, set: set, lines: &lineWriter{out: streams.Out}, chosen: test.chosen}
			if err := l.show(t.Context()); err != nil {
				t.Fatal(err)
			}
			if out.String() != test.out || errOut.String() != test.errOut {
				t.Errorf("got %q and %q, want %q and %q", out, errOut, test.out, test.errOut)
			}
		})
	}
}
