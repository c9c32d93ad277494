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
	"encoding/binary"
	"slices"
)

// The major types of CBOR, RFC 8949, section 3.1.
const (
	cborBytes = 2
	cborText  = 3
	cborList  = 4
	cborMap   = 5
	cborTag   = 6
)

const (
	// cborBreak ends an item of indefinite length.
	cborBreak = 0xff
	// cborIndefinite is the additional information of an item of indefinite length.
	cborIndefinite = 31
)

// checkCBOR returns an error for CBOR that exceeds the limits. It counts as checkJSON does.
func (l bodyLimits) checkCBOR(body []byte) error {
	type container struct {
		left       uint64 // number of items to come, including keys, unless the length is indefinite
		indefinite bool   // of indefinite length
		chunked    bool   // a string of indefinite length, which consists of chunks
		text       int    // size of the chunks so far
		isKey      bool   // the last item of a map was a key; of a chunked string, whether it is a key
	}
	r := l.newCounter()
	open := []container{{left: 1}}
	for len(body) > 0 {
		innermost := &open[len(open)-1]
		if !innermost.indefinite && innermost.left == 0 {
			if len(open) == 1 {
				return nil
			}
			open = open[:len(open)-1]
			r.close()
			continue
		}
		if body[0] == cborBreak {
			if !innermost.indefinite {
				return nil
			}
			body, open = body[1:], open[:len(open)-1]
			if !innermost.chunked {
				r.close()
			}
			continue
		}
		major, value, n := cborHead(body)
		if n == 0 {
			return nil
		}
		indefinite := body[0]&0x1f == cborIndefinite
		body = body[n:]
		if major == cborTag {
			continue // the tagged item follows
		}
		if !innermost.indefinite {
			innermost.left--
		}
		inMap := r.levels[len(r.levels)-1].object && !innermost.chunked
		if inMap {
			innermost.isKey = !innermost.isKey
		}
		key := inMap && innermost.isKey
		if len(r.levels) > 1 && !innermost.chunked && (!inMap || key) {
			if err := r.item(); err != nil {
				return err
			}
		}
		switch major {
		case cborBytes, cborText:
			if indefinite {
				if key {
					r.levels[len(r.levels)-1].name = nil
				}
				open = append(open, container{indefinite: true, chunked: true, isKey: key})
				continue
			}
			if value > uint64(len(body)) {
				return nil
			}
			if innermost.chunked {
				innermost.text += int(value)
			}
			if err := r.checkText(max(int(value), innermost.text)); err != nil {
				return err
			}
			switch level := &r.levels[len(r.levels)-1]; {
			case key:
				level.name = body[:value]
			case innermost.chunked && innermost.isKey:
				level.name = append(slices.Clip(level.name), body[:value]...)
			}
			body = body[value:]
		case cborList, cborMap:
			if err := r.open(major == cborMap); err != nil {
				return err
			}
			if major == cborMap {
				value *= 2
			}
			open = append(open, container{left: value, indefinite: indefinite})
		}
	}
	return nil
}

// cborHead returns the major type and the argument of the item at the beginning of data, and the number of bytes that
// they take. The number is zero if data begins with no valid item.
func cborHead(data []byte) (major byte, value uint64, n int) {
	major, info := data[0]>>5, data[0]&0x1f
	switch {
	case info < 24:
		return major, uint64(info), 1
	case info < 28:
		size := 1 << (info - 24)
		if len(data) < 1+size {
			return 0, 0, 0
		}
		var argument [8]byte
		copy(argument[8-size:], data[1:1+size])
		return major, binary.BigEndian.Uint64(argument[:]), 1 + size
	case info == cborIndefinite && major >= cborBytes && major <= cborMap:
		return major, 0, 1
	}
	return 0, 0, 0
}
