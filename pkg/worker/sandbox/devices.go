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
	"strconv"
	"strings"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

const (
	// devicesPrefix precedes the name of a resource in the variable with the devices of an attempt.
	devicesPrefix = "LEAT_DEVICES_"
	// cudaVariable lists the GPUs that a program with CUDA may use.
	cudaVariable = "CUDA_VISIBLE_DEVICES"
)

// hideGPUs makes the GPUs of the worker invisible to commands by default. It remembers how the worker's environment
// names them: a batch system on the machine may have given the worker some GPUs only.
func (s *Sandbox) hideGPUs() {
	s.inheritedEnv = slices.DeleteFunc(s.inheritedEnv, func(v variable) bool {
		if v.name != cudaVariable {
			return false
		}
		if _, value, _ := strings.Cut(v.entry, "="); value != "" {
			s.gpus = strings.Split(value, ",")
		}
		return true
	})
	s.inheritedEnv = append(s.inheritedEnv, variable{cudaVariable, cudaVariable + "="})
}

// deviceVariables returns the variables that tell an attempt its devices: LEAT_DEVICES_NVIDIA_COM_GPU=0,3 for two of
// nvidia.com/gpu, which are also in CUDA_VISIBLE_DEVICES.
func (s *Sandbox) deviceVariables(devices map[batch.ResourceName][]int) map[string]string {
	variables := map[string]string{}
	for name, numbers := range devices {
		variables[devicesPrefix+variableName(string(name))] = joined(numbers, strconv.Itoa)
		if name == batch.ResourceGPU {
			variables[cudaVariable] = joined(numbers, s.gpu)
		}
	}
	return variables
}

// gpu returns how CUDA names a GPU of the worker.
func (s *Sandbox) gpu(number int) string {
	if number < len(s.gpus) {
		return s.gpus[number]
	}
	return strconv.Itoa(number)
}

// variableName returns the name of a resource as a part of a variable's name: NVIDIA_COM_GPU for nvidia.com/gpu.
func variableName(resource string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, strings.ToUpper(resource))
}

func joined(numbers []int, text func(int) string) string {
	texts := make([]string, len(numbers))
	for i, number := range numbers {
		texts[i] = text(number)
	}
	return strings.Join(texts, ",")
}
