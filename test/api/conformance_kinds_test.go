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

package api

import (
	"strconv"
	"strings"
)

// kind describes a served kind. Objects, values and patches are JSON. Patches are merge patches.
type kind struct {
	resource, kind, singular string
	shortNames, categories   []string
	unwatched                bool
	// dnsLabelNames is true if names are DNS labels of at most 63 characters, and false if they are DNS subdomains.
	dnsLabelNames bool
	// graceful is true if deletion may be graceful. DELETE then returns the object, otherwise a Status.
	graceful bool

	// object is an object without metadata that no controller changes.
	object string
	// spec is a mutable field of the spec.
	spec field
	// status is a field of the status. Its path is empty if the kind has no status.
	status field
	// invalid lists patches of object that fail validation on creation.
	invalid []invalidPatch
	// immutable lists patches of object that fail validation on update.
	immutable []invalidPatch
	// serverConditions lists the types of the conditions that the server sets in each status.
	serverConditions []string
	// invalidStatus lists patches of the status that fail validation, besides those of conditions.
	invalidStatus []invalidPatch

	// populate makes an object as components leave it. It is nil if they write nothing but the status.
	populate func(*subject, string)

	// selectable maps the selectable fields, besides metadata.name and metadata.namespace, to the values of object.
	selectable map[string]string
	// columns are the columns of a table, and wide those of priority 1.
	columns, wide []string

	subresources map[string]subresource
}

// field is a mutable field, with two valid values and an invalid one.
type field struct {
	path     string
	one, two string
	invalid  string
	// invalidPath is the field that the error names, if it is not path.
	invalidPath string
}

// invalidPatch is a patch that fails validation, with the field that the error names.
type invalidPatch struct {
	patch, field string
}

// subresource describes a subresource. It has either only POST, or GET, PUT and PATCH, or only GET, as a stream.
type subresource struct {
	apiVersion, kind string // apiVersion is the group's if empty
	verbs            []string
	// body is the object to POST. It is empty if the subresource has no POST.
	body string
	// field is the field to update. For the status, it is that of the kind.
	field field
	// unknownField is the path of a field that does not exist.
	unknownField string
	// prepare changes an object so that body can be posted. Nil means that no change is needed.
	prepare func(*subject, string)
	// answers is true if GET returns an object of the kind, also of an object that has just been created.
	answers bool
	// connects is true if only workers may POST, and no object.
	connects bool
	// invalidQueries maps query parameters that a stream refuses to the name of the invalid one.
	invalidQueries map[string]string
}

var (
	allVerbs       = []string{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"}
	unwatchedVerbs = []string{"create", "delete", "deletecollection", "get", "list", "patch", "update"}
	updateVerbs    = []string{"get", "patch", "update"}
	createVerbs    = []string{"create"}
	getVerbs       = []string{"get"}
)

// recordQueries are query parameters that the records subresource refuses.
var recordQueries = map[string]string{"limit=0": "limit", "limit=10001": "limit", "limit=x": "limit", "continue=x": "continue", "indexes=x": "indexes"}

// stringOfLength returns a JSON string of n characters.
func stringOfLength(n int) string { return strconv.Quote(strings.Repeat("x", n)) }

// conformanceKinds lists all served kinds. The test of discovery fails if it has fewer or more.
var conformanceKinds = []kind{
	{
		resource: "tasks", kind: "Task", singular: "task", shortNames: []string{"tk"}, graceful: true,
		object: `{"spec": {
			"command": ["true"], "env": [{"name": "A", "value": "1"}], "activeDeadlineSeconds": 100,
			"tolerations": [{"key": "example.com/t", "operator": "Exists"}],
			"schedulingGates": [{"name": "example.com/one"}, {"name": "example.com/two"}]
		}}`,
		spec:   field{path: "spec.ttlSecondsAfterFinished", one: `100`, two: `200`, invalid: `-1`},
		status: field{path: "status.progress", one: `"1/2"`, two: `"2/2"`, invalid: stringOfLength(65)},
		invalid: []invalidPatch{
			{`{"spec": {"command": null}}`, "spec.command"},
			{`{"spec": {"command": [""]}}`, "spec.command[0]"},
			{`{"spec": {"command": ["a\u0000b"]}}`, "spec.command[0]"},
			{`{"spec": {"args": ["a\u0000b"]}}`, "spec.args[0]"},
			{`{"spec": {"queueName": "Not valid"}}`, "spec.queueName"},
			{`{"spec": {"priority": 1000000001}}`, "spec.priority"},
			{`{"spec": {"env": [{"name": "A=B"}]}}`, "spec.env[0].name"},
			{`{"spec": {"env": [{"name": "A"}, {"name": "A"}]}}`, "spec.env[1].name"},
			{`{"spec": {"resources": {"requests": {"cpu": "-1"}}}}`, "spec.resources.requests[cpu]"},
			{`{"spec": {"resources": {"requests": {"gpu": "1"}}}}`, "spec.resources.requests[gpu]"},
			{`{"spec": {"workerSelector": {"not valid": "x"}}}`, "spec.workerSelector"},
			{`{"spec": {"pool": "Not valid"}}`, "spec.pool"},
			{`{"spec": {"tolerations": [{"operator": "Equal"}]}}`, "spec.tolerations[0].operator"},
			{`{"spec": {"tolerations": [{"key": "a", "operator": "Exists", "value": "b"}]}}`, "spec.tolerations[0].value"},
			{`{"spec": {"tolerations": [{"key": "a", "effect": "Never"}]}}`, "spec.tolerations[0].effect"},
			{`{"spec": {"activeDeadlineSeconds": 0}}`, "spec.activeDeadlineSeconds"},
			{`{"spec": {"backoffLimit": -1}}`, "spec.backoffLimit"},
			{`{"spec": {"terminationGracePeriodSeconds": -1}}`, "spec.terminationGracePeriodSeconds"},
			{`{"spec": {"schedulingGates": [{"name": "not valid"}]}}`, "spec.schedulingGates[0].name"},
		},
		immutable: []invalidPatch{
			{`{"spec": {"command": ["false"]}}`, "spec.command"},
			{`{"spec": {"args": ["x"]}}`, "spec.args"},
			{`{"spec": {"env": [{"name": "A", "value": "2"}]}}`, "spec.env"},
			{`{"spec": {"workingDir": "/"}}`, "spec.workingDir"},
			{`{"spec": {"resources": {"requests": {"cpu": "1"}}}}`, "spec.resources"},
			{`{"spec": {"workerSelector": {"a": "b"}}}`, "spec.workerSelector"},
			{`{"spec": {"pool": "other"}}`, "spec.pool"},
			{`{"spec": {"backoffLimit": 1}}`, "spec.backoffLimit"},
			{`{"spec": {"terminationGracePeriodSeconds": 1}}`, "spec.terminationGracePeriodSeconds"},
			{`{"spec": {"activeDeadlineSeconds": 101}}`, "spec.activeDeadlineSeconds"},
			{`{"spec": {"activeDeadlineSeconds": null}}`, "spec.activeDeadlineSeconds"},
			{`{"spec": {"tolerations": []}}`, "spec.tolerations"},
			{`{"spec": {"schedulingGates": [{"name": "example.com/three"}]}}`, "spec.schedulingGates"},
		},
		invalidStatus: []invalidPatch{
			{`{"status": {"phase": "Lost"}}`, "status.phase"},
			{`{"status": {"phase": null}}`, "status.phase"},
			{`{"status": {"disruptions": 1}}`, "status.disruptions"},
			{`{"status": {"state": {"waiting": {}, "running": {}}}}`, "status.state"},
		},
		populate:         bindTask,
		serverConditions: []string{"Reconciling", "TaskScheduled"}, // TaskScheduled is False: the object has gates
		selectable:       map[string]string{"spec.workerName": "", "spec.queueName": "default", "spec.pool": "", "status.phase": "Pending"},
		columns:          []string{"Name", "Status", "Worker", "Exit", "Attempts", "Indexes", "Age"},
		wide:             []string{"Queue", "Priority", "Wait", "Duration", "Reason"},
		subresources: map[string]subresource{
			"status": {kind: "Task", verbs: updateVerbs, unknownField: "status.bogus"},
			"binding": {
				kind: "Binding", verbs: createVerbs, unknownField: "target.bogus",
				body: `{"target": {"name": "worker-a1b2c", "incarnation": "i1"}}`, prepare: removeGates,
			},
			"eviction": {
				kind: "Eviction", verbs: createVerbs, unknownField: "bogus",
				body: `{"reason": "WorkerLost", "message": "it is gone"}`, prepare: bindTask,
			},
			"log": {
				kind: "Task", verbs: getVerbs,
				invalidQueries: map[string]string{
					"sinceSeconds=soon": "sinceSeconds", "sinceSeconds=0": "sinceSeconds", "sinceTime=now": "sinceTime", "tailLines=-1": "tailLines",
					"tailLines=1.5": "tailLines", "limitBytes=0": "limitBytes", "limitBytes=": "limitBytes",
					"sinceSeconds=1&sinceTime=2026-01-01T00:00:00Z": "sinceTime", "attempt=0": "attempt", "attempt=1&previous=true": "attempt",
				},
			},
			"records": {kind: "TaskRecordList", verbs: getVerbs, answers: true, invalidQueries: recordQueries},
		},
	},
	{
		resource: "tasksets", kind: "TaskSet", singular: "taskset", shortNames: []string{"tks"}, categories: []string{"all"},
		dnsLabelNames: true,
		object: `{"spec": {
			"suspend": true, "parallelism": 1, "completions": 5, "completionMode": "Indexed",
			"template": {"metadata": {"labels": {"a": "b"}}, "spec": {"command": ["true"]}}
		}}`,
		spec:   field{path: "spec.parallelism", one: `2`, two: `3`, invalid: `-1`},
		status: field{path: "status.active", one: `1`, two: `2`, invalid: `-1`},
		invalid: []invalidPatch{
			{`{"spec": {"completions": -1}}`, "spec.completions"},
			{`{"spec": {"completions": null}}`, "spec.completions"},
			{`{"spec": {"completionMode": "Sorted"}}`, "spec.completionMode"},
			{`{"spec": {"backoffLimit": -1}}`, "spec.backoffLimit"},
			{`{"spec": {"completionMode": "NonIndexed", "backoffLimitPerIndex": 1}}`, "spec.backoffLimitPerIndex"},
			{`{"spec": {"maxFailedIndexes": 1}}`, "spec.maxFailedIndexes"},
			{`{"spec": {"completions": 100001, "parallelism": 10001}}`, "spec.parallelism"},
			{`{"spec": {"completions": 100001, "backoffLimitPerIndex": 1}}`, "spec.maxFailedIndexes"},
			{`{"spec": {"activeDeadlineSeconds": 0}}`, "spec.activeDeadlineSeconds"},
			{`{"spec": {"ttlSecondsAfterFinished": -1}}`, "spec.ttlSecondsAfterFinished"},
			{`{"spec": {"successPolicy": {"rules": [{}]}}}`, "spec.successPolicy.rules[0]"},
			{`{"spec": {"successPolicy": {"rules": [{"succeededIndexes": "5"}]}}}`, "spec.successPolicy.rules[0].succeededIndexes"},
			{`{"spec": {"items": ["a"]}}`, "spec.completions"},
			{`{"spec": {"items": ["a", "b", "c", "d", "\u0000"]}}`, "spec.items[4]"},
			{`{"spec": {"completionMode": "NonIndexed", "items": ["a", "b", "c", "d", "e"]}}`, "spec.items"},
			{`{"spec": {"taskFailurePolicy": {"rules": [{"action": "Ignore"}]}}}`, "spec.taskFailurePolicy.rules[0]"},
			{`{"spec": {"taskFailurePolicy": {"rules": [{"action": "Count", "onExitCodes": {"operator": "In", "values": [0]}}]}}}`, "spec.taskFailurePolicy.rules[0].onExitCodes.values"},
			{`{"spec": {"template": {"metadata": {"labels": {"not valid": ""}}}}}`, "spec.template.metadata.labels"},
			{`{"spec": {"template": {"spec": {"command": null}}}}`, "spec.template.spec.command"},
			{`{"spec": {"template": {"spec": {"workerName": "w"}}}}`, "spec.template.spec.workerName"},
			{`{"spec": {"template": {"spec": {"queueName": "other"}}}}`, "spec.template.spec.queueName"},
			{`{"spec": {"selector": {"matchLabels": {"a": "b"}}}}`, "spec.selector"},
			{`{"spec": {"selector": {"matchLabels": {"a": "b", "batch.leat.dev/controller-uid": "u"}}}}`, "spec.selector"},
		},
		immutable: []invalidPatch{
			{`{"spec": {"completions": 6}}`, "spec.completions"},
			{`{"spec": {"completionMode": "NonIndexed"}}`, "spec.completionMode"},
			{`{"spec": {"backoffLimitPerIndex": 1}}`, "spec.backoffLimitPerIndex"},
			{`{"spec": {"taskFailurePolicy": {"rules": [{"action": "Ignore", "onExitCodes": {"operator": "In", "values": [1]}}]}}}`, "spec.taskFailurePolicy"},
			{`{"spec": {"successPolicy": {"rules": [{"succeededCount": 1}]}}}`, "spec.successPolicy"},
			{`{"spec": {"items": ["a", "b", "c", "d", "e"]}}`, "spec.items"},
			{`{"spec": {"selector": {"matchLabels": {"a": "b"}}}}`, "spec.selector"},
			{`{"spec": {"template": {"spec": {"command": ["false"]}}}}`, "spec.template.spec.command"},
			{`{"spec": {"template": {"spec": {"ttlSecondsAfterFinished": 7}}}}`, "spec.template.spec.ttlSecondsAfterFinished"},
			{`{"spec": {"template": {"metadata": {"labels": {"a": "c"}}}}}`, "spec.template.metadata"},
		},
		serverConditions: []string{"Reconciling"},
		invalidStatus: []invalidPatch{
			{`{"status": {"completedIndexes": "3-1"}}`, "status.completedIndexes"},
			{`{"status": {"completedIndexes": "5"}}`, "status.completedIndexes"},
			{`{"status": {"failedIndexes": "a"}}`, "status.failedIndexes"},
			{`{"status": {"ready": -1}}`, "status.ready"},
			{`{"status": {"conditions": [
				{"type": "Complete", "status": "True", "reason": "A", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"},
				{"type": "Failed", "status": "True", "reason": "A", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}
			]}}`, "status.conditions"},
		},
		selectable: map[string]string{"spec.queueName": "default"},
		columns:    []string{"Name", "Status", "Completions", "Active", "Failed", "Duration", "Age"},
		subresources: map[string]subresource{
			"status": {kind: "TaskSet", verbs: updateVerbs, unknownField: "status.bogus"},
			"scale": {
				apiVersion: "autoscaling/v1", kind: "Scale", verbs: updateVerbs, unknownField: "spec.bogus",
				field: field{path: "spec.replicas", one: `2`, two: `3`, invalid: `-1`},
			},
			"log": {
				kind: "TaskSet", verbs: getVerbs,
				invalidQueries: map[string]string{
					"follow=true": "follow", "attempt=0": "attempt", "attempt=1&previous=true": "attempt", "tailLines=-1": "tailLines", "indexes=x": "indexes", "indexes=5": "indexes",
				},
			},
			"records": {kind: "TaskRecordList", verbs: getVerbs, answers: true, invalidQueries: recordQueries},
		},
	},
	{
		resource: "taskqueues", kind: "TaskQueue", singular: "taskqueue", shortNames: []string{"tq"}, categories: []string{"all"},
		object: `{"spec": {"maxRunningTasks": 5, "resources": {"limits": {"cpu": "10"}}}}`,
		spec:   field{path: "spec.weight", one: `2`, two: `3`, invalid: `0`},
		status: field{path: "status.pending", one: `1`, two: `2`, invalid: `-1`},
		invalid: []invalidPatch{
			{`{"spec": {"weight": 1000001}}`, "spec.weight"},
			{`{"spec": {"maxRunningTasks": -1}}`, "spec.maxRunningTasks"},
			{`{"spec": {"maxPendingTasks": -1}}`, "spec.maxPendingTasks"},
			{`{"spec": {"stopPolicy": "Sometimes"}}`, "spec.stopPolicy"},
			{`{"spec": {"resources": {"limits": {"memory": "-1"}}}}`, "spec.resources.limits[memory]"},
			{`{"spec": {"resources": {"limits": {"gpu": "1"}}}}`, "spec.resources.limits[gpu]"},
		},
		invalidStatus: []invalidPatch{{`{"status": {"running": -1}}`, "status.running"}},
		columns:       []string{"Name", "Pending", "Running", "Limit", "Stop", "Age"},
		subresources: map[string]subresource{
			"status": {kind: "TaskQueue", verbs: updateVerbs, unknownField: "status.bogus"},
		},
	},
	{
		resource: "workers", kind: "Worker", singular: "worker", shortNames: []string{"wkr"},
		object: `{"spec": {"unschedulable": true}}`,
		spec: field{
			path:        "spec.taints",
			one:         `[{"key": "example.com/one", "effect": "NoSchedule"}]`,
			two:         `[{"key": "example.com/two", "effect": "NoExecute"}]`,
			invalid:     `[{"key": "example.com/one", "effect": "Never"}]`,
			invalidPath: "spec.taints[0].effect",
		},
		status: field{path: "status.runningTasks", one: `1`, two: `2`, invalid: `-1`},
		invalid: []invalidPatch{
			{`{"spec": {"taints": [{"key": "", "effect": "NoSchedule"}]}}`, "spec.taints[0].key"},
			{`{"spec": {"taints": [{"key": "a"}]}}`, "spec.taints[0].effect"},
			{`{"spec": {"taints": [{"key": "a", "value": "not valid", "effect": "NoSchedule"}]}}`, "spec.taints[0].value"},
			{`{"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}, {"key": "a", "effect": "NoSchedule"}]}}`, "spec.taints[1]"},
		},
		invalidStatus: []invalidPatch{
			{`{"status": {"capacity": {"tasks": "-1"}}}`, "status.capacity[tasks]"},
			{`{"status": {"capacity": {"tasks": "1.5"}}}`, "status.capacity[tasks]"},
			{`{"status": {"capacity": {"tasks": "1"}, "allocatable": {"tasks": "2"}}}`, "status.allocatable[tasks]"},
			{`{"status": {"endpoint": {"host": "localhost", "port": 0}}}`, "status.endpoint.port"},
			{`{"status": {"endpoint": {"host": "localhost", "port": 1}}}`, "status.endpoint.caBundle"},
			{`{"status": {"endpoint": {"host": "localhost", "port": 1, "caBundle": "bm9uZQ=="}}}`, "status.endpoint.caBundle"},
			{`{"status": {"endpoint": {"host": "a.b:80/c", "port": 1}}}`, "status.endpoint.host"},
		},
		selectable: map[string]string{"spec.unschedulable": "true"},
		columns:    []string{"Name", "Status", "Tasks", "Version", "Age"},
		subresources: map[string]subresource{
			"status":  {kind: "Worker", verbs: updateVerbs, unknownField: "status.bogus"},
			"archive": {kind: "WorkerArchiveOptions", verbs: createVerbs, connects: true},
		},
	},
	{
		resource: "workerleases", kind: "WorkerLease", singular: "workerlease", unwatched: true,
		object:  `{"spec": {"holderIdentity": "i1", "renewTime": "2026-01-01T00:00:00.000000Z"}}`,
		spec:    field{path: "spec.leaseDurationSeconds", one: `50`, two: `60`, invalid: `0`},
		invalid: []invalidPatch{{`{"spec": {"holderIdentity": ` + stringOfLength(129) + `}}`, "spec.holderIdentity"}},
		columns: []string{"Name", "Holder", "Renewed", "Age"},
	},
}
