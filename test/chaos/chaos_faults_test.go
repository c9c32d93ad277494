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
	"bytes"
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"syscall"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/generated/clientset/versioned"
	typed "github.com/leat-dev/leat/pkg/generated/clientset/versioned/typed/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/standalone/pki"
	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/await"
	"github.com/leat-dev/leat/test/kit/faultproxy"
	"github.com/leat-dev/leat/test/kit/history"
	"github.com/leat-dev/leat/test/kit/host"
)

// draw has the random numbers of a fault. Each fault consumes one draw, whatever it uses of it, so that a seed repeats
// the same faults.
type draw struct {
	victim, way int
	fraction    float64
}

// between returns a random duration.
func (d draw) between(least, most time.Duration) time.Duration {
	return least + time.Duration(d.fraction*float64(most-least)).Round(time.Millisecond)
}

// fault is a kind of fault, including its recovery.
type fault struct {
	kind   string
	weight int
	// do injects the fault and recovers from it. It returns the victim and the duration, for the log.
	do func(ctx context.Context, d draw) (what string, err error)
}

// injector injects faults into the store, the servers and the workers at the same time.
type injector struct {
	*cluster
	etcdHistory *history.Recorder
	// tasks is a client that evicts. reconnect closes its connections.
	tasks     typed.TaskInterface
	reconnect func()

	mu     sync.Mutex
	counts map[string]int
}

func newInjector(s *cluster, etcdHistory *history.Recorder) *injector {
	config, reconnect := reconnecting(s.service.Through(s.servers[0].env.Direct(s, "alice", "leat:admins")))
	return &injector{
		cluster: s, etcdHistory: etcdHistory, counts: map[string]int{}, reconnect: reconnect,
		tasks: kit.Must(versioned.NewForConfig(config))(s).BatchV1alpha1().Tasks(s.work),
	}
}

// run injects faults until ctx is done. It returns after the last fault has recovered.
func (i *injector) run(ctx context.Context, seed uint64) {
	var lanes sync.WaitGroup
	for n, faults := range [][]fault{i.storeFaults(), i.serverFaults(), i.workFaults()} {
		lanes.Go(func() { i.lane(ctx, faults, rand.New(rand.NewPCG(seed, uint64(n)))) })
	}
	lanes.Wait()
}

func (i *injector) lane(ctx context.Context, faults []fault, random *rand.Rand) {
	sum := 0
	for _, f := range faults {
		sum += f.weight
	}
	for await.Pause(ctx, time.Duration(200+random.IntN(2500))*time.Millisecond) {
		dice := random.IntN(sum)
		n := 0
		for ; dice >= faults[n].weight; n++ {
			dice -= faults[n].weight
		}
		d := draw{random.IntN(1 << 16), random.IntN(1 << 16), random.Float64()}
		start := i.since()
		what, err := faults[n].do(ctx, d)
		i.logFault("%6s to %s: %s: %s", start.Round(100*time.Millisecond), i.since().Round(100*time.Millisecond), faults[n].kind, what)
		if err != nil {
			i.violated("%s: %s: %v", faults[n].kind, what, err)
		}
		i.mu.Lock()
		i.counts[faults[n].kind]++
		i.mu.Unlock()
	}
}

// kill kills a process, and restarts it after d.
func (i *injector) kill(p *process, d time.Duration) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.Kill(); err != nil {
		return err
	}
	await.Pause(i.Context(), d)
	i.restart(p)
	return nil
}

// freeze stops a process with SIGSTOP for d.
func (i *injector) freeze(p *process, d time.Duration) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		return nil // it ended just now, which supervise notices
	}
	await.Pause(i.Context(), d)
	return p.Signal(syscall.SIGCONT)
}

// disturb resets the connections of proxies, or stalls them for a while.
func (i *injector) disturb(d draw, proxies ...*faultproxy.Proxy) string {
	span, what := d.between(200*time.Millisecond, 5*time.Second), ""
	switch d.way % 4 {
	case 0:
		for _, p := range proxies {
			p.Reset()
		}
		return "cut"
	case 1:
		what = "both directions lost"
		i.stall(span, true, true, proxies)
	case 2:
		what = "half-open, nothing arrives"
		i.stall(span, true, false, proxies)
	case 3:
		what = "half-open, nothing is answered"
		i.stall(span, false, true, proxies)
	}
	return fmt.Sprintf("%s for %s", what, span)
}

// stall stalls the proxies in one direction or both for d.
func (i *injector) stall(d time.Duration, toTarget, fromTarget bool, proxies []*faultproxy.Proxy) {
	for _, p := range proxies {
		p.Stall(toTarget, fromTarget)
	}
	await.Pause(i.Context(), d)
	for _, p := range proxies {
		if d%2 == 0 { // data sent meanwhile is lost; otherwise it arrives late
			p.Reset()
		}
		p.Resume()
	}
}

func (i *injector) storeFaults() []fault {
	members := i.store.members
	one := func(d draw) (*member, string) {
		n := d.victim % len(members)
		return members[n], fmt.Sprintf("member %d", n)
	}
	faults := []fault{
		{"etcd killed", 4, func(_ context.Context, d draw) (string, error) {
			m, _ := one(d)
			span := d.between(0, 2*time.Second)
			return fmt.Sprintf("%s for %s", m.name, span), i.kill(m.process, span)
		}},
		{"etcd frozen", 3, func(_ context.Context, d draw) (string, error) {
			m, name := one(d)
			span := d.between(200*time.Millisecond, 4*time.Second)
			return fmt.Sprintf("%s for %s", name, span), i.freeze(m.process, span)
		}},
		{"etcd compacted", 2, func(ctx context.Context, d draw) (string, error) { return i.compact(d) }},
		{"etcd defragmented", 1, func(_ context.Context, d draw) (string, error) {
			m, name := one(d)
			return name, i.maintain(func(ctx context.Context, client *clientv3.Client) error {
				_, err := client.Defragment(ctx, "https://"+m.address)
				return err
			})
		}},
	}
	if len(members) > 1 {
		faults = append(faults,
			fault{"etcd leader moved", 3, func(_ context.Context, d draw) (string, error) { return i.moveLeader(d) }},
			fault{"etcd member away", 2, func(_ context.Context, d draw) (string, error) {
				m, name := one(d)
				span := d.between(4*time.Second, 9*time.Second)
				return fmt.Sprintf("%s for %s", name, span), i.kill(m.process, span)
			}},
			fault{"etcd peers disturbed", 2, func(_ context.Context, d draw) (string, error) {
				m, name := one(d)
				return name + " " + i.disturb(d, m.peers), nil
			}})
	}
	if disk := members[0].disk; disk != nil {
		faults = append(faults,
			fault{"disk slow", 2, func(_ context.Context, d draw) (string, error) {
				stop, times := d.between(50*time.Millisecond, 800*time.Millisecond), 1+d.way%5
				return fmt.Sprintf("member 0, %d times %s", times, stop), disk.stutter(stop, 100*time.Millisecond, times)
			}},
			fault{"disk full", 1, func(_ context.Context, d draw) (string, error) { return i.fill(members[0], d) }})
	}
	return faults
}

// maintain calls f with a client of etcd. During other faults, f may fail.
func (i *injector) maintain(f func(context.Context, *clientv3.Client) error) error {
	client, err := i.store.client()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(i.Context(), 10*time.Second)
	defer cancel()
	if err := f(ctx, client); err != nil {
		i.noted("etcd maintenance failed: " + rpctypes.Error(err).Error())
	}
	return client.Close()
}

// compact compacts etcd up to a recent revision that the history has reached.
func (i *injector) compact(d draw) (string, error) {
	// The history must be recorded before it is compacted.
	revision := i.etcdHistory.Position() - int64(d.way%200)
	if revision <= i.etcdHistory.Start {
		return "nothing", nil
	}
	i.store.compacted(revision, time.Now())
	return fmt.Sprintf("up to %d", revision), i.maintain(func(ctx context.Context, client *clientv3.Client) error {
		_, err := client.Compact(ctx, revision)
		if errors.Is(err, rpctypes.ErrCompacted) {
			err = nil
		}
		return err
	})
}

// moveLeader transfers the leadership of etcd to another member.
func (i *injector) moveLeader(d draw) (what string, err error) {
	what = "no leader"
	err = i.maintain(func(ctx context.Context, client *clientv3.Client) error {
		for n, m := range i.store.members {
			status, err := client.Status(ctx, "https://"+m.address)
			if err != nil || status.Leader != status.Header.MemberId {
				continue
			}
			to := (n + 1 + d.victim%(len(i.store.members)-1)) % len(i.store.members)
			next, err := client.Status(ctx, "https://"+i.store.members[to].address)
			if err != nil {
				return err
			}
			leader, err := i.store.client(m)
			if err != nil {
				return err
			}
			defer leader.Close()
			what = fmt.Sprintf("from member %d to %d", n, to)
			_, err = leader.MoveLeader(ctx, next.Header.MemberId)
			return err
		}
		return nil
	})
	return what, err
}

// fill fills the disk of a member for a while. If the member ends, supervise restarts it until it can run.
func (i *injector) fill(m *member, d draw) (string, error) {
	span := d.between(500*time.Millisecond, 4*time.Second)
	if err := m.disk.fill(); err != nil {
		return "", errors.Join(err, m.disk.free())
	}
	await.Pause(i.Context(), span)
	if err := m.disk.free(); err != nil {
		return "", err
	}
	return fmt.Sprintf("member 0 for %s", span), nil
}

func (i *injector) serverFaults() []fault {
	one := func(d draw) (*server, string) {
		n := d.victim % len(i.servers)
		return i.servers[n], i.servers[n].name
	}
	return []fault{
		{"server killed", 4, func(_ context.Context, d draw) (string, error) {
			s, name := one(d)
			span := d.between(0, 2*time.Second)
			return fmt.Sprintf("%s for %s", name, span), i.kill(s.process, span)
		}},
		{"server frozen", 3, func(_ context.Context, d draw) (string, error) {
			s, name := one(d)
			span := d.between(200*time.Millisecond, 5*time.Second)
			return fmt.Sprintf("%s for %s", name, span), i.freeze(s.process, span)
		}},
		{"server's clients disturbed", 4, func(_ context.Context, d draw) (string, error) {
			s, name := one(d)
			return name + " " + i.disturb(d, s.clients), nil
		}},
		{"server's etcd disturbed", 4, func(_ context.Context, d draw) (string, error) {
			s, name := one(d)
			return name + " " + i.disturb(d, s.etcd...), nil
		}},
		{"service disturbed", 2, func(_ context.Context, d draw) (string, error) { return i.disturb(d, i.service), nil }},
		{"servers replaced", 1, func(ctx context.Context, d draw) (string, error) {
			for n := range i.servers {
				s := i.servers[(n+d.victim)%len(i.servers)]
				if err := i.replace(s.process); err != nil || ctx.Err() != nil {
					return s.name, err
				}
			}
			return "one after the other", nil
		}},
		{"certificate rotated", 1, func(_ context.Context, _ draw) (string, error) { return "of all servers", i.rotate() }},
		{"host killed", 1, func(_ context.Context, d draw) (string, error) {
			span := d.between(0, 3*time.Second)
			if err := i.host.APIServer.Kill(); err != nil {
				return "", err
			}
			await.Pause(i.Context(), span)
			return fmt.Sprintf("its API server, for %s", span), i.host.APIServer.Restart(i.Context())
		}},
	}
}

// replace stops a process as a rollout does, and starts it again.
func (i *injector) replace(p *process) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.Stop(); err != nil {
		return err
	}
	i.restart(p)
	return nil
}

// rotate replaces the serving certificate of the running servers, and waits until both use it.
func (i *injector) rotate() error {
	e := i.servers[0].env
	cert, key, err := e.ServingCA.IssueServer(host.LeatService, "127.0.0.1", "localhost")
	if err != nil {
		return err
	}
	if err := errors.Join(pki.WriteFile(e.ServingKeyFile, key), pki.WriteFile(e.ServingCertFile, cert)); err != nil {
		return err
	}
	block, _ := pem.Decode(cert)
	return await.Until(i.Context(), patience, func(context.Context) error {
		for _, s := range i.servers {
			dialer := &tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}
			ctx, cancel := context.WithTimeout(i.Context(), 5*time.Second)
			conn, err := dialer.DialContext(ctx, "tcp", addressOf(s.env.Direct(i, "nobody")))
			cancel()
			if err != nil {
				return err
			}
			served := conn.(*tls.Conn).ConnectionState().PeerCertificates[0].Raw
			_ = conn.Close()
			if !bytes.Equal(served, block.Bytes) {
				return fmt.Errorf("%s serves with the old certificate", s.name)
			}
		}
		return nil
	})
}

func (i *injector) workFaults() []fault {
	manager := func(d draw) *process { return i.managers[d.victim%len(i.managers)] }
	worker := func(d draw) *worker { return i.workers[d.victim%len(i.workers)] }
	return []fault{
		{"manager killed", 3, func(_ context.Context, d draw) (string, error) {
			span := d.between(0, 3*time.Second)
			return fmt.Sprintf("%s for %s", manager(d).name, span), i.kill(manager(d), span)
		}},
		{"manager frozen", 2, func(_ context.Context, d draw) (string, error) {
			span := d.between(time.Second, 12*time.Second)
			return fmt.Sprintf("%s for %s", manager(d).name, span), i.freeze(manager(d), span)
		}},
		{"worker killed", 4, func(_ context.Context, d draw) (string, error) {
			span := d.between(0, time.Second)
			return fmt.Sprintf("%s for %s", worker(d).name, span), i.kill(worker(d).process, span)
		}},
		{"worker away", 1, func(_ context.Context, d draw) (string, error) {
			span := d.between(leaseDuration, 2*leaseDuration)
			return fmt.Sprintf("%s for %s", worker(d).name, span), i.kill(worker(d).process, span)
		}},
		{"worker frozen", 3, func(_ context.Context, d draw) (string, error) {
			span := d.between(200*time.Millisecond, 2*leaseDuration)
			return fmt.Sprintf("%s for %s", worker(d).name, span), i.freeze(worker(d).process, span)
		}},
		{"tasks evicted", 4, func(ctx context.Context, d draw) (string, error) { return i.evict(ctx, d), nil }},
		{"worker disturbed", 3, func(_ context.Context, d draw) (string, error) {
			return worker(d).name + " " + i.disturb(d, worker(d).proxy), nil
		}},
	}
}

// evict evicts up to four tasks that are bound to a worker. During other faults it may fail.
func (i *injector) evict(ctx context.Context, d draw) string {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	list, err := i.tasks.List(ctx, metav1.ListOptions{FieldSelector: "spec.workerName!=,status.phase!=Succeeded,status.phase!=Failed"})
	evicted := 0
	for n := 0; err == nil && n < min(1+d.way%4, len(list.Items)); n++ {
		task := &list.Items[(d.victim+n)%len(list.Items)]
		_, err = i.tasks.Evict(ctx, task.Name, &batch.Eviction{Reason: "Chaos", Preconditions: &metav1.Preconditions{UID: &task.UID}}, metav1.CreateOptions{})
		switch {
		case err == nil:
			evicted++
		case apierrors.IsConflict(err) || apierrors.IsNotFound(err):
			err = nil // it has ended since the list
		}
	}
	if err != nil {
		i.noted("eviction failed")
		i.reconnect()
	}
	return fmt.Sprintf("%d tasks", evicted)
}
