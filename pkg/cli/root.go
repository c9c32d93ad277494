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

// Package cli implements the commands of leat, with which users run and observe tasks.
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

// factory holds the state that all commands share.
type factory struct {
	// program is the name of the program in texts: leat, or kubectl leat.
	program string
	streams genericiooptions.IOStreams
	flags   *genericclioptions.ConfigFlags
	// host is the URL of the server, for errors. It is empty before connect.
	host string
}

// Main runs the program with the arguments and returns its exit code. extraCommands are added to its own commands; they
// need no server.
//
// path is the path of the executable. As kubectl-leat the program calls itself "kubectl leat" in texts. As
// kubectl_complete-leat it completes the command line, as kubectl demands of plugins.
func Main(path string, args []string, streams genericiooptions.IOStreams, extraCommands ...*cobra.Command) int {
	program := "leat"
	switch name := strings.TrimSuffix(filepath.Base(path), ".exe"); name {
	case "kubectl-leat":
		program = "kubectl leat"
	case "kubectl_complete-leat":
		program, args = "kubectl leat", append([]string{cobra.ShellCompRequestCmd}, args...)
	}
	f := &factory{program: program, streams: streams, flags: genericclioptions.NewConfigFlags(false)}
	root := f.newRootCommand(extraCommands)
	root.SetArgs(args)
	command, err := root.ExecuteC()
	klog.Flush()
	return f.exit(command, err)
}

const rootLong = `Run many short commands on the workers of a cluster, or of this machine, and observe them.

Tasks are objects of the Kubernetes API batch.leat.dev. kubectl and every other client can use them: kubectl get tks,tk,tq,wkr.

The cluster is that of kubectl. KUBECONFIG, --kubeconfig, --context and -n select it. If none is configured, leat uses the server
of "leat up" on this machine (~/.local/share/leat/kubeconfig).

In place of the name of a task or a set you can write @latest. It stands for the one that you created last with "leat run" or
"leat retry" from this machine, on the same server and in the same namespace.

Exit codes: 0 success; 1 failure; 2 invalid command line; 130 interrupted by Ctrl-C. "leat run" and "leat wait" of a single task exit
with the exit code of its command.`

const rootExample = `  leat up                                             # all of Leat on this machine
  leat run --wait -- echo hello                       # one task
  leat run --array 0-999%50 --wait -- sh -c 'echo $TASK_INDEX'   # a thousand, at most 50 at a time
  leat run --each-line files.txt --wait -- gzip {}    # one for each line of a file
  leat logs -f @latest
  leat history @latest                                # each attempt: how long it took, what it used
  leat explain @latest                                # why does it wait, how did it fail
  leat board --open                                   # queues, workers and sets in a browser
  leat retry @latest --wait`

func (f *factory) newRootCommand(extraCommands []*cobra.Command) *cobra.Command {
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
	verbosity.Shorthand, verbosity.Usage = "v", "Log level of requests to the server: 6 for each request, 8 with its body"
	root.PersistentFlags().AddFlag(verbosity)

	root.AddGroup(
		&cobra.Group{ID: groupRun, Title: "Run:"},
		&cobra.Group{ID: groupLook, Title: "Look:"},
		&cobra.Group{ID: groupChange, Title: "Change:"},
		&cobra.Group{ID: groupWorkers, Title: "Workers:"},
	)
	for _, command := range extraCommands {
		command.GroupID = groupRun
		refuseConnectionFlags(command)
		root.AddCommand(command)
	}
	root.AddCommand(
		f.newRunCommand(), f.newConvertCommand(), f.newWaitCommand(), f.newRetryCommand(),
		f.newListCommand(), f.newLogsCommand(), f.newHistoryCommand(), f.newTopCommand(), f.newExplainCommand(), f.newBoardCommand(),
		f.newCancelCommand(), f.newDeleteCommand(), f.newUpdateCommand(), f.newSuspendCommand(true), f.newSuspendCommand(false),
		f.newCordonCommand(true), f.newCordonCommand(false), f.newDrainCommand(), f.newWorkerCommand(), f.newPoolCommand(),
		f.newKubeconfigCommand(), f.newVersionCommand(), f.newOptionsCommand(),
	)
	root.SetUsageTemplate(usageTemplate)
	f.setProgramName(root)
	return root
}

const (
	groupRun     = "run"
	groupLook    = "look"
	groupChange  = "change"
	groupWorkers = "workers"
)

// usageTemplate lists the global flags only under "options", as kubectl does.
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

// setProgramName replaces leat by the name of the program in the texts of the command and its subcommands.
func (f *factory) setProgramName(command *cobra.Command) {
	if f.program != "leat" {
		command.Example = exampleLine.ReplaceAllString(command.Example, "${1}"+f.program+" ")
		command.Long = quotedCommand.ReplaceAllString(command.Long, "${1}"+f.program+" ")
	}
	for _, sub := range command.Commands() {
		f.setProgramName(sub)
	}
}

var (
	exampleLine   = regexp.MustCompile(`(?m)((?:^|\| )\s*)leat `)
	quotedCommand = regexp.MustCompile("([\"`])leat ")
)

// prepare discards the log of client-go unless -v is given.
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

// refuseConnectionFlags makes a command without a server refuse the flags that select one.
func refuseConnectionFlags(command *cobra.Command) {
	// This replaces the hook of the root, which configures the log: these commands configure their own.
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

// noArgs requires that there are no arguments.
func noArgs(command *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageErrorf("%q takes no arguments, and was given %q", command.CommandPath(), args[0])
	}
	return nil
}

// atLeastOne requires one or more names.
func atLeastOne(what string) cobra.PositionalArgs {
	return func(command *cobra.Command, args []string) error {
		if len(args) == 0 {
			return usageErrorf("which %s? Write: %s NAME", what, command.CommandPath())
		}
		return nil
	}
}

// exactlyOne requires a single name.
func exactlyOne(what string) cobra.PositionalArgs {
	return func(command *cobra.Command, args []string) error {
		if len(args) > 1 {
			return usageErrorf("%q takes one %s, and was given %d names", command.CommandPath(), what, len(args))
		}
		return atLeastOne(what)(command, args)
	}
}

// interactive reports whether a person can be asked, that is, whether input and output are a terminal. It returns the
// terminal to read from, which the caller closes.
func (f *factory) interactive() (io.ReadCloser, bool) {
	if !progress.IsTerminal(f.streams.ErrOut) {
		return nil, false
	}
	if progress.IsTerminal(f.streams.In) {
		return io.NopCloser(f.streams.In), true
	}
	// Standard input may be the list of --each-line.
	tty, err := os.Open("/dev/tty")
	return tty, err == nil
}
