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

package framework

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

func TestPoolOrdinal(t *testing.T) {
	for _, test := range []struct {
		pool, name string
		want       int64 // the rank
	}{
		{"p", "p-0", 1}, {"p", "p-17", 18}, {"a-b", "a-b-3", 4},
		{"", "p-0", 0}, {"p", "p", 0}, {"p", "p-", 0}, {"p", "p-01", 0}, {"p", "p-x", 0}, {"p", "p--1", 0}, {"p", "q-1", 0},
		{"p", "p-99999999999", 0},
	} {
		worker := &batch.Worker{ObjectMeta: metav1.ObjectMeta{Name: test.name}}
		if test.pool != "" {
			worker.Labels = map[string]string{batch.LabelPool: test.pool}
		}
		ordinal, ok := PoolOrdinal(worker)
		if got := NewWorkerState(worker).PoolRank; got != test.want || ok != (test.want > 0) || ok && int64(ordinal) != test.want-1 {
			t.Errorf("worker %s of pool %q: got ordinal %d, %t, rank %d, want rank %d", test.name, test.pool, ordinal, ok, got, test.want)
		}
	}
}
