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

	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit"
)

const group = "batch.leat.dev"

// fixture is an environment with clients of a user who may do everything in the API group: the rules do not test
// authorization.
type fixture struct {
	env    *kit.Env
	config *rest.Config
	client dynamic.Interface
	http   *http.Client
}

func newFixture(t *testing.T, e *kit.Env) *fixture {
	config := e.Admin(t) // in standalone mode, administrators may do everything
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
	return &fixture{env: e, config: config, client: kit.Must(dynamic.NewForConfig(config))(t), http: kit.Must(rest.HTTPClientFor(config))(t)}
}

// subject is a kind in one version, with a namespace of its own.
type subject struct {
	*testing.T
	*fixture
	*kind
	gv        schema.GroupVersion
	namespace string
	// objects is the client of the kind.
	objects dynamic.ResourceInterface
}

func (fx *fixture) newSubject(t *testing.T, k *kind, version string) *subject {
	s := &subject{T: t, fixture: fx, kind: k, gv: schema.GroupVersion{Group: group, Version: version}, namespace: fx.env.Namespace(t)}
	s.objects = fx.client.Resource(s.gv.WithResource(k.resource)).Namespace(s.namespace)
	return s
}

// object returns the object of the table with a name and patches.
func (s *subject) object(name string, patches ...string) *unstructured.Unstructured {
	obj := &unstructured.Unstructured{Object: parseJSON[map[string]any](s.T, s.kind.object)}
	obj.SetGroupVersionKind(s.gv.WithKind(s.kind.kind))
	obj.SetName(name)
	for _, p := range patches {
		applyMergePatch(s.T, obj, p)
	}
	return obj
}

// create creates the object that the method object returns.
func (s *subject) create(name string, patches ...string) *unstructured.Unstructured {
	s.Helper()
	return kit.Must(s.objects.Create(s.Context(), s.object(name, patches...), metav1.CreateOptions{}))(s)
}

func (s *subject) get(name string) *unstructured.Unstructured {
	s.Helper()
	return kit.Must(s.objects.Get(s.Context(), name, metav1.GetOptions{}))(s)
}

func (s *subject) update(obj *unstructured.Unstructured, subresources ...string) *unstructured.Unstructured {
	s.Helper()
	return kit.Must(s.objects.Update(s.Context(), obj, metav1.UpdateOptions{}, subresources...))(s)
}

// expectNotFound checks that the object does not exist.
func (s *subject) expectNotFound(name string) {
	s.Helper()
	_, err := s.objects.Get(s.Context(), name, metav1.GetOptions{})
	expectError(s, err, http.StatusNotFound)
}

// path returns the URL path of the resource, an object or a subresource.
func (s *subject) path(elements ...string) string {
	return path.Join(append([]string{"/apis", s.gv.String(), "namespaces", s.namespace, s.resource}, elements...)...)
}

// response is the response to a raw request.
type response struct {
	code   int
	header http.Header
	body   []byte
}

// send sends a raw request. The header is a list of names and values.
func (s *subject) send(method, path string, body []byte, header ...string) response {
	s.Helper()
	request := kit.Must(http.NewRequestWithContext(s.Context(), method, s.config.Host+path, bytes.NewReader(body)))(s)
	for pair := range slices.Chunk(header, 2) {
		request.Header.Set(pair[0], pair[1])
	}
	resp := kit.Must(s.http.Do(request))(s)
	defer resp.Body.Close()
	return response{resp.StatusCode, resp.Header, kit.Must(io.ReadAll(resp.Body))(s)}
}

// expect fails the test at once if the response has another status code.
func (r response) expect(t testing.TB, code int) response {
	t.Helper()
	if r.code != code {
		t.Fatalf("got %d, want %d: %s", r.code, code, r.body)
	}
	return r
}

// parseJSON decodes a JSON value.
func parseJSON[T any](t testing.TB, text string) T {
	t.Helper()
	var value T
	if err := utiljson.Unmarshal([]byte(text), &value); err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return value
}

// setField sets a field to a JSON value.
func setField(t testing.TB, obj *unstructured.Unstructured, path, value string) {
	t.Helper()
	kit.Check(t, unstructured.SetNestedField(obj.Object, parseJSON[any](t, value), strings.Split(path, ".")...))
}

// expectField checks that a field has a JSON value.
func expectField(t testing.TB, obj *unstructured.Unstructured, path, value string) {
	t.Helper()
	expectEqual(t, path, fieldAt(obj, path), parseJSON[any](t, value))
}

// fieldAt returns the value of a field, nil if it is not set. Labels and annotations are those without the creator,
// which only tasks and task sets have.
func fieldAt(obj *unstructured.Unstructured, path string) any {
	value, _, _ := unstructured.NestedFieldNoCopy(obj.Object, strings.Split(path, ".")...)
	if values, ok := value.(map[string]any); ok && (path == "metadata.labels" || path == "metadata.annotations") {
		values = maps.Clone(values)
		delete(values, v1alpha1.LabelCreator)
		delete(values, v1alpha1.AnnotationCreatedBy)
		if len(values) == 0 {
			return nil
		}
		return values
	}
	return value
}

// applyMergePatch applies a JSON merge patch locally.
func applyMergePatch(t testing.TB, obj *unstructured.Unstructured, text string) {
	t.Helper()
	mergeMaps(obj.Object, parseJSON[map[string]any](t, text))
}

func mergeMaps(into, patch map[string]any) {
	for key, value := range patch {
		part, isMap := value.(map[string]any)
		old, wasMap := into[key].(map[string]any)
		switch {
		case value == nil:
			delete(into, key)
		case isMap && wasMap:
			mergeMaps(old, part)
		default:
			into[key] = value
		}
	}
}

func encodeJSON(t testing.TB, value any) []byte {
	t.Helper()
	return kit.Must(json.Marshal(value))(t)
}

// expectEqual reports the difference between two values, if there is one.
func expectEqual(t testing.TB, what string, got, want any) {
	t.Helper()
	if !apiequality.Semantic.DeepEqual(got, want) {
		t.Errorf("%s differs (- want, + got):\n%s", what, diff.Diff(want, got))
	}
}

// expectError fails the test at once if err is not a Status with the code. It also checks that the text has the words.
func expectError(t testing.TB, err error, code int, words ...string) {
	t.Helper()
	var status apierrors.APIStatus
	if !errors.As(err, &status) || int(status.Status().Code) != code {
		t.Fatalf("got %v, want an error of code %d", err, code)
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("got an error without %q: %v", word, err)
		}
	}
}

// expectInvalid checks that err has code 422 and names the field or an element of it, as validation of labels and lists
// does.
func expectInvalid(t testing.TB, err error, field string) {
	t.Helper()
	expectError(t, err, http.StatusUnprocessableEntity)
	var status apierrors.APIStatus
	errors.As(err, &status)
	for _, cause := range status.Status().Details.Causes {
		if rest, ok := strings.CutPrefix(cause.Field, field); ok && (rest == "" || rest[0] == '[') {
			return
		}
	}
	t.Errorf("got an error that does not name %s: %v", field, err)
}

// conflictingFields returns the fields that an apply conflict names, in order. It fails the test at once if err is not
// an apply conflict.
func conflictingFields(t testing.TB, err error) []string {
	t.Helper()
	expectError(t, err, http.StatusConflict)
	var status apierrors.APIStatus
	errors.As(err, &status)
	fields := map[string]bool{}
	for _, cause := range status.Status().Details.Causes {
		if cause.Type == metav1.CauseTypeFieldManagerConflict {
			fields[cause.Field] = true
		}
	}
	if len(fields) == 0 {
		t.Fatalf("got an error that names no conflicting field: %v", err)
	}
	return slices.Sorted(maps.Keys(fields))
}

// mergePatch sends a JSON merge patch to the server.
func (s *subject) mergePatch(name, patch string, subresources ...string) (*unstructured.Unstructured, error) {
	return s.objects.Patch(s.Context(), name, types.MergePatchType, []byte(patch), metav1.PatchOptions{}, subresources...)
}
