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
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit"
)

func testKubectlDiscovery(t *testing.T, e *kit.Env) {
	k := newTerminal(t, e)
	k.expectTable([]string{
		"NAME SHORTNAMES APIVERSION NAMESPACED KIND VERBS CATEGORIES",
		"taskqueues tq batch.leat.dev/v1alpha1 true TaskQueue create,delete,deletecollection,get,list,patch,update,watch all",
		"tasks tk batch.leat.dev/v1alpha1 true Task create,delete,deletecollection,get,list,patch,update,watch",
		"tasksets tks batch.leat.dev/v1alpha1 true TaskSet create,delete,deletecollection,get,list,patch,update,watch all",
		// Without watch: no component needs events of heartbeats.
		"workerleases batch.leat.dev/v1alpha1 true WorkerLease create,delete,deletecollection,get,list,patch,update",
		"workers wkr batch.leat.dev/v1alpha1 true Worker create,delete,deletecollection,get,list,patch,update,watch",
	}, "api-resources --api-group=batch.leat.dev -o wide")
	if versions := strings.Fields(k.run("api-versions")); !slices.Contains(versions, "batch.leat.dev/v1alpha1") {
		t.Errorf("api-versions: got %s, want batch.leat.dev/v1alpha1 among them", versions)
	}

	k.create("Task", "one", "{command: [sleep]}")
	k.create("TaskSet", "many", "{parallelism: 0, template: {spec: {command: [sleep]}}}")
	k.create("TaskQueue", "line", "{}")
	for _, name := range []string{"task", "tasks", "tk", "tasks.batch.leat.dev", "tasks.v1alpha1.batch.leat.dev"} {
		k.expectOutput("task.batch.leat.dev/one", "get -o name "+name)
	}
	k.expectOutput("taskset.batch.leat.dev/many\ntaskqueue.batch.leat.dev/line", "get -o name tks,tq")

	// Tasks are not in the category: a TaskSet can have a million. With a host, kubectl prints the kinds that the user may
	// list, and fails for the others.
	out, _, err := k.execute("get all -o name")
	if out != "taskqueue.batch.leat.dev/line\ntaskset.batch.leat.dev/many" || (err == nil) == e.BehindHost() {
		t.Errorf("get all: got %s, %v", out, err)
	}

	if !e.BehindHost() {
		return // only the API of a host has access reviews
	}
	k.expectOutput("yes", "auth can-i create tasks")
	k.expectOutput("yes", "auth can-i create tasks --subresource=eviction")
	k.expectOutput("yes", "auth can-i patch tasksets --subresource=scale")
	k.expectOutput("yes", "auth can-i create workers") // to deny an unregistered name
	for _, refused := range []string{
		"create tasks --subresource=binding", "update tasks --subresource=status", "watch workerleases", "list pods",
	} {
		if out, _, err := k.execute("auth can-i " + refused); err == nil || out != "no" {
			t.Errorf("auth can-i %s: got %s, %v, want no", refused, out, err)
		}
	}
	if out := normalizeTable(k.run("auth can-i --list")); !strings.Contains(out, "\ntasks.batch.leat.dev [] [] [create delete deletecollection get list patch update watch]\n") {
		t.Errorf("auth can-i --list: got\n%s\nwant the verbs of tasks in it", out)
	}
}

func testKubectlExplain(t *testing.T, e *kit.Env) {
	k := newTerminal(t, e)
	// The aggregator fetches the OpenAPI document some time after it starts to serve the group.
	kit.Eventually(t, "kubectl can explain tasks", func(context.Context) error {
		_, _, err := k.execute("explain tasks")
		return err
	})
	for _, test := range []struct {
		path  string
		wants []string
	}{
		{"task", []string{"KIND: Task VERSION: v1alpha1 DESCRIPTION: Task is a command that runs, to completion, on one worker."}},
		{"tks", []string{"KIND: TaskSet VERSION: v1alpha1 DESCRIPTION: TaskSet runs one command many times, as an indexed Job does"}},
		{"wkr", []string{"KIND: Worker VERSION: v1alpha1 DESCRIPTION: Worker is a long-running process that runs the tasks bound to it."}},
		{"workerleases", []string{"KIND: WorkerLease VERSION: v1alpha1 DESCRIPTION: WorkerLease is renewed by the worker of the same name"}},
		{"tq", []string{"KIND: TaskQueue VERSION: v1alpha1 DESCRIPTION: TaskQueue ", " how the tasks that name it share the workers"}},
		{"task.spec.command", []string{"FIELD: command <[]string> DESCRIPTION: command is the program to run, looked up on the worker's PATH"}},
		{"task.status.state.terminated.exitCode", []string{"128 plus the signal's number when a signal ended it"}},
		{"task.status.phase", []string{"ENUM: Failed Pending Running Succeeded DESCRIPTION: phase is a summary"}},
		{"tks.spec.template.spec.env.value", []string{"References $(NAME) are expanded from the variables before it in the list."}},
		{"task --recursive", []string{"schedulingGates <[]TaskSchedulingGate> name <string> -required-"}},
		{"tks --recursive", []string{"taskFailurePolicy <TaskFailurePolicy> rules <[]TaskFailurePolicyRule> -required- action <string> -required-", "items <[]string>"}},
		{"wkr --recursive", []string{"endpoint <WorkerEndpoint> caBundle <string> -required- host <string> -required- port <integer> -required-"}},
		{"workerleases --recursive", []string{"holderIdentity <string> leaseDurationSeconds <integer> renewTime <string>"}},
		{"tq --recursive", []string{"stopPolicy <string> enum: Hold, HoldAndDrain, None weight <integer>"}},
	} {
		out := strings.Join(strings.Fields(k.run("explain "+test.path)), " ")
		for _, want := range test.wants {
			if !strings.Contains(out, want) {
				t.Errorf("explain %s: got\n%s\nwant %q in it", test.path, out, want)
			}
		}
	}

	var document struct {
		Components struct {
			Schemas map[string]struct {
				Description string
				Properties  map[string]struct{ Description string }
			}
		}
	}
	kit.Check(t, json.Unmarshal([]byte(k.run("get --raw /openapi/v3/apis/batch.leat.dev/v1alpha1")), &document))
	fields := 0
	for name, schema := range document.Components.Schemas {
		if !strings.HasPrefix(name, "dev.leat.batch.") {
			continue
		}
		if schema.Description == "" {
			t.Errorf("%s has no description", name)
		}
		for field, property := range schema.Properties {
			fields++
			if property.Description == "" {
				t.Errorf("%s.%s has no description", name, field)
			}
		}
	}
	if fields < 100 {
		t.Errorf("got %d fields in the OpenAPI document, want at least 100", fields)
	}
}

func testKubectlDescribe(t *testing.T, e *kit.Env) {
	k := newTerminal(t, e)
	k.create("Task", "one", "{command: [sleep, '1'], queueName: nightly}")
	k.create("TaskSet", "many", "{completions: 3, parallelism: 0, template: {spec: {command: [sleep, '1']}}}")
	k.create("TaskQueue", "line", "{weight: 3}")
	registerWorker(t, e, k.namespace, "w-aaaaa")
	for _, test := range []struct {
		object string
		wants  []string
	}{
		{"tk one", []string{
			fmt.Sprintf("Name: one Namespace: %s Labels: batch.leat.dev/creator=%s Annotations: batch.leat.dev/created-by: %s API Version: batch.leat.dev/v1alpha1 Kind: Task",
				k.namespace, batch.CreatorLabel(administrator), administrator),
			"Command: sleep 1 Crash Limit: 5 Queue Name: nightly",
			"Phase: Pending",
		}},
		{"tks many", []string{"Completions: 3"}},
		{"tq line", []string{"Weight: 3"}},
		{"wkr w-aaaaa", []string{"Allocatable: Tasks: 8"}},
		{"tk", []string{"Name: one"}},
	} {
		out := strings.Join(strings.Fields(k.run("describe "+test.object)), " ")
		for _, want := range append(test.wants, "Events: <none>") {
			if !strings.Contains(out, want) {
				t.Errorf("describe %s: got\n%s\nwant %q in it", test.object, out, want)
			}
		}
	}
	k.expectFailure(1, []string{`Error from server (NotFound): tasks.batch.leat.dev "two" not found`}, "describe tk two")
}
