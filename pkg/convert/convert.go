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

// Package convert translates Jobs and CronJobs of the cluster: the pod template of a Job becomes that of a pool of
// workers, and its command, counts, policies and deadlines become those of a set, whose tasks run in the pool.
package convert

import (
	"cmp"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validate/content"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/apimachinery/pkg/util/validation/field"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// Options are what a conversion needs beside the Job.
type Options struct {
	// Namespace is the namespace of all objects.
	Namespace string
	// Pool is the name of the pool. If it is empty, the pool has the name of the Job.
	Pool string
	// Max is the largest number of workers. If it is 0, there are at most as many as the Job may have pods.
	Max int32
	// Entrypoint is the entrypoint of the image, for a container without a command.
	Entrypoint []string
	// Info is the data of the ConfigMap leat-info: where leat-apiserver is, and which image has the programs.
	Info map[string]string
}

// Note is a remark on a field that has another effect than in a Job.
type Note struct{ Path, Text string }

// String returns the path and the text.
func (n Note) String() string { return n.Path + ": " + n.Text }

// Result is what a Job or a CronJob becomes.
type Result struct {
	// Pool is the pool whose workers run the tasks.
	Pool Pool
	// Set has the command. That of a CronJob is what one of its Jobs would become.
	Set *batch.TaskSet
	// Schedule creates such sets for a CronJob. It is nil for a Job.
	Schedule *Schedule
	// Notes are remarks on fields that have another effect than in a Job.
	Notes []Note
}

// Job returns what a Job becomes, or an error for each field that cannot be converted. The Job must be valid. It is not
// changed.
func Job(job *batchv1.Job, o Options) (*Result, field.ErrorList) {
	job = job.DeepCopy()
	return convertJob(&job.ObjectMeta, &job.Spec, nil, o)
}

// CronJob returns what a CronJob becomes, or an error for each field that cannot be converted. The CronJob must be
// valid. It is not changed.
func CronJob(cron *batchv1.CronJob, o Options) (*Result, field.ErrorList) {
	cron = cron.DeepCopy()
	template := &cron.Spec.JobTemplate
	meta := metav1.ObjectMeta{GenerateName: cron.Name + "-", Labels: template.Labels, Annotations: template.Annotations}
	result, errs := convertJob(&meta, &template.Spec, field.NewPath("spec", "jobTemplate"), o)
	if strings.Contains(cron.Name, ".") {
		errs = append(errs, field.Invalid(field.NewPath("metadata", "name"), cron.Name, "each set has the name of its Job, which must not have a dot: give the CronJob another name"))
	}
	if len(errs) > 0 {
		return nil, errs
	}
	result.Schedule = newSchedule(cron, result.Set, o)
	return result, nil
}

// jobConverter converts one Job.
type jobConverter struct {
	meta    *metav1.ObjectMeta
	spec    *batchv1.JobSpec
	path    *field.Path // of the spec
	options Options
	errs    field.ErrorList
	notes   []Note
}

// convertJob converts the spec of a Job, which is below the path. It takes the spec over.
func convertJob(meta *metav1.ObjectMeta, spec *batchv1.JobSpec, path *field.Path, o Options) (*Result, field.ErrorList) {
	path = path.Child("spec")
	name := strings.TrimRight(cmp.Or(meta.Name, meta.GenerateName), "-.")
	o.Pool = cmp.Or(o.Pool, PoolName(name))
	c := jobConverter{meta: meta, spec: spec, path: path, options: o}
	c.check()
	set := c.taskSet()
	if len(c.errs) > 0 {
		return nil, c.errs
	}
	// Task and pool share no memory, and so can be changed one by one.
	return &Result{Pool: c.pool(), Set: set, Notes: c.notes}, nil
}

// check adds errors and notes for fields that are refused or ignored in any Job, and for containers that need what the
// pods of a pool do not have.
func (c *jobConverter) check() {
	template, path := &c.spec.Template, c.path.Child("template")
	c.find(&jobTable, c.spec, c.path)
	c.find(&templateMetadataTable, &template.ObjectMeta, path.Child("metadata"))
	path = path.Child("spec")
	pod := &template.Spec
	c.find(&podTable, pod, path)
	if pod.OS != nil && pod.OS.Name != corev1.Linux {
		c.errs = append(c.errs, field.NotSupported(path.Child("os", "name"), pod.OS.Name, []corev1.OSName{corev1.Linux}))
	}
	if value, ok := pod.NodeSelector[corev1.LabelOSStable]; ok && value != string(corev1.Linux) {
		c.errs = append(c.errs, field.NotSupported(path.Child("nodeSelector").Key(corev1.LabelOSStable), value, []corev1.OSName{corev1.Linux}))
	}
	c.checkPlacement(pod, path)
	for i, volume := range pod.Volumes {
		c.checkVolume(&volume, path.Child("volumes").Index(i))
	}
	for i := range pod.InitContainers {
		c.checkInitContainer(&pod.InitContainers[i], path.Child("initContainers").Index(i))
	}
	if len(pod.Containers) != 1 {
		c.errs = append(c.errs, field.Invalid(path.Child("containers"), len(pod.Containers),
			"a Job ends when all containers have ended, a worker runs the commands of one: move those that only serve the command to initContainers, with restartPolicy: Always"))
		return
	}
	container, path := &pod.Containers[0], path.Child("containers").Index(0)
	c.find(&containerTable, container, path)
	for i, mount := range container.VolumeMounts {
		for _, own := range workerDirs {
			if within(mount.MountPath, own) || within(own, mount.MountPath) {
				c.errs = append(c.errs, field.Invalid(path.Child("volumeMounts").Index(i).Child("mountPath"), mount.MountPath,
					"the worker needs "+own+": mount the volume at another path"))
			}
		}
	}
}

func (c *jobConverter) find(table *Table, value any, path *field.Path) {
	errs, notes := table.findings(value, path)
	c.errs, c.notes = append(c.errs, errs...), append(c.notes, notes...)
}

// checkPlacement adds errors for constraints that select pods by labels that the Job controller sets.
func (c *jobConverter) checkPlacement(pod *corev1.PodSpec, path *field.Path) {
	check := func(selector *metav1.LabelSelector, keys []string, path *field.Path) {
		keys = slices.Clone(keys)
		if selector != nil {
			keys = slices.AppendSeq(keys, maps.Keys(selector.MatchLabels))
			for _, expression := range selector.MatchExpressions {
				keys = append(keys, expression.Key)
			}
		}
		slices.Sort(keys)
		for _, key := range keys {
			if slices.Contains(generatedLabels, key) {
				c.errs = append(c.errs, field.Invalid(path.Child("labelSelector"), key,
					"the pods of a pool have no label that the Job controller sets: select them by a label of spec.template.metadata.labels"))
			}
		}
	}
	checkTerms := func(required []corev1.PodAffinityTerm, preferred []corev1.WeightedPodAffinityTerm, path *field.Path) {
		for i, term := range required {
			check(term.LabelSelector, slices.Concat(term.MatchLabelKeys, term.MismatchLabelKeys), path.Child("requiredDuringSchedulingIgnoredDuringExecution").Index(i))
		}
		for i, weighted := range preferred {
			term := weighted.PodAffinityTerm
			check(term.LabelSelector, slices.Concat(term.MatchLabelKeys, term.MismatchLabelKeys),
				path.Child("preferredDuringSchedulingIgnoredDuringExecution").Index(i).Child("podAffinityTerm"))
		}
	}
	if affinity := pod.Affinity; affinity != nil {
		path := path.Child("affinity")
		if a := affinity.PodAffinity; a != nil {
			checkTerms(a.RequiredDuringSchedulingIgnoredDuringExecution, a.PreferredDuringSchedulingIgnoredDuringExecution, path.Child("podAffinity"))
		}
		if a := affinity.PodAntiAffinity; a != nil {
			checkTerms(a.RequiredDuringSchedulingIgnoredDuringExecution, a.PreferredDuringSchedulingIgnoredDuringExecution, path.Child("podAntiAffinity"))
		}
	}
	for i, constraint := range pod.TopologySpreadConstraints {
		check(constraint.LabelSelector, constraint.MatchLabelKeys, path.Child("topologySpreadConstraints").Index(i))
	}
}

// checkVolume checks a volume for what differs between the pods of a Job and those of a pool.
func (c *jobConverter) checkVolume(volume *corev1.Volume, path *field.Path) {
	if volume.EmptyDir != nil {
		c.notes = append(c.notes, Note{path.Child("emptyDir").String(), "the commands of a worker share it: each finds what those before it have left"})
	}
	checkItems := func(items []corev1.DownwardAPIVolumeFile, path *field.Path) {
		for i, item := range items {
			if item.FieldRef != nil {
				c.checkFieldRef(item.FieldRef, path.Child("items").Index(i).Child("fieldRef"))
			}
		}
	}
	if volume.DownwardAPI != nil {
		checkItems(volume.DownwardAPI.Items, path.Child("downwardAPI"))
	}
	if volume.Projected != nil {
		for i, source := range volume.Projected.Sources {
			if source.DownwardAPI != nil {
				checkItems(source.DownwardAPI.Items, path.Child("projected", "sources").Index(i).Child("downwardAPI"))
			}
		}
	}
}

// checkInitContainer checks that an init container, or a sidecar, needs nothing that only one completion has.
func (c *jobConverter) checkInitContainer(container *corev1.Container, path *field.Path) {
	if container.RestartPolicy == nil || *container.RestartPolicy != corev1.ContainerRestartPolicyAlways {
		c.notes = append(c.notes, Note{path.String(), fmt.Sprintf("container %s runs once for each worker, before its first command", container.Name)})
	}
	refuse := func(path *field.Path, text string) {
		if strings.Contains(text, completionIndex) {
			c.errs = append(c.errs, field.Invalid(path, text, noIndex))
		}
	}
	for i, text := range container.Command {
		refuse(path.Child("command").Index(i), text)
	}
	for i, text := range container.Args {
		refuse(path.Child("args").Index(i), text)
	}
	for i, e := range container.Env {
		switch path := path.Child("env").Index(i); {
		case e.ValueFrom == nil:
			refuse(path.Child("value"), e.Value)
		case e.ValueFrom.FieldRef != nil:
			c.checkFieldRef(e.ValueFrom.FieldRef, path.Child("valueFrom", "fieldRef"))
		}
	}
}

// checkFieldRef adds an error if a field of the pod is one that the Job controller sets.
func (c *jobConverter) checkFieldRef(ref *corev1.ObjectFieldSelector, path *field.Path) {
	if what := jobField(ref.FieldPath); what != "" {
		c.errs = append(c.errs, field.Invalid(path.Child("fieldPath"), ref.FieldPath, "the pods of a pool have no "+what+": let the command read it, from an env variable of its container"))
	}
}

const noIndex = "it runs once for each worker, which has no index: let the command do what needs the index"

// maxPoolName is the longest name of a StatefulSet: its pods have a label with the name and a hash.
const maxPoolName = 52

// PoolName returns the name of the pool of a Job with a name.
func PoolName(name string) string {
	label := strings.ReplaceAll(name, ".", "-")
	if len(label) <= maxPoolName {
		return label
	}
	hash := fnv.New32a()
	hash.Write([]byte(name))
	suffix := rand.SafeEncodeString(fmt.Sprintf("%08x", hash.Sum32()))
	return strings.TrimRight(label[:maxPoolName-len(suffix)-1], "-") + "-" + suffix
}

// CheckPoolName returns an error if a pool cannot have the name.
func CheckPoolName(name string) error {
	messages := content.IsDNS1123Label(name)
	if len(name) > maxPoolName {
		messages = append(messages, fmt.Sprintf("must be no more than %d characters", maxPoolName))
	}
	if len(messages) > 0 {
		return errors.New(strings.Join(messages, ", "))
	}
	return nil
}

// generatedLabels are labels that the Job controller sets on the pods of a Job, or on the Job.
var generatedLabels = []string{
	batchv1.JobCompletionIndexAnnotation, batchv1.ControllerUidLabel, batchv1.JobNameLabel, "controller-uid", "job-name",
}

// generatedAnnotations are annotations that tools and controllers set on a Job.
var generatedAnnotations = []string{
	corev1.LastAppliedConfigAnnotation, batchv1.JobTrackingFinalizer, batchv1.CronJobScheduledTimestampAnnotation, "kubectl.kubernetes.io/restartedAt",
}

// without returns a copy of a map without some keys, or nil if nothing is left.
func without(m map[string]string, keys []string) map[string]string {
	m = maps.Clone(m)
	for _, key := range keys {
		delete(m, key)
	}
	if len(m) == 0 {
		return nil
	}
	return m
}
