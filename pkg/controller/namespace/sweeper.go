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

// Package namespace implements the namespace sweeper, which deletes objects of Leat whose namespace does not exist.
// Such objects are left over when they are created after the cluster's namespace controller has emptied the namespace,
// because our server learns of the deletion from a watch, a moment late. They are also left over when a namespace is
// finalized by force while our server is unavailable.
package namespace

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/klog/v2"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/client/request"
	"github.com/leat-dev/leat/pkg/controller/internal/metrics"
	"github.com/leat-dev/leat/pkg/controller/internal/reconcile"
	"github.com/leat-dev/leat/pkg/generated/kinds"
)

const (
	// DefaultInterval is the default time between two sweeps.
	DefaultInterval = 5 * time.Minute
	// jitter is the maximum fraction of the interval that is added to it.
	jitter = 0.2
	// confirmAfter is the time between the two reads of a namespace that must both fail with not found.
	confirmAfter = 5 * time.Second
	// pageSize is how many objects are listed at a time, and concurrentDeletes is how many are deleted at a time.
	pageSize, concurrentDeletes = 500, 8
)

// resources are the resources of all namespaced kinds. Owners come first, because their controllers create other
// objects.
var resources = func() []string {
	var owners, others []string
	for _, kind := range kinds.All {
		switch {
		case !kind.Namespaced:
		case len(kind.Owns) > 0:
			owners = append(owners, kind.Resource)
		default:
			others = append(others, kind.Resource)
		}
	}
	return append(owners, others...)
}()

// Sweeper deletes objects of Leat whose namespace does not exist.
type Sweeper struct {
	cluster      kubernetes.Interface
	objects      metadata.Interface
	interval     time.Duration
	confirmAfter time.Duration
}

// New returns a Sweeper that reads namespaces with the client cluster, deletes with the client objects, and sweeps
// about once per interval. A namespace counts as missing only if the error names it: with a server that serves no
// namespaces, nothing is deleted.
func New(cluster kubernetes.Interface, objects metadata.Interface, interval time.Duration) *Sweeper {
	return &Sweeper{cluster: cluster, objects: objects, interval: interval, confirmAfter: confirmAfter}
}

// Run sweeps until ctx is done. It retries a failed sweep after the interval and never returns an error.
func (s *Sweeper) Run(ctx context.Context) error {
	reconcile.Periodically(ctx, wait.Jitter(s.interval, jitter), func(ctx context.Context) time.Duration {
		err := s.sweep(ctx)
		if ctx.Err() != nil {
			return 0
		}
		if err != nil {
			klog.FromContext(ctx).Error(err, "Failed to sweep objects of missing namespaces, will retry", "retryAfter", s.interval)
		}
		sweeps.WithLabelValues(metrics.Result(err)).Inc()
		return wait.Jitter(s.interval, jitter)
	})
	return nil
}

// object identifies a listed object.
type object struct {
	resource, name string
	uid            types.UID
}

// sweep deletes the objects that it lists in a namespace between two reads that both find the namespace missing. If the
// namespace is created again in between, its new objects are not in the list or the second read finds the namespace.
func (s *Sweeper) sweep(ctx context.Context) error {
	inUse := sets.New[string]()
	for _, resource := range resources {
		if err := s.list(ctx, resource, metav1.NamespaceAll, func(o *metav1.PartialObjectMetadata) { inUse.Insert(o.Namespace) }); err != nil {
			return err
		}
	}
	var errs []error
	orphans := map[string][]object{}
	for _, namespace := range sets.List(inUse) {
		gone, err := s.isGone(ctx, namespace)
		if err != nil || !gone {
			errs = append(errs, err)
			continue
		}
		for _, resource := range resources {
			errs = append(errs, s.list(ctx, resource, namespace, func(o *metav1.PartialObjectMetadata) {
				if o.DeletionTimestamp == nil {
					orphans[namespace] = append(orphans[namespace], object{resource, o.Name, o.UID})
				}
			}))
		}
	}
	if len(orphans) == 0 || !reconcile.Sleep(ctx, s.confirmAfter) {
		return errors.Join(errs...)
	}
	for _, namespace := range sets.List(sets.KeySet(orphans)) {
		gone, err := s.isGone(ctx, namespace)
		if err == nil && gone {
			err = s.delete(ctx, namespace, orphans[namespace])
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// list calls visit for each object of a resource, in one namespace or in all, page by page.
func (s *Sweeper) list(ctx context.Context, resource, namespace string, visit func(*metav1.PartialObjectMetadata)) error {
	options := metav1.ListOptions{Limit: pageSize}
	for {
		page, err := request.Do(ctx, func(ctx context.Context) (*metav1.PartialObjectMetadataList, error) {
			return s.objects.Resource(batch.SchemeGroupVersion.WithResource(resource)).Namespace(namespace).List(ctx, options)
		})
		if err != nil {
			return fmt.Errorf("listing %s: %w", resource, err)
		}
		for i := range page.Items {
			visit(&page.Items[i])
		}
		if options.Continue = page.Continue; options.Continue == "" {
			return nil
		}
	}
}

// isGone reports whether a namespace does not exist. It reads from the server, not from a cache.
func (s *Sweeper) isGone(ctx context.Context, name string) (bool, error) {
	_, err := request.Do(ctx, func(ctx context.Context) (any, error) {
		return s.cluster.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
	})
	if err == nil {
		return false, nil
	}
	// A server that does not serve the path answers 404, too. Then the client has filled in the details of the error.
	var status apierrors.APIStatus
	if apierrors.IsNotFound(err) && !apierrors.HasStatusCause(err, metav1.CauseTypeUnexpectedServerResponse) && errors.As(err, &status) {
		if d := status.Status().Details; d != nil && d.Group == "" && d.Kind == "namespaces" && d.Name == name {
			return true, nil
		}
	}
	return false, fmt.Errorf("getting namespace %s: %w", name, err)
}

// delete deletes the listed objects, but not new objects of the same names. Running tasks get their grace period.
func (s *Sweeper) delete(ctx context.Context, namespace string, objects []object) error {
	var deleted atomic.Int64
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(concurrentDeletes)
	for _, o := range objects {
		group.Go(func() error {
			_, err := request.Do(groupCtx, func(ctx context.Context) (any, error) {
				return nil, s.objects.Resource(batch.SchemeGroupVersion.WithResource(o.resource)).Namespace(namespace).Delete(ctx, o.name, metav1.DeleteOptions{
					Preconditions:     &metav1.Preconditions{UID: &o.uid},
					PropagationPolicy: new(metav1.DeletePropagationBackground),
				})
			})
			switch {
			case namespaceMissing(err):
				return fmt.Errorf("deleting %s %s/%s: a policy or webhook for deletions selects by namespace, which admission does not find: "+
					"remove %s from it until the object is deleted: %w", o.resource, namespace, o.name, batch.GroupName, err)
			case apierrors.IsNotFound(err) || apierrors.IsConflict(err):
				return nil // The object is gone, and another may have its name.
			case err != nil:
				return fmt.Errorf("deleting %s %s/%s: %w", o.resource, namespace, o.name, err)
			}
			deleted.Add(1)
			orphansDeleted.WithLabelValues(o.resource).Inc()
			return nil
		})
	}
	err := group.Wait()
	if deleted.Load() > 0 {
		klog.FromContext(ctx).Info("Deleted objects of missing namespace", "namespace", namespace, "deleted", deleted.Load(), "found", len(objects))
	}
	return err
}

// namespaceMissing reports whether an error is about the namespace, not about the object in it.
func namespaceMissing(err error) bool {
	status := apierrors.APIStatus(nil)
	return apierrors.IsNotFound(err) && errors.As(err, &status) && status.Status().Details != nil &&
		status.Status().Details.Kind == "namespaces"
}
