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

package apiserver_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"syscall"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kuberuntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit/inprocess"
)

// client sends requests through the whole handler chain, admission, strategy, validation, managed fields, codec and
// watch cache, to an etcd that syncs. It does not include the connection (TLS and HTTP/2) and authentication.
type client struct {
	b         *testing.B
	handler   http.Handler
	codecs    serializer.CodecFactory
	mediaType string
	info      kuberuntime.SerializerInfo
	user      user.Info // alice if nil
}

// worker is the name of the Worker of all tasks.
const worker = "one"

// benchmark runs f for each media type. All run against one server.
func benchmark(b *testing.B, f func(c *client)) {
	handler, scheme := inprocess.Serve(b)
	codecs := serializer.NewCodecFactory(scheme)
	for _, mediaType := range []string{kuberuntime.ContentTypeJSON, kuberuntime.ContentTypeProtobuf} {
		info, ok := kuberuntime.SerializerInfoForMediaType(codecs.SupportedMediaTypes(), mediaType)
		if !ok {
			b.Fatalf("the server does not support %s", mediaType)
		}
		c := &client{b: b, handler: handler, codecs: codecs, mediaType: mediaType, info: info}
		if mediaType == kuberuntime.ContentTypeJSON {
			c.send(http.MethodPost, "workers", c.encode(&batch.Worker{ObjectMeta: metav1.ObjectMeta{Name: worker}}))
		}
		b.Run(info.MediaTypeSubType, func(b *testing.B) {
			c.b = b
			f(c)
		})
	}
}

// prepare returns the results of f for b.N operations. Profiles of memory do not contain it.
func prepare[T any](c *client, f func() T) []T {
	rate := runtime.MemProfileRate
	runtime.MemProfileRate = 0
	defer func() { runtime.MemProfileRate = rate }()
	all := make([]T, c.b.N)
	for i := range all {
		all[i] = f()
	}
	return all
}

// measure measures f for each of b.N operations. It also reports the CPU time of the process, without that of etcd.
func (c *client) measure(f func(i int)) {
	c.b.ReportAllocs()
	c.b.ResetTimer()
	before := cpu(c.b)
	for i := range c.b.N {
		f(i)
	}
	c.b.ReportMetric(float64(cpu(c.b)-before)/float64(c.b.N), "cpu-ns/op")
}

// cpu returns the CPU time of the process, in nanoseconds.
func cpu(b *testing.B) int64 {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return usage.Utime.Nano() + usage.Stime.Nano()
}

// encode returns the body of a request.
func (c *client) encode(obj kuberuntime.Object) []byte {
	body, err := kuberuntime.Encode(c.codecs.EncoderForVersion(c.info.Serializer, batch.SchemeGroupVersion), obj)
	if err != nil {
		c.b.Fatal(err)
	}
	return body
}

// send sends a request for resource, like "tasks", "tasks/name" or "tasks/name/status", and returns the body of the
// response.
func (c *client) send(method, resource string, body []byte) []byte {
	req := httptest.NewRequest(method, "/apis/batch.leat.dev/v1alpha1/namespaces/bench/"+resource, bytes.NewReader(body))
	req.Header.Set("Content-Type", c.mediaType)
	req.Header.Set("Accept", c.mediaType)
	if c.user != nil {
		req = req.WithContext(request.WithUser(context.Background(), c.user))
	}
	response := httptest.NewRecorder()
	c.handler.ServeHTTP(response, req)
	if response.Code >= 300 {
		c.b.Fatalf("got status %d: %s", response.Code, response.Body)
	}
	return response.Body.Bytes()
}

// decodeTask returns the task of the body of a response.
func (c *client) decodeTask(body []byte) *batch.Task {
	task := &batch.Task{}
	if _, _, err := c.codecs.DecoderToVersion(c.info.Serializer, batch.SchemeGroupVersion).Decode(body, nil, task); err != nil {
		c.b.Fatal(err)
	}
	return task
}

// number is the number of tasks so far. All have different names.
var number int

// newTask returns a task to be created.
func newTask() *batch.Task {
	number++
	return &batch.Task{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("task-", number), Labels: map[string]string{"app": "render", "team": "pictures"}},
		Spec: batch.TaskSpec{
			Command: []string{"/opt/render/bin/render", "--quality=high"}, Args: []string{"--scene=/data/scenes/forest.scene", "--frame=001234"},
			Env: []batch.EnvVar{{Name: "THREADS", Value: "4"}, {Name: "CACHE", Value: "/var/cache/render"}},
		},
	}
}

// create creates a task and returns its name.
func (c *client) create() string {
	task := newTask()
	c.send(http.MethodPost, "tasks", c.encode(task))
	return task.Name
}

// createBound creates and binds a task and returns its name.
func (c *client) createBound() string {
	name := c.create()
	c.send(http.MethodPost, "tasks/"+name+"/binding", c.binding(name))
	return name
}

// binding returns the body of the binding of a task.
func (c *client) binding(name string) []byte {
	return c.encode(&batch.Binding{ObjectMeta: metav1.ObjectMeta{Name: name}, Target: batch.BindingTarget{Name: worker, Incarnation: "4e3a2a5e"}})
}

// finished returns the body of the update of the status that a worker sends when the command has ended.
func (c *client) finished(name string) []byte {
	task := c.decodeTask(c.send(http.MethodGet, "tasks/"+name, nil))
	now := metav1.Now()
	task.Status.Phase = batch.TaskSucceeded
	task.Status.Attempts = 1
	task.Status.StartTime, task.Status.CompletionTime = &now, &now
	task.Status.State = batch.TaskState{Terminated: &batch.TaskStateTerminated{StartedAt: now, FinishedAt: now, Reason: "Completed"}}
	return c.encode(task)
}

// asWorker returns a client that is the worker.
func (c *client) asWorker() *client {
	w := *c
	w.user = &user.DefaultInfo{Name: batch.WorkerUserPrefix + "bench:" + worker, Groups: []string{batch.WorkersGroup, user.AllAuthenticated}}
	return &w
}

// operation is the name of a task and the body of a request for it.
type operation struct {
	name string
	body []byte
}

func BenchmarkCreate(b *testing.B) {
	benchmark(b, func(c *client) {
		bodies := prepare(c, func() []byte { return c.encode(newTask()) })
		c.measure(func(i int) { c.send(http.MethodPost, "tasks", bodies[i]) })
	})
}

func BenchmarkBind(b *testing.B) {
	benchmark(b, func(c *client) {
		operations := prepare(c, func() operation {
			name := c.create()
			return operation{name, c.binding(name)}
		})
		c.measure(func(i int) { c.send(http.MethodPost, "tasks/"+operations[i].name+"/binding", operations[i].body) })
	})
}

func BenchmarkUpdateStatus(b *testing.B) {
	benchmark(b, func(c *client) {
		operations := prepare(c, func() operation {
			name := c.createBound()
			return operation{name, c.finished(name)}
		})
		w := c.asWorker()
		c.measure(func(i int) { w.send(http.MethodPut, "tasks/"+operations[i].name+"/status", operations[i].body) })
	})
}

func BenchmarkDelete(b *testing.B) {
	benchmark(b, func(c *client) {
		names := prepare(c, func() string {
			name := c.createBound()
			c.asWorker().send(http.MethodPut, "tasks/"+name+"/status", c.finished(name))
			return name
		})
		c.measure(func(i int) { c.send(http.MethodDelete, "tasks/"+names[i], nil) })
	})
}
