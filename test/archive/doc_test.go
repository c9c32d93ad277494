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

// Package archive tests that the archive loses nothing that a worker has on its disk and stores nothing twice: while
// the store refuses, is full, slow, cut off or away, and when workers and servers are killed in the middle of uploads.
// The tests read what the store has as files.
package archive

import (
	"flag"
	"os"
	"testing"
)

// maxParallel is how many parallel tests run at a time. They wait most of the time, so the number of processors is no
// good limit.
const maxParallel = "16"

func TestMain(m *testing.M) {
	if err := flag.Set("test.parallel", maxParallel); err != nil {
		panic(err)
	}
	flag.Parse() // -parallel wins
	os.Exit(m.Run())
}
