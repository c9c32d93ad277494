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
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/leat-dev/leat/test/kit"
)

// testKubectlBadManifests creates objects with typical mistakes. Each error must name the field and the mistake, and no
// object may be stored.
func testKubectlBadManifests(t *testing.T, e *kit.Env) {
	k := newTerminal(t, e)
	client := controllerClient(t, e)
	const strict = `cannot be handled as a Task: strict decoding error: `
	const wrongType = `cannot be handled as a Task: json: cannot unmarshal `
	var manifests strings.Builder
	var wants []string
	for i, test := range []struct{ kind, spec, want string }{
		{"Task", "{command: [a], comand: [b]}", strict + `unknown field "spec.comand"`},
		{"Task", "{command: [a], env: [{name: A, vaule: b}]}", strict + `unknown field "spec.env[0].vaule"`},
		{"Task", "{command: a}", wrongType + `string into Go struct field TaskSpec.spec.command of type []string`},
		{"Task", "{command: [a], priority: high}", wrongType + `string into Go struct field TaskSpec.spec.priority of type int32`},
		{"Task", "{command: [a], priority: 1.5}", wrongType + `number 1.5 into Go struct field TaskSpec.spec.priority of type int32`},
		{"Task", "{command: [a], priority: 10000000000}", wrongType + `number 10000000000 into Go struct field TaskSpec.spec.priority of type int32`},
		{"Task", "{command: [a, 1]}", wrongType + `number into Go struct field TaskSpec.spec.command of type string`},
		{"Task", "{command: [a], resources: {requests: {cpu: lots}}}", `cannot be handled as a Task: quantities must match the regular expression`},
		{"Task", "{}", `spec.command: Required value`},
		{"Task", "{command: []}", `spec.command: Required value`},
		{"Task", `{command: [""]}`, `spec.command[0]: Required value: must name the program to run`},
		{"Task", `{command: ["a\0b"]}`, `spec.command[0]: Invalid value: "a\x00b": must not contain a NUL character`},
		{"Task", `{command: [a], args: [b, "a\0b"]}`, `spec.args[1]: Invalid value: "a\x00b": must not contain a NUL character`},
		{"Task", `{command: [a], env: [{name: A, value: "\0"}]}`, `spec.env[0].value: Invalid value: "\x00": must not contain a NUL character`},
		{"Task", `{command: [a], workingDir: "/\0"}`, `spec.workingDir: Invalid value: "/\x00": must not contain a NUL character`},
		{"Task", "{command: [a], env: [{value: b}]}", `spec.env[0].name: Required value`},
		{"Task", "{command: [a], env: [{name: A=B}]}", `spec.env[0].name: Invalid value: "A=B": a valid environment variable name`},
		{"Task", "{command: [a], env: [{name: A}, {name: A}]}", `spec.env[1].name: Duplicate value: "A"`},
		{"Task", `{command: [a], resources: {requests: {cpu: "-1"}}}`, `spec.resources.requests[cpu]: Invalid value: "-1": must be greater than or equal to 0`},
		{"Task", "{command: [a], resources: {requests: {memory: 1.5}}}", `spec.resources.requests[memory]: Invalid value: "1500m": must be a whole number`},
		{"Task", "{command: [a], resources: {requests: {gpu: 1}}}", `spec.resources.requests[gpu]: Unsupported value: "gpu": supported values: "cpu", "memory", "example.com/any-name"`},
		{"Task", "{command: [a], tolerations: [{key: a, operator: Sometimes}]}", `spec.tolerations[0].operator: Unsupported value: "Sometimes": supported values: "Equal", "Exists"`},
		{"Task", "{command: [a], tolerations: [{key: a, effect: Explode}]}", `spec.tolerations[0].effect: Unsupported value: "Explode": supported values: "NoExecute", "NoSchedule", "PreferNoSchedule"`},
		{"Task", "{command: [a], tolerations: [{operator: Equal}]}", `spec.tolerations[0].operator: Invalid value: "Equal": must be Exists when key is empty`},
		{"Task", "{command: [a], tolerations: [{key: a, operator: Exists, value: b}]}", `spec.tolerations[0].value: Invalid value: "b": must be empty when operator is Exists`},
		{"Task", "{command: [a], tolerations: [{key: a, tolerationSeconds: 3}]}", `spec.tolerations[0].effect: Invalid value: "": must be NoExecute when tolerationSeconds is set`},
		{"TaskSet", "{selector: {matchLabels: {a: b}}, template: {spec: {command: [a]}}}", `spec.selector: Invalid value: "a=b": must be unset: it is generated`},
		{"Task", "{command: [a], queueName: Night Shift}", `spec.queueName: Invalid value: "Night Shift": a lowercase RFC 1123 subdomain must consist of`},
		{"Task", "{command: [a], workerSelector: {a b: c}}", `spec.workerSelector: Invalid value: "a b": `},
		{"Task", "{command: [a], schedulingGates: [{}]}", `spec.schedulingGates[0].name: Required value`},
		{"Task", "{command: [a], backoffLimit: -1}", `spec.backoffLimit: Invalid value: -1: must be greater than or equal to 0`},
		{"Task", "{command: [a], activeDeadlineSeconds: 0}", `spec.activeDeadlineSeconds: Invalid value: 0: must be greater than or equal to 1`},
		{"Task", "{command: [a], priority: 1000000001}", `spec.priority: Invalid value: 1000000001: must be less than or equal to 1000000000`},

		{"TaskSet", "{}", `spec.template.spec.command: Required value`},
		{"TaskSet", "{template: {spec: {command: [a], replicas: 3}}}", `cannot be handled as a TaskSet: strict decoding error: unknown field "spec.template.spec.replicas"`},
		{"TaskSet", "{parallelism: -1, template: {spec: {command: [a]}}}", `spec.parallelism: Invalid value: -1: must be greater than or equal to 0`},
		{"TaskSet", "{completionMode: Indexed, parallelism: 2, template: {spec: {command: [a]}}}", `spec.completions: Required value: must be set when completionMode is Indexed`},
		{"TaskSet", "{completionMode: Ordered, template: {spec: {command: [a]}}}", `spec.completionMode: Unsupported value: "Ordered": supported values: "Indexed", "NonIndexed"`},
		{"TaskSet", "{successPolicy: {rules: [{succeededCount: 1}]}, template: {spec: {command: [a]}}}", `spec.successPolicy: Forbidden: may be set only when completionMode is Indexed`},
		{"TaskSet", "{completionMode: Indexed, completions: 3, successPolicy: {rules: [{}]}, template: {spec: {command: [a]}}}", `spec.successPolicy.rules[0]: Required value: succeededIndexes or succeededCount must be set`},
		{"TaskSet", "{completionMode: Indexed, completions: 3, successPolicy: {rules: []}, template: {spec: {command: [a]}}}", `spec.successPolicy.rules: Required value`},
		{"TaskSet", `{completionMode: Indexed, completions: 9, successPolicy: {rules: [{succeededIndexes: "5,3"}]}, template: {spec: {command: [a]}}}`, `spec.successPolicy.rules[0].succeededIndexes: Invalid value: "5,3": `},
		{"TaskSet", `{completionMode: Indexed, completions: 3, successPolicy: {rules: [{succeededIndexes: "0-7"}]}, template: {spec: {command: [a]}}}`, `spec.successPolicy.rules[0].succeededIndexes: Invalid value: "0-7": `},
		{"TaskSet", `{completionMode: Indexed, completions: 3, successPolicy: {rules: [{succeededIndexes: "0-1", succeededCount: 3}]}, template: {spec: {command: [a]}}}`, `spec.successPolicy.rules[0].succeededCount: Invalid value: 3: must be less than or equal to 2, the number of indexes it counts`},
		{"TaskSet", "{taskFailurePolicy: {rules: [{action: Ignore, onExitCodes: {operator: In, values: [0]}}]}, template: {spec: {command: [a]}}}", `spec.taskFailurePolicy.rules[0].onExitCodes.values[0]: Invalid value: 0: must not be 0, which is success, with operator In`},
		{"TaskSet", "{taskFailurePolicy: {rules: [{action: FailJob, onExitCodes: {operator: In, values: [1]}}]}, template: {spec: {command: [a]}}}", `spec.taskFailurePolicy.rules[0].action: Unsupported value: "FailJob": supported values: "Count", "FailIndex", "FailTaskSet", "Ignore"`},
		{"TaskSet", "{queueName: a, template: {spec: {command: [a], queueName: b}}}", `spec.template.spec.queueName: Invalid value: "b": must be unset or the queue of the set, "a"`},
		{"TaskSet", "{completionMode: Indexed, completions: 100001, parallelism: 10001, template: {spec: {command: [a]}}}", `spec.parallelism: Invalid value: 10001: must be less than or equal to 10000 when completions are more than 100000`},

		{"TaskQueue", "{weight: 0}", `spec.weight: Invalid value: 0: must be greater than or equal to 1`},
		{"TaskQueue", "{stopPolicy: Pause}", `spec.stopPolicy: Unsupported value: "Pause": supported values: "Hold", "HoldAndDrain", "None"`},
		{"TaskQueue", `{resources: {limits: {memory: "-1"}}}`, `spec.resources.limits[memory]: Invalid value: "-1": must be greater than or equal to 0`},
	} {
		name := fmt.Sprintf("bad-%d", i)
		manifests.WriteString("---\n" + manifest(test.kind, name, test.spec))
		if strings.HasPrefix(test.want, "spec") {
			test.want = fmt.Sprintf("Error from server (Invalid): error when creating \"STDIN\": %s.batch.leat.dev %q is invalid: %s", test.kind, name, test.want)
		}
		wants = append(wants, test.want)
	}
	// kubectl continues after an error.
	out, stderr, err := k.withStdin(manifests.String()).execute("create -f -")
	errs := strings.Split(strings.TrimSpace(stderr), "\n")
	if err == nil || out != "" || len(errs) != len(wants) {
		t.Fatalf("create of %d bad manifests: got %d errors, %v, output %q", len(wants), len(errs), err, out)
	}
	for i, want := range wants {
		if !strings.Contains(errs[i], want) {
			t.Errorf("got\n%s\nwant in it\n%s", errs[i], want)
		}
	}
	if tasks, err := client.Tasks(k.namespace).List(t.Context(), metav1.ListOptions{}); err != nil || len(tasks.Items) > 0 {
		t.Errorf("got tasks %v, %v, want none", tasks, err)
	}
	if sets, err := client.TaskSets(k.namespace).List(t.Context(), metav1.ListOptions{}); err != nil || len(sets.Items) > 0 {
		t.Errorf("got task sets %v, %v, want none", sets, err)
	}

	// All mistakes are reported at once.
	k.withStdin(manifest("Task", "bad", "{backoffLimit: -1, tolerations: [{key: a, tolerationSeconds: 3}]}")).expectFailure(1, []string{
		"* spec.command: Required value", "* spec.backoffLimit: Invalid value: -1", `* spec.tolerations[0].effect: Invalid value: ""`,
	}, "create -f -")
	for _, name := range []string{"Bad", "bad_name", "bad..name", strings.Repeat("a", 254)} {
		k.withStdin(manifest("Task", name, "{command: [a]}")).expectFailure(1, []string{"metadata.name: Invalid value: "}, "create -f -")
	}

	// --validate accepts unknown fields.
	typo := manifest("Task", "typo", "{command: [a], comand: [b]}")
	out, stderr, err = k.withStdin(typo).execute("create --validate=warn -f -")
	if err != nil || out != "task.batch.leat.dev/typo created" || !strings.Contains(stderr, `Warning: unknown field "spec.comand"`) {
		t.Errorf("create --validate=warn: got %s, %s, %v", out, stderr, err)
	}
	k.run("delete tk typo")
	out, stderr, err = k.withStdin(typo).execute("create --validate=ignore -f -")
	if err != nil || out != "task.batch.leat.dev/typo created" || stderr != "" {
		t.Errorf("create --validate=ignore: got %s, %s, %v", out, stderr, err)
	}
	// A value that looks like a secret causes a warning.
	_, stderr, err = k.withStdin(manifest("Task", "secret", "{command: [a], env: [{name: DB_PASSWORD, value: hunter2}]}")).execute("create -f -")
	if err != nil || !strings.Contains(stderr, "Warning: spec.env[0]: DB_PASSWORD looks like a secret") {
		t.Errorf("create with a password: got %s, %v, want a warning", stderr, err)
	}
}

// testKubectlBadRequests sends forged, malformed and hostile requests. Each must fail quickly with a clear Status, and
// neither write an object nor stop the server.
func testKubectlBadRequests(t *testing.T, e *kit.Env) {
	k := newTerminal(t, e)
	k.create("Task", "good", "{command: [sleep]}")
	k.create("Task", "second", "{command: [sleep]}")
	config := e.Admin(t)
	client, err := rest.HTTPClientFor(config)
	kit.Check(t, err)
	tasks := config.Host + "/apis/batch.leat.dev/v1alpha1/namespaces/" + k.namespace + "/tasks"
	good := tasks + "/good"

	const (
		asJSON, asYAML, asProtobuf = "application/json", "application/yaml", "application/vnd.kubernetes.protobuf"
		jsonPatch, mergePatch      = "application/json-patch+json", "application/merge-patch+json"
		strategicPatch, applyPatch = "application/strategic-merge-patch+json", "application/apply-patch+yaml"
	)
	task := func(rest string) string {
		return `{"apiVersion": "batch.leat.dev/v1alpha1", "kind": "Task", "metadata": {"name": "bad"}, "spec": {"command": ["a"]` + rest + `}}`
	}
	token := func(rv int64, start string) string {
		content, err := json.Marshal(map[string]any{"v": "meta.k8s.io/v1", "rv": rv, "start": start})
		kit.Check(t, err)
		return "?limit=1&continue=" + base64.RawURLEncoding.EncodeToString(content)
	}
	const limit = 20 * time.Second // the server waits 3 seconds for the resource version of a token of the future
	const depth = 100_000
	deepList := strings.Repeat("[", depth) + strings.Repeat("]", depth)
	deepMap := strings.Repeat(`{"a":`, depth) + "1" + strings.Repeat("}", depth)
	bomb := "apiVersion: batch.leat.dev/v1alpha1\nkind: Task\nmetadata: {name: bad}\nx0: &x0 [boom, boom, boom, boom, boom, boom, boom, boom, boom]\n"
	for i := range 9 {
		bomb += fmt.Sprintf("x%d: &x%d [%s]\n", i+1, i+1, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*x%d, ", i), 9), ", "))
	}
	bomb += "spec: {command: *x9}\n"

	for _, test := range []struct {
		name, method, url, contentType, body string
		status                               []int
		want                                 string
	}{
		{"field twice", "POST", tasks + "?fieldValidation=Strict", asJSON, task(`, "command": ["b"]`), []int{400}, `duplicate field "spec.command"`},
		{"body over 3 MiB", "POST", tasks, asJSON, task(`, "args": ["` + strings.Repeat("x", 3<<20) + `"]`), []int{413}, "limit is 3145728"},
		{"more than etcd stores", "POST", tasks, asJSON, task(`, "args": ["` + strings.Repeat("x", 2<<20) + `"]`), []int{422}, "spec: Invalid value: command, args and env must be at most 1048576 bytes together, and are 2097153"},
		{"deep list", "POST", tasks, asJSON, task(`, "args": ` + deepList), []int{413}, "nested more than 100 deep"},
		{"deep map in an unknown field", "POST", tasks, asJSON, task(`, "x": ` + deepMap), []int{413}, "nested more than 100 deep"},
		{"deep YAML", "POST", tasks, asYAML, "apiVersion: batch.leat.dev/v1alpha1\nkind: Task\nmetadata: {name: bad}\nspec: {command: " + deepList + "}", []int{400}, "exceeded max depth"},
		{"YAML alias bomb", "POST", tasks, asYAML, bomb, []int{400}, "excessive aliasing"},
		{"empty body", "POST", tasks, asJSON, "", []int{400}, "the object provided is unrecognized (must be of type Task)"},
		{"half of an object", "POST", tasks, asJSON, `{"apiVersion": `, []int{400}, "the object provided is unrecognized (must be of type Task)"},
		{"list for object", "POST", tasks, asJSON, "[]", []int{400}, "the object provided is unrecognized (must be of type Task)"},
		{"another kind", "POST", tasks, asJSON, `{"apiVersion": "batch.leat.dev/v1alpha1", "kind": "TaskSet", "metadata": {"name": "bad"}}`, []int{400}, "cannot be handled as a Task"},
		{"another version", "POST", tasks, asJSON, `{"apiVersion": "batch.leat.dev/v9", "kind": "Task", "metadata": {"name": "bad"}}`, []int{400}, `no kind "Task" is registered for version "batch.leat.dev/v9"`},
		{"another namespace", "POST", tasks, asJSON, `{"apiVersion": "batch.leat.dev/v1alpha1", "kind": "Task", "metadata": {"name": "bad", "namespace": "other"}}`, []int{400}, "the namespace of the provided object does not match the namespace sent on the request"},
		{"unknown media type", "POST", tasks, "text/plain", task(""), []int{415}, "accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf"},
		{"no protobuf", "POST", tasks, asProtobuf, "garbage", []int{400}, "does not appear to be a protobuf message"},
		{"broken protobuf", "POST", tasks, asProtobuf, "k8s\x00garbage", []int{400}, "the object provided is unrecognized (must be of type Task)"},

		{"unknown field selector", "GET", tasks + "?fieldSelector=spec.command%3Da", "", "", []int{400}, `field label "spec.command" is not supported by Task: use one of metadata.name, metadata.namespace, spec.queueName, spec.workerName, spec.pool, status.phase`},
		{"broken field selector", "GET", tasks + "?fieldSelector=spec..", "", "", []int{400}, "invalid selector: 'spec..'"},
		{"broken label selector", "GET", tasks + "?labelSelector=a%3Db%3Dc", "", "", []int{400}, "found '=', expected: ',' or 'end of string'"},
		{"label selector that is no label", "GET", tasks + "?labelSelector=" + url.QueryEscape("a in (b c)"), "", "", []int{400}, "found 'c', expected: ',' or ')'"},
		{"malformed continue token", "GET", tasks + "?limit=1&continue=abc", "", "", []int{400}, "continue key is not valid"},
		{"continue token with ..", "GET", tasks + token(1, "../../secrets/x"), "", "", []int{400}, "continue key is not valid"},
		{"continue token of another version of tokens", "GET", tasks + "?limit=1&continue=" + base64.RawURLEncoding.EncodeToString([]byte(`{"v":"meta.k8s.io/v9","rv":1,"start":"x"}`)), "", "", []int{400}, "continue key is not valid"},
		{"continue token of the future", "GET", tasks + token(1<<40, "good\x00"), "", "", []int{400, 410, 504}, ""},
		{"limit in words", "GET", tasks + "?limit=few", "", "", []int{400}, `parsing "few": invalid syntax`},
		{"resourceVersion in words", "GET", tasks + "?resourceVersion=new", "", "", []int{400}, `resourceVersion: Invalid value: "new"`},
		{"unknown resourceVersionMatch", "GET", tasks + "?resourceVersion=1&resourceVersionMatch=Almost", "", "", []int{422}, `resourceVersionMatch: Unsupported value: "Almost": supported values: "Exact", "NotOlderThan"`},

		{"half of a patch", "PATCH", good, jsonPatch, "[{", []int{400}, "invalid JSON patch"},
		{"object for JSON patch", "PATCH", good, jsonPatch, "{}", []int{400}, "error decoding patch"},
		{"JSON patch of a missing field", "PATCH", good, jsonPatch, `[{"op": "replace", "path": "/spec/nope/x", "value": 1}]`, []int{422}, ""},
		{"JSON patch whose test fails", "PATCH", good, jsonPatch, `[{"op": "test", "path": "/spec/queueName", "value": "x"}]`, []int{422}, ""},
		{"JSON patch of many steps", "PATCH", good, jsonPatch, "[" + strings.TrimSuffix(strings.Repeat(`{"op": "test", "path": "/kind", "value": "Task"},`, 10_001), ",") + "]", []int{413}, "a list in the body has more than 1000 items"},
		{"list for merge patch", "PATCH", good, mergePatch, "[]", []int{400}, "error decoding patch"},
		{"merge patch of wrong type", "PATCH", good, mergePatch, `{"spec": {"ttlSecondsAfterFinished": "x"}}`, []int{422}, "json: cannot unmarshal string into Go struct field TaskSpec.spec.ttlSecondsAfterFinished of type int32"},
		{"merge patch with unknown field", "PATCH", good + "?fieldValidation=Strict", mergePatch, `{"spec": {"comand": ["x"]}}`, []int{422}, `unknown field "spec.comand"`},
		{"deep merge patch", "PATCH", good, mergePatch, `{"spec": ` + deepMap + "}", []int{413}, "nested more than 100 deep"},
		{"strategic merge patch of wrong shape", "PATCH", good, strategicPatch, `{"spec": {"env": {}}}`, []int{422}, "cannot restore slice from map"},
		{"unknown patch type", "PATCH", good, asJSON, `{}`, []int{415}, ""},
		{"apply without manager", "PATCH", good, applyPatch, "{}", []int{422}, "fieldManager: Required value: is required for apply patch"},
		{"apply of a YAML alias bomb", "PATCH", tasks + "/bad?fieldManager=test", applyPatch, bomb, []int{400}, "excessive aliasing"},
		{"apply of an unknown field", "PATCH", tasks + "/bad?fieldManager=test", applyPatch, task(`, "comand": ["b"]`), []int{400, 422, 500}, ".spec.comand: field not declared in schema"},

		{"another name", "PUT", good, asJSON, task(""), []int{400}, "the name of the object (bad) does not match the name on the URL (good)"},
		{"update of a missing object", "PUT", tasks + "/bad", asJSON, task(""), []int{404}, `tasks.batch.leat.dev "bad" not found`},
		{"delete of another object", "DELETE", good, asJSON, `{"preconditions": {"uid": "another"}}`, []int{409}, "the UID in the precondition (another) does not match the UID in record"},
		{"unknown deletion policy", "DELETE", good, asJSON, `{"propagationPolicy": "Perhaps"}`, []int{422}, `propagationPolicy: Unsupported value: "Perhaps"`},
		{"unknown subresource", "POST", good + "/nope", asJSON, "{}", []int{403, 404}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			request, err := http.NewRequestWithContext(t.Context(), test.method, test.url, strings.NewReader(test.body))
			kit.Check(t, err)
			request.Header.Set("Content-Type", test.contentType)
			start := time.Now()
			response, err := client.Do(request)
			kit.Check(t, err)
			defer response.Body.Close()
			body, err := io.ReadAll(response.Body)
			kit.Check(t, err)
			var status metav1.Status
			kit.Check(t, json.Unmarshal(body, &status))
			expected := false
			for _, code := range test.status {
				expected = expected || response.StatusCode == code
			}
			if !expected || !strings.Contains(status.Message, test.want) || int(status.Code) != response.StatusCode {
				t.Errorf("got %d %s, want %d and %q", response.StatusCode, status.Message, test.status, test.want)
			}
			if took := time.Since(start); took > limit {
				t.Errorf("got a response after %s, want at most %s", took, limit)
			}
			if len(status.Message) > 20_000 {
				t.Errorf("got a message of %d bytes, want at most 20000", len(status.Message))
			}
		})
	}
	k.expectOutput("task.batch.leat.dev/good\ntask.batch.leat.dev/second", "get tk -o name")
	k.expectOutput("1 1", "get tk -o", "jsonpath={.items[*].metadata.generation}")
	kit.Check(t, e.Server.Err())
}
