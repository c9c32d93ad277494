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
	"net/http"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"

	"github.com/leat-dev/leat/test/kit"
)

// writeRules are the rules of create, update and patch of the main resource.
var writeRules = []rule{
	{name: "create sets system fields", check: createSetsSystemFields},
	{name: "invalid objects are refused", check: invalidObjectsAreRefused},
	{name: "invalid changes are refused", check: invalidChangesAreRefused},
	{name: "immutable fields", check: immutableFields, appliesTo: func(k *kind) bool { return len(k.immutable) > 0 }},
	{name: "names", check: namesAreValidated},
	{name: "generateName", check: generateName},
	{name: "generation", check: generation},
	{name: "updates without changes write nothing", check: emptyUpdateWritesNothing},
	{name: "updates do not create", check: updatesDoNotCreate},
	{name: "updates check resourceVersion and UID", check: updateChecksVersionAndUID},
	{name: "updates without resourceVersion overwrite", check: unconditionalUpdate},
	{name: "owner references", check: ownerReferences},
	{name: "exported objects can be created", check: exportedObjectsCanBeCreated},
	{name: "dry run", check: dryRun},
	{name: "unknown fields", check: unknownFields},
	{name: "patches", check: patches},
}

func createSetsSystemFields(s *subject) {
	sent := s.object("a", `{"metadata": {
		"uid": "mine", "generation": 7, "creationTimestamp": "2020-01-01T00:00:00Z", "selfLink": "/mine",
		"deletionTimestamp": "2020-01-01T00:00:00Z", "deletionGracePeriodSeconds": 1,
		"labels": {"a": "b"}, "annotations": {"a": "b"}
	}}`)
	created := kit.Must(s.objects.Create(s.Context(), sent, metav1.CreateOptions{}))(s)
	if created.GetUID() == "mine" || created.GetUID() == "" {
		s.Errorf("got metadata.uid %q, want a new one", created.GetUID())
	}
	if year := created.GetCreationTimestamp().Year(); year < 2025 {
		s.Errorf("got metadata.creationTimestamp in %d, want the current time", year)
	}
	expectField(s, created, "metadata.generation", `1`)
	for _, field := range []string{"selfLink", "deletionTimestamp", "deletionGracePeriodSeconds"} {
		expectEqual(s, "metadata."+field, fieldAt(created, "metadata."+field), nil)
	}
	expectField(s, created, "metadata.labels", `{"a": "b"}`)
	expectField(s, created, "metadata.annotations", `{"a": "b"}`)
	expectEqual(s, "the stored object", s.get("a"), created)

	_, err := s.objects.Create(s.Context(), s.object("a"), metav1.CreateOptions{})
	expectError(s, err, http.StatusConflict, `"a" already exists`)
	versioned := s.object("b")
	versioned.SetResourceVersion("1")
	if _, err = s.objects.Create(s.Context(), versioned, metav1.CreateOptions{}); err == nil || !strings.Contains(err.Error(), "resourceVersion") {
		s.Errorf("create with resourceVersion: got %v, want an error that names it", err)
	}
	s.expectNotFound("b")
}

// exportedObjectsCanBeCreated checks that an object that components have written can be exported, deleted, and created
// and updated from the export. "kubectl replace --force" and backup tools do that.
func exportedObjectsCanBeCreated(s *subject) {
	s.create("a")
	if s.populate != nil {
		s.populate(s, "a")
	}
	if s.status.path != "" {
		kit.Must(s.mergePatch("a", nestedJSON(s.status.path, s.status.one), "status"))(s)
	}
	text := kit.Must(yaml.Marshal(s.get("a").Object))(s)
	export := func() *unstructured.Unstructured {
		obj := &unstructured.Unstructured{}
		kit.Check(s, yaml.Unmarshal(text, &obj.Object))
		return obj
	}
	kit.Check(s, s.objects.Delete(s.Context(), "a", metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)}))
	s.expectNotFound("a")

	exported := export()
	exported.SetResourceVersion("")
	created := kit.Must(s.objects.Create(s.Context(), exported, metav1.CreateOptions{}))(s)
	// The server resets the worker. The selector has the new UID.
	want := export()
	unstructured.RemoveNestedField(want.Object, "spec", "workerName")
	expectEqual(s, "the spec", fieldAt(created, "spec"), parseJSON[any](s, strings.ReplaceAll(string(encodeJSON(s, fieldAt(want, "spec"))), string(want.GetUID()), string(created.GetUID()))))
	if s.status.path != "" {
		expectEqual(s, s.status.path, fieldAt(created, s.status.path), nil)
	}

	exported = export()
	exported.SetUID("")
	exported.SetResourceVersion("")
	updated := kit.Must(s.objects.Update(s.Context(), exported, metav1.UpdateOptions{}))(s)
	for _, path := range []string{"spec", "status", "metadata.generation"} {
		expectEqual(s, path+" after the update", fieldAt(updated, path), fieldAt(created, path))
	}
}

func invalidObjectsAreRefused(s *subject) {
	for _, bad := range s.invalid {
		_, err := s.objects.Create(s.Context(), s.object("a", bad.patch), metav1.CreateOptions{})
		expectInvalid(s, err, bad.field)
	}
	obj := s.object("a")
	setField(s, obj, s.spec.path, s.spec.invalid)
	_, err := s.objects.Create(s.Context(), obj, metav1.CreateOptions{})
	expectInvalid(s, err, s.spec.errorPath())
	_, err = s.objects.Create(s.Context(), s.object("a", `{"metadata": {"labels": {"not valid": ""}}}`), metav1.CreateOptions{})
	expectInvalid(s, err, "metadata.labels")
	_, err = s.objects.Create(s.Context(), s.object("a", `{"metadata": {"annotations": {"not valid": ""}}}`), metav1.CreateOptions{})
	expectInvalid(s, err, "metadata.annotations")
	s.expectNotFound("a")
}

func invalidChangesAreRefused(s *subject) {
	created := s.create("a")
	obj := created.DeepCopy()
	setField(s, obj, s.spec.path, s.spec.invalid)
	_, err := s.objects.Update(s.Context(), obj, metav1.UpdateOptions{})
	expectInvalid(s, err, s.spec.errorPath())
	_, err = s.mergePatch("a", nestedJSON(s.spec.path, s.spec.invalid))
	expectInvalid(s, err, s.spec.errorPath())
	_, err = s.mergePatch("a", `{"metadata": {"labels": {"not valid": ""}}}`)
	expectInvalid(s, err, "metadata.labels")
	expectEqual(s, "the stored object", s.get("a"), created)
}

func immutableFields(s *subject) {
	created := s.create("a")
	for _, bad := range s.immutable {
		obj := created.DeepCopy()
		applyMergePatch(s, obj, bad.patch)
		_, err := s.objects.Update(s.Context(), obj, metav1.UpdateOptions{})
		expectInvalid(s, err, bad.field)
		_, err = s.mergePatch("a", bad.patch)
		expectInvalid(s, err, bad.field)
		if strings.Contains(err.Error(), "immutable") && !strings.Contains(err.Error(), "must stay ") {
			s.Errorf("got an error without the stored value: %v", err)
		}
	}
	expectEqual(s, "the stored object", s.get("a"), created)
}

func namesAreValidated(s *subject) {
	longest := 253
	if s.dnsLabelNames {
		longest = 63
		_, err := s.objects.Create(s.Context(), s.object("a.b"), metav1.CreateOptions{})
		expectInvalid(s, err, "metadata.name")
	} else {
		s.create("a.b")
	}
	s.create(strings.Repeat("a", longest))
	for _, name := range []string{strings.Repeat("a", longest+1), "Upper", "-a", "a_b", "a b"} {
		_, err := s.objects.Create(s.Context(), s.object(name), metav1.CreateOptions{})
		expectInvalid(s, err, "metadata.name")
	}
	_, err := s.objects.Create(s.Context(), s.object(""), metav1.CreateOptions{})
	expectInvalid(s, err, "metadata.name")

	elsewhere := s.object("a", `{"metadata": {"namespace": "elsewhere"}}`)
	_, err = s.objects.Create(s.Context(), elsewhere, metav1.CreateOptions{})
	expectError(s, err, http.StatusBadRequest, "namespace")
	s.create("c")
	s.send(http.MethodPut, s.path("c"), encodeJSON(s, s.object("d")), "Content-Type", mediaJSON).expect(s, http.StatusBadRequest)
}

func generateName(s *subject) {
	obj := s.object("", `{"metadata": {"generateName": "made-"}}`)
	seen := map[string]bool{}
	for range 3 {
		name := kit.Must(s.objects.Create(s.Context(), obj, metav1.CreateOptions{}))(s).GetName()
		if rest, ok := strings.CutPrefix(name, "made-"); !ok || len(rest) != 5 || seen[name] {
			s.Errorf("got the name %q, want a new one: made- and five characters", name)
		}
		seen[name] = true
	}
	obj.SetGenerateName("Not valid")
	_, err := s.objects.Create(s.Context(), obj, metav1.CreateOptions{})
	expectInvalid(s, err, "metadata.name") // the generated name is validated
}

func generation(s *subject) {
	obj := s.create("a")
	expectField(s, obj, "metadata.generation", `1`)
	setField(s, obj, s.spec.path, s.spec.one)
	obj = s.update(obj)
	expectField(s, obj, s.spec.path, s.spec.one)
	expectField(s, obj, "metadata.generation", `2`)
	applyMergePatch(s, obj, `{"metadata": {"labels": {"a": "b"}, "annotations": {"a": "b"}, "finalizers": ["example.com/hold"]}}`)
	obj = s.update(obj)
	expectField(s, obj, "metadata.labels", `{"a": "b"}`)
	expectField(s, obj, "metadata.generation", `2`)
	obj.SetGeneration(9)
	expectField(s, s.update(obj), "metadata.generation", `2`)
	expectField(s, kit.Must(s.mergePatch("a", nestedJSON(s.spec.path, s.spec.two)))(s), "metadata.generation", `3`)
}

func emptyUpdateWritesNothing(s *subject) {
	obj := s.create("a")
	expectEqual(s, "the object", s.update(obj), obj)
	expectEqual(s, "the object", kit.Must(s.mergePatch("a", `{}`))(s), obj)
	if s.status.path != "" {
		expectEqual(s, "the object", s.update(obj, "status"), obj)
	}
}

func updatesDoNotCreate(s *subject) {
	obj := s.object("a")
	_, err := s.objects.Update(s.Context(), obj, metav1.UpdateOptions{})
	expectError(s, err, http.StatusNotFound, `"a" not found`)
	obj.SetResourceVersion("1")
	_, err = s.objects.Update(s.Context(), obj, metav1.UpdateOptions{})
	expectError(s, err, http.StatusNotFound)
	_, err = s.mergePatch("a", `{}`)
	expectError(s, err, http.StatusNotFound)
	s.expectNotFound("a")
}

func updateChecksVersionAndUID(s *subject) {
	old := s.create("a")
	obj := old.DeepCopy()
	obj.SetLabels(map[string]string{"a": "b"})
	obj = s.update(obj)
	_, err := s.objects.Update(s.Context(), old, metav1.UpdateOptions{})
	expectError(s, err, http.StatusConflict)
	_, err = s.mergePatch("a", `{"metadata": {"labels": {"a": "c"}, "resourceVersion": "`+old.GetResourceVersion()+`"}}`)
	expectError(s, err, http.StatusConflict)
	other := obj.DeepCopy()
	other.SetUID("another")
	_, err = s.objects.Update(s.Context(), other, metav1.UpdateOptions{})
	expectError(s, err, http.StatusConflict, "UID")
	expectEqual(s, "the stored object", s.get("a"), obj)
}

func unconditionalUpdate(s *subject) {
	obj := s.create("a")
	obj.SetLabels(map[string]string{"a": "b"})
	obj.SetResourceVersion("")
	expectField(s, s.update(obj), "metadata.labels", `{"a": "b"}`)
}

func ownerReferences(s *subject) {
	owners := `[{"apiVersion": "batch.leat.dev/v1alpha1", "kind": "TaskSet", "name": "owner", "uid": "u", "controller": true, "blockOwnerDeletion": true}]`
	created := s.create("a", `{"metadata": {"ownerReferences": `+owners+`}}`)
	expectField(s, created, "metadata.ownerReferences", owners)
	s.create("b")
	expectField(s, kit.Must(s.mergePatch("b", `{"metadata": {"ownerReferences": `+owners+`}}`))(s), "metadata.ownerReferences", owners)

	for field, bad := range map[string]string{
		"metadata.ownerReferences[0].uid":        `[{"apiVersion": "v1", "kind": "Pod", "name": "p"}]`,
		"metadata.ownerReferences[0].name":       `[{"apiVersion": "v1", "kind": "Pod", "uid": "u"}]`,
		"metadata.ownerReferences[0].kind":       `[{"apiVersion": "v1", "name": "p", "uid": "u"}]`,
		"metadata.ownerReferences[0].apiVersion": `[{"kind": "Pod", "name": "p", "uid": "u"}]`,
		"metadata.ownerReferences": `[{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", "controller": true},
			{"apiVersion": "v1", "kind": "Pod", "name": "q", "uid": "v", "controller": true}]`,
	} {
		_, err := s.objects.Create(s.Context(), s.object("c", `{"metadata": {"ownerReferences": `+bad+`}}`), metav1.CreateOptions{})
		expectInvalid(s, err, field)
	}
}

func dryRun(s *subject) {
	all := []string{metav1.DryRunAll}
	created := kit.Must(s.objects.Create(s.Context(), s.object("new"), metav1.CreateOptions{DryRun: all}))(s)
	if created.GetUID() == "" {
		s.Error("got no uid, want the object that would have been created")
	}
	s.expectNotFound("new")
	applied := kit.Must(s.objects.Apply(s.Context(), "new", s.object("new"), metav1.ApplyOptions{FieldManager: "one", DryRun: all}))(s)
	expectField(s, applied, "metadata.generation", `1`)
	s.expectNotFound("new")

	stored := s.create("a", `{"metadata": {"labels": {"a": "b"}}}`)
	changed := stored.DeepCopy()
	setField(s, changed, s.spec.path, s.spec.one)
	expectField(s, kit.Must(s.objects.Update(s.Context(), changed, metav1.UpdateOptions{DryRun: all}))(s), s.spec.path, s.spec.one)
	for _, kind := range []types.PatchType{types.MergePatchType, types.StrategicMergePatchType} {
		patched := kit.Must(s.objects.Patch(s.Context(), "a", kind, []byte(nestedJSON(s.spec.path, s.spec.one)), metav1.PatchOptions{DryRun: all}))(s)
		expectField(s, patched, s.spec.path, s.spec.one)
	}
	changed = s.object("a")
	setField(s, changed, s.spec.path, s.spec.one)
	force := metav1.ApplyOptions{FieldManager: "one", Force: true, DryRun: all}
	expectField(s, kit.Must(s.objects.Apply(s.Context(), "a", changed, force))(s), s.spec.path, s.spec.one)
	kit.Check(s, s.objects.Delete(s.Context(), "a", metav1.DeleteOptions{DryRun: all}))
	kit.Check(s, s.objects.DeleteCollection(s.Context(), metav1.DeleteOptions{DryRun: all}, metav1.ListOptions{}))
	expectEqual(s, "the stored object", s.get("a"), stored)

	// A dry run fails as the request would.
	setField(s, changed, s.spec.path, s.spec.invalid)
	_, err := s.objects.Create(s.Context(), changed, metav1.CreateOptions{DryRun: all})
	expectError(s, err, http.StatusUnprocessableEntity)
}

func unknownFields(s *subject) {
	object := func(name string) []byte { return encodeJSON(s, s.object(name, `{"spec": {"bogus": 1}}`)) }
	twice := func(name string) []byte {
		return []byte(strings.Replace(string(encodeJSON(s, s.object(name))), `"metadata":{`, `"metadata":{"name":"`+name+`",`, 1))
	}
	const strict, warn, ignore = "?fieldValidation=Strict", "?fieldValidation=Warn", "?fieldValidation=Ignore"
	for kind, c := range map[string]struct {
		body func(name string) []byte
		want string
	}{
		"unknown": {object, `unknown field "spec.bogus"`},
		"twice":   {twice, `duplicate field "metadata.name"`},
	} {
		post := func(name, query string, code int) (body, warnings string) {
			s.Helper()
			resp := s.send(http.MethodPost, s.path()+query, c.body(name), "Content-Type", mediaJSON).expect(s, code)
			unquote := strings.NewReplacer(`\`, "")
			return unquote.Replace(string(resp.body)), unquote.Replace(strings.Join(resp.header.Values("Warning"), "\n"))
		}
		if body, _ := post("strict", strict, http.StatusBadRequest); !strings.Contains(body, c.want) {
			s.Errorf("got an error without %s: %s", c.want, body)
		}
		if _, warnings := post("warn-"+kind, warn, http.StatusCreated); !strings.Contains(warnings, c.want) {
			s.Errorf("got warnings without %s: %s", c.want, warnings)
		}
		if _, warnings := post("ignore-"+kind, ignore, http.StatusCreated); warnings != "" {
			s.Errorf("got warnings, want none: %s", warnings)
		}
	}
	s.expectNotFound("strict")

	s.create("a")
	for _, request := range []struct{ method, content, body string }{
		{http.MethodPut, mediaJSON, string(object("a"))},
		{http.MethodPatch, string(types.MergePatchType), `{"spec": {"bogus": 1}}`},
		{http.MethodPatch, string(types.StrategicMergePatchType), `{"spec": {"bogus": 1}}`},
		{http.MethodPatch, string(types.JSONPatchType), `[{"op": "add", "path": "/spec/bogus", "value": 1}]`},
		// Apply always validates against the schema. As in Kubernetes, the error has code 500.
		{http.MethodPatch, string(types.ApplyYAMLPatchType), string(object("a"))},
	} {
		path := s.path("a") + strict
		if request.content == string(types.ApplyYAMLPatchType) {
			path += "&fieldManager=one&force=true"
		}
		resp := s.send(request.method, path, []byte(request.body), "Content-Type", request.content)
		if resp.code < 400 || !strings.Contains(string(resp.body), "spec.bogus") {
			s.Errorf("%s %s: got %d, want an error that names spec.bogus: %s", request.method, request.content, resp.code, resp.body)
		}
	}
	expectEqual(s, "spec.bogus", fieldAt(s.get("a"), "spec.bogus"), nil)
}

func patches(s *subject) {
	s.create("a", `{"metadata": {"labels": {"a": "b", "c": "d"}, "finalizers": ["example.com/one"]}}`)
	apply := func(kind types.PatchType, text string) *unstructured.Unstructured {
		s.Helper()
		return kit.Must(s.objects.Patch(s.Context(), "a", kind, []byte(text), metav1.PatchOptions{}))(s)
	}
	obj := apply(types.JSONPatchType, `[{"op": "test", "path": "/metadata/labels/a", "value": "b"}, {"op": "replace", "path": "/metadata/labels/a", "value": "json"}]`)
	expectField(s, obj, "metadata.labels", `{"a": "json", "c": "d"}`)
	obj = apply(types.MergePatchType, `{"metadata": {"labels": {"a": "merge", "c": null}}}`)
	expectField(s, obj, "metadata.labels", `{"a": "merge"}`)
	// A strategic merge patch merges finalizers.
	obj = apply(types.StrategicMergePatchType, `{"metadata": {"labels": {"a": "strategic"}, "finalizers": ["example.com/two"]}}`)
	expectField(s, obj, "metadata.labels", `{"a": "strategic"}`)
	if got := obj.GetFinalizers(); len(got) != 2 || !slices.Contains(got, "example.com/one") {
		s.Errorf("got finalizers %q, want both", got)
	}

	_, err := s.objects.Patch(s.Context(), "a", types.JSONPatchType, []byte(`[{"op": "test", "path": "/metadata/labels/a", "value": "x"}]`), metav1.PatchOptions{})
	expectError(s, err, http.StatusUnprocessableEntity)
	_, err = s.objects.Patch(s.Context(), "a", types.MergePatchType, []byte(`{`), metav1.PatchOptions{})
	expectError(s, err, http.StatusBadRequest)
	s.send(http.MethodPatch, s.path("a"), []byte(`{}`), "Content-Type", mediaJSON).expect(s, http.StatusUnsupportedMediaType)
}

// errorPath returns the field that the error of the invalid value names.
func (f field) errorPath() string {
	if f.invalidPath != "" {
		return f.invalidPath
	}
	return f.path
}

// nestedJSON returns a JSON object with the value at the path.
func nestedJSON(path, value string) string {
	for _, key := range slices.Backward(strings.Split(path, ".")) {
		value = `{"` + key + `": ` + value + `}`
	}
	return value
}
