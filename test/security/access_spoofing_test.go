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
	"k8s.io/client-go/rest"

	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/apiserver/authentication/pod"
	"github.com/leat-dev/leat/pkg/standalone/pki"
	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/certificates"
)

// Kinds of credentials. The headers of a claim have another effect for each.
const (
	// known is a valid identity without the right to impersonate.
	known = iota
	// deputy may impersonate alice with the groups, the UID and the extra of the claims below.
	deputy
	// aggregator is the identity whose X-Remote headers the server accepts.
	aggregator
	// refused is an invalid credential.
	refused
)

// senders returns all kinds of credentials, with the identity that the server must derive from each on both ports:
// name, groups and further attributes, or a status code. For workers, whose requests never reach the policy, it is the
// reason of the refusal.
func senders(t *testing.T, e *kit.Env, namespace string) []sender {
	admin := e.HostClient(t)
	workerClients := kit.Must(pki.NewCA("leat-worker-clients"))(t)
	strangers := kit.Must(pki.NewCA("host-client-ca"))(t) // another CA of the same name
	account := kit.Must(admin.CoreV1().ServiceAccounts(namespace).Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "pool"}}, metav1.CreateOptions{}))(t)
	token := func(bound *authenticationv1.BoundObjectReference, audiences ...string) credential {
		return func(config *rest.Config) error {
			token, err := e.Host.ServiceAccountToken(t.Context(), namespace, "pool", authenticationv1.TokenRequestSpec{Audiences: audiences, BoundObjectRef: bound})
			config.BearerToken = token
			return err
		}
	}
	e.BindClusterRole(t, namespace, "pool", "leat:worker", rbacv1.Subject{Kind: "ServiceAccount", Namespace: namespace, Name: "pool"})
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
		{"a certificate with the aggregator's name", known, "front-proxy-client [system:authenticated]", certificate(client.IssueClient("front-proxy-client"))},
		{"the aggregator's certificate", aggregator, "401", certificate(e.Host.FrontProxyCA.IssueClient("front-proxy-client"))},
		{"another name of the aggregator's CA", refused, "401", certificate(e.Host.FrontProxyCA.IssueClient("kubelet", "system:masters"))},
		{"an expired person's certificate", refused, "401", certificate(certificates.Expired(client, "someone"))},
		{"an expired aggregator's certificate", refused, "401", certificate(certificates.Expired(e.Host.FrontProxyCA, "front-proxy-client"))},
		{"a serving certificate of the client CA", refused, "401", certificate(client.IssueServer("someone"))},
		{"a CA of the same name", refused, "401", certificate(strangers.IssueClient("alice", "leat:admins"))},
		{"the CA of etcd", refused, "401", certificate(e.Etcd.CA.IssueClient("alice", "leat:admins"))},
		{"the serving CA of Leat", refused, "401", certificate(e.ServingCA.IssueClient("alice", "leat:admins"))},
		{"the CA of worker clients", refused, "401", certificate(workerClients.IssueClient(v1alpha1.WorkerClientName))},
		{"an account's token", known, serviceAccount, token(nil)},
		{"an account's token of a pod", known, serviceAccount + " authentication.kubernetes.io/pod-name=pool-1 authentication.kubernetes.io/pod-uid=" + string(running.UID), token(inPod)},
		{"an account's token for another audience", refused, "401", token(nil, "https://example.com")},
		{"a worker's token without a pod", refused, "401", token(nil, pod.Audience)},
		{"a malformed token", refused, "401", bearer("marked")},
		{"an unsigned token", refused, "401", bearer("eyJhbGciOiJub25lIn0.eyJzdWIiOiJzeXN0ZW06c2VydmljZWFjY291bnQ6a3ViZS1zeXN0ZW06ZGVmYXVsdCJ9.")},
	}
}

// sender is a credential, with the identity that it must have.
type sender struct {
	name string
	kind int
	is   string
	credential
}

// expected returns the identity of the sender with a claim.
func (s sender) expected(c claim) string {
	is, name, found := strings.Cut(s.is, ": ")
	if !found {
		name, _, _ = strings.Cut(s.is, " [")
	}
	switch {
	case s.kind == aggregator:
		return c.aggregator
	case s.kind == deputy && c.deputy != "":
		return c.deputy
	case c.impersonates && s.kind == known:
		if !slices.ContainsFunc(c.headers, func(header string) bool { return strings.HasPrefix(strings.ToLower(header), "impersonate-user:") }) {
			return "400"
		}
		return "403 " + name
	}
	return is
}

// decisive has the claims that are made over HTTP/2 as well, where the server parses headers differently.
var decisive = []string{
	"nothing", "a user", "groups", "all", "all in capitals", "two users", "a worker",
	"acting as a user", "acting with all attributes", "acting as masters, last", "acting as a group without a user", "both",
}

// claim is a set of identity headers.
type claim struct {
	name    string
	headers []string
	// impersonates reports whether the headers request impersonation.
	impersonates bool
	// deputy is the identity of the deputy with these headers. Empty means its own.
	deputy string
	// aggregator is the identity of a request of the aggregator with these headers.
	aggregator string
}

// claims has all claims, with the identities of the deputy and of the aggregator. For all other senders, X-Remote
// headers have no effect, and impersonation is refused.
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

	{name: "acting as a user", headers: []string{"Impersonate-User: alice"}, impersonates: true, deputy: "alice [system:authenticated]", aggregator: "401"},
	{
		name:         "acting with all attributes",
		headers:      []string{"Impersonate-User: alice", "Impersonate-Group: leat:admins", "Impersonate-Uid: 7", "Impersonate-Extra-Key: value"},
		impersonates: true,
		deputy:       "alice [leat:admins system:authenticated] uid=7 key=value",
		aggregator:   "401",
	},
	{name: "acting in small letters", headers: []string{"impersonate-user: alice", "impersonate-group: leat:admins"}, impersonates: true, deputy: "alice [leat:admins system:authenticated]", aggregator: "401"},
	{name: "acting with underscores", headers: []string{"Impersonate_User: alice", "Impersonate_Group: leat:admins"}, aggregator: "401"},
	{name: "acting as another", headers: []string{"Impersonate-User: bob"}, impersonates: true, deputy: "403 deputy", aggregator: "401"},
	{name: "acting as masters", headers: []string{"Impersonate-User: alice", "Impersonate-Group: system:masters"}, impersonates: true, deputy: "403 deputy", aggregator: "401"},
	{name: "acting as masters, last", headers: []string{"Impersonate-User: alice", "Impersonate-Group: leat:admins", "Impersonate-Group: system:masters"}, impersonates: true, deputy: "403 deputy", aggregator: "401"},
	{name: "acting with another UID", headers: []string{"Impersonate-User: alice", "Impersonate-Uid: 8"}, impersonates: true, deputy: "403 deputy", aggregator: "401"},
	{name: "acting with another extra", headers: []string{"Impersonate-User: alice", "Impersonate-Extra-Key: other"}, impersonates: true, deputy: "403 deputy", aggregator: "401"},
	{name: "acting as a worker", headers: []string{"Impersonate-User: leat:worker:default:one", "Impersonate-Group: leat:workers"}, impersonates: true, deputy: "403 deputy", aggregator: "401"},
	{name: "acting as a group without a user", headers: []string{"Impersonate-Group: leat:admins"}, impersonates: true, deputy: "400", aggregator: "401"},
	{
		name:         "both",
		headers:      []string{"X-Remote-User: bob", "X-Remote-Group: system:masters", "X-Remote-Uid: 8", "Impersonate-User: alice"},
		impersonates: true,
		deputy:       "alice [system:authenticated]",
		aggregator:   "alice [system:authenticated]",
	},
	{
		name:         "both, without the right",
		headers:      []string{"X-Remote-User: bob", "Impersonate-User: alice"},
		impersonates: true,
		deputy:       "alice [system:authenticated]",
		aggregator:   "403 bob",
	},
}

// testSpoofing checks the identity of each credential with each claim, on both ports.
func testSpoofing(t *testing.T, e *kit.Env) {
	namespace := e.Namespace(t)
	// Everyone may create tasks, so that each request reaches the policy that returns the identity.
	e.BindClusterRole(t, namespace, "everyone", "leat:edit", kit.GroupSubject("system:authenticated"), kit.GroupSubject("system:unauthenticated"))
	role(t, e, "deputy",
		impersonate("", "users", "alice"), impersonate("", "groups", "leat:admins"),
		impersonate("authentication.k8s.io", "uids", "7"), impersonate("authentication.k8s.io", "userextras/key", "value"))
	e.BindClusterRole(t, "", "deputy", "deputy", kit.UserSubject("deputy"))
	returnIdentity(t, e, namespace)
	all := senders(t, e, namespace)

	for _, port := range ports(e) {
		t.Run(port.name, func(t *testing.T) {
			granted := port.as(t, "deputy")
			kit.Eventually(t, "the grants are in force", func(context.Context) error {
				if got := identityOf(post(t, granted, tasksPath(namespace), taskJSON, "Impersonate-User: alice", "Impersonate-Uid: 7", "Impersonate-Extra-Key: value")); got != "alice [system:authenticated] uid=7 key=value" {
					return fmt.Errorf("the deputy is %s", got)
				}
				return nil
			})
			for _, sender := range all {
				config := port.anonymous(t)
				kit.Check(t, sender.credential(config))
				older, newer := &persistent{config: config}, http2Client(t, config)
				for _, claim := range claims {
					want := sender.expected(claim)
					if got := identityOf(older.post(t, tasksPath(namespace), taskJSON, claim.headers...)); got != want {
						t.Errorf("%s, claiming %s: got %s, want %s", sender.name, claim.name, got, want)
					}
					if !slices.Contains(decisive, claim.name) {
						continue
					}
					if got := identityOf(postHTTP2(t, newer, config, tasksPath(namespace), taskJSON, claim.headers...)); got != want {
						t.Errorf("%s, claiming %s over HTTP/2: got %s, want %s", sender.name, claim.name, got, want)
					}
				}
			}
		})
	}
}

const (
	taskJSON       = `{"apiVersion":"batch.leat.dev/v1alpha1","kind":"Task","metadata":{"name":"who"},"spec":{"command":["true"]}}`
	identityPrefix = "you are "
)

// credentialID matches the ID of a certificate or token, which differs each time.
var credentialID = regexp.MustCompile(` authentication\.kubernetes\.io/credential-id=\S+`)

// restricted matches the errors of workers, which admission refuses before the policy.
var restricted = regexp.MustCompile(`is forbidden: (a worker may not create tasks|worker \w+ may only write to its own namespace \\"\w+\\")`)

// identityOf returns the identity in the answer to a create in the namespace of returnIdentity.
func identityOf(a answer) string {
	if _, identity, found := strings.Cut(a.body, identityPrefix); found {
		identity, _, _ = strings.Cut(identity, `"`)
		return credentialID.ReplaceAllString(identity, "")
	}
	if _, identity, found := strings.Cut(a.body, `User \"`); found {
		identity, _, _ = strings.Cut(identity, `\"`)
		return fmt.Sprint(a.code, " ", identity)
	}
	if match := restricted.FindStringSubmatch(a.body); match != nil {
		return fmt.Sprint(a.code, " ", strings.ReplaceAll(match[1], `\"`, `"`))
	}
	if a.code >= 400 {
		return fmt.Sprint(a.code)
	}
	return a.String()
}

// returnIdentity creates a policy on the host that refuses each create of a task in the namespace. Our server evaluates
// it. The message is the identity of the requester: name, sorted groups, UID and extra.
func returnIdentity(t *testing.T, e *kit.Env, namespace string) {
	t.Helper()
	const manifest = `
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: return-identity}
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
metadata: {name: return-identity}
spec:
  policyName: return-identity
  validationActions: [Deny]
  matchResources: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: %[1]s}}}
`
	_, _, err := e.Kubectl(t, e.Host.AdminKubeconfig, fmt.Sprintf(manifest, namespace, identityPrefix), "apply", "--filename=-")
	kit.Check(t, err)
	for _, port := range ports(e) {
		config := port.as(t, "alice")
		kit.Eventually(t, "the policy is in force", func(context.Context) error {
			if got := identityOf(post(t, config, tasksPath(namespace)+"?dryRun=All", taskJSON)); got != "alice [system:authenticated]" {
				return fmt.Errorf("alice is %s", got)
			}
			return nil
		})
	}
}

func impersonate(apiGroup, resource, name string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{APIGroups: []string{apiGroup}, Resources: []string{resource}, Verbs: []string{"impersonate"}, ResourceNames: []string{name}}
}

// credential sets the credentials of a config.
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
