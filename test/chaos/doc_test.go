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

// Package chaos runs Leat as real processes for as long as -duration, in two ways at the same time.
//
// TestChaos injects random faults into the store, the servers and the workers. It then compares what clients observed,
// what commands did, and what etcd recorded with the promises in docs/concepts/reliability.md.
//
// TestSoak applies load while processes restart. It stops the load several times, deletes everything, and compares the
// memory, the goroutines, the open files and the keys of each process with those of its first idle point.
//
// The tests whose names contain Detects show that the checks of both notice planted faults.
package chaos
