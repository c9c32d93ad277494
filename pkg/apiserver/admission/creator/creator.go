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

// Package creator records the user that created a Task or a TaskSet: the name in an annotation, and its hash in a
// label, for selectors. Users cannot choose, change or remove either.
package creator

import (
	"context"
	"fmt"
	"io"
	"maps"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/initializer"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/leat-dev/leat/apis/batch"
	"github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// PluginName is the name of the plugin.
const PluginName = "Creator"

// Register registers the plugin. It has no configuration.
func Register(plugins *admission.Plugins) {
	plugins.Register(PluginName, func(io.Reader) (admission.Interface, error) {
		return New(), nil
	})
}

// New returns the plugin. The generic admission initializer sets its authorizer.
//
// On create, it replaces the annotation and the label. A task that a set controls keeps those that the client has
// copied from the set, if the client may update the status of all sets: only the TaskSet controller may. Others cannot
// create tasks in the name of another user, whatever owner they set. On update, it silently keeps what is stored, as
// the server does with other metadata that it owns, so that a manifest without them can be applied and replaced.
func New() admission.MutationInterface {
	return &plugin{Handler: admission.NewHandler(admission.Create, admission.Update)}
}

type plugin struct {
	*admission.Handler
	authorizer authorizer.UnconditionalAuthorizer
}

var _ initializer.WantsUnconditionalAuthorizer = &plugin{}

// SetUnconditionalAuthorizer implements initializer.WantsUnconditionalAuthorizer.
func (p *plugin) SetUnconditionalAuthorizer(authorizer authorizer.UnconditionalAuthorizer) {
	p.authorizer = authorizer
}

// ValidateInitialization implements admission.InitializationValidator.
func (p *plugin) ValidateInitialization() error {
	if p.authorizer == nil {
		return fmt.Errorf("%s requires an authorizer", PluginName)
	}
	return nil
}

// Admit implements admission.MutationInterface. It refuses nothing.
func (p *plugin) Admit(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	switch a.GetObject().(type) {
	case *batch.Task, *batch.TaskSet:
	default:
		return nil // another kind, or the body of a subresource
	}
	object, err := meta.Accessor(a.GetObject())
	if err != nil {
		return err
	}
	if a.GetOperation() == admission.Update {
		old, err := meta.Accessor(a.GetOldObject())
		if err != nil {
			return err
		}
		setFrom(object, old)
		return nil
	}
	if p.inherits(ctx, a, object) {
		return nil
	}
	user := a.GetUserInfo().GetName()
	object.SetAnnotations(with(object.GetAnnotations(), v1alpha1.AnnotationCreatedBy, user, true))
	object.SetLabels(with(object.GetLabels(), v1alpha1.LabelCreator, v1alpha1.CreatorLabel(user), true))
	return nil
}

// inherits reports whether a new object has the creator of the set that controls it. A set that was created by a
// version without this plugin has none.
func (p *plugin) inherits(ctx context.Context, a admission.Attributes, object metav1.Object) bool {
	owner := metav1.GetControllerOfNoCopy(object)
	if owner == nil || owner.Kind != "TaskSet" || owner.APIVersion != v1alpha1.SchemeGroupVersion.String() {
		return false
	}
	if _, ok := a.GetObject().(*batch.Task); !ok {
		return false
	}
	user, hasUser := object.GetAnnotations()[v1alpha1.AnnotationCreatedBy]
	label, hasLabel := object.GetLabels()[v1alpha1.LabelCreator]
	if hasUser != hasLabel || hasUser && label != v1alpha1.CreatorLabel(user) {
		return false
	}
	// The question has no namespace and no name, so that the answer is cached for all tasks.
	decision, _, err := p.authorizer.Authorize(ctx, authorizer.AttributesRecord{
		User:            a.GetUserInfo(),
		Verb:            "update",
		APIGroup:        v1alpha1.GroupName,
		APIVersion:      v1alpha1.SchemeGroupVersion.Version,
		Resource:        "tasksets",
		Subresource:     "status",
		ResourceRequest: true,
	})
	return err == nil && decision == authorizer.DecisionAllow
}

// setFrom sets the annotation and the label to those of the stored object.
func setFrom(object, old metav1.Object) {
	user, hasUser := old.GetAnnotations()[v1alpha1.AnnotationCreatedBy]
	object.SetAnnotations(with(object.GetAnnotations(), v1alpha1.AnnotationCreatedBy, user, hasUser))
	label, hasLabel := old.GetLabels()[v1alpha1.LabelCreator]
	object.SetLabels(with(object.GetLabels(), v1alpha1.LabelCreator, label, hasLabel))
}

// with returns the map with the value of a key, or without the key. It copies a map that it changes, because caches may
// share it.
func with(values map[string]string, key, value string, present bool) map[string]string {
	if got, ok := values[key]; ok == present && got == value {
		return values
	}
	values = maps.Clone(values)
	if !present {
		delete(values, key)
		return values
	}
	if values == nil {
		values = map[string]string{}
	}
	values[key] = value
	return values
}
