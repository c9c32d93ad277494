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

package kit

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/leat-dev/leat/test/kit/host"
)

// programsVariable names the directory with the programs under test, if they are not those that "make test-programs" builds.
const programsVariable = "LEAT_TEST_PROGRAMS"

// Program is the path of one of our programs.
func Program(t testing.TB, name string) string {
	t.Helper()
	dir := os.Getenv(programsVariable)
	if dir == "" {
		dir = filepath.Join(root(t), "bin", "test")
	}
	path := Must(filepath.Abs(filepath.Join(dir, name)))(t)
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v: build the programs for tests with: make test-programs", err)
	}
	return path
}

// StartManager starts a leat-controller-manager with the rights that config/ ships, until the test ends, on a host cluster; it reaches
// the server itself. It is started as config/base does, but for addresses: without flags for them, those of metrics and health are any
// that are free. The arguments win over those. It fails the test if the process ends without being asked to.
func (e *Env) StartManager(t testing.TB, name string, args ...string) *host.Process {
	t.Helper()
	kubeconfig := Must(e.Host.ServiceAccountKubeconfig("leat-system", "leat-controller-manager"))(t)
	p := Must(host.StartProcess(t.Context(), host.Command{
		Name: "leat-controller-manager-" + name,
		Path: Program(t, "leat-controller-manager"),
		Args: append(shipped(t, "controller-manager.yaml",
			"--kubeconfig="+kubeconfig, "--leat-server="+e.directURL, "--v=2",
			"--metrics-bind-address=127.0.0.1:0", "--health-probe-bind-address=127.0.0.1:0",
			"--register-service=", // the environment is registered already
		), args...),
		Env: e.Host.Oracles(), Dir: e.dir,
	}))(t)
	endWith(t, p)
	return p
}

// StartWorker starts a leat-worker that reaches the API by config, an identity of Worker, until the test ends, and waits until it is
// registered. Its commands have its environment.
func (e *Env) StartWorker(t testing.TB, config *rest.Config, namespace, name string, environment []string, args ...string) *host.Process {
	t.Helper()
	workers := Client(t, e.Admin(t)).BatchV1alpha1().Workers(namespace)
	before := ""
	p := Must(host.StartProcess(t.Context(), host.Command{
		Name: "leat-worker-" + name,
		Path: Program(t, "leat-worker"),
		Args: append([]string{"--kubeconfig=" + e.Kubeconfig(t, config, namespace), "-v=2"}, args...),
		Env:  environment, Dir: e.dir,
		Ready: func(ctx context.Context) error {
			worker, err := workers.Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			if worker.Status.Incarnation == before {
				return errors.New("the worker has not registered")
			}
			before = worker.Status.Incarnation
			return nil
		},
	}))(t)
	endWith(t, p)
	return p
}

// endWith kills a process at the end of the test, which fails if it has ended before.
func endWith(t testing.TB, p *host.Process) {
	t.Cleanup(func() {
		if err := errors.Join(p.Err(), p.Kill()); err != nil {
			t.Error(err)
		}
	})
}
