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

package v1alpha1

import (
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/operation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/conversion/queryparams"
	"k8s.io/apimachinery/pkg/runtime"
)

func parseLogOptions(query string) (*TaskLogOptions, error) {
	values, err := url.ParseQuery(query)
	if err != nil {
		return nil, err
	}
	options := &TaskLogOptions{}
	return options, Convert_url_Values_To_v1alpha1_TaskLogOptions(&values, options, nil)
}

func TestTaskLogOptionsOfAQuery(t *testing.T) {
	number := func(n int64) *int64 { return &n }
	at := metav1.NewTime(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC).Local())
	for _, test := range []struct {
		query  string
		want   TaskLogOptions
		failed string
	}{
		{query: ""},
		{query: "follow=true&previous=1&timestamps=yes", want: TaskLogOptions{Follow: true, Previous: true, Timestamps: true}},
		{query: "follow=false&previous=0&timestamps=", want: TaskLogOptions{Timestamps: true}},
		{query: "sinceSeconds=10&tailLines=0&limitBytes=1", want: TaskLogOptions{SinceSeconds: number(10), TailLines: number(0), LimitBytes: number(1)}},
		{query: "sinceTime=2026-01-02T03:04:05Z", want: TaskLogOptions{SinceTime: &at}},
		{query: "sinceTime=2026-01-02T04:04:05%2B01:00", want: TaskLogOptions{SinceTime: &at}},
		{query: "tailLines=1&tailLines=2", want: TaskLogOptions{TailLines: number(1)}},
		{query: "container=a&unknown=b"},
		{query: "tailLines=-1", want: TaskLogOptions{TailLines: number(-1)}}, // validation refuses it
		{query: "tailLines=five", failed: `tailLines="five": must be a whole number`},
		{query: "tailLines=", failed: "tailLines"},
		{query: "limitBytes=1.5", failed: "limitBytes"},
		{query: "limitBytes=9223372036854775808", failed: "limitBytes"},
		{query: "sinceSeconds=1m", failed: `sinceSeconds="1m": must be a whole number`},
		{query: "sinceTime=yesterday", failed: `sinceTime="yesterday": must be a time as RFC 3339 writes it`},
	} {
		t.Run(test.query, func(t *testing.T) {
			got, err := parseLogOptions(test.query)
			if test.failed != "" {
				if err == nil || !strings.Contains(err.Error(), test.failed) {
					t.Errorf("It was read as %+v, %v: want it to fail and say %q.", got, err, test.failed)
				}
				return
			}
			if err != nil || !reflect.DeepEqual(*got, test.want) {
				t.Errorf("It was read as %+v, %v.", got, err)
			}
		})
	}
}

func TestTaskLogOptionsAreValidated(t *testing.T) {
	for query, want := range map[string]string{
		"tailLines=0":    "",
		"tailLines=-1":   "tailLines: Invalid value: -1: must be greater than or equal to 0",
		"limitBytes=1":   "",
		"limitBytes=0":   "limitBytes: Invalid value: 0: must be greater than or equal to 1",
		"sinceSeconds=1": "",
		"sinceSeconds=0": "sinceSeconds: Invalid value: 0: must be greater than or equal to 1",
		"sinceTime=":     "",
		"sinceTime=2026-01-02T03:04:05Z&sinceSeconds=1": "must specify at most one of: `sinceSeconds`, `sinceTime`",
	} {
		t.Run(query, func(t *testing.T) {
			options, err := parseLogOptions(query)
			if err != nil {
				t.Fatal(err)
			}
			errs := Validate_TaskLogOptions(t.Context(), operation.Operation{Type: operation.Create}, nil, options, nil)
			if (len(errs) == 0) != (want == "") || want != "" && !strings.Contains(errs.ToAggregate().Error(), want) {
				t.Errorf("It is found to be wrong: %v, want %q.", errs, want)
			}
		})
	}
}

// The server parses the same options that the client sent, and no query makes it panic.
func FuzzTaskLogOptions(f *testing.F) {
	for _, query := range []string{"follow=true", "sinceSeconds=1&tailLines=2", "sinceTime=2026-01-02T03:04:05Z", "limitBytes=x", "tailLines=%00", "sinceTime=null"} {
		f.Add(query)
	}
	f.Fuzz(func(t *testing.T, query string) {
		options, err := parseLogOptions(query)
		if err != nil {
			return
		}
		values, err := queryparams.Convert(options)
		if err != nil {
			t.Fatal(err)
		}
		again := &TaskLogOptions{}
		if err := Convert_url_Values_To_v1alpha1_TaskLogOptions(&values, again, nil); err != nil {
			t.Fatal(err)
		}
		if since := options.SinceTime; since.IsZero() {
			options.SinceTime, again.SinceTime = nil, nil
		} else if !since.Equal(again.SinceTime) {
			t.Errorf("sinceTime %v comes back as %v.", since, again.SinceTime)
		} else {
			again.SinceTime = since
		}
		if !reflect.DeepEqual(options, again) {
			t.Errorf("%q is read as %+v, and sent again as %+v.", query, options, again)
		}
	})
}

// The descriptions of the query parameters are the doc comments of the fields.
func TestTaskLogOptionsAreDescribed(t *testing.T) {
	docs, err := runtime.ParseDocumentationFrom("types_tasklog.go")
	if err != nil {
		t.Fatal(err)
	}
	described := TaskLogOptions{}.SwaggerDoc()
	for _, kind := range docs {
		for _, pair := range kind[1:] {
			if kind[0].Name == "TaskLogOptions" && described[pair.Name] != pair.Doc {
				t.Errorf("%s is described as %q, its comment is %q.", pair.Name, described[pair.Name], pair.Doc)
			}
		}
	}
	if fields := reflect.TypeFor[TaskLogOptions]().NumField() - 1; len(described) != fields {
		t.Errorf("%d of %d fields are described.", len(described), fields)
	}
}
