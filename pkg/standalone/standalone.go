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

// Package standalone runs all of Leat in one process, for a machine without a cluster: etcd, the API server, the controllers, the
// scheduler and workers. The parts are those of a cluster and speak to each other as there, over TLS, each with an identity of its own and
// the rights that config/ ships.
package standalone

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/component-base/version"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/cli/localserver"
	"github.com/leat-dev/leat/pkg/controller"
	"github.com/leat-dev/leat/pkg/generated/clientset/versioned"
	"github.com/leat-dev/leat/pkg/scheduler"
	"github.com/leat-dev/leat/pkg/standalone/etcd"
	"github.com/leat-dev/leat/pkg/standalone/pki"
	"github.com/leat-dev/leat/pkg/worker/agent"
	"github.com/leat-dev/leat/pkg/worker/logs"
	"github.com/leat-dev/leat/pkg/worker/logserver"
	"github.com/leat-dev/leat/pkg/worker/sandbox"
)

// startTimeout bounds the time from the start of the API server until it is ready.
const startTimeout = time.Minute

// concurrentTaskSets is how many task sets are worked on at a time.
const concurrentTaskSets = 4

// Options say where and how large.
type Options struct {
	// DataDir holds all state. It is made if it does not exist; one process at a time can use it.
	DataDir string
	// Address is what the API server listens on, as host:port; port 0 is any free one.
	Address string
	// Kubeconfig is the file that the administrator's access is written to, added to what it holds.
	Kubeconfig string
	// AdmissionConfig is a file with the configuration of admission plugins, which may name manifests of webhooks and
	// policies. Empty for none.
	AdmissionConfig string
	// APIOnly leaves out controllers, scheduler and workers.
	APIOnly bool
	// Workers is how many workers run here.
	Workers int
	// WorkerCapacity is what tasks can ask of each worker, how many it runs at a time among it.
	WorkerCapacity v1alpha1.ResourceList
	// WorkerLabels are labels of each worker, for tasks to select it by.
	WorkerLabels map[string]string
	// Namespace is where the workers are.
	Namespace string
	// MetricsAddress is where the metrics of controllers, scheduler and workers are served, by plain HTTP, to all who reach it;
	// "0" for nowhere.
	MetricsAddress string
}

// HasStarted reports whether the data directory has been used before.
func HasStarted(options Options) bool {
	_, err := os.Stat(etcdDir(options))
	return err == nil
}

func etcdDir(options Options) string { return filepath.Join(options.DataDir, "etcd") }

// Run runs everything until the context ends or a part fails, then stops it in order: workers first, etcd last. Ready is called
// once tasks can be sent, with the configuration of an administrator's client.
func Run(ctx context.Context, options Options, ready func(*rest.Config)) error {
	authority, err := loadAuthority(filepath.Join(options.DataDir, "pki"))
	if err != nil {
		return err
	}
	store, err := etcd.Start(ctx, etcd.Config{DataDir: etcdDir(options)})
	if err != nil {
		return err
	}
	defer store.Close()

	listener, err := net.Listen("tcp", options.Address)
	if err != nil {
		return fmt.Errorf("listening for clients: %w: choose another --secure-port", err)
	}
	defer listener.Close()
	server, err := newServer(options, authority, store.Transport(), listener)
	if err != nil {
		return err
	}

	// Each part has a context that ends only after those that need it have ended.
	serverContext, stopServer := context.WithCancel(context.WithoutCancel(ctx))
	defer stopServer()
	serverEnded := make(chan error, 1)
	go func() { serverEnded <- server.Run(serverContext) }()
	clients := &clients{authority: authority, host: "https://" + listener.Addr().String()}
	err = runParts(ctx, options, clients, serverEnded, ready)
	stopServer()
	return errors.Join(err, <-serverEnded)
}

// runParts runs the clients of the server until the context ends, or the server does.
func runParts(ctx context.Context, options Options, clients *clients, serverEnded chan error, ready func(*rest.Config)) error {
	admin, err := clients.config(adminUser, adminGroup)
	if err != nil {
		return err
	}
	if err := waitReady(ctx, admin, serverEnded); err != nil {
		return err
	}
	if err := writeKubeconfig(options, admin); err != nil {
		return err
	}

	return runGroup(ctx, func(ctx context.Context, parts *errgroup.Group) ([]func(), error) {
		parts.Go(func() error {
			select {
			case err := <-serverEnded:
				serverEnded <- nil
				return fmt.Errorf("the API server ended: %w", err)
			case <-ctx.Done():
				return nil
			}
		})
		var used []func()
		if !options.APIOnly {
			var err error
			if used, err = startParts(ctx, options, clients, parts); err != nil {
				return used, err
			}
		}
		ready(admin)
		return used, nil
	})
}

// runGroup starts parts and runs them until the context ends, one of them fails, or not all can be started. It returns once all that
// have been started have ended, and what they use, by the functions that start returns, is released.
func runGroup(ctx context.Context, start func(context.Context, *errgroup.Group) ([]func(), error)) error {
	parts, ctx := errgroup.WithContext(ctx)
	used, err := start(ctx, parts)
	if err != nil {
		parts.Go(func() error { return err })
	}
	err = parts.Wait()
	for _, release := range slices.Backward(used) {
		release()
	}
	return err
}

// startParts starts the controllers, the scheduler and the workers. It returns functions that release what the workers use, for when
// they have ended, also where not all can be started.
func startParts(ctx context.Context, options Options, clients *clients, parts *errgroup.Group) ([]func(), error) {
	controllers, err := newControllers(clients, options.MetricsAddress)
	if err != nil {
		return nil, err
	}
	parts.Go(func() error { return controllers.Start(ctx) })
	suffix, err := instanceSuffix(options.DataDir)
	if err != nil {
		return nil, err
	}
	var used []func()
	workerHost := sandbox.NewHost()
	for i := range options.Workers {
		name := fmt.Sprintf("local-%d-%s", i, suffix)
		client, err := clients.clientset(workerUser(options.Namespace, name), workersGroup)
		if err != nil {
			return used, err
		}
		store, err := openLogs(options, name)
		if err != nil {
			return used, err
		}
		used = append(used, store.Close)
		logServer, err := serveLogs(options, store)
		if err != nil {
			return used, err
		}
		used = append(used, logServer.Close)
		worker := agent.New(client, workerHost, agent.Options{
			Namespace: options.Namespace,
			Name:      name,
			Labels:    options.WorkerLabels,
			StateDir:  filepath.Join(options.DataDir, "tasks"),
			Logs:      store,
			Endpoint:  logServer.Endpoint(),
			// That of the controllers: one page has the metrics of all.
			Registerer: metrics.Registry,
			Version:    version.Get().GitVersion,
			Capacity:   options.WorkerCapacity,
		})
		parts.Go(func() error { return worker.Run(ctx) })
	}
	return used, nil
}

// openLogs opens where the output of the commands of a worker is kept.
func openLogs(options Options, name string) (*logs.Store, error) {
	return logs.Open(logs.Options{
		Dir:          filepath.Join(options.DataDir, "logs", options.Namespace, name),
		MaxSize:      logs.DefaultMaxSize,
		MaxTotalSize: logs.DefaultMaxTotalSize,
		Retention:    logs.DefaultRetention,
	})
}

// serveLogs serves the output of the commands of a worker to the API server.
func serveLogs(options Options, store *logs.Store) (*logserver.Server, error) {
	return logserver.Start(logserver.Options{
		Host:         loopback,
		ClientCAFile: filepath.Join(options.DataDir, "pki", "ca.crt"),
		Namespace:    options.Namespace,
		Logs:         store,
	})
}

// newControllers makes the parts of a cluster's controller manager. There is nobody to elect or to read Events, and no garbage
// collector.
func newControllers(clients *clients, metricsAddress string) (manager.Manager, error) {
	config, err := clients.config(controllerUser)
	if err != nil {
		return nil, err
	}
	client, err := versioned.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	mgr, err := controller.NewManager(config, manager.Options{Metrics: metricsserver.Options{BindAddress: metricsAddress}})
	if err != nil {
		return nil, err
	}
	return mgr, errors.Join(
		controller.AddToManager(mgr, controller.Options{ConcurrentTaskSets: concurrentTaskSets, CollectGarbage: true}),
		controller.AddRunnable(mgr, scheduler.New(client, scheduler.WithMetrics(metrics.Registry)).Run),
	)
}

// waitReady returns once the server says it is ready.
func waitReady(ctx context.Context, admin *rest.Config, serverEnded chan error) error {
	client, err := kubernetes.NewForConfig(admin)
	if err != nil {
		return err
	}
	var answer string
	err = wait.PollUntilContextTimeout(ctx, 20*time.Millisecond, startTimeout, true, func(ctx context.Context) (bool, error) {
		select {
		case err := <-serverEnded:
			serverEnded <- nil
			return false, fmt.Errorf("the API server ended: %w", err)
		default:
		}
		body, err := client.Discovery().RESTClient().Get().AbsPath("/readyz").Param("verbose", "").DoRaw(ctx)
		if err != nil {
			answer = fmt.Sprintf("%v\n%s", err, body)
		}
		return err == nil, nil
	})
	if wait.Interrupted(err) && ctx.Err() == nil {
		return fmt.Errorf("the API server was not ready after %s: %s", startTimeout, answer)
	}
	return err
}

// instanceSuffix returns five characters that make the names of these workers unlike those of any other machine, the same at each
// start, so that a worker takes up what it was.
func instanceSuffix(dataDir string) (string, error) {
	file := localserver.InstanceFile(dataDir)
	content, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		content = []byte(strings.ToLower(rand.Text()[:5]))
		err = pki.WriteFile(file, content)
	}
	return string(content), err
}

// clients makes clients of the server, each with an identity of its own.
type clients struct {
	authority *pki.CA
	host      string
}

func (c *clients) config(user string, groups ...string) (*rest.Config, error) {
	cert, key, err := c.authority.IssueClient(user, groups...)
	if err != nil {
		return nil, err
	}
	return &rest.Config{
		Host:            c.host,
		TLSClientConfig: rest.TLSClientConfig{CAData: c.authority.CertPEM(), CertData: cert, KeyData: key},
		UserAgent:       "leat/" + user,
		QPS:             -1, // priority and fairness hold clients back
	}, nil
}

func (c *clients) clientset(user string, groups ...string) (versioned.Interface, error) {
	config, err := c.config(user, groups...)
	if err != nil {
		return nil, err
	}
	return versioned.NewForConfig(config)
}
