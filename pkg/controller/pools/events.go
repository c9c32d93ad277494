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

package pools

import (
	"context"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/pool"
)

// Reasons of events.
const (
	reasonInvalid       = "InvalidPool"
	reasonForbidden     = "ScalingForbidden"
	reasonForeign       = "ScaledByAnother"
	reasonNotRegistered = "WorkersNotRegistered"
	reasonScaled        = "ScaledPool"

	actionScale = "Scale"
)

// warn records an event of a StatefulSet, once until its message changes.
func (c *Controller) warn(object *metav1.PartialObjectMetadata, memory *poolMemory, reason, message string) {
	if memory.lastMessage == message {
		return
	}
	memory.lastMessage = message
	c.options.Recorder.Eventf(reference(object), nil, corev1.EventTypeWarning, reason, actionScale, "%s", message)
}

// reference returns a reference to a StatefulSet.
func reference(object *metav1.PartialObjectMetadata) *corev1.ObjectReference {
	return &corev1.ObjectReference{
		APIVersion: appsv1.SchemeGroupVersion.String(), Kind: "StatefulSet",
		Namespace: object.Namespace, Name: object.Name, UID: object.UID, ResourceVersion: object.ResourceVersion,
	}
}

// reportForbidden records that the controller may not scale a pool. It says so only if that lasts: the authorizer of
// the cluster sees a new RoleBinding after a moment.
func (c *Controller) reportForbidden(now time.Time, object *metav1.PartialObjectMetadata, memory *poolMemory) {
	memory.generation = 0
	memory.forbidden.next(now, minForbiddenRetry, maxForbiddenRetry)
	if memory.forbidden.delay == minForbiddenRetry {
		return
	}
	c.warn(object, memory, reasonForbidden, fmt.Sprintf(
		"The pool cannot be scaled: RoleBinding %s, of ClusterRole %s to ServiceAccount leat-controller-manager of namespace %s, is missing or differs.",
		pool.ScalerBinding(object.Name), pool.ScalerRole, batch.SystemNamespace))
}

// reportStuck records that workers do not register. The controller cannot read pods, so it does not know why.
func (c *Controller) reportStuck(p *managed, d *decision) {
	if d.stuck == 0 {
		p.memory.lastMessage = ""
		return
	}
	c.warn(p.object, p.memory, reasonNotRegistered, fmt.Sprintf(
		"%d of %d workers have not registered for %.0fm: see kubectl describe statefulset %s", d.stuck, p.replicas, stuckAfter.Minutes(), p.name.Name))
}

// reportScaled records that a pool was scaled.
func (c *Controller) reportScaled(ctx context.Context, p *managed, replicas int) {
	klog.FromContext(ctx).V(2).Info("Scaled pool", "pool", p.name, "from", p.replicas, "to", replicas)
	c.options.Recorder.Eventf(reference(p.object), nil, corev1.EventTypeNormal, reasonScaled, actionScale,
		"Scaled from %d to %d workers", p.replicas, replicas)
	if replicas > p.replicas {
		poolScalings.WithLabelValues("out").Inc()
	} else {
		poolScalings.WithLabelValues("in").Inc()
	}
}
