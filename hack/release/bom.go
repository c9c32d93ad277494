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
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
)

// writeBOM writes a software bill of materials in the format of CycloneDX: each program with the modules that were
// linked into it, as the program itself records them.
func (r *release) writeBOM(built []build) error {
	programs, modules := []cdx.Component{}, map[string]cdx.Component{}
	var dependencies []cdx.Dependency
	for _, b := range built {
		for _, program := range b.programs() {
			info, err := buildinfo.ReadFile(b.path(program))
			if err != nil {
				return err
			}
			component, err := r.programComponent(b, program)
			if err != nil {
				return err
			}
			programs = append(programs, component)
			standard := &debug.Module{Path: "std", Version: info.GoVersion}
			var refs []string
			for _, module := range append([]*debug.Module{standard}, info.Deps...) {
				if module.Replace != nil {
					module = module.Replace
				}
				component, err := moduleComponent(module)
				if err != nil {
					return fmt.Errorf("%s: %w", b.path(program), err)
				}
				modules[component.BOMRef] = component
				refs = append(refs, component.BOMRef)
			}
			slices.Sort(refs)
			dependencies = append(dependencies, cdx.Dependency{Ref: component.BOMRef, Dependencies: &refs})
		}
	}
	components := append(programs, slices.SortedFunc(maps.Values(modules), func(a, b cdx.Component) int { return cmp.Compare(a.BOMRef, b.BOMRef) })...)
	bom := cdx.NewBOM()
	bom.SerialNumber = serialNumber(programs)
	bom.Metadata = &cdx.Metadata{
		Timestamp: r.created.Format(time.RFC3339),
		Component: &cdx.Component{
			BOMRef: "leat", Type: cdx.ComponentTypeApplication, Name: "leat", Version: r.version,
			PackageURL: "pkg:golang/github.com/leat-dev/leat@" + r.version, Licenses: &cdx.Licenses{{License: &cdx.License{ID: "Apache-2.0"}}},
		},
	}
	bom.Components, bom.Dependencies = &components, &dependencies

	file, err := os.Create(r.file(".cdx.json"))
	if err != nil {
		return err
	}
	defer file.Close()
	if err := cdx.NewBOMEncoder(file, cdx.BOMFileFormatJSON).SetPretty(true).EncodeVersion(bom, cdx.SpecVersion1_6); err != nil {
		return err
	}
	return file.Close()
}

// programComponent returns the entry of a program.
func (r *release) programComponent(b build, program string) (cdx.Component, error) {
	sum, err := fileSum(b.path(program))
	if err != nil {
		return cdx.Component{}, err
	}
	return cdx.Component{
		BOMRef: b.String() + "/" + program, Type: cdx.ComponentTypeApplication, Name: filepath.Base(b.path(program)), Version: r.version,
		Description: program + " for " + b.String(), Hashes: &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: sum}},
	}, nil
}

// moduleComponent returns the entry of a Go module, or of the standard library.
func moduleComponent(module *debug.Module) (cdx.Component, error) {
	purl := "pkg:golang/" + module.Path + "@" + module.Version
	component := cdx.Component{BOMRef: purl, Type: cdx.ComponentTypeLibrary, Name: module.Path, Version: module.Version, PackageURL: purl}
	if module.Sum == "" {
		return component, nil
	}
	// A sum "h1:" is the SHA-256 of the names and hashes of the module's files, in base64.
	sum, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(module.Sum, "h1:"))
	if err != nil {
		return component, fmt.Errorf("sum of %s: %w", module.Path, err)
	}
	component.Hashes = &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: hex.EncodeToString(sum)}}
	return component, nil
}

// serialNumber returns a UUID of version 8 that depends on the programs only.
func serialNumber(programs []cdx.Component) string {
	hash := sha256.New()
	for _, program := range programs {
		fmt.Fprintln(hash, program.BOMRef, (*program.Hashes)[0].Value)
	}
	id := hash.Sum(nil)[:16]
	id[6], id[8] = id[6]&0x0f|0x80, id[8]&0x3f|0x80
	return fmt.Sprintf("urn:uuid:%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:])
}
