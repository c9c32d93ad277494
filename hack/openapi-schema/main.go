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

// The openapi-schema command prints the OpenAPI v2 definitions of all types, as input for applyconfiguration-gen.
package main

import (
	"encoding/json"
	"log"
	"os"

	"k8s.io/kube-openapi/pkg/builder"
	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"github.com/leat-dev/leat/pkg/generated/openapi"
)

func main() {
	config := &common.Config{
		Info:           &spec.Info{InfoProps: spec.InfoProps{Title: "Leat", Version: "unversioned"}},
		GetDefinitions: openapi.GetOpenAPIDefinitions,
	}
	names := []string{}
	for name := range openapi.GetOpenAPIDefinitions(func(string) spec.Ref { return spec.Ref{} }) {
		names = append(names, name)
	}
	document, err := builder.BuildOpenAPIDefinitionsForResources(config, names...)
	if err != nil {
		log.Fatal(err)
	}
	if err := json.NewEncoder(os.Stdout).Encode(document); err != nil {
		log.Fatal(err)
	}
}
