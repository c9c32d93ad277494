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

package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/utils/ptr"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	typed "github.com/leat-dev/leat/pkg/generated/clientset/versioned/typed/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/measure"
)

const (
	// fewSlots and manySlots are the slots of the worker of "leat up".
	fewSlots, manySlots = 4, 16
	// localParallelism is the default of "leat run".
	localParallelism = 1000
	// localNamespace is the namespace of the worker of "leat up".
	localNamespace = "default"
	// yardstickIndexes limits the commands of yardsticks, whose rate does not depend on the number.
	yardstickIndexes = 5_000
	// mixedIndexes have a long command each mixedEvery, and short ones otherwise.
	mixedIndexes, mixedEvery = 10_000, 100
	mixedLong, mixedShort    = 10 * time.Second, 10 * time.Millisecond
	// quickSleep is the only duration of --quick.
	quickSleep        = 100 * time.Millisecond
	localReadyTimeout = time.Minute
	// itemIndexes are the indexes of the set with items. A set has at most 1 MiB of items.
	itemIndexes = 20_000
)

// Names of subjects, values and measurements of chunks.
const (
	localLabel     = "leat up"
	chunksOffLabel = "leat up, chunks off"
	xargsLabel     = "xargs"
	loopLabel      = "bare fork/exec"

	valueIndexes     = "indexes"
	valueSeconds     = "s"
	valueUtilisation = "utilisation %"
	valueWritesIndex = "etcd writes an index"
	valueCPUIndex    = "cpu ms of leat up an index"
	valueCPUCommand  = "of its commands"

	whatTrue     = "true"
	whatEcho     = "echo"
	whatEchoItem = "echo of an item"
	whatMixed    = "1 % of 10s among 10ms"
)

// sleeps are the commands whose utilisation is measured. Each slot runs as many of them as perSlot.
var sleeps = []struct {
	duration time.Duration
	perSlot  int
}{{10 * time.Millisecond, 200}, {50 * time.Millisecond, 100}, {quickSleep, 75}, {500 * time.Millisecond, 20}, {time.Second, 15}}

// longSleeps are the commands of long sets, in which the beginning and the end of a set count for little.
var longSleeps = []struct {
	duration time.Duration
	perSlot  int
}{{10 * time.Millisecond, 2500}, {20 * time.Millisecond, 1250}, {quickSleep, 600}}

// onSlots returns the name of a measurement with a number of slots.
func onSlots(what string, slots int) string { return fmt.Sprintf("%s, %d slots", what, slots) }

// sleepName returns the name of the measurement of a sleep.
func sleepName(d time.Duration, slots int) string { return onSlots("sleep "+d.String(), slots) }

// longSleepName returns the name of the measurement of a sleep in a long set.
func longSleepName(d time.Duration, slots int) string {
	return onSlots("sleep "+d.String()+", long set", slots)
}

// local is a running "leat up" with one worker.
type local struct {
	*measure.TB
	env   *kit.Env
	etcd  *clientv3.Client
	api   typed.BatchV1alpha1Interface
	slots int
	// sets is the number of sets that have been created.
	sets int
}

// measureChunks runs sets of short commands on "leat up", and the same commands by xargs and by a bare loop.
func (b *bench) measureChunks(tb *measure.TB) {
	for _, slots := range []int{fewSlots, manySlots} {
		b.withLocal(tb, slots, func(l *local) {
			b.measureRates(l)
			b.measureUtilisation(l)
			switch {
			case b.Quick:
			case slots == fewSlots:
				b.measureItems(l)
			default:
				b.measureMixed(l)
			}
		})
	}
}

// withLocal runs f with a new "leat up", which ends with f.
func (b *bench) withLocal(tb *measure.TB, slots int, f func(*local)) {
	s := measure.NewTB(tb.Context(), "bench", filepath.Join(tb.ArtifactDir(), fmt.Sprintf("up-%d", slots)))
	func() {
		defer s.End()
		tb.Check(os.MkdirAll(s.ArtifactDir(), 0o700))
		f(b.startLocal(s, slots))
	}()
	tb.Check(s.Err())
}

// startLocal starts "leat up" and waits until its worker is ready.
func (b *bench) startLocal(s *measure.TB, slots int) *local {
	l := &local{TB: s, slots: slots, env: kit.Standalone(s, "--workers=1", "--worker-tasks="+strconv.Itoa(slots))}
	l.etcd = l.env.EtcdClient(s)
	client := kit.Client(s, l.env.Admin(s))
	version, err := client.Discovery().ServerVersion()
	s.Check(err)
	b.result.Versions[localLabel] = version.GitVersion + " (" + version.GoVersion + ")"
	l.api = client.BatchV1alpha1()
	ctx, cancel := context.WithTimeout(s.Context(), localReadyTimeout)
	defer cancel()
	workers, err := l.api.Workers(localNamespace).Watch(ctx, metav1.ListOptions{})
	s.Check(err)
	defer workers.Stop()
	for event := range workers.ResultChan() {
		worker, ok := event.Object.(*batch.Worker)
		if ok && meta.IsStatusConditionTrue(worker.Status.Conditions, batch.WorkerReady) {
			return l
		}
	}
	s.Fatalf("the worker of leat up was not ready after %s", localReadyTimeout)
	return nil
}

// measureRates measures commands a second: of sets by "leat run", of xargs and of a bare loop, which use all
// processors. The yardsticks run before and after the set, because the speed of a machine changes.
func (b *bench) measureRates(l *local) {
	commands := []string{whatTrue, whatEcho}
	if b.Quick {
		if l.slots != fewSlots {
			return
		}
		commands = commands[:1]
	}
	for _, command := range commands {
		name, n := onSlots(command, l.slots), b.Indexes
		b.yardsticks(l, name, command, min(n, yardstickIndexes))
		b.measureSet(l, name, localLabel, n, 0, func() time.Duration { return l.runByCommand(n, command) })
		b.yardsticks(l, name, command, min(n, yardstickIndexes))
	}
}

// yardsticks measures the rate of a command by xargs and by a bare loop.
func (b *bench) yardsticks(l *local, name, command string, n int) {
	processes := runtime.NumCPU()
	for _, yardstick := range []struct {
		label string
		took  time.Duration
	}{
		{loopLabel, forkLoop(l, processes, n, command)},
		{xargsLabel, xargs(l, processes, repeated("0", n), command)},
	} {
		v := values{valueIndexes: float64(n), valueSeconds: yardstick.took.Seconds(), valueRate: float64(n) / yardstick.took.Seconds()}
		b.collector.add(partChunks, name, yardstick.label, "", v)
		b.note("%s: %s: %.0f/s", name, yardstick.label, v[valueRate])
	}
}

// measureUtilisation measures which share of the time the slots run commands of a known duration.
func (b *bench) measureUtilisation(l *local) {
	for _, sleep := range sleeps {
		if b.Quick && sleep.duration != quickSleep {
			continue
		}
		name := sleepName(sleep.duration, l.slots)
		b.measureSleep(l, name, sleep.duration, sleep.perSlot)
		if !b.Quick && l.slots == fewSlots {
			b.measureSleepWithoutChunks(l, name, sleep.duration, sleep.perSlot)
		}
	}
	if b.Quick || l.slots != fewSlots {
		return
	}
	for _, sleep := range longSleeps {
		b.measureSleep(l, longSleepName(sleep.duration, l.slots), sleep.duration, sleep.perSlot)
	}
}

// measureSleep measures the utilisation of the slots by a number of sleeps in each.
func (b *bench) measureSleep(l *local, name string, d time.Duration, perSlot int) {
	n, argument, ideal := perSlot*l.slots, seconds(d), time.Duration(perSlot)*d
	b.measureXargs(l, name, ideal, repeated(argument, n), "sleep")
	b.measureSet(l, name, localLabel, n, ideal, func() time.Duration { return l.run(newSet(n, "sleep", argument)) })
}

// measureSleepWithoutChunks measures the same with a task for each index: prefetch alone fills the slots.
func (b *bench) measureSleepWithoutChunks(l *local, name string, d time.Duration, perSlot int) {
	set := newSet(perSlot*l.slots, "sleep", seconds(d))
	set.Spec.Chunking = &batch.TaskSetChunking{MaxIndexes: ptr.To[int32](1)}
	b.measureSet(l, name, chunksOffLabel, perSlot*l.slots, time.Duration(perSlot)*d, func() time.Duration { return l.run(set) })
}

// measureMixed runs a few long commands among many short ones, with chunks and without.
func (b *bench) measureMixed(l *local) {
	items, sum := make([]string, mixedIndexes), time.Duration(0)
	for i := range items {
		d := mixedShort
		if i%mixedEvery == mixedEvery/2 {
			d = mixedLong
		}
		items[i], sum = seconds(d), sum+d
	}
	name, ideal := onSlots(whatMixed, l.slots), sum/time.Duration(l.slots)
	b.measureXargs(l, name, ideal, items, "sleep")
	for _, subject := range []struct {
		label      string
		maxIndexes int32
	}{{chunksOffLabel, 1}, {localLabel, batch.MaxTaskIndexes}} {
		set := newSet(len(items), "sleep", "$(TASK_ITEM)")
		set.Spec.Items = items
		set.Spec.Chunking = &batch.TaskSetChunking{MaxIndexes: &subject.maxIndexes}
		b.measureSet(l, name, subject.label, len(items), ideal, func() time.Duration { return l.run(set) })
	}
}

// measureItems runs a set whose indexes have items.
func (b *bench) measureItems(l *local) {
	items := make([]string, min(itemIndexes, b.Indexes))
	for i := range items {
		items[i] = fmt.Sprintf("frame-%06d.exr", i)
	}
	set := newSet(len(items), "echo", "$(TASK_ITEM)")
	set.Spec.Items = items
	b.measureSet(l, onSlots(whatEchoItem, l.slots), localLabel, len(items), 0, func() time.Duration { return l.run(set) })
}

// measureXargs measures the utilisation of xargs with as many processes as there are slots.
func (b *bench) measureXargs(l *local, name string, ideal time.Duration, arguments []string, command string) {
	took := xargs(l, l.slots, arguments, command)
	v := values{valueIndexes: float64(len(arguments)), valueSeconds: took.Seconds(), valueUtilisation: 100 * ideal.Seconds() / took.Seconds()}
	b.collector.add(partChunks, name, xargsLabel, "", v)
	b.note("%s: %s: utilisation %.1f %%", name, xargsLabel, v[valueUtilisation])
}

// measureSet records what a set costs while run runs it, and the utilisation if the ideal time is not 0.
func (b *bench) measureSet(l *local, name, label string, n int, ideal time.Duration, run func() time.Duration) {
	revision, cpu, commands := l.counters()
	took := run()
	revisionAfter, cpuAfter, commandsAfter := l.counters()
	v := values{
		valueIndexes: float64(n), valueSeconds: took.Seconds(),
		valueWritesIndex: float64(revisionAfter-revision) / float64(n),
		valueCPUIndex:    milliseconds(cpuAfter-cpu) / float64(n), valueCPUCommand: milliseconds(commandsAfter-commands) / float64(n),
	}
	if ideal > 0 {
		v[valueUtilisation] = 100 * ideal.Seconds() / took.Seconds()
		b.note("%s: %s: utilisation %.1f %%", name, label, v[valueUtilisation])
	} else {
		v[valueRate] = float64(n) / took.Seconds()
		b.note("%s: %s: %.0f/s", name, label, v[valueRate])
	}
	b.collector.add(partChunks, name, label, "", v)
}

// counters returns the revision of etcd, and the CPU time of "leat up" and of the commands that it has run.
func (l *local) counters() (revision int64, cpu, commands time.Duration) {
	response, err := l.etcd.Get(l.Context(), "/", clientv3.WithCountOnly())
	l.Check(err)
	cpu, err = measure.CPU(l.env.Server.PID())
	l.Check(err)
	commands, err = measure.ChildCPU(l.env.Server.PID())
	l.Check(err)
	return response.Header.Revision, cpu, commands
}

// newSet returns a set without a name that runs a command for n indexes.
func newSet(n int, command ...string) *batch.TaskSet {
	set := &batch.TaskSet{}
	set.Spec.Completions, set.Spec.Parallelism = new(int32(n)), new(int32(min(n, localParallelism)))
	set.Spec.CompletionMode = new(batch.IndexedCompletion)
	set.Spec.Template.Spec.Command = command
	return set
}

// nextName returns the name of the next set.
func (l *local) nextName() string {
	l.sets++
	return fmt.Sprintf("set-%d", l.sets)
}

// run creates a set. It returns the time from the request until a watch delivers the completion.
func (l *local) run(set *batch.TaskSet) time.Duration {
	set.Name = l.nextName()
	sets := l.api.TaskSets(localNamespace)
	events, err := sets.Watch(l.Context(), metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", set.Name).String()})
	l.Check(err)
	defer events.Stop()
	begun := time.Now()
	_, err = sets.Create(l.Context(), set, metav1.CreateOptions{})
	l.Check(err)
	for event := range events.ResultChan() {
		if now, ok := event.Object.(*batch.TaskSet); ok && l.complete(now) {
			return time.Since(begun)
		}
	}
	l.Fatalf("the watch of set %s ended before the set was complete", set.Name)
	return 0
}

// runByCommand runs a set by "leat run --wait". It returns the time that the command takes.
func (l *local) runByCommand(n int, command string) time.Duration {
	name := l.nextName()
	run := exec.CommandContext(l.Context(), kit.Program(l, "leat"), "run", "--kubeconfig="+filepath.Join(l.env.DataDir(), "kubeconfig"),
		"--name="+name, "--array="+strconv.Itoa(n), "--wait", "--", command)
	begun := time.Now()
	if output, err := run.CombinedOutput(); err != nil {
		l.Fatalf("%s: %v\n%s", run, err, output)
	}
	took := time.Since(begun)
	set, err := l.api.TaskSets(localNamespace).Get(l.Context(), name, metav1.GetOptions{})
	l.Check(err)
	if !l.complete(set) {
		l.Fatalf("%s has ended, but the set is not complete: %+v", run, set.Status)
	}
	return took
}

// complete reports whether a set is complete. It fails if an index has failed or is not counted.
func (l *local) complete(set *batch.TaskSet) bool {
	complete := meta.IsStatusConditionTrue(set.Status.Conditions, batch.TaskSetComplete)
	if set.Status.Failed > 0 || complete && set.Status.Succeeded != *set.Spec.Completions {
		l.Fatalf("set %s of %d indexes has %d succeeded indexes and %d failures", set.Name, *set.Spec.Completions, set.Status.Succeeded, set.Status.Failed)
	}
	return complete
}

// forkLoop starts a command n times, each as soon as the one before has ended, in as many loops as processes.
func forkLoop(l *local, processes, n int, command string) time.Duration {
	path, err := exec.LookPath(command)
	l.Check(err)
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	l.Check(err)
	defer null.Close()
	begun := time.Now()
	var loops errgroup.Group
	for i := range processes {
		loops.Go(func() error {
			for range (n + i) / processes {
				process, err := os.StartProcess(path, []string{command, "0"}, &os.ProcAttr{Files: []*os.File{null, null, null}})
				if err != nil {
					return err
				}
				if _, err := process.Wait(); err != nil {
					return err
				}
			}
			return nil
		})
	}
	l.Check(loops.Wait())
	return time.Since(begun)
}

// xargs runs "xargs -n 1 -P processes command" with the arguments.
func xargs(l *local, processes int, arguments []string, command string) time.Duration {
	run := exec.CommandContext(l.Context(), "xargs", "-n", "1", "-P", strconv.Itoa(processes), command)
	run.Stdin = strings.NewReader(strings.Join(arguments, "\n"))
	begun := time.Now()
	l.Check(run.Run())
	return time.Since(begun)
}

// repeated returns a list with n times the same argument.
func repeated(argument string, n int) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = argument
	}
	return list
}

// seconds returns a duration as an argument of sleep.
func seconds(d time.Duration) string { return strconv.FormatFloat(d.Seconds(), 'f', -1, 64) }
