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

package durability

import (
	"context"
	"fmt"
	"slices"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/storage"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	typed "github.com/leat-dev/leat/pkg/generated/clientset/versioned/typed/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/history"
)

// testReads tests that reads are as fresh, or as old, as they promise.
func testReads(t *testing.T, e *kit.Env) {
	namespace := e.Namespace(t)
	people := kit.Client(t, e.Admin(t))
	client := tasks(people, namespace)

	t.Run("ListAfterWrite", func(t *testing.T) {
		for i := range 50 {
			written := createTask(t, client, newHeldTask(fmt.Sprintf("written-%d", i)))
			if err := listShows(t.Context(), client, written); err != nil {
				t.Fatal(err)
			}
			kit.Check(t, client.Delete(t.Context(), written.Name, metav1.DeleteOptions{}))
			list := kit.Must(client.List(t.Context(), metav1.ListOptions{}))(t)
			if len(list.Items) > 0 {
				t.Fatalf("the list after %s was deleted has %v, want none", written.Name, taskNames(list))
			}
		}
	})

	t.Run("NotOlderThan", func(t *testing.T) {
		for i := range 20 {
			written := createTask(t, client, newHeldTask(fmt.Sprintf("fresh-%d", i)))
			list := kit.Must(client.List(t.Context(), metav1.ListOptions{
				ResourceVersion: written.ResourceVersion, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan,
			}))(t)
			if !slices.Contains(taskNames(list), written.Name) {
				t.Fatalf("the list not older than the creation of %s has %v", written.Name, taskNames(list))
			}
			read := kit.Must(client.Get(t.Context(), written.Name, metav1.GetOptions{ResourceVersion: written.ResourceVersion}))(t)
			if read.UID != written.UID {
				t.Fatalf("%s has uid %s, want %s", written.Name, read.UID, written.UID)
			}
			kit.Check(t, client.Delete(t.Context(), written.Name, metav1.DeleteOptions{}))
		}
	})

	// A list from the cache may be old, but the cache catches up.
	t.Run("Any", func(t *testing.T) {
		written := createTask(t, client, newHeldTask("any"))
		kit.Eventually(t, "a list from the cache has the new task", func(ctx context.Context) error {
			list, err := client.List(ctx, metav1.ListOptions{ResourceVersion: "0"})
			if err == nil && !slices.Contains(taskNames(list), written.Name) {
				err = fmt.Errorf("the list at resourceVersion 0 has %v", taskNames(list))
			}
			return err
		})
		kit.Check(t, client.Delete(t.Context(), written.Name, metav1.DeleteOptions{}))
	})

	t.Run("Exact", func(t *testing.T) {
		first := createTask(t, client, newHeldTask("exact-1"))
		second := createTask(t, client, newHeldTask("exact-2"))
		changed := labelTask(t, client, first.Name, "changed", "true")
		kit.Check(t, client.Delete(t.Context(), second.Name, metav1.DeleteOptions{}))
		third := createTask(t, client, newHeldTask("exact-3"))
		for _, test := range []struct {
			at      string
			names   []string
			changed string
		}{
			{at: first.ResourceVersion, names: []string{"exact-1"}},
			{at: second.ResourceVersion, names: []string{"exact-1", "exact-2"}},
			{at: changed.ResourceVersion, names: []string{"exact-1", "exact-2"}, changed: "true"},
			{at: third.ResourceVersion, names: []string{"exact-1", "exact-3"}, changed: "true"},
		} {
			options := metav1.ListOptions{ResourceVersion: test.at, ResourceVersionMatch: metav1.ResourceVersionMatchExact}
			list := kit.Must(client.List(t.Context(), options))(t)
			if list.ResourceVersion != test.at || !slices.Equal(taskNames(list), test.names) || list.Items[0].Labels["changed"] != test.changed {
				t.Errorf("the list at exactly %s has resourceVersion %s and tasks %v, the first with labels %v; want %v",
					test.at, list.ResourceVersion, taskNames(list), list.Items[0].Labels, test.names)
			}
		}
		kit.Check(t, client.Delete(t.Context(), "exact-1", metav1.DeleteOptions{}))
		kit.Check(t, client.Delete(t.Context(), "exact-3", metav1.DeleteOptions{}))
	})

	// All pages of a list show the same revision, also after writes between them.
	t.Run("Pages", func(t *testing.T) {
		var want []string
		for i := range 10 {
			want = append(want, createTask(t, client, newHeldTask(fmt.Sprintf("page-%d", i))).Name)
		}
		var got []string
		options := metav1.ListOptions{Limit: 3}
		resourceVersion := ""
		for page := 0; page == 0 || options.Continue != ""; page++ {
			list := kit.Must(client.List(t.Context(), options))(t)
			if page == 0 {
				resourceVersion = list.ResourceVersion
				kit.Check(t, client.Delete(t.Context(), "page-9", metav1.DeleteOptions{}))
				createTask(t, client, newHeldTask("page-5-and-a-half"))
			}
			if list.ResourceVersion != resourceVersion {
				t.Errorf("page %d has resourceVersion %s, want %s as the first page", page, list.ResourceVersion, resourceVersion)
			}
			got = append(got, taskNames(list)...)
			options.Continue = list.Continue
		}
		if !slices.Equal(got, want) {
			t.Errorf("the pages have %v, want %v", got, want)
		}
	})

	t.Run("Future", func(t *testing.T) {
		written := createTask(t, client, newHeldTask("future"))
		future := fmt.Sprint(parseVersion(t, written.ResourceVersion) + 1_000_000)
		err := people.BatchV1alpha1().RESTClient().Get().Namespace(namespace).Resource("tasks").Param("resourceVersion", future).
			MaxRetries(0).Do(t.Context()).Error()
		if !apierrors.IsTimeout(err) || !storage.IsTooLargeResourceVersion(err) {
			t.Errorf("a list at a future resourceVersion: got %v, want a timeout that names the reason", err)
		}
	})
}

// listShows returns an error unless a new list has the task as it was written.
func listShows(ctx context.Context, client typed.TaskInterface, written *batch.Task) error {
	list, err := client.List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	i := slices.IndexFunc(list.Items, func(task batch.Task) bool { return task.Name == written.Name })
	if i < 0 {
		return fmt.Errorf("the list after %s was written lacks it: %v", written.Name, taskNames(list))
	}
	return history.Same(&list.Items[i], written)
}
