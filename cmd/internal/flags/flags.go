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

// Package flags adds grouped flags to the commands of the programs.
package flags

import (
	"os"

	"github.com/spf13/cobra"
	cliflag "k8s.io/component-base/cli/flag"
	"k8s.io/component-base/cli/globalflag"
	"k8s.io/component-base/term"
)

// Add adds the flags to the command, together with those that all programs share. --help shows them by group, wrapped
// at the width of the terminal.
func Add(command *cobra.Command, groups cliflag.NamedFlagSets) {
	globalflag.AddGlobalFlags(groups.FlagSet("global"), command.Name())
	for _, name := range groups.Order {
		command.Flags().AddFlagSet(groups.FlagSets[name])
	}
	columns, _, err := term.TerminalSize(os.Stdout)
	if err != nil {
		// Without a terminal, lines are not wrapped.
		columns = 0
	}
	cliflag.SetUsageAndHelpFunc(command, groups, columns)
}
