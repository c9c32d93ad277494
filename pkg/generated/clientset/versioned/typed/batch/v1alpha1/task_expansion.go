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
	"k8s.io/client-go/rest"

	batchv1alpha1 "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/generated/clientset/versioned/scheme"
)

// TaskExpansion has the methods of a client of tasks that are not generated.
type TaskExpansion interface {
	// GetLogs is a request for the output of the task's command, to be read with Stream, whose errors say why it cannot be read
	// (those of DoRaw do not). A stream ends when what there is was read, or, if the options say to follow, when the attempt
	// has ended; it fails if it breaks off before. It must be closed.
	GetLogs(name string, opts *batchv1alpha1.TaskLogOptions) *rest.Request
}

// GetLogs is a request for the output of the task's command.
func (c *tasks) GetLogs(name string, opts *batchv1alpha1.TaskLogOptions) *rest.Request {
	return c.GetClient().Get().
		Namespace(c.GetNamespace()).
		Resource("tasks").
		Name(name).
		SubResource("log").
		VersionedParams(opts, scheme.ParameterCodec)
}
