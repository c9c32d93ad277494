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

	"github.com/leat-dev/leat/test/kit"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/leat-dev/leat/pkg/standalone/pki"
	"github.com/leat-dev/leat/test/kit/await"
	"github.com/leat-dev/leat/test/kit/certificates"
)

// forged are the identity headers of somebody who wants to be alice, in the spellings that a careless server might take.
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

// testIdentity: nobody is taken for another but by the aggregator's word, whatever certificate and headers he shows.
func testIdentity(t *testing.T, i *replicated) {
	namespace := i.Namespace(t)
	tellWho(t, i, namespace)
	path := tasksPath(namespace)
	allow(t, i, namespace, "someone", ways(t, i, "someone"))
	second := i.replicas[1]
	task := `{"apiVersion":"batch.leat.dev/v1alpha1","kind":"Task","metadata":{"name":"who"},"spec":{"command":["true"]}}`
	all := forged["all of them"]

	foreign := kit.Must(pki.NewCA("leat-worker-client-tls-ca"))(t)
	for what, sender := range map[string]struct {
		cert, key []byte
		err       error
		want      string
	}{
		"nothing":                                               {want: "403 system:anonymous"},
		"a certificate of the host's authority":                 senderOf(i.Host.ClientCA.IssueClient("someone"))("someone"),
		"a worker's certificate":                                senderOf(i.Host.ClientCA.IssueClient("leat:worker:"+namespace+":w", "leat:workers"))("403 leat:worker:" + namespace + ":w"),
		"the aggregator's name of another authority":            senderOf(i.Host.ClientCA.IssueClient("front-proxy-client"))("403 front-proxy-client"),
		"a name that the aggregator does not have":              senderOf(i.Host.FrontProxyCA.IssueClient("kubelet"))("401"),
		"a certificate of an authority of ours":                 senderOf(foreign.IssueClient("batch.leat.dev:worker-client", "leat:admins"))("401"),
		"the aggregator's name, signed by itself":               senderOf(certificates.SelfSigned("front-proxy-client"))("401"),
		"an aggregator's certificate that has ended":            senderOf(certificates.Expired(i.Host.FrontProxyCA, "front-proxy-client"))("401"),
		"a person's certificate that has ended":                 senderOf(certificates.Expired(i.Host.ClientCA, "someone"))("401"),
		"a server's certificate":                                senderOf(i.Host.ClientCA.IssueServer("someone"))("401"),
		"a server's certificate, of the aggregator's authority": senderOf(i.Host.FrontProxyCA.IssueServer("front-proxy-client"))("401"),
	} {
		kit.Check(t, sender.err)
		t.Run(what, func(t *testing.T) {
			config := showing(anonymous(t, second), sender.cert, sender.key)
			for headers, claim := range forged {
				if got := who(ask(t, config, http.MethodPost, path, task, claim...)); got.name != sender.want || got.gained() {
					t.Errorf("claiming by %s, it counts as %+v, want %q", headers, got, sender.want)
				}
			}
		})
	}

	t.Run("the aggregator's own certificate", func(t *testing.T) {
		cert, key, err := i.Host.FrontProxyCA.IssueClient("front-proxy-client")
		kit.Check(t, err)
		got := who(ask(t, showing(anonymous(t, second), cert, key), http.MethodPost, path, task, all...))
		if got.name != "alice" || !strings.Contains(got.rest, "leat:admins") || !strings.Contains(got.rest, "uid=forged-uid") || !strings.Contains(got.rest, "key=forged-extra") {
			t.Errorf("it speaks for alice, and counts as %+v", got)
		}
	})

	t.Run("headers of a person do not pass the aggregator", func(t *testing.T) {
		for headers, claim := range forged {
			if got := who(ask(t, i.Person(t, "someone"), http.MethodPost, path, task, claim...)); got.name != "someone" || got.gained() {
				t.Errorf("claiming by %s, someone counts as %+v", headers, got)
			}
		}
	})

	t.Run("impersonation is for who is granted it", func(t *testing.T) {
		act := []string{"Impersonate-User", "alice", "Impersonate-Group", "leat:admins"}
		for where, config := range map[string]*rest.Config{"at the server": second.Direct(t, "someone"), "through the aggregator": i.Person(t, "someone")} {
			if got := ask(t, config, http.MethodPost, path, task, act...); got.code != http.StatusForbidden || !strings.Contains(got.body, "impersonate") {
				t.Errorf("%s it answers %s", where, got)
			}
		}
		allowImpersonation(t, i, "deputy")
		for where, config := range map[string]*rest.Config{"at the server": second.Direct(t, "deputy"), "through the aggregator": i.Person(t, "deputy")} {
			kit.Eventually(t, "the deputy may act as alice "+where, func(ctx context.Context) error {
				got, err := try(ctx, config, http.MethodPost, path, task, act...)
				if err != nil {
					return err
				}
				if identity := who(got); identity.name != "alice" || !strings.Contains(identity.rest, "leat:admins") {
					return fmt.Errorf("it counts as %+v", identity)
				}
				return nil
			})
			// Of a group that was not granted nothing comes, and forged headers do not become what is impersonated.
			if got := ask(t, config, http.MethodPost, path, task, append([]string{"Impersonate-Group", "system:masters"}, act...)...); got.code != http.StatusForbidden || !strings.Contains(got.body, "impersonate") {
				t.Errorf("%s, as one of system:masters, it answers %s", where, got)
			}
			got := who(ask(t, config, http.MethodPost, path, task, append([]string{"Impersonate-User", "alice"}, forged["group"]...)...))
			if got.name != "403 alice" || got.gained() {
				t.Errorf("%s, as alice without groups, it counts as %+v", where, got)
			}
		}
	})
}

// identity is who the server took somebody for: a name, and what else belongs to it. The name of who was refused is preceded by the status.
type identity struct{ name, rest string }

// gained tells whether anything of what was forged counts.
func (i identity) gained() bool {
	return strings.Contains(i.rest, "leat:admins") || strings.Contains(i.rest, "system:masters") || strings.Contains(i.rest, "forged")
}

const tell = "you are "

// who reads an answer to a create in a namespace that tellWho was called for.
func who(a answer) identity {
	if _, told, found := strings.Cut(a.body, tell); found {
		told, _, _ = strings.Cut(told, `"`)
		name, more, _ := strings.Cut(told, " ")
		return identity{name, more}
	}
	name := fmt.Sprint(a.code)
	if _, told, found := strings.Cut(a.body, `User \"`); found {
		told, _, _ = strings.Cut(told, `\"`)
		name += " " + told
	} else if a.code < 400 {
		return identity{name, "and nothing forged was refused: " + a.body}
	}
	return identity{name: name}
}

// tellWho has each create of a task in the namespace refused with who it is that asks, by a policy of the host's.
func tellWho(t *testing.T, i *replicated, namespace string) {
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
	apply(t, i, fmt.Sprintf(manifest, namespace, tell))
	for _, replica := range i.replicas {
		admin := tasksOf(t, replica.Direct(t, "alice", "leat:admins"), namespace)
		kit.Eventually(t, "the policy is in force", func(ctx context.Context) error {
			_, err := admin.Create(ctx, newTask("who"), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
			if err == nil || !strings.Contains(err.Error(), tell+"alice") {
				return fmt.Errorf("a create is answered: %v", err)
			}
			return nil
		})
	}
}

// way is how somebody reaches our API. What a server remembers of him it remembers by his certificate.
type way struct {
	what   string
	config *rest.Config
}

func ways(t *testing.T, i *replicated, user string) []way {
	t.Helper()
	return []way{
		{"through the aggregator", i.Person(t, user)},
		{"at the first replica", i.replicas[0].Direct(t, user)},
		{"at the second replica", i.replicas[1].Direct(t, user)},
	}
}

// allow has somebody edit tasks of the namespace, whichever way he comes.
func allow(t *testing.T, i *replicated, namespace, user string, ways []way) {
	t.Helper()
	kit.Must(hostAdmin(t, i.Env).RbacV1().RoleBindings(namespace).Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: user},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "leat:edit"},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user}},
	}, metav1.CreateOptions{}))(t)
	for _, way := range ways {
		client := tasksOf(t, way.config, namespace)
		kit.Eventually(t, user+" may list tasks "+way.what, func(ctx context.Context) error {
			_, err := client.List(ctx, metav1.ListOptions{})
			return err
		})
	}
}

// allowImpersonation has somebody act as alice of the administrators.
func allowImpersonation(t *testing.T, i *replicated, user string) {
	t.Helper()
	roles := hostAdmin(t, i.Env).RbacV1()
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

// testRevocation: a server may remember that someone was allowed for ten seconds, and for no longer, whichever way he comes.
func testRevocation(t *testing.T, i *replicated) {
	const cached, margin = 10 * time.Second, 5 * time.Second
	namespace := i.Namespace(t)
	ways := ways(t, i, "leaver")
	allow(t, i, namespace, "leaver", ways)
	kit.Check(t, hostAdmin(t, i.Env).RbacV1().RoleBindings(namespace).Delete(t.Context(), "leaver", metav1.DeleteOptions{}))
	deleted := time.Now()
	for _, way := range ways {
		client := tasksOf(t, way.config, namespace)
		err := await.Until(t.Context(), cached+margin-time.Since(deleted), func(ctx context.Context) error {
			if _, err := client.List(ctx, metav1.ListOptions{}); err == nil {
				return errors.New("tasks are listed still")
			} else if err := checkReason(err, metav1.StatusReasonForbidden); err != nil {
				t.Fatal(err)
			}
			return nil
		})
		if err != nil {
			t.Fatalf("the grant is not revoked %s after %s: %v", way.what, time.Since(deleted).Round(100*time.Millisecond), err)
		}
		t.Logf("Refused %s after %s.", way.what, time.Since(deleted).Round(100*time.Millisecond))
	}
}

type sender = struct {
	cert, key []byte
	err       error
	want      string
}

// senderOf takes what an authority gives, for who shows it to count as what is wanted.
func senderOf(cert, key []byte, err error) func(want string) sender {
	return func(want string) sender { return sender{cert, key, err, want} }
}

// apply applies a manifest as the host's administrator.
func apply(t *testing.T, i *replicated, manifest string) {
	t.Helper()
	_, _, err := i.Kubectl(t, i.Host.AdminKubeconfig, manifest, "apply", "--filename=-")
	kit.Check(t, err)
}
