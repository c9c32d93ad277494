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
	"maps"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"

	"github.com/leat-dev/leat/pkg/generated/kinds"
	"github.com/leat-dev/leat/test/kit"
)

// storedObjects holds an object without metadata for each resource. Some resources are prefixes of others.
var storedObjects = map[string]map[string]any{
	"tasks":        {"kind": "Task", "spec": map[string]any{"command": []any{"true"}}},
	"tasksets":     {"kind": "TaskSet", "spec": map[string]any{"template": map[string]any{"spec": map[string]any{"command": []any{"true"}}}}},
	"taskqueues":   {"kind": "TaskQueue"},
	"workers":      {"kind": "Worker"},
	"workerleases": {"kind": "WorkerLease"},
}

// testPrefixes checks that keys in etcd with a common prefix never mix: in lists, watches and deletions.
func testPrefixes(t *testing.T, e *kit.Env) {
	ctx := t.Context()
	for _, kind := range kinds.All {
		if storedObjects[kind.Resource] == nil {
			t.Errorf("add an object of %s to storedObjects", kind.Resource)
		}
	}
	base := fmt.Sprint("p", e.Server.PID())
	namespaces := []string{base, base + "-b", base + "b"}
	namesOf := func(resource string) []string {
		if resource == "tasksets" { // the names of their tasks start with theirs
			return []string{"a", "a-b", "ab", "tasks"}
		}
		return []string{"a", "a-b", "a.b", "a.b.c", "ab", "tasks"}
	}
	for _, namespace := range namespaces {
		kit.Must(e.HostClient(t).CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{}))(t)
	}
	role(t, e, "keeper", rbacv1.PolicyRule{APIGroups: []string{"batch.leat.dev"}, Resources: []string{"*"}, Verbs: []string{"*"}})
	e.BindClusterRole(t, "", "keeper", "keeper", kit.UserSubject("keeper"))
	client := kit.Must(dynamic.NewForConfig(e.Direct(t, "keeper")))(t)
	of := func(resource, namespace string) dynamic.ResourceInterface {
		return client.Resource(schema.GroupVersionResource{Group: "batch.leat.dev", Version: "v1alpha1", Resource: resource}).Namespace(namespace)
	}
	kit.Eventually(t, "the keeper may do everything", func(ctx context.Context) error {
		_, err := of("tasks", base).List(ctx, metav1.ListOptions{})
		return err
	})

	watches := map[[2]string]watch.Interface{}
	for resource := range storedObjects {
		for _, namespace := range namespaces {
			if resource == "workerleases" { // no watch
				continue
			}
			from := kit.Must(of(resource, namespace).List(ctx, metav1.ListOptions{}))(t)
			watches[[2]string{resource, namespace}] = kit.Must(of(resource, namespace).Watch(ctx, metav1.ListOptions{ResourceVersion: from.GetResourceVersion()}))(t)
		}
	}
	for resource, rest := range storedObjects {
		for _, namespace := range namespaces {
			for _, name := range namesOf(resource) {
				object := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "batch.leat.dev/v1alpha1", "metadata": map[string]any{"name": name}}}
				for key, value := range rest {
					object.Object[key] = value
				}
				kit.Must(of(resource, namespace).Create(ctx, object, metav1.CreateOptions{}))(t)
			}
		}
	}

	// holds fails the test unless all storedObjects of lists return exactly the objects of these names.
	holds := func(resource, namespace string, names ...string) {
		t.Helper()
		for how, options := range map[string]metav1.ListOptions{"from etcd": {}, "from the cache": {ResourceVersion: "0"}, "in pages": {Limit: 1}} {
			kit.Eventually(t, fmt.Sprintf("%s of %s are %q, listed %s", resource, namespace, names, how), func(ctx context.Context) error {
				var found []string
				for {
					list, err := of(resource, namespace).List(ctx, options)
					if err != nil {
						return err
					}
					for _, item := range list.Items {
						if item.GetNamespace() != namespace || item.GetKind() != storedObjects[resource]["kind"] {
							t.Errorf("list of %s of %s has %s %s/%s", resource, namespace, item.GetKind(), item.GetNamespace(), item.GetName())
						}
						found = append(found, item.GetName())
					}
					if options.Continue = list.GetContinue(); options.Continue == "" {
						break
					}
				}
				if slices.Sort(found); !slices.Equal(found, names) {
					return fmt.Errorf("got %q", found)
				}
				return nil
			})
		}
	}
	for resource := range storedObjects {
		for _, namespace := range namespaces {
			holds(resource, namespace, namesOf(resource)...)
			if list := kit.Must(of(resource, namespace).List(ctx, metav1.ListOptions{FieldSelector: "metadata.name=a"}))(t); len(list.Items) != 1 || list.Items[0].GetName() != "a" {
				t.Errorf("got %d %s of %s named a, want 1", len(list.Items), resource, namespace)
			}
		}
		// A client may use a continue token with another namespace.
		token := kit.Must(of(resource, base).List(ctx, metav1.ListOptions{Limit: 1}))(t).GetContinue()
		for _, namespace := range namespaces[1:] {
			list, err := of(resource, namespace).List(ctx, metav1.ListOptions{Limit: 100, Continue: token})
			if err != nil {
				continue
			}
			for _, item := range list.Items {
				if item.GetNamespace() != namespace || item.GetKind() != storedObjects[resource]["kind"] {
					t.Errorf("list of %s of %s, continued in %s, has %s/%s", resource, base, namespace, item.GetNamespace(), item.GetName())
				}
			}
		}
	}

	now := metav1.DeleteOptions{GracePeriodSeconds: new(int64(0)), PropagationPolicy: new(metav1.DeletePropagationBackground)}
	for i, resource := range slices.Sorted(maps.Keys(storedObjects)) {
		kit.Check(t, of(resource, base+"-b").Delete(ctx, "a", now))
		kit.Check(t, of(resource, base).DeleteCollection(ctx, now, metav1.ListOptions{}))
		for _, other := range slices.Sorted(maps.Keys(storedObjects))[i+1:] {
			holds(other, base, namesOf(other)...)
		}
		holds(resource, base)
		holds(resource, base+"-b", namesOf(resource)[1:]...)
		holds(resource, base+"b", namesOf(resource)...)
	}
	for of, watched := range watches {
		resource, namespace := of[0], of[1]
		created := len(namesOf(resource))
		due := map[watch.EventType]int{watch.Added: created, watch.Deleted: map[string]int{base: created, base + "-b": 1}[namespace]}
		for due[watch.Added]+due[watch.Deleted] > 0 {
			event, open := <-watched.ResultChan()
			object, ok := event.Object.(*unstructured.Unstructured)
			// A delete may set deletionTimestamp first, which is a MODIFIED event.
			if due[event.Type]--; !open || !ok || object.GetNamespace() != namespace || object.GetKind() != storedObjects[resource]["kind"] || event.Type != watch.Modified && due[event.Type] < 0 {
				t.Fatalf("watch of %s of %s: unexpected %s %v", resource, namespace, event.Type, event.Object)
			}
		}
		watched.Stop()
		for event := range watched.ResultChan() {
			if event.Type != watch.Error { // the watch was stopped
				t.Errorf("watch of %s of %s: unexpected %s %v at the end", resource, namespace, event.Type, event.Object)
			}
		}
	}
}
