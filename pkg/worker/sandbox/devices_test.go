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

package sandbox

import (
	"slices"
	"testing"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

func TestVisibleGPUs(t *testing.T) {
	const cuda = "CUDA_VISIBLE_DEVICES"
	for name, test := range map[string]struct {
		inherited string
		task      batch.TaskSpec
		devices   map[batch.ResourceName][]int
		want      []string
	}{
		"none is requested":        {"", batch.TaskSpec{}, nil, []string{cuda + "="}},
		"the task chooses itself":  {"", batch.TaskSpec{Env: []batch.EnvVar{{Name: cuda, Value: "1"}}}, nil, []string{cuda + "=1"}},
		"two are requested":        {"", batch.TaskSpec{}, map[batch.ResourceName][]int{batch.ResourceGPU: {0, 3}}, []string{cuda + "=0,3", "LEAT_DEVICES_NVIDIA_COM_GPU=0,3"}},
		"the worker has some only": {"2,GPU-5,7", batch.TaskSpec{}, map[batch.ResourceName][]int{batch.ResourceGPU: {1, 2}}, []string{cuda + "=GPU-5,7", "LEAT_DEVICES_NVIDIA_COM_GPU=1,2"}},
		"another device":           {"2", batch.TaskSpec{}, map[batch.ResourceName][]int{"example.com/tape-drive": {1}}, []string{cuda + "=", "LEAT_DEVICES_EXAMPLE_COM_TAPE_DRIVE=1"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := &Sandbox{inheritedEnv: []variable{{cuda, cuda + "=" + test.inherited}}}
			s.hideGPUs()
			c := newCommand(&batch.Task{Spec: test.task}, 1, "", s.deviceVariables(test.devices), s.inheritedEnv)
			env := slices.DeleteFunc(c.Env, func(entry string) bool { return len(entry) > 5 && entry[:5] == "TASK_" })
			if slices.Sort(env); !slices.Equal(env, test.want) {
				t.Errorf("got environment %q, want %q", env, test.want)
			}
		})
	}
}
