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

// The load command runs one large TaskSet and measures the throughput, the latency, and the CPU and memory of all
// processes. It is a benchmark, not a test. The programs run as processes with a real etcd that syncs, behind a real
// host cluster. Only the workers are goroutines of this command: they report each task as succeeded as soon as they see
// it.
//
//	make build host
//	go run ./test/perf/load --completions=100000
//	go run ./test/perf/load --completions=20000 --stored=150000 --share=0.7 --calls
//	go run ./test/perf/load --completions=5000 --replicas=2 --server-cpus=0.3
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/leat-dev/leat/test/kit/host"
	"github.com/leat-dev/leat/test/kit/measure"
)

type options struct {
	completions, parallelism int
	workers                  int
	taskDuration             time.Duration
	compactionInterval       time.Duration
	interval                 time.Duration
	programs, dir, json      string
	profile                  string
	host                     bool
	stored, replicas         int
	share, serverCPUs        float64
	calls, chunks            bool
}

func main() {
	var o options
	flag.IntVar(&o.completions, "completions", 1_000_000, "Completions of the task set")
	flag.IntVar(&o.parallelism, "parallelism", 200, "Parallelism of the task set, and the capacity of all workers together, in tasks")
	flag.IntVar(&o.workers, "workers", 20, "Number of workers, each with its own watch and client certificate")
	flag.DurationVar(&o.taskDuration, "task-duration", 0, "Duration of a task. The rate is at most the parallelism divided by it")
	flag.DurationVar(&o.compactionInterval, "etcd-compaction-interval", 5*time.Minute, "Flag of leat-apiserver: etcd keeps old revisions for one to two intervals")
	flag.DurationVar(&o.interval, "interval", 10*time.Second, "Time between two lines of output")
	flag.StringVar(&o.programs, "programs", "bin", "Directory with leat-apiserver and leat-controller-manager")
	flag.StringVar(&o.dir, "dir", "", "Directory for data and logs, which are kept (default: a temporary directory, which is removed)")
	flag.StringVar(&o.json, "json", "", "File for the result as JSON")
	flag.StringVar(&o.profile, "cpu-profile", "", "File for a CPU profile of leat-apiserver over 30 s while the set runs")
	flag.BoolVar(&o.host, "host", false, "Also measure the host before and during the run: its processes, its etcd, its latency, and the traffic of its aggregator")
	flag.IntVar(&o.stored, "stored", 0, "Number of finished tasks that are stored in the namespace before the set starts")
	flag.Float64Var(&o.share, "share", 0, "Limit the rate of the set to this share, like 0.7, of the rate that a smaller set reached before (default: no limit)")
	flag.BoolVar(&o.calls, "calls", false, "Also write, get, list and watch tasks through the host while the set runs, and measure the latency")
	flag.BoolVar(&o.chunks, "chunks", false, "Workers accept tasks with several indexes. All numbers that are printed for a task are then for an index")
	flag.IntVar(&o.replicas, "replicas", 1, "Number of leat-apiservers. Workers are spread over them. Other clients use a Service")
	flag.Float64Var(&o.serverCPUs, "server-cpus", 0, "CPU limit of each leat-apiserver, like 0.3. It needs root (default: no limit)")
	flag.Parse()
	if err := o.validate(flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := o.run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func (o *options) validate(args []string) error {
	switch {
	case len(args) > 0:
		return fmt.Errorf("unexpected arguments %q: see --help", args)
	case o.completions < 1 || o.workers < 1 || o.interval <= 0:
		return errors.New("--completions, --workers and --interval must be more than 0")
	case o.parallelism < o.workers:
		return fmt.Errorf("--parallelism=%d: must be at least --workers=%d, because each worker has a capacity of at least one task", o.parallelism, o.workers)
	case o.replicas < 1 || o.stored < 0 || o.serverCPUs < 0:
		return errors.New("--replicas must be more than 0, --stored and --server-cpus must not be negative")
	case o.share < 0 || o.share > 1:
		return fmt.Errorf("--share=%g: must be from 0 to 1", o.share)
	case o.host && o.replicas > 1:
		return errors.New("--host measures one replica: omit --replicas")
	case o.taskDuration < 0 || o.compactionInterval < 0:
		return errors.New("--task-duration and --etcd-compaction-interval must not be negative")
	}
	return nil
}

func (o *options) run(ctx context.Context) (err error) {
	if o.dir == "" {
		if o.dir, err = os.MkdirTemp("", "leat-load-"); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(o.dir)) }()
	}
	if o.dir, err = filepath.Abs(o.dir); err != nil {
		return err
	}
	if err := os.Setenv("LEAT_TEST_PROGRAMS", o.programs); err != nil {
		return err
	}
	// The mutation detector, one of the oracles, keeps every object in memory.
	host.Oracles = nil
	s := measure.NewTB(ctx, "load", o.dir)
	var r *result
	func() {
		defer s.End()
		r = o.play(s)
	}()
	if err := s.Err(); err != nil {
		return err
	}
	r.print(os.Stdout)
	if o.calls {
		r.printCalls(os.Stdout)
	}
	if o.host {
		r.printHost(os.Stdout)
	}
	if o.json == "" {
		return nil
	}
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(o.json, append(data, '\n'), 0o644)
}
