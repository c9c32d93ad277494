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

package v1alpha1

import (
	"encoding/json"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"
)

const (
	// maxQuantity is the maximum length of a quantity.
	maxQuantity = 64
	// maxExponent is the maximum number of digits of a quantity's exponent.
	maxExponent = 2
)

// CheckQuantity returns an error for a quantity that is too expensive to parse. The time of resource.ParseQuantity is
// quadratic in the number of digits, and it expands exponents: "1e999999999" becomes a number of a gigabyte.
func CheckQuantity(text string) error {
	if len(text) > maxQuantity {
		return fmt.Errorf("the quantity %.20s… has %d characters: at most %d are accepted", text, len(text), maxQuantity)
	}
	if at := strings.LastIndexAny(text, "eE"); at >= 0 {
		exponent := strings.TrimLeft(strings.TrimLeft(text[at+1:], "+-"), "0")
		if len(strings.TrimSpace(exponent)) > maxExponent {
			return fmt.Errorf("the exponent of the quantity %s has more than %d digits", text, maxExponent)
		}
	}
	return nil
}

// UnmarshalJSON implements json.Unmarshaler. It checks quantities before it parses them.
func (l *ResourceList) UnmarshalJSON(data []byte) error {
	var values map[ResourceName]json.RawMessage
	if err := json.Unmarshal(data, &values); err != nil {
		return err
	}
	for name, value := range values {
		if err := CheckQuantity(strings.Trim(string(value), `"`)); err != nil {
			return fmt.Errorf("%.100s: %w", name, err)
		}
	}
	return json.Unmarshal(data, (*map[ResourceName]resource.Quantity)(l))
}
