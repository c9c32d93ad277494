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
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestDeriveConditions(t *testing.T) {
	owned := []string{"Reconciling", "Failed"}
	past := metav1.NewTime(time.Now().Add(-time.Hour).Truncate(time.Second))
	condition := func(kind string, status metav1.ConditionStatus, reason string) metav1.Condition {
		return metav1.Condition{Type: kind, Status: status, Reason: reason, LastTransitionTime: past}
	}
	scheduled := condition("Scheduled", metav1.ConditionFalse, "Full")
	reconciling, failed := condition("Reconciling", metav1.ConditionTrue, "Pending"), condition("Failed", metav1.ConditionTrue, "Error")
	for _, test := range []struct {
		name         string
		sent, stored []metav1.Condition
		derived      []metav1.Condition
		want         []metav1.Condition
	}{
		{"nothing changes", []metav1.Condition{reconciling, scheduled}, []metav1.Condition{reconciling, scheduled},
			[]metav1.Condition{{Type: "Reconciling", Reason: "Pending"}}, []metav1.Condition{reconciling, scheduled}},
		{"the reason changes, the time stays", []metav1.Condition{reconciling}, []metav1.Condition{reconciling},
			[]metav1.Condition{{Type: "Reconciling", Reason: "Running"}}, []metav1.Condition{condition("Reconciling", metav1.ConditionTrue, "Running")}},
		{"one that is left out comes back", []metav1.Condition{scheduled}, []metav1.Condition{reconciling},
			[]metav1.Condition{{Type: "Reconciling", Reason: "Pending"}}, []metav1.Condition{scheduled, reconciling}},
		{"one that is made up goes", []metav1.Condition{failed, scheduled}, nil, nil, []metav1.Condition{scheduled}},
		{"one that is sent as False is True", []metav1.Condition{condition("Failed", metav1.ConditionFalse, "No")}, []metav1.Condition{failed},
			[]metav1.Condition{{Type: "Failed", Reason: "Error"}}, []metav1.Condition{failed}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, DeriveConditions(test.sent, test.stored, owned, test.derived...)); diff != "" {
				t.Errorf("want -, got +:\n%s", diff)
			}
		})
	}
	t.Run("a new one has the time of now", func(t *testing.T) {
		got := DeriveConditions([]metav1.Condition{reconciling}, []metav1.Condition{reconciling}, owned, metav1.Condition{Type: "Failed", Reason: "Error"})
		if len(got) != 1 || got[0].Type != "Failed" || time.Since(got[0].LastTransitionTime.Time) > time.Minute {
			t.Errorf("got %v", got)
		}
	})
}
