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
	"fmt"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apimachinery/pkg/util/validation/field"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

// scaleREST serves the scale subresource as autoscaling/v1 Scale.
type scaleREST[T, L any] struct {
	store    *genericregistry.Store
	resource Resource[T, L]
	scheme   *runtime.Scheme
}

// GroupVersionKind implements rest.GroupVersionKindProvider.
func (r *scaleREST[T, L]) GroupVersionKind(schema.GroupVersion) schema.GroupVersionKind {
	return autoscalingv1.SchemeGroupVersion.WithKind("Scale")
}

// New implements rest.Storage.
func (r *scaleREST[T, L]) New() runtime.Object { return &autoscalingv1.Scale{} }

// Destroy implements rest.Storage. The main resource destroys the store.
func (r *scaleREST[T, L]) Destroy() {}

// Get implements rest.Getter.
func (r *scaleREST[T, L]) Get(ctx context.Context, name string, options *metav1.GetOptions) (runtime.Object, error) {
	obj, err := r.store.Get(ctx, name, options)
	if err != nil {
		return nil, err
	}
	return r.scaleOf(obj)
}

// Update implements rest.Updater. It never creates.
func (r *scaleREST[T, L]) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, createValidation rest.ValidateObjectFunc,
	updateValidation rest.ValidateObjectUpdateFunc, _ bool, options *metav1.UpdateOptions) (runtime.Object, bool, error) {
	validate := func(ctx context.Context, obj, old runtime.Object) error {
		newScale, err := r.scaleOf(obj)
		if err != nil {
			return err
		}
		oldScale, err := r.scaleOf(old)
		if err != nil {
			return err
		}
		return updateValidation(ctx, newScale, oldScale)
	}
	obj, _, err := updateSeen(ctx, r.store, name, &scaledObject[T, L]{r, name, info}, createValidation, validate, false, options)
	if err != nil {
		return nil, false, err
	}
	scale, err := r.scaleOf(obj)
	return scale, false, err
}

// GetResetFields implements rest.ResetFieldsStrategy. A scale writes only its spec.
func (r *scaleREST[T, L]) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return map[fieldpath.APIVersion]*fieldpath.Set{
		fieldpath.APIVersion(autoscalingv1.SchemeGroupVersion.String()): fieldpath.NewSet(fieldpath.MakePathOrDie("status")),
	}
}

// scaleColumns are the columns of all scales in Kubernetes.
var scaleColumns = []metav1.TableColumnDefinition{
	{Name: "Name", Type: "string", Format: "name", Description: metav1.ObjectMeta{}.SwaggerDoc()["name"]},
	{Name: "Desired", Type: "integer", Description: autoscalingv1.ScaleSpec{}.SwaggerDoc()["replicas"]},
	{Name: "Available", Type: "integer", Description: autoscalingv1.ScaleStatus{}.SwaggerDoc()["replicas"]},
	{Name: "Age", Type: "string", Description: metav1.ObjectMeta{}.SwaggerDoc()["creationTimestamp"]},
}

// ConvertToTable implements rest.TableConvertor.
func (r *scaleREST[T, L]) ConvertToTable(_ context.Context, object, options runtime.Object) (*metav1.Table, error) {
	scale, ok := object.(*autoscalingv1.Scale)
	if !ok {
		return nil, unexpected[autoscalingv1.Scale](object)
	}
	table := &metav1.Table{ListMeta: metav1.ListMeta{ResourceVersion: scale.ResourceVersion}}
	if options, ok := options.(*metav1.TableOptions); !ok || !options.NoHeaders {
		table.ColumnDefinitions = scaleColumns
	}
	table.Rows = []metav1.TableRow{{
		Cells:  []any{scale.Name, int64(scale.Spec.Replicas), int64(scale.Status.Replicas), Age(scale.CreationTimestamp)},
		Object: runtime.RawExtension{Object: scale},
	}}
	return table, nil
}

func (r *scaleREST[T, L]) scaleOf(obj runtime.Object) (*autoscalingv1.Scale, error) {
	object, ok := any(obj).(*T)
	if !ok {
		return nil, unexpected[T](obj)
	}
	selector, err := metav1.LabelSelectorAsSelector(r.resource.Scale.Selector(object))
	if err != nil {
		return nil, apierrors.NewInternalError(fmt.Errorf("selector of the stored object: %w", err))
	}
	meta := r.resource.Meta(object)
	return &autoscalingv1.Scale{
		ObjectMeta: metav1.ObjectMeta{
			Name:              meta.Name,
			Namespace:         meta.Namespace,
			UID:               meta.UID,
			ResourceVersion:   meta.ResourceVersion,
			CreationTimestamp: meta.CreationTimestamp,
		},
		Spec: autoscalingv1.ScaleSpec{Replicas: r.resource.Scale.Replicas(object)},
		Status: autoscalingv1.ScaleStatus{
			Replicas: r.resource.Scale.StatusReplicas(object),
			Selector: selector.String(),
		},
	}, nil
}

// scaledObject turns an update of the scale into an update of the object: stored object → its scale → updated scale →
// updated object. It maps the managers of the replicas in both directions.
type scaledObject[T, L any] struct {
	rest *scaleREST[T, L]
	name string
	info rest.UpdatedObjectInfo
}

// Preconditions implements rest.UpdatedObjectInfo.
func (o *scaledObject[T, L]) Preconditions() *metav1.Preconditions { return o.info.Preconditions() }

// UpdatedObject implements rest.UpdatedObjectInfo.
func (o *scaledObject[T, L]) UpdatedObject(ctx context.Context, stored runtime.Object) (runtime.Object, error) {
	resource := o.rest.resource
	updatedObject := stored.DeepCopyObject()
	object := any(updatedObject).(*T)
	meta := resource.Meta(object)
	if meta.ResourceVersion == "" {
		return nil, apierrors.NewNotFound(resource.GroupResource, o.name)
	}

	request, ok := genericapirequest.RequestInfoFrom(ctx)
	if !ok {
		return nil, apierrors.NewInternalError(fmt.Errorf("no RequestInfo found in the context"))
	}
	paths := managedfields.ResourcePathMappings{}
	for _, version := range o.rest.scheme.PrioritizedVersionsForGroup(resource.GroupResource.Group) {
		paths[version.String()] = resource.Versions[version.Version].fieldPath(resource.Scale.ReplicasPath)
	}
	managers := managedfields.NewScaleHandler(meta.ManagedFields,
		schema.GroupVersion{Group: request.APIGroup, Version: request.APIVersion}, paths)

	oldScale, err := o.rest.scaleOf(updatedObject)
	if err != nil {
		return nil, err
	}
	if oldScale.ManagedFields, err = managers.ToSubresource(); err != nil {
		return nil, err
	}
	updated, err := o.info.UpdatedObject(ctx, oldScale)
	if err != nil {
		return nil, err
	}
	scale, ok := updated.(*autoscalingv1.Scale)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("expected a Scale of autoscaling/v1, not %T", updated))
	}
	if scale.Spec.Replicas < 0 {
		return nil, apierrors.NewInvalid(autoscalingv1.SchemeGroupVersion.WithKind("Scale").GroupKind(), o.name, field.ErrorList{
			field.Invalid(field.NewPath("spec", "replicas"), scale.Spec.Replicas, "must be greater than or equal to 0"),
		})
	}
	if scale.UID != "" && scale.UID != meta.UID {
		return nil, apierrors.NewConflict(resource.GroupResource, o.name,
			fmt.Errorf("the uid in the scale is %s, and that of the object %s", scale.UID, meta.UID))
	}

	resource.Scale.SetReplicas(object, scale.Spec.Replicas)
	meta.ResourceVersion = scale.ResourceVersion
	meta.ManagedFields, err = managers.ToParent(scale.ManagedFields)
	return updatedObject, err
}
