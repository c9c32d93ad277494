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

// Package namespace deletes what has outlived its namespace. The host's namespace controller empties a namespace and then lets go of
// it, and what is created in between stays for ever: our server hears of the end of a namespace from a watch, a moment late. So does
// all that is in a namespace that somebody finalizes by force while our server is away.
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
)

const (
	// DefaultInterval is the time between two sweeps unless another is asked for.
	DefaultInterval = 5 * time.Minute
	// jitter is the greatest part of an interval that is added to it.
	jitter = 0.2
	// confirmAfter is the time between the two looks at a namespace that must both find it gone.
	confirmAfter = 5 * time.Second
	// pageSize is how many objects are listed at a time, and parallelism how many are deleted at a time.
	pageSize, parallelism = 500, 8
	// requestTimeout bounds each request.
	requestTimeout = 15 * time.Second
)

// resources are all of ours that are in namespaces. Sets come first, for they make tasks.
var resources = []string{"tasksets", "tasks", "taskqueues", "workers", "workerleases"}

// Sweeper deletes our objects whose namespace does not exist.
type Sweeper struct {
	host         kubernetes.Interface
	objects      metadata.Interface
	interval     time.Duration
	confirmAfter time.Duration
}

// New returns a sweeper that asks host for namespaces and deletes by objects; it sweeps whenever about interval has passed. What
// host says is only believed when it names the namespace that is not found: a server that knows no namespaces at all deletes nothing.
func New(host kubernetes.Interface, objects metadata.Interface, interval time.Duration) *Sweeper {
	return &Sweeper{host: host, objects: objects, interval: interval, confirmAfter: confirmAfter}
}

// Run sweeps until ctx is done. A sweep that fails is tried again after the interval; it never returns an error.
func (s *Sweeper) Run(ctx context.Context) error {
	for pause(ctx, wait.Jitter(s.interval, jitter)) {
		err := s.sweep(ctx)
		if ctx.Err() != nil {
			break
		}
		result := succeeded
		if err != nil {
			result = failed
			klog.FromContext(ctx).Error(err, "Not all that has outlived its namespace could be looked for and deleted; it is tried again", "after", s.interval)
		}
		sweeps.WithLabelValues(result).Inc()
	}
	return nil
}

// object is one that was listed.
type object struct {
	resource, name string
	uid            types.UID
}

// sweep deletes what is listed in a namespace between two looks that both find it gone. Whatever was created in a namespace that has
// been there at any time since is not among it, or has outlived that one too.
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
		gone, err := s.gone(ctx, namespace)
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
	if len(orphans) == 0 || !pause(ctx, s.confirmAfter) {
		return errors.Join(errs...)
	}
	for _, namespace := range sets.List(sets.KeySet(orphans)) {
		gone, err := s.gone(ctx, namespace)
		if err == nil && gone {
			err = s.delete(ctx, namespace, orphans[namespace])
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// list shows the objects of a resource, in all namespaces or one, a page at a time.
func (s *Sweeper) list(ctx context.Context, resource, namespace string, show func(*metav1.PartialObjectMetadata)) error {
	options := metav1.ListOptions{Limit: pageSize}
	for {
		page, err := bounded(ctx, func(ctx context.Context) (*metav1.PartialObjectMetadataList, error) {
			return s.objects.Resource(batch.SchemeGroupVersion.WithResource(resource)).Namespace(namespace).List(ctx, options)
		})
		if err != nil {
			return fmt.Errorf("listing %s: %w", resource, err)
		}
		for i := range page.Items {
			show(&page.Items[i])
		}
		if options.Continue = page.Continue; options.Continue == "" {
			return nil
		}
	}
}

// gone looks whether a namespace does not exist, past all caches.
func (s *Sweeper) gone(ctx context.Context, name string) (bool, error) {
	_, err := bounded(ctx, func(ctx context.Context) (any, error) {
		return s.host.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
	})
	if err == nil {
		return false, nil
	}
	// A path that is not served is not found either: then the client, and not the server, has put in what was looked for.
	var status apierrors.APIStatus
	if apierrors.IsNotFound(err) && !apierrors.HasStatusCause(err, metav1.CauseTypeUnexpectedServerResponse) && errors.As(err, &status) {
		if d := status.Status().Details; d != nil && d.Group == "" && d.Kind == "namespaces" && d.Name == name {
			return true, nil
		}
	}
	return false, fmt.Errorf("looking for namespace %s: %w", name, err)
}

// delete deletes objects as they were listed: another of the same name is not meant. Tasks that run get the time that they are
// promised.
func (s *Sweeper) delete(ctx context.Context, namespace string, objects []object) error {
	var deleted atomic.Int64
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(parallelism)
	for _, o := range objects {
		group.Go(func() error {
			_, err := bounded(groupCtx, func(ctx context.Context) (any, error) {
				return nil, s.objects.Resource(batch.SchemeGroupVersion.WithResource(o.resource)).Namespace(namespace).Delete(ctx, o.name, metav1.DeleteOptions{
					Preconditions:     &metav1.Preconditions{UID: &o.uid},
					PropagationPolicy: new(metav1.DeletePropagationBackground),
				})
			})
			if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
				return nil // it is gone, and may have a successor
			}
			if err != nil {
				return fmt.Errorf("deleting %s %s/%s: %w", o.resource, namespace, o.name, err)
			}
			deleted.Add(1)
			orphansDeleted.WithLabelValues(o.resource).Inc()
			return nil
		})
	}
	err := group.Wait()
	if deleted.Load() > 0 {
		klog.FromContext(ctx).Info("Deleted what has outlived its namespace", "namespace", namespace, "objects", deleted.Load(), "of", len(objects))
	}
	return err
}

// pause waits, and tells whether the whole time has passed.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// bounded sends a request that may take no longer than requestTimeout.
func bounded[T any](ctx context.Context, send func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	return send(ctx)
}
