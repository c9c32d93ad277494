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
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/yaml"
)

// hostRoles are roles of every Kubernetes host that Leat's manifests bind to its own service accounts. They grant
// access to the host only, so their bindings grant nothing here.
var hostRoles = sets.New(
	roleKey{kind: "ClusterRole", name: "system:auth-delegator"},
	roleKey{kind: "Role", namespace: metav1.NamespaceSystem, name: "extension-apiserver-authentication-reader"},
)

// roleKey identifies a role or a binding. namespace is empty for cluster-scoped ones.
type roleKey struct{ kind, namespace, name string }

func (k roleKey) String() string {
	if k.namespace == "" {
		return fmt.Sprintf("%s %q", k.kind, k.name)
	}
	return fmt.Sprintf("%s %q in namespace %q", k.kind, k.name, k.namespace)
}

// Load returns an Authorizer for the manifests in all files of fsys that match one of the patterns, in the syntax of
// fs.Glob. Files are YAML documents of the kinds ClusterRole, Role, ClusterRoleBinding and RoleBinding in
// rbac.authorization.k8s.io/v1.
//
// Load returns an error that names the file for everything that a host would refuse or that would grant less than it
// states: another kind, an unknown field, a duplicate, an aggregated role, a missing namespace, a subject of unknown
// kind, and a binding to a role that is in no file. Bindings to hostRoles are ignored. A pattern that matches no file
// is an error too.
func Load(fsys fs.FS, patterns ...string) (*Authorizer, error) {
	l := loader{roles: map[roleKey][]rbacv1.PolicyRule{}, files: map[roleKey]string{}}
	files := sets.New[string]()
	for _, pattern := range patterns {
		matches, err := fs.Glob(fsys, pattern)
		if err != nil {
			return nil, fmt.Errorf("pattern %q: %w", pattern, err)
		}
		if len(matches) == 0 {
			return nil, fmt.Errorf("pattern %q matches no file", pattern)
		}
		files.Insert(matches...)
	}
	for _, file := range sets.List(files) {
		if err := l.readFile(fsys, file); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
	}

	a := &Authorizer{users: map[string]grants{}, groups: map[string]grants{}}
	for _, b := range l.bindings {
		if err := l.bind(a, b); err != nil {
			return nil, fmt.Errorf("%s: %v: %w", l.files[b.key], b.key, err)
		}
	}
	return a, nil
}

type loader struct {
	roles    map[roleKey][]rbacv1.PolicyRule
	bindings []binding
	files    map[roleKey]string // the file of each role and binding
}

// binding has the fields that both kinds of binding share.
type binding struct {
	key      roleKey
	role     rbacv1.RoleRef
	subjects []rbacv1.Subject
}

var decoder = func() runtime.Decoder {
	scheme := runtime.NewScheme()
	utilruntime.Must(rbacv1.AddToScheme(scheme))
	return serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
}()

func (l *loader) readFile(fsys fs.FS, file string) error {
	data, err := fs.ReadFile(fsys, file)
	if err != nil {
		return err
	}
	documents := yaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(data)))
	for {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if json, err := yaml.ToJSON(document); err != nil {
			return err
		} else if string(json) == "null" {
			continue // comments only
		}
		object, _, err := decoder.Decode(document, nil, nil)
		if err != nil {
			return fmt.Errorf("want only roles and bindings of %s: %w", rbacv1.SchemeGroupVersion, err)
		}
		if err := l.add(file, object); err != nil {
			return err
		}
	}
}

func (l *loader) add(file string, object runtime.Object) error {
	switch o := object.(type) {
	case *rbacv1.ClusterRole:
		if o.AggregationRule != nil {
			return fmt.Errorf("ClusterRole %q: aggregationRule is not supported: list its rules instead", o.Name)
		}
		return l.addRole(file, roleKey{kind: "ClusterRole", name: o.Name}, o.Rules)
	case *rbacv1.Role:
		return l.addRole(file, roleKey{kind: "Role", namespace: o.Namespace, name: o.Name}, o.Rules)
	case *rbacv1.ClusterRoleBinding:
		return l.addBinding(file, binding{roleKey{kind: "ClusterRoleBinding", name: o.Name}, o.RoleRef, o.Subjects})
	case *rbacv1.RoleBinding:
		return l.addBinding(file, binding{roleKey{kind: "RoleBinding", namespace: o.Namespace, name: o.Name}, o.RoleRef, o.Subjects})
	default:
		return fmt.Errorf("want only roles and bindings of %s, found a %s", rbacv1.SchemeGroupVersion, object.GetObjectKind().GroupVersionKind().Kind)
	}
}

func (l *loader) addRole(file string, key roleKey, rules []rbacv1.PolicyRule) error {
	l.roles[key] = rules
	return l.register(file, key)
}

func (l *loader) addBinding(file string, b binding) error {
	l.bindings = append(l.bindings, b)
	return l.register(file, b.key)
}

func (l *loader) register(file string, key roleKey) error {
	if key.name == "" {
		return fmt.Errorf("a %s needs metadata.name", key.kind)
	}
	if namespaced := !strings.HasPrefix(key.kind, "Cluster"); namespaced && key.namespace == "" {
		return fmt.Errorf("%v needs metadata.namespace", key)
	}
	if first, duplicate := l.files[key]; duplicate {
		return fmt.Errorf("%v is in %s already", key, first)
	}
	l.files[key] = file
	return nil
}

func (l *loader) bind(a *Authorizer, b binding) error {
	role := roleKey{kind: b.role.Kind, name: b.role.Name}
	switch {
	case b.role.APIGroup != rbacv1.GroupName && b.role.APIGroup != "": // a host fills in the empty one
		return fmt.Errorf("roleRef.apiGroup is %q: want %s", b.role.APIGroup, rbacv1.GroupName)
	case role.kind == "Role" && b.key.kind == "RoleBinding":
		role.namespace = b.key.namespace
	case role.kind != "ClusterRole":
		return fmt.Errorf("roleRef.kind is %q: want ClusterRole, or Role in a RoleBinding", role.kind)
	}
	rules, found := l.roles[role]
	if !found {
		if hostRoles.Has(role) {
			return nil
		}
		return fmt.Errorf("%v is in none of the files", role)
	}
	g := grant{source: fmt.Sprintf("%v of %v", b.key, role), rules: rules}
	for _, subject := range b.subjects {
		if err := a.bind(subject, b.key.namespace, g); err != nil {
			return err
		}
	}
	return nil
}
