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

// Package product tests what a person gets: commands, tutorials, logs, task sets, queues and workers, and what becomes
// of tasks whose workers die. Everything is real: servers, controllers, scheduler, workers and the commands that they
// run.
//
// TestStandalone and TestAggregated each start one environment that most suites share; a suite has namespaces and
// workers of its own. Suites that stop the server, or that must be the only scheduler, have an environment of their
// own.
package product

import (
	"flag"
	"os"
	"testing"
)

// parallel is how many tests run at a time, whatever the number of processors: tests wait most of the time.
const parallel = "4"

func TestMain(m *testing.M) {
	flag.Parse()
	isSet := false
	flag.Visit(func(f *flag.Flag) { isSet = isSet || f.Name == "test.parallel" })
	if !isSet {
		if err := flag.Set("test.parallel", parallel); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}
