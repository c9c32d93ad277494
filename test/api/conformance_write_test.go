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

	"github.com/leat-dev/leat/test/kit"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"
)

// writeRules are about what the main resource lets one write.
var writeRules = []rule{
	{name: "create sets system fields", check: createSetsSystemFields},
	{name: "invalid objects are not created", check: invalidObjectsAreRefused},
	{name: "invalid changes are refused", check: invalidChangesAreRefused},
	{name: "immutable fields stay", check: immutableFieldsStay, only: func(k *kind) bool { return len(k.immutable) > 0 }},
	{name: "names", check: names},
	{name: "generateName", check: generateName},
	{name: "generation", check: generation},
	{name: "a PUT of nothing new writes nothing", check: emptyUpdateWritesNothing},
	{name: "updates do not create", check: updatesDoNotCreate},
	{name: "a PUT of an old version conflicts", check: updateChecksVersionAndUID},
	{name: "a PUT without version overwrites", check: unconditionalUpdate},
	{name: "owner references", check: ownerReferences},
	{name: "exports", check: exportsAreCreatedAgain},
	{name: "dry run", check: dryRun},
	{name: "unknown fields", check: unknownFields},
	{name: "patches", check: patches},
}

func createSetsSystemFields(s *scene) {
	sent := s.object("a", `{"metadata": {
		"uid": "mine", "generation": 7, "creationTimestamp": "2020-01-01T00:00:00Z", "selfLink": "/mine",
		"deletionTimestamp": "2020-01-01T00:00:00Z", "deletionGracePeriodSeconds": 1,
		"labels": {"a": "b"}, "annotations": {"a": "b"}
	}}`)
	created := kit.Must(s.objects.Create(s.Context(), sent, metav1.CreateOptions{}))(s)
	if created.GetUID() == "mine" || created.GetUID() == "" {
		s.Errorf("metadata.uid is %q", created.GetUID())
	}
	if year := created.GetCreationTimestamp().Year(); year < 2025 {
		s.Errorf("metadata.creationTimestamp is of %d", year)
	}
	mustHave(s, created, "metadata.generation", `1`)
	for _, field := range []string{"selfLink", "deletionTimestamp", "deletionGracePeriodSeconds"} {
		mustEqual(s, "metadata."+field, at(created, "metadata."+field), nil)
	}
	mustHave(s, created, "metadata.labels", `{"a": "b"}`)
	mustHave(s, created, "metadata.annotations", `{"a": "b"}`)
	mustEqual(s, "the stored object", s.get("a"), created)

	_, err := s.objects.Create(s.Context(), s.object("a"), metav1.CreateOptions{})
	refused(s, err, http.StatusConflict, `"a" already exists`)
	versioned := s.object("b")
	versioned.SetResourceVersion("1")
	if _, err = s.objects.Create(s.Context(), versioned, metav1.CreateOptions{}); err == nil || !strings.Contains(err.Error(), "resourceVersion") {
		s.Errorf("a create with resourceVersion: got %v, want an error that names it", err)
	}
	s.mustBeGone("b")
}

// exportsAreCreatedAgain holds that an object that has lived can be created, and then written, from what was read of it, as
// "kubectl replace --force" and backup tools do.
func exportsAreCreatedAgain(s *scene) {
	s.create("a")
	if s.live != nil {
		s.live(s, "a")
	}
	if s.status.path != "" {
		kit.Must(s.mergePatch("a", nested(s.status.path, s.status.one), "status"))(s)
	}
	text := kit.Must(yaml.Marshal(s.get("a").Object))(s)
	export := func() *unstructured.Unstructured {
		obj := &unstructured.Unstructured{}
		kit.Check(s, yaml.Unmarshal(text, &obj.Object))
		return obj
	}
	kit.Check(s, s.objects.Delete(s.Context(), "a", metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)}))
	s.mustBeGone("a")

	again := export()
	again.SetResourceVersion("")
	created := kit.Must(s.objects.Create(s.Context(), again, metav1.CreateOptions{}))(s)
	// What else differs, the server sets.
	want := export()
	unstructured.RemoveNestedField(want.Object, "spec", "workerName")
	mustEqual(s, "the spec", at(created, "spec"), parse[any](s, strings.ReplaceAll(string(encode(s, at(want, "spec"))), string(want.GetUID()), string(created.GetUID()))))
	if s.status.path != "" {
		mustEqual(s, s.status.path, at(created, s.status.path), nil)
	}

	again = export()
	again.SetUID("")
	again.SetResourceVersion("")
	written := kit.Must(s.objects.Update(s.Context(), again, metav1.UpdateOptions{}))(s)
	for _, path := range []string{"spec", "status", "metadata.generation"} {
		mustEqual(s, path+" written again", at(written, path), at(created, path))
	}
}

func invalidObjectsAreRefused(s *scene) {
	for _, refusal := range s.invalid {
		_, err := s.objects.Create(s.Context(), s.object("a", refusal.patch), metav1.CreateOptions{})
		invalid(s, err, refusal.names)
	}
	obj := s.object("a")
	set(s, obj, s.spec.path, s.spec.refused)
	_, err := s.objects.Create(s.Context(), obj, metav1.CreateOptions{})
	invalid(s, err, s.spec.refusedPath())
	_, err = s.objects.Create(s.Context(), s.object("a", `{"metadata": {"labels": {"not valid": ""}}}`), metav1.CreateOptions{})
	invalid(s, err, "metadata.labels")
	_, err = s.objects.Create(s.Context(), s.object("a", `{"metadata": {"annotations": {"not valid": ""}}}`), metav1.CreateOptions{})
	invalid(s, err, "metadata.annotations")
	s.mustBeGone("a")
}

func invalidChangesAreRefused(s *scene) {
	created := s.create("a")
	obj := created.DeepCopy()
	set(s, obj, s.spec.path, s.spec.refused)
	_, err := s.objects.Update(s.Context(), obj, metav1.UpdateOptions{})
	invalid(s, err, s.spec.refusedPath())
	_, err = s.mergePatch("a", nested(s.spec.path, s.spec.refused))
	invalid(s, err, s.spec.refusedPath())
	_, err = s.mergePatch("a", `{"metadata": {"labels": {"not valid": ""}}}`)
	invalid(s, err, "metadata.labels")
	mustEqual(s, "the stored object", s.get("a"), created)
}

func immutableFieldsStay(s *scene) {
	created := s.create("a")
	for _, refusal := range s.immutable {
		obj := created.DeepCopy()
		patch(s, obj, refusal.patch)
		_, err := s.objects.Update(s.Context(), obj, metav1.UpdateOptions{})
		invalid(s, err, refusal.names)
		_, err = s.mergePatch("a", refusal.patch)
		invalid(s, err, refusal.names)
		if strings.Contains(err.Error(), "immutable") && !strings.Contains(err.Error(), "must stay ") {
			s.Errorf("the answer does not show what is stored: %v", err)
		}
	}
	mustEqual(s, "the stored object", s.get("a"), created)
}

func names(s *scene) {
	longest := 253
	if s.shortNamed {
		longest = 63
		_, err := s.objects.Create(s.Context(), s.object("a.b"), metav1.CreateOptions{})
		invalid(s, err, "metadata.name")
	} else {
		s.create("a.b")
	}
	s.create(strings.Repeat("a", longest))
	for _, name := range []string{strings.Repeat("a", longest+1), "Upper", "-a", "a_b", "a b"} {
		_, err := s.objects.Create(s.Context(), s.object(name), metav1.CreateOptions{})
		invalid(s, err, "metadata.name")
	}
	_, err := s.objects.Create(s.Context(), s.object(""), metav1.CreateOptions{})
	invalid(s, err, "metadata.name")

	elsewhere := s.object("a", `{"metadata": {"namespace": "elsewhere"}}`)
	_, err = s.objects.Create(s.Context(), elsewhere, metav1.CreateOptions{})
	refused(s, err, http.StatusBadRequest, "namespace")
	s.create("c")
	s.send(http.MethodPut, s.path("c"), encode(s, s.object("d")), "Content-Type", mediaJSON).must(s, http.StatusBadRequest)
}

func generateName(s *scene) {
	obj := s.object("", `{"metadata": {"generateName": "made-"}}`)
	seen := map[string]bool{}
	for range 3 {
		name := kit.Must(s.objects.Create(s.Context(), obj, metav1.CreateOptions{}))(s).GetName()
		if rest, ok := strings.CutPrefix(name, "made-"); !ok || len(rest) != 5 || seen[name] {
			s.Errorf("the name is %q: want one of its own, made- and five characters", name)
		}
		seen[name] = true
	}
	obj.SetGenerateName("Not valid")
	_, err := s.objects.Create(s.Context(), obj, metav1.CreateOptions{})
	invalid(s, err, "metadata.name") // what was made of it
}

func generation(s *scene) {
	obj := s.create("a")
	mustHave(s, obj, "metadata.generation", `1`)
	set(s, obj, s.spec.path, s.spec.one)
	obj = s.update(obj)
	mustHave(s, obj, s.spec.path, s.spec.one)
	mustHave(s, obj, "metadata.generation", `2`)
	patch(s, obj, `{"metadata": {"labels": {"a": "b"}, "annotations": {"a": "b"}, "finalizers": ["example.com/hold"]}}`)
	obj = s.update(obj)
	mustHave(s, obj, "metadata.labels", `{"a": "b"}`)
	mustHave(s, obj, "metadata.generation", `2`)
	obj.SetGeneration(9)
	mustHave(s, s.update(obj), "metadata.generation", `2`)
	mustHave(s, kit.Must(s.mergePatch("a", nested(s.spec.path, s.spec.two)))(s), "metadata.generation", `3`)
}

func emptyUpdateWritesNothing(s *scene) {
	obj := s.create("a")
	mustEqual(s, "the object", s.update(obj), obj)
	mustEqual(s, "the object", kit.Must(s.mergePatch("a", `{}`))(s), obj)
	if s.status.path != "" {
		mustEqual(s, "the object", s.update(obj, "status"), obj)
	}
}

func updatesDoNotCreate(s *scene) {
	obj := s.object("a")
	_, err := s.objects.Update(s.Context(), obj, metav1.UpdateOptions{})
	refused(s, err, http.StatusNotFound, `"a" not found`)
	obj.SetResourceVersion("1")
	_, err = s.objects.Update(s.Context(), obj, metav1.UpdateOptions{})
	refused(s, err, http.StatusNotFound)
	_, err = s.mergePatch("a", `{}`)
	refused(s, err, http.StatusNotFound)
	s.mustBeGone("a")
}

func updateChecksVersionAndUID(s *scene) {
	old := s.create("a")
	obj := old.DeepCopy()
	obj.SetLabels(map[string]string{"a": "b"})
	obj = s.update(obj)
	_, err := s.objects.Update(s.Context(), old, metav1.UpdateOptions{})
	refused(s, err, http.StatusConflict)
	_, err = s.mergePatch("a", `{"metadata": {"labels": {"a": "c"}, "resourceVersion": "`+old.GetResourceVersion()+`"}}`)
	refused(s, err, http.StatusConflict)
	other := obj.DeepCopy()
	other.SetUID("another")
	_, err = s.objects.Update(s.Context(), other, metav1.UpdateOptions{})
	refused(s, err, http.StatusConflict, "UID")
	mustEqual(s, "the stored object", s.get("a"), obj)
}

func unconditionalUpdate(s *scene) {
	obj := s.create("a")
	obj.SetLabels(map[string]string{"a": "b"})
	obj.SetResourceVersion("")
	mustHave(s, s.update(obj), "metadata.labels", `{"a": "b"}`)
}

func ownerReferences(s *scene) {
	owners := `[{"apiVersion": "batch.leat.dev/v1alpha1", "kind": "TaskSet", "name": "owner", "uid": "u", "controller": true, "blockOwnerDeletion": true}]`
	created := s.create("a", `{"metadata": {"ownerReferences": `+owners+`}}`)
	mustHave(s, created, "metadata.ownerReferences", owners)
	s.create("b")
	mustHave(s, kit.Must(s.mergePatch("b", `{"metadata": {"ownerReferences": `+owners+`}}`))(s), "metadata.ownerReferences", owners)

	for field, bad := range map[string]string{
		"metadata.ownerReferences[0].uid":        `[{"apiVersion": "v1", "kind": "Pod", "name": "p"}]`,
		"metadata.ownerReferences[0].name":       `[{"apiVersion": "v1", "kind": "Pod", "uid": "u"}]`,
		"metadata.ownerReferences[0].kind":       `[{"apiVersion": "v1", "name": "p", "uid": "u"}]`,
		"metadata.ownerReferences[0].apiVersion": `[{"kind": "Pod", "name": "p", "uid": "u"}]`,
		"metadata.ownerReferences": `[{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", "controller": true},
			{"apiVersion": "v1", "kind": "Pod", "name": "q", "uid": "v", "controller": true}]`,
	} {
		_, err := s.objects.Create(s.Context(), s.object("c", `{"metadata": {"ownerReferences": `+bad+`}}`), metav1.CreateOptions{})
		invalid(s, err, field)
	}
}

func dryRun(s *scene) {
	all := []string{metav1.DryRunAll}
	created := kit.Must(s.objects.Create(s.Context(), s.object("new"), metav1.CreateOptions{DryRun: all}))(s)
	if created.GetUID() == "" {
		s.Error("the answer has no uid: it is not what would have been created")
	}
	s.mustBeGone("new")
	applied := kit.Must(s.objects.Apply(s.Context(), "new", s.object("new"), metav1.ApplyOptions{FieldManager: "one", DryRun: all}))(s)
	mustHave(s, applied, "metadata.generation", `1`)
	s.mustBeGone("new")

	stored := s.create("a", `{"metadata": {"labels": {"a": "b"}}}`)
	changed := stored.DeepCopy()
	set(s, changed, s.spec.path, s.spec.one)
	mustHave(s, kit.Must(s.objects.Update(s.Context(), changed, metav1.UpdateOptions{DryRun: all}))(s), s.spec.path, s.spec.one)
	for _, kind := range []types.PatchType{types.MergePatchType, types.StrategicMergePatchType} {
		patched := kit.Must(s.objects.Patch(s.Context(), "a", kind, []byte(nested(s.spec.path, s.spec.one)), metav1.PatchOptions{DryRun: all}))(s)
		mustHave(s, patched, s.spec.path, s.spec.one)
	}
	changed = s.object("a")
	set(s, changed, s.spec.path, s.spec.one)
	force := metav1.ApplyOptions{FieldManager: "one", Force: true, DryRun: all}
	mustHave(s, kit.Must(s.objects.Apply(s.Context(), "a", changed, force))(s), s.spec.path, s.spec.one)
	kit.Check(s, s.objects.Delete(s.Context(), "a", metav1.DeleteOptions{DryRun: all}))
	kit.Check(s, s.objects.DeleteCollection(s.Context(), metav1.DeleteOptions{DryRun: all}, metav1.ListOptions{}))
	mustEqual(s, "the stored object", s.get("a"), stored)

	// What would be refused is refused.
	set(s, changed, s.spec.path, s.spec.refused)
	_, err := s.objects.Create(s.Context(), changed, metav1.CreateOptions{DryRun: all})
	refused(s, err, http.StatusUnprocessableEntity)
}

func unknownFields(s *scene) {
	object := func(name string) []byte { return encode(s, s.object(name, `{"spec": {"bogus": 1}}`)) }
	twice := func(name string) []byte {
		return []byte(strings.Replace(string(encode(s, s.object(name))), `"metadata":{`, `"metadata":{"name":"`+name+`",`, 1))
	}
	const strict, warn, ignore = "?fieldValidation=Strict", "?fieldValidation=Warn", "?fieldValidation=Ignore"
	for kind, c := range map[string]struct {
		body func(name string) []byte
		says string
	}{
		"unknown": {object, `unknown field "spec.bogus"`},
		"twice":   {twice, `duplicate field "metadata.name"`},
	} {
		post := func(name, query string, code int) (body, warnings string) {
			s.Helper()
			answer := s.send(http.MethodPost, s.path()+query, c.body(name), "Content-Type", mediaJSON).must(s, code)
			unquote := strings.NewReplacer(`\`, "")
			return unquote.Replace(string(answer.body)), unquote.Replace(strings.Join(answer.header.Values("Warning"), "\n"))
		}
		if body, _ := post("strict", strict, http.StatusBadRequest); !strings.Contains(body, c.says) {
			s.Errorf("the answer does not say %s: %s", c.says, body)
		}
		if _, warnings := post("warn-"+kind, warn, http.StatusCreated); !strings.Contains(warnings, c.says) {
			s.Errorf("the warnings do not say %s: %s", c.says, warnings)
		}
		if _, warnings := post("ignore-"+kind, ignore, http.StatusCreated); warnings != "" {
			s.Errorf("got warnings, want none: %s", warnings)
		}
	}
	s.mustBeGone("strict")

	s.create("a")
	for _, request := range []struct{ method, content, body string }{
		{http.MethodPut, mediaJSON, string(object("a"))},
		{http.MethodPatch, string(types.MergePatchType), `{"spec": {"bogus": 1}}`},
		{http.MethodPatch, string(types.StrategicMergePatchType), `{"spec": {"bogus": 1}}`},
		{http.MethodPatch, string(types.JSONPatchType), `[{"op": "add", "path": "/spec/bogus", "value": 1}]`},
		// Without schema validation there is no apply: it refuses whatever is asked for, as Kubernetes does, with 500.
		{http.MethodPatch, string(types.ApplyYAMLPatchType), string(object("a"))},
	} {
		path := s.path("a") + strict
		if request.content == string(types.ApplyYAMLPatchType) {
			path += "&fieldManager=one&force=true"
		}
		answer := s.send(request.method, path, []byte(request.body), "Content-Type", request.content)
		if answer.code < 400 || !strings.Contains(string(answer.body), "spec.bogus") {
			s.Errorf("%s %s: got %d, want a refusal that names spec.bogus: %s", request.method, request.content, answer.code, answer.body)
		}
	}
	mustEqual(s, "spec.bogus", at(s.get("a"), "spec.bogus"), nil)
}

func patches(s *scene) {
	s.create("a", `{"metadata": {"labels": {"a": "b", "c": "d"}, "finalizers": ["example.com/one"]}}`)
	apply := func(kind types.PatchType, text string) *unstructured.Unstructured {
		s.Helper()
		return kit.Must(s.objects.Patch(s.Context(), "a", kind, []byte(text), metav1.PatchOptions{}))(s)
	}
	obj := apply(types.JSONPatchType, `[{"op": "test", "path": "/metadata/labels/a", "value": "b"}, {"op": "replace", "path": "/metadata/labels/a", "value": "json"}]`)
	mustHave(s, obj, "metadata.labels", `{"a": "json", "c": "d"}`)
	obj = apply(types.MergePatchType, `{"metadata": {"labels": {"a": "merge", "c": null}}}`)
	mustHave(s, obj, "metadata.labels", `{"a": "merge"}`)
	// The strategy of finalizers is to be merged: what is there stays.
	obj = apply(types.StrategicMergePatchType, `{"metadata": {"labels": {"a": "strategic"}, "finalizers": ["example.com/two"]}}`)
	mustHave(s, obj, "metadata.labels", `{"a": "strategic"}`)
	if got := obj.GetFinalizers(); len(got) != 2 || !slices.Contains(got, "example.com/one") {
		s.Errorf("the finalizers are %q, want both", got)
	}

	_, err := s.objects.Patch(s.Context(), "a", types.JSONPatchType, []byte(`[{"op": "test", "path": "/metadata/labels/a", "value": "x"}]`), metav1.PatchOptions{})
	refused(s, err, http.StatusUnprocessableEntity)
	_, err = s.objects.Patch(s.Context(), "a", types.MergePatchType, []byte(`{`), metav1.PatchOptions{})
	refused(s, err, http.StatusBadRequest)
	s.send(http.MethodPatch, s.path("a"), []byte(`{}`), "Content-Type", mediaJSON).must(s, http.StatusUnsupportedMediaType)
}

// refusedPath is the path that the refusal of the bad value names.
func (f field) refusedPath() string {
	if f.names != "" {
		return f.names
	}
	return f.path
}

// nested gives the JSON object with that value at the path.
func nested(path, value string) string {
	for _, key := range slices.Backward(strings.Split(path, ".")) {
		value = `{"` + key + `": ` + value + `}`
	}
	return value
}
