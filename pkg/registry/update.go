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

package registry

import (
	"context"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"
)

// updateSeen is store.Update, but deletes only the object that it has updated.
//
// An update that removes the last finalizer of a terminating object deletes it. The store deletes it in a second
// request to the storage, with the preconditions of the update, and a patch has none. Between the requests another
// client may delete the object and create one of the same name, which must not be deleted. The UID is therefore added
// as a precondition.
func updateSeen(ctx context.Context, store *genericregistry.Store, name string, info rest.UpdatedObjectInfo, createValidation rest.ValidateObjectFunc,
	updateValidation rest.ValidateObjectUpdateFunc, forceAllowCreate bool, options *metav1.UpdateOptions) (runtime.Object, bool, error) {
	seen := &seenObject{UpdatedObjectInfo: info}
	return store.Update(context.WithValue(ctx, seenKey{}, seen), name, seen, createValidation, updateValidation, forceAllowCreate, options)
}

// seenKey is the context key of the *seenObject of an update.
type seenKey struct{}

// seenObject records the UID of the object that an update read last. It is not safe for concurrent use.
type seenObject struct {
	rest.UpdatedObjectInfo
	uid types.UID
}

// UpdatedObject implements rest.UpdatedObjectInfo.
func (s *seenObject) UpdatedObject(ctx context.Context, old runtime.Object) (runtime.Object, error) {
	object, err := meta.Accessor(old)
	if err != nil {
		return nil, err
	}
	s.uid = object.GetUID()
	return s.UpdatedObjectInfo.UpdatedObject(ctx, old)
}

// withSeenPrecondition adds the UID of the updated object to the preconditions of a deletion by an update.
func withSeenPrecondition(store storage.Interface, _ *storagebackend.ConfigForResource) storage.Interface {
	return seenStorage{store}
}

type seenStorage struct{ storage.Interface }

// Delete implements storage.Interface.
func (s seenStorage) Delete(ctx context.Context, key string, out runtime.Object, preconditions *storage.Preconditions,
	validate storage.ValidateObjectFunc, cached runtime.Object, options storage.DeleteOptions) error {
	if seen, ok := ctx.Value(seenKey{}).(*seenObject); ok {
		narrowed := storage.Preconditions{UID: &seen.uid}
		if preconditions != nil {
			narrowed.ResourceVersion = preconditions.ResourceVersion
		}
		preconditions = &narrowed
	}
	return s.Interface.Delete(ctx, key, out, preconditions, validate, cached, options)
}
