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

package product

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit"
)

// TestOutputLasts checks that the output and the records of a set can be read after its tasks are gone, after a restart
// of everything, and after its workers and all that they kept are gone.
func TestOutputLasts(t *testing.T) {
	t.Parallel()
	e := kit.Standalone(t, "--workers=2", "--worker-tasks=4")
	s := newCLISuite(t, e, "default", e.Admin(t))
	const indexes = 300
	s.leat(t, "run", "--name=numbers", fmt.Sprintf("--array=%d", indexes), "--wait", "--", "sh", "-c", "echo line $TASK_INDEX; exit $((TASK_INDEX == 7))").
		expect(t, 1, "created", `leat logs`)

	t.Run("right afterwards", func(t *testing.T) { s.hasOutput(t, indexes) })
	kit.Check(t, e.Server.Stop())
	kit.Check(t, e.Server.Restart(t.Context()))
	t.Run("after a restart", func(t *testing.T) { s.hasOutput(t, indexes) })

	kit.Check(t, e.Server.Kill())
	spools := kit.Must(filepath.Glob(filepath.Join(e.DataDir(), "*", "spool")))(t)
	for _, dir := range append(spools, kit.Must(filepath.Glob(filepath.Join(e.DataDir(), "*", "logs")))(t)...) {
		kit.Check(t, os.RemoveAll(dir))
	}
	kit.Check(t, e.Server.Restart(t.Context()))
	kit.Check(t, s.api.Workers(s.namespace).DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{}))
	t.Run("after the workers and their files are gone", func(t *testing.T) { s.hasOutput(t, indexes) })

	t.Run("in files", func(t *testing.T) {
		dir := filepath.Join(s.directory, "out")
		s.leat(t, "logs", "numbers", "--index=5-9", "--output-dir="+dir).expect(t, 0, "", "")
		for index := 5; index <= 9; index++ {
			content := kit.Must(os.ReadFile(filepath.Join(dir, fmt.Sprintf("%d.log", index))))(t)
			if want := fmt.Sprintf("line %d\n", index); string(content) != want {
				t.Errorf("the file of index %d has %q, want %q", index, content, want)
			}
		}
		s.leat(t, "logs", "numbers", "--index=5", "--output-dir="+dir).expect(t, 1, "", `5\.log.*--overwrite`)
	})
	t.Run("of a set that is gone", func(t *testing.T) {
		kit.Check(t, s.api.TaskSets(s.namespace).Delete(t.Context(), "numbers", metav1.DeleteOptions{}))
		s.leat(t, "logs", "taskset/numbers").expect(t, 1, "^$", "not found")
	})
}

// hasOutput checks the output and the records of the set numbers, whose index 7 has failed.
func (s *cliSuite) hasOutput(t *testing.T, indexes int) {
	all := s.leat(t, "logs", "numbers")
	all.expect(t, 0, "", "^$")
	lines := strings.Split(strings.TrimSuffix(all.out, "\n"), "\n")
	var want []string
	for index := range indexes {
		want = append(want, fmt.Sprintf("[numbers/%d] line %d", index, index))
	}
	if !slices.Equal(slices.Sorted(slices.Values(lines)), slices.Sorted(slices.Values(want))) {
		t.Errorf("got %d lines, want one of each of %d indexes:\n%s", len(lines), indexes, all.out)
	}
	s.leat(t, "logs", "numbers", "--index=3,7-8").
		expect(t, 0, `^\[numbers/3\] line 3\n\[numbers/7\] line 7\n\[numbers/8\] line 8\n$`, "^$")
	s.leat(t, "logs", "numbers", "--failed").expect(t, 0, `^\[numbers/7\] line 7\n$`, "^$")
	s.leat(t, "history", "numbers", "--failed").expect(t, 0, `(?m)^7 +1 +\S+ +1 `, "^$")
	records := kit.Must(s.api.TaskSets(s.namespace).Records(t.Context(), "numbers", &batch.TaskRecordOptions{}))(t)
	if len(records.Items) != indexes {
		t.Errorf("got %d records, want %d", len(records.Items), indexes)
	}
}
