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

package admission

import (
	"slices"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission/plugin/namespace/lifecycle"
	mutatingpolicy "k8s.io/apiserver/pkg/admission/plugin/policy/mutating"
	validatingpolicy "k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/admission/plugin/resourcequota"
	mutatingwebhook "k8s.io/apiserver/pkg/admission/plugin/webhook/mutating"
	validatingwebhook "k8s.io/apiserver/pkg/admission/plugin/webhook/validating"
	"k8s.io/apiserver/pkg/server/options"

	"github.com/leat-dev/leat/pkg/apiserver/admission/creator"
	"github.com/leat-dev/leat/pkg/apiserver/admission/deniedworker"
	"github.com/leat-dev/leat/pkg/apiserver/admission/livenamespace"
	"github.com/leat-dev/leat/pkg/apiserver/admission/ownerreferences"
	"github.com/leat-dev/leat/pkg/apiserver/admission/queuelimit"
	"github.com/leat-dev/leat/pkg/apiserver/admission/workerrestriction"
)

// Grant is a permission that the server requires on the host cluster, in all namespaces.
type Grant struct {
	// Resource is the resource that the server accesses.
	Resource schema.GroupResource
	// Subresource is the subresource that the server accesses, empty for the resource itself.
	Subresource string
	// Verbs are the verbs that the server uses, sorted.
	Verbs []string
}

// informerVerbs are the verbs that an informer uses.
var informerVerbs = []string{"list", "watch"}

// grants holds the permissions that each plugin requires on the host. Plugins that match namespaces by label read them
// from an informer, and from the host if the informer does not have them.
var grants = map[string][]Grant{
	lifecycle.PluginName:         {namespaces},
	mutatingpolicy.PluginName:    {namespaces, configuration("mutatingadmissionpolicies"), configuration("mutatingadmissionpolicybindings")},
	mutatingwebhook.PluginName:   {namespaces, configuration("mutatingwebhookconfigurations")},
	creator.PluginName:           nil,
	workerrestriction.PluginName: nil,
	ownerreferences.PluginName:   nil,
	queuelimit.PluginName:        nil,
	deniedworker.PluginName:      {{Resource: namespaces.Resource, Verbs: []string{"get"}}},
	validatingpolicy.PluginName:  {namespaces, configuration("validatingadmissionpolicies"), configuration("validatingadmissionpolicybindings")},
	validatingwebhook.PluginName: {namespaces, configuration("validatingwebhookconfigurations")},
	livenamespace.PluginName:     {{Resource: namespaces.Resource, Verbs: []string{"get"}}},
	resourcequota.PluginName: {
		{Resource: schema.GroupResource{Resource: "resourcequotas"}, Verbs: informerVerbs},
		{Resource: schema.GroupResource{Resource: "resourcequotas"}, Subresource: "status", Verbs: []string{"update"}},
	},
}

var namespaces = Grant{Resource: schema.GroupResource{Resource: "namespaces"}, Verbs: append([]string{"get"}, informerVerbs...)}

func configuration(resource string) Grant {
	return Grant{Resource: schema.GroupResource{Group: "admissionregistration.k8s.io", Resource: resource}, Verbs: informerVerbs}
}

// Grants returns the permissions that the enabled plugins require on the host, one Grant a resource. The options must
// be those that Configure has set.
func Grants(o *options.AdmissionOptions) []Grant {
	var all []Grant
	for _, plugin := range Order {
		if off := o.DefaultOffPlugins.Has(plugin) || slices.Contains(o.DisablePlugins, plugin); off && !slices.Contains(o.EnablePlugins, plugin) {
			continue
		}
		for _, grant := range grants[plugin] {
			i := slices.IndexFunc(all, func(known Grant) bool {
				return known.Resource == grant.Resource && known.Subresource == grant.Subresource
			})
			if i < 0 {
				grant.Verbs = slices.Clone(grant.Verbs)
				all = append(all, grant)
				continue
			}
			all[i].Verbs = append(all[i].Verbs, grant.Verbs...)
			slices.Sort(all[i].Verbs)
			all[i].Verbs = slices.Compact(all[i].Verbs)
		}
	}
	return all
}
