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

	clientv3 "go.etcd.io/etcd/client/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/await"
	"github.com/leat-dev/leat/test/kit/faultproxy"
	"github.com/leat-dev/leat/test/kit/history"
	"github.com/leat-dev/leat/test/kit/setcheck"
)

var (
	seedFlag = flag.Uint64("seed", 0, "seed of the first run of TestChaos, which repeats its faults and calls; 0 for a random one")
	seeds    = flag.Int("seeds", 1, "number of runs of TestChaos, each with the next seed")
	duration = flag.Duration("duration", time.Minute, "how long faults are injected in each run of TestChaos, and how long TestSoak applies load")
	members  = flag.Int("members", 0, "number of etcd members: 1, 3, or 0 to choose by the seed")
)

// searchLimit bounds the search for a linearization of the calls on one object.
const searchLimit = 2 * time.Minute

// TestChaos injects faults under load and checks every promise of docs/concepts/reliability.md.
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
	t.Logf("seed %d, %d etcd members; repeat it with: go test -v ./test/chaos -run TestChaos -args -seed=%d -members=%d -duration=%s", seed, size, seed, size, *duration)
	s := newCluster(t, seed, size)
	kit.Check(t, syscall.Mkfifo(filepath.Join(s.dir, "never"), 0o600))
	etcd := kit.Must(s.store.client())(t)
	defer etcd.Close()
	ctx, end := context.WithCancel(t.Context())
	defer end()
	etcdHistory := kit.Must(history.Record(ctx, etcd, s.registers, s.work))(t)

	var background, watching sync.WaitGroup
	background.Go(func() { s.supervise(ctx) })
	watchers := s.watchers(seed, etcdHistory.Start)
	watch, unwatch := context.WithCancel(ctx)
	defer unwatch()
	for _, w := range watchers {
		watching.Go(func() { w.run(watch) })
	}
	underFault, endFaults := context.WithTimeout(ctx, *duration)
	defer endFaults()
	recorder := &recorder{}
	clients := s.clients(seed, recorder)
	sets := newWorkload(s, s.service.Through(s.servers[0].env.Direct(t, "alice", "leat:admins")))
	injector := newInjector(s, etcdHistory)
	var foreground sync.WaitGroup
	for _, c := range clients {
		foreground.Go(func() { c.run(underFault) })
	}
	foreground.Go(func() { sets.run(underFault) })
	injector.run(underFault, seed)
	foreground.Wait()

	// All faults are over: everything that was started completes, and all promises hold.
	s.settle(recorder, clients)
	checks, wrong := sets.verify(ctx, func() []history.Change { return etcdHistory.Changes(s.work) })
	// reached waits until the history is complete up to now, and returns the current revision.
	reached := func() int64 {
		revision := kit.Must(etcd.Put(t.Context(), "/leat/tasks-are-over", ""))(t).Header.Revision
		kit.Check(t, etcdHistory.Await(ctx, patience, revision))
		return revision
	}
	revision := reached()
	// Later events, such as the deletion of the tasks of a set, may or may not reach a watcher before it stops.
	for _, w := range watchers {
		w.await(ctx, history.UpTo(revision, etcdHistory.Changes(w.namespace)))
	}
	unwatch()
	watching.Wait()
	reached()
	registers, work := etcdHistory.Changes(s.registers), etcdHistory.Changes(s.work)
	reasons := s.reasons(slices.Concat(registers, work))
	for _, w := range watchers {
		wrong = append(wrong, w.verify(history.UpTo(max(revision, w.position()), etcdHistory.Changes(w.namespace)), reasons)...)
	}
	calls := recorder.all()
	wrong = append(wrong, checkLists(calls, registers)...)
	wrong = append(wrong, checkRegisters(calls, registers, searchLimit)...)
	wrong = append(wrong, s.compareMembers(etcd)...)
	for _, m := range s.managers { // supervise still restarts those that have lost their lease
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
	if len(wrong) == 0 {
		planted, wrong = plant(rand.New(rand.NewPCG(seed, 3000)), calls, registers, work, watchers, checks)
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
	var sum setcheck.Result
	for _, check := range checks {
		sum.Chunks, sum.Released = sum.Chunks+check.Chunks, sum.Released+check.Released
		sum.Evictions, sum.Starts, sum.Restarted = sum.Evictions+check.Evictions, sum.Starts+check.Starts, sum.Restarted+check.Restarted
		sum.LateStarts, sum.LateCreations = sum.LateStarts+check.LateStarts, sum.LateCreations+check.LateCreations
	}
	received, watches, relists := 0, 0, 0
	for _, w := range watchers {
		received, watches, relists = received+len(w.got), watches+w.watches, relists+len(w.expired)
	}
	objects := versions(registers)
	fmt.Fprintf(report, "checked\tobjects, revisions\t%d\t%d\n", len(objects), len(registers))
	fmt.Fprintf(report, "checked\twatchers: events, watches, relists\t%d\t%d\t%d\n", received, watches, relists)
	fmt.Fprintf(report, "checked\tsets, indexes; chunks, released indexes\t%d\t%d\t%d\t%d\n", len(checks), len(checks)*completions, sum.Chunks, sum.Released)
	fmt.Fprintf(report, "checked\tevictions; commands started, restarted, late; late creations\t%d\t%d\t%d\t%d\t%d\n",
		sum.Evictions, sum.Starts, sum.Restarted, sum.LateStarts, sum.LateCreations)
	fmt.Fprintf(report, "checked\tplanted faults detected\t%d\n", planted)
	fmt.Fprintf(report, "violations\t\t%d\n", len(wrong))
	kit.Check(t, report.Flush())
	t.Log(page.String())
	for _, message := range wrong {
		t.Errorf("seed %d: %s", seed, message)
	}
	if len(calls) == 0 || len(checks) == 0 || len(injector.counts) == 0 {
		t.Error("no calls, no sets or no faults: the run proves nothing")
	}
	if sum.Chunks == 0 || sum.Released == 0 {
		t.Errorf("%d tasks had several indexes, and %d indexes were released: the run proves nothing about chunks", sum.Chunks, sum.Released)
	}
}

// clients returns one or two clients on each path to a server.
func (s *cluster) clients(seed uint64, r *recorder) []*client {
	e := s.servers[0].env
	person := e.Direct(s, "alice", "leat:admins")
	var all []*client
	for _, path := range []struct {
		name  string
		proxy *faultproxy.Proxy
	}{{"server 0", s.servers[0].clients}, {"server 1", s.servers[1].clients}, {"server 0", s.servers[0].clients}, {"server 1", s.servers[1].clients}, {"service", s.service}} {
		all = append(all, newClient(s, len(all), path.name, path.proxy.Through(person), seed, r))
	}
	return append(all, newClient(s, len(all), "host", e.Admin(s), seed, r))
}

// watchers returns watchers with each kind of selector, on each path to a server.
func (s *cluster) watchers(seed uint64, from int64) []*watcher {
	e := s.servers[0].env
	person := e.Direct(s, "alice", "leat:admins")
	first, second := s.servers[0].clients.Through(person), s.servers[1].clients.Through(person)
	service, host := s.service.Through(person), e.Admin(s)
	all := func(*batch.Task) bool { return true }
	red := func(task *batch.Task) bool { return task.Labels["color"] == "red" }
	notGreen := func(task *batch.Task) bool { return task.Labels["color"] != "green" }
	bound := func(worker string) history.Selector {
		return func(task *batch.Task) bool { return task.Spec.WorkerName == worker }
	}
	running := func(task *batch.Task) bool { return task.Status.Phase == batch.TaskRunning }
	unfinished := func(task *batch.Task) bool {
		return task.Status.Phase != batch.TaskSucceeded && task.Status.Phase != batch.TaskFailed
	}
	random := func(n uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 2000+n)) }
	return []*watcher{
		newWatcher(s, "objects at server 0", s.registers, first, metav1.ListOptions{}, all, from, random(0)),
		newWatcher(s, "red objects at server 1", s.registers, second, metav1.ListOptions{LabelSelector: "color=red"}, red, from, random(1)),
		newWatcher(s, "objects at the service that are not green", s.registers, service, metav1.ListOptions{LabelSelector: "color!=green"}, notGreen, from, random(2)),
		newWatcher(s, "unbound red objects at the host", s.registers, host, metav1.ListOptions{FieldSelector: "spec.workerName=", LabelSelector: "color=red"}, red, from, random(3)),
		newWatcher(s, "tasks of worker a at server 1", s.work, second, metav1.ListOptions{FieldSelector: "spec.workerName=a"}, bound("a"), from, random(4)),
		newWatcher(s, "tasks of worker b at the service", s.work, service, metav1.ListOptions{FieldSelector: "spec.workerName=b"}, bound("b"), from, random(5)),
		newWatcher(s, "running tasks at server 0", s.work, first, metav1.ListOptions{FieldSelector: "status.phase=Running"}, running, from, random(6)),
		newWatcher(s, "unfinished tasks at the host", s.work, host, metav1.ListOptions{FieldSelector: "status.phase!=Succeeded,status.phase!=Failed"}, unfinished, from, random(7)),
	}
}

// settle waits until all servers are ready, and reads each object once more through both of them.
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

// compareMembers checks that all etcd members store the same data.
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
		return []string{fmt.Sprintf("failed to compare the etcd members: %v", err)}
	}
	if len(hashes) > 1 {
		wrong = append(wrong, fmt.Sprintf("etcd members differ: %v", hashes))
	}
	return wrong
}

// searchLogs returns the reports of the race detector and the panics in the logs of our processes. The oracles of
// upstream panic as well.
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

// logs calls visit with each line of the logs of our processes.
func (s *cluster) logs(visit func(path, line string)) {
	kit.Check(s, filepath.WalkDir(s.keeper.dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !strings.HasPrefix(entry.Name(), "leat-") || filepath.Ext(path) != ".log" {
			return nil // files that disappear meanwhile are no logs
		}
		file, err := os.Open(path)
		if err != nil {
			return err
		}
		defer file.Close()
		lines := bufio.NewScanner(file)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			visit(path, lines.Text())
		}
		return lines.Err()
	}))
}

// reasons returns the moments from which servers may answer 410 to old revisions: compactions of etcd, and
// initializations of a watch cache, which servers log. A server initializes its watch cache when it starts, and when
// etcd was compacted past the revision that the server had reached.
func (s *cluster) reasons(changes []history.Change) []horizon {
	s.store.mu.Lock()
	all := slices.Clone(s.store.horizons)
	s.store.mu.Unlock()
	s.logs(func(_, line string) {
		if strings.HasPrefix(line, "I") && strings.HasSuffix(line, `"Caches populated" type="<unspecified>" reflector="storage/cacher.go:/tasks"`) {
			at, err := time.ParseInLocation("2006 I0102 15:04:05.000000", fmt.Sprint(s.start.Year(), " ", line[:len("I0102 15:04:05.000000")]), time.Local)
			kit.Check(s, err)
			all = append(all, filled(changes, at))
		}
	})
	return all
}

// filled returns the horizon of a server that initialized its watch cache at a time. Logs, the cache and this process
// learn of a change at different times, within the margin.
func filled(changes []history.Change, at time.Time) horizon {
	const margin = 15 * time.Second
	f := horizon{before: math.MaxInt64, at: at.Add(-margin)}
	for _, c := range changes {
		if c.Received.After(at.Add(margin)) {
			f.before = min(f.before, c.Revision)
		}
	}
	return f
}

// tabulate writes the number of calls by kind and outcome.
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
