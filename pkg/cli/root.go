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

// Package cli is the commands that people type to run work and to look after it.
package cli

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/rest"
	"k8s.io/component-base/version"
	"k8s.io/klog/v2"

	"github.com/leat-dev/leat/pkg/cli/progress"
)

// factory is what the commands have in common.
type factory struct {
	// program is what people type: leat, or kubectl leat.
	program string
	streams genericiooptions.IOStreams
	flags   *genericclioptions.ConfigFlags
	// host is the server's URL once it is known, for errors.
	host string
}

// Main runs the program that was called by that path with those arguments and gives the code to exit with. Further commands, which
// need no server, are added to its own. Called as kubectl-leat it speaks of itself as "kubectl leat"; called as
// kubectl_complete-leat, which is how kubectl asks its plugins, it completes.
func Main(path string, args []string, streams genericiooptions.IOStreams, further ...*cobra.Command) int {
	program := "leat"
	switch name := strings.TrimSuffix(filepath.Base(path), ".exe"); name {
	case "kubectl-leat":
		program = "kubectl leat"
	case "kubectl_complete-leat":
		program, args = "kubectl leat", append([]string{cobra.ShellCompRequestCmd}, args...)
	}
	f := &factory{program: program, streams: streams, flags: genericclioptions.NewConfigFlags(false)}
	root := f.newRootCommand(further)
	root.SetArgs(args)
	command, err := root.ExecuteC()
	klog.Flush()
	return f.exit(command, err)
}

const rootLong = `Run many short commands on the workers of a cluster, or of this machine, and look after them.

Tasks are objects of the Kubernetes API batch.leat.dev, which kubectl and every other client can use: kubectl get tks,tk,tq,wkr.

The cluster is the one of kubectl: KUBECONFIG, --kubeconfig, --context and -n say which. Where none is configured, that of
"leat up" is used, if it has been started on this machine (~/.local/share/leat/kubeconfig).

Wherever a task or a set is named, @latest is the one that "leat run" or "leat retry" has made last from here, on the same
server and in the same namespace.

Exit codes: 0 all is well; 1 it has failed; 2 the command line cannot be understood; 130 interrupted by Ctrl-C. "leat run" and
"leat wait" of a single task end with the exit code of its command.`

const rootExample = `  leat up                                             # all of Leat on this machine
  leat run --wait -- echo hello                       # one task
  leat run --array 0-999%50 --wait -- sh -c 'echo $TASK_INDEX'   # a thousand, at most 50 at a time
  leat run --each-line files.txt --wait -- gzip {}    # one for each line of a file
  leat logs -f @latest
  leat explain @latest                                # why does it wait, how did it fail
  leat retry @latest --wait`

func (f *factory) newRootCommand(further []*cobra.Command) *cobra.Command {
	root := &cobra.Command{
		Use:           "leat",
		Short:         "Run many short commands",
		Long:          rootLong,
		Example:       rootExample,
		SilenceErrors: true,
		SilenceUsage:  true,
		Version:       version.Get().GitVersion,
		Annotations:   map[string]string{cobra.CommandDisplayNameAnnotation: f.program},
		Args: func(command *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			text := fmt.Sprintf("unknown command %q", args[0])
			if near := command.SuggestionsFor(args[0]); len(near) > 0 {
				text += "; did you mean " + strings.Join(near, " or ") + "?"
			}
			return usageErrorf("%s", text)
		},
		RunE:              func(command *cobra.Command, _ []string) error { return command.Help() },
		PersistentPreRunE: f.prepare,
	}
	root.SuggestionsMinimumDistance = 2
	root.SetIn(f.streams.In)
	root.SetOut(f.streams.Out)
	root.SetErr(f.streams.ErrOut)
	root.SetFlagErrorFunc(f.flagError)
	f.flags.AddFlags(root.PersistentFlags())
	logs := flag.NewFlagSet("", flag.ContinueOnError)
	klog.InitFlags(logs)
	verbosity := pflag.PFlagFromGoFlag(logs.Lookup("v"))
	verbosity.Shorthand, verbosity.Usage = "v", "How much to say of requests to the server: 6 for each one, 8 for what it holds"
	root.PersistentFlags().AddFlag(verbosity)

	root.AddGroup(
		&cobra.Group{ID: groupRun, Title: "Run:"},
		&cobra.Group{ID: groupLook, Title: "Look:"},
		&cobra.Group{ID: groupChange, Title: "Change:"},
		&cobra.Group{ID: groupWorkers, Title: "Workers:"},
	)
	for _, command := range further {
		command.GroupID = groupRun
		refuseConnectionFlags(command)
		root.AddCommand(command)
	}
	root.AddCommand(
		f.newRunCommand(), f.newWaitCommand(), f.newRetryCommand(),
		f.newLogsCommand(), f.newTopCommand(), f.newExplainCommand(),
		f.newCancelCommand(), f.newDeleteCommand(), f.newUpdateCommand(), f.newSuspendCommand(true), f.newSuspendCommand(false),
		f.newCordonCommand(true), f.newCordonCommand(false), f.newDrainCommand(), f.newWorkerCommand(),
		f.newKubeconfigCommand(), f.newVersionCommand(), f.newOptionsCommand(),
	)
	root.SetUsageTemplate(usageTemplate)
	f.speakAs(root)
	return root
}

const (
	groupRun     = "run"
	groupLook    = "look"
	groupChange  = "change"
	groupWorkers = "workers"
)

// usageTemplate leaves the flags that say which server to "options", as kubectl does.
const usageTemplate = `Usage:{{if .Runnable}}
  {{.UseLine}}{{end}}{{if .HasAvailableSubCommands}}
  {{.CommandPath}} [command]{{end}}{{if .HasExample}}

Examples:
{{.Example}}{{end}}{{if .HasAvailableSubCommands}}{{$commands := .Commands}}{{range $group := .Groups}}

{{.Title}}{{range $commands}}{{if (and (eq .GroupID $group.ID) .IsAvailableCommand)}}
  {{rpad .Name .NamePadding }} {{.Short}}{{end}}{{end}}{{end}}{{if not .AllChildCommandsHaveGroup}}

Other:{{range $commands}}{{if (and (eq .GroupID "") .IsAvailableCommand)}}
  {{rpad .Name .NamePadding }} {{.Short}}{{end}}{{end}}{{end}}{{end}}{{if and .HasParent .HasAvailableLocalFlags}}

Flags:
{{.LocalNonPersistentFlags.FlagUsagesWrapped 120 | trimTrailingWhitespaces}}{{end}}

{{if .HasAvailableSubCommands}}Use "{{.CommandPath}} [command] --help" for more about a command, and {{else}}Use {{end}}"{{.Root.DisplayName}} options" for the flags that say which cluster, user and namespace.
`

// speakAs writes the examples with the name that the program was called by.
func (f *factory) speakAs(command *cobra.Command) {
	if f.program != "leat" {
		command.Example = exampleLine.ReplaceAllString(command.Example, "${1}"+f.program+" ")
		command.Long = quotedCommand.ReplaceAllString(command.Long, "${1}"+f.program+" ")
	}
	for _, sub := range command.Commands() {
		f.speakAs(sub)
	}
}

var (
	exampleLine   = regexp.MustCompile(`(?m)((?:^|\| )\s*)leat `)
	quotedCommand = regexp.MustCompile("([\"`])leat ")
)

// prepare keeps the log of the client library from the terminal unless it is asked for.
func (f *factory) prepare(command *cobra.Command, _ []string) error {
	if v := command.Flags().Lookup("v"); v != nil && v.Changed {
		return nil
	}
	logs := flag.NewFlagSet("", flag.ContinueOnError)
	klog.InitFlags(logs)
	if err := errors.Join(logs.Set("logtostderr", "false"), logs.Set("stderrthreshold", "FATAL")); err != nil {
		return err
	}
	klog.SetOutput(io.Discard)
	rest.SetDefaultWarningHandler(rest.NewWarningWriter(f.streams.ErrOut, rest.WarningWriterOptions{Deduplicate: true}))
	return nil
}

// refuseConnectionFlags keeps a command that reaches no server from accepting flags that it has no use for.
func refuseConnectionFlags(command *cobra.Command) {
	// Its own hooks come instead of those of the root: its log is its own too.
	command.PersistentPreRunE = func(command *cobra.Command, _ []string) error {
		var err error
		command.InheritedFlags().VisitAll(func(flag *pflag.Flag) {
			if flag.Changed && err == nil {
				err = usageErrorf("%q takes no --%s: it reaches no cluster", command.CommandPath(), flag.Name)
			}
		})
		return err
	}
}

func (f *factory) newOptionsCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "options",
		Short: "List the flags that all commands take",
		Args:  noArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			fmt.Fprintln(f.streams.Out, "These flags can be given to any command that reaches a server:")
			fmt.Fprintln(f.streams.Out)
			fmt.Fprint(f.streams.Out, command.InheritedFlags().FlagUsagesWrapped(120))
			return nil
		},
	}
}

func noArgs(command *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageErrorf("%q takes no arguments, and was given %q", command.CommandPath(), args[0])
	}
	return nil
}

// atLeastOne wants names.
func atLeastOne(what string) cobra.PositionalArgs {
	return func(command *cobra.Command, args []string) error {
		if len(args) == 0 {
			return usageErrorf("which %s? Write: %s NAME", what, command.CommandPath())
		}
		return nil
	}
}

// exactlyOne wants a name.
func exactlyOne(what string) cobra.PositionalArgs {
	return func(command *cobra.Command, args []string) error {
		if len(args) > 1 {
			return usageErrorf("%q takes one %s, and was given %d names", command.CommandPath(), what, len(args))
		}
		return atLeastOne(what)(command, args)
	}
}

// interactive tells whether a person can be asked: what is shown and what is typed are a terminal. It gives what to read from, and
// the caller closes it.
func (f *factory) interactive() (io.ReadCloser, bool) {
	if !progress.IsTerminal(f.streams.ErrOut) {
		return nil, false
	}
	if progress.IsTerminal(f.streams.In) {
		return io.NopCloser(f.streams.In), true
	}
	// Standard input may be the list of what to do.
	tty, err := os.Open("/dev/tty")
	return tty, err == nil
}
