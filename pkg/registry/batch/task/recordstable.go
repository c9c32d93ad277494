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

package task

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/warning"

	"github.com/leat-dev/leat/apis/batch"
	"github.com/leat-dev/leat/pkg/registry"
)

var _ rest.TableConvertor = RecordsStorage{}

// recordColumn is a column of a table of records.
type recordColumn struct {
	name, kind, description string
	// priority is 0 for a column that is always shown, and 1 for one of a wide table.
	priority int32
	cell     func(*batch.TaskRecord) any
}

// recordColumns are the columns of a table of records, in the order of "leat history". A page of a list does not show
// how many attempts at an index there are, so the number of the attempt is that of the record.
var recordColumns = []recordColumn{
	{"Index", "string", "Index of the set, or none.", 0, indexOfRecord},
	{"Failures", "integer", "Number of tasks of the index that had failed before this one was created.", 0, func(r *batch.TaskRecord) any { return int64(r.Failures) }},
	{"Attempt", "integer", "Number of the attempt at the task.", 0, func(r *batch.TaskRecord) any { return int64(r.Attempt) }},
	{"Worker", "string", "Name of the worker that ran the attempt.", 0, func(r *batch.TaskRecord) any { return r.WorkerName }},
	{"Exit", "string", "Exit code, signal, or reason of the end.", 0, exitOfRecord},
	{"Started", "string", "Time since the start.", 0, func(r *batch.TaskRecord) any { return registry.Age(metav1.Time{Time: r.StartTime.Time}) }},
	{"Duration", "string", "Time from the start to the end.", 0, func(r *batch.TaskRecord) any { return formatMilliseconds(r.DurationMilliseconds) }},
	{"CPU", "string", "CPU time.", 0, func(r *batch.TaskRecord) any { return formatMilliseconds(r.CPUMilliseconds) }},
	{"Memory", "string", "Largest memory in use.", 0, func(r *batch.TaskRecord) any { return formatBytes(r.PeakMemoryBytes) }},
	{"Output", "string", "Size of what was printed.", 0, func(r *batch.TaskRecord) any { return formatBytes(r.OutputBytes) }},
	{"Missing", "string", "How much of the output is not kept.", 1, func(r *batch.TaskRecord) any { return formatBytes(r.MissingBytes) }},
	{"Task", "string", "Name of the task.", 1, func(r *batch.TaskRecord) any { return r.TaskName }},
}

// ConvertToTable implements rest.TableConvertor. The warnings of the list, for which a table has no field, become
// warnings of the response.
func (RecordsStorage) ConvertToTable(ctx context.Context, object, options runtime.Object) (*metav1.Table, error) {
	list, ok := object.(*batch.TaskRecordList)
	if !ok {
		return nil, fmt.Errorf("expected a TaskRecordList, not %T", object)
	}
	table := &metav1.Table{ListMeta: list.ListMeta, Rows: make([]metav1.TableRow, 0, len(list.Items))}
	if options, ok := options.(*metav1.TableOptions); ok && options.IncludeObject == metav1.IncludeObject {
		return nil, apierrors.NewBadRequest("includeObject: records are not objects of their own: it must be None or Metadata, or get a TaskRecordList, without as=Table")
	} else if !ok || !options.NoHeaders {
		for _, column := range recordColumns {
			table.ColumnDefinitions = append(table.ColumnDefinitions, metav1.TableColumnDefinition{
				Name: column.name, Type: column.kind, Description: column.description, Priority: column.priority,
			})
		}
	}
	for _, text := range list.Warnings {
		warning.AddWarning(ctx, "", text)
	}
	for i := range list.Items {
		record := &list.Items[i]
		row := metav1.TableRow{Object: runtime.RawExtension{
			Object: &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Name: record.TaskName, UID: record.TaskUID}},
		}}
		for _, column := range recordColumns {
			row.Cells = append(row.Cells, column.cell(record))
		}
		table.Rows = append(table.Rows, row)
	}
	return table, nil
}

func indexOfRecord(record *batch.TaskRecord) any {
	if record.Index == nil {
		return registry.None
	}
	return fmt.Sprint(*record.Index)
}

// exitOfRecord returns the exit code of an attempt, the signal that ended it, or why it ended otherwise.
func exitOfRecord(record *batch.TaskRecord) any {
	switch record.Reason {
	case "", batch.TaskReasonCompleted, batch.TaskReasonError:
		return formatExit(record.ExitCode, record.Signal)
	}
	return record.Reason
}

func formatMilliseconds(n int64) string {
	if n < 1000 {
		return fmt.Sprintf("%dms", n)
	}
	return duration.HumanDuration(time.Duration(n) * time.Millisecond)
}

// formatBytes formats a size like 512, 1.5Ki or 23.0Mi.
func formatBytes(n int64) string {
	if n < 1<<10 {
		return fmt.Sprint(n)
	}
	size, unit := float64(n), ""
	for _, unit = range []string{"Ki", "Mi", "Gi", "Ti"} {
		if size /= 1 << 10; size < 1000 {
			break
		}
	}
	return fmt.Sprintf("%.1f%s", size, unit)
}
