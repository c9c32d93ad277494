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

package config

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	yamlutil "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

	"github.com/leat-dev/leat/pkg/generated/kinds"
)

// manifests are the RBAC objects of this package, by kind and name.
type manifests struct {
	roles    map[string][]rbacv1.PolicyRule // "ClusterRole/leat:admin"
	bindings map[string]rbacv1.RoleRef
	subjects []rbacv1.Subject
}

func readRBAC(t *testing.T) manifests {
	t.Helper()
	read := manifests{roles: map[string][]rbacv1.PolicyRule{}, bindings: map[string]rbacv1.RoleRef{}}
	files, err := fs.Glob(RBAC(), "*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("files of RBAC() = %v, %v; want some", files, err)
	}
	for _, file := range files {
		data, err := fs.ReadFile(RBAC(), file)
		if err != nil {
			t.Fatal(err)
		}
		documents := yamlutil.NewDocumentDecoder(io.NopCloser(bytes.NewReader(data)))
		defer documents.Close()
		for {
			document := make([]byte, len(data))
			n, err := documents.Read(document)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			read.add(t, file, document[:n])
		}
	}
	return read
}

func (m *manifests) add(t *testing.T, file string, document []byte) {
	t.Helper()
	strict := func(into any) {
		t.Helper()
		if err := yaml.UnmarshalStrict(document, into); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
	}
	var meta metav1.TypeMeta
	if err := yaml.Unmarshal(document, &meta); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	if meta.APIVersion != rbacv1.SchemeGroupVersion.String() {
		t.Fatalf("%s: holds a %s of %q; want %s only", file, meta.Kind, meta.APIVersion, rbacv1.SchemeGroupVersion)
	}
	switch meta.Kind {
	case "ClusterRole":
		var role rbacv1.ClusterRole
		strict(&role)
		m.roles[meta.Kind+"/"+role.Name] = role.Rules
	case "Role":
		var role rbacv1.Role
		strict(&role)
		m.roles[meta.Kind+"/"+role.Name] = role.Rules
	case "ClusterRoleBinding":
		var binding rbacv1.ClusterRoleBinding
		strict(&binding)
		m.bindings[meta.Kind+"/"+binding.Name] = binding.RoleRef
		m.subjects = append(m.subjects, binding.Subjects...)
	case "RoleBinding":
		var binding rbacv1.RoleBinding
		strict(&binding)
		m.bindings[meta.Kind+"/"+binding.Name] = binding.RoleRef
		m.subjects = append(m.subjects, binding.Subjects...)
	default:
		t.Fatalf("%s: holds a %s; want roles and bindings only", file, meta.Kind)
	}
}

// holders returns the roles with a rule that grants verb on resource, sorted.
func (m *manifests) holders(verb, resource string) []string {
	var holders []string
	for name, rules := range m.roles {
		if slices.ContainsFunc(rules, func(rule rbacv1.PolicyRule) bool {
			return slices.Contains(rule.Verbs, verb) && slices.Contains(rule.Resources, resource)
		}) {
			holders = append(holders, name)
		}
	}
	slices.Sort(holders)
	return holders
}

func TestRulesNameWhatTheyGrant(t *testing.T) {
	for name, rules := range readRBAC(t).roles {
		for _, rule := range rules {
			if len(rule.APIGroups) == 0 || len(rule.Resources) == 0 || len(rule.NonResourceURLs) != 0 {
				t.Errorf("%s: rule %v; want groups and resources, and nothing else", name, rule)
			}
			for _, value := range slices.Concat(rule.APIGroups, rule.Resources, rule.Verbs) {
				if strings.Contains(value, "*") {
					t.Errorf("%s: rule %v grants by wildcard; want it to name what it grants", name, rule)
				}
			}
		}
	}
}

func TestBindingsReferToRolesThatExist(t *testing.T) {
	hosts := []string{"ClusterRole/system:auth-delegator", "Role/extension-apiserver-authentication-reader"}
	read := readRBAC(t)
	for name, role := range read.bindings {
		if _, ours := read.roles[role.Kind+"/"+role.Name]; !ours && !slices.Contains(hosts, role.Kind+"/"+role.Name) {
			t.Errorf("%s refers to %s %q, which neither these files nor the host define", name, role.Kind, role.Name)
		}
	}
	for _, subject := range read.subjects {
		everyUser := subject.Kind == rbacv1.GroupKind && subject.Name == "system:authenticated"
		if !everyUser && (subject.Kind != rbacv1.ServiceAccountKind || subject.Namespace != "leat-system") {
			t.Errorf("%s %s/%s is bound; want service accounts of leat-system, or the readers of leat-info", subject.Kind, subject.Namespace, subject.Name)
		}
	}
}

func TestSharpVerbsAreHeldByFew(t *testing.T) {
	const (
		admin      = "ClusterRole/leat:admin"
		edit       = "ClusterRole/leat:edit"
		view       = "ClusterRole/leat:view"
		server     = "ClusterRole/leat:apiserver"
		controller = "ClusterRole/leat:controller-manager"
	)
	read := readRBAC(t)
	for _, test := range []struct {
		verb, resource string
		want           []string
	}{
		{"create", "tasks/binding", []string{controller}},
		{"create", "tasks/eviction", []string{admin, controller}},
		{"update", "tasks/status", []string{controller}},
		// It is what lets the controller create tasks in the name of others.
		{"update", "tasksets/status", []string{controller}},
		{"update", "workers/status", []string{controller}},
		{"patch", "workers/status", nil},
		{"create", "workers", []string{admin, controller}},
		{"register", "workers", []string{"ClusterRole/leat:worker"}},
		{"create", "workerleases", nil},
		{"update", "workerleases", nil},
		{"watch", "workerleases", nil},
		{"list", "workerleases", []string{admin, controller}},
		{"create", "taskqueues", []string{admin}},
		{"create", "tasks", []string{admin, controller, edit}},
		{"get", "tasks/log", []string{admin, edit, view}},
		{"get", "tasks/records", []string{admin, edit, view}},
		{"get", "tasksets/log", []string{admin, edit, view}},
		{"get", "tasksets/records", []string{admin, edit, view}},
		{"create", "workers/archive", nil},
		{"update", "resourcequotas/status", []string{server}},
		{"list", "secrets", nil},
		{"get", "secrets", []string{"Role/leat:apiservice", "Role/leat:info"}},
		{"get", "pods", []string{"Role/leat:info"}},
		{"get", "configmaps", []string{"Role/leat:info", "Role/leat:info-reader"}},
		{"patch", "configmaps", []string{"Role/leat:info"}},
		{"update", "configmaps", nil},
		{"bind", "clusterroles", []string{admin}},
		{"create", "apiservices", []string{"ClusterRole/leat:apiservice"}},
		{"update", "apiservices", nil},
		{"list", "configmaps", nil},
		{"list", "statefulsets", []string{controller}},
		{"patch", "statefulsets", nil},
		{"patch", "statefulsets/scale", []string{"ClusterRole/leat:pool-scaler"}},
		{"update", "statefulsets/scale", nil},
	} {
		if got := read.holders(test.verb, test.resource); !slices.Equal(got, test.want) {
			t.Errorf("%s %s is granted by %v, want %v", test.verb, test.resource, got, test.want)
		}
	}
}

func TestRolesNameEveryKindAndSubresource(t *testing.T) {
	read := readRBAC(t)
	for _, kind := range kinds.All {
		if holders := read.holders("get", kind.Resource); !slices.Contains(holders, "ClusterRole/leat:admin") {
			t.Errorf("get %s is granted by %v, want leat:admin among them", kind.Resource, holders)
		}
		for _, verb := range []string{"list", "delete"} { // The sweeper deletes objects of missing namespaces.
			if holders := read.holders(verb, kind.Resource); !slices.Contains(holders, "ClusterRole/leat:controller-manager") {
				t.Errorf("%s %s is granted by %v, want leat:controller-manager among them", verb, kind.Resource, holders)
			}
		}
		for _, subresource := range kind.Subresources {
			named := false
			for _, verb := range []string{"get", "create", "update", "patch"} {
				named = named || len(read.holders(verb, kind.Resource+"/"+subresource)) > 0
			}
			// Only workers send segments, which the server authorizes itself.
			if named == (kind.Resource == "workers" && subresource == "archive") {
				t.Errorf("granted: %t; no role, or one that must not, grants %s/%s", named, kind.Resource, subresource)
			}
		}
	}
}

func TestKustomizationListsEveryManifest(t *testing.T) {
	data, err := os.ReadFile("base/kustomization.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var kustomization struct {
		Resources []string `json:"resources"`
	}
	if err := yaml.Unmarshal(data, &kustomization); err != nil {
		t.Fatal(err)
	}
	var manifests []string
	err = filepath.WalkDir("base", func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() && entry.Name() != "kustomization.yaml" {
			path, err = filepath.Rel("base", path)
			manifests = append(manifests, filepath.ToSlash(path))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(kustomization.Resources)
	if !slices.Equal(manifests, kustomization.Resources) {
		t.Errorf("kustomization.yaml lists %v\nwant the files there are: %v", kustomization.Resources, manifests)
	}
}
