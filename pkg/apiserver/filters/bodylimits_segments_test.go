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

package filters

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"k8s.io/apiserver/pkg/endpoints/request"

	"github.com/leat-dev/leat/apis/batch"
	"github.com/leat-dev/leat/pkg/apiserver/scheme"
)

// TestSegmentsAreLeftToTheirHandler sends a body that exceeds the limits of JSON.
func TestSegmentsAreLeftToTheirHandler(t *testing.T) {
	body := strings.Repeat("[", 10_000)
	var got string
	handler := WithBodyLimits(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		read, _ := io.ReadAll(req.Body)
		got = string(read)
	}), scheme.NewCodecs(scheme.Scheme), 1<<20)
	for _, test := range []struct {
		info     request.RequestInfo
		encoding string
		passes   bool
	}{
		{request.RequestInfo{IsResourceRequest: true, APIGroup: batch.GroupName, Resource: "workers", Subresource: "archive"}, "", true},
		{request.RequestInfo{IsResourceRequest: true, APIGroup: batch.GroupName, Resource: "workers", Subresource: "archive"}, "gzip", false},
		{request.RequestInfo{IsResourceRequest: true, APIGroup: batch.GroupName, Resource: "workers"}, "", false},
		{request.RequestInfo{IsResourceRequest: true, APIGroup: batch.GroupName, Resource: "tasks", Subresource: "archive"}, "", false},
		{request.RequestInfo{IsResourceRequest: true, APIGroup: "other", Resource: "workers", Subresource: "archive"}, "", false},
	} {
		got = ""
		req := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body))
		req.Header.Set("Content-Encoding", test.encoding)
		handler.ServeHTTP(httptest.NewRecorder(), req.WithContext(request.WithRequestInfo(t.Context(), &test.info)))
		if passes := got == body; passes != test.passes {
			t.Errorf("%+v with the encoding %q: passes: %t, want %t", test.info, test.encoding, passes, test.passes)
		}
	}
}
