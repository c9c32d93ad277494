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
	"context"
	"fmt"
	"io"
	"net/http"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	fakerest "k8s.io/client-go/rest/fake"
	"k8s.io/client-go/testing"

	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/generated/clientset/versioned/scheme"
)

// GetLogsAction records a call of GetLogs. Its verb is get, its subresource log.
type GetLogsAction struct {
	testing.ActionImpl
	// Name is the name of the task or the TaskSet.
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
	return getLogs(c.Fake, c.Namespace(), c.Resource(), name, opts)
}

func getLogs(fake *FakeBatchV1alpha1, namespace string, resource schema.GroupVersionResource, name string, opts *v1alpha1.TaskLogOptions) *rest.Request {
	obj, err := fake.Invokes(GetLogsAction{
		ActionImpl: testing.ActionImpl{Namespace: namespace, Verb: "get", Resource: resource, Subresource: "log"},
		Name:       name, Options: opts,
	}, &runtime.Unknown{Raw: []byte("fake logs")})
	unknown, ok := obj.(*runtime.Unknown)
	if err == nil && !ok {
		err = fmt.Errorf("the reactor for get %s/log gave a %T: it must be a *runtime.Unknown", resource.Resource, obj)
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

// GetRecordsAction records a call of Records. Its verb is get, its subresource records.
type GetRecordsAction struct {
	testing.ActionImpl
	// Name is the name of the task or the TaskSet.
	Name    string
	Options *v1alpha1.TaskRecordOptions
}

// DeepCopy implements testing.Action.
func (a GetRecordsAction) DeepCopy() testing.Action {
	return GetRecordsAction{a.ActionImpl.DeepCopy().(testing.ActionImpl), a.Name, a.Options.DeepCopy()}
}

// Records records a GetRecordsAction. It returns the *v1alpha1.TaskRecordList that a reactor returns, or its error.
// Without a reactor it returns an empty list.
func (c *fakeTasks) Records(_ context.Context, name string, opts *v1alpha1.TaskRecordOptions) (*v1alpha1.TaskRecordList, error) {
	return getRecords(c.Fake, c.Namespace(), c.Resource(), name, opts)
}

func getRecords(fake *FakeBatchV1alpha1, namespace string, resource schema.GroupVersionResource, name string, opts *v1alpha1.TaskRecordOptions) (*v1alpha1.TaskRecordList, error) {
	obj, err := fake.Invokes(GetRecordsAction{
		ActionImpl: testing.ActionImpl{Namespace: namespace, Verb: "get", Resource: resource, Subresource: "records"},
		Name:       name, Options: opts,
	}, &v1alpha1.TaskRecordList{})
	list, ok := obj.(*v1alpha1.TaskRecordList)
	if err == nil && !ok {
		err = fmt.Errorf("the reactor for get %s/records gave a %T: it must be a *v1alpha1.TaskRecordList", resource.Resource, obj)
	}
	return list, err
}
