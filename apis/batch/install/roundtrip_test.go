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

package install

import (
	"math/rand"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/apitesting/fuzzer"
	"k8s.io/apimachinery/pkg/api/apitesting/roundtrip"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metafuzzer "k8s.io/apimachinery/pkg/apis/meta/fuzzer"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/runtime/serializer/cbor"
	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/leat-dev/leat/apis/batch"
	batchfuzzer "github.com/leat-dev/leat/apis/batch/fuzzer"
)

func TestEveryKindSurvivesJSONAndProtobuf(t *testing.T) {
	roundtrip.RoundTripProtobufTestForAPIGroup(t, Install, batchfuzzer.Funcs)
}

func TestEveryKindSurvivesBeingUnstructured(t *testing.T) {
	scheme := newScheme()
	unconverted := sets.New[schema.GroupVersionKind]()
	for gvk := range scheme.AllKnownTypes() {
		if !scheme.Recognizes(schema.GroupVersionKind{Group: gvk.Group, Version: runtime.APIVersionInternal, Kind: gvk.Kind}) {
			unconverted.Insert(gvk) // options and similar kinds, which have no internal type
		}
	}
	roundtrip.RoundtripToUnstructured(t, scheme, batchfuzzer.Funcs, nil, unconverted)
}

func TestEveryKindSurvivesCBOR(t *testing.T) {
	scheme := newScheme()
	codecs := serializer.NewCodecFactory(scheme)
	serializer := cbor.NewSerializer(scheme, scheme)
	filler := fuzzer.FuzzerFor(fuzzer.MergeFuzzerFuncs(metafuzzer.Funcs, batchfuzzer.Funcs), rand.NewSource(rand.Int63()), codecs)
	for _, version := range scheme.PrioritizedVersionsForGroup(batch.GroupName) {
		codec := codecs.CodecForVersions(serializer, serializer, version, nil)
		for kind := range scheme.KnownTypes(batch.SchemeGroupVersion) {
			if roundtrip.GlobalNonRoundTrippableTypes().Has(kind) {
				continue
			}
			t.Run(version.Version+"/"+kind, func(t *testing.T) {
				for range *roundtrip.FuzzIters {
					object, err := scheme.New(batch.SchemeGroupVersion.WithKind(kind))
					if err != nil {
						t.Fatal(err)
					}
					filler.Fill(object)
					object.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
					encoded, err := runtime.Encode(codec, object)
					if err != nil {
						t.Fatal(err)
					}
					decoded, err := runtime.Decode(codec, encoded)
					if err != nil {
						t.Fatal(err)
					}
					if !apiequality.Semantic.DeepEqual(object, decoded) {
						t.Fatal(cmp.Diff(object, decoded))
					}
				}
			})
		}
	}
}

func newScheme() *runtime.Scheme {
	scheme := runtime.NewScheme()
	Install(scheme)
	return scheme
}
