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

package agent

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/worker/logs"
	"github.com/leat-dev/leat/pkg/worker/processtest"
	"github.com/leat-dev/leat/pkg/worker/spool"
)

// testArchive counts the segments that it stores, unless it is away.
type testArchive struct {
	stored atomic.Int32
	away   atomic.Bool
}

func (a *testArchive) Archive(_ context.Context, _ string, opts *batch.WorkerArchiveOptions, segment []byte) (*metav1.Status, error) {
	if len(segment) > 0 && a.away.Load() {
		return nil, errors.New("connection refused")
	}
	if opts.Incarnation != "" {
		a.stored.Add(1)
	}
	return nil, nil
}

func openSpool(t *testing.T, archiver spool.Archiver) *spool.Spool {
	t.Helper()
	s, err := spool.Open(spool.Options{
		Dir: t.TempDir(), MaxBytesPerAttempt: spool.DefaultMaxBytesPerAttempt, MaxSize: spool.DefaultMaxSize, Retention: time.Hour,
		Worker: "w", Archiver: archiver,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// addTo keeps an attempt of the set as soon as the spool knows that there is an archive.
func addTo(t *testing.T, s *spool.Spool, set types.UID) {
	t.Helper()
	index := int32(1)
	processtest.Eventually(t, "the attempt is kept", func() bool {
		return s.Add(set, &batch.TaskRecord{Index: &index, TaskUID: "uid", Attempt: 1, WorkerName: "w", StartTime: metav1.NowMicro()}, nil)
	})
}

func (f *fixture) unarchived() []types.UID {
	f.Helper()
	worker, err := f.test.BatchV1alpha1().Workers("default").Get(f.Context(), "w", metav1.GetOptions{})
	f.must(err)
	return worker.Status.Unarchived
}

func TestSetsThatAreNotInTheArchiveArePublished(t *testing.T) {
	f := newFixture(t)
	archive := &testArchive{}
	s := openSpool(t, archive)
	w := f.start(func(o *Options) {
		o.Archive = s
		o.LeaseDuration, o.HeartbeatInterval = time.Hour, time.Hour // further sets do not wait for heartbeats
	})
	first, second := types.UID("00000000-0000-4000-8000-000000000001"), types.UID("00000000-0000-4000-8000-000000000002")
	addTo(t, s, first)
	processtest.Eventually(t, "the set is published", func() bool { return slices.Equal(f.unarchived(), []types.UID{first}) })
	s.Release(first)
	processtest.Eventually(t, "the segment is sent", func() bool { return archive.stored.Load() == 1 })
	addTo(t, s, second)
	processtest.Eventually(t, "only the other set is published", func() bool { return slices.Equal(f.unarchived(), []types.UID{second}) })
	f.must(w.stop())
	if archive.stored.Load() != 2 || len(f.unarchived()) > 0 {
		t.Errorf("After the stop, %d segments are stored, and %v are published.", archive.stored.Load(), f.unarchived())
	}
}

func TestAStopDoesNotWaitForAnArchiveThatIsAway(t *testing.T) {
	f := newFixture(t)
	archive := &testArchive{}
	s := openSpool(t, archive)
	w := f.start(func(o *Options) { o.Archive, o.DrainTimeout = s, time.Hour })
	set := types.UID("00000000-0000-4000-8000-000000000001")
	archive.away.Store(true)
	addTo(t, s, set)
	f.must(w.stop())
	if sets := f.unarchived(); !slices.Equal(sets, []types.UID{set}) {
		t.Errorf("After the stop, %v are published.", sets)
	}
}

func TestTheOutputOfATaskReachesTheArchive(t *testing.T) {
	f := newFixture(t)
	archive := &testArchive{}
	s := openSpool(t, archive)
	store, err := logs.Open(logs.Options{Dir: t.TempDir(), MaxSize: logs.DefaultMaxSize, MaxTotalSize: logs.DefaultMaxTotalSize, Retention: time.Hour})
	f.must(err)
	t.Cleanup(store.Close)
	w := f.start(func(o *Options) { o.Archive, o.Logs = s, store })
	addTo(t, s, "00000000-0000-4000-8000-000000000001")
	f.run(w, "t", script("echo out", inSet))
	uid := f.awaitFinished("t").UID
	var attempts []spool.Attempt
	processtest.Eventually(t, "the attempt is in the spool", func() bool {
		attempts, err = s.Task(t.Context(), uid)
		return err != nil || len(attempts) > 0
	})
	f.must(err)
	output, found, err := attempts[0].Output(t.Context())
	if string(output) != "out\n" || !found || err != nil || attempts[0].Record.Incarnation != w.incarnation {
		t.Errorf("The spool has %q, %v, %v of %+v.", output, found, err, attempts[0].Record)
	}
	f.must(w.stop())
	if archive.stored.Load() != 2 {
		t.Errorf("%d segments are stored, want 2.", archive.stored.Load())
	}
}
