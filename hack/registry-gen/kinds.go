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

package main

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"k8s.io/gengo/v2/types"
)

// group is what the templates are given. Internal and Output are import paths.
type group struct {
	Name, Internal, Output string
	Versions               []*version
}

type version struct {
	Name  string
	Kinds []*kind
	facts []string
	pkg   *types.Package
}

type kind struct {
	Name, Plural                              string
	ShortNames, Categories                    []string
	Namespaced, Unwatched, Status, Conditions bool
	Fields                                    []field
	Trigger                                   string
	Columns                                   []column
	Scale                                     *scale
	Subresources                              map[string]string
	// facts is what all versions must agree on, because one descriptor serves them.
	facts []string
}

// field is a selectable field. Get is its value as a string, of the internal object o.
type field struct{ Label, Get string }

// column has a function or a value, of the internal object o.
type column struct {
	Name, Type, Description, Func, Value string
	Priority                             int64
}

// scale has the fields of the internal object o. Pointer is whether Replicas is one.
type scale struct {
	Path                       []string
	Replicas, Status, Selector string
	Pointer                    bool
}

func readGroup(universe types.Universe, paths []string) (*group, error) {
	if len(paths) == 0 {
		return nil, errors.New("give the import paths of the group's versions")
	}
	g := &group{}
	for _, path := range paths {
		pkg := universe.Package(path)
		for tag, value := range map[string]*string{"+groupName=": &g.Name, "+k8s:conversion-gen=": &g.Internal, outputTag: &g.Output} {
			at := slices.IndexFunc(pkg.Comments, func(line string) bool { return strings.HasPrefix(line, tag) })
			if at < 0 || *value != "" && pkg.Comments[at] != tag+*value {
				return nil, fmt.Errorf("%s: doc.go needs %s, the same in all versions", path, tag)
			}
			*value = strings.TrimPrefix(pkg.Comments[at], tag)
		}
		v, err := readVersion(pkg)
		if err != nil {
			return nil, err
		}
		g.Versions = append(g.Versions, v)
		if err := errors.Join(v.covers(g.Versions[0]), g.Versions[0].covers(v)); err != nil {
			return nil, err
		}
	}
	return g, nil
}

// covers tells what another version has and this one has not.
func (v *version) covers(other *version) error {
	for _, fact := range other.facts {
		if !slices.Contains(v.facts, fact) {
			return fmt.Errorf("version %s lacks %s, which version %s has", v.Name, fact, other.Name)
		}
	}
	return nil
}

func readVersion(pkg *types.Package) (*version, error) {
	v := &version{Name: pkg.Name, pkg: pkg}
	markers, err := readMarkers(pkg.Dir)
	if err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(pkg.Types)) {
		if slices.ContainsFunc(markers[name], func(m *marker) bool { return m.name == "resource" }) {
			k := &kind{Name: name, Subresources: map[string]string{}}
			if err = k.readType(pkg.Types[name], markers[name]); err == nil {
				err = k.readFields(pkg.Types[name], "o", "", markers)
			}
			if err != nil {
				return nil, err
			}
			v.Kinds = append(v.Kinds, k)
			v.facts = append(v.facts, k.facts...)
		}
	}
	for _, m := range slices.Concat(slices.Collect(maps.Values(markers))...) {
		if !m.used {
			return nil, m.errorf("stands neither on a kind nor on a field that one reaches through structs alone")
		}
	}
	return v, nil
}

// agree records that what the marker says of the kind, or of a field of it, must be so in all versions.
func (k *kind) agree(m *marker, field string) {
	m.used = true
	k.facts = append(k.facts, fmt.Sprintf("kind %s (namespaced: %t) with %s%s %s%v", k.Name, k.Namespaced, prefix, m.name, field, m.values))
}

func (k *kind) readType(t *types.Type, markers []*marker) error {
	comments := slices.Concat(t.SecondClosestCommentLines, t.CommentLines)
	k.Namespaced = !slices.Contains(comments, "+genclient:nonNamespaced")
	k.Unwatched = slices.ContainsFunc(comments, func(line string) bool {
		verbs, _ := strings.CutPrefix(line, "+genclient:skipVerbs=")
		return slices.Contains(strings.Split(verbs, ","), "watch")
	})
	_, _, noStatus := resolve(t, "status")
	k.Status = noStatus == nil && !slices.Contains(comments, "+genclient:noStatus")
	_, _, noConditions := resolve(t, "status.conditions")
	k.Conditions = k.Status && noConditions == nil

	for _, m := range markers {
		m.used = true
		var err error
		if m.name != "column" {
			k.agree(m, "")
		}
		switch m.name {
		case "resource":
			if _, _, noSpec := resolve(t, "spec"); noSpec != nil || k.Plural != "" || !slices.Contains(comments, "+genclient") {
				err = m.errorf("a kind has it once, and also +genclient and a field spec")
			}
			split := func(r rune) bool { return r == '|' }
			k.Plural = m.values["plural"]
			k.ShortNames = strings.FieldsFunc(m.values["short"], split)
			k.Categories = strings.FieldsFunc(m.values["categories"], split)
		case "subresource":
			maps.Copy(k.Subresources, m.values)
		case "scale":
			err = k.readScale(t, m)
		case "column":
			err = k.readColumn(t, m)
		default:
			err = m.errorf("belongs on a field")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (k *kind) readScale(t *types.Type, m *marker) error {
	replicas, replicasType, err := resolve(t, m.values["spec"])
	status, statusType, err2 := resolve(t, m.values["status"])
	selector, selectorType, err3 := resolve(t, m.values["selector"])
	if err := errors.Join(err, err2, err3); err != nil {
		return m.errorf("%w", err)
	}
	pointer := replicasType.Kind == types.Pointer
	if strings.TrimPrefix(replicasType.String(), "*") != "int32" || statusType.String() != "int32" || selectorType.String() != "*"+metav1+".LabelSelector" {
		return m.errorf("spec must be an int32 or *int32, status an int32, selector a *metav1.LabelSelector; they are %s, %s, %s", replicasType, statusType, selectorType)
	}
	k.Scale = &scale{strings.Split(m.values["spec"], "."), replicas, status, selector, pointer}
	return nil
}

func (k *kind) readColumn(t *types.Type, m *marker) error {
	c := column{Name: m.values["name"], Type: m.values["type"], Description: m.values["description"], Func: m.values["func"]}
	want, known := map[string]string{"string": "string", "integer": "int64", "boolean": "bool", "date": "date"}[c.Type]
	priority, err := strconv.ParseInt(cmp.Or(m.values["priority"], "0"), 10, 32)
	if !known || err != nil || (m.values["path"] == "") == (c.Func == "") {
		return m.errorf("type must be string, integer, boolean or date, priority a number, and one of path and func be given")
	}
	c.Priority = priority
	if c.Func == "" {
		expression, end, err := resolve(t, m.values["path"])
		if err != nil {
			return m.errorf("%w", err)
		}
		var got string
		if got, c.Value = convert(expression, end); got != want {
			return m.errorf("path %s is a %s, which is no %s", m.values["path"], end, c.Type)
		}
	}
	k.Columns = append(k.Columns, c)
	return nil
}

// readFields finds the selectable fields of the struct. It stays out of objects within the object, such as templates:
// their fields are selectable where they are kinds of their own.
func (k *kind) readFields(t *types.Type, expression, path string, markers map[string][]*marker) error {
	for _, member := range t.Members {
		if member.Embedded && path != "" {
			return nil
		}
		expression, label := expression+"."+member.Name, path+jsonName(member)
		for _, m := range markers[t.Name.Name+"."+member.Name] {
			m.used = true
			f := field{Label: label}
			switch got, value := convert(expression, member.Type); got {
			case "string":
				f.Get = value
			case "bool":
				f.Get = "strconv.FormatBool(" + value + ")"
			case "int64":
				f.Get = "strconv.FormatInt(" + value + ", 10)"
			default:
				return m.errorf("%s is a %s; selectable are string, bool, int32 and int64", label, member.Type)
			}
			if m.name == "selectable:trigger" && k.Trigger == "" {
				k.Trigger = label
			} else if m.name != "selectable" {
				return m.errorf("a field is selectable, and one field a kind is the trigger, as %s is here", k.Trigger)
			}
			k.Fields = append(k.Fields, f)
		}
		if member.Type.Kind == types.Struct && member.Type.Name.Package == t.Name.Package {
			if err := k.readFields(member.Type, expression, label+".", markers); err != nil {
				return err
			}
		}
	}
	return nil
}

func jsonName(m types.Member) string {
	name, _, _ := strings.Cut(reflect.StructTag(m.Tags).Get("json"), ",")
	return name
}

// resolve gives the Go expression for a path of JSON names from the object o, and its type.
func resolve(t *types.Type, path string) (string, *types.Type, error) {
	expression := "o"
	for _, name := range strings.Split(path, ".") {
		at := slices.IndexFunc(t.Members, func(m types.Member) bool { return jsonName(m) == name })
		switch {
		case t.Kind == types.Pointer:
			return "", nil, fmt.Errorf("path %s goes through a pointer above %s; use a function", path, name)
		case at < 0:
			return "", nil, fmt.Errorf("path %s: %s has no field %s", path, t, name)
		case !t.Members[at].Embedded:
			expression += "." + t.Members[at].Name
		}
		t = t.Members[at].Type
	}
	return expression, t, nil
}

const metav1 = "k8s.io/apimachinery/pkg/apis/meta/v1"

// convert gives the kind of a value, string, bool, int64, date or something else, and the value as such.
func convert(expression string, t *types.Type) (string, string) {
	name := t.Name.Name
	if t.Kind == types.Alias {
		name = t.Underlying.Name.Name
	}
	switch {
	case t.String() == metav1+".Time":
		return "date", "registry.Age(" + expression + ")"
	case name == "int32":
		name = "int64"
	}
	if name != t.Name.Name {
		expression = name + "(" + expression + ")"
	}
	return name, expression
}
