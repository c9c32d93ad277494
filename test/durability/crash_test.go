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

package durability

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	typed "github.com/leat-dev/leat/pkg/generated/clientset/versioned/typed/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/history"
	"github.com/leat-dev/leat/test/kit/host"
)

const (
	leaseDuration = 4 * time.Second
	workerTasks   = 8
	poll          = 100 * time.Millisecond
)

// deployment is Leat as it is installed to survive: two servers, two controller managers.
type deployment struct {
	env      *kit.Env
	replica  *kit.Env
	managers []*manager
	auditLog string
}

// manager is a controller manager. It is started again when it has lost the lease, as it is in a cluster: on a busy machine that can
// happen to a healthy one.
type manager struct {
	*host.Process
	metrics string // URL
	// mu is held by whoever is about to end or start the process.
	mu sync.Mutex
}

const lostLease = "leader election lost"

func (m *manager) lostLease() bool {
	err := m.Err()
	return err != nil && strings.Contains(err.Error(), lostLease)
}

// hold has the process left to f.
func (m *manager) hold(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f()
}

// keep starts the manager again as often as need be until ctx is done.
func (m *manager) keep(ctx context.Context, t *testing.T) {
	ticker := time.NewTicker(poll)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if !m.mu.TryLock() {
			continue
		}
		if m.lostLease() {
			t.Logf("%s has lost the lease and is started again", m.metrics)
			if err := m.Restart(t.Context()); err != nil && ctx.Err() == nil {
				t.Error(err)
			}
		}
		m.mu.Unlock()
	}
}

// auditArgs returns the arguments of a server that logs the writes of workers, and the path of its log.
func auditArgs(t *testing.T) (args []string, auditLog string) {
	t.Helper()
	dir := t.TempDir()
	policy, auditLog := filepath.Join(dir, "policy.yaml"), filepath.Join(dir, "audit.log")
	kit.Check(t, os.WriteFile(policy, []byte(auditPolicy), 0o600))
	return []string{"--audit-policy-file=" + policy, "--audit-log-path=" + auditLog}, auditLog
}

func testCrash(t *testing.T, e *kit.Env, auditLog string) {
	d := &deployment{env: e, replica: e.Replica(t), auditLog: auditLog}
	for _, name := range []string{"one", "two"} {
		address := "127.0.0.1:" + strconv.Itoa(kit.Must(host.FreePort())(t))
		d.managers = append(d.managers, &manager{metrics: "http://" + address + "/metrics", Process: e.StartManager(t, name,
			"--metrics-bind-address="+address,
			"--leader-elect-lease-duration=4s", "--leader-elect-renew-deadline=3s", "--leader-elect-retry-period=500ms")})
	}
	var keepers sync.WaitGroup
	keeping, stop := context.WithCancel(t.Context())
	for _, m := range d.managers {
		keepers.Go(func() { m.keep(keeping, t) })
	}
	t.Cleanup(func() {
		stop()
		keepers.Wait()
	})
	t.Run("RandomKills", func(t *testing.T) { testRandomKills(t, d) })
	t.Run("LeaderPaused", func(t *testing.T) { testLeaderPaused(t, d) })
	t.Run("WorkerPartitioned", func(t *testing.T) { testWorkerPartitioned(t, d) })
	t.Run("StoreKilled", func(t *testing.T) { testStoreKilled(t, d) })
}

// auditPolicy has the server note what workers write.
const auditPolicy = `
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
  userGroups: ["leat:workers"]
  verbs: [create, update, delete]
  resources: [{group: batch.leat.dev, resources: [tasks, "tasks/*"]}]
- level: None
`

// scene is a namespace with workers and a set.
type crashTest struct {
	*testing.T
	*deployment
	namespace string
	dir       string
	api       typed.BatchV1alpha1Interface
	history   *namespaceHistory
	workers   []*host.Process
}

func newCrashTest(t *testing.T, d *deployment, workers int) *crashTest {
	t.Helper()
	s := &crashTest{T: t, deployment: d, namespace: d.env.Namespace(t), dir: t.TempDir(), api: kit.Client(t, d.env.Admin(t)).BatchV1alpha1()}
	s.history = recordHistory(t, d.env, s.namespace)
	kit.Check(t, syscall.Mkfifo(filepath.Join(s.dir, "never"), 0o600))
	for i := range workers {
		// They are spread over the servers.
		server := []*kit.Env{d.env, d.replica}[i%2]
		name := string(rune('a' + i))
		s.workers = append(s.workers, d.env.StartWorker(t, server.Worker(t, s.namespace, name), s.namespace, name,
			[]string{"WORKER=" + name}, "--tasks="+strconv.Itoa(workerTasks), "--lease-duration="+leaseDuration.String()))
	}
	return s
}

// script is the command of each index. It holds a lock of its index as long as its process lives, whatever ends it: whoever does not
// get the lock runs beside another.
const script = `
exec 8<>"$DIR/never" 9>>"$DIR/lock-$TASK_INDEX"
flock -n 9 || echo "index $TASK_INDEX, attempt $TASK_ATTEMPT on worker $WORKER: it runs elsewhere, too" >> "$DIR/violations"
echo "start $TASK_INDEX $TASK_ATTEMPT $WORKER $BASHPID" >> "$DIR/effects"
seconds=0.$((RANDOM % 3))5
[ $((RANDOM % 16)) != 0 ] || seconds=3
read -rt "$seconds" -u 8
echo "end $TASK_INDEX $TASK_ATTEMPT $WORKER $BASHPID" >> "$DIR/effects"
`

const setName = "work"

// start creates a set whose commands leave their marks in the directory of the scene.
func (s *crashTest) start(completions, parallelism int32) {
	s.Helper()
	set := &batch.TaskSet{ObjectMeta: metav1.ObjectMeta{Name: setName}}
	set.Spec.Completions, set.Spec.Parallelism, set.Spec.CompletionMode = &completions, &parallelism, new(batch.IndexedCompletion)
	set.Spec.Template.Spec.Command = []string{"bash", "-c", script}
	set.Spec.Template.Spec.Env = []batch.EnvVar{{Name: "DIR", Value: s.dir}}
	set.Spec.Template.Spec.CrashLimit = new(int32(math.MaxInt32)) // workers are killed here, and not by their tasks
	_, err := s.api.TaskSets(s.namespace).Create(s.Context(), set, metav1.CreateOptions{})
	kit.Check(s.T, err)
}

func is(condition string) func(*batch.TaskSet) bool {
	return func(set *batch.TaskSet) bool { return meta.IsStatusConditionTrue(set.Status.Conditions, condition) }
}

// counted is a set that has come so far.
func counted(n int32) func(*batch.TaskSet) bool {
	return func(set *batch.TaskSet) bool { return set.Status.Succeeded >= n }
}

func (s *crashTest) wait(what string, is func(*batch.TaskSet) bool) *batch.TaskSet {
	s.Helper()
	var set *batch.TaskSet
	kit.Eventually(s.T, what, func(ctx context.Context) error {
		var err error
		if set, err = s.api.TaskSets(s.namespace).Get(ctx, setName, metav1.GetOptions{}); err == nil && !is(set) {
			err = fmt.Errorf("the status is %+v", set.Status)
		}
		return err
	})
	return set
}

// checkDone waits for the end of the set and checks all that is left of it. Of the indexes given by again tasks may have been created
// after they were counted.
func (s *crashTest) checkDone(completions int) *account {
	s.Helper()
	set := s.wait("the set is complete", is(batch.TaskSetComplete))
	if want := fmt.Sprintf("0-%d", completions-1); set.Status.CompletedIndexes != want || int(set.Status.Succeeded) != completions || set.Status.Failed != 0 {
		s.Errorf("the status is %+v, want all of %s and no failure", set.Status, want)
	}
	kit.Eventually(s.T, "all tasks are gone", func(ctx context.Context) error {
		list, err := s.api.Tasks(s.namespace).List(ctx, metav1.ListOptions{})
		if err == nil && len(list.Items) > 0 {
			err = fmt.Errorf("there are %d, first %s: %+v", len(list.Items), list.Items[0].Name, list.Items[0].Status)
		}
		return err
	})
	kit.Eventually(s.T, "no worker says that it runs anything", func(ctx context.Context) error {
		list, err := s.api.Workers(s.namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, worker := range list.Items {
			if ready := meta.IsStatusConditionTrue(worker.Status.Conditions, batch.WorkerReady); !ready || worker.Status.RunningTasks != 0 || len(worker.Spec.Taints) > 0 {
				return fmt.Errorf("worker %s has %d running tasks, taints %v and conditions %+v", worker.Name, worker.Status.RunningTasks, worker.Spec.Taints, worker.Status.Conditions)
			}
		}
		return nil
	})
	changes := s.history.await(s.T, "the set is complete", func(c history.Change) bool {
		return c.SetAfter != nil && c.SetAfter.Name == setName && is(batch.TaskSetComplete)(c.SetAfter)
	})
	a := audit(s.T, changes, setName, completions)
	s.checkEffects(a)
	return a
}

// checkEffects compares what the commands have left behind with the history.
func (s *crashTest) checkEffects(a *account) {
	s.Helper()
	if violations, err := os.ReadFile(filepath.Join(s.dir, "violations")); !errors.Is(err, os.ErrNotExist) {
		s.Errorf("commands of an index ran beside each other: %s, %v", violations, err)
	}
	effects := kit.Must(os.ReadFile(filepath.Join(s.dir, "effects")))(s.T)
	started, ended := make([]int, len(a.counted)), make([]int, len(a.counted))
	attempts := map[string]bool{}
	for line := range strings.Lines(string(effects)) {
		fields := strings.Fields(line)
		index := kit.Must(strconv.Atoi(fields[1]))(s.T)
		if fields[0] == "end" {
			ended[index]++
			continue
		}
		started[index]++
		attempt := fields[1] + "/" + fields[2]
		if attempts[attempt] {
			s.Logf("attempt %s of index %s was made twice: the first one was never reported", fields[2], fields[1])
		}
		attempts[attempt] = true
	}
	starts, again := 0, 0
	for index := range started {
		if ended[index] == 0 {
			s.Errorf("index %d is counted, and its command never came to its end: it was started %d times", index, started[index])
		}
		if started[index] > a.bindings[index] {
			s.Errorf("the command of index %d was started %d times, and given to a worker %d times", index, started[index], a.bindings[index])
		}
		starts += started[index]
		again += max(0, ended[index]-1)
	}
	s.Logf("%d commands were started for %d indexes, %d of them came to their end once more; there were %d evictions", starts, len(started), again, a.evictions)
}

func testRandomKills(t *testing.T, d *deployment) {
	const completions, kills = 1000, 20
	random := seeded(t)
	s := newCrashTest(t, d, 3)
	kinds := map[string][]*host.Process{
		"controller-manager": {d.managers[0].Process, d.managers[1].Process},
		"worker":             s.workers,
		"apiserver":          {d.env.Server, d.replica.Server},
	}
	var order []string
	for len(order) < kills {
		order = append(order, "worker", "controller-manager", "apiserver")
	}
	order = order[:kills]
	random.Shuffle(kills, func(i, j int) { order[i], order[j] = order[j], order[i] })
	s.start(completions, 3*workerTasks+6)
	count := map[string]int{}
	begun := time.Now()
	for n, kind := range order {
		mark := int32(completions * n / (kills + 1))
		s.wait(fmt.Sprintf("%d indexes are counted", mark), counted(mark))
		pause(time.Duration(random.IntN(1000)) * time.Millisecond)
		which := random.IntN(len(kinds[kind]))
		count[kind]++
		restart := func() { s.restart(kinds[kind][which], random, kind == "worker" && count[kind] == 3, which) }
		if kind == "controller-manager" {
			d.managers[which].hold(restart)
		} else {
			restart()
		}
	}
	t.Logf("killed: %v", count)
	a := s.checkDone(completions)
	if len(a.again) > 0 {
		t.Errorf("tasks were created for indexes that were counted: %v", a.again)
	}
	t.Logf("all took %s", time.Since(begun).Round(time.Second))
}

// awaitEmpty waits until no task is bound to a worker.
func (s *crashTest) awaitEmpty(worker string) {
	s.Helper()
	kit.Eventually(s.T, "worker "+worker+" has no tasks", func(ctx context.Context) error {
		list, err := s.api.Tasks(s.namespace).List(ctx, metav1.ListOptions{FieldSelector: "spec.workerName=" + worker + ",status.phase!=Succeeded"})
		if err == nil && len(list.Items) > 0 {
			err = fmt.Errorf("it has %d", len(list.Items))
		}
		return err
	})
}

// restart kills a process and starts it again after a while or, if it is a worker that stays away, once all tasks have been taken from it.
func (s *crashTest) restart(victim *host.Process, random *rand.Rand, staysAway bool, worker int) {
	s.Helper()
	kit.Check(s.T, victim.Kill())
	if staysAway {
		s.awaitEmpty(string(rune('a' + worker)))
	} else {
		pause(time.Duration(random.IntN(500)) * time.Millisecond)
	}
	kit.Check(s.T, victim.Restart(s.Context()))
}

// leader gives the manager that leads, and the other one.
func (d *deployment) leader(t *testing.T) (leads, waits *manager) {
	t.Helper()
	kit.Eventually(t, "there is a leader", func(context.Context) error {
		for i, m := range d.managers {
			if m.leads() {
				leads, waits = m, d.managers[1-i]
				return nil
			}
		}
		return errors.New("nobody leads")
	})
	return leads, waits
}

// leads says whether the manager holds that it leads.
func (m *manager) leads() bool {
	page, err := m.scrape()
	return err == nil && strings.Contains(page, "\nleader_election_master_status{name=\"leat-controller-manager\"} 1\n")
}

// scrape gives what the manager serves as metrics.
func (m *manager) scrape() (string, error) {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Second}
	response, err := client.Get(m.metrics)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	page, err := io.ReadAll(response.Body)
	return string(page), err
}

func testLeaderPaused(t *testing.T, d *deployment) {
	const completions, pauses = 300, 3
	random := seeded(t)
	s := newCrashTest(t, d, 2)
	s.start(completions, 2*workerTasks+4)
	for n := range pauses {
		mark := int32(completions * n / (pauses + 1))
		s.wait(fmt.Sprintf("%d indexes are counted", mark), counted(mark))
		pause(time.Duration(random.IntN(1000)) * time.Millisecond)
		leads, waits := d.leader(t)
		leads.hold(func() { s.pauseLeader(leads, waits, completions) })
	}
	a := s.checkDone(completions)
	// Requests that were on their way are sent by a process that wakes before it knows that it has lost: that is harmless.
	t.Logf("tasks created for indexes that were counted: %v", a.again)
}

// pauseLeader freezes the leader until the other one has taken over and gone on, and lets it wake.
func (s *crashTest) pauseLeader(leads, waits *manager, completions int32) {
	s.Helper()
	kit.Check(s.T, leads.Signal(syscall.SIGSTOP))
	kit.Eventually(s.T, "the other takes over", func(context.Context) error {
		if !waits.leads() {
			return errors.New("it does not")
		}
		return nil
	})
	before := s.wait("the set is there", counted(0)).Status.Succeeded
	s.wait("the other counts", counted(min(before+20, completions)))
	kit.Check(s.T, leads.Signal(syscall.SIGCONT))
	kit.Eventually(s.T, "the one that was paused ends", func(context.Context) error {
		err := leads.Err()
		switch {
		case err == nil:
			return errors.New("it runs")
		case !leads.lostLease():
			s.Fatalf("it ended otherwise: %v", err)
		}
		return nil
	})
	kit.Check(s.T, leads.Restart(s.Context()))
}

func testStoreKilled(t *testing.T, d *deployment) {
	const completions, rounds = 300, 3
	random := seeded(t)
	s := newCrashTest(t, d, 2)
	s.start(completions, 2*workerTasks+4)
	for n := range 2 * rounds {
		mark := int32(completions * n / (2*rounds + 1))
		s.wait(fmt.Sprintf("%d indexes are counted", mark), counted(mark))
		pause(time.Duration(random.IntN(1000)) * time.Millisecond)
		if n%2 == 0 {
			kit.Check(t, d.env.Etcd.Kill())
			pause(time.Duration(random.IntN(1000)) * time.Millisecond)
			kit.Check(t, d.env.Etcd.Restart(t.Context()))
			continue
		}
		for _, server := range []*kit.Env{d.env, d.replica} {
			kit.Check(t, server.Server.Kill())
		}
		for _, server := range []*kit.Env{d.env, d.replica} {
			kit.Check(t, server.Server.Restart(t.Context()))
		}
	}
	a := s.checkDone(completions)
	if len(a.again) > 0 {
		t.Errorf("tasks were created for indexes that were counted: %v", a.again)
	}
}

// pause lets a random time pass, for what happens meanwhile to be anything.
func pause(d time.Duration) { <-time.After(d) }
