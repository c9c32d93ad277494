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
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/client-go/rest"

	"github.com/leat-dev/leat/test/kit/measure"
)

const (
	// settleTime is the time that servers have for pending work, such as watch events, before their CPU time is read.
	settleTime = 250 * time.Millisecond
	warmUp     = -1
	// amongOperations is enough to see the influence of other objects.
	amongOperations = 1000
	// profileTime is shorter than the operations.
	profileTime = 2 * time.Second
)

// measureOperations runs each operation for the same number of objects of each subject, one subject after the other.
func (b *bench) measureOperations() {
	subjects := []subject{
		b.scene.tasks(crdLabel, false, namespace, b.Clients),
		b.scene.pods(false, b.Clients),
		b.scene.pods(true, b.Clients),
		b.scene.tasks(directLabel, false, namespace, b.Clients),
		b.scene.tasks(directLabel, true, namespace, b.Clients),
		b.scene.tasks(aggregated, false, namespace, b.Clients),
		b.scene.tasks(aggregated, true, namespace, b.Clients),
	}
	if b.Quick {
		// The ratios need only these.
		subjects = []subject{subjects[0], subjects[3], subjects[4]}
	}
	subjects = append(subjects, &etcdSubject{client: b.scene.stores[leatEtcd], value: b.sampleSizes(), revisions: map[string]int64{}})
	for round := warmUp; round < b.Rounds; round++ {
		b.operateRound(subjects, round, "object", b.Operations, func(op operation, s subject, v values) {
			b.collector.add(partOperations, string(op), s.label(), s.encoding(), v)
		})
	}
}

// measureAmong repeats the operations of Leat and of the CRD in JSON, with the objects that are stored now.
func (b *bench) measureAmong() {
	subjects := []subject{b.scene.tasks(crdLabel, false, namespace, b.Clients), b.scene.tasks(directLabel, false, namespace, b.Clients)}
	for round := warmUp; round < b.Rounds; round++ {
		b.operateRound(subjects, round, "among", min(b.Operations, amongOperations), func(op operation, s subject, v values) {
			v[valueObjects] = float64(b.Objects)
			b.collector.add(partGrowth, string(op), s.label(), s.encoding(), v)
		})
	}
}

// operateRound runs each operation for n objects of each subject, and calls add with the values, except in the warm-up
// round.
func (b *bench) operateRound(subjects []subject, round int, prefix string, n int, add func(operation, subject, values)) {
	if round == warmUp {
		n = min(n, 10*b.Clients)
	}
	last, prefixes := map[subject][][]byte{}, map[subject]string{}
	for i, s := range subjects {
		last[s] = make([][]byte, n)
		// Subjects share a namespace, and some share a store.
		prefixes[s] = fmt.Sprintf("%s-%c-%d", prefix, 'a'+i, round+1)
	}
	for _, op := range operations {
		for _, s := range rotated(subjects, round) {
			profiled := func() {}
			if b.profiles != "" && round == b.Rounds-1 && s.encoding() != "" {
				profiled = b.profile(s, op)
			}
			v, ok := b.operate(s, op, prefixes[s], last[s])
			profiled()
			if !ok || round == warmUp {
				continue
			}
			add(op, s, v)
			b.note("round %d: %-13s %-16s %-8s %7.0f/s, %s ms of %s each", round+1, op, s.label(), s.encoding(), v[valueRate], number(v[valueCPU]),
				strings.Join(s.servers(), " and "))
		}
	}
}

// profile starts a CPU profile of the server of the subject. The returned function waits for its end.
func (b *bench) profile(s subject, op operation) func() {
	config := b.scene.aggregated
	if s.label() == directLabel {
		config = b.scene.direct
	}
	client, err := rest.HTTPClientFor(config)
	b.scene.Check(err)
	file := strings.ToLower(strings.NewReplacer(" ", "-", ",", "").Replace(fmt.Sprintf("%s-%s-%s.pprof", op, s.label(), s.encoding())))
	var profile sync.WaitGroup
	profile.Go(func() {
		err = measure.WriteCPUProfile(b.scene.Context(), client, config.Host, profileTime, filepath.Join(b.profiles, file))
	})
	return func() {
		profile.Wait()
		b.scene.Check(err)
	}
}

// sampleSizes creates one task in Leat and one of the CRD, records their sizes, and returns the value that Leat stores.
func (b *bench) sampleSizes() string {
	const name = "sample"
	for _, label := range []string{crdLabel, directLabel} {
		s := b.scene.tasks(label, false, namespace, 1)
		body, _, err := s.prepare(opCreate, name, nil)
		b.scene.Check(err)
		answer, err := s.do(b.scene.Context(), 0, opCreate, name, body)
		b.scene.Check(err)
		_, value := b.scene.stored(s.etcd(), namespace, name)
		b.result.Bytes[label+", JSON sent"], b.result.Bytes[label+", JSON answered"] = len(body), len(answer)
		b.result.Bytes[label+", in etcd"] = len(value)
		_, err = s.do(b.scene.Context(), 0, opDelete, name, nil)
		b.scene.Check(err)
		if label == directLabel {
			return string(value)
		}
	}
	return ""
}

// operate runs one operation for all objects with all clients, and returns the values. A failed request ends the run,
// because the values would be those of failures.
func (b *bench) operate(s subject, op operation, prefix string, last [][]byte) (values, bool) {
	name := func(i int) string { return fmt.Sprintf("%s-%06d", prefix, i) }
	bodies := make([][]byte, len(last))
	sent, received := 0, 0
	for i := range bodies {
		body, ok, err := s.prepare(op, name(i), last[i])
		b.scene.Check(err)
		if !ok {
			return nil, false
		}
		bodies[i] = body
		sent += len(body)
	}
	// Do not collect the garbage of the previous phase in this one.
	runtime.GC()

	took := make([]time.Duration, len(bodies))
	ctx, cancel := context.WithCancelCause(b.scene.Context())
	defer cancel(nil)
	var next atomic.Int64
	var clients sync.WaitGroup
	before := b.scene.count()
	begun := time.Now()
	for client := range b.Clients {
		clients.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= len(bodies) {
					return
				}
				start := time.Now()
				answer, err := s.do(ctx, client, op, name(i), bodies[i])
				took[i] = time.Since(start)
				if err != nil {
					cancel(fmt.Errorf("%s %s, %s: %w", s.label(), s.encoding(), op, err))
					return
				}
				last[i] = answerToKeep(op, last[i], answer)
				bodies[i] = answer // only its length
			}
		})
	}
	clients.Wait()
	elapsed := time.Since(begun)
	b.scene.Check(context.Cause(ctx))
	b.scene.pause(settleTime)
	after := b.scene.count()
	for _, answer := range bodies {
		received += len(answer)
	}

	slices.Sort(took)
	n := float64(len(bodies))
	v := values{
		valueRate: n / elapsed.Seconds(), valueP50: quantile(took, 0.5), valueP99: quantile(took, 0.99),
		valueWrites: float64(after.revisions[s.etcd()]-before.revisions[s.etcd()]) / n,
	}
	if s.encoding() != "" {
		v[valueSent], v[valueReceived] = float64(sent)/n, float64(received)/n
	}
	cpuValues(v, before, after, s.servers(), n)
	return v, true
}

// answerToKeep returns the argument last of the next prepare. The response of a binding is not the object.
func answerToKeep(op operation, last, answer []byte) []byte {
	if op == opBind {
		return last
	}
	return answer
}
