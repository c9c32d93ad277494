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

package apiserver

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/util/apihelpers"
	"sigs.k8s.io/yaml"

	"github.com/leat-dev/leat/apis/batch/v1alpha1"
	registry "github.com/leat-dev/leat/pkg/registry/batch"
)

// What a request may hold. Time and memory that upstream needs grow with more than the length of what it reads: with the square of the
// number of fields of a map, whose managers it keeps sorted, and with the square of the depth of fields that it does not know. No object
// that could be stored comes near these bounds.
const (
	// maxTerms and maxValues are how many terms a selector may have, and values in all of them together. Each object of a list is held
	// to each term, and each change to those of all who watch.
	maxTerms, maxValues = 1_000, 10_000
	// smallBody is how long a body can be without being looked at.
	smallBody = 4 << 10
	// maxYAML is how long YAML may be that is not JSON: reading it takes a hundred times its length.
	maxYAML = 256 << 10
	// maxYAMLList and maxYAMLObject are how long a list and an object may be, as protobuf, that are written as YAML: that takes thirty
	// times as long as JSON, and a hundred times the length in memory. Objects have less in them for their length.
	maxYAMLList, maxYAMLObject = 512 << 10, 1 << 20
	// rowSize is about how long a row of a table is without its object.
	rowSize = 256
)

// jsonLimits are what JSON may hold.
type jsonLimits struct {
	// depth is how deep objects and lists may be nested.
	depth int
	// fields is how many fields an object may have, and how many objects a list.
	fields int
	// items is how many strings or numbers a list may have.
	items int
	// parts is how many fields and items all objects and lists may have together.
	parts int
	// text is how many bytes a string may have, as it is written.
	text int
}

// bodyLimits are those of bodies: there may be 65,536 arguments of a command, of 1 MiB, which can take twice that to write.
var bodyLimits = jsonLimits{depth: 100, fields: 10_000, items: 65_536, parts: 200_000, text: 2 << 20}

// withSelectorLimits refuses selectors that are too long, before anything reads them.
func withSelectorLimits(handler http.Handler, codecs runtime.NegotiatedSerializer) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if len(req.URL.RawQuery) > maxTerms { // a term has one character at least
			query := req.URL.Query()
			for _, name := range []string{"labelSelector", "fieldSelector"} {
				for _, selector := range query[name] {
					if terms, values := countTerms(selector); terms > maxTerms || values > maxValues {
						refuse(w, req, codecs, apierrors.NewBadRequest(fmt.Sprintf("%s has %d terms with %d values: at most %d terms with %d values are accepted: "+
							"send several requests, each with a part of them", name, terms, values, maxTerms, maxValues)))
						return
					}
				}
			}
		}
		handler.ServeHTTP(w, req)
	})
}

// countTerms counts what commas part, outside and inside of parentheses.
func countTerms(selector string) (terms, values int) {
	terms, values = 1, 1
	open := false
	for _, c := range []byte(selector) {
		switch c {
		case '(':
			open = true
		case ')':
			open = false
		case ',':
			values++
			if !open {
				terms++
			}
		}
	}
	return terms, values
}

// withBodyLimits refuses bodies that are compressed, which nobody would decompress, and those that are too deep or have too many parts.
// Bodies of more than maxBytes are left to who reads them to refuse. The handler is the innermost: only who may write is read.
func withBodyLimits(handler http.Handler, codecs runtime.NegotiatedSerializer, maxBytes int64) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Body == nil || req.ContentLength == 0 {
			handler.ServeHTTP(w, req)
			return
		}
		if encoding := req.Header.Get("Content-Encoding"); encoding != "" && encoding != "identity" {
			refuse(w, req, codecs, &apierrors.StatusError{ErrStatus: metav1.Status{
				Status: metav1.StatusFailure, Code: http.StatusUnsupportedMediaType, Reason: metav1.StatusReasonUnsupportedMediaType,
				Message: fmt.Sprintf("the body has the Content-Encoding %.100q: send it as it is, without one", encoding),
			}})
			return
		}
		if req.ContentLength > smallBody && req.ContentLength <= maxBytes || req.ContentLength < 0 {
			body := req.Body
			read, err := io.ReadAll(io.LimitReader(body, maxBytes+1))
			if err == nil && int64(len(read)) <= maxBytes {
				err = checkBody(req, read)
				if err != nil {
					refuse(w, req, codecs, apierrors.NewRequestEntityTooLargeError(err.Error()))
					return
				}
			}
			// An error comes back to who reads on.
			req.Body = struct {
				io.Reader
				io.Closer
			}{io.MultiReader(bytes.NewReader(read), body), body}
		}
		handler.ServeHTTP(w, req)
	})
}

// limitYAML has codecs refuse to write long answers as YAML.
func limitYAML(codecs runtime.NegotiatedSerializer) {
	accepted := codecs.SupportedMediaTypes() // the codecs' own, not a copy
	for i := range accepted {
		if accepted[i].MediaType == runtime.ContentTypeYAML {
			accepted[i].Serializer = limitedYAML{accepted[i].Serializer}
		}
	}
}

// limitSharedYAML does so with upstream's own codecs, which write tables and metadata for all servers of the process.
var limitSharedYAML = sync.OnceFunc(func() { limitYAML(apihelpers.GetMetaInternalVersionCodecs()) })

// limitedYAML writes nothing that is long. Who has written a long object, and wants it back as YAML, has written it nevertheless.
type limitedYAML struct{ runtime.Serializer }

// Encode implements runtime.Encoder.
func (y limitedYAML) Encode(obj runtime.Object, w io.Writer) error {
	if size, limit, advice := yamlSize(obj); size > limit {
		return &apierrors.StatusError{ErrStatus: metav1.Status{
			Status: metav1.StatusFailure, Code: http.StatusNotAcceptable, Reason: metav1.StatusReasonNotAcceptable,
			Message: fmt.Sprintf("the answer has more than %d bytes, which is too long to be written as YAML: %s", limit, advice),
		}}
	}
	return y.Serializer.Encode(obj, w)
}

// yamlSize is about how long an object is as protobuf, how long it may be, and what to do if it is longer. What has no such form is short.
func yamlSize(obj runtime.Object) (size, limit int, advice string) {
	type sized interface{ Size() int }
	const accept, part = "accept JSON or protobuf", ", or ask for a part with limit"
	if table, ok := obj.(*metav1.Table); ok {
		for _, row := range table.Rows {
			size += rowSize
			if object, ok := row.Object.Object.(sized); ok {
				size += object.Size()
			}
		}
		return size, maxYAMLList, accept + part
	}
	if object, ok := obj.(sized); ok {
		size = object.Size()
	}
	if meta.IsListType(obj) {
		return size, maxYAMLList, accept + part
	}
	return size, maxYAMLObject, accept
}

func refuse(w http.ResponseWriter, req *http.Request, codecs runtime.NegotiatedSerializer, err error) {
	responsewriters.ErrorNegotiated(err, codecs, v1alpha1.SchemeGroupVersion, w, req)
}

// checkBody says what of a body is too much. What cannot be read has nothing that is: its decoder will say so.
func checkBody(req *http.Request, body []byte) error {
	mediaType, _, _ := mime.ParseMediaType(req.Header.Get("Content-Type"))
	switch {
	case mediaType == runtime.ContentTypeProtobuf:
		info, _ := request.RequestInfoFrom(req.Context())
		return checkProtobuf(body, info != nil && info.Resource == registry.TaskSets.GroupResource.Resource)
	case strings.HasSuffix(mediaType, "yaml") && !json.Valid(body):
		if len(body) > maxYAML {
			return fmt.Errorf("the body is YAML of more than %d bytes: send JSON, which may be longer", maxYAML)
		}
		var err error
		if body, err = yaml.YAMLToJSON(body); err != nil {
			return nil
		}
	}
	return bodyLimits.check(body)
}

// check says what of JSON is too much. It never counts less than a decoder would find in what it can decode.
func (l jsonLimits) check(body []byte) error {
	type level struct {
		object        bool
		items, nested int
	}
	levels := make([]level, 1, 16) // the first is around the whole
	parts := 0
	for i := 0; i < len(body); i++ {
		at := &levels[len(levels)-1]
		switch c := body[i]; c {
		case '"':
			start := i
			for i++; i < len(body) && body[i] != '"'; i++ {
				if body[i] == '\\' {
					i++
				}
			}
			if i-start-1 > l.text {
				return fmt.Errorf("a string in the body has more than %d bytes", l.text)
			}
		case '{', '[':
			parts++
			if at.nested++; !at.object && at.nested > l.fields {
				return fmt.Errorf("a list in the body has more than %d objects", l.fields)
			}
			if len(levels) > l.depth {
				return fmt.Errorf("the body is nested more than %d deep", l.depth)
			}
			levels = append(levels, level{object: c == '{', items: 1})
		case '}', ']':
			levels = levels[:max(1, len(levels)-1)]
		case ',':
			at.items++
			parts++
			switch {
			case at.object && at.items > l.fields:
				return fmt.Errorf("an object in the body has more than %d fields", l.fields)
			case at.items > l.items:
				return fmt.Errorf("a list in the body has more than %d items", l.items)
			}
		}
		if parts > l.parts {
			return fmt.Errorf("the body has more than %d fields and items", l.parts)
		}
	}
	return nil
}

// The fields of our objects, by their numbers in protobuf.
const (
	metadataField, specField = 1, 2
	// rawField is that of runtime.Unknown.
	rawField = 2
	// templateField is that of the spec of a set.
	templateField = 14
)

// checkProtobuf says what of an object is too much. That of a set holds one more in its template.
func checkProtobuf(body []byte, isSet bool) error {
	var object []byte
	eachField(bytes.TrimPrefix(body, []byte("k8s\x00")), func(number uint64, value []byte) {
		if number == rawField {
			object = value
		}
	})
	return checkObject(object, isSet)
}

func checkObject(object []byte, isSet bool) error {
	type field struct{ in, number uint64 }
	counts, templates := map[field]int{}, []byte(nil)
	eachField(object, func(in uint64, part []byte) {
		if in == metadataField || in == specField {
			eachField(part, func(number uint64, value []byte) {
				counts[field{in, number}]++
				if isSet && in == specField && number == templateField {
					templates = append(templates, value...) // those that repeat add up
				}
			})
		}
	})
	for f, count := range counts {
		if limit := map[uint64]int{metadataField: bodyLimits.fields, specField: bodyLimits.items}[f.in]; count > limit {
			return fmt.Errorf("field %d of field %d of an object has %d items: at most %d are accepted", f.number, f.in, count, limit)
		}
	}
	if len(templates) > 0 {
		return checkObject(templates, false)
	}
	return nil
}

// eachField gives the fields of a message in their order, with what those hold that have a length. It ends at what is no field.
func eachField(message []byte, f func(number uint64, value []byte)) {
	groups := 0
	for len(message) > 0 {
		tag, n := binary.Uvarint(message)
		if n <= 0 {
			return
		}
		message = message[n:]
		var value []byte
		length := uint64(0)
		switch tag & 7 {
		case 0:
			if _, n = binary.Uvarint(message); n <= 0 {
				return
			}
			length = uint64(n)
		case 1:
			length = 8
		case 2:
			if length, n = binary.Uvarint(message); n <= 0 || length > uint64(len(message)-n) {
				return
			}
			message = message[n:]
			value = message[:length]
		case 3:
			groups++
		case 4:
			groups--
		case 5:
			length = 4
		default:
			return
		}
		if length > uint64(len(message)) {
			return
		}
		message = message[length:]
		if groups == 0 && tag&7 != 4 {
			f(tag>>3, value)
		}
	}
}
