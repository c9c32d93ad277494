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

	"k8s.io/client-go/rest"

	batchv1alpha1 "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/generated/clientset/versioned/scheme"
)

// TaskSetExpansion has the methods of a client of TaskSets that are not generated.
type TaskSetExpansion interface {
	// GetLogs returns a request for the output of the commands of the set, in the order of their indexes. Read it with
	// Stream, whose errors include the reason of the server (those of DoRaw do not). The stream returns an error if it
	// breaks before its end. The caller must close it. The server does not accept opts.Follow.
	GetLogs(name string, opts *batchv1alpha1.TaskLogOptions) *rest.Request
	// Records returns the records of the finished attempts at the tasks of the set. If there are more, the list has
	// metadata.continue.
	Records(ctx context.Context, name string, opts *batchv1alpha1.TaskRecordOptions) (*batchv1alpha1.TaskRecordList, error)
}

// GetLogs returns a request for the output of the commands of the set.
func (c *taskSets) GetLogs(name string, opts *batchv1alpha1.TaskLogOptions) *rest.Request {
	return c.GetClient().Get().
		Namespace(c.GetNamespace()).
		Resource("tasksets").
		Name(name).
		SubResource("log").
		VersionedParams(opts, scheme.ParameterCodec)
}

// Records returns the records of the finished attempts at the tasks of the set.
func (c *taskSets) Records(ctx context.Context, name string, opts *batchv1alpha1.TaskRecordOptions) (*batchv1alpha1.TaskRecordList, error) {
	result := &batchv1alpha1.TaskRecordList{}
	err := c.GetClient().Get().
		Namespace(c.GetNamespace()).
		Resource("tasksets").
		Name(name).
		SubResource("records").
		VersionedParams(opts, scheme.ParameterCodec).
		Do(ctx).
		Into(result)
	return result, err
}
