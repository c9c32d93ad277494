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
//	+leat:subresource:<path>=<storage type in the kind's rules package>
//	+leat:scale:spec=<path>,status=<path>,selector=<path>
//	+leat:column:name=<heading>,type=string|integer|date|boolean[,priority=<number>],path=<path>|func=<function>,description=<rest of line>
//	+leat:selectable            (on a field)
//	+leat:selectable:trigger    (on a field, once a kind: the watch cache finds watchers by it)
//
// The rules package of a kind lies in the output package and has the kind's name in lower case. It has a type Strategy, the
// types that subresources name, with a field Store, and the functions that columns name: func(*<internal type>) any.
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
	"k8s.io/gengo/v2/parser"
	"k8s.io/gengo/v2/types"
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

func run(headerFile string, paths []string) error {
	universe, err := load(paths)
	if err != nil {
		return err
	}
	g, err := readGroup(universe, paths)
	if err != nil {
		return err
	}
	return g.write(headerFile)
}

// load reads packages without their generated files, so stale ones do no harm.
func load(paths []string) (types.Universe, error) {
	p := parser.NewWithOptions(parser.Options{BuildTags: []string{gengo.StdBuildTag}})
	if err := p.LoadPackages(paths...); err != nil {
		return nil, err
	}
	return p.NewUniverse()
}

//go:embed *.tmpl
var sources embed.FS

var templates = template.Must(template.New("").Funcs(template.FuncMap{
	"base": path.Base, "lower": strings.ToLower, "hasPrefix": strings.HasPrefix,
}).ParseFS(sources, "*.tmpl"))

func (g *group) write(headerFile string) error {
	header, err := gengo.GoBoilerplate(headerFile, gengo.StdBuildTag, gengo.StdGeneratedBy)
	write := func(dir, name string, data any) {
		file := bytes.NewBuffer(bytes.Clone(header))
		if err == nil {
			err = templates.ExecuteTemplate(file, name+".go.tmpl", data)
		}
		var content []byte
		if err == nil {
			content, err = format.Source(file.Bytes())
		}
		if err == nil {
			err = errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, "zz_generated."+name+".go"), content, 0o644))
		}
	}
	for _, v := range g.Versions {
		write(v.pkg.Dir, "fieldlabels", v)
	}
	first := g.Versions[0].pkg
	root := strings.TrimSuffix(first.Dir, filepath.FromSlash(strings.TrimPrefix(first.Path, module)))
	output := filepath.Join(root, strings.TrimPrefix(g.Output, module))
	write(output, "resources", g)
	write(output, "rest", g)
	return err
}
