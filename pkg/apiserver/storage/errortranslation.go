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

// Package storage decorates the storage of the server, and reads from its stores.
package storage

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"

	"github.com/leat-dev/leat/pkg/registry"
)

const (
	// reasonInsufficientStorage is the reason of the error for writes that etcd refuses because it is full.
	reasonInsufficientStorage metav1.StatusReason = "InsufficientStorage"

	adviceFull = `etcd is full and refuses writes; reads and deletions go on. Delete what is not needed, then free space with ` +
		`"etcdctl compact", "etcdctl defrag" and "etcdctl alarm disarm": docs/how-to/etcd.md, "etcd is full"`

	adviceUndecodable = `; everything else can be read one by one. Restore the value, or delete the object unread, with the option ` +
		`ignoreStoreReadErrorWithClusterBreakingPotential: docs/how-to/etcd.md, "An object that cannot be read"`
)

// WithTranslatedErrors returns a getter whose stores translate errors of etcd and of the decoder, which upstream passes
// on to clients unchanged, to API errors with advice.
func WithTranslatedErrors(getter generic.RESTOptionsGetter) generic.RESTOptionsGetter {
	return registry.Decorate(getter, func(store storage.Interface, config *storagebackend.ConfigForResource) storage.Interface {
		return errorTranslatingStorage{store, config.Prefix}
	})
}

type errorTranslatingStorage struct {
	storage.Interface
	// prefix is the prefix of all keys, which storage errors omit.
	prefix string
}

// Create implements storage.Interface.
func (s errorTranslatingStorage) Create(ctx context.Context, key string, obj, out runtime.Object, ttl uint64) error {
	return s.translate(s.Interface.Create(ctx, key, obj, out, ttl))
}

// Delete implements storage.Interface.
func (s errorTranslatingStorage) Delete(ctx context.Context, key string, out runtime.Object, preconditions *storage.Preconditions,
	validate storage.ValidateObjectFunc, cached runtime.Object, options storage.DeleteOptions) error {
	return s.translate(s.Interface.Delete(ctx, key, out, preconditions, validate, cached, options))
}

// Get implements storage.Interface.
func (s errorTranslatingStorage) Get(ctx context.Context, key string, options storage.GetOptions, out runtime.Object) error {
	return s.translate(s.Interface.Get(ctx, key, options, out))
}

// GetList implements storage.Interface.
func (s errorTranslatingStorage) GetList(ctx context.Context, key string, options storage.ListOptions, out runtime.Object) error {
	return s.translate(s.Interface.GetList(ctx, key, options, out))
}

// GuaranteedUpdate implements storage.Interface.
func (s errorTranslatingStorage) GuaranteedUpdate(ctx context.Context, key string, out runtime.Object, ignoreNotFound bool,
	preconditions *storage.Preconditions, update storage.UpdateFunc, cached runtime.Object) error {
	return s.translate(s.Interface.GuaranteedUpdate(ctx, key, out, ignoreNotFound, preconditions, update, cached))
}

// translate returns the error for clients.
func (s errorTranslatingStorage) translate(err error) error {
	var (
		corrupt *storage.StorageError
		status  apierrors.APIStatus
	)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, rpctypes.ErrNoSpace):
		return &apierrors.StatusError{ErrStatus: metav1.Status{
			Status: metav1.StatusFailure, Code: http.StatusInsufficientStorage, Reason: reasonInsufficientStorage, Message: adviceFull,
		}}
	case errors.Is(err, rpctypes.ErrRequestTooLarge):
		return objectTooLarge{rpctypes.ErrRequestTooLarge.(rpctypes.EtcdError)}
	case errors.As(err, &corrupt) && corrupt.Code == storage.ErrCodeCorruptObj:
		return &apierrors.StatusError{ErrStatus: metav1.Status{
			Status: metav1.StatusFailure, Code: http.StatusInternalServerError, Reason: metav1.StatusReasonStoreReadError,
			Message: fmt.Sprintf("%s in etcd cannot be read: %v%s", s.prefix+strings.TrimPrefix(corrupt.Key, s.prefix), corrupt.Unwrap(), adviceUndecodable),
		}}
	case errors.As(err, &status) && status.Status().Reason == metav1.StatusReasonStoreReadError:
		translated := status.Status()
		translated.Message += adviceUndecodable
		return &apierrors.StatusError{ErrStatus: translated}
	}
	return err
}

// objectTooLarge is etcd's error for a request that is too large. It stays recognizable as such: upstream retries
// without managed fields when it sees one.
type objectTooLarge struct{ rpctypes.EtcdError }

// Status implements apierrors.APIStatus.
func (objectTooLarge) Status() metav1.Status {
	return apierrors.NewRequestEntityTooLargeError("the object does not fit into etcd, which accepts 1.5 MiB by default: " +
		"make it smaller").Status()
}
