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
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	typed "github.com/leat-dev/leat/pkg/generated/clientset/versioned/typed/batch/v1alpha1"
	"github.com/leat-dev/leat/test/env"
	"github.com/leat-dev/leat/test/host"
	"github.com/leat-dev/leat/test/measure"
)

const (
	setName = "load"
	// probeInterval is the time between two lone tasks whose way to a worker is measured.
	probeInterval = time.Second
	pollInterval  = 200 * time.Millisecond
)

// play starts everything, runs the set and measures.
func (o *options) play(s *measure.Stage) *result {
	e := env.Aggregated(s, "--etcd-compaction-interval="+o.compactionInterval.String())
	var atHost *hostMeter
	people := measure.Protobuf(e.Admin(s))
	if o.host {
		atHost, people = startHostMeter(s, e), direct(s, e)
	}
	port, err := host.FreePort()
	s.Check(err)
	address := "127.0.0.1:" + strconv.Itoa(port)
	manager := e.StartManager(s, "one", "--metrics-bind-address="+address)
	namespace := e.Namespace(s)
	tasks := &probes{sent: map[string]time.Time{}}
	failures := &failures{}
	o.startWorkers(s, e, namespace, tasks.arrived, failures.add)

	m := &meter{
		etcd: e.EtcdClient(s), endpoint: e.Etcd.Endpoint,
		processes: []*process{
			{Name: "leat-apiserver", pid: e.Server.PID()}, {Name: "leat-controller-manager", pid: manager.PID()}, {Name: "etcd", pid: e.Etcd.PID()},
			{Name: "kube-apiserver", pid: e.Host.APIServer.PID()}, {Name: "kube-controller-manager", pid: e.Host.ControllerManager.PID()},
			{Name: "etcd of the host", pid: e.Host.Etcd.PID()}, {Name: "this program", pid: os.Getpid()},
		},
	}
	api := env.Client(s, people).BatchV1alpha1()
	var idle *hostResult
	if atHost != nil {
		idle, err = atHost.idle(s.Context())
		s.Check(err)
		s.Check(atHost.begin(s.Context()))
	}
	s.Check(m.begin(s.Context()))
	observer := o.observer(s, e)
	server := func() measure.Metrics {
		samples, err := measure.ReadMetrics(s.Context(), observer.client, observer.url+"/metrics")
		s.Check(err)
		return samples
	}
	before := server()

	set := &batch.TaskSet{ObjectMeta: metav1.ObjectMeta{Name: setName}}
	set.Spec.Completions, set.Spec.Parallelism = new(int32(o.completions)), new(int32(o.parallelism))
	set.Spec.CompletionMode = new(batch.IndexedCompletion)
	set.Spec.Template.Spec.Command = []string{"true"}
	_, err = api.TaskSets(namespace).Create(s.Context(), set, metav1.CreateOptions{})
	s.Check(err)
	probing, stopProbing := context.WithCancel(s.Context())
	var probe sync.WaitGroup
	probe.Go(func() { tasks.send(probing, api.Tasks(namespace), failures.add) })
	defer probe.Wait()
	defer stopProbing()
	if o.profile != "" {
		probe.Go(func() {
			if err := measure.WriteCPUProfile(probing, observer.client, observer.url, 30*time.Second, o.profile); err != nil {
				failures.add(err)
			}
		})
	}

	r := &result{
		Completions: o.completions, Parallelism: o.parallelism, Workers: o.workers,
		TaskDurationSeconds: o.taskDuration.Seconds(), CompactionIntervalSeconds: o.compactionInterval.Seconds(),
	}
	begun := time.Now()
	o.follow(s, api.TaskSets(namespace), m, r, failures, begun)
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
	s.Check(m.end(s.Context(), r, float64(o.completions+len(tasks.took))))
	r.TasksPerSecond = float64(o.completions) / r.Seconds
	r.Requests = requests(before, server(), float64(o.completions))
	r.StartP50Milliseconds = 1000 * manage.Quantile("leat_taskset_task_start_duration_seconds", 0.5)
	r.StartP99Milliseconds = 1000 * manage.Quantile("leat_taskset_task_start_duration_seconds", 0.99)
	r.ProbeP50Milliseconds, r.ProbeP99Milliseconds, r.Probes = tasks.quantile(0.5), tasks.quantile(0.99), len(tasks.took)
	r.Failures = int(failures.n.Load())
	return r
}

// startWorkers starts workers which together have room for the parallelism and for probes.
func (o *options) startWorkers(s *measure.Stage, e *env.Env, namespace string, seen func(string), failed func(error)) {
	ctx, cancel := context.WithCancel(s.Context())
	ended := make(chan error, o.workers)
	for i := range o.workers {
		name := fmt.Sprintf("fake-%d-%05d", i, i)
		w := &measure.FakeWorker{
			Client: env.Client(s, measure.Protobuf(e.Worker(s, namespace, name))), Namespace: namespace, Name: name,
			Duration: o.taskDuration, Seen: seen, Failed: failed,
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

// follow prints how the set gets on until it has ended.
func (o *options) follow(s *measure.Stage, sets typed.TaskSetInterface, m *meter, r *result, failures *failures, begun time.Time) {
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
		set, err := sets.Get(s.Context(), setName, metav1.GetOptions{})
		s.Check(err)
		if meta.IsStatusConditionTrue(set.Status.Conditions, batch.TaskSetFailed) {
			s.Fatalf("the task set has failed: %+v", set.Status)
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
			if set.Status.CompletedIndexes != fmt.Sprintf("0-%d", o.completions-1) && o.completions > 1 || int(set.Status.Succeeded) != o.completions {
				s.Fatalf("the task set is complete with %d successes and indexes %s", set.Status.Succeeded, set.Status.CompletedIndexes)
			}
			return
		}
	}
}

// probes are lone tasks that come in beside those of the set.
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

// arrived takes in that a worker has seen a task.
func (p *probes) arrived(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if sent, ok := p.sent[name]; ok {
		p.took = append(p.took, time.Since(sent))
		delete(p.sent, name)
	}
}

// quantile gives, in milliseconds, how long the way to a worker took.
func (p *probes) quantile(q float64) float64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.took) == 0 {
		return 0
	}
	slices.Sort(p.took)
	return float64(p.took[min(len(p.took)-1, int(q*float64(len(p.took))))].Microseconds()) / 1000
}

// failures counts requests of this program that failed, and keeps the last.
type failures struct {
	n    atomic.Int64
	last atomic.Pointer[error]
}

func (f *failures) add(err error) {
	f.n.Add(1)
	f.last.Store(&err)
}

// begin takes in where everything starts from.
func (m *meter) begin(ctx context.Context) error {
	status, err := m.etcd.Status(ctx, m.endpoint)
	if err != nil {
		return err
	}
	m.revision = status.Header.Revision
	for _, p := range m.processes {
		if p.before, err = measure.CPU(p.pid); err != nil {
			return err
		}
	}
	return nil
}

// meter reads what processes and etcd need.
type meter struct {
	etcd      *clientv3.Client
	endpoint  string
	processes []*process
	revision  int64
}
