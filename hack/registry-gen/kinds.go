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

	"k8s.io/gengo/v2"
	"k8s.io/gengo/v2/parser"
	"k8s.io/gengo/v2/types"
)

// group is the data of the templates. Internal and Output are import paths.
type group struct {
	Name, Internal, Output string
	Versions               []*version
}

type version struct {
	Name  string
	Kinds []*kind
	pkg   *types.Package
}

// kind has the values of a type's markers. Those of Scale, and "cell" of Columns, are expressions of the internal
// object o.
type kind struct {
	Name, Trigger                             string
	Namespaced, Unwatched, Status, Conditions bool
	Resource, Subresources, Scale             map[string]string
	Columns                                   []map[string]string
	Fields                                    []field
}

// field is a selectable field. Get is its value as a string, an expression of the internal object o.
type field struct{ Label, Get string }

// load parses packages without their generated files, which may be stale.
func load(paths []string) (types.Universe, error) {
	if len(paths) == 0 {
		return nil, errors.New("give the import paths of the group's versions")
	}
	p := parser.NewWithOptions(parser.Options{BuildTags: []string{gengo.StdBuildTag}})
	if err := p.LoadPackages(paths...); err != nil {
		return nil, err
	}
	return p.NewUniverse()
}

func readGroup(universe types.Universe, paths []string) (*group, error) {
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

// covers returns an error unless this version has all kinds of the other, with the same properties in the descriptor.
func (v *version) covers(other *version) error {
	shared := func(k *kind) string {
		return fmt.Sprintf("kind %s, namespaced %t, resource %v, scale %v, selectable %v, trigger %q",
			k.Name, k.Namespaced, k.Resource, k.Scale, k.Fields, k.Trigger)
	}
	for _, k := range other.Kinds {
		if !slices.ContainsFunc(v.Kinds, func(own *kind) bool { return shared(own) == shared(k) }) {
			return fmt.Errorf("version %s must have, as version %s has: %s", v.Name, other.Name, shared(k))
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
			err := k.readType(pkg.Types[name], markers[name])
			if err == nil {
				err = k.readFields(pkg.Types[name], "o", "", markers)
			}
			if err != nil {
				return nil, err
			}
			v.Kinds = append(v.Kinds, k)
		}
	}
	var errs []error
	for _, owner := range slices.Sorted(maps.Keys(markers)) {
		for _, m := range markers[owner] {
			if !m.used {
				errs = append(errs, m.errorf("stands neither on a kind nor on a field that one reaches through structs alone"))
			}
		}
	}
	return v, errors.Join(errs...)
}

func (k *kind) readType(t *types.Type, markers []*marker) error {
	comments := slices.Concat(t.SecondClosestCommentLines, t.CommentLines)
	k.Namespaced = !slices.Contains(comments, "+genclient:nonNamespaced")
	k.Unwatched = slices.ContainsFunc(comments, func(line string) bool {
		verbs, _ := strings.CutPrefix(line, "+genclient:skipVerbs=")
		return slices.Contains(strings.Split(verbs, ","), "watch")
	})
	_, _, noSpec := resolve(t, "spec")
	_, _, noStatus := resolve(t, "status")
	_, _, noConditions := resolve(t, "status.conditions")
	k.Status = noStatus == nil && !slices.Contains(comments, "+genclient:noStatus")
	k.Conditions = noConditions == nil && k.Status
	for _, m := range markers {
		m.used = true
		var err error
		switch m.name {
		case "resource":
			if k.Resource != nil || noSpec != nil || !slices.Contains(comments, "+genclient") {
				err = errors.New("a kind has it once, and also +genclient and a field spec")
			}
			k.Resource = m.values
		case "subresource":
			maps.Copy(k.Subresources, m.values)
		case "scale":
			k.Scale = map[string]string{"path": m.values["spec"]}
			for key, path := range m.values {
				var valueErr error
				k.Scale[key], valueErr = value(t, path, key)
				err = errors.Join(err, valueErr)
			}
		case "column":
			err = readColumn(t, m.values)
			k.Columns = append(k.Columns, m.values)
		default:
			err = errors.New("belongs on a field")
		}
		if err != nil {
			return m.errorf("%w", err)
		}
	}
	return nil
}

func readColumn(t *types.Type, column map[string]string) (err error) {
	if !slices.Contains([]string{"string", "integer", "boolean", "date"}, column["type"]) {
		return fmt.Errorf("unknown type=%s; known are string, integer, boolean and date", column["type"])
	}
	if _, err := strconv.ParseInt(cmp.Or(column["priority"], "0"), 10, 32); err != nil {
		return fmt.Errorf("priority=%s must be a number", column["priority"])
	}
	if (column["path"] == "") == (column["func"] == "") {
		return errors.New("needs either path= or func=")
	}
	if column["func"] == "" {
		column["cell"], err = value(t, column["path"], column["type"])
	}
	return err
}

// readFields finds the selectable fields of a struct. It skips nested objects such as templates: their markers apply to
// the kind that they are templates of.
func (k *kind) readFields(t *types.Type, expression, path string, markers map[string][]*marker) error {
	for _, member := range t.Members {
		if member.Embedded && path != "" {
			return nil
		}
		label, expression := path+jsonName(member), expression+"."+member.Name
		for _, m := range markers[t.Name.Name+"."+member.Name] {
			m.used = true
			get, err := convert(expression, member.Type, "selectable")
			switch {
			case !strings.HasPrefix(m.name, "selectable"):
				err = errors.New("belongs on a type")
			case m.name == "selectable:trigger" && k.Trigger != "":
				err = fmt.Errorf("a kind has one trigger, and %s has %s", k.Name, k.Trigger)
			case m.name == "selectable:trigger":
				k.Trigger = label
			}
			if err != nil {
				return m.errorf("%w", err)
			}
			k.Fields = append(k.Fields, field{label, get})
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

// resolve returns the Go expression for a path of JSON names below the object o, and its type.
func resolve(t *types.Type, path string) (string, *types.Type, error) {
	expression := "o"
	for _, name := range strings.Split(path, ".") {
		at := slices.IndexFunc(t.Members, func(m types.Member) bool { return jsonName(m) == name })
		switch {
		case t.Kind == types.Pointer:
			return "", nil, fmt.Errorf("path %s goes through a pointer before %s; only a function can", path, name)
		case at < 0:
			return "", nil, fmt.Errorf("path %s: %s has no field %s", path, t, name)
		case !t.Members[at].Embedded:
			expression += "." + t.Members[at].Name
		}
		t = t.Members[at].Type
	}
	return expression, t, nil
}

// conversions are the Go expressions that convert a field, by use and type.
var conversions = map[string]map[string]string{
	"string":  {"string": "%s"},
	"integer": {"int32": "int64(%s)", "int64": "%s"},
	"boolean": {"bool": "%s"},
	"date":    {"k8s.io/apimachinery/pkg/apis/meta/v1.Time": "registry.Age(%s)"},
	"selectable": {
		"string": "%s", "bool": "strconv.FormatBool(%s)", "int32": "strconv.FormatInt(int64(%s), 10)", "int64": "strconv.FormatInt(%s, 10)",
	},
	"spec":     {"int32": "%s", "*int32": "*%s"},
	"status":   {"int32": "%s"},
	"selector": {"*k8s.io/apimachinery/pkg/apis/meta/v1.LabelSelector": "%s"},
}

func convert(expression string, t *types.Type, use string) (string, error) {
	name := t.String()
	if t.Kind == types.Alias {
		name = t.Underlying.String()
		expression = name + "(" + expression + ")"
	}
	form, known := conversions[use][name]
	if !known {
		return "", fmt.Errorf("%s is a %s; %s takes one of %q", expression, name, use, slices.Sorted(maps.Keys(conversions[use])))
	}
	return fmt.Sprintf(form, expression), nil
}

func value(t *types.Type, path, use string) (string, error) {
	expression, end, err := resolve(t, path)
	if err != nil {
		return "", err
	}
	return convert(expression, end, use)
}
