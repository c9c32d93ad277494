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
	"os"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/kubernetes"
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
	directclient "github.com/leat-dev/leat/pkg/client/direct"
	"github.com/leat-dev/leat/pkg/controller"
	"github.com/leat-dev/leat/pkg/controller/apiservice"
	"github.com/leat-dev/leat/pkg/controller/certificates"
	"github.com/leat-dev/leat/pkg/controller/fence"
	"github.com/leat-dev/leat/pkg/controller/info"
	"github.com/leat-dev/leat/pkg/controller/namespace"
	"github.com/leat-dev/leat/pkg/controller/pools"
	"github.com/leat-dev/leat/pkg/generated/clientset/versioned"
	"github.com/leat-dev/leat/pkg/pool"
	"github.com/leat-dev/leat/pkg/scheduler"
)

const (
	// leaseName is the name of the lease for leader election.
	leaseName = "leat-controller-manager"
)

// options holds the values of the flags.
type options struct {
	kubeconfig, server string

	concurrentTaskSets int
	schedulingStrategy string
	sweepInterval      time.Duration
	poolTarget         time.Duration
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

// newOptions returns the default options.
func newOptions() *options {
	return &options{
		concurrentTaskSets: 8,
		schedulingStrategy: string(scheduler.Spread),
		sweepInterval:      namespace.DefaultInterval,
		poolTarget:         pools.DefaultTarget,
		garbage:            collector.Defaults(200, "128Mi"), // The caches outweigh what a sync allocates.
		leaderElect:        true,
		leaseNamespace:     batch.SystemNamespace,
		leaseDuration:      15 * time.Second,
		renewDeadline:      10 * time.Second,
		retryPeriod:        2 * time.Second,
		metricsAddress:     "127.0.0.1:8080",
		probeAddress:       ":8081",
		logs:               logs.NewOptions(),
		gates:              featuregate.NewFeatureGate(),
	}
}

// flags returns the flags that set the options.
func (o *options) flags() cliflag.NamedFlagSets {
	var sets cliflag.NamedFlagSets
	f := sets.FlagSet("cluster")
	f.StringVar(&o.kubeconfig, "kubeconfig", o.kubeconfig, "Path of the kubeconfig file for the cluster (default: the configuration of the pod)")
	f.StringVar(&o.server, "leat-server", o.server, "Address of leat-apiserver, like https://leat-apiserver.leat-system.svc, to connect to it directly, with the credentials for the cluster and the certificate authority of its APIService (default: connect through the cluster's API server, which then carries all watches)")
	f = sets.FlagSet("controllers")
	f.IntVar(&o.concurrentTaskSets, "concurrent-tasksets", o.concurrentTaskSets, "How many task sets are reconciled at a time. A larger number reacts faster when many task sets are active, and uses more CPU and connections")
	f.StringVar(&o.schedulingStrategy, "scheduling-strategy", o.schedulingStrategy, "How to choose among the workers that have room for a task: spread chooses the least allocated worker; pack chooses the most allocated one, so that other workers become empty. The workers of pools come after all others, the lowest ordinals first")
	f.DurationVar(&o.sweepInterval, "namespace-sweep-interval", o.sweepInterval, "Time between two sweeps, which delete objects of Leat whose namespace does not exist")
	f.DurationVar(&o.poolTarget, "pool-target", o.poolTarget, "How long the remaining tasks of a set should take, once the median of their durations is known: pools get no more workers than that needs")
	f = sets.FlagSet("certificates")
	f.BoolVar(&o.manageCertificates, "manage-certificates", o.manageCertificates, "Issue and renew the certificates in the Secrets leat-apiserver-tls, leat-etcd-tls and leat-worker-client-tls of namespace "+batch.SystemNamespace+", which must exist. Every replica does this")
	f = sets.FlagSet("registration")
	f.StringVar(&o.registerService, "register-service", o.registerService, "Service of leat-apiserver to register with the cluster, as NAMESPACE/NAME:PORT, like "+apiservice.DefaultService.String()+". The leader creates the APIService "+apiservice.Name+" when the server is ready for the first time, and maintains it from then on, with the certificate authorities in ca.crt of the Secret "+apiservice.Secret+" in that namespace, and with the ClusterRole "+apiservice.Owner+" as its owner. The leader also maintains the ConfigMap "+pool.InfoConfigMap+" there, from which pools of workers are created; the environment variables POD_NAMESPACE and POD_NAME must name its pod (default: register nothing)")
	f = sets.FlagSet("leader election")
	f.BoolVar(&o.leaderElect, "leader-elect", o.leaderElect, "Run only while holding the lease "+leaseName+". Required for more than one replica")
	f.StringVar(&o.leaseNamespace, "leader-elect-namespace", o.leaseNamespace, "Namespace of the lease")
	f.DurationVar(&o.leaseDuration, "leader-elect-lease-duration", o.leaseDuration, "How long the lease lasts without a renewal, after which another replica takes over")
	f.DurationVar(&o.renewDeadline, "leader-elect-renew-deadline", o.renewDeadline, "How long the leader tries to renew the lease before it exits; must be less than the lease duration")
	f.DurationVar(&o.retryPeriod, "leader-elect-retry-period", o.retryPeriod, "Time between two attempts to acquire or renew the lease; must be less than the renew deadline")
	f = sets.FlagSet("metrics and health")
	f.StringVar(&o.metricsAddress, "metrics-bind-address", o.metricsAddress, "Address that serves /metrics, or 0 to disable it. A loopback address serves plain HTTP to everyone; any other address serves TLS to users that the cluster authorizes to get the path, for which this process needs the role system:auth-delegator")
	f.StringVar(&o.metricsCertDir, "metrics-cert-dir", o.metricsCertDir, "Directory with tls.crt and tls.key for /metrics, reloaded when they change (default: a self-signed certificate)")
	f.StringVar(&o.probeAddress, "health-probe-bind-address", o.probeAddress, "Address that serves /healthz and /readyz over plain HTTP to everyone, or 0 to disable it")
	o.garbage.AddFlags(sets.FlagSet("memory"))
	f = sets.FlagSet("logs")
	logsapi.AddFlags(o.logs, f)
	utilruntime.Must(logsapi.AddFeatureGates(o.gates))
	o.gates.AddFlag(f)
	return sets
}

// validate returns the errors in the options.
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
	if o.poolTarget < time.Second {
		errs = append(errs, fmt.Errorf("--pool-target %s: must be 1s or more", o.poolTarget))
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

// run runs the manager until ctx is done or the lease is lost.
func (o *options) run(ctx context.Context) error {
	config, err := o.config()
	if err != nil {
		return fmt.Errorf("no configuration for the cluster: %w: set --kubeconfig", err)
	}
	config.QPS = -1 // The server limits clients by priority and fairness.
	config.UserAgent = rest.DefaultKubernetesUserAgent()
	if o.server != "" {
		if err := directclient.Route(config, o.server); err != nil {
			return fmt.Errorf("--leat-server %w", err)
		}
	}
	// Only the leader writes. Events, certificates and the reviews of those who read metrics are no part of that.
	election, guarded := rest.CopyConfig(config), rest.CopyConfig(config)
	if o.leaderElect {
		leadership := fence.New(o.renewDeadline)
		election.Wrap(leadership.Observe)
		guarded.Wrap(leadership.Guard)
	}
	mgr, err := controller.NewManager(config, manager.Options{
		LeaderElectionConfig:    election,
		LeaderElection:          o.leaderElect,
		LeaderElectionID:        leaseName,
		LeaderElectionNamespace: o.leaseNamespace,
		LeaseDuration:           &o.leaseDuration,
		RenewDeadline:           &o.renewDeadline,
		RetryPeriod:             &o.retryPeriod,
		// The process exits with the manager, so another replica may lead at once.
		LeaderElectionReleaseOnCancel: true,
		Metrics:                       o.metrics(),
		HealthProbeBindAddress:        o.probeAddress,
	})
	if err != nil {
		return err
	}
	client, err := versioned.NewForConfig(guarded)
	if err != nil {
		return err
	}
	scheduling := scheduler.New(client,
		scheduler.WithScoringStrategy(scheduler.ScoringStrategy(o.schedulingStrategy)), scheduler.WithMetrics(metrics.Registry))
	if err := errors.Join(
		controller.AddToManager(mgr, controller.Options{
			Config: guarded, ConcurrentTaskSets: o.concurrentTaskSets, Events: true, NamespaceSweepInterval: o.sweepInterval,
			Scheduler: scheduling, PoolTarget: o.poolTarget,
		}),
		controller.AddRunnable(mgr, scheduling.Run),
		mgr.AddHealthzCheck("ping", healthz.Ping),
		mgr.AddReadyzCheck("leat-apiserver", reachable(client.Discovery())),
		o.addRegistration(mgr, guarded),
	); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return mgr.Start(ctx) })
	if o.manageCertificates {
		// The certificates do not depend on the manager: it waits until the API is served, which requires certificates.
		group.Go(func() error { return certificates.Run(ctx, config, batch.SystemNamespace) })
	}
	return group.Wait()
}

// addRegistration adds the controller that registers leat-apiserver and the one that publishes its address for pools of
// workers, if --register-service is set.
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
	cluster, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	publisher := info.New(cluster, service, os.Getenv("POD_NAMESPACE"), os.Getenv("POD_NAME"))
	return errors.Join(controller.AddRunnable(mgr, registration.Run), controller.AddRunnable(mgr, publisher.Run))
}

// config returns the configuration of the kubeconfig file or, without one, that of the pod.
func (o *options) config() (*rest.Config, error) {
	if o.kubeconfig == "" {
		return rest.InClusterConfig()
	}
	return clientcmd.BuildConfigFromFlags("", o.kubeconfig)
}

// metrics returns the options of the metrics server. It serves TLS with authorization except on a loopback address.
func (o *options) metrics() metricsserver.Options {
	options := metricsserver.Options{BindAddress: o.metricsAddress, CertDir: o.metricsCertDir}
	host, _, err := net.SplitHostPort(o.metricsAddress)
	if ip := net.ParseIP(host); err == nil && host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		options.SecureServing = true
		options.FilterProvider = filters.WithAuthenticationAndAuthorization
	}
	return options
}

// reachable returns a check that succeeds while the API of Leat is served.
func reachable(client discovery.DiscoveryInterface) healthz.Checker {
	return func(*http.Request) error {
		_, err := client.ServerResourcesForGroupVersion(batch.SchemeGroupVersion.String())
		return err
	}
}
