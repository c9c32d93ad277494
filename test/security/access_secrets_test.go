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

package security

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/rest"

	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/standalone/pki"
	"github.com/leat-dev/leat/test/kit"
)

// auditEverything is an audit policy that records all requests with their bodies.
const auditEverything = "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n- level: RequestResponse\n"

// verbosity is the highest level at which client-go does not log bodies, which are whole tasks. Our server logs no
// bodies at any level, except for those that it sends to the host, without the tokens in them.
const verbosity = "--v=7"

// testSecrets checks that no secret is in any log, even at the highest verbosity of the server.
func testSecrets(t *testing.T, e *kit.Env) {
	ctx := t.Context()
	namespace := e.Namespace(t)
	dir := t.TempDir()
	policy, audit := filepath.Join(dir, "policy.yaml"), filepath.Join(dir, "audit.log")
	kit.Check(t, pki.WriteFile(policy, []byte(auditEverything)))
	registerWebhook(t, e, namespace)
	server := e.Replica(t, "--v=10", "--audit-policy-file="+policy, "--audit-log-path="+audit)
	manager := server.StartManager(t, "verbose", "--leader-elect=false", verbosity)
	worker := server.StartWorker(t, server.Worker(t, namespace, "one"), namespace, "one", []string{"MARK=marked-in-the-environment-of-the-worker"},
		verbosity, "--state-dir="+t.TempDir(), "--client-ca-file="+e.Host.ClientCAFile)

	// Each field has a marker of its own, so that a marker in a log identifies its source.
	admin := kit.Client(t, server.Direct(t, "alice", "leat:admins")).BatchV1alpha1().Tasks(namespace)
	one := newTask("one")
	one.Spec = v1alpha1.TaskSpec{
		Command: []string{"sh", "-c", "echo marked-in-the-$(echo output); echo $MARK; : marked-in-the-command"},
		Args:    []string{"marked-in-an-argument"},
		Env:     []v1alpha1.EnvVar{{Name: "PASSWORD", Value: "marked-in-env"}},
	}
	kit.Must(admin.Create(ctx, one, metav1.CreateOptions{}))(t)
	kit.Eventually(t, "the task has succeeded", func(ctx context.Context) error {
		task, err := admin.Get(ctx, "one", metav1.GetOptions{})
		if err != nil || task.Status.Phase == v1alpha1.TaskSucceeded {
			return err
		}
		return fmt.Errorf("got phase %s", task.Status.Phase)
	})
	kit.Must(admin.Patch(ctx, "one", types.MergePatchType, []byte(`{"metadata":{"annotations":{"secret":"marked-in-a-patch"}}}`), metav1.PatchOptions{}))(t)
	_, err := admin.Patch(ctx, "one", types.MergePatchType, []byte(`{"spec":{"env":[{"name":"A","value":"marked-in-a-patch-that-is-refused"}]}}`), metav1.PatchOptions{})
	if err == nil {
		t.Error("the environment of a finished task was changed")
	}
	_, err = admin.Patch(ctx, "one", types.MergePatchType, []byte(`{"spec":{"env":"marked-in-a-patch-that-is-none"}}`), metav1.PatchOptions{})
	if err == nil {
		t.Error("a string was accepted as an environment")
	}
	alice := server.Direct(t, "alice", "leat:admins")
	if got := post(t, alice, tasksPath(namespace), `{"metadata":{"name":"a"},"spec":{"command":["true"],"unknown":"marked-in-a-field-that-is-unknown"}}`); got.code != http.StatusCreated {
		t.Errorf("unknown field: got %s, want 201", got)
	}
	post(t, alice, tasksPath(namespace), `{"spec": marked-in-a-body-that-is-broken`)

	account := rbacv1.Subject{Kind: "ServiceAccount", Namespace: namespace, Name: "default"}
	e.BindClusterRole(t, namespace, "account", "leat:view", account)
	var token string
	kit.Eventually(t, "the service account exists", func(ctx context.Context) (err error) {
		token, err = e.Host.ServiceAccountToken(ctx, namespace, "default", authenticationv1.TokenRequestSpec{})
		return err
	})
	bearing := rest.AnonymousClientConfig(server.Direct(t, "x"))
	bearing.BearerToken = token
	kit.Eventually(t, "the token is accepted", func(context.Context) error {
		if got := ask(t, bearing, "GET", tasksPath(namespace)+"/one"); got.code != http.StatusOK {
			return errors.New(got.String())
		}
		return nil
	})
	for _, credential := range []string{"Bearer marked-token", "Basic " + base64.StdEncoding.EncodeToString([]byte("marked:password")), "Bearer " + token + "marked-end"} {
		anonymous := rest.AnonymousClientConfig(bearing)
		if got := ask(t, anonymous, "GET", tasksPath(namespace), "Authorization: "+credential); got.code != http.StatusUnauthorized && got.code != http.StatusForbidden {
			t.Errorf("invalid credentials: got %s, want 401 or 403", got)
		}
	}
	ask(t, bearing, "GET", tasksPath(namespace), "Cookie: session=marked-in-a-cookie", "X-Api-Key: marked-in-a-header")
	kit.Check(t, server.Server.Kill())

	_, signature, _ := strings.Cut(token, ".") // the header is the same in all tokens
	markers := map[string]string{
		"a token":                  signature[:40],
		"the end of a token":       token[len(token)-40:],
		"an invalid token":         "marked-token",
		"a password":               base64.StdEncoding.EncodeToString([]byte("marked:password")),
		"a cookie":                 "marked-in-a-cookie",
		"a header":                 "marked-in-a-header",
		"the worker's environment": "marked-in-the-environment-of-the-worker",
		"output":                   "marked-in-the-output",
		"a key":                    "PRIVATE KEY",
		"the serving key":          keyLine(t, e.ServingKeyFile),
		"env":                      "marked-in-env",
		"a command":                "marked-in-the-command",
		"an argument":              "marked-in-an-argument",
		"a patch":                  "marked-in-a-patch",
		"a patch that is refused":  "marked-in-a-patch-that-is-refused",
		"a patch that is none":     "marked-in-a-patch-that-is-none",
		"a field that is unknown":  "marked-in-a-field-that-is-unknown",
		"a body that is broken":    "marked-in-a-body-that-is-broken",
	}
	if info := kit.Must(os.Stat(audit))(t); info.Mode().Perm() != 0o600 {
		t.Errorf("the audit log has mode %s, want 0600", info.Mode())
	}
	// With this policy, the audit log has all bodies.
	bodies := sets.New("env", "a command", "an argument", "a patch", "a patch that is refused", "a patch that is none")
	for name, file := range map[string]string{"the server": server.Server.LogFile(), "the manager": manager.LogFile(), "the worker": worker.LogFile(), "the audit log": audit} {
		log := undumped(kit.Must(os.ReadFile(file))(t))
		if name == "the server" && !(bytes.Contains(log, []byte(`"token":"…"`)) && bytes.Contains(log, []byte(`{"kind":"AdmissionReview",…}`))) {
			t.Error("the server logs no requests to the host and to webhooks: is its verbosity 10?")
		}
		for what, marker := range markers {
			at := bytes.Index(log, []byte(marker))
			switch {
			case name == "the audit log" && bodies.Has(what):
				if at < 0 {
					t.Errorf("%s lacks %s", name, what)
				}
			case at >= 0:
				t.Errorf("%s has %s: %q", name, what, log[max(0, at-300):min(len(log), at+100)])
			}
		}
	}
}

// registerWebhook makes our server call a webhook for each write in the namespace. Nothing serves the webhook, and its
// failures are ignored.
func registerWebhook(t *testing.T, e *kit.Env, namespace string) {
	t.Helper()
	kit.Must(e.HostClient(t).AdmissionregistrationV1().ValidatingWebhookConfigurations().Create(t.Context(), &admissionregistrationv1.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "nobody"},
		Webhooks: []admissionregistrationv1.ValidatingWebhook{{
			Name:                    "nobody.example.com",
			ClientConfig:            admissionregistrationv1.WebhookClientConfig{URL: new("https://127.0.0.1:1/")},
			FailurePolicy:           new(admissionregistrationv1.Ignore),
			SideEffects:             new(admissionregistrationv1.SideEffectClassNone),
			AdmissionReviewVersions: []string{"v1"},
			NamespaceSelector:       &metav1.LabelSelector{MatchLabels: map[string]string{"kubernetes.io/metadata.name": namespace}},
			Rules: []admissionregistrationv1.RuleWithOperations{{
				Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.OperationAll},
				Rule:       admissionregistrationv1.Rule{APIGroups: []string{"batch.leat.dev"}, APIVersions: []string{"*"}, Resources: []string{"*/*"}},
			}},
		}},
	}, metav1.CreateOptions{}))(t)
}

// dumped matches a line of a hexadecimal dump of a body. Its group is the readable text.
var dumped = regexp.MustCompile(`(?m)^\t?[0-9a-f]{8}  [0-9a-f ]{49} \|(.*)\|\n`)

// undumped returns the log with each dumped body as continuous text.
func undumped(log []byte) []byte { return dumped.ReplaceAll(log, []byte("$1")) }

// keyLine returns a line from the middle of a key file.
func keyLine(t *testing.T, file string) string {
	t.Helper()
	lines := strings.Split(string(kit.Must(os.ReadFile(file))(t)), "\n")
	return lines[len(lines)/2]
}
