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

package apiserver

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
	// reasonFull is the reason of writes that are refused because etcd is full.
	reasonFull metav1.StatusReason = "InsufficientStorage"

	full = `etcd is full and refuses writes; reads and deletions go on. Delete what is not needed, then let "etcdctl compact", ` +
		`"etcdctl defrag" and "etcdctl alarm disarm" make room: docs/etcd.md, "etcd is full"`

	undecodable = `; everything else can be read one by one. Restore the value, or delete the object unread, with the option ` +
		`ignoreStoreReadErrorWithClusterBreakingPotential: docs/etcd.md, "An object that cannot be read"`
)

// withPlainErrors has clients told what to do about a store in trouble, where upstream passes on what etcd and the decoder say.
func withPlainErrors(getter generic.RESTOptionsGetter) generic.RESTOptionsGetter {
	return registry.Decorate(getter, func(store storage.Interface, config *storagebackend.ConfigForResource) storage.Interface {
		return plainStorage{store, config.Prefix}
	})
}

type plainStorage struct {
	storage.Interface
	// prefix is that of all keys, which errors leave out.
	prefix string
}

func (s plainStorage) Create(ctx context.Context, key string, obj, out runtime.Object, ttl uint64) error {
	return s.plain(s.Interface.Create(ctx, key, obj, out, ttl))
}

func (s plainStorage) Delete(ctx context.Context, key string, out runtime.Object, preconditions *storage.Preconditions,
	validate storage.ValidateObjectFunc, cached runtime.Object, options storage.DeleteOptions) error {
	return s.plain(s.Interface.Delete(ctx, key, out, preconditions, validate, cached, options))
}

func (s plainStorage) Get(ctx context.Context, key string, options storage.GetOptions, out runtime.Object) error {
	return s.plain(s.Interface.Get(ctx, key, options, out))
}

func (s plainStorage) GetList(ctx context.Context, key string, options storage.ListOptions, out runtime.Object) error {
	return s.plain(s.Interface.GetList(ctx, key, options, out))
}

func (s plainStorage) GuaranteedUpdate(ctx context.Context, key string, out runtime.Object, ignoreNotFound bool,
	preconditions *storage.Preconditions, update storage.UpdateFunc, cached runtime.Object) error {
	return s.plain(s.Interface.GuaranteedUpdate(ctx, key, out, ignoreNotFound, preconditions, update, cached))
}

// plain gives the error to be told to clients.
func (s plainStorage) plain(err error) error {
	var (
		corrupt *storage.StorageError
		status  apierrors.APIStatus
	)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, rpctypes.ErrNoSpace):
		return &apierrors.StatusError{ErrStatus: metav1.Status{
			Status: metav1.StatusFailure, Code: http.StatusInsufficientStorage, Reason: reasonFull, Message: full,
		}}
	case errors.Is(err, rpctypes.ErrRequestTooLarge):
		return objectTooLarge{rpctypes.ErrRequestTooLarge.(rpctypes.EtcdError)}
	case errors.As(err, &corrupt) && corrupt.Code == storage.ErrCodeCorruptObj:
		return &apierrors.StatusError{ErrStatus: metav1.Status{
			Status: metav1.StatusFailure, Code: http.StatusInternalServerError, Reason: metav1.StatusReasonStoreReadError,
			Message: fmt.Sprintf("%s in etcd cannot be read: %v%s", s.prefix+strings.TrimPrefix(corrupt.Key, s.prefix), corrupt.Unwrap(), undecodable),
		}}
	case errors.As(err, &status) && status.Status().Reason == metav1.StatusReasonStoreReadError:
		told := status.Status()
		told.Message += undecodable
		return &apierrors.StatusError{ErrStatus: told}
	}
	return err
}

// objectTooLarge is what etcd says of an object that it does not take: to upstream, which then leaves out the managers of its fields and
// tries again, it stays that.
type objectTooLarge struct{ rpctypes.EtcdError }

// Status is what clients are told.
func (objectTooLarge) Status() metav1.Status {
	return apierrors.NewRequestEntityTooLargeError("the object does not fit into etcd, which takes 1.5 MiB unless it is told otherwise: " +
		"make it smaller").Status()
}
