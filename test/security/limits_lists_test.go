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

package security

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/util/wait"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit"
)

const (
	// large is the number of objects in a large list.
	large = 10_000
	// readers is the number of clients that do not read the answer.
	readers = 20
	// readerMemory is the memory budget of one of them, in MiB: for a large list, or for the buffer of a watch.
	readerMemory = 30.0
)

// envelopeMagic is the prefix of objects in etcd.
const envelopeMagic = "k8s\x00"

// target returns the task "target" of a namespace, read from etcd, and a function that returns the etcd operation to
// store a task.
func (s *server) target(t *testing.T, namespace string) (task batch.Task, put func(*batch.Task) clientv3.Op) {
	t.Helper()
	key := storagePrefix + "tasks/" + namespace + "/"
	found := kit.Must(s.etcd.Get(t.Context(), key+"target"))(t)
	if len(found.Kvs) != 1 {
		t.Fatalf("etcd has no key %starget", key)
	}
	var envelope runtime.Unknown
	kit.Check(t, envelope.Unmarshal(bytes.TrimPrefix(found.Kvs[0].Value, []byte(envelopeMagic))))
	kit.Check(t, task.Unmarshal(envelope.Raw))
	return task, func(task *batch.Task) clientv3.Op {
		t.Helper()
		envelope.Raw = kit.Must(task.Marshal())(t)
		return clientv3.OpPut(key+task.Name, envelopeMagic+string(kit.Must(envelope.Marshal())(t)))
	}
}

// fill stores tasks in a namespace directly in etcd, which is cheaper than through the server.
func (s *server) fill(t *testing.T, namespace string) {
	t.Helper()
	task, put := s.target(t, namespace)
	task.Labels = map[string]string{"a": "1", "b": "2", "c": "3"}
	names := make([]string, s.some(large))
	for i := range names {
		names[i] = fmt.Sprintf("task-%05d", i)
	}
	write := func(names []string) {
		var puts []clientv3.Op
		for _, name := range names {
			task.Name, task.UID = name, uuid.NewUUID()
			puts = append(puts, put(&task))
		}
		kit.Must(s.etcd.Txn(t.Context()).Then(puts...).Commit())(t)
	}
	// The watch cache considers a revision complete after its first event, because the server writes one object a
	// revision. The last task has a revision of its own, so that a list that has it has all tasks.
	last := len(names) - 1
	for part := range slices.Chunk(names[:last], 100) {
		write(part)
	}
	write(names[last:])
}

// testLargeLists reads large lists in all encodings, and with clients that do not read the answer.
func (s *server) testLargeLists(t *testing.T) {
	namespace := s.namespace(t)
	tasks := groupPath + "/namespaces/" + namespace + "/tasks"
	s.fill(t, namespace)
	all := s.some(large) + 1
	repeated := func(form, separator string, n int) string {
		parts := make([]string, n)
		for i := range parts {
			parts[i] = fmt.Sprintf(form, i)
		}
		return strings.Join(parts, separator)
	}
	for _, a := range []struct {
		name string
		request
		want int // number of objects; 0 to skip the check
	}{
		{"JSON", request{path: tasks, accept: jsonType}, all},
		{"YAML", request{path: tasks + "?limit=1000", accept: yamlType}, 1000},
		{"protobuf", request{path: tasks, accept: protobufType}, all},
		{"table", request{path: tasks, accept: tableType}, all},
		{"table with objects", request{path: tasks + "?includeObject=Object", accept: tableType}, all},
		{"metadata", request{path: tasks, accept: "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"}, all},
		{"compressed", request{path: tasks, accept: jsonType, header: http.Header{"Accept-Encoding": {"gzip"}}}, 0},
		{"1,000 labels", request{path: tasks + "?labelSelector=" + repeated("!l%d", ",", 1000)}, all},
		{"1,000 fields", request{path: tasks + "?fieldSelector=" + repeated("spec.queueName!=q%d", ",", 1000)}, all},
		{"10,000 values", request{path: tasks + "?labelSelector=a+notin+(" + repeated("v%d", ",", 10_000) + ")"}, all},
	} {
		t.Run(a.name, func(t *testing.T) {
			var got response
			c := s.measured(t, func() { got = s.send(t, a.request) })
			t.Logf("%d: %v for %d KiB", got.code, c, len(got.body)>>10)
			s.within(t, c)
			if got.code != http.StatusOK {
				t.Fatalf("got %d, want 200: %s", got.code, shorten(got.body))
			}
			separator := `"creationTimestamp"`
			switch {
			case a.accept == protobufType:
				separator = "\x12\x00\x1a" // empty generateName, then the namespace
			case a.accept == yamlType:
				separator = "creationTimestamp:"
			}
			if found := bytes.Count(got.body, []byte(separator)); a.want > 0 && found != a.want {
				t.Errorf("got %d objects, want %d", found, a.want)
			}
			if a.want == 0 && got.header.Get("Content-Encoding") != "gzip" {
				t.Error("the answer is not compressed")
			}
			s.answers(t)
		})
	}
	readers := s.some(readers)
	for name, accept := range map[string]string{"all of them in YAML": yamlType, "a table in YAML": "application/yaml;as=Table;g=meta.k8s.io;v=v1"} {
		t.Run(name, func(t *testing.T) {
			var got response
			c := s.measured(t, func() { got = s.send(t, request{path: tasks, accept: accept}) })
			t.Logf("%d: %v: %s", got.code, c, shorten(got.body))
			s.within(t, c)
			if got.code != http.StatusNotAcceptable || !bytes.Contains(unfolded(got.body), []byte("accept JSON or protobuf")) {
				t.Errorf("got %d, want 406 that names the alternatives: %s", got.code, shorten(got.body))
			}
			s.answers(t)
		})
	}
	t.Run("slow readers of a list", func(t *testing.T) {
		c := s.cost(t, func() {
			s.openUnread(t, tasks, readers)
			s.answers(t)
		})
		t.Logf("200: %v for %d readers", c, readers)
		if each, limit := c.memory/float64(readers), readerMemory*s.factor; each > limit {
			t.Errorf("a slow reader takes %.0f MiB, want at most %.0f", each, limit)
		}
	})
	t.Run("slow readers of a watch", func(t *testing.T) {
		before := s.terminated(t)
		c := s.cost(t, func() {
			s.openUnread(t, tasks+"?watch=true", readers)
			// More events than any buffer holds: the server terminates slow watchers, and no other client waits.
			s.fill(t, namespace)
			s.patchTarget(t, namespace)
			s.answers(t)
			kit.Check(t, wait.PollUntilContextTimeout(t.Context(), interval, patience, true, func(context.Context) (bool, error) {
				return s.terminated(t)-before >= float64(readers), nil
			}))
		})
		t.Logf("200: %v for %d readers", c, readers)
		if each, limit := c.memory/float64(readers), readerMemory*s.factor; each > limit {
			t.Errorf("a slow reader takes %.0f MiB, want at most %.0f", each, limit)
		}
	})
}

// openUnread opens connections that request a path and do not read the answer, until the test ends.
func (s *server) openUnread(t *testing.T, path string, n int) {
	t.Helper()
	for range n {
		connection := s.dial(t, "http/1.1", smallWindow)
		_, err := fmt.Fprintf(connection, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", path, s.address())
		kit.Check(t, err)
		// The server has started to answer.
		_, err = io.ReadFull(connection, make([]byte, len("HTTP/1.1 200")))
		kit.Check(t, err)
	}
}

// unfolded returns the text with a space in the place of each line break of YAML.
func unfolded(text []byte) []byte { return bytes.Join(bytes.Fields(text), []byte(" ")) }

// terminated returns the number of watchers that the server has terminated because they were slow.
func (s *server) terminated(t *testing.T) float64 {
	t.Helper()
	return s.metrics(t).Sum("apiserver_terminated_watchers_total")
}

// patchTarget changes the task "target".
func (s *server) patchTarget(t *testing.T, namespace string) {
	t.Helper()
	got := s.send(t, request{
		method: http.MethodPatch, path: groupPath + "/namespaces/" + namespace + "/tasks/target", contentType: mergePatchType,
		body: []byte(`{"metadata":{"labels":{"changed":"` + string(uuid.NewUUID()) + `"}}}`),
	})
	if got.code != http.StatusOK {
		t.Fatalf("patch: got %d, want 200: %s", got.code, shorten(got.body))
	}
}

// testForeignTokens continues lists with tokens of other lists. The answer may only have objects of the requested list.
func (s *server) testForeignTokens(t *testing.T) {
	namespace, other := s.namespace(t), ""
	t.Run("other", func(t *testing.T) { other = s.namespace(t) })
	for _, namespace := range []string{namespace, other} {
		for _, name := range []string{"a", "z"} {
			task := &batch.Task{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: batch.TaskSpec{Command: []string{"true"}}}
			kit.Must(s.tasks.BatchV1alpha1().Tasks(namespace).Create(t.Context(), task, metav1.CreateOptions{}))(t)
		}
	}
	token := func(path string) string {
		var list metav1.PartialObjectMetadataList
		kit.Check(t, json.Unmarshal(s.send(t, request{path: path + "?limit=1"}).body, &list))
		if list.Continue == "" {
			t.Fatalf("%s has no second page", path)
		}
		return list.Continue
	}
	inNamespace, inAll := token(groupPath+"/namespaces/"+namespace+"/tasks"), token(groupPath+"/tasks")
	for name, c := range map[string]struct {
		path, token string
		some        bool
	}{
		"of a namespace, in another":       {"/namespaces/" + other + "/tasks", inNamespace, true},
		"of all namespaces, in one":        {"/namespaces/" + other + "/tasks", inAll, false},
		"of tasks, for all workers":        {"/workers", inAll, false},
		"of tasks, for workers in a place": {"/namespaces/" + namespace + "/workers", inNamespace, false},
	} {
		t.Run(name, func(t *testing.T) {
			got := s.send(t, request{path: groupPath + c.path + "?limit=100&continue=" + c.token})
			if got.code != http.StatusOK {
				t.Fatalf("got %d, want 200: %s", got.code, shorten(got.body))
			}
			var list metav1.PartialObjectMetadataList
			kit.Check(t, json.Unmarshal(got.body, &list))
			if c.some && len(list.Items) == 0 {
				t.Error("the list is empty")
			}
			for _, item := range list.Items {
				if item.Namespace != other || !strings.HasSuffix(c.path, "/tasks") {
					t.Errorf("the list has %s of namespace %s", item.Name, item.Namespace)
				}
			}
		})
	}
}

// testFuture sends many requests with tokens of a future revision. The server waits for the revision for three seconds,
// serves others meanwhile, and leaves no goroutine behind.
func (s *server) testFuture(t *testing.T) {
	const n, spare = 100, 50
	future := attacks()["a token from the future"]
	future.path = strings.ReplaceAll(future.path, "NAMESPACE", s.namespace(t))
	goroutines := func() float64 { return s.metrics(t)["go_goroutines"] }
	before := goroutines()
	codes := make(chan int, n)
	c := s.cost(t, func() {
		for range n {
			go func() {
				got, _ := s.try(t.Context(), future.request)
				codes <- got.code
			}()
		}
		s.answers(t)
		for range n {
			if code := <-codes; code != future.code {
				t.Errorf("got %d, want %d", code, future.code)
			}
		}
	})
	t.Logf("200: %v for %d of them", c, n)
	s.within(t, c)
	kit.Check(t, wait.PollUntilContextTimeout(t.Context(), interval, patience, true, func(context.Context) (bool, error) {
		return goroutines() < before+spare, nil
	}))
}

// testManyManagers applies to a task with as many managers of the same fields as etcd can store. A further manager, and
// another apply of one of them, must be within the budget.
func (s *server) testManyManagers(t *testing.T) {
	const managers = 8
	namespace := s.namespace(t)
	task, put := s.target(t, namespace)
	labels, owned := make([]string, 9_000), make([]string, 9_000)
	task.Labels, task.ManagedFields = map[string]string{}, nil
	for i := range labels {
		key := fmt.Sprintf("label-%d", i)
		labels[i], owned[i], task.Labels[key] = fmt.Sprintf("%q:%q", key, "a"), fmt.Sprintf(`"f:%s":{}`, key), "a"
	}
	body := []byte(`{"apiVersion":"batch.leat.dev/v1alpha1","kind":"Task","metadata":{"name":"target","labels":{` + strings.Join(labels, ",") + `}}}`)
	now := metav1.Now()
	for i := range managers {
		task.ManagedFields = append(task.ManagedFields, metav1.ManagedFieldsEntry{
			Manager: fmt.Sprintf("manager-%d", i), Operation: metav1.ManagedFieldsOperationApply, APIVersion: batch.SchemeGroupVersion.String(), Time: &now,
			FieldsType: "FieldsV1", FieldsV1: &metav1.FieldsV1{Raw: []byte(`{"f:metadata":{"f:labels":{` + strings.Join(owned, ",") + `}}}`)},
		})
	}
	kit.Must(s.etcd.Do(t.Context(), put(&task)))(t)
	path := groupPath + "/namespaces/" + namespace + "/tasks/target"
	apply := func(manager int) request {
		return request{method: http.MethodPatch, contentType: applyType, body: body, path: fmt.Sprintf("%s?fieldManager=manager-%d", path, manager)}
	}
	kit.Check(t, wait.PollUntilContextTimeout(t.Context(), interval, patience, true, func(context.Context) (bool, error) {
		return bytes.Contains(s.send(t, request{path: path + "?resourceVersion=0"}).body, []byte("manager-7")), nil
	}))
	// The first apply normalizes what the test has stored directly in etcd.
	if got := s.send(t, apply(0)); got.code != http.StatusOK {
		t.Fatalf("apply: got %d, want 200: %s", got.code, shorten(got.body))
	}
	for name, c := range map[string]struct {
		request
		code int
		says string
	}{
		"one more":    {apply(managers), http.StatusRequestEntityTooLarge, "does not fit into etcd"},
		"one of them": {apply(0), http.StatusOK, "manager-7"},
		"as YAML":     {request{path: path, accept: yamlType}, http.StatusNotAcceptable, "too large for YAML: accept JSON or protobuf"},
	} {
		t.Run(name, func(t *testing.T) {
			before := s.revision(t)
			var got response
			spent := s.measured(t, func() { got = s.send(t, c.request) })
			t.Logf("%d: %v with %d managers of 9,000 labels", got.code, spent, managers)
			s.within(t, spent)
			if got.code != c.code || !bytes.Contains(unfolded(got.body), []byte(c.says)) {
				t.Errorf("got %d, want %d with %q: %s", got.code, c.code, c.says, shorten(got.body))
			}
			if after := s.revision(t); after != before {
				t.Errorf("etcd changed: got %s, want %s", after, before)
			}
			s.answers(t)
		})
	}
}
