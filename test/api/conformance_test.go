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

// rule is a behavior that all kinds have in common. Its name is short: it becomes part of the name of a namespace.
type rule struct {
	name  string
	check func(*subject)
	// appliesTo reports whether the rule applies to a kind. Nil means that it applies to all.
	appliesTo func(*kind) bool
}

// subresourceRule is a behavior that subresources have in common.
type subresourceRule struct {
	name  string
	check func(s *subject, name string, sub subresource)
}

// testConformance checks every kind and subresource, in every served version, against the same rules.
func testConformance(t *testing.T, e *kit.Env) {
	fx := newFixture(t, e)
	versions := servedVersions(t, fx.config)
	t.Run("discovery", func(t *testing.T) { testAPIResources(t, fx.config) })
	for _, rule := range slices.Concat(writeRules, statusRules, applyRules, deleteRules, readRules, encodingRules) {
		t.Run(rule.name, func(t *testing.T) {
			for i := range conformanceKinds {
				if rule.appliesTo != nil && !rule.appliesTo(&conformanceKinds[i]) {
					continue
				}
				for _, version := range versions {
					t.Run(conformanceKinds[i].resource+"-"+version, func(t *testing.T) { rule.check(fx.newSubject(t, &conformanceKinds[i], version)) })
				}
			}
		})
	}
	for _, rule := range subresourceRules {
		t.Run("subresources "+rule.name, func(t *testing.T) {
			for i := range conformanceKinds {
				for name, sub := range conformanceKinds[i].subresources {
					for _, version := range versions {
						t.Run(conformanceKinds[i].resource+"-"+name+"-"+version, func(t *testing.T) {
							rule.check(fx.newSubject(t, &conformanceKinds[i], version), name, sub)
						})
					}
				}
			}
		})
	}
	t.Run("scale", func(t *testing.T) { testScaleSubresource(t, fx, versions) })
	t.Run("tasks", func(t *testing.T) { testTasks(t, fx) })
	if !e.Standalone() { // the etcd of a standalone server has no network endpoint
		t.Run("ratcheting", func(t *testing.T) { testRatcheting(t, fx, versions) })
	}
}

// servedVersions returns the served versions of the group.
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
