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
	"net/url"

	"k8s.io/apimachinery/pkg/types"
)

// The two ends of the connection by which logs are read know each other by name: each shows a certificate for its own.
const (
	// WorkerServerName is the DNS name that the certificate of a worker is for where it serves logs, wherever that is.
	WorkerServerName = "leat-worker"
	// WorkerClientName is the common name of the certificate that the API server shows to workers. They serve nobody else.
	WorkerClientName = "leat-apiserver"
)

// WorkerLogPattern is the path, as http.ServeMux has patterns, where a worker serves the output of a task. Its query is the
// task's TaskLogOptions.
const WorkerLogPattern = "GET /logs/{namespace}/{name}/{uid}"

// WorkerLogPath is the path where a worker serves the output of that task.
func WorkerLogPath(namespace, name string, uid types.UID) string {
	return "/logs/" + url.PathEscape(namespace) + "/" + url.PathEscape(name) + "/" + url.PathEscape(string(uid))
}
