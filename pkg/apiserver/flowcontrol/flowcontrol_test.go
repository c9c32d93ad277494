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

package flowcontrol

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync/atomic"
	"testing"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/server"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/apiserver/pkg/util/flowcontrol"
	"k8s.io/apiserver/pkg/util/flowcontrol/fairqueuing"
	flowcontrolrequest "k8s.io/apiserver/pkg/util/flowcontrol/request"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/leat-dev/leat/apis/batch"
)

const (
	tasks = "/apis/batch.leat.dev/v1alpha1/namespaces/ns/tasks"
	pods  = "/api/v1/namespaces/ns/pods"
)

// upstream returns upstream's dispatcher with its default configuration.
func upstream() flowcontrol.Interface {
	client := fake.NewClientset()
	return flowcontrol.New(informers.NewSharedInformerFactory(client, 0), client.FlowcontrolV1(), 600)
}

func ours() flowcontrol.Interface {
	return WithTrigger(upstream(), batch.Resource("tasks"), "spec.workerName")
}

var resolver = &request.RequestInfoFactory{APIPrefixes: sets.NewString("apis", "api"), GrouplessAPIPrefixes: sets.NewString("api")}

func newRequest(t *testing.T, method, path string) *http.Request {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, path, nil)
	info, err := resolver.NewRequestInfo(r)
	if err != nil {
		t.Fatal(err)
	}
	return r.WithContext(request.WithRequestInfo(r.Context(), info))
}

func watchPath(path, selector string) string {
	return path + "?" + url.Values{"watch": {"true"}, "fieldSelector": {selector}}.Encode()
}

func costOf(fc flowcontrol.Interface, r *http.Request) flowcontrolrequest.WorkEstimate {
	estimate := flowcontrolrequest.NewWorkEstimator(
		flowcontrolrequest.NewStorageObjectCountTracker().Get, fc.GetInterestedWatchCount, flowcontrolrequest.DefaultWorkEstimatorConfig(), fc.GetMaxSeats)
	return estimate(r, "", "")
}

func TestWorkEstimateEqualsThatOfPods(t *testing.T) {
	const watches = 10_000
	tracked, plain, wrapped := upstream(), upstream(), ours()
	for i := range watches {
		tracked.RegisterWatch(newRequest(t, http.MethodGet, watchPath(pods, fmt.Sprintf("spec.nodeName=w-%d", i))))
		r := newRequest(t, http.MethodGet, watchPath(tasks, fmt.Sprintf("spec.workerName=w-%d", i)))
		plain.RegisterWatch(r)
		wrapped.RegisterWatch(r)
	}
	for _, fc := range []struct {
		flowcontrol.Interface
		path string
	}{{tracked, pods}, {plain, tasks}, {wrapped, tasks}} { // watches of the scheduler and the controllers
		fc.RegisterWatch(newRequest(t, http.MethodGet, watchPath(fc.path, "")))
	}

	for _, write := range []struct{ method, path string }{
		{http.MethodPost, ""},
		{http.MethodPut, "/name/status"},
		{http.MethodPost, "/name/binding"},
		{http.MethodPatch, "/name"},
		{http.MethodDelete, "/name"},
	} {
		podWrite, taskWrite := newRequest(t, write.method, pods+write.path), newRequest(t, write.method, tasks+write.path)
		if got, want := costOf(wrapped, taskWrite), costOf(tracked, podWrite); got != want {
			t.Errorf("%s %s: got %+v, want %+v as for pods", write.method, write.path, got, want)
		}
		// Upstream's estimate is 10,000 watches at 10 a seat, for 5 ms each.
		if cost := costOf(plain, taskWrite); float64(cost.FinalSeats)*cost.AdditionalLatency.Seconds() < 5 {
			t.Errorf("%s %s: upstream estimates %+v, so the wrapper is not needed", write.method, write.path, cost)
		}
	}
}

func TestGetInterestedWatchCount(t *testing.T) {
	const otherGroup = "/apis/tekton.dev/v1/namespaces/ns/tasks"
	for name, test := range map[string]struct {
		watch, write string
		want         int
	}{
		"one value":                   {watchPath(tasks, "spec.workerName=w"), tasks, 0},
		"one value and more":          {watchPath(tasks, "status.phase!=Failed,spec.workerName=w"), tasks, 0},
		"one value of all namespaces": {watchPath("/apis/batch.leat.dev/v1alpha1/tasks", "spec.workerName=w"), tasks, 0},
		"one value, any version":      {watchPath("/apis/batch.leat.dev/v1beta1/namespaces/ns/tasks", "spec.workerName=w"), tasks, 0},
		"one value, the old path":     {"/apis/batch.leat.dev/v1alpha1/watch/namespaces/ns/tasks?fieldSelector=spec.workerName%3Dw", tasks, 0},
		"no selector":                 {tasks + "?watch=true", tasks, 1},
		"no selector, the old path":   {"/apis/batch.leat.dev/v1alpha1/watch/namespaces/ns/tasks", tasks, 1},
		"the empty value":             {watchPath(tasks, "spec.workerName="), tasks, 1},
		"all values but one":          {watchPath(tasks, "spec.workerName!=w"), tasks, 1},
		"another field":               {watchPath(tasks, "spec.queueName=w"), tasks, 1},
		"a label":                     {tasks + "?watch=true&labelSelector=spec.workerName%3Dw", tasks, 1},
		"undecodable":                 {tasks + "?watch=true&fieldSelector=spec.workerName%3Dw&timeoutSeconds=x", tasks, 1},
		"one name":                    {watchPath(tasks, "metadata.name=t"), tasks + "/t", 1},
		"another name":                {watchPath(tasks, "metadata.name=t"), tasks + "/u", 0},
		"another namespace":           {"/apis/batch.leat.dev/v1alpha1/namespaces/other/tasks?watch=true", tasks, 0},
		"another resource":            {watchPath("/apis/batch.leat.dev/v1alpha1/namespaces/ns/tasksets", "spec.workerName=w"), "/apis/batch.leat.dev/v1alpha1/namespaces/ns/tasksets", 1},
		"same resource, other group":  {watchPath(otherGroup, "spec.workerName=w"), otherGroup, 1},
		"pods":                        {watchPath(pods, "spec.nodeName=w"), pods, 0},
	} {
		t.Run(name, func(t *testing.T) {
			fc := ours()
			write := newRequest(t, http.MethodPut, test.write)
			info, _ := request.RequestInfoFrom(write.Context())
			forget := fc.RegisterWatch(newRequest(t, http.MethodGet, test.watch))
			if forget == nil {
				t.Fatal("RegisterWatch returned no ForgetWatchFunc")
			}
			if got := fc.GetInterestedWatchCount(info); got != test.want {
				t.Errorf("got %d, want %d", got, test.want)
			}
			forget()
			if got := fc.GetInterestedWatchCount(info); got != 0 {
				t.Errorf("got %d after the watch was forgotten", got)
			}
		})
	}
}

func TestOnlyWatchesAreRegistered(t *testing.T) {
	if forget := ours().RegisterWatch(newRequest(t, http.MethodGet, tasks+"?fieldSelector=spec.workerName%3Dw")); forget != nil {
		t.Error("a list is counted as a watch")
	}
}

func TestNilDelegate(t *testing.T) {
	if fc := WithTrigger(nil, schema.GroupResource{}, "spec.workerName"); fc != nil {
		t.Errorf("got %v, want nil", fc)
	}
}

// recorder records the last work estimate of a handler chain.
type recorder struct {
	flowcontrol.Interface
	last atomic.Pointer[flowcontrolrequest.WorkEstimate]
}

func (r *recorder) Handle(ctx context.Context, digest flowcontrol.RequestDigest,
	note func(*flowcontrolv1.FlowSchema, *flowcontrolv1.PriorityLevelConfiguration, string),
	estimate func() flowcontrolrequest.WorkEstimate, queue fairqueuing.QueueNoteFn, execute func()) {
	r.Interface.Handle(ctx, digest, note, func() flowcontrolrequest.WorkEstimate {
		e := estimate()
		r.last.Store(&e)
		return e
	}, queue, execute)
}

// TestHandlerChain sends watches and a write through the handler chain of a server.
func TestHandlerChain(t *testing.T) {
	const watches = 20 // upstream does not charge for fewer than 10
	for name, test := range map[string]struct {
		selector func(i int) string
		want     uint64
	}{
		"by trigger":     {func(i int) string { return fmt.Sprintf("spec.workerName=w-%d", i) }, 0},
		"by other field": {func(i int) string { return fmt.Sprintf("spec.queueName=q-%d", i) }, 2},
	} {
		t.Run(name, func(t *testing.T) {
			fc := &recorder{Interface: ours()}
			config := server.NewConfig(serializer.NewCodecFactory(runtime.NewScheme()))
			config.FlowControl = fc
			config.FeatureGate = utilfeature.DefaultFeatureGate
			config.RequestInfoResolver = resolver
			config.Authorization.Authorizer = authorizerfactory.NewAlwaysAllowAuthorizer()
			config.Authentication.Authenticator = authenticator.RequestFunc(func(*http.Request) (*authenticator.Response, bool, error) {
				return &authenticator.Response{User: &user.DefaultInfo{Name: "someone", Groups: []string{user.AllAuthenticated}}}, true, nil
			})
			chain := httptest.NewServer(config.BuildHandlerChainFunc(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if info, _ := request.RequestInfoFrom(r.Context()); info.Verb == "watch" {
					flowcontrol.WatchInitialized(r.Context())
					w.WriteHeader(http.StatusOK)
					w.(http.Flusher).Flush()
					<-r.Context().Done()
				}
			}), config))
			defer chain.Close()

			do := func(method, path string) *http.Response {
				r, err := http.NewRequestWithContext(t.Context(), method, chain.URL+path, nil)
				if err != nil {
					t.Fatal(err)
				}
				response, err := chain.Client().Do(r)
				if err != nil {
					t.Fatal(err)
				}
				if response.StatusCode != http.StatusOK {
					t.Fatalf("%s %s: %s", method, path, response.Status)
				}
				return response
			}
			for i := range watches {
				defer do(http.MethodGet, watchPath(tasks, test.selector(i))).Body.Close()
			}
			do(http.MethodPut, tasks+"/name").Body.Close()
			if got := fc.last.Load(); got == nil || got.FinalSeats != test.want {
				t.Errorf("got %+v, want %d final seats", got, test.want)
			}
		})
	}
}
