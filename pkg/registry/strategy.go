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

// strategy implements create, update and delete of the main resource for all kinds.
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

// AllowCreateOnUpdate implements rest.RESTUpdateStrategy. A PUT never creates.
func (s strategy[T, L]) AllowCreateOnUpdate(context.Context) bool { return false }

// AllowUnconditionalUpdate implements rest.RESTUpdateStrategy. As in Kubernetes, a PUT without resourceVersion
// overwrites.
func (s strategy[T, L]) AllowUnconditionalUpdate(context.Context) bool { return true }

// Canonicalize implements rest.RESTCreateStrategy.
func (s strategy[T, L]) Canonicalize(runtime.Object) {}

// GetResetFields implements rest.ResetFieldsStrategy. The main resource writes neither the status nor the fields that
// only the server sets.
func (s strategy[T, L]) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	var paths []string
	if s.resource.Status != nil {
		paths = append(paths, "status")
	}
	if resetter, ok := s.rules.(FieldResetter); ok {
		paths = append(paths, resetter.ResetFields()...)
	}
	if len(paths) == 0 {
		return nil
	}
	return s.inAllVersions(paths...)
}

// inAllVersions returns the set of the fields for each served version of the group. The arguments are the paths in the
// first version.
func (s strategy[T, L]) inAllVersions(paths ...string) map[fieldpath.APIVersion]*fieldpath.Set {
	sets := map[fieldpath.APIVersion]*fieldpath.Set{}
	for _, version := range s.Scheme.PrioritizedVersionsForGroup(s.resource.GroupResource.Group) {
		set := fieldpath.NewSet()
		for _, path := range paths {
			set.Insert(s.resource.Versions[version.Version].fieldPath(path))
		}
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

// ValidateUpdate implements rest.RESTUpdateStrategy. It drops errors that the stored object has as well, so that an
// object that became invalid by a new rule can still be updated.
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

// ValidateDeclaratively implements rest.DeclarativeValidationStrategy. errs are the errors of the domain rules, which
// name the fields as the first version does. If they are too many, it skips declarative validation. The returned errors
// name the fields as the version of the request does.
func (s strategy[T, L]) ValidateDeclaratively(ctx context.Context, obj, old runtime.Object, errs field.ErrorList, op operation.Type,
	config rest.DeclarativeValidationConfig) field.ErrorList {
	s.resource.requestedVersion(ctx).rename(errs)
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

// gracefulStrategy is the strategy of kinds with graceful deletion.
type gracefulStrategy[T, L any] struct {
	strategy[T, L]
	deleter GracefulDeleter[T]
}

// CheckGracefulDelete implements rest.RESTGracefulDeleteStrategy. The store may call it twice for a request: for the
// object in the watch cache, and again for the stored one if that is newer. The options then hold the result of the
// first call, so the requested grace period comes from the context.
func (s gracefulStrategy[T, L]) CheckGracefulDelete(ctx context.Context, obj runtime.Object, options *metav1.DeleteOptions) bool {
	requested := options.GracePeriodSeconds
	if fromContext, ok := ctx.Value(requestedGracePeriodKey{}).(*int64); ok {
		requested = fromContext
	}
	period, ended := s.deleter.DeletionGracePeriod(any(obj).(*T), requested)
	period = min(period, math.MaxInt32) // prevents overflow when it is added to a time
	options.GracePeriodSeconds = &period
	return !ended
}

// requestedGracePeriodKey is the context key of the requested grace period of a deletion, a *int64 in seconds.
type requestedGracePeriodKey struct{}

// withRequestedGracePeriod returns a context with the grace period of the options. As for Pods, a negative one means a
// second.
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
	return context.WithValue(ctx, requestedGracePeriodKey{}, requested)
}

// statusStrategy implements updates through the status subresource for all kinds.
type statusStrategy[T, L any] struct {
	strategy[T, L]
}

// AllowUnconditionalUpdate implements rest.RESTUpdateStrategy. A status is an observation of one version of the object,
// so an update must name the version.
func (s statusStrategy[T, L]) AllowUnconditionalUpdate(context.Context) bool { return false }

// GetResetFields implements rest.ResetFieldsStrategy. The status subresource writes only the status.
func (s statusStrategy[T, L]) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return s.inAllVersions("metadata", "spec")
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

// WarningsOnUpdate implements rest.RESTUpdateStrategy. It returns none: clients that update the status did not write
// the spec.
func (s statusStrategy[T, L]) WarningsOnUpdate(context.Context, runtime.Object, runtime.Object) []string {
	return nil
}
