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
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/api/validate/content"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// FuzzParseTaints checks that parsed taints are valid, and that they stay the same when they are formatted and parsed
// again.
func FuzzParseTaints(f *testing.F) {
	for _, text := range []string{"gpu=yes:NoSchedule", "gpu:NoExecute", "example.com/a=b:PreferNoSchedule", "gpu", "gpu=yes", "=:NoSchedule", "a=b=c:NoSchedule", "a:b:NoSchedule", "a=b:noschedule", ""} {
		f.Add(text)
	}
	effects := []batch.TaintEffect{batch.TaintEffectNoSchedule, batch.TaintEffectPreferNoSchedule, batch.TaintEffectNoExecute}
	f.Fuzz(func(t *testing.T, text string) {
		taints, err := parseTaints([]string{text})
		if err != nil {
			return
		}
		taint := taints[0]
		if len(content.IsLabelKey(taint.Key)) > 0 || len(content.IsLabelValue(taint.Value)) > 0 || !slices.Contains(effects, taint.Effect) {
			t.Errorf("%q is read as %+v", text, taint)
		}
		written := taint.Key + "=" + taint.Value + ":" + string(taint.Effect)
		if again, err := parseTaints([]string{written}); err != nil || again[0] != taint {
			t.Errorf("%q, of %q, is read as %+v, %v", written, text, again, err)
		}
	})
}

// FuzzCapacity checks that the capacity is valid and has the values of the flags.
func FuzzCapacity(f *testing.F) {
	for _, seed := range [][2]string{{"cpu", "4"}, {"memory", "16Gi"}, {"example.com/gpu", "2"}, {"tasks", "3"}, {"gpu", "1"}, {"cpu", "-1"}, {"cpu", "1e99999999"}, {"cpu", "0.0000000001"}, {"/", "1"}, {"a/b/c", "1"}, {"memory", ""}} {
		f.Add(seed[0], seed[1], 8)
	}
	f.Fuzz(func(t *testing.T, name, text string, tasks int) {
		s := &settings{tasks: tasks, capacity: map[string]string{name: text}}
		list, err := s.resources()
		if err != nil {
			return
		}
		if got := list[batch.ResourceTasks]; tasks < 1 || got.Value() != int64(tasks) {
			t.Errorf("of %d tasks it has %v", tasks, got.String())
		}
		quantity, ok := list[batch.ResourceName(name)]
		if !ok || quantity.Sign() < 0 {
			t.Errorf("--capacity=%s=%s returns %v", name, text, list)
		}
		if name == string(batch.ResourceTasks) {
			t.Error("--capacity sets the number of tasks")
		}
		if written := quantity.String(); len(written) > 64+len(text) {
			t.Errorf("--capacity=%s=%.50s is written in %d characters", name, text, len(written))
		}
	})
}
