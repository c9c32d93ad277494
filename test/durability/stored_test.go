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

package durability

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit"
)

var update = flag.Bool("update", false, "write testdata again from what this server stores")

// golden is the namespace of the objects in testdata.
const golden = "golden"

// storedObject is an object of an earlier server.
type storedObject struct {
	// Value is the value in etcd.
	Value []byte `json:"value"`
	// Served is the object that a get returns, without its resourceVersion.
	Served json.RawMessage `json:"served"`
}

// storedFile returns the file with the objects of an encoding, by their keys below /leat/.
func storedFile(encoding string) string { return filepath.Join("testdata", encoding+".json") }

// testStored reads, serves and migrates objects of all kinds that earlier servers have stored.
func testStored(t *testing.T, c *cluster) {
	_, err := c.kube.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: golden}}, metav1.CreateOptions{})
	if !apierrors.IsAlreadyExists(err) {
		kit.Check(t, err)
	}
	for _, encoding := range []string{"protobuf", "json"} {
		t.Run(encoding, func(t *testing.T) {
			if *update {
				c.writeRecords(t, encoding)
			}
			c.readRecords(t, encoding)
		})
	}
}

func (c *cluster) readRecords(t *testing.T, encoding string) {
	ctx := t.Context()
	var records map[string]storedObject
	kit.Check(t, json.Unmarshal(kit.Must(os.ReadFile(storedFile(encoding)))(t), &records))
	store := startStore(t, 1)
	etcd := store.client(t)
	kinds := map[string]int{}
	for _, key := range slices.Sorted(maps.Keys(records)) {
		kit.Must(etcd.Put(ctx, "/leat/"+key, string(records[key].Value)))(t)
		kinds[strings.Split(key, "/")[0]]++
	}
	if len(kinds) != 5 {
		t.Fatalf("%s has objects of kinds %v, want all five", storedFile(encoding), kinds)
	}
	e := c.serve(t, store)
	client := kit.Client(t, e.Direct(t, "root")).BatchV1alpha1().RESTClient()

	for key, record := range records {
		served, object := getObject(t, client, key)
		if got, want := plainJSON(t, object), plainJSON(t, decoded(t, record.Served)); !bytes.Equal(got, want) {
			t.Errorf("%s: got\n%s\nwant\n%s", key, got, want)
		}
		// An update without a change writes only if this server encodes the object in another way.
		before := storedValue(t, etcd, key)
		kit.Must(client.Put().AbsPath(objectPath(key)).Body(served).SetHeader("Content-Type", "application/json").Do(ctx).Raw())(t)
		after := storedValue(t, etcd, key)
		switch {
		case !bytes.HasPrefix(after, []byte("k8s\x00")):
			t.Errorf("%s after an update: etcd has %q, want protobuf", key, after)
		case encoding == "protobuf" && !bytes.Equal(before, after):
			t.Errorf("%s after an update: etcd has\n%q\nwant the same as before\n%q", key, after, before)
		}
		if _, migrated := getObject(t, client, key); !bytes.Equal(plainJSON(t, migrated), plainJSON(t, object)) {
			t.Errorf("%s after its migration: got\n%s\nwant\n%s", key, plainJSON(t, migrated), plainJSON(t, object))
		}
	}
	for kind, n := range kinds {
		var list metav1.PartialObjectMetadataList
		kit.Check(t, json.Unmarshal(kit.Must(client.Get().AbsPath("/apis/batch.leat.dev/v1alpha1", kind).Do(ctx).Raw())(t), &list))
		if len(list.Items) != n {
			t.Errorf("the list of %s has %d objects, want %d", kind, len(list.Items), n)
		}
	}
	t.Run("NewerFields", func(t *testing.T) { testNewerFields(t, etcd, client, encoding, records) })
}

// testNewerFields tests that a server reads objects of a newer server. Fields that it does not know stay in etcd
// until its first write of the object.
func testNewerFields(t *testing.T, etcd *clientv3.Client, client rest.Interface, encoding string, records map[string]storedObject) {
	documented(t, "how-to/backup.md", "**An older server removes fields that it does not know with its first write of an object**")
	const key, marker = "tasks/" + golden + "/newer", "of-a-newer-version"
	stored := records["tasks/"+golden+"/waiting"].Value
	if encoding == "json" {
		stored = bytes.Replace(stored, []byte(`"spec":{`), []byte(`"spec":{"newerField":"`+marker+`",`), 1)
		stored = bytes.Replace(stored, []byte(`"name":"waiting"`), []byte(`"name":"newer"`), 1)
	} else {
		var task batch.Task
		var unknown runtime.Unknown
		kit.Check(t, unknown.Unmarshal(stored[4:]))
		kit.Check(t, task.Unmarshal(unknown.Raw))
		task.Name = "newer"
		// The tag of field 1000, a string, and its length.
		unknown.Raw = append(kit.Must(task.Marshal())(t), 0xc2, 0x3e, byte(len(marker)))
		unknown.Raw = append(unknown.Raw, marker...)
		stored = append([]byte("k8s\x00"), kit.Must(unknown.Marshal())(t)...)
	}
	if !bytes.Contains(stored, []byte(marker)) {
		t.Fatalf("no newer field in %q", stored)
	}
	kit.Must(etcd.Put(t.Context(), "/leat/"+key, string(stored)))(t)
	getObject(t, client, key)
	if !bytes.Equal(storedValue(t, etcd, key), stored) {
		t.Errorf("a read changed the stored object")
	}
	kit.Must(client.Patch(types.MergePatchType).AbsPath(objectPath(key)).Body([]byte(`{"metadata":{"labels":{"example.com/written":"here"}}}`)).Do(t.Context()).Raw())(t)
	after := storedValue(t, etcd, key)
	if bytes.Contains(after, []byte(marker)) || !bytes.Contains(after, []byte("example.com/written")) {
		t.Errorf("after a write: etcd has %q, want the label and no newer field", after)
	}
}

func objectPath(key string) string {
	parts := strings.Split(key, "/")
	return "/apis/batch.leat.dev/v1alpha1/namespaces/" + parts[1] + "/" + parts[0] + "/" + parts[2]
}

func getObject(t testing.TB, client rest.Interface, key string) ([]byte, map[string]any) {
	t.Helper()
	served := kit.Must(client.Get().AbsPath(objectPath(key)).SetHeader("Accept", "application/json").Do(t.Context()).Raw())(t)
	return served, decoded(t, served)
}

func decoded(t testing.TB, data []byte) map[string]any {
	t.Helper()
	var object map[string]any
	kit.Check(t, json.Unmarshal(data, &object))
	return object
}

// plainJSON returns an object without its resourceVersion.
func plainJSON(t testing.TB, object map[string]any) []byte {
	t.Helper()
	delete(object["metadata"].(map[string]any), "resourceVersion")
	return kit.Must(json.MarshalIndent(object, "", " "))(t)
}

func storedValue(t testing.TB, etcd *clientv3.Client, key string) []byte {
	t.Helper()
	response := kit.Must(etcd.Get(t.Context(), "/leat/"+key))(t)
	if len(response.Kvs) != 1 {
		t.Fatalf("etcd does not have %s", key)
	}
	return response.Kvs[0].Value
}

// writeRecords makes a server store objects of all kinds with most of their fields set, and writes them to testdata.
func (c *cluster) writeRecords(t *testing.T, encoding string) {
	ctx := t.Context()
	store := startStore(t, 1)
	etcd := store.client(t)
	mediaType := map[string]string{"protobuf": "application/vnd.kubernetes.protobuf", "json": "application/json"}[encoding]
	e := c.serve(t, store, "--storage-media-type="+mediaType)
	root := kit.Client(t, e.Direct(t, "root")).BatchV1alpha1()
	agent := kit.Client(t, e.Worker(t, golden, "worker")).BatchV1alpha1()

	queue := newQueue("queue")
	queue.Spec = batch.TaskQueueSpec{Weight: new(int32(3)), MaxRunningTasks: new(int32(20)), MaxPendingTasks: new(int32(1000)), StopPolicy: new(batch.StopPolicyHold)}
	kit.Must(root.TaskQueues(golden).Create(ctx, queue, metav1.CreateOptions{}))(t)

	set := newSuspendedSet("set")
	set.Labels, set.Annotations = map[string]string{"example.com/label": "x"}, map[string]string{"example.com/note": "ü, two\nlines"}
	set.Spec.Completions, set.Spec.Parallelism, set.Spec.CompletionMode = new(int32(100)), new(int32(7)), new(batch.IndexedCompletion)
	set.Spec.BackoffLimitPerIndex, set.Spec.MaxFailedIndexes = new(int32(2)), new(int32(5))
	set.Spec.TTLSecondsAfterFinished = new(int32(3600))
	kit.Must(root.TaskSets(golden).Create(ctx, set, metav1.CreateOptions{}))(t)

	worker := &batch.Worker{ObjectMeta: metav1.ObjectMeta{Name: "worker", Labels: map[string]string{"disk": "ssd"}}}
	worker.Spec.Taints = []batch.Taint{{Key: "example.com/dedicated", Value: "yes", Effect: batch.TaintEffectNoSchedule}}
	worker = kit.Must(agent.Workers(golden).Create(ctx, worker, metav1.CreateOptions{}))(t)
	capacity := batch.ResourceList{batch.ResourceTasks: resource.MustParse("8"), "memory": resource.MustParse("1536Mi")}
	worker.Status.Capacity, worker.Status.Allocatable, worker.Status.Incarnation = capacity, capacity, "7b0ad4a3-8c67-4b27-a7d7-2c6c1d1f0a01"
	worker.Status.Conditions = []metav1.Condition{{
		Type: batch.WorkerReady, Status: metav1.ConditionTrue, Reason: "WorkerReady", LastTransitionTime: metav1.Now(),
	}}
	worker = kit.Must(agent.Workers(golden).UpdateStatus(ctx, worker, metav1.UpdateOptions{}))(t)
	lease := &batch.WorkerLease{ObjectMeta: metav1.ObjectMeta{Name: "worker"}, Spec: batch.WorkerLeaseSpec{
		HolderIdentity: worker.Status.Incarnation, LeaseDurationSeconds: new(int32(40)), RenewTime: new(metav1.NowMicro()),
	}}
	kit.Must(agent.WorkerLeases(golden).Create(ctx, lease, metav1.CreateOptions{}))(t)

	kit.Must(root.Tasks(golden).Create(ctx, newHeldTask("waiting"), metav1.CreateOptions{}))(t)
	task := newHeldTask("running")
	task.Spec.SchedulingGates, task.Spec.QueueName = nil, "queue"
	task.Spec.Args, task.Spec.Env = []string{"$(A)"}, []batch.EnvVar{{Name: "A", Value: "b"}}
	task.Spec.ActiveDeadlineSeconds, task.Spec.BackoffLimit = new(int64(600)), new(int32(4))
	kit.Must(root.Tasks(golden).Create(ctx, task, metav1.CreateOptions{}))(t)
	_, err := root.Tasks(golden).Bind(ctx, "running", &batch.Binding{
		ObjectMeta: metav1.ObjectMeta{Name: "running", Namespace: golden},
		Target:     batch.BindingTarget{Name: worker.Name, UID: worker.UID, Incarnation: worker.Status.Incarnation},
	}, metav1.CreateOptions{})
	kit.Check(t, err)
	kit.Eventually(t, "the server accepts the worker's report", func(ctx context.Context) error {
		bound, err := agent.Tasks(golden).Get(ctx, "running", metav1.GetOptions{})
		if err != nil {
			return err
		}
		bound.Status.Phase, bound.Status.Attempts, bound.Status.StartTime = batch.TaskRunning, 1, new(metav1.Now())
		bound.Status.State.Running = &batch.TaskStateRunning{StartedAt: metav1.Now()}
		bound.Status.Progress = "3/10"
		_, err = agent.Tasks(golden).UpdateStatus(ctx, bound, metav1.UpdateOptions{})
		return err
	})

	records := map[string]storedObject{}
	for _, kv := range kit.Must(etcd.Get(ctx, "/leat/", clientv3.WithPrefix()))(t).Kvs {
		key := strings.TrimPrefix(string(kv.Key), "/leat/")
		if strings.Count(key, "/") != 2 {
			t.Fatalf("got key %s, want the key of an object in a namespace", kv.Key)
		}
		_, object := getObject(t, root.RESTClient(), key)
		records[key] = storedObject{Value: kv.Value, Served: plainJSON(t, object)}
	}
	kit.Check(t, os.MkdirAll("testdata", 0o755))
	kit.Check(t, os.WriteFile(storedFile(encoding), append(kit.Must(json.MarshalIndent(records, "", " "))(t), '\n'), 0o644))
}
