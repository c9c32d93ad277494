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
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/leat-dev/leat/test/kit"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/watch"
)

// readRules are about what GET, LIST and WATCH give.
var readRules = []rule{
	{name: "a list holds what GET gives", check: listIsGet},
	{name: "lists come in pieces", check: listsInPieces},
	{name: "label selectors", check: labelSelectors},
	{name: "field selectors", check: fieldSelectors},
	{name: "tables", check: tables},
	{name: "metadata alone", check: metadataAlone},
	{name: "watch", check: watches, only: func(k *kind) bool { return !k.unwatched }},
	{name: "no watch", check: unwatchedRefusesWatch, only: func(k *kind) bool { return k.unwatched }},
}

// names gives the names that a list with the options has, in order.
func (s *scene) names(options metav1.ListOptions) []string {
	s.Helper()
	names := []string{}
	for _, item := range kit.Must(s.objects.List(s.Context(), options))(s).Items {
		names = append(names, item.GetName())
	}
	return names
}

func listIsGet(s *scene) {
	s.create("a", `{"metadata": {"labels": {"a": "b"}, "annotations": {"a": "b"}, "finalizers": ["example.com/one"]}}`)
	last := s.create("b")
	if s.status.path != "" {
		last = kit.Must(s.mergePatch("b", nested(s.status.path, s.status.one), "status"))(s)
	}
	for _, options := range []metav1.ListOptions{
		{}, // from etcd, or from a cache that has caught up
		{Limit: 10},
		{ResourceVersion: last.GetResourceVersion(), ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan}, // from the watch cache
		{ResourceVersion: last.GetResourceVersion(), ResourceVersionMatch: metav1.ResourceVersionMatchExact, Limit: 10},
	} {
		list := kit.Must(s.objects.List(s.Context(), options))(s)
		mustEqual(s, "the kind of the list", list.GetKind(), s.kind.kind+"List")
		if len(list.Items) != 2 {
			s.Fatalf("got %d items, want 2", len(list.Items))
		}
		for _, item := range list.Items {
			mustEqual(s, fmt.Sprintf("%s in the list of %+v", item.GetName(), options), &item, s.get(item.GetName()))
			cached := kit.Must(s.objects.Get(s.Context(), item.GetName(), metav1.GetOptions{ResourceVersion: "0"}))(s)
			mustEqual(s, item.GetName()+" from the cache", &item, cached)
		}
	}
}

func listsInPieces(s *scene) {
	for _, name := range []string{"a", "b", "c"} {
		s.create(name)
	}
	first := kit.Must(s.objects.List(s.Context(), metav1.ListOptions{Limit: 2}))(s)
	if len(first.Items) != 2 || first.GetContinue() == "" || first.GetRemainingItemCount() == nil || *first.GetRemainingItemCount() != 1 {
		s.Fatalf("got %d items, continue %q, remaining %v; want 2, something and 1", len(first.Items), first.GetContinue(), first.GetRemainingItemCount())
	}
	s.create("bb") // past the version of the list
	rest := kit.Must(s.objects.List(s.Context(), metav1.ListOptions{Limit: 2, Continue: first.GetContinue()}))(s)
	if len(rest.Items) != 1 || rest.Items[0].GetName() != "c" || rest.GetContinue() != "" || rest.GetResourceVersion() != first.GetResourceVersion() {
		s.Errorf("the rest is %v at %s, want c at %s", rest.Items, rest.GetResourceVersion(), first.GetResourceVersion())
	}
	_, err := s.objects.List(s.Context(), metav1.ListOptions{Limit: 2, Continue: "bogus"})
	refused(s, err, http.StatusBadRequest, "continue")
}

func labelSelectors(s *scene) {
	s.create("a", `{"metadata": {"labels": {"x": "1"}}}`)
	s.create("b", `{"metadata": {"labels": {"x": "2"}}}`)
	s.create("c")
	for selector, want := range map[string][]string{
		"x=1": {"a"}, "x!=1": {"b", "c"}, "x in (1,2)": {"a", "b"}, "!x": {"c"}, "x": {"a", "b"}, "x=3": {},
	} {
		mustEqual(s, selector, s.names(metav1.ListOptions{LabelSelector: selector}), want)
	}
	_, err := s.objects.List(s.Context(), metav1.ListOptions{LabelSelector: "x in"})
	refused(s, err, http.StatusBadRequest)
}

func fieldSelectors(s *scene) {
	s.create("a")
	s.create("b")
	both, none := []string{"a", "b"}, []string{}
	cases := map[string][]string{
		"metadata.name=a": {"a"}, "metadata.name!=a": {"b"}, "metadata.name=x": none,
		"metadata.namespace=" + s.namespace: both, "metadata.namespace=elsewhere": none,
	}
	for field, value := range s.selectable {
		cases[field+"="+value] = both
		cases[field+"!="+value] = none
		cases[field+"=other"] = none
		cases[field+"="+value+",metadata.name=b"] = []string{"b"}
	}
	for selector, want := range cases {
		mustEqual(s, selector, s.names(metav1.ListOptions{FieldSelector: selector}), want)
		mustEqual(s, selector+" from the cache", s.names(metav1.ListOptions{FieldSelector: selector, ResourceVersion: "0"}), want)
	}

	supported := []string{"metadata.name", "metadata.namespace"}
	for field := range s.selectable {
		supported = append(supported, field)
	}
	for _, field := range []string{"spec.bogus", strings.Split(s.spec.path, "[")[0]} {
		_, err := s.objects.List(s.Context(), metav1.ListOptions{FieldSelector: field + "=x"})
		refused(s, err, http.StatusBadRequest, append(supported, field)...)
		_, err = s.objects.Watch(s.Context(), metav1.ListOptions{FieldSelector: field + "=x"})
		if err == nil {
			s.Errorf("a watch of %s is not refused", field)
		}
		err = s.objects.DeleteCollection(s.Context(), metav1.DeleteOptions{}, metav1.ListOptions{FieldSelector: field + "=x"})
		refused(s, err, http.StatusBadRequest, field)
	}
}

// tableOf asks for a table.
func (s *scene) tableOf(path string) metav1.Table {
	s.Helper()
	answer := s.send(http.MethodGet, path, nil, "Accept", "application/json;as=Table;v=v1;g=meta.k8s.io").must(s, http.StatusOK)
	return parse[metav1.Table](s, string(answer.body))
}

func tables(s *scene) {
	s.create("a")
	s.create("b")
	for path, want := range map[string][]string{
		s.path():                         {"a", "b"},
		s.path() + "?limit=1":            {"a"},
		s.path("a"):                      {"a"},
		s.path() + "?includeObject=None": {"a", "b"},
	} {
		table := s.tableOf(path)
		var columns, wide []string
		for _, column := range table.ColumnDefinitions {
			if column.Priority == 0 {
				columns = append(columns, column.Name)
			} else {
				wide = append(wide, column.Name)
			}
			if column.Description == "" || !slices.Contains([]string{"string", "integer", "number", "boolean", "date"}, column.Type) {
				s.Errorf("column %s has the type %q and the description %q", column.Name, column.Type, column.Description)
			}
		}
		mustEqual(s, "the columns", columns, s.columns)
		mustEqual(s, "the wide columns", wide, s.wide)
		mustEqual(s, "the format of the first column", table.ColumnDefinitions[0].Format, "name")
		var rows []string
		for _, row := range table.Rows {
			if len(row.Cells) != len(table.ColumnDefinitions) {
				s.Errorf("a row has %d cells for %d columns: %v", len(row.Cells), len(table.ColumnDefinitions), row.Cells)
			}
			rows = append(rows, row.Cells[0].(string))
			if strings.Contains(path, "None") {
				continue
			}
			object := &unstructured.Unstructured{}
			kit.Check(s, object.UnmarshalJSON(row.Object.Raw))
			mustEqual(s, "the kind of a row's object", object.GetKind(), "PartialObjectMetadata")
			mustEqual(s, "the name of a row's object", object.GetName(), row.Cells[0])
		}
		mustEqual(s, "the rows of "+path, rows, want)
		if table.ResourceVersion == "" || strings.Contains(path, "limit") != (table.Continue != "") {
			s.Errorf("the table of %s is of version %q and goes on at %q", path, table.ResourceVersion, table.Continue)
		}
	}
}

func metadataAlone(s *scene) {
	obj := s.create("a", `{"metadata": {"labels": {"a": "b"}}}`)
	answer := s.send(http.MethodGet, s.path("a"), nil, "Accept", "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io").must(s, http.StatusOK)
	partial := &unstructured.Unstructured{}
	kit.Check(s, partial.UnmarshalJSON(answer.body))
	mustEqual(s, "the kind", partial.GetKind(), "PartialObjectMetadata")
	mustEqual(s, "the metadata", partial.Object["metadata"], obj.Object["metadata"])
	mustEqual(s, "the spec", partial.Object["spec"], nil)
}

// next gives the next event of a watch, or fails after a while.
func next(s *scene, w watch.Interface) watch.Event {
	s.Helper()
	select {
	case event, ok := <-w.ResultChan():
		if !ok {
			s.Fatal("the watch has ended")
		}
		return event
	case <-time.After(10 * time.Second):
		s.Fatal("nothing came in 10 s")
	}
	return watch.Event{}
}

func watches(s *scene) {
	s.create("there")
	list := kit.Must(s.objects.List(s.Context(), metav1.ListOptions{}))(s)
	w := kit.Must(s.objects.Watch(s.Context(), metav1.ListOptions{ResourceVersion: list.GetResourceVersion()}))(s)
	defer w.Stop()
	expect := func(kind watch.EventType, want *unstructured.Unstructured) {
		s.Helper()
		event := next(s, w)
		if kind == watch.Deleted && s.graceful {
			mustEqual(s, "the first step", event.Type, watch.Modified)
			event = next(s, w)
		}
		if event.Type != kind {
			s.Fatalf("got %s, want %s: %v", event.Type, kind, event.Object)
		}
		got := event.Object.(*unstructured.Unstructured)
		if kind == watch.Deleted { // it has the version of the deletion
			mustEqual(s, "the object deleted", got.GetName(), want.GetName())
			return
		}
		mustEqual(s, string(kind), got, want)
	}
	created := s.create("a")
	expect(watch.Added, created)
	changed := kit.Must(s.mergePatch("a", nested(s.spec.path, s.spec.one)))(s)
	expect(watch.Modified, changed)
	if s.status.path != "" {
		changed = kit.Must(s.mergePatch("a", nested(s.status.path, s.status.one), "status"))(s)
		expect(watch.Modified, changed)
	}
	kit.Check(s, s.objects.Delete(s.Context(), "a", metav1.DeleteOptions{}))
	expect(watch.Deleted, changed)

	// A list by watch: what there is, then a bookmark that says so.
	stream := kit.Must(s.objects.Watch(s.Context(), metav1.ListOptions{
		SendInitialEvents: new(true), AllowWatchBookmarks: true, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan,
	}))(s)
	defer stream.Stop()
	if event := next(s, stream); event.Type != watch.Added || event.Object.(*unstructured.Unstructured).GetName() != "there" {
		s.Errorf("got %s of %v, want what there is", event.Type, event.Object)
	}
	event := next(s, stream)
	bookmark, ok := event.Object.(*unstructured.Unstructured)
	if !ok || event.Type != watch.Bookmark || bookmark.GetAnnotations()[metav1.InitialEventsAnnotationKey] != "true" {
		s.Errorf("got %s of %v, want the bookmark that ends the initial events", event.Type, event.Object)
	}

	// Selectors hold for watches too: an object that no longer matches is deleted for who watches.
	for field, value := range s.selectable {
		fits := kit.Must(s.objects.Watch(s.Context(), metav1.ListOptions{FieldSelector: field + "=" + value}))(s)
		defer fits.Stop()
		if event := next(s, fits); event.Type != watch.Added || event.Object.(*unstructured.Unstructured).GetName() != "there" {
			s.Errorf("a watch of %s=%s begins with %s of %v", field, value, event.Type, event.Object)
		}
	}
	selected := kit.Must(s.objects.Watch(s.Context(), metav1.ListOptions{LabelSelector: "!gone"}))(s)
	defer selected.Stop()
	mustEqual(s, "the first event", next(s, selected).Type, watch.Added)
	kit.Must(s.mergePatch("there", `{"metadata": {"labels": {"gone": ""}}}`))(s)
	if event := next(s, selected); event.Type != watch.Deleted {
		s.Errorf("got %s for an object that no longer matches, want %s", event.Type, watch.Deleted)
	}
}
