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

// defaultLogRequests is of how many tasks logs are read at a time.
const defaultLogRequests = 20

type logsOptions struct {
	*factory
	follow, timestamps, previous bool
	index                        string
	tail, limitBytes             int64
	since                        time.Duration
	maxLogRequests               int
}

const logsLong = `Show what the command of a task, or of the tasks of a set, has printed.

The output is read from the worker that ran the task, as long as it keeps it. Where a worker cannot be reached, the last lines of
a task that has failed are shown: they are in its status.

Of a set, each line begins with the set and the index, and lines of several tasks do not mix. A line of more than 1 MiB is shown in
parts, which begin with an ellipsis but for the first. Tasks that have succeeded are deleted once they are counted, and their logs are
gone with them: what they print is seen with -f while they run. The last 100 tasks that have failed are kept. Which output is missing is
said at the end.

kubectl logs knows the kinds of Kubernetes itself only, and cannot be taught others.`

func (f *factory) newLogsCommand() *cobra.Command {
	o := &logsOptions{factory: f}
	command := &cobra.Command{
		Use: "logs NAME", GroupID: groupLook,
		Short: "Show what commands have printed",
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

// show shows what there is.
func (l *taskLogs) show(ctx context.Context, task *batch.Task) error {
	if task.Status.Attempts == 0 && task.Status.StartTime == nil && !finishedTask(task) {
		return fmt.Errorf("task/%s has not been started yet, and has printed nothing: -f waits for it, %s explain task/%s says why it waits", task.Name, l.program, task.Name)
	}
	return l.stream(ctx, task)
}

// follow waits for each attempt of the task and shows it, until the task ends.
func (l *taskLogs) follow(ctx context.Context, task *batch.Task) error {
	seen := int32(0)
	for {
		shown := seen
		err := l.s.watchTask(ctx, task, func(current *batch.Task) bool {
			task = current
			return current.Status.Attempts > seen || finishedTask(current)
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

// stream shows one attempt. If its worker does not give the output, the last lines in the status do for a task that has failed.
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
	// The server may tell the last lines too.
	why, _, _ := strings.Cut(err.Error(), "; its last lines")
	fmt.Fprintf(l.streams.ErrOut, "The output of task/%s cannot be read: %s. Its last lines, from its status:\n", task.Name, why)
	text := []byte(end.Message)
	if !bytes.HasSuffix(text, []byte("\n")) {
		text = append(text, '\n')
	}
	_, err = l.out.Write(text)
	return err
}

// setLogs shows the output of the tasks of a set.
type setLogs struct {
	*factory
	s       *session
	set     *batch.TaskSet
	out     io.Writer
	options batch.TaskLogOptions
	chosen  []indexes.Range // none for all
	limit   int             // of tasks at a time
	ended   <-chan struct{} // closed when no more tasks will start

	mu    sync.Mutex
	seen  map[types.UID]int32 // attempts that were shown or are due
	shown []int               // indexes of which something was shown
	late  int                 // attempts that were over before their turn
}

func (l *setLogs) selector() string {
	return labels.SelectorFromSet(labels.Set{batch.LabelControllerUID: string(l.set.UID)}).String()
}

// wants returns the index of the task, and reports whether the task is among those to show.
func (l *setLogs) wants(task *batch.Task) (int, bool) {
	index, err := strconv.Atoi(task.Labels[batch.LabelCompletionIndex])
	if err != nil {
		return 0, false
	}
	return index, len(l.chosen) == 0 || indexes.Contains(l.chosen, index)
}

func (l *setLogs) tasks(ctx context.Context) ([]batch.Task, error) {
	list, err := l.s.api.Tasks(l.s.namespace).List(ctx, metav1.ListOptions{LabelSelector: l.selector()})
	if err != nil {
		return nil, err
	}
	tasks := slices.DeleteFunc(list.Items, func(task batch.Task) bool {
		_, wanted := l.wants(&task)
		return !wanted || task.Status.Attempts == 0
	})
	slices.SortFunc(tasks, func(a, b batch.Task) int {
		indexA, _ := l.wants(&a)
		indexB, _ := l.wants(&b)
		if indexA != indexB {
			return indexA - indexB
		}
		return a.CreationTimestamp.Compare(b.CreationTimestamp.Time)
	})
	return tasks, nil
}

// show shows what there is, by index.
func (l *setLogs) show(ctx context.Context) error {
	tasks, err := l.tasks(ctx)
	if err != nil {
		return err
	}
	l.options.Follow = false
	failed := 0
	for i := range tasks {
		if err := l.stream(ctx, &tasks[i]); err != nil {
			failed++
			fmt.Fprintln(l.streams.ErrOut, l.describe(err))
		}
	}
	var present []int
	for i := range tasks {
		index, _ := l.wants(&tasks[i])
		present = append(present, index)
	}
	succeeded, lost, rest := l.absent(indexes.Of(present))
	l.report(succeeded, "succeeded and %s gone, with what %s printed")
	l.report(lost, "failed and %s gone, with what %s printed")
	if n := indexes.Count(rest); n > 0 {
		fmt.Fprintf(l.streams.ErrOut, "%s not run: index %s.\n", pluralHave(n, "task"), l.numbers(rest))
	}
	if failed > 0 {
		return fmt.Errorf("the output of %s cannot be read", plural(failed, "task"))
	}
	return nil
}

// absent returns which of the indexes to show are not present: those that have succeeded, those that have failed for good, and the rest.
func (l *setLogs) absent(present []indexes.Range) (succeeded, failed, rest []indexes.Range) {
	wanted := l.chosen
	if len(wanted) == 0 && l.set.Spec.Completions != nil {
		wanted = []indexes.Range{{First: 0, Last: completionsOf(l.set) - 1}}
	}
	completed, err := completedOf(l.set)
	if err != nil {
		return nil, nil, nil
	}
	if len(wanted) == 0 {
		wanted = completed
	}
	wanted = indexes.Subtract(wanted, present)
	lost, _ := failedIndexes(l.set)
	succeeded, failed = indexes.Intersect(wanted, completed), indexes.Intersect(wanted, lost)
	return succeeded, failed, indexes.Subtract(wanted, indexes.Union(succeeded, failed))
}

func (l *setLogs) numbers(of []indexes.Range) string { return formatNumbers(l.set, of) }

// report prints what has become of indexes of which nothing is shown.
func (l *setLogs) report(of []indexes.Range, what string) {
	switch n := indexes.Count(of); n {
	case 0:
	case 1:
		fmt.Fprintf(l.streams.ErrOut, "1 task has "+what+": index %s.\n", "is", "it", l.numbers(of))
	default:
		fmt.Fprintf(l.streams.ErrOut, "%d tasks have "+what+": index %s.\n", n, "are", "they", l.numbers(of))
	}
}

func pluralHave(n int, what string) string {
	if n == 1 {
		return plural(n, what) + " has"
	}
	return plural(n, what) + " have"
}

// follow shows the tasks that run and those that start, until ended is closed and all is shown.
func (l *setLogs) follow(ctx context.Context) error {
	l.seen = map[types.UID]int32{}
	before, _, _ := l.absent(nil)
	l.report(before, "succeeded before and %s gone, with what %s printed")
	places := make(chan struct{}, l.limit)
	var streams sync.WaitGroup
	take := func(task *batch.Task) {
		if _, wanted := l.wants(task); !wanted || !l.due(task) {
			return
		}
		streams.Go(func() {
			select {
			case places <- struct{}{}:
			case <-ctx.Done():
				return
			}
			defer func() { <-places }()
			err := l.stream(ctx, task)
			l.mu.Lock()
			defer l.mu.Unlock()
			switch {
			case missing(err):
				l.late++
			case err != nil && ctx.Err() == nil:
				fmt.Fprintln(l.streams.ErrOut, l.describe(err))
				fallthrough
			default:
				index, _ := l.wants(task)
				l.shown = append(l.shown, index)
			}
		})
	}
	informer := informers.NewTypedFilteredTaskInformer(l.s.client, l.s.namespace, 0, nil, func(o *metav1.ListOptions) { o.LabelSelector = l.selector() })
	_, err := informer.AddTypedEventHandler(informers.TaskHandlerFuncs{
		AddFunc:    take,
		UpdateFunc: func(_, task *batch.Task) { take(task) },
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
	// The watch may be behind the end of the set.
	tasks, err := l.tasks(ctx)
	if err != nil {
		return err
	}
	for i := range tasks {
		take(&tasks[i])
	}
	streams.Wait()
	return l.reportLate(ctx, before)
}

// reportLate prints of which tasks that have ended meanwhile nothing could be shown. before are those that had ended.
func (l *setLogs) reportLate(ctx context.Context, before []indexes.Range) error {
	set, err := l.s.api.TaskSets(l.s.namespace).Get(ctx, l.set.Name, metav1.GetOptions{})
	if err != nil && !missing(err) {
		return err
	}
	count, which := l.late, ""
	if err == nil && set.UID == l.set.UID {
		l.set = set
		slices.Sort(l.shown)
		succeeded, failed, _ := l.absent(indexes.Union(indexes.Of(l.shown), before))
		if late := indexes.Union(succeeded, failed); len(late) > 0 {
			count, which = max(count, indexes.Count(late)), ": index "+l.numbers(late)
		}
	}
	if count > 0 {
		fmt.Fprintf(l.streams.ErrOut, "%s ended and been deleted before what was printed could be read%s. --max-log-requests, %d now, is how many are read at a time.\n",
			pluralHave(count, "task"), which, l.limit)
	}
	return nil
}

// due notes an attempt that is not shown yet.
func (l *setLogs) due(task *batch.Task) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	seen := l.seen[task.UID]
	if task.Status.Attempts <= seen {
		return false
	}
	if seen > 0 {
		l.late += int(task.Status.Attempts - seen - 1)
	}
	l.seen[task.UID] = task.Status.Attempts
	return true
}

// stream shows one attempt, each line with where it comes from.
func (l *setLogs) stream(ctx context.Context, task *batch.Task) error {
	index, _ := l.wants(task)
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
	one := taskLogs{factory: l.factory, s: l.s, out: writer, options: l.options}
	err := one.stream(ctx, task)
	_ = writer.Close()
	copying.Wait()
	if apierrors.IsNotFound(err) && !missing(err) {
		return fmt.Errorf("task/%s: %w", task.Name, err)
	}
	return err
}

// maxHeldLine is how much of a line is held until it ends, for each task that is read.
const maxHeldLine = 1 << 20

// copyLines writes each line at once, so that lines of several tasks do not mix. A line that is longer than what is held is written in
// parts of whole characters.
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
		// Of a line in parts nothing may be left but its end, which each part has.
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

// writeLine writes a line with what it begins with, and an end if it has none.
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

// cutCharacter returns how many bytes at the end of the text are the beginning of a character that is not whole.
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

// wholeCharacters writes what it is given but for a character that is cut at the end of all.
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
