//go:build linux

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

package main

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/standalone"
)

func TestShare(t *testing.T) {
	machine := v1alpha1.ResourceList{"cpu": resource.MustParse("8"), "memory": resource.MustParse("16Gi")}
	for n, want := range map[int][2]string{1: {"8", "16Gi"}, 3: {"2666m", "5461Mi"}, 4: {"2", "4Gi"}} {
		parts := share(machine, n)
		for i, name := range []string{"cpu", "memory"} {
			if got := resource.MustParse(parts[name]); got.Cmp(resource.MustParse(want[i])) != 0 {
				t.Errorf("of %d workers each has %s %s, expected %s", n, parts[name], name, want[i])
			}
		}
	}
}

func TestWorkersHaveWhatTheMachineHas(t *testing.T) {
	options := standalone.Options{Workers: 2, Namespace: "default"}
	if err := (workerFlags{tasks: 3, capacity: map[string]string{"cpu": "16"}, labels: map[string]string{"disk": "ssd"}}).complete(&options); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[v1alpha1.ResourceName]string{"tasks": "3", "cpu": "16"} {
		if got := options.WorkerCapacity[name]; got.String() != want {
			t.Errorf("%s is %s, expected %s", name, got.String(), want)
		}
	}
	if memory := options.WorkerCapacity["memory"]; memory.Value() <= 0 {
		t.Error("there is no memory")
	}
	if options.WorkerLabels["disk"] != "ssd" {
		t.Errorf("the labels are %v", options.WorkerLabels)
	}
	if got := describeWorkers(options); !strings.HasPrefix(got, "2 in namespace default, each: 3 tasks at a time, 16 cpu, ") {
		t.Errorf("they are described as %q", got)
	}
}

func TestWorkerFlagsThatAreWrong(t *testing.T) {
	for want, flags := range map[string]workerFlags{
		"--worker-tasks 0: must be 1 or more":           {},
		"--worker-capacity cpu=lots: the quantity":      {tasks: 1, capacity: map[string]string{"cpu": "lots"}},
		"--worker-capacity gpu=1: the name must be cpu": {tasks: 1, capacity: map[string]string{"gpu": "1"}},
		"--worker-labels":                               {tasks: 1, labels: map[string]string{"a b": "c"}},
	} {
		if err := flags.complete(&standalone.Options{Workers: 1}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, expected %q", err, want)
		}
	}
}
