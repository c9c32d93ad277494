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

package limits

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
)

const (
	// large is how many objects a list has that is large.
	large = 10_000
	// readers are how many there are who do not read what they asked for.
	readers = 20
	// readerMemory is what memory one of them may hold, in MiB: a list of that size, or what a watch has waiting.
	readerMemory = 30.0
)

// fill writes tasks into a namespace past the server, which need not be paid for here, and gives their names' form.
func (s *server) fill(t *testing.T, namespace string) {
	t.Helper()
	const magic = "k8s\x00"
	key := stored + "tasks/" + namespace + "/"
	found := must(s.etcd.Get(t.Context(), key+"target"))(t)
	if len(found.Kvs) != 1 {
		t.Fatalf("etcd has no %starget", key)
	}
	var envelope runtime.Unknown
	check(t, envelope.Unmarshal(bytes.TrimPrefix(found.Kvs[0].Value, []byte(magic))))
	var task batch.Task
	check(t, task.Unmarshal(envelope.Raw))
	task.Labels = map[string]string{"a": "1", "b": "2", "c": "3"}
	names := make([]string, large)
	for i := range names {
		names[i] = fmt.Sprintf("task-%05d", i)
	}
	for part := range slices.Chunk(names, 100) {
		var puts []clientv3.Op
		for _, name := range part {
			task.Name, task.UID = name, uuid.NewUUID()
			envelope.Raw = must(task.Marshal())(t)
			puts = append(puts, clientv3.OpPut(key+name, magic+string(must(envelope.Marshal())(t))))
		}
		must(s.etcd.Txn(t.Context()).Then(puts...).Commit())(t)
	}
}

// testLargeLists reads large lists in all forms, and has readers who do not read.
func (s *server) testLargeLists(t *testing.T) {
	namespace := s.namespace(t)
	tasks := group + "/namespaces/" + namespace + "/tasks"
	s.fill(t, namespace)
	repeated := func(form, separator string, n int) string {
		all := make([]string, n)
		for i := range all {
			all[i] = fmt.Sprintf(form, i)
		}
		return strings.Join(all, separator)
	}
	for _, a := range []struct {
		name string
		request
		want int
	}{
		{"JSON", request{path: tasks, accept: jsonType}, large + 1},
		{"YAML", request{path: tasks + "?limit=1000", accept: yamlType}, 1000},
		{"protobuf", request{path: tasks, accept: protobufType}, large + 1},
		{"table", request{path: tasks, accept: tableType}, large + 1},
		{"table with objects", request{path: tasks + "?includeObject=Object", accept: tableType}, large + 1},
		{"metadata", request{path: tasks, accept: "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"}, large + 1},
		{"compressed", request{path: tasks, accept: jsonType, header: http.Header{"Accept-Encoding": {"gzip"}}}, 0},
		{"1,000 labels", request{path: tasks + "?labelSelector=" + repeated("!l%d", ",", 1000)}, large + 1},
		{"1,000 fields", request{path: tasks + "?fieldSelector=" + repeated("spec.queueName!=q%d", ",", 1000)}, large + 1},
		{"10,000 values", request{path: tasks + "?labelSelector=a+notin+(" + repeated("v%d", ",", 10_000) + ")"}, large + 1},
	} {
		t.Run(a.name, func(t *testing.T) {
			var got answer
			c := s.measured(t, func() { got = s.send(t, a.request) })
			t.Logf("%d: %v for %d KiB", got.code, c, len(got.body)>>10)
			s.within(t, c)
			if got.code != http.StatusOK {
				t.Fatalf("it is answered %d: %s", got.code, shorten(got.body))
			}
			separator := `"creationTimestamp"`
			switch {
			case a.accept == protobufType:
				separator = "\x12\x00\x1a" // no generateName, then the namespace
			case a.accept == yamlType:
				separator = "creationTimestamp:"
			}
			if found := bytes.Count(got.body, []byte(separator)); a.want > 0 && found != a.want {
				t.Errorf("it has %d objects, want %d", found, a.want)
			}
			if a.want == 0 && got.header.Get("Content-Encoding") != "gzip" {
				t.Error("it is not compressed")
			}
			s.answers(t)
		})
	}
	t.Run("slow readers of a list", func(t *testing.T) {
		c := s.cost(t, func() {
			s.ask(t, tasks, readers)
			s.answers(t)
		})
		t.Logf("200: %v for %d readers", c, readers)
		if each, limit := c.memory/readers, readerMemory*s.factor; each > limit {
			t.Errorf("a reader who does not read takes %.0f MiB, want %.0f at most", each, limit)
		}
	})
	t.Run("slow readers of a watch", func(t *testing.T) {
		before := s.terminated(t)
		c := s.cost(t, func() {
			s.ask(t, tasks+"?watch=true", readers)
			// More changes than any buffer takes: who does not read them is let go, and nobody waits.
			s.fill(t, namespace)
			s.patchTarget(t, namespace)
			s.answers(t)
			check(t, wait.PollUntilContextTimeout(t.Context(), interval, patience, true, func(context.Context) (bool, error) {
				return s.terminated(t)-before >= readers, nil
			}))
		})
		t.Logf("200: %v for %d readers", c, readers)
		if each, limit := c.memory/readers, readerMemory*s.factor; each > limit {
			t.Errorf("a reader who does not read takes %.0f MiB, want %.0f at most", each, limit)
		}
	})
}

// ask opens connections that ask for something and do not read the answer, until the test ends.
func (s *server) ask(t *testing.T, path string, n int) {
	t.Helper()
	for range n {
		connection := s.dial(t, "http/1.1", smallWindow)
		_, err := fmt.Fprintf(connection, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", path, s.address())
		check(t, err)
		// The answer has begun.
		_, err = io.ReadFull(connection, make([]byte, len("HTTP/1.1 200")))
		check(t, err)
	}
}

// terminated is how many watchers the server has let go because they did not read.
func (s *server) terminated(t *testing.T) float64 {
	t.Helper()
	sum := 0.0
	for name, value := range s.metrics(t) {
		if strings.HasPrefix(name, "apiserver_terminated_watchers_total") {
			sum += value
		}
	}
	return sum
}

// patchTarget changes the target.
func (s *server) patchTarget(t *testing.T, namespace string) {
	t.Helper()
	got := s.send(t, request{
		method: http.MethodPatch, path: group + "/namespaces/" + namespace + "/tasks/target", contentType: mergePatchType,
		body: []byte(`{"metadata":{"labels":{"changed":"` + string(uuid.NewUUID()) + `"}}}`),
	})
	if got.code != http.StatusOK {
		t.Fatalf("a patch is answered %d: %s", got.code, shorten(got.body))
	}
}

// testForeignTokens continues lists by tokens of others: nothing comes out that is not of the list asked for.
func (s *server) testForeignTokens(t *testing.T) {
	namespace, other := s.namespace(t), ""
	t.Run("other", func(t *testing.T) { other = s.namespace(t) })
	for _, namespace := range []string{namespace, other} {
		for _, name := range []string{"a", "z"} {
			task := &batch.Task{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: batch.TaskSpec{Command: []string{"true"}}}
			must(s.tasks.BatchV1alpha1().Tasks(namespace).Create(t.Context(), task, metav1.CreateOptions{}))(t)
		}
	}
	token := func(path string) string {
		var list metav1.PartialObjectMetadataList
		check(t, json.Unmarshal(s.send(t, request{path: path + "?limit=1"}).body, &list))
		if list.Continue == "" {
			t.Fatalf("%s has no second page", path)
		}
		return list.Continue
	}
	inNamespace, inAll := token(group+"/namespaces/"+namespace+"/tasks"), token(group+"/tasks")
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
			got := s.send(t, request{path: group + c.path + "?limit=100&continue=" + c.token})
			if got.code != http.StatusOK {
				t.Fatalf("it is answered %d: %s", got.code, shorten(got.body))
			}
			var list metav1.PartialObjectMetadataList
			check(t, json.Unmarshal(got.body, &list))
			if c.some && len(list.Items) == 0 {
				t.Error("nothing is in it")
			}
			for _, item := range list.Items {
				if item.Namespace != other || !strings.HasSuffix(c.path, "/tasks") {
					t.Errorf("%s of namespace %s is in it", item.Name, item.Namespace)
				}
			}
		})
	}
}

// testManyManagers has more and more managers of the same fields, until etcd takes no more: that, too, is within the budget.
func (s *server) testManyManagers(t *testing.T) {
	namespace := s.namespace(t)
	labels := make([]string, 9_000)
	for i := range labels {
		labels[i] = fmt.Sprintf(`"label-%d":"a"`, i)
	}
	body := []byte(`{"apiVersion":"batch.leat.dev/v1alpha1","kind":"Task","metadata":{"name":"target","labels":{` + strings.Join(labels, ",") + `}}}`)
	apply := func(manager int) answer {
		return s.send(t, request{method: http.MethodPatch, contentType: applyType, body: body,
			path: fmt.Sprintf("%s/namespaces/%s/tasks/target?fieldManager=manager-%d", group, namespace, manager)})
	}
	managers := 0
	for ; managers < 100; managers++ {
		if got := apply(managers); got.code != http.StatusOK {
			if got.code != http.StatusRequestEntityTooLarge || !bytes.Contains(got.body, []byte("does not fit into etcd")) {
				t.Fatalf("manager %d is answered %d: %s", managers, got.code, shorten(got.body))
			}
			break
		}
	}
	if managers == 100 {
		t.Fatal("100 managers of 9,000 labels are too few to fill what etcd takes")
	}
	for name, manager := range map[string]int{"one more": managers, "one of them": 0} {
		t.Run(name, func(t *testing.T) {
			before := s.revision(t)
			var got answer
			c := s.measured(t, func() { got = apply(manager) })
			t.Logf("%d: %v with %d managers of 9,000 labels", got.code, c, managers)
			s.within(t, c)
			if after := s.revision(t); after != before {
				t.Errorf("it has changed what is stored: %s; before: %s", after, before)
			}
			s.answers(t)
		})
	}
}
