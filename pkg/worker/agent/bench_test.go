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

package agent

import (
	"context"
	"fmt"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit/testapi"
)

// BenchmarkShortTasks measures how fast one worker runs commands that end at once, from the binding to the last write,
// against an API in memory. An operation is one task; eight run at a time.
func BenchmarkShortTasks(b *testing.B) {
	server := testapi.New()
	tasks := server.Client().BatchV1alpha1().Tasks("default")
	options := testOptions()
	options.HeartbeatInterval = time.Hour
	w := New(server.Client(), testHost, options)
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan error)
	go func() { ended <- w.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			b.Error(err)
		}
	}()
	events, err := tasks.Watch(ctx, metav1.ListOptions{ResourceVersion: "0", FieldSelector: "status.phase=Succeeded"})
	if err != nil {
		b.Fatal(err)
	}
	defer events.Stop()
	next := 0
	start := func() {
		name := fmt.Sprint("t", next)
		next++
		if _, err := tasks.Create(ctx, &batch.Task{
			ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: batch.TaskSpec{Command: []string{"true"}},
		}, metav1.CreateOptions{}); err != nil {
			b.Error(err)
		}
		if _, err := tasks.Bind(ctx, name, &batch.Binding{
			ObjectMeta: metav1.ObjectMeta{Name: name}, Target: batch.BindingTarget{Name: "w", Incarnation: w.incarnation},
		}, metav1.CreateOptions{}); err != nil {
			b.Error(err)
		}
	}
	b.ReportAllocs()
	b.ResetTimer()
	for done := range b.N {
		for next < min(done+8, b.N) {
			start()
		}
		<-events.ResultChan()
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "tasks/s")
}
