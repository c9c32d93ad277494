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

// Package plugins lists the filters of the scheduler.
package plugins

import (
	"github.com/leat-dev/leat/pkg/scheduler/framework"
	"github.com/leat-dev/leat/pkg/scheduler/framework/plugins/tainttoleration"
	"github.com/leat-dev/leat/pkg/scheduler/framework/plugins/taskisolation"
	"github.com/leat-dev/leat/pkg/scheduler/framework/plugins/workerdenied"
	"github.com/leat-dev/leat/pkg/scheduler/framework/plugins/workerfeatures"
	"github.com/leat-dev/leat/pkg/scheduler/framework/plugins/workerpool"
	"github.com/leat-dev/leat/pkg/scheduler/framework/plugins/workerready"
	"github.com/leat-dev/leat/pkg/scheduler/framework/plugins/workerresources"
	"github.com/leat-dev/leat/pkg/scheduler/framework/plugins/workerselector"
	"github.com/leat-dev/leat/pkg/scheduler/framework/plugins/workerunschedulable"
)

// NewFilters returns all filters, those with the reasons that matter most first.
func NewFilters() framework.Filters {
	return framework.Filters{
		workerdenied.WorkerDenied{},
		workerready.WorkerReady{},
		workerunschedulable.WorkerUnschedulable{},
		tainttoleration.TaintToleration{},
		workerpool.WorkerPool{},
		workerselector.WorkerSelector{},
		workerfeatures.WorkerFeatures{},
		taskisolation.TaskIsolation{},
		workerresources.WorkerResources{},
	}
}
