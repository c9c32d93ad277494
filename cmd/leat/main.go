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

// The leat command is a person's way to Leat.
package main

import (
	"os"

	"github.com/spf13/cobra"
	"k8s.io/component-base/version"
)

func main() {
	command := &cobra.Command{
		Use:   "leat",
		Short: "Run tasks without a pod for each",
		Long: `Run tasks without a pod for each.

Tasks are objects of the Kubernetes API batch.leat.dev, which kubectl and every other client can use. In a cluster,
leat-apiserver serves them behind the cluster's own API server. On a single machine, "leat up" is all there is to run.`,
		Version:      version.Get().GitVersion,
		SilenceUsage: true,
	}
	command.AddCommand(newUpCommand())
	if command.Execute() != nil {
		os.Exit(1)
	}
}
