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

// group is the data of the templates. Internal, Rules, Output and KindsPackage are import paths: those of the internal
// types, of the parent of the rules packages, of the descriptors, and of the list of kinds.
type group struct {
	Name, Internal, Rules, Output, KindsPackage string
	Versions                                    []*version
}

type version struct {
	Name  string
	Kinds []*kind
	pkg   *types.Package
}

// kind has the values of a type's markers. Those of Scale, and "cell" of Columns, are expressions of the internal
// object o. Trigger and the path of Scale are internal paths.
type kind struct {
	Name, Trigger                             string
	Namespaced, Unwatched, Status, Conditions bool
	Resource, Subresources, Scale             map[string]string
	Columns                                   []map[string]string
	Fields                                    []field
	// Moved are the internal paths of the fields that have another path in this version.
	Moved map[string]string

	// typ is the type of this version, and first that of the first version, whose paths are the internal ones.
	typ, first *types.Type
}

// field is a selectable field: its label, the label internally, and its value as a string, an expression of the
// internal object o.
type field struct{ Label, Internal, Get string }

// difference is how a kind of a version differs from the same kind of the first version.
type difference struct {
	Version string
	// Moved are the paths in the version by internal path.
	Moved map[string]string
	// Columns are those of the version, nil if they are equal.
	Columns []map[string]string
}

// Differences returns the differences of the versions of a kind from the first version.
func (g *group) Differences(name string) []difference {
	var found []difference
	of := func(v *version) *kind {
		return v.Kinds[slices.IndexFunc(v.Kinds, func(k *kind) bool { return k.Name == name })]
	}
	for _, v := range g.Versions[1:] {
		d, k := difference{Version: v.Name, Moved: map[string]string{}}, of(v)
		for own, internal := range k.Moved {
			d.Moved[internal] = own
		}
		if !slices.EqualFunc(of(g.Versions[0]).Columns, k.Columns, sameColumn) {
			d.Columns = k.Columns
		}
		if d.Columns != nil || len(d.Moved) > 0 {
			found = append(found, d)
		}
	}
	return found
}

// sameColumn reports whether two columns show the same. The paths of their cells may differ.
func sameColumn(a, b map[string]string) bool {
	for _, key := range []string{"name", "type", "priority", "func", "cell", "description"} {
		if a[key] != b[key] {
			return false
		}
	}
	return true
}

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
	var first *types.Package
	for _, path := range paths {
		pkg := universe.Package(path)
		for tag, value := range map[string]*string{"+groupName=": &g.Name, "+k8s:conversion-gen=": &g.Internal, outputTag: &g.Rules} {
			at := slices.IndexFunc(pkg.Comments, func(line string) bool { return strings.HasPrefix(line, tag) })
			if at < 0 || *value != "" && pkg.Comments[at] != tag+*value {
				return nil, fmt.Errorf("%s: doc.go needs %s, the same in all versions", path, tag)
			}
			*value = strings.TrimPrefix(pkg.Comments[at], tag)
		}
		if first == nil {
			first = pkg
		}
		v, err := readVersion(pkg, first)
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
		var fields []string
		for _, f := range k.Fields {
			fields = append(fields, f.Internal+"="+f.Get)
		}
		slices.Sort(fields)
		return fmt.Sprintf("kind %s, namespaced %t, watched %t, status %t, conditions %t, resource %v, subresources %v, scale %v, selectable %q, trigger %q",
			k.Name, k.Namespaced, !k.Unwatched, k.Status, k.Conditions, k.Resource, k.Subresources, k.Scale, fields, k.Trigger)
	}
	for _, k := range other.Kinds {
		if !slices.ContainsFunc(v.Kinds, func(own *kind) bool { return shared(own) == shared(k) }) {
			return fmt.Errorf("version %s must have, as version %s has: %s", v.Name, other.Name, shared(k))
		}
	}
	return nil
}

// readVersion reads the kinds of a version. first is the package of the first version.
func readVersion(pkg, first *types.Package) (*version, error) {
	v := &version{Name: pkg.Name, pkg: pkg}
	markers, err := readMarkers(pkg.Dir)
	if err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(pkg.Types)) {
		if slices.ContainsFunc(markers[name], func(m *marker) bool { return m.name == "resource" }) {
			k := &kind{Name: name, Subresources: map[string]string{}, Moved: map[string]string{}, typ: pkg.Types[name], first: first.Types[name]}
			if k.first == nil {
				return nil, fmt.Errorf("version %s has the kind %s, and version %s has not", v.Name, name, first.Name)
			}
			err := k.readMoved(k.typ, "", markers)
			if err == nil {
				err = k.readType(markers[name])
			}
			if err == nil {
				err = k.readFields(k.typ, "", markers)
			}
			if err != nil {
				return nil, err
			}
			v.Kinds = append(v.Kinds, k)
		}
	}
	var errs []error
	for _, k := range v.Kinds {
		for _, owned := range strings.FieldsFunc(k.Resource["owns"], func(r rune) bool { return r == '|' }) {
			if !slices.ContainsFunc(v.Kinds, func(o *kind) bool { return o.Name == owned }) {
				errs = append(errs, fmt.Errorf("%s: owns=%s is no kind of version %s", k.Name, owned, v.Name))
			}
		}
	}
	for _, owner := range slices.Sorted(maps.Keys(markers)) {
		for _, m := range markers[owner] {
			if !m.used {
				errs = append(errs, m.errorf("is neither on a kind nor on a field that is reached through structs alone"))
			}
		}
	}
	return v, errors.Join(errs...)
}

func (k *kind) readType(markers []*marker) error {
	t := k.typ
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
			k.Scale = map[string]string{"path": k.internalPath(m.values["spec"])}
			for key, path := range m.values {
				var valueErr error
				k.Scale[key], valueErr = k.value(path, key)
				err = errors.Join(err, valueErr)
			}
		case "column":
			err = k.readColumn(m.values)
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

func (k *kind) readColumn(column map[string]string) (err error) {
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
		column["cell"], err = k.value(column["path"], column["type"])
	}
	return err
}

// eachField calls visit for each field below a struct that is reached through structs of the same package alone. It
// skips nested objects such as templates: their markers apply to the kind that they are templates of.
func eachField(t *types.Type, path string, visit func(owner, path string) error) error {
	for _, member := range t.Members {
		if member.Embedded && path != "" {
			return nil
		}
		label := path + jsonName(member)
		if err := visit(t.Name.Name+"."+member.Name, label); err != nil {
			return err
		}
		if member.Type.Kind == types.Struct && member.Type.Name.Package == t.Name.Package {
			if err := eachField(member.Type, label+".", visit); err != nil {
				return err
			}
		}
	}
	return nil
}

// readMoved finds the fields that have another path internally.
func (k *kind) readMoved(t *types.Type, path string, markers map[string][]*marker) error {
	return eachField(t, path, func(owner, path string) error {
		for _, m := range markers[owner] {
			if m.name != "internal" {
				continue
			}
			m.used = true
			k.Moved[path] = m.values["path"]
			if _, _, err := resolve(k.first, m.values["path"]); err != nil {
				return m.errorf("%w", err)
			}
		}
		return nil
	})
}

// internalPath returns the internal path of a field of this version.
func (k *kind) internalPath(path string) string {
	for own, internal := range k.Moved {
		if rest, ok := strings.CutPrefix(path, own); ok && (rest == "" || rest[0] == '.') {
			return internal + rest
		}
	}
	return path
}

// readFields finds the selectable fields of a struct.
func (k *kind) readFields(t *types.Type, path string, markers map[string][]*marker) error {
	return eachField(t, path, func(owner, label string) error {
		for _, m := range markers[owner] {
			if m.name == "internal" {
				continue
			}
			m.used = true
			get, err := k.value(label, "selectable")
			switch {
			case !strings.HasPrefix(m.name, "selectable"):
				err = errors.New("belongs on a type")
			case m.name == "selectable:trigger" && k.Trigger != "":
				err = fmt.Errorf("a kind has one trigger, and %s has %s", k.Name, k.Trigger)
			case m.name == "selectable:trigger":
				k.Trigger = k.internalPath(label)
			}
			if err != nil {
				return m.errorf("%w", err)
			}
			k.Fields = append(k.Fields, field{label, k.internalPath(label), get})
		}
		return nil
	})
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

// value returns the expression for the field of the internal object o that has a path in this version.
func (k *kind) value(path, use string) (string, error) {
	if _, _, err := resolve(k.typ, path); err != nil {
		return "", err
	}
	expression, end, err := resolve(k.first, k.internalPath(path))
	if err != nil {
		return "", fmt.Errorf("%w internally; add +leat:internal to the field, or use func=", err)
	}
	return convert(expression, end, use)
}
