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

package cachefields

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// covers reports whether the path, or one above it, is in the list.
func covers(list []string, path string) bool {
	return slices.ContainsFunc(list, func(kept string) bool { return path == kept || strings.HasPrefix(path, kept+".") })
}

// TestTransformsKeepTheirFields transforms a task in which all fields are set.
func TestTransformsKeepTheirFields(t *testing.T) {
	for _, c := range Caches {
		t.Run(c.Name, func(t *testing.T) {
			full := &batch.Task{}
			fill(reflect.ValueOf(full).Elem())
			full.TypeMeta = metav1.TypeMeta{} // Clients leave it empty.
			full.Status.Conditions[0].Type = batch.TaskScheduled
			for _, label := range taskSetLabels {
				full.Labels[label] = "x"
			}
			full.Annotations[batch.AnnotationIndexFailureCount] = "1"
			var all []string
			leaves(reflect.ValueOf(full).Elem(), "", &all)
			transformed, err := c.Transform(full.DeepCopy())
			if err != nil {
				t.Fatal(err)
			}
			var kept []string
			leaves(reflect.ValueOf(transformed).Elem(), "", &kept)
			for _, leaf := range all {
				want := covers(c.Keeps, leaf) && !strings.HasPrefix(leaf, "metadata.managedFields")
				if got := slices.Contains(kept, leaf); got != want {
					t.Errorf("%s: kept %t, want %t", leaf, got, want)
				}
			}
			for _, field := range c.Keeps {
				if !slices.ContainsFunc(all, func(leaf string) bool { return covers([]string{field}, leaf) }) {
					t.Errorf("a task has no field %s", field)
				}
			}
		})
	}
}

func TestTaskSetTaskKeepsOnlyTheLabelsThatAreRead(t *testing.T) {
	task := &batch.Task{ObjectMeta: metav1.ObjectMeta{
		Labels:      map[string]string{batch.LabelCompletionIndex: "3", "team": "a"},
		Annotations: map[string]string{batch.AnnotationIndexFailureCount: "1", "note": "b"},
	}}
	obj, err := TaskSetTask(task)
	if err != nil {
		t.Fatal(err)
	}
	if got := obj.(*batch.Task); len(got.Labels) != 1 || got.Labels[batch.LabelCompletionIndex] != "3" ||
		len(got.Annotations) != 1 || got.Annotations[batch.AnnotationIndexFailureCount] != "1" {
		t.Errorf("the labels are %v, the annotations %v", got.Labels, got.Annotations)
	}
}

func TestUnfinishedTaskKeepsOnlyWhetherThereAreIndexes(t *testing.T) {
	for indexes, want := range map[string]string{"": "", "0": someIndexes, "4-67,70": someIndexes} {
		obj, err := UnfinishedTask(&batch.Task{Spec: batch.TaskSpec{Indexes: indexes, Items: []string{"a"}}})
		if err != nil {
			t.Fatal(err)
		}
		if spec := obj.(*batch.Task).Spec; spec.Indexes != want || spec.Items != nil {
			t.Errorf("indexes %q: the indexes are %q, want %q; the items are %q, want none", indexes, spec.Indexes, want, spec.Items)
		}
	}
}

// fill sets all fields of a value.
func fill(v reflect.Value) {
	switch v.Interface().(type) {
	case metav1.Time:
		v.Set(reflect.ValueOf(metav1.Now()))
		return
	case resource.Quantity:
		v.Set(reflect.ValueOf(resource.MustParse("1")))
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem())
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				fill(v.Field(i))
			}
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0))
	case reflect.Map:
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(key)
		fill(value)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(key, value)
	case reflect.String:
		v.SetString("x")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int32, reflect.Int64:
		v.SetInt(1)
	case reflect.Uint8:
		v.SetUint(1)
	}
}

// leaves appends the paths of the fields that are set, in their JSON names.
func leaves(v reflect.Value, prefix string, found *[]string) {
	if v.IsZero() {
		return
	}
	if v.Kind() == reflect.Pointer {
		v = v.Elem()
	}
	switch v.Interface().(type) {
	case metav1.Time, resource.Quantity:
		*found = append(*found, prefix)
		return
	}
	switch {
	case v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Struct:
		leaves(v.Index(0), prefix, found)
	case v.Kind() == reflect.Struct:
		for i := range v.NumField() {
			if name, ok := jsonName(v.Type().Field(i).Tag.Get("json")); !v.Type().Field(i).IsExported() {
				continue
			} else if ok {
				leaves(v.Field(i), strings.TrimPrefix(prefix+"."+name, "."), found)
			} else {
				leaves(v.Field(i), prefix, found)
			}
		}
	default:
		*found = append(*found, prefix)
	}
}

// jsonName returns the name in the tag of a field. It reports false for an inlined field.
func jsonName(tag string) (string, bool) {
	name, _, _ := strings.Cut(tag, ",")
	return name, name != ""
}

// TestReadersReadOnlyKeptFields type-checks the files that use each cache and compares the fields of tasks that they
// read with those that the cache keeps.
func TestReadersReadOnlyKeptFields(t *testing.T) {
	var all []string
	for _, c := range Caches {
		all = append(all, c.ReadBy...)
	}
	exports := exportData(t, directories(t, all))
	for _, dir := range directories(t, all) {
		for _, read := range readsOfTasks(t, "../../"+dir, exports) {
			if !slices.ContainsFunc(all, func(pattern string) bool {
				match, err := path.Match(pattern, dir+"/"+read.file)
				return err == nil && match
			}) {
				t.Errorf("%s/%s reads tasks: add it to ReadBy of its cache", dir, read.file)
			}
		}
	}
	for _, c := range Caches {
		t.Run(c.Name, func(t *testing.T) {
			reads := 0
			for _, dir := range directories(t, c.ReadBy) {
				for _, read := range readsOfTasks(t, "../../"+dir, exports) {
					if !slices.ContainsFunc(c.ReadBy, func(pattern string) bool {
						match, err := path.Match(pattern, dir+"/"+read.file)
						return err == nil && match
					}) {
						continue
					}
					reads++
					// What is read as a whole is checked where its fields are read.
					if !covers(c.Keeps, read.field) && !slices.ContainsFunc(c.Keeps, func(kept string) bool { return covers([]string{read.field}, kept) }) {
						t.Errorf("%s/%s:%d reads %s, which the cache does not keep", dir, read.file, read.line, read.field)
					}
				}
			}
			if reads < 5 {
				t.Errorf("%d reads of fields were found", reads)
			}
		})
	}
}

// directories returns the directories of patterns, relative to pkg.
func directories(t *testing.T, patterns []string) []string {
	t.Helper()
	var dirs []string
	for _, pattern := range patterns {
		found, err := filepath.Glob("../../" + path.Dir(pattern))
		if err != nil || len(found) == 0 {
			t.Fatalf("no directory matches %s: %v", pattern, err)
		}
		for _, dir := range found {
			if info, err := os.Stat(dir); err != nil || !info.IsDir() {
				continue
			}
			dirs = append(dirs, strings.TrimPrefix(filepath.ToSlash(dir), "../../"))
		}
	}
	slices.Sort(dirs)
	return slices.Compact(dirs)
}

// read is a read of a field of a task.
type read struct {
	file  string
	line  int
	field string
}

// partsOfTask are the paths of the types that make up a task. Reads of the template of a set count, too. Reads in other
// packages, by functions that get a task, are not checked.
var partsOfTask = map[string]string{
	"Task": "", "TaskSpec": "spec", "TaskStatus": "status", "TaskState": "status.state", "TaskStateTerminated": "status.state.terminated",
}

// readsOfTasks returns the reads of fields of tasks in the package of a directory, without its tests.
func readsOfTasks(t *testing.T, dir string, exports map[string]string) []read {
	t.Helper()
	fset := token.NewFileSet()
	names, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	var files []*ast.File
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(fset, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, file)
	}
	info := &types.Info{Selections: map[*ast.SelectorExpr]*types.Selection{}}
	config := types.Config{Importer: importer.ForCompiler(fset, "gc", func(path string) (io.ReadCloser, error) {
		if exports[path] == "" {
			return nil, fmt.Errorf("no export data of %s", path)
		}
		return os.Open(exports[path])
	})}
	if _, err := config.Check(dir, fset, files, info); err != nil {
		t.Fatal(err)
	}
	var reads []read
	for selector, selection := range info.Selections {
		if selection.Kind() != types.FieldVal {
			continue
		}
		receiver := selection.Recv()
		if pointer, ok := receiver.(*types.Pointer); ok {
			receiver = pointer.Elem()
		}
		named, ok := receiver.(*types.Named)
		if !ok || named.Obj().Pkg() == nil || named.Obj().Pkg().Path() != reflect.TypeFor[batch.Task]().PkgPath() {
			continue
		}
		prefix, ok := partsOfTask[named.Obj().Name()]
		if !ok {
			continue
		}
		position := fset.Position(selector.Pos())
		reads = append(reads, read{filepath.Base(position.Filename), position.Line, fieldPath(prefix, named, selection.Index())})
	}
	return reads
}

// fieldPath returns the path of the field at an index, through embedded fields.
func fieldPath(prefix string, typ types.Type, index []int) string {
	for _, i := range index {
		for {
			if pointer, ok := typ.(*types.Pointer); ok {
				typ = pointer.Elem()
				continue
			}
			break
		}
		structure := typ.Underlying().(*types.Struct)
		if name, ok := jsonName(reflect.StructTag(structure.Tag(i)).Get("json")); ok {
			prefix = strings.TrimPrefix(prefix+"."+name, ".")
		}
		typ = structure.Field(i).Type()
	}
	return prefix
}

// exportData returns the files with the export data of all packages that the packages of the directories import.
func exportData(t *testing.T, dirs []string) map[string]string {
	t.Helper()
	args := []string{"list", "-export", "-deps", "-json=ImportPath,Export"}
	for _, dir := range dirs {
		args = append(args, "../../"+dir)
	}
	command := exec.Command("go", args...)
	out, err := command.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	exports := map[string]string{}
	for decoder := json.NewDecoder(bytes.NewReader(out)); ; {
		var pkg struct{ ImportPath, Export string }
		if err := decoder.Decode(&pkg); errors.Is(err, io.EOF) {
			return exports
		} else if err != nil {
			t.Fatal(err)
		}
		exports[pkg.ImportPath] = pkg.Export
	}
}
