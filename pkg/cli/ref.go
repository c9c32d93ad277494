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
	"fmt"
	"slices"
	"strconv"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leat-dev/leat/apis/batch/indexes"
	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/cli/taskstate"
	"github.com/leat-dev/leat/pkg/generated/kinds"
)

// Kinds in names of objects. kindUnspecified means a task or a set.
const (
	kindUnspecified = ""
	kindTask        = "task"
	kindSet         = "taskset"
	kindWorker      = "worker"
)

// ref is the name of an object on the command line.
type ref struct {
	kind, name string
}

// String returns the name as every command accepts it.
func (r ref) String() string {
	if r.kind == kindUnspecified {
		return r.name
	}
	return r.kind + "/" + r.name
}

// full returns the name with the API group, as kubectl prints it.
func (r ref) full() string { return r.kind + "." + batch.GroupName + "/" + r.name }

// namedKinds are the kinds whose objects a command can name.
var namedKinds = []string{kindTask, kindSet, kindWorker}

// parseRef parses NAME and KIND/NAME. The kind may be a plural, a short name, or have the API group.
func parseRef(text string) (ref, error) {
	kind, name, ok := strings.Cut(text, "/")
	if !ok {
		kind, name = "", text
	}
	if name == "" || strings.Contains(name, "/") {
		return ref{}, usageErrorf("%q: write a name, task/NAME or taskset/NAME, or SET/INDEX for one index of a set", text)
	}
	if !ok {
		return ref{name: name}, nil
	}
	if known := kindOf(kind); known != kindUnspecified {
		return ref{known, name}, nil
	}
	return ref{}, usageErrorf("%q: write task/NAME, taskset/NAME or worker/NAME, or SET/INDEX for one index of a set", text)
}

// kindOf returns the kind with the given singular, plural or short name, kindUnspecified if there is none.
func kindOf(word string) string {
	word = strings.TrimSuffix(strings.ToLower(word), "."+batch.GroupName)
	for _, kind := range kinds.All {
		if word == kind.Singular || word == kind.Resource || slices.Contains(kind.ShortNames, word) {
			if slices.Contains(namedKinds, kind.Singular) {
				return kind.Singular
			}
		}
	}
	return kindUnspecified
}

// cutIndex splits SET/INDEX, as "leat logs" prints it, or KIND/NAME/INDEX into the name and the number of the index. ok
// is false if the text has no index.
func cutIndex(text string) (name string, number int, ok bool) {
	slash := strings.LastIndexByte(text, '/')
	if slash < 0 || kindOf(text[:slash]) != kindUnspecified {
		return text, 0, false
	}
	parsed, err := strconv.ParseUint(text[slash+1:], 10, 31)
	if err != nil {
		return text, 0, false
	}
	return text[:slash], int(parsed), true
}

// object is the object that a name resolves to: a task (task is set), a whole set (only set is set), or one index of a
// set (set and index are set).
type object struct {
	task  *batch.Task
	set   *batch.TaskSet
	index *int
}

// ref returns the name of the object for the command line.
func (o object) ref() ref {
	switch {
	case o.set == nil:
		return ref{kindTask, o.task.Name}
	case o.index != nil:
		return ref{kindSet, o.set.Name + "/" + strconv.Itoa(taskstate.Numbers(o.set).Number(*o.index))}
	}
	return ref{kindSet, o.set.Name}
}

// parse parses a name or @latest.
func (s *session) parse(text string) (ref, error) {
	if text == latestName {
		return s.latest()
	}
	if strings.HasPrefix(text, "@") {
		return ref{}, usageErrorf("%q: write %s for what was made last, or a name", text, latestName)
	}
	return parseRef(text)
}

// find resolves a name and reads the task or the set. A name without a kind is that of a set, or else that of a task.
func (s *session) find(ctx context.Context, text string) (object, error) {
	name, number, hasIndex := cutIndex(text)
	r, err := s.parse(name)
	if err != nil {
		return object{}, err
	}
	if hasIndex {
		if r.kind != kindSet && r.kind != kindUnspecified {
			return object{}, usageErrorf("%q: %s is not a set: only sets have indexes", text, r)
		}
		set, err := s.api.TaskSets(s.namespace).Get(ctx, r.name, metav1.GetOptions{})
		if r.kind == kindUnspecified && objectNotFound(err) {
			return object{}, s.setNotFound(r)
		}
		if err != nil {
			return object{}, s.gone(name, r, err)
		}
		chosen, err := chosenIndexes(set, []indexes.Range{{First: number, Last: number}})
		if err != nil {
			return object{}, err
		}
		return object{set: set, index: &chosen[0].First}, nil
	}
	if r.kind == kindWorker {
		return object{}, usageErrorf("%q is a worker: name a task or a set", text)
	}
	if r.kind != kindTask {
		set, err := s.api.TaskSets(s.namespace).Get(ctx, r.name, metav1.GetOptions{})
		if err == nil {
			return object{set: set}, nil
		}
		if r.kind == kindSet || !objectNotFound(err) {
			return object{}, s.gone(text, r, err)
		}
	}
	task, err := s.api.Tasks(s.namespace).Get(ctx, r.name, metav1.GetOptions{})
	if err == nil {
		return object{task: task}, nil
	}
	if r.kind == kindUnspecified && objectNotFound(err) {
		return object{}, fmt.Errorf("no set and no task is named %q in namespace %q: kubectl get tks,tk lists what there is; -n names another namespace", r.name, s.namespace)
	}
	return object{}, s.gone(text, r, err)
}

// setNotFound returns the error for a name that is not that of a set.
func (s *session) setNotFound(r ref) error {
	return fmt.Errorf("no set is named %q in namespace %q: kubectl get tks lists what there is; -n names another namespace", r.name, s.namespace)
}

// gone replaces a not-found error of @latest by one with the name that it stood for.
func (s *session) gone(text string, r ref, err error) error {
	if text == latestName && objectNotFound(err) {
		return fmt.Errorf("%s was %s, and is deleted", latestName, r)
	}
	return err
}

// objectNotFound reports whether the error means that the object does not exist. It returns false if the server does
// not serve the API.
func objectNotFound(err error) bool {
	var status apierrors.APIStatus
	return errors.As(err, &status) && apierrors.IsNotFound(err) && status.Status().Details != nil && status.Status().Details.Name != ""
}

// findSet resolves the name of a whole set and reads it.
func (s *session) findSet(ctx context.Context, text string) (*batch.TaskSet, error) {
	if name, number, ok := cutIndex(text); ok {
		return nil, usageErrorf("%q is index %d of a set: only whole sets can be suspended and resumed: write %s", text, number, name)
	}
	r, err := s.parse(text)
	if err != nil {
		return nil, err
	}
	if r.kind != kindSet && r.kind != kindUnspecified {
		return nil, usageErrorf("%q is not a set: only sets can be suspended and resumed; a task can be cancelled", r)
	}
	set, err := s.api.TaskSets(s.namespace).Get(ctx, r.name, metav1.GetOptions{})
	if r.kind == kindUnspecified && objectNotFound(err) {
		return nil, s.setNotFound(r)
	}
	return set, s.gone(text, r, err)
}
