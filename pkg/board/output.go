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

package board

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/rest"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/cli/sanitize"
	"github.com/leat-dev/leat/pkg/cli/taskstate"
)

const (
	// maxOutputLines is how many lines are sent, of a search and of all indexes together. Of one index, all are sent.
	maxOutputLines = 2000
	// maxLine is the largest number of bytes of a line that is sent.
	maxLine = 8 << 10
	// tailOfEach is how many lines of each index are read when all are shown.
	tailOfEach = 20
)

// serveOutput sends the output of a set as lines of text: the number of the index, a tab, and what was printed. Lines
// of Leat itself have no number. The output of a running command is followed until it ends.
//
// Parameters: namespace, name; index, a position in the set, all if it is empty; search, a text that lines must have.
func (b *Board) serveOutput(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	set := b.store.set(query.Get("namespace"), query.Get("name"))
	if set == nil {
		http.NotFound(w, r)
		return
	}
	index := -1
	if text := query.Get("index"); text != "" {
		parsed, err := strconv.ParseUint(text, 10, 31)
		if err != nil {
			http.Error(w, "index: write one index, like 7", http.StatusBadRequest)
			return
		}
		index = int(parsed)
	}
	select {
	case b.outputs <- struct{}{}:
		defer func() { <-b.outputs }()
	default:
		http.Error(w, fmt.Sprintf("%d outputs are being read: end one of them", maxOutputs), http.StatusTooManyRequests)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	lines := &lineSender{
		out: w, flush: http.NewResponseController(w).Flush, numbers: taskstate.Numbers(set), search: strings.ToLower(query.Get("search")),
	}
	if index < 0 || lines.search != "" {
		lines.limit = maxOutputLines
	}
	if err := b.copyOutput(r.Context(), set, index, lines); err != nil && r.Context().Err() == nil {
		lines.remark(describeOutput(err))
	}
}

// describeOutput returns the text for an error of a request for output.
func describeOutput(err error) string {
	switch {
	case errors.Is(err, errEnough):
		return fmt.Sprintf("The first %d lines are shown: search for a text, or choose an index.", maxOutputLines)
	case apierrors.IsForbidden(err):
		return "You may not read output here."
	case apierrors.IsGone(err):
		return "The output is not kept."
	}
	return err.Error()
}

func (b *Board) copyOutput(ctx context.Context, set *batch.TaskSet, index int, lines *lineSender) error {
	if index >= 0 && lines.search == "" {
		if task := b.running(set, index); task != nil {
			return lines.copy(ctx, b.follow(task, index), index)
		}
	}
	options := &batch.TaskLogOptions{Prefix: true}
	switch {
	case index >= 0:
		options.Indexes = strconv.Itoa(index)
	case lines.search == "":
		options.TailLines = new(int64(tailOfEach))
	}
	if err := lines.copy(ctx, b.client.BatchV1alpha1().TaskSets(set.Namespace).GetLogs(set.Name, options), -1); err != nil {
		return err
	}
	if lines.sent == 0 {
		lines.remark(nothingText(lines.search))
	}
	return nil
}

func nothingText(search string) string {
	if search != "" {
		return "No line has this text."
	}
	return "Nothing was printed."
}

// running returns the task that runs the index now, or nil.
func (b *Board) running(set *batch.TaskSet, index int) *batch.Task {
	for _, task := range b.store.tasksOf(set) {
		if current, ok := taskstate.CurrentIndex(task); ok && current == index && task.Status.Phase == batch.TaskRunning {
			return task
		}
	}
	return nil
}

func (b *Board) follow(task *batch.Task, index int) *rest.Request {
	options := &batch.TaskLogOptions{Follow: true}
	if taskstate.IsChunk(task) {
		options.Indexes = strconv.Itoa(index)
	}
	return b.client.BatchV1alpha1().Tasks(task.Namespace).GetLogs(task.Name, options)
}

// errEnough is the error of lineSender when it has sent as many lines as it may.
var errEnough = errors.New("enough lines")

// lineSender sends lines of output.
type lineSender struct {
	out     io.Writer
	flush   func() error
	numbers *batch.IndexNumbers
	search  string // in lower case
	limit   int    // 0 for none
	sent    int
}

// copy sends the output that a request returns. Lines begin with the index and a space unless all are of one index.
func (l *lineSender) copy(ctx context.Context, request *rest.Request, index int) error {
	stream, err := request.MaxRetries(1).Stream(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = stream.Close() }()
	reader := bufio.NewReaderSize(stream, 64<<10)
	for {
		if reader.Buffered() == 0 {
			if err := l.flush(); err != nil {
				return err
			}
		}
		line, err := readLine(reader)
		if err == nil || len(line) > 0 {
			if err := l.send(line, index); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("the output breaks off: %w", err)
		}
	}
}

// readLine returns the next line without its end. It drops what is longer than the buffer of the reader.
func readLine(reader *bufio.Reader) ([]byte, error) {
	line, err := reader.ReadSlice('\n')
	if !errors.Is(err, bufio.ErrBufferFull) {
		if err == nil {
			line = line[:len(line)-1]
		}
		return line, err
	}
	line = bytes.Clone(line)
	for errors.Is(err, bufio.ErrBufferFull) {
		_, err = reader.ReadSlice('\n')
	}
	return line, err
}

func (l *lineSender) send(line []byte, index int) error {
	text := string(line)
	if index < 0 {
		prefix, rest, _ := strings.Cut(text, " ")
		parsed, err := strconv.ParseUint(prefix, 10, 31)
		if err != nil {
			l.remark(text)
			return nil
		}
		index, text = int(parsed), rest
	}
	text = sanitize.Truncate(sanitize.Line(text), maxLine)
	if l.search != "" && !strings.Contains(strings.ToLower(text), l.search) {
		return nil
	}
	if l.limit > 0 && l.sent == l.limit {
		return errEnough
	}
	l.sent++
	_, err := fmt.Fprintf(l.out, "%d %d\t%s\n", index, l.numbers.Number(index), text)
	return err
}

// remark sends a line that no command has printed.
func (l *lineSender) remark(text string) {
	_, _ = fmt.Fprintf(l.out, "\t%s\n", sanitize.Line(text))
}
