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

package incluster

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/client-go/rest"

	"github.com/leat-dev/leat/test/kit"
)

const (
	openAPIPath  = "/openapi/v3" + groupPath
	aggregatedV2 = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
	everyVerb    = "create delete deletecollection get list patch update watch"
	statusVerbs  = "get patch update"
)

// served has the verbs and the short names of each resource.
var served = map[string][2]string{
	"tasks":             {everyVerb, "tk"},
	"tasks/binding":     {"create", ""},
	"tasks/eviction":    {"create", ""},
	"tasks/status":      {statusVerbs, ""},
	"tasksets":          {everyVerb, "tks"},
	"tasksets/scale":    {statusVerbs, ""},
	"tasksets/status":   {statusVerbs, ""},
	"taskqueues":        {everyVerb, "tq"},
	"taskqueues/status": {statusVerbs, ""},
	"workers":           {everyVerb, "wkr"},
	"workers/status":    {statusVerbs, ""},
	"workerleases":      {"create delete deletecollection get list patch update", ""},
}

// discover returns the aggregated discovery of Leat's group by a server.
func discover(t testing.TB, config *rest.Config) (*apidiscoveryv2.APIGroupDiscovery, error) {
	t.Helper()
	got := kit.Do(t, config, http.MethodGet, "/apis", "", "Accept", aggregatedV2)
	var list apidiscoveryv2.APIGroupDiscoveryList
	if err := json.Unmarshal([]byte(got.Body), &list); got.Code != http.StatusOK || err != nil {
		return nil, fmt.Errorf("GET /apis: got %d %q, want 200", got.Code, got.Body)
	}
	for i := range list.Items {
		if list.Items[i].Name == group {
			return &list.Items[i], nil
		}
	}
	return nil, fmt.Errorf("discovery has no group %s", group)
}

// testServerDiscovery checks discovery, OpenAPI and the version at the server itself.
func testServerDiscovery(t *testing.T, e *kit.Env) {
	direct := e.Direct(t, "reader", "system:authenticated")

	t.Run("aggregated discovery has all kinds", func(t *testing.T) {
		found := kit.Must(discover(t, direct))(t)
		if len(found.Versions) != 1 || found.Versions[0].Version != "v1alpha1" {
			t.Fatalf("versions: got %+v, want only v1alpha1", found.Versions)
		}
		got := map[string][2]string{}
		for _, resource := range found.Versions[0].Resources {
			if resource.Scope != apidiscoveryv2.ScopeNamespace {
				t.Errorf("scope of %s: got %q, want Namespaced", resource.Resource, resource.Scope)
			}
			got[resource.Resource] = [2]string{sorted(resource.Verbs), sorted(resource.ShortNames)}
			for _, sub := range resource.Subresources {
				got[resource.Resource+"/"+sub.Subresource] = [2]string{sorted(sub.Verbs)}
			}
			if inAll := slices.Contains(resource.Categories, "all"); inAll != (resource.Resource == "tasksets" || resource.Resource == "taskqueues") {
				t.Errorf("%s in category all: got %t, want the opposite", resource.Resource, inAll)
			}
		}
		for resource, want := range served {
			if got[resource] != want {
				t.Errorf("verbs and short names of %s: got %q, want %q", resource, got[resource], want)
			}
		}
	})

	t.Run("OpenAPI describes all kinds", func(t *testing.T) {
		for _, path := range []string{"/openapi/v2", openAPIPath} {
			document := kit.Do(t, direct, http.MethodGet, path, "", "Accept", "application/json")
			if err := checkOpenAPI(document); err != nil {
				t.Errorf("%s: %v", path, err)
			}
		}
	})

	t.Run("authenticated users can read the version", func(t *testing.T) {
		got := kit.Do(t, direct, http.MethodGet, "/version", "")
		var info struct{ Minor, GitVersion string }
		if err := json.Unmarshal([]byte(got.Body), &info); got.Code != http.StatusOK || err != nil || info.Minor == "" || info.GitVersion == "" {
			t.Errorf("GET /version: got %s, want 200 with the version", got)
		}
	})
}

// checkOpenAPI returns an error if an OpenAPI document, v2 or v3, lacks a kind or a path of Leat.
func checkOpenAPI(document kit.Response) error {
	if document.Code != http.StatusOK {
		return fmt.Errorf("got %s, want 200", document)
	}
	type schema struct {
		Kinds []struct{ Group, Version, Kind string } `json:"x-kubernetes-group-version-kind"`
	}
	var got struct {
		Paths       map[string]any
		Definitions map[string]schema
		Components  struct{ Schemas map[string]schema }
	}
	if err := json.Unmarshal([]byte(document.Body), &got); err != nil {
		return err
	}
	kinds := map[string]bool{}
	for _, schemas := range []map[string]schema{got.Definitions, got.Components.Schemas} {
		for _, schema := range schemas {
			for _, kind := range schema.Kinds {
				if kind.Group == group && kind.Version == "v1alpha1" {
					kinds[kind.Kind] = true
				}
			}
		}
	}
	for _, kind := range []string{"Task", "TaskList", "TaskSet", "TaskSetList", "TaskQueue", "TaskQueueList", "Worker", "WorkerList", "WorkerLease", "WorkerLeaseList", "Binding", "Eviction"} {
		if !kinds[kind] {
			return fmt.Errorf("it lacks the kind %s", kind)
		}
	}
	for resource := range served {
		plural, sub, found := strings.Cut(resource, "/")
		path := groupPath + "/namespaces/{namespace}/" + plural
		if found {
			path += "/{name}/" + sub
		}
		if got.Paths[path] == nil {
			return fmt.Errorf("it lacks the path %s", path)
		}
	}
	return nil
}

func sorted(words []string) string {
	return strings.Join(slices.Sorted(slices.Values(words)), " ")
}

// testHostDiscovery checks that the aggregator serves the discovery and the OpenAPI documents of the server.
func testHostDiscovery(t *testing.T, e *kit.Env) {
	reader, direct := e.Person(t, "reader"), e.Direct(t, "reader")

	t.Run("aggregated discovery is that of the server", func(t *testing.T) {
		want := kit.Must(discover(t, direct))(t)
		kit.Eventually(t, "the discovery of the host has the resources of the server", func(context.Context) error {
			got, err := discover(t, reader)
			if err != nil {
				return err
			}
			if len(got.Versions) != 1 || got.Versions[0].Freshness != apidiscoveryv2.DiscoveryFreshnessCurrent {
				return fmt.Errorf("versions: got %+v, want one that is current", got.Versions)
			}
			if !apiequality.Semantic.DeepEqual(got.Versions[0].Resources, want.Versions[0].Resources) {
				return fmt.Errorf("resources: got %+v, want %+v", got.Versions[0].Resources, want.Versions[0].Resources)
			}
			return nil
		})
	})

	t.Run("OpenAPI v2 includes the group", func(t *testing.T) {
		kit.Eventually(t, "the OpenAPI document of the host includes the group", func(context.Context) error {
			return checkOpenAPI(kit.Do(t, reader, http.MethodGet, "/openapi/v2", "", "Accept", "application/json"))
		})
	})

	t.Run("OpenAPI v3 is that of the server", func(t *testing.T) {
		want := openAPIIndex(t, direct)
		kit.Eventually(t, "the OpenAPI index of the host has the entry of the server", func(context.Context) error {
			if got := openAPIIndex(t, reader); got != want {
				return fmt.Errorf("URL of the group: got %q, want %q", got, want)
			}
			return nil
		})
		if host, own := kit.Do(t, reader, http.MethodGet, want, ""), kit.Do(t, direct, http.MethodGet, want, ""); host != own {
			t.Errorf("answer of the host: %d with %d bytes, of the server: %d with %d bytes; want the same", host.Code, len(host.Body), own.Code, len(own.Body))
		}
	})
}

// openAPIIndex returns the URL of the OpenAPI v3 document of Leat's group. It contains a hash of the document.
func openAPIIndex(t testing.TB, config *rest.Config) string {
	t.Helper()
	got := kit.Do(t, config, http.MethodGet, "/openapi/v3", "")
	var index struct {
		Paths map[string]struct{ ServerRelativeURL string }
	}
	if err := json.Unmarshal([]byte(got.Body), &index); got.Code != http.StatusOK || err != nil {
		t.Fatalf("GET /openapi/v3: got %s, want an index", got)
	}
	return index.Paths[strings.TrimPrefix(groupPath, "/")].ServerRelativeURL
}

// testServerRestart checks that discovery and OpenAPI are the same bytes after a restart. If replicas served different
// bytes, the host would merge its documents again each time it asks another replica.
func testServerRestart(t *testing.T, e *kit.Env) {
	direct := e.Direct(t, "reader", "system:authenticated")
	read := func() map[string]kit.Response {
		documents := map[string]kit.Response{"aggregated discovery": kit.Do(t, direct, http.MethodGet, "/apis", "", "Accept", aggregatedV2)}
		for _, path := range []string{"/apis", groupPath, "/openapi/v2", "/openapi/v3", openAPIPath} {
			documents[path] = kit.Do(t, direct, http.MethodGet, path, "", "Accept", "application/json")
		}
		return documents
	}
	before := read()
	kit.Check(t, e.Server.Restart(t.Context()))
	for what, after := range read() {
		if before := before[what]; after != before || after.Code != http.StatusOK {
			t.Errorf("%s after a restart: %d with %d bytes, before: %d with %d bytes; want the same bytes", what, after.Code, len(after.Body), before.Code, len(before.Body))
		}
	}
}
