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

package admission

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/plugin/namespace/lifecycle"
	validatingpolicy "k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/admission/plugin/resourcequota"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	"k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/options"
	"k8s.io/apiserver/pkg/util/compatibility"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/client-go/discovery"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/openapi"
	"k8s.io/client-go/openapi/openapitest"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/cache"

	"github.com/leat-dev/leat/apis/batch"
	"github.com/leat-dev/leat/apis/batch/install"
	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/apiserver/admission/queuelimit"
)

func TestConfigureKnowsUpstreamsDefaultPlugins(t *testing.T) {
	if err := Configure(options.NewAdmissionOptions()); err != nil {
		t.Error(err)
	}
}

func TestConfigureRefusesOtherDefaultPlugins(t *testing.T) {
	for name, test := range map[string]struct {
		change func(o *options.AdmissionOptions)
		want   string
	}{
		"a new plugin": {func(o *options.AdmissionOptions) {
			o.Plugins.Register("Unheard", nil)
		}, "unknown default admission plugins Unheard"},
		"two new plugins, one in the order": {func(o *options.AdmissionOptions) {
			o.Plugins.Register("Unheard", nil)
			o.Plugins.Register("Another", nil)
			o.RecommendedPluginOrder = append(o.RecommendedPluginOrder, "Unheard")
		}, "unknown default admission plugins Another, Unheard"},
		"one that is gone": {func(o *options.AdmissionOptions) {
			o.Plugins = admission.NewPlugins()
			lifecycle.Register(o.Plugins)
		}, "missing default admission plugins MutatingAdmissionPolicy, MutatingAdmissionWebhook, ValidatingAdmissionPolicy, ValidatingAdmissionWebhook"},
		"one that is out of the order": {func(o *options.AdmissionOptions) {
			o.RecommendedPluginOrder = o.RecommendedPluginOrder[1:]
		}, "not NamespaceLifecycle, "},
		"another order": {func(o *options.AdmissionOptions) {
			slices.Reverse(o.RecommendedPluginOrder)
		}, "in the order ValidatingAdmissionWebhook, "},
		"one that is off": {func(o *options.AdmissionOptions) {
			o.DefaultOffPlugins = sets.New(validatingpolicy.PluginName)
		}, "ValidatingAdmissionPolicy are off"},
		"configured twice": {func(o *options.AdmissionOptions) {
			if err := Configure(o); err != nil {
				panic(err)
			}
		}, "unknown default admission plugins Creator, DeniedWorker, LiveNamespace, OwnerReferencesPermissionEnforcement, ResourceQuota, TaskQueueLimit, WorkerRestriction"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, configure := range []func(*options.AdmissionOptions) error{Configure, ConfigureStandalone} {
				o := options.NewAdmissionOptions()
				test.change(o)
				if err := configure(o); err == nil || !strings.Contains(err.Error(), test.want) {
					t.Errorf("got %v, want %q", err, test.want)
				}
			}
		})
	}
}

func TestOrder(t *testing.T) {
	o := options.NewAdmissionOptions()
	if err := Configure(o); err != nil {
		t.Fatal(err)
	}
	if errs := o.Validate(); len(errs) > 0 {
		t.Errorf("the order and the registered plugins differ: %v", errs)
	}
	if got := sets.New(Order...); got.Len() != len(Order) {
		t.Errorf("a plugin is in the order twice: %v", Order)
	}
	if Order[0] != lifecycle.PluginName {
		t.Errorf("got %s first, want %s: other plugins need not run for a namespace that is gone", Order[0], lifecycle.PluginName)
	}
	if last := Order[len(Order)-1]; last != resourcequota.PluginName {
		t.Errorf("%s runs last, after quota is charged", last)
	}
	for _, plugin := range Order {
		if _, ok := grants[plugin]; !ok {
			t.Errorf("%s is in the order but not in grants", plugin)
		}
	}
	if len(grants) != len(Order) {
		t.Errorf("grants has %d plugins, the order %d", len(grants), len(Order))
	}
	o.RecommendedPluginOrder[0] = ""
	if Order[0] == "" {
		t.Error("the options share the slice of Order")
	}
}

var testScheme = func() *runtime.Scheme {
	scheme := runtime.NewScheme()
	install.Install(scheme)
	return scheme
}()

// client is client-go's fake with client-go's fake of OpenAPI, which it lacks.
type client struct {
	*fake.Clientset
}

func (c client) Discovery() discovery.DiscoveryInterfaces {
	return discoveryClient{c.Clientset.Discovery()}
}

type discoveryClient struct {
	discovery.DiscoveryInterfaces
}

func (discoveryClient) OpenAPIV3() openapi.Client {
	return openapitest.NewFakeClient()
}

// host returns a fake of the host's API. It implements optimistic concurrency for the status of quotas.
func host(t *testing.T, objects ...runtime.Object) *fake.Clientset {
	t.Helper()
	client := fake.NewClientset(objects...)
	var mu sync.Mutex
	client.PrependReactor("update", "resourcequotas", func(action clienttesting.Action) (bool, runtime.Object, error) {
		mu.Lock()
		defer mu.Unlock()
		updated := action.(clienttesting.UpdateAction).GetObject().(*corev1.ResourceQuota).DeepCopy()
		stored, err := client.Tracker().Get(action.GetResource(), updated.Namespace, updated.Name)
		if err != nil {
			return true, nil, err
		}
		version := stored.(*corev1.ResourceQuota).ResourceVersion
		if updated.ResourceVersion != version {
			return true, nil, apierrors.NewConflict(corev1.Resource("resourcequotas"), updated.Name, errors.New("modified"))
		}
		next, err := strconv.Atoi(version)
		if err != nil {
			return true, nil, err
		}
		updated.ResourceVersion = strconv.Itoa(next + 1)
		return true, updated, client.Tracker().Update(action.GetResource(), updated, updated.Namespace)
	})
	return client
}

func namespace(name string) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NamespaceStatus{Phase: corev1.NamespaceActive}}
}

// quotaOf returns a quota with the hard limits, as the host's quota controller reports it: it has counted nothing in
// use of the resources that it counts.
func quotaOf(hard map[string]string, counted ...string) *corev1.ResourceQuota {
	q := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "quota", ResourceVersion: "1"}}
	q.Spec.Hard, q.Status.Used = corev1.ResourceList{}, corev1.ResourceList{}
	for name, amount := range hard {
		q.Spec.Hard[corev1.ResourceName(name)] = resource.MustParse(amount)
	}
	for _, name := range counted {
		q.Status.Used[corev1.ResourceName(name)] = resource.MustParse("0")
	}
	q.Status.Hard = q.Spec.Hard
	return q
}

func used(t *testing.T, client *fake.Clientset, name string) int64 {
	t.Helper()
	q, err := client.CoreV1().ResourceQuotas("ns").Get(t.Context(), "quota", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	amount := q.Status.Used[corev1.ResourceName(name)]
	return amount.Value()
}

// chain is the admission chain of one replica.
type chain struct {
	t *testing.T
	admission.MutationInterface
	admission.ValidationInterface
}

// newChain starts the admission chain of a replica, as a server does.
func newChain(t *testing.T, configure func(*options.AdmissionOptions) error, host *fake.Clientset, enable ...string) chain {
	t.Helper()
	o := options.NewAdmissionOptions()
	if err := configure(o); err != nil {
		t.Fatal(err)
	}
	o.EnablePlugins = enable
	config := server.NewConfig(serializer.NewCodecFactory(testScheme))
	config.Authorization.Authorizer = authorizerfactory.NewAlwaysAllowAuthorizer()
	factory := informers.NewSharedInformerFactory(host, 0)
	counts := queuelimit.NewCounts()
	for _, store := range []cache.ReflectorStore{counts.Tasks(), counts.Queues()} {
		if err := store.Replace(nil, ""); err != nil {
			t.Fatal(err)
		}
	}
	if err := o.ApplyTo(config, factory, client{host}, dynamicfake.NewSimpleDynamicClient(testScheme), utilfeature.DefaultFeatureGate,
		compatibility.DefaultBuildEffectiveVersion(), Initializers(counts, host.CoreV1())...); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(func() {
		cancel()
		factory.Shutdown()
	})
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	return chain{t, config.AdmissionControl.(admission.MutationInterface), config.AdmissionControl.(admission.ValidationInterface)}
}

type write struct {
	operation   admission.Operation
	resource    string
	subresource string
	namespace   string
	object, old runtime.Object
	dryRun      bool
	user        user.Info
}

// do admits and validates a write.
func (c chain) do(w write) error {
	c.t.Helper()
	object := w.object
	if object == nil {
		object = w.old
	}
	accessor := object.(metav1.Object)
	kinds, _, err := testScheme.ObjectKinds(object)
	if err != nil {
		c.t.Fatal(err)
	}
	if w.namespace == "" {
		w.namespace = "ns"
	}
	if w.user == nil {
		w.user = &user.DefaultInfo{Name: "someone"}
	}
	attributes := admission.NewAttributesRecord(w.object, w.old, v1alpha1.SchemeGroupVersion.WithKind(kinds[0].Kind), w.namespace, accessor.GetName(),
		v1alpha1.SchemeGroupVersion.WithResource(w.resource), w.subresource, w.operation, nil, w.dryRun, w.user)
	objectInterfaces := admission.NewObjectInterfacesFromScheme(testScheme)
	if c.MutationInterface.Handles(w.operation) {
		if err := c.Admit(c.t.Context(), attributes, objectInterfaces); err != nil {
			return err
		}
	}
	if c.ValidationInterface.Handles(w.operation) {
		return c.Validate(c.t.Context(), attributes, objectInterfaces)
	}
	return nil
}

func task(name string) *batch.Task {
	return &batch.Task{ObjectMeta: metav1.ObjectMeta{Name: name}}
}

func TestQuotaChargesCreatesOfOurKinds(t *testing.T) {
	const counted = "count/tasks.batch.leat.dev"
	client := host(t, namespace("ns"), quotaOf(map[string]string{
		counted: "2",
		// The first is a full quota of another kind, the second a resource that the quota controller cannot
		// count.
		"pods":                               "0",
		"count/workerleases.batch.leat.dev":  "0",
		"count/tasksets.batch.leat.dev":      "1",
		"count/deployments.apps":             "0",
		"requests.nvidia.com/gpu":            "0",
		"count/workers.batch.leat.dev":       "100",
		"count/taskqueues.batch.leat.dev":    "100",
		"count/nosuchkinds.batch.leat.dev":   "0",
		"count/tasks.tekton.dev":             "0",
		"count/resourcequotas":               "0",
		"count/workerleases.coordination.io": "0",
	}, counted, "pods", "count/tasksets.batch.leat.dev", "count/workers.batch.leat.dev", "count/taskqueues.batch.leat.dev"))
	c := newChain(t, Configure, client)

	for _, step := range []struct {
		write
		refused string
		used    int64
	}{
		{write{operation: admission.Create, resource: "tasks", object: task("a"), dryRun: true}, "", 0},
		{write{operation: admission.Create, resource: "tasks", object: task("a")}, "", 1},
		{write{operation: admission.Update, resource: "tasks", object: task("a"), old: task("a")}, "", 1},
		{write{operation: admission.Update, resource: "tasks", subresource: "status", object: task("a"), old: task("a")}, "", 1},
		{write{operation: admission.Create, resource: "tasks", subresource: "binding", object: &batch.Binding{ObjectMeta: metav1.ObjectMeta{Name: "a"}}}, "", 1},
		{write{operation: admission.Create, resource: "tasks", subresource: "eviction", object: &batch.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "a"}}}, "", 1},
		{write{operation: admission.Create, resource: "tasksets", object: &batch.TaskSet{ObjectMeta: metav1.ObjectMeta{Name: "a"}}}, "", 1},
		{write{operation: admission.Create, resource: "tasksets", object: &batch.TaskSet{ObjectMeta: metav1.ObjectMeta{Name: "b"}}}, "exceeded quota: quota, requested: count/tasksets.batch.leat.dev=1, used: count/tasksets.batch.leat.dev=1, limited: count/tasksets.batch.leat.dev=1", 1},
		{write{operation: admission.Create, resource: "workers", object: &batch.Worker{ObjectMeta: metav1.ObjectMeta{Name: "a"}}}, "", 1},
		{write{operation: admission.Create, resource: "taskqueues", object: &batch.TaskQueue{ObjectMeta: metav1.ObjectMeta{Name: "a"}}}, "", 1},
		{write{operation: admission.Create, resource: "workerleases", object: &batch.WorkerLease{ObjectMeta: metav1.ObjectMeta{Name: "a"}}}, "", 1},
		{write{operation: admission.Create, resource: "tasks", object: task("b")}, "", 2},
		{write{operation: admission.Create, resource: "tasks", object: task("c")}, "exceeded quota", 2},
		{write{operation: admission.Create, resource: "tasks", object: task("c"), dryRun: true}, "exceeded quota", 2},
		{write{operation: admission.Delete, resource: "tasks", old: task("a")}, "", 2},
	} {
		err := c.do(step.write)
		if (step.refused == "" && err != nil) || (step.refused != "" && (!apierrors.IsForbidden(err) || !strings.Contains(err.Error(), step.refused))) {
			t.Errorf("%s %s/%s: got %v, want %q", step.operation, step.resource, step.subresource, err, step.refused)
		}
		if got := used(t, client, counted); got != step.used {
			t.Errorf("%s %s/%s: %d used, want %d", step.operation, step.resource, step.subresource, got, step.used)
		}
	}
}

func TestWithoutQuotas(t *testing.T) {
	client := host(t, namespace("ns"))
	c := newChain(t, Configure, client)
	client.ClearActions()
	for i := range 100 {
		if err := c.do(write{operation: admission.Create, resource: "tasks", object: task(fmt.Sprintf("task-%d", i))}); err != nil {
			t.Fatal(err)
		}
	}
	for _, action := range client.Actions() {
		if action.GetVerb() != "watch" && !action.Matches("get", "namespaces") {
			t.Errorf("a create caused %s of %s on the host", action.GetVerb(), action.GetResource())
		}
	}
}

func TestQuotaHoldsAcrossReplicas(t *testing.T) {
	const counted, hard, creates = "count/tasks.batch.leat.dev", 10, 50
	client := host(t, namespace("ns"), quotaOf(map[string]string{counted: strconv.Itoa(hard)}, counted))
	replicas := []chain{newChain(t, Configure, client), newChain(t, Configure, client)}

	var admitted atomic.Int32
	var clients sync.WaitGroup
	for i := range creates {
		clients.Go(func() {
			w := write{operation: admission.Create, resource: "tasks", object: task(fmt.Sprintf("task-%d", i))}
			// Clients retry after a conflict, but not after the quota is exceeded.
			if err := wait.PollUntilContextTimeout(t.Context(), time.Millisecond, time.Minute, true, func(context.Context) (bool, error) {
				err := replicas[i%len(replicas)].do(w)
				switch {
				case err == nil:
					admitted.Add(1)
				case apierrors.IsConflict(err):
					return false, nil
				case !apierrors.IsForbidden(err):
					return false, err
				}
				return true, nil
			}); err != nil {
				t.Error(err)
			}
		})
	}
	clients.Wait()
	if got := admitted.Load(); got != hard {
		t.Errorf("%d creates admitted, want %d", got, hard)
	}
	if got := used(t, client, counted); got != hard {
		t.Errorf("%d used, want %d", got, hard)
	}
}

func TestRefusedCreatesAreNotCharged(t *testing.T) {
	const counted = "count/workers.batch.leat.dev"
	client := host(t, namespace("ns"), quotaOf(map[string]string{counted: "5"}, counted))
	c := newChain(t, Configure, client)
	own := &user.DefaultInfo{Name: "leat:worker:ns:own", Groups: []string{"leat:workers"}}

	if err := c.do(write{operation: admission.Create, resource: "workers", object: &batch.Worker{ObjectMeta: metav1.ObjectMeta{Name: "other"}}, user: own}); !apierrors.IsForbidden(err) {
		t.Errorf("another's worker: got %v", err)
	}
	if got := used(t, client, counted); got != 0 {
		t.Errorf("%d charged for a refused create", got)
	}
	if err := c.do(write{operation: admission.Create, resource: "workers", object: &batch.Worker{ObjectMeta: metav1.ObjectMeta{Name: "own"}}, user: own}); err != nil {
		t.Errorf("its own worker: got %v", err)
	}
	if got := used(t, client, counted); got != 1 {
		t.Errorf("%d charged for an admitted create, want 1", got)
	}
}

func TestNamespacesMustExistUnlessStandalone(t *testing.T) {
	w := write{operation: admission.Create, resource: "tasks", object: task("a"), namespace: "implicit"}
	for name, test := range map[string]struct {
		configure func(*options.AdmissionOptions) error
		enable    []string
		found     bool
	}{
		"aggregated":                    {Configure, nil, false},
		"standalone":                    {ConfigureStandalone, nil, true},
		"standalone, asked for by name": {ConfigureStandalone, []string{lifecycle.PluginName}, false},
	} {
		t.Run(name, func(t *testing.T) {
			err := newChain(t, test.configure, host(t), test.enable...).do(w)
			if (err == nil) != test.found || (err != nil && !apierrors.IsNotFound(err)) {
				t.Errorf("got %v, want found: %v", err, test.found)
			}
		})
	}
}

func TestStandaloneReadsNoQuotas(t *testing.T) {
	client := host(t)
	c := newChain(t, ConfigureStandalone, client)
	if err := c.do(write{operation: admission.Create, resource: "tasks", object: task("a")}); err != nil {
		t.Error(err)
	}
	for _, action := range client.Actions() {
		if action.GetResource().Resource == "resourcequotas" {
			t.Errorf("%s of %s", action.GetVerb(), action.GetResource())
		}
	}
}
