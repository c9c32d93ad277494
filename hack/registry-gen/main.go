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

// The registry-gen command generates the registries of an API group from markers on the types of its versions: the
// descriptor of each kind, the storage of each path, the field labels of selectors, and the list of kinds.
//
// The arguments are the import paths of the versions. doc.go of each version has the markers +groupName=<group>,
// +leat:registry-gen=<output package> and +k8s:conversion-gen=<package of the internal types>. A kind is a type with the
// marker +leat:resource. Its marker +genclient determines the scope, the status subresource and whether it can be
// watched. The other markers are:
//
//	+leat:resource:plural=<name>[,short=<name>|<name>…][,categories=<name>|<name>…][,owns=<kind>|<kind>…]
//	+leat:subresource:<path>=<method of the type Subresources in the kind's rules package>
//	+leat:scale:spec=<path>,status=<path>,selector=<path>
//	+leat:column:name=<heading>,type=string|integer|date|boolean[,priority=<number>],path=<path>|func=<function>,description=<rest of line>
//	+leat:selectable            (on a field)
//	+leat:selectable:trigger    (on one field of a kind: the watch cache indexes watchers by it)
//	+leat:internal:path=<path>  (on a field whose path differs from that in the first version)
//
// The fields of the internal types have the names and the places of those of the first version. Other versions may have
// other columns and other paths, but not other kinds, subresources or selectable fields.
//
// The rules package of a kind is a subpackage of the output package, named like the kind in lower case. It must have a
// type Rules, the types of the subresources, with a field Store, and the functions of the columns, of type
// func(*<internal type>) any.
//
// If a type has the same memory layout as the internal type, conversion-gen casts pointers instead of copying.
// zz_generated.layout.go beside the types asserts these layouts: if a type changes and the code is not generated again,
// it does not compile.
package main

import (
	"bytes"
	"cmp"
	"embed"
	"errors"
	"flag"
	"fmt"
	"go/format"
	"os"
	"path"
	"path/filepath"
	"strings"
	"text/template"

	"k8s.io/gengo/v2"
)

// module is the module of the versions and the output.
const module = "github.com/leat-dev/leat"

func main() {
	header := flag.String("go-header-file", "", "the file that generated files begin with")
	kinds := flag.String("kinds-package", "", "the import path of the package for the list of kinds, which clients may import; none by default")
	output := flag.String("output-package", "", "the import path of the package for the descriptors, if it is not that of +leat:registry-gen")
	flag.Parse()
	if err := run(*header, *kinds, *output, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "registry-gen:", err)
		os.Exit(1)
	}
}

//go:embed *.tmpl
var sources embed.FS

var templates = template.Must(template.New("").Funcs(template.FuncMap{
	"columns": newColumns, "base": path.Base, "hasPrefix": strings.HasPrefix, "lower": strings.ToLower, "split": strings.Split,
}).ParseFS(sources, "*.tmpl"))

// columns is the data of the template "columns".
type columns struct {
	Kind, Type string
	Columns    []map[string]string
}

func newColumns(kind, typeName string, of []map[string]string) columns {
	return columns{kind, typeName, of}
}

func run(headerFile, kindsPackage, outputPackage string, paths []string) error {
	header, err := gengo.GoBoilerplate(headerFile, gengo.StdBuildTag, gengo.StdGeneratedBy)
	if err != nil {
		return err
	}
	universe, err := load(paths)
	if err != nil {
		return err
	}
	g, err := readGroup(universe, paths)
	if err != nil {
		return err
	}
	g.Output = cmp.Or(outputPackage, g.Rules)
	first := g.Versions[0].pkg
	root := strings.TrimSuffix(first.Dir, filepath.FromSlash(strings.TrimPrefix(first.Path, module)))
	output := filepath.Join(root, strings.TrimPrefix(g.Output, module))
	errs := []error{write(output, "resources", header, g), write(output, "rest", header, g)}
	if kindsPackage != "" {
		g.KindsPackage = kindsPackage
		errs = append(errs, write(filepath.Join(root, strings.TrimPrefix(kindsPackage, module)), "kinds", header, g))
	}
	internal, err := loadInternal(g.Internal)
	if err != nil {
		return err
	}
	for _, v := range g.Versions {
		errs = append(errs, write(v.pkg.Dir, "fieldlabels", header, v))
		if layouts := sameLayouts(v.pkg, internal); len(layouts) > 0 {
			errs = append(errs, write(v.pkg.Dir, "layout", header, layoutFile{v.Name, g.Internal, layouts}))
		}
	}
	return errors.Join(errs...)
}

func write(dir, name string, header []byte, data any) error {
	file := bytes.NewBuffer(bytes.Clone(header))
	if err := templates.ExecuteTemplate(file, name+".go.tmpl", data); err != nil {
		return err
	}
	content, err := format.Source(file.Bytes())
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "zz_generated."+name+".go"), content, 0o644)
}
