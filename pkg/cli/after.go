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
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/cli/taskstate"
)

// afterOptions are the flags of "run" that name the sets to wait for.
type afterOptions struct {
	complete, finished, failed, each []string
}

func (o *afterOptions) addFlags(flags *pflag.FlagSet) {
	flags.StringSliceVar(&o.complete, "after", nil, "Sets that must succeed before this set starts, like a,b")
	flags.StringSliceVar(&o.finished, "after-any", nil, "Sets that must end before, whether they succeed or fail")
	flags.StringSliceVar(&o.failed, "after-failed", nil, "Sets that must fail before")
	flags.StringSliceVar(&o.each, "after-each", nil, "Sets with the same indexes: each index starts once the same index has succeeded there")
}

// dependencies returns the sets to wait for.
func (o *afterOptions) dependencies() ([]batch.TaskSetDependency, error) {
	var all []batch.TaskSetDependency
	for _, flag := range []struct {
		name      string
		sets      []string
		condition batch.TaskSetDependencyCondition
		perIndex  bool
	}{
		{"after", o.complete, batch.TaskSetDependencyComplete, false},
		{"after-any", o.finished, batch.TaskSetDependencyFinished, false},
		{"after-failed", o.failed, batch.TaskSetDependencyFailed, false},
		{"after-each", o.each, batch.TaskSetDependencyComplete, true},
	} {
		for _, text := range flag.sets {
			r, err := parseRef(text)
			switch {
			case err != nil || r.kind != kindSet && r.kind != kindUnspecified:
				return nil, usageErrorf("--%s %q: write names of sets, like a,b; to wait for a single command, run it as a set with --array 1", flag.name, text)
			case slices.ContainsFunc(all, func(d batch.TaskSetDependency) bool { return d.Name == r.name }):
				return nil, usageErrorf("--%s %s: taskset/%s is named twice: write it once", flag.name, text, r.name)
			}
			all = append(all, batch.TaskSetDependency{Name: r.name, Condition: flag.condition, PerIndex: flag.perIndex})
		}
	}
	return all, nil
}

// warnOfMissing warns of sets that a new one waits for and that do not exist, because their names may be misspelled.
func (f *factory) warnOfMissing(ctx context.Context, s *session, set *batch.TaskSet) {
	for _, name := range taskstate.WaitsFor(set) {
		if _, err := s.api.TaskSets(s.namespace).Get(ctx, name, metav1.GetOptions{}); objectNotFound(err) {
			fmt.Fprintf(f.streams.ErrOut, "taskset/%s does not exist yet: taskset/%s waits until it is created and ends.\n", name, set.Name)
		}
	}
}

// maxCycleSets is the maximum number of sets that are read in search of a cycle.
const maxCycleSets = 200

// cycleOf returns the names of sets that wait for each other in a circle, which begins and ends with the same name. It
// returns nil if the set does not wait for such a circle.
func (s *session) cycleOf(ctx context.Context, set *batch.TaskSet) ([]string, error) {
	visited := map[string]bool{set.Name: true}
	var path []string
	var visit func(set *batch.TaskSet) ([]string, error)
	visit = func(set *batch.TaskSet) ([]string, error) {
		path = append(path, set.Name)
		for _, name := range taskstate.WaitsFor(set) {
			if i := slices.Index(path, name); i >= 0 {
				return append(slices.Clone(path[i:]), name), nil
			}
			if visited[name] || len(visited) >= maxCycleSets {
				continue
			}
			other, err := s.api.TaskSets(s.namespace).Get(ctx, name, metav1.GetOptions{})
			visited[name] = true
			switch {
			case objectNotFound(err) || err == nil && taskstate.Finished(other) != nil:
				continue
			case err != nil:
				return nil, err
			}
			if cycle, err := visit(other); cycle != nil || err != nil {
				return cycle, err
			}
		}
		path = path[:len(path)-1]
		return nil, nil
	}
	return visit(set)
}

// dependencies prints what an unfinished set waits for.
func (e *explainer) dependencies(ctx context.Context, set *batch.TaskSet) error {
	unmet := taskstate.UnmetDependencies(set)
	for _, dependency := range unmet {
		must := map[batch.TaskSetDependencyCondition]string{
			batch.TaskSetDependencyFailed: " to fail", batch.TaskSetDependencyFinished: " to end",
		}[dependency.Condition]
		about := "Waits for"
		if dependency.PerIndex {
			about = "Follows"
		}
		other, err := e.s.api.TaskSets(e.s.namespace).Get(ctx, dependency.Name, metav1.GetOptions{})
		switch {
		case objectNotFound(err):
			e.line(about, "taskset/%s%s: it does not exist yet; create it, or delete taskset/%s", dependency.Name, must, set.Name)
			continue
		case err != nil:
			return err
		}
		state := strings.ToLower(taskstate.StatusOfUnfinished(other))
		if final := taskstate.Finished(other); final != nil {
			state = "has ended: " + taskstate.StatusOfFinished(final)
		}
		s := taskstate.Progress(other)
		if s.Failed > 0 {
			state += fmt.Sprintf(", %d failed", s.Failed)
		}
		e.line(about, "taskset/%s%s: %s, %s succeeded", dependency.Name, must, state, doneOf(s))
	}
	if len(unmet) == 0 {
		return nil
	}
	cycle, err := e.s.cycleOf(ctx, set)
	if err != nil || cycle == nil {
		return err
	}
	e.line("Problem", "these sets wait for each other, and none can start: %s. Delete one of them, and create it without the dependency",
		"taskset/"+strings.Join(cycle, " waits for taskset/"))
	return nil
}

// indexWaits returns the set whose index an index of a set waits for, empty if it waits for none.
func (e *explainer) indexWaits(ctx context.Context, set *batch.TaskSet, index int) (string, error) {
	for _, dependency := range taskstate.UnmetDependencies(set) {
		if !dependency.PerIndex {
			continue
		}
		other, err := e.s.api.TaskSets(e.s.namespace).Get(ctx, dependency.Name, metav1.GetOptions{})
		switch {
		case err != nil && !objectNotFound(err):
			return "", err
		case err != nil || !isIn(other.Status.CompletedIndexes, index):
			return dependency.Name, nil
		}
	}
	return "", nil
}
