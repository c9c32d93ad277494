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
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"

	"github.com/leat-dev/leat/test/kit"
)

// testAPIResources checks discovery of all served versions.
func testAPIResources(t *testing.T, config *rest.Config) {
	for _, version := range servedVersions(t, config) {
		t.Run(version, func(t *testing.T) { checkDiscovery(t, config, version) })
	}
}

// checkDiscovery checks that discovery of a version lists the resources of the table, and no others.
func checkDiscovery(t *testing.T, config *rest.Config, version string) {
	client := kit.Must(discovery.NewDiscoveryClientForConfig(config))(t)
	list := kit.Must(client.ServerResourcesForGroupVersion(group + "/" + version))(t)
	served := map[string]metav1.APIResource{}
	for _, resource := range list.APIResources {
		served[resource.Name] = resource
	}

	expected := sets.New[string]()
	match := func(name string, want metav1.APIResource) {
		expected.Insert(name)
		got, ok := served[name]
		if !ok {
			t.Errorf("%s is in the table and is not served", name)
			return
		}
		slices.Sort(got.Verbs)
		want.Name, got.StorageVersionHash = name, ""
		expectEqual(t, name, got, want)
	}
	for i := range conformanceKinds {
		k := &conformanceKinds[i]
		verbs := allVerbs
		if k.unwatched {
			verbs = unwatchedVerbs
		}
		match(k.resource, metav1.APIResource{
			Kind: k.kind, SingularName: k.singular, Namespaced: true, ShortNames: k.shortNames, Categories: k.categories, Verbs: verbs,
		})
		for name, sub := range k.subresources {
			subGroup, subVersion, _ := strings.Cut(sub.apiVersion, "/")
			match(k.resource+"/"+name, metav1.APIResource{
				Kind: sub.kind, Group: subGroup, Version: subVersion, Namespaced: true, Verbs: sub.verbs,
			})
		}
	}
	for name := range served {
		if !expected.Has(name) {
			t.Errorf("%s is served and is not in the table: add it to conformance_kinds_test.go", name)
		}
	}
}

// unwatchedRefusesWatch checks that a watch fails with 405, and one by the deprecated path /watch/ with 404.
func unwatchedRefusesWatch(s *subject) {
	const query = "?watch=true&timeoutSeconds=1" // a watch that is served by mistake ends
	s.send(http.MethodGet, s.path()+query, nil).expect(s, http.StatusMethodNotAllowed)
	deprecated := strings.Replace(s.path(), "/"+s.gv.Version+"/", "/"+s.gv.Version+"/watch/", 1)
	s.send(http.MethodGet, deprecated+query, nil).expect(s, http.StatusNotFound)
}
