//go:build cluster

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

package live

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit"
)

var jobCompletions = flag.Int("job-completions", 2000, "Number of completions of the Job that runs in a pool")

// shortJob is a Job whose command ends at once.
const shortJob = `
apiVersion: batch/v1
kind: Job
metadata: {name: %[1]s}
spec:
  completions: %[2]d
  parallelism: 2
  completionMode: Indexed
  backoffLimit: 0
  template:
    spec:
      restartPolicy: Never
      containers:
      - name: short
        image: %[3]s
        command: [/leat-worker, --version]
        resources: {requests: {cpu: 50m, memory: 64Mi}, limits: {memory: 256Mi}}
`

// testPoolFromZero: pools without workers get some when tasks wait, and have none afterwards. It logs how long that
// took, and the rate of a Job as pods and in a pool.
func (c *installation) testPoolFromZero(t *testing.T) {
	namespace := c.namespace(t, "zero")
	file := func(name, content string) string {
		path := filepath.Join(t.TempDir(), name)
		kit.Check(t, os.WriteFile(path, []byte(content), 0o600))
		return path
	}
	patch := file("patch.yaml", `
spec: {template: {spec: {containers: [{name: worker, resources: {requests: {cpu: 50m, memory: 64Mi}}}]}}}
`)
	c.leat(t, namespace, "pool", "create", "burst", "--image="+c.image, "--tasks=4", "--cpu=1", "--memory=256Mi", "--max=2", "--idle=10s", "--from="+patch)
	tasks := c.client(t).BatchV1alpha1().Tasks(namespace)
	c.leat(t, namespace, "run", "--pool=burst", "--name=first", "--wait", "--", "/opt/leat/leat-worker", "--version")
	first := kit.Must(tasks.Get(t.Context(), "first", metav1.GetOptions{}))(t)
	pod := kit.Must(c.admin.CoreV1().Pods(namespace).Get(t.Context(), first.Spec.WorkerName, metav1.GetOptions{}))(t)
	since := func(at metav1.Time) time.Duration { return at.Sub(first.CreationTimestamp.Time) }
	t.Logf("from zero: after the task was created, its pod was created in %s and its containers started in %s, its command in %s",
		since(pod.CreationTimestamp), since(startedAt(pod)), since(*first.Status.StartTime))

	started := time.Now()
	const pods = 10
	c.runAsUser(t, "create", "--namespace="+namespace, "--filename="+file("pods.yaml", fmt.Sprintf(shortJob, "as-pods", pods, c.image)))
	c.runAsUser(t, "wait", "job/as-pods", "--for=condition=Complete", "--namespace="+namespace, "--timeout="+patience.String())
	podRate := pods / time.Since(started).Seconds()
	c.leat(t, namespace, "run", "--wait", "--filename="+file("job.yaml", fmt.Sprintf(shortJob, "in-pool", *jobCompletions, c.image)))
	set := kit.Must(c.client(t).BatchV1alpha1().TaskSets(namespace).Get(t.Context(), "in-pool", metav1.GetOptions{}))(t)
	if set.Status.Succeeded != int32(*jobCompletions) || set.Status.Failed != 0 {
		t.Errorf("the Job in the pool: got status %+v", set.Status)
	}
	poolRate := float64(*jobCompletions) / max(1, set.Status.CompletionTime.Sub(set.Status.StartTime.Time).Seconds())
	t.Logf("a Job of %d completions: %.2f/s in a pool of 2 workers, from none, and %.2f/s as pods: %.0f times", *jobCompletions, poolRate, podRate, poolRate/podRate)
	if c.volumes != "" {
		// A command that was ended for scaling in would have a second attempt.
		if out := c.leat(t, namespace, "history", "in-pool"); strings.Count(out, "\n") != *jobCompletions+1 {
			t.Errorf("leat history: got %d lines, want a header and %d attempts", strings.Count(out, "\n"), *jobCompletions)
		}
	}
	kit.Eventually(t, "no worker is left", func(ctx context.Context) error {
		left, err := c.admin.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: batch.LabelPool})
		if err == nil && len(left.Items) > 0 {
			err = fmt.Errorf("%d pods are left: %s", len(left.Items), c.leat(t, namespace, "pool", "list"))
		}
		return err
	})
	t.Logf("no pod of a pool is left %s after the last command", time.Since(set.Status.CompletionTime.Time).Round(time.Second))
	c.leat(t, namespace, "pool", "delete", "burst", "in-pool")

	// Pods that never start: explain and list name the reason.
	c.leat(t, namespace, "pool", "create", "broken", "--image=localhost/there-is-no-such-image:1", "--cpu=50m", "--memory=64Mi", "--max=1")
	c.leat(t, namespace, "run", "--pool=broken", "--name=waits", "--", "true")
	for _, args := range [][]string{{"explain", "waits"}, {"pool", "list"}} {
		kit.Eventually(t, "leat "+args[0]+" names the image", func(context.Context) error {
			if out := c.leat(t, namespace, args...); !strings.Contains(out, "Err") && !strings.Contains(out, "ImagePullBackOff") {
				return fmt.Errorf("it prints %s", out)
			}
			return nil
		})
	}
	c.leat(t, namespace, "pool", "delete", "broken")
}

// startedAt returns when the container of a pod started.
func startedAt(pod *corev1.Pod) metav1.Time {
	for _, container := range pod.Status.ContainerStatuses {
		if container.State.Running != nil {
			return container.State.Running.StartedAt
		}
	}
	return metav1.Time{}
}
