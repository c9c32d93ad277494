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

package convert

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"

	batchv1 "k8s.io/api/batch/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// strict decodes the kinds that can be converted. It refuses unknown fields, which are mostly misspelled.
var strict = func() runtime.Decoder {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{batchv1.AddToScheme, batch.AddToScheme} {
		if err := add(scheme); err != nil {
			panic(err)
		}
	}
	return serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
}()

// Read returns the objects in YAML or JSON, with the items of lists: Jobs, CronJobs, and objects of Leat. Objects of
// other kinds are Unstructured. An error names the document, from 1 on.
func Read(from io.Reader) ([]runtime.Object, error) {
	var objects []runtime.Object
	documents := utilyaml.NewYAMLReader(bufio.NewReader(from))
	for number := 1; ; number++ {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return objects, nil
		}
		if err == nil {
			var read []runtime.Object
			read, err = readDocument(document)
			objects = append(objects, read...)
		}
		if err != nil {
			return nil, fmt.Errorf("document %d: %w", number, err)
		}
	}
}

// readDocument returns the objects of one document.
func readDocument(document []byte) ([]runtime.Object, error) {
	var content map[string]any
	if err := yaml.Unmarshal(document, &content); err != nil || len(content) == 0 {
		return nil, err
	}
	object := &unstructured.Unstructured{Object: content}
	if !object.IsList() {
		read, err := readObject(object)
		if err != nil {
			return nil, err
		}
		return []runtime.Object{read}, nil
	}
	var objects []runtime.Object
	items, _ := content["items"].([]any)
	for i, item := range items {
		fields, ok := item.(map[string]any)
		if !ok {
			return nil, fmt.Errorf("items[%d]: must be an object", i)
		}
		read, err := readObject(&unstructured.Unstructured{Object: fields})
		if err != nil {
			return nil, fmt.Errorf("items[%d]: %w", i, err)
		}
		objects = append(objects, read)
	}
	return objects, nil
}

func readObject(object *unstructured.Unstructured) (runtime.Object, error) {
	kind := object.GroupVersionKind()
	if kind.Kind == "" {
		return nil, errors.New("kind is missing: must be Job or CronJob")
	}
	if kind.Group == batchv1.GroupName && kind.Version != batchv1.SchemeGroupVersion.Version {
		return nil, fmt.Errorf("apiVersion: %q: must be batch/v1", object.GetAPIVersion())
	}
	if known := kind.GroupVersion(); known != batchv1.SchemeGroupVersion && known != batch.SchemeGroupVersion {
		return object, nil
	}
	text, err := object.MarshalJSON()
	if err != nil {
		return nil, err
	}
	read, _, err := strict.Decode(text, &schema.GroupVersionKind{}, nil)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", kind.Kind, object.GetName(), err)
	}
	return read, nil
}

// Objects returns all objects of the result in the order in which they are created.
func (r *Result) Objects() []runtime.Object {
	objects := r.Pool.Objects()
	if r.Schedule != nil {
		return append(objects, r.Schedule.Objects()...)
	}
	return append(objects, r.Set)
}

// Manifest returns the objects of the result as documents of YAML.
func (r *Result) Manifest() ([]byte, error) {
	var manifest bytes.Buffer
	for _, object := range r.Objects() {
		document, err := YAML(object)
		if err != nil {
			return nil, err
		}
		manifest.WriteString("---\n")
		manifest.Write(document)
	}
	return manifest.Bytes(), nil
}

// YAML returns a manifest of an object, without the fields that only a server sets.
func YAML(object runtime.Object) ([]byte, error) {
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(object)
	if err != nil {
		return nil, err
	}
	delete(content, "status")
	removeNull(content)
	return yaml.Marshal(content)
}

// removeNull removes fields without a value, such as creationTimestamp of a template, and empty ones that are not
// pointers in Go, such as resources.
func removeNull(object map[string]any) {
	for key, value := range object {
		switch value := value.(type) {
		case nil:
			delete(object, key)
		case map[string]any:
			removeNull(value)
			if len(value) == 0 && (key == "resources" || key == "strategy" || key == "updateStrategy") {
				delete(object, key)
			}
		case []any:
			for _, item := range value {
				if fields, ok := item.(map[string]any); ok {
					removeNull(fields)
				}
			}
		}
	}
}
