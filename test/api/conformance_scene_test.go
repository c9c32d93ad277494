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
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"path"
	"slices"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/diff"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/leat-dev/leat/test/kit"
)

const group = "batch.leat.dev"

// stage is an environment with a client that may do all in the group: the rules are about what the server does, not about who
// may do it.
type stage struct {
	env    *kit.Env
	config *rest.Config
	client dynamic.Interface
	http   *http.Client
}

func newStage(t *testing.T, e *kit.Env) *stage {
	config := e.Admin(t) // who, standalone, may do all
	if !e.Standalone() {
		config = e.Person(t, "conformance", "conformance")
		admin := kubernetes.NewForConfigOrDie(kit.Must(clientcmd.BuildConfigFromFlags("", e.Host.AdminKubeconfig))(t))
		kit.Must(admin.RbacV1().ClusterRoles().Create(t.Context(), &rbacv1.ClusterRole{
			ObjectMeta: metav1.ObjectMeta{Name: "conformance"},
			Rules:      []rbacv1.PolicyRule{{APIGroups: []string{group}, Resources: []string{"*"}, Verbs: []string{"*"}}},
		}, metav1.CreateOptions{}))(t)
		kit.Must(admin.RbacV1().ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: "conformance"},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "conformance"},
			Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: "conformance"}},
		}, metav1.CreateOptions{}))(t)
		e.AwaitGrant(t, "conformance", "conformance")
	}
	return &stage{env: e, config: config, client: kit.Must(dynamic.NewForConfig(config))(t), http: kit.Must(rest.HTTPClientFor(config))(t)}
}

// scene is a kind in one version, in a namespace of its own.
type scene struct {
	*testing.T
	*stage
	*kind
	gv        schema.GroupVersion
	namespace string
	// objects is the client of the kind.
	objects dynamic.ResourceInterface
}

func (st *stage) scene(t *testing.T, k *kind, version string) *scene {
	s := &scene{T: t, stage: st, kind: k, gv: schema.GroupVersion{Group: group, Version: version}, namespace: st.env.Namespace(t)}
	s.objects = st.client.Resource(s.gv.WithResource(k.resource)).Namespace(s.namespace)
	return s
}

// object gives the table's object under that name, with the patches applied.
func (s *scene) object(name string, patches ...string) *unstructured.Unstructured {
	obj := &unstructured.Unstructured{Object: parse[map[string]any](s.T, s.kind.object)}
	obj.SetGroupVersionKind(s.gv.WithKind(s.kind.kind))
	obj.SetName(name)
	for _, p := range patches {
		patch(s.T, obj, p)
	}
	return obj
}

// create creates what object gives.
func (s *scene) create(name string, patches ...string) *unstructured.Unstructured {
	s.Helper()
	return kit.Must(s.objects.Create(s.Context(), s.object(name, patches...), metav1.CreateOptions{}))(s)
}

func (s *scene) get(name string) *unstructured.Unstructured {
	s.Helper()
	return kit.Must(s.objects.Get(s.Context(), name, metav1.GetOptions{}))(s)
}

func (s *scene) update(obj *unstructured.Unstructured, subresources ...string) *unstructured.Unstructured {
	s.Helper()
	return kit.Must(s.objects.Update(s.Context(), obj, metav1.UpdateOptions{}, subresources...))(s)
}

// mustBeGone fails unless there is no object of that name.
func (s *scene) mustBeGone(name string) {
	s.Helper()
	_, err := s.objects.Get(s.Context(), name, metav1.GetOptions{})
	refused(s, err, http.StatusNotFound)
}

// path gives the path of a resource, an object or a subresource.
func (s *scene) path(elements ...string) string {
	return path.Join(append([]string{"/apis", s.gv.String(), "namespaces", s.namespace, s.resource}, elements...)...)
}

// response is the answer to a raw request.
type response struct {
	code   int
	header http.Header
	body   []byte
}

// send sends a request as it is. Header holds pairs of names and values.
func (s *scene) send(method, path string, body []byte, header ...string) response {
	s.Helper()
	request := kit.Must(http.NewRequestWithContext(s.Context(), method, s.config.Host+path, bytes.NewReader(body)))(s)
	for pair := range slices.Chunk(header, 2) {
		request.Header.Set(pair[0], pair[1])
	}
	answer := kit.Must(s.http.Do(request))(s)
	defer answer.Body.Close()
	return response{answer.StatusCode, answer.Header, kit.Must(io.ReadAll(answer.Body))(s)}
}

// must fails unless the request had that answer.
func (r response) must(t testing.TB, code int) response {
	t.Helper()
	if r.code != code {
		t.Fatalf("got %d, want %d: %s", r.code, code, r.body)
	}
	return r
}

// parse parses a JSON value.
func parse[T any](t testing.TB, text string) T {
	t.Helper()
	var value T
	if err := utiljson.Unmarshal([]byte(text), &value); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return value
}

// set sets the field at a path to a JSON value.
func set(t testing.TB, obj *unstructured.Unstructured, path, value string) {
	t.Helper()
	kit.Check(t, unstructured.SetNestedField(obj.Object, parse[any](t, value), strings.Split(path, ".")...))
}

// mustHave fails unless the field at a path has a JSON value.
func mustHave(t testing.TB, obj *unstructured.Unstructured, path, value string) {
	t.Helper()
	mustEqual(t, path, at(obj, path), parse[any](t, value))
}

// at gives the value at a path, nil if there is none.
func at(obj *unstructured.Unstructured, path string) any {
	value, _, _ := unstructured.NestedFieldNoCopy(obj.Object, strings.Split(path, ".")...)
	return value
}

// patch applies a JSON merge patch.
func patch(t testing.TB, obj *unstructured.Unstructured, text string) {
	t.Helper()
	merge(obj.Object, parse[map[string]any](t, text))
}

func merge(into, patch map[string]any) {
	for key, value := range patch {
		part, isMap := value.(map[string]any)
		old, wasMap := into[key].(map[string]any)
		switch {
		case value == nil:
			delete(into, key)
		case isMap && wasMap:
			merge(old, part)
		default:
			into[key] = value
		}
	}
}

func encode(t testing.TB, value any) []byte {
	t.Helper()
	return kit.Must(json.Marshal(value))(t)
}

// mustEqual fails with the difference, if there is one.
func mustEqual(t testing.TB, what string, got, want any) {
	t.Helper()
	if !apiequality.Semantic.DeepEqual(got, want) {
		t.Errorf("%s is not as wanted (- wanted, + got):\n%s", what, diff.Diff(want, got))
	}
}

// refused fails unless the answer was an error of that code whose text holds the words.
func refused(t testing.TB, err error, code int, words ...string) {
	t.Helper()
	var status apierrors.APIStatus
	if !errors.As(err, &status) || int(status.Status().Code) != code {
		t.Fatalf("got %v, want an answer of code %d", err, code)
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("the answer does not say %q: %v", word, err)
		}
	}
}

// invalid fails unless the answer was 422 and names the field, or, as the checks of labels and of lists do, an element of it.
func invalid(t testing.TB, err error, field string) {
	t.Helper()
	refused(t, err, http.StatusUnprocessableEntity)
	var status apierrors.APIStatus
	errors.As(err, &status)
	for _, cause := range status.Status().Details.Causes {
		if rest, ok := strings.CutPrefix(cause.Field, field); ok && (rest == "" || rest[0] == '[') {
			return
		}
	}
	t.Errorf("the answer does not name %s: %v", field, err)
}

// conflicting gives the fields that an answer of 409 names, in order, and fails if it names none.
func conflicting(t testing.TB, err error) []string {
	t.Helper()
	refused(t, err, http.StatusConflict)
	var status apierrors.APIStatus
	errors.As(err, &status)
	fields := map[string]bool{}
	for _, cause := range status.Status().Details.Causes {
		if cause.Type == metav1.CauseTypeFieldManagerConflict {
			fields[cause.Field] = true
		}
	}
	if len(fields) == 0 {
		t.Fatalf("the answer names no field that another manager has: %v", err)
	}
	return slices.Sorted(maps.Keys(fields))
}

// mergePatch applies a merge patch in the server.
func (s *scene) mergePatch(name, patch string, subresources ...string) (*unstructured.Unstructured, error) {
	return s.objects.Patch(s.Context(), name, types.MergePatchType, []byte(patch), metav1.PatchOptions{}, subresources...)
}
