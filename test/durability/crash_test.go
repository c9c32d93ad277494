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

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	typed "github.com/leat-dev/leat/pkg/generated/clientset/versioned/typed/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/await"
	"github.com/leat-dev/leat/test/kit/history"
	"github.com/leat-dev/leat/test/kit/host"
	"github.com/leat-dev/leat/test/kit/setcheck"
)

const (
	leaseDuration = 4 * time.Second
	workerTasks   = 8
)

// TestCrash kills, freezes and cuts off each part of Leat while it works. It checks the history in etcd, and what the
// commands have written.
func TestCrash(t *testing.T) {
	t.Parallel()
	args, auditLog := auditArgs(t)
	e := kit.Aggregated(t, args...)
	d := &deployment{env: e, replica: e.Replica(t), auditLog: auditLog}
	for _, name := range []string{"one", "two"} {
		address := "127.0.0.1:" + strconv.Itoa(kit.Must(host.FreePort())(t))
		d.managers = append(d.managers, &manager{metrics: "http://" + address + "/metrics", Process: e.StartManager(t, name,
			"--metrics-bind-address="+address,
			"--leader-elect-lease-duration=4s", "--leader-elect-renew-deadline=3s", "--leader-elect-retry-period=500ms")})
	}
	var restarts sync.WaitGroup
	ctx, stop := context.WithCancel(t.Context())
	for _, m := range d.managers {
		restarts.Go(func() { m.restartOnLostLease(ctx, t) })
	}
	t.Cleanup(func() {
		stop()
		restarts.Wait()
	})
	t.Run("RandomKills", func(t *testing.T) {
		testRandomKills(t, d, load{completions: 600, parallelism: 3*workerTasks + 6, longest: 250, oneOf: 16, alone: true}, 20)
	})
	t.Run("RandomKillsInChunks", func(t *testing.T) {
		testRandomKills(t, d, load{completions: 800, parallelism: 3*workerTasks + 6, longest: 150, oneOf: 64}, 6)
	})
	t.Run("LeaderPaused", func(t *testing.T) { testLeaderPaused(t, d) })
	t.Run("WorkerPartitioned", func(t *testing.T) { testWorkerPartitioned(t, d) })
	t.Run("StoreKilled", func(t *testing.T) { testStoreKilled(t, d) })
}

// auditArgs returns the arguments of a server that logs the writes of workers, and the path of its log.
func auditArgs(t *testing.T) (args []string, auditLog string) {
	t.Helper()
	dir := t.TempDir()
	policy, auditLog := filepath.Join(dir, "policy.yaml"), filepath.Join(dir, "audit.log")
	kit.Check(t, os.WriteFile(policy, []byte(auditPolicy), 0o600))
	return []string{"--audit-policy-file=" + policy, "--audit-log-path=" + auditLog}, auditLog
}

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

// deployment is Leat with two replicas of the server and of the controller manager.
type deployment struct {
	env, replica *kit.Env
	managers     []*manager
	auditLog     string
}

// restartServers kills both servers and starts them again.
func (d *deployment) restartServers(t *testing.T) {
	t.Helper()
	servers := []*host.Process{d.env.Server, d.replica.Server}
	for _, server := range servers {
		kit.Check(t, server.Kill())
	}
	var starts errgroup.Group
	for _, server := range servers {
		starts.Go(func() error { return server.Restart(t.Context()) })
	}
	kit.Check(t, starts.Wait())
}

// leader waits for a leader and returns it with the other manager.
func (d *deployment) leader(t *testing.T) (leader, standby *manager) {
	t.Helper()
	kit.Eventually(t, "a controller manager leads", func(context.Context) error {
		for i, m := range d.managers {
			if m.leads() {
				leader, standby = m, d.managers[1-i]
				return nil
			}
		}
		return errors.New("none leads")
	})
	return leader, standby
}

// manager is a controller manager. On a busy machine a healthy manager may lose its lease. It ends then, and the test
// starts it again, as a cluster does.
type manager struct {
	*host.Process
	metrics string // URL
	// mu is held while the process is stopped or started.
	mu sync.Mutex
}

func (m *manager) lostLease() bool {
	err := m.Err()
	return err != nil && strings.Contains(err.Error(), "leader election lost")
}

// withLock calls f, which may stop and start the process.
func (m *manager) withLock(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f()
}

// restartOnLostLease starts the manager each time that it has lost its lease, until ctx is done.
func (m *manager) restartOnLostLease(ctx context.Context, t *testing.T) {
	for await.Pause(ctx, 100*time.Millisecond) {
		if !m.mu.TryLock() {
			continue
		}
		if m.lostLease() {
			t.Logf("%s has lost its lease and is started again", m.metrics)
			if err := m.Restart(t.Context()); err != nil && ctx.Err() == nil {
				t.Error(err)
			}
		}
		m.mu.Unlock()
	}
}

// leads reports whether the manager considers itself the leader.
func (m *manager) leads() bool {
	metrics, err := m.scrape()
	return err == nil && strings.Contains(metrics, "\nleader_election_master_status{name=\"leat-controller-manager\"} 1\n")
}

// scrape returns the metrics of the manager.
func (m *manager) scrape() (string, error) {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Second}
	response, err := client.Get(m.metrics)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	metrics, err := io.ReadAll(response.Body)
	return string(metrics), err
}

// crashTest is a namespace with workers and a TaskSet.
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
	c := &crashTest{T: t, deployment: d, namespace: d.env.Namespace(t), dir: t.TempDir(), api: kit.Client(t, d.env.Admin(t)).BatchV1alpha1()}
	c.history = recordHistory(t, d.env, c.namespace)
	kit.Check(t, syscall.Mkfifo(filepath.Join(c.dir, "never"), 0o600))
	for i := range workers {
		// Workers use both servers.
		server := []*kit.Env{d.env, d.replica}[i%2]
		name := workerName(i)
		c.workers = append(c.workers, d.env.StartWorker(t, server.Worker(t, c.namespace, name), c.namespace, name,
			[]string{"WORKER=" + name}, "--tasks="+strconv.Itoa(workerTasks), "--lease-duration="+leaseDuration.String()))
	}
	return c
}

func workerName(i int) string { return string(rune('a' + i)) }

// indexScript is the command of each index. It holds a lock of its index while its process runs, so that a second
// command of the index notices the first. It takes up to $LONGEST milliseconds, and one of $ONE_OF takes three seconds.
const indexScript = setcheck.MarkFunction + `
exec 8<>"$DIR/never" 9>>"$DIR/lock-$TASK_INDEX"
flock -n 9 || echo "index $TASK_INDEX, attempt $TASK_ATTEMPT on worker $WORKER: another command of the index runs" >> "$DIR/violations"
mark start
printf -v seconds 0.%03d $((5 + RANDOM % LONGEST))
[ $((RANDOM % ONE_OF)) != 0 ] || seconds=3
read -rt "$seconds" -u 8
mark end
exit 0
`

const setName = "work"

// load describes a set of commands. One of oneOf takes three seconds, and the others at most longest milliseconds.
type load struct {
	completions, parallelism int32
	longest, oneOf           int
	// alone means that each index has a task of its own.
	alone bool
}

// createSet creates a set whose commands write to the directory of the test.
func (c *crashTest) createSet(l load) {
	c.Helper()
	set := kit.NewTaskSet(setName, "bash", "-c", indexScript)
	set.Spec.Completions, set.Spec.Parallelism, set.Spec.CompletionMode = &l.completions, &l.parallelism, new(batch.IndexedCompletion)
	if l.alone {
		set.Spec.Chunking = &batch.TaskSetChunking{MaxIndexes: new(int32(1))}
	}
	set.Spec.Template.Spec.Env = []batch.EnvVar{
		{Name: "DIR", Value: c.dir}, {Name: "MARKS", Value: filepath.Join(c.dir, "marks")},
		{Name: "LONGEST", Value: strconv.Itoa(l.longest)}, {Name: "ONE_OF", Value: strconv.Itoa(l.oneOf)},
	}
	set.Spec.Template.Spec.CrashLimit = new(int32(math.MaxInt32)) // the test kills workers, the tasks do not
	_, err := c.api.TaskSets(c.namespace).Create(c.Context(), set, metav1.CreateOptions{})
	kit.Check(c.T, err)
}

func complete(set *batch.TaskSet) bool {
	return meta.IsStatusConditionTrue(set.Status.Conditions, batch.TaskSetComplete)
}

// succeeded returns a condition that holds once n indexes have succeeded.
func succeeded(n int32) func(*batch.TaskSet) bool {
	return func(set *batch.TaskSet) bool { return set.Status.Succeeded >= n }
}

func (c *crashTest) awaitSet(what string, condition func(*batch.TaskSet) bool) *batch.TaskSet {
	c.Helper()
	return awaitSet(c.T, c.api, c.namespace, setName, what, condition)
}

// awaitSet waits until the condition holds. It fails the test when no index succeeds for kit.Patience: how long all
// take depends on the machine.
func awaitSet(t testing.TB, api typed.BatchV1alpha1Interface, namespace, name, what string, condition func(*batch.TaskSet) bool) *batch.TaskSet {
	t.Helper()
	for done := int32(-1); ; {
		var set *batch.TaskSet
		err := await.Until(t.Context(), kit.Patience, func(ctx context.Context) error {
			now, err := api.TaskSets(namespace).Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			if set = now; !condition(set) && set.Status.Succeeded <= done {
				return fmt.Errorf("the status is %+v", set.Status)
			}
			return nil
		})
		if err != nil {
			t.Fatalf("waited %s without progress until set %s: %s: %v", kit.Patience, name, what, err)
		}
		if condition(set) {
			return set
		}
		done = set.Status.Succeeded
	}
}

// checkDone waits until the set is complete, and checks the history of its tasks and what its commands have written.
// lateCreations allows what a controller manager does that wakes from a freeze: it may create tasks of several indexes
// that overlap with those of its successor. Tasks of one index have the same names, so the second creation is refused.
func (c *crashTest) checkDone(completions int, lateCreations bool) *setcheck.Result {
	c.Helper()
	set := c.awaitSet("it is complete", complete)
	if want := fmt.Sprintf("0-%d", completions-1); set.Status.CompletedIndexes != want || int(set.Status.Succeeded) != completions || set.Status.Failed != 0 {
		c.Errorf("got status %+v, want completed indexes %s and no failure", set.Status, want)
	}
	kit.Eventually(c.T, "all tasks are deleted", func(ctx context.Context) error {
		list, err := c.api.Tasks(c.namespace).List(ctx, metav1.ListOptions{})
		if err == nil && len(list.Items) > 0 {
			err = fmt.Errorf("%d are left, the first of them %s: %+v", len(list.Items), list.Items[0].Name, list.Items[0].Status)
		}
		return err
	})
	kit.Eventually(c.T, "all workers are ready and idle", func(ctx context.Context) error {
		list, err := c.api.Workers(c.namespace).List(ctx, metav1.ListOptions{})
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
	changes := c.history.await(c.T, "the set is complete", func(change history.Change) bool {
		return change.SetAfter != nil && change.SetAfter.Name == setName && complete(change.SetAfter)
	})
	marks := kit.Must(setcheck.ParseMarks(string(kit.Must(os.ReadFile(filepath.Join(c.dir, "marks")))(c.T))))(c.T)
	result := setcheck.Check(changes, marks, setcheck.Want{Set: setName, Completions: completions, LateCreations: lateCreations})
	for _, message := range result.Wrong {
		c.Error(message)
	}
	c.Log(result)
	switch violations, err := os.ReadFile(filepath.Join(c.dir, "violations")); {
	case errors.Is(err, os.ErrNotExist):
	case err == nil && result.LateCreations > 0 && lateCreations:
		c.Logf("two commands of an index ran at once, after a late creation: %s", violations)
	default:
		c.Errorf("two commands of an index ran at once: %s, %v", violations, err)
	}
	return result
}

// testRandomKills kills a random worker, controller manager or server several times while a set runs.
func testRandomKills(t *testing.T, d *deployment, l load, kills int) {
	random := seeded(t)
	c := newCrashTest(t, d, 3)
	kinds := map[string][]*host.Process{
		"controller-manager": {d.managers[0].Process, d.managers[1].Process},
		"worker":             c.workers,
		"apiserver":          {d.env.Server, d.replica.Server},
	}
	var order []string
	for len(order) < kills {
		order = append(order, "worker", "controller-manager", "apiserver")
	}
	order = order[:kills]
	random.Shuffle(kills, func(i, j int) { order[i], order[j] = order[j], order[i] })
	c.createSet(l)
	count := map[string]int{}
	start := time.Now()
	for n, kind := range order {
		mark := l.completions * int32(n) / int32(kills+1)
		c.awaitSet(fmt.Sprintf("%d indexes are counted", mark), succeeded(mark))
		pause(time.Duration(random.IntN(1000)) * time.Millisecond)
		which := random.IntN(len(kinds[kind]))
		count[kind]++
		restart := func() { c.restart(kinds[kind][which], random, kind == "worker" && count[kind] == 3, which) }
		if kind == "controller-manager" {
			d.managers[which].withLock(restart)
		} else {
			restart()
		}
	}
	t.Logf("kills: %v", count)
	result := c.checkDone(int(l.completions), false)
	if hasChunks := result.Chunks > 0; hasChunks == l.alone {
		t.Errorf("%d tasks had several indexes: this run proves nothing", result.Chunks)
	}
	t.Logf("the set took %s", time.Since(start).Round(time.Second))
}

// awaitEmpty waits until no task is bound to a worker.
func (c *crashTest) awaitEmpty(worker string) {
	c.Helper()
	kit.Eventually(c.T, "worker "+worker+" has no tasks", func(ctx context.Context) error {
		list, err := c.api.Tasks(c.namespace).List(ctx, metav1.ListOptions{FieldSelector: "spec.workerName=" + worker + ",status.phase!=Succeeded"})
		if err == nil && len(list.Items) > 0 {
			err = fmt.Errorf("it has %d", len(list.Items))
		}
		return err
	})
}

// restart kills a process and starts it again, after a random pause or, for a worker that stays away, after all its
// tasks are evicted.
func (c *crashTest) restart(process *host.Process, random *rand.Rand, staysAway bool, worker int) {
	c.Helper()
	kit.Check(c.T, process.Kill())
	if staysAway {
		c.awaitEmpty(workerName(worker))
	} else {
		pause(time.Duration(random.IntN(500)) * time.Millisecond)
	}
	kit.Check(c.T, process.Restart(c.Context()))
}

// testLeaderPaused freezes the leader three times until the other controller manager has taken over.
func testLeaderPaused(t *testing.T, d *deployment) {
	const completions, pauses = 300, 3
	random := seeded(t)
	c := newCrashTest(t, d, 2)
	c.createSet(load{completions: completions, parallelism: 2*workerTasks + 4, longest: 250, oneOf: 16})
	for n := range pauses {
		mark := int32(completions * n / (pauses + 1))
		c.awaitSet(fmt.Sprintf("%d indexes are counted", mark), succeeded(mark))
		pause(time.Duration(random.IntN(1000)) * time.Millisecond)
		leader, standby := d.leader(t)
		leader.withLock(func() { c.pauseLeader(leader, standby, completions) })
	}
	// A process that wakes sends its pending requests before it notices that it has lost the lease. That is harmless.
	c.checkDone(completions, true)
}

// pauseLeader freezes the leader until the other manager has taken over and counted, and continues it.
func (c *crashTest) pauseLeader(leader, standby *manager, completions int32) {
	c.Helper()
	kit.Check(c.T, leader.Signal(syscall.SIGSTOP))
	kit.Eventually(c.T, "the other manager takes over", func(context.Context) error {
		if !standby.leads() {
			return errors.New("it does not lead")
		}
		return nil
	})
	before := c.awaitSet("it exists", succeeded(0)).Status.Succeeded
	c.awaitSet("the other manager counts", succeeded(min(before+20, completions)))
	kit.Check(c.T, leader.Signal(syscall.SIGCONT))
	kit.Eventually(c.T, "the manager that was frozen ends", func(context.Context) error {
		err := leader.Err()
		switch {
		case err == nil:
			return errors.New("it runs")
		case !leader.lostLease():
			c.Fatalf("got %v, want a lost lease", err)
		}
		return nil
	})
	kit.Check(c.T, leader.Restart(c.Context()))
}

// testStoreKilled kills etcd three times, and both servers at once three times, while a set runs.
func testStoreKilled(t *testing.T, d *deployment) {
	const completions, rounds = 300, 3
	random := seeded(t)
	c := newCrashTest(t, d, 2)
	c.createSet(load{completions: completions, parallelism: 2*workerTasks + 4, longest: 250, oneOf: 16})
	for n := range 2 * rounds {
		mark := int32(completions * n / (2*rounds + 1))
		c.awaitSet(fmt.Sprintf("%d indexes are counted", mark), succeeded(mark))
		pause(time.Duration(random.IntN(1000)) * time.Millisecond)
		if n%2 == 0 {
			kit.Check(t, d.env.Etcd.Kill())
			pause(time.Duration(random.IntN(1000)) * time.Millisecond)
			kit.Check(t, d.env.Etcd.Restart(t.Context()))
			continue
		}
		d.restartServers(t)
	}
	c.checkDone(completions, false)
}

// pause waits for a random time, so that a fault comes at any moment.
func pause(d time.Duration) { <-time.After(d) }
