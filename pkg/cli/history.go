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
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/cli-runtime/pkg/printers"
	"k8s.io/utils/ptr"

	"github.com/leat-dev/leat/apis/batch/indexes"
	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/cli/sanitize"
	"github.com/leat-dev/leat/pkg/cli/taskstate"
)

// historyOptions are the flags of "history".
type historyOptions struct {
	*factory
	index, sort, output string
	failed              bool
	slowest, limit      int
}

const historyLong = `Show the finished attempts of a task or a set: each start of a command, with its end.

EXIT is the exit code, or the signal that ended the command, or why it ended otherwise. CPU is the time that the command and its
children have used, MEMORY the most memory that was in use at a time, OUTPUT the size of what was printed. ATTEMPT counts the attempts
of an index; "leat logs --attempt" takes the number.

Workers keep the records with the output, and send them to the archive of the server. Records of workers or of an archive that cannot
be reached are missing, and a warning says so. What a record says is what its worker has said.

Rows are sorted by index and start. With -o json, a TaskRecordList is printed, in the order in which the records are stored unless
--sort or --slowest is given.`

// Values of --sort.
const (
	sortIndex    = "index"
	sortStart    = "start"
	sortDuration = "duration"
	sortCPU      = "cpu"
	sortMemory   = "memory"
)

var historySorts = []string{sortIndex, sortStart, sortDuration, sortCPU, sortMemory}

// Values of --output.
const (
	outputJSON = "json"
	outputWide = "wide"
)

func (f *factory) newHistoryCommand() *cobra.Command {
	o := &historyOptions{factory: f}
	command := &cobra.Command{
		Use: "history NAME", GroupID: groupLook,
		Short: "Show the finished attempts of a task or a set",
		Long:  historyLong,
		Example: `  leat history @latest
  leat history squares/5                              # all attempts of one index
  leat history squares --failed
  leat history squares --slowest 10
  leat history squares --sort memory --limit 20
  leat history squares -o json | jq '[.items[].cpuMilliseconds] | add'`,
		Args: exactlyOne("task or set"), ValidArgsFunction: f.completeNames(kindTask, kindSet),
		RunE: func(command *cobra.Command, args []string) error {
			return o.run(command.Context(), command.Flags(), args[0])
		},
	}
	flags := command.Flags()
	flags.StringVar(&o.index, "index", "", "Of a set, or of a task with several indexes: only these, like 5 or 0-4,7")
	flags.BoolVar(&o.failed, "failed", false, "Only attempts that have failed")
	flags.IntVar(&o.slowest, "slowest", 0, "Only this number of attempts, those that took longest")
	flags.StringVar(&o.sort, "sort", "", "Sort by "+strings.Join(historySorts, ", ")+"; the largest duration, CPU time or memory first")
	flags.IntVar(&o.limit, "limit", 0, "Show this number of attempts at most; 0 for all")
	flags.StringVarP(&o.output, "output", "o", "", "Output format: json, or wide for more columns")
	fixed := func(values ...string) completion {
		return func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
			return values, cobra.ShellCompDirectiveNoFileComp
		}
	}
	_ = command.RegisterFlagCompletionFunc("sort", fixed(historySorts...))
	_ = command.RegisterFlagCompletionFunc("output", fixed(outputJSON, outputWide))
	return command
}

func (o *historyOptions) run(ctx context.Context, flags *pflag.FlagSet, name string) error {
	switch {
	case flags.Changed("slowest") && o.slowest < 1:
		return usageErrorf("--slowest %d: write how many, 1 or more", o.slowest)
	case o.slowest > 0 && flags.Changed("sort"):
		return usageErrorf("--slowest and --sort: --slowest sorts by duration; write one of them")
	case o.slowest > 0 && flags.Changed("limit"):
		return usageErrorf("--slowest and --limit: write one of them")
	case o.limit < 0:
		return usageErrorf("--limit %d: write a number of attempts, or 0 for all", o.limit)
	case flags.Changed("sort") && !slices.Contains(historySorts, o.sort):
		return usageErrorf("--sort %q: write %s or %s", o.sort, strings.Join(historySorts[:len(historySorts)-1], ", "), historySorts[len(historySorts)-1])
	case flags.Changed("output") && o.output != outputJSON && o.output != outputWide:
		return usageErrorf("--output %q: write json or wide", o.output)
	}
	if o.slowest > 0 {
		o.sort, o.limit = sortDuration, o.slowest
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
	var chosen []indexes.Range
	switch {
	case found.task != nil:
		chosen, err = chosenInTask(found.task, numbers)
	case found.index != nil && o.index != "":
		err = usageErrorf("%s is one index: write --index %s with taskset/%s", name, o.index, found.set.Name)
	case found.index != nil:
		chosen = single(*found.index)
	default:
		chosen, err = chosenIndexes(found.set, numbers)
	}
	if err != nil {
		return err
	}
	return o.show(ctx, s, found, chosen, time.Now())
}

// show prints the records of the chosen indexes, of all if there are none.
func (o *historyOptions) show(ctx context.Context, s *session, found object, chosen []indexes.Range, now time.Time) error {
	if o.output == outputJSON && o.sort == "" {
		return o.printStored(ctx, s, found, chosen)
	}
	h := history{order: orderOf(o.sort), limit: o.limit}
	reader := newRecordReader(o.factory, s, found)
	for record, err := range reader.read(ctx, chosen) {
		if err != nil {
			return o.historyError(err)
		}
		if o.output == "" {
			// A table of a million rows must fit into memory.
			record.TaskName, record.Incarnation = "", ""
		}
		h.add(record, !o.failed || failedAttempt(record))
	}
	rows := h.rows()
	if o.output == outputJSON {
		list := newRecordPrinter(o.streams.Out)
		for _, row := range rows {
			list.print(row.TaskRecord)
		}
		return list.end()
	}
	if len(rows) == 0 {
		what := "finished"
		if o.failed {
			what = "failed"
		}
		state := "is recorded"
		if reader.incomplete() {
			state = "can be read"
		}
		fmt.Fprintf(o.streams.ErrOut, "No %s attempt of %s %s.\n", what, found.ref(), state)
		return nil
	}
	return o.printTable(found, rows, now)
}

// historyError replaces the error of a server that does not have records.
func (o *historyOptions) historyError(err error) error {
	if notServed(err) && !apierrors.IsForbidden(err) {
		return errors.New("this server has no records of attempts: its version is older than that of this program")
	}
	return err
}

// printStored prints records in JSON while they are read.
func (o *historyOptions) printStored(ctx context.Context, s *session, found object, chosen []indexes.Range) error {
	list := newRecordPrinter(o.streams.Out)
	for record, err := range newRecordReader(o.factory, s, found).read(ctx, chosen) {
		switch {
		case err != nil && list.count == 0:
			return o.historyError(err)
		case err != nil:
			return fmt.Errorf("the list is not complete: %w", err)
		case o.failed && !failedAttempt(record):
			continue
		}
		list.print(record)
		if list.err != nil || list.count == o.limit {
			break
		}
	}
	return list.end()
}

// recordPrinter prints a TaskRecordList in JSON, one record on each line.
type recordPrinter struct {
	out   *bufio.Writer
	count int
	err   error
}

func newRecordPrinter(out io.Writer) *recordPrinter {
	return &recordPrinter{out: bufio.NewWriterSize(out, 64<<10)}
}

func (p *recordPrinter) begin() {
	_, p.err = fmt.Fprintf(p.out, "{\"apiVersion\":%q,\"kind\":\"TaskRecordList\",\"metadata\":{},\"items\":[\n", batch.SchemeGroupVersion)
}

func (p *recordPrinter) print(record *batch.TaskRecord) {
	separator := ",\n"
	if p.count++; p.count == 1 {
		p.begin()
		separator = ""
	}
	text, err := json.Marshal(record)
	if err == nil {
		_, err = p.out.WriteString(separator + string(text))
	}
	p.err = cmp.Or(p.err, err)
}

// end ends the list. It returns the first error.
func (p *recordPrinter) end() error {
	if p.count == 0 {
		p.begin()
	}
	_, err := p.out.WriteString("]}\n")
	return cmp.Or(p.err, err, p.out.Flush())
}

// history collects the records of attempts. It keeps those to show, and of the others what numbers the attempts.
type history struct {
	order func(a, b *batch.TaskRecord) int
	limit int // 0 for all

	starts []attemptStart
	kept   []*batch.TaskRecord
}

// attemptStart is the start of an attempt at an index, by the clock of its worker.
type attemptStart struct {
	index int32
	start int64 // in microseconds
}

func startOf(record *batch.TaskRecord) attemptStart {
	return attemptStart{indexOf(record), record.StartTime.UnixMicro()}
}

func compareStarts(a, b attemptStart) int {
	return cmp.Or(cmp.Compare(a.index, b.index), cmp.Compare(a.start, b.start))
}

// indexOf returns the index of an attempt, -1 if it has none.
func indexOf(record *batch.TaskRecord) int32 { return ptr.Deref(record.Index, -1) }

// orderOf returns the order for a value of --sort.
func orderOf(value string) func(a, b *batch.TaskRecord) int {
	var by func(a, b *batch.TaskRecord) int
	switch value {
	case sortStart:
		by = func(a, b *batch.TaskRecord) int { return a.StartTime.Compare(b.StartTime.Time) }
	case sortDuration:
		by = func(a, b *batch.TaskRecord) int { return cmp.Compare(b.DurationMilliseconds, a.DurationMilliseconds) }
	case sortCPU:
		by = func(a, b *batch.TaskRecord) int { return cmp.Compare(b.CPUMilliseconds, a.CPUMilliseconds) }
	case sortMemory:
		by = func(a, b *batch.TaskRecord) int { return cmp.Compare(b.PeakMemoryBytes, a.PeakMemoryBytes) }
	default:
		by = func(a, b *batch.TaskRecord) int { return 0 }
	}
	return func(a, b *batch.TaskRecord) int {
		return cmp.Or(by(a, b), compareStarts(startOf(a), startOf(b)), cmp.Compare(a.WorkerName, b.WorkerName), cmp.Compare(a.TaskUID, b.TaskUID))
	}
}

// add counts the record as an attempt at its index. It keeps it if show is true.
func (h *history) add(record *batch.TaskRecord, show bool) {
	h.starts = append(h.starts, startOf(record))
	if !show {
		return
	}
	kept := *record // without the rest of the list
	h.kept = append(h.kept, &kept)
	if h.limit > 0 && len(h.kept) >= 2*h.limit+1000 {
		h.truncate()
	}
}

// truncate sorts the kept records, and drops duplicates and those over the limit. A record that is sent to the archive
// while the list is read may be listed twice.
func (h *history) truncate() {
	slices.SortFunc(h.kept, h.order)
	h.kept = slices.CompactFunc(h.kept, func(a, b *batch.TaskRecord) bool { return h.order(a, b) == 0 })
	if h.limit > 0 && len(h.kept) > h.limit {
		clear(h.kept[h.limit:])
		h.kept = h.kept[:h.limit]
	}
}

// historyRow is an attempt to show. Attempts at an index are numbered from 1 up, by their start.
type historyRow struct {
	*batch.TaskRecord
	number int
}

// rows returns the attempts to show, in order.
func (h *history) rows() []historyRow {
	h.truncate()
	slices.SortFunc(h.starts, compareStarts)
	h.starts = slices.Compact(h.starts)
	rows := make([]historyRow, 0, len(h.kept))
	for _, record := range h.kept {
		start := startOf(record)
		first, _ := slices.BinarySearchFunc(h.starts, attemptStart{start.index, math.MinInt64}, compareStarts)
		own, _ := slices.BinarySearchFunc(h.starts, start, compareStarts)
		rows = append(rows, historyRow{record, own - first + 1})
	}
	return rows
}

// rowsPerFlush is the number of rows that are aligned together. Later ones have at least the same widths.
const rowsPerFlush = 1000

func (o *historyOptions) printTable(found object, rows []historyRow, now time.Time) error {
	out := printers.GetNewTabWriter(o.streams.Out)
	header := "INDEX\tATTEMPT\tWORKER\tEXIT\tSTARTED\tDURATION\tCPU\tMEMORY\tOUTPUT"
	if o.output == outputWide {
		header += "\tMISSING\tTIME\tTASK"
	}
	fmt.Fprintln(out, header)
	for i, row := range rows {
		text := fmt.Sprintf("%s\t%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s", numberOf(found, row.Index), row.number, sanitize.Line(row.WorkerName),
			taskstate.Exit(row.Reason, row.ExitCode, row.Signal), age(now.Sub(row.StartTime.Time)), formatMilliseconds(row.DurationMilliseconds), formatMilliseconds(row.CPUMilliseconds),
			formatBytes(row.PeakMemoryBytes), formatBytes(row.OutputBytes))
		if o.output == outputWide {
			text += fmt.Sprintf("\t%s\t%s\t%s", formatBytes(row.MissingBytes), row.StartTime.UTC().Format("2006-01-02T15:04:05.000Z"), sanitize.Line(row.TaskName))
		}
		if _, err := fmt.Fprintln(out, text); err != nil {
			return err
		}
		if i%rowsPerFlush == rowsPerFlush-1 {
			if err := out.Flush(); err != nil {
				return err
			}
		}
	}
	return out.Flush()
}

// numberOf formats the number of an index of a set, or of a task with several.
func numberOf(found object, index *int32) string {
	if index == nil {
		return "-"
	}
	number := int(*index)
	if found.set != nil {
		number = taskstate.Numbers(found.set).Number(number)
	} else if numbers := numbersIn(found.task, single(number)); len(numbers) > 0 {
		number = numbers[0].First
	}
	return strconv.Itoa(number)
}

// formatMilliseconds formats a duration with milliseconds below a second, otherwise as age does.
func formatMilliseconds(n int64) string {
	if n < 1000 {
		return fmt.Sprintf("%dms", n)
	}
	return age(time.Duration(n) * time.Millisecond)
}

// formatBytes formats a size with two digits or more, like 512, 1.5Ki or 23Mi.
func formatBytes(n int64) string {
	if n < 1024 {
		return strconv.FormatInt(n, 10)
	}
	size, unit := float64(n), ""
	for _, unit = range []string{"Ki", "Mi", "Gi", "Ti"} {
		if size /= 1024; size < 999.5 {
			break
		}
	}
	if size < 9.95 {
		return fmt.Sprintf("%.1f%s", size, unit)
	}
	return fmt.Sprintf("%.0f%s", size, unit)
}
