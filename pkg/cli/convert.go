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
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/leat-dev/leat/pkg/convert"
	"github.com/leat-dev/leat/pkg/pool"
)

const convertLong = `Print a pool of workers and a set for each Job, so that its commands run in pods that are there already.

The pod template of the Job becomes that of the pool: image, volumes, Secrets, service account, init containers, sidecars, limits and
placement stay as they are. leat-worker runs in the place of the container's command. The command, the counts, the policies and the
deadlines of the Job become those of the set. The pool has at most as many workers as the Job has pods at a time, and none without work.

For a CronJob, a pool and a CronJob of the same name are printed. Its Jobs create sets, wait for them, and delete them with themselves.
So the schedule, the time zone, the concurrency policy and the history limits apply to the sets.

If the container has no command, leat-worker runs in the place of the entrypoint of its image. Write the entrypoint after --.

A field that cannot be converted is named on standard error, with what to do. So are fields with another effect than in a Job. Other
objects in the files are left out: they stay as they are.

Exit codes: 0 all were converted; 1 one could not be converted, and the others are printed; 2 invalid command line.`

const convertExample = `  leat convert -f job.yaml
  leat convert -f job.yaml --max 20 | kubectl apply -f -
  leat convert -f job.yaml -- /entrypoint.sh          # of the image, for a container without a command
  kubectl get job report -o yaml | leat convert -f - > report.yaml
  helm template charts/report | leat convert -f -`

// convertOptions are the flags of "convert".
type convertOptions struct {
	*factory
	files []string
	jobFlags
}

// jobFlags are the flags for the pool of a Job, and what stands after --.
type jobFlags struct {
	pool       string
	max        int32
	entrypoint []string
}

func (f *factory) newConvertCommand() *cobra.Command {
	o := &convertOptions{factory: f}
	command := &cobra.Command{
		Use: "convert -f FILE... [-- ENTRYPOINT...]", GroupID: groupRun,
		Short: "Print pools and sets for Jobs and CronJobs",
		Long:  convertLong, Example: convertExample,
		DisableFlagsInUseLine: true,
		Args: func(command *cobra.Command, args []string) error {
			if command.ArgsLenAtDash() != 0 {
				return noArgs(command, args)
			}
			return nil
		},
		RunE: func(command *cobra.Command, args []string) error {
			o.entrypoint = args
			return o.run(command.Context(), command.Flags())
		},
	}
	command.Flags().StringArrayVarP(&o.files, "filename", "f", nil, "File with Jobs and CronJobs in YAML or JSON, - for standard input; can be repeated")
	command.Flags().StringVar(&o.pool, "pool", "", "Name of the pool (default: that of the Job)")
	command.Flags().Int32Var(&o.max, "max", 0, "Largest number of workers of the pool (default: as many as the Job has pods at a time)")
	return command
}

func (o *convertOptions) run(ctx context.Context, flags *pflag.FlagSet) error {
	if len(o.files) == 0 {
		return usageErrorf("no file to convert: write -f FILE, or -f - for standard input")
	}
	if err := o.check(flags); err != nil {
		return err
	}
	jobs, err := o.readJobs(o.files)
	if err != nil {
		return err
	}
	if len(jobs) > 1 {
		switch {
		case o.pool != "":
			return usageErrorf("--pool %s names one pool, and there are %d Jobs: convert them one by one", o.pool, len(jobs))
		case len(o.entrypoint) > 0:
			return usageErrorf("%s is the entrypoint of one image, and there are %d Jobs: convert them one by one", o.entrypoint[0], len(jobs))
		}
	}
	// Name all problems before any request: many can be solved without a cluster.
	failed := 0
	var convertible []source
	for _, job := range jobs {
		if o.tryConvert(job) {
			convertible = append(convertible, job)
		} else {
			failed++
		}
	}
	if len(convertible) > 0 {
		s, err := o.connect()
		if err != nil {
			return err
		}
		c, err := s.cluster()
		if err != nil {
			return err
		}
		info, err := o.poolInfo(ctx, c)
		if err != nil {
			return err
		}
		for _, job := range convertible {
			result, _ := convertJob(job.object, o.options(s.namespace, info))
			manifest, err := result.Manifest()
			if err != nil {
				return err
			}
			if _, err := o.streams.Out.Write(manifest); err != nil {
				return err
			}
		}
	}
	if failed > 0 {
		return &exitError{exitFailed, fmt.Errorf("%d of %s cannot be converted", failed, plural(len(jobs), "Job"))}
	}
	return nil
}

// check returns an error if no pool can be as the flags say.
func (o *jobFlags) check(flags *pflag.FlagSet) error {
	if o.pool != "" {
		if err := convert.CheckPoolName(o.pool); err != nil {
			return usageErrorf("--pool %q: write the name of a pool: %w", o.pool, err)
		}
	}
	if flags.Changed("max") && (o.max < 1 || o.max > pool.MaxWorkers) {
		return usageErrorf("--max %d: write 1 to %d", o.max, pool.MaxWorkers)
	}
	return nil
}

// options returns the options of a conversion.
func (o *jobFlags) options(namespace string, info map[string]string) convert.Options {
	return convert.Options{Namespace: namespace, Pool: o.pool, Max: o.max, Entrypoint: o.entrypoint, Info: info}
}

// source is an object and the file that it is from.
type source struct {
	file   string
	object runtime.Object
}

// String returns the object as in error messages.
func (s source) String() string {
	object := s.object.(metav1.Object)
	name := object.GetName()
	if name == "" {
		name = object.GetGenerateName() + "*"
	}
	return fmt.Sprintf("%s: %s/%s", s.file, s.object.GetObjectKind().GroupVersionKind().Kind, name)
}

// read returns the objects of Leat, the Jobs and the CronJobs in the files. It reports objects of other kinds as left
// out.
func (f *factory) read(files []string) ([]source, error) {
	var found []source
	for _, name := range files {
		objects, err := f.readObjects(name)
		if err != nil {
			return nil, err
		}
		for _, object := range objects {
			s := source{name, object}
			if _, other := object.(*unstructured.Unstructured); other {
				fmt.Fprintf(f.streams.ErrOut, "note: %s is left out: it stays as it is\n", s)
				continue
			}
			found = append(found, s)
		}
	}
	return found, nil
}

// readObjects returns the objects in a file, - for standard input.
func (f *factory) readObjects(name string) ([]runtime.Object, error) {
	var from io.Reader = f.streams.In
	if name != "-" {
		file, err := os.Open(name)
		if err != nil {
			return nil, usageErrorf("-f: %w", err)
		}
		defer file.Close()
		from = file
	}
	objects, err := convert.Read(from)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	for _, object := range objects {
		if given := object.(metav1.Object).GetNamespace(); *f.flags.Namespace != "" && given != "" && given != *f.flags.Namespace {
			return nil, fmt.Errorf("%s: metadata.namespace: %q: must be %s, as --namespace is, or unset", source{name, object}, given, *f.flags.Namespace)
		}
	}
	return objects, nil
}

// readJobs returns the Jobs and CronJobs in the files.
func (f *factory) readJobs(files []string) ([]source, error) {
	found, err := f.read(files)
	if err != nil {
		return nil, err
	}
	var jobs []source
	for _, s := range found {
		switch s.object.(type) {
		case *batchv1.Job, *batchv1.CronJob:
			jobs = append(jobs, s)
		default:
			fmt.Fprintf(f.streams.ErrOut, "note: %s is left out: it stays as it is\n", s)
		}
	}
	if len(jobs) == 0 {
		return nil, errors.New("there is no Job and no CronJob to convert")
	}
	return jobs, nil
}

// tryConvert reports whether a Job can be converted. It prints the fields that cannot be converted, and those that have
// another effect.
func (o *convertOptions) tryConvert(job source) bool {
	result, errs := convertJob(job.object, o.options("", nil))
	o.printFindings(job, result, errs)
	return len(errs) == 0
}

// printFindings prints the fields of a Job that cannot be converted, and those that have another effect.
func (f *factory) printFindings(job source, result *convert.Result, errs field.ErrorList) {
	for _, err := range errs {
		fmt.Fprintf(f.streams.ErrOut, "error: %s: %s\n", job, err)
	}
	if result != nil {
		for _, note := range result.Notes {
			fmt.Fprintf(f.streams.ErrOut, "note: %s: %s\n", job, note)
		}
	}
}

// convertJob converts a Job or a CronJob. Its own namespace replaces that of the options.
func convertJob(object runtime.Object, o convert.Options) (*convert.Result, field.ErrorList) {
	if namespace := object.(metav1.Object).GetNamespace(); namespace != "" {
		o.Namespace = namespace
	}
	if cron, ok := object.(*batchv1.CronJob); ok {
		return convert.CronJob(cron, o)
	}
	return convert.Job(object.(*batchv1.Job), o)
}
