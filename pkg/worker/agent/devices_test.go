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

package agent

import (
	"os"
	"testing"

	"k8s.io/apimachinery/pkg/api/resource"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/worker/processtest"
)

func TestTasksThatRunTogetherSeeDifferentGPUs(t *testing.T) {
	t.Setenv("CUDA_VISIBLE_DEVICES", "4,6")
	f := newFixture(t)
	w := f.start(slots(3), func(o *Options) { o.Capacity[batch.ResourceGPU] = resource.MustParse("2") })
	const show = `printf "$LEAT_DEVICES_NVIDIA_COM_GPU $CUDA_VISIBLE_DEVICES" >`
	onGPU := func(name string) *batch.Task {
		task := script(show + f.file(name) + "; while [ ! -e " + f.file("go") + " ]; do sleep 0.01; done")
		task.Spec.Resources.Requests = batch.ResourceList{batch.ResourceGPU: resource.MustParse("1")}
		return task
	}
	content := func(name string) string {
		out, _ := os.ReadFile(f.file(name))
		return string(out)
	}
	f.run(w, "first", onGPU("first"))
	processtest.Eventually(t, "the first task has a GPU", func() bool { return content("first") == "0 4" })
	f.run(w, "second", onGPU("second"))
	processtest.Eventually(t, "the second task has the other GPU", func() bool { return content("second") == "1 6" })
	f.run(w, "without", script(show+f.file("without")))
	processtest.Eventually(t, "a task without GPUs sees none", func() bool { return content("without") == " " })
	f.must(os.WriteFile(f.file("go"), nil, 0o644))
}
