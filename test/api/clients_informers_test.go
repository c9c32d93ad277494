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
	"github.com/leat-dev/leat/test/api/scenario"
	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/await"
)

const watched = ";stream=watch"

// libraries are the ways to make an informer of tasks, and the media type that each speaks.
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

// testInformers follows the scenario with an informer of each library, of all tasks of the namespace and of one worker's.
func testInformers(t *testing.T, e *kit.Env, watchList bool) {
	clientfeaturestesting.SetFeatureDuringTest(t, clientfeatures.WatchListClient, watchList)
	namespace := e.Namespace(t)
	var all, bound []*scenario.Objects
	var start []func()
	wires := map[string]*scenario.Wire{}
	for _, library := range libraries {
		wires[library.name] = &scenario.Wire{}
		config := wires[library.name].On(e.Admin(t))
		everything := library.informer(t, config, namespace, func(*metav1.ListOptions) {})
		// A worker reaches the server itself, and may ask for its own tasks alone.
		workers := library.informer(t, wires[library.name].On(e.Worker(t, namespace, scenario.Worker)), namespace, func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector("spec.workerName", scenario.Worker).String()
		})
		allObjects, boundObjects := &scenario.Objects{Name: library.name}, &scenario.Objects{Name: library.name + " of a worker"}
		all, bound = append(all, allObjects), append(bound, boundObjects)
		for informer, objects := range map[cache.SharedIndexInformer]*scenario.Objects{everything: allObjects, workers: boundObjects} {
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
		for _, exchange := range wires[library.name].Exchanges() {
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
				t.Errorf("%s: %s %s?%s was answered in %s, want %s", library.name, exchange.Method, exchange.Path, exchange.Query.Encode(), exchange.Received, want)
			}
		}
		switch {
		// Who is told to come again, as by a server that is starting, lists instead: after the restart that may be.
		case watchList && (initial < 2 || early > 0):
			t.Errorf("%s: WatchList is on: %d streams with the initial events and, before both informers had one, %d lists were opened", library.name, initial, early)
		case !watchList && (lists < 2 || streams < 2 || initial > 0):
			t.Errorf("%s: WatchList is off: %d lists, %d streams and %d streams with the initial events were opened", library.name, lists, streams, initial)
		}
	}
}

// streamOf gives what the media type of a watch has besides: JSON needs no frames.
func streamOf(mediaType string) string {
	if mediaType == runtime.ContentTypeJSON {
		return ""
	}
	return watched
}

// testAllKindsInformers runs informers of all kinds that can be watched in all namespaces, as a controller does.
func testAllKindsInformers(t *testing.T, e *kit.Env) {
	namespace := e.Namespace(t)
	wire := &scenario.Wire{}
	factory := externalversions.NewSharedInformerFactory(kit.Client(t, wire.On(e.Controller(t))), 0)
	informers := factory.Batch().V1alpha1()
	all := map[string]cache.SharedIndexInformer{
		"tasks": informers.Tasks().Informer(), "tasksets": informers.TaskSets().Informer(),
		"taskqueues": informers.TaskQueues().Informer(), "workers": informers.Workers().Informer(),
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
	for _, exchange := range wire.Exchanges() {
		if exchange.Received != runtime.ContentTypeProtobuf+watched {
			t.Errorf("%s %s was answered in %s", exchange.Method, exchange.Path, exchange.Received)
		}
	}

	// Leases are listed instead.
	_, err = worker.WorkerLeases(namespace).Create(t.Context(), &batch.WorkerLease{ObjectMeta: meta}, metav1.CreateOptions{})
	kit.Check(t, err)
	leases, err := kit.Client(t, e.Controller(t)).BatchV1alpha1().WorkerLeases(namespace).List(t.Context(), metav1.ListOptions{ResourceVersion: "0"})
	kit.Check(t, err)
	if len(leases.Items) != 1 || *leases.Items[0].Spec.LeaseDurationSeconds != 40 {
		t.Errorf("leases: %v", leases.Items)
	}
}

// allProtobuf fails unless all that was sent and received, apart from patches, which have formats of their own, was protobuf.
func allProtobuf(t *testing.T, wire *scenario.Wire, atLeast int) {
	t.Helper()
	exchanges := wire.Exchanges()
	if len(exchanges) < atLeast {
		t.Errorf("only %d exchanges were seen", len(exchanges))
	}
	for _, exchange := range exchanges {
		sent := []string{"", runtime.ContentTypeProtobuf}
		if exchange.Method == http.MethodPatch {
			sent = []string{"application/apply-patch+yaml", "application/merge-patch+json"}
		}
		if !slices.Contains(sent, exchange.Sent) || !strings.HasPrefix(exchange.Received, runtime.ContentTypeProtobuf) {
			t.Errorf("%s %s sent %q and was answered in %q", exchange.Method, exchange.Path, exchange.Sent, exchange.Received)
		}
	}
}
