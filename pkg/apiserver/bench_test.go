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
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"

	batch "github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/test/kit/inprocess"
)

// BenchmarkCreate creates a task through the whole handler chain, admission, strategy, validation, managed fields,
// codec and watch cache, to an etcd that syncs. It does not include the connection (TLS and HTTP/2) and authentication.
func BenchmarkCreate(b *testing.B) {
	handler, scheme := inprocess.Serve(b)
	codecs := serializer.NewCodecFactory(scheme)
	number := 0
	for _, mediaType := range []string{runtime.ContentTypeJSON, runtime.ContentTypeProtobuf} {
		info, ok := runtime.SerializerInfoForMediaType(codecs.SupportedMediaTypes(), mediaType)
		if !ok {
			b.Fatalf("the server does not support %s", mediaType)
		}
		b.Run(info.MediaTypeSubType, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				number++
				body, err := runtime.Encode(codecs.EncoderForVersion(info.Serializer, batch.SchemeGroupVersion), &batch.Task{
					ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("task-", number), Labels: map[string]string{"app": "render", "team": "pictures"}},
					Spec: batch.TaskSpec{
						Command: []string{"/opt/render/bin/render", "--quality=high"}, Args: []string{"--scene=/data/scenes/forest.scene", "--frame=001234"},
						Env: []batch.EnvVar{{Name: "THREADS", Value: "4"}, {Name: "CACHE", Value: "/var/cache/render"}},
					},
				})
				if err != nil {
					b.Fatal(err)
				}
				request := httptest.NewRequest(http.MethodPost, "/apis/batch.leat.dev/v1alpha1/namespaces/bench/tasks", bytes.NewReader(body))
				request.Header.Set("Content-Type", mediaType)
				request.Header.Set("Accept", mediaType)
				response := httptest.NewRecorder()
				handler.ServeHTTP(response, request)
				if response.Code != http.StatusCreated {
					b.Fatalf("got status %d: %s", response.Code, response.Body)
				}
			}
		})
	}
}
