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

// Package metrics lists the metrics of the controllers. Each package registers its metrics with the registry of
// controller-runtime, in its file metrics.go. docs/reference/metrics.md describes them all.
package metrics

// Names of metrics.
const (
	// Metrics of the TaskSet controller.
	TaskSetsFinishedTotal           = "leat_tasksets_finished_total"
	TaskSetTasksFinishedTotal       = "leat_taskset_tasks_finished_total"
	FinishedIndexesTotal            = "leat_finished_indexes_total"
	TaskSetTaskCreationsTotal       = "leat_taskset_task_creations_total"
	TaskSetTaskStartDurationSeconds = "leat_taskset_task_start_duration_seconds"

	// Metrics of the worker lifecycle controller.
	TasksFinishedTotal                = "leat_tasks_finished_total"
	FinishedTaskDurationSeconds       = "leat_finished_task_duration_seconds"
	FinishedTaskWaitSeconds           = "leat_finished_task_wait_seconds"
	FinishedTaskRetriesTotal          = "leat_finished_task_retries_total"
	FinishedTaskDisruptionsTotal      = "leat_finished_task_disruptions_total"
	LifecycleEvictionsTotal           = "leat_lifecycle_evictions_total"
	LifecycleTaskDeletionsTotal       = "leat_lifecycle_task_deletions_total"
	Workers                           = "leat_workers"
	LifecycleWorkerTransitionsTotal   = "leat_lifecycle_worker_transitions_total"
	LifecycleLeaseListDurationSeconds = "leat_lifecycle_lease_list_duration_seconds"

	// Metrics of the controller of pools.
	PoolWorkers       = "leat_pool_workers"
	Pools             = "leat_pools"
	PoolScalingsTotal = "leat_pool_scalings_total"

	// Metrics of the namespace sweeper.
	NamespaceSweepsTotal         = "leat_namespace_sweeps_total"
	NamespaceOrphansDeletedTotal = "leat_namespace_orphans_deleted_total"
)

// Names are the names of all metrics.
var Names = []string{
	TaskSetsFinishedTotal,
	TaskSetTasksFinishedTotal,
	FinishedIndexesTotal,
	TaskSetTaskCreationsTotal,
	TaskSetTaskStartDurationSeconds,
	TasksFinishedTotal,
	FinishedTaskDurationSeconds,
	FinishedTaskWaitSeconds,
	FinishedTaskRetriesTotal,
	FinishedTaskDisruptionsTotal,
	LifecycleEvictionsTotal,
	LifecycleTaskDeletionsTotal,
	Workers,
	LifecycleWorkerTransitionsTotal,
	LifecycleLeaseListDurationSeconds,
	PoolWorkers,
	Pools,
	PoolScalingsTotal,
	NamespaceSweepsTotal,
	NamespaceOrphansDeletedTotal,
}

// Values of the label result.
const Succeeded, Failed = "succeeded", "failed"

// Result returns the value of the label result for an error.
func Result(err error) string {
	if err != nil {
		return Failed
	}
	return Succeeded
}
