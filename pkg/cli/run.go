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
	"io"
	"io/fs"
	"maps"
	"math"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
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

// defaultParallelism is the default of --parallelism: enough for most sets of workers, and not too many objects.
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
	time                      string
	cpu, memory, workdir      string
	gpus                      int32
	requests, env, envFiles   []string
	export, hold              bool
	workerSelector            string
	pool                      string
	tolerations, labels       []string
	maxFailed, chunk          int32
	after                     afterOptions
	filename, owner           string
	max                       int32 // of workers of a new pool
	dryRun                    string
	script                    *script // nil for a command
}

const runLong = `Run a command once, once for each of many indexes, or once for each line of a file.

Write the command after --. It runs without a shell; write sh -c '…' for one. It runs in the filesystem of the worker, with the
environment of the worker, the variables of --env, and TASK_NAME, TASK_NAMESPACE and TASK_ATTEMPT. Its standard input is empty. As in
containers of Kubernetes, $(NAME) in the command is replaced by the variable, and $$ by a single $.

Without --, write the name of a script. Its text is sent with the task, so workers need not have the file. The first line names the
interpreter, a shell, Python, Perl, Ruby or Node, like #!/bin/bash. Comments at its beginning can have flags, one on each line:
#LEAT --array 0-99. A flag on the command line replaces that of the script.

With the server of "leat up" on this machine, the command starts in your current directory. In a cluster it starts in the working
directory of the worker. --workdir sets another directory; a relative path is relative to your current directory.

--array runs the command for each index: 1000 is how many, from 0 on; 1-100, 0-1000:10 and 1,5,7-9 are which, as for sbatch. The
index is in $TASK_INDEX, and replaces $(TASK_INDEX) in the command. Use single quotes, otherwise your own shell replaces both. Only one
object is sent, however many indexes there are.

--each-line runs the command for each line of the file; - is standard input. The line is in $TASK_ITEM. It replaces {} in the command,
also inside an argument. Without {} it is appended as the last argument. Empty lines are skipped.

Each index has a task, and each line is one index. If the commands take less than half a second, a task has as many indexes as run in
about a second, one after the other: to start a task would take longer than its command. Each index still has its own process, output,
exit code and retries. --chunk limits the number of indexes in one task.

If a task of a set fails, the others still run. --backoff-limit is the number of retries of each task, and --max-failed the number of
tasks that may fail until the set is stopped.

--after waits until other sets have succeeded, --after-any until they have ended, and --after-failed until they have failed. If one ends
otherwise, the new set fails and runs nothing. --after-each starts each index once the same index of the other set has succeeded. A
single command that waits is a set with one index.

-f runs a Job of the cluster, or the Job of a CronJob once, on a pool of workers that are what its pods would be: see "leat convert". The
pool is created if it is not there. With --pool, the commands run in that pool as it is. If the container of the Job has no command, write
the entrypoint of its image after --. -f also takes the manifest of a task or a set.

--request requests something that workers have, like devices. The command finds its own in a variable, LEAT_DEVICES_NVIDIA_COM_GPU and
CUDA_VISIBLE_DEVICES for --gpu.

--wait shows progress until all tasks have ended. Ctrl-C then asks whether to detach, to cancel or to continue. Without a terminal,
Ctrl-C detaches, and the tasks continue to run.

Exit codes with --wait: 0 all tasks succeeded; for a single task, the exit code of its command; 1 some tasks of a set failed, or the
server refused a request; 2 invalid command line; 130 detached or cancelled by Ctrl-C.`

const runExample = `  leat run --wait --logs -- python train.py --epochs 3
  leat run --array 1000 --wait -- sh -c 'echo $TASK_INDEX'
  leat run --array 0-999%50 -- ./simulate --seed '$(TASK_INDEX)'
  leat run --array 10-100:10,250 -- ./scale '$(TASK_INDEX)'
  leat run --each-line urls.txt --parallelism 20 --backoff-limit 2 --wait -- curl -fsSO {}
  find . -name '*.wav' | leat run --each-line - --wait -- flac
  leat run --cpu 2 --memory 4Gi --timeout 30m --queue night -- make all
  leat run --name merge --after resize,index -- ./merge.sh
  leat run train.sh --epochs 3                        # a script, whose lines with #LEAT have flags
  leat run -f job.yaml --max 20 --wait --logs          # a Job of Kubernetes, in warm pods
  leat run --array 100 --dry-run=client -o yaml -- true > taskset.yaml`

func (f *factory) newRunCommand() *cobra.Command {
	o := &runOptions{factory: f, follow: followOptions{factory: f}, print: genericclioptions.NewPrintFlags("created").WithTypeSetter(scheme.Scheme)}
	command := &cobra.Command{
		Use: "run {[--array 0-999%50 | --each-line FILE] {-- COMMAND | SCRIPT} [ARG...] | -f FILE [-- ENTRYPOINT...]}", GroupID: groupRun,
		Short: "Run a command once, for many indexes, or for each line of a file; or a Job",
		Long:  runLong, Example: runExample,
		DisableFlagsInUseLine: true,
		Args: func(command *cobra.Command, args []string) error {
			switch {
			case o.filename != "" && len(args) > 0 && command.ArgsLenAtDash() != 0:
				return usageErrorf("-f %s has the command: leave out %q", o.filename, strings.Join(args, " "))
			case o.filename == "" && len(args) == 0:
				return usageErrorf("no command to run: write %s -- COMMAND", command.CommandPath())
			}
			return nil
		},
		RunE: func(command *cobra.Command, args []string) error {
			if o.filename != "" {
				return o.runFile(command.Context(), command.Flags(), args)
			}
			if command.ArgsLenAtDash() != 0 {
				var err error
				switch o.script, err = readScript(args[0]); {
				case errors.Is(err, fs.ErrNotExist):
					return usageErrorf("%q is not a script here; write -- before a command: %s [flags] -- %s", args[0], command.CommandPath(), strings.Join(args, " "))
				case err != nil:
					return usageErrorf("%w", err)
				}
				if err := o.script.apply(command.Flags()); err != nil {
					return err
				}
				args = args[1:]
			}
			return o.run(command.Context(), command.Flags(), args)
		},
	}
	flags := command.Flags()
	flags.SetInterspersed(false) // what follows a script are its arguments
	flags.StringVar(&o.array, "array", "", "Run the command for each index: how many (1000) or which (1-100, 0-1000:10 or 1,5,7-9), and %50 for at most 50 at a time")
	flags.StringVar(&o.eachLine, "each-line", "", "Run the command for each line of the file, - for standard input")
	flags.StringVar(&o.name, "name", "", "Name of the task or the set (default: the program's, and five letters)")
	flags.StringVar(&o.queue, "queue", "", `Queue that the tasks wait in (default "default")`)
	flags.Int32Var(&o.priority, "priority", 0, "Which tasks go first: those of higher priority")
	flags.Int32Var(&o.parallelism, "parallelism", 0, fmt.Sprintf("Maximum number of tasks that run at a time (default: all, up to %d)", defaultParallelism))
	flags.Int32Var(&o.backoffLimit, "backoff-limit", 0, "How often a command that fails is run again")
	flags.DurationVar(&o.timeout, "timeout", 0, "How long each task may run, like 90s or 2h")
	flags.StringVar(&o.time, "time", "", "The same as for sbatch: minutes, or like 30:00 (minutes:seconds), 1:30:00 or 2-12 (days-hours)")
	flags.DurationVar(&o.ttl, "ttl", 0, "How long after its end the task or the set is deleted, like 1h (default: never)")
	flags.StringVar(&o.cpu, "cpu", "", "CPU request of each task, like 2 or 500m")
	flags.StringVar(&o.memory, "memory", "", "Memory request of each task, like 1Gi")
	flags.Int32Var(&o.gpus, "gpu", 0, "Number of GPUs of each task, as --request "+string(batch.ResourceGPU)+"=N")
	flags.StringSliceVar(&o.requests, "request", nil, "Request of another resource, like example.com/license=1")
	flags.StringArrayVar(&o.env, "env", nil, "Variable of the command, as NAME=VALUE, or NAME to copy the value from your environment; can be repeated")
	flags.StringArrayVar(&o.envFiles, "env-file", nil, "File with one variable on each line, as for --env; can be repeated")
	flags.BoolVar(&o.export, "export", false, "Copy your whole environment to the command")
	flags.StringVar(&o.workdir, "workdir", "", "Working directory of the command (default: the current one with the server of \"leat up\", else the worker's)")
	flags.StringVar(&o.pool, "pool", "", "Run on the workers of this pool only")
	flags.StringVar(&o.workerSelector, "worker-selector", "", "Labels that a worker must have, like disk=ssd,zone=a")
	flags.StringArrayVar(&o.tolerations, "toleration", nil, "Taint of workers to tolerate, as KEY=VALUE:EFFECT, KEY:EFFECT or KEY; can be repeated")
	flags.StringArrayVar(&o.labels, "label", nil, "Label of the task, or of the set and its tasks, as KEY=VALUE; can be repeated")
	flags.Int32Var(&o.maxFailed, "max-failed", 0, "How many tasks of a set may fail until the set fails (default: any number)")
	flags.Int32Var(&o.chunk, "chunk", 0, fmt.Sprintf("Maximum number of indexes in one task, if their commands are short; 1 for a task each (default: %d)", batch.MaxTaskIndexes))
	o.after.addFlags(flags)
	flags.BoolVar(&o.hold, "hold", false, "Create the set suspended: it starts nothing until \"leat resume\"")
	flags.StringVarP(&o.filename, "filename", "f", "", "Run what is in the file, - for standard input: a Job, a CronJob, a task or a set")
	flags.Int32Var(&o.max, "max", 0, "With -f: the largest number of workers of a new pool (default: as many as the Job has pods at a time)")
	flags.StringVar(&o.owner, "owner", "", "With -f: the Job with which the task or the set is deleted, as NAME/UID")
	flags.StringVar(&o.dryRun, "dry-run", "none", "client: print the object that would be sent; server: let the server validate it; none")
	o.follow.addFlags(flags)
	flags.BoolVar(&o.follow.wait, "wait", false, "Show progress until all tasks have ended, and exit with their outcome")
	o.print.AddFlags(command)
	_ = command.RegisterFlagCompletionFunc("queue", f.completeQueues)
	_ = command.RegisterFlagCompletionFunc("pool", f.completePools)
	_ = command.RegisterFlagCompletionFunc("dry-run", cobra.FixedCompletions([]string{"none", "client", "server"}, cobra.ShellCompDirectiveNoFileComp))
	return command
}

// run creates a task or a set. command are the command and its arguments, or the arguments of the script.
func (o *runOptions) run(ctx context.Context, flags *pflag.FlagSet, command []string) error {
	if err := o.checkDryRun(); err != nil {
		return err
	}
	for _, name := range []string{"max", "owner"} {
		if flags.Changed(name) {
			return usageErrorf("--%s is for -f: write -f FILE too", name)
		}
	}
	object, err := o.build(flags, command)
	if err != nil {
		return err
	}
	return o.submit(ctx, object, (*session).create)
}

func (o *runOptions) checkDryRun() error {
	if !slices.Contains([]string{"none", "client", "server"}, o.dryRun) {
		return usageErrorf("--dry-run %q: write client, server or none", o.dryRun)
	}
	return nil
}

// submit creates a task or a set with the function, reports it and follows it, or prints what a dry run would create.
func (o *runOptions) submit(ctx context.Context, object runtime.Object,
	create func(*session, context.Context, runtime.Object, metav1.CreateOptions) (runtime.Object, error),
) error {
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
	if namespace := object.(metav1.Object).GetNamespace(); namespace != "" {
		s.namespace = namespace
	}
	created, err := create(s, ctx, object, options)
	if err != nil {
		return err
	}
	if o.eachLine != "-" && o.filename != "-" && hasInput(o.streams.In) {
		fmt.Fprintln(o.streams.ErrOut, "warning: standard input is not empty, but tasks do not read it: --each-line - creates a task for each line")
	}
	if o.dryRun == "server" {
		return printer.PrintObj(created, o.streams.Out)
	}
	if set, ok := created.(*batch.TaskSet); ok {
		o.warnOfMissing(ctx, s, set)
	}
	return o.follow.reportCreated(ctx, s, created, func(to io.Writer) error { return printer.PrintObj(created, to) },
		ptr.Deref(o.print.OutputFormat, "") == "")
}

// create creates a task or a set.
func (s *session) create(ctx context.Context, object runtime.Object, options metav1.CreateOptions) (runtime.Object, error) {
	if set, ok := object.(*batch.TaskSet); ok {
		return s.api.TaskSets(s.namespace).Create(ctx, set, options)
	}
	return s.api.Tasks(s.namespace).Create(ctx, object.(*batch.Task), options)
}

// build returns the task or the set that the flags describe.
func (o *runOptions) build(flags *pflag.FlagSet, command []string) (runtime.Object, error) {
	meta := metav1.ObjectMeta{Name: o.name, Namespace: ptr.Deref(o.flags.Namespace, "")}
	switch {
	case o.name != "":
	case o.script != nil:
		meta.GenerateName = namePrefix(o.script.name) + "-"
	default:
		meta.GenerateName = namePrefix(command[0]) + "-"
	}
	if o.eachLine != "" {
		command = withItem(command)
	}
	if o.script != nil {
		command = slices.Concat(o.script.interpreter, command)
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
	if meta.Labels, err = parseLabels(o.labels); err != nil {
		return nil, err
	}
	ttl, err := seconds(flags, "ttl", o.ttl, 0)
	if err != nil {
		return nil, err
	}
	dependsOn, err := o.after.dependencies()
	if err != nil {
		return nil, err
	}
	if o.array == "" && o.eachLine == "" && len(o.after.each) > 0 {
		return nil, usageErrorf("--after-each is for sets with the same indexes: write --array or --each-line too, or --after")
	}
	if o.array == "" && o.eachLine == "" && len(dependsOn) == 0 {
		for _, name := range []string{"parallelism", "max-log-requests", "max-failed", "chunk", "hold"} {
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
		DependsOn:               dependsOn,
		Template:                batch.TaskTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: maps.Clone(meta.Labels)}, Spec: spec},
	}}
	if o.hold {
		set.Spec.Suspend = ptr.To(true)
	}
	if flags.Changed("chunk") {
		if o.chunk < 1 || o.chunk > batch.MaxTaskIndexes {
			return nil, usageErrorf("--chunk %d: write 1 to %d; 1 makes a task for each index", o.chunk, batch.MaxTaskIndexes)
		}
		set.Spec.Chunking = &batch.TaskSetChunking{MaxIndexes: &o.chunk}
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
		set.Spec.Completions, set.Spec.IndexNumbers = &a.count, a.numbers
		parallelism = max(parallelism, a.parallelism)
	case o.eachLine == "":
		set.Spec.Completions = ptr.To[int32](1) // a single command that waits for others
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
		// The server requires a limit, because the list of failed indexes is stored beside the items.
		set.Spec.MaxFailedIndexes = ptr.To[int32](maxLargeParallelism)
	}
	return set, nil
}

// readLines sets the items of the set to the lines of the file.
func (o *runOptions) readLines(set *batch.TaskSet) error {
	spec := &set.Spec.Template.Spec
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

// taskSpec returns the part of the spec that a single task and the tasks of a set share.
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
	if o.pool != "" {
		if messages := content.IsDNS1123Label(o.pool); len(messages) > 0 {
			return spec, usageErrorf("--pool %q: write the name of a pool: %s", o.pool, strings.Join(messages, ", "))
		}
		spec.Pool = o.pool
	}
	if o.workerSelector != "" {
		selector, err := labels.ConvertSelectorToLabelsMap(o.workerSelector)
		if err != nil {
			return spec, usageErrorf("--worker-selector %q: write labels that a worker must have, like disk=ssd,zone=a", o.workerSelector)
		}
		spec.WorkerSelector = selector
	}
	spec.ActiveDeadlineSeconds, err = o.deadline(flags)
	return spec, err
}

// deadline returns the value of --timeout or --time in seconds, or nil if neither is set.
func (o *runOptions) deadline(flags *pflag.FlagSet) (*int64, error) {
	if flags.Changed("time") {
		if flags.Changed("timeout") {
			return nil, usageErrorf("--time and --timeout: write one of them")
		}
		limit, err := parseSlurmTime(o.time)
		if err != nil {
			return nil, usageErrorf("--time %q: %w", o.time, err)
		}
		return &limit, nil
	}
	timeout, err := seconds(flags, "timeout", o.timeout, 1)
	if timeout == nil {
		return nil, err
	}
	return ptr.To(int64(*timeout)), nil
}

// slurmTime matches the times of sbatch: minutes, minutes:seconds, hours:minutes:seconds, and days-hours with optional
// minutes and seconds.
var slurmTime = regexp.MustCompile(`^(?:(\d{1,6})|(\d{1,6}):(\d{1,2})|(\d{1,6}):(\d{1,2}):(\d{1,2})|(\d{1,5})-(\d{1,2})(?::(\d{1,2})(?::(\d{1,2}))?)?)$`)

// parseSlurmTime returns a time of sbatch in seconds.
func parseSlurmTime(text string) (int64, error) {
	const second, minute, hour, day = 1, 60, 60 * 60, 24 * 60 * 60
	match := slurmTime.FindStringSubmatch(text)
	total := int64(0)
	for i, unit := range []int64{minute, minute, second, hour, minute, second, day, hour, minute, second} {
		if match != nil && match[i+1] != "" {
			n, _ := strconv.ParseInt(match[i+1], 10, 64) // digits
			total += n * unit
		}
	}
	if total == 0 || total > math.MaxInt32 {
		return 0, errors.New("write minutes, like 90, or minutes:seconds, hours:minutes:seconds or days-hours, like 30:00, 1:30:00 or 2-12")
	}
	return total, nil
}

// workingDir returns the working directory of the command: the flag, or the directory of this process if the workers
// are local. "" stands for the worker's own directory.
func (o *runOptions) workingDir(flags *pflag.FlagSet) (string, error) {
	switch {
	case !flags.Changed("workdir"):
		here, err := os.Getwd()
		if err != nil || !o.workersAreLocal() {
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

// parseToleration parses KEY=VALUE:EFFECT, KEY:EFFECT, KEY=VALUE and KEY. A missing value matches all values, a missing
// effect all effects.
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

// parseLabels parses the values of --label.
func parseLabels(texts []string) (map[string]string, error) {
	var set map[string]string
	for _, text := range texts {
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

// resources returns the requests of --cpu, --memory and --request.
func (o *runOptions) resources() (batch.ResourceList, error) {
	selected := slices.Clone(o.requests)
	switch {
	case o.gpus < 0:
		return nil, usageErrorf("--gpu %d: write how many, like 1", o.gpus)
	case o.gpus > 0:
		selected = append(selected, fmt.Sprintf("%s=%d", batch.ResourceGPU, o.gpus))
	}
	for name, amount := range map[string]string{"cpu": o.cpu, "memory": o.memory} {
		if amount != "" {
			selected = append(selected, name+"="+amount)
		}
	}
	requests := batch.ResourceList{}
	for _, request := range selected {
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

// seconds returns the value of a duration flag in seconds, rounded up, or nil if the flag is not set. Values below
// least are errors.
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

// namePrefix derives the first part of an object's name from the name of a program.
func namePrefix(program string) string {
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

// plural returns the number and the noun, in the plural unless n is 1.
func plural(n int, what string) string {
	switch {
	case n == 1:
		return "1 " + what
	case strings.HasSuffix(what, "x"):
		what += "e"
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// sortedKeys returns the keys of a map in order.
func sortedKeys[K ~string, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }
