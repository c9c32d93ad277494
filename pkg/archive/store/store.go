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

// Package store keeps the segments of the archive, in a directory or in a bucket of an S3 server.
package store

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
)

// Errors of a Store, to be found with errors.Is.
var (
	// ErrExists is returned by Put for a key that exists.
	ErrExists = errors.New("the object exists")
	// ErrNotFound is returned for a key that does not exist.
	ErrNotFound = errors.New("the object does not exist")
	// ErrUnavailable is returned if the store cannot be used now. The message of the error has the reason.
	ErrUnavailable = errors.New("the store is not available")
)

// Object is a stored object.
type Object struct {
	Key  string
	Size int64
}

// Store keeps objects that never change. It is safe for concurrent use, by several processes too.
//
// A key has one or more parts of letters, digits and the characters "._-", separated by slashes. No part begins with a
// dot. No key is the folder of another one: "a" and "a/b" cannot both exist.
//
// An error is one of ErrExists, ErrNotFound, ErrUnavailable or the error of the context, or the caller has made a
// mistake. After ErrUnavailable or an error of the context, Put may have stored the object.
type Store interface {
	// Put stores an object. It returns ErrExists if the key exists, whatever is stored under it. After a connection was
	// lost, that can be what this very call has stored.
	Put(ctx context.Context, key string, body []byte) error
	// List returns the objects whose keys begin with a prefix, in the order of their keys. Other objects than those of
	// valid keys are left out.
	List(ctx context.Context, prefix string) ([]Object, error)
	// ReadAt reads at most length bytes from an offset. It returns fewer at the end of the object.
	ReadAt(ctx context.Context, key string, offset, length int64) ([]byte, error)
}

// Options name a store.
type Options struct {
	// URL is "file:///<directory>" or "s3://<bucket>/<prefix>". The prefix stands in front of each key, with a slash. It
	// may be empty.
	URL string
	// S3 is for URLs with the scheme s3 only.
	S3 S3Options
}

// New returns the store with these options. It does not connect to it. The store of a file URL is a *Directory, that of
// an s3 URL an *S3.
func New(options Options) (Store, error) {
	const accepted = "must be file:///<directory> or s3://<bucket>/<prefix>"
	parsed, err := url.Parse(options.URL)
	if err != nil {
		return nil, fmt.Errorf("the URL of the archive %s", accepted) // the error of Parse repeats a password
	}
	if parsed.User != nil || parsed.RawQuery != "" || parsed.Fragment != "" || parsed.Opaque != "" {
		return nil, fmt.Errorf("the URL of the archive %s, without user, query or fragment", accepted)
	}
	switch {
	case parsed.Scheme == "file" && parsed.Host == "" && filepath.IsAbs(parsed.Path):
		if options.S3 != (S3Options{}) {
			return nil, fmt.Errorf("the URL of the archive is %q: only s3://<bucket>/<prefix> has options of S3", options.URL)
		}
		return NewDirectory(parsed.Path), nil
	case parsed.Scheme == "s3" && parsed.Host != "":
		return NewS3(parsed.Host, strings.Trim(parsed.Path, "/"), options.S3)
	default:
		return nil, fmt.Errorf("the URL of the archive is %q: it %s", options.URL, accepted)
	}
}

const (
	// part is the pattern of one part of a key. A leading dot is for temporary files, and excludes "." and "..".
	part = `[A-Za-z0-9_-][A-Za-z0-9._-]*`
	// maxPart and maxKey are limits of file systems and of S3, in bytes.
	maxPart, maxKey = 255, 1024
)

var (
	validKey    = regexp.MustCompile(`^` + part + `(/` + part + `)*$`)
	validPrefix = regexp.MustCompile(`^(` + part + `/)*(` + part + `)?$`)
)

// checkKey returns an error if a key is not valid.
func checkKey(key string) error {
	if !isKey(key) {
		return fmt.Errorf("the key is %q: it must have at most %d bytes, and parts between slashes of 1 to %d letters, digits, "+
			"dots, underscores and hyphens, none with a leading dot", key, maxKey, maxPart)
	}
	return nil
}

func isKey(key string) bool {
	if len(key) > maxKey || !validKey.MatchString(key) {
		return false
	}
	for part := range strings.SplitSeq(key, "/") {
		if len(part) > maxPart {
			return false
		}
	}
	return true
}

// checkPrefix returns an error if no key can begin with a prefix.
func checkPrefix(prefix string) error {
	if prefix != "" && !validPrefix.MatchString(prefix) {
		return fmt.Errorf("the prefix is %q: it must be the beginning of a key, of letters, digits, dots, underscores, hyphens "+
			"and slashes", prefix)
	}
	return nil
}

// checkRange returns an error if a range to read is not valid.
func checkRange(offset, length int64) error {
	if offset < 0 || length <= 0 {
		return fmt.Errorf("the range is %d bytes from %d: the length must be positive and the offset must not be negative",
			length, offset)
	}
	return nil
}

// unavailable returns an ErrUnavailable with a reason.
func unavailable(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrUnavailable, fmt.Errorf(format, args...))
}
