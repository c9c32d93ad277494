//go:build linux

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
	"flag"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/spf13/cobra"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"

	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/cmd/internal/collector"
	"github.com/leat-dev/leat/pkg/cli"
	"github.com/leat-dev/leat/pkg/standalone"
	"github.com/leat-dev/leat/pkg/worker/agent"
)

// newUpCommand returns the "up" command, which runs standalone mode.
func newUpCommand() *cobra.Command {
	options := standalone.Options{Workers: 1, Namespace: "default", MetricsAddress: "0"}
	port, verbosity, sample := 7443, 0, false
	each := workerFlags{tasks: runtime.NumCPU()}
	garbage := collector.Defaults(200, "128Mi") // the heap of an idle server is smaller
	command := &cobra.Command{
		Use:   "up",
		Short: "Run all of Leat on this machine, without a cluster",
		Long: `Run all of Leat on this machine, without a cluster: an API server with its own store, a scheduler and workers.

All state is in the data directory and is used again at the next start. A kubeconfig is written for leat and kubectl. The server
listens on 127.0.0.1 only. Commands of tasks run on this machine as your user.

Tasks can request the CPU and the memory of this machine or container. The workers share them equally unless you set
--worker-capacity. Other resources are counts: a task that requests one is not assigned a device.`,
		Example: `  leat up                                   # one worker, as many tasks at a time as there are processors
  leat up --workers 4 --worker-tasks 8      # 4 × 8 tasks at a time
  leat up --worker-capacity cpu=16,memory=64Gi --worker-labels disk=ssd   # what tasks can request and select
  kubectl --kubeconfig ~/.local/share/leat/kubeconfig apply -f artifacts/examples/task.yaml`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			if err := complete(&options, port, each); err != nil {
				return err
			}
			garbage.Apply()
			if sample && options.Workers == 0 {
				return errors.New("--sample: there are no workers to run it: leave out --workers=0 and --api-only")
			}
			started := standalone.HasStarted(options)
			logFile := filepath.Join(options.DataDir, "leat.log")
			closeLog, err := logTo(logFile, verbosity)
			if err != nil {
				return err
			}
			defer closeLog()
			out := command.OutOrStdout()
			ctx := genericapiserver.SetupSignalContext()
			sample = sample && !started
			var extra sync.WaitGroup
			err = standalone.Run(ctx, options, func(admin *rest.Config) {
				printReady(out, options, admin.Host, logFile)
				if sample {
					extra.Go(func() { runSample(ctx, admin, options.Namespace, out) })
				}
			})
			extra.Wait()
			if err != nil {
				return fmt.Errorf("%w (the log is in %s)", err, logFile)
			}
			fmt.Fprintln(out, "Stopped. Everything is kept in", options.DataDir)
			return nil
		},
	}
	flags := command.Flags()
	flags.StringVar(&options.DataDir, "data-dir", "", "Directory that holds all state (default $XDG_DATA_HOME/leat or ~/.local/share/leat)")
	flags.IntVar(&port, "secure-port", port, "Port on 127.0.0.1 on which the API is served with TLS; 0 for a free port")
	flags.StringVar(&options.Kubeconfig, "kubeconfig", "", "File to which a context for the administrator is added (default DATA-DIR/kubeconfig)")
	flags.IntVar(&options.Workers, "workers", options.Workers, "Number of workers; 0 for none")
	flags.IntVar(&each.tasks, "worker-tasks", each.tasks, "Number of tasks that each worker runs at a time")
	flags.StringToStringVar(&each.capacity, "worker-capacity", nil, "Resources of each worker, as NAME=QUANTITY (default: its share of the cpu and memory of the machine)")
	flags.StringToStringVar(&each.labels, "worker-labels", nil, "Labels of each worker, as KEY=VALUE")
	flags.IntVarP(&verbosity, "v", "v", verbosity, "Log level: 2 for events, 4 for details")
	flags.BoolVar(&sample, "sample", sample, "At the first start with a data directory, run a set of 100 tasks and show its progress")
	flags.BoolVar(&options.APIOnly, "api-only", false, "Run only the API server, without controllers, scheduler and workers")
	flags.StringVar(&options.Namespace, "namespace", options.Namespace, "Namespace of the workers; only tasks in it run")
	flags.StringVar(&options.MetricsAddress, "metrics-bind-address", options.MetricsAddress, "Loopback address for the metrics of controllers, scheduler and workers, like 127.0.0.1:9090; 0 for none")
	flags.StringVar(&options.AdmissionConfig, "admission-control-config-file", "", "File with the configuration of admission plugins, which may refer to manifests of webhooks and policies")
	return command
}

// runSample runs the sample set. It prints an error and does not return it: the server continues.
func runSample(ctx context.Context, admin *rest.Config, namespace string, out io.Writer) {
	if err := cli.Sample(ctx, admin, namespace, out); err != nil && ctx.Err() == nil {
		fmt.Fprintln(out, "The first set of tasks:", err)
	}
}

// workerFlags are the flags that apply to each worker.
type workerFlags struct {
	tasks            int
	capacity, labels map[string]string
}

// complete validates the flags and sets the worker options. options.Workers must be set.
func (f workerFlags) complete(options *standalone.Options) error {
	if f.tasks < 1 {
		return fmt.Errorf("--worker-tasks %d: must be 1 or more", f.tasks)
	}
	given := share(agent.MachineCapacity(), max(1, options.Workers))
	maps.Copy(given, f.capacity)
	var err error
	if options.WorkerCapacity, err = agent.Capacity(f.tasks, given); err != nil {
		return fmt.Errorf("--worker-capacity %w", err)
	}
	if errs := metav1validation.ValidateLabels(f.labels, field.NewPath("--worker-labels")); len(errs) > 0 {
		return errs.ToAggregate()
	}
	options.WorkerLabels = f.labels
	return nil
}

// share returns the n-th part of each resource, rounded down to MiB of memory and thousandths of others.
func share(list v1alpha1.ResourceList, n int) map[string]string {
	parts := map[string]string{}
	for name, quantity := range list {
		if name == v1alpha1.ResourceMemory {
			parts[string(name)] = strconv.FormatInt(quantity.Value()/int64(n)>>20, 10) + "Mi"
		} else {
			parts[string(name)] = strconv.FormatInt(quantity.MilliValue()/int64(n), 10) + "m"
		}
	}
	return parts
}

// complete validates the options, fills in defaults and creates the data directory.
func complete(options *standalone.Options, port int, each workerFlags) error {
	if port < 0 || port > 65535 {
		return fmt.Errorf("--secure-port %d: must be from 0 to 65535", port)
	}
	options.Address = net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	if options.APIOnly {
		options.Workers = 0
	}
	if options.Workers < 0 {
		return fmt.Errorf("--workers %d: must be 0 or more", options.Workers)
	}
	if address := options.MetricsAddress; address != "0" {
		host, _, err := net.SplitHostPort(address)
		if ip := net.ParseIP(host); err != nil || host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			return fmt.Errorf("--metrics-bind-address %s: must be a loopback address and a port, like 127.0.0.1:9090, or 0 for none", address)
		}
	}
	if err := each.complete(options); err != nil {
		return err
	}
	if options.DataDir == "" {
		base := os.Getenv("XDG_DATA_HOME")
		if base == "" {
			home, err := os.UserHomeDir()
			if err != nil {
				return fmt.Errorf("no place for state: %w: set --data-dir", err)
			}
			base = filepath.Join(home, ".local", "share")
		}
		options.DataDir = filepath.Join(base, "leat")
	}
	var err error
	if options.DataDir, err = filepath.Abs(options.DataDir); err != nil {
		return err
	}
	if options.Kubeconfig == "" {
		options.Kubeconfig = filepath.Join(options.DataDir, "kubeconfig")
	}
	return os.MkdirAll(options.DataDir, 0o700)
}

// logTo directs klog to the file and truncates it. The terminal shows only messages for the user. The returned function
// closes the file.
func logTo(file string, verbosity int) (func(), error) {
	log, err := os.OpenFile(file, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	flags := flag.NewFlagSet("log", flag.ContinueOnError)
	klog.InitFlags(flags)
	if err := errors.Join(flags.Set("logtostderr", "false"), flags.Set("stderrthreshold", "FATAL"), flags.Set("one_output", "true"),
		flags.Set("v", strconv.Itoa(verbosity))); err != nil {
		return nil, err
	}
	klog.SetOutput(log)
	return func() {
		klog.Flush()
		klog.LogToStderr(true)
		_ = log.Close()
	}, nil
}

func printReady(out io.Writer, options standalone.Options, host, logFile string) {
	fmt.Fprintf(out, `Leat is up.

  API         %s
  workers     %s
  kubeconfig  %s
  log         %s

In another terminal, with this program or with kubectl:

  export KUBECONFIG=%s
  %s run --array 0-999 --wait -- sh -c 'echo $TASK_INDEX'
  kubectl get tks,tk,wkr

Ctrl-C stops all programs and keeps all data.
`, host, describeWorkers(options), options.Kubeconfig, logFile, options.Kubeconfig, os.Args[0])
}

// describeWorkers returns the number of workers and the capacity of each.
func describeWorkers(options standalone.Options) string {
	if options.Workers == 0 {
		return "none"
	}
	var has []string
	for _, name := range slices.Sorted(maps.Keys(options.WorkerCapacity)) {
		quantity := options.WorkerCapacity[name]
		if name != v1alpha1.ResourceTasks {
			has = append(has, quantity.String()+" "+string(name))
		}
	}
	tasks := options.WorkerCapacity[v1alpha1.ResourceTasks]
	each := fmt.Sprintf("%s tasks at a time, %s", tasks.String(), strings.Join(has, ", "))
	if options.Workers == 1 {
		return fmt.Sprintf("1 in namespace %s: %s", options.Namespace, each)
	}
	return fmt.Sprintf("%d in namespace %s, each: %s", options.Workers, options.Namespace, each)
}
