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
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/measure"
)

// Processes, as results name them.
const (
	leatServer = "leat-apiserver"
	leatEtcd   = "etcd of Leat"
	hostServer = "kube-apiserver"
	hostEtcd   = "etcd of the host"
	hostManage = "kube-controller-manager"
	thisOne    = "this program"
)

var processes = []string{leatServer, leatEtcd, hostServer, hostEtcd, hostManage, thisOne}

// Subjects, as results name them.
const (
	crdLabel    = "CRD"
	podLabel    = "Pod"
	directLabel = "Leat"
	aggregated  = "Leat, aggregated"
	etcdLabel   = "etcd"
)

// person is who sends all requests: one whom RBAC allows them, as programs are, and whom priority and fairness counts.
const person = "bench"

// namespace is where single objects are.
const namespace = "bench"

// scene is everything that runs.
type scene struct {
	*measure.TB
	env  *kit.Env
	host *kubernetes.Clientset
	// past and through are the person's ways to Leat: past the host, and through its aggregator, where the CRD and Pods are too.
	past, through *rest.Config
	stores        map[string]*clientv3.Client
}

// setUp starts the host and Leat, and makes the CRD and who may use it.
func setUp(tb *measure.TB) *scene {
	s := &scene{TB: tb}
	// The person is a controller to Leat: the host, where it may do a thing to all tasks, is not asked about each of them.
	s.env = kit.Aggregated(s, "--controller-users=system:serviceaccount:leat-system:leat-controller-manager,"+person)
	admin, err := clientcmd.BuildConfigFromFlags("", s.env.Host.AdminKubeconfig)
	s.Check(err)
	admin.QPS = -1
	s.host, err = kubernetes.NewForConfig(admin)
	s.Check(err)
	s.past, s.through = s.env.Direct(s, person), s.env.Person(s, person)
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
	rbac := s.host.RbacV1()
	_, err = rbac.ClusterRoles().Create(s.Context(), &rbacv1.ClusterRole{
		ObjectMeta: metav1.ObjectMeta{Name: person},
		Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{batch.GroupName, crdGroup}, Resources: []string{"*"}, Verbs: []string{"*"}},
			{APIGroups: []string{""}, Resources: []string{"pods", "pods/status", "pods/binding"}, Verbs: []string{"*"}},
			{NonResourceURLs: []string{"/metrics", "/debug/pprof/*"}, Verbs: []string{"get"}},
		},
	}, metav1.CreateOptions{})
	s.Check(err)
	_, err = rbac.ClusterRoleBindings().Create(s.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: person},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: person},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: person}},
	}, metav1.CreateOptions{})
	s.Check(err)
	s.makeNamespace(namespace)
	// Pods must have an account, which a controller makes. The garbage collector learns of the CRD when it starts.
	s.Check(s.env.Host.ControllerManager.Restart(s.Context()))
	s.await("the account of Pods", func(ctx context.Context) error {
		_, err := s.host.CoreV1().ServiceAccounts(namespace).Get(ctx, "default", metav1.GetOptions{})
		return err
	})
	s.await("the CRD", func(ctx context.Context) error {
		return s.host.RESTClient().Get().AbsPath("/apis", crdGroup, batch.SchemeGroupVersion.Version, "tasks").Param("limit", "1").Do(ctx).Error()
	})
	s.awaitCollectors()
	return s
}

// awaitCollectors waits until the host's controllers watch the tasks of the CRD and of Leat alike: on a cluster they always do.
func (s *scene) awaitCollectors() {
	for group, config := range map[string]*rest.Config{crdGroup: s.through, batch.GroupName: s.past} {
		client, err := rest.HTTPClientFor(config)
		s.Check(err)
		s.await("watches of the host's controllers of "+group, func(ctx context.Context) error {
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
			return errors.New("there are none")
		})
	}
}

func (s *scene) makeNamespace(name string) {
	_, err := s.host.CoreV1().Namespaces().Create(s.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if !apierrors.IsAlreadyExists(err) {
		s.Check(err)
	}
}

// await waits up to three minutes until f succeeds.
func (s *scene) await(what string, f func(context.Context) error) {
	var last error
	err := wait.PollUntilContextTimeout(s.Context(), 500*time.Millisecond, 3*time.Minute, true, func(ctx context.Context) (bool, error) {
		err := f(ctx)
		if err != nil && ctx.Err() == nil {
			last = err
		}
		return err == nil, nil
	})
	if err != nil {
		s.Fatalf("waiting for %s: %v; the last look said: %v", what, err, last)
	}
}

// pause lets time pass.
func (s *scene) pause(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-s.Context().Done():
		s.Fatal(s.Context().Err())
	}
}

// pid is that of a process now: those that were started again have another.
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

// counters are what runs on all the time.
type counters struct {
	at        time.Time
	cpu       map[string]time.Duration
	revisions map[string]int64
}

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

// taskWrites tells how many changes of tasks Leat has heard of from its etcd.
func (s *scene) taskWrites() float64 {
	client, err := rest.HTTPClientFor(s.past)
	s.Check(err)
	metrics, err := measure.ReadMetrics(s.Context(), client, s.past.Host+"/metrics")
	s.Check(err)
	for key, n := range metrics {
		if strings.HasPrefix(key, "apiserver_storage_events_received_total{") && measure.Label(key, "resource") == "tasks" {
			return n
		}
	}
	s.Fatal("leat-apiserver does not tell how many changes of tasks there were")
	return 0
}

// taskURL is that of the tasks of a namespace at a server, in a group.
func taskURL(config *rest.Config, group, namespace string) string {
	return fmt.Sprintf("%s/apis/%s/%s/namespaces/%s/tasks", config.Host, group, batch.SchemeGroupVersion.Version, namespace)
}

// tasks gives a subject that has tasks in a namespace.
func (s *scene) tasks(label string, proto bool, namespace string, clients int) *apiSubject {
	config, group, servers, store := s.past, batch.GroupName, []string{leatServer}, leatEtcd
	switch label {
	case crdLabel:
		config, group, servers, store = s.through, crdGroup, []string{hostServer}, hostEtcd
	case aggregated:
		config, servers = s.through, []string{leatServer, hostServer}
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
		// Nothing else would set it.
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

// workerOf is where a task goes: one of a thousand workers.
func workerOf(name string) string {
	n := 0
	for _, c := range name {
		n = (n*31 + int(c)) % 1000
	}
	return fmt.Sprintf("worker-%03d", n)
}

// pods gives the subject that is Pods, which the host has built in.
func (s *scene) pods(proto bool, clients int) *apiSubject {
	connections, err := newClients(s.through, clients)
	s.Check(err)
	a := &apiSubject{
		name: podLabel, processes: []string{hostServer}, store: hostEtcd, proto: proto, clients: connections,
		kind:       corev1.SchemeGroupVersion.WithKind("Pod"),
		collection: fmt.Sprintf("%s/api/v1/namespaces/%s/pods", s.through.Host, namespace),
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

// stored gives the key and the value of an object in etcd.
func (s *scene) stored(store, namespace, name string) (key string, value []byte) {
	key, value, err := measure.FindStored(s.Context(), s.stores[store], namespace, name)
	s.Check(err)
	return key, value
}

// get reads what one page of a server holds, for what is not measured.
func (s *scene) get(client *http.Client, url string, into any) {
	request, err := http.NewRequestWithContext(s.Context(), http.MethodGet, url, nil)
	s.Check(err)
	response, err := client.Do(request)
	s.Check(err)
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		s.Fatalf("%s answers %s", url, response.Status)
	}
	s.Check(json.NewDecoder(response.Body).Decode(into))
}
