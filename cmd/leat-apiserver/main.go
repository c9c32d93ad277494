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

// The leat-apiserver command serves batch.leat.dev behind the API server of a host cluster.
package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	genericapiserver "k8s.io/apiserver/pkg/server"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/component-base/cli"
	cliflag "k8s.io/component-base/cli/flag"
	logsapi "k8s.io/component-base/logs/api/v1"
	"k8s.io/component-base/version"

	"github.com/leat-dev/leat/cmd/internal/collector"
	"github.com/leat-dev/leat/cmd/internal/flags"
	"github.com/leat-dev/leat/cmd/internal/redact"
	serveroptions "github.com/leat-dev/leat/pkg/apiserver/options"
)

func main() {
	command, err := newCommand()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(cli.Run(command))
}

func newCommand() (*cobra.Command, error) {
	options, err := serveroptions.NewOptions()
	if err != nil {
		return nil, err
	}
	// The watch caches outweigh the allocations of requests, so collect garbage late.
	garbage := collector.Defaults(200, "1Gi")
	command := &cobra.Command{
		Use:   "leat-apiserver",
		Short: "Serve the tasks of a Kubernetes cluster",
		Long: `Serve batch.leat.dev, the API of tasks, from an etcd of its own, behind the Kubernetes API server of the cluster.

The cluster authenticates and authorizes: the server must reach it with the rights that config/base/rbac grants. In a pod
it finds the cluster by itself; elsewhere give --kubeconfig, --authentication-kubeconfig and --authorization-kubeconfig.
etcd is reached only by mutual TLS.`,
		Example: `  leat-apiserver --etcd-servers=https://etcd.leat-system:2379 \
    --etcd-cafile=/etcd/ca.crt --etcd-certfile=/etcd/tls.crt --etcd-keyfile=/etcd/tls.key \
    --tls-cert-file=/tls/tls.crt --tls-private-key-file=/tls/tls.key --secure-port=8443`,
		Args:         cobra.NoArgs,
		Version:      version.Get().GitVersion,
		SilenceUsage: true,
		RunE: func(command *cobra.Command, _ []string) error {
			if err := options.Complete(); err != nil {
				return err
			}
			if err := logsapi.ValidateAndApplyWithOptions(options.Logs, redact.Streams(), utilfeature.DefaultFeatureGate); err != nil {
				return err
			}
			cliflag.PrintFlags(command.Flags())
			if errs := append(options.Validate(), garbage.Validate()...); len(errs) > 0 {
				return utilerrors.NewAggregate(errs)
			}
			garbage.Apply()
			config, err := options.Config()
			if err != nil {
				return err
			}
			server, err := config.Complete().New()
			if err != nil {
				return err
			}
			return server.Run(genericapiserver.SetupSignalContext())
		},
	}
	groups := options.Flags()
	garbage.AddFlags(groups.FlagSet("memory"))
	flags.Add(command, groups)
	return command, nil
}
