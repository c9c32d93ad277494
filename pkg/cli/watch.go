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
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// errDeleted is returned by watchObject when the object is deleted. Callers put the name of the object in front.
var errDeleted = errors.New("was deleted before it had ended")

// watchedObject constrains the types that watchObject can watch.
type watchedObject interface {
	runtime.Object
	metav1.Object
}

// watchedClient is the part of a typed client that watchObject needs.
type watchedClient[T watchedObject] interface {
	Get(ctx context.Context, name string, options metav1.GetOptions) (T, error)
	Watch(ctx context.Context, options metav1.ListOptions) (watch.Interface, error)
}

// watchObject calls done with each state of the object, beginning with the given one, until done returns true. It
// watches from the resourceVersion of the given state, reconnects, and misses no state: done sees the end of an object
// that is deleted at once. If the server has compacted that version, it continues with the current state.
//
// It returns errDeleted if the object is deleted and done returned false for its last state.
func watchObject[T watchedObject](ctx context.Context, client watchedClient[T], object T, done func(T) bool) error {
	name, uid := object.GetName(), object.GetUID()
	for !done(object) {
		from := &cache.ListWatch{WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			options.FieldSelector = fields.OneTermEqualSelector("metadata.name", name).String()
			events, err := client.Watch(ctx, options)
			if expired(err) {
				// RetryWatcher would retry a failed request with the same version. It stops at an error event.
				return watchError(err), nil
			}
			return events, err
		}}
		_, err := watchtools.Until(ctx, object.GetResourceVersion(), from, func(event watch.Event) (bool, error) {
			if event.Type == watch.Error {
				return false, apierrors.FromObject(event.Object)
			}
			current, ok := event.Object.(T)
			switch {
			case !ok:
				return false, fmt.Errorf("the watch of %s sent a %T", name, event.Object)
			case current.GetUID() != uid:
				return false, errDeleted
			case done(current):
				return true, nil
			case event.Type == watch.Deleted:
				return false, errDeleted
			}
			return false, nil
		})
		if !expired(err) {
			return err
		}
		object, err = client.Get(ctx, name, metav1.GetOptions{})
		if objectNotFound(err) || err == nil && object.GetUID() != uid {
			return errDeleted
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// expired reports whether the resourceVersion of a watch is too old for the server.
func expired(err error) bool { return apierrors.IsGone(err) || apierrors.IsResourceExpired(err) }

// watchError returns a watch that sends err as its only event.
func watchError(err error) watch.Interface {
	events := make(chan watch.Event, 1)
	if status := apierrors.APIStatus(nil); errors.As(err, &status) {
		events <- watch.Event{Type: watch.Error, Object: new(status.Status())}
	}
	return watch.NewProxyWatcher(events)
}

func (s *session) watchSet(ctx context.Context, set *batch.TaskSet, done func(*batch.TaskSet) bool) error {
	return watchObject(ctx, s.api.TaskSets(s.namespace), set, done)
}

func (s *session) watchTask(ctx context.Context, task *batch.Task, done func(*batch.Task) bool) error {
	return watchObject(ctx, s.api.Tasks(s.namespace), task, done)
}
