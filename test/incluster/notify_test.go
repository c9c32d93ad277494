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

package incluster

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/host"
)

// testNotify checks that the example prints a line for each set that ends, with the rights of the role view.
func testNotify(t *testing.T, s *managed) {
	namespace := s.Namespace(t)
	const user = "notify@example.com"
	s.BindClusterRole(t, namespace, "viewer", "view", kit.UserSubject(user))
	kubeconfig := s.Kubeconfig(t, s.Person(t, user), namespace)
	root := kit.Must(filepath.Abs("../.."))(t)
	script := kit.Must(host.StartProcess(t.Context(), host.Command{
		Name: "notify", Path: filepath.Join(root, "artifacts", "examples", "notify.sh"), Args: []string{namespace}, Dir: t.TempDir(),
		Env: []string{"PATH=" + filepath.Join(root, "bin", "host") + ":" + os.Getenv("PATH"), "KUBECONFIG=" + kubeconfig},
	}))(t)
	t.Cleanup(func() { kit.Check(t, script.Kill()) })
	printed := func(pattern string) func(context.Context) error {
		line := regexp.MustCompile("(?m)^" + namespace + "/" + pattern + "$")
		return func(context.Context) error {
			if content := kit.Must(os.ReadFile(script.LogFile()))(t); !line.Match(content) {
				return fmt.Errorf("no line is like %s in:\n%s", line, content)
			}
			return nil
		}
	}

	// Events from before the watch are not printed, and its begin cannot be seen.
	created := 0
	isWatching := printed(`empty-\d+: Completed: TaskSet completed`)
	kit.Eventually(t, "the end of an empty set is printed", func(ctx context.Context) error {
		set := kit.NewTaskSet(fmt.Sprintf("empty-%d", created))
		set.Spec.Completions = new(int32(0))
		created++
		if _, err := s.api.TaskSets(namespace).Create(ctx, set, metav1.CreateOptions{}); err != nil {
			return err
		}
		return isWatching(ctx)
	})
	set := kit.NewTaskSet("late")
	set.Spec.ActiveDeadlineSeconds = new(int64(1))
	kit.Must(s.api.TaskSets(namespace).Create(t.Context(), set, metav1.CreateOptions{}))(t)
	kit.Eventually(t, "a failure is printed", printed(`late: DeadlineExceeded: .+`))
	if content := string(kit.Must(os.ReadFile(script.LogFile()))(t)); strings.Contains(content, "rror") {
		t.Errorf("the script printed errors:\n%s", content)
	}
}
