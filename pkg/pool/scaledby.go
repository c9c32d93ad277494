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
	"encoding/json"
	"fmt"
	"strconv"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// AnnotationResumeAt is the annotation of the StatefulSet of a pool with which a person returns it to the
	// controller of pools: a generation of the StatefulSet. What others have claimed up to that generation does not
	// count.
	AnnotationResumeAt = "batch.leat.dev/pool-resume-at"
	// AnnotationCordoned is the annotation of a Worker that the controller of pools has made unschedulable, to remove it.
	// Its value is the time. A worker that is unschedulable without it was cordoned by a person.
	AnnotationCordoned = "batch.leat.dev/pool-cordoned"
	// FieldManager is the field manager with which the controller of pools applies spec.replicas.
	FieldManager = "leat-pools"
	// CreatorFieldManager is the field manager with which leat applies the objects of a pool, with its first replicas.
	CreatorFieldManager = "leat"
)

const (
	scaleSubresource = "scale"
	// beforeFirstApply is the manager that the API server invents for an object without managers.
	beforeFirstApply = "before-first-apply"
	// unknownManager stands for a manager that the API server has not recorded.
	unknownManager = "unknown"
)

// ScaledBy returns the field manager that scales the StatefulSet of a pool instead of the controller of pools, and
// whether there is one. These are all that own spec.replicas through the subresource scale, like an autoscaler or
// "kubectl scale", or by server-side apply. The creator of the StatefulSet, who owns the default, is none, and so is
// leat, which applies the least number of workers.
//
// The API server does not record the manager of an update to zero replicas, and of updates after that: the manager is
// "unknown" if nobody owns spec.replicas and the spec has changed since it was created. The controller of pools applies
// the replicas, which is always recorded, also for a pool that it need not change.
func ScaledBy(object metav1.Object) (manager string, foreign bool) {
	resumeAt, err := strconv.ParseInt(object.GetAnnotations()[AnnotationResumeAt], 10, 64)
	if err == nil && object.GetGeneration() <= resumeAt {
		return "", false
	}
	owned := false
	for _, entry := range object.GetManagedFields() {
		if !ownsReplicas(&entry) {
			continue
		}
		owned = true
		if entry.Manager != FieldManager && entry.Manager != CreatorFieldManager && entry.Manager != beforeFirstApply &&
			(entry.Operation == metav1.ManagedFieldsOperationApply || entry.Subresource == scaleSubresource) {
			return entry.Manager, true
		}
	}
	if !owned && object.GetGeneration() > 1 {
		return unknownManager, true
	}
	return "", false
}

// IsClaimed reports whether the controller of pools owns spec.replicas of a StatefulSet, alone or with others.
func IsClaimed(object metav1.Object) bool {
	for _, entry := range object.GetManagedFields() {
		if entry.Manager == FieldManager && ownsReplicas(&entry) {
			return true
		}
	}
	return false
}

// ResumeCommand returns the command with which a person returns a pool to the controller of pools.
func ResumeCommand(object metav1.Object) string {
	return fmt.Sprintf("kubectl annotate statefulset --namespace=%s %s --overwrite %s=%d",
		object.GetNamespace(), object.GetName(), AnnotationResumeAt, object.GetGeneration())
}

// ownsReplicas reports whether an entry contains spec.replicas.
func ownsReplicas(entry *metav1.ManagedFieldsEntry) bool {
	if entry.FieldsV1 == nil {
		return false
	}
	var fields struct {
		Spec map[string]json.RawMessage `json:"f:spec"`
	}
	if err := json.Unmarshal(entry.FieldsV1.Raw, &fields); err != nil {
		return false
	}
	_, owned := fields.Spec["f:replicas"]
	return owned
}
