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

package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"github.com/leat-dev/leat/test/kit/host"
)

// TestContract checks that all stores keep the promises of Store. Each case has its own store or its own prefix.
func TestContract(t *testing.T) {
	cases := []struct {
		name string
		test func(*testing.T, Store)
	}{
		{"an object is read as it was put", readsWhatWasPut},
		{"a second put changes nothing", refusesSecondPut},
		{"of concurrent puts of a key one wins", oneOfConcurrentPutsWins},
		{"a missing object is not found", findsNoMissingObject},
		{"ranges are read up to the end", readsRanges},
		{"listing follows the prefix, in order", listsPrefix},
		{"listing has thousands of objects", listsMany},
		{"a cancelled context ends each call", endsWithContext},
		{"invalid keys are refused", refusesInvalidKeys},
	}
	t.Run("Directory", func(t *testing.T) {
		for _, c := range cases {
			t.Run(c.name, func(t *testing.T) {
				c.test(t, newStore(t, Options{URL: "file://" + t.TempDir()}))
			})
		}
	})
	t.Run("S3", func(t *testing.T) {
		server := host.S3ForTest(t)
		for i, c := range cases {
			t.Run(c.name, func(t *testing.T) {
				c.test(t, newStore(t, Options{URL: fmt.Sprintf("s3://%s/case/%d/", server.Bucket, i), S3: options(server)}))
			})
		}
		t.Run("a prefix may be empty", func(t *testing.T) {
			readsWhatWasPut(t, newStore(t, Options{URL: "s3://" + server.Bucket, S3: options(server)}))
		})
	})
}

func TestNewRefusesWrongOptions(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	const urls = "must be file:///<directory> or s3://<bucket>/<prefix>"
	for _, c := range []struct {
		options Options
		want    string
	}{
		{Options{}, urls},
		{Options{URL: "/archive"}, urls},
		{Options{URL: "file:archive"}, urls},
		{Options{URL: "file://archive"}, urls},
		{Options{URL: "file://host/archive"}, urls},
		{Options{URL: "http://bucket"}, urls},
		{Options{URL: "s3://"}, urls},
		{Options{URL: "s3:///prefix"}, urls},
		{Options{URL: "s3://user:SECRET@bucket"}, urls},
		{Options{URL: "s3://user:SECRET@bucket/%zz"}, urls},
		{Options{URL: "s3://bucket?endpoint=x"}, urls},
		{Options{URL: "file:///archive", S3: S3Options{Region: "x"}}, "only s3://<bucket>/<prefix> has options of S3"},
		{Options{URL: "s3://Bucket"}, `the bucket is "Bucket": it must be`},
		{Options{URL: "s3://a"}, `the bucket is "a": it must be`},
		{Options{URL: "s3://bucket/a//b"}, `"a//b": it must have`},
		{Options{URL: "s3://bucket/.a"}, `".a": it must have`},
		{Options{URL: "s3://bucket", S3: S3Options{Endpoint: "host:9000"}}, "must be https://<host>[:<port>]"},
		{Options{URL: "s3://bucket", S3: S3Options{Endpoint: "ftp://host"}}, "must be https://<host>[:<port>]"},
		{Options{URL: "s3://bucket", S3: S3Options{Endpoint: "https://host/path"}}, "must be https://<host>[:<port>]"},
		{Options{URL: "s3://bucket", S3: S3Options{Endpoint: "https://user:SECRET@host"}}, "must be https://<host>[:<port>]"},
		{Options{URL: "s3://bucket", S3: S3Options{CAFile: "/does/not/exist"}}, "/does/not/exist"},
		{Options{URL: "s3://bucket", S3: S3Options{CAFile: file}}, "must have certificates in PEM"},
	} {
		_, err := New(c.options)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("New(%+v): %v, want an error with %q", c.options, err, c.want)
		}
	}
}

// Neither a missing volume nor a missing server or credentials file must stop the start of a process.
func TestNewDoesNotConnect(t *testing.T) {
	for _, options := range []Options{
		{URL: "file:///does/not/exist"},
		{URL: "s3://bucket"},
		{URL: "s3://bucket/some/prefix/", S3: S3Options{Endpoint: "http://127.0.0.1:1/", CredentialsFile: "/does/not/exist"}},
	} {
		newStore(t, options)
	}
}

func newStore(t *testing.T, options Options) Store {
	t.Helper()
	store, err := New(options)
	if err != nil {
		t.Fatal(err)
	}
	return store
}

// options returns those of an S3 server.
func options(server *host.S3) S3Options {
	return S3Options{Endpoint: server.Endpoint, CredentialsFile: server.CredentialsFile, CAFile: server.CAFile}
}

func mustPut(t *testing.T, store Store, key string, body []byte) {
	t.Helper()
	if err := store.Put(t.Context(), key, body); err != nil {
		t.Fatalf("Put(%s): %v", key, err)
	}
}

func wantBody(t *testing.T, store Store, key string, offset, length int64, want []byte) {
	t.Helper()
	got, err := store.ReadAt(t.Context(), key, offset, length)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("ReadAt(%s, %d, %d) = %d bytes, %v, want %d bytes", key, offset, length, len(got), err, len(want))
	}
}

func wantError(t *testing.T, call string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, want: %v", call, err, want)
	}
}

func readsWhatWasPut(t *testing.T, store Store) {
	large := make([]byte, 8<<20)
	for i := range large {
		large[i] = byte(i * i >> 8)
	}
	objects := map[string][]byte{
		"namespace/set/worker/1-1-0-99_200.zip": []byte("one"),
		"namespace/set/worker/1-2-0-99_200.zip": large,
		"empty":                                 {},
	}
	for _, key := range slices.Sorted(maps.Keys(objects)) {
		mustPut(t, store, key, objects[key])
	}
	for key, body := range objects {
		wantBody(t, store, key, 0, 9<<20, body)
	}
}

func refusesSecondPut(t *testing.T, store Store) {
	for i := range 3 { // the first puts of a store find out what the server can
		key := fmt.Sprint("a/", i)
		mustPut(t, store, key, []byte("first"))
		wantError(t, "second Put", store.Put(t.Context(), key, []byte("second")), ErrExists)
		wantError(t, "Put of the same", store.Put(t.Context(), key, []byte("first")), ErrExists)
		// A server may refuse it before it has read the body, and close the connection.
		wantError(t, "Put of a large object", store.Put(t.Context(), key, make([]byte, 8<<20)), ErrExists)
		wantBody(t, store, key, 0, 100, []byte("first"))
	}
}

func oneOfConcurrentPutsWins(t *testing.T, store Store) {
	const puts, keys = 8, 5
	for k := range keys {
		key := fmt.Sprint("new/directory/", k)
		var won atomic.Int32
		var winner atomic.Value
		var group errgroup.Group
		for i := range puts {
			body := bytes.Repeat([]byte{byte(i)}, 10_000)
			group.Go(func() error {
				err := store.Put(t.Context(), key, body)
				if err == nil {
					won.Add(1)
					winner.Store(body)
				} else if !errors.Is(err, ErrExists) {
					return err
				}
				return nil
			})
		}
		if err := group.Wait(); err != nil {
			t.Fatal(err)
		}
		if won.Load() != 1 {
			t.Fatalf("%d of %d puts of a key were successful, want 1", won.Load(), puts)
		}
		wantBody(t, store, key, 0, 20_000, winner.Load().([]byte))
	}
}

func findsNoMissingObject(t *testing.T, store Store) {
	mustPut(t, store, "a/b/c", []byte("c"))
	for _, key := range []string{"x", "a/x", "a/b/x", "x/y/z", "a", "a/b"} {
		_, err := store.ReadAt(t.Context(), key, 0, 10)
		wantError(t, "ReadAt of "+key, err, ErrNotFound)
	}
}

func readsRanges(t *testing.T, store Store) {
	mustPut(t, store, "object", []byte("0123456789"))
	for _, c := range []struct {
		offset, length int64
		want           string
	}{
		{0, 1, "0"}, {0, 10, "0123456789"}, {3, 4, "3456"}, {9, 1, "9"}, {8, 100, "89"}, {0, 1 << 40, "0123456789"},
		{10, 1, ""}, {11, 5, ""}, {1 << 40, 5, ""},
	} {
		wantBody(t, store, "object", c.offset, c.length, []byte(c.want))
	}
	for _, c := range []struct{ offset, length int64 }{{-1, 5}, {0, 0}, {0, -1}} {
		if _, err := store.ReadAt(t.Context(), "object", c.offset, c.length); err == nil {
			t.Errorf("ReadAt of %d bytes from %d succeeded, want an error", c.length, c.offset)
		}
	}
}

func listsPrefix(t *testing.T, store Store) {
	if objects, err := store.List(t.Context(), ""); err != nil || len(objects) != 0 {
		t.Errorf("List of an empty store = %v, %v", objects, err)
	}
	keys := []string{"a-b/1", "a.b/1", "a/1", "a/10", "a/2", "a/b/1", "a_b/1", "ab", "b/1"}
	for _, key := range slices.Backward(keys) {
		mustPut(t, store, key, []byte(key))
	}
	for _, prefix := range []string{"", "a", "a/", "a/1", "a/b", "a/b/", "a-", "ab", "a/1/", "b", "c", "c/d/"} {
		var want []Object
		for _, key := range keys {
			if strings.HasPrefix(key, prefix) {
				want = append(want, Object{Key: key, Size: int64(len(key))})
			}
		}
		got, err := store.List(t.Context(), prefix)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("List(%q): %v (- want, + got):\n%s", prefix, err, diff)
		}
	}
}

func listsMany(t *testing.T, store Store) {
	const count = 2500
	var want []Object
	var group errgroup.Group
	group.SetLimit(16)
	for i := range count {
		key := fmt.Sprintf("namespace/set/worker-%d/%04d.zip", i%2, i)
		want = append(want, Object{Key: key, Size: 1})
		group.Go(func() error { return store.Put(t.Context(), key, []byte("x")) })
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(want, func(a, b Object) int { return strings.Compare(a.Key, b.Key) })
	got, err := store.List(t.Context(), "namespace/set/")
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("List: %v (- want, + got):\n%s", err, diff)
	}
}

func endsWithContext(t *testing.T, store Store) {
	mustPut(t, store, "object", []byte("x"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	wantError(t, "Put", store.Put(ctx, "other", nil), context.Canceled)
	_, err := store.List(ctx, "")
	wantError(t, "List", err, context.Canceled)
	_, err = store.ReadAt(ctx, "object", 0, 1)
	wantError(t, "ReadAt", err, context.Canceled)
	_, err = store.ReadAt(t.Context(), "other", 0, 1)
	wantError(t, "ReadAt of what Put was cancelled for", err, ErrNotFound)
}

func refusesInvalidKeys(t *testing.T, store Store) {
	for _, key := range []string{
		"", ".", "..", "/", "/a", "a/", "a//b", "a/./b", "a/../b", "../a", "a/..", ".put-x", "a/.b", "a b", "a\\b", "ä", "a\x00b",
		"a\nb", "a%2fb", "a?b", strings.Repeat("a", 256), strings.Repeat("a/", 600) + "a",
	} {
		if err := store.Put(t.Context(), key, nil); err == nil || errors.Is(err, ErrUnavailable) {
			t.Errorf("Put(%q): %v, want an error about the key", key, err)
		}
		if _, err := store.ReadAt(t.Context(), key, 0, 1); err == nil || errors.Is(err, ErrUnavailable) {
			t.Errorf("ReadAt(%q): %v, want an error about the key", key, err)
		}
	}
	for _, prefix := range []string{"/", "/a", "a//", "../", "a/../", ".", "a/.", "a b", "*"} {
		if _, err := store.List(t.Context(), prefix); err == nil || errors.Is(err, ErrUnavailable) {
			t.Errorf("List(%q): %v, want an error about the prefix", prefix, err)
		}
	}
	if objects, err := store.List(t.Context(), ""); err != nil || len(objects) != 0 {
		t.Errorf("List after refused puts = %v, %v", objects, err)
	}
}
