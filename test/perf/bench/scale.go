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
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/host"
	"github.com/leat-dev/leat/test/kit/measure"
)

const (
	// tasksPerWorker is the number of pending tasks for each worker with one slot.
	tasksPerWorker = 10
	bindingsLimit  = 5 * time.Minute
	// idleLease is the duration in seconds of the leases of workers that nobody renews.
	idleLease   = 24 * 3600
	firstWorker = "worker-00000"
	// idleIncarnation is that of all workers of the start: their names must be in their objects only once.
	idleIncarnation = "9f1b7c52-6a1e-4d5e-9a83-0c5b8f1f4e77"
)

// Names of values and of measurements of scale.
const (
	leatManager  = "leat-controller-manager"
	peakOfPrefix = "peak RSS MiB of "

	valueWorkers      = "workers"
	valuePending      = "pending tasks"
	valueFirstBinding = "first binding after s"
	valueBindings     = "bindings a second"
	valueCPUManager   = "cpu ms of the manager a binding"
	valueEtcdFile     = "file of etcd MiB"
	valueEtcdInUse    = "MiB of it in use"

	whatLargeSet = "a large set"
	whatStart    = "start of the manager"
)

// measureScale runs a large set, and starts a controller manager with many workers and pending tasks.
func (b *bench) measureScale() {
	b.measureLargeSet()
	b.measureStart()
}

// startManager starts a controller manager that waits for no leader.
func (b *bench) startManager(name string) *host.Process {
	return b.scene.env.StartManager(b.scene, name, "--leader-elect=false")
}

// measureLargeSet runs a set with many indexes and workers that report each task as succeeded at once.
func (b *bench) measureLargeSet() {
	const name = "bench-large-set"
	manager := b.startManager(name)
	b.scene.createNamespace(name)
	stop := b.startFakeWorkers(name, true)
	client := kit.Client(b.scene, measure.Protobuf(b.scene.direct))
	pids := map[string]int{leatServer: b.scene.pid(leatServer), leatManager: manager.PID(), leatEtcd: b.scene.pid(leatEtcd)}
	for _, pid := range pids {
		b.scene.Check(measure.ResetPeak(pid))
	}
	managerBefore, err := measure.CPU(manager.PID())
	b.scene.Check(err)
	before := b.scene.count()
	took := b.runSet(client, name, "large", b.LargeSet, fakeParallelism, batch.MaxTaskIndexes)
	after := b.scene.count()
	managerAfter, err := measure.CPU(manager.PID())
	b.scene.Check(err)
	n := float64(b.LargeSet)
	v := values{
		valueWorkers: fakeWorkers, valueIndexes: n, valueSeconds: took, valueRate: n / took,
		valueWritesIndex: float64(after.revisions[leatEtcd]-before.revisions[leatEtcd]) / n,
	}
	cpuValues(v, before, after, []string{leatServer, leatEtcd}, n)
	v[valueCPUAll] = v[valueCPU] + milliseconds(managerAfter-managerBefore)/n
	b.peaks(v, pids)
	b.collector.add(partScale, whatLargeSet, directLabel, "", v)
	b.note("a set of %d indexes: %.1f s, %.0f a second", b.LargeSet, took, v[valueRate])
	stop()
	b.scene.Check(manager.Stop())
}

// peaks sets the peak memory of processes, and the size of etcd.
func (b *bench) peaks(v values, pids map[string]int) {
	for process, pid := range pids {
		peak, err := measure.Memory(pid, "VmHWM")
		b.scene.Check(err)
		v[peakOfPrefix+process] = peak
	}
	status, err := b.scene.stores[leatEtcd].Status(b.scene.Context(), b.scene.env.Etcd.Endpoint)
	b.scene.Check(err)
	v[valueEtcdFile], v[valueEtcdInUse] = float64(status.DbSize)/(1<<20), float64(status.DbSizeInUse)/(1<<20)
}

// measureStart measures the time from the start of a controller manager until its scheduler has bound the first of many
// pending tasks, and until each worker has one. The workers, with one slot each, and the tasks are written to etcd as
// copies.
func (b *bench) measureStart() {
	const name = "bench-start"
	b.scene.createNamespace(name)
	workers := b.Pending / tasksPerWorker
	b.note("writing %d pending tasks and %d workers", b.Pending, workers)
	b.seedWorkers(name, workers)
	b.seed(directLabel, name, b.Pending)
	client := kit.Client(b.scene, measure.Protobuf(b.scene.direct))
	list, err := client.BatchV1alpha1().Tasks(name).List(b.scene.Context(), metav1.ListOptions{Limit: 1})
	b.scene.Check(err)
	ctx, cancel := context.WithTimeout(b.scene.Context(), bindingsLimit)
	defer cancel()
	events, err := client.BatchV1alpha1().Tasks(name).Watch(ctx, metav1.ListOptions{ResourceVersion: list.ResourceVersion})
	b.scene.Check(err)
	defer events.Stop()

	pids := map[string]int{leatServer: b.scene.pid(leatServer), leatEtcd: b.scene.pid(leatEtcd)}
	for _, pid := range pids {
		b.scene.Check(measure.ResetPeak(pid))
	}
	begun := time.Now()
	manager := b.startManager(name)
	pids[leatManager] = manager.PID()
	var first, last time.Duration
	var cpuFirst time.Duration
	bound := map[string]bool{}
	for event := range events.ResultChan() {
		task, ok := event.Object.(*batch.Task)
		if !ok || task.Spec.WorkerName == "" || bound[task.Name] {
			continue
		}
		bound[task.Name] = true
		last = time.Since(begun)
		if len(bound) == 1 {
			first = last
			cpuFirst, err = measure.CPU(manager.PID())
			b.scene.Check(err)
		}
		if len(bound) == workers {
			break
		}
	}
	if len(bound) < workers {
		b.scene.Fatalf("%d of %d workers have a task after %s", len(bound), workers, time.Since(begun))
	}
	cpuLast, err := measure.CPU(manager.PID())
	b.scene.Check(err)
	v := values{
		valueWorkers: float64(workers), valuePending: float64(b.Pending), valueFirstBinding: first.Seconds(),
		valueBindings: float64(workers-1) / (last - first).Seconds(), valueCPUManager: milliseconds(cpuLast-cpuFirst) / float64(workers),
	}
	b.peaks(v, pids)
	b.collector.add(partScale, whatStart, directLabel, "", v)
	b.note("%s: first binding after %.1f s, %.0f bindings a second", whatStart, first.Seconds(), v[valueBindings])
	b.scene.Check(manager.Kill())
	b.unseed(directLabel, name)
	for _, kind := range []string{"workers", "workerleases"} {
		b.deleteStored(kind, name)
	}
}

// seedWorkers writes ready workers and their leases, which do not expire during a run, to etcd.
func (b *bench) seedWorkers(namespace string, n int) {
	const name = firstWorker
	api := kit.Client(b.scene, b.scene.env.Worker(b.scene, namespace, name)).BatchV1alpha1()
	worker, err := api.Workers(namespace).Create(b.scene.Context(), &batch.Worker{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	b.scene.Check(err)
	lease, err := api.WorkerLeases(namespace).Create(b.scene.Context(), &batch.WorkerLease{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       batch.WorkerLeaseSpec{HolderIdentity: idleIncarnation, LeaseDurationSeconds: new(int32(idleLease)), RenewTime: new(metav1.NowMicro())},
	}, metav1.CreateOptions{})
	b.scene.Check(err)
	capacity := batch.ResourceList{
		batch.ResourceTasks: resource.MustParse("1"), batch.ResourceCPU: resource.MustParse("2"), batch.ResourceMemory: resource.MustParse("4Gi"),
	}
	worker.Status.Incarnation, worker.Status.Capacity, worker.Status.Allocatable = idleIncarnation, capacity, capacity
	worker.Status.WorkerInfo.Features = []batch.WorkerFeature{batch.WorkerFeatureChunks}
	meta.SetStatusCondition(&worker.Status.Conditions, metav1.Condition{Type: batch.WorkerReady, Status: metav1.ConditionTrue, Reason: "WorkerReady"})
	_, err = api.Workers(namespace).UpdateStatus(b.scene.Context(), worker, metav1.UpdateOptions{})
	b.scene.Check(err)
	for kind, uid := range map[string]string{"workers": string(worker.UID), "workerleases": string(lease.UID)} {
		key, value := b.storedOf(kind, namespace, name)
		b.scene.Check(measure.CopyStored(b.scene.Context(), b.scene.stores[leatEtcd], key, value, n, func(i int) [][]byte {
			if i == 0 {
				return [][]byte{[]byte(name), []byte(uid)}
			}
			return [][]byte{fmt.Appendf(nil, "worker-%05d", i), fmt.Appendf(nil, "00000000-0000-4000-8000-%012d", i)}
		}))
	}
	b.scene.await("the last worker in the watch cache", func(ctx context.Context) error {
		_, err := kit.Client(b.scene, b.scene.direct).BatchV1alpha1().Workers(namespace).Get(ctx, fmt.Sprintf("worker-%05d", n-1), metav1.GetOptions{ResourceVersion: "0"})
		return err
	})
}

// storedOf returns the key and the value of an object of a kind in the etcd of Leat.
func (b *bench) storedOf(kind, namespace, name string) (key string, value []byte) {
	// Keys end with the kind, the namespace and the name. Workers and their leases have the same names.
	return b.scene.stored(leatEtcd, kind+"/"+namespace, name)
}

// deleteStored deletes all objects of a kind and a namespace from the etcd of Leat.
func (b *bench) deleteStored(kind, namespace string) {
	key, _ := b.storedOf(kind, namespace, firstWorker)
	_, err := b.scene.stores[leatEtcd].Delete(b.scene.Context(), strings.TrimSuffix(key, firstWorker), clientv3.WithPrefix())
	b.scene.Check(err)
}
