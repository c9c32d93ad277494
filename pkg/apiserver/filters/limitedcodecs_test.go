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
	"bytes"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	"github.com/leat-dev/leat/pkg/apiserver/scheme"
)

func TestYAMLLimits(t *testing.T) {
	object := v1alpha1.Task{Spec: v1alpha1.TaskSpec{Command: []string{strings.Repeat("a", 10_000)}}}
	list := func(n int) *v1alpha1.TaskList {
		return &v1alpha1.TaskList{Items: slices.Repeat([]v1alpha1.Task{object}, n)}
	}
	for name, test := range map[string]struct {
		object    runtime.Object
		mediaType string
		refused   bool
	}{
		"one object":              {&object, runtime.ContentTypeYAML, false},
		"an object":               {&v1alpha1.Task{Spec: v1alpha1.TaskSpec{Command: []string{strings.Repeat("a", 1_000_000)}}}, runtime.ContentTypeYAML, false},
		"a long object":           {&v1alpha1.Task{Spec: v1alpha1.TaskSpec{Command: []string{strings.Repeat("a", 1<<20)}}}, runtime.ContentTypeYAML, true},
		"a long object in JSON":   {&v1alpha1.Task{Spec: v1alpha1.TaskSpec{Command: []string{strings.Repeat("a", 1<<20)}}}, runtime.ContentTypeJSON, false},
		"no objects":              {list(0), runtime.ContentTypeYAML, false},
		"a list":                  {list(50), runtime.ContentTypeYAML, false},
		"a long list":             {list(60), runtime.ContentTypeYAML, true},
		"a long list in JSON":     {list(60), runtime.ContentTypeJSON, false},
		"a long list in protobuf": {list(60), runtime.ContentTypeProtobuf, false},
		"a status":                {&metav1.Status{Message: strings.Repeat("a", 10_000)}, runtime.ContentTypeYAML, false},
	} {
		t.Run(name, func(t *testing.T) {
			codecs := LimitCodecs(scheme.NewCodecs(scheme.Scheme))
			version := v1alpha1.SchemeGroupVersion
			info, ok := runtime.SerializerInfoForMediaType(codecs.SupportedMediaTypes(), test.mediaType)
			if !ok {
				t.Fatal("the media type is not supported")
			}
			var out bytes.Buffer
			err := codecs.EncoderForVersion(info.Serializer, version).Encode(test.object, &out)
			switch status := apierrors.APIStatus(nil); {
			case !test.refused && err != nil:
				t.Error(err)
			case test.refused && (!errors.As(err, &status) || status.Status().Code != http.StatusNotAcceptable || out.Len() > 0):
				t.Errorf("got error %v after %d bytes", err, out.Len())
			}
		})
	}
}
