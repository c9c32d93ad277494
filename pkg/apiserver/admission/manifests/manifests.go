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

// Package manifests loads webhooks and policies from files for admission plugins that are configured with a
// staticManifestsDir. k8s.io/apiserver reads the files but leaves defaulting and validation to the server.
package manifests

import (
	"fmt"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/admission/initializer"
	policyloader "k8s.io/apiserver/pkg/admission/plugin/policy/manifest/loader"
	webhookloader "k8s.io/apiserver/pkg/admission/plugin/webhook/manifest/loader"
)

// Loaders returns the loaders of all four kinds. A directory holds YAML or JSON files with objects, or lists of
// objects, of admissionregistration.k8s.io/v1: those of the plugin's kind, and for policies their bindings. Names must
// end in ".static.k8s.io". A loader returns an error that names the file for unknown fields, and for values with which
// a webhook or policy would match nothing or do nothing.
func Loaders() *initializer.ManifestLoaders {
	return &initializer.ManifestLoaders{
		LoadValidatingWebhookManifests: func(dir string) ([]*admissionregistrationv1.ValidatingWebhookConfiguration, string, error) {
			return webhookloader.LoadManifests(dir, decoder, acceptWebhooks(validatingWebhooks))
		},
		LoadMutatingWebhookManifests: func(dir string) ([]*admissionregistrationv1.MutatingWebhookConfiguration, string, error) {
			return webhookloader.LoadManifests(dir, decoder, acceptWebhooks(mutatingWebhooks))
		},
		LoadValidatingPolicyManifests: func(dir string) ([]*admissionregistrationv1.ValidatingAdmissionPolicy,
			[]*admissionregistrationv1.ValidatingAdmissionPolicyBinding, string, error) {
			return policyloader.LoadPolicyManifests(dir, decoder, accept(validatingPolicy), accept(validatingPolicyBinding),
				func(binding *admissionregistrationv1.ValidatingAdmissionPolicyBinding) string {
					return binding.Spec.PolicyName
				})
		},
		LoadMutatingPolicyManifests: func(dir string) ([]*admissionregistrationv1.MutatingAdmissionPolicy,
			[]*admissionregistrationv1.MutatingAdmissionPolicyBinding, string, error) {
			return policyloader.LoadPolicyManifests(dir, decoder, accept(mutatingPolicy), accept(mutatingPolicyBinding),
				func(binding *admissionregistrationv1.MutatingAdmissionPolicyBinding) string {
					return binding.Spec.PolicyName
				})
		},
	}
}

var decoder = newDecoder()

func newDecoder() runtime.Decoder {
	scheme := runtime.NewScheme()
	utilruntime.Must(admissionregistrationv1.AddToScheme(scheme))
	scheme.AddUnversionedTypes(metav1.SchemeGroupVersion, &metav1.List{})
	return serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
}

// object is a pointer to an API type.
type object interface {
	metav1.Object
	runtime.Object
}

// accept returns a callback that accepts objects of type T. defaultAndValidate sets their defaults and validates them.
func accept[T object](defaultAndValidate func(T) field.ErrorList) func(runtime.Object) ([]T, error) {
	return func(obj runtime.Object) ([]T, error) {
		typed, ok := obj.(T)
		if !ok {
			return nil, policyloader.ErrUnrecognizedType
		}
		if err := defaultAndValidate(typed).ToAggregate(); err != nil {
			return nil, fmt.Errorf("%s: %w", typed.GetName(), err)
		}
		return []T{typed}, nil
	}
}

// acceptWebhooks is accept with an error that names the expected type.
func acceptWebhooks[T object](defaultAndValidate func(T) field.ErrorList) func(runtime.Object) ([]T, error) {
	return func(obj runtime.Object) ([]T, error) {
		if _, ok := obj.(T); !ok {
			return nil, fmt.Errorf("unexpected %T: this directory may only hold %T", obj, *new(T))
		}
		return accept(defaultAndValidate)(obj)
	}
}

func validatingWebhooks(configuration *admissionregistrationv1.ValidatingWebhookConfiguration) field.ErrorList {
	var errs field.ErrorList
	for i := range configuration.Webhooks {
		hook, path := &configuration.Webhooks[i], field.NewPath("webhooks").Index(i)
		setDefault(&hook.FailurePolicy, admissionregistrationv1.Fail)
		setDefault(&hook.TimeoutSeconds, 10)
		setDefault(&hook.NamespaceSelector, metav1.LabelSelector{})
		setDefault(&hook.ObjectSelector, metav1.LabelSelector{})
		errs = append(errs, webhook(path, hook.Name, hook.AdmissionReviewVersions, hook.SideEffects, *hook.TimeoutSeconds)...)
		errs = append(errs, failurePolicy(path, *hook.FailurePolicy)...)
		errs = append(errs, matchPolicy(path, &hook.MatchPolicy)...)
		errs = append(errs, rules(path.Child("rules"), hook.Rules)...)
	}
	return errs
}

func mutatingWebhooks(configuration *admissionregistrationv1.MutatingWebhookConfiguration) field.ErrorList {
	var errs field.ErrorList
	for i := range configuration.Webhooks {
		hook, path := &configuration.Webhooks[i], field.NewPath("webhooks").Index(i)
		setDefault(&hook.FailurePolicy, admissionregistrationv1.Fail)
		setDefault(&hook.TimeoutSeconds, 10)
		setDefault(&hook.NamespaceSelector, metav1.LabelSelector{})
		setDefault(&hook.ObjectSelector, metav1.LabelSelector{})
		setDefault(&hook.ReinvocationPolicy, admissionregistrationv1.NeverReinvocationPolicy)
		errs = append(errs, webhook(path, hook.Name, hook.AdmissionReviewVersions, hook.SideEffects, *hook.TimeoutSeconds)...)
		errs = append(errs, failurePolicy(path, *hook.FailurePolicy)...)
		errs = append(errs, matchPolicy(path, &hook.MatchPolicy)...)
		errs = append(errs, rules(path.Child("rules"), hook.Rules)...)
		errs = append(errs, oneOf(path.Child("reinvocationPolicy"), *hook.ReinvocationPolicy,
			admissionregistrationv1.NeverReinvocationPolicy, admissionregistrationv1.IfNeededReinvocationPolicy)...)
	}
	return errs
}

func validatingPolicy(policy *admissionregistrationv1.ValidatingAdmissionPolicy) field.ErrorList {
	spec, path := &policy.Spec, field.NewPath("spec")
	setDefault(&spec.FailurePolicy, admissionregistrationv1.Fail)
	errs := failurePolicy(path, *spec.FailurePolicy)
	errs = append(errs, matchConstraints(path.Child("matchConstraints"), spec.MatchConstraints)...)
	if len(spec.Validations) == 0 && len(spec.AuditAnnotations) == 0 {
		errs = append(errs, field.Required(path.Child("validations"), "validations or auditAnnotations must hold at least one"))
	}
	return errs
}

func validatingPolicyBinding(binding *admissionregistrationv1.ValidatingAdmissionPolicyBinding) field.ErrorList {
	path := field.NewPath("spec", "validationActions")
	var errs field.ErrorList
	if len(binding.Spec.ValidationActions) == 0 {
		errs = append(errs, field.Required(path, "must hold at least one of Deny, Warn and Audit"))
	}
	for i, action := range binding.Spec.ValidationActions {
		errs = append(errs, oneOf(path.Index(i), action, admissionregistrationv1.Deny, admissionregistrationv1.Warn, admissionregistrationv1.Audit)...)
	}
	return append(errs, matchResources(field.NewPath("spec", "matchResources"), binding.Spec.MatchResources)...)
}

func mutatingPolicy(policy *admissionregistrationv1.MutatingAdmissionPolicy) field.ErrorList {
	spec, path := &policy.Spec, field.NewPath("spec")
	setDefault(&spec.FailurePolicy, admissionregistrationv1.Fail)
	errs := failurePolicy(path, *spec.FailurePolicy)
	errs = append(errs, matchConstraints(path.Child("matchConstraints"), spec.MatchConstraints)...)
	errs = append(errs, oneOf(path.Child("reinvocationPolicy"), spec.ReinvocationPolicy,
		admissionregistrationv1.NeverReinvocationPolicy, admissionregistrationv1.IfNeededReinvocationPolicy)...)
	if len(spec.Mutations) == 0 {
		errs = append(errs, field.Required(path.Child("mutations"), "must hold one at least"))
	}
	for i, mutation := range spec.Mutations {
		at := path.Child("mutations").Index(i)
		switch mutation.PatchType {
		case admissionregistrationv1.PatchTypeApplyConfiguration:
			if mutation.ApplyConfiguration == nil {
				errs = append(errs, field.Required(at.Child("applyConfiguration"), "goes with patchType ApplyConfiguration"))
			}
		case admissionregistrationv1.PatchTypeJSONPatch:
			if mutation.JSONPatch == nil {
				errs = append(errs, field.Required(at.Child("jsonPatch"), "goes with patchType JSONPatch"))
			}
		default:
			errs = append(errs, oneOf(at.Child("patchType"), mutation.PatchType,
				admissionregistrationv1.PatchTypeApplyConfiguration, admissionregistrationv1.PatchTypeJSONPatch)...)
		}
	}
	return errs
}

func mutatingPolicyBinding(binding *admissionregistrationv1.MutatingAdmissionPolicyBinding) field.ErrorList {
	return matchResources(field.NewPath("spec", "matchResources"), binding.Spec.MatchResources)
}

func webhook(path *field.Path, name string, versions []string, sideEffects *admissionregistrationv1.SideEffectClass, timeoutSeconds int32) field.ErrorList {
	var errs field.ErrorList
	if name == "" {
		errs = append(errs, field.Required(path.Child("name"), "refusals contain the name of the webhook"))
	}
	if len(versions) == 0 {
		errs = append(errs, field.Required(path.Child("admissionReviewVersions"), "must hold v1 or v1beta1"))
	}
	if sideEffects == nil {
		errs = append(errs, field.Required(path.Child("sideEffects"), "must be None or NoneOnDryRun"))
	} else {
		errs = append(errs, oneOf(path.Child("sideEffects"), *sideEffects,
			admissionregistrationv1.SideEffectClassNone, admissionregistrationv1.SideEffectClassNoneOnDryRun)...)
	}
	if timeoutSeconds < 1 || timeoutSeconds > 30 {
		errs = append(errs, field.Invalid(path.Child("timeoutSeconds"), timeoutSeconds, "must be from 1 to 30"))
	}
	return errs
}

func failurePolicy(path *field.Path, policy admissionregistrationv1.FailurePolicyType) field.ErrorList {
	return oneOf(path.Child("failurePolicy"), policy, admissionregistrationv1.Fail, admissionregistrationv1.Ignore)
}

func matchPolicy(path *field.Path, policy **admissionregistrationv1.MatchPolicyType) field.ErrorList {
	setDefault(policy, admissionregistrationv1.Equivalent)
	return oneOf(path.Child("matchPolicy"), **policy, admissionregistrationv1.Equivalent, admissionregistrationv1.Exact)
}

func matchConstraints(path *field.Path, resources *admissionregistrationv1.MatchResources) field.ErrorList {
	if resources == nil || len(resources.ResourceRules) == 0 {
		return field.ErrorList{field.Required(path.Child("resourceRules"), "must hold at least one rule: the policy would match nothing")}
	}
	return matchResources(path, resources)
}

// matchResources sets the defaults of resources, which may be nil, and validates them.
func matchResources(path *field.Path, resources *admissionregistrationv1.MatchResources) field.ErrorList {
	if resources == nil {
		return nil
	}
	setDefault(&resources.NamespaceSelector, metav1.LabelSelector{})
	setDefault(&resources.ObjectSelector, metav1.LabelSelector{})
	errs := matchPolicy(path, &resources.MatchPolicy)
	for name, named := range map[string][]admissionregistrationv1.NamedRuleWithOperations{
		"resourceRules": resources.ResourceRules, "excludeResourceRules": resources.ExcludeResourceRules,
	} {
		for i := range named {
			errs = append(errs, rule(path.Child(name).Index(i), &named[i].RuleWithOperations)...)
		}
	}
	return errs
}

func rules(path *field.Path, rules []admissionregistrationv1.RuleWithOperations) field.ErrorList {
	if len(rules) == 0 {
		return field.ErrorList{field.Required(path, "must hold at least one rule: the webhook would match nothing")}
	}
	var errs field.ErrorList
	for i := range rules {
		errs = append(errs, rule(path.Index(i), &rules[i])...)
	}
	return errs
}

// rule sets the defaults of a rule and validates it. An unknown operation or scope would silently match nothing.
func rule(path *field.Path, rule *admissionregistrationv1.RuleWithOperations) field.ErrorList {
	var errs field.ErrorList
	for name, length := range map[string]int{
		"apiGroups": len(rule.APIGroups), "apiVersions": len(rule.APIVersions), "resources": len(rule.Resources), "operations": len(rule.Operations),
	} {
		if length == 0 {
			errs = append(errs, field.Required(path.Child(name), `must hold at least one; "*" matches all`))
		}
	}
	for i, operation := range rule.Operations {
		errs = append(errs, oneOf(path.Child("operations").Index(i), operation, admissionregistrationv1.OperationAll, admissionregistrationv1.Create,
			admissionregistrationv1.Update, admissionregistrationv1.Delete, admissionregistrationv1.Connect)...)
	}
	setDefault(&rule.Scope, admissionregistrationv1.AllScopes)
	return append(errs, oneOf(path.Child("scope"), *rule.Scope,
		admissionregistrationv1.AllScopes, admissionregistrationv1.ClusterScope, admissionregistrationv1.NamespacedScope)...)
}

func oneOf[T ~string](path *field.Path, value T, known ...T) field.ErrorList {
	for _, candidate := range known {
		if value == candidate {
			return nil
		}
	}
	return field.ErrorList{field.NotSupported(path, value, known)}
}

func setDefault[T any](pointer **T, value T) {
	if *pointer == nil {
		*pointer = &value
	}
}
