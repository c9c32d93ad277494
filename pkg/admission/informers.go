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
	"fmt"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/informers"
)

// Informers gives the factory that plugins must be given instead of the server's own. Readiness waits for all informers of the
// server's, and a policy whose paramKind is a kind of Kubernetes itself, whatever the policy is about, would add one to it that
// never syncs if we may not list that kind. Plugins that find no informer by resource start a dynamic one, outside of the
// factory, as they do for custom resources, and stop it with the last policy that needs it.
func Informers(factory informers.SharedInformerFactory) informers.SharedInformerFactory {
	return ownInformers{factory}
}

type ownInformers struct {
	informers.SharedInformerFactory
}

func (ownInformers) ForResource(resource schema.GroupVersionResource) (informers.GenericInformer, error) {
	return nil, fmt.Errorf("no informer of %s is shared with policies", resource)
}
