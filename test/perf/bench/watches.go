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
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

const (
	// watchersPerConnection share a connection, as those of one program do; servers allow 100.
	watchersPerConnection = 100
	eventTime             = 10 * time.Second
	idleWatchTime         = 5 * time.Second
	// lateTime is the maximum time between the last write and its event.
	lateTime = 10 * time.Second
	// fewestTasks is the minimum number of tasks.
	fewestTasks = 256
	// openers is the number of goroutines that open watches.
	openers = 16
)

// measureWatches opens many watches, each on the tasks of one worker, and writes tasks. Each event is for one watcher.
func (b *bench) measureWatches() {
	rounds := b.Rounds
	for _, watchers := range b.Watchers {
		for round := range rounds {
			subjects := []*apiSubject{
				b.scene.tasks(crdLabel, false, namespace, b.Clients),
				b.scene.tasks(directLabel, false, namespace, b.Clients),
				b.scene.tasks(directLabel, true, namespace, b.Clients),
			}
			for _, s := range rotated(subjects, round) {
				v := b.watch(s, watchers, fmt.Sprintf("watch-%d-%d-%s", watchers, round, map[bool]string{true: "p", false: "j"}[s.proto]))
				b.collector.add(partWatches, watchersName(watchers), s.label(), s.encoding(), v)
				b.note("round %d: %d watchers, %s %s: %.0f of %.0f events came, %.0f watchers were cut off, p50 %.1f ms, p99 %.1f ms, %.2f ms of %s each", round+1,
					watchers, s.label(), s.encoding(), v[valueDelivered], v[valueEvents], v[valueTerminated], v[valueP50], v[valueP99], v[valueCPU], s.servers()[0])
			}
		}
	}
}

func watchersName(n int) string { return fmt.Sprintf("%d watchers", n) }

// Names of values of watches.
const (
	valueEvents     = "events"
	valueFailed     = "failed writes"
	valueDelivered  = "delivered"
	valueMissing    = "missing"
	valueTerminated = "cut off"
	valueIdle       = "idle cpu ms per second"
)

// watch measures events with many watchers of a subject. The CPU time is that of an event and its write, without the
// time that the server uses for the same watchers without events.
func (b *bench) watch(s *apiSubject, watchers int, prefix string) values {
	events := int(eventTime.Seconds()) * b.EventRate
	// Concurrent writes to one task would conflict, and retries cost more.
	tasks := min(max(watchers, fewestTasks), events)
	name := func(i int) string { return fmt.Sprintf("%s-%06d", prefix, i) }
	worker := func(i int) string { return name(i % watchers) }
	each := func(what string, n int, f func(client, i int) error) {
		group, next := sync.WaitGroup{}, atomic.Int64{}
		errs := make([]error, b.Clients)
		for client := range b.Clients {
			group.Go(func() {
				for errs[client] == nil {
					i := int(next.Add(1)) - 1
					if i >= n {
						return
					}
					if err := f(client, i); err != nil {
						errs[client] = fmt.Errorf("%s %d: %w", what, i, err)
					}
				}
			})
		}
		group.Wait()
		b.scene.Check(errors.Join(errs...))
	}
	do := func(client int, op operation, name string, body []byte) error {
		_, err := s.do(b.scene.Context(), client, op, name, body)
		return err
	}

	// All watchers have the same number of tasks. There are at most as many tasks as events.
	each("task", tasks, func(client, i int) error {
		task := newTask(name(i), "")
		task.SetGroupVersionKind(s.kind)
		if s.label() == crdLabel {
			task.Spec.WorkerName = worker(i)
		}
		body, err := s.encode(task)
		if err == nil {
			err = do(client, opCreate, name(i), body)
		}
		if err != nil || s.label() == crdLabel {
			return err
		}
		body, err = s.encode(&batch.Binding{
			TypeMeta: metav1.TypeMeta{APIVersion: batch.SchemeGroupVersion.String(), Kind: "Binding"},
			Target:   batch.BindingTarget{Name: worker(i), Incarnation: "watched"},
		})
		if err == nil {
			err = do(client, opBind, name(i), body)
		}
		return err
	})
	var list metav1.PartialObjectMetadataList
	b.scene.get(s.clients[0], s.collection+"?limit=1", &list)

	streams := &streams{arrived: make([]atomic.Int64, events), sent: make([]time.Time, events)}
	ctx, cancel := context.WithCancel(b.scene.Context())
	defer cancel()
	connections, err := newClients(b.configOf(s), (watchers+watchersPerConnection-1)/watchersPerConnection)
	b.scene.Check(err)
	b.scene.Check(streams.open(ctx, s, connections, watchers, worker, list.ResourceVersion))
	runtime.GC()
	b.scene.pause(time.Second)
	idleFrom := b.scene.count()
	b.scene.pause(idleWatchTime)
	rss := b.memory(s.label(), "VmRSS")
	before := b.scene.count()

	// A write starts at its time, even if earlier writes are still running.
	begun := time.Now()
	due := make(chan int, events)
	var writers sync.WaitGroup
	var failed atomic.Int64
	for client := range b.Clients {
		writers.Go(func() {
			for i := range due {
				body := fmt.Appendf(nil, `{"status":{"progress":"%s%08d"}}`, eventMark, i)
				streams.sent[i] = time.Now()
				if err := do(client, opPatchStatus, name(i%tasks), body); err != nil {
					failed.Add(1)
					if failed.Load() == 1 {
						b.note("%s: the first failed write: %v", s.label(), err)
					}
				}
			}
		})
	}
	ticker := time.NewTicker(time.Second / time.Duration(b.EventRate))
	for i := range events {
		select {
		case <-ticker.C:
		case <-ctx.Done():
		}
		due <- i
	}
	ticker.Stop()
	close(due)
	writers.Wait()
	elapsed := time.Since(begun)
	for late := time.Now().Add(lateTime); streams.delivered.Load() < int64(events)-failed.Load() && time.Now().Before(late); {
		b.scene.pause(50 * time.Millisecond)
	}
	b.scene.pause(settleTime)
	after := b.scene.count()
	if unexpected := streams.unexpected.Load(); unexpected != nil {
		b.scene.Fatalf("%s %s: a watcher got an event without a write: %s", s.label(), s.encoding(), *unexpected)
	}
	if why := streams.cutError.Load(); why != nil {
		b.note("%s %s: the first watcher that was cut off: %v", s.label(), s.encoding(), *why)
	}
	delivered, cut := streams.delivered.Load(), streams.cut.Load()
	streams.over.Store(true)
	cancel()
	streams.ended.Wait()
	each("delete", tasks, func(client, i int) error { return do(client, opDelete, name(i), nil) })

	v := values{
		valueEvents: float64(events), valueFailed: float64(failed.Load()), valueDelivered: float64(delivered), valueMissing: float64(int64(events) - delivered), valueTerminated: float64(cut),
		valueRate: float64(events) / elapsed.Seconds(), valueP50: streams.quantile(0.5), valueP99: streams.quantile(0.99),
		valueReceived: float64(streams.bytes.Load()) / float64(events),
	}
	idle, busy := values{}, values{}
	cpuValues(idle, idleFrom, before, s.servers(), before.at.Sub(idleFrom.at).Seconds())
	cpuValues(busy, before, after, s.servers(), 1)
	v[valueIdle], v[valueRSS] = idle[valueCPU], rss
	for process, cpu := range busy {
		v[process] = (cpu - idle[process]*after.at.Sub(before.at).Seconds()) / float64(events)
	}
	return v
}

// streams are open watches.
type streams struct {
	ended     sync.WaitGroup
	over      atomic.Bool
	delivered atomic.Int64
	cut       atomic.Int64
	bytes     atomic.Int64
	// cutError is the error of the first watch that was cut off. unexpected is an event that no write caused.
	cutError   atomic.Pointer[error]
	unexpected atomic.Pointer[string]
	// sent has the time of the write of each event, and arrived the nanoseconds from then until the event, or 0.
	sent    []time.Time
	arrived []atomic.Int64
}

// open opens watches and returns when the server has responded to all.
func (w *streams) open(ctx context.Context, s *apiSubject, connections []*http.Client, watchers int, worker func(int) string, from string) error {
	errs := make([]error, openers)
	var next atomic.Int64
	var group sync.WaitGroup
	for opener := range openers {
		group.Go(func() {
			for errs[opener] == nil {
				i := int(next.Add(1)) - 1
				if i >= watchers {
					return
				}
				query := url.Values{"watch": {"1"}, "resourceVersion": {from}, "timeoutSeconds": {"3600"}, "fieldSelector": {"spec.workerName=" + worker(i)}}
				response, err := send(ctx, connections[i%len(connections)], s.collection+"?"+query.Encode(), watchMediaType(s.proto), "")
				if err != nil {
					errs[opener] = err
					return
				}
				w.ended.Go(func() {
					defer response.Body.Close()
					// Before the end of the measurement, the end of a stream means that it was cut off.
					if err := w.read(response.Body, s.proto); !w.over.Load() {
						w.cut.Add(1)
						w.cutError.CompareAndSwap(nil, &err)
					}
				})
			}
		})
	}
	group.Wait()
	return errors.Join(errs...)
}

func watchMediaType(proto bool) string {
	if proto {
		return kruntime.ContentTypeProtobuf + ";stream=watch"
	}
	return kruntime.ContentTypeJSON
}

// read reads events until the stream ends, which is always an error.
func (w *streams) read(body io.Reader, proto bool) error {
	reader := bufio.NewReaderSize(body, 4096)
	for {
		frame, err := readFrame(reader, proto)
		if err != nil {
			return err
		}
		now := time.Now()
		w.bytes.Add(int64(len(frame)))
		i, err := eventOf(frame)
		if err != nil && bytes.Contains(frame, []byte(watch.Error)) {
			return fmt.Errorf("got an error event: %.300q", frame)
		}
		if err != nil || i >= len(w.sent) {
			w.unexpected.CompareAndSwap(nil, new(fmt.Sprintf("%.2000q", frame)))
			continue
		}
		if w.arrived[i].CompareAndSwap(0, int64(now.Sub(w.sent[i]))) {
			w.delivered.Add(1)
		}
	}
}

// eventMark precedes the eight digits of the number of an event, in the progress of its task. It has several bytes,
// because in protobuf any single byte may be a length.
const eventMark = "event/"

// eventOf returns the number of an event.
func eventOf(frame []byte) (int, error) {
	_, rest, ok := bytes.Cut(frame, []byte(eventMark))
	if !ok || len(rest) < 8 {
		return 0, errors.New("the event has no number")
	}
	return strconv.Atoi(string(rest[:8]))
}

// readFrame reads the frame of an event: a line of JSON, or a length followed by protobuf.
func readFrame(reader *bufio.Reader, proto bool) ([]byte, error) {
	if !proto {
		return reader.ReadBytes('\n')
	}
	var length [4]byte
	if _, err := io.ReadFull(reader, length[:]); err != nil {
		return nil, err
	}
	frame := make([]byte, binary.BigEndian.Uint32(length[:]))
	_, err := io.ReadFull(reader, frame)
	return frame, err
}

func (w *streams) quantile(q float64) float64 {
	var took []time.Duration
	for i := range w.arrived {
		if d := w.arrived[i].Load(); d > 0 {
			took = append(took, time.Duration(d))
		}
	}
	slices.Sort(took)
	return quantile(took, q)
}
