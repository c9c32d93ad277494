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
	"context"
	"errors"
	"net/http"
	"slices"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// watchStub returns the next list of events for each watch, and the current task for a get.
type watchStub struct {
	t       *testing.T
	answers [][]watch.Event
	refused error // of the first watch
	there   *batch.Task
	from    []string
}

func (s *watchStub) Get(context.Context, string, metav1.GetOptions) (*batch.Task, error) {
	if s.there == nil {
		return nil, apierrors.NewNotFound(batch.Resource("tasks"), "t")
	}
	return s.there, nil
}

func (s *watchStub) Watch(_ context.Context, options metav1.ListOptions) (watch.Interface, error) {
	if options.FieldSelector != "metadata.name=t" {
		s.t.Errorf("the watch selects %q", options.FieldSelector)
	}
	s.from = append(s.from, options.ResourceVersion)
	if err := s.refused; err != nil {
		s.refused = nil
		return nil, err
	}
	if len(s.answers) == 0 {
		return nil, errors.New("nothing more is expected to be watched")
	}
	events := make(chan watch.Event, len(s.answers[0]))
	for _, event := range s.answers[0] {
		events <- event
	}
	s.answers = s.answers[1:]
	return watch.NewProxyWatcher(events), nil
}

func taskAt(version, uid string, phase batch.TaskPhase) *batch.Task {
	return &batch.Task{ObjectMeta: metav1.ObjectMeta{Name: "t", UID: types.UID(uid), ResourceVersion: version}, Status: batch.TaskStatus{Phase: phase}}
}

func TestWatchMissesNoState(t *testing.T) {
	gone := apierrors.NewResourceExpired("too old")
	goneEvent := watch.Event{Type: watch.Error, Object: new(gone.Status())}
	for _, test := range []struct {
		name  string
		stub  watchStub
		start *batch.Task
		from  []string
		seen  []batch.TaskPhase
		err   error
	}{
		{
			name: "it has ended already", start: taskAt("1", "a", batch.TaskFailed), seen: []batch.TaskPhase{batch.TaskFailed},
		}, {
			name: "it ends and is deleted at once", start: taskAt("1", "a", batch.TaskPending), from: []string{"1"},
			stub: watchStub{answers: [][]watch.Event{{{Type: watch.Modified, Object: taskAt("2", "a", batch.TaskSucceeded)}, {Type: watch.Deleted, Object: taskAt("3", "a", batch.TaskSucceeded)}}}},
			seen: []batch.TaskPhase{batch.TaskPending, batch.TaskSucceeded},
		}, {
			name: "its deletion tells of its end", start: taskAt("1", "a", batch.TaskPending), from: []string{"1"},
			stub: watchStub{answers: [][]watch.Event{{{Type: watch.Deleted, Object: taskAt("3", "a", batch.TaskFailed)}}}},
			seen: []batch.TaskPhase{batch.TaskPending, batch.TaskFailed},
		}, {
			name: "it is deleted while it runs", start: taskAt("1", "a", batch.TaskPending), from: []string{"1"},
			stub: watchStub{answers: [][]watch.Event{{{Type: watch.Deleted, Object: taskAt("3", "a", batch.TaskRunning)}}}},
			seen: []batch.TaskPhase{batch.TaskPending, batch.TaskRunning}, err: errDeleted,
		}, {
			name: "another of its name", start: taskAt("1", "a", batch.TaskPending), from: []string{"1"},
			stub: watchStub{answers: [][]watch.Event{{{Type: watch.Added, Object: taskAt("5", "b", batch.TaskSucceeded)}}}},
			seen: []batch.TaskPhase{batch.TaskPending}, err: errDeleted,
		}, {
			name: "the history is gone", start: taskAt("1", "a", batch.TaskPending), from: []string{"1", "7"},
			stub: watchStub{there: taskAt("7", "a", batch.TaskRunning), answers: [][]watch.Event{{goneEvent}, {{Type: watch.Modified, Object: taskAt("8", "a", batch.TaskSucceeded)}}}},
			seen: []batch.TaskPhase{batch.TaskPending, batch.TaskRunning, batch.TaskSucceeded},
		}, {
			name: "the history is gone, and the request is refused for it", start: taskAt("1", "a", batch.TaskPending), from: []string{"1"},
			stub: watchStub{there: taskAt("7", "a", batch.TaskSucceeded), refused: gone},
			seen: []batch.TaskPhase{batch.TaskPending, batch.TaskSucceeded},
		}, {
			name: "the history is gone, and the task", start: taskAt("1", "a", batch.TaskPending), from: []string{"1"},
			stub: watchStub{answers: [][]watch.Event{{goneEvent}}},
			seen: []batch.TaskPhase{batch.TaskPending}, err: errDeleted,
		}, {
			name: "the history is gone, and there is another", start: taskAt("1", "a", batch.TaskPending), from: []string{"1"},
			stub: watchStub{there: taskAt("9", "b", batch.TaskSucceeded), answers: [][]watch.Event{{goneEvent}}},
			seen: []batch.TaskPhase{batch.TaskPending}, err: errDeleted,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			stub := test.stub
			stub.t = t
			var seen []batch.TaskPhase
			err := watchObject(t.Context(), &stub, test.start, func(task *batch.Task) bool {
				seen = append(seen, task.Status.Phase)
				return task.Status.Phase.Finished()
			})
			if !errors.Is(err, test.err) || !slices.Equal(seen, test.seen) || !slices.Equal(stub.from, test.from) {
				t.Errorf("%v; seen %q, expected %q; watched from %q, expected %q", err, seen, test.seen, stub.from, test.from)
			}
		})
	}
}

func TestForbiddenWatch(t *testing.T) {
	forbidden := apierrors.NewForbidden(batch.Resource("tasks"), "", errors.New("no"))
	stub := watchStub{t: t, refused: forbidden}
	err := watchObject(t.Context(), &stub, taskAt("1", "a", batch.TaskPending), func(task *batch.Task) bool { return task.Status.Phase.Finished() })
	if status := apierrors.APIStatus(nil); !errors.As(err, &status) || status.Status().Code != http.StatusForbidden {
		t.Errorf("got %v", err)
	}
}
