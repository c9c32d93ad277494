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
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"
)

// None is the cell for an empty value.
const None = "<none>"

// Age returns the cell for the time since t, formatted as kubectl does, or <unknown> for the zero time.
func Age(t metav1.Time) any {
	if t.IsZero() {
		return "<unknown>"
	}
	return duration.HumanDuration(time.Since(t.Time))
}

// Between returns the cell for the time from one moment to another, or to now if the second is nil. It returns an empty
// cell if the first is nil. Moments of different clocks may be in the wrong order; the time between them is then zero.
func Between(from, to *metav1.Time) any {
	if from.IsZero() {
		return ""
	}
	if to.IsZero() {
		return duration.HumanDuration(time.Since(from.Time))
	}
	return duration.HumanDuration(max(0, to.Sub(from.Time)))
}

func columnDefinitions[T any](columns []Column[T]) []metav1.TableColumnDefinition {
	definitions := make([]metav1.TableColumnDefinition, 0, len(columns)+1)
	definitions = append(definitions, metav1.TableColumnDefinition{
		Name: "Name", Type: "string", Format: "name", Description: metav1.ObjectMeta{}.SwaggerDoc()["name"],
	})
	for _, column := range columns {
		definitions = append(definitions, column.TableColumnDefinition)
	}
	return definitions
}

// ConvertToTable implements rest.TableConvertor for objects and lists of the kind. The columns are those of the version
// of the request.
func (r Resource[T, L]) ConvertToTable(ctx context.Context, object, options runtime.Object) (*metav1.Table, error) {
	table, columns := &metav1.Table{}, r.columns(ctx)
	if options, ok := options.(*metav1.TableOptions); !ok || !options.NoHeaders {
		table.ColumnDefinitions = columnDefinitions(columns)
	}
	if !meta.IsListType(object) {
		row, err := r.row(object, columns)
		if err != nil {
			return nil, err
		}
		table.ResourceVersion = r.Meta(any(object).(*T)).ResourceVersion
		table.Rows = []metav1.TableRow{row}
		return table, nil
	}
	list, err := meta.ListAccessor(object)
	if err != nil {
		return nil, err
	}
	table.ResourceVersion = list.GetResourceVersion()
	table.Continue = list.GetContinue()
	table.RemainingItemCount = list.GetRemainingItemCount()
	table.Rows = make([]metav1.TableRow, 0, meta.LenList(object))
	err = meta.EachListItem(object, func(item runtime.Object) error {
		row, err := r.row(item, columns)
		table.Rows = append(table.Rows, row)
		return err
	})
	return table, err
}

func (r Resource[T, L]) row(obj runtime.Object, columns []Column[T]) (metav1.TableRow, error) {
	object, ok := any(obj).(*T)
	if !ok {
		return metav1.TableRow{}, unexpected[T](obj)
	}
	cells := make([]any, 0, len(columns)+1)
	cells = append(cells, r.Meta(object).Name)
	for _, column := range columns {
		cell := column.Cell(object)
		if cell == "" {
			cell = None
		}
		cells = append(cells, cell)
	}
	return metav1.TableRow{Cells: cells, Object: runtime.RawExtension{Object: obj}}, nil
}

func unexpected[T any](obj runtime.Object) error {
	return fmt.Errorf("expected an object of type %T, not %T", new(T), obj)
}
