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

// Package standalone tests "leat up" as a person uses it.
package standalone

import (
	"context"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/generated/clientset/versioned"
	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/host"
)

const namespace = "default"

// waitTask waits until the task is as it should be, and gives it.
func waitTask(t *testing.T, client versioned.Interface, name, what string, is func(*v1alpha1.Task) bool) *v1alpha1.Task {
	t.Helper()
	var task *v1alpha1.Task
	err := wait.PollUntilContextTimeout(t.Context(), 50*time.Millisecond, time.Minute, true, func(ctx context.Context) (bool, error) {
		var err error
		task, err = client.BatchV1alpha1().Tasks(namespace).Get(ctx, name, metav1.GetOptions{})
		return err == nil && is(task), nil
	})
	if err != nil {
		t.Fatalf("task %s is not %s: %v: %+v", name, what, err, task)
	}
	return task
}

func create(t *testing.T, client versioned.Interface, name string, spec v1alpha1.TaskSpec) {
	t.Helper()
	_, err := client.BatchV1alpha1().Tasks(namespace).Create(t.Context(), &v1alpha1.Task{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec,
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

func inPhase(phase v1alpha1.TaskPhase) func(*v1alpha1.Task) bool {
	return func(task *v1alpha1.Task) bool { return task.Status.Phase == phase }
}

func TestTasksRunToTheirEnd(t *testing.T) {
	metricsPort, err := host.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	metrics := "127.0.0.1:" + strconv.Itoa(metricsPort)
	e := kit.Standalone(t, "--workers=2", "--worker-tasks=2", "--metrics-bind-address="+metrics)
	client := kit.Client(t, e.Admin(t))
	kubeconfig := filepath.Join(e.DataDir(), "kubeconfig")

	t.Run("the example, by kubectl", func(t *testing.T) {
		root, err := host.RepositoryRoot()
		if err != nil {
			t.Fatal(err)
		}
		for _, args := range [][]string{
			{"apply", "-f", filepath.Join(root, "artifacts", "examples", "task.yaml")},
			{"wait", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=1m", "tk/hello"},
		} {
			if _, _, err := e.Kubectl(t, kubeconfig, "", args...); err != nil {
				t.Fatal(err)
			}
		}
		out, _, err := e.Kubectl(t, kubeconfig, "", "get", "tk", "hello", "--no-headers")
		if fields := strings.Fields(out); err != nil || len(fields) != 6 || fields[1] != "Succeeded" || fields[3] != "0" || fields[4] != "1" {
			t.Errorf("kubectl get tk printed %q, %v", out, err)
		}
	})

	t.Run("success", func(t *testing.T) {
		mark := filepath.Join(t.TempDir(), "mark")
		create(t, client, "succeeds", v1alpha1.TaskSpec{
			Command: []string{"sh", "-c"}, Args: []string{`echo "$TASK_NAME $TASK_NAMESPACE $TASK_ATTEMPT $(GREETING)" > "$MARK"`},
			Env: []v1alpha1.EnvVar{{Name: "GREETING", Value: "hello"}, {Name: "MARK", Value: mark}},
		})
		task := waitTask(t, client, "succeeds", "Succeeded", inPhase(v1alpha1.TaskSucceeded))
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
		create(t, client, "fails", v1alpha1.TaskSpec{Command: []string{"sh", "-c", "echo out of luck; exit 3"}})
		task := waitTask(t, client, "fails", "Failed", inPhase(v1alpha1.TaskFailed))
		terminated := task.Status.State.Terminated
		if terminated == nil || terminated.ExitCode != 3 || terminated.Reason != v1alpha1.TaskReasonError || !strings.Contains(terminated.Message, "out of luck") {
			t.Errorf("terminated: %+v", terminated)
		}
	})

	t.Run("a program that does not exist", func(t *testing.T) {
		create(t, client, "unknown", v1alpha1.TaskSpec{Command: []string{"no-such-program"}})
		task := waitTask(t, client, "unknown", "Failed", inPhase(v1alpha1.TaskFailed))
		if terminated := task.Status.State.Terminated; terminated == nil || terminated.Reason != v1alpha1.TaskReasonStartError ||
			!strings.Contains(terminated.Message, "no-such-program") {
			t.Errorf("terminated: %+v", terminated)
		}
	})

	t.Run("deletion while it runs", func(t *testing.T) {
		mark := filepath.Join(t.TempDir(), "mark")
		create(t, client, "deleted", v1alpha1.TaskSpec{
			Command: []string{"sh", "-c", `trap 'echo ended > "$MARK"; exit 0' TERM; while :; do sleep 0.05; done`},
			Env:     []v1alpha1.EnvVar{{Name: "MARK", Value: mark}},
		})
		waitTask(t, client, "deleted", "Running", inPhase(v1alpha1.TaskRunning))
		if _, _, err := e.Kubectl(t, kubeconfig, "", "delete", "tk", "deleted", "--wait", "--timeout=1m"); err != nil {
			t.Fatal(err)
		}
		if content, err := os.ReadFile(mark); err != nil || string(content) != "ended\n" {
			t.Errorf("the command was not told to end before its task was gone: %q, %v", content, err)
		}
	})
}

// What a worker has is what tasks can ask for.
func TestWorkersHaveWhatTheMachineHas(t *testing.T) {
	e := kit.Standalone(t, "--workers=2", "--worker-capacity=example.com/license=3", "--worker-labels=disk=ssd")
	client := kit.Client(t, e.Admin(t))
	create(t, client, "asks", v1alpha1.TaskSpec{
		Command: []string{"true"}, WorkerSelector: map[string]string{"disk": "ssd"},
		Resources: v1alpha1.TaskResources{Requests: v1alpha1.ResourceList{
			"cpu": resource.MustParse("100m"), "memory": resource.MustParse("1Mi"), "example.com/license": resource.MustParse("3"),
		}},
	})
	waitTask(t, client, "asks", "Succeeded", inPhase(v1alpha1.TaskSucceeded))
	workers, err := client.BatchV1alpha1().Workers(namespace).List(t.Context(), metav1.ListOptions{LabelSelector: "disk=ssd"})
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

func TestKubectlDoesNotWarnOfItsVersion(t *testing.T) {
	e := kit.Standalone(t)
	out, errOut, err := e.Kubectl(t, filepath.Join(e.DataDir(), "kubeconfig"), "", "version")
	if err != nil || strings.Contains(out+errOut, "WARNING") || strings.Contains(out+errOut, "error") || !strings.Contains(out, "+leat.") {
		t.Errorf("kubectl version: %v: %s%s", err, out, errOut)
	}
}

func TestRestartKeepsEverything(t *testing.T) {
	for name, end := range map[string]func(*host.Process) error{"stopped": (*host.Process).Stop, "killed": (*host.Process).Kill} {
		t.Run(name, func(t *testing.T) {
			e := kit.Standalone(t, "--workers=1", "--worker-tasks=2")
			client := kit.Client(t, e.Admin(t))
			create(t, client, "finished", v1alpha1.TaskSpec{Command: []string{"true"}})
			before := waitTask(t, client, "finished", "Succeeded", inPhase(v1alpha1.TaskSucceeded))

			// The first run of this task never ends; the second, that of the next life, does at once.
			mark := filepath.Join(t.TempDir(), "mark")
			create(t, client, "interrupted", v1alpha1.TaskSpec{
				Command: []string{"sh", "-c", `if [ -e "$MARK" ]; then exit 0; fi; touch "$MARK"; exec sleep 3600`},
				Env:     []v1alpha1.EnvVar{{Name: "MARK", Value: mark}}, TerminationGracePeriodSeconds: new(int64),
			})
			waitTask(t, client, "interrupted", "Running", inPhase(v1alpha1.TaskRunning))
			create(t, client, "pending", v1alpha1.TaskSpec{Command: []string{"true"}, WorkerSelector: map[string]string{"nobody": "has"}})
			waitTask(t, client, "pending", "known to be unschedulable", func(task *v1alpha1.Task) bool {
				return meta.FindStatusCondition(task.Status.Conditions, v1alpha1.TaskScheduled) != nil
			})

			if err := end(e.Server); err != nil {
				t.Fatal(err)
			}
			if err := e.Server.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}

			after := waitTask(t, client, "finished", "there", func(*v1alpha1.Task) bool { return true })
			if after.UID != before.UID || after.ResourceVersion != before.ResourceVersion {
				t.Errorf("the finished task was %s at %s, and is %s at %s", before.UID, before.ResourceVersion, after.UID, after.ResourceVersion)
			}
			again := waitTask(t, client, "interrupted", "Succeeded in the next life", inPhase(v1alpha1.TaskSucceeded))
			if again.Status.Disruptions != 1 || again.Spec.WorkerName == "" {
				t.Errorf("interrupted: disruptions %d on worker %q", again.Status.Disruptions, again.Spec.WorkerName)
			}
			workers, err := client.BatchV1alpha1().Workers(namespace).List(t.Context(), metav1.ListOptions{})
			if err != nil || len(workers.Items) != 1 {
				t.Errorf("%d workers, %v; want the one of before", len(workers.Items), err)
			}
			waitTask(t, client, "pending", "still pending", inPhase(v1alpha1.TaskPending))
		})
	}
}

// There is no garbage collector that finishes what is deleted in its way.
func TestDeletionInAnyWayIsFinished(t *testing.T) {
	e := kit.Standalone(t, "--workers=1")
	kubeconfig := filepath.Join(e.DataDir(), "kubeconfig")
	for _, cascade := range []string{"background", "foreground", "orphan"} {
		for kind, manifest := range map[string]string{
			"task":      `{"spec":{"command":["true"],"workerSelector":{"nobody":"has"}}}`,
			"taskset":   `{"spec":{"template":{"spec":{"command":["true"],"workerSelector":{"nobody":"has"}}}}}`,
			"taskqueue": `{}`,
			"worker":    `{}`,
		} {
			t.Run(kind+" "+cascade, func(t *testing.T) {
				kinds := map[string]string{"task": "Task", "taskset": "TaskSet", "taskqueue": "TaskQueue", "worker": "Worker"}
				object := strings.Replace(manifest, "{", `{"apiVersion":"batch.leat.dev/v1alpha1","kind":"`+kinds[kind]+`","metadata":{"name":"x-`+cascade+`"},`, 1)
				object = strings.Replace(object, ",}", "}", 1)
				if _, _, err := e.Kubectl(t, kubeconfig, object, "create", "-f", "-"); err != nil {
					t.Fatal(err)
				}
				if _, _, err := e.Kubectl(t, kubeconfig, "", "delete", kind, "x-"+cascade, "--cascade="+cascade, "--timeout=20s"); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

func TestSampleRunsOnce(t *testing.T) {
	e := kit.Standalone(t, "--workers=1", "--worker-tasks=4", "--sample")
	client := kit.Client(t, e.Admin(t))
	said := func() string {
		content, err := os.ReadFile(e.Server.LogFile())
		if err != nil {
			t.Fatal(err)
		}
		return string(content)
	}
	err := wait.PollUntilContextTimeout(t.Context(), 50*time.Millisecond, time.Minute, true, func(context.Context) (bool, error) {
		return strings.Contains(said(), "taskset/hello: Complete"), nil
	})
	if err != nil || !strings.Contains(said(), "100/100 done, 0 failed") {
		t.Errorf("the sample did not run: %v: %s", err, said())
	}
	set, err := client.BatchV1alpha1().TaskSets(namespace).Get(t.Context(), "hello", metav1.GetOptions{})
	if err != nil || set.Status.Succeeded != 100 {
		t.Errorf("the set of the sample: %+v, %v", set, err)
	}
	if err := e.Server.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := e.Server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	create(t, client, "later", v1alpha1.TaskSpec{Command: []string{"true"}})
	waitTask(t, client, "later", "Succeeded", inPhase(v1alpha1.TaskSucceeded))
	if times := strings.Count(said(), "A first set of tasks"); times != 1 {
		t.Errorf("after two starts the sample was run %d times: %s", times, said())
	}
}

// leat runs the program to its end.
func leat(t *testing.T, args ...string) (output string, err error) {
	t.Helper()
	root, err := host.RepositoryRoot()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, filepath.Join(root, "bin", "test", "leat"), args...).CombinedOutput()
	return string(out), err
}

func TestMistakesAreNamed(t *testing.T) {
	e := kit.Standalone(t)
	_, port, _ := strings.Cut(strings.TrimPrefix(e.Admin(t).Host, "https://"), ":")
	garbage := filepath.Join(t.TempDir(), "garbage")
	if err := os.WriteFile(garbage, []byte("no: [kubeconfig"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		args []string
		want string
	}{
		"data directory in use":    {[]string{"--data-dir=" + e.DataDir(), "--secure-port=0"}, e.DataDir()},
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

func TestKubeconfigKeepsWhatItHolds(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config")
	const existing = `apiVersion: v1
kind: Config
clusters: [{name: other, cluster: {server: "https://other.example"}}]
users: [{name: other, user: {token: abc}}]
contexts: [{name: other, context: {cluster: other, user: other}}]
current-context: other
`
	if err := os.WriteFile(file, []byte(existing), 0o600); err != nil {
		t.Fatal(err)
	}
	e := kit.Standalone(t, "--kubeconfig="+file)
	var config, err = clientcmd.LoadFromFile(file)
	err = wait.PollUntilContextTimeout(t.Context(), 50*time.Millisecond, time.Minute, true, func(context.Context) (bool, error) {
		config, err = clientcmd.LoadFromFile(file)
		return err == nil && config.CurrentContext == "leat", err
	})
	if err != nil {
		t.Fatal(err)
	}
	if other := config.Clusters["other"]; other == nil || other.Server != "https://other.example" || config.AuthInfos["other"].Token != "abc" {
		t.Errorf("what the file held is gone: %+v", config)
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode of the kubeconfig: %v, %v; want 0600", info.Mode(), err)
	}
	if _, _, err := e.Kubectl(t, file, "", "get", "tk"); err != nil {
		t.Error(err)
	}
}
