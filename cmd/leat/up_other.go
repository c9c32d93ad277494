//go:build !linux

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

package main

import (
	"errors"
	"runtime"

	"github.com/spf13/cobra"
)

// newUpCommand returns an "up" command that fails: workers need Linux.
func newUpCommand() *cobra.Command {
	return &cobra.Command{
		Use:                "up",
		Short:              "Run all of Leat on this machine, without a cluster (on Linux only)",
		DisableFlagParsing: true,
		RunE: func(*cobra.Command, []string) error {
			return errors.New("\"leat up\" runs on Linux only, and this is " + runtime.GOOS +
				": run it in a container or a virtual machine, and set KUBECONFIG to what it writes; all other commands work here")
		},
	}
}
