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

package registry

import (
	"slices"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// DeriveConditions returns sent with the conditions of the owned types replaced by derived, whose status it sets to
// True. What a client sends of the owned types has no effect. A condition that is True in stored keeps its
// lastTransitionTime, so that an update that derives the same conditions changes nothing.
func DeriveConditions(sent, stored []metav1.Condition, owned []string, derived ...metav1.Condition) []metav1.Condition {
	next := slices.DeleteFunc(slices.Clone(sent), func(c metav1.Condition) bool {
		return slices.Contains(owned, c.Type) && !slices.ContainsFunc(derived, func(d metav1.Condition) bool { return d.Type == c.Type })
	})
	for _, condition := range derived {
		condition.Status, condition.LastTransitionTime = metav1.ConditionTrue, metav1.Now()
		if old := meta.FindStatusCondition(stored, condition.Type); old != nil && old.Status == metav1.ConditionTrue {
			condition.LastTransitionTime = old.LastTransitionTime
		}
		if i := slices.IndexFunc(next, func(c metav1.Condition) bool { return c.Type == condition.Type }); i >= 0 {
			next[i] = condition
		} else {
			next = append(next, condition)
		}
	}
	return next
}
