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

// Package localserver marks the cluster of "leat up" in a kubeconfig, so that commands can detect that its workers run
// on this machine.
package localserver

import (
	"encoding/json"
	"os"
	"path/filepath"

	"k8s.io/apimachinery/pkg/runtime"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// extensionName is the name of the kubeconfig cluster extension that holds the mark.
const extensionName = "batch.leat.dev/local-workers"

// instanceFile is the file in the data directory that holds its random identifier.
const instanceFile = "instance"

// mark is the content of the extension.
type mark struct {
	DataDir  string `json:"dataDir"`
	Instance string `json:"instance"`
}

// InstanceFile returns the file whose content identifies the data directory.
func InstanceFile(dataDir string) string { return filepath.Join(dataDir, instanceFile) }

// Mark records in the cluster that its workers run on the machine that has the data directory. instance is the content
// of InstanceFile.
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

// IsLocal reports whether the workers of the cluster see the same files as this process: the cluster is marked, and the
// instance file in the marked data directory has the marked content. It returns false for a kubeconfig copied to
// another machine or into a container.
func IsLocal(cluster *clientcmdapi.Cluster) bool {
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
