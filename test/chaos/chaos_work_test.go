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

	"github.com/leat-dev/leat/test/kit"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/generated/clientset/versioned"
	typed "github.com/leat-dev/leat/pkg/generated/clientset/versioned/typed/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit/await"
)

const (
	completions = 120
	parallelism = workers*workerTasks + 3
)

// script is the command of each index: it tells when it starts and when it ends.
const script = `
exec 8<>"$DIR/never"
mark() { echo "$1 $TASK_INDEX $TASK_NAME $WORKER ${EPOCHREALTIME/[.,]/}" >> "$DIR/$SET"; }
mark start
read -rt "0.$((RANDOM % 6))5" -u 8
mark end
`

// employer creates one set after the other and waits until each is complete.
type employer struct {
	*cluster
	sets      typed.TaskSetInterface
	reconnect func()

	mu    sync.Mutex
	names []string
}

func newEmployer(s *cluster, config *rest.Config) *employer {
	config, reconnect := reconnecting(config)
	return &employer{cluster: s, reconnect: reconnect, sets: kit.Must(versioned.NewForConfig(config))(s).BatchV1alpha1().TaskSets(s.work)}
}

// run creates sets until ctx is done. The last one may be unfinished.
func (e *employer) run(ctx context.Context) {
	for n := 0; ctx.Err() == nil; n++ {
		name := fmt.Sprintf("set-%d", n)
		e.create(ctx, name)
		_ = await.Until(ctx, 24*time.Hour, e.complete(name)) // if it ends, the run is over
	}
}

func (e *employer) create(ctx context.Context, name string) {
	set := &batch.TaskSet{ObjectMeta: metav1.ObjectMeta{Name: name}}
	set.Spec.Completions, set.Spec.Parallelism, set.Spec.CompletionMode = new(int32(completions)), new(int32(parallelism)), new(batch.IndexedCompletion)
	set.Spec.Template.Spec.Command = []string{"bash", "-c", script}
	set.Spec.Template.Spec.Env = []batch.EnvVar{{Name: "SET", Value: name}}
	set.Spec.Template.Spec.CrashLimit = new(int32(math.MaxInt32)) // workers are killed here, and not by their tasks
	// It is asked for until it is there: that it is there already is as good.
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

func (e *employer) complete(name string) func(context.Context) error {
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

// verify waits for the end of all sets, and holds each to its history and to what its commands have left behind.
func (e *employer) verify(ctx context.Context, history func() []change) (accounts []*account, wrong []string) {
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
		// What servers say is so when etcd has it; what etcd has is heard of some time later.
		_ = await.Until(ctx, patience, func(context.Context) error {
			for _, c := range history() {
				if c.setNow != nil && c.setNow.Name == name && meta.IsStatusConditionTrue(c.setNow.Status.Conditions, batch.TaskSetComplete) {
					return nil
				}
			}
			return await.ErrNotYet
		})
		a := checkSet(history(), effects, name, completions)
		accounts, wrong = append(accounts, a), append(wrong, a.wrong...)
	}
	return accounts, wrong
}
