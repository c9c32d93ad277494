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
	"maps"
	"slices"

	"k8s.io/gengo/v2"
	"k8s.io/gengo/v2/parser"
	"k8s.io/gengo/v2/types"
)

// layoutFile is the data of the template of zz_generated.layout.go.
type layoutFile struct {
	Version, Internal string
	Layouts           []layout
}

// layout is a struct with the same memory layout as the internal type of the same name.
type layout struct {
	Type   string
	Fields []string
}

// loadInternal loads the package of the internal types.
func loadInternal(path string) (*types.Package, error) {
	p := parser.NewWithOptions(parser.Options{BuildTags: []string{gengo.StdBuildTag}})
	if err := p.LoadPackages(path); err != nil {
		return nil, err
	}
	universe, err := p.NewUniverse()
	if err != nil {
		return nil, err
	}
	return universe.Package(path), nil
}

// sameLayouts returns the structs of a version that conversion-gen converts to the internal type by a cast.
func sameLayouts(versioned, internal *types.Package) []layout {
	var layouts []layout
	for _, name := range slices.Sorted(maps.Keys(versioned.Types)) {
		t := versioned.Types[name]
		if t.Kind != types.Struct || internal.Types[name] == nil || !sameLayout(t, internal.Types[name], map[*types.Type]bool{}) {
			continue
		}
		l := layout{Type: name}
		for _, member := range t.Members {
			l.Fields = append(l.Fields, member.Name)
		}
		layouts = append(layouts, l)
	}
	return layouts
}

// sameLayout reports whether two types have the same memory layout by the rules of conversion-gen. seen are the types
// that are being compared.
func sameLayout(a, b *types.Type, seen map[*types.Type]bool) bool {
	for a.Kind == types.Alias {
		a = a.Underlying
	}
	for b.Kind == types.Alias {
		b = b.Underlying
	}
	if a.Name == b.Name || seen[a] {
		return true
	}
	if a.Kind != b.Kind {
		return false
	}
	seen[a] = true
	switch a.Kind {
	case types.Struct:
		return slices.EqualFunc(a.Members, b.Members, func(x, y types.Member) bool {
			return x.Name == y.Name && sameLayout(x.Type, y.Type, seen)
		})
	case types.Map:
		return sameLayout(a.Key, b.Key, seen) && sameLayout(a.Elem, b.Elem, seen)
	case types.Pointer, types.Slice, types.Array:
		return sameLayout(a.Elem, b.Elem, seen)
	}
	return a.Name == b.Name
}
