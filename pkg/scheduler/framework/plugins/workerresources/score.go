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

package workerresources

import (
	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/scheduler/framework"
)

// LeastAllocated returns a score for which the worker with the lowest utilization is the best. Lower scores are better.
func LeastAllocated(worker *framework.WorkerInfo) float64 { return utilization(worker) }

// MostAllocated returns a score for which the worker with the highest utilization is the best. Lower scores are better.
func MostAllocated(worker *framework.WorkerInfo) float64 { return -utilization(worker) }

// utilization returns the mean of the used parts of all resources of the worker.
func utilization(worker *framework.WorkerInfo) float64 {
	sum, n := 0.0, 0
	for name, allocatable := range worker.Allocatable {
		if allocatable <= 0 {
			continue
		}
		used := worker.Used[name]
		if name == batch.ResourceTasks {
			used = worker.Tasks
		}
		sum += float64(used) / float64(allocatable)
		n++
	}
	if n == 0 {
		return 0
	}
	return sum / float64(n)
}
