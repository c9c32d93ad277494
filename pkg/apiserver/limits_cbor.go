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
	// cborBreak ends what has no length.
	cborBreak = 0xff
	// cborEndless is the additional information of what has no length.
	cborEndless = 31
)

// checkCBOR returns an error for CBOR that holds too much. It counts as checkJSON does.
func (l bodyLimits) checkCBOR(body []byte) error {
	type pending struct {
		left    uint64 // items to come, keys among them, unless it is endless
		endless bool
		text    int  // how long a string in pieces is so far
		pieces  bool // it is a string in pieces
		isKey   bool // the last item of a map was a key, or the string in pieces is one
	}
	r := l.newReader()
	open := []pending{{left: 1}}
	for len(body) > 0 {
		at := &open[len(open)-1]
		if !at.endless && at.left == 0 {
			if len(open) == 1 {
				return nil
			}
			open = open[:len(open)-1]
			r.close()
			continue
		}
		if body[0] == cborBreak {
			if !at.endless {
				return nil
			}
			body, open = body[1:], open[:len(open)-1]
			if !at.pieces {
				r.close()
			}
			continue
		}
		major, value, n := cborHead(body)
		if n == 0 {
			return nil
		}
		endless := body[0]&0x1f == cborEndless
		body = body[n:]
		if major == cborTag {
			continue // the item comes next
		}
		if !at.endless {
			at.left--
		}
		inMap := r.levels[len(r.levels)-1].object && !at.pieces
		if inMap {
			at.isKey = !at.isKey
		}
		key := inMap && at.isKey
		if len(r.levels) > 1 && !at.pieces && (!inMap || key) {
			if err := r.item(); err != nil {
				return err
			}
		}
		switch major {
		case cborBytes, cborText:
			if endless {
				if key {
					r.levels[len(r.levels)-1].name = nil
				}
				open = append(open, pending{endless: true, pieces: true, isKey: key})
				continue
			}
			if value > uint64(len(body)) {
				return nil
			}
			if at.pieces {
				at.text += int(value)
			}
			if err := r.checkText(max(int(value), at.text)); err != nil {
				return err
			}
			switch inner := &r.levels[len(r.levels)-1]; {
			case key:
				inner.name = body[:value]
			case at.pieces && at.isKey:
				inner.name = append(slices.Clip(inner.name), body[:value]...)
			}
			body = body[value:]
		case cborList, cborMap:
			if err := r.open(major == cborMap); err != nil {
				return err
			}
			if major == cborMap {
				value *= 2
			}
			open = append(open, pending{left: value, endless: endless})
		}
	}
	return nil
}

// cborHead returns the major type and the argument of the item at the beginning of data, and how many bytes they take:
// none if that is no item.
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
		var whole [8]byte
		copy(whole[8-size:], data[1:1+size])
		return major, binary.BigEndian.Uint64(whole[:]), 1 + size
	case info == cborEndless && major >= cborBytes && major <= cborMap:
		return major, 0, 1
	}
	return 0, 0, 0
}
