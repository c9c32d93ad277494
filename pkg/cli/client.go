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
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/component-base/version"

	"github.com/leat-dev/leat/pkg/cli/localserver"
	"github.com/leat-dev/leat/pkg/generated/clientset/versioned"
	typed "github.com/leat-dev/leat/pkg/generated/clientset/versioned/typed/batch/v1alpha1"
)

// session holds the clients for one server, user and namespace.
type session struct {
	config    *rest.Config
	client    versioned.Interface
	api       typed.BatchV1alpha1Interface
	discovery discovery.DiscoveryInterface
	namespace string
	host      string
}

// cluster holds the clients for the cluster's own API, which pools of workers consist of.
type cluster struct {
	kubernetes.Interface
	dynamic dynamic.Interface
}

// cluster returns the clients for the cluster's own API. It sends no request.
func (s *session) cluster() (*cluster, error) {
	typed, err := kubernetes.NewForConfig(s.config)
	if err != nil {
		return nil, err
	}
	objects, err := dynamic.NewForConfig(s.config)
	if err != nil {
		return nil, err
	}
	return &cluster{typed, objects}, nil
}

// connect creates a session from the kubeconfig and the flags. It sends no request.
func (f *factory) connect() (*session, error) {
	if err := f.findCluster(); err != nil {
		return nil, err
	}
	config, err := f.flags.ToRESTConfig()
	if err != nil {
		return nil, err
	}
	// Do not limit requests here: API priority and fairness does so on the server.
	config.QPS = -1
	config.UserAgent = userAgent()
	client, err := versioned.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	namespace, _, err := f.flags.ToRawKubeConfigLoader().Namespace()
	if err != nil {
		return nil, err
	}
	f.host = config.Host
	return &session{client: client, api: client.BatchV1alpha1(), discovery: client.Discovery(), namespace: namespace, host: config.Host, config: config}, nil
}

func userAgent() string {
	return "leat/" + version.Get().GitVersion + " " + rest.DefaultKubernetesUserAgent()
}

// errNoCluster is the error of a missing configuration: neither flags nor a kubeconfig name a server.
var errNoCluster = errors.New("no cluster is configured")

// findCluster selects the kubeconfig of "leat up" if neither flags, environment nor kubeconfig name a cluster.
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

// workersAreLocal reports whether the workers of the cluster are those of "leat up" on this machine, which see the same
// files as this process.
func (f *factory) workersAreLocal() bool {
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
	return cluster != nil && localserver.IsLocal(cluster)
}

// localKubeconfig returns the default path of the kubeconfig that "leat up" writes.
func localKubeconfig() (string, error) {
	base, err := baseDirectory("XDG_DATA_HOME", ".local", "share")
	return filepath.Join(base, "kubeconfig"), err
}

// baseDirectory returns the leat directory below an XDG base directory. underHome is the default of the variable,
// relative to $HOME.
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
