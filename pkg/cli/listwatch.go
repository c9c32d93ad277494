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

package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/cli-runtime/pkg/printers"
	"k8s.io/client-go/tools/cache"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/cli/sanitize"
	informers "github.com/leat-dev/leat/pkg/generated/informers/externalversions/batch/v1alpha1"
)

// listTable prints rows of "leat list". It keeps the widths of the columns, as kubectl does.
type listTable struct {
	out interface {
		io.Writer
		Flush() error
	}
	allNamespaces, wide bool
}

// newListTable prints the header, and returns the table.
func (o *listOptions) newListTable(wide bool) *listTable {
	t := &listTable{out: printers.GetNewTabWriter(o.streams.Out), allNamespaces: o.allNamespaces, wide: wide}
	t.line("NAMESPACE", "NAME", []string{"STATE", "PROGRESS", "LEFT", "QUEUE", "AGE"}, "CREATOR")
	return t
}

func (t *listTable) row(l listed) {
	t.line(l.meta.Namespace, ref{l.kind, l.meta.Name}.String(), l.columns, sanitize.Line(cmp.Or(l.meta.Annotations[batch.AnnotationCreatedBy], "-")))
}

func (t *listTable) line(namespace, name string, columns []string, creator string) {
	cells := append([]string{name}, columns...)
	if t.allNamespaces {
		cells = append([]string{namespace}, cells...)
	}
	if t.wide {
		cells = append(cells, creator)
	}
	fmt.Fprintln(t.out, strings.Join(cells, "\t"))
}

// listWatch prints rows of a table when they change.
type listWatch struct {
	*listOptions
	table *listTable
	// shown has what was printed last of each object, without what changes with the time.
	shown   map[types.UID]string
	changes chan listed
}

func (w *listWatch) newRow(l listed) bool {
	text := l.columns[0] + "\t" + l.columns[1] + "\t" + l.columns[3]
	if w.shown[l.meta.UID] == text {
		return false
	}
	w.shown[l.meta.UID] = text
	return true
}

// watch prints a row each time that the state, the progress or the queue of a set or a task changes, until ctx is done.
// all is what the table has.
func (o *listOptions) watch(ctx context.Context, s *session, namespace, creator string, all []listed, table *listTable) error {
	w := &listWatch{listOptions: o, table: table, shown: map[types.UID]string{}, changes: make(chan listed)}
	for _, l := range all {
		w.newRow(l)
	}
	setsOf, tasksOf := selectors(creator)
	sets := informers.NewFilteredTaskSetInformer(s.client, namespace, 0, nil, func(o *metav1.ListOptions) { o.LabelSelector = setsOf })
	tasks := informers.NewFilteredTaskInformer(s.client, namespace, 0, nil, func(o *metav1.ListOptions) { o.LabelSelector = tasksOf })
	for _, informer := range []cache.SharedIndexInformer{sets, tasks} {
		if _, err := informer.AddEventHandler(w.handler(ctx)); err != nil {
			return err
		}
		go informer.RunWithContext(ctx)
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case l := <-w.changes:
			if o.failed && !l.failed || !w.newRow(l) {
				continue
			}
			table.row(l)
			if err := table.out.Flush(); err != nil {
				return err
			}
		}
	}
}

// handler returns a handler that sends the objects to watch.
func (w *listWatch) handler(ctx context.Context) cache.ResourceEventHandler {
	send := func(object any, deleted bool) {
		l := listedObject(object.(runtime.Object).DeepCopyObject(), time.Now())
		if deleted {
			l.columns[0] = "Deleted"
		}
		select {
		case w.changes <- l:
		case <-ctx.Done():
		}
	}
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    func(object any) { send(object, false) },
		UpdateFunc: func(_, object any) { send(object, false) },
		DeleteFunc: func(object any) {
			if last, ok := object.(cache.DeletedFinalStateUnknown); ok {
				object = last.Obj
			}
			send(object, true)
		},
	}
}
