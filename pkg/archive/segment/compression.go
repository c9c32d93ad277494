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

package segment

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"sync"

	"github.com/klauspost/compress/flate"
)

// minDeflated is the size from which deflating content can be worth its cost, in bytes.
const minDeflated = 100

// packer assembles the local header and the data of an entry. As an io.Writer, it appends to buf.
type packer struct {
	buf     []byte
	deflate *flate.Writer
}

var packers = sync.Pool{New: func() any {
	p := &packer{}
	// The level is valid, so there is no error.
	p.deflate, _ = flate.NewWriter(p, flate.BestSpeed)
	return p
}}

func (p *packer) Write(b []byte) (int, error) {
	p.buf = append(p.buf, b...)
	return len(b), nil
}

// pack returns the local header and the data for the content. It sets method, checksum and sizes of the entry. The
// result is valid until the next call.
func (p *packer) pack(e *entry, content []byte) []byte {
	// The place of the header, which is not known yet.
	start := localLength + len(e.name)
	p.buf = append(p.buf[:0], make([]byte, start)...)
	e.method, e.crc, e.size = methodStore, crc32.ChecksumIEEE(content), uint32(len(content))
	if len(content) >= minDeflated {
		// Writes to p cannot fail.
		p.deflate.Reset(p)
		_, _ = p.deflate.Write(content)
		_ = p.deflate.Close()
		if len(p.buf)-start < len(content) {
			e.method = methodDeflate
		}
	}
	if e.method == methodStore {
		p.buf = append(p.buf[:start], content...)
	}
	e.compressed = uint32(len(p.buf) - start)
	e.appendLocal(p.buf[:0])
	return p.buf
}

// contentReader reads the content of an entry. It returns no more than the declared size. At the end, it returns an
// error unless size and checksum are the declared ones, and all of the data was used.
type contentReader struct {
	entry   *entry
	data    *bytes.Reader
	inflate io.ReadCloser // nil for a stored entry
	read    int64
	crc     uint32
}

var inflaters = sync.Pool{New: func() any { return flate.NewReader(nil) }}

// newContentReader returns a reader of the content of an entry from its data.
func newContentReader(e *entry, data []byte) *contentReader {
	r := &contentReader{entry: e, data: bytes.NewReader(data)}
	if e.method == methodDeflate {
		r.inflate = inflaters.Get().(io.ReadCloser)
		// Without a dictionary, there is no error.
		_ = r.inflate.(flate.Resetter).Reset(r.data, nil)
	}
	return r
}

func (r *contentReader) Read(b []byte) (int, error) {
	var source io.Reader = r.data
	if r.inflate != nil {
		source = r.inflate
	}
	// One byte more shows content that is too long.
	rest := int64(r.entry.size) - r.read
	if int64(len(b)) > rest+1 {
		b = b[:rest+1]
	}
	n, err := source.Read(b)
	if int64(n) > rest {
		return 0, r.invalid("it inflates to more than its size, %d bytes", r.entry.size)
	}
	r.read += int64(n)
	r.crc = crc32.Update(r.crc, crc32.IEEETable, b[:n])
	switch {
	case err == nil:
	case !errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		return n, r.invalid("it cannot be inflated: %v", err)
	case r.read < int64(r.entry.size):
		return n, r.invalid("it inflates to %d bytes, but its size is %d", r.read, r.entry.size)
	case r.crc != r.entry.crc:
		return n, r.invalid("its checksum is %#08x, but the directory has %#08x", r.crc, r.entry.crc)
	case r.data.Len() > 0:
		return n, r.invalid("%d bytes follow its deflated content", r.data.Len())
	}
	return n, err
}

func (r *contentReader) invalid(format string, args ...any) error {
	return fmt.Errorf("%w: entry %q: %s", ErrInvalid, r.entry.name, fmt.Sprintf(format, args...))
}

// Close releases the memory for inflating. Do not use the reader afterwards.
func (r *contentReader) Close() error {
	if r.inflate != nil {
		inflaters.Put(r.inflate)
		r.inflate = nil
	}
	return nil
}
