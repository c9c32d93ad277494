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
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/initializer"
	quota "k8s.io/apiserver/pkg/quota/v1"
	"k8s.io/apiserver/pkg/quota/v1/generic"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"

	"github.com/leat-dev/leat/apis/batch"
	"github.com/leat-dev/leat/pkg/apiserver/admission/livenamespace"
	"github.com/leat-dev/leat/pkg/apiserver/admission/queuelimit"
	"github.com/leat-dev/leat/pkg/generated/kinds"
)

// quotaResources returns the resources that ResourceQuota charges as count/<resource>.batch.leat.dev, and those that it
// ignores. It ignores kinds that cannot be watched: the host's quota controller never counts them, and ResourceQuota
// would refuse all their objects in a namespace whose quota names them.
func quotaResources() (counted []schema.GroupResource, ignored map[schema.GroupResource]struct{}) {
	ignored = map[schema.GroupResource]struct{}{}
	for _, kind := range kinds.All {
		switch resource := batch.Resource(kind.Resource); {
		case !kind.Namespaced:
		case kind.Watched:
			counted = append(counted, resource)
		default:
			ignored[resource] = struct{}{}
		}
	}
	return counted, ignored
}

// Initializers returns the initializers of our plugins. They must run after the generic admission initializer, as they
// do in options.AdmissionOptions.ApplyTo. LiveNamespace reads namespaces from the host.
func Initializers(counts *queuelimit.Counts, host corev1client.NamespacesGetter) []admission.PluginInitializer {
	counted, ignored := quotaResources()
	evaluators := make([]quota.Evaluator, 0, len(counted))
	for _, resource := range counted {
		// Admission only increments usage, so the evaluators need no lister. The host's quota controller
		// computes usage.
		evaluators = append(evaluators, generic.NewObjectCountEvaluator(resource, nil, ""))
	}
	return []admission.PluginInitializer{
		quotaInitializer{generic.NewConfiguration(evaluators, ignored)}, manifestsInitializer{}, queuelimit.Initializer(counts),
		livenamespace.Initializer(host),
	}
}

type quotaInitializer struct {
	configuration quota.Configuration
}

// Initialize implements admission.PluginInitializer.
func (i quotaInitializer) Initialize(plugin admission.Interface) {
	if wants, ok := plugin.(initializer.WantsQuotaConfiguration); ok {
		wants.SetQuotaConfiguration(i.configuration)
	}
}
