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

// Package board tests the page of "leat board" in a real browser: each view on live data, hostile output, requests of
// other pages, a server that restarts, and the page at scale.
//
// TestBoard shares one "leat up" with workers, TestPlanted one that serves the API only and whose objects the test has
// written, and TestRoles a host cluster, which has roles and Events. All share one Chromium. Each test has a tab, whose
// console must stay empty: a violation of the content security policy fails the test.
package board

import (
	"flag"
	"os"
	"testing"
)

var (
	// screenshots is a directory that gets pictures of the views, if it is not empty.
	screenshots = flag.String("screenshots", "", "write pictures of the views to this directory")
	// scale is whether TestPlanted has 100,000 tasks and 1,000 workers.
	scale = flag.Bool("scale", false, "test the page with 100,000 tasks and 1,000 workers")
)

// parallel is how many tests run at a time, whatever the number of processors: tests wait most of the time.
const parallel = "8"

func TestMain(m *testing.M) {
	flag.Parse()
	isSet := false
	flag.Visit(func(f *flag.Flag) { isSet = isSet || f.Name == "test.parallel" })
	if !isSet {
		if err := flag.Set("test.parallel", parallel); err != nil {
			panic(err)
		}
	}
	code := m.Run()
	closeBrowser()
	os.Exit(code)
}
