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
	"bufio"
	"net/http"
	"sync"

	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/endpoints/responsewriter"
)

// pieceSize is how many bytes of a list are sent at a time.
const pieceSize = 64 << 10

var pieceWriters = sync.Pool{New: func() any { return bufio.NewWriterSize(nil, pieceSize) }}

// withLargePieces has lists sent in large pieces. Upstream writes them object by object: each would make a frame of HTTP/2, a record of TLS
// and a call of the system, which cost more than to encode it. Of a list that ends in a panic the last piece is not sent, as it should seem
// broken.
func withLargePieces(handler http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if info, ok := request.RequestInfoFrom(req.Context()); !ok || info.Verb != "list" {
			handler.ServeHTTP(w, req)
			return
		}
		buffer := pieceWriters.Get().(*bufio.Writer)
		buffer.Reset(w)
		handler.ServeHTTP(responsewriter.WrapForHTTP1Or2(&pieceWriter{w, buffer}), req)
		_ = buffer.Flush() // who has left is told nothing
		buffer.Reset(nil)
		pieceWriters.Put(buffer)
	})
}

// pieceWriter collects what is written.
type pieceWriter struct {
	http.ResponseWriter
	buffer *bufio.Writer
}

// Unwrap implements responsewriter.UserProvidedDecorator.
func (p *pieceWriter) Unwrap() http.ResponseWriter { return p.ResponseWriter }

// Write implements http.ResponseWriter.
func (p *pieceWriter) Write(data []byte) (int, error) { return p.buffer.Write(data) }

// Flush implements http.Flusher.
func (p *pieceWriter) Flush() {
	_ = p.buffer.Flush()
	p.ResponseWriter.(http.Flusher).Flush() // it is asked for only where there is one
}
