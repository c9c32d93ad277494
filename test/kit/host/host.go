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

// Package host runs a real Kubernetes control plane on loopback, for tests that
// need to see Leat from its host's side: etcd, kube-apiserver with its
// aggregator on, and kube-controller-manager, of the version our libraries come
// from. There are no nodes; kube-apiserver reaches a Leat server in the test's
// own process through a Service of type ExternalName (RegisterLeat).
//
// Everything listens on 127.0.0.1 and ends with the process that started it.
// The parts stand alone: StartEtcd for tests that need no host, StartProcess for
// any other program that a test wants to stop, kill and start again.
package host

import (
	"fmt"
	"os"
	"path/filepath"
)

// Oracles are environment variables that make servers built on k8s.io/apiserver
// and client-go check themselves as they run: the watch cache against etcd, shared
// objects for mutation, and WatchList against LIST. A server that finds itself
// wrong panics or says so in its log. Start sets them on kube-apiserver; set
// them on every other server under test.
var Oracles = []string{
	"KUBE_WATCHCACHE_CONSISTENCY_CHECKER=true",
	"KUBE_CACHE_MUTATION_DETECTOR=true",
	"KUBE_WATCHLIST_INCONSISTENCY_DETECTOR=true",
}

// RepositoryRoot is the absolute path of the repository that holds the working
// directory, which for a test is its package's.
func RepositoryRoot() (string, error) {
	start, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for dir := start; ; {
		if _, err := os.Stat(filepath.Join(dir, "hack", "host", "build.sh")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", fmt.Errorf("%s is not inside Leat's repository: no parent of it holds hack/host/build.sh", start)
		}
		dir = parent
	}
}

// binary is the path of one of the programs that hack/host/build.sh builds.
func binary(binDir, name string) (string, error) {
	if binDir == "" {
		root, err := RepositoryRoot()
		if err != nil {
			return "", err
		}
		binDir = filepath.Join(root, "bin", "host")
	}
	path := filepath.Join(binDir, name)
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("the host control plane is not built: run `make host` at the root of the repository (about 10 minutes the first time): %w", err)
	}
	return path, nil
}
