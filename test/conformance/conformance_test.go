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

// Package conformance holds every kind and subresource that is served to one set of rules: standalone, through the aggregator, and past it. What is to be
// known of a kind is an entry in the table in kinds_test.go; a rule is a function over entries.
package conformance

import (
	"slices"
	"testing"

	"k8s.io/client-go/discovery"

	"github.com/leat-dev/leat/test/kit"
)

func TestStandalone(t *testing.T) { suite(t, kit.Standalone(t)) }

func TestAggregated(t *testing.T) { suite(t, kit.Aggregated(t)) }

func TestAtServer(t *testing.T) { suite(t, kit.Aggregated(t).AtServer()) }

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

func suite(t *testing.T, e *kit.Env) {
	st := newStage(t, e)
	versions := servedVersions(t, st)
	t.Run("discovery", func(t *testing.T) {
		for _, version := range versions {
			t.Run(version, func(t *testing.T) { checkDiscovery(t, st, version) })
		}
	})
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
	t.Run("scale", func(t *testing.T) { testScale(t, st, versions) })
	t.Run("tasks", func(t *testing.T) { testTasks(t, st) })
	if !e.Standalone() { // standalone, etcd is inside the server, out of reach
		t.Run("ratcheting", func(t *testing.T) { testRatcheting(t, st, versions) })
	}
}

// servedVersions gives the versions of the group that are served.
func servedVersions(t *testing.T, st *stage) []string {
	client := kit.Must(discovery.NewDiscoveryClientForConfig(st.config))(t)
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
