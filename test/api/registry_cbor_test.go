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
	"io"
	"net/http"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime/serializer/cbor/direct"
	"k8s.io/client-go/rest"

	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/generated/kinds"
	"github.com/leat-dev/leat/test/kit"
)

// registryCall sends a request that accepts CBOR and returns the response with its body. A non-nil object is sent as
// CBOR. The caller closes the body of the response to a watch.
func registryCall(t *testing.T, config *rest.Config, method, path, contentType string, object any) (*http.Response, []byte) {
	t.Helper()
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	body, err := direct.Marshal(object)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	request, err := http.NewRequestWithContext(ctx, method, config.Host+"/apis/batch.leat.dev/v1alpha1/namespaces/"+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Accept", "application/cbor")
	if object != nil {
		request.Header.Set("Content-Type", contentType)
	}
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(path, "watch=") {
		return response, nil
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, answer
}

// registryContent returns the object "a" of a kind.
func registryContent(t *testing.T, kind kinds.Kind) map[string]any {
	t.Helper()
	content, ok := registryContents[kind.Resource]
	if !ok {
		t.Fatalf("%s: add an object to registryContents", kind.Resource)
	}
	return versionedObject(v1alpha1.SchemeGroupVersion, kind.Name, "a", content).Object
}

// registryWriter returns the credentials of a client that may create the object "a" of a resource. For Workers and
// WorkerLeases, it is the worker itself.
func registryWriter(t *testing.T, e *kit.Env, namespace, resource string) *rest.Config {
	t.Helper()
	if strings.HasPrefix(resource, "worker") {
		return e.Worker(t, namespace, "a")
	}
	return e.Admin(t)
}

func TestCBORIsRefusedByDefault(t *testing.T) { testCBORIsRefusedByDefault(t, kit.Aggregated(t)) }

func testCBORIsRefusedByDefault(t *testing.T, e *kit.Env) {
	namespace, admin := e.Namespace(t), e.Admin(t)
	for _, kind := range kinds.All {
		resource := kind.Resource
		writer := registryWriter(t, e, namespace, resource)
		if response, answer := registryCall(t, admin, http.MethodGet, namespace+"/"+resource, "", nil); response.StatusCode != http.StatusNotAcceptable {
			t.Errorf("%s: get with CBOR: got %s, want 406: %s", resource, response.Status, answer)
		}
		response, answer := registryCall(t, writer, http.MethodPost, namespace+"/"+resource, "application/cbor", registryContent(t, kind))
		// Upstream's handlers decide which of the two headers they check first.
		if response.StatusCode != http.StatusUnsupportedMediaType && response.StatusCode != http.StatusNotAcceptable {
			t.Errorf("%s: create with CBOR: got %s, want 415 or 406: %s", resource, response.Status, answer)
		}
	}
}

func TestAllKindsServeCBORWithItsFeatureGate(t *testing.T) {
	e := kit.Aggregated(t, "--feature-gates=kube:CBORServingAndStorage=true")
	namespace, admin := e.Namespace(t), e.Admin(t)
	for _, kind := range kinds.All {
		resource := kind.Resource
		t.Run(resource, func(t *testing.T) {
			path := namespace + "/" + resource
			read := func(response *http.Response, answer []byte, status int) map[string]any {
				t.Helper()
				if response.StatusCode != status || response.Header.Get("Content-Type") != "application/cbor" {
					t.Fatalf("got %s of type %s, want %d of application/cbor: %s", response.Status, response.Header.Get("Content-Type"), status, answer)
				}
				var object map[string]any
				if err := direct.Unmarshal(answer, &object); err != nil {
					t.Fatal(err)
				}
				return object
			}
			writer := registryWriter(t, e, namespace, resource)
			response, answer := registryCall(t, writer, http.MethodPost, path, "application/cbor", registryContent(t, kind))
			created := read(response, answer, http.StatusCreated)
			if created["kind"] != kind.Name {
				t.Errorf("created kind: got %v, want %v", created["kind"], kind.Name)
			}
			response, answer = registryCall(t, admin, http.MethodGet, path, "", nil)
			list := read(response, answer, http.StatusOK)
			if items, _ := list["items"].([]any); len(items) != 1 {
				t.Errorf("list: got %v, want one item", list)
			}
			created["metadata"].(map[string]any)["labels"] = map[string]any{"a": "b"}
			response, answer = registryCall(t, writer, http.MethodPut, path+"/a", "application/cbor", created)
			if labels := read(response, answer, http.StatusOK)["metadata"].(map[string]any)["labels"].(map[string]any); labels["a"] != "b" {
				t.Errorf("updated labels: got %v, want a: b among them", labels)
			}
			if resource == "tasks" {
				response, answer = registryCall(t, admin, http.MethodPatch, path+"/a?fieldManager=m&force=true", "application/apply-patch+cbor", map[string]any{
					"apiVersion": "batch.leat.dev/v1alpha1", "kind": kind.Name, "metadata": map[string]any{"labels": map[string]any{"a": "c"}},
				})
				if labels := read(response, answer, http.StatusOK)["metadata"].(map[string]any)["labels"].(map[string]any); labels["a"] != "c" {
					t.Errorf("applied labels: got %v, want a: c among them", labels)
				}
			}
			if !kind.Watched {
				return
			}
			response, _ = registryCall(t, admin, http.MethodGet, path+"?watch=true", "", nil)
			defer response.Body.Close()
			if contentType := response.Header.Get("Content-Type"); response.StatusCode != http.StatusOK || contentType != "application/cbor-seq" {
				t.Fatalf("watch: got %s of type %s, want 200 of application/cbor-seq", response.Status, contentType)
			}
			event := make([]byte, 64<<10)
			n, err := response.Body.Read(event)
			if err != nil && n == 0 {
				t.Fatal(err)
			}
			if !bytes.Contains(event[:n], []byte("ADDED")) {
				t.Errorf("first event: got %q, want ADDED", event[:n])
			}
		})
	}
}
