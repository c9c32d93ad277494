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
// descriptor of each kind, the storage of each path, and the field labels of selectors.
//
// The arguments are the import paths of the versions. The descriptors are read from the first one. doc.go of each
// version has the markers +groupName=<group>, +leat:registry-gen=<output package> and
// +k8s:conversion-gen=<package of the internal types, with the same fields>. A kind is a type with the marker +leat:resource. Its marker +genclient determines
// the scope, the status subresource and whether it can be watched. The other markers are:
//
//	+leat:resource:plural=<name>[,short=<name>|<name>…][,categories=<name>|<name>…]
//	+leat:subresource:<path>=<method of the type Subresources in the kind's rules package>
//	+leat:scale:spec=<path>,status=<path>,selector=<path>
//	+leat:column:name=<heading>,type=string|integer|date|boolean[,priority=<number>],path=<path>|func=<function>,description=<rest of line>
//	+leat:selectable            (on a field)
//	+leat:selectable:trigger    (on one field of a kind: the watch cache indexes watchers by it)
//
// The rules package of a kind is a subpackage of the output package, named like the kind in lower case. It must have a
// type Strategy, the types of the subresources, with a field Store, and the functions of the columns, of type
// func(*<internal type>) any.
package main

import (
	"bytes"
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
	flag.Parse()
	if err := run(*header, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "registry-gen:", err)
		os.Exit(1)
	}
}

//go:embed *.tmpl
var sources embed.FS

var templates = template.Must(template.New("").Funcs(template.FuncMap{
	"base": path.Base, "hasPrefix": strings.HasPrefix, "lower": strings.ToLower, "split": strings.Split,
}).ParseFS(sources, "*.tmpl"))

func run(headerFile string, paths []string) error {
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
	first := g.Versions[0].pkg
	root := strings.TrimSuffix(first.Dir, filepath.FromSlash(strings.TrimPrefix(first.Path, module)))
	output := filepath.Join(root, strings.TrimPrefix(g.Output, module))
	errs := []error{os.MkdirAll(output, 0o755), write(output, "resources", header, g), write(output, "rest", header, g)}
	for _, v := range g.Versions {
		errs = append(errs, write(v.pkg.Dir, "fieldlabels", header, v))
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
	return os.WriteFile(filepath.Join(dir, "zz_generated."+name+".go"), content, 0o644)
}
