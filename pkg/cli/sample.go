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
	"io"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/cli/progress"
	"github.com/leat-dev/leat/pkg/cli/taskstate"
	"github.com/leat-dev/leat/pkg/generated/clientset/versioned"
)

// Sample creates a set named hello in the namespace, shows its progress on out and returns when it has finished.
func Sample(ctx context.Context, config *rest.Config, namespace string, out io.Writer) error {
	client, err := versioned.NewForConfig(config)
	if err != nil {
		return err
	}
	s := &session{client: client, api: client.BatchV1alpha1(), namespace: namespace}
	set := &batch.TaskSet{ObjectMeta: metav1.ObjectMeta{Name: "hello"}}
	set.Spec.CompletionMode = ptr.To(batch.IndexedCompletion)
	set.Spec.Completions, set.Spec.Parallelism = ptr.To[int32](100), ptr.To[int32](20)
	set.Spec.Template.Spec.Command = []string{"sh", "-c", "echo Hello from $TASK_NAME"}
	set, err = s.api.TaskSets(namespace).Create(ctx, set, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	fmt.Fprintln(out, "\nA first set of tasks, hello:")
	renderer := progress.New(out)
	err = s.watchSet(ctx, set, func(current *batch.TaskSet) bool {
		set = current
		renderer.Update(taskstate.Progress(current))
		return taskstate.Finished(current) != nil
	})
	renderer.Stop()
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "taskset/%s: %s\n", set.Name, taskstate.Finished(set).Type)
	return nil
}
