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
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/flowcontrol"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	typed "github.com/leat-dev/leat/pkg/generated/clientset/versioned/typed/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/generated/informers/externalversions"
	"github.com/leat-dev/leat/test/kit"
)

// testRestore goes back to a backup that was taken under load, while all clients run on.
func testRestore(t *testing.T, c *cluster) {
	documented(t, "how-to/backup.md", bump...)
	ctx := t.Context()
	namespace := c.Namespace(t)
	api := kit.Client(t, c.Admin(t)).BatchV1alpha1()
	store := c.store
	etcd := store.client(t)
	manager := c.StartManager(t, "one")
	for _, name := range []string{"a", "b"} {
		c.StartWorker(t, c.Worker(t, namespace, name), namespace, name, nil, "--tasks=8")
	}
	// The garbage collector looks for new APIs at its start, and every 30 s.
	kit.Check(t, c.Host.ControllerManager.Restart(ctx))
	direct := startInformers(t, c.Direct(t, "alice", "leat:admins"), namespace)
	aggregated := startInformers(t, c.Admin(t), namespace)

	// What owns, and is owned, across the two API servers.
	configMaps := c.kube.CoreV1().ConfigMaps(namespace)
	owner := kit.Must(configMaps.Create(ctx, newConfigMap("owner"), metav1.CreateOptions{}))(t)
	kept := kit.Must(api.TaskSets(namespace).Create(ctx, suspended("kept"), metav1.CreateOptions{}))(t)
	kit.Must(configMaps.Create(ctx, newConfigMap("owned-by-kept", ownedBySet(kept)), metav1.CreateOptions{}))(t)
	held := newHeldTask("owned-by-map")
	held.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: owner.Name, UID: owner.UID}}
	kit.Must(api.Tasks(namespace).Create(ctx, held, metav1.CreateOptions{}))(t)
	deletedSince := kit.Must(api.TaskQueues(namespace).Create(ctx, newQueue("deleted-since"), metav1.CreateOptions{}))(t)

	const completions, parallelism = 240, 16
	w := newWork(t, api, namespace, "work", completions, parallelism)
	short := newWork(t, api, namespace, "ends-before-the-restore", 60, 4)
	stopWriting := writeQueues(t, api, namespace)

	w.await("some indexes are counted", func(set *batch.TaskSet) bool { return set.Status.Succeeded >= 30 })
	short.await("some indexes are counted", func(set *batch.TaskSet) bool { return set.Status.Succeeded >= 5 })
	begun := time.Now()
	snapshot := store.save(t)
	t.Logf("The snapshot took %s.", time.Since(begun).Round(time.Millisecond))
	counted := kit.Must(api.TaskSets(namespace).Get(ctx, "work", metav1.GetOptions{}))(t).Status.Succeeded

	// All that comes now will be lost.
	lost := kit.Must(api.TaskSets(namespace).Create(ctx, suspended("lost"), metav1.CreateOptions{}))(t)
	kit.Must(configMaps.Create(ctx, newConfigMap("owned-by-lost", ownedBySet(lost)), metav1.CreateOptions{}))(t)
	kit.Check(t, api.TaskQueues(namespace).Delete(ctx, "deleted-since", metav1.DeleteOptions{}))
	w.await("more indexes are counted", func(set *batch.TaskSet) bool { return set.Status.Succeeded >= counted+60 })
	short.await("it is complete", complete)
	writes := stopWriting()
	before := max(direct.newest.Load(), aggregated.newest.Load(), resourceVersion(t, api, namespace))
	for _, f := range []*informerSet{direct, aggregated} {
		f.await(t, "it has seen the lost", func() error { return f.has("lost", lost) })
	}

	pids := []int{c.Server.PID(), manager.PID(), c.Host.APIServer.PID()}
	begun = time.Now()
	store.restore(t, snapshot, bump...)
	kit.Check(t, c.Server.WaitReady(ctx))
	kit.Check(t, grown(before, resourceVersion(t, api, namespace)))
	for _, f := range []*informerSet{direct, aggregated} {
		f.await(t, "it agrees with the server", func() error { return f.agrees(ctx, etcd, namespace) })
		kit.Check(t, f.has("deleted-since", deletedSince))
		if err := f.has("lost", lost); err == nil {
			t.Error("A follower still has what was lost.")
		}
	}
	t.Logf("After %d writes of queues besides, from stopping etcd until all informerSets agreed it took %s.", writes, time.Since(begun).Round(100*time.Millisecond))

	// What was lost takes with it what it owned on the host, which shows that the collector has seen it; and it alone.
	kit.Eventually(t, "what a lost set owned is collected", func(ctx context.Context) error {
		_, err := configMaps.Get(ctx, "owned-by-lost", metav1.GetOptions{})
		return kit.Gone(err)
	})
	w.done(completions)
	short.done(60)
	kit.Eventually(t, "the informerSets have come to the end, too", func(ctx context.Context) error {
		return errors.Join(direct.agrees(ctx, etcd, namespace), aggregated.agrees(ctx, etcd, namespace))
	})
	kit.Must(configMaps.Get(ctx, "owned-by-kept", metav1.GetOptions{}))(t)
	if task := kit.Must(api.Tasks(namespace).Get(ctx, "owned-by-map", metav1.GetOptions{}))(t); task.DeletionTimestamp != nil {
		t.Errorf("The task that a ConfigMap owns is being deleted: %+v", task.ObjectMeta)
	}
	if set := kit.Must(api.TaskSets(namespace).Get(ctx, "kept", metav1.GetOptions{}))(t); set.UID != kept.UID || set.DeletionTimestamp != nil {
		t.Errorf("The set that was kept is %+v.", set.ObjectMeta)
	}
	for i, pid := range []int{c.Server.PID(), manager.PID(), c.Host.APIServer.PID()} {
		if pid != pids[i] {
			t.Errorf("Process %d was restarted.", pids[i])
		}
	}
}

// testRestoreWithoutBump shows that the checks of testRestore fail where the flags are forgotten.
func testRestoreWithoutBump(t *testing.T, c *cluster) {
	ctx := t.Context()
	namespace := c.Namespace(t)
	store := startStore(t, 1)
	etcd := store.client(t)
	e := c.serve(t, store)
	api := kit.Client(t, e.Direct(t, "alice", "leat:admins")).BatchV1alpha1()
	kit.Must(api.TaskSets(namespace).Create(ctx, suspended("kept"), metav1.CreateOptions{}))(t)
	f := startInformers(t, e.Direct(t, "alice", "leat:admins"), namespace)
	snapshot := store.save(t)
	var lost *batch.TaskSet
	for i := range 20 {
		lost = kit.Must(api.TaskSets(namespace).Create(ctx, suspended("lost-"+strconv.Itoa(i)), metav1.CreateOptions{}))(t)
	}
	f.await(t, "it has seen all", func() error { return f.has("lost", lost) })
	before := resourceVersion(t, api, namespace)

	store.restore(t, snapshot)
	kit.Check(t, e.Server.WaitReady(ctx))
	if err := grown(before, etcdRevision(t, etcd)); err == nil {
		t.Errorf("The resourceVersion has grown beyond %d though nothing was added.", before)
	} else {
		t.Log(err)
	}
	// The server goes on from what it knew: it shows a set that etcd does not hold, to informerSets, too.
	if _, err := api.TaskSets(namespace).Get(ctx, lost.Name, metav1.GetOptions{}); kit.Gone(err) != nil {
		t.Errorf("The lost set is read from etcd: %v", err)
	}
	if err := f.has("lost", lost); err != nil {
		t.Errorf("The follower has relisted, so this test shows nothing: %v", err)
	}
	if err := f.agrees(ctx, etcd, namespace); err == nil {
		t.Error("The follower agrees with etcd.")
	} else {
		t.Log(err)
	}
}

// testRestoreStandalone restores what "leat up" had stored, with the name and the address that docs/how-to/backup.md gives its member.
func testRestoreStandalone(t *testing.T, e *kit.Env) {
	member := []string{"--name=leat", "--initial-cluster=leat=http://127.0.0.1:2380", "--initial-advertise-peer-urls=http://127.0.0.1:2380"}
	documented(t, "how-to/backup.md", append(member, bump...)...)
	ctx := t.Context()
	namespace := e.Namespace(t)
	api := kit.Client(t, e.Admin(t)).BatchV1alpha1()
	kept := kit.Must(api.TaskSets(namespace).Create(ctx, suspended("kept"), metav1.CreateOptions{}))(t)
	f := startInformers(t, e.Admin(t), namespace)
	snapshot := filepath.Join(t.TempDir(), "backup.db")
	run(t, nil, "etcdctl", "--endpoints=unix://"+filepath.Join(e.DataDir(), "etcd", "run", "etcd.sock"), "snapshot", "save", snapshot)
	lost := kit.Must(api.TaskSets(namespace).Create(ctx, suspended("lost"), metav1.CreateOptions{}))(t)
	f.await(t, "it has seen the lost", func() error { return f.has("lost", lost) })
	before := resourceVersion(t, api, namespace)

	kit.Check(t, e.Server.Stop())
	data := filepath.Join(e.DataDir(), "etcd")
	kit.Check(t, os.Rename(data, data+"-before"))
	run(t, nil, "etcdutl", slices.Concat([]string{"snapshot", "restore", snapshot, "--data-dir=" + data}, bump, member)...)
	kit.Check(t, e.Server.Restart(ctx))
	kit.Check(t, grown(before, resourceVersion(t, api, namespace)))
	f.await(t, "it agrees with the server", func() error { return f.agrees(ctx, e.EtcdClient(t), namespace) })
	kit.Check(t, f.has("kept", kept))
	if err := f.has("lost", lost); err == nil {
		t.Error("A follower still has what was lost.")
	}
}

// follower is what a client follows by informers.
type informerSet struct {
	// newest is the highest resourceVersion it was shown.
	newest atomic.Uint64
	// seen has each resourceVersion that it was shown.
	seen sync.Map
	// lists is how many times it has begun with all there is.
	lists  atomic.Int64
	stores map[string]cache.Store
}

// kinds is how many kinds it follows.
func (f *informerSet) kinds() int64 { return int64(len(f.stores)) }

func startInformers(t testing.TB, config *rest.Config, namespace string) *informerSet {
	t.Helper()
	f := &informerSet{stores: map[string]cache.Store{}}
	config = rest.CopyConfig(config)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(request *http.Request) (*http.Response, error) {
			if query := request.URL.Query(); query.Get("watch") == "" || query.Get("sendInitialEvents") == "true" {
				f.lists.Add(1)
			}
			return next.RoundTrip(request)
		})
	})
	factory := externalversions.NewSharedInformerFactoryWithOptions(kit.Client(t, config), 0, externalversions.WithNamespace(namespace))
	kinds := factory.Batch().V1alpha1()
	show := func(obj any) {
		if tombstone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
			obj = tombstone.Obj
		}
		shown, err := strconv.ParseUint(obj.(metav1.Object).GetResourceVersion(), 10, 64)
		if err != nil {
			t.Errorf("a resourceVersion: %v", err)
		}
		f.seen.Store(obj.(metav1.Object).GetResourceVersion(), nil)
		for old := f.newest.Load(); shown > old && !f.newest.CompareAndSwap(old, shown); old = f.newest.Load() {
		}
	}
	for name, informer := range map[string]cache.SharedIndexInformer{
		"tasks": kinds.Tasks().Informer(), "tasksets": kinds.TaskSets().Informer(), "taskqueues": kinds.TaskQueues().Informer(), "workers": kinds.Workers().Informer(),
	} {
		f.stores[name] = informer.GetStore()
		kit.Must(informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc: show, UpdateFunc: func(_, obj any) { show(obj) }, DeleteFunc: show,
		}))(t)
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	factory.StartWithContext(ctx)
	t.Cleanup(func() {
		stop()
		factory.Shutdown()
	})
	for kind, synced := range factory.WaitForCacheSync(t.Context().Done()) {
		if !synced {
			t.Fatalf("the informer of %v has not synced", kind)
		}
	}
	return f
}

func (f *informerSet) await(t testing.TB, what string, condition func() error) {
	t.Helper()
	kit.Eventually(t, "of a follower: "+what, func(context.Context) error { return condition() })
}

// has says nil if the follower shows that very object, of whatever kind.
func (f *informerSet) has(what string, object metav1.Object) error {
	for _, store := range f.stores {
		if shown, ok, err := store.GetByKey(object.GetNamespace() + "/" + object.GetName()); err == nil && ok && shown.(metav1.Object).GetUID() == object.GetUID() {
			return nil
		}
	}
	return fmt.Errorf("%s is not shown", what)
}

// agrees says nil if the follower shows what etcd holds, each object in the same version. The server is not asked: what it serves from its
// watch cache may be as wrong.
func (f *informerSet) agrees(ctx context.Context, etcd *clientv3.Client, namespace string) error {
	for kind, store := range f.stores {
		prefix := "/leat/" + kind + "/" + namespace + "/"
		stored, err := etcd.Get(ctx, prefix, clientv3.WithPrefix(), clientv3.WithKeysOnly())
		if err != nil {
			return err
		}
		want, have := map[string]string{}, map[string]string{}
		for _, kv := range stored.Kvs {
			want[strings.TrimPrefix(string(kv.Key), prefix)] = strconv.FormatInt(kv.ModRevision, 10)
		}
		for _, obj := range store.List() {
			have[obj.(metav1.Object).GetName()] = obj.(metav1.Object).GetResourceVersion()
		}
		if !maps.Equal(want, have) {
			return fmt.Errorf("of %s a follower has %d and etcd %d, or not in the same versions", kind, len(have), len(want))
		}
	}
	return nil
}

// version is the resourceVersion of all there is.
func resourceVersion(t testing.TB, api typed.BatchV1alpha1Interface, namespace string) uint64 {
	t.Helper()
	var version uint64
	kit.Eventually(t, "a list is served", func(ctx context.Context) error {
		list, err := api.TaskSets(namespace).List(ctx, metav1.ListOptions{})
		if err == nil {
			version, err = strconv.ParseUint(list.ResourceVersion, 10, 64)
		}
		return err
	})
	return version
}

// revision is etcd's own.
func etcdRevision(t testing.TB, etcd *clientv3.Client) uint64 {
	t.Helper()
	return uint64(kit.Must(etcd.Get(t.Context(), "any"))(t).Header.Revision)
}

// grown says nil if resourceVersions have gone on growing.
func grown(before, after uint64) error {
	if after <= before {
		return fmt.Errorf("resourceVersion %d was seen before the restore, and after it is %d", before, after)
	}
	return nil
}

// write creates and deletes queues until stop is called, and stop returns how many were created. It is limited to a rate
// that leaves a slow machine time for tasks.
func writeQueues(t testing.TB, api typed.BatchV1alpha1Interface, namespace string) (stop func() int) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var writers sync.WaitGroup
	var done atomic.Int64
	limiter := flowcontrol.NewTokenBucketRateLimiter(50, 1)
	for n := range 2 {
		writers.Go(func() {
			for i := 0; limiter.Wait(ctx) == nil; i++ {
				queue := newQueue(fmt.Sprintf("queue-%d-%d", n, i%10))
				if i >= 10 {
					// What was written ten writes ago is replaced.
					if err := api.TaskQueues(namespace).Delete(ctx, queue.Name, metav1.DeleteOptions{}); err != nil && ctx.Err() == nil {
						t.Errorf("deleting queue %s: %v", queue.Name, err)
					}
				}
				if _, err := api.TaskQueues(namespace).Create(ctx, queue, metav1.CreateOptions{}); err != nil && ctx.Err() == nil {
					t.Errorf("creating queue %s: %v", queue.Name, err)
				}
				done.Add(1)
			}
		})
	}
	t.Cleanup(cancel)
	return func() int {
		cancel()
		writers.Wait()
		return int(done.Load())
	}
}

// work is a set whose commands leave a line in a file for each time they came to their end.
type work struct {
	testing.TB
	api       typed.BatchV1alpha1Interface
	namespace string
	name      string
	file      string
}

func newWork(t testing.TB, api typed.BatchV1alpha1Interface, namespace, name string, completions, parallelism int32) *work {
	t.Helper()
	w := &work{t, api, namespace, name, filepath.Join(t.TempDir(), "ended")}
	set := &batch.TaskSet{ObjectMeta: metav1.ObjectMeta{Name: name}}
	set.Spec.Completions, set.Spec.Parallelism, set.Spec.CompletionMode = &completions, &parallelism, new(batch.IndexedCompletion)
	set.Spec.Template.Spec.Command = []string{"sh", "-c", `sleep 0.2; echo "$TASK_INDEX" >>"$FILE"`}
	set.Spec.Template.Spec.Env = []batch.EnvVar{{Name: "FILE", Value: w.file}}
	kit.Must(api.TaskSets(namespace).Create(t.Context(), set, metav1.CreateOptions{}))(t)
	return w
}

func (w *work) await(what string, condition func(*batch.TaskSet) bool) *batch.TaskSet {
	w.Helper()
	var set *batch.TaskSet
	kit.Eventually(w, "of set "+w.name+": "+what, func(ctx context.Context) (err error) {
		if set, err = w.api.TaskSets(w.namespace).Get(ctx, w.name, metav1.GetOptions{}); err == nil && !condition(set) {
			err = fmt.Errorf("its status is %+v", set.Status)
		}
		return err
	})
	return set
}

// done waits for the end of the set: each index counted once, and none that was not done.
func (w *work) done(completions int) {
	w.Helper()
	set := w.await("it is complete", complete)
	if want := fmt.Sprintf("0-%d", completions-1); int(set.Status.Succeeded) != completions || set.Status.Failed != 0 || set.Status.CompletedIndexes != want {
		w.Errorf("The status of %s is %+v, want %d of %s.", w.name, set.Status, completions, want)
	}
	ended := map[string]int{}
	for line := range strings.Lines(string(kit.Must(os.ReadFile(w.file))(w))) {
		ended[strings.TrimSpace(line)]++
	}
	again := 0
	for index := range completions {
		times := ended[strconv.Itoa(index)]
		if times == 0 {
			w.Errorf("Index %d of %s is counted, and its command never came to its end.", index, w.name)
		}
		again += max(0, times-1)
	}
	w.Logf("Set %s: %d of %d indexes were done once more after the restore.", w.name, again, completions)
	kit.Eventually(w, "the tasks of "+w.name+" are gone", func(ctx context.Context) error {
		tasks, err := w.api.Tasks(w.namespace).List(ctx, metav1.ListOptions{LabelSelector: batch.LabelTaskSetName + "=" + w.name})
		if err == nil && len(tasks.Items) > 0 {
			err = fmt.Errorf("there are %d, first %s: %+v", len(tasks.Items), tasks.Items[0].Name, tasks.Items[0].Status)
		}
		return err
	})
}

func suspended(name string) *batch.TaskSet {
	set := &batch.TaskSet{ObjectMeta: metav1.ObjectMeta{Name: name}}
	set.Spec.Suspend = new(true)
	set.Spec.Template.Spec.Command = []string{"true"}
	return set
}

func newConfigMap(name string, owners ...metav1.OwnerReference) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, OwnerReferences: owners}}
}

func ownedBySet(set *batch.TaskSet) metav1.OwnerReference {
	return metav1.OwnerReference{APIVersion: batch.GroupVersion.String(), Kind: "TaskSet", Name: set.Name, UID: set.UID}
}
