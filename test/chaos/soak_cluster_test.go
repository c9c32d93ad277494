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

package chaos

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/connrotation"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/generated/clientset/versioned"
	"github.com/leat-dev/leat/pkg/standalone/pki"
	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/host"
	"github.com/leat-dev/leat/test/kit/measure"
)

const (
	realWorkers = 2
	realTasks   = 4
)

// measuredProcess is a process whose growth TestSoak judges.
type measuredProcess struct {
	*host.Process
	name string
	// metrics is the URL of its metrics for client.
	metrics string
	client  *http.Client
	// collect makes it collect its garbage. If it is nil, reading metrics allocates until it does.
	collect func(context.Context) error
	// graceful makes restart stop it with SIGTERM instead of killing it.
	graceful bool
}

// soakCluster is Leat as config/ installs it, with two servers behind one Service.
type soakCluster struct {
	*testing.T
	env       *kit.Env
	service   *measure.Service
	etcd      *clientv3.Client
	namespace string

	servers, workers []*measuredProcess
	manager          *measuredProcess
	// dialer opens the connections of the clients of the test, which idle closes.
	dialer *connrotation.Dialer
}

func newSoakCluster(t *testing.T) *soakCluster {
	t.Helper()
	s := &soakCluster{T: t, dialer: connrotation.NewDialer((&net.Dialer{Timeout: 10 * time.Second}).DialContext)}
	dir := t.ArtifactDir()
	ca := kit.Must(pki.NewCA("leat-worker-clients"))(t)
	cert, key, err := ca.IssueClient(batch.WorkerClientName)
	kit.Check(t, err)
	caFile, certFile, keyFile := filepath.Join(dir, "workers.crt"), filepath.Join(dir, "worker-client.crt"), filepath.Join(dir, "worker-client.key")
	for file, content := range map[string][]byte{caFile: ca.CertPEM(), certFile: cert, keyFile: key} {
		kit.Check(t, pki.WriteFile(file, content))
	}
	// empty compacts etcd. A shutdown is shorter than by default, so that there are more of them.
	// The oracles keep every object forever.
	cp := kit.Must(host.Start(t.Context(), host.Options{Dir: dir, WithoutOracles: true}))(t)
	t.Cleanup(func() { kit.Check(t, cp.Stop()) })
	s.env = kit.AggregatedOn(t, cp, "--worker-client-certificate="+certFile, "--worker-client-key="+keyFile, "--worker-address-ranges=127.0.0.0/8",
		"--audit-log-path=/dev/null", "--etcd-compaction-interval=0", "--shutdown-delay-duration=2s", "--shutdown-watch-termination-grace-period=2s")
	replicas := []*kit.Env{s.env, s.env.Replica(t)}
	s.service = kit.Must(measure.NewService(addressOf(replicas[0].Direct(t, "nobody")), addressOf(replicas[1].Direct(t, "nobody"))))(t)
	t.Cleanup(func() { kit.Check(t, s.service.Close()) })
	kit.Check(t, s.env.Host.RegisterLeat(t.Context(), s.service.Port, s.env.ServingCA.CertPEM()))
	admin := kit.Must(clientcmd.BuildConfigFromFlags("", s.env.Host.AdminKubeconfig))(t)
	kit.Check(t, measure.AllowObserver(t.Context(), kit.Must(kubernetes.NewForConfig(admin))(t)))
	s.etcd, s.namespace = s.env.EtcdClient(t), s.env.Namespace(t)

	for i, replica := range replicas {
		config := replica.Direct(t, measure.Observer)
		client := kit.Must(rest.HTTPClientFor(config))(t)
		s.servers = append(s.servers, &measuredProcess{
			Process: replica.Server, name: fmt.Sprintf("leat-apiserver %d", i), graceful: true, metrics: config.Host + "/metrics", client: client,
			collect: func(ctx context.Context) error {
				return measure.WriteHeapProfile(ctx, client, config.Host, filepath.Join(dir, fmt.Sprintf("heap-%d.pprof", i)))
			},
		})
	}
	address := loopback(t)
	s.manager = &measuredProcess{
		name: "leat-controller-manager", graceful: true, metrics: "http://" + address + "/metrics", client: http.DefaultClient,
		Process: s.env.StartManager(t, "one", "--leat-server=https://"+s.service.Address, "--metrics-bind-address="+address,
			"--leader-elect-lease-duration=8s", "--leader-elect-renew-deadline=6s", "--leader-elect-retry-period=1s",
			// A low limit makes it collect its garbage after few reads of its metrics.
			"--gc-heap-floor=0"),
	}
	for i := range realWorkers {
		name, address := fmt.Sprintf("real-%d", i), loopback(t)
		s.workers = append(s.workers, &measuredProcess{
			name: "leat-worker " + name, metrics: "http://" + address + "/metrics", client: http.DefaultClient,
			Process: s.env.StartWorker(t, s.through(s.env.Worker(t, s.namespace, name)), s.namespace, name, nil,
				"--client-ca-file="+caFile, "--metrics-bind-address="+address, "--state-dir="+filepath.Join(dir, name), "--labels=soak=real",
				fmt.Sprintf("--tasks=%d", realTasks), "--lease-duration=8s",
				// The kept logs must reach their limit before the first idle point.
				"--log-max-size-per-task=16Ki", "--log-max-total-size=64Ki"),
		})
	}
	return s
}

// loopback returns a free loopback address.
func loopback(t *testing.T) string {
	t.Helper()
	return fmt.Sprintf("127.0.0.1:%d", kit.Must(host.FreePort())(t))
}

// through returns a config that connects to the Service.
func (s *soakCluster) through(config *rest.Config) *rest.Config {
	config = rest.CopyConfig(config)
	config.Host = "https://" + s.service.Address
	return config
}

// client returns a client whose connections idle closes.
func (s *soakCluster) client(config *rest.Config) versioned.Interface {
	s.Helper()
	return kit.Client(s.T, s.own(config))
}

// own returns a config whose connections idle closes.
func (s *soakCluster) own(config *rest.Config) *rest.Config {
	config = rest.CopyConfig(config)
	config.Dial, config.QPS = s.dialer.DialContext, -1
	return config
}

func (s *soakCluster) processes() []*measuredProcess {
	return append(append(append([]*measuredProcess{}, s.servers...), s.manager), s.workers...)
}

// restart stops or kills a process, and starts it again.
func (s *soakCluster) restart(p *measuredProcess) {
	s.Helper()
	if p.graceful {
		kit.Check(s, p.Stop())
	}
	kit.Check(s, p.Restart(s.Context()))
}
