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
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	batchv1alpha1 "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/generated/clientset/versioned/scheme"
)

// WorkerExpansion has the methods of a client of workers that are not generated.
type WorkerExpansion interface {
	// Archive stores a segment, a zip file with the output and the records of finished attempts, in the archive. With an
	// empty segment nothing is stored: the error is NotFound if there is no archive. The Status has the limits of the
	// server, as batchv1alpha1.MaxBytesPerAttempt returns them. Archive does not retry.
	Archive(ctx context.Context, name string, opts *batchv1alpha1.WorkerArchiveOptions, segment []byte) (*metav1.Status, error)
}

// Archive stores a segment in the archive.
func (c *workers) Archive(ctx context.Context, name string, opts *batchv1alpha1.WorkerArchiveOptions, segment []byte) (*metav1.Status, error) {
	result := c.GetClient().Post().
		Namespace(c.GetNamespace()).
		Resource("workers").
		Name(name).
		SubResource("archive").
		VersionedParams(opts, scheme.ParameterCodec).
		SetHeader("Content-Type", "application/zip").
		MaxRetries(0).
		Body(segment).
		Do(ctx)
	if err := result.Error(); err != nil {
		return nil, err
	}
	status := &metav1.Status{}
	if err := result.Into(status); err != nil {
		return &metav1.Status{Status: metav1.StatusSuccess}, nil // the segment is stored, whatever the body is
	}
	return status, nil
}
