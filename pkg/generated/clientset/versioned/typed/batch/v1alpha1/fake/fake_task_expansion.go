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

package fake

import (
	"bytes"
	"fmt"
	"io"
	"net/http"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	fakerest "k8s.io/client-go/rest/fake"
	"k8s.io/client-go/testing"

	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/generated/clientset/versioned/scheme"
)

// GetLogsAction records a call of GetLogs. Its verb is get, its subresource log.
type GetLogsAction struct {
	testing.ActionImpl
	// Name is the name of the task.
	Name    string
	Options *v1alpha1.TaskLogOptions
}

// DeepCopy implements testing.Action.
func (a GetLogsAction) DeepCopy() testing.Action {
	return GetLogsAction{a.ActionImpl.DeepCopy().(testing.ActionImpl), a.Name, a.Options.DeepCopy()}
}

// GetLogs records a GetLogsAction. The response of the request is the Raw of the *runtime.Unknown that a reactor
// returns, or its error. Without a reactor it is "fake logs".
func (c *fakeTasks) GetLogs(name string, opts *v1alpha1.TaskLogOptions) *rest.Request {
	obj, err := c.Fake.Invokes(GetLogsAction{
		ActionImpl: testing.ActionImpl{Namespace: c.Namespace(), Verb: "get", Resource: c.Resource(), Subresource: "log"},
		Name:       name, Options: opts,
	}, &runtime.Unknown{Raw: []byte("fake logs")})
	unknown, ok := obj.(*runtime.Unknown)
	if err == nil && !ok {
		err = fmt.Errorf("the reactor for get tasks/log gave a %T: it must be a *runtime.Unknown", obj)
	}
	client := &fakerest.RESTClient{
		GroupVersion:         v1alpha1.SchemeGroupVersion,
		NegotiatedSerializer: scheme.Codecs.WithoutConversion(),
		Client: fakerest.CreateHTTPClient(func(*http.Request) (*http.Response, error) {
			if err != nil {
				return nil, err
			}
			return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(bytes.NewReader(unknown.Raw))}, nil
		}),
	}
	return client.Request()
}
