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
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit/host"
)

// crdGroup is the API group of the CustomResourceDefinition.
const crdGroup = "bench.leat.dev"

// taskCRD returns a CustomResourceDefinition of the Task with the published schema, the same selectable fields and
// subresources, and the columns that a JSON path can express. It has no validation beyond the schema, which makes the
// CRD cheaper.
func taskCRD() (map[string]any, error) {
	root, err := host.RepositoryRoot()
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(filepath.Join(root, "artifacts", "openapi", "v3", "apis__batch.leat.dev__v1alpha1_openapi.json"))
	if err != nil {
		return nil, err
	}
	var document struct {
		Components struct{ Schemas map[string]map[string]any }
	}
	if err := json.Unmarshal(data, &document); err != nil {
		return nil, err
	}
	task, err := structural(document.Components.Schemas, document.Components.Schemas["dev.leat.batch.v1alpha1.Task"])
	if err != nil {
		return nil, err
	}
	properties := task["properties"].(map[string]any)
	properties["metadata"] = map[string]any{"type": "object"}
	var selectable []any
	for _, field := range []string{".spec.workerName", ".spec.queueName", ".status.phase"} {
		selectable = append(selectable, map[string]any{"jsonPath": field})
	}
	column := func(name, kind, path string) any { return map[string]any{"name": name, "type": kind, "jsonPath": path} }
	return map[string]any{
		"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
		"metadata": map[string]any{"name": "tasks." + crdGroup},
		"spec": map[string]any{
			"group": crdGroup, "scope": "Namespaced",
			"names": map[string]any{"plural": "tasks", "singular": "task", "kind": "Task", "listKind": "TaskList"},
			"versions": []any{map[string]any{
				"name": batch.SchemeGroupVersion.Version, "served": true, "storage": true,
				"schema":           map[string]any{"openAPIV3Schema": task},
				"subresources":     map[string]any{"status": map[string]any{}},
				"selectableFields": selectable,
				"additionalPrinterColumns": []any{
					column("Status", "string", ".status.phase"), column("Worker", "string", ".spec.workerName"),
					column("Exit", "integer", ".status.state.terminated.exitCode"), column("Attempts", "integer", ".status.attempts"),
					column("Age", "date", ".metadata.creationTimestamp"),
				},
			}},
		},
	}, nil
}

// structural converts a published schema to a structural schema: without references and without extensions for clients.
func structural(schemas map[string]map[string]any, schema map[string]any) (map[string]any, error) {
	if all, ok := schema["allOf"].([]any); ok && len(all) == 1 {
		schema = all[0].(map[string]any)
	}
	if reference, ok := schema["$ref"].(string); ok {
		name := strings.TrimPrefix(reference, "#/components/schemas/")
		if strings.HasSuffix(name, ".resource.Quantity") {
			return map[string]any{"x-kubernetes-int-or-string": true}, nil
		}
		target, ok := schemas[name]
		if !ok {
			return nil, fmt.Errorf("the published schema has no %q, to which it refers", name)
		}
		return structural(schemas, target)
	}
	result := map[string]any{}
	for key, value := range schema {
		var err error
		switch key {
		case "type", "format", "description", "required", "enum", "x-kubernetes-list-type", "x-kubernetes-list-map-keys", "x-kubernetes-map-type":
			result[key] = value
		case "default":
			// Generators of CRDs omit empty defaults.
			if value != "" {
				result[key] = value
			}
		case "items", "additionalProperties":
			result[key], err = structural(schemas, value.(map[string]any))
		case "properties":
			properties := map[string]any{}
			for name, property := range value.(map[string]any) {
				// The server adds the schema of metadata.
				if name == "metadata" {
					continue
				}
				if properties[name], err = structural(schemas, property.(map[string]any)); err != nil {
					return nil, err
				}
			}
			result[key] = properties
		}
		if err != nil {
			return nil, err
		}
	}
	return result, nil
}
