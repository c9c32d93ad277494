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
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/connrotation"

	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/faultproxy"
	"github.com/leat-dev/leat/test/kit/host"
)

const (
	leaseDuration = 4 * time.Second
	workerTasks   = 4
	workers       = 3
	// patience bounds the wait for anything that must happen, on a busy machine and after all faults.
	patience = 5 * time.Minute
	poll     = 100 * time.Millisecond
)

// keeper is a test that keeps its files when it fails.
type keeper struct {
	testing.TB
	dir string
}

func newKeeper(t testing.TB, seed uint64) *keeper {
	t.Helper()
	k := &keeper{t, kit.Must(os.MkdirTemp("", fmt.Sprintf("leat-chaos-%d-", seed)))(t)}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("logs: %s", k.dir)
			return
		}
		kit.Check(t, os.RemoveAll(k.dir))
	})
	return k
}

// ArtifactDir returns the directory of the files of all processes.
func (k *keeper) ArtifactDir() string { return k.dir }

// cluster is a highly available installation of Leat, with a proxy in the place of each network connection.
type cluster struct {
	*keeper
	store    *store
	host     *host.ControlPlane
	servers  []*server
	managers []*process
	workers  []*worker
	// service leads to any server. The host's aggregator, the controller managers and the workers use it.
	service *faultproxy.Proxy
	// registers is the namespace of the objects that clients write, and work that of the task sets.
	registers, work string
	dir             string // where commands write their marks

	start time.Time

	mu     sync.Mutex
	wrong  []string
	notes  map[string]int
	faults []string
}

// process is a process that supervise restarts when it ends.
type process struct {
	*host.Process
	name string
	// mu is held while the process is being stopped, frozen or started.
	mu sync.Mutex
	// mayEnd reports whether the process is designed to end with this error. Nil means never.
	mayEnd func(error) bool
}

type server struct {
	*process
	env *kit.Env
	// clients leads clients to this server, and etcd leads the server to each etcd member.
	clients *faultproxy.Proxy
	etcd    []*faultproxy.Proxy
}

type worker struct {
	*process
	proxy *faultproxy.Proxy
}

func newCluster(t testing.TB, seed uint64, members int) *cluster {
	t.Helper()
	k := newKeeper(t, seed)
	s := &cluster{keeper: k, notes: map[string]int{}}
	k.Cleanup(func() {
		if k.Failed() && len(s.faults) > 0 {
			k.Logf("injected faults:\n%s", strings.Join(s.faults, "\n"))
		}
	})
	s.dir = k.dir + "/effects"
	kit.Check(k, os.Mkdir(s.dir, 0o700))
	s.store = startStore(k, k.dir+"/etcd", members)
	s.host = kit.Must(host.Start(k.Context(), host.Options{Dir: k.dir + "/host"}))(k)
	k.Cleanup(func() { kit.Check(k, s.host.Stop()) })

	var e *kit.Env
	for i := range 2 {
		server := &server{}
		var endpoints []string
		for _, m := range s.store.members {
			proxy := faultproxy.New(k, m.address)
			server.etcd = append(server.etcd, proxy)
			endpoints = append(endpoints, "https://"+proxy.Address)
		}
		servers := strings.Join(endpoints, ",")
		if i == 0 {
			e = kit.AggregatedWithEtcd(k, s.host, &host.Etcd{Endpoint: servers, CAFile: s.store.caFile, CertFile: s.store.certFile, KeyFile: s.store.keyFile, CA: s.store.ca},
				// Faults compact etcd. A shutdown is shorter than by default, so that there are more of them.
				"--etcd-compaction-interval=0", "--shutdown-delay-duration=2s", "--shutdown-watch-termination-grace-period=2s", "--audit-log-path=/dev/null")
			server.env = e
		} else {
			server.env = e.Replica(k, "--etcd-servers="+servers)
		}
		server.process = &process{Process: server.env.Server, name: fmt.Sprintf("server %d", i)}
		server.clients = faultproxy.New(k, addressOf(server.env.Direct(k, "nobody")))
		s.servers = append(s.servers, server)
	}
	var addresses []string
	for _, server := range s.servers {
		addresses = append(addresses, addressOf(server.env.Direct(k, "nobody")))
	}
	s.service = faultproxy.New(k, addresses...)
	_, port, err := net.SplitHostPort(s.service.Address)
	kit.Check(k, err)
	var number int
	_, err = fmt.Sscan(port, &number)
	kit.Check(k, err)
	kit.Check(k, s.host.RegisterLeat(k.Context(), number, e.ServingCA.CertPEM()))

	for _, name := range []string{"one", "two"} {
		s.managers = append(s.managers, &process{name: "manager " + name, Process: e.StartManager(k, name, "--leat-server=https://"+s.service.Address,
			"--leader-elect-lease-duration=8s", "--leader-elect-renew-deadline=6s", "--leader-elect-retry-period=1s"),
			mayEnd: func(err error) bool { return strings.Contains(err.Error(), "leader election lost") }})
	}
	s.registers, s.work = namespace(k, e, "Registers"), namespace(k, e, "Work")
	for i := range workers {
		name := string(rune('a' + i))
		proxy := faultproxy.New(k, addresses...)
		s.workers = append(s.workers, &worker{proxy: proxy, process: &process{name: "worker " + name, Process: e.StartWorker(k,
			proxy.Through(e.Worker(k, s.work, name)), s.work, name, []string{"WORKER=" + name, "DIR=" + s.dir},
			fmt.Sprintf("--tasks=%d", workerTasks), "--lease-duration="+leaseDuration.String())}})
	}
	s.start = time.Now()
	return s
}

// namespace creates a namespace whose name has the suffix.
func namespace(k *keeper, e *kit.Env, suffix string) string {
	return e.Namespace(named{k, k.Name() + suffix})
}

type named struct {
	*keeper
	name string
}

func (n named) Name() string { return n.name }

func addressOf(config *rest.Config) string {
	u, err := url.Parse(config.Host)
	if err != nil {
		panic(err) // kit made the URL
	}
	return u.Host
}

// reconnecting returns a config with its own connections and a function that closes them. A client that gets no answer
// calls it to use a new connection.
func reconnecting(config *rest.Config) (*rest.Config, func()) {
	config = rest.CopyConfig(config)
	dialer := connrotation.NewDialer((&net.Dialer{Timeout: 5 * time.Second}).DialContext)
	config.Dial, config.QPS = dialer.DialContext, -1
	return config, dialer.CloseAll
}

// processes returns all processes of Leat and of its store.
func (s *cluster) processes() []*process {
	var all []*process
	for _, server := range s.servers {
		all = append(all, server.process)
	}
	all = append(all, s.managers...)
	for _, worker := range s.workers {
		all = append(all, worker.process)
	}
	for _, member := range s.store.members {
		all = append(all, member.process)
	}
	return all
}

// violated records that a promise was broken.
func (s *cluster) violated(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wrong = append(s.wrong, fmt.Sprintf(format, args...))
}

// logFault logs an injected fault: at once with -v, and otherwise at the end of a failed run.
func (s *cluster) logFault(format string, args ...any) {
	if testing.Verbose() {
		s.Logf(format, args...)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, fmt.Sprintf(format, args...))
}

// noted counts an event that is unusual and breaks no promise.
func (s *cluster) noted(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.notes[what]++
}

func (s *cluster) since() time.Duration { return time.Since(s.start) }

// supervise restarts processes that end, as a kubelet does, until ctx is done. An end that a process is not designed
// for breaks a promise.
func (s *cluster) supervise(ctx context.Context) {
	ticker := time.NewTicker(poll)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		for _, p := range s.processes() {
			if !p.mu.TryLock() {
				continue
			}
			if err := p.Err(); err != nil && ctx.Err() == nil {
				if p.mayEnd != nil && p.mayEnd(err) {
					s.noted(p.name + " ended as designed, and was restarted")
				} else {
					s.violated("%s ended unexpectedly: %v", p.name, err)
				}
				s.restart(p)
			}
			p.mu.Unlock()
		}
	}
}

// restart starts a process until it runs, as a kubelet does: its dependencies may be down.
func (s *cluster) restart(p *process) {
	start, failures := time.Now(), 0
	for time.Since(start) < patience {
		err := p.Restart(s.Context())
		if err == nil || s.Context().Err() != nil {
			return
		}
		s.noted(p.name + " failed to start at first")
		if failures++; failures == 1 {
			s.logFault("%s: %s failed to start at first: %.300s", s.since().Round(time.Second), p.name, err)
		}
	}
	s.violated("%s did not start within %s", p.name, patience)
}
