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

package chaos

import (
	"context"
	"debug/buildinfo"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/leat-dev/leat/test/kit"

	clientv3 "go.etcd.io/etcd/client/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leat-dev/leat/test/kit/await"
	"github.com/leat-dev/leat/test/kit/measure"
)

// settleTime is how long connections, watches and garbage may take to go away. What takes longer counts as growth.
const settleTime = 30 * time.Second

// quiet waits until nothing is stored and nothing goes on, or goes away any more, and tells how everything is then.
func (s *soakCluster) quiet(before []quiet, at time.Duration, operations int) quiet {
	s.Helper()
	s.empty()
	s.dialer.CloseAll()
	var now quiet
	err := await.Until(s.Context(), settleTime, func(ctx context.Context) error {
		// A look is not to end halfway.
		looked, err := s.look(context.WithoutCancel(ctx))
		if err != nil {
			return err
		}
		looked.at, looked.operations = at, operations
		last := now
		now = looked
		if now.falling(last) {
			return await.ErrNotYet
		}
		if grown, _ := growth(append(slices.Clone(before), now)); len(grown) > 0 {
			return await.ErrNotYet
		}
		return nil
	})
	// What does not settle is what the test is about.
	if !errors.Is(err, await.ErrNotYet) {
		kit.Check(s, err)
	}
	return now
}

// falling tells whether some things went away since an earlier look, if there was one.
func (q quiet) falling(earlier quiet) bool {
	if earlier.processes == nil {
		return true
	}
	for i, now := range q.processes {
		if before := earlier.processes[i]; now.files < before.files || now.goroutines < before.goroutines {
			return true
		}
	}
	return false
}

// empty deletes all that clients and workers of the test's own have left, and has etcd forget it.
func (s *soakCluster) empty() {
	s.Helper()
	api := s.client(s.through(s.env.Direct(s, "alice", "leat:admins"))).BatchV1alpha1()
	kit.Check(s, await.Until(s.Context(), patience, func(ctx context.Context) error {
		if err := errors.Join(
			api.TaskSets(s.namespace).DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}),
			api.Tasks(s.namespace).DeleteCollection(ctx, metav1.DeleteOptions{GracePeriodSeconds: new(int64)}, metav1.ListOptions{}),
		); err != nil {
			return err
		}
		sets, err := api.TaskSets(s.namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		tasks, err := api.Tasks(s.namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		leases, err := api.WorkerLeases(s.namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		if n := len(sets.Items) + len(tasks.Items) + len(leases.Items) - len(s.workers); n != 0 {
			return fmt.Errorf("%d objects are left", n)
		}
		return nil
	}))
	now, err := s.etcd.Get(s.Context(), "/", clientv3.WithCountOnly())
	kit.Check(s, err)
	_, err = s.etcd.Compact(s.Context(), now.Header.Revision, clientv3.WithCompactPhysical())
	kit.Check(s, err)
}

// look tells how everything is, after garbage was collected.
func (s *soakCluster) look(ctx context.Context) (quiet, error) {
	var now quiet
	for _, p := range s.processes() {
		f, err := p.look(ctx)
		if err != nil {
			return now, fmt.Errorf("%s: %w", p.name, err)
		}
		now.processes = append(now.processes, f)
	}
	keys, err := s.etcd.Get(ctx, "/", clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		return now, err
	}
	status, err := s.etcd.Status(ctx, s.env.Etcd.Endpoint)
	if err != nil {
		return now, err
	}
	now.keys, now.inUse = int(keys.Count), status.DbSizeInUse
	return now, nil
}

func (p *measuredProcess) look(ctx context.Context) (figures, error) {
	f := figures{process: p.name, pid: p.PID()}
	metrics, err := p.collected(ctx)
	if err != nil {
		return f, err
	}
	f.goroutines, f.heap = int(metrics["go_goroutines"]), int64(metrics["go_gc_heap_live_bytes"])
	if f.heap == 0 {
		return f, fmt.Errorf("%s has no metric go_gc_heap_live_bytes", p.metrics)
	}
	f.watches = int(metrics.Sum("apiserver_longrunning_requests"))
	for name, capacity := range metrics {
		if rest, ok := strings.CutPrefix(name, "watch_cache_capacity"); ok {
			f.events += int(min(capacity, metrics["apiserver_watch_cache_events_received_total"+rest]))
		}
	}
	if f.files, err = measure.Files(f.pid); err != nil {
		return f, err
	}
	resident, err := measure.Memory(f.pid, "VmRSS")
	if err != nil {
		return f, err
	}
	f.resident = int64(resident * (1 << 20))
	info, err := buildinfo.ReadFile(fmt.Sprintf("/proc/%d/exe", f.pid))
	if err != nil {
		return f, err
	}
	for _, setting := range info.Settings {
		f.race = f.race || setting.Key == "-race" && setting.Value == "true"
	}
	return f, nil
}

// collected returns the metrics of a process that has collected its garbage twice: what has a finalizer, or was in a
// pool, goes with the second collection.
func (p *measuredProcess) collected(ctx context.Context) (measure.Metrics, error) {
	const collections, done = 2, "go_gc_cycles_total_gc_cycles_total"
	if p.collect != nil {
		for range collections {
			if err := p.collect(ctx); err != nil {
				return nil, err
			}
		}
		return measure.ReadMetrics(ctx, p.client, p.metrics)
	}
	for last := math.Inf(1); ; {
		metrics, err := measure.ReadMetrics(ctx, p.client, p.metrics)
		if err != nil {
			return nil, err
		}
		cycles, ok := metrics[done]
		if !ok {
			return nil, fmt.Errorf("%s has no metric %s", p.metrics, done)
		}
		last = min(last, cycles+collections)
		if cycles >= last {
			return metrics, nil
		}
	}
}
