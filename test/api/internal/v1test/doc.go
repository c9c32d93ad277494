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

// +k8s:deepcopy-gen=package
// +k8s:conversion-gen=github.com/leat-dev/leat/apis/batch
// +k8s:defaulter-gen=TypeMeta
// +k8s:validation-gen=TypesWithField=TypeMeta
// +k8s:openapi-gen=true
// +k8s:openapi-model-package=dev.leat.batch.v1test
// +k8s:register-gen=package
// +leat:registry-gen=github.com/leat-dev/leat/pkg/registry/batch
// +groupName=batch.leat.dev

// Package v1test is a version of the batch.leat.dev API for tests. It differs from v1alpha1 by a renamed field, a moved
// selectable field, another default and another column. hack/testversion derives its types.
package v1test
