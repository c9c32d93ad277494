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

// +k8s:conversion-gen=github.com/leat-dev/leat/hack/registry-gen/testdata/park-3065089939/internal/park
// +leat:registry-gen=github.com/leat-dev/leat/hack/registry-gen/testdata/park-3065089939/registry
// nopark.leat.dev

// Package v1 is a group of two kinds that differ in all that registry-gen can tell apart.
package v1
