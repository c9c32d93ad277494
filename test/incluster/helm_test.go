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
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit"
)

// testHelm checks that Helm 4 handles a chart with Leat's kinds as it handles others, for a user with the host's
// ClusterRole admin.
func testHelm(t *testing.T, s *managed) {
	namespace := s.Namespace(t)
	kubeconfig := s.person(t, namespace)
	s.worker(t, namespace, "worker")
	helm := func(t *testing.T, args ...string) (string, error) {
		t.Helper()
		return s.run(t, kubeconfig, "helm", args...)
	}
	chart := filepath.Join("testdata", "set")
	set := func(t *testing.T, name string) *v1alpha1.TaskSet {
		t.Helper()
		return kit.Must(s.api.TaskSets(namespace).Get(t.Context(), name, metav1.GetOptions{}))(t)
	}
	ended := func(t *testing.T, name, condition string) {
		t.Helper()
		kit.Eventually(t, name+" is "+condition, func(ctx context.Context) error {
			set, err := s.api.TaskSets(namespace).Get(ctx, name, metav1.GetOptions{})
			if err == nil && !meta.IsStatusConditionTrue(set.Status.Conditions, condition) {
				err = fmt.Errorf("its status is %+v", set.Status)
			}
			return err
		})
	}

	t.Run("install, upgrade and roll back, with --wait", func(t *testing.T) {
		kit.Must(helm(t, "install", "good", chart, "--wait", "--timeout=60s"))(t)
		if got := *set(t, "good").Spec.Parallelism; got != 2 {
			t.Errorf("parallelism after the installation: got %d, want 2", got)
		}
		kit.Must(helm(t, "upgrade", "good", chart, "--wait", "--timeout=60s", "--set=parallelism=3"))(t)
		if got := *set(t, "good").Spec.Parallelism; got != 3 {
			t.Errorf("parallelism after the upgrade: got %d, want 3", got)
		}
		kit.Must(helm(t, "rollback", "good", "1", "--wait", "--timeout=60s"))(t)
		if got := *set(t, "good").Spec.Parallelism; got != 2 {
			t.Errorf("parallelism after the rollback: got %d, want 2", got)
		}
	})

	t.Run("a complete task set is ready", func(t *testing.T) {
		ended(t, "good", v1alpha1.TaskSetComplete)
		kit.Must(helm(t, "upgrade", "good", chart, "--wait", "--timeout=60s", "--set=parallelism=4"))(t)
	})

	t.Run("a failed task set fails the release", func(t *testing.T) {
		kit.Must(helm(t, "install", "bad", chart, "--set=script=exit 3", "--timeout=60s"))(t)
		ended(t, "bad", v1alpha1.TaskSetFailed)
		output, err := helm(t, "upgrade", "bad", chart, "--set=script=exit 3", "--set=parallelism=3", "--wait", "--timeout=30s")
		if err == nil || !strings.Contains(err.Error(), "TaskSet/"+namespace+"/bad") || !strings.Contains(err.Error(), "status: Failed") {
			t.Errorf("helm upgrade: got output %q and error %v, want that TaskSet/%s/bad failed", output, err, namespace)
		}
	})

	t.Run("helm does not wait for a task that is a hook", func(t *testing.T) {
		// docs/how-to/gitops.md says so.
		kit.Must(helm(t, "install", "hook", filepath.Join("testdata", "hook"), "--wait", "--timeout=60s"))(t)
		if task := kit.Must(s.api.Tasks(namespace).Get(t.Context(), "hook", metav1.GetOptions{}))(t); task.Status.Phase != v1alpha1.TaskPending {
			t.Errorf("phase of the hook: got %s, want Pending", task.Status.Phase)
		}
		kit.Must(helm(t, "uninstall", "hook"))(t)
	})

	t.Run("uninstall", func(t *testing.T) {
		kit.Must(helm(t, "uninstall", "good", "--wait", "--timeout=60s"))(t)
		kit.Must(helm(t, "uninstall", "bad", "--wait", "--timeout=60s"))(t)
		sets, queues := kit.Must(s.api.TaskSets(namespace).List(t.Context(), metav1.ListOptions{}))(t), kit.Must(s.api.TaskQueues(namespace).List(t.Context(), metav1.ListOptions{}))(t)
		if len(sets.Items) != 0 || len(queues.Items) != 0 {
			t.Errorf("got %d task sets and %d task queues, want none", len(sets.Items), len(queues.Items))
		}
	})
}
