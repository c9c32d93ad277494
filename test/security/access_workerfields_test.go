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
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit"
)

// testWorkerFields checks that a status update of a worker changes nothing but the status of its task. It changes each
// field of a task, one at a time. The tests of pkg/apiserver/admission/workerrestriction check that none is missing.
func testWorkerFields(t *testing.T, e *kit.Env) {
	namespace := e.Namespace(t)
	admin, controller := kit.Client(t, e.Admin(t)).BatchV1alpha1(), kit.Client(t, e.Controller(t)).BatchV1alpha1()
	config := e.Worker(t, namespace, "one")
	workers := kit.Client(t, config).BatchV1alpha1().Workers(namespace)
	worker := kit.Must(workers.Create(t.Context(), &v1alpha1.Worker{ObjectMeta: metav1.ObjectMeta{Name: "one"}}, metav1.CreateOptions{}))(t)
	worker.Status.Incarnation = "one-1"
	kit.Must(workers.UpdateStatus(t.Context(), worker, metav1.UpdateOptions{}))(t)
	task := newTask("full")
	task.Labels, task.Annotations, task.Finalizers = map[string]string{"a": "b"}, map[string]string{"c": "d"}, []string{"example.com/keep"}
	owner := kit.Must(e.HostClient(t).CoreV1().ConfigMaps(namespace).Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "owner"}}, metav1.CreateOptions{}))(t)
	task.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: owner.Name, UID: owner.UID}}
	task.Spec.Args, task.Spec.WorkingDir, task.Spec.Priority, task.Spec.WorkerSelector = []string{"x"}, "/", 3, map[string]string{"pool": "a"}
	task.Spec.ActiveDeadlineSeconds, task.Spec.TTLSecondsAfterFinished, task.Spec.BackoffLimit = new(int64(1000)), new(int32(1000)), new(int32(3))
	kit.Must(admin.Tasks(namespace).Create(t.Context(), task, metav1.CreateOptions{}))(t)
	kit.Must(controller.Tasks(namespace).Bind(t.Context(), "full", &v1alpha1.Binding{Target: v1alpha1.BindingTarget{Name: "one", Incarnation: "one-1"}}, metav1.CreateOptions{}))(t)

	// stored returns the whole task, and the task without the status and the fields that each write changes.
	stored := func() (whole, rest map[string]any) {
		body := []byte(ask(t, e.Direct(t, "alice", "leat:admins"), "GET", tasksPath(namespace)+"/full").body)
		kit.Check(t, json.Unmarshal(body, &whole))
		kit.Check(t, json.Unmarshal(body, &rest))
		delete(rest, "status")
		for _, field := range []string{"resourceVersion", "managedFields"} {
			delete(rest["metadata"].(map[string]any), field)
		}
		return whole, rest
	}
	_, before := stored()
	tried, accepted := 0, 0
	for _, path := range paths(before, nil) {
		whole, _ := stored()
		written := alter(whole, path).(map[string]any)
		body := kit.Must(json.Marshal(written))(t)
		got := send(t, config, http.MethodPut, head(config, http.MethodPut, tasksPath(namespace)+"/full/status", "Content-Type: application/json", fmt.Sprint("Content-Length: ", len(body)))+string(body))
		tried++
		if got.code == http.StatusOK {
			accepted++
		}
		if _, after := stored(); !reflect.DeepEqual(after, before) {
			t.Fatalf("a worker changed %s of its task: got %s", strings.Join(path, "."), got)
		}
	}
	if tried < 20 || accepted < 10 {
		t.Errorf("got %d writes, %d of them accepted, want at least 20 and 10", tried, accepted)
	}
}

// paths returns the paths of all values in an object.
func paths(value any, at []string) [][]string {
	var all [][]string
	switch value := value.(type) {
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(value)) {
			all = append(all, paths(value[key], append(slices.Clone(at), key))...)
		}
	case []any:
		for i, item := range value {
			all = append(all, paths(item, append(slices.Clone(at), fmt.Sprint(i)))...)
		}
	default:
		return [][]string{at}
	}
	return all
}

// alter returns the object with the value at the path changed.
func alter(value any, path []string) any {
	switch value := value.(type) {
	case map[string]any:
		value[path[0]] = alter(value[path[0]], path[1:])
		return value
	case []any:
		var i int
		_, _ = fmt.Sscan(path[0], &i) // paths has formatted it
		value[i] = alter(value[i], path[1:])
		return value
	case float64:
		return value + 1
	case bool:
		return !value
	default:
		return fmt.Sprint(value) + "x"
	}
}
