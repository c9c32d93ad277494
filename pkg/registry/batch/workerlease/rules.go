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

// Package workerlease holds the domain rules of worker leases.
package workerlease

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leat-dev/leat/apis/batch"
	"github.com/leat-dev/leat/pkg/registry"
)

// Rules are the domain rules of worker leases. There are none: declarative validation covers all fields.
type Rules struct{}

// RenewedColumn returns the time since the last renewal of the lease.
func RenewedColumn(lease *batch.WorkerLease) any {
	if lease.Spec.RenewTime == nil {
		return ""
	}
	return registry.Age(metav1.NewTime(lease.Spec.RenewTime.Time))
}
