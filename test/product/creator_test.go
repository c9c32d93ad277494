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
	"strings"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/utils/ptr"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit"
)

// creators checks that the server records the creator of sets and tasks, that nobody can choose another, and that
// "leat list --mine" finds them.
func (s *cliSuite) creators(t *testing.T) {
	me, _, err := s.env.Kubectl(t, s.kubeconfig, "", "auth", "whoami", "--output=jsonpath={.status.userInfo.username}")
	kit.Check(t, err)
	expect := func(t *testing.T, object metav1.ObjectMeta, want string) {
		t.Helper()
		if user, label := object.Annotations[batch.AnnotationCreatedBy], object.Labels[batch.LabelCreator]; user != want || label != batch.CreatorLabel(want) {
			t.Errorf("creator of %s: got %q and the label %q, want %q and %q", object.Name, user, label, want, batch.CreatorLabel(want))
		}
	}
	mine := kit.Client(t, kit.Must(clientcmd.BuildConfigFromFlags("", s.kubeconfig))(t)).BatchV1alpha1()
	somebody := kit.Client(t, s.env.Person(t, "somebody", "leat:admins")).BatchV1alpha1()

	forged := func(name string) metav1.ObjectMeta {
		return metav1.ObjectMeta{
			Name: name, Annotations: map[string]string{batch.AnnotationCreatedBy: "somebody", "note": "kept"},
			Labels: map[string]string{batch.LabelCreator: batch.CreatorLabel("somebody")},
		}
	}
	t.Run("a set and its tasks", func(t *testing.T) {
		set := kit.NewTaskSet("creators-mine", "sleep", "300")
		set.ObjectMeta = forged("creators-mine")
		set.Spec.Completions, set.Spec.Parallelism = ptr.To[int32](2), ptr.To[int32](2)
		set.Spec.Template.ObjectMeta = forged("")
		set = kit.Must(mine.TaskSets(s.namespace).Create(t.Context(), set, metav1.CreateOptions{}))(t)
		expect(t, set.ObjectMeta, me)
		s.waitForTaskSet(t, set.Name, "runs two tasks", haveReady(2))
		tasks := kit.Must(s.api.Tasks(s.namespace).List(t.Context(), metav1.ListOptions{LabelSelector: batch.LabelTaskSetName + "=" + set.Name}))(t)
		if len(tasks.Items) < 2 {
			t.Errorf("got %d tasks, want at least two", len(tasks.Items))
		}
		for _, task := range tasks.Items {
			expect(t, task.ObjectMeta, me)
			if task.Annotations["note"] != "kept" {
				t.Errorf("annotations of %s: got %v, want those of the template too", task.Name, task.Annotations)
			}
		}
	})
	t.Run("nobody changes it", func(t *testing.T) {
		for _, args := range [][]string{
			{"annotate", "tasksets/creators-mine", "--overwrite", batch.AnnotationCreatedBy + "=somebody", "other=1"},
			{"label", "tasksets/creators-mine", batch.LabelCreator + "-", "other=1"},
		} {
			_, _, err := s.env.Kubectl(t, s.kubeconfig, "", args...)
			kit.Check(t, err)
			set := kit.Must(s.api.TaskSets(s.namespace).Get(t.Context(), "creators-mine", metav1.GetOptions{}))(t)
			expect(t, set.ObjectMeta, me)
		}
	})
	t.Run("a task that claims another's set", func(t *testing.T) {
		if s.env.Standalone() {
			t.Skip("the person is an administrator, who may do this")
		}
		set := kit.NewTaskSet("creators-victim")
		set.Spec.Suspend = ptr.To(true)
		set = kit.Must(somebody.TaskSets(s.namespace).Create(t.Context(), set, metav1.CreateOptions{}))(t)
		expect(t, set.ObjectMeta, "somebody")
		task := kit.NewTask("creators-forged")
		task.ObjectMeta = forged(task.Name)
		owner := kit.OwnerReference(set, batch.SchemeGroupVersion.String(), "TaskSet")
		owner.Controller = ptr.To(true)
		task.OwnerReferences = []metav1.OwnerReference{owner}
		task = kit.Must(mine.Tasks(s.namespace).Create(t.Context(), task, metav1.CreateOptions{}))(t)
		expect(t, task.ObjectMeta, me)
	})
	t.Run("list", func(t *testing.T) {
		task := kit.Must(somebody.Tasks(s.namespace).Create(t.Context(), kit.NewTask("creators-theirs"), metav1.CreateOptions{}))(t)
		expect(t, task.ObjectMeta, "somebody")
		got := s.leat(t, "list", "--mine", "-o", "wide")
		got.expect(t, 0, `AGE +CREATOR\n(.*\n)*taskset/creators-mine .* `+me+`\n`, `^$`)
		if strings.Contains(got.out, "somebody") || strings.Contains(got.out, "creators-theirs") {
			t.Errorf("the list has work of others:\n%s", got.out)
		}
		s.leat(t, "list", "-o", "wide").expect(t, 0, `task/creators-theirs .* somebody\n`, `^$`)
	})
	s.leat(t, "delete", "taskset/creators-mine").expect(t, 0, "", "")
}

// answersReviews checks that leat up answers users who ask for their name and their rights, as a host cluster does.
func (s *upSuite) answersReviews(t *testing.T) {
	config := s.env.Person(t, "carol", "team")
	carol, admin := s.env.Kubeconfig(t, config, "default"), s.env.Kubeconfig(t, s.env.Admin(t), "default")
	out, _, err := s.env.Kubectl(t, carol, "", "auth", "whoami", "--output=jsonpath={.status.userInfo.username} {.status.userInfo.groups}")
	if want := `carol ["team","system:authenticated"]`; err != nil || out != want {
		t.Errorf("kubectl auth whoami: got %q, %v; want %q", out, err, want)
	}
	for _, test := range []struct {
		kubeconfig string
		args       []string
		want       string
	}{
		{admin, []string{"create", "tasks.batch.leat.dev"}, "yes"},
		{carol, []string{"create", "tasks.batch.leat.dev"}, "no"},
		{carol, []string{"get", "/version"}, "yes"},
		{carol, []string{"get", "/metrics"}, "no"},
	} {
		out, _, err := s.env.Kubectl(t, test.kubeconfig, "", append([]string{"auth", "can-i"}, test.args...)...)
		if strings.TrimSpace(out) != test.want || (err == nil) != (test.want == "yes") {
			t.Errorf("kubectl auth can-i %q: got %q, %v; want %s", test.args, out, err, test.want)
		}
	}
	reviews := kubernetes.NewForConfigOrDie(config).AuthorizationV1().SelfSubjectAccessReviews()
	if _, err := reviews.Create(t.Context(), &authorizationv1.SelfSubjectAccessReview{}, metav1.CreateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("a review of nothing: got %v, want that it is invalid", err)
	}
	if output := s.output(t); strings.Contains(output, "SHOULD NOT HAPPEN") {
		t.Errorf("the server could not handle a review: %s", output)
	}
}
