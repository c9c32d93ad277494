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

package product

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/utils/ptr"

	"github.com/leat-dev/leat/apis/batch/indexes"
	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/host"
	"github.com/leat-dev/leat/test/kit/pages"
)

var followedIndexes = flag.Int("followed-indexes", 400, "number of indexes of the set that follows another")

// after makes a set wait for others.
func after(condition batch.TaskSetDependencyCondition, names ...string) func(*batch.TaskSet) {
	return func(set *batch.TaskSet) {
		for _, name := range names {
			set.Spec.DependsOn = append(set.Spec.DependsOn, batch.TaskSetDependency{Name: name, Condition: condition})
		}
	}
}

// logsTo makes a set of one task append its name to a file, and succeed if no word of fails is the name.
func logsTo(file, name, fails string) func(*batch.TaskSet) {
	return runsScript(fmt.Sprintf("echo %s >> %s; case ' %s ' in *' %s '*) exit 1;; esac", name, file, fails, name))
}

func (s *taskSetSuite) diamond(t *testing.T) {
	file := filepath.Join(t.TempDir(), "order")
	s.createNamed(t, "diamond-d", logsTo(file, "d", ""), after("", "diamond-b", "diamond-c"))
	s.createNamed(t, "diamond-b", logsTo(file, "b", ""), after("", "diamond-a"))
	s.createNamed(t, "diamond-c", logsTo(file, "c", ""), after("", "diamond-a"))
	set := s.waitForTaskSet(t, "diamond-b", "the set waits", func(set *batch.TaskSet) bool {
		return reason(set, batch.TaskSetDependenciesMet) == batch.TaskSetReasonWaiting
	})
	if set.Status.StartTime != nil || len(s.tasks(t, "diamond-b")) > 0 {
		t.Errorf("got status %+v", set.Status)
	}
	s.createNamed(t, "diamond-a", logsTo(file, "a", ""))
	s.waitForTaskSet(t, "diamond-d", "the set is complete", isTrue(batch.TaskSetComplete))
	order := strings.Fields(string(kit.Must(os.ReadFile(file))(t)))
	if len(order) != 4 || order[0] != "a" || order[3] != "d" {
		t.Errorf("the order is %v", order)
	}
}

func (s *taskSetSuite) dependencyFails(t *testing.T) {
	file := filepath.Join(t.TempDir(), "order")
	noRetry := func(set *batch.TaskSet) { set.Spec.BackoffLimit = ptr.To[int32](0) }
	s.createNamed(t, "fails", logsTo(file, "fails", "fails"), noRetry)
	s.createNamed(t, "after-success", logsTo(file, "after-success", ""), after("", "fails"))
	s.createNamed(t, "after-success-of-that", logsTo(file, "after-success-of-that", ""), after("", "after-success"))
	s.createNamed(t, "after-failure", logsTo(file, "after-failure", ""), after(batch.TaskSetDependencyFailed, "fails"))
	s.createNamed(t, "after-any", logsTo(file, "after-any", ""), after(batch.TaskSetDependencyFinished, "fails", "after-success-of-that", "after-failure"))
	s.waitForTaskSet(t, "after-any", "the set is complete", isTrue(batch.TaskSetComplete))
	for _, name := range []string{"after-success", "after-success-of-that"} {
		set := s.waitForTaskSet(t, name, "the set has failed", isTrue(batch.TaskSetFailed))
		if reason(set, batch.TaskSetFailed) != batch.TaskSetReasonDependencyFailed || reason(set, batch.TaskSetDependenciesMet) != batch.TaskSetReasonDependencyFailed {
			t.Errorf("set %s: got status %+v", name, set.Status)
		}
	}
	if order := string(kit.Must(os.ReadFile(file))(t)); order != "fails\nafter-failure\nafter-any\n" {
		t.Errorf("the order is %q", order)
	}
}

// dependencyComesAndGoes has sets wait for one that does not exist, ends, is deleted, and is created again.
func (s *taskSetSuite) dependencyComesAndGoes(t *testing.T) {
	seen := func(set *batch.TaskSet) bool { return len(set.Status.Dependencies) > 0 }
	s.createNamed(t, "early", runsScript("true"), after("", "comes"))
	s.waitForTaskSet(t, "early", "the set waits", func(set *batch.TaskSet) bool { return reason(set, batch.TaskSetDependenciesMet) != "" })
	dir := s.createNamed(t, "comes", runsScript(runUntilGo))
	s.waitForTaskSet(t, "early", "the other is seen", seen)
	touch(t, filepath.Join(dir, "go"))
	s.waitForTaskSet(t, "early", "the set is complete", isTrue(batch.TaskSetComplete))

	s.createNamed(t, "late", runsScript("true"), after("", "comes"))
	s.waitForTaskSet(t, "late", "the set is complete, because the other had ended before", isTrue(batch.TaskSetComplete))

	s.createNamed(t, "goes", runsScript(runUntilGo))
	s.createNamed(t, "abandoned", runsScript("true"), after(batch.TaskSetDependencyFinished, "goes"))
	s.waitForTaskSet(t, "abandoned", "the other is seen", seen)
	kit.Check(t, s.api.TaskSets(s.namespace).Delete(t.Context(), "goes", metav1.DeleteOptions{
		PropagationPolicy: ptr.To(metav1.DeletePropagationBackground),
	}))
	s.waitForTaskSetGone(t, "goes")
	s.createNamed(t, "goes", runsScript("true"))
	set := s.waitForTaskSet(t, "abandoned", "the set has failed", isTrue(batch.TaskSetFailed))
	if reason(set, batch.TaskSetFailed) != batch.TaskSetReasonDependencyFailed {
		t.Errorf("got status %+v", set.Status)
	}
}

// followsEachIndex runs a set of short commands and one that follows it. 1 % of the commands of the first one fail.
// Each command of the second one needs the file of the same index.
func (s *taskSetSuite) followsEachIndex(t *testing.T) {
	count := int32(*followedIndexes)
	dir := t.TempDir()
	perIndex := func(other string) func(*batch.TaskSet) {
		return func(set *batch.TaskSet) {
			set.Spec.BackoffLimitPerIndex = ptr.To[int32](0)
			if other != "" {
				set.Spec.DependsOn = []batch.TaskSetDependency{{Name: other, PerIndex: true}}
			}
		}
	}
	for _, name := range []string{"first", "second"} {
		kit.Check(t, os.Mkdir(filepath.Join(dir, name), 0o700))
	}
	file := func(name string) string { return filepath.Join(dir, name) + "/$TASK_INDEX" }
	s.createNamed(t, "second", indexed(count, 100), perIndex("first"), runsScript(fmt.Sprintf(`[ -e %s ] && : > %s`, file("first"), file("second"))))
	s.createNamed(t, "first", indexed(count, 100), perIndex(""), runsScript(fmt.Sprintf(`[ $((TASK_INDEX %% 100)) -ne 37 ] && : > %s`, file("first"))))
	var failing []int
	for index := 37; index < int(count); index += 100 {
		failing = append(failing, index)
	}
	want := indexes.Format(indexes.Of(failing))
	for _, name := range []string{"first", "second"} {
		set := s.waitForTaskSet(t, name, "the set has failed", isTrue(batch.TaskSetFailed))
		if got := ptr.Deref(set.Status.FailedIndexes, ""); got != want || int(set.Status.Succeeded) != int(count)-len(failing) {
			t.Errorf("set %s: %d succeeded, %s failed, want %s", name, set.Status.Succeeded, got, want)
		}
		if name != "first" && set.Status.Failed != 0 {
			t.Errorf("set %s: %d tasks have failed: they started before the files of the other set existed", name, set.Status.Failed)
		}
	}
}

func (s *taskSetSuite) cancelledIndexes(t *testing.T) {
	name, dir := s.create(t, indexed(6, 3), runsScript(runUntilGo), func(set *batch.TaskSet) {
		set.Spec.BackoffLimitPerIndex = ptr.To[int32](0)
		set.Spec.CancelledIndexes = "5"
	})
	s.waitForTaskSet(t, name, "three tasks run", haveReady(3))
	s.change(t, name, func(set *batch.TaskSet) { set.Spec.CancelledIndexes = "0,3,5" })
	s.waitForTaskSet(t, name, "others run instead", func(set *batch.TaskSet) bool {
		return ptr.Deref(set.Status.FailedIndexes, "") == "0,3,5" && ptr.Deref(set.Status.Ready, 0) == 3
	})
	touch(t, filepath.Join(dir, "go"))
	set := s.waitForTaskSet(t, name, "the set has failed", isTrue(batch.TaskSetFailed))
	if set.Status.CompletedIndexes != "1,2,4" || ptr.Deref(set.Status.FailedIndexes, "") != "0,3,5" || set.Status.Failed != 0 ||
		reason(set, batch.TaskSetFailed) != batch.TaskSetReasonFailedIndexes {
		t.Errorf("got status %+v", set.Status)
	}
}

// pipelineOfTheDocs runs the sets of the page about pipelines, the last one first.
func (s *taskSetSuite) pipelineOfTheDocs(t *testing.T) {
	root := kit.Must(host.RepositoryRoot())(t)
	manifest := kit.Must(os.ReadFile(filepath.Join(root, "artifacts", "examples", "pipeline.yaml")))(t)
	page := string(kit.Must(os.ReadFile(filepath.Join(root, "docs", "how-to", "pipelines.md")))(t))
	if blocks := pages.Blocks(page, "yaml"); len(blocks) == 0 || strings.TrimSpace(blocks[0]) != strings.TrimSpace(string(manifest)) {
		t.Error("the first manifest of the page is not artifacts/examples/pipeline.yaml")
	}
	var sets []*batch.TaskSet
	for decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(manifest), 4096); ; {
		set := &batch.TaskSet{}
		err := decoder.Decode(set)
		if errors.Is(err, io.EOF) {
			break
		}
		kit.Check(t, err)
		sets = append(sets, set)
	}
	for i := len(sets) - 1; i >= 0; i-- {
		s.createNamed(t, sets[i].Name, func(set *batch.TaskSet) {
			env := set.Spec.Template.Spec.Env
			set.Spec = sets[i].Spec
			set.Spec.Template.Spec.Env = append(set.Spec.Template.Spec.Env, env...)
		})
	}
	for _, set := range sets {
		s.waitForTaskSet(t, set.Name, "the set is complete", isTrue(batch.TaskSetComplete))
	}
}

func (s *cliSuite) runsAfterOthers(t *testing.T) {
	mark := filepath.Join(t.TempDir(), "mark")
	s.leat(t, "run", "--name=prepare", "--array=2", "--", "sh", "-c", "while ! [ -e "+mark+" ]; do sleep 0.05; done").expect(t, 0, "created", "^$")
	s.leat(t, "run", "--name=use", "--after=prepare,arrives", "--", "true").expect(t, 0, `^taskset\.batch\.leat\.dev/use created\n$`,
		`^taskset/arrives does not exist yet: taskset/use waits until it is created and ends\.\n$`)
	s.leat(t, "list").expect(t, 0, `taskset/use +Waiting for prepare, arrives +0/1`, "^$")
	s.leat(t, "explain", "use").expect(t, 0, `(?s)^taskset/use waits for other sets, for .*Waits for +taskset/prepare: running, 0/2 succeeded\n.*`+
		`Waits for +taskset/arrives: it does not exist yet; create it, or delete taskset/use\n`, "^$")
	s.leat(t, "explain", "use/0").expect(t, 0, `^taskset/use/0 has no task: the set waits for prepare, arrives\.\n`, "^$")
	s.leat(t, "run", "--name=arrives", "--", "true").expect(t, 0, "^task", "^$")
	s.leat(t, "run", "--name=arrives", "--array=1", "--", "true").expect(t, 0, "^taskset", "^$")
	s.leat(t, "run", "--name=each", "--array=2", "--after-each=prepare", "--", "true").expect(t, 0, "created", "^$")
	touch(t, mark)
	s.leat(t, "wait", "use", "each").expect(t, 0, "", "is complete")

	s.leat(t, "run", "--name=egg", "--after=hen", "--", "true").expect(t, 0, "created", "hen does not exist yet")
	s.leat(t, "run", "--name=hen", "--after=egg", "--", "true").expect(t, 0, "created", "^$")
	s.leat(t, "explain", "hen").expect(t, 0, `these sets wait for each other, and none can start: taskset/hen waits for taskset/egg waits for taskset/hen\. Delete one`, "^$")
	s.leat(t, "delete", "egg", "hen").expect(t, 0, "deleted", "^$")

	s.leat(t, "run", "--name=breaks", "--array=2", "--", "sh", "-c", `[ $TASK_INDEX = 0 ] || [ -e `+mark+`2 ]`).expect(t, 0, "created", "^$")
	s.leat(t, "run", "--name=needs", "--after=breaks", "--wait", "--", "true").expect(t, 1, "created", `has failed`)
	s.leat(t, "explain", "needs").expect(t, 0, `^taskset/needs has failed: DependencyFailed: TaskSet breaks is Failed \(FailedIndexes\) and had to be Complete\n`, "^$")
	s.leat(t, "retry", "needs").expect(t, 1, "^$", `taskset/needs waits for taskset/breaks, which has ended \(Failed\): leat retry taskset/breaks first`)
	touch(t, mark+"2")
	s.leat(t, "retry", "breaks").expect(t, 0, "breaks-retry-1 created", "^$")
	s.leat(t, "retry", "needs", "--wait").expect(t, 0, "needs-retry-1 created", "is complete")
}

func (s *cliSuite) cancelsIndexes(t *testing.T) {
	mark := filepath.Join(t.TempDir(), "mark")
	s.leat(t, "run", "--name=partly", "--array=10-50:10", "--", "sh", "-c", "while ! [ -e "+mark+" ]; do sleep 0.05; done").expect(t, 0, "created", "^$")
	s.waitForTaskSet(t, "partly", "all tasks run", haveReady(5))
	s.leat(t, "cancel", "partly", "--index", "20,30").expect(t, 0, `^taskset\.batch\.leat\.dev/partly: indexes 20,30 cancelled\n$`, "^$")
	s.leat(t, "cancel", "partly", "--index", "11").expect(t, 2, "^$", "taskset/partly has no index 11")
	s.leat(t, "explain", "partly/20").expect(t, 0, `^taskset/partly/20 was cancelled\.\n`, "^$")
	touch(t, mark)
	s.leat(t, "wait", "partly").expect(t, 1, "^$", "3 of 5 succeeded")
	s.leat(t, "retry", "partly", "--wait").expect(t, 0, `created \(2 indexes of 5\)`, "is complete")
}
