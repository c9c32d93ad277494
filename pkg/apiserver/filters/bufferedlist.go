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

// Package filters holds the filters of the handler chain: limits of requests and responses, buffered lists, connection
// drain and the grace after deadlines.
package filters

import (
	"bufio"
	"net/http"
	"sync"

	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/endpoints/responsewriter"
)

// listBufferSize is the size of the write buffer of a list response, in bytes.
const listBufferSize = 64 << 10

var listBuffers = sync.Pool{New: func() any { return bufio.NewWriterSize(nil, listBufferSize) }}

// WithBufferedLists buffers the responses to list requests. Upstream writes a list object by object, and each write
// costs an HTTP/2 frame, a TLS record and a system call, more than to encode the object. If the handler panics, the
// buffer is not flushed, so that the client sees a truncated response.
func WithBufferedLists(handler http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if info, ok := request.RequestInfoFrom(req.Context()); !ok || info.Verb != "list" {
			handler.ServeHTTP(w, req)
			return
		}
		buffer := listBuffers.Get().(*bufio.Writer)
		buffer.Reset(w)
		handler.ServeHTTP(responsewriter.WrapForHTTP1Or2(&bufferedResponseWriter{w, buffer}), req)
		_ = buffer.Flush() // fails only if the client has disconnected
		buffer.Reset(nil)
		listBuffers.Put(buffer)
	})
}

type bufferedResponseWriter struct {
	http.ResponseWriter
	buffer *bufio.Writer
}

// Unwrap implements responsewriter.UserProvidedDecorator.
func (w *bufferedResponseWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Write implements http.ResponseWriter.
func (w *bufferedResponseWriter) Write(data []byte) (int, error) { return w.buffer.Write(data) }

// Flush implements http.Flusher.
func (w *bufferedResponseWriter) Flush() {
	_ = w.buffer.Flush()
	w.ResponseWriter.(http.Flusher).Flush() // WrapForHTTP1Or2 exposes Flush only if the inner writer is a Flusher
}
