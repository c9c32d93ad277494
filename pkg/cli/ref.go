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
)

// The kinds that a name can be of. kindUnsaid is a task or a set.
const (
	kindUnsaid = ""
	kindTask   = "task"
	kindSet    = "taskset"
	kindWorker = "worker"
)

// ref names an object as people write it.
type ref struct {
	kind, name string
}

// String writes the name as it can be given to any command.
func (r ref) String() string {
	if r.kind == kindUnsaid {
		return r.name
	}
	return r.kind + "/" + r.name
}

// full writes the name as kubectl does in what it reports.
func (r ref) full() string { return r.kind + "." + batch.GroupName + "/" + r.name }

var kindNames = map[string][]string{
	kindTask:   {"task", "tasks", "tk"},
	kindSet:    {"taskset", "tasksets", "tks"},
	kindWorker: {"worker", "workers", "wkr"},
}

// parseRef reads NAME and KIND/NAME, where the kind may be plural, short, or with the group.
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
	if known := kindOf(kind); known != kindUnsaid {
		return ref{known, name}, nil
	}
	return ref{}, usageErrorf("%q: write task/NAME, taskset/NAME or worker/NAME, or SET/INDEX for one index of a set", text)
}

// kindOf returns the kind that the word names, kindUnsaid if it names none.
func kindOf(word string) string {
	word = strings.TrimSuffix(strings.ToLower(word), "."+batch.GroupName)
	for kind, names := range kindNames {
		if slices.Contains(names, word) {
			return kind
		}
	}
	return kindUnsaid
}

// cutIndex splits SET/INDEX, as "leat logs" prints it, or KIND/NAME/INDEX into the name and the number of the index. It reports whether
// the text has an index.
func cutIndex(text string) (name string, number int, ok bool) {
	slash := strings.LastIndexByte(text, '/')
	if slash < 0 || kindOf(text[:slash]) != kindUnsaid {
		return text, 0, false
	}
	parsed, err := strconv.ParseUint(text[slash+1:], 10, 31)
	if err != nil {
		return text, 0, false
	}
	return text[:slash], int(parsed), true
}

// object is what a name was found to mean: a task, a set, or one index of a set.
type object struct {
	task  *batch.Task
	set   *batch.TaskSet
	index *int // of the set
}

// ref returns the name of the object as people can write it.
func (o object) ref() ref {
	switch {
	case o.set == nil:
		return ref{kindTask, o.task.Name}
	case o.index != nil:
		return ref{kindSet, o.set.Name + "/" + strconv.Itoa(numbersOf(o.set).Number(*o.index))}
	}
	return ref{kindSet, o.set.Name}
}

// parse reads a name, @latest too.
func (s *session) parse(text string) (ref, error) {
	if text == latestName {
		return s.latest()
	}
	if strings.HasPrefix(text, "@") {
		return ref{}, usageErrorf("%q: write %s for what was made last, or a name", text, latestName)
	}
	return parseRef(text)
}

// find reads the task, the set, or the set of the index that is meant. Of a name without a kind a set is tried first.
func (s *session) find(ctx context.Context, text string) (object, error) {
	name, number, hasIndex := cutIndex(text)
	r, err := s.parse(name)
	if err != nil {
		return object{}, err
	}
	if hasIndex {
		if r.kind != kindSet && r.kind != kindUnsaid {
			return object{}, usageErrorf("%q: %s is no set: only sets have indexes", text, r)
		}
		set, err := s.api.TaskSets(s.namespace).Get(ctx, r.name, metav1.GetOptions{})
		if r.kind == kindUnsaid && missing(err) {
			return object{}, s.noSet(r)
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
		if r.kind == kindSet || !missing(err) {
			return object{}, s.gone(text, r, err)
		}
	}
	task, err := s.api.Tasks(s.namespace).Get(ctx, r.name, metav1.GetOptions{})
	if err == nil {
		return object{task: task}, nil
	}
	if r.kind == kindUnsaid && missing(err) {
		return object{}, fmt.Errorf("no set and no task is named %q in namespace %q: kubectl get tks,tk lists what there is; -n names another namespace", r.name, s.namespace)
	}
	return object{}, s.gone(text, r, err)
}

// noSet returns the error about a name that must be that of a set, and is not.
func (s *session) noSet(r ref) error {
	return fmt.Errorf("no set is named %q in namespace %q: kubectl get tks lists what there is; -n names another namespace", r.name, s.namespace)
}

// gone says of @latest what it was.
func (s *session) gone(text string, r ref, err error) error {
	if text == latestName && missing(err) {
		return fmt.Errorf("%s was %s, and is deleted", latestName, r)
	}
	return err
}

// missing tells whether the object does not exist, and not the whole API.
func missing(err error) bool {
	var status apierrors.APIStatus
	return errors.As(err, &status) && apierrors.IsNotFound(err) && status.Status().Details != nil && status.Status().Details.Name != ""
}

// findSet reads the set that is meant.
func (s *session) findSet(ctx context.Context, text string) (*batch.TaskSet, error) {
	if name, number, ok := cutIndex(text); ok {
		return nil, usageErrorf("%q is index %d of a set: only whole sets can be suspended and resumed: write %s", text, number, name)
	}
	r, err := s.parse(text)
	if err != nil {
		return nil, err
	}
	if r.kind != kindSet && r.kind != kindUnsaid {
		return nil, usageErrorf("%q is no set: only sets can be suspended and resumed; a task can be cancelled", r)
	}
	set, err := s.api.TaskSets(s.namespace).Get(ctx, r.name, metav1.GetOptions{})
	if r.kind == kindUnsaid && missing(err) {
		return nil, s.noSet(r)
	}
	return set, s.gone(text, r, err)
}
