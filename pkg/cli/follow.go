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
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"

	"github.com/leat-dev/leat/apis/batch/indexes"
	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/cli/progress"
	"github.com/leat-dev/leat/pkg/cli/sanitize"
	"github.com/leat-dev/leat/pkg/cli/taskstate"
)

// followOptions are the flags of commands that wait for tasks and sets.
type followOptions struct {
	*factory
	wait, logs     bool
	until          milestone
	maxLogRequests int
}

func (o *followOptions) addFlags(flags *pflag.FlagSet) {
	flags.BoolVar(&o.logs, "logs", false, "With --wait, which it implies: show what the commands print")
	flags.IntVar(&o.maxLogRequests, "max-log-requests", defaultLogRequests, "With --logs: of how many tasks at a time")
}

const waitLong = `Show the progress of tasks and sets until all of them have ended. The exit code is their outcome.

Use it to come back to tasks and sets that you detached from. Exit codes are those of "leat run --wait". For several names, the exit
code is 0 if all have succeeded, otherwise 1.

With --for it returns earlier: at the start of the first command, at the first failure (with exit code 1), or when a share of the
tasks has ended. What ends before that counts as without --for.`

func (f *factory) newWaitCommand() *cobra.Command {
	o := &followOptions{factory: f, wait: true}
	command := &cobra.Command{
		Use: "wait NAME...", GroupID: groupRun,
		Short: "Show the progress of tasks and sets until they end",
		Long:  waitLong,
		Example: `  leat wait @latest
  leat wait taskset/squares --logs
  leat wait taskset/squares --for failure || leat explain taskset/squares
  leat wait taskset/squares taskset/cubes`,
		Args: atLeastOne("task or set"), ValidArgsFunction: f.completeNames(kindTask, kindSet),
		RunE: func(command *cobra.Command, args []string) error {
			s, err := f.connect()
			if err != nil {
				return err
			}
			var objects []object
			for _, name := range args {
				found, err := s.find(command.Context(), name)
				if err != nil {
					return err
				}
				if !slices.ContainsFunc(objects, func(o object) bool { return o.ref() == found.ref() }) {
					objects = append(objects, found)
				}
			}
			return o.follow(command.Context(), s, objects...)
		},
	}
	o.addFlags(command.Flags())
	command.Flags().Lookup("logs").Usage = "Show what the commands print"
	command.Flags().Var(&o.until, "for", "What to wait for: end, start, failure, or a share of the tasks like 50%")
	return command
}

// reportCreated prints a created object, records it as @latest, and follows it with --wait or --logs. print writes to
// standard output; with --logs to standard error, because standard output is for the output of the commands then.
func (o *followOptions) reportCreated(ctx context.Context, s *session, created runtime.Object, print func(io.Writer) error, hint bool) error {
	found := object{}
	switch created := created.(type) {
	case *batch.Task:
		found.task = created
	case *batch.TaskSet:
		found.set = created
	}
	if err := s.remember(found.ref()); err != nil {
		fmt.Fprintf(o.streams.ErrOut, "warning: cannot record %s as %s: %v\n", found.ref(), latestName, err)
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

// follower waits for tasks and sets and shows their progress in one line.
type follower struct {
	*followOptions
	s        *session
	renderer *progress.Renderer
	members  []*member

	mu              sync.Mutex
	paused          bool // a question is on the screen
	unfinishedCount int  // members with ended unset
}

// member is a task, a set or an index that a follower waits for.
type member struct {
	*follower
	object object
	ref    ref

	// The fields below are guarded by the follower's mu.
	ended      bool
	shown      bool // snapshot counts in the progress line
	snapshot   progress.Snapshot
	lastChange time.Time // of snapshot
	lastReason string    // why it waits, as reported last
	lastLookup time.Time // of the reason
}

// follow shows progress until all objects have ended. An error carries the exit code; for a single task it is that of
// its command.
func (o *followOptions) follow(ctx context.Context, s *session, objects ...object) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	if o.maxLogRequests < 1 {
		return usageErrorf("--max-log-requests %d: write 1 or more", o.maxLogRequests)
	}
	w := &follower{followOptions: o, s: s, renderer: progress.New(o.streams.ErrOut), unfinishedCount: len(objects)}
	signals := make(chan os.Signal, 2)
	notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(signals)

	errs := make([]error, len(objects))
	var all sync.WaitGroup
	for _, found := range objects {
		w.members = append(w.members, &member{follower: w, object: found, ref: found.ref(), lastChange: time.Now()})
	}
	for i, m := range w.members {
		all.Go(func() { errs[i] = m.follow(ctx) })
	}
	ended := make(chan struct{})
	go func() {
		all.Wait()
		close(ended)
	}()
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	var cancelled []*member
	for {
		select {
		case <-ended:
			w.renderer.Stop()
			if len(cancelled) == 0 {
				return w.conclude(errs)
			}
			for _, m := range cancelled {
				fmt.Fprintf(o.streams.ErrOut, "%s cancelled\n", m.ref.full())
			}
			return &exitError{code: exitInterrupted}
		case <-ticker.C:
			w.reportWaiting(ctx)
		case sig := <-signals:
			code := exitInterrupted
			if number, ok := sig.(syscall.Signal); ok {
				code = 128 + int(number)
			}
			switch w.ask(sig, signals, ended) {
			case keepWatching:
			case cancel:
				for _, m := range w.unfinished() {
					found, err := o.taskOfIndex(ctx, s, m.current())
					if err != nil {
						return err
					}
					if err := s.cancel(ctx, found, false); err != nil && !objectNotFound(err) {
						return err
					}
					cancelled = append(cancelled, m)
				}
			default:
				w.renderer.Stop()
				names := w.names()
				fmt.Fprintf(o.streams.ErrOut, "Detached: %s. Come back with: %s wait %s\n", goesOn(names), o.program, strings.Join(names, " "))
				return &exitError{code: code}
			}
		}
	}
}

// conclude returns the error of a single object unchanged. For several objects it prints the errors that have not been
// reported, and returns only the exit code.
func (w *follower) conclude(errs []error) error {
	if len(errs) == 1 {
		return errs[0]
	}
	var failed error
	for _, err := range errs {
		if err == nil {
			continue
		}
		failed = &exitError{code: exitFailed}
		if coded, ok := errors.AsType[*exitError](err); !ok || coded.cause != nil {
			fmt.Fprintln(w.streams.ErrOut, w.describe(err))
		}
	}
	return failed
}

// unfinished returns the members that have not ended.
func (w *follower) unfinished() []*member {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(w.members), func(m *member) bool { return m.ended })
}

// names returns the names of the unfinished members, as other commands accept them.
func (w *follower) names() []string {
	var names []string
	for _, m := range w.unfinished() {
		names = append(names, m.ref.String())
	}
	return names
}

func goesOn(names []string) string {
	if len(names) == 1 {
		return names[0] + " goes on"
	}
	return strings.Join(names, " and ") + " go on"
}

// answer is a person's answer to an interrupt.
type answer int

const (
	detach answer = iota
	cancel
	keepWatching
)

// ask asks what to do after an interrupt. Without a terminal, and on a second signal, the answer is detach.
func (w *follower) ask(sig os.Signal, signals <-chan os.Signal, ended <-chan struct{}) answer {
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
	what, them := " is not done", "it"
	names := w.names()
	if len(names) > 1 {
		what, them = " are not done", "them"
	}
	fmt.Fprintf(w.streams.ErrOut, "\n%s%s. d: detach and let %s go on, c: cancel %s, Enter: go on watching? ", strings.Join(names, " and "), what, them, them)
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
			return keepWatching
		case strings.HasPrefix("cancel", line):
			return cancel
		}
		return detach
	case <-signals:
		fmt.Fprintln(w.streams.ErrOut)
		return detach
	case <-ended:
		fmt.Fprintln(w.streams.ErrOut)
		return keepWatching
	}
}

func (w *follower) pause(on bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.paused = on
	if on {
		w.renderer.Stop()
	} else {
		w.update()
	}
}

// update shows the sum of all members' snapshots. The caller holds mu.
func (w *follower) update() {
	if w.paused || w.unfinishedCount == 0 {
		return
	}
	var sum progress.Snapshot
	shown := 0
	for _, m := range w.members {
		if m.shown {
			sum = sum.Add(m.snapshot)
			shown++
		}
	}
	if shown == len(w.members) {
		w.renderer.Update(sum)
	}
}

// show sets the member's snapshot, and whether it counts in the progress line.
func (m *member) show(s progress.Snapshot, visible bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s != m.snapshot {
		m.lastChange = time.Now()
	}
	m.snapshot, m.shown = s, visible
	m.update()
}

// startPatience is how long nothing may run until the reason is looked up.
const startPatience = 5 * time.Second

// reportWaiting redraws the progress, and reports why members do not run that have waited for startPatience. A reason
// is reported once, and again when it changes.
func (w *follower) reportWaiting(ctx context.Context) {
	w.mu.Lock()
	w.update()
	now := time.Now()
	var waiting []*member
	for _, m := range w.members {
		if !m.ended && m.snapshot.Running == 0 && now.Sub(m.lastChange) >= startPatience && now.Sub(m.lastLookup) >= startPatience {
			m.lastLookup = now
			waiting = append(waiting, m)
		}
	}
	w.mu.Unlock()
	for _, m := range waiting {
		// After an error, the next tick retries.
		if why, err := m.waitingReason(ctx); err == nil {
			m.reportReason(why)
		}
	}
}

// current returns the last seen state of the object.
func (m *member) current() object {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.object
}

func (m *member) waitingReason(ctx context.Context) (string, error) {
	current := m.current()
	if current.set != nil {
		return m.s.setWaitingReason(ctx, m.program, current.set)
	}
	return m.s.taskWaitingReason(ctx, current.task)
}

// reportReason prints why the member waits, unless it printed that reason last.
func (m *member) reportReason(why string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if why == "" || why == m.lastReason || m.paused || m.ended {
		return
	}
	m.lastReason = why
	fmt.Fprintf(m.renderer, "%s waits: %s\n", m.ref, sanitize.Line(why))
}

// end marks the member as ended. The last member stops the renderer, so that later output appears below the progress.
func (m *member) end() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ended = true
	if m.unfinishedCount--; m.unfinishedCount == 0 {
		m.renderer.Stop()
	}
}

// output returns the writer for logs: the renderer if logs and progress share a terminal, so that logs appear above the
// progress.
func (w *follower) output() io.Writer {
	if progress.IsTerminal(w.streams.Out) && progress.IsTerminal(w.streams.ErrOut) {
		return w.renderer
	}
	return w.streams.Out
}

// follow shows the progress of the member until it has ended, or reached the milestone. Its output is shown as long.
func (m *member) follow(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	switch {
	case m.object.index != nil:
		return m.followIndex(ctx, m.object)
	case m.object.set != nil:
		return m.followSet(ctx, m.object.set)
	}
	return m.followTask(ctx, m.object.task)
}

func (m *member) followSet(ctx context.Context, set *batch.TaskSet) error {
	var logs sync.WaitGroup
	ended := make(chan struct{})
	if m.logs {
		streams := &setLogs{
			factory: m.factory, s: m.s, set: set, lines: m.lineWriter(m.output()), options: batch.TaskLogOptions{Follow: true}, limit: m.maxLogRequests, ended: ended,
		}
		logs.Go(func() {
			if err := streams.follow(ctx); err != nil && ctx.Err() == nil {
				fmt.Fprintf(m.renderer, "%s\n", m.describe(err))
			}
		})
	}
	err := m.s.watchSet(ctx, set, func(current *batch.TaskSet) bool {
		set = current
		m.mu.Lock()
		m.object.set = current
		m.mu.Unlock()
		m.show(taskstate.Progress(current), true)
		if taskstate.Finished(current) != nil {
			return true
		}
		m.reportReason(replicaFailure(current))
		return m.atMilestone()
	})
	close(ended)
	if err == nil && taskstate.Finished(set) == nil {
		return m.concludeMilestone()
	}
	if err == nil {
		logs.Wait()
	}
	m.end()
	if err != nil {
		return wrapDeleted(m.ref, err)
	}
	err = m.concludeSet(ctx, set)
	m.reportRetries(ctx, set)
	m.reportOutput(set)
	return err
}

// reportOutput prints which commands show the output of a finished set, unless it was shown or is deleted with the set.
func (m *member) reportOutput(set *batch.TaskSet) {
	if m.logs || ptr.Deref(set.Spec.TTLSecondsAfterFinished, 1) == 0 {
		return
	}
	text := fmt.Sprintf("Output: %s logs %s", m.program, m.ref)
	if taskstate.Finished(set).Type == batch.TaskSetFailed && set.Status.Failed > 0 {
		text += fmt.Sprintf(". Of what failed: %s logs %s --failed", m.program, m.ref)
	}
	fmt.Fprintln(m.renderer, text)
}

// wrapDeleted adds the name of the object to errDeleted. It returns other errors unchanged.
func wrapDeleted(r ref, err error) error {
	if errors.Is(err, errDeleted) {
		return fmt.Errorf("%s %w", r, err)
	}
	return err
}

// describeEnd returns how a set ended, as the predicate of a sentence.
func describeEnd(final *metav1.Condition) string {
	switch {
	case final.Type == batch.TaskSetComplete:
		return fmt.Sprintf("is complete: %s: %s", final.Reason, final.Message)
	case final.Reason == batch.TaskSetReasonCancelled:
		return "was cancelled"
	}
	return fmt.Sprintf("has failed: %s: %s", final.Reason, final.Message)
}

// concludeSet prints how a set ended. It returns an error with the exit code unless the set is complete.
func (m *member) concludeSet(ctx context.Context, set *batch.TaskSet) error {
	final := taskstate.Finished(set)
	took := ""
	if set.Status.StartTime != nil {
		took = " in " + age(final.LastTransitionTime.Sub(set.Status.StartTime.Time))
	}
	count := strconv.Itoa(int(set.Status.Succeeded))
	if set.Spec.Completions != nil {
		count = fmt.Sprintf("%d of %d", set.Status.Succeeded, *set.Spec.Completions)
	}
	if final.Type == batch.TaskSetComplete {
		fmt.Fprintf(m.renderer, "%s is complete: %s succeeded%s\n", m.ref, count, took)
		return nil
	}
	if final.Reason == batch.TaskSetReasonCancelled {
		fmt.Fprintf(m.renderer, "%s was cancelled: %s succeeded%s\n", m.ref, count, took)
		return &exitError{code: exitFailed}
	}
	var text strings.Builder
	fmt.Fprintf(&text, "%s has failed: %s succeeded%s: %s: %s\n", m.ref, count, took, final.Reason, sanitize.Line(final.Message))
	failed, _ := taskstate.FailedIndexes(set)
	if len(failed) > 0 {
		fmt.Fprintf(&text, "Failed: %s%s\n", describeIndexes(set, failed), itemsOf(set, failed))
	}
	if first := m.s.firstFailed(ctx, set, failed); first != nil {
		fmt.Fprintf(&text, "%s: %s\n", nameInSet(set, first), howEnded(first))
		writeTail(&text, first)
	}
	if ptr.Deref(set.Spec.TTLSecondsAfterFinished, 1) > 0 {
		fmt.Fprintf(&text, "Why: %s explain %s. Again: %s retry %s\n", m.program, m.ref, m.program, set.Name)
	}
	fmt.Fprint(m.renderer, text.String())
	return &exitError{code: exitFailed}
}

// nameInSet returns a name for a failed task among those of its set: the index that has failed, if there is one.
func nameInSet(set *batch.TaskSet, task *batch.Task) string {
	if index, ok := taskstate.FailedIndex(task); ok {
		return fmt.Sprintf("Index %d", taskstate.Numbers(set).Number(index))
	}
	return "task/" + task.Name
}

// firstFailed returns the last failed task of the first failed index, or any failed task if failed is empty. It returns
// nil if there is none or it cannot be read.
func (s *session) firstFailed(ctx context.Context, set *batch.TaskSet, failed []indexes.Range) *batch.Task {
	if len(failed) > 0 {
		tasks, err := s.tasksOfIndex(ctx, object{set: set, index: &failed[0].First})
		if err != nil {
			return nil
		}
		return failedAt(tasks, failed[0].First)
	}
	list, err := s.api.Tasks(s.namespace).List(ctx, metav1.ListOptions{
		LabelSelector: batch.LabelControllerUID + "=" + string(set.UID), FieldSelector: "status.phase=" + string(batch.TaskFailed), Limit: 1,
	})
	if err != nil || len(list.Items) == 0 {
		return nil
	}
	return &list.Items[0]
}

// failedAt returns the first of the tasks that has failed at the index, or nil.
func failedAt(tasks []batch.Task, index int) *batch.Task {
	for i := range tasks {
		if failed, ok := taskstate.FailedIndex(&tasks[i]); ok && failed == index {
			return &tasks[i]
		}
	}
	return nil
}

// tailLines is the number of lines of output shown for a failed task of a set.
const tailLines = 10

// writeTail writes the last lines of the task's output, from its status.
func writeTail(to io.Writer, task *batch.Task) {
	end := task.Status.State.Terminated
	if end == nil {
		return
	}
	lines := sanitize.Lines(end.Message)
	writeIndented(to, strings.Join(lines[max(0, len(lines)-tailLines):], "\n"))
}

// itemsOf lists the items of the first indexes in parentheses. It returns "" for a set without items.
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

func (m *member) followTask(ctx context.Context, task *batch.Task) error {
	var logs sync.WaitGroup
	printed := false // all output has been shown
	if m.logs {
		first, out := task, m.output()
		logs.Go(func() {
			streams := taskLogs{factory: m.factory, s: m.s, out: out, options: batch.TaskLogOptions{Follow: true}}
			err := streams.follow(ctx, first)
			switch {
			case err == nil:
				printed = true
			case ctx.Err() != nil:
			case objectNotFound(err):
				fmt.Fprintf(m.renderer, "%s was deleted before what it printed could be read: a longer --ttl keeps it.\n", m.ref)
			default:
				fmt.Fprintf(m.renderer, "%s\n", m.describe(wrapDeleted(m.ref, err)))
			}
		})
	}
	err := m.s.watchTask(ctx, task, func(current *batch.Task) bool {
		task = current
		m.mu.Lock()
		m.object.task = current
		m.mu.Unlock()
		m.show(snapshotOfTask(current), !m.logs)
		return current.Status.Phase.Finished() || m.atMilestone()
	})
	if err == nil && !task.Status.Phase.Finished() {
		return m.concludeMilestone()
	}
	if err == nil {
		logs.Wait()
	}
	m.end()
	if err != nil {
		return wrapDeleted(m.ref, err)
	}
	return m.concludeTask(task, printed)
}

// snapshotOfTask returns the number of indexes of a task that has several, otherwise the progress that the command
// reports. Without a report the task is one piece of work.
func snapshotOfTask(task *batch.Task) progress.Snapshot {
	s := progress.Snapshot{Total: 1}
	if task.Status.StartTime != nil {
		s.Started = task.Status.StartTime.Time
	}
	if task.Status.CompletionTime != nil {
		s.Ended = task.Status.CompletionTime.Time
	}
	if taskstate.IsChunk(task) {
		s.Done, s.Total = int(task.Status.CompletedCount), indexes.Count(taskstate.HeldIndexes(task))
		switch task.Status.Phase {
		case batch.TaskRunning:
			s.Running = 1
		case batch.TaskFailed:
			s.Failed = 1
		}
		s.Pending = max(0, s.Total-s.Done-s.Running-s.Failed)
		return s
	}
	var n, total int
	if _, err := fmt.Sscanf(task.Status.Progress, "%d/%d", &n, &total); err == nil && total > 0 && !task.Status.Phase.Finished() {
		s.Done, s.Total, s.Running, s.Pending = n, total, 1, max(0, total-n-1)
		return s
	}
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

// concludeTask prints how a task ended. It returns an error with the exit code of its command unless it succeeded.
// printed means that all its output has been shown.
func (m *member) concludeTask(task *batch.Task, printed bool) error {
	took := ""
	if begin, end := task.Status.StartTime, task.Status.CompletionTime; begin != nil && end != nil {
		took = " in " + age(end.Sub(begin.Time))
	}
	if failed, ok := taskstate.FailedIndex(task); ok && taskstate.IsChunk(task) {
		if m.object.index == nil {
			took += " at " + describeNumbers(numbersIn(task, single(failed)))
		} else if last := task.Status.State.Terminated; last != nil {
			took = " in " + age(last.FinishedAt.Sub(last.StartedAt.Time)) // the other indexes of the task are not meant
		}
	}
	if task.Status.Phase == batch.TaskSucceeded {
		if !m.logs {
			fmt.Fprintf(m.renderer, "%s has succeeded%s\n", m.ref, took)
		}
		return nil
	}
	var text strings.Builder
	fmt.Fprintf(&text, "%s has failed%s: %s\n", m.ref, took, howEnded(task))
	code := exitFailed
	if end := task.Status.State.Terminated; end != nil {
		code = max(int(end.ExitCode), exitFailed)
		// A start error is not part of the command's output.
		if !printed || end.Reason == batch.TaskReasonStartError {
			writeIndented(&text, end.Message)
		}
	}
	fmt.Fprint(m.renderer, text.String())
	return &exitError{code: code}
}

// howEnded describes how the last attempt of a task ended.
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
	case batch.TaskReasonCompleted, batch.TaskReasonError, "":
	case batch.TaskReasonDeadlineExceeded:
		text = fmt.Sprintf("its time of %s was over (%s)", age(time.Duration(ptr.Deref(task.Spec.ActiveDeadlineSeconds, 0))*time.Second), text)
	case batch.TaskReasonStartError:
		text = "the command could not be started"
	case batch.TaskReasonOOMKilled:
		text = fmt.Sprintf("memory ran out (%s)", text)
		if requested, ok := task.Spec.Resources.Requests[batch.ResourceMemory]; ok {
			text = fmt.Sprintf("memory ran out: it asks for %s (%s)", requested.String(), text)
		}
	case batch.TaskReasonWorkerCrashed:
		text = fmt.Sprintf("its worker was lost or restarted %s while it ran", times(int(task.Status.WorkerCrashes)))
	default:
		text = fmt.Sprintf("%s (%s)", end.Reason, text)
	}
	if task.Status.Attempts > 1 {
		text += fmt.Sprintf(", after %d attempts", task.Status.Attempts)
	}
	return text
}

// writeIndented writes lines of a command's output with a prefix.
func writeIndented(to io.Writer, text string) {
	for _, line := range sanitize.Lines(text) {
		fmt.Fprintf(to, "  | %s\n", line)
	}
}
