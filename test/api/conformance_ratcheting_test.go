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
	"fmt"
	"strings"
	"testing"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/leat-dev/leat/test/kit"
)

// testRatcheting checks that a stored object with invalid fields can still be updated in other fields: an earlier
// version with weaker validation may have stored it. The test writes such objects to etcd.
func testRatcheting(t *testing.T, fx *fixture, versions []string) {
	etcd := fx.env.Etcd
	tls := kit.Must(transport.TLSInfo{CertFile: etcd.CertFile, KeyFile: etcd.KeyFile, TrustedCAFile: etcd.CAFile}.ClientConfig())(t)
	client := kit.Must(clientv3.New(clientv3.Config{Endpoints: []string{etcd.Endpoint}, TLS: tls, Context: t.Context()}))(t)
	t.Cleanup(func() { kit.Check(t, client.Close()) })
	for i := range conformanceKinds {
		for _, version := range versions {
			t.Run(conformanceKinds[i].resource+"-"+version, func(t *testing.T) { checkRatcheting(fx.newSubject(t, &conformanceKinds[i], version), client) })
		}
	}
}

func checkRatcheting(s *subject, etcd *clientv3.Client) {
	s.create("a")
	overwriteStored(s, etcd, "a", func(obj *unstructured.Unstructured) {
		setField(s, obj, s.spec.path, s.spec.invalid)
		if s.status.path != "" {
			setField(s, obj, s.status.path, s.status.invalid)
		}
	})
	obj := s.get("a")
	expectField(s, obj, s.spec.path, s.spec.invalid)
	obj.SetLabels(map[string]string{"a": "b"})
	obj = s.update(obj)
	expectField(s, obj, "metadata.labels", `{"a": "b"}`)
	obj = kit.Must(s.mergePatch("a", `{"metadata": {"annotations": {"a": "b"}}}`))(s)
	if s.status.path != "" {
		expectField(s, obj, s.status.path, s.status.invalid)
		obj = kit.Must(s.mergePatch("a", `{"status": {"conditions": [`+condition+`]}}`, "status"))(s)
		expectEqual(s, "status.conditions", s.clientConditions(obj), map[string]any{"Checked": parseJSON[any](s, condition)})
	}

	// A field that has become valid cannot become invalid.
	kit.Must(s.mergePatch("a", nestedJSON(s.spec.path, s.spec.one)))(s)
	_, err := s.mergePatch("a", nestedJSON(s.spec.path, s.spec.invalid))
	expectInvalid(s, err, s.spec.errorPath())
	if s.status.path != "" {
		kit.Must(s.mergePatch("a", nestedJSON(s.status.path, s.status.one), "status"))(s)
		_, err = s.mergePatch("a", nestedJSON(s.status.path, s.status.invalid), "status")
		expectInvalid(s, err, s.status.errorPath())
	}

	// The same holds for all other invalid fields.
	for i, bad := range s.invalid {
		name := fmt.Sprint("spec-", i)
		s.create(name)
		overwriteStored(s, etcd, name, func(obj *unstructured.Unstructured) { applyMergePatch(s, obj, bad.patch) })
		if _, err := s.mergePatch(name, `{"metadata": {"labels": {"a": "b"}}}`); err != nil {
			s.Errorf("update of an object that is stored with %s: %v", bad.patch, err)
		}
	}
	for i, bad := range s.invalidStatus {
		name := fmt.Sprint("status-", i)
		s.create(name)
		overwriteStored(s, etcd, name, func(obj *unstructured.Unstructured) { applyMergePatch(s, obj, bad.patch) })
		text := []byte(`{"status": {"conditions": [` + condition + `]}}`)
		if _, err := s.objects.Patch(s.Context(), name, types.StrategicMergePatchType, text, metav1.PatchOptions{}, "status"); err != nil {
			s.Errorf("update of an object that is stored with %s: %v", bad.patch, err)
		}
	}
}

// overwriteStored changes an object in etcd. It keeps the version and the encoding.
func overwriteStored(s *subject, etcd *clientv3.Client, name string, change func(*unstructured.Unstructured)) {
	s.Helper()
	stored := kit.Must(etcd.Get(s.Context(), "/leat/", clientv3.WithPrefix()))(s)
	for _, pair := range stored.Kvs {
		if !strings.HasSuffix(string(pair.Key), "/"+s.resource+"/"+s.namespace+"/"+name) {
			continue
		}
		decoded, gvk, err := codecs.UniversalDeserializer().Decode(pair.Value, nil, nil)
		kit.Check(s, err)
		obj := toUnstructured(s, decoded, *gvk)
		change(obj)
		protobuf, ok := runtime.SerializerInfoForMediaType(codecs.SupportedMediaTypes(), mediaProtobuf)
		if !ok {
			s.Fatal("protobuf is not a supported media type")
		}
		encoder := codecs.EncoderForVersion(protobuf.Serializer, gvk.GroupVersion())
		kit.Must(etcd.Put(s.Context(), string(pair.Key), string(kit.Must(runtime.Encode(encoder, toTyped(s, obj)))(s))))(s)
		return
	}
	s.Fatalf("etcd has no key of %s %s", s.resource, name)
}
