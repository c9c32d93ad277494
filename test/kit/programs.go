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

// programsVariable is the environment variable with the directory of the programs under test. The default is bin/test,
// where "make test-programs" builds them.
const programsVariable = "LEAT_TEST_PROGRAMS"

// Program returns the path of one of our programs.
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

// initialPrograms is the value of programsVariable when the test program starts.
var initialPrograms = os.Getenv(programsVariable)

// UsePrograms makes those of a directory the programs under test, for all processes that are started from now on until
// the test ends. An empty directory means those that are under test otherwise.
func UsePrograms(t testing.TB, dir string) {
	t.Helper()
	if dir == "" {
		dir = initialPrograms
	}
	t.Setenv(programsVariable, dir)
}

// StartManager starts a leat-controller-manager on a host cluster until the test ends. It has the rights of config/ and
// the arguments of config/base, except for addresses: it connects to the server itself, and serves metrics and health
// at free ports. args come last and win. The test fails if the process ends by itself.
func (e *Env) StartManager(t testing.TB, name string, args ...string) *host.Process {
	t.Helper()
	kubeconfig := Must(e.Host.ServiceAccountKubeconfig("leat-system", "leat-controller-manager"))(t)
	p := Must(host.StartProcess(t.Context(), host.Command{
		Name: "leat-controller-manager-" + name,
		Path: Program(t, "leat-controller-manager"),
		Args: append(shipped(t, "controller-manager.yaml",
			"--kubeconfig="+kubeconfig, "--leat-server="+e.directURL, "--v=2",
			"--metrics-bind-address=127.0.0.1:0", "--health-probe-bind-address=127.0.0.1:0",
			"--register-service=", // kit has created the APIService
		), args...),
		Env: e.Host.Oracles(), Dir: e.dir,
	}))(t)
	killAtEnd(t, p)
	return p
}

// StartWorker starts a leat-worker until the test ends, and waits until it is registered. config comes from Worker. The
// environment is that of the worker and of its commands, in addition to the environment of the test.
func (e *Env) StartWorker(t testing.TB, config *rest.Config, namespace, name string, environment []string, args ...string) *host.Process {
	t.Helper()
	workers := Client(t, e.Admin(t)).BatchV1alpha1().Workers(namespace)
	last := ""
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
			if worker.Status.Incarnation == last {
				return errors.New("the worker has not registered since its start")
			}
			last = worker.Status.Incarnation
			return nil
		},
	}))(t)
	killAtEnd(t, p)
	return p
}

// killAtEnd kills a process when the test ends. The test fails if the process has ended by itself.
func killAtEnd(t testing.TB, p *host.Process) {
	t.Cleanup(func() {
		if err := errors.Join(p.Err(), p.Kill()); err != nil {
			t.Error(err)
		}
	})
}
