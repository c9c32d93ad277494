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

// Command registry-gen writes what the registries need to know of the kinds of one API group, from markers on the types of
// its versions: the descriptor of each kind, the storage of each path, and the fields that selectors may name.
//
// The versions are given as import paths, the one that the descriptors are read from first. Their doc.go says
// +groupName=<group>, +k8s:conversion-gen=<package of the internal types, with the same fields> and
// +leat:registry-gen=<output package>. A kind is a type with +leat:resource, and with +genclient, which gives its scope,
// its status subresource and whether it is watched:
//
//	+leat:resource:plural=<name>[,short=<name>|<name>…][,categories=<name>|<name>…]
//	+leat:subresource:<path>=<method of the type Subresources in the kind's rules package>
//	+leat:scale:spec=<path>,status=<path>,selector=<path>
//	+leat:column:name=<heading>,type=string|integer|date|boolean[,priority=<number>],path=<path>|func=<function>,description=<rest of line>
//	+leat:selectable            (on a field)
//	+leat:selectable:trigger    (on a field, once a kind: the watch cache finds watchers by it)
//
// The rules package of a kind lies in the output package and has the kind's name in lower case. It has a type Rules, the
// functions that columns name, func(*<internal type>) any, and, if the kind has subresources, a type Subresources with a
// method func(*genericregistry.Store) that returns the storage of each.
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

// module holds the packages given and the output.
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
