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

package incluster

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/archive/segment"
	"github.com/leat-dev/leat/test/kit"
)

// testArchive runs a set on a worker that sends its output through one replica, and reads it as a user with the host's
// role view: with kubectl and leat through the aggregator, which uses the other replica, and at each server.
func testArchive(t *testing.T, e *kit.Env) {
	const indexes = 20
	replica := e.Replica(t)
	namespace := e.Namespace(t)
	e.BindClusterRole(t, namespace, "reader", "view", kit.UserSubject("archive-reader"))
	e.StartManager(t, "archive")
	replica.StartWorker(t, replica.Worker(t, namespace, "archiving"), namespace, "archiving", nil, "--state-dir="+t.TempDir(), "--tasks=4")
	api := kit.Client(t, e.Admin(t)).BatchV1alpha1()
	set := kit.NewTaskSet("numbers", "sh", "-c", "echo line $TASK_INDEX; exit $((TASK_INDEX == 7))")
	indexed := v1alpha1.IndexedCompletion
	set.Spec.CompletionMode, set.Spec.Completions, set.Spec.Parallelism = &indexed, new(int32(indexes)), new(int32(4))
	set.Spec.BackoffLimitPerIndex = new(int32(0))
	kit.Must(api.TaskSets(namespace).Create(t.Context(), set, metav1.CreateOptions{}))(t)

	// The worker serves no logs, so that all that is read comes from the store.
	kubeconfig := e.Kubeconfig(t, e.Person(t, "archive-reader"), namespace)
	path := groupPath + "/namespaces/" + namespace + "/tasksets/numbers/"
	kubectl := func(args ...string) string {
		t.Helper()
		stdout, stderr, err := e.Kubectl(t, kubeconfig, "", args...)
		if err != nil {
			t.Errorf("kubectl %s: %v: %s", strings.Join(args, " "), err, stderr)
		}
		return stdout
	}
	var records v1alpha1.TaskRecordList
	kit.Eventually(t, "the records of all indexes can be read", func(context.Context) error {
		stdout, _, err := e.Kubectl(t, kubeconfig, "", "get", "--raw", path+"records")
		if err != nil {
			return err
		}
		records = v1alpha1.TaskRecordList{}
		if err := json.Unmarshal([]byte(stdout), &records); err != nil {
			return err
		}
		if len(records.Items) != indexes || len(records.Warnings) > 0 {
			return fmt.Errorf("got %d records, warnings %q", len(records.Items), records.Warnings)
		}
		return nil
	})
	var want strings.Builder
	for index := range indexes {
		fmt.Fprintf(&want, "line %d\n", index)
	}
	for from, got := range map[string]string{
		"kubectl":   kubectl("get", "--raw", path+"log"),
		"a server":  kit.Do(t, e.Direct(t, "archive-reader"), http.MethodGet, path+"log", "").Body,
		"a replica": kit.Do(t, replica.Direct(t, "archive-reader"), http.MethodGet, path+"log", "").Body,
	} {
		if got != want.String() {
			t.Errorf("the log from %s is %q, want %q", from, got, &want)
		}
	}
	if got := kubectl("get", "--raw", path+"log?indexes=7&prefix=true"); got != "7 line 7\n" {
		t.Errorf("got %q, want the line of index 7 after its prefix", got)
	}
	table := kubectl("get", "taskset", "numbers", "--subresource=records")
	if header := regexp.MustCompile(`^INDEX +FAILURES +ATTEMPT +WORKER +EXIT +STARTED +DURATION +CPU +MEMORY +OUTPUT\n`); !header.MatchString(table) ||
		!regexp.MustCompile(`(?m)^7 +0 +1 +archiving +1 `).MatchString(table) || strings.Count(table, "\n") != indexes+1 {
		t.Errorf("kubectl get --subresource=records: got\n%s\nwant a table of %d attempts, that of index 7 with exit code 1", table, indexes)
	}
	for args, pattern := range map[string]string{
		"logs numbers --index=6-7":   `^\[numbers/6\] line 6\n\[numbers/7\] line 7\n$`,
		"logs numbers --failed":      `^\[numbers/7\] line 7\n$`,
		"history numbers --failed":   `(?m)^7 +1 +archiving +1 `,
		"history numbers --index=19": `(?m)^19 +1 +archiving +0 `,
	} {
		command := exec.CommandContext(t.Context(), kit.Program(t, "leat"), append(strings.Fields(args), "--kubeconfig="+kubeconfig)...)
		if got, err := command.CombinedOutput(); err != nil || !regexp.MustCompile(pattern).Match(got) {
			t.Errorf("leat %s: got %v and %q, want %s", args, err, got, pattern)
		}
	}

	// What is sent through one replica is read through the other at once.
	body, options := segmentOf(t, "other", 3)
	set.Name, set.ResourceVersion = "by-hand", ""
	set.Spec.Suspend = new(true)
	options.TaskSetUID = string(kit.Must(api.TaskSets(namespace).Create(t.Context(), set, metav1.CreateOptions{}))(t).UID)
	for i, servers := range [][2]*kit.Env{{e, replica}, {replica, e}} {
		options.Segment = int64(i)
		sender, reader := kit.Client(t, servers[0].Worker(t, namespace, "other")).BatchV1alpha1(), kit.Client(t, servers[1].Direct(t, "archive-reader")).BatchV1alpha1()
		kit.Must(sender.Workers(namespace).Archive(t.Context(), "other", options, body))(t)
		list := kit.Must(reader.TaskSets(namespace).Records(t.Context(), "by-hand", &v1alpha1.TaskRecordOptions{}))(t)
		if len(list.Items) != i+1 {
			t.Errorf("after the upload of segment %d: got %d records through the other replica, want %d", i, len(list.Items), i+1)
		}
	}
}

// segmentOf returns a segment of one attempt, and the options for its upload.
func segmentOf(t *testing.T, worker string, index int32) ([]byte, *v1alpha1.WorkerArchiveOptions) {
	t.Helper()
	const incarnation = "22222222-2222-4222-8222-222222222222"
	path := filepath.Join(t.TempDir(), "segment.zip")
	w := kit.Must(segment.Create(path))(t)
	kit.Check(t, w.Add(&v1alpha1.TaskRecord{
		Index: &index, TaskName: "task", TaskUID: "33333333-3333-4333-8333-333333333333", Attempt: 1, WorkerName: worker, Incarnation: incarnation, StartTime: metav1.NowMicro(),
	}, []byte("by hand\n")))
	kit.Check(t, w.Close())
	body := kit.Must(os.ReadFile(path))(t)
	digest := sha256.Sum256(body)
	return body, &v1alpha1.WorkerArchiveOptions{Incarnation: incarnation, Digest: hex.EncodeToString(digest[:])}
}
