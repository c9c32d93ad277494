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

package pool

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
)

func TestParse(t *testing.T) {
	want := Settings{Min: 0, Max: 20, Idle: 90 * time.Second, Worker: Worker{
		Allocatable: batch.ResourceList{"tasks": resource.MustParse("8"), "cpu": resource.MustParse("4")},
		Labels:      map[string]string{"zone": "a"},
		Taints:      []batch.Taint{{Key: "gpu", Effect: batch.TaintEffectNoSchedule}},
	}}
	annotations, err := want.Annotations()
	if err != nil {
		t.Fatal(err)
	}
	got, err := Parse(&metav1.ObjectMeta{Annotations: annotations})
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(&want, got); d != "" {
		t.Errorf("settings (-want +got):\n%s", d)
	}
}

func TestParseRefuses(t *testing.T) {
	for name, test := range map[string]struct{ key, value, want string }{
		"no max":                {AnnotationMax, "", `annotation batch.leat.dev/pool-max="": must be a number from 1 to 5000`},
		"a max below the min":   {AnnotationMin, "21", `pool-max="20": must be a number from 21 to 5000`},
		"a million workers":     {AnnotationMax, "1000000", "must be a number from 1 to 5000"},
		"a negative min":        {AnnotationMin, "-1", "must be a number from 0 to 5000"},
		"a duration":            {AnnotationIdleSeconds, "1m", `pool-idle-seconds="1m": must be a number from 0 to 604800`},
		"no worker":             {AnnotationWorker, "", `must be what a worker offers, like {"allocatable"`},
		"a huge worker":         {AnnotationWorker, strings.Repeat(" ", 1<<20), "has 1048576 bytes"},
		"an expensive quantity": {AnnotationWorker, `{"allocatable":{"cpu":"1e999999"}}`, "exponent"},
	} {
		t.Run(name, func(t *testing.T) {
			annotations := map[string]string{AnnotationMin: "0", AnnotationMax: "20", AnnotationIdleSeconds: "60", AnnotationWorker: "{}"}
			annotations[test.key] = test.value
			_, err := Parse(&metav1.ObjectMeta{Annotations: annotations})
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got error %v, want one with %q", err, test.want)
			}
		})
	}
}
