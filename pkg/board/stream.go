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

package board

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"time"
)

const (
	// updateInterval is the least time between two updates of a view. One that takes longer to compute comes less often.
	updateInterval = 500 * time.Millisecond
	// agingInterval is how often a view is computed while no object changes: rates change with time.
	agingInterval = 2 * time.Second
	// heartbeatInterval is how often a stream without changes sends a comment, so that a browser notices a lost
	// connection.
	heartbeatInterval = 15 * time.Second
)

// view is what a page shows.
type view interface {
	// poll reads what no informer has, until ctx ends. It calls changed when there is something new.
	poll(ctx context.Context, changed func())
	// frame returns the current content.
	frame() frame
}

// frame is the content of a view: values, and tables of rows, by name.
type frame struct {
	Values map[string]any
	Tables map[string][]row
}

// row is a row of a table. Its key is unique in the table.
type row struct {
	Key  string
	Data any
}

// view returns the view that a stream is of. It returns false if there is no such view.
func (b *Board) view(query url.Values) (view, bool) {
	switch query.Get("view") {
	case "now":
		return nowView{b}, true
	case "sets":
		return setsView{b}, true
	case "set":
		namespace, name := query.Get("namespace"), query.Get("name")
		return newSetView(b, namespace, name), isName(namespace) && isName(name)
	case "pending":
		return newPendingView(b, query.Get("namespace"), query.Get("name"))
	}
	return nil, false
}

// serveEvents sends the content of a view, and then its changes, as server-sent events until the request ends.
func (b *Board) serveEvents(w http.ResponseWriter, r *http.Request) {
	view, ok := b.view(r.URL.Query())
	if !ok {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	ctx, stop := context.WithCancel(r.Context())
	polled, ended := make(chan struct{}, 1), make(chan struct{})
	go func() {
		defer close(ended)
		view.poll(ctx, func() {
			select {
			case polled <- struct{}{}:
			default:
			}
		})
	}()
	defer func() {
		stop()
		<-ended
	}()
	flush := http.NewResponseController(w).Flush
	var sent sentFrame
	var version int64
	var built, written time.Time
	pause := updateInterval
	dirty := true
	for {
		if current := b.store.version.Load(); dirty || current != version || time.Since(built) >= agingInterval {
			version, built, dirty = current, time.Now(), false
			content := view.frame()
			content.Values["connection"] = b.connectionState()
			patch, err := sent.patch(content)
			if err != nil {
				return
			}
			if patch != nil {
				if _, err := fmt.Fprintf(w, "data: %s\n\n", patch); err != nil || flush() != nil {
					return
				}
				written = time.Now()
			}
			pause = max(updateInterval, 5*time.Since(built))
		}
		if time.Since(written) >= heartbeatInterval {
			if _, err := fmt.Fprint(w, ":\n\n"); err != nil || flush() != nil {
				return
			}
			written = time.Now()
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		select {
		case <-polled:
			dirty = true
		default:
		}
	}
}

// connectionState is shown on each page.
type connectionState struct {
	// Synced is whether all objects have been read once.
	Synced bool `json:"synced"`
	// Cause is why the server is not reached, and Since the time since then, in milliseconds since the epoch.
	Cause string `json:"cause,omitempty"`
	Since int64  `json:"since,omitempty"`
}

func (b *Board) connectionState() connectionState {
	state := connectionState{Synced: b.store.hasSynced()}
	if since, cause := b.store.connection.state(); cause != "" {
		state.Since, state.Cause = since.UnixMilli(), cause
	}
	return state
}

// sentFrame is what the browser has.
type sentFrame struct {
	values map[string][]byte
	tables map[string]*sentTable
}

type sentTable struct {
	rows map[string][]byte
	keys []string
}

// framePatch has the values and the rows that have changed. A table whose keys or their order have changed has all
// keys.
type framePatch struct {
	Values map[string]json.RawMessage `json:"values,omitempty"`
	Tables map[string]*tablePatch     `json:"tables,omitempty"`
}

type tablePatch struct {
	Rows map[string]json.RawMessage `json:"rows,omitempty"`
	Keys []string                   `json:"keys"` // null if they have not changed
}

// patch returns what has changed since the last call in JSON, nil if nothing has.
func (s *sentFrame) patch(content frame) ([]byte, error) {
	if s.values == nil {
		s.values, s.tables = map[string][]byte{}, map[string]*sentTable{}
	}
	changes := framePatch{Values: map[string]json.RawMessage{}, Tables: map[string]*tablePatch{}}
	for name, value := range content.Values {
		text, err := json.Marshal(value)
		if err != nil {
			return nil, err
		}
		if !bytes.Equal(text, s.values[name]) {
			s.values[name], changes.Values[name] = text, text
		}
	}
	for name, rows := range content.Tables {
		change, err := s.patchTable(name, rows)
		if err != nil {
			return nil, err
		}
		if change != nil {
			changes.Tables[name] = change
		}
	}
	if len(changes.Values)+len(changes.Tables) == 0 {
		return nil, nil
	}
	return json.Marshal(changes)
}

func (s *sentFrame) patchTable(name string, rows []row) (*tablePatch, error) {
	before := s.tables[name]
	first := before == nil
	if first {
		before = &sentTable{}
	}
	after := &sentTable{rows: make(map[string][]byte, len(rows)), keys: make([]string, 0, len(rows))}
	change := &tablePatch{Rows: map[string]json.RawMessage{}}
	for _, row := range rows {
		text, err := json.Marshal(row.Data)
		if err != nil {
			return nil, err
		}
		if !bytes.Equal(text, before.rows[row.Key]) {
			change.Rows[row.Key] = text
		}
		after.rows[row.Key] = text
		after.keys = append(after.keys, row.Key)
	}
	s.tables[name] = after
	if first || !slices.Equal(before.keys, after.keys) {
		change.Keys = after.keys
	} else if len(change.Rows) == 0 {
		return nil, nil
	}
	return change, nil
}
