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

package manifests

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
)

func manifest(t *testing.T, content string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "manifest.yaml"), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

const (
	webhooks = `
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: hooks.static.k8s.io}
webhooks:
- name: hook.example.com
  clientConfig: {url: "https://127.0.0.1:9443"}
  rules: [{apiGroups: [batch.leat.dev], apiVersions: ["*"], resources: [tasks], operations: [CREATE]}]
  sideEffects: None
  admissionReviewVersions: [v1]
`
	policies = `
apiVersion: v1
kind: List
items:
- apiVersion: admissionregistration.k8s.io/v1
  kind: ValidatingAdmissionPolicy
  metadata: {name: policy.static.k8s.io}
  spec:
    matchConstraints:
      resourceRules: [{apiGroups: [batch.leat.dev], apiVersions: ["*"], resources: [tasks], operations: [CREATE]}]
    validations: [{expression: "true"}]
- apiVersion: admissionregistration.k8s.io/v1
  kind: ValidatingAdmissionPolicyBinding
  metadata: {name: binding.static.k8s.io}
  spec: {policyName: policy.static.k8s.io, validationActions: [Deny]}
`
	mutations = `
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicy
metadata: {name: policy.static.k8s.io}
spec:
  matchConstraints:
    resourceRules: [{apiGroups: [batch.leat.dev], apiVersions: ["*"], resources: [tasks], operations: [CREATE]}]
  reinvocationPolicy: Never
  mutations: [{patchType: JSONPatch, jsonPatch: {expression: "[]"}}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicyBinding
metadata: {name: binding.static.k8s.io}
spec: {policyName: policy.static.k8s.io}
`
)

func TestDefaults(t *testing.T) {
	loaders := Loaders()
	hooks, _, err := loaders.LoadValidatingWebhookManifests(manifest(t, webhooks))
	if err != nil {
		t.Fatal(err)
	}
	hook := hooks[0].Webhooks[0]
	if *hook.FailurePolicy != admissionregistrationv1.Fail || *hook.MatchPolicy != admissionregistrationv1.Equivalent || *hook.TimeoutSeconds != 10 ||
		*hook.Rules[0].Scope != admissionregistrationv1.AllScopes || hook.NamespaceSelector == nil || hook.ObjectSelector == nil {
		t.Errorf("the webhook is %+v", hook)
	}
	mutating := strings.Replace(webhooks, "Validating", "Mutating", 1)
	mutators, _, err := loaders.LoadMutatingWebhookManifests(manifest(t, mutating))
	if err != nil {
		t.Fatal(err)
	}
	if mutator := mutators[0].Webhooks[0]; *mutator.FailurePolicy != admissionregistrationv1.Fail || *mutator.ReinvocationPolicy != admissionregistrationv1.NeverReinvocationPolicy {
		t.Errorf("the mutating webhook is %+v", mutator)
	}
	rules, bindings, _, err := loaders.LoadValidatingPolicyManifests(manifest(t, policies))
	if err != nil || len(rules) != 1 || len(bindings) != 1 {
		t.Fatalf("policies: %d, bindings: %d, %v", len(rules), len(bindings), err)
	}
	if spec := rules[0].Spec; *spec.FailurePolicy != admissionregistrationv1.Fail || *spec.MatchConstraints.MatchPolicy != admissionregistrationv1.Equivalent ||
		spec.MatchConstraints.NamespaceSelector == nil || *spec.MatchConstraints.ResourceRules[0].Scope != admissionregistrationv1.AllScopes {
		t.Errorf("the policy is %+v", spec)
	}
	if changes, bindings, _, err := loaders.LoadMutatingPolicyManifests(manifest(t, mutations)); err != nil || len(changes) != 1 || len(bindings) != 1 ||
		*changes[0].Spec.FailurePolicy != admissionregistrationv1.Fail {
		t.Errorf("mutating policies: %d, bindings: %d, %v", len(changes), len(bindings), err)
	}
}

// TestValidation expects errors for what the API of a host would refuse to create.
func TestValidation(t *testing.T) {
	loaders := Loaders()
	load := map[string]func(dir string) error{
		webhooks:  func(dir string) error { _, _, err := loaders.LoadValidatingWebhookManifests(dir); return err },
		policies:  func(dir string) error { _, _, _, err := loaders.LoadValidatingPolicyManifests(dir); return err },
		mutations: func(dir string) error { _, _, _, err := loaders.LoadMutatingPolicyManifests(dir); return err },
	}
	for _, test := range []struct{ manifest, old, new, want string }{
		{webhooks, "CREATE", "create", `webhooks[0].rules[0].operations[0]: Unsupported value: "create"`},
		{webhooks, "[tasks]", "[]", "webhooks[0].rules[0].resources: Required value"},
		{webhooks, "rules:", "rules: []\n  matchConditions: []\n  #", "webhooks[0].rules: Required value"},
		{webhooks, "sideEffects: None", "sideEffects: Some", `webhooks[0].sideEffects: Unsupported value: "Some"`},
		{webhooks, "sideEffects: None", "timeoutSeconds: 31", "webhooks[0].timeoutSeconds: Invalid value: 31"},
		{webhooks, "name: hook.example.com", `name: ""`, "webhooks[0].name: Required value"},
		{webhooks, "[v1]", "[]", "webhooks[0].admissionReviewVersions: Required value"},
		{webhooks, "sideEffects", "sideeffects", "unknown field"},
		{webhooks, "sideEffects", "failurePolicy: fail\n  sideEffects", `webhooks[0].failurePolicy: Unsupported value: "fail"`},
		{webhooks, "Validating", "Mutating", "this directory may only hold"},
		{webhooks, ".static.k8s.io", "", ".static.k8s.io"},
		{policies, "[Deny]", "[deny]", `spec.validationActions[0]: Unsupported value: "deny"`},
		{policies, "[Deny]", "[]", "spec.validationActions: Required value"},
		{policies, `[{expression: "true"}]`, "[]", "spec.validations: Required value"},
		{policies, "resourceRules:", "excludeResourceRules:", "spec.matchConstraints.resourceRules: Required value"},
		{policies, "CREATE", "CREATED", "spec.matchConstraints.resourceRules[0].operations[0]: Unsupported value"},
		{mutations, "reinvocationPolicy: Never", "reinvocationPolicy: Always", `spec.reinvocationPolicy: Unsupported value: "Always"`},
		{mutations, "patchType: JSONPatch", "patchType: MergePatch", `spec.mutations[0].patchType: Unsupported value: "MergePatch"`},
		{mutations, "patchType: JSONPatch", "patchType: ApplyConfiguration", "spec.mutations[0].applyConfiguration: Required value"},
		{mutations, "apiVersions: [\"*\"]", "apiVersions: []", "spec.matchConstraints.resourceRules[0].apiVersions: Required value"},
	} {
		changed := strings.Replace(test.manifest, test.old, test.new, 1)
		if changed == test.manifest {
			t.Fatalf("nothing is changed by %q", test.old)
		}
		if err := load[test.manifest](manifest(t, changed)); err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), "manifest.yaml") {
			t.Errorf("with %q for %q: %v; want an error that names the file and says %q", test.new, test.old, err, test.want)
		}
	}
}
