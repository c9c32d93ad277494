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

// kind is what the rules must know of a kind that is served. Objects, values and patches are JSON; patches are merge patches.
type kind struct {
	resource, kind, singular string
	shortNames, categories   []string
	unwatched                bool
	// shortNamed is whether names are DNS labels, of at most 63 characters, and not DNS subdomains.
	shortNamed bool
	// graceful is whether a deletion may have two steps. What is deleted is then the answer, and else a Status.
	graceful bool

	// object is an object without its metadata, at rest: no controller does anything about it.
	object string
	// spec is a field of the spec that may change.
	spec field
	// status is a field of the status. Its path is empty where there is no status.
	status field
	// invalid is what makes the object one that cannot be created.
	invalid []refusal
	// immutable is what the object cannot be changed by.
	immutable []refusal
	// derived are the types of the conditions that the server sets in each status.
	derived []string
	// invalidStatus is what its status cannot be changed by, conditions aside.
	invalidStatus []refusal

	// live brings an object to where components have written all that they write. Nil if there is nothing but the status.
	live func(*scene, string)

	// selectable are the fields that selectors may name, besides metadata.name and metadata.namespace, with the object's
	// value.
	selectable map[string]string
	// columns are those of a table, and wide those that it has only when asked for more.
	columns, wide []string

	subresources map[string]subresource
}

// field is a field with two values that may follow each other and the object's own, and one that is refused.
type field struct {
	path     string
	one, two string
	refused  string
	// names is the path that the refusal names, if it is not the field's.
	names string
}

// refusal is a patch that is refused, with the path of the field that the answer names.
type refusal struct {
	patch, names string
}

// subresource is what the rules must know of a subresource. It is created, with a body; or read and updated; or only read, as a
// stream.
type subresource struct {
	apiVersion, kind string // apiVersion is the group's if empty
	verbs            []string
	// body is what is created.
	body string
	// field is what is updated.
	field field
	// unknown is the path of a field that there is not.
	unknown string
	// prepare brings an object into the state in which body can be created.
	prepare func(*scene, string)
	// badQueries are parameters that a stream refuses, with the name of the one that is wrong.
	badQueries map[string]string
}

var (
	allVerbs       = []string{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"}
	unwatchedVerbs = []string{"create", "delete", "deletecollection", "get", "list", "patch", "update"}
	partVerbs      = []string{"get", "patch", "update"}
	createVerbs    = []string{"create"}
	getVerbs       = []string{"get"}
)

// long makes a JSON string of n characters.
func long(n int) string { return strconv.Quote(strings.Repeat("x", n)) }

// kinds is every kind that is served. What is served and not here fails the test of discovery, and so does what is here and
// not served.
var kinds = []kind{
	{
		resource: "tasks", kind: "Task", singular: "task", shortNames: []string{"tk"}, graceful: true,
		object: `{"spec": {
			"command": ["true"], "env": [{"name": "A", "value": "1"}], "activeDeadlineSeconds": 100,
			"tolerations": [{"key": "example.com/t", "operator": "Exists"}],
			"schedulingGates": [{"name": "example.com/one"}, {"name": "example.com/two"}]
		}}`,
		spec:   field{path: "spec.ttlSecondsAfterFinished", one: `100`, two: `200`, refused: `-1`},
		status: field{path: "status.progress", one: `"1/2"`, two: `"2/2"`, refused: long(65)},
		invalid: []refusal{
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
			{`{"spec": {"tolerations": [{"operator": "Equal"}]}}`, "spec.tolerations[0].operator"},
			{`{"spec": {"tolerations": [{"key": "a", "operator": "Exists", "value": "b"}]}}`, "spec.tolerations[0].value"},
			{`{"spec": {"tolerations": [{"key": "a", "effect": "Never"}]}}`, "spec.tolerations[0].effect"},
			{`{"spec": {"activeDeadlineSeconds": 0}}`, "spec.activeDeadlineSeconds"},
			{`{"spec": {"backoffLimit": -1}}`, "spec.backoffLimit"},
			{`{"spec": {"terminationGracePeriodSeconds": -1}}`, "spec.terminationGracePeriodSeconds"},
			{`{"spec": {"schedulingGates": [{"name": "not valid"}]}}`, "spec.schedulingGates[0].name"},
		},
		immutable: []refusal{
			{`{"spec": {"command": ["false"]}}`, "spec.command"},
			{`{"spec": {"args": ["x"]}}`, "spec.args"},
			{`{"spec": {"env": [{"name": "A", "value": "2"}]}}`, "spec.env"},
			{`{"spec": {"workingDir": "/"}}`, "spec.workingDir"},
			{`{"spec": {"resources": {"requests": {"cpu": "1"}}}}`, "spec.resources"},
			{`{"spec": {"workerSelector": {"a": "b"}}}`, "spec.workerSelector"},
			{`{"spec": {"backoffLimit": 1}}`, "spec.backoffLimit"},
			{`{"spec": {"terminationGracePeriodSeconds": 1}}`, "spec.terminationGracePeriodSeconds"},
			{`{"spec": {"activeDeadlineSeconds": 101}}`, "spec.activeDeadlineSeconds"},
			{`{"spec": {"activeDeadlineSeconds": null}}`, "spec.activeDeadlineSeconds"},
			{`{"spec": {"tolerations": []}}`, "spec.tolerations"},
			{`{"spec": {"schedulingGates": [{"name": "example.com/three"}]}}`, "spec.schedulingGates"},
		},
		invalidStatus: []refusal{
			{`{"status": {"phase": "Lost"}}`, "status.phase"},
			{`{"status": {"phase": null}}`, "status.phase"},
			{`{"status": {"disruptions": 1}}`, "status.disruptions"},
			{`{"status": {"state": {"waiting": {}, "running": {}}}}`, "status.state"},
		},
		live:       bindTask,
		derived:    []string{"Reconciling", "TaskScheduled"}, // it has a gate
		selectable: map[string]string{"spec.workerName": "", "spec.queueName": "default", "status.phase": "Pending"},
		columns:    []string{"Name", "Status", "Worker", "Exit", "Attempts", "Age"},
		wide:       []string{"Queue", "Priority", "Wait", "Duration", "Reason"},
		subresources: map[string]subresource{
			"status": {kind: "Task", verbs: partVerbs, unknown: "status.bogus"},
			"binding": {
				kind: "Binding", verbs: createVerbs, unknown: "target.bogus",
				body: `{"target": {"name": "worker-a1b2c", "incarnation": "i1"}}`, prepare: removeGates,
			},
			"eviction": {
				kind: "Eviction", verbs: createVerbs, unknown: "bogus",
				body: `{"reason": "WorkerLost", "message": "it is gone"}`, prepare: bindTask,
			},
			"log": {
				kind: "Task", verbs: getVerbs,
				badQueries: map[string]string{
					"sinceSeconds=soon": "sinceSeconds", "sinceSeconds=0": "sinceSeconds", "sinceTime=now": "sinceTime", "tailLines=-1": "tailLines",
					"tailLines=1.5": "tailLines", "limitBytes=0": "limitBytes", "limitBytes=": "limitBytes",
					"sinceSeconds=1&sinceTime=2026-01-01T00:00:00Z": "sinceTime",
				},
			},
		},
	},
	{
		resource: "tasksets", kind: "TaskSet", singular: "taskset", shortNames: []string{"tks"}, categories: []string{"all"},
		shortNamed: true,
		object: `{"spec": {
			"suspend": true, "parallelism": 1, "completions": 5, "completionMode": "Indexed",
			"template": {"metadata": {"labels": {"a": "b"}}, "spec": {"command": ["true"]}}
		}}`,
		spec:   field{path: "spec.parallelism", one: `2`, two: `3`, refused: `-1`},
		status: field{path: "status.active", one: `1`, two: `2`, refused: `-1`},
		invalid: []refusal{
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
		immutable: []refusal{
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
		derived: []string{"Reconciling"},
		invalidStatus: []refusal{
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
			"status": {kind: "TaskSet", verbs: partVerbs, unknown: "status.bogus"},
			"scale": {
				apiVersion: "autoscaling/v1", kind: "Scale", verbs: partVerbs, unknown: "spec.bogus",
				field: field{path: "spec.replicas", one: `2`, two: `3`, refused: `-1`},
			},
		},
	},
	{
		resource: "taskqueues", kind: "TaskQueue", singular: "taskqueue", shortNames: []string{"tq"}, categories: []string{"all"},
		object: `{"spec": {"maxRunningTasks": 5, "resources": {"limits": {"cpu": "10"}}}}`,
		spec:   field{path: "spec.weight", one: `2`, two: `3`, refused: `0`},
		status: field{path: "status.pending", one: `1`, two: `2`, refused: `-1`},
		invalid: []refusal{
			{`{"spec": {"weight": 1000001}}`, "spec.weight"},
			{`{"spec": {"maxRunningTasks": -1}}`, "spec.maxRunningTasks"},
			{`{"spec": {"maxPendingTasks": -1}}`, "spec.maxPendingTasks"},
			{`{"spec": {"stopPolicy": "Sometimes"}}`, "spec.stopPolicy"},
			{`{"spec": {"resources": {"limits": {"memory": "-1"}}}}`, "spec.resources.limits[memory]"},
			{`{"spec": {"resources": {"limits": {"gpu": "1"}}}}`, "spec.resources.limits[gpu]"},
		},
		invalidStatus: []refusal{{`{"status": {"running": -1}}`, "status.running"}},
		columns:       []string{"Name", "Pending", "Running", "Limit", "Stop", "Age"},
		subresources: map[string]subresource{
			"status": {kind: "TaskQueue", verbs: partVerbs, unknown: "status.bogus"},
		},
	},
	{
		resource: "workers", kind: "Worker", singular: "worker", shortNames: []string{"wkr"},
		object: `{"spec": {"unschedulable": true}}`,
		spec: field{
			path:    "spec.taints",
			one:     `[{"key": "example.com/one", "effect": "NoSchedule"}]`,
			two:     `[{"key": "example.com/two", "effect": "NoExecute"}]`,
			refused: `[{"key": "example.com/one", "effect": "Never"}]`,
			names:   "spec.taints[0].effect",
		},
		status: field{path: "status.runningTasks", one: `1`, two: `2`, refused: `-1`},
		invalid: []refusal{
			{`{"spec": {"taints": [{"key": "", "effect": "NoSchedule"}]}}`, "spec.taints[0].key"},
			{`{"spec": {"taints": [{"key": "a"}]}}`, "spec.taints[0].effect"},
			{`{"spec": {"taints": [{"key": "a", "value": "not valid", "effect": "NoSchedule"}]}}`, "spec.taints[0].value"},
			{`{"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}, {"key": "a", "effect": "NoSchedule"}]}}`, "spec.taints[1]"},
		},
		invalidStatus: []refusal{
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
			"status": {kind: "Worker", verbs: partVerbs, unknown: "status.bogus"},
		},
	},
	{
		resource: "workerleases", kind: "WorkerLease", singular: "workerlease", unwatched: true,
		object:  `{"spec": {"holderIdentity": "i1", "renewTime": "2026-01-01T00:00:00.000000Z"}}`,
		spec:    field{path: "spec.leaseDurationSeconds", one: `50`, two: `60`, refused: `0`},
		invalid: []refusal{{`{"spec": {"holderIdentity": ` + long(129) + `}}`, "spec.holderIdentity"}},
		columns: []string{"Name", "Holder", "Renewed", "Age"},
	},
}
