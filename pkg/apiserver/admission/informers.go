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

// Informers returns the informer factory for the admission plugins. It shares no informers by resource.
//
// Any policy of the host whose paramKind is a built-in kind would otherwise add an informer to the server's factory. If
// the server may not list that kind, the informer never syncs, and readiness waits for all informers of the factory.
// Policy plugins that find no shared informer start a dynamic one, as for custom resources, and stop it with the last
// policy that needs it.
func Informers(factory informers.SharedInformerFactory) informers.SharedInformerFactory {
	return withoutResourceInformers{factory}
}

type withoutResourceInformers struct {
	informers.SharedInformerFactory
}

// ForResource implements informers.SharedInformerFactory.
func (withoutResourceInformers) ForResource(resource schema.GroupVersionResource) (informers.GenericInformer, error) {
	return nil, fmt.Errorf("no informer of %s is shared with policies", resource)
}
