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

package cli

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/component-base/version"

	"github.com/leat-dev/leat/pkg/cli/localserver"
	"github.com/leat-dev/leat/pkg/generated/clientset/versioned"
	typed "github.com/leat-dev/leat/pkg/generated/clientset/versioned/typed/batch/v1alpha1"
)

// session is a connection to a server, as a user, and a namespace.
type session struct {
	client    versioned.Interface
	api       typed.BatchV1alpha1Interface
	discovery discovery.DiscoveryInterface
	namespace string
	host      string
}

// connect reads the configuration. No request is sent.
func (f *factory) connect() (*session, error) {
	if err := f.findCluster(); err != nil {
		return nil, err
	}
	config, err := f.flags.ToRESTConfig()
	if err != nil {
		return nil, err
	}
	// Requests are the server's to limit, by priority and fairness.
	config.QPS = -1
	config.UserAgent = "leat/" + version.Get().GitVersion + " " + rest.DefaultKubernetesUserAgent()
	client, err := versioned.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	namespace, _, err := f.flags.ToRawKubeConfigLoader().Namespace()
	if err != nil {
		return nil, err
	}
	f.host = config.Host
	return &session{client: client, api: client.BatchV1alpha1(), discovery: client.Discovery(), namespace: namespace, host: config.Host}, nil
}

// errNoCluster tells that nothing says where the server is.
var errNoCluster = errors.New("no cluster is configured")

// findCluster turns to the server of "leat up" if the user has named none and none is configured.
func (f *factory) findCluster() error {
	if *f.flags.APIServer != "" || os.Getenv("KUBERNETES_MASTER") != "" || os.Getenv("KUBERNETES_SERVICE_HOST") != "" {
		return nil
	}
	raw, err := f.flags.ToRawKubeConfigLoader().RawConfig()
	if err != nil || len(raw.Clusters) > 0 {
		return err
	}
	if list := os.Getenv(clientcmd.RecommendedConfigPathEnvVar); list != "" {
		return fmt.Errorf("%w in KUBECONFIG=%s", errNoCluster, list)
	}
	local, err := localKubeconfig()
	if err != nil {
		return err
	}
	if _, err := os.Stat(local); err != nil {
		return errNoCluster
	}
	*f.flags.KubeConfig = local
	return nil
}

// workersAreHere reports whether the workers of the cluster are those of "leat up" on this machine, and see the files that this
// process sees.
func (f *factory) workersAreHere() bool {
	if *f.flags.APIServer != "" || f.findCluster() != nil {
		return false
	}
	config, err := f.flags.ToRawKubeConfigLoader().RawConfig()
	if err != nil {
		return false
	}
	context := config.Contexts[cmp.Or(*f.flags.Context, config.CurrentContext)]
	if context == nil {
		return false
	}
	cluster := config.Clusters[cmp.Or(*f.flags.ClusterName, context.Cluster)]
	return cluster != nil && localserver.IsHere(cluster)
}

// localKubeconfig is where "leat up" writes its kubeconfig unless it is told otherwise.
func localKubeconfig() (string, error) {
	base, err := baseDirectory("XDG_DATA_HOME", ".local", "share")
	return filepath.Join(base, "kubeconfig"), err
}

// baseDirectory gives our directory of one of the XDG base directories.
func baseDirectory(variable string, underHome ...string) (string, error) {
	base := os.Getenv(variable)
	if base == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", fmt.Errorf("%w: set HOME or %s", err, variable)
		}
		base = filepath.Join(append([]string{home}, underHome...)...)
	}
	return filepath.Join(base, "leat"), nil
}
