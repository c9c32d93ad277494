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

package batch

import (
	"fmt"
	"math/rand"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	apifuzzer "k8s.io/apimachinery/pkg/api/apitesting/fuzzer"
	metafuzzer "k8s.io/apimachinery/pkg/apis/meta/fuzzer"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apiserver/pkg/registry/generic"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/client-go/tools/cache"

	"github.com/leat-dev/leat/apis/batch"
	"github.com/leat-dev/leat/apis/batch/fuzzer"
	"github.com/leat-dev/leat/apis/batch/install"
	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/generated/kinds"
	"github.com/leat-dev/leat/pkg/registry/batch/task"
	"github.com/leat-dev/leat/pkg/registry/batch/taskset"
	"github.com/leat-dev/leat/pkg/registry/batch/worker"
)

// The tests in this file apply to all kinds, including new ones.

// recorder opens no storage and records what the stores ask the watch cache for.
type recorder map[schema.GroupResource]recorded

type recorded struct {
	attributes storage.AttrFunc
	triggers   storage.IndexerFuncs
	indexers   *cache.Indexers
}

func (r recorder) GetRESTOptions(resource schema.GroupResource, _ runtime.Object) (generic.RESTOptions, error) {
	return generic.RESTOptions{
		ResourcePrefix: "/" + resource.Resource,
		StorageConfig:  &storagebackend.ConfigForResource{},
		Decorator: func(_ *storagebackend.ConfigForResource, _ string, _ func(runtime.Object) (string, error), _, _ func() runtime.Object,
			attributes storage.AttrFunc, triggers storage.IndexerFuncs, indexers *cache.Indexers) (storage.Interface, factory.DestroyFunc, error) {
			r[resource] = recorded{attributes, triggers, indexers}
			return nil, func() {}, nil
		},
	}, nil
}

// open returns the stores of all kinds by resource, and what they request of the watch cache.
func open(t *testing.T, scheme *runtime.Scheme) (*Stores, map[schema.GroupResource]*genericregistry.Store, recorder) {
	t.Helper()
	asked := recorder{}
	stores, err := NewStores(scheme, asked)
	if err != nil {
		t.Fatal(err)
	}
	byResource := map[schema.GroupResource]*genericregistry.Store{}
	for _, s := range stores.All() {
		byResource[s.Store.DefaultQualifiedResource] = s.Store
	}
	if len(byResource) != len(Kinds) {
		t.Fatalf("got %d kinds and %d stores", len(Kinds), len(byResource))
	}
	return stores, byResource, asked
}

func newScheme() *runtime.Scheme {
	scheme := runtime.NewScheme()
	install.Install(scheme)
	return scheme
}

// randomObjects returns fuzzed objects of a kind, with fewer and with more empty fields.
func randomObjects(store *genericregistry.Store) []runtime.Object {
	funcs := apifuzzer.MergeFuzzerFuncs(metafuzzer.Funcs, fuzzer.Funcs)
	filler := apifuzzer.FuzzerFor(funcs, rand.NewSource(rand.Int63()), serializer.NewCodecFactory(newScheme()))
	objects := []runtime.Object{store.New()}
	for range 100 {
		object := store.New()
		filler.Fill(object)
		objects = append(objects, object)
	}
	return objects
}

func TestTriggersAreIndexed(t *testing.T) {
	_, stores, asked := open(t, newScheme())
	for _, kind := range Kinds {
		d := kind.Describe()
		t.Run(d.GroupResource.Resource, func(t *testing.T) {
			selector := fields.Everything()
			want := []storage.MatchValue(nil)
			if d.Trigger != "" {
				if !slices.Contains(d.Fields, d.Trigger) {
					t.Fatalf("the trigger %q is not among the selectable fields %q", d.Trigger, d.Fields)
				}
				selector = fields.OneTermEqualSelector(d.Trigger, "x")
				want = []storage.MatchValue{{IndexName: storage.FieldIndex(d.Trigger), Value: "x"}}
			}
			predicate := stores[d.GroupResource].PredicateFunc(labels.Everything(), selector)
			if diff := cmp.Diff(want, predicate.MatcherIndex(t.Context())); diff != "" {
				t.Errorf("index fields of the predicate: want -, got +:\n%s", diff)
			}
			got := asked[d.GroupResource]
			if d.Trigger == "" {
				if got.triggers != nil || got.indexers != nil {
					t.Errorf("a kind without trigger has triggers %v and indexers %v", got.triggers, got.indexers)
				}
				return
			}
			trigger, index := got.triggers[d.Trigger], (*got.indexers)[storage.FieldIndex(d.Trigger)]
			if trigger == nil || index == nil || len(got.triggers) != 1 || len(*got.indexers) != 1 {
				t.Fatalf("%s: got triggers %v and indexers %v, want one each", d.Trigger, got.triggers, got.indexers)
			}
			for _, object := range randomObjects(stores[d.GroupResource]) {
				_, attributes, err := got.attributes(object)
				if err != nil {
					t.Fatal(err)
				}
				indexed, err := index(object)
				if err != nil {
					t.Fatal(err)
				}
				if value := attributes[d.Trigger]; trigger(object) != value || !slices.Equal(indexed, []string{value}) {
					t.Fatalf("the field is %q, by the trigger %q, by the index %q", value, trigger(object), indexed)
				}
			}
		})
	}
}

func TestSelectableFields(t *testing.T) {
	scheme := newScheme()
	_, stores, asked := open(t, scheme)
	for _, kind := range Kinds {
		d := kind.Describe()
		store := stores[d.GroupResource]
		kinds, _, err := scheme.ObjectKinds(store.New())
		if err != nil {
			t.Fatal(err)
		}
		for _, version := range scheme.PrioritizedVersionsForGroup(d.GroupResource.Group) {
			gvk := version.WithKind(kinds[0].Kind)
			t.Run(gvk.Version+"/"+gvk.Kind, func(t *testing.T) {
				labels := append([]string{"metadata.name"}, d.Fields...)
				if d.Namespaced {
					labels = append(labels, "metadata.namespace")
				}
				for _, label := range labels {
					if to, value, err := scheme.ConvertFieldLabel(gvk, label, "x"); err != nil || to != label || value != "x" {
						t.Errorf("%s=x becomes %s=%s: %v", label, to, value, err)
					}
				}
				if _, _, err := scheme.ConvertFieldLabel(gvk, "spec.unknown", "x"); err == nil || !strings.Contains(err.Error(), labels[0]) {
					t.Errorf("an unknown field: got %v, want an error that names %q", err, labels)
				}

				for _, object := range randomObjects(store) {
					_, attributes, err := asked[d.GroupResource].attributes(object)
					if err != nil {
						t.Fatal(err)
					}
					if len(attributes) != len(labels) {
						t.Fatalf("objects have fields %v, and selectors may name %q", attributes, labels)
					}
					versioned, err := scheme.ConvertToVersion(object, version)
					if err != nil {
						t.Fatal(err)
					}
					content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(versioned)
					if err != nil {
						t.Fatal(err)
					}
					for _, label := range labels {
						at, found, err := unstructured.NestedFieldNoCopy(content, strings.Split(label, ".")...)
						if err != nil {
							t.Fatal(err)
						}
						got := attributes[label]
						if found && got != fmt.Sprint(at) || !found && got != "" && got != "false" && got != "0" {
							t.Fatalf("%s is %v in the object and %q in its fields", label, at, got)
						}
					}
				}
			})
		}
	}
}

func TestCellsHaveTheTypeOfTheirColumn(t *testing.T) {
	_, stores, _ := open(t, newScheme())
	for _, kind := range Kinds {
		d := kind.Describe()
		t.Run(d.GroupResource.Resource, func(t *testing.T) {
			store := stores[d.GroupResource]
			names := map[string]bool{}
			for _, column := range d.Columns {
				if column.Name == "" || column.Description == "" || names[column.Name] {
					t.Errorf("column %q: must have a description and a unique name", column.Name)
				}
				names[column.Name] = true
			}
			if d.Columns[0].Name != "Name" || !names["Age"] {
				t.Errorf("columns are %v, want Name first and Age somewhere", names)
			}
			for _, object := range randomObjects(store) {
				table, err := store.ConvertToTable(t.Context(), object, &metav1.TableOptions{})
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(d.Columns, table.ColumnDefinitions); diff != "" {
					t.Fatalf("Describe -, ConvertToTable +:\n%s", diff)
				}
				for i, column := range d.Columns {
					want := map[string]string{"string": "string", "date": "string", "integer": "int64", "boolean": "bool"}[column.Type]
					if cell := table.Rows[0].Cells[i]; fmt.Sprintf("%T", cell) != want {
						t.Fatalf("column %s of type %s has a cell %v of type %T", column.Name, column.Type, cell, cell)
					}
				}
			}
		})
	}
}

func TestEveryVersionServesEveryKind(t *testing.T) {
	scheme := newScheme()
	stores, _, _ := open(t, scheme)
	served := stores.Storage(task.Subresources{}, taskset.Subresources{}, worker.Subresources{})
	versions := scheme.PrioritizedVersionsForGroup(batch.GroupName)
	if len(served) != len(versions) {
		t.Errorf("there are %d versions, %d are served", len(versions), len(served))
	}
	for _, version := range versions {
		for _, kind := range Kinds {
			d := kind.Describe()
			main := served[version.Version][d.GroupResource.Resource]
			if main == nil {
				t.Errorf("%s serves no %s", version, d.GroupResource.Resource)
				continue
			}
			if _, watched := main.(rest.Watcher); watched == d.Unwatched {
				t.Errorf("%s/%s: can be watched: %t", version, d.GroupResource.Resource, watched)
			}
			for path, has := range map[string]bool{"status": d.HasStatus, "scale": d.HasScale} {
				_, serves := served[version.Version][d.GroupResource.Resource+"/"+path]
				if serves != has {
					t.Errorf("%s/%s/%s: served: %t, of the kind: %t", version, d.GroupResource.Resource, path, serves, has)
				}
			}
		}
	}
}

func TestTheListOfKindsAgreesWithTheResources(t *testing.T) {
	stores, _, _ := open(t, newScheme())
	served := stores.Storage(task.Subresources{}, taskset.Subresources{}, worker.Subresources{})[v1alpha1.SchemeGroupVersion.Version]
	paths := map[string]bool{}
	for i, kind := range kinds.All {
		d := Kinds[i].Describe()
		if d.GroupResource.Resource != kind.Resource || d.Namespaced != kind.Namespaced || d.Unwatched == kind.Watched {
			t.Errorf("got %+v, want %+v", kind, d)
		}
		main := served[kind.Resource]
		if main == nil {
			t.Errorf("%s is not served", kind.Resource)
			continue
		}
		if main.(rest.SingularNameProvider).GetSingularName() != kind.Singular ||
			!slices.Equal(main.(rest.ShortNamesProvider).ShortNames(), kind.ShortNames) {
			t.Errorf("%s: the names are not those of the storage", kind.Name)
		}
		paths[kind.Resource] = true
		for _, subresource := range kind.Subresources {
			paths[kind.Resource+"/"+subresource] = true
		}
	}
	for path := range served {
		if !paths[path] {
			t.Errorf("the list of kinds has no %s", path)
		}
	}
	if len(kinds.All) != len(Kinds) || len(paths) != len(served) {
		t.Errorf("got %d kinds with %d paths, want %d with %d", len(kinds.All), len(paths), len(Kinds), len(served))
	}
}
