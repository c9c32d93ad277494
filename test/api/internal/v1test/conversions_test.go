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

package v1test

import (
	"math/rand"
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"
	apifuzzer "k8s.io/apimachinery/pkg/api/apitesting/fuzzer"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metafuzzer "k8s.io/apimachinery/pkg/apis/meta/fuzzer"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/leat-dev/leat/apis/batch"
	"github.com/leat-dev/leat/apis/batch/fuzzer"
	"github.com/leat-dev/leat/apis/batch/install"
	"github.com/leat-dev/leat/pkg/generated/kinds"
)

// copied are the kinds whose layout differs from that of the internal type. Conversions of their lists copy the items.
var copied = sets.New("Task", "TaskSet")

func newScheme(t *testing.T) *runtime.Scheme {
	t.Helper()
	scheme := runtime.NewScheme()
	install.Install(scheme)
	if err := AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	return scheme
}

func TestListsAreCopiedWhereLayoutsDiffer(t *testing.T) {
	scheme := newScheme(t)
	filler := apifuzzer.FuzzerFor(apifuzzer.MergeFuzzerFuncs(metafuzzer.Funcs, fuzzer.Funcs), rand.NewSource(1), serializer.NewCodecFactory(scheme))
	for _, kind := range kinds.All {
		internal, err := scheme.New(batch.SchemeGroupVersion.WithKind(kind.Name + "List"))
		if err != nil {
			t.Fatal(err)
		}
		items := reflect.ValueOf(internal).Elem().FieldByName("Items")
		items.Set(reflect.MakeSlice(items.Type(), 20, 20))
		for i := range items.Len() {
			filler.Fill(items.Index(i).Addr().Interface())
		}
		versioned, err := scheme.New(SchemeGroupVersion.WithKind(kind.Name + "List"))
		if err != nil {
			t.Fatal(err)
		}
		if err := scheme.Convert(internal, versioned, nil); err != nil {
			t.Fatal(err)
		}
		cast := reflect.ValueOf(versioned).Elem().FieldByName("Items").Pointer() == items.Pointer()
		if cast == copied.Has(kind.Name) {
			t.Errorf("%s: converted by a cast: got %t, want %t", kind.Name, cast, !cast)
		}
		back, err := scheme.New(batch.SchemeGroupVersion.WithKind(kind.Name + "List"))
		if err != nil {
			t.Fatal(err)
		}
		if err := scheme.Convert(versioned, back, nil); err != nil {
			t.Fatal(err)
		}
		if !apiequality.Semantic.DeepEqual(internal, back) {
			t.Errorf("%s: internal -, there and back +:\n%s", kind.Name, cmp.Diff(internal, back))
		}
	}
}
