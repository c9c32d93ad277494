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

	"k8s.io/apimachinery/pkg/util/validation/field"
)

// The domain rules of a kind are a value that implements any of the interfaces below. The strategies implement what all
// kinds have in common, and call the rules.

// Preparer changes an object on create before it is validated.
type Preparer[T any] interface {
	// PrepareForCreate sets the fields that only the server sets. The strategy has reset the status and set the
	// generation.
	PrepareForCreate(ctx context.Context, obj *T)
}

// UpdatePreparer changes an object before an update through the main resource is validated.
type UpdatePreparer[T any] interface {
	// PrepareForUpdate restores the fields of the spec that only the server sets. The strategy has restored the
	// status.
	PrepareForUpdate(ctx context.Context, obj, old *T)
}

// FieldResetter names the fields of the spec that only the server sets and that UpdatePreparer restores. Field managers
// do not own them.
type FieldResetter interface {
	// ResetFields returns the paths of the fields in the first version, like "spec.workerName".
	ResetFields() []string
}

// StatusPreparer changes a status before it is validated.
type StatusPreparer[T any] interface {
	// PrepareForStatusUpdate sets the fields of the status that derive from others. The strategy has restored
	// everything but the status.
	PrepareForStatusUpdate(ctx context.Context, obj, old *T)
}

// Validator validates what declarative validation cannot express: rules across fields, and changes.
type Validator[T any] interface {
	// Validate validates an object by itself. On update, the strategy drops errors that the stored object has as
	// well.
	Validate(ctx context.Context, obj *T) field.ErrorList
	// ValidateChange validates a write through the main resource. old is nil on create.
	ValidateChange(ctx context.Context, obj, old *T) field.ErrorList
}

// StatusValidator validates writes through the status subresource.
type StatusValidator[T any] interface {
	// ValidateStatus validates a status by itself. The strategy drops errors that the stored object has as well.
	ValidateStatus(ctx context.Context, obj *T) field.ErrorList
	// ValidateStatusChange validates the change of the stored status.
	ValidateStatusChange(ctx context.Context, obj, old *T) field.ErrorList
}

// StatusFencer refuses writes of the status by clients that have lost the object, such as a worker after an eviction.
type StatusFencer[T any] interface {
	// FenceStatus is called inside of the guarded update with the sent and the stored object. Its error is returned
	// to the client unchanged.
	FenceStatus(ctx context.Context, obj, old *T) error
}

// Warner returns warnings for objects that are valid but unwise.
type Warner[T any] interface {
	// Warnings is called on create, with old nil, and on update through the main resource.
	Warnings(ctx context.Context, obj, old *T) []string
}

// GracefulDeleter makes the deletion of objects graceful.
type GracefulDeleter[T any] interface {
	// DeletionGracePeriod returns the grace period of an object, in seconds. requested is that of the delete
	// options, or nil. With a grace period of zero the object is deleted at once, unless it changes meanwhile. If
	// ended, the object can never run again, and is deleted without grace in one write instead of two.
	DeletionGracePeriod(obj *T, requested *int64) (seconds int64, ended bool)
}
