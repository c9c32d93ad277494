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
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/archive/segment"
	typed "github.com/leat-dev/leat/pkg/generated/clientset/versioned/typed/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/host"
	"github.com/leat-dev/leat/test/kit/measure"
)

const (
	// archiveWorkers is the number of workers of each subject, and archiveSlots that of the tasks of one.
	archiveWorkers, archiveSlots = 2, 4
	// outputSize is the size of the output of an index, which is base64 of random bytes: it does not shrink.
	outputSize = 1 << 10
	// archiveRound is how many indexes the sets have that are compared in turns.
	archiveRound = 20_000
	// storedSegments are those of the set whose output is read.
	storedSegments = 200
	// firstByteReads is how often output is read.
	firstByteReads = 100
)

// Names of subjects, values and measurements of the archive.
const (
	withoutArchive = "no archive"
	inDirectory    = "directory"
	inS3           = "S3 (versitygw)"

	whatEchoed    = "echo of 1 KiB"
	whatMany      = "echo of 1 KiB, many"
	whatAway      = "echo of 1 KiB, store away"
	whatCommand   = "leat logs SET --index LAST"
	whatOneRead   = "log of any index of SET"
	valueCPUSum   = "cpu ms of all an index"
	valueCPUStore = "of the store"
	valueObjectsN = "objects stored"
	valueMiB      = "MiB stored"
	valueArrived  = "records there"
	valueLate     = "s until all there"
	valueSegments = "segments"
)

// archiveSubject is a leat-apiserver with or without an archive, and a namespace whose workers it serves.
type archiveSubject struct {
	label, namespace string
	env              *kit.Env
	api              typed.BatchV1alpha1Interface
	// dir has the stored segments as files. It is empty without an archive.
	dir string
	// store is the process of the store, nil without one.
	store   *host.Process
	workers []*host.Process
	sets    int
}

// measureArchive runs sets whose indexes print on servers with and without an archive, in turns, and reads output.
func (b *bench) measureArchive() {
	manager := b.startManager("bench-archive")
	defer func() { b.scene.Check(manager.Stop()) }()
	subjects := b.archiveSubjects()
	defer func() {
		for _, s := range subjects {
			for _, worker := range s.workers {
				b.scene.Check(worker.Kill())
			}
		}
	}()
	for round := warmUp; round < b.Rounds; round++ {
		n := min(archiveRound, b.Indexes)
		if round == warmUp {
			n = min(n, warmUpTasks)
		}
		for _, s := range rotated(subjects, round) {
			v := b.runEchoes(s, subjects, manager, n)
			if round == warmUp {
				continue
			}
			b.collector.add(partArchive, whatEchoed, s.label, "", v)
			b.note("round %d: %-14s %5.0f/s, %s ms of CPU an index", round+1, s.label, v[valueRate], number(v[valueCPUSum]))
		}
	}
	for _, s := range subjects[1:] {
		v := b.runEchoes(s, subjects, manager, b.Indexes)
		b.collector.add(partArchive, whatMany, s.label, "", v)
		b.note("%s: %d indexes in %.0f objects", s.label, b.Indexes, v[valueObjectsN])
	}
	b.measureFirstByte(subjects[1])
	b.measureAway(subjects[2], subjects, manager)
}

// archiveSubjects starts the servers, stores and workers.
func (b *bench) archiveSubjects() []*archiveSubject {
	s3, err := host.StartS3(b.scene.Context(), host.S3Options{Dir: filepath.Join(b.scene.ArtifactDir(), "s3")})
	b.scene.Check(err)
	b.scene.Cleanup(func() { b.scene.Check(s3.Kill()) })
	dir := filepath.Join(b.scene.ArtifactDir(), "archive")
	subjects := []*archiveSubject{
		{label: withoutArchive, namespace: "bench-archive-off", env: b.scene.env},
		{label: inDirectory, namespace: "bench-archive-dir", dir: dir, env: b.scene.env.Replica(b.scene,
			"--archive="+(&url.URL{Scheme: "file", Path: dir}).String())},
		{label: inS3, namespace: "bench-archive-s3", dir: s3.BucketDir, store: s3.Process, env: b.scene.env.Replica(b.scene,
			"--archive=s3://"+s3.Bucket+"/bench", "--archive-s3-endpoint="+s3.Endpoint, "--archive-s3-ca-file="+s3.CAFile,
			"--archive-s3-credentials-file="+s3.CredentialsFile)},
	}
	for _, s := range subjects {
		s.api = kit.Client(b.scene, s.env.Direct(b.scene, user)).BatchV1alpha1()
		b.scene.createNamespace(s.namespace)
		for i := range archiveWorkers {
			name := fmt.Sprintf("%s-%d", s.namespace, i)
			s.workers = append(s.workers, s.env.StartWorker(b.scene, s.env.Worker(b.scene, s.namespace, name), s.namespace, name, nil,
				"--name="+name, "--namespace="+s.namespace, "--tasks="+strconv.Itoa(archiveSlots), "--v=0",
				"--capacity=cpu=64", "--state-dir="+filepath.Join(b.scene.ArtifactDir(), "state")))
		}
	}
	return subjects
}

// runEchoes runs a set of n indexes and waits until its output is where it stays.
func (b *bench) runEchoes(s *archiveSubject, subjects []*archiveSubject, manager *host.Process, n int) values {
	cpu, store := b.archiveCPU(subjects, manager), b.storeCPU(s)
	set, took := b.startEchoes(s, n)()
	b.awaitArchived(s)
	b.scene.pause(settleTime)
	cpuAfter, storeAfter := b.archiveCPU(subjects, manager), b.storeCPU(s)
	v := values{
		valueIndexes: float64(n), valueSeconds: took.Seconds(), valueRate: float64(n) / took.Seconds(),
		valueCPUSum: milliseconds(cpuAfter-cpu) / float64(n),
	}
	if s.dir != "" {
		v[valueObjectsN], v[valueMiB] = b.storedObjects(s, set.UID)
	}
	if s.store != nil {
		v[valueCPUStore] = milliseconds(storeAfter-store) / float64(n)
	}
	return v
}

// startEchoes creates a set whose indexes print outputSize bytes. The returned function waits until it is complete, and
// returns the time that it took.
func (b *bench) startEchoes(s *archiveSubject, n int) (wait func() (*batch.TaskSet, time.Duration)) {
	s.sets++
	set := newSet(n, "echo", randomText(outputSize-1))
	set.Name = fmt.Sprintf("echo-%d", s.sets)
	begun := time.Now()
	set, err := s.api.TaskSets(s.namespace).Create(b.scene.Context(), set, metav1.CreateOptions{})
	b.scene.Check(err)
	return func() (*batch.TaskSet, time.Duration) {
		for {
			now, err := s.api.TaskSets(s.namespace).Get(b.scene.Context(), set.Name, metav1.GetOptions{})
			b.scene.Check(err)
			switch {
			case now.Status.Failed > 0:
				b.scene.Fatalf("set %s of %s has %d failures", set.Name, s.label, now.Status.Failed)
			case meta.IsStatusConditionTrue(now.Status.Conditions, batch.TaskSetComplete):
				return now, time.Since(begun)
			}
			b.scene.pause(lifePoll)
		}
	}
}

// awaitArchived waits until no worker holds output of a set.
func (b *bench) awaitArchived(s *archiveSubject) {
	b.scene.await("the archive of "+s.label, func(ctx context.Context) error {
		list, err := s.api.Workers(s.namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, worker := range list.Items {
			if n := len(worker.Status.Unarchived); n > 0 {
				return fmt.Errorf("worker %s holds output of %d sets", worker.Name, n)
			}
		}
		return nil
	})
}

// archiveCPU returns the CPU time of Leat and etcd, without the commands of tasks.
func (b *bench) archiveCPU(subjects []*archiveSubject, manager *host.Process) (sum time.Duration) {
	pids := []int{manager.PID(), b.scene.pid(leatEtcd)}
	for _, other := range subjects {
		pids = append(pids, other.env.Server.PID())
		for _, worker := range other.workers {
			pids = append(pids, worker.PID())
		}
	}
	for _, pid := range pids {
		cpu, err := measure.CPU(pid)
		b.scene.Check(err)
		sum += cpu
	}
	return sum
}

// storeCPU returns the CPU time of the process of the store.
func (b *bench) storeCPU(s *archiveSubject) time.Duration {
	if s.store == nil {
		return 0
	}
	cpu, err := measure.CPU(s.store.PID())
	b.scene.Check(err)
	return cpu
}

// storedObjects returns the number and the size of the segments of a set in the store.
func (b *bench) storedObjects(s *archiveSubject, set types.UID) (objects, mebibytes float64) {
	b.scene.Check(filepath.WalkDir(s.dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !strings.Contains(path, "/"+string(set)+"/") || filepath.Ext(path) != ".zip" {
			return err
		}
		info, err := entry.Info()
		if err == nil {
			objects++
			mebibytes += float64(info.Size()) / (1 << 20)
		}
		return err
	}))
	return objects, mebibytes
}

// measureAway runs a set while the store does not run, and counts the records after it has come back.
func (b *bench) measureAway(s *archiveSubject, subjects []*archiveSubject, manager *host.Process) {
	n := min(archiveRound, b.Indexes)
	b.scene.Check(s.store.Kill())
	cpu := b.archiveCPU(subjects, manager)
	set, took := b.startEchoes(s, n)()
	cpuAfter := b.archiveCPU(subjects, manager)
	back := time.Now()
	b.scene.Check(s.store.Restart(b.scene.Context()))
	b.awaitArchived(s)
	late := time.Since(back)
	v := values{
		valueIndexes: float64(n), valueSeconds: took.Seconds(), valueRate: float64(n) / took.Seconds(),
		valueCPUSum: milliseconds(cpuAfter-cpu) / float64(n), valueLate: late.Seconds(), valueArrived: float64(b.countRecords(s, set)),
	}
	v[valueObjectsN], v[valueMiB] = b.storedObjects(s, set.UID)
	b.collector.add(partArchive, whatAway, s.label, "", v)
	b.note("%s away: %.0f/s, and %.0f of %d records are there %.1f s after it is back", s.label, v[valueRate], v[valueArrived], n, v[valueLate])
}

// countRecords returns how many indexes of a set have a record.
func (b *bench) countRecords(s *archiveSubject, set *batch.TaskSet) int {
	indexes := map[int32]bool{}
	options := &batch.TaskRecordOptions{}
	for {
		list, err := s.api.TaskSets(s.namespace).Records(b.scene.Context(), set.Name, options)
		b.scene.Check(err)
		if len(list.Warnings) > 0 {
			b.scene.Fatalf("records of %s: %q", set.Name, list.Warnings)
		}
		for i := range list.Items {
			indexes[*list.Items[i].Index] = true
		}
		if options.Continue = list.Continue; options.Continue == "" {
			return len(indexes)
		}
	}
}

// measureFirstByte reads output of a set with many segments, by the command and by the API.
func (b *bench) measureFirstByte(s *archiveSubject) {
	set := b.fillArchive(s)
	last := int(*set.Spec.Completions) - 1
	kubeconfig := s.env.Kubeconfig(b.scene, s.env.Direct(b.scene, user), s.namespace)
	b.firstByte(s, whatCommand, func() (end func()) {
		logs := exec.CommandContext(b.scene.Context(), kit.Program(b.scene, "leat"), "logs", "--kubeconfig="+kubeconfig, set.Name, "--index="+strconv.Itoa(last))
		out, err := logs.StdoutPipe()
		b.scene.Check(err)
		b.scene.Check(logs.Start())
		_, err = out.Read(make([]byte, 1))
		b.scene.Check(err)
		return func() {
			_, err := io.Copy(io.Discard, out)
			b.scene.Check(errors.Join(err, logs.Wait()))
		}
	})
	b.firstByte(s, whatOneRead, func() (end func()) {
		index := rand.IntN(last + 1)
		stream, err := s.api.TaskSets(s.namespace).GetLogs(set.Name, &batch.TaskLogOptions{Indexes: strconv.Itoa(index)}).Stream(b.scene.Context())
		b.scene.Check(err)
		_, err = stream.Read(make([]byte, 1))
		b.scene.Check(err)
		return func() { b.scene.Check(stream.Close()) }
	})
}

// firstByte measures how long read takes to the first byte. end, which read returns, is not measured.
func (b *bench) firstByte(s *archiveSubject, what string, read func() (end func())) {
	var took []time.Duration
	for range firstByteReads {
		begun := time.Now()
		end := read()
		took = append(took, time.Since(begun))
		end()
	}
	slices.Sort(took)
	v := values{valueSegments: storedSegments, valueP50: quantile(took, 0.5), valueP99: quantile(took, 0.99)}
	b.collector.add(partArchive, what, s.label, "", v)
	b.note("%s: first byte p50 %.0f ms, p99 %.0f ms", what, v[valueP50], v[valueP99])
}

// fillArchive creates a set of b.Indexes that does not run, and stores the output of all indexes in storedSegments
// segments, as the workers of the namespace would.
func (b *bench) fillArchive(s *archiveSubject) *batch.TaskSet {
	set := newSet(max(b.Indexes, storedSegments), "true")
	set.Name, set.Spec.Suspend = "filled", new(true)
	set, err := s.api.TaskSets(s.namespace).Create(b.scene.Context(), set, metav1.CreateOptions{})
	b.scene.Check(err)
	const worker = "bench-filler"
	client := kit.Client(b.scene, s.env.Worker(b.scene, s.namespace, worker)).BatchV1alpha1().Workers(s.namespace)
	indexes := int(*set.Spec.Completions)
	for number := range storedSegments {
		body, err := b.segmentOf(worker, indexes*number/storedSegments, indexes*(number+1)/storedSegments)
		b.scene.Check(err)
		digest := sha256.Sum256(body)
		_, err = client.Archive(b.scene.Context(), worker, &batch.WorkerArchiveOptions{
			TaskSetUID: string(set.UID), Incarnation: "00000000-0000-4000-8000-000000000000", Segment: int64(number), Digest: hex.EncodeToString(digest[:]),
		}, body)
		b.scene.Check(err)
	}
	return set
}

// segmentOf returns a segment with an attempt at each of some indexes.
func (b *bench) segmentOf(worker string, from, to int) ([]byte, error) {
	path := filepath.Join(b.scene.TempDir(), "segment.zip")
	w, err := segment.Create(path)
	if err != nil {
		return nil, err
	}
	output := randomText(outputSize)
	for index := from; index < to; index++ {
		err := w.Add(&batch.TaskRecord{
			Index: new(int32(index)), TaskName: "filled-" + strconv.Itoa(index), TaskUID: types.UID(fmt.Sprintf("00000000-0000-4000-8000-%012d", index)),
			Attempt: 1, WorkerName: worker, StartTime: metav1.NowMicro(), DurationMilliseconds: 2, OutputBytes: outputSize,
		}, []byte(output))
		if err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return os.ReadFile(path)
}

// randomText returns printable text of so many bytes.
func randomText(size int) string {
	random := make([]byte, size)
	for i := range random {
		random[i] = byte(rand.Uint32())
	}
	return base64.StdEncoding.EncodeToString(random)[:size]
}
