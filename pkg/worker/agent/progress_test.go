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
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clienttesting "k8s.io/client-go/testing"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// progressWrites returns the progress in each status update of a worker, in order.
func progressWrites(w *runningWorker) []string {
	var values []string
	for _, a := range w.api.Actions() {
		if update, ok := a.(clienttesting.UpdateAction); ok && a.Matches("update", "tasks/status") {
			values = append(values, update.GetObject().(*batch.Task).Status.Progress)
		}
	}
	return values
}

func TestProgressIsReported(t *testing.T) {
	f := newFixture(t)
	w := f.start(func(o *Options) { o.AnnounceDelay, o.ProgressInterval = 5*time.Millisecond, 20*time.Millisecond })
	f.run(w, "t", script(`echo 1/3 >"$TASK_PROGRESS_FILE"; until [ -e `+f.file("second")+` ]; do sleep 0.01; done
		printf garbage\\n2/3 >>"$TASK_PROGRESS_FILE"; until [ -e `+f.file("third")+` ]; do sleep 0.01; done
		echo >>"$TASK_PROGRESS_FILE"; echo 3/3 >>"$TASK_PROGRESS_FILE"; echo $TASK_PROGRESS_FILE >`+f.file("path")+`; touch "$TASK_PROGRESS_FILE.more"`))
	for _, step := range []struct{ progress, file string }{{"1/3", "second"}, {"2/3", "third"}} {
		f.await("t", "is at "+step.progress, func(task *batch.Task) bool { return task.Status.Progress == step.progress })
		timer := time.NewTimer(100 * time.Millisecond)
		<-timer.C
		f.must(os.WriteFile(f.file(step.file), nil, 0o600))
	}
	if task := f.awaitFinished("t"); task.Status.Progress != "3/3" {
		t.Errorf("at its end it is at %q", task.Status.Progress)
	}
	// The progress is polled often, but written only at the start, at the end and when it changes.
	if writes := progressWrites(w); len(writes) > 5 || writes[len(writes)-1] != "3/3" {
		t.Errorf("written were %q", writes)
	}
	path, err := os.ReadFile(f.file("path"))
	f.must(err)
	dir := filepath.Dir(strings.TrimSpace(string(path)))
	if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
		t.Errorf("%s is left with %v", dir, entries)
	}
	f.must(w.stop())
	if _, err := os.Stat(filepath.Dir(dir)); err == nil {
		t.Errorf("%s is left", filepath.Dir(dir))
	}
}

func TestProgressOfAShortTaskCostsNoWrite(t *testing.T) {
	f := newFixture(t)
	w := f.start()
	f.run(w, "t", script(`echo 2/2 >$TASK_PROGRESS_FILE`))
	if task := f.awaitFinished("t"); task.Status.Progress != "2/2" {
		t.Errorf("progress is %q", task.Status.Progress)
	}
	if writes := progressWrites(w); len(writes) != 1 {
		t.Errorf("written were %q", writes)
	}
}

func TestEachAttemptHasItsOwnProgress(t *testing.T) {
	f := newFixture(t)
	w := f.start()
	f.run(w, "t", script(`[ ! -e "$TASK_PROGRESS_FILE" ] || exit 9; [ $TASK_ATTEMPT = 2 ] || { echo 5/9 >$TASK_PROGRESS_FILE; exit 1; }; exit 3`, backoffLimit(1)))
	f.await("t", "waits after its first attempt", func(task *batch.Task) bool {
		return task.Status.State.Waiting != nil && task.Status.Progress == "5/9"
	})
	if s := f.awaitFinished("t").Status; s.Progress != "" || s.State.Terminated.ExitCode != 3 {
		t.Errorf("the second attempt, which reported nothing, has %q, %+v", s.Progress, s.State.Terminated)
	}
}
