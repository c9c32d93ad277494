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

package api

import (
	"context"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/utils/ptr"

	"github.com/leat-dev/leat/apis/batch"
	"github.com/leat-dev/leat/test/kit/host"
)

// TestUpdatesEndOnlyWhatTheyHaveSeen patches a task whose deletion waits for nothing more, which deletes it. If another
// task has replaced it meanwhile, that one must stay.
func TestUpdatesEndOnlyWhatTheyHaveSeen(t *testing.T) {
	etcd := host.EtcdForTest(t)
	stores := registryKinds["tasks"].openAll(t, etcd, "--watch-cache=false")
	backend := stores.Store.Storage.Storage
	for _, test := range []struct {
		name string
		rest rest.Storage
		// replaced is set if another task of the same name exists at the time of the deletion.
		replaced bool
	}{
		{"of the object", stores.Main(), false},
		{"of the object, replaced", stores.Main(), true},
		{"of its status", stores.Status(), false},
		{"of its status, replaced", stores.Status(), true},
	} {
		t.Run(test.name, func(t *testing.T) {
			ctx := genericapirequest.WithRequestInfo(genericapirequest.WithNamespace(t.Context(), "test"),
				&genericapirequest.RequestInfo{APIGroup: "batch.leat.dev", APIVersion: "v1alpha1", Resource: "tasks", Verb: "patch"})
			task := func(uid types.UID) *batch.Task {
				task := registryKinds["tasks"].valid.DeepCopyObject().(*batch.Task)
				task.Name, task.Namespace, task.UID = "one", "test", uid
				return task
			}
			key, err := stores.Store.KeyFunc(ctx, "one")
			if err != nil {
				t.Fatal(err)
			}
			must := func(err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}
			remove := func() error {
				return backend.Delete(ctx, key, &batch.Task{}, nil, storage.ValidateAllObjectFunc, nil, storage.DeleteOptions{})
			}
			doomed := task("doomed")
			doomed.DeletionTimestamp, doomed.DeletionGracePeriodSeconds = &metav1.Time{}, ptr.To[int64](0)
			*doomed.DeletionTimestamp = metav1.Now()
			must(backend.Create(ctx, key, doomed, &batch.Task{}, 0))
			patch := rest.DefaultUpdatedObjectInfo(nil, func(_ context.Context, _, old runtime.Object) (runtime.Object, error) {
				if test.replaced {
					must(remove())
					must(backend.Create(ctx, key, task("another"), &batch.Task{}, 0))
				}
				return old.DeepCopyObject(), nil
			})
			_, _, err = test.rest.(rest.Updater).Update(ctx, "one", patch, rest.ValidateAllObjectFunc, rest.ValidateAllObjectUpdateFunc, false, &metav1.UpdateOptions{})
			there := &batch.Task{}
			must(backend.Get(ctx, key, storage.GetOptions{IgnoreNotFound: true}, there))
			switch {
			case test.replaced && (there.UID != "another" || !apierrors.IsConflict(err)):
				t.Errorf("the patch returns %v, and the stored task is %q; want a conflict, and the other task", err, there.UID)
			case !test.replaced && (there.UID != "" || err != nil):
				t.Errorf("the patch returns %v, and the stored task is %q; want no error, and no task", err, there.UID)
			}
			if there.UID != "" {
				must(remove())
			}
		})
	}
}
