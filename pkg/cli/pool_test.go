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
	"flag"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	kubescheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/utils/ptr"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/pool"
)

var updateGolden = flag.Bool("update", false, "write the files in testdata and artifacts that tests compare")

// poolCluster is an API server with just enough behaviour for pools: it stores objects by their paths, and applies a
// manifest by replacing all but the number of replicas.
type poolCluster struct {
	*httptest.Server
	mu      sync.Mutex
	version int
	objects map[string]map[string]any
	// denied are the rights that access reviews deny, as "verb resource".
	denied []string
	// refused are the paths whose applies fail.
	refused string
	applies int
}

var testInfo = map[string]string{
	"server": "https://leat-apiserver.leat-system.svc", "ca.crt": "CA of the server\n", "client-ca.crt": "CA of the client\n",
	"image": "registry.example.com/leat:v1",
}

// listKinds has the kinds of lists by resource.
var listKinds = map[string]string{
	"serviceaccounts": "ServiceAccountList", "rolebindings": "RoleBindingList", "configmaps": "ConfigMapList", "networkpolicies": "NetworkPolicyList",
	"statefulsets": "StatefulSetList", "pods": "PodList", "events": "EventList", "tasks": "TaskList", "workers": "WorkerList",
}

func newPoolCluster(t *testing.T) *poolCluster {
	t.Helper()
	noCluster(t)
	c := &poolCluster{objects: map[string]map[string]any{}}
	c.setInfo(testInfo)
	c.Server = httptest.NewServer(c)
	t.Cleanup(c.Close)
	return c
}

func (c *poolCluster) setInfo(data map[string]string) {
	c.put("/api/v1/namespaces/leat-system/configmaps/leat-info", &corev1.ConfigMap{Data: data})
}

func (c *poolCluster) put(path string, object any) {
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(object)
	if err != nil {
		panic(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.objects[path] = content
}

// statefulSet returns a StatefulSet of the namespace default.
func (c *poolCluster) statefulSet(t *testing.T, name string) *appsv1.StatefulSet {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	set := &appsv1.StatefulSet{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(c.objects["/apis/apps/v1/namespaces/default/statefulsets/"+name], set); err != nil {
		t.Fatal(err)
	}
	return set
}

// names returns what exists in the namespace default as RESOURCE/NAME.
func (c *poolCluster) names() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var names []string
	for path := range c.objects {
		if _, name, ok := strings.Cut(path, "/namespaces/default/"); ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func (c *poolCluster) run(t *testing.T, line string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	return call(t, "leat", "", append(append(strings.Fields(line), "--server="+c.URL), args...)...)
}

func (c *poolCluster) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	path := r.URL.Path
	object, exists := c.objects[path]
	_, within, _ := strings.Cut(path, "/namespaces/")
	isList := strings.Count(within, "/") == 1
	switch {
	case strings.HasSuffix(path, "/selfsubjectaccessreviews"):
		// Typed clients send protobuf.
		review := must(runtime.Decode(kubescheme.Codecs.UniversalDeserializer(), must(io.ReadAll(r.Body)))).(*authorizationv1.SelfSubjectAccessReview)
		asked := review.Spec.ResourceAttributes
		review.Status.Allowed = !slices.Contains(c.denied, asked.Verb+" "+asked.Resource)
		w.WriteHeader(http.StatusCreated)
		_ = json.NewEncoder(w).Encode(review)
	case r.Method == http.MethodGet && isList:
		list := unstructured.UnstructuredList{Object: map[string]any{
			"apiVersion": strings.TrimPrefix(strings.TrimPrefix(path[:strings.Index(path, "/namespaces")], "/apis/"), "/api/"), "kind": listKinds[filepath.Base(path)],
		}}
		for _, name := range slices.Sorted(maps.Keys(c.objects)) {
			one := unstructured.Unstructured{Object: c.objects[name]}
			key, value, _ := strings.Cut(r.URL.Query().Get("labelSelector"), "=")
			if label, ok := one.GetLabels()[key]; strings.HasPrefix(name, path+"/") && (key == "" || ok && (value == "" || label == value)) {
				list.Items = append(list.Items, one)
			}
		}
		_ = json.NewEncoder(w).Encode(list.UnstructuredContent())
	case r.Method == http.MethodPatch && r.Header.Get("Content-Type") == "application/apply-patch+yaml":
		c.applies++
		if c.refused != "" && strings.HasSuffix(path, c.refused) {
			status := apierrors.NewInternalError(fmt.Errorf("no room"))
			w.WriteHeader(http.StatusInternalServerError)
			_ = json.NewEncoder(w).Encode(status.ErrStatus)
			return
		}
		applied := map[string]any{}
		_ = json.NewDecoder(r.Body).Decode(&applied)
		_ = json.NewEncoder(w).Encode(c.apply(path, r.URL.Query().Get("fieldManager"), applied))
	case r.Method == http.MethodPatch:
		var patch map[string]any
		_ = json.NewDecoder(r.Body).Decode(&patch)
		target := c.objects[strings.TrimSuffix(path, "/scale")]
		maps.Copy(target["spec"].(map[string]any), patch["spec"].(map[string]any))
		_ = json.NewEncoder(w).Encode(target)
	case !exists:
		status := apierrors.NewNotFound(schema.GroupResource{Resource: "things"}, filepath.Base(path))
		w.WriteHeader(http.StatusNotFound)
		_ = json.NewEncoder(w).Encode(status.ErrStatus)
	case r.Method == http.MethodDelete:
		delete(c.objects, path)
		_ = json.NewEncoder(w).Encode(metav1.Status{Status: metav1.StatusSuccess})
	default:
		_ = json.NewEncoder(w).Encode(object)
	}
}

// apply stores what the manager leat applies, and of other managers only the replicas. If the only owner of the
// replicas applies none, they are reset to the default of one.
func (c *poolCluster) apply(path, manager string, applied map[string]any) map[string]any {
	before := unstructured.Unstructured{Object: c.objects[path]}
	after := unstructured.Unstructured{Object: applied}
	replicas, has, _ := unstructured.NestedFieldNoCopy(applied, "spec", "replicas")
	owners := map[string]bool{} // of the replicas, by manager
	for _, entry := range before.GetManagedFields() {
		owners[entry.Manager] = strings.Contains(string(entry.FieldsV1.Raw), "f:replicas")
	}
	if live, ok, _ := unstructured.NestedFieldNoCopy(before.Object, "spec", "replicas"); ok && !has {
		if replicas = live; owners[manager] && !owners["leat-pools"] {
			replicas = int64(1)
		}
	}
	owners[manager] = has
	if manager != "leat" {
		after.Object = runtime.DeepCopyJSON(before.Object)
	}
	if status, ok := before.Object["status"]; ok {
		after.Object["status"] = status
	}
	if replicas != nil {
		_ = unstructured.SetNestedField(after.Object, replicas, "spec", "replicas")
	}
	var entries []metav1.ManagedFieldsEntry
	for _, name := range slices.Sorted(maps.Keys(owners)) {
		fields := `{}`
		if owners[name] {
			fields = `{"f:spec":{"f:replicas":{}}}`
		}
		entries = append(entries, metav1.ManagedFieldsEntry{Manager: name, Operation: metav1.ManagedFieldsOperationApply, FieldsV1: &metav1.FieldsV1{Raw: []byte(fields)}})
	}
	after.SetManagedFields(entries)
	after.SetResourceVersion(before.GetResourceVersion())
	if string(must(json.Marshal(after.Object))) != string(must(json.Marshal(before.Object))) {
		c.version++
		after.SetResourceVersion(fmt.Sprint(c.version))
	}
	c.objects[path] = after.Object
	return after.Object
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

// compareFile compares the text with a file, or writes it with -update.
func compareFile(t *testing.T, path, got string) {
	t.Helper()
	if *updateGolden {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Errorf("%s (-file +got):\n%s\nWrite it with: go test ./pkg/cli -run %s -update", path, d, t.Name())
	}
}

func TestPoolManifests(t *testing.T) {
	c := newPoolCluster(t)
	patch := filepath.Join(t.TempDir(), "patch.yaml")
	const text = `
spec:
  template:
    spec:
      terminationGracePeriodSeconds: 25
      nodeSelector: {disk: ssd}
      tolerations:
      - {key: spot, operator: Exists}
      containers:
      - name: worker
        env:
        - {name: LICENSE_SERVER, value: licenses.example.com}
        volumeMounts:
        - {name: data, mountPath: /data}
      volumes:
      - name: data
        persistentVolumeClaim: {claimName: data}
`
	if err := os.WriteFile(patch, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, args := range map[string]string{
		"default": "render --image debian:13",
		"full": "train --image pytorch/pytorch -n ml --tasks 2 --cpu 8 --memory 64Gi --gpu 2 --resource example.com/fpga=1 --min 1 --max 20 --idle 10m " +
			"--label disk=ssd --label zone=a --taint gpu=yes:NoSchedule --taint batch.example.com/new:NoExecute --from " + patch,
		"fixed": "fixed --image debian:13 --cpu 2500m --min 3 --max 3",
	} {
		t.Run(name, func(t *testing.T) {
			out, errOut, code := c.run(t, "pool create --dry-run=client -o yaml "+args)
			if code != 0 || errOut != "" {
				t.Fatalf("exit code %d: %s", code, errOut)
			}
			compareFile(t, filepath.Join("testdata", "pool-"+name+".yaml"), out)
		})
	}
	if c.applies > 0 || len(c.names()) > 0 {
		t.Errorf("a client dry run applied %d objects: %v", c.applies, c.names())
	}
}

// TestPoolExample compares the example with what the command prints. The example has no authorities: those of
// testInfo stand where a user writes them.
func TestPoolExample(t *testing.T) {
	c := newPoolCluster(t)
	c.setInfo(map[string]string{
		"server": testInfo["server"], "image": "leat",
		"ca.crt": "The value of ca.crt in ConfigMap leat-system/leat-info\n", "client-ca.crt": "The value of client-ca.crt in ConfigMap leat-system/leat-info\n",
	})
	out, errOut, code := c.run(t, "pool create --dry-run=client -o yaml worker-pool --image debian:stable-slim --tasks 8 --cpu 2 --memory 2Gi --max 20")
	if code != 0 {
		t.Fatalf("exit code %d: %s", code, errOut)
	}
	compareFile(t, filepath.Join("..", "..", "artifacts", "examples", "worker-pool", "worker-pool.yaml"), out)
}

var poolNames = []string{
	"configmaps/leat-pool-render", "networkpolicies/leat-pool-render", "rolebindings/leat-pool-render", "rolebindings/leat-pool-render-scaler",
	"serviceaccounts/leat-pool-render", "statefulsets/render",
}

func TestPoolCreate(t *testing.T) {
	c := newPoolCluster(t)
	// A try that fails half-way is continued by the next.
	c.refused = "/networkpolicies/leat-pool-render"
	if _, errOut, code := c.run(t, "pool create render --image debian:13"); code != exitFailed || !strings.Contains(errOut, "Error from server (InternalError): applying networkpolicy.networking.k8s.io/leat-pool-render: ") {
		t.Errorf("exit code %d: %s", code, errOut)
	}
	c.refused = ""
	out, errOut, code := c.run(t, "pool create render --image debian:13 --cpu 4 --max 20")
	wantErr := "It has 0 to 20 workers, and each runs up to 4 tasks at a time. Next:\n  leat run --pool render --wait -- hostname\n  leat pool list\n"
	if code != 0 || out != "pool/render created\n" || errOut != wantErr {
		t.Errorf("exit code %d\n%s%s\nwant:\n%s", code, out, errOut, wantErr)
	}
	if got := c.names(); !slices.Equal(got, poolNames) {
		t.Errorf("objects %v, want %v", got, poolNames)
	}
	set := c.statefulSet(t, "render")
	if appliedReplicas(set) {
		t.Error("leat owns the replicas, so the controller would leave them alone")
	}
	settings, err := pool.Parse(set)
	if err != nil {
		t.Fatal(err)
	}
	if settings.Max != 20 || settings.Min != 0 || settings.Idle != time.Minute || ptr.Deref(set.Spec.Replicas, 1) != 0 {
		t.Errorf("settings %+v with %v replicas", settings, ptr.Deref(set.Spec.Replicas, -1))
	}
	if out, _, code := c.run(t, "pool create render --image debian:13 --cpu 4 --max 20"); code != 0 || out != "pool/render unchanged\n" {
		t.Errorf("a second time: exit code %d: %s", code, out)
	}
}

func TestPoolCreateRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		line    string
		prepare func(c *poolCluster)
		want    string
		code    int
	}{
		"missing rights": {
			"pool create render --image debian:13", func(c *poolCluster) {
				c.denied = []string{"create rolebindings", "patch rolebindings", "bind clusterroles"}
			},
			`error: nothing was changed: to create a pool in namespace default you need rights that you do not have:
  create rolebindings.rbac.authorization.k8s.io
  patch rolebindings.rbac.authorization.k8s.io
  bind clusterroles.rbac.authorization.k8s.io/leat:worker
  bind clusterroles.rbac.authorization.k8s.io/leat:pool-scaler
The ClusterRole admin has these rights: ask an administrator of the namespace to run this command, or to bind the role to you.
`, exitFailed,
		},
		"only bind is missing": {
			"pool create render --image debian:13", func(c *poolCluster) { c.denied = []string{"bind clusterroles"} },
			`The ClusterRole leat:admin has these rights: ask an administrator of the namespace to run this command, or to bind the role to you.
`, exitFailed,
		},
		"objects of others": {
			"pool create render --image debian:13", func(c *poolCluster) {
				c.put("/apis/apps/v1/namespaces/default/statefulsets/render", &appsv1.StatefulSet{TypeMeta: metav1.TypeMeta{Kind: "StatefulSet", APIVersion: "apps/v1"}})
				c.put("/api/v1/namespaces/default/configmaps/leat-pool-render", &corev1.ConfigMap{
					TypeMeta: metav1.TypeMeta{Kind: "ConfigMap", APIVersion: "v1"}, ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{batch.LabelPool: "other"}},
				})
			},
			"error: nothing was changed: configmap/leat-pool-render, statefulset.apps/render exist and do not have the label batch.leat.dev/pool=render, so they are not of this pool: delete them, or choose another name\n", exitFailed,
		},
		"no leat-info": {
			"pool create render --image debian:13", func(c *poolCluster) { delete(c.objects, "/api/v1/namespaces/leat-system/configmaps/leat-info") },
			"error: there is no ConfigMap leat-system/leat-info, from which pools are made: leat-controller-manager --register-service writes it when the certificates exist; its log says what it waits for\n", exitFailed,
		},
		"an incomplete leat-info": {
			"pool create render --image debian:13", func(c *poolCluster) { c.setInfo(map[string]string{"server": "https://x", "ca.crt": "x"}) },
			"error: ConfigMap leat-system/leat-info has no key client-ca.crt: leat-controller-manager writes it again within a minute\n", exitFailed,
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := newPoolCluster(t)
			test.prepare(c)
			out, errOut, code := c.run(t, test.line)
			if code != test.code || !strings.HasSuffix(errOut, test.want) || out != "" {
				t.Errorf("exit code %d\n%s%s\nwant %d\n%s", code, out, errOut, test.code, test.want)
			}
			if c.applies > 0 {
				t.Errorf("%d objects were applied", c.applies)
			}
		})
	}
}

func TestPoolPatchMustNotChangeWhatThePoolDependsOn(t *testing.T) {
	for name, test := range map[string]struct{ patch, want string }{
		"replicas":            {"spec: {replicas: 3}", "--from changes spec.replicas: use --min and --max"},
		"the name":            {"metadata: {name: other}", "--from changes metadata.name: leave out the name and the namespace"},
		"the selector":        {"spec: {selector: {matchLabels: {a: b}}}", "--from changes spec.selector: leave it out"},
		"the label":           {"metadata: {labels: {batch.leat.dev/pool: other}}", "--from changes labels batch.leat.dev/pool: leave them out"},
		"the kind":            {"kind: Deployment", "--from changes kind: leave it out, or write apiVersion apps/v1 and kind StatefulSet"},
		"no worker":           {"spec: {template: {spec: {containers: [{name: worker, $patch: delete}]}}}", "--from changes spec.template.spec.containers: keep the container worker"},
		"the memory":          {"spec: {template: {spec: {containers: [{name: worker, resources: {limits: {memory: 9Gi}}}]}}}", "--from changes resources and args of the container worker: use --cpu"},
		"the arguments":       {"spec: {template: {spec: {containers: [{name: worker, args: [--tasks=100]}]}}}", "--from changes resources and args of the container worker: use --cpu"},
		"a field of no pod":   {"spec: {template: {spec: {nodeSelectors: {a: b}}}}", `unknown field "nodeSelectors": write a part of a StatefulSet`},
		"a wrong type":        {"spec: {template: {spec: {nodeSelector: 7}}}", "write a part of a StatefulSet, like {spec:"},
		"a list":              {"[1, 2]", "write a part of a StatefulSet, like {spec:"},
		"no YAML":             {"{", "write a part of a StatefulSet in YAML"},
		"more than is stored": {"metadata: {annotations: {a: " + strings.Repeat("x", 1<<17) + "}}", "the patch has 131109 bytes: at most 65536 are accepted"},
	} {
		t.Run(name, func(t *testing.T) {
			noCluster(t)
			_, errOut, code := call(t, "leat", test.patch, "pool", "create", "render", "--image=x", "--from=-")
			if code != exitUsage || !strings.Contains(errOut, test.want) {
				t.Errorf("exit code %d, want %d: %s\nwant %s", code, exitUsage, errOut, test.want)
			}
		})
	}
}

func TestPoolUpdate(t *testing.T) {
	c := newPoolCluster(t)
	update := func(line, wantOut, wantErr string) *appsv1.StatefulSet {
		t.Helper()
		out, errOut, code := c.run(t, "pool update "+line)
		if out != wantOut || errOut != wantErr || code != 0 && wantErr == "" {
			t.Fatalf("pool update %s: exit code %d\n%s%s\nwant\n%s%s", line, code, out, errOut, wantOut, wantErr)
		}
		return c.statefulSet(t, "render")
	}
	for _, line := range []string{
		"render --image debian:13 --cpu 4 --label disk=ssd --max 20 --idle 5m", "other --image debian:13",
	} {
		if _, errOut, code := c.run(t, "pool create "+line); code != 0 {
			t.Fatal(errOut)
		}
	}
	// Replicas stay zero, and do not become the default of one.
	set := update("render --max 50", "pool/render configured\n", "")
	settings, err := pool.Parse(set)
	if err != nil || settings.Max != 50 || settings.Idle != 5*time.Minute || settings.Worker.Labels["disk"] != "ssd" || ptr.Deref(set.Spec.Replicas, -1) != 0 {
		t.Errorf("settings %+v with %v replicas, %v", settings, set.Spec.Replicas, err)
	}
	tasks := settings.Worker.Allocatable[batch.ResourceTasks]
	if tasks.Value() != 4 || set.Spec.Template.Spec.Containers[0].Image != "debian:13" {
		t.Errorf("%s tasks with image %s", tasks.String(), set.Spec.Template.Spec.Containers[0].Image)
	}
	update("--all", "", "No pool in namespace default is stale.\n")

	// The controller has scaled render.
	c.mu.Lock()
	live := unstructured.Unstructured{Object: c.objects["/apis/apps/v1/namespaces/default/statefulsets/render"]}
	_ = unstructured.SetNestedField(live.Object, int64(7), "spec", "replicas")
	c.mu.Unlock()
	upgraded := maps.Clone(testInfo)
	upgraded["image"], upgraded["ca.crt"] = "registry.example.com/leat:v2", "new authority\n"
	c.setInfo(upgraded)
	set = update("--all", "pool/other configured\npool/render configured\n", "")
	if image := set.Spec.Template.Spec.InitContainers[0].Image; image != upgraded["image"] || *set.Spec.Replicas != 7 {
		t.Errorf("image of Leat %s and %d replicas, want %s and 7", image, *set.Spec.Replicas, upgraded["image"])
	}
	update("--all", "", "No pool in namespace default is stale.\n")

	update("none --max 3", "", "error: there is no pool none in namespace default: leat pool list lists them\n")

	// A pool that another tool applies is changed there.
	c.mu.Lock()
	live = unstructured.Unstructured{Object: c.objects["/apis/apps/v1/namespaces/default/statefulsets/render"]}
	live.SetManagedFields([]metav1.ManagedFieldsEntry{{Manager: "kustomize-controller", Operation: metav1.ManagedFieldsOperationApply}})
	c.mu.Unlock()
	update("render --max 5", "", "error: pool render was applied by kustomize-controller: write its manifests again there; \"pool create --dry-run=client -o yaml\" prints them\n")
}

func TestPoolUpdateReplacesPodsThatHaveNotStarted(t *testing.T) {
	c := newPoolCluster(t)
	if _, errOut, code := c.run(t, "pool create render --image debian:99 --min 4"); code != 0 {
		t.Fatal(errOut)
	}
	set := c.statefulSet(t, "render")
	set.Status.UpdateRevision = "new"
	c.put("/apis/apps/v1/namespaces/default/statefulsets/render", set)
	started := []corev1.ContainerStatus{{Name: "worker", LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{}}}}
	waits := []corev1.ContainerStatus{{Name: "worker", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ImagePullBackOff"}}}}
	for name, pod := range map[string]struct {
		revision string
		statuses []corev1.ContainerStatus
	}{
		"render-0": {"old", started}, "render-1": {"old", waits}, "render-2": {"old", nil}, "render-3": {"new", waits},
	} {
		c.put("/api/v1/namespaces/default/pods/"+name, &corev1.Pod{
			TypeMeta:   metav1.TypeMeta{Kind: "Pod", APIVersion: "v1"},
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{batch.LabelPool: "render", appsv1.ControllerRevisionHashLabelKey: pod.revision}},
			Status:     corev1.PodStatus{ContainerStatuses: pod.statuses},
		})
	}
	out, errOut, code := c.run(t, "pool update render --image debian:13")
	const wantErr = "Deleted 2 pods of pool render that had not started: others take their place with the new settings.\n"
	if code != 0 || out != "pool/render configured\n" || errOut != wantErr {
		t.Errorf("exit code %d\n%s%s\nwant\n%s", code, out, errOut, wantErr)
	}
	got := slices.DeleteFunc(c.names(), func(name string) bool { return !strings.HasPrefix(name, "pods/") })
	if want := []string{"pods/render-0", "pods/render-3"}; !slices.Equal(got, want) {
		t.Errorf("left are %v, want %v", got, want)
	}
}

func TestPoolDelete(t *testing.T) {
	c := newPoolCluster(t)
	for _, name := range []string{"render", "other"} {
		if _, errOut, code := c.run(t, "pool create --image debian:13 "+name); code != 0 {
			t.Fatal(errOut)
		}
	}
	for _, worker := range []struct{ name, pool string }{{"render-0", "render"}, {"other-0", "other"}} {
		c.put("/apis/batch.leat.dev/v1alpha1/namespaces/default/workers/"+worker.name, &batch.Worker{
			TypeMeta: typeMeta("Worker"), ObjectMeta: metav1.ObjectMeta{Name: worker.name, Labels: map[string]string{batch.LabelPool: worker.pool}},
		})
	}
	c.put("/apis/batch.leat.dev/v1alpha1/namespaces/default/tasks/waits", &batch.Task{
		TypeMeta: typeMeta("Task"), ObjectMeta: metav1.ObjectMeta{Name: "waits"}, Spec: batch.TaskSpec{Pool: "render"},
	})
	others := slices.DeleteFunc(c.names(), func(name string) bool { return strings.Contains(name, "render") })
	out, errOut, code := c.run(t, "pool delete render")
	if code != 0 || out != "pool/render deleted\n" || errOut != "warning: 1 unfinished task of pool render left: without a pool of that name nothing runs them\n" {
		t.Errorf("exit code %d\n%s%s", code, out, errOut)
	}
	if got := c.names(); !slices.Equal(got, others) {
		t.Errorf("left are %v, want %v", got, others)
	}
	if _, errOut, code = c.run(t, "pool delete render"); code != exitFailed || errOut != "error: there is no pool render in namespace default: leat pool list lists them\n" {
		t.Errorf("a second time: exit code %d: %s", code, errOut)
	}

	// While a pod is there, what it needs stays.
	c.put("/api/v1/namespaces/default/pods/other-0", &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{batch.LabelPool: "other"}}})
	_, errOut, code = c.run(t, "pool delete other --timeout 1ms")
	if code != exitFailed || !strings.Contains(errOut, "error: pool other: its workers end, and 1 pod left after 1ms: run this again to delete the rest\n") {
		t.Errorf("exit code %d: %s", code, errOut)
	}
	if got := c.names(); slices.Contains(got, "statefulsets/other") || !slices.Contains(got, "serviceaccounts/leat-pool-other") || !slices.Contains(got, "workers/other-0") {
		t.Errorf("left are %v, want all but the StatefulSet", got)
	}

	c.denied = []string{"delete statefulsets"}
	if _, errOut, code = c.run(t, "pool delete other"); code != exitFailed || !strings.Contains(errOut, "to delete a pool in namespace default you need rights that you do not have:\n  delete statefulsets.apps\n") {
		t.Errorf("without rights: exit code %d: %s", code, errOut)
	}
}

func TestPoolList(t *testing.T) {
	c := newPoolCluster(t)
	if out, errOut, code := c.run(t, "pool list"); code != 0 || out != "" || errOut != "No pools in namespace default. leat pool create makes one; --all-namespaces lists those of others.\n" {
		t.Errorf("without pools: exit code %d\n%s%s", code, out, errOut)
	}
	for _, name := range []string{"idle", "busy", "stuck", "broken"} {
		if _, errOut, code := c.run(t, "pool create --image debian:13 --max 5 "+name); code != 0 {
			t.Fatal(errOut)
		}
	}
	for name, replicas := range map[string]int32{"busy": 2, "stuck": 3} {
		set := c.statefulSet(t, name)
		set.Spec.Replicas, set.UID = &replicas, "uid"
		c.put("/apis/apps/v1/namespaces/default/statefulsets/"+name, set)
	}
	broken := c.statefulSet(t, "broken")
	delete(broken.Annotations, pool.AnnotationMax)
	c.put("/apis/apps/v1/namespaces/default/statefulsets/broken", broken)
	stale := c.statefulSet(t, "idle")
	stale.Annotations[pool.AnnotationInfoHash] = "0"
	c.put("/apis/apps/v1/namespaces/default/statefulsets/idle", stale)
	for _, worker := range []string{"busy-0", "busy-1"} {
		c.put("/apis/batch.leat.dev/v1alpha1/namespaces/default/workers/"+worker, &batch.Worker{
			TypeMeta: typeMeta("Worker"), ObjectMeta: metav1.ObjectMeta{Name: worker, Namespace: "default", Labels: map[string]string{batch.LabelPool: "busy"}},
			Status: batch.WorkerStatus{Conditions: []metav1.Condition{{Type: batch.WorkerReady, Status: metav1.ConditionTrue}}},
		})
	}
	for i, spec := range []batch.TaskSpec{{Pool: "busy", WorkerName: "busy-0"}, {WorkerName: "busy-1"}, {Pool: "busy"}, {}} {
		name := fmt.Sprint("task-", i)
		c.put("/apis/batch.leat.dev/v1alpha1/namespaces/default/tasks/"+name, &batch.Task{TypeMeta: typeMeta("Task"), ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}, Spec: spec})
	}
	c.put("/api/v1/namespaces/default/pods/stuck-0", &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "stuck-0", Labels: map[string]string{batch.LabelPool: "stuck"}},
		Status:     corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: "Unschedulable", Message: "0/3 nodes are available"}}},
	})
	want := `NAME     MIN   MAX   WORKERS   COMING   TASKS   PENDING   STATE
broken   -     -     0         0        0       0         Invalid: annotation batch.leat.dev/pool-max="": must be a number from 1 to 5000
busy     0     5     2         0        2       1         Running
idle     0     5     0         0        0       0         Idle; Stale: leat pool update idle
stuck    0     5     0         3        0       0         Scaling out: stuck-0: Unschedulable: 0/3 nodes are available
`
	out, errOut, code := c.run(t, "pool list")
	if code != 0 || errOut != "" {
		t.Errorf("exit code %d: %s", code, errOut)
	}
	if d := cmp.Diff(want, out); d != "" {
		t.Errorf("list (-want +got):\n%s", d)
	}
	if out, _, _ := c.run(t, "pool ls -o name"); out != "statefulset.apps/broken\nstatefulset.apps/busy\nstatefulset.apps/idle\nstatefulset.apps/stuck\n" {
		t.Errorf("names: %s", out)
	}
	delete(c.objects, "/api/v1/namespaces/leat-system/configmaps/leat-info")
	if out, _, code := c.run(t, "pool list"); code != 0 || strings.Contains(out, "Stale") {
		t.Errorf("without leat-info: exit code %d: %s", code, out)
	}
	if out, _, _ := c.run(t, "__complete pool delete", "bu"); !strings.HasPrefix(out, "broken\nbusy\nidle\nstuck\n") {
		t.Errorf("completions: %s", out)
	}
}

func TestProblemsOfPods(t *testing.T) {
	waiting := func(reason, message string) []corev1.ContainerStatus {
		return []corev1.ContainerStatus{{Name: "c", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}}}
	}
	for name, test := range map[string]struct {
		status corev1.PodStatus
		want   string
	}{
		"just created":          {corev1.PodStatus{}, ""},
		"starts":                {corev1.PodStatus{InitContainerStatuses: waiting("PodInitializing", ""), ContainerStatuses: waiting("ContainerCreating", "")}, ""},
		"is ready":              {corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}, ContainerStatuses: waiting("Odd", "")}, ""},
		"no such image":         {corev1.PodStatus{ContainerStatuses: waiting("ImagePullBackOff", "Back-off pulling image")}, "ImagePullBackOff: Back-off pulling image"},
		"no such image of Leat": {corev1.PodStatus{InitContainerStatuses: waiting("ErrImagePull", ""), ContainerStatuses: waiting("PodInitializing", "")}, "ErrImagePull"},
		"restarts": {corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{
			Name: "worker", LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 1, Reason: "Error"}},
		}}}, "container worker ended with exit code 1: Error"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := problemOfPod(&corev1.Pod{Status: test.status}); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestExplainOfPools(t *testing.T) {
	settings := pool.Settings{Max: 4, Worker: pool.Worker{Allocatable: batch.ResourceList{"tasks": resource.MustParse("8"), "cpu": resource.MustParse("2")}}}
	newState := func(replicas int32, change func(p *poolState)) *poolState {
		p := &poolState{settings: &settings, set: &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: "film", Name: "render"}, Spec: appsv1.StatefulSetSpec{Replicas: &replicas}}}
		change(p)
		return p
	}
	cpu := func(amount string) *batch.Task {
		return &batch.Task{Spec: batch.TaskSpec{Resources: batch.TaskResources{Requests: batch.ResourceList{"cpu": resource.MustParse(amount)}}}}
	}
	for name, test := range map[string]struct {
		state *poolState
		task  *batch.Task
		want  string
	}{
		"invalid":         {newState(0, func(p *poolState) { p.settings, p.invalid = nil, fmt.Errorf("a\nb") }), cpu("1"), "invalid, so it is not scaled: a; b"},
		"deleted":         {newState(0, func(p *poolState) { p.set.DeletionTimestamp = &metav1.Time{} }), cpu("1"), "it is being deleted"},
		"too large":       {newState(0, func(*poolState) {}), cpu("3"), "none of its workers could run it: it requests 3 cpu, and each worker offers 2"},
		"empty":           {newState(0, func(*poolState) {}), cpu("1"), "it has no workers yet: leat-controller-manager adds some when it has seen the task"},
		"coming":          {newState(3, func(p *poolState) { p.ready, p.coming = 1, 2 }), cpu("1"), "coming up: 1 of 3 workers ready"},
		"coming, blocked": {newState(3, func(p *poolState) { p.ready, p.coming, p.problem = 1, 2, "exceeded quota" }), cpu("1"), "coming up: 1 of 3 workers ready: exceeded quota"},
		"full":            {newState(4, func(p *poolState) { p.ready = 4 }), cpu("1"), "at its maximum: 4 of 4 workers ready of at most 4; leat pool update render --max N raises it"},
		"some":            {newState(2, func(p *poolState) { p.ready = 2 }), cpu("1"), "2 of 2 workers ready, of at most 4"},
		"paused": {newState(1, func(p *poolState) { p.ready, p.scaledBy = 1, "keda" }), cpu("1"), "paused: 1 of 1 worker ready, and keda scales it in the place of leat-controller-manager; to end that: " +
			"kubectl annotate statefulset --namespace=film render --overwrite batch.leat.dev/pool-resume-at=0"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := test.state.explain(test.task, "leat"); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}
