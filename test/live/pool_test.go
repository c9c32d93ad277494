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
	"bytes"
	"context"
	"crypto/x509/pkix"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/keyutil"

	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit"
)

// testWorkerPool: a user with the role admin of the namespace creates a pool, whose three pods become workers with
// their tokens and run a set. Their image has only our programs, so the pool mounts everything that they need.
func (c *installation) testWorkerPool(t *testing.T, namespace string) {
	c.run(t, "wait", "configmap/leat-info", "--for=create", "--namespace="+system, "--timeout="+patience.String())
	patch := filepath.Join(t.TempDir(), "patch.yaml")
	// The requests of workers are too large for a small node that also runs Leat.
	kit.Check(t, os.WriteFile(patch, []byte(`
spec: {template: {spec: {containers: [{name: worker, resources: {requests: {cpu: 50m, memory: 64Mi}}}]}}}
`), 0o600))
	c.leat(t, namespace, "pool", "create", "worker-pool", "--image="+c.image, "--tasks=8", "--cpu=2", "--memory=1Gi", "--min=3", "--max=3", "--from="+patch)
	c.poolReady(t, namespace, 3)
	if out := c.leat(t, namespace, "pool", "list"); !strings.Contains(out, "worker-pool   3     3     3         0        0       0         Idle\n") {
		t.Errorf("leat pool list: got %s, want three workers without work", out)
	}

	batch := c.client(t).BatchV1alpha1()
	// A set deletes the tasks that it has counted, so only a watch sees their workers.
	events := kit.Must(batch.Tasks(namespace).Watch(t.Context(), metav1.ListOptions{}))(t)
	ran := map[string]int{}
	var watching sync.WaitGroup
	watching.Go(func() {
		for event := range events.ResultChan() {
			if task, ok := event.Object.(*v1alpha1.Task); ok && event.Type == watch.Deleted {
				ran[task.Spec.WorkerName]++
			}
		}
	})
	many := newSet("many", 300)
	many.Spec.Parallelism = new(int32(24)) // all slots: a pool uses its first workers first
	kit.Must(batch.TaskSets(namespace).Create(t.Context(), many, metav1.CreateOptions{}))(t)
	c.complete(t, namespace, "many", 300)
	events.Stop()
	watching.Wait()
	t.Logf("tasks by worker: %v", ran)
	if len(ran) != 3 {
		t.Errorf("got tasks on %d workers, want 3", len(ran))
	}

	kit.Must(batch.Tasks(namespace).Create(t.Context(), newTask("alone"), metav1.CreateOptions{}))(t)
	c.runAsUser(t, "wait", "task/alone", "--for=jsonpath={.status.phase}=Succeeded", "--namespace="+namespace, "--timeout="+patience.String())
	path := "/apis/batch.leat.dev/v1alpha1/namespaces/" + namespace + "/tasks/alone/log"
	if out := c.runAsUser(t, "get", "--raw="+path); !strings.Contains(out, "leat-worker") {
		t.Errorf("log of a task: got %q, want the version of leat-worker", out)
	}
}

// testArchive: the output and the records of the set many can be read after all its workers and their disks are gone.
func (c *installation) testArchive(t *testing.T, namespace string) {
	if c.volumes == "" {
		t.Skip("no LEAT_VOLUMES: there is no archive")
	}
	scale := func(replicas int) {
		c.run(t, "scale", "statefulset/worker-pool", "--namespace="+namespace, fmt.Sprint("--replicas=", replicas))
	}
	scale(0)
	c.run(t, "wait", "pods", "--selector="+v1alpha1.LabelPool+"=worker-pool", "--for=delete", "--namespace="+namespace, "--timeout="+patience.String())
	c.run(t, "delete", "workers", "--all", "--namespace="+namespace)
	leat := func(args ...string) string { return c.leat(t, namespace, args...) }
	if out := leat("logs", "many", "--index=7,299"); !strings.HasPrefix(out, "[many/7] leat-worker") || !strings.Contains(out, "\n[many/299] leat-worker") || strings.Count(out, "\n") != 2 {
		t.Errorf("leat logs: got %q, want the version of leat-worker at two indexes", out)
	}
	if out := leat("logs", "many"); strings.Count(out, "leat-worker") != 300 || strings.Contains(out, "[leat:") {
		t.Errorf("leat logs of all indexes: got %d lines: %.300q", strings.Count(out, "\n"), out)
	}
	if out := leat("history", "many"); strings.Count(out, "\n") != 301 {
		t.Errorf("leat history: got %d lines, want a header and 300 rows: %.300q", strings.Count(out, "\n"), out)
	}
	scale(3)
	c.poolReady(t, namespace, 3)
}

// leat runs leat as the user of the tests.
func (c *installation) leat(t testing.TB, namespace string, args ...string) string {
	t.Helper()
	command := exec.CommandContext(t.Context(), filepath.Join(c.root, "bin", "leat"), append([]string{"--as=" + testUser, "--namespace=" + namespace}, args...)...)
	out, err := command.CombinedOutput()
	if err != nil {
		t.Errorf("leat %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// poolReady waits until the pool has that many workers, and all are ready.
func (c *installation) poolReady(t testing.TB, namespace string, workers int) {
	t.Helper()
	kit.Eventually(t, fmt.Sprintf("the pool has %d ready workers", workers), func(ctx context.Context) error {
		list, err := c.client(t).BatchV1alpha1().Workers(namespace).List(ctx, metav1.ListOptions{LabelSelector: v1alpha1.LabelPool + "=worker-pool"})
		if err != nil {
			return err
		}
		ready := 0
		for i := range list.Items {
			if meta.IsStatusConditionTrue(list.Items[i].Status.Conditions, v1alpha1.WorkerReady) {
				ready++
			}
		}
		if ready != workers {
			return fmt.Errorf("%d of %d workers are ready: %s", ready, len(list.Items), c.leat(t, namespace, "pool", "list"))
		}
		return nil
	})
}

// testOutsideWorker: a process outside of the cluster becomes a worker, as docs/how-to/run-workers.md describes, and
// runs a task.
func (c *installation) testOutsideWorker(t *testing.T) {
	namespace := c.namespace(t, "outside")
	dir := t.TempDir()
	key := kit.Must(keyutil.MakeEllipticPrivateKeyPEM())(t)
	kit.Check(t, os.WriteFile(filepath.Join(dir, "worker.key"), key, 0o600))
	subject := pkix.Name{Organization: []string{v1alpha1.WorkersGroup}, CommonName: v1alpha1.WorkerUser(namespace, "desk")}
	request := kit.Must(cert.MakeCSR(kit.Must(keyutil.ParsePrivateKeyPEM(key))(t), &subject, nil, nil))(t)
	requests := c.admin.CertificatesV1().CertificateSigningRequests()
	csr := kit.Must(requests.Create(t.Context(), &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{Name: namespace},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request: request, SignerName: certificatesv1.KubeAPIServerClientSignerName,
			Usages: []certificatesv1.KeyUsage{certificatesv1.UsageClientAuth}, ExpirationSeconds: new(int32(3600)),
		},
	}, metav1.CreateOptions{}))(t)
	t.Cleanup(func() {
		kit.Check(t, requests.Delete(context.WithoutCancel(t.Context()), csr.Name, metav1.DeleteOptions{}))
	})
	c.run(t, "certificate", "approve", csr.Name)
	kit.Eventually(t, "the certificate is signed", func(ctx context.Context) error {
		signed, err := requests.Get(ctx, csr.Name, metav1.GetOptions{})
		if err == nil && len(signed.Status.Certificate) == 0 {
			err = fmt.Errorf("got conditions %+v and no certificate", signed.Status.Conditions)
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, "worker.crt"), signed.Status.Certificate, 0o600)
		}
		return err
	})

	leat := exec.CommandContext(t.Context(), filepath.Join(c.root, "bin", "leat"), "kubeconfig", "--namespace="+namespace,
		"--address="+c.forward(t, "service/leat-apiserver", "443"), "--certificate-file=worker.crt", "--key-file=worker.key")
	leat.Stderr = os.Stderr
	kubeconfig := filepath.Join(dir, "worker.kubeconfig")
	kit.Check(t, os.WriteFile(kubeconfig, kit.Must(leat.Output())(t), 0o600))
	program := exec.CommandContext(t.Context(), filepath.Join(c.root, "bin", "leat-worker"), "--kubeconfig="+kubeconfig, "--tasks=2", "--state-dir="+dir)
	var output bytes.Buffer
	program.Stdout, program.Stderr = &output, &output
	program.Cancel = func() error { return program.Process.Signal(syscall.SIGTERM) }
	kit.Check(t, program.Start())
	t.Cleanup(func() { // the end of the context sent SIGTERM
		if err := program.Wait(); t.Failed() {
			t.Logf("leat-worker: %v\n%s", err, output.String())
		}
	})

	workers, tasks := c.client(t).BatchV1alpha1().Workers(namespace), c.client(t).BatchV1alpha1().Tasks(namespace)
	kit.Eventually(t, "the process has registered as a worker", func(ctx context.Context) error {
		_, err := workers.Get(ctx, "desk", metav1.GetOptions{})
		return err
	})
	task := newTask("far")
	task.Spec.Command = []string{"true"}
	kit.Must(tasks.Create(t.Context(), task, metav1.CreateOptions{}))(t)
	c.runAsUser(t, "wait", "task/far", "--for=jsonpath={.status.phase}=Succeeded", "--namespace="+namespace, "--timeout="+patience.String())
}

// complete waits until a set is complete, and checks that every index has succeeded.
func (c *installation) complete(t testing.TB, namespace, name string, completions int32) {
	t.Helper()
	c.runAsUser(t, "wait", "taskset/"+name, "--for=condition=Complete", "--namespace="+namespace, "--timeout="+patience.String())
	status := kit.Must(c.client(t).BatchV1alpha1().TaskSets(namespace).Get(context.WithoutCancel(t.Context()), name, metav1.GetOptions{}))(t).Status
	if want := fmt.Sprintf("0-%d", completions-1); status.Succeeded != completions || status.Failed != 0 || status.CompletedIndexes != want {
		t.Errorf("set %s: got %d succeeded, %d failed and completed indexes %q; want %d, 0 and %q",
			name, status.Succeeded, status.Failed, status.CompletedIndexes, completions, want)
	}
	t.Logf("set %s of %d took %s", name, completions, status.CompletionTime.Sub(status.StartTime.Time))
}
