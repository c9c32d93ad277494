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
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	client "github.com/leat-dev/leat/pkg/generated/clientset/versioned/typed/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/pages"
)

// testRestore: the commands of docs/how-to/backup.md create and restore a backup under load. No write that was
// acknowledged before the backup is lost, only etcd restarts, and workers continue.
func (c *installation) testRestore(t *testing.T, pool string) {
	if !c.hasStorage(t) {
		t.Log("not tested: etcd keeps its data in its pod, so there are no backups")
		return
	}
	sets, tasks := c.client(t).BatchV1alpha1().TaskSets(pool), c.client(t).BatchV1alpha1().Tasks(pool)
	kit.Must(sets.Create(t.Context(), newSet("over-the-restore", 600), metav1.CreateOptions{}))(t)
	load, end := context.WithCancel(t.Context())
	defer end()
	writes := &acknowledged{}
	var writing sync.WaitGroup
	for i := range 4 {
		writing.Go(func() { writes.create(load, tasks, fmt.Sprintf("kept-%d", i)) })
	}
	writes.more(t, 50)

	before := writes.all()
	c.documented(t, t.TempDir(), "kubectl create job backup-before")
	kit.Must(tasks.Create(t.Context(), heldTask("lost"), metav1.CreateOptions{}))(t)
	writes.more(t, 50)

	// The commands of the page expect the kustomization in a directory leat.
	installed := c.manifests(t, "second")
	dir := t.TempDir()
	kit.Check(t, os.Mkdir(filepath.Join(dir, "leat"), 0o700))
	kustomization := "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [" + kit.Must(filepath.Rel(filepath.Join(dir, "leat"), installed))(t) + "]\n"
	kit.Check(t, os.WriteFile(filepath.Join(dir, "leat", "kustomization.yaml"), []byte(kustomization), 0o600))
	running, start := c.containers(t, pool), time.Now()
	c.documented(t, dir, "SNAPSHOT=backup-before", "cat >>kustomization.yaml")
	c.run(t, "rollout", "status", "statefulset/leat-etcd", "--namespace="+system, "--timeout="+patience.String())
	kit.Eventually(t, "the API serves the restored data", func(ctx context.Context) error {
		list, err := tasks.List(ctx, metav1.ListOptions{Limit: 1})
		if err != nil {
			return err
		}
		if version := kit.Must(strconv.ParseInt(list.ResourceVersion, 10, 64))(t); version < 1_000_000_000 {
			return fmt.Errorf("got resourceVersion %d, want at least 1,000,000,000", version)
		}
		return nil
	})
	restored := time.Since(start)
	since := len(writes.all())
	writes.more(t, 50)
	end()
	writing.Wait()

	present := map[string]bool{}
	for _, task := range kit.Must(tasks.List(t.Context(), metav1.ListOptions{}))(t).Items {
		present[task.Name] = true
	}
	after := writes.all()[since:]
	t.Logf("restored etcd in %s; acknowledged creates: %d before the backup, %d from then until etcd stopped, %d after the restore",
		restored.Round(time.Second), len(before), since-len(before), len(after))
	for _, name := range slices.Concat(before, after) {
		if !present[name] {
			t.Errorf("task %s is lost, but its creation was acknowledged", name)
		}
	}
	if present["lost"] {
		t.Error("a task that was created after the backup exists: the backup was not restored")
	}
	c.complete(t, pool, "over-the-restore", 600)
	if now := c.containers(t, pool); !slices.Equal(running, now) {
		t.Errorf("got running containers %v, want %v", now, running)
	}
	if status := c.documented(t, dir, "kubectl exec leat-etcd-0 --namespace=leat-system -- etcdctl endpoint status"); !regexp.MustCompile(`"Revision" : 1\d{9}\n`).MatchString(status) {
		t.Errorf("got endpoint status %s, want a revision above 1,000,000,000", status)
	}
}

// documented runs the code blocks of docs/how-to/backup.md that contain the texts, in their order and in one shell, and
// returns the output.
func (c *installation) documented(t testing.TB, dir string, texts ...string) string {
	t.Helper()
	blocks := pages.Blocks(string(kit.Must(os.ReadFile(filepath.Join(c.root, "docs", "how-to", "backup.md")))(t)), "sh")
	script := "shopt -s expand_aliases\nset -e\n"
	for _, text := range texts {
		at := slices.IndexFunc(blocks, func(block string) bool { return strings.Contains(block, text) })
		if at < 0 {
			t.Fatalf("docs/how-to/backup.md has no code block with %q", text)
		}
		script += blocks[at]
	}
	file := filepath.Join(t.TempDir(), "script")
	kit.Check(t, os.WriteFile(file, []byte(script), 0o600))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	command := exec.CommandContext(ctx, "bash", file)
	command.Dir = dir
	command.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":"+filepath.Join(c.root, "bin", "host"))
	out, err := command.CombinedOutput()
	if err != nil {
		t.Fatalf("the commands of docs/how-to/backup.md: %v: %s", err, out)
	}
	return string(out)
}

// containers returns the containers that a restore must not restart, with their restart counts.
func (c *installation) containers(t testing.TB, pool string) []string {
	t.Helper()
	var all []string
	for _, namespace := range []string{system, pool} {
		for _, pod := range kit.Must(c.admin.CoreV1().Pods(namespace).List(t.Context(), metav1.ListOptions{}))(t).Items {
			component := pod.Labels["app.kubernetes.io/component"]
			if pod.Status.Phase != corev1.PodRunning || pod.DeletionTimestamp != nil || component == "etcd" || component == "etcd-maintenance" {
				continue // a pod that is being deleted was replaced before
			}
			for _, status := range pod.Status.ContainerStatuses {
				all = append(all, fmt.Sprintf("%s/%s restarted %d times", pod.Name, status.Name, status.RestartCount))
			}
		}
	}
	slices.Sort(all)
	return all
}

// acknowledged has the names of tasks whose creation the server has acknowledged.
type acknowledged struct {
	mu    sync.Mutex
	names []string
}

// create creates tasks sequentially until the context ends. It ignores errors, because etcd is away for a while.
func (a *acknowledged) create(ctx context.Context, tasks client.TaskInterface, prefix string) {
	ticker := time.NewTicker(pause)
	defer ticker.Stop()
	for i := 0; ; i++ {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if task, err := tasks.Create(ctx, heldTask(fmt.Sprintf("%s-%d", prefix, i)), metav1.CreateOptions{}); err == nil {
			a.mu.Lock()
			a.names = append(a.names, task.Name)
			a.mu.Unlock()
		}
	}
}

func (a *acknowledged) all() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.names)
}

// more waits until n more creates are acknowledged.
func (a *acknowledged) more(t testing.TB, n int) {
	t.Helper()
	before := len(a.all())
	kit.Eventually(t, "creates are acknowledged", func(context.Context) error {
		if got := len(a.all()) - before; got < n {
			return fmt.Errorf("got %d, want %d", got, n)
		}
		return nil
	})
}

// heldTask returns a task with a scheduling gate.
func heldTask(name string) *v1alpha1.Task {
	task := newTask(name)
	task.Spec.SchedulingGates = []v1alpha1.TaskSchedulingGate{{Name: "example.com/held"}}
	return task
}

// makeVolumes creates volumes for claims without a class, each in a directory of the only node, until the test ends.
// All pods of the node can share that of the archive.
func (c *installation) makeVolumes(t testing.TB, names ...string) {
	t.Helper()
	nodes := kit.Must(c.admin.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{}))(t).Items
	if len(nodes) != 1 {
		t.Fatalf("got %d nodes, want 1 with LEAT_VOLUMES", len(nodes))
	}
	volumes := c.admin.CoreV1().PersistentVolumes()
	for _, name := range names {
		path := filepath.Join(c.volumes, name)
		kit.Check(t, os.Mkdir(path, 0o700))
		volume := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "leat-e2e-" + name}}
		volume.Spec.Capacity = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("20Gi")}
		volume.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
		if name == archiveVolume {
			volume.Spec.AccessModes[0] = corev1.ReadWriteMany
		}
		volume.Spec.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimRetain
		volume.Spec.Local = &corev1.LocalVolumeSource{Path: path}
		volume.Spec.NodeAffinity = &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
			MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{nodes[0].Labels[corev1.LabelHostname]}}},
		}}}}
		kit.Must(volumes.Create(t.Context(), volume, metav1.CreateOptions{}))(t)
		t.Cleanup(func() {
			kit.Check(t, volumes.Delete(context.WithoutCancel(t.Context()), volume.Name, metav1.DeleteOptions{}))
		})
	}
}
