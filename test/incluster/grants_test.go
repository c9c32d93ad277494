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
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	rbacclient "k8s.io/client-go/kubernetes/typed/rbac/v1"

	"github.com/leat-dev/leat/test/kit"
)

// testGrants takes each right that the server has at its host away. It checks that readyz and the log name what is
// missing, and that the server needs no restart once the right is back.
func testGrants(t *testing.T, e *kit.Env) {
	const role = "leat:apiserver"
	ctx := t.Context()
	rbac := e.HostClient(t).RbacV1()
	// The paths of single checks, which have the reasons, are for monitoring.
	operator := e.Direct(t, "operator", "system:monitoring")
	shipped := single(kit.Must(rbac.ClusterRoles().Get(ctx, role, metav1.GetOptions{}))(t).Rules)
	grant := func(rules []rbacv1.PolicyRule) {
		t.Helper()
		current := kit.Must(rbac.ClusterRoles().Get(ctx, role, metav1.GetOptions{}))(t)
		current.Rules = rules
		kit.Must(rbac.ClusterRoles().Update(ctx, current, metav1.UpdateOptions{}))(t)
	}
	restart := func() <-chan error {
		restarted := make(chan error, 1)
		go func() { restarted <- e.Server.Restart(ctx) }()
		return restarted
	}

	first := slices.IndexFunc(shipped, func(rule rbacv1.PolicyRule) bool {
		return rule.Resources[0] == "validatingwebhookconfigurations" && rule.Verbs[0] == "list"
	})
	grant(slices.Delete(slices.Clone(shipped), first, first+1))
	restarted := restart()
	started := time.Now()
	t.Run("at the start", func(t *testing.T) {
		kit.Eventually(t, "the server listens", func(ctx context.Context) error {
			_, err := kit.TryDo(ctx, e.Anonymous(t), http.MethodGet, "/livez", "")
			started = time.Now()
			return err
		})
		kit.Eventually(t, "readyz and the log name the missing rule", func(ctx context.Context) error {
			return errors.Join(named(ctx, t, e, shipped[first], "ClusterRole leat:apiserver"), unready(ctx, t, e, "informer-sync"))
		})
		t.Logf("named %s after the server listened", time.Since(started).Round(time.Millisecond))
		kit.Eventually(t, "a create is denied", func(context.Context) error {
			// Before the server has loaded the CAs of the host, it authenticates nobody.
			task := `{"apiVersion":"batch.leat.dev/v1alpha1","kind":"Task","metadata":{"name":"unguarded"},"spec":{"command":["true"]}}`
			switch got := kit.Do(t, e.Direct(t, "alice", "leat:admins"), http.MethodPost, tasksPath("default"), task); got.Code {
			case http.StatusForbidden:
				return nil
			case http.StatusCreated:
				t.Fatalf("create before webhooks are known: got %s, want 403", got)
				return nil
			default:
				return errors.New(got.String())
			}
		})
	})

	// Each round takes away one verb of every resource. A resource has one check, so the checks tell the rules apart.
	t.Run("each", func(t *testing.T) {
		for round := 0; ; round++ {
			kept, removed := deal(shipped, round)
			if len(removed) == 0 {
				break
			}
			grant(kept)
			kit.Eventually(t, "the checks of the removed rules fail, and no others", func(ctx context.Context) error {
				for _, rule := range removed {
					if err := named(ctx, t, e, rule, "ClusterRole leat:apiserver"); err != nil {
						return err
					}
				}
				ready := kit.Do(t, e.Anonymous(t), http.MethodGet, "/readyz", "")
				if n := strings.Count(ready.Body, "[-]grants/"); n != len(removed) {
					return fmt.Errorf("%d checks of grants fail, want %d: %s", n, len(removed), ready)
				}
				return nil
			})
			for _, rule := range removed {
				t.Run(rule.Verbs[0]+" "+checkOf(rule), func(t *testing.T) {
					got := kit.Do(t, operator, http.MethodGet, "/readyz/"+checkOf(rule), "")
					want := "may not " + rule.Verbs[0] + " " + strings.TrimPrefix(checkOf(rule), "grants/") + ": apply ClusterRole leat:apiserver "
					if !strings.Contains(got.Body, want) {
						t.Errorf("GET /readyz/%s: got %s, want %q", checkOf(rule), got, want)
					}
				})
			}
		}
	})
	grant(shipped)
	kit.Check(t, <-restarted)
	pid := e.Server.PID()

	t.Run("reviews", func(t *testing.T) {
		restore := unbind(t, rbac, "leat:apiserver:auth-delegator")
		restarted := restart()
		for _, rule := range []rbacv1.PolicyRule{
			{Verbs: []string{"create"}, Resources: []string{"tokenreviews"}, APIGroups: []string{"authentication.k8s.io"}},
			{Verbs: []string{"create"}, Resources: []string{"subjectaccessreviews"}, APIGroups: []string{"authorization.k8s.io"}},
		} {
			kit.Eventually(t, "readyz and the log name the missing rule", func(ctx context.Context) error { return named(ctx, t, e, rule, "ClusterRole system:auth-delegator") })
		}
		restore()
		kit.Check(t, <-restarted)
		pid = e.Server.PID()
	})

	t.Run("authentication", func(t *testing.T) {
		rule := rbacv1.PolicyRule{Verbs: []string{"get, list, watch"}, APIGroups: []string{""}, Resources: []string{"configmaps/kube-system/extension-apiserver-authentication"}}
		bindings := rbac.RoleBindings(metav1.NamespaceSystem)
		const name = "leat:apiserver:authentication-reader"
		binding := kit.Must(bindings.Get(ctx, name, metav1.GetOptions{}))(t)
		kit.Check(t, bindings.Delete(ctx, name, metav1.DeleteOptions{}))
		restarted := restart()
		kit.Eventually(t, "readyz and the log name the missing rule", func(ctx context.Context) error {
			return errors.Join(named(ctx, t, e, rule, "Role extension-apiserver-authentication-reader"), unready(ctx, t, e, "authentication-config"))
		})
		if got := kit.Do(t, e.Direct(t, "alice", "leat:admins"), http.MethodGet, tasksPath("default"), ""); got.Code != http.StatusForbidden && got.Code != http.StatusUnauthorized {
			t.Errorf("certificate of a CA that the server has not loaded: got %s, want 401 or 403", got)
		}
		pid = e.Server.PID()
		binding.ResourceVersion, binding.UID = "", ""
		kit.Must(bindings.Create(ctx, binding, metav1.CreateOptions{}))(t)
		kit.Check(t, <-restarted)
	})

	kit.Eventually(t, "a create succeeds", func(ctx context.Context) error {
		_, err := kit.Client(t, e.Admin(t)).BatchV1alpha1().Tasks("default").Create(ctx, kit.NewTask("guarded"), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return err
	})
	if e.Server.PID() != pid || e.Server.Err() != nil {
		t.Errorf("the server has restarted or exited: %v", e.Server.Err())
	}
}

// single splits rules into one for each verb of each resource.
func single(rules []rbacv1.PolicyRule) []rbacv1.PolicyRule {
	var all []rbacv1.PolicyRule
	for _, rule := range rules {
		for _, group := range rule.APIGroups {
			for _, resource := range rule.Resources {
				for _, verb := range rule.Verbs {
					all = append(all, rbacv1.PolicyRule{APIGroups: []string{group}, Resources: []string{resource}, Verbs: []string{verb}})
				}
			}
		}
	}
	return all
}

// deal splits rules as single returns them: removed has the rule for verb number round of each resource.
func deal(rules []rbacv1.PolicyRule, round int) (kept, removed []rbacv1.PolicyRule) {
	verbs := map[string]int{}
	for _, rule := range rules {
		if verbs[checkOf(rule)]++; verbs[checkOf(rule)] == round+1 {
			removed = append(removed, rule)
		} else {
			kept = append(kept, rule)
		}
	}
	return kept, removed
}

// checkOf returns the name of the readyz check for a rule.
func checkOf(rule rbacv1.PolicyRule) string {
	return strings.TrimSuffix("grants/"+rule.Resources[0]+"."+rule.APIGroups[0], ".")
}

// named returns nil if the check for the rule fails and the log has the missing right and the role that grants it.
func named(ctx context.Context, t testing.TB, e *kit.Env, rule rbacv1.PolicyRule, role string) error {
	t.Helper()
	log := string(kit.Must(os.ReadFile(e.Server.LogFile()))(t))
	want := fmt.Sprintf("may not %s %s: apply %s and its binding", rule.Verbs[0], strings.TrimPrefix(checkOf(rule), "grants/"), role)
	if !strings.Contains(log, want) {
		return fmt.Errorf("the log lacks %q", want)
	}
	return unready(ctx, t, e, checkOf(rule))
}

// unready returns nil if readyz shows to anonymous clients that a check fails.
func unready(ctx context.Context, t testing.TB, e *kit.Env, check string) error {
	t.Helper()
	got, err := kit.TryDo(ctx, e.Anonymous(t), http.MethodGet, "/readyz", "")
	if err == nil && (got.Code != http.StatusInternalServerError || !strings.Contains(got.Body, "[-]"+check+" failed")) {
		err = errors.New(got.String())
	}
	return err
}

// unbind deletes the ClusterRoleBinding of the server with that name. restore creates it again.
func unbind(t testing.TB, rbac rbacclient.RbacV1Interface, name string) (restore func()) {
	t.Helper()
	binding := kit.Must(rbac.ClusterRoleBindings().Get(t.Context(), name, metav1.GetOptions{}))(t)
	kit.Check(t, rbac.ClusterRoleBindings().Delete(t.Context(), name, metav1.DeleteOptions{}))
	return func() {
		t.Helper()
		binding.ResourceVersion, binding.UID = "", ""
		kit.Must(rbac.ClusterRoleBindings().Create(t.Context(), binding, metav1.CreateOptions{}))(t)
	}
}
