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
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/leat-dev/leat/apis/batch/indexes"
	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/cli/progress"
	informers "github.com/leat-dev/leat/pkg/generated/informers/externalversions/batch/v1alpha1"
)

// defaultLogRequests is the default number of concurrent log requests.
const defaultLogRequests = 20

// logsOptions are the flags of "logs".
type logsOptions struct {
	*factory
	follow, timestamps, previous bool
	index                        string
	tail, limitBytes             int64
	since                        time.Duration
	maxLogRequests               int
}

const logsLong = `Print the output of a task's command, or of the commands of a set.

The output is read from the worker that ran the task, as long as the worker keeps it. If the worker cannot be reached, the last lines
of a failed task are shown from its status.

For a set, each line begins with the set and the index, and lines of different tasks do not mix. A line of more than 1 MiB is shown in
parts; each part but the first begins with an ellipsis.

Succeeded tasks of a set are deleted when they are counted, and their output with them. Use -f to see it while they run. The last 100
failed tasks are kept. If output is missing, a line at the end names the indexes.

kubectl logs supports only the kinds of Kubernetes itself.`

func (f *factory) newLogsCommand() *cobra.Command {
	o := &logsOptions{factory: f}
	command := &cobra.Command{
		Use: "logs NAME", GroupID: groupLook,
		Short: "Print the output of commands",
		Long:  logsLong,
		Example: `  leat logs -f @latest
  leat logs taskset/squares --index 5
  leat logs squares/5
  leat logs task/hello --tail 20 --timestamps`,
		Args: exactlyOne("task or set"), ValidArgsFunction: f.completeNames(kindTask, kindSet),
		RunE: func(command *cobra.Command, args []string) error { return o.run(command.Context(), args[0]) },
	}
	flags := command.Flags()
	flags.BoolVarP(&o.follow, "follow", "f", false, "Go on until the task or the set ends")
	flags.StringVar(&o.index, "index", "", "Of a set: only these indexes, like 5 or 0-4,7")
	flags.Int64Var(&o.tail, "tail", -1, "How many lines before the end to begin with; -1 for all")
	flags.DurationVar(&o.since, "since", 0, "Only lines that are newer, like 10s or 5m")
	flags.BoolVar(&o.timestamps, "timestamps", false, "Begin each line with its time")
	flags.BoolVarP(&o.previous, "previous", "p", false, "The attempt before the last one")
	flags.Int64Var(&o.limitBytes, "limit-bytes", 0, "How much of each task to show, at most; 0 for all")
	flags.IntVar(&o.maxLogRequests, "max-log-requests", defaultLogRequests, "Of a set: how many tasks to read from at a time")
	return command
}

func (o *logsOptions) run(ctx context.Context, name string) error {
	options := batch.TaskLogOptions{Follow: o.follow, Timestamps: o.timestamps, Previous: o.previous}
	switch {
	case o.tail < -1:
		return usageErrorf("--tail %d: write a number of lines, or -1 for all", o.tail)
	case o.limitBytes < 0:
		return usageErrorf("--limit-bytes %d: write a number of bytes, or 0 for all", o.limitBytes)
	case o.since < 0:
		return usageErrorf("--since %s: write how long ago, like 10s or 5m", o.since)
	case o.maxLogRequests < 1:
		return usageErrorf("--max-log-requests %d: write 1 or more", o.maxLogRequests)
	case o.previous && o.follow:
		return usageErrorf("--previous and --follow: an attempt that is over prints no more; write one of them")
	}
	if o.tail >= 0 {
		options.TailLines = &o.tail
	}
	if o.limitBytes > 0 {
		options.LimitBytes = &o.limitBytes
	}
	if o.since > 0 {
		whole := int64((o.since + time.Second - 1) / time.Second)
		options.SinceSeconds = &whole
	}
	numbers, err := parseNumbers(o.index)
	if err != nil {
		return err
	}
	s, err := o.connect()
	if err != nil {
		return err
	}
	found, err := s.find(ctx, name)
	if err != nil {
		return err
	}
	if found.task != nil {
		if o.index != "" {
			return usageErrorf("--index is for sets, and %s is one task", found.ref())
		}
		task := taskLogs{factory: o.factory, s: s, out: o.streams.Out, options: options}
		if o.follow {
			return wrapDeleted(found.ref(), task.follow(ctx, found.task))
		}
		return task.show(ctx, found.task)
	}
	chosen, err := chosenIndexes(found.set, numbers)
	switch {
	case err != nil:
		return err
	case found.index != nil && o.index != "":
		return usageErrorf("%s is one index: write --index %s with taskset/%s", name, o.index, found.set.Name)
	case found.index != nil:
		chosen = []indexes.Range{{First: *found.index, Last: *found.index}}
	}
	streams := &setLogs{factory: o.factory, s: s, set: found.set, out: o.streams.Out, options: options, chosen: chosen, limit: o.maxLogRequests}
	if !o.follow || finishedSet(found.set) != nil {
		return streams.show(ctx)
	}
	ended := make(chan struct{})
	streams.ended = ended
	watching, stop := context.WithCancel(ctx)
	defer stop()
	failed := make(chan error, 1)
	go func() {
		defer close(ended)
		failed <- s.watchSet(watching, found.set, func(set *batch.TaskSet) bool { return finishedSet(set) != nil })
	}()
	if err := streams.follow(ctx); err != nil {
		return err
	}
	return wrapDeleted(found.ref(), <-failed)
}

// taskLogs shows the output of one task.
type taskLogs struct {
	*factory
	s       *session
	out     io.Writer
	options batch.TaskLogOptions
}

// show prints the output so far. It returns an error if the task has not started.
func (l *taskLogs) show(ctx context.Context, task *batch.Task) error {
	if task.Status.Attempts == 0 && task.Status.StartTime == nil && !task.Status.Phase.Finished() {
		return fmt.Errorf("task/%s has not been started yet, and has printed nothing: -f waits for it, %s explain task/%s shows why it waits", task.Name, l.program, task.Name)
	}
	return l.stream(ctx, task)
}

// follow prints each attempt of the task, until the task ends.
func (l *taskLogs) follow(ctx context.Context, task *batch.Task) error {
	seen := int32(0)
	for {
		shown := seen
		err := l.s.watchTask(ctx, task, func(current *batch.Task) bool {
			task = current
			return current.Status.Attempts > seen || current.Status.Phase.Finished()
		})
		if err != nil {
			return err
		}
		if task.Status.Attempts > seen {
			seen = task.Status.Attempts
			if shown > 0 && seen > shown+1 {
				fmt.Fprintf(l.streams.ErrOut, "%s of task/%s ended before what it printed could be read.\n", plural(int(seen-shown-1), "attempt"), task.Name)
			}
			if err := l.stream(ctx, task); err != nil {
				return err
			}
			continue
		}
		return nil
	}
}

// stream prints one attempt. If the worker cannot return the output of a failed task, stream prints the last lines from
// its status.
func (l *taskLogs) stream(ctx context.Context, task *batch.Task) error {
	stream, err := l.s.api.Tasks(l.s.namespace).GetLogs(task.Name, &l.options).Stream(ctx)
	if err == nil {
		defer stream.Close()
		out := l.out
		if l.options.LimitBytes != nil {
			out = &wholeCharacters{out: out}
		}
		_, err = io.Copy(out, stream)
		return err
	}
	end := task.Status.State.Terminated
	if end == nil || end.Message == "" || l.options.Previous || ctx.Err() != nil {
		return err
	}
	// The server's message may include the last lines too.
	why, _, _ := strings.Cut(err.Error(), "; its last lines")
	fmt.Fprintf(l.streams.ErrOut, "The output of task/%s cannot be read: %s. Its last lines, from its status:\n", task.Name, why)
	text := []byte(end.Message)
	if !bytes.HasSuffix(text, []byte("\n")) {
		text = append(text, '\n')
	}
	_, err = l.out.Write(text)
	return err
}

// setLogs prints the output of the tasks of a set. show prints what exists, follow also waits for tasks that start.
type setLogs struct {
	*factory
	s       *session
	set     *batch.TaskSet
	out     io.Writer
	options batch.TaskLogOptions
	chosen  []indexes.Range // empty for all
	limit   int             // of concurrent requests
	ended   <-chan struct{} // closed when no more tasks will start; for follow only

	mu     sync.Mutex
	seen   map[types.UID]int32 // the last attempt that was started to be shown, by task
	shown  []int               // indexes with shown output
	missed int                 // attempts that were deleted before they were read
}

func (l *setLogs) selector() string {
	return labels.SelectorFromSet(labels.Set{batch.LabelControllerUID: string(l.set.UID)}).String()
}

// selectedIndex returns the index of the task, and whether its output is selected.
func (l *setLogs) selectedIndex(task *batch.Task) (int, bool) {
	index, err := strconv.Atoi(task.Labels[batch.LabelCompletionIndex])
	if err != nil {
		return 0, false
	}
	return index, len(l.chosen) == 0 || indexes.Contains(l.chosen, index)
}

// tasks lists the selected tasks that have started, sorted by index.
func (l *setLogs) tasks(ctx context.Context) ([]batch.Task, error) {
	list, err := l.s.api.Tasks(l.s.namespace).List(ctx, metav1.ListOptions{LabelSelector: l.selector()})
	if err != nil {
		return nil, err
	}
	tasks := slices.DeleteFunc(list.Items, func(task batch.Task) bool {
		_, selected := l.selectedIndex(&task)
		return !selected || task.Status.Attempts == 0
	})
	slices.SortFunc(tasks, func(a, b batch.Task) int {
		indexA, _ := l.selectedIndex(&a)
		indexB, _ := l.selectedIndex(&b)
		if indexA != indexB {
			return indexA - indexB
		}
		return a.CreationTimestamp.Compare(b.CreationTimestamp.Time)
	})
	return tasks, nil
}

// show prints the output so far, in the order of the indexes, and reports the indexes without output.
func (l *setLogs) show(ctx context.Context) error {
	tasks, err := l.tasks(ctx)
	if err != nil {
		return err
	}
	l.options.Follow = false
	failed := 0
	var present, printed []int
	for i := range tasks {
		index, _ := l.selectedIndex(&tasks[i])
		present = append(present, index)
		some, err := l.stream(ctx, &tasks[i])
		if err != nil {
			failed++
			fmt.Fprintln(l.streams.ErrOut, l.describe(err))
		}
		if some || err != nil {
			printed = append(printed, index)
		}
	}
	// Users who ask for single indexes expect output of each.
	if silent := indexes.Subtract(indexes.Of(present), indexes.Of(printed)); len(l.chosen) > 0 && len(silent) > 0 {
		fmt.Fprintf(l.streams.ErrOut, "No output to show: %s.\n", describeIndexes(l.set, silent))
	}
	succeeded, lost, rest := l.missingIndexes(indexes.Of(present))
	l.reportMissing(succeeded, "succeeded and %s gone, with what %s printed")
	l.reportMissing(lost, "failed and %s gone, with what %s printed")
	if n := indexes.Count(rest); n > 0 {
		fmt.Fprintf(l.streams.ErrOut, "%s not run: %s.\n", pluralHave(n, "task"), describeIndexes(l.set, rest))
	}
	if failed > 0 {
		return fmt.Errorf("the output of %s cannot be read", plural(failed, "task"))
	}
	return nil
}

// missingIndexes returns the selected indexes that are not present: those that have succeeded, those that have failed
// for good, and the rest.
func (l *setLogs) missingIndexes(present []indexes.Range) (succeeded, failed, rest []indexes.Range) {
	selected := l.chosen
	if len(selected) == 0 && l.set.Spec.Completions != nil {
		selected = []indexes.Range{{First: 0, Last: completionsOf(l.set) - 1}}
	}
	completed, err := completedOf(l.set)
	if err != nil {
		return nil, nil, nil
	}
	if len(selected) == 0 {
		selected = completed
	}
	selected = indexes.Subtract(selected, present)
	lost, _ := failedIndexes(l.set)
	succeeded, failed = indexes.Intersect(selected, completed), indexes.Intersect(selected, lost)
	return succeeded, failed, indexes.Subtract(selected, indexes.Union(succeeded, failed))
}

// reportMissing prints why indexes have no output. what has two verbs for the number of tasks.
func (l *setLogs) reportMissing(of []indexes.Range, what string) {
	switch n := indexes.Count(of); n {
	case 0:
	case 1:
		fmt.Fprintf(l.streams.ErrOut, "1 task has "+what+": %s.\n", "is", "it", describeIndexes(l.set, of))
	default:
		fmt.Fprintf(l.streams.ErrOut, "%d tasks have "+what+": %s.\n", n, "are", "they", describeIndexes(l.set, of))
	}
}

func pluralHave(n int, what string) string {
	if n == 1 {
		return plural(n, what) + " has"
	}
	return plural(n, what) + " have"
}

// follow prints the output of tasks that run or start, until ended is closed and all output has been printed.
func (l *setLogs) follow(ctx context.Context) error {
	l.seen = map[types.UID]int32{}
	before, _, _ := l.missingIndexes(nil)
	l.reportMissing(before, "succeeded before and %s gone, with what %s printed")
	slots := make(chan struct{}, l.limit)
	var streams sync.WaitGroup
	start := func(task *batch.Task) {
		if _, selected := l.selectedIndex(task); !selected || !l.markSeen(task) {
			return
		}
		streams.Go(func() {
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				return
			}
			defer func() { <-slots }()
			_, err := l.stream(ctx, task)
			l.mu.Lock()
			defer l.mu.Unlock()
			switch {
			case objectNotFound(err):
				l.missed++
			case err != nil && ctx.Err() == nil:
				fmt.Fprintln(l.streams.ErrOut, l.describe(err))
				fallthrough
			default:
				index, _ := l.selectedIndex(task)
				l.shown = append(l.shown, index)
			}
		})
	}
	informer := informers.NewTypedFilteredTaskInformer(l.s.client, l.s.namespace, 0, nil, func(o *metav1.ListOptions) { o.LabelSelector = l.selector() })
	_, err := informer.AddTypedEventHandler(informers.TaskHandlerFuncs{
		AddFunc:    start,
		UpdateFunc: func(_, task *batch.Task) { start(task) },
	})
	if err != nil {
		return err
	}
	watching, stop := context.WithCancel(ctx)
	var watcher sync.WaitGroup
	watcher.Go(func() { informer.RunWithContext(watching) })
	select {
	case <-l.ended:
	case <-ctx.Done():
	}
	stop()
	watcher.Wait()
	if ctx.Err() != nil {
		streams.Wait()
		return ctx.Err()
	}
	// The informer may have stopped before it saw the last tasks.
	tasks, err := l.tasks(ctx)
	if err != nil {
		return err
	}
	for i := range tasks {
		start(&tasks[i])
	}
	streams.Wait()
	return l.reportMissed(ctx, before)
}

// reportMissed prints how many tasks ended before their output could be read. before are indexes that had ended when
// follow began.
func (l *setLogs) reportMissed(ctx context.Context, before []indexes.Range) error {
	set, err := l.s.api.TaskSets(l.s.namespace).Get(ctx, l.set.Name, metav1.GetOptions{})
	if err != nil && !objectNotFound(err) {
		return err
	}
	count, which := l.missed, ""
	if err == nil && set.UID == l.set.UID {
		l.set = set
		slices.Sort(l.shown)
		succeeded, failed, _ := l.missingIndexes(indexes.Union(indexes.Of(l.shown), before))
		if missed := indexes.Union(succeeded, failed); len(missed) > 0 {
			count, which = max(count, indexes.Count(missed)), ": "+describeIndexes(l.set, missed)
		}
	}
	if count > 0 {
		fmt.Fprintf(l.streams.ErrOut, "%s ended and been deleted before what was printed could be read%s. --max-log-requests, %d now, is how many are read at a time.\n",
			pluralHave(count, "task"), which, l.limit)
	}
	return nil
}

// markSeen records the current attempt of the task. It reports whether the attempt is new.
func (l *setLogs) markSeen(task *batch.Task) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	seen := l.seen[task.UID]
	if task.Status.Attempts <= seen {
		return false
	}
	if seen > 0 {
		l.missed += int(task.Status.Attempts - seen - 1)
	}
	l.seen[task.UID] = task.Status.Attempts
	return true
}

// stream prints one attempt, with the set and the index in front of each line. It reports whether there was any output.
func (l *setLogs) stream(ctx context.Context, task *batch.Task) (printed bool, err error) {
	index, _ := l.selectedIndex(task)
	prefix := fmt.Sprintf("[%s/%d] ", l.set.Name, numbersOf(l.set).Number(index))
	if progress.IsTerminal(l.streams.Out) && os.Getenv("NO_COLOR") == "" {
		prefix = fmt.Sprintf("\x1b[%dm%s\x1b[0m", 31+index%6, prefix)
	}
	reader, writer := io.Pipe()
	var copying sync.WaitGroup
	copying.Go(func() {
		err := l.copyLines(reader, prefix)
		reader.CloseWithError(err)
	})
	out := &countingWriter{out: writer}
	one := taskLogs{factory: l.factory, s: l.s, out: out, options: l.options}
	err = one.stream(ctx, task)
	_ = writer.Close()
	copying.Wait()
	if apierrors.IsNotFound(err) && !objectNotFound(err) {
		err = fmt.Errorf("task/%s: %w", task.Name, err)
	}
	return out.n > 0, err
}

// countingWriter counts the bytes that it writes to out.
type countingWriter struct {
	out io.Writer
	n   int64
}

func (w *countingWriter) Write(p []byte) (int, error) {
	n, err := w.out.Write(p)
	w.n += int64(n)
	return n, err
}

// maxHeldLine is the number of bytes of an incomplete line that are buffered for each stream.
const maxHeldLine = 1 << 20

// copyLines copies whole lines, so that lines of different tasks do not mix. A line longer than maxHeldLine is written
// in parts of whole characters.
func (l *setLogs) copyLines(from io.Reader, prefix string) error {
	reader := bufio.NewReaderSize(from, 64<<10)
	lead := prefix
	var text []byte
	for {
		part, err := reader.ReadSlice('\n')
		text = append(text, part...)
		goesOn := errors.Is(err, bufio.ErrBufferFull)
		switch {
		case err != nil && !goesOn && !errors.Is(err, io.EOF):
			return err
		case goesOn && len(text) < maxHeldLine:
			continue
		}
		whole := len(text)
		if goesOn {
			whole -= cutCharacter(text)
		}
		// The last part may consist of the line feed alone. Every part has got one already.
		if whole > 0 && (lead == prefix || string(text) != "\n") {
			if err := l.writeLine(lead, text[:whole]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		text = append(text[:0], text[whole:]...)
		lead = prefix
		if goesOn {
			lead += "… "
		}
	}
}

// writeLine writes lead and text as one line. It adds a line feed if there is none.
func (l *setLogs) writeLine(lead string, text []byte) error {
	line := append([]byte(lead), text...)
	if !bytes.HasSuffix(line, []byte("\n")) {
		line = append(line, '\n')
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	_, err := l.out.Write(line)
	return err
}

// cutCharacter returns the length of an incomplete character at the end of the text.
func cutCharacter(text []byte) int {
	for n := 1; n < utf8.UTFMax && n <= len(text); n++ {
		if tail := text[len(text)-n:]; utf8.RuneStart(tail[0]) {
			if utf8.FullRune(tail) {
				return 0
			}
			return n
		}
	}
	return 0
}

// wholeCharacters is a writer that drops an incomplete character at the end of the stream.
type wholeCharacters struct {
	out  io.Writer
	held []byte
}

func (w *wholeCharacters) Write(p []byte) (int, error) {
	text := append(w.held, p...)
	whole := len(text) - cutCharacter(text)
	w.held = bytes.Clone(text[whole:])
	_, err := w.out.Write(text[:whole])
	return len(p), err
}
