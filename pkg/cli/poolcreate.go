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
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/utils/ptr"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/generated/clientset/versioned/scheme"
	"github.com/leat-dev/leat/pkg/pool"
)

// revisionPoll and revisionTimeout are the interval and the time in which the cluster sees a change of a StatefulSet.
const revisionPoll, revisionTimeout = 200 * time.Millisecond, 30 * time.Second

// applyAttempts is how often a pool is applied if its StatefulSet changes meanwhile.
const applyAttempts = 10

const poolCreateLong = `Create a pool of workers in this namespace.

Its workers are pods of the image. The program of Leat is copied into them when they start, so any image with your commands will do. The
pods run as user 65532, comply with the restricted level of Pod Security, and have no rights in the cluster. Commands start in an empty
directory that is also their $HOME. The largest number of workers is --max; each runs --tasks commands at a time, which share --cpu and
--memory. With --min 0 there is no worker, and no cost, while there is no work.

--from has a patch of the StatefulSet, as kubectl patch accepts it (a strategic merge patch): volumes, Secrets, tolerations of nodes,
nodeSelector and all else that pods can have.

What is missing of your rights is listed before anything is created. If the command fails half-way, run it again: it continues.

-o yaml --dry-run=client prints the manifests instead, for a repository that Argo CD, Flux or kubectl apply deploys. They have no
replicas: to apply them again must not undo what leat-controller-manager has scaled. "leat pool update" changes only pools that "leat pool
create" has created itself.`

const poolCreateExample = `  leat pool create render --image debian:13
  leat pool create render --image blender:4 --tasks 8 --cpu 8 --memory 32Gi --max 20 --idle 10m
  leat pool create train --image pytorch/pytorch --cpu 8 --memory 64Gi --gpu 2 --tasks 2 --taint gpu=yes:NoSchedule
  leat pool create fixed --image debian:13 --min 3 --max 3
  leat pool create spot --image debian:13 --from spot.yaml
  leat pool create render --image debian:13 --dry-run=client -o yaml > pool.yaml`

// poolCreateOptions are the flags of "pool create".
type poolCreateOptions struct {
	*factory
	poolFlags
	dryRun string
	print  *genericclioptions.PrintFlags
}

func (f *factory) newPoolCreateCommand() *cobra.Command {
	o := &poolCreateOptions{factory: f, print: genericclioptions.NewPrintFlags("created").WithTypeSetter(scheme.Scheme)}
	command := &cobra.Command{
		Use:   "create NAME --image IMAGE",
		Short: "Create a pool of workers",
		Long:  poolCreateLong, Example: poolCreateExample,
		Args:              onePoolName,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(command *cobra.Command, args []string) error {
			return o.run(command.Context(), command.Flags(), args[0])
		},
	}
	o.addFlags(command.Flags())
	command.Flags().StringVar(&o.dryRun, "dry-run", "none", "client: print the objects that would be applied; server: let the server validate them; none")
	o.print.AddFlags(command)
	_ = command.RegisterFlagCompletionFunc("dry-run", cobra.FixedCompletions([]string{"none", "client", "server"}, cobra.ShellCompDirectiveNoFileComp))
	return command
}

func (o *poolCreateOptions) run(ctx context.Context, flags *pflag.FlagSet, name string) error {
	if !slices.Contains([]string{"none", "client", "server"}, o.dryRun) {
		return usageErrorf("--dry-run %q: write client, server or none", o.dryRun)
	}
	config, err := o.newPoolConfig(flags, name, o.streams.In)
	if err != nil {
		return err
	}
	if _, err := config.statefulSet(nil); err != nil {
		return err // of the patch, before any request
	}
	s, err := o.connect()
	if err != nil {
		return err
	}
	c, err := s.cluster()
	if err != nil {
		return err
	}
	if config.info, err = o.poolInfo(ctx, c); err != nil {
		return err
	}
	if o.dryRun == "client" {
		config.namespace = ptr.Deref(o.flags.Namespace, "")
		objects, err := config.objects(nil)
		if err != nil {
			return err
		}
		return o.printObjects(objects)
	}
	config.namespace = s.namespace
	if err := o.requireRights(ctx, c, s.namespace, "create a pool", rightsToApply()); err != nil {
		return err
	}
	options := metav1.ApplyOptions{FieldManager: pool.CreatorFieldManager, Force: o.overrideManagers}
	if o.dryRun == "server" {
		options.DryRun = []string{metav1.DryRunAll}
	}
	result, err := o.applyPool(ctx, c, config, options)
	if err != nil {
		return err
	}
	if ptr.Deref(o.print.OutputFormat, "") != "" {
		return o.printObjects(result.objects)
	}
	if o.dryRun == "server" {
		fmt.Fprintf(o.streams.Out, "pool/%s %s (server dry run)\n", name, result.outcome)
		return nil
	}
	fmt.Fprintf(o.streams.Out, "pool/%s %s\n", name, result.outcome)
	if err := o.replaceUnstarted(ctx, c, config, result); err != nil {
		return err
	}
	o.printNext(config)
	return nil
}

// printNext prints what the pool will do and what to do next.
func (o *poolCreateOptions) printNext(config *poolConfig) {
	namespace := ""
	if given := ptr.Deref(o.flags.Namespace, ""); given != "" {
		namespace = " -n " + given
	}
	tasks := config.settings.Worker.Allocatable[batch.ResourceTasks]
	workers := fmt.Sprintf("%d to %s", config.settings.Min, plural(int(config.settings.Max), "worker"))
	if config.settings.Min == config.settings.Max {
		workers = plural(int(config.settings.Max), "worker")
	}
	fmt.Fprintf(o.streams.ErrOut, "It has %s, and each runs up to %s at a time. Next:\n", workers, plural(int(tasks.Value()), "task"))
	fmt.Fprintf(o.streams.ErrOut, "  %s run%s --pool %s --wait -- hostname\n  %s pool list%s\n", o.program, namespace, config.name, o.program, namespace)
}

// printObjects prints objects in the format of -o. YAML is several documents, which all tools read. Other formats have
// a List.
func (o *poolCreateOptions) printObjects(objects []poolObject) error {
	if o.dryRun != "none" {
		if err := o.print.Complete("%s (" + o.dryRun + " dry run)"); err != nil {
			return err
		}
	}
	printer, err := o.print.ToPrinter()
	if err != nil {
		return &exitError{exitUsage, err}
	}
	if format := ptr.Deref(o.print.OutputFormat, ""); format != "" && format != "name" && format != "yaml" {
		list := &metav1.List{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "List"}}
		for _, object := range objects {
			list.Items = append(list.Items, runtime.RawExtension{Object: object.Unstructured})
		}
		return printer.PrintObj(list, o.streams.Out)
	}
	for _, object := range objects {
		if err := printer.PrintObj(object.Unstructured, o.streams.Out); err != nil {
			return err
		}
	}
	return nil
}

// applied is the result of applyPool.
type applied struct {
	objects []poolObject
	outcome poolOutcome
}

// poolOutcome is what an apply has done with a pool, as kubectl calls it.
type poolOutcome string

const (
	poolCreated    poolOutcome = "created"
	poolConfigured poolOutcome = "configured"
	poolUnchanged  poolOutcome = "unchanged"
)

// applyPool applies all objects of the pool. It does not change objects that belong to something else.
func (f *factory) applyPool(ctx context.Context, c *cluster, config *poolConfig, options metav1.ApplyOptions) (*applied, error) {
	for attempt := 1; ; attempt++ {
		result, err := f.tryApplyPool(ctx, c, config, options)
		switch {
		case isFieldConflict(err):
			return nil, fmt.Errorf("%w: another tool manages these fields: change them there, or write --force-conflicts to overwrite them", err)
		case apierrors.IsConflict(err) && attempt < applyAttempts:
			continue // the StatefulSet was scaled meanwhile
		}
		return result, err
	}
}

// isFieldConflict reports whether the error is that another manager owns a field with another value.
func isFieldConflict(err error) bool {
	var status apierrors.APIStatus
	return errors.As(err, &status) && apierrors.IsConflict(err) && status.Status().Details != nil &&
		slices.ContainsFunc(status.Status().Details.Causes, func(cause metav1.StatusCause) bool { return cause.Type == metav1.CauseTypeFieldManagerConflict })
}

func (f *factory) tryApplyPool(ctx context.Context, c *cluster, config *poolConfig, options metav1.ApplyOptions) (*applied, error) {
	// The smallest number of workers, written out: the default is one.
	objects, err := config.objects(&config.settings.Min)
	if err != nil {
		return nil, err
	}
	live, err := existing(ctx, c, config, objects)
	if err != nil {
		return nil, err
	}
	result := &applied{outcome: poolUnchanged}
	for i, object := range objects {
		before := live[i]
		if object.resource == statefulSets && before != nil {
			keepReplicas(object.Unstructured, before)
		}
		after, err := c.dynamic.Resource(object.resource).Namespace(config.namespace).Apply(ctx, object.GetName(), object.Unstructured, options)
		if err != nil {
			return nil, fmt.Errorf("applying %s: %w", object, err)
		}
		if object.resource == statefulSets && appliedReplicas(after) && len(options.DryRun) == 0 {
			if after, err = c.releaseReplicas(ctx, object.Unstructured, after, options); err != nil {
				return nil, fmt.Errorf("applying %s: %w", object, err)
			}
		}
		after.SetManagedFields(nil)
		result.objects = append(result.objects, poolObject{object.resource, after})
		switch {
		case object.resource == statefulSets && before == nil:
			result.outcome = poolCreated
		case before == nil || before.GetResourceVersion() != after.GetResourceVersion():
			result.outcome = poolConfigured
		}
	}
	return result, nil
}

// existing returns the objects of the cluster with the names of the objects, nil for each that does not exist. It
// returns an error that names all objects that do not belong to the pool.
func existing(ctx context.Context, c *cluster, config *poolConfig, objects []poolObject) ([]*unstructured.Unstructured, error) {
	live := make([]*unstructured.Unstructured, len(objects))
	var foreign []string
	for i, object := range objects {
		found, err := c.dynamic.Resource(object.resource).Namespace(config.namespace).Get(ctx, object.GetName(), metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if found.GetLabels()[batch.LabelPool] != config.name {
			foreign = append(foreign, object.String())
		}
		live[i] = found
	}
	if len(foreign) > 0 {
		return nil, fmt.Errorf("nothing was changed: %s exist and do not have the label %s=%s, so they are not of this pool: delete them, or choose another name",
			strings.Join(foreign, ", "), batch.LabelPool, config.name)
	}
	return live, nil
}

// keepReplicas makes the StatefulSet to apply keep the number of workers of the live one.
//
// An apply removes the fields that its manager owned and no longer has, and a StatefulSet whose replicas are removed
// has one. So while this manager owns the replicas, it has to apply them as they are. It does if it was interrupted
// before releaseReplicas.
func keepReplicas(set, live *unstructured.Unstructured) {
	if !appliedReplicas(live) {
		unstructured.RemoveNestedField(set.Object, "spec", "replicas")
		return
	}
	replicas, _, _ := unstructured.NestedInt64(live.Object, "spec", "replicas")
	_ = unstructured.SetNestedField(set.Object, replicas, "spec", "replicas")
	set.SetResourceVersion(live.GetResourceVersion())
}

// releaseReplicas makes the controller of pools the owner of the replicas: it leaves a pool alone whose replicas
// somebody else applies. It returns the StatefulSet then.
//
// They stay as they are, because the first apply adds the new owner, and only the second one removes the old owner.
func (c *cluster) releaseReplicas(ctx context.Context, set, live *unstructured.Unstructured, options metav1.ApplyOptions) (*unstructured.Unstructured, error) {
	sets := c.dynamic.Resource(statefulSets).Namespace(live.GetNamespace())
	replicas, _, _ := unstructured.NestedInt64(live.Object, "spec", "replicas")
	owned := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": live.GetAPIVersion(), "kind": live.GetKind(), "spec": map[string]any{"replicas": replicas},
		"metadata": map[string]any{"name": live.GetName()},
	}}
	// If somebody has scaled meanwhile, the replicas have another owner already.
	if _, err := sets.Apply(ctx, live.GetName(), owned, metav1.ApplyOptions{FieldManager: pool.FieldManager}); err != nil && !isFieldConflict(err) {
		return nil, err
	}
	set = set.DeepCopy()
	unstructured.RemoveNestedField(set.Object, "spec", "replicas")
	set.SetResourceVersion("")
	return sets.Apply(ctx, live.GetName(), set, options)
}

// appliedReplicas reports whether "leat pool" owns the replicas by an apply.
func appliedReplicas(live metav1.Object) bool {
	for _, entry := range live.GetManagedFields() {
		if entry.Manager != pool.CreatorFieldManager || entry.Operation != metav1.ManagedFieldsOperationApply || entry.Subresource != "" || entry.FieldsV1 == nil {
			continue
		}
		var fields struct {
			Spec map[string]json.RawMessage `json:"f:spec"`
		}
		if err := json.Unmarshal(entry.FieldsV1.GetRawBytes(), &fields); err == nil {
			_, ok := fields.Spec["f:replicas"]
			return ok
		}
	}
	return false
}

const poolUpdateLong = `Change pools, or write them again with what has changed in the installation of Leat.

A pool has copies of where leat-apiserver is, of its certificate authorities, and of the image of Leat. After an upgrade of Leat, or a
change of an authority, "leat pool list" shows the pools whose copies are stale, and "leat pool update --all" writes them again.

With flags, the pool changes as described; what no flag names stays. --label, --taint and --from replace all labels, taints and the
whole patch that the pool had. --max, --min and --idle take effect at once. All else holds for the next workers: no command that runs is
ended. Workers that run keep what they have until they are removed. To replace one at once, drain it and delete its pod. Pods that have
not started, for example for lack of their image, are replaced.`

func (f *factory) newPoolUpdateCommand() *cobra.Command {
	var p poolFlags
	var all bool
	command := &cobra.Command{
		Use:   "update {NAME... | --all}",
		Short: "Change pools, or renew their copies of the installation's data",
		Long:  poolUpdateLong,
		Example: `  leat pool update render --max 50
  leat pool update render --image debian:14 --memory 16Gi
  leat pool update --all                              # after an upgrade of Leat`,
		DisableFlagsInUseLine: true,
		Args: func(command *cobra.Command, args []string) error {
			if all && len(args) > 0 {
				return usageErrorf("--all and %s: write one of them", args[0])
			}
			if !all {
				return atLeastOne("pool")(command, args)
			}
			return nil
		},
		ValidArgsFunction: f.completePools,
		RunE: func(command *cobra.Command, args []string) error {
			return f.updatePools(command.Context(), command.Flags(), &p, all, args)
		},
	}
	p.addFlags(command.Flags())
	for _, name := range poolFlagNames {
		flag := command.Flags().Lookup(name)
		// The defaults are those of "create": here a flag that is not given changes nothing.
		flag.DefValue, flag.Usage = "", strings.TrimSuffix(flag.Usage, " (default: one for each CPU)")
	}
	command.Flags().BoolVar(&all, "all", false, "All pools of the namespace whose copies are stale")
	return command
}

func (f *factory) updatePools(ctx context.Context, flags *pflag.FlagSet, p *poolFlags, all bool, names []string) error {
	changes := slices.ContainsFunc(poolFlagNames, flags.Changed)
	s, err := f.connect()
	if err != nil {
		return err
	}
	c, err := s.cluster()
	if err != nil {
		return err
	}
	info, err := f.poolInfo(ctx, c)
	if err != nil {
		return err
	}
	if err := f.requireRights(ctx, c, s.namespace, "update a pool", rightsToApply()); err != nil {
		return err
	}
	if all {
		list, err := c.AppsV1().StatefulSets(s.namespace).List(ctx, metav1.ListOptions{LabelSelector: batch.LabelPool})
		if err != nil {
			return err
		}
		for i := range list.Items {
			if set := &list.Items[i]; changes || isStale(set, info) {
				names = append(names, set.Name)
			}
		}
		if len(names) == 0 {
			fmt.Fprintf(f.streams.ErrOut, "No pool in namespace %s is stale.\n", s.namespace)
		}
	}
	return f.each(names, func(name string) error {
		set, err := f.findPool(ctx, s, c, name)
		if err != nil {
			return err
		}
		config, err := configOf(set)
		if err != nil {
			return err
		}
		if err := p.change(flags, config, f.streams.In); err != nil {
			return err
		}
		config.info = info
		result, err := f.applyPool(ctx, c, config, metav1.ApplyOptions{FieldManager: pool.CreatorFieldManager, Force: p.overrideManagers})
		if err != nil {
			return err
		}
		fmt.Fprintf(f.streams.Out, "pool/%s %s\n", name, result.outcome)
		return f.replaceUnstarted(ctx, c, config, result)
	})
}

// replaceUnstarted deletes the pods that have not started and are older than a change of the pool.
func (f *factory) replaceUnstarted(ctx context.Context, c *cluster, config *poolConfig, result *applied) error {
	if result.outcome != poolConfigured {
		return nil
	}
	deleted, err := c.deleteUnstarted(ctx, config.namespace, config.name)
	if deleted > 0 {
		fmt.Fprintf(f.streams.ErrOut, "Deleted %s of pool %s that had not started: others take their place with the new settings.\n", plural(deleted, "pod"), config.name)
	}
	return err
}

// deleteUnstarted deletes the pods of a pool that were made from an older template and whose worker has never started,
// for example because their image does not exist: the StatefulSet would keep them. It returns how many.
func (c *cluster) deleteUnstarted(ctx context.Context, namespace, name string) (int, error) {
	pods, err := c.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: batch.LabelPool + "=" + name})
	if err != nil {
		return 0, err
	}
	pods.Items = slices.DeleteFunc(pods.Items, func(pod corev1.Pod) bool { return hasStarted(&pod) })
	if len(pods.Items) == 0 {
		return 0, nil
	}
	// The controller of StatefulSets would replace them by the same, before it has seen the change.
	revision := ""
	err = wait.PollUntilContextTimeout(ctx, revisionPoll, revisionTimeout, true, func(ctx context.Context) (bool, error) {
		set, err := c.AppsV1().StatefulSets(namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		revision = set.Status.UpdateRevision
		return set.Status.ObservedGeneration >= set.Generation && revision != "", nil
	})
	if err != nil {
		return 0, fmt.Errorf("pool %s: %s had not started, and remain until they are deleted, as the cluster's controller of StatefulSets does not answer: %w",
			name, plural(len(pods.Items), "pod"), err)
	}
	deleted := 0
	for i := range pods.Items {
		pod := &pods.Items[i]
		if pod.Labels[appsv1.ControllerRevisionHashLabelKey] == revision {
			continue
		}
		// A pod that has started meanwhile has another version.
		preconditions := &metav1.Preconditions{UID: &pod.UID, ResourceVersion: &pod.ResourceVersion}
		switch err := c.CoreV1().Pods(namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{Preconditions: preconditions}); {
		case err == nil:
			deleted++
		case !apierrors.IsNotFound(err) && !apierrors.IsConflict(err):
			return deleted, err
		}
	}
	return deleted, nil
}

// hasStarted reports whether the worker in a pod has ever started.
func hasStarted(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.ContainerStatuses, func(status corev1.ContainerStatus) bool {
		return status.Name == poolContainer &&
			(status.State.Running != nil || status.State.Terminated != nil || status.LastTerminationState.Terminated != nil || status.RestartCount > 0)
	})
}

// findPool returns the StatefulSet of a pool.
func (f *factory) findPool(ctx context.Context, s *session, c *cluster, name string) (*appsv1.StatefulSet, error) {
	set, err := c.AppsV1().StatefulSets(s.namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || err == nil && set.Labels[batch.LabelPool] != name {
		return nil, fmt.Errorf("there is no pool %s in namespace %s: %s pool list lists them", name, s.namespace, f.program)
	}
	return set, err
}

// isStale reports whether a pool was made with other data than those of the ConfigMap leat-info.
func isStale(set *appsv1.StatefulSet, info map[string]string) bool {
	return set.Annotations[pool.AnnotationInfoHash] != pool.InfoHash(info)
}

// configOf returns the description of a pool, without the data of the ConfigMap leat-info. It returns an error for a
// pool that was not applied by this command.
func configOf(set *appsv1.StatefulSet) (*poolConfig, error) {
	appliedHere := slices.ContainsFunc(set.ManagedFields, func(entry metav1.ManagedFieldsEntry) bool {
		return entry.Manager == pool.CreatorFieldManager && entry.Operation == metav1.ManagedFieldsOperationApply
	})
	if !appliedHere {
		by := "another tool"
		if len(set.ManagedFields) > 0 {
			by = set.ManagedFields[0].Manager
		}
		return nil, fmt.Errorf("pool %s was applied by %s: write its manifests again there; \"pool create --dry-run=client -o yaml\" prints them", set.Name, by)
	}
	settings, err := pool.Parse(set)
	if err != nil {
		return nil, fmt.Errorf("pool %s is invalid: %w: create it again with the same name", set.Name, err)
	}
	config := &poolConfig{name: set.Name, namespace: set.Namespace, settings: *settings}
	for _, container := range set.Spec.Template.Spec.Containers {
		if container.Name == poolContainer {
			config.image = container.Image
		}
	}
	if patch := set.Annotations[pool.AnnotationPatch]; patch != "" {
		config.patch = []byte(patch)
	}
	return config, nil
}
