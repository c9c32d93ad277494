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

package board

import (
	"bytes"
	"embed"
	"html/template"
	"net/http"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
)

//go:embed static
var static embed.FS

//go:embed pages
var templates embed.FS

// files are what pages load, by name.
type files map[string]struct {
	mediaType string
	content   []byte
}

func newFiles() files {
	all := files{}
	for name, mediaType := range map[string]string{
		"board.css": "text/css; charset=utf-8", "board.js": "text/javascript; charset=utf-8", "icon.svg": "image/svg+xml",
	} {
		content, err := static.ReadFile("static/" + name)
		if err != nil {
			panic(err) // embedded
		}
		file := all[name]
		file.mediaType, file.content = mediaType, content
		all[name] = file
	}
	return all
}

func (f files) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	file, ok := f[r.URL.Path]
	if !ok {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", file.mediaType)
	_, _ = w.Write(file.content)
}

// page is what a template of a page gets.
type page struct {
	// View is the name of the view, and Title its heading.
	View, Title string
	// Where names the namespace that is shown.
	Where string
	// All is whether all namespaces are shown.
	All bool
	// Namespace and Name are those of the set that is shown.
	Namespace, Name string
	Commands        []command
}

// command is a command line to copy, and what it does.
type command struct{ Line, Does string }

// pages are the templates of the views, by path.
type pages struct {
	options Options
	byPath  map[string]*template.Template
}

func newPages(options Options) *pages {
	p := &pages{options, map[string]*template.Template{}}
	for path, name := range map[string]string{"": "now.html", "sets": "sets.html", "set": "set.html", "pending": "pending.html"} {
		p.byPath[path] = template.Must(template.ParseFS(templates, "pages/layout.html", "pages/"+name))
	}
	return p
}

func (p *pages) serve(w http.ResponseWriter, r *http.Request, path string) {
	data := page{View: path, Where: "namespace " + p.options.Namespace, All: p.options.Namespace == ""}
	if data.All {
		data.Where = "all namespaces"
	}
	switch path {
	case "":
		data.View, data.Title, data.Commands = "now", "Now", p.commands("",
			command{"top", "the same tables in a terminal"}, command{"drain WORKER", "evict the tasks of a worker"},
			command{"cordon WORKER", "start nothing more on a worker"})
	case "sets":
		data.Title, data.Commands = "Sets", p.commands("", command{"list", "the same list in a terminal"},
			command{"run --array 100 -- COMMAND", "run a command a hundred times"})
	case "pending":
		data.Title, data.Commands = "Why pending", p.commands("", command{"explain NAME", "the same text in a terminal"},
			command{"update NAME --priority 10", "run it before others"}, command{"update NAME --queue QUEUE", "move it to another queue"})
	case "set":
		data.Namespace, data.Name = r.URL.Query().Get("namespace"), r.URL.Query().Get("name")
		if !isName(data.Namespace) || !isName(data.Name) {
			http.NotFound(w, r)
			return
		}
		name := "taskset/" + data.Name
		data.Title, data.Commands = data.Name, p.commands(data.Namespace,
			command{"wait " + name, "follow its progress in a terminal"},
			command{"logs " + name, "print its output"},
			command{"logs " + name + " --failed", "print the output of what has failed"},
			command{"history " + name + " --slowest 10", "the attempts that took longest"},
			command{"explain " + name, "why it waits, how it failed"},
			command{"retry " + name, "run again what has failed"},
			command{"suspend " + name, "stop it until it is resumed"},
			command{"resume " + name, "let it go on"},
			command{"cancel " + name, "end it for good"})
	}
	var out bytes.Buffer
	if err := p.byPath[path].ExecuteTemplate(&out, "layout.html", data); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = w.Write(out.Bytes())
}

// commands returns the commands with the program in front and the namespace behind. The namespace is the given one, or
// the one that is shown.
func (p *pages) commands(namespace string, commands ...command) []command {
	if namespace == "" {
		namespace = p.options.Namespace
	}
	all := slices.Clone(commands)
	for i, c := range all {
		line, rest, found := strings.Cut(c.Line, " -- ")
		line = p.options.Program + " " + line
		if namespace != "" {
			line += " -n " + namespace
		}
		if found {
			line += " -- " + rest
		}
		all[i].Line = line
	}
	return all
}

// isName reports whether text can be the name of an object.
func isName(text string) bool { return len(validation.IsDNS1123Subdomain(text)) == 0 }
