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
	"github.com/leat-dev/leat/test/kit/host"
)

const (
	leaseDuration = 4 * time.Second
	workerTasks   = 4
	workers       = 3
	// patience is how long anything may take that must happen, on a busy machine and after all faults.
	patience = 5 * time.Minute
	poll     = 100 * time.Millisecond
)

// keeper is a test whose files are kept if it fails.
type keeper struct {
	testing.TB
	dir string
}

func newKeeper(t testing.TB, seed uint64) *keeper {
	t.Helper()
	k := &keeper{t, kit.Must(os.MkdirTemp("", fmt.Sprintf("leat-chaos-%d-", seed)))(t)}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("The logs are in %s", k.dir)
			return
		}
		kit.Check(t, os.RemoveAll(k.dir))
	})
	return k
}

// ArtifactDir is where all processes have their files.
func (k *keeper) ArtifactDir() string { return k.dir }

// cluster is all of Leat as it is installed to survive, with a link at each place where a network is.
type cluster struct {
	*keeper
	store    *store
	host     *host.ControlPlane
	servers  []*server
	managers []*process
	workers  []*worker
	// service leads to any server: it is what the host's aggregator and the controller managers know.
	service *link
	// registers is the namespace of objects that clients write, work that of task sets.
	registers, work string
	dir             string // of what commands write

	begun time.Time

	mu    sync.Mutex
	wrong []string
	notes map[string]int
	diary []string
}

// process is one that is started again when it ends.
type process struct {
	*host.Process
	name string
	// mu is held by whoever is about to end, freeze or start it.
	mu sync.Mutex
	// mayEnd tells whether an end that nobody asked for is one that it is designed for.
	mayEnd func(error) bool
}

type server struct {
	*process
	env *kit.Env
	// clients leads clients to this server; etcd leads it to the members.
	clients *link
	etcd    []*link
}

type worker struct {
	*process
	link *link
}

func newCluster(t testing.TB, seed uint64, members int) *cluster {
	t.Helper()
	k := newKeeper(t, seed)
	s := &cluster{keeper: k, notes: map[string]int{}}
	k.Cleanup(func() {
		if k.Failed() && len(s.diary) > 0 {
			k.Logf("What went wrong on purpose:\n%s", strings.Join(s.diary, "\n"))
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
			l := newLink(k, m.address)
			server.etcd = append(server.etcd, l)
			endpoints = append(endpoints, "https://"+l.address)
		}
		servers := strings.Join(endpoints, ",")
		if i == 0 {
			e = kit.Over(k, s.host, &host.Etcd{Endpoint: servers, CAFile: s.store.caFile, CertFile: s.store.certFile, KeyFile: s.store.keyFile, CA: s.store.ca},
				// What is compacted, and when, is up to the faults. Shutdown takes less time than shipped, to have it more often.
				"--etcd-compaction-interval=0", "--shutdown-delay-duration=2s", "--shutdown-watch-termination-grace-period=2s", "--audit-log-path=/dev/null")
			server.env = e
		} else {
			server.env = e.Replica(k, "--etcd-servers="+servers)
		}
		server.process = &process{Process: server.env.Server, name: fmt.Sprintf("server %d", i)}
		server.clients = newLink(k, addressOf(server.env.Direct(k, "nobody")))
		s.servers = append(s.servers, server)
	}
	s.service = newLink(k, addressOf(s.servers[0].env.Direct(k, "nobody")), addressOf(s.servers[1].env.Direct(k, "nobody")))
	_, port, err := net.SplitHostPort(s.service.address)
	kit.Check(k, err)
	var number int
	_, err = fmt.Sscan(port, &number)
	kit.Check(k, err)
	kit.Check(k, s.host.RegisterLeat(k.Context(), number, e.ServingCA.CertPEM()))

	for _, name := range []string{"one", "two"} {
		s.managers = append(s.managers, &process{name: "manager " + name, Process: e.StartManager(k, name, "--leat-server=https://"+s.service.address,
			"--leader-elect-lease-duration=8s", "--leader-elect-renew-deadline=6s", "--leader-elect-retry-period=1s"),
			mayEnd: func(err error) bool { return strings.Contains(err.Error(), "leader election lost") }})
	}
	s.registers, s.work = namespace(k, e, "Registers"), namespace(k, e, "Work")
	for i := range workers {
		name := string(rune('a' + i))
		l := newLink(k, s.service.targets...)
		s.workers = append(s.workers, &worker{link: l, process: &process{name: "worker " + name, Process: e.StartWorker(k,
			through(e.Worker(k, s.work, name), l), s.work, name, []string{"WORKER=" + name, "DIR=" + s.dir},
			fmt.Sprintf("--tasks=%d", workerTasks), "--lease-duration="+leaseDuration.String())}})
	}
	s.begun = time.Now()
	return s
}

// namespace gives one with a name of its own.
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
		panic(err) // it is of this program
	}
	return u.Host
}

// through gives the config that leads over a link.
func through(config *rest.Config, l *link) *rest.Config {
	config = rest.CopyConfig(config)
	config.Host = "https://" + l.address
	return config
}

// reconnecting gives the config of a client that has its own connections, and what closes them: a client that gets no answer tries
// another connection, as people do.
func reconnecting(config *rest.Config) (*rest.Config, func()) {
	config = rest.CopyConfig(config)
	dialer := connrotation.NewDialer((&net.Dialer{Timeout: 5 * time.Second}).DialContext)
	config.Dial, config.QPS = dialer.DialContext, -1
	return config, dialer.CloseAll
}

// processes are all of Leat's, and those of its store.
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

// violated notes that a promise was broken.
func (s *cluster) violated(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wrong = append(s.wrong, fmt.Sprintf(format, args...))
}

// tell writes a line of the diary: at once to whoever follows the run, or else after what the run found, if that is wrong.
func (s *cluster) tell(format string, args ...any) {
	if testing.Verbose() {
		s.Logf(format, args...)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.diary = append(s.diary, fmt.Sprintf(format, args...))
}

// noted counts something that may happen.
func (s *cluster) noted(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.notes[what]++
}

func (s *cluster) since() time.Duration { return time.Since(s.begun) }

// supervise starts processes again that end, as a cluster does, until ctx is done. An end that is not designed breaks a promise.
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
					s.noted(p.name + " ended as it is designed to, and was started again")
				} else {
					s.violated("%s ended by itself: %v", p.name, err)
				}
				s.restart(p)
			}
			p.mu.Unlock()
		}
	}
}

// restart starts a process that has ended until it runs, as a cluster does: what it needs may be away.
func (s *cluster) restart(p *process) {
	begun, failures := time.Now(), 0
	for time.Since(begun) < patience {
		err := p.Restart(s.Context())
		if err == nil || s.Context().Err() != nil {
			return
		}
		s.noted(p.name + " did not start at once")
		if failures++; failures == 1 {
			s.tell("%s: %s did not start at once: %.300s", s.since().Round(time.Second), p.name, err)
		}
	}
	s.violated("%s did not start within %s", p.name, patience)
}
