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

package api

import (
	"bytes"
	"net/http"
	"strings"

	"github.com/leat-dev/leat/test/kit"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/leat-dev/leat/pkg/generated/clientset/versioned/scheme"
)

// encodingRules are about the media types that a kind speaks, both ways.
var encodingRules = []rule{
	{name: "YAML", check: speaksYAML},
	{name: "protobuf", check: speaksProtobuf},
	{name: "protobuf is never refused", check: protobufIsNeverRefused},
}

const (
	mediaJSON     = "application/json"
	mediaYAML     = "application/yaml"
	mediaProtobuf = runtime.ContentTypeProtobuf
)

// codecs are those of all types that are served.
var codecs = func() serializer.CodecFactory {
	served := runtime.NewScheme()
	utilruntime.Must(scheme.AddToScheme(served))
	utilruntime.Must(autoscalingv1.AddToScheme(served))
	metav1.AddToGroupVersion(served, schema.GroupVersion{Version: "v1"})
	return serializer.NewCodecFactory(served)
}()

// protobuf gives a client of typed objects that speaks only protobuf.
func (s *scene) protobuf() *rest.RESTClient {
	s.Helper()
	config := rest.CopyConfig(s.config)
	config.APIPath, config.GroupVersion = "/apis", &s.gv
	config.ContentType, config.AcceptContentTypes = mediaProtobuf, mediaProtobuf
	config.NegotiatedSerializer = codecs.WithoutConversion()
	return kit.Must(rest.RESTClientFor(config))(s)
}

// typed gives the typed form of an object.
func typed(s *scene, obj *unstructured.Unstructured) runtime.Object {
	s.Helper()
	return kit.Must(runtime.Decode(codecs.UniversalDeserializer(), encode(s, obj)))(s)
}

// untyped gives the form that objects have whose type is not known.
func untyped(s *scene, obj runtime.Object, gvk schema.GroupVersionKind) *unstructured.Unstructured {
	s.Helper()
	obj.GetObjectKind().SetGroupVersionKind(gvk)
	out := &unstructured.Unstructured{}
	kit.Check(s, out.UnmarshalJSON(encode(s, obj)))
	return out
}

func (s *scene) gvk() schema.GroupVersionKind { return s.gv.WithKind(s.kind.kind) }

// fromYAML parses an answer that must be YAML.
func fromYAML(s *scene, answer response) *unstructured.Unstructured {
	s.Helper()
	mustEqual(s, "the content type", answer.header.Get("Content-Type"), mediaYAML)
	obj := &unstructured.Unstructured{}
	kit.Check(s, obj.UnmarshalJSON(kit.Must(yaml.YAMLToJSONStrict(answer.body))(s)))
	return obj
}

func speaksYAML(s *scene) {
	text := kit.Must(yaml.Marshal(s.object("a").Object))(s)
	created := fromYAML(s, s.send(http.MethodPost, s.path(), text, "Content-Type", mediaYAML, "Accept", mediaYAML).must(s, http.StatusCreated))
	mustEqual(s, "the object created", created, s.get("a"))
	set(s, created, s.spec.path, s.spec.one)
	text = kit.Must(yaml.Marshal(created.Object))(s)
	updated := fromYAML(s, s.send(http.MethodPut, s.path("a"), text, "Content-Type", mediaYAML, "Accept", mediaYAML).must(s, http.StatusOK))
	mustHave(s, updated, s.spec.path, s.spec.one)
	mustEqual(s, "the object", fromYAML(s, s.send(http.MethodGet, s.path("a"), nil, "Accept", mediaYAML).must(s, http.StatusOK)), updated)
	list := s.send(http.MethodGet, s.path(), nil, "Accept", mediaYAML).must(s, http.StatusOK)
	mustEqual(s, "the kind of the list", fromYAML(s, list).GetKind(), s.kind.kind+"List")
}

func speaksProtobuf(s *scene) {
	client := s.protobuf()
	created := kit.Must(client.Post().Namespace(s.namespace).Resource(s.resource).Body(typed(s, s.object("a"))).Do(s.Context()).Get())(s)
	mustEqual(s, "the object created", untyped(s, created, s.gvk()), s.get("a"))
	obj := s.get("a")
	set(s, obj, s.spec.path, s.spec.one)
	updated := kit.Must(client.Put().Namespace(s.namespace).Resource(s.resource).Name("a").Body(typed(s, obj)).Do(s.Context()).Get())(s)
	obj = s.get("a")
	mustHave(s, obj, s.spec.path, s.spec.one)
	mustEqual(s, "the object updated", untyped(s, updated, s.gvk()), obj)
	got := kit.Must(client.Get().Namespace(s.namespace).Resource(s.resource).Name("a").Do(s.Context()).Get())(s)
	mustEqual(s, "the object", untyped(s, got, s.gvk()), obj)

	list := kit.Must(client.Get().Namespace(s.namespace).Resource(s.resource).Do(s.Context()).Get())(s)
	var items []*unstructured.Unstructured
	kit.Check(s, untyped(s, list, s.gv.WithKind(s.kind.kind+"List")).EachListItem(func(item runtime.Object) error {
		item.(*unstructured.Unstructured).SetGroupVersionKind(s.gvk())
		items = append(items, item.(*unstructured.Unstructured))
		return nil
	}))
	mustEqual(s, "the items of the list", items, []*unstructured.Unstructured{obj})
	if s.unwatched {
		return
	}
	w := kit.Must(client.Get().Namespace(s.namespace).Resource(s.resource).Param("watch", "true").Watch(s.Context()))(s)
	defer w.Stop()
	event := next(s, w)
	mustEqual(s, "the event", event.Type, watch.Added)
	mustEqual(s, "the object of the event", untyped(s, event.Object, s.gvk()), obj)
}

// protobufIsNeverRefused asks as the host's namespace and garbage collection controllers do: an answer of 406 would leave
// namespaces behind that never end.
func protobufIsNeverRefused(s *scene) {
	s.create("a")
	s.create("b")
	ask := func(method, path, accept string, code int) {
		s.Helper()
		answer := s.send(method, path, nil, "Accept", accept).must(s, code)
		if !bytes.HasPrefix(answer.body, []byte("k8s\x00")) || !strings.HasPrefix(answer.header.Get("Content-Type"), mediaProtobuf) {
			s.Errorf("%s %s: the answer is not protobuf, but %q: %q", method, path, answer.header.Get("Content-Type"), answer.body)
		}
	}
	const metadata = mediaProtobuf + ";as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
	ask(http.MethodGet, s.path(), mediaProtobuf, http.StatusOK)
	ask(http.MethodGet, s.path("a"), mediaProtobuf, http.StatusOK)
	ask(http.MethodGet, s.path("a"), metadata, http.StatusOK)
	ask(http.MethodGet, s.path(), strings.Replace(metadata, "Metadata", "MetadataList", 1), http.StatusOK)
	ask(http.MethodGet, s.path("absent"), mediaProtobuf, http.StatusNotFound)
	ask(http.MethodDelete, s.path("a"), mediaProtobuf, http.StatusOK)
	ask(http.MethodDelete, s.path(), mediaProtobuf, http.StatusOK)
	s.mustBeGone("b")
}
