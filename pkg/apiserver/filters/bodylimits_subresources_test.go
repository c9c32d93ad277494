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

package filters

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/client-go/tools/cache"

	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/apiserver/scheme"
	registry "github.com/leat-dev/leat/pkg/registry/batch"
	"github.com/leat-dev/leat/pkg/registry/batch/task"
	"github.com/leat-dev/leat/pkg/registry/batch/taskset"
	"github.com/leat-dev/leat/pkg/registry/batch/worker"
)

// noStorage opens no storage.
type noStorage struct{}

func (noStorage) GetRESTOptions(resource schema.GroupResource, _ runtime.Object) (generic.RESTOptions, error) {
	return generic.RESTOptions{
		ResourcePrefix: "/" + resource.Resource,
		StorageConfig:  &storagebackend.ConfigForResource{},
		Decorator: func(*storagebackend.ConfigForResource, string, func(runtime.Object) (string, error), func() runtime.Object, func() runtime.Object,
			storage.AttrFunc, storage.IndexerFuncs, *cache.Indexers) (storage.Interface, factory.DestroyFunc, error) {
			return nil, func() {}, nil
		},
	}, nil
}

// TestRequestedKindIsThatOfTheStorage compares the kind that body limits assume for each served path with the kind that
// the API installer decodes there.
func TestRequestedKindIsThatOfTheStorage(t *testing.T) {
	stores := must(registry.NewStores(scheme.Scheme, noStorage{}))(t)
	version := v1alpha1.SchemeGroupVersion
	for path, served := range stores.Storage(task.Subresources{}, taskset.Subresources{}, worker.Subresources{})[version.Version] {
		_, creates := served.(rest.Creater)
		_, createsNamed := served.(rest.NamedCreater)
		_, updates := served.(rest.Updater)
		if !creates && !createsNamed && !updates {
			continue // no request has a body
		}
		want := schema.GroupVersionKind{}
		if provider, ok := served.(rest.GroupVersionKindProvider); ok {
			want = provider.GroupVersionKind(version)
		} else {
			kinds, _, err := scheme.Scheme.ObjectKinds(served.New())
			if err != nil {
				t.Fatal(err)
			}
			want = version.WithKind(kinds[0].Kind)
		}
		resource, subresource, _ := strings.Cut(path, "/")
		req := httptest.NewRequest(http.MethodPost, "/", nil)
		info := &request.RequestInfo{Verb: "create", Resource: resource, Subresource: subresource}
		if got := requestedKind(req.WithContext(request.WithRequestInfo(t.Context(), info))); got != want {
			t.Errorf("%s: got %s, want %s: add it to subresourceKinds", path, got, want)
		}
	}
}
