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
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/generated/clientset/versioned"
	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/host"
	"github.com/leat-dev/leat/test/kit/measure"
)

const (
	// fakeWorkers and realWorkers are numbers of workers. Together they have a capacity of fakeParallelism and
	// realParallelism tasks.
	fakeWorkers, realWorkers = 20, 4
	fakeParallelism          = 200
	realParallelism          = 64
	// loneTime is how long tasks outside of a set are created, at half the rate of the set.
	loneTime    = 20 * time.Second
	lifePoll    = 100 * time.Millisecond
	jobPods     = 50
	jobAtATime  = 10
	jobTimeout  = 10 * time.Minute
	warmUpTasks = 200
)

// Names of values and of measurements of the life cycle.
const (
	valueWritesTask = "etcd writes a task"
	valueWritesOwn  = "of them to the task"
	valueCPUAll     = "cpu ms of all a task"
	valueAsked      = "asked per second"

	whatSet  = "set of tasks"
	whatLone = "lone tasks, half the rate"
	withTrue = "workers that run true"
	withNone = "workers that run nothing"
	withJob  = "Job of Kubernetes"
)

// measureLifeCycle runs sets of tasks with both kinds of workers, and a Job if there is a cluster.
func (b *bench) measureLifeCycle() {
	manager := b.scene.env.StartManager(b.scene, "bench")
	b.measureWorkers(withNone, manager)
	b.measureWorkers(withTrue, manager)
	b.scene.Check(manager.Kill())
	if b.Cluster != "" {
		b.measureJob()
	}
}

// measureWorkers runs a set and then tasks outside of a set with one kind of worker.
func (b *bench) measureWorkers(workers string, manager *host.Process) {
	name, parallelism := "bench-none", fakeParallelism
	if workers == withTrue {
		name, parallelism = "bench-true", realParallelism
	}
	b.scene.createNamespace(name)
	var stop func()
	var pids []int
	if workers == withTrue {
		stop, pids = b.startRealWorkers(name)
	} else {
		stop = b.startFakeWorkers(name, false)
	}
	defer stop()
	client := kit.Client(b.scene, measure.Protobuf(b.scene.direct))
	b.runSet(client, name, "warm-up", min(b.Tasks, warmUpTasks), parallelism, 1)

	pids = append(pids, manager.PID())
	used := func() (sum time.Duration) {
		for _, pid := range pids {
			cpu, err := measure.CPU(pid)
			b.scene.Check(err)
			sum += cpu
		}
		return sum
	}
	cpuBefore, before, writesBefore := used(), b.scene.count(), b.scene.taskWrites()
	seconds := b.runSet(client, name, "life", b.Tasks, parallelism, 1)
	after := b.scene.count()
	rate := float64(b.Tasks) / seconds
	v := values{
		valueRate: rate, valueWritesTask: float64(after.revisions[leatEtcd]-before.revisions[leatEtcd]) / float64(b.Tasks),
		valueWritesOwn: (b.scene.taskWrites() - writesBefore) / float64(b.Tasks),
	}
	cpuValues(v, before, after, []string{leatServer}, float64(b.Tasks))
	v[valueCPUAll] = milliseconds(used()-cpuBefore)/float64(b.Tasks) + v[cpuOfPrefix+leatServer] + v[cpuOfPrefix+leatEtcd]
	b.collector.add(partLifeCycle, whatSet, workers, "", v)
	b.note("%s: %.0f tasks/s, %.2f etcd writes a task, %.2f of them to it", workers, rate, v[valueWritesTask], v[valueWritesOwn])

	v = b.loneTasks(client, name, rate/2)
	b.collector.add(partLifeCycle, whatLone, workers, "", v)
	b.note("%s: lone tasks at %.0f/s: created to started p50 %.0f ms, p99 %.0f ms", workers, v[valueRate], v[valueP50], v[valueP99])
}

// runSet runs a set until it is complete and its tasks are deleted, and returns the time in seconds. A task has at most
// maxIndexes of the indexes.
func (b *bench) runSet(client versioned.Interface, namespace, name string, completions, parallelism, maxIndexes int) float64 {
	api := client.BatchV1alpha1()
	set := &batch.TaskSet{ObjectMeta: metav1.ObjectMeta{Name: name}}
	set.Spec.Completions, set.Spec.Parallelism = new(int32(completions)), new(int32(parallelism))
	set.Spec.CompletionMode = new(batch.IndexedCompletion)
	set.Spec.Template.Spec.Command = []string{"true"}
	set.Spec.Chunking = &batch.TaskSetChunking{MaxIndexes: new(int32(maxIndexes))}
	begun := time.Now()
	_, err := api.TaskSets(namespace).Create(b.scene.Context(), set, metav1.CreateOptions{})
	b.scene.Check(err)
	for complete := false; !complete; {
		b.scene.pause(lifePoll)
		set, err = api.TaskSets(namespace).Get(b.scene.Context(), name, metav1.GetOptions{})
		b.scene.Check(err)
		if meta.IsStatusConditionTrue(set.Status.Conditions, batch.TaskSetFailed) {
			b.scene.Fatalf("the set failed: %+v", set.Status)
		}
		complete = meta.IsStatusConditionTrue(set.Status.Conditions, batch.TaskSetComplete)
	}
	if int(set.Status.Succeeded) != completions {
		b.scene.Fatalf("the set is complete: got %d succeeded indexes, want %d", set.Status.Succeeded, completions)
	}
	for left := 1; left > 0; {
		list, err := api.Tasks(namespace).List(b.scene.Context(), metav1.ListOptions{})
		b.scene.Check(err)
		if left = len(list.Items); left > 0 {
			b.scene.pause(lifePoll)
		}
	}
	return time.Since(begun).Seconds()
}

// loneTasks creates tasks at a rate. It measures the time from the request until a watcher sees that the task has
// started. The watcher may see a short command only after its end.
func (b *bench) loneTasks(client versioned.Interface, namespace string, rate float64) values {
	api := client.BatchV1alpha1().Tasks(namespace)
	list, err := api.List(b.scene.Context(), metav1.ListOptions{})
	b.scene.Check(err)
	events, err := api.Watch(b.scene.Context(), metav1.ListOptions{ResourceVersion: list.ResourceVersion})
	b.scene.Check(err)
	total := max(int(loneTime.Seconds()*rate), 1)
	var mu sync.Mutex
	sent, took := map[string]time.Time{}, []time.Duration{}
	var ended sync.WaitGroup
	all := make(chan struct{})
	ended.Go(func() {
		for event := range events.ResultChan() {
			task, ok := event.Object.(*batch.Task)
			if !ok || event.Type == watch.Deleted || task.Status.StartTime == nil {
				continue
			}
			mu.Lock()
			if at, ok := sent[task.Name]; ok {
				took = append(took, time.Since(at))
				delete(sent, task.Name)
				if len(took) == total {
					close(all)
				}
			}
			mu.Unlock()
		}
	})
	due := make(chan int, total)
	errs := make([]error, b.Clients)
	var senders sync.WaitGroup
	for sender := range b.Clients {
		senders.Go(func() {
			for i := range due {
				name := "lone-" + strconv.Itoa(i)
				mu.Lock()
				sent[name] = time.Now()
				mu.Unlock()
				_, err := api.Create(b.scene.Context(), &batch.Task{
					ObjectMeta: metav1.ObjectMeta{Name: name},
					Spec:       batch.TaskSpec{Command: []string{"true"}, TTLSecondsAfterFinished: new(int32)},
				}, metav1.CreateOptions{})
				errs[sender] = errors.Join(errs[sender], err)
			}
		})
	}
	before := b.scene.count()
	ticker := time.NewTicker(time.Duration(float64(time.Second) / rate))
	for i := range total {
		select {
		case <-ticker.C:
		case <-b.scene.Context().Done():
		}
		due <- i
	}
	ticker.Stop()
	close(due)
	senders.Wait()
	elapsed := time.Since(before.at).Seconds()
	b.scene.Check(errors.Join(errs...))
	select {
	case <-all:
	case <-time.After(time.Minute):
		b.scene.Fatalf("%d of %d tasks have not started a minute after the last was created", len(sent), total)
	}
	b.scene.await("the end of lone tasks", func(ctx context.Context) error {
		list, err := api.List(ctx, metav1.ListOptions{})
		if err == nil && len(list.Items) > 0 {
			err = fmt.Errorf("got %d tasks, want 0", len(list.Items))
		}
		return err
	})
	after := b.scene.count()
	events.Stop()
	ended.Wait()
	slices.Sort(took)
	return values{
		valueAsked: rate, valueRate: float64(total) / elapsed, valueP50: quantile(took, 0.5), valueP99: quantile(took, 0.99),
		valueWritesTask: float64(after.revisions[leatEtcd]-before.revisions[leatEtcd]) / float64(total),
	}
}

// startFakeWorkers starts workers that report each task as succeeded as soon as they see it, and accept chunks or not.
// stop ends them.
func (b *bench) startFakeWorkers(namespace string, chunks bool) (stop func()) {
	ctx, cancel := context.WithCancel(b.scene.Context())
	ended := make(chan error, fakeWorkers)
	for i := range fakeWorkers {
		name := fmt.Sprintf("fake-%d-%05d", i, i)
		w := &measure.FakeWorker{
			Client: kit.Client(b.scene, measure.Protobuf(b.scene.env.Worker(b.scene, namespace, name))), Namespace: namespace, Name: name,
			Chunks: chunks, Seen: func(string) {}, Failed: func(err error) { b.note("worker %s: %v", name, err) },
		}
		b.scene.Check(w.Register(ctx, fakeParallelism/fakeWorkers))
		go func() { ended <- w.Run(ctx) }()
	}
	return func() {
		cancel()
		for range fakeWorkers {
			b.scene.Check(<-ended)
		}
	}
}

// startRealWorkers starts leat-worker processes. stop ends them.
func (b *bench) startRealWorkers(namespace string) (stop func(), pids []int) {
	var processes []*host.Process
	for i := range realWorkers {
		name := fmt.Sprintf("real-%d-%05d", i, i)
		p := b.scene.env.StartWorker(b.scene, b.scene.env.Worker(b.scene, namespace, name), namespace, name, nil,
			"--name="+name, "--namespace="+namespace, "--tasks="+strconv.Itoa(realParallelism/realWorkers), "--v=0",
			"--capacity=cpu=64", "--state-dir="+filepath.Join(b.scene.TempDir(), "state"))
		processes, pids = append(processes, p), append(pids, p.PID())
	}
	return func() {
		for _, p := range processes {
			b.scene.Check(p.Kill())
		}
	}, pids
}

// measureJob runs a Job on the cluster of --cluster.
func (b *bench) measureJob() {
	config, err := clientcmd.BuildConfigFromFlags("", b.Cluster)
	b.scene.Check(err)
	config.QPS = -1
	client, err := kubernetes.NewForConfig(config)
	b.scene.Check(err)
	ctx, jobs := b.scene.Context(), client.BatchV1().Jobs(metav1.NamespaceDefault)
	begun := time.Now()
	job, err := jobs.Create(ctx, &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "leat-bench-"},
		Spec: batchv1.JobSpec{
			Completions: new(int32(jobPods)), Parallelism: new(int32(jobAtATime)), BackoffLimit: new(int32),
			Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{
				RestartPolicy: corev1.RestartPolicyNever, AutomountServiceAccountToken: new(bool),
				Containers: []corev1.Container{{Name: "c", Image: b.JobImage, ImagePullPolicy: corev1.PullNever}},
			}},
		},
	}, metav1.CreateOptions{})
	b.scene.Check(err)
	defer func() {
		background := metav1.DeletePropagationBackground
		b.scene.Check(jobs.Delete(context.WithoutCancel(ctx), job.Name, metav1.DeleteOptions{PropagationPolicy: &background}))
	}()
	for job.Status.Succeeded < jobPods {
		if job.Status.Failed > 0 || time.Since(begun) > jobTimeout {
			b.scene.Fatalf("the Job has %d succeeded and %d failed pods after %s", job.Status.Succeeded, job.Status.Failed, time.Since(begun))
		}
		b.scene.pause(lifePoll)
		job, err = jobs.Get(ctx, job.Name, metav1.GetOptions{})
		b.scene.Check(err)
	}
	seconds := time.Since(begun).Seconds()
	pods, err := client.CoreV1().Pods(metav1.NamespaceDefault).List(ctx, metav1.ListOptions{LabelSelector: "job-name=" + job.Name})
	b.scene.Check(err)
	var took []time.Duration
	for _, pod := range pods.Items {
		for _, status := range pod.Status.ContainerStatuses {
			if ended := status.State.Terminated; ended != nil {
				took = append(took, ended.StartedAt.Sub(pod.CreationTimestamp.Time))
			}
		}
	}
	slices.Sort(took)
	v := values{valueRate: jobPods / seconds, valueP50: quantile(took, 0.5), valueP99: quantile(took, 0.99)}
	b.collector.add(partLifeCycle, whatSet, withJob, "", v)
	b.note("%s: %.2f pods/s", withJob, v[valueRate])
}
