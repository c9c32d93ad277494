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
)

const (
	completions = 120
	parallelism = workers*workerTasks + 3
)

// script is the command of each index. It appends a mark to the file of the set when it starts and when it ends.
const script = `
exec 8<>"$DIR/never"
mark() { echo "$1 $TASK_INDEX $TASK_NAME $WORKER ${EPOCHREALTIME/[.,]/}" >> "$DIR/$SET"; }
mark start
read -rt "0.$((RANDOM % 6))5" -u 8
mark end
`

// workload creates one task set after the other, each when the one before is complete.
type workload struct {
	*cluster
	sets      typed.TaskSetInterface
	reconnect func()

	mu    sync.Mutex
	names []string
}

func newWorkload(s *cluster, config *rest.Config) *workload {
	config, reconnect := reconnecting(config)
	return &workload{cluster: s, reconnect: reconnect, sets: kit.Must(versioned.NewForConfig(config))(s).BatchV1alpha1().TaskSets(s.work)}
}

// run creates sets until ctx is done. The last set may be incomplete then.
func (e *workload) run(ctx context.Context) {
	for n := 0; ctx.Err() == nil; n++ {
		name := fmt.Sprintf("set-%d", n)
		e.create(ctx, name)
		_ = await.Until(ctx, 24*time.Hour, e.complete(name)) // the only error is the end of ctx
	}
}

// create creates a set and remembers its name.
func (e *workload) create(ctx context.Context, name string) {
	set := &batch.TaskSet{ObjectMeta: metav1.ObjectMeta{Name: name}}
	set.Spec.Completions, set.Spec.Parallelism, set.Spec.CompletionMode = new(int32(completions)), new(int32(parallelism)), new(batch.IndexedCompletion)
	set.Spec.Template.Spec.Command = []string{"bash", "-c", script}
	set.Spec.Template.Spec.Env = []batch.EnvVar{{Name: "SET", Value: name}}
	set.Spec.Template.Spec.CrashLimit = new(int32(math.MaxInt32)) // faults kill the workers, not the tasks
	// An earlier try may have created it without an answer.
	err := await.Until(ctx, patience, func(ctx context.Context) error {
		_, err := e.sets.Create(ctx, set, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			return nil
		}
		return err
	})
	if err == nil {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.names = append(e.names, name)
	}
}

// complete returns a condition that is nil once the set is complete.
func (e *workload) complete(name string) func(context.Context) error {
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		set, err := e.sets.Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			if ctx.Err() != nil {
				e.reconnect()
			}
			return err
		}
		if !meta.IsStatusConditionTrue(set.Status.Conditions, batch.TaskSetComplete) {
			return fmt.Errorf("set %s is not complete: %+v", name, set.Status)
		}
		return nil
	}
}

// verify waits until all sets are complete, and compares each with its history and with the marks of its commands.
func (e *workload) verify(ctx context.Context, changes func() []history.Change) (checks []*setCheck, wrong []string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, name := range e.names {
		if err := await.Until(ctx, patience, e.complete(name)); err != nil {
			wrong = append(wrong, fmt.Sprintf("%v after %s", err, patience))
		}
		data, err := os.ReadFile(filepath.Join(e.dir, name))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			wrong = append(wrong, err.Error())
		}
		effects, err := parseEffects(string(data))
		if err != nil {
			wrong = append(wrong, err.Error())
		}
		// The history learns of a change some time after the servers.
		_ = await.Until(ctx, patience, func(context.Context) error {
			for _, c := range changes() {
				if c.SetAfter != nil && c.SetAfter.Name == name && meta.IsStatusConditionTrue(c.SetAfter.Status.Conditions, batch.TaskSetComplete) {
					return nil
				}
			}
			return await.ErrNotYet
		})
		check := checkSet(changes(), effects, name, completions)
		checks, wrong = append(checks, check), append(wrong, check.wrong...)
	}
	return checks, wrong
}
