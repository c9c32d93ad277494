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

Of a set, each line begins with the set and the index. Tasks that have succeeded are deleted once they are counted, and their
logs are gone with them: what they print is seen with -f while they run. Tasks that have failed are kept.

kubectl logs knows the kinds of Kubernetes itself only, and cannot be taught others.`

func (f *factory) newLogsCommand() *cobra.Command {
	o := &logsOptions{factory: f}
	command := &cobra.Command{
		Use: "logs NAME", GroupID: groupLook,
		Short: "Show what commands have printed",
		Long:  logsLong,
		Example: `  leat logs -f @latest
  leat logs taskset/squares --index 5
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
	chosen, err := indexes.Parse(o.index, maxCompletions)
	if err != nil {
		return usageErrorf("--index %w: write indexes like 5 or 0-4,7", err)
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
	if n := found.set.Spec.Completions; n != nil && len(chosen) > 0 && chosen[len(chosen)-1].Last >= int(*n) {
		return usageErrorf("--index %s: the indexes of %s are 0 to %d", o.index, found.ref(), *n-1)
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
		err := l.s.watchTask(ctx, task, func(current *batch.Task) bool {
			task = current
			return current.Status.Attempts > seen || finishedTask(current)
		})
		if err != nil {
			return err
		}
		if task.Status.Attempts > seen {
			seen = task.Status.Attempts
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
		_, err = io.Copy(l.out, stream)
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

	mu     sync.Mutex
	seen   map[types.UID]int32 // attempts that were shown or are due
	missed int                 // tasks that were deleted before their turn
}

func (l *setLogs) selector() string {
	return labels.SelectorFromSet(labels.Set{batch.LabelControllerUID: string(l.set.UID)}).String()
}

// wants tells whether the task is among those to show, and gives its index.
func (l *setLogs) wants(task *batch.Task) (int, bool) {
	index, err := strconv.Atoi(task.Labels[batch.LabelCompletionIndex])
	if err != nil {
		return 0, false
	}
	return index, len(l.chosen) == 0 ||
		slices.ContainsFunc(l.chosen, func(r indexes.Range) bool { return r.First <= index && index <= r.Last })
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
	if n := l.set.Status.Succeeded; n > 0 && len(l.chosen) == 0 {
		fmt.Fprintf(l.streams.ErrOut, "%s succeeded and are gone, with what they printed.\n", pluralHave(int(n), "task"))
	} else if len(tasks) == 0 {
		fmt.Fprintln(l.streams.ErrOut, "None of these tasks runs or has failed: those that have succeeded are gone, with what they printed.")
	}
	if failed > 0 {
		return fmt.Errorf("the output of %s cannot be read", plural(failed, "task"))
	}
	return nil
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
			if err := l.stream(ctx, task); missing(err) {
				l.mu.Lock()
				l.missed++
				l.mu.Unlock()
			} else if err != nil && ctx.Err() == nil {
				fmt.Fprintln(l.streams.ErrOut, l.describe(err))
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
	if l.missed > 0 {
		fmt.Fprintf(l.streams.ErrOut, "%s ended, been counted and deleted before what they printed could be read: --max-log-requests, %d now, says of how many it is read at a time.\n",
			pluralHave(l.missed, "task"), l.limit)
	}
	return nil
}

// due notes an attempt that is not shown yet.
func (l *setLogs) due(task *batch.Task) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if task.Status.Attempts <= l.seen[task.UID] {
		return false
	}
	l.seen[task.UID] = task.Status.Attempts
	return true
}

// stream shows one attempt, each line with where it comes from.
func (l *setLogs) stream(ctx context.Context, task *batch.Task) error {
	index, _ := l.wants(task)
	prefix := fmt.Sprintf("[%s/%d] ", l.set.Name, index)
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

// copyLines writes each line at once, so that lines of several tasks do not mix.
func (l *setLogs) copyLines(from io.Reader, prefix string) error {
	reader := bufio.NewReaderSize(from, 64<<10)
	for {
		line, err := reader.ReadSlice('\n')
		if len(line) > 0 {
			whole := append([]byte(prefix), line...)
			if whole[len(whole)-1] != '\n' {
				whole = append(whole, '\n')
			}
			l.mu.Lock()
			_, writeErr := l.out.Write(whole)
			l.mu.Unlock()
			if writeErr != nil {
				return writeErr
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil && !errors.Is(err, bufio.ErrBufferFull):
			return err
		}
	}
}
