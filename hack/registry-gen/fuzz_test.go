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
	"slices"
	"strings"
	"testing"
)

// FuzzParseMarker checks that a parsed marker has only permitted keys and all required ones, and that it parses to the
// same value when it is formatted again.
func FuzzParseMarker(f *testing.F) {
	for _, text := range []string{
		"resource:plural=tasks,short=tk", "resource:plural=tasks,short=tk|t,categories=all", "subresource:binding=BindingREST", "selectable",
		"selectable:trigger", "scale:spec=a.b,status=c,selector=d", "column:name=Age,type=date,path=metadata.creationTimestamp,description=a, b=c",
		"column:name=Age", "resource:plural=", "resource:plural=a,plural=b", "selectable:x=y", "unknown", "", ":", "subresource:=x", "resource:,plural=a",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		m, err := parseMarker(text, "file.go:1")
		if err != nil {
			if !strings.HasPrefix(err.Error(), "file.go:1: +leat:") {
				t.Errorf("%q: the error does not say where: %v", text, err)
			}
			return
		}
		keys, known := forms[m.name]
		if !known {
			t.Fatalf("%q is the unknown marker %q", text, m.name)
		}
		var written []string
		for key, value := range m.values {
			if key == "" || value == "" || key != "description" && strings.Contains(value, ",") {
				t.Errorf("%q: %q is %q", text, key, value)
			}
			if !slices.Contains(keys, key) && !slices.Contains(keys, key+"?") && !slices.Contains(keys, "*") {
				t.Errorf("%q has the key %q", text, key)
			}
			if key != "description" {
				written = append(written, key+"="+value)
			}
		}
		for _, key := range keys {
			if key != "*" && !strings.HasSuffix(key, "?") && m.values[key] == "" {
				t.Errorf("%q has no %s", text, key)
			}
		}
		if description, ok := m.values["description"]; ok {
			written = append(written, "description="+description) // it takes the rest of the line
		}
		again := m.name
		if len(written) > 0 {
			again += ":" + strings.Join(written, ",")
		}
		read, err := parseMarker(again, "file.go:1")
		if err != nil || read.name != m.name || len(read.values) != len(m.values) {
			t.Fatalf("%q, of %q, is read as %v, %v", again, text, read, err)
		}
		for key, value := range m.values {
			if read.values[key] != value {
				t.Errorf("%q, of %q, has %s %q", again, text, key, read.values[key])
			}
		}
	})
}
