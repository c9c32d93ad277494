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
	"fmt"
	"io"
	"net/http"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

const (
	// maxYAMLList and maxYAMLObject are the sizes of the largest list and object that are encoded as YAML, in bytes
	// of their protobuf encoding. To encode YAML takes thirty times as long as JSON, and a hundred times the size
	// in memory. Objects have fewer fields for their size than lists.
	maxYAMLList, maxYAMLObject = 512 << 10, 1 << 20
)

// LimitCodecs returns codecs that apply the limits to decoded JSON, and refuse to encode large objects as YAML. A JSON
// patch can build a large object from a small body, and upstream decodes the result.
func LimitCodecs(codecs runtime.NegotiatedSerializer) runtime.NegotiatedSerializer {
	mediaTypes := slices.Clone(codecs.SupportedMediaTypes())
	limitYAML(mediaTypes)
	return limitedCodecs{codecs, mediaTypes}
}

type limitedCodecs struct {
	runtime.NegotiatedSerializer
	mediaTypes []runtime.SerializerInfo
}

// SupportedMediaTypes implements runtime.NegotiatedSerializer.
func (c limitedCodecs) SupportedMediaTypes() []runtime.SerializerInfo { return c.mediaTypes }

// DecoderToVersion implements runtime.NegotiatedSerializer.
func (c limitedCodecs) DecoderToVersion(decoder runtime.Decoder, version runtime.GroupVersioner) runtime.Decoder {
	return c.NegotiatedSerializer.DecoderToVersion(limitedDecoder{decoder}, version)
}

type limitedDecoder struct{ runtime.Decoder }

// Decode implements runtime.Decoder.
func (d limitedDecoder) Decode(data []byte, defaults *schema.GroupVersionKind, into runtime.Object) (runtime.Object, *schema.GroupVersionKind, error) {
	if len(data) > smallBody && data[0] == '{' {
		if err := defaultLimits.checkJSON(data); err != nil {
			return nil, nil, err
		}
	}
	return d.Decoder.Decode(data, defaults, into)
}

// limitYAML replaces the YAML serializer in the list.
func limitYAML(mediaTypes []runtime.SerializerInfo) {
	for i := range mediaTypes {
		if mediaTypes[i].MediaType == runtime.ContentTypeYAML {
			mediaTypes[i].Serializer = limitedYAML{mediaTypes[i].Serializer}
		}
	}
}

// limitedYAML is a YAML serializer that refuses to encode large objects. A write whose response is refused has been
// stored nevertheless.
type limitedYAML struct{ runtime.Serializer }

// Encode implements runtime.Encoder.
func (y limitedYAML) Encode(obj runtime.Object, w io.Writer) error {
	if size, limit, advice := yamlSize(obj); size > limit {
		return notAcceptable("the response has more than %d bytes and is too large for YAML: %s", limit, advice)
	}
	return y.Serializer.Encode(obj, w)
}

func notAcceptable(format string, args ...any) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusNotAcceptable, Reason: metav1.StatusReasonNotAcceptable,
		Message: fmt.Sprintf(format, args...),
	}}
}

// yamlSize returns the approximate size of an object in protobuf, its limit for YAML, and advice for clients if the
// size exceeds the limit. The size of an object without protobuf encoding is zero.
func yamlSize(obj runtime.Object) (size, limit int, advice string) {
	type sized interface{ Size() int }
	const accept, part = "accept JSON or protobuf", ", or ask for a part with limit"
	if object, ok := obj.(sized); ok {
		size = object.Size()
	}
	if meta.IsListType(obj) {
		return size, maxYAMLList, accept + part
	}
	return size, maxYAMLObject, accept
}
