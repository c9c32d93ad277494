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

	"github.com/leat-dev/leat/test/kit"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
)

// testRatcheting checks that an object which an earlier version let in, and this one would not, can still be changed elsewhere.
// Such an object is written into etcd, past the server.
func testRatcheting(t *testing.T, st *stage, versions []string) {
	etcd := st.env.Etcd
	tls := kit.Must(transport.TLSInfo{CertFile: etcd.CertFile, KeyFile: etcd.KeyFile, TrustedCAFile: etcd.CAFile}.ClientConfig())(t)
	client := kit.Must(clientv3.New(clientv3.Config{Endpoints: []string{etcd.Endpoint}, TLS: tls, Context: t.Context()}))(t)
	t.Cleanup(func() { kit.Check(t, client.Close()) })
	for i := range kinds {
		for _, version := range versions {
			t.Run(kinds[i].resource+"-"+version, func(t *testing.T) { ratchets(st.scene(t, &kinds[i], version), client) })
		}
	}
}

func ratchets(s *scene, etcd *clientv3.Client) {
	s.create("a")
	damage(s, etcd, "a", func(obj *unstructured.Unstructured) {
		set(s, obj, s.spec.path, s.spec.refused)
		if s.status.path != "" {
			set(s, obj, s.status.path, s.status.refused)
		}
	})
	obj := s.get("a")
	mustHave(s, obj, s.spec.path, s.spec.refused)
	obj.SetLabels(map[string]string{"a": "b"})
	obj = s.update(obj)
	mustHave(s, obj, "metadata.labels", `{"a": "b"}`)
	obj = kit.Must(s.mergePatch("a", `{"metadata": {"annotations": {"a": "b"}}}`))(s)
	if s.status.path != "" {
		mustHave(s, obj, s.status.path, s.status.refused)
		obj = kit.Must(s.mergePatch("a", `{"status": {"conditions": [`+condition+`]}}`, "status"))(s)
		mustEqual(s, "status.conditions", s.sent(obj), map[string]any{"Checked": parse[any](s, condition)})
	}

	// Once it is right it stays right.
	kit.Must(s.mergePatch("a", nested(s.spec.path, s.spec.one)))(s)
	_, err := s.mergePatch("a", nested(s.spec.path, s.spec.refused))
	invalid(s, err, s.spec.refusedPath())
	if s.status.path != "" {
		kit.Must(s.mergePatch("a", nested(s.status.path, s.status.one), "status"))(s)
		_, err = s.mergePatch("a", nested(s.status.path, s.status.refused), "status")
		invalid(s, err, s.status.refusedPath())
	}

	// So it is with all else that is refused.
	for i, refusal := range s.invalid {
		name := fmt.Sprint("spec-", i)
		s.create(name)
		damage(s, etcd, name, func(obj *unstructured.Unstructured) { patch(s, obj, refusal.patch) })
		if _, err := s.mergePatch(name, `{"metadata": {"labels": {"a": "b"}}}`); err != nil {
			s.Errorf("stored with %s: %v", refusal.patch, err)
		}
	}
	for i, refusal := range s.invalidStatus {
		name := fmt.Sprint("status-", i)
		s.create(name)
		damage(s, etcd, name, func(obj *unstructured.Unstructured) { patch(s, obj, refusal.patch) })
		text := []byte(`{"status": {"conditions": [` + condition + `]}}`)
		if _, err := s.objects.Patch(s.Context(), name, types.StrategicMergePatchType, text, metav1.PatchOptions{}, "status"); err != nil {
			s.Errorf("stored with %s: %v", refusal.patch, err)
		}
	}
}

// damage changes an object where it is stored, in the version and the form it is stored in.
func damage(s *scene, etcd *clientv3.Client, name string, change func(*unstructured.Unstructured)) {
	s.Helper()
	stored := kit.Must(etcd.Get(s.Context(), "/leat/", clientv3.WithPrefix()))(s)
	for _, pair := range stored.Kvs {
		if !strings.HasSuffix(string(pair.Key), "/"+s.resource+"/"+s.namespace+"/"+name) {
			continue
		}
		decoded, gvk, err := codecs.UniversalDeserializer().Decode(pair.Value, nil, nil)
		kit.Check(s, err)
		obj := untyped(s, decoded, *gvk)
		change(obj)
		protobuf, ok := runtime.SerializerInfoForMediaType(codecs.SupportedMediaTypes(), mediaProtobuf)
		if !ok {
			s.Fatal("the codecs do not know protobuf")
		}
		encoder := codecs.EncoderForVersion(protobuf.Serializer, gvk.GroupVersion())
		kit.Must(etcd.Put(s.Context(), string(pair.Key), string(kit.Must(runtime.Encode(encoder, typed(s, obj)))(s))))(s)
		return
	}
	s.Fatalf("etcd holds no %s of the name %s", s.resource, name)
}
