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

package fake

import (
	"context"

	"k8s.io/client-go/rest"

	"github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// GetLogs records a GetLogsAction. The response of the request is the Raw of the *runtime.Unknown that a reactor
// returns, or its error. Without a reactor it is "fake logs".
func (c *fakeTaskSets) GetLogs(name string, opts *v1alpha1.TaskLogOptions) *rest.Request {
	return getLogs(c.Fake, c.Namespace(), c.Resource(), name, opts)
}

// Records records a GetRecordsAction. It returns the *v1alpha1.TaskRecordList that a reactor returns, or its error.
// Without a reactor it returns an empty list.
func (c *fakeTaskSets) Records(_ context.Context, name string, opts *v1alpha1.TaskRecordOptions) (*v1alpha1.TaskRecordList, error) {
	return getRecords(c.Fake, c.Namespace(), c.Resource(), name, opts)
}
