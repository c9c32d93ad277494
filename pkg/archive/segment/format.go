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
	"encoding/binary"
	"fmt"
	"time"
)

// Signatures and lengths of the parts of a zip file, see APPNOTE.TXT of PKWARE, 4.3.
const (
	localSignature     = 0x04034b50
	directorySignature = 0x02014b50
	endSignature       = 0x06054b50

	localLength     = 30 // without the name
	directoryLength = 46 // without the name
	endLength       = 22

	methodStore   = 0
	methodDeflate = 8

	versionNeeded = 20             // Deflate
	madeBy        = 3<<8 | 20      // Unix
	fileMode      = 0o100644 << 16 // a regular file
	maxEntries    = 1<<16 - 1      // more need zip64
	maxName       = maxUID + len(".2147483647") + len(entrySuffix)
)

// entry is an entry of the directory.
type entry struct {
	name             string
	method           uint16
	modified         uint32 // MS-DOS date and time
	crc              uint32 // of the content
	compressed, size uint32
	offset           uint32 // of the local header
}

// length returns the length of the local header and the data.
func (e *entry) length() int64 {
	return localLength + int64(len(e.name)) + int64(e.compressed)
}

// end returns the offset after the data.
func (e *entry) end() int64 { return int64(e.offset) + e.length() }

// appendLocal appends the local header.
func (e *entry) appendLocal(b []byte) []byte {
	le := binary.LittleEndian
	b = le.AppendUint32(b, localSignature)
	b = le.AppendUint16(b, versionNeeded)
	b = e.appendCommon(b)
	return append(b, e.name...)
}

// appendDirectory appends the header in the directory.
func (e *entry) appendDirectory(b []byte) []byte {
	le := binary.LittleEndian
	b = le.AppendUint32(b, directorySignature)
	b = le.AppendUint16(b, madeBy)
	b = le.AppendUint16(b, versionNeeded)
	b = e.appendCommon(b)
	b = le.AppendUint16(b, 0) // length of the comment
	b = le.AppendUint16(b, 0) // disk
	b = le.AppendUint16(b, 0) // internal attributes
	b = le.AppendUint32(b, fileMode)
	b = le.AppendUint32(b, e.offset)
	return append(b, e.name...)
}

// appendCommon appends the fields that both headers have.
func (e *entry) appendCommon(b []byte) []byte {
	le := binary.LittleEndian
	b = le.AppendUint16(b, 0) // flags
	b = le.AppendUint16(b, e.method)
	b = le.AppendUint32(b, e.modified)
	b = le.AppendUint32(b, e.crc)
	b = le.AppendUint32(b, e.compressed)
	b = le.AppendUint32(b, e.size)
	b = le.AppendUint16(b, uint16(len(e.name)))
	return le.AppendUint16(b, 0) // length of the extra field
}

// parseCommon parses the fields that both headers have, and returns the length of the name.
func (e *entry) parseCommon(b []byte) (nameLength int, err error) {
	le := binary.LittleEndian
	flags, extra := le.Uint16(b), le.Uint16(b[22:])
	e.method = le.Uint16(b[2:])
	e.modified = le.Uint32(b[4:])
	e.crc = le.Uint32(b[8:])
	e.compressed = le.Uint32(b[12:])
	e.size = le.Uint32(b[16:])
	nameLength = int(le.Uint16(b[20:]))
	switch {
	case flags != 0:
		return nameLength, fmt.Errorf("flags are %#x, but must be 0: no encryption, no data descriptor", flags)
	case e.method != methodStore && e.method != methodDeflate:
		return nameLength, fmt.Errorf("the method is %d, but must be 0 (Store) or 8 (Deflate)", e.method)
	case e.method == methodStore && e.compressed != e.size:
		return nameLength, fmt.Errorf("the method is Store, and the sizes %d and %d differ", e.compressed, e.size)
	case e.method == methodDeflate && e.compressed >= e.size:
		return nameLength, fmt.Errorf("%d bytes are deflated to %d: they must become fewer, or be stored", e.size, e.compressed)
	case extra != 0:
		return nameLength, fmt.Errorf("the length of the extra field is %d, but must be 0", extra)
	}
	return nameLength, nil
}

// parseLocal parses a local header. ok is false if it is not whole, or not in the format of a segment.
func parseLocal(b []byte) (e entry, ok bool) {
	if len(b) < localLength || binary.LittleEndian.Uint32(b) != localSignature ||
		binary.LittleEndian.Uint16(b[4:]) != versionNeeded {
		return e, false
	}
	nameLength, err := e.parseCommon(b[6:])
	if err != nil || len(b) < localLength+nameLength {
		return e, false
	}
	e.name = string(b[localLength : localLength+nameLength])
	return e, true
}

// parseDirectory parses a header in the directory, and returns the rest of the directory.
func parseDirectory(b []byte) (e entry, rest []byte, err error) {
	le := binary.LittleEndian
	if len(b) < directoryLength || le.Uint32(b) != directorySignature {
		return e, nil, fmt.Errorf("the directory is damaged: the header of an entry must begin with its signature")
	}
	nameLength, err := e.parseCommon(b[8:])
	if len(b) < directoryLength+nameLength {
		return e, nil, fmt.Errorf("the directory is damaged: a name of %d bytes exceeds it", nameLength)
	}
	e.name = string(b[directoryLength : directoryLength+min(nameLength, maxName)])
	e.offset = le.Uint32(b[42:])
	version, comment, disk := le.Uint16(b[6:]), le.Uint16(b[32:]), le.Uint16(b[34:])
	switch {
	case err != nil:
	case nameLength > maxName:
		err = fmt.Errorf("the name has %d bytes, but at most %d are accepted", nameLength, maxName)
	case version != versionNeeded:
		err = fmt.Errorf("the version needed is %d, but must be %d", version, versionNeeded)
	case comment != 0:
		err = fmt.Errorf("the length of the comment is %d, but must be 0", comment)
	case disk != 0:
		err = fmt.Errorf("the disk is %d, but must be 0", disk)
	}
	return e, b[directoryLength+nameLength:], err
}

// appendEnd appends the end record.
func appendEnd(b []byte, entries int, directorySize, directoryOffset int64) []byte {
	le := binary.LittleEndian
	b = le.AppendUint32(b, endSignature)
	b = le.AppendUint32(b, 0) // disks
	b = le.AppendUint16(b, uint16(entries))
	b = le.AppendUint16(b, uint16(entries))
	b = le.AppendUint32(b, uint32(directorySize))
	b = le.AppendUint32(b, uint32(directoryOffset))
	return le.AppendUint16(b, 0) // length of the comment
}

// parseEnd parses the end record at the end of a segment of that size.
func parseEnd(b []byte, size int64) (entries int, directorySize, directoryOffset int64, err error) {
	le := binary.LittleEndian
	if le.Uint32(b) != endSignature || le.Uint16(b[20:]) != 0 {
		return 0, 0, 0, fmt.Errorf("it must end with the end record of a zip file without a comment")
	}
	if disks := le.Uint32(b[4:]); disks != 0 {
		return 0, 0, 0, fmt.Errorf("the end record has disks %#x, but must have none", disks)
	}
	entries = int(le.Uint16(b[10:]))
	if here := int(le.Uint16(b[8:])); here != entries {
		return 0, 0, 0, fmt.Errorf("the end record counts %d and %d entries, but the numbers must be equal", here, entries)
	}
	directorySize, directoryOffset = int64(le.Uint32(b[12:])), int64(le.Uint32(b[16:]))
	if directoryOffset+directorySize != size-endLength {
		return 0, 0, 0, fmt.Errorf("the end record has a directory of %d bytes at %d, but the directory must end at %d, "+
			"where the end record begins, without zip64 records", directorySize, directoryOffset, size-endLength)
	}
	return entries, directorySize, directoryOffset, nil
}

// dosTime returns a time as MS-DOS date and time in UTC, in the range of that format: the years 1980 to 2107.
func dosTime(t time.Time) uint32 {
	t = t.UTC()
	switch {
	case t.Year() < 1980:
		t = time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC)
	case t.Year() > 2107:
		t = time.Date(2107, 12, 31, 23, 59, 58, 0, time.UTC)
	}
	date := (t.Year()-1980)<<9 | int(t.Month())<<5 | t.Day()
	return uint32(date)<<16 | uint32(t.Hour()<<11|t.Minute()<<5|t.Second()/2)
}

// fromDOSTime returns the time of MS-DOS date and time in UTC.
func fromDOSTime(modified uint32) time.Time {
	date, clock := int(modified>>16), int(modified&0xffff)
	return time.Date(date>>9+1980, time.Month(date>>5&15), date&31, clock>>11, clock>>5&63, clock&31*2, 0, time.UTC)
}
