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
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/printers"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/cli/progress"
	"github.com/leat-dev/leat/pkg/cli/taskstate"
	informers "github.com/leat-dev/leat/pkg/generated/informers/externalversions/batch/v1alpha1"
)

const (
	// topRows is the maximum number of rows of each table.
	topRows = 20
	// toEnd, toHome and toClear are terminal sequences: clear to the end of the line, move to the first line, clear
	// below.
	clearLine, cursorHome, clearBelow = "\x1b[K", "\x1b[H", "\x1b[J"
	// ctrlC is the byte that a terminal in raw mode sends for Ctrl-C.
	ctrlC = 3
)

const topLong = `Show the queues, the workers and the unfinished sets of a namespace, with rates.

On a terminal the tables are updated until q or Ctrl-C. Without a terminal, and with --once, they are printed once. ENDED/S is the rate of
tasks, and of indexes of sets, that succeeded or failed in about the last ten seconds. RATE is the average since the start of the set.`

func (f *factory) newTopCommand() *cobra.Command {
	var once bool
	interval := 2 * time.Second
	command := &cobra.Command{
		Use: "top", GroupID: groupLook,
		Short: "Show queues, workers and sets, with rates",
		Long:  topLong,
		Example: `  leat top
  leat top --once -n batch`,
		Args: noArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			if interval < 100*time.Millisecond {
				return usageErrorf("--interval %s: write 100ms or more", interval)
			}
			s, err := f.connect()
			if err != nil {
				return err
			}
			if once || !progress.IsTerminal(f.streams.Out) {
				return f.topOnce(command.Context(), s)
			}
			return f.topLive(command.Context(), s, interval)
		},
	}
	command.Flags().BoolVar(&once, "once", false, "Print the tables once, also on a terminal")
	command.Flags().DurationVar(&interval, "interval", interval, "Interval between updates")
	return command
}

// view is the data of one screen.
type view struct {
	namespace string
	now       time.Time
	queues    []batch.TaskQueue
	workers   []batch.Worker
	sets      []batch.TaskSet
	tasks     []batch.Task       // unfinished
	ended     map[string]float64 // tasks without a set and indexes per second, by queue; nil if that is not known
}

func (f *factory) topOnce(ctx context.Context, s *session) error {
	v := view{namespace: s.namespace, now: time.Now()}
	var err error
	if v.tasks, err = s.unfinished(ctx); err != nil {
		return err
	}
	queues, err := s.api.TaskQueues(s.namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	workers, err := s.api.Workers(s.namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	sets, err := s.api.TaskSets(s.namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	v.queues, v.workers, v.sets = queues.Items, workers.Items, sets.Items
	_, err = io.WriteString(f.streams.Out, v.render())
	return err
}

// topLive draws the content of informers until q is typed or a signal arrives.
func (f *factory) topLive(ctx context.Context, s *session, interval time.Duration) error {
	// Informers retry forever. List once, so that an error is reported at once.
	if _, err := s.api.TaskQueues(s.namespace).List(ctx, metav1.ListOptions{Limit: 1}); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	restore, err := f.stopOnKey(stop)
	if err != nil {
		return err
	}
	defer restore()
	tasks := informers.NewTypedFilteredTaskInformer(s.client, s.namespace, 0, nil, func(o *metav1.ListOptions) { o.FieldSelector = taskstate.Unfinished })
	queues := informers.NewTypedTaskQueueInformer(s.client, s.namespace, 0, nil)
	workers := informers.NewTypedWorkerInformer(s.client, s.namespace, 0, nil)
	sets := informers.NewTypedTaskSetInformer(s.client, s.namespace, 0, nil)
	counts := &endCounter{total: map[string]int{}}
	// A finished task no longer matches the field selector, so the informer sees a deletion.
	seen, err := tasks.AddTypedEventHandler(informers.TaskHandlerFuncs{DeleteFunc: func(task informers.DeletedTask) {
		if last := task.OptionalObj; last != nil && last.Spec.WorkerName != "" && batch.ControllingTaskSet(last) == nil {
			counts.add(last.Spec.QueueName, 1)
		}
	}})
	if err != nil {
		return err
	}
	// A task of a set can have many indexes, and its last state is not seen here: only the set counts all of them.
	if _, err := sets.AddTypedEventHandler(informers.TaskSetHandlerFuncs{UpdateFunc: counts.addProgress}); err != nil {
		return err
	}
	var running sync.WaitGroup
	defer running.Wait()
	defer stop()
	for _, run := range []func(context.Context){tasks.RunWithContext, queues.RunWithContext, workers.RunWithContext, sets.RunWithContext} {
		running.Go(func() { run(ctx) })
	}
	if !cache.WaitForCacheSync(ctx.Done(), seen.HasSynced, queues.HasSynced, workers.HasSynced, sets.HasSynced) {
		return nil
	}
	fmt.Fprint(f.streams.Out, cursorHome, clearBelow)
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		v := view{
			namespace: s.namespace, now: time.Now(), ended: counts.rates(time.Now()),
			queues: stored[batch.TaskQueue](queues.GetStore()), workers: stored[batch.Worker](workers.GetStore()),
			sets: stored[batch.TaskSet](sets.GetStore()), tasks: stored[batch.Task](tasks.GetStore()),
		}
		fmt.Fprint(f.streams.Out, cursorHome, strings.ReplaceAll(v.render(), "\n", clearLine+"\r\n"), clearBelow)
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// stopOnKey calls stop when q or Ctrl-C is typed. If the input is a terminal, it is in raw mode until restore is
// called, so that Ctrl-C is a key and no signal.
func (f *factory) stopOnKey(stop func()) (restore func(), err error) {
	in, ok := f.streams.In.(*os.File)
	if !ok || !progress.IsTerminal(in) {
		return func() {}, nil
	}
	before, err := term.MakeRaw(int(in.Fd()))
	if err != nil {
		return nil, err
	}
	go func() {
		key := make([]byte, 1)
		for {
			n, err := in.Read(key)
			if err != nil || n == 1 && (key[0] == 'q' || key[0] == 'Q' || key[0] == ctrlC) {
				stop()
				return
			}
		}
	}()
	return func() { _ = term.Restore(int(in.Fd()), before) }, nil
}

// stored returns the objects in the store of an informer, sorted by name.
func stored[T any, P interface {
	*T
	metav1.Object
}](store cache.Store) []T {
	var all []T
	for _, item := range store.List() {
		all = append(all, *item.(P))
	}
	slices.SortFunc(all, func(a, b T) int { return strings.Compare(P(&a).GetName(), P(&b).GetName()) })
	return all
}

// endCounter counts by queue what has ended: tasks that belong to no set, and indexes of sets.
type endCounter struct {
	mu    sync.Mutex
	total map[string]int
	past  []endSample
}

// endSample is the totals at a time.
type endSample struct {
	at    time.Time
	total map[string]int
}

// rateWindow is the period over which rates are taken.
const rateWindow = 10 * time.Second

func (c *endCounter) add(queue string, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.total[queue] += n
}

// addProgress adds the indexes that have succeeded and the tasks that have failed between two states of a set.
func (c *endCounter) addProgress(before, after *batch.TaskSet) {
	if n := after.Status.Succeeded + after.Status.Failed - before.Status.Succeeded - before.Status.Failed; n > 0 && before.UID == after.UID {
		c.add(after.Spec.QueueName, int(n))
	}
}

// rates returns the number of ends per second over the last rateWindow, by queue.
func (c *endCounter) rates(now time.Time) map[string]float64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.past = append(c.past, endSample{now, maps.Clone(c.total)})
	for len(c.past) > 2 && now.Sub(c.past[1].at) >= rateWindow {
		c.past = c.past[1:]
	}
	rates := map[string]float64{}
	elapsed := now.Sub(c.past[0].at).Seconds()
	if elapsed <= 0 {
		return rates
	}
	for queue, total := range c.total {
		rates[queue] = float64(total-c.past[0].total[queue]) / elapsed
	}
	return rates
}

// render returns the screen as text.
func (v *view) render() string {
	var b bytes.Buffer
	ready, running, pending := 0, 0, 0
	for i := range v.workers {
		if meta.IsStatusConditionTrue(v.workers[i].Status.Conditions, batch.WorkerReady) {
			ready++
		}
	}
	for i := range v.tasks {
		switch {
		case v.tasks[i].Spec.WorkerName != "":
			running++
		case v.tasks[i].DeletionTimestamp == nil:
			pending++
		}
	}
	fmt.Fprintf(&b, "Namespace %s: %d of %s ready, %s bound, %d pending", v.namespace, ready, plural(len(v.workers), "worker"), plural(running, "task"), pending)
	if v.ended != nil {
		all := 0.0
		for _, rate := range v.ended {
			all += rate
		}
		fmt.Fprintf(&b, ", %s ended", progress.FormatRate(all))
	}
	b.WriteString("\n\n")
	v.renderQueues(&b)
	v.renderWorkers(&b)
	v.renderSets(&b)
	return b.String()
}

// table writes the header and at most topRows rows. It writes nothing if there are no rows.
func table(to io.Writer, header string, rows []string) {
	if len(rows) == 0 {
		return
	}
	w := printers.GetNewTabWriter(to)
	fmt.Fprintln(w, header)
	for _, row := range rows[:min(len(rows), topRows)] {
		fmt.Fprintln(w, row)
	}
	_ = w.Flush()
	if more := len(rows) - topRows; more > 0 {
		fmt.Fprintf(to, "… and %d more\n", more)
	}
	fmt.Fprintln(to)
}

// renderQueues writes a row for each queue that exists or that a task refers to.
func (v *view) renderQueues(to io.Writer) {
	objects := map[string]*batch.TaskQueue{}
	for i := range v.queues {
		objects[v.queues[i].Name] = &v.queues[i]
	}
	pending, oldest := map[string]int{}, map[string]time.Time{}
	for i := range v.tasks {
		name := v.tasks[i].Spec.QueueName
		if _, ok := objects[name]; !ok {
			objects[name] = &batch.TaskQueue{}
		}
		if v.tasks[i].Spec.WorkerName != "" || v.tasks[i].DeletionTimestamp != nil {
			continue
		}
		pending[name]++
		if at := v.tasks[i].CreationTimestamp.Time; oldest[name].IsZero() || at.Before(oldest[name]) {
			oldest[name] = at
		}
	}
	used := loads(v.tasks, byQueue)
	var rows []string
	for _, name := range sortedKeys(objects) {
		queue := objects[name]
		limit, wait, ended := "none", "-", "-"
		if n := queue.Spec.MaxRunningTasks; n != nil {
			limit = strconv.Itoa(int(*n))
		}
		if at := oldest[name]; !at.IsZero() {
			wait = age(v.now.Sub(at))
		}
		if v.ended != nil {
			ended = fmt.Sprintf("%.1f", v.ended[name])
		}
		rows = append(rows, fmt.Sprintf("%s\t%d\t%d\t%s\t%d\t%s\t%s\t%s", name, ptr.Deref(queue.Spec.Weight, 1), used[name].tasks, limit,
			pending[name], wait, ptr.Deref(queue.Spec.StopPolicy, batch.StopPolicyNone), ended))
	}
	table(to, "QUEUE\tWEIGHT\tBOUND\tLIMIT\tPENDING\tOLDEST\tSTOP\tENDED/S", rows)
}

// renderWorkers writes a row for each worker.
func (v *view) renderWorkers(to io.Writer) {
	taken := loads(v.tasks, byWorker)
	var rows []string
	for i := range v.workers {
		worker := &v.workers[i]
		status := "NotReady"
		if c := meta.FindStatusCondition(worker.Status.Conditions, batch.WorkerReady); c != nil && c.Status != metav1.ConditionFalse {
			status = map[metav1.ConditionStatus]string{metav1.ConditionTrue: "Ready", metav1.ConditionUnknown: "Unknown"}[c.Status]
		}
		if worker.Spec.Denied {
			status += ",Denied"
		}
		if worker.Spec.Unschedulable {
			status += ",SchedulingDisabled"
		}
		sum := taken[worker.Name]
		capacity := worker.Status.Allocatable[batch.ResourceTasks]
		rows = append(rows, fmt.Sprintf("%s\t%s\t%d/%d\t%s\t%s\t%s", worker.Name, status, sum.tasks, capacity.Value(),
			ofAll(worker, sum, batch.ResourceCPU), ofAll(worker, sum, batch.ResourceMemory), age(v.now.Sub(worker.CreationTimestamp.Time))))
	}
	table(to, "WORKER\tSTATUS\tTASKS\tCPU\tMEMORY\tAGE", rows)
}

// ofAll formats the requested and the allocatable amount of a resource.
func ofAll(worker *batch.Worker, taken load, name batch.ResourceName) string {
	has, ok := worker.Status.Allocatable[name]
	if !ok {
		return "-"
	}
	used := taken.requests[name]
	return used.String() + "/" + has.String()
}

// renderSets writes a row for each unfinished set.
func (v *view) renderSets(to io.Writer) {
	var rows []string
	for i := range v.sets {
		set := &v.sets[i]
		if taskstate.Finished(set) != nil {
			continue
		}
		s := taskstate.Progress(set)
		rate := "-"
		if perSecond := averageRate(set, v.now); perSecond > 0 {
			rate = progress.FormatRate(perSecond)
		}
		rows = append(rows, fmt.Sprintf("%s\t%s\t%s\t%d\t%d\t%d\t%s\t%s", set.Name, taskstate.StatusOfUnfinished(set), doneOf(s), s.Failed, s.Running, s.Pending,
			rate, timeLeft(set, s, v.now)))
	}
	table(to, "SET\tSTATUS\tDONE\tFAILED\tRUNNING\tPENDING\tRATE\tLEFT", rows)
}

// doneOf formats how many of how many have succeeded, like 5/10, or 5/? if that is not known.
func doneOf(s progress.Snapshot) string {
	if s.Total > 0 {
		return fmt.Sprintf("%d/%d", s.Done, s.Total)
	}
	return fmt.Sprintf("%d/?", s.Done)
}

// timeLeft formats how long the rest of a set takes at its average rate, or - if that is not known.
func timeLeft(set *batch.TaskSet, s progress.Snapshot, now time.Time) string {
	rate := averageRate(set, now)
	if rate <= 0 || s.Total == 0 {
		return "-"
	}
	return age(time.Duration(float64(s.Total-s.Done-s.Failed) / rate * float64(time.Second)))
}
