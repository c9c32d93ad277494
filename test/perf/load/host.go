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
	"io"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"text/tabwriter"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/host"
	"github.com/leat-dev/leat/test/kit/measure"
)

const (
	// idleTime is how long the host is measured before there are tasks.
	idleTime = 20 * time.Second
	// getInterval is the time between two GETs of a ConfigMap.
	getInterval = 20 * time.Millisecond
)

// hostResult is what the host's share is, in one phase.
type hostResult struct {
	Seconds float64
	// EtcdWrites are revisions of the host's etcd.
	EtcdWrites int64
	// By process.
	CPUMilliseconds, RSSMiB map[string]float64
	// Of a ConfigMap, from the host.
	GetP50Milliseconds, GetP99Milliseconds float64
	// What crosses the aggregator, as TLS has it: from leat-apiserver, and to it.
	FromServerKiB, ToServerKiB float64
	// FailedGets counts GETs that failed.
	FailedGets int
}

// hostMeter measures what a run costs the host: by its processes, its etcd, a client of its own, and between it and leat-apiserver.
type hostMeter struct {
	etcd      *clientv3.Client
	endpoint  string
	processes []*process
	configs   func(context.Context) error

	fromServer, toServer atomic.Int64
	cancel               context.CancelFunc
	ended                sync.WaitGroup
	took                 []time.Duration
	failed               int

	begun    time.Time
	revision int64
	from, to int64
	cpu      map[string]time.Duration
}

// startHostMeter puts a relay between the aggregator and leat-apiserver.
func startHostMeter(s *measure.TB, e *kit.Env) *hostMeter {
	admin, err := clientcmd.BuildConfigFromFlags("", e.Host.AdminKubeconfig)
	s.Check(err)
	admin.QPS = -1
	maps := kubernetes.NewForConfigOrDie(admin).CoreV1().ConfigMaps(metav1.NamespaceSystem)
	client, err := e.Host.Etcd.Client()
	s.Check(err)
	s.Cleanup(func() { s.Check(client.Close()) })
	m := &hostMeter{
		etcd: client, endpoint: e.Host.Etcd.Endpoint,
		processes: []*process{
			{Name: "kube-apiserver", pid: e.Host.APIServer.PID()}, {Name: "kube-controller-manager", pid: e.Host.ControllerManager.PID()},
			{Name: "etcd of the host", pid: e.Host.Etcd.PID()},
		},
		configs: func(ctx context.Context) error {
			_, err := maps.Get(ctx, "extension-apiserver-authentication", metav1.GetOptions{})
			return err
		},
	}
	server := e.Direct(s, "nobody")
	port, err := host.FreePort()
	s.Check(err)
	listener, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(port))
	s.Check(err)
	s.Cleanup(func() { s.Check(listener.Close()) })
	go m.relay(listener, server.Host)
	s.Check(e.Host.RegisterLeat(s.Context(), port, server.CAData))
	// Connections that are open go past the relay.
	s.Check(e.Host.APIServer.Restart(s.Context()))
	s.Check(e.Host.ControllerManager.Restart(s.Context()))
	for _, p := range m.processes {
		switch p.Name {
		case "kube-apiserver":
			p.pid = e.Host.APIServer.PID()
		case "kube-controller-manager":
			p.pid = e.Host.ControllerManager.PID()
		}
	}
	s.Check(e.Host.RegisterLeat(s.Context(), port, server.CAData))
	return m
}

// direct is a person who goes past the aggregator, so that only the host's own controllers cross it.
func direct(s *measure.TB, e *kit.Env) *rest.Config {
	return measure.Protobuf(e.Direct(s, "alice", "leat:admins"))
}

func (m *hostMeter) relay(listener net.Listener, url string) {
	for {
		client, err := listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", url[len("https://"):])
		if err != nil {
			_ = client.Close() // the aggregator tries again
			continue
		}
		pass := func(to, from net.Conn, count *atomic.Int64) {
			_, _ = io.Copy(&counted{to, count}, from) // either end may go first
			_ = to.Close()
			_ = from.Close()
		}
		go pass(server, client, &m.toServer)
		go pass(client, server, &m.fromServer)
	}
}

// counted counts what is written.
type counted struct {
	io.Writer
	n *atomic.Int64
}

func (c *counted) Write(data []byte) (int, error) {
	n, err := c.Writer.Write(data)
	c.n.Add(int64(n))
	return n, err
}

// begin starts a phase.
func (m *hostMeter) begin(ctx context.Context) error {
	status, err := m.etcd.Status(ctx, m.endpoint)
	if err != nil {
		return err
	}
	m.revision, m.begun, m.cpu = status.Header.Revision, time.Now(), map[string]time.Duration{}
	m.from, m.to = m.fromServer.Load(), m.toServer.Load()
	for _, p := range m.processes {
		if m.cpu[p.Name], err = measure.CPU(p.pid); err != nil {
			return err
		}
	}
	m.took, m.failed = nil, 0
	ctx, m.cancel = context.WithCancel(ctx)
	m.ended.Go(func() {
		ticker := time.NewTicker(getInterval)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
			case <-ctx.Done():
				return
			}
			begun := time.Now()
			if err := m.configs(ctx); err == nil {
				m.took = append(m.took, time.Since(begun))
			} else if ctx.Err() == nil {
				m.failed++
			}
		}
	})
	return nil
}

// end ends a phase.
func (m *hostMeter) end(ctx context.Context) (*hostResult, error) {
	m.cancel()
	m.ended.Wait()
	status, err := m.etcd.Status(ctx, m.endpoint)
	if err != nil {
		return nil, err
	}
	if len(m.took) == 0 {
		return nil, errors.New("no GET of the host has succeeded")
	}
	slices.Sort(m.took)
	r := &hostResult{
		Seconds: time.Since(m.begun).Seconds(), EtcdWrites: status.Header.Revision - m.revision,
		CPUMilliseconds: map[string]float64{}, RSSMiB: map[string]float64{},
		GetP50Milliseconds: at(m.took, 0.5), GetP99Milliseconds: at(m.took, 0.99), FailedGets: m.failed,
		FromServerKiB: float64(m.fromServer.Load()-m.from) / 1024, ToServerKiB: float64(m.toServer.Load()-m.to) / 1024,
	}
	for _, p := range m.processes {
		cpu, err := measure.CPU(p.pid)
		if err != nil {
			return nil, err
		}
		r.CPUMilliseconds[p.Name] = float64((cpu - m.cpu[p.Name]).Milliseconds())
		if r.RSSMiB[p.Name], err = measure.Memory(p.pid, "VmRSS"); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// idle measures the host before there are tasks.
func (m *hostMeter) idle(ctx context.Context) (*hostResult, error) {
	if err := m.begin(ctx); err != nil {
		return nil, err
	}
	timer := time.NewTimer(idleTime)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return m.end(ctx)
}

// printHost tells how it was before and during the run.
func (r *result) printHost(out io.Writer) {
	before, during, tasks := r.HostBefore, r.HostDuring, float64(r.Completions)
	fmt.Fprintf(out, "\nthe host, for %.0f s without tasks and for the %.0f s of the run:\n\n", before.Seconds, during.Seconds)
	table := tabwriter.NewWriter(out, 0, 0, 1, ' ', 0)
	row := func(name, format string, before, during float64, perTask bool) {
		fmt.Fprintf(table, "| %s\t| "+format+"\t| "+format+"\t| ", name, before, during)
		if perTask {
			fmt.Fprintf(table, "%.3f", during/tasks)
		}
		fmt.Fprintln(table, "\t|")
	}
	fmt.Fprintln(table, "| \t| before\t| during\t| during, a task\t|\n|---\t|---\t|---\t|---\t|")
	row("writes to the host's etcd, in all", "%.0f", float64(before.EtcdWrites), float64(during.EtcdWrites), true)
	row("writes to the host's etcd, a second", "%.1f", float64(before.EtcdWrites)/before.Seconds, float64(during.EtcdWrites)/during.Seconds, false)
	for _, name := range []string{"kube-apiserver", "kube-controller-manager", "etcd of the host"} {
		row("CPU of "+name+", ms", "%.0f", before.CPUMilliseconds[name], during.CPUMilliseconds[name], true)
		row("CPU of "+name+", ms a second", "%.1f", before.CPUMilliseconds[name]/before.Seconds, during.CPUMilliseconds[name]/during.Seconds, false)
	}
	for _, name := range []string{"kube-apiserver", "kube-controller-manager", "etcd of the host"} {
		row("RSS of "+name+" at the end, MiB", "%.0f", before.RSSMiB[name], during.RSSMiB[name], false)
	}
	row("GET of a ConfigMap, p50, ms", "%.1f", before.GetP50Milliseconds, during.GetP50Milliseconds, false)
	row("GET of a ConfigMap, p99, ms", "%.1f", before.GetP99Milliseconds, during.GetP99Milliseconds, false)
	row("GETs that failed", "%.0f", float64(before.FailedGets), float64(during.FailedGets), false)
	row("from leat-apiserver through the aggregator, KiB", "%.0f", before.FromServerKiB, during.FromServerKiB, true)
	row("to leat-apiserver through the aggregator, KiB", "%.0f", before.ToServerKiB, during.ToServerKiB, true)
	_ = table.Flush() // to a terminal
}
