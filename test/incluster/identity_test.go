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
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/leat-dev/leat/pkg/standalone/pki"
	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/await"
	"github.com/leat-dev/leat/test/kit/certificates"
)

// forged has identity headers of a client that pretends to be alice, in spellings that a careless server might accept.
var forged = map[string][]string{
	"user":         {"X-Remote-User", "alice"},
	"group":        {"X-Remote-Group", "leat:admins", "X-Remote-Group", "system:masters"},
	"all of them":  {"X-Remote-User", "alice", "X-Remote-Group", "leat:admins", "X-Remote-Uid", "forged-uid", "X-Remote-Extra-Key", "forged-extra"},
	"lower case":   {"x-remote-user", "alice", "x-remote-group", "leat:admins", "x-remote-uid", "forged-uid", "x-remote-extra-key", "forged-extra"},
	"underscores":  {"X_Remote_User", "alice", "X_Remote_Group", "leat:admins"},
	"two users":    {"X-Remote-User", "alice", "X-Remote-User", "someone", "X-Remote-Group", "leat:admins"},
	"masters":      {"X-Remote-User", "alice", "X-Remote-Group", "system:masters"},
	"a worker":     {"X-Remote-User", "leat:worker:default:worker", "X-Remote-Group", "leat:workers"},
	"other models": {"X-Forwarded-User", "alice", "X-Remote-Name", "alice", "Remote-User", "alice", "X-Forwarded-Groups", "leat:admins"},
}

// testIdentity checks that the server believes identity headers only from the aggregator, whatever certificate and
// headers a client sends.
func testIdentity(t *testing.T, i *replicated) {
	namespace := i.Namespace(t)
	denyWithIdentity(t, i, namespace)
	path := tasksPath(namespace)
	allow(t, i, namespace, "someone", routes(t, i, "someone"))
	second := i.replicas[1]
	task := `{"apiVersion":"batch.leat.dev/v1alpha1","kind":"Task","metadata":{"name":"who"},"spec":{"command":["true"]}}`
	all := forged["all of them"]

	foreign := kit.Must(pki.NewCA("leat-worker-client-tls-ca"))(t)
	for what, credential := range map[string]struct {
		cert, key []byte
		err       error
		want      string
	}{
		"no certificate":                                 {want: "403 system:anonymous"},
		"certificate of the host's client CA":            credentialOf(i.Host.ClientCA.IssueClient("someone"))("someone"),
		"certificate of a worker":                        credentialOf(i.Host.ClientCA.IssueClient("leat:worker:"+namespace+":w", "leat:workers"))("403 leat:worker:" + namespace + ":w"),
		"the aggregator's name, signed by the client CA": credentialOf(i.Host.ClientCA.IssueClient("front-proxy-client"))("403 front-proxy-client"),
		"another name, signed by the front-proxy CA":     credentialOf(i.Host.FrontProxyCA.IssueClient("kubelet"))("401"),
		"certificate of the worker client CA":            credentialOf(foreign.IssueClient("batch.leat.dev:worker-client", "leat:admins"))("401"),
		"the aggregator's name, self-signed":             credentialOf(certificates.SelfSigned("front-proxy-client"))("401"),
		"expired certificate of the aggregator":          credentialOf(certificates.Expired(i.Host.FrontProxyCA, "front-proxy-client"))("401"),
		"expired client certificate":                     credentialOf(certificates.Expired(i.Host.ClientCA, "someone"))("401"),
		"serving certificate of the client CA":           credentialOf(i.Host.ClientCA.IssueServer("someone"))("401"),
		"serving certificate of the front-proxy CA":      credentialOf(i.Host.FrontProxyCA.IssueServer("front-proxy-client"))("401"),
	} {
		kit.Check(t, credential.err)
		t.Run(what, func(t *testing.T) {
			config := withCertificate(second.Anonymous(t), credential.cert, credential.key)
			for headers, claim := range forged {
				if got := identityOf(kit.Do(t, config, http.MethodPost, path, task, claim...)); got.name != credential.want || got.forged() {
					t.Errorf("headers %s: got identity %+v, want %q", headers, got, credential.want)
				}
			}
		})
	}

	t.Run("the aggregator's own certificate", func(t *testing.T) {
		cert, key, err := i.Host.FrontProxyCA.IssueClient("front-proxy-client")
		kit.Check(t, err)
		got := identityOf(kit.Do(t, withCertificate(second.Anonymous(t), cert, key), http.MethodPost, path, task, all...))
		if got.name != "alice" || !strings.Contains(got.rest, "leat:admins") || !strings.Contains(got.rest, "uid=forged-uid") || !strings.Contains(got.rest, "key=forged-extra") {
			t.Errorf("got identity %+v, want alice with the forged groups, UID and extra", got)
		}
	})

	t.Run("the aggregator drops identity headers of clients", func(t *testing.T) {
		for headers, claim := range forged {
			if got := identityOf(kit.Do(t, i.Person(t, "someone"), http.MethodPost, path, task, claim...)); got.name != "someone" || got.forged() {
				t.Errorf("headers %s: got identity %+v, want someone", headers, got)
			}
		}
	})

	t.Run("impersonation needs a grant", func(t *testing.T) {
		act := []string{"Impersonate-User", "alice", "Impersonate-Group", "leat:admins"}
		for where, config := range map[string]*rest.Config{"at the server": second.Direct(t, "someone"), "through the aggregator": i.Person(t, "someone")} {
			if got := kit.Do(t, config, http.MethodPost, path, task, act...); got.Code != http.StatusForbidden || !strings.Contains(got.Body, "impersonate") {
				t.Errorf("%s: got %s, want 403 that names the verb impersonate", where, got)
			}
		}
		allowImpersonation(t, i, "deputy")
		for where, config := range map[string]*rest.Config{"at the server": second.Direct(t, "deputy"), "through the aggregator": i.Person(t, "deputy")} {
			kit.Eventually(t, "the deputy may impersonate alice "+where, func(ctx context.Context) error {
				got, err := kit.TryDo(ctx, config, http.MethodPost, path, task, act...)
				if err != nil {
					return err
				}
				if identity := identityOf(got); identity.name != "alice" || !strings.Contains(identity.rest, "leat:admins") {
					return fmt.Errorf("got identity %+v, want alice of leat:admins", identity)
				}
				return nil
			})
			// Impersonating another group is denied, and forged headers are not part of the impersonated identity.
			if got := kit.Do(t, config, http.MethodPost, path, task, append([]string{"Impersonate-Group", "system:masters"}, act...)...); got.Code != http.StatusForbidden || !strings.Contains(got.Body, "impersonate") {
				t.Errorf("%s, impersonating system:masters: got %s, want 403", where, got)
			}
			got := identityOf(kit.Do(t, config, http.MethodPost, path, task, append([]string{"Impersonate-User", "alice"}, forged["group"]...)...))
			if got.name != "403 alice" || got.forged() {
				t.Errorf("%s, impersonating alice without groups: got identity %+v, want 403 alice", where, got)
			}
		}
	})
}

// identity is the identity that the server took a client for: the user name, and its groups, UID and extra. If the
// request was denied before admission, name is the status code and the user name.
type identity struct{ name, rest string }

// forged reports whether the server believed any forged header.
func (i identity) forged() bool {
	return strings.Contains(i.rest, "leat:admins") || strings.Contains(i.rest, "system:masters") || strings.Contains(i.rest, "forged")
}

// identityPrefix starts the messages of denyWithIdentity.
const identityPrefix = "you are "

// identityOf returns the identity from an answer to a create of a task under the policy of denyWithIdentity.
func identityOf(a kit.Response) identity {
	if _, told, found := strings.Cut(a.Body, identityPrefix); found {
		told, _, _ = strings.Cut(told, `"`)
		name, more, _ := strings.Cut(told, " ")
		return identity{name, more}
	}
	name := fmt.Sprint(a.Code)
	if _, told, found := strings.Cut(a.Body, `User \"`); found {
		told, _, _ = strings.Cut(told, `\"`)
		name += " " + told
	} else if a.Code < 400 {
		return identity{name, "the create succeeded: " + a.Body}
	}
	return identity{name: name}
}

// denyWithIdentity applies a policy that denies creates of tasks in the namespace with the identity of the client.
func denyWithIdentity(t *testing.T, i *replicated, namespace string) {
	t.Helper()
	const manifest = `
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: tell-who}
spec:
  failurePolicy: Fail
  matchConstraints:
    resourceRules:
    - {apiGroups: [batch.leat.dev], apiVersions: ["*"], resources: [tasks], operations: [CREATE]}
  validations:
  - expression: "false"
    messageExpression: >-
      "%[2]s" + request.userInfo.username + " groups=" + request.userInfo.groups.join(",")
      + (has(request.userInfo.uid) ? " uid=" + request.userInfo.uid : "")
      + (has(request.userInfo.extra) ? " " + request.userInfo.extra.map(key, key + "=" + request.userInfo.extra[key].join(",")).join(" ") : "")
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: tell-who}
spec:
  policyName: tell-who
  validationActions: [Deny]
  matchResources: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: %[1]s}}}
`
	apply(t, i, fmt.Sprintf(manifest, namespace, identityPrefix))
	for _, replica := range i.replicas {
		admin := tasksOf(t, replica.Direct(t, "alice", "leat:admins"), namespace)
		kit.Eventually(t, "the policy takes effect", func(ctx context.Context) error {
			_, err := admin.Create(ctx, kit.NewTask("who"), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
			if err == nil || !strings.Contains(err.Error(), identityPrefix+"alice") {
				return fmt.Errorf("create: got error %v, want one with %s", err, identityPrefix+"alice")
			}
			return nil
		})
	}
}

// route is a way of a user to the API, with a certificate of its own. What a server caches of a user, it caches by
// certificate.
type route struct {
	what   string
	config *rest.Config
}

func routes(t *testing.T, i *replicated, user string) []route {
	t.Helper()
	return []route{
		{"through the aggregator", i.Person(t, user)},
		{"at the first replica", i.replicas[0].Direct(t, user)},
		{"at the second replica", i.replicas[1].Direct(t, user)},
	}
}

// allow grants a user the role leat:edit in the namespace, and waits until it takes effect on all routes.
func allow(t *testing.T, i *replicated, namespace, user string, routes []route) {
	t.Helper()
	kit.Must(i.Env.HostClient(t).RbacV1().RoleBindings(namespace).Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: user},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "leat:edit"},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user}},
	}, metav1.CreateOptions{}))(t)
	for _, route := range routes {
		client := tasksOf(t, route.config, namespace)
		kit.Eventually(t, user+" may list tasks "+route.what, func(ctx context.Context) error {
			_, err := client.List(ctx, metav1.ListOptions{})
			return err
		})
	}
}

// allowImpersonation grants a user to impersonate alice of the group leat:admins.
func allowImpersonation(t *testing.T, i *replicated, user string) {
	t.Helper()
	roles := i.Env.HostClient(t).RbacV1()
	kit.Must(roles.ClusterRoles().Create(t.Context(), &rbacv1.ClusterRole{
		ObjectMeta: metav1.ObjectMeta{Name: user},
		Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{""}, Resources: []string{"users"}, Verbs: []string{"impersonate"}, ResourceNames: []string{"alice"}},
			{APIGroups: []string{""}, Resources: []string{"groups"}, Verbs: []string{"impersonate"}, ResourceNames: []string{"leat:admins"}},
		},
	}, metav1.CreateOptions{}))(t)
	kit.Must(roles.ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: user},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: user},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user}},
	}, metav1.CreateOptions{}))(t)
}

// testRevocation checks that a revoked grant has no effect after the ten seconds that servers cache reviews, on all
// routes.
func testRevocation(t *testing.T, i *replicated) {
	const cached, margin = 10 * time.Second, 5 * time.Second
	namespace := i.Namespace(t)
	routes := routes(t, i, "leaver")
	allow(t, i, namespace, "leaver", routes)
	kit.Check(t, i.Env.HostClient(t).RbacV1().RoleBindings(namespace).Delete(t.Context(), "leaver", metav1.DeleteOptions{}))
	deleted := time.Now()
	for _, route := range routes {
		client := tasksOf(t, route.config, namespace)
		err := await.Until(t.Context(), cached+margin-time.Since(deleted), func(ctx context.Context) error {
			if _, err := client.List(ctx, metav1.ListOptions{}); err == nil {
				return errors.New("a list succeeds")
			} else if err := kit.Refused(err, metav1.StatusReasonForbidden); err != nil {
				t.Fatal(err)
			}
			return nil
		})
		if err != nil {
			t.Fatalf("the grant has an effect %s after %s: %v", route.what, time.Since(deleted).Round(100*time.Millisecond), err)
		}
		t.Logf("denied %s after %s", route.what, time.Since(deleted).Round(100*time.Millisecond))
	}
}

// credential is a certificate and the identity that the server must see.
type credential = struct {
	cert, key []byte
	err       error
	want      string
}

// credentialOf returns a function that adds the wanted identity to a certificate. Its arguments are the results of a
// CA.
func credentialOf(cert, key []byte, err error) func(want string) credential {
	return func(want string) credential { return credential{cert, key, err, want} }
}

// apply applies a manifest as the host's administrator.
func apply(t *testing.T, i *replicated, manifest string) {
	t.Helper()
	_, _, err := i.Kubectl(t, i.Host.AdminKubeconfig, manifest, "apply", "--filename=-")
	kit.Check(t, err)
}
