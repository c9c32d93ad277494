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

// The leat-controller-manager command runs the controllers and the scheduler of Leat in a cluster.
package main

import (
	"os"

	"github.com/spf13/cobra"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/component-base/cli"
	cliflag "k8s.io/component-base/cli/flag"
	logsapi "k8s.io/component-base/logs/api/v1"
	"k8s.io/component-base/version"
	"sigs.k8s.io/controller-runtime/pkg/manager/signals"

	"github.com/leat-dev/leat/cmd/internal/flags"
	"github.com/leat-dev/leat/cmd/internal/redact"
)

func main() { os.Exit(cli.Run(newCommand())) }

// newCommand returns the command leat-controller-manager.
func newCommand() *cobra.Command {
	o := newOptions()
	command := &cobra.Command{
		Use:   "leat-controller-manager",
		Short: "Run the controllers and the scheduler of Leat",
		Long: `Run the TaskSet controller, the scheduler, which binds tasks to workers, the worker lifecycle controller, which evicts tasks
from lost workers and deletes finished tasks when their time to live is over, and the controller of pools, which scales workers.

The replicas elect a leader with a lease in the cluster; the others wait. The required permissions are in
config/base/rbac/controller-manager.yaml. In a pod, the cluster is found without flags. Elsewhere, set --kubeconfig.`,
		Example: `  leat-controller-manager --kubeconfig=admin.conf --leader-elect=false --v=2
  leat-controller-manager --metrics-bind-address=:8443 --metrics-cert-dir=/tls`,
		Args:         cobra.NoArgs,
		Version:      version.Get().GitVersion,
		SilenceUsage: true,
		RunE: func(command *cobra.Command, _ []string) error {
			if err := logsapi.ValidateAndApplyWithOptions(o.logs, redact.Streams(), o.gates); err != nil {
				return err
			}
			cliflag.PrintFlags(command.Flags())
			if errs := o.validate(); len(errs) > 0 {
				return utilerrors.NewAggregate(errs)
			}
			o.garbage.Apply()
			return o.run(signals.SetupSignalHandler())
		},
	}
	flags.Add(command, o.flags())
	command.AddCommand(newPruneBackupsCommand())
	return command
}
