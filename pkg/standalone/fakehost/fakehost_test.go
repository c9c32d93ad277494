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

package fakehost

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	k8sruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/util/flowcontrol"
	fcrequest "k8s.io/apiserver/pkg/util/flowcontrol/request"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	clientfeatures "k8s.io/client-go/features"
	clientfeaturestesting "k8s.io/client-go/features/testing"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
)

// counter counts requests by verb and path.
type counter struct {
	lock sync.Mutex
	seen map[string]int
}

func (c *counter) wrap(next http.RoundTripper) http.RoundTripper {
	return roundTripperFunc(func(req *http.Request) (*http.Response, error) {
		key := req.Method + " " + req.URL.Path
		if req.URL.Query().Get("watch") == "true" {
			key = "WATCH " + req.URL.Path
		}
		c.lock.Lock()
		if c.seen == nil {
			c.seen = map[string]int{}
		}
		c.seen[key]++
		c.lock.Unlock()
		return next.RoundTrip(req)
	})
}

func (c *counter) counts() map[string]int {
	c.lock.Lock()
	defer c.lock.Unlock()
	counts := map[string]int{}
	for key, count := range c.seen {
		counts[key] = count
	}
	return counts
}

type roundTripperFunc func(*http.Request) (*http.Response, error)

func (f roundTripperFunc) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// contents are the content types that clients of client-go request.
var contents = map[string]rest.ContentConfig{
	"default":  {},
	"protobuf": {ContentType: k8sruntime.ContentTypeProtobuf},
	"protobuf or JSON": {
		ContentType:        k8sruntime.ContentTypeProtobuf,
		AcceptContentTypes: k8sruntime.ContentTypeProtobuf + "," + k8sruntime.ContentTypeJSON,
	},
	"CBOR": {ContentType: k8sruntime.ContentTypeCBOR, AcceptContentTypes: k8sruntime.ContentTypeCBOR + "," + k8sruntime.ContentTypeJSON},
}

func TestTypedClients(t *testing.T) {
	for name, content := range contents {
		t.Run(name, func(t *testing.T) {
			config := NewConfig(noOpenAPI)
			config.ContentConfig = content
			client := kubernetes.NewForConfigOrDie(config)
			ctx := t.Context()

			quotas, err := client.CoreV1().ResourceQuotas("default").List(ctx, metav1.ListOptions{})
			if err != nil || len(quotas.Items) != 0 || quotas.ResourceVersion == "" {
				t.Errorf("list = %v, %v; want an empty one with a resource version", quotas, err)
			}
			ns, err := client.CoreV1().Namespaces().Get(ctx, "team-a", metav1.GetOptions{})
			if err != nil || ns.Name != "team-a" || ns.Status.Phase != corev1.NamespaceActive || ns.DeletionTimestamp != nil {
				t.Errorf("namespace = %v, %v; want team-a, active", ns, err)
			}
			for what, call := range map[string]func() error{
				"namespace with a bad name": func() error {
					_, err := client.CoreV1().Namespaces().Get(ctx, "Not.A.Label", metav1.GetOptions{})
					return err
				},
				"get": func() error {
					_, err := client.CoreV1().Secrets("team-a").Get(ctx, "s", metav1.GetOptions{})
					return err
				},
				"create": func() error {
					_, err := client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "n"}}, metav1.CreateOptions{})
					return err
				},
				"update": func() error {
					_, err := client.CoreV1().Namespaces().UpdateStatus(ctx, ns, metav1.UpdateOptions{})
					return err
				},
				"delete": func() error { return client.CoreV1().Namespaces().Delete(ctx, "team-a", metav1.DeleteOptions{}) },
				"review": func() error {
					_, err := client.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{}, metav1.CreateOptions{})
					return err
				},
				"non-resource": func() error { return client.Discovery().RESTClient().Get().AbsPath("/healthz").Do(ctx).Error() },
			} {
				if err := call(); !apierrors.IsNotFound(err) {
					t.Errorf("%s: error %v, want not found", what, err)
				}
			}
		})
	}
}

func TestListKinds(t *testing.T) {
	client := dynamic.NewForConfigOrDie(NewConfig(noOpenAPI))
	for resource, want := range map[schema.GroupVersionResource]schema.GroupVersionKind{
		corev1.SchemeGroupVersion.WithResource("namespaces"):                                   corev1.SchemeGroupVersion.WithKind("NamespaceList"),
		corev1.SchemeGroupVersion.WithResource("endpoints"):                                    corev1.SchemeGroupVersion.WithKind("EndpointsList"),
		admissionregistrationv1.SchemeGroupVersion.WithResource("validatingadmissionpolicies"): admissionregistrationv1.SchemeGroupVersion.WithKind("ValidatingAdmissionPolicyList"),
		{Group: "networking.k8s.io", Version: "v1", Resource: "ingresses"}:                     {Group: "networking.k8s.io", Version: "v1", Kind: "IngressList"},
		{Group: "example.com", Version: "v1", Resource: "params"}:                              {Group: "example.com", Version: "v1", Kind: "paramsList"},
	} {
		list, err := client.Resource(resource).List(t.Context(), metav1.ListOptions{})
		if err != nil || list.GroupVersionKind() != want || len(list.Items) != 0 || list.GetResourceVersion() == "" {
			t.Errorf("%v: %v, %v; want an empty %v", resource, list, err, want)
		}
	}
}

func TestWatchStaysOpenUntilItEnds(t *testing.T) {
	for name, content := range contents {
		for _, initial := range []bool{false, true} {
			for _, byClient := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, sendInitialEvents=%v, stopped by client=%v", name, initial, byClient), func(t *testing.T) {
					config := NewConfig(noOpenAPI)
					config.ContentConfig = content
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					options := metav1.ListOptions{}
					if initial {
						options = metav1.ListOptions{SendInitialEvents: &initial, AllowWatchBookmarks: true, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan}
					}
					watcher, err := kubernetes.NewForConfigOrDie(config).CoreV1().Namespaces().Watch(ctx, options)
					if err != nil {
						t.Fatal(err)
					}
					defer watcher.Stop()
					if initial {
						event, _ := next(watcher, wait.ForeverTestTimeout)
						bookmark, ok := event.Object.(*corev1.Namespace)
						if event.Type != watch.Bookmark || !ok || bookmark.Annotations[metav1.InitialEventsAnnotationKey] != "true" || bookmark.ResourceVersion == "" {
							t.Fatalf("first event %v, want the bookmark that ends the initial events", event)
						}
					}
					if event, ended := next(watcher, 20*time.Millisecond); ended || event.Type != "" {
						t.Fatalf("event %v, ended=%v; want silence", event, ended)
					}
					if byClient {
						watcher.Stop()
					} else {
						cancel()
					}
					if event, ended := next(watcher, wait.ForeverTestTimeout); !ended {
						t.Fatalf("event %v; want the end", event)
					}
				})
			}
		}
	}
}

// next returns the next event of a watch, or the zero event after patience.
func next(watcher watch.Interface, patience time.Duration) (event watch.Event, ended bool) {
	select {
	case event, open := <-watcher.ResultChan():
		return event, !open
	case <-time.After(patience):
		return watch.Event{}, false
	}
}

func TestClosingAWatchEndsItsReads(t *testing.T) {
	resp, err := Transport{noOpenAPI}.RoundTrip(httptest.NewRequest(http.MethodGet, "/api/v1/namespaces?watch=true", nil))
	if err != nil {
		t.Fatal(err)
	}
	read := make(chan error, 1)
	go func() {
		_, err := io.ReadAll(resp.Body)
		read <- err
	}()
	if err := resp.Body.Close(); err != nil {
		t.Error(err)
	}
	select {
	case err := <-read:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(wait.ForeverTestTimeout):
		t.Error("still reading")
	}
}

func TestEndedContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	resp, err := Transport{noOpenAPI}.RoundTrip(httptest.NewRequestWithContext(ctx, http.MethodGet, "/api/v1/namespaces/a", nil))
	if !errors.Is(err, context.Canceled) {
		t.Errorf("answer %v, error %v; want the error of the context", resp, err)
	}
}

func TestDiscoveryIsEmpty(t *testing.T) {
	for _, legacy := range []bool{false, true} {
		client := discovery.NewDiscoveryClientForConfigOrDie(NewConfig(noOpenAPI))
		client.UseLegacyDiscovery = legacy
		groups, err := client.ServerGroups()
		if err != nil || len(groups.Groups) != 0 {
			t.Errorf("legacy=%v: groups %v, error %v; want none", legacy, groups, err)
		}
	}

	client := discovery.NewDiscoveryClientForConfigOrDie(NewConfig(noOpenAPI))
	groups, resources, err := client.ServerGroupsAndResources()
	if err != nil || len(groups) != 0 || len(resources) != 0 {
		t.Errorf("groups %v, resources %v, error %v; want none", groups, resources, err)
	}
	// Deferred mapping recurses without end on a cache that never becomes fresh.
	cache := memory.NewMemCacheClient(client)
	if _, _, err := cache.ServerGroupsAndResources(); err != nil || !cache.Fresh() {
		t.Fatalf("discovery cache is fresh: %v, %v; want it fresh", cache.Fresh(), err)
	}
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(cache)
	if _, err := mapper.RESTMapping(schema.GroupKind{Kind: "Namespace"}, "v1"); !meta.IsNoMatchError(err) {
		t.Errorf("mapping error %v, want no match", err)
	}
}

// TestInformers starts the informers that a server starts on its host. Each must sync with one list and one watch, stay
// at rest, and leave no goroutine behind when it is stopped.
func TestInformers(t *testing.T) {
	for _, watchList := range []bool{false, true} {
		t.Run(fmt.Sprintf("WatchListClient=%v", watchList), func(t *testing.T) {
			clientfeaturestesting.SetFeatureDuringTest(t, clientfeatures.WatchListClient, watchList)
			before := runtime.NumGoroutine()
			stop, cancel := context.WithCancel(t.Context())
			defer cancel()

			requests := &counter{}
			config := NewConfig(noOpenAPI)
			config.Wrap(requests.wrap)
			typed := informers.NewSharedInformerFactory(kubernetes.NewForConfigOrDie(config), 0)
			typed.Core().V1().Namespaces().Informer()
			typed.Core().V1().ResourceQuotas().Informer()
			typed.Admissionregistration().V1().ValidatingWebhookConfigurations().Informer()
			typed.Admissionregistration().V1().MutatingWebhookConfigurations().Informer()
			typed.Admissionregistration().V1().ValidatingAdmissionPolicies().Informer()
			typed.Admissionregistration().V1().ValidatingAdmissionPolicyBindings().Informer()
			untyped := dynamicinformer.NewDynamicSharedInformerFactory(dynamic.NewForConfigOrDie(config), 0)
			untyped.ForResource(corev1.SchemeGroupVersion.WithResource("configmaps"))
			untyped.ForResource(schema.GroupVersionResource{Group: "example.com", Version: "v1", Resource: "params"})
			fairness := flowcontrol.New(typed, kubernetes.NewForConfigOrDie(config).FlowcontrolV1(), 100)

			typed.Start(stop.Done())
			untyped.Start(stop.Done())
			fairnessDone := make(chan error, 1)
			go func() { fairnessDone <- fairness.Run(stop.Done()) }()

			limit, release := context.WithTimeout(stop, 5*time.Second)
			defer release()
			for kind, synced := range typed.WaitForCacheSync(limit.Done()) {
				if !synced {
					t.Errorf("%v did not sync", kind)
				}
			}
			for resource, synced := range untyped.WaitForCacheSync(limit.Done()) {
				if !synced {
					t.Errorf("%v did not sync", resource)
				}
			}
			for who, groups := range map[string][]string{"someone": {user.AllAuthenticated}, "admin": {user.SystemPrivilegedGroup}} {
				if level, err := serve(limit, fairness, who, groups); err != nil {
					t.Errorf("%s was not served: %v", who, err)
				} else if want := map[string]string{"someone": "catch-all", "admin": "exempt"}[who]; level != want {
					t.Errorf("%s was served by flow schema %q, want %q", who, level, want)
				}
			}

			// A watch that fails is retried within a second or so.
			err := wait.PollUntilContextTimeout(stop, 100*time.Millisecond, 1500*time.Millisecond, true, func(context.Context) (bool, error) {
				for request, count := range requests.counts() {
					listed := strings.HasPrefix(request, "GET ")
					if count != 1 || listed && watchList || !listed && !strings.HasPrefix(request, "WATCH ") {
						return false, fmt.Errorf("%d times %s", count, request)
					}
				}
				return false, nil
			})
			if !wait.Interrupted(err) {
				t.Errorf("not at rest: %v", err)
			}
			if got := len(requests.counts()); watchList && got != 10 || !watchList && got != 20 {
				t.Errorf("%d kinds of request for 10 informers: %v", got, requests.counts())
			}

			cancel()
			typed.Shutdown()
			untyped.Shutdown()
			if err := <-fairnessDone; err != nil {
				t.Errorf("fairness: %v", err)
			}
			if err := wait.PollUntilContextTimeout(t.Context(), 20*time.Millisecond, 10*time.Second, true, func(context.Context) (bool, error) {
				return runtime.NumGoroutine() <= before, nil
			}); err != nil {
				stacks := make([]byte, 1<<20)
				t.Errorf("%d goroutines before, %d after:\n%s", before, runtime.NumGoroutine(), stacks[:runtime.Stack(stacks, true)])
			}
		})
	}
}

// serve passes a request through fairness and returns the flow schema that took it.
func serve(ctx context.Context, fairness flowcontrol.Interface, name string, groups []string) (string, error) {
	var schema string
	done := make(chan error, 1)
	go func() {
		err := errors.New("rejected")
		fairness.Handle(ctx,
			flowcontrol.RequestDigest{
				RequestInfo: &request.RequestInfo{IsResourceRequest: true, Verb: "get", APIGroup: "batch.leat.dev", Resource: "tasks", Namespace: "team-a"},
				User:        &user.DefaultInfo{Name: name, Groups: groups},
			},
			func(fs *flowcontrolv1.FlowSchema, _ *flowcontrolv1.PriorityLevelConfiguration, _ string) {
				schema = fs.Name
			},
			func() fcrequest.WorkEstimate { return fcrequest.WorkEstimate{InitialSeats: 1} },
			func(bool) {},
			func() { err = nil },
		)
		done <- err
	}()
	select {
	case err := <-done:
		return schema, err
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

func noOpenAPI() http.Handler { return nil }

func TestOpenAPI(t *testing.T) {
	var handler http.Handler
	config := NewConfig(func() http.Handler { return handler })
	client := discovery.NewDiscoveryClientForConfigOrDie(config).OpenAPIV3()
	if paths, err := client.Paths(); err != nil || len(paths) != 0 {
		t.Errorf("before there is a handler: paths %v, %v; want none", paths, err)
	}
	handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if _, err := io.WriteString(w, `{"paths":{"apis/batch.leat.dev/v1alpha1":{"serverRelativeURL":"/openapi/v3/apis/batch.leat.dev/v1alpha1"}}}`); err != nil {
			t.Error(err)
		}
	})
	if paths, err := client.Paths(); err != nil || len(paths) != 1 {
		t.Errorf("with a handler: paths %v, %v; want its one", paths, err)
	}
}
