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

package standalone

import (
	"errors"
	"fmt"
	"io/fs"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/leat-dev/leat/pkg/cli/localserver"
	"github.com/leat-dev/leat/pkg/standalone/pki"
)

// contextName is the name of the cluster, the user and the context in the kubeconfig.
const contextName = "leat"

// writeKubeconfig adds a context for the client to options.Kubeconfig and makes it the current one. It keeps other
// entries of the file. If there are workers, it marks the cluster as one with workers on this machine.
func writeKubeconfig(options Options, client *rest.Config) error {
	file := options.Kubeconfig
	config, err := clientcmd.LoadFromFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		config, err = clientcmdapi.NewConfig(), nil
	}
	if err != nil {
		return fmt.Errorf("--kubeconfig %s: %w", file, err)
	}
	cluster := &clientcmdapi.Cluster{Server: client.Host, CertificateAuthorityData: client.CAData}
	if options.Workers > 0 {
		instance, err := instanceSuffix(options.DataDir)
		if err != nil {
			return err
		}
		if err := localserver.Mark(cluster, options.DataDir, instance); err != nil {
			return err
		}
	}
	config.Clusters[contextName] = cluster
	config.AuthInfos[contextName] = &clientcmdapi.AuthInfo{ClientCertificateData: client.CertData, ClientKeyData: client.KeyData}
	config.Contexts[contextName] = &clientcmdapi.Context{Cluster: contextName, AuthInfo: contextName}
	config.CurrentContext = contextName
	content, err := clientcmd.Write(*config)
	if err != nil {
		return err
	}
	return pki.WriteFile(file, content)
}
