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
	"fmt"

	"github.com/spf13/cobra"
	"k8s.io/component-base/version"
)

func (f *factory) newVersionCommand() *cobra.Command {
	client := false
	command := &cobra.Command{
		Use:   "version",
		Short: "Show the versions of this program and of the server",
		Long: `Show the versions of this program and of the server.

Behind a cluster's API server, the server is the cluster's, with Kubernetes' version; the versions of the workers are
listed by kubectl get wkr.`,
		Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			fmt.Fprintf(f.streams.Out, "Client Version: %s\n", version.Get().GitVersion)
			if client {
				return nil
			}
			s, err := f.connect()
			if err != nil {
				return err
			}
			server, err := s.discovery.ServerVersion()
			if err != nil {
				return err
			}
			fmt.Fprintf(f.streams.Out, "Server Version: %s\n", server.GitVersion)
			return nil
		},
	}
	command.Flags().BoolVar(&client, "client", false, "Only that of this program; no server is asked")
	return command
}
