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

// Package e2e tests what Leat and the host it is behind do with each other: a real control plane, its controllers, its
// webhooks and policies, and the rights that config/ ships. What of it holds without a host is tested standalone too.
package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit"
)

// TestAggregated runs everything on one host. What breaks the host, or our place in it, comes last.
func TestAggregated(t *testing.T) {
	e := kit.Aggregated(t)
	backend := startWebhook(t)
	applyManifests(t, e, backend)
	// The garbage collector and the quota controller look for new APIs only every 30 s, and at their start.
	kit.Check(t, e.Host.ControllerManager.Restart(t.Context()))
	encrypted := startEncrypted(t, e)
	suite(t, e, backend)
	t.Run("Discovery", func(t *testing.T) { testHostDiscovery(t, e) })
	t.Run("Roles", func(t *testing.T) { testHostRoles(t, e) })
	t.Run("WorkerPod", func(t *testing.T) { testWorkerPod(t, e) })
	t.Run("GarbageCollection", func(t *testing.T) { testGarbageCollection(t, e) })
	t.Run("NamespaceDeletion", func(t *testing.T) { testNamespaceDeletion(t, e) })
	t.Run("PublishedOpenAPI", func(t *testing.T) { testPublishedOpenAPI(t, e) })
	t.Run("Shutdown", func(t *testing.T) { testShutdown(t, e) })
	t.Run("NamespaceRace", func(t *testing.T) { testNamespaceRace(t, e) })
	t.Run("Encryption", encrypted.test)
	t.Run("Reviews", func(t *testing.T) { testReviews(t, e) })
	t.Run("Fairness", func(t *testing.T) { testFairness(t, e) })
	t.Run("ServerRestart", func(t *testing.T) { testServerRestart(t, e) })
	t.Run("HostRestart", func(t *testing.T) { testHostRestart(t, e) })
	t.Run("ForeignPolicy", func(t *testing.T) { testForeignPolicy(t, e) })
	t.Run("Grants", func(t *testing.T) { testGrants(t, e) })
	t.Run("Uninstall", func(t *testing.T) { testUninstall(t, e) })
}

// TestStandalone runs what holds without a host.
func TestStandalone(t *testing.T) {
	backend := startWebhook(t)
	e := kit.Standalone(t, "--admission-control-config-file="+admissionConfig(t, backend))
	suite(t, e, backend)
	t.Run("ServerRestart", func(t *testing.T) { testServerRestart(t, e) })
}

// suite is what holds in both environments.
func suite(t *testing.T, e *kit.Env, backend *webhook) {
	t.Run("Informers", func(t *testing.T) { testInformers(t, e) })
	t.Run("ServerDiscovery", func(t *testing.T) { testServerDiscovery(t, e) })
	t.Run("Health", func(t *testing.T) { testHealth(t, e) })
	t.Run("Strangers", func(t *testing.T) { testStrangers(t, e) })
	t.Run("Worker", func(t *testing.T) { testWorker(t, e) })
	t.Run("Webhooks", func(t *testing.T) { testWebhooks(t, e, backend) })
	t.Run("Policies", func(t *testing.T) { testPolicies(t, e) })
}

const (
	pollInterval = 50 * time.Millisecond
	// patience is how long the host's controllers may take for one step.
	patience = 30 * time.Second
)

// refused fails the test unless the error is of that reason and says all of the texts.
func refused(t testing.TB, err error, reason metav1.StatusReason, texts ...string) {
	t.Helper()
	if apierrors.ReasonForError(err) != reason {
		t.Errorf("error %v; want one of reason %s that says %q", err, reason, texts)
		return
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("error %q does not say %q", err, text)
		}
	}
}

// hostAdmin is whoever sets the host up. It is never used for our own API, where nobody is asked about it.
func hostAdmin(t testing.TB, e *kit.Env) *kubernetes.Clientset {
	t.Helper()
	return kit.Must(kubernetes.NewForConfig(hostConfig(t, e)))(t)
}

func hostConfig(t testing.TB, e *kit.Env) *rest.Config {
	t.Helper()
	config := kit.Must(clientcmd.BuildConfigFromFlags("", e.Host.AdminKubeconfig))(t)
	config.QPS = -1
	return config
}

func newTask(name string) *v1alpha1.Task {
	return &v1alpha1.Task{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       v1alpha1.TaskSpec{Command: []string{"true"}},
	}
}

func newTaskSet(name string) *v1alpha1.TaskSet {
	return &v1alpha1.TaskSet{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       v1alpha1.TaskSetSpec{Template: v1alpha1.TaskTemplateSpec{Spec: v1alpha1.TaskSpec{Command: []string{"true"}}}},
	}
}

func newBinding(worker string) *v1alpha1.Binding {
	return &v1alpha1.Binding{Target: v1alpha1.BindingTarget{Name: worker, Incarnation: incarnationOf(worker)}}
}

// incarnationOf is the one start of a worker that there is in these tests.
func incarnationOf(worker string) string { return worker + "-1" }

// boundTask makes a task and binds it to a worker, which need not exist.
func boundTask(t testing.TB, e *kit.Env, namespace, name, worker string) *v1alpha1.Task {
	t.Helper()
	tasks := kit.Client(t, e.Admin(t)).BatchV1alpha1().Tasks(namespace)
	kit.Must(tasks.Create(t.Context(), newTask(name), metav1.CreateOptions{}))(t)
	controller := kit.Client(t, e.Controller(t))
	kit.Must(controller.BatchV1alpha1().Tasks(namespace).Bind(t.Context(), name, newBinding(worker), metav1.CreateOptions{}))(t)
	return kit.Must(tasks.Get(t.Context(), name, metav1.GetOptions{}))(t)
}

// deleteNamespace starts the deletion of a namespace.
func deleteNamespace(t testing.TB, e *kit.Env, name string) {
	t.Helper()
	kit.Check(t, hostAdmin(t, e).CoreV1().Namespaces().Delete(t.Context(), name, metav1.DeleteOptions{}))
}

// namespaceGone says nil once the namespace is not there, and else what keeps it.
func namespaceGone(ctx context.Context, host kubernetes.Interface, name string) error {
	namespace, err := host.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return kit.Gone(err)
	}
	var held []string
	for _, condition := range namespace.Status.Conditions {
		if condition.Status == corev1.ConditionTrue {
			held = append(held, condition.Message)
		}
	}
	return fmt.Errorf("it is %s: %s", namespace.Status.Phase, strings.Join(held, "; "))
}

// answer is what a server said to one request.
type answer struct {
	code int
	body string
}

func (a answer) String() string { return fmt.Sprintf("%d %s", a.code, a.body) }

// ask sends a request with these headers, as pairs, on a connection of its own, and gives the answer, whichever it is.
func ask(t testing.TB, config *rest.Config, method, path, body string, headers ...string) answer {
	t.Helper()
	return kit.Must(try(t.Context(), config, method, path, body, headers...))(t)
}

// try is ask where there may be no answer at all.
func try(ctx context.Context, config *rest.Config, method, path, body string, headers ...string) (answer, error) {
	request, err := http.NewRequestWithContext(ctx, method, config.Host+path, strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	if body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	for pair := range slices.Chunk(headers, 2) {
		request.Header.Add(pair[0], pair[1])
	}
	tls, err := rest.TLSConfigFor(config)
	if err != nil {
		return answer{}, err
	}
	transport, err := rest.HTTPWrappersForConfig(config, &http.Transport{TLSClientConfig: tls, DisableKeepAlives: true})
	if err != nil {
		return answer{}, err
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return answer{}, err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	return answer{response.StatusCode, string(data)}, err
}
