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

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/pool"
)

const (
	// editRole allows the Job of a schedule to create its set and to wait for it.
	editRole = "leat:edit"
	// setFile is the key of the ConfigMap of a schedule with the manifest of the sets.
	setFile = "taskset.yaml"
	// launcherUser is the user of the pods that create sets.
	launcherUser = 65532
)

// Schedule creates a set at each time of a CronJob. Each of its Jobs creates a set of its own name, waits for it, and
// owns it. So the set is deleted with the Job, and what the CronJob does with its Jobs applies to sets.
type Schedule struct {
	// CronJob is the CronJob with the name of the original.
	CronJob *batchv1.CronJob
	// Manifest is the ConfigMap with the set.
	Manifest *corev1.ConfigMap
	// Account is the service account of the Jobs, and Binding its role.
	Account *corev1.ServiceAccount
	Binding *rbacv1.RoleBinding
}

// Objects returns the objects of the schedule in the order in which they are created: the CronJob last.
func (s *Schedule) Objects() []runtime.Object {
	return []runtime.Object{s.Account, s.Binding, s.Manifest, s.CronJob}
}

// ScheduleName returns the name of the service account, its RoleBinding and the ConfigMap of a CronJob.
func ScheduleName(cronJob string) string { return "leat-cronjob-" + cronJob }

// newSchedule returns the schedule of a CronJob with a set.
func newSchedule(cron *batchv1.CronJob, set *batch.TaskSet, o Options) *Schedule {
	name := ScheduleName(cron.Name)
	meta := metav1.ObjectMeta{Name: name, Namespace: o.Namespace}
	label := func(variable, key string) corev1.EnvVar {
		return corev1.EnvVar{Name: variable, ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{
			FieldPath: fmt.Sprintf("metadata.labels['%s']", key),
		}}}
	}
	const dir = "/etc/leat"
	launcher := corev1.PodSpec{
		// A set that has failed has used up its retries already.
		RestartPolicy:      corev1.RestartPolicyNever,
		ServiceAccountName: name,
		SecurityContext: &corev1.PodSecurityContext{
			RunAsNonRoot: new(true), RunAsUser: new(int64(launcherUser)),
			SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		},
		Containers: []corev1.Container{{
			Name: "leat", Image: o.Info[pool.InfoImage],
			Command: []string{"/leat", "run", "--filename=" + dir + "/" + setFile, "--name=$(JOB_NAME)", "--owner=$(JOB_NAME)/$(JOB_UID)", "--wait"},
			Env:     []corev1.EnvVar{label("JOB_NAME", batchv1.JobNameLabel), label("JOB_UID", batchv1.ControllerUidLabel)},
			// A quota of the namespace may demand them.
			Resources: corev1.ResourceRequirements{
				Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("10m"), corev1.ResourceMemory: resource.MustParse("64Mi")},
				Limits:   corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("500m"), corev1.ResourceMemory: resource.MustParse("256Mi")},
			},
			SecurityContext: &corev1.SecurityContext{
				AllowPrivilegeEscalation: new(false), ReadOnlyRootFilesystem: new(true),
				Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
			},
			VolumeMounts: []corev1.VolumeMount{{Name: "set", MountPath: dir, ReadOnly: true}},
		}},
		Volumes: []corev1.Volume{{Name: "set", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
			LocalObjectReference: corev1.LocalObjectReference{Name: name},
		}}}},
	}
	converted := cron.DeepCopy()
	converted.TypeMeta = metav1.TypeMeta{APIVersion: batchv1.SchemeGroupVersion.String(), Kind: "CronJob"}
	converted.ObjectMeta = metav1.ObjectMeta{
		Name: cron.Name, Namespace: o.Namespace, Labels: cron.Labels, Annotations: without(cron.Annotations, generatedAnnotations),
	}
	converted.Status = batchv1.CronJobStatus{}
	converted.Spec.JobTemplate.Spec = batchv1.JobSpec{
		BackoffLimit: new(int32(0)),
		// A pod that loses its node is replaced by one that waits for the same set.
		PodFailurePolicy: &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{{
			Action: batchv1.PodFailurePolicyActionIgnore,
			OnPodConditions: []batchv1.PodFailurePolicyOnPodConditionsPattern{
				{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue},
			},
		}}},
		TTLSecondsAfterFinished: set.Spec.TTLSecondsAfterFinished,
		Template:                corev1.PodTemplateSpec{Spec: launcher},
	}
	set = set.DeepCopy()
	set.GenerateName = ""
	// The set is deleted with its Job.
	set.Spec.TTLSecondsAfterFinished = nil
	return &Schedule{
		CronJob: converted,
		Manifest: &corev1.ConfigMap{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}, ObjectMeta: meta,
			Data: map[string]string{setFile: string(must(YAML(set)))},
		},
		Account: &corev1.ServiceAccount{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ServiceAccount"}, ObjectMeta: meta},
		Binding: &rbacv1.RoleBinding{
			TypeMeta:   metav1.TypeMeta{APIVersion: rbacv1.SchemeGroupVersion.String(), Kind: "RoleBinding"},
			ObjectMeta: meta,
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: editRole},
			Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: o.Namespace, Name: name}},
		},
	}
}
