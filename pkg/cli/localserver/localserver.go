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

// Package localserver marks the cluster of "leat up" in a kubeconfig, so that commands can tell that its workers run on this machine.
package localserver

import (
	"encoding/json"
	"os"
	"path/filepath"

	"k8s.io/apimachinery/pkg/runtime"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// extensionName is the name of the mark among the extensions of a cluster.
const extensionName = "batch.leat.dev/local-workers"

// instanceFile is the file in the data directory that holds what makes it unlike any other.
const instanceFile = "instance"

// mark is the content of the extension.
type mark struct {
	DataDir  string `json:"dataDir"`
	Instance string `json:"instance"`
}

// InstanceFile returns the file whose content identifies the data directory.
func InstanceFile(dataDir string) string { return filepath.Join(dataDir, instanceFile) }

// Mark notes in the cluster that its workers run where the data directory is, which the instance identifies.
func Mark(cluster *clientcmdapi.Cluster, dataDir, instance string) error {
	raw, err := json.Marshal(mark{DataDir: dataDir, Instance: instance})
	if err != nil {
		return err
	}
	if cluster.Extensions == nil {
		cluster.Extensions = map[string]runtime.Object{}
	}
	cluster.Extensions[extensionName] = &runtime.Unknown{Raw: raw, ContentType: runtime.ContentTypeJSON}
	return nil
}

// IsHere reports whether the workers of the cluster see the files that this process sees: it is marked, and the data directory that
// it names is there, with the same content. A kubeconfig that was copied to another machine, or into a container, does not pass.
func IsHere(cluster *clientcmdapi.Cluster) bool {
	extension, ok := cluster.Extensions[extensionName].(*runtime.Unknown)
	if !ok {
		return false
	}
	var m mark
	if json.Unmarshal(extension.Raw, &m) != nil || m.Instance == "" || !filepath.IsAbs(m.DataDir) {
		return false
	}
	content, err := os.ReadFile(InstanceFile(m.DataDir))
	return err == nil && string(content) == m.Instance
}
