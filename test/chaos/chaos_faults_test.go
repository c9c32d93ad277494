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

	"github.com/leat-dev/leat/pkg/standalone/pki"
	"github.com/leat-dev/leat/test/kit/await"
	"github.com/leat-dev/leat/test/kit/host"
)

// draw is what chance decides of a fault. Each fault takes one, whatever it makes of it, so that a seed gives the same faults again.
type draw struct {
	victim, way int
	fraction    float64
}

func (d draw) between(least, most time.Duration) time.Duration {
	return least + time.Duration(d.fraction*float64(most-least)).Round(time.Millisecond)
}

// fault is something that goes wrong, until it is right again.
type fault struct {
	kind   string
	weight int
	// do makes the fault and undoes it. What it says tells who was hit, and for how long.
	do func(ctx context.Context, d draw) (what string, err error)
}

// injector has things go wrong in three places at a time: in the store, at the servers, and where work is done.
type injector struct {
	*cluster
	truth *truth

	mu     sync.Mutex
	counts map[string]int
}

// run has things go wrong until ctx is done, and leaves nothing that is wrong.
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
		begun := i.since()
		what, err := faults[n].do(ctx, d)
		i.tell("%6s to %s: %s: %s", begun.Round(100*time.Millisecond), i.since().Round(100*time.Millisecond), faults[n].kind, what)
		if err != nil {
			i.violated("%s: %s: %v", faults[n].kind, what, err)
		}
		i.mu.Lock()
		i.counts[faults[n].kind]++
		i.mu.Unlock()
	}
}

// away keeps a process away for a while, and starts it again.
func (i *injector) away(p *process, d time.Duration) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.Kill(); err != nil {
		return err
	}
	await.Pause(i.Context(), d)
	i.restart(p)
	return nil
}

// frozen stops a process for a while.
func (i *injector) frozen(p *process, d time.Duration) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		return nil // it ended by itself just now, which is seen elsewhere
	}
	await.Pause(i.Context(), d)
	return p.Signal(syscall.SIGCONT)
}

// disturb breaks the connections of links, or has them lose what is sent for a while.
func (i *injector) disturb(d draw, links ...*link) string {
	span, what := d.between(200*time.Millisecond, 5*time.Second), ""
	switch d.way % 4 {
	case 0:
		for _, l := range links {
			l.cut()
		}
		return "cut"
	case 1:
		what = "both ways lost"
		i.lose(span, true, true, links)
	case 2:
		what = "half-open, nothing arrives"
		i.lose(span, true, false, links)
	case 3:
		what = "half-open, nothing is answered"
		i.lose(span, false, true, links)
	}
	return fmt.Sprintf("%s for %s", what, span)
}

func (i *injector) lose(d time.Duration, there, back bool, links []*link) {
	for _, l := range links {
		l.lose(there, back)
	}
	await.Pause(i.Context(), d)
	for _, l := range links {
		if d%2 == 0 { // what was sent meanwhile is lost for ever, or arrives late
			l.cut()
		}
		l.heal()
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
			return fmt.Sprintf("%s for %s", m.name, span), i.away(m.process, span)
		}},
		{"etcd frozen", 3, func(_ context.Context, d draw) (string, error) {
			m, name := one(d)
			span := d.between(200*time.Millisecond, 4*time.Second)
			return fmt.Sprintf("%s for %s", name, span), i.frozen(m.process, span)
		}},
		{"etcd compacted", 2, func(ctx context.Context, d draw) (string, error) { return i.compact(d) }},
		{"etcd defragmented", 1, func(_ context.Context, d draw) (string, error) {
			m, name := one(d)
			return name, i.ask(func(ctx context.Context, client *clientv3.Client) error {
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
				return fmt.Sprintf("%s for %s", name, span), i.away(m.process, span)
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

// ask asks something of etcd. That it does not answer in time is its good right.
func (i *injector) ask(f func(context.Context, *clientv3.Client) error) error {
	client, err := i.store.client()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(i.Context(), 10*time.Second)
	defer cancel()
	if err := f(ctx, client); err != nil {
		i.noted("etcd did not do at once what it was asked: " + rpctypes.Error(err).Error())
	}
	return client.Close()
}

func (i *injector) compact(d draw) (string, error) {
	// Not past what was recorded: that would be lost.
	revision := i.truth.reached() - int64(d.way%200)
	if revision <= i.truth.start {
		return "nothing", nil
	}
	i.store.forget(revision, time.Now())
	return fmt.Sprintf("up to %d", revision), i.ask(func(ctx context.Context, client *clientv3.Client) error {
		_, err := client.Compact(ctx, revision)
		if errors.Is(err, rpctypes.ErrCompacted) {
			err = nil
		}
		return err
	})
}

func (i *injector) moveLeader(d draw) (what string, err error) {
	what = "nobody leads"
	err = i.ask(func(ctx context.Context, client *clientv3.Client) error {
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

// fill leaves a member no room on its disk for a while. If it ends of that, it is started again until it can run.
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
			return fmt.Sprintf("%s for %s", name, span), i.away(s.process, span)
		}},
		{"server frozen", 3, func(_ context.Context, d draw) (string, error) {
			s, name := one(d)
			span := d.between(200*time.Millisecond, 5*time.Second)
			return fmt.Sprintf("%s for %s", name, span), i.frozen(s.process, span)
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

// replace ends a process as a rollout does, and starts it again.
func (i *injector) replace(p *process) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.Stop(); err != nil {
		return err
	}
	i.restart(p)
	return nil
}

// rotate replaces the certificate that servers serve with, while they run.
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
			shown := conn.(*tls.Conn).ConnectionState().PeerCertificates[0].Raw
			_ = conn.Close()
			if !bytes.Equal(shown, block.Bytes) {
				return fmt.Errorf("%s shows the old certificate", s.name)
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
			return fmt.Sprintf("%s for %s", manager(d).name, span), i.away(manager(d), span)
		}},
		{"manager frozen", 2, func(_ context.Context, d draw) (string, error) {
			span := d.between(time.Second, 12*time.Second)
			return fmt.Sprintf("%s for %s", manager(d).name, span), i.frozen(manager(d), span)
		}},
		{"worker killed", 4, func(_ context.Context, d draw) (string, error) {
			span := d.between(0, time.Second)
			return fmt.Sprintf("%s for %s", worker(d).name, span), i.away(worker(d).process, span)
		}},
		{"worker away", 1, func(_ context.Context, d draw) (string, error) {
			span := d.between(leaseDuration, 2*leaseDuration)
			return fmt.Sprintf("%s for %s", worker(d).name, span), i.away(worker(d).process, span)
		}},
		{"worker frozen", 3, func(_ context.Context, d draw) (string, error) {
			span := d.between(200*time.Millisecond, 2*leaseDuration)
			return fmt.Sprintf("%s for %s", worker(d).name, span), i.frozen(worker(d).process, span)
		}},
		{"worker disturbed", 3, func(_ context.Context, d draw) (string, error) {
			return worker(d).name + " " + i.disturb(d, worker(d).link), nil
		}},
	}
}
