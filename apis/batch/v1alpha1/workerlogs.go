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

// Names in the certificates of the two ends of a connection for reading logs.
const (
	// WorkerServerName is the DNS name in the serving certificate of every worker's log server, whatever its address.
	WorkerServerName = "leat-worker"
	// WorkerClientName is the common name of the API server's client certificate for workers. They accept no other
	// client.
	WorkerClientName = "leat-apiserver"
)

// WorkerLogPattern is the pattern, for http.ServeMux, of the path where a worker serves the output of a task. The query
// has the TaskLogOptions.
const WorkerLogPattern = "GET /logs/{namespace}/{name}/{uid}"

// WorkerLogPath returns the path where a worker serves the output of the task.
func WorkerLogPath(namespace, name string, uid types.UID) string {
	return "/logs/" + url.PathEscape(namespace) + "/" + url.PathEscape(name) + "/" + url.PathEscape(string(uid))
}

// Patterns, for http.ServeMux, of the paths where a worker serves the records and the output of attempts that it has
// not sent to the archive yet. The set is the UID of a TaskSet, or WorkerTasksWithoutSet. The entry is the name of the
// attempt in a segment.
const (
	// WorkerRecordsPattern returns a TaskRecordList in JSON. The query may have indexes, in the format of
	// spec.indexes, taskUID, and continue, which is metadata.continue of the list before.
	WorkerRecordsPattern = "GET /records/{namespace}/{set}"
	// WorkerOutputPattern returns the output of one attempt.
	WorkerOutputPattern = "GET /records/{namespace}/{set}/{entry}"
)

// WorkerTasksWithoutSet stands for the UID of a TaskSet in the paths of tasks without one.
const WorkerTasksWithoutSet = "tasks"

// WorkerRecordsPath returns the path where a worker serves the records of attempts at tasks of a set. set is
// empty for tasks without one.
func WorkerRecordsPath(namespace string, set types.UID) string {
	if set == "" {
		set = WorkerTasksWithoutSet
	}
	return "/records/" + url.PathEscape(namespace) + "/" + url.PathEscape(string(set))
}

// WorkerOutputPath returns the path where a worker serves the output of an attempt.
func WorkerOutputPath(namespace string, set types.UID, entry string) string {
	return WorkerRecordsPath(namespace, set) + "/" + url.PathEscape(entry)
}
