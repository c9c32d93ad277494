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

// The leat-worker command runs tasks.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
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
	"github.com/leat-dev/leat/pkg/worker"
)

func main() {
	if err := newCommand().Execute(); err != nil {
		os.Exit(1)
	}
}

// settings are what the flags say.
type settings struct {
	kubeconfig      string
	namespace, name string
	stateDir        string
	tasks           int
	capacity        map[string]string
	labels          map[string]string
	taints          []string
	drainTimeout    time.Duration
	leaseDuration   time.Duration
	logs            logSettings
	taskMaxPIDs     int64
	metricsAddress  string
	verbosity       int
}

func newCommand() *cobra.Command {
	var s settings
	command := &cobra.Command{
		Use:   "leat-worker",
		Short: "Run the tasks of a namespace",
		Long: `Run the tasks of a namespace on this machine, in this container: their commands see its files, have its environment and
are run as the user who runs this.

The worker registers itself and only makes connections, it needs none made to it, but for logs. It reaches the API by --kubeconfig,
$KUBECONFIG or ~/.kube/config, or in a pod by the pod's service account. A client certificate of a worker
(organization leat:workers, name leat:worker:NAMESPACE:NAME) also says its namespace and its name.

SIGTERM and SIGINT stop it: it takes no more tasks, ends those that run, gives back what has not finished and exits. A
second one ends it at once.`,
		Example: `  leat-worker --kubeconfig=worker.kubeconfig                       # as many tasks at a time as there are processors
  leat-worker --namespace=render --tasks=4 --labels=disk=ssd       # for tasks that select workers by label, too
  leat-worker --capacity=cpu=8,memory=16Gi,example.com/license=1   # what tasks can request: counts`,
		Args:         cobra.NoArgs,
		Version:      version.Get().GitVersion,
		SilenceUsage: true,
		RunE: func(command *cobra.Command, _ []string) error {
			// Once it is stopping, the next signal has its usual effect.
			ctx, stop := signal.NotifyContext(command.Context(), syscall.SIGTERM, syscall.SIGINT)
			defer stop()
			context.AfterFunc(ctx, stop)
			return s.run(ctx, command.ErrOrStderr())
		},
	}
	command.SetContext(context.Background())
	flags := command.Flags()
	flags.SortFlags = false
	flags.StringVar(&s.kubeconfig, "kubeconfig", "", "File with the access to the API (default $KUBECONFIG, ~/.kube/config, or the service account of the pod)")
	flags.StringVarP(&s.namespace, "namespace", "n", "", "Namespace whose tasks are run (default that of the access)")
	flags.StringVar(&s.name, "name", "", "Name of the Worker, unique in its namespace (default that of the client certificate, $POD_NAME, or the name of the host and five random characters, kept in the state directory)")
	flags.StringVar(&s.stateDir, "state-dir", defaultStateDir(), "Directory where the worker keeps the name it has given itself, logs and the files of the tasks that it runs")
	flags.IntVar(&s.tasks, "tasks", runtime.GOMAXPROCS(0), "How many tasks to run at a time")
	flags.StringToStringVar(&s.capacity, "capacity", nil, "What tasks can request, as NAME=QUANTITY; cpu and memory are by default what the machine, or the container, has")
	flags.StringToStringVar(&s.labels, "labels", nil, "Labels of the Worker, for tasks to select it by")
	flags.StringSliceVar(&s.taints, "taints", nil, "Taints of the Worker when it is first registered, as KEY=VALUE:EFFECT or KEY:EFFECT")
	flags.DurationVar(&s.drainTimeout, "drain-timeout", 20*time.Second, "How long commands get at most between SIGTERM and SIGKILL when the worker stops")
	flags.DurationVar(&s.leaseDuration, "lease-duration", 40*time.Second, "How long the worker counts as alive without a sign of life, of which it gives four in that time; longer for an unreliable network")
	s.logs.addFlags(flags)
	flags.Int64Var(&s.taskMaxPIDs, "task-max-pids", 4096, "How many processes and threads a task may have at a time, -1 for any number; needs a control group of the worker's own")
	flags.StringVar(&s.metricsAddress, "metrics-bind-address", "0", "Address that /metrics is served on by plain HTTP, to all who reach it: 127.0.0.1:9090 for this machine, :9090 in a pod; 0 for none")
	flags.IntVarP(&s.verbosity, "v", "v", 0, "How much to log: 2 for what happens, 4 for why")
	command.AddCommand(newInstallCommand())
	return command
}

// run checks all that was said before the API is asked for anything, and then works until ctx is done.
func (s *settings) run(ctx context.Context, stderr io.Writer) error {
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
	client, err := versioned.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("the access to the API: %w", err)
	}
	store, err := s.logs.open(id, s.stateDir)
	if err != nil {
		return err
	}
	defer store.Close()
	logServer, err := s.logs.serve(store, id, config)
	if err != nil {
		return err
	}
	defer logServer.Close()
	registry := prometheus.NewRegistry()
	stopMetrics, err := serveMetrics(ctx, s.metricsAddress, registry)
	if err != nil {
		return fmt.Errorf("--metrics-bind-address: %w", err)
	}
	defer stopMetrics()
	klog.FromContext(ctx).Info("The worker starts", "namespace", id.namespace, "name", id.name, "server", config.Host,
		"tasks", s.tasks, "version", version.Get().GitVersion)
	return worker.New(client, worker.Options{
		Namespace:     id.namespace,
		Name:          id.name,
		Labels:        s.labels,
		Taints:        taints,
		Capacity:      capacity,
		Version:       version.Get().GitVersion,
		DrainTimeout:  s.drainTimeout,
		LeaseDuration: s.leaseDuration,
		TaskMaxPIDs:   s.taskMaxPIDs,
		// A task that means to use the API should not do so as the worker by mistake.
		WithheldEnv: []string{clientcmd.RecommendedConfigPathEnvVar},
		Registerer:  registry,
		StateDir:    filepath.Join(s.stateDir, "tasks"),
		Logs:        store,
		Endpoint:    logServer.Endpoint(),
	}).Run(ctx)
}

// access is how to reach the API, and the namespace that goes with it.
func (s *settings) access() (*rest.Config, string, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = s.kubeconfig
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, nil)
	config, err := loader.ClientConfig()
	switch {
	case clientcmd.IsEmptyConfig(err):
		return nil, "", errors.New("there is no access to the API: give --kubeconfig, or run in a pod with a service account")
	case err != nil:
		return nil, "", fmt.Errorf("the access to the API: %w", err)
	}
	namespace, _, err := loader.Namespace()
	if err != nil {
		return nil, "", fmt.Errorf("the access to the API: %w", err)
	}
	config.UserAgent = "leat-worker/" + version.Get().GitVersion
	config.QPS = -1 // the server's priority and fairness holds workers back
	config.ContentType = kuberuntime.ContentTypeProtobuf
	config.AcceptContentTypes = kuberuntime.ContentTypeProtobuf + "," + kuberuntime.ContentTypeJSON
	return config, namespace, nil
}

// resources returns the capacity of the worker: what the machine has, overridden by the flags.
func (s *settings) resources() (batch.ResourceList, error) {
	if s.tasks < 1 {
		return nil, fmt.Errorf("--tasks=%d: must be 1 or more", s.tasks)
	}
	list, err := worker.Capacity(s.tasks, s.capacity)
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

// logTo sends the log to w.
func logTo(w io.Writer, verbosity int) error {
	flags := flag.NewFlagSet("log", flag.ContinueOnError)
	klog.InitFlags(flags)
	klog.SetOutput(w)
	return errors.Join(flags.Set("logtostderr", "false"), flags.Set("stderrthreshold", "FATAL"), flags.Set("one_output", "true"),
		flags.Set("v", strconv.Itoa(verbosity)))
}
