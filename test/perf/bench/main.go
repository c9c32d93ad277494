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

// The bench program measures Leat beside what one would take instead, in one run on one machine: the same Task as a
// CustomResourceDefinition and Pods on a real kube-apiserver, and etcd itself. The programs are the real ones as processes, with TLS,
// fsync, managed fields, validation, priority and fairness, and Leat's audit policy on.
//
//	make build host
//	go run ./test/perf/bench --help
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
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/leat-dev/leat/test/kit/host"
	"github.com/leat-dev/leat/test/kit/measure"
)

// Parts of the program.
const (
	partOperations = "operations"
	partWatches    = "watches"
	partLifeCycle  = "lifecycle"
	partLists      = "lists"
	partMemory     = "memory"
	partRestart    = "restart"
	partGrowth     = "growth"
)

// parts are in the order in which they run: from an empty store to a full one.
var parts = []string{partOperations, partWatches, partLifeCycle, partLists, partMemory, partRestart, partGrowth}

// options are the flags. They are part of the result.
type options struct {
	Only       []string
	Quick      bool
	Rounds     int
	Clients    int
	Operations int
	Objects    int
	Watchers   []int
	EventRate  int
	Tasks      int
	Cluster    string `json:"-"`
	JobImage   string `json:",omitempty"`
	programs   string
	dir        string
	json       string
	plots      string
	against    string
	profiles   string
}

// bench is a run.
type bench struct {
	options
	scene     *scene
	collector *collector
	result    *result
	begun     time.Time
}

const usage = `Measures Leat beside a CRD and Pods on a real kube-apiserver, and beside etcd itself, in one run on this machine.

  make build host                      the programs that are measured
  go run ./test/perf/bench                  everything; an hour at most
  go run ./test/perf/bench --only=operations --operations=500
                                       one part, small
  go run ./test/perf/bench --quick --against=earlier.json
                                       ratios only, beside those of an earlier --json

Subjects: CRD (the same Task, schema, selectable fields, served by kube-apiserver), Pod (built in), Leat (its server itself),
"Leat, aggregated" (through the host's aggregator), etcd (the transactions alone, of the size that Leat stores). All take turns, operation
by operation; the order changes from round to round. A round before the first is not counted. Values are medians over the rounds, with
the least and the most. Processor time is that of a whole process, from /proc, read a quarter of a second after the last answer. One
request that fails ends the run, with what was measured until then, but for writes among many watchers, which are counted.

Parts, for --only:
  operations   create, get, bind, patch and update status, delete
  watches      one event at a time among many watchers by spec.workerName
  lifecycle    a TaskSet from its creation until all is collected, by workers that run "true" and by such that run nothing; with
               --cluster also a Job of Kubernetes
  lists        paged, unpaged, from the cache and consistent, WatchList; JSON (compressed, as clients ask for it by default, and
               not), protobuf, Table
  memory       RSS for --objects stored objects, and what lists of up to 100,000 of them add, to one client and to 50 at once. The
               objects are written to etcd as copies of one that the server itself has stored
  restart      with memory, always: kill -9 until ready with --objects objects, and until the first list is answered
  growth       with memory, always: the operations again, among --objects objects

Flags:
`

func main() {
	var o options
	flag.Func("only", "Parts to run, separated by commas: "+strings.Join(parts, ", ")+" (default all)", func(value string) error {
		o.Only = strings.Split(value, ",")
		for _, part := range o.Only {
			if !slices.Contains(parts, part) {
				return fmt.Errorf("%q is none of %s", part, strings.Join(parts, ", "))
			}
		}
		return nil
	})
	flag.BoolVar(&o.Quick, "quick", false, "Two minutes: operations, a few lists and watchers, one round, and print ratios only. Goes with none of the sizes")
	flag.IntVar(&o.Rounds, "rounds", 3, "How often each measurement of operations, lists and watches is repeated")
	flag.IntVar(&o.Clients, "clients", 32, "Clients that send operations at the same time, each with a connection of its own")
	flag.IntVar(&o.Operations, "operations", 2000, "Objects that each operation is done to, of each subject in each round")
	flag.IntVar(&o.Objects, "objects", 150_000, "Stored objects for memory and restart; lists are of 10,000 of them at most, where they are compared")
	o.Watchers = []int{1, 100, 1000}
	flag.Func("watchers", "Numbers of watchers, separated by commas (default 1,100,1000; the goal is told for 10000 too)", func(value string) error {
		o.Watchers = nil
		for text := range strings.SplitSeq(value, ",") {
			n, err := strconv.Atoi(text)
			if err != nil || n < 1 {
				return fmt.Errorf("%q: numbers of 1 and more, as in 100,1000", text)
			}
			o.Watchers = append(o.Watchers, n)
		}
		return nil
	})
	flag.IntVar(&o.EventRate, "event-rate", 200, "Events a second among the watchers")
	flag.IntVar(&o.Tasks, "tasks", 10_000, "Tasks of each TaskSet of the life cycle")
	flag.StringVar(&o.Cluster, "cluster", os.Getenv("KUBECONFIG"), "Kubeconfig of a cluster with a kubelet, for the Job beside the life cycle (default $KUBECONFIG)")
	flag.StringVar(&o.JobImage, "job-image", "localhost/noop:1", "Image of the Job's containers, which must be there: it is never pulled")
	flag.StringVar(&o.programs, "programs", "bin", "Directory with leat-apiserver, leat-controller-manager and leat-worker")
	flag.StringVar(&o.dir, "dir", "", "Directory for data and logs, which are kept (default: one of its own, which is removed)")
	flag.StringVar(&o.json, "json", "", "File that everything is also written to, as JSON")
	flag.StringVar(&o.plots, "plots", "", "Directory that plots are written to, as SVG")
	flag.StringVar(&o.profiles, "cpu-profiles", "", "Directory that CPU profiles go to: of each operation of the last round, of the server that it is sent to. That round costs more for it")
	flag.StringVar(&o.against, "against", "", "JSON of an earlier run, whose ratios are printed beside those of this one; with --quick")
	flag.Usage = func() {
		fmt.Fprint(flag.CommandLine.Output(), usage)
		flag.PrintDefaults()
	}
	flag.Parse()
	if err := o.complete(flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// complete checks the flags, and puts in what --quick stands for.
func (o *options) complete(args []string) error {
	switch {
	case len(args) > 0:
		return fmt.Errorf("arguments %q: there are only flags: see --help", args)
	case o.Rounds < 1 || o.Clients < 1 || o.Operations < 1 || o.Objects < 1 || o.EventRate < 1 || o.Tasks < 1:
		return errors.New("--rounds, --clients, --operations, --objects, --event-rate and --tasks must be more than 0")
	case o.against != "" && !o.Quick:
		return errors.New("--against is for --quick, which prints ratios: the JSON of two whole runs can be compared as they are")
	}
	if o.Quick {
		o.Rounds, o.Operations, o.Objects, o.Watchers = 1, 800, listObjects, []int{100}
		if o.Only == nil {
			o.Only = []string{partOperations, partWatches, partLists}
		}
	}
	if o.Only == nil {
		o.Only = parts
	}
	return nil
}

func run(ctx context.Context, o options) (err error) {
	var earlier *result
	if o.against != "" {
		if earlier, err = readResult(o.against); err != nil {
			return err
		}
	}
	if o.dir == "" {
		if o.dir, err = os.MkdirTemp("", "leat-bench-"); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(o.dir)) }()
	}
	for _, path := range []*string{&o.dir, &o.programs} {
		if *path, err = filepath.Abs(*path); err != nil {
			return err
		}
	}
	if err := os.Setenv("LEAT_TEST_PROGRAMS", o.programs); err != nil {
		return err
	}
	// What makes servers check themselves is for tests.
	host.Oracles = nil
	stage := measure.NewTB(ctx, "bench", o.dir)
	b := &bench{options: o, collector: newCollector(), begun: time.Now()}
	func() {
		defer stage.End()
		b.play(stage)
	}()
	// What was measured until a failure is told all the same, and that it is not all.
	failed := stage.Err()
	if failed != nil {
		b.result.Failure = failed.Error()
	}
	b.result.Figures = b.collector.collect()
	slices.SortStableFunc(b.result.Figures, compareParts)
	b.result.Goals = judge(b.result)
	b.result.Seconds = time.Since(b.begun).Seconds()
	if o.Quick {
		b.result.printRatios(os.Stdout, earlier)
	} else {
		b.result.print(os.Stdout)
	}
	if o.json != "" {
		data, err := json.MarshalIndent(b.result, "", "  ")
		if err != nil {
			return err
		}
		if err := os.WriteFile(o.json, append(data, '\n'), 0o644); err != nil {
			return err
		}
	}
	if o.plots != "" {
		return errors.Join(failed, b.result.plot(o.plots))
	}
	return failed
}

func readResult(file string) (*result, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	r := &result{}
	if err := json.Unmarshal(data, r); err != nil {
		return nil, fmt.Errorf("%s is not what --json writes: %w", file, err)
	}
	return r, nil
}

// play runs the parts.
func (b *bench) play(stage *measure.TB) {
	b.result = &result{Began: b.begun.UTC(), Machine: thisMachine(), Options: b.options, Bytes: map[string]int{}}
	b.note("starting a host and Leat")
	b.scene = setUp(stage)
	b.result.Versions = b.scene.versions()
	b.idle()
	for _, part := range []struct {
		name string
		run  func()
	}{
		{partOperations, b.measureOperations},
		{partWatches, b.measureWatches},
		{partLifeCycle, b.measureLifeCycle},
		{partLists, b.measureLists},
	} {
		if slices.Contains(b.Only, part.name) {
			b.note("%s", part.name)
			part.run()
		}
	}
	// They go together: the stores are filled once.
	if slices.Contains(b.Only, partMemory) || slices.Contains(b.Only, partRestart) || slices.Contains(b.Only, partGrowth) {
		b.note("%s, %s and %s", partMemory, partRestart, partGrowth)
		b.measureStorage()
	}
}

// idle measures what processes need when nothing happens.
func (b *bench) idle() {
	const seconds = 5
	before := b.scene.count()
	b.scene.pause(seconds * time.Second)
	b.result.IdleCPU = values{}
	cpuValues(b.result.IdleCPU, before, b.scene.count(), nil, seconds)
	delete(b.result.IdleCPU, valueCPU)
}

// note tells on standard error what goes on.
func (b *bench) note(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%6.0fs  %s\n", time.Since(b.begun).Seconds(), fmt.Sprintf(format, args...))
}
