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

// Package rbacdiff compares the decisions of pkg/standalone/rbac with those of
// the authorizer that Kubernetes hosts use. It has tests only, and lives in this
// module because that authorizer is in k8s.io/kubernetes.
package rbacdiff

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/kubernetes/pkg/registry/rbac/validation"
	hostrbac "k8s.io/kubernetes/plugin/pkg/auth/authorizer/rbac"

	"github.com/leat-dev/leat/config"
	"github.com/leat-dev/leat/pkg/standalone/rbac"
)

var seed = flag.Uint64("seed", 0, "seed of the random manifests and requests; 0 takes a new one")

// newRandom returns a random source and logs its seed, so that a failed run can be repeated.
func newRandom(t *testing.T) *rand.Rand {
	s := *seed
	if s == 0 {
		s = uint64(time.Now().UnixNano())
	}
	t.Logf("repeat with: -run %s -seed %d", t.Name(), s)
	return rand.New(rand.NewPCG(s, 0))
}

func pick[T any](random *rand.Rand, from []T) T { return from[random.IntN(len(from))] }

// some returns one to limit elements of from, possibly repeated, and rarely none.
func some[T any](random *rand.Rand, limit int, from []T) []T {
	var picked []T
	if random.IntN(10) == 0 {
		return nil
	}
	for range 1 + random.IntN(limit) {
		picked = append(picked, pick(random, from))
	}
	return picked
}

// The vocabulary is small, so that rules match requests, and has every form that either authorizer interprets.
var (
	names         = []string{"a", "b", "c"}
	namespaces    = []string{"ns1", "ns2", "kube-system"}
	groups        = []string{"g1", "g2", "system:authenticated"}
	verbs         = []string{"get", "list", "create", "use"}
	apiGroups     = []string{"", "batch.leat.dev", "other"}
	resources     = []string{"tasks", "workers", "status"}
	subresources  = []string{"", "", "status", "log", "a/b"}
	objects       = []string{"", "x", "y"}
	paths         = []string{"/", "/healthz", "/healthz/etcd", "/metrics", "/api", "", "*"}
	ruleVerbs     = append([]string{"*"}, verbs...)
	ruleAPIGroups = append([]string{"*"}, apiGroups...)
	ruleResources = []string{"*", "tasks", "workers", "status", "tasks/status", "workers/log", "*/status", "*/log", "*/a/b", "tasks/*", "*/*", "*/", "/status", "tasks/", "tasks/a/b", ""}
	rulePaths     = []string{"*", "**", "/", "/*", "/healthz", "/healthz*", "/healthz/*", "/metrics**", "/*/etcd", ""}
)

// manifests are the roles and bindings from which both authorizers are created.
type manifests struct {
	roles               []*rbacv1.Role
	roleBindings        []*rbacv1.RoleBinding
	clusterRoles        []*rbacv1.ClusterRole
	clusterRoleBindings []*rbacv1.ClusterRoleBinding
}

func randomRules(random *rand.Rand) []rbacv1.PolicyRule {
	var rules []rbacv1.PolicyRule
	for range random.IntN(4) {
		rule := rbacv1.PolicyRule{Verbs: some(random, 2, ruleVerbs)}
		if random.IntN(3) > 0 {
			rule.APIGroups = some(random, 2, ruleAPIGroups)
			rule.Resources = some(random, 3, ruleResources)
			if random.IntN(3) == 0 {
				rule.ResourceNames = some(random, 2, objects)
			}
		}
		if random.IntN(2) == 0 {
			rule.NonResourceURLs = some(random, 2, rulePaths)
		}
		rules = append(rules, rule)
	}
	return rules
}

func randomSubjects(random *rand.Rand, namespaced bool) []rbacv1.Subject {
	var subjects []rbacv1.Subject
	for range random.IntN(4) {
		switch random.IntN(3) {
		case 0:
			subjects = append(subjects, rbacv1.Subject{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: pick(random, userNames)})
		case 1:
			subjects = append(subjects, rbacv1.Subject{Kind: rbacv1.GroupKind, APIGroup: rbacv1.GroupName, Name: pick(random, append(groups, names...))})
		case 2:
			account := rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Name: pick(random, names), Namespace: pick(random, namespaces)}
			if namespaced && random.IntN(2) == 0 {
				account.Namespace = ""
			}
			subjects = append(subjects, account)
		}
	}
	return subjects
}

var userNames = func() []string {
	all := append([]string{"g1"}, names...)
	for _, namespace := range namespaces {
		for _, name := range names {
			all = append(all, "system:serviceaccount:"+namespace+":"+name)
		}
	}
	return all
}()

func randomManifests(random *rand.Rand) manifests {
	var m manifests
	clusterMeta := func(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Name: name} }
	for _, name := range names {
		m.clusterRoles = append(m.clusterRoles, &rbacv1.ClusterRole{
			TypeMeta:   metav1.TypeMeta{APIVersion: rbacv1.SchemeGroupVersion.String(), Kind: "ClusterRole"},
			ObjectMeta: clusterMeta(name), Rules: randomRules(random),
		})
		role := pick(random, append(names, "system:auth-delegator"))
		m.clusterRoleBindings = append(m.clusterRoleBindings, &rbacv1.ClusterRoleBinding{
			TypeMeta:   metav1.TypeMeta{APIVersion: rbacv1.SchemeGroupVersion.String(), Kind: "ClusterRoleBinding"},
			ObjectMeta: clusterMeta(name), Subjects: randomSubjects(random, false),
			RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
		})
		for _, namespace := range namespaces {
			m.roles = append(m.roles, &rbacv1.Role{
				TypeMeta:   metav1.TypeMeta{APIVersion: rbacv1.SchemeGroupVersion.String(), Kind: "Role"},
				ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace}, Rules: randomRules(random),
			})
			ref := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: pick(random, []string{"Role", "ClusterRole"}), Name: pick(random, names)}
			if namespace == metav1.NamespaceSystem && random.IntN(4) == 0 {
				ref = rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "extension-apiserver-authentication-reader"}
			}
			m.roleBindings = append(m.roleBindings, &rbacv1.RoleBinding{
				TypeMeta:   metav1.TypeMeta{APIVersion: rbacv1.SchemeGroupVersion.String(), Kind: "RoleBinding"},
				ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace}, Subjects: randomSubjects(random, true), RoleRef: ref,
			})
		}
	}
	return m
}

func randomRequest(random *rand.Rand) authorizer.AttributesRecord {
	request := authorizer.AttributesRecord{
		User: &user.DefaultInfo{Name: pick(random, append(userNames, "", "stranger")), Groups: some(random, 2, append(groups, "", "a"))},
		Verb: pick(random, append(verbs, "*", "")),
	}
	if random.IntN(2) > 0 {
		request.Namespace = pick(random, namespaces)
	}
	if random.IntN(4) == 0 {
		request.Path = pick(random, paths)
		return request
	}
	request.ResourceRequest = true
	request.APIGroup = pick(random, append(apiGroups, "*"))
	request.Resource = pick(random, append(resources, "*"))
	request.Subresource = pick(random, append(subresources, "*"))
	request.Name = pick(random, objects)
	return request
}

// files encodes the manifests, one document each in a few files. JSON is YAML.
func (m manifests) files(t *testing.T) fs.FS {
	t.Helper()
	files := fstest.MapFS{}
	add := func(file string, object any) {
		data, err := json.Marshal(object)
		if err != nil {
			t.Fatal(err)
		}
		if files[file] == nil {
			files[file] = &fstest.MapFile{}
		}
		files[file].Data = append(append(files[file].Data, data...), "\n---\n"...)
	}
	for _, o := range m.roles {
		add("roles.yaml", o)
	}
	for _, o := range m.clusterRoles {
		add("roles.yaml", o)
	}
	for _, o := range m.roleBindings {
		add("bindings.yaml", o)
	}
	for _, o := range m.clusterRoleBindings {
		add("clusterbindings.yaml", o)
	}
	return files
}

func (m manifests) host() authorizer.Authorizer {
	_, static := validation.NewTestRuleResolver(m.roles, m.roleBindings, m.clusterRoles, m.clusterRoleBindings)
	return hostrbac.New(static, static, static, static)
}

// compare fails the test if the authorizers decide differently. It returns the decision.
func compare(t *testing.T, ours, host authorizer.Authorizer, request authorizer.AttributesRecord) (allowed bool) {
	t.Helper()
	want, hostReason, _ := host.Authorize(t.Context(), request) // it never fails
	got, reason, err := ours.Authorize(t.Context(), request)
	if err != nil || got != want {
		t.Errorf("%+v by %+v: decided %v (%q, %v), a host %v (%q)", request, request.User, got, reason, err, want, hostReason)
	}
	return want == authorizer.DecisionAllow
}

// checkShares fails the test if nearly all decisions are the same.
func checkShares(t *testing.T, allowed, total int) {
	t.Helper()
	t.Logf("%d of %d requests are allowed", allowed, total)
	if allowed < total/100 || allowed > total*9/10 {
		t.Error("too few of one kind for the comparison to say much")
	}
}

func TestRandomManifestsMeanTheSameAsOnAHost(t *testing.T) {
	const worlds, requests = 400, 400
	random := newRandom(t)
	allowed := 0
	for world := range worlds {
		m := randomManifests(random)
		ours, err := rbac.Load(m.files(t), "*.yaml")
		if err != nil {
			t.Fatal(err)
		}
		host := m.host()
		for range requests {
			if compare(t, ours, host, randomRequest(random)) {
				allowed++
			}
		}
		if t.Failed() {
			data, err := fs.ReadFile(m.files(t), "roles.yaml")
			t.Fatalf("in world %d, with roles %s (%v) and bindings %+v %+v", world, data, err, m.roleBindings, m.clusterRoleBindings)
		}
	}
	checkShares(t, allowed, worlds*requests)
}

// decode reads the shipped manifests without the code under test.
func decode(t *testing.T, fsys fs.FS) manifests {
	t.Helper()
	var m manifests
	files, err := fs.Glob(fsys, "*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("files %v, %v", files, err)
	}
	for _, file := range files {
		data, err := fs.ReadFile(fsys, file)
		if err != nil {
			t.Fatal(err)
		}
		decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(data), 4096)
		for {
			var raw runtime.RawExtension
			if err := decoder.Decode(&raw); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			if len(raw.Raw) == 0 {
				continue
			}
			object, _, err := scheme.Codecs.UniversalDeserializer().Decode(raw.Raw, nil, nil)
			if err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			switch o := object.(type) {
			case *rbacv1.Role:
				m.roles = append(m.roles, o)
			case *rbacv1.ClusterRole:
				m.clusterRoles = append(m.clusterRoles, o)
			case *rbacv1.RoleBinding:
				m.roleBindings = append(m.roleBindings, o)
			case *rbacv1.ClusterRoleBinding:
				m.clusterRoleBindings = append(m.clusterRoleBindings, o)
			default:
				t.Fatalf("%s: a %T", file, object)
			}
		}
	}
	return m
}

// TestShippedManifestsMeanTheSameAsOnAHost compares the decisions about everything that a shipped rule names, and some
// other requests, for every subject of a shipped binding and for users bound to each shipped role.
func TestShippedManifestsMeanTheSameAsOnAHost(t *testing.T) {
	m := decode(t, config.RBAC())
	if len(m.clusterRoles) == 0 || len(m.clusterRoleBindings) == 0 {
		t.Fatalf("shipped are %d cluster roles and %d bindings", len(m.clusterRoles), len(m.clusterRoleBindings))
	}
	people := []user.Info{&user.DefaultInfo{Name: "stranger", Groups: []string{user.AllAuthenticated}}}
	var rules []rbacv1.PolicyRule
	for _, role := range m.clusterRoles {
		rules = append(rules, role.Rules...)
		binding := &rbacv1.ClusterRoleBinding{
			TypeMeta:   metav1.TypeMeta{APIVersion: rbacv1.SchemeGroupVersion.String(), Kind: "ClusterRoleBinding"},
			ObjectMeta: metav1.ObjectMeta{Name: "test:" + role.Name},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role.Name},
			Subjects:   []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: "holder of " + role.Name}},
		}
		m.clusterRoleBindings = append(m.clusterRoleBindings, binding)
	}
	scopes := map[string]bool{"": true, "team-a": true}
	addSubjects := func(namespace string, subjects []rbacv1.Subject) {
		for _, subject := range subjects {
			switch subject.Kind {
			case rbacv1.UserKind:
				people = append(people, &user.DefaultInfo{Name: subject.Name})
			case rbacv1.GroupKind:
				people = append(people, &user.DefaultInfo{Name: "member", Groups: []string{subject.Name}})
			case rbacv1.ServiceAccountKind:
				home := subject.Namespace
				if home == "" {
					home = namespace
				}
				people = append(people, &user.DefaultInfo{Name: fmt.Sprintf("system:serviceaccount:%s:%s", home, subject.Name)})
			}
		}
	}
	for _, binding := range m.clusterRoleBindings {
		addSubjects("", binding.Subjects)
	}
	for _, binding := range m.roleBindings {
		addSubjects(binding.Namespace, binding.Subjects)
		scopes[binding.Namespace] = true
	}
	for _, role := range m.roles {
		rules = append(rules, role.Rules...)
	}

	ours, err := rbac.Load(m.files(t), "*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := rbac.Load(config.RBAC(), "*.yaml"); err != nil {
		t.Fatalf("as shipped: %v", err)
	}
	host := m.host()
	allowed, total := 0, 0
	for _, request := range requestsOf(rules) {
		for scope := range scopes {
			for _, who := range people {
				request.Namespace, request.User = scope, who
				total++
				if compare(t, ours, host, request) {
					allowed++
				}
			}
		}
	}
	checkShares(t, allowed, total)
}

// requestsOf returns requests for all that the rules name, with every verb that
// any of them names.
func requestsOf(rules []rbacv1.PolicyRule) []authorizer.AttributesRecord {
	type what struct{ group, resource, name, path string }
	things, verbs := map[what]bool{{path: "/healthz"}: true}, map[string]bool{"impersonate": true}
	for _, rule := range rules {
		for _, verb := range rule.Verbs {
			verbs[verb] = true
		}
		for _, path := range rule.NonResourceURLs {
			things[what{path: path}] = true
		}
		for _, group := range rule.APIGroups {
			for _, resource := range rule.Resources {
				for _, name := range append(rule.ResourceNames, "", "some") {
					things[what{group: group, resource: resource, name: name}] = true
					things[what{group: group, resource: resource + "/other", name: name}] = true
				}
			}
		}
	}
	var requests []authorizer.AttributesRecord
	for thing := range things {
		for verb := range verbs {
			request := authorizer.AttributesRecord{Verb: verb, Path: thing.path, ResourceRequest: thing.path == "", APIGroup: thing.group, Name: thing.name}
			request.Resource, request.Subresource, _ = strings.Cut(thing.resource, "/")
			requests = append(requests, request)
		}
	}
	return requests
}
