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

package convert

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/pool"
)

// workerDirs are the directories that a Job must leave to the worker.
var workerDirs = []string{pool.ProgramDir, pool.AccessDir, pool.StateDir}

const (
	// stopTime is what a worker needs to stop commands in addition to their grace period, and evictTime what it needs then
	// to return tasks that have not ended.
	stopTime  = 5 * time.Second
	evictTime = 20 * time.Second
	// defaultGrace is the default of terminationGracePeriodSeconds, of pods and of tasks.
	defaultGrace = 30 * time.Second
	// maxGrace is the longest time between SIGTERM and SIGKILL of a command when its worker stops.
	maxGrace = 7 * 24 * time.Hour
)

// workerOptions are what a worker needs beside its pod.
type workerOptions struct {
	// Pool is the name of the pool.
	Pool string
	// Image has leat-worker.
	Image string
	// Access is the ConfigMap with the kubeconfig, which names the file "token" beside it, and client-ca.crt.
	Access string
	// Tasks is how many tasks the worker runs at a time.
	Tasks int
}

// injectWorker makes the container of a pod template run leat-worker, which an init container installs, in the place of
// its command.
func injectWorker(template *corev1.PodTemplateSpec, container int, o workerOptions) {
	pod := &template.Spec
	to := &pod.Containers[container]
	grace := defaultGrace
	if seconds := pod.TerminationGracePeriodSeconds; seconds != nil {
		grace = min(time.Duration(min(max(*seconds, 0), int64(maxGrace/time.Second)))*time.Second, maxGrace)
	}
	drain := grace + stopTime
	to.Command = []string{pool.ProgramDir + "/leat-worker"}
	to.Args = []string{
		"--kubeconfig=" + pool.AccessDir + "/kubeconfig",
		"--client-ca-file=" + pool.AccessDir + "/client-ca.crt",
		"--state-dir=" + pool.StateDir,
		"--name=$(LEAT_POD_NAME)",
		"--log-address=$(LEAT_POD_IP)",
		"--pool=" + o.Pool,
		fmt.Sprintf("--tasks=%d", o.Tasks),
		fmt.Sprintf("--drain-timeout=%s", drain),
	}
	if devices := extendedResources(to.Resources.Limits); devices != "" {
		to.Args = append(to.Args, "--capacity="+devices)
	}
	to.Stdin, to.StdinOnce, to.TTY = false, false, false
	podField := func(name, path string) corev1.EnvVar {
		return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: path}}}
	}
	to.Env = append(to.Env, podField("LEAT_POD_NAME", "metadata.name"), podField("LEAT_POD_IP", "status.podIP"))

	mount := func(name, path string, readOnly bool, source corev1.VolumeSource) corev1.VolumeMount {
		name = unused(name, len(pod.Volumes), func(i int) string { return pod.Volumes[i].Name })
		pod.Volumes = append(pod.Volumes, corev1.Volume{Name: name, VolumeSource: source})
		return corev1.VolumeMount{Name: name, MountPath: path, ReadOnly: readOnly}
	}
	program := mount("leat-program", pool.ProgramDir, true, corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}})
	access := mount("leat-access", pool.AccessDir, true, pool.AccessVolume(o.Access))
	state := mount("leat-state", pool.StateDir, false, corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}})
	to.VolumeMounts = append(to.VolumeMounts, program, access, state)

	program.ReadOnly = false
	name := unused("leat-worker", len(pod.InitContainers)+len(pod.Containers), func(i int) string {
		return slices.Concat(pod.InitContainers, pod.Containers)[i].Name
	})
	pod.InitContainers = slices.Insert(pod.InitContainers, 0, corev1.Container{
		Name: name, Image: o.Image, Command: []string{"/leat-worker", "install", pool.ProgramDir},
		// With the same requests and limits, the pod keeps its quality of service and fits where it would have.
		Resources:       computeResources(to.Resources),
		SecurityContext: installerSecurity(pod.SecurityContext),
		VolumeMounts:    []corev1.VolumeMount{program},
	})
	pod.RestartPolicy = corev1.RestartPolicyAlways
	// A StatefulSet does not accept it. It is a deadline of each task.
	pod.ActiveDeadlineSeconds = nil
	pod.TerminationGracePeriodSeconds = new(int64((drain + evictTime) / time.Second))
}

// installerSecurity returns the security context of the container that installs leat-worker. It is the most restricted
// one that the security context of the pod allows.
func installerSecurity(pod *corev1.PodSecurityContext) *corev1.SecurityContext {
	security := &corev1.SecurityContext{
		AllowPrivilegeEscalation: new(false),
		Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		SeccompProfile:           &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
	}
	// The image has a user of its own, which that of the pod replaces.
	if pod == nil || ptr.Deref(pod.RunAsUser, 1) != 0 {
		security.RunAsNonRoot = new(true)
	}
	return security
}

// computeResources returns the requests and limits of CPU and memory.
func computeResources(of corev1.ResourceRequirements) corev1.ResourceRequirements {
	only := func(list corev1.ResourceList) corev1.ResourceList {
		compute := corev1.ResourceList{}
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			if quantity, ok := list[name]; ok {
				compute[name] = quantity
			}
		}
		if len(compute) == 0 {
			return nil
		}
		return compute
	}
	return corev1.ResourceRequirements{Requests: only(of.Requests), Limits: only(of.Limits)}
}

// isExtended reports whether a resource is one of a device plugin, like nvidia.com/gpu.
func isExtended(name corev1.ResourceName) bool {
	domain, _, ok := strings.Cut(string(name), "/")
	return ok && domain != "kubernetes.io" && !strings.HasSuffix(domain, ".kubernetes.io")
}

// extendedResources returns the extended resources among the limits, as a flag of leat-worker.
func extendedResources(limits corev1.ResourceList) string {
	var list []string
	for name, quantity := range limits {
		if isExtended(name) {
			list = append(list, fmt.Sprintf("%s=%s", name, quantity.String()))
		}
	}
	slices.Sort(list)
	return strings.Join(list, ",")
}

// offer returns what a worker in the container offers.
func offer(container *corev1.Container, tasks int64) pool.Worker {
	list := batch.ResourceList{batch.ResourceTasks: quantityOf(tasks)}
	for name, quantity := range container.Resources.Limits {
		if name == corev1.ResourceCPU || name == corev1.ResourceMemory || isExtended(name) {
			list[batch.ResourceName(name)] = quantity
		}
	}
	return pool.Worker{Allocatable: list}
}

// unused returns the name, with a number if one of n others has it.
func unused(name string, n int, other func(i int) string) string {
	free := name
	for suffix := 2; ; suffix++ {
		taken := false
		for i := range n {
			taken = taken || other(i) == free
		}
		if !taken {
			return free
		}
		free = fmt.Sprintf("%s-%d", name, suffix)
	}
}

// within reports whether a directory is another or below it.
func within(dir, other string) bool {
	dir, other = path.Clean("/"+dir), path.Clean("/"+other)
	return dir == other || strings.HasPrefix(dir, strings.TrimSuffix(other, "/")+"/")
}
