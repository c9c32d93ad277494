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

package host

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	authorizationclient "k8s.io/client-go/kubernetes/typed/authorization/v1"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/leat-dev/leat/pkg/controller/apiservice"
	"github.com/leat-dev/leat/pkg/standalone/pki"
	"github.com/leat-dev/leat/test/kit/await"
)

// parentDir, when set, makes the test program a parent for TestNothingOutlivesItsParent.
const parentDir = "LEAT_HOST_TEST_PARENT_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(parentDir); dir != "" {
		process, err := StartProcess(context.Background(), Command{Name: "child", Path: "/bin/sleep", Args: []string{"600"}, Dir: dir})
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(process.PID())
		select {}
	}
	os.Exit(m.Run())
}

// TestControlPlane runs all tests of one control plane, because each takes seconds to start. The tests that kill parts
// of it come last.
func TestControlPlane(t *testing.T) {
	cp := ForTest(t)
	t.Run("Version", cp.testVersion)
	t.Run("RolesOfConfig", cp.testRoles)
	t.Run("Aggregator", cp.testAggregator)
	t.Run("QuotasAndNamespaces", cp.testControllers)
	t.Run("EtcdKilled", cp.testEtcdKilled)
	t.Run("APIServerKilled", cp.testAPIServerKilled)
}

// testVersion: the programs have the version of our libraries.
func (cp *ControlPlane) testVersion(t *testing.T) {
	stdout, _, err := cp.Kubectl(t.Context(), cp.AdminKubeconfig, "version", "--output=json")
	if err != nil {
		t.Fatal(err)
	}
	type version struct {
		GitVersion string `json:"gitVersion"`
	}
	var versions struct {
		ClientVersion version `json:"clientVersion"`
		ServerVersion version `json:"serverVersion"`
	}
	if err := json.Unmarshal([]byte(stdout), &versions); err != nil {
		t.Fatalf("kubectl version printed %q: %v", stdout, err)
	}
	const want = "v1.37.2"
	if versions.ClientVersion.GitVersion != want || versions.ServerVersion.GitVersion != want {
		t.Errorf("versions = %+v, want %s for both", versions, want)
	}
}

// testRoles: the service accounts of config/base have the rights that they need, and no more. The aggregated roles
// admin, edit and view include ours.
func (cp *ControlPlane) testRoles(t *testing.T) {
	if err := cp.InstallLeat(t.Context()); err != nil {
		t.Fatal(err)
	}

	var err error
	kubeconfigs := map[string]string{}
	for _, name := range []string{"leat-apiserver", "leat-controller-manager"} {
		if kubeconfigs[name], err = cp.ServiceAccountKubeconfig("leat-system", name); err != nil {
			t.Fatal(err)
		}
		stdout, _, err := cp.Kubectl(t.Context(), kubeconfigs[name], "auth", "whoami", "--output=jsonpath={.status.userInfo.username}")
		if want := "system:serviceaccount:leat-system:" + name; err != nil || stdout != want {
			t.Fatalf("kubectl auth whoami = %q, %v; want %q", stdout, err, want)
		}
	}
	for _, person := range []string{"admin", "edit", "view"} {
		user := "person-of-" + person
		if kubeconfigs[user], err = cp.UserKubeconfig(user); err != nil {
			t.Fatal(err)
		}
		cp.bindRole(t, user, person, rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user})
	}
	// A controller of the host adds our roles to its own a moment after they are applied.
	waitUntil(t, "role view includes leat:view", func(context.Context) error {
		if !cp.canI(t, kubeconfigs["person-of-view"], "get", "tasks.batch.leat.dev", "default") {
			return errors.New("it does not grant to get tasks")
		}
		return nil
	})

	for _, test := range []struct {
		who, verb, resource, namespace string
		want                           bool
	}{
		{"leat-apiserver", "list", "namespaces", "", true},
		{"leat-apiserver", "list", "nodes", "", false},
		{"leat-apiserver", "watch", "namespaces", "", true},
		{"leat-apiserver", "get", "namespaces", "", true},
		{"leat-apiserver", "list", "mutatingadmissionpolicies.admissionregistration.k8s.io", "", true},
		{"leat-apiserver", "watch", "mutatingadmissionpolicybindings.admissionregistration.k8s.io", "", true},
		{"leat-apiserver", "watch", "validatingadmissionpolicybindings.admissionregistration.k8s.io", "", true},
		{"leat-apiserver", "list", "validatingwebhookconfigurations.admissionregistration.k8s.io", "", true},
		{"leat-apiserver", "update", "resourcequotas/status", "default", true},
		{"leat-apiserver", "update", "resourcequotas", "default", false},
		{"leat-apiserver", "watch", "flowschemas.flowcontrol.apiserver.k8s.io", "", true},
		{"leat-apiserver", "create", "subjectaccessreviews.authorization.k8s.io", "", true},
		{"leat-apiserver", "create", "tokenreviews.authentication.k8s.io", "", true},
		{"leat-apiserver", "get", "configmaps=extension-apiserver-authentication", "kube-system", true},
		{"leat-apiserver", "get", "configmaps", "kube-system", false},
		{"leat-apiserver", "get", "secrets", "kube-system", false},
		{"leat-apiserver", "get", "tasks.batch.leat.dev", "default", false},
		{"leat-controller-manager", "create", "tasks/binding.batch.leat.dev", "default", true},
		{"leat-controller-manager", "watch", "workers.batch.leat.dev", "default", true},
		{"leat-controller-manager", "watch", "workerleases.batch.leat.dev", "default", false},
		{"leat-controller-manager", "create", "events", "default", true},
		{"leat-controller-manager", "update", "leases.coordination.k8s.io=leat-controller-manager", "leat-system", true},
		{"leat-controller-manager", "update", "leases.coordination.k8s.io", "leat-system", false},
		{"leat-controller-manager", "update", "leases.coordination.k8s.io", "kube-system", false},
		{"leat-controller-manager", "create", "pods", "default", false},
		{"leat-controller-manager", "create", "apiservices.apiregistration.k8s.io=v1alpha1.batch.leat.dev", "", true},
		{"leat-controller-manager", "create", "apiservices.apiregistration.k8s.io", "", false},
		{"leat-controller-manager", "patch", "apiservices.apiregistration.k8s.io=v1.apps", "", false},
		{"leat-controller-manager", "get", "secrets=leat-apiserver-tls", "leat-system", true},
		{"leat-controller-manager", "get", "secrets=leat-etcd-tls", "leat-system", false},
		{"leat-controller-manager", "get", "secrets=leat-worker-client-tls", "leat-system", true},
		{"leat-controller-manager", "list", "secrets", "leat-system", false},
		{"leat-controller-manager", "create", "configmaps=leat-info", "leat-system", true},
		{"leat-controller-manager", "patch", "configmaps=leat-info", "leat-system", true},
		{"leat-controller-manager", "patch", "configmaps", "leat-system", false},
		{"leat-controller-manager", "get", "pods", "leat-system", true},
		{"leat-controller-manager", "get", "pods", "default", false},
		{"person-of-view", "get", "configmaps=leat-info", "leat-system", true},
		{"person-of-view", "get", "configmaps", "leat-system", false},
		{"person-of-admin", "bind", "clusterroles.rbac.authorization.k8s.io=leat:worker", "default", true},
		{"person-of-admin", "bind", "clusterroles.rbac.authorization.k8s.io=leat:pool-scaler", "default", true},
		{"person-of-admin", "bind", "clusterroles.rbac.authorization.k8s.io=leat:admin", "default", false},
		{"person-of-edit", "bind", "clusterroles.rbac.authorization.k8s.io=leat:worker", "default", false},
		{"person-of-admin", "create", "taskqueues.batch.leat.dev", "default", true},
		{"person-of-admin", "create", "tasks/eviction.batch.leat.dev", "default", true},
		{"person-of-admin", "create", "tasks/binding.batch.leat.dev", "default", false},
		{"person-of-edit", "create", "tasks.batch.leat.dev", "default", true},
		{"person-of-edit", "create", "taskqueues.batch.leat.dev", "default", false},
		{"person-of-view", "get", "tasks/log.batch.leat.dev", "default", true},
		{"person-of-view", "create", "tasks.batch.leat.dev", "default", false},
		{"person-of-view", "get", "tasks.batch.leat.dev", "kube-system", false},
	} {
		if got := cp.canI(t, kubeconfigs[test.who], test.verb, test.resource, test.namespace); got != test.want {
			t.Errorf("%s %s %s in namespace %q: got allowed %t, want %t", test.who, test.verb, test.resource, test.namespace, got, test.want)
		}
	}
}

// bindRole binds a cluster role to the subject in namespace default.
func (cp *ControlPlane) bindRole(t *testing.T, name, clusterRole string, subject rbacv1.Subject) {
	t.Helper()
	_, err := cp.admin.RbacV1().RoleBindings("default").Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: clusterRole},
		Subjects:   []rbacv1.Subject{subject},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

// canI reports whether the user of the kubeconfig may do something. The resource is
// <resource>[/<subresource>][.<group>][=<name>]. "kubectl auth can-i" would refuse resources that discovery does not
// have, and there is no Leat server yet.
func (cp *ControlPlane) canI(t *testing.T, kubeconfig, verb, resource, namespace string) bool {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	client, err := authorizationclient.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	resource, name, _ := strings.Cut(resource, "=")
	resource, group, _ := strings.Cut(resource, ".")
	resource, subresource, _ := strings.Cut(resource, "/")
	review, err := client.SelfSubjectAccessReviews().Create(t.Context(), &authorizationv1.SelfSubjectAccessReview{
		Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &authorizationv1.ResourceAttributes{
			Verb: verb, Group: group, Resource: resource, Subresource: subresource, Name: name, Namespace: namespace,
		}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return review.Status.Allowed
}

// testAggregator: the aggregator forwards requests to the server of the last registration.
func (cp *ControlPlane) testAggregator(t *testing.T) {
	ca, err := pki.NewCA("leat-serving-ca")
	if err != nil {
		t.Fatal(err)
	}
	user := make(chan string, 1)
	server := stubServer(t, ca, cp.FrontProxyCA, user)
	// An API without a server prevents the deletion of every namespace.
	defer func() {
		err := cp.admin.RESTClient().Delete().AbsPath("/apis/apiregistration.k8s.io/v1/apiservices", apiservice.Name).Do(t.Context()).Error()
		if err != nil {
			t.Error(err)
		}
	}()
	if err := cp.InstallLeat(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := cp.RegisterLeat(t.Context(), port(t, server), ca.CertPEM()); err != nil {
		t.Fatal(err)
	}

	someone, err := cp.UserKubeconfig("someone", "some-group")
	if err != nil {
		t.Fatal(err)
	}
	cp.bindRole(t, "some-group", "leat:view", rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: "some-group"})
	if _, _, err := cp.Kubectl(t.Context(), someone, "get", "tasks.batch.leat.dev", "--namespace=default"); err != nil {
		t.Fatal(err)
	}
	if got, want := <-user, "someone"; got != want {
		t.Errorf("X-Remote-User: got %q, want %q", got, want)
	}

	// A second registration points to another server with another authority.
	server.Close()
	if ca, err = pki.NewCA("another-serving-ca"); err != nil {
		t.Fatal(err)
	}
	if err := cp.RegisterLeat(t.Context(), port(t, stubServer(t, ca, cp.FrontProxyCA, user)), ca.CertPEM()); err != nil {
		t.Fatal(err)
	}
}

// stubServer serves what a Leat server without tasks serves, and only to the aggregator. It sends the names of users of
// requests to the channel, unless the channel is full.
func stubServer(t *testing.T, ca, clients *pki.CA, users chan<- string) *httptest.Server {
	t.Helper()
	mux := http.NewServeMux()
	reply := func(path string, object any) {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			if err := json.NewEncoder(w).Encode(object); err != nil {
				t.Error(err)
			}
		})
	}
	version := leatVersion.String()
	reply("/apis/"+version, metav1.APIResourceList{
		TypeMeta:     metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"},
		GroupVersion: version,
		APIResources: []metav1.APIResource{{Name: "tasks", SingularName: "task", Namespaced: true, Kind: "Task", Verbs: metav1.Verbs{"get", "list"}}},
	})
	list := metav1.PartialObjectMetadataList{
		TypeMeta: metav1.TypeMeta{Kind: "TaskList", APIVersion: version},
		Items:    []metav1.PartialObjectMetadata{},
	}
	reply("/apis/"+version+"/tasks", list)
	reply("/apis/"+version+"/namespaces/default/tasks", list)

	cert, key, err := ca.IssueServer(LeatService)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(clients.CertPEM())
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/namespaces/") {
			select {
			case users <- r.Header.Get("X-Remote-User"):
			default:
			}
		}
		mux.ServeHTTP(w, r)
	}))
	server.TLS = &tls.Config{
		Certificates: []tls.Certificate{pair},
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    pool,
	}
	server.StartTLS()
	t.Cleanup(server.Close)
	return server
}

func port(t *testing.T, server *httptest.Server) int {
	t.Helper()
	return server.Listener.Addr().(*net.TCPAddr).Port
}

// testControllers: the quota controller recounts, and the namespace controller finalizes namespaces.
func (cp *ControlPlane) testControllers(t *testing.T) {
	ctx := t.Context()
	const namespace = "short-lived"
	_, err := cp.admin.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	const counted = corev1.ResourceName("count/configmaps")
	_, err = cp.admin.CoreV1().ResourceQuotas(namespace).Create(ctx, &corev1.ResourceQuota{
		ObjectMeta: metav1.ObjectMeta{Name: "quota"},
		Spec:       corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{counted: resource.MustParse("5")}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	// The root certificate publisher creates the ConfigMap kube-root-ca.crt.
	waitUntil(t, "the quota controller counts 1 ConfigMap", func(ctx context.Context) error {
		quota, err := cp.admin.CoreV1().ResourceQuotas(namespace).Get(ctx, "quota", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if used := quota.Status.Used[counted]; used.Value() != 1 {
			return fmt.Errorf("got used %s", used.String())
		}
		return nil
	})
	if err := cp.admin.CoreV1().Namespaces().Delete(ctx, namespace, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	waitUntil(t, "the namespace is gone", func(ctx context.Context) error {
		namespaces, err := cp.admin.CoreV1().Namespaces().List(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + namespace})
		if err != nil {
			return err
		}
		if len(namespaces.Items) != 0 {
			return fmt.Errorf("got phase %s", namespaces.Items[0].Status.Phase)
		}
		return nil
	})
}

func (cp *ControlPlane) testEtcdKilled(t *testing.T) {
	ctx := t.Context()
	_, err := cp.admin.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "kept"},
		Data:       map[string]string{"key": "value"},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := cp.Etcd.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	if err := cp.APIServer.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	kept, err := cp.admin.CoreV1().ConfigMaps("default").Get(ctx, "kept", metav1.GetOptions{})
	if err != nil || kept.Data["key"] != "value" {
		t.Errorf("after the restart: got %v, error %v; want the data written before", kept, err)
	}
}

func (cp *ControlPlane) testAPIServerKilled(t *testing.T) {
	before := cp.APIServer.PID()
	if err := cp.APIServer.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if cp.APIServer.PID() == before {
		t.Error("kube-apiserver has the same PID as before")
	}
	if _, err := cp.admin.CoreV1().Namespaces().Get(t.Context(), "default", metav1.GetOptions{}); err != nil {
		t.Error(err)
	}
}

func TestEtcdKeepsDataWhenKilled(t *testing.T) {
	etcd := EtcdForTest(t)
	client, err := etcd.Client()
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.Put(t.Context(), "key", "value"); err != nil {
		t.Fatal(err)
	}
	if err := etcd.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := etcd.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	got, err := client.Get(t.Context(), "key")
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Kvs) != 1 || string(got.Kvs[0].Value) != "value" {
		t.Errorf("after kill and restart: got %v, want the value written before", got.Kvs)
	}
}

func TestEtcdServesOnlyItsOwnClients(t *testing.T) {
	etcd := EtcdForTest(t)
	config, err := trusting(etcd.CA)
	if err != nil {
		t.Fatal(err)
	}
	if err := answersOK(etcd.Endpoint+"/readyz", config)(t.Context()); err == nil {
		t.Error("a client without certificate was served")
	}
	stranger, err := pki.NewCA("stranger")
	if err != nil {
		t.Fatal(err)
	}
	cert, key, err := stranger.IssueClient("leat-test")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	config.Certificates = []tls.Certificate{pair}
	if err := answersOK(etcd.Endpoint+"/readyz", config)(t.Context()); err == nil {
		t.Error("a client of another authority was served")
	}
}

func TestMissingProgramsNameTheCommand(t *testing.T) {
	_, err := Start(t.Context(), Options{BinDir: t.TempDir(), Dir: t.TempDir()})
	if err == nil || !strings.Contains(err.Error(), "make host") || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Start without programs: got %v, want an error that names make host", err)
	}
}

func shell(dir, script string) Command {
	return Command{Name: "shell", Path: "/bin/sh", Args: []string{"-c", script}, Dir: dir}
}

func TestProcessThatFailsShowsItsLog(t *testing.T) {
	command := shell(t.TempDir(), "echo the reason >&2; exit 3")
	command.Ready = func(context.Context) error { return errors.New("still starting") }
	_, err := StartProcess(t.Context(), command)
	if err == nil || !strings.Contains(err.Error(), "the reason") || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("StartProcess: got %v, want an error with the exit status and the log", err)
	}
}

func TestProcessThatIsNeverReadyIsKilled(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	command := shell(dir, "echo $$ > pid; exec sleep 600")
	command.Ready = func(context.Context) error {
		if _, err := os.Stat(filepath.Join(dir, "pid")); err == nil {
			cancel()
		}
		return errors.New("still starting")
	}
	_, err := StartProcess(ctx, command)
	if err == nil || !strings.Contains(err.Error(), "still starting") {
		t.Errorf("StartProcess: got %v, want an error with the last error of Ready", err)
	}
	data, err := os.ReadFile(filepath.Join(dir, "pid"))
	if err != nil {
		t.Fatal(err)
	}
	waitUntilGone(t, strings.TrimSpace(string(data)))
}

func TestErrReportsUnexpectedEndsOnly(t *testing.T) {
	process, err := StartProcess(t.Context(), shell(t.TempDir(), "echo going; exit 4"))
	if err != nil {
		t.Fatal(err)
	}
	<-process.run().done
	if err := process.Kill(); err != nil {
		t.Error(err)
	}
	if err := process.Err(); err == nil || !strings.Contains(err.Error(), "exit status 4") || !strings.Contains(err.Error(), "going") {
		t.Errorf("Err after an unexpected exit, and Kill: got %v, want an error with the status and the log", err)
	}

	process, err = StartProcess(t.Context(), shell(t.TempDir(), "exec sleep 600"))
	if err != nil {
		t.Fatal(err)
	}
	if err := process.Err(); err != nil {
		t.Errorf("Err while it runs: got %v, want nil", err)
	}
	if err := process.Kill(); err != nil {
		t.Error(err)
	}
	if err := process.Err(); err != nil {
		t.Errorf("Err after Kill: got %v, want nil", err)
	}
}

// TestStopAfterAnotherSignal stops a process that got a signal before, and that takes half a second to end by itself.
func TestStopAfterAnotherSignal(t *testing.T) {
	for name, before := range map[string]struct {
		signal syscall.Signal
		logs   string // after the signal
	}{
		"SIGSTOP": {syscall.SIGSTOP, "running"},
		"SIGTERM": {syscall.SIGTERM, "asked 1"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			command := shell(dir, `trap 'n=$((n+1)); echo asked $n' TERM; echo running; until [ "$n" ]; do sleep 0.05; done; sleep 0.5; echo ended; exit 0`)
			logs := "running"
			command.Ready = func(context.Context) error {
				log, err := os.ReadFile(filepath.Join(dir, "shell.log"))
				if err == nil && !strings.Contains(string(log), logs) {
					err = errors.New("not " + logs)
				}
				return err
			}
			process, err := StartProcess(t.Context(), command)
			if err != nil {
				t.Fatal(err)
			}
			if err := process.Signal(before.signal); err != nil {
				t.Fatal(err)
			}
			logs = before.logs
			if err := process.WaitReady(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := process.Stop(); err != nil {
				t.Error(err)
			}
			if log := process.logTail(); !strings.Contains(log, "ended") || strings.Contains(log, "asked 2") {
				t.Errorf("got log %q, want one SIGTERM and an end without SIGKILL", log)
			}
		})
	}
}

func TestNothingOutlivesItsParent(t *testing.T) {
	parent := exec.Command(os.Args[0])
	parent.Env = append(os.Environ(), parentDir+"="+t.TempDir())
	stdout, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	child := strings.TrimSpace(line)
	if _, notNumber := strconv.Atoi(child); err != nil || notNumber != nil {
		t.Fatalf("the parent printed %q, error %v; want the process ID of its child", line, err)
	}
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait() // killed, as asked
	waitUntilGone(t, child)
}

func TestFreePortsDiffer(t *testing.T) {
	var got []int
	for range 50 {
		port, err := FreePort()
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, port)
	}
	slices.Sort(got)
	if distinct := slices.Compact(slices.Clone(got)); len(distinct) != len(got) {
		t.Errorf("a port was returned twice: %v", got)
	}
}

func waitUntil(t *testing.T, what string, condition func(context.Context) error) {
	t.Helper()
	if err := await.Until(t.Context(), time.Minute, condition); err != nil {
		t.Fatalf("waiting until %s: %v", what, err)
	}
}

// waitUntilGone waits for the end of a process that is not a child of this one. A zombie has ended.
func waitUntilGone(t *testing.T, pid string) {
	t.Helper()
	waitUntil(t, "process "+pid+" is gone", func(context.Context) error {
		state, err := exec.Command("ps", "-o", "state=", "-p", pid).Output()
		if s := strings.TrimSpace(string(state)); err == nil && s != "" && !strings.HasPrefix(s, "Z") {
			return fmt.Errorf("got state %s", s)
		}
		return nil
	})
}
