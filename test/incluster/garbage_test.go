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
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit"
)

func ownedBy(owner metav1.Object, apiVersion, kind string, blocking bool) []metav1.OwnerReference {
	return []metav1.OwnerReference{{APIVersion: apiVersion, Kind: kind, Name: owner.GetName(), UID: owner.GetUID(), BlockOwnerDeletion: &blocking}}
}

func ownedBySet(set *v1alpha1.TaskSet, blocking bool) []metav1.OwnerReference {
	return ownedBy(set, v1alpha1.GroupVersion.String(), "TaskSet", blocking)
}

// testGarbageCollection checks that the host's garbage collector follows owner references from and to Leat's kinds, and
// that Leat enforces the right to block the deletion of an owner.
func testGarbageCollection(t *testing.T, e *kit.Env) {
	ctx := t.Context()
	maps := e.HostClient(t).CoreV1()
	admin, controller := kit.Client(t, e.Admin(t)).BatchV1alpha1(), kit.Client(t, e.Controller(t)).BatchV1alpha1()
	set := func(t *testing.T, namespace, name string) *v1alpha1.TaskSet {
		return kit.Must(admin.TaskSets(namespace).Create(t.Context(), kit.NewTaskSet(name), metav1.CreateOptions{}))(t)
	}
	task := func(t *testing.T, namespace, name string, owners []metav1.OwnerReference) {
		task := kit.NewTask(name)
		task.OwnerReferences = owners
		kit.Must(controller.Tasks(namespace).Create(t.Context(), task, metav1.CreateOptions{}))(t)
	}
	configMap := func(t *testing.T, namespace, name string, owners []metav1.OwnerReference) *corev1.ConfigMap {
		return kit.Must(maps.ConfigMaps(namespace).Create(t.Context(), newConfigMap(name, owners...), metav1.CreateOptions{}))(t)
	}
	taskGone := func(t *testing.T, namespace, name string) {
		t.Helper()
		kit.Eventually(t, "task "+name+" is deleted", func(ctx context.Context) error {
			_, err := admin.Tasks(namespace).Get(ctx, name, metav1.GetOptions{})
			return kit.Gone(err)
		})
	}
	propagate := func(policy metav1.DeletionPropagation) metav1.DeleteOptions {
		return metav1.DeleteOptions{PropagationPolicy: &policy}
	}

	t.Run("dependents of a task set are deleted", func(t *testing.T) {
		namespace := e.Namespace(t)
		owner := set(t, namespace, "owner")
		task(t, namespace, "owned", ownedBySet(owner, true))
		configMap(t, namespace, "owned", ownedBySet(owner, false))
		kit.Check(t, admin.TaskSets(namespace).Delete(ctx, "owner", metav1.DeleteOptions{}))
		taskGone(t, namespace, "owned")
		kit.Eventually(t, "the ConfigMap is deleted", func(ctx context.Context) error {
			_, err := maps.ConfigMaps(namespace).Get(ctx, "owned", metav1.GetOptions{})
			return kit.Gone(err)
		})
	})

	t.Run("a task with a ConfigMap as owner is deleted", func(t *testing.T) {
		namespace := e.Namespace(t)
		task(t, namespace, "owned", ownedBy(configMap(t, namespace, "owner", nil), "v1", "ConfigMap", false))
		task(t, namespace, "free", nil)
		kit.Check(t, maps.ConfigMaps(namespace).Delete(ctx, "owner", metav1.DeleteOptions{}))
		taskGone(t, namespace, "owned")
		kit.Must(admin.Tasks(namespace).Get(ctx, "free", metav1.GetOptions{}))(t)
	})

	t.Run("dependents of a task are deleted", func(t *testing.T) {
		namespace := e.Namespace(t)
		owner := kit.Must(admin.Tasks(namespace).Create(ctx, kit.NewTask("owner"), metav1.CreateOptions{}))(t)
		configMap(t, namespace, "owned", ownedBy(owner, v1alpha1.GroupVersion.String(), "Task", false))
		configMap(t, namespace, "free", nil)
		kit.Check(t, admin.Tasks(namespace).Delete(ctx, "owner", metav1.DeleteOptions{}))
		kit.Eventually(t, "the dependent of the task is deleted", func(ctx context.Context) error {
			return kit.Gone(second(maps.ConfigMaps(namespace).Get(ctx, "owned", metav1.GetOptions{})))
		})
		kit.Must(maps.ConfigMaps(namespace).Get(ctx, "free", metav1.GetOptions{}))(t)
	})

	t.Run("foreground deletion waits for blocking dependents", func(t *testing.T) {
		namespace := e.Namespace(t)
		owner := set(t, namespace, "owner")
		task(t, namespace, "blocking", ownedBySet(owner, true))
		held := kit.Must(admin.Tasks(namespace).Get(ctx, "blocking", metav1.GetOptions{}))(t)
		held.Finalizers = []string{"example.com/hold"}
		held = kit.Must(admin.Tasks(namespace).Update(ctx, held, metav1.UpdateOptions{}))(t)
		kit.Check(t, admin.TaskSets(namespace).Delete(ctx, "owner", propagate(metav1.DeletePropagationForeground)))
		kit.Eventually(t, "the task is being deleted", func(ctx context.Context) (err error) {
			held, err = admin.Tasks(namespace).Get(ctx, "blocking", metav1.GetOptions{})
			if err == nil && held.DeletionTimestamp == nil {
				err = errors.New("it has no deletion timestamp")
			}
			return err
		})
		if owner := kit.Must(admin.TaskSets(namespace).Get(ctx, "owner", metav1.GetOptions{}))(t); owner.DeletionTimestamp == nil {
			t.Error("the owner has no deletion timestamp")
		}
		held.Finalizers = nil
		kit.Must(admin.Tasks(namespace).Update(ctx, held, metav1.UpdateOptions{}))(t)
		taskGone(t, namespace, "blocking")
		kit.Eventually(t, "the owner is deleted", func(ctx context.Context) error {
			_, err := admin.TaskSets(namespace).Get(ctx, "owner", metav1.GetOptions{})
			return kit.Gone(err)
		})
	})

	t.Run("orphans stay without owner references", func(t *testing.T) {
		namespace := e.Namespace(t)
		task(t, namespace, "orphan", ownedBySet(set(t, namespace, "owner"), true))
		kit.Check(t, admin.TaskSets(namespace).Delete(ctx, "owner", propagate(metav1.DeletePropagationOrphan)))
		kit.Eventually(t, "the owner is deleted", func(ctx context.Context) error {
			_, err := admin.TaskSets(namespace).Get(ctx, "owner", metav1.GetOptions{})
			return kit.Gone(err)
		})
		orphan := kit.Must(admin.Tasks(namespace).Get(ctx, "orphan", metav1.GetOptions{}))(t)
		if len(orphan.OwnerReferences) != 0 || orphan.DeletionTimestamp != nil {
			t.Errorf("orphan: got owners %v and deletion timestamp %v, want none", orphan.OwnerReferences, orphan.DeletionTimestamp)
		}
	})

	t.Run("blocking the deletion of an owner needs a grant", func(t *testing.T) {
		namespace := e.Namespace(t)
		grant(t, e, namespace, "editor", "edit")
		editor := kit.Client(t, e.Person(t, "editor")).BatchV1alpha1().Tasks(namespace)
		owner, core := set(t, namespace, "owner"), configMap(t, namespace, "owner", nil)
		create := func(ctx context.Context, name string, owners []metav1.OwnerReference) error {
			task := kit.NewTask(name)
			task.OwnerReferences = owners
			_, err := editor.Create(ctx, task, metav1.CreateOptions{})
			return err
		}
		kit.Check(t, create(ctx, "not-blocking", ownedBySet(owner, false)))
		expectReason(t, create(ctx, "blocks-set", ownedBySet(owner, true)), metav1.StatusReasonForbidden,
			"blockOwnerDeletion", "finalizers of the owner, TaskSet owner", "tasksets/finalizers")
		expectReason(t, create(ctx, "blocks-map", ownedBy(core, "v1", "ConfigMap", true)), metav1.StatusReasonForbidden,
			"blockOwnerDeletion", "finalizers of the owner, ConfigMap owner", "configmaps/finalizers")

		rbac := e.HostClient(t).RbacV1()
		kit.Must(rbac.Roles(namespace).Create(ctx, &rbacv1.Role{
			ObjectMeta: metav1.ObjectMeta{Name: "finalizers"},
			Rules: []rbacv1.PolicyRule{
				{APIGroups: []string{group}, Resources: []string{"tasksets/finalizers"}, Verbs: []string{"update"}},
				{APIGroups: []string{""}, Resources: []string{"configmaps/finalizers"}, Verbs: []string{"update"}},
			},
		}, metav1.CreateOptions{}))(t)
		kit.Must(rbac.RoleBindings(namespace).Create(ctx, &rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: "finalizers"},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "finalizers"},
			Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: "editor"}},
		}, metav1.CreateOptions{}))(t)
		kit.Eventually(t, "the grant takes effect", func(ctx context.Context) error {
			return create(ctx, "blocks-set", ownedBySet(owner, true))
		})
		kit.Eventually(t, "the grant takes effect", func(ctx context.Context) error {
			return create(ctx, "blocks-map", ownedBy(core, "v1", "ConfigMap", true))
		})
	})
}
