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

package spool

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/leat-dev/leat/pkg/archive/segment"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// archive is an Archiver that stores segments as the server does.
type archive struct {
	// answer returns the error of a request, before anything is stored. Nil answers nothing but success.
	answer func(opts *batch.WorkerArchiveOptions, size int) error
	// lose returns an error after the segment is stored. It may be nil.
	lose func(ctx context.Context) error
	// status is what it responds with. It may be nil.
	status *metav1.Status

	mu     sync.Mutex
	stored map[string][]byte
	order  []string
	asked  []time.Time
	sent   []time.Time
}

var _ Archiver = &archive{}

func (a *archive) Archive(ctx context.Context, worker string, opts *batch.WorkerArchiveOptions, body []byte) (*metav1.Status, error) {
	if err := a.store(ctx, worker, opts, body); err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.status, nil
}

func (a *archive) store(ctx context.Context, worker string, opts *batch.WorkerArchiveOptions, body []byte) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(body) == 0 {
		a.asked = append(a.asked, time.Now())
	} else {
		a.sent = append(a.sent, time.Now())
	}
	if a.answer != nil {
		if err := a.answer(opts, len(body)); err != nil {
			return err
		}
	}
	if len(body) == 0 {
		return nil
	}
	if digest := sha256.Sum256(body); worker != "w" || opts.Digest != hex.EncodeToString(digest[:]) {
		return apierrors.NewBadRequest("digest")
	}
	if _, err := segment.Verify(body, readLimits); err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	key := fmt.Sprintf("%s/%s-%d", opts.TaskSetUID, opts.Incarnation, opts.Segment)
	if before, exists := a.stored[key]; exists && !bytes.Equal(before, body) {
		return apierrors.NewConflict(schema.GroupResource{}, key, errors.New("other bytes"))
	} else if !exists {
		if a.stored == nil {
			a.stored = map[string][]byte{}
		}
		a.stored[key] = body
		a.order = append(a.order, key)
	}
	if a.lose != nil {
		return a.lose(ctx)
	}
	return nil
}

// outputs returns the outputs of all stored attempts of a set by their entry names, with the number of their copies.
func (a *archive) outputs(t *testing.T) map[string]int {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	all := map[string]int{}
	for key, body := range a.stored {
		set, _, _ := strings.Cut(key, "/")
		reader, err := segment.Open(bytes.NewReader(body), int64(len(body)), readLimits)
		if err != nil {
			t.Fatal(err)
		}
		for _, entry := range reader.Entries() {
			output, _, err := reader.Output(entry.Name)
			if err != nil {
				t.Fatal(err)
			}
			all[set+"/"+entry.Name+"="+string(output)]++
		}
	}
	return all
}

func (a *archive) keys() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.order)
}

var (
	unavailable = apierrors.NewServiceUnavailable("away")
	none        = apierrors.NewNotFound(schema.GroupResource{Resource: "workers/archive"}, "w")
)

// setNumber returns the UID of a set.
func setNumber(n int) types.UID {
	return types.UID(fmt.Sprintf("00000000-0000-4000-8000-%012d", n))
}

// recordOf returns the record of the first attempt at an index.
func recordOf(index int32) *batch.TaskRecord {
	return &batch.TaskRecord{
		Index: &index, TaskName: fmt.Sprintf("t-%d", index), TaskUID: types.UID(fmt.Sprintf("task-%d", index)), Attempt: 1,
		WorkerName: "w", StartTime: metav1.NowMicro(),
	}
}

func openSpool(t *testing.T, dir string, a Archiver, change ...func(*Options)) *Spool {
	t.Helper()
	options := Options{
		Dir: dir, MaxBytesPerAttempt: DefaultMaxBytesPerAttempt, MaxSize: DefaultMaxSize, Retention: 24 * time.Hour, Worker: "w", Archiver: a,
	}
	for _, c := range change {
		c(&options)
	}
	s, err := Open(options)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// stop stops a spool as a worker does that has a minute for it.
func stop(t *testing.T, s *Spool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s.Stop(ctx)
	s.Close()
}

// kill leaves all as a process does that is killed.
func kill(s *Spool) {
	s.mu.Lock()
	s.stopped = true
	for _, seg := range s.open {
		seg.expiry.Stop()
	}
	s.mu.Unlock()
	s.cancel()
	close(s.stopping)
	synctest.Wait() // for a timer that has expired already
	s.closers.Wait()
	s.uploads.Wait()
	s.Close()
}

// filesIn returns the names of the files in a directory, without the lock.
func filesIn(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, entry := range entries {
		if name := entry.Name(); name != lockFile && name != refusedDir {
			names = append(names, name)
		}
	}
	return names
}

// noise returns output that cannot be compressed.
func noise(size int) []byte {
	random := rand.NewChaCha8([32]byte{})
	output := make([]byte, size)
	_, _ = random.Read(output)
	return output
}

func mustAdd(t *testing.T, s *Spool, set types.UID, record *batch.TaskRecord, output string) {
	t.Helper()
	if !s.Add(set, record, []byte(output)) {
		t.Fatalf("Attempt %d of %s is not kept.", *record.Index, set)
	}
}

func TestAttemptsReachTheArchive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, dir := &archive{}, t.TempDir()
		s := openSpool(t, dir, a)
		s.Start(t.Context(), "inc")
		lone := recordOf(0)
		lone.Index, lone.TaskUID = nil, "lone"
		if !s.Add("", lone, []byte("alone\n")) {
			t.Error("The attempt at a task without set is not kept.")
		}
		mustAdd(t, s, setNumber(1), recordOf(7), "seven\n")
		mustAdd(t, s, setNumber(1), recordOf(8), "")
		mustAdd(t, s, setNumber(2), recordOf(7), "other\n")
		s.Release(setNumber(1))
		s.Release(setNumber(3))
		synctest.Wait()
		if got, want := a.keys(), []string{string(setNumber(1)) + "/inc-2"}; !slices.Equal(got, want) {
			t.Errorf("After the release of a set, %v are stored, want %v.", got, want)
		}
		time.Sleep(maxAge)
		synctest.Wait()
		if names := filesIn(t, dir); len(names) > 0 {
			t.Errorf("After %v, %v are left.", maxAge, names)
		}
		want := map[string]int{
			string(setNumber(1)) + "/7.0.1.log=seven\n": 1, string(setNumber(1)) + "/8.0.1.log=": 1,
			string(setNumber(2)) + "/7.0.1.log=other\n": 1, "/lone.1.log=alone\n": 1,
		}
		if got := a.outputs(t); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("The archive has %v, want %v.", got, want)
		}
		mustAdd(t, s, setNumber(2), recordOf(9), "last\n")
		stop(t, s)
		if got := len(a.keys()); got != 4 {
			t.Errorf("After Stop, %d segments are stored, want 4.", got)
		}
		if s.Add(setNumber(2), recordOf(10), nil) {
			t.Error("An attempt is kept after Stop.")
		}
	})
}

func TestSegmentsEnd(t *testing.T) {
	big := noise(1 << 20)
	for name, test := range map[string]struct {
		add  func(t *testing.T, s *Spool)
		want int // stored without delay
	}{
		"when the next attempt does not fit": {func(t *testing.T, s *Spool) {
			for i := range int32(8) {
				mustAdd(t, s, setNumber(1), recordOf(i), string(big))
			}
		}, 1},
		"when the set is released": {func(t *testing.T, s *Spool) {
			mustAdd(t, s, setNumber(1), recordOf(1), "")
			s.Release(setNumber(1))
		}, 1},
		"when they have the attempt already": {func(t *testing.T, s *Spool) {
			mustAdd(t, s, setNumber(1), recordOf(1), "first")
			mustAdd(t, s, setNumber(1), recordOf(1), "second")
		}, 1},
		"when too many are open, the least recently used first": {func(t *testing.T, s *Spool) {
			for i := range maxOpen {
				mustAdd(t, s, setNumber(i), recordOf(1), "")
			}
			mustAdd(t, s, setNumber(0), recordOf(2), "")
			mustAdd(t, s, setNumber(maxOpen), recordOf(1), "")
			if open := s.open[setNumber(0)]; open == nil || s.open[setNumber(1)] != nil || len(s.open) != maxOpen {
				t.Errorf("%d segments are open, of the set that was used last: %v.", len(s.open), open != nil)
			}
		}, 1},
		"but not of tasks without set on a release": {func(t *testing.T, s *Spool) {
			mustAdd(t, s, "", recordOf(1), "")
			s.Release("")
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := &archive{}
				s := openSpool(t, t.TempDir(), a)
				s.Start(t.Context(), "inc")
				defer stop(t, s)
				test.add(t, s)
				synctest.Wait()
				if got := len(a.keys()); got != test.want {
					t.Errorf("%d segments are stored, want %d.", got, test.want)
				}
			})
		})
	}
}

func TestOutputIsCutAtItsBeginning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &archive{}
		s := openSpool(t, t.TempDir(), a, func(o *Options) { o.MaxBytesPerAttempt = 4 })
		s.Start(t.Context(), "inc")
		record, notice := recordOf(1), recordOf(2)
		record.OutputBytes, notice.OutputBytes, notice.MissingBytes = 10, 10, 8
		mustAdd(t, s, setNumber(1), record, "0123456789")
		mustAdd(t, s, setNumber(1), notice, "[leat: 8 bytes are missing]89")
		records, _, err := s.Records(t.Context(), setNumber(1), "", 10, func(*batch.TaskRecord) bool { return true })
		if err != nil || len(records) != 2 || records[0].MissingBytes != 6 || record.MissingBytes != 0 || records[1].MissingBytes != 10 {
			t.Errorf("The records are %+v, %v.", records, err)
		}
		stop(t, s)
		if got := a.outputs(t); got[string(setNumber(1))+"/1.0.1.log=6789"] != 1 {
			t.Errorf("The archive has %v.", got)
		}
	})
}

func TestFailedUploadsAreRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		away := true
		a := &archive{answer: func(_ *batch.WorkerArchiveOptions, size int) error {
			if away && size > 0 {
				return apierrors.NewInternalError(errors.New("broken"))
			}
			return nil
		}}
		metrics := NewMetrics(nil)
		s := openSpool(t, t.TempDir(), a, func(o *Options) { o.Metrics = metrics })
		s.Start(t.Context(), "inc")
		defer stop(t, s)
		mustAdd(t, s, setNumber(1), recordOf(1), "")
		s.Release(setNumber(1))
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		a.mu.Lock()
		// The delays are 15 to 30 s in the end.
		if n := len(a.sent); n < 12 || n > 30 {
			t.Errorf("In 5 minutes it was sent %d times.", n)
		}
		away = false
		a.mu.Unlock()
		time.Sleep(backoffCap)
		synctest.Wait()
		if got := len(a.keys()); got != 1 {
			t.Errorf("%v after the server is back, %d segments are stored.", backoffCap, got)
		}
		if testutil.ToFloat64(metrics.uploads.WithLabelValues("stored")) != 1 || testutil.ToFloat64(metrics.uploads.WithLabelValues("failed")) < 12 {
			t.Error("The uploads are not counted by their results.")
		}
	})
}

func TestTheServerDecidesWhenAnUploadIsRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, started := &archive{}, time.Now()
		a.answer = func(_ *batch.WorkerArchiveOptions, size int) error {
			if size > 0 && time.Since(started) < 100*time.Second {
				return apierrors.NewTooManyRequests("busy", 100)
			}
			return nil
		}
		s := openSpool(t, t.TempDir(), a)
		s.Start(t.Context(), "inc")
		defer stop(t, s)
		mustAdd(t, s, setNumber(1), recordOf(1), "")
		s.Release(setNumber(1))
		time.Sleep(101 * time.Second)
		synctest.Wait()
		if got := a.keys(); len(got) != 1 || len(a.sent) != 2 {
			t.Errorf("After the delay, %v is stored; it was sent at %v.", got, a.sent)
		}
	})
}

func TestASegmentThatAlwaysFailsKeepsNoOthersBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &archive{answer: func(opts *batch.WorkerArchiveOptions, _ int) error {
			if types.UID(opts.TaskSetUID) == setNumber(1) {
				return apierrors.NewInternalError(errors.New("broken"))
			}
			return nil
		}}
		s := openSpool(t, t.TempDir(), a)
		s.Start(t.Context(), "inc")
		defer stop(t, s)
		for i := range 10 {
			mustAdd(t, s, setNumber(i), recordOf(1), "")
			s.Release(setNumber(i))
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := len(a.keys()); got != 9 {
			t.Errorf("%d segments are stored, want all but one: 9.", got)
		}
	})
}

func TestWithoutAnArchive(t *testing.T) {
	for name, answer := range map[string]error{
		"there is none":             none,
		"the server does not know":  apierrors.NewGenericServerResponse(404, "POST", schema.GroupResource{}, "w", "unknown", 0, true),
		"the server does not allow": apierrors.NewMethodNotSupported(schema.GroupResource{}, "post"),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dir := t.TempDir()
				before := openSpool(t, dir, &archive{})
				before.Start(t.Context(), "before")
				mustAdd(t, before, setNumber(1), recordOf(1), "left\n")
				kill(before)

				a := &archive{answer: func(*batch.WorkerArchiveOptions, int) error { return answer }}
				s := openSpool(t, dir, a)
				s.Start(t.Context(), "inc")
				defer stop(t, s)
				if s.Add(setNumber(1), recordOf(2), nil) {
					t.Error("An attempt is kept.")
				}
				time.Sleep(askInterval + time.Second)
				synctest.Wait()
				a.mu.Lock()
				if len(a.asked) != 2 || len(a.sent) > 0 {
					t.Errorf("The server was asked at %v, and segments were sent at %v.", a.asked, a.sent)
				}
				answer = nil
				a.mu.Unlock()
				if names := filesIn(t, dir); len(names) != 1 {
					t.Errorf("Of the process before, %v are left.", names)
				}
				time.Sleep(askInterval)
				synctest.Wait()
				if got, want := a.keys(), []string{string(setNumber(1)) + "/before-1"}; !slices.Equal(got, want) {
					t.Errorf("Once there is an archive, %v is stored, want %v.", got, want)
				}
				mustAdd(t, s, setNumber(1), recordOf(2), "")
			})
		})
	}
}

// A server that has just started may take a worker for anonymous, until it knows the authority of its certificate.
func TestAServerThatForbidsAllForAMomentHasAnArchive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var answer error
		a := &archive{answer: func(*batch.WorkerArchiveOptions, int) error { return answer }}
		set := func(err error) {
			a.mu.Lock()
			defer a.mu.Unlock()
			answer = err
		}
		forbidden := apierrors.NewForbidden(schema.GroupResource{}, "w", errors.New("no"))
		set(forbidden)
		s := openSpool(t, t.TempDir(), a)
		s.Start(t.Context(), "inc")
		defer stop(t, s)
		set(nil)
		time.Sleep(2 * backoffBase)
		mustAdd(t, s, setNumber(1), recordOf(1), "")
		set(forbidden)
		s.Release(setNumber(1))
		time.Sleep(2 * backoffBase)
		mustAdd(t, s, setNumber(1), recordOf(2), "")
		set(nil)
		time.Sleep(2 * backoffCap)
		if got := len(a.keys()); got != 1 {
			t.Errorf("%d segments are stored, want 1.", got)
		}
	})
}

func TestAServerThatForbidsAllHasNoArchive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &archive{}
		s := openSpool(t, t.TempDir(), a)
		s.Start(t.Context(), "inc")
		defer stop(t, s)
		mustAdd(t, s, setNumber(1), recordOf(1), "")
		a.mu.Lock()
		a.answer = func(*batch.WorkerArchiveOptions, int) error {
			return apierrors.NewForbidden(schema.GroupResource{}, "w", errors.New("no"))
		}
		a.mu.Unlock()
		time.Sleep(askInterval + time.Minute)
		synctest.Wait()
		if s.Add(setNumber(1), recordOf(2), nil) {
			t.Error("An attempt is kept.")
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		if got := len(a.asked); got != 1+maxDenials {
			t.Errorf("The server was asked %d times, want %d.", got, 1+maxDenials)
		}
		a.answer = nil
	})
}

func TestWithoutAnArchiveSegmentsExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, dir := &archive{}, t.TempDir()
		metrics := NewMetrics(nil)
		s := openSpool(t, dir, a, func(o *Options) { o.Metrics, o.Retention = metrics, time.Hour })
		s.Start(t.Context(), "inc")
		defer stop(t, s)
		mustAdd(t, s, setNumber(1), recordOf(1), "")
		a.mu.Lock()
		a.answer = func(*batch.WorkerArchiveOptions, int) error { return none }
		a.mu.Unlock()
		time.Sleep(50 * time.Minute)
		synctest.Wait()
		if names := filesIn(t, dir); len(names) != 1 {
			t.Errorf("Before their retention has passed, %v are left.", names)
		}
		time.Sleep(21 * time.Minute)
		synctest.Wait()
		if names := filesIn(t, dir); len(names) > 0 || testutil.ToFloat64(metrics.droppedBytes) == 0 {
			t.Errorf("After their retention, %v are left; %v bytes are counted as dropped.", names, testutil.ToFloat64(metrics.droppedBytes))
		}
		if sets := s.Unarchived(); len(sets) > 0 {
			t.Errorf("%v is said to be unarchived.", sets)
		}
	})
}

func TestTheArchiveIsAskedAgainUntilItAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &archive{}
		a.answer = func(*batch.WorkerArchiveOptions, int) error {
			if len(a.asked) < 4 {
				return unavailable
			}
			return nil
		}
		s := openSpool(t, t.TempDir(), a)
		s.Start(t.Context(), "inc")
		defer stop(t, s)
		if s.Add(setNumber(1), recordOf(1), nil) {
			t.Error("An attempt is kept before it is known that there is an archive.")
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		mustAdd(t, s, setNumber(1), recordOf(1), "")
		a.mu.Lock()
		a.answer = func(*batch.WorkerArchiveOptions, int) error { return unavailable }
		a.mu.Unlock()
		time.Sleep(2 * askInterval)
		synctest.Wait()
		mustAdd(t, s, setNumber(1), recordOf(2), "") // it is away for a while
	})
}

func TestAFullSpoolDropsTheOldest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		a := &archive{answer: func(_ *batch.WorkerArchiveOptions, size int) error {
			if size > 0 {
				return unavailable
			}
			return nil
		}}
		metrics := NewMetrics(nil)
		s := openSpool(t, dir, a, func(o *Options) { o.Metrics, o.MaxSize = metrics, MinMaxSize })
		s.Start(t.Context(), "inc")
		output := string(noise(1 << 20))
		for i := range 40 {
			mustAdd(t, s, setNumber(i), recordOf(1), output)
			s.Release(setNumber(i))
			synctest.Wait()
		}
		total := int64(0)
		for _, name := range filesIn(t, dir) {
			info, err := os.Stat(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			total += info.Size()
		}
		if total > MinMaxSize || total < MinMaxSize/2 || total != s.total {
			t.Errorf("The files have %d bytes, counted are %d.", total, s.total)
		}
		if got := testutil.ToFloat64(metrics.droppedBytes); got < 24<<20 || got > 30<<20 {
			t.Errorf("%v bytes are counted as dropped.", got)
		}
		if sets := s.Unarchived(); len(sets) < 13 || sets[len(sets)-1] != setNumber(39) || slices.Contains(sets, setNumber(0)) {
			t.Errorf("The sets %v are left.", sets)
		}
		s.Stop(t.Context())
		s.Close()
		// With a smaller limit, the next process keeps less.
		s = openSpool(t, dir, a, func(o *Options) { o.MaxSize = MinMaxSize })
		defer s.Close()
		if s.total > MinMaxSize || len(s.segments) < 13 {
			t.Errorf("The next process has %d segments with %d bytes.", len(s.segments), s.total)
		}
	})
}

func TestRefusedSegmentsAreMovedAside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		a := &archive{answer: func(_ *batch.WorkerArchiveOptions, size int) error {
			if size > 0 {
				return apierrors.NewBadRequest("no")
			}
			return nil
		}}
		open := func() *Spool { return openSpool(t, dir, a, func(o *Options) { o.Retention = time.Hour }) }
		s := open()
		s.Start(t.Context(), "inc")
		mustAdd(t, s, setNumber(1), recordOf(1), "")
		s.Release(setNumber(1))
		synctest.Wait()
		moved := filesIn(t, filepath.Join(dir, refusedDir))
		if len(moved) != 1 || len(filesIn(t, dir)) > 0 || len(s.Unarchived()) > 0 || len(a.sent) != 1 {
			t.Errorf("%v were moved, %v are left; sent at %v.", moved, filesIn(t, dir), a.sent)
		}
		stop(t, s)
		s = open()
		s.Start(t.Context(), "next")
		defer stop(t, s)
		time.Sleep(50 * time.Minute)
		synctest.Wait()
		if moved := filesIn(t, filepath.Join(dir, refusedDir)); len(moved) != 1 || len(a.sent) != 1 {
			t.Errorf("Before their retention has passed, there are %v; sent at %v.", moved, a.sent)
		}
		time.Sleep(21 * time.Minute)
		synctest.Wait()
		if moved := filesIn(t, filepath.Join(dir, refusedDir)); len(moved) > 0 || s.total != 0 {
			t.Errorf("After their retention, there are %v, %d bytes.", moved, s.total)
		}
	})
}

// failingWriter is a writer on a full disk.
type failingWriter struct {
	writer
	full *bool
}

var errFull = errors.New("no space left on device")

func (w failingWriter) Add(record *batch.TaskRecord, output []byte) error {
	if *w.full {
		return errFull
	}
	return w.writer.Add(record, output)
}

func (w failingWriter) Close() error {
	if *w.full {
		return errFull
	}
	return w.writer.Close()
}

func TestAFullDiskFailsNoTask(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, full := &archive{}, false
		s := openSpool(t, t.TempDir(), a)
		s.create = func(path string) (writer, error) {
			if full {
				return nil, errFull
			}
			w, err := segment.Create(path)
			return failingWriter{w, &full}, err
		}
		s.Start(t.Context(), "inc")
		mustAdd(t, s, setNumber(1), recordOf(1), "before\n")
		full = true
		if s.Add(setNumber(1), recordOf(2), nil) || s.Add(setNumber(2), recordOf(1), nil) {
			t.Error("An attempt is kept.")
		}
		s.Release(setNumber(1)) // it can be ended only later
		synctest.Wait()
		if sets := s.Unarchived(); !slices.Equal(sets, []types.UID{setNumber(1)}) {
			t.Errorf("The sets %v are left.", sets)
		}
		full = false
		mustAdd(t, s, setNumber(1), recordOf(3), "after\n")
		time.Sleep(closeInterval)
		synctest.Wait()
		stop(t, s)
		want := map[string]int{string(setNumber(1)) + "/1.0.1.log=before\n": 1, string(setNumber(1)) + "/3.0.1.log=after\n": 1}
		if got := a.outputs(t); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("The archive has %v, want %v.", got, want)
		}
	})
}

func TestUnarchivedSetsAreAnnounced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := openSpool(t, t.TempDir(), &archive{})
		s.Start(t.Context(), "inc")
		defer stop(t, s)
		changed := func() bool {
			select {
			case <-s.Changed():
				return true
			default:
				return false
			}
		}
		if changed() || len(s.Unarchived()) > 0 {
			t.Error("A set is announced before there is one.")
		}
		mustAdd(t, s, "", recordOf(1), "")
		if changed() {
			t.Error("Tasks without set are announced.")
		}
		mustAdd(t, s, setNumber(2), recordOf(1), "")
		mustAdd(t, s, setNumber(2), recordOf(2), "")
		if !changed() || changed() {
			t.Error("A further set is not announced once.")
		}
		s.Expect(setNumber(3))
		s.Expect(setNumber(3))
		if !changed() || changed() {
			t.Error("A set that is expected is not announced once.")
		}
		mustAdd(t, s, setNumber(3), recordOf(1), "")
		if changed() {
			t.Error("A set is announced again when it has an attempt.")
		}
		s.Release(setNumber(3))
		for n := range announceBurst - 2 {
			s.Expect(setNumber(4 + n))
			if !changed() {
				t.Error("One of a few sets is announced later.")
			}
			s.Release(setNumber(4 + n))
		}
		mustAdd(t, s, setNumber(1), recordOf(1), "")
		if changed() {
			t.Error("A further set is announced at once after many others.")
		}
		time.Sleep(announceInterval)
		synctest.Wait()
		if !changed() {
			t.Error("A further set is not announced.")
		}
		if sets := s.Unarchived(); !slices.Equal(sets, []types.UID{setNumber(1), setNumber(2)}) {
			t.Errorf("The sets are %v.", sets)
		}
		s.Release(setNumber(1))
		synctest.Wait()
		if sets := s.Unarchived(); changed() || !slices.Equal(sets, []types.UID{setNumber(2)}) {
			t.Errorf("After the upload, the sets are %v.", sets)
		}
		s.Expect(setNumber(999))
		for i := range 100 {
			mustAdd(t, s, setNumber(i), recordOf(3), "")
		}
		if sets := s.Unarchived(); len(sets) != maxUnarchived || sets[len(sets)-1] != setNumber(99) {
			t.Errorf("Of 100 sets, these are published: %v.", sets)
		}
	})
}

func TestStopping(t *testing.T) {
	for name, test := range map[string]struct {
		answer func(ctx context.Context) error
		want   time.Duration // of Stop, at most
		left   int
	}{
		"the server answers":         {nil, 0, 0},
		"the server is away":         {func(context.Context) error { return errors.New("connection refused") }, 0, 2},
		"the server does not answer": {func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }, time.Minute, 2},
		"the server is busy":         {func(context.Context) error { return apierrors.NewTooManyRequests("busy", 5) }, time.Minute, 2},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dir := t.TempDir()
				a := &archive{}
				s := openSpool(t, dir, archiverFunc(func(ctx context.Context, worker string, opts *batch.WorkerArchiveOptions, body []byte) error {
					if test.answer != nil && len(body) > 0 {
						return test.answer(ctx)
					}
					return a.store(ctx, worker, opts, body)
				}))
				s.Start(t.Context(), "inc")
				mustAdd(t, s, setNumber(1), recordOf(1), "")
				mustAdd(t, s, setNumber(2), recordOf(1), "")
				started := time.Now()
				stop(t, s)
				if took := time.Since(started); took > test.want {
					t.Errorf("It took %v, more than %v.", took, test.want)
				}
				if names := filesIn(t, dir); len(names) != test.left {
					t.Errorf("%v are left, want %d.", names, test.left)
				}
				next := openSpool(t, dir, a)
				next.Start(t.Context(), "next")
				synctest.Wait()
				stop(t, next)
				if got := len(a.keys()); got != 2 || len(filesIn(t, dir)) > 0 {
					t.Errorf("After the next process, %d segments are stored, %v are left.", got, filesIn(t, dir))
				}
			})
		})
	}
}

type archiverFunc func(context.Context, string, *batch.WorkerArchiveOptions, []byte) error

func (f archiverFunc) Archive(ctx context.Context, worker string, opts *batch.WorkerArchiveOptions, body []byte) (*metav1.Status, error) {
	return nil, f(ctx, worker, opts, body)
}

// TestInterruptions kills processes in the middle of all that a spool does. In the end, every attempt must be in the
// archive once.
func TestInterruptions(t *testing.T) {
	seed := rand.Uint64()
	t.Log("The seed is", seed)
	synctest.Test(t, func(t *testing.T) {
		interrupt(t, rand.New(rand.NewPCG(seed, 0)), rand.New(rand.NewPCG(seed, 1)))
	})
}

func interrupt(t *testing.T, random, randomOfServer *rand.Rand) {
	dir, want := t.TempDir(), map[string]int{}
	a := &archive{}
	a.answer = func(_ *batch.WorkerArchiveOptions, size int) error {
		if size > 0 && randomOfServer.IntN(4) == 0 {
			return unavailable
		}
		return nil
	}
	a.lose = func(ctx context.Context) error {
		if randomOfServer.IntN(4) == 0 {
			return errors.New("connection reset") // stored, but not acknowledged
		}
		return ctx.Err()
	}
	index := int32(0)
	for round := range 50 {
		s := openSpool(t, dir, a)
		s.Start(t.Context(), fmt.Sprintf("inc-%d", round))
		for range random.IntN(30) {
			set := setNumber(random.IntN(3))
			if set == setNumber(0) {
				set = ""
			}
			switch random.IntN(10) {
			case 0:
				s.Release(set)
			case 1:
				time.Sleep(time.Duration(random.IntN(3000)) * time.Millisecond)
			case 2:
				time.Sleep(maxAge)
			default:
				record, output := recordOf(index), fmt.Sprintf("output %d", index)
				if s.Add(set, record, []byte(output)) {
					want[fmt.Sprintf("%s/%s=%s", set, segment.EntryName(record), output)] = 1
				}
				index++
			}
		}
		if random.IntN(4) == 0 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(random.IntN(2000))*time.Millisecond)
			s.Stop(ctx)
			cancel()
			s.Close()
			continue
		}
		kill(s)
		for _, seg := range s.open {
			// The process was killed while it wrote another attempt.
			file, err := os.OpenFile(filepath.Join(dir, seg.name), os.O_APPEND|os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			_, err = file.Write(noise(random.IntN(100)))
			if err := errors.Join(err, file.Close()); err != nil {
				t.Fatal(err)
			}
		}
	}
	a.answer, a.lose = nil, nil
	s := openSpool(t, dir, a)
	s.Start(t.Context(), "last")
	synctest.Wait()
	stop(t, s)
	got := a.outputs(t)
	if len(want) < 100 || len(got) != len(want) {
		t.Errorf("%d attempts were kept, and %d are in the archive.", len(want), len(got))
	}
	for attempt := range want {
		if got[attempt] != 1 {
			t.Errorf("%q is %d times in the archive.", attempt, got[attempt])
		}
	}
	if names := filesIn(t, dir); len(names) > 0 || s.total != 0 || len(s.sets) > 0 {
		t.Errorf("In the end %v are left, %d bytes.", names, s.total)
	}
}

func TestADirectoryBelongsToOneProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, dir := &archive{}, t.TempDir()
		first := openSpool(t, dir, a)
		first.Start(t.Context(), "first")
		mustAdd(t, first, setNumber(1), recordOf(1), "")
		second := openSpool(t, dir, a)
		second.Start(t.Context(), "second")
		if second.Add(setNumber(1), recordOf(2), nil) {
			t.Error("An attempt is kept in a directory of another process.")
		}
		kill(first)
		time.Sleep(2 * lockInterval)
		synctest.Wait()
		if got, want := a.keys(), []string{string(setNumber(1)) + "/first-1"}; !slices.Equal(got, want) {
			t.Errorf("After the end of the other process, %v is stored, want %v.", got, want)
		}
		mustAdd(t, second, setNumber(1), recordOf(2), "")
		stop(t, second)
	})
}

func TestLookups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		away := &archive{answer: func(_ *batch.WorkerArchiveOptions, size int) error {
			if size > 0 {
				return unavailable
			}
			return nil
		}}
		dir := t.TempDir()
		before := openSpool(t, dir, away)
		before.Start(t.Context(), "before")
		mustAdd(t, before, setNumber(1), recordOf(1), "recovered\n")
		mustAdd(t, before, setNumber(1), recordOf(4), "lost worker\n")
		kill(before)
		s := openSpool(t, dir, away)
		s.Start(t.Context(), "inc")
		defer func() { kill(s) }()
		mustAdd(t, s, setNumber(1), recordOf(2), "ended\n")
		s.Release(setNumber(1))
		synctest.Wait()
		mustAdd(t, s, setNumber(1), recordOf(3), "open\n")
		time.Sleep(time.Second)
		synctest.Wait()
		mustAdd(t, s, setNumber(1), recordOf(4), "second run\n")
		mustAdd(t, s, setNumber(2), recordOf(1), "of another set\n")

		all := func(*batch.TaskRecord) bool { return true }
		records, next, err := s.Records(t.Context(), setNumber(1), "", 10, all)
		var found []int32
		for i := range records {
			found = append(found, *records[i].Index)
		}
		if want := []int32{1, 4, 2, 3, 4}; err != nil || next != "" || !slices.Equal(found, want) {
			t.Errorf("There are records of %v, %q, %v; want %v.", found, next, err, want)
		}
		for entry, want := range map[string]string{"1.0.1.log": "recovered\n", "2.0.1.log": "ended\n", "3.0.1.log": "open\n", "4.0.1.log": "second run\n"} {
			if output, found, err := s.Output(t.Context(), setNumber(1), entry); string(output) != want || !found || err != nil {
				t.Errorf("The output of %s is %q, %v, %v; want %q.", entry, output, found, err, want)
			}
		}
		if output, found, err := s.Output(t.Context(), setNumber(1), "5.0.1.log"); found || err != nil {
			t.Errorf("There is output of an attempt that was not: %q, %v.", output, err)
		}
		attempts, err := s.Task(t.Context(), "task-4")
		if err != nil || len(attempts) != 1 {
			t.Fatalf("The attempts at a task are %+v, %v.", attempts, err)
		}
		if output, found, err := attempts[0].Output(t.Context()); string(output) != "second run\n" || !found || err != nil {
			t.Errorf("Its output is %q, %v, %v.", output, found, err)
		}
		away.mu.Lock()
		away.answer = nil
		away.mu.Unlock()
		time.Sleep(maxAge + time.Minute)
		synctest.Wait()
		if output, found, err := attempts[0].Output(t.Context()); found || err != nil {
			t.Errorf("After the upload, its output is %q, %v.", output, err)
		}
		canceled, cancel := context.WithCancel(t.Context())
		cancel()
		for range maxLookups {
			s.lookups <- struct{}{}
		}
		if _, _, err := s.Output(canceled, setNumber(1), "1.0.1.log"); !errors.Is(err, context.Canceled) {
			t.Errorf("A look-up that waits for others ends with %v.", err)
		}
		for range maxLookups {
			<-s.lookups
		}
	})
}

func TestLookupsWhileAttemptsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &archive{}
		s := openSpool(t, t.TempDir(), a)
		s.Start(t.Context(), "inc")
		var adding, reading sync.WaitGroup
		for worker := range int32(4) {
			adding.Go(func() {
				for i := range int32(50) {
					if !s.Add(setNumber(1), recordOf(worker*1000+i), fmt.Appendf(nil, "%d", i)) {
						t.Error("An attempt is not kept.")
					}
					if i%10 == 0 {
						s.Release(setNumber(1))
					}
				}
			})
		}
		ended := make(chan struct{})
		for range 2 {
			reading.Go(func() {
				for {
					select {
					case <-ended:
						return
					default:
					}
					records, _, err := s.Records(t.Context(), setNumber(1), "", 1000, func(*batch.TaskRecord) bool { return true })
					if err != nil {
						t.Error(err)
					}
					for i := range records {
						want := fmt.Sprint(*records[i].Index % 1000)
						output, found, err := s.Output(t.Context(), setNumber(1), segment.EntryName(&records[i]))
						if err != nil || found && string(output) != want {
							t.Errorf("The output is %q, %v, want %q.", output, err, want)
						}
					}
				}
			})
		}
		adding.Wait()
		close(ended)
		reading.Wait()
		stop(t, s)
		if got := len(a.outputs(t)); got != 200 {
			t.Errorf("%d attempts are in the archive, want 200.", got)
		}
	})
}

func TestRecordsInPages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		away := &archive{answer: func(_ *batch.WorkerArchiveOptions, size int) error {
			if size > 0 {
				return unavailable
			}
			return nil
		}}
		dir := t.TempDir()
		s := openSpool(t, dir, away)
		s.Start(t.Context(), "z-before")
		for index := range int32(4) {
			mustAdd(t, s, setNumber(1), recordOf(index), "")
			if index == 1 {
				s.Release(setNumber(1))
			}
		}
		kill(s)
		s = openSpool(t, dir, away)
		s.Start(t.Context(), "a-after")
		defer func() { kill(s) }()
		for index := int32(4); index < 9; index++ {
			mustAdd(t, s, setNumber(1), recordOf(index), "")
		}
		for _, limit := range []int{1, 2, 3, 8, 9, 100} {
			var found []int32
			for next := ""; ; {
				records, after, err := s.Records(t.Context(), setNumber(1), next, limit, func(r *batch.TaskRecord) bool { return *r.Index != 3 })
				if err != nil || len(records) > limit {
					t.Fatalf("From %q, there are %v, %v.", next, records, err)
				}
				for i := range records {
					found = append(found, *records[i].Index)
				}
				if next = after; next == "" {
					break
				}
			}
			if want := []int32{4, 5, 6, 7, 8, 0, 1, 2}; !slices.Equal(found, want) {
				t.Errorf("In pages of %d, there are records of %v, want %v.", limit, found, want)
			}
		}

		_, next, err := s.Records(t.Context(), setNumber(1), "", 6, func(*batch.TaskRecord) bool { return true })
		if err != nil || next != "z-before_1_1" {
			t.Fatalf("The next position is %q, %v.", next, err)
		}
		s.mu.Lock()
		s.transition(s.segments[0], phaseGone) // it is sent meanwhile
		s.mu.Unlock()
		records, next, err := s.Records(t.Context(), setNumber(1), next, 6, func(*batch.TaskRecord) bool { return true })
		if err != nil || next != "" || len(records) != 2 || *records[0].Index != 2 {
			t.Errorf("After the segment was sent, there are %v, %q, %v; want those of the next segment.", records, next, err)
		}
		for _, position := range []string{"x", "a_1", "a_1_1_1", "a_-1_1", "../a_1_1"} {
			if _, _, err := s.Records(t.Context(), setNumber(1), position, 1, nil); !errors.Is(err, ErrPosition) {
				t.Errorf("From %q: %v.", position, err)
			}
		}
	})
}

func TestNoMoreOutputIsKeptThanTheServerAccepts(t *testing.T) {
	const configured = 1000
	synctest.Test(t, func(t *testing.T) {
		for name, test := range map[string]struct {
			status *metav1.Status
			want   int
		}{
			"less":                 {batch.ArchiveStatus(100), 100},
			"as much":              {batch.ArchiveStatus(configured), configured},
			"more":                 {batch.ArchiveStatus(1 << 40), configured},
			"nothing":              {batch.ArchiveStatus(0), 0},
			"what is not known":    {&metav1.Status{Status: metav1.StatusSuccess}, configured},
			"what is not a number": {&metav1.Status{Details: &metav1.StatusDetails{Causes: []metav1.StatusCause{{Type: batch.CauseMaxBytesPerAttempt, Message: "x"}}}}, configured},
		} {
			a := &archive{status: test.status}
			s := openSpool(t, t.TempDir(), a, func(o *Options) { o.MaxBytesPerAttempt = configured })
			s.Start(t.Context(), "inc")
			record := recordOf(1)
			record.OutputBytes = 2 * configured
			mustAdd(t, s, setNumber(1), record, strings.Repeat("x", 2*configured))
			records, _, err := s.Records(t.Context(), setNumber(1), "", 1, func(*batch.TaskRecord) bool { return true })
			if err != nil || len(records) != 1 || records[0].MissingBytes != int64(2*configured-test.want) {
				t.Errorf("The server accepts %s: got the records %v, %v.", name, records, err)
			}
			stop(t, s)
			if want := fmt.Sprintf("%s/1.0.1.log=%s", setNumber(1), strings.Repeat("x", test.want)); a.outputs(t)[want] != 1 {
				t.Errorf("The server accepts %s: got %v, want %d bytes.", name, a.outputs(t), test.want)
			}
		}
	})
}

func TestTheLimitOfTheServerMayChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &archive{}
		s := openSpool(t, t.TempDir(), a)
		s.Start(t.Context(), "inc")
		defer stop(t, s)
		for _, step := range []struct {
			status *metav1.Status
			want   int64
		}{
			{batch.ArchiveStatus(10), 10}, {batch.ArchiveStatus(20), 20}, {batch.ArchiveStatus(1 << 40), DefaultMaxBytesPerAttempt},
			{batch.ArchiveStatus(5), 5}, {nil, DefaultMaxBytesPerAttempt},
		} {
			a.mu.Lock()
			a.status = step.status
			a.mu.Unlock()
			time.Sleep(askInterval + time.Second)
			synctest.Wait()
			if got := s.maxBytesPerAttempt.Load(); got != step.want {
				t.Errorf("After %v, the spool keeps %d bytes, want %d.", step.status, got, step.want)
			}
		}
	})
}

func TestMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		registry := prometheus.NewRegistry()
		a := &archive{}
		var spools []*Spool
		for range 2 {
			s := openSpool(t, t.TempDir(), a, func(o *Options) { o.Metrics = NewMetrics(registry) })
			s.Start(t.Context(), "inc")
			mustAdd(t, s, setNumber(len(spools)), recordOf(1), "")
			spools = append(spools, s)
			time.Sleep(time.Minute)
			synctest.Wait()
		}
		if err := testutil.GatherAndCompare(registry, strings.NewReader(`
# HELP leat_worker_archive_oldest_unsent_age_seconds Age of the oldest segment that is not in the archive yet, 0 if there is none. A segment is sent ten minutes after its first attempt at the latest.
# TYPE leat_worker_archive_oldest_unsent_age_seconds gauge
leat_worker_archive_oldest_unsent_age_seconds 120
# HELP leat_worker_archive_spool_limit_bytes Bytes that the segments on the disk of the worker may have, --archive-max-spool-size. To make room, those that are not in the archive yet are removed, the oldest first.
# TYPE leat_worker_archive_spool_limit_bytes gauge
leat_worker_archive_spool_limit_bytes 2.147483648e+09
# HELP leat_worker_archive_unsent_segments Segments on the disk of the worker that are not in the archive yet.
# TYPE leat_worker_archive_unsent_segments gauge
leat_worker_archive_unsent_segments 2
`), "leat_worker_archive_oldest_unsent_age_seconds", "leat_worker_archive_spool_limit_bytes", "leat_worker_archive_unsent_segments"); err != nil {
			t.Error(err)
		}
		for _, s := range spools {
			stop(t, s)
		}
		if err := testutil.GatherAndCompare(registry, strings.NewReader(`
# HELP leat_worker_archive_unsent_bytes Bytes of the segments that are not in the archive yet.
# TYPE leat_worker_archive_unsent_bytes gauge
leat_worker_archive_unsent_bytes 0
# HELP leat_worker_archive_uploads_total Uploads of segments to the archive, by result (stored, refused, failed). Those that failed are sent again.
# TYPE leat_worker_archive_uploads_total counter
leat_worker_archive_uploads_total{result="stored"} 2
`), "leat_worker_archive_unsent_bytes", "leat_worker_archive_uploads_total"); err != nil {
			t.Error(err)
		}
	})
}

func TestANilSpoolKeepsNothing(t *testing.T) {
	var s *Spool
	s.Start(t.Context(), "inc")
	s.Release(setNumber(1))
	records, _, err := s.Records(t.Context(), setNumber(1), "", 1, nil)
	_, found, outputErr := s.Output(t.Context(), setNumber(1), "1.0.1.log")
	attempts, taskErr := s.Task(t.Context(), "task")
	if s.Add(setNumber(1), recordOf(1), nil) || len(s.Unarchived()) > 0 || s.Changed() != nil || len(records) > 0 || found || len(attempts) > 0 ||
		errors.Join(err, outputErr, taskErr) != nil {
		t.Error("Something is kept.")
	}
	s.Stop(t.Context())
	s.Close()
}

func TestInvalidOptions(t *testing.T) {
	for name, options := range map[string]Options{
		"attempts too large": {Dir: t.TempDir(), MaxBytesPerAttempt: MaxBytesPerAttempt + 1, MaxSize: MinMaxSize},
		"a spool too small":  {Dir: t.TempDir(), MaxSize: MinMaxSize - 1},
		"no directory":       {Dir: "/dev/null/spool", MaxSize: MinMaxSize},
	} {
		if _, err := Open(options); err == nil {
			t.Errorf("Opened with %s.", name)
		}
	}
}
