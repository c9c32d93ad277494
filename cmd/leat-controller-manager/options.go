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
	"net"
	"net/http"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	cliflag "k8s.io/component-base/cli/flag"
	"k8s.io/component-base/featuregate"
	"k8s.io/component-base/logs"
	logsapi "k8s.io/component-base/logs/api/v1"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
	"sigs.k8s.io/controller-runtime/pkg/metrics/filters"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/cmd/internal/collector"
	"github.com/leat-dev/leat/pkg/certificates"
	"github.com/leat-dev/leat/pkg/controller"
	"github.com/leat-dev/leat/pkg/controller/apiservice"
	"github.com/leat-dev/leat/pkg/controller/namespace"
	"github.com/leat-dev/leat/pkg/direct"
	"github.com/leat-dev/leat/pkg/generated/clientset/versioned"
	"github.com/leat-dev/leat/pkg/scheduler"
)

const (
	// systemNamespace is where config/ installs Leat.
	systemNamespace = "leat-system"
	// lease is the name of the lease that replicas elect their leader by.
	lease = "leat-controller-manager"
)

type options struct {
	kubeconfig, server string

	concurrentTaskSets int
	schedulingStrategy string
	sweepInterval      time.Duration
	garbage            collector.Options

	leaderElect                               bool
	leaseNamespace                            string
	leaseDuration, renewDeadline, retryPeriod time.Duration

	manageCertificates bool
	registerService    string

	metricsAddress, metricsCertDir, probeAddress string

	logs  *logs.Options
	gates featuregate.MutableVersionedFeatureGate
}

func newOptions() *options {
	return &options{
		concurrentTaskSets: 8,
		schedulingStrategy: string(scheduler.Spread),
		sweepInterval:      namespace.DefaultInterval,
		garbage:            collector.Defaults(200, "128Mi"), // what it keeps of tasks and workers outweighs what a pass allocates
		leaderElect:        true,
		leaseNamespace:     systemNamespace,
		leaseDuration:      15 * time.Second,
		renewDeadline:      10 * time.Second,
		retryPeriod:        2 * time.Second,
		metricsAddress:     "127.0.0.1:8080",
		probeAddress:       ":8081",
		logs:               logs.NewOptions(),
		gates:              featuregate.NewFeatureGate(),
	}
}

func (o *options) flags() cliflag.NamedFlagSets {
	var sets cliflag.NamedFlagSets
	f := sets.FlagSet("cluster")
	f.StringVar(&o.kubeconfig, "kubeconfig", o.kubeconfig, "File that says how to reach the cluster; in a pod it is found without")
	f.StringVar(&o.server, "leat-server", o.server, "Address of leat-apiserver itself, like https://leat-apiserver.leat-system.svc, which is then reached with the credentials for the cluster and trusted as its APIService says (default: by way of the cluster's API server, which then carries all that is watched)")
	f = sets.FlagSet("controllers")
	f.IntVar(&o.concurrentTaskSets, "concurrent-tasksets", o.concurrentTaskSets, "How many task sets are worked on at a time. More react faster when many are busy, and use more CPU and connections")
	f.StringVar(&o.schedulingStrategy, "scheduling-strategy", o.schedulingStrategy, "Which worker a task goes to of those that have room: spread, the one with the smallest part of it taken; pack, the one with the greatest, so that others become empty")
	f.DurationVar(&o.sweepInterval, "namespace-sweep-interval", o.sweepInterval, "Time between two searches for objects of Leat that have outlived their namespace, which are deleted")
	f = sets.FlagSet("certificates")
	f.BoolVar(&o.manageCertificates, "manage-certificates", o.manageCertificates, "Issue and renew the certificates in the Secrets leat-apiserver-tls, leat-etcd-tls and leat-worker-client-tls of "+systemNamespace+", which must exist. Every replica does")
	f = sets.FlagSet("registration")
	f.StringVar(&o.registerService, "register-service", o.registerService, "Service of leat-apiserver to register with the cluster, as NAMESPACE/NAME:PORT, like "+apiservice.DefaultService.String()+". The leader creates the APIService "+apiservice.Name+" when the server is ready for the first time, and keeps it from then on: with the authorities in ca.crt of the Secret "+apiservice.Secret+" in that namespace, and owned by the ClusterRole "+apiservice.Owner+" (default: register nothing)")
	f = sets.FlagSet("leader election")
	f.BoolVar(&o.leaderElect, "leader-elect", o.leaderElect, "Work only while holding the lease "+lease+". Needed as soon as there are two replicas")
	f.StringVar(&o.leaseNamespace, "leader-elect-namespace", o.leaseNamespace, "Namespace of the cluster that the lease is in")
	f.DurationVar(&o.leaseDuration, "leader-elect-lease-duration", o.leaseDuration, "After how long without a renewal another replica takes over")
	f.DurationVar(&o.renewDeadline, "leader-elect-renew-deadline", o.renewDeadline, "For how long the leader tries to renew the lease before it gives up and ends; less than the lease duration")
	f.DurationVar(&o.retryPeriod, "leader-elect-retry-period", o.retryPeriod, "Time between two attempts to get or renew the lease; less than the renew deadline")
	f = sets.FlagSet("metrics and health")
	f.StringVar(&o.metricsAddress, "metrics-bind-address", o.metricsAddress, "Address that /metrics is served on, 0 for none. On a loopback address by plain HTTP to all; on any other by TLS to those whom the cluster lets get the path, for which this needs the role system:auth-delegator")
	f.StringVar(&o.metricsCertDir, "metrics-cert-dir", o.metricsCertDir, "Directory with tls.crt and tls.key for /metrics, read again when they change (default: a self-signed certificate)")
	f.StringVar(&o.probeAddress, "health-probe-bind-address", o.probeAddress, "Address that /healthz and /readyz are served on, by plain HTTP to all; 0 for none")
	o.garbage.AddFlags(sets.FlagSet("memory"))
	f = sets.FlagSet("logs")
	logsapi.AddFlags(o.logs, f)
	utilruntime.Must(logsapi.AddFeatureGates(o.gates))
	o.gates.AddFlag(f)
	return sets
}

func (o *options) validate() []error {
	errs := o.garbage.Validate()
	if o.concurrentTaskSets < 1 {
		errs = append(errs, fmt.Errorf("--concurrent-tasksets %d: must be 1 or more", o.concurrentTaskSets))
	}
	if !slices.Contains(scheduler.ScoringStrategies(), scheduler.ScoringStrategy(o.schedulingStrategy)) {
		errs = append(errs, fmt.Errorf("--scheduling-strategy %q: must be one of %q", o.schedulingStrategy, scheduler.ScoringStrategies()))
	}
	if o.sweepInterval <= 0 {
		errs = append(errs, fmt.Errorf("--namespace-sweep-interval %s: must be more than 0", o.sweepInterval))
	}
	if o.registerService != "" {
		if _, err := apiservice.ParseService(o.registerService); err != nil {
			errs = append(errs, fmt.Errorf("--register-service %w", err))
		}
	}
	for _, address := range []struct{ flag, value string }{
		{"metrics-bind-address", o.metricsAddress}, {"health-probe-bind-address", o.probeAddress},
	} {
		if _, _, err := net.SplitHostPort(address.value); address.value != "0" && err != nil {
			errs = append(errs, fmt.Errorf("--%s %q: must be host:port, :port, or 0 for none", address.flag, address.value))
		}
	}
	if !o.leaderElect {
		return errs
	}
	if o.leaseNamespace == "" {
		errs = append(errs, errors.New("--leader-elect-namespace: must be set with --leader-elect"))
	}
	if o.retryPeriod <= 0 || o.renewDeadline <= o.retryPeriod*6/5 || o.leaseDuration <= o.renewDeadline {
		errs = append(errs, fmt.Errorf("--leader-elect-lease-duration %s must be more than --leader-elect-renew-deadline %s, "+
			"and that more than 1.2 times --leader-elect-retry-period %s, which must be positive", o.leaseDuration, o.renewDeadline, o.retryPeriod))
	}
	return errs
}

// run runs everything until the context ends or the lease is lost.
func (o *options) run(ctx context.Context) error {
	config, err := o.config()
	if err != nil {
		return fmt.Errorf("no way to reach the cluster: %w: set --kubeconfig", err)
	}
	config.QPS = -1 // the server holds clients back
	config.UserAgent = rest.DefaultKubernetesUserAgent()
	if o.server != "" {
		if err := direct.Route(config, o.server); err != nil {
			return fmt.Errorf("--leat-server %w", err)
		}
	}

	mgr, err := controller.NewManager(config, manager.Options{
		LeaderElection:          o.leaderElect,
		LeaderElectionID:        lease,
		LeaderElectionNamespace: o.leaseNamespace,
		LeaseDuration:           &o.leaseDuration,
		RenewDeadline:           &o.renewDeadline,
		RetryPeriod:             &o.retryPeriod,
		// The process ends when the manager does, so another may lead at once.
		LeaderElectionReleaseOnCancel: true,
		Metrics:                       o.metrics(),
		HealthProbeBindAddress:        o.probeAddress,
	})
	if err != nil {
		return err
	}
	client, err := versioned.NewForConfig(config)
	if err != nil {
		return err
	}
	if err := errors.Join(
		controller.AddToManager(mgr, controller.Options{
			ConcurrentTaskSets: o.concurrentTaskSets, Events: true, NamespaceSweepInterval: o.sweepInterval,
		}),
		controller.AddRunnable(mgr, scheduler.New(client,
			scheduler.WithScoringStrategy(scheduler.ScoringStrategy(o.schedulingStrategy)), scheduler.WithMetrics(metrics.Registry)).Run),
		mgr.AddHealthzCheck("ping", healthz.Ping),
		mgr.AddReadyzCheck("leat-apiserver", reachable(client.Discovery())),
		o.addRegistration(mgr, config),
	); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return mgr.Start(ctx) })
	if o.manageCertificates {
		// Beside the manager, which waits until the API is served: for that the API needs certificates.
		group.Go(func() error { return certificates.Run(ctx, config, systemNamespace) })
	}
	return group.Wait()
}

// addRegistration adds the controller that registers leat-apiserver, if it is asked for.
func (o *options) addRegistration(mgr manager.Manager, config *rest.Config) error {
	if o.registerService == "" {
		return nil
	}
	service, err := apiservice.ParseService(o.registerService)
	if err != nil {
		return fmt.Errorf("--register-service %w", err)
	}
	registration, err := apiservice.New(config, service, o.server)
	if err != nil {
		return err
	}
	return controller.AddRunnable(mgr, registration.Run)
}

// config is that of the file or, without one, that of the pod.
func (o *options) config() (*rest.Config, error) {
	if o.kubeconfig == "" {
		return rest.InClusterConfig()
	}
	return clientcmd.BuildConfigFromFlags("", o.kubeconfig)
}

func (o *options) metrics() metricsserver.Options {
	options := metricsserver.Options{BindAddress: o.metricsAddress, CertDir: o.metricsCertDir}
	host, _, err := net.SplitHostPort(o.metricsAddress)
	if ip := net.ParseIP(host); err == nil && host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		options.SecureServing = true
		options.FilterProvider = filters.WithAuthenticationAndAuthorization
	}
	return options
}

// reachable is healthy while our API is served.
func reachable(client discovery.DiscoveryInterface) healthz.Checker {
	return func(*http.Request) error {
		_, err := client.ServerResourcesForGroupVersion(batch.SchemeGroupVersion.String())
		return err
	}
}
