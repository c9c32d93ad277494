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

// The load program runs one task set to its end with workers that do nothing, and tells what that costs: a bench, not a test. The
// programs are the real ones as processes, on a real etcd that syncs and behind a real host cluster; only the workers are goroutines of
// this program, which report each task as succeeded as soon as they see it.
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
	calls                    bool
}

func main() {
	var o options
	flag.IntVar(&o.completions, "completions", 1_000_000, "Completions of the task set")
	flag.IntVar(&o.parallelism, "parallelism", 200, "Parallelism of the task set, and how many tasks all workers together have room for")
	flag.IntVar(&o.workers, "workers", 20, "Number of workers, each with a watch and an identity of its own")
	flag.DurationVar(&o.taskDuration, "task-duration", 0, "How long a task runs; with more than 0 the rate is at most the parallelism divided by it")
	flag.DurationVar(&o.compactionInterval, "etcd-compaction-interval", 5*time.Minute, "The flag of leat-apiserver: old revisions are kept in etcd for one to two intervals")
	flag.DurationVar(&o.interval, "interval", 10*time.Second, "Time between two lines of output")
	flag.StringVar(&o.programs, "programs", "bin", "Directory with leat-apiserver and leat-controller-manager")
	flag.StringVar(&o.dir, "dir", "", "Directory for data and logs, which are kept (default: one of its own, which is removed)")
	flag.StringVar(&o.json, "json", "", "File that the result is also written to, as JSON")
	flag.StringVar(&o.profile, "cpu-profile", "", "File that half a minute's CPU profile of leat-apiserver is written to, as the set runs")
	flag.BoolVar(&o.host, "host", false, "Tell what the run costs the host: its processes, its etcd, its latency, and what crosses its aggregator, before and during")
	flag.IntVar(&o.stored, "stored", 0, "Number of finished tasks that are stored before the set starts, in its namespace")
	flag.Float64Var(&o.share, "share", 0, "Hold the set to this share, like 0.7, of the rate that a smaller one has reached before it (default: as fast as it goes)")
	flag.BoolVar(&o.calls, "calls", false, "Have people write, get, list and watch beside the set, through the host, and tell how long that takes")
	flag.IntVar(&o.replicas, "replicas", 1, "Number of leat-apiservers: workers are spread over them, all others come by a Service in front of them")
	flag.Float64Var(&o.serverCPUs, "server-cpus", 0, "Share of a processor that each leat-apiserver is held to, like 0.3, as the limit of a container does; needs root (default: none)")
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
		return fmt.Errorf("arguments %q: there are only flags: see --help", args)
	case o.completions < 1 || o.workers < 1 || o.interval <= 0:
		return errors.New("--completions, --workers and --interval must be more than 0")
	case o.parallelism < o.workers:
		return fmt.Errorf("--parallelism=%d: must be at least --workers=%d: each has room for one task or more", o.parallelism, o.workers)
	case o.replicas < 1 || o.stored < 0 || o.serverCPUs < 0:
		return errors.New("--replicas must be more than 0, --stored and --server-cpus must not be negative")
	case o.share < 0 || o.share > 1:
		return fmt.Errorf("--share=%g: must be from 0 to 1", o.share)
	case o.host && o.replicas > 1:
		return errors.New("--host measures what one replica costs the host: leave --replicas out")
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
	// What makes servers check themselves keeps every object for ever.
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
