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
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/component-base/version"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/controller"
	"github.com/leat-dev/leat/pkg/generated/clientset/versioned"
	"github.com/leat-dev/leat/pkg/scheduler"
	"github.com/leat-dev/leat/pkg/standalone/etcd"
	"github.com/leat-dev/leat/pkg/standalone/pki"
	"github.com/leat-dev/leat/pkg/worker"
	"github.com/leat-dev/leat/pkg/worker/logs"
	"github.com/leat-dev/leat/pkg/worker/logserver"
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
	// TasksPerWorker is how many tasks each worker runs at a time.
	TasksPerWorker int
	// Namespace is where the workers are.
	Namespace string
	// MetricsAddress is where the metrics of controllers, scheduler and workers are served, by plain HTTP, to all who reach it;
	// "0" for nowhere.
	MetricsAddress string
}

// HasStarted tells whether the data directory has been used before.
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
	if err := writeKubeconfig(options.Kubeconfig, admin); err != nil {
		return err
	}

	parts, ctx := errgroup.WithContext(ctx)
	parts.Go(func() error {
		select {
		case err := <-serverEnded:
			serverEnded <- nil
			return fmt.Errorf("the API server ended: %w", err)
		case <-ctx.Done():
			return nil
		}
	})
	if options.APIOnly {
		ready(admin)
		return parts.Wait()
	}
	controllers, err := newControllers(clients, options.MetricsAddress)
	if err != nil {
		return err
	}
	parts.Go(func() error { return controllers.Start(ctx) })
	suffix, err := instanceSuffix(options.DataDir)
	if err != nil {
		return err
	}
	for i := range options.Workers {
		name := fmt.Sprintf("local-%d-%s", i, suffix)
		client, err := clients.clientset(workerUser(options.Namespace, name), workersGroup)
		if err != nil {
			return err
		}
		store, logServer, err := serveLogs(options, name)
		if err != nil {
			return err
		}
		defer store.Close()
		defer logServer.Close()
		agent := worker.New(client, worker.Options{
			Namespace: options.Namespace,
			Name:      name,
			StateDir:  filepath.Join(options.DataDir, "tasks"),
			Logs:      store,
			Endpoint:  logServer.Endpoint(),
			// That of the controllers: one page tells of all.
			Registerer: metrics.Registry,
			Version:    version.Get().GitVersion,
			Capacity: v1alpha1.ResourceList{
				v1alpha1.ResourceTasks: *resource.NewQuantity(int64(options.TasksPerWorker), resource.DecimalSI),
			},
		})
		parts.Go(func() error { return agent.Run(ctx) })
	}
	ready(admin)
	return parts.Wait()
}

// serveLogs keeps what the worker of that name has its commands print, and serves it to the API server.
func serveLogs(options Options, name string) (*logs.Store, *logserver.Server, error) {
	store, err := logs.Open(logs.Options{
		Dir:          filepath.Join(options.DataDir, "logs", options.Namespace, name),
		MaxSize:      logs.DefaultMaxSize,
		MaxTotalSize: logs.DefaultMaxTotalSize,
		Retention:    logs.DefaultRetention,
	})
	if err != nil {
		return nil, nil, err
	}
	server, err := logserver.Start(logserver.Options{
		Host:         loopback,
		ClientCAFile: filepath.Join(options.DataDir, "pki", "ca.crt"),
		Namespace:    options.Namespace,
		Logs:         store,
	})
	return store, server, err
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

// instanceSuffix gives five characters that make the names of these workers unlike those of any other machine, the same at each
// start, so that a worker takes up what it was.
func instanceSuffix(dataDir string) (string, error) {
	file := filepath.Join(dataDir, "instance")
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
