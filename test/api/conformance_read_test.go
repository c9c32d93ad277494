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

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/leat-dev/leat/test/kit"
)

// readRules are the rules of GET, LIST and WATCH.
var readRules = []rule{
	{name: "lists return the objects that GET returns", check: listsReturnWhatGetReturns},
	{name: "lists are paginated", check: pagination},
	{name: "label selectors", check: labelSelectors},
	{name: "field selectors", check: fieldSelectors},
	{name: "tables", check: tables},
	{name: "metadata only", check: metadataOnly},
	{name: "watch", check: watches, appliesTo: func(k *kind) bool { return !k.unwatched }},
	{name: "no watch", check: unwatchedRefusesWatch, appliesTo: func(k *kind) bool { return k.unwatched }},
}

// listNames returns the names of the objects of a list, in order.
func (s *subject) listNames(options metav1.ListOptions) []string {
	s.Helper()
	names := []string{}
	for _, item := range kit.Must(s.objects.List(s.Context(), options))(s).Items {
		names = append(names, item.GetName())
	}
	return names
}

func listsReturnWhatGetReturns(s *subject) {
	s.create("a", `{"metadata": {"labels": {"a": "b"}, "annotations": {"a": "b"}, "finalizers": ["example.com/one"]}}`)
	last := s.create("b")
	if s.status.path != "" {
		last = kit.Must(s.mergePatch("b", nestedJSON(s.status.path, s.status.one), "status"))(s)
	}
	for _, options := range []metav1.ListOptions{
		{}, // from etcd, or from a watch cache that is up to date
		{Limit: 10},
		{ResourceVersion: last.GetResourceVersion(), ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan}, // from the watch cache
		{ResourceVersion: last.GetResourceVersion(), ResourceVersionMatch: metav1.ResourceVersionMatchExact, Limit: 10},
	} {
		list := kit.Must(s.objects.List(s.Context(), options))(s)
		expectEqual(s, "the kind of the list", list.GetKind(), s.kind.kind+"List")
		if len(list.Items) != 2 {
			s.Fatalf("got %d items, want 2", len(list.Items))
		}
		for _, item := range list.Items {
			expectEqual(s, fmt.Sprintf("%s in the list of %+v", item.GetName(), options), &item, s.get(item.GetName()))
			cached := kit.Must(s.objects.Get(s.Context(), item.GetName(), metav1.GetOptions{ResourceVersion: "0"}))(s)
			expectEqual(s, item.GetName()+" from the cache", &item, cached)
		}
	}
}

func pagination(s *subject) {
	for _, name := range []string{"a", "b", "c"} {
		s.create(name)
	}
	first := kit.Must(s.objects.List(s.Context(), metav1.ListOptions{Limit: 2}))(s)
	if len(first.Items) != 2 || first.GetContinue() == "" || first.GetRemainingItemCount() == nil || *first.GetRemainingItemCount() != 1 {
		s.Fatalf("got %d items, continue %q, remainingItemCount %v; want 2 items, a token and 1", len(first.Items), first.GetContinue(), first.GetRemainingItemCount())
	}
	s.create("bb") // not in the rest: it is newer than the list
	rest := kit.Must(s.objects.List(s.Context(), metav1.ListOptions{Limit: 2, Continue: first.GetContinue()}))(s)
	if len(rest.Items) != 1 || rest.Items[0].GetName() != "c" || rest.GetContinue() != "" || rest.GetResourceVersion() != first.GetResourceVersion() {
		s.Errorf("got %v at version %s on the second page, want c at %s", rest.Items, rest.GetResourceVersion(), first.GetResourceVersion())
	}
	_, err := s.objects.List(s.Context(), metav1.ListOptions{Limit: 2, Continue: "bogus"})
	expectError(s, err, http.StatusBadRequest, "continue")
}

func labelSelectors(s *subject) {
	s.create("a", `{"metadata": {"labels": {"x": "1"}}}`)
	s.create("b", `{"metadata": {"labels": {"x": "2"}}}`)
	s.create("c")
	for selector, want := range map[string][]string{
		"x=1": {"a"}, "x!=1": {"b", "c"}, "x in (1,2)": {"a", "b"}, "!x": {"c"}, "x": {"a", "b"}, "x=3": {},
	} {
		expectEqual(s, selector, s.listNames(metav1.ListOptions{LabelSelector: selector}), want)
	}
	_, err := s.objects.List(s.Context(), metav1.ListOptions{LabelSelector: "x in"})
	expectError(s, err, http.StatusBadRequest)
}

func fieldSelectors(s *subject) {
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
		expectEqual(s, selector, s.listNames(metav1.ListOptions{FieldSelector: selector}), want)
		expectEqual(s, selector+" from the cache", s.listNames(metav1.ListOptions{FieldSelector: selector, ResourceVersion: "0"}), want)
	}

	supported := []string{"metadata.name", "metadata.namespace"}
	for field := range s.selectable {
		supported = append(supported, field)
	}
	for _, field := range []string{"spec.bogus", strings.Split(s.spec.path, "[")[0]} {
		_, err := s.objects.List(s.Context(), metav1.ListOptions{FieldSelector: field + "=x"})
		expectError(s, err, http.StatusBadRequest, append(supported, field)...)
		_, err = s.objects.Watch(s.Context(), metav1.ListOptions{FieldSelector: field + "=x"})
		if err == nil {
			s.Errorf("a watch by %s does not fail", field)
		}
		err = s.objects.DeleteCollection(s.Context(), metav1.DeleteOptions{}, metav1.ListOptions{FieldSelector: field + "=x"})
		expectError(s, err, http.StatusBadRequest, field)
	}
}

// tableOf gets a table.
func (s *subject) tableOf(path string) metav1.Table {
	s.Helper()
	resp := s.send(http.MethodGet, path, nil, "Accept", "application/json;as=Table;v=v1;g=meta.k8s.io").expect(s, http.StatusOK)
	return parseJSON[metav1.Table](s, string(resp.body))
}

func tables(s *subject) {
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
				s.Errorf("column %s: got type %q and description %q, want an OpenAPI type and a description", column.Name, column.Type, column.Description)
			}
		}
		expectEqual(s, "the columns", columns, s.columns)
		expectEqual(s, "the wide columns", wide, s.wide)
		expectEqual(s, "the format of the first column", table.ColumnDefinitions[0].Format, "name")
		var rows []string
		for _, row := range table.Rows {
			if len(row.Cells) != len(table.ColumnDefinitions) {
				s.Errorf("got a row of %d cells for %d columns: %v", len(row.Cells), len(table.ColumnDefinitions), row.Cells)
			}
			rows = append(rows, row.Cells[0].(string))
			if strings.Contains(path, "None") {
				continue
			}
			object := &unstructured.Unstructured{}
			kit.Check(s, object.UnmarshalJSON(row.Object.Raw))
			expectEqual(s, "the kind of a row's object", object.GetKind(), "PartialObjectMetadata")
			expectEqual(s, "the name of a row's object", object.GetName(), row.Cells[0])
		}
		expectEqual(s, "the rows of "+path, rows, want)
		if table.ResourceVersion == "" || strings.Contains(path, "limit") != (table.Continue != "") {
			s.Errorf("the table of %s: got resourceVersion %q and continue %q", path, table.ResourceVersion, table.Continue)
		}
	}
}

func metadataOnly(s *subject) {
	obj := s.create("a", `{"metadata": {"labels": {"a": "b"}}}`)
	resp := s.send(http.MethodGet, s.path("a"), nil, "Accept", "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io").expect(s, http.StatusOK)
	partial := &unstructured.Unstructured{}
	kit.Check(s, partial.UnmarshalJSON(resp.body))
	expectEqual(s, "the kind", partial.GetKind(), "PartialObjectMetadata")
	expectEqual(s, "the metadata", partial.Object["metadata"], obj.Object["metadata"])
	expectEqual(s, "the spec", partial.Object["spec"], nil)
}

// nextEvent returns the next event of a watch. It fails the test if none comes in time.
func nextEvent(s *subject, w watch.Interface) watch.Event {
	s.Helper()
	select {
	case event, ok := <-w.ResultChan():
		if !ok {
			s.Fatal("the watch is closed")
		}
		return event
	case <-time.After(timeout):
		s.Fatalf("got no event in %s", timeout)
	}
	return watch.Event{}
}

func watches(s *subject) {
	s.create("there")
	list := kit.Must(s.objects.List(s.Context(), metav1.ListOptions{}))(s)
	w := kit.Must(s.objects.Watch(s.Context(), metav1.ListOptions{ResourceVersion: list.GetResourceVersion()}))(s)
	defer w.Stop()
	expect := func(kind watch.EventType, want *unstructured.Unstructured) {
		s.Helper()
		event := nextEvent(s, w)
		if kind == watch.Deleted && s.graceful {
			expectEqual(s, "the event of the first step", event.Type, watch.Modified)
			event = nextEvent(s, w)
		}
		if event.Type != kind {
			s.Fatalf("got %s, want %s: %v", event.Type, kind, event.Object)
		}
		got := event.Object.(*unstructured.Unstructured)
		if kind == watch.Deleted { // its resourceVersion is that of the deletion
			expectEqual(s, "the name of the deleted object", got.GetName(), want.GetName())
			return
		}
		expectEqual(s, string(kind), got, want)
	}
	created := s.create("a")
	expect(watch.Added, created)
	changed := kit.Must(s.mergePatch("a", nestedJSON(s.spec.path, s.spec.one)))(s)
	expect(watch.Modified, changed)
	if s.status.path != "" {
		changed = kit.Must(s.mergePatch("a", nestedJSON(s.status.path, s.status.one), "status"))(s)
		expect(watch.Modified, changed)
	}
	kit.Check(s, s.objects.Delete(s.Context(), "a", metav1.DeleteOptions{}))
	expect(watch.Deleted, changed)

	// A streaming list sends the existing objects, then a bookmark.
	stream := kit.Must(s.objects.Watch(s.Context(), metav1.ListOptions{
		SendInitialEvents: new(true), AllowWatchBookmarks: true, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan,
	}))(s)
	defer stream.Stop()
	if event := nextEvent(s, stream); event.Type != watch.Added || event.Object.(*unstructured.Unstructured).GetName() != "there" {
		s.Errorf("got %s of %v, want ADDED of the existing object", event.Type, event.Object)
	}
	event := nextEvent(s, stream)
	bookmark, ok := event.Object.(*unstructured.Unstructured)
	if !ok || event.Type != watch.Bookmark || bookmark.GetAnnotations()[metav1.InitialEventsAnnotationKey] != "true" {
		s.Errorf("got %s of %v, want the bookmark that ends the initial events", event.Type, event.Object)
	}

	// Watches support selectors: an object that stops matching is sent as DELETED.
	for field, value := range s.selectable {
		matching := kit.Must(s.objects.Watch(s.Context(), metav1.ListOptions{FieldSelector: field + "=" + value}))(s)
		defer matching.Stop()
		if event := nextEvent(s, matching); event.Type != watch.Added || event.Object.(*unstructured.Unstructured).GetName() != "there" {
			s.Errorf("a watch of %s=%s starts with %s of %v, want ADDED of the matching object", field, value, event.Type, event.Object)
		}
	}
	selected := kit.Must(s.objects.Watch(s.Context(), metav1.ListOptions{LabelSelector: "!gone"}))(s)
	defer selected.Stop()
	expectEqual(s, "the first event", nextEvent(s, selected).Type, watch.Added)
	kit.Must(s.mergePatch("there", `{"metadata": {"labels": {"gone": ""}}}`))(s)
	if event := nextEvent(s, selected); event.Type != watch.Deleted {
		s.Errorf("got %s for an object that stopped matching, want %s", event.Type, watch.Deleted)
	}
}
