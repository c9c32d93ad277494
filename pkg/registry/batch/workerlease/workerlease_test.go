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

package workerlease

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/leat-dev/leat/apis/batch"
)

func TestRenewedColumn(t *testing.T) {
	if got := RenewedColumn(&batch.WorkerLease{}); got != "" {
		t.Errorf("a lease that was never renewed: got %q", got)
	}
	lease := &batch.WorkerLease{Spec: batch.WorkerLeaseSpec{RenewTime: ptr.To(metav1.NewMicroTime(time.Now().Add(-time.Hour)))}}
	if got := RenewedColumn(lease); got != "60m" {
		t.Errorf("a lease that was renewed an hour ago: got %q", got)
	}
}
