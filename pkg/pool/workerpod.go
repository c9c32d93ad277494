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

package pool

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// Directories of the worker in the container of a pool's pod: the program, what it needs to connect to the API, and its
// state.
const (
	ProgramDir = "/opt/leat"
	AccessDir  = "/etc/leat"
	StateDir   = "/var/lib/leat-worker"
)

const (
	// ControllerAccount is the service account in the system namespace that scales pools.
	ControllerAccount = "leat-controller-manager"
	// SafeToEvict is the annotation of pods with which the cluster autoscaler leaves a pod on its node if it is "false".
	SafeToEvict = "cluster-autoscaler.kubernetes.io/safe-to-evict"
)

// AccessVolume returns the volume for AccessDir: the ConfigMap with the kubeconfig, and a token that is valid for
// leat-apiserver only, for an hour, and while the pod exists.
func AccessVolume(configMap string) corev1.VolumeSource {
	return corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
		{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: configMap}}},
		{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", Audience: batch.WorkerAudience, ExpirationSeconds: ptr.To[int64](3600)}},
	}}}
}
