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

package incluster

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admission/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/standalone/pki"
	"github.com/leat-dev/leat/test/kit"
)

// webhook is a webhook backend. It labels objects, and denies requests for objects with the name
// "deny-<operation>[-<subresource>]".
type webhook struct {
	*httptest.Server
	ca *pki.CA
}

func startWebhook(t testing.TB) *webhook {
	t.Helper()
	ca := kit.Must(pki.NewCA("webhook"))(t)
	cert, key, err := ca.IssueServer("127.0.0.1")
	kit.Check(t, err)
	w := &webhook{ca: ca}
	w.Server = httptest.NewUnstartedServer(w)
	w.TLS = &tls.Config{Certificates: []tls.Certificate{kit.Must(tls.X509KeyPair(cert, key))(t)}}
	w.StartTLS()
	t.Cleanup(w.Close)
	return w
}

func (w *webhook) ServeHTTP(writer http.ResponseWriter, request *http.Request) {
	var review admissionv1.AdmissionReview
	if err := json.NewDecoder(request.Body).Decode(&review); err != nil {
		http.Error(writer, err.Error(), http.StatusBadRequest)
		return
	}
	asked := review.Request
	verdict := &admissionv1.AdmissionResponse{UID: asked.UID, Allowed: true}
	if request.URL.Path == "/mutate" {
		verdict.PatchType = new(admissionv1.PatchTypeJSONPatch)
		verdict.Patch = []byte(`[{"op": "add", "path": "/metadata/labels", "value": {"webhook": "` + strings.ToLower(string(asked.Operation)) + `"}}]`)
	} else {
		denied, what := "deny-"+strings.ToLower(string(asked.Operation)), string(asked.Operation)+" "+asked.Resource.Resource
		if asked.SubResource != "" {
			denied, what = denied+"-"+asked.SubResource, what+"/"+asked.SubResource
		}
		if asked.Name == denied {
			verdict.Allowed, verdict.Result = false, &metav1.Status{
				Code: http.StatusForbidden, Reason: metav1.StatusReasonForbidden, Message: "there is no " + what,
			}
		}
	}
	review.Response, review.Request = verdict, nil
	writer.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(writer).Encode(review) // an error means that the client has gone
}

// manifests has webhooks and policies by the admission plugin that reads them. They match only the namespaces of these
// tests.
var manifests = map[string]string{
	"MutatingAdmissionWebhook": `
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingWebhookConfiguration
metadata: {name: "webhooks.example.com$SUFFIX"}
webhooks:
- name: label.example.com
  clientConfig: {url: "$URL/mutate", caBundle: $CA}
  rules: [{apiGroups: [batch.leat.dev], apiVersions: ["*"], resources: ["tasks", "tasksets"], operations: [CREATE, UPDATE]}]
  matchConditions: [{name: ours, expression: 'request.namespace.contains("-webhooks-")'}]
  sideEffects: None
  admissionReviewVersions: [v1]
`,
	"ValidatingAdmissionWebhook": `
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: "webhooks.example.com$SUFFIX"}
webhooks:
- name: deny.example.com
  clientConfig: {url: "$URL/validate", caBundle: $CA}
  rules: [{apiGroups: [batch.leat.dev], apiVersions: ["*"], resources: ["*/*"], operations: ["*"]}]
  matchConditions: [{name: ours, expression: 'request.namespace.contains("-webhooks-")'}]
  failurePolicy: Fail
  timeoutSeconds: 5
  sideEffects: None
  admissionReviewVersions: [v1]
`,
	"ValidatingAdmissionPolicy": `
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: "specs.example.com$SUFFIX"}
spec:
  matchConstraints:
    resourceRules: [{apiGroups: [batch.leat.dev], apiVersions: [v1alpha1], resources: [tasks], operations: [CREATE, UPDATE]}]
  matchConditions: [{name: ours, expression: 'request.namespace.contains("-policies-")'}]
  validations:
  - expression: '!has(object.spec.priority) || object.spec.priority <= 100'
    message: priority must be at most 100
  - expression: 'object.spec.command.all(word, word != "reboot")'
    messageExpression: '"command " + object.spec.command[0] + " is not for everyone"'
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: "specs.example.com$SUFFIX"}
spec: {policyName: "specs.example.com$SUFFIX", validationActions: [Deny]}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: "bindings.example.com$SUFFIX"}
spec:
  matchConstraints:
    resourceRules: [{apiGroups: [batch.leat.dev], apiVersions: [v1alpha1], resources: [tasks/binding], operations: [CREATE]}]
  matchConditions: [{name: ours, expression: 'request.namespace.contains("-policies-")'}]
  validations:
  - expression: 'object.target.name != "worker-of-others"'
    message: this worker is for others
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: "bindings.example.com$SUFFIX"}
spec: {policyName: "bindings.example.com$SUFFIX", validationActions: [Deny]}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: "deletions.example.com$SUFFIX"}
spec:
  matchConstraints:
    resourceRules: [{apiGroups: [batch.leat.dev], apiVersions: [v1alpha1], resources: ["*"], operations: [DELETE]}]
  matchConditions: [{name: ours, expression: 'request.namespace.contains("-policies-")'}]
  validations:
  - expression: '!has(oldObject.metadata.annotations) || !("example.com/keep" in oldObject.metadata.annotations)'
    message: it is to be kept
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: "deletions.example.com$SUFFIX"}
spec: {policyName: "deletions.example.com$SUFFIX", validationActions: [Deny]}
`,
	"MutatingAdmissionPolicy": `
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicy
metadata: {name: "labels.example.com$SUFFIX"}
spec:
  matchConstraints:
    resourceRules: [{apiGroups: [batch.leat.dev], apiVersions: [v1alpha1], resources: [tasks, tasksets], operations: [CREATE, UPDATE]}]
  matchConditions: [{name: ours, expression: 'request.namespace.contains("-policies-")'}]
  failurePolicy: Fail
  reinvocationPolicy: Never
  mutations:
  - patchType: ApplyConfiguration
    applyConfiguration: {expression: 'Object{metadata: Object.metadata{labels: {"applied": "yes"}}}'}
  - patchType: JSONPatch
    jsonPatch: {expression: '[JSONPatch{op: "add", path: "/metadata/labels/patched", value: "yes"}]'}
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicyBinding
metadata: {name: "labels.example.com$SUFFIX"}
spec: {policyName: "labels.example.com$SUFFIX"}
`,
}

// writeManifests writes the manifests for a backend, those of each plugin to a directory with its name. It returns the
// parent directory. The names of the objects end with suffix.
func writeManifests(t testing.TB, backend *webhook, suffix string) string {
	t.Helper()
	dir := t.TempDir()
	replacer := strings.NewReplacer("$SUFFIX", suffix, "$URL", backend.URL, "$CA", base64.StdEncoding.EncodeToString(backend.ca.CertPEM()))
	for plugin, manifest := range manifests {
		kit.Check(t, pki.WriteFile(filepath.Join(dir, plugin, "manifest.yaml"), []byte(replacer.Replace(manifest))))
	}
	return dir
}

// admissionConfig writes an AdmissionConfiguration that refers to the manifests as static ones, and returns its path.
func admissionConfig(t testing.TB, backend *webhook) string {
	t.Helper()
	dir := writeManifests(t, backend, ".static.k8s.io")
	config := "apiVersion: apiserver.config.k8s.io/v1\nkind: AdmissionConfiguration\nplugins:\n"
	for plugin := range manifests {
		kind := plugin + "Configuration"
		if strings.HasSuffix(plugin, "Webhook") {
			kind = "WebhookAdmissionConfiguration"
		}
		config += fmt.Sprintf("- name: %s\n  configuration: {apiVersion: apiserver.config.k8s.io/v1, kind: %s, staticManifestsDir: %q}\n",
			plugin, kind, filepath.Join(dir, plugin))
	}
	file := filepath.Join(dir, "admission.yaml")
	kit.Check(t, pki.WriteFile(file, []byte(config)))
	return file
}

// applyManifests applies the manifests to the host. The returned function deletes them.
func applyManifests(t testing.TB, e *kit.Env, backend *webhook) (remove func()) {
	t.Helper()
	dir := writeManifests(t, backend, "")
	kubectl := func(command string) {
		t.Helper()
		_, _, err := e.Host.Kubectl(t.Context(), e.Host.AdminKubeconfig, command, "--recursive", "--filename="+dir)
		kit.Check(t, err)
	}
	kubectl("apply")
	return func() { kubectl("delete") }
}

// testWebhooks checks that webhooks mutate and deny requests of every kind, and fail closed.
func testWebhooks(t *testing.T, e *kit.Env, backend *webhook) {
	namespace := e.Namespace(t)
	ctx := t.Context()
	admin, controller := kit.Client(t, e.Admin(t)).BatchV1alpha1(), kit.Client(t, e.Controller(t)).BatchV1alpha1()
	tasks, sets := admin.Tasks(namespace), admin.TaskSets(namespace)
	kit.Eventually(t, "the server calls the webhooks", func(ctx context.Context) error {
		if _, err := tasks.Create(ctx, kit.NewTask("deny-create"), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}); err == nil {
			return fmt.Errorf("a create that they deny succeeds")
		}
		task, err := tasks.Create(ctx, kit.NewTask("probe"), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if err == nil && task.Labels["webhook"] == "" {
			err = fmt.Errorf("the created task has no label")
		}
		return err
	})

	t.Run("creates and updates are mutated", func(t *testing.T) {
		task := kit.Must(tasks.Create(ctx, kit.NewTask("task"), metav1.CreateOptions{}))(t)
		if task.Labels["webhook"] != "create" {
			t.Errorf("labels after the create: got %v, want webhook=create", task.Labels)
		}
		task = kit.Must(tasks.Update(ctx, task, metav1.UpdateOptions{}))(t)
		if task.Labels["webhook"] != "update" {
			t.Errorf("labels after the update: got %v, want webhook=update", task.Labels)
		}
		if set := kit.Must(sets.Create(ctx, kit.NewTaskSet("set"), metav1.CreateOptions{}))(t); set.Labels["webhook"] != "create" {
			t.Errorf("labels of the task set: got %v, want webhook=create", set.Labels)
		}
	})

	t.Run("denied requests have the message of the webhook", func(t *testing.T) {
		for _, name := range []string{"deny-update", "deny-delete", "deny-create-binding", "deny-create-eviction", "deny-update-status"} {
			kit.Must(tasks.Create(ctx, kit.NewTask(name), metav1.CreateOptions{}))(t)
		}
		for _, name := range []string{"deny-create-eviction", "deny-update-status"} {
			kit.Must(controller.Tasks(namespace).Bind(ctx, name, newBinding("worker-1"), metav1.CreateOptions{}))(t)
		}
		kit.Must(sets.Create(ctx, kit.NewTaskSet("deny-update-scale"), metav1.CreateOptions{}))(t)
		label := []byte(`{"metadata":{"labels":{"changed":"yes"}}}`)
		for what, err := range map[string]error{
			"CREATE tasks":          second(tasks.Create(ctx, kit.NewTask("deny-create"), metav1.CreateOptions{})),
			"UPDATE tasks":          second(tasks.Patch(ctx, "deny-update", types.MergePatchType, label, metav1.PatchOptions{})),
			"DELETE tasks":          tasks.Delete(ctx, "deny-delete", metav1.DeleteOptions{}),
			"CREATE tasks/binding":  second(controller.Tasks(namespace).Bind(ctx, "deny-create-binding", newBinding("worker-1"), metav1.CreateOptions{})),
			"CREATE tasks/eviction": second(controller.Tasks(namespace).Evict(ctx, "deny-create-eviction", &v1alpha1.Eviction{}, metav1.CreateOptions{})),
			"UPDATE tasks/status": second(controller.Tasks(namespace).Patch(ctx, "deny-update-status", types.MergePatchType,
				[]byte(`{"status":{"phase":"Running"}}`), metav1.PatchOptions{}, "status")),
			"UPDATE tasksets/scale": second(sets.UpdateScale(ctx, "deny-update-scale", &autoscalingv1.Scale{
				ObjectMeta: metav1.ObjectMeta{Name: "deny-update-scale", Namespace: namespace},
				Spec:       autoscalingv1.ScaleSpec{Replicas: 3},
			}, metav1.UpdateOptions{})),
		} {
			t.Run(what, func(t *testing.T) {
				expectReason(t, err, metav1.StatusReasonForbidden, `admission webhook "deny.example.com" denied the request: there is no `+what)
			})
		}
		if task := kit.Must(tasks.Get(ctx, "deny-create-binding", metav1.GetOptions{}))(t); task.Spec.WorkerName != "" {
			t.Errorf("worker of the task whose binding was denied: got %q, want none", task.Spec.WorkerName)
		}
	})

	t.Run("an unreachable webhook fails closed", func(t *testing.T) {
		backend.Close()
		for what, err := range map[string]error{
			"create": func() error { _, err := tasks.Create(ctx, kit.NewTask("late"), metav1.CreateOptions{}); return err }(),
			"bind": func() error {
				_, err := controller.Tasks(namespace).Bind(ctx, "task", newBinding("worker-1"), metav1.CreateOptions{})
				return err
			}(),
			"delete": tasks.Delete(ctx, "task", metav1.DeleteOptions{}),
		} {
			t.Run(what, func(t *testing.T) {
				expectReason(t, err, metav1.StatusReasonInternalError, "failed calling webhook", ".example.com")
			})
		}
	})
}

// testPolicies checks that admission policies mutate and deny requests.
func testPolicies(t *testing.T, e *kit.Env) {
	namespace := e.Namespace(t)
	ctx := t.Context()
	admin, controller := kit.Client(t, e.Admin(t)).BatchV1alpha1(), kit.Client(t, e.Controller(t)).BatchV1alpha1()
	tasks, sets := admin.Tasks(namespace), admin.TaskSets(namespace)
	urgent, reboot := kit.NewTask("urgent"), kit.NewTask("reboot")
	urgent.Spec.Priority = 101
	reboot.Spec.Command = []string{"sudo", "reboot"}
	kit.Eventually(t, "the server applies the policies", func(ctx context.Context) error {
		if _, err := tasks.Create(ctx, reboot, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}); err == nil {
			return fmt.Errorf("a create that they deny succeeds")
		}
		task, err := tasks.Create(ctx, kit.NewTask("probe"), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if err == nil && task.Labels["patched"] == "" {
			err = fmt.Errorf("labels of the created task: got %v, want patched", task.Labels)
		}
		return err
	})

	t.Run("creates are mutated", func(t *testing.T) {
		task := kit.NewTask("task")
		task.Labels = map[string]string{"own": "yes"}
		want := map[string]string{"own": "yes", "applied": "yes", "patched": "yes", v1alpha1.LabelCreator: v1alpha1.CreatorLabel("alice")}
		if got := kit.Must(tasks.Create(ctx, task, metav1.CreateOptions{}))(t).Labels; fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("labels of the task: got %v, want %v", got, want)
		}
		delete(want, "own")
		if got := kit.Must(sets.Create(ctx, kit.NewTaskSet("set"), metav1.CreateOptions{}))(t).Labels; fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("labels of the task set: got %v, want %v", got, want)
		}
	})

	t.Run("denied requests have the message of the policy", func(t *testing.T) {
		kept := kit.NewTask("kept")
		kept.Annotations = map[string]string{"example.com/keep": "yes"}
		kit.Must(tasks.Create(ctx, kept, metav1.CreateOptions{}))(t)
		raised := kit.Must(tasks.Create(ctx, kit.NewTask("raised"), metav1.CreateOptions{}))(t)
		for message, err := range map[string]error{
			"priority must be at most 100":     second(tasks.Create(ctx, urgent, metav1.CreateOptions{})),
			"command sudo is not for everyone": second(tasks.Create(ctx, reboot, metav1.CreateOptions{})),
			"this worker is for others":        second(controller.Tasks(namespace).Bind(ctx, raised.Name, newBinding("worker-of-others"), metav1.CreateOptions{})),
			"it is to be kept":                 tasks.Delete(ctx, "kept", metav1.DeleteOptions{}),
		} {
			t.Run(message, func(t *testing.T) { expectReason(t, err, metav1.StatusReasonInvalid, message, ".example.com") })
		}
		kit.Must(controller.Tasks(namespace).Bind(ctx, raised.Name, newBinding("worker-of-ours"), metav1.CreateOptions{}))(t)
		kit.Check(t, tasks.Delete(ctx, "task", metav1.DeleteOptions{}))
	})
}

// foreignPolicies are policies of somebody else. Their parameters are of kinds that the server may not read or that do
// not exist. Two of them match creates of tasks, in the namespaces CLOSED and OPEN.
const foreignPolicies = `
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: foreign.example.com}
spec:
  paramKind: {apiVersion: v1, kind: ConfigMap}
  matchConstraints:
    resourceRules: [{apiGroups: [apps], apiVersions: [v1], resources: [deployments], operations: [CREATE]}]
  validations: [{expression: 'object.spec.replicas <= int(params.data["most"])'}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: foreign.example.com}
spec:
  policyName: foreign.example.com
  validationActions: [Deny]
  paramRef: {name: most, namespace: default, parameterNotFoundAction: Deny}
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicy
metadata: {name: foreign.example.com}
spec:
  paramKind: {apiVersion: v1, kind: Secret}
  matchConstraints:
    resourceRules: [{apiGroups: [apps], apiVersions: [v1], resources: [deployments], operations: [CREATE]}]
  reinvocationPolicy: Never
  mutations:
  - patchType: ApplyConfiguration
    applyConfiguration: {expression: 'Object{metadata: Object.metadata{labels: {"by": params.metadata.name}}}'}
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicyBinding
metadata: {name: foreign.example.com}
spec:
  policyName: foreign.example.com
  paramRef: {name: most, namespace: default, parameterNotFoundAction: Deny}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: unknown.example.com}
spec:
  paramKind: {apiVersion: nowhere.example.com/v1, kind: Limit}
  matchConstraints:
    resourceRules: [{apiGroups: [apps], apiVersions: [v1], resources: [deployments], operations: [CREATE]}]
  validations: [{expression: 'object.spec.replicas <= params.spec.most'}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: unknown.example.com}
spec:
  policyName: unknown.example.com
  validationActions: [Deny]
  paramRef: {name: most, namespace: default, parameterNotFoundAction: Deny}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: closed.example.com}
spec:
  failurePolicy: Fail
  paramKind: {apiVersion: v1, kind: ConfigMap}
  matchConstraints:
    namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: CLOSED}}
    resourceRules: [{apiGroups: [batch.leat.dev], apiVersions: [v1alpha1], resources: [tasks], operations: [CREATE]}]
  validations: [{expression: '!has(object.spec.priority) || object.spec.priority <= int(params.data["most"])', message: more than most}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: closed.example.com}
spec:
  policyName: closed.example.com
  validationActions: [Deny]
  paramRef: {name: most, namespace: default, parameterNotFoundAction: Deny}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: open.example.com}
spec:
  failurePolicy: Ignore
  paramKind: {apiVersion: v1, kind: ConfigMap}
  matchConstraints:
    namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: OPEN}}
    resourceRules: [{apiGroups: [batch.leat.dev], apiVersions: [v1alpha1], resources: [tasks], operations: [CREATE]}]
  validations: [{expression: '!has(object.spec.priority) || object.spec.priority <= int(params.data["most"])', message: more than most}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: open.example.com}
spec:
  policyName: open.example.com
  validationActions: [Deny]
  paramRef: {name: most, namespace: default, parameterNotFoundAction: Deny}
`

// testForeignPolicy checks that policies with parameters that the server may not read do not make it unready, now or
// after a restart. The requests that they match are handled by their failurePolicy.
func testForeignPolicy(t *testing.T, e *kit.Env) {
	ctx := t.Context()
	closed, open := newNamespace(t, e, "policy-fails-closed"), newNamespace(t, e, "policy-fails-open")
	file := filepath.Join(t.TempDir(), "policy.yaml")
	kit.Check(t, pki.WriteFile(file, []byte(strings.NewReplacer("CLOSED", closed, "OPEN", open).Replace(foreignPolicies))))
	kit.Check(t, e.Host.Apply(ctx, file))
	defer func() {
		_, _, err := e.Host.Kubectl(ctx, e.Host.AdminKubeconfig, "delete", "--filename", file)
		kit.Check(t, err)
	}()
	admin := kit.Client(t, e.Admin(t)).BatchV1alpha1()
	urgent := kit.NewTask("urgent")
	urgent.Spec.Priority = 101
	create := func(ctx context.Context, namespace string) error {
		_, err := admin.Tasks(namespace).Create(ctx, urgent, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return err
	}
	for _, when := range []string{"now", "after-a-restart"} {
		t.Run(when, func(t *testing.T) {
			if when != "now" {
				kit.Check(t, e.Server.Restart(ctx))
			}
			kit.Eventually(t, "the log names the parameters that the server may not list", func(context.Context) error {
				log := string(kit.Must(os.ReadFile(e.Server.LogFile()))(t))
				log = log[strings.LastIndex(log, "Serving securely"):]
				for _, resource := range []string{"configmaps", "secrets"} {
					if !strings.Contains(log, `cannot list resource \"`+resource+`\"`) {
						return fmt.Errorf("the log has no failure to list %s", resource)
					}
				}
				return nil
			})
			if got := kit.Do(t, e.Anonymous(t), http.MethodGet, "/readyz?verbose", ""); got.Code != http.StatusOK {
				t.Errorf("GET /readyz: got %s, want 200", got)
			}
			kit.Must(admin.Tasks(e.Namespace(t)).Create(ctx, kit.NewTask(when), metav1.CreateOptions{}))(t)
			kit.Eventually(t, "the policy that fails closed denies a create", func(ctx context.Context) error {
				err := create(ctx, closed)
				if err == nil || !strings.Contains(err.Error(), "closed.example.com") || !strings.Contains(err.Error(), "not yet synced") {
					return fmt.Errorf("create: got error %v, want one that the policy is not yet synced", err)
				}
				return nil
			})
			if err := create(ctx, open); err != nil {
				t.Errorf("create under the policy that fails open: got error %v, want none", err)
			}
		})
	}

	t.Run("readable", func(t *testing.T) {
		host := e.HostClient(t)
		kit.Must(host.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "most"}, Data: map[string]string{"most": "100"}}, metav1.CreateOptions{}))(t)
		defer func() {
			_, _, err := e.Host.Kubectl(ctx, e.Host.AdminKubeconfig, "delete", "clusterrole/leat-policy-parameters", "clusterrolebinding/leat-policy-parameters")
			kit.Check(t, errors.Join(err, host.CoreV1().ConfigMaps("default").Delete(ctx, "most", metav1.DeleteOptions{})))
		}()
		_, _, err := e.Host.Kubectl(ctx, e.Host.AdminKubeconfig, "create", "clusterrole", "leat-policy-parameters", "--verb=list,watch", "--resource=configmaps")
		kit.Check(t, err)
		_, _, err = e.Host.Kubectl(ctx, e.Host.AdminKubeconfig, "create", "clusterrolebinding", "leat-policy-parameters",
			"--clusterrole=leat-policy-parameters", "--serviceaccount=leat-system:leat-apiserver")
		kit.Check(t, err)
		for _, namespace := range []string{closed, open} {
			kit.Eventually(t, "the policy uses its parameters", func(ctx context.Context) error {
				if err := create(ctx, namespace); err == nil || !strings.Contains(err.Error(), "more than most") {
					return fmt.Errorf("create: got error %v, want more than most", err)
				}
				return nil
			})
		}
	})
}
