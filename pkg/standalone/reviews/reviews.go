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

// Package reviews answers a user who asks for its own name, groups and rights, as a host cluster does: the kinds
// SelfSubjectReview and SelfSubjectAccessReview, for kubectl auth whoami and can-i.
package reviews

import (
	"context"
	"fmt"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"
)

// Scheme holds the kinds.
var Scheme = newScheme()

func newScheme() *runtime.Scheme {
	s := runtime.NewScheme()
	for gv, object := range map[schema.GroupVersion]runtime.Object{
		authenticationv1.SchemeGroupVersion: &authenticationv1.SelfSubjectReview{},
		authorizationv1.SchemeGroupVersion:  &authorizationv1.SelfSubjectAccessReview{},
	} {
		// The types are also their own internal versions: they need no conversion.
		s.AddKnownTypes(gv, object)
		s.AddKnownTypes(schema.GroupVersion{Group: gv.Group, Version: runtime.APIVersionInternal}, object)
		metav1.AddToGroupVersion(s, gv)
		utilruntime.Must(s.SetVersionPriority(gv))
	}
	metav1.AddToGroupVersion(s, schema.GroupVersion{Version: "v1"})
	s.AddUnversionedTypes(schema.GroupVersion{Version: "v1"}, &metav1.Status{})
	return s
}

// Install serves the kinds. Its authorizer answers the reviews of access.
func Install(server *genericapiserver.GenericAPIServer) error {
	codecs := serializer.NewCodecFactory(Scheme)
	for gv, storage := range map[schema.GroupVersion]rest.SingularNameProvider{
		authenticationv1.SchemeGroupVersion: subjectReviews{},
		authorizationv1.SchemeGroupVersion:  accessReviews{server.Authorizer},
	} {
		group := genericapiserver.NewDefaultAPIGroupInfo(gv.Group, Scheme, runtime.NewParameterCodec(Scheme), codecs)
		group.VersionedResourcesStorageMap[gv.Version] = map[string]rest.Storage{storage.GetSingularName() + "s": storage.(rest.Storage)}
		if err := server.InstallAPIGroup(&group); err != nil {
			return fmt.Errorf("serve %s: %w", gv, err)
		}
	}
	return nil
}

// subjectReviews is the storage of SelfSubjectReviews.
type subjectReviews struct{}

var (
	_ rest.Creater = subjectReviews{}
	_ rest.Scoper  = subjectReviews{}
)

// New implements rest.Storage.
func (subjectReviews) New() runtime.Object { return &authenticationv1.SelfSubjectReview{} }

// Destroy implements rest.Storage.
func (subjectReviews) Destroy() {}

// NamespaceScoped implements rest.Scoper.
func (subjectReviews) NamespaceScoped() bool { return false }

// GetSingularName implements rest.SingularNameProvider.
func (subjectReviews) GetSingularName() string { return "selfsubjectreview" }

// Create implements rest.Creater. It returns the name, the groups and the other attributes of the user.
func (subjectReviews) Create(ctx context.Context, object runtime.Object, validate rest.ValidateObjectFunc, _ *metav1.CreateOptions) (runtime.Object, error) {
	review := object.(*authenticationv1.SelfSubjectReview)
	requester, err := requesterOf(ctx, review, validate)
	if err != nil {
		return nil, err
	}
	info := authenticationv1.UserInfo{Username: requester.GetName(), UID: requester.GetUID(), Groups: requester.GetGroups()}
	for key, values := range requester.GetExtra() {
		if info.Extra == nil {
			info.Extra = map[string]authenticationv1.ExtraValue{}
		}
		info.Extra[key] = values
	}
	return &authenticationv1.SelfSubjectReview{
		ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.Now()},
		Status:     authenticationv1.SelfSubjectReviewStatus{UserInfo: info},
	}, nil
}

// accessReviews is the storage of SelfSubjectAccessReviews.
type accessReviews struct {
	authorizer authorizer.UnconditionalAuthorizer
}

var (
	_ rest.Creater = accessReviews{}
	_ rest.Scoper  = accessReviews{}
)

// New implements rest.Storage.
func (accessReviews) New() runtime.Object { return &authorizationv1.SelfSubjectAccessReview{} }

// Destroy implements rest.Storage.
func (accessReviews) Destroy() {}

// NamespaceScoped implements rest.Scoper.
func (accessReviews) NamespaceScoped() bool { return false }

// GetSingularName implements rest.SingularNameProvider.
func (accessReviews) GetSingularName() string { return "selfsubjectaccessreview" }

// Create implements rest.Creater. It returns the review with the decision of the authorizer. Selectors of the review do
// not count, because no role depends on them.
func (r accessReviews) Create(ctx context.Context, object runtime.Object, validate rest.ValidateObjectFunc, _ *metav1.CreateOptions) (runtime.Object, error) {
	review := object.(*authorizationv1.SelfSubjectAccessReview)
	resource, path := review.Spec.ResourceAttributes, review.Spec.NonResourceAttributes
	if (resource == nil) == (path == nil) {
		return nil, apierrors.NewInvalid(authorizationv1.SchemeGroupVersion.WithKind("SelfSubjectAccessReview").GroupKind(), "", field.ErrorList{
			field.Required(field.NewPath("spec"), "exactly one of resourceAttributes and nonResourceAttributes must be set"),
		})
	}
	requester, err := requesterOf(ctx, review, validate)
	if err != nil {
		return nil, err
	}
	attributes := authorizer.AttributesRecord{User: requester}
	if resource != nil {
		attributes.ResourceRequest = true
		attributes.Verb, attributes.Namespace = resource.Verb, resource.Namespace
		attributes.APIGroup, attributes.APIVersion = resource.Group, resource.Version
		attributes.Resource, attributes.Subresource, attributes.Name = resource.Resource, resource.Subresource, resource.Name
	} else {
		attributes.Verb, attributes.Path = path.Verb, path.Path
	}
	decision, reason, err := r.authorizer.Authorize(ctx, attributes)
	review.Status = authorizationv1.SubjectAccessReviewStatus{
		Allowed: decision == authorizer.DecisionAllow, Denied: decision == authorizer.DecisionDeny, Reason: reason,
	}
	if err != nil {
		review.Status.EvaluationError = err.Error()
	}
	return review, nil
}

// requesterOf returns the user who created a review, after the validating admission plugins accepted it.
func requesterOf(ctx context.Context, review runtime.Object, validate rest.ValidateObjectFunc) (user.Info, error) {
	if validate != nil {
		if err := validate(ctx, review.DeepCopyObject()); err != nil {
			return nil, err
		}
	}
	requester, ok := request.UserFrom(ctx)
	if !ok {
		return nil, apierrors.NewBadRequest("the request has no user")
	}
	return requester, nil
}
