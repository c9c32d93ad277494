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
	"net/http"
	"net/http/httptest"
	"path"
	"reflect"
	"regexp"
	"strconv"
	"strings"
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
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	"k8s.io/apiserver/pkg/endpoints/openapi"
	genericapiserver "k8s.io/apiserver/pkg/server"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	basecompatibility "k8s.io/component-base/compatibility"
	baseversion "k8s.io/component-base/version"

	"github.com/leat-dev/leat/apis/batch"
	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	leatscheme "github.com/leat-dev/leat/pkg/apiserver/scheme"
	generatedopenapi "github.com/leat-dev/leat/pkg/generated/openapi"
	registrybatch "github.com/leat-dev/leat/pkg/registry/batch"
	"github.com/leat-dev/leat/pkg/registry/batch/task"
	"github.com/leat-dev/leat/test/kit/host"
)

// v1beta1 is a version that exists in tests alone. It has the types of v1alpha1, so what differs between the two is what the
// registry makes of them.
var v1beta1 = schema.GroupVersion{Group: batch.GroupName, Version: "v1beta1"}

// newSchemeOfTwoVersions gives a copy of the server's scheme with a second version of every kind.
func newSchemeOfTwoVersions() *runtime.Scheme {
	scheme := leatscheme.New()
	own := reflect.TypeFor[v1alpha1.Task]().PkgPath()
	for kind, goType := range scheme.KnownTypes(v1alpha1.SchemeGroupVersion) {
		if goType.PkgPath() != own {
			continue
		}
		scheme.AddKnownTypeWithName(v1beta1.WithKind(kind), reflect.New(goType).Interface().(runtime.Object))
		utilruntime.Must(scheme.AddFieldLabelConversionFunc(v1beta1.WithKind(kind), func(label, value string) (string, string, error) {
			return scheme.ConvertFieldLabel(v1alpha1.SchemeGroupVersion.WithKind(kind), label, value)
		}))
	}
	metav1.AddToGroupVersion(scheme, v1beta1)
	utilruntime.Must(scheme.SetVersionPriority(v1beta1, v1alpha1.SchemeGroupVersion))
	return scheme
}

// serveTwoVersions serves both versions, to everyone, over one set of stores.
func serveTwoVersions(t *testing.T, etcd *host.Etcd) dynamic.Interface {
	t.Helper()
	scheme := newSchemeOfTwoVersions()
	codecs := serializer.NewCodecFactory(scheme)
	config := newRegistryConfig(t, etcd, scheme)
	config.ExternalAddress = "127.0.0.1:443"
	config.LoopbackClientConfig = &rest.Config{}
	config.Authorization.Authorizer = authorizerfactory.NewAlwaysAllowAuthorizer()
	config.FeatureGate = utilfeature.DefaultFeatureGate
	config.EffectiveVersion = basecompatibility.NewEffectiveVersionFromString(baseversion.DefaultKubeBinaryVersion, "", "")
	namer := openapi.NewDefinitionNamer(scheme)
	config.OpenAPIConfig = genericapiserver.DefaultOpenAPIConfig(generatedopenapi.GetOpenAPIDefinitions, namer)
	config.OpenAPIV3Config = genericapiserver.DefaultOpenAPIV3Config(generatedopenapi.GetOpenAPIDefinitions, namer)

	server, err := config.Complete().New("two-versions", genericapiserver.NewEmptyDelegate())
	if err != nil {
		t.Fatal(err)
	}
	stores, err := registrybatch.NewStores(scheme, config.RESTOptionsGetter)
	if err != nil {
		t.Fatal(err)
	}
	group := genericapiserver.NewDefaultAPIGroupInfo(batch.GroupName, scheme, runtime.NewParameterCodec(scheme), codecs)
	group.VersionedResourcesStorageMap = stores.Storage(task.Subresources{})
	group.VersionedResourcesStorageMap[v1beta1.Version] = stores.Storage(task.Subresources{})[v1alpha1.SchemeGroupVersion.Version]
	if err := server.InstallAPIGroup(&group); err != nil {
		t.Fatal(err)
	}
	listener := httptest.NewServer(server.PrepareRun().Handler)
	t.Cleanup(func() {
		listener.CloseClientConnections()
		listener.Close()
		server.Destroy()
	})
	client, err := dynamic.NewForConfig(&rest.Config{Host: listener.URL, QPS: -1})
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range registrybatch.Kinds {
		if err := wait.PollUntilContextTimeout(t.Context(), 10*time.Millisecond, time.Minute, true, func(ctx context.Context) (bool, error) {
			_, err := client.Resource(v1beta1.WithResource(kind.Describe().GroupResource.Resource)).List(ctx, metav1.ListOptions{})
			return err == nil, nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	return client
}

func TestTwoVersionsShareOneStore(t *testing.T) {
	etcd := host.EtcdForTest(t)
	before := etcdWatchers(t, etcd)
	s := twoVersions{etcd: etcd, client: serveTwoVersions(t, etcd)}
	watches := 0
	if err := wait.PollUntilContextTimeout(t.Context(), 50*time.Millisecond, time.Minute, true, func(context.Context) (bool, error) {
		watches = etcdWatchers(t, etcd) - before
		return watches == len(registrybatch.Kinds), nil
	}); err != nil {
		t.Errorf("there are %d watches of etcd, want one for each of %d kinds", watches, len(registrybatch.Kinds))
	}
	t.Run("what one version writes the other reads", s.testReadAcross)
	t.Run("a watch speaks its own version", s.testWatch)
	t.Run("fields that are reset have no owner", s.testResetFields)
	t.Run("the owner of a scale's replicas is one of its parent's", s.testScale)
	t.Run("validation names the fields of either version", s.testValidation)
	t.Run("a task is bound through either version", s.testBinding)
}

type twoVersions struct {
	etcd   *host.Etcd
	client dynamic.Interface
}

// both are the versions, the stored one last.
var both = []schema.GroupVersion{v1alpha1.SchemeGroupVersion, v1beta1}

func (s twoVersions) in(version schema.GroupVersion, resource string) dynamic.ResourceInterface {
	return s.client.Resource(version.WithResource(resource)).Namespace("n")
}

func object(version schema.GroupVersion, kind, name, content string) *unstructured.Unstructured {
	object := &unstructured.Unstructured{}
	if err := json.Unmarshal([]byte(content), &object.Object); err != nil {
		panic(err)
	}
	object.SetGroupVersionKind(version.WithKind(kind))
	object.SetName(name)
	return object
}

const (
	taskSpec = `{"spec": {"command": ["true"]}}`
	setSpec  = `{"spec": {"completions": 3, "completionMode": "Indexed", "template": {"spec": {"command": ["true"]}}}}`
)

func (s twoVersions) testReadAcross(t *testing.T) {
	contents := map[string]struct{ kind, content string }{
		"tasks": {"Task", taskSpec}, "tasksets": {"TaskSet", setSpec}, "taskqueues": {"TaskQueue", `{"spec": {"weight": 3}}`},
		"workers": {"Worker", `{"spec": {"unschedulable": true}}`}, "workerleases": {"WorkerLease", `{"spec": {"holderIdentity": "i"}}`},
	}
	for _, kind := range registrybatch.Kinds {
		resource := kind.Describe().GroupResource.Resource
		content, ok := contents[resource]
		if !ok {
			t.Errorf("%s: add an object to contents", resource)
			continue
		}
		for i, writer := range both {
			reader := both[1-i]
			name := "written-by-" + writer.Version
			written, err := s.in(writer, resource).Create(t.Context(), object(writer, content.kind, name, content.content), metav1.CreateOptions{FieldManager: "m"})
			if err != nil {
				t.Fatal(err)
			}
			read, err := s.in(reader, resource).Get(t.Context(), name, metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if read.GroupVersionKind() != reader.WithKind(content.kind) {
				t.Errorf("%s reads a %s", reader, read.GroupVersionKind())
			}
			read.SetAPIVersion(written.GetAPIVersion())
			if diff := cmp.Diff(written.Object, read.Object); diff != "" {
				t.Errorf("%s: written by %s -, read by %s +:\n%s", resource, writer.Version, reader.Version, diff)
			}
			if stored := s.stored(t, resource, name); stored != v1beta1.String() {
				t.Errorf("%s, written by %s, is stored as %s", resource, writer.Version, stored)
			}
		}
	}
}

// stored gives the version in which an object is in etcd.
func (s twoVersions) stored(t *testing.T, resource, name string) string {
	t.Helper()
	client, err := s.etcd.Client()
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	prefix := path.Join(registryEtcdPrefix(strings.Split(t.Name(), "/")[0]), resource, "n", name)
	response, err := client.Get(t.Context(), prefix)
	if err != nil {
		t.Fatal(err)
	}
	if len(response.Kvs) != 1 {
		t.Fatalf("there are %d values at %s", len(response.Kvs), prefix)
	}
	unknown := &runtime.Unknown{}
	value, ok := bytes.CutPrefix(response.Kvs[0].Value, []byte("k8s\x00"))
	if !ok {
		t.Fatalf("%s is not stored as protobuf: %q", prefix, response.Kvs[0].Value)
	}
	if err := unknown.Unmarshal(value); err != nil {
		t.Fatal(err)
	}
	return unknown.APIVersion
}

func (s twoVersions) testWatch(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, writer := range both {
		list, err := s.in(v1beta1, "tasks").List(ctx, metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		name := "watched-by-" + writer.Version
		for _, selector := range []string{"metadata.name=" + name, "metadata.name=" + name + ",spec.workerName="} {
			for _, reader := range both {
				watcher, err := s.in(reader, "tasks").Watch(ctx, metav1.ListOptions{ResourceVersion: list.GetResourceVersion(), FieldSelector: selector})
				if err != nil {
					t.Fatal(err)
				}
				defer watcher.Stop()
				// The first watch sees the task come, the others see that it is there.
				_, err = s.in(writer, "tasks").Create(ctx, object(writer, "Task", name, taskSpec), metav1.CreateOptions{})
				if err != nil && !apierrors.IsAlreadyExists(err) {
					t.Fatal(err)
				}
				select {
				case event := <-watcher.ResultChan():
					got, ok := event.Object.(*unstructured.Unstructured)
					if !ok || got.GroupVersionKind() != reader.WithKind("Task") || got.GetName() != name {
						t.Errorf("a watch in %s got %v", reader.Version, event)
					}
				case <-ctx.Done():
					t.Fatalf("a watch in %s of %s got nothing", reader.Version, selector)
				}
			}
		}
	}
}

func (s twoVersions) testResetFields(t *testing.T) {
	for _, version := range both {
		name := "applied-by-" + version.Version
		tasks := s.in(version, "tasks")
		all := object(version, "Task", name, `{
			"metadata": {"labels": {"a": "b"}}, "spec": {"command": ["true"]}, "status": {"phase": "Running", "progress": "1/2"}
		}`)
		if _, err := tasks.Apply(t.Context(), name, all, metav1.ApplyOptions{FieldManager: "spec"}); err != nil {
			t.Fatal(err)
		}
		applied, err := tasks.ApplyStatus(t.Context(), name, all, metav1.ApplyOptions{FieldManager: "status"})
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]owner{
			"spec":   {version.String(), "", `{"f:metadata":{"f:labels":{"f:a":{}}},"f:spec":{"f:command":{}}}`},
			"status": {version.String(), "status", `{"f:status":{"f:phase":{},"f:progress":{}}}`},
		}
		if diff := cmp.Diff(want, owners(applied)); diff != "" {
			t.Errorf("%s: want -, got +:\n%s", version.Version, diff)
		}
	}
}

func (s twoVersions) testScale(t *testing.T) {
	const owned = `{"f:spec":{"f:parallelism":{}}}`
	for i, version := range both {
		name := "scaled-by-" + version.Version
		if _, err := s.in(both[1-i], "tasksets").Create(t.Context(), object(both[1-i], "TaskSet", name, setSpec), metav1.CreateOptions{FieldManager: "creator"}); err != nil {
			t.Fatal(err)
		}
		scale := object(schema.GroupVersion{Group: "autoscaling", Version: "v1"}, "Scale", name,
			fmt.Sprintf(`{"metadata": {"namespace": "n", "labels": {"a": "b"}}, "spec": {"replicas": %d}, "status": {"replicas": 9}}`, 2))
		set, err := s.in(version, "tasksets").Apply(t.Context(), name, scale, metav1.ApplyOptions{FieldManager: "scaler", Force: true}, "scale")
		if err != nil {
			t.Fatal(err)
		}
		if replicas, _, _ := unstructured.NestedInt64(set.Object, "spec", "replicas"); replicas != 2 {
			t.Errorf("%s: the scale answers %v", version.Version, set.Object)
		}
		for _, reader := range both {
			set, err = s.in(reader, "tasksets").Get(t.Context(), name, metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if parallelism, _, _ := unstructured.NestedInt64(set.Object, "spec", "parallelism"); parallelism != 2 {
				t.Errorf("%s: parallelism is %d", reader.Version, parallelism)
			}
			if diff := cmp.Diff(owner{version.String(), "scale", owned}, owners(set)["scaler"]); diff != "" {
				t.Errorf("scaled by %s, read by %s: want -, got +:\n%s", version.Version, reader.Version, diff)
			}
		}
		// The owner is known in the other version too: who applies the same field conflicts with it.
		_, err = s.in(both[1-i], "tasksets").Apply(t.Context(), name, object(both[1-i], "TaskSet", name, `{"spec": {"parallelism": 3}}`), metav1.ApplyOptions{FieldManager: "other"})
		if !apierrors.IsConflict(err) || !strings.Contains(err.Error(), `conflict with "scaler"`) {
			t.Errorf("%s: got %v, want a conflict with the scaler", both[1-i].Version, err)
		}
	}
}

func (s twoVersions) testValidation(t *testing.T) {
	for _, version := range both {
		_, err := s.in(version, "tasks").Create(t.Context(), object(version, "Task", "invalid", `{"spec": {"command": [], "args": ["\u0000"]}}`), metav1.CreateOptions{})
		var fields []string
		if status, ok := err.(apierrors.APIStatus); ok && apierrors.IsInvalid(err) {
			for _, cause := range status.Status().Details.Causes {
				fields = append(fields, cause.Field)
			}
		}
		if diff := cmp.Diff([]string{"spec.args[0]", "spec.command"}, fields); diff != "" {
			t.Errorf("%s: %v: want -, got +:\n%s", version.Version, err, diff)
		}
		if _, err := s.in(version, "tasks").List(t.Context(), metav1.ListOptions{FieldSelector: "spec.unknown=a"}); !apierrors.IsBadRequest(err) {
			t.Errorf("%s: an unknown field: %v", version.Version, err)
		}
	}
}

func (s twoVersions) testBinding(t *testing.T) {
	for i, version := range both {
		name := "bound-by-" + version.Version
		if _, err := s.in(both[1-i], "tasks").Create(t.Context(), object(both[1-i], "Task", name, taskSpec), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		binding := object(version, "Binding", name, `{"target": {"name": "w", "incarnation": "i"}}`)
		if _, err := s.in(version, "tasks").Create(t.Context(), binding, metav1.CreateOptions{}, "binding"); err != nil {
			t.Fatal(err)
		}
		for _, reader := range both {
			list, err := s.in(reader, "tasks").List(t.Context(), metav1.ListOptions{FieldSelector: "spec.workerName=w,metadata.name=" + name})
			if err != nil {
				t.Fatal(err)
			}
			if len(list.Items) != 1 {
				t.Errorf("bound by %s, %s finds %d tasks of the worker", version.Version, reader.Version, len(list.Items))
			}
		}
		// The status is fenced in either version.
		_, err := s.in(version, "tasks").Patch(t.Context(), name, types.MergePatchType, []byte(`{"status": {"incarnation": "j"}}`), metav1.PatchOptions{}, "status")
		if !apierrors.IsConflict(err) {
			t.Errorf("%s: a write of another incarnation: %v", version.Version, err)
		}
	}
}

// owner is an entry of metadata.managedFields.
type owner struct{ Version, Subresource, Fields string }

func owners(object *unstructured.Unstructured) map[string]owner {
	owners := map[string]owner{}
	for _, entry := range object.GetManagedFields() {
		owners[entry.Manager] = owner{entry.APIVersion, entry.Subresource, entry.FieldsV1.GetRawString()}
	}
	return owners
}

// etcdWatchers gives how many watches etcd serves.
func etcdWatchers(t *testing.T, etcd *host.Etcd) int {
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
		t.Fatal("etcd tells no number of watchers")
	}
	watchers, err := strconv.Atoi(string(match[1]))
	if err != nil {
		t.Fatal(err)
	}
	return watchers
}
