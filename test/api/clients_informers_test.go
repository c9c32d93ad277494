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

package api

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	clientfeatures "k8s.io/client-go/features"
	clientfeaturestesting "k8s.io/client-go/features/testing"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/generated/informers/externalversions"
	"github.com/leat-dev/leat/pkg/generated/kinds"
	"github.com/leat-dev/leat/test/api/scenario"
	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/await"
)

const watched = ";stream=watch"

// libraries lists the kinds of informers of tasks, with the media type of each.
var libraries = []struct {
	name, mediaType string
	informer        func(t *testing.T, config *rest.Config, namespace string, tweak func(*metav1.ListOptions)) cache.SharedIndexInformer
}{
	{"typed", runtime.ContentTypeProtobuf, func(t *testing.T, config *rest.Config, namespace string, tweak func(*metav1.ListOptions)) cache.SharedIndexInformer {
		return externalversions.NewSharedInformerFactoryWithOptions(kit.Client(t, config), 0,
			externalversions.WithNamespace(namespace), externalversions.WithTweakListOptions(tweak)).Batch().V1alpha1().Tasks().Informer()
	}},
	{"dynamic", runtime.ContentTypeJSON, func(t *testing.T, config *rest.Config, namespace string, tweak func(*metav1.ListOptions)) cache.SharedIndexInformer {
		client, err := dynamic.NewForConfig(config)
		kit.Check(t, err)
		return dynamicinformer.NewFilteredDynamicInformer(client, batch.SchemeGroupVersion.WithResource("tasks"), namespace, 0, nil, tweak).Informer()
	}},
	{"metadata", runtime.ContentTypeProtobuf, func(t *testing.T, config *rest.Config, namespace string, tweak func(*metav1.ListOptions)) cache.SharedIndexInformer {
		client, err := metadata.NewForConfig(config)
		kit.Check(t, err)
		return metadatainformer.NewFilteredMetadataInformer(client, batch.SchemeGroupVersion.WithResource("tasks"), namespace, 0, nil, tweak).Informer()
	}},
}

// testInformers runs the scenario with two informers of each library: of all tasks of the namespace, and of one worker.
func testInformers(t *testing.T, e *kit.Env, watchList bool) {
	clientfeaturestesting.SetFeatureDuringTest(t, clientfeatures.WatchListClient, watchList)
	namespace := e.Namespace(t)
	var all, bound []*scenario.Observer
	var start []func()
	traffic := map[string]*scenario.Traffic{}
	for _, library := range libraries {
		traffic[library.name] = &scenario.Traffic{}
		config := traffic[library.name].Wrap(e.Admin(t))
		everything := library.informer(t, config, namespace, func(*metav1.ListOptions) {})
		// A worker connects to the server itself, and may list only its own tasks.
		workers := library.informer(t, traffic[library.name].Wrap(e.Worker(t, namespace, scenario.Worker)), namespace, func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector("spec.workerName", scenario.Worker).String()
		})
		allObserver, boundObserver := &scenario.Observer{Name: library.name}, &scenario.Observer{Name: library.name + " of a worker"}
		all, bound = append(all, allObserver), append(bound, boundObserver)
		for informer, objects := range map[cache.SharedIndexInformer]*scenario.Observer{everything: allObserver, workers: boundObserver} {
			_, err := informer.AddEventHandler(objects.Handler())
			kit.Check(t, err)
			start = append(start, func() { go informer.RunWithContext(t.Context()) })
		}
	}
	scenario.Run(t, e, namespace, all, bound, func() {
		for _, start := range start {
			start()
		}
	})

	for _, library := range libraries {
		lists, early, streams, initial := 0, 0, 0, 0
		for _, exchange := range traffic[library.name].Exchanges() {
			want := library.mediaType
			switch {
			case exchange.Query.Get("watch") == "":
				if lists++; initial < 2 {
					early++
				}
			case exchange.Query.Get("sendInitialEvents") == "true":
				initial++
				want += streamOf(want)
			default:
				streams++
				want += streamOf(want)
			}
			if exchange.Received != want {
				t.Errorf("%s: %s %s?%s: got %s, want %s", library.name, exchange.Method, exchange.Path, exchange.Query.Encode(), exchange.Received, want)
			}
		}
		switch {
		// After the restart, an informer may fall back to a list, for example on 429 of a starting server.
		case watchList && (initial < 2 || early > 0):
			t.Errorf("%s with WatchList: got %d watches with initial events, want at least 2, and %d lists before them, want 0", library.name, initial, early)
		case !watchList && (lists < 2 || streams < 2 || initial > 0):
			t.Errorf("%s without WatchList: got %d lists, %d watches and %d watches with initial events, want at least 2, at least 2 and 0", library.name, lists, streams, initial)
		}
	}
}

// streamOf returns the parameter of the media type of a watch. JSON has none: it needs no frames.
func streamOf(mediaType string) string {
	if mediaType == runtime.ContentTypeJSON {
		return ""
	}
	return watched
}

// testAllKindsInformers runs informers of all watched kinds in all namespaces, as the controller manager does.
func testAllKindsInformers(t *testing.T, e *kit.Env) {
	namespace := e.Namespace(t)
	traffic := &scenario.Traffic{}
	factory := externalversions.NewSharedInformerFactory(kit.Client(t, traffic.Wrap(e.Controller(t))), 0)
	all := map[string]cache.SharedIndexInformer{}
	for _, kind := range kinds.All {
		if kind.Watched {
			all[kind.Resource] = kit.Must(factory.ForResource(batch.SchemeGroupVersion.WithResource(kind.Resource)))(t).Informer()
		}
	}
	factory.StartWithContext(t.Context())
	if synced := factory.WaitForCacheSyncWithContext(t.Context()); synced.Err != nil {
		t.Fatal(synced.Err)
	}

	client := kit.Client(t, e.Admin(t)).BatchV1alpha1()
	meta := metav1.ObjectMeta{Name: "w-aaaaa"}
	run := batch.TaskSpec{Command: []string{"sleep"}}
	_, err := client.Tasks(namespace).Create(t.Context(), &batch.Task{ObjectMeta: meta, Spec: run}, metav1.CreateOptions{})
	kit.Check(t, err)
	_, err = client.TaskSets(namespace).Create(t.Context(), &batch.TaskSet{ObjectMeta: meta, Spec: batch.TaskSetSpec{Template: batch.TaskTemplateSpec{Spec: run}}}, metav1.CreateOptions{})
	kit.Check(t, err)
	_, err = client.TaskQueues(namespace).Create(t.Context(), &batch.TaskQueue{ObjectMeta: meta}, metav1.CreateOptions{})
	kit.Check(t, err)
	worker := kit.Client(t, e.Worker(t, namespace, meta.Name)).BatchV1alpha1()
	_, err = worker.Workers(namespace).Create(t.Context(), &batch.Worker{ObjectMeta: meta}, metav1.CreateOptions{})
	kit.Check(t, err)
	for kind, informer := range all {
		kit.Eventually(t, "the informer of "+kind+" has the object", func(context.Context) error {
			_, found, err := informer.GetStore().GetByKey(namespace + "/" + meta.Name)
			if err == nil && !found {
				err = await.ErrNotYet
			}
			return err
		})
	}
	for _, exchange := range traffic.Exchanges() {
		if exchange.Received != runtime.ContentTypeProtobuf+watched {
			t.Errorf("%s %s: got %s, want a watch in protobuf", exchange.Method, exchange.Path, exchange.Received)
		}
	}

	// Leases have no watch. They are listed.
	_, err = worker.WorkerLeases(namespace).Create(t.Context(), &batch.WorkerLease{ObjectMeta: meta}, metav1.CreateOptions{})
	kit.Check(t, err)
	leases, err := kit.Client(t, e.Controller(t)).BatchV1alpha1().WorkerLeases(namespace).List(t.Context(), metav1.ListOptions{ResourceVersion: "0"})
	kit.Check(t, err)
	if len(leases.Items) != 1 || *leases.Items[0].Spec.LeaseDurationSeconds != 40 {
		t.Errorf("got leases %v, want one of 40 seconds", leases.Items)
	}
}

// expectProtobuf checks that all bodies are protobuf. Patches have formats of their own.
func expectProtobuf(t *testing.T, traffic *scenario.Traffic, atLeast int) {
	t.Helper()
	exchanges := traffic.Exchanges()
	if len(exchanges) < atLeast {
		t.Errorf("got %d exchanges, want at least %d", len(exchanges), atLeast)
	}
	for _, exchange := range exchanges {
		sent := []string{"", runtime.ContentTypeProtobuf}
		if exchange.Method == http.MethodPatch {
			sent = []string{"application/apply-patch+yaml", "application/merge-patch+json"}
		}
		if !slices.Contains(sent, exchange.Sent) || !strings.HasPrefix(exchange.Received, runtime.ContentTypeProtobuf) {
			t.Errorf("%s %s: sent %q and received %q, want protobuf", exchange.Method, exchange.Path, exchange.Sent, exchange.Received)
		}
	}
}
