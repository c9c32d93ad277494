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

// Package host runs a real Kubernetes control plane on loopback for tests: etcd, kube-apiserver with its aggregator,
// and kube-controller-manager, of the same version as our Kubernetes libraries. There are no nodes: kube-apiserver
// reaches a Leat server on this machine through a Service of type ExternalName (RegisterLeat).
//
// Everything listens on 127.0.0.1 and ends with the process that started it. The parts can be used alone: StartEtcd for
// tests without a host, StartS3 for an archive, StartProcess for any other program that a test stops, kills and
// restarts.
package host

import (
	"fmt"
	"os"
	"path/filepath"
)

// Oracles are environment variables that make programs built on k8s.io/apiserver and client-go check themselves: the
// watch cache against etcd, shared objects for mutation, and WatchList against LIST. A program that finds a violation
// panics or logs it. Start sets them on kube-apiserver. Set them on every other server under test.
var Oracles = []string{
	"KUBE_WATCHCACHE_CONSISTENCY_CHECKER=true",
	"KUBE_CACHE_MUTATION_DETECTOR=true",
	"KUBE_WATCHLIST_INCONSISTENCY_DETECTOR=true",
}

// RepositoryRoot returns the absolute path of the repository around the working directory. A test runs in the directory
// of its package.
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

// binary returns the path of one of the programs that hack/host/build.sh builds.
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
