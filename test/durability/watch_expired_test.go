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
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/leat-dev/leat/pkg/generated/informers/externalversions"
	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/faultproxy"
)

// testExpired tests that requests for what etcd has compacted get 410, and that informers and paging clients recover.
func testExpired(t *testing.T, e *kit.Env) {
	namespace := e.Namespace(t)
	client := tasks(kit.Client(t, direct(t, e)), namespace)
	for _, name := range []string{"a", "b", "c", "d", "e", "f"} {
		createTask(t, client, newHeldTask(name))
	}
	page := kit.Must(client.List(t.Context(), metav1.ListOptions{Limit: 2}))(t)

	// The informer is disconnected during the changes below.
	proxy, through := faultproxy.Before(t, direct(t, e))
	var relists atomic.Int32
	through.Wrap(func(base http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			if query := r.URL.Query(); query.Get("watch") == "" || query.Get("sendInitialEvents") == "true" {
				relists.Add(1)
			}
			return base.RoundTrip(r)
		})
	})
	factory := externalversions.NewSharedInformerFactoryWithOptions(kit.Client(t, through), 0, externalversions.WithNamespace(namespace))
	lister := factory.Batch().V1alpha1().Tasks().Lister().Tasks(namespace)
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(factory.Shutdown)
	t.Cleanup(cancel)
	factory.Start(ctx.Done())
	shown := func() string {
		all, err := lister.List(labels.Everything())
		kit.Check(t, err)
		var names []string
		for _, task := range all {
			names = append(names, strings.TrimSuffix(task.Name+"-"+task.Labels["changed"], "-"))
		}
		slices.Sort(names)
		return strings.Join(names, " ")
	}
	await := func(want string) {
		t.Helper()
		kit.Eventually(t, "the informer has the stored tasks", func(context.Context) error {
			if got := shown(); got != want {
				return fmt.Errorf("the informer has %q, want %q", got, want)
			}
			return nil
		})
	}
	await("a b c d e f")
	listed := relists.Load()
	proxy.Refuse()

	labelTask(t, client, "b", "changed", "changed")
	kit.Check(t, client.Delete(t.Context(), "c", metav1.DeleteOptions{}))
	last := createTask(t, client, newHeldTask("g"))
	etcd := e.EtcdClient(t)
	kit.Must(etcd.Compact(t.Context(), parseVersion(t, last.ResourceVersion), clientv3.WithCompactPhysical()))(t)
	restart(t, e) // so that the watch cache does not have the compacted revisions

	t.Run("Watch", func(t *testing.T) {
		w := kit.Must(client.Watch(t.Context(), metav1.ListOptions{ResourceVersion: page.ResourceVersion}))(t)
		defer w.Stop()
		event := <-w.ResultChan()
		err := apierrors.FromObject(event.Object)
		if event.Type != watch.Error || !apierrors.IsResourceExpired(err) || status(err).Code != http.StatusGone {
			t.Errorf("a watch from %s: got %s: %v, want 410 Expired", page.ResourceVersion, event.Type, err)
		}
	})
	t.Run("ListExact", func(t *testing.T) {
		options := metav1.ListOptions{ResourceVersion: page.ResourceVersion, ResourceVersionMatch: metav1.ResourceVersionMatchExact}
		if _, err := client.List(t.Context(), options); !apierrors.IsResourceExpired(err) || status(err).Code != http.StatusGone {
			t.Errorf("a list at exactly %s: got %v, want 410 Expired", page.ResourceVersion, err)
		}
	})
	t.Run("Continue", func(t *testing.T) {
		_, err := client.List(t.Context(), metav1.ListOptions{Limit: 2, Continue: page.Continue})
		var status apierrors.APIStatus
		if !apierrors.IsResourceExpired(err) || !errors.As(err, &status) || status.Status().Continue == "" {
			t.Fatalf("the second page: got %v, want 410 Expired with a continue token", err)
		}
		rest := kit.Must(client.List(t.Context(), metav1.ListOptions{Continue: status.Status().Continue}))(t)
		if want := []string{"d", "e", "f", "g"}; !slices.Equal(taskNames(rest), want) {
			t.Errorf("the token of the error continues with %v, want %v", taskNames(rest), want)
		}
		if parseVersion(t, rest.ResourceVersion) < parseVersion(t, last.ResourceVersion) {
			t.Errorf("the token of the error continues at resourceVersion %s, want at least %s, the last write", rest.ResourceVersion, last.ResourceVersion)
		}
	})
	t.Run("Informer", func(t *testing.T) {
		proxy.Accept()
		await("a b-changed d e f g")
		if relists.Load() == listed {
			t.Error("the informer did not list again after etcd compacted what it missed")
		}
		createTask(t, client, newHeldTask("h"))
		await("a b-changed d e f g h")
	})
}
