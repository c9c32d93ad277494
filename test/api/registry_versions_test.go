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
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"path"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	"k8s.io/apiserver/pkg/endpoints/openapi"
	registryrest "k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	basecompatibility "k8s.io/component-base/compatibility"
	baseversion "k8s.io/component-base/version"
	"k8s.io/kube-openapi/pkg/common"

	"github.com/leat-dev/leat/apis/batch"
	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	leatscheme "github.com/leat-dev/leat/pkg/apiserver/scheme"
	"github.com/leat-dev/leat/pkg/generated/kinds"
	generatedopenapi "github.com/leat-dev/leat/pkg/generated/openapi"
	registrybatch "github.com/leat-dev/leat/pkg/registry/batch"
	"github.com/leat-dev/leat/pkg/registry/batch/task"
	"github.com/leat-dev/leat/pkg/registry/batch/taskset"
	"github.com/leat-dev/leat/pkg/registry/batch/worker"
	twoversionregistry "github.com/leat-dev/leat/test/api/internal/registry"
	"github.com/leat-dev/leat/test/api/internal/v1test"
	"github.com/leat-dev/leat/test/kit/host"
)

// versionsOfTest are the versions of the tests in this file. v1test differs from v1alpha1: see package v1test.
var versionsOfTest = []schema.GroupVersion{v1alpha1.SchemeGroupVersion, v1test.SchemeGroupVersion}

// twoVersions is a server of two versions, over the same stores.
type twoVersions struct {
	// name is that of the test, and the prefix in etcd.
	name   string
	etcd   *host.Etcd
	url    string
	client dynamic.Interface
	// stop stops the server.
	stop func()
}

// serveVersions serves v1alpha1, or both versions, to everyone, over one set of stores. A server of both versions
// stores v1test, as JSON: upstream prefers a version that is not alpha, and v1test has no protobuf.
func serveVersions(t *testing.T, etcd *host.Etcd, both bool) twoVersions {
	t.Helper()
	scheme, args := leatscheme.New(), []string(nil)
	if both {
		utilruntime.Must(v1test.AddToScheme(scheme))
		utilruntime.Must(scheme.SetVersionPriority(v1test.SchemeGroupVersion, v1alpha1.SchemeGroupVersion))
		args = []string{"--storage-media-type=application/json"}
	}
	codecs := serializer.NewCodecFactory(scheme)
	config := newRegistryConfig(t, etcd, scheme, args...)
	config.ExternalAddress = "127.0.0.1:443"
	config.LoopbackClientConfig = &rest.Config{}
	config.Authorization.Authorizer = authorizerfactory.NewAlwaysAllowAuthorizer()
	config.FeatureGate = utilfeature.DefaultFeatureGate
	config.EffectiveVersion = basecompatibility.NewEffectiveVersionFromString(baseversion.DefaultKubeBinaryVersion, "", "")
	definitions := func(ref common.ReferenceCallback) map[string]common.OpenAPIDefinition {
		all := generatedopenapi.GetOpenAPIDefinitions(ref)
		maps.Copy(all, v1test.GetOpenAPIDefinitions(ref))
		return all
	}
	namer := openapi.NewDefinitionNamer(scheme)
	config.OpenAPIConfig = genericapiserver.DefaultOpenAPIConfig(definitions, namer)
	config.OpenAPIV3Config = genericapiserver.DefaultOpenAPIV3Config(definitions, namer)

	server, err := config.Complete().New("two-versions", genericapiserver.NewEmptyDelegate())
	if err != nil {
		t.Fatal(err)
	}
	var storages map[string]map[string]registryrest.Storage
	if both {
		stores, err := twoversionregistry.NewStores(scheme, config.RESTOptionsGetter)
		if err != nil {
			t.Fatal(err)
		}
		storages = stores.Storage(task.Subresources{}, taskset.Subresources{}, worker.Subresources{})
	} else {
		stores, err := registrybatch.NewStores(scheme, config.RESTOptionsGetter)
		if err != nil {
			t.Fatal(err)
		}
		storages = stores.Storage(task.Subresources{}, taskset.Subresources{}, worker.Subresources{})
	}
	group := genericapiserver.NewDefaultAPIGroupInfo(batch.GroupName, scheme, runtime.NewParameterCodec(scheme), codecs)
	group.VersionedResourcesStorageMap = storages
	if err := server.InstallAPIGroup(&group); err != nil {
		t.Fatal(err)
	}
	listener := httptest.NewServer(server.PrepareRun().Handler)
	stop := sync.OnceFunc(func() {
		listener.CloseClientConnections()
		listener.Close()
		server.Destroy()
	})
	t.Cleanup(stop)
	client, err := dynamic.NewForConfig(&rest.Config{Host: listener.URL, QPS: -1})
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range kinds.All {
		if err := wait.PollUntilContextTimeout(t.Context(), 10*time.Millisecond, time.Minute, true, func(ctx context.Context) (bool, error) {
			_, err := client.Resource(v1alpha1.SchemeGroupVersion.WithResource(kind.Resource)).List(ctx, metav1.ListOptions{})
			return err == nil, nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	return twoVersions{name: t.Name(), etcd: etcd, url: listener.URL, client: client, stop: stop}
}

func TestTwoVersionsShareOneStore(t *testing.T) {
	etcd := host.EtcdForTest(t)
	before := registryEtcdWatches(t, etcd)
	s := serveVersions(t, etcd, true)
	// The compactor of upstream's storage has a watch, too, a second after it starts.
	watches, want := 0, len(kinds.All)+1
	if err := wait.PollUntilContextTimeout(t.Context(), 50*time.Millisecond, time.Minute, true, func(context.Context) (bool, error) {
		watches = registryEtcdWatches(t, etcd) - before
		return watches == want, nil
	}); err != nil {
		t.Errorf("got %d watches of etcd, want %d: one for each kind, and that of the compactor", watches, want)
	}
	t.Run("each version reads what the other writes", s.testReadAcross)
	t.Run("all verbs", s.testVerbs)
	t.Run("defaults", s.testDefaults)
	t.Run("watch", s.testWatch)
	t.Run("field selectors", s.testSelectors)
	t.Run("tables", s.testTables)
	t.Run("conflicts of field managers", s.testConflicts)
	t.Run("nobody owns fields that are reset", s.testResetFields)
	t.Run("the owner of the replicas of a scale owns the field of the set", s.testScale)
	t.Run("errors name the fields of the version", s.testValidation)
	t.Run("binding", s.testBinding)
}

// TestStoredObjectsAreRewritten writes objects with a server that serves and stores v1alpha1 alone, and reads and
// rewrites them with one that stores v1test.
func TestStoredObjectsAreRewritten(t *testing.T) {
	etcd := host.EtcdForTest(t)
	old := serveVersions(t, etcd, false)
	before := map[string]*unstructured.Unstructured{}
	for _, kind := range kinds.All {
		before[kind.Resource] = old.create(t, v1alpha1.SchemeGroupVersion, kind, "a")
	}
	old.stop()

	s := serveVersions(t, etcd, true)
	check := func(resource string, version schema.GroupVersion) {
		t.Helper()
		if got := s.storedVersion(t, resource, "a"); got != version.String() {
			t.Errorf("%s is stored as %s, want %s", resource, got, version)
		}
		for _, version := range versionsOfTest {
			want, got := before[resource].DeepCopy(), inFirstVersion(s.get(t, version, resource, "a"))
			want.SetResourceVersion(got.GetResourceVersion())
			if diff := cmp.Diff(want.Object, got.Object); diff != "" {
				t.Errorf("%s in %s, before -, after +:\n%s", resource, version.Version, diff)
			}
		}
	}
	for _, kind := range kinds.All {
		check(kind.Resource, v1alpha1.SchemeGroupVersion)
		// An update without a change writes the object in the new version.
		if _, err := s.in(v1alpha1.SchemeGroupVersion, kind.Resource).Update(t.Context(), before[kind.Resource], metav1.UpdateOptions{FieldManager: "m"}); err != nil {
			t.Fatal(err)
		}
		check(kind.Resource, v1test.SchemeGroupVersion)
	}
}

func (s twoVersions) in(version schema.GroupVersion, resource string) dynamic.ResourceInterface {
	return s.client.Resource(version.WithResource(resource)).Namespace("n")
}

func (s twoVersions) get(t *testing.T, version schema.GroupVersion, resource, name string) *unstructured.Unstructured {
	t.Helper()
	object, err := s.in(version, resource).Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if object.GetAPIVersion() != version.String() {
		t.Errorf("%s: got version %s, want %s", resource, object.GetAPIVersion(), version)
	}
	return object
}

// create creates an object of a kind in a version.
func (s twoVersions) create(t *testing.T, version schema.GroupVersion, kind kinds.Kind, name string) *unstructured.Unstructured {
	t.Helper()
	content, ok := registryContents[kind.Resource]
	if !ok {
		t.Fatalf("%s: add an object to registryContents", kind.Resource)
	}
	created, err := s.in(version, kind.Resource).Create(t.Context(), versionedObject(version, kind.Name, name, content), metav1.CreateOptions{FieldManager: "m"})
	if err != nil {
		t.Fatalf("%s in %s: %v", kind.Resource, version.Version, err)
	}
	return created
}

const (
	versionedTask = `{"spec": {"command": ["true"]}}`
	versionedSet  = `{"spec": {"completions": 3, "completionMode": "Indexed", "template": {"spec": {"command": ["true"]}}}}`
)

// registryContents are valid objects of all kinds, in v1alpha1, by resource.
var registryContents = map[string]string{
	"tasks":      versionedTask,
	"tasksets":   `{"spec": {"parallelism": 2, "completions": 3, "completionMode": "Indexed", "template": {"spec": {"command": ["true"]}}}}`,
	"taskqueues": `{"spec": {"weight": 3}}`, "workers": `{"spec": {"unschedulable": true}}`,
	"workerleases": `{"spec": {"holderIdentity": "i"}}`,
}

// versionedPaths are the paths of fields in v1alpha1 and v1test, where they differ.
var versionedPaths = [][2]string{{"spec.workerName", "spec.assignment.workerName"}, {"spec.parallelism", "spec.maxActive"}}

// versionedObject returns an object of a version. The content is in v1alpha1.
func versionedObject(version schema.GroupVersion, kind, name, content string) *unstructured.Unstructured {
	object := &unstructured.Unstructured{}
	if err := utiljson.Unmarshal([]byte(content), &object.Object); err != nil { // numbers are int64
		panic(err)
	}
	object.SetGroupVersionKind(version.WithKind(kind))
	object.SetName(name)
	if version == v1test.SchemeGroupVersion {
		for _, paths := range versionedPaths {
			moveVersionedField(object, paths[0], paths[1])
		}
	}
	return object
}

// inFirstVersion returns an object of any version with the fields of v1alpha1.
func inFirstVersion(object *unstructured.Unstructured) *unstructured.Unstructured {
	object = object.DeepCopy()
	object.SetAPIVersion(v1alpha1.SchemeGroupVersion.String())
	for _, paths := range versionedPaths {
		moveVersionedField(object, paths[1], paths[0])
	}
	if assignment, found, _ := unstructured.NestedMap(object.Object, "spec", "assignment"); found && len(assignment) == 0 {
		unstructured.RemoveNestedField(object.Object, "spec", "assignment")
	}
	for _, path := range [][]string{{"spec", "template", "spec", "assignment"}} {
		if assignment, found, _ := unstructured.NestedMap(object.Object, path...); found && len(assignment) == 0 {
			unstructured.RemoveNestedField(object.Object, path...)
		}
	}
	return object
}

func moveVersionedField(object *unstructured.Unstructured, from, to string) {
	value, found, err := unstructured.NestedFieldCopy(object.Object, strings.Split(from, ".")...)
	if err != nil || !found {
		return
	}
	unstructured.RemoveNestedField(object.Object, strings.Split(from, ".")...)
	if err := unstructured.SetNestedField(object.Object, value, strings.Split(to, ".")...); err != nil {
		panic(err)
	}
}

func (s twoVersions) testReadAcross(t *testing.T) {
	for _, kind := range kinds.All {
		for i, writer := range versionsOfTest {
			reader, name := versionsOfTest[1-i], "written-by-"+writer.Version
			written, read := s.create(t, writer, kind, name), s.get(t, reader, kind.Resource, name)
			if read.GroupVersionKind() != reader.WithKind(kind.Name) {
				t.Errorf("got %s, want %s", read.GroupVersionKind(), reader.WithKind(kind.Name))
			}
			if diff := cmp.Diff(inFirstVersion(written).Object, inFirstVersion(read).Object); diff != "" {
				t.Errorf("%s: written in %s -, read in %s +:\n%s", kind.Resource, writer.Version, reader.Version, diff)
			}
			if stored := s.storedVersion(t, kind.Resource, name); stored != v1test.SchemeGroupVersion.String() {
				t.Errorf("%s, written in %s, is stored as %s, want v1test", kind.Resource, writer.Version, stored)
			}
		}
	}
}

// testVerbs writes with each verb in one version, and reads the result in the other.
func (s twoVersions) testVerbs(t *testing.T) {
	labels := func(version schema.GroupVersion, resource, name string) string {
		return fmt.Sprint(s.get(t, version, resource, name).GetLabels())
	}
	for _, kind := range kinds.All {
		for i, writer := range versionsOfTest {
			reader, name := versionsOfTest[1-i], "verbs-in-"+writer.Version
			s.create(t, reader, kind, name)
			object := s.get(t, writer, kind.Resource, name)
			object.SetLabels(map[string]string{"verb": "update"})
			if _, err := s.in(writer, kind.Resource).Update(t.Context(), object, metav1.UpdateOptions{}); err != nil {
				t.Errorf("%s in %s: update: %v", kind.Resource, writer.Version, err)
			}
			if got := labels(reader, kind.Resource, name); got != "map[verb:update]" {
				t.Errorf("%s in %s: got labels %s after an update in %s", kind.Resource, reader.Version, got, writer.Version)
			}
			for patch, content := range map[types.PatchType]string{
				types.MergePatchType: `{"metadata": {"labels": {"verb": "%s"}}}`, types.StrategicMergePatchType: `{"metadata": {"labels": {"verb": "%s"}}}`,
				types.JSONPatchType: `[{"op": "replace", "path": "/metadata/labels/verb", "value": "%s"}]`,
			} {
				value := strings.ReplaceAll(strings.TrimPrefix(string(patch), "application/"), "+", "-")
				if _, err := s.in(writer, kind.Resource).Patch(t.Context(), name, patch, []byte(fmt.Sprintf(content, value)), metav1.PatchOptions{}); err != nil {
					t.Errorf("%s in %s: %s: %v", kind.Resource, writer.Version, patch, err)
				}
				if got := labels(reader, kind.Resource, name); got != "map[verb:"+value+"]" {
					t.Errorf("%s in %s: got labels %s after a %s in %s", kind.Resource, reader.Version, got, patch, writer.Version)
				}
			}
			list, err := s.in(writer, kind.Resource).List(t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=" + name})
			if err != nil || len(list.Items) != 1 || list.GroupVersionKind() != writer.WithKind(kind.Name+"List") {
				t.Fatalf("%s in %s: list: got %v, %v", kind.Resource, writer.Version, list, err)
			}
			if diff := cmp.Diff(s.get(t, writer, kind.Resource, name).Object, list.Items[0].Object); diff != "" {
				t.Errorf("%s in %s: get -, list +:\n%s", kind.Resource, writer.Version, diff)
			}
			if err := s.in(writer, kind.Resource).Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
				t.Errorf("%s in %s: delete: %v", kind.Resource, writer.Version, err)
			}
			if _, err := s.in(reader, kind.Resource).Get(t.Context(), name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
				t.Errorf("%s in %s: got %v after a delete in %s, want not found", kind.Resource, reader.Version, err, writer.Version)
			}
			s.create(t, reader, kind, name)
			if err := s.in(writer, kind.Resource).DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{FieldSelector: "metadata.name=" + name}); err != nil {
				t.Errorf("%s in %s: deletecollection: %v", kind.Resource, writer.Version, err)
			}
			if _, err := s.in(reader, kind.Resource).Get(t.Context(), name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
				t.Errorf("%s in %s: got %v after a deletecollection in %s, want not found", kind.Resource, reader.Version, err, writer.Version)
			}
		}
	}
}

// testDefaults creates queues without a weight, whose default is 1 in v1alpha1 and 2 in v1test.
func (s twoVersions) testDefaults(t *testing.T) {
	for i, writer := range versionsOfTest {
		name, want := "default-of-"+writer.Version, int64(i+1)
		if _, err := s.in(writer, "taskqueues").Create(t.Context(), versionedObject(writer, "TaskQueue", name, `{"spec": {}}`), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		for _, reader := range versionsOfTest {
			if got, _, _ := unstructured.NestedInt64(s.get(t, reader, "taskqueues", name).Object, "spec", "weight"); got != want {
				t.Errorf("created in %s, read in %s: got weight %d, want %d", writer.Version, reader.Version, got, want)
			}
		}
	}
}

// workerNameIn returns the label of spec.workerName in a version.
func workerNameIn(version schema.GroupVersion) string {
	if version == v1test.SchemeGroupVersion {
		return "spec.assignment.workerName"
	}
	return "spec.workerName"
}

// testWatch watches tasks in both versions at once, without and with the field that the watch cache indexes watchers
// by.
func (s twoVersions) testWatch(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, writer := range versionsOfTest {
		list, err := s.in(v1test.SchemeGroupVersion, "tasks").List(ctx, metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		name := "watched-by-" + writer.Version
		var watches []watch.Interface
		var versions []schema.GroupVersion
		for _, byWorker := range []bool{false, true} {
			for _, reader := range versionsOfTest {
				selector := "metadata.name=" + name
				if byWorker {
					selector += "," + workerNameIn(reader) + "="
				}
				watcher, err := s.in(reader, "tasks").Watch(ctx, metav1.ListOptions{ResourceVersion: list.GetResourceVersion(), FieldSelector: selector})
				if err != nil {
					t.Fatal(err)
				}
				defer watcher.Stop()
				watches, versions = append(watches, watcher), append(versions, reader)
			}
		}
		if _, err := s.in(writer, "tasks").Create(ctx, versionedObject(writer, "Task", name, versionedTask), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		expect := func(i int, want watch.EventType) {
			t.Helper()
			select {
			case event := <-watches[i].ResultChan():
				got, ok := event.Object.(*unstructured.Unstructured)
				if !ok || event.Type != want || got.GroupVersionKind() != versions[i].WithKind("Task") || got.GetName() != name {
					t.Errorf("watch %d, in %s: got %v, want %s of %s", i, versions[i].Version, event, want, name)
				}
			case <-ctx.Done():
				t.Fatalf("watch %d, in %s: got no event, want %s of %s", i, versions[i].Version, want, name)
			}
		}
		for i := range watches {
			expect(i, watch.Added)
		}
		s.bind(t, writer, name)
		for i := range watches {
			expect(i, []watch.EventType{watch.Modified, watch.Modified, watch.Deleted, watch.Deleted}[i])
		}
	}
}

func (s twoVersions) bind(t *testing.T, version schema.GroupVersion, name string) {
	t.Helper()
	binding := versionedObject(version, "Binding", name, `{"target": {"name": "w", "incarnation": "i"}}`)
	if _, err := s.in(version, "tasks").Create(t.Context(), binding, metav1.CreateOptions{}, "binding"); err != nil {
		t.Fatal(err)
	}
}

func (s twoVersions) testSelectors(t *testing.T) {
	for i, version := range versionsOfTest {
		other := versionsOfTest[1-i]
		_, err := s.in(version, "tasks").List(t.Context(), metav1.ListOptions{FieldSelector: workerNameIn(other) + "=w"})
		if !apierrors.IsBadRequest(err) || !strings.Contains(err.Error(), workerNameIn(version)) {
			t.Errorf("%s with the field of %s: got %v, want a bad request that names %s", version.Version, other.Version, err, workerNameIn(version))
		}
		if _, err := s.in(version, "tasks").List(t.Context(), metav1.ListOptions{FieldSelector: "spec.unknown=a"}); !apierrors.IsBadRequest(err) {
			t.Errorf("%s: an unknown field: got %v, want a bad request", version.Version, err)
		}
	}
}

// testTables compares the columns of tasks and the versions of their rows, of lists and of watches.
func (s twoVersions) testTables(t *testing.T) {
	if _, err := s.in(v1alpha1.SchemeGroupVersion, "tasks").Create(t.Context(), versionedObject(v1alpha1.SchemeGroupVersion, "Task", "row", versionedTask), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	s.bind(t, v1alpha1.SchemeGroupVersion, "row")
	for i, version := range versionsOfTest {
		for _, watch := range []string{"", "&watch=true"} {
			url := s.url + "/apis/" + version.String() + "/namespaces/n/tasks?includeObject=Object&fieldSelector=metadata.name%3Drow" + watch
			request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
			if err != nil {
				t.Fatal(err)
			}
			request.Header.Set("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
			response, err := http.DefaultClient.Do(request)
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			var table metav1.Table
			if watch == "" {
				err = json.NewDecoder(response.Body).Decode(&table)
			} else {
				event := struct{ Object *metav1.Table }{&table}
				err = json.NewDecoder(response.Body).Decode(&event)
			}
			if err != nil || len(table.Rows) != 1 {
				t.Fatalf("%s: got %d rows, %v, want 1", url, len(table.Rows), err)
			}
			cells := map[string]any{}
			for i, column := range table.ColumnDefinitions {
				cells[column.Name] = table.Rows[0].Cells[i]
			}
			for name, in := range map[string]int{"Attempts": 0, "Disruptions": 1} {
				if _, has := cells[name]; has != (in == i) {
					t.Errorf("%s: has column %s: got %t, want %t", url, name, has, in == i)
				}
			}
			if cells["Worker"] != "w" {
				t.Errorf("%s: got worker %v, want w", url, cells["Worker"])
			}
			row := &unstructured.Unstructured{}
			if err := json.Unmarshal(table.Rows[0].Object.Raw, row); err != nil || row.GroupVersionKind() != version.WithKind("Task") {
				t.Errorf("%s: got a row of %s, %v, want %s", url, row.GroupVersionKind(), err, version.WithKind("Task"))
			}
		}
	}
}

// testConflicts applies the same field in both versions, in the spec and in the status.
func (s twoVersions) testConflicts(t *testing.T) {
	for i, version := range versionsOfTest {
		other, name := versionsOfTest[1-i], "conflicts-in-"+version.Version
		apply := func(version schema.GroupVersion, manager string, parallelism int, force bool) (*unstructured.Unstructured, error) {
			set := versionedObject(version, "TaskSet", name, fmt.Sprintf(`{"spec": {"parallelism": %d, "template": {"spec": {"command": ["true"]}}}}`, parallelism))
			return s.in(version, "tasksets").Apply(t.Context(), name, set, metav1.ApplyOptions{FieldManager: manager, Force: force})
		}
		if _, err := apply(version, "a", 2, false); err != nil {
			t.Fatal(err)
		}
		if _, err := apply(other, "b", 3, false); !apierrors.IsConflict(err) || !strings.Contains(err.Error(), `conflict with "a"`) {
			t.Errorf("applied in %s: got %v, want a conflict with a", other.Version, err)
		}
		set, err := apply(other, "b", 3, true)
		if err != nil {
			t.Fatal(err)
		}
		for manager, want := range map[string]bool{"a": false, "b": true} {
			owns := registryOwners(set)[manager].Fields
			if strings.Contains(owns, "f:parallelism") || strings.Contains(owns, "f:maxActive") {
				if !want {
					t.Errorf("%s still owns the field that b has taken: %s", manager, owns)
				}
			} else if want {
				t.Errorf("%s owns %s, want the field that it has taken", manager, owns)
			}
		}
		if got, _, _ := unstructured.NestedInt64(inFirstVersion(s.get(t, version, "tasksets", name)).Object, "spec", "parallelism"); got != 3 {
			t.Errorf("%s: got parallelism %d, want 3", version.Version, got)
		}

		status := func(version schema.GroupVersion, manager string, active int) error {
			set := versionedObject(version, "TaskSet", name, fmt.Sprintf(`{"status": {"active": %d}}`, active))
			_, err := s.in(version, "tasksets").ApplyStatus(t.Context(), name, set, metav1.ApplyOptions{FieldManager: manager})
			return err
		}
		if err := status(version, "c", 1); err != nil {
			t.Fatal(err)
		}
		if err := status(other, "d", 2); !apierrors.IsConflict(err) || !strings.Contains(err.Error(), `conflict with "c"`) {
			t.Errorf("status applied in %s: got %v, want a conflict with c", other.Version, err)
		}
	}
}

func (s twoVersions) testResetFields(t *testing.T) {
	for _, version := range versionsOfTest {
		name := "applied-by-" + version.Version
		tasks := s.in(version, "tasks")
		all := versionedObject(version, "Task", name, `{
			"metadata": {"labels": {"a": "b"}}, "spec": {"command": ["true"], "workerName": "w"}, "status": {"phase": "Running", "progress": "1/2"}
		}`)
		if _, err := tasks.Apply(t.Context(), name, all, metav1.ApplyOptions{FieldManager: "spec"}); err != nil {
			t.Fatal(err)
		}
		applied, err := tasks.ApplyStatus(t.Context(), name, all, metav1.ApplyOptions{FieldManager: "status"})
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]registryOwner{
			"spec":   {version.String(), "", `{"f:metadata":{"f:labels":{"f:a":{}}},"f:spec":{"f:command":{}}}`},
			"status": {version.String(), "status", `{"f:status":{"f:phase":{},"f:progress":{}}}`},
		}
		if diff := cmp.Diff(want, registryOwners(applied)); diff != "" {
			t.Errorf("%s: want -, got +:\n%s", version.Version, diff)
		}
	}
}

func (s twoVersions) testScale(t *testing.T) {
	owned := map[schema.GroupVersion]string{
		v1alpha1.SchemeGroupVersion: `{"f:spec":{"f:parallelism":{}}}`, v1test.SchemeGroupVersion: `{"f:spec":{"f:maxActive":{}}}`,
	}
	for i, version := range versionsOfTest {
		other, name := versionsOfTest[1-i], "scaled-by-"+version.Version
		if _, err := s.in(other, "tasksets").Create(t.Context(), versionedObject(other, "TaskSet", name, versionedSet), metav1.CreateOptions{FieldManager: "creator"}); err != nil {
			t.Fatal(err)
		}
		scale := versionedObject(schema.GroupVersion{Group: "autoscaling", Version: "v1"}, "Scale", name,
			`{"metadata": {"namespace": "n", "labels": {"a": "b"}}, "spec": {"replicas": 2}, "status": {"replicas": 9}}`)
		set, err := s.in(version, "tasksets").Apply(t.Context(), name, scale, metav1.ApplyOptions{FieldManager: "scaler", Force: true}, "scale")
		if err != nil {
			t.Fatal(err)
		}
		if replicas, _, _ := unstructured.NestedInt64(set.Object, "spec", "replicas"); replicas != 2 {
			t.Errorf("%s: got the scale %v, want 2 replicas", version.Version, set.Object)
		}
		for _, reader := range versionsOfTest {
			set = s.get(t, reader, "tasksets", name)
			if parallelism, _, _ := unstructured.NestedInt64(inFirstVersion(set).Object, "spec", "parallelism"); parallelism != 2 {
				t.Errorf("%s: got parallelism %d, want 2", reader.Version, parallelism)
			}
			if diff := cmp.Diff(registryOwner{version.String(), "scale", owned[version]}, registryOwners(set)["scaler"]); diff != "" {
				t.Errorf("scaled in %s, read in %s: want -, got +:\n%s", version.Version, reader.Version, diff)
			}
		}
		// In the other version, the same manager owns the field of that version.
		_, err = s.in(other, "tasksets").Apply(t.Context(), name, versionedObject(other, "TaskSet", name, `{"spec": {"parallelism": 3}}`), metav1.ApplyOptions{FieldManager: "other"})
		if !apierrors.IsConflict(err) || !strings.Contains(err.Error(), `conflict with "scaler"`) {
			t.Errorf("%s: got %v, want a conflict with the scaler", other.Version, err)
		}
	}
}

func (s twoVersions) testValidation(t *testing.T) {
	parallelism := map[schema.GroupVersion]string{v1alpha1.SchemeGroupVersion: "spec.parallelism", v1test.SchemeGroupVersion: "spec.maxActive"}
	for _, version := range versionsOfTest {
		for _, test := range []struct {
			resource, kind, content string
			want                    []string
		}{
			{"tasks", "Task", `{"spec": {"command": [], "args": ["\u0000"]}}`, []string{"spec.args[0]", "spec.command"}},
			// Declarative validation runs in the version of the request, and domain rules on internal objects.
			{"tasksets", "TaskSet", `{"spec": {"parallelism": -1, "template": {"spec": {"command": ["true"]}}}}`, []string{parallelism[version]}},
			{"tasksets", "TaskSet", `{"spec": {"parallelism": 100001, "completions": 3, "completionMode": "Indexed", "template": {"spec": {"command": ["true"]}}}}`, []string{parallelism[version]}},
		} {
			_, err := s.in(version, test.resource).Create(t.Context(), versionedObject(version, test.kind, "invalid", test.content), metav1.CreateOptions{})
			var fields []string
			if status, ok := err.(apierrors.APIStatus); ok && apierrors.IsInvalid(err) {
				for _, cause := range status.Status().Details.Causes {
					fields = append(fields, cause.Field)
				}
			}
			if diff := cmp.Diff(test.want, fields); diff != "" {
				t.Errorf("%s: %s: %v: want -, got +:\n%s", version.Version, test.content, err, diff)
			}
		}
	}
}

func (s twoVersions) testBinding(t *testing.T) {
	for i, version := range versionsOfTest {
		other, name := versionsOfTest[1-i], "bound-by-"+version.Version
		if _, err := s.in(other, "tasks").Create(t.Context(), versionedObject(other, "Task", name, versionedTask), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		s.bind(t, version, name)
		for _, reader := range versionsOfTest {
			list, err := s.in(reader, "tasks").List(t.Context(), metav1.ListOptions{FieldSelector: workerNameIn(reader) + "=w,metadata.name=" + name})
			if err != nil {
				t.Fatal(err)
			}
			if len(list.Items) != 1 {
				t.Errorf("bound in %s, listed in %s: got %d tasks of the worker, want 1", version.Version, reader.Version, len(list.Items))
			}
		}
		// The status is fenced in each version.
		_, err := s.in(version, "tasks").Patch(t.Context(), name, types.MergePatchType, []byte(`{"status": {"incarnation": "j"}}`), metav1.PatchOptions{}, "status")
		if !apierrors.IsConflict(err) {
			t.Errorf("%s: a write of another incarnation: got %v, want a conflict", version.Version, err)
		}
	}
}

// registryOwner is an entry of metadata.managedFields.
type registryOwner struct{ Version, Subresource, Fields string }

func registryOwners(object *unstructured.Unstructured) map[string]registryOwner {
	owners := map[string]registryOwner{}
	for _, entry := range object.GetManagedFields() {
		owners[entry.Manager] = registryOwner{entry.APIVersion, entry.Subresource, entry.FieldsV1.GetRawString()}
	}
	return owners
}

// storedVersion returns the version in which an object is stored.
func (s twoVersions) storedVersion(t *testing.T, resource, name string) string {
	t.Helper()
	client, err := s.etcd.Client()
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	prefix := path.Join(registryEtcdPrefix(s.name), resource, "n", name)
	response, err := client.Get(t.Context(), prefix)
	if err != nil {
		t.Fatal(err)
	}
	if len(response.Kvs) != 1 {
		t.Fatalf("%s: got %d values in etcd, want 1", prefix, len(response.Kvs))
	}
	value, isProtobuf := bytes.CutPrefix(response.Kvs[0].Value, []byte("k8s\x00"))
	if !isProtobuf {
		var meta metav1.TypeMeta
		if err := json.Unmarshal(response.Kvs[0].Value, &meta); err != nil {
			t.Fatalf("%s is stored neither as protobuf nor as JSON: %v", prefix, err)
		}
		return meta.APIVersion
	}
	unknown := &runtime.Unknown{}
	if err := unknown.Unmarshal(value); err != nil {
		t.Fatal(err)
	}
	return unknown.APIVersion
}

// registryEtcdWatches returns how many watches etcd serves.
func registryEtcdWatches(t *testing.T, etcd *host.Etcd) int {
	t.Helper()
	config := rest.TLSClientConfig{CAFile: etcd.CAFile, CertFile: etcd.CertFile, KeyFile: etcd.KeyFile}
	transport, err := rest.TransportFor(&rest.Config{TLSClientConfig: config})
	if err != nil {
		t.Fatal(err)
	}
	response, err := (&http.Client{Transport: transport}).Get(etcd.Endpoint + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	match := regexp.MustCompile(`(?m)^etcd_debugging_mvcc_watcher_total (\d+)$`).FindSubmatch(body)
	if match == nil {
		t.Fatal("etcd has no metric of its watches")
	}
	watchers, err := strconv.Atoi(string(match[1]))
	if err != nil {
		t.Fatal(err)
	}
	return watchers
}
