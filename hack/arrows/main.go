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

// The arrows command fails when a package imports another against the direction of dependencies. The packages of a row
// may import the row's own folder and the folders that the row lists.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"slices"
	"strings"
)

const module = "github.com/leat-dev/leat/"

// arrows names, for each folder, the folders of the module that it may import; the first row that fits a package
// counts.
var arrows = []struct {
	from string
	to   []string
}{
	{"apis", nil},
	{"pkg/generated/kinds", nil},
	{"pkg/generated", []string{"apis"}},
	{"pkg/archive/store", nil},
	{"pkg/archive/lineio", nil},
	{"pkg/registry", []string{"apis"}},
	{"pkg/apiserver/authorization", []string{"apis"}},
	{"pkg/apiserver/authentication", []string{"apis", "pkg/apiserver/authorization"}},
	{"pkg/apiserver/admission", []string{"apis", "pkg/apiserver/authorization", "pkg/generated/kinds"}},
	{"pkg/apiserver/flowcontrol", nil},
	{"pkg/apiserver/workerlogs", []string{"apis", "pkg/registry"}},
	{"pkg/apiserver/archive", []string{"apis", "pkg/apiserver/authorization", "pkg/archive", "pkg/registry"}},
	{"pkg/apiserver/scheme", []string{"apis"}},
	{"pkg/apiserver/filters", []string{"apis", "pkg/apiserver/scheme", "pkg/generated/kinds"}},
	{"pkg/apiserver/storage", []string{"apis", "pkg/generated/kinds", "pkg/registry"}},
	{"pkg/apiserver/hostaccess", []string{"apis", "pkg/apiserver/admission"}},
	{"pkg/apiserver", []string{"apis", "pkg/registry", "pkg/generated/kinds", "pkg/generated/openapi"}},
	{"pkg/pool", []string{"apis/batch/v1alpha1"}},
	{"pkg/convert", []string{"apis/batch/v1alpha1", "pkg/pool"}},
	// The controller of pools asks with the scheduler's filters which workers could run a task.
	{"pkg/controller/pools", []string{"apis/batch/v1alpha1", "apis/batch/indexes", "pkg/client", "pkg/controller", "pkg/generated", "pkg/pool", "pkg/scheduler/framework"}},
	{"pkg/controller", []string{"apis/batch/v1alpha1", "apis/batch/indexes", "pkg/client", "pkg/generated", "pkg/pool"}},
	// The parts of the scheduler import the framework and not each other; package scheduler puts them together. As in
	// kube-scheduler, plugins import the framework and the framework does not import plugins.
	{"pkg/scheduler/framework", []string{"apis/batch/v1alpha1"}},
	{"pkg/scheduler/cache", []string{"apis/batch/v1alpha1", "pkg/scheduler/framework"}},
	{"pkg/scheduler/queue", []string{"apis/batch/v1alpha1", "pkg/scheduler/framework"}},
	{"pkg/scheduler/reservation", []string{"apis/batch/v1alpha1", "pkg/scheduler/framework"}},
	{"pkg/scheduler", []string{"apis/batch/v1alpha1", "apis/batch/indexes", "pkg/client/cachefields", "pkg/generated"}},
	{"pkg/worker/pressure", []string{"apis/batch/v1alpha1"}},
	{"pkg/worker/reaper", []string{"pkg/worker/pressure"}},
	{"pkg/worker/cgroup", []string{"apis/batch/v1alpha1", "pkg/worker/pressure", "pkg/worker/reaper"}},
	{"pkg/worker/attempt", nil},
	{"pkg/worker/echo", nil},
	{"pkg/worker/metrics", nil},
	{"pkg/worker/logs", []string{"apis/batch/indexes", "pkg/archive/lineio", "pkg/worker/attempt"}},
	{"pkg/worker/spool", []string{"apis/batch/v1alpha1", "pkg/archive/segment", "pkg/worker/metrics"}},
	{"pkg/worker/logserver", []string{"apis/batch/v1alpha1", "apis/batch/indexes", "pkg/generated", "pkg/worker/attempt", "pkg/worker/logs", "pkg/worker/spool"}},
	{"pkg/worker/process", []string{"pkg/worker/cgroup", "pkg/worker/logs", "pkg/worker/pressure", "pkg/worker/reaper"}},
	{"pkg/worker/sandbox", []string{"apis/batch/v1alpha1", "pkg/worker/attempt", "pkg/worker/cgroup", "pkg/worker/pressure", "pkg/worker/process", "pkg/worker/reaper"}},
	{"pkg/worker/taskrunner", []string{"apis/batch/v1alpha1", "apis/batch/indexes", "pkg/client/request", "pkg/generated", "pkg/worker/attempt", "pkg/worker/echo", "pkg/worker/logs", "pkg/worker/metrics", "pkg/worker/pressure", "pkg/worker/process", "pkg/worker/sandbox"}},
	{"pkg/worker/agent", []string{"apis/batch/v1alpha1", "pkg/client/request", "pkg/generated", "pkg/worker/echo", "pkg/worker/logs", "pkg/worker/pressure", "pkg/worker/process", "pkg/worker/sandbox", "pkg/worker/spool", "pkg/worker/taskrunner"}},
	{"pkg/worker", []string{"apis/batch/v1alpha1", "pkg/generated"}},
	{"pkg/archive/segment", []string{"apis/batch/v1alpha1", "apis/batch/indexes"}},
	{"pkg/client", []string{"apis/batch/v1alpha1"}},
	{"pkg/cli/sanitize", nil},
	{"pkg/cli/progress", nil},
	{"pkg/cli/localserver", nil},
	{"pkg/cli/taskstate", []string{"apis/batch/v1alpha1", "apis/batch/indexes", "pkg/cli/progress", "pkg/cli/sanitize"}},
	// The page shows what the CLI prints, and shares with it how that is derived.
	{"pkg/board", []string{
		"apis/batch/v1alpha1", "apis/batch/indexes", "pkg/cli/progress", "pkg/cli/sanitize", "pkg/cli/taskstate", "pkg/client", "pkg/generated",
	}},
	// The CLI explains with the scheduler's filters why a worker cannot run a task.
	{"pkg/cli", []string{"apis/batch/v1alpha1", "apis/batch/indexes", "pkg/board", "pkg/client", "pkg/convert", "pkg/generated", "pkg/pool", "pkg/scheduler/framework"}},
	{"pkg/standalone", []string{"apis", "config", "pkg"}},
	{"config", nil},
	{"cmd", []string{"apis", "pkg"}},
	{"hack", []string{"apis", "pkg/convert", "pkg/generated"}},
	{"test", []string{"apis", "config", "pkg"}},
}

// clients are the folders that must not depend on the implementation of the server.
var clients = []string{"pkg/generated", "pkg/controller", "pkg/scheduler", "pkg/worker", "pkg/direct", "pkg/cli", "pkg/board"}

// storers are the only folders that may import etcd.
var storers = []string{"pkg/apiserver", "pkg/standalone"}

func main() {
	list := exec.Command("go", "list", "-json=ImportPath,Imports", "./...")
	list.Stderr = os.Stderr
	out, err := list.Output()
	if err != nil {
		log.Fatal(err)
	}
	var broken []string
	for decoder := json.NewDecoder(strings.NewReader(string(out))); ; {
		var pkg struct {
			ImportPath string
			Imports    []string
		}
		if err := decoder.Decode(&pkg); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			log.Fatal(err)
		}
		for _, imported := range pkg.Imports {
			if why := forbidden(strings.TrimPrefix(pkg.ImportPath, module), imported); why != "" {
				broken = append(broken, fmt.Sprintf("%s imports %s: %s", pkg.ImportPath, imported, why))
			}
		}
	}
	if len(broken) > 0 {
		fmt.Fprintln(os.Stderr, strings.Join(broken, "\n"))
		os.Exit(1)
	}
}

// forbidden returns the reason why the package must not import the other, or "" if it may.
func forbidden(pkg, imported string) string {
	if strings.HasPrefix(imported, "go.etcd.io/") || strings.HasPrefix(imported, "k8s.io/apiserver/pkg/storage/etcd3") {
		if !under(pkg, storers) && !under(pkg, []string{"test"}) {
			return "only the server and standalone mode name etcd"
		}
	}
	if strings.HasPrefix(imported, "k8s.io/apiserver/") && under(pkg, clients) {
		return "a client knows nothing of how the server is built"
	}
	if !strings.HasPrefix(imported, module) {
		return ""
	}
	for _, row := range arrows {
		if under(pkg, []string{row.from}) {
			if under(strings.TrimPrefix(imported, module), append(slices.Clone(row.to), row.from)) {
				return ""
			}
			return fmt.Sprintf("%s may import only %s", row.from, strings.Join(append(slices.Clone(row.to), row.from), ", "))
		}
	}
	return "the folder has no row in hack/arrows"
}

func under(pkg string, folders []string) bool {
	return slices.ContainsFunc(folders, func(folder string) bool {
		return pkg == folder || strings.HasPrefix(pkg, folder+"/")
	})
}
