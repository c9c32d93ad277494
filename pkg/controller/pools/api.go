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

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	applyautoscalingv1 "k8s.io/client-go/applyconfigurations/autoscaling/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/client/request"
	"github.com/leat-dev/leat/pkg/generated/clientset/versioned"
	"github.com/leat-dev/leat/pkg/pool"
)

// api are the requests of the controller.
type api interface {
	getScale(ctx context.Context, statefulSet cache.ObjectName) (*autoscalingv1.Scale, error)
	// applyScale sets the replicas of this version of a StatefulSet.
	applyScale(ctx context.Context, statefulSet *metav1.PartialObjectMetadata, replicas int32) error
	createWorker(ctx context.Context, worker *batch.Worker) (*batch.Worker, error)
	updateWorker(ctx context.Context, worker *batch.Worker) (*batch.Worker, error)
	// deleteWorker deletes this version of a worker.
	deleteWorker(ctx context.Context, worker *batch.Worker) error
	// hasTasks reports whether the server has stored unfinished tasks that are bound to the worker.
	hasTasks(ctx context.Context, worker cache.ObjectName) (bool, error)
}

// clients implements api.
type clients struct {
	leat    versioned.Interface
	cluster kubernetes.Interface
}

func (c clients) getScale(ctx context.Context, name cache.ObjectName) (*autoscalingv1.Scale, error) {
	return request.Do(ctx, func(ctx context.Context) (*autoscalingv1.Scale, error) {
		return c.cluster.AppsV1().StatefulSets(name.Namespace).GetScale(ctx, name.Name, metav1.GetOptions{})
	})
}

func (c clients) applyScale(ctx context.Context, statefulSet *metav1.PartialObjectMetadata, replicas int32) error {
	// The API server records the owner of zero replicas only if they are applied: see pool.ScaledBy.
	scale := applyautoscalingv1.Scale().WithNamespace(statefulSet.Namespace).WithName(statefulSet.Name).
		WithUID(statefulSet.UID).WithResourceVersion(statefulSet.ResourceVersion).
		WithSpec(applyautoscalingv1.ScaleSpec().WithReplicas(replicas))
	_, err := request.Do(ctx, func(ctx context.Context) (*autoscalingv1.Scale, error) {
		return c.cluster.AppsV1().StatefulSets(statefulSet.Namespace).ApplyScale(ctx, statefulSet.Name, scale,
			metav1.ApplyOptions{FieldManager: pool.FieldManager, Force: true})
	})
	return err
}

func (c clients) createWorker(ctx context.Context, worker *batch.Worker) (*batch.Worker, error) {
	return request.Do(ctx, func(ctx context.Context) (*batch.Worker, error) {
		return c.leat.BatchV1alpha1().Workers(worker.Namespace).Create(ctx, worker, metav1.CreateOptions{})
	})
}

func (c clients) updateWorker(ctx context.Context, worker *batch.Worker) (*batch.Worker, error) {
	return request.Do(ctx, func(ctx context.Context) (*batch.Worker, error) {
		return c.leat.BatchV1alpha1().Workers(worker.Namespace).Update(ctx, worker, metav1.UpdateOptions{})
	})
}

func (c clients) deleteWorker(ctx context.Context, worker *batch.Worker) error {
	_, err := request.Do(ctx, func(ctx context.Context) (any, error) {
		return nil, c.leat.BatchV1alpha1().Workers(worker.Namespace).Delete(ctx, worker.Name, metav1.DeleteOptions{
			Preconditions: &metav1.Preconditions{UID: &worker.UID, ResourceVersion: &worker.ResourceVersion},
		})
	})
	return err
}

func (c clients) hasTasks(ctx context.Context, worker cache.ObjectName) (bool, error) {
	// Without a resource version the list is the most recent state.
	list, err := request.Do(ctx, func(ctx context.Context) (*batch.TaskList, error) {
		return c.leat.BatchV1alpha1().Tasks(worker.Namespace).List(ctx, metav1.ListOptions{
			FieldSelector: "spec.workerName=" + worker.Name + ",status.phase!=Succeeded,status.phase!=Failed", Limit: 1,
		})
	})
	return err == nil && len(list.Items) > 0, err
}
