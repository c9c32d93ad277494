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
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"k8s.io/gengo/v2/types"
)

var update = flag.Bool("update", false, "write the golden files instead of comparing with them")

const header = "../boilerplate.go.txt"

// park writes the test group to a new directory: the internal types, and one version for each edit of types.go. It
// returns the directory and the import paths of the versions. The directory is in the module, so that imports resolve.
func park(t *testing.T, edits ...func(text string) string) (string, []string) {
	t.Helper()
	dir, err := os.MkdirTemp("testdata", "park-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	internal := filepath.Join(dir, "internal/park")
	if err := os.MkdirAll(internal, 0o755); err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(read(t, "testdata/park/v1/types.go"), "package v1", "package park", 1)
	if err := os.WriteFile(filepath.Join(internal, "types.go"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	var paths []string
	for i, edit := range edits {
		version := fmt.Sprintf("v%d", i+1)
		paths = append(paths, module+"/hack/registry-gen/"+filepath.ToSlash(dir)+"/"+version)
		if err := os.Mkdir(filepath.Join(dir, version), 0o755); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"doc.go", "types.go"} {
			text := strings.ReplaceAll(read(t, "testdata/park/v1/"+name), "package v1", "package "+version)
			text = strings.ReplaceAll(text, "testdata/park", filepath.ToSlash(dir))
			if name == "types.go" {
				text = edit(text)
			}
			if err := os.WriteFile(filepath.Join(dir, version, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	return dir, paths
}

func read(t *testing.T, name string) string {
	t.Helper()
	content, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func asIs(text string) string { return text }

// replace returns an edit that replaces pairs of old and new text.
func replace(pairs ...string) func(string) string {
	return func(text string) string {
		for i := 0; i < len(pairs); i += 2 {
			if !strings.Contains(text, pairs[i]) {
				panic("types.go has no " + pairs[i])
			}
			text = strings.Replace(text, pairs[i], pairs[i+1], 1)
		}
		return text
	}
}

// loadAll loads the versions of many groups at once, which takes hardly longer than loading one.
func loadAll(t *testing.T, groups [][]string) types.Universe {
	t.Helper()
	universe, err := load(slices.Concat(groups...))
	if err != nil {
		t.Fatal(err)
	}
	return universe
}

// differing is an edit of the second version: it moves and renames fields, and has another column.
var differing = replace(
	"\t// +leat:selectable:trigger\n\tPark string `json:\"park,omitempty\"`\n", "\tPlace RidePlace `json:\"place\"`\n",
	"// RideStatus has", "// RidePlace is new.\ntype RidePlace struct {\n\t// +leat:selectable:trigger\n\t// +leat:internal:path=spec.park\n\tPark string `json:\"park\"`\n}\n\n// RideStatus has",
	"\tCars     *int32                `json:\"cars,omitempty\"`", "\t// +leat:internal:path=spec.cars\n\tWagons *int32 `json:\"wagons,omitempty\"`",
	"spec=spec.cars", "spec=spec.wagons",
	"// +leat:column:name=Open,", "// +leat:column:name=Park,type=string,path=spec.place.park,description=Where it is.\n// +leat:column:name=Open,",
)

func TestOutputIsGolden(t *testing.T) {
	dir, paths := park(t, asIs, differing)
	kinds := module + "/hack/registry-gen/" + filepath.ToSlash(dir) + "/kinds"
	// The second run reads packages that already have generated files.
	for range 2 {
		if err := run(header, kinds, "", paths); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{
			"v1/zz_generated.fieldlabels.go", "v2/zz_generated.fieldlabels.go", "v1/zz_generated.layout.go", "v2/zz_generated.layout.go",
			"registry/zz_generated.resources.go", "registry/zz_generated.rest.go", "kinds/zz_generated.kinds.go",
		} {
			got := []byte(strings.ReplaceAll(read(t, filepath.Join(dir, name)), filepath.ToSlash(dir), "testdata/park"))
			golden := "testdata/park/golden/" + strings.ReplaceAll(name, "/", "_") + ".golden"
			if *update {
				if err := os.WriteFile(golden, got, 0o644); err != nil {
					t.Fatal(err)
				}
			} else if want := []byte(read(t, golden)); !bytes.Equal(got, want) {
				t.Errorf("%s differs from %s; run the test with -update and look at the difference. It is:\n%s", name, golden, got)
			}
		}
	}
}

func TestOutputPackageKeepsTheRulesPackages(t *testing.T) {
	dir, paths := park(t, asIs, differing)
	if err := run(header, "", module+"/hack/registry-gen/"+filepath.ToSlash(dir)+"/elsewhere", paths); err != nil {
		t.Fatal(err)
	}
	got := read(t, filepath.Join(dir, "elsewhere/zz_generated.resources.go"))
	for _, want := range []string{"package elsewhere", filepath.ToSlash(dir) + "/registry/ride\""} {
		if !strings.Contains(got, want) {
			t.Errorf("got no %q in:\n%s", want, got)
		}
	}
}

func TestMistakesAreErrorsWithTheirPlace(t *testing.T) {
	const kindColumn = "type=string,path=spec.kind"
	cases := []struct {
		name string
		edit func(string) string
		// at is text on the line that the error must name.
		at, want string
	}{
		{"unknown marker", replace("// +leat:selectable\n", "// +leat:selectible\n"), "+leat:selectible", "unknown marker"},
		{"unknown marker without a space", replace("// +leat:selectable\n", "//+leat:select\n"), "+leat:select\n", "unknown marker"},
		{"unknown marker on what is no kind", replace("// Hours is", "// +leat:columns:x=y\n// Hours is"), "+leat:columns", "unknown marker"},
		{"unknown key", replace(",short=rd|r", ",shrot=rd"), "shrot", `"shrot" must be one of`},
		{"repeated key", replace(",short=rd|r", ",short=rd,short=r"), "short=rd,", `"short" must be one of ["plural" "short?" "categories?" "owns?"], once`},
		{"key without a value", replace("plural=rides", "plural="), "plural=", `with =<value>`},
		{"argument where none belongs", replace("// +leat:selectable\n", "// +leat:selectable:yes\n"), "selectable:yes", `"yes" must be one of []`},
		{"missing key", replace(",description=The kind of ride.", ""), kindColumn, "needs description=<value>"},
		{"two triggers", replace("// +leat:selectable\n\tHeight", "// +leat:selectable:trigger\n\tHeight"), "selectable:trigger\n\tHeight",
			"one trigger, and Ride has spec.park"},
		{"selectable list", replace("\tNames", "\t// +leat:selectable\n\tNames"), "selectable\n\tNames", "o.Spec.Names is a []string; selectable takes one of"},
		{"selectable behind a pointer", replace("\tHours    Hours ", "\tHours    *Hours ", "path=spec.hours.open", "func=OpenColumn"), "selectable\n\tOpen", "through structs alone"},
		{"selectable on a type", replace("// +leat:resource:plural=gates", "// +leat:selectable\n// +leat:resource:plural=gates"),
			"selectable\n// +leat:resource", "belongs on a field"},
		{"column on a field", replace("\tNames", "\t// +leat:column:name=N,type=string,path=spec.park,description=N\n\tNames"), "name=N", "belongs on a type"},
		{"marker of nothing", replace("// +leat:resource:plural=gates\n", "// +leat:resource:plural=gates\n\nconst lanes = 1\n\n// +leat:selectable\n"),
			"resource:plural=gates", "neither on a kind"},
		{"kind without a client", replace("// +genclient\n", ""), "plural=rides", "also +genclient"},
		{"kind without a spec", replace("\tSpec   GateSpec   `json:\"spec\"`", "\tData   GateSpec   `json:\"data\"`"), "plural=gates", "a field spec"},
		{"resource twice", replace("// +leat:subresource", "// +leat:resource:plural=rides2\n// +leat:subresource"), "rides2", "a kind has it once"},
		{"unknown type=", replace(kindColumn, "type=text,path=spec.kind"), "type=text", "unknown type=text; known are"},
		{"path of another type", replace(kindColumn, "type=integer,path=spec.kind"), "type=integer,path=spec.kind", "integer takes one of"},
		{"path to nothing", replace(kindColumn, "type=string,path=spec.sort"), "spec.sort", "RideSpec has no field sort"},
		{"path beyond a value", replace(kindColumn, "type=string,path=spec.park.name"), "spec.park.name", "string has no field name"},
		{"path through a pointer", replace(kindColumn, "type=boolean,path=spec.next.open"), "spec.next.open", "through a pointer before open"},
		{"func and path", replace(kindColumn, kindColumn+",func=KindColumn"), "func=KindColumn", "either path= or func="},
		{"neither func nor path", replace(kindColumn, "type=string"), "name=Kind", "either path= or func="},
		{"priority that is no number", replace("priority=1", "priority=low"), "priority=low", "priority=low must be a number"},
		{"scale of a list", replace("spec=spec.cars", "spec=spec.names"), "spec=spec.names", `spec takes one of ["*int32" "int32"]`},
		{"internal path to nothing", replace("\tNames", "\t// +leat:internal:path=spec.label\n\tNames"), "internal:path=spec.label", "RideSpec has no field label"},
		{"scale's status to nothing", replace("status=status.running", "status=status.cars"), "status=status.cars", "RideStatus has no field cars"},
	}
	var dirs []string
	var groups [][]string
	for _, tc := range cases {
		dir, paths := park(t, tc.edit)
		dirs, groups = append(dirs, dir), append(groups, paths)
	}
	universe := loadAll(t, groups)
	for i, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			file := filepath.Join(dirs[i], "v1/types.go")
			before, _, found := strings.Cut(read(t, file), tc.at)
			if !found {
				t.Fatalf("types.go has no %q", tc.at)
			}
			place := fmt.Sprintf("%s:%d: ", file, strings.Count(before, "\n")+1)
			_, err := readGroup(universe, groups[i])
			if err == nil || !strings.Contains(err.Error(), place) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want an error at %s with %q", err, place, tc.want)
			}
		})
	}
}

func TestOwnedKindsMustExist(t *testing.T) {
	_, paths := park(t, replace("owns=Gate", "owns=Door"))
	if _, err := readGroup(loadAll(t, [][]string{paths}), paths); err == nil || !strings.Contains(err.Error(), "owns=Door is no kind of version v1") {
		t.Errorf("got %v, want an error that names owns=Door", err)
	}
}

func TestVersionsMustAgree(t *testing.T) {
	cases := []struct {
		name          string
		first, second func(string) string
		want          []string
	}{
		{"a kind less", asIs, replace("// +leat:resource:plural=gates\n// +leat:scale:spec=spec.lanes,status=status.lanes,selector=spec.selector\n", "",
			"// +leat:selectable\n\tGuests", "\n\tGuests", ",owns=Gate", ""), []string{"version v2 must have", "kind Gate"}},
		{"a kind more", replace("// +leat:resource:plural=gates\n// +leat:scale:spec=spec.lanes,status=status.lanes,selector=spec.selector\n", "",
			"// +leat:selectable\n\tGuests", "\n\tGuests", ",owns=Gate", ""), asIs, []string{"version v1 must have", "kind Gate"}},
		{"another plural", asIs, replace("plural=gates", "plural=doors"), []string{"version v2 must have", "kind Gate"}},
		{"another scope", asIs, replace("// +genclient:nonNamespaced\n", ""), []string{"version v2 must have", "kind Gate", "namespaced false"}},
		{"a selectable field less", asIs, replace("// +leat:selectable\n\tKind", "\n\tKind"), []string{"version v2 must have", "kind Ride", "spec.kind"}},
		{"another trigger", asIs, replace("selectable:trigger", "selectable"), []string{"version v2 must have", "kind Ride", `trigger "spec.park"`}},
		{"a renamed column field without its internal path", asIs, replace("\tKind RideKind `json:\"kind\"`", "\tSort RideKind `json:\"sort\"`", "path=spec.kind", "path=spec.sort"),
			[]string{"RideSpec has no field sort internally", "+leat:internal"}},
		{"another subresource", asIs, replace("subresource:ticket", "subresource:pass"), []string{"version v2 must have", "kind Ride", "subresources map[ticket"}},
		{"another scale", asIs, replace("status=status.running", "status=spec.height"), []string{"version v2 must have", "kind Ride", "status:o.Status.Running"}},
	}
	var groups [][]string
	for _, tc := range cases {
		_, paths := park(t, tc.first, tc.second)
		groups = append(groups, paths)
	}
	universe := loadAll(t, groups)
	for i, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			_, err := readGroup(universe, groups[i])
			for _, want := range tc.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("got %v, want an error with %q", err, want)
				}
			}
		})
	}
}

func TestPackagesMustHaveTheirMarkers(t *testing.T) {
	tags := []string{"+groupName=", "+k8s:conversion-gen=", "+leat:registry-gen="}
	var groups [][]string
	for _, tag := range tags {
		dir, paths := park(t, asIs)
		name := filepath.Join(dir, "v1/doc.go")
		if err := os.WriteFile(name, []byte(strings.Replace(read(t, name), tag, "no", 1)), 0o644); err != nil {
			t.Fatal(err)
		}
		groups = append(groups, paths)
	}
	universe := loadAll(t, groups)
	for i, tag := range tags {
		if _, err := readGroup(universe, groups[i]); err == nil || !strings.Contains(err.Error(), "doc.go needs "+tag) {
			t.Errorf("got %v, want an error that doc.go needs %s", err, tag)
		}
	}
}

func TestPathsMustBeGiven(t *testing.T) {
	if err := run(header, "", "", nil); err == nil || !strings.Contains(err.Error(), "import paths") {
		t.Errorf("got %v, want an error that asks for import paths", err)
	}
}
