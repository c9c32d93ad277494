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

package storage

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/storage"
)

func TestTranslate(t *testing.T) {
	other := errors.New("another")
	for _, test := range []struct {
		name   string
		err    error
		code   int32
		reason metav1.StatusReason
		texts  []string // in the message
	}{
		{"full", rpctypes.ErrNoSpace, http.StatusInsufficientStorage, "InsufficientStorage", []string{"etcdctl alarm disarm", "docs/how-to/etcd.md"}},
		{"full, wrapped", fmt.Errorf("txn: %w", rpctypes.ErrNoSpace), http.StatusInsufficientStorage, "InsufficientStorage", nil},
		{
			"a key without its prefix", storage.NewCorruptObjError("/tasks/a/b", other), http.StatusInternalServerError, "StorageReadError",
			[]string{"/leat/tasks/a/b in etcd cannot be read: another", "ignoreStoreReadErrorWithClusterBreakingPotential", "docs/how-to/etcd.md"},
		},
		{
			"a key with its prefix", storage.NewCorruptObjError("/leat/tasks/a/b", other), http.StatusInternalServerError, "StorageReadError",
			[]string{"/leat/tasks/a/b in etcd cannot be read: another"},
		},
		{
			"a list", &apierrors.StatusError{ErrStatus: metav1.Status{
				Status: metav1.StatusFailure, Code: 500, Reason: metav1.StatusReasonStoreReadError, Message: "of /leat/tasks/a/b",
			}},
			http.StatusInternalServerError, "StorageReadError", []string{"of /leat/tasks/a/b; ", "docs/how-to/etcd.md"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			var status apierrors.APIStatus
			if !errors.As(errorTranslatingStorage{prefix: "/leat"}.translate(test.err), &status) {
				t.Fatal("not an APIStatus")
			}
			got := status.Status()
			if got.Status != metav1.StatusFailure || got.Code != test.code || got.Reason != test.reason {
				t.Errorf("got %+v, want %d and %s", got, test.code, test.reason)
			}
			for _, text := range test.texts {
				if !strings.Contains(got.Message, text) {
					t.Errorf("got %q, want %q in it", got.Message, text)
				}
			}
		})
	}
	for _, err := range []error{nil, other, storage.NewKeyNotFoundError("/tasks/a/b", 0)} {
		if got := (errorTranslatingStorage{prefix: "/leat"}).translate(err); !errors.Is(got, err) || got != nil && got.Error() != err.Error() {
			t.Errorf("%v became %v", err, got)
		}
	}
}
