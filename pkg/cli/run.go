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
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/api/validate/content"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/utils/ptr"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/cli/progress"
	"github.com/leat-dev/leat/pkg/generated/clientset/versioned/scheme"
)

// defaultParallelism is how many tasks of a set are offered to workers at a time if nothing is said: as many as most workers have
// room for, and few enough objects.
const defaultParallelism = 1000

// runOptions are the flags of "run".
type runOptions struct {
	*factory
	follow followOptions
	print  *genericclioptions.PrintFlags

	name, array, eachLine     string
	queue                     string
	priority                  int32
	parallelism, backoffLimit int32
	timeout, ttl              time.Duration
	cpu, memory, workdir      string
	requests, env, envFiles   []string
	export, hold              bool
	workerSelector            string
	tolerations, labels       []string
	maxFailed                 int32
	dryRun                    string
}

const runLong = `Run a command: once, once for each of many indexes, or once for each line of a file.

The command comes after --. No shell is involved: write sh -c '…' for one. It runs in the worker's filesystem with the worker's
environment, --env, and TASK_NAME, TASK_NAMESPACE and TASK_ATTEMPT, and reads nothing from standard input. As in the containers of
Kubernetes, $(NAME) in it is replaced by these variables, and $$ by a single $.

With the server of "leat up" on this machine, the command starts in the directory that you are in. In a cluster it starts in that
of the worker. --workdir names another one; a relative one is taken from the directory that you are in.

With --array there is one task for each index from 0 on, which finds it in $TASK_INDEX, and $(TASK_INDEX) in the command is
replaced by it. Use single quotes, or your own shell replaces both. One object is sent, whatever the number.

With --each-line there is one task for each line of the file, - for standard input. It finds the line in $TASK_ITEM. In the command
{} is replaced by it, within arguments too; without {} it becomes the last argument. Empty lines are left out.

A task of an array that fails does not keep the others from running. --backoff-limit says how often each is tried again, and
--max-failed how many may fail before the rest is given up.

--request asks for a count of something that workers have. It is not a device: which one a task uses is for its command to find out.

With --wait, progress is shown until all have ended. Ctrl-C then asks whether to detach, to cancel or to go on; where
nobody can be asked it detaches, and all goes on without you.

Exit codes with --wait: 0 all have succeeded; of a single task the exit code of its command; 1 some of a set have failed, or
the server has refused something; 2 the command line cannot be understood; 130 detached or cancelled by Ctrl-C.`

const runExample = `  leat run --wait --logs -- python train.py --epochs 3
  leat run --array 1000 --wait -- sh -c 'echo $TASK_INDEX'
  leat run --array 0-999%50 -- ./simulate --seed '$(TASK_INDEX)'
  leat run --each-line urls.txt --parallelism 20 --backoff-limit 2 --wait -- curl -fsSO {}
  find . -name '*.wav' | leat run --each-line - --wait -- flac
  leat run --cpu 2 --memory 4Gi --timeout 30m --queue night -- make all
  leat run --array 100 --dry-run=client -o yaml -- true > taskset.yaml`

func (f *factory) newRunCommand() *cobra.Command {
	o := &runOptions{factory: f, follow: followOptions{factory: f}, print: genericclioptions.NewPrintFlags("created").WithTypeSetter(scheme.Scheme)}
	command := &cobra.Command{
		Use: "run [--array 0-999%50 | --each-line FILE] -- COMMAND [ARG...]", GroupID: groupRun,
		Short: "Run a command once, for many indexes, or for each line of a file",
		Long:  runLong, Example: runExample,
		DisableFlagsInUseLine: true,
		Args: func(command *cobra.Command, args []string) error {
			switch dash := command.ArgsLenAtDash(); {
			case len(args) == 0:
				return usageErrorf("what is to be run? Write: %s -- COMMAND", command.CommandPath())
			case dash != 0:
				return usageErrorf("%q: write -- before the command to run: %s [flags] -- %s", args[0], command.CommandPath(), strings.Join(args, " "))
			}
			return nil
		},
		RunE: func(command *cobra.Command, args []string) error {
			return o.run(command.Context(), command.Flags(), args)
		},
	}
	flags := command.Flags()
	flags.StringVar(&o.array, "array", "", "One task for each index: how many (1000) or which (0-999), and %50 for at most 50 at a time")
	flags.StringVar(&o.eachLine, "each-line", "", "One task for each line of the file, - for standard input")
	flags.StringVar(&o.name, "name", "", "Name of the task or the set (default: the program's, and five letters)")
	flags.StringVar(&o.queue, "queue", "", `Queue that the tasks wait in (default "default")`)
	flags.Int32Var(&o.priority, "priority", 0, "Which tasks go first: those of higher priority")
	flags.Int32Var(&o.parallelism, "parallelism", 0, fmt.Sprintf("How many tasks run at a time, at most (default: all, up to %d)", defaultParallelism))
	flags.Int32Var(&o.backoffLimit, "backoff-limit", 0, "How often a command that fails is run again")
	flags.DurationVar(&o.timeout, "timeout", 0, "How long each task may run, like 90s or 2h")
	flags.DurationVar(&o.ttl, "ttl", 0, "How long after its end the task or the set is deleted, like 1h (default: never)")
	flags.StringVar(&o.cpu, "cpu", "", "Processors that each task asks for, like 2 or 500m")
	flags.StringVar(&o.memory, "memory", "", "Memory that each task asks for, like 1Gi")
	flags.StringSliceVar(&o.requests, "request", nil, "What else each task asks for, as a count, like example.com/license=1")
	flags.StringArrayVar(&o.env, "env", nil, "Variable of the command, as NAME=VALUE, or NAME for the value that it has here; can be repeated")
	flags.StringArrayVar(&o.envFiles, "env-file", nil, "File with variables, one on each line as for --env; can be repeated")
	flags.BoolVar(&o.export, "export", false, "Hand the whole environment of this shell to the command")
	flags.StringVar(&o.workdir, "workdir", "", "Directory that the command starts in (default: this one if the workers are those of \"leat up\" here, else the worker's)")
	flags.StringVar(&o.workerSelector, "worker-selector", "", "Labels that a worker must have, like disk=ssd,zone=a")
	flags.StringArrayVar(&o.tolerations, "toleration", nil, "Taint of workers to put up with, as KEY=VALUE:EFFECT, KEY:EFFECT or KEY; can be repeated")
	flags.StringArrayVar(&o.labels, "label", nil, "Label of the task, or of the set and its tasks, as KEY=VALUE; can be repeated")
	flags.Int32Var(&o.maxFailed, "max-failed", 0, "How many tasks of a set may fail before the set is given up (default: any number)")
	flags.BoolVar(&o.hold, "hold", false, "Make a set that starts nothing until \"leat resume\"")
	flags.StringVar(&o.dryRun, "dry-run", "none", "client: print what would be sent; server: have the server check it; none")
	o.follow.addFlags(flags)
	flags.BoolVar(&o.follow.wait, "wait", false, "Show progress until all have ended, and exit with what has come of it")
	o.print.AddFlags(command)
	_ = command.RegisterFlagCompletionFunc("queue", f.completeQueues)
	_ = command.RegisterFlagCompletionFunc("dry-run", cobra.FixedCompletions([]string{"none", "client", "server"}, cobra.ShellCompDirectiveNoFileComp))
	return command
}

func (o *runOptions) run(ctx context.Context, flags *pflag.FlagSet, command []string) error {
	if !slices.Contains([]string{"none", "client", "server"}, o.dryRun) {
		return usageErrorf("--dry-run %q: write client, server or none", o.dryRun)
	}
	object, err := o.build(flags, command)
	if err != nil {
		return err
	}
	if o.dryRun != "none" {
		if err := o.print.Complete("%s (" + o.dryRun + " dry run)"); err != nil {
			return err
		}
	}
	printer, err := o.print.ToPrinter()
	if err != nil {
		return &exitError{exitUsage, err}
	}
	if o.dryRun == "client" {
		return printer.PrintObj(object, o.streams.Out)
	}
	s, err := o.connect()
	if err != nil {
		return err
	}
	options := metav1.CreateOptions{FieldValidation: metav1.FieldValidationStrict}
	if o.dryRun == "server" {
		options.DryRun = []string{metav1.DryRunAll}
	}
	created, err := s.create(ctx, object, options)
	if err != nil {
		return err
	}
	if o.eachLine != "-" && hasInput(o.streams.In) {
		fmt.Fprintln(o.streams.ErrOut, "warning: tasks do not read standard input, and there is something in it: --each-line - makes a task of each line")
	}
	if o.dryRun == "server" {
		return printer.PrintObj(created, o.streams.Out)
	}
	return o.follow.made(ctx, s, created, func(to io.Writer) error { return printer.PrintObj(created, to) },
		ptr.Deref(o.print.OutputFormat, "") == "")
}

// create makes the task or the set, one request for whichever it is.
func (s *session) create(ctx context.Context, object runtime.Object, options metav1.CreateOptions) (runtime.Object, error) {
	if set, ok := object.(*batch.TaskSet); ok {
		return s.api.TaskSets(s.namespace).Create(ctx, set, options)
	}
	return s.api.Tasks(s.namespace).Create(ctx, object.(*batch.Task), options)
}

// build makes the object from the flags.
func (o *runOptions) build(flags *pflag.FlagSet, command []string) (runtime.Object, error) {
	meta := metav1.ObjectMeta{Name: o.name, Namespace: ptr.Deref(o.flags.Namespace, "")}
	if o.name == "" {
		meta.GenerateName = nameOf(command[0]) + "-"
	}
	for _, name := range []string{"array", "each-line"} {
		if flags.Changed(name) && flags.Lookup(name).Value.String() == "" {
			return nil, usageErrorf("--%s is empty: %s", name, map[string]string{"array": arrayForms, "each-line": "name a file, or - for standard input"}[name])
		}
	}
	spec, err := o.taskSpec(flags, command)
	if err != nil {
		return nil, err
	}
	if meta.Labels, err = o.labelMap(); err != nil {
		return nil, err
	}
	ttl, err := seconds(flags, "ttl", o.ttl, 0)
	if err != nil {
		return nil, err
	}
	if o.array == "" && o.eachLine == "" {
		for _, name := range []string{"parallelism", "max-log-requests", "max-failed", "hold"} {
			if flags.Changed(name) {
				return nil, usageErrorf("--%s is for sets: write --array or --each-line too; --array 1 makes a set of one task", name)
			}
		}
		spec.QueueName, spec.BackoffLimit = o.queue, nonZero(o.backoffLimit)
		spec.TTLSecondsAfterFinished = ttl
		return &batch.Task{TypeMeta: typeMeta("Task"), ObjectMeta: meta, Spec: spec}, nil
	}

	set := &batch.TaskSet{TypeMeta: typeMeta("TaskSet"), ObjectMeta: meta, Spec: batch.TaskSetSpec{
		CompletionMode:          ptr.To(batch.IndexedCompletion),
		BackoffLimitPerIndex:    ptr.To(o.backoffLimit),
		TTLSecondsAfterFinished: ttl,
		QueueName:               o.queue,
		Template:                batch.TaskTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: maps.Clone(meta.Labels)}, Spec: spec},
	}}
	if o.hold {
		set.Spec.Suspend = ptr.To(true)
	}
	parallelism := o.parallelism
	switch {
	case o.array != "" && o.eachLine != "":
		return nil, usageErrorf("--array and --each-line: write one of them; --parallelism says how many run at a time")
	case flags.Changed("parallelism") && parallelism < 1:
		return nil, usageErrorf("--parallelism %d: write 1 or more", parallelism)
	case o.array != "":
		a, err := parseArray(o.array)
		if err != nil {
			return nil, usageErrorf("--array %w", err)
		}
		if a.parallelism > 0 && flags.Changed("parallelism") && a.parallelism != parallelism {
			return nil, usageErrorf("--array %s and --parallelism %d: write one of them", o.array, parallelism)
		}
		set.Spec.Completions = &a.count
		parallelism = max(parallelism, a.parallelism)
	default:
		if err := o.readLines(set); err != nil {
			return nil, err
		}
	}
	if parallelism == 0 {
		parallelism = min(*set.Spec.Completions, defaultParallelism)
	} else if _, err := checkParallelism(int64(parallelism), *set.Spec.Completions); err != nil {
		return nil, usageErrorf("--parallelism %d: %w", parallelism, err)
	}
	set.Spec.Parallelism = &parallelism
	if flags.Changed("max-failed") {
		if o.maxFailed < 0 {
			return nil, usageErrorf("--max-failed %d: write 0 or more", o.maxFailed)
		}
		set.Spec.MaxFailedIndexes = &o.maxFailed
	} else if *set.Spec.Completions > largeCompletions || len(set.Spec.Items) > maxLargeParallelism {
		// The list of what has failed is stored beside the items: the server requires a bound on it.
		set.Spec.MaxFailedIndexes = ptr.To[int32](maxLargeParallelism)
	}
	return set, nil
}

// readLines gives the set an item for each line of the file.
func (o *runOptions) readLines(set *batch.TaskSet) error {
	spec := &set.Spec.Template.Spec
	spec.Command = withItem(spec.Command)
	used := 0
	for _, arg := range spec.Command {
		used += len(arg)
	}
	for _, variable := range spec.Env {
		used += len(variable.Name) + len(variable.Value)
	}
	from, name := o.streams.In, "standard input"
	if o.eachLine != "-" {
		file, err := os.Open(o.eachLine)
		if err != nil {
			return usageErrorf("--each-line: %w: name a file with one item on each line, or - for standard input", err)
		}
		defer file.Close()
		from, name = file, o.eachLine
	} else if progress.IsTerminal(o.streams.In) {
		fmt.Fprintln(o.streams.ErrOut, "Reading one item per line; Ctrl-D ends the list.")
	}
	items, empty, err := readItems(from, name, used)
	if err != nil {
		return usageErrorf("--each-line: %w", err)
	}
	if empty > 0 {
		fmt.Fprintf(o.streams.ErrOut, "Left out %s of %s.\n", plural(empty, "empty line"), name)
	}
	set.Spec.Items, set.Spec.Completions = items, ptr.To(int32(len(items)))
	return nil
}

// taskSpec makes what every task has.
func (o *runOptions) taskSpec(flags *pflag.FlagSet, command []string) (batch.TaskSpec, error) {
	spec := batch.TaskSpec{Priority: o.priority, Command: command}
	if o.backoffLimit < 0 {
		return spec, usageErrorf("--backoff-limit %d: write 0 or more", o.backoffLimit)
	}
	var err error
	if spec.Resources.Requests, err = o.resources(); err != nil {
		return spec, err
	}
	if spec.WorkingDir, err = o.workingDir(flags); err != nil {
		return spec, err
	}
	if spec.Env, err = o.environment(); err != nil {
		return spec, err
	}
	for _, text := range o.tolerations {
		toleration, err := parseToleration(text)
		if err != nil {
			return spec, usageErrorf("--toleration %w", err)
		}
		spec.Tolerations = append(spec.Tolerations, toleration)
	}
	if o.workerSelector != "" {
		selector, err := labels.ConvertSelectorToLabelsMap(o.workerSelector)
		if err != nil {
			return spec, usageErrorf("--worker-selector %q: write labels that a worker must have, like disk=ssd,zone=a", o.workerSelector)
		}
		spec.WorkerSelector = selector
	}
	timeout, err := seconds(flags, "timeout", o.timeout, 1)
	if timeout != nil {
		spec.ActiveDeadlineSeconds = ptr.To(int64(*timeout))
	}
	return spec, err
}

// workingDir returns where the command starts, "" for the worker's own directory: what the flag says, or where this process is if the
// workers are on this machine.
func (o *runOptions) workingDir(flags *pflag.FlagSet) (string, error) {
	switch {
	case !flags.Changed("workdir"):
		here, err := os.Getwd()
		if err != nil || !o.workersAreHere() {
			return "", nil
		}
		return here, nil
	case o.workdir == "", path.IsAbs(o.workdir):
		return o.workdir, nil
	}
	dir, err := filepath.Abs(o.workdir)
	if err != nil {
		return "", usageErrorf("--workdir %s: %w", o.workdir, err)
	}
	fmt.Fprintf(o.streams.ErrOut, "The command starts in %s of the worker.\n", dir)
	return dir, nil
}

// parseToleration reads KEY=VALUE:EFFECT, KEY:EFFECT, KEY=VALUE and KEY. Without a value all values are tolerated, without an effect
// all effects.
func parseToleration(text string) (batch.Toleration, error) {
	keyValue, effect, hasEffect := strings.Cut(text, ":")
	key, value, hasValue := strings.Cut(keyValue, "=")
	toleration := batch.Toleration{Key: key, Operator: batch.TolerationOpExists, Value: value, Effect: batch.TaintEffect(effect)}
	if hasValue {
		toleration.Operator = batch.TolerationOpEqual
	}
	effects := []batch.TaintEffect{batch.TaintEffectNoSchedule, batch.TaintEffectPreferNoSchedule, batch.TaintEffectNoExecute}
	if key == "" || hasEffect && !slices.Contains(effects, toleration.Effect) {
		return toleration, fmt.Errorf("%q: write KEY=VALUE:EFFECT, KEY:EFFECT or KEY, where the effect is NoSchedule, PreferNoSchedule or NoExecute", text)
	}
	return toleration, nil
}

func (o *runOptions) labelMap() (map[string]string, error) {
	var set map[string]string
	for _, text := range o.labels {
		key, value, ok := strings.Cut(text, "=")
		if messages := append(content.IsLabelKey(key), content.IsLabelValue(value)...); !ok || len(messages) > 0 {
			return nil, usageErrorf("--label %q: write KEY=VALUE: %s", text, strings.Join(messages, "; "))
		}
		if _, twice := set[key]; twice {
			return nil, usageErrorf("--label %s is given twice", key)
		}
		if set == nil {
			set = map[string]string{}
		}
		set[key] = value
	}
	return set, nil
}

func (o *runOptions) resources() (batch.ResourceList, error) {
	wanted := slices.Clone(o.requests)
	for name, amount := range map[string]string{"cpu": o.cpu, "memory": o.memory} {
		if amount != "" {
			wanted = append(wanted, name+"="+amount)
		}
	}
	requests := batch.ResourceList{}
	for _, request := range wanted {
		name, amount, _ := strings.Cut(request, "=")
		quantity, err := resource.ParseQuantity(amount)
		if name == "" || err != nil || quantity.Sign() < 0 {
			flag := "--request " + request
			if name == "cpu" && amount == o.cpu || name == "memory" && amount == o.memory {
				flag = "--" + name + " " + amount
			}
			return nil, usageErrorf("%s: write an amount, like --cpu 500m, --memory 1Gi or --request example.com/license=1", flag)
		}
		if _, twice := requests[batch.ResourceName(name)]; twice {
			return nil, usageErrorf("%s is asked for twice", name)
		}
		requests[batch.ResourceName(name)] = quantity
	}
	if len(requests) == 0 {
		return nil, nil
	}
	return requests, nil
}

// seconds gives the value of a flag in whole seconds, nil if it is not given.
func seconds(flags *pflag.FlagSet, name string, value time.Duration, least int32) (*int32, error) {
	if !flags.Changed(name) {
		return nil, nil
	}
	whole := (value + time.Second - 1) / time.Second
	if value < 0 || whole < time.Duration(least) || whole > 1<<31-1 {
		return nil, usageErrorf("--%s %s: write %ds or more, like 90s, 10m or 2h", name, value, least)
	}
	return ptr.To(int32(whole)), nil
}

func typeMeta(kind string) metav1.TypeMeta {
	return metav1.TypeMeta{APIVersion: batch.SchemeGroupVersion.String(), Kind: kind}
}

func nonZero(n int32) *int32 {
	if n == 0 {
		return nil
	}
	return &n
}

// nameOf makes of a program what the name of an object can begin with.
func nameOf(program string) string {
	var b strings.Builder
	for _, c := range strings.ToLower(path.Base(strings.ReplaceAll(program, `\`, "/"))) {
		switch {
		case c >= 'a' && c <= 'z' || c >= '0' && c <= '9':
			b.WriteRune(c)
		case b.Len() > 0 && !strings.HasSuffix(b.String(), "-"):
			b.WriteByte('-')
		}
		if b.Len() == 40 {
			break
		}
	}
	if name := strings.Trim(b.String(), "-"); name != "" {
		return name
	}
	return "task"
}

// plural counts something, in the plural where there is not just one.
func plural(n int, what string) string {
	switch {
	case n == 1:
		return "1 " + what
	case strings.HasSuffix(what, "x"):
		what += "e"
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// sortedKeys gives the keys of a map in order.
func sortedKeys[K ~string, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }
