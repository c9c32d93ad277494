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

package kit

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
)

func TestDoSendsRequestsAsTheyAre(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		w.WriteHeader(http.StatusTeapot)
		for _, text := range []string{
			r.Method, r.RequestURI, r.Header.Get("Authorization"), r.Header.Get("Content-Type"), r.Header.Get("X-Twice"), string(body),
		} {
			_, _ = io.WriteString(w, text+";")
		}
	}))
	defer server.Close()
	config := &rest.Config{Host: server.URL, BearerToken: "secret"}
	for body, want := range map[string]string{
		"{}": "PUT;/a?b=c;Bearer secret;application/json;1;{};",
		"":   "PUT;/a?b=c;Bearer secret;;1;;",
	} {
		got := Do(t, config, http.MethodPut, "/a?b=c", body, "X-Twice", "1", "X-Twice", "2")
		if got != (Response{http.StatusTeapot, want}) {
			t.Errorf("with body %q: got %s, want %d %s", body, got, http.StatusTeapot, want)
		}
	}
}

func TestTryDoReturnsAnErrorWithoutAServer(t *testing.T) {
	if got, err := TryDo(t.Context(), &rest.Config{Host: "http://127.0.0.1:9"}, http.MethodGet, "/", ""); err == nil {
		t.Errorf("got %s, want an error", got)
	}
}

func TestGoneAndRefused(t *testing.T) {
	notFound := apierrors.NewNotFound(schema.GroupResource{Resource: "tasks"}, "a")
	for name, test := range map[string]struct {
		got  error
		want bool
	}{
		"Gone, NotFound":            {Gone(notFound), true},
		"Gone, no error":            {Gone(nil), false},
		"Gone, another error":       {Gone(errors.New("broken")), false},
		"Refused, reason":           {Refused(notFound, metav1.StatusReasonNotFound), true},
		"Refused, reason and texts": {Refused(notFound, metav1.StatusReasonNotFound, "tasks", `"a"`), true},
		"Refused, another text":     {Refused(notFound, metav1.StatusReasonNotFound, "workers"), false},
		"Refused, another reason":   {Refused(notFound, metav1.StatusReasonForbidden), false},
		"Refused, no error":         {Refused(nil, metav1.StatusReasonNotFound), false},
	} {
		if (test.got == nil) != test.want {
			t.Errorf("%s: got error %v, want nil: %t", name, test.got, test.want)
		}
	}
}
