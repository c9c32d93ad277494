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
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/pool"
	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/host"
)

// jobsFixture runs leat for a namespace of the host.
type jobsFixture struct {
	*managed
	namespace, kubeconfig, home string
}

// testJobs checks that the host accepts all that "leat convert" prints, and that "leat run -f" creates the pool of a
// Job once.
func testJobs(t *testing.T, s *managed) {
	f := &jobsFixture{managed: s, namespace: s.Namespace(t), home: t.TempDir()}
	f.kubeconfig = s.Kubeconfig(t, s.HostConfig(t), f.namespace)
	maps := s.cluster.CoreV1().ConfigMaps(systemNamespace)
	_, err := maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: pool.InfoConfigMap}, Data: map[string]string{
		pool.InfoServer: "https://leat-apiserver.leat-system.svc", pool.InfoCA: "authority", pool.InfoClientCA: "authority", pool.InfoImage: "example.com/leat:1",
	}}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	root := kit.Must(host.RepositoryRoot())(t)
	for _, name := range []string{"job", "indexed", "policies", "cronjob", "convertible"} {
		t.Run("the host accepts what "+name+" is converted to", func(t *testing.T) {
			input := kit.Must(os.ReadFile(filepath.Join(root, "pkg", "convert", "testdata", name+".yaml")))(t)
			manifest := filepath.Join(t.TempDir(), "converted.yaml")
			converted, stderr, err := f.leat(t, strings.ReplaceAll(string(input), "namespace: render", "namespace: "+f.namespace), "convert", "-f", "-")
			if err != nil {
				t.Fatalf("leat convert: %v: %s", err, stderr)
			}
			kit.Check(t, os.WriteFile(manifest, []byte(converted), 0o600))
			verb := "apply"
			if name == "indexed" { // which has a generated name
				verb = "create"
			}
			out := kit.Must(f.run(t, f.kubeconfig, "kubectl", verb, "--dry-run=server", "--validate=strict", "--filename="+manifest))(t)
			for line := range strings.Lines(out) {
				if !strings.Contains(line, "created (server dry run)") {
					t.Errorf("kubectl %s: got %s, want that all objects would be created, without a warning", verb, line)
				}
			}
		})
	}

	job := func(image string) string {
		return fmt.Sprintf(`
apiVersion: batch/v1
kind: Job
metadata: {name: frames}
spec:
  completions: 5
  parallelism: 2
  template:
    spec:
      restartPolicy: Never
      containers: [{name: main, image: %s, command: [work]}]
`, image)
	}
	sets := s.cluster.AppsV1().StatefulSets(f.namespace)
	t.Run("a dry run creates nothing", func(t *testing.T) {
		f.want(t, job("example.com/main:1"), "taskset.batch.leat.dev/frames created (server dry run)", "run", "-f", "-", "--dry-run=server")
		if list := kit.Must(sets.List(t.Context(), metav1.ListOptions{}))(t); len(list.Items) > 0 {
			t.Errorf("got %d StatefulSets, want none", len(list.Items))
		}
	})
	t.Run("a Job is run on a new pool", func(t *testing.T) {
		f.want(t, job("example.com/main:1"), "pool/frames created", "run", "-f", "-", "--max", "7")
		workers := kit.Must(sets.Get(t.Context(), "frames", metav1.GetOptions{}))(t)
		settings := kit.Must(pool.Parse(workers))(t)
		if settings.Min != 0 || settings.Max != 7 || *workers.Spec.Replicas != 0 {
			t.Errorf("got %d to %d workers, and %d now; want 0 to 7, and none", settings.Min, settings.Max, *workers.Spec.Replicas)
		}
		// Flags are parsed in order, so an unknown one is an error before the help is printed.
		args := append(slices.Clone(workers.Spec.Template.Spec.Containers[0].Args), "--help")
		if out, err := exec.CommandContext(t.Context(), kit.Program(t, "leat-worker"), args...).CombinedOutput(); err != nil {
			t.Errorf("leat-worker with the arguments of the pool: got %v: %s", err, out)
		}
		set := kit.Must(s.api.TaskSets(f.namespace).Get(t.Context(), "frames", metav1.GetOptions{}))(t)
		if set.Spec.Template.Spec.Pool != "frames" || *set.Spec.Completions != 5 {
			t.Errorf("got a set of %d in pool %q, want 5 in frames", *set.Spec.Completions, set.Spec.Template.Spec.Pool)
		}
		for _, name := range []string{pool.ObjectName("frames"), pool.ScalerBinding("frames")} {
			kit.Must(s.cluster.RbacV1().RoleBindings(f.namespace).Get(t.Context(), name, metav1.GetOptions{}))(t)
		}
	})
	t.Run("an equal pool is used", func(t *testing.T) {
		f.want(t, job("example.com/main:1"), "taskset.batch.leat.dev/again created", "run", "-f", "-", "--name", "again")
	})
	t.Run("another pool is refused", func(t *testing.T) {
		f.wantError(t, job("example.com/main:2"), "pool frames exists, and its workers differ from the pods of the Job in spec.template.spec.containers[0].image: write --pool frames to use it as it is",
			"run", "-f", "-", "--name", "other")
		f.want(t, job("example.com/main:2"), "taskset.batch.leat.dev/other created", "run", "-f", "-", "--name", "other", "--pool", "frames")
	})
	t.Run("commands have the environment of the Job", func(t *testing.T) {
		// Stands for a pod of the pool: the environment is what the kubelet would make of that of its container.
		s.StartWorker(t, s.Worker(t, f.namespace, "shards-0"), f.namespace, "shards-0",
			[]string{"TOKEN=open-sesame", "LEVEL=9", "QUALITY=9/$5", "SHARD=", "NAME=shard-"}, "--pool=shards", "--tasks=1")
		f.want(t, `
apiVersion: batch/v1
kind: Job
metadata: {name: shards}
spec:
  completions: 3
  parallelism: 3
  completionMode: Indexed
  backoffLimit: 0
  template:
    spec:
      restartPolicy: Never
      containers:
      - name: main
        image: example.com/main:1
        command:
        - sh
        - -c
        - |
          i=$JOB_COMPLETION_INDEX got="$0 $1 $TOKEN $LEVEL $QUALITY $SHARD $NAME"
          echo "$i has $got"
          test "$got" = "9/\$5 shard-$i open-sesame 9 9/\$5 $i shard-$i"
        args: [$(QUALITY), $(NAME)]
        env:
        - {name: TOKEN, valueFrom: {secretKeyRef: {name: store, key: token}}}
        - {name: LEVEL, value: "9"}
        - {name: QUALITY, value: $(LEVEL)/$$5}
        - {name: SHARD, valueFrom: {fieldRef: {fieldPath: "metadata.annotations['batch.kubernetes.io/job-completion-index']"}}}
        - {name: NAME, value: shard-$(SHARD)}
`, "3 of 3 succeeded", "run", "-f", "-", "--wait")
	})
	t.Run("the pod of a CronJob that starts again finds its set", func(t *testing.T) {
		owner := kit.Must(s.cluster.BatchV1().Jobs(f.namespace).Create(t.Context(), &batchv1.Job{
			ObjectMeta: metav1.ObjectMeta{Name: "night"},
			Spec: batchv1.JobSpec{Suspend: new(true), Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{
				RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{Name: "leat", Image: "example.com/leat:1"}},
			}}},
		}, metav1.CreateOptions{}))(t)
		set := "apiVersion: batch.leat.dev/v1alpha1\nkind: TaskSet\nspec: {template: {spec: {command: [work], pool: frames}}}\n"
		for range 2 {
			f.want(t, set, "taskset.batch.leat.dev/night created", "run", "-f", "-", "--name", "night", "--owner", "night/"+string(owner.UID))
		}
		f.wantError(t, set, `tasksets.batch.leat.dev "night" already exists`, "run", "-f", "-", "--name", "night", "--owner", "night/other")
	})
	t.Run("objects of others stay", func(t *testing.T) {
		kit.Must(s.cluster.CoreV1().ConfigMaps(f.namespace).Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: pool.ObjectName("foreign")}}, metav1.CreateOptions{}))(t)
		f.wantError(t, strings.ReplaceAll(job("example.com/main:1"), "frames", "foreign"),
			"ConfigMap leat-pool-foreign exists and has no label "+batch.LabelPool+"=foreign", "run", "-f", "-")
	})
}

// leat runs leat with the input, and returns what it prints.
func (f *jobsFixture) leat(t testing.TB, stdin string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	command := exec.CommandContext(ctx, kit.Program(t, "leat"), args...)
	command.Env = slices.Concat(os.Environ(), []string{"KUBECONFIG=" + f.kubeconfig, "HOME=" + f.home})
	command.Stdin = strings.NewReader(stdin)
	var out, errOut bytes.Buffer
	command.Stdout, command.Stderr = &out, &errOut
	err = command.Run()
	return out.String(), errOut.String(), err
}

// want runs leat, and expects success and a text.
func (f *jobsFixture) want(t testing.TB, stdin, text string, args ...string) {
	t.Helper()
	if out, errOut, err := f.leat(t, stdin, args...); err != nil || !strings.Contains(out+errOut, text) {
		t.Errorf("leat %s: got %v, %s%s; want %q", strings.Join(args, " "), err, out, errOut, text)
	}
}

// wantError runs leat, and expects an error with a text.
func (f *jobsFixture) wantError(t testing.TB, stdin, text string, args ...string) {
	t.Helper()
	if out, errOut, err := f.leat(t, stdin, args...); err == nil || !strings.Contains(errOut, text) {
		t.Errorf("leat %s: got %v, %s%s; want an error with %q", strings.Join(args, " "), err, out, errOut, text)
	}
}
