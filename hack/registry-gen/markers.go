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
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

const (
	prefix    = "+leat:"
	outputTag = prefix + "registry-gen="
)

// forms lists the keys of each marker. Optional keys end with a question mark. "*" stands for any key.
var forms = map[string][]string{
	"resource":           {"plural", "short?", "categories?", "owns?"},
	"subresource":        {"*"},
	"scale":              {"spec", "status", "selector"},
	"column":             {"name", "type", "priority?", "path?", "func?", "description"},
	"selectable":         {},
	"selectable:trigger": {},
	"internal":           {"path"},
}

// marker is a comment line that begins with the prefix.
type marker struct {
	name, position string
	values         map[string]string
	used           bool
}

func (m *marker) errorf(format string, arguments ...any) error {
	return fmt.Errorf("%s: %s%s: %w", m.position, prefix, m.name, fmt.Errorf(format, arguments...))
}

func parseMarker(text, position string) (*marker, error) {
	m := &marker{name: text, position: position, values: map[string]string{}}
	rest := ""
	if forms[m.name] == nil {
		m.name, rest, _ = strings.Cut(text, ":")
	}
	keys, known := forms[m.name]
	if !known {
		return nil, m.errorf("unknown marker; known are column, internal, resource, scale, selectable, selectable:trigger and subresource")
	}
	for rest != "" {
		key, value, _ := strings.Cut(rest, "=")
		rest = ""
		if key != "description" {
			value, rest, _ = strings.Cut(value, ",")
		}
		known := slices.ContainsFunc(keys, func(k string) bool { return k == key || k == key+"?" || k == "*" })
		if !known || key == "" || value == "" || m.values[key] != "" {
			return nil, m.errorf("%q must be one of %q, once, with =<value>", key, keys)
		}
		m.values[key] = value
	}
	for _, key := range keys {
		if m.values[key] == "" && key != "*" && !strings.HasSuffix(key, "?") {
			return nil, m.errorf("needs %s=<value>", key)
		}
	}
	return m, nil
}

// declaration matches a line of code, and the name of a type or field if the line declares one.
var declaration = regexp.MustCompile(`^(type |\t)(\w+)|^\s*[^/\s]`)

// readMarkers returns the markers of a package by the declaration below them, "Type" or "Type.Field". It parses the
// files itself, because gengo keeps no positions.
func readMarkers(dir string) (map[string][]*marker, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	markers := map[string][]*marker{}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		typeName, pending := "", []*marker(nil)
		for i, line := range strings.Split(string(content), "\n") {
			comment := strings.TrimLeft(line, "/ \t")
			if text, ok := strings.CutPrefix(comment, prefix); ok && !strings.HasPrefix(comment, outputTag) {
				m, err := parseMarker(strings.TrimSpace(text), fmt.Sprintf("%s:%d", file, i+1))
				if err != nil {
					return nil, err
				}
				pending = append(pending, m)
			} else if match := declaration.FindStringSubmatch(line); match != nil {
				owner := match[2]
				switch match[1] {
				case "type ":
					typeName = owner
				case "\t":
					owner = typeName + "." + owner
				}
				markers[owner] = append(markers[owner], pending...)
				pending = nil
			}
		}
		markers[file] = pending
	}
	return markers, err
}
