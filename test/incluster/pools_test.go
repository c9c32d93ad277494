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
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/pool"
	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/host"
)

// poolOf is a pool in a namespace of its own.
type poolOf struct {
	*managed
	namespace, name string
	kubelet         *kit.Kubelet
}

// newPool creates a pool of zero to three workers with two slots each. It is idle for two seconds.
func newPool(t *testing.T, s *managed) *poolOf {
	t.Helper()
	const name = "blender"
	p := &poolOf{managed: s, namespace: s.Namespace(t), name: name}
	p.kubelet = s.StartKubelet(t, p.namespace, "--tasks=2", "--pool="+name, "--drain-timeout=1h")
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: pool.ObjectName(name)}}
	kit.Must(s.cluster.CoreV1().ServiceAccounts(p.namespace).Create(t.Context(), account, metav1.CreateOptions{}))(t)
	s.BindClusterRole(t, p.namespace, pool.ObjectName(name), pool.WorkerRole,
		rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: p.namespace, Name: account.Name})
	s.BindClusterRole(t, p.namespace, pool.ScalerBinding(name), pool.ScalerRole, managerSubject)
	settings := pool.Settings{Min: 0, Max: 3, Idle: 2 * time.Second, Worker: pool.Worker{
		Allocatable: v1alpha1.ResourceList{"tasks": resource.MustParse("2")},
	}}
	p.create(t, newStatefulSet(name, kit.Must(settings.Annotations())(t)))
	return p
}

// managerSubject is the service account of the controller manager.
var managerSubject = rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: "leat-system", Name: "leat-controller-manager"}

// newStatefulSet returns a StatefulSet of workers without a number of replicas.
func newStatefulSet(name string, annotations map[string]string) *appsv1.StatefulSet {
	labels := map[string]string{"app": name}
	return &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{v1alpha1.LabelPool: name}, Annotations: annotations},
		Spec: appsv1.StatefulSetSpec{
			PodManagementPolicy: appsv1.ParallelPodManagement, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec: corev1.PodSpec{
					ServiceAccountName: pool.ObjectName(name), TerminationGracePeriodSeconds: new(int64(3600)),
					Containers: []corev1.Container{{Name: "worker", Image: "worker"}},
				},
			},
		},
	}
}

func (p *poolOf) create(t *testing.T, set *appsv1.StatefulSet) {
	t.Helper()
	kit.Must(p.cluster.AppsV1().StatefulSets(p.namespace).Create(t.Context(), set, metav1.CreateOptions{}))(t)
}

func (p *poolOf) statefulSet(ctx context.Context) (*appsv1.StatefulSet, error) {
	return p.cluster.AppsV1().StatefulSets(p.namespace).Get(ctx, p.name, metav1.GetOptions{})
}

// awaitReplicas waits until the StatefulSet is to have so many replicas.
func (p *poolOf) awaitReplicas(t *testing.T, want int32) {
	t.Helper()
	kit.Eventually(t, fmt.Sprintf("the pool has %d replicas", want), func(ctx context.Context) error {
		set, err := p.statefulSet(ctx)
		if err == nil && *set.Spec.Replicas != want {
			err = fmt.Errorf("it has %d", *set.Spec.Replicas)
		}
		return err
	})
}

// awaitGone waits until the pool is at zero, with neither pods nor Workers.
func (p *poolOf) awaitGone(t *testing.T) {
	t.Helper()
	p.awaitReplicas(t, 0)
	kit.Eventually(t, "pods and Workers are gone", func(ctx context.Context) error {
		pods, err := p.cluster.CoreV1().Pods(p.namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		workers, err := p.api.Workers(p.namespace).List(ctx, metav1.ListOptions{})
		if err == nil && len(pods.Items)+len(workers.Items) > 0 {
			err = fmt.Errorf("%d pods and %d Workers are left", len(pods.Items), len(workers.Items))
		}
		return err
	})
}

// awaitEvent waits for an event of a StatefulSet that contains a text, and returns its note.
func (p *poolOf) awaitEvent(t *testing.T, statefulSet, reason, text string) (note string) {
	t.Helper()
	kit.Eventually(t, "StatefulSet "+statefulSet+" has the event "+reason, func(ctx context.Context) error {
		list, err := p.cluster.EventsV1().Events(p.namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, event := range list.Items {
			if event.Regarding.Name == statefulSet && event.Reason == reason && strings.Contains(event.Note, text) {
				note = event.Note
				return nil
			}
		}
		return fmt.Errorf("not among %d events", len(list.Items))
	})
	return note
}

// run creates tasks of the pool that sleep from zero to a second.
func (p *poolOf) run(t *testing.T, n int) {
	t.Helper()
	kit.Check(t, inParallel(t.Context(), 8, n, func(ctx context.Context, i int) error {
		task := kit.NewTask(fmt.Sprintf("task-%d", i), "sleep", fmt.Sprintf("0.%d", i%10))
		task.Spec.Pool = p.name
		_, err := p.api.Tasks(p.namespace).Create(ctx, task, metav1.CreateOptions{})
		return err
	}))
}

// awaitFinished waits until so many tasks have succeeded. It returns the disruptions of all tasks.
func (p *poolOf) awaitFinished(t *testing.T, n int) (disruptions int32) {
	t.Helper()
	kit.Eventually(t, fmt.Sprintf("%d tasks have succeeded", n), func(ctx context.Context) error {
		list, err := p.api.Tasks(p.namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		phases := map[v1alpha1.TaskPhase]int{}
		disruptions = 0
		for _, task := range list.Items {
			phases[task.Status.Phase]++
			disruptions += task.Status.Disruptions
		}
		if phases[v1alpha1.TaskSucceeded] < n {
			return fmt.Errorf("the tasks are %v", phases)
		}
		return nil
	})
	return disruptions
}

// watchReplicas records the numbers of replicas. The returned function ends that and returns them.
func (p *poolOf) watchReplicas(t *testing.T) (stop func() []int32) {
	t.Helper()
	watcher := kit.Must(p.cluster.AppsV1().StatefulSets(p.namespace).Watch(t.Context(), metav1.ListOptions{}))(t)
	var seen []int32
	var wg sync.WaitGroup
	wg.Go(func() {
		for event := range watcher.ResultChan() {
			if set, ok := event.Object.(*appsv1.StatefulSet); ok {
				seen = append(seen, *set.Spec.Replicas)
			}
		}
	})
	return func() []int32 {
		watcher.Stop()
		wg.Wait()
		return slices.Compact(seen)
	}
}

// testPoolWork checks that a pool goes from zero to what the tasks need and back, and that no command ends for that.
func testPoolWork(t *testing.T, s *managed) {
	const n = 100
	p := newPool(t, s)
	p.awaitGone(t) // from the one replica that a StatefulSet has by default
	stop := p.watchReplicas(t)
	p.run(t, n)
	p.awaitReplicas(t, 3)
	if disruptions := p.awaitFinished(t, n); disruptions > 0 {
		t.Errorf("%d tasks were disrupted", disruptions)
	}
	p.awaitGone(t)
	if seen := stop(); slices.Max(seen) > 3 || slices.Min(seen) < 0 {
		t.Errorf("the replicas were %v, want 0 to 3", seen)
	}
}

// testPoolRollout checks that a pool works on while its pods are replaced by others. Workers that are stopped end their
// commands, which run again.
func testPoolRollout(t *testing.T, s *managed) {
	const n = 60
	p := newPool(t, s)
	p.run(t, n)
	p.awaitFinished(t, n/4)
	kit.Must(s.cluster.AppsV1().StatefulSets(p.namespace).Patch(t.Context(), p.name, types.StrategicMergePatchType,
		[]byte(`{"spec": {"template": {"metadata": {"annotations": {"version": "2"}}}}}`), metav1.PatchOptions{}))(t)
	p.awaitFinished(t, n)
	p.awaitGone(t)
}

// testPoolNode checks that the task of a node that dies runs again on the next worker of the pool.
func testPoolNode(t *testing.T, s *managed) {
	p := newPool(t, s)
	task := kit.NewTask("task", "sh", "-c", "test -e started && exit 0; touch started; exec sleep 600")
	task.Spec.Pool, task.Spec.WorkingDir = p.name, t.TempDir()
	kit.Must(s.api.Tasks(p.namespace).Create(t.Context(), task, metav1.CreateOptions{}))(t)
	var worker string
	kit.Eventually(t, "the task is running", func(ctx context.Context) error {
		task, err := s.api.Tasks(p.namespace).Get(ctx, "task", metav1.GetOptions{})
		if err == nil && task.Status.Phase != v1alpha1.TaskRunning {
			err = fmt.Errorf("it is %s", task.Status.Phase)
		}
		if err == nil {
			worker = task.Spec.WorkerName
		}
		return err
	})
	kit.Check(t, p.kubelet.Kill(worker))
	kit.Check(t, s.cluster.CoreV1().Pods(p.namespace).Delete(t.Context(), worker, metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))}))
	p.awaitFinished(t, 1)
	p.awaitGone(t)
}

// testPoolForeign checks that the controller leaves a pool alone that a person scales, also to zero, until the person
// runs the command that the event names.
func testPoolForeign(t *testing.T, s *managed) {
	p := newPool(t, s)
	p.awaitReplicas(t, 0)
	kubectl := func(args ...string) {
		t.Helper()
		kit.Must(s.run(t, s.Host.AdminKubeconfig, "kubectl", args...))(t)
	}
	scale := func(replicas int32, manager string) (resume string) {
		t.Helper()
		kubectl("scale", "statefulset", p.name, "--namespace="+p.namespace, fmt.Sprintf("--replicas=%d", replicas))
		note := p.awaitEvent(t, p.name, "ScaledByAnother", strconv.Quote(manager))
		p.awaitReplicas(t, replicas)
		_, resume, _ = strings.Cut(note, "run: kubectl ")
		return resume
	}
	kubectl(strings.Fields(scale(2, "kubectl"))...)
	p.awaitGone(t)

	task := kit.NewTask("task", "sleep", "600")
	task.Spec.Pool = p.name
	kit.Must(s.api.Tasks(p.namespace).Create(t.Context(), task, metav1.CreateOptions{}))(t)
	p.awaitReplicas(t, 1)
	resume := scale(0, "unknown") // the API server records no manager of zero replicas
	kubectl(strings.Fields(resume)...)
	p.awaitReplicas(t, 1)
	kit.Check(t, s.api.Tasks(p.namespace).Delete(t.Context(), "task", metav1.DeleteOptions{}))
	p.awaitGone(t)
}

// testPoolAttacks checks with the shipped roles that the controller scales nothing that is not a pool with a
// RoleBinding.
func testPoolAttacks(t *testing.T, s *managed) {
	p := &poolOf{managed: s, namespace: s.Namespace(t)}
	valid := kit.Must((&pool.Settings{Min: 2, Max: 3}).Annotations())(t)
	with := func(key, value string) map[string]string {
		annotations := maps.Clone(valid)
		annotations[key] = value
		return annotations
	}
	other := newStatefulSet("other-name", valid)
	other.Labels[v1alpha1.LabelPool] = "database"
	unlabelled := newStatefulSet("unlabelled", valid)
	unlabelled.Labels = nil
	sets := map[string]*appsv1.StatefulSet{
		"":                 unlabelled,
		"InvalidPool":      newStatefulSet("database", nil),
		"InvalidPool name": other,
		"InvalidPool max":  newStatefulSet("million", with(pool.AnnotationMax, "1000000")),
		"InvalidPool json": newStatefulSet("json", with(pool.AnnotationWorker, "[]")),
		"ScalingForbidden": newStatefulSet("unbound", valid),
	}
	for _, set := range sets {
		p.create(t, set)
	}
	for want, set := range sets {
		reason, _, _ := strings.Cut(want, " ")
		if reason == "" {
			continue
		}
		text := ""
		if reason == "ScalingForbidden" {
			text = pool.ScalerBinding(set.Name)
		}
		p.awaitEvent(t, set.Name, reason, text)
	}
	for _, set := range sets {
		got := kit.Must(s.cluster.AppsV1().StatefulSets(p.namespace).Get(t.Context(), set.Name, metav1.GetOptions{}))(t)
		if *got.Spec.Replicas != 1 || got.Generation != 1 {
			t.Errorf("StatefulSet %s: got %d replicas in generation %d, want it as it was created", set.Name, *got.Spec.Replicas, got.Generation)
		}
	}
}

// testPoolRights checks all that the controller manager may do in a namespace, and what a pool adds to that.
func testPoolRights(t *testing.T, s *managed) {
	namespace := s.Namespace(t)
	file := kit.Must(s.Host.ServiceAccountKubeconfig("leat-system", "leat-controller-manager"))(t)
	config := kit.Must(clientcmd.BuildConfigFromFlags("", file))(t)
	config.QPS = -1
	account := kit.Must(kubernetes.NewForConfig(config))(t)
	rights := func(ctx context.Context) ([]string, error) {
		review, err := account.AuthorizationV1().SelfSubjectRulesReviews().Create(ctx, &authorizationv1.SelfSubjectRulesReview{
			Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: namespace},
		}, metav1.CreateOptions{})
		if err != nil {
			return nil, err
		}
		var all []string
		for _, rule := range review.Status.ResourceRules {
			for _, group := range rule.APIGroups {
				for _, name := range rule.Resources {
					slices.Sort(rule.Verbs)
					all = append(all, strings.TrimSpace(fmt.Sprintf("%s.%s %s: %s", name, group, strings.Join(rule.ResourceNames, ","), strings.Join(rule.Verbs, " "))))
				}
			}
		}
		slices.Sort(all)
		return slices.Compact(all), nil
	}
	want := strings.Split(strings.TrimSpace(managerRights), "\n")
	got := kit.Must(rights(t.Context()))(t)
	if !slices.Equal(got, want) {
		t.Errorf("the rights in any namespace: got\n%s", strings.Join(got, "\n"))
	}
	s.BindClusterRole(t, namespace, pool.ScalerBinding("blender"), pool.ScalerRole, managerSubject)
	want = append(want, "statefulsets/scale.apps : get patch")
	slices.Sort(want)
	kit.Eventually(t, "a pool adds the right to scale StatefulSets", func(ctx context.Context) error {
		got, err := rights(ctx)
		if err == nil && !slices.Equal(got, want) {
			err = errors.New("the rights are\n" + strings.Join(got, "\n"))
		}
		return err
	})
}

// managerRights are what the controller manager may do in any namespace.
const managerRights = `
apiservices.apiregistration.k8s.io v1alpha1.batch.leat.dev: create delete get patch
apiservices.apiregistration.k8s.io v1alpha1.batch.leat.dev: get
clusterroles.rbac.authorization.k8s.io leat:apiservice: get
clustertrustbundles.certificates.k8s.io : get list watch
events. : create patch
events.events.k8s.io : create patch
namespaces. : get
selfsubjectaccessreviews.authorization.k8s.io : create
selfsubjectreviews.authentication.k8s.io : create
selfsubjectrulesreviews.authorization.k8s.io : create
statefulsets.apps : get list watch
taskqueues.batch.leat.dev : delete list watch
taskqueues/status.batch.leat.dev : get patch update
tasks.batch.leat.dev : create delete get list patch watch
tasks/binding.batch.leat.dev : create
tasks/eviction.batch.leat.dev : create
tasks/status.batch.leat.dev : get patch update
tasksets.batch.leat.dev : delete get list update watch
tasksets/finalizers.batch.leat.dev : update
tasksets/status.batch.leat.dev : get patch update
workerleases.batch.leat.dev : delete get list
workers.batch.leat.dev : create delete get list update watch
workers/status.batch.leat.dev : update
`

// testPoolManagerKilled checks that a pool works on when the controller manager is killed in the middle.
func testPoolManagerKilled(t *testing.T, s *managed, manager *host.Process) {
	const n = 60
	p := newPool(t, s)
	p.run(t, n)
	p.awaitFinished(t, n/4)
	kit.Check(t, manager.Restart(t.Context()))
	if disruptions := p.awaitFinished(t, n); disruptions > 0 {
		t.Errorf("%d tasks were disrupted", disruptions)
	}
	p.awaitGone(t)
}
