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
	"github.com/leat-dev/leat/test/kit"
)

// encodingRules are the rules of media types, in requests and responses.
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

// codecs are the codecs of all served types.
var codecs = func() serializer.CodecFactory {
	served := runtime.NewScheme()
	utilruntime.Must(scheme.AddToScheme(served))
	utilruntime.Must(autoscalingv1.AddToScheme(served))
	metav1.AddToGroupVersion(served, schema.GroupVersion{Version: "v1"})
	return serializer.NewCodecFactory(served)
}()

// protobuf returns a client of typed objects that sends and accepts only protobuf.
func (s *subject) protobuf() *rest.RESTClient {
	s.Helper()
	config := rest.CopyConfig(s.config)
	config.APIPath, config.GroupVersion = "/apis", &s.gv
	config.ContentType, config.AcceptContentTypes = mediaProtobuf, mediaProtobuf
	config.NegotiatedSerializer = codecs.WithoutConversion()
	return kit.Must(rest.RESTClientFor(config))(s)
}

// toTyped converts an unstructured object to its Go type.
func toTyped(s *subject, obj *unstructured.Unstructured) runtime.Object {
	s.Helper()
	return kit.Must(runtime.Decode(codecs.UniversalDeserializer(), encodeJSON(s, obj)))(s)
}

// toUnstructured converts a typed object.
func toUnstructured(s *subject, obj runtime.Object, gvk schema.GroupVersionKind) *unstructured.Unstructured {
	s.Helper()
	obj.GetObjectKind().SetGroupVersionKind(gvk)
	out := &unstructured.Unstructured{}
	kit.Check(s, out.UnmarshalJSON(encodeJSON(s, obj)))
	return out
}

func (s *subject) gvk() schema.GroupVersionKind { return s.gv.WithKind(s.kind.kind) }

// parseYAML decodes a response that must be YAML.
func parseYAML(s *subject, r response) *unstructured.Unstructured {
	s.Helper()
	expectEqual(s, "the content type", r.header.Get("Content-Type"), mediaYAML)
	obj := &unstructured.Unstructured{}
	kit.Check(s, obj.UnmarshalJSON(kit.Must(yaml.YAMLToJSONStrict(r.body))(s)))
	return obj
}

func speaksYAML(s *subject) {
	text := kit.Must(yaml.Marshal(s.object("a").Object))(s)
	created := parseYAML(s, s.send(http.MethodPost, s.path(), text, "Content-Type", mediaYAML, "Accept", mediaYAML).expect(s, http.StatusCreated))
	expectEqual(s, "the created object", created, s.get("a"))
	setField(s, created, s.spec.path, s.spec.one)
	text = kit.Must(yaml.Marshal(created.Object))(s)
	updated := parseYAML(s, s.send(http.MethodPut, s.path("a"), text, "Content-Type", mediaYAML, "Accept", mediaYAML).expect(s, http.StatusOK))
	expectField(s, updated, s.spec.path, s.spec.one)
	expectEqual(s, "the object", parseYAML(s, s.send(http.MethodGet, s.path("a"), nil, "Accept", mediaYAML).expect(s, http.StatusOK)), updated)
	list := s.send(http.MethodGet, s.path(), nil, "Accept", mediaYAML).expect(s, http.StatusOK)
	expectEqual(s, "the kind of the list", parseYAML(s, list).GetKind(), s.kind.kind+"List")
}

func speaksProtobuf(s *subject) {
	client := s.protobuf()
	created := kit.Must(client.Post().Namespace(s.namespace).Resource(s.resource).Body(toTyped(s, s.object("a"))).Do(s.Context()).Get())(s)
	expectEqual(s, "the created object", toUnstructured(s, created, s.gvk()), s.get("a"))
	obj := s.get("a")
	setField(s, obj, s.spec.path, s.spec.one)
	updated := kit.Must(client.Put().Namespace(s.namespace).Resource(s.resource).Name("a").Body(toTyped(s, obj)).Do(s.Context()).Get())(s)
	obj = s.get("a")
	expectField(s, obj, s.spec.path, s.spec.one)
	expectEqual(s, "the updated object", toUnstructured(s, updated, s.gvk()), obj)
	got := kit.Must(client.Get().Namespace(s.namespace).Resource(s.resource).Name("a").Do(s.Context()).Get())(s)
	expectEqual(s, "the object", toUnstructured(s, got, s.gvk()), obj)

	list := kit.Must(client.Get().Namespace(s.namespace).Resource(s.resource).Do(s.Context()).Get())(s)
	var items []*unstructured.Unstructured
	kit.Check(s, toUnstructured(s, list, s.gv.WithKind(s.kind.kind+"List")).EachListItem(func(item runtime.Object) error {
		item.(*unstructured.Unstructured).SetGroupVersionKind(s.gvk())
		items = append(items, item.(*unstructured.Unstructured))
		return nil
	}))
	expectEqual(s, "the items of the list", items, []*unstructured.Unstructured{obj})
	if s.unwatched {
		return
	}
	w := kit.Must(client.Get().Namespace(s.namespace).Resource(s.resource).Param("watch", "true").Watch(s.Context()))(s)
	defer w.Stop()
	event := nextEvent(s, w)
	expectEqual(s, "the event", event.Type, watch.Added)
	expectEqual(s, "the object of the event", toUnstructured(s, event.Object, s.gvk()), obj)
}

// protobufIsNeverRefused sends the requests of the host's namespace controller and garbage collector. With 406 in
// response, namespaces would never be deleted.
func protobufIsNeverRefused(s *subject) {
	s.create("a")
	s.create("b")
	request := func(method, path, accept string, code int) {
		s.Helper()
		resp := s.send(method, path, nil, "Accept", accept).expect(s, code)
		if !bytes.HasPrefix(resp.body, []byte("k8s\x00")) || !strings.HasPrefix(resp.header.Get("Content-Type"), mediaProtobuf) {
			s.Errorf("%s %s: got content type %q, want protobuf: %q", method, path, resp.header.Get("Content-Type"), resp.body)
		}
	}
	const metadata = mediaProtobuf + ";as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
	request(http.MethodGet, s.path(), mediaProtobuf, http.StatusOK)
	request(http.MethodGet, s.path("a"), mediaProtobuf, http.StatusOK)
	request(http.MethodGet, s.path("a"), metadata, http.StatusOK)
	request(http.MethodGet, s.path(), strings.Replace(metadata, "Metadata", "MetadataList", 1), http.StatusOK)
	request(http.MethodGet, s.path("absent"), mediaProtobuf, http.StatusNotFound)
	request(http.MethodDelete, s.path("a"), mediaProtobuf, http.StatusOK)
	request(http.MethodDelete, s.path(), mediaProtobuf, http.StatusOK)
	s.expectNotFound("b")
}
