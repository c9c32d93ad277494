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

package durability

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	typed "github.com/leat-dev/leat/pkg/generated/clientset/versioned/typed/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit"
)

// recordedSet is a set whose commands write their index to a file when they end.
type recordedSet struct {
	testing.TB
	api             typed.BatchV1alpha1Interface
	namespace, name string
	file            string
}

func startSet(t testing.TB, api typed.BatchV1alpha1Interface, namespace, name string, completions, parallelism int32) *recordedSet {
	t.Helper()
	s := &recordedSet{t, api, namespace, name, filepath.Join(t.TempDir(), "ended")}
	set := kit.NewTaskSet(name, "sh", "-c", `sleep 0.2; echo "$TASK_INDEX" >>"$FILE"`)
	set.Spec.Completions, set.Spec.Parallelism, set.Spec.CompletionMode = &completions, &parallelism, new(batch.IndexedCompletion)
	set.Spec.Template.Spec.Env = []batch.EnvVar{{Name: "FILE", Value: s.file}}
	kit.Must(api.TaskSets(namespace).Create(t.Context(), set, metav1.CreateOptions{}))(t)
	return s
}

func (s *recordedSet) await(what string, condition func(*batch.TaskSet) bool) *batch.TaskSet {
	s.Helper()
	return awaitSet(s, s.api, s.namespace, s.name, what, condition)
}

// expectDone waits until the set is complete and its tasks are deleted. Each index must be counted once, and its
// command must have ended at least once.
func (s *recordedSet) expectDone(completions int) {
	s.Helper()
	set := s.await("it is complete", complete)
	if want := fmt.Sprintf("0-%d", completions-1); int(set.Status.Succeeded) != completions || set.Status.Failed != 0 || set.Status.CompletedIndexes != want {
		s.Errorf("set %s: got status %+v, want completed indexes %s", s.name, set.Status, want)
	}
	ended := map[string]int{}
	for line := range strings.Lines(string(kit.Must(os.ReadFile(s.file))(s))) {
		ended[strings.TrimSpace(line)]++
	}
	again := 0
	for index := range completions {
		times := ended[strconv.Itoa(index)]
		if times == 0 {
			s.Errorf("set %s: index %d is counted, but its command has not ended", s.name, index)
		}
		again += max(0, times-1)
	}
	s.Logf("set %s: %d of %d indexes ran again after the restore", s.name, again, completions)
	kit.Eventually(s, "the tasks of "+s.name+" are deleted", func(ctx context.Context) error {
		tasks, err := s.api.Tasks(s.namespace).List(ctx, metav1.ListOptions{LabelSelector: batch.LabelTaskSetName + "=" + s.name})
		if err == nil && len(tasks.Items) > 0 {
			err = fmt.Errorf("%d are left, the first of them %s: %+v", len(tasks.Items), tasks.Items[0].Name, tasks.Items[0].Status)
		}
		return err
	})
}
