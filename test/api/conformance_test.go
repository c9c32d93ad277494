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
	"slices"
	"testing"

	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"

	"github.com/leat-dev/leat/test/kit"
)

// rule is what holds for kinds. Its name and a kind's make the name of a namespace, so it is short.
type rule struct {
	name  string
	check func(*scene)
	// only tells the kinds that it is for, all if nil.
	only func(*kind) bool
}

// subresourceRule is what holds for subresources.
type subresourceRule struct {
	name  string
	check func(s *scene, name string, sub subresource)
}

func testConformance(t *testing.T, e *kit.Env) {
	st := newStage(t, e)
	versions := servedVersions(t, st.config)
	t.Run("discovery", func(t *testing.T) { testAPIResources(t, st.config) })
	for _, rule := range slices.Concat(writeRules, statusRules, applyRules, deleteRules, readRules, encodingRules) {
		t.Run(rule.name, func(t *testing.T) {
			for i := range kinds {
				if rule.only != nil && !rule.only(&kinds[i]) {
					continue
				}
				for _, version := range versions {
					t.Run(kinds[i].resource+"-"+version, func(t *testing.T) { rule.check(st.scene(t, &kinds[i], version)) })
				}
			}
		})
	}
	for _, rule := range subresourceRules {
		t.Run("subresources "+rule.name, func(t *testing.T) {
			for i := range kinds {
				for name, sub := range kinds[i].subresources {
					for _, version := range versions {
						t.Run(kinds[i].resource+"-"+name+"-"+version, func(t *testing.T) {
							rule.check(st.scene(t, &kinds[i], version), name, sub)
						})
					}
				}
			}
		})
	}
	t.Run("scale", func(t *testing.T) { testScaleSubresource(t, st, versions) })
	t.Run("tasks", func(t *testing.T) { testTasks(t, st) })
	if !e.Standalone() { // standalone, etcd is inside the server, out of reach
		t.Run("ratcheting", func(t *testing.T) { testRatcheting(t, st, versions) })
	}
}

// servedVersions gives the versions of the group that are served.
func servedVersions(t *testing.T, config *rest.Config) []string {
	client := kit.Must(discovery.NewDiscoveryClientForConfig(config))(t)
	groups := kit.Must(client.ServerGroups())(t)
	var versions []string
	for _, served := range groups.Groups {
		if served.Name == group {
			for _, version := range served.Versions {
				versions = append(versions, version.Version)
			}
		}
	}
	if len(versions) == 0 {
		t.Fatalf("no version of %s is served", group)
	}
	return versions
}
