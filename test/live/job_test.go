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
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit"
)

// jobObjects are what the Job of the test depends on.
const jobObjects = `
apiVersion: v1
kind: ServiceAccount
metadata: {name: framer}
---
apiVersion: v1
kind: Secret
metadata: {name: store}
stringData: {token: open-sesame}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {settings.env: "QUALITY=nine"}
`

// jobPod is the pod template of the Job and of the CronJob of the test. The image has only the programs of Leat, so the
// command is a dry run of leat, which prints variables of its environment and of a file.
const jobPod = `
    metadata:
      labels: {app: frames}
    spec:
      restartPolicy: OnFailure
      serviceAccountName: framer
      securityContext: {runAsNonRoot: true, runAsUser: 1000, fsGroup: 1000}
      initContainers:
      - name: fetch
        image: %[1]s
        command: [/leat-worker, install, /scratch]
        volumeMounts: [{name: scratch, mountPath: /scratch}]
      containers:
      - name: frame
        image: %[1]s
        command: [/leat, run, --dry-run=client, --output=yaml, --env=TOKEN, --env-file=/etc/settings/settings.env, --env=PART]
        args: [--, frame, $(PART)]
        workingDir: /scratch
        env:
        - {name: TOKEN, valueFrom: {secretKeyRef: {name: store, key: token}}}
        - {name: PART, value: part}
        resources:
          requests: {cpu: 50m, memory: 96Mi}
          limits: {cpu: 500m, memory: 192Mi}
        volumeMounts: [{name: settings, mountPath: /etc/settings}, {name: scratch, mountPath: /scratch}]
      volumes:
      - {name: settings, configMap: {name: settings}}
      - {name: scratch, emptyDir: {}}
`

// testJob: a Job with a Secret, a volume of a ConfigMap, an init container, a service account and limits runs in warm
// pods that have all of these. A CronJob creates a set, and deletes it with its Job.
func (c *installation) testJob(t *testing.T) {
	namespace := c.namespace(t, "job")
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		kit.Check(t, os.WriteFile(path, []byte(content), 0o600))
		return path
	}
	leat := func(args ...string) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		command := exec.CommandContext(ctx, filepath.Join(c.root, "bin", "leat"), append(args, "--as="+testUser, "--namespace="+namespace)...)
		command.Stderr = os.Stderr
		return string(kit.Must(command.Output())(t))
	}
	pod := fmt.Sprintf(jobPod, c.image)
	c.runAsUser(t, "apply", "--namespace="+namespace, "--filename="+file("objects.yaml", jobObjects))
	out := leat("run", "--wait", "--logs", "--filename="+file("job.yaml", `
apiVersion: batch/v1
kind: Job
metadata: {name: frames}
spec:
  completions: 40
  parallelism: 2
  template:`+pod))
	for _, want := range []string{"value: open-sesame", "value: nine", "value: part", "- part\n"} {
		if got := strings.Count(out, want); got != 40 {
			t.Errorf("output of the Job: got %d times %q, want 40: %.1000s", got, want, out)
		}
	}
	pods := kit.Must(c.admin.CoreV1().Pods(namespace).List(t.Context(), metav1.ListOptions{LabelSelector: batch.LabelPool + "=frames"}))(t)
	if len(pods.Items) == 0 || len(pods.Items) > 2 {
		t.Errorf("got %d pods of the pool, want 1 or 2", len(pods.Items))
	}
	for _, pod := range pods.Items {
		spec := pod.Spec
		limit := spec.Containers[0].Resources.Limits.Memory().String()
		if pod.Labels["app"] != "frames" || spec.ServiceAccountName != "framer" || limit != "192Mi" || spec.InitContainers[1].Name != "fetch" {
			t.Errorf("pod %s: got labels %v, account %s, limit %s and second init container %s; want those of the Job",
				pod.Name, pod.Labels, spec.ServiceAccountName, limit, spec.InitContainers[1].Name)
		}
	}

	converted := leat("convert", "--filename="+file("cronjob.yaml", `
apiVersion: batch/v1
kind: CronJob
metadata: {name: report}
spec:
  schedule: "@yearly"
  suspend: true
  jobTemplate:
   spec:
    completions: 3
    template:`+strings.ReplaceAll(pod, "\n", "\n  ")))
	c.runAsUser(t, "apply", "--filename="+file("converted.yaml", converted))
	c.runAsUser(t, "create", "job", "now", "--from=cronjob/report", "--namespace="+namespace)
	c.runAsUser(t, "wait", "job/now", "--for=condition=Complete", "--namespace="+namespace, "--timeout="+patience.String())
	sets := c.client(t).BatchV1alpha1().TaskSets(namespace)
	if set := kit.Must(sets.Get(t.Context(), "now", metav1.GetOptions{}))(t); set.Status.Succeeded != 3 {
		t.Errorf("set of the CronJob: got %d succeeded, want 3", set.Status.Succeeded)
	}
	c.runAsUser(t, "delete", "job/now", "--namespace="+namespace)
	kit.Eventually(t, "the set is deleted with its Job", func(ctx context.Context) error {
		_, err := sets.Get(ctx, "now", metav1.GetOptions{})
		return kit.Gone(err)
	})
}
