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
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/util/flowcontrol"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	typed "github.com/leat-dev/leat/pkg/generated/clientset/versioned/typed/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/host"
	"github.com/leat-dev/leat/test/kit/measure"
)

const (
	setName = "load"
	// probeInterval is the time between two probes.
	probeInterval = time.Second
	pollInterval  = 200 * time.Millisecond
	storeTimeout  = 2 * time.Minute
)

// play starts all programs, runs the set and measures.
func (o *options) play(s *measure.TB) *result {
	e := kit.Aggregated(s, "--etcd-compaction-interval="+o.compactionInterval.String())
	servers, managerArgs := o.startReplicas(s, e)
	var atHost *hostMeter
	people := measure.Protobuf(e.Admin(s))
	if o.host {
		atHost, people = startHostMeter(s, e), direct(s, e)
	}
	port, err := host.FreePort()
	s.Check(err)
	address := "127.0.0.1:" + strconv.Itoa(port)
	manager := e.StartManager(s, "one", append(managerArgs, "--metrics-bind-address="+address)...)
	namespace := e.Namespace(s)
	tasks := &probes{sent: map[string]time.Time{}}
	failures := &failures{}
	pace := &pace{}
	o.startWorkers(s, servers, namespace, pace, tasks.arrived, failures.add)

	m := &meter{
		etcd: e.EtcdClient(s), endpoint: e.Etcd.Endpoint,
		processes: []*process{
			{Name: serverName, pid: e.Server.PID()}, {Name: "leat-controller-manager", pid: manager.PID()}, {Name: "etcd", pid: e.Etcd.PID()},
			{Name: "kube-apiserver", pid: e.Host.APIServer.PID()}, {Name: "kube-controller-manager", pid: e.Host.ControllerManager.PID()},
			{Name: "etcd of the host", pid: e.Host.Etcd.PID()}, {Name: "this program", pid: os.Getpid()},
		},
	}
	for i, server := range servers[1:] {
		m.processes = append(m.processes, &process{Name: fmt.Sprintf("%s %d", serverName, i+2), pid: server.Server.PID()})
	}
	api := kit.Client(s, people).BatchV1alpha1()
	observer := o.observer(s, servers)
	r := &result{
		Completions: o.completions, Parallelism: o.parallelism, Workers: o.workers, Stored: o.stored, Replicas: o.replicas, ServerCPUs: o.serverCPUs,
		TaskDurationSeconds: o.taskDuration.Seconds(), CompactionIntervalSeconds: o.compactionInterval.Seconds(),
	}
	if o.stored > 0 {
		store(s, m.etcd, api.Tasks(namespace), namespace, o.stored)
	}
	if o.share > 0 {
		first := &result{}
		begun := o.createSet(s, api.TaskSets(namespace), "peak", max(1, o.completions/5))
		s.Check(m.begin(s.Context()))
		o.follow(s, api.TaskSets(namespace), "peak", max(1, o.completions/5), m, first, failures, begun)
		r.PeakTasksPerSecond = float64(max(1, o.completions/5)) / time.Since(begun).Seconds()
		pace.limit(o.share * r.PeakTasksPerSecond)
	}
	var idle *hostResult
	if atHost != nil {
		idle, err = atHost.idle(s.Context())
		s.Check(err)
		s.Check(atHost.begin(s.Context()))
	}
	s.Check(m.begin(s.Context()))
	before := observer.metrics(s)

	begun := o.createSet(s, api.TaskSets(namespace), setName, o.completions)
	probing, stopProbing := context.WithCancel(s.Context())
	var probe sync.WaitGroup
	probe.Go(func() { tasks.send(probing, api.Tasks(namespace), failures.add) })
	defer probe.Wait()
	defer stopProbing()
	called := &calls{tasks: api.Tasks(namespace), rest: api.RESTClient(), namespace: namespace, stored: o.stored, failed: failures.add}
	if o.calls {
		probe.Go(func() { called.run(probing) })
	}
	if o.profile != "" {
		probe.Go(func() {
			if err := measure.WriteCPUProfile(probing, observer.client, observer.urls[0], 30*time.Second, o.profile); err != nil {
				failures.add(err)
			}
		})
	}

	o.follow(s, api.TaskSets(namespace), setName, o.completions, m, r, failures, begun)
	r.Seconds = time.Since(begun).Seconds()
	stopProbing()
	probe.Wait()
	if atHost != nil {
		r.HostBefore = idle
		r.HostDuring, err = atHost.end(s.Context())
		s.Check(err)
	}

	manage, err := measure.ReadMetrics(s.Context(), http.DefaultClient, "http://"+address+"/metrics")
	s.Check(err)
	s.Check(m.end(s.Context(), r, float64(o.completions+len(tasks.took)+called.n)))
	r.TasksPerSecond = float64(o.completions) / r.Seconds
	r.Requests = requests(before, observer.metrics(s), float64(o.completions))
	r.StartP50Milliseconds = 1000 * manage.Quantile("leat_taskset_task_start_duration_seconds", 0.5)
	r.StartP99Milliseconds = 1000 * manage.Quantile("leat_taskset_task_start_duration_seconds", 0.99)
	r.ProbeP50Milliseconds, r.ProbeP99Milliseconds, r.Probes = tasks.quantile(0.5), tasks.quantile(0.99), len(tasks.took)
	r.Calls, r.Failures = called.latencies(), int(failures.n.Load())
	return r
}

// startReplicas starts the replicas, and a Service if there are several, and limits their CPU. It returns all servers,
// and the arguments that the controller manager needs to reach them.
func (o *options) startReplicas(s *measure.TB, e *kit.Env) (servers []*kit.Env, managerArgs []string) {
	servers = []*kit.Env{e}
	for range o.replicas - 1 {
		servers = append(servers, e.Replica(s))
	}
	if o.replicas > 1 {
		var addresses []string
		for _, server := range servers {
			addresses = append(addresses, strings.TrimPrefix(server.Direct(s, "nobody").Host, "https://"))
		}
		service, err := measure.NewService(addresses...)
		s.Check(err)
		s.Cleanup(func() { s.Check(service.Close()) })
		s.Check(e.Host.RegisterLeat(s.Context(), service.Port, e.ServingCA.CertPEM()))
		managerArgs = append(managerArgs, "--leat-server=https://"+service.Address)
	}
	if o.serverCPUs > 0 {
		for i, server := range servers {
			free, err := measure.LimitCPU(fmt.Sprintf("leat-load-%d-%d", os.Getpid(), i), server.Server.PID(), o.serverCPUs)
			s.Check(err)
			s.Cleanup(func() { s.Check(free()) })
		}
	}
	return servers, managerArgs
}

// createSet creates a set and returns the time after its creation.
func (o *options) createSet(s *measure.TB, sets typed.TaskSetInterface, name string, completions int) time.Time {
	set := &batch.TaskSet{ObjectMeta: metav1.ObjectMeta{Name: name}}
	set.Spec.Completions, set.Spec.Parallelism = new(int32(completions)), new(int32(o.parallelism))
	set.Spec.CompletionMode = new(batch.IndexedCompletion)
	set.Spec.Template.Spec.Command = []string{"true"}
	_, err := sets.Create(s.Context(), set, metav1.CreateOptions{})
	s.Check(err)
	return time.Now()
}

// store runs one task and writes copies of it to etcd.
func store(s *measure.TB, etcd *clientv3.Client, tasks typed.TaskInterface, namespace string, n int) {
	_, err := tasks.Create(s.Context(), &batch.Task{
		ObjectMeta: metav1.ObjectMeta{
			Name: storedName(0), Labels: map[string]string{"app": "render", "team": "pictures"},
		},
		Spec: batch.TaskSpec{
			Command: []string{"/opt/render/bin/render", "--quality=high"},
			Args:    []string{"--scene=/data/scenes/forest.scene", "--frame=001234", "--out=/data/frames/forest"},
		},
	}, metav1.CreateOptions{})
	s.Check(err)
	var uid types.UID
	await := func(what, name string, done func(*batch.Task) bool) {
		if err := wait.PollUntilContextTimeout(s.Context(), pollInterval, storeTimeout, true, func(ctx context.Context) (bool, error) {
			// Read from the watch cache.
			task, err := tasks.Get(ctx, name, metav1.GetOptions{ResourceVersion: "0"})
			if apierrors.IsNotFound(err) {
				return false, nil
			}
			if err != nil {
				return false, err
			}
			uid = task.UID
			return done(task), nil
		}); err != nil {
			s.Fatalf("waiting for %s: %v", what, err)
		}
	}
	await("the task to copy", storedName(0), func(task *batch.Task) bool { return task.Status.Phase == batch.TaskSucceeded })
	key, value, err := measure.FindStored(s.Context(), etcd, namespace, storedName(0))
	s.Check(err)
	original := uid
	s.Check(measure.CopyStored(s.Context(), etcd, key, value, n, func(i int) [][]byte {
		if i == 0 {
			return [][]byte{[]byte(storedName(0)), []byte(original)}
		}
		return [][]byte{[]byte(storedName(i)), fmt.Appendf(nil, "00000000-0000-4000-8000-%012d", i)}
	}))
	await("the last copy", storedName(n-1), func(*batch.Task) bool { return true })
	fmt.Printf("stored %d tasks of %d bytes each\n", n, len(value))
}

// pace limits the rate of all workers together, after limit was called.
type pace struct {
	limiter atomic.Pointer[flowcontrol.RateLimiter]
}

func (p *pace) limit(perSecond float64) {
	limiter := flowcontrol.NewTokenBucketRateLimiter(float32(perSecond), 1)
	p.limiter.Store(&limiter)
}

func (p *pace) wait(ctx context.Context) error {
	if limiter := p.limiter.Load(); limiter != nil {
		return (*limiter).Wait(ctx)
	}
	return nil
}

// startWorkers starts workers whose capacity is enough for the parallelism and for probes.
func (o *options) startWorkers(s *measure.TB, servers []*kit.Env, namespace string, pace *pace, seen func(string), failed func(error)) {
	ctx, cancel := context.WithCancel(s.Context())
	ended := make(chan error, o.workers)
	for i := range o.workers {
		name := fmt.Sprintf("fake-%d-%05d", i, i)
		w := &measure.FakeWorker{
			Client: kit.Client(s, measure.Protobuf(servers[i%len(servers)].Worker(s, namespace, name))), Namespace: namespace, Name: name,
			Chunks: o.chunks, Duration: o.taskDuration, Pace: pace.wait, Seen: seen, Failed: failed,
		}
		s.Check(w.Register(ctx, (o.parallelism+o.workers-1)/o.workers+1))
		go func() { ended <- w.Run(ctx) }()
	}
	s.Cleanup(func() {
		cancel()
		for range o.workers {
			s.Check(<-ended)
		}
	})
}

// follow prints and records samples until the set is complete.
func (o *options) follow(s *measure.TB, sets typed.TaskSetInterface, name string, completions int, m *meter, r *result, failures *failures, begun time.Time) {
	fmt.Println(header)
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	due, last := begun.Add(o.interval), sample{}
	for {
		select {
		case <-ticker.C:
		case <-s.Context().Done():
			s.Fatal(s.Context().Err())
		}
		set, err := sets.Get(s.Context(), name, metav1.GetOptions{})
		s.Check(err)
		if meta.IsStatusConditionTrue(set.Status.Conditions, batch.TaskSetFailed) {
			s.Fatalf("the task set failed: %+v", set.Status)
		}
		complete := meta.IsStatusConditionTrue(set.Status.Conditions, batch.TaskSetComplete)
		if time.Now().Before(due) && !complete {
			continue
		}
		due = due.Add(o.interval)
		now, err := m.sample(s.Context(), time.Since(begun), int(set.Status.Succeeded))
		s.Check(err)
		now.print(last, failures)
		last = now
		r.Samples = append(r.Samples, now)
		if complete {
			if set.Status.CompletedIndexes != fmt.Sprintf("0-%d", completions-1) && completions > 1 || int(set.Status.Succeeded) != completions {
				s.Fatalf("the task set is complete with %d successes and indexes %s", set.Status.Succeeded, set.Status.CompletedIndexes)
			}
			return
		}
	}
}

// probes are tasks outside the set. They measure the time from the request to create a task until its worker sees it.
type probes struct {
	mu   sync.Mutex
	sent map[string]time.Time
	took []time.Duration
}

// send creates probes until ctx ends.
func (p *probes) send(ctx context.Context, tasks typed.TaskInterface, failed func(error)) {
	ticker := time.NewTicker(probeInterval)
	defer ticker.Stop()
	for i := 0; ; i++ {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		name := "probe-" + strconv.Itoa(i)
		p.mu.Lock()
		p.sent[name] = time.Now()
		p.mu.Unlock()
		_, err := tasks.Create(ctx, &batch.Task{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec:       batch.TaskSpec{Command: []string{"true"}, TTLSecondsAfterFinished: new(int32)},
		}, metav1.CreateOptions{})
		if err != nil && ctx.Err() == nil {
			failed(err)
		}
	}
}

// arrived records that a worker has seen a task.
func (p *probes) arrived(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if sent, ok := p.sent[name]; ok {
		p.took = append(p.took, time.Since(sent))
		delete(p.sent, name)
	}
}

// quantile returns a quantile of the latencies in milliseconds.
func (p *probes) quantile(q float64) float64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	slices.Sort(p.took)
	return at(p.took, q)
}

// failures counts the failed requests of this program and keeps the last error.
type failures struct {
	n    atomic.Int64
	last atomic.Pointer[error]
}

func (f *failures) add(err error) {
	f.n.Add(1)
	f.last.Store(&err)
}

// begin records the current values, which end subtracts.
func (m *meter) begin(ctx context.Context) error {
	status, err := m.etcd.Status(ctx, m.endpoint)
	if err != nil {
		return err
	}
	m.revision, m.begun = status.Header.Revision, time.Now()
	for _, p := range m.processes {
		if p.before, err = measure.CPU(p.pid); err != nil {
			return err
		}
	}
	return nil
}

// meter measures processes and etcd.
type meter struct {
	etcd      *clientv3.Client
	endpoint  string
	processes []*process
	revision  int64
	begun     time.Time
}
