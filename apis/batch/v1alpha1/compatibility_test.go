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

package v1alpha1_test

import (
	"reflect"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/apitesting/roundtrip"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// Stored and sent objects must stay readable. testdata/HEAD has every field of every kind in its current encoding. Set
// UPDATE_COMPATIBILITY_FIXTURE_DATA=true to add new fields. Each release keeps its own copy as testdata/v<version>.
func TestSerializedFormsStayCompatible(t *testing.T) {
	scheme := newScheme(t)
	options := roundtrip.NewCompatibilityTestOptions(scheme)
	for kind, goType := range scheme.KnownTypes(v1alpha1.SchemeGroupVersion) {
		if goType.PkgPath() == reflect.TypeFor[v1alpha1.Task]().PkgPath() && !strings.HasSuffix(kind, "List") {
			options.Kinds = append(options.Kinds, v1alpha1.SchemeGroupVersion.WithKind(kind))
		}
	}
	options.Complete(t).Run(t)
}

func newScheme(t *testing.T) *runtime.Scheme {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	return scheme
}
