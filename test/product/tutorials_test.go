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
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/leat-dev/leat/pkg/pool"
	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/await"
	"github.com/leat-dev/leat/test/kit/host"
	"github.com/leat-dev/leat/test/kit/pages"
)

// tutorialTimeout bounds each script of a page, on a busy machine.
const tutorialTimeout = 10 * time.Minute

// clone is a directory that looks like a clone of the repository after a build.
type clone struct {
	dir, home string
	variables []string
}

func newClone(t *testing.T) *clone {
	t.Helper()
	root := kit.Must(host.RepositoryRoot())(t)
	// The directory of the test would make the path of the etcd socket too long.
	dir := kit.Must(os.MkdirTemp("", "leat-docs-"))(t)
	t.Cleanup(func() { kit.Check(t, os.RemoveAll(dir)) })
	c := &clone{dir: filepath.Join(dir, "clone"), home: filepath.Join(dir, "home")}
	for _, name := range []string{filepath.Join(c.dir, "bin"), filepath.Join(c.dir, "config"), c.home} {
		kit.Check(t, os.MkdirAll(name, 0o700))
	}
	for _, name := range []string{"Makefile", "artifacts"} {
		kit.Check(t, os.Symlink(filepath.Join(root, name), filepath.Join(c.dir, name)))
	}
	kit.Check(t, os.Symlink(kit.Program(t, "leat"), filepath.Join(c.dir, "bin", "leat")))
	// The commands must not see the configuration of the user or of the make that runs the test.
	own := regexp.MustCompile(`^(XDG_.*|KUBECONFIG|HOME|PATH|UP|MAKE.*|MFLAGS)=`)
	for _, variable := range os.Environ() {
		if !own.MatchString(variable) {
			c.variables = append(c.variables, variable)
		}
	}
	c.variables = append(c.variables, "HOME="+c.home, "GO=true", // nothing is built
		"PATH="+filepath.Join(root, "bin", "host")+string(os.PathListSeparator)+os.Getenv("PATH"))
	return c
}

// command returns a command that runs a script in the clone.
func (c *clone) command(ctx context.Context, script string) *exec.Cmd {
	command := exec.CommandContext(ctx, "bash", "-e", "-o", "pipefail", "-c", script)
	command.Dir, command.Env = c.dir, c.variables
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	command.Cancel = func() error { return syscall.Kill(-command.Process.Pid, syscall.SIGINT) }
	command.WaitDelay = 30 * time.Second
	return command
}

// run runs a script to its end, and returns its output.
func (c *clone) run(t *testing.T, script string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), tutorialTimeout)
	defer cancel()
	start := time.Now()
	out, err := c.command(ctx, script).CombinedOutput()
	if err != nil {
		t.Fatalf("%v:\n%s\n%s", err, script, out)
	}
	t.Logf("%s:\n%s\n%s", time.Since(start).Round(time.Millisecond), script, out)
	return string(out)
}

// commands returns the commands of a tutorial, block by block. It fails the test if a block is neither commands nor
// output.
func commands(t *testing.T, name string) []string {
	t.Helper()
	page := string(kit.Must(os.ReadFile(filepath.Join(kit.Must(host.RepositoryRoot())(t), "docs", "tutorials", name)))(t))
	blocks := pages.Blocks(page, "sh")
	if all := strings.Count(page, pages.Fence) / 2; len(blocks)+len(pages.Blocks(page, "text")) != all {
		t.Errorf("%s has %d blocks, but %d with commands and %d with output", name, all, len(blocks), len(pages.Blocks(page, "text")))
	}
	return blocks
}

// buffer is a bytes.Buffer that a process writes and a test reads.
type buffer struct {
	mutex sync.Mutex
	bytes bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	return b.bytes.Write(p)
}

func (b *buffer) String() string {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	return b.bytes.String()
}

// TestLaptopTutorial runs the tutorial with leat up, in a clone.
func TestLaptopTutorial(t *testing.T) {
	t.Parallel()
	blocks := commands(t, "laptop.md")
	if len(blocks) < 2 || blocks[0] != "make run\n" {
		t.Fatalf("the tutorial does not begin with make run: %q", blocks)
	}
	c := newClone(t)
	c.variables = append(c.variables, fmt.Sprintf("UP=--secure-port=%d", kit.Must(host.FreePort())(t)))
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	up := c.command(ctx, blocks[0])
	var output buffer
	up.Stdout, up.Stderr = &output, &output
	kit.Check(t, up.Start())
	ended := make(chan error, 1)
	go func() { ended <- up.Wait() }()
	kit.Check(t, await.Until(ctx, tutorialTimeout, func(context.Context) error {
		select {
		case err := <-ended:
			t.Fatalf("make run: %v: %s", err, output.String())
		default:
		}
		if !strings.Contains(output.String(), "Leat is up.") {
			return fmt.Errorf("make run does not come up: %s", output.String())
		}
		return nil
	}))

	// All other blocks are for one terminal.
	out := c.run(t, strings.Join(blocks[1:], "\n"))
	for _, want := range []string{"hello\n", "I like banana\n", "the set has failed\n", "check-retry-1", "taskset.batch.leat.dev/squares condition met\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("the commands do not print %q", want)
		}
	}
	stop()
	<-ended // ignore the error: the process was interrupted
	if !strings.Contains(output.String(), "Stopped. Everything is kept in") {
		t.Errorf("make run has no farewell in its output: %s", output.String())
	}
}

// TestClusterTutorial runs the tutorial against a control plane without nodes: the test reports pods as ready, and
// runs the programs as processes.
func TestClusterTutorial(t *testing.T) {
	t.Parallel()
	blocks := commands(t, "cluster.md")
	cp := host.ForTest(t, "--controllers=*")
	e := kit.AggregatedOn(t, cp)
	manager := e.StartManager(t, "one")
	c := newClone(t)
	c.variables = append(c.variables, "KUBECONFIG="+cp.AdminKubeconfig)
	c.makeRelease(t)
	config := kit.Must(clientcmd.BuildConfigFromFlags("", cp.AdminKubeconfig))(t)
	config.QPS = -1
	admin := kubernetes.NewForConfigOrDie(config)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	go pretendReady(ctx, admin)

	joined := strings.Join(blocks, "\n")
	for _, want := range []string{"kubectl apply -f install.yaml", "leat pool create", "kubectl delete -f install.yaml"} {
		if !strings.Contains(joined, want) {
			t.Errorf("the tutorial has no %q", want)
		}
	}
	started := false
	for _, block := range blocks {
		if strings.Contains(block, "configmap/leat-info") {
			// The manager of the test registers nothing, and so it does not publish the ConfigMap.
			kit.Must(admin.CoreV1().ConfigMaps("leat-system").Create(ctx, &corev1.ConfigMap{
				ObjectMeta: metav1.ObjectMeta{Name: pool.InfoConfigMap}, Data: map[string]string{
					pool.InfoServer: "https://" + host.LeatService, pool.InfoCA: "CA", pool.InfoClientCA: "CA", pool.InfoImage: "leat",
				},
			}, metav1.CreateOptions{}))(t)
		}
		if !started && strings.Contains(block, "leat pool create") {
			// These are the workers of the pool.
			for _, name := range []string{"render-0", "render-1"} {
				e.StartWorker(t, e.Worker(t, "render", name), "render", name, nil,
					"--pool=render", "--tasks=8", "--state-dir="+t.TempDir(), "--client-ca-file="+cp.ClientCAFile, "--log-address=127.0.0.1")
			}
			started = true
		}
		if strings.Contains(block, "kubectl delete -f install.yaml") {
			kit.Check(t, manager.Stop()) // as its pods end with the installation
		}
		out := c.run(t, block)
		if strings.Contains(block, "auth can-i") && !strings.Contains(out, "yes\n") {
			t.Errorf("alice has no rights: %s", out)
		}
	}
	if !started {
		t.Error("no block starts workers")
	}
}

// makeRelease writes the files of a release that the tutorial uses. The manifests keep the Service on the server of the
// test.
func (c *clone) makeRelease(t *testing.T) {
	t.Helper()
	dir := filepath.Join(kit.Must(filepath.EvalSymlinks(c.dir))(t), "config", "default")
	kit.Check(t, os.MkdirAll(dir, 0o700))
	base := kit.Must(filepath.Rel(dir, filepath.Join(kit.Must(host.RepositoryRoot())(t), "config", "default")))(t)
	kit.Check(t, os.WriteFile(filepath.Join(dir, "kustomization.yaml"), fmt.Appendf(nil, `
resources: [%q]
patches:
- target: {kind: Service, name: leat-apiserver}
  patch: |
    - {op: replace, path: /spec, value: {type: ExternalName, externalName: localhost}}
`, base), 0o600))
	c.run(t, "kubectl kustomize config/default >install.yaml; tar -chzf leat-v0.1.0-linux-amd64.tar.gz -C bin leat")
}

// pretendReady reports all pods as ready until ctx is done.
func pretendReady(ctx context.Context, admin kubernetes.Interface) {
	const status = `{"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}, {"type": "ContainersReady", "status": "True"}]}}`
	isReady := func(c corev1.PodCondition) bool { return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue }
	wait.UntilWithContext(ctx, func(ctx context.Context) {
		pods, err := admin.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
		if err != nil {
			return // retried
		}
		for _, pod := range pods.Items {
			if !slices.ContainsFunc(pod.Status.Conditions, isReady) {
				// A pod that was deleted or updated meanwhile is patched the next time.
				_, _ = admin.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, []byte(status), metav1.PatchOptions{}, "status")
			}
		}
	}, 500*time.Millisecond)
}
