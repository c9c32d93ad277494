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

package state

import (
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/kube-openapi/pkg/validation/spec"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/generated/openapi"
)

// enumOf returns the values that the API accepts for a field.
func enumOf(t *testing.T, model, field string) []string {
	t.Helper()
	definitions := openapi.GetOpenAPIDefinitions(func(string) spec.Ref { return spec.Ref{} })
	var values []string
	for _, value := range definitions[model].Schema.Properties[field].Enum {
		values = append(values, value.(string))
	}
	if len(values) < 2 {
		t.Fatalf("%s.%s: got the values %q, want at least two", model, field, values)
	}
	return values
}

func failedTask(exitCode int32) *batch.Task {
	return &batch.Task{Status: batch.TaskStatus{
		Phase: batch.TaskFailed, State: batch.TaskState{Terminated: &batch.TaskStateTerminated{ExitCode: exitCode}},
	}}
}

func TestEveryFailurePolicyActionIsEvaluated(t *testing.T) {
	for _, action := range enumOf(t, batch.TaskFailurePolicyRule{}.OpenAPIModelName(), "action") {
		policy := &batch.TaskFailurePolicy{Rules: []batch.TaskFailurePolicyRule{{
			Action: batch.TaskFailurePolicyAction(action),
			OnExitCodes: &batch.TaskFailurePolicyOnExitCodesRequirement{
				Operator: batch.TaskFailurePolicyOnExitCodesOpIn, Values: []int32{3},
			},
		}}}
		got, message := matchFailurePolicy(policy, failedTask(3))
		if string(got) != action || message == "" {
			t.Errorf("a rule with action %s: got %s with message %q", action, got, message)
		}
	}
}

func TestEveryExitCodeOperatorIsEvaluated(t *testing.T) {
	for _, operator := range enumOf(t, batch.TaskFailurePolicyOnExitCodesRequirement{}.OpenAPIModelName(), "operator") {
		requirement := &batch.TaskFailurePolicyOnExitCodesRequirement{
			Operator: batch.TaskFailurePolicyOnExitCodesOperator(operator), Values: []int32{3},
		}
		_, listed := matchExitCode(failedTask(3), requirement)
		_, other := matchExitCode(failedTask(4), requirement)
		if listed == other {
			t.Errorf("operator %s: got %t for a listed code and %t for another", operator, listed, other)
		}
	}
}

// TestEveryFieldOfAPolicyIsEvaluated lists the fields that this package evaluates. Evaluate a new field, then add it.
func TestEveryFieldOfAPolicyIsEvaluated(t *testing.T) {
	for _, test := range []struct {
		of   reflect.Type
		want []string
	}{
		{reflect.TypeFor[batch.TaskFailurePolicy](), []string{"Rules"}},
		{reflect.TypeFor[batch.TaskFailurePolicyRule](), []string{"Action", "OnExitCodes", "OnTaskConditions"}},
		{reflect.TypeFor[batch.TaskFailurePolicyOnExitCodesRequirement](), []string{"Operator", "Values"}},
		{reflect.TypeFor[batch.TaskFailurePolicyOnTaskConditionsPattern](), []string{"Type", "Status"}},
		{reflect.TypeFor[batch.SuccessPolicy](), []string{"Rules"}},
		{reflect.TypeFor[batch.SuccessPolicyRule](), []string{"SucceededIndexes", "SucceededCount"}},
	} {
		var got []string
		for i := range test.of.NumField() {
			got = append(got, test.of.Field(i).Name)
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s: evaluated -, in the API +:\n%s", test.of.Name(), diff)
		}
	}
}
