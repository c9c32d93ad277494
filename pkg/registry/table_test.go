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

package registry

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/leat-dev/leat/apis/batch"
)

func TestConvertToTable(t *testing.T) {
	resource := queues
	resource.Columns = []Column[batch.TaskQueue]{
		{metav1.TableColumnDefinition{Name: "Running", Type: "integer"}, func(o *batch.TaskQueue) any { return int64(o.Status.Running) }},
		{metav1.TableColumnDefinition{Name: "A", Type: "string"}, func(o *batch.TaskQueue) any { return o.Labels["a"] }},
	}
	one, other := newQueue(1, 3), newQueue(1, 0)
	one.ResourceVersion, other.Name, other.Labels = "7", "r", nil
	list := &batch.TaskQueueList{
		ListMeta: metav1.ListMeta{ResourceVersion: "9", Continue: "token", RemainingItemCount: ptr.To[int64](4)},
		Items:    []batch.TaskQueue{*one, *other},
	}

	table, err := resource.ConvertToTable(t.Context(), list, nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(list.ListMeta, table.ListMeta); diff != "" {
		t.Errorf("metadata of the list: want -, got +:\n%s", diff)
	}
	var names []string
	for _, column := range table.ColumnDefinitions {
		names = append(names, column.Name)
	}
	if diff := cmp.Diff([]string{"Name", "Running", "A"}, names); diff != "" {
		t.Errorf("columns: want -, got +:\n%s", diff)
	}
	var cells [][]any
	for _, row := range table.Rows {
		cells = append(cells, row.Cells)
	}
	if diff := cmp.Diff([][]any{{"q", int64(3), "b"}, {"r", int64(0), None}}, cells); diff != "" {
		t.Errorf("cells: want -, got +:\n%s", diff)
	}
	if got := table.Rows[1].Object.Object.(*batch.TaskQueue).Name; got != "r" {
		t.Errorf("the second row has object %q", got)
	}

	table, err = resource.ConvertToTable(t.Context(), one, &metav1.TableOptions{NoHeaders: true})
	if err != nil {
		t.Fatal(err)
	}
	if table.ColumnDefinitions != nil || len(table.Rows) != 1 || table.ResourceVersion != "7" {
		t.Errorf("one object without headers: got %d columns, %d rows, resourceVersion %q",
			len(table.ColumnDefinitions), len(table.Rows), table.ResourceVersion)
	}

	if _, err := resource.ConvertToTable(t.Context(), &batch.Task{}, nil); err == nil || !strings.Contains(err.Error(), "*batch.TaskQueue, not *batch.Task") {
		t.Errorf("an object of another kind: got %v", err)
	}
}

func TestTimes(t *testing.T) {
	past := metav1.NewTime(time.Now().Add(-time.Hour))
	later := metav1.NewTime(past.Add(90 * time.Second))
	for name, test := range map[string]struct{ got, want any }{
		"age":            {Age(past), "60m"},
		"no age":         {Age(metav1.Time{}), "<unknown>"},
		"between":        {Between(&past, &later), "90s"},
		"up to now":      {Between(&past, nil), "60m"},
		"not yet begun":  {Between(nil, &later), ""},
		"begun at never": {Between(&metav1.Time{}, nil), ""},
	} {
		if test.got != test.want {
			t.Errorf("%s: got %q, want %q", name, test.got, test.want)
		}
	}
}
