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

package framework

import (
	"k8s.io/apimachinery/pkg/api/resource"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// Resources are resource quantities as integers: cpu in thousandths, everything else in units, rounded up.
type Resources map[batch.ResourceName]int64

// NewResources returns the quantities of a list as integers.
func NewResources(list batch.ResourceList) Resources {
	if len(list) == 0 {
		return nil
	}
	r := make(Resources, len(list))
	for name, quantity := range list {
		if name == batch.ResourceCPU {
			r[name] = quantity.MilliValue()
		} else {
			r[name] = quantity.Value()
		}
	}
	return r
}

// Add adds other to r so many times, which may be negative. It removes resources whose sum is zero.
func (r Resources) Add(other Resources, times int64) {
	for name, amount := range other {
		if r[name] += times * amount; r[name] == 0 {
			delete(r, name)
		}
	}
}

// Quantity converts an amount of Resources back to a quantity.
func Quantity(name batch.ResourceName, amount int64) resource.Quantity {
	switch name {
	case batch.ResourceCPU:
		return *resource.NewMilliQuantity(amount, resource.DecimalSI)
	case batch.ResourceMemory:
		return *resource.NewQuantity(amount, resource.BinarySI)
	}
	return *resource.NewQuantity(amount, resource.DecimalSI)
}
