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

// The bench command compares Leat with its alternatives in one run on one machine: the same Task as a
// CustomResourceDefinition and Pods, both on a real kube-apiserver, and etcd itself. The programs run as processes with
// TLS, fsync, managed fields, validation, priority and fairness, and the audit policy of Leat.
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
	"maps"
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
	partChunks     = "chunks"
	partOperations = "operations"
	partWatches    = "watches"
	partLifeCycle  = "lifecycle"
	partScale      = "scale"
	partArchive    = "archive"
	partLists      = "lists"
	partMemory     = "memory"
	partRestart    = "restart"
	partGrowth     = "growth"
)

// parts are the parts in their order, from an empty store to a full one. The first has no host, whose programs would
// use the processors.
var parts = []string{partChunks, partOperations, partWatches, partLifeCycle, partScale, partArchive, partLists, partMemory, partRestart, partGrowth}

// options are the flags. The result contains them.
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
	Indexes    int
	LargeSet   int
	Pending    int
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

const usage = `Compares Leat with a CRD and Pods on a real kube-apiserver, and with etcd itself, in one run on this machine.

  make build host                      build the programs
  go run ./test/perf/bench             run everything, in at most an hour and a half
  go run ./test/perf/bench --only=operations --operations=500
                                       run one small part
  go run ./test/perf/bench --quick --against=earlier.json
                                       print ratios only, with those of an earlier --json

Subjects: CRD (the same Task, with its schema and selectable fields, served by kube-apiserver), Pod (built in), Leat (the
server itself), "Leat, aggregated" (through the aggregator of the host), etcd (only the transactions, with values of the
same size). The subjects take turns after each operation, in another order in each round. A warm-up round is not counted.
Values are medians over the rounds, with minimum and maximum. CPU time is that of a whole process, from /proc, read a
quarter of a second after the last response. A failed request ends the run, and the results until then are printed.
Failed writes with many watchers are counted instead.

Parts, for --only:
  chunks       "leat up" with 4 and 16 slots, beside xargs and a loop that only forks: short commands a second, the utilisation
               of the slots by commands of 10 ms to 1 s, etcd writes and CPU time an index
  operations   create, get, bind, patch and update status, delete
  watches      single events with many watchers by spec.workerName
  lifecycle    a TaskSet from its creation until all of it is deleted, with workers that run "true" and with workers that run
               nothing; with --cluster also a Job of Kubernetes
  scale        a set of --large-set indexes with workers that run nothing, and the start of the controller manager with
               --pending pending tasks and a tenth as many workers
  archive      sets of up to --indexes indexes that print 1 KiB each, without an archive, with one in a directory and with one in
               S3; the same while the store is away; the first byte of output in a directory with 200 segments
  lists        paginated, unpaginated, from the cache and consistent, WatchList; JSON (compressed, the default of clients, and
               uncompressed), protobuf, Table
  memory       RSS with --objects stored objects, and its growth by lists of up to 100,000 of them, for one client and for 50
               at once. The objects are written to etcd as copies of one that the server stored
  restart      always with memory: the time from kill -9 with --objects objects until ready and until the first list
  growth       always with memory: the operations again, with --objects stored objects

Flags:
`

func main() {
	var o options
	flag.Func("only", "Parts to run, separated by commas: "+strings.Join(parts, ", ")+" (default all)", func(value string) error {
		o.Only = strings.Split(value, ",")
		for _, part := range o.Only {
			if !slices.Contains(parts, part) {
				return fmt.Errorf("%q: must be one of %s", part, strings.Join(parts, ", "))
			}
		}
		return nil
	})
	flag.BoolVar(&o.Quick, "quick", false, "Run chunks, operations, a few lists and watchers in one round, in four minutes, and print ratios only. It replaces the sizes")
	flag.IntVar(&o.Rounds, "rounds", 3, "Rounds of operations, lists and watches")
	flag.IntVar(&o.Clients, "clients", 32, "Concurrent clients that send operations, each with its own connection")
	flag.IntVar(&o.Operations, "operations", 2000, "Objects of each subject in each round. Each operation runs once per object")
	flag.IntVar(&o.Objects, "objects", 150_000, "Stored objects for memory and restart. Lists that are compared have at most 10,000")
	o.Watchers = []int{1, 100, 1000}
	flag.Func("watchers", "Numbers of watchers, separated by commas (default 1,100,1000; a goal is for 10000)", func(value string) error {
		o.Watchers = nil
		for text := range strings.SplitSeq(value, ",") {
			n, err := strconv.Atoi(text)
			if err != nil || n < 1 {
				return fmt.Errorf("%q: must be a number greater than 0, as in 100,1000", text)
			}
			o.Watchers = append(o.Watchers, n)
		}
		return nil
	})
	flag.IntVar(&o.EventRate, "event-rate", 200, "Events a second for all watchers together")
	flag.IntVar(&o.Tasks, "tasks", 10_000, "Tasks of each TaskSet of the life cycle")
	flag.IntVar(&o.Indexes, "indexes", 100_000, "Indexes of each set of chunks and archive that runs true or echo")
	flag.IntVar(&o.LargeSet, "large-set", 1_000_000, "Indexes of the set of scale")
	flag.IntVar(&o.Pending, "pending", 100_000, "Pending tasks of scale, at least 10")
	flag.StringVar(&o.Cluster, "cluster", os.Getenv("KUBECONFIG"), "Kubeconfig of a cluster with a kubelet, for the Job in lifecycle (default $KUBECONFIG)")
	flag.StringVar(&o.JobImage, "job-image", "localhost/noop:1", "Image of the containers of the Job. It must be on the nodes, because it is never pulled")
	flag.StringVar(&o.programs, "programs", "bin", "Directory with leat-apiserver, leat-controller-manager and leat-worker")
	flag.StringVar(&o.dir, "dir", "", "Directory for data and logs, which are kept (default: a temporary directory, which is removed)")
	flag.StringVar(&o.json, "json", "", "File for the results as JSON")
	flag.StringVar(&o.plots, "plots", "", "Directory for plots as SVG")
	flag.StringVar(&o.profiles, "cpu-profiles", "", "Directory for CPU profiles of the server, one for each operation of the last round. The profiles make that round slower")
	flag.StringVar(&o.against, "against", "", "JSON of an earlier run, whose ratios are printed too. It needs --quick")
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

// complete validates the flags and sets those that --quick replaces.
func (o *options) complete(args []string) error {
	switch {
	case len(args) > 0:
		return fmt.Errorf("unexpected arguments %q: see --help", args)
	case o.Rounds < 1 || o.Clients < 1 || o.Operations < 1 || o.Objects < 1 || o.EventRate < 1 || o.Tasks < 1:
		return errors.New("--rounds, --clients, --operations, --objects, --event-rate and --tasks must be more than 0")
	case o.Indexes < 1 || o.LargeSet < 1 || o.Pending < tasksPerWorker:
		return fmt.Errorf("--indexes and --large-set must be more than 0, and --pending at least %d", tasksPerWorker)
	case o.against != "" && !o.Quick:
		return errors.New("--against needs --quick: compare the JSON of two whole runs instead")
	}
	if o.Quick {
		o.Rounds, o.Operations, o.Objects, o.Watchers, o.Indexes = 1, 800, listObjects, []int{100}, 10_000
		if o.Only == nil {
			o.Only = []string{partChunks, partOperations, partWatches, partLists}
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
	// The oracles are for tests. They would slow the servers down.
	host.Oracles = nil
	tb := measure.NewTB(ctx, "bench", o.dir)
	b := &bench{options: o, collector: newCollector(), begun: time.Now()}
	func() {
		defer tb.End()
		b.play(tb)
	}()
	// After a failure, print the results so far, with a note that they are incomplete.
	failed := tb.Err()
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
		return nil, fmt.Errorf("%s: not a file of --json: %w", file, err)
	}
	return r, nil
}

// play runs the parts.
func (b *bench) play(tb *measure.TB) {
	b.result = &result{Began: b.begun.UTC(), Machine: thisMachine(), Options: b.options, Bytes: map[string]int{}, Versions: map[string]string{}}
	if slices.Contains(b.Only, partChunks) {
		b.note(partChunks)
		b.measureChunks(tb)
	}
	if len(b.Only) == 1 && b.Only[0] == partChunks {
		return
	}
	b.note("starting a host and Leat")
	b.scene = setUp(tb)
	maps.Copy(b.result.Versions, b.scene.versions())
	b.idle()
	for _, part := range []struct {
		name string
		run  func()
	}{
		{partOperations, b.measureOperations},
		{partWatches, b.measureWatches},
		{partLifeCycle, b.measureLifeCycle},
		{partScale, b.measureScale},
		{partArchive, b.measureArchive},
		{partLists, b.measureLists},
	} {
		if slices.Contains(b.Only, part.name) {
			b.note("%s", part.name)
			part.run()
		}
	}
	// These parts run together, because the stores are filled once.
	if slices.Contains(b.Only, partMemory) || slices.Contains(b.Only, partRestart) || slices.Contains(b.Only, partGrowth) {
		b.note("%s, %s and %s", partMemory, partRestart, partGrowth)
		b.measureStorage()
	}
}

// idle measures the CPU time of all processes without requests.
func (b *bench) idle() {
	const seconds = 5
	before := b.scene.count()
	b.scene.pause(seconds * time.Second)
	b.result.IdleCPU = values{}
	cpuValues(b.result.IdleCPU, before, b.scene.count(), nil, seconds)
	delete(b.result.IdleCPU, valueCPU)
}

// note prints the progress to stderr.
func (b *bench) note(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%6.0fs  %s\n", time.Since(b.begun).Seconds(), fmt.Sprintf(format, args...))
}
