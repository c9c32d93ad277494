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
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/measure"
)

// serverName is that of the first leat-apiserver, which those of the others begin with.
const serverName = "leat-apiserver"

// process is what one process needs.
type process struct {
	Name                string
	CPUMillisecondsTask float64
	// Processors is how much of them it has used, of one as 1.
	Processors float64
	PeakRSSMiB float64

	pid    int
	before time.Duration
}

// sample is how things are at a moment.
type sample struct {
	Seconds      float64
	Completed    int
	RSSMiB       map[string]float64
	EtcdMiB      float64
	EtcdInUseMiB float64
	EtcdWrites   int64
}

// result is what a run has shown.
type result struct {
	Completions, Parallelism, Workers              int
	TaskDurationSeconds, CompactionIntervalSeconds float64

	Seconds           float64
	TasksPerSecond    float64
	EtcdWritesPerTask float64
	// From the request to create a task of the set until the controller sees that it has started or, as here, finished.
	StartP50Milliseconds, StartP99Milliseconds float64
	// From the request to create a lone task until its worker sees it.
	Probes                                     int
	ProbeP50Milliseconds, ProbeP99Milliseconds float64
	// Failures are requests of workers and probes that failed.
	Failures  int
	Processes []*process
	// Requests are those that leat-apiserver has served for each task.
	Requests []request
	Samples  []sample
	// Stored tasks were there before. PeakTasksPerSecond is there with --share only, and Calls with --calls.
	Stored             int       `json:",omitempty"`
	PeakTasksPerSecond float64   `json:",omitempty"`
	Calls              []latency `json:",omitempty"`
	// Replicas are leat-apiservers, each with so many processors; no limit is 0.
	Replicas   int
	ServerCPUs float64 `json:",omitempty"`
	// HostBefore and HostDuring are there with --host only.
	HostBefore, HostDuring *hostResult `json:",omitempty"`
}

type request struct {
	Name    string
	PerTask float64
}

const header = "   time  completed   rate/s | RSS MiB: server controllers  etcd | etcd MiB   in use | writes/task"

func (s sample) print(last sample, failures *failures) {
	line := fmt.Sprintf("%6.0fs %10d %8.0f | %15.0f %11.0f %5.0f | %8.0f %8.0f | %.2f", s.Seconds, s.Completed,
		float64(s.Completed-last.Completed)/(s.Seconds-last.Seconds), s.RSSMiB["leat-apiserver"], s.RSSMiB["leat-controller-manager"], s.RSSMiB["etcd"],
		s.EtcdMiB, s.EtcdInUseMiB, float64(s.EtcdWrites-last.EtcdWrites)/max(1, float64(s.Completed-last.Completed)))
	if err := failures.last.Swap(nil); err != nil {
		line += fmt.Sprintf("  (%d requests failed so far, last: %v)", failures.n.Load(), *err)
	}
	fmt.Println(line)
}

func (r *result) print(out io.Writer) {
	fmt.Fprintf(out, "\n%d completions at parallelism %d, %d workers, in %.0f s: %.0f tasks/s, %.2f etcd writes a task\n",
		r.Completions, r.Parallelism, r.Workers, r.Seconds, r.TasksPerSecond, r.EtcdWritesPerTask)
	if r.PeakTasksPerSecond > 0 {
		fmt.Fprintf(out, "that is %.0f %% of the %.0f tasks/s of a set that nothing held back\n", 100*r.TasksPerSecond/r.PeakTasksPerSecond, r.PeakTasksPerSecond)
	}
	if r.Replicas > 1 || r.ServerCPUs > 0 {
		total, used := 0.0, []string{}
		for _, p := range r.Processes {
			if strings.HasPrefix(p.Name, serverName) {
				total += p.CPUMillisecondsTask
				used = append(used, fmt.Sprintf("%.0f %%", 100*p.Processors))
			}
		}
		held := "to no share"
		if r.ServerCPUs > 0 {
			held = fmt.Sprintf("each to %.0f %%", 100*r.ServerCPUs)
		}
		fmt.Fprintf(out, "%d replicas of leat-apiserver, held %s of a processor, used %s: %.2f ms a task together\n", r.Replicas, held, strings.Join(used, " and "), total)
	}
	fmt.Fprintf(out, "created → started, as the controller sees it: p50 %.0f ms, p99 %.0f ms; %d lone tasks beside: p50 %.0f ms, p99 %.0f ms\n\n",
		r.StartP50Milliseconds, r.StartP99Milliseconds, r.Probes, r.ProbeP50Milliseconds, r.ProbeP99Milliseconds)
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(table, "process\tCPU ms/task\tpeak RSS MiB\t")
	quarters := r.quarters()
	for i := range quarters {
		fmt.Fprintf(table, "at %d %%\t", 25*(i+1))
	}
	fmt.Fprintln(table)
	for _, p := range r.Processes {
		fmt.Fprintf(table, "%s\t%.2f\t%.0f\t", p.Name, p.CPUMillisecondsTask, p.PeakRSSMiB)
		for _, s := range quarters {
			fmt.Fprintf(table, "%.0f\t", s.RSSMiB[p.Name])
		}
		fmt.Fprintln(table)
	}
	fmt.Fprint(table, "file of etcd\t\t\t")
	for _, s := range quarters {
		fmt.Fprintf(table, "%.0f\t", s.EtcdMiB)
	}
	fmt.Fprint(table, "\nof that in use\t\t\t")
	for _, s := range quarters {
		fmt.Fprintf(table, "%.0f\t", s.EtcdInUseMiB)
	}
	fmt.Fprintln(table)
	_ = table.Flush() // to a terminal
	fmt.Fprintln(out, "\nrequests to leat-apiserver, per task:")
	for _, request := range r.Requests {
		fmt.Fprintf(out, "  %6.3f  %s\n", request.PerTask, request.Name)
	}
}

// quarters gives the samples at 25, 50, 75 and 100 % of the time.
func (r *result) quarters() []sample {
	var quarters []sample
	for i := range 4 {
		at := r.Seconds * float64(i+1) / 4
		j := slices.IndexFunc(r.Samples, func(s sample) bool { return s.Seconds >= at-0.5 })
		if j < 0 {
			j = len(r.Samples) - 1
		}
		quarters = append(quarters, r.Samples[j])
	}
	return quarters
}

func (m *meter) sample(ctx context.Context, at time.Duration, completed int) (sample, error) {
	s := sample{Seconds: at.Seconds(), Completed: completed, RSSMiB: map[string]float64{}}
	for _, p := range m.processes {
		var err error
		if s.RSSMiB[p.Name], err = measure.Memory(p.pid, "VmRSS"); err != nil {
			return s, err
		}
	}
	status, err := m.etcd.Status(ctx, m.endpoint)
	if err != nil {
		return s, err
	}
	s.EtcdMiB, s.EtcdInUseMiB, s.EtcdWrites = float64(status.DbSize)/(1<<20), float64(status.DbSizeInUse)/(1<<20), status.Header.Revision-m.revision
	return s, nil
}

// end puts what was needed in all, for so many tasks, into the result.
func (m *meter) end(ctx context.Context, r *result, tasks float64) error {
	status, err := m.etcd.Status(ctx, m.endpoint)
	if err != nil {
		return err
	}
	r.EtcdWritesPerTask = float64(status.Header.Revision-m.revision) / tasks
	for _, p := range m.processes {
		cpu, err := measure.CPU(p.pid)
		if err != nil {
			return err
		}
		p.CPUMillisecondsTask = float64((cpu - p.before).Milliseconds()) / tasks
		p.Processors = (cpu - p.before).Seconds() / time.Since(m.begun).Seconds()
		if p.PeakRSSMiB, err = measure.Memory(p.pid, "VmHWM"); err != nil {
			return err
		}
	}
	r.Processes = m.processes
	return nil
}

// requests gives what the server has served between two scrapes, for each task.
func requests(before, after measure.Metrics, tasks float64) []request {
	sums := map[string]float64{}
	for key, value := range after {
		if !strings.HasPrefix(key, "apiserver_request_total{") || measure.Label(key, "group") != "batch.leat.dev" {
			continue
		}
		name := measure.Label(key, "verb") + " " + measure.Label(key, "resource")
		if sub := measure.Label(key, "subresource"); sub != "" {
			name += "/" + sub
		}
		sums[name+" "+measure.Label(key, "code")] += value - before[key]
	}
	var all []request
	for name, n := range sums {
		if perTask := n / tasks; perTask >= 0.001 {
			all = append(all, request{name, perTask})
		}
	}
	slices.SortFunc(all, func(a, b request) int { return cmp.Or(cmp.Compare(b.PerTask, a.PerTask), cmp.Compare(a.Name, b.Name)) })
	return all
}

// observer reads what the leat-apiservers tell of themselves.
type observer struct {
	client *http.Client
	urls   []string
}

func (o *options) observer(s *measure.TB, servers []*kit.Env) *observer {
	admin, err := clientcmd.BuildConfigFromFlags("", servers[0].Host.AdminKubeconfig)
	s.Check(err)
	s.Check(measure.AllowObserver(s.Context(), kubernetes.NewForConfigOrDie(admin)))
	client, err := rest.HTTPClientFor(servers[0].Direct(s, measure.Observer))
	s.Check(err)
	all := &observer{client: client}
	for _, server := range servers {
		all.urls = append(all.urls, server.Direct(s, measure.Observer).Host)
	}
	return all
}

// metrics gives the sums over all servers.
func (o *observer) metrics(s *measure.TB) measure.Metrics {
	sums := measure.Metrics{}
	for _, url := range o.urls {
		metrics, err := measure.ReadMetrics(s.Context(), o.client, url+"/metrics")
		s.Check(err)
		for name, value := range metrics {
			sums[name] += value
		}
	}
	return sums
}
