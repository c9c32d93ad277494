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

package chaos

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/generated/clientset/versioned"
	typed "github.com/leat-dev/leat/pkg/generated/clientset/versioned/typed/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit"
	"github.com/leat-dev/leat/test/kit/await"
	"github.com/leat-dev/leat/test/kit/history"
	"github.com/leat-dev/leat/test/kit/setcheck"
)

const (
	completions = 400
	parallelism = workers*workerTasks + 3
	// backoffLimitPerIndex is how often an index may fail and is run again.
	backoffLimitPerIndex = 1
)

// script is the command of each index: short, but for some that take seconds. Some indexes fail the first time and, in
// sets with FAILS, some each time. It is marked when it starts and when it ends.
const script = setcheck.MarkFunction + `
exec 8<>"$DIR/never"
mark start
milliseconds=$((5 + RANDOM % 46)) end=end
case $((TASK_INDEX % 100)) in
11 | 51 | 91) milliseconds=$((1000 + RANDOM % 2000)) ;;
7 | 67) ! mkdir "$MARKS-failed-$TASK_INDEX" 2> /dev/null || end=fail ;;
33) [ -z "$FAILS" ] || end=fail ;;
esac
printf -v seconds %d.%03d $((milliseconds / 1000)) $((milliseconds % 1000))
read -rt $seconds -u 8
mark $end
[ $end = end ]
`

// failsAlways reports whether the command of an index fails each time, in sets with FAILS.
func failsAlways(index int) bool { return index%100 == 33 }

// workload creates one task set after the other with two that depend on it, each when little of the one before is left:
// indexes that have failed wait for ten seconds before they run again.
type workload struct {
	*cluster
	client    typed.TaskSetInterface
	reconnect func()

	mu   sync.Mutex
	sets []set
}

// set is a set that was created.
type set struct {
	name string
	// fails means that some of its indexes fail each time.
	fails bool
}

// want returns what the set must come to.
func (s set) want() setcheck.Want {
	// Faults freeze controller managers, and cut off what they have sent.
	want := setcheck.Want{Set: s.name, Completions: completions, Failures: backoffLimitPerIndex + 1, LateCreations: true}
	if s.fails {
		want.Fails = failsAlways
	}
	return want
}

func newWorkload(s *cluster, config *rest.Config) *workload {
	config, reconnect := reconnecting(config)
	return &workload{cluster: s, reconnect: reconnect, client: kit.Must(versioned.NewForConfig(config))(s).BatchV1alpha1().TaskSets(s.work)}
}

// run creates sets until ctx is done. The last set may be incomplete then.
func (e *workload) run(ctx context.Context) {
	for n := 0; ctx.Err() == nil; n++ {
		s := set{name: fmt.Sprintf("set-%d", n), fails: n%2 == 1}
		e.create(ctx, s, n)
		_ = await.Until(ctx, 24*time.Hour, e.has(s.name, completions*9/10)) // the only error is the end of ctx
	}
}

// create creates a set and remembers it. Most sets have chunks of any size, and some have none or small ones.
func (e *workload) create(ctx context.Context, s set, n int) {
	set := &batch.TaskSet{ObjectMeta: metav1.ObjectMeta{Name: s.name}}
	set.Spec.Completions, set.Spec.Parallelism, set.Spec.CompletionMode = new(int32(completions)), new(int32(parallelism)), new(batch.IndexedCompletion)
	set.Spec.BackoffLimitPerIndex = new(int32(backoffLimitPerIndex))
	if most := []int32{0, 0, 1, 0, 5}[n%5]; most > 0 {
		set.Spec.Chunking = &batch.TaskSetChunking{MaxIndexes: &most}
	}
	template := &set.Spec.Template.Spec
	template.Command = []string{"bash", "-c", script}
	template.Env = []batch.EnvVar{{Name: "MARKS", Value: filepath.Join(e.dir, s.name)}}
	if s.fails {
		template.Env = append(template.Env, batch.EnvVar{Name: "FAILS", Value: "true"})
	}
	template.CrashLimit = new(int32(math.MaxInt32)) // faults kill the workers, not the tasks
	// The sets that depend on it may exist before it.
	all := []*batch.TaskSet{s.last(), set, s.follower()}
	for _, set := range all {
		if e.createSet(ctx, set) != nil {
			return
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.sets = append(e.sets, s)
}

// createSet creates a set. An earlier try may have created it without an answer.
func (e *workload) createSet(ctx context.Context, set *batch.TaskSet) error {
	return await.Until(ctx, patience, func(ctx context.Context) error {
		_, err := e.client.Create(ctx, set, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			return nil
		}
		return err
	})
}

// has returns a condition that is nil once n indexes of the set have succeeded, or the set has ended.
func (e *workload) has(name string, n int32) func(context.Context) error {
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		set, err := e.client.Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			if ctx.Err() != nil {
				e.reconnect()
			}
			return err
		}
		if set.Status.Succeeded < n && !hasEnded(set) {
			return fmt.Errorf("set %s has not ended: %+v", name, set.Status)
		}
		return nil
	}
}

// hasEnded reports whether all indexes of a set have succeeded, or failed for good.
func hasEnded(set *batch.TaskSet) bool {
	return meta.IsStatusConditionTrue(set.Status.Conditions, batch.TaskSetComplete) || meta.IsStatusConditionTrue(set.Status.Conditions, batch.TaskSetFailed)
}

// checkedSet is a set with its check and with the marks of its commands.
type checkedSet struct {
	set
	*setcheck.Result
	marks []setcheck.Mark
}

// verify waits until all sets have ended, and compares each with its history and with the marks of its commands.
func (e *workload) verify(ctx context.Context, changes func() []history.Change) (checks []checkedSet, wrong []string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, s := range e.sets {
		last := s.last().Name
		for _, name := range []string{s.name, s.follower().Name, last} {
			if err := await.Until(ctx, patience, e.has(name, math.MaxInt32)); err != nil {
				wrong = append(wrong, fmt.Sprintf("%v after %s", err, patience))
			}
		}
		data, err := os.ReadFile(filepath.Join(e.dir, s.name))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			wrong = append(wrong, err.Error())
		}
		marks, err := setcheck.ParseMarks(string(data))
		if err != nil {
			wrong = append(wrong, err.Error())
		}
		// The history learns of a change some time after the servers.
		_ = await.Until(ctx, patience, func(context.Context) error {
			for _, c := range changes() {
				if c.SetAfter != nil && c.SetAfter.Name == last && hasEnded(c.SetAfter) {
					return nil
				}
			}
			return await.ErrNotYet
		})
		check := setcheck.Check(changes(), marks, s.want())
		checks, wrong = append(checks, checkedSet{s, check, marks}), append(wrong, check.Wrong...)
		wrong = append(wrong, s.checkDependencies(changes())...)
	}
	return checks, wrong
}
