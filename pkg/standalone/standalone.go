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

// Package standalone runs all of Leat in one process, for a machine without a cluster: etcd, the API server, the
// controllers, the scheduler and workers. They are the same components as in a cluster and communicate over TLS, each
// with its own identity and the permissions of config/.
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
	"github.com/leat-dev/leat/pkg/worker/spool"
)

// startTimeout limits the time until the API server is ready.
const startTimeout = time.Minute

// concurrentTaskSets is the number of task sets that are reconciled concurrently.
const concurrentTaskSets = 4

// Options configure Run.
type Options struct {
	// DataDir holds all state. It is created if it does not exist. Only one process at a time can use it.
	DataDir string
	// Address is the host:port on which the API server listens. Port 0 selects a free port.
	Address string
	// Kubeconfig is the file to which a context for the administrator is added.
	Kubeconfig string
	// AdmissionConfig is a file with the configuration of admission plugins, which may refer to manifests of webhooks
	// and policies. Empty for none.
	AdmissionConfig string
	// APIOnly disables controllers, scheduler and workers.
	APIOnly bool
	// Workers is the number of workers.
	Workers int
	// WorkerCapacity is the capacity of each worker, including the number of concurrent tasks.
	WorkerCapacity v1alpha1.ResourceList
	// WorkerLabels are the labels of each worker.
	WorkerLabels map[string]string
	// Namespace is the namespace of the workers.
	Namespace string
	// MetricsAddress is the address on which the metrics of controllers, scheduler and workers are served by plain HTTP
	// without authentication. "0" disables them.
	MetricsAddress string
}

// HasStarted reports whether the data directory has been used before.
func HasStarted(options Options) bool {
	_, err := os.Stat(etcdDir(options))
	return err == nil
}

func etcdDir(options Options) string { return filepath.Join(options.DataDir, "etcd") }

// archiveDir is where the output and the records of finished attempts are kept.
func archiveDir(options Options) string { return filepath.Join(options.DataDir, "archive") }

// Run runs all components until the context ends or one of them fails. Then it stops them in order: workers first, etcd
// last. ready is called with the client configuration of the administrator when clients can create tasks.
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

	// The server's context ends after its clients have ended.
	serverContext, stopServer := context.WithCancel(context.WithoutCancel(ctx))
	defer stopServer()
	serverEnded := make(chan error, 1)
	go func() { serverEnded <- server.Run(serverContext) }()
	clientFactory := &clientFactory{authority: authority, host: "https://" + listener.Addr().String()}
	err = runParts(ctx, options, clientFactory, serverEnded, ready)
	stopServer()
	return errors.Join(err, <-serverEnded)
}

// runParts runs the clients of the server until the context or the server ends.
func runParts(ctx context.Context, options Options, clientFactory *clientFactory, serverEnded chan error, ready func(*rest.Config)) error {
	admin, err := clientFactory.config(adminUser, adminGroup)
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
		var releases []func()
		if !options.APIOnly {
			var err error
			if releases, err = startParts(ctx, options, clientFactory, parts); err != nil {
				return releases, err
			}
		}
		ready(admin)
		return releases, nil
	})
}

// runGroup runs the goroutines that start adds to the group. Their context ends when ctx ends, when one of them fails,
// or when start returns an error. runGroup waits for all of them, calls the functions that start returned in reverse
// order, and returns the first error.
func runGroup(ctx context.Context, start func(context.Context, *errgroup.Group) ([]func(), error)) error {
	parts, ctx := errgroup.WithContext(ctx)
	releases, err := start(ctx, parts)
	if err != nil {
		parts.Go(func() error { return err })
	}
	err = parts.Wait()
	for _, release := range slices.Backward(releases) {
		release()
	}
	return err
}

// startParts starts the controllers, the scheduler and the workers. It returns functions that release the resources of
// the workers. The caller must call them after the workers have ended, also after an error.
func startParts(ctx context.Context, options Options, clientFactory *clientFactory, parts *errgroup.Group) ([]func(), error) {
	controllers, err := newControllers(clientFactory, options.MetricsAddress)
	if err != nil {
		return nil, err
	}
	parts.Go(func() error { return controllers.Start(ctx) })
	suffix, err := instanceSuffix(options.DataDir)
	if err != nil {
		return nil, err
	}
	var releases []func()
	workerHost := sandbox.NewHost()
	for i := range options.Workers {
		name := fmt.Sprintf("local-%d-%s", i, suffix)
		client, err := clientFactory.clientset(v1alpha1.WorkerUser(options.Namespace, name), v1alpha1.WorkersGroup)
		if err != nil {
			return releases, err
		}
		store, err := openLogs(options, name)
		if err != nil {
			return releases, err
		}
		releases = append(releases, store.Close)
		archive, err := openSpool(options, name, client)
		if err != nil {
			return releases, err
		}
		releases = append(releases, archive.Close)
		logServer, err := serveLogs(options, store, archive)
		if err != nil {
			return releases, err
		}
		releases = append(releases, logServer.Close)
		worker := agent.New(client, workerHost, agent.Options{
			Namespace: options.Namespace,
			Name:      name,
			Labels:    options.WorkerLabels,
			StateDir:  filepath.Join(options.DataDir, "tasks"),
			Logs:      store,
			Endpoint:  logServer.Endpoint(),
			Archive:   archive,
			// Share the registry of the controllers, so that one endpoint serves all metrics.
			Registerer: metrics.Registry,
			Version:    version.Get().GitVersion,
			Capacity:   options.WorkerCapacity,
			Prefetch:   agent.DefaultPrefetch,
		})
		parts.Go(func() error { return worker.Run(ctx) })
	}
	return releases, nil
}

// openLogs opens the store for the output of a worker's commands.
func openLogs(options Options, name string) (*logs.Store, error) {
	return logs.Open(logs.Options{
		Dir:          filepath.Join(options.DataDir, "logs", options.Namespace, name),
		MaxSize:      logs.DefaultMaxSize,
		MaxTotalSize: logs.DefaultMaxTotalSize,
		Retention:    logs.DefaultRetention,
	})
}

// openSpool opens the spool for what a worker sends to the archive.
func openSpool(options Options, name string, client versioned.Interface) (*spool.Spool, error) {
	return spool.Open(spool.Options{
		Dir:                filepath.Join(options.DataDir, "spool", options.Namespace, name),
		MaxBytesPerAttempt: spool.DefaultMaxBytesPerAttempt,
		MaxSize:            spool.DefaultMaxSize,
		Retention:          logs.DefaultRetention,
		Worker:             name,
		Archiver:           client.BatchV1alpha1().Workers(options.Namespace),
		Metrics:            spool.NewMetrics(metrics.Registry),
	})
}

// serveLogs starts the server from which the API server reads the output of a worker's commands.
func serveLogs(options Options, store *logs.Store, archive *spool.Spool) (*logserver.Server, error) {
	return logserver.Start(logserver.Options{
		Host:         loopback,
		ClientCAFile: filepath.Join(options.DataDir, "pki", "ca.crt"),
		Namespace:    options.Namespace,
		Logs:         store,
		Archive:      archive,
	})
}

// newControllers returns a manager with the controllers and the scheduler. Unlike leat-controller-manager it elects no
// leader, records no Events, and collects garbage, because there is no host to do so.
func newControllers(clientFactory *clientFactory, metricsAddress string) (manager.Manager, error) {
	config, err := clientFactory.config(v1alpha1.ControllerUser)
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

// waitReady waits until the server is ready. It returns an error if the server ends or startTimeout is over.
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

// instanceSuffix returns five random characters that distinguish these workers from those of other machines. They are
// stored in dataDir, so that workers have the same names after a restart.
func instanceSuffix(dataDir string) (string, error) {
	file := localserver.InstanceFile(dataDir)
	content, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		content = []byte(strings.ToLower(rand.Text()[:5]))
		err = pki.WriteFile(file, content)
	}
	return string(content), err
}

// clientFactory creates clients of the server with different identities.
type clientFactory struct {
	authority *pki.CA
	host      string
}

func (c *clientFactory) config(user string, groups ...string) (*rest.Config, error) {
	cert, key, err := c.authority.IssueClient(user, groups...)
	if err != nil {
		return nil, err
	}
	return &rest.Config{
		Host:            c.host,
		TLSClientConfig: rest.TLSClientConfig{CAData: c.authority.CertPEM(), CertData: cert, KeyData: key},
		UserAgent:       "leat/" + user,
		QPS:             -1, // API priority and fairness limits clients
	}, nil
}

func (c *clientFactory) clientset(user string, groups ...string) (versioned.Interface, error) {
	config, err := c.config(user, groups...)
	if err != nil {
		return nil, err
	}
	return versioned.NewForConfig(config)
}
