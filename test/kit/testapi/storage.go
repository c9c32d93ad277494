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

package testapi

import (
	"context"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/client-go/tools/cache"
)

// memoryStorage is a storage.Interface in memory. All resources share one, as they share one etcd.
type memoryStorage struct {
	versioner storage.APIObjectVersioner

	mu       sync.Mutex
	revision uint64
	objects  map[string]runtime.Object
	history  []change
	changed  chan struct{} // closed, and replaced, when history grows
}

// change is one change of an object. before is nil for a creation, after is nil for a deletion.
type change struct {
	key           string
	revision      uint64
	before, after runtime.Object
}

var _ storage.Interface = &memoryStorage{}

func newMemoryStorage() *memoryStorage {
	return &memoryStorage{revision: 1, objects: map[string]runtime.Object{}, changed: make(chan struct{})}
}

// GetRESTOptions implements generic.RESTOptionsGetter.
func (s *memoryStorage) GetRESTOptions(resource schema.GroupResource, _ runtime.Object) (generic.RESTOptions, error) {
	return generic.RESTOptions{
		StorageConfig:  &storagebackend.ConfigForResource{GroupResource: resource},
		ResourcePrefix: "/" + resource.Resource,
		Decorator: func(*storagebackend.ConfigForResource, string, func(runtime.Object) (string, error), func() runtime.Object, func() runtime.Object,
			storage.AttrFunc, storage.IndexerFuncs, *cache.Indexers) (storage.Interface, factory.DestroyFunc, error) {
			return s, func() {}, nil
		},
	}, nil
}

// Versioner implements storage.Interface.
func (s *memoryStorage) Versioner() storage.Versioner { return s.versioner }

// createdKey is the context key of the creationTimestamp that replaces the one that the registry sets.
type createdKey struct{}

// Create implements storage.Interface.
func (s *memoryStorage) Create(ctx context.Context, key string, obj, out runtime.Object, _ uint64) error {
	if created, ok := ctx.Value(createdKey{}).(metav1.Time); ok {
		m, err := meta.Accessor(obj)
		if err != nil {
			return err
		}
		m.SetCreationTimestamp(created)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.objects[key] != nil {
		return storage.NewKeyExistsError(key, 0)
	}
	stored, err := s.write(key, obj)
	if err != nil {
		return err
	}
	copyInto(out, stored)
	return nil
}

// Delete implements storage.Interface.
func (s *memoryStorage) Delete(ctx context.Context, key string, out runtime.Object, preconditions *storage.Preconditions,
	validate storage.ValidateObjectFunc, _ runtime.Object, _ storage.DeleteOptions) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	stored := s.objects[key]
	if stored == nil {
		return storage.NewKeyNotFoundError(key, 0)
	}
	if err := preconditions.Check(key, stored); err != nil {
		return err
	}
	if err := validate(ctx, stored.DeepCopyObject()); err != nil {
		return err
	}
	deleted, err := s.write(key, nil)
	if err != nil {
		return err
	}
	copyInto(out, deleted)
	return nil
}

// Get implements storage.Interface.
func (s *memoryStorage) Get(_ context.Context, key string, opts storage.GetOptions, out runtime.Object) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	stored := s.objects[key]
	if stored == nil {
		if opts.IgnoreNotFound {
			return runtime.SetZeroValue(out)
		}
		return storage.NewKeyNotFoundError(key, 0)
	}
	copyInto(out, stored)
	return nil
}

// GetList implements storage.Interface. It ignores limits.
func (s *memoryStorage) GetList(_ context.Context, key string, opts storage.ListOptions, list runtime.Object) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var items []runtime.Object
	for _, objectKey := range slices.Sorted(maps.Keys(s.objects)) {
		if !selects(key, opts, objectKey) {
			continue
		}
		if ok, err := opts.Predicate.Matches(s.objects[objectKey]); err != nil {
			return err
		} else if ok {
			items = append(items, s.objects[objectKey].DeepCopyObject())
		}
	}
	if err := meta.SetList(list, items); err != nil {
		return err
	}
	return s.versioner.UpdateList(list, s.revision, "", nil)
}

// GuaranteedUpdate implements storage.Interface. It does not write what is equal to what is stored.
func (s *memoryStorage) GuaranteedUpdate(_ context.Context, key string, out runtime.Object, ignoreNotFound bool,
	preconditions *storage.Preconditions, tryUpdate storage.UpdateFunc, _ runtime.Object) error {
	for {
		s.mu.Lock()
		stored := s.objects[key]
		s.mu.Unlock()
		current := reflect.New(reflect.TypeOf(out).Elem()).Interface().(runtime.Object)
		var revision uint64
		switch {
		case stored != nil:
			copyInto(current, stored)
			var err error
			if revision, err = s.versioner.ObjectResourceVersion(stored); err != nil {
				return err
			}
		case !ignoreNotFound:
			return storage.NewKeyNotFoundError(key, 0)
		}
		if err := preconditions.Check(key, current); err != nil {
			return err
		}
		updated, _, err := tryUpdate(current, storage.ResponseMeta{ResourceVersion: revision})
		if err != nil {
			return err
		}
		if done, err := s.replace(key, stored, updated, out); done || err != nil {
			return err
		}
	}
}

// replace writes an object if the stored one has not changed, and reports whether it has not.
func (s *memoryStorage) replace(key string, stored, updated, out runtime.Object) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.objects[key] != stored {
		return false, nil
	}
	if stored != nil {
		same := stored.DeepCopyObject()
		if err := s.versioner.PrepareObjectForStorage(same); err != nil {
			return false, err
		}
		if err := s.versioner.PrepareObjectForStorage(updated); err != nil {
			return false, err
		}
		if apiequality.Semantic.DeepEqual(same, updated) {
			copyInto(out, stored)
			return true, nil
		}
	}
	written, err := s.write(key, updated)
	if err != nil {
		return false, err
	}
	copyInto(out, written)
	return true, nil
}

// write stores a copy of an object, or deletes the key if obj is nil, and returns what was written or deleted with its
// new resourceVersion. mu must be held.
func (s *memoryStorage) write(key string, obj runtime.Object) (runtime.Object, error) {
	before := s.objects[key]
	c := change{key: key, revision: s.revision + 1, before: before}
	result := obj
	if obj == nil {
		result = before
	}
	result = result.DeepCopyObject()
	if err := s.versioner.UpdateObject(result, c.revision); err != nil {
		return nil, err
	}
	if obj == nil {
		delete(s.objects, key)
		c.before = result
	} else {
		s.objects[key] = result
		c.after = result
	}
	s.revision++
	s.history = append(s.history, c)
	close(s.changed)
	s.changed = make(chan struct{})
	return result, nil
}

// Watch implements storage.Interface. It sends the changes after a resourceVersion. An object that starts to match the
// predicate is added, and one that stops to match is deleted.
func (s *memoryStorage) Watch(ctx context.Context, key string, opts storage.ListOptions) (watch.Interface, error) {
	from, err := s.versioner.ParseResourceVersion(opts.ResourceVersion)
	if err != nil {
		return nil, err
	}
	out := make(chan watch.Event)
	proxy := watch.NewProxyWatcher(out)
	go func() {
		defer close(out)
		next := 0
		for {
			s.mu.Lock()
			changes, changed := s.history[next:], s.changed
			next = len(s.history)
			s.mu.Unlock()
			for _, c := range changes {
				if c.revision <= from || !selects(key, opts, c.key) {
					continue
				}
				event, err := s.event(c, opts.Predicate)
				if err != nil || event == nil {
					continue
				}
				select {
				case out <- *event:
				case <-ctx.Done():
					return
				case <-proxy.StopChan():
					return
				}
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			case <-proxy.StopChan():
				return
			}
		}
	}()
	return proxy, nil
}

// event returns what a watch with the predicate sees of a change, or nil.
func (s *memoryStorage) event(c change, predicate storage.SelectionPredicate) (*watch.Event, error) {
	matches := func(obj runtime.Object) (bool, error) {
		if obj == nil {
			return false, nil
		}
		return predicate.Matches(obj)
	}
	was, err := matches(c.before)
	if err != nil {
		return nil, err
	}
	is, err := matches(c.after)
	if err != nil {
		return nil, err
	}
	switch {
	case is && was:
		return &watch.Event{Type: watch.Modified, Object: c.after.DeepCopyObject()}, nil
	case is:
		return &watch.Event{Type: watch.Added, Object: c.after.DeepCopyObject()}, nil
	case was:
		gone := c.before.DeepCopyObject()
		return &watch.Event{Type: watch.Deleted, Object: gone}, s.versioner.UpdateObject(gone, c.revision)
	}
	return nil, nil
}

// selects reports whether a list or watch of key includes the key of an object.
func selects(key string, opts storage.ListOptions, object string) bool {
	if opts.Recursive {
		return strings.HasPrefix(object, strings.TrimSuffix(key, "/")+"/")
	}
	return object == key
}

func copyInto(out, obj runtime.Object) {
	reflect.ValueOf(out).Elem().Set(reflect.ValueOf(obj.DeepCopyObject()).Elem())
}

// Stats implements storage.Interface.
func (s *memoryStorage) Stats(context.Context) (storage.Stats, error) { return storage.Stats{}, nil }

// ReadinessCheck implements storage.Interface.
func (s *memoryStorage) ReadinessCheck() error { return nil }

// RequestWatchProgress implements storage.Interface.
func (s *memoryStorage) RequestWatchProgress(context.Context) error { return nil }

// GetCurrentResourceVersion implements storage.Interface.
func (s *memoryStorage) GetCurrentResourceVersion(context.Context) (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.revision, nil
}

// EnableResourceSizeEstimation implements storage.Interface.
func (s *memoryStorage) EnableResourceSizeEstimation(storage.KeysFunc) error { return nil }

// CompactRevision implements storage.Interface.
func (s *memoryStorage) CompactRevision() int64 { return 0 }
