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
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

// The domain rules of a kind are a value that implements any of the interfaces below. Whatever holds for every kind is not
// among them: the strategies do it.

// Preparer changes an object before it is validated.
type Preparer[T any] interface {
	// PrepareForCreate fills what the server sets itself. The status has been wiped and the generation set.
	PrepareForCreate(ctx context.Context, obj *T)
}

// UpdatePreparer changes an object before an update through the main resource is validated.
type UpdatePreparer[T any] interface {
	// PrepareForUpdate restores the fields of the spec that only the server sets. The status is the stored one.
	PrepareForUpdate(ctx context.Context, obj, old *T)
}

// FieldKeeper names the fields of the spec that only the server sets, and that UpdatePreparer restores whatever is sent. No
// field manager owns them.
type FieldKeeper interface {
	// KeptFields returns the paths of the fields.
	KeptFields() []fieldpath.Path
}

// StatusPreparer changes a status before it is validated.
type StatusPreparer[T any] interface {
	// PrepareForStatusUpdate sets the parts of the status that follow from others. All but the status is the stored object.
	PrepareForStatusUpdate(ctx context.Context, obj, old *T)
}

// Validator checks what declarative validation cannot say: rules across fields, and changes.
type Validator[T any] interface {
	// Validate checks an object by itself. On update, errors that the stored object has too are dropped.
	Validate(ctx context.Context, obj *T) field.ErrorList
	// ValidateChange checks a write through the main resource; old is nil on create.
	ValidateChange(ctx context.Context, obj, old *T) field.ErrorList
}

// StatusValidator checks writes of the status subresource as Validator does those of the main resource.
type StatusValidator[T any] interface {
	// ValidateStatus checks a status by itself. Errors that the stored object has too are dropped.
	ValidateStatus(ctx context.Context, obj *T) field.ErrorList
	// ValidateStatusChange checks what becomes of the stored status.
	ValidateStatusChange(ctx context.Context, obj, old *T) field.ErrorList
}

// StatusFencer refuses writes of the status by those who no longer may.
type StatusFencer[T any] interface {
	// FenceStatus is asked inside the guarded update, with the object as sent and as stored. An error is returned to the
	// client as it is.
	FenceStatus(ctx context.Context, obj, old *T) error
}

// Warner tells people of what is allowed and yet unwise.
type Warner[T any] interface {
	// Warnings are asked on create, with old nil, and on update through the main resource.
	Warnings(ctx context.Context, obj, old *T) []string
}

// GracefulDeleter lets objects be deleted in two steps.
type GracefulDeleter[T any] interface {
	// DeletionGracePeriod gives the time the object has to end, in seconds; requested is what the client asked for, if
	// it did. Zero deletes at once, but only if the object is still as it was. An object that is ended, and can never run
	// again, needs no such care: it is deleted without grace, in one write instead of two.
	DeletionGracePeriod(obj *T, requested *int64) (seconds int64, ended bool)
}
