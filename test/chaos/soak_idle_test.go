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

	clientv3 "go.etcd.io/etcd/client/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/await"
	"github.com/leat-dev/leat/test/kit/measure"
)

// settleTime bounds the wait until connections, watches and garbage are gone. What takes longer counts as growth.
const settleTime = 30 * time.Second

// filesNoise and goroutinesNoise are the differences between two measurements, a second apart, when nothing changes.
const filesNoise, goroutinesNoise = 1, 5

// idle deletes all objects, waits until the measurements neither fall nor exceed the limits of growth, and returns
// them.
func (s *soakCluster) idle(before []idlePoint, at time.Duration, operations int) idlePoint {
	s.Helper()
	s.empty()
	s.dialer.CloseAll()
	var now idlePoint
	err := await.Until(s.Context(), settleTime, func(ctx context.Context) error {
		// The end of settleTime must not interrupt a measurement.
		measured, err := s.measure(context.WithoutCancel(ctx))
		if err != nil {
			return err
		}
		measured.at, measured.operations = at, operations
		last := now
		now = measured
		if now.falling(last) {
			return await.ErrNotYet
		}
		if grown, _ := growth(append(slices.Clone(before), now)); len(grown) > 0 {
			return await.ErrNotYet
		}
		return nil
	})
	// TestSoak reports what does not settle.
	if !errors.Is(err, await.ErrNotYet) {
		kit.Check(s, err)
	}
	return now
}

// falling reports whether files or goroutines have decreased by more than noise since an earlier measurement, or
// whether there is none.
func (p idlePoint) falling(earlier idlePoint) bool {
	if earlier.processes == nil {
		return true
	}
	for i, now := range p.processes {
		if before := earlier.processes[i]; now.files < before.files-filesNoise || now.goroutines < before.goroutines-goroutinesNoise {
			return true
		}
	}
	return false
}

// empty deletes all objects of the load, and compacts etcd.
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
			return fmt.Errorf("%d objects still exist", n)
		}
		return nil
	}))
	now, err := s.etcd.Get(s.Context(), "/", clientv3.WithCountOnly())
	kit.Check(s, err)
	_, err = s.etcd.Compact(s.Context(), now.Header.Revision, clientv3.WithCompactPhysical())
	kit.Check(s, err)
}

// measure measures all processes after they have collected their garbage.
func (s *soakCluster) measure(ctx context.Context) (idlePoint, error) {
	var now idlePoint
	for _, p := range s.processes() {
		f, err := p.measure(ctx)
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

func (p *measuredProcess) measure(ctx context.Context) (measurement, error) {
	f := measurement{process: p.name, pid: p.PID()}
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

// collected returns the metrics of a process after two garbage collections. The second one frees objects with
// finalizers and objects in pools.
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
