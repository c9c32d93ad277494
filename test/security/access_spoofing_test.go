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
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/apiserver/authentication/pod"
	"github.com/leat-dev/leat/pkg/standalone/pki"
	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/certificates"
)

// What a request shows comes in these kinds, which the headers of claims mean different things to.
const (
	// known is whoever has an identity of his own and no right to act as others.
	known = iota
	// deputy may act as alice, with all that is claimed of her below.
	deputy
	// aggregator speaks for others.
	aggregator
	// refused shows what nobody believes.
	refused
)

// senders are what somebody can show. Who that is, without any headers, follows: a name, groups and what else there is, or a status;
// where no policy tells, why he is refused and his name. The two ports differ in nothing.
func senders(t *testing.T, e *kit.Env, namespace string) []sender {
	admin := hostAdmin(t, e)
	workerClients := kit.Must(pki.NewCA("leat-worker-clients"))(t)
	strangers := kit.Must(pki.NewCA("host-client-ca"))(t) // of the same name, and not it
	account := kit.Must(admin.CoreV1().ServiceAccounts(namespace).Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "pool"}}, metav1.CreateOptions{}))(t)
	token := func(audience string, bound *authenticationv1.BoundObjectReference) credential {
		return func(config *rest.Config) error {
			token, err := tokenOf(t.Context(), admin, namespace, "pool", audience, bound)
			config.BearerToken = token
			return err
		}
	}
	grant(t, e, namespace, "pool", "leat:worker", rbacv1.Subject{Kind: "ServiceAccount", Namespace: namespace, Name: "pool"})
	running := kit.Must(admin.CoreV1().Pods(namespace).Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "pool-1"},
		Spec:       corev1.PodSpec{ServiceAccountName: "pool", Containers: []corev1.Container{{Name: "worker", Image: "worker"}}},
	}, metav1.CreateOptions{}))(t)
	inPod := &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: running.Name}
	client := e.Host.ClientCA
	worker := "leat:worker:" + namespace + ":pool-1"
	someone := "someone [system:authenticated]"
	serviceAccount := "system:serviceaccount:" + namespace + ":pool [system:authenticated system:serviceaccounts system:serviceaccounts:" + namespace + "] uid=" + string(account.UID)

	return []sender{
		{"nothing", known, "system:anonymous [system:unauthenticated]", nothing},
		{"a person's certificate", known, someone, certificate(client.IssueClient("someone"))},
		{"a deputy's certificate", deputy, "deputy [system:authenticated]", certificate(client.IssueClient("deputy"))},
		{"a certificate of groups", known, "someone [one system:authenticated two]", certificate(client.IssueClient("someone", "one", "two"))},
		{"a worker's certificate", known, "403 a worker may not create tasks: " + worker, certificate(client.IssueClient(worker, "leat:workers"))},
		{"a certificate by the aggregator's name", known, "front-proxy-client [system:authenticated]", certificate(client.IssueClient("front-proxy-client"))},
		{"the aggregator's certificate", aggregator, "401", certificate(e.Host.FrontProxyCA.IssueClient("front-proxy-client"))},
		{"another name by the aggregator's authority", refused, "401", certificate(e.Host.FrontProxyCA.IssueClient("kubelet", "system:masters"))},
		{"an expired person's certificate", refused, "401", certificate(certificates.Expired(client, "someone"))},
		{"an expired aggregator's certificate", refused, "401", certificate(certificates.Expired(e.Host.FrontProxyCA, "front-proxy-client"))},
		{"a server's certificate of the clients' authority", refused, "401", certificate(client.IssueServer("someone"))},
		{"an authority of the same name", refused, "401", certificate(strangers.IssueClient("alice", "leat:admins"))},
		{"etcd's authority", refused, "401", certificate(e.Etcd.CA.IssueClient("alice", "leat:admins"))},
		{"the authority of our servers", refused, "401", certificate(e.ServingCA.IssueClient("alice", "leat:admins"))},
		{"the authority that workers know us by", refused, "401", certificate(workerClients.IssueClient(v1alpha1.WorkerClientName))},
		{"an account's token", known, serviceAccount, token("", nil)},
		{"an account's token of a pod", known, serviceAccount + " authentication.kubernetes.io/pod-name=pool-1 authentication.kubernetes.io/pod-uid=" + string(running.UID), token("", inPod)},
		{"an account's token for others", refused, "401", token("https://example.com", nil)},
		{"a worker's token of no pod", refused, "401", token(pod.Audience, nil)},
		{"a token of nobody", refused, "401", bearer("marked")},
		{"a token that is signed by nobody", refused, "401", bearer("eyJhbGciOiJub25lIn0.eyJzdWIiOiJzeXN0ZW06c2VydmljZWFjY291bnQ6a3ViZS1zeXN0ZW06ZGVmYXVsdCJ9.")},
	}
}

// sender is one who shows something.
type sender struct {
	name string
	kind int
	is   string
	credential
}

// counts tells who the sender is taken for with that claim.
func (s sender) counts(c claim) string {
	is, name, found := strings.Cut(s.is, ": ")
	if !found {
		name, _, _ = strings.Cut(s.is, " [")
	}
	switch {
	case s.kind == aggregator:
		return c.aggregator
	case s.kind == deputy && c.deputy != "":
		return c.deputy
	case c.asks && s.kind == known:
		if !slices.ContainsFunc(c.headers, func(header string) bool { return strings.HasPrefix(strings.ToLower(header), "impersonate-user:") }) {
			return "400"
		}
		return "403 " + name
	}
	return is
}

// decisive are the claims that are made over HTTP/2, too: there, headers come to the server another way.
var decisive = []string{
	"nothing", "a user", "groups", "all", "all in capitals", "two users", "a worker",
	"acting as a user", "acting as all of her", "acting as of masters, last", "acting as a group of nobody", "both",
}

// claim is what somebody says of himself.
type claim struct {
	name    string
	headers []string
	// asks tells whether it is impersonation that is asked for.
	asks bool
	// deputy is what the deputy becomes: "" is himself.
	deputy string
	// aggregator is who the aggregator speaks for.
	aggregator string
}

// claims are what somebody says of himself, and who he is then to whom: the deputy, the aggregator. To everyone else forged headers
// mean nothing, and impersonation is refused.
var claims = []claim{
	{name: "nothing", aggregator: "401"},
	{name: "a user", headers: []string{"X-Remote-User: alice"}, aggregator: "alice [system:authenticated]"},
	{name: "groups", headers: []string{"X-Remote-Group: leat:admins", "X-Remote-Group: system:masters"}, aggregator: "401"},
	{
		name:       "all",
		headers:    []string{"X-Remote-User: alice", "X-Remote-Group: leat:admins", "X-Remote-Uid: 7", "X-Remote-Extra-Key: value"},
		aggregator: "alice [leat:admins system:authenticated] uid=7 key=value",
	},
	{
		name:       "all in small letters",
		headers:    []string{"x-remote-user: alice", "x-remote-group: leat:admins", "x-remote-uid: 7", "x-remote-extra-key: value"},
		aggregator: "alice [leat:admins system:authenticated] uid=7 key=value",
	},
	{
		name:       "all in capitals",
		headers:    []string{"X-REMOTE-USER: alice", "X-REMOTE-GROUP: leat:admins", "X-REMOTE-UID: 7", "X-REMOTE-EXTRA-KEY: value"},
		aggregator: "alice [leat:admins system:authenticated] uid=7 key=value",
	},
	{name: "underscores", headers: []string{"X_Remote_User: alice", "X_Remote_Group: leat:admins", "X-Remote_User: alice"}, aggregator: "401"},
	{name: "other products' headers", headers: []string{"X-Forwarded-User: alice", "Remote-User: alice", "X-Remote-Name: alice", "X-Forwarded-Groups: leat:admins"}, aggregator: "401"},
	{name: "two users", headers: []string{"X-Remote-User: alice", "X-Remote-User: bob"}, aggregator: "alice [system:authenticated]"},
	{name: "no user and one", headers: []string{"X-Remote-User:", "X-Remote-User: alice"}, aggregator: "401"},
	{name: "groups twice", headers: []string{"X-Remote-User: alice", "X-Remote-Group: one", "X-Remote-Group: one", "X-Remote-Group: two"}, aggregator: "alice [one one system:authenticated two]"},
	{name: "headers of the connection", headers: []string{"Connection: X-Remote-User, X-Remote-Group, Authorization", "X-Remote-User: alice"}, aggregator: "alice [system:authenticated]"},
	{name: "a worker", headers: []string{"X-Remote-User: leat:worker:default:one", "X-Remote-Group: leat:workers"}, aggregator: `403 worker one may only write to its own namespace "default"`},

	{name: "acting as a user", headers: []string{"Impersonate-User: alice"}, asks: true, deputy: "alice [system:authenticated]", aggregator: "401"},
	{
		name:       "acting as all of her",
		headers:    []string{"Impersonate-User: alice", "Impersonate-Group: leat:admins", "Impersonate-Uid: 7", "Impersonate-Extra-Key: value"},
		asks:       true,
		deputy:     "alice [leat:admins system:authenticated] uid=7 key=value",
		aggregator: "401",
	},
	{name: "acting in small letters", headers: []string{"impersonate-user: alice", "impersonate-group: leat:admins"}, asks: true, deputy: "alice [leat:admins system:authenticated]", aggregator: "401"},
	{name: "acting by underscores", headers: []string{"Impersonate_User: alice", "Impersonate_Group: leat:admins"}, aggregator: "401"},
	{name: "acting as another", headers: []string{"Impersonate-User: bob"}, asks: true, deputy: "403 deputy", aggregator: "401"},
	{name: "acting as of masters", headers: []string{"Impersonate-User: alice", "Impersonate-Group: system:masters"}, asks: true, deputy: "403 deputy", aggregator: "401"},
	{name: "acting as of masters, last", headers: []string{"Impersonate-User: alice", "Impersonate-Group: leat:admins", "Impersonate-Group: system:masters"}, asks: true, deputy: "403 deputy", aggregator: "401"},
	{name: "acting by another UID", headers: []string{"Impersonate-User: alice", "Impersonate-Uid: 8"}, asks: true, deputy: "403 deputy", aggregator: "401"},
	{name: "acting by another extra", headers: []string{"Impersonate-User: alice", "Impersonate-Extra-Key: other"}, asks: true, deputy: "403 deputy", aggregator: "401"},
	{name: "acting as a worker", headers: []string{"Impersonate-User: leat:worker:default:one", "Impersonate-Group: leat:workers"}, asks: true, deputy: "403 deputy", aggregator: "401"},
	{name: "acting as a group of nobody", headers: []string{"Impersonate-Group: leat:admins"}, asks: true, deputy: "400", aggregator: "401"},
	{
		name:       "both",
		headers:    []string{"X-Remote-User: bob", "X-Remote-Group: system:masters", "X-Remote-Uid: 8", "Impersonate-User: alice"},
		asks:       true,
		deputy:     "alice [system:authenticated]",
		aggregator: "alice [system:authenticated]",
	},
	{
		name:       "both, by one who may not",
		headers:    []string{"X-Remote-User: bob", "Impersonate-User: alice"},
		asks:       true,
		deputy:     "alice [system:authenticated]",
		aggregator: "403 bob",
	},
}

// testSpoofing: whoever shows whatever, and says whatever he is, is taken for who he is, on both ports alike.
func testSpoofing(t *testing.T, e *kit.Env) {
	namespace := e.Namespace(t)
	// Everyone gets as far as the policy, which tells him who he is.
	grant(t, e, namespace, "everyone", "leat:edit", group("system:authenticated"), group("system:unauthenticated"))
	role(t, e, "deputy",
		impersonate("", "users", "alice"), impersonate("", "groups", "leat:admins"),
		impersonate("authentication.k8s.io", "uids", "7"), impersonate("authentication.k8s.io", "userextras/key", "value"))
	grant(t, e, "", "deputy", "deputy", user("deputy"))
	tellWho(t, e, namespace)
	all := senders(t, e, namespace)

	for _, port := range ports(e) {
		t.Run(port.name, func(t *testing.T) {
			granted := port.as(t, "deputy")
			kit.Eventually(t, "the grants are known", func(context.Context) error {
				if got := who(post(t, granted, tasksPath(namespace), taskJSON, "Impersonate-User: alice", "Impersonate-Uid: 7", "Impersonate-Extra-Key: value")); got != "alice [system:authenticated] uid=7 key=value" {
					return fmt.Errorf("the deputy counts as %s", got)
				}
				return nil
			})
			for _, sender := range all {
				config := port.anonymous(t)
				kit.Check(t, sender.credential(config))
				older, newer := &persistent{config: config}, http2Client(t, config)
				for _, claim := range claims {
					want := sender.counts(claim)
					if got := who(older.post(t, tasksPath(namespace), taskJSON, claim.headers...)); got != want {
						t.Errorf("%s, claiming %s, counts as %s, want %s", sender.name, claim.name, got, want)
					}
					if !slices.Contains(decisive, claim.name) {
						continue
					}
					if got := who(postHTTP2(t, newer, config, tasksPath(namespace), taskJSON, claim.headers...)); got != want {
						t.Errorf("%s, claiming %s over HTTP/2, counts as %s, want %s", sender.name, claim.name, got, want)
					}
				}
			}
		})
	}
}

const (
	taskJSON = `{"apiVersion":"batch.leat.dev/v1alpha1","kind":"Task","metadata":{"name":"who"},"spec":{"command":["true"]}}`
	tell     = "you are "
)

// credentialID names the certificate or token, differently each time.
var credentialID = regexp.MustCompile(` authentication\.kubernetes\.io/credential-id=\S+`)

// restricted is what a worker is told, whom no policy sees.
var restricted = regexp.MustCompile(`is forbidden: (a worker may not create tasks|worker \w+ may only write to its own namespace \\"\w+\\")`)

// who reads from the answer to a create in the namespace of tellWho who the server took the sender for.
func who(a answer) string {
	if _, told, found := strings.Cut(a.body, tell); found {
		told, _, _ = strings.Cut(told, `"`)
		return credentialID.ReplaceAllString(told, "")
	}
	if _, told, found := strings.Cut(a.body, `User \"`); found {
		told, _, _ = strings.Cut(told, `\"`)
		return fmt.Sprint(a.code, " ", told)
	}
	if match := restricted.FindStringSubmatch(a.body); match != nil {
		return fmt.Sprint(a.code, " ", strings.ReplaceAll(match[1], `\"`, `"`))
	}
	if a.code >= 400 {
		return fmt.Sprint(a.code)
	}
	return a.String()
}

// tellWho has each create of a task in the namespace refused with who it is that asks, by a policy of the host's, which our server
// evaluates: name, sorted groups, UID and extra.
func tellWho(t *testing.T, e *kit.Env, namespace string) {
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
      "%[2]s" + request.userInfo.username + " [" + request.userInfo.groups.sort().join(" ") + "]"
      + (has(request.userInfo.uid) && request.userInfo.uid != "" ? " uid=" + request.userInfo.uid : "")
      + (has(request.userInfo.extra) ? request.userInfo.extra.map(key, " " + key + "=" + request.userInfo.extra[key].join(",")).sort().join("") : "")
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: tell-who}
spec:
  policyName: tell-who
  validationActions: [Deny]
  matchResources: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: %[1]s}}}
`
	_, _, err := e.Kubectl(t, e.Host.AdminKubeconfig, fmt.Sprintf(manifest, namespace, tell), "apply", "--filename=-")
	kit.Check(t, err)
	for _, port := range ports(e) {
		config := port.as(t, "alice")
		kit.Eventually(t, "the policy is in force", func(context.Context) error {
			if got := who(post(t, config, tasksPath(namespace)+"?dryRun=All", taskJSON)); got != "alice [system:authenticated]" {
				return fmt.Errorf("alice counts as %s", got)
			}
			return nil
		})
	}
}

func impersonate(apiGroup, resource, name string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{APIGroups: []string{apiGroup}, Resources: []string{resource}, Verbs: []string{"impersonate"}, ResourceNames: []string{name}}
}

// credential is what is shown with a request.
type credential func(*rest.Config) error

func nothing(*rest.Config) error { return nil }

func certificate(cert, key []byte, err error) credential {
	return func(config *rest.Config) error {
		config.CertData, config.KeyData = cert, key
		return err
	}
}

func bearer(token string) credential {
	return func(config *rest.Config) error {
		config.BearerToken = token
		return nil
	}
}

// tokenOf is a token of the service account, for the host itself if there is no audience.
func tokenOf(ctx context.Context, host kubernetes.Interface, namespace, account, audience string, bound *authenticationv1.BoundObjectReference) (string, error) {
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: bound}}
	if audience != "" {
		request.Spec.Audiences = []string{audience}
	}
	answer, err := host.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, account, request, metav1.CreateOptions{})
	if err != nil {
		return "", err
	}
	return answer.Status.Token, nil
}
