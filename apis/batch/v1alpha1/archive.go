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

package v1alpha1

import (
	"strconv"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// CauseMaxBytesPerAttempt is the type of a cause in the Status with which the archive subresource of a worker responds
// on success. Its message is how many bytes of the output of an attempt a segment may have.
const CauseMaxBytesPerAttempt metav1.CauseType = "MaxBytesPerAttempt"

// ArchiveStatus returns the Status for a segment that is stored, or that is empty.
func ArchiveStatus(maxBytesPerAttempt int64) *metav1.Status {
	return &metav1.Status{Status: metav1.StatusSuccess, Details: &metav1.StatusDetails{Causes: []metav1.StatusCause{{
		Type: CauseMaxBytesPerAttempt, Message: strconv.FormatInt(maxBytesPerAttempt, 10),
	}}}}
}

// MaxBytesPerAttempt returns how many bytes of the output of an attempt a segment may have. ok is false if the Status
// does not have it.
func MaxBytesPerAttempt(status *metav1.Status) (bytes int64, ok bool) {
	if status == nil || status.Details == nil {
		return 0, false
	}
	for _, cause := range status.Details.Causes {
		if cause.Type == CauseMaxBytesPerAttempt {
			bytes, err := strconv.ParseInt(cause.Message, 10, 64)
			return bytes, err == nil && bytes >= 0
		}
	}
	return 0, false
}
