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

package registry

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leat-dev/leat/apis/batch"
)

func TestScaleTable(t *testing.T) {
	rest := &scaleREST[batch.TaskSet, batch.TaskSetList]{}
	scale := &autoscalingv1.Scale{
		ObjectMeta: metav1.ObjectMeta{Name: "s", ResourceVersion: "7"},
		Spec:       autoscalingv1.ScaleSpec{Replicas: 5},
		Status:     autoscalingv1.ScaleStatus{Replicas: 3},
	}
	table, err := rest.ConvertToTable(t.Context(), scale, &metav1.TableOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, column := range table.ColumnDefinitions {
		names = append(names, column.Name)
	}
	if diff := cmp.Diff([]string{"Name", "Desired", "Available", "Age"}, names); diff != "" {
		t.Errorf("columns: want -, got +:\n%s", diff)
	}
	if diff := cmp.Diff([]any{"s", int64(5), int64(3), "<unknown>"}, table.Rows[0].Cells); diff != "" {
		t.Errorf("cells: want -, got +:\n%s", diff)
	}
	if table.ResourceVersion != "7" || table.Rows[0].Object.Object != scale {
		t.Errorf("got resourceVersion %q and object %v", table.ResourceVersion, table.Rows[0].Object.Object)
	}

	if table, err = rest.ConvertToTable(t.Context(), scale, &metav1.TableOptions{NoHeaders: true}); err != nil || table.ColumnDefinitions != nil {
		t.Errorf("without headers: got %v, %v", table, err)
	}
	if _, err := rest.ConvertToTable(t.Context(), &batch.TaskSet{}, nil); err == nil || !strings.Contains(err.Error(), "*v1.Scale, not *batch.TaskSet") {
		t.Errorf("an object of another kind: got %v", err)
	}
}
