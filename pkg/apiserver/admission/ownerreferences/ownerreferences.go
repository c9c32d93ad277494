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

// Package ownerreferences restricts changes of metadata.ownerReferences, which could otherwise make the garbage
// collector delete, or keep, what the user may not. It is the plugin of the same name in kube-apiserver, which does not
// run for aggregated APIs.
package ownerreferences

import (
	"context"
	"errors"
	"fmt"
	"io"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/initializer"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/leat-dev/leat/apis/batch"
	"github.com/leat-dev/leat/pkg/generated/kinds"
)

// PluginName is the name of the plugin.
const PluginName = "OwnerReferencesPermissionEnforcement"

// Register registers the plugin. It has no configuration.
func Register(plugins *admission.Plugins) {
	plugins.Register(PluginName, func(io.Reader) (admission.Interface, error) {
		return New(), nil
	})
}

// New returns the plugin. The generic admission initializer sets its authorizer and its REST mapper.
//
// To change the ownerReferences of an existing object, a user must be allowed to delete it, since the garbage collector
// deletes it on behalf of the owner. To set blockOwnerDeletion, a user must be allowed to update the finalizers
// subresource of the owner, whose deletion then waits for the object. Other writes are not authorized again.
func New() admission.ValidationInterface {
	return &plugin{Handler: admission.NewHandler(admission.Create, admission.Update)}
}

type plugin struct {
	*admission.Handler
	authorizer authorizer.UnconditionalAuthorizer
	mapper     meta.RESTMapper
}

var (
	_ initializer.WantsUnconditionalAuthorizer = &plugin{}
	_ initializer.WantsRESTMapper              = &plugin{}
)

// SetUnconditionalAuthorizer implements initializer.WantsUnconditionalAuthorizer.
func (p *plugin) SetUnconditionalAuthorizer(authorizer authorizer.UnconditionalAuthorizer) {
	p.authorizer = authorizer
}

// SetRESTMapper implements initializer.WantsRESTMapper.
func (p *plugin) SetRESTMapper(mapper meta.RESTMapper) {
	p.mapper = mapper
}

// ValidateInitialization implements admission.InitializationValidator.
func (p *plugin) ValidateInitialization() error {
	if p.authorizer == nil {
		return fmt.Errorf("%s requires an authorizer", PluginName)
	}
	if p.mapper == nil {
		return fmt.Errorf("%s requires a REST mapper", PluginName)
	}
	return nil
}

// Validate implements admission.ValidationInterface. It returns a Forbidden error that names the missing permission.
func (p *plugin) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	refs, oldRefs := ownerReferences(a.GetObject()), ownerReferences(a.GetOldObject())
	if apiequality.Semantic.DeepEqual(refs, oldRefs) {
		return nil
	}
	if a.GetOperation() == admission.Update {
		if err := p.authorize(ctx, authorizer.AttributesRecord{
			User:            a.GetUserInfo(),
			Verb:            "delete",
			Namespace:       a.GetNamespace(),
			APIGroup:        a.GetResource().Group,
			APIVersion:      a.GetResource().Version,
			Resource:        a.GetResource().Resource,
			Name:            a.GetName(),
			ResourceRequest: true,
		}); err != nil {
			return admission.NewForbidden(a, fmt.Errorf(
				"metadata.ownerReferences may only be changed by users that may delete the object: %w", err))
		}
	}
	for _, ref := range newlyBlocking(refs, oldRefs) {
		if err := p.authorizeBlocking(ctx, a, ref); err != nil {
			return admission.NewForbidden(a, fmt.Errorf(
				"blockOwnerDeletion may only be set by users that may update the finalizers of the owner, %s %s: %w", ref.Kind, ref.Name, err))
		}
	}
	return nil
}

func (p *plugin) authorize(ctx context.Context, attrs authorizer.AttributesRecord) error {
	decision, reason, err := p.authorizer.Authorize(ctx, attrs)
	if decision == authorizer.DecisionAllow {
		return nil
	}
	if err == nil && reason != "" {
		err = errors.New(reason)
	}
	if err == nil {
		err = errors.New("not granted")
	}
	resource := attrs.Resource
	if attrs.Subresource != "" {
		resource += "/" + attrs.Subresource
	}
	return fmt.Errorf("%s of %s: %w", attrs.Verb, schema.GroupResource{Group: attrs.APIGroup, Resource: resource}, err)
}

func (p *plugin) authorizeBlocking(ctx context.Context, a admission.Attributes, ref metav1.OwnerReference) error {
	mappings, err := p.mappings(ctx, a.GetUserInfo(), ref)
	if err != nil {
		return err
	}
	for _, mapping := range mappings {
		attrs := finalizersOf(a.GetUserInfo(), mapping.Resource, ref.Name)
		if mapping.Scope.Name() == meta.RESTScopeNameNamespace {
			attrs.Namespace = a.GetNamespace() // a namespaced owner is in the namespace of its dependents
		}
		if err := p.authorize(ctx, attrs); err != nil {
			return err
		}
	}
	return nil
}

// mappings returns the resources that the kind of a reference may name. It returns none for users that may update all
// finalizers, so that their writes do not depend on discovery. The kinds of our own group need no discovery either.
func (p *plugin) mappings(ctx context.Context, u user.Info, ref metav1.OwnerReference) ([]*meta.RESTMapping, error) {
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return nil, err
	}
	if gv.Group == batch.GroupName {
		return []*meta.RESTMapping{ownMapping(gv.WithKind(ref.Kind))}, nil
	}
	if err := p.authorize(ctx, finalizersOf(u, schema.GroupVersionResource{Group: "*", Version: "*", Resource: "*"}, "*")); err == nil {
		return nil, nil
	}
	return p.mapper.RESTMappings(gv.WithKind(ref.Kind).GroupKind(), gv.Version)
}

// ownMapping returns the resource and the scope of a kind of our group. It guesses them for an unknown kind.
func ownMapping(gvk schema.GroupVersionKind) *meta.RESTMapping {
	resource, _ := meta.UnsafeGuessKindToResource(gvk)
	mapping := &meta.RESTMapping{Resource: resource, Scope: meta.RESTScopeNamespace}
	for _, kind := range kinds.All {
		if kind.Name != gvk.Kind {
			continue
		}
		mapping.Resource.Resource = kind.Resource
		if !kind.Namespaced {
			mapping.Scope = meta.RESTScopeRoot
		}
	}
	return mapping
}

func finalizersOf(u user.Info, resource schema.GroupVersionResource, name string) authorizer.AttributesRecord {
	return authorizer.AttributesRecord{
		User:            u,
		Verb:            "update",
		APIGroup:        resource.Group,
		APIVersion:      resource.Version,
		Resource:        resource.Resource,
		Subresource:     "finalizers",
		Name:            name,
		ResourceRequest: true,
	}
}

// ownerReferences returns the owner references of obj, which may be nil or have no metadata.
func ownerReferences(obj runtime.Object) []metav1.OwnerReference {
	if obj == nil {
		return nil
	}
	accessor, err := meta.Accessor(obj)
	if err != nil {
		return nil
	}
	return accessor.GetOwnerReferences()
}

// newlyBlocking returns the references with blockOwnerDeletion whose owner no old reference blocks.
func newlyBlocking(refs, oldRefs []metav1.OwnerReference) []metav1.OwnerReference {
	blocks := func(ref metav1.OwnerReference) bool { return ref.BlockOwnerDeletion != nil && *ref.BlockOwnerDeletion }
	var blocking []metav1.OwnerReference
next:
	for _, ref := range refs {
		if !blocks(ref) {
			continue
		}
		for _, old := range oldRefs {
			if blocks(old) && old.APIVersion == ref.APIVersion && old.Kind == ref.Kind && old.Name == ref.Name && old.UID == ref.UID {
				continue next
			}
		}
		blocking = append(blocking, ref)
	}
	return blocking
}
