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

package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/pool"
)

// concurrentReviews is how many access reviews are sent at a time.
const concurrentReviews = 8

// right is a verb on a resource of a namespace, or on one object.
type right struct {
	verb, group, resource, name string
}

// String returns the right as "kubectl auth can-i" accepts it.
func (r right) String() string {
	text := r.verb + " " + r.resource
	if r.group != "" {
		text += "." + r.group
	}
	if r.name != "" {
		text += "/" + r.name
	}
	return text
}

// rightsToApply returns the rights to apply the objects of a pool, and to replace pods that have not started.
//
// The cluster permits a RoleBinding only to those who have all rights of its role, or the verb bind for the role.
func rightsToApply() []right {
	rights := append(poolRights("get", "create", "patch"), right{"list", "", "pods", ""}, right{"delete", "", "pods", ""})
	for _, role := range []string{pool.WorkerRole, pool.ScalerRole} {
		rights = append(rights, right{"bind", rbacv1.GroupName, "clusterroles", role})
	}
	return rights
}

// rightsToDelete returns the rights to delete the objects of a pool and its workers.
func rightsToDelete() []right {
	rights := poolRights("list", "delete")
	for _, verb := range []string{"list", "patch", "delete"} {
		rights = append(rights, right{verb, batch.GroupName, "workers", ""})
	}
	return append(rights, right{"list", "", "pods", ""}, right{"list", batch.GroupName, "tasks", ""})
}

// poolRights returns the rights with the verbs on all resources of a pool.
func poolRights(verbs ...string) []right {
	var rights []right
	for _, resource := range poolResources {
		for _, verb := range verbs {
			rights = append(rights, right{verb, resource.Group, resource.Resource, ""})
		}
	}
	return rights
}

// requireRights returns an error that lists all rights that the user lacks, and who has them.
func (f *factory) requireRights(ctx context.Context, c *cluster, namespace, what string, rights []right) error {
	allowed := make([]bool, len(rights))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(concurrentReviews)
	for i, right := range rights {
		group.Go(func() error {
			review, err := c.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, &authorizationv1.SelfSubjectAccessReview{
				Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &authorizationv1.ResourceAttributes{
					Namespace: namespace, Verb: right.verb, Group: right.group, Resource: right.resource, Name: right.name,
				}},
			}, metav1.CreateOptions{})
			if err == nil {
				allowed[i] = review.Status.Allowed
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return fmt.Errorf("asking for your rights: %w", err)
	}
	var missing []string
	for i, right := range rights {
		if !allowed[i] {
			missing = append(missing, "  "+right.String())
		}
	}
	if len(missing) == 0 {
		return nil
	}
	advice := "The ClusterRole admin has these rights: ask an administrator of the namespace to run this command, or to bind the role to you."
	if !slices.ContainsFunc(missing, func(line string) bool { return !strings.HasPrefix(line, "  bind ") }) {
		advice = "The ClusterRole leat:admin has these rights: ask an administrator of the namespace to run this command, or to bind the role to you."
	}
	return fmt.Errorf("nothing was changed: to %s in namespace %s you need rights that you do not have:\n%s\n%s",
		what, namespace, strings.Join(missing, "\n"), advice)
}
