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

// upFlags are those of the environment that the suites share: two workers which have what the machine has, a label and a resource.
func upFlags(metrics string) []string {
	return []string{
		"--workers=2", "--worker-tasks=8", "--worker-capacity=example.com/license=3", "--worker-labels=disk=ssd", "--metrics-bind-address=" + metrics,
	}
}

// upSuite is leat up and its own workers.
type upSuite struct{ fixture }

func (s *upSuite) create(t *testing.T, name string, spec v1alpha1.TaskSpec) {
	t.Helper()
	kit.Must(s.api.Tasks(s.namespace).Create(t.Context(), &v1alpha1.Task{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec,
	}, metav1.CreateOptions{}))(t)
}

func up(t *testing.T, e *kit.Env, metrics string) {
	s := &upSuite{newFixture(t, e, "default")}
	t.Run("tasks run to their end", func(t *testing.T) { s.tasksRunToTheirEnd(t, metrics) })
	t.Run("logs of its workers", func(t *testing.T) { logsOfBuiltInWorker(t, e) })
	t.Run("workers have what the machine has", s.workersHaveWhatTheMachineHas)
	t.Run("kubectl does not warn of its version", s.kubectlDoesNotWarn)
	t.Run("deletion in any way is finished", s.deletionIsFinished)
	t.Run("mistakes are named", s.mistakesAreNamed)
}

func (s *upSuite) tasksRunToTheirEnd(t *testing.T, metrics string) {
	kubeconfig := filepath.Join(s.env.DataDir(), "kubeconfig")

	t.Run("the example, by kubectl", func(t *testing.T) {
		root, err := host.RepositoryRoot()
		if err != nil {
			t.Fatal(err)
		}
		for _, args := range [][]string{
			{"apply", "-f", filepath.Join(root, "artifacts", "examples", "task.yaml")},
			{"wait", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=1m", "tk/hello"},
		} {
			if _, _, err := s.env.Kubectl(t, kubeconfig, "", args...); err != nil {
				t.Fatal(err)
			}
		}
		out, _, err := s.env.Kubectl(t, kubeconfig, "", "get", "tk", "hello", "--no-headers")
		if fields := strings.Fields(out); err != nil || len(fields) != 6 || fields[1] != "Succeeded" || fields[3] != "0" || fields[4] != "1" {
			t.Errorf("kubectl get tk printed %q, %v", out, err)
		}
	})

	t.Run("success", func(t *testing.T) {
		mark := filepath.Join(t.TempDir(), "mark")
		s.create(t, "succeeds", v1alpha1.TaskSpec{
			Command: []string{"sh", "-c"}, Args: []string{`echo "$TASK_NAME $TASK_NAMESPACE $TASK_ATTEMPT $(GREETING)" > "$MARK"`},
			Env: []v1alpha1.EnvVar{{Name: "GREETING", Value: "hello"}, {Name: "MARK", Value: mark}},
		})
		task := s.waitForTask(t, "succeeds", "Succeeded", isSucceeded)
		terminated := task.Status.State.Terminated
		if terminated == nil || terminated.ExitCode != 0 || terminated.Reason != v1alpha1.TaskReasonCompleted ||
			terminated.StartedAt.IsZero() || terminated.FinishedAt.IsZero() {
			t.Errorf("terminated: %+v", terminated)
		}
		if task.Status.Attempts != 1 || task.Status.StartTime.IsZero() || task.Status.CompletionTime.IsZero() {
			t.Errorf("status: %+v", task.Status)
		}
		content, err := os.ReadFile(mark)
		if want := "succeeds default 1 hello\n"; err != nil || string(content) != want {
			t.Errorf("the command wrote %q, %v; want %q", content, err, want)
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
				t.Errorf("among %d bytes of metrics there is no %s: %v", len(page), name, err)
			}
		}
	})

	t.Run("failure", func(t *testing.T) {
		s.create(t, "fails", v1alpha1.TaskSpec{Command: []string{"sh", "-c", "echo out of luck; exit 3"}})
		task := s.waitForTask(t, "fails", "Failed", isFailed)
		terminated := task.Status.State.Terminated
		if terminated == nil || terminated.ExitCode != 3 || terminated.Reason != v1alpha1.TaskReasonError || !strings.Contains(terminated.Message, "out of luck") {
			t.Errorf("terminated: %+v", terminated)
		}
	})

	t.Run("a program that does not exist", func(t *testing.T) {
		s.create(t, "unknown", v1alpha1.TaskSpec{Command: []string{"no-such-program"}})
		task := s.waitForTask(t, "unknown", "Failed", isFailed)
		if terminated := task.Status.State.Terminated; terminated == nil || terminated.Reason != v1alpha1.TaskReasonStartError ||
			!strings.Contains(terminated.Message, "no-such-program") {
			t.Errorf("terminated: %+v", terminated)
		}
	})

	t.Run("deletion while it runs", func(t *testing.T) {
		mark := filepath.Join(t.TempDir(), "mark")
		s.create(t, "deleted", v1alpha1.TaskSpec{
			Command: []string{"sh", "-c", `trap 'echo ended > "$MARK"; exit 0' TERM; while :; do sleep 0.05; done`},
			Env:     []v1alpha1.EnvVar{{Name: "MARK", Value: mark}},
		})
		s.waitForTask(t, "deleted", "Running", isRunning)
		if _, _, err := s.env.Kubectl(t, kubeconfig, "", "delete", "tk", "deleted", "--wait", "--timeout=1m"); err != nil {
			t.Fatal(err)
		}
		if content, err := os.ReadFile(mark); err != nil || string(content) != "ended\n" {
			t.Errorf("the command was not told to end before its task was gone: %q, %v", content, err)
		}
	})
}

// What a worker has is what tasks can ask for.
func (s *upSuite) workersHaveWhatTheMachineHas(t *testing.T) {
	s.create(t, "asks", v1alpha1.TaskSpec{
		Command: []string{"true"}, WorkerSelector: map[string]string{"disk": "ssd"},
		Resources: v1alpha1.TaskResources{Requests: v1alpha1.ResourceList{
			"cpu": resource.MustParse("100m"), "memory": resource.MustParse("1Mi"), "example.com/license": resource.MustParse("3"),
		}},
	})
	s.waitForTask(t, "asks", "Succeeded", isSucceeded)
	workers, err := s.api.Workers(s.namespace).List(t.Context(), metav1.ListOptions{LabelSelector: "disk=ssd"})
	if err != nil || len(workers.Items) != 2 {
		t.Fatalf("%d workers, %v", len(workers.Items), err)
	}
	sum := resource.Quantity{}
	for _, w := range workers.Items {
		sum.Add(w.Status.Allocatable["cpu"])
	}
	if want := int64(runtime.GOMAXPROCS(0)) * 1000; sum.MilliValue() > want || sum.MilliValue() < want-1 {
		t.Errorf("two workers have %s processors together, and the machine %dm", sum.String(), want)
	}
}

func (s *upSuite) kubectlDoesNotWarn(t *testing.T) {
	out, errOut, err := s.env.Kubectl(t, filepath.Join(s.env.DataDir(), "kubeconfig"), "", "version")
	if err != nil || strings.Contains(out+errOut, "WARNING") || strings.Contains(out+errOut, "error") || !strings.Contains(out, "+leat.") {
		t.Errorf("kubectl version: %v: %s%s", err, out, errOut)
	}
}

// TestUpAgain stops and kills leat up and starts it again, with the sample and a kubeconfig that has another cluster.
func TestUpAgain(t *testing.T) {
	t.Parallel()
	kubeconfig := filepath.Join(t.TempDir(), "config")
	kit.Check(t, os.WriteFile(kubeconfig, []byte(otherCluster), 0o600))
	e := kit.Standalone(t, "--workers=1", "--worker-tasks=4", "--sample", "--kubeconfig="+kubeconfig)
	s := &upSuite{newFixture(t, e, "default")}
	t.Run("sample", s.sample)
	t.Run("kubeconfig keeps what it holds", func(t *testing.T) { s.kubeconfigIsMerged(t, kubeconfig) })
	t.Run("stopped", func(t *testing.T) { s.keepsEverything(t, "stopped", (*host.Process).Stop) })
	t.Run("killed", func(t *testing.T) { s.keepsEverything(t, "killed", (*host.Process).Kill) })
	if times := strings.Count(s.output(t), "A first set of tasks"); times != 1 {
		t.Errorf("after three starts the sample was run %d times: %s", times, s.output(t))
	}
}

func (s *upSuite) keepsEverything(t *testing.T, name string, end func(*host.Process) error) {
	s.create(t, "finished-"+name, v1alpha1.TaskSpec{Command: []string{"true"}})
	before := s.waitForTask(t, "finished-"+name, "Succeeded", isSucceeded)

	// The first run of this task never ends; the second, that of the next life, does at once.
	mark := filepath.Join(t.TempDir(), "mark")
	s.create(t, "interrupted-"+name, v1alpha1.TaskSpec{
		Command: []string{"sh", "-c", `if [ -e "$MARK" ]; then exit 0; fi; touch "$MARK"; exec sleep 3600`},
		Env:     []v1alpha1.EnvVar{{Name: "MARK", Value: mark}}, TerminationGracePeriodSeconds: new(int64),
	})
	s.waitForTask(t, "interrupted-"+name, "Running", isRunning)
	s.create(t, "pending-"+name, v1alpha1.TaskSpec{Command: []string{"true"}, WorkerSelector: map[string]string{"nobody": "has"}})
	s.waitForTask(t, "pending-"+name, "known to be unschedulable", func(task *v1alpha1.Task) bool {
		return meta.FindStatusCondition(task.Status.Conditions, v1alpha1.TaskScheduled) != nil
	})

	if err := end(s.env.Server); err != nil {
		t.Fatal(err)
	}
	if err := s.env.Server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}

	after := s.waitForTask(t, "finished-"+name, "there", func(*v1alpha1.Task) bool { return true })
	if after.UID != before.UID || after.ResourceVersion != before.ResourceVersion {
		t.Errorf("the finished task was %s at %s, and is %s at %s", before.UID, before.ResourceVersion, after.UID, after.ResourceVersion)
	}
	again := s.waitForTask(t, "interrupted-"+name, "Succeeded in the next life", isSucceeded)
	if again.Status.Disruptions != 1 || again.Spec.WorkerName == "" {
		t.Errorf("interrupted: disruptions %d on worker %q", again.Status.Disruptions, again.Spec.WorkerName)
	}
	workers, err := s.api.Workers(s.namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil || len(workers.Items) != 1 {
		t.Errorf("%d workers, %v; want the one of before", len(workers.Items), err)
	}
	s.waitForTask(t, "pending-"+name, "still pending", func(task *v1alpha1.Task) bool { return task.Status.Phase == v1alpha1.TaskPending })
}

// There is no garbage collector that finishes what is deleted in its way.
func (s *upSuite) deletionIsFinished(t *testing.T) {
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
}

// output returns what leat up has printed.
func (s *upSuite) output(t *testing.T) string {
	t.Helper()
	return string(kit.Must(os.ReadFile(s.env.Server.LogFile()))(t))
}

func (s *upSuite) sample(t *testing.T) {
	kit.Eventually(t, "the sample has run", func(context.Context) error {
		if said := s.output(t); !strings.Contains(said, "taskset/hello: Complete") || !strings.Contains(said, "100/100 done, 0 failed") {
			return errors.New(said)
		}
		return nil
	})
	set, err := s.api.TaskSets(s.namespace).Get(t.Context(), "hello", metav1.GetOptions{})
	if err != nil || set.Status.Succeeded != 100 {
		t.Errorf("the set of the sample: %+v, %v", set, err)
	}
}

// leat runs the program to its end.
func leat(t *testing.T, args ...string) (output string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, kit.Program(t, "leat"), args...).CombinedOutput()
	return string(out), err
}

func (s *upSuite) mistakesAreNamed(t *testing.T) {
	_, port, _ := strings.Cut(strings.TrimPrefix(s.env.Admin(t).Host, "https://"), ":")
	garbage := filepath.Join(t.TempDir(), "garbage")
	if err := os.WriteFile(garbage, []byte("no: [kubeconfig"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		args []string
		want string
	}{
		"data directory in use":    {[]string{"--data-dir=" + s.env.DataDir(), "--secure-port=0"}, s.env.DataDir()},
		"port in use":              {[]string{"--data-dir=" + t.TempDir(), "--secure-port=" + port}, "choose another --secure-port"},
		"port out of range":        {[]string{"--data-dir=" + t.TempDir(), "--secure-port=70000"}, "from 0 to 65535"},
		"negative workers":         {[]string{"--data-dir=" + t.TempDir(), "--workers=-1"}, "0 or more"},
		"no tasks per worker":      {[]string{"--data-dir=" + t.TempDir(), "--worker-tasks=0"}, "1 or more"},
		"capacity that is none":    {[]string{"--data-dir=" + t.TempDir(), "--worker-capacity=cpu=lots"}, "--worker-capacity cpu=lots: the quantity must be"},
		"labels that are none":     {[]string{"--data-dir=" + t.TempDir(), "--worker-labels=a b=c"}, "--worker-labels"},
		"kubeconfig that is none":  {[]string{"--data-dir=" + t.TempDir(), "--secure-port=0", "--kubeconfig=" + garbage}, garbage},
		"metrics for all":          {[]string{"--data-dir=" + t.TempDir(), "--metrics-bind-address=:9090"}, "must be a loopback address"},
		"a sample for nobody":      {[]string{"--data-dir=" + t.TempDir(), "--sample", "--workers=0"}, "no workers"},
		"an argument":              {[]string{"now"}, "unknown command"},
		"a flag that is not there": {[]string{"--wrokers=3"}, "unknown flag"},
	} {
		t.Run(name, func(t *testing.T) {
			output, err := leat(t, append([]string{"up"}, test.args...)...)
			if err == nil || !strings.Contains(output, test.want) {
				t.Errorf("leat up %s: %v, printed %q; want it to fail and say %q", strings.Join(test.args, " "), err, output, test.want)
			}
		})
	}
}

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
		t.Errorf("the current context is %q", config.CurrentContext)
	}
	if other := config.Clusters["other"]; other == nil || other.Server != "https://other.example" || config.AuthInfos["other"].Token != "abc" {
		t.Errorf("what the file held is gone: %+v", config)
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode of the kubeconfig: %v, %v; want 0600", info.Mode(), err)
	}
	if _, _, err := s.env.Kubectl(t, file, "", "get", "tk"); err != nil {
		t.Error(err)
	}
}
