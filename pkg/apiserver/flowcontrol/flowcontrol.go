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

// Package flowcontrol makes the watch cache triggers of our kinds known to priority and fairness.
package flowcontrol

import (
	"net/http"

	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metainternalversionscheme "k8s.io/apimachinery/pkg/apis/meta/internalversion/scheme"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/util/flowcontrol"
)

// WithTrigger returns an Interface that does not charge writes of the resource for watches that select a single value
// of the trigger field.
//
// Priority and fairness charges a write for the watches that it may notify. The watch cache notifies only the watches
// that select the object's value of the trigger field, but upstream knows only one trigger, spec.nodeName of pods. As
// upstream does for that one, WithTrigger leaves out all watches that select one value, since few of them share it.
// Watches that select no value, the empty value or several values are charged in full.
//
// Set the result as server.Config.FlowControl before the handler chain is built: it counts only watches that are
// registered through it. WithTrigger returns nil for a nil delegate, which means that priority and fairness is off.
func WithTrigger(delegate flowcontrol.Interface, resource schema.GroupResource, field string) flowcontrol.Interface {
	if delegate == nil {
		return nil
	}
	return &withTrigger{Interface: delegate, resource: resource, field: field}
}

type withTrigger struct {
	flowcontrol.Interface
	resource schema.GroupResource
	field    string
}

// RegisterWatch implements flowcontrol.Interface. It does not register watches that select one value of the trigger
// field with the delegate, which thus leaves them out of GetInterestedWatchCount.
func (t *withTrigger) RegisterWatch(r *http.Request) flowcontrol.ForgetWatchFunc {
	if info, ok := request.RequestInfoFrom(r.Context()); ok && info.Verb == "watch" &&
		info.APIGroup == t.resource.Group && info.Resource == t.resource.Resource && t.selectsValue(r) {
		return func() {}
	}
	return t.Interface.RegisterWatch(r)
}

func (t *withTrigger) selectsValue(r *http.Request) bool {
	var options metainternalversion.ListOptions
	err := metainternalversionscheme.ParameterCodec.DecodeParameters(r.URL.Query(), metav1.SchemeGroupVersion, &options)
	if err != nil || options.FieldSelector == nil {
		return false // the handler refuses a watch that cannot be decoded
	}
	value, exact := options.FieldSelector.RequiresExactMatch(t.field)
	return exact && value != ""
}
