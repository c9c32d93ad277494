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

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/leat-dev/leat/apis/batch/indexes"
	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/cli/progress"
	"github.com/leat-dev/leat/pkg/cli/sanitize"
	"github.com/leat-dev/leat/pkg/cli/taskstate"
	informers "github.com/leat-dev/leat/pkg/generated/informers/externalversions/batch/v1alpha1"
)

// defaultLogRequests is the default number of concurrent log requests.
const defaultLogRequests = 20

// logsOptions are the flags of "logs".
type logsOptions struct {
	*factory
	follow, timestamps, previous, failed, overwrite bool
	index, outputDir                                string
	attempt                                         int64
	tail, limitBytes                                int64
	since                                           time.Duration
	maxLogRequests                                  int
}

const logsLong = `Print the output of a task's command, or of the commands of a set.

The output of a command that runs is read from its worker, and later from the archive of the server. Of a server without an archive,
you get what the workers keep. If a worker cannot be reached, the last lines of a failed task are shown from its status.

For a set, each line begins with the set and the index, and lines of different indexes do not mix. A line of more than 1 MiB is shown
in parts; each part but the first begins with an ellipsis.

On a terminal, output is shown in whole lines, without control characters. To pipes and files, it is written as it is.

Of each index, the output of the last attempt is shown. --attempt and --previous select another one; "leat history" lists them. If
output is missing, a line at the end names the indexes.

With --output-dir, the output of each index goes to a file of its own, with the number of the index: 7.log. Its bytes are those that
the command has printed. A file that exists is an error unless --overwrite is given. While a file is written, its name ends with .part.

kubectl logs supports only the kinds of Kubernetes itself.`

func (f *factory) newLogsCommand() *cobra.Command {
	o := &logsOptions{factory: f}
	command := &cobra.Command{
		Use: "logs NAME", GroupID: groupLook,
		Short: "Print the output of commands",
		Long:  logsLong,
		Example: `  leat logs -f @latest
  leat logs squares/5
  leat logs squares --index 0-99,200 --tail 20
  leat logs squares --failed                          # of the indexes that have failed
  leat logs squares/5 --attempt 1                     # the first of several attempts
  leat logs squares --output-dir out                  # out/0.log, out/1.log, …
  leat logs task/hello --timestamps`,
		Args: exactlyOne("task or set"), ValidArgsFunction: f.completeNames(kindTask, kindSet),
		RunE: func(command *cobra.Command, args []string) error {
			return o.run(command.Context(), command.Flags(), args[0])
		},
	}
	flags := command.Flags()
	flags.BoolVarP(&o.follow, "follow", "f", false, "Go on until the task or the set ends")
	flags.StringVar(&o.index, "index", "", "Of a set, or of a task with several indexes: only these, like 5 or 0-4,7")
	flags.BoolVar(&o.failed, "failed", false, "Of a set: only the indexes that have failed")
	flags.Int64Var(&o.attempt, "attempt", 0, "The attempt with this number; 1 is the first")
	flags.Int64Var(&o.tail, "tail", -1, "How many lines before the end to begin with; -1 for all")
	flags.DurationVar(&o.since, "since", 0, "Only lines that are newer, like 10s or 5m")
	flags.BoolVar(&o.timestamps, "timestamps", false, "Begin each line with its time")
	flags.BoolVarP(&o.previous, "previous", "p", false, "The attempt before the last one")
	flags.Int64Var(&o.limitBytes, "limit-bytes", 0, "How much of each task or index to show, at most; 0 for all")
	flags.IntVar(&o.maxLogRequests, "max-log-requests", defaultLogRequests, "Of a set: how many tasks or indexes to read from at a time")
	flags.StringVar(&o.outputDir, "output-dir", "", "Write the output of each index to a file in this directory, which is created")
	flags.BoolVar(&o.overwrite, "overwrite", false, "With --output-dir: replace files that exist")
	_ = command.MarkFlagDirname("output-dir")
	return command
}

func (o *logsOptions) run(ctx context.Context, flags *pflag.FlagSet, name string) error {
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
	case flags.Changed("attempt") && o.attempt < 1:
		return usageErrorf("--attempt %d: write 1 for the first attempt, or a larger number", o.attempt)
	case o.attempt > 0 && o.follow:
		return usageErrorf("--attempt and --follow: write one of them")
	case o.attempt > 0 && o.previous:
		return usageErrorf("--attempt and --previous: write one of them")
	case o.failed && o.follow:
		return usageErrorf("--failed and --follow: what has failed prints no more; write one of them")
	case o.failed && flags.Changed("index"):
		return usageErrorf("--failed and --index: write one of them")
	case flags.Changed("output-dir") && o.outputDir == "":
		return usageErrorf("--output-dir is empty: name a directory")
	case o.outputDir != "" && o.follow:
		return usageErrorf("--output-dir and --follow: files are written of output so far; write one of them")
	case o.overwrite && o.outputDir == "":
		return usageErrorf("--overwrite is for --output-dir: write both")
	}
	if o.attempt > 0 {
		options.Attempt = &o.attempt
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
		return o.runTask(ctx, s, found, options, numbers)
	}
	chosen, err := chosenIndexes(found.set, numbers)
	switch {
	case err != nil:
		return err
	case found.index != nil && o.index != "":
		return usageErrorf("%s is one index: write --index %s with taskset/%s", name, o.index, found.set.Name)
	case found.index != nil && o.failed:
		return usageErrorf("%s is one index: write --failed with taskset/%s", name, found.set.Name)
	case found.index != nil:
		chosen = single(*found.index)
	}
	streams := &setLogs{
		factory: o.factory, s: s, set: found.set, lines: o.lineWriter(o.streams.Out), options: options, chosen: chosen, limit: o.maxLogRequests,
	}
	if o.failed {
		if streams.chosen, err = streams.failed(ctx); err != nil {
			return err
		}
		if len(streams.chosen) == 0 {
			fmt.Fprintf(o.streams.ErrOut, "No index of taskset/%s has failed.\n", found.set.Name)
			return nil
		}
	}
	if o.outputDir != "" {
		return streams.save(ctx, o.outputDir, o.overwrite)
	}
	if !o.follow || taskstate.Finished(found.set) != nil {
		return streams.show(ctx)
	}
	ended := make(chan struct{})
	streams.ended = ended
	watching, stop := context.WithCancel(ctx)
	defer stop()
	failed := make(chan error, 1)
	go func() {
		defer close(ended)
		failed <- s.watchSet(watching, found.set, func(set *batch.TaskSet) bool { return taskstate.Finished(set) != nil })
	}()
	if err := streams.follow(ctx); err != nil {
		return err
	}
	return wrapDeleted(found.ref(), <-failed)
}

// runTask prints the output of a task, or writes it to files.
func (o *logsOptions) runTask(ctx context.Context, s *session, found object, options batch.TaskLogOptions, numbers []indexes.Range) error {
	if o.failed {
		return usageErrorf("--failed is for sets, and %s is one task", found.ref())
	}
	task := taskLogs{factory: o.factory, s: s, out: o.streams.Out, options: options}
	var err error
	if task.chosen, err = chosenInTask(found.task, numbers); err != nil {
		return err
	}
	if options.Attempt != nil {
		// A server that does not know the parameter ignores it.
		if served, err := s.servesRecords(ctx, found, nil); err != nil || !served {
			return cmp.Or(err, errNoAttempts)
		}
	}
	switch {
	case o.outputDir != "":
		return task.save(ctx, found.task, o.outputDir, o.overwrite)
	case o.follow:
		return wrapDeleted(found.ref(), task.follow(ctx, found.task))
	}
	return task.show(ctx, found.task)
}

// errNoAttempts is the error for a server that has only the last attempts.
var errNoAttempts = errors.New("--attempt: this server, or what you may read there, does not have the attempts before the last: leave the flag out, or use --previous")

// chosenInTask returns the indexes of a task that have the numbers of --index, nil if there are no numbers.
func chosenInTask(task *batch.Task, numbers []indexes.Range) ([]indexes.Range, error) {
	r := ref{kindTask, task.Name}
	switch {
	case len(numbers) == 0:
		return nil, nil
	case !taskstate.IsChunk(task):
		return nil, usageErrorf("--index is for sets, and %s is one task", r)
	}
	var chosen []int
	all := taskstate.HeldIndexes(task)
	known := numbersIn(task, all)
	if unknown := indexes.Subtract(numbers, known); len(unknown) > 0 {
		return nil, usageErrorf("%s has no %s: its indexes are %s", r, describeNumbers(unknown), sanitize.Truncate(indexes.Format(known), 100))
	}
	for position := range indexes.Count(all) {
		if indexes.Contains(numbers, indexes.At(known, position)) {
			chosen = append(chosen, indexes.At(all, position))
		}
	}
	return indexes.Of(chosen), nil
}

// taskLogs shows the output of one task.
type taskLogs struct {
	*factory
	s       *session
	out     io.Writer
	options batch.TaskLogOptions
	chosen  []indexes.Range // of a task with several indexes; empty for all
}

// show prints the output so far. It returns an error if the task has not started.
func (l *taskLogs) show(ctx context.Context, task *batch.Task) error {
	if task.Status.Attempts == 0 && task.Status.StartTime == nil && !task.Status.Phase.Finished() {
		return fmt.Errorf("task/%s has not been started yet, and has printed nothing: -f waits for it, %s explain task/%s shows why it waits", task.Name, l.program, task.Name)
	}
	return l.stream(ctx, task, 1)
}

// follow prints each run of the task, until the task ends.
func (l *taskLogs) follow(ctx context.Context, task *batch.Task) error {
	seen := int32(0)
	for {
		shown := seen
		err := l.s.watchTask(ctx, task, func(current *batch.Task) bool {
			task = current
			return runOf(current) > seen || current.Status.Phase.Finished()
		})
		if err != nil {
			return err
		}
		if run := runOf(task); run > seen {
			seen = run
			if shown > 0 && seen > shown+1 {
				fmt.Fprintf(l.streams.ErrOut, "%s of task/%s ended before what it printed could be read.\n", plural(int(seen-shown-1), "attempt"), task.Name)
			}
			if err := l.stream(ctx, task, run); err != nil {
				return err
			}
			continue
		}
		return nil
	}
}

// stream prints one run. Each line of a task with several indexes begins with the set and the index.
func (l *taskLogs) stream(ctx context.Context, task *batch.Task, run int32) error {
	lines := l.lineWriter(l.out)
	switch {
	case taskstate.IsChunk(task):
	case lines.sanitized:
		return copyThrough(lines, constantLabel(""), func(out io.Writer) error { return l.copy(ctx, task, out) })
	default:
		return l.copy(ctx, task, l.out)
	}
	name := task.Name
	if owner := batch.ControllingTaskSet(task); owner != nil {
		name = owner.Name
	}
	wanted := wantedIndexes(task, l.chosen, run)
	if len(wanted) == 0 {
		return nil
	}
	_, err := l.copyIndexes(ctx, task, wanted, lines, func(index int) string {
		return l.label(name, numbersIn(task, single(index))[0].First, index)
	})
	return err
}

// wantedIndexes returns the indexes whose output to show of a run of a task. chosen are the indexes to show at all,
// empty for all. If the task has several indexes, runs after the first begin with the one that the run before did not
// finish.
func wantedIndexes(task *batch.Task, chosen []indexes.Range, run int32) []indexes.Range {
	wanted := taskstate.HeldIndexes(task)
	if taskstate.IsChunk(task) && run > 1 {
		wanted = indexes.Subtract(wanted, indexes.Slice(wanted, 0, int(task.Status.CompletedCount)))
	}
	if len(chosen) > 0 {
		wanted = indexes.Intersect(wanted, chosen)
	}
	return wanted
}

// copyIndexes prints the wanted indexes of one run of a task with several indexes, with a label in front of each line.
// It returns the indexes that printed something.
func (l *taskLogs) copyIndexes(ctx context.Context, task *batch.Task, wanted []indexes.Range, to *lineWriter, label func(index int) string) ([]indexes.Range, error) {
	request := *l
	request.options.Prefix = true
	// If the text is too long, the worker returns all indexes. The others are left out below.
	if text := indexes.Format(wanted); indexes.Count(wanted) < indexes.Count(taskstate.HeldIndexes(task)) && len(text) <= maxIndexesText {
		request.options.Indexes = text
	}
	said := remarks{out: l.streams.ErrOut}
	defer said.end()
	return copyPrefixed(to, wanted, label, &said, func(out io.Writer) error { return request.copy(ctx, task, out) })
}

// copyPrefixed calls write and copies the lines that it writes, which begin with an index and a space, to the
// lineWriter, with a label instead of the index. Lines of other indexes than the wanted ones are left out, none if
// wanted is empty. Lines that begin with no index are not from commands: said gets them. It returns the indexes that
// printed something.
func copyPrefixed(to *lineWriter, wanted []indexes.Range, label func(index int) string, said *remarks, write func(io.Writer) error) ([]indexes.Range, error) {
	var printed indexCollector
	last, lastLabel, show := -1, "", false
	byIndex := func(line []byte) (string, []byte, bool) {
		index, text, ok := cutPrefix(line)
		if !ok {
			said.add(line)
			return "", nil, false
		}
		if index != last {
			last, show = index, len(wanted) == 0 || indexes.Contains(wanted, index)
			if show {
				lastLabel = label(index)
				printed.add(index)
			}
		}
		return lastLabel, text, show
	}
	err := copyThrough(to, byIndex, write)
	return printed.ranges(), err
}

// cutPrefix cuts the index and the space from the beginning of a line. It returns false if there are none.
func cutPrefix(line []byte) (index int, text []byte, ok bool) {
	number, text, found := bytes.Cut(line, []byte(" "))
	index, err := strconv.Atoi(string(number))
	if !found || err != nil || index < 0 {
		return 0, nil, false
	}
	return index, text, true
}

// shownRemarks is the number of remarks that are printed.
const shownRemarks = 5

// remarks prints the first lines that a server or a proxy has put among the output of commands, and counts the others.
type remarks struct {
	out   io.Writer
	count int
}

func (r *remarks) add(line []byte) {
	if r.count++; r.count <= shownRemarks {
		fmt.Fprintln(r.out, sanitize.Line(sanitize.Truncate(string(line), 1000)))
	}
}

// end prints how many were not printed.
func (r *remarks) end() {
	if more := r.count - shownRemarks; more > 0 {
		fmt.Fprintf(r.out, "… and %s of the server\n", plural(more, "more remark"))
	}
}

// copyThrough calls write and copies what it writes to the lineWriter.
func copyThrough(to *lineWriter, label labeler, write func(io.Writer) error) error {
	reader, writer := io.Pipe()
	var copying sync.WaitGroup
	copying.Go(func() { reader.CloseWithError(to.copyLines(reader, label)) })
	err := write(writer)
	_ = writer.Close()
	copying.Wait()
	return err
}

// copy copies the output of one run. If the worker cannot return the output of a failed task, copy writes the last
// lines from its status.
func (l *taskLogs) copy(ctx context.Context, task *batch.Task, out io.Writer) error {
	stream, err := l.s.api.Tasks(l.s.namespace).GetLogs(task.Name, &l.options).Stream(ctx)
	if err == nil {
		defer stream.Close()
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
	fmt.Fprintf(l.streams.ErrOut, "The output of task/%s cannot be read: %s. Its last lines, from its status:\n", task.Name, sanitize.Line(why))
	prefix := ""
	if failed, ok := taskstate.FailedIndex(task); ok && l.options.Prefix {
		prefix = strconv.Itoa(failed) + " "
	}
	for line := range strings.Lines(end.Message) {
		if _, err = io.WriteString(out, prefix+strings.TrimSuffix(line, "\n")+"\n"); err != nil {
			break
		}
	}
	return err
}

// label returns what is shown in front of the lines of an index of a set.
func (f *factory) label(set string, number, index int) string {
	label := fmt.Sprintf("[%s/%d] ", set, number)
	if progress.IsTerminal(f.streams.Out) && os.Getenv("NO_COLOR") == "" {
		label = fmt.Sprintf("\x1b[%dm%s\x1b[0m", 31+index%6, label)
	}
	return label
}

// setLogs prints the output of the tasks of a set. show prints what exists, follow also waits for tasks that start.
type setLogs struct {
	*factory
	s       *session
	set     *batch.TaskSet
	lines   *lineWriter
	options batch.TaskLogOptions
	chosen  []indexes.Range // empty for all
	limit   int             // of concurrent requests
	records *recordReader   // nil until it is needed
	ended   <-chan struct{} // closed when no more tasks will start; for follow only

	mu     sync.Mutex
	seen   map[types.UID]int32 // the last run that was started to be shown, by task
	shown  []indexes.Range     // with shown output, in any order; without those of chunks
	silent []indexes.Range     // those of shown that have printed nothing
	chunks map[types.UID]*shownChunk
	// missedTasks counts the indexes of tasks that were deleted before they were read, missedRuns the runs of tasks that
	// ended before the next one was seen.
	missedTasks, missedRuns int
}

// shownChunk is a task with several indexes.
type shownChunk struct {
	latest  *batch.Task     // its last known state, with the number of indexes that it has run
	shown   bool            // its output was read
	printed []indexes.Range // the indexes that printed something
}

func (l *setLogs) selector() string {
	return labels.SelectorFromSet(labels.Set{batch.LabelControllerUID: string(l.set.UID)}).String()
}

// selectedIndexes returns the indexes of the task whose output is selected.
func (l *setLogs) selectedIndexes(task *batch.Task) []indexes.Range {
	held := taskstate.HeldIndexes(task)
	if len(l.chosen) == 0 {
		return held
	}
	return indexes.Intersect(held, l.chosen)
}

// tasks lists the tasks that have started and have a selected index, sorted by the first of them.
func (l *setLogs) tasks(ctx context.Context) ([]batch.Task, error) {
	list, err := l.s.api.Tasks(l.s.namespace).List(ctx, metav1.ListOptions{LabelSelector: l.selector()})
	if err != nil {
		return nil, err
	}
	tasks := slices.DeleteFunc(list.Items, func(task batch.Task) bool {
		return len(startedIndexes(&task)) == 0 || len(l.selectedIndexes(&task)) == 0
	})
	slices.SortFunc(tasks, func(a, b batch.Task) int {
		return cmp.Or(l.selectedIndexes(&a)[0].First-l.selectedIndexes(&b)[0].First, a.CreationTimestamp.Compare(b.CreationTimestamp.Time))
	})
	return tasks, nil
}

// show prints the output so far, in the order of the indexes, and reports the indexes without output.
func (l *setLogs) show(ctx context.Context) error {
	l.options.Follow = false
	printed, err := l.read(ctx, l.chosen)
	switch {
	case notServed(err) && l.options.Attempt != nil:
		return errNoAttempts
	case notServed(err):
		return l.showTasks(ctx)
	case err != nil:
		return err
	}
	silent, err := l.reportUnprinted(ctx, printed)
	if err == nil {
		l.reportSilent(silent)
	}
	return err
}

// showTasks does what show does with a server that has only the output of the tasks that exist.
func (l *setLogs) showTasks(ctx context.Context) error {
	tasks, err := l.tasks(ctx)
	if err != nil {
		return err
	}
	failed := 0
	var present, printed []indexes.Range
	for i := range tasks {
		some, err := l.stream(ctx, &tasks[i], 1)
		// The status of a running task with several indexes is up to a second old.
		started := indexes.Intersect(l.selectedIndexes(&tasks[i]), startedIndexes(&tasks[i]))
		if err != nil && len(started) == 0 {
			continue
		}
		present, printed = append(append(present, started...), some...), append(printed, some...)
		if err != nil {
			failed++
			printed = append(printed, started...)
			fmt.Fprintln(l.streams.ErrOut, l.describe(err))
		}
	}
	present, printed = indexes.Union(present, nil), indexes.Union(printed, nil)
	l.reportSilent(indexes.Subtract(present, printed))
	succeeded, lost, rest := l.missingIndexes(present)
	l.reportMissing(succeeded, "succeeded and %s gone, with what %s printed")
	l.reportMissing(lost, "failed and %s gone, with what %s printed")
	l.reportMissing(rest, "not run")
	if failed > 0 {
		return fmt.Errorf("the output of %s cannot be read", plural(failed, "task"))
	}
	return nil
}

// reportSilent names chosen indexes without output: users who ask for single indexes expect output of each.
func (l *setLogs) reportSilent(silent []indexes.Range) {
	if len(l.chosen) > 0 && len(silent) > 0 {
		fmt.Fprintf(l.streams.ErrOut, "No output to show: %s.\n", describeIndexes(l.set, silent))
	}
}

// missingIndexes returns the selected indexes that are not present: those that have succeeded, those that have failed
// for good, and the rest.
func (l *setLogs) missingIndexes(present []indexes.Range) (succeeded, failed, rest []indexes.Range) {
	completed, err := completedOf(l.set)
	if err != nil {
		return nil, nil, nil
	}
	selected := l.chosen
	switch {
	case len(selected) > 0:
	case l.set.Spec.Completions != nil:
		selected = []indexes.Range{{First: 0, Last: completionsOf(l.set) - 1}}
	default:
		selected = completed
	}
	selected = indexes.Subtract(selected, present)
	lost, _ := taskstate.FailedIndexes(l.set)
	succeeded, failed = indexes.Intersect(selected, completed), indexes.Intersect(selected, lost)
	return succeeded, failed, indexes.Subtract(selected, indexes.Union(succeeded, failed))
}

// reportMissing prints why indexes have no output. what follows "has" or "have". It can have two verbs for the number
// of indexes.
func (l *setLogs) reportMissing(of []indexes.Range, what string) {
	n := indexes.Count(of)
	if n == 0 {
		return
	}
	if strings.Contains(what, "%") {
		is, it := "are", "they"
		if n == 1 {
			is, it = "is", "it"
		}
		what = fmt.Sprintf(what, is, it)
	}
	fmt.Fprintf(l.streams.ErrOut, "%s %s: %s.\n", pluralHave(n, "index"), what, formatNumbers(l.set, of))
}

func pluralHave(n int, what string) string {
	if n == 1 {
		return plural(n, what) + " has"
	}
	return plural(n, what) + " have"
}

// follow prints the output of tasks that run or start, until ended is closed and all output has been printed.
func (l *setLogs) follow(ctx context.Context) error {
	l.seen, l.chunks = map[types.UID]int32{}, map[types.UID]*shownChunk{}
	before, err := l.goneBefore(ctx)
	if err != nil {
		return err
	}
	if len(before) > 0 {
		served, err := l.s.servesRecords(ctx, object{set: l.set}, before)
		switch {
		case err != nil:
			return err
		case served:
			l.reportMissing(before, fmt.Sprintf("succeeded before: %s logs taskset/%s shows what is kept of their output", l.program, l.set.Name))
		default:
			l.reportMissing(before, "succeeded before and %s gone, with what %s printed")
		}
	}
	slots := make(chan struct{}, l.limit)
	var streams sync.WaitGroup
	start := func(task *batch.Task) {
		run, isNew := l.markSeen(task)
		if !isNew {
			return
		}
		streams.Go(func() {
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				return
			}
			defer func() { <-slots }()
			printed, err := l.stream(ctx, task, run)
			if err != nil && !objectNotFound(err) && ctx.Err() == nil {
				fmt.Fprintln(l.streams.ErrOut, l.describe(err))
			}
			l.markShown(task, printed, !objectNotFound(err))
		})
	}
	informer := informers.NewTypedFilteredTaskInformer(l.s.client, l.s.namespace, 0, nil, func(o *metav1.ListOptions) { o.LabelSelector = l.selector() })
	_, err = informer.AddTypedEventHandler(informers.TaskHandlerFuncs{
		AddFunc:    start,
		UpdateFunc: func(_, task *batch.Task) { start(task) },
		DeleteFunc: func(task informers.DeletedTask) {
			if last := task.OptionalObj; last != nil {
				l.markChunk(last)
			}
		},
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
	// The informer may have stopped before it saw the last tasks, and the last states of others.
	list, err := l.s.api.Tasks(l.s.namespace).List(ctx, metav1.ListOptions{LabelSelector: l.selector()})
	if err != nil {
		return err
	}
	for i := range list.Items {
		start(&list.Items[i])
	}
	streams.Wait()
	return l.reportMissed(ctx, before)
}

// goneBefore returns the selected indexes that have succeeded and whose tasks are deleted. Tasks with several indexes
// remain until the last of them has ended.
func (l *setLogs) goneBefore(ctx context.Context) ([]indexes.Range, error) {
	succeeded, _, _ := l.missingIndexes(nil)
	if len(succeeded) == 0 {
		return nil, nil
	}
	list, err := l.s.api.Tasks(l.s.namespace).List(ctx, metav1.ListOptions{LabelSelector: l.selector() + "," + batch.LabelFirstCompletionIndex})
	if err != nil {
		return nil, err
	}
	var kept []indexes.Range
	for i := range list.Items {
		kept = append(kept, taskstate.CompletedIndexes(&list.Items[i])...)
	}
	return indexes.Subtract(succeeded, indexes.Union(kept, nil)), nil
}

// reportMissed prints the output of indexes that ended before it could be read from their worker, and reports how many
// have none. before are indexes that had ended when follow began.
func (l *setLogs) reportMissed(ctx context.Context, before []indexes.Range) error {
	set, err := l.s.api.TaskSets(l.s.namespace).Get(ctx, l.set.Name, metav1.GetOptions{})
	if err != nil && !objectNotFound(err) {
		return err
	}
	count, which := l.missedTasks, ""
	if err == nil && set.UID == l.set.UID {
		l.set = set
		shown, silent := l.allShown()
		succeeded, failed, _ := l.missingIndexes(before)
		ended := indexes.Union(succeeded, failed)
		unread, err := l.unread(ctx, indexes.Intersect(silent, ended))
		if err != nil {
			return err
		}
		missed := indexes.Union(indexes.Subtract(ended, shown), unread)
		if len(missed) > 0 {
			kept, err := l.readMissed(ctx, missed)
			if err != nil && !notServed(err) {
				return err
			}
			missed = indexes.Subtract(missed, kept)
			if err == nil {
				count = 0 // the archive has all that is kept
			}
		}
		if len(missed) > 0 {
			count, which = max(count, indexes.Count(missed)), ": "+formatNumbers(l.set, missed)
		}
	}
	if count = max(count, l.missedRuns); count > 0 {
		fmt.Fprintf(l.streams.ErrOut, "%s ended and been deleted before what was printed could be read%s. --max-log-requests, %d now, is how many tasks are read at a time.\n",
			pluralHave(count, "index"), which, l.limit)
	}
	return nil
}

// markSeen records the current run of the task. It returns the run, and whether the run is new and has a selected
// index.
func (l *setLogs) markSeen(task *batch.Task) (run int32, isNew bool) {
	l.markChunk(task)
	run = runOf(task)
	l.mu.Lock()
	defer l.mu.Unlock()
	seen := l.seen[task.UID]
	if run <= seen || len(wantedIndexes(task, l.chosen, run)) == 0 {
		return run, false
	}
	if seen > 0 {
		l.missedRuns += int(run - seen - 1)
	}
	l.seen[task.UID] = run
	return run, true
}

// markChunk records the state of a task with several indexes.
func (l *setLogs) markChunk(task *batch.Task) {
	if !taskstate.IsChunk(task) {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if chunk := l.chunks[task.UID]; chunk != nil {
		chunk.latest = task
	} else {
		l.chunks[task.UID] = &shownChunk{latest: task}
	}
}

// markShown records that a run of the task was read and which indexes printed something, or that it was deleted before.
func (l *setLogs) markShown(task *batch.Task, printed []indexes.Range, read bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch selected := l.selectedIndexes(task); {
	case !read:
		l.missedTasks += indexes.Count(selected)
	case taskstate.IsChunk(task):
		chunk := l.chunks[task.UID]
		chunk.shown, chunk.printed = true, indexes.Union(chunk.printed, printed)
	default:
		l.shown = append(l.shown, selected...)
		if len(printed) == 0 {
			l.silent = append(l.silent, selected...)
		}
	}
}

// allShown returns the indexes whose output was read, and those of them that have printed nothing: the worker may send
// the output of indexes that have ended to the archive before it is read.
func (l *setLogs) allShown() (shown, silent []indexes.Range) {
	shown, silent = l.shown, l.silent
	var printed []indexes.Range
	for _, chunk := range l.chunks {
		if chunk.shown {
			selected := l.selectedIndexes(chunk.latest)
			shown, silent, printed = append(shown, selected...), append(silent, selected...), append(printed, chunk.printed...)
		}
	}
	return indexes.Union(shown, nil), indexes.Subtract(indexes.Union(silent, nil), indexes.Union(printed, nil))
}

// stream prints one run, with the set and the index in front of each line. It returns the indexes that printed
// something.
func (l *setLogs) stream(ctx context.Context, task *batch.Task, run int32) (printed []indexes.Range, err error) {
	numbers := taskstate.Numbers(l.set)
	label := func(index int) string { return l.label(l.set.Name, numbers.Number(index), index) }
	one := taskLogs{factory: l.factory, s: l.s, options: l.options}
	if taskstate.IsChunk(task) {
		printed, err = one.copyIndexes(ctx, task, wantedIndexes(task, l.chosen, run), l.lines, label)
	} else {
		own := task.CompletionIndexes()
		var count countingWriter
		err = copyThrough(l.lines, constantLabel(label(own[0].First)), func(to io.Writer) error {
			count.out = to
			return one.copy(ctx, task, &count)
		})
		if count.n > 0 {
			printed = own
		}
	}
	if apierrors.IsNotFound(err) && !objectNotFound(err) {
		err = fmt.Errorf("task/%s: %w", task.Name, err)
	}
	return printed, err
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
