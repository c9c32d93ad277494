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
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/host"
)

// TestEtcdProbes runs the probes of the etcd manifest as the kubelet does, on a member that is healthy, full, or hangs.
func TestEtcdProbes(t *testing.T) {
	t.Parallel()
	root, err := host.RepositoryRoot()
	kit.Check(t, err)
	content, err := os.ReadFile(filepath.Join(root, "config", "components", "etcd", "etcd.yaml"))
	kit.Check(t, err)
	documents := strings.Split(string(content), "\n---\n")
	set := slices.IndexFunc(documents, func(document string) bool { return strings.Contains(document, "\nkind: StatefulSet\n") })
	var etcdSet appsv1.StatefulSet
	kit.Check(t, yaml.Unmarshal([]byte(documents[set]), &etcdSet))
	container := etcdSet.Spec.Template.Spec.Containers[0]

	dir := t.ArtifactDir()
	etcd, err := host.StartEtcd(t.Context(), host.EtcdOptions{Dir: dir, Args: []string{"--quota-backend-bytes=1048576"}})
	kit.Check(t, err)
	t.Cleanup(func() { kit.Check(t, etcd.Kill()) })
	here := strings.NewReplacer("https://localhost:2379", etcd.Endpoint, "/etc/etcd/tls/ca.crt", etcd.CAFile,
		"/etc/etcd/tls/tls.crt", etcd.CertFile, "/etc/etcd/tls/tls.key", etcd.KeyFile)
	probe := func(probe *corev1.Probe) error {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		command := probe.Exec.Command
		run := exec.CommandContext(ctx, filepath.Join(root, "bin", "host", command[0]), command[1:]...)
		run.Env = []string{} // without the environment of the test
		for _, variable := range container.Env {
			// etcdctl fails if a variable and a flag set the same option.
			if strings.HasPrefix(variable.Name, "ETCDCTL_") {
				run.Env = append(run.Env, variable.Name+"="+here.Replace(variable.Value))
			}
		}
		if output, err := run.CombinedOutput(); err != nil {
			return fmt.Errorf("%q: %w: %s", command, err, output)
		}
		return nil
	}
	expect := func(state string, healthy bool) {
		t.Helper()
		for name, p := range map[string]*corev1.Probe{"startup": container.StartupProbe, "liveness": container.LivenessProbe, "readiness": container.ReadinessProbe} {
			if err := probe(p); (err == nil) != healthy {
				t.Errorf("%s probe of a member that %s: got error %v, want success: %t", name, state, err, healthy)
			}
		}
	}

	expect("is healthy", true)
	client, err := etcd.Client()
	kit.Check(t, err)
	defer client.Close()
	for i, full := 0, false; !full; i++ {
		_, err := client.Put(t.Context(), fmt.Sprintf("key-%d", i), strings.Repeat("x", 64<<10))
		if full = err != nil && strings.Contains(err.Error(), "database space exceeded"); !full {
			kit.Check(t, err)
		}
	}
	expect("is full", true)
	kit.Check(t, etcd.Signal(syscall.SIGSTOP))
	expect("hangs", false)
	kit.Check(t, etcd.Signal(syscall.SIGCONT))
	expect("is resumed", true)
}
