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
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/host"
)

// upFlags returns the flags of the environment that the suites share: two workers with the resources of the machine, a
// label, and a resource of their own.
func upFlags(metrics string) []string {
	return []string{
		"--workers=2", "--worker-tasks=8", "--worker-capacity=example.com/license=3", "--worker-labels=disk=ssd", "--metrics-bind-address=" + metrics,
	}
}

// upSuite runs tasks on the workers inside leat up.
type upSuite struct{ fixture }

func (s *upSuite) create(t *testing.T, name string, spec v1alpha1.TaskSpec) {
	t.Helper()
	kit.Must(s.api.Tasks(s.namespace).Create(t.Context(), &v1alpha1.Task{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec,
	}, metav1.CreateOptions{}))(t)
}

// up runs the cases that need no start of their own.
func up(t *testing.T, e *kit.Env, metrics string) {
	s := &upSuite{newFixture(t, e, "default")}
	t.Run("tasks", func(t *testing.T) { s.runsTasks(t, metrics) })
	t.Run("logs", func(t *testing.T) { logsOfBuiltInWorker(t, e) })
	t.Run("workers share the resources of the machine", s.sharesResources)
	t.Run("kubectl does not warn about the version", s.kubectlDoesNotWarn)
	t.Run("users ask for their names and rights", s.answersReviews)
	t.Run("deletion with any propagation policy", s.finishesDeletion)
}

func (s *upSuite) runsTasks(t *testing.T, metrics string) {
	kubeconfig := filepath.Join(s.env.DataDir(), "kubeconfig")

	t.Run("example with kubectl", func(t *testing.T) {
		root := kit.Must(host.RepositoryRoot())(t)
		for _, args := range [][]string{
			{"apply", "-f", filepath.Join(root, "artifacts", "examples", "task.yaml")},
			{"wait", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=1m", "tk/hello"},
		} {
			_, _, err := s.env.Kubectl(t, kubeconfig, "", args...)
			kit.Check(t, err)
		}
		out, _, err := s.env.Kubectl(t, kubeconfig, "", "get", "tk", "hello", "--no-headers")
		if fields := strings.Fields(out); err != nil || len(fields) != 7 || fields[1] != "Succeeded" || fields[3] != "0" || fields[4] != "1" {
			t.Errorf("kubectl get tk printed %q, %v", out, err)
		}
	})

	t.Run("success", func(t *testing.T) {
		mark := filepath.Join(t.TempDir(), "mark")
		s.create(t, "up-succeeds", v1alpha1.TaskSpec{
			Command: []string{"sh", "-c"}, Args: []string{`echo "$TASK_NAME $TASK_NAMESPACE $TASK_ATTEMPT $(GREETING)" > "$MARK"`},
			Env: []v1alpha1.EnvVar{{Name: "GREETING", Value: "hello"}, {Name: "MARK", Value: mark}},
		})
		task := s.waitForTask(t, "up-succeeds", "has succeeded", isSucceeded)
		terminated := task.Status.State.Terminated
		if terminated == nil || terminated.ExitCode != 0 || terminated.Reason != v1alpha1.TaskReasonCompleted ||
			terminated.StartedAt.IsZero() || terminated.FinishedAt.IsZero() {
			t.Errorf("got terminated %+v", terminated)
		}
		if task.Status.Attempts != 1 || task.Status.StartTime.IsZero() || task.Status.CompletionTime.IsZero() {
			t.Errorf("got status %+v", task.Status)
		}
		content, err := os.ReadFile(mark)
		if want := "up-succeeds default 1 hello\n"; err != nil || string(content) != want {
			t.Errorf("the command wrote %q, %v, want %q", content, err, want)
		}
	})

	t.Run("metrics", func(t *testing.T) {
		response, err := http.Get("http://" + metrics + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		page, err := io.ReadAll(response.Body)
		for _, name := range []string{"leat_task_binding_duration_seconds_count", "leat_taskset_task_start_duration_seconds_count", "leat_worker_running_tasks"} {
			if err != nil || !strings.Contains(string(page), "\n"+name) {
				t.Errorf("%d bytes of metrics have no %s: %v", len(page), name, err)
			}
		}
	})

	t.Run("failure", func(t *testing.T) {
		s.create(t, "up-fails", v1alpha1.TaskSpec{Command: []string{"sh", "-c", "echo out of luck; exit 3"}})
		task := s.waitForTask(t, "up-fails", "has failed", isFailed)
		terminated := task.Status.State.Terminated
		if terminated == nil || terminated.ExitCode != 3 || terminated.Reason != v1alpha1.TaskReasonError || !strings.Contains(terminated.Message, "out of luck") {
			t.Errorf("got terminated %+v", terminated)
		}
	})

	t.Run("program that does not exist", func(t *testing.T) {
		s.create(t, "up-unknown", v1alpha1.TaskSpec{Command: []string{"no-such-program"}})
		task := s.waitForTask(t, "up-unknown", "has failed", isFailed)
		if terminated := task.Status.State.Terminated; terminated == nil || terminated.Reason != v1alpha1.TaskReasonStartError ||
			!strings.Contains(terminated.Message, "no-such-program") {
			t.Errorf("got terminated %+v", terminated)
		}
	})

	t.Run("deletion of a running task", func(t *testing.T) {
		mark := filepath.Join(t.TempDir(), "mark")
		s.create(t, "up-deleted", v1alpha1.TaskSpec{
			Command: []string{"sh", "-c", `trap 'echo ended > "$MARK"; exit 0' TERM; while :; do sleep 0.05; done`},
			Env:     []v1alpha1.EnvVar{{Name: "MARK", Value: mark}},
		})
		s.waitForTask(t, "up-deleted", "runs", isRunning)
		if _, _, err := s.env.Kubectl(t, kubeconfig, "", "delete", "tk", "up-deleted", "--wait", "--timeout=1m"); err != nil {
			t.Fatal(err)
		}
		if content, err := os.ReadFile(mark); err != nil || string(content) != "ended\n" {
			t.Errorf("the command got no SIGTERM before the task was gone: %q, %v", content, err)
		}
	})
}

func (s *upSuite) sharesResources(t *testing.T) {
	s.create(t, "up-asks", v1alpha1.TaskSpec{
		Command: []string{"true"}, WorkerSelector: map[string]string{"disk": "ssd"},
		Resources: v1alpha1.TaskResources{Requests: v1alpha1.ResourceList{
			"cpu": resource.MustParse("100m"), "memory": resource.MustParse("1Mi"), "example.com/license": resource.MustParse("3"),
		}},
	})
	s.waitForTask(t, "up-asks", "has succeeded", isSucceeded)
	workers, err := s.api.Workers(s.namespace).List(t.Context(), metav1.ListOptions{LabelSelector: "disk=ssd"})
	if err != nil || len(workers.Items) != 2 {
		t.Fatalf("got %d workers, %v, want 2", len(workers.Items), err)
	}
	sum := resource.Quantity{}
	for _, w := range workers.Items {
		sum.Add(w.Status.Allocatable["cpu"])
	}
	if want := int64(runtime.GOMAXPROCS(0)) * 1000; sum.MilliValue() > want || sum.MilliValue() < want-1 {
		t.Errorf("two workers have %s CPUs in total, want %dm", sum.String(), want)
	}
}

func (s *upSuite) kubectlDoesNotWarn(t *testing.T) {
	out, errOut, err := s.env.Kubectl(t, filepath.Join(s.env.DataDir(), "kubeconfig"), "", "version")
	if err != nil || strings.Contains(out+errOut, "WARNING") || strings.Contains(out+errOut, "error") || !strings.Contains(out, "+leat.") {
		t.Errorf("kubectl version: got %v: %s%s", err, out, errOut)
	}
}

// TestUpAgain starts leat up with the sample and with a kubeconfig that has another cluster, and then stops, kills and
// restarts it.
func TestUpAgain(t *testing.T) {
	t.Parallel()
	kubeconfig := filepath.Join(t.TempDir(), "config")
	kit.Check(t, os.WriteFile(kubeconfig, []byte(otherCluster), 0o600))
	e := kit.Standalone(t, "--workers=1", "--worker-tasks=4", "--sample", "--kubeconfig="+kubeconfig)
	s := &upSuite{newFixture(t, e, "default")}
	t.Run("sample", s.sample)
	t.Run("kubeconfig keeps other clusters", func(t *testing.T) { s.kubeconfigIsMerged(t, kubeconfig) })
	t.Run("stopped", func(t *testing.T) { s.keepsEverything(t, "stopped", (*host.Process).Stop) })
	t.Run("killed", func(t *testing.T) { s.keepsEverything(t, "killed", (*host.Process).Kill) })
	if times := strings.Count(s.output(t), "A first set of tasks"); times != 1 {
		t.Errorf("the sample has run %d times in three starts, want once: %s", times, s.output(t))
	}
}

// keepsEverything ends leat up and starts it again, with tasks in each phase.
func (s *upSuite) keepsEverything(t *testing.T, name string, end func(*host.Process) error) {
	s.create(t, "finished-"+name, v1alpha1.TaskSpec{Command: []string{"true"}})
	before := s.waitForTask(t, "finished-"+name, "has succeeded", isSucceeded)

	// The first attempt never ends. The second, after the restart, succeeds at once.
	mark := filepath.Join(t.TempDir(), "mark")
	s.create(t, "interrupted-"+name, v1alpha1.TaskSpec{
		Command: []string{"sh", "-c", `if [ -e "$MARK" ]; then exit 0; fi; touch "$MARK"; exec sleep 3600`},
		Env:     []v1alpha1.EnvVar{{Name: "MARK", Value: mark}}, TerminationGracePeriodSeconds: new(int64),
	})
	s.waitForTask(t, "interrupted-"+name, "runs", isRunning)
	s.create(t, "pending-"+name, v1alpha1.TaskSpec{Command: []string{"true"}, WorkerSelector: map[string]string{"nobody": "has"}})
	s.waitForTask(t, "pending-"+name, "is unschedulable", func(task *v1alpha1.Task) bool {
		return meta.FindStatusCondition(task.Status.Conditions, v1alpha1.TaskScheduled) != nil
	})

	kit.Check(t, end(s.env.Server))
	kit.Check(t, s.env.Server.Restart(t.Context()))

	after := s.waitForTask(t, "finished-"+name, "exists", func(*v1alpha1.Task) bool { return true })
	if after.UID != before.UID || after.ResourceVersion != before.ResourceVersion {
		t.Errorf("the finished task had UID %s at %s, and has %s at %s", before.UID, before.ResourceVersion, after.UID, after.ResourceVersion)
	}
	again := s.waitForTask(t, "interrupted-"+name, "has succeeded after the restart", isSucceeded)
	if again.Status.Disruptions != 1 || again.Spec.WorkerName == "" {
		t.Errorf("interrupted task: got %d disruptions and worker %q, want 1 and a worker", again.Status.Disruptions, again.Spec.WorkerName)
	}
	workers, err := s.api.Workers(s.namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil || len(workers.Items) != 1 {
		t.Errorf("got %d workers, %v, want the one of before", len(workers.Items), err)
	}
	s.waitForTask(t, "pending-"+name, "is still pending", func(task *v1alpha1.Task) bool { return task.Status.Phase == v1alpha1.TaskPending })
}

// finishesDeletion deletes each kind with each propagation policy: standalone mode has no garbage collector.
func (s *upSuite) finishesDeletion(t *testing.T) {
	kubeconfig := filepath.Join(s.env.DataDir(), "kubeconfig")
	const objects = `
apiVersion: batch.leat.dev/v1alpha1
kind: Task
metadata: {name: NAME}
spec: {command: ["true"], workerSelector: {nobody: has}}
---
apiVersion: batch.leat.dev/v1alpha1
kind: TaskSet
metadata: {name: NAME}
spec: {template: {spec: {command: ["true"], workerSelector: {nobody: has}}}}
---
apiVersion: batch.leat.dev/v1alpha1
kind: TaskQueue
metadata: {name: NAME}
---
apiVersion: batch.leat.dev/v1alpha1
kind: Worker
metadata: {name: NAME}
`
	for _, cascade := range []string{"background", "foreground", "orphan"} {
		t.Run(cascade, func(t *testing.T) {
			manifests := strings.ReplaceAll(objects, "NAME", "x-"+cascade)
			_, _, err := s.env.Kubectl(t, kubeconfig, manifests, "create", "-f", "-")
			kit.Check(t, err)
			_, _, err = s.env.Kubectl(t, kubeconfig, manifests, "delete", "-f", "-", "--cascade="+cascade, "--timeout=20s")
			kit.Check(t, err)
		})
	}
	// The other suites expect no pending tasks in this namespace.
	kit.Check(t, s.api.Tasks(s.namespace).DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{
		LabelSelector: v1alpha1.LabelTaskSetName + "=x-orphan",
	}))
}

// output returns the output of leat up.
func (s *upSuite) output(t *testing.T) string {
	t.Helper()
	return string(kit.Must(os.ReadFile(s.env.Server.LogFile()))(t))
}

func (s *upSuite) sample(t *testing.T) {
	kit.Eventually(t, "the sample has run", func(context.Context) error {
		if output := s.output(t); !strings.Contains(output, "taskset/hello: Complete") || !strings.Contains(output, "100/100 done, 0 failed") {
			return errors.New(output)
		}
		return nil
	})
	set, err := s.api.TaskSets(s.namespace).Get(t.Context(), "hello", metav1.GetOptions{})
	if err != nil || set.Status.Succeeded != 100 {
		t.Errorf("the set of the sample: got %+v, %v", set, err)
	}
}

// leat runs the program to its end, and returns its output.
func leat(t *testing.T, args ...string) (output string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, kit.Program(t, "leat"), args...).CombinedOutput()
	return string(out), err
}

// upErrors starts leat up with invalid flags, and with the port and the data directory of another one.
func upErrors(t *testing.T, e *kit.Env) {
	_, port, _ := strings.Cut(strings.TrimPrefix(e.Admin(t).Host, "https://"), ":")
	garbage := filepath.Join(t.TempDir(), "garbage")
	kit.Check(t, os.WriteFile(garbage, []byte("no: [kubeconfig"), 0o600))
	for name, test := range map[string]struct {
		args []string
		want string
	}{
		"data directory in use":    {[]string{"--data-dir=" + e.DataDir(), "--secure-port=0"}, e.DataDir()},
		"port in use":              {[]string{"--data-dir=" + t.TempDir(), "--secure-port=" + port}, "choose another --secure-port"},
		"port out of range":        {[]string{"--data-dir=" + t.TempDir(), "--secure-port=70000"}, "from 0 to 65535"},
		"negative workers":         {[]string{"--data-dir=" + t.TempDir(), "--workers=-1"}, "0 or more"},
		"no tasks per worker":      {[]string{"--data-dir=" + t.TempDir(), "--worker-tasks=0"}, "1 or more"},
		"invalid capacity":         {[]string{"--data-dir=" + t.TempDir(), "--worker-capacity=cpu=lots"}, "--worker-capacity cpu=lots: the quantity must be"},
		"invalid labels":           {[]string{"--data-dir=" + t.TempDir(), "--worker-labels=a b=c"}, "--worker-labels"},
		"invalid kubeconfig":       {[]string{"--data-dir=" + t.TempDir(), "--secure-port=0", "--kubeconfig=" + garbage}, garbage},
		"metrics on all addresses": {[]string{"--data-dir=" + t.TempDir(), "--metrics-bind-address=:9090"}, "must be a loopback address"},
		"sample without workers":   {[]string{"--data-dir=" + t.TempDir(), "--sample", "--workers=0"}, "no workers"},
		"argument":                 {[]string{"now"}, "unknown command"},
		"unknown flag":             {[]string{"--wrokers=3"}, "unknown flag"},
	} {
		t.Run(name, func(t *testing.T) {
			output, err := leat(t, append([]string{"up"}, test.args...)...)
			if err == nil || !strings.Contains(output, test.want) {
				t.Errorf("leat up %s: got %v, output %q, want a failure with %q", strings.Join(test.args, " "), err, output, test.want)
			}
		})
	}
}

// otherCluster is a kubeconfig.
const otherCluster = `apiVersion: v1
kind: Config
clusters: [{name: other, cluster: {server: "https://other.example"}}]
users: [{name: other, user: {token: abc}}]
contexts: [{name: other, context: {cluster: other, user: other}}]
current-context: other
`

func (s *upSuite) kubeconfigIsMerged(t *testing.T, file string) {
	config := kit.Must(clientcmd.LoadFromFile(file))(t)
	if config.CurrentContext != "leat" {
		t.Errorf("got the current context %q, want leat", config.CurrentContext)
	}
	if other := config.Clusters["other"]; other == nil || other.Server != "https://other.example" || config.AuthInfos["other"].Token != "abc" {
		t.Errorf("the other cluster has changed: %+v", config)
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("got mode %v of the kubeconfig, %v, want 0600", info.Mode(), err)
	}
	if _, _, err := s.env.Kubectl(t, file, "", "get", "tk"); err != nil {
		t.Error(err)
	}
}
