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
	"maps"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/utils/ptr"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/convert"
	"github.com/leat-dev/leat/pkg/pool"
)

// fileFlags are the flags of "run" that can stand beside -f. All others describe a command.
var fileFlags = []string{"filename", "max", "owner", "name", "queue", "priority", "pool", "hold", "dry-run", "output",
	"template", "allow-missing-template-keys", "show-managed-fields", "wait", "logs", "max-log-requests"}

// runFile creates the task or the set in a file. For a Job, or the Job of a CronJob, it creates the pool too, unless it
// exists, and runs the entrypoint if the container has no command.
func (o *runOptions) runFile(ctx context.Context, flags *pflag.FlagSet, entrypoint []string) error {
	owner, err := o.checkFileFlags(flags)
	if err != nil {
		return err
	}
	found, err := o.read([]string{o.filename})
	if err != nil {
		return err
	}
	if len(found) != 1 {
		return fmt.Errorf("%s: it has %s that can run: must be one Job, CronJob, task or set", o.filename, plural(len(found), "object"))
	}
	from := found[0]
	switch object := from.object.(type) {
	case *batch.Task, *batch.TaskSet:
		if len(entrypoint) > 0 {
			return usageErrorf("-f %s has the command: leave out %q", o.filename, strings.Join(entrypoint, " "))
		}
		o.override(flags, object, owner)
		return o.submit(ctx, object, o.creator(owner, nil))
	case *batchv1.Job, *batchv1.CronJob:
		return o.runJob(ctx, flags, from, jobFlags{o.pool, o.max, entrypoint}, owner)
	}
	return fmt.Errorf("%s cannot run: must be a Job, CronJob, task or set", from)
}

// checkFileFlags checks the flags beside -f, and returns the value of --owner.
func (o *runOptions) checkFileFlags(flags *pflag.FlagSet) (*metav1.OwnerReference, error) {
	var err error
	flags.Visit(func(flag *pflag.Flag) {
		if err == nil && flags.Lookup(flag.Name) != nil && !slices.Contains(fileFlags, flag.Name) && o.isRunFlag(flag) {
			err = usageErrorf("--%s is for a command, and -f %s has one: change it there", flag.Name, o.filename)
		}
	})
	if err != nil {
		return nil, err
	}
	if err := o.checkDryRun(); err != nil {
		return nil, err
	}
	jobs := jobFlags{pool: o.pool, max: o.max}
	if err := jobs.check(flags); err != nil {
		return nil, err
	}
	if o.pool != "" && flags.Changed("max") {
		return nil, usageErrorf("--max is for a new pool, and --pool %s uses one as it is: write one of them", o.pool)
	}
	if o.owner == "" {
		return nil, nil
	}
	name, uid, ok := strings.Cut(o.owner, "/")
	if !ok || name == "" || uid == "" {
		return nil, usageErrorf("--owner %q: write the name and the UID of a Job, as NAME/UID", o.owner)
	}
	return &metav1.OwnerReference{APIVersion: batchv1.SchemeGroupVersion.String(), Kind: "Job", Name: name, UID: types.UID(uid)}, nil
}

// isRunFlag reports whether a flag is one of "run", and not of all commands.
func (o *runOptions) isRunFlag(flag *pflag.Flag) bool {
	global := pflag.NewFlagSet("", pflag.ContinueOnError)
	o.flags.AddFlags(global)
	return flag.Name != "v" && global.Lookup(flag.Name) == nil
}

// override changes a task or a set as the flags say.
func (o *runOptions) override(flags *pflag.FlagSet, object runtime.Object, owner *metav1.OwnerReference) {
	var spec *batch.TaskSpec
	switch object := object.(type) {
	case *batch.Task:
		spec = &object.Spec
		if flags.Changed("queue") {
			spec.QueueName = o.queue
		}
	case *batch.TaskSet:
		spec = &object.Spec.Template.Spec
		if flags.Changed("queue") {
			object.Spec.QueueName = o.queue
		}
		if o.hold {
			object.Spec.Suspend = ptr.To(true)
		}
	}
	if flags.Changed("priority") {
		spec.Priority = o.priority
	}
	if o.pool != "" {
		spec.Pool = o.pool
	}
	meta := object.(metav1.Object)
	if o.name != "" {
		meta.SetName(o.name)
		meta.SetGenerateName("")
	}
	if owner != nil {
		meta.SetOwnerReferences(append(meta.GetOwnerReferences(), *owner))
	}
}

// runJob creates the pool of a Job, unless it exists, and its set.
func (o *runOptions) runJob(ctx context.Context, flags *pflag.FlagSet, job source, jobs jobFlags, owner *metav1.OwnerReference) error {
	result, errs := convertJob(job.object, jobs.options("", nil))
	o.printFindings(job, result, errs)
	if len(errs) > 0 {
		return fmt.Errorf("%s cannot be converted", job)
	}
	if o.pool != "" || o.dryRun == "client" {
		o.override(flags, result.Set, owner)
		return o.submit(ctx, result.Set, o.creator(owner, nil))
	}
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
	result, _ = convertJob(job.object, jobs.options(s.namespace, info))
	o.override(flags, result.Set, owner)
	return o.submit(ctx, result.Set, o.creator(owner, &result.Pool))
}

// creator returns a function that creates a task or a set after its pool, if there is one. If a task or a set of the
// same name and owner exists, it returns that one: the pod of a Job that is started again waits for the same set.
func (o *runOptions) creator(owner *metav1.OwnerReference, p *convert.Pool) func(*session, context.Context, runtime.Object, metav1.CreateOptions) (runtime.Object, error) {
	return func(s *session, ctx context.Context, object runtime.Object, options metav1.CreateOptions) (runtime.Object, error) {
		if p != nil {
			if err := o.ensurePool(ctx, s, p, options.DryRun); err != nil {
				return nil, err
			}
		}
		created, err := s.create(ctx, object, options)
		if !apierrors.IsAlreadyExists(err) || owner == nil {
			return created, err
		}
		existing, getErr := s.get(ctx, object)
		if getErr != nil {
			return nil, getErr
		}
		for _, reference := range existing.(metav1.Object).GetOwnerReferences() {
			if reference.UID == owner.UID {
				return existing, nil
			}
		}
		return nil, err
	}
}

// get returns the task or the set in the server with the name and the kind of an object.
func (s *session) get(ctx context.Context, object runtime.Object) (runtime.Object, error) {
	name := object.(metav1.Object).GetName()
	if _, ok := object.(*batch.TaskSet); ok {
		return s.api.TaskSets(s.namespace).Get(ctx, name, metav1.GetOptions{})
	}
	return s.api.Tasks(s.namespace).Get(ctx, name, metav1.GetOptions{})
}

// ensurePool creates a pool, unless it exists. It returns an error if it exists and its workers are not as the Job
// wants them.
func (o *runOptions) ensurePool(ctx context.Context, s *session, p *convert.Pool, dryRun []string) error {
	c, err := s.cluster()
	if err != nil {
		return err
	}
	name, namespace := p.Workers.Name, p.Workers.Namespace
	sets := c.dynamic.Resource(appsv1.SchemeGroupVersion.WithResource("statefulsets")).Namespace(namespace)
	workers, err := toUnstructured(p.Workers)
	if err != nil {
		return err
	}
	live, err := sets.Get(ctx, name, metav1.GetOptions{})
	switch {
	case err == nil:
		return o.comparePool(ctx, sets, live, workers)
	case !apierrors.IsNotFound(err):
		return err
	}
	for _, object := range p.Objects() {
		if object == runtime.Object(p.Workers) {
			continue
		}
		if err := o.applyOwned(ctx, c.dynamic, object, name, dryRun); err != nil {
			return err
		}
	}
	// Written out, because the default is one worker.
	if err := unstructured.SetNestedField(workers.Object, int64(0), "spec", "replicas"); err != nil {
		return err
	}
	if _, err := sets.Create(ctx, workers, metav1.CreateOptions{FieldManager: pool.CreatorFieldManager, DryRun: dryRun}); err != nil {
		return fmt.Errorf("creating pool %s: %w", name, err)
	}
	note := ""
	if len(dryRun) > 0 {
		note = " (server dry run)"
	}
	fmt.Fprintf(o.streams.ErrOut, "pool/%s created%s\n", name, note)
	return nil
}

// applyOwned applies an object of a pool. It returns an error if an object of the name exists that is not of the pool.
func (o *runOptions) applyOwned(ctx context.Context, client dynamic.Interface, object runtime.Object, name string, dryRun []string) error {
	content, err := toUnstructured(object)
	if err != nil {
		return err
	}
	resource, _ := meta.UnsafeGuessKindToResource(content.GroupVersionKind())
	objects := client.Resource(resource).Namespace(content.GetNamespace())
	what := fmt.Sprintf("%s %s", content.GetKind(), content.GetName())
	switch live, err := objects.Get(ctx, content.GetName(), metav1.GetOptions{}); {
	case apierrors.IsNotFound(err):
	case err != nil:
		return err
	case live.GetLabels()[batch.LabelPool] != name:
		return fmt.Errorf("%s exists and has no label %s=%s: delete it, or give the Job another name", what, batch.LabelPool, name)
	}
	if _, err := objects.Apply(ctx, content.GetName(), content, metav1.ApplyOptions{FieldManager: pool.CreatorFieldManager, Force: true, DryRun: dryRun}); err != nil {
		return fmt.Errorf("creating %s of pool %s: %w", what, name, err)
	}
	return nil
}

// comparePool returns an error if the workers of a pool are not as a Job wants them. It compares with what the server
// would have stored, which has all default values.
func (o *runOptions) comparePool(ctx context.Context, sets dynamic.ResourceInterface, live, workers *unstructured.Unstructured) error {
	name := live.GetName()
	if live.GetLabels()[batch.LabelPool] != name {
		return fmt.Errorf("StatefulSet %s exists and is not a pool: give the Job another name", name)
	}
	other := workers.DeepCopy()
	other.SetName("")
	other.SetGenerateName(name + "-")
	wanted, err := sets.Create(ctx, other, metav1.CreateOptions{FieldManager: pool.CreatorFieldManager, DryRun: []string{metav1.DryRunAll}})
	if err != nil {
		return fmt.Errorf("comparing pool %s with the Job: %w", name, err)
	}
	differences := differingFields(live.Object, wanted.Object)
	if len(differences) == 0 {
		return nil
	}
	const shown = 3
	text := strings.Join(differences[:min(shown, len(differences))], ", ")
	if more := len(differences) - shown; more > 0 {
		text += fmt.Sprintf(" and %s more", plural(more, "field"))
	}
	return fmt.Errorf("pool %[1]s exists, and its workers differ from the pods of the Job in %[2]s: write --pool %[1]s to use it as it is, "+
		"apply what \"%[3]s convert\" prints to change it, or give the Job another name", name, text, o.program)
}

// installerImage is the image of Leat in a pool. A pool of another version can be used.
const installerImage = "spec.template.spec.initContainers[0].image"

// differingFields returns the paths of the fields of the pod templates of two StatefulSets that differ.
func differingFields(a, b map[string]any) []string {
	template := func(set map[string]any) any {
		value, _, _ := unstructured.NestedFieldNoCopy(set, "spec", "template")
		return value
	}
	paths := differences("spec.template", template(a), template(b))
	return slices.DeleteFunc(paths, func(path string) bool { return path == installerImage })
}

// differences returns the paths at which two values of JSON differ.
func differences(path string, a, b any) []string {
	switch a := a.(type) {
	case map[string]any:
		b, ok := b.(map[string]any)
		if !ok {
			return []string{path}
		}
		var paths []string
		all := maps.Clone(a)
		maps.Copy(all, b)
		for _, key := range sortedKeys(all) {
			left, inLeft := a[key]
			right, inRight := b[key]
			if inLeft != inRight {
				paths = append(paths, path+"."+key)
				continue
			}
			paths = append(paths, differences(path+"."+key, left, right)...)
		}
		return paths
	case []any:
		b, ok := b.([]any)
		if !ok || len(a) != len(b) {
			return []string{path}
		}
		var paths []string
		for i := range a {
			paths = append(paths, differences(fmt.Sprintf("%s[%d]", path, i), a[i], b[i])...)
		}
		return paths
	}
	if !equality.Semantic.DeepEqual(a, b) {
		return []string{path}
	}
	return nil
}

// toUnstructured returns an object without its status.
func toUnstructured(object runtime.Object) (*unstructured.Unstructured, error) {
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(object)
	if err != nil {
		return nil, err
	}
	delete(content, "status")
	return &unstructured.Unstructured{Object: content}, nil
}
