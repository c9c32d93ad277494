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
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/archive/segment"
	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/host"
)

// forged is in the output of a worker of another tenant.
const forged = "forged-by-another-tenant"

// testArchiveTenants checks who may read what is in the archive, and that nobody gets at that of another namespace.
func testArchiveTenants(t *testing.T, e *kit.Env, s3 *host.S3) {
	f := newArchiveFixture(t, e, s3)
	set := f.sets[f.own]
	alone := kit.Must(kit.Client(t, e.Admin(t)).BatchV1alpha1().Tasks(f.own).Create(t.Context(), kit.NewTask("alone"), metav1.CreateOptions{}))(t)
	f.store(t, f.own, newUpload(f.own, "w", set, 0, segmentAt(t, 0, "w", marked+"\n")))
	f.store(t, f.own, f.aloneUpload(t, f.own, alone.UID, marked))
	// The worker of another namespace sends output of the set and of the task: nobody of the namespace sees it.
	f.store(t, f.others, newUpload(f.others, "w", set, 0, segmentAt(t, 0, "w", forged+"\n")))
	f.store(t, f.others, newUpload(f.others, "w", set, 1, segmentAt(t, 1, "w", forged+"\n")))
	f.store(t, f.others, f.aloneUpload(t, f.others, alone.UID, forged))
	if got := f.stored(t, f.others); len(got) != 3 || !strings.HasPrefix(got[0], string(set)+"/w/") {
		t.Errorf("segments of the other namespace are at %q, want them under its own UID", got)
	}
	for _, name := range []string{"view", "edit", "admin"} {
		e.BindClusterRole(t, f.own, "archive-"+name, name, kit.UserSubject("archive-"+name))
	}
	e.BindClusterRole(t, f.others, "archive-stranger", "admin", kit.UserSubject("archive-stranger"))
	// A person with the right to create workers/archive is not a worker.
	e.BindClusterRole(t, f.own, "archive-sender", "archive-"+f.own, kit.UserSubject("archive-sender"))

	for _, port := range ports(e) {
		t.Run("rights "+port.name, func(t *testing.T) { f.rights(t, port) })
		t.Run("strangers "+port.name, func(t *testing.T) { f.strangers(t, port) })
	}
	t.Run("a namespace of the same name", f.recreated)
}

// aloneUpload returns an upload of an attempt at a task without a set, which has just started.
func (f *archiveFixture) aloneUpload(t testing.TB, namespace string, task types.UID, content string) *upload {
	t.Helper()
	record := attemptAt(0, "w")
	record.Index, record.TaskUID, record.TaskName, record.StartTime = nil, task, content, metav1.NowMicro()
	return newUpload(namespace, "w", "", 2, zipOf(t, output(segment.EntryName(record), content+"\n"), recordsOf(t, record)))
}

// store sends an upload as its worker.
func (f *archiveFixture) store(t testing.TB, namespace string, u *upload) {
	t.Helper()
	config := f.env.Worker(t, namespace, u.worker)
	if got := u.send(t, http2Client(t, config), config); got.code != http.StatusOK {
		t.Fatalf("an upload of %s/%s: got %s, want 200", namespace, u.worker, got)
	}
}

// archiveReads are the requests that read from the archive, in a namespace.
var archiveReads = []string{"tasksets/set/log", "tasksets/set/log?indexes=0-1", "tasksets/set/log?attempt=1&indexes=0", "tasksets/set/records", "tasks/alone/records"}

// rights checks each role: who reads, and that nobody writes.
func (f *archiveFixture) rights(t *testing.T, port port) {
	base := groupPath + "/namespaces/" + f.own + "/"
	for _, test := range []struct {
		user  string
		reads bool
	}{{"archive-view", true}, {"archive-edit", true}, {"archive-admin", true}, {"archive-sender", false}, {"archive-nobody", false}, {"archive-stranger", false}} {
		config := port.as(t, test.user)
		connection := &persistent{config: config}
		want := http.StatusForbidden
		if test.reads {
			want = http.StatusOK
			kit.Eventually(t, test.user+" has its rights", func(context.Context) error {
				if got := connection.ask(t, "GET", base+"tasksets/set"); got.code != http.StatusOK {
					return errors.New(got.String())
				}
				return nil
			})
		}
		for _, path := range archiveReads {
			got := connection.ask(t, "GET", base+path)
			// The record of a task has its name, and the output its text.
			records, task := strings.HasSuffix(path, "records"), strings.HasPrefix(path, "tasks/")
			has := !records || task
			if got.code != want || strings.Contains(got.body, marked) != (test.reads && has) || strings.Contains(got.body, forged) {
				t.Errorf("%s by %s: got %s, want %d", path, test.user, got, want)
			}
			if test.reads && records && strings.Count(got.body, `"startTime"`) != 1 {
				t.Errorf("%s by %s: got %s, want one record", path, test.user, got)
			}
			for _, method := range []string{"POST", "PUT", "PATCH", "DELETE"} {
				if got := connection.ask(t, method, base+path); got.code != http.StatusForbidden && got.code != http.StatusMethodNotAllowed {
					t.Errorf("%s %s by %s: got %s, want 403 or 405", method, path, test.user, got)
				}
			}
		}
		u := newUpload(f.own, "w", f.sets[f.own], 7, segmentAt(t, 7, "w", forged))
		if got := u.send(t, http2Client(t, config), config); got.code != http.StatusForbidden {
			t.Errorf("an upload by %s: got %s, want 403", test.user, got)
		}
	}
	worker := f.env.Worker(t, f.own, "w")
	for _, path := range archiveReads {
		if got := ask(t, worker, "GET", base+path); got.code != http.StatusForbidden {
			t.Errorf("%s by a worker: got %s, want 403", path, got)
		}
	}
}

// strangers asks for what is stored of a namespace as the administrator of another one.
func (f *archiveFixture) strangers(t *testing.T, port port) {
	config := port.as(t, "archive-stranger")
	connection := &persistent{config: config}
	own := groupPath + "/namespaces/" + f.others + "/"
	kit.Eventually(t, "the stranger may read its namespace", func(context.Context) error {
		if got := connection.ask(t, "GET", own+"tasksets/set"); got.code != http.StatusOK {
			return errors.New(got.String())
		}
		return nil
	})
	// Tasks and sets of its own, which point to those of the other namespace.
	set, suffix := string(f.sets[f.own]), strings.ReplaceAll(port.name, " ", "-")
	for name, uid := range map[string]string{"heir": set, "climber": "../" + string(f.uids[f.own]) + "/" + set, "lone": "tasks"} {
		name += "-" + suffix
		object := fmt.Sprintf(`{"apiVersion":"batch.leat.dev/v1alpha1","kind":"Task","metadata":{"name":%q,"ownerReferences":[{"apiVersion":"batch.leat.dev/v1alpha1",`+
			`"kind":"TaskSet","name":"set","uid":%q,"controller":true}]},"spec":{"command":["true"]}}`, name, uid)
		created := connection.post(t, own+"tasks", object)
		for _, path := range []string{"/records", "/log", "/log?previous=true", "/log?attempt=1"} {
			got := connection.ask(t, "GET", own+"tasks/"+name+path)
			if strings.Contains(got.body, marked) || got.code >= 500 {
				t.Errorf("%s of %s, whose creation got %s: got %s", path, name, created, got)
			}
		}
	}
	// M is the namespace of the stranger, O the other one.
	paths := []string{
		"/namespaces/O/T", "/namespaces/M/../O/T", "/namespaces/M/%2e%2e/O/T", "/namespaces/M%2f..%2fO/T", "/namespaces/M/tasksets/..%2f..%2fO%2fT", "//namespaces/O/T", "/namespaces//O/T",
		"/namespaces/O;x=y/T", "/namespaces/O%00/T", "/namespaces/U/T", "/namespaces/M/tasksets/set/../../../O/T", "/watch/namespaces/O/T", "/proxy/namespaces/O/T", "/T",
		"/namespaces/M/tasksets/set/log/../../../../O/T", "/namespaces/M/tasksets/set/log/../../../O/T", "/namespaces/M/tasksets/set/records/U", "/NAMESPACES/O/T",
		"/namespaces/M/tasksets/set/log?namespace=O", "/namespaces/M/tasksets/set/log?taskSetUID=S", "/namespaces/M/tasksets/set/records?taskSetUID=S&namespace=O",
		"/namespaces/M/tasksets/S/log", "/namespaces/M/tasksets/S/records", "/namespaces/M/tasksets/..%2fO%2fset/records", "/namespaces/M/tasks/alone/records",
		"/namespaces/M/tasksets/set/records?continue=C", "/namespaces/M/tasksets/set/log?indexes=../S", "/namespaces/M/tasksets/set/records?indexes=..%2f..%2fO",
	}
	token := "djE6Li4v" // v1:../
	for _, path := range paths {
		for _, read := range archiveReads {
			target := groupPath + strings.NewReplacer("M", f.others, "O", f.own, "T", read, "U", string(f.uids[f.own]), "S", set, "C", token).Replace(path)
			if got := connection.ask(t, "GET", target); strings.Contains(got.body, marked) || got.code >= 500 || got.code < 300 && !strings.HasPrefix(target, own) {
				t.Errorf("GET %s: got %s, want an error", target, got)
			}
		}
	}
}

// recreated deletes the namespace, and creates another one of the same name for another tenant, who creates a set of
// the same name, and tasks with the UID of the former set.
func (f *archiveFixture) recreated(t *testing.T) {
	namespaces := f.env.HostClient(t).CoreV1().Namespaces()
	former, set := f.uids[f.own], f.sets[f.own]
	kit.Check(t, namespaces.Delete(t.Context(), f.own, metav1.DeleteOptions{}))
	kit.Eventually(t, "the namespace is gone", func(ctx context.Context) error {
		_, err := namespaces.Get(ctx, f.own, metav1.GetOptions{})
		return kit.Gone(err)
	})
	kit.Must(namespaces.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: f.own}}, metav1.CreateOptions{}))(t)
	admin := kit.Client(t, f.env.Admin(t)).BatchV1alpha1()
	created := kit.NewTaskSet("set")
	indexed := v1alpha1.IndexedCompletion
	created.Spec.Completions, created.Spec.CompletionMode, created.Spec.Suspend = new(int32(10)), &indexed, new(true)
	kit.Eventually(t, "a set of the same name is created", func(ctx context.Context) error {
		_, err := admin.TaskSets(f.own).Create(ctx, created, metav1.CreateOptions{})
		return err
	})
	f.uids[f.own] = kit.Must(namespaces.Get(t.Context(), f.own, metav1.GetOptions{}))(t).UID
	heir := kit.NewTask("alone")
	heir.OwnerReferences = []metav1.OwnerReference{{APIVersion: v1alpha1.SchemeGroupVersion.String(), Kind: "TaskSet", Name: "set", UID: set, Controller: new(true)}}
	if _, err := admin.Tasks(f.own).Create(t.Context(), heir, metav1.CreateOptions{}); err != nil {
		t.Logf("a task of the former set: %v", err)
	}
	for _, config := range []*rest.Config{f.env.Admin(t), f.env.Direct(t, "alice", "leat:admins")} {
		for _, path := range archiveReads {
			got := ask(t, config, "GET", groupPath+"/namespaces/"+f.own+"/"+path)
			if strings.Contains(got.body, marked) || strings.Contains(got.body, `"startTime"`) || got.code >= 500 {
				t.Errorf("%s in the namespace of the same name: got %s, want nothing of the former one", path, got)
			}
		}
	}
	if f.uids[f.own] == former {
		t.Errorf("the namespace has the UID of the former one, %s", former)
	}
	// What is stored now is found.
	list := kit.Must(admin.TaskSets(f.own).Get(t.Context(), "set", metav1.GetOptions{}))(t)
	f.store(t, f.own, newUpload(f.own, "w", list.UID, 0, segmentAt(t, 0, "w", "mine\n")))
	kit.Eventually(t, "the output of the new set is read", func(context.Context) error {
		if got := ask(t, f.env.Admin(t), "GET", groupPath+"/namespaces/"+f.own+"/tasksets/set/log"); got.code != http.StatusOK || got.body != "mine\n" {
			return errors.New(got.String())
		}
		return nil
	})
}
