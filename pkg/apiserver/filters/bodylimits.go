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
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
	"k8s.io/apiserver/pkg/endpoints/request"
	"sigs.k8s.io/yaml"

	"github.com/leat-dev/leat/apis/batch"
	"github.com/leat-dev/leat/apis/batch/v1alpha1"
)

// Limits of requests and responses. Upstream needs more than linear time and memory for some inputs: quadratic in the
// number of fields of a map, whose managers it keeps sorted, and quadratic in the depth of unknown fields. No object
// that fits into etcd comes near these limits.
const (
	// smallBody is the size of the largest JSON body that is not checked, in bytes. Protobuf is checked whatever
	// its size, because its decoder parses quantities of any exponent.
	smallBody = 4 << 10
	// maxYAML is the size of the largest YAML body, unless it is JSON as well, in bytes. To decode YAML takes a
	// hundred times its size.
	maxYAML = 256 << 10
	// fieldsV1 is the JSON name of the field in a managedFields entry that holds the set of fields.
	fieldsV1 = "fieldsV1"
	// maxPath is the approximate length of the longest field path in an error.
	maxPath = 500
)

// bodyLimits bounds what a request body may hold, in any encoding.
type bodyLimits struct {
	// depth bounds the nesting of objects and lists.
	depth int
	// fields bounds the fields of an object, and the objects in a list.
	fields int
	// items bounds the strings or numbers in a list.
	items int
	// operations bounds the items of the outermost list. Zero means items.
	operations int
	// sets bounds the items of lists by the name of their field. Upstream compares their items with each other.
	sets map[string]int
	// total bounds the fields and items of all objects and lists together.
	total int
	// text bounds the encoded size of a string, in bytes.
	text int
}

// defaultLimits are the limits of all bodies but patches. A TaskSet has at most 100,000 items, and an argument of 1 MiB
// can take twice that in JSON.
var defaultLimits = bodyLimits{
	depth: 100, fields: 10_000, items: 100_000, total: 200_000, text: 2 << 20,
	sets: map[string]int{"managedFields": 1_000, "ownerReferences": 1_000, "finalizers": 10_000},
}

// maxPatch bounds the operations of a JSON patch, because each copies the list that it changes, and the items of a list
// in a strategic merge patch, because each is compared with all stored items.
const maxPatch = 1_000

// limitsFor returns the limits of bodies of the media type.
func limitsFor(mediaType string) bodyLimits {
	limits := defaultLimits
	switch mediaType {
	case string(types.JSONPatchType):
		limits.operations = maxPatch
	case string(types.StrategicMergePatchType):
		limits.items = maxPatch
	}
	return limits
}

// WithBodyLimits refuses bodies that exceed the limits, and compressed bodies, which upstream does not decompress. It
// leaves bodies of more than maxBytes to the handler to refuse. It must be inside authorization, so that only the
// bodies of users that may write are read. It does not read segments for the archive, which are zip files.
func WithBodyLimits(handler http.Handler, codecs runtime.NegotiatedSerializer, maxBytes int64) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Body == nil || req.ContentLength == 0 {
			handler.ServeHTTP(w, req)
			return
		}
		if encoding := req.Header.Get("Content-Encoding"); encoding != "" && encoding != "identity" {
			writeError(w, req, codecs, &apierrors.StatusError{ErrStatus: metav1.Status{
				Status: metav1.StatusFailure, Code: http.StatusUnsupportedMediaType, Reason: metav1.StatusReasonUnsupportedMediaType,
				Message: fmt.Sprintf("the body has the Content-Encoding %.100q: send it as it is, without one", encoding),
			}})
			return
		}
		if !isSmall(req) && !isSegment(req) && req.ContentLength <= maxBytes {
			body := req.Body
			read, err := io.ReadAll(io.LimitReader(body, maxBytes+1))
			if err == nil && int64(len(read)) <= maxBytes {
				err = checkBody(req, read)
				if err != nil {
					writeError(w, req, codecs, apierrors.NewRequestEntityTooLargeError(err.Error()))
					return
				}
			}
			// If the read failed, the handler gets the error when it reads on.
			req.Body = struct {
				io.Reader
				io.Closer
			}{io.MultiReader(bytes.NewReader(read), body), body}
		}
		handler.ServeHTTP(w, req)
	})
}

// isSmall reports whether the body of a request is too small to exceed the limits.
func isSmall(req *http.Request) bool {
	mediaType, _, _ := mime.ParseMediaType(req.Header.Get("Content-Type"))
	return req.ContentLength >= 0 && req.ContentLength <= smallBody && mediaType != runtime.ContentTypeProtobuf
}

// isSegment reports whether the body is a segment for the archive. Its handler bounds and checks it.
func isSegment(req *http.Request) bool {
	info, ok := request.RequestInfoFrom(req.Context())
	return ok && info.IsResourceRequest && info.APIGroup == batch.GroupName && info.Resource == "workers" && info.Subresource == "archive"
}

func writeError(w http.ResponseWriter, req *http.Request, codecs runtime.NegotiatedSerializer, err error) {
	responsewriters.ErrorNegotiated(err, codecs, v1alpha1.SchemeGroupVersion, w, req)
}

// checkBody returns an error for a body that exceeds the limits. It returns none for a body that cannot be parsed,
// which the decoder refuses.
func checkBody(req *http.Request, body []byte) error {
	mediaType, _, _ := mime.ParseMediaType(req.Header.Get("Content-Type"))
	limits := limitsFor(mediaType)
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
	// object is true for an object, false for a list.
	object bool
	// items is the number of fields or items so far, and nested the number of those that are objects or lists.
	items, nested int
	// limit bounds items.
	limit int
	// name is the encoded name of the current field of an object.
	name []byte
}

// bodyCounter counts what a body holds and compares it with the limits.
type bodyCounter struct {
	bodyLimits
	levels []level // outermost first; the first is around the body
	count  int     // fields and items of all levels
}

// path returns the field path of the innermost object or list.
func (r *bodyCounter) path() string {
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

// checkText returns an error if a string of n bytes is too long.
func (r *bodyCounter) checkText(n int) error {
	if n <= r.text {
		return nil
	}
	return fmt.Errorf("a string in the body has more than %d bytes", r.text)
}

// open begins an object or a list in the innermost one.
func (r *bodyCounter) open(object bool) error {
	parent := &r.levels[len(r.levels)-1]
	if parent.nested++; len(r.levels) > 1 && !parent.object && parent.nested > r.fields {
		return fmt.Errorf("a list in the body has more than %d objects: %s", r.fields, r.path())
	}
	if len(r.levels) > r.depth {
		return fmt.Errorf("the body is nested more than %d deep", r.depth)
	}
	r.levels = append(r.levels, level{object: object, limit: r.limitOf(object)})
	return r.increment()
}

// limitOf returns the limit of an object or a list that begins in the innermost one.
func (r *bodyCounter) limitOf(object bool) int {
	parent := r.levels[len(r.levels)-1]
	name := fieldName(parent.name)
	if object {
		if name == fieldsV1 || parent.object && parent.limit > r.fields {
			return r.fields + 1 // fieldsV1 has a member for each field of an object, and "." for the object itself
		}
		return r.fields
	}
	limit := r.items
	if len(r.levels) == 1 && r.operations > 0 {
		limit = r.operations
	}
	if setLimit, ok := r.sets[name]; ok {
		limit = min(limit, setLimit)
	}
	return limit
}

// close ends the innermost object or list.
func (r *bodyCounter) close() { r.levels = r.levels[:len(r.levels)-1] }

// item begins a field of the innermost object, or an item of the innermost list.
func (r *bodyCounter) item() error {
	innermost := &r.levels[len(r.levels)-1]
	innermost.items++
	switch {
	case innermost.object && innermost.items > innermost.limit:
		return fmt.Errorf("an object in the body has more than %d fields: %s", r.fields, r.path())
	case !innermost.object && innermost.items > innermost.limit:
		return fmt.Errorf("a list in the body has more than %d items: %s", innermost.limit, r.path())
	}
	if innermost.items == 1 {
		return nil // counted with its object or list
	}
	return r.increment()
}

// increment counts a field or an item.
func (r *bodyCounter) increment() error {
	if r.count++; r.count > r.total {
		return fmt.Errorf("the body has more than %d fields and items", r.total)
	}
	return nil
}

// newCounter returns a counter for a body.
func (l bodyLimits) newCounter() *bodyCounter {
	return &bodyCounter{bodyLimits: l, levels: append(make([]level, 0, 16), level{limit: l.items})}
}

// checkJSON returns an error for JSON that exceeds the limits. It tolerates invalid JSON, but never counts less than a
// decoder finds in valid JSON.
func (l bodyLimits) checkJSON(body []byte) error { return l.newCounter().readJSON(body) }

// readJSON counts JSON inside of the innermost object or list, which it does not close.
func (r *bodyCounter) readJSON(body []byte) error {
	innermost := len(r.levels)
	defer func() { r.levels = r.levels[:innermost] }()
	var text []byte // the last string
	empty := false  // the innermost object or list has no item so far
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

// fieldName returns the decoded name of a field. Only names with escapes differ from their encoding.
func fieldName(text []byte) string {
	name := string(text)
	if strings.Contains(name, `\`) {
		_ = json.Unmarshal([]byte(`"`+name+`"`), &name) // the decoder refuses an invalid name
	}
	return name
}
