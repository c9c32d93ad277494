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
	"math"
	"slices"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/operation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage/names"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

// strategy is how objects of every kind are created, updated and deleted through their main resource.
type strategy[T, L any] struct {
	rest.DeclarativeValidation
	names.NameGenerator

	resource Resource[T, L]
	rules    any
}

func newStrategy[T, L any](scheme *runtime.Scheme, resource Resource[T, L], rules any) strategy[T, L] {
	return strategy[T, L]{rest.DeclarativeValidation{Scheme: scheme}, names.SimpleNameGenerator, resource, rules}
}

// NamespaceScoped implements rest.Scoper.
func (s strategy[T, L]) NamespaceScoped() bool { return s.resource.Namespaced }

// AllowCreateOnUpdate implements rest.RESTUpdateStrategy: a PUT never creates.
func (s strategy[T, L]) AllowCreateOnUpdate(context.Context) bool { return false }

// AllowUnconditionalUpdate implements rest.RESTUpdateStrategy: as in Kubernetes, a PUT without resourceVersion overwrites.
func (s strategy[T, L]) AllowUnconditionalUpdate(context.Context) bool { return true }

// Canonicalize implements rest.RESTCreateStrategy.
func (s strategy[T, L]) Canonicalize(runtime.Object) {}

// GetResetFields implements rest.ResetFieldsStrategy: the main resource writes neither the status nor what the rules keep.
func (s strategy[T, L]) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	var paths []fieldpath.Path
	if s.resource.Status != nil {
		paths = append(paths, fieldpath.MakePathOrDie("status"))
	}
	if keeper, ok := s.rules.(FieldKeeper); ok {
		paths = append(paths, keeper.KeptFields()...)
	}
	if len(paths) == 0 {
		return nil
	}
	return s.everyVersion(paths...)
}

// everyVersion returns the set of these fields for each served version of the group.
func (s strategy[T, L]) everyVersion(paths ...fieldpath.Path) map[fieldpath.APIVersion]*fieldpath.Set {
	set := fieldpath.NewSet(paths...)
	sets := map[fieldpath.APIVersion]*fieldpath.Set{}
	for _, version := range s.Scheme.PrioritizedVersionsForGroup(s.resource.GroupResource.Group) {
		sets[fieldpath.APIVersion(version.String())] = set
	}
	return sets
}

// PrepareForCreate implements rest.RESTCreateStrategy.
func (s strategy[T, L]) PrepareForCreate(ctx context.Context, obj runtime.Object) {
	object := any(obj).(*T)
	if s.resource.Status != nil {
		s.resource.Status.Copy(object, new(T))
	}
	s.resource.Meta(object).Generation = 1
	if preparer, ok := s.rules.(Preparer[T]); ok {
		preparer.PrepareForCreate(ctx, object)
	}
}

// PrepareForUpdate implements rest.RESTUpdateStrategy.
func (s strategy[T, L]) PrepareForUpdate(ctx context.Context, obj, old runtime.Object) {
	object, stored := any(obj).(*T), any(old).(*T)
	if s.resource.Status != nil {
		s.resource.Status.Copy(object, stored)
	}
	if preparer, ok := s.rules.(UpdatePreparer[T]); ok {
		preparer.PrepareForUpdate(ctx, object, stored)
	}
	s.resource.Meta(object).Generation = s.resource.Meta(stored).Generation
	if !apiequality.Semantic.DeepEqual(s.resource.Spec.Get(object), s.resource.Spec.Get(stored)) {
		s.resource.Meta(object).Generation++
	}
}

// Validate implements rest.RESTCreateStrategy.
func (s strategy[T, L]) Validate(ctx context.Context, obj runtime.Object) field.ErrorList {
	validator, ok := s.rules.(Validator[T])
	if !ok {
		return nil
	}
	object := any(obj).(*T)
	return append(validator.Validate(ctx, object), validator.ValidateChange(ctx, object, nil)...)
}

// ValidateUpdate implements rest.RESTUpdateStrategy. What is wrong with the stored object already does not keep it from
// being changed elsewhere.
func (s strategy[T, L]) ValidateUpdate(ctx context.Context, obj, old runtime.Object) field.ErrorList {
	validator, ok := s.rules.(Validator[T])
	if !ok {
		return nil
	}
	object, stored := any(obj).(*T), any(old).(*T)
	errs := validator.Validate(ctx, object)
	if len(errs) > 0 {
		errs = without(errs, validator.Validate(ctx, stored))
	}
	return append(errs, validator.ValidateChange(ctx, object, stored)...)
}

// ValidateDeclaratively implements rest.DeclarativeValidationStrategy. errs are those of the other rules. The declarative rules are not
// asked about an object that has too many errors already.
func (s strategy[T, L]) ValidateDeclaratively(ctx context.Context, obj, old runtime.Object, errs field.ErrorList, op operation.Type,
	config rest.DeclarativeValidationConfig) field.ErrorList {
	if len(errs) <= maxErrors {
		errs = s.DeclarativeValidation.ValidateDeclaratively(ctx, obj, old, errs, op, config)
	}
	return BoundErrors(s.showImmutable(ctx, obj, old, errs))
}

// without drops the errors that are among known.
func without(errs, known field.ErrorList) field.ErrorList {
	before := make(map[string]struct{}, len(known))
	for _, err := range known {
		before[err.Error()] = struct{}{}
	}
	return slices.DeleteFunc(errs, func(err *field.Error) bool {
		_, ok := before[err.Error()]
		return ok
	})
}

// WarningsOnCreate implements rest.RESTCreateStrategy.
func (s strategy[T, L]) WarningsOnCreate(ctx context.Context, obj runtime.Object) []string {
	if warner, ok := s.rules.(Warner[T]); ok {
		return warner.Warnings(ctx, any(obj).(*T), nil)
	}
	return nil
}

// WarningsOnUpdate implements rest.RESTUpdateStrategy.
func (s strategy[T, L]) WarningsOnUpdate(ctx context.Context, obj, old runtime.Object) []string {
	if warner, ok := s.rules.(Warner[T]); ok {
		return warner.Warnings(ctx, any(obj).(*T), any(old).(*T))
	}
	return nil
}

// gracefulStrategy is a strategy for kinds that are deleted in two steps.
type gracefulStrategy[T, L any] struct {
	strategy[T, L]
	deleter GracefulDeleter[T]
}

// CheckGracefulDelete implements rest.RESTGracefulDeleteStrategy. One request may ask it of several versions of the object: of
// what the watch cache shows first, and of what is stored if that turns out to be newer. Options hold the last answer by then,
// which is why what the client asked for is taken from the context.
func (s gracefulStrategy[T, L]) CheckGracefulDelete(ctx context.Context, obj runtime.Object, options *metav1.DeleteOptions) bool {
	requested := options.GracePeriodSeconds
	if asked, ok := ctx.Value(requestedGracePeriod{}).(*int64); ok {
		requested = asked
	}
	period, ended := s.deleter.DeletionGracePeriod(any(obj).(*T), requested)
	period = min(period, math.MaxInt32) // a time that far away can be added to others
	options.GracePeriodSeconds = &period
	return !ended
}

// requestedGracePeriod is the key of the grace period, a *int64 in seconds, that the client of a deletion asked for.
type requestedGracePeriod struct{}

// withRequestedGracePeriod keeps the grace period of the options from being forgotten. As for Pods, a negative one is a second.
func withRequestedGracePeriod(ctx context.Context, options *metav1.DeleteOptions) context.Context {
	if options == nil {
		return ctx
	}
	requested := options.GracePeriodSeconds
	if requested != nil {
		requested = new(*requested)
		if *requested < 0 {
			*requested = 1
		}
	}
	return context.WithValue(ctx, requestedGracePeriod{}, requested)
}

// statusStrategy is how objects of every kind are updated through their status subresource.
type statusStrategy[T, L any] struct {
	strategy[T, L]
}

// AllowUnconditionalUpdate implements rest.RESTUpdateStrategy: a status says what was seen of one version of the object, so
// it must name that version.
func (s statusStrategy[T, L]) AllowUnconditionalUpdate(context.Context) bool { return false }

// GetResetFields implements rest.ResetFieldsStrategy: the status subresource writes nothing but the status.
func (s statusStrategy[T, L]) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return s.everyVersion(fieldpath.MakePathOrDie("metadata"), fieldpath.MakePathOrDie("spec"))
}

// PrepareForUpdate implements rest.RESTUpdateStrategy.
func (s statusStrategy[T, L]) PrepareForUpdate(ctx context.Context, obj, old runtime.Object) {
	object, stored := any(obj).(*T), any(old).(*T)
	s.resource.Spec.Copy(object, stored)
	metav1.ResetObjectMetaForStatus(s.resource.Meta(object), s.resource.Meta(stored))
	if preparer, ok := s.rules.(StatusPreparer[T]); ok {
		preparer.PrepareForStatusUpdate(ctx, object, stored)
	}
}

// ValidateUpdate implements rest.RESTUpdateStrategy.
func (s statusStrategy[T, L]) ValidateUpdate(ctx context.Context, obj, old runtime.Object) field.ErrorList {
	object, stored := any(obj).(*T), any(old).(*T)
	var errs field.ErrorList
	if s.resource.Conditions != nil {
		path := field.NewPath("status", "conditions")
		if errs = metav1validation.ValidateConditions(s.resource.Conditions(object), path); len(errs) > 0 {
			errs = without(errs, metav1validation.ValidateConditions(s.resource.Conditions(stored), path))
		}
	}
	if validator, ok := s.rules.(StatusValidator[T]); ok {
		own := validator.ValidateStatus(ctx, object)
		if len(own) > 0 {
			own = without(own, validator.ValidateStatus(ctx, stored))
		}
		errs = append(append(errs, own...), validator.ValidateStatusChange(ctx, object, stored)...)
	}
	return errs
}

// WarningsOnUpdate implements rest.RESTUpdateStrategy: those who write a status have not chosen the spec.
func (s statusStrategy[T, L]) WarningsOnUpdate(context.Context, runtime.Object, runtime.Object) []string {
	return nil
}
