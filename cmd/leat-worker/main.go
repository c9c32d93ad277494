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

// The leat-worker command runs the tasks of a namespace.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/validate/content"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	kuberuntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/component-base/version"
	"k8s.io/klog/v2"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/generated/clientset/versioned"
	"github.com/leat-dev/leat/pkg/worker/agent"
	"github.com/leat-dev/leat/pkg/worker/sandbox"
)

func main() {
	if err := newCommand().Execute(); err != nil {
		os.Exit(1)
	}
}

// maxPrefetch bounds --prefetch: more waiting tasks keep no slot busier.
const maxPrefetch = 100

// settings are the values of the flags.
type settings struct {
	kubeconfig      string
	namespace, name string
	stateDir        string
	tasks           int
	capacity        map[string]string
	labels          map[string]string
	pool            string
	taints          []string
	drainTimeout    time.Duration
	leaseDuration   time.Duration
	logs            logSettings
	taskMaxPIDs     int64
	prefetch        int
	metricsAddress  string
	verbosity       int
}

func newCommand() *cobra.Command {
	var s settings
	command := &cobra.Command{
		Use:   "leat-worker",
		Short: "Run the tasks of a namespace",
		Long: `Run the tasks of a namespace on this machine, or in this container. Their commands see its files, inherit its environment
and run as the user of this program.

The worker registers itself. It only makes outgoing connections, except to serve logs. It connects to the API with
--kubeconfig, $KUBECONFIG or ~/.kube/config, or with the service account of its pod. The client certificate of a worker
(organization leat:workers, name leat:worker:NAMESPACE:NAME) also sets its namespace and its name.

SIGTERM and SIGINT stop the worker: it accepts no more tasks, terminates those that run, returns unfinished ones to the
scheduler and exits. A second signal ends it at once.`,
		Example: `  # Run as many tasks at a time as there are processors
  leat-worker --kubeconfig=worker.kubeconfig

  # Run up to 4 tasks of a namespace at a time, and let tasks select the worker by a label
  leat-worker --namespace=render --tasks=4 --labels=disk=ssd

  # Set what tasks can request
  leat-worker --capacity=cpu=8,memory=16Gi,example.com/license=1`,
		Args:         cobra.NoArgs,
		Version:      version.Get().GitVersion,
		SilenceUsage: true,
		RunE: func(command *cobra.Command, _ []string) error {
			// While the worker stops, the next signal has its default effect.
			ctx, stop := signal.NotifyContext(command.Context(), syscall.SIGTERM, syscall.SIGINT)
			defer stop()
			context.AfterFunc(ctx, stop)
			return s.run(ctx, command.OutOrStdout(), command.ErrOrStderr())
		},
	}
	command.SetContext(context.Background())
	flags := command.Flags()
	flags.SortFlags = false
	flags.StringVar(&s.kubeconfig, "kubeconfig", "", "Kubeconfig file for the API (default $KUBECONFIG, ~/.kube/config, or the service account of the pod)")
	flags.StringVarP(&s.namespace, "namespace", "n", "", "Namespace whose tasks are run (default that of the kubeconfig or the service account)")
	flags.StringVar(&s.name, "name", "", "Name of the Worker, unique in its namespace (default that of the client certificate, "+
		"$POD_NAME, or the host name and five random characters, kept in the state directory)")
	flags.StringVar(&s.stateDir, "state-dir", defaultStateDir(), "Directory for the generated name of the worker, logs, what waits for the archive and the files of running tasks")
	flags.IntVar(&s.tasks, "tasks", runtime.GOMAXPROCS(0), "How many tasks to run at a time")
	flags.IntVar(&s.prefetch, "prefetch", agent.DefaultPrefetch, "How many short tasks may wait on the worker for each that it can run at a time, so that the next one "+
		"starts at once when a task ends; 0 for none")
	flags.StringToStringVar(&s.capacity, "capacity", nil, "What tasks can request, as NAME=QUANTITY; "+
		"cpu and memory default to what the machine, or the container, has")
	flags.StringToStringVar(&s.labels, "labels", nil, "Labels of the Worker, which the workerSelector of a task can name")
	flags.StringVar(&s.pool, "pool", "", "Name of the pool of the worker, which the pool of a task can name. It becomes the label "+batch.LabelPool)
	flags.StringSliceVar(&s.taints, "taints", nil, "Taints of the Worker when it is first registered, as KEY=VALUE:EFFECT or KEY:EFFECT")
	flags.DurationVar(&s.drainTimeout, "drain-timeout", 20*time.Second, "Longest time between SIGTERM and SIGKILL for commands when the worker stops")
	flags.DurationVar(&s.leaseDuration, "lease-duration", 40*time.Second, "How long the worker counts as alive after a heartbeat; "+
		"it sends four in that time. Use more for an unreliable network")
	s.logs.addFlags(flags)
	flags.Int64Var(&s.taskMaxPIDs, "task-max-pids", 4096, "How many processes and threads a task may have at a time, -1 for any number; "+
		"needs a control group for the worker alone")
	flags.StringVar(&s.metricsAddress, "metrics-bind-address", "0", "Address on which to serve /metrics over plain HTTP, without authentication: "+
		"127.0.0.1:9090 for this machine, :9090 in a pod; 0 for none")
	flags.IntVarP(&s.verbosity, "v", "v", 0, "Number for the log level verbosity: 2 for requests and retries, 4 for more")
	command.AddCommand(newInstallCommand())
	return command
}

// run validates the flags before it sends any request, and then runs the worker until ctx is done.
func (s *settings) run(ctx context.Context, stdout, stderr io.Writer) error {
	if err := logTo(stderr, s.verbosity); err != nil {
		return err
	}
	defer klog.Flush()
	capacity, err := s.resources()
	if err != nil {
		return err
	}
	if errs := metav1validation.ValidateLabels(s.labels, field.NewPath("--labels")); len(errs) > 0 {
		return errs.ToAggregate()
	}
	if s.pool != "" {
		if messages := content.IsDNS1123Label(s.pool); len(messages) > 0 {
			return fmt.Errorf("--pool=%s: %s", s.pool, strings.Join(messages, ", "))
		}
		if label, ok := s.labels[batch.LabelPool]; ok && label != s.pool {
			return fmt.Errorf("--pool=%s and --labels=%s=%s: leave the label out", s.pool, batch.LabelPool, label)
		}
		s.labels = maps.Clone(s.labels)
		if s.labels == nil {
			s.labels = map[string]string{}
		}
		s.labels[batch.LabelPool] = s.pool
	}
	taints, err := parseTaints(s.taints)
	if err != nil {
		return err
	}
	if s.drainTimeout <= 0 {
		return fmt.Errorf("--drain-timeout=%s: must be more than 0", s.drainTimeout)
	}
	if s.leaseDuration < time.Second || s.leaseDuration%time.Second != 0 {
		return fmt.Errorf("--lease-duration=%s: must be whole seconds, 1s or more", s.leaseDuration)
	}
	if s.prefetch < 0 || s.prefetch > maxPrefetch {
		return fmt.Errorf("--prefetch=%d: must be 0 to %d", s.prefetch, maxPrefetch)
	}
	if err := s.logs.validate(); err != nil {
		return err
	}
	if s.taskMaxPIDs == 0 || s.taskMaxPIDs < -1 {
		return fmt.Errorf("--task-max-pids=%d: must be 1 or more, or -1 for any number", s.taskMaxPIDs)
	}
	if err := validateMetricsAddress(s.metricsAddress); err != nil {
		return fmt.Errorf("--metrics-bind-address=%s: %w", s.metricsAddress, err)
	}
	config, accessNamespace, err := s.access()
	if err != nil {
		return err
	}
	id, err := s.identify(config, accessNamespace)
	if err != nil {
		return err
	}
	defer id.release()
	client, err := versioned.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("configuring access to the API: %w", err)
	}
	store, err := s.logs.open(id, s.stateDir)
	if err != nil {
		return err
	}
	defer store.Close()
	registry := prometheus.NewRegistry()
	archive := s.logs.openSpool(id, s.stateDir, client.BatchV1alpha1().Workers(id.namespace), registry)
	defer archive.Close()
	logServer, err := s.logs.serve(store, archive, id, config)
	if err != nil {
		return err
	}
	defer logServer.Close()
	stopMetrics, err := serveMetrics(ctx, s.metricsAddress, registry)
	if err != nil {
		return fmt.Errorf("--metrics-bind-address: %w", err)
	}
	defer stopMetrics()
	klog.FromContext(ctx).Info("Starting the worker", "worker", klog.KRef(id.namespace, id.name), "server", config.Host,
		"tasks", s.tasks, "version", version.Get().GitVersion)
	var echo io.Writer
	if s.logs.echo == echoJSON {
		echo = stdout
	}
	return agent.New(client, sandbox.NewHost(), agent.Options{
		Namespace:     id.namespace,
		Name:          id.name,
		Labels:        s.labels,
		Taints:        taints,
		Capacity:      capacity,
		Version:       version.Get().GitVersion,
		DrainTimeout:  s.drainTimeout,
		LeaseDuration: s.leaseDuration,
		Prefetch:      s.prefetch,
		TaskMaxPIDs:   s.taskMaxPIDs,
		// A task that uses the API must not use the worker's credentials by mistake.
		WithheldEnv: []string{clientcmd.RecommendedConfigPathEnvVar},
		Registerer:  registry,
		StateDir:    filepath.Join(s.stateDir, "tasks"),
		Logs:        store,
		Endpoint:    logServer.Endpoint(),
		Archive:     archive,
		Echo:        echo,
	}).Run(ctx)
}

// access returns the client configuration and its namespace.
func (s *settings) access() (*rest.Config, string, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = s.kubeconfig
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, nil)
	config, err := loader.ClientConfig()
	switch {
	case clientcmd.IsEmptyConfig(err):
		return nil, "", errors.New("no kubeconfig and no service account found: set --kubeconfig, or run in a pod with a service account")
	case err != nil:
		return nil, "", fmt.Errorf("configuring access to the API: %w", err)
	}
	namespace, _, err := loader.Namespace()
	if err != nil {
		return nil, "", fmt.Errorf("configuring access to the API: %w", err)
	}
	config.UserAgent = "leat-worker/" + version.Get().GitVersion
	config.QPS = -1 // the server's priority and fairness limits the rate
	config.ContentType = kuberuntime.ContentTypeProtobuf
	config.AcceptContentTypes = kuberuntime.ContentTypeProtobuf + "," + kuberuntime.ContentTypeJSON
	return config, namespace, nil
}

// resources returns the capacity of the worker: what the machine has, overridden by the flags.
func (s *settings) resources() (batch.ResourceList, error) {
	if s.tasks < 1 {
		return nil, fmt.Errorf("--tasks=%d: must be 1 or more", s.tasks)
	}
	list, err := agent.Capacity(s.tasks, s.capacity)
	if err != nil {
		return nil, fmt.Errorf("--capacity=%w", err)
	}
	return list, nil
}

func parseTaints(texts []string) ([]batch.Taint, error) {
	var taints []batch.Taint
	for _, text := range texts {
		keyValue, effect, _ := strings.Cut(text, ":")
		key, value, _ := strings.Cut(keyValue, "=")
		messages := append(content.IsLabelKey(key), content.IsLabelValue(value)...)
		switch taint := (batch.Taint{Key: key, Value: value, Effect: batch.TaintEffect(effect)}); taint.Effect {
		case batch.TaintEffectNoSchedule, batch.TaintEffectPreferNoSchedule, batch.TaintEffectNoExecute:
			taints = append(taints, taint)
		default:
			messages = append(messages, "the effect must be NoSchedule, PreferNoSchedule or NoExecute")
		}
		if len(messages) > 0 {
			return nil, fmt.Errorf("--taints=%s: must be KEY=VALUE:EFFECT or KEY:EFFECT: %s", text, strings.Join(messages, "; "))
		}
	}
	return taints, nil
}

// logTo makes klog write to w.
func logTo(w io.Writer, verbosity int) error {
	flags := flag.NewFlagSet("log", flag.ContinueOnError)
	klog.InitFlags(flags)
	klog.SetOutput(w)
	return errors.Join(flags.Set("logtostderr", "false"), flags.Set("stderrthreshold", "FATAL"), flags.Set("one_output", "true"),
		flags.Set("v", strconv.Itoa(verbosity)))
}
