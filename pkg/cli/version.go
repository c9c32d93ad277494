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
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/component-base/version"
)

// versionTimeout limits the request for the version of the server.
const versionTimeout = 5 * time.Second

func (f *factory) newVersionCommand() *cobra.Command {
	client := false
	command := &cobra.Command{
		Use:   "version",
		Short: "Show the versions of this program and of the server",
		Long: `Show the versions of this program and of the server.

In a cluster, the server version is that of the cluster's API server, a version of Kubernetes. kubectl get wkr lists the versions of
the workers.

If no cluster is configured, only the version of this program is shown. If the server does not answer within five seconds, the command
fails; use --client to send no request.`,
		Args: noArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			fmt.Fprintf(f.streams.Out, "Client Version: %s\n", version.Get().GitVersion)
			if client {
				return nil
			}
			s, err := f.connect()
			if errors.Is(err, errNoCluster) && os.Getenv(clientcmd.RecommendedConfigPathEnvVar) == "" {
				fmt.Fprintln(f.streams.ErrOut, "No cluster is configured, so there is no server to ask.")
				return nil
			}
			if err != nil {
				return err
			}
			ctx, stop := context.WithTimeout(command.Context(), versionTimeout)
			defer stop()
			server, err := discovery.ToServerVersionInterfaceWithContext(s.discovery).ServerVersionWithContext(ctx)
			if err != nil {
				return err
			}
			fmt.Fprintf(f.streams.Out, "Server Version: %s\n", server.GitVersion)
			return nil
		},
	}
	command.Flags().BoolVar(&client, "client", false, "Show only the version of this program; send no request")
	return command
}
