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
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/worker/logs"
	"github.com/leat-dev/leat/pkg/worker/taskrunner"
	"github.com/leat-dev/leat/test/kit/testapi"
)

// BenchmarkShortTasks measures how fast one worker runs commands that end at once, from the binding to the last write,
// against an API in memory. An operation is one task; eight run at a time.
func BenchmarkShortTasks(b *testing.B) {
	server := testapi.New()
	tasks := server.Client().BatchV1alpha1().Tasks("default")
	options := testOptions()
	options.HeartbeatInterval = time.Hour
	w := New(server.Client(), testHost, options)
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan error)
	go func() { ended <- w.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			b.Error(err)
		}
	}()
	events, err := tasks.Watch(ctx, metav1.ListOptions{ResourceVersion: "0", FieldSelector: "status.phase=Succeeded"})
	if err != nil {
		b.Fatal(err)
	}
	defer events.Stop()
	next := 0
	start := func() {
		name := fmt.Sprint("t", next)
		next++
		if _, err := tasks.Create(ctx, &batch.Task{
			ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: batch.TaskSpec{Command: []string{"true"}},
		}, metav1.CreateOptions{}); err != nil {
			b.Error(err)
		}
		if _, err := tasks.Bind(ctx, name, &batch.Binding{
			ObjectMeta: metav1.ObjectMeta{Name: name}, Target: batch.BindingTarget{Name: "w", Incarnation: w.incarnation},
		}, metav1.CreateOptions{}); err != nil {
			b.Error(err)
		}
	}
	b.ReportAllocs()
	b.ResetTimer()
	for done := range b.N {
		for next < min(done+8, b.N) {
			start()
		}
		<-events.ResultChan()
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "tasks/s")
}

// BenchmarkChunk measures how fast one slot runs the indexes of chunks whose commands end at once, with everything
// included: logs, the API in memory, progress files and control groups as far as the machine has them. Beside it are a
// loop over os/exec, which has the output of each command, and one that only forks and waits. An operation is one
// index. The CPU time, that of the commands included, depends less on what else the machine does.
func BenchmarkChunk(b *testing.B) {
	for _, command := range [][]string{{"true"}, {"echo", "hello"}} {
		path, err := exec.LookPath(command[0])
		if err != nil {
			b.Fatal(err)
		}
		b.Run(command[0]+"/fork", func(b *testing.B) {
			null, err := os.Open(os.DevNull)
			if err != nil {
				b.Fatal(err)
			}
			defer null.Close()
			defer reportRate(b, cpuTime())
			for b.Loop() {
				pid, err := syscall.ForkExec(path, command, &syscall.ProcAttr{Env: os.Environ(), Files: []uintptr{null.Fd(), null.Fd(), null.Fd()}})
				if err == nil {
					_, err = syscall.Wait4(pid, nil, 0, nil)
				}
				if err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(command[0]+"/exec", func(b *testing.B) {
			defer reportRate(b, cpuTime())
			for b.Loop() {
				if _, err := exec.Command(path, command[1:]...).CombinedOutput(); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(command[0]+"/chunk", func(b *testing.B) { benchmarkChunks(b, command, nil) })
	}
}

// BenchmarkArchive compares indexes that print 1 KiB without an archive, where each has a file, and with an archive
// that costs nothing itself.
func BenchmarkArchive(b *testing.B) {
	command := []string{"echo", strings.Repeat("x", 1023)}
	b.Run("off", func(b *testing.B) { benchmarkChunks(b, command, nil) })
	b.Run("on", func(b *testing.B) { benchmarkChunks(b, command, droppingArchive{}) })
}

// droppingArchive is an archive that forgets what it keeps.
type droppingArchive struct{}

func (droppingArchive) Add(types.UID, *batch.TaskRecord, []byte) bool { return true }
func (droppingArchive) Expect(types.UID)                              {}
func (droppingArchive) MaxBytesPerAttempt() int64                     { return 1 << 20 }
func (droppingArchive) Release(types.UID)                             {}

func benchmarkChunks(b *testing.B, command []string, archive taskrunner.Archive) {
	server := testapi.New()
	tasks := server.Client().BatchV1alpha1().Tasks("default")
	store, err := logs.Open(logs.Options{Dir: b.TempDir(), MaxSize: logs.DefaultMaxSize, MaxTotalSize: logs.DefaultMaxTotalSize, Retention: time.Hour})
	if err != nil {
		b.Fatal(err)
	}
	defer store.Close()
	options := testOptions()
	options.HeartbeatInterval, options.Logs = time.Hour, store
	w := New(server.Client(), testHost, options)
	if archive != nil {
		w.config.Archive = archive
	}
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan error)
	go func() { ended <- w.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			b.Error(err)
		}
	}()
	events, err := tasks.Watch(ctx, metav1.ListOptions{ResourceVersion: "0", FieldSelector: "status.phase=Succeeded"})
	if err != nil {
		b.Fatal(err)
	}
	defer events.Stop()
	b.ReportAllocs()
	b.ResetTimer()
	defer reportRate(b, cpuTime())
	for chunk, left := 0, b.N; left > 0; chunk++ {
		name := fmt.Sprint("t", chunk)
		if _, err := tasks.Create(ctx, &batch.Task{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec:       batch.TaskSpec{Command: command, Indexes: fmt.Sprintf("0-%d", max(1, min(left, 1000)-1))},
		}, metav1.CreateOptions{}); err != nil {
			b.Fatal(err)
		}
		if _, err := tasks.Bind(ctx, name, &batch.Binding{
			ObjectMeta: metav1.ObjectMeta{Name: name}, Target: batch.BindingTarget{Name: "w", Incarnation: w.incarnation},
		}, metav1.CreateOptions{}); err != nil {
			b.Fatal(err)
		}
		left -= int((<-events.ResultChan()).Object.(*batch.Task).Status.CompletedCount)
	}
}

// reportRate reports the rate of a benchmark, and its CPU time since that was before.
func reportRate(b *testing.B, before time.Duration) {
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "indexes/s")
	b.ReportMetric(float64((cpuTime()-before).Microseconds())/float64(b.N), "cpu-µs/op")
}

// cpuTime returns the CPU time of this process and of the children that it has waited for.
func cpuTime() time.Duration {
	total := time.Duration(0)
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var usage syscall.Rusage
		if syscall.Getrusage(who, &usage) == nil {
			total += time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
		}
	}
	return total
}
