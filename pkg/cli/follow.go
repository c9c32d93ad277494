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
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"
	"k8s.io/utils/ptr"

	"github.com/leat-dev/leat/apis/batch/indexes"
	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/cli/progress"
	"github.com/leat-dev/leat/pkg/cli/sanitize"
)

// followOptions are how something that was made is followed to its end.
type followOptions struct {
	*factory
	wait, logs     bool
	maxLogRequests int
}

func (o *followOptions) addFlags(flags *pflag.FlagSet) {
	flags.BoolVar(&o.logs, "logs", false, "With --wait, which it implies: show what the commands print")
	flags.IntVar(&o.maxLogRequests, "max-log-requests", defaultLogRequests, "With --logs: of how many tasks at a time")
}

const waitLong = `Show the progress of a task or a set until it ends, and exit with what has come of it.

This is how to come back to what was detached from. Exit codes are those of "leat run --wait".`

func (f *factory) newWaitCommand() *cobra.Command {
	o := &followOptions{factory: f, wait: true}
	command := &cobra.Command{
		Use: "wait NAME", GroupID: groupRun,
		Short: "Show the progress of a task or a set until it ends",
		Long:  waitLong,
		Example: `  leat wait @latest
  leat wait taskset/squares --logs`,
		Args: exactlyOne("task or set"), ValidArgsFunction: f.completeNames(kindTask, kindSet),
		RunE: func(command *cobra.Command, args []string) error {
			s, err := f.connect()
			if err != nil {
				return err
			}
			found, err := s.find(command.Context(), args[0])
			if err != nil {
				return err
			}
			return o.follow(command.Context(), s, found)
		},
	}
	o.addFlags(command.Flags())
	command.Flags().Lookup("logs").Usage = "Show what the commands print"
	return command
}

// made says that an object was made, remembers it, and follows it if that was asked for. What print prints is for standard output,
// unless that is to have what the command prints and nothing else.
func (o *followOptions) made(ctx context.Context, s *session, created runtime.Object, print func(io.Writer) error, hint bool) error {
	found := object{}
	switch created := created.(type) {
	case *batch.Task:
		found.task = created
	case *batch.TaskSet:
		found.set = created
	}
	if err := s.remember(found.ref()); err != nil {
		fmt.Fprintf(o.streams.ErrOut, "warning: %s will not mean %s: %v\n", latestName, found.ref(), err)
	}
	to := o.streams.Out
	if o.logs {
		to = o.streams.ErrOut
	}
	if err := print(to); err != nil {
		return err
	}
	if o.wait || o.logs {
		return o.follow(ctx, s, found)
	}
	if hint && progress.IsTerminal(o.streams.ErrOut) {
		fmt.Fprintf(o.streams.ErrOut, "%s wait %s shows its progress, %s logs -f %s what it prints.\n", o.program, latestName, o.program, latestName)
	}
	return nil
}

// errDeleted ends the wait for an object that is gone.
var errDeleted = errors.New("was deleted before it had ended")

// watched follows one object by one watch, over lost connections, and hands on each of its states until done says that it was the
// last one.
func watched[T interface {
	runtime.Object
	metav1.Object
}](ctx context.Context, name string, uid types.UID, list *cache.ListWatch, object T, done func(T) bool) error {
	selector := fields.OneTermEqualSelector("metadata.name", name).String()
	one := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			options.FieldSelector = selector
			return list.ListWithContextFunc(ctx, options)
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			options.FieldSelector = selector
			return list.WatchFuncWithContext(ctx, options)
		},
	}
	exists := func(store cache.Store) (bool, error) {
		for _, item := range store.List() {
			if item.(T).GetUID() == uid {
				return false, nil
			}
		}
		return false, errDeleted
	}
	_, err := watchtools.UntilWithSync(ctx, one, object, exists, func(event watch.Event) (bool, error) {
		current, ok := event.Object.(T)
		switch {
		case !ok:
			return false, nil
		case event.Type == watch.Deleted || current.GetUID() != uid:
			return false, errDeleted
		}
		return done(current), nil
	})
	return err
}

func (s *session) watchSet(ctx context.Context, set *batch.TaskSet, done func(*batch.TaskSet) bool) error {
	sets := s.api.TaskSets(s.namespace)
	return watched(ctx, set.Name, set.UID, &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			return sets.List(ctx, options)
		},
		WatchFuncWithContext: sets.Watch,
	}, &batch.TaskSet{}, done)
}

func (s *session) watchTask(ctx context.Context, task *batch.Task, done func(*batch.Task) bool) error {
	tasks := s.api.Tasks(s.namespace)
	return watched(ctx, task.Name, task.UID, &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			return tasks.List(ctx, options)
		},
		WatchFuncWithContext: tasks.Watch,
	}, &batch.Task{}, done)
}

// follower sees one task or set to its end.
type follower struct {
	*followOptions
	s        *session
	ref      ref
	renderer *progress.Renderer

	mu     sync.Mutex
	paused bool // while a question is on the screen
	last   progress.Snapshot
}

// follow shows progress until the object has ended. The error, if any, has the code to exit with.
func (o *followOptions) follow(ctx context.Context, s *session, found object) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	if o.maxLogRequests < 1 {
		return usageErrorf("--max-log-requests %d: write 1 or more", o.maxLogRequests)
	}
	w := &follower{followOptions: o, s: s, ref: found.ref(), renderer: progress.New(o.streams.ErrOut)}
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(signals)

	ended := make(chan error, 1)
	go func() {
		if found.set != nil {
			ended <- w.followSet(ctx, found.set)
		} else {
			ended <- w.followTask(ctx, found.task)
		}
	}()
	cancelled := false
	for {
		select {
		case err := <-ended:
			w.renderer.Stop()
			if cancelled {
				fmt.Fprintf(o.streams.ErrOut, "%s cancelled\n", w.ref.full())
				return &exitError{code: exitInterrupted}
			}
			return err
		case sig := <-signals:
			code := exitInterrupted
			if number, ok := sig.(syscall.Signal); ok {
				code = 128 + int(number)
			}
			switch w.ask(sig, signals, ended) {
			case goOn:
			case cancel:
				if err := s.cancel(ctx, found, false); err != nil {
					return err
				}
				cancelled = true
			default:
				w.renderer.Stop()
				fmt.Fprintf(o.streams.ErrOut, "Detached: %s goes on. Come back with: %s wait %s\n", w.ref, o.program, w.ref)
				return &exitError{code: code}
			}
		}
	}
}

type answer int

const (
	detach answer = iota
	cancel
	goOn
)

// ask asks a person what an interruption means. Whoever cannot be asked detaches, and so does a second one.
func (w *follower) ask(sig os.Signal, signals <-chan os.Signal, ended chan error) answer {
	if sig != os.Interrupt {
		return detach
	}
	from, ok := w.interactive()
	if !ok {
		return detach
	}
	defer from.Close()
	w.pause(true)
	defer w.pause(false)
	fmt.Fprintf(w.streams.ErrOut, "\n%s is not done. d: detach and let it go on, c: cancel it, Enter: go on watching? ", w.ref)
	typed := make(chan string, 1)
	go func() {
		line, err := bufio.NewReader(from).ReadString('\n')
		if err != nil {
			line = "d"
		}
		typed <- strings.ToLower(strings.TrimSpace(line))
	}()
	select {
	case line := <-typed:
		switch {
		case line == "":
			return goOn
		case strings.HasPrefix("cancel", line):
			return cancel
		}
		return detach
	case <-signals:
		fmt.Fprintln(w.streams.ErrOut)
		return detach
	case err := <-ended:
		fmt.Fprintln(w.streams.ErrOut)
		ended <- err
		return goOn
	}
}

func (w *follower) pause(on bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.paused = on
	if on {
		w.renderer.Stop()
	} else {
		w.renderer.Update(w.last)
	}
}

func (w *follower) show(s progress.Snapshot) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.last = s
	if !w.paused {
		w.renderer.Update(s)
	}
}

// output is where logs go: above the progress, if both are on the screen.
func (w *follower) output() io.Writer {
	if progress.IsTerminal(w.streams.Out) && progress.IsTerminal(w.streams.ErrOut) {
		return w.renderer
	}
	return w.streams.Out
}

func (w *follower) followSet(ctx context.Context, set *batch.TaskSet) error {
	var logs sync.WaitGroup
	ended := make(chan struct{})
	if w.logs {
		streams := &setLogs{
			factory: w.factory, s: w.s, set: set, out: w.output(), options: batch.TaskLogOptions{Follow: true}, limit: w.maxLogRequests, ended: ended,
		}
		logs.Go(func() {
			if err := streams.follow(ctx); err != nil && ctx.Err() == nil {
				fmt.Fprintf(w.renderer, "%s\n", w.describe(err))
			}
		})
	}
	err := w.s.watchSet(ctx, set, func(current *batch.TaskSet) bool {
		set = current
		w.show(snapshotOf(current))
		return finishedSet(current) != nil
	})
	close(ended)
	if err != nil {
		return wrapDeleted(w.ref, err)
	}
	logs.Wait()
	w.renderer.Stop()
	return w.concludeSet(set)
}

func wrapDeleted(r ref, err error) error {
	if errors.Is(err, errDeleted) {
		return fmt.Errorf("%s %w", r, err)
	}
	return err
}

// snapshotOf counts where the indexes of a set are.
func snapshotOf(set *batch.TaskSet) progress.Snapshot {
	s := progress.Snapshot{Done: int(set.Status.Succeeded), Failed: int(set.Status.Failed), Running: int(ptr.Deref(set.Status.Ready, 0))}
	gone := 0
	if failed, ok := failedIndexes(set); ok {
		s.Failed = indexes.Count(failed)
		gone = s.Failed
	}
	if set.Spec.Completions != nil {
		s.Total = int(*set.Spec.Completions)
		s.Pending = max(0, s.Total-s.Done-gone-s.Running)
	} else {
		s.Pending = max(0, int(set.Status.Active)-s.Running)
	}
	return s
}

// failedIndexes gives the indexes that have failed for good, if the set tells them apart.
func failedIndexes(set *batch.TaskSet) ([]indexes.Range, bool) {
	if set.Spec.BackoffLimitPerIndex == nil {
		return nil, false
	}
	ranges, err := indexes.Parse(ptr.Deref(set.Status.FailedIndexes, ""), maxCompletions)
	return ranges, err == nil
}

// finishedSet gives the condition by which a set has ended, nil if it has not.
func finishedSet(set *batch.TaskSet) *metav1.Condition {
	for _, final := range []string{batch.TaskSetComplete, batch.TaskSetFailed} {
		if condition := meta.FindStatusCondition(set.Status.Conditions, final); condition != nil && condition.Status == metav1.ConditionTrue {
			return condition
		}
	}
	return nil
}

// concludeSet says how a set has ended.
func (w *follower) concludeSet(set *batch.TaskSet) error {
	final := finishedSet(set)
	took := ""
	if set.Status.StartTime != nil {
		took = " in " + age(final.LastTransitionTime.Sub(set.Status.StartTime.Time))
	}
	count := strconv.Itoa(int(set.Status.Succeeded))
	if set.Spec.Completions != nil {
		count = fmt.Sprintf("%d of %d", set.Status.Succeeded, *set.Spec.Completions)
	}
	if final.Type == batch.TaskSetComplete {
		fmt.Fprintf(w.streams.ErrOut, "%s is complete: %s succeeded%s\n", w.ref, count, took)
		return nil
	}
	fmt.Fprintf(w.streams.ErrOut, "%s has failed: %s succeeded%s: %s: %s\n", w.ref, count, took, final.Reason, final.Message)
	if failed, ok := failedIndexes(set); ok && len(failed) > 0 {
		fmt.Fprintf(w.streams.ErrOut, "Failed: index %s%s. Why: %s logs %s --index %d. Again: %s retry --failed %s\n",
			sanitize.Truncate(indexes.Format(failed), 60), itemsOf(set, failed), w.program, w.ref, failed[0].First, w.program, set.Name)
	} else {
		fmt.Fprintf(w.streams.ErrOut, "Why: %s explain %s. Again: %s retry --failed %s\n", w.program, w.ref, w.program, set.Name)
	}
	return &exitError{code: exitFailed}
}

// itemsOf says what the first indexes stand for in a set with items.
func itemsOf(set *batch.TaskSet, ranges []indexes.Range) string {
	if len(set.Spec.Items) == 0 {
		return ""
	}
	var items []string
	for _, r := range ranges {
		for index := r.First; index <= r.Last && index < len(set.Spec.Items); index++ {
			if len(items) == 3 {
				return " (items " + strings.Join(items, ", ") + ", …)"
			}
			items = append(items, strconv.Quote(sanitize.Truncate(set.Spec.Items[index], 40)))
		}
	}
	if len(items) == 1 {
		return " (item " + items[0] + ")"
	}
	return " (items " + strings.Join(items, ", ") + ")"
}

func (w *follower) followTask(ctx context.Context, task *batch.Task) error {
	var logs sync.WaitGroup
	if w.logs {
		out := w.output()
		logs.Go(func() {
			streams := taskLogs{factory: w.factory, s: w.s, out: out, options: batch.TaskLogOptions{Follow: true}}
			if err := streams.follow(ctx, task); err != nil && ctx.Err() == nil {
				fmt.Fprintf(w.renderer, "%s\n", w.describe(wrapDeleted(w.ref, err)))
			}
		})
	}
	err := w.s.watchTask(ctx, task, func(current *batch.Task) bool {
		task = current
		if !w.logs {
			w.show(snapshotOfTask(current))
		}
		return finishedTask(current)
	})
	if err != nil {
		return wrapDeleted(w.ref, err)
	}
	logs.Wait()
	w.renderer.Stop()
	return w.concludeTask(task)
}

// snapshotOfTask gives what the command says of its progress, else that of one piece of work.
func snapshotOfTask(task *batch.Task) progress.Snapshot {
	var n, total int
	if _, err := fmt.Sscanf(task.Status.Progress, "%d/%d", &n, &total); err == nil && total > 0 && !finishedTask(task) {
		return progress.Snapshot{Done: n, Total: total, Running: 1, Pending: max(0, total-n-1)}
	}
	s := progress.Snapshot{Total: 1}
	switch task.Status.Phase {
	case batch.TaskRunning:
		s.Running = 1
	case batch.TaskSucceeded:
		s.Done = 1
	case batch.TaskFailed:
		s.Failed = 1
	default:
		s.Pending = 1
	}
	return s
}

func finishedTask(task *batch.Task) bool {
	return task.Status.Phase == batch.TaskSucceeded || task.Status.Phase == batch.TaskFailed
}

// concludeTask says how a task has ended, and gives its exit code.
func (w *follower) concludeTask(task *batch.Task) error {
	took := ""
	if task.Status.StartTime != nil && task.Status.CompletionTime != nil {
		took = " in " + age(task.Status.CompletionTime.Sub(task.Status.StartTime.Time))
	}
	if task.Status.Phase == batch.TaskSucceeded {
		if !w.logs {
			fmt.Fprintf(w.streams.ErrOut, "%s has succeeded%s\n", w.ref, took)
		}
		return nil
	}
	fmt.Fprintf(w.streams.ErrOut, "%s has failed%s: %s\n", w.ref, took, howEnded(task))
	end := task.Status.State.Terminated
	if end == nil {
		return &exitError{code: exitFailed}
	}
	if !w.logs {
		writeIndented(w.streams.ErrOut, end.Message)
	}
	return &exitError{code: max(int(end.ExitCode), exitFailed)}
}

// howEnded says how the last attempt of a task has ended.
func howEnded(task *batch.Task) string {
	end := task.Status.State.Terminated
	if end == nil {
		return "nothing is known of its end"
	}
	text := fmt.Sprintf("exit code %d", end.ExitCode)
	if end.Signal != 0 {
		text = fmt.Sprintf("ended by signal %d (exit code %d)", end.Signal, end.ExitCode)
	}
	switch end.Reason {
	case batch.TaskReasonDeadlineExceeded:
		text = fmt.Sprintf("its time of %s was over (%s)", age(time.Duration(ptr.Deref(task.Spec.ActiveDeadlineSeconds, 0))*time.Second), text)
	case batch.TaskReasonStartError:
		text = "the command could not be started"
	}
	if task.Status.Attempts > 1 {
		text += fmt.Sprintf(", after %d attempts", task.Status.Attempts)
	}
	return text
}

// writeIndented writes lines of output, marked as such.
func writeIndented(to io.Writer, text string) {
	for _, line := range sanitize.Lines(text) {
		fmt.Fprintf(to, "  | %s\n", line)
	}
}
