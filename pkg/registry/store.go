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

	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/generic"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/client-go/tools/cache"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

// Stores are the storages of a kind. They share one genericregistry.Store, and with it one watch cache.
type Stores struct {
	// Store is the store of the main resource.
	Store *genericregistry.Store
	// StatusStore updates the status. Nil if the kind has no status.
	StatusStore *genericregistry.Store

	description Description
	shortNames  []string
	categories  []string
	scale       rest.Storage
}

// NewStores implements Kind. It derives the predicate, the field index and the trigger from the same Resource, because
// the watch cache uses only indexes that the predicate names.
func (r Resource[T, L]) NewStores(scheme *runtime.Scheme, rules any, getter generic.RESTOptionsGetter) (*Stores, error) {
	main := newStrategy(scheme, r, rules)
	store := &genericregistry.Store{
		NewFunc:                   r.new,
		NewListFunc:               r.newList,
		PredicateFunc:             r.predicate,
		DefaultQualifiedResource:  r.GroupResource,
		SingularQualifiedResource: schema.GroupResource{Group: r.GroupResource.Group, Resource: r.Singular},
		CreateStrategy:            main,
		UpdateStrategy:            main,
		DeleteStrategy:            main,
		ResetFieldsStrategy:       main,
		TableConvertor:            r,
	}
	if deleter, ok := rules.(GracefulDeleter[T]); ok {
		store.DeleteStrategy = gracefulStrategy[T, L]{main, deleter}
		store.ReturnDeletedObject = true
	}
	options := &generic.StoreOptions{RESTOptions: Decorate(getter, withSeenPrecondition), AttrFunc: r.attributes}
	if trigger := r.trigger(); trigger != nil {
		options.TriggerFunc = storage.IndexerFuncs{trigger.Label: func(obj runtime.Object) string {
			return trigger.Get(any(obj).(*T))
		}}
		options.Indexers = &cache.Indexers{storage.FieldIndex(trigger.Label): func(obj any) ([]string, error) {
			return []string{trigger.Get(obj.(*T))}, nil
		}}
	}
	if err := store.CompleteWithOptions(options); err != nil {
		return nil, err
	}

	stores := &Stores{Store: store, description: r.Describe(), shortNames: r.ShortNames, categories: r.Categories}
	if r.Status != nil {
		strategy := statusStrategy[T, L]{main}
		status := *store
		status.UpdateStrategy = strategy
		status.ResetFieldsStrategy = strategy
		if fencer, ok := rules.(StatusFencer[T]); ok {
			status.BeginUpdate = func(ctx context.Context, obj, old runtime.Object, _ *metav1.UpdateOptions) (genericregistry.FinishFunc, error) {
				return func(context.Context, bool) {}, fencer.FenceStatus(ctx, any(obj).(*T), any(old).(*T))
			}
		}
		stores.StatusStore = &status
	}
	if r.Scale != nil {
		stores.scale = &scaleREST[T, L]{store: store, resource: r, scheme: scheme}
	}
	return stores, nil
}

func (r Resource[T, L]) trigger() *Field[T] {
	for i := range r.Fields {
		if r.Fields[i].Label == r.Trigger {
			return &r.Fields[i]
		}
	}
	return nil
}

// attributes returns the labels and fields of an object that selectors match.
func (r Resource[T, L]) attributes(obj runtime.Object) (labels.Set, fields.Set, error) {
	object, ok := any(obj).(*T)
	if !ok {
		return nil, nil, unexpected[T](obj)
	}
	meta := r.Meta(object)
	set := make(fields.Set, len(r.Fields)+2)
	for _, field := range r.Fields {
		set[field.Label] = field.Get(object)
	}
	return meta.Labels, generic.AddObjectMetaFieldsSet(set, meta, r.Namespaced), nil
}

func (r Resource[T, L]) predicate(label labels.Selector, field fields.Selector) storage.SelectionPredicate {
	predicate := storage.SelectionPredicate{Label: label, Field: field, GetAttrs: r.attributes}
	if r.Trigger != "" {
		predicate.IndexFields = []string{r.Trigger}
	}
	return predicate
}

// Main returns the storage of the main resource.
func (s *Stores) Main() rest.Storage {
	main := &mainREST{s.Store, s.shortNames, s.categories}
	if s.description.Unwatched {
		return unwatchedREST{main}
	}
	return main
}

// Status returns the storage of the status subresource.
func (s *Stores) Status() rest.Storage { return &statusREST{s.StatusStore} }

// Scale returns the storage of the scale subresource.
func (s *Stores) Scale() rest.Storage { return s.scale }

// mainREST serves the main resource.
type mainREST struct {
	*genericregistry.Store
	shortNames []string
	categories []string
}

// ShortNames implements rest.ShortNamesProvider.
func (r *mainREST) ShortNames() []string { return r.shortNames }

// Categories implements rest.CategoriesProvider.
func (r *mainREST) Categories() []string { return r.categories }

// Update implements rest.Updater.
func (r *mainREST) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, createValidation rest.ValidateObjectFunc,
	updateValidation rest.ValidateObjectUpdateFunc, forceAllowCreate bool, options *metav1.UpdateOptions) (runtime.Object, bool, error) {
	return updateSeen(ctx, r.Store, name, info, createValidation, updateValidation, forceAllowCreate, options)
}

// Delete implements rest.GracefulDeleter.
func (r *mainREST) Delete(ctx context.Context, name string, validate rest.ValidateObjectFunc, options *metav1.DeleteOptions) (runtime.Object, bool, error) {
	return r.Store.Delete(withRequestedGracePeriod(ctx, options), name, validate, options)
}

// DeleteCollection implements rest.CollectionDeleter.
func (r *mainREST) DeleteCollection(ctx context.Context, validate rest.ValidateObjectFunc, options *metav1.DeleteOptions,
	list *metainternalversion.ListOptions) (runtime.Object, error) {
	return r.Store.DeleteCollection(withRequestedGracePeriod(ctx, options), validate, options, list)
}

// unwatchedREST is mainREST without rest.Watcher. The API installer serves the verbs of the interfaces that a storage
// implements.
type unwatchedREST struct {
	unwatchedStorage
}

type unwatchedStorage interface {
	rest.Storage
	rest.Scoper
	rest.Getter
	rest.Lister
	rest.CreaterUpdater
	rest.GracefulDeleter
	rest.CollectionDeleter
	rest.SingularNameProvider
	rest.ShortNamesProvider
	rest.CategoriesProvider
	rest.ResetFieldsStrategy
	rest.StorageVersionProvider
	ReadinessCheck() error
}

// statusREST serves the status subresource.
type statusREST struct {
	store *genericregistry.Store
}

// New implements rest.Storage.
func (r *statusREST) New() runtime.Object { return r.store.New() }

// Destroy implements rest.Storage. The main resource destroys the store.
func (r *statusREST) Destroy() {}

// Get implements rest.Getter, which patch requires.
func (r *statusREST) Get(ctx context.Context, name string, options *metav1.GetOptions) (runtime.Object, error) {
	return r.store.Get(ctx, name, options)
}

// Update implements rest.Updater. It never creates.
func (r *statusREST) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, createValidation rest.ValidateObjectFunc,
	updateValidation rest.ValidateObjectUpdateFunc, _ bool, options *metav1.UpdateOptions) (runtime.Object, bool, error) {
	return updateSeen(ctx, r.store, name, info, createValidation, updateValidation, false, options)
}

// GetResetFields implements rest.ResetFieldsStrategy.
func (r *statusREST) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return r.store.GetResetFields()
}

// ConvertToTable implements rest.TableConvertor.
func (r *statusREST) ConvertToTable(ctx context.Context, object, options runtime.Object) (*metav1.Table, error) {
	return r.store.ConvertToTable(ctx, object, options)
}
