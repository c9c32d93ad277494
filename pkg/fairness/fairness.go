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

// Package fairness tells priority and fairness what it cannot know of our kinds.
package fairness

import (
	"net/http"

	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metainternalversionscheme "k8s.io/apimachinery/pkg/apis/meta/internalversion/scheme"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/util/flowcontrol"
)

// WithTrigger returns the delegate with a trigger made known to it: an event of the resource reaches, of the watches that
// select one value of the field, only those that select the object's. Each write is charged for the watches that it may
// wake, and the delegate knows one trigger only, pods by spec.nodeName. As with that one, watches that select a value are
// not charged at all, since few of them share one; watches that select the empty value, no value, or more than one, are
// charged in full.
//
// It must be set as server.Config.FlowControl before the handler chain is built, and counts only what is registered
// through it. A nil delegate (priority and fairness is off) gives nil.
func WithTrigger(delegate flowcontrol.Interface, resource schema.GroupResource, field string) flowcontrol.Interface {
	if delegate == nil {
		return nil
	}
	return &triggered{Interface: delegate, resource: resource, field: field}
}

type triggered struct {
	flowcontrol.Interface
	resource schema.GroupResource
	field    string
}

// RegisterWatch keeps the watches that the trigger tells apart from the delegate. All that remains is counted by it, and
// so GetInterestedWatchCount needs no change.
func (t *triggered) RegisterWatch(r *http.Request) flowcontrol.ForgetWatchFunc {
	if info, ok := request.RequestInfoFrom(r.Context()); ok && info.Verb == "watch" &&
		info.APIGroup == t.resource.Group && info.Resource == t.resource.Resource && t.selectsValue(r) {
		return func() {}
	}
	return t.Interface.RegisterWatch(r)
}

func (t *triggered) selectsValue(r *http.Request) bool {
	var options metainternalversion.ListOptions
	if err := metainternalversionscheme.ParameterCodec.DecodeParameters(r.URL.Query(), metav1.SchemeGroupVersion, &options); err != nil || options.FieldSelector == nil {
		return false // an undecodable watch is about to be refused
	}
	value, exact := options.FieldSelector.RequiresExactMatch(t.field)
	return exact && value != ""
}
