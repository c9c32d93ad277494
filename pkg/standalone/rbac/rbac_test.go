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

package rbac

import (
	"context"
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"

	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

const manifests = `
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: reader}
rules:
- {apiGroups: [batch.leat.dev], resources: [tasks, tasksets/scale, "*/status"], verbs: [get, list]}
- {apiGroups: [batch.leat.dev], resources: ["workers/*"], verbs: [get]}
- {apiGroups: [batch.leat.dev], resources: [taskqueues], resourceNames: [default], verbs: ["*"]}
- {nonResourceURLs: [/healthz, "/metrics/*"], verbs: [get]}
---
# a comment is no document
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: everything}
rules:
- {apiGroups: ["*"], resources: ["*"], verbs: ["*"]}
- {nonResourceURLs: ["*"], verbs: ["*"]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: writer, namespace: team-a}
rules:
- {apiGroups: [batch.leat.dev], resources: [tasks], verbs: [create]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: readers}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: reader}
subjects:
- {apiGroup: rbac.authorization.k8s.io, kind: Group, name: readers}
- {apiGroup: rbac.authorization.k8s.io, kind: User, name: ann}
- {kind: ServiceAccount, name: robot, namespace: team-b}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: admins}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: everything}
subjects:
- {apiGroup: rbac.authorization.k8s.io, kind: Group, name: admins}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: writers, namespace: team-a}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: writer}
subjects:
- {apiGroup: rbac.authorization.k8s.io, kind: User, name: ann}
- {kind: ServiceAccount, name: robot}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: readers, namespace: team-a}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: reader}
subjects:
- {apiGroup: rbac.authorization.k8s.io, kind: User, name: bob}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: delegator}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: "system:auth-delegator"}
subjects:
- {kind: ServiceAccount, name: server, namespace: leat-system}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: authentication-reader, namespace: kube-system}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: extension-apiserver-authentication-reader}
subjects:
- {kind: ServiceAccount, name: server, namespace: leat-system}
`

func TestAuthorize(t *testing.T) {
	a, err := Load(fstest.MapFS{"rbac/all.yaml": {Data: []byte(manifests)}}, "rbac/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		who     string // "user" or "user:group"; service accounts by their full name
		request string // "verb resource[/subresource][@namespace][=name]" or "verb /path"
		allowed bool
	}{
		{"ann", "get tasks@team-a=t", true},
		{"ann", "list tasks", true},
		{"ann", "delete tasks@team-a=t", false},
		{"cat/readers", "get tasks@team-a=t", true},
		{"cat/others", "get tasks@team-a=t", false},
		{"readers", "get tasks@team-a=t", false}, // a user named as a group
		{"cat/ann", "get tasks@team-a=t", false}, // a group named as a user
		{"ann", "get secrets@team-a=t", false},
		{"ann", "get other.example.com/tasks@team-a=t", false},

		{"ann", "get tasks/status@team-a=t", true}, // */status
		{"ann", "get workers/status=w", true},
		{"ann", "get tasks/log@team-a=t", false}, // tasks does not include its subresources
		{"ann", "get tasksets/scale@team-a=t", true},
		{"ann", "get tasksets@team-a=t", false},
		{"ann", "get workers/drain=w", false}, // workers/* is no pattern

		{"ann", "delete taskqueues@team-a=default", true},
		{"ann", "delete taskqueues@team-a=other", false},
		{"ann", "list taskqueues@team-a", false},

		{"ann", "get /healthz", true},
		{"ann", "get /healthz/etcd", false},
		{"ann", "get /metrics/", true},
		{"ann", "get /metrics/slis", true},
		{"ann", "get /metrics", false},
		{"ann", "post /healthz", false},

		{"ann", "create tasks@team-a", true},
		{"ann", "create tasks@team-b", false},
		{"ann", "create tasks", false},
		{"bob", "get tasks@team-a=t", true},
		{"bob", "get tasks@team-b=t", false},
		{"bob", "list tasks", false},
		{"bob", "get /healthz", false}, // a binding in a namespace grants no paths

		{"system:serviceaccount:team-a:robot", "create tasks@team-a", true},
		{"system:serviceaccount:team-b:robot", "create tasks@team-a", false},
		{"system:serviceaccount:team-b:robot", "get tasks@team-a=t", true},

		{"dan/admins", "delete other.example.com/things/sub@team-b=x", true},
		{"dan/admins", "post /anything", true},
		{"dan", "get /healthz", false},
		{"system:serviceaccount:leat-system:server", "create authorization.k8s.io/subjectaccessreviews", false},
		{"", "get tasks@team-a=t", false},
	} {
		decision, reason, err := a.Authorize(context.Background(), attributes(test.who, test.request))
		want := authorizer.DecisionNoOpinion
		if test.allowed {
			want = authorizer.DecisionAllow
		}
		if decision != want || err != nil || test.allowed != strings.Contains(reason, "RBAC: allowed by") {
			t.Errorf("%s may %s: %v (%q), %v; want %v", test.who, test.request, decision, reason, err, want)
		}
	}
}

func TestNoOpinionWithoutUser(t *testing.T) {
	a, err := Load(fstest.MapFS{"all.yaml": {Data: []byte(manifests)}}, "*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if decision, _, err := a.Authorize(context.Background(), authorizer.AttributesRecord{Verb: "get", Path: "/healthz"}); decision != authorizer.DecisionNoOpinion || err != nil {
		t.Errorf("%v, %v; want no opinion", decision, err)
	}
}

func attributes(who, request string) authorizer.Attributes {
	name, group, _ := strings.Cut(who, "/")
	verb, what, _ := strings.Cut(request, " ")
	record := authorizer.AttributesRecord{User: &user.DefaultInfo{Name: name, Groups: []string{user.AllAuthenticated, group}}, Verb: verb}
	if strings.HasPrefix(what, "/") {
		record.Path = what
		return record
	}
	record.ResourceRequest = true
	what, record.Name, _ = strings.Cut(what, "=")
	what, record.Namespace, _ = strings.Cut(what, "@")
	record.APIGroup = "batch.leat.dev"
	if group, rest, found := strings.Cut(what, "/"); found && strings.Contains(group, ".") {
		record.APIGroup, what = group, rest
	}
	record.Resource, record.Subresource, _ = strings.Cut(what, "/")
	return record
}

func TestLoadErrors(t *testing.T) {
	const (
		head = "apiVersion: rbac.authorization.k8s.io/v1\n"
		role = head + "kind: ClusterRole\nmetadata: {name: r}\nrules: [{apiGroups: [a], resources: [b], verbs: [get]}]\n"
		ref  = "roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: r}\n"
		bind = head + "kind: ClusterRoleBinding\nmetadata: {name: b}\n"
		anna = "subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: ann}]\n"
	)
	for name, test := range map[string]struct {
		manifest string
		want     string
	}{
		"another kind":                  {"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n", `"ConfigMap"`},
		"another version":               {strings.Replace(role, "/v1", "/v1beta1", 1), "v1beta1"},
		"a list":                        {head + "kind: ClusterRoleList\nitems: []\n", "found a ClusterRoleList"},
		"no YAML":                       {"a: [", "yaml"},
		"an unknown field":              {role + "rule: []\n", `unknown field "rule"`},
		"a duplicate":                   {role + "---\n" + role, `ClusterRole "r" is in bad.yaml already`},
		"an aggregated role":            {role + "aggregationRule: {clusterRoleSelectors: []}\n", "aggregationRule is not supported"},
		"no name":                       {head + "kind: ClusterRole\n", "needs metadata.name"},
		"no namespace":                  {head + "kind: RoleBinding\nmetadata: {name: b}\n" + ref, "needs metadata.namespace"},
		"a role that is nowhere":        {bind + ref + anna, `ClusterRoleBinding "b": ClusterRole "r" is in none of the files`},
		"a host role in another place":  {strings.NewReplacer("ClusterRoleBinding", "RoleBinding", "name: b", "name: b, namespace: ns1", "ClusterRole, name: r", "Role, name: extension-apiserver-authentication-reader").Replace(bind + ref), "none of the files"},
		"a role from another namespace": {head + "kind: Role\nmetadata: {name: r, namespace: ns1}\n---\n" + strings.NewReplacer("ClusterRoleBinding", "RoleBinding", "name: b", "name: b, namespace: ns2", "ClusterRole, name: r", "Role, name: r").Replace(bind+ref), `Role "r" in namespace "ns2"`},
		"a role for the cluster":        {role + "---\n" + bind + strings.Replace(ref, "ClusterRole", "Role", 1), "roleRef.kind"},
		"a role of another group":       {role + "---\n" + bind + strings.Replace(ref, "rbac.authorization.k8s.io", "example.com", 1), "roleRef.apiGroup"},
		"a subject of unknown kind":     {role + "---\n" + bind + ref + "subjects: [{kind: Robot, name: ann}]\n", "want User, Group or ServiceAccount"},
		"a subject without name":        {role + "---\n" + bind + ref + "subjects: [{kind: User}]\n", "needs a name"},
		"an account without namespace":  {role + "---\n" + bind + ref + "subjects: [{kind: ServiceAccount, name: robot}]\n", "needs a namespace"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Load(fstest.MapFS{"bad.yaml": {Data: []byte(test.manifest)}}, "*.yaml")
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.HasPrefix(err.Error(), "bad.yaml: ") {
				t.Errorf("error %v; want one of bad.yaml with %q", err, test.want)
			}
		})
	}
}

func TestLoadPatterns(t *testing.T) {
	files := fstest.MapFS{"a/one.yaml": {Data: []byte(manifests)}, "a/note.txt": {Data: []byte("not for us")}}
	for name, test := range map[string]struct {
		patterns []string
		want     string
	}{
		"some":              {patterns: []string{"a/*.yaml"}},
		"the same twice":    {patterns: []string{"a/*.yaml", "a/one.yaml"}},
		"nothing":           {patterns: []string{"a/*.yaml", "b/*.yaml"}, want: `"b/*.yaml" matches no file`},
		"malformed pattern": {patterns: []string{"[a"}, want: `pattern "[a"`},
	} {
		var fsys fs.FS = files
		if _, err := Load(fsys, test.patterns...); (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v, want %q", name, err, test.want)
		}
	}
}
