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

package security

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/host"
)

// TestStandalone runs the suites on "leat up" with a worker. The umask is 0, which a careless user may have, but no
// file may be accessible to other users.
func TestStandalone(t *testing.T) {
	before := syscall.Umask(0)
	defer syscall.Umask(before)
	access := filepath.Join(t.TempDir(), "access", "config")
	e := kit.Standalone(t, "--workers=1", "--kubeconfig="+access)
	t.Run("TLS", func(t *testing.T) {
		listener{"leat up", strings.TrimPrefix(e.Direct(t, "x").Host, "https://"), tls.VersionTLS12, []string{"h2", "http/1.1"}, nil}.test(t)
		protocols(t, e.Direct(t, "nobody"))
	})
	t.Run("Files", func(t *testing.T) { testFiles(t, e, access) })
	t.Run("Websockets", func(t *testing.T) { testWebsocketLogs(t, e, "default", "ended", "hello") })
	t.Run("Denied", func(t *testing.T) { testDenied(t, e) })
}

// testFiles checks the mode of all files that "leat up", a leat-worker and the CLI write.
func testFiles(t *testing.T, e *kit.Env, access string) {
	namespace := e.Namespace(t)
	state := filepath.Join(t.TempDir(), "state")
	e.StartWorker(t, e.Worker(t, namespace, "one"), namespace, "one", nil, "--state-dir="+state, "--client-ca-file="+filepath.Join(e.DataDir(), "pki", "ca.crt"))
	// The files of the tasks themselves are subject to their own umask.
	for _, namespace := range []string{namespace, "default"} {
		tasks := kit.Client(t, e.Admin(t)).BatchV1alpha1().Tasks(namespace)
		for name, script := range map[string]string{"ended": "echo hello; exit 1", "running": "echo hello; exec sleep 1000"} {
			kit.Must(tasks.Create(t.Context(), &v1alpha1.Task{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.TaskSpec{Command: []string{"sh", "-c", script}}}, metav1.CreateOptions{}))(t)
		}
		kit.Eventually(t, "the tasks have started", func(ctx context.Context) error {
			list, err := tasks.List(ctx, metav1.ListOptions{})
			for _, task := range list.Items {
				if phase := task.Status.Phase; phase != map[string]v1alpha1.TaskPhase{"ended": v1alpha1.TaskFailed, "running": v1alpha1.TaskRunning}[task.Name] {
					err = errors.Join(err, fmt.Errorf("task %s is %s", task.Name, phase))
				}
			}
			return err
		})
	}

	home := personalFiles(t, e, access)

	seen := map[string]int{}
	for _, dir := range []string{e.DataDir(), filepath.Dir(access), state, home} {
		kit.Check(t, filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil // etcd renames and removes files
			}
			if err != nil {
				return err
			}
			info, err := entry.Info()
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil {
				return err
			}
			kind := "file"
			switch {
			case info.IsDir():
				kind = "directory"
			case info.Mode()&fs.ModeSocket != 0:
				kind = "socket"
			}
			seen[kind]++
			if info.Mode().Perm()&0o077 != 0 {
				t.Errorf("%s %s has mode %s, want no access for others", kind, path, info.Mode())
			}
			return nil
		}))
	}
	if seen["directory"] < 5 || seen["file"] < 5 || seen["socket"] == 0 {
		t.Errorf("found only %v", seen)
	}
	for _, path := range []string{access, filepath.Join(e.DataDir(), "pki", "ca.key"), filepath.Join(state, "logs"), filepath.Join(home, ".local", "state", "leat")} {
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
	}
	// Open files elsewhere, for example in the directory for temporary files.
	for _, path := range opened(t, e.Server) {
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0 && strings.HasPrefix(path, os.TempDir()) {
			t.Errorf("open file %s of the server has mode %s, want no access for others", path, info.Mode())
		}
	}
}

// personalFiles runs commands of the CLI, and returns the home directory with the files that they write.
func personalFiles(t *testing.T, e *kit.Env, kubeconfig string) string {
	t.Helper()
	home := filepath.Join(t.TempDir(), "home")
	kit.Check(t, os.Mkdir(home, 0o700))
	for _, args := range [][]string{{"run", "--name=typed", "--wait", "--", "true"}, {"wait", "@latest"}, {"logs", "typed"}, {"top", "--once"}, {"version"}} {
		command := exec.CommandContext(t.Context(), kit.Program(t, "leat"), args...)
		command.Dir = home
		command.Env = []string{"HOME=" + home, "TMPDIR=" + home, "KUBECONFIG=" + kubeconfig, "PATH=" + os.Getenv("PATH")}
		if out, err := command.CombinedOutput(); err != nil {
			t.Fatalf("leat %s: %v: %s", strings.Join(args, " "), err, out)
		}
	}
	return home
}

// opened returns the open files of a process.
func opened(t *testing.T, process *host.Process) []string {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", process.PID())
	var paths []string
	for _, entry := range kit.Must(os.ReadDir(dir))(t) {
		if path, err := os.Readlink(filepath.Join(dir, entry.Name())); err == nil {
			paths = append(paths, path)
		}
	}
	return paths
}
