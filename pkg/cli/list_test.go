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

package cli

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/utils/ptr"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// serveLists serves lists of sets and tasks of the namespaces default and other. Each page has one item.
func serveLists(t *testing.T, sets []batch.TaskSet, tasks []batch.Task) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path := strings.TrimPrefix(r.URL.Path, "/apis/batch.leat.dev/v1alpha1")
		inNamespace := func(m metav1.ObjectMeta) bool {
			return !strings.HasPrefix(path, "/namespaces/") || strings.HasPrefix(path, "/namespaces/"+m.Namespace+"/")
		}
		w.Header().Set("Content-Type", "application/json")
		by := func(m metav1.ObjectMeta) bool {
			selector, err := labels.Parse(r.URL.Query().Get("labelSelector"))
			return err == nil && selector.Matches(labels.Set(m.Labels))
		}
		switch {
		case path == "/apis/authentication.k8s.io/v1/selfsubjectreviews":
			w.WriteHeader(http.StatusCreated)
			_ = json.NewEncoder(w).Encode(authenticationv1.SelfSubjectReview{
				TypeMeta: metav1.TypeMeta{APIVersion: "authentication.k8s.io/v1", Kind: "SelfSubjectReview"},
				Status:   authenticationv1.SelfSubjectReviewStatus{UserInfo: authenticationv1.UserInfo{Username: r.Header.Get("Impersonate-User")}},
			})
		case strings.HasSuffix(path, "/tasksets"):
			list := batch.TaskSetList{TypeMeta: typeMeta("TaskSetList"), Items: []batch.TaskSet{}}
			for _, set := range sets {
				if inNamespace(set.ObjectMeta) && by(set.ObjectMeta) && (set.Name > r.URL.Query().Get("continue")) {
					if len(list.Items) == 1 {
						list.Continue = list.Items[0].Name
						break
					}
					list.Items = append(list.Items, set)
				}
			}
			_ = json.NewEncoder(w).Encode(list)
		case strings.HasSuffix(path, "/tasks"):
			if got, _, _ := strings.Cut(r.URL.Query().Get("labelSelector"), ","); got != "!"+batch.LabelControllerUID {
				t.Errorf("the tasks are selected by %q", got)
			}
			list := batch.TaskList{TypeMeta: typeMeta("TaskList"), Items: []batch.Task{}}
			for _, task := range tasks {
				if inNamespace(task.ObjectMeta) && by(task.ObjectMeta) {
					list.Items = append(list.Items, task)
				}
			}
			_ = json.NewEncoder(w).Encode(list)
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(server.Close)
	return server
}

func TestList(t *testing.T) {
	noCluster(t)
	now := time.Now()
	// Ages from ten minutes on are shown in whole minutes, so a slow run changes none.
	at := func(namespace, name string, ago time.Duration) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: namespace, Name: name, CreationTimestamp: metav1.NewTime(now.Add(-ago))}
	}
	started := ptr.To(metav1.NewTime(now.Add(-20 * time.Minute)))
	condition := func(name, reason string) []metav1.Condition {
		return []metav1.Condition{{Type: name, Status: metav1.ConditionTrue, Reason: reason}}
	}
	spec := batch.TaskSetSpec{Completions: ptr.To[int32](100), QueueName: "night", BackoffLimitPerIndex: ptr.To[int32](0)}
	suspended := spec
	suspended.Suspend = ptr.To(true)
	sets := []batch.TaskSet{
		{ObjectMeta: at("default", "a-runs", 21*time.Minute), Spec: spec, Status: batch.TaskSetStatus{StartTime: started, Succeeded: 50, Ready: ptr.To[int32](4)}},
		{ObjectMeta: at("default", "b-failed", 17*time.Minute), Spec: spec, Status: batch.TaskSetStatus{
			StartTime: started, Succeeded: 98, Failed: 2, FailedIndexes: ptr.To("3,17"), Conditions: condition(batch.TaskSetFailed, "FailedIndexes"),
		}},
		{ObjectMeta: at("default", "c-done", 14*time.Minute), Spec: spec, Status: batch.TaskSetStatus{StartTime: started, Succeeded: 100, Conditions: condition(batch.TaskSetComplete, "Done")}},
		{ObjectMeta: at("default", "d-held", 13*time.Minute), Spec: suspended},
		{ObjectMeta: at("default", "e-new", 12*time.Minute), Spec: batch.TaskSetSpec{QueueName: "default"}},
		{ObjectMeta: at("other", "f-cancelled", time.Hour), Spec: spec, Status: batch.TaskSetStatus{Conditions: condition(batch.TaskSetFailed, batch.TaskSetReasonCancelled)}},
	}
	failed := batch.TaskState{Terminated: &batch.TaskStateTerminated{ExitCode: 3, Reason: batch.TaskReasonError}}
	deadline := batch.TaskState{Terminated: &batch.TaskStateTerminated{ExitCode: 143, Reason: batch.TaskReasonDeadlineExceeded}}
	tasks := []batch.Task{
		{ObjectMeta: at("default", "waits", 11*time.Minute), Spec: batch.TaskSpec{QueueName: "default"}},
		{ObjectMeta: at("default", "broke", 15*time.Minute), Spec: batch.TaskSpec{QueueName: "default"}, Status: batch.TaskStatus{Phase: batch.TaskFailed, State: failed}},
		{ObjectMeta: at("default", "late", 16*time.Minute), Spec: batch.TaskSpec{QueueName: "default"}, Status: batch.TaskStatus{Phase: batch.TaskFailed, State: deadline}},
		{ObjectMeta: at("other", "reports", 2*time.Hour), Spec: batch.TaskSpec{QueueName: "default"}, Status: batch.TaskStatus{Phase: batch.TaskRunning, Progress: "3/4\x1b[31m"}},
	}
	alice := func(m *metav1.ObjectMeta) {
		m.Annotations, m.Labels = map[string]string{batch.AnnotationCreatedBy: "alice"}, map[string]string{batch.LabelCreator: batch.CreatorLabel("alice")}
	}
	alice(&sets[2].ObjectMeta)
	alice(&tasks[0].ObjectMeta)
	server := serveLists(t, sets, tasks)
	for _, test := range []struct {
		name, args  string
		out, errOut string
		code        int
	}{
		{name: "all", out: `NAME               STATE                      PROGRESS           LEFT   QUEUE     AGE
task/waits         Pending                    -                  -      default   11m
taskset/e-new      Pending                    0/?                -      default   12m
taskset/d-held     Suspended                  0/100              -      night     13m
taskset/c-done     Complete                   100/100            -      night     14m
task/broke         Failed, exit 3             -                  -      default   15m
task/late          Failed, DeadlineExceeded   -                  -      default   16m
taskset/b-failed   Failed                     98/100, 2 failed   -      night     17m
taskset/a-runs     Running                    50/100             20m    night     21m
`},
		{name: "some of what has failed", args: "--failed --limit 2", out: `NAME         STATE                      PROGRESS   LEFT   QUEUE     AGE
task/broke   Failed, exit 3             -          -      default   15m
task/late    Failed, DeadlineExceeded   -          -      default   16m
`},
		{name: "of all namespaces", args: "-A --limit 1", out: "NAMESPACE   NAME         STATE     PROGRESS   LEFT   QUEUE     AGE\ndefault     task/waits   Pending   -          -      default   11m\n"},
		{name: "of another namespace", args: "-n other", out: `NAME                  STATE       PROGRESS   LEFT   QUEUE     AGE
taskset/f-cancelled   Cancelled   0/100      -      night     60m
task/reports          Running     3/4        -      default   120m
`},
		{name: "names", args: "-n other -o name", out: "taskset.batch.leat.dev/f-cancelled\ntask.batch.leat.dev/reports\n"},
		{name: "of alice, with creators", args: "-A --mine --as alice -o wide", out: `NAMESPACE   NAME             STATE      PROGRESS   LEFT   QUEUE     AGE   CREATOR
default     task/waits       Pending    -          -      default   11m   alice
default     taskset/c-done   Complete   100/100    -      night     14m   alice
`},
		{name: "with creators", args: "--limit 2 -o wide", out: `NAME            STATE     PROGRESS   LEFT   QUEUE     AGE   CREATOR
task/waits      Pending   -          -      default   11m   alice
taskset/e-new   Pending   0/?        -      default   12m   -
`},
		{name: "nothing of bob", args: "--mine --as bob", errOut: "No sets or tasks of bob in namespace default.\n"},
		{name: "a bad format", args: "-o widest", errOut: "widest", code: exitUsage},
		{name: "nothing", args: "-n empty", errOut: "No sets or tasks in namespace empty. leat run creates one; --all-namespaces lists those of others.\n"},
		{name: "nothing that has failed", args: "-n empty --failed", errOut: "No failed sets or tasks in namespace empty.\n"},
		{name: "a watch with a format", args: "--watch -o name", errOut: "--watch prints a table without a limit: leave out --limit and -o name", code: exitUsage},
		{name: "a bad limit", args: "--limit -1", errOut: "--limit -1: write how many, or 0 for all", code: exitUsage},
		{name: "a name", args: "x", errOut: "x", code: exitUsage},
	} {
		t.Run(test.name, func(t *testing.T) {
			out, errOut, code := call(t, "leat", "", append([]string{"list", "--server=" + server.URL}, strings.Fields(test.args)...)...)
			if code != test.code || out != test.out || !strings.Contains(errOut, test.errOut) || test.code == 0 && errOut != test.errOut {
				t.Errorf("exit code %d\n%s%s\nwant %d\n%s%s", code, out, errOut, test.code, test.out, test.errOut)
			}
		})
	}
	out, _, code := call(t, "leat", "", "ls", "--server="+server.URL, "-o", "json", "--failed")
	var list struct {
		Kind  string
		Items []struct{ Kind, APIVersion string }
	}
	if err := json.Unmarshal([]byte(out), &list); err != nil || code != 0 || list.Kind != "List" || len(list.Items) != 3 || list.Items[0].Kind != "Task" || list.Items[2].Kind != "TaskSet" ||
		list.Items[0].APIVersion != batch.SchemeGroupVersion.String() {
		t.Errorf("got exit code %d, %v: %s", code, err, out)
	}
}
