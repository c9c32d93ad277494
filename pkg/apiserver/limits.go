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
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
	"k8s.io/apiserver/pkg/util/apihelpers"
	"sigs.k8s.io/yaml"

	"github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// What a request may hold. Time and memory that upstream needs grow with more than the length of what it reads: with
// the square of the number of fields of a map, whose managers it keeps sorted, and with the square of the depth of
// fields that it does not know. No object that could be stored comes near these bounds.
const (
	// maxTerms and maxValues are how many terms a selector may have, and values in all of them together. Each object of
	// a list is held to each term, and each change to those of all who watch.
	maxTerms, maxValues = 1_000, 10_000
	// smallBody is how long JSON can be without being looked at. Protobuf is looked at however
	// short it is: its decoder reads quantities whatever they are.
	smallBody = 4 << 10
	// maxYAML is how long YAML may be that is not JSON: reading it takes a hundred times its length.
	maxYAML = 256 << 10
	// maxYAMLList and maxYAMLObject are how long a list and an object may be, as protobuf, that are written as YAML:
	// that takes thirty times as long as JSON, and a hundred times the length in memory. Objects have less in them for
	// their length.
	maxYAMLList, maxYAMLObject = 512 << 10, 1 << 20
	// fieldsV1 is the name of the field that holds the fields of a manager.
	fieldsV1 = "fieldsV1"
	// maxPath is about how long the path of a field in an error is.
	maxPath = 500
	// rowSize is about how long a row of a table is without its object.
	rowSize = 256
)

// bodyLimits are how much a body may hold, in any encoding.
type bodyLimits struct {
	// depth is how deep objects and lists may be nested.
	depth int
	// fields is how many fields an object may have, and how many objects a list.
	fields int
	// items is how many strings or numbers a list may have.
	items int
	// operations is how many items the outermost list may have, if that is fewer.
	operations int
	// sets is how many items the lists with these names may have, whose items are compared with each other.
	sets map[string]int
	// parts is how many fields and items all objects and lists may have together.
	parts int
	// text is how many bytes a string may have, as it is written.
	text int
}

// defaultLimits are those of the server: a TaskSet has 100,000 items at most, and an argument of 1 MiB can take twice
// that to write.
var defaultLimits = bodyLimits{
	depth: 100, fields: 10_000, items: 100_000, parts: 200_000, text: 2 << 20,
	sets: map[string]int{"managedFields": 1_000, "ownerReferences": 1_000, "finalizers": 10_000},
}

// maxPatch is how many operations a JSON patch may have, each of which copies the list that it changes, and how many
// items a list of a strategic merge patch, each of which is compared with all that are stored.
const maxPatch = 1_000

// limitsOf returns the limits of bodies of the media type.
func limitsOf(mediaType string) bodyLimits {
	limits := defaultLimits
	switch mediaType {
	case string(types.JSONPatchType):
		limits.operations = maxPatch
	case string(types.StrategicMergePatchType):
		limits.items = maxPatch
	}
	return limits
}

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

// withBodyLimits refuses bodies that are compressed, which nobody would decompress, and those that are too deep or have
// too many parts. Bodies of more than maxBytes are left to who reads them to refuse. The handler is the innermost: only
// who may write is read.
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
		if !isSmall(req) && req.ContentLength <= maxBytes {
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

// isSmall reports whether the body of a request need not be looked at.
func isSmall(req *http.Request) bool {
	mediaType, _, _ := mime.ParseMediaType(req.Header.Get("Content-Type"))
	return req.ContentLength >= 0 && req.ContentLength <= smallBody && mediaType != runtime.ContentTypeProtobuf
}

// limitedCodecs are codecs that refuse to read JSON that holds too much: a JSON patch can make an object of what its
// body does not hold.
type limitedCodecs struct{ runtime.NegotiatedSerializer }

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

// limitedYAML writes nothing that is long. Who has written a long object, and wants it back as YAML, has written it
// nevertheless.
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

// yamlSize is about how long an object is as protobuf, how long it may be, and what to do if it is longer. What has no
// such form is short.
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

// checkBody returns an error for a body that holds too much. What cannot be read has nothing that is too much: its
// decoder refuses it.
func checkBody(req *http.Request, body []byte) error {
	mediaType, _, _ := mime.ParseMediaType(req.Header.Get("Content-Type"))
	limits := limitsOf(mediaType)
	switch {
	case mediaType == runtime.ContentTypeProtobuf:
		return limits.checkProtobuf(body, requestedKind(req))
	case strings.HasSuffix(mediaType, "cbor"):
		return limits.checkCBOR(body)
	case strings.HasSuffix(mediaType, "yaml") && !json.Valid(body):
		if len(body) > maxYAML {
			return fmt.Errorf("the body is YAML of more than %d bytes: send JSON, which may be longer", maxYAML)
		}
		var err error
		if body, err = yaml.YAMLToJSON(body); err != nil {
			return nil
		}
	}
	return limits.checkJSON(body)
}

// level is an object or a list that is being read.
type level struct {
	object bool
	// items and nested are how many items it has so far, and how many of them are objects or lists.
	items, nested int
	// most is how many items it may have.
	most int
	// name is that of the field of an object that is being read, as it is written.
	name []byte
}

// bodyReader counts what a body holds.
type bodyReader struct {
	bodyLimits
	levels []level
	parts  int
}

// path returns the place of the innermost object or list in the body, as errors name it.
func (r *bodyReader) path() string {
	var b strings.Builder
	for _, l := range r.levels[:len(r.levels)-1] {
		switch {
		case l.object && b.Len() > 0:
			fmt.Fprintf(&b, ".%.100s", fieldName(l.name))
		case l.object:
			fmt.Fprintf(&b, "%.100s", fieldName(l.name))
		case b.Len() > 0:
			fmt.Fprintf(&b, "[%d]", l.items-1)
		}
		if b.Len() > maxPath {
			return b.String() + "…"
		}
	}
	if b.Len() == 0 {
		return "the body"
	}
	return b.String()
}

// checkText returns an error for a string of n bytes if that is too long.
func (r *bodyReader) checkText(n int) error {
	if n <= r.text {
		return nil
	}
	return fmt.Errorf("a string in the body has more than %d bytes", r.text)
}

// open begins an object or a list in the innermost one.
func (r *bodyReader) open(object bool) error {
	at := &r.levels[len(r.levels)-1]
	if at.nested++; len(r.levels) > 1 && !at.object && at.nested > r.fields {
		return fmt.Errorf("a list in the body has more than %d objects: %s", r.fields, r.path())
	}
	if len(r.levels) > r.depth {
		return fmt.Errorf("the body is nested more than %d deep", r.depth)
	}
	r.levels = append(r.levels, level{object: object, most: r.most(object)})
	return r.count()
}

// most returns how many items an object or a list may have that begins in the innermost one.
func (r *bodyReader) most(object bool) int {
	at := r.levels[len(r.levels)-1]
	name := fieldName(at.name)
	if object {
		if name == fieldsV1 || at.object && at.most > r.fields {
			return r.fields + 1 // the fields of an object, and "." for itself
		}
		return r.fields
	}
	most := r.items
	if len(r.levels) == 1 && r.operations > 0 {
		most = r.operations
	}
	if limit, ok := r.sets[name]; ok {
		most = min(most, limit)
	}
	return most
}

// close ends the innermost object or list.
func (r *bodyReader) close() { r.levels = r.levels[:len(r.levels)-1] }

// item begins a field of the innermost object, or an item of the innermost list.
func (r *bodyReader) item() error {
	at := &r.levels[len(r.levels)-1]
	at.items++
	switch {
	case at.object && at.items > at.most:
		return fmt.Errorf("an object in the body has more than %d fields: %s", r.fields, r.path())
	case !at.object && at.items > at.most:
		return fmt.Errorf("a list in the body has more than %d items: %s", at.most, r.path())
	}
	if at.items == 1 {
		return nil // it is counted with what it is in
	}
	return r.count()
}

func (r *bodyReader) count() error {
	if r.parts++; r.parts > r.bodyLimits.parts {
		return fmt.Errorf("the body has more than %d fields and items", r.bodyLimits.parts)
	}
	return nil
}

// newReader returns a bodyReader of a whole body, which is around everything.
func (l bodyLimits) newReader() *bodyReader {
	return &bodyReader{bodyLimits: l, levels: append(make([]level, 0, 16), level{most: l.items})}
}

// checkJSON returns an error for JSON that holds too much. It never counts less than a decoder finds in what it can
// decode.
func (l bodyLimits) checkJSON(body []byte) error { return l.newReader().readJSON(body) }

// readJSON counts JSON as a part of the innermost object or list, which it does not close.
func (r *bodyReader) readJSON(body []byte) error {
	innermost := len(r.levels)
	defer func() { r.levels = r.levels[:innermost] }()
	var text []byte // the last string
	empty := false  // nothing has come since the innermost object or list was opened
	for i := 0; i < len(body); i++ {
		c := body[i]
		switch c {
		case ' ', '\t', '\r', '\n':
			continue
		}
		if empty && c != '}' && c != ']' {
			if err := r.item(); err != nil {
				return err
			}
		}
		empty = false
		switch c {
		case '"':
			start := i
			for i++; i < len(body) && body[i] != '"'; i++ {
				if body[i] == '\\' {
					i++
				}
			}
			text = body[start+1 : min(i, len(body))]
			if err := r.checkText(len(text)); err != nil {
				return err
			}
		case ':':
			r.levels[len(r.levels)-1].name = text
		case '{', '[':
			if err := r.open(c == '{'); err != nil {
				return err
			}
			empty = true
		case '}', ']':
			r.levels = r.levels[:max(innermost, len(r.levels)-1)]
		case ',':
			if err := r.item(); err != nil {
				return err
			}
		}
	}
	return nil
}

// fieldName returns the name of a field as it is read. Only a name with escapes is another than is written.
func fieldName(text []byte) string {
	name := string(text)
	if strings.Contains(name, `\`) {
		_ = json.Unmarshal([]byte(`"`+name+`"`), &name) // what is no string is no name
	}
	return name
}
