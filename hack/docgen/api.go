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
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// parseDir returns the syntax of the Go files in a directory that are neither tests nor generated, sorted by name.
func parseDir(dir string) ([]*ast.File, error) {
	names, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return nil, err
	}
	var files []*ast.File
	for _, name := range names {
		base := filepath.Base(name)
		if strings.HasSuffix(base, "_test.go") || strings.HasPrefix(base, "zz_generated") || base == "generated.pb.go" {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
		if err != nil {
			return nil, err
		}
		files = append(files, file)
	}
	return files, nil
}

// packageDirs returns the directories below root that hold Go files, without generated and test data.
func packageDirs(root string) ([]string, error) {
	var dirs []string
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() {
			return err
		}
		if base := entry.Name(); base == "generated" || base == "testdata" {
			return filepath.SkipDir
		}
		dirs = append(dirs, path)
		return nil
	})
	return dirs, err
}

// documentation splits a comment into its text, without blank paragraphs, and its markers without the plus sign.
func documentation(groups ...*ast.CommentGroup) (text string, markers []string) {
	var words []string
	for _, group := range groups {
		if group == nil {
			continue
		}
		for _, comment := range group.List {
			line := strings.TrimSpace(strings.TrimPrefix(comment.Text, "//"))
			if marker, ok := strings.CutPrefix(line, "+"); ok {
				markers = append(markers, marker)
			} else {
				words = append(words, strings.Fields(line)...)
			}
		}
	}
	return strings.Join(words, " "), markers
}

// value returns the value of the first marker with that name.
func value(markers []string, name string) (string, bool) {
	for _, marker := range markers {
		if rest, ok := strings.CutPrefix(marker, name); ok && (rest == "" || rest[0] == '=' || rest[0] == ':') {
			return strings.TrimLeft(rest, "=:"), true
		}
	}
	return "", false
}

// constant is a string constant with its documentation.
type constant struct {
	name, value, doc, typeName string
}

// constants returns the string constants of a package, in the order of the source.
func constants(files []*ast.File) []constant {
	var all []constant
	for _, file := range files {
		for _, decl := range file.Decls {
			group, ok := decl.(*ast.GenDecl)
			if !ok || group.Tok != token.CONST {
				continue
			}
			for _, spec := range group.Specs {
				spec := spec.(*ast.ValueSpec)
				comment := spec.Doc
				if comment == nil && len(group.Specs) == 1 {
					comment = group.Doc
				}
				doc, _ := documentation(comment)
				typeName := ""
				if ident, ok := spec.Type.(*ast.Ident); ok {
					typeName = ident.Name
				}
				for i, name := range spec.Names {
					if i >= len(spec.Values) {
						continue
					}
					if text, ok := stringValue(spec.Values[i]); ok {
						all = append(all, constant{name.Name, text, doc, typeName})
					}
				}
			}
		}
	}
	return all
}

// stringValue returns the value of a string literal, or of a sum of them.
func stringValue(expr ast.Expr) (string, bool) {
	switch expr := expr.(type) {
	case *ast.BasicLit:
		if expr.Kind == token.STRING {
			text, err := strconv.Unquote(expr.Value)
			return text, err == nil
		}
	case *ast.BinaryExpr:
		left, ok := stringValue(expr.X)
		right, ok2 := stringValue(expr.Y)
		return left + right, ok && ok2 && expr.Op == token.ADD
	}
	return "", false
}

// apiPage returns the reference of the kinds and their fields.
func apiPage() (string, error) {
	files, err := parseDir(typesDir)
	if err != nil {
		return "", err
	}
	values := map[string][]constant{}
	for _, c := range constants(files) {
		values[c.typeName] = append(values[c.typeName], c)
	}
	local := map[string]bool{}
	type declared struct {
		name, doc string
		markers   []string
		spec      *ast.TypeSpec
	}
	var all []declared
	for _, file := range files {
		for _, decl := range file.Decls {
			group, ok := decl.(*ast.GenDecl)
			if !ok || group.Tok != token.TYPE {
				continue
			}
			spec := group.Specs[0].(*ast.TypeSpec)
			if !spec.Name.IsExported() || strings.HasSuffix(spec.Name.Name, "List") && spec.Name.Name != "ResourceList" {
				continue
			}
			// Markers of a kind stand in a comment of their own above the documentation.
			var above *ast.CommentGroup
			for _, comment := range file.Comments {
				if comment.End() < group.Pos() && (group.Doc == nil || comment.End() < group.Doc.Pos()) && !insideDecl(file, comment) {
					above = comment
				}
			}
			doc, markers := documentation(group.Doc)
			if above != nil && lastDeclEnd(file, group) < above.Pos() {
				_, more := documentation(above)
				markers = append(markers, more...)
			}
			local[spec.Name.Name] = true
			all = append(all, declared{spec.Name.Name, doc, markers, spec})
		}
	}

	var kinds []string
	var body strings.Builder
	for _, d := range all {
		level := "###"
		if resource, ok := value(d.markers, "leat:resource"); ok {
			level = "##"
			kinds = append(kinds, d.name)
			fmt.Fprintf(&body, "\n%s %s\n\n%s\n", level, d.name, prose(d.doc))
			fmt.Fprintf(&body, "\n%s\n", resourceLine(resource, d.markers))
		} else {
			fmt.Fprintf(&body, "\n%s %s\n\n%s\n", level, d.name, prose(d.doc))
		}
		if structType, ok := d.spec.Type.(*ast.StructType); ok {
			fmt.Fprint(&body, "\n| Field | Type | Description |\n|---|---|---|\n")
			for _, field := range structType.Fields.List {
				body.WriteString(fieldRow(field, local))
			}
		} else if len(values[d.name]) > 0 {
			fmt.Fprint(&body, "\n| Value | Description |\n|---|---|\n")
			for _, c := range values[d.name] {
				fmt.Fprintf(&body, "| `%s` | %s |\n", c.value, cell(withoutName(c)))
			}
		}
	}

	var page strings.Builder
	page.WriteString(header("API", "This page is for you if you write manifests or clients, and look up a kind or a field of `batch.leat.dev/v1alpha1`.", typesDir))
	page.WriteString("\n`kubectl explain task.spec` shows the same on the command line. [Conditions and reasons](conditions.md) has the values of conditions.\n\nKinds: ")
	for i, kind := range kinds {
		if i > 0 {
			page.WriteString(", ")
		}
		fmt.Fprintf(&page, "[%s](#%s)", kind, strings.ToLower(kind))
	}
	page.WriteString(".\n")
	page.WriteString(body.String())
	return page.String(), nil
}

// insideDecl reports whether a comment lies within a declaration.
func insideDecl(file *ast.File, comment *ast.CommentGroup) bool {
	return slices.ContainsFunc(file.Decls, func(decl ast.Decl) bool { return decl.Pos() < comment.Pos() && comment.End() < decl.End() })
}

// lastDeclEnd returns the end of the declaration before group.
func lastDeclEnd(file *ast.File, group *ast.GenDecl) token.Pos {
	end := file.Name.End()
	for _, decl := range file.Decls {
		if decl.End() < group.Pos() {
			end = decl.End()
		}
	}
	return end
}

// resourceLine describes the resource of a kind: its names, subresources and field selectors.
func resourceLine(resource string, markers []string) string {
	var plural, short string
	for _, part := range strings.Split(resource, ",") {
		switch key, text, _ := strings.Cut(part, "="); key {
		case "plural":
			plural = text
		case "short":
			short = text
		}
	}
	line := fmt.Sprintf("Resource: `%s`", plural)
	if short != "" {
		line += fmt.Sprintf(", short `%s`", short)
	}
	var subresources []string
	if _, off := value(markers, "genclient:noStatus"); !off {
		subresources = append(subresources, "`status`")
	}
	if _, ok := value(markers, "leat:scale"); ok {
		subresources = append(subresources, "`scale`")
	}
	for _, marker := range markers {
		if rest, ok := strings.CutPrefix(marker, "leat:subresource:"); ok {
			name, _, _ := strings.Cut(rest, "=")
			subresources = append(subresources, "`"+name+"`")
		}
	}
	if len(subresources) > 0 {
		line += ". Subresources: " + strings.Join(subresources, ", ")
	}
	return line + "."
}

// fieldRow returns the row of a field in the table of its type, or "" for a field that JSON does not have.
func fieldRow(field *ast.Field, local map[string]bool) string {
	if field.Tag == nil {
		return ""
	}
	tag, _ := strconv.Unquote(field.Tag.Value)
	_, after, ok := strings.Cut(tag, `json:"`)
	if !ok {
		return ""
	}
	name, _, _ := strings.Cut(after[:strings.Index(after, `"`)], ",")
	if name == "" || name == "-" {
		return ""
	}
	doc, markers := documentation(field.Doc)
	if _, rest, cut := strings.Cut(doc, " More info:"); cut {
		doc = strings.TrimSuffix(doc, " More info:"+rest)
	}
	var notes []string
	if _, ok := value(markers, "required"); ok {
		notes = append(notes, "required")
	}
	if text, ok := value(markers, "default"); ok && !strings.Contains(doc, "Defaults to ") {
		notes = append(notes, "default `"+strings.Trim(text, `"`)+"`")
	}
	for _, limit := range []struct{ marker, text string }{
		{"k8s:minimum", "at least %s"}, {"k8s:maximum", "at most %s"}, {"k8s:maxLength", "at most %s characters"},
		{"k8s:maxItems", "at most %s items"}, {"k8s:maxProperties", "at most %s entries"},
	} {
		if text, ok := value(markers, limit.marker); ok {
			notes = append(notes, fmt.Sprintf(limit.text, text))
		}
	}
	if _, ok := value(markers, "k8s:immutable"); ok {
		notes = append(notes, "immutable")
	}
	for _, marker := range markers {
		if strings.HasPrefix(marker, "leat:selectable") {
			notes = append(notes, "field selector")
		}
	}
	description := cell(doc)
	if len(notes) > 0 {
		description += " *(" + strings.Join(notes, "; ") + ")*"
	}
	return fmt.Sprintf("| `%s` | %s | %s |\n", name, typeName(field.Type, local), description)
}

// typeName returns the name of a type as JSON has it, with a link to types of the page.
func typeName(expr ast.Expr, local map[string]bool) string {
	switch expr := expr.(type) {
	case *ast.StarExpr:
		return typeName(expr.X, local)
	case *ast.ArrayType:
		if ident, ok := expr.Elt.(*ast.Ident); ok && ident.Name == "byte" {
			return "base64"
		}
		return "array of " + typeName(expr.Elt, local)
	case *ast.MapType:
		return "map of " + typeName(expr.Value, local)
	case *ast.SelectorExpr:
		return expr.Sel.Name
	case *ast.Ident:
		switch expr.Name {
		case "int32", "int64":
			return "integer"
		case "bool":
			return "boolean"
		}
		if local[expr.Name] {
			return fmt.Sprintf("[%s](#%s)", expr.Name, strings.ToLower(expr.Name))
		}
		return expr.Name
	}
	return "object"
}

// withoutName returns the documentation of a constant without its Go name.
func withoutName(c constant) string {
	text := c.doc
	for _, start := range []string{" is the type of the condition that is ", " means that ", " means ", " is the reason of ", " is ", " "} {
		rest, ok := strings.CutPrefix(text, c.name+start)
		if !ok {
			continue
		}
		if strings.HasSuffix(start, "reason of ") {
			rest = "of " + rest
		}
		if first, _, _ := strings.Cut(rest, " "); strings.Contains(strings.TrimSuffix(first, "."), ".") {
			return rest // the path of a field
		}
		return strings.ToUpper(rest[:1]) + rest[1:]
	}
	return text
}
