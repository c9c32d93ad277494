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

package chaos

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/leat-dev/leat/test/kit"

	clientv3 "go.etcd.io/etcd/client/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit/await"
)

var (
	seedFlag = flag.Uint64("seed", 0, "repeat the faults and the calls of a run by the seed that it has printed; 0 for another one each time")
	seeds    = flag.Int("seeds", 1, "how many runs there are, of one seed after the other")
	duration = flag.Duration("duration", time.Minute, "how long faults are injected in each run of TestChaos, and how long TestSoak applies load")
	members  = flag.Int("members", 0, "how many members etcd has: 1, 3, or 0 for what the seed says")
)

// searchLimit is how long the search for an order of the calls on one object may take.
const searchLimit = 2 * time.Minute

// TestChaos holds everything to all promises at once.
func TestChaos(t *testing.T) {
	t.Parallel()
	first := *seedFlag
	if first == 0 {
		first = uint64(time.Now().UnixMilli())
	}
	for n := range *seeds {
		seed := first + uint64(n)
		t.Run(fmt.Sprintf("seed-%d", seed), func(t *testing.T) { run(t, seed) })
	}
}

func run(t *testing.T, seed uint64) {
	size := *members
	if size == 0 {
		size = []int{1, 3}[seed%2]
	}
	t.Logf("Seed %d, etcd of %d. Repeat it with: go test -v ./test/chaos -run TestChaos -args -seed=%d -members=%d -duration=%s", seed, size, seed, size, *duration)
	s := newCluster(t, seed, size)
	kit.Check(t, syscall.Mkfifo(filepath.Join(s.dir, "never"), 0o600))
	etcd := kit.Must(s.store.client())(t)
	defer etcd.Close()
	ctx, end := context.WithCancel(t.Context())
	defer end()
	history := kit.Must(record(ctx, etcd, s.registers, s.work))(t)

	var background, watching sync.WaitGroup
	background.Go(func() { s.supervise(ctx) })
	watchers := s.watchers(seed, history.start)
	watch, unwatch := context.WithCancel(ctx)
	defer unwatch()
	for _, w := range watchers {
		watching.Go(func() { w.run(watch) })
	}
	trouble, calm := context.WithTimeout(ctx, *duration)
	defer calm()
	recorder := &recorder{}
	clients := s.clients(seed, recorder)
	employer := newEmployer(s, through(s.servers[0].env.Direct(t, "alice", "leat:admins"), s.service))
	injector := &injector{cluster: s, truth: history, counts: map[string]int{}}
	var foreground sync.WaitGroup
	for _, c := range clients {
		foreground.Go(func() { c.run(trouble) })
	}
	foreground.Go(func() { employer.run(trouble) })
	injector.run(trouble, seed)
	foreground.Wait()

	// Nothing is wrong any more: whatever was begun comes to its end, and all is as it was promised.
	s.settle(recorder, clients)
	accounts, wrong := employer.verify(ctx, func() []change { return history.of(s.work) })
	// reached waits until the history has all until now, and gives the revision of that.
	reached := func() int64 {
		revision := kit.Must(etcd.Put(t.Context(), "/leat/tasks-are-over", ""))(t).Header.Revision
		kit.Check(t, history.await(ctx, revision))
		return revision
	}
	revision := reached()
	// What comes later, as tasks go after their set, is told to each watcher for as long as it watches.
	for _, w := range watchers {
		w.await(ctx, upTo(revision, history.of(w.namespace)))
	}
	unwatch()
	watching.Wait()
	reached()
	registers, work := history.of(s.registers), history.of(s.work)
	reasons := s.reasons(slices.Concat(registers, work))
	for _, w := range watchers {
		wrong = append(wrong, w.verify(upTo(max(revision, w.position()), history.of(w.namespace)), reasons)...)
	}
	calls := recorder.all()
	wrong = append(wrong, checkLists(calls, registers)...)
	wrong = append(wrong, checkRegisters(calls, registers, searchLimit)...)
	wrong = append(wrong, s.compareMembers(etcd)...)
	for _, m := range s.managers { // while they are started again if they have lost the lease
		m.mu.Lock()
		kit.Check(t, m.Kill())
		m.mu.Unlock()
	}
	end()
	background.Wait()
	wrong = append(wrong, s.searchLogs()...)
	s.mu.Lock()
	wrong = append(wrong, s.wrong...)
	s.mu.Unlock()

	planted := 0
	if len(wrong) == 0 && len(accounts) > 0 {
		a := accounts[0]
		planted, wrong = plant(rand.New(rand.NewPCG(seed, 3000)), calls, registers, work, watchers, a.effects, a.set)
	}

	var page strings.Builder
	report := tabwriter.NewWriter(&page, 0, 0, 2, ' ', 0)
	fmt.Fprintf(report, "\nseed %d\tetcd of %d\t%s\n", seed, size, *duration)
	tabulate(report, calls)
	for _, kind := range slices.Sorted(maps.Keys(injector.counts)) {
		fmt.Fprintf(report, "fault\t%s\t%d\n", kind, injector.counts[kind])
	}
	for _, note := range slices.Sorted(maps.Keys(s.notes)) {
		fmt.Fprintf(report, "note\t%s\t%d\n", note, s.notes[note])
	}
	evictions, starts, repeated, late := 0, 0, 0, 0
	for _, a := range accounts {
		evictions, starts, repeated, late = evictions+a.evictions, starts+a.starts, repeated+a.repeated, late+a.late
	}
	told, watches, begunAgain := 0, 0, 0
	for _, w := range watchers {
		told, watches, begunAgain = told+len(w.got), watches+w.watches, begunAgain+len(w.expired)
	}
	objects := versions(registers)
	fmt.Fprintf(report, "checked\tobjects, and their revisions\t%d\t%d\n", len(objects), len(registers))
	fmt.Fprintf(report, "checked\twatchers: told, watches, lists to begin again\t%d\t%d\t%d\n", told, watches, begunAgain)
	fmt.Fprintf(report, "checked\tsets: indexes, commands started, started again, evictions, late\t%d\t%d\t%d\t%d\t%d\n", len(accounts)*completions, starts, repeated, evictions, late)
	fmt.Fprintf(report, "checked\tbugs planted into all this, and seen\t%d\n", planted)
	fmt.Fprintf(report, "violations\t\t%d\n", len(wrong))
	kit.Check(t, report.Flush())
	t.Log(page.String())
	for _, message := range wrong {
		t.Errorf("seed %d: %s", seed, message)
	}
	if len(calls) == 0 || len(accounts) == 0 || len(injector.counts) == 0 {
		t.Error("Nothing was called, done or broken: this proves nothing.")
	}
}

// clients are one or two on each way to a server.
func (s *cluster) clients(seed uint64, r *recorder) []*client {
	e := s.servers[0].env
	person := e.Direct(s, "alice", "leat:admins")
	var all []*client
	for _, way := range []struct {
		name string
		link *link
	}{{"server 0", s.servers[0].clients}, {"server 1", s.servers[1].clients}, {"server 0", s.servers[0].clients}, {"server 1", s.servers[1].clients}, {"service", s.service}} {
		all = append(all, newClient(s, len(all), way.name, through(person, way.link), seed, r))
	}
	return append(all, newClient(s, len(all), "host", e.Admin(s), seed, r))
}

// watchers are some of each kind of selector, on each way to a server.
func (s *cluster) watchers(seed uint64, from int64) []*watcher {
	e := s.servers[0].env
	person := e.Direct(s, "alice", "leat:admins")
	first, second := through(person, s.servers[0].clients), through(person, s.servers[1].clients)
	service, host := through(person, s.service), e.Admin(s)
	all := func(*batch.Task) bool { return true }
	red := func(task *batch.Task) bool { return task.Labels["color"] == "red" }
	notGreen := func(task *batch.Task) bool { return task.Labels["color"] != "green" }
	bound := func(worker string) selector {
		return func(task *batch.Task) bool { return task.Spec.WorkerName == worker }
	}
	running := func(task *batch.Task) bool { return task.Status.Phase == batch.TaskRunning }
	unfinished := func(task *batch.Task) bool {
		return task.Status.Phase != batch.TaskSucceeded && task.Status.Phase != batch.TaskFailed
	}
	random := func(n uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 2000+n)) }
	return []*watcher{
		newWatcher(s, "objects of server 0", s.registers, first, metav1.ListOptions{}, all, from, random(0)),
		newWatcher(s, "red objects of server 1", s.registers, second, metav1.ListOptions{LabelSelector: "color=red"}, red, from, random(1)),
		newWatcher(s, "objects that are not green of the service", s.registers, service, metav1.ListOptions{LabelSelector: "color!=green"}, notGreen, from, random(2)),
		newWatcher(s, "unbound red objects of the host", s.registers, host, metav1.ListOptions{FieldSelector: "spec.workerName=", LabelSelector: "color=red"}, red, from, random(3)),
		newWatcher(s, "tasks of worker a of server 1", s.work, second, metav1.ListOptions{FieldSelector: "spec.workerName=a"}, bound("a"), from, random(4)),
		newWatcher(s, "tasks of worker b of the service", s.work, service, metav1.ListOptions{FieldSelector: "spec.workerName=b"}, bound("b"), from, random(5)),
		newWatcher(s, "tasks that run of server 0", s.work, first, metav1.ListOptions{FieldSelector: "status.phase=Running"}, running, from, random(6)),
		newWatcher(s, "unfinished tasks of the host", s.work, host, metav1.ListOptions{FieldSelector: "status.phase!=Succeeded,status.phase!=Failed"}, unfinished, from, random(7)),
	}
}

// settle waits until all processes are ready, and reads all objects once more.
func (s *cluster) settle(r *recorder, clients []*client) {
	s.Helper()
	for _, m := range s.store.members {
		kit.Check(s, m.WaitReady(s.Context()))
	}
	for _, server := range s.servers {
		server.mu.Lock()
		kit.Check(s, server.WaitReady(s.Context()))
		server.mu.Unlock()
	}
	names := map[string]bool{}
	for _, c := range r.all() {
		if c.name != "" {
			names[c.name] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		for _, c := range clients[:2] { // one of each server
			_ = await.Until(s.Context(), patience, func(context.Context) error {
				if outcome := c.do(call{kind: gets, name: name}, c.request("GET", name), &batch.Task{}); outcome != ok && outcome != notFound {
					return await.ErrNotYet
				}
				return nil
			})
		}
	}
}

// compareMembers holds the members of etcd to having the same.
func (s *cluster) compareMembers(etcd *clientv3.Client) (wrong []string) {
	hashes := map[string][]string{}
	err := await.Until(s.Context(), patience, func(ctx context.Context) error {
		clear(hashes)
		now, err := etcd.Get(ctx, "/leat/")
		if err != nil {
			return err
		}
		for n, m := range s.store.members {
			hash, err := etcd.HashKV(ctx, "https://"+m.address, now.Header.Revision)
			if err != nil {
				return err
			}
			value := fmt.Sprintf("%d up to %d, compacted to %d", hash.Hash, hash.HashRevision, hash.CompactRevision)
			hashes[value] = append(hashes[value], fmt.Sprint(n))
		}
		return nil
	})
	if err != nil {
		return []string{fmt.Sprintf("the members of etcd could not be compared: %v", err)}
	}
	if len(hashes) > 1 {
		wrong = append(wrong, fmt.Sprintf("the members of etcd differ: %v", hashes))
	}
	return wrong
}

// searchLogs looks for what processes of ours say when they find themselves wrong: the race detector's reports, panics, and those of upstream's
// oracles, which panic.
func (s *cluster) searchLogs() (wrong []string) {
	s.logs(func(path, line string) {
		for _, alarm := range []string{"DATA RACE", "Observed a panic", "fatal error: ", "panic: "} {
			if strings.Contains(line, alarm) {
				wrong = append(wrong, fmt.Sprintf("%s: %.300s", path, line))
			}
		}
	})
	return wrong
}

// logs gives each line that processes of ours have logged.
func (s *cluster) logs(take func(path, line string)) {
	kit.Check(s, filepath.WalkDir(s.keeper.dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !strings.HasPrefix(entry.Name(), "leat-") || filepath.Ext(path) != ".log" {
			return nil // among what goes away meanwhile there is no log
		}
		file, err := os.Open(path)
		if err != nil {
			return err
		}
		defer file.Close()
		lines := bufio.NewScanner(file)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			take(path, lines.Text())
		}
		return lines.Err()
	}))
}

// reasons are the moments from which on servers need not know the past: etcd was compacted, or a server has filled its watch cache, as its
// log tells: when it started, or when etcd was compacted past what it had heard of.
func (s *cluster) reasons(changes []change) []forgotten {
	s.store.mu.Lock()
	all := slices.Clone(s.store.forgotten)
	s.store.mu.Unlock()
	s.logs(func(_, line string) {
		if strings.HasPrefix(line, "I") && strings.HasSuffix(line, `"Caches populated" type="<unspecified>" reflector="storage/cacher.go:/tasks"`) {
			at, err := time.ParseInLocation("2006 I0102 15:04:05.000000", fmt.Sprint(s.begun.Year(), " ", line[:len("I0102 15:04:05.000000")]), time.Local)
			kit.Check(s, err)
			all = append(all, filled(changes, at))
		}
	})
	return all
}

// filled is that a server filled its watch cache at a time: from what was stored some time before, which was heard of here some time later.
func filled(changes []change, at time.Time) forgotten {
	const margin = 15 * time.Second
	f := forgotten{before: math.MaxInt64, at: at.Add(-margin)}
	for _, c := range changes {
		if c.told.After(at.Add(margin)) {
			f.before = min(f.before, c.revision)
		}
	}
	return f
}

// tabulate writes how many calls had which outcome.
func tabulate(report *tabwriter.Writer, calls []call) {
	outcomes := []outcome{ok, conflict, notFound, exists, refused, unknown}
	counts := map[kind]map[outcome]int{}
	fmt.Fprintf(report, "operation\tall")
	for _, o := range outcomes {
		fmt.Fprintf(report, "\t%s", o)
	}
	fmt.Fprintln(report)
	for _, c := range calls {
		if counts[c.kind] == nil {
			counts[c.kind] = map[outcome]int{}
		}
		counts[c.kind][c.outcome]++
		counts[c.kind][""]++
	}
	for _, k := range slices.Sorted(maps.Keys(counts)) {
		fmt.Fprintf(report, "%s\t%d", k, counts[k][""])
		for _, o := range outcomes {
			fmt.Fprintf(report, "\t%d", counts[k][o])
		}
		fmt.Fprintln(report)
	}
}
