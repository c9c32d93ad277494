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
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/flowcontrol"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	typed "github.com/leat-dev/leat/pkg/generated/clientset/versioned/typed/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit"
)

// testRestore restores a backup that was taken under load, while all clients run.
func testRestore(t *testing.T, c *cluster) {
	documented(t, "how-to/backup.md", bumpFlags...)
	ctx := t.Context()
	namespace := c.Namespace(t)
	api := kit.Client(t, c.Admin(t)).BatchV1alpha1()
	store := c.store
	etcd := store.client(t)
	manager := c.StartManager(t, "one")
	for _, name := range []string{"a", "b"} {
		c.StartWorker(t, c.Worker(t, namespace, name), namespace, name, nil, "--tasks=8")
	}
	// The garbage collector discovers APIs when it starts, and then every 30 s.
	kit.Check(t, c.Host.ControllerManager.Restart(ctx))
	direct := startInformers(t, direct(t, c.Env), namespace)
	aggregated := startInformers(t, c.Admin(t), namespace)

	// Owners and dependents on different API servers.
	configMaps := c.kube.CoreV1().ConfigMaps(namespace)
	owner := kit.Must(configMaps.Create(ctx, newConfigMap("owner"), metav1.CreateOptions{}))(t)
	kept := kit.Must(api.TaskSets(namespace).Create(ctx, newSuspendedSet("kept"), metav1.CreateOptions{}))(t)
	kit.Must(configMaps.Create(ctx, newConfigMap("owned-by-kept", ownedBySet(kept)), metav1.CreateOptions{}))(t)
	held := newHeldTask("owned-by-map")
	held.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: owner.Name, UID: owner.UID}}
	kit.Must(api.Tasks(namespace).Create(ctx, held, metav1.CreateOptions{}))(t)
	deletedLater := kit.Must(api.TaskQueues(namespace).Create(ctx, newQueue("deleted-later"), metav1.CreateOptions{}))(t)

	const completions, parallelism = 240, 16
	running := startSet(t, api, namespace, "running", completions, parallelism)
	ended := startSet(t, api, namespace, "ended", 60, 4)
	stopWriting := writeQueues(t, api, namespace)

	running.await("some indexes are counted", succeeded(30))
	ended.await("some indexes are counted", succeeded(5))
	start := time.Now()
	snapshot := store.save(t)
	t.Logf("the snapshot took %s", time.Since(start).Round(time.Millisecond))
	counted := kit.Must(api.TaskSets(namespace).Get(ctx, "running", metav1.GetOptions{}))(t).Status.Succeeded

	// The restore loses all that follows.
	lost := kit.Must(api.TaskSets(namespace).Create(ctx, newSuspendedSet("lost"), metav1.CreateOptions{}))(t)
	kit.Must(configMaps.Create(ctx, newConfigMap("owned-by-lost", ownedBySet(lost)), metav1.CreateOptions{}))(t)
	kit.Check(t, api.TaskQueues(namespace).Delete(ctx, "deleted-later", metav1.DeleteOptions{}))
	running.await("more indexes are counted", succeeded(min(counted+60, completions)))
	ended.await("it is complete", complete)
	writes := stopWriting()
	before := max(direct.newest.Load(), aggregated.newest.Load(), listVersion(t, api, namespace))
	for _, s := range []*informerSet{direct, aggregated} {
		s.awaitObject(t, lost)
	}

	pids := []int{c.Server.PID(), manager.PID(), c.Host.APIServer.PID()}
	start = time.Now()
	store.restore(t, snapshot, bumpFlags...)
	kit.Check(t, c.Server.WaitReady(ctx))
	kit.Check(t, increased(before, listVersion(t, api, namespace)))
	for _, s := range []*informerSet{direct, aggregated} {
		s.awaitEtcd(t, etcd, namespace)
		kit.Check(t, s.has(deletedLater))
		if err := s.has(lost); err == nil {
			t.Error("an informer still has the lost set")
		}
	}
	t.Logf("after %d writes of queues, it took %s from stopping etcd until all informers matched it", writes, time.Since(start).Round(100*time.Millisecond))

	// The garbage collector deletes the dependent of the lost set. That shows that it has processed the restore, and the
	// other dependents must stay.
	kit.Eventually(t, "the dependent of the lost set is collected", func(ctx context.Context) error {
		_, err := configMaps.Get(ctx, "owned-by-lost", metav1.GetOptions{})
		return kit.Gone(err)
	})
	running.expectDone(completions)
	ended.expectDone(60)
	kit.Eventually(t, "all informers match etcd", func(ctx context.Context) error {
		return errors.Join(direct.matchesEtcd(ctx, etcd, namespace), aggregated.matchesEtcd(ctx, etcd, namespace))
	})
	kit.Must(configMaps.Get(ctx, "owned-by-kept", metav1.GetOptions{}))(t)
	if task := kit.Must(api.Tasks(namespace).Get(ctx, "owned-by-map", metav1.GetOptions{}))(t); task.DeletionTimestamp != nil {
		t.Errorf("the task with a ConfigMap as owner is being deleted: %+v", task.ObjectMeta)
	}
	if set := kit.Must(api.TaskSets(namespace).Get(ctx, "kept", metav1.GetOptions{}))(t); set.UID != kept.UID || set.DeletionTimestamp != nil {
		t.Errorf("got set %+v, want UID %s and no deletion", set.ObjectMeta, kept.UID)
	}
	for i, pid := range []int{c.Server.PID(), manager.PID(), c.Host.APIServer.PID()} {
		if pid != pids[i] {
			t.Errorf("process %d was restarted", pids[i])
		}
	}
}

// testRestoreWithoutBump shows that the checks of testRestore fail without the flags that increase the revision.
func testRestoreWithoutBump(t *testing.T, c *cluster) {
	ctx := t.Context()
	namespace := c.Namespace(t)
	store := startStore(t, 1)
	etcd := store.client(t)
	e := c.serve(t, store)
	api := kit.Client(t, direct(t, e)).BatchV1alpha1()
	kit.Must(api.TaskSets(namespace).Create(ctx, newSuspendedSet("kept"), metav1.CreateOptions{}))(t)
	informers := startInformers(t, direct(t, e), namespace)
	snapshot := store.save(t)
	var lost *batch.TaskSet
	for i := range 20 {
		lost = kit.Must(api.TaskSets(namespace).Create(ctx, newSuspendedSet("lost-"+strconv.Itoa(i)), metav1.CreateOptions{}))(t)
	}
	informers.awaitObject(t, lost)
	before := listVersion(t, api, namespace)

	store.restore(t, snapshot)
	kit.Check(t, e.Server.WaitReady(ctx))
	if err := increased(before, etcdRevision(t, etcd)); err == nil {
		t.Errorf("the resourceVersion has increased beyond %d without the flags", before)
	} else {
		t.Log(err)
	}
	// The watch cache continues from its state before the restore. Informers have a set that etcd lacks.
	if _, err := api.TaskSets(namespace).Get(ctx, lost.Name, metav1.GetOptions{}); kit.Gone(err) != nil {
		t.Errorf("reading the lost set from etcd: got %v, want NotFound", err)
	}
	if err := informers.has(lost); err != nil {
		t.Errorf("the informers have listed again, so this test proves nothing: %v", err)
	}
	if err := informers.matchesEtcd(ctx, etcd, namespace); err == nil {
		t.Error("the informers match etcd")
	} else {
		t.Log(err)
	}
}

// testRestoreStandalone restores a backup of "leat up" with the member name and address in docs/how-to/backup.md.
func testRestoreStandalone(t *testing.T, e *kit.Env) {
	member := []string{"--name=leat", "--initial-cluster=leat=http://127.0.0.1:2380", "--initial-advertise-peer-urls=http://127.0.0.1:2380"}
	documented(t, "how-to/backup.md", append(member, bumpFlags...)...)
	ctx := t.Context()
	namespace := e.Namespace(t)
	api := kit.Client(t, e.Admin(t)).BatchV1alpha1()
	kept := kit.Must(api.TaskSets(namespace).Create(ctx, newSuspendedSet("kept"), metav1.CreateOptions{}))(t)
	informers := startInformers(t, e.Admin(t), namespace)
	snapshot := filepath.Join(t.TempDir(), "backup.db")
	runTool(t, nil, "etcdctl", "--endpoints=unix://"+filepath.Join(e.DataDir(), "etcd", "run", "etcd.sock"), "snapshot", "save", snapshot)
	lost := kit.Must(api.TaskSets(namespace).Create(ctx, newSuspendedSet("lost"), metav1.CreateOptions{}))(t)
	informers.awaitObject(t, lost)
	before := listVersion(t, api, namespace)

	kit.Check(t, e.Server.Stop())
	data := filepath.Join(e.DataDir(), "etcd")
	kit.Check(t, os.Rename(data, data+"-before"))
	runTool(t, nil, "etcdutl", slices.Concat([]string{"snapshot", "restore", snapshot, "--data-dir=" + data}, bumpFlags, member)...)
	kit.Check(t, e.Server.Restart(ctx))
	kit.Check(t, increased(before, listVersion(t, api, namespace)))
	informers.awaitEtcd(t, e.EtcdClient(t), namespace)
	kit.Check(t, informers.has(kept))
	if err := informers.has(lost); err == nil {
		t.Error("an informer still has the lost set")
	}
}

// listVersion returns the resourceVersion of a list.
func listVersion(t testing.TB, api typed.BatchV1alpha1Interface, namespace string) uint64 {
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

func etcdRevision(t testing.TB, etcd *clientv3.Client) uint64 {
	t.Helper()
	return uint64(kit.Must(etcd.Get(t.Context(), "any"))(t).Header.Revision)
}

// increased returns an error unless the resourceVersion after a restore is higher than the one before it.
func increased(before, after uint64) error {
	if after <= before {
		return fmt.Errorf("resourceVersion %d after the restore, want more than %d, which clients have seen", after, before)
	}
	return nil
}

// writeQueues creates and deletes queues until stop is called. It returns how many were created. Its rate leaves time
// for tasks on a slow machine.
func writeQueues(t testing.TB, api typed.BatchV1alpha1Interface, namespace string) (stop func() int) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var writers sync.WaitGroup
	var created atomic.Int64
	limiter := flowcontrol.NewTokenBucketRateLimiter(50, 1)
	for n := range 2 {
		writers.Go(func() {
			for i := 0; limiter.Wait(ctx) == nil; i++ {
				queue := newQueue(fmt.Sprintf("queue-%d-%d", n, i%10))
				if i >= 10 {
					// Replace the queue of ten writes ago.
					if err := api.TaskQueues(namespace).Delete(ctx, queue.Name, metav1.DeleteOptions{}); err != nil && ctx.Err() == nil {
						t.Errorf("deleting queue %s: %v", queue.Name, err)
					}
				}
				if _, err := api.TaskQueues(namespace).Create(ctx, queue, metav1.CreateOptions{}); err != nil && ctx.Err() == nil {
					t.Errorf("creating queue %s: %v", queue.Name, err)
				}
				created.Add(1)
			}
		})
	}
	t.Cleanup(cancel)
	return func() int {
		cancel()
		writers.Wait()
		return int(created.Load())
	}
}

func newSuspendedSet(name string) *batch.TaskSet {
	set := kit.NewTaskSet(name)
	set.Spec.Suspend = new(true)
	return set
}

func newConfigMap(name string, owners ...metav1.OwnerReference) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, OwnerReferences: owners}}
}

func ownedBySet(set *batch.TaskSet) metav1.OwnerReference {
	return kit.OwnerReference(set, batch.GroupVersion.String(), "TaskSet")
}
