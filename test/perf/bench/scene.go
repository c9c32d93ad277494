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

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/await"
	"github.com/leat-dev/leat/test/kit/measure"
)

// Names of processes in results.
const (
	leatServer = "leat-apiserver"
	leatEtcd   = "etcd of Leat"
	hostServer = "kube-apiserver"
	hostEtcd   = "etcd of the host"
	hostManage = "kube-controller-manager"
	thisOne    = "this program"
)

var processes = []string{leatServer, leatEtcd, hostServer, hostEtcd, hostManage, thisOne}

// Names of subjects in results.
const (
	crdLabel    = "CRD"
	podLabel    = "Pod"
	directLabel = "Leat"
	aggregated  = "Leat, aggregated"
	etcdLabel   = "etcd"
)

// user sends all requests. RBAC allows them, and priority and fairness counts them, like those of a real program.
const user = "bench"

// namespace is the namespace of single objects.
const namespace = "bench"

// scene is a running environment with its clients.
type scene struct {
	*measure.TB
	env  *kit.Env
	host *kubernetes.Clientset
	// direct leads to the server of Leat itself. aggregated leads to the host, which also serves the CRD and Pods.
	direct, aggregated *rest.Config
	stores             map[string]*clientv3.Client
}

// setUp starts the host and Leat, creates the CRD, and allows user to use everything.
func setUp(tb *measure.TB) *scene {
	s := &scene{TB: tb}
	// The server reviews requests of a controller once for all tasks, and not for each name.
	s.env = kit.Aggregated(s, "--controller-users=system:serviceaccount:leat-system:leat-controller-manager,"+user)
	s.host = s.env.HostClient(s)
	s.direct, s.aggregated = s.env.Direct(s, user), s.env.Person(s, user)
	client, err := s.env.Host.Etcd.Client()
	s.Check(err)
	s.Cleanup(func() { s.Check(client.Close()) })
	s.stores = map[string]*clientv3.Client{leatEtcd: s.env.EtcdClient(s), hostEtcd: client}

	crd, err := taskCRD()
	s.Check(err)
	data, err := json.Marshal(crd)
	s.Check(err)
	s.Check(s.host.RESTClient().Post().AbsPath("/apis/apiextensions.k8s.io/v1/customresourcedefinitions").
		SetHeader("Content-Type", runtime.ContentTypeJSON).Body(data).Do(s.Context()).Error())
	_, err = s.host.RbacV1().ClusterRoles().Create(s.Context(), &rbacv1.ClusterRole{
		ObjectMeta: metav1.ObjectMeta{Name: user},
		Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{batch.GroupName, crdGroup}, Resources: []string{"*"}, Verbs: []string{"*"}},
			{APIGroups: []string{""}, Resources: []string{"pods", "pods/status", "pods/binding"}, Verbs: []string{"*"}},
			{NonResourceURLs: []string{"/metrics", "/debug/pprof/*"}, Verbs: []string{"get"}},
		},
	}, metav1.CreateOptions{})
	s.Check(err)
	s.env.BindClusterRole(s, "", user, user, kit.UserSubject(user))
	s.createNamespace(namespace)
	// The garbage collector discovers the CRD when it starts.
	s.Check(s.env.Host.ControllerManager.Restart(s.Context()))
	s.await("the service account of Pods", func(ctx context.Context) error {
		_, err := s.host.CoreV1().ServiceAccounts(namespace).Get(ctx, "default", metav1.GetOptions{})
		return err
	})
	s.await("the CRD", func(ctx context.Context) error {
		return s.host.RESTClient().Get().AbsPath("/apis", crdGroup, batch.SchemeGroupVersion.Version, "tasks").Param("limit", "1").Do(ctx).Error()
	})
	s.awaitCollectors()
	return s
}

// awaitCollectors waits until controllers of the host watch the tasks of the CRD and of Leat, as they do in a cluster.
func (s *scene) awaitCollectors() {
	for group, config := range map[string]*rest.Config{crdGroup: s.aggregated, batch.GroupName: s.direct} {
		client, err := rest.HTTPClientFor(config)
		s.Check(err)
		s.await("watches of the host's controllers on "+group, func(ctx context.Context) error {
			metrics, err := measure.ReadMetrics(ctx, client, config.Host+"/metrics")
			if err != nil {
				return err
			}
			for key, n := range metrics {
				if strings.HasPrefix(key, "apiserver_longrunning_requests{") && measure.Label(key, "resource") == "tasks" &&
					measure.Label(key, "group") == group && n > 0 {
					return nil
				}
			}
			return errors.New("there is no watch")
		})
	}
}

// createNamespace creates a namespace if it does not exist.
func (s *scene) createNamespace(name string) {
	_, err := s.host.CoreV1().Namespaces().Create(s.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if !apierrors.IsAlreadyExists(err) {
		s.Check(err)
	}
}

// await waits up to three minutes until condition returns nil.
func (s *scene) await(what string, condition func(context.Context) error) {
	if err := await.Until(s.Context(), 3*time.Minute, condition); err != nil {
		s.Fatalf("waiting for %s: %v", what, err)
	}
}

// pause waits for d.
func (s *scene) pause(d time.Duration) {
	if !await.Pause(s.Context(), d) {
		s.Fatal(s.Context().Err())
	}
}

// pid returns the current PID of a process. A restart changes it.
func (s *scene) pid(process string) int {
	switch process {
	case leatServer:
		return s.env.Server.PID()
	case leatEtcd:
		return s.env.Etcd.PID()
	case hostServer:
		return s.env.Host.APIServer.PID()
	case hostEtcd:
		return s.env.Host.Etcd.PID()
	case hostManage:
		return s.env.Host.ControllerManager.PID()
	}
	return os.Getpid()
}

// counters are values that only grow, at one time.
type counters struct {
	at        time.Time
	cpu       map[string]time.Duration
	revisions map[string]int64
}

// count reads the counters.
func (s *scene) count() counters {
	c := counters{at: time.Now(), cpu: map[string]time.Duration{}, revisions: map[string]int64{}}
	for _, process := range processes {
		var err error
		c.cpu[process], err = measure.CPU(s.pid(process))
		s.Check(err)
	}
	for name, client := range s.stores {
		response, err := client.Get(s.Context(), "/", clientv3.WithCountOnly())
		s.Check(err)
		c.revisions[name] = response.Header.Revision
	}
	return c
}

// taskWrites returns how many events of tasks leat-apiserver has received from etcd.
func (s *scene) taskWrites() float64 {
	client, err := rest.HTTPClientFor(s.direct)
	s.Check(err)
	metrics, err := measure.ReadMetrics(s.Context(), client, s.direct.Host+"/metrics")
	s.Check(err)
	for key, n := range metrics {
		if strings.HasPrefix(key, "apiserver_storage_events_received_total{") && measure.Label(key, "resource") == "tasks" {
			return n
		}
	}
	s.Fatal("leat-apiserver has no metric apiserver_storage_events_received_total for tasks")
	return 0
}

// taskURL returns the URL of the tasks of a namespace in an API group.
func taskURL(config *rest.Config, group, namespace string) string {
	return fmt.Sprintf("%s/apis/%s/%s/namespaces/%s/tasks", config.Host, group, batch.SchemeGroupVersion.Version, namespace)
}

// tasks returns a subject whose objects are tasks in a namespace.
func (s *scene) tasks(label string, proto bool, namespace string, clients int) *apiSubject {
	config, group, servers, store := s.direct, batch.GroupName, []string{leatServer}, leatEtcd
	switch label {
	case crdLabel:
		config, group, servers, store = s.aggregated, crdGroup, []string{hostServer}, hostEtcd
	case aggregated:
		config, servers = s.aggregated, []string{leatServer, hostServer}
	}
	connections, err := newClients(config, clients)
	s.Check(err)
	a := &apiSubject{
		name: label, processes: servers, store: store, proto: proto, clients: connections,
		kind: batch.SchemeGroupVersion.WithKind("Task"), collection: taskURL(config, group, namespace),
		started: startedPatch, finished: finishTask,
	}
	a.kind.Group = group
	if label == crdLabel {
		// A CRD has no binding that would set the worker.
		a.newObject = func(name string) runtime.Object { return newTask(name, workerOf(name)) }
		return a
	}
	a.newObject = func(name string) runtime.Object { return newTask(name, "") }
	a.bindTo = func(name string) runtime.Object {
		return &batch.Binding{
			TypeMeta:   metav1.TypeMeta{APIVersion: batch.SchemeGroupVersion.String(), Kind: "Binding"},
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Target:     batch.BindingTarget{Name: workerOf(name), Incarnation: "9f1b7c52-6a1e-4d5e-9a83-0c5b8f1f4e77"},
		}
	}
	return a
}

// workerOf returns the worker of a task, one of a thousand.
func workerOf(name string) string {
	n := 0
	for _, c := range name {
		n = (n*31 + int(c)) % 1000
	}
	return fmt.Sprintf("worker-%03d", n)
}

// pods returns the subject whose objects are Pods of the host.
func (s *scene) pods(proto bool, clients int) *apiSubject {
	connections, err := newClients(s.aggregated, clients)
	s.Check(err)
	a := &apiSubject{
		name: podLabel, processes: []string{hostServer}, store: hostEtcd, proto: proto, clients: connections,
		kind:       corev1.SchemeGroupVersion.WithKind("Pod"),
		collection: fmt.Sprintf("%s/api/v1/namespaces/%s/pods", s.aggregated.Host, namespace),
		newObject:  func(name string) runtime.Object { return newPod(name) },
		started:    startedPodPatch, finished: finishPod,
	}
	a.bindTo = func(name string) runtime.Object {
		return &corev1.Binding{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Binding"}, ObjectMeta: metav1.ObjectMeta{Name: name},
			Target: corev1.ObjectReference{Kind: "Node", Name: workerOf(name)},
		}
	}
	return a
}

// stored returns the key and the value of an object in etcd.
func (s *scene) stored(store, namespace, name string) (key string, value []byte) {
	key, value, err := measure.FindStored(s.Context(), s.stores[store], namespace, name)
	s.Check(err)
	return key, value
}

// get sends a GET request that is not measured, and decodes the JSON of the response.
func (s *scene) get(client *http.Client, url string, into any) {
	request, err := http.NewRequestWithContext(s.Context(), http.MethodGet, url, nil)
	s.Check(err)
	response, err := client.Do(request)
	s.Check(err)
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		s.Fatalf("GET %s: %s", url, response.Status)
	}
	s.Check(json.NewDecoder(response.Body).Decode(into))
}
