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

package kubectl

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/leat-dev/leat/test/kit"
)

func testDiscovery(t *testing.T, e *kit.Env) {
	k := open(t, e)
	k.shows([]string{
		"NAME SHORTNAMES APIVERSION NAMESPACED KIND VERBS CATEGORIES",
		"taskqueues tq batch.leat.dev/v1alpha1 true TaskQueue create,delete,deletecollection,get,list,patch,update,watch all",
		"tasks tk batch.leat.dev/v1alpha1 true Task create,delete,deletecollection,get,list,patch,update,watch",
		"tasksets tks batch.leat.dev/v1alpha1 true TaskSet create,delete,deletecollection,get,list,patch,update,watch all",
		// Not watched: heartbeats are nobody's event.
		"workerleases batch.leat.dev/v1alpha1 true WorkerLease create,delete,deletecollection,get,list,patch,update",
		"workers wkr batch.leat.dev/v1alpha1 true Worker create,delete,deletecollection,get,list,patch,update,watch",
	}, "api-resources --api-group=batch.leat.dev -o wide")
	if versions := strings.Fields(k.run("api-versions")); !slices.Contains(versions, "batch.leat.dev/v1alpha1") {
		t.Errorf("api-versions: %s", versions)
	}

	k.with(manifest("Task", "one", "{command: [sleep]}")).run("create -f -")
	k.with(manifest("TaskSet", "many", "{parallelism: 0, template: {spec: {command: [sleep]}}}")).run("create -f -")
	k.with(manifest("TaskQueue", "line", "{}")).run("create -f -")
	for _, name := range []string{"task", "tasks", "tk", "tasks.batch.leat.dev", "tasks.v1alpha1.batch.leat.dev"} {
		k.says("task.batch.leat.dev/one", "get -o name "+name)
	}
	k.says("taskset.batch.leat.dev/many\ntaskqueue.batch.leat.dev/line", "get -o name tks,tq")

	// A set of a million tasks must not drown it. On a host it fails for the kinds that an administrator of Leat may not see,
	// and shows the others.
	out, _, err := k.try("get all -o name")
	if out != "taskqueue.batch.leat.dev/line\ntaskset.batch.leat.dev/many" || (err == nil) == e.BehindHost() {
		t.Errorf("get all: %s, %v", out, err)
	}

	if !e.BehindHost() {
		return // a host's API tells what one may do
	}
	k.says("yes", "auth can-i create tasks")
	k.says("yes", "auth can-i create tasks --subresource=eviction")
	k.says("yes", "auth can-i patch tasksets --subresource=scale")
	k.says("yes", "auth can-i create workers") // to deny a name
	for _, refused := range []string{
		"create tasks --subresource=binding", "update tasks --subresource=status", "watch workerleases", "list pods",
	} {
		if out, _, err := k.try("auth can-i " + refused); err == nil || out != "no" {
			t.Errorf("auth can-i %s: %s, %v", refused, out, err)
		}
	}
	if out := table(k.run("auth can-i --list")); !strings.Contains(out, "\ntasks.batch.leat.dev [] [] [create delete deletecollection get list patch update watch]\n") {
		t.Errorf("auth can-i --list:\n%s", out)
	}
}

func testExplain(t *testing.T, e *kit.Env) {
	k := open(t, e)
	// The aggregator fetches the document some time after it has begun to serve the group.
	eventually(t, func() error {
		_, _, err := k.try("explain tasks")
		return err
	})
	for _, test := range []struct{ path, says string }{
		{"task", "KIND: Task VERSION: v1alpha1 DESCRIPTION: Task is a command that runs, to completion, on one worker."},
		{"tks", "KIND: TaskSet VERSION: v1alpha1 DESCRIPTION: TaskSet runs one command many times, as an indexed Job does"},
		{"wkr", "KIND: Worker VERSION: v1alpha1 DESCRIPTION: Worker is a long-running process that runs the tasks bound to it."},
		{"workerleases", "KIND: WorkerLease VERSION: v1alpha1 DESCRIPTION: WorkerLease is renewed by the worker of the same name"},
		{"tq", "KIND: TaskQueue VERSION: v1alpha1 DESCRIPTION: TaskQueue configures how the tasks that name it share the workers"},
		{"task.spec.command", "FIELD: command <[]string> DESCRIPTION: command is the program to run, looked up on the worker's PATH"},
		{"task.status.state.terminated.exitCode", "128 plus the signal's number when a signal ended it"},
		{"task.status.phase", "ENUM: Failed Pending Running Succeeded DESCRIPTION: phase is a summary"},
		{"tks.spec.template.spec.env.value", "References $(NAME) are expanded from the variables before it in the list."},
		{"task --recursive", "schedulingGates <[]TaskSchedulingGate> name <string> -required-"},
		{"tks --recursive", "taskFailurePolicy <TaskFailurePolicy> rules <[]TaskFailurePolicyRule> -required- action <string> -required-"},
		{"tks --recursive", "items <[]string>"},
		{"wkr --recursive", "endpoint <WorkerEndpoint> caBundle <string> -required- host <string> -required- port <integer> -required-"},
		{"workerleases --recursive", "holderIdentity <string> leaseDurationSeconds <integer> renewTime <string>"},
		{"tq --recursive", "stopPolicy <string> enum: Hold, HoldAndDrain, None weight <integer>"},
	} {
		if out := strings.Join(strings.Fields(k.run("explain "+test.path)), " "); !strings.Contains(out, test.says) {
			t.Errorf("explain %s: want %q in\n%s", test.path, test.says, out)
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
			t.Errorf("%s is not explained", name)
		}
		for field, property := range schema.Properties {
			fields++
			if property.Description == "" {
				t.Errorf("%s.%s is not explained", name, field)
			}
		}
	}
	if fields < 100 {
		t.Errorf("the document has %d fields of ours: it is not whole", fields)
	}
}

func testDescribe(t *testing.T, e *kit.Env) {
	k := open(t, e)
	k.with(manifest("Task", "one", "{command: [sleep, '1'], queueName: nightly}")).run("create -f -")
	k.with(manifest("TaskSet", "many", "{completions: 3, parallelism: 0, template: {spec: {command: [sleep, '1']}}}")).run("create -f -")
	k.with(manifest("TaskQueue", "line", "{weight: 3}")).run("create -f -")
	register(t, e, k.namespace, "w-aaaaa")
	for _, test := range []struct{ what, says string }{
		{"tk one", fmt.Sprintf("Name: one Namespace: %s Labels: <none> Annotations: <none> API Version: batch.leat.dev/v1alpha1 Kind: Task", k.namespace)},
		{"tk one", "Command: sleep 1 Crash Limit: 5 Queue Name: nightly"},
		{"tk one", "Phase: Pending"},
		{"tks many", "Completions: 3"},
		{"tq line", "Weight: 3"},
		{"wkr w-aaaaa", "Allocatable: Tasks: 8"},
		{"tk", "Name: one"},
	} {
		out := strings.Join(strings.Fields(k.run("describe "+test.what)), " ")
		for _, want := range []string{test.says, "Events: <none>"} {
			if !strings.Contains(out, want) {
				t.Errorf("describe %s: want %q in\n%s", test.what, want, out)
			}
		}
	}
	k.refuses(1, []string{`Error from server (NotFound): tasks.batch.leat.dev "two" not found`}, "describe tk two")
}
