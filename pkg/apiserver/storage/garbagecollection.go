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

package storage

import (
	"slices"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/generic"

	"github.com/leat-dev/leat/apis/batch"
	"github.com/leat-dev/leat/pkg/generated/kinds"
)

// WithoutGarbageCollection returns a getter whose stores ignore propagationPolicy for kinds that own nothing:
// standalone mode has no garbage collector to remove the finalizers. The controller of a kind that owns others removes
// those of its objects.
func WithoutGarbageCollection(getter generic.RESTOptionsGetter) generic.RESTOptionsGetter {
	return withoutGarbageCollection{getter}
}

type withoutGarbageCollection struct {
	generic.RESTOptionsGetter
}

// GetRESTOptions implements generic.RESTOptionsGetter.
func (g withoutGarbageCollection) GetRESTOptions(resource schema.GroupResource, example runtime.Object) (generic.RESTOptions, error) {
	options, err := g.RESTOptionsGetter.GetRESTOptions(resource, example)
	owns := slices.ContainsFunc(kinds.All, func(kind kinds.Kind) bool {
		return batch.Resource(kind.Resource) == resource && len(kind.Owns) > 0
	})
	if !owns {
		options.EnableGarbageCollection = false
	}
	return options, err
}
