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
	"slices"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/warning"
	"k8s.io/utils/ptr"

	"github.com/leat-dev/leat/apis/batch"
)

func TestRecordsAsTable(t *testing.T) {
	start := metav1.NewMicroTime(time.Now().Add(-5 * time.Minute))
	list := &batch.TaskRecordList{
		ListMeta: metav1.ListMeta{Continue: "token"},
		Warnings: []string{"worker w cannot be reached"},
		Items: []batch.TaskRecord{
			{
				Index: ptr.To[int32](7), Failures: 2, Attempt: 1, TaskName: "set-7", TaskUID: "uid", WorkerName: "w", StartTime: start, DurationMilliseconds: 83_000,
				CPUMilliseconds: 999, PeakMemoryBytes: 3 << 19, OutputBytes: 1023, MissingBytes: 1 << 40, Reason: batch.TaskReasonError, ExitCode: 3,
			},
			{Attempt: 2, TaskName: "alone", WorkerName: "w", Signal: 9, ExitCode: 137},
			{Attempt: 1, TaskName: "late", WorkerName: "w", Reason: "DeadlineExceeded", ExitCode: 143, Signal: 15, OutputBytes: 3 << 60},
		},
	}
	want := []string{
		"[7 2 1 w 3 5m 83s 999ms 1.5Mi 1023 1.0Ti set-7]",
		"[<none> 0 2 w SIGKILL <unknown> 0ms 0ms 0 0 0 alone]",
		"[<none> 0 1 w DeadlineExceeded <unknown> 0ms 0ms 0 3145728.0Ti 0 late]",
	}
	for _, test := range []struct {
		name    string
		options *metav1.TableOptions
		columns int
	}{
		{"without options", nil, len(recordColumns)},
		{"with metadata", &metav1.TableOptions{IncludeObject: metav1.IncludeMetadata}, len(recordColumns)},
		{"without headers", &metav1.TableOptions{NoHeaders: true}, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			warned := &warnings{}
			ctx := warning.WithWarningRecorder(t.Context(), warned)
			table, err := convert(ctx, list, test.options)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, row := range table.Rows {
				got = append(got, fmt.Sprint(row.Cells))
				if object, err := meta.Accessor(row.Object.Object); err != nil || object.GetName() != row.Cells[len(row.Cells)-1] {
					t.Errorf("row %v: got the object %v, %v, want one with the name of the task", row.Cells, row.Object.Object, err)
				}
			}
			if !slices.Equal(got, want) {
				t.Errorf("got rows %q, want %q", got, want)
			}
			if len(table.ColumnDefinitions) != test.columns || table.Continue != "token" || !slices.Equal(*warned, list.Warnings) {
				t.Errorf("got %d columns, continue %q, warnings %q; want %d, the token and the warnings of the list",
					len(table.ColumnDefinitions), table.Continue, *warned, test.columns)
			}
		})
	}
	if _, err := convert(t.Context(), list, &metav1.TableOptions{IncludeObject: metav1.IncludeObject}); !apierrors.IsBadRequest(err) {
		t.Errorf("includeObject=Object: got error %v, want a bad request", err)
	}
}

func convert(ctx context.Context, list *batch.TaskRecordList, options *metav1.TableOptions) (*metav1.Table, error) {
	if options == nil {
		return RecordsStorage{}.ConvertToTable(ctx, list, nil)
	}
	return RecordsStorage{}.ConvertToTable(ctx, list, options)
}
