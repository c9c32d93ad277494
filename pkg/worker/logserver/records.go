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

package logserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"github.com/leat-dev/leat/apis/batch/indexes"
	"github.com/leat-dev/leat/pkg/worker/attempt"
	"github.com/leat-dev/leat/pkg/worker/logs"
	"github.com/leat-dev/leat/pkg/worker/spool"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// maxRecords is how many records a response has at most. With names of the maximum length they have less than the 8 MiB
// that the API server reads.
const maxRecords = 8_000

// finished returns the attempts at a task that are not in the archive yet.
func (s *Server) finished(ctx context.Context, task types.UID) ([]logs.Finished, error) {
	attempts, err := s.options.Archive.Task(ctx, task)
	if err != nil {
		return nil, err
	}
	var all []logs.Finished
	for i := range attempts {
		record := &attempts[i].Record
		id := attempt.ID{Task: task, Index: attempt.NoIndex, Number: record.Attempt}
		if record.Index != nil {
			id.Index = int(*record.Index)
		}
		all = append(all, logs.Finished{
			ID:      id,
			Started: record.StartTime.Time,
			Ended:   record.StartTime.Add(time.Duration(record.DurationMilliseconds) * time.Millisecond),
			Output:  attempts[i].Output,
		})
	}
	return all, nil
}

// setOf returns the UID of the set in the path of a request, empty for tasks without one.
func setOf(r *http.Request) types.UID {
	set := r.PathValue("set")
	if set == batch.WorkerTasksWithoutSet {
		return ""
	}
	return types.UID(set)
}

// serveRecords serves the records of the attempts at the tasks of a set that are not in the archive yet. If there are
// more than maxRecords, the list has metadata.continue, which the query of the next request has.
func (s *Server) serveRecords(w http.ResponseWriter, r *http.Request) {
	if !s.checkNamespace(w, r) {
		return
	}
	query := r.URL.Query()
	ranges, err := indexes.Parse(query.Get("indexes"), math.MaxInt32)
	if err != nil {
		http.Error(w, fmt.Sprintf("indexes: %v", err), http.StatusBadRequest)
		return
	}
	task := types.UID(query.Get("taskUID"))
	records, next, err := s.options.Archive.Records(r.Context(), setOf(r), query.Get("continue"), s.options.maxRecords, func(record *batch.TaskRecord) bool {
		return (task == "" || record.TaskUID == task) &&
			(len(ranges) == 0 || record.Index != nil && indexes.Contains(ranges, int(*record.Index)))
	})
	switch {
	case errors.Is(err, spool.ErrPosition):
		http.Error(w, fmt.Sprintf("continue: %v", err), http.StatusBadRequest)
		return
	case err != nil:
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	list := batch.TaskRecordList{Items: records}
	list.SetGroupVersionKind(batch.SchemeGroupVersion.WithKind("TaskRecordList"))
	if list.Items == nil {
		list.Items = []batch.TaskRecord{}
	}
	list.Continue = next
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(&list); err != nil {
		klog.FromContext(r.Context()).V(2).Info("Failed to send records", "err", err)
	}
}

// serveOutput serves the output of one attempt that is not in the archive yet.
func (s *Server) serveOutput(w http.ResponseWriter, r *http.Request) {
	if !s.checkNamespace(w, r) {
		return
	}
	entry := r.PathValue("entry")
	output, found, err := s.options.Archive.Output(r.Context(), setOf(r), entry)
	switch {
	case err != nil:
		http.Error(w, err.Error(), http.StatusInternalServerError)
	case !found:
		http.Error(w, fmt.Sprintf("the worker has no output %s of the set any more: it may be in the archive now", entry), http.StatusNotFound)
	default:
		w.Header().Set("Content-Type", "application/octet-stream")
		if _, err := w.Write(output); err != nil {
			klog.FromContext(r.Context()).V(2).Info("Failed to send output", "err", err)
		}
	}
}
