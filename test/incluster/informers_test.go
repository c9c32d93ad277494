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

package incluster

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/cache"

	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/generated/informers/externalversions"
	"github.com/leat-dev/leat/pkg/generated/kinds"
	"github.com/leat-dev/leat/test/kit"
)

// mediaTypes is a transport that records the media types of all answers.
type mediaTypes struct {
	http.RoundTripper
	mu   sync.Mutex
	seen map[string]bool
}

func (m *mediaTypes) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := m.RoundTripper.RoundTrip(request)
	if err == nil {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.seen[response.Header.Get("Content-Type")] = true
	}
	return response, err
}

// testInformers checks that generated informers list and watch in protobuf, with an aggregator in between or without.
func testInformers(t *testing.T, e *kit.Env) {
	namespace := e.Namespace(t)
	config := e.Admin(t)
	config.ContentType = runtime.ContentTypeProtobuf
	config.AcceptContentTypes = runtime.ContentTypeProtobuf
	types := &mediaTypes{seen: map[string]bool{}}
	config.Wrap(func(inner http.RoundTripper) http.RoundTripper {
		types.RoundTripper = inner
		return types
	})
	client := kit.Client(t, config)
	tasks := client.BatchV1alpha1().Tasks(namespace)
	kit.Must(tasks.Create(t.Context(), kit.NewTask("before"), metav1.CreateOptions{}))(t)

	events := make(chan string, 16)
	ctx, stop := context.WithCancel(t.Context())
	factory := externalversions.NewSharedInformerFactoryWithOptions(client, 0, externalversions.WithNamespace(namespace))
	informer := factory.Batch().V1alpha1().Tasks().Informer()
	name := func(obj any) string { return obj.(*v1alpha1.Task).Name }
	kit.Must(informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { events <- "added " + name(obj) },
		UpdateFunc: func(_, obj any) { events <- "updated " + name(obj) },
		DeleteFunc: func(obj any) { events <- "deleted " + name(obj) },
	}))(t)
	informers := map[string]cache.SharedIndexInformer{}
	for _, kind := range kinds.All {
		if kind.Watched {
			informers[kind.Resource] = kit.Must(factory.ForResource(v1alpha1.SchemeGroupVersion.WithResource(kind.Resource)))(t).Informer()
		}
	}
	factory.Start(ctx.Done())
	defer factory.Shutdown()
	defer stop()
	for kind, informer := range informers {
		if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
			t.Errorf("the informer of %s has not synced", kind)
		}
	}
	expect := func(want string) {
		t.Helper()
		var got string
		kit.Eventually(t, "there is an event", func(context.Context) error {
			select {
			case got = <-events:
				return nil
			default:
				return fmt.Errorf("no event, want %q", want)
			}
		})
		if got != want {
			t.Errorf("event: got %q, want %q", got, want)
		}
	}
	expect("added before")
	after := kit.Must(tasks.Create(t.Context(), kit.NewTask("after"), metav1.CreateOptions{}))(t)
	expect("added after")
	after.Labels = map[string]string{"changed": "yes"}
	kit.Must(tasks.Update(t.Context(), after, metav1.UpdateOptions{}))(t)
	expect("updated after")
	// A deletion of a task, like one of a Pod, first sets the deletion timestamp.
	kit.Check(t, tasks.Delete(t.Context(), "after", metav1.DeleteOptions{}))
	expect("updated after")
	expect("deleted after")

	types.mu.Lock()
	defer types.mu.Unlock()
	for mediaType := range types.seen {
		if mediaType != runtime.ContentTypeProtobuf && mediaType != runtime.ContentTypeProtobuf+";stream=watch" {
			t.Errorf("media type of an answer: got %s, want protobuf", mediaType)
		}
	}
}
